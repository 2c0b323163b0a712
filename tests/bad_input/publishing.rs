//! Publishes that must be refused: with the right code, and without harm to what follows.

use super::raw::{PATIENCE, Raw, record, record_of_bytes, record_with};
use super::{Daemon, queue};
use std::time::Instant;
use tidegate::config::Storage;
use tidegate::model::{MessageId, limits};
use tidegate::wire::{
    Ack, Batch, Code, Contract, FLAG_CONT, FLAG_MORE, FrameType, Outcome, Publish, PublishAck, PublishNack,
    append_record,
};

#[test]
fn bad_channels_are_nacked_and_the_stream_goes_on() {
    let daemon = Daemon::start(|_| ());
    let mut raw = daemon.open();
    let long = vec![b'c'; limits::CHANNEL_BYTES_MAX + 1];
    let deep = vec![b'/'; limits::CHANNEL_LEVELS_MAX];
    let bad: &[(&[u8], Code)] = &[
        (b"", Code::BadChannel),
        (b"a/+/b", Code::BadChannel),
        (b"+", Code::BadChannel),
        (b"a+", Code::BadChannel),
        (b"a/#", Code::BadChannel),
        (b"#", Code::BadChannel),
        (b"a#b", Code::BadChannel),
        (b"a\0b", Code::BadChannel),
        (b"\0", Code::BadChannel),
        (&deep, Code::BadChannel),
        (&long, Code::BadChannel),
        (b"a\xC3(", Code::BadRecord),
        (b"\xFF", Code::BadRecord),
        (b"\xED\xA0\x80", Code::BadRecord),
        (b"$SYS/load", Code::Forbidden),
        (b"$dead/main", Code::Forbidden),
        (b"$", Code::Forbidden),
    ];
    let mut number = 1;
    for (channel, code) in bad {
        raw.publish(1, number, Contract::Queue, &record_of_bytes(channel));
        raw.expect_nack(1, number, 1, *code);
        // A permanent refusal uses up its number and fences nothing.
        raw.publishes(1, number + 1, "good");
        number += 2;
    }
    // The longest and the deepest that are allowed.
    raw.publishes(1, number, &"c".repeat(limits::CHANNEL_BYTES_MAX));
    raw.publishes(1, number + 1, &"/".repeat(limits::CHANNEL_LEVELS_MAX - 1));
    daemon.stop();
}

#[test]
fn in_a_batch_each_record_is_judged_by_itself() {
    let daemon = Daemon::start(|_| ());
    let mut raw = daemon.open();
    let mut payload = Vec::new();
    for record in [record("a", b"1"), record_of_bytes(b"a/#"), vec![], record("a", b"4"), record("a", b"5")] {
        append_record(&mut payload, &record);
    }
    raw.send(1, &Batch { contract: Contract::Queue, first: 10, count: 5 }, &payload);
    raw.expect_ack(1, 10, 1, Outcome::Stored);
    raw.expect_nack(1, 11, 1, Code::BadChannel);
    raw.expect_nack(1, 12, 1, Code::BadRecord);
    raw.expect_ack(1, 13, 2, Outcome::Stored);
    daemon.stop();
}

#[test]
fn a_batch_that_lies_ends_the_session_and_none_of_it_is_kept() {
    let daemon = Daemon::start(|_| ());
    let mut witness = daemon.witness();
    let mut two = Vec::new();
    append_record(&mut two, &record("lie", b"1"));
    append_record(&mut two, &record("lie", b"2"));
    let mut longer = two.clone();
    longer[0] += 1;
    let many = vec![0; limits::BATCH_MESSAGES_MAX as usize + 1];
    let cases: &[(&str, u32, &[u8])] = &[
        ("none", 0, &[]),
        ("none though there are two", 0, &two),
        ("fewer than there are", 1, &two),
        ("more than there are", 3, &two),
        ("four thousand million", u32::MAX, &two),
        ("a length too long", 2, &longer),
        ("cut off", 2, &two[..two.len() - 1]),
        ("more than a batch may have", limits::BATCH_MESSAGES_MAX + 1, &many),
    ];
    for (what, count, payload) in cases {
        let mut bad = daemon.open();
        bad.send(1, &Batch { contract: Contract::Queue, first: 1, count: *count }, payload);
        println!("{what}");
        bad.expect_end(Code::BadPayload);
        witness.is_well();
    }
    let mut reader = daemon.open();
    reader.consume(1, "main", "reader", 1_000);
    let mut seen = 0;
    while seen < cases.len() {
        for (_, payload, _) in reader.delivery() {
            assert_eq!(payload, b"well", "only the witness was kept");
            seen += 1;
        }
    }
    daemon.stop();
}

#[test]
fn messages_too_large_are_refused_whole_or_in_chunks() {
    let daemon = Daemon::start(|s| {
        s.limits.message_bytes_max = 20_000;
        s.queues.push(queue("small", "small", |q| q.bytes_max = 1_000));
    });
    let mut raw = daemon.open();
    let large = record("a", &[1; 20_000]);
    raw.publish(1, 1, Contract::Queue, &large);
    raw.expect_nack(1, 1, 1, Code::MessageTooLarge);
    let head = Publish { contract: Contract::Queue, number: 2, total: large.len() as u32 };
    raw.send_flags(FLAG_MORE, 1, &head, &large[..16_384]);
    let mut last = Vec::new();
    tidegate::wire::append(&mut last, FrameType::Publish, FLAG_CONT, 1, None::<&Publish>, &[&large[16_384..]]);
    tidegate::wire::seal(&mut last, raw.sequence);
    raw.bytes(&last);
    raw.sequence += 1;
    raw.expect_nack(1, 2, 1, Code::MessageTooLarge);
    // It would fit the broker, never one of its queues: trying again cannot help.
    raw.publish(1, 3, Contract::Queue, &record("small", &[1; 2_000]));
    raw.expect_nack(1, 3, 1, Code::MessageTooLarge);
    raw.publishes(1, 4, "a");
    daemon.stop();
}

#[test]
fn numbers_must_follow_and_end() {
    let daemon = Daemon::start(|_| ());
    let mut raw = daemon.open();
    raw.publishes(1, 5, "a");
    for wrong in [5, 4, 7, 0, u64::MAX - 1] {
        raw.publish(1, wrong, Contract::Queue, &record("a", b"x"));
        raw.expect_nack(1, wrong, 1, Code::BadPublishNumber);
    }
    // The expected one still is.
    raw.publishes(1, 6, "a");
    // Each stream counts for itself.
    raw.publishes(2, 900, "a");
    let mut payload = Vec::new();
    append_record(&mut payload, &record("a", b"x"));
    append_record(&mut payload, &record("a", b"y"));
    raw.send(3, &Batch { contract: Contract::Queue, first: u64::MAX - 1, count: 2 }, &payload);
    raw.expect_end(Code::BadPublishNumber);
    let mut raw = daemon.open();
    raw.publish(1, u64::MAX, Contract::Queue, &record("a", b"x"));
    raw.expect_end(Code::BadPublishNumber);
    daemon.stop();
}

#[test]
fn publishing_needs_a_stream_of_ones_own() {
    let daemon = Daemon::start(|s| s.limits.streams_max = 4);
    for stream in [0, 1 << 31, u32::MAX] {
        let mut bad = daemon.open();
        bad.publish(stream, 1, Contract::Queue, &record("a", b"x"));
        bad.expect_end(Code::BadStream);
    }
    let mut bad = daemon.open();
    for stream in 1..=4 {
        bad.publishes(stream, 1, "a");
    }
    bad.publish(5, 1, Contract::Queue, &record("a", b"x"));
    bad.expect_end(Code::TooManyStreams);
    daemon.stop();
}

#[test]
fn contracts_that_cannot_be_kept_are_refused() {
    let daemon = Daemon::start(|s| {
        s.queues = vec![queue("quick", "quick", |q| {
            q.storage = Storage::Memory;
            q.contract = Contract::Memory;
        })];
    });
    let mut raw = daemon.open();
    raw.publish(1, 1, Contract::Disk, &record("nobody", b"x"));
    raw.expect_nack(1, 1, 1, Code::NoQueue);
    raw.publish(1, 2, Contract::Disk, &record("quick", b"x"));
    raw.expect_nack(1, 2, 1, Code::NoQueue);
    raw.publish(1, 3, Contract::Upstream, &record("quick", b"x"));
    raw.expect_nack(1, 3, 1, Code::NoUpstream);
    raw.publish(1, 4, Contract::Memory, &record("nobody", b"x"));
    raw.expect_ack(1, 4, 1, Outcome::LiveOnly);
    raw.publish(1, 5, Contract::Memory, &record("quick", b"x"));
    raw.expect_ack(1, 5, 1, Outcome::Stored);
    daemon.stop();
}

/// What became of a publish: taken, or refused with this code.
fn fate(raw: &mut Raw) -> Result<(u64, u32, Outcome), (u64, u32, Code)> {
    let got = raw.next();
    match got.kind {
        FrameType::PublishAck => {
            let head: PublishAck = got.head();
            Ok((head.first, head.count, head.outcome))
        }
        FrameType::PublishNack => {
            let head: PublishNack<'_> = got.head();
            Err((head.first, head.count, Code::from_u16(head.code).expect("a code of the page")))
        }
        _ => panic!("{}", got.words()),
    }
}

#[test]
fn a_full_queue_fences_the_stream_until_it_resumes_in_order() {
    let daemon = Daemon::start(|s| {
        s.queues = vec![queue("main", "#", |q| q.messages_max = 2)];
    });
    let mut witness = daemon.open();
    let mut raw = daemon.open();
    let id = |n: u64| MessageId([n as u8; 16]);
    let numbered = |n: u64| record_with("a", &[n as u8], |r| tidegate::model::Record { id: id(n), ..r });
    let records: Vec<Vec<u8>> = (0..=6u64).map(|n| numbered(n.max(1))).collect();
    for number in 1..=5 {
        raw.publish(1, number, Contract::Disk, &records[number as usize]);
    }
    let (mut taken, mut full, mut fenced) = (0, 0, 0);
    while taken + full + fenced < 5 {
        match fate(&mut raw) {
            Ok((first, count, Outcome::Stored)) => {
                assert_eq!(first, 1 + u64::from(taken));
                taken += count;
            }
            Err((3, 1, Code::QueueFull)) => full += 1,
            Err((first, count, Code::Fenced)) => {
                assert!(first >= 4, "{first}");
                fenced += count;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((taken, full, fenced), (2, 1, 2));
    // Anything but the refused number stays outside, even what would be next.
    raw.publish(1, 6, Contract::Disk, &records[6]);
    assert_eq!(fate(&mut raw), Err((6, 1, Code::Fenced)));
    // Another stream, and another session, are not fenced: they meet the full queue themselves.
    raw.publish(2, 1, Contract::Disk, &record("a", b"x"));
    assert_eq!(fate(&mut raw), Err((1, 1, Code::QueueFull)));
    witness.publish(1, 1, Contract::Disk, &record("a", b"x"));
    assert_eq!(fate(&mut witness), Err((1, 1, Code::QueueFull)));

    let mut reader = daemon.open();
    reader.consume(1, "main", "reader", 100);
    let mut seen = Vec::new();
    let mut next = 3;
    let began = Instant::now();
    while seen.len() < 6 {
        while seen.len() < (next as usize - 1).min(6) {
            for (tag, payload, _) in reader.delivery() {
                seen.push(payload[0]);
                reader.send(1, &Ack { first: tag, count: 1 }, &[]);
            }
        }
        // Resume: the refused number and all that followed it, in order, with the same ids.
        while next <= 6 {
            raw.publish(1, next, Contract::Disk, &records[next as usize]);
            match fate(&mut raw) {
                Ok((first, 1, Outcome::Stored)) => {
                    assert_eq!(first, next);
                    next += 1;
                }
                // Its acknowledgements are not through yet.
                Err((first, 1, Code::QueueFull)) => {
                    assert_eq!(first, next);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(began.elapsed() < PATIENCE, "the queue never had room again");
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6], "order, nothing twice, nothing lost");
    daemon.stop();
}

#[test]
fn retained_values_have_their_limit() {
    let daemon = Daemon::start(|s| s.limits.retained_max = 2);
    let mut raw = daemon.open();
    let retained = |channel: &str| record_with(channel, b"x", |r| tidegate::model::Record { retain: true, ..r });
    for (number, channel) in [(1, "a"), (2, "b"), (3, "a")] {
        raw.publish(1, number, Contract::Queue, &retained(channel));
        raw.expect_ack(1, number, 1, Outcome::Stored);
    }
    raw.publish(1, 4, Contract::Queue, &retained("c"));
    raw.expect_nack(1, 4, 1, Code::LimitReached);
    // That can be tried again, so it fences; giving it up means sending something else under its number.
    raw.publish(1, 5, Contract::Queue, &record("c", b"x"));
    raw.expect_nack(1, 5, 1, Code::Fenced);
    raw.publishes(1, 4, "c");
    raw.publishes(1, 5, "c");
    daemon.stop();
}
