//! What a bridge promises, between two whole brokers.

use super::pair::{Pair, settings};
use super::world::{World, queue};
use crate::bridge::Reason;
use crate::config::BridgeSettings;
use crate::model::ConnId;
use crate::model::admin::BridgeState;

/// Publishes numbered texts at the edge.
fn publish(edge: &mut World, conn: ConnId, from: u64, count: u64) {
    for n in from..from + count {
        edge.publish(conn, n, "a/b", &n.to_string());
    }
    edge.frames(conn);
}

/// The texts that the hub's queue holds.
fn arrived(hub: &mut World) -> Vec<String> {
    let conn = hub.connect();
    hub.consume(conn, 1, "main", "reader");
    hub.credit(conn, 1, 10_000);
    let texts = hub.texts(conn);
    hub.disconnect(conn);
    texts
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Messages that the edge's queue holds.
fn queued(edge: &World) -> u64 {
    edge.broker.queues.iter().flat_map(|q| q.lanes()).map(|lane| lane.next - lane.head).sum()
}

#[test]
fn a_message_is_forwarded_and_leaves_its_queue_only_after_the_hubs_acknowledgement() {
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings(&["main"]));
    assert_eq!(pair.state(), BridgeState::Open);
    let conn = pair.edge.connect();
    pair.hub.hold_commits = true;
    publish(&mut pair.edge, conn, 1, 3);
    pair.run();
    assert_eq!((pair.status().in_flight, pair.status().acked, queued(&pair.edge)), (3, 0, 3));
    pair.hub.hold_commits = false;
    while !pair.hub.held.is_empty() {
        pair.hub.release_commit();
    }
    pair.run();
    assert_eq!((pair.status().in_flight, pair.status().acked, queued(&pair.edge)), (0, 3, 0));
    assert_eq!(arrived(&mut pair.hub), numbers(1..=3));
}

/// A pair whose queues are both called main, forwarded as they are.
fn pair() -> Pair {
    Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings(&["main"]))
}

#[test]
fn nothing_is_taken_from_a_queue_while_there_is_no_upstream_and_all_of_it_goes_once_there_is() {
    let mut pair = pair();
    pair.broken = vec![Some(Reason::Refused)];
    pair.cut();
    pair.run();
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 50);
    pair.pass(5_000);
    assert_eq!((pair.status().in_flight, queued(&pair.edge)), (0, 50));
    assert_eq!(pair.status().last_error, "refused");
    pair.broken.clear();
    pair.until_open();
    pair.pass(3_000);
    assert_eq!(queued(&pair.edge), 0);
    assert_eq!(arrived(&mut pair.hub), numbers(1..=50));
}

#[test]
fn the_next_address_is_tried_at_once_and_the_preferred_one_again_after_a_time() {
    let urls = vec!["tcp://a:1".into(), "tcp://b:1".into()];
    let settings = BridgeSettings { urls, return_ms: 120_000, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings);
    assert_eq!(pair.dialed, [0]);
    pair.broken = vec![Some(Reason::Dns)];
    pair.pass(70_000);
    pair.cut();
    pair.run();
    assert_eq!((pair.dialed.as_slice(), pair.state()), (&[0, 1][..], BridgeState::Open), "the other one at once");
    assert_eq!(pair.status().url, "tcp://b:1");
    pair.broken.clear();
    pair.pass(119_000);
    assert_eq!(pair.dialed, [0, 1]);
    pair.pass(2_000);
    assert_eq!((pair.dialed.as_slice(), pair.state()), (&[0, 1, 0][..], BridgeState::Open));
}

#[test]
fn a_paused_bridge_takes_nothing_stays_so_over_a_restart_and_goes_on_at_once() {
    let mut pair = pair();
    pair.bridge.handle_pause(pair.edge.now, true);
    pair.run();
    assert_eq!(pair.state(), BridgeState::Paused);
    pair.crash_edge();
    pair.run();
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 3);
    pair.pass(100_000);
    assert_eq!((pair.state(), queued(&pair.edge)), (BridgeState::Paused, 3));
    pair.bridge.handle_pause(pair.edge.now, false);
    pair.run();
    assert_eq!((pair.state(), queued(&pair.edge)), (BridgeState::Open, 0));
    pair.crash_hub();
    pair.until_open();
    assert_eq!(arrived(&mut pair.hub), numbers(1..=3));
}

#[test]
fn a_hub_that_reads_and_never_acknowledges_is_given_up() {
    let mut pair = pair();
    pair.hub.hold_commits = true;
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 10);
    pair.run();
    pair.pass(119_000);
    assert_eq!((pair.dialed.len(), pair.status().healthy), (1, false));
    pair.pass(3_000);
    assert_eq!((pair.dialed.len(), pair.status().last_error.as_str()), (2, "stalled"));
}

#[test]
fn a_link_that_swallows_everything_is_noticed_within_three_heartbeats() {
    let settings = BridgeSettings { heartbeat_ms: 15_000, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings);
    pair.hub_is_heard = false;
    pair.broken = vec![Some(Reason::Unreachable)];
    pair.pass(44_000);
    assert_eq!(pair.state(), BridgeState::Open);
    pair.pass(2_000);
    assert_eq!(pair.dialed.len(), 2, "{:?}", pair.status());
}

#[test]
fn a_link_that_moves_nothing_while_something_is_under_way_is_given_up_after_twice_the_ack_age() {
    let settings = BridgeSettings { heartbeat_ms: 3_600_000, ack_ms_max: 5_000, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings);
    (pair.hub_reads, pair.hub_is_heard) = (false, false);
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 3);
    pair.pass(9_900);
    assert_eq!(pair.status().last_error, "");
    pair.pass(200);
    assert_eq!(pair.status().last_error, "stalled");
}

#[test]
fn a_dial_without_an_end_is_given_up_and_another_follows() {
    let mut pair = pair();
    pair.hangs = true;
    pair.cut();
    pair.pass(40_000);
    assert_eq!((pair.dialed.len(), pair.status().last_error.as_str()), (3, "timeout"));
}
