//! Channels that take only signed messages.

use super::world::{World, id, queue};
use crate::config::{QueueSettings, Settings, SignatureSettings, TenantSettings};
use crate::model::{Channel, ConnId, Properties, Property, Record, tag};
use crate::seal::{Algorithm, Sealer, SealingKey, SigningKey, compress, sign};
use crate::wire::{Code, Contract, Outcome, Publish, Since, Subscribe};

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn rule(channels: &[&str], keys: &[&SigningKey]) -> SignatureSettings {
    SignatureSettings {
        channels: channels.iter().map(|c| (*c).into()).collect(),
        keys: keys.iter().map(|k| k.public().to_string()).collect(),
        tenant: String::new(),
    }
}

fn settings(rules: Vec<SignatureSettings>) -> Settings {
    Settings { queues: vec![queue("main", "#")], signatures: rules, ..Settings::default() }
}

fn encoded(properties: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for &(tag, value) in properties {
        let mut one = vec![0; value.len() + 10];
        let len = Properties::encode_one(Property { tag, value }, &mut one).expect("fits");
        out.extend_from_slice(&one[..len]);
    }
    out
}

/// A message on a channel, signed.
fn signed(channel: &str, payload: &[u8], key: &SigningKey) -> Vec<u8> {
    signed_with(channel, payload, key, &[])
}

fn signed_with(channel: &str, payload: &[u8], key: &SigningKey, properties: &[u8]) -> Vec<u8> {
    let stated = Record {
        id: id(7),
        time_ms: 1_700_000_000_000,
        properties: Properties::parse(properties).expect("valid"),
        ..Record::new(Channel::parse(channel).expect("valid"), payload)
    };
    let signature = sign(&stated, key).expect("not compressed");
    let added = encoded(&[(tag::SIGNATURE, &signature), (tag::SIGNER, &key.public().id().0)]);
    let all = [properties, &added].concat();
    bytes(&Record { properties: Properties::parse(&all).expect("valid"), ..stated })
}

fn bytes(record: &Record<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    record.encode_to(&mut out);
    out
}

fn publish(w: &mut World, conn: ConnId, number: u64, record: &[u8]) -> Result<Outcome, Code> {
    let head = Publish { contract: Contract::Queue, number, total: record.len() as u32 };
    w.send(conn, 1, &head, record);
    let verdicts = w.verdicts(conn);
    assert_eq!((verdicts.len(), verdicts[0].0), (1, number), "{verdicts:?}");
    verdicts[0].1
}

#[test]
fn a_channel_with_a_rule_takes_only_what_one_of_its_keys_signed() {
    let mut w = World::with(settings(vec![rule(&["alarms/#"], &[&key(1), &key(2)])]));
    let c = w.connect();
    let good = signed("alarms/fire", b"on", &key(1));
    let record = Record::decode(&good).expect("a record");
    let mut flipped = record.properties.as_bytes().to_vec();
    flipped[2] ^= 1;
    let mut cut = encoded(&[(tag::SIGNATURE, &[5; 63])]);
    cut.extend_from_slice(&record.properties.as_bytes()[66..]);
    let with = |properties: &'static str, bytes: &[u8]| (properties, bytes.to_vec());
    let properties = |p: &[u8]| bytes(&Record { properties: Properties::parse(p).expect("valid"), ..record });
    let channel = Channel::parse("alarms/flood").expect("valid");
    let refused = [
        with("unsigned", &properties(&[])),
        with("a forged signature", &properties(&flipped)),
        with("a truncated signature", &properties(&cut)),
        with("a key that may not", &signed("alarms/fire", b"on", &key(3))),
        with("signed for another channel", &bytes(&Record { channel, ..record })),
        with("signed for another time", &bytes(&Record { time_ms: record.time_ms + 1, ..record })),
        with("signed under another id", &bytes(&Record { id: id(8), ..record })),
        with("another payload", &bytes(&Record { payload: b"off", ..record })),
    ];
    for (number, (what, record)) in (1..).zip(&refused) {
        assert_eq!(publish(&mut w, c, number, record), Err(Code::BadSignature), "{what}");
    }
    assert_eq!(w.broker.counters().refused[&Code::BadSignature], 8);
    assert_eq!(publish(&mut w, c, 9, &good), Ok(Outcome::Stored), "a refused message leaves no id");
    assert_eq!(publish(&mut w, c, 10, &good), Ok(Outcome::Duplicate));
    let stranger = properties(&[]);
    assert_eq!(publish(&mut w, c, 11, &stranger), Err(Code::BadSignature), "nor learns it what was published");
    // Elsewhere nothing is asked, and nothing checked.
    assert_eq!(publish(&mut w, c, 12, &signed("site/a", b"x", &key(3))), Ok(Outcome::Duplicate), "the same id");
    let elsewhere = bytes(&Record { id: id(9), channel: Channel::parse("site/a").expect("valid"), ..record });
    assert_eq!(publish(&mut w, c, 13, &elsewhere), Ok(Outcome::Stored));
}

#[test]
fn a_signature_holds_though_the_broker_expands_what_it_delivers() {
    let mut w = World::with(settings(vec![rule(&["#"], &[&key(1)])]));
    let (c, reader) = (w.connect(), w.connect());
    let hear =
        Subscribe { filter: "#", retained: false, since: Since::Now, respond: false, disconnect_when_slow: false };
    w.send(reader, 1, &hear, &[]);
    w.frames(reader);
    let text = "on and ".repeat(100);
    let plain = signed("alarms/fire", text.as_bytes(), &key(1));
    let record = Record::decode(&plain).expect("a record");
    let payload = compress(record.payload).expect("it repeats");
    let compressed = bytes(&Record { compressed: true, payload: &payload, ..record });
    assert_eq!(publish(&mut w, c, 1, &compressed), Ok(Outcome::Stored));
    assert_eq!(w.texts(reader).concat(), text);
    let other = compress(text.replace("on", "of").as_bytes()).expect("it repeats");
    let forged = bytes(&Record { compressed: true, payload: &other, id: id(8), ..record });
    assert_eq!(publish(&mut w, c, 2, &forged), Err(Code::BadSignature));
}

#[test]
fn what_is_sealed_is_verified_as_it_is_and_passes_untouched() {
    let mut w = World::with(settings(vec![rule(&["alarms/#"], &[&key(1)])]));
    let (c, reader) = (w.connect(), w.connect());
    w.consume(reader, 1, "main", "r");
    w.credit(reader, 1, 10);
    let sealer = Sealer::new(SealingKey::from_bytes(&[4; 32]), Algorithm::default(), [5; 16]);
    let plain = Record {
        id: id(7),
        time_ms: 1_700_000_000_000,
        ..Record::new(Channel::parse("alarms/fire").expect("valid"), b"a secret")
    };
    let sealed = sealer.seal(&plain, false).expect("not sealed yet");
    let record = signed_with("alarms/fire", &sealed.payload, &key(1), &encoded(&[(tag::SEAL, &sealed.property)]));
    assert_eq!(publish(&mut w, c, 1, &record), Ok(Outcome::Stored));
    let seen = w.frames(reader).pop().expect("a delivery");
    assert!(seen.payload.windows(record.len()).any(|w| w == record), "the same bytes");
}

#[test]
fn a_channel_of_several_rules_obeys_all_and_a_reload_changes_them() {
    let both = settings(vec![rule(&["#"], &[&key(1), &key(2)]), rule(&["cmd/#", "cmd/+"], &[&key(2), &key(3)])]);
    let mut w = World::with(both);
    let c = w.connect();
    let mut number = 0;
    let mut try_all = |w: &mut World, channel: &str| {
        [1, 2, 3].map(|n| {
            number += 1;
            let taken = publish(w, c, number, &signed(channel, &[n], &key(n)));
            w.pass(400_000);
            taken.is_ok()
        })
    };
    assert_eq!(try_all(&mut w, "site/a"), [true, true, false]);
    assert_eq!(try_all(&mut w, "cmd/a"), [false, true, false]);
    w.reload(settings(vec![rule(&["cmd/#"], &[&key(3)])]));
    assert_eq!(try_all(&mut w, "site/a"), [true, true, true]);
    assert_eq!(try_all(&mut w, "cmd/a"), [false, false, true]);
    w.reload(settings(vec![]));
    assert_eq!(try_all(&mut w, "cmd/a"), [true, true, true]);
    // A rule whose keys are none lets nobody in.
    let nobody = SignatureSettings { keys: vec!["of-the-boiler".into()], ..rule(&["cmd/#"], &[]) };
    w.reload(settings(vec![nobody]));
    assert_eq!(try_all(&mut w, "cmd/a"), [false, false, false]);
}

#[test]
fn a_tenants_rules_are_its_own() {
    let tenants = vec![TenantSettings { name: "acme".into(), ..TenantSettings::default() }];
    let rules = vec![SignatureSettings { tenant: "acme".into(), ..rule(&["#"], &[&key(1)]) }];
    let queues: Vec<QueueSettings> = vec![queue("main", "#")];
    let mut w = World::with(Settings { tenants, signatures: rules, queues, ..Settings::default() });
    let (own, acme) = (w.connect(), w.connect_to("acme"));
    let unsigned = bytes(&Record::new(Channel::parse("a").expect("valid"), b"x"));
    assert_eq!(publish(&mut w, own, 1, &unsigned), Ok(Outcome::Stored));
    assert_eq!(publish(&mut w, acme, 1, &unsigned), Err(Code::BadSignature));
    assert_eq!(publish(&mut w, acme, 2, &signed("a", b"x", &key(1))), Ok(Outcome::Stored));
}
