//! The one byte encoding of a batch: what the journal writes, and what a bug report can carry.
//!
//! ```text
//! version   u8      1
//! position  u64 little-endian
//! count     varint  operations
//! ...               operations, each a tag (u8) and its fields in the order of `Op`
//! checksum  u32 little-endian, CRC-32C of all bytes before it
//! ```
//!
//! Mounts, queues, sequences, counts and lengths are varints as postcard's (seven bits a byte, lowest first, at most
//! ten bytes, shortest form); keys, values, blocks and names are a length and the bytes; a lane, a table and the tag are
//! a byte. An optional revision is the byte 0, or 1 and the varint.

use super::bodies::put_varint;
use super::ops::{Batch, Op, QueueKey, Table};
use crate::model::{MountId, Position, Priority, QueueId};
use crate::wire::crc32c;
use bytes::Bytes;

/// Version of the encoding; its first byte.
pub const ENCODING: u8 = 1;
/// Version, position and checksum.
const FRAME_BYTES: usize = 1 + 8 + 4;
/// The shortest operation: tag, table, empty key.
const OP_BYTES_MIN: usize = 3;

const APPEND: u8 = 1;
const BODY: u8 = 2;
const TRIM: u8 = 3;
const ACK: u8 = 4;
const PUT: u8 = 5;
const DELETE: u8 = 6;
const COMPARE_AND_PUT: u8 = 7;

/// Why bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodingError {
    /// They end too early.
    Short,
    /// The checksum does not match.
    Checksum,
    /// A version this release does not know.
    Version(u8),
    /// A field has a value it cannot have.
    Field(&'static str),
    /// Bytes are left over.
    Trailing,
}

impl std::fmt::Display for EncodingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short => write!(f, "a batch is cut short"),
            Self::Checksum => write!(f, "a batch has the wrong checksum"),
            Self::Version(v) => write!(f, "a batch has version {v}, this release understands {ENCODING}"),
            Self::Field(name) => write!(f, "a batch has an impossible {name}"),
            Self::Trailing => write!(f, "a batch has bytes left over"),
        }
    }
}

impl std::error::Error for EncodingError {}

/// Encodes a batch.
#[must_use]
pub fn encode(batch: &Batch) -> Vec<u8> {
    let weight: usize = batch.ops.iter().map(Op::weight).sum();
    let mut out = Vec::with_capacity(FRAME_BYTES + 10 + weight);
    out.push(ENCODING);
    out.extend_from_slice(&batch.position.0.to_le_bytes());
    put_varint(&mut out, batch.ops.len() as u64);
    for op in &batch.ops {
        put_op(&mut out, op);
    }
    let checksum = crc32c(&out, &[]);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Decodes a batch. Total: any bytes give a batch or an error, and the memory taken is at most some forty
/// times their length.
///
/// # Errors
/// [`EncodingError`], naming what is wrong.
pub fn decode(bytes: &[u8]) -> Result<Batch, EncodingError> {
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(EncodingError::Short)?;
    let version = *body.first().ok_or(EncodingError::Short)?;
    if version != ENCODING {
        return Err(EncodingError::Version(version));
    }
    if crc32c(body, &[]) != u32::from_le_bytes(*checksum) {
        return Err(EncodingError::Checksum);
    }
    // One copy; the operations are slices of it.
    let mut rest = Input(Bytes::copy_from_slice(&body[1..]));
    let position = Position(u64::from_le_bytes(rest.array()?));
    let count = rest.varint()?;
    let room = rest.0.len() / OP_BYTES_MIN;
    let count = usize::try_from(count).ok().filter(|c| *c <= room).ok_or(EncodingError::Field("count"))?;
    let mut ops = Vec::with_capacity(count);
    for _ in 0..count {
        ops.push(rest.op()?);
    }
    if rest.0.is_empty() { Ok(Batch { position, ops }) } else { Err(EncodingError::Trailing) }
}

fn put_op(out: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Append { queue, lane, first, count, block } => {
            out.push(APPEND);
            put_queue(out, *queue);
            out.push(lane.get());
            put_varint(out, *first);
            put_varint(out, u64::from(*count));
            put_bytes(out, block);
        }
        Op::Body { mount, body, refs, bytes } => {
            out.push(BODY);
            put_varint(out, u64::from(mount.0));
            put_varint(out, *body);
            put_varint(out, u64::from(*refs));
            put_bytes(out, bytes);
        }
        Op::Trim { queue, lane, below } => {
            out.push(TRIM);
            put_queue(out, *queue);
            out.push(lane.get());
            put_varint(out, *below);
        }
        Op::Ack { queue, consumer, progress } => {
            out.push(ACK);
            put_queue(out, *queue);
            put_bytes(out, consumer.as_bytes());
            put_bytes(out, progress);
        }
        Op::Put { table, key, value } => {
            out.extend_from_slice(&[PUT, *table as u8]);
            put_bytes(out, key);
            put_bytes(out, value);
        }
        Op::Delete { table, key } => {
            out.extend_from_slice(&[DELETE, *table as u8]);
            put_bytes(out, key);
        }
        Op::CompareAndPut { table, key, expect, value, then } => {
            out.extend_from_slice(&[COMPARE_AND_PUT, *table as u8]);
            put_bytes(out, key);
            out.push(u8::from(expect.is_some()));
            if let Some(revision) = expect {
                put_varint(out, *revision);
            }
            put_bytes(out, value);
            put_varint(out, u64::from(*then));
        }
    }
}

fn put_queue(out: &mut Vec<u8>, queue: QueueKey) {
    put_varint(out, u64::from(queue.mount.0));
    put_varint(out, u64::from(queue.queue.0));
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What is left to decode.
struct Input(Bytes);

impl Input {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], EncodingError> {
        let array = *self.0.first_chunk::<N>().ok_or(EncodingError::Short)?;
        let _ = self.0.split_to(N);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, EncodingError> {
        Ok(self.array::<1>()?[0])
    }

    fn varint(&mut self) -> Result<u64, EncodingError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            // The tenth byte has room for one bit; a last byte of zero is a longer form than needed.
            if (shift == 63 && bits > 1) || (byte == 0 && shift > 0) {
                return Err(EncodingError::Field("number"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(EncodingError::Field("number"))
    }

    fn u32(&mut self) -> Result<u32, EncodingError> {
        u32::try_from(self.varint()?).map_err(|_| EncodingError::Field("number"))
    }

    fn bytes(&mut self) -> Result<Bytes, EncodingError> {
        let len = usize::try_from(self.varint()?).map_err(|_| EncodingError::Short)?;
        if len > self.0.len() { Err(EncodingError::Short) } else { Ok(self.0.split_to(len)) }
    }

    fn queue(&mut self) -> Result<QueueKey, EncodingError> {
        Ok(QueueKey { mount: MountId(self.u32()?), queue: QueueId(self.u32()?) })
    }

    fn lane(&mut self) -> Result<Priority, EncodingError> {
        Priority::new(self.byte()?).ok_or(EncodingError::Field("lane"))
    }

    fn table(&mut self) -> Result<Table, EncodingError> {
        Table::from_byte(self.byte()?).ok_or(EncodingError::Field("table"))
    }

    fn op(&mut self) -> Result<Op, EncodingError> {
        Ok(match self.byte()? {
            APPEND => Op::Append {
                queue: self.queue()?,
                lane: self.lane()?,
                first: self.varint()?,
                count: self.u32()?,
                block: self.bytes()?,
            },
            BODY => {
                Op::Body { mount: MountId(self.u32()?), body: self.varint()?, refs: self.u32()?, bytes: self.bytes()? }
            }
            TRIM => Op::Trim { queue: self.queue()?, lane: self.lane()?, below: self.varint()? },
            ACK => {
                let queue = self.queue()?;
                let consumer = self.bytes()?;
                let consumer = std::str::from_utf8(&consumer).map_err(|_| EncodingError::Field("name"))?.into();
                Op::Ack { queue, consumer, progress: self.bytes()? }
            }
            PUT => Op::Put { table: self.table()?, key: self.bytes()?, value: self.bytes()? },
            DELETE => Op::Delete { table: self.table()?, key: self.bytes()? },
            COMPARE_AND_PUT => Op::CompareAndPut {
                table: self.table()?,
                key: self.bytes()?,
                expect: match self.byte()? {
                    0 => None,
                    1 => Some(self.varint()?),
                    _ => return Err(EncodingError::Field("revision")),
                },
                value: self.bytes()?,
                then: self.u32()?,
            },
            _ => return Err(EncodingError::Field("tag")),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn queue() -> QueueKey {
        QueueKey { mount: MountId(1), queue: QueueId(300) }
    }

    /// One of each.
    fn sample() -> Batch {
        let key = Bytes::from_static(b"key");
        let value = Bytes::from_static(b"\0\0\0\0\0\0\0\x05value");
        let lane = Priority::new(9).unwrap();
        let ops = vec![
            Op::Append { queue: queue(), lane, first: 1 << 40, count: 2, block: Bytes::from_static(b"block") },
            Op::Body { mount: MountId(1), body: 7, refs: 2, bytes: Bytes::from_static(b"payload") },
            Op::Trim { queue: queue(), lane, below: u64::MAX },
            Op::Ack { queue: queue(), consumer: "c".into(), progress: Bytes::from_static(b"\x01\x02") },
            Op::Put { table: Table::Retained, key: key.clone(), value: value.clone() },
            Op::CompareAndPut {
                table: Table::Document,
                key: key.clone(),
                expect: Some(4),
                value: value.clone(),
                then: 1,
            },
            Op::CompareAndPut { table: Table::Document, key: key.clone(), expect: None, value, then: 0 },
            Op::Delete { table: Table::Bridge, key },
        ];
        Batch { position: Position(0x0102), ops }
    }

    #[test]
    fn golden_the_bytes_of_version_one_never_change() {
        let hex: String = encode(&sample()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(decode(&encode(&sample())), Ok(sample()));
        let empty = Batch { position: Position(1), ops: Vec::new() };
        assert_eq!(decode(&encode(&empty)), Ok(empty));
    }

    const GOLDEN: &str = concat!(
        "010201000000000000080101ac02098080808080200205626c6f636b02010702077061796c6f61640301ac0209ffffff",
        "ffffffffffff010401ac0201630201020506036b65790d000000000000000576616c75650709036b657901040d000000",
        "000000000576616c7565010709036b6579000d000000000000000576616c756500060b036b65797dae3809",
    );

    #[test]
    fn every_damaged_byte_and_every_cut_is_found() {
        let good = encode(&sample());
        for i in 0..good.len() {
            assert!(decode(&good[..i]).is_err(), "cut at {i}");
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            assert!(decode(&bad).is_err(), "flipped at {i}");
        }
    }

    #[test]
    fn a_count_that_lies_takes_no_memory() {
        let mut bytes = vec![ENCODING];
        bytes.extend_from_slice(&7u64.to_le_bytes());
        put_varint(&mut bytes, u64::MAX);
        let checksum = crc32c(&bytes, &[]);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        assert_eq!(decode(&bytes), Err(EncodingError::Field("count")));
    }

    #[test]
    fn a_number_has_one_form_only() {
        for (bytes, want) in [
            (&[0x00][..], Ok(0)),
            (&[0x80, 0x01], Ok(128)),
            (&[0x80, 0x00], Err(EncodingError::Field("number"))),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Ok(u64::MAX)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], Err(EncodingError::Field("number"))),
        ] {
            assert_eq!(Input(Bytes::copy_from_slice(bytes)).varint(), want, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_behind_a_right_checksum_give_a_batch_or_an_error(tail in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = vec![ENCODING];
            bytes.extend_from_slice(&tail);
            let checksum = crc32c(&bytes, &[]);
            bytes.extend_from_slice(&checksum.to_le_bytes());
            if let Ok(batch) = decode(&bytes) {
                // One form only: what decodes encodes to the same bytes.
                prop_assert_eq!(encode(&batch), bytes);
            }
        }
    }
}
