//! Requests nobody answers, answers nobody asked for, and administration by those who may not.

use super::Daemon;
use super::raw::{Got, Raw};
use std::time::{Duration, Instant};
use tidegate::model::{admin, limits};
use tidegate::wire::{Cancel, Code, FrameType, Request, Response, Since, Subscribe};

fn respond(filter: &str) -> Subscribe<'_> {
    Subscribe { filter, retained: false, since: Since::Now, respond: true, disconnect_when_slow: false }
}

fn ask(channel: &str, deadline_ms: u32, total: usize) -> Request<'_> {
    Request { channel, deadline_ms, total: total as u32, properties: &[] }
}

fn answer(total: usize) -> Response<'static> {
    Response { status: 0, last: true, total: total as u32, trailers: &[] }
}

fn responder(daemon: &Daemon, filter: &str) -> Raw {
    let mut raw = daemon.open();
    raw.send(1, &respond(filter), &[]);
    raw.expect(FrameType::Ok);
    raw
}

/// The responder's stream of the next request.
fn asked(raw: &mut Raw) -> Got {
    let got = raw.expect(FrameType::Request);
    assert!(got.stream >= 1 << 31, "the broker opens streams of its own");
    got
}

#[test]
fn a_request_without_an_answer_ends_in_time() {
    let daemon = Daemon::start(|_| ());
    let mut asker = daemon.open();
    asker.send(1, &ask("door/open", 1_000, 0), &[]);
    asker.expect_refusal(1, Code::NoResponder);
    let mut silent = responder(&daemon, "door/#");
    let began = Instant::now();
    asker.send(1, &ask("door/open", 100, 2), b"hi");
    let got = asked(&mut silent);
    assert_eq!((got.head::<Request<'_>>().deadline_ms, &got.payload[..]), (100, &b"hi"[..]));
    asker.expect_refusal(1, Code::DeadlineExceeded);
    assert!(began.elapsed() >= Duration::from_millis(100));
    // The responder is told, and its late answer is ignored.
    let cancel = silent.expect(FrameType::Cancel);
    assert_eq!((cancel.stream, cancel.head::<Cancel>().code), (got.stream, Code::DeadlineExceeded as u16));
    silent.send(got.stream, &answer(0), &[]);
    silent.publishes(9, 1, "well");
    // The stream is free again.
    asker.send(1, &ask("door/open", 10_000, 0), &[]);
    let got = asked(&mut silent);
    silent.send(got.stream, &answer(4), b"done");
    let done = asker.expect(FrameType::Response);
    assert_eq!((done.stream, &done.payload[..]), (1, &b"done"[..]));
    daemon.stop();
}

#[test]
fn either_side_may_give_a_request_up() {
    let daemon = Daemon::start(|_| ());
    let mut busy = responder(&daemon, "r");
    let mut asker = daemon.open();
    asker.send(1, &ask("r", 60_000, 0), &[]);
    let first = asked(&mut busy);
    asker.send(1, &Cancel { code: Code::Cancelled as u16 }, &[]);
    assert_eq!(busy.expect(FrameType::Cancel).stream, first.stream);
    asker.send(2, &ask("r", 60_000, 0), &[]);
    let second = asked(&mut busy);
    busy.send(second.stream, &Cancel { code: Code::ResponderFailed as u16 }, &[]);
    asker.expect_refusal(2, Code::ResponderFailed);
    assert_eq!(busy.expect(FrameType::Cancel).stream, second.stream);
    asker.send(3, &ask("r", 60_000, 0), &[]);
    asked(&mut busy);
    drop(busy);
    asker.expect_refusal(3, Code::ResponderFailed);
    // An asker that goes away is told to the responder.
    let mut busy = responder(&daemon, "r");
    asker.send(4, &ask("r", 60_000, 0), &[]);
    let last = asked(&mut busy);
    drop(asker);
    assert_eq!(busy.expect(FrameType::Cancel).stream, last.stream);
    daemon.stop();
}

#[test]
fn answers_that_nobody_asked_for() {
    let daemon = Daemon::start(|_| ());
    let mut raw = daemon.open();
    // On a stream of the broker it may be late; on one of the client it cannot be meant.
    raw.send((1 << 31) + 5, &answer(0), &[]);
    raw.send(77, &Cancel { code: 0 }, &[]);
    raw.publishes(9, 1, "well");
    raw.send(5, &answer(0), &[]);
    raw.expect_end(Code::BadStream);
    let mut bad = responder(&daemon, "r");
    let mut asker = daemon.open();
    asker.send(1, &ask("r", 60_000, 0), &[]);
    let got = asked(&mut bad);
    bad.send(got.stream, &Response { trailers: &[0, 200, 1], ..answer(0) }, &[]);
    bad.expect_end(Code::BadOptions);
    asker.expect_refusal(1, Code::ResponderFailed);
    daemon.stop();
}

#[test]
fn bad_requests_are_refused_on_their_stream() {
    let daemon = Daemon::start(|s| {
        s.limits.message_bytes_max = 10_000;
        s.limits.requests_max = 2;
    });
    let mut busy = responder(&daemon, "r/#");
    let mut raw = daemon.open();
    let wide = "c".repeat(limits::CHANNEL_BYTES_MAX + 1);
    for channel in ["", "r/+", "r/#", "r\0", &wide] {
        raw.send(1, &ask(channel, 100, 0), &[]);
        raw.expect_refusal(1, Code::BadChannel);
    }
    for properties in [&[0u8, 9, 1][..], &[0; limits::HEAD_PROPERTIES_BYTES_MAX + 2]] {
        raw.send(1, &Request { properties, ..ask("r/1", 100, 0) }, &[]);
        raw.expect_refusal(1, Code::BadOptions);
    }
    raw.send(1, &ask("r/1", 100, 10_001), &[0; 10_001]);
    raw.expect_refusal(1, Code::MessageTooLarge);
    for filter in ["$admin/#", "$x"] {
        raw.send(1, &respond(filter), &[]);
        raw.expect_refusal(1, Code::Forbidden);
    }
    for stream in 1..=2 {
        raw.send(stream, &ask("r/1", 60_000, 0), &[]);
        asked(&mut busy);
    }
    raw.send(3, &ask("r/1", 60_000, 0), &[]);
    raw.expect_refusal(3, Code::LimitReached);
    raw.send(2, &ask("r/1", 60_000, 0), &[]);
    raw.expect_end(Code::BadStream);
    daemon.stop();
}

#[test]
fn administration_is_for_the_unix_socket() {
    let daemon = Daemon::start(|_| ());
    let mut far = daemon.open();
    for channel in [admin::STATUS, admin::QUEUE_PURGE, "$admin/anything"] {
        far.send(1, &ask(channel, 1_000, 2), b"{}");
        far.expect_refusal(1, Code::Forbidden);
    }
    let mut near = Raw::unix(&daemon.unix());
    near.hello(60_000);
    assert_eq!(near.status()["connections"], 2);
    for (channel, body) in [
        (admin::QUEUE_SHOW, &b"{\"name\":\"nowhere\"}"[..]),
        (admin::QUEUE_SHOW, b"not json"),
        (admin::QUEUE_SHOW, b"\xFF"),
        (admin::QUEUE_PEEK, b"{}"),
        ("$admin/anything", b"{}"),
        ("$admin/", b""),
    ] {
        near.send(1, &ask(channel, 1_000, body.len()), body);
        let got = near.expect(FrameType::Response);
        assert_ne!(got.head::<Response<'_>>().status, 0, "{channel}");
        let text = String::from_utf8(got.payload).expect("JSON");
        let said: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(said["error"].as_str().is_some_and(|e| !e.is_empty()), "{text}");
    }
    far.publishes(9, 1, "well");
    daemon.stop();
}
