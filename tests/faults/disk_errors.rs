//! A disk that fails: errors, short writes, interrupts and late syncs in the calls themselves, by preload.

use super::broker::{Broker, Place, Setup, wait_until};
use super::load::{Load, Publisher};
use super::preload::{Fault, Preload};
use super::seed;
use tidegate::wire::Code;

const EIO: i64 = 5;
const EROFS: i64 = 30;
/// A short tail, so that a reader soon needs the disk.
const CONFIG: &str = "store: {ack_linger: 20ms, tail: 64KiB, free_low: 1MiB, free_high: 2MiB}\n";
const PUBLISHERS: &[Publisher] =
    &[Publisher { priority: 4, bytes: 200, window: 32, pause: std::time::Duration::ZERO }; 2];

fn setup(preload: &Preload, place: &Place) -> Setup {
    Setup { config: CONFIG.into(), env: preload.env(&place.data()), ..Setup::default() }
}

/// A fault is there until the disk was asked `calls` times.
fn suffers(preload: &Preload, calls: i64) {
    let before = preload.injected();
    wait_until("the fault is met", || preload.injected() >= before + calls);
}

fn reads_errors(broker: &Broker<'_>) -> u64 {
    broker.status()["counters"]["commit_errors"].as_u64().expect("a number")
}

#[test]
fn what_fails_to_be_written_or_synced_is_refused_and_what_was_acknowledged_is_there() {
    let Some(preload) = Preload::build("a failing disk") else { return };
    let place = Place::new();
    let broker = place.start(&setup(&preload, &place));
    let mut load = Load::start(broker.address, PUBLISHERS);
    load.consume();
    for (fault, errno) in [(Fault::Write, EIO), (Fault::Sync, EIO), (Fault::Write, EROFS), (Fault::Sync, EIO)] {
        load.progresses(50);
        let before = reads_errors(&broker);
        preload.set(fault, errno);
        load.is_refused(&[Code::StorageFailed]);
        // It tries to open the store again, in vain.
        suffers(&preload, 3);
        assert_eq!(broker.status()["state"], "failed", "{fault:?}");
        assert!(broker.status_for_people().contains("STORE FAILED: being opened again"));
        preload.heal();
        load.progresses(50);
        wait_until("it says so", || broker.status()["state"] == "ok");
        assert!(reads_errors(&broker) > before, "{fault:?} is counted");
    }
    broker.says(&["ERROR", "a commit failed, the store is opened again", "Input/output error"]);
    broker.says(&["ERROR", "Read-only file system"]);
    broker.says(&["INFO", "the store is open again"]);
    println!("{}", load.finish());
    assert_eq!(damaged(&place), 0, "a failing disk is no damage");
    broker.stop();
}

/// Stores set aside.
pub fn damaged(place: &Place) -> usize {
    let names = std::fs::read_dir(place.data()).expect("folder").map(|e| e.expect("an entry").file_name());
    names.filter(|n| n.to_string_lossy().contains("damaged")).count()
}

#[test]
fn short_writes_interrupts_and_late_syncs_are_no_failures() {
    let Some(preload) = Preload::build("an awkward disk") else { return };
    let place = Place::new();
    let broker = place.start(&setup(&preload, &place));
    let mut load = Load::start(broker.address, PUBLISHERS);
    load.consume();
    for (fault, number) in [(Fault::Short, 1), (Fault::Interrupts, 1), (Fault::SyncMs, 150)] {
        preload.set(fault, number);
        suffers(&preload, 5);
        load.progresses(100);
        preload.heal();
    }
    assert_eq!(reads_errors(&broker), 0);
    assert_eq!((load.refusals(Code::StorageFailed).0, load.refusals(Code::Fenced).0), (0, 0));
    println!("{}", load.finish());
    broker.stop();
}

#[test]
fn what_cannot_be_read_is_said_and_read_later() {
    let Some(preload) = Preload::build("a disk that cannot be read") else { return };
    let place = Place::new();
    let broker = place.start(&setup(&preload, &place));
    // A backlog many times the tail, and the cache of pages is cold after a start.
    let load = Load::start(broker.address, &[Publisher { bytes: 2_000, ..Publisher::default() }]);
    load.one_progresses(0, 3_000);
    load.moved(None);
    broker.kill();
    let broker = place.start(&setup(&preload, &place));
    preload.set(Fault::Read, EIO);
    load.moved(Some(broker.address));
    let mut load = load;
    load.consume();
    broker.says(&["ERROR", "a read failed"]);
    wait_until("it is counted", || broker.status()["counters"]["read_errors"].as_u64().is_some_and(|n| n > 0));
    preload.heal();
    println!("{}", load.finish());
    assert_eq!(damaged(&place), 0, "a failing disk is no damage");
    broker.stop();
}

#[test]
fn a_disk_that_fails_at_any_write_of_any_commit_loses_nothing_acknowledged() {
    let Some(preload) = Preload::build("a disk that fails anywhere") else { return };
    let mut rng = fastrand::Rng::with_seed(seed(0x6469_736b));
    let place = Place::new();
    let mut broker = place.start(&setup(&preload, &place));
    let mut load = Load::start(broker.address, PUBLISHERS);
    load.consume();
    for round in 0..25 {
        load.progresses(rng.u64(1..40));
        // So many more writes go well, and then none, or no sync, or none for a moment.
        preload.set(Fault::WritesLeft, rng.i64(0..12));
        preload.set(if rng.u8(..3) > 0 { Fault::Write } else { Fault::Sync }, EIO);
        suffers(&preload, rng.i64(1..3));
        if round % 8 == 7 {
            // The power fails as well, while the disk does.
            load.moved(None);
            broker.kill();
            preload.heal();
            broker = place.start(&setup(&preload, &place));
            load.moved(Some(broker.address));
        }
        preload.heal();
    }
    println!("{} calls failed; {}", preload.injected(), load.finish());
    assert_eq!(damaged(&place), 0, "a failing disk is no damage");
    broker.stop();
}
