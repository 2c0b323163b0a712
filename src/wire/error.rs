//! What can be wrong with bytes, and the codes a peer is told.

use crate::model::RecordError;
use core::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Code of an error, nack, close or goaway, as in `proto/frame.md`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])* $name = $code,)* }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The code of this number.
            #[must_use]
            pub const fn from_u16(code: u16) -> Option<Self> {
                match code { $($code => Some(Code::$name),)* _ => None }
            }

            /// Its name in documents, logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// An orderly end: nothing is wrong.
    Normal = 0, "normal";
    // 1-99: the bytes; the connection is closed after the error
    /// The first two bytes are not the magic.
    BadMagic = 1, "bad-magic";
    /// No common version.
    BadVersion = 2, "bad-version";
    /// The checksum does not match.
    BadCrc = 3, "bad-crc";
    /// A frame type this version does not know.
    UnknownType = 4, "unknown-type";
    /// A flag of the low eight that this version does not know.
    UnsupportedFlag = 5, "unsupported-flag";
    /// Flags that contradict the type or each other.
    FlagsContradict = 6, "flags-contradict";
    /// The head is malformed or longer than allowed.
    BadHead = 7, "bad-head";
    /// The payload is longer than negotiated.
    FrameTooLarge = 8, "frame-too-large";
    /// Sequence numbers are not consecutive.
    BadSequence = 9, "bad-sequence";
    /// A frame stopped in its middle for longer than allowed.
    FrameTimeout = 10, "frame-timeout";
    /// The payload is not what the head announces.
    BadPayload = 11, "bad-payload";
    // 100-199: the session
    /// A frame that is not allowed before hello and authentication.
    HelloExpected = 100, "hello-expected";
    /// No hello within the allowed time.
    HandshakeTimeout = 101, "handshake-timeout";
    /// Authentication failed.
    AuthFailed = 102, "auth-failed";
    /// Nothing was heard for longer than the negotiated heartbeat allows.
    HeartbeatTimeout = 103, "heartbeat-timeout";
    /// Too many connections.
    TooManyConnections = 104, "too-many-connections";
    /// The principal may not do this.
    Forbidden = 105, "forbidden";
    /// The broker is stopping.
    ShuttingDown = 106, "shutting-down";
    /// The stream id is in use, unknown or not allowed here.
    BadStream = 107, "bad-stream";
    /// A frame type that the receiver does not take in this direction or state.
    UnexpectedFrame = 108, "unexpected-frame";
    /// More than the allowed number of streams, subscriptions, consumers or requests on a session.
    TooManyStreams = 109, "too-many-streams";
    /// A subscriber that does not read was disconnected.
    SlowReader = 110, "slow-reader";
    /// Chunked messages of this connection need more memory than its reassembly budget.
    ReassemblyBudget = 111, "reassembly-budget";
    /// Outstanding credit would exceed 2^31-1.
    CreditOverflow = 112, "credit-overflow";
    /// A feature this version names but does not have.
    NotSupported = 113, "not-supported";
    /// The publisher sent more than its window without waiting.
    WindowExceeded = 114, "window-exceeded";
    /// The session's credentials have ended and were not renewed.
    CredentialsExpired = 115, "credentials-expired";
    /// Too many connections or failed logins of this address lately.
    TooManyAttempts = 116, "too-many-attempts";
    /// A quota of the tenant is used up.
    QuotaExceeded = 117, "quota-exceeded";
    /// The session went on far above its rate.
    RateExceeded = 118, "rate-exceeded";
    // 200-299: a publish
    /// The channel breaks a rule.
    BadChannel = 200, "bad-channel";
    /// The record's bytes are malformed.
    BadRecord = 201, "bad-record";
    /// The message is larger than allowed.
    MessageTooLarge = 202, "message-too-large";
    /// `disk` was asked where no durable queue captures.
    NoQueue = 203, "no-queue";
    /// A queue that rejects is full.
    QueueFull = 204, "queue-full";
    /// The disk is too full to take messages of this priority.
    StorageFull = 205, "storage-full";
    /// The store failed; whether the message was kept is unknown: send it again with the same id.
    StorageFailed = 206, "storage-failed";
    /// An earlier publish on this stream was refused: resume at its number.
    Fenced = 207, "fenced";
    /// The publish number is not the one expected on this stream.
    BadPublishNumber = 208, "bad-publish-number";
    /// A limit of retained values, channels or delayed messages is reached.
    LimitReached = 209, "limit-reached";
    /// More messages or bytes a second than the principal or its tenant may publish.
    RateLimited = 210, "rate-limited";
    /// The channel's messages must carry a signature of a known key, and this one does not.
    BadSignature = 211, "bad-signature";
    /// `upstream` was asked where no bridge forwards the message.
    NoUpstream = 212, "no-upstream";
    /// The upstream refused the message for good.
    UpstreamRefused = 213, "upstream-refused";
    /// The message was given up before the upstream had it, or whether it has it is not known.
    NotForwarded = 214, "not-forwarded";
    // 300-399: subscribe, consume, history
    /// The filter breaks a rule.
    BadFilter = 300, "bad-filter";
    /// There is no queue of this name.
    UnknownQueue = 301, "unknown-queue";
    /// A `work` queue has one consumer group, and it has another name.
    QueueHasConsumer = 302, "queue-has-consumer";
    /// The name is empty, too long or holds a character that is not allowed.
    BadName = 303, "bad-name";
    /// An ack or nack for a delivery that was never made on this stream.
    NeverDelivered = 304, "never-delivered";
    /// This session already consumes under this name.
    DuplicateConsumer = 305, "duplicate-consumer";
    /// No queue with history captures this channel.
    NoHistory = 306, "no-history";
    /// Options that contradict each other or exceed a limit.
    BadOptions = 307, "bad-options";
    /// Other sessions consume under this name with other filters.
    Conflict = 308, "conflict";
    // 400-499: request and response
    /// Nobody answers on this channel.
    NoResponder = 400, "no-responder";
    /// The deadline passed without an answer.
    DeadlineExceeded = 401, "deadline-exceeded";
    /// The other side gave the request up.
    Cancelled = 402, "cancelled";
    /// The responder failed.
    ResponderFailed = 403, "responder-failed";
    // 500: our fault
    /// A bug or an unexpected failure of the broker.
    Internal = 500, "internal";
}

impl Code {
    /// Whether trying the same again later can help. A retryable nack fences its stream.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::QueueFull
                | Self::StorageFull
                | Self::StorageFailed
                | Self::Fenced
                | Self::LimitReached
                | Self::TooManyAttempts
                | Self::QuotaExceeded
                | Self::RateExceeded
                | Self::RateLimited
                | Self::ShuttingDown
                | Self::TooManyConnections
                | Self::Conflict
                | Self::NoResponder
                | Self::DeadlineExceeded
        )
    }
}

impl From<RecordError> for Code {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Channel(_) => Self::BadChannel,
            RecordError::BufferTooSmall => Self::Internal,
            RecordError::Malformed
            | RecordError::TrailingBytes(_)
            | RecordError::Priority(_)
            | RecordError::Encoding(_)
            | RecordError::Flags(_)
            | RecordError::Properties => Self::BadRecord,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why bytes are not a frame. The peer misbehaved; the one who reads decides to answer with [`WireError::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Not the magic; carries what stood there.
    Magic(u16),
    /// A version this build does not speak.
    Version(u8),
    /// An unknown frame type.
    Type(u8),
    /// Unknown flags among the low eight.
    UnsupportedFlag(u16),
    /// Flags that the type does not allow.
    FlagsContradict,
    /// Head longer than the limit: length, limit.
    HeadTooLarge(u16, u16),
    /// Payload longer than the limit: length, limit.
    PayloadTooLarge(u32, u32),
    /// Checksum: computed, carried.
    Crc(u32, u32),
    /// The head's fields are malformed; carries the frame type.
    Head(u8),
    /// The payload is not what the head announces; carries the frame type.
    Payload(u8),
    /// A buffer to encode into is too small.
    BufferTooSmall,
}

impl WireError {
    /// What the peer is told.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Magic(_) => Code::BadMagic,
            Self::Version(_) => Code::BadVersion,
            Self::Type(_) => Code::UnknownType,
            Self::UnsupportedFlag(_) => Code::UnsupportedFlag,
            Self::FlagsContradict => Code::FlagsContradict,
            Self::HeadTooLarge(..) | Self::Head(_) => Code::BadHead,
            Self::PayloadTooLarge(..) => Code::FrameTooLarge,
            Self::Crc(..) => Code::BadCrc,
            Self::Payload(_) => Code::BadPayload,
            Self::BufferTooSmall => Code::Internal,
        }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A fatal alert of TLS, which is what a TLS port says to a peer without it.
            Self::Magic(0x1503) => f.write_str("it answers in TLS: use tls:// or wss://"),
            Self::Magic(m) => {
                write!(f, "the frame begins with {m:#06x}, not the magic 0x5447: is this a Tidegate peer?")
            }
            Self::Version(v) => write!(f, "frame version {v} is not spoken here; this build speaks 1"),
            Self::Type(t) => write!(f, "frame type {t:#04x} is unknown"),
            Self::UnsupportedFlag(x) => write!(f, "flags {x:#06x} must be understood and are not"),
            Self::FlagsContradict => write!(f, "the flags contradict the frame type or each other"),
            Self::HeadTooLarge(n, max) => write!(f, "the head has {n} bytes; at most {max} are allowed"),
            Self::PayloadTooLarge(n, max) => {
                write!(f, "the payload has {n} bytes; at most {max} were negotiated: send chunks")
            }
            Self::Crc(computed, carried) => {
                write!(f, "the checksum is {carried:#010x}, computed was {computed:#010x}: bytes were damaged")
            }
            Self::Head(t) => write!(f, "the head of frame type {t:#04x} is malformed"),
            Self::Payload(t) => write!(f, "the payload of frame type {t:#04x} is not what its head announces"),
            Self::BufferTooSmall => write!(f, "the buffer is too small for the frame"),
        }
    }
}

impl core::error::Error for WireError {}

#[cfg(all(test, feature = "daemon"))]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_answers_in_tls_is_known_by_its_alert() {
        assert!(WireError::Magic(0x1503).to_string().contains("tls://"));
        assert!(WireError::Magic(0x4854).to_string().contains("0x4854"));
    }
}
