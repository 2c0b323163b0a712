//! Disks that are full, at either end.

use super::broker::{Place, Setup, wait_until};
use super::child::{mounts_are_permitted, skipped};
use super::pair::{
    HUB, assert_all_once_in_order, bridge, config, edge, edge_with, held, hurry, number, publish, publish_one,
    wait_for_bridge, wait_until_well,
};
use super::relay::{Mode, Relay};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use tidegate::client::ClientError;
use tidegate::wire::Code;

const MARKS: &str = "free_low: 12MiB, free_high: 16MiB, reserve: 4MiB";

/// The same with a data folder on a small disk of its own.
fn on_small_disk(setup: Setup) -> Setup {
    let script = r#"mkdir -p "$DATA"; mount -t tmpfs -o size=40m none "$DATA"; exec "$@""#;
    let wrapper = ["unshare", "-rm", "sh", "-ec", script, "sh"].map(String::from).to_vec();
    let config = setup.config.replace("store: {", &format!("store: {{{MARKS}, "));
    Setup { config, wrapper, ..setup }
}

/// Takes space until only so much is free.
fn fill(path: &Path, leave: u64) {
    let mut file = File::create(path).expect("a file can be made");
    let folder = path.parent().expect("in a folder");
    while tidegate::runtime::disk::free_bytes(folder).expect("told") > leave {
        if file.write_all(&[1; 64 * 1_024]).is_err() {
            return;
        }
    }
}

/// Pain 13, at the hub: others lose what the upstream cannot take, or stop for ever.
#[test]
fn pain_13_a_full_disk_at_the_hub_holds_messages_at_the_edge_until_there_is_space() {
    if !mounts_are_permitted() {
        return skipped("a full disk at the hub", "this machine permits no mounts of one's own");
    }
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&on_small_disk(config(HUB)));
    let relay = Relay::to(hub.address);
    let queues = "queues: [{name: main, capture: ['#']}]\n";
    let edge = edge_place.start(&edge_with(&relay.url(), "ack_age: 1s", queues));
    publish(&edge, "site/a", 0..100);
    wait_until_well(&edge);
    let ballast = hub.data().join("ballast");
    fill(&ballast, 8 << 20);
    wait_until("the hub is full", || hub.status()["state"] == "low");
    publish(&edge, "site/a", 100..300);
    // Connected, nothing under way, and not healthy: nothing is acknowledged.
    let told = wait_for_bridge(&edge, "they wait", |b| number(b, "queued") == 200 && b["healthy"] == false);
    // A refusal for now is no dead letter and no drop.
    assert_eq!(told["dropped"].as_object().expect("a map").len(), 0, "{told}");
    assert_eq!(number(&super::pair::queue(&edge, "main"), "dead"), 0);
    fs::remove_file(&ballast).expect("removed");
    wait_until("the hub has space", || hub.status()["state"] == "ok");
    assert_all_once_in_order(&hub, "main", 0..300);
    wait_until_well(&edge);
    edge.stop();
    hub.stop();
}

/// Pain 13, at the edge: acknowledgements and the drain go on, and it takes messages again by itself.
#[test]
fn pain_13_a_full_disk_at_the_edge_refuses_publishes_and_drains() {
    if !mounts_are_permitted() {
        return skipped("a full disk at the edge", "this machine permits no mounts of one's own");
    }
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    relay.set(Mode::Cut);
    let edge = edge_place.start(&on_small_disk(edge(&relay.url())));
    publish(&edge, "site/a", 0..1_000);
    let ballast = edge.data().join("ballast");
    fill(&ballast, 6 << 20);
    wait_until("the edge is full", || edge.status()["state"] == "low");
    let refused = publish_one(&edge, "site/a", b"more");
    assert!(matches!(&refused, Err(ClientError::Refused(r)) if r.code == Some(Code::StorageFull)), "{refused:?}");
    relay.set(Mode::Open);
    hurry(&edge);
    assert_all_once_in_order(&hub, "main", 0..1_000);
    wait_until("it drains", || held(&edge, "main") == 0);
    fs::remove_file(&ballast).expect("removed");
    wait_until("the edge has space", || edge.status()["state"] == "ok");
    publish(&edge, "site/a", 1_000..1_100);
    wait_until("it flows", || held(&hub, "main") == 100);
    assert_eq!(bridge(&edge)["dropped"].as_object().expect("a map").len(), 0);
    edge.stop();
    hub.stop();
}
