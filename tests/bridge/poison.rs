//! Messages that the upstream refuses for good.

use super::broker::{Place, wait_until};
use super::pair::{
    HUB, bridge, config, edge_with, held, hurry, number, publish, publish_one, queue, read_payloads, tidegate,
    wait_until_well,
};
use super::relay::{Mode, Relay};

/// Pain 15: others send what the upstream will never take again and again, at the cost of the data plan, and block what follows.
#[test]
fn pain_15_what_the_upstream_refuses_for_good_is_a_dead_letter_sent_once_and_blocks_nothing() {
    const POISON: usize = 300_000;
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(&format!("{HUB}limits: {{message: 64KiB}}\n")));
    let relay = Relay::to(hub.address);
    let queues = "queues: [{name: main, capture: ['#']}]\n";
    let edge = edge_place.start(&edge_with(&relay.url(), "compress: false", queues));
    publish(&edge, "site/a", 0..10);
    publish_one(&edge, "site/poison", &vec![b'x'; POISON]).expect("the edge takes it");
    publish(&edge, "site/a", 10..20);
    let told = wait_until_well(&edge);
    assert_eq!(held(&hub, "main"), 20, "{told}");
    assert_eq!(told["dropped"], serde_json::json!({"message-too-large": 1}), "counted once");
    // It lies in the dead letters, and says why.
    wait_until("it is there", || number(&queue(&edge, "main"), "dead") == 1);
    let shown = tidegate(&edge, &["queue", "dead", "main", "--json"]);
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.contains("message-too-large"), "{shown}");
    let letters = read_payloads(&edge, "$dead/main", 1);
    assert_eq!((letters.len(), letters[0].len()), (1, POISON));
    // It cost the link itself at most once, also over new connections and a restart of the hub.
    let spent = relay.up();
    assert!(spent < (POISON + 100_000) as u64, "{spent} bytes went up for one message of {POISON}");
    for _ in 0..3 {
        relay.set(Mode::Cut);
        relay.set(Mode::Open);
        hurry(&edge);
        wait_until_well(&edge);
    }
    assert!(relay.up() < spent + 50_000, "{} bytes more", relay.up() - spent);
    assert_eq!(bridge(&edge)["dropped"], serde_json::json!({"message-too-large": 1}));
    edge.stop();
    hub.stop();
}

/// What a role forbids is refused for good, too: everything else passes.
#[test]
fn what_the_upstreams_role_forbids_is_a_dead_letter_with_the_reason() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let roles = "roles: [{name: edges, publish: ['site/#']}]\nauth: {anonymous: [edges]}\n";
    let hub = hub_place.start(&config(&format!("{HUB}{roles}")));
    let relay = Relay::to(hub.address);
    let edge = edge_place.start(&edge_with(&relay.url(), "", "queues: [{name: main, capture: ['#']}]\n"));
    for channel in ["site/a", "elsewhere/a", "site/b", "elsewhere/b", "site/c"] {
        publish_one(&edge, channel, channel.as_bytes()).expect("the edge takes it");
    }
    let told = wait_until_well(&edge);
    assert_eq!((held(&hub, "main"), told["dropped"].clone()), (3, serde_json::json!({"forbidden": 2})), "{told}");
    wait_until("they are there", || number(&queue(&edge, "main"), "dead") == 2);
    let shown = tidegate(&edge, &["queue", "dead", "main", "--json"]);
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert_eq!(shown.matches("forbidden").count(), 2, "{shown}");
    edge.stop();
    hub.stop();
}
