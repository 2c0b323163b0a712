//! Frames that are not what they should be.

use super::Daemon;
use super::raw::{Nothing, PATIENCE, Raw, frame, hello, record};
use std::collections::BTreeSet;
use std::path::PathBuf;
use tidegate::wire::{
    self, Ack, Auth, Batch, Code, Contract, Dropped, FLAG_CONT, FLAG_MORE, FrameType, Hello, Ping, Pong, Publish,
    Request, Subscribe,
};

/// What a golden malformation must lead to at a broker.
enum Leads {
    /// An error on stream 0 and the end.
    Ends(Code),
    /// The same, and before the hello, too: the header alone tells.
    Header(Code),
    /// A nack: the session goes on.
    Nacked(Code),
    /// Waiting for more.
    Waits,
}

use Leads::{Ends, Header, Nacked, Waits};

const GOLDEN: &[(&str, Leads)] = &[
    ("bad-magic", Header(Code::BadMagic)),
    ("bad-magic-two-bytes", Header(Code::BadMagic)),
    ("bad-version", Header(Code::BadVersion)),
    ("bad-type", Header(Code::UnknownType)),
    ("bad-flag-low-unknown", Header(Code::UnsupportedFlag)),
    ("bad-more-on-ping", Header(Code::FlagsContradict)),
    ("bad-cont-with-head", Header(Code::FlagsContradict)),
    ("bad-head-too-large", Header(Code::BadHead)),
    ("bad-payload-oversized", Header(Code::FrameTooLarge)),
    ("bad-crc", Header(Code::BadCrc)),
    ("bad-truncated-header", Waits),
    ("bad-truncated-body", Waits),
    ("bad-head-short", Ends(Code::BadHead)),
    ("bad-head-length-lies", Ends(Code::BadHead)),
    ("bad-head-swallows-payload", Ends(Code::BadHead)),
    ("bad-auth-length-lies", Ends(Code::BadHead)),
    ("bad-auth-too-large", Header(Code::BadHead)),
    ("bad-hello-methods-length-lies", Ends(Code::BadHead)),
    ("bad-head-trailing", Ends(Code::BadHead)),
    ("bad-head-utf8", Ends(Code::BadHead)),
    ("bad-head-enum", Ends(Code::BadHead)),
    ("bad-head-varint-too-large", Ends(Code::BadHead)),
    // An ok, which a client never sends: its head is not looked at.
    ("bad-head-bool", Ends(Code::UnexpectedFrame)),
    ("bad-batch-count-high", Ends(Code::BadPayload)),
    ("bad-batch-count-low", Ends(Code::BadPayload)),
    ("bad-batch-empty", Ends(Code::BadPayload)),
    ("bad-batch-length-lies", Ends(Code::BadPayload)),
    ("bad-consume-filters", Ends(Code::BadPayload)),
    ("bad-consume-utf8", Ends(Code::BadPayload)),
    ("bad-publish-total", Ends(Code::BadPayload)),
    ("bad-deliver-count", Ends(Code::UnexpectedFrame)),
    ("bad-deliver-total", Ends(Code::UnexpectedFrame)),
    ("bad-channel-empty", Nacked(Code::BadChannel)),
    ("bad-channel-plus", Nacked(Code::BadChannel)),
    ("bad-channel-hash", Nacked(Code::BadChannel)),
    ("bad-channel-nul", Nacked(Code::BadChannel)),
    ("bad-channel-129-levels", Nacked(Code::BadChannel)),
    ("bad-channel-1025-bytes", Nacked(Code::BadChannel)),
    ("bad-channel-utf8", Nacked(Code::BadRecord)),
    ("bad-record-priority", Nacked(Code::BadRecord)),
    ("bad-record-flags", Nacked(Code::BadRecord)),
    ("bad-record-encoding", Nacked(Code::BadRecord)),
    ("bad-record-property-length", Nacked(Code::BadRecord)),
    ("bad-record-65-properties", Nacked(Code::BadRecord)),
    ("bad-record-properties-long", Nacked(Code::BadRecord)),
    ("bad-record-length-lies", Nacked(Code::BadRecord)),
    ("bad-record-trailing", Nacked(Code::BadRecord)),
    ("bad-record-empty", Nacked(Code::BadRecord)),
    ("bad-bridge-trailing", Ends(Code::BadHead)),
    ("bad-bridge-short", Ends(Code::BadHead)),
    ("bad-bridge-nameless", Ends(Code::BadName)),
    ("bad-source-lane", Ends(Code::BadHead)),
    ("bad-source-first", Ends(Code::BadHead)),
    ("bad-source-end", Ends(Code::BadHead)),
    ("bad-source-runs-few", Ends(Code::BadHead)),
    ("bad-source-runs-many", Ends(Code::BadHead)),
    ("bad-source-runs-gap", Ends(Code::BadHead)),
    ("bad-source-runs-end", Ends(Code::BadHead)),
    ("bad-source-trailing", Ends(Code::BadHead)),
    ("bad-batch-lz4-short", Ends(Code::BadPayload)),
    ("bad-batch-lz4-long", Ends(Code::BadPayload)),
    ("bad-batch-lz4-bomb", Ends(Code::BadPayload)),
    ("bad-batch-lz4-count", Ends(Code::BadPayload)),
    ("bad-batch-lz4-length", Ends(Code::BadHead)),
];

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("proto/golden")
}

#[test]
fn every_golden_malformation_is_answered_as_the_page_says() {
    let daemon = Daemon::start(|s| s.limits.frame_timeout_ms = 150);
    let mut witness = daemon.witness();
    for (name, leads) in GOLDEN {
        let bytes = std::fs::read(golden().join(format!("{name}.bin"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        // The golden frames are the second of their connection.
        let mut bad = daemon.open();
        bad.bytes(&bytes);
        match leads {
            Ends(code) | Header(code) => bad.expect_end(*code),
            Nacked(code) => {
                bad.expect_nack(1, 1, 1, *code);
                // Not retryable: it used up its number, and the stream is not fenced.
                bad.sequence = 2;
                bad.publishes(1, 2, "after");
            }
            Waits => bad.expect_end(Code::FrameTimeout),
        }
        if let Header(code) = leads {
            let mut stranger = Raw::tcp(daemon.tcp());
            stranger.bytes(&bytes);
            stranger.expect_end(*code);
        }
        witness.is_well();
    }
    daemon.stop();
}

#[test]
fn no_golden_malformation_is_left_out() {
    let known: BTreeSet<String> = GOLDEN.iter().map(|(name, _)| format!("{name}.bin")).collect();
    let there: BTreeSet<String> = std::fs::read_dir(golden())
        .expect("the golden folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .filter(|name| name.starts_with("bad-"))
        .collect();
    assert_eq!(known, there);
}

#[test]
fn nothing_but_a_good_hello_opens_a_session() {
    let daemon = Daemon::start(|_| ());
    let mut witness = daemon.witness();
    let publish = Publish { contract: Contract::Disk, number: 1, total: 3 };
    let good = hello(0);
    let long = "n".repeat(129);
    let first: &[(Vec<u8>, Code)] = &[
        (frame(0, 1, 0, &publish, b"abc"), Code::HelloExpected),
        (frame(FLAG_MORE, 1, 0, &publish, b"a"), Code::HelloExpected),
        (frame(0, 0, 0, &Ping { nonce: 1 }, b""), Code::HelloExpected),
        (frame(0, 1, 0, &Ack { first: 1, count: 1 }, b""), Code::HelloExpected),
        (frame(0, 1, 0, &Batch { contract: Contract::Queue, first: 1, count: 1 }, &[0]), Code::HelloExpected),
        (frame(0, 0, 0, &Auth { method: 7, data: b"secret" }, b""), Code::HelloExpected),
        (frame(0, 0, 1, &good, b""), Code::BadSequence),
        (frame(0, 0, 0, &good, b"payload"), Code::BadPayload),
        (frame(0, 0, 0, &Hello { version_min: 2, version_max: 9, ..good }, b""), Code::BadVersion),
        (frame(0, 0, 0, &Hello { version_min: 3, version_max: 1, ..good }, b""), Code::BadVersion),
        (frame(0, 0, 0, &Hello { version_min: 0, version_max: 0, ..good }, b""), Code::BadVersion),
        (frame(0, 0, 0, &Hello { frame_bytes_max: 16_383, ..good }, b""), Code::BadOptions),
        (frame(0, 0, 0, &Hello { client: &long, ..good }, b""), Code::BadName),
        // Within the frame limit of an open session, beyond that of a stranger: refused by its header.
        (frame(0, 1, 0, &publish, &[0; 16_385])[..24].to_vec(), Code::FrameTooLarge),
    ];
    for (bytes, code) in first {
        let mut bad = Raw::tcp(daemon.tcp());
        bad.bytes(bytes);
        bad.expect_end(*code);
        witness.is_well();
    }
    let mut twice = daemon.open();
    twice.send(0, &good, &[]);
    twice.expect_end(Code::UnexpectedFrame);
    witness.is_well();
    daemon.stop();
}

#[test]
fn frames_that_only_a_broker_sends_and_wrong_sequences_end_the_session() {
    let daemon = Daemon::start(|_| ());
    let mut witness = daemon.witness();
    for kind in [
        FrameType::Welcome,
        FrameType::Ok,
        FrameType::Error,
        FrameType::PublishAck,
        FrameType::PublishNack,
        FrameType::Deliver,
        FrameType::Dropped,
        FrameType::Report,
    ] {
        let mut bad = daemon.open();
        let mut bytes = Vec::new();
        wire::append(&mut bytes, kind, 0, 1, Some(&Dropped { count: 1, bytes: 1, code: 0 }), &[]);
        wire::seal(&mut bytes, 1);
        bad.bytes(&bytes);
        bad.expect_end(Code::UnexpectedFrame);
    }
    for sequence in [0, 2, u32::MAX] {
        let mut bad = daemon.open();
        bad.bytes(&frame(0, 0, sequence, &Ping { nonce: 1 }, b""));
        bad.expect_end(Code::BadSequence);
    }
    let mut repeats = daemon.open();
    repeats.send(0, &Ping { nonce: 7 }, b"");
    assert_eq!(repeats.expect(FrameType::Pong).head::<Pong>().nonce, 7);
    repeats.bytes(&frame(0, 0, 1, &Ping { nonce: 8 }, b""));
    repeats.expect_end(Code::BadSequence);
    witness.is_well();
    daemon.stop();
}

#[test]
fn chunks_that_lie_end_the_session_and_leave_nothing() {
    let daemon = Daemon::start(|s| s.limits.reassembly_bytes_max = 64 * 1_024);
    let mut witness = daemon.witness();
    let whole = record("chunked", &[7; 40_000]);
    let head = |number, total| Publish { contract: Contract::Queue, number, total };
    let total = whole.len() as u32;
    let cont = |flags: u16, stream: u32, sequence: u32, payload: &[u8]| {
        let mut out = Vec::new();
        wire::append(&mut out, FrameType::Publish, flags, stream, None::<&Publish>, &[payload]);
        wire::seal(&mut out, sequence);
        out
    };
    let first = |sequence: u32, total: u32| frame(FLAG_MORE, 1, sequence, &head(1, total), &whole[..16_384]);
    let channel = "c".repeat(1_024);
    let heavy = Request { channel: &channel, deadline_ms: 0, total: 1, properties: &[0; 2_048] };
    let many: Vec<Vec<u8>> = (0..64).map(|i| frame(FLAG_MORE, 1 + i, 1 + i, &heavy, b"")).collect();
    let subscribe = Subscribe {
        filter: "a",
        retained: false,
        since: wire::Since::Now,
        respond: false,
        disconnect_when_slow: false,
    };
    let mut chunked_subscribe = frame(0, 1, 1, &subscribe, b"");
    chunked_subscribe[5] = FLAG_MORE as u8;
    wire::seal(&mut chunked_subscribe, 1);
    let cases: &[(&str, Vec<Vec<u8>>, Code)] = &[
        ("continues nothing", vec![cont(FLAG_CONT, 1, 1, b"x")], Code::FlagsContradict),
        ("begins twice", vec![first(1, total), first(2, total)], Code::FlagsContradict),
        ("ends short", vec![first(1, total), cont(FLAG_CONT, 1, 2, b"x")], Code::BadPayload),
        ("passes its total", vec![first(1, 16_390), cont(FLAG_MORE | FLAG_CONT, 1, 2, &[0; 7])], Code::BadPayload),
        ("first passes its total", vec![first(1, 10)], Code::BadPayload),
        ("more than the budget", vec![first(1, 70_000)], Code::ReassemblyBudget),
        ("more than four thousand million", vec![first(1, u32::MAX)], Code::ReassemblyBudget),
        ("heads alone pass the budget", many, Code::ReassemblyBudget),
        ("other frames have no chunks", vec![chunked_subscribe], Code::FlagsContradict),
    ];
    for (what, frames, code) in cases {
        let mut bad = daemon.open();
        for bytes in frames {
            bad.bytes(bytes);
        }
        let got = bad.poll(PATIENCE).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        assert_eq!((got.code(), got.stream), (*code, 0), "{what}: {}", got.words());
        assert_eq!(bad.poll(PATIENCE).err(), Some(Nothing::Closed), "{what}");
        witness.is_well();
    }
    // A good one, with a ping between its chunks.
    let mut good = daemon.open();
    good.bytes(&first(1, total));
    good.bytes(&frame(0, 0, 2, &Ping { nonce: 3 }, b""));
    assert_eq!(good.expect(FrameType::Pong).head::<Pong>().nonce, 3);
    good.bytes(&cont(FLAG_MORE | FLAG_CONT, 1, 3, &whole[16_384..32_768]));
    good.bytes(&cont(FLAG_CONT, 1, 4, &whole[32_768..]));
    good.expect_ack(1, 1, 1, wire::Outcome::Stored);
    daemon.stop();
}

#[test]
fn a_frame_cut_off_by_the_end_of_the_connection_is_forgotten() {
    let daemon = Daemon::start(|_| ());
    let mut witness = daemon.witness();
    let bytes = frame(0, 1, 1, &Publish { contract: Contract::Disk, number: 1, total: 30 }, &[1; 30]);
    for cut in [1, 2, 23, 24, 25, bytes.len() - 1] {
        let mut bad = daemon.open();
        bad.bytes(&bytes[..cut]);
        bad.end();
        assert_eq!(bad.poll(PATIENCE).err(), Some(Nothing::Closed), "cut at {cut}");
        witness.is_well();
    }
    daemon.stop();
}

#[test]
fn noise_ends_in_a_typed_error_and_disturbs_nobody() {
    const SEED: u64 = 0x7469_6465;
    const ROUNDS: usize = 300;
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(SEED);
    println!("seed {seed}");
    let daemon = Daemon::start(|_| ());
    let mut witness = daemon.witness();
    let mut rng = fastrand::Rng::with_seed(seed);
    let bases: Vec<Vec<u8>> = std::fs::read_dir(golden())
        .expect("the golden folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "bin"))
        .map(|path| std::fs::read(path).expect("a golden frame"))
        .collect();
    let mut conns: Vec<Raw> = Vec::new();
    for round in 0..ROUNDS {
        let mut bytes = bases[rng.usize(..bases.len())].clone();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
        }
        if bytes.len() >= 24 && rng.bool() {
            // Past the checksum: what is noise then is the head and the payload.
            let head = rng.usize(..24.min(bytes.len()));
            bytes[2] = 1;
            if head > 2 && wire::frame_len(&bytes) == Some(bytes.len()) {
                wire::seal(&mut bytes, 1);
            }
        }
        let mut bad = if rng.u8(..4) == 0 { Raw::tcp(daemon.tcp()) } else { daemon.open() };
        bad.bytes(&bytes);
        bad.end();
        conns.push(bad);
        if round % 50 == 0 {
            witness.is_well();
        }
    }
    for mut bad in conns {
        // Every answer is a well-formed frame (`poll` checks them), and the end comes.
        while let Ok(got) = bad.poll(PATIENCE) {
            if got.kind == FrameType::Error && got.stream == 0 {
                assert_ne!(got.code(), Code::Internal, "{}", got.words());
            }
        }
    }
    witness.is_well();
    daemon.stop();
}
