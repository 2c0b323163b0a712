//! Consumers: position, competition, retries, dead letters, delay, TTL, restarts.

use super::world::{World, queue};
use crate::config::{Keep, Overflow, QueueSettings, Storage};
use crate::model::{Priority, Record, tag};
use crate::wire::{Code, Contract, Deliver, DeliverItems, FrameType, Nack, Pause, Resume, Unsubscribe, item_flag};

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[test]
fn what_was_acknowledged_is_not_delivered_again_after_a_restart_and_the_rest_is_with_the_flag() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish_batch(c, 1, "a", &numbers(0..10));
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 6);
    assert_eq!(w.texts(r), numbers(0..6));
    w.ack(r, 1, 1, 2);
    w.ack(r, 1, 4, 1);
    w.pass(1_000);
    w.restart();
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 100);
    let seen = w.messages(r);
    let texts: Vec<&str> = seen.iter().map(|m| m.text.as_str()).collect();
    assert_eq!(texts, ["2", "4", "5", "6", "7", "8", "9"]);
    let redelivered: Vec<bool> = seen.iter().map(|m| m.flags & item_flag::REDELIVERED != 0).collect();
    assert_eq!(redelivered, [true; 7], "after a cut nobody knows what else had been delivered");
}

#[test]
fn a_new_consumer_is_given_nothing_before_a_cut_can_no_longer_undo_it() {
    let mut w = World::new(vec![queue("q", "#")]);
    let p = w.connect();
    w.publish(p, 1, "a", "m1");
    w.hold_commits = true;
    let c = w.connect();
    w.consume(c, 2, "q", "c");
    w.credit(c, 2, 10);
    assert!(w.messages(c).is_empty(), "its row is not durable");
    w.release_commit();
    assert_eq!(w.texts(c), ["m1"]);
    // The power goes: now it is known that something may have been delivered.
    w.restart();
    let c = w.connect();
    w.consume(c, 2, "q", "c");
    w.credit(c, 2, 10);
    let again = w.messages(c);
    assert_eq!((again.len(), again[0].flags & item_flag::REDELIVERED), (1, item_flag::REDELIVERED));
}

#[test]
fn a_consumer_that_is_refused_is_not_made() {
    let mut w = World::new(vec![QueueSettings { keep: Keep::Work, ..queue("q", "#") }]);
    let c = w.connect();
    w.consume_with(c, 2, "q", "refused", &[], |head| head.credit_messages = u32::MAX);
    assert_eq!(w.expect_error(c), Code::CreditOverflow);
    // The queue has one group: it is still free.
    w.consume(c, 3, "q", "taken");
}

#[test]
fn after_an_orderly_stop_only_what_was_delivered_has_the_flag() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish_batch(c, 1, "a", &numbers(0..10));
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 4);
    w.ack(r, 1, 1, 2);
    let deadline = w.now.mono.plus_ms(10_000);
    w.event(crate::broker::Event::Stop { deadline });
    assert!(w.stopped);
    w.restart();
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 100);
    let seen: Vec<(String, bool)> =
        w.messages(r).into_iter().map(|m| (m.text, m.flags & item_flag::REDELIVERED != 0)).collect();
    let expected: Vec<(String, bool)> = (2..10).map(|n| (n.to_string(), n < 4)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn what_a_lost_session_had_comes_back_before_anything_new_though_it_must_be_read_from_disk() {
    let mut settings = crate::config::Settings { queues: vec![queue("main", "#")], ..Default::default() };
    settings.store.tail_bytes = 4 * 1_024;
    let mut w = World::with(settings);
    let c = w.connect();
    let texts: Vec<String> = (0..200).map(|n| format!("{n:0>300}")).collect();
    w.publish_batch(c, 1, "a", &texts);
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 50);
    assert_eq!(w.texts(r), texts[..50]);
    w.disconnect(r);
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 200);
    assert_eq!(w.texts(r), texts);
}

#[test]
fn sessions_that_share_a_name_compete_and_a_lost_one_hands_its_share_on() {
    let mut w = World::new(vec![queue("main", "#")]);
    let (a, b) = (w.connect(), w.connect());
    for s in [a, b] {
        w.consume(s, 1, "main", "crew");
        w.credit(s, 1, 100);
    }
    let c = w.connect();
    for n in 1..=20 {
        w.publish(c, n, "a", &n.to_string());
    }
    let (of_a, of_b) = (w.texts(a), w.texts(b));
    assert_eq!(of_a.len() + of_b.len(), 20);
    assert!(!of_a.is_empty() && !of_b.is_empty(), "both work");
    w.disconnect(a);
    let mut again = w.messages(b);
    assert!(again.iter().all(|m| m.flags & item_flag::REDELIVERED != 0));
    again.sort_by_key(|m| m.seq);
    assert_eq!(again.into_iter().map(|m| m.text).collect::<Vec<_>>(), of_a);
}

#[test]
fn the_window_bounds_what_is_under_way_and_credit_what_is_sent() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish_batch(c, 1, "a", &numbers(0..50));
    let r = w.connect();
    w.consume_with(r, 1, "main", "r", &[], |h| h.window = 5);
    w.frames(r);
    w.credit(r, 1, 3);
    assert_eq!(w.texts(r), numbers(0..3));
    w.credit(r, 1, 30);
    assert_eq!(w.texts(r), numbers(3..5));
    w.ack(r, 1, 1, 5);
    assert_eq!(w.texts(r), numbers(5..10));
    w.send(r, 1, &Pause { code: 0 }, &[]);
    w.ack(r, 1, 6, 5);
    assert_eq!(w.texts(r), Vec::<String>::new());
    w.send(r, 1, &Resume {}, &[]);
    assert_eq!(w.texts(r), numbers(10..15));
}

#[test]
fn a_nack_comes_back_after_its_delay_and_dies_after_its_attempts() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish(c, 1, "a", "poison");
    w.publish(c, 2, "a", "fine");
    let r = w.connect();
    w.consume_with(r, 1, "main", "r", &[], |h| (h.attempts_max, h.window) = (2, 1));
    w.frames(r);
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["poison"]);
    let nack = |first, delay_ms| Nack { first, count: 1, delay_ms, give_up: false, reason: "" };
    w.send(r, 1, &nack(1, 5_000), &[]);
    w.pass(4_900);
    assert_eq!(w.texts(r), Vec::<String>::new(), "with a window of one nothing overtakes it");
    w.pass(200);
    let again = w.messages(r);
    assert_eq!((again.len(), again[0].attempt, again[0].flags), (1, 2, item_flag::REDELIVERED));
    w.send(r, 1, &nack(2, 0), &[]);
    assert_eq!(w.texts(r), ["fine"]);
    w.ack(r, 1, 3, 1);
    w.consume(r, 2, "$dead/main", "undertaker");
    w.credit(r, 2, 10);
    let dead = w.messages(r);
    assert_eq!((dead.len(), dead[0].text.as_str()), (1, "poison"));
    assert_eq!(w.broker.counters().dead, 1);
    w.restart();
    let r = w.connect();
    w.consume(r, 2, "$dead/main", "undertaker");
    w.credit(r, 2, 10);
    assert_eq!(w.texts(r), ["poison"], "dead letters survive a restart");
}

#[test]
fn an_unanswered_delivery_is_made_again_after_its_timeout_and_the_late_answer_is_void() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish(c, 1, "a", "x");
    let r = w.connect();
    w.consume_with(r, 1, "main", "r", &[], |h| (h.ack_timeout_ms, h.backoff_ms) = (1_000, 1));
    w.frames(r);
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["x"]);
    w.pass(1_500);
    let again = w.messages(r);
    assert_eq!((again.len(), again[0].tag), (1, 2));
    w.ack(r, 1, 1, 1);
    w.ack(r, 1, 2, 1);
    w.pass(5_000);
    assert_eq!(w.texts(r), Vec::<String>::new());
}

#[test]
fn work_leaves_when_acknowledged_and_has_one_consumer_group() {
    let work = QueueSettings { keep: Keep::Work, ..queue("jobs", "#") };
    let mut w = World::new(vec![work]);
    let c = w.connect();
    w.publish_batch(c, 1, "a", &numbers(0..5));
    let r = w.connect();
    w.consume(r, 1, "jobs", "crew");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r).len(), 5);
    w.ack(r, 1, 1, 5);
    assert_eq!(w.broker.queues[0].messages(), 0);
    let other = w.connect();
    w.consume_with(other, 1, "jobs", "others", &[], |_| {});
    assert_eq!(w.expect_error(other), Code::QueueHasConsumer);
}

#[test]
fn filters_select_and_skipped_messages_hold_nothing_back() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    for n in 0..10 {
        w.publish(c, 1 + n, if n % 2 == 0 { "even" } else { "odd" }, &n.to_string());
    }
    let r = w.connect();
    w.consume_with(r, 1, "main", "r", &["odd"], |_| {});
    w.frames(r);
    w.credit(r, 1, 100);
    assert_eq!(w.texts(r), ["1", "3", "5", "7", "9"]);
    w.ack(r, 1, 1, 5);
    assert_eq!(w.broker.queues[0].messages(), 0);
}

#[test]
fn nothing_is_delivered_after_the_last_commit_of_a_stop() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish_batch(c, 1, "a", &numbers(0..4));
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 2);
    assert_eq!(w.texts(r), ["0", "1"]);
    w.pass(1_000);
    w.hold_commits = true;
    let deadline = w.now.mono.plus_ms(10_000);
    w.event(crate::broker::Event::Stop { deadline });
    assert_eq!(w.held.len(), 1, "the last commit is under way");
    w.credit(r, 1, 2);
    w.hold_commits = false;
    w.release_commit();
    assert!(w.stopped);
    let last = w.frames(r);
    assert!(last.iter().all(|f| f.kind != FrameType::Deliver), "{last:?}");
    w.restart();
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 10);
    let again: Vec<_> = w.messages(r).into_iter().map(|m| (m.text, m.flags)).collect();
    let expected = [("0", item_flag::REDELIVERED), ("1", item_flag::REDELIVERED), ("2", 0), ("3", 0)];
    assert_eq!(again, expected.map(|(text, flags)| (text.to_owned(), flags)));
}

#[test]
fn filters_change_only_while_no_other_session_consumes() {
    let mut w = World::new(vec![queue("main", "#")]);
    let (a, b) = (w.connect(), w.connect());
    w.consume_with(a, 1, "main", "r", &["x", "y"], |_| {});
    assert_eq!(w.expect(a).kind, FrameType::Ok);
    w.consume_with(b, 1, "main", "r", &["x"], |_| {});
    assert_eq!(w.expect_error(b), Code::Conflict);
    w.consume_with(b, 1, "main", "r", &[], |_| {});
    assert_eq!(w.expect_error(b), Code::Conflict);
    w.consume_with(b, 1, "main", "r", &["y", "x", "y"], |_| {});
    assert_eq!(w.expect(b).kind, FrameType::Ok, "the same set competes");
    w.send(b, 1, &Unsubscribe {}, &[]);
    w.frames(b);
    let c = w.connect();
    for (n, channel) in [(1, "x"), (2, "y"), (3, "z")] {
        w.publish(c, n, channel, channel);
    }
    w.credit(a, 1, 10);
    assert_eq!(w.texts(a), ["x", "y"], "nothing changed for the session that was there");
    w.disconnect(a);
    w.consume_with(b, 1, "main", "r", &["z"], |_| {});
    assert_eq!(w.expect(b).kind, FrameType::Ok, "alone it changes them");
    w.publish(c, 4, "z", "after");
    w.credit(b, 1, 10);
    assert_eq!(w.texts(b), ["x", "y", "after"], "what was under way comes back, what was passed over does not");
}

#[test]
fn ttl_ends_a_message_and_delay_holds_it_back_even_over_a_restart() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r: &mut Record<'_>| r.ttl_ms = 1_000, "a", "short-lived");
    w.publish_with(c, 2, Contract::Queue, |r: &mut Record<'_>| r.delay_ms = 5_000, "a", "later");
    w.publish_with(c, 3, Contract::Queue, |r: &mut Record<'_>| r.delay_ms = 2_000, "a", "sooner");
    assert_eq!(w.verdicts(c).len(), 3);
    w.pass(1_500);
    w.restart();
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 100);
    assert_eq!(w.texts(r), Vec::<String>::new());
    w.pass(600);
    assert_eq!(w.texts(r), ["sooner"]);
    w.pass(3_000);
    assert_eq!(w.texts(r), ["later"]);
    assert_eq!(w.broker.queues[0].delayed.messages, 0);
}

#[test]
fn age_ends_messages_whether_read_or_not() {
    let aged = QueueSettings { age_ms_max: 10_000, ..queue("main", "#") };
    let mut w = World::new(vec![aged]);
    let c = w.connect();
    w.publish(c, 1, "a", "old");
    w.pass(12_000);
    assert_eq!(w.broker.queues[0].messages(), 0);
    w.publish(c, 2, "a", "new");
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["new"]);
}

#[test]
fn drop_oldest_moves_a_slow_consumer_on_and_counts_what_it_lost() {
    let ring =
        QueueSettings { messages_max: 10, overflow: Overflow::DropOldest, keep: Keep::Limits, ..queue("q", "#") };
    let mut w = World::new(vec![ring]);
    let r = w.connect();
    w.consume(r, 1, "q", "slow");
    let c = w.connect();
    w.publish_batch(c, 1, "a", &numbers(0..100));
    w.credit(r, 1, 100);
    assert_eq!(w.texts(r), numbers(90..100));
    assert_eq!(w.broker.queues[0].consumers[0].as_ref().map(|c| c.lost), Some(90));
}

#[test]
fn a_backlog_larger_than_the_tail_is_paged_from_the_store_in_order() {
    let mut settings = crate::config::Settings { queues: vec![queue("main", "#")], ..Default::default() };
    settings.store.tail_bytes = 64 * 1_024;
    let mut w = World::with(settings);
    let c = w.connect();
    for batch in 0..40u32 {
        let texts: Vec<String> = (0..100).map(|n| format!("{:0>200}", batch * 100 + n)).collect();
        w.publish_batch(c, 1 + u64::from(batch) * 100, "a", &texts);
        w.pass(5);
    }
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    let mut seen = Vec::new();
    for _ in 0..100 {
        w.send(r, 1, &crate::wire::Credit { messages: 500, bytes: 1 << 20 }, &[]);
        let got = w.messages(r);
        let Some(last) = got.last() else { break };
        w.ack(r, 1, got[0].tag, (last.tag - got[0].tag + 1) as u32);
        seen.extend(got.into_iter().map(|m| m.text.trim_start_matches('0').parse::<u32>().unwrap_or(0)));
    }
    seen.extend(w.messages(r).into_iter().map(|m| m.text.trim_start_matches('0').parse::<u32>().unwrap_or(0)));
    assert_eq!(seen, (0..4_000).collect::<Vec<_>>());
}

#[test]
fn a_memory_queue_delivers_too_and_is_empty_after_a_restart() {
    let ram = QueueSettings { storage: Storage::Memory, contract: Contract::Memory, ..queue("ram", "#") };
    let mut w = World::new(vec![ram]);
    let before = w.commits;
    let c = w.connect();
    w.publish_batch(c, 1, "a", &numbers(0..1_000));
    let r = w.connect();
    w.consume(r, 1, "ram", "r");
    w.credit(r, 1, 2_000);
    assert_eq!(w.texts(r), numbers(0..1_000));
    assert_eq!(w.commits, before, "nothing of it touches the disk");
    w.restart();
    let r = w.connect();
    w.consume(r, 1, "ram", "r");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), Vec::<String>::new());
}

#[test]
fn mistakes_on_a_consumer_stream_have_their_codes() {
    let mut w = World::new(vec![queue("main", "#")]);
    let r = w.connect();
    w.consume_with(r, 1, "nowhere", "r", &[], |_| {});
    assert_eq!(w.expect_error(r), Code::UnknownQueue);
    w.consume_with(r, 1, "main", "r r", &[], |_| {});
    assert_eq!(w.expect_error(r), Code::BadName);
    w.consume_with(r, 1, "main", "r", &["a/#/b"], |_| {});
    assert_eq!(w.expect_error(r), Code::BadFilter);
    w.consume(r, 1, "main", "r");
    w.consume_with(r, 2, "main", "r", &[], |_| {});
    assert_eq!(w.expect_error(r), Code::DuplicateConsumer);
    w.send(r, 1, &Unsubscribe {}, &[]);
    assert_eq!(w.expect(r).kind, FrameType::Ok);
    w.consume(r, 1, "main", "r");
    w.ack(r, 1, 1, 1);
    assert_eq!(w.expect_error(r), Code::NeverDelivered);
    assert!(w.is_closed(r));
    let r = w.connect();
    w.consume_with(r, 1, "main", "r", &[], |h| h.credit_messages = u32::MAX);
    assert_eq!(w.expect_error(r), Code::CreditOverflow);
}

#[test]
fn a_message_its_consumer_cannot_take_becomes_a_dead_letter_and_blocks_nothing() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish(c, 1, "a", &"x".repeat(5_000));
    w.publish(c, 2, "a", "small");
    let r = w.connect_as(false, 1_000);
    w.consume(r, 1, "main", "tiny");
    w.credit(r, 1, 10);
    assert_eq!(w.texts(r), ["small"]);
    w.pass(100);
    assert_eq!(w.broker.counters().dead, 1);
}

#[test]
fn alarms_reach_a_consumer_before_the_bulk_that_waits() {
    let mut w = World::new(vec![queue("main", "#")]);
    let c = w.connect();
    w.publish_batch(c, 1, "a", &numbers(0..10));
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.credit(r, 1, 2);
    w.publish_with(c, 11, Contract::Queue, |r| r.priority = Priority::MAX, "a", "alarm");
    w.pass(10);
    w.credit(r, 1, 2);
    assert_eq!(w.texts(r), ["0", "1", "alarm", "2"]);
}

/// What the dead letters delivered on this stream say of why they died.
fn reasons(w: &mut World, conn: crate::model::ConnId) -> Vec<String> {
    let of_record = |bytes: &[u8]| {
        let record = Record::decode(bytes).expect("a record");
        let reason = record.properties.iter().find(|p| p.tag == tag::DEAD_REASON).expect("it says why");
        String::from_utf8(reason.value.to_vec()).expect("text")
    };
    let mut all = Vec::new();
    for seen in w.frames(conn) {
        let head = seen.get::<Deliver>();
        let items = DeliverItems::parse(&seen.payload, head.count, head.total).expect("well-formed");
        all.extend(items.map(|item| of_record(item.record)));
    }
    all
}

#[test]
fn a_dead_letter_says_the_reason_it_was_given_up_for_cut_to_its_bound() {
    let mut w = World::new(vec![QueueSettings { attempts_max: 2, backoff_ms: 10, ..queue("main", "#") }]);
    let p = w.connect();
    let r = w.connect();
    w.consume(r, 1, "main", "r");
    w.publish_batch(p, 1, "a", &numbers(0..4));
    w.credit(r, 1, 100);
    let long = "ß".repeat(300);
    let tags: Vec<u64> = w.messages(r).iter().map(|m| m.tag).collect();
    for (reason, tag) in ["message-too-large: the upstream takes 4 KiB", "", &long].into_iter().zip(&tags) {
        w.send(r, 1, &Nack { first: *tag, count: 1, delay_ms: 0, give_up: true, reason }, &[]);
    }
    // What is tried again and fails for good was not given up: nobody decided for that reason.
    w.send(r, 1, &Nack { first: tags[3], count: 1, delay_ms: 0, give_up: false, reason: "not yet" }, &[]);
    w.pass(1_000);
    let again = w.messages(r)[0].tag;
    w.send(r, 1, &Nack { first: again, count: 1, delay_ms: 0, give_up: false, reason: "never" }, &[]);
    w.pass(1_000);
    let u = w.connect();
    w.consume(u, 2, "$dead/main", "undertaker");
    w.credit(u, 2, 10);
    let plain = "its attempts were exhausted or it was given up";
    assert_eq!(reasons(&mut w, u), ["message-too-large: the upstream takes 4 KiB", plain, &long[..512], plain]);
}
