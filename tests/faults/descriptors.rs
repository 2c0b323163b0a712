//! No more file descriptors: who is there is served, who comes waits, and nothing spins.

use super::broker::{Place, Setup, wait_until};
use super::load::{Load, Publisher};
use super::raw::{Raw, hello};
use std::time::Duration;
use tidegate::wire::FrameType;

const FILES: usize = 48;
const CLIENTS: usize = 80;

#[test]
fn out_of_descriptors_it_serves_who_is_there_and_does_not_spin() {
    let place = Place::new();
    let wrapper = vec!["prlimit".to_owned(), format!("--nofile={FILES}:{FILES}")];
    let broker = place.start(&Setup { wrapper, ..Setup::default() });
    broker.says(&["WARN", &format!("the system allows {FILES} open files"), "limits.connections_max"]);
    let mut load =
        Load::start(broker.address, &[Publisher { pause: Duration::from_millis(5), ..Publisher::default() }]);
    load.consume();
    load.progresses(20);
    let mut clients: Vec<Raw> = (0..CLIENTS).map(|_| Raw::tcp(broker.address)).collect();
    for client in &mut clients {
        client.send(0, &hello(60_000), &[]);
    }
    wait_until("there are no more", || broker.descriptors() >= FILES);
    broker.says(&["WARN", "cannot accept connections for now", "Too many open files"]);
    // Who is there is served.
    load.progresses(100);
    let before = broker.ticks();
    std::thread::sleep(Duration::from_secs(2));
    let ticks = broker.ticks() - before;
    println!("{ticks} ticks of 200 with clients waiting at the door");
    assert!(ticks < 120, "{ticks} ticks of 200: it spins");
    load.progresses(100);
    // Said once, not at each try.
    let said = place.log().lines().filter(|l| l.contains("cannot accept connections for now")).count();
    assert!((1..=2).contains(&said), "{said} lines");

    // As some go, others come, until everybody was served.
    let mut served = 0;
    let mut waiting = clients;
    while !waiting.is_empty() {
        let mut client = waiting.remove(0);
        let welcome = client.next();
        assert_eq!(welcome.kind, FrameType::Welcome, "{}", welcome.words());
        client.publishes(1, 1, "load-of-others");
        served += 1;
        client.close();
    }
    assert_eq!(served, CLIENTS);
    println!("{}", load.finish());
    broker.stop();
}
