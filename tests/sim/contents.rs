//! Which messages a store holds, and which a batch brings there.

use crate::tap::uid_of;
use std::collections::BTreeSet;
use tidegate::model::{MountId, Priority, QueueId, Record};
use tidegate::store::block::BlockReader;
use tidegate::store::{Batch, Op, QueueKey, Reader, StoreError, Table};

/// The messages a store holds, whatever the queue.
pub fn stored(reader: &dyn Reader) -> Result<BTreeSet<u32>, StoreError> {
    let mut found = BTreeSet::new();
    let mut queues = Vec::new();
    reader.scan(Table::Queue, &[], &[], &mut |key, _| {
        let number = |at: usize| u32::from_be_bytes(key[at..at + 4].try_into().expect("four bytes"));
        queues.push(QueueKey { mount: MountId(number(0)), queue: QueueId(number(4)) });
        true
    })?;
    let mut record = |bytes: &[u8]| found.extend(Record::decode(bytes).ok().and_then(|r| uid_of(r.payload)));
    for queue in queues {
        for lane in (0..=9).filter_map(Priority::new) {
            let mut from = 1;
            loop {
                let blocks = reader.page(queue, lane, from, 1 << 20)?;
                let Some(last) = blocks.last() else { break };
                from = last.first + u64::from(last.count);
                for block in &blocks {
                    let mut entries = BlockReader::new(&block.bytes).expect("a block is well-formed");
                    while let Some((_, entry)) = entries.next_entry() {
                        record(entry.data);
                    }
                }
            }
        }
    }
    reader.scan(Table::Delayed, &[], &[], &mut |_, value| {
        record(value);
        true
    })?;
    Ok(found)
}

/// The messages a batch makes durable.
pub fn uids(batch: &Batch) -> Vec<u32> {
    let mut found = Vec::new();
    let mut record = |bytes: &[u8]| found.extend(Record::decode(bytes).ok().and_then(|r| uid_of(r.payload)));
    for op in &batch.ops {
        match op {
            Op::Append { block, .. } => {
                let mut reader = BlockReader::new(block).expect("a block is well-formed");
                while let Some((_, entry)) = reader.next_entry() {
                    if entry.body.is_none() {
                        record(entry.data);
                    }
                }
            }
            Op::Put { table: Table::Delayed, value, .. } => record(value),
            Op::Put { table: Table::Retained, value, .. } => record(&value[8..]),
            _ => {}
        }
    }
    for op in &batch.ops {
        if let Op::Body { bytes, .. } = op {
            found.extend(uid_of(bytes));
        }
    }
    found
}
