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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Channel, Record, Wall};
    use crate::store::block::HistoryLink;

    /// A block of three messages, the second and third with a shared body, and the records as they were published.
    fn shared(payload: &[u8]) -> (Bytes, Vec<Vec<u8>>) {
        let mut records = Vec::new();
        let mut block = BlockWriter::new(Wall(5_000));
        for (n, body) in [(0, None), (1, Some(8)), (2, Some(8))] {
            let channel = ["a/b", "c", "d/e/f"][n];
            let payload = if body.is_some() { payload } else { b"own" };
            let mut record = Vec::new();
            Record::new(Channel::parse(channel).unwrap(), payload).encode_to(&mut record);
            let mut length = Vec::new();
            put_varint(&mut length, payload.len() as u64);
            let kept = if body.is_some() { record.len() - payload.len() - length.len() } else { record.len() };
            let link = HistoryLink { offset: n as u64, previous_lane: 0, previous_seq: 0 };
            block.push(Wall(5_000 + n as u64), Some(link), body, &record[..kept]);
            records.push(record);
        }
        (block.finish(), records)
    }

    #[test]
    fn a_restored_block_holds_the_records_as_they_were_published() {
        for len in [0, 1, 127, 128, 3_000, 100_000] {
            let payload = vec![7; len];
            let (block, records) = shared(&payload);
            let mut found = Vec::new();
            each(&block, |body| found.push(body));
            assert_eq!(found, [8, 8]);
            let whole = restore(&block, |body| Ok((body == 8).then(|| payload.clone().into()))).unwrap();
            let mut entries = BlockReader::new(&whole).unwrap();
            for (n, record) in records.iter().enumerate() {
                let (stored, entry) = entries.next_entry().unwrap();
                assert_eq!((stored, entry.body, entry.data), (Wall(5_000 + n as u64), None, &record[..]));
                assert_eq!(entry.history.unwrap().offset, n as u64);
                assert!(Record::decode(entry.data).is_ok());
            }
            assert_eq!((entries.next_entry(), entries.rest_len()), (None, 0));
        }
    }

    #[test]
    fn a_missing_body_and_a_cut_block_are_damage() {
        let (block, _) = shared(b"payload");
        assert!(matches!(restore(&block, |_| Ok(None)), Err(StoreError::Damaged(_))));
        let cut = block.slice(..block.len() - 3);
        assert!(matches!(restore(&cut, |_| Ok(Some(Bytes::new()))), Err(StoreError::Damaged(_))));
    }
}
