//! The journal in front of the database: a commit is one record written into a place that is there already, and one sync.
//!
//! # Constraints
//!
//! A lone message is the usual load of an edge box. As a transaction of redb it costs 36 KiB of flash and a tree of pages;
//! as a record it costs one page. What the journal gives must not be paid for elsewhere: a commit of many messages is
//! no faster and writes no more than before, memory stays small, and a reader never waits for a disk.
//!
//! # Layout
//!
//! `store.journal`: a page that says whose it is, then two segments of equal size, written full of zeroes when the file is
//! made: an unwritten extent would make the file system note down every first write. `proto/journal.md` has the bytes.
//! A record holds the batches of one commit in the encoding of `store::encoding` and begins on a page of its own, so
//! nothing acknowledged is ever in a page that is written again.
//!
//! # Writing
//!
//! A commit goes one of two ways. Below 64 KiB (`DIRECT_BYTES`) it is encoded, written behind the record before it and
//! synced; then it is added to what is *pending*: the final state of everything journalled and not yet in redb. Otherwise,
//! or when the segment has no room for it, or when more than 1 MiB is pending, what is pending and the commit go to redb
//! in one transaction (a *fold*), and the next record begins the other segment. So a large commit is written once, a small
//! one twice, and the second time with everything that became of it meanwhile: rows in their last state only, neighbouring
//! messages in one block, and of what was consumed in time nothing at all. An orderly stop folds; being idle does
//! not, since at one message a second each fold would cost more than all its records.
//!
//! The segment that was folded stays as it is until the one after it is full: should redb lose its last transaction
//! (see `store::open`), the records of that are still there.
//!
//! Measured beside redb alone (`benches/store.rs`, 256-byte messages, on a machine shared with other work, so only bytes and
//! ratios mean something):
//!
//! | messages a commit | bytes written a message | redb alone | processor time a message | redb alone | commits/s of redb's |
//! | --- | --- | --- | --- | --- | --- |
//! | 1 | 4,412 | 39,364 | 77 us | 270 us | 1.6 |
//! | 1, consumed as fast | 4,185 | 36,221 | 75 us | 292 us | 2.3 |
//! | 10 | 703 | 4,364 | 8.3 us | 33 us | 2.8 |
//! | 50 | 687 | 1,220 | 3.1 us | 7.0 us | 1.4 |
//! | 100 | 639 | 941 | 2.1 us | 4.5 us | 1.5 |
//! | 200 | 571 | 513 | 1.3 us | 3.1 us | 2.9 |
//! | 300 | 580 | 492 | 1.3 us | 2.5 us | 2.1 |
//! | 400 and more | as redb alone | 409 | | 2.1 us | |
//!
//! So 64 KiB, a commit of 220 such messages: above, the journal would save processor time and cost flash.
//!
//! # Reading
//!
//! See `reader`: what is pending lies over the database, merged by key.
//!
//! # Starting
//!
//! Records above redb's last position are applied again and folded at once (`open`), so a start ends as a stop does, and
//! what was read back is durable in redb before anybody builds on it. Which records count, and which are missing, is
//! decided in `replay`. The database names its journal by a random id; no other is ever replayed on it.
//!
//! # A full disk
//!
//! The journal has its space, so what was acknowledged is safe when the database cannot grow. A fold that finds no space
//! fails the commit; the store is opened anew, tries again, and if there still is none goes on with everything pending: it is
//! read as ever, and commits without messages (acknowledgements, trims) go on in the journal, into the other segment
//! too. Commits with messages are refused; each makes the store open anew and try to fold.
//!
//! # Memory
//!
//! What is pending is at most 1 MiB and one commit; a fold holds it twice for a moment, in redb's pages. Opening reads
//! one segment at a time. A reader holds references to the blocks of one page.

mod format;
mod open;
mod pending;
mod reader;
mod replay;
mod segment;

pub use format::{
    FILE_HEADER_BYTES, FileHeader, Found, HeaderError, PAGE_BYTES, Payload, RECORD_HEADER_BYTES, RecordHead, Scan,
    StoreId, VERSION, decode_payload, encode_record, scan,
};
pub use replay::{Plan, plan};
pub use segment::JOURNAL_NAME;

pub(super) use open::{Attach, attach, inspect};
pub(super) use pending::Condensed;

use super::apply::last_position;
use super::file::Traffic;
use super::ops::{Batch, Op};
use super::redb::RedbStore;
use super::{Committed, Reader, Store, StoreError};
use crate::model::Position;
use pending::Pending;
use reader::JournaledReader;
use segment::JournalFile;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A commit of this many bytes goes straight to the database: twice would be much, and once there is cheap.
const DIRECT_BYTES: usize = 64 * 1_024;
/// Most bytes pending before they are folded.
const PENDING_BYTES_MAX: usize = 1_024 * 1_024;

/// The durable store: the journal, where there is one, and the database behind it.
#[derive(Debug)]
pub struct JournaledStore {
    redb: RedbStore,
    journal: Option<JournalFile>,
    pending: Arc<RwLock<Pending>>,
    /// The last position committed.
    applied: Position,
    /// After an error nothing is known of what is on disk.
    failed: bool,
    /// The disk has no space for what is pending.
    cramped: bool,
}

impl JournaledStore {
    fn new(redb: RedbStore, journal: Option<JournalFile>, pending: Pending) -> Self {
        let applied = pending.last().unwrap_or(redb.applied());
        Self { redb, journal, pending: Arc::new(RwLock::new(pending)), applied, failed: false, cramped: false }
    }

    /// The last position committed.
    #[must_use]
    pub const fn applied(&self) -> Position {
        self.applied
    }

    /// What the files were asked to do.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        self.redb.traffic()
    }

    /// Shared bodies stored, those pending included.
    #[must_use]
    pub fn bodies(&self) -> u64 {
        self.redb.bodies() + self.pending().bodies()
    }

    /// Bytes of journal not yet in the database.
    #[must_use]
    pub fn unfolded_bytes(&self) -> u64 {
        if self.pending().is_empty() { 0 } else { self.journal.as_ref().map_or(0, JournalFile::used) }
    }

    /// Brings everything into the database: the journal holds nothing that is needed.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn fold(&mut self) -> Result<(), StoreError> {
        self.guarded(|store| if store.pending().is_empty() { Ok(()) } else { store.fold_with(&[]).map(|_| ()) })
    }

    /// Makes the database file as small as it goes. Takes long.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn compact(&mut self) -> Result<(), StoreError> {
        self.fold()?;
        self.guarded(|store| {
            while store.redb.tidy()? {}
            store.redb.compact()
        })
    }

    fn pending(&self) -> RwLockReadGuard<'_, Pending> {
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending_mut(&self) -> RwLockWriteGuard<'_, Pending> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what writes; after an error nothing runs any more.
    fn guarded<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.failed {
            return Err(StoreError::Io("an earlier write failed: the store must be opened anew".to_owned()));
        }
        if self.redb.inner().read_failed.load(Ordering::Relaxed) {
            self.failed = true;
            return Err(StoreError::Io("a read failed: the store must be opened anew".to_owned()));
        }
        let result = run(self);
        self.failed = result.is_err();
        result
    }

    fn write(&mut self, batches: &[Batch], last: Position) -> Result<Vec<u32>, StoreError> {
        if let Some(journal) = &mut self.journal {
            let weight: usize = batches.iter().flat_map(|b| &b.ops).map(Op::weight).sum();
            if self.cramped && batches.iter().flat_map(|b| &b.ops).any(takes_space) {
                // Tried again after the store was opened anew, which folds if it can.
                return Err(StoreError::Full("what is in the journal has no room in the database".to_owned()));
            }
            let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
            if weight < DIRECT_BYTES && (self.cramped || pending.bytes() + weight <= PENDING_BYTES_MAX) {
                let conflicts = pending.judge(batches, |table, key| self.redb.row(table, key))?;
                let mut record = encode_record(journal.head(self.applied, last), &conflicts, batches);
                if self.cramped && record.as_ref().is_some_and(|r| !journal.has_room(r)) && journal.spill() {
                    // It names its generation, and this is the next one.
                    record = encode_record(journal.head(self.applied, last), &conflicts, batches);
                }
                if let Some(record) = record.filter(|r| journal.has_room(r)) {
                    // Nobody may see it before it is durable.
                    drop(pending);
                    journal.write(&record)?;
                    self.pending_mut().apply(batches, &conflicts);
                    return Ok(conflicts);
                }
            }
        }
        self.fold_with(batches)
    }

    /// What is pending and these batches, in one transaction of the database.
    fn fold_with(&mut self, batches: &[Batch]) -> Result<Vec<u32>, StoreError> {
        let conflicts = if self.pending().is_empty() {
            self.redb.commit(batches)?.conflicts
        } else {
            let condensed = self.pending().condense();
            let conflicts = self.redb.fold(&condensed, batches)?;
            // Only now: whoever reads in between finds it in both.
            self.pending_mut().clear();
            conflicts
        };
        self.cramped = false;
        if let Some(journal) = &mut self.journal {
            journal.begin(self.redb.applied());
        }
        Ok(conflicts)
    }
}

/// Whether an operation adds to what must find room in the database; the others make room, or nearly.
fn takes_space(op: &Op) -> bool {
    matches!(op, Op::Append { .. } | Op::Body { .. })
}

impl Store for JournaledStore {
    fn commit(&mut self, batches: &[Batch]) -> Result<Committed, StoreError> {
        debug_assert!(batches.iter().is_sorted_by_key(|b| b.position), "positions increase");
        let conflicts = match last_position(batches) {
            None => Vec::new(),
            Some(last) => {
                let conflicts = self.guarded(|store| store.write(batches, last))?;
                self.applied = last;
                conflicts
            }
        };
        Ok(self.redb.report(self.applied, conflicts))
    }

    fn reader(&self) -> Box<dyn Reader> {
        let database = Arc::downgrade(self.redb.inner());
        Box::new(JournaledReader { pending: Arc::clone(&self.pending), database })
    }

    fn tidy(&mut self) -> Result<bool, StoreError> {
        self.guarded(|store| store.redb.tidy())
    }
}

impl Drop for JournaledStore {
    /// An orderly stop leaves nothing in the journal. Where that fails nothing is lost: the next start replays it.
    fn drop(&mut self) {
        if !self.failed
            && let Err(error) = self.fold()
        {
            log::warn!("{error}: the journal is replayed at the next start");
        }
    }
}
