//! A damaged database file costs what the damage touched: what verifies in it is taken over, byte for byte.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/workload.rs"]
mod workload;

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate::model::{MountId, Position, Priority, QueueId, Wall};
use tidegate::store::block::BlockWriter;
use tidegate::store::file::Disk;
use tidegate::store::schema::{self, LaneRow, META_COUNTERS, QueueRow};
use tidegate::store::testing::{FaultyDisk, Lost};
use tidegate::store::{
    Batch, Finding, JOURNAL_NAME, MemoryStore, Op, OpenOptions, QueueKey, STORE_NAME, Salvaged, Store, Table, check_on,
    open_on,
};
use workload::{Workload, assert_part_of, messages, rows};

const PAGE: usize = 4_096;
const OPTIONS: OpenOptions =
    OpenOptions { cache_bytes: 4 << 20, verify: true, now: Wall(1_763_726_613_000), journal_bytes: 0, random: 7 << 64 };
const ASIDE: &str = "store.redb.damaged-20251121T120333Z";
const QUEUES: u32 = 400;
const LANE: u8 = 4;
/// More than a leaf of blocks takes, in bytes.
const LEAF_BYTES: usize = 8 << 10;

fn queue(n: u32) -> QueueKey {
    QueueKey { mount: MountId(n % 3), queue: QueueId(n) }
}

/// Messages of 200 bytes, each with its queue and number.
fn block(n: u32, first: u64, count: u64) -> Bytes {
    let mut block = BlockWriter::new(Wall(1_000));
    for seq in first..first + count {
        let mut data = vec![n as u8 ^ seq as u8; 200];
        data[..4].copy_from_slice(&n.to_be_bytes());
        data[4..12].copy_from_slice(&seq.to_be_bytes());
        block.push(Wall(1_000 + seq), None, None, &data);
    }
    block.finish()
}

/// Four blocks in each of many queues, written round by round, and a row of each that keeps what is in it.
fn many_queues() -> (Vec<u8>, MemoryStore) {
    const COUNT: u64 = 5;
    let disk = FaultyDisk::new();
    let mut store = open_on(Arc::new(disk.clone()), &OPTIONS).unwrap().store;
    let mut model = MemoryStore::new();
    for round in 0..4 {
        for part in 0..10 {
            let mut ops = Vec::new();
            for n in (1..=QUEUES).filter(|n| n % 10 == part) {
                let first = round * COUNT + 1;
                let append = block(n, first, COUNT);
                let lane = Priority::new(LANE).unwrap();
                ops.push(Op::Append { queue: queue(n), lane, first, count: COUNT as u32, block: append });
                let lanes = vec![LaneRow { lane: lane.get(), head: 1, next: first + COUNT, ..LaneRow::default() }];
                let row = QueueRow { name: format!("queue-{n}"), epoch: u64::from(n), lanes, ..QueueRow::default() };
                let key = Bytes::copy_from_slice(&schema::queue_key(queue(n)));
                ops.push(Op::Put { table: Table::Queue, key, value: schema::encode(&row) });
            }
            let batch = [Batch { position: Position(round * 10 + u64::from(part) + 1), ops }];
            store.commit(&batch).unwrap();
            model.commit(&batch).unwrap();
        }
    }
    drop(store);
    disk.power_on(Lost::None);
    (disk.bytes(STORE_NAME), model)
}

fn with(bytes: &[u8]) -> FaultyDisk {
    let disk = FaultyDisk::new();
    disk.set_bytes(STORE_NAME, bytes);
    disk
}

fn set_aside(findings: &[Finding]) -> Option<Option<Salvaged>> {
    findings.iter().find_map(|f| match f {
        Finding::SetAside { salvaged, .. } => Some(*salvaged),
        _ => None,
    })
}

/// Where a piece is in the file: old pages hold copies, too.
fn places(bytes: &[u8], piece: &[u8]) -> Vec<usize> {
    let starts = bytes.iter().enumerate().filter(|(_, b)| **b == piece[0]).map(|(at, _)| at);
    starts.filter(|at| bytes[*at..].starts_with(piece)).collect()
}

#[test]
fn a_flipped_byte_in_a_message_costs_the_messages_of_its_page_and_no_other() {
    let (good, model) = many_queues();
    let whole = model.reader();
    let mut rng = fastrand::Rng::with_seed(11);
    let mut live = 0;
    for _ in 0..25 {
        let (n, round) = (rng.u32(1..=QUEUES), rng.u64(..4));
        for at in places(&good, &block(n, round * 5 + 1, 5)) {
            let mut bad = good.clone();
            bad[at + rng.usize(..1_000)] ^= 1 << rng.u8(..8);
            let opened = open_on(Arc::new(with(&bad)), &OPTIONS).unwrap();
            let reader = opened.store.reader();
            let Some(salvaged) = set_aside(&opened.findings) else {
                // A stale copy.
                assert_eq!(rows(reader.as_ref()), rows(whole.as_ref()));
                continue;
            };
            live += 1;
            let salvaged = salvaged.expect("the rest is whole");
            assert_eq!((salvaged.parts, salvaged.lossy), (1, true));
            assert_eq!(rows(reader.as_ref()).len(), QUEUES as usize);
            let (there, of) = assert_part_of(reader.as_ref(), whole.as_ref());
            assert_eq!((there as u64, (of - there) as u64), (salvaged.messages, salvaged.missing));
            assert!(of > there, "the damaged one is not there");
            for victim in 1..=QUEUES {
                let found: Vec<u64> = messages(reader.as_ref(), queue(victim), LANE, 1).iter().map(|m| m.0).collect();
                for lost in (0..4).filter(|round| !found.contains(&(round * 5 + 1))) {
                    let near = places(&good, &block(victim, lost * 5 + 1, 5));
                    assert!(near.iter().any(|b| b.abs_diff(at) < LEAF_BYTES), "queue {victim} was not touched");
                }
            }
        }
    }
    assert!(live >= 25, "every message is somewhere: {live}");
}

#[test]
fn a_flipped_byte_in_a_row_costs_the_rows_of_its_page_and_their_queues() {
    let (good, model) = many_queues();
    let mut live = 0;
    for n in (1..=QUEUES).step_by(40) {
        let key = [&[Table::Queue as u8][..], &schema::queue_key(queue(n))].concat();
        for at in places(&good, &key) {
            let mut bad = good.clone();
            bad[at + 8] ^= 0x10;
            let disk = with(&bad);
            let opened = open_on(Arc::new(disk.clone()), &OPTIONS).unwrap();
            let Some(salvaged) = set_aside(&opened.findings) else { continue };
            let salvaged = salvaged.expect("the rest is whole");
            let reader = opened.store.reader();
            if rows(reader.as_ref()).len() == QUEUES as usize {
                // The same bytes in a block's key.
                continue;
            }
            live += 1;
            let (there, of) = assert_part_of(reader.as_ref(), model.reader().as_ref());
            // A row of a queue takes 30 bytes and more; a routing key that was hit leads to as many rows as fit a page.
            let queues = rows(reader.as_ref()).len();
            assert!(queues >= QUEUES as usize - PAGE / 30 || salvaged.parts > 1, "{queues}");
            assert!(there >= queues * 20 && of == QUEUES as usize * 20, "{there} of {of}");
            // What belongs to no queue is deleted, the numbers of those that are lost are not used again.
            let mut store = opened.store;
            while store.tidy().unwrap() {}
            let row = store.reader().get(Table::Meta, META_COUNTERS).unwrap().unwrap();
            assert_eq!(schema::decode::<schema::Counters>(&row).unwrap().queue, QUEUES + 1);
            drop(store);
            assert_eq!(check_on(&disk).unwrap().problems, Vec::<String>::new());
        }
    }
    assert!(live >= 5, "{live}");
}

/// A page flipped, zeroed or gone with all behind it.
fn damage(good: &[u8], rng: &mut fastrand::Rng) -> (&'static str, Vec<u8>) {
    let mut bad = good.to_vec();
    let used: Vec<usize> =
        good.chunks(PAGE).enumerate().filter(|(_, p)| p.iter().any(|b| *b != 0)).map(|p| p.0 * PAGE).collect();
    let at = used[rng.usize(..used.len())];
    let end = (at + PAGE).min(bad.len());
    match rng.u8(..3) {
        0 => {
            bad[at + rng.usize(..end - at)] ^= 1 << rng.u8(..8);
            ("flipped", bad)
        }
        1 => {
            bad[at..end].fill(0);
            ("zeroed", bad)
        }
        _ => {
            bad.truncate(used[0] + rng.usize(..used[used.len() - 1]));
            ("truncated", bad)
        }
    }
}

#[test]
fn of_a_thousand_damages_each_costs_little_and_nothing_wrong_comes_back() {
    let (good, model) = many_queues();
    let whole = model.reader();
    let epoch = |reader: &dyn tidegate::store::Reader| -> BTreeMap<Vec<u8>, u64> {
        let decode = |v: &[u8]| schema::decode::<QueueRow>(v).unwrap().epoch;
        rows(reader).into_iter().filter(|r| r.0 == Table::Queue as u8).map(|r| (r.1, decode(&r.2))).collect()
    };
    let before = epoch(whole.as_ref());
    let mut shares: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for seed in 0..1_000 {
        let (kind, bad) = damage(&good, &mut fastrand::Rng::with_seed(seed));
        let opened = match open_on(Arc::new(with(&bad)), &OPTIONS) {
            Ok(opened) => opened,
            Err(error) => panic!("seed {seed}, {kind}: {error}"),
        };
        let reader = opened.store.reader();
        let Some(salvaged) = set_aside(&opened.findings) else {
            assert_eq!(rows(reader.as_ref()), rows(whole.as_ref()), "seed {seed}, {kind}: whole");
            continue;
        };
        let (there, of) = assert_part_of(reader.as_ref(), whole.as_ref());
        if there < of {
            assert!(salvaged.is_none_or(|s| s.lossy), "seed {seed}, {kind}: it is said");
            let after = epoch(reader.as_ref());
            assert!(after.iter().all(|(queue, epoch)| before[queue] != *epoch), "seed {seed}, {kind}: new epochs");
        }
        shares.entry(kind).or_default().push(there as f64 / of as f64);
    }
    for (kind, shares) in &mut shares {
        shares.sort_by(f64::total_cmp);
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        let (worst, median) = (shares[0], shares[shares.len() / 2]);
        let nothing = shares.iter().filter(|s| **s == 0.0).count();
        println!(
            "{kind}: {} damaged, kept: mean {mean:.4}, median {median:.4}, worst {worst:.4}, nothing {nothing}",
            shares.len()
        );
        // A page of the root takes all; there are few of them.
        if *kind != "truncated" {
            assert!(mean > 0.97 && median > 0.99, "{kind}: {mean} {median}");
        }
    }
    assert!(shares.len() == 3 && shares.values().all(|s| s.len() > 50));
}

/// A store with a journal and a history, closed or cut off.
fn with_journal(commits: u32) -> (FaultyDisk, MemoryStore, OpenOptions) {
    let options = OpenOptions { journal_bytes: 1 << 20, ..OPTIONS };
    let disk = FaultyDisk::new();
    let mut store = open_on(Arc::new(disk.clone()), &options).unwrap().store;
    let mut model = MemoryStore::new();
    let mut work = Workload::new(3);
    for _ in 0..commits {
        let batches = work.batches();
        store.commit(&batches).unwrap();
        model.commit(&batches).unwrap();
    }
    disk.cut();
    drop(store);
    disk.power_on(Lost::None);
    (disk, model, options)
}

#[test]
fn the_journal_of_a_salvaged_store_is_replayed_on_top_where_that_is_safe() {
    let (disk, model, options) = with_journal(150);
    let (good, journal) = (disk.bytes(STORE_NAME), disk.bytes(JOURNAL_NAME));
    let (mut replayed, mut without) = (0, 0);
    for seed in 0..200 {
        let (kind, bad) = damage(&good, &mut fastrand::Rng::with_seed(seed));
        let disk = with(&bad);
        disk.set_bytes(JOURNAL_NAME, &journal);
        let opened = open_on(Arc::new(disk.clone()), &options).unwrap();
        if set_aside(&opened.findings).is_none() {
            continue;
        }
        let last = Position(workload::marked(model.reader().as_ref(), b"last"));
        if opened.store.applied() == last {
            replayed += 1;
            assert_part_of(opened.store.reader().as_ref(), model.reader().as_ref());
        } else {
            without += 1;
            let aside = disk.names().unwrap().iter().any(|n| n.starts_with("store.journal.damaged"));
            assert!(aside || opened.findings.iter().any(Finding::is_loss), "seed {seed}, {kind}");
        }
        drop(opened);
        // Once: the next start finds a store like any other.
        disk.power_on(Lost::None);
        let again = open_on(Arc::new(disk), &options).unwrap();
        assert_eq!(again.findings, [], "seed {seed}, {kind}");
    }
    assert!(replayed > 20, "replayed {replayed}, without {without}");
}

#[test]
fn power_cuts_while_it_is_taken_over_cost_nothing() {
    let (good, model) = many_queues();
    let at = places(&good, &block(7, 6, 5));
    let mut bad = good;
    at.iter().for_each(|at| bad[at + 100] ^= 1);
    let finish = |disk: &FaultyDisk| {
        let opened = open_on(Arc::new(disk.clone()), &OPTIONS).unwrap();
        let salvaged = set_aside(&opened.findings).expect("said").expect("the rest is whole");
        assert!(salvaged.lossy);
        let found = assert_part_of(opened.store.reader().as_ref(), model.reader().as_ref());
        let mut names = disk.names().unwrap();
        names.sort();
        assert_eq!(names, [STORE_NAME, ASIDE]);
        found
    };
    let whole = with(&bad);
    let kept = finish(&whole);
    assert!(kept.0 >= kept.1 - 40 && kept.0 < kept.1, "{kept:?}");
    let writes = {
        let disk = with(&bad);
        drop(open_on(Arc::new(disk.clone()), &OPTIONS));
        disk.writes()
    };
    assert!(writes > 100);
    let mut rng = fastrand::Rng::with_seed(5);
    for n in 0..40 {
        let disk = with(&bad);
        // Those of the end are the delicate ones.
        disk.cut_at_write(if n < 20 { writes - 1 - n } else { rng.u64(..writes) });
        let first = open_on(Arc::new(disk.clone()), &OPTIONS);
        let said = first.as_ref().is_ok_and(|opened| set_aside(&opened.findings).is_some());
        drop(first);
        disk.power_on(Lost::Torn(n));
        if !said {
            assert_eq!(finish(&disk), kept, "cut {n}");
        }
    }
}

#[test]
fn a_disk_too_full_to_take_anything_over_begins_empty_and_says_why() {
    let (mut bad, _) = many_queues();
    for at in places(&bad.clone(), &block(7, 6, 5)) {
        bad[at + 100] ^= 1;
    }
    let disk = with(&bad);
    disk.no_space_for(Some("store.redb.salvaging"));
    let opened = open_on(Arc::new(disk.clone()), &OPTIONS).unwrap();
    assert_eq!(set_aside(&opened.findings), Some(None));
    assert!(opened.findings[0].to_string().contains("could not be taken over: no space"), "{}", opened.findings[0]);
    assert!(disk.bytes(ASIDE) == bad);
    let mut names = disk.names().unwrap();
    names.sort();
    assert_eq!(names, [STORE_NAME, ASIDE]);
}
