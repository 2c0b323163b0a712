//! The journal's bytes: the file's header, a record, and what a run of pages holds. Pure; `proto/journal.md` is normative.

use super::super::bodies::put_varint;
use super::super::encoding::{self, EncodingError};
use super::super::ops::Batch;
use crate::model::Position;
use crate::wire::crc32c;
use std::ops::Range;

/// Version of the file and of a record.
pub const VERSION: u8 = 1;
/// Everything begins at a multiple of this many bytes, and is written in such pieces.
pub const PAGE_BYTES: usize = 4_096;
/// Bytes of the file's header; the rest of its page is zero.
pub const FILE_HEADER_BYTES: usize = 40;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 72;
/// Longest payload a record may have, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1_024 * 1_024;

const FILE_MAGIC: &[u8; 8] = b"TGJOURNL";
const RECORD_MAGIC: &[u8; 4] = b"TGJR";

/// Random number of a database and its journal: neither is ever taken for part of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

/// What the first page of the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The database it belongs to.
    pub id: StoreId,
    /// Bytes of each of the two segments.
    pub segment_bytes: u64,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Not ours, or damaged.
    Damaged,
    /// Whole, and of a version this release does not know.
    Newer(u8),
}

impl FileHeader {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut out = [0; FILE_HEADER_BYTES];
        out[..8].copy_from_slice(FILE_MAGIC);
        out[8] = VERSION;
        out[12..28].copy_from_slice(&self.id.0);
        out[28..36].copy_from_slice(&self.segment_bytes.to_le_bytes());
        seal(&mut out);
        out
    }

    /// Reads them.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.first_chunk::<FILE_HEADER_BYTES>().ok_or(HeaderError::Damaged)?;
        if !bytes.starts_with(FILE_MAGIC) || !is_sealed(bytes) {
            return Err(HeaderError::Damaged);
        }
        if bytes[8] != VERSION {
            return Err(HeaderError::Newer(bytes[8]));
        }
        Ok(Self { id: StoreId(array(bytes, 12)), segment_bytes: u64::from_le_bytes(array(bytes, 28)) })
    }
}

/// What stands before a record's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// The database it belongs to.
    pub id: StoreId,
    /// Grows by one with every change of segment.
    pub generation: u64,
    /// What the database had applied, durably, when the generation began.
    pub base: Position,
    /// The position before the record's first batch.
    pub after: Position,
    /// The position of its last batch.
    pub last: Position,
    /// Bytes of its payload.
    pub payload_bytes: u32,
    /// CRC-32C of its payload.
    pub payload_crc: u32,
}

impl RecordHead {
    /// Bytes of the whole record on disk.
    #[must_use]
    pub const fn bytes_on_disk(&self) -> usize {
        bytes_on_disk(self.payload_bytes as usize)
    }

    fn encode(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0; RECORD_HEADER_BYTES];
        out[..4].copy_from_slice(RECORD_MAGIC);
        out[4] = VERSION;
        out[8..24].copy_from_slice(&self.id.0);
        for (at, field) in [(24, self.generation), (32, self.base.0), (40, self.after.0), (48, self.last.0)] {
            out[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        out[56..60].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[60..64].copy_from_slice(&self.payload_crc.to_le_bytes());
        seal(&mut out);
        out
    }

    /// Reads the head of a record of any database.
    ///
    /// # Errors
    /// [`HeaderError`]; of its payload nothing is said.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.first_chunk::<RECORD_HEADER_BYTES>().ok_or(HeaderError::Damaged)?;
        if !bytes.starts_with(RECORD_MAGIC) || !is_sealed(bytes) {
            return Err(HeaderError::Damaged);
        }
        if bytes[4] != VERSION {
            return Err(HeaderError::Newer(bytes[4]));
        }
        let number = |at| u64::from_le_bytes(array(bytes, at));
        let head = Self {
            id: record_id(bytes),
            generation: number(24),
            base: Position(number(32)),
            after: Position(number(40)),
            last: Position(number(48)),
            payload_bytes: u32::from_le_bytes(array(bytes, 56)),
            payload_crc: u32::from_le_bytes(array(bytes, 60)),
        };
        let sound = head.base <= head.after
            && head.after < head.last
            && head.generation > 0
            && head.payload_bytes as usize <= PAYLOAD_BYTES_MAX;
        if sound { Ok(head) } else { Err(HeaderError::Damaged) }
    }
}

/// Bytes a record with such a payload takes on disk: whole pages, so that no byte of an acknowledged record is ever
/// written again.
#[must_use]
pub const fn bytes_on_disk(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(PAGE_BYTES)
}

/// Encodes a record, with the indices of its compare-and-puts that did not match when it was committed: a replay repeats
/// what was decided and decides nothing anew. The head's length and checksum of the payload are filled in. `None` for a
/// payload that is too long.
#[must_use]
pub fn encode_record(head: RecordHead, conflicts: &[u32], batches: &[Batch]) -> Option<Vec<u8>> {
    let mut out = vec![0; RECORD_HEADER_BYTES];
    put_varint(&mut out, conflicts.len() as u64);
    for index in conflicts {
        put_varint(&mut out, u64::from(*index));
    }
    for batch in batches {
        let bytes = encoding::encode(batch);
        put_varint(&mut out, bytes.len() as u64);
        out.extend_from_slice(&bytes);
    }
    let payload = &out[RECORD_HEADER_BYTES..];
    if payload.len() > PAYLOAD_BYTES_MAX {
        return None;
    }
    let (payload_bytes, payload_crc) = (payload.len() as u32, crc32c(payload, &[]));
    let head = RecordHead { payload_bytes, payload_crc, ..head }.encode();
    out[..RECORD_HEADER_BYTES].copy_from_slice(&head);
    out.resize(out.len().next_multiple_of(PAGE_BYTES), 0);
    Some(out)
}

/// A record's payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// Indices of the compare-and-puts that did not match, counted through the operations of all batches, ascending.
    pub conflicts: Vec<u32>,
    /// The batches.
    pub batches: Vec<Batch>,
}

/// Decodes a payload. Total: any bytes give a payload or an error; memory is at most some forty times their length.
///
/// # Errors
/// [`EncodingError`], naming what is wrong.
pub fn decode_payload(bytes: &[u8]) -> Result<Payload, EncodingError> {
    let mut rest = bytes;
    let count = usize::try_from(take_varint(&mut rest)?).unwrap_or(usize::MAX);
    if count > rest.len() {
        return Err(EncodingError::Field("count"));
    }
    let mut payload = Payload { conflicts: Vec::with_capacity(count), batches: Vec::new() };
    for _ in 0..count {
        let index = u32::try_from(take_varint(&mut rest)?).map_err(|_| EncodingError::Field("conflict"))?;
        if payload.conflicts.last().is_some_and(|last| *last >= index) {
            return Err(EncodingError::Field("conflict"));
        }
        payload.conflicts.push(index);
    }
    while !rest.is_empty() {
        let len = usize::try_from(take_varint(&mut rest)?).map_err(|_| EncodingError::Short)?;
        let (batch, behind) = rest.split_at_checked(len).ok_or(EncodingError::Short)?;
        let batch = encoding::decode(batch)?;
        if payload.batches.last().is_some_and(|last: &Batch| last.position >= batch.position) {
            return Err(EncodingError::Field("position"));
        }
        payload.batches.push(batch);
        rest = behind;
    }
    Ok(payload)
}

/// A record found in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it begins, in pages.
    pub page: usize,
    /// Its head.
    pub head: RecordHead,
    /// Where its payload is in the segment, in bytes; `None` when that is not what the head says it is.
    pub payload: Option<Range<usize>>,
}

impl Found {
    /// The page behind it.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.page + self.head.bytes_on_disk() / PAGE_BYTES
    }
}

/// What a segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Records of the database with this id, by page.
    pub found: Vec<Found>,
    /// Pages that begin as a record does and are none.
    pub broken: Vec<usize>,
    /// Records of other databases.
    pub foreign: usize,
    /// A version this release does not know, of a record of this database.
    pub newer: Option<u8>,
}

/// Looks at every page of a segment. Total: any bytes give a result.
///
/// Pages inside a payload are looked at, too: a record is recognised by the id, which nobody who publishes knows, so
/// nothing in a message is taken for one.
#[must_use]
pub fn scan(segment: &[u8], id: StoreId) -> Scan {
    let mut scan = Scan::default();
    for page in 0..segment.len() / PAGE_BYTES {
        let rest = &segment[page * PAGE_BYTES..];
        match RecordHead::decode(rest) {
            Ok(head) if head.id == id => {
                let start = page * PAGE_BYTES + RECORD_HEADER_BYTES;
                let range = start..start + head.payload_bytes as usize;
                let whole = segment.get(range.clone()).is_some_and(|p| crc32c(p, &[]) == head.payload_crc);
                scan.found.push(Found { page, head, payload: whole.then_some(range) });
            }
            // A message may say that it is one of a later version, too.
            Err(HeaderError::Newer(version)) if record_id(rest) == id => scan.newer = Some(version),
            Ok(_) | Err(HeaderError::Newer(_)) => scan.foreign += 1,
            Err(HeaderError::Damaged) => {
                // One damaged byte leaves the magic or the id.
                if rest.starts_with(RECORD_MAGIC) || record_id(rest) == id {
                    scan.broken.push(page);
                }
            }
        }
    }
    scan
}

/// Where a record has its id, whatever its version.
fn record_id(record: &[u8]) -> StoreId {
    StoreId(array(record, 8))
}

/// Writes the checksum of a header into its last four bytes.
fn seal(header: &mut [u8]) {
    let at = header.len() - 4;
    let crc = crc32c(&header[..at], &[]);
    header[at..].copy_from_slice(&crc.to_le_bytes());
}

fn is_sealed(header: &[u8]) -> bool {
    header.split_last_chunk::<4>().is_some_and(|(rest, crc)| crc32c(rest, &[]) == u32::from_le_bytes(*crc))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, EncodingError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first().ok_or(EncodingError::Short)?;
        *rest = behind;
        let bits = u64::from(byte & 0x7F);
        if (shift == 63 && bits > 1) || (*byte == 0 && shift > 0) {
            return Err(EncodingError::Field("number"));
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(EncodingError::Field("number"))
}
