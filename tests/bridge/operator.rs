//! What an operator sees and does: status and its exit code, pause and resume, reload.

use super::broker::{Broker, Place, Setup, wait_until};
use super::pair::{
    A_WHILE, HUB, assert_all_once_in_order, bridge, config, edge, edge_with, held, number, publish, tidegate,
    wait_for_bridge, wait_until_well,
};
use super::relay::{Mode, Relay};
use rustix::process::Signal;
use std::process::Output;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Writes another configuration and has the broker read it.
fn reload(broker: &Broker<'_>, setup: &Setup) {
    let path = broker.data().parent().expect("in a folder").join("config.yaml");
    std::fs::write(path, format!("listen: {{tcp: [\"127.0.0.1:0\"]}}\n{}", setup.config)).expect("written");
    broker.signal(Signal::HUP);
}

#[test]
fn status_shows_what_is_wrong_and_ends_with_a_code_for_scripts() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let relay = Relay::new();
    relay.set(Mode::Cut);
    let edge = edge_place.start(&edge(&relay.url()));
    publish(&edge, "site/a", 0..5);
    wait_for_bridge(&edge, "an error is told", |b| b["last_error"] != "" && b["queued"] == 5);
    let shown = tidegate(&edge, &["bridge", "status"]);
    let said = text(&shown);
    assert_eq!(shown.status.code(), Some(1), "{said}");
    for part in
        ["hub: ", "NOT HEALTHY", &relay.url(), "last error", "what to do", "queued      5 messages, the oldest for"]
    {
        assert!(said.contains(part), "{part:?} in:\n{said}");
    }
    let none = tidegate(&edge, &["bridge", "status", "hbu"]);
    assert_eq!((none.status.code(), text(&none).contains("there is hub")), (Some(4), true), "{}", text(&none));
    assert!(edge.status_for_people().contains("BRIDGE"));
    // It comes right.
    let hub = hub_place.start(&config(HUB));
    relay.leads_to(Some(hub.address));
    relay.set(Mode::Open);
    wait_until_well(&edge);
    let shown = tidegate(&edge, &["bridge", "status", "hub", "--json"]);
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown));
    let told: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("one object");
    assert_eq!((number(&told, "acked"), number(&told, "queued")), (5, 0), "{told}");
    for kind in ["up", "down", "records", "batches"] {
        assert!(number(&told["bytes"], kind) > 0, "{kind}: {told}");
    }
    edge.stop();
    hub.stop();
}

#[test]
fn a_paused_bridge_sends_nothing_keeps_everything_and_stays_paused_over_a_restart() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    let setup = edge(&relay.url());
    let first = edge_place.start(&setup);
    publish(&first, "site/a", 0..10);
    wait_until_well(&first);
    let shown = tidegate(&first, &["bridge", "pause", "hub"]);
    assert!(shown.status.success() && text(&shown).contains("is paused"), "{}", text(&shown));
    wait_for_bridge(&first, "it is", |b| b["state"] == "paused" && b["healthy"] == false);
    publish(&first, "site/a", 10..20);
    std::thread::sleep(A_WHILE);
    assert_eq!((held(&hub, "main"), number(&bridge(&first), "queued")), (10, 10));
    // What it wants kept is on the disk with the publishes.
    first.kill();
    let edge = edge_place.start(&setup);
    publish(&edge, "site/a", 20..30);
    wait_for_bridge(&edge, "it still is", |b| b["state"] == "paused" && b["queued"] == 20);
    assert_eq!(held(&hub, "main"), 10);
    let shown = tidegate(&edge, &["bridge", "resume", "hub"]);
    assert!(shown.status.success() && text(&shown).contains("goes on"), "{}", text(&shown));
    assert_all_once_in_order(&hub, "main", 0..30);
    wait_until_well(&edge);
    edge.stop();
    hub.stop();
}

/// A metered link must not cost more because a box was started again.
#[test]
fn a_days_bytes_that_are_used_up_are_so_after_a_restart() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    let keys = "compress: false, pace: {bytes_per_day: 20KiB}";
    let setup = edge_with(&relay.url(), keys, "queues: [{name: main, capture: ['#']}]\n");
    let first = edge_place.start(&setup);
    publish(&first, "site/a", 0..2_000);
    let told = wait_for_bridge(&first, "the day's bytes are used up", |b| b["state"] == "spent");
    assert!(number(&told, "day_bytes") >= 20_000 && number(&told, "queued") > 0, "{told}");
    let shown = text(&tidegate(&first, &["bridge", "status"]));
    assert!(shown.contains("goes on at midnight UTC") && shown.contains("of 20.0KiB"), "{shown}");
    // An orderly stop, so that what it wants kept is on the disk.
    first.stop();
    let spent = relay.up();
    assert!(spent < 40_000, "{spent} bytes went up");
    let edge = edge_place.start(&setup);
    wait_for_bridge(&edge, "they still are", |b| b["state"] == "spent" && b["queued"] != 0);
    std::thread::sleep(A_WHILE);
    assert!(relay.up() < spent + 4_096, "{} bytes more", relay.up() - spent);
    edge.stop();
    hub.stop();
}

#[test]
fn a_reload_adds_moves_and_removes_bridges_without_a_restart() {
    let (edge_place, hub_place, other_place) = (Place::new(), Place::new(), Place::new());
    let (hub, other) = (hub_place.start(&config(HUB)), other_place.start(&config(HUB)));
    let (to_hub, to_other) = (Relay::to(hub.address), Relay::to(other.address));
    let queues = "queues: [{name: main, capture: ['#']}]\n";
    let without = config(&format!("name: edge\nstore: {{ack_linger: 20ms}}\n{queues}"));
    let edge = edge_place.start(&without);
    publish(&edge, "site/a", 0..10);
    assert_eq!(edge.status()["bridges"].as_array().map(Vec::len), None);
    reload(&edge, &edge_with(&to_hub.url(), "", queues));
    wait_until("it flows", || held(&hub, "main") == 10);
    wait_until_well(&edge);
    // Another upstream under the same name: what the first has is not its to bring again.
    reload(&edge, &edge_with(&to_other.url(), "", queues));
    wait_for_bridge(&edge, "it moved", |b| b["url"] == to_other.url());
    publish(&edge, "site/a", 10..20);
    assert_all_once_in_order(&other, "main", 10..20);
    assert_all_once_in_order(&hub, "main", 0..10);
    reload(&edge, &without);
    wait_until("it is gone", || edge.status()["bridges"].is_null());
    edge.says(&["WARN", "keeps its messages for bridge", "queue forget"]);
    edge.stop();
    hub.stop();
    other.stop();
}

/// A configuration that is taken must not fail at the bridge.
#[test]
fn every_address_that_a_configuration_takes_is_one_that_can_be_dialed() {
    for url in [
        "tcp://h",
        "tcp://h:1",
        "tls://h:8434/",
        "tls://10.0.0.1",
        "tls://[::1]:9",
        "ws://h",
        "ws://h:80/",
        "wss://h/edge/ws?x=1",
        "wss://[fe80::1]/ws",
        "tcp://h:0",
        "tcp://:1",
        "tcp://",
        "tls://a b",
        "tls://[::1",
        "wss://h/a b",
        "ws:///ws",
        "tls://h/x",
        "tcp://h:70000",
        "tls://u@h",
        "mqtt://h",
        "h:1",
        "unix:///x",
    ] {
        let text = format!("queues: [{{name: main, capture: x}}]\nbridges: [{{name: a, urls: '{url}', up: main}}]\n");
        let taken = tidegate::config::parse(&text, "t").is_ok();
        let dialed = url.parse::<tidegate::client::Address>().is_ok();
        assert!(!taken || dialed, "{url} is taken and cannot be dialed");
    }
}
