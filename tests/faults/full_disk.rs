//! A disk that fills up, by our messages and then by somebody else to the last byte, and has space again.

use super::broker::{Place, Setup, wait_until};
use super::child::{mounts_are_permitted, skipped};
use super::load::{Load, Publisher};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tidegate::wire::Code;

const CONFIG: &str = "store: {free_low: 12MiB, free_high: 16MiB, reserve: 4MiB, ack_linger: 20ms}\n";
const LOUD: &[Publisher] = &[
    Publisher { priority: 4, bytes: 4_000, window: 32, pause: Duration::from_millis(1) },
    Publisher { priority: 0, bytes: 1_000, window: 8, pause: Duration::from_millis(1) },
    // The alarm.
    Publisher { priority: 9, bytes: 100, window: 1, pause: Duration::from_millis(20) },
];
const ALARM: usize = 2;

/// A setup whose data folder is a file system of this size of its own.
pub fn small_disk(size: &str, config: &str) -> Setup {
    let script = format!(r#"mkdir -p "$DATA"; mount -t tmpfs -o size={size} none "$DATA"; exec "$@""#);
    let wrapper = ["unshare", "-rm", "sh", "-ec", &script, "sh"].map(String::from).to_vec();
    Setup { config: config.into(), wrapper, ..Setup::default() }
}

/// Writes until not a byte fits any more.
fn fill(path: &Path) -> usize {
    let mut file = File::create(path).expect("a file can be made");
    let (mut written, mut step) = (0, 64 * 1_024);
    while step > 0 {
        match file.write(&vec![1; step]) {
            Ok(n) => written += n,
            Err(_) => step /= 2,
        }
    }
    written
}

#[test]
fn a_disk_that_fills_up_refuses_all_but_alarms_lets_drains_go_on_and_recovers_alone() {
    if !mounts_are_permitted() {
        skipped("a disk that fills up", "this machine permits no mounts of one's own");
        return;
    }
    fills_up_and_recovers(&small_disk("48m", CONFIG));
}

#[test]
#[ignore = "needs root and a loop device: scripts/faults.sh runs it"]
fn privileged_a_small_ext4_fills_up_and_recovers_alone() {
    fills_up_and_recovers(&small_ext4("64M", CONFIG));
}

/// As [`small_disk`], an ext4 of its own in a file: blocks, a journal, and syncs that are ones.
pub fn small_ext4(size: &str, config: &str) -> Setup {
    let script = format!(
        r#"mkdir -p "$DATA"; truncate -s {size} "$DATA.ext4"; mkfs.ext4 -q -m 0 "$DATA.ext4"
           mount -o loop "$DATA.ext4" "$DATA"; exec "$@""#
    );
    let wrapper = ["unshare", "-m", "sh", "-ec", &script, "sh"].map(String::from).to_vec();
    Setup { config: config.into(), wrapper, ..Setup::default() }
}

fn fills_up_and_recovers(setup: &Setup) {
    let place = Place::new();
    let broker = place.start(setup);
    let mut load = Load::start(broker.address, LOUD);
    // The low mark: everything but alarms is refused, and told when to come again.
    load.is_refused(&[Code::StorageFull]);
    wait_until("it says so", || broker.status()["state"] == "low");
    broker.says(&["WARN", "storage is low", "only priority 8 and above is taken"]);
    assert!(broker.status_for_people().contains("LOW DISK: only alarms are taken"));
    // What was under way when it was seen has its answer by now.
    load.one_progresses(ALARM, 5);
    let before = (load.acked(0), load.acked(1));
    load.one_progresses(ALARM, 10);
    load.is_refused(&[Code::StorageFull]);
    assert_eq!((load.acked(0), load.acked(1)), before, "below the mark only alarms are taken");
    let (_, retry_after_ms) = load.refusals(Code::StorageFull);
    assert!((1..60_000).contains(&retry_after_ms), "{retry_after_ms}");
    assert_eq!(load.refusals(Code::StorageFailed).0, 0, "the mark was seen before the disk was full");

    // Somebody else takes the rest to the last byte, and takes it again when the reserve is given up.
    let ballast = broker.data().join("ballast");
    let taken = fill(&ballast);
    wait_until("the disk is full", || broker.status()["free_bytes"].as_u64().is_some_and(|free| free < 8 << 20));
    println!("{} KiB acknowledged when another took the last {} KiB", load.acked_by_all(), taken >> 10);
    // What is acknowledged is drained, and the drain is acknowledged.
    let acked_before = broker.status()["counters"]["acked"].as_u64().expect("a number");
    let all = load.acked(0) + load.acked(1);
    load.consume();
    wait_until("what is there is drained", || load.seen() as u64 >= all);
    wait_until("acknowledgements are taken", || {
        broker.status()["counters"]["acked"].as_u64().is_some_and(|n| n >= acked_before + all)
    });
    load.is_refused(&[Code::StorageFull, Code::StorageFailed]);

    // It recovers alone.
    fs::remove_file(&ballast).expect("removed");
    load.progresses(50);
    broker.says(&["INFO", "storage has space again"]);
    wait_until("it says so", || broker.status()["state"] == "ok");
    println!("{}", load.finish());
    broker.stop();
}

#[test]
fn a_disk_that_is_full_at_once_loses_nothing_and_comes_back() {
    if !mounts_are_permitted() {
        skipped("a disk that is full at once", "this machine permits no mounts of one's own");
        return;
    }
    // No mark and no reserve: the file system itself says no, in the middle of whatever is being written.
    let config = "store: {free_low: 0B, free_high: 1MiB, reserve: 0B, ack_linger: 20ms}\n";
    let place = Place::new();
    let broker = place.start(&small_disk("24m", config));
    let quiet = Publisher { window: 4, pause: Duration::from_millis(4), ..LOUD[1] };
    let mut load = Load::start(broker.address, &[quiet, LOUD[ALARM]]);
    load.consume();
    for _ in 0..3 {
        load.progresses(20);
        let ballast = broker.data().join("ballast");
        fill(&ballast);
        load.is_refused(&[Code::StorageFull, Code::StorageFailed]);
        assert_ne!(broker.status()["state"], "ok");
        fs::remove_file(&ballast).expect("removed");
        load.progresses(20);
    }
    broker.says(&["ERROR", "no space left for the store"]);
    println!("{}", load.finish());
    broker.stop();
}
