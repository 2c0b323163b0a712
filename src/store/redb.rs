//! The durable store, over redb.
//!
//! # Constraints
//!
//! An edge box: flash that wears, power that goes without warning, 32 MiB for the whole process with a million messages
//! queued. A commit must cost one sync and little processor time, since the load shares the box.
//!
//! # Layout
//!
//! One file, `store.redb`, with four tables of bytes to bytes:
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `blocks` | mount, queue, lane, first sequence | a block of messages (`store::block`) and its CRC-32C |
//! | `rows` | table byte, key | a row (`store::schema`); byte 128 and a queue's key: that queue was deleted |
//! | `bodies` | mount, number | a payload that several queues share |
//! | `body-refs` | mount, number | how many entries refer to it |
//!
//! Measured on two cores with a virtual disk, 256-byte messages, a queue row and a dedupe row a commit (`benches/store.rs`):
//!
//! | messages a commit | commits/s | messages/s | bytes written a message | processor time a message |
//! | --- | --- | --- | --- | --- |
//! | 1 | 4,000 | 4,000 | 35,700 | 117 us |
//! | 10 | 2,900 | 29,000 | 4,050 | 15 us |
//! | 100 | 1,800 | 182,000 | 920 | 2.7 us |
//! | 800 | 980 | 786,000 | 357 | 0.8 us |
//! | 10,000 | 136 | 1,360,000 | 434 | 0.5 us |
//! | 800, consumed as fast | 1,400 | 1,120,000 | 377 | 0.6 us |
//!
//! Commits a second are those of a quiet disk that syncs in a quarter of a millisecond. While others used it and a sync
//! took four, it was 200 to 300 commits/s of any size, so 157,000 messages/s at 800 a commit; the bytes were the same.
//!
//! What was weighed: blocks and rows in one table write 3 to 7 % less; apart, small
//! rows never share a page with a large value. Blocks of 4 KiB write as much and cost half as much again in processor
//! time; blocks of 64 KiB save a tenth of it and make a look at one message four times as dear: 16 KiB. Neighbouring
//! blocks through one cursor cost two thirds of single inserts. A cache of 2 to 8 MiB makes no difference beyond noise but in
//! resident memory: 4 MiB, of which redb gives half to what a transaction wrote; a larger one spills early and costs a
//! fifth more bytes. redb offers no choice of page and region sizes.
//!
//! # Writing
//!
//! A transaction applies whole batches, in order, and the row of the last position with them, so what is applied is always
//! exactly the batches up to that position. redb never overwrites a page that the last commit can reach: it writes new
//! pages, then one of two commit slots in the header, checksummed as all pages are, and syncs once. After a loss of power
//! either the new slot and every page below it have their checksums, and the transaction is there, or the old slot is
//! taken, whose pages nothing has touched. `tests/crash.rs` cuts the power at every write and sync, loses or tears
//! what was not synced, and compares all rows and messages with the store in memory; with syncs that do nothing it fails.
//!
//! Quick-repair is off. It would save reading the file at the start after a crash, at two syncs a commit and 13 KiB
//! more. With it off a million queued messages (257 MiB of file) open in 0.2 s after a kill, once the file is in the
//! page cache; a slow card adds its reading time.
//!
//! # Reading
//!
//! A reader takes a snapshot for one call and copies what it found, so no page is pinned for longer. It holds the
//! database weakly: dropping the store closes the file, and readers of it answer with an error.
//!
//! # Deleting
//!
//! A trim is remembered in memory and carried out later, in rounds of whole blocks, inside a commit that comes anyway
//! or when idle; a block that was the last to refer to a shared body takes it along. Nothing is written for a trim:
//! after a start it is found again in the heads of the queues' rows, which the batch that trims must therefore hold, too.
//! Deleting a queue's row dooms all its blocks; that is a row of its own until they are gone.
//!
//! # Damage
//!
//! See `store::open`: redb does not look at checksums when it reads, and panics on some damaged pages, so every file is
//! verified as a whole before it is used; `store::salvage` takes over what verifies in one that does not. What is
//! damaged while it is used shows by the checksum of each block: such a block is left out of what is read, and said.

pub(super) use super::errors::{damaged, from_io, from_redb};

use super::apply::{Revision, Target, apply_all, last_position};
use super::file::{Counted, Disk, DiskFile, FolderLock, Traffic};
use super::journal::{Condensed, StoreId};
use super::ops::{Batch, Op, QueueKey, Table};
use super::redb_reader::RedbReader;
use super::schema::{self, FORMAT, FORMAT_ALONE, META_APPLIED, META_FORMAT, META_JOURNAL, QueueRow, lane_key};
use super::trims::Trims;
use super::{Committed, Reader, Store, StoreError};
use super::{block, bodies};
use crate::model::{MountId, Position, Priority};
use ::redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use bytes::Bytes;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Blocks of messages, by [`lane_key`].
pub(super) const BLOCKS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("blocks");
/// Rows of all tables, by the table's byte and the key.
pub(super) const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows");
/// Shared payloads, by mount and number.
pub(super) const BODIES: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("bodies");
/// References to shared payloads (u32 big-endian), by mount and number: apart, so that one less rewrites four bytes.
pub(super) const BODY_REFS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("body-refs");

/// Byte that opens the rows of queues that were deleted and may still have blocks.
pub(super) const DOOMED: u8 = 128;
/// Commits between two rounds of deleting what was trimmed.
const COMMITS_A_ROUND: u32 = 32;
/// Blocks appended after which a round comes earlier.
const BLOCKS_A_ROUND: u64 = 256;
/// Most blocks one call of [`Store::tidy`] deletes.
const BLOCKS_A_TIDY: u64 = 256;

/// The durable store.
#[derive(Debug)]
pub struct RedbStore {
    inner: Arc<Inner>,
    applied: Position,
    trims: Trims,
    commits_since_round: u32,
    blocks_since_round: u64,
    told_bytes: u64,
}

/// What the readers share. They hold it weakly: dropping the store closes the file.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) db: Database,
    traffic: Arc<Traffic>,
    /// Shared bodies stored; while it is 0 no block needs to be looked into.
    pub(super) bodies: AtomicU64,
    /// A read failed: redb refuses all reads from then on.
    pub(super) read_failed: AtomicBool,
    /// Dropped after the database.
    lock: OnceLock<Box<dyn FolderLock>>,
}

/// Takes a body's key, its count of references, and whether its payload is there.
type BodyVisitor<'a> = &'a mut dyn FnMut(&[u8], Option<u32>, bool);

/// How a database file was opened.
#[derive(Debug)]
pub struct OpenedFile {
    /// The store.
    pub store: RedbStore,
    /// Whether it had not been closed and was repaired by reading all of it.
    pub repaired: bool,
}

impl RedbStore {
    /// Opens a file, an empty one as a new store. `cache_bytes` bounds the pages held in memory, read and written.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn open(disk: &dyn Disk, name: &str, cache_bytes: usize) -> Result<OpenedFile, StoreError> {
        Self::open_file(disk.open(name).map_err(from_io)?, cache_bytes)
    }

    pub(super) fn open_file(file: Arc<dyn DiskFile>, cache_bytes: usize) -> Result<OpenedFile, StoreError> {
        let traffic = Arc::new(Traffic::default());
        let repaired = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&repaired);
        let mut builder = Database::builder();
        // Until the first sync tells it again.
        traffic.file_bytes.store(file.disk_bytes().map_err(from_io)?, Ordering::Relaxed);
        builder.set_cache_size(cache_bytes);
        builder.set_repair_callback(move |_| seen.store(true, Ordering::Relaxed));
        let db = builder.create_with_backend(Counted { file, traffic: Arc::clone(&traffic) }).map_err(from_redb)?;
        let inner = Inner {
            db,
            traffic,
            bodies: AtomicU64::new(0),
            read_failed: AtomicBool::new(false),
            lock: OnceLock::new(),
        };
        let applied = match inner.format()? {
            Some(FORMAT_ALONE..=FORMAT) => inner.applied()?,
            Some(found) if found > FORMAT => return Err(StoreError::Newer(found, FORMAT)),
            Some(found) => return Err(StoreError::Damaged(format!("format {found} was never released"))),
            None => {
                inner.create()?;
                Position(0)
            }
        };
        let trims = inner.pending_trims()?;
        let bodies = inner.count_bodies()?;
        inner.bodies.store(bodies, Ordering::Relaxed);
        let store = Self {
            inner: Arc::new(inner),
            applied,
            trims,
            commits_since_round: 0,
            blocks_since_round: 0,
            told_bytes: 0,
        };
        Ok(OpenedFile { store, repaired: repaired.load(Ordering::Relaxed) })
    }

    /// Holds the folder's lock for as long as the file is open.
    pub(super) fn keep(&self, lock: Box<dyn FolderLock>) {
        // A second lock of the same folder cannot be there.
        let _ = self.inner.lock.set(lock);
    }

    /// Gives the folder's lock back to whoever opens it anew.
    pub(super) fn take_lock(&mut self) -> Option<Box<dyn FolderLock>> {
        Arc::get_mut(&mut self.inner)?.lock.take()
    }

    /// Makes the file as small as it goes. Takes long.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn compact(&mut self) -> Result<(), StoreError> {
        let inner =
            Arc::get_mut(&mut self.inner).ok_or_else(|| StoreError::Io("the store is being read".to_owned()))?;
        inner.db.compact().map_err(from_redb)?;
        Ok(())
    }

    /// The last position applied.
    #[must_use]
    pub const fn applied(&self) -> Position {
        self.applied
    }

    /// What the file was asked to do.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.inner.traffic)
    }

    /// Shared bodies stored.
    #[must_use]
    pub fn bodies(&self) -> u64 {
        self.inner.bodies.load(Ordering::Relaxed)
    }

    /// What the readers share.
    pub(super) const fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// One row.
    pub(super) fn row(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.snapshot()?.get(table, key)
    }

    /// The journal that belongs to this database: its id, and whether it is in use. `None` when there never was one.
    pub(super) fn journal(&self) -> Result<Option<(StoreId, bool)>, StoreError> {
        let Some(row) = self.inner.meta(META_JOURNAL)? else { return Ok(None) };
        let Some((id, &[live])) = row.split_first_chunk::<16>() else { return Err(damaged("the row of the journal")) };
        Ok(Some((StoreId(*id), live != 0)))
    }

    /// Says which journal belongs to this database and whether it is in use. While it is, the format is one that keeps
    /// away releases that know of no journals.
    pub(super) fn set_journal(&mut self, id: StoreId, live: bool) -> Result<(), StoreError> {
        let format = if live { FORMAT } else { FORMAT_ALONE };
        let value = [&id.0[..], &[u8::from(live)]].concat();
        let put = |key, value| Op::Put { table: Table::Meta, key: Bytes::from_static(key), value };
        let ops =
            vec![put(META_JOURNAL, value.into()), put(META_FORMAT, Bytes::copy_from_slice(&format.to_be_bytes()))];
        self.write(&Condensed { ops, ..Condensed::default() }, &[], 0)?;
        Ok(())
    }

    /// Applies what was pending in the journal and the batches behind it in one transaction, and deletes as much
    /// of what was trimmed as was appended: after a fold there is nothing to tidy. Returns the batches' conflicts.
    pub(super) fn fold(&mut self, pending: &Condensed, batches: &[Batch]) -> Result<Vec<u32>, StoreError> {
        let blocks = pending.ops.iter().filter(|op| matches!(op, Op::Append { .. })).count() as u64;
        let conflicts = self.write(pending, batches, BLOCKS_A_TIDY + 2 * blocks)?;
        self.commits_since_round = 0;
        self.blocks_since_round = 0;
        self.applied = last_position(batches).or(pending.last).unwrap_or(self.applied);
        Ok(conflicts)
    }

    /// What to say of a commit.
    pub(super) fn report(&mut self, position: Position, conflicts: Vec<u32>) -> Committed {
        let traffic = &self.inner.traffic;
        let written = traffic.written_bytes.load(Ordering::Relaxed);
        let bytes_written = written - self.told_bytes;
        self.told_bytes = written;
        let file_bytes = traffic.file_bytes.load(Ordering::Relaxed) + traffic.journal_bytes.load(Ordering::Relaxed);
        Committed { position, conflicts, bytes_written, file_bytes }
    }

    /// Every row, with the table's byte before its key.
    pub(super) fn each_row(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.each(ROWS, visit)
    }

    /// Every block.
    pub(super) fn each_block(&self, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.each(BLOCKS, visit)
    }

    /// Every shared body that has a payload or a count: key, references, whether the payload is there.
    pub(super) fn each_body(&self, visit: BodyVisitor<'_>) -> Result<(), StoreError> {
        self.inner.read(|txn| {
            let (bodies, refs) = (txn.open_table(BODIES)?, txn.open_table(BODY_REFS)?);
            for row in refs.range::<&[u8]>(..)? {
                let (key, value) = row?;
                visit(key.value(), read_refs(value.value()).ok(), bodies.get(key.value())?.is_some());
            }
            for row in bodies.range::<&[u8]>(..)? {
                let (key, _) = row?;
                if refs.get(key.value())?.is_none() {
                    visit(key.value(), None, true);
                }
            }
            Ok(())
        })
    }

    fn each(
        &self,
        table: TableDefinition<'static, &'static [u8], &'static [u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), StoreError> {
        self.inner.read(|txn| {
            for row in txn.open_table(table)?.range::<&[u8]>(..)? {
                let (key, value) = row?;
                visit(key.value(), value.value());
            }
            Ok(())
        })
    }

    fn write(&mut self, before: &Condensed, batches: &[Batch], blocks_max: u64) -> Result<Vec<u32>, StoreError> {
        let txn = self.inner.db.begin_write().map_err(from_redb)?;
        let conflicts;
        let mut bodies_stored = self.inner.bodies.load(Ordering::Relaxed);
        {
            let mut writing = Writing {
                txn: &txn,
                blocks: None,
                rows: txn.open_table(ROWS).map_err(from_redb)?,
                bodies: None,
                trims: &mut self.trims,
                bodies_stored: &mut bodies_stored,
                appends: Vec::new(),
                key: Vec::with_capacity(64),
            };
            for op in &before.ops {
                writing.apply(op)?;
            }
            for (mount, body, refs) in &before.released {
                writing.release(*mount, vec![*body; *refs as usize])?;
            }
            conflicts = apply_all(batches, &mut writing)?;
            self.blocks_since_round += writing.appends.len() as u64;
            writing.append()?;
            if blocks_max > 0 {
                writing.delete_trimmed(blocks_max)?;
            }
            if let Some(position) = last_position(batches).or(before.last) {
                writing.put(Table::Meta as u8, META_APPLIED, &position.0.to_be_bytes())?;
            }
        }
        // Readers look for references only where there are bodies: they must know before they can see the first.
        self.inner.bodies.fetch_max(bodies_stored, Ordering::Release);
        txn.commit().map_err(from_redb)?;
        self.inner.bodies.store(bodies_stored, Ordering::Release);
        Ok(conflicts)
    }
}

impl Store for RedbStore {
    fn commit(&mut self, batches: &[Batch]) -> Result<Committed, StoreError> {
        debug_assert!(batches.iter().is_sorted_by_key(|b| b.position), "positions increase");
        let mut conflicts = Vec::new();
        if let Some(position) = last_position(batches) {
            // A round deletes twice what was appended since the last one, so that it keeps up with any load.
            let due = self.commits_since_round >= COMMITS_A_ROUND || self.blocks_since_round >= BLOCKS_A_ROUND;
            let blocks_max = if due && !self.trims.is_empty() { 64 + 2 * self.blocks_since_round } else { 0 };
            if due {
                self.commits_since_round = 0;
                self.blocks_since_round = 0;
            }
            conflicts = self.write(&Condensed::default(), batches, blocks_max)?;
            self.commits_since_round += 1;
            self.applied = position;
        }
        Ok(self.report(self.applied, conflicts))
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(RedbReader::new(&self.inner))
    }

    fn tidy(&mut self) -> Result<bool, StoreError> {
        if self.trims.is_empty() {
            return Ok(false);
        }
        self.write(&Condensed::default(), &[], BLOCKS_A_TIDY)?;
        Ok(!self.trims.is_empty())
    }
}

impl Inner {
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let txn = self.db.begin_read().map_err(from_redb)?;
        read(&txn).map_err(from_redb)
    }

    fn meta(&self, name: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read(|txn| match txn.open_table(ROWS) {
            Ok(rows) => {
                let value = rows.get(&row_key(Table::Meta as u8, name)[..])?;
                Ok(value.map(|v| Bytes::copy_from_slice(v.value())))
            }
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(e) => Err(e.into()),
        })
    }

    fn format(&self) -> Result<Option<u32>, StoreError> {
        let Some(row) = self.meta(META_FORMAT)? else { return Ok(None) };
        let row = <[u8; 4]>::try_from(&row[..]).map_err(|_| damaged("the row of the format's version"))?;
        Ok(Some(u32::from_be_bytes(row)))
    }

    fn applied(&self) -> Result<Position, StoreError> {
        let row = self.meta(META_APPLIED)?.ok_or_else(|| damaged("the row of the last position is missing"))?;
        let row = <[u8; 8]>::try_from(&row[..]).map_err(|_| damaged("the row of the last position"))?;
        Ok(Position(u64::from_be_bytes(row)))
    }

    /// Makes the tables and the rows every store has.
    fn create(&self) -> Result<(), StoreError> {
        let txn = self.db.begin_write().map_err(from_redb)?;
        for table in [BLOCKS, BODIES, BODY_REFS] {
            txn.open_table(table).map_err(from_redb)?;
        }
        {
            let mut rows = txn.open_table(ROWS).map_err(from_redb)?;
            for (name, value) in
                [(META_FORMAT, &FORMAT_ALONE.to_be_bytes()[..]), (META_APPLIED, &0u64.to_be_bytes()[..])]
            {
                rows.insert(&row_key(Table::Meta as u8, name)[..], value).map_err(from_redb)?;
            }
        }
        txn.commit().map_err(from_redb)
    }

    fn count_bodies(&self) -> Result<u64, StoreError> {
        self.read(|txn| Ok(txn.open_table(BODY_REFS)?.len()?))
    }

    /// What was trimmed before the store was opened and may still be there: below the head of each queue's lanes,
    /// and all blocks of deleted queues.
    fn pending_trims(&self) -> Result<Trims, StoreError> {
        self.read(|txn| {
            let mut trims = Trims::default();
            let rows = txn.open_table(ROWS)?;
            let queue_byte = [Table::Queue as u8];
            for row in rows.range(&queue_byte[..]..)? {
                let (key, value) = row?;
                let Some(key) = key.value().strip_prefix(&queue_byte) else { break };
                // A damaged row is the reader's to report; here it only means that nothing is deleted.
                let Some((mount, queue)) = schema::split_queue_key(Table::Queue, key) else { continue };
                let Some(row) = schema::decode::<QueueRow>(value.value()) else { continue };
                for lane in row.lanes {
                    if let Some(priority) = Priority::new(lane.lane) {
                        trims.trim(QueueKey { mount, queue }, priority, lane.head);
                    }
                }
            }
            for row in rows.range(&[DOOMED][..]..)? {
                let (key, _) = row?;
                let Some(key) = key.value().strip_prefix(&[DOOMED]) else { break };
                if let Some((mount, queue)) = schema::split_queue_key(Table::Queue, key) {
                    trims.doom(QueueKey { mount, queue });
                }
            }
            Ok(trims)
        })
    }
}

/// One write transaction. Tables are opened when first needed: an untouched one costs nothing.
struct Writing<'t> {
    txn: &'t redb::WriteTransaction,
    blocks: Option<BytesTable<'t>>,
    rows: BytesTable<'t>,
    bodies: Option<(BytesTable<'t>, BytesTable<'t>)>,
    trims: &'t mut Trims,
    bodies_stored: &'t mut u64,
    /// Blocks to be written, by key.
    appends: Vec<([u8; 17], Bytes)>,
    key: Vec<u8>,
}

type BytesTable<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

impl<'t> Writing<'t> {
    fn put(&mut self, table: u8, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.key.clear();
        self.key.push(table);
        self.key.extend_from_slice(key);
        self.rows.insert(&self.key[..], value).map_err(from_redb)?;
        Ok(())
    }

    fn remove(&mut self, table: u8, key: &[u8]) -> Result<(), StoreError> {
        self.key.clear();
        self.key.push(table);
        self.key.extend_from_slice(key);
        self.rows.remove(&self.key[..]).map_err(from_redb)?;
        Ok(())
    }

    fn blocks(&mut self) -> Result<&mut BytesTable<'t>, StoreError> {
        if self.blocks.is_none() {
            self.blocks = Some(self.txn.open_table(BLOCKS).map_err(from_redb)?);
        }
        Ok(self.blocks.as_mut().expect("set in the line before"))
    }

    fn bodies(&mut self) -> Result<&mut (BytesTable<'t>, BytesTable<'t>), StoreError> {
        if self.bodies.is_none() {
            let bodies = self.txn.open_table(BODIES).map_err(from_redb)?;
            self.bodies = Some((bodies, self.txn.open_table(BODY_REFS).map_err(from_redb)?));
        }
        Ok(self.bodies.as_mut().expect("set in the line before"))
    }

    /// Writes the blocks, lane by lane through one cursor: nothing else in a transaction depends on their order, and a
    /// run of neighbours built at once costs half of single inserts.
    fn append(&mut self) -> Result<(), StoreError> {
        let mut appends = std::mem::take(&mut self.appends);
        if appends.is_empty() {
            return Ok(());
        }
        // Stable: of two blocks with one key the later one wins below.
        appends.sort_by_key(|(key, _)| *key);
        let blocks = self.blocks()?;
        let mut stored = Vec::with_capacity(appends[0].1.len() + 64);
        for run in appends.chunk_by(|a, b| a.0[..9] == b.0[..9]) {
            let mut left = run;
            // One block is as cheap by itself.
            if let [(first, _), _, ..] = run {
                let mut cursor = blocks.upper_bound_mut(Bound::Included(&first[..])).map_err(from_redb)?;
                while let Some(((key, block), rest)) = left.split_first() {
                    seal(block, &mut stored);
                    match cursor.insert_before(&key[..], &stored[..]) {
                        Ok(()) => left = rest,
                        // The key is there already, or belongs after another: insert finds its place.
                        Err(redb::CursorError::UnorderedKey) => break,
                        Err(redb::CursorError::Storage(e)) => return Err(from_redb(e)),
                        Err(e) => return Err(StoreError::Io(e.to_string())),
                    }
                }
                cursor.close().map_err(from_redb)?;
            }
            for (key, block) in left {
                seal(block, &mut stored);
                blocks.insert(&key[..], &stored[..]).map_err(from_redb)?;
            }
        }
        Ok(())
    }

    /// Deletes whole blocks below the trims, at most so many, and the bodies they were the last to refer to.
    fn delete_trimmed(&mut self, blocks_max: u64) -> Result<(), StoreError> {
        let mut left = blocks_max;
        while left > 0 {
            let Some((queue, low, below)) = self.trims.next() else { break };
            let look_inside = *self.bodies_stored > 0;
            let mut released = Vec::new();
            let end = {
                let blocks = self.blocks()?;
                let low = &low[..];
                let mut last = None;
                let mut count = 0;
                for row in blocks.range(low..&below.bound()[..]).map_err(from_redb)? {
                    let (key, value) = row.map_err(from_redb)?;
                    if count == left || !below.covers(key.value(), value.value()) {
                        break;
                    }
                    if look_inside {
                        bodies::each(value.value(), |body| released.push(body));
                    }
                    count += 1;
                    last = Some(key.value().to_vec());
                }
                if let Some(last) = &last {
                    let range = (Bound::Included(low), Bound::Included(&last[..]));
                    blocks.retain_in::<&[u8], _>(range, |_, _| false).map_err(from_redb)?;
                }
                left -= count;
                last
            };
            self.release(queue.mount, released)?;
            // Stopped before the limit, or nothing was left to delete: this trim is carried out.
            if (left > 0 || end.is_none()) && self.trims.done() {
                self.remove(DOOMED, &schema::queue_key(queue))?;
            }
        }
        Ok(())
    }

    fn release(&mut self, mount: MountId, mut released: Vec<u64>) -> Result<(), StoreError> {
        released.sort_unstable();
        for run in released.chunk_by(|a, b| a == b) {
            let key = body_key(mount, run[0]);
            let (bodies, refs) = self.bodies()?;
            let held = refs.get(&key[..]).map_err(from_redb)?.map(|v| read_refs(v.value()));
            // A body that is missing here was reported when it was read; there is nothing left to release.
            let Some(held) = held else { continue };
            let left = u64::from(held?).saturating_sub(run.len() as u64);
            if left == 0 {
                bodies.remove(&key[..]).map_err(from_redb)?;
                refs.remove(&key[..]).map_err(from_redb)?;
                *self.bodies_stored = self.bodies_stored.saturating_sub(1);
            } else {
                let left = u32::try_from(left).expect("not more than was held, a u32");
                refs.insert(&key[..], &left.to_be_bytes()[..]).map_err(from_redb)?;
            }
        }
        Ok(())
    }
}

impl Target for Writing<'_> {
    fn revision(&mut self, table: Table, key: &[u8]) -> Result<Revision, StoreError> {
        let value = self.rows.get(&row_key(table as u8, key)[..]).map_err(from_redb)?;
        Ok(Revision::of(value.as_ref().map(redb::AccessGuard::value)))
    }

    fn apply(&mut self, op: &Op) -> Result<(), StoreError> {
        match op {
            Op::Append { queue, lane, first, count: _, block } => {
                self.appends.push((lane_key(*queue, *lane, *first), block.clone()));
            }
            Op::Body { mount, body, refs, bytes } => {
                let key = body_key(*mount, *body);
                let (bodies, held) = self.bodies()?;
                bodies.insert(&key[..], &bytes[..]).map_err(from_redb)?;
                held.insert(&key[..], &refs.to_be_bytes()[..]).map_err(from_redb)?;
                *self.bodies_stored += 1;
            }
            Op::Trim { queue, lane, below } => self.trims.trim(*queue, *lane, *below),
            Op::Ack { queue, consumer, progress } => {
                self.put(Table::Consumer as u8, &schema::named_key(*queue, consumer), progress)?;
            }
            Op::Put { table, key, value } | Op::CompareAndPut { table, key, value, .. } => {
                self.put(*table as u8, key, value)?;
            }
            Op::Delete { table, key } => {
                self.remove(*table as u8, key)?;
                if let Some((mount, queue)) = schema::split_queue_key(*table, key) {
                    self.put(DOOMED, key, &[])?;
                    self.trims.doom(QueueKey { mount, queue });
                }
            }
        }
        Ok(())
    }
}

/// Makes `stored` the block as it is stored.
fn seal(block: &[u8], stored: &mut Vec<u8>) {
    stored.clear();
    block::seal_to(stored, block);
}

pub(super) fn row_key(table: u8, key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + key.len());
    row.push(table);
    row.extend_from_slice(key);
    row
}

pub(super) fn body_key(mount: MountId, body: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&mount.0.to_be_bytes());
    key[4..].copy_from_slice(&body.to_be_bytes());
    key
}

fn read_refs(value: &[u8]) -> Result<u32, StoreError> {
    Ok(u32::from_be_bytes(value.try_into().map_err(|_| damaged("a count of references"))?))
}
