//! What a review with fresh eyes found.

use super::world::{World, queue};
use crate::broker::{Effect, Event, Volume};
use crate::config::{Keep, Overflow, QueueSettings, Settings, Storage};
use crate::model::admin;
use crate::store::StoreError;
use crate::wire::{Contract, Credit, Done, FrameType, History, Nack, Outcome, Request, Response};
use crate::wire::{Since, Subscribe};

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[test]
fn timers_of_consumers_that_did_not_survive_a_failure_ring_for_nobody() {
    let mut w = World::new(vec![queue("main", "#")]);
    w.hold_commits = true;
    let r = w.connect();
    w.consume_with(r, 1, "main", "r", &[], |h| h.ack_timeout_ms = 1_000);
    w.fail_store(StoreError::Io("gone".into()));
    w.hold_commits = false;
    w.reopen_store();
    w.pass(5_000);
    assert!(w.is_closed(r));
}

#[test]
fn a_page_of_delayed_messages_that_are_not_due_is_read_once() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    for n in 0..400u64 {
        let delay = if n < 10 { 1_000 } else { 3_600_000 };
        w.publish_with(c, 1 + n, Contract::Queue, |r| r.delay_ms = delay, "a", &n.to_string());
    }
    let before = w.broker.ids;
    w.pass(10_000);
    assert!(w.broker.ids - before < 20, "{} reads", w.broker.ids - before);
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 1_000);
    assert_eq!(w.texts(r), numbers(0..10));
    w.pass(3_600_000);
    assert_eq!(w.texts(r), numbers(10..400));
}

#[test]
fn a_message_delayed_while_others_are_read_is_not_forgotten() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.delay_ms = 1_000, "a", "one");
    w.publish_with(c, 2, Contract::Queue, |r| r.delay_ms = 3_600_000, "a", "hour");
    w.now.mono = w.now.mono.plus_ms(1_000);
    w.now.wall = w.now.wall.plus_ms(1_000);
    w.broker.handle(w.now, Event::Timeout);
    let mut effects: Vec<Effect> = std::iter::from_fn(|| w.broker.poll_effect()).collect();
    let at = effects.iter().position(|e| matches!(e, Effect::Read { .. })).expect("a read");
    let Effect::Read { volume: Volume::Disk, token, request } = effects.remove(at) else { panic!("of the disk") };
    // The read is performed; before its answer is heard, somebody publishes.
    let result = w.perform(&request);
    w.publish_with(c, 3, Contract::Queue, |r| r.delay_ms = 10, "a", "soon");
    w.event(Event::Read { token, result });
    w.pass(100);
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["one", "soon"]);
}

#[test]
fn retained_values_of_more_than_a_page_all_come() {
    let mut w = World::new(vec![]);
    let c = w.connect();
    for n in 0..30u64 {
        let text = "x".repeat(50_000);
        w.publish_with(c, 1 + n, Contract::Queue, |r| r.retain = true, &format!("site/{n}"), &text);
    }
    let s = w.connect();
    let since = Since::Now;
    let head = Subscribe { filter: "site/#", retained: true, since, respond: false, disconnect_when_slow: false };
    w.send(s, 1, &head, &[]);
    let frames = w.frames(s);
    let whole = |f: &&super::world::Seen| f.kind == FrameType::Deliver && f.flags & crate::wire::FLAG_CONT == 0;
    assert_eq!(frames.iter().filter(whole).count(), 30);
}

#[test]
fn redeliveries_from_disk_are_read_as_credit_allows_and_in_order() {
    let mut settings = Settings { queues: vec![queue("main", "#")], ..Default::default() };
    settings.store.tail_bytes = 4 * 1_024;
    let mut w = World::with(settings);
    let c = w.connect();
    let texts: Vec<String> = (0..100).map(|n| format!("{n:0>300}")).collect();
    for (n, text) in (1..).zip(&texts) {
        w.publish(c, n, "a", text);
    }
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 100);
    assert_eq!(w.texts(r), texts);
    w.disconnect(r);
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    let before = w.broker.ids;
    let mut again = Vec::new();
    for _ in 0..100 {
        w.credit(r, 1, 1);
        assert!(w.broker.reads.len() <= 1);
        again.extend(w.texts(r));
    }
    assert!(again == texts, "a message in memory overtook one on disk");
    assert!(w.broker.ids - before <= 210, "{} reads for 100 messages", w.broker.ids - before);
}

#[test]
fn subscribers_of_a_stored_message_see_it_when_it_is_durable_whatever_its_contract() {
    let mut w = World::new(vec![QueueSettings { contract: Contract::Memory, history: true, ..queue("main", "#") }]);
    let (s, c) = (w.connect(), w.connect());
    let since = Since::Now;
    let head = Subscribe { filter: "#", retained: false, since, respond: false, disconnect_when_slow: false };
    w.send(s, 1, &head, &[]);
    w.frames(s);
    w.hold_commits = true;
    w.publish_with(c, 1, Contract::Disk, |_| {}, "a", "first");
    w.publish_with(c, 2, Contract::Memory, |_| {}, "a", "second");
    assert_eq!(w.texts(s), Vec::<String>::new(), "its offset may yet be another's");
    while !w.held.is_empty() {
        w.release_commit();
    }
    assert_eq!(w.texts(s), ["first", "second"]);
}

#[test]
fn a_replay_never_pushes_out_what_waits_in_a_queue_that_rejects() {
    let full = QueueSettings { messages_max: 2, overflow: Overflow::Reject, ..queue("main", "#") };
    let mut w = World::new(vec![full]);
    let c = w.connect();
    w.publish(c, 1, "a", "poison");
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 1);
    assert_eq!(w.texts(r), ["poison"]);
    w.send(r, 1, &Nack { first: 1, count: 1, delay_ms: 0, give_up: true, reason: "" }, &[]);
    w.pass(1_000);
    w.publish(c, 2, "a", "kept 1");
    w.publish(c, 3, "a", "kept 2");
    assert_eq!(w.verdicts(c).last(), Some(&(3, Ok(Outcome::Stored))));
    let root = w.connect();
    let call = |w: &mut World| {
        let body = r#"{"name":"main"}"#;
        let head = Request { channel: admin::QUEUE_REPLAY, deadline_ms: 0, total: body.len() as u32, properties: &[] };
        w.send(root, 9, &head, body.as_bytes());
        let seen = w.expect(root);
        assert_eq!(seen.get::<Response<'_>>().status, 0);
        String::from_utf8_lossy(&seen.payload).into_owned()
    };
    assert_eq!(call(&mut w), r#"{"count":0}"#);
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["kept 1", "kept 2"]);
    w.ack(r, 1, 2, 2);
    w.pass(1_000);
    assert_eq!(call(&mut w), r#"{"count":1}"#, "the letter stayed until there was room");
    assert_eq!(w.texts(r), ["poison"]);
}

#[test]
fn a_history_that_does_not_fit_the_outbox_is_not_called_complete() {
    let mut w = World::new(vec![QueueSettings { history: true, ..queue("main", "#") }]);
    let c = w.connect();
    for n in 0..18u64 {
        w.publish(c, 1 + n, "a", &"x".repeat(50_000));
    }
    let s = w.connect();
    w.reads(s, false);
    for stream in 1..=4 {
        w.send(s, stream, &History { channel: "a", since: Since::Last(18), limit: 0 }, &[]);
    }
    w.reads(s, true);
    let frames = w.frames(s);
    for stream in 1..=4 {
        let of = |kind| frames.iter().filter(move |f| f.stream == stream && f.kind == kind);
        let items = of(FrameType::Deliver).filter(|f| f.flags & crate::wire::FLAG_CONT == 0).count();
        let done = of(FrameType::Ok).next().expect("an end").get::<Done>();
        assert_eq!(done.complete, items == 18, "stream {stream}: {items} of 18");
    }
}

#[test]
fn a_history_cut_by_a_limit_is_not_called_complete() {
    let mut w = World::new(vec![QueueSettings { history: true, ..queue("main", "#") }]);
    let c = w.connect();
    let limit = w.broker.settings().limits.outbox_bytes_max / 2;
    let count = limit as usize / 50_000 + 5;
    for n in 0..count as u64 {
        w.publish(c, 1 + n, "a", &"x".repeat(50_000));
    }
    let begin = w.now.wall.0;
    let s = w.connect();
    let ask = |w: &mut World, since, limit| {
        w.send(s, 1, &History { channel: "a", since, limit }, &[]);
        let frames = w.frames(s);
        let whole = |f: &&super::world::Seen| f.kind == FrameType::Deliver && f.flags & crate::wire::FLAG_CONT == 0;
        (frames.iter().filter(whole).count(), frames.last().expect("an end").get::<Done>().complete)
    };
    for since in [Since::Last(count as u32), Since::Last(1_000), Since::Time(begin - 1)] {
        let (items, complete) = ask(&mut w, since, 0);
        assert!((1..count).contains(&items) && !complete, "{since:?}: {items} of {count}, {complete}");
    }
    assert_eq!(ask(&mut w, Since::Time(begin - 1), 2), (2, false), "by number, too");
    assert_eq!(ask(&mut w, Since::Last(5), 3), (3, false));
    assert_eq!(ask(&mut w, Since::Last(5), 0), (5, true));
    assert_eq!(ask(&mut w, Since::Time(begin + 1), 0), (0, true));
}

#[test]
fn a_page_read_for_a_deleted_consumer_moves_no_other() {
    let mut w = World::new(vec![QueueSettings { keep: Keep::Limits, ..queue("main", "#") }]);
    let c = w.connect();
    for n in 0..20 {
        w.publish(c, 1 + n, "a", &n.to_string());
    }
    w.restart();
    let a = w.connect();
    w.consume_with(a, 1, "main", "a", &[], |h| h.window = 10);
    w.frames(a);
    w.credit(a, 1, 10);
    assert_eq!(w.texts(a).len(), 10);
    // What follows is read anew, and the answer takes its time.
    let lane = w.broker.queues[0].consumers[0].as_mut().and_then(|c| c.lanes[0].as_mut()).expect("met");
    (lane.at, lane.ahead) = (None, Default::default());
    let ack = w.frame(a, 1, &crate::wire::Ack { first: 1, count: 10 }, &[]);
    let credit = w.frame(a, 1, &Credit { messages: 10, bytes: 1_000 }, &[]);
    w.broker.handle(w.now, Event::Received { conn: a, bytes: &[ack, credit].concat() });
    let mut effects: Vec<Effect> = std::iter::from_fn(|| w.broker.poll_effect()).collect();
    let at = effects.iter().position(|e| matches!(e, Effect::Read { .. })).expect("a read");
    let Effect::Read { token, request, .. } = effects.remove(at) else { unreachable!() };
    let stale = w.perform(&request);
    w.disconnect(a);
    w.broker.delete_consumer(0, 0);
    let b = w.connect();
    w.consume(b, 1, "main", "b");
    w.event(Event::Read { token, result: stale });
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), numbers(0..20));
}

#[test]
fn a_page_of_small_blocks_is_used_whole() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    for n in 0..200 {
        w.publish(c, 1 + n, "a", &n.to_string());
    }
    w.restart();
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    let before = w.broker.ids;
    w.credit(r, 1, 1_000);
    assert_eq!(w.texts(r), numbers(0..200));
    assert!(w.broker.ids - before <= 5, "{} reads for one page", w.broker.ids - before);
}

#[test]
fn history_ends_where_the_queue_let_go_though_the_block_is_still_there() {
    let settings =
        QueueSettings { history: true, messages_max: 5, overflow: Overflow::DropOldest, ..queue("main", "#") };
    let mut w = World::new(vec![settings]);
    let c = w.connect();
    w.publish_batch(c, 1, "a", &numbers(0..5));
    w.publish_batch(c, 6, "a", &numbers(5..7));
    w.pass(100);
    let s = w.connect();
    w.send(s, 1, &History { channel: "a", since: Since::Last(10), limit: 0 }, &[]);
    let frames = w.frames(s);
    let counts = frames.iter().filter(|f| f.kind == FrameType::Deliver).map(|f| f.get::<crate::wire::Deliver>().count);
    assert_eq!(counts.sum::<u32>(), 5);
}

#[test]
fn dead_letters_in_memory_survive_a_failure_of_the_disk() {
    let memory = QueueSettings { storage: Storage::Memory, contract: Contract::Memory, ..queue("mem", "#") };
    let mut w = World::new(vec![memory]);
    let (c, r) = (w.connect(), w.connect());
    w.publish(c, 1, "a", "poison");
    w.consume(r, 1, "mem", "r");
    w.credit(r, 1, 1);
    assert_eq!(w.texts(r), ["poison"]);
    w.send(r, 1, &Nack { first: 1, count: 1, delay_ms: 0, give_up: true, reason: "" }, &[]);
    w.fail_store(StoreError::Io("gone".into()));
    w.reopen_store();
    let r = w.connect();
    w.consume(r, 1, "$dead/mem", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["poison"]);
}
