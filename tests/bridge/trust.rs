//! Certificates that are revoked while a bridge is open, and clocks that are not set.

use super::broker::{Broker, Place, Setup, wait_until};
use super::pair::{
    assert_all_once_in_order, config, edge_with, held, hurry, number, publish, wait_for_bridge, wait_until_well,
};
use super::pki::{self, Authority, Made, Wanted};
use super::preload::{Fault, Preload};
use serde_json::Value;
use std::path::Path;
use std::time::SystemTime;
use tempfile::TempDir;

const QUEUES: &str = "queues: [{name: main, capture: ['#']}]\n";

/// A setup of a hub that shows `NAME.pem` of this folder.
fn hub_showing(files: &Path, name: &str) -> Setup {
    let path = |end: &str| files.join(format!("{name}.{end}")).display().to_string();
    config(&format!(
        "name: hub\nstore: {{ack_linger: 20ms}}\n{QUEUES}listen: {{tcp: ['127.0.0.1:0'], tls: ['127.0.0.1:0']}}\ntls: \
         {{certificates: ['{}'], keys: ['file:{}']}}\n",
        path("pem"),
        path("key")
    ))
}

fn url(hub: &Broker<'_>) -> String {
    format!("tls://localhost:{}", hub.door("tls").port())
}

fn make(authority: &Authority) -> Made {
    authority.make(&Wanted::server(&["localhost", "127.0.0.1"]))
}

fn is_refused_by_tls(told: &Value, word: &str) -> bool {
    told["state"] != "open"
        && told["last_error"] == "tls"
        && told["last_error_detail"].as_str().is_some_and(|detail| detail.contains(word))
}

/// Pain 14, trust: others believe a revoked certificate until they are restarted.
#[test]
fn pain_14_a_hub_whose_certificate_is_revoked_is_left_at_once_and_one_with_a_new_one_is_found() {
    let files = TempDir::new().expect("folder");
    let authority = Authority::new("of hubs");
    let first = make(&authority);
    pki::put(files.path(), "server", &first);
    let (ca, crl) = (files.path().join("ca.pem"), files.path().join("revoked.pem"));
    pki::write(&ca, authority.pem());
    pki::write(&crl, authority.revokes(&[], 10).0);
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&hub_showing(files.path(), "server"));
    let tls = format!("tls: {{ca: ['{}'], crl: ['{}']}}", ca.display(), crl.display());
    let edge = edge_place.start(&edge_with(&url(&hub), &tls, QUEUES));
    publish(&edge, "site/a", 0..10);
    wait_until_well(&edge);
    // The key leaks. The list alone ends it: neither broker is restarted nor told.
    pki::write(&crl, authority.revokes(std::slice::from_ref(&first.serial), 10).0);
    wait_for_bridge(&edge, "it is left", |b| is_refused_by_tls(b, "revoked"));
    publish(&edge, "site/a", 10..20);
    assert_eq!(held(&hub, "main"), 10, "nothing goes to who holds the key");
    pki::put(files.path(), "server", &make(&authority));
    // The hub finds its new files by itself, and the bridge the hub.
    assert_all_once_in_order(&hub, "main", 0..20);
    wait_until_well(&edge);
    edge.stop();
    hub.stop();
}

/// Pain 14, clock: others stay out for ever, or throw everything away, when a box begins in 1970.
#[test]
fn pain_14_an_edge_that_begins_in_1970_keeps_everything_and_connects_once_its_clock_is_set() {
    let Some(preload) = Preload::build("an edge without a clock") else { return };
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a sane clock").as_secs() as i64;
    let files = TempDir::new().expect("folder");
    let authority = Authority::new("of hubs");
    pki::put(files.path(), "server", &make(&authority));
    let ca = files.path().join("ca.pem");
    pki::write(&ca, authority.pem());
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&hub_showing(files.path(), "server"));
    preload.set(Fault::ClockSeconds, 20 - since_1970);
    let setup = edge_with(&url(&hub), &format!("tls: {{ca: ['{}']}}", ca.display()), QUEUES);
    let setup = Setup { env: preload.env(&edge_place.data()), ..setup };
    let edge = edge_place.start(&setup);
    publish(&edge, "site/a", 0..100);
    let told = wait_for_bridge(&edge, "it says that its clock is not set", |b| is_refused_by_tls(b, "clock"));
    assert_eq!((number(&told, "queued"), number(&told, "acked")), (100, 0), "{told}");
    // The time comes from the network, in the middle of it.
    preload.set(Fault::ClockSeconds, 0);
    publish(&edge, "site/a", 100..200);
    hurry(&edge);
    assert_all_once_in_order(&hub, "main", 0..200);
    wait_until("nothing expired", || edge.status()["counters"]["expired"] == 0);
    // It is set back by a year, and the link stays as it is.
    preload.set(Fault::ClockSeconds, -365 * 86_400);
    publish(&edge, "site/a", 200..300);
    wait_until("it flows", || held(&hub, "main") == 100);
    let told = wait_until_well(&edge);
    assert_eq!(number(&told, "connects"), 1, "{told}");
    edge.stop();
    hub.stop();
}
