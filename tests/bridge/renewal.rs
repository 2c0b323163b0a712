//! What changes while the edge runs: settings, credentials, authorities; each without a restart.

use super::broker::Place;
use super::dial::{Files, closed, door};
use super::pair::{assert_all_once_in_order, config, publish, wait_for_bridge, wait_until_well};
use super::pki::Authority;
use rustix::process::Signal;
use std::fs;

const QUEUES: &str = "name: edge\nlisten: {tcp: ['127.0.0.1:0']}\nqueues: [{name: main, capture: ['#']}]\n";

#[test]
fn credentials_that_are_put_right_count_at_once_after_a_hangup_signal() {
    let (edge_place, hub_place, files) = (Place::new(), Place::new(), Files::new());
    let hub = hub_place.start(&files.hub());
    files.login_key(2);
    let url = format!("tls://localhost:{}", door(&hub, "tls").port());
    let edge = edge_place.start(&config(&format!(
        "{QUEUES}bridges: [{{name: hub, urls: ['{url}'], up: [main], {}}}]\n",
        files.bridge(2)
    )));
    publish(&edge, "site/a", 0..10);
    wait_for_bridge(&edge, "its key is refused", |b| b["last_error"] == "auth");
    files.write("key-2", [1; 32]);
    edge.signal(Signal::HUP);
    assert_all_once_in_order(&hub, "main", 0..10);
    wait_until_well(&edge);
    edge.stop();
    hub.stop();
}

/// Pain 14: others believe a revoked authority until they are restarted.
#[test]
fn pain_14_an_authority_that_is_trusted_no_more_counts_without_a_restart() {
    let (edge_place, hub_place, files) = (Place::new(), Place::new(), Files::new());
    let hub = hub_place.start(&files.hub());
    let url = format!("tls://localhost:{}", door(&hub, "tls").port());
    let edge = edge_place.start(&config(&format!(
        "{QUEUES}bridges: [{{name: hub, urls: ['{url}'], up: [main], {}}}]\n",
        files.bridge(1)
    )));
    publish(&edge, "site/a", 0..10);
    wait_until_well(&edge);
    let trusted = fs::read(files.path("ca.pem")).expect("there");
    files.write("ca.pem", Authority::new("another authority").pem());
    edge.signal(Signal::HUP);
    let told = wait_for_bridge(&edge, "it trusts the hub no more", |b| b["last_error"] == "tls");
    assert_ne!(told["state"], "open", "{told}");
    publish(&edge, "site/a", 10..20);
    files.write("ca.pem", trusted);
    edge.signal(Signal::HUP);
    assert_all_once_in_order(&hub, "main", 0..20);
    edge.stop();
    hub.stop();
}

#[test]
fn pain_14_a_hub_whose_certificate_is_revoked_is_left_at_the_next_hangup_signal() {
    let (edge_place, hub_place, files) = (Place::new(), Place::new(), Files::new());
    let hub = hub_place.start(&files.hub());
    files.write("revoked.pem", files.authority.revokes(&[], 5).0);
    let url = format!("tls://localhost:{}", door(&hub, "tls").port());
    let crl = format!("tls: {{crl: ['{}'], ", files.path("revoked.pem").display());
    let edge = edge_place.start(&config(&format!(
        "{QUEUES}bridges: [{{name: hub, urls: ['{url}'], up: [main], {}}}]\n",
        files.bridge(1).replace("tls: {", &crl)
    )));
    publish(&edge, "site/a", 0..10);
    wait_until_well(&edge);
    files.write("revoked.pem", files.authority.revokes(std::slice::from_ref(&files.shown.serial), 5).0);
    edge.signal(Signal::HUP);
    let told = wait_for_bridge(&edge, "the hub is not believed any more", |b| b["last_error"] == "tls");
    assert!(told["last_error_detail"].as_str().expect("text").contains("revoked"), "{told}");
    edge.stop();
    hub.stop();
}

#[test]
fn a_stop_waits_for_no_upstream() {
    let edge_place = Place::new();
    // A hub that takes the connection and says nothing: it is greeted for 15 seconds.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let url = format!("tcp://{}", silent.local_addr().expect("bound"));
    let urls = format!(
        "{QUEUES}bridges:\n  - {{name: hub, urls: ['{url}'], up: [main]}}\n  - {{name: gone, urls: ['tcp://{}'], up: []}}\n",
        closed()
    );
    let edge = edge_place.start(&config(&urls));
    publish(&edge, "site/a", 0..10);
    wait_for_bridge(&edge, "it says hello", |b| b["state"] == "greeting");
    edge.stop();
    assert!(!edge_place.log().contains("the time to stop in is over"), "{}", edge_place.log());
}
