//! Shared bodies in a block: finding the references, and putting the payloads back in place.

use super::StoreError;
use super::block::{BLOCK_HEADER_BYTES, BlockReader, BlockWriter};
use bytes::Bytes;

/// Calls `found` with the number of each shared body the block refers to; damaged entries end it.
pub(super) fn each(block: &[u8], mut found: impl FnMut(u64)) {
    let Some(mut entries) = BlockReader::new(block) else { return };
    while let Some((_, entry)) = entries.next_entry() {
        if let Some(body) = entry.body {
            found(body);
        }
    }
}

/// The block with every shared body in place: each entry's `data` is the whole record and its `body` is `None`.
///
/// # Errors
/// [`StoreError::Damaged`] when an entry cannot be read or its body is missing; what `fetch` says.
pub(super) fn restore(
    block: &Bytes,
    mut fetch: impl FnMut(u64) -> Result<Option<Bytes>, StoreError>,
) -> Result<Bytes, StoreError> {
    let mut shared = false;
    each(block, |_| shared = true);
    if !shared {
        return Ok(block.clone());
    }
    let damaged = |what: &str| StoreError::Damaged(what.to_owned());
    let mut entries = BlockReader::new(block).ok_or_else(|| damaged("a block of messages is cut short"))?;
    debug_assert!(block.len() >= BLOCK_HEADER_BYTES);
    let mut whole = BlockWriter::new(entries.base());
    let mut record = Vec::new();
    while let Some((stored, entry)) = entries.next_entry() {
        match entry.body {
            None => whole.push(stored, entry.history, None, entry.data),
            Some(body) => {
                let payload = fetch(body)?.ok_or_else(|| damaged("a payload shared by several queues is missing"))?;
                record.clear();
                record.extend_from_slice(entry.data);
                put_varint(&mut record, payload.len() as u64);
                record.extend_from_slice(&payload);
                whole.push(stored, entry.history, None, &record);
            }
        }
    }
    if entries.remaining() != 0 {
        return Err(damaged("a message in a block cannot be read"));
    }
    Ok(whole.finish())
}

/// Appends a number as postcard writes it: seven bits a byte, lowest first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
