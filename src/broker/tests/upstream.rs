//! Contract `upstream`: kept here first, done when the upstream has it, and never said to be there when it is not.

use super::outage::{MINUTE, rule, settings};
use super::pair::{self, Pair};
use super::world::{World, id, queue};
use crate::config::{BridgeSettings, Overflow, Settings};
use crate::model::{ConnId, MessageId};
use crate::store::StoreError;
use crate::wire::{Code, Contract, FrameType, Nack, Outcome, PublishNack, Request, Response};
use serde_json::{Value, json};

const UP: Contract = Contract::Upstream;

/// Publishes under the contract, with an id of this number.
fn put(w: &mut World, conn: ConnId, number: u64, n: u8, channel: &str) {
    w.publish_with(conn, number, UP, |r| r.id = id(n), channel, &format!("m{n}"));
}

/// What is told of a message.
fn status(w: &mut World, conn: ConnId, stream: u32, id: MessageId) -> Value {
    let head = Request { channel: &format!("$status/{id}"), deadline_ms: 0, total: 0, properties: &[] };
    w.send(conn, stream, &head, &[]);
    let seen = w.expect(conn);
    assert_eq!(seen.get::<Response<'_>>().status, 0);
    serde_json::from_slice(&seen.payload).expect("JSON")
}

fn state(w: &mut World, conn: ConnId, stream: u32, n: u8) -> String {
    status(w, conn, stream, id(n))["state"].as_str().expect("text").to_owned()
}

#[test]
fn a_publish_is_accepted_once_it_is_durable_here_and_stored_once_the_upstream_has_it() {
    let mut w = World::with(settings(|_| {}, vec![]));
    let (p, b) = (w.connect(), w.local_hub());
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    w.hold_commits = true;
    put(&mut w, p, 1, 1, "a");
    assert_eq!(w.verdicts(p), [], "it is not durable");
    w.hold_commits = false;
    w.release_commit();
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Accepted))]);
    assert_eq!(w.texts(b), ["m1"]);
    assert_eq!(status(&mut w, p, 9, id(1)), json!({"id": id(1).to_string(), "state": "queued", "bridges": ["hub"]}));
    w.ack(b, 1, 1, 1);
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Stored))]);
    assert_eq!(status(&mut w, p, 9, id(1)), json!({"id": id(1).to_string(), "state": "forwarded"}));
}

#[test]
fn the_window_is_free_after_the_interim_answer_and_final_ones_come_in_the_upstreams_order_as_ranges() {
    let mut s = settings(|_| {}, vec![]);
    s.limits.window_messages = 2;
    let mut w = World::with(s);
    let (p, b) = (w.connect(), w.local_hub());
    for n in 1..=6 {
        put(&mut w, p, u64::from(n), n, "a");
    }
    assert_eq!(w.verdicts(p).len(), 6, "each left the window");
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b).len(), 6);
    w.ack(b, 1, 4, 2);
    w.ack(b, 1, 1, 2);
    let finals: Vec<u64> = w.verdicts(p).into_iter().map(|(n, v)| v.map(|_| n).expect("stored")).collect();
    assert_eq!(finals, [4, 5, 1, 2]);
    w.ack(b, 1, 1, 6);
    let frames = w.frames(p);
    assert_eq!(frames.len(), 2, "3, and 6");
}

#[test]
fn where_no_bridge_forwards_it_the_contract_is_refused_and_nothing_is_kept() {
    let mut s = settings(|_| {}, vec![]);
    s.bridges[0].up = vec!["main site/#".into()];
    s.queues.push(queue("other", "b/#"));
    let mut w = World::with(s.clone());
    let p = w.connect();
    put(&mut w, p, 1, 1, "site/a");
    put(&mut w, p, 2, 2, "b/c");
    w.publish_with(p, 3, UP, |r| (r.id, r.delay_ms) = (id(3), 1_000), "site/a", "late");
    w.publish_with(p, 4, Contract::Disk, |r| r.id = id(2), "b/c", "m2");
    assert_eq!(
        w.verdicts(p),
        [
            (1, Ok(Outcome::Accepted)),
            (2, Err(Code::NoUpstream)),
            (3, Err(Code::NotSupported)),
            (4, Ok(Outcome::Stored)),
        ]
    );
    // Of an id that came without the contract nobody knows whether an upstream has it.
    s.bridges[0].up = vec!["main".into()];
    w.reload(s);
    put(&mut w, p, 5, 2, "b/c");
    assert_eq!(w.verdicts(p), [(5, Err(Code::NotForwarded))]);
}

#[test]
fn a_queue_may_demand_it_of_all_but_of_what_comes_from_an_upstream() {
    let mut w = World::with(settings(|q| q.contract = UP, vec![]));
    let (p, b) = (w.connect(), w.local_hub());
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    w.publish(p, 1, "a", "no id, no contract");
    let down = w.local_hub();
    w.publish_with(down, 1, Contract::Queue, |_| {}, "down", "of the upstream");
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Accepted))]);
    assert_eq!(w.verdicts(down), [(1, Ok(Outcome::Stored))]);
    w.ack(b, 1, 1, 1);
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Stored))]);
}

#[test]
fn what_the_upstream_refuses_for_good_is_a_nack_with_the_reason_and_a_dead_letter() {
    let mut w = World::with(settings(|_| {}, vec![]));
    let (p, b) = (w.connect(), w.local_hub());
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    put(&mut w, p, 1, 1, "a");
    put(&mut w, p, 2, 2, "a");
    assert_eq!(w.verdicts(p).len(), 2);
    assert_eq!(w.texts(b).len(), 2);
    w.send(b, 1, &Nack { first: 1, count: 1, delay_ms: 0, give_up: true, reason: "bad" }, &[]);
    w.ack(b, 1, 2, 1);
    let mut told = w.verdicts(p);
    told.sort_by_key(|v| v.0);
    assert_eq!(told, [(1, Err(Code::UpstreamRefused)), (2, Ok(Outcome::Stored))]);
    let told = status(&mut w, p, 9, id(1));
    assert_eq!((&told["state"], &told["code"]), (&json!("refused"), &json!("upstream-refused")));
    assert!(told["reason"].as_str().is_some_and(|r| !r.is_empty()));
    assert_eq!(w.broker.counters().dead, 1);
    // A nack in the end does not fence: the stream goes on.
    put(&mut w, p, 3, 3, "a");
    assert_eq!(w.verdicts(p), [(3, Ok(Outcome::Accepted))]);
}

#[test]
fn what_is_given_up_before_it_is_forwarded_is_a_nack_that_says_why() {
    let rules =
        vec![rule("ttl", |r| r.ttl_ms = MINUTE), rule("last", |r| r.keep_last = 1), rule("thin", |r| r.every = 2)];
    let change = |q: &mut crate::config::QueueSettings| (q.overflow, q.messages_max) = (Overflow::DropOldest, 6);
    let mut w = World::with(settings(change, rules));
    let (p, b) = (w.connect(), w.local_hub());
    w.take_up(b, 100);
    for (n, channel) in (1..).zip(["gone", "ttl", "last", "last", "thin", "thin", "kept"]) {
        put(&mut w, p, u64::from(n), n, channel);
    }
    let told: Vec<_> = w.verdicts(p).into_iter().filter(|v| v.1 != Ok(Outcome::Accepted)).collect();
    assert_eq!(told, [(1, Err(Code::NotForwarded))], "a full queue dropped its oldest");
    w.pass(MINUTE);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["m4", "m5", "m7"]);
    let mut reasons: Vec<(u64, String)> = w
        .frames(p)
        .iter()
        .filter(|f| f.kind == FrameType::PublishNack)
        .map(|f| f.get::<PublishNack<'_>>())
        .map(|n| (n.first, n.detail.split(':').next().expect("a word").to_owned()))
        .collect();
    reasons.sort();
    assert_eq!(reasons, [(2, "expired".into()), (3, "superseded".into()), (6, "thinned".into())]);
    w.ack(b, 1, 1, 3);
    let stored: Vec<u64> = w.verdicts(p).into_iter().map(|(n, v)| v.map(|_| n).expect("stored")).collect();
    assert_eq!(stored, [4, 5, 7]);
}

#[test]
fn what_a_full_queue_drops_from_under_a_bridge_is_decided_by_its_answer() {
    let change = |q: &mut crate::config::QueueSettings| (q.overflow, q.messages_max) = (Overflow::DropOldest, 2);
    let mut w = World::with(settings(change, vec![]));
    let (p, b) = (w.connect(), w.local_hub());
    w.take_up(b, 100);
    w.credit(b, 1, 2);
    for n in 1..=4 {
        put(&mut w, p, u64::from(n), n, "a");
    }
    assert_eq!(w.texts(b), ["m1", "m2"]);
    assert_eq!(w.verdicts(p).iter().filter(|v| v.1 != Ok(Outcome::Accepted)).count(), 0);
    w.ack(b, 1, 1, 1);
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Stored))], "the upstream has it");
    w.disconnect(b);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["m3", "m4"]);
    assert_eq!(w.verdicts(p), [(2, Err(Code::NotForwarded))], "nobody will ever forward it");
}

#[test]
fn several_bridges_must_all_have_it() {
    let mut s = settings(|q| q.keep = crate::config::Keep::Interest, vec![]);
    s.bridges.push(BridgeSettings { up: vec!["main a/#".into()], ..BridgeSettings::new("second") });
    let mut w = World::with(s);
    let (p, b) = (w.connect(), w.local_hub());
    let second = w.local_bridge("second");
    for (conn, name) in [(b, "bridge:hub"), (second, "bridge:second")] {
        w.consume_with(conn, 1, "main", name, &[], |h| h.window = 10);
        w.credit(conn, 1, 10);
        w.frames(conn);
    }
    put(&mut w, p, 1, 1, "a/b");
    put(&mut w, p, 2, 2, "b");
    w.ack(b, 1, 1, 2);
    assert_eq!(w.verdicts(p).pop(), Some((2, Ok(Outcome::Stored))), "one bridge forwards it");
    assert_eq!(status(&mut w, p, 9, id(1))["bridges"], json!(["second"]));
    w.pass(2_000);
    w.restart();
    let (p, second) = (w.connect(), w.local_bridge("second"));
    assert_eq!(status(&mut w, p, 9, id(1))["bridges"], json!(["second"]), "what the first has is remembered");
    w.consume_with(second, 1, "main", "bridge:second", &[], |h| h.window = 10);
    w.credit(second, 1, 10);
    w.ack(second, 1, 1, 1);
    assert_eq!(state(&mut w, p, 9, 1), "forwarded");
}

#[test]
fn the_same_id_again_is_told_what_becomes_of_the_first_copy_also_after_a_restart() {
    let mut s = settings(|_| {}, vec![]);
    s.store.dedupe.window_ms = 1_000;
    let mut w = World::with(s);
    let p = w.connect();
    put(&mut w, p, 1, 1, "a");
    put(&mut w, p, 2, 2, "a");
    assert_eq!(w.verdicts(p).len(), 2);
    w.restart();
    // Days later: the window of ids has long forgotten it.
    w.pass(20 * MINUTE);
    let p = w.connect();
    assert_eq!(state(&mut w, p, 9, 1), "queued");
    put(&mut w, p, 1, 1, "a");
    put(&mut w, p, 2, 2, "a");
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Accepted)), (2, Ok(Outcome::Accepted))]);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["m1", "m2"], "once each");
    w.ack(b, 1, 1, 1);
    w.send(b, 1, &Nack { first: 2, count: 1, delay_ms: 0, give_up: true, reason: "bad" }, &[]);
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Duplicate)), (2, Err(Code::UpstreamRefused))]);
    put(&mut w, p, 3, 1, "a");
    put(&mut w, p, 4, 2, "a");
    assert_eq!(w.verdicts(p), [(3, Ok(Outcome::Duplicate)), (4, Err(Code::UpstreamRefused))]);
    w.pass(2_000);
    w.restart();
    let p = w.connect();
    assert_eq!((state(&mut w, p, 9, 1), state(&mut w, p, 10, 2)), ("forwarded".into(), "refused".into()));
}

#[test]
fn what_waits_for_final_answers_is_bounded_and_beyond_it_the_window_holds_the_publisher() {
    let mut s = settings(|_| {}, vec![]);
    (s.limits.upstream_session_max, s.limits.upstream_waiting_max, s.limits.upstream_known_max) = (2, 5, 1);
    let mut w = World::with(s);
    let (p, b) = (w.connect(), w.local_hub());
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    for n in 1..=5 {
        put(&mut w, p, u64::from(n), n, "a");
    }
    let accepted = |numbers: &[u64]| numbers.iter().map(|n| (*n, Ok(Outcome::Accepted))).collect::<Vec<_>>();
    assert_eq!(w.verdicts(p), accepted(&[1, 2]), "the others stay in the window");
    // One that is decided before it was told anything is told both, in order.
    w.ack(b, 1, 3, 1);
    assert_eq!(w.verdicts(p), []);
    w.ack(b, 1, 1, 1);
    let told = w.verdicts(p);
    assert_eq!(told[0], (1, Ok(Outcome::Stored)));
    assert_eq!(told[1..3], [(3, Ok(Outcome::Accepted)), (3, Ok(Outcome::Stored))]);
    assert_eq!(told[3..], accepted(&[4])[..]);
    w.ack(b, 1, 1, 5);
    assert_eq!(w.verdicts(p).iter().filter(|v| v.1 == Ok(Outcome::Stored)).count(), 3);
    assert_eq!((state(&mut w, p, 9, 1), state(&mut w, p, 10, 5)), ("unknown".into(), "forwarded".into()));
    w.send(b, 1, &crate::wire::Pause { code: 0 }, &[]);
    for n in 11..=16 {
        put(&mut w, p, u64::from(n) - 5, n, "a");
    }
    w.disconnect(p);
    let p = w.connect();
    put(&mut w, p, 1, 20, "a");
    assert_eq!(w.verdicts(p), [(1, Err(Code::LimitReached))]);
}

#[test]
fn a_bridge_that_leaves_the_configuration_owes_nothing_any_more() {
    let mut w = World::with(settings(|_| {}, vec![]));
    let p = w.connect();
    put(&mut w, p, 1, 1, "a");
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Accepted))]);
    let s = Settings { bridges: vec![], ..w.broker.settings().clone() };
    // A start without it may be a mistake: it waits.
    w.restart_with(s.clone());
    let p = w.connect();
    assert_eq!(state(&mut w, p, 9, 1), "queued");
    w.reload(s);
    assert_eq!(state(&mut w, p, 9, 1), "refused");
}

#[test]
fn a_store_that_fails_ends_who_waits_and_the_same_id_waits_on_with_the_next_session() {
    let mut w = World::with(settings(|_| {}, vec![]));
    let p = w.connect();
    put(&mut w, p, 1, 1, "a");
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Accepted))]);
    w.hold_commits = true;
    put(&mut w, p, 2, 2, "a");
    w.fail_store(StoreError::Io("gone".into()));
    w.hold_commits = false;
    assert_eq!(w.verdicts(p), [(2, Err(Code::StorageFailed))]);
    w.reopen_store();
    assert!(w.is_closed(p), "its final answers would be another's");
    let p = w.connect();
    put(&mut w, p, 1, 1, "a");
    put(&mut w, p, 2, 2, "a");
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Accepted)), (2, Ok(Outcome::Accepted))]);
    let b = w.local_hub();
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    assert_eq!(w.texts(b), ["m1", "m2"]);
    w.ack(b, 1, 1, 2);
    assert_eq!(w.verdicts(p), [(1, Ok(Outcome::Duplicate)), (2, Ok(Outcome::Stored))]);
}

#[test]
fn only_who_may_publish_there_is_told_of_a_message() {
    let mut s = settings(|_| {}, vec![]);
    s.tenants = vec![crate::config::TenantSettings { name: "acme".into(), ..Default::default() }];
    let mut w = World::with(s);
    let p = w.connect();
    put(&mut w, p, 1, 1, "a");
    w.frames(p);
    assert_eq!(state(&mut w, p, 9, 1), "queued");
    let stranger = w.connect_to("acme");
    assert_eq!(state(&mut w, stranger, 9, 1), "unknown", "another mount's");
    let head = Request { channel: "$status/nonsense", deadline_ms: 0, total: 0, properties: &[] };
    w.send(p, 10, &head, &[]);
    assert_eq!(w.expect_error(p), Code::BadChannel);
}

#[test]
fn between_two_brokers_the_final_answer_comes_once_the_hub_has_it_on_disk_and_says_what_it_refused() {
    let hub = pair::settings(&["main"]);
    let edge = Settings { bridges: vec![hub.clone()], ..settings(|_| {}, vec![]) };
    let mut of_hub = Settings { queues: vec![queue("in", "#")], ..Settings::default() };
    of_hub.limits.message_bytes_max = 20_000;
    let mut pair = Pair::of(World::with(edge), World::with(of_hub), hub);
    let p = pair.edge.connect();
    pair.hub.hold_commits = true;
    put(&mut pair.edge, p, 1, 1, "a");
    pair.run();
    assert_eq!(pair.edge.verdicts(p), [(1, Ok(Outcome::Accepted))], "the hub has not synced");
    pair.hub.hold_commits = false;
    while !pair.hub.held.is_empty() {
        pair.hub.release_commit();
    }
    pair.run();
    assert_eq!(pair.edge.verdicts(p), [(1, Ok(Outcome::Stored))]);
    pair.edge.publish_with(p, 2, UP, |r| r.id = id(2), "a", &"x".repeat(30_000));
    put(&mut pair.edge, p, 3, 3, "a");
    pair.run();
    let mut told = pair.edge.verdicts(p);
    told.sort_by_key(|(number, verdict)| (*number, *verdict != Ok(Outcome::Accepted)));
    let expected = [
        (2, Ok(Outcome::Accepted)),
        (2, Err(Code::UpstreamRefused)),
        (3, Ok(Outcome::Accepted)),
        (3, Ok(Outcome::Stored)),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_hub_that_forwards_under_the_contract_itself_answers_an_edges_bridge_once_and_for_all() {
    let mut s = settings(|q| q.contract = UP, vec![]);
    s.auth.identities = Some("identities".into());
    s.limits.upstream_known_max = 1;
    let mut w = World::with(s);
    let (p, b) = (w.connect(), w.local_hub());
    w.take_up(b, 100);
    w.credit(b, 1, 100);
    let (edge, _) = w.bridge_of("", "gate", "edge", "up");
    w.forward_from(edge, 1, 1, (7, 0, 0), &[1, 2], "a");
    assert_eq!(w.verdicts(edge), [(1, Ok(Outcome::Stored)), (2, Ok(Outcome::Stored))]);
    // What came another way, is forwarded and known by its id alone: the edge is done with it, too.
    put(&mut w, p, 1, 1, "a");
    put(&mut w, p, 2, 2, "a");
    assert_eq!(w.texts(b).len(), 4);
    w.ack(b, 1, 1, 4);
    w.frames(p);
    assert_eq!(state(&mut w, p, 9, 1), "unknown");
    w.publish_with(edge, 3, Contract::Queue, |r| r.id = id(1), "a", "m1");
    w.publish_with(edge, 4, Contract::Queue, |r| r.id = id(2), "a", "m2");
    assert_eq!(w.verdicts(edge), [(3, Ok(Outcome::Duplicate)), (4, Ok(Outcome::Duplicate))]);
    // Nothing follows: the second answer was the last.
    w.pass(60_000);
    assert_eq!(w.verdicts(edge), []);
    put(&mut w, p, 3, 1, "a");
    assert_eq!(w.verdicts(p), [(3, Err(Code::NotForwarded))], "who is no bridge is told that nobody knows");
}
