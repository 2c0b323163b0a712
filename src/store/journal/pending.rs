//! What is journalled and not yet in the database, as its final state: what a later operation undid is not here.

use super::super::StoreError;
use super::super::apply::{Revision, Target, apply_all, apply_decided};
use super::super::block::{BLOCK_BYTES_GOAL, BlockReader, BlockWriter};
use super::super::bodies;
use super::super::ops::{Batch, Op, QueueKey, Table};
use super::super::schema::{self, META_APPLIED, lane_key, queue_key};
use crate::model::{MountId, Position, Priority};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Counted for each thing held, beside its bytes: the map's own.
const ENTRY_BYTES: usize = 96;

/// A row's table byte and key.
pub(super) type RowKey = (u8, Bytes);

/// The final state of all that is pending.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Rows, `None` for one that is deleted.
    rows: BTreeMap<RowKey, Option<Bytes>>,
    /// By lane and first sequence.
    blocks: BTreeMap<[u8; 17], Held>,
    /// Payload and references left.
    bodies: BTreeMap<(MountId, u64), (u32, Bytes)>,
    /// References to bodies of the database that went with pending blocks.
    released: BTreeMap<(MountId, u64), u32>,
    trims: BTreeMap<(QueueKey, Priority), u64>,
    /// Queues whose row was deleted, with all their blocks in the database.
    deleted: BTreeSet<QueueKey>,
    /// The last position; `None` when nothing is pending.
    last: Option<Position>,
    /// Bytes of all this, roughly.
    bytes: usize,
}

/// A block.
#[derive(Debug)]
enum Held {
    /// As it came.
    Whole(u32, Bytes),
    /// Put together from neighbours.
    Growing(BlockWriter),
}

/// What the database is to be told.
#[derive(Debug, Default)]
pub(in super::super) struct Condensed {
    /// In the order in which they are to be applied.
    pub(in super::super) ops: Vec<Op>,
    /// References to be given back.
    pub(in super::super) released: Vec<(MountId, u64, u32)>,
    /// The last position.
    pub(in super::super) last: Option<Position>,
}

impl Held {
    fn count(&self) -> u32 {
        match self {
            Self::Whole(count, _) => *count,
            Self::Growing(writer) => writer.count(),
        }
    }

    fn bytes(&self) -> Bytes {
        match self {
            Self::Whole(_, bytes) => bytes.clone(),
            Self::Growing(writer) => writer.snapshot(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Whole(_, bytes) => bytes.len(),
            Self::Growing(writer) => writer.len(),
        }
    }

    /// Takes the messages of the block that follows; false when it stays a block of its own.
    fn take(&mut self, next: &Bytes) -> bool {
        if self.len() + next.len() > BLOCK_BYTES_GOAL {
            return false;
        }
        let Some(mut entries) = BlockReader::new(next) else { return false };
        if let Self::Whole(_, bytes) = self {
            let Some(writer) = BlockWriter::reopen(bytes) else { return false };
            *self = Self::Growing(writer);
        }
        let Self::Growing(writer) = self else { return false };
        let before = writer.len();
        // An entry's time counts from the block's: it must be able to, and every entry must be readable.
        let mut whole = BlockWriter::new(writer.base());
        while let Some((stored, entry)) = entries.next_entry() {
            if stored < writer.base() || stored.ms_since(writer.base()) > u64::from(u32::MAX) {
                return false;
            }
            whole.push(stored, entry.history, entry.body, entry.data);
        }
        if entries.remaining() != 0 || entries.rest_len() != 0 {
            return false;
        }
        writer.join(&whole);
        debug_assert!(writer.len() > before);
        true
    }
}

impl Pending {
    /// Takes what was journalled, in order; `conflicts` are the compare-and-puts that did not match.
    pub(super) fn apply(&mut self, batches: &[Batch], conflicts: &[u32]) {
        apply_decided(batches, conflicts, |op| self.apply_op(op));
        if let Some(batch) = batches.last() {
            self.last = Some(batch.position);
            let (key, value) =
                (Bytes::from_static(META_APPLIED), Bytes::copy_from_slice(&batch.position.0.to_be_bytes()));
            self.put(Table::Meta, key, Some(value));
        }
    }

    /// The compare-and-puts among the batches that do not match what is here, or `below` where nothing is.
    pub(super) fn judge(
        &self,
        batches: &[Batch],
        below: impl FnMut(Table, &[u8]) -> Result<Option<Bytes>, StoreError>,
    ) -> Result<Vec<u32>, StoreError> {
        let any = batches.iter().flat_map(|b| &b.ops).any(|op| matches!(op, Op::CompareAndPut { .. }));
        if !any {
            return Ok(Vec::new());
        }
        apply_all(batches, &mut Judge { pending: self, below, written: BTreeMap::new() })
    }

    /// The last position; `None` when nothing is pending.
    pub(super) const fn last(&self) -> Option<Position> {
        self.last
    }

    pub(super) fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Bytes held, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The row, if anything is known of it: `Some(None)` is a deleted one.
    pub(super) fn row(&self, table: Table, key: &[u8]) -> Option<Option<Bytes>> {
        if self.rows.is_empty() {
            return None;
        }
        self.rows.get(&(table as u8, Bytes::copy_from_slice(key))).cloned()
    }

    /// All that is known of rows of a table from a key on that begin with `prefix`.
    pub(super) fn rows(&self, table: Table, prefix: &[u8], from: &[u8]) -> Vec<(Bytes, Option<Bytes>)> {
        let start = (table as u8, Bytes::copy_from_slice(prefix.max(from)));
        self.rows
            .range(start..)
            .take_while(|((found, key), _)| *found == table as u8 && key.starts_with(prefix))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect()
    }

    /// Blocks of a lane from the one that holds `from` (or the next after it) until `bytes_max` is reached, at least
    /// one: first sequence, number of messages, bytes.
    pub(super) fn page(&self, queue: QueueKey, lane: Priority, from: u64, bytes_max: usize) -> Vec<(u64, u32, Bytes)> {
        let low = lane_key(queue, lane, 0);
        let at = lane_key(queue, lane, from);
        let holder = self.blocks.range(low..=at).next_back();
        let holder = holder.filter(|(key, held)| sequence(key) + u64::from(held.count()) > from);
        let start = holder.map_or(at, |(key, _)| *key);
        let mut found = Vec::new();
        let mut bytes = 0;
        for (key, held) in self.blocks.range(start..=lane_key(queue, lane, u64::MAX)) {
            if bytes >= bytes_max && !found.is_empty() {
                break;
            }
            bytes += held.len();
            found.push((sequence(key), held.count(), held.bytes()));
        }
        found
    }

    /// The payload of a pending body.
    pub(super) fn body(&self, mount: MountId, body: u64) -> Option<Bytes> {
        self.bodies.get(&(mount, body)).map(|(_, bytes)| bytes.clone())
    }

    pub(super) fn bodies(&self) -> u64 {
        self.bodies.len() as u64
    }

    pub(super) fn has_bodies(&self) -> bool {
        !self.bodies.is_empty()
    }

    /// Whether all blocks the database has of the queue are gone.
    pub(super) fn is_deleted(&self, queue: QueueKey) -> bool {
        self.deleted.contains(&queue)
    }

    /// Everything, for the database. It stays here until [`Pending::clear`], for the readers.
    pub(super) fn condense(&self) -> Condensed {
        let mut ops = Vec::with_capacity(self.rows.len() + self.blocks.len() + self.bodies.len() + self.trims.len());
        for queue in &self.deleted {
            ops.push(Op::Delete { table: Table::Queue, key: Bytes::copy_from_slice(&queue_key(*queue)) });
        }
        for ((mount, body), (refs, bytes)) in &self.bodies {
            ops.push(Op::Body { mount: *mount, body: *body, refs: *refs, bytes: bytes.clone() });
        }
        for (key, held) in &self.blocks {
            let Some((queue, lane, first)) = schema::split_lane_key(key) else { continue };
            ops.push(Op::Append { queue, lane, first, count: held.count(), block: held.bytes() });
        }
        for ((table, key), value) in &self.rows {
            let Some(table) = Table::from_byte(*table) else { continue };
            match value {
                Some(value) => ops.push(Op::Put { table, key: key.clone(), value: value.clone() }),
                None if schema::split_queue_key(table, key).is_some() => {}
                None => ops.push(Op::Delete { table, key: key.clone() }),
            }
        }
        for ((queue, lane), below) in &self.trims {
            ops.push(Op::Trim { queue: *queue, lane: *lane, below: *below });
        }
        let released = self.released.iter().map(|((mount, body), refs)| (*mount, *body, *refs)).collect();
        Condensed { ops, released, last: self.last }
    }

    /// Forgets everything: it is in the database.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn put(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        let (key_len, len) = (key.len(), value.as_ref().map_or(0, Bytes::len));
        match self.rows.insert((table as u8, key), value) {
            Some(old) => self.bytes -= old.map_or(0, |v| v.len()),
            None => self.bytes += key_len + ENTRY_BYTES,
        }
        self.bytes += len;
    }

    fn apply_op(&mut self, op: &Op) {
        match op {
            Op::Append { queue, lane, first, count, block } => self.append(*queue, *lane, *first, *count, block),
            Op::Body { mount, body, refs, bytes } => {
                self.bytes += bytes.len() + ENTRY_BYTES;
                if let Some((_, old)) = self.bodies.insert((*mount, *body), (*refs, bytes.clone())) {
                    self.bytes -= old.len() + ENTRY_BYTES;
                }
            }
            Op::Trim { queue, lane, below } => self.trim(*queue, *lane, *below),
            Op::Ack { queue, consumer, progress } => {
                self.put(Table::Consumer, schema::named_key(*queue, consumer), Some(progress.clone()));
            }
            Op::Put { table, key, value } | Op::CompareAndPut { table, key, value, .. } => {
                self.put(*table, key.clone(), Some(value.clone()));
            }
            Op::Delete { table, key } => {
                self.put(*table, key.clone(), None);
                if let Some((mount, queue)) = schema::split_queue_key(*table, key) {
                    self.delete_queue(QueueKey { mount, queue });
                }
            }
        }
    }

    fn append(&mut self, queue: QueueKey, lane: Priority, first: u64, count: u32, block: &Bytes) {
        self.bytes += block.len();
        let key = lane_key(queue, lane, first);
        if first > 0 {
            let before = self.blocks.range_mut(lane_key(queue, lane, 0)..key).next_back();
            if let Some((at, held)) = before
                && sequence(at) + u64::from(held.count()) == first
                && held.take(block)
            {
                return;
            }
        }
        self.bytes += ENTRY_BYTES;
        if let Some(old) = self.blocks.insert(key, Held::Whole(count, block.clone())) {
            self.bytes -= old.len() + ENTRY_BYTES;
        }
    }

    fn trim(&mut self, queue: QueueKey, lane: Priority, below: u64) {
        let to = self.trims.entry((queue, lane)).or_insert(below);
        *to = below.max(*to);
        let gone: Vec<[u8; 17]> = self
            .blocks
            .range(lane_key(queue, lane, 0)..lane_key(queue, lane, below))
            .take_while(|(key, held)| sequence(key).saturating_add(u64::from(held.count())) <= below)
            .map(|(key, _)| *key)
            .collect();
        gone.iter().for_each(|key| self.remove_block(queue.mount, key));
    }

    fn delete_queue(&mut self, queue: QueueKey) {
        self.deleted.insert(queue);
        self.trims.retain(|(q, _), _| *q != queue);
        let range = lane_key(queue, Priority::default(), 0)..=lane_key(queue, Priority::MAX, u64::MAX);
        let gone: Vec<[u8; 17]> = self.blocks.range(range).map(|(key, _)| *key).collect();
        gone.iter().for_each(|key| self.remove_block(queue.mount, key));
    }

    fn remove_block(&mut self, mount: MountId, key: &[u8; 17]) {
        let Some(held) = self.blocks.remove(key) else { return };
        self.bytes = self.bytes.saturating_sub(held.len() + ENTRY_BYTES);
        bodies::each(&held.bytes(), |body| match self.bodies.get_mut(&(mount, body)) {
            Some((refs, _)) if *refs > 1 => *refs -= 1,
            Some(_) => {
                if let Some((_, payload)) = self.bodies.remove(&(mount, body)) {
                    self.bytes = self.bytes.saturating_sub(payload.len() + ENTRY_BYTES);
                }
            }
            None => *self.released.entry((mount, body)).or_default() += 1,
        });
    }
}

/// Compares as if every operation before had been applied, and applies nothing.
struct Judge<'p, F> {
    pending: &'p Pending,
    below: F,
    written: BTreeMap<RowKey, Revision>,
}

impl<F: FnMut(Table, &[u8]) -> Result<Option<Bytes>, StoreError>> Target for Judge<'_, F> {
    fn revision(&mut self, table: Table, key: &[u8]) -> Result<Revision, StoreError> {
        if let Some(revision) = self.written.get(&(table as u8, Bytes::copy_from_slice(key))) {
            return Ok(*revision);
        }
        let value = match self.pending.row(table, key) {
            Some(known) => known,
            None => (self.below)(table, key)?,
        };
        Ok(Revision::of(value.as_deref()))
    }

    fn apply(&mut self, op: &Op) -> Result<(), StoreError> {
        match op {
            Op::Put { table, key, value } | Op::CompareAndPut { table, key, value, .. } => {
                self.written.insert((*table as u8, key.clone()), Revision::of(Some(value)));
            }
            Op::Delete { table, key } => {
                self.written.insert((*table as u8, key.clone()), Revision::Missing);
            }
            Op::Ack { queue, consumer, progress } => {
                let key = (Table::Consumer as u8, schema::named_key(*queue, consumer));
                self.written.insert(key, Revision::of(Some(progress)));
            }
            Op::Append { .. } | Op::Body { .. } | Op::Trim { .. } => {}
        }
        Ok(())
    }
}

/// The sequence in a block's key.
fn sequence(key: &[u8; 17]) -> u64 {
    key.last_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b))
}
