//! A block: consecutive messages of one lane in one value, so that a commit writes few rows however many messages.
//!
//! Layout: count u32 little-endian, base time u64 little-endian (milliseconds since 1970), then `count` entries, each
//! the postcard struct [`Entry`].

use crate::model::Wall;
use serde::{Deserialize, Serialize};

/// Bytes before the first entry.
pub const BLOCK_HEADER_BYTES: usize = 12;
/// A block is closed before it grows past this, in bytes: just under a 16 KiB page of redb.
pub const BLOCK_BYTES_GOAL: usize = 16 * 1_024 - 128;

/// Bytes after a block as it is stored.
const SEAL_BYTES: usize = 4;

/// Appends a block as it is stored: the CRC-32C (little-endian) of its bytes follows them, because nobody else looks at
/// checksums when a running broker reads.
pub(super) fn seal_to(out: &mut Vec<u8>, block: &[u8]) {
    out.extend_from_slice(block);
    out.extend_from_slice(&crc32c::crc32c(block).to_le_bytes());
}

/// The block of what was stored; `None` when it is not what was written.
pub(super) fn unseal(stored: &[u8]) -> Option<&[u8]> {
    let (block, seal) = stored.split_last_chunk::<SEAL_BYTES>()?;
    (crc32c::crc32c(block) == u32::from_le_bytes(*seal)).then_some(block)
}

/// One message inside a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// Milliseconds after the block's base time at which the broker took it.
    pub stored_delta_ms: u32,
    /// Place in its channel's history.
    pub history: Option<HistoryLink>,
    /// Number of the shared body that holds the payload; `data` then ends before the payload's length.
    pub body: Option<u64>,
    /// The record.
    pub data: &'a [u8],
}

/// Place of a message in its channel's history, and where the one before it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLink {
    /// Offset in the channel.
    pub offset: u64,
    /// Lane of the channel's previous message.
    pub previous_lane: u8,
    /// Sequence of the channel's previous message; 0 when there is none.
    pub previous_seq: u64,
}

/// Builds one block.
#[derive(Debug)]
pub struct BlockWriter {
    bytes: Vec<u8>,
    base: Wall,
    count: u32,
}

impl BlockWriter {
    /// An empty block whose messages were taken at or after `base`.
    #[must_use]
    pub fn new(base: Wall) -> Self {
        let mut bytes = Vec::with_capacity(1_024);
        bytes.extend_from_slice(&0u32.to_le_bytes());
        bytes.extend_from_slice(&base.0.to_le_bytes());
        Self { bytes, base, count: 0 }
    }

    /// Goes on at the end of a finished block, whose entries are not looked at; `None` when it is too short to be one.
    #[must_use]
    pub fn reopen(block: &[u8]) -> Option<Self> {
        let entries = BlockReader::new(block)?;
        Some(Self { bytes: block.to_vec(), base: entries.base(), count: entries.remaining() })
    }

    /// Time of the block.
    #[must_use]
    pub const fn base(&self) -> Wall {
        self.base
    }

    /// The block as it is now.
    #[must_use]
    pub fn snapshot(&self) -> bytes::Bytes {
        let mut bytes = self.bytes.clone();
        bytes[..4].copy_from_slice(&self.count.to_le_bytes());
        bytes.into()
    }

    /// Appends the messages of another block with the same time.
    pub(super) fn join(&mut self, other: &Self) {
        debug_assert_eq!(self.base, other.base, "entries count from the time of their block");
        self.bytes.extend_from_slice(&other.bytes[BLOCK_HEADER_BYTES..]);
        self.count += other.count;
    }

    /// Messages so far.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no message is in it yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a message of this many bytes still fits. The first always does.
    #[must_use]
    pub const fn fits(&self, data_len: usize) -> bool {
        self.count == 0 || self.bytes.len() + data_len + 48 <= BLOCK_BYTES_GOAL
    }

    /// Appends a message; its time is `now`.
    pub fn push(&mut self, now: Wall, history: Option<HistoryLink>, body: Option<u64>, data: &[u8]) {
        let delta = u32::try_from(now.ms_since(self.base)).unwrap_or(u32::MAX);
        // A fixed head fits a small buffer; the data is copied once, straight into the block.
        let mut head = [0u8; 64];
        let used = postcard::to_slice(&(delta, history, body, data.len() as u64), &mut head)
            .expect("four small fields fit 64 bytes")
            .len();
        self.bytes.extend_from_slice(&head[..used]);
        self.bytes.extend_from_slice(data);
        self.count += 1;
    }

    /// The finished block.
    #[must_use]
    pub fn finish(mut self) -> bytes::Bytes {
        self.bytes[..4].copy_from_slice(&self.count.to_le_bytes());
        self.bytes.into()
    }
}

/// Reads a block. An iterator of `(stored time, entry, offset of the end of the entry in the block)`.
#[derive(Clone, Copy, Debug)]
pub struct BlockReader<'a> {
    count: u32,
    base: Wall,
    rest: &'a [u8],
}

impl<'a> BlockReader<'a> {
    /// Opens a block; `None` when it is too short to be one.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<4>()?;
        let (base, rest) = rest.split_first_chunk::<8>()?;
        Some(Self { count: u32::from_le_bytes(*count), base: Wall(u64::from_le_bytes(*base)), rest })
    }

    /// Goes on inside a block: `rest` begins at an entry and `count` entries are left.
    #[must_use]
    pub const fn resume(base: Wall, count: u32, rest: &'a [u8]) -> Self {
        Self { count, base, rest }
    }

    /// Messages not yet read.
    #[must_use]
    pub const fn remaining(&self) -> u32 {
        self.count
    }

    /// The base time.
    #[must_use]
    pub const fn base(&self) -> Wall {
        self.base
    }

    /// The next message and its time; `None` at the end or where the bytes are damaged (`remaining` then is not 0).
    pub fn next_entry(&mut self) -> Option<(Wall, Entry<'a>)> {
        if self.count == 0 {
            return None;
        }
        let (entry, rest) = postcard::take_from_bytes::<Entry<'a>>(self.rest).ok()?;
        self.rest = rest;
        self.count -= 1;
        Some((self.base.plus_ms(u64::from(entry.stored_delta_ms)), entry))
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn rest_len(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_block_with_any_bit_wrong_is_none() {
        let mut stored = Vec::new();
        seal_to(&mut stored, b"a block of messages");
        assert_eq!(unseal(&stored), Some(&b"a block of messages"[..]));
        for bit in 0..stored.len() * 8 {
            stored[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(&stored), None);
            stored[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!((unseal(&stored[1..]), unseal(&stored[..3])), (None, None));
    }

    #[test]
    fn a_block_gives_back_what_was_pushed() {
        let mut w = BlockWriter::new(Wall(1_000));
        let link = HistoryLink { offset: 5, previous_lane: 1, previous_seq: 9 };
        w.push(Wall(1_000), None, None, b"one");
        w.push(Wall(1_007), Some(link), Some(3), b"two");
        let bytes = w.finish();
        let mut r = BlockReader::new(&bytes).expect("long enough");
        assert_eq!(r.remaining(), 2);
        let (at, e) = r.next_entry().expect("first");
        assert_eq!((at, e.data, e.history, e.body), (Wall(1_000), &b"one"[..], None, None));
        let (at, e) = r.next_entry().expect("second");
        assert_eq!((at, e.data, e.history, e.body), (Wall(1_007), &b"two"[..], Some(link), Some(3)));
        assert_eq!((r.next_entry(), r.rest_len()), (None, 0));
    }
}
