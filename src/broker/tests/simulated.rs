//! What the simulation (`tests/sim`) found, each under the promise it broke.

use super::world::{World, id, queue};
use crate::broker::Event;
use crate::config::{Keep, Overflow, QueueSettings, Storage};
use crate::wire::{Contract, FrameType, Outcome, Since, Subscribe, item_flag};

fn memory(name: &str, capture: &str) -> QueueSettings {
    QueueSettings { storage: Storage::Memory, contract: Contract::Memory, ..queue(name, capture) }
}

/// Takes one message and drops what follows.
fn narrow(name: &str) -> QueueSettings {
    QueueSettings { messages_max: 1, overflow: Overflow::DropNewest, ..queue(name, "#") }
}

fn subscribe(w: &mut World) -> crate::model::ConnId {
    let s = w.connect();
    let head =
        Subscribe { filter: "#", retained: false, since: Since::Now, respond: false, disconnect_when_slow: false };
    w.send(s, 1, &head, &[]);
    assert_eq!(w.expect(s).kind, FrameType::Ok);
    s
}

#[test]
fn what_expires_before_its_first_delivery_is_counted() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.ttl_ms = 10, "a", "old");
    w.publish(c, 2, "a", "new");
    w.pass(100);
    let r = w.connect();
    w.consume_with(r, 1, "main", "r", &["a"], |h| (h.credit_messages, h.credit_bytes) = (9, 9_000));
    w.frames(r);
    assert_eq!((w.broker.counters().expired, w.broker.counters().delivered), (1, 1));
}

#[test]
fn a_consumer_with_an_ack_timeout_writes_nothing_while_nothing_happens() {
    let mut w = World::new(vec![queue("main", "#")]);
    let r = w.connect();
    w.consume_with(r, 1, "main", "r", &[], |h| h.ack_timeout_ms = 100);
    w.pass(2_000);
    let before = w.commits;
    w.pass(600_000);
    assert_eq!(w.commits, before);
}

#[test]
fn nothing_is_delivered_behind_the_last_commit_of_a_stop() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish(c, 1, "a", "one");
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.pass(1_000);
    w.hold_commits = true;
    w.event(Event::Stop { deadline: w.now.mono.plus_ms(10_000) });
    w.frames(r);
    w.credit(r, 1, 10);
    assert!(w.frames(r).is_empty(), "the next start would not know of it");
    w.release_commit();
    assert!(w.stopped);
    w.restart();
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.messages(r)[0].flags & item_flag::REDELIVERED, 0);
}

#[test]
fn an_orderly_stop_does_not_make_a_suspect_delivery_a_first_one() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish(c, 1, "a", "one");
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.pass(1_000);
    w.credit(r, 1, 10);
    assert_eq!(w.messages(r)[0].flags & item_flag::REDELIVERED, 0);
    // That it was delivered is on no disk yet.
    w.restart();
    w.event(Event::Stop { deadline: w.now.mono.plus_ms(10_000) });
    assert!(w.stopped);
    w.restart();
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.messages(r)[0].flags & item_flag::REDELIVERED, item_flag::REDELIVERED);
}

#[test]
fn a_channel_has_one_count_of_offsets_though_several_queues_keep_one() {
    let first = QueueSettings { history: true, ..narrow("first") };
    let mut w = World::new(vec![first, QueueSettings { history: true, ..queue("second", "#") }]);
    let s = subscribe(&mut w);
    let c = w.connect();
    w.publish(c, 1, "a", "in both");
    w.publish(c, 2, "a", "in the second");
    let heard = w.messages(s);
    let has = |n: usize| heard[n].flags & item_flag::HAS_OFFSET != 0;
    assert_eq!((heard.len(), has(0), has(1)), (2, true, false));
}

#[test]
fn disk_was_asked_and_only_memory_took_it_is_not_called_stored() {
    let mut w = World::new(vec![narrow("disk"), memory("memory", "#")]);
    let c = w.connect();
    for n in 1..=2u8 {
        w.publish_with(c, u64::from(n), Contract::Disk, |r| r.id = id(n), "a", "x");
    }
    // Sent again it is no duplicate of a message that is kept.
    w.publish_with(c, 3, Contract::Disk, |r| r.id = id(2), "a", "x");
    let outcomes = [(1, Ok(Outcome::Stored)), (2, Ok(Outcome::Dropped)), (3, Ok(Outcome::Dropped))];
    assert_eq!(w.verdicts(c), outcomes);
}

#[test]
fn what_the_disk_dropped_does_not_overtake_what_it_took() {
    let mut w = World::new(vec![narrow("disk"), memory("memory", "#")]);
    let s = subscribe(&mut w);
    let c = w.connect();
    w.hold_commits = true;
    w.publish(c, 1, "a", "one");
    w.publish(c, 2, "a", "two");
    assert!(w.texts(s).is_empty());
    w.hold_commits = false;
    while !w.held.is_empty() {
        w.release_commit();
    }
    w.pass(100);
    assert_eq!(w.texts(s), ["one", "two"]);
}

#[test]
fn a_retained_value_is_not_overtaken_either() {
    let mut w = World::new(vec![QueueSettings { keep: Keep::Limits, ..queue("other", "other") }]);
    let s = subscribe(&mut w);
    let c = w.connect();
    w.hold_commits = true;
    w.publish_with(c, 1, Contract::Memory, |r| r.retain = true, "a", "kept");
    w.publish_with(c, 2, Contract::Memory, |_| {}, "a", "live");
    w.hold_commits = false;
    while !w.held.is_empty() {
        w.release_commit();
    }
    w.pass(100);
    assert_eq!(w.texts(s), ["kept", "live"]);
}
