//! Live fan-out, retained values, history, requests, heartbeats, administration.

use super::world::{World, queue};
use crate::config::{QueueSettings, Settings};
use crate::model::{ConnId, Mono, admin};
use crate::wire::{
    Cancel, Close, Code, Contract, Done, Dropped, ErrorHead, FrameType, Goaway, History, Ping, Request, Response,
    Since, Subscribe, Unsubscribe, item_flag,
};

fn subscribe(filter: &str) -> Subscribe<'_> {
    Subscribe { filter, retained: false, since: Since::Now, respond: false, disconnect_when_slow: false }
}

fn listen(w: &mut World, filter: &str) -> ConnId {
    let s = w.connect();
    w.send(s, 1, &subscribe(filter), &[]);
    assert_eq!(w.expect(s).kind, FrameType::Ok);
    s
}

#[test]
fn subscribers_hear_stored_messages_only_once_they_are_durable() {
    let mut w = World::new(vec![queue("main", "kept/#")]);
    let s = listen(&mut w, "#");
    let c = w.connect();
    w.hold_commits = true;
    w.publish(c, 1, "kept/a", "stored");
    w.publish(c, 2, "other", "live");
    assert_eq!(w.texts(s), ["live"]);
    w.release_commit();
    assert_eq!(w.texts(s), ["stored"]);
    w.send(s, 1, &Unsubscribe {}, &[]);
    w.frames(s);
    w.publish(c, 3, "other", "unheard");
    assert_eq!(w.texts(s), Vec::<String>::new());
}

#[test]
fn a_delayed_message_is_heard_when_it_is_due_and_refused_where_nobody_keeps_it() {
    let mut w = World::new(vec![queue("one", "kept/#"), queue("two", "kept/#")]);
    let s = listen(&mut w, "#");
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.delay_ms = 1_000, "kept/a", "later");
    w.publish_with(c, 2, Contract::Queue, |r| r.delay_ms = 1_000, "other", "nowhere");
    let expected = [(1, Ok(crate::wire::Outcome::Stored)), (2, Err(Code::NoQueue))];
    assert_eq!(w.verdicts(c), expected);
    w.pass(900);
    assert_eq!(w.texts(s), Vec::<String>::new());
    w.pass(200);
    assert_eq!(w.texts(s), ["later"], "once, though two queues held it");
}

#[test]
fn a_subscription_whose_filters_overlap_hears_a_message_once_a_stream() {
    let mut w = World::new(vec![]);
    let s = listen(&mut w, "a/#");
    w.send(s, 2, &subscribe("a/+"), &[]);
    w.frames(s);
    let c = w.connect();
    w.publish(c, 1, "a/b", "x");
    let mut streams: Vec<u32> = w.messages(s).iter().map(|m| m.stream).collect();
    streams.sort_unstable();
    assert_eq!(streams, [1, 2]);
}

#[test]
fn a_slow_subscriber_loses_messages_is_told_how_many_and_costs_bounded_memory() {
    let mut settings = Settings { queues: vec![], ..Settings::default() };
    settings.limits.outbox_bytes_max = 10_000;
    let mut w = World::with(settings);
    let s = listen(&mut w, "#");
    let c = w.connect();
    w.reads(s, false);
    let text = "x".repeat(100);
    for n in 0..1_000 {
        w.publish(c, 1 + n, "a", &text);
        assert!(w.broker.waiting_bytes(s) <= 10_500);
    }
    w.reads(s, true);
    let frames = w.frames(s);
    let dropped: u64 = frames.iter().filter(|f| f.kind == FrameType::Dropped).map(|f| f.get::<Dropped>().count).sum();
    let delivered: u64 = frames
        .iter()
        .filter(|f| f.kind == FrameType::Deliver)
        .map(|f| u64::from(f.get::<crate::wire::Deliver>().count))
        .sum();
    assert_eq!(dropped + delivered, 1_000);
    assert_eq!((w.broker.counters().dropped_slow, dropped > 0, delivered > 0), (dropped, true, true));
}

#[test]
fn a_slow_subscriber_that_asked_for_it_is_disconnected() {
    let mut settings = Settings { queues: vec![], ..Settings::default() };
    settings.limits.outbox_bytes_max = 1_000;
    let mut w = World::with(settings);
    let s = w.connect();
    w.send(s, 1, &Subscribe { disconnect_when_slow: true, ..subscribe("#") }, &[]);
    w.frames(s);
    w.reads(s, false);
    let c = w.connect();
    for n in 0..20 {
        w.publish(c, 1 + n, "a", &"x".repeat(100));
    }
    w.reads(s, true);
    let last = w.frames(s).pop().expect("an error");
    let codes: Vec<u16> =
        std::iter::once(last).filter(|f| f.kind == FrameType::Error).map(|f| f.get::<ErrorHead<'_>>().code).collect();
    assert!(w.is_closed(s));
    assert!(codes.is_empty() || codes == [Code::SlowReader as u16]);
    assert_eq!(w.broker.counters().closed.get(&Code::SlowReader), Some(&1));
}

#[test]
fn retained_values_greet_a_subscriber_survive_a_restart_and_are_cleared_by_an_empty_payload() {
    let mut w = World::new(vec![]);
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.retain = true, "site/a/temp", "20");
    w.publish_with(c, 2, Contract::Queue, |r| r.retain = true, "site/a/temp", "21");
    w.publish_with(c, 3, Contract::Queue, |r| r.retain = true, "site/b/temp", "30");
    w.publish_with(c, 4, Contract::Queue, |r| r.retain = true, "other", "x");
    assert_eq!(w.verdicts(c).len(), 4);
    w.restart();
    let s = w.connect();
    w.send(s, 1, &Subscribe { retained: true, ..subscribe("site/+/temp") }, &[]);
    let frames = w.frames(s);
    assert_eq!(frames.first().map(|f| f.kind), Some(FrameType::Ok));
    let s = w.connect();
    w.send(s, 1, &Subscribe { retained: true, ..subscribe("site/#") }, &[]);
    assert_eq!(frames.len(), 2);
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.retain = true, "site/a/temp", "");
    let late = w.connect();
    w.send(late, 1, &Subscribe { retained: true, ..subscribe("site/a/temp") }, &[]);
    assert_eq!(w.frames(late).len(), 1, "only the ok");
    assert_eq!(w.broker.mounts[0].retained.len(), 2);
    let total: u64 = w.broker.mounts[0].retained.values().map(|l| u64::from(*l)).sum();
    assert_eq!(w.broker.mounts[0].retained_bytes, total);
}

fn with_history() -> World {
    World::new(vec![QueueSettings { history: true, ..queue("chat", "chat/#") }])
}

/// Asks for history and returns the texts and the final ok.
fn history(w: &mut World, channel: &str, since: Since, limit: u32) -> (Vec<String>, Done) {
    let s = w.connect();
    w.send(s, 1, &History { channel, since, limit }, &[]);
    let frames = w.frames(s);
    let done = frames.last().expect("an ok").get::<Done>();
    let mut texts = Vec::new();
    for f in frames.iter().filter(|f| f.kind == FrameType::Deliver) {
        let head = f.get::<crate::wire::Deliver>();
        for item in crate::wire::DeliverItems::parse(&f.payload, head.count, head.total).expect("valid") {
            assert_ne!(item.flags & item_flag::HISTORY, 0);
            let record = crate::model::Record::decode(item.record).expect("valid");
            texts.push(String::from_utf8_lossy(record.payload).into_owned());
        }
    }
    w.disconnect(s);
    (texts, done)
}

#[test]
fn history_gives_the_last_n_since_an_offset_and_since_a_time_of_one_channel() {
    let mut w = with_history();
    let c = w.connect();
    for n in 0..20u64 {
        w.publish(c, 1 + n, if n % 2 == 0 { "chat/a" } else { "chat/b" }, &n.to_string());
        w.pass(1_000);
    }
    let (texts, done) = history(&mut w, "chat/a", Since::Last(3), 0);
    assert_eq!((texts, done.complete), (vec!["14".into(), "16".into(), "18".into()], true));
    let since = Since::Offset { epoch: done.epoch, offset: done.value - 2 };
    let (texts, again) = history(&mut w, "chat/a", since, 0);
    assert_eq!((texts, again.complete), (vec!["16".into(), "18".into()], true));
    let then = w.now.wall.0 - 5_500;
    let (texts, _) = history(&mut w, "chat/a", Since::Time(then), 0);
    assert_eq!(texts, ["16", "18"]);
    let (texts, lost) = history(&mut w, "chat/a", Since::Offset { epoch: done.epoch ^ 1, offset: 1 }, 0);
    assert_eq!((texts.len(), lost.complete), (0, false), "another epoch is never a partial recovery");
    w.restart();
    let (texts, _) = history(&mut w, "chat/a", Since::Last(100), 0);
    assert_eq!(texts.len(), 10);
    let s = w.connect();
    w.send(s, 1, &History { channel: "elsewhere", since: Since::Last(1), limit: 0 }, &[]);
    assert_eq!(w.expect_error(s), Code::NoHistory);
}

#[test]
fn a_resumed_subscription_misses_nothing_and_hears_nothing_twice() {
    let mut w = with_history();
    let c = w.connect();
    for n in 1..=5 {
        w.publish(c, n, "chat/a", &n.to_string());
    }
    let (_, done) = history(&mut w, "chat/a", Since::Last(1), 0);
    w.hold_commits = true;
    w.publish(c, 6, "chat/a", "6");
    let s = w.connect();
    let since = Since::Offset { epoch: done.epoch, offset: done.value - 2 };
    w.send(s, 1, &Subscribe { since, ..subscribe("chat/a") }, &[]);
    w.publish(c, 7, "chat/a", "7");
    w.hold_commits = false;
    while !w.held.is_empty() {
        w.release_commit();
    }
    let frames = w.frames(s);
    assert!(frames[0].get::<Done>().complete);
    let mut texts = Vec::new();
    for f in &frames[1..] {
        let head = f.get::<crate::wire::Deliver>();
        for item in crate::wire::DeliverItems::parse(&f.payload, head.count, head.total).expect("valid") {
            let record = crate::model::Record::decode(item.record).expect("valid");
            texts.push(String::from_utf8_lossy(record.payload).into_owned());
        }
    }
    assert_eq!(texts, ["4", "5", "6", "7"]);
}

#[test]
fn what_waits_behind_retained_values_is_bounded_over_all_subscriptions_of_a_session() {
    let mut settings = Settings { queues: vec![queue("q", "q/#")], ..Settings::default() };
    settings.limits.outbox_bytes_max = 10_000;
    let mut w = World::with(settings);
    let (c, s) = (w.connect(), w.connect());
    let held = |w: &World| w.broker.conns[&s].held_bytes;
    // Retained values are read after this commit, and live messages wait for them.
    w.hold_commits = true;
    w.publish(c, 1, "q/a", "stored");
    for stream in 1..=8 {
        w.send(s, stream, &Subscribe { retained: true, ..subscribe("live/#") }, &[]);
    }
    for n in 0..100 {
        w.publish(c, 2 + n, "live/a", &"x".repeat(200));
        assert!(held(&w) <= 10_000, "{}", held(&w));
    }
    assert!(held(&w) > 9_000);
    w.send(s, 8, &Unsubscribe {}, &[]);
    assert!(held(&w) < 9_000);
    w.hold_commits = false;
    w.release_commit();
    assert_eq!(held(&w), 0);
    w.publish(c, 102, "live/a", "last");
    let frames = w.frames(s);
    let of = |kind| frames.iter().filter(move |f| f.kind == kind && f.stream < 8);
    let dropped: u64 = of(FrameType::Dropped).map(|f| f.get::<Dropped>().count).sum();
    let heard: u64 = of(FrameType::Deliver).map(|f| u64::from(f.get::<crate::wire::Deliver>().count)).sum();
    assert_eq!(heard + dropped, 7 * 101, "what found no room is told");
}

fn ask(channel: &str, deadline_ms: u32) -> Request<'_> {
    Request { channel, deadline_ms, total: 4, properties: &[] }
}

#[test]
fn a_request_finds_its_responder_and_the_answer_its_asker() {
    let mut w = World::new(vec![]);
    let (r, a) = (w.connect(), w.connect());
    w.send(r, 1, &Subscribe { respond: true, ..subscribe("calc/+") }, &[]);
    w.frames(r);
    w.send(a, 5, &ask("calc/sum", 1_000), b"1+1?");
    let asked = w.expect(r);
    assert_eq!((asked.get::<Request<'_>>().channel, asked.payload.as_slice()), ("calc/sum", &b"1+1?"[..]));
    for (last, body) in [(false, b"part"), (true, b"last")] {
        let head = Response { status: 0, last, total: 4, trailers: &[] };
        w.send(r, asked.stream, &head, body);
    }
    let answers = w.frames(a);
    assert_eq!(
        answers.iter().map(|f| (f.stream, f.payload.clone())).collect::<Vec<_>>(),
        [(5, b"part".to_vec()), (5, b"last".to_vec())]
    );
    assert!(w.broker.asks.is_empty());
}

#[test]
fn a_request_without_answer_ends_by_deadline_disconnect_or_cancel() {
    let mut w = World::new(vec![]);
    let (r, a) = (w.connect(), w.connect());
    w.send(a, 5, &ask("nobody", 1_000), b"1+1?");
    assert_eq!(w.expect_error(a), Code::NoResponder);
    w.send(r, 1, &Subscribe { respond: true, ..subscribe("calc") }, &[]);
    w.frames(r);
    w.send(a, 5, &ask("calc", 1_000), b"1+1?");
    let asked = w.expect(r);
    w.pass(1_100);
    assert_eq!(w.expect_error(a), Code::DeadlineExceeded);
    assert_eq!(w.expect(r).get::<Cancel>().code, Code::DeadlineExceeded as u16);
    w.send(r, asked.stream, &Response { status: 0, last: true, total: 0, trailers: &[] }, &[]);
    assert!(w.frames(a).is_empty() && !w.is_closed(r), "a late answer harms nobody");
    w.send(a, 6, &ask("calc", 0), b"1+1?");
    w.frames(r);
    w.send(a, 6, &Cancel { code: 0 }, &[]);
    assert_eq!(w.expect(r).kind, FrameType::Cancel);
    w.send(a, 7, &ask("calc", 0), b"1+1?");
    w.disconnect(r);
    assert_eq!(w.expect_error(a), Code::ResponderFailed);
    assert!(w.broker.asks.is_empty());
}

#[test]
fn requests_to_answer_take_none_of_the_responders_own_streams() {
    let mut settings = Settings { queues: vec![], ..Settings::default() };
    settings.limits.streams_max = 4;
    let mut w = World::with(settings);
    let (r, askers) = (w.connect(), [w.connect(), w.connect()]);
    w.send(r, 1, &Subscribe { respond: true, ..subscribe("calc") }, &[]);
    w.frames(r);
    for (a, stream) in askers.into_iter().flat_map(|a| (1..=4).map(move |stream| (a, stream))) {
        w.send(a, stream, &ask("calc", 0), b"1+1?");
    }
    assert_eq!(w.frames(r).len(), 8);
    for stream in 2..=4 {
        w.send(r, stream, &subscribe("a"), &[]);
        assert_eq!(w.expect(r).kind, FrameType::Ok);
    }
    w.send(r, 5, &subscribe("a"), &[]);
    assert_eq!(w.expect_error(r), Code::TooManyStreams, "its own are still counted");
}

#[test]
fn heartbeats_go_both_ways_and_silence_ends_a_session() {
    let mut settings = Settings { queues: vec![], ..Settings::default() };
    settings.limits.heartbeat_ms = 1_000;
    let mut w = World::with(settings);
    let c = w.connect_raw(false);
    let hello = crate::wire::Hello {
        version_min: 1,
        version_max: 3,
        client: "",
        heartbeat_ms: 0,
        frame_bytes_max: 1 << 16,
        message_bytes_max: 1 << 16,
    };
    w.send(c, 0, &hello, &[]);
    w.frames(c);
    for _ in 0..10 {
        w.pass(1_000);
        let pings = w.frames(c);
        assert!(pings.iter().all(|f| f.kind == FrameType::Ping) && !pings.is_empty());
        w.send(c, 0, &crate::wire::Pong { nonce: 0 }, &[]);
    }
    w.send(c, 0, &Ping { nonce: 42 }, &[]);
    assert_eq!(w.expect(c).get::<crate::wire::Pong>().nonce, 42);
    w.pass(3_100);
    let last = w.frames(c).pop().expect("an error");
    assert_eq!(last.get::<ErrorHead<'_>>().code, Code::HeartbeatTimeout as u16);
    assert!(w.is_closed(c));
}

#[test]
fn nothing_but_hello_is_heard_before_hello_and_not_for_long() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect_raw(false);
    w.publish(c, 1, "a", "x");
    assert_eq!(w.expect_error(c), Code::HelloExpected);
    assert!(w.is_closed(c));
    let c = w.connect_raw(false);
    w.pass(5_100);
    assert_eq!(w.expect_error(c), Code::HandshakeTimeout);
    let c = w.connect_raw(false);
    let hello = crate::wire::Hello {
        version_min: 2,
        version_max: 9,
        client: "",
        heartbeat_ms: 0,
        frame_bytes_max: 1 << 16,
        message_bytes_max: 0,
    };
    w.send(c, 0, &hello, &[]);
    assert_eq!(w.expect_error(c), Code::BadVersion);
}

#[test]
fn bytes_in_any_portions_make_the_same_frames() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    let mut bytes = Vec::new();
    for n in 1..=20u64 {
        let record = super::world::record("a", &n.to_string(), |_| {});
        let head = crate::wire::Publish { contract: Contract::Queue, number: n, total: record.len() as u32 };
        bytes.extend(w.frame(c, 1, &head, &record));
    }
    for portion in bytes.chunks(7) {
        w.send_bytes(c, portion);
    }
    w.pass(10);
    assert_eq!(w.verdicts(c).len(), 20);
}

#[test]
fn administration_is_for_the_local_admin_only() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect_as(false, 1 << 20);
    w.send(c, 1, &Request { channel: admin::STATUS, deadline_ms: 0, total: 0, properties: &[] }, &[]);
    assert_eq!(w.expect_error(c), Code::Forbidden);
    let root = w.connect();
    w.publish(root, 1, "a", "shown");
    w.frames(root);
    let call = |w: &mut World, channel: &str, body: &str| {
        let head = Request { channel, deadline_ms: 0, total: body.len() as u32, properties: &[] };
        w.send(root, 9, &head, body.as_bytes());
        let seen = w.expect(root);
        (seen.get::<Response<'_>>().status, String::from_utf8_lossy(&seen.payload).into_owned())
    };
    let (status, body) = call(&mut w, admin::STATUS, "");
    let parsed: admin::Status = serde_json::from_str(&body).expect("a status");
    assert_eq!((status, parsed.counters.get("published"), parsed.queues.len()), (0, Some(&1), 1));
    let (_, body) = call(&mut w, admin::QUEUE_PEEK, r#"{"name":"main"}"#);
    let items: Vec<admin::PeekItem> = serde_json::from_str(&body).expect("items");
    assert_eq!((items.len(), items[0].payload.as_str()), (1, "shown"));
    assert_eq!(call(&mut w, admin::QUEUE_PURGE, r#"{"name":"main"}"#), (0, r#"{"count":1}"#.into()));
    assert_eq!(w.broker.queues[0].messages(), 0);
    assert_eq!(call(&mut w, admin::QUEUE_SHOW, r#"{"name":"x"}"#).0, Code::UnknownQueue as u16);
    assert_eq!(call(&mut w, admin::QUEUE_SHOW, "not json").0, Code::BadOptions as u16);
    assert_eq!(call(&mut w, "$admin/nonsense", "").0, Code::NoResponder as u16);
}

#[test]
fn dead_letters_are_replayed_to_their_queue() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish(c, 1, "a", "x");
    w.frames(c);
    w.consume(c, 2, "main", "r");
    w.credit(c, 2, 10);
    assert_eq!(w.texts(c), ["x"]);
    let nack = crate::wire::Nack { first: 1, count: 1, delay_ms: 0, give_up: true, reason: "" };
    w.send(c, 2, &nack, &[]);
    assert_eq!(w.broker.counters().dead, 1);
    let body = r#"{"name":"main"}"#;
    let head = Request { channel: admin::QUEUE_REPLAY, deadline_ms: 0, total: body.len() as u32, properties: &[] };
    w.send(c, 9, &head, body.as_bytes());
    w.pass(10);
    let frames = w.frames(c);
    assert!(frames.iter().any(|f| f.kind == FrameType::Response && f.payload == br#"{"count":1}"#), "{frames:?}");
    assert!(frames.iter().any(|f| f.kind == FrameType::Deliver), "{frames:?}");
}

#[test]
fn a_stop_says_goodbye_commits_what_it_took_and_ends() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.hold_commits = true;
    w.publish(c, 1, "a", "x");
    let deadline = Mono(w.now.mono.0 + 10_000_000);
    w.event(crate::broker::Event::Stop { deadline });
    assert!(!w.stopped);
    w.publish(c, 2, "a", "too late");
    w.hold_commits = false;
    w.release_commit();
    assert!(w.stopped);
    let frames = w.frames(c);
    assert_eq!(frames[0].get::<Goaway<'_>>().code, Code::ShuttingDown as u16);
    assert_eq!(frames.last().map(|f| f.get::<Close<'_>>().code), Some(Code::ShuttingDown as u16));
    let acks = frames.iter().filter(|f| f.kind == FrameType::PublishAck).count();
    let nacks = frames.iter().filter(|f| f.kind == FrameType::PublishNack).count();
    assert_eq!((acks, nacks), (1, 1));
}
