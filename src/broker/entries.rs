//! What the entries of a block say, to whoever delivers them.

use crate::model::{Channel, Filter, Priority, Record, Wall};
use crate::queue::Cursor;
use crate::store::Block;
use crate::store::block::{BLOCK_HEADER_BYTES, BlockReader, Entry};
use crate::wire::{DeliverItem, item_flag};

/// Whether a block has this message.
pub(super) fn holds(block: &Block, seq: u64) -> bool {
    (block.first..block.first + u64::from(block.count)).contains(&seq)
}

/// The cursor at a sequence of a block.
pub(super) fn stand(block: &Block, seq: u64) -> Option<Cursor> {
    let mut reader = BlockReader::new(&block.bytes)?;
    for _ in block.first..seq {
        reader.next_entry()?;
    }
    let offset = block.bytes.len() - reader.rest_len();
    debug_assert!(offset >= BLOCK_HEADER_BYTES);
    Some(Cursor { bytes: block.bytes.clone(), base: reader.base(), offset, left: reader.remaining(), seq })
}

/// A message of a block and when it was taken.
pub(super) fn entry_at(block: &Block, seq: u64) -> Option<(Wall, Entry<'_>)> {
    let mut reader = BlockReader::new(&block.bytes)?;
    for _ in block.first..seq {
        reader.next_entry()?;
    }
    reader.next_entry()
}

/// Whether one of the filters matches; none match all.
pub(super) fn wanted(filters: &[String], entry: &Entry<'_>) -> bool {
    if filters.is_empty() {
        return true;
    }
    let Ok(record) = Record::decode(entry.data) else { return true };
    let matches = |f: &String| Filter::parse(f).is_ok_and(|f| f.matches(record.channel));
    filters.iter().any(matches)
}

/// A message as it is delivered.
pub(super) fn delivery<'a>(
    flags: u8,
    lane: Priority,
    seq: u64,
    attempt: u32,
    stored: Wall,
    entry: &Entry<'a>,
) -> DeliverItem<'a> {
    let has_offset = if entry.history.is_some() { item_flag::HAS_OFFSET } else { 0 };
    DeliverItem {
        flags: flags | has_offset,
        lane: lane.get(),
        seq,
        offset: entry.history.map_or(0, |h| h.offset),
        attempt,
        stored_ms: stored.0,
        record: entry.data,
    }
}

/// The channel of a stored record.
pub(super) fn channel_of(data: &[u8]) -> Option<Channel<'_>> {
    Record::decode(data).ok().map(|r| r.channel)
}
