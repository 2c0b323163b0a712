//! What a bridge is given after an outage: which messages, in which order, and what is given up by which rule.

use super::world::{HELLO, World, queue};
use crate::broker::{Event, Peer};
use crate::config::{BridgeSettings, Keep, OutageSettings, Overflow, QueueSettings, Settings};
use crate::model::{ConnId, Priority, Record, Wall};
use crate::queue::Losses;
use crate::wire::{Code, Contract, FrameType, Nack, Outcome};

pub(super) const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

pub(super) fn rule(channels: &str, change: impl FnOnce(&mut OutageSettings)) -> OutageSettings {
    let mut rule = OutageSettings {
        queue: "main".into(),
        tenant: String::new(),
        channels: vec![channels.into()],
        after_ms: MINUTE,
        keep_last: 0,
        every: 0,
        period_ms: 0,
        ttl_ms: 0,
        lane: 0,
    };
    change(&mut rule);
    rule
}

pub(super) fn settings(change: impl FnOnce(&mut QueueSettings), outage: Vec<OutageSettings>) -> Settings {
    let mut main = QueueSettings { keep: Keep::Work, ..queue("main", "#") };
    change(&mut main);
    let hub = BridgeSettings { up: vec!["main".into()], ..BridgeSettings::new("hub") };
    Settings { queues: vec![main], bridges: vec![hub], outage, ..Settings::default() }
}

impl World {
    /// The local session of the bridge `hub`.
    pub(super) fn local_hub(&mut self) -> ConnId {
        self.local_bridge("hub")
    }

    /// The local session of a bridge.
    pub(super) fn local_bridge(&mut self, name: &str) -> ConnId {
        let conn = self.connect_from(Peer::Bridge { name: name.into(), tenant: "".into() });
        self.send(conn, 0, &HELLO, &[]);
        assert_eq!(self.expect(conn).kind, FrameType::Welcome);
        conn
    }

    /// It forwards the queue `main`, so many messages at a time.
    pub(super) fn take_up(&mut self, conn: ConnId, window: u32) {
        self.consume_with(conn, 1, "main", "bridge:hub", &[], |h| (h.window, h.attempts_max) = (window, u32::MAX));
        assert_eq!(self.frames(conn).first().map(|f| f.kind), Some(FrameType::Ok));
    }

    fn losses(&self) -> Losses {
        self.broker.queues.iter().find(|q| q.settings.name == "main").expect("there").losses()
    }

    /// Messages the queue holds.
    fn held(&self) -> u64 {
        self.broker.queues.iter().find(|q| q.settings.name == "main").expect("there").messages()
    }
}

/// A publisher; all it publishes is stored.
struct Line(ConnId, u64);

impl Line {
    fn of(w: &mut World) -> Self {
        Self(w.connect(), 0)
    }

    fn put_with(&mut self, w: &mut World, channel: &str, text: &str, change: impl FnOnce(&mut Record<'_>)) {
        self.1 += 1;
        w.publish_with(self.0, self.1, Contract::Queue, change, channel, text);
        assert_eq!(w.verdicts(self.0), [(self.1, Ok(Outcome::Stored))], "{text}");
    }

    fn put(&mut self, w: &mut World, lane: u8, channel: &str, text: &str) {
        self.put_with(w, channel, text, |r| r.priority = Priority::new(lane).expect("below 10"));
    }

    fn all(&mut self, w: &mut World, channel: &str, texts: &[&str]) {
        texts.iter().for_each(|text| self.put(w, 0, channel, text));
    }
}

const fn losses(expired: u64, superseded: u64, thinned: u64) -> Losses {
    Losses { expired, superseded, thinned }
}

#[test]
fn the_last_of_each_channel_is_forwarded_and_the_rest_is_passed_over_settled_and_counted() {
    let mut w = World::with(settings(|_| {}, vec![rule("t/#", |r| r.keep_last = 2)]));
    let mut p = Line::of(&mut w);
    p.all(&mut w, "t/a", &["a1", "a2", "a3", "a4"]);
    p.all(&mut w, "t/b", &["b1"]);
    p.all(&mut w, "order", &["o1", "o2", "o3"]);
    w.pass(MINUTE);
    p.all(&mut w, "t/a", &["a5"]);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["a4", "b1", "o1", "o2", "o3", "a5"]);
    assert_eq!(w.losses(), losses(0, 3, 0));
    assert_eq!(w.broker.counters().superseded, 3);
    assert_eq!(w.broker.bridge_statuses(0)[0].dropped, [("superseded".to_owned(), 3)].into());
    w.ack(b, 1, 1, 6);
    w.pass(2_000);
    assert_eq!(w.held(), 0, "what was passed over is settled");
}

#[test]
fn which_are_the_last_of_a_channel_is_known_after_a_restart_with_history_and_without() {
    for history in [false, true] {
        let change = |q: &mut QueueSettings| q.history = history;
        let mut w = World::with(settings(change, vec![rule("t/#", |r| r.keep_last = 1)]));
        let mut p = Line::of(&mut w);
        for n in 0..300 {
            p.put(&mut w, 0, &format!("t/{}", n % 3), &format!("{n} {}", "x".repeat(400)));
        }
        p.put(&mut w, 9, "alarm", "fire");
        w.pass(MINUTE);
        w.restart();
        let b = w.local_hub();
        w.take_up(b, 100);
        w.credit(b, 1, 100);
        let seen = w.texts(b);
        let short: Vec<&str> = seen.iter().map(|t| t.split(' ').next().expect("a word")).collect();
        assert_eq!(short, ["fire", "297", "298", "299"], "history: {history}");
        assert_eq!(w.losses(), losses(0, 297, 0));
    }
}

#[test]
fn what_came_back_is_superseded_too_but_never_thinned() {
    let rules = vec![rule("t/#", |r| r.keep_last = 1), rule("n/#", |r| (r.every, r.after_ms) = (2, 0))];
    let mut w = World::with(settings(|_| {}, rules));
    let mut p = Line::of(&mut w);
    p.all(&mut w, "t/a", &["a1"]);
    p.all(&mut w, "n/a", &["n1", "n2", "n3"]);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["a1", "n1", "n3"]);
    w.disconnect(b);
    p.all(&mut w, "t/a", &["a2"]);
    w.pass(MINUTE);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["n1", "n3", "a2"]);
    assert_eq!(w.losses(), losses(0, 1, 1));
}

#[test]
fn thinning_keeps_one_in_n_and_one_a_period_of_each_channel_and_only_of_what_waited() {
    let rules = vec![rule("n/#", |r| r.every = 3), rule("p/#", |r| r.period_ms = 10_000)];
    let mut w = World::with(settings(|_| {}, rules));
    let mut p = Line::of(&mut w);
    for n in 0..7 {
        p.put(&mut w, 0, "n/a", &format!("n{n}"));
        p.put(&mut w, 0, "p/a", &format!("p{n}"));
        w.pass(4_000);
    }
    w.pass(MINUTE);
    p.all(&mut w, "n/a", &["n7", "n8"]);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["n0", "p0", "n3", "p3", "n6", "p6", "n7", "n8"]);
    assert_eq!(w.losses(), losses(0, 0, 8));
}

#[test]
fn a_plain_consumer_of_the_same_queue_is_given_everything() {
    let rules = vec![rule("#", |r| (r.keep_last, r.every, r.ttl_ms, r.after_ms) = (1, 2, 1_000, 0))];
    let mut w = World::with(settings(|q| q.keep = Keep::Interest, rules));
    let mut p = Line::of(&mut w);
    p.all(&mut w, "a", &["1", "2", "3"]);
    w.pass(2_000);
    let (b, c) = (w.local_hub(), w.connect());
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    w.consume(c, 1, "main", "local");
    w.credit(c, 1, 100);
    assert_eq!((w.texts(b), w.texts(c)), (vec![], vec!["1".into(), "2".into(), "3".into()]));
    assert_eq!(w.losses(), losses(3, 0, 0));
}

#[test]
fn nothing_expires_early_though_the_clock_goes_from_1970_to_today_and_back_a_year() {
    let rules = vec![
        rule("t/#", |r| r.ttl_ms = 40 * MINUTE),
        rule("p/#", |r| (r.period_ms, r.ttl_ms) = (40 * MINUTE, 80 * MINUTE)),
    ];
    let mut w = World::in_1970(settings(|_| {}, rules));
    let mut p = Line::of(&mut w);
    p.put(&mut w, 0, "t/a", "of 1970");
    p.put(&mut w, 0, "p/a", "first");
    w.pass(10 * MINUTE);
    // The network tells the time, under load.
    w.now.wall = w.now.wall.plus_ms(56 * 365 * DAY);
    p.put(&mut w, 0, "t/a", "of today");
    p.put(&mut w, 0, "p/a", "minutes later");
    w.restart();
    w.pass(20 * MINUTE);
    // Back a year: the broker's clock goes on from where it was.
    let mut clock = crate::schedule::SteadyWall::new(w.now.wall);
    let year_ago = Wall(w.now.wall.0 - 365 * DAY);
    clock.at(w.now.mono, year_ago);
    for minute in 1..=5 {
        w.pass(MINUTE);
        w.now.wall = clock.at(w.now.mono, year_ago.plus_ms(minute * MINUTE));
    }
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["of 1970", "first", "of today"]);
    assert_eq!(w.losses(), losses(0, 0, 1), "minutes passed between the two, no years");
    w.disconnect(b);
    w.pass(6 * MINUTE);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["first", "of today"], "of 1970 is over 40 minutes old now");
    assert_eq!(w.losses(), losses(1, 0, 1));
}

#[test]
fn a_class_has_its_lane_unless_the_publisher_asked_for_a_higher_one_and_full_gives_up_the_lowest_first() {
    let change = |q: &mut QueueSettings| (q.overflow, q.messages_max) = (Overflow::DropOldest, 4);
    let mut w = World::with(settings(change, vec![rule("alarm/#", |r| r.lane = 7)]));
    let mut p = Line::of(&mut w);
    p.put(&mut w, 0, "t", "t1");
    p.put(&mut w, 0, "alarm/a", "a1");
    p.put(&mut w, 9, "alarm/b", "a2");
    p.put(&mut w, 0, "t", "t2");
    p.put(&mut w, 3, "alarm/a", "a3");
    p.put(&mut w, 0, "alarm/a", "a4");
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    let seen: Vec<(String, u8)> = w.messages(b).into_iter().map(|m| (m.text, m.lane)).collect();
    let expected = [("a2", 9), ("a1", 7), ("a3", 7), ("a4", 7)].map(|(t, l)| (t.to_owned(), l));
    assert_eq!(seen, expected);
}

#[test]
fn alarms_pass_bulk_at_once_and_bulk_is_not_starved() {
    let mut w = World::with(settings(|_| {}, vec![]));
    w.reload({
        let mut s = w.broker.settings().clone();
        s.bridges[0].weights = vec![1, 1, 1, 1, 1, 1, 1, 1, 1, 4];
        s
    });
    let mut p = Line::of(&mut w);
    for n in 0..40 {
        p.put(&mut w, 0, "bulk", &format!("b{n:02}"));
        p.put(&mut w, 9, "alarm", &format!("a{n:02}"));
    }
    let b = w.local_hub();
    w.take_up(b, 10);
    let mut seen = Vec::new();
    // One at a time, as over a thin link.
    for n in 0..40 {
        w.credit(b, 1, 1);
        seen.extend(w.texts(b));
        w.ack(b, 1, n + 1, 1);
    }
    assert_eq!(seen[0], "a00");
    let bulk = seen.iter().filter(|t| t.starts_with('b')).count();
    assert_eq!((bulk, seen.len()), (8, 40), "one in five by weight: {seen:?}");
}

#[test]
fn alarms_pass_what_a_lost_session_had_and_each_lane_stays_in_order() {
    let mut w = World::with(settings(|_| {}, vec![]));
    let mut p = Line::of(&mut w);
    for n in 0..6 {
        p.put(&mut w, 0, "bulk", &format!("b{n}"));
    }
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 4);
    assert_eq!(w.texts(b), ["b0", "b1", "b2", "b3"]);
    w.ack(b, 1, 2, 1);
    w.disconnect(b);
    p.put(&mut w, 9, "alarm", "fire");
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["fire", "b0", "b2", "b3", "b4", "b5"]);
}

#[test]
fn nothing_of_a_lane_passes_a_message_that_waits_to_be_tried_again() {
    let mut w = World::with(settings(|_| {}, vec![]));
    let mut p = Line::of(&mut w);
    p.all(&mut w, "bulk", &["b0", "b1", "b2"]);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 2);
    assert_eq!(w.texts(b), ["b0", "b1"]);
    let nack = Nack { first: 1, count: 2, delay_ms: 5_000, give_up: false, reason: "later" };
    w.send(b, 1, &nack, &[]);
    w.credit(b, 1, 100);
    p.put(&mut w, 0, "bulk", "b3");
    p.put(&mut w, 5, "alarm", "fire");
    assert_eq!(w.texts(b), ["fire"], "another lane goes on");
    w.pass(5_000);
    assert_eq!(w.texts(b), ["b0", "b1", "b2", "b3"]);
}

#[test]
fn bulk_that_is_held_up_leaves_alarms_a_part_of_the_window() {
    let mut w = World::with(settings(|_| {}, vec![]));
    let mut p = Line::of(&mut w);
    p.put(&mut w, 9, "alarm", "a0");
    for n in 0..40 {
        p.put(&mut w, 0, "bulk", &format!("b{n}"));
    }
    let b = w.local_hub();
    w.take_up(b, 32);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b).len(), 30, "an alarm and what bulk may have of the window");
    p.put(&mut w, 9, "alarm", "a1");
    p.put(&mut w, 9, "alarm", "a2");
    p.put(&mut w, 9, "alarm", "a3");
    assert_eq!(w.texts(b), ["a1", "a2"], "the window holds");
}

#[test]
fn what_a_full_queue_dropped_from_under_a_bridge_is_settled_by_its_answer_or_when_it_comes_back() {
    let change = |q: &mut QueueSettings| (q.overflow, q.messages_max) = (Overflow::DropOldest, 4);
    let mut w = World::with(settings(change, vec![]));
    let mut p = Line::of(&mut w);
    p.all(&mut w, "t", &["1", "2", "3", "4"]);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 3);
    assert_eq!(w.texts(b), ["1", "2", "3"]);
    // Both 1 and 2 leave while they are under way, 4 goes on.
    p.all(&mut w, "t", &["5", "6"]);
    w.ack(b, 1, 1, 1);
    w.credit(b, 1, 1);
    assert_eq!(w.texts(b), ["4"]);
    w.disconnect(b);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["3", "4", "5", "6"], "2 is gone, and nothing waits for it");
    w.ack(b, 1, 1, 4);
    w.pass(2_000);
    assert_eq!(w.held(), 0);
}

#[test]
fn rules_may_change_while_messages_wait() {
    let mut w = World::with(settings(|_| {}, vec![]));
    let mut p = Line::of(&mut w);
    p.all(&mut w, "t/a", &["1", "2", "3"]);
    w.pass(MINUTE);
    let with = settings(|_| {}, vec![rule("t/#", |r| r.keep_last = 1)]);
    w.reload(with);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["3"]);
    w.event(Event::Timeout);
    assert_eq!(w.losses(), losses(0, 2, 0));
}

#[test]
fn rates_of_principals_and_tenants_do_not_hold_up_a_bridge() {
    let mut s = settings(|_| {}, vec![]);
    s.limits.rates.messages_per_second = 1;
    let mut w = World::with(s);
    let b = w.local_hub();
    for n in 1..=10 {
        w.publish_with(b, n, Contract::Queue, |_| {}, "down", "x");
    }
    assert!(w.verdicts(b).iter().all(|v| v.1 == Ok(Outcome::Stored)), "it is paced by its own settings");
    let c = w.connect();
    for n in 1..=3 {
        w.publish_with(c, n, Contract::Queue, |_| {}, "a", "x");
    }
    assert_eq!(w.verdicts(c).pop().map(|v| v.1), Some(Err(Code::RateLimited)));
}
