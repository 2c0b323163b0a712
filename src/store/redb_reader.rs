//! The reading half of the durable store.

use super::block::unseal;
use super::bodies;
use super::ops::{QueueKey, Table};
use super::redb::{BLOCKS, BODIES, Inner, ROWS, body_key, damaged, from_redb, row_key};
use super::schema::lane_key;
use super::{Block, Reader, StoreError};
use crate::model::Priority;
use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// Reads a store as long as it is open.
pub(super) struct RedbReader {
    inner: Weak<Inner>,
}

impl RedbReader {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::downgrade(inner) }
    }

    fn inner(&self) -> Result<Arc<Inner>, StoreError> {
        self.inner.upgrade().ok_or_else(|| StoreError::Io("the store was closed".to_owned()))
    }
}

impl Reader for RedbReader {
    fn page(&self, queue: QueueKey, lane: Priority, from: u64, bytes_max: usize) -> Result<Vec<Block>, StoreError> {
        let inner = self.inner()?;
        inner.snapshot()?.page(queue, lane, from, bytes_max, |_| None)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.inner()?.snapshot()?.scan(table, prefix, from, visit)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner()?.snapshot()?.get(table, key)
    }
}

/// The database at one moment.
pub(super) struct Snapshot {
    txn: ReadTransaction,
    /// Whether there are shared bodies.
    pub(super) bodies: bool,
}

impl Inner {
    /// The database as the last commit left it; reads nothing yet.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        // The first is counted before it can be seen, and the last is not seen any more when the count says so: looked at
        // on both sides, no count misses one.
        let before = self.bodies.load(Ordering::Acquire) > 0;
        let txn = self.db.begin_read().map_err(from_redb)?;
        Ok(Snapshot { txn, bodies: before || self.bodies.load(Ordering::Acquire) > 0 })
    }
}

impl Snapshot {
    /// As [`Reader::page`]; `body` is asked first for a shared body.
    pub(super) fn page(
        &self,
        queue: QueueKey,
        lane: Priority,
        from: u64,
        bytes_max: usize,
        body: impl Fn(u64) -> Option<Bytes>,
    ) -> Result<Vec<Block>, StoreError> {
        let blocks = self.txn.open_table(BLOCKS).map_err(from_redb)?;
        let at = lane_key(queue, lane, from);
        let low = lane_key(queue, lane, 0);
        let mut start = at;
        if let Some(row) = blocks.range(&low[..]..=&at[..]).map_err(from_redb)?.next_back() {
            let (key, value) = row.map_err(from_redb)?;
            let (first, count) = read_block_head(key.value(), value.value())?;
            if first.saturating_add(u64::from(count)) > from {
                start = lane_key(queue, lane, first);
            }
        }
        let mut found = Vec::new();
        let mut bytes = 0;
        let high = lane_key(queue, lane, u64::MAX);
        for row in blocks.range(&start[..]..=&high[..]).map_err(from_redb)? {
            let (key, value) = row.map_err(from_redb)?;
            let (first, count) = read_block_head(key.value(), value.value())?;
            let Some(block) = unseal(value.value()) else {
                // The next block shows how many are missing; whoever asked counts them.
                let name = format!("queue {} of mount {}, lane {}", queue.queue.0, queue.mount.0, lane.get());
                log::error!("{name}: the messages from {first} on are damaged on disk");
                continue;
            };
            let mut block = Bytes::copy_from_slice(block);
            if self.bodies {
                block = self.restore(queue, &block, &body)?;
            }
            bytes += block.len();
            found.push(Block { first, count, bytes: block });
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(found)
    }

    /// Puts shared bodies back in place; `body` is asked first.
    pub(super) fn restore(
        &self,
        queue: QueueKey,
        block: &Bytes,
        body: &impl Fn(u64) -> Option<Bytes>,
    ) -> Result<Bytes, StoreError> {
        bodies::restore(block, |number| {
            if let Some(found) = body(number) {
                return Ok(Some(found));
            }
            let table = self.txn.open_table(BODIES).map_err(from_redb)?;
            let value = table.get(&body_key(queue.mount, number)[..]).map_err(from_redb)?;
            Ok(value.map(|v| Bytes::copy_from_slice(v.value())))
        })
    }

    /// As [`Reader::scan`].
    pub(super) fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let rows = self.txn.open_table(ROWS).map_err(from_redb)?;
        let prefix = row_key(table as u8, prefix);
        let start = row_key(table as u8, from).max(prefix.clone());
        for row in rows.range(&start[..]..).map_err(from_redb)? {
            let (key, value) = row.map_err(from_redb)?;
            if !key.value().starts_with(&prefix) || !visit(&key.value()[1..], value.value()) {
                break;
            }
        }
        Ok(())
    }

    /// As [`Reader::get`].
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let rows = self.txn.open_table(ROWS).map_err(from_redb)?;
        let value = rows.get(&row_key(table as u8, key)[..]).map_err(from_redb)?;
        Ok(value.map(|v| Bytes::copy_from_slice(v.value())))
    }
}

/// First sequence and number of messages of a block.
fn read_block_head(key: &[u8], block: &[u8]) -> Result<(u64, u32), StoreError> {
    let first = key.last_chunk::<8>().ok_or_else(|| damaged("a block's key"))?;
    let count = block.first_chunk::<4>().ok_or_else(|| damaged("a block of messages is cut short"))?;
    Ok((u64::from_be_bytes(*first), u32::from_le_bytes(*count)))
}
