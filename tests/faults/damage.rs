//! A store written by real traffic and damaged a thousand times: it opens every time, gives nothing wrong, keeps what is
//! whole, and says what it lost. And one that is damaged while the broker runs on it.

use super::broker::{Broker, Place, Setup, wait_until};
use super::load::{Load, Publisher};
use super::raw::{PATIENCE, Raw, consume, record_with};
use super::seed;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions as FileOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tidegate::model::{Priority, Record, Wall};
use tidegate::store::block::BlockReader;
use tidegate::store::testing::FaultyDisk;
use tidegate::store::{Finding, OpenOptions, QueueKey, Reader, STORE_NAME, Store, Table, check_on, open_on, schema};
use tidegate::wire::{Ack, Contract, FrameType, PublishAck};

const DAMAGES: u64 = 1_000;
// Without a journal, which has tests of its own damage and would make good part of this one's.
const OPTIONS: OpenOptions =
    OpenOptions { cache_bytes: 1 << 20, verify: true, now: Wall(1_763_726_613_000), journal_bytes: 0, random: 0 };
const CONFIG: &str = "
store: {journal: none, ack_linger: 20ms, reserve: 0B, free_low: 1MiB, free_high: 2MiB}
queues:
  - {name: main, capture: [load, kept/#]}
  - {name: log, capture: [kept/#], keep: limits, overflow: drop-oldest, history: {enabled: true}}
";

/// Has a broker take traffic of every kind, part of it consumed; returns the bytes of its store after an orderly stop and
/// after a kill.
fn stores_of_real_traffic() -> [Vec<u8>; 2] {
    let place = Place::new();
    let setup = Setup { config: CONFIG.into(), ..Setup::default() };
    let bytes = |place: &Place| fs::read(place.data().join(STORE_NAME)).expect("a store");
    let traffic = |broker: &Broker<'_>| {
        let publishers = [
            Publisher { bytes: 300, ..Publisher::default() },
            Publisher { bytes: 40, priority: 9, ..Publisher::default() },
        ];
        let load = Load::start(broker.address, &publishers);
        let mut raw = Raw::open(broker.address);
        // Shared bodies, retained values, history, and what is held back.
        for n in 1..=40u64 {
            let payload = vec![n as u8; if n % 4 == 0 { 5_000 } else { 50 }];
            let delay_ms = if n % 8 == 1 { 3_600_000 } else { 0 };
            let record =
                record_with(&format!("kept/{}", n % 5), &payload, |r| Record { retain: n % 3 == 0, delay_ms, ..r });
            raw.publish(1, n, Contract::Disk, &record);
            raw.expect(FrameType::PublishAck);
        }
        load.progresses(400);
        load
    };
    let broker = place.start(&setup);
    drop(traffic(&broker));
    Raw::open(broker.address).consume(1, "log", "lazy", 0);
    broker.stop();
    let closed = bytes(&place);
    let broker = place.start(&setup);
    let load = traffic(&broker);
    load.moved(None);
    broker.kill();
    drop(load);
    [closed, bytes(&place)]
}

type Rows = Vec<(u8, Vec<u8>, Vec<u8>)>;
type Messages = BTreeMap<(QueueKey, u8, u64), (Wall, Vec<u8>)>;

/// All that a store holds, as its readers see it.
fn contents(reader: &dyn Reader) -> Result<(Rows, Messages), tidegate::store::StoreError> {
    let mut rows = Rows::new();
    for table in (0..=u8::MAX).filter_map(Table::from_byte) {
        reader.scan(table, &[], &[], &mut |key, value| {
            rows.push((table as u8, key.to_vec(), value.to_vec()));
            true
        })?;
    }
    let queues: Vec<QueueKey> = rows
        .iter()
        .filter(|(table, ..)| *table == Table::Queue as u8)
        .filter_map(|(_, key, _)| schema::split_queue_key(Table::Queue, key))
        .map(|(mount, queue)| QueueKey { mount, queue })
        .collect();
    let mut messages = Messages::new();
    for queue in queues {
        for lane in 0..=9 {
            for block in reader.page(queue, Priority::new(lane).expect("a lane"), 0, usize::MAX)? {
                let mut entries = BlockReader::new(&block.bytes).expect("a block");
                for seq in block.first..block.first + u64::from(block.count) {
                    let (stored, entry) = entries.next_entry().expect("every entry decodes");
                    messages.insert((queue, lane, seq), (stored, entry.data.to_vec()));
                }
            }
        }
    }
    Ok((rows, messages))
}

/// Without what a store that was made from another has of its own: meta rows and epochs.
fn common(rows: &Rows) -> BTreeSet<(u8, Vec<u8>, Vec<u8>)> {
    let common = |(table, key, value): &(u8, Vec<u8>, Vec<u8>)| match Table::from_byte(*table)? {
        Table::Meta => None,
        Table::Queue => {
            let row: schema::QueueRow = schema::decode(value).expect("a queue");
            Some((*table, key.clone(), schema::encode(&schema::QueueRow { epoch: 0, ..row }).to_vec()))
        }
        _ => Some((*table, key.clone(), value.clone())),
    };
    rows.iter().filter_map(common).collect()
}

/// Damages of a kind each: a bit, a byte, a page or several zeroed, noise, an old page in a new place, cut short, grown, the
/// header.
fn damage(good: &[u8], rng: &mut fastrand::Rng) -> (&'static str, Vec<u8>) {
    const PAGE: usize = 4_096;
    let mut bad = good.to_vec();
    let used: Vec<usize> =
        good.chunks(PAGE).enumerate().filter(|(_, p)| p.iter().any(|b| *b != 0)).map(|p| p.0 * PAGE).collect();
    let at = used[rng.usize(..used.len())];
    let end = (at + PAGE).min(bad.len());
    let kind = match rng.u8(..9) {
        0 => {
            bad[at + rng.usize(..end - at)] ^= 1 << rng.u8(..8);
            "a bit"
        }
        1 => {
            for _ in 0..rng.usize(1..20) {
                bad[at + rng.usize(..end - at)] = rng.u8(..);
            }
            "bytes of a page"
        }
        2 => {
            bad[at..end].fill(0);
            "a page of zeroes"
        }
        3 => {
            let end = (at + rng.usize(2..9) * PAGE).min(bad.len());
            bad[at..end].fill(0);
            "pages of zeroes"
        }
        4 => {
            bad[at..end].iter_mut().for_each(|b| *b = rng.u8(..));
            "a page of noise"
        }
        5 => {
            let from = used[rng.usize(..used.len())];
            let len = PAGE.min(good.len() - from).min(good.len() - at);
            bad[at..at + len].copy_from_slice(&good[from..from + len]);
            "a page of another place"
        }
        6 => {
            bad.truncate(rng.usize(..good.len()));
            "cut short"
        }
        7 => {
            bad.extend(std::iter::repeat_n(rng.u8(..), rng.usize(1..3 * PAGE)));
            "grown"
        }
        _ => {
            bad[rng.usize(..320)] ^= 1 << rng.u8(..8);
            "the header"
        }
    };
    (kind, bad)
}

#[test]
fn a_thousand_damages_to_stores_of_real_traffic_keep_none_down_and_give_nothing_wrong() {
    let seed = seed(0x6461_6d61);
    let stores = stores_of_real_traffic();
    for (good, closed) in stores.iter().zip([true, false]) {
        let disk = FaultyDisk::new();
        disk.set_bytes(STORE_NAME, good);
        let report = check_on(&disk).expect("readable");
        assert_eq!((report.problems, report.closed), (Vec::new(), closed), "it was whole before");
        let whole = open_on(Arc::new(disk.clone()), &OPTIONS).expect("whole");
        let all = contents(whole.store.reader().as_ref()).expect("readable");
        let applied = whole.store.applied();
        drop(whole);
        println!("closed {closed}: {} KiB, {} rows, {} blocks", good.len() >> 10, all.0.len(), all.1.len());
        assert!(all.1.len() > 50);
        let mut became: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        let mut shares: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for n in 0..DAMAGES / 2 {
            let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(n));
            let (kind, bad) = damage(good, &mut rng);
            let disk = FaultyDisk::new();
            disk.set_bytes(STORE_NAME, &bad);
            let say = |what: &str| format!("closed {closed}, seed {}: {kind}: {what}", seed.wrapping_add(n));
            let opened = open_on(Arc::new(disk.clone()), &OPTIONS).unwrap_or_else(|e| panic!("{}: {e}", say("down")));
            let reader = opened.store.reader();
            let found = contents(reader.as_ref()).unwrap_or_else(|e| panic!("{}: {e}", say("unreadable")));
            let aside = opened.findings.iter().find(|f| matches!(f, Finding::SetAside { .. }));
            let fate = if let Some(Finding::SetAside { name, why, salvaged }) = aside {
                let same = opened.store.applied() == applied;
                if same {
                    assert!(common(&found.0).is_subset(&common(&all.0)), "{}", say("a row that never was"));
                    let known = |(at, message)| all.1.get(at) == Some(message);
                    assert!(found.1.iter().all(known), "{}", say("a message that never was"));
                }
                let lost = found.1.len() < all.1.len() || common(&found.0).len() < common(&all.0).len();
                if lost || !same {
                    assert!(salvaged.is_none_or(|s| s.lossy), "{}", say("a loss is said"));
                }
                assert!(salvaged.is_some() || found.1.is_empty(), "{}", say("a new store is empty"));
                shares.entry(kind).or_default().push(found.1.len() as f64 / all.1.len() as f64);
                assert!(!why.is_empty() && disk.bytes(name).len() == bad.len(), "{}", say("kept as it was"));
                "set aside"
            } else if opened.store.applied() == applied {
                assert!(found == all, "{}", say("it is not what it was, and nothing was said"));
                "whole"
            } else {
                // Of a file that was not closed the last transaction cannot be told from one that was cut.
                assert!(!closed && opened.store.applied().0 + 1 >= applied.0, "{}", say("rolled back"));
                assert!(opened.findings.contains(&Finding::Repaired), "{}", say("nothing was said"));
                let problems = check_on_copy(&disk);
                assert_eq!(problems, Vec::<String>::new(), "{}", say("does not fit together"));
                "last commit missing"
            };
            *became.entry((fate, kind)).or_default() += 1;
        }
        println!("{became:#?}");
        for (kind, shares) in &shares {
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            let all = shares.iter().filter(|share| **share >= 1.0).count();
            let none = shares.iter().filter(|share| **share == 0.0).count();
            println!(
                "{kind}: of {} set aside {mean:.3} of the messages came over; all in {all}, none in {none}",
                shares.len()
            );
        }
        let shares: Vec<f64> = shares.into_values().flatten().collect();
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        println!("of all that were set aside {mean:.3} of the messages came over");
        assert!(mean > 0.3, "salvage does something: {mean}");
        let sum = |fate| became.iter().filter(|((f, _), _)| *f == fate).map(|(_, n)| n).sum::<u32>();
        assert!(sum("set aside") > 50 && sum("whole") > 50, "not both kinds");
    }
}

/// What does not fit together in a store that is open.
fn check_on_copy(disk: &FaultyDisk) -> Vec<String> {
    let copy = FaultyDisk::new();
    copy.set_bytes(STORE_NAME, &disk.bytes(STORE_NAME));
    check_on(&copy).expect("readable").problems
}

#[test]
fn the_broker_starts_on_damaged_stores_and_says_what_happened() {
    let seed = seed(0x6272_6f6b);
    let [closed, killed] = stores_of_real_traffic();
    for n in 0..8 {
        let good = if n % 2 == 0 { &closed } else { &killed };
        let (kind, bad) = damage(good, &mut fastrand::Rng::with_seed(seed.wrapping_add(n)));
        let place = Place::new();
        fs::create_dir(place.data()).expect("a folder");
        fs::write(place.data().join(STORE_NAME), &bad).expect("written");
        let broker = place.start(&Setup { config: CONFIG.into(), ..Setup::default() });
        let mut load = Load::start(broker.address, &[Publisher::default()]);
        // Numbers that the store may know already, so its answer may be that it does.
        load.consume();
        load.progresses(20);
        wait_until("it is well", || broker.status()["state"] == "ok");
        let aside = super::disk_errors::damaged(&place);
        println!("seed {}: {kind}: {aside} set aside", seed.wrapping_add(n));
        if aside > 0 {
            broker.says(&["the store was damaged", "kept as store.redb.damaged-"]);
        }
        drop(load);
        broker.stop();
    }
}

#[test]
fn what_is_damaged_under_a_running_broker_is_skipped_and_said_and_the_rest_comes() {
    const MESSAGES: u32 = 4_000;
    const BYTES: usize = 1_000;
    // No tail and little cache: what is consumed later comes from the disk.
    let config = "store: {journal: none, cache: 1MiB, tail: 64KiB, ack_linger: 20ms}\n";
    let place = Place::new();
    let broker = place.start(&Setup { config: config.into(), ..Setup::default() });
    Raw::open(broker.address).consume(1, "main", "reader", 0);
    let mut raw = Raw::open(broker.address);
    let payload = |n: u32| {
        let mut payload = vec![0x5A; BYTES];
        payload[..4].copy_from_slice(&n.to_be_bytes());
        payload
    };
    for n in 0..MESSAGES {
        raw.publish(1, u64::from(n) + 1, Contract::Disk, &record_with("a", &payload(n), |r| r));
        if n % 64 == 63 {
            let acked = |head: PublishAck| head.first + u64::from(head.count);
            while acked(raw.expect(FrameType::PublishAck).head()) < u64::from(n) + 2 {}
        }
    }
    let before = epoch(&broker);
    // One byte of one message in the middle.
    let path = place.data().join(STORE_NAME);
    let bytes = fs::read(&path).expect("a store");
    let victim = payload(MESSAGES / 2);
    let places: Vec<usize> =
        bytes.windows(64).enumerate().filter(|(_, w)| **w == victim[..64]).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "it is on the disk");
    let file = FileOptions::new().write(true).open(&path).expect("ours");
    for at in places {
        file.write_all_at(&[0xA5], at as u64 + 40).expect("damaged");
    }
    let mut reader = Raw::open(broker.address);
    reader.send(1, &consume("main", "reader", 1_000_000), &[]);
    reader.expect(FrameType::Ok);
    let mut came = Vec::new();
    while came.last() != Some(&(MESSAGES - 1)) {
        for (tag, got, _) in reader.delivery() {
            let n = u32::from_be_bytes(got[..4].try_into().expect("four"));
            assert!(got == payload(n), "what is given is what was published");
            came.push(n);
            reader.send(1, &Ack { first: tag, count: 1 }, &[]);
        }
    }
    let lost = MESSAGES as usize - came.len();
    println!("{lost} messages lost with the one that was damaged");
    assert!(came.is_sorted() && !came.contains(&(MESSAGES / 2)), "in order, and not the damaged one");
    // Those that shared its block.
    assert!((1..=16).contains(&lost), "{lost}");
    broker.says(&["ERROR", "are damaged on disk"]);
    broker.says(&["ERROR", "cannot be read and are skipped"]);
    assert_eq!(broker.status()["counters"]["lost"], lost);
    let began = std::time::Instant::now();
    while epoch(&broker) == before {
        assert!(began.elapsed() < PATIENCE, "a loss from the middle renews the epoch");
    }
    // It goes on.
    Raw::open(broker.address).publishes(1, 1, "a");
    broker.stop();
}

fn epoch(broker: &Broker<'_>) -> String {
    broker.status()["queues"][0]["epoch"].as_str().expect("told").to_owned()
}
