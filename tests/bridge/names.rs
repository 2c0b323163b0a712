//! Names: a name server that never answers holds up nothing but the bridge that asks it.

use super::broker::{Broker, Place, Setup, wait_until};
use super::child::{mounts_are_permitted, skipped};
use super::pair::{HUB, assert_all_once_in_order, config, number, publish};
use serde_json::Value;
use std::fs;
use std::net::UdpSocket;

/// Threads of the broker that run errands.
fn errands(broker: &Broker<'_>) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", broker.pid())).expect("it runs");
    let names = tasks.map(|task| fs::read_to_string(task.expect("an entry").path().join("comm")).unwrap_or_default());
    names.filter(|name| name == "errand\n").count()
}

fn bridge(broker: &Broker<'_>, name: &str) -> Value {
    let status = broker.status();
    status["bridges"].as_array().expect("a list").iter().find(|b| b["name"] == name).expect("there").clone()
}

#[test]
fn pain_10_a_name_server_that_never_answers_holds_up_nothing_and_has_one_thread() {
    let test = "pain_10_a_name_server_that_never_answers_holds_up_nothing_and_has_one_thread";
    // Of loopback, so that nothing leaves this machine; the port is the one that resolvers ask.
    let Ok(silent) = UdpSocket::bind(("127.0.0.53", 53)) else {
        return skipped(test, "no socket on port 53 is permitted");
    };
    if !mounts_are_permitted() {
        return skipped(test, "no mounts of one's own are permitted");
    }
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let resolver = tempfile::NamedTempFile::new().expect("a file");
    fs::write(resolver.path(), "nameserver 127.0.0.53\noptions timeout:30 attempts:5\n").expect("written");
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", resolver.path().display());
    let text = format!(
        "name: edge\nqueues:\n  - {{name: one, capture: ['one/#']}}\n  - {{name: two, capture: ['two/#']}}\n\
         bridges:\n  - {{name: lost, urls: ['tcp://hub.example:8433'], up: [one]}}\n  \
         - {{name: well, urls: ['tcp://{}'], up: [two]}}\n",
        hub.address
    );
    let wrapper = ["unshare", "-rm", "sh", "-ec", &script, "sh"].map(str::to_owned).to_vec();
    let edge = edge_place.start(&Setup { wrapper, ..config(&text) });
    silent.set_nonblocking(true).expect("set");
    let mut packet = [0; 512];
    wait_until("the name is asked for", || silent.recv_from(&mut packet).is_ok());
    publish(&edge, "one/x", 0..10);
    publish(&edge, "two/x", 0..100);
    assert_all_once_in_order(&hub, "main", 0..100);
    wait_until("it says what it does", || {
        let lost = bridge(&edge, "lost");
        lost["state"] == "connecting" && number(&lost, "queued") == 10
    });
    assert_eq!(errands(&edge), 1);
    // It gives up and asks again: the thread that waits is joined, not doubled.
    wait_until("it gives up", || bridge(&edge, "lost")["last_error"] == "dns");
    wait_until("it asks again", || bridge(&edge, "lost")["state"] == "connecting");
    assert_eq!(errands(&edge), 1);
    assert!(bridge(&edge, "lost")["last_error_detail"].as_str().expect("text").contains("hub.example"));
    // And the thread holds up no stop.
    edge.stop();
    hub.stop();
}
