//! Links that hold and do not move, and links that move slowly.

use super::broker::Place;
use super::pair::{
    HUB, assert_all_once_in_order, config, edge_with, number, publish, wait_for_bridge, wait_until_well,
};
use super::relay::{Mode, Relay};

const QUEUES: &str = "queues: [{name: main, capture: ['#']}]\n";

/// Pain 11: others stay "connected" while nothing goes through.
#[test]
fn pain_11_a_link_that_is_connected_but_dead_is_not_healthy_and_is_made_anew() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    let edge = edge_place.start(&edge_with(&relay.url(), "ack_age: 1s, heartbeat: 1s", QUEUES));
    publish(&edge, "site/a", 0..10);
    wait_until_well(&edge);
    // Bytes are taken and go nowhere, as behind a router that forgot the connection.
    relay.set(Mode::Hole);
    publish(&edge, "site/a", 10..20);
    let ill = wait_for_bridge(&edge, "it says so", |b| b["healthy"] == false);
    assert!(number(&ill, "queued") >= 10, "{ill}");
    let ended = wait_for_bridge(&edge, "it is given up", |b| b["last_error"] != "");
    assert!(["stalled", "heartbeat"].contains(&ended["last_error"].as_str().expect("text")), "{ended}");
    assert_ne!(ended["last_error_detail"], "", "{ended}");
    relay.set(Mode::Open);
    assert_all_once_in_order(&hub, "main", 0..20);
    let well = wait_until_well(&edge);
    assert!(number(&well, "connects") >= 2, "{well}");
    edge.stop();
    hub.stop();
}

/// Pain 12: others starve their heartbeat by data and take a busy link for a dead one. A slow radio with its delay and loss is in
/// `scripts/link-test.sh`; here a link that is much narrower than what waits.
#[test]
fn pain_12_a_link_full_of_data_is_not_taken_for_a_dead_one() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    relay.slow(60_000);
    let edge = edge_place.start(&edge_with(&relay.url(), "heartbeat: 1s, compress: false", QUEUES));
    // Some three seconds of what the link carries: several heartbeats.
    publish(&edge, "a/channel/with/a/long/name/that/takes/room/on/the/link", 0..2_500);
    assert_all_once_in_order(&hub, "main", 0..2_500);
    let told = wait_until_well(&edge);
    assert_eq!((number(&told, "connects"), told["last_error"].as_str()), (1, Some("")), "{told}");
    edge.stop();
    hub.stop();
}
