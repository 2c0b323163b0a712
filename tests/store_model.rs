//! Random operations against the store on disk and the plain one in memory, in lockstep: they must never differ.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/workload.rs"]
mod workload;

use bytes::Bytes;
use std::sync::Arc;
use tidegate::model::{Position, Priority, Wall};
use tidegate::store::block::BlockWriter;
use tidegate::store::encoding::{decode, encode};
use tidegate::store::schema::{LaneRow, QueueRow, encode as encode_row, queue_key};
use tidegate::store::testing::{FaultyDisk, Lost};
use tidegate::store::{Batch, JournaledStore, MemoryStore, Op, OpenOptions, RedbStore, Store, Table, open_on};
use workload::{Workload, assert_same, messages, queue};

const CACHE_BYTES: usize = 4 * 1024 * 1024;

#[test]
fn the_store_on_disk_does_what_the_one_in_memory_does() {
    for seed in 0..20 {
        lockstep(seed, 0);
    }
}

#[test]
fn the_store_with_a_journal_does_what_the_one_in_memory_does() {
    for seed in 100..130 {
        // From one that is folded at every other commit to one that takes a whole run.
        lockstep(seed, [16 << 10, 64 << 10, 256 << 10, 4 << 20][seed as usize % 4]);
    }
}

fn open(disk: &FaultyDisk, journal_bytes: u64) -> JournaledStore {
    let options = OpenOptions { journal_bytes, random: 7, ..OpenOptions::default() };
    let opened = open_on(Arc::new(disk.clone()), &options).unwrap();
    assert!(opened.findings.iter().all(|f| !f.is_loss()), "{:?}", opened.findings);
    opened.store
}

/// To replay a failure, call it with the seed that is printed.
fn lockstep(seed: u64, journal_bytes: u64) {
    let _note = Note(seed);
    let disk = FaultyDisk::new();
    let mut store = open(&disk, journal_bytes);
    let mut memory = MemoryStore::new();
    let mut work = Workload::new(seed);
    for round in 0..60 {
        let batches = work.batches();
        let a = store.commit(&batches).unwrap();
        // What was encoded and decoded does the same: that is how the journal will bring it.
        let decoded: Vec<Batch> = batches.iter().map(|b| decode(&encode(b)).unwrap()).collect();
        assert!(decoded == batches);
        let b = memory.commit(&decoded).unwrap();
        assert_eq!((a.position, &a.conflicts), (b.position, &b.conflicts), "seed {seed} round {round}");
        work.learn(&batches, &a.conflicts);
        if work.chance(8) {
            store.tidy().unwrap();
        }
        if work.chance(10) {
            // Half the time closed, half the time killed; what was committed is there either way.
            if work.chance(2) {
                disk.cut();
            }
            drop(store);
            disk.power_on(Lost::Some(seed));
            store = open(&disk, journal_bytes);
            assert_eq!(store.applied(), a.position);
        }
        if work.chance(6) {
            assert_same(&work, store.reader().as_ref(), memory.reader().as_ref());
        }
    }
    assert_same(&work, store.reader().as_ref(), memory.reader().as_ref());
    // Everything trimmed: nothing stays.
    // A change of its size, or doing without, changes nothing else.
    drop(store);
    let mut store = open(&disk, 128 << 10);
    assert_same(&work, store.reader().as_ref(), memory.reader().as_ref());
    let batches = work.trim_all();
    store.commit(&batches).unwrap();
    memory.commit(&batches).unwrap();
    store.fold().unwrap();
    while store.tidy().unwrap() {}
    assert_same(&work, store.reader().as_ref(), memory.reader().as_ref());
    assert_eq!((store.bodies(), memory.bodies()), (0, 0), "seed {seed}: bodies without a reference");
}

/// Prints the seed when a test fails.
struct Note(u64);

impl Drop for Note {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

#[test]
fn deleting_a_queue_deletes_its_blocks_and_bodies_even_over_a_restart() {
    let disk = FaultyDisk::new();
    let mut redb = RedbStore::open(&disk, "store.redb", CACHE_BYTES).unwrap().store;
    let mut memory = MemoryStore::new();
    let mut work = Workload::new(11);
    for _ in 0..80 {
        let batches = work.batches();
        redb.commit(&batches).unwrap();
        memory.commit(&batches).unwrap();
    }
    let gone = queue(1);
    assert!(!messages(redb.reader().as_ref(), gone, 0, 1).is_empty() && redb.bodies() > 0);
    let ops = vec![Op::Delete { table: Table::Queue, key: Bytes::copy_from_slice(&queue_key(gone)) }];
    let batch = Batch { position: Position(work.position + 1), ops };
    redb.commit(std::slice::from_ref(&batch)).unwrap();
    memory.commit(&[batch]).unwrap();
    disk.cut();
    drop(redb);
    disk.power_on(Lost::All);
    let mut redb = RedbStore::open(&disk, "store.redb", CACHE_BYTES).unwrap().store;
    while redb.tidy().unwrap() {}
    for lane in 0..workload::LANES {
        assert!(messages(redb.reader().as_ref(), gone, lane, 1).is_empty(), "on disk, lane {lane}");
        assert!(messages(memory.reader().as_ref(), gone, lane, 1).is_empty(), "in memory, lane {lane}");
    }
    work.lanes.retain(|(queue, _), _| *queue != gone);
    assert_same(&work, redb.reader().as_ref(), memory.reader().as_ref());
    assert_eq!(redb.bodies(), memory.bodies() as u64);
    assert!(!redb.tidy().unwrap());
}

#[test]
fn trimmed_blocks_are_deleted_by_the_commits_themselves() {
    let disk = FaultyDisk::new();
    let mut store = RedbStore::open(&disk, "store.redb", CACHE_BYTES).unwrap().store;
    let (queue, lane) = (queue(3), Priority::default());
    let mut file_bytes = 0;
    for n in 1..=2_000u64 {
        let mut block = BlockWriter::new(Wall(n));
        (0..10).for_each(|_| block.push(Wall(n), None, None, &[7; 256]));
        let (first, head) = (n * 10 - 9, (n * 10).saturating_sub(50).max(1));
        let row =
            QueueRow { lanes: vec![LaneRow { head, next: first + 10, ..LaneRow::default() }], ..QueueRow::default() };
        let ops = vec![
            Op::Append { queue, lane, first, count: 10, block: block.finish() },
            Op::Trim { queue, lane, below: head },
            Op::Put { table: Table::Queue, key: Bytes::copy_from_slice(&queue_key(queue)), value: encode_row(&row) },
        ];
        file_bytes = store.commit(&[Batch { position: Position(n), ops }]).unwrap().file_bytes;
    }
    // Five megabytes went through.
    assert!(file_bytes < 1_500_000, "{file_bytes} bytes");
    let left = store.reader().page(queue, lane, 1, usize::MAX).unwrap();
    assert!(left.len() < 100, "{} blocks are left", left.len());
}
