//! An edge, a hub and what is asked of both.

use super::broker::{Broker, Setup, wait_until};
use super::raw::PATIENCE;
use serde_json::Value;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tidegate::client::{Address, Client, ClientError, ConsumeOptions, Message, Options, Retry};
use tidegate::model::Priority;

/// What hubs are configured with.
pub const HUB: &str = "name: hub\nstore: {ack_linger: 20ms}\nqueues: [{name: main, capture: ['#']}]\n";

/// A setup of an edge whose bridge `hub` forwards `main` to `url`; `bridge` are further keys of the bridge, `rest` is the rest of
/// the configuration, queues included.
pub fn edge_with(url: &str, bridge: &str, rest: &str) -> Setup {
    let bridges = format!("bridges:\n  - {{name: hub, urls: ['{url}'], up: [main], {bridge}}}\n");
    config(&format!("name: edge\nstore: {{ack_linger: 20ms}}\n{bridges}{rest}"))
}

/// The same with a queue that takes all.
pub fn edge(url: &str) -> Setup {
    edge_with(url, "", "queues: [{name: main, capture: ['#']}]\n")
}

/// A setup of this configuration.
pub fn config(text: &str) -> Setup {
    Setup { config: text.into(), ..Setup::default() }
}

/// What the broker tells of its first bridge.
pub fn bridge(broker: &Broker<'_>) -> Value {
    broker.status()["bridges"][0].clone()
}

/// A number of what it tells.
pub fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} of {value}"))
}

/// Waits until the bridge tells this.
pub fn wait_for_bridge(broker: &Broker<'_>, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let told = bridge(broker);
        if is(&told) {
            return told;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "not within {:?}: {what}; it is {told}", began.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the bridge is open and healthy, with nothing left to forward.
pub fn wait_until_well(broker: &Broker<'_>) -> Value {
    wait_for_bridge(broker, "the bridge is well", |b| {
        b["healthy"] == true && b["state"] == "open" && b["queued"] == 0 && b["in_flight"] == 0
    })
}

/// A queue of the broker's status.
pub fn queue(broker: &Broker<'_>, name: &str) -> Value {
    let status = broker.status();
    let queues = status["queues"].as_array().expect("a list").clone();
    queues.into_iter().find(|q| q["name"] == name).unwrap_or_else(|| panic!("no queue {name} in {status}"))
}

/// Messages a queue holds.
pub fn held(broker: &Broker<'_>, name: &str) -> u64 {
    number(&queue(broker, name), "messages")
}

/// A client of this broker.
pub async fn connect(broker: &Broker<'_>, retry: Retry) -> Client {
    // As its administrator: also where a login is asked for.
    let address = Address::Unix(broker.data().join("tidegate.sock"));
    let options = Options { retry, backoff_ms: 5, backoff_ms_max: 50, ..Options::default() };
    Client::connect(address, options).await.expect("it comes in")
}

/// Publishes the numbers in order, each acknowledged by the contract of its queue when this returns.
pub fn publish(broker: &Broker<'_>, channel: &str, numbers: impl Iterator<Item = u32>) {
    publish_as(broker, channel, Priority::default(), numbers);
}

/// The same with a priority.
pub fn publish_as(broker: &Broker<'_>, channel: &str, priority: Priority, numbers: impl Iterator<Item = u32>) {
    smol::block_on(async {
        let client = connect(broker, Retry::Never).await;
        for number in numbers {
            let text = number.to_string();
            let mut message = Message::new(channel, text.as_bytes()).expect("a good channel");
            message.priority = priority;
            client.send(&message).await.expect("taken");
        }
        let stats = client.flush().await.expect("answered");
        assert_eq!(stats.failed, 0, "all are acknowledged: {stats:?}");
        client.close().await;
    });
}

/// Publishes one payload and tells what the broker says.
pub fn publish_one(broker: &Broker<'_>, channel: &str, payload: &[u8]) -> Result<(), ClientError> {
    smol::block_on(async {
        let client = connect(broker, Retry::Never).await;
        let result = client.publish(&Message::new(channel, payload)?).await.map(drop);
        client.close().await;
        result
    })
}

/// The first `count` payloads of a queue as numbers, in the order they are given out, with what came before a quiet while behind
/// them: no more is there.
pub fn read_all(broker: &Broker<'_>, queue: &str, count: usize) -> Vec<u32> {
    read_payloads(broker, queue, count)
        .iter()
        .map(|payload| std::str::from_utf8(payload).expect("text").parse().expect("a number"))
        .collect()
}

/// As [`read_all`], the payloads.
pub fn read_payloads(broker: &Broker<'_>, queue: &str, count: usize) -> Vec<Vec<u8>> {
    wait_until(&format!("{count} messages are in {queue}"), || held(broker, queue) >= count as u64);
    let all = held(broker, queue) as usize;
    let mut payloads = Vec::new();
    smol::block_on(async {
        let client = connect(broker, Retry::Never).await;
        let mut consumer = client.consume(queue, "reader", ConsumeOptions::default()).await.expect("a consumer");
        while payloads.len() < all {
            let batch = consumer.next_batch().await.expect("delivered");
            payloads.extend(batch.iter().map(|d| d.message.payload().to_vec()));
            consumer.ack_all(&batch);
        }
        client.close().await;
    });
    payloads
}

/// That the hub has exactly these numbers, once each and in order.
pub fn assert_all_once_in_order(hub: &Broker<'_>, queue: &str, numbers: impl Iterator<Item = u32>) {
    let expected: Vec<u32> = numbers.collect();
    let found = read_all(hub, queue, expected.len());
    if let Some(at) = (0..expected.len().max(found.len())).find(|&i| expected.get(i) != found.get(i)) {
        panic!(
            "{} came of {}; the first difference is at {at}: {:?} where {:?} was due",
            found.len(),
            expected.len(),
            found.get(at),
            expected.get(at)
        );
    }
}

/// Runs a command of the program on this broker's Unix socket.
pub fn tidegate(broker: &Broker<'_>, arguments: &[&str]) -> Output {
    let url = format!("unix://{}", broker.data().join("tidegate.sock").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).args(["--url", &url]).env("NO_COLOR", "1").output().expect("it runs")
}

/// Has a bridge that waits try again now, rather than in some seconds.
pub fn hurry(broker: &Broker<'_>) {
    assert!(tidegate(broker, &["bridge", "resume", "hub"]).status.success());
}

/// For waits that something does not happen: a good deal longer than it takes.
pub const A_WHILE: Duration = Duration::from_millis(300);
