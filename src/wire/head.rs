//! The typed heads: postcard structs, frozen for version 1. New fields come only as extensions behind them.

use super::codec::Frame;
use super::error::WireError;
use super::header::{FLAG_CONT, FrameType};
use serde::{Deserialize, Serialize};

/// A head and the frame type it belongs to.
pub trait Head<'a>: Serialize + Deserialize<'a> {
    /// The type whose frames carry this head.
    const KIND: FrameType;
}

macro_rules! heads {
    ($($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? : $kind:ident {
        $($(#[$field_doc:meta])* $field:ident : $ty:ty,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name $(<$life>)? { $($(#[$field_doc])* pub $field: $ty,)* }
        heads!(@impl $name $(<$life>)? : $kind);
    )*

        /// The head of any frame: for whoever does not know the type beforehand, such as a trace or a test.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each variant is the struct of its name")]
        pub enum AnyHead<'a> { $($name($name $(<$life>)?),)* }

        impl<'a> Frame<'a> {
            /// Reads the head as what the frame's type says; `None` for a continuation, which has none.
            ///
            /// # Errors
            /// [`WireError::Head`].
            pub fn any_head(&self) -> Result<Option<AnyHead<'a>>, WireError> {
                if self.header.flags & FLAG_CONT != 0 {
                    return Ok(None);
                }
                Ok(Some(match self.header.kind {
                    $(FrameType::$kind => AnyHead::$name(self.head::<$name>()?),)*
                }))
            }
        }
    };
    (@impl $name:ident <$life:lifetime> : $kind:ident) => {
        impl<$life> Head<$life> for $name<$life> { const KIND: FrameType = FrameType::$kind; }
    };
    (@impl $name:ident : $kind:ident) => {
        impl<'a> Head<'a> for $name { const KIND: FrameType = FrameType::$kind; }
    };
}

/// How much must have happened before a publish is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Contract {
    /// Whatever the capturing queues ask; nothing when none captures.
    #[default]
    Queue,
    /// In the broker's memory.
    Memory,
    /// On disk, after fsync.
    Disk,
    /// Acknowledged by the upstream broker.
    Upstream,
}

/// What happened to a message that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Kept as its contract asks.
    Stored,
    /// Its id was seen within the window; the first copy is kept.
    Duplicate,
    /// No queue captures it; it went to live subscribers only.
    LiveOnly,
    /// A full queue's policy dropped it.
    Dropped,
    /// Interim, contract `upstream`: kept here, the final ack follows. Credit is released.
    Accepted,
}

/// Where history begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Since {
    /// No history.
    #[default]
    Now,
    /// The last so many messages.
    Last(u32),
    /// After this offset of this epoch: what a reader missed.
    Offset {
        /// Epoch the offset was read in.
        epoch: u64,
        /// Last offset already seen.
        offset: u64,
    },
    /// Stored at or after this time, milliseconds since 1970.
    Time(u64),
}

/// Where a new consumer begins; an existing one goes on where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// With the oldest message kept.
    #[default]
    First,
    /// With the next message stored.
    New,
    /// With the first message stored at or after this time, milliseconds since 1970.
    Time(u64),
}

heads! {
    /// First frame of a client.
    Hello<'a>: Hello {
        /// Lowest version it speaks.
        version_min: u8,
        /// Highest version it speaks.
        version_max: u8,
        /// Its name in logs and status, at most 128 bytes; may be empty.
        client: &'a str,
        /// Heartbeat it wishes, in milliseconds; 0 leaves it to the broker.
        heartbeat_ms: u32,
        /// Largest frame payload it takes, in bytes; at least 16 KiB.
        frame_bytes_max: u32,
        /// Largest message it takes, in bytes.
        message_bytes_max: u32,
    }
    /// The broker's answer: the session is open.
    Welcome<'a>: Welcome {
        /// Version spoken from here on.
        version: u8,
        /// The broker's name.
        server: &'a str,
        /// The session's number, for logs.
        session: u64,
        /// Each side sends something at least this often, in milliseconds; three times this without a byte is the end.
        heartbeat_ms: u32,
        /// Largest frame payload the broker takes, in bytes.
        frame_bytes_max: u32,
        /// Largest message the broker takes, in bytes.
        message_bytes_max: u32,
        /// Messages the client may have published without an acknowledgement.
        window_messages: u32,
        /// Bytes of records the client may have published without an acknowledgement.
        window_bytes: u32,
        /// The broker's clock, milliseconds since 1970, for boxes without one.
        time_ms: u64,
    }
    /// Credentials, or from the broker a challenge.
    Auth<'a>: Auth {
        /// One of [`super::auth_method`].
        method: u8,
        /// Bytes of the method.
        data: &'a [u8],
    }
    /// A request succeeded. What the numbers mean depends on the request; unused ones are 0.
    Done: Ok {
        /// Epoch of the queue concerned.
        epoch: u64,
        /// Offset, position or count.
        value: u64,
        /// Subscribe and history: whether nothing is missing since the point asked for.
        complete: bool,
    }
    /// A request failed.
    ErrorHead<'a>: Error {
        /// A [`super::Code`].
        code: u16,
        /// Milliseconds after which trying again makes sense; 0 is unknown.
        retry_after_ms: u32,
        /// For people, at most 512 bytes.
        detail: &'a str,
    }
    /// The sender ends the connection.
    Close<'a>: Close {
        /// A [`super::Code`]; 0 is normal.
        code: u16,
        /// For people.
        detail: &'a str,
    }
    /// The connection will end.
    Goaway<'a>: Goaway {
        /// Why.
        code: u16,
        /// Milliseconds until the sender closes.
        deadline_ms: u32,
        /// For people.
        detail: &'a str,
    }
    /// One record in the payload, or its first chunk.
    Publish: Publish {
        /// Contract asked for; the queues' minimum holds in any case.
        contract: Contract,
        /// Its number on this stream: the first may be any, each next is one more.
        number: u64,
        /// Bytes of the whole record, over all chunks.
        total: u32,
    }
    /// Records in the payload, each preceded by its length as a varint.
    Batch: Batch {
        /// Contract asked for.
        contract: Contract,
        /// Number of the first record on this stream.
        first: u64,
        /// Records in the payload, 1 to 16,384.
        count: u32,
    }
    /// Publishes were taken.
    PublishAck: PublishAck {
        /// First number of the range.
        first: u64,
        /// How many.
        count: u32,
        /// What happened to each of them.
        outcome: Outcome,
    }
    /// Publishes were refused.
    PublishNack<'a>: PublishNack {
        /// First number of the range.
        first: u64,
        /// How many.
        count: u32,
        /// A [`super::Code`]. After a retryable one the stream is fenced until this number is sent again.
        code: u16,
        /// Milliseconds after which trying again makes sense; 0 is unknown.
        retry_after_ms: u32,
        /// For people.
        detail: &'a str,
    }
    /// Open a subscription; the stream id is the client's choice.
    Subscribe<'a>: Subscribe {
        /// What to hear.
        filter: &'a str,
        /// Send the retained values that match first.
        retained: bool,
        /// Send history first (the filter must be a plain channel).
        since: Since,
        /// Answer requests on these channels instead of hearing messages.
        respond: bool,
        /// When this session reads too slowly: false drops and tells, true disconnects.
        disconnect_when_slow: bool,
    }
    /// Records follow in the payload as [`DeliverItem`]s, or one item's first chunk.
    Deliver: Deliver {
        /// Epoch of the queue they come from; 0 for live-only messages.
        epoch: u64,
        /// Tag of the first item, for ack and nack; each next is one more. 0 on subscriptions.
        first_tag: u64,
        /// Items in the payload.
        count: u32,
        /// Bytes of the whole payload, over all chunks.
        total: u32,
    }
    /// A slow reader lost messages on this stream.
    Dropped: Dropped {
        /// Messages lost since the last such frame.
        count: u64,
        /// Their bytes.
        bytes: u64,
        /// A [`super::Code`]: why.
        code: u16,
    }
    /// Open a durable consumer; the payload is its filters, each a postcard string; none means everything.
    Consume<'a>: Consume {
        /// The queue.
        queue: &'a str,
        /// The consumer's name; sessions that share it compete.
        name: &'a str,
        /// Where it begins if it is new.
        start: Start,
        /// Most deliveries not yet acknowledged over all its sessions; 0 leaves it to the broker.
        window: u32,
        /// Attempts before a message becomes a dead letter; 0 leaves it to the broker.
        attempts_max: u32,
        /// Milliseconds without an answer after which a delivery is made again; 0 is never while the session lives.
        ack_timeout_ms: u32,
        /// First delay after a nack without one, in milliseconds; doubles each time. 0 leaves it to the broker.
        backoff_ms: u32,
        /// Number of filters in the payload.
        filters: u32,
        /// Credit to begin with, in messages.
        credit_messages: u32,
        /// Credit to begin with, in bytes.
        credit_bytes: u32,
    }
    /// Deliveries are done.
    Ack: Ack {
        /// First tag.
        first: u64,
        /// How many.
        count: u32,
    }
    /// Deliveries failed.
    Nack<'a>: Nack {
        /// First tag.
        first: u64,
        /// How many.
        count: u32,
        /// Milliseconds before the next attempt; 0 leaves it to the backoff.
        delay_ms: u32,
        /// No further attempt: dead letter.
        give_up: bool,
        /// For people.
        reason: &'a str,
    }
    /// More may be sent; adds to what is left.
    Credit: Credit {
        /// Messages.
        messages: u32,
        /// Bytes of records.
        bytes: u32,
    }
    /// Hold this stream.
    Pause: Pause {
        /// A [`super::Code`]: why; 0 on request.
        code: u16,
    }
    /// Past messages; answered by deliver frames and an ok.
    History<'a>: History {
        /// The channel.
        channel: &'a str,
        /// Where to begin.
        since: Since,
        /// Most messages; 0 leaves it to the broker.
        limit: u32,
    }
    /// A question; the body is the payload.
    Request<'a>: Request {
        /// Who is asked.
        channel: &'a str,
        /// Milliseconds the asker waits.
        deadline_ms: u32,
        /// Bytes of the whole body, over all chunks.
        total: u32,
        /// Properties, encoded as in a record, at most 2 KiB.
        properties: &'a [u8],
    }
    /// An answer or a part of it; the body is the payload.
    Response<'a>: Response {
        /// 0 is success; else the application's own.
        status: u16,
        /// Whether this is the last part.
        last: bool,
        /// Bytes of the whole body, over all chunks.
        total: u32,
        /// Trailers, encoded as properties, at most 2 KiB; empty unless `last`.
        trailers: &'a [u8],
    }
    /// The request of this stream is given up.
    Cancel: Cancel {
        /// A [`super::Code`].
        code: u16,
    }
    /// What became of a message handed to an adapter (reserved for the delivery adapters).
    Report<'a>: Report {
        /// The message.
        id: [u8; 16],
        /// State by number, see `proto/frame.md`.
        state: u8,
        /// Attempt, from 1.
        attempt: u32,
        /// When, milliseconds since 1970.
        time_ms: u64,
        /// The provider's words.
        detail: &'a str,
    }
    /// Are you there.
    Ping: Ping {
        /// Comes back in the pong.
        nonce: u64,
    }
    /// The answer to a ping.
    Pong: Pong {
        /// The ping's nonce.
        nonce: u64,
    }
    /// Credentials renewed within a session.
    Reauth<'a>: Reauth {
        /// As in auth.
        method: u8,
        /// As in auth.
        data: &'a [u8],
    }
    /// End a subscription or a consumer's session.
    Unsubscribe: Unsubscribe {}
    /// Go on.
    Resume: Resume {}
}

/// Flags of a [`DeliverItem`].
pub mod item_flag {
    /// Delivered before, perhaps without being processed.
    pub const REDELIVERED: u8 = 1;
    /// A retained value, not a new message.
    pub const RETAINED: u8 = 2;
    /// From history, not live.
    pub const HISTORY: u8 = 4;
    /// `offset` counts in this channel's history.
    pub const HAS_OFFSET: u8 = 8;
}

/// One record in a deliver frame: this postcard struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverItem<'a> {
    /// Bits of [`item_flag`].
    pub flags: u8,
    /// Lane (priority) it travels in.
    pub lane: u8,
    /// Sequence in queue and lane, from 1; 0 when no queue is behind it.
    pub seq: u64,
    /// Offset in its channel, when the flag says so.
    pub offset: u64,
    /// Attempt, from 1.
    pub attempt: u32,
    /// When the broker took it, milliseconds since 1970.
    pub stored_ms: u64,
    /// The record.
    #[serde(serialize_with = "as_block")]
    pub record: &'a [u8],
}

/// `&[u8]` alone is serialised a byte at a time; the bytes are the same.
fn as_block<S: serde::Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl<'a> DeliverItem<'a> {
    /// Reads the first item of a deliver payload and returns what follows it.
    ///
    /// # Errors
    /// [`WireError::Payload`].
    pub fn take(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        postcard::take_from_bytes(bytes).map_err(|_| WireError::Payload(FrameType::Deliver as u8))
    }
}

/// Tag of the extension behind hello and welcome that names the encodings of payloads a side takes, a byte each.
pub const EXTENSION_ENCODINGS: u32 = 2;
/// Payloads compressed with LZ4, among [`EXTENSION_ENCODINGS`].
pub const ENCODING_LZ4: u8 = 1;

/// One extension behind a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Which: behind hello [`super::EXTENSION_AUTH_METHODS`], behind hello and welcome [`super::EXTENSION_ENCODINGS`]. A tag
    /// appears at most once in a head.
    pub tag: u32,
    /// Its bytes.
    pub value: &'a [u8],
}

/// A head with extensions behind it, to be encoded where a bare head could be.
#[derive(Clone, Copy, Debug)]
pub struct Extended<'e, H> {
    /// The head.
    pub head: H,
    /// What follows it.
    pub extensions: &'e [Extension<'e>],
}

impl<H: Serialize> Serialize for Extended<'_, H> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        // A postcard tuple is its elements and nothing between them.
        let mut tuple = serializer.serialize_tuple(1 + self.extensions.len())?;
        tuple.serialize_element(&self.head)?;
        for extension in self.extensions {
            tuple.serialize_element(&(extension.tag, extension.value))?;
        }
        tuple.end()
    }
}

/// Extensions behind a head: `(tag varint, length varint, bytes)`, checked; readers skip the tags they do not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a>(&'a [u8]);

impl<'a> Extensions<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = take_extension(rest)?;
        }
        Some(Self(bytes))
    }

    /// The extensions in order.
    pub fn iter(self) -> impl Iterator<Item = Extension<'a>> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let (extension, after) = take_extension(rest)?;
            rest = after;
            Some(extension)
        })
    }

    /// The value of a tag; of the first when a peer sent it twice.
    #[must_use]
    pub fn get(self, tag: u32) -> Option<&'a [u8]> {
        self.iter().find(|e| e.tag == tag).map(|e| e.value)
    }
}

fn take_extension(bytes: &[u8]) -> Option<(Extension<'_>, &[u8])> {
    let ((tag, value), rest) = postcard::take_from_bytes::<(u32, &[u8])>(bytes).ok()?;
    Some((Extension { tag, value }, rest))
}
