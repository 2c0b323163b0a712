//! Cuts the power at every sync and every write of a store's life, of its database and its journal: what was reported as
//! committed is there, whole.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/workload.rs"]
mod workload;

use std::sync::Arc;
use tidegate::model::Position;
use tidegate::store::testing::{FaultyDisk, Lost};
use tidegate::store::{
    Batch, JOURNAL_NAME, JournaledStore, MemoryStore, OpenOptions, STORE_NAME, Store, StoreError, open_on,
};
use workload::{Workload, assert_same_as_rows, marked, queue};

/// Transactions of a run.
const COMMITS: usize = 24;

/// Sizes of journals: none, one that is folded at every third commit, one that takes several times that.
const JOURNALS: [u64; 3] = [0, 64 << 10, 320 << 10];

struct Run {
    transactions: Vec<Vec<Batch>>,
    journal_bytes: u64,
}

impl Run {
    fn new(seed: u64, journal_bytes: u64) -> Self {
        let mut work = Workload::new(seed);
        Self { transactions: (0..COMMITS).map(|_| work.batches()).collect(), journal_bytes }
    }

    fn options(&self) -> OpenOptions {
        OpenOptions { journal_bytes: self.journal_bytes, random: 3, ..OpenOptions::default() }
    }

    fn open(&self, disk: &FaultyDisk) -> Result<JournaledStore, StoreError> {
        let opened = open_on(Arc::new(disk.clone()), &self.options())?;
        assert!(opened.findings.iter().all(|f| !f.is_loss()), "{:?}", opened.findings);
        Ok(opened.store)
    }

    /// Runs until the end or the first error; the last position reported as committed.
    fn go(&self, disk: &FaultyDisk, after: Position) -> Position {
        let mut acked = after;
        let Ok(mut store) = self.open(disk) else { return acked };
        for transaction in self.transactions.iter().filter(|t| t[0].position > after) {
            match store.commit(transaction) {
                Ok(done) => {
                    assert_eq!(done.position, transaction.last().unwrap().position);
                    acked = done.position;
                }
                Err(_) => return acked,
            }
        }
        acked
    }

    /// What the store must hold at a position, which must be the end of a transaction.
    fn model(&self, at: Position) -> Option<MemoryStore> {
        let mut model = MemoryStore::new();
        if at == Position(0) {
            return Some(model);
        }
        for transaction in &self.transactions {
            model.commit(transaction).unwrap();
            if transaction.last().unwrap().position >= at {
                return (transaction.last().unwrap().position == at).then_some(model);
            }
        }
        None
    }

    /// Opens what is left and says what is wrong with it.
    fn verify(&self, disk: &FaultyDisk, acked: Position) -> Result<Position, String> {
        let store = self.open(disk).map_err(|e| e.to_string())?;
        let at = store.applied();
        if at < acked {
            return Err(format!("{acked:?} was reported, {at:?} is there"));
        }
        let model = self.model(at).ok_or_else(|| format!("{at:?} is in the middle of a transaction"))?;
        let (reader, wanted) = (store.reader(), model.reader());
        if marked(reader.as_ref(), b"first") != at.0 || marked(reader.as_ref(), b"last") != at.0 {
            return Err(format!("the rows of {at:?} are half there"));
        }
        assert_same_as_rows(reader.as_ref(), wanted.as_ref());
        Ok(at)
    }
}

/// How many syncs and writes a whole run makes.
fn whole_run(run: &Run) -> (u64, u64) {
    let disk = FaultyDisk::new();
    assert_eq!(run.go(&disk, Position(0)), run.transactions.last().unwrap().last().unwrap().position);
    (disk.syncs(), disk.writes())
}

#[test]
fn whatever_was_reported_is_there_after_a_cut_at_any_sync() {
    for journal in JOURNALS {
        let run = Run::new(1, journal);
        let (syncs, _) = whole_run(&run);
        assert!(syncs as usize >= COMMITS, "one sync a transaction at least");
        let kept = [Lost::Only(STORE_NAME), Lost::Only(JOURNAL_NAME)];
        for n in 0..syncs {
            for lost in [Lost::All, Lost::None, Lost::Some(n), Lost::Torn(n), kept[n as usize % 2]] {
                let what = format!("journal {journal}, sync {n}, {lost:?}");
                cut_and_verify(&run, |disk| disk.cut_at_sync(n), lost, &what);
            }
        }
    }
}

#[test]
fn whatever_was_reported_is_there_after_a_cut_at_any_write() {
    for journal in JOURNALS {
        let run = Run::new(2, journal);
        let (_, writes) = whole_run(&run);
        let kept = [Lost::Only(STORE_NAME), Lost::Only(JOURNAL_NAME)];
        for n in 0..writes {
            let lost = [Lost::All, Lost::None, Lost::Some(n), Lost::Torn(n), kept[0], kept[1]][(n % 6) as usize];
            let what = format!("journal {journal}, write {n}, {lost:?}");
            cut_and_verify(&run, |disk| disk.cut_at_write(n), lost, &what);
        }
    }
}

fn cut_and_verify(run: &Run, cut: impl Fn(&FaultyDisk), lost: Lost, what: &str) {
    let disk = FaultyDisk::new();
    cut(&disk);
    let acked = run.go(&disk, Position(0));
    disk.power_on(lost);
    let at = run.verify(&disk, acked).unwrap_or_else(|e| panic!("{what}: {e}"));
    // A loss of power while it is being repaired changes nothing, and the rest of the run goes on from there.
    disk.cut();
    disk.power_on(lost);
    assert_eq!(run.verify(&disk, acked), Ok(at), "{what}: second opening");
    let end = run.go(&disk, at);
    disk.cut();
    disk.power_on(Lost::All);
    assert_eq!(run.verify(&disk, end), Ok(end), "{what}: the rest");
}

#[test]
fn a_cut_while_the_store_is_being_repaired_loses_nothing() {
    for (seed, journal) in (0..12).zip(JOURNALS.into_iter().cycle()) {
        let run = Run::new(3, journal);
        for n in 0..6 {
            let disk = FaultyDisk::new();
            disk.cut_at_sync(10 + seed);
            let acked = run.go(&disk, Position(0));
            disk.power_on(Lost::Torn(seed));
            disk.cut_at_sync(n);
            let _ = run.open(&disk);
            disk.cut();
            disk.power_on(Lost::Torn(seed + 100));
            run.verify(&disk, acked).unwrap_or_else(|e| panic!("seed {seed}, sync {n}: {e}"));
        }
    }
}

/// The control: with a disk that lies about syncs the same test must find losses.
#[test]
fn the_crash_test_finds_a_disk_that_lies() {
    for journal in JOURNALS {
        let run = Run::new(1, journal);
        let (syncs, _) = whole_run(&run);
        let mut found = 0;
        for n in (4..syncs).step_by(5) {
            for lost in [Lost::All, Lost::Some(n), Lost::Torn(n)] {
                let disk = FaultyDisk::new();
                // What opening writes is durable: it is the commits that are lied about.
                drop(run.open(&disk).unwrap());
                disk.lie_about_sync(true);
                disk.cut_at_sync(n);
                let acked = run.go(&disk, Position(0));
                disk.lie_about_sync(false);
                disk.power_on(lost);
                let verified = std::panic::catch_unwind(|| run.verify(&disk, acked));
                if acked > Position(0) && !matches!(verified, Ok(Ok(_))) {
                    found += 1;
                }
            }
        }
        assert!(found > 5, "journal {journal}: only {found} losses found");
    }
}

#[test]
fn a_full_disk_is_told_as_such_and_nothing_is_lost() {
    for (n, space) in (0..600_000).step_by(40_000).enumerate() {
        let run = Run::new(4, JOURNALS[n % 3]);
        let disk = FaultyDisk::new();
        let mut store = run.open(&disk).unwrap();
        disk.set_space(Some(space));
        let mut acked = Position(0);
        let mut failed = false;
        for transaction in &run.transactions {
            match store.commit(transaction) {
                Ok(done) => acked = done.position,
                Err(StoreError::Full(_)) => {
                    failed = true;
                    break;
                }
                Err(e) => panic!("space {space}: {e}"),
            }
        }
        drop(store);
        assert!(failed, "space {space} was enough: the run must be longer");
        disk.set_space(None);
        run.verify(&disk, acked).unwrap_or_else(|e| panic!("space {space}: {e}"));
        let end = run.go(&disk, run.verify(&disk, acked).unwrap());
        assert_eq!(end, run.transactions.last().unwrap().last().unwrap().position);
    }
}

#[test]
fn an_error_of_the_disk_latches_and_reopening_finds_everything() {
    for journal in JOURNALS {
        latches(&Run::new(5, journal));
    }
}

fn latches(run: &Run) {
    let disk = FaultyDisk::new();
    let mut store = run.open(&disk).unwrap();
    let acked = store.commit(&run.transactions[0]).unwrap().position;
    disk.fail_writes(true);
    assert!(matches!(store.commit(&run.transactions[1]), Err(StoreError::Io(_))));
    disk.fail_writes(false);
    assert!(store.commit(&run.transactions[1]).is_err(), "the handle must be opened anew");
    drop(store);
    run.verify(&disk, acked).unwrap();
    let reader = run.open(&disk).unwrap().reader();
    assert!(reader.page(queue(1), tidegate::model::Priority::MAX, 1, 1).is_err(), "a reader of a closed store says so");
}
