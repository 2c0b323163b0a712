//! The process is stopped for a while, as by a debugger, a frozen group or a machine that was paused.

use super::broker::{Place, Setup, wait_for, wait_until};
use super::load::{Load, Publisher};
use rustix::process::Signal;
use std::time::Duration;
use tidegate::client::{Address, Client, ConsumeOptions, Message, Options};

const HEARTBEAT_MS: u32 = 1_000;
/// Held by the consumer when the broker stops.
const HELD: usize = 5;

fn stops(time: Duration) {
    let place = Place::new();
    let broker = place.start(&Setup { config: "limits: {heartbeat: 1s}\n".into(), ..Setup::default() });
    let load = Load::start(broker.address, &[Publisher { pause: Duration::from_millis(2), ..Publisher::default() }; 2]);
    let options =
        || Options { heartbeat_ms: HEARTBEAT_MS, backoff_ms_max: 500, name: "stopped".into(), ..Options::default() };
    let address: Address = broker.address.to_string().parse().expect("an address");
    smol::block_on(async {
        let publisher = Client::connect(address.clone(), options()).await.expect("connected");
        let reader = Client::connect(address, options()).await.expect("connected");
        let mut consumer = reader.consume("main", "holder", ConsumeOptions::default()).await.expect("a consumer");
        let mut held = Vec::new();
        while held.len() < HELD {
            held.push(consumer.next().await.expect("a delivery"));
        }
        load.progresses(20);
        let sessions = broker.status()["connections"].as_u64().expect("a number");

        broker.signal(Signal::STOP);
        let stopped = std::time::Instant::now();
        // Publishing goes on: the client queues it.
        for n in 0..50u8 {
            publisher.publish_nowait(&Message::new("client", &[n; 16]).expect("a good message")).await.expect("queued");
        }
        // Each side's heartbeats fail, and each tries to come back.
        wait_until("the clients see it", || {
            publisher.connected_for_ms().is_none() && reader.connected_for_ms().is_none()
        });
        while stopped.elapsed() < time {
            std::thread::sleep(Duration::from_millis(20));
        }
        broker.signal(Signal::CONT);
        let before = broker.ticks();
        let resumed = std::time::Instant::now();

        wait_until("the clients are back", || {
            publisher.connected_for_ms().is_some() && reader.connected_for_ms().is_some()
        });
        publisher.flush().await.expect("everything is acknowledged");
        load.progresses(20);
        // What the consumer held comes again, flagged, before anything new.
        let again = consumer.next().await.expect("a delivery");
        assert_eq!((again.message.lane, again.message.seq), (held[0].message.lane, held[0].message.seq));
        assert!(again.message.redelivered, "what was held comes again with the flag");
        wait_for("all that was held comes again", || {
            let more = smol::block_on(consumer.next()).expect("a delivery");
            (more.message.seq == held[HELD - 1].message.seq).then(|| assert!(more.message.redelivered))
        });
        // No storm: nothing that was due meanwhile is done again and again, and no session is left over.
        wait_until("old sessions are gone", || broker.status()["connections"].as_u64().is_some_and(|n| n <= sessions));
        println!("{} ticks in {:?} after it went on", broker.ticks() - before, resumed.elapsed());
        drop(held);
    });
    println!("{}", load.finish());
    // At rest it rests.
    let before = broker.ticks();
    std::thread::sleep(Duration::from_secs(1));
    let ticks = broker.ticks() - before;
    assert!(ticks < 50, "{ticks} ticks of a hundred at rest");
    broker.stop();
}

#[test]
fn a_process_that_is_stopped_for_seconds_loses_nothing_and_clients_come_back() {
    stops(Duration::from_secs(6));
}

#[test]
#[ignore = "a minute: scripts/faults.sh runs it"]
fn long_a_process_that_is_stopped_for_a_minute_loses_nothing_and_clients_come_back() {
    stops(Duration::from_secs(60));
}
