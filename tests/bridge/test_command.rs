//! `tidegate bridge test`: what it says of a way that is good, and of each that is not.

use super::broker::{Place, wait_until};
use super::dial::{Files, closed, door};
use super::pair::held;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Runs it on this configuration: its exit code, and its steps.
fn test(config: &Path) -> (Option<i32>, Vec<Value>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(["bridge", "test", "hub", "--json", "--config"]).arg(config).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let steps = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    (output.status.code(), steps)
}

fn names(steps: &[Value]) -> Vec<&str> {
    steps.iter().map(|step| step["step"].as_str().expect("text")).collect()
}

/// A configuration with this bridge, as a file.
fn write(files: &Files, urls: &str, keys: &str) -> std::path::PathBuf {
    let text = format!(
        "name: edge\ndata: '{}'\nqueues: [{{name: out, capture: ['#']}}]\nbridges: [{{name: hub, urls: [{urls}], {keys}}}]\n",
        files.path("data").display()
    );
    files.write("edge.yaml", text);
    files.path("edge.yaml")
}

#[test]
fn every_step_of_a_good_way_is_told_and_nothing_is_left_at_the_hub() {
    let (hub_place, files) = (Place::new(), Files::new());
    let hub = hub_place.start(&files.hub());
    let routes = "up: ['out site/# -> edges/{name}/#'], down: ['subscribe command/#', 'consume main']";
    let keys = format!("{routes}, {}", files.bridge(1));
    let url = format!("'wss://localhost:{}/ws'", door(&hub, "https").port());
    let (code, steps) = test(&write(&files, &url, &keys));
    assert_eq!(code, Some(0), "{steps:?}");
    let expected =
        ["name", "port", "tls", "websocket", "login", "permission", "permission", "permission", "round trip"];
    assert_eq!(names(&steps), expected, "{steps:?}");
    let text = |at: usize| steps[at]["text"].as_str().expect("text").to_owned();
    assert!(text(2).contains("TLS 1.3") && text(2).contains("localhost"), "{steps:?}");
    assert!(text(4).contains("let in by hub, by its key"), "{steps:?}");
    assert!(text(5).contains("publish to edges/edge/bridge-test"), "{steps:?}");
    assert!(steps.iter().all(|step| step["ok"] == true && step["reason"].is_null()), "{steps:?}");
    assert_eq!(held(&hub, "main"), 0);
    let queue = hub.status()["queues"][0].clone();
    assert_eq!(queue["consumers"].as_array().map(Vec::len), Some(0), "{queue}");
    wait_until("its session is gone", || hub.status()["connections"] == 1);
    hub.stop();
}

#[test]
fn each_step_that_fails_is_told_with_what_to_do_and_an_exit_code() {
    let (hub_place, files) = (Place::new(), Files::new());
    let hub = hub_place.start(&files.hub());
    files.login_key(2);
    let (tcp, tls, http) = (door(&hub, "tcp"), door(&hub, "tls"), door(&hub, "http"));
    let up = "up: [out]";
    let good = format!("{up}, {}", files.bridge(1));
    let wrong_name = good.replace("tls: {", "tls: {server_name: elsewhere.example, ");
    let wrong_key = format!("{up}, {}", files.bridge(2));
    let no_queue = format!("{good}, down: ['consume nowhere']");
    for (url, keys, code, step, reason) in [
        (format!("tcp://{}", closed()), &good, 3, "port", "refused"),
        (format!("tls://{tls}"), &wrong_name, 3, "tls", "tls"),
        (format!("ws://{http}/elsewhere"), &good, 3, "websocket", "http"),
        (format!("tcp://{tcp}"), &wrong_key, 8, "login", "auth"),
        (format!("tcp://{tcp}"), &no_queue, 4, "permission", "protocol"),
    ] {
        let (found, steps) = test(&write(&files, &format!("'{url}'"), keys));
        assert_eq!(found, Some(code), "{url}: {steps:?}");
        let failed: Vec<&Value> = steps.iter().filter(|step| step["ok"] == false).collect();
        let [failed] = failed.as_slice() else { panic!("{url}: {steps:?}") };
        assert_eq!((failed["step"].as_str(), failed["reason"].as_str()), (Some(step), Some(reason)), "{failed}");
        assert!(!failed["advice"].as_str().expect("text").is_empty(), "{failed}");
    }
    hub.stop();
}

#[test]
fn what_a_role_does_not_allow_is_told_before_a_message_is_lost_by_it() {
    let (hub_place, files) = (Place::new(), Files::new());
    let mut setup = files.hub();
    let identities = std::fs::read_to_string(files.path("identities")).expect("there").replace("open", "edge");
    files.write("identities", identities);
    setup.config.push_str("roles: [{name: edge, publish: ['edges/#'], subscribe: ['command/#']}]\n");
    let hub = hub_place.start(&setup);
    let url = format!("'tcp://{}'", door(&hub, "tcp"));
    let routes =
        "up: ['out a/# -> edges/a/#', 'out b/#'], down: ['subscribe command/#', 'subscribe secret/#', 'consume main']";
    let (code, steps) = test(&write(&files, &url, &format!("{routes}, {}", files.bridge(1))));
    assert_eq!(code, Some(4), "{steps:?}");
    let told: Vec<(bool, &str)> = steps
        .iter()
        .filter(|step| step["step"] == "permission")
        .map(|step| (step["ok"] == true, step["text"].as_str().expect("text")))
        .collect();
    let expected =
        [(true, "edges/a"), (false, "b/bridge-test"), (true, "command/#"), (false, "secret/#"), (false, "main")];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for ((ok, text), (should, words)) in told.iter().zip(expected) {
        assert!(*ok == should && text.contains(words), "{told:?}");
    }
    assert_eq!(held(&hub, "main"), 0);
    hub.stop();
}
