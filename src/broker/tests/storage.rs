//! Full disks, failed stores, reloads, bounds over restarts.

use super::super::Waiting;
use super::super::storage::FILE_BYTES_MIN;
use super::world::{World, id, queue};
use crate::broker::Event;
use crate::config::{QueueSettings, Settings, Storage};
use crate::model::Priority;
use crate::model::admin::{self, StoreState};
use crate::store::{Block, QueueKey, Reader, StoreError, Table};
use crate::wire::{Code, Contract, History, Outcome, Request, Response, Since};

#[test]
fn when_space_is_low_alarms_are_still_taken_and_acks_go_on_and_it_recovers_by_itself() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish(c, 1, "a", "before");
    w.frames(c);
    w.event(Event::Disk { free_bytes: 1 });
    // The lowest that is an alarm, and the highest that is not.
    let alarm = w.broker.settings().store.alarm_priority;
    let at = |priority: u8| Priority::new(priority).expect("below ten");
    w.publish_with(c, 2, Contract::Queue, |r| r.priority = at(alarm), "a", "alarm");
    w.publish_with(c, 3, Contract::Queue, |r| r.priority = at(alarm - 1), "a", "bulk");
    assert_eq!(w.verdicts(c), [(2, Ok(Outcome::Stored)), (3, Err(Code::StorageFull))]);
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["alarm", "before"]);
    w.ack(r, 1, 1, 2);
    w.pass(1_000);
    assert_eq!(w.broker.queues[0].messages(), 0);
    let marks = w.broker.settings().store.clone();
    w.event(Event::Disk { free_bytes: marks.free_low_bytes + 1 });
    w.publish(c, 3, "a", "still low");
    assert_eq!(w.verdicts(c), [(3, Err(Code::StorageFull))], "the marks have a gap");
    w.event(Event::Disk { free_bytes: marks.free_high_bytes });
    w.publish(c, 3, "a", "again");
    assert_eq!(w.verdicts(c), [(3, Ok(Outcome::Stored))]);
}

#[test]
fn what_messages_left_free_inside_the_file_counts_as_space() {
    let mut w = World::new(vec![queue("main", "#")]);
    let marks = w.broker.settings().store.clone();
    let c = w.connect();
    w.broker.health.file_bytes = 4 * marks.free_high_bytes;
    w.event(Event::Disk { free_bytes: marks.free_low_bytes / 2 });
    w.publish(c, 1, "a", "into the room that is there");
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Stored))]);
    // Not where somebody else took the disk to its end.
    w.broker.health.file_bytes = 4 * marks.free_high_bytes;
    w.event(Event::Disk { free_bytes: marks.free_low_bytes / 8 });
    w.publish(c, 2, "a", "too full");
    assert_eq!(w.verdicts(c), [(2, Err(Code::StorageFull))]);
}

#[test]
fn a_disk_with_space_and_without_a_reserve_is_not_called_full() {
    let mut w = World::new(vec![queue("main", "#")]);
    w.fail_store(StoreError::Full("no space".into()));
    w.reopen_store();
    assert_eq!(w.broker.health.state(), StoreState::Full);
    let marks = w.broker.settings().store.clone();
    // Enough to take everything; too little to put something aside as well.
    w.broker.health.file_bytes = marks.reserve_bytes + marks.journal_bytes + 2 * FILE_BYTES_MIN;
    w.event(Event::Disk { free_bytes: marks.free_high_bytes });
    assert_eq!(w.broker.health.state(), StoreState::Ok);
    let c = w.connect();
    w.publish(c, 1, "a", "taken");
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Stored))]);
}

#[test]
fn a_failed_commit_is_never_acknowledged_and_what_was_kept_is_found_by_its_id() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.id = id(1), "a", "kept");
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Stored))]);
    w.hold_commits = true;
    w.publish_with(c, 2, Contract::Queue, |r| r.id = id(2), "a", "lost");
    w.publish_with(c, 3, Contract::Queue, |r| r.id = id(3), "a", "gathered");
    w.fail_store(StoreError::Full("no space".into()));
    let failed = Err(Code::StorageFailed);
    assert_eq!(w.verdicts(c), [(2, failed), (3, failed)]);
    assert_eq!(w.reserve, [false], "the reserve is given up");
    w.publish(c, 2, "a", "too early");
    assert_eq!(w.verdicts(c), [(2, failed)]);
    w.hold_commits = false;
    w.reopen_store();
    assert_eq!(w.broker.health.state(), StoreState::Full);
    let high = w.broker.settings().store.free_high_bytes + w.broker.settings().store.reserve_bytes;
    w.event(Event::Disk { free_bytes: high });
    assert_eq!(w.reserve, [false, true], "and made again");
    w.publish_with(c, 2, Contract::Queue, |r| r.id = id(2), "a", "lost");
    w.publish_with(c, 3, Contract::Queue, |r| r.id = id(1), "a", "kept");
    assert_eq!(w.verdicts(c), [(2, Ok(Outcome::Stored)), (3, Ok(Outcome::Duplicate))]);
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["kept", "lost"]);
}

#[test]
fn ids_that_no_disk_kept_are_still_known_when_the_store_is_open_again() {
    let memory = QueueSettings { storage: Storage::Memory, contract: Contract::Memory, ..queue("mem", "mem/#") };
    let mut w = World::new(vec![queue("main", "main/#"), memory]);
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.id = id(1), "mem/a", "in memory");
    w.publish_with(c, 2, Contract::Queue, |r| r.id = id(2), "live", "live-only");
    w.publish_with(c, 3, Contract::Queue, |r| r.id = id(3), "main/a", "on disk");
    w.hold_commits = true;
    w.publish_with(c, 4, Contract::Queue, |r| r.id = id(4), "main/a", "lost");
    w.fail_store(StoreError::Io("gone".into()));
    w.hold_commits = false;
    w.reopen_store();
    w.verdicts(c);
    w.publish_with(c, 4, Contract::Queue, |r| r.id = id(4), "main/a", "lost");
    w.publish_with(c, 5, Contract::Queue, |r| r.id = id(1), "mem/a", "in memory");
    w.publish_with(c, 6, Contract::Queue, |r| r.id = id(2), "live", "live-only");
    w.publish_with(c, 7, Contract::Queue, |r| r.id = id(3), "main/a", "on disk");
    let duplicate = Ok(Outcome::Duplicate);
    assert_eq!(w.verdicts(c), [(4, Ok(Outcome::Stored)), (5, duplicate), (6, duplicate), (7, duplicate)]);
}

#[test]
fn whoever_waits_for_a_commit_when_the_store_fails_is_told() {
    let mut w = World::new(vec![QueueSettings { history: true, ..queue("main", "#") }]);
    let (c, root, s) = (w.connect(), w.connect(), w.connect());
    w.publish(c, 1, "a", "kept");
    w.hold_commits = true;
    w.publish(c, 2, "a", "lost");
    let ask = |w: &mut World, stream, channel: &str| {
        let body = br#"{"name":"main"}"#;
        let head = Request { channel, deadline_ms: 0, total: body.len() as u32, properties: &[] };
        w.send(root, stream, &head, body);
    };
    ask(&mut w, 1, admin::QUEUE_PEEK);
    w.send(s, 1, &History { channel: "a", since: Since::Last(10), limit: 0 }, &[]);
    assert!(w.frames(root).is_empty() && w.frames(s).is_empty(), "they wait for the commit");
    w.fail_store(StoreError::Io("gone".into()));
    assert_eq!(w.expect(root).get::<Response<'_>>().status, Code::StorageFailed as u16);
    assert_eq!(w.expect_error(s), Code::StorageFailed);
    for channel in [admin::QUEUE_PURGE, admin::QUEUE_REPLAY, admin::CONSUMER_DELETE] {
        ask(&mut w, 2, channel);
        assert_eq!(w.expect(root).get::<Response<'_>>().status, Code::StorageFailed as u16, "{channel}");
    }
    w.hold_commits = false;
    w.reopen_store();
    ask(&mut w, 3, admin::QUEUE_PEEK);
    assert_eq!(w.expect(root).get::<Response<'_>>().status, 0);
}

#[test]
fn a_read_under_way_when_the_store_is_opened_anew_is_answered_and_stops_nothing() {
    let memory = QueueSettings { storage: Storage::Memory, contract: Contract::Memory, ..queue("mem", "#") };
    let mut w = World::new(vec![memory]);
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.delay_ms = 1_000, "a", "later");
    w.fail_store(StoreError::Io("gone".into()));
    // The delayed message is due and being read when the store is back.
    w.now.mono = w.now.mono.plus_ms(1_000);
    w.now.wall = w.now.wall.plus_ms(1_000);
    w.broker.handle(w.now, Event::Timeout);
    while let Some(effect) = w.broker.poll_effect() {
        drop(effect);
    }
    w.reopen_store();
    w.pass(5_000);
    let r = w.connect();
    w.consume(r, 1, "mem", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["later"]);
}

#[test]
fn a_read_that_failed_is_followed_by_a_commit_though_nothing_is_published() {
    let mut w = World::new(vec![queue("main", "#")]);
    w.pass(2_000);
    let before = w.broker.counters.commits;
    w.broker.reads.insert(u64::MAX, Waiting::Delayed(0));
    w.event(Event::Read { token: u64::MAX, result: Err(StoreError::Io("unreadable".into())) });
    w.pass(5_000);
    assert!(w.broker.counters.commits > before, "the commit finds out that the store must be opened anew");
}

/// A store that opens and cannot be read.
struct Unreadable;

impl Reader for Unreadable {
    fn page(&self, _: QueueKey, _: Priority, _: u64, _: usize) -> Result<Vec<Block>, StoreError> {
        Err(StoreError::Io("unreadable".into()))
    }

    fn scan(&self, _: Table, _: &[u8], _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StoreError> {
        Err(StoreError::Io("unreadable".into()))
    }

    fn get(&self, _: Table, _: &[u8]) -> Result<Option<bytes::Bytes>, StoreError> {
        Err(StoreError::Io("unreadable".into()))
    }
}

#[test]
fn a_store_that_is_open_again_but_unreadable_ends_the_broker_and_says_why() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.fail_store(StoreError::Io("gone".into()));
    w.event(Event::StoreReopened { reader: &Unreadable });
    assert!(w.stopped);
    assert!(matches!(w.broker.take_failure(), Some(StoreError::Io(why)) if why == "unreadable"));
    w.publish(c, 1, "a", "x");
    assert!(w.verdicts(c).iter().all(|(_, verdict)| verdict.is_err()), "nothing more is taken");
}

#[test]
fn accounts_are_the_same_after_a_restart() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    for n in 0..50u64 {
        let texts: Vec<String> = (0..50).map(|i| "x".repeat(((n * 31 + i * 7) % 900) as usize)).collect();
        w.publish_batch(c, 1 + n * 50, "a", &texts);
        w.pass(3);
    }
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 700);
    let seen = w.messages(r);
    w.ack(r, 1, 1, seen.len() as u32);
    w.pass(1_000);
    let before = (w.broker.queues[0].messages(), w.broker.queues[0].bytes());
    w.restart();
    let after = (w.broker.queues[0].messages(), w.broker.queues[0].bytes());
    assert_eq!(before.0, after.0);
    assert!(before.1.abs_diff(after.1) <= 64 * 1_024, "{before:?} {after:?}");
}

#[test]
fn a_reload_adds_queues_changes_limits_and_never_deletes() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish(c, 1, "a", "one");
    let small = QueueSettings { messages_max: 1, ..queue("main", "#") };
    w.reload(Settings { queues: vec![small, queue("extra", "extra/#")], ..Settings::default() });
    w.publish(c, 2, "a", "two");
    w.publish(c, 2, "a", "two");
    assert_eq!(w.verdicts(c)[1..], [(2, Err(Code::QueueFull)), (2, Err(Code::QueueFull))]);
    w.reload(Settings { queues: vec![queue("extra", "#")], ..Settings::default() });
    w.publish(c, 2, "a", "two");
    assert_eq!(w.verdicts(c), [(2, Ok(Outcome::Stored))]);
    w.restart();
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["one"], "a queue that left the configuration keeps what it has");
}

#[test]
fn a_payload_that_several_queues_share_comes_back_though_its_length_was_written_longer_than_needed() {
    let mut w = World::new(vec![queue("one", "#"), queue("two", "#")]);
    let c = w.connect();
    let text = "x".repeat(3_000);
    let mut bytes = super::world::record("a", &text, |_| {});
    let at = bytes.len() - text.len() - 2;
    assert_eq!(bytes[at..at + 2], [0xb8, 0x17]);
    bytes.splice(at..at + 2, [0xb8, 0x97, 0x00]);
    let head = crate::wire::Publish { contract: Contract::Queue, number: 1, total: bytes.len() as u32 };
    w.send(c, 1, &head, &bytes);
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Stored))]);
    w.restart();
    let c = w.connect();
    for (stream, queue) in [(1, "one"), (2, "two")] {
        w.consume(c, stream, queue, "r");
        w.credit(c, stream, 1);
        assert_eq!(w.texts(c).concat(), text, "{queue}");
    }
}
