//! Outages: what was acknowledged waits for the upstream, whatever happens meanwhile, and goes on when it is back.

use super::broker::{Place, Setup, wait_until};
use super::pair::{
    A_WHILE, HUB, assert_all_once_in_order, bridge, config, connect, edge, edge_with, held, hurry, number, publish,
    publish_one, read_all, wait_for_bridge, wait_until_well,
};
use super::relay::{Mode, Relay};
use tidegate::client::{ClientError, Message, Retry};
use tidegate::wire::Code;

/// An edge with a queue `main` of these further keys.
fn edge_queue(url: &str, keys: &str) -> Setup {
    edge_with(url, "", &format!("queues: [{{name: main, capture: ['#'], {keys}}}]\n"))
}

/// Pain 3: other bridges lose what comes during an outage, or its first seconds, with persistence on.
#[test]
fn pain_03_an_outage_with_a_restart_of_the_edge_and_of_the_hub_in_it_loses_nothing() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    let setup = edge(&relay.url());
    let first = edge_place.start(&setup);
    publish(&first, "site/a", 0..500);
    wait_until("it flows", || held(&hub, "main") == 500);
    // In the middle of a stream of messages.
    smol::block_on(async {
        let client = connect(&first, Retry::Never).await;
        for n in 500..1_500u32 {
            client.send(&Message::new("site/a", n.to_string().as_bytes()).expect("good")).await.expect("taken");
            if n == 700 {
                relay.set(Mode::Cut);
            }
        }
        let stats = client.flush().await.expect("answered");
        assert_eq!(stats.failed, 0, "an outage costs nobody here anything: {stats:?}");
    });
    // The edge loses its power, then the hub.
    first.kill();
    let edge = edge_place.start(&setup);
    publish(&edge, "site/a", 1_500..2_000);
    hub.kill();
    publish(&edge, "site/a", 2_000..2_500);
    let hub = hub_place.start(&config(HUB));
    relay.leads_to(Some(hub.address));
    relay.set(Mode::Open);
    hurry(&edge);
    assert_all_once_in_order(&hub, "main", 0..2_500);
    wait_until_well(&edge);
    assert_eq!(held(&edge, "main"), 0);
    edge.stop();
    hub.stop();
}

/// Pain 4: others delete a message before the upstream has it, or wait for the next publish to send the backlog.
#[test]
fn pain_04_a_message_leaves_its_queue_on_the_upstreams_acknowledgement_and_not_before() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    let edge = edge_place.start(&edge(&relay.url()));
    publish(&edge, "site/a", 0..1);
    wait_until_well(&edge);
    // The hub takes them and says so, and nothing of that arrives.
    relay.set(Mode::Deaf);
    publish(&edge, "site/a", 1..101);
    wait_until("the hub has some", || held(&hub, "main") > 1);
    std::thread::sleep(A_WHILE);
    let told = bridge(&edge);
    assert_eq!((held(&edge, "main"), number(&told, "queued"), number(&told, "acked")), (100, 100, 1), "{told}");
    // It goes on by itself, without another publish; what the hub has is not there twice.
    relay.set(Mode::Open);
    assert_all_once_in_order(&hub, "main", 0..101);
    wait_until_well(&edge);
    assert_eq!(held(&edge, "main"), 0);
    edge.stop();
    hub.stop();
}

/// Pain 5: others grow in an outage until they are killed.
#[test]
fn pain_05_a_long_outage_costs_disk_up_to_the_queues_bound_and_no_memory() {
    const MESSAGES: u32 = 11_000;
    const BOUND: u64 = 10_000;
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let relay = Relay::new();
    let edge = edge_place.start(&edge_queue(&relay.url(), "limits: {messages: 10000}"));
    publish(&edge, "site/a", 0..1);
    let before = edge.memory("RssAnon");
    let stats = smol::block_on(async {
        let client = connect(&edge, Retry::Never).await;
        let payload = "x".repeat(256);
        for n in 1..MESSAGES {
            let payload = format!("{n} {payload}");
            client.send(&Message::new("site/a", payload.as_bytes()).expect("good")).await.expect("it is connected");
        }
        client.flush().await.expect("it is connected")
    });
    // Who publishes is told of each that is not taken.
    assert_eq!((stats.stored, stats.failed), (BOUND - 1, u64::from(MESSAGES) - BOUND), "{stats:?}");
    assert_eq!(held(&edge, "main"), BOUND);
    let grown = edge.memory("RssAnon").saturating_sub(before);
    println!("{BOUND} messages waiting cost {} KiB", grown >> 10);
    assert!(grown < 16 << 20, "{grown} bytes more for a backlog");
    // And all of it arrives.
    let hub = hub_place.start(&config(HUB));
    relay.leads_to(Some(hub.address));
    hurry(&edge);
    wait_until("it drains", || held(&hub, "main") == BOUND);
    wait_until_well(&edge);
    edge.stop();
    hub.stop();
}

/// Pain 6: others drop the newest, or anything, without a word.
#[test]
fn pain_06_nothing_is_dropped_but_by_a_rule_and_what_is_dropped_is_counted() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    relay.set(Mode::Cut);
    // One queue that refuses, and one that drops the oldest because its owner said so.
    let queues = "queues:\n  - {name: main, capture: [site/#], limits: {messages: 100}}\n  \
                  - {name: latest, capture: [state/#], limits: {messages: 100}, overflow: drop-oldest}\n";
    let text = format!(
        "name: edge\nbridges: [{{name: hub, urls: ['{}'], up: [main, latest]}}]\nstore: {{ack_linger: 20ms}}\n{queues}",
        relay.url()
    );
    let edge = edge_place.start(&config(&text));
    publish(&edge, "site/a", 0..100);
    for _ in 0..7 {
        let refused = publish_one(&edge, "site/a", b"more");
        assert!(matches!(&refused, Err(ClientError::Refused(r)) if r.code == Some(Code::QueueFull)), "{refused:?}");
    }
    publish(&edge, "state/a", 0..250);
    let counters = edge.status()["counters"].clone();
    assert_eq!(number(&counters, "refused"), 7, "{counters}");
    assert_eq!(number(&counters, "dropped_full"), 150, "{counters}");
    assert_eq!(number(&bridge(&edge)["dropped"], "not-kept"), 150);
    relay.set(Mode::Open);
    hurry(&edge);
    wait_until_well(&edge);
    let (mut found, mut expected) = (read_all(&hub, "main", 200), (0..100).chain(150..250).collect::<Vec<u32>>());
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "what was acknowledged and not dropped by the rule is all there");
    edge.stop();
    hub.stop();
}

/// Pain 7: others stay stuck once their queue was full.
#[test]
fn pain_07_a_queue_that_an_outage_filled_takes_messages_again_by_itself() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    let edge = edge_place.start(&edge_queue(&relay.url(), "limits: {messages: 200}"));
    let mut from = 0;
    for round in 0..3 {
        relay.set(Mode::Cut);
        // What still flowed when it was cut makes room for as much more.
        let mut taken = 0;
        while publish_one(&edge, "site/a", (from + taken).to_string().as_bytes()).is_ok() {
            taken += 1;
            assert!(taken <= 400, "the bound holds");
        }
        assert_eq!(held(&edge, "main"), 200, "round {round}");
        from += taken;
        relay.set(Mode::Open);
        hurry(&edge);
        wait_until_well(&edge);
        assert_eq!(held(&edge, "main"), 0, "round {round}");
    }
    assert_all_once_in_order(&hub, "main", 0..from);
    edge.stop();
    hub.stop();
}

/// Pain 8: others replay all at once, or trickle for hours.
#[test]
fn pain_08_a_backlog_drains_by_itself_within_its_window() {
    const WINDOW: u64 = 100;
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    relay.set(Mode::Cut);
    let keys = format!("window: {{messages: {WINDOW}}}, pace: {{ramp: 200ms}}");
    let setup = edge_with(&relay.url(), &keys, "queues: [{name: main, capture: ['#']}]\n");
    let edge = edge_place.start(&setup);
    publish(&edge, "site/a", 0..20_000);
    relay.set(Mode::Open);
    hurry(&edge);
    // No flood: never more under way than the window, however much waits.
    wait_for_bridge(&edge, "it drains", |told| {
        let under_way = number(told, "in_flight");
        assert!(under_way <= WINDOW, "{under_way} under way of {WINDOW}");
        told["queued"] == 0
    });
    assert_all_once_in_order(&hub, "main", 0..20_000);
    // No trickle: one connection, and the hub had them in few commits.
    let told = wait_until_well(&edge);
    assert_eq!(number(&told, "connects"), 1, "{told}");
    let commits = number(&hub.status()["counters"], "commits");
    assert!(commits < 5_000, "20,000 messages took {commits} commits");
    assert_eq!(held(&edge, "main"), 0);
    edge.stop();
    hub.stop();
}
