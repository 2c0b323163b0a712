//! The store over plain maps: serves queues that need not survive, and is the model the tests hold the other one to.

use super::apply::{Revision, Target, apply_all, last_position};
use super::bodies::restore;
use super::ops::{Batch, Op, QueueKey, Table};
use super::schema::{META_APPLIED, lane_key, queue_key};
use super::{Block, Committed, Reader, Store, StoreError};
use crate::model::{MountId, Position, Priority};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    maps: Arc<RwLock<Maps>>,
    applied: Position,
}

#[derive(Debug, Default)]
struct Maps {
    /// By lane and first sequence: the number of messages and the block.
    blocks: BTreeMap<[u8; 17], (u32, Bytes)>,
    rows: BTreeMap<(u8, Bytes), Bytes>,
    bodies: BTreeMap<(MountId, u64), (u32, Bytes)>,
    /// Bytes of all keys and values.
    bytes: u64,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Shared bodies held.
    #[must_use]
    pub fn bodies(&self) -> usize {
        read(&self.maps).bodies.len()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(maps: &RwLock<Maps>) -> RwLockReadGuard<'_, Maps> {
    maps.read().unwrap_or_else(PoisonError::into_inner)
}

impl Store for MemoryStore {
    fn commit(&mut self, batches: &[Batch]) -> Result<Committed, StoreError> {
        let mut maps = self.write();
        let before = maps.bytes;
        let conflicts = apply_all(batches, &mut *maps)?;
        if let Some(position) = last_position(batches) {
            maps.put(Table::Meta, META_APPLIED, &position.0.to_be_bytes());
        }
        let file_bytes = maps.bytes;
        drop(maps);
        self.applied = last_position(batches).unwrap_or(self.applied);
        let bytes_written = file_bytes.saturating_sub(before);
        Ok(Committed { position: self.applied, conflicts, bytes_written, file_bytes })
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(MemoryReader { maps: Arc::clone(&self.maps) })
    }

    fn tidy(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

impl Maps {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        // Copied, so that a row never pins the larger buffer it may be a slice of.
        let (key, value) = ((table as u8, Bytes::copy_from_slice(key)), Bytes::copy_from_slice(value));
        self.bytes += (key.1.len() + value.len()) as u64;
        let key_len = key.1.len();
        if let Some(old) = self.rows.insert(key, value) {
            self.bytes -= (key_len + old.len()) as u64;
        }
    }

    fn trim(&mut self, queue: QueueKey, lane: Priority, below: u64) {
        let range = (Bound::Included(lane_key(queue, lane, 0)), Bound::Excluded(lane_key(queue, lane, below)));
        let gone: Vec<[u8; 17]> = self
            .blocks
            .range(range)
            .take_while(|(key, (count, _))| sequence(key).saturating_add(u64::from(*count)) <= below)
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.remove_block(&key, queue.mount);
        }
    }

    fn remove_block(&mut self, key: &[u8; 17], mount: MountId) {
        let Some((_, block)) = self.blocks.remove(key) else { return };
        self.bytes -= (key.len() + block.len()) as u64;
        super::bodies::each(&block, |body| {
            if let Some((refs, payload)) = self.bodies.get_mut(&(mount, body)) {
                *refs = refs.saturating_sub(1);
                if *refs == 0 {
                    self.bytes -= payload.len() as u64;
                    self.bodies.remove(&(mount, body));
                }
            }
        });
    }
}

impl Target for Maps {
    fn revision(&mut self, table: Table, key: &[u8]) -> Result<Revision, StoreError> {
        Ok(Revision::of(self.rows.get(&(table as u8, Bytes::copy_from_slice(key))).map(|v| &v[..])))
    }

    fn apply(&mut self, op: &Op) -> Result<(), StoreError> {
        match op {
            Op::Append { queue, lane, first, count, block } => {
                self.bytes += 17 + block.len() as u64;
                self.blocks.insert(lane_key(*queue, *lane, *first), (*count, Bytes::copy_from_slice(block)));
            }
            Op::Body { mount, body, refs, bytes } => {
                self.bytes += bytes.len() as u64;
                self.bodies.insert((*mount, *body), (*refs, Bytes::copy_from_slice(bytes)));
            }
            Op::Trim { queue, lane, below } => self.trim(*queue, *lane, *below),
            Op::Ack { queue, consumer, progress } => {
                self.put(Table::Consumer, &super::schema::named_key(*queue, consumer), progress);
            }
            Op::Put { table, key, value } | Op::CompareAndPut { table, key, value, .. } => {
                self.put(*table, key, value);
            }
            Op::Delete { table, key } => {
                if let Some(old) = self.rows.remove(&(*table as u8, key.clone())) {
                    self.bytes -= (key.len() + old.len()) as u64;
                }
                if let Some((mount, queue)) = super::schema::split_queue_key(*table, key) {
                    let queue = QueueKey { mount, queue };
                    let prefix = queue_key(queue);
                    let doomed: Vec<[u8; 17]> = self
                        .blocks
                        .range((Bound::Included(lane_key(queue, Priority::default(), 0)), Bound::Unbounded))
                        .map(|(key, _)| *key)
                        .take_while(|key| key.starts_with(&prefix))
                        .collect();
                    for key in doomed {
                        self.remove_block(&key, mount);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The sequence in a block's key.
fn sequence(key: &[u8; 17]) -> u64 {
    key.last_chunk::<8>().map_or(0, |b| u64::from_be_bytes(*b))
}

struct MemoryReader {
    maps: Arc<RwLock<Maps>>,
}

impl Reader for MemoryReader {
    fn page(&self, queue: QueueKey, lane: Priority, from: u64, bytes_max: usize) -> Result<Vec<Block>, StoreError> {
        let maps = read(&self.maps);
        let low = lane_key(queue, lane, 0);
        let high = lane_key(queue, lane, u64::MAX);
        let at = lane_key(queue, lane, from);
        let holder = maps.blocks.range(low..=at).next_back();
        let holder = holder.filter(|(key, (count, _))| sequence(key) + u64::from(*count) > from);
        let start = holder.map_or(at, |(key, _)| *key);
        let mut found = Vec::new();
        let mut bytes = 0;
        for (key, (count, block)) in maps.blocks.range(start..=high) {
            if bytes >= bytes_max && !found.is_empty() {
                break;
            }
            let block = restore(block, |body| Ok(maps.bodies.get(&(queue.mount, body)).map(|(_, b)| b.clone())))?;
            bytes += block.len();
            found.push(Block { first: sequence(key), count: *count, bytes: block });
        }
        Ok(found)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let maps = read(&self.maps);
        let start = (table as u8, Bytes::copy_from_slice(prefix.max(from)));
        for ((found, key), value) in maps.rows.range(start..) {
            if *found != table as u8 || !key.starts_with(prefix) || !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(read(&self.maps).rows.get(&(table as u8, Bytes::copy_from_slice(key))).cloned())
    }
}
