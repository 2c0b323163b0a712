//! The frozen bytes: one golden file for each frame type and each malformation, and the worked example of the page.
//!
//! `TIDEGATE_BLESS=1 cargo test --test golden` writes the files anew. A change in them is a change of the protocol.
#![cfg(feature = "daemon")]

#[path = "golden/bridge.rs"]
mod bridge;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tidegate::model::{Channel, Encoding, MessageId, Priority, Properties, Property, Record, limits, tag};
use tidegate::seal::{
    Algorithm, PublicKeys, SealError, Sealer, SealingKey, SealingKeys, SigningKey, expand_record, open, sign, verify,
};
use tidegate::wire::{
    AUTH_CONTEXT, AUTH_DATA_BYTES_MAX, AUTH_METHODS_MAX, Ack, AnyHead, Auth, Batch, BatchItems, Cancel, Close, Code,
    Consume, Contract, Credit, Decoded, Deliver, DeliverItem, DeliverItems, Done, Dropped, EXTENSION_AUTH_METHODS,
    ErrorHead, Extended, Extension, FLAG_CONT, FLAG_MORE, FilterItems, FrameType, Goaway, Head, Hello, History, Nack,
    Outcome, POSITIONS_BYTES_MAX, Pause, Ping, Pong, Publish, PublishAck, PublishNack, REAUTH_CONTEXT, Reauth, Report,
    Request, Response, Resume, SOURCE_RUNS_MAX, Since, Start, Subscribe, Unsubscribe, Welcome, append_filter,
    append_item, append_record, auth_method, decode, encode, encode_extended, encode_into, item_flag, parse_key,
    parse_password, seal,
};

/// What a reader that takes frame payloads up to the default limit must make of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// A frame with nothing wrong about it.
    Accepted,
    /// More bytes are needed: this many in all.
    Incomplete(usize),
    /// Refused with this code.
    Refused(Code),
}

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    expected: Expected,
    /// What is special about it.
    note: &'static str,
}

const ID: MessageId =
    MessageId([0x01, 0x93, 0x4E, 0x5A, 0x6B, 0x7C, 0x8D, 0x9E, 0xAF, 0xB0, 0xC1, 0xD2, 0xE3, 0xF4, 0x05, 0x16]);

fn channel(text: &str) -> Channel<'_> {
    Channel::parse(text).expect("a valid channel")
}

fn record_bytes(record: &Record<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode_to(&mut bytes);
    bytes
}

/// The record most files carry.
fn plain_record() -> Vec<u8> {
    record_bytes(&Record { id: ID, time_ms: 1_763_726_400_000, ..Record::new(channel("site/boiler/temp"), b"21.5") })
}

/// Properties of these tags and values, as they are encoded.
fn properties_bytes(properties: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(tag, value) in properties {
        let mut one = [0; 128];
        let n = Properties::encode_one(Property { tag, value }, &mut one).expect("fits");
        bytes.extend_from_slice(&one[..n]);
    }
    bytes
}

/// A record with every field set.
fn full_record() -> Vec<u8> {
    let properties = properties_bytes(&[
        (tag::USER, b"\x04unitC"),
        (tag::CONTENT_TYPE, b"text/plain"),
        (tag::HOPS, &[1]),
        (99, b"?"),
    ]);
    record_bytes(&Record {
        id: ID,
        priority: Priority::MAX,
        retain: true,
        time_ms: 1_763_726_400_000,
        ttl_ms: 60_000,
        delay_ms: 1_000,
        encoding: Encoding::Text,
        properties: Properties::parse(&properties).expect("well-formed"),
        ..Record::new(channel("site/boiler/temp"), b"21.5")
    })
}

/// Whose signatures the golden records bear: bytes that everybody knows.
fn golden_signing() -> SigningKey {
    SigningKey::from_seed(&std::array::from_fn(|i| i as u8))
}

/// What the golden records are sealed with.
fn golden_sealing() -> SealingKey {
    SealingKey::from_bytes(&std::array::from_fn(|i| 0x20 + i as u8))
}

/// A message as its publisher states it, with a property that a signature does not speak of; sealed, signed, or both.
fn end_to_end(payload: &[u8], seal: Option<Algorithm>, signed: bool) -> Vec<u8> {
    let mut properties = properties_bytes(&[(tag::CONTENT_TYPE, b"text/plain"), (tag::HOPS, &[1])]);
    let mut payload = payload.to_vec();
    fn message<'a>(properties: &'a [u8], payload: &'a [u8]) -> Record<'a> {
        Record {
            id: ID,
            time_ms: 1_763_726_400_000,
            encoding: Encoding::Text,
            properties: Properties::parse(properties).expect("well-formed"),
            ..Record::new(channel("site/boiler/temp"), payload)
        }
    }
    if let Some(algorithm) = seal {
        let sealer = Sealer::new(golden_sealing(), algorithm, std::array::from_fn(|i| 0x40 + i as u8));
        let sealed = sealer.seal(&message(&properties, &payload), false).expect("not sealed yet");
        properties.extend(properties_bytes(&[(tag::SEAL, &sealed.property)]));
        payload = sealed.payload;
    }
    if signed {
        let key = golden_signing();
        let signature = sign(&message(&properties, &payload), &key).expect("not compressed");
        properties.extend(properties_bytes(&[(tag::SIGNATURE, &signature), (tag::SIGNER, &key.public().id().0)]));
    }
    record_bytes(&message(&properties, &payload))
}

/// The payload of [`lz4`], expanded: `21.5 ` twenty times.
fn repeated() -> Vec<u8> {
    b"21.5 ".repeat(20)
}

/// The same compressed, announced as `len` bytes. By hand, since a compressor may do it otherwise tomorrow.
fn lz4(len: u8) -> Vec<u8> {
    // Five letters, then from five bytes back 4 + 15 + 71 more, then the last five, which LZ4 wants as letters.
    [&[len, 0x5F][..], b"21.5 ", &[5, 0, 71, 0x50], b"21.5 "].concat()
}

/// A record of which the payload alone is another, and compressed.
fn compressed(record: &[u8], payload: &[u8]) -> Vec<u8> {
    let record = Record::decode(record).expect("a record");
    record_bytes(&Record { compressed: true, payload, ..record })
}

fn frame<'h, H: Head<'h>>(stream: u32, sequence: u32, head: &H, payload: &[u8]) -> Vec<u8> {
    flagged(0, stream, sequence, head, payload)
}

fn flagged<'h, H: Head<'h>>(flags: u16, stream: u32, sequence: u32, head: &H, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; limits::HEADER_BYTES + limits::HEAD_BYTES_MAX + payload.len()];
    let n = encode(&mut bytes, flags, stream, sequence, head, payload).expect("encodes");
    bytes.truncate(n);
    bytes
}

/// A frame with these very bytes as its head, sealed.
fn raw_frame(kind: FrameType, flags: u16, head: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"TG".to_vec();
    bytes.extend_from_slice(&[1, kind as u8]);
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(head.len()).expect("a head's length fits").to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(payload.len()).expect("a payload's length fits").to_be_bytes());
    let of_session = matches!(kind, FrameType::Close | FrameType::Ping | FrameType::Auth | FrameType::Hello);
    bytes.extend_from_slice(&u32::from(!of_session).to_be_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(payload);
    seal(&mut bytes, 1);
    bytes
}

fn publish(record: &[u8]) -> Vec<u8> {
    let head = Publish { contract: Contract::Disk, number: 1, total: record.len() as u32 };
    frame(1, 1, &head, record)
}

fn hello_head() -> Hello<'static> {
    Hello {
        version_min: 1,
        version_max: 1,
        client: "sensor-7",
        heartbeat_ms: 5_000,
        frame_bytes_max: 131_072,
        message_bytes_max: 1_048_576,
    }
}

fn hello() -> Vec<u8> {
    frame(0, 0, &hello_head(), &[])
}

/// The head of [`hello`] alone.
fn postcard_hello() -> Vec<u8> {
    hello()[limits::HEADER_BYTES..].to_vec()
}

fn welcome_head() -> Welcome<'static> {
    Welcome {
        version: 1,
        server: "edge-1",
        session: 42,
        heartbeat_ms: 5_000,
        frame_bytes_max: 131_072,
        message_bytes_max: 1_048_576,
        window_messages: 1_024,
        window_bytes: 4_194_304,
        time_ms: 1_763_726_400_000,
    }
}

fn welcome() -> Vec<u8> {
    frame(0, 0, &welcome_head(), &[])
}

fn publish_ack() -> Vec<u8> {
    frame(1, 1, &PublishAck { first: 1, count: 1, outcome: Outcome::Stored }, &[])
}

/// One well-formed frame of each type.
fn every_type() -> Vec<(FrameType, Vec<u8>)> {
    let plain = plain_record();
    let mut batch = Vec::new();
    append_record(&mut batch, &plain);
    append_record(&mut batch, &full_record());
    let mut items = Vec::new();
    append_item(
        &mut items,
        &DeliverItem { flags: 0, lane: 0, seq: 7, offset: 0, attempt: 1, stored_ms: 1_763_726_400_050, record: &plain },
    );
    append_item(
        &mut items,
        &DeliverItem {
            flags: item_flag::REDELIVERED | item_flag::HAS_OFFSET,
            lane: 9,
            seq: 300,
            offset: 12,
            attempt: 2,
            stored_ms: 1_763_726_400_051,
            record: &full_record(),
        },
    );
    let mut filters = Vec::new();
    append_filter(&mut filters, "site/+/temp");
    append_filter(&mut filters, "alarm/#");
    let epoch = 0x0123_4567_89AB_CDEF;
    let deliver = Deliver { epoch, first_tag: 1, count: 2, total: items.len() as u32 };
    let consume = Consume {
        queue: "main",
        name: "uploader",
        start: Start::Time(1_763_726_400_000),
        window: 100,
        attempts_max: 5,
        ack_timeout_ms: 30_000,
        backoff_ms: 500,
        filters: 2,
        credit_messages: 1_000,
        credit_bytes: 1_048_576,
    };
    let subscribe = Subscribe {
        filter: "site/boiler/temp",
        retained: true,
        since: Since::Offset { epoch, offset: 11 },
        respond: false,
        disconnect_when_slow: true,
    };
    let properties = b"\x01\x10application/json";
    let request = Request { channel: "site/boiler/set", deadline_ms: 2_000, total: 10, properties };
    let response = Response { status: 0, last: true, total: 4, trailers: b"\x00\x06\x03tookms" };
    let error = ErrorHead { code: Code::UnknownQueue as u16, retry_after_ms: 0, detail: "no queue is called logs" };
    let report = Report { id: ID.0, state: 3, attempt: 1, time_ms: 1_763_726_401_000, detail: "250 OK" };
    let refused = PublishNack {
        first: 2,
        count: 3,
        code: Code::StorageFull as u16,
        retry_after_ms: 1_000,
        detail: "the disk is full",
    };
    vec![
        (FrameType::Hello, hello()),
        (FrameType::Welcome, welcome()),
        (FrameType::Auth, frame(0, 1, &Auth { method: 0, data: &[] }, &[])),
        (FrameType::Reauth, frame(0, 9, &Reauth { method: 1, data: b"token" }, &[])),
        (FrameType::Ok, frame(3, 2, &Done { epoch, value: 12, complete: true }, &[])),
        (FrameType::Error, frame(5, 3, &error, &[])),
        (FrameType::Close, frame(0, 10, &Close { code: 0, detail: "" }, &[])),
        (
            FrameType::Goaway,
            frame(0, 11, &Goaway { code: Code::ShuttingDown as u16, deadline_ms: 5_000, detail: "restarting" }, &[]),
        ),
        (FrameType::Publish, publish(&plain)),
        (FrameType::Batch, frame(1, 2, &Batch { contract: Contract::Queue, first: 2, count: 2 }, &batch)),
        (FrameType::PublishAck, publish_ack()),
        (FrameType::PublishNack, frame(1, 2, &refused, &[])),
        (FrameType::Subscribe, frame(3, 2, &subscribe, &[])),
        (FrameType::Unsubscribe, frame(3, 8, &Unsubscribe {}, &[])),
        (FrameType::Deliver, frame(5, 4, &deliver, &items)),
        (FrameType::Dropped, frame(3, 5, &Dropped { count: 17, bytes: 4_352, code: 110 }, &[])),
        (FrameType::Consume, frame(5, 3, &consume, &filters)),
        (FrameType::Ack, frame(5, 4, &Ack { first: 1, count: 2 }, &[])),
        (
            FrameType::Nack,
            frame(5, 5, &Nack { first: 3, count: 1, delay_ms: 250, give_up: false, reason: "upstream is down" }, &[]),
        ),
        (FrameType::Credit, frame(5, 6, &Credit { messages: 500, bytes: 524_288 }, &[])),
        (FrameType::Pause, frame(5, 7, &Pause { code: 0 }, &[])),
        (FrameType::Resume, frame(5, 8, &Resume {}, &[])),
        (
            FrameType::History,
            frame(7, 4, &History { channel: "site/boiler/temp", since: Since::Last(10), limit: 0 }, &[]),
        ),
        (FrameType::Request, frame(9, 5, &request, br#"{"set":20}"#)),
        (FrameType::Response, frame(9, 6, &response, b"done")),
        (FrameType::Cancel, frame(9, 7, &Cancel { code: Code::Cancelled as u16 }, &[])),
        (FrameType::Report, frame(11, 8, &report, &[])),
        (FrameType::Ping, frame(0, 12, &Ping { nonce: 0xFEED }, &[])),
        (FrameType::Pong, frame(0, 12, &Pong { nonce: 0xFEED }, &[])),
    ]
}

/// A record put together by hand, so that it may break rules.
fn forged_record(channel: &[u8], flags: u8, priority: u8, encoding: u8, properties: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    push_bytes(&mut bytes, channel);
    bytes.extend_from_slice(&[flags, priority, 0, 0, 0, encoding]);
    push_bytes(&mut bytes, properties);
    push_bytes(&mut bytes, b"x");
    bytes
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(bytes);
}

fn with_channel(channel: &[u8]) -> Vec<u8> {
    publish(&forged_record(channel, 0, 0, 0, &[]))
}

/// Frames that are unusual, and all that a peer may do wrong in one.
fn special() -> Vec<Case> {
    use Expected::{Accepted, Incomplete, Refused};
    let good = publish(&plain_record());
    let ping = frame(0, 1, &Ping { nonce: 1 }, &[]);
    let mut cases = Vec::new();
    let mut add = |name, bytes: Vec<u8>, expected, note| cases.push(Case { name, bytes, expected, note });

    // Legal, and easily got wrong.
    let big = record_bytes(&Record::new(channel("big"), &[b'x'; 20]));
    let head = Publish { contract: Contract::Disk, number: 2, total: big.len() as u32 };
    add("chunk-first", flagged(FLAG_MORE, 1, 1, &head, &big[..30]), Accepted, "first chunk of a record: FLAG_MORE");
    let mut last = vec![0; 64];
    let n = encode_into(&mut last, FrameType::Publish, FLAG_CONT, 1, None::<&Publish>, &big[30..]).expect("fits");
    last.truncate(n);
    seal(&mut last, 2);
    add("chunk-last", last, Accepted, "last chunk of the same record: FLAG_CONT, no head");
    add(
        "flag-high-unknown",
        flagged(0x8000, 0, 1, &Ping { nonce: 1 }, &[]),
        Accepted,
        "an unknown high flag is ignored",
    );
    let mut extended = vec![0; 64];
    let extensions = [Extension { tag: 1_000, value: b"new" }, Extension { tag: 7, value: b"" }];
    let with_extensions = Extended { head: Ping { nonce: 1 }, extensions: &extensions };
    let n = encode_extended(&mut extended, 0, 0, 1, &with_extensions, &[]).expect("fits");
    extended.truncate(n);
    add("extension-unknown", extended, Accepted, "unknown extensions behind the head are skipped");
    add(
        "varint-longer-than-needed",
        raw_frame(FrameType::Ping, 0, &[0x81, 0x80, 0x00], &[]),
        Accepted,
        "1 in three bytes",
    );
    let methods = [Extension { tag: EXTENSION_AUTH_METHODS, value: &[auth_method::KEY, auth_method::TOKEN] }];
    let mut hello_methods = vec![0; 64];
    let n = encode_extended(&mut hello_methods, 0, 0, 0, &Extended { head: hello_head(), extensions: &methods }, &[]);
    hello_methods.truncate(n.expect("fits"));
    add("hello-auth-methods", hello_methods, Accepted, "extension 1: a key, else a token");
    let key = [&[0x11; 32][..], &[0x22; 64]].concat();
    let auth = |method, data: &[u8]| frame(0, 1, &Auth { method, data }, &[]);
    add("auth-challenge-key", auth(auth_method::KEY, &[0x33; 32]), Accepted, "from the broker: 32 bytes to sign");
    add("auth-key", auth(auth_method::KEY, &key), Accepted, "the answer: 32 bytes of a key, 64 of its signature");
    add("auth-token", auth(auth_method::TOKEN, b"e30.e30.c2ln"), Accepted, "a token");
    add("auth-password", auth(auth_method::PASSWORD, b"\x03ada\x06secret"), Accepted, "a name and a password");
    add("auth-transport", auth(auth_method::TRANSPORT, b""), Accepted, "what the transport tells");
    let longest = vec![b't'; AUTH_DATA_BYTES_MAX];
    add("auth-token-longest", auth(auth_method::TOKEN, &longest), Accepted, "the longest token");
    let reauth = frame(0, 9, &Reauth { method: auth_method::KEY, data: &key }, &[]);
    add("reauth-key", reauth, Accepted, "a key in place");
    add("record-full", publish(&full_record()), Accepted, "a record with every field and four properties");
    add("consume-no-filters", consume_frame(0, &[]), Accepted, "no filter: everything in the queue");

    // Section 23. What is wrong with the last three, a receiver finds in a frame that is well-formed.
    let signed = end_to_end(b"21.5", None, true);
    let sealed = end_to_end(b"21.5", Some(Algorithm::ChaCha20Poly1305), false);
    let plain = end_to_end(&repeated(), None, false);
    let packed = compressed(&end_to_end(&repeated(), None, true), &lz4(100));
    let aes = end_to_end(b"21.5", Some(Algorithm::Aes256Gcm), false);
    let both = end_to_end(b"21.5", Some(Algorithm::ChaCha20Poly1305), true);
    add("record-signed", publish(&signed), Accepted, "a signed record");
    add("record-sealed", publish(&sealed), Accepted, "a sealed record, by ChaCha20-Poly1305");
    add("record-sealed-aes", publish(&aes), Accepted, "a sealed record, by AES-256-GCM");
    add("record-sealed-signed", publish(&both), Accepted, "sealed, then signed");
    add("record-compressed", publish(&compressed(&plain, &lz4(100))), Accepted, "a compressed record of 100 bytes");
    add("record-signed-compressed", publish(&packed), Accepted, "signed, then compressed");
    add(
        "record-signed-forged",
        publish(&last_flipped(&signed)),
        Accepted,
        "signed, then one bit of the payload flipped",
    );
    add("record-sealed-flipped", publish(&last_flipped(&sealed)), Accepted, "sealed, then one bit of its tag flipped");
    add("record-compressed-lies", publish(&compressed(&plain, &lz4(99))), Accepted, "99 announced, 100 there");

    // The header.
    add("bad-truncated-header", good[..10].to_vec(), Incomplete(24), "ends within the header");
    add("bad-truncated-body", good[..good.len() - 1].to_vec(), Incomplete(good.len()), "its last byte is missing");
    let mut oversized = good[..24].to_vec();
    oversized[8..12].copy_from_slice(&(limits::FRAME_PAYLOAD_BYTES_MAX + 1).to_be_bytes());
    add("bad-payload-oversized", oversized, Refused(Code::FrameTooLarge), "refused from the header alone");
    add("bad-magic", edited(&good, |b| b[1] = b'H'), Refused(Code::BadMagic), "begins with TH");
    add("bad-magic-two-bytes", b"GE".to_vec(), Refused(Code::BadMagic), "a stranger is known by two bytes");
    add("bad-version", edited(&good, |b| b[2] = 2), Refused(Code::BadVersion), "version 2");
    add("bad-type", edited(&good, |b| b[3] = 0x7F), Refused(Code::UnknownType), "type 0x7f");
    add("bad-flag-low-unknown", edited(&good, |b| b[5] = 4), Refused(Code::UnsupportedFlag), "low flag 0x0004");
    add("bad-more-on-ping", edited(&ping, |b| b[5] = 1), Refused(Code::FlagsContradict), "a ping has no chunks");
    add(
        "bad-cont-with-head",
        edited(&good, |b| b[5] = 2),
        Refused(Code::FlagsContradict),
        "a continuation has no head",
    );
    add(
        "bad-head-too-large",
        edited(&good[..24], |b| b[6..8].copy_from_slice(&4_097u16.to_be_bytes())),
        Refused(Code::BadHead),
        "4,097 bytes, refused from the header alone",
    );
    let mut damaged = good.clone();
    *damaged.last_mut().expect("not empty") ^= 1;
    add("bad-crc", damaged, Refused(Code::BadCrc), "one bit of the payload is flipped");

    // The head.
    add("bad-head-short", raw_frame(FrameType::Ack, 0, &[1], &[]), Refused(Code::BadHead), "the count is missing");
    add(
        "bad-head-length-lies",
        raw_frame(FrameType::Close, 0, &[0, 200, 1, b'b', b'y', b'e'], &[]),
        Refused(Code::BadHead),
        "a text of 200 bytes of which 3 are there",
    );
    let mut swallowed = good.clone();
    swallowed[7] += 2;
    swallowed[11] -= 2;
    seal(&mut swallowed, 1);
    add(
        "bad-head-swallows-payload",
        swallowed,
        Refused(Code::BadHead),
        "the head's length takes two bytes of the payload",
    );
    add(
        "bad-head-trailing",
        raw_frame(FrameType::Ping, 0, &[1, 7, 9, b'x'], &[]),
        Refused(Code::BadHead),
        "what follows the head is no extension",
    );
    add(
        "bad-head-utf8",
        raw_frame(FrameType::Subscribe, 0, &[2, b'a', 0xFF, 0, 0, 0, 0], &[]),
        Refused(Code::BadHead),
        "a filter that is not UTF-8",
    );
    add(
        "bad-auth-length-lies",
        raw_frame(FrameType::Auth, 0, &[1, 200, 1, b'e', b'3', b'0'], &[]),
        Refused(Code::BadHead),
        "a token of 200 bytes of which 3 are there",
    );
    add(
        "bad-auth-too-large",
        edited(&raw_frame(FrameType::Auth, 0, &[1], &[]), |b| b[6..8].copy_from_slice(&4_097u16.to_be_bytes()))[..24]
            .to_vec(),
        Refused(Code::BadHead),
        "a token one byte too long, refused from the header alone",
    );
    let mut lies = postcard_hello();
    lies.extend_from_slice(&[1, 3, 3]);
    add(
        "bad-hello-methods-length-lies",
        raw_frame(FrameType::Hello, 0, &lies, &[]),
        Refused(Code::BadHead),
        "three methods announced, one there",
    );
    add("bad-head-bool", raw_frame(FrameType::Ok, 0, &[0, 0, 2], &[]), Refused(Code::BadHead), "a bool of 2");
    add("bad-head-enum", raw_frame(FrameType::Publish, 0, &[4, 1, 0], &[]), Refused(Code::BadHead), "contract 4");
    add(
        "bad-head-varint-too-large",
        raw_frame(FrameType::Pause, 0, &[0x80, 0x80, 0x04], &[]),
        Refused(Code::BadHead),
        "65,536 in a u16",
    );

    // The payload against its head.
    let item = record_item();
    let total = item.len() as u32;
    let mut two = Vec::new();
    append_record(&mut two, &plain_record());
    append_record(&mut two, &plain_record());
    let batch = |count, payload: &[u8]| frame(1, 1, &Batch { contract: Contract::Disk, first: 1, count }, payload);
    add("bad-batch-count-high", batch(3, &two), Refused(Code::BadPayload), "three announced, two there");
    add("bad-batch-count-low", batch(1, &two), Refused(Code::BadPayload), "one announced, two there");
    add("bad-batch-empty", batch(0, &[]), Refused(Code::BadPayload), "a batch of none");
    add(
        "bad-batch-length-lies",
        batch(1, &[5, b'a']),
        Refused(Code::BadPayload),
        "a record of 5 bytes of which 1 is there",
    );
    let deliver =
        |count, total, payload: &[u8]| frame(5, 1, &Deliver { epoch: 1, first_tag: 1, count, total }, payload);
    add("bad-deliver-count", deliver(2, total, &item), Refused(Code::BadPayload), "two announced, one there");
    add("bad-deliver-total", deliver(1, total + 1, &item), Refused(Code::BadPayload), "the total is one too many");
    add(
        "bad-consume-filters",
        consume_frame(2, b"\x01#"),
        Refused(Code::BadPayload),
        "two filters announced, one there",
    );
    add("bad-consume-utf8", consume_frame(1, b"\x01\xFF"), Refused(Code::BadPayload), "a filter that is not UTF-8");
    let head = Publish { contract: Contract::Disk, number: 1, total: 5 };
    add(
        "bad-publish-total",
        frame(1, 1, &head, b"four"),
        Refused(Code::BadPayload),
        "5 bytes announced, 4 there, no FLAG_MORE",
    );

    // The record. Its frame is well-formed: a publish-nack, not the end of the connection.
    let slashes = [b'/'; 128];
    add("bad-channel-empty", with_channel(b""), Refused(Code::BadChannel), "no byte long");
    add("bad-channel-plus", with_channel(b"a/+"), Refused(Code::BadChannel), "a wildcard");
    add("bad-channel-hash", with_channel(b"a/#"), Refused(Code::BadChannel), "a wildcard");
    add("bad-channel-nul", with_channel(b"a\0b"), Refused(Code::BadChannel), "U+0000");
    add("bad-channel-129-levels", with_channel(&slashes), Refused(Code::BadChannel), "128 slashes");
    add("channel-128-levels", with_channel(&slashes[1..]), Accepted, "127 slashes");
    add("bad-channel-1025-bytes", with_channel(&[b'c'; 1_025]), Refused(Code::BadChannel), "one byte too long");
    add("channel-1024-bytes", with_channel(&[b'c'; 1_024]), Accepted, "the longest channel");
    add("bad-channel-utf8", with_channel(b"a/\xC3\x28"), Refused(Code::BadRecord), "not UTF-8");
    add("bad-record-priority", publish(&forged_record(b"a", 0, 10, 0, &[])), Refused(Code::BadRecord), "priority 10");
    add(
        "bad-record-flags",
        publish(&forged_record(b"a", 4, 0, 0, &[])),
        Refused(Code::BadRecord),
        "unknown record flag",
    );
    add("bad-record-encoding", publish(&forged_record(b"a", 0, 0, 5, &[])), Refused(Code::BadRecord), "encoding 5");
    add(
        "bad-record-property-length",
        publish(&forged_record(b"a", 0, 0, 0, &[1, 9, b'x'])),
        Refused(Code::BadRecord),
        "a property of 9 bytes of which 1 is there",
    );
    let many = [1u8, 0].repeat(limits::PROPERTIES_MAX + 1);
    add(
        "bad-record-65-properties",
        publish(&forged_record(b"a", 0, 0, 0, &many)),
        Refused(Code::BadRecord),
        "one too many",
    );
    let mut huge = vec![1];
    push_bytes(&mut huge, &[0; limits::PROPERTIES_BYTES_MAX]);
    add(
        "bad-record-properties-long",
        publish(&forged_record(b"a", 0, 0, 0, &huge)),
        Refused(Code::BadRecord),
        "over 8 KiB",
    );
    let mut lying = forged_record(b"a", 0, 0, 0, &[]);
    let payload_len = lying.len() - 2;
    lying[payload_len] = 9;
    add(
        "bad-record-length-lies",
        publish(&lying),
        Refused(Code::BadRecord),
        "a payload of 9 bytes of which 1 is there",
    );
    let mut trailing = plain_record();
    trailing.push(0);
    add("bad-record-trailing", publish(&trailing), Refused(Code::BadRecord), "a byte after the payload");
    add("bad-record-empty", publish(&[]), Refused(Code::BadRecord), "no record at all");
    cases
}

fn last_flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    *bytes.last_mut().expect("not empty") ^= 1;
    bytes
}

fn record_item() -> Vec<u8> {
    let mut item = Vec::new();
    let record = &plain_record();
    append_item(&mut item, &DeliverItem { flags: 0, lane: 0, seq: 1, offset: 0, attempt: 1, stored_ms: 1, record });
    item
}

fn consume_frame(filters: u32, payload: &[u8]) -> Vec<u8> {
    let head = Consume {
        queue: "main",
        name: "c",
        start: Start::First,
        window: 0,
        attempts_max: 0,
        ack_timeout_ms: 0,
        backoff_ms: 0,
        filters,
        credit_messages: 1,
        credit_bytes: 1,
    };
    frame(5, 1, &head, payload)
}

/// A change to the header, with a checksum that fits, so that nothing but the change is wrong.
fn edited(bytes: &[u8], edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    edit(&mut bytes);
    let sequence = u32::from_be_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
    seal(&mut bytes, sequence);
    bytes
}

/// Reads a file to the bottom, as a receiver does, and says in words what it found.
fn read(bytes: &[u8]) -> (Expected, String) {
    match read_or_code(bytes) {
        Ok(text) => (Expected::Accepted, text),
        Err(Ok(needed)) => (Expected::Incomplete(needed), format!("incomplete: {needed} bytes are needed")),
        Err(Err(code)) => (Expected::Refused(code), format!("error {} `{code}`", code as u16)),
    }
}

fn read_or_code(bytes: &[u8]) -> Result<String, Result<usize, Code>> {
    let refuse = |e: tidegate::wire::WireError| Err(e.code());
    let frame = match decode(bytes, limits::FRAME_PAYLOAD_BYTES_DEFAULT).map_err(refuse)? {
        Decoded::Incomplete(needed) => return Err(Ok(needed)),
        Decoded::Frame(frame, len) => {
            assert_eq!(len, bytes.len(), "one frame a file");
            frame
        }
    };
    let h = frame.header;
    let mut text = format!("{}, stream {}, sequence {}", h.kind.name(), h.stream, h.sequence);
    if h.flags != 0 {
        let _ = write!(text, ", flags {:#06x}", h.flags);
    }
    let chunk = h.flags & (FLAG_MORE | FLAG_CONT) != 0;
    let Some(head) = frame.any_head().map_err(refuse)? else {
        let _ = write!(text, ": {} more bytes", frame.payload.len());
        return Ok(text);
    };
    let _ = write!(text, ": `{head:?}`");
    text.push_str(&bridge::said(&frame, &head).map_err(Err)?);
    let mut describe = |bytes: &[u8]| match Record::decode(bytes) {
        Ok(r) => {
            let properties: Vec<u32> = r.properties.iter().map(|p| p.tag).collect();
            let _ = write!(
                text,
                ", record `{:.40}` {:?} priority {} retain {} time {} ttl {} delay {} {:?} properties {properties:?} payload {}",
                r.channel.as_str(),
                r.id,
                r.priority.get(),
                r.retain,
                r.time_ms,
                r.ttl_ms,
                r.delay_ms,
                r.encoding,
                std::str::from_utf8(r.payload).map_or_else(|_| hex(r.payload), |payload| format!("{payload:?}")),
            );
            text.push_str(&undone(bytes));
            Ok(())
        }
        Err(e) => Err(Err(Code::from(e))),
    };
    match head {
        AnyHead::Publish(head) if !chunk => describe(frame.unchunked(head.total).map_err(refuse)?)?,
        AnyHead::Batch(head) => {
            let payload = bridge::expanded(&frame).map_err(Err)?;
            BatchItems::parse(&payload, head.count).map_err(refuse)?.try_for_each(describe)?;
        }
        AnyHead::Deliver(head) if !chunk => {
            for item in DeliverItems::parse(frame.payload, head.count, head.total).map_err(refuse)? {
                describe(item.record)?;
            }
        }
        AnyHead::Consume(head) => {
            let filters: Vec<&str> = FilterItems::parse(frame.payload, head.filters).map_err(refuse)?.collect();
            let _ = write!(text, ", filters {filters:?}");
        }
        _ if !frame.payload.is_empty() => {
            let _ = write!(text, ", payload {:?}", String::from_utf8_lossy(frame.payload));
        }
        _ => {}
    }
    Ok(text)
}

/// What a reader with the golden keys makes of a record that is compressed, signed or sealed, as the page tells it to.
fn undone(bytes: &[u8]) -> String {
    let public: PublicKeys = [golden_signing().public()].into_iter().collect();
    let sealing: SealingKeys = [golden_sealing()].into_iter().collect();
    let mut text = String::new();
    let expanded = match expand_record(bytes, limits::MESSAGE_BYTES_DEFAULT as usize) {
        Ok(expanded) => expanded,
        Err(e) => return format!(", compressed, which does not expand: {e}"),
    };
    let record = Record::decode(expanded.as_deref().unwrap_or(bytes)).expect("it was decoded before");
    if expanded.is_some() {
        let _ = write!(text, ", expanded {:?}", String::from_utf8_lossy(record.payload));
    }
    match verify(&record, &public) {
        Ok(id) => drop(write!(text, ", signed by {id}")),
        Err(SealError::Unsigned) => {}
        Err(e) => drop(write!(text, ", signed, which does not hold: {e}")),
    }
    match open(&record, &sealing, limits::MESSAGE_BYTES_DEFAULT as usize) {
        Ok(payload) => drop(write!(text, ", sealed payload {:?}", String::from_utf8_lossy(&payload))),
        Err(SealError::NotSealed) => {}
        Err(e) => drop(write!(text, ", sealed, which does not open: {e}")),
    }
    text
}

fn all() -> Vec<Case> {
    let mut cases: Vec<Case> = every_type()
        .into_iter()
        .map(|(kind, bytes)| Case { name: kind.name(), bytes, expected: Expected::Accepted, note: "" })
        .collect();
    cases.extend(special());
    cases.extend(bridge::cases());
    cases
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/golden")
}

fn blessing() -> bool {
    std::env::var_os("TIDEGATE_BLESS").is_some()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn index(cases: &[Case]) -> String {
    let mut text = String::from(
        "# Golden frames\n\nOne file for each frame type, then frames that are legal and easily got wrong, then one for \
         each malformation. A\nreader that takes payloads up to 131,072 bytes must make of each exactly what stands \
         here. The bytes are frozen for\nversion 1; the page that explains them is `../frame.md`. Written by \
         `TIDEGATE_BLESS=1 cargo test --test golden`, checked\nby `cargo test --test golden`.\n\nSigned records (section 23) are those of the seed 00 01 … 1f, sealed ones of \
         the sealing key 20 21 … 3f with the salt\n40 41 … 4f and count 0: keys for tests only.\n\n| file | bytes | hex | \
         what a reader makes of it |\n| --- | ---: | --- | --- |\n",
    );
    for case in cases {
        let (_, mut found) = read(&case.bytes);
        if !case.note.is_empty() {
            found = format!("{}: {found}", case.note);
        }
        let hex = if case.bytes.len() <= 200 {
            hex(&case.bytes)
        } else {
            format!("{}… (see the file)", hex(&case.bytes[..32]))
        };
        let found = found.replace('|', "\\|").replace(&"c".repeat(40), "ccc…");
        let _ = writeln!(text, "| `{}.bin` | {} | `{hex}` | {found} |", case.name, case.bytes.len());
    }
    text
}

#[test]
fn every_type_has_exactly_one_golden_frame() {
    let kinds: Vec<FrameType> = every_type().iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, FrameType::ALL);
    for (kind, bytes) in every_type() {
        assert_eq!(bytes[3], kind as u8, "{}", kind.name());
    }
}

#[test]
fn every_case_reads_as_announced() {
    for case in all() {
        assert_eq!(read(&case.bytes).0, case.expected, "{}: {}", case.name, case.note);
    }
}

/// The data of the methods, which the codec does not look into.
#[test]
fn credentials_are_laid_out_as_the_page_says() {
    let key = [&[0x11; 32][..], &[0x22; 64]].concat();
    assert_eq!(parse_key(&key), Ok((&[0x11; 32], &[0x22; 64])));
    assert_eq!(parse_password(b"\x03ada\x06secret"), Ok((&b"ada"[..], &b"secret"[..])));
    let page = std::fs::read_to_string(folder().join("../frame.md")).expect("proto/frame.md");
    for (context, name) in [(AUTH_CONTEXT, "tidegate auth v1"), (REAUTH_CONTEXT, "tidegate reauth v1")] {
        assert_eq!(context, [name.as_bytes(), &[0]].concat());
        assert!(page.contains(&format!("the {} bytes `{name}` U+0000", context.len())), "{name}");
    }
}

/// Those that are whole say what was published; those that were tampered with do not.
#[test]
fn golden_records_verify_open_and_expand_with_the_golden_keys() {
    let found = |name: &str| {
        let case = all().into_iter().find(|case| case.name == name).expect("a golden file");
        read(&case.bytes).1
    };
    let signer = format!(", signed by {}", golden_signing().public().id());
    let sealed = ", sealed payload \"21.5\"";
    let expanded = format!(", expanded {:?}", String::from_utf8_lossy(&repeated()));
    for (name, end) in [
        ("record-signed", signer.clone()),
        ("record-sealed", sealed.to_owned()),
        ("record-sealed-aes", sealed.to_owned()),
        ("record-sealed-signed", format!("{signer}{sealed}")),
        ("record-compressed", expanded.clone()),
        ("record-signed-compressed", format!("{expanded}{signer}")),
    ] {
        assert!(found(name).ends_with(&end), "{name}: {}", found(name));
    }
    for (name, fault) in [
        ("record-signed-forged", ", signed, which does not hold: "),
        ("record-sealed-flipped", ", sealed, which does not open: "),
        ("record-compressed-lies", ", compressed, which does not expand: "),
    ] {
        assert!(found(name).contains(fault), "{name}: {}", found(name));
    }
}

/// Every refusal that bytes alone can cause has a file.
#[test]
fn every_error_of_the_bytes_is_covered() {
    let refused: BTreeSet<Code> = all()
        .iter()
        .filter_map(|c| match c.expected {
            Expected::Refused(code) => Some(code),
            _ => None,
        })
        .collect();
    // A sequence and a timeout need more than one frame; see tests/ of the session.
    let of_bytes = Code::ALL.iter().copied().filter(|c| (1..100).contains(&(*c as u16)));
    let expected: BTreeSet<Code> = of_bytes
        .filter(|c| !matches!(c, Code::BadSequence | Code::FrameTimeout))
        .chain([Code::BadName, Code::BadChannel, Code::BadRecord])
        .collect();
    assert_eq!(refused, expected);
}

#[test]
fn the_files_are_what_the_encoder_writes() {
    let cases = all();
    let names: BTreeSet<String> = cases.iter().map(|c| format!("{}.bin", c.name)).collect();
    assert_eq!(names.len(), cases.len(), "each name once");
    if blessing() {
        std::fs::create_dir_all(folder()).expect("folder");
        for case in &cases {
            std::fs::write(folder().join(format!("{}.bin", case.name)), &case.bytes).expect("written");
        }
        std::fs::write(folder().join("README.md"), index(&cases)).expect("written");
    }
    for case in &cases {
        let path = folder().join(format!("{}.bin", case.name));
        let found = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(hex(&found), hex(&case.bytes), "{} changed: this breaks every peer", case.name);
    }
    let found: BTreeSet<String> = std::fs::read_dir(folder())
        .expect("folder")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "README.md")
        .collect();
    assert_eq!(found, names, "no file without a case");
    assert_eq!(std::fs::read_to_string(folder().join("README.md")).expect("index"), index(&cases));
}

/// The page's example: its blocks are ```` ```hex name ```` with comments after `;`.
#[test]
fn the_worked_example_of_the_page_is_what_the_encoder_writes() {
    let page = std::fs::read_to_string(folder().join("../frame.md")).expect("proto/frame.md");
    let mut seen = Vec::new();
    for block in page.split("```hex ").skip(1) {
        let (name, rest) = block.split_once('\n').expect("a name, then lines");
        let body = rest.split("```").next().expect("the block ends");
        let digits: String = body
            .lines()
            .map(|line| line.split(';').next().unwrap_or_default())
            .flat_map(str::chars)
            .filter(|c| !c.is_whitespace())
            .collect();
        let expected = match name {
            "hello" => hello(),
            "welcome" => welcome(),
            "publish" => publish(&plain_record()),
            "publish-ack" => publish_ack(),
            other => panic!("no frame for the example {other}"),
        };
        assert_eq!(digits, hex(&expected), "example {name}");
        seen.push(name);
    }
    assert_eq!(seen, ["hello", "welcome", "publish", "publish-ack"]);
}

/// The page names every type, code and limit with the number the code has.
#[test]
fn the_tables_of_the_page_agree_with_the_code() {
    let page = std::fs::read_to_string(folder().join("../frame.md")).expect("proto/frame.md");
    for kind in FrameType::ALL {
        let heading = format!("### `{:#04x}` {}\n", *kind as u8, kind.name());
        assert_eq!(page.matches(&heading).count(), 1, "{heading}");
    }
    for code in Code::ALL {
        let again = if code.is_retryable() { "yes" } else { "no" };
        let row = format!("| {} | `{}` | {again} |", *code as u16, code.name());
        assert_eq!(page.matches(&row).count(), 1, "{row}");
    }
    let codes = page.lines().filter(|l| l.ends_with('|') && l.contains("` | yes |") || l.contains("` | no |")).count();
    assert_eq!(codes, Code::ALL.len(), "no code but these");
    for (name, value) in [
        ("header", limits::HEADER_BYTES as u64),
        ("head", limits::HEAD_BYTES_MAX as u64),
        ("frame payload every peer takes", limits::FRAME_PAYLOAD_BYTES_FLOOR.into()),
        ("frame payload, default offer", limits::FRAME_PAYLOAD_BYTES_DEFAULT.into()),
        ("frame payload, most", limits::FRAME_PAYLOAD_BYTES_MAX.into()),
        ("chunk", limits::CHUNK_BYTES_MAX as u64),
        ("message, default", limits::MESSAGE_BYTES_DEFAULT.into()),
        ("message, most", limits::MESSAGE_BYTES_MAX.into()),
        ("channel or filter", limits::CHANNEL_BYTES_MAX as u64),
        ("levels of a channel or filter", limits::CHANNEL_LEVELS_MAX as u64),
        ("name", limits::NAME_BYTES_MAX as u64),
        ("detail", limits::DETAIL_BYTES_MAX as u64),
        ("properties of a record", limits::PROPERTIES_MAX as u64),
        ("properties of a record, together", limits::PROPERTIES_BYTES_MAX as u64),
        ("properties or trailers in a head", limits::HEAD_PROPERTIES_BYTES_MAX as u64),
        ("filters of a consumer", limits::CONSUMER_FILTERS_MAX as u64),
        ("methods in hello", AUTH_METHODS_MAX as u64),
        ("token", AUTH_DATA_BYTES_MAX as u64),
        ("records of a batch", limits::BATCH_MESSAGES_MAX.into()),
        ("payload of a compressed batch, expanded", limits::BATCH_EXPANDED_BYTES_MAX as u64),
        ("runs of a source", SOURCE_RUNS_MAX as u64),
        ("positions in a welcome", POSITIONS_BYTES_MAX as u64),
        ("credit", limits::CREDIT_MAX.into()),
    ] {
        let row = format!("| {name} | {} |", grouped(value));
        assert_eq!(page.matches(&row).count(), 1, "{row}");
    }
}

fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(c);
    }
    text
}
