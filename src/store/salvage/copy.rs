//! Copies what the walk gives out into a new store, in bounded portions.
//!
//! Blocks come over when their own checksum is right, too. Of a block that refers to payloads that are gone, the messages
//! with theirs come over as blocks of their own. References are counted anew. Numbers that must never be used
//! twice begin behind all that were found.

use super::super::block::{BlockReader, BlockWriter, seal_to, unseal};
use super::super::ops::{QueueKey, Table};
use super::super::redb::{BLOCKS, BODIES, BODY_REFS, ROWS, RedbStore, body_key, damaged, from_redb, row_key};
use super::super::schema::{self, Counters, FORMAT, FORMAT_ALONE, META_APPLIED, META_COUNTERS, META_FORMAT};
use super::super::schema::{META_JOURNAL, META_SALVAGED, lane_key};
use super::super::{StoreError, bodies};
use super::walk::Walk;
use crate::model::Priority;
use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, TableHandle};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Bytes gathered for one transaction; one pair may be larger.
const PORTION_BYTES: usize = 1 << 20;
/// Payloads looked up or deleted at a time.
const BODIES_A_ROUND: usize = 1_024;

type Def = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Flow = ControlFlow<StoreError>;

/// What was copied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    /// Rows.
    pub(super) rows: u64,
    /// Something is missing, or is older than it was.
    pub(super) lossy: bool,
    /// The journal may be replayed on top.
    pub(super) journal: bool,
}

/// Copies all that verifies into an empty store; `None` when that is nothing, or was written by a later release.
pub(super) fn copy(walk: &mut Walk<'_>, store: &RedbStore) -> Result<Option<Copied>, StoreError> {
    let mut copy = Copy::new(store);
    done(walk.table("bodies", &mut |key, value| copy.body(key, value)))?;
    copy.flush()?;
    copy.has_bodies = store.inner().read(|txn| Ok(txn.open_table(BODIES)?.len()?))? > 0;
    done(walk.table("blocks", &mut |key, value| copy.block(key, value)))?;
    done(walk.table("rows", &mut |key, value| copy.row(key, value)))?;
    if copy.copied.rows == 0 || copy.format.is_some_and(|f| !(FORMAT_ALONE..=FORMAT).contains(&f)) {
        return Ok(None);
    }
    copy.copied.lossy |= walk.broken > 0 || !walk.newest;
    copy.finish().map(Some)
}

fn done(flow: Flow) -> Result<(), StoreError> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

fn flow(result: Result<(), StoreError>) -> Flow {
    result.map_or_else(ControlFlow::Break, ControlFlow::Continue)
}

struct Copy<'a> {
    store: &'a RedbStore,
    copied: Copied,
    portion: Vec<(Def, Vec<u8>, Vec<u8>)>,
    portion_bytes: usize,
    /// References found and not yet written.
    refs: BTreeMap<[u8; 12], u32>,
    has_bodies: bool,
    format: Option<u32>,
    applied: Option<u64>,
    /// Of the ids of commits: what was applied at least.
    position: u64,
    journal: Option<Vec<u8>>,
    /// Next numbers as the store had them, and behind those that were found.
    counters: Counters,
}

impl<'a> Copy<'a> {
    fn new(store: &'a RedbStore) -> Self {
        Self {
            store,
            copied: Copied::default(),
            portion: Vec::new(),
            portion_bytes: 0,
            refs: BTreeMap::new(),
            has_bodies: false,
            format: None,
            applied: None,
            position: 0,
            journal: None,
            counters: Counters::default(),
        }
    }

    fn put(&mut self, table: Def, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        self.portion_bytes += key.len() + value.len();
        self.portion.push((table, key, value));
        if self.portion_bytes < PORTION_BYTES && self.refs.len() < BODIES_A_ROUND { Ok(()) } else { self.flush() }
    }

    /// Writes what was gathered in one transaction.
    fn flush(&mut self) -> Result<(), StoreError> {
        let txn = self.store.inner().db.begin_write().map_err(from_redb)?;
        for table in [BLOCKS, ROWS, BODIES] {
            let mut open = txn.open_table(table).map_err(from_redb)?;
            for (_, key, value) in self.portion.iter().filter(|(t, ..)| t.name() == table.name()) {
                open.insert(&key[..], &value[..]).map_err(from_redb)?;
            }
        }
        {
            let mut refs = txn.open_table(BODY_REFS).map_err(from_redb)?;
            for (key, count) in std::mem::take(&mut self.refs) {
                let before = refs.get(&key[..]).map_err(from_redb)?;
                let before = before.and_then(|v| <[u8; 4]>::try_from(v.value()).ok()).map_or(0, u32::from_be_bytes);
                refs.insert(&key[..], &before.saturating_add(count).to_be_bytes()[..]).map_err(from_redb)?;
            }
        }
        txn.commit().map_err(from_redb)?;
        self.portion.clear();
        self.portion_bytes = 0;
        Ok(())
    }

    fn body(&mut self, key: &[u8], value: &[u8]) -> Flow {
        let Some((_, number)) = key.split_first_chunk::<4>().filter(|_| key.len() == 12) else {
            self.copied.lossy = true;
            return ControlFlow::Continue(());
        };
        let number = number.first_chunk().map_or(0, |n| u64::from_be_bytes(*n));
        self.counters.body = self.counters.body.max(number.saturating_add(1));
        flow(self.put(BODIES, key.to_vec(), value.to_vec()))
    }

    fn block(&mut self, key: &[u8], value: &[u8]) -> Flow {
        let (Some((queue, lane, first)), Some(block)) = (schema::split_lane_key(key), unseal(value)) else {
            self.copied.lossy = true;
            return ControlFlow::Continue(());
        };
        self.knows_queue(key);
        let mut shared = BTreeMap::<u64, u32>::new();
        bodies::each(block, |body| *shared.entry(body).or_default() += 1);
        if shared.is_empty() {
            return flow(self.put(BLOCKS, key.to_vec(), value.to_vec()));
        }
        flow(self.shared(queue, lane, first, block, shared))
    }

    /// A block that refers to payloads.
    fn shared(
        &mut self,
        queue: QueueKey,
        lane: Priority,
        first: u64,
        block: &[u8],
        mut shared: BTreeMap<u64, u32>,
    ) -> Result<(), StoreError> {
        let all = shared.len();
        if self.has_bodies {
            self.store.inner().read(|txn| {
                let bodies = txn.open_table(BODIES)?;
                let mut missing = Vec::new();
                for body in shared.keys() {
                    if bodies.get(&body_key(queue.mount, *body)[..])?.is_none() {
                        missing.push(*body);
                    }
                }
                shared.retain(|body, _| !missing.contains(body));
                Ok(())
            })?;
        } else {
            shared.clear();
        }
        let put = |copy: &mut Self, first, block: &[u8]| {
            let mut value = Vec::with_capacity(block.len() + 4);
            seal_to(&mut value, block);
            copy.put(BLOCKS, lane_key(queue, lane, first).to_vec(), value)
        };
        // Before the block itself: what is written together is right together.
        for (body, count) in &shared {
            *self.refs.entry(body_key(queue.mount, *body)).or_default() += count;
        }
        if shared.len() == all {
            return put(self, first, block);
        }
        self.copied.lossy = true;
        for (first, block) in runs(first, block, |body| shared.contains_key(&body)) {
            put(self, first, &block)?;
        }
        Ok(())
    }

    /// Numbers of queues are not used twice.
    fn knows_queue(&mut self, key: &[u8]) {
        if let Some(number) = key.get(4..8).and_then(|n| n.first_chunk()) {
            self.counters.queue = self.counters.queue.max(u32::from_be_bytes(*number).saturating_add(1));
        }
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Flow {
        self.copied.rows += 1;
        let rest = key.get(1..).unwrap_or_default();
        match key.first().and_then(|byte| Table::from_byte(*byte)) {
            Some(Table::Meta) => match rest {
                META_FORMAT => {
                    // One that cannot be read is no format of ours.
                    self.format = Some(value.try_into().map_or(0, u32::from_be_bytes));
                    return ControlFlow::Continue(());
                }
                META_APPLIED => {
                    self.applied = value.try_into().ok().map(u64::from_be_bytes);
                    return ControlFlow::Continue(());
                }
                META_JOURNAL => {
                    self.journal = (value.len() == 17).then(|| value.to_vec());
                    return ControlFlow::Continue(());
                }
                META_SALVAGED => {
                    // What was lost before was not said yet.
                    self.copied.lossy = true;
                    return ControlFlow::Continue(());
                }
                META_COUNTERS => {
                    if let Some(had) = schema::decode::<Counters>(value) {
                        self.counters.queue = self.counters.queue.max(had.queue);
                        self.counters.body = self.counters.body.max(had.body);
                        self.counters.delayed = self.counters.delayed.max(had.delayed);
                    }
                    return ControlFlow::Continue(());
                }
                _ => {}
            },
            Some(Table::Dedupe) => {
                let position = rest.get(4..).and_then(|p| p.try_into().ok()).map_or(0, u64::from_be_bytes);
                self.position = self.position.max(position);
            }
            Some(Table::Delayed) => {
                let number = rest.get(16..).and_then(|n| n.try_into().ok()).map_or(0, u64::from_be_bytes);
                self.counters.delayed = self.counters.delayed.max(number.saturating_add(1));
                self.knows_queue(rest);
            }
            Some(Table::Queue | Table::Extent | Table::Consumer | Table::Channel) => self.knows_queue(rest),
            _ => {}
        }
        flow(self.put(ROWS, key.to_vec(), value.to_vec()))
    }

    fn meta(&mut self, name: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.put(ROWS, row_key(Table::Meta as u8, name), value.to_vec())
    }

    fn finish(mut self) -> Result<Copied, StoreError> {
        let applied = self.applied.unwrap_or(self.position);
        self.meta(META_APPLIED, &applied.to_be_bytes())?;
        self.meta(META_COUNTERS, &schema::encode(&self.counters))?;
        let mut format = FORMAT_ALONE;
        // What a journal holds belongs on top of a certain position, and to a certain database.
        if let (Some(_), Some(journal)) = (self.applied, self.journal.take()) {
            self.meta(META_JOURNAL, &journal)?;
            format = if journal.last() == Some(&0) { FORMAT_ALONE } else { FORMAT };
            self.copied.journal = true;
        }
        self.meta(META_FORMAT, &format.to_be_bytes())?;
        self.flush()?;
        self.drop_bodies()?;
        Ok(self.copied)
    }

    /// Payloads to which nothing refers any more.
    fn drop_bodies(&self) -> Result<(), StoreError> {
        loop {
            let unused = self.store.inner().read(|txn| {
                let (bodies, refs) = (txn.open_table(BODIES)?, txn.open_table(BODY_REFS)?);
                let mut unused = Vec::new();
                if bodies.len()? == refs.len()? {
                    return Ok(unused);
                }
                for row in bodies.range::<&[u8]>(..)? {
                    let (key, _) = row?;
                    if unused.len() < BODIES_A_ROUND && refs.get(key.value())?.is_none() {
                        unused.push(key.value().to_vec());
                    }
                }
                Ok(unused)
            })?;
            if unused.is_empty() {
                return Ok(());
            }
            let txn = self.store.inner().db.begin_write().map_err(from_redb)?;
            {
                let mut bodies = txn.open_table(BODIES).map_err(from_redb)?;
                for key in &unused {
                    bodies.remove(&key[..]).map_err(from_redb)?.ok_or_else(|| damaged("a payload just seen"))?;
                }
            }
            txn.commit().map_err(from_redb)?;
        }
    }
}

/// The runs of a block's messages whose payloads are there, each a block with its first sequence.
fn runs(first: u64, block: &[u8], there: impl Fn(u64) -> bool) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    let Some(mut entries) = BlockReader::new(block) else { return found };
    let base = entries.base();
    let mut run = BlockWriter::new(base);
    let (mut run_first, mut seq) = (first, first);
    while let Some((stored, entry)) = entries.next_entry() {
        if entry.body.is_none_or(&there) {
            run.push(stored, entry.history, entry.body, entry.data);
        } else {
            let ended = std::mem::replace(&mut run, BlockWriter::new(base));
            if ended.count() > 0 {
                found.push((run_first, ended.finish().to_vec()));
            }
            run_first = seq.saturating_add(1);
        }
        seq = seq.saturating_add(1);
    }
    if run.count() > 0 {
        found.push((run_first, run.finish().to_vec()));
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Wall;

    #[test]
    fn of_a_block_those_messages_stay_whose_payloads_are_there() {
        let mut block = BlockWriter::new(Wall(5));
        for (n, body) in [Some(1), None, Some(2), Some(2), None, Some(1)].into_iter().enumerate() {
            block.push(Wall(5 + n as u64), None, body, &[n as u8]);
        }
        let block = block.finish();
        let read = |missing: u64| {
            let read = |(first, block): (u64, Vec<u8>)| {
                let mut entries = BlockReader::new(&block).unwrap();
                let mut seen = Vec::new();
                while let Some((stored, entry)) = entries.next_entry() {
                    seen.push((stored.0, entry.body, entry.data[0]));
                }
                (first, seen)
            };
            runs(70, &block, |body| body != missing).into_iter().map(read).collect::<Vec<_>>()
        };
        assert_eq!(
            read(2),
            [(70, vec![(5, Some(1), 0), (6, None, 1)]), (74, vec![(9, None, 4), (10, Some(1), 5)])],
            "the messages 72 and 73 are gone"
        );
        assert_eq!(read(1), [(71, vec![(6, None, 1), (7, Some(2), 2), (8, Some(2), 3), (9, None, 4)])]);
    }
}
