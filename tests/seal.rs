//! End to end: messages signed, sealed and compressed by the program itself, through a broker of the same program.
#![cfg(feature = "daemon")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test waits for a condition, but not for ever")]

#[path = "support/raw.rs"]
mod raw;

use raw::{Raw, record_with};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tidegate::model::{Channel, MessageId, Properties, Property, Record, is_compressed, tag};
use tidegate::seal::{
    Algorithm, PublicKeys, Sealer, SealingKey, SealingKeys, SigningKey, compress, open, sign, verify,
};
use tidegate::wire::{Code, Contract, Deliver, DeliverItems, FrameType, Outcome};

const SECRET: &str = "the-vault-opens-at-noon";

/// A broker and a folder with keys: `signing`, `other` (not trusted), `trusted`, `sealing`, `stranger`.
struct World {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signing(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn sealing(n: u8) -> SealingKey {
    SealingKey::from_bytes(&[n; 32])
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let key = |name: &str, text: &str| {
            fs::write(at(name), text).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o600)).unwrap();
        };
        key("signing", &signing(1).to_text());
        key("other", &signing(2).to_text());
        key("sealing", &sealing(3).to_text());
        key("stranger", &sealing(4).to_text());
        key("ring", &format!("{}\n{} the old one\n", sealing(4).to_text().as_str(), sealing(3).to_text().as_str()));
        fs::write(at("trusted"), format!("# who may sign\n{} the boiler\n", signing(1).public())).unwrap();
        key("identities", &format!("key {} name=bell roles=open\n", signing(2).public()));
        let config = format!(
            "listen: {{tcp: [\"127.0.0.1:0\"]}}\nqueues: [{{name: main, capture: [\"#\"]}}]\n\
             auth: {{anonymous: [open], identities: {}}}\nsignatures: [{{channels: [\"alarm/#\"], keys: [\"{}\"]}}, \
             {{channels: [\"door/#\"], keys: [bell]}}]\nlog: {{level: warn}}\n",
            at("identities").display(),
            signing(1).public()
        );
        fs::write(at("config.yaml"), config).unwrap();
        let mut serve = tidegate(&["serve", "--config"]);
        serve.arg(at("config.yaml")).arg("--data").arg(at("data"));
        let child = serve.stderr(fs::File::create(at("log.txt")).unwrap()).spawn().unwrap();
        let world = Self { child, folder };
        let started = Instant::now();
        while !world.data().join("ready.json").exists() {
            assert!(started.elapsed() < Duration::from_secs(30), "it did not come in time");
            std::thread::yield_now();
        }
        world
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn key(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidegate(arguments);
        command.env("TIDEGATE_URL", format!("unix://{}", self.data().join("tidegate.sock").display()));
        command
    }

    /// Runs a command that must end with this code; what it printed, and what it told.
    #[track_caller]
    fn run(&self, code: i32, arguments: &[&str]) -> (String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert_eq!(status.code(), Some(code), "stdout: {out}\nstderr: {err}");
        (out, err)
    }

    fn raw(&self) -> Raw {
        let mut raw = Raw::unix(&self.data().join("tidegate.sock"));
        raw.hello(0);
        raw
    }

    /// Publishes a record as it stands, with an id of its own.
    fn publish(&self, raw: &mut Raw, number: u64, record: &Record<'_>) {
        let mut bytes = Vec::new();
        record.encode_to(&mut bytes);
        raw.publish(1, number, Contract::Queue, &bytes);
    }
}

fn tidegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_remove("TIDEGATE_URL").stdin(Stdio::null());
    command
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).filter(|p| p.is_file()).collect()
}

fn properties(of: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for &(tag, value) in of {
        let mut one = vec![0; value.len() + 10];
        let len = Properties::encode_one(Property { tag, value }, &mut one).unwrap();
        out.extend_from_slice(&one[..len]);
    }
    out
}

/// A record signed by a key, with the payload and properties it has.
fn signed(record: Record<'_>, key: &SigningKey, use_it: impl FnOnce(&Record<'_>)) {
    let signature = sign(&record, key).unwrap();
    let added = properties(&[(tag::SIGNATURE, &signature), (tag::SIGNER, &key.public().id().0)]);
    let all = [record.properties.as_bytes(), &added].concat();
    use_it(&Record { properties: Properties::parse(&all).unwrap(), ..record });
}

fn plain<'a>(channel: &'a str, payload: &'a [u8], n: u8) -> Record<'a> {
    Record {
        id: MessageId([n; 16]),
        time_ms: 1_763_726_400_000,
        ..Record::new(Channel::parse(channel).unwrap(), payload)
    }
}

/// The first record of the next delivery, as it came.
fn first_record(raw: &mut Raw) -> Vec<u8> {
    let got = raw.expect(FrameType::Deliver);
    let head: Deliver = got.head();
    let mut items = DeliverItems::parse(&got.payload, head.count, head.total).unwrap();
    items.next().unwrap().record.to_vec()
}

#[test]
fn what_is_signed_and_sealed_is_read_by_who_has_the_keys_and_the_store_keeps_only_the_seal() {
    let w = World::start();
    let (sign, seal, ring, trusted) = (w.key("signing"), w.key("sealing"), w.key("ring"), w.key("trusted"));
    for (n, algorithm) in ["chacha20-poly1305", "aes-256-gcm"].iter().enumerate() {
        let payload = format!("{SECRET}-{n}");
        w.run(0, &["pub", "alarm/a", &payload, "--sign", &sign, "--seal", &seal, "--algorithm", algorithm]);
    }
    let long = format!("{SECRET} ").repeat(200);
    w.run(0, &["pub", "alarm/a", &long, "--sign", &sign, "--seal", &seal, "--compress"]);
    w.run(0, &["pub", "config/a", SECRET, "--retain", "--sign", &sign, "--seal", &seal]);
    let read = ["consume", "main", "--as", "r", "--raw", "--count", "4", "--verify", &trusted, "--open", &ring];
    assert_eq!(w.run(0, &read).0, format!("{SECRET}-0\n{SECRET}-1\n{long}\n{SECRET}\n"));
    let retained = ["sub", "config/#", "--retained", "--count", "1", "--raw", "--verify", &trusted, "--open", &seal];
    assert_eq!(w.run(0, &retained).0, format!("{SECRET}\n"));
    // Without the key there is nothing to read, and nothing in the folder either.
    let shut = w.run(0, &["sub", "config/#", "--retained", "--count", "1", "--json"]).0;
    assert!(!shut.contains(SECRET) && shut.contains("base64"), "{shut}");
    let all = files(&w.data());
    assert!(all.iter().any(|path| path.ends_with("store.redb")));
    for path in all {
        let bytes = fs::read(&path).unwrap();
        let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "{} holds the plaintext", path.display());
    }
}

#[test]
fn forged_and_truncated_signatures_are_refused_by_the_broker_and_by_readers() {
    let w = World::start();
    let (_, told) = w.run(4, &["pub", "alarm/a", "on"]);
    assert!(told.contains("bad-signature"), "{told}");
    w.run(4, &["pub", "alarm/a", "on", "--sign", &w.key("other")]);
    let mut raw = w.raw();
    let key = signing(1);
    signed(plain("alarm/a", b"on", 1), &key, |good| {
        let mut forged = good.properties.as_bytes().to_vec();
        forged[10] ^= 1;
        w.publish(&mut raw, 1, &Record { properties: Properties::parse(&forged).unwrap(), ..*good });
        raw.expect_nack(1, 1, 1, Code::BadSignature);
        let short = good.properties.get(tag::SIGNATURE).unwrap();
        let short = properties(&[(tag::SIGNATURE, &short[..63]), (tag::SIGNER, &key.public().id().0)]);
        w.publish(&mut raw, 2, &Record { properties: Properties::parse(&short).unwrap(), ..*good });
        raw.expect_nack(1, 2, 1, Code::BadSignature);
        // Replayed on another channel, where the broker asks for a signature, and where it does not.
        w.publish(&mut raw, 3, &Record { channel: Channel::parse("alarm/b").unwrap(), ..*good });
        raw.expect_nack(1, 3, 1, Code::BadSignature);
        w.publish(&mut raw, 4, &Record { channel: Channel::parse("site/b").unwrap(), ..*good });
        raw.expect_ack(1, 4, 1, Outcome::Stored);
        w.publish(
            &mut raw,
            5,
            &Record { id: MessageId([2; 16]), payload: b"off", channel: Channel::parse("site/b").unwrap(), ..*good },
        );
        raw.expect_ack(1, 5, 1, Outcome::Stored);
    });
    w.run(0, &["pub", "site/b", "unsigned"]);
    w.run(0, &["pub", "site/b", "by another", "--sign", &w.key("other")]);
    w.run(0, &["pub", "site/b", "good", "--sign", &w.key("signing")]);
    let public = signing(1).public().to_string();
    let (out, told) = w.run(1, &["consume", "main", "--as", "r", "--raw", "--count", "1", "--verify", &public]);
    assert_eq!(out, "good\n");
    assert_eq!(told.lines().filter(|line| line.starts_with("refused: message")).count(), 4, "{told}");
    assert!(told.contains("4 messages were refused"), "{told}");
    // They can be looked at among the dead letters.
    let (dead, _) = w.run(0, &["consume", "$dead/main", "--as", "d", "--raw", "--count", "4"]);
    assert_eq!(dead.lines().count(), 4, "{dead}");
}

#[test]
fn sealed_payloads_with_flipped_bits_are_not_printed() {
    let w = World::start();
    let mut raw = w.raw();
    let sealer = Sealer::new(sealing(3), Algorithm::Aes256Gcm, [7; 16]);
    let mut number = 0;
    let mut publish = |record: &Record<'_>| {
        number += 1;
        w.publish(&mut raw, number, record);
        raw.expect_ack(1, number, 1, Outcome::Stored);
    };
    let stated = plain("site/a", SECRET.as_bytes(), 1);
    let sealed = sealer.seal(&stated, false).unwrap();
    let with = |property: &[u8]| properties(&[(tag::SEAL, property)]);
    let good = with(&sealed.property);
    let record = Record { properties: Properties::parse(&good).unwrap(), payload: &sealed.payload, ..stated };
    let mut bad = 0;
    for at in [0, sealed.payload.len() - 1] {
        let mut payload = sealed.payload.clone();
        payload[at] ^= 0x10;
        bad += 1;
        publish(&Record { payload: &payload, id: MessageId([10 + bad; 16]), ..record });
    }
    for at in [0, 1, 2, 33] {
        let mut property = sealed.property;
        property[at] ^= 1;
        let property = with(&property);
        bad += 1;
        publish(&Record { properties: Properties::parse(&property).unwrap(), id: MessageId([10 + bad; 16]), ..record });
    }
    publish(&Record { channel: Channel::parse("site/b").unwrap(), id: MessageId([9; 16]), ..record });
    publish(&Record { time_ms: 0, id: MessageId([8; 16]), ..record });
    publish(&record);
    let reader = ["consume", "main", "--as", "r", "--raw", "--count", "1", "--open", &w.key("sealing")];
    let (out, told) = w.run(1, &reader);
    assert_eq!(out, format!("{SECRET}\n"));
    assert!(told.contains("8 messages were refused"), "{told}");
    // Nor with another key.
    w.run(0, &["pub", "site/c", SECRET, "--seal", &w.key("sealing")]);
    let (out, told) =
        w.run(1, &["consume", "main", "--as", "r", "--raw", "--until-empty", "--open", &w.key("stranger")]);
    assert!(out.is_empty() && told.contains("not at hand"), "{out} {told}");
}

#[test]
fn compressed_messages_reach_old_readers_and_new_ones() {
    let w = World::start();
    let text = "all work and no play makes the box a dull box; ".repeat(60);
    w.run(0, &["pub", "alarm/a", &text, "--compress", "--sign", &w.key("signing")]);
    // An old reader: it said nothing of encodings.
    let mut old = w.raw();
    old.consume(5, "main", "old", 10);
    let delivered = first_record(&mut old);
    let record = Record::decode(&delivered).unwrap();
    assert!(!record.compressed && record.payload == text.as_bytes());
    let trusted: PublicKeys = [signing(1).public()].into_iter().collect();
    assert_eq!(verify(&record, &trusted), Ok(signing(1).public().id()), "the signature holds though it was expanded");
    let new = ["consume", "main", "--as", "new", "--raw", "--count", "1", "--verify", &w.key("trusted")];
    assert_eq!(w.run(0, &new).0, format!("{text}\n"));
    // It is stored as it came: short.
    let stored: Vec<u8> = files(&w.data()).iter().flat_map(|path| fs::read(path).unwrap()).collect();
    assert!(!stored.windows(200).any(|window| window == &text.as_bytes()[..200]));
    assert!(stored.windows(40).any(|window| window == &text.as_bytes()[..40]), "LZ4 keeps what comes first");
}

#[test]
fn a_compression_bomb_is_refused_and_the_broker_goes_on() {
    let w = World::start();
    let mut raw = w.raw();
    let bomb = compress(&vec![0; 16 << 20]).unwrap();
    assert!(bomb.len() < 70_000);
    let record = record_with("site/a", &bomb, |r| Record { compressed: true, ..r });
    assert!(is_compressed(&record));
    raw.publish(1, 1, Contract::Queue, &record);
    raw.expect_nack(1, 1, 1, Code::MessageTooLarge);
    let lie = [&b"\xff\xff\xff\xff\x0f"[..], &[0x1f; 300]].concat();
    raw.publish(1, 2, Contract::Queue, &record_with("site/a", &lie, |r| Record { compressed: true, ..r }));
    raw.expect_nack(1, 2, 1, Code::BadRecord);
    raw.publishes(1, 3, "site/a");
}

#[test]
fn keys_that_others_may_read_are_refused_and_never_told() {
    let w = World::start();
    let text = signing(1).to_text();
    fs::set_permissions(w.key("signing"), fs::Permissions::from_mode(0o640)).unwrap();
    let (_, told) = w.run(1, &["pub", "alarm/a", "on", "--sign", &w.key("signing")]);
    assert!(told.contains("chmod 600") && !told.contains(&text[16..]), "{told}");
    fs::set_permissions(w.key("sealing"), fs::Permissions::from_mode(0o604)).unwrap();
    w.run(1, &["pub", "site/a", "on", "--seal", &w.key("sealing")]);
    w.run(1, &["sub", "#", "--open", &w.key("sealing")]);
    // A key of another kind, and no file at all.
    let (_, told) = w.run(1, &["pub", "site/a", "on", "--sign", &w.key("other"), "--seal", &w.key("other")]);
    assert!(
        told.contains("line 1") && told.contains("`seal:`") && !told.contains(&signing(2).to_text()[16..]),
        "{told}"
    );
    w.run(1, &["sub", "#", "--verify", &w.key("nowhere")]);
    w.run(2, &["sub", "#", "--verify", "ed25519:AAAA"]);
}

#[test]
fn a_message_opens_by_the_library_as_by_the_program() {
    let w = World::start();
    w.run(0, &["pub", "site/a", SECRET, "--seal", &w.key("sealing"), "--sign", &w.key("signing")]);
    let mut raw = w.raw();
    raw.consume(5, "main", "lib", 10);
    let delivered = first_record(&mut raw);
    let record = Record::decode(&delivered).unwrap();
    let keys: SealingKeys = [sealing(3)].into_iter().collect();
    assert_eq!(open(&record, &keys, 1_000).as_deref(), Ok(SECRET.as_bytes()));
}

#[test]
fn a_rule_may_call_its_key_by_the_name_it_has_in_the_identities_file_and_follows_the_file() {
    let w = World::start();
    w.run(0, &["pub", "door/a", "rings", "--sign", &w.key("other")]);
    let (_, told) = w.run(4, &["pub", "door/a", "rings", "--sign", &w.key("signing")]);
    assert!(told.contains("bad-signature"), "{told}");
    fs::write(w.key("identities"), format!("key {} name=bell roles=open\n", signing(1).public())).unwrap();
    let started = Instant::now();
    while w.command(&["pub", "door/a", "rings", "--sign", &w.key("signing")]).output().unwrap().status.code() != Some(0)
    {
        assert!(started.elapsed() < Duration::from_secs(30), "the new key was not taken in time");
    }
    w.run(4, &["pub", "door/a", "rings", "--sign", &w.key("other")]);
}
