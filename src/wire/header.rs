//! The fixed 24-byte header.

use super::error::WireError;
use crate::model::limits::{FRAME_PAYLOAD_BYTES_MAX, HEAD_BYTES_MAX, HEADER_BYTES};

/// First two bytes of every frame: "TG".
pub const MAGIC: u16 = 0x5447;
/// The version this build speaks.
pub const VERSION: u8 = 1;
/// More chunks of this message follow on this stream.
pub const FLAG_MORE: u16 = 1;
/// This frame continues a message begun by an earlier one; its head is empty.
pub const FLAG_CONT: u16 = 2;
const FLAGS_KNOWN: u16 = FLAG_MORE | FLAG_CONT;
const FLAGS_MUST_UNDERSTAND: u16 = 0x00FF;

macro_rules! types {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Kind of a frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FrameType { $($(#[$doc])* $name = $code,)* }

        impl FrameType {
            /// Every type, in order of its code.
            pub const ALL: &'static [FrameType] = &[$(FrameType::$name,)*];

            /// The type of this code.
            #[must_use]
            pub const fn from_u8(code: u8) -> Option<Self> {
                match code { $($code => Some(FrameType::$name),)* _ => None }
            }

            /// Its name in documents and logs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(FrameType::$name => $text,)* }
            }
        }
    };
}

types! {
    /// Client to broker: who speaks, versions, limits.
    Hello = 0x01, "hello";
    /// Broker to client: the terms of the session.
    Welcome = 0x02, "welcome";
    /// Credentials, or a challenge and its answer.
    Auth = 0x03, "auth";
    /// Credentials renewed within a session.
    Reauth = 0x04, "reauth";
    /// A request of this stream succeeded.
    Ok = 0x05, "ok";
    /// A request of this stream, or on stream 0 the session, failed.
    Error = 0x06, "error";
    /// The sender ends the connection.
    Close = 0x07, "close";
    /// The sender will end the connection soon; start nothing new.
    Goaway = 0x08, "goaway";
    /// One record.
    Publish = 0x10, "publish";
    /// Several records.
    Batch = 0x11, "batch";
    /// What happened to a range of publishes.
    PublishAck = 0x12, "publish-ack";
    /// A range of publishes was refused.
    PublishNack = 0x13, "publish-nack";
    /// Open live fan-out.
    Subscribe = 0x20, "subscribe";
    /// End a subscription or a consumer's session.
    Unsubscribe = 0x21, "unsubscribe";
    /// Records for a subscription, a consumer or a history request.
    Deliver = 0x22, "deliver";
    /// What a slow reader lost.
    Dropped = 0x23, "dropped";
    /// Open a durable consumer.
    Consume = 0x30, "consume";
    /// Deliveries are done.
    Ack = 0x31, "ack";
    /// Deliveries are to be tried again, or given up.
    Nack = 0x32, "nack";
    /// More may be sent on this stream.
    Credit = 0x33, "credit";
    /// Hold deliveries, or publishes, of this stream.
    Pause = 0x34, "pause";
    /// Go on.
    Resume = 0x35, "resume";
    /// Past messages of a channel.
    History = 0x40, "history";
    /// A question to whoever answers on a channel.
    Request = 0x50, "request";
    /// Its answer, or a part of it.
    Response = 0x51, "response";
    /// The request is given up.
    Cancel = 0x52, "cancel";
    /// What became of a delivery through an adapter.
    Report = 0x60, "report";
    /// Are you there.
    Ping = 0x70, "ping";
    /// Yes.
    Pong = 0x71, "pong";
}

impl FrameType {
    /// Whether a message of this type may be split into chunks.
    #[must_use]
    pub const fn may_chunk(self) -> bool {
        matches!(self, Self::Publish | Self::Deliver | Self::Request | Self::Response)
    }
}

/// Whether a receiver refuses these flags: on a type that has no chunks, or a continuation with a head.
pub(super) const fn flags_contradict(kind: FrameType, flags: u16, head_len: usize) -> bool {
    (flags & FLAGS_KNOWN != 0 && !kind.may_chunk()) || (flags & FLAG_CONT != 0 && head_len != 0)
}

/// The header, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Kind of the frame.
    pub kind: FrameType,
    /// [`FLAG_MORE`], [`FLAG_CONT`]; the high eight bits may be anything.
    pub flags: u16,
    /// Length of the head, in bytes.
    pub head_len: u16,
    /// Length of the payload, in bytes.
    pub payload_len: u32,
    /// What the frame belongs to; 0 is the session itself.
    pub stream: u32,
    /// Count of frames sent before on this connection in this direction, modulo 2^32.
    pub sequence: u32,
    /// CRC-32C over bytes 0-19, head and payload.
    pub crc: u32,
}

const _: () = assert!(usize::BITS >= 32);
const _: () = assert!(HEADER_BYTES == 2 + 1 + 1 + 2 + 2 + 4 + 4 + 4 + 4);

impl Header {
    /// Reads a header whose payload may have at most `payload_bytes_max` bytes, in any case at most
    /// [`FRAME_PAYLOAD_BYTES_MAX`].
    ///
    /// # Errors
    /// The first field that is wrong, in the order of the bytes; the CRC is not checked here.
    pub fn parse(bytes: &[u8; HEADER_BYTES], payload_bytes_max: u32) -> Result<Self, WireError> {
        // Bounded here so that the frame's length fits a 32-bit usize whatever the caller negotiated.
        let payload_bytes_max = payload_bytes_max.min(FRAME_PAYLOAD_BYTES_MAX);
        let u16_at = |i: usize| u16::from_be_bytes([bytes[i], bytes[i + 1]]);
        let u32_at = |i: usize| u32::from_be_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let magic = u16_at(0);
        if magic != MAGIC {
            return Err(WireError::Magic(magic));
        }
        if bytes[2] != VERSION {
            return Err(WireError::Version(bytes[2]));
        }
        let kind = FrameType::from_u8(bytes[3]).ok_or(WireError::Type(bytes[3]))?;
        let header = Self {
            kind,
            flags: u16_at(4),
            head_len: u16_at(6),
            payload_len: u32_at(8),
            stream: u32_at(12),
            sequence: u32_at(16),
            crc: u32_at(20),
        };
        let unknown = header.flags & FLAGS_MUST_UNDERSTAND & !FLAGS_KNOWN;
        if unknown != 0 {
            return Err(WireError::UnsupportedFlag(unknown));
        }
        if flags_contradict(kind, header.flags, usize::from(header.head_len)) {
            return Err(WireError::FlagsContradict);
        }
        if usize::from(header.head_len) > HEAD_BYTES_MAX {
            return Err(WireError::HeadTooLarge(header.head_len, HEAD_BYTES_MAX as u16));
        }
        if header.payload_len > payload_bytes_max {
            return Err(WireError::PayloadTooLarge(header.payload_len, payload_bytes_max));
        }
        Ok(header)
    }

    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..2].copy_from_slice(&MAGIC.to_be_bytes());
        out[2] = VERSION;
        out[3] = self.kind as u8;
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.head_len.to_be_bytes());
        out[8..12].copy_from_slice(&self.payload_len.to_be_bytes());
        out[12..16].copy_from_slice(&self.stream.to_be_bytes());
        out[16..20].copy_from_slice(&self.sequence.to_be_bytes());
        out[20..24].copy_from_slice(&self.crc.to_be_bytes());
        out
    }

    /// Length of the whole frame, in bytes.
    #[must_use]
    pub const fn frame_len(&self) -> usize {
        HEADER_BYTES + self.head_len as usize + self.payload_len as usize
    }
}
