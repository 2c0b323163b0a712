//! Publish: contracts, order, dedupe, limits.

use super::world::{World, id, queue};
use crate::config::{Keep, Overflow, QueueSettings, Settings, Storage};
use crate::model::{MessageId, Priority};
use crate::wire::{Code, Contract, Outcome};

#[test]
fn no_ack_leaves_before_the_commit_is_durable() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.hold_commits = true;
    w.publish(c, 1, "a", "one");
    assert!(w.frames(c).is_empty());
    w.publish(c, 2, "a", "two");
    assert_eq!(w.held.len(), 1, "one commit is under way, the other gathers");
    w.release_commit();
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Stored))]);
    w.release_commit();
    assert_eq!(w.verdicts(c), [(2, Ok(Outcome::Stored))]);
}

#[test]
fn contract_memory_is_acknowledged_at_once_and_disk_can_be_asked_for() {
    let fast = QueueSettings { contract: Contract::Memory, ..queue("fast", "#") };
    let mut w = World::new(vec![fast]);
    let c = w.connect();
    w.hold_commits = true;
    w.publish(c, 1, "a", "one");
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Stored))]);
    w.publish_with(c, 2, Contract::Disk, |_| {}, "a", "two");
    assert_eq!(w.verdicts(c), []);
    w.release_commit();
    w.release_commit();
    assert_eq!(w.verdicts(c), [(2, Ok(Outcome::Stored))]);
}

#[test]
fn disk_asked_where_no_queue_captures_is_refused_and_does_not_fence() {
    let memory = QueueSettings { storage: Storage::Memory, contract: Contract::Memory, ..queue("ram", "ram/#") };
    let mut w = World::new(vec![memory]);
    let c = w.connect();
    w.publish_with(c, 1, Contract::Disk, |_| {}, "a", "x");
    w.publish_with(c, 2, Contract::Disk, |_| {}, "ram/a", "x");
    w.publish_with(c, 3, Contract::Memory, |_| {}, "ram/a", "x");
    w.publish(c, 4, "a", "x");
    let no_queue = Err(Code::NoQueue);
    let expected = [(1, no_queue), (2, no_queue), (3, Ok(Outcome::Stored)), (4, Ok(Outcome::LiveOnly))];
    assert_eq!(w.verdicts(c), expected);
}

#[test]
fn a_repeated_id_is_stored_once_and_answered_no_earlier_than_its_first_copy() {
    let mut w = World::new(vec![queue("main", "#")]);
    let (a, b) = (w.connect(), w.connect());
    w.hold_commits = true;
    w.publish_with(a, 1, Contract::Queue, |r| r.id = id(1), "a", "one");
    w.publish_with(b, 1, Contract::Queue, |r| r.id = id(1), "a", "one");
    assert_eq!((w.verdicts(a), w.verdicts(b)), (vec![], vec![]));
    w.release_commit();
    while !w.held.is_empty() {
        w.release_commit();
    }
    assert_eq!(w.verdicts(a), [(1, Ok(Outcome::Stored))]);
    assert_eq!(w.verdicts(b), [(1, Ok(Outcome::Duplicate))]);
    w.restart();
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.id = id(1), "a", "one");
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Duplicate))], "the window survives a restart");
    w.pass(300_000);
    w.publish_with(c, 2, Contract::Queue, |r| r.id = id(1), "a", "one");
    assert_eq!(w.verdicts(c), [(2, Ok(Outcome::Stored))], "and ends");
}

#[test]
fn a_refused_message_leaves_no_id_and_fences_what_follows() {
    let small = QueueSettings { messages_max: 2, keep: Keep::Interest, ..queue("small", "#") };
    let mut w = World::new(vec![small]);
    let c = w.connect();
    w.publish_batch(c, 1, "a", &["1".into(), "2".into()]);
    // The refused one has an id, which is not remembered: its retry is no duplicate.
    w.publish_with(c, 3, Contract::Queue, |r| r.id = id(3), "a", "3");
    w.publish(c, 4, "a", "4");
    let full = Err(Code::QueueFull);
    let fenced = Err(Code::Fenced);
    let stored = Ok(Outcome::Stored);
    assert_eq!(w.verdicts(c), [(1, stored), (2, stored), (3, full), (4, fenced)]);
    w.publish(c, 5, "a", "5");
    assert_eq!(w.verdicts(c), [(5, fenced)]);
    let r = w.connect();
    w.consume(r, 1, "small", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["1", "2"]);
    w.ack(r, 1, 1, 2);
    w.publish_with(c, 3, Contract::Queue, |r| r.id = id(3), "a", "3");
    w.publish(c, 4, "a", "4");
    assert_eq!(w.verdicts(c), [(3, stored), (4, stored)]);
    assert_eq!(w.texts(r), ["3", "4"]);
}

#[test]
fn captured_by_several_queues_is_all_or_nothing() {
    let small = QueueSettings { messages_max: 1, ..queue("small", "a/#") };
    let mut w = World::new(vec![queue("main", "#"), small]);
    let c = w.connect();
    w.publish(c, 1, "a/b", "one");
    w.publish(c, 2, "a/b", "two");
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Stored)), (2, Err(Code::QueueFull))]);
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["one"], "the refused one is in no queue");
}

#[test]
fn a_large_payload_in_two_queues_comes_back_whole_from_both() {
    let mut w = World::new(vec![queue("one", "#"), queue("two", "#")]);
    let c = w.connect();
    let text = "x".repeat(10_000);
    w.publish(c, 1, "a", &text);
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Stored))]);
    for name in ["one", "two"] {
        let r = w.connect();
        w.consume(r, 1, name, "r");
        w.credit(r, 1, 10);
        assert_eq!(w.texts(r), std::slice::from_ref(&text));
    }
}

#[test]
fn overflow_policies_drop_and_say_so() {
    let newest = QueueSettings { messages_max: 1, overflow: Overflow::DropNewest, ..queue("newest", "n") };
    let oldest = QueueSettings { messages_max: 1, overflow: Overflow::DropOldest, ..queue("oldest", "o") };
    let mut w = World::new(vec![newest, oldest]);
    let c = w.connect();
    w.publish(c, 1, "n", "1");
    w.publish_with(c, 2, Contract::Queue, |r| r.id = id(2), "n", "2");
    w.publish(c, 3, "o", "1");
    w.publish(c, 4, "o", "2");
    let stored = Ok(Outcome::Stored);
    assert_eq!(w.verdicts(c), [(1, stored), (2, Ok(Outcome::Dropped)), (3, stored), (4, stored)]);
    assert_eq!(w.broker.counters().dropped_full, 2);
    for (name, expected) in [("newest", "1"), ("oldest", "2")] {
        let r = w.connect();
        w.consume(r, 1, name, "r");
        w.credit(r, 1, 10);
        assert_eq!(w.texts(r), [expected]);
    }
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.id = id(2), "x", "2");
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::LiveOnly))], "a dropped publish left no id behind");
}

#[test]
fn a_million_bounds_hold_a_session_back_instead_of_memory() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.hold_commits = true;
    let window = w.broker.settings().limits.window_messages;
    let mut sent = 0;
    while w.broker.wants_read(c) {
        assert!(sent < u64::from(window) + 100);
        w.publish(c, 1 + sent, "a", "x");
        sent += 1;
    }
    assert_eq!(sent, u64::from(window));
    while !w.held.is_empty() {
        w.release_commit();
    }
    assert!(w.broker.wants_read(c));
    assert_eq!(w.verdicts(c).len(), sent as usize);
}

#[test]
fn permanent_mistakes_are_refused_one_by_one() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish(c, 7, "$sys/x", "reserved");
    w.publish_with(c, 8, Contract::Upstream, |_| {}, "a", "x");
    w.publish(c, 11, "a", "wrong number");
    w.publish(c, 9, "a", "fine");
    let expected = [
        (7, Err(Code::Forbidden)),
        (8, Err(Code::NoUpstream)),
        (11, Err(Code::BadPublishNumber)),
        (9, Ok(Outcome::Stored)),
    ];
    assert_eq!(w.verdicts(c), expected);
}

#[test]
fn higher_priority_overtakes_and_order_holds_within_a_lane() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    for (n, (lane, text)) in [(0, "bulk 1"), (9, "alarm 1"), (0, "bulk 2"), (9, "alarm 2")].into_iter().enumerate() {
        let priority = Priority::new(lane).expect("below 10");
        w.publish_with(c, 1 + n as u64, Contract::Queue, |r| r.priority = priority, "a", text);
    }
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["alarm 1", "alarm 2", "bulk 1", "bulk 2"]);
}

#[test]
fn a_lone_publisher_never_waits_for_company() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    for n in 1..10 {
        w.publish(c, n, "a", "x");
        assert_eq!(w.verdicts(c), [(n, Ok(Outcome::Stored))], "no time passed");
    }
}

#[test]
fn a_busy_broker_waits_for_the_crowd_no_longer_than_its_linger() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    w.publish_batch(c, 1, "a", &texts);
    assert_eq!(w.verdicts(c).len(), 100);
    w.publish(c, 101, "a", "x");
    assert_eq!(w.verdicts(c), [], "a hundred came last time");
    w.pass(3);
    assert_eq!(w.verdicts(c), [(101, Ok(Outcome::Stored))]);
}

#[test]
fn ids_of_live_messages_are_forgotten_beyond_the_bound_at_once() {
    const IDS_MAX: u32 = 100;
    let mut settings = Settings::default();
    settings.queues.clear();
    settings.store.dedupe.ids_max = IDS_MAX;
    let mut w = World::with(settings);
    let c = w.connect();
    // No time passes: housekeeping does not come to help.
    for number in 1..=2_000u64 {
        let id = MessageId::from_parts(number, [0; 10]);
        w.publish_with(c, number, Contract::Memory, |r| r.id = id, "live", "x");
        assert!(w.broker.mounts[0].dedupe.len() <= IDS_MAX as usize + 257);
    }
    assert!(w.broker.mounts[0].dedupe.len() >= IDS_MAX as usize);
}
