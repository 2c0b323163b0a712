//! Random operations against the store on disk and the plain one in memory, in lockstep: they must never differ.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/workload.rs"]
mod workload;

use tidegate::store::encoding::{decode, encode};
use tidegate::store::testing::{FaultyDisk, Lost};
use tidegate::store::{Batch, MemoryStore, RedbStore, Store};
use workload::{Workload, assert_same};

const CACHE_BYTES: usize = 4 * 1024 * 1024;

#[test]
fn the_store_on_disk_does_what_the_one_in_memory_does() {
    for seed in 0..20 {
        lockstep(seed);
    }
}

/// To replay a failure, call it with the seed that is printed.
fn lockstep(seed: u64) {
    let _note = Note(seed);
    let disk = FaultyDisk::new();
    let mut redb = RedbStore::open(&disk, "store.redb", CACHE_BYTES).unwrap().store;
    let mut memory = MemoryStore::new();
    let mut work = Workload::new(seed);
    for round in 0..60 {
        let batches = work.batches();
        let a = redb.commit(&batches).unwrap();
        // What was encoded and decoded does the same: that is how the journal will bring it.
        let decoded: Vec<Batch> = batches.iter().map(|b| decode(&encode(b)).unwrap()).collect();
        assert!(decoded == batches);
        let b = memory.commit(&decoded).unwrap();
        assert_eq!((a.position, &a.conflicts), (b.position, &b.conflicts), "seed {seed} round {round}");
        work.learn(&batches, &a.conflicts);
        if work.chance(8) {
            redb.tidy().unwrap();
        }
        if work.chance(10) {
            // Half the time closed, half the time killed; what was committed is there either way.
            if work.chance(2) {
                disk.cut();
            }
            drop(redb);
            disk.power_on(Lost::Some(seed));
            redb = RedbStore::open(&disk, "store.redb", CACHE_BYTES).unwrap().store;
            assert_eq!(redb.applied(), a.position);
        }
        if work.chance(6) {
            assert_same(&work, redb.reader().as_ref(), memory.reader().as_ref());
        }
    }
    assert_same(&work, redb.reader().as_ref(), memory.reader().as_ref());
    // Everything trimmed: nothing stays.
    let batches = work.trim_all();
    redb.commit(&batches).unwrap();
    memory.commit(&batches).unwrap();
    while redb.tidy().unwrap() {}
    assert_same(&work, redb.reader().as_ref(), memory.reader().as_ref());
    assert_eq!((redb.bodies(), memory.bodies()), (0, 0), "seed {seed}: bodies without a reference");
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
