//! Alarms among bulk on a slow link.

use super::broker::Place;
use super::pair::{
    HUB, config, connect, edge_with, held, hurry, number, publish, publish_as, read_all, wait_until_well,
};
use super::relay::{Mode, Relay};
use tidegate::client::{Heard, Retry, SubscribeOptions};
use tidegate::model::Priority;

/// Pain 9: others let alarms wait behind bulk.
#[test]
fn pain_09_alarms_pass_the_bulk_that_waited_before_them() {
    const BULK: u32 = 5_000;
    const ALARMS: u32 = 20;
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    relay.set(Mode::Cut);
    let queues = "queues: [{name: main, capture: ['#']}]\n";
    let edge = edge_place.start(&edge_with(&relay.url(), "window: {messages: 256}, compress: false", queues));
    publish(&edge, "bulk", 0..BULK);
    publish_as(&edge, "alarm", Priority::new(9).expect("below 10"), 0..ALARMS);
    assert_eq!(held(&edge, "main"), u64::from(BULK + ALARMS));
    // As they are stored at the hub, so are they heard.
    let heard = smol::block_on(async {
        let client = connect(&hub, Retry::Never).await;
        let mut all = client.subscribe("#", SubscribeOptions::default()).await.expect("subscribed");
        relay.slow(100_000);
        relay.set(Mode::Open);
        hurry(&edge);
        let mut heard = Vec::new();
        while heard.len() < (BULK + ALARMS) as usize {
            match all.next().await.expect("heard") {
                Heard::Message(m) => heard.push(m.channel().to_owned()),
                other => panic!("{other:?}"),
            }
            if heard.iter().filter(|channel| *channel == "alarm").count() == ALARMS as usize {
                relay.slow(0);
            }
        }
        client.close().await;
        heard
    });
    let last = heard.iter().rposition(|channel| channel == "alarm").expect("they came");
    println!("{last} messages came before the last of {ALARMS} alarms, of {BULK} of bulk that were there before");
    assert!(last < (BULK / 4) as usize, "the last alarm came behind {last}");
    wait_until_well(&edge);
    edge.stop();
    hub.stop();
}

/// Pain 9, its other half: others leave nobody the choice of what is discarded.
#[test]
fn pain_09_what_an_outage_makes_worthless_is_given_up_by_rule_and_counted() {
    let (edge_place, hub_place) = (Place::new(), Place::new());
    let hub = hub_place.start(&config(HUB));
    let relay = Relay::to(hub.address);
    relay.set(Mode::Cut);
    let rest = "queues: [{name: main, capture: ['#']}]\noutage:\n  \
                - {queue: main, channels: ['state/#'], after: 0ms, keep_last: 1}\n  \
                - {queue: main, channels: ['log/#'], after: 0ms, every: 10}\n";
    let edge = edge_place.start(&edge_with(&relay.url(), "", rest));
    publish(&edge, "state/a", 0..100);
    publish(&edge, "state/b", 100..200);
    publish(&edge, "log/a", 1_000..1_100);
    publish(&edge, "site/a", 2_000..2_010);
    relay.set(Mode::Open);
    hurry(&edge);
    let told = wait_until_well(&edge);
    assert_eq!((number(&told["dropped"], "superseded"), number(&told["dropped"], "thinned")), (198, 90), "{told}");
    let found = read_all(&hub, "main", 22);
    let of = |from: u32, to: u32| found.iter().copied().filter(|n| (from..to).contains(n)).collect::<Vec<u32>>();
    assert_eq!((of(0, 1_000), of(1_000, 2_000).len()), (vec![99, 199], 10), "{found:?}");
    assert_eq!(of(2_000, 3_000), (2_000..2_010).collect::<Vec<u32>>(), "what no rule names is all there");
    edge.stop();
    hub.stop();
}
