//! Reads as values: the broker asks with a [`ReadRequest`], an edge performs it against a [`Reader`] on another thread.

use super::block::BlockReader;
use super::ops::{QueueKey, Table};
use super::{Block, Reader, StoreError};
use crate::model::{Priority, Wall};
use bytes::Bytes;

/// A read to perform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadRequest {
    /// Consecutive messages of a lane.
    Page {
        /// The queue.
        queue: QueueKey,
        /// The lane.
        lane: Priority,
        /// First sequence wanted.
        from: u64,
        /// Stop after about this many bytes.
        bytes_max: usize,
    },
    /// Rows of a table.
    Rows {
        /// The table.
        table: Table,
        /// What their keys begin with.
        prefix: Bytes,
        /// Key to begin at.
        from: Bytes,
        /// Most rows.
        rows_max: usize,
        /// Stop after about this many bytes.
        bytes_max: usize,
    },
    /// A channel's history, newest first, along its links.
    History {
        /// The queue.
        queue: QueueKey,
        /// Lane and sequence of the newest message wanted.
        newest: (Priority, u64),
        /// Stop before this offset is passed: only offsets above it are wanted.
        above_offset: Option<u64>,
        /// Stop at messages stored before this time.
        not_before: Option<Wall>,
        /// Most messages.
        count_max: usize,
        /// Stop after about this many bytes.
        bytes_max: usize,
    },
}

/// What a read gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadResult {
    /// Blocks, for [`ReadRequest::Page`].
    Blocks(Vec<Block>),
    /// Keys and values, for [`ReadRequest::Rows`].
    Rows(Vec<(Bytes, Bytes)>),
    /// For [`ReadRequest::History`].
    History {
        /// Messages, oldest first.
        found: Vec<Past>,
        /// Lane and sequence of the message before them, where a limit left it out or it could not be found.
        left_out: Option<(Priority, u64)>,
    },
}

/// A message of a channel's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Lane.
    pub lane: Priority,
    /// Sequence.
    pub seq: u64,
    /// Offset in the channel.
    pub offset: u64,
    /// When it was stored.
    pub stored: Wall,
    /// The record.
    pub record: Bytes,
}

/// Performs a read. Blocks the thread for the time of a few page reads.
///
/// # Errors
/// What the reader says.
pub fn perform(reader: &dyn Reader, request: &ReadRequest) -> Result<ReadResult, StoreError> {
    match request {
        ReadRequest::Page { queue, lane, from, bytes_max } => {
            reader.page(*queue, *lane, *from, *bytes_max).map(ReadResult::Blocks)
        }
        ReadRequest::Rows { table, prefix, from, rows_max, bytes_max } => {
            let mut rows = Vec::new();
            let mut bytes = 0;
            reader.scan(*table, prefix, from, &mut |key, value| {
                bytes += key.len() + value.len();
                rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                rows.len() < *rows_max && bytes < *bytes_max
            })?;
            Ok(ReadResult::Rows(rows))
        }
        ReadRequest::History { queue, newest, above_offset, not_before, count_max, bytes_max } => {
            let floor = above_offset.map_or(0, |o| o.saturating_add(1));
            history(reader, *queue, *newest, floor, *not_before, *count_max, *bytes_max)
        }
    }
}

fn history(
    reader: &dyn Reader,
    queue: QueueKey,
    newest: (Priority, u64),
    offset_floor: u64,
    not_before: Option<Wall>,
    count_max: usize,
    bytes_max: usize,
) -> Result<ReadResult, StoreError> {
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut at = Some(newest);
    let mut block: Option<(Priority, Block)> = None;
    let mut left_out = None;
    while let Some((lane, seq)) = at {
        let holds = |b: &(Priority, Block)| b.0 == lane && (b.1.first..b.1.first + u64::from(b.1.count)).contains(&seq);
        if !block.as_ref().is_some_and(holds) {
            block = reader.page(queue, lane, seq, 1)?.into_iter().next().map(|b| (lane, b)).filter(holds);
        }
        // A link into what was trimmed, or is damaged, ends the history.
        let Some((past, previous)) = block.as_ref().and_then(|(_, current)| entry_at(current, lane, seq)) else {
            left_out = Some((lane, seq));
            break;
        };
        if past.offset < offset_floor || not_before.is_some_and(|t| past.stored < t) {
            break;
        }
        if found.len() >= count_max || (bytes >= bytes_max && !found.is_empty()) {
            left_out = Some((lane, seq));
            break;
        }
        bytes += past.record.len();
        found.push(past);
        at = previous;
    }
    found.reverse();
    Ok(ReadResult::History { found, left_out })
}

type Link = Option<(Priority, u64)>;

fn entry_at(block: &Block, lane: Priority, seq: u64) -> Option<(Past, Link)> {
    let mut entries = BlockReader::new(&block.bytes)?;
    let mut at = block.first;
    while let Some((stored, entry)) = entries.next_entry() {
        if at == seq {
            let link = entry.history?;
            let previous = if link.previous_seq == 0 { None } else { Priority::new(link.previous_lane) };
            let record = block.bytes.slice_ref(entry.data);
            let past = Past { lane, seq, offset: link.offset, stored, record };
            return Some((past, previous.map(|p| (p, link.previous_seq))));
        }
        at += 1;
    }
    None
}
