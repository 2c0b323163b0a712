//! What a bad upstream costs clients of the edge: nothing.

use super::broker::{Place, wait_until};
use super::pair::{
    HUB, assert_all_once_in_order, bridge, config, edge_with, held, hurry, number, publish, publish_one,
    wait_until_well,
};
use super::raw::Raw;
use super::relay::{Mode, Relay};

/// Pain 10: others stop their local clients for seconds while a name, a route or a connection is waited for. Here an upstream
/// that takes connections and answers nothing, one whose name nobody knows, one that is nowhere, and one that is right.
#[test]
fn pain_10_upstreams_that_do_not_answer_leave_local_clients_and_other_upstreams_alone() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    let hole = Relay::to(hub.address);
    hole.set(Mode::Hole);
    let text = format!(
        "name: edge
store: {{ack_linger: 20ms}}
queues: [{{name: main, capture: ['#']}}]
bridges:
  - {{name: hole, urls: ['{}'], up: [main]}}
  - {{name: nameless, urls: ['tcp://hub.invalid:8433'], up: [main]}}
  - {{name: nowhere, urls: ['tcp://192.0.2.1:8433'], up: [main]}}
  - {{name: hub, urls: ['{}'], up: [main]}}
",
        hole.url(),
        relay.url()
    );
    let edge = edge_place.start(&config(&text));
    wait_until("the hole was met", || hole.accepted() > 0);
    let mut raw = Raw::open(edge.address);
    // One at a time: each is a round trip and a commit, while all of these are being waited for.
    for n in 1..=300 {
        raw.publishes(1, n, "site/a");
    }
    raw.close();
    wait_until("the one that is right has all", || held(&hub, "main") == 300);
    // How a bridge is stands in the status up to half a second late.
    let of = |told: &serde_json::Value, name: &str| {
        told.as_array().expect("a list").iter().find(|b| b["name"] == name).expect("there").clone()
    };
    wait_until("the one that is right says so", || {
        let hub = of(&edge.status()["bridges"], "hub");
        hub["healthy"] == true && hub["state"] == "open"
    });
    let told = edge.status()["bridges"].clone();
    let of = |name: &str| of(&told, name);
    for name in ["hole", "nameless", "nowhere"] {
        assert_eq!((of(name)["healthy"].clone(), number(&of(name), "queued")), (false.into(), 300), "{told}");
    }
    edge.stop();
    hub.stop();
}

/// A hub that takes bytes no more, in the middle of a backlog, is the bridge's to wait for.
#[test]
fn a_hub_that_stops_reading_costs_local_clients_nothing() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    let queues = "queues: [{name: main, capture: ['#']}]\n";
    let edge = edge_place.start(&edge_with(&relay.url(), "ack_age: 60s", queues));
    publish_one(&edge, "site/a", b"0").expect("taken");
    wait_until_well(&edge);
    relay.set(Mode::Stalled);
    publish(&edge, "site/a", 1..30_000);
    assert_eq!(bridge(&edge)["healthy"], true, "nothing is overdue yet");
    relay.set(Mode::Open);
    hurry(&edge);
    assert_all_once_in_order(&hub, "main", 0..30_000);
    assert_eq!(number(&wait_until_well(&edge), "connects"), 1, "it waited, and went on");
    edge.stop();
    hub.stop();
}
