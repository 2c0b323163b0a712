//! What a store that was made from a damaged one has, should have, and has to no purpose.

use super::super::StoreError;
use super::super::ops::{Op, QueueKey, Table};
use super::super::redb::{DOOMED, RedbStore};
use super::super::schema::{self, QueueRow};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What is to be done with it.
#[derive(Debug, Default)]
pub(in super::super) struct Reckoning {
    /// Deletions of what belongs to no queue.
    pub(in super::super) orphans: Vec<Op>,
    /// Whether anything is missing.
    pub(in super::super) lossy: bool,
}

/// Looks the store over. Also returns how many messages the queues have and how many of them they have not.
pub(in super::super) fn reckon(store: &RedbStore) -> Result<(Reckoning, u64, u64), StoreError> {
    let mut lanes = BTreeMap::new();
    let (mut queues, mut doomed) = (BTreeSet::new(), BTreeSet::new());
    let mut orphans = Vec::new();
    let mut lost = BTreeSet::new();
    // The rows of queues come before those that belong to them.
    store.each_row(&mut |key, value| {
        let Some((byte, key)) = key.split_first() else { return };
        match Table::from_byte(*byte) {
            None if *byte == DOOMED => drop(doomed.insert(key.to_vec())),
            Some(Table::Queue) => {
                let Some((mount, queue)) = schema::split_queue_key(Table::Queue, key) else { return };
                queues.insert(key.to_vec());
                for lane in schema::decode::<QueueRow>(value).map(|row| row.lanes).unwrap_or_default() {
                    lanes.insert((QueueKey { mount, queue }, lane.lane), (lane.head, lane.next));
                }
            }
            Some(table @ (Table::Extent | Table::Consumer | Table::Channel | Table::Delayed))
                if key.get(..8).is_none_or(|queue| !queues.contains(queue)) =>
            {
                orphans.push(Op::Delete { table, key: Bytes::copy_from_slice(key) });
            }
            _ => {}
        }
    })?;
    let expected: u64 = lanes.values().map(|(head, next)| next.saturating_sub(*head)).sum();
    let mut messages = 0;
    store.each_block(&mut |key, value| {
        let Some((queue, lane, first)) = schema::split_lane_key(key) else { return };
        let count = value.first_chunk::<4>().map_or(0, |count| u32::from_le_bytes(*count));
        if let Some((head, next)) = lanes.get(&(queue, lane.get())) {
            let end = first.saturating_add(u64::from(count)).min(*next);
            messages += end.saturating_sub(first.max(*head));
        } else if !queues.contains(&key[..8]) && !doomed.contains(&key[..8]) {
            lost.insert(schema::queue_key(queue));
        }
    })?;
    // With a queue's row its blocks go.
    let delete = |key: &[u8; 8]| Op::Delete { table: Table::Queue, key: Bytes::copy_from_slice(key) };
    orphans.extend(lost.iter().map(delete));
    Ok((Reckoning { orphans, lossy: false }, messages, expected.saturating_sub(messages)))
}
