//! A record: one message with its attributes, the same bytes in a batch, the store, the journal and the bridge.

use super::channel::{Channel, ChannelError};
use super::ids::{MessageId, Priority};
use super::limits::{PROPERTIES_BYTES_MAX, PROPERTIES_MAX};
use core::fmt;
use serde::Serialize;

/// How the payload is to be read; the broker itself never looks into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Bytes.
    #[default]
    Binary = 0,
    /// UTF-8 text.
    Text = 1,
    /// JSON (RFC 8259).
    Json = 2,
    /// Protocol Buffers.
    Protobuf = 3,
    /// postcard.
    Postcard = 4,
}

impl Encoding {
    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Binary,
            1 => Self::Text,
            2 => Self::Json,
            3 => Self::Protobuf,
            4 => Self::Postcard,
            _ => return None,
        })
    }
}

/// Tags of the properties a record may carry. Unknown tags pass through unharmed.
pub mod tag {
    /// A user's own pair: the value is a postcard string (the key) followed by the bytes of the value.
    pub const USER: u32 = 0;
    /// Media type of the payload, UTF-8.
    pub const CONTENT_TYPE: u32 = 1;
    /// Correlation data, bytes.
    pub const CORRELATION: u32 = 2;
    /// Channel to answer on, UTF-8.
    pub const REPLY_TO: u32 = 3;
    /// Key within which order matters, bytes.
    pub const ORDERING_KEY: u32 = 4;
    /// Name of the broker the message first entered, UTF-8.
    pub const ORIGIN: u32 = 5;
    /// Bridges passed so far, one byte.
    pub const HOPS: u32 = 6;
    /// Ed25519 signature, 64 bytes.
    pub const SIGNATURE: u32 = 7;
    /// Who signed: the id of the public key, 8 bytes.
    pub const SIGNER: u32 = 8;
    /// How the payload is sealed: algorithm, flags, the key's id and a salt, 34 bytes.
    pub const SEAL: u32 = 9;
    /// Why the message is a dead letter, UTF-8. Set by the broker.
    pub const DEAD_REASON: u32 = 16;
    /// Attempts made before it became a dead letter, decimal text. Set by the broker.
    pub const DEAD_ATTEMPTS: u32 = 17;
    /// Queue it died in, UTF-8. Set by the broker.
    pub const DEAD_QUEUE: u32 = 18;
}

/// One message, borrowing from the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Key of dedupe, or [`MessageId::NONE`].
    pub id: MessageId,
    /// Where it is published.
    pub channel: Channel<'a>,
    /// Lane.
    pub priority: Priority,
    /// Whether it replaces the channel's retained value (an empty payload clears it).
    pub retain: bool,
    /// Publisher's wall clock, milliseconds since 1970; 0 when it has none.
    pub time_ms: u64,
    /// Milliseconds after storing at which it expires; 0 is never.
    pub ttl_ms: u32,
    /// Milliseconds to hold it back before any consumer sees it; 0 is none.
    pub delay_ms: u32,
    /// Whether the payload is compressed: its length as a varint, then an LZ4 block.
    pub compressed: bool,
    /// How to read the payload.
    pub encoding: Encoding,
    /// Further attributes.
    pub properties: Properties<'a>,
    /// The message itself.
    pub payload: &'a [u8],
}

/// Bytes of the id at the head of a record: postcard writes an array of bytes as it stands, but one at a time.
const ID_BYTES: usize = 16;

/// The frozen postcard layout of a record, version 1, behind its id. Field order is the wire order.
#[derive(Serialize)]
#[cfg_attr(test, derive(Debug, PartialEq, serde::Deserialize))]
struct RawRecord<'a> {
    channel: &'a str,
    flags: u8,
    priority: u8,
    time_ms: u64,
    ttl_ms: u32,
    delay_ms: u32,
    encoding: u8,
    #[serde(serialize_with = "as_block")]
    properties: &'a [u8],
    #[serde(serialize_with = "as_block")]
    payload: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// As postcard reads it, by hand: every message passes here at least twice, and it is several times as fast.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut fields = Fields(bytes);
        let channel = fields.block()?;
        let (flags, priority) = (fields.byte()?, fields.byte()?);
        let time_ms = fields.varint(u64::BITS)?;
        let (ttl_ms, delay_ms) = (fields.varint(u32::BITS)? as u32, fields.varint(u32::BITS)? as u32);
        let encoding = fields.byte()?;
        let (properties, payload) = (fields.block()?, fields.block()?);
        let channel = core::str::from_utf8(channel).ok()?;
        Some((Self { channel, flags, priority, time_ms, ttl_ms, delay_ms, encoding, properties, payload }, fields.0))
    }
}

/// Postcard's fields, one after another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    /// A number of at most so many bits, seven a byte, the lowest first.
    fn varint(&mut self, bits: u32) -> Option<u64> {
        let (mut value, mut shift) = (0, 0);
        while shift < bits {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            value |= part << shift;
            if byte < 0x80 {
                return (shift + 7 <= bits || part >> (bits - shift) == 0).then_some(value);
            }
            shift += 7;
        }
        None
    }

    /// Bytes behind their length.
    fn block(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint(usize::BITS)?).ok()?;
        let (block, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(block)
    }
}

/// `&[u8]` alone is serialised a byte at a time; the bytes are the same.
fn as_block<S: serde::Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

const FLAG_RETAIN: u8 = 1;
const FLAG_COMPRESSED: u8 = 2;

/// Why bytes are not a record, or a record cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The bytes end early, a length lies, or the channel is not UTF-8.
    Malformed,
    /// Bytes are left over after the payload.
    TrailingBytes(usize),
    /// The channel breaks a rule.
    Channel(ChannelError),
    /// Priority above 9.
    Priority(u8),
    /// An encoding this version does not know.
    Encoding(u8),
    /// A record flag this version does not know.
    Flags(u8),
    /// The properties are malformed, too many or too long.
    Properties,
    /// The buffer to write into is too small.
    BufferTooSmall,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => write!(f, "the record's bytes are malformed: a field ends early or a length is wrong"),
            Self::TrailingBytes(n) => write!(f, "{n} bytes follow the end of the record"),
            Self::Channel(e) => e.fmt(f),
            Self::Priority(p) => write!(f, "priority {p} is above 9"),
            Self::Encoding(e) => write!(f, "payload encoding {e} is unknown"),
            Self::Flags(x) => write!(f, "record flags {x:#04x} are unknown"),
            Self::Properties => write!(
                f,
                "properties must be well-formed, at most {PROPERTIES_MAX} and {PROPERTIES_BYTES_MAX} bytes in all"
            ),
            Self::BufferTooSmall => write!(f, "the buffer is too small for the record"),
        }
    }
}

impl core::error::Error for RecordError {}

impl<'a> Record<'a> {
    /// A record with defaults: no id, priority 0, nothing retained, no TTL, binary.
    #[must_use]
    pub const fn new(channel: Channel<'a>, payload: &'a [u8]) -> Self {
        Self {
            id: MessageId::NONE,
            channel,
            priority: match Priority::new(0) {
                Some(p) => p,
                None => Priority::MAX,
            },
            retain: false,
            time_ms: 0,
            ttl_ms: 0,
            delay_ms: 0,
            compressed: false,
            encoding: Encoding::Binary,
            properties: Properties(&[]),
            payload,
        }
    }

    /// Reads exactly one record. Never panics, never allocates.
    ///
    /// # Errors
    /// The first rule the bytes break.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let (id, bytes) = bytes.split_first_chunk::<ID_BYTES>().ok_or(RecordError::Malformed)?;
        let (raw, rest) = RawRecord::read(bytes).ok_or(RecordError::Malformed)?;
        if !rest.is_empty() {
            return Err(RecordError::TrailingBytes(rest.len()));
        }
        if raw.flags & !(FLAG_RETAIN | FLAG_COMPRESSED) != 0 {
            return Err(RecordError::Flags(raw.flags));
        }
        Ok(Self {
            id: MessageId(*id),
            channel: Channel::parse(raw.channel).map_err(RecordError::Channel)?,
            priority: Priority::new(raw.priority).ok_or(RecordError::Priority(raw.priority))?,
            retain: raw.flags & FLAG_RETAIN != 0,
            time_ms: raw.time_ms,
            ttl_ms: raw.ttl_ms,
            delay_ms: raw.delay_ms,
            compressed: raw.flags & FLAG_COMPRESSED != 0,
            encoding: Encoding::from_code(raw.encoding).ok_or(RecordError::Encoding(raw.encoding))?,
            properties: Properties::parse(raw.properties)?,
            payload: raw.payload,
        })
    }

    /// Writes the record and returns its length.
    ///
    /// # Errors
    /// [`RecordError::BufferTooSmall`].
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, RecordError> {
        let (id, rest) = out.split_first_chunk_mut::<ID_BYTES>().ok_or(RecordError::BufferTooSmall)?;
        *id = self.id.0;
        let written = postcard::to_slice(&self.raw(), rest).map_err(|_| RecordError::BufferTooSmall)?;
        Ok(ID_BYTES + written.len())
    }

    /// An upper bound of the encoded length, in bytes.
    #[must_use]
    pub fn encoded_len_max(&self) -> usize {
        // id 16, five small fields at their widest varint (1 + 1 + 10 + 5 + 5 + 1), three lengths of at most 5 bytes.
        16 + 23 + 15 + self.channel.as_str().len() + self.properties.0.len() + self.payload.len()
    }

    /// The encoded length, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let block = |bytes: &[u8]| varint_len(bytes.len() as u64) + bytes.len();
        let numbers = [self.time_ms, u64::from(self.ttl_ms), u64::from(self.delay_ms)].map(varint_len);
        // Flags, priority and encoding are a byte each.
        ID_BYTES
            + 3
            + numbers.iter().sum::<usize>()
            + block(self.channel.as_str().as_bytes())
            + block(self.properties.0)
            + block(self.payload)
    }

    /// Appends the record to a vector.
    #[cfg(feature = "daemon")]
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.encoded_len_max(), 0);
        let written = self.encode(&mut out[start..]).expect("encoded_len_max bounds the length");
        out.truncate(start + written);
    }

    fn raw(&self) -> RawRecord<'a> {
        RawRecord {
            channel: self.channel.as_str(),
            flags: if self.retain { FLAG_RETAIN } else { 0 } | if self.compressed { FLAG_COMPRESSED } else { 0 },
            priority: self.priority.get(),
            time_ms: self.time_ms,
            ttl_ms: self.ttl_ms,
            delay_ms: self.delay_ms,
            encoding: self.encoding as u8,
            properties: self.properties.0,
            payload: self.payload,
        }
    }
}

/// Whether encoded bytes are those of a record with a compressed payload, without reading all of it; false when they are
/// no record.
#[must_use]
pub fn is_compressed(record: &[u8]) -> bool {
    let flags = |record: &[u8]| {
        let mut fields = Fields(record.get(ID_BYTES..)?);
        fields.block()?;
        fields.byte()
    };
    flags(record).is_some_and(|flags| flags & FLAG_COMPRESSED != 0)
}

/// Bytes a number takes as a varint.
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// The properties of a record: `(tag varint, length varint, bytes)` one after another, checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a>(&'a [u8]);

/// One property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Property<'a> {
    /// One of [`tag`], or unknown.
    pub tag: u32,
    /// Its bytes.
    pub value: &'a [u8],
}

fn next_property(bytes: &[u8]) -> Result<(Property<'_>, &[u8]), RecordError> {
    let ((tag, value), rest) = postcard::take_from_bytes::<(u32, &[u8])>(bytes).map_err(|_| RecordError::Properties)?;
    Ok((Property { tag, value }, rest))
}

impl<'a> Properties<'a> {
    /// Checks encoded properties.
    ///
    /// # Errors
    /// [`RecordError::Properties`] when they are malformed, too many or too long.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        if bytes.len() > PROPERTIES_BYTES_MAX {
            return Err(RecordError::Properties);
        }
        let mut rest = bytes;
        let mut count = 0;
        while !rest.is_empty() {
            (_, rest) = next_property(rest)?;
            count += 1;
        }
        if count > PROPERTIES_MAX {
            return Err(RecordError::Properties);
        }
        Ok(Self(bytes))
    }

    /// The properties in order.
    pub fn iter(self) -> impl Iterator<Item = Property<'a>> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (property, after) = next_property(rest).ok()?;
            rest = after;
            Some(property)
        })
    }

    /// The first property with this tag.
    #[must_use]
    pub fn get(self, tag: u32) -> Option<&'a [u8]> {
        self.iter().find(|p| p.tag == tag).map(|p| p.value)
    }

    /// The encoded bytes.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Writes one property at the start of `out` and returns its length.
    ///
    /// # Errors
    /// [`RecordError::BufferTooSmall`].
    pub fn encode_one(property: Property<'_>, out: &mut [u8]) -> Result<usize, RecordError> {
        let written =
            postcard::to_slice(&(property.tag, property.value), out).map_err(|_| RecordError::BufferTooSmall)?;
        Ok(written.len())
    }
}

#[cfg(all(test, feature = "daemon"))]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_encoding_whole() {
        let mut properties = [0; 64];
        let n = Properties::encode_one(Property { tag: tag::CONTENT_TYPE, value: b"text/plain" }, &mut properties)
            .expect("fits");
        let record = Record {
            id: MessageId([7; 16]),
            priority: Priority::MAX,
            retain: true,
            time_ms: 1_700_000_000_000,
            ttl_ms: 5,
            delay_ms: 6,
            compressed: true,
            encoding: Encoding::Json,
            properties: Properties::parse(&properties[..n]).expect("valid"),
            ..Record::new(Channel::parse("a/b").expect("valid"), b"payload")
        };
        let mut bytes = Vec::new();
        record.encode_to(&mut bytes);
        assert_eq!(Record::decode(&bytes), Ok(record));
        assert_eq!(record.encoded_len(), bytes.len());
        assert!(is_compressed(&bytes) && !is_compressed(&bytes[..ID_BYTES + 4]));
        for end in 0..bytes.len() {
            assert!(Record::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        bytes.push(0);
        assert_eq!(Record::decode(&bytes), Err(RecordError::TrailingBytes(1)));
    }

    #[test]
    fn records_are_read_by_hand_as_postcard_reads_them() {
        let agree = |bytes: &[u8]| {
            let postcards = postcard::take_from_bytes::<RawRecord<'_>>(bytes).ok();
            assert_eq!(RawRecord::read(bytes), postcards, "{bytes:02x?}");
        };
        let channel = Channel::parse("a/b").expect("valid");
        let record = Record { time_ms: u64::MAX, ttl_ms: u32::MAX, delay_ms: 300, ..Record::new(channel, &[9; 200]) };
        let mut whole = Vec::new();
        record.encode_to(&mut whole);
        let whole = &whole[ID_BYTES..];
        for end in 0..=whole.len() {
            agree(&whole[..end]);
        }
        // Every byte at every place of the fields: lengths that lie, varints too long or too wide, bytes that are not UTF-8.
        for at in 0..30 {
            for byte in 0..=u8::MAX {
                let mut bytes = whole.to_vec();
                bytes[at] = byte;
                agree(&bytes);
                bytes.insert(at, 0x80);
                agree(&bytes);
            }
        }
    }

    #[test]
    fn a_message_id_reads_back_from_its_text() {
        let id = MessageId::from_parts(1_469_918_176_385, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(MessageId::parse(&id.to_string()), Some(id));
        assert_eq!(id.to_string().len(), 26);
        assert_eq!(MessageId::parse("8ZZZZZZZZZZZZZZZZZZZZZZZZZ"), None);
    }
}
