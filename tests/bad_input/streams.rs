//! Subscriptions and consumers: streams, names, filters, credit, and answers to what was never asked.

use super::raw::{Nothing, Raw, consume, record};
use super::{Daemon, queue};
use std::time::Duration;
use tidegate::config::Keep;
use tidegate::model::limits;
use tidegate::wire::{
    Ack, Code, Consume, Contract, Credit, FrameType, History, Nack, Outcome, Pause, Resume, Since, Start, Subscribe,
    Unsubscribe, append_filter,
};

fn subscribe(filter: &str) -> Subscribe<'_> {
    Subscribe { filter, retained: false, since: Since::Now, respond: false, disconnect_when_slow: false }
}

fn opened(raw: &mut Raw, stream: u32) {
    let got = raw.expect(FrameType::Ok);
    assert_eq!(got.stream, stream);
}

#[test]
fn answers_to_deliveries_never_made_end_the_session() {
    let daemon = Daemon::start(|_| ());
    let mut witness = daemon.witness();
    witness.is_well();
    let nack = |first, count| Nack { first, count, delay_ms: 0, give_up: true, reason: "" };
    for (first, count) in [(1, 1), (0, 1), (0, 0), (2, 1), (u64::MAX, 1), (u64::MAX, u32::MAX), (1, u32::MAX)] {
        let mut bad = daemon.open();
        bad.consume(1, "main", "c", 0);
        bad.send(1, &Ack { first, count }, &[]);
        bad.expect_end(Code::NeverDelivered);
        let mut bad = daemon.open();
        bad.consume(1, "main", "c", 0);
        bad.send(1, &nack(first, count), &[]);
        bad.expect_end(Code::NeverDelivered);
    }
    // One delivered, two acknowledged: neither counts, so the message comes again.
    let mut bad = daemon.open();
    bad.consume(1, "main", "c", 1);
    assert_eq!(bad.delivery().len(), 1);
    bad.send(1, &Ack { first: 1, count: 2 }, &[]);
    bad.expect_end(Code::NeverDelivered);
    let mut good = daemon.open();
    good.consume(1, "main", "c", 1);
    let again = good.delivery();
    assert_eq!((again.len(), again[0].2 & 1), (1, 1), "delivered again, and said so");
    // Acknowledging twice does no harm.
    good.send(1, &Ack { first: 1, count: 1 }, &[]);
    good.send(1, &Ack { first: 1, count: 1 }, &[]);
    good.send(1, &nack(1, 1), &[]);
    good.publishes(9, 1, "still/well");
    witness.is_well();
    daemon.stop();
}

#[test]
fn frames_on_streams_where_nothing_is_open_end_the_session() {
    let daemon = Daemon::start(|_| ());
    type Send = fn(&mut Raw);
    let cases: &[(&str, Send)] = &[
        ("ack", |r| r.send(7, &Ack { first: 1, count: 1 }, &[])),
        ("nack", |r| r.send(7, &Nack { first: 1, count: 1, delay_ms: 0, give_up: false, reason: "" }, &[])),
        ("credit", |r| r.send(7, &Credit { messages: 1, bytes: 1 }, &[])),
        ("pause", |r| r.send(7, &Pause { code: 0 }, &[])),
        ("resume", |r| r.send(7, &Resume {}, &[])),
        ("ack of a subscription", |r| {
            r.send(7, &subscribe("a"), &[]);
            opened(r, 7);
            r.send(7, &Ack { first: 1, count: 1 }, &[]);
        }),
        ("subscribe on 0", |r| r.send(0, &subscribe("a"), &[])),
        ("subscribe on the broker's", |r| r.send(1 << 31, &subscribe("a"), &[])),
        ("consume on 0", |r| r.send(0, &consume("main", "c", 1), &[])),
        ("history on the broker's", |r| {
            r.send(u32::MAX, &History { channel: "a", since: Since::Last(1), limit: 0 }, &[]);
        }),
        ("a stream in use", |r| {
            r.send(7, &subscribe("a"), &[]);
            opened(r, 7);
            r.send(7, &subscribe("b"), &[]);
        }),
        ("a stream that publishes", |r| {
            r.publishes(7, 1, "a");
            r.send(7, &subscribe("a"), &[]);
        }),
        ("publish on a subscription", |r| {
            r.send(7, &subscribe("x"), &[]);
            opened(r, 7);
            r.publish(7, 1, Contract::Queue, &record("a", b"x"));
        }),
    ];
    let mut witness = daemon.witness();
    for (what, send) in cases {
        println!("{what}");
        let mut bad = daemon.open();
        send(&mut bad);
        bad.expect_end(Code::BadStream);
        witness.is_well();
    }
    let mut mild = daemon.open();
    mild.send(7, &Unsubscribe {}, &[]);
    mild.expect_refusal(7, Code::BadStream);
    mild.publishes(1, 1, "a");
    daemon.stop();
}

#[test]
fn credit_has_an_end() {
    let daemon = Daemon::start(|_| ());
    let mut witness = daemon.witness();
    let mut raw = daemon.open();
    // Asked for by the consume itself: that stream fails, the session goes on.
    for over in [
        Consume { credit_messages: limits::CREDIT_MAX + 1, ..consume("main", "c", 1) },
        Consume { credit_bytes: u32::MAX, ..consume("main", "c", 1) },
    ] {
        raw.send(1, &over, &[]);
        raw.expect_refusal(1, Code::CreditOverflow);
    }
    let most = Consume { credit_messages: limits::CREDIT_MAX, credit_bytes: 1, ..consume("main", "c", 1) };
    raw.send(1, &most, &[]);
    opened(&mut raw, 1);
    raw.send(1, &Credit { messages: 0, bytes: 5 }, &[]);
    raw.send(1, &Credit { messages: 1, bytes: 0 }, &[]);
    raw.expect_end(Code::CreditOverflow);
    let mut raw = daemon.open();
    raw.consume(1, "main", "c", 1);
    raw.send(1, &Credit { messages: 1, bytes: u32::MAX }, &[]);
    raw.expect_end(Code::CreditOverflow);
    witness.is_well();
    daemon.stop();
}

#[test]
fn one_name_is_once_a_session_and_shared_between_sessions() {
    const MESSAGES: u64 = 40;
    let daemon = Daemon::start(|_| ());
    let mut a = daemon.open();
    a.consume(1, "main", "worker", 1_000);
    a.send(2, &consume("main", "worker", 1), &[]);
    a.expect_refusal(2, Code::DuplicateConsumer);
    let mut b = daemon.open();
    b.consume(1, "main", "worker", 1_000);
    let mut publisher = daemon.open();
    for number in 1..=MESSAGES {
        publisher.publish(1, number, Contract::Disk, &record("job", &[number as u8]));
    }
    let mut acked = 0;
    while acked < MESSAGES {
        let got = publisher.expect(FrameType::PublishAck);
        acked += u64::from(got.head::<tidegate::wire::PublishAck>().count);
    }
    let mut seen = vec![0u32; MESSAGES as usize + 1];
    let mut shares = [0, 0];
    let mut turn = 0;
    while shares[0] + shares[1] < MESSAGES {
        let raw = [&mut a, &mut b][turn % 2].poll_delivery();
        for (_, payload, _) in raw {
            seen[usize::from(payload[0])] += 1;
            shares[turn % 2] += 1;
        }
        turn += 1;
    }
    assert!(seen[1..].iter().all(|&n| n == 1), "{seen:?}");
    // The same name on another queue, and another name on this one, are others.
    a.consume(3, "main", "other", 0);
    daemon.stop();
}

impl Raw {
    /// What is delivered now, if anything.
    fn poll_delivery(&mut self) -> Vec<(u64, Vec<u8>, u8)> {
        match self.peek(Duration::from_millis(20)) {
            Ok(()) => self.delivery(),
            Err(Nothing::Quiet) => Vec::new(),
            Err(Nothing::Closed) => panic!("closed"),
        }
    }
}

#[test]
fn a_work_queue_has_one_consumer_group() {
    let daemon = Daemon::start(|s| s.queues.push(queue("jobs", "jobs/#", |q| q.keep = Keep::Work)));
    let mut raw = daemon.open();
    raw.consume(1, "jobs", "first", 1);
    let mut other = daemon.open();
    other.send(1, &consume("jobs", "second", 1), &[]);
    other.expect_refusal(1, Code::QueueHasConsumer);
    other.consume(1, "jobs", "first", 1);
    other.publishes(2, 1, "jobs/1");
    daemon.stop();
}

#[test]
fn consumers_with_bad_names_queues_filters_or_numbers_are_refused_and_the_session_goes_on() {
    let daemon = Daemon::start(|s| {
        s.queues[0].consumers_max = 2;
    });
    let mut raw = daemon.open();
    let long = "n".repeat(limits::NAME_BYTES_MAX + 1);
    for (queue, name, code) in [
        ("nowhere", "c", Code::UnknownQueue),
        ("", "c", Code::UnknownQueue),
        ("$dead/nowhere", "c", Code::UnknownQueue),
        ("$dead/$dead/main", "c", Code::UnknownQueue),
        (&long[..], "c", Code::UnknownQueue),
        ("main", "", Code::BadName),
        ("main", &long, Code::BadName),
        ("main", "a b", Code::BadName),
        ("main", "a/b", Code::BadName),
        ("main", "a\0", Code::BadName),
        ("main", "\u{e9}", Code::BadName),
    ] {
        raw.send(1, &consume(queue, name, 1), &[]);
        raw.expect_refusal(1, code);
    }
    let wide = "f".repeat(limits::CHANNEL_BYTES_MAX + 1);
    let deep = "/".repeat(limits::CHANNEL_LEVELS_MAX);
    let bad = ["", "a/#/b", "#a", "a+", "+a/b", "a\0", &wide, &deep];
    for filter in bad {
        let mut payload = Vec::new();
        append_filter(&mut payload, filter);
        raw.send(1, &Consume { filters: 1, ..consume("main", "c", 1) }, &payload);
        raw.expect_refusal(1, Code::BadFilter);
        raw.send(1, &subscribe(filter), &[]);
        raw.expect_refusal(1, Code::BadFilter);
    }
    let mut payload = Vec::new();
    for _ in 0..=limits::CONSUMER_FILTERS_MAX {
        append_filter(&mut payload, "a");
    }
    let count = limits::CONSUMER_FILTERS_MAX as u32 + 1;
    raw.send(1, &Consume { filters: count, ..consume("main", "c", 1) }, &payload);
    raw.expect_refusal(1, Code::BadOptions);
    // None of the refused left a consumer behind: there is room for two.
    raw.consume(1, "main", "one", 1);
    raw.consume(2, "main", "two", 1);
    raw.send(3, &consume("main", "three", 1), &[]);
    raw.expect_refusal(3, Code::BadOptions);
    // Numbers of any size are taken and bounded.
    let wild = Consume {
        start: Start::Time(u64::MAX),
        window: u32::MAX,
        attempts_max: u32::MAX,
        ack_timeout_ms: u32::MAX,
        backoff_ms: u32::MAX,
        ..consume("main", "two", 1)
    };
    raw.send(2, &Unsubscribe {}, &[]);
    opened(&mut raw, 2);
    raw.send(2, &wild, &[]);
    opened(&mut raw, 2);
    raw.publishes(9, 1, "a");
    daemon.stop();
}

#[test]
fn history_is_refused_where_there_is_none() {
    let daemon = Daemon::start(|s| s.queues.push(queue("log", "log/#", |q| q.history = true)));
    let mut raw = daemon.open();
    let history = |channel, since| History { channel, since, limit: u32::MAX };
    raw.send(1, &history("a", Since::Last(1)), &[]);
    raw.expect_refusal(1, Code::NoHistory);
    raw.send(1, &history("log/+", Since::Last(1)), &[]);
    raw.expect_refusal(1, Code::BadChannel);
    raw.send(1, &Subscribe { since: Since::Last(1), ..subscribe("log/#") }, &[]);
    raw.expect_refusal(1, Code::BadOptions);
    raw.send(1, &Subscribe { since: Since::Last(1), ..subscribe("a") }, &[]);
    raw.expect_refusal(1, Code::NoHistory);
    // An epoch that never was, and an offset that is still to come: answered, and not called complete.
    raw.publishes(9, 1, "log/a");
    for since in [Since::Offset { epoch: 1, offset: 0 }, Since::Offset { epoch: u64::MAX, offset: u64::MAX }] {
        raw.send(2, &history("log/a", since), &[]);
        let got = raw.expect(FrameType::Ok);
        assert!(!got.head::<tidegate::wire::Done>().complete);
    }
    daemon.stop();
}

#[test]
fn streams_of_a_session_are_counted() {
    let daemon = Daemon::start(|s| s.limits.streams_max = 3);
    let mut raw = daemon.open();
    for stream in 1..=3 {
        raw.send(stream, &subscribe("a"), &[]);
        opened(&mut raw, stream);
    }
    // One ended makes room for one.
    raw.send(2, &Unsubscribe {}, &[]);
    opened(&mut raw, 2);
    raw.send(4, &subscribe("a"), &[]);
    opened(&mut raw, 4);
    raw.send(5, &subscribe("a"), &[]);
    raw.expect_end(Code::TooManyStreams);
    // None of them is left behind: a message for them reaches nobody and harms nobody.
    let mut good = daemon.open();
    good.publish(1, 1, Contract::Queue, &record("a", b"x"));
    good.expect_ack(1, 1, 1, Outcome::Stored);
    daemon.stop();
}
