//! What lies in the payloads of batch, deliver and consume frames, and how a large message is cut into chunks.
//!
//! A payload is checked whole when it is parsed, so that iterating over it cannot fail and a bad one is refused before
//! any of it took effect.

use super::error::WireError;
use super::head::DeliverItem;
use super::header::{FLAG_CONT, FLAG_MORE, FrameType};
use crate::model::limits::{BATCH_MESSAGES_MAX, CHUNK_BYTES_MAX};
use serde::Deserialize;

/// Most bytes the fields of a [`DeliverItem`] add to its record, the record's length included.
pub const DELIVER_ITEM_OVERHEAD_BYTES_MAX: usize = 1 + 1 + 10 + 10 + 5 + 10 + 5;
/// Most bytes a batch adds to each record: its length.
pub const BATCH_ITEM_OVERHEAD_BYTES_MAX: usize = 5;

/// The records of a batch payload, in order; each is still to be read by [`crate::model::Record::decode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchItems<'a>(Items<'a>);

impl<'a> BatchItems<'a> {
    /// Checks the payload of a batch frame whose head announces `count` records.
    ///
    /// # Errors
    /// [`WireError::Payload`] when `count` is 0 or above [`BATCH_MESSAGES_MAX`], a length lies, fewer records are there
    /// or bytes follow them.
    pub fn parse(payload: &'a [u8], count: u32) -> Result<Self, WireError> {
        if count == 0 || count > BATCH_MESSAGES_MAX {
            return Err(WireError::Payload(FrameType::Batch as u8));
        }
        Items::parse::<&[u8]>(payload, count, FrameType::Batch).map(Self)
    }
}

impl<'a> Iterator for BatchItems<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.0.take()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size()
    }
}

impl ExactSizeIterator for BatchItems<'_> {}

/// The items of a deliver payload, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverItems<'a>(Items<'a>);

impl<'a> DeliverItems<'a> {
    /// Checks a whole deliver payload (all its chunks joined) against the head's `count` and `total`.
    ///
    /// # Errors
    /// [`WireError::Payload`] when `total` is not the payload's length, `count` is 0, an item is malformed, fewer items
    /// are there or bytes follow them.
    pub fn parse(payload: &'a [u8], count: u32, total: u32) -> Result<Self, WireError> {
        if count == 0 || usize::try_from(total) != Ok(payload.len()) {
            return Err(WireError::Payload(FrameType::Deliver as u8));
        }
        Items::parse::<DeliverItem<'a>>(payload, count, FrameType::Deliver).map(Self)
    }
}

impl<'a> Iterator for DeliverItems<'a> {
    type Item = DeliverItem<'a>;

    fn next(&mut self) -> Option<DeliverItem<'a>> {
        self.0.take()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size()
    }
}

impl ExactSizeIterator for DeliverItems<'_> {}

/// The filters of a consume payload, in order; each is still to be read by [`crate::model::Filter::parse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterItems<'a>(Items<'a>);

impl<'a> FilterItems<'a> {
    /// Checks the payload of a consume frame whose head announces `count` filters; none is legal. That there are at most
    /// [`crate::model::limits::CONSUMER_FILTERS_MAX`] is for the caller to say, with a code of its own.
    ///
    /// # Errors
    /// [`WireError::Payload`] when a length lies, a text is not UTF-8, fewer filters are there or bytes follow them.
    pub fn parse(payload: &'a [u8], count: u32) -> Result<Self, WireError> {
        Items::parse::<&str>(payload, count, FrameType::Consume).map(Self)
    }
}

impl<'a> Iterator for FilterItems<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0.take()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size()
    }
}

impl ExactSizeIterator for FilterItems<'_> {}

/// Writes one record of a batch payload at the start of `out`; returns its length there.
///
/// # Errors
/// [`WireError::BufferTooSmall`].
pub fn push_record(out: &mut [u8], record: &[u8]) -> Result<usize, WireError> {
    push(out, &Raw(record))
}

/// Writes one item of a deliver payload at the start of `out`; returns its length there.
///
/// # Errors
/// [`WireError::BufferTooSmall`].
pub fn push_item(out: &mut [u8], item: &DeliverItem<'_>) -> Result<usize, WireError> {
    push(out, item)
}

/// Writes one filter of a consume payload at the start of `out`; returns its length there.
///
/// # Errors
/// [`WireError::BufferTooSmall`].
pub fn push_filter(out: &mut [u8], filter: &str) -> Result<usize, WireError> {
    push(out, &filter)
}

/// Appends one record of a batch payload.
#[cfg(feature = "daemon")]
pub fn append_record(out: &mut Vec<u8>, record: &[u8]) {
    super::codec::append_value(out, &Raw(record));
}

/// Appends one item of a deliver payload.
#[cfg(feature = "daemon")]
pub fn append_item(out: &mut Vec<u8>, item: &DeliverItem<'_>) {
    super::codec::append_value(out, item);
}

/// Appends one filter of a consume payload.
#[cfg(feature = "daemon")]
pub fn append_filter(out: &mut Vec<u8>, filter: &str) {
    super::codec::append_value(out, &filter);
}

/// Cuts a message into chunks of at most [`CHUNK_BYTES_MAX`]: the flags of each frame and its part of the payload. There
/// is always at least one, and only the first carries the head.
pub fn chunks(message: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = Some(message);
    let mut first = true;
    core::iter::from_fn(move || {
        let bytes = rest?;
        let mut flags = if first { 0 } else { FLAG_CONT };
        first = false;
        match bytes.split_at_checked(CHUNK_BYTES_MAX) {
            Some((chunk, after)) if !after.is_empty() => {
                flags |= FLAG_MORE;
                rest = Some(after);
                Some((flags, chunk))
            }
            _ => {
                rest = None;
                Some((flags, bytes))
            }
        }
    })
}

/// Bytes as one block: `&[u8]` alone is serialised a byte at a time.
struct Raw<'a>(&'a [u8]);

impl serde::Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

fn push<T: serde::Serialize>(out: &mut [u8], value: &T) -> Result<usize, WireError> {
    postcard::to_slice(value, out).map(|written| written.len()).map_err(|_| WireError::BufferTooSmall)
}

/// Values of one postcard type, one after another, known to be well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Items<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Items<'a> {
    fn parse<T: Deserialize<'a>>(payload: &'a [u8], count: u32, kind: FrameType) -> Result<Self, WireError> {
        let malformed = WireError::Payload(kind as u8);
        let mut rest = payload;
        // Every item takes at least one byte, so a count that lies ends this loop at the end of the payload.
        for _ in 0..count {
            (_, rest) = postcard::take_from_bytes::<T>(rest).map_err(|_| malformed)?;
        }
        if rest.is_empty() { Ok(Self { rest: payload, left: count }) } else { Err(malformed) }
    }

    fn take<T: Deserialize<'a>>(&mut self) -> Option<T> {
        self.left = self.left.checked_sub(1)?;
        // Cannot fail: the same bytes were read as the same type by `parse`.
        let (item, rest) = postcard::take_from_bytes(self.rest).ok()?;
        self.rest = rest;
        Some(item)
    }

    fn size(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: WireError = WireError::Payload(FrameType::Batch as u8);

    #[test]
    fn a_batch_reads_back_and_its_count_must_be_right() {
        let mut bytes = [0; 300];
        let mut used = 0;
        let long = [7; 200];
        for record in [&b"one"[..], b"", &long] {
            used += push_record(&mut bytes[used..], record).expect("fits");
        }
        let items = BatchItems::parse(&bytes[..used], 3).expect("well-formed");
        assert_eq!(items.len(), 3);
        assert!(items.eq([&b"one"[..], b"", &long]));
        for (payload, count) in
            [(&bytes[..used], 2), (&bytes[..used], 4), (&bytes[..used - 1], 3), (&bytes[..used], u32::MAX), (&[], 0)]
        {
            assert_eq!(BatchItems::parse(payload, count), Err(BAD), "count {count}");
        }
        assert_eq!(push_record(&mut [0; 3], b"one"), Err(WireError::BufferTooSmall));
    }

    #[test]
    fn deliver_items_read_back_and_their_total_must_be_right() {
        let item = DeliverItem { flags: 1, lane: 9, seq: 1, offset: 2, attempt: 3, stored_ms: 4, record: b"record" };
        let widest = DeliverItem {
            flags: 255,
            lane: 255,
            seq: u64::MAX,
            offset: u64::MAX,
            attempt: u32::MAX,
            stored_ms: u64::MAX,
            record: b"",
        };
        let mut bytes = [0; 100];
        let mut used = push_item(&mut bytes, &item).expect("fits");
        let width = push_item(&mut bytes[used..], &widest).expect("fits");
        // An empty record has a length of one byte, the longest one of five.
        assert_eq!(width + 4, DELIVER_ITEM_OVERHEAD_BYTES_MAX);
        used += width;
        let total = used as u32;
        assert!(DeliverItems::parse(&bytes[..used], 2, total).expect("well-formed").eq([item, widest]));
        for (count, total) in [(1, total), (3, total), (2, total + 1), (0, 0)] {
            assert_eq!(
                DeliverItems::parse(&bytes[..used], count, total),
                Err(WireError::Payload(FrameType::Deliver as u8))
            );
        }
    }

    #[test]
    fn filters_read_back_and_must_be_text() {
        let mut bytes = [0; 20];
        let mut used = push_filter(&mut bytes, "a/+").expect("fits");
        used += push_filter(&mut bytes[used..], "#").expect("fits");
        assert!(FilterItems::parse(&bytes[..used], 2).expect("well-formed").eq(["a/+", "#"]));
        assert_eq!(FilterItems::parse(&[], 0).expect("none is legal").len(), 0);
        let bad = Err(WireError::Payload(FrameType::Consume as u8));
        assert_eq!(FilterItems::parse(&bytes[..used], 1), bad);
        assert_eq!(FilterItems::parse(&[1, 0xFF], 1), bad);
    }

    #[test]
    fn chunks_say_more_and_continued_and_lose_nothing() {
        let message = [1; 2 * CHUNK_BYTES_MAX + 1];
        for (len, flags) in [
            (0, &[0][..]),
            (CHUNK_BYTES_MAX, &[0]),
            (CHUNK_BYTES_MAX + 1, &[FLAG_MORE, FLAG_CONT]),
            (2 * CHUNK_BYTES_MAX, &[FLAG_MORE, FLAG_CONT]),
            (message.len(), &[FLAG_MORE, FLAG_MORE | FLAG_CONT, FLAG_CONT]),
        ] {
            assert!(chunks(&message[..len]).map(|(f, _)| f).eq(flags.iter().copied()), "{len} bytes");
            assert_eq!(chunks(&message[..len]).map(|(_, part)| part.len()).sum::<usize>(), len);
        }
    }
}
