//! Memory: bounded under a backlog and a crowd, and at a limit of the system the process ends and comes back whole.

use super::broker::{Broker, Place, Setup, wait_for, wait_until};
use super::load::{Load, Publisher};
use super::raw::{Raw, frame, hello};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use tidegate::wire::{self, Contract, FLAG_CONT, FLAG_MORE, FrameType, Publish};

const MIB: u64 = 1_024 * 1_024;
/// What the defaults add up to when everything is full at once, with what a debug build's code, stacks and allocator take: cache 4,
/// tail 2, pending 8, dedupe 2.4, and 80 connections.
const RESIDENT_MAX: u64 = 40 * MIB;
const CONNECTIONS: usize = 300;

/// A session that sends half of a message of a mebibyte and then nothing: the broker holds it.
fn hoard(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(&frame(0, 0, 0, &hello(60_000), &[])).ok()?;
    let chunk = vec![0; 16 * 1_024];
    let head = Publish { contract: Contract::Disk, number: 1, total: MIB as u32 };
    let mut bytes = frame(FLAG_MORE, 1, 1, &head, &chunk);
    for sequence in 2..60 {
        let mut out = Vec::new();
        wire::append(&mut out, FrameType::Publish, FLAG_MORE | FLAG_CONT, 1, None::<&Publish>, &[&chunk]);
        wire::seal(&mut out, sequence);
        bytes.extend(out);
    }
    stream.write_all(&bytes).ok()?;
    Some(stream)
}

#[test]
fn a_backlog_and_a_crowd_stay_within_bounds() {
    let place = Place::new();
    let broker = place.start(&Setup::default());
    let publishers = [Publisher { bytes: 256, window: 512, ..Publisher::default() }; 4];
    let load = Load::start(broker.address, &publishers);
    let crowd: Vec<Raw> = (0..CONNECTIONS).map(|_| Raw::open(broker.address)).collect();
    load.progresses(20_000);
    let resident = broker.memory("RssAnon");
    println!("{} messages queued, {CONNECTIONS} connections: {} KiB", load.acked_by_all(), resident >> 10);
    assert!(resident < RESIDENT_MAX, "{resident} bytes");
    drop(crowd);
    println!("{}", load.finish());
    broker.stop();
}

/// Under a limit just above what it has, it is made to need more until it ends; started again, it has everything.
fn ends_and_comes_back(limit: impl FnOnce(&Broker<'_>)) {
    let place = Place::new();
    let mut broker = place.start(&Setup::default());
    let mut load = Load::start(broker.address, &[Publisher::default(); 2]);
    load.consume();
    load.progresses(500);
    limit(&broker);
    let mut hoards = Vec::new();
    wait_for("the limit is met", || {
        hoards.extend(hoard(broker.address));
        (!broker.runs()).then_some(())
    });
    let status = broker.ended();
    println!("it ended with {status} after {} hoards", hoards.len());
    load.moved(None);
    drop((broker, hoards));
    let broker = place.start(&Setup::default());
    load.moved(Some(broker.address));
    load.progresses(100);
    wait_until("it is well", || broker.status()["state"] == "ok");
    println!("{}", load.finish());
    broker.stop();
}

#[test]
fn at_a_limit_of_address_space_it_ends_at_once_and_comes_back_whole() {
    ends_and_comes_back(|broker| {
        let limit = broker.memory("VmSize") + 8 * MIB;
        let set = Command::new("prlimit").args([format!("--pid={}", broker.pid()), format!("--as={limit}")]).status();
        assert!(set.expect("prlimit is of util-linux").success());
    });
}

#[test]
#[ignore = "needs a memory group that may be written: scripts/faults.sh names it in TIDEGATE_TEST_CGROUP"]
fn privileged_at_the_limit_of_its_memory_group_it_ends_and_comes_back_whole() {
    let group = std::path::PathBuf::from(std::env::var_os("TIDEGATE_TEST_CGROUP").expect("a group is named"));
    ends_and_comes_back(|broker| {
        let limit = broker.memory("VmRSS") + 4 * MIB;
        // Version 2, else version 1; what is resident already is charged to where it came from.
        let file = ["memory.max", "memory.limit_in_bytes"].map(|f| group.join(f)).into_iter().find(|f| f.exists());
        std::fs::write(file.expect("a memory group"), limit.to_string()).expect("written");
        std::fs::write(group.join("cgroup.procs"), broker.pid().to_string()).expect("moved");
    });
}
