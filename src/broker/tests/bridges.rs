//! What an operator sees of bridges and says to them, and what the broker keeps for them.

use super::world::{World, queue};
use crate::broker::Event;
use crate::config::{BridgeSettings, Overflow, QueueSettings, Settings, TenantSettings};
use crate::model::ConnId;
use crate::model::admin::{self, AdminError, BridgeState, BridgeStatus, Status};
use crate::store::StoreError;
use crate::wire::{Code, Request, Response};

fn bridge(name: &str, tenant: &str) -> BridgeSettings {
    BridgeSettings {
        tenant: tenant.into(),
        urls: vec!["tcp://127.0.0.1:1".into()],
        up: vec!["main".into()],
        ..BridgeSettings::new(name)
    }
}

fn settings(bridges: Vec<BridgeSettings>) -> Settings {
    Settings { queues: vec![queue("main", "#"), queue("other", "other/#")], bridges, ..Settings::default() }
}

/// The answer to a request of administration: status and body.
fn ask(w: &mut World, conn: ConnId, channel: &str, body: &str) -> (u16, Vec<u8>) {
    let head = Request { channel, deadline_ms: 0, total: body.len() as u32, properties: &[] };
    w.send(conn, 77, &head, body.as_bytes());
    let seen = w.expect(conn);
    (seen.get::<Response<'_>>().status, seen.payload)
}

fn bridges(w: &mut World, conn: ConnId) -> Vec<BridgeStatus> {
    let (status, body) = ask(w, conn, admin::BRIDGES, "");
    assert_eq!(status, 0);
    serde_json::from_slice(&body).expect("statuses")
}

fn told(w: &mut World, name: &str, state: BridgeState, keep: Option<&[u8]>) {
    // What only the broker knows of queues is not the bridge's to say.
    let status = BridgeStatus { name: name.into(), state, queued: 99, oldest_ms: 99, ..BridgeStatus::default() };
    w.event(Event::Bridge { status: Box::new(status), keep: keep.map(<[u8]>::to_vec) });
}

#[test]
fn a_bridge_that_has_told_nothing_yet_is_shown_as_waiting_with_what_waits_for_it() {
    let mut w = World::with(settings(vec![bridge("hub", "")]));
    let c = w.connect();
    for n in 1..=3 {
        w.publish(c, n, "a", "x");
        w.pass(1_000);
    }
    w.verdicts(c);
    let all = bridges(&mut w, c);
    assert_eq!((all.len(), all[0].name.as_str(), all[0].state), (1, "hub", BridgeState::Waiting));
    assert_eq!((all[0].queued, all[0].oldest_ms, all[0].url.as_str()), (3, 3_000, "tcp://127.0.0.1:1"));
    assert!(!all[0].healthy);
}

#[test]
fn what_waits_for_a_bridge_is_counted_when_somebody_asks() {
    let mut w = World::with(settings(vec![bridge("hub", "")]));
    let c = w.connect();
    let consumer = w.local_bridge("hub");
    w.consume(consumer, 1, "main", "bridge:hub");
    told(&mut w, "hub", BridgeState::Open, None);
    for n in 1..=3 {
        w.publish(c, n, "a", "x");
        w.pass(10_000);
    }
    // Of a queue it does not forward, nothing counts.
    w.publish(c, 4, "other/a", "x");
    w.verdicts(c);
    let now = |w: &mut World| {
        let all = bridges(w, c);
        (all[0].queued, all[0].oldest_ms, all[0].state)
    };
    assert_eq!(now(&mut w), (4, 30_000, BridgeState::Open));
    w.credit(consumer, 1, 2);
    assert_eq!(now(&mut w), (4, 30_000, BridgeState::Open), "under way is not forwarded");
    w.ack(consumer, 1, 1, 2);
    assert_eq!(now(&mut w), (2, 10_000, BridgeState::Open));
    w.credit(consumer, 1, 2);
    w.ack(consumer, 1, 3, 2);
    assert_eq!(now(&mut w), (0, 0, BridgeState::Open));
    let (_, body) = ask(&mut w, c, admin::STATUS, "");
    let status: Status = serde_json::from_slice(&body).expect("a status");
    assert_eq!(status.bridges.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(), ["hub"]);
}

#[test]
fn what_a_queue_let_go_before_it_was_forwarded_is_counted() {
    let full = QueueSettings { messages_max: 10, overflow: Overflow::DropOldest, ..queue("main", "#") };
    let mut w = World::with(Settings { queues: vec![full], ..settings(vec![bridge("hub", "")]) });
    let (c, consumer) = (w.connect(), w.local_bridge("hub"));
    w.consume(consumer, 1, "main", "bridge:hub");
    (1..=25).for_each(|n| w.publish(c, n, "a", "x"));
    w.verdicts(c);
    let now = |w: &mut World| {
        let all = bridges(w, c);
        (all[0].queued, all[0].dropped.get(admin::NOT_KEPT).copied())
    };
    assert_eq!(now(&mut w), (10, Some(15)), "also while nothing is consumed");
    w.credit(consumer, 1, 100);
    assert_eq!(now(&mut w), (10, Some(15)), "counted once");
}

#[test]
fn a_bridge_on_which_nothing_is_acknowledged_is_not_healthy_though_it_is_open_and_nothing_is_under_way() {
    let mut w = World::with(settings(vec![BridgeSettings { ack_ms_max: 10_000, ..bridge("hub", "") }]));
    let c = w.connect();
    let tell = |w: &mut World, last_ack_age_ms: u64| {
        let status = BridgeStatus {
            name: "hub".into(),
            state: BridgeState::Open,
            healthy: true,
            open_ms: 1,
            last_ack_age_ms,
            last_error_age_ms: 1,
            retry_ms: 3_000,
            ..BridgeStatus::default()
        };
        w.event(Event::Bridge { status: Box::new(status), keep: None });
    };
    let healthy = |w: &mut World| bridges(w, c)[0].healthy;
    tell(&mut w, 0);
    w.publish(c, 1, "a", "x");
    w.verdicts(c);
    assert!(healthy(&mut w), "it has time");
    w.pass(10_001);
    assert!(!healthy(&mut w), "the upstream takes nothing");
    tell(&mut w, 1);
    assert!(healthy(&mut w), "a backlog drains");
    w.pass(9_000);
    assert!(healthy(&mut w));
    w.pass(2_000);
    let told = bridges(&mut w, c)[0].clone();
    assert!(!told.healthy, "and stopped to");
    // Ages go on while it tells nothing.
    assert_eq!(
        (told.open_ms, told.last_error_age_ms, told.last_ack_age_ms, told.retry_ms),
        (11_001, 11_001, 11_001, 0)
    );
}

#[test]
fn pause_and_resume_are_asked_of_the_bridge_and_shown_at_once() {
    let mut w = World::with(settings(vec![bridge("hub", "")]));
    let c = w.connect();
    told(&mut w, "hub", BridgeState::Open, None);
    for (channel, pause, state) in
        [(admin::BRIDGE_PAUSE, true, BridgeState::Paused), (admin::BRIDGE_RESUME, false, BridgeState::Waiting)]
    {
        let (status, body) = ask(&mut w, c, channel, r#"{"name":"hub"}"#);
        let shown: BridgeStatus = serde_json::from_slice(&body).expect("a status");
        assert_eq!((status, shown.state, shown.healthy), (0, state, false));
        assert_eq!(std::mem::take(&mut w.paused), [("hub".to_owned(), pause)]);
    }
}

#[test]
fn a_bridge_that_is_not_there_is_said_with_those_that_are() {
    let mut w = World::with(settings(vec![bridge("hub", ""), bridge("cloud", "")]));
    let c = w.connect();
    let (status, body) = ask(&mut w, c, admin::BRIDGE_PAUSE, r#"{"name":"hbu"}"#);
    let error: AdminError = serde_json::from_slice(&body).expect("an error");
    assert_eq!(
        (status, error.error.as_str()),
        (Code::BadName as u16, "there is no bridge \"hbu\": there is hub, cloud")
    );
    let (status, _) = ask(&mut w, c, admin::BRIDGE_RESUME, "{}");
    assert_eq!((status, w.paused.len()), (Code::BadOptions as u16, 0));
}

#[test]
fn a_tenants_administrator_sees_and_pauses_its_own_bridges_and_no_others() {
    let tenants = ["red", "blue"].map(|name| TenantSettings { name: name.into(), ..TenantSettings::default() });
    let all = vec![bridge("hub", ""), bridge("of-red", "red"), bridge("of-blue", "blue")];
    let mut w = World::with(Settings { tenants: tenants.into(), ..settings(all) });
    let c = w.connect();
    assert_eq!(bridges(&mut w, c).len(), 3, "who belongs to no tenant administers them all");
    let red = w.connect_to("red");
    w.administers(red);
    w.publish(red, 1, "a", "x");
    w.verdicts(red);
    let seen = bridges(&mut w, red);
    assert_eq!(seen.iter().map(|b| (b.name.as_str(), b.queued)).collect::<Vec<_>>(), [("of-red", 1)]);
    let (status, body) = ask(&mut w, red, admin::BRIDGE_PAUSE, r#"{"name":"of-blue"}"#);
    let error: AdminError = serde_json::from_slice(&body).expect("an error");
    assert_eq!(
        (status, error.error.as_str()),
        (Code::BadName as u16, "there is no bridge \"of-blue\": there is of-red")
    );
    assert_eq!(ask(&mut w, red, admin::BRIDGE_PAUSE, r#"{"name":"of-red"}"#).0, 0);
    assert_eq!(w.paused, [("of-red".to_owned(), true)]);
}

#[test]
fn what_a_bridge_wants_kept_rides_on_a_commit_and_survives_a_cut() {
    let mut w = World::with(settings(vec![bridge("hub", "")]));
    assert_eq!(w.broker.bridge_kept("hub"), None);
    told(&mut w, "hub", BridgeState::Open, Some(b"one"));
    assert_eq!(w.broker.bridge_kept("hub").as_deref(), Some(&b"one"[..]));
    w.pass(1_000);
    let commits = w.commits;
    told(&mut w, "hub", BridgeState::Open, Some(b"one"));
    told(&mut w, "hub", BridgeState::Open, None);
    w.pass(5_000);
    assert_eq!(w.commits, commits, "what did not change is not written again");
    told(&mut w, "hub", BridgeState::Open, Some(b"two"));
    w.pass(1_000);
    assert_eq!(w.commits, commits + 1);
    w.restart();
    assert_eq!(w.broker.bridge_kept("hub").as_deref(), Some(&b"two"[..]));
    // A store that failed may not have taken it.
    w.hold_commits = true;
    told(&mut w, "hub", BridgeState::Open, Some(b"three"));
    w.pass(1_000);
    w.fail_store(StoreError::Full("none".into()));
    w.hold_commits = false;
    w.reopen_store();
    w.pass(1_000);
    w.restart();
    assert_eq!(w.broker.bridge_kept("hub").as_deref(), Some(&b"three"[..]));
    told(&mut w, "hub", BridgeState::Open, Some(&[0; 5_000]));
    assert_eq!(w.broker.bridge_kept("hub").as_deref(), Some(&b"three"[..]), "no more than a bounded part");
}

#[test]
fn a_bridge_that_leaves_by_a_reload_is_forgotten_and_one_that_a_start_misses_is_not() {
    let mut w = World::with(settings(vec![bridge("hub", "")]));
    told(&mut w, "hub", BridgeState::Open, Some(b"kept"));
    w.pass(1_000);
    w.restart_with(settings(Vec::new()));
    w.reload(settings(vec![bridge("hub", "")]));
    assert_eq!(w.broker.bridge_kept("hub").as_deref(), Some(&b"kept"[..]), "the file was another one by mistake");
    told(&mut w, "hub", BridgeState::Open, None);
    w.reload(settings(Vec::new()));
    let c = w.connect();
    assert_eq!((bridges(&mut w, c), w.broker.bridge_kept("hub")), (Vec::new(), None));
    // Its last word comes too late.
    told(&mut w, "hub", BridgeState::Open, Some(b"late"));
    w.reload(settings(vec![bridge("hub", "")]));
    assert_eq!(bridges(&mut w, c)[0].state, BridgeState::Waiting);
    w.pass(1_000);
    w.restart();
    assert_eq!(w.broker.bridge_kept("hub"), None);
}
