//! The reading half over both: what is pending in memory, and the database below it.
//!
//! A call holds the lock only while it copies references out of memory and has redb pin its last commit; pages are read
//! after that. The fold commits to the database before it forgets what was pending, so a call sees every batch at least
//! in one of the two, and where it sees it in both they are merged by key: rows are the same, and of blocks the
//! database's are taken, since they cover all that was pending of theirs.

use super::super::ops::{QueueKey, Table};
use super::super::redb::Inner;
use super::super::redb_reader::Snapshot;
use super::super::{Block, Reader, StoreError};
use super::pending::Pending;
use crate::model::Priority;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock, Weak};

/// Reads a store as long as it is open.
pub(super) struct JournaledReader {
    pub(super) pending: Arc<RwLock<Pending>>,
    pub(super) database: Weak<Inner>,
}

impl JournaledReader {
    /// What is pending as `collect` sees it, and the database at the same moment or later.
    fn both<T>(&self, collect: impl FnOnce(&Pending) -> T) -> Result<(T, Snapshot), StoreError> {
        let database = self.database.upgrade().ok_or_else(|| StoreError::Io("the store was closed".to_owned()))?;
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        Ok((collect(&pending), database.snapshot()?))
    }
}

/// What a page needs of what is pending.
struct Upper {
    blocks: std::vec::IntoIter<(u64, u32, Bytes)>,
    bodies: BTreeMap<u64, Bytes>,
    /// Nothing of the database counts.
    deleted: bool,
}

impl Upper {
    fn collect(pending: &Pending, queue: QueueKey, lane: Priority, from: u64, bytes_max: usize) -> Self {
        let blocks = pending.page(queue, lane, from, bytes_max);
        let mut bodies = BTreeMap::new();
        if pending.has_bodies() {
            for (_, _, block) in &blocks {
                super::super::bodies::each(block, |body| {
                    if let Some(bytes) = pending.body(queue.mount, body) {
                        bodies.insert(body, bytes);
                    }
                });
            }
        }
        Self { blocks: blocks.into_iter(), bodies, deleted: pending.is_deleted(queue) }
    }
}

impl Reader for JournaledReader {
    fn page(&self, queue: QueueKey, lane: Priority, from: u64, bytes_max: usize) -> Result<Vec<Block>, StoreError> {
        self.watched(self.page_of_both(queue, lane, from, bytes_max))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.watched(self.scan_both(table, prefix, from, visit))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.watched(self.get_of_both(table, key))
    }
}

impl JournaledReader {
    /// Remembers that a read failed: redb refuses all that come after it, and the journal would hide that from whoever commits.
    fn watched<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let (Err(StoreError::Io(_)), Some(database)) = (&result, self.database.upgrade()) {
            database.read_failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn page_of_both(
        &self,
        queue: QueueKey,
        lane: Priority,
        from: u64,
        bytes_max: usize,
    ) -> Result<Vec<Block>, StoreError> {
        let (upper, snapshot) = self.both(|pending| Upper::collect(pending, queue, lane, from, bytes_max))?;
        let body = |number: u64| upper.bodies.get(&number).cloned();
        let shared = snapshot.bodies || !upper.bodies.is_empty();
        let mut found = match upper.deleted {
            true => Vec::new(),
            false => snapshot.page(queue, lane, from, bytes_max, body)?,
        };
        let mut bytes: usize = found.iter().map(|b| b.bytes.len()).sum();
        let mut end = found.last().map_or(0, |b| b.first + u64::from(b.count));
        for (first, count, block) in upper.blocks {
            // What begins before the end of the database's part is in it as a whole.
            if first < end {
                continue;
            }
            if bytes >= bytes_max && !found.is_empty() {
                break;
            }
            let block = if shared { snapshot.restore(queue, &block, &body)? } else { block };
            bytes += block.len();
            end = first + u64::from(count);
            found.push(Block { first, count, bytes: block });
        }
        Ok(found)
    }

    fn scan_both(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let (upper, snapshot) = self.both(|pending| pending.rows(table, prefix, from))?;
        let mut upper = upper.into_iter().peekable();
        let mut more = true;
        snapshot.scan(table, prefix, from, &mut |key, value| {
            // Everything pending up to this key; its own value wins.
            while let Some((pending, row)) = upper.next_if(|(pending, _)| pending[..] <= *key) {
                if let Some(row) = row {
                    more = visit(&pending, &row);
                }
                if pending == *key || !more {
                    return more;
                }
            }
            more = visit(key, value);
            more
        })?;
        for (key, row) in upper {
            if !more {
                break;
            }
            if let Some(row) = row {
                more = visit(&key, &row);
            }
        }
        Ok(())
    }

    fn get_of_both(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.both(|pending| pending.row(table, key))? {
            (Some(known), _) => Ok(known),
            (None, snapshot) => snapshot.get(table, key),
        }
    }
}
