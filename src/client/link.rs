//! One connection as the client sees it, without its bytes: handshake, sequence, heartbeats and what a frame means.
//!
//! `Link` owns no buffer, so that [`super::Core`] (fixed buffers, no alloc) and the daemon-side client (vectors) share
//! every rule. Times are monotonic milliseconds from any start; they are always arguments.

use crate::model::limits::HEADER_BYTES;
use crate::wire::{
    Auth, Cancel, Close, Code, Deliver, Done, Dropped, ENCODING_LZ4, EXTENSION_ENCODINGS, ErrorHead, FLAG_CONT,
    FLAG_MORE, Frame, FrameType, Goaway, Hello, Pause, Ping, Pong, PublishAck, PublishNack, Request, Response, VERSION,
    Welcome, WireError, encode, seal,
};
use core::fmt;

/// Heartbeat assumed until the broker names one, in milliseconds.
pub const HEARTBEAT_MS_DEFAULT: u32 = 15_000;
/// Heartbeats without a byte after which a link is dead.
pub const HEARTBEATS_MISSED_MAX: u64 = 3;
/// Room [`Link::poll_control`] needs, in bytes: one pong and one ping at their longest.
pub const CONTROL_BYTES_MAX: usize = 2 * (HEADER_BYTES + 10);

/// The terms of a session, from the broker's welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The session's number in the broker's log.
    pub session: u64,
    /// Each side sends something at least this often, in milliseconds.
    pub heartbeat_ms: u32,
    /// Largest frame payload the broker takes, in bytes.
    pub frame_bytes_max: u32,
    /// Largest record the broker takes, in bytes.
    pub message_bytes_max: u32,
    /// Publishes that may be unanswered, in messages.
    pub window_messages: u32,
    /// Publishes that may be unanswered, in bytes of records.
    pub window_bytes: u32,
    /// The broker's clock at the welcome, milliseconds since 1970.
    pub time_ms: u64,
    /// Whether the broker takes payloads that are compressed with LZ4.
    pub lz4: bool,
}

/// What a frame from the broker means. Borrows from the frame's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The broker asks for credentials: answer with an auth frame.
    Challenge {
        /// One of [`crate::wire::auth_method`].
        method: u8,
        /// What is to be signed, for a key.
        data: &'a [u8],
    },
    /// The session is open.
    Welcome(Welcome<'a>),
    /// A request on this stream succeeded.
    Done {
        /// The stream.
        stream: u32,
        /// Its numbers.
        done: Done,
    },
    /// A request on this stream failed; on stream 0 the session did.
    Error {
        /// The stream.
        stream: u32,
        /// Why.
        error: ErrorHead<'a>,
    },
    /// Publishes were taken.
    PublishAck {
        /// The stream.
        stream: u32,
        /// Which, and what happened to them.
        ack: PublishAck,
    },
    /// Publishes were refused.
    PublishNack {
        /// The stream.
        stream: u32,
        /// Which, and why.
        nack: PublishNack<'a>,
    },
    /// Records: [`crate::wire::DeliverItem`]s one after another, or the first chunk of one item when `more`.
    Deliver {
        /// The stream.
        stream: u32,
        /// Epoch, first tag, count.
        head: Deliver,
        /// The items.
        payload: &'a [u8],
        /// Whether [`Event::Chunk`]s follow.
        more: bool,
    },
    /// This reader was too slow and lost messages.
    Dropped {
        /// The stream.
        stream: u32,
        /// How many.
        dropped: Dropped,
    },
    /// Hold publishes of this stream.
    Pause {
        /// The stream.
        stream: u32,
        /// Why, a [`Code`].
        code: u16,
    },
    /// Go on with this stream.
    Resume {
        /// The stream.
        stream: u32,
    },
    /// Someone asks; answer on this stream.
    Request {
        /// The stream, chosen by the broker.
        stream: u32,
        /// The channel, the deadline, the properties.
        head: Request<'a>,
        /// The body or its first chunk.
        payload: &'a [u8],
        /// Whether [`Event::Chunk`]s follow.
        more: bool,
    },
    /// An answer, or a part of one.
    Response {
        /// The stream of the request.
        stream: u32,
        /// Status, whether it is the last, trailers.
        head: Response<'a>,
        /// The body or its first chunk.
        payload: &'a [u8],
        /// Whether [`Event::Chunk`]s follow.
        more: bool,
    },
    /// A request was given up.
    Cancel {
        /// The stream.
        stream: u32,
        /// Why, a [`Code`].
        code: u16,
    },
    /// The next chunk of a message begun on this stream.
    Chunk {
        /// The stream.
        stream: u32,
        /// Type of the frame it continues.
        kind: FrameType,
        /// Its bytes.
        payload: &'a [u8],
        /// Whether more follow.
        more: bool,
    },
    /// The answer to a ping of ours. Life was noted already.
    Pong,
    /// A ping of the broker. The answer is queued already.
    Ping,
    /// The broker will close the connection soon: start nothing new on it.
    Goaway(Goaway<'a>),
    /// The broker closes the connection.
    Close(Close<'a>),
    /// A frame of no interest to a client.
    Ignored,
}

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// The broker sent what is not a frame.
    Wire(WireError),
    /// Sequence numbers are not consecutive: expected, found.
    Sequence(u32, u32),
    /// A frame the broker may not send in this state.
    Unexpected(FrameType),
    /// The broker speaks another version.
    Version(u8),
    /// Three heartbeats passed without a byte.
    Dead,
    /// No welcome came in time.
    HandshakeTimeout,
}

impl LinkError {
    /// What the broker is told before the link is closed.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Wire(e) => e.code(),
            Self::Sequence(..) => Code::BadSequence,
            Self::Unexpected(_) => Code::UnexpectedFrame,
            Self::Version(_) => Code::BadVersion,
            Self::Dead => Code::HeartbeatTimeout,
            Self::HandshakeTimeout => Code::HandshakeTimeout,
        }
    }
}

impl From<WireError> for LinkError {
    fn from(e: WireError) -> Self {
        Self::Wire(e)
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(e) => e.fmt(f),
            Self::Sequence(expected, found) => {
                write!(f, "the broker's frame {found} came where {expected} was due: frames were lost")
            }
            Self::Unexpected(kind) => write!(f, "the broker sent a {} frame where it may not", kind.name()),
            Self::Version(v) => write!(f, "the broker chose frame version {v}; this build speaks {VERSION}"),
            Self::Dead => write!(f, "nothing was heard from the broker for three heartbeats"),
            Self::HandshakeTimeout => write!(f, "the broker did not answer the hello in time"),
        }
    }
}

impl core::error::Error for LinkError {}

/// The state of one connection. Make a new one for each.
#[derive(Clone, Debug)]
pub struct Link {
    terms: Option<Terms>,
    tx_sequence: u32,
    rx_sequence: u32,
    opened_ms: u64,
    heard_ms: u64,
    sent_ms: u64,
    heartbeat_ms: u64,
    ping_nonce: u64,
    ping_due: bool,
    pong_due: Option<u64>,
}

impl Link {
    /// A link that was opened now and is to send its hello.
    #[must_use]
    pub const fn new(now_ms: u64) -> Self {
        Self {
            terms: None,
            tx_sequence: 0,
            rx_sequence: 0,
            opened_ms: now_ms,
            heard_ms: now_ms,
            sent_ms: now_ms,
            heartbeat_ms: HEARTBEAT_MS_DEFAULT as u64,
            ping_nonce: 0,
            ping_due: false,
            pong_due: None,
        }
    }

    /// The terms, once the broker said welcome.
    #[must_use]
    pub const fn terms(&self) -> Option<&Terms> {
        self.terms.as_ref()
    }

    /// A hello that speaks this build's version.
    #[must_use]
    pub const fn hello(client: &str, heartbeat_ms: u32, frame_bytes_max: u32, message_bytes_max: u32) -> Hello<'_> {
        Hello { version_min: VERSION, version_max: VERSION, client, heartbeat_ms, frame_bytes_max, message_bytes_max }
    }

    /// Notes that bytes arrived: any byte is life.
    pub const fn heard(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    /// Gives an encoded frame its place in the sequence and its checksum. Frames must leave in the order of this call.
    pub fn seal(&mut self, frame: &mut [u8]) {
        seal(frame, self.tx_sequence);
        self.tx_sequence = self.tx_sequence.wrapping_add(1);
    }

    /// Notes that bytes were given to the transport.
    pub const fn sent(&mut self, now_ms: u64) {
        self.sent_ms = now_ms;
    }

    /// Whether a pong or ping waits for [`Link::poll_control`].
    #[must_use]
    pub const fn has_control(&self) -> bool {
        self.ping_due || self.pong_due.is_some()
    }

    /// Asks the broker for a sign of life, with the next control frames.
    pub const fn ping(&mut self) {
        self.ping_due = true;
    }

    /// Writes the pong and ping that are due, sealed, and returns their length; nothing when `out` has not
    /// [`CONTROL_BYTES_MAX`] bytes. Call it before sealing anything else, so that heartbeats pass the backlog.
    pub fn poll_control(&mut self, out: &mut [u8]) -> usize {
        if !self.has_control() || out.len() < CONTROL_BYTES_MAX {
            return 0;
        }
        let mut len = 0;
        if let Some(nonce) = self.pong_due.take() {
            len += encode(&mut out[len..], 0, 0, self.tx_sequence, &Pong { nonce }, &[])
                .expect("CONTROL_BYTES_MAX holds a pong");
            self.tx_sequence = self.tx_sequence.wrapping_add(1);
        }
        if core::mem::take(&mut self.ping_due) {
            self.ping_nonce = self.ping_nonce.wrapping_add(1);
            len += encode(&mut out[len..], 0, 0, self.tx_sequence, &Ping { nonce: self.ping_nonce }, &[])
                .expect("CONTROL_BYTES_MAX holds a ping behind a pong");
            self.tx_sequence = self.tx_sequence.wrapping_add(1);
        }
        len
    }

    /// When to call [`Link::handle_timeout`] next.
    #[must_use]
    pub const fn poll_timeout(&self) -> u64 {
        let dead = self.heard_ms.saturating_add(self.heartbeat_ms.saturating_mul(HEARTBEATS_MISSED_MAX));
        if self.terms.is_none() {
            return self.opened_ms.saturating_add(self.heartbeat_ms);
        }
        let ping = self.sent_ms.saturating_add(self.heartbeat_ms);
        // A ping that is due and could not leave yet must not make the caller spin.
        if self.ping_due || dead < ping { dead } else { ping }
    }

    /// The time of [`Link::poll_timeout`] may have come: queues a ping when nothing was sent for a heartbeat.
    ///
    /// # Errors
    /// [`LinkError::Dead`] or [`LinkError::HandshakeTimeout`].
    pub fn handle_timeout(&mut self, now_ms: u64) -> Result<(), LinkError> {
        if self.terms.is_none() {
            return if now_ms.saturating_sub(self.opened_ms) >= self.heartbeat_ms {
                Err(LinkError::HandshakeTimeout)
            } else {
                Ok(())
            };
        }
        if now_ms.saturating_sub(self.heard_ms) >= self.heartbeat_ms.saturating_mul(HEARTBEATS_MISSED_MAX) {
            return Err(LinkError::Dead);
        }
        if now_ms.saturating_sub(self.sent_ms) >= self.heartbeat_ms {
            self.ping_due = true;
        }
        Ok(())
    }

    /// Takes one decoded frame and says what it means.
    ///
    /// # Errors
    /// Any [`LinkError`] but the timeouts; the link is then to be closed.
    pub fn handle_frame<'a>(&mut self, frame: &Frame<'a>) -> Result<Event<'a>, LinkError> {
        let header = &frame.header;
        if header.sequence != self.rx_sequence {
            return Err(LinkError::Sequence(self.rx_sequence, header.sequence));
        }
        self.rx_sequence = self.rx_sequence.wrapping_add(1);
        let (stream, kind) = (header.stream, header.kind);
        let greeting = matches!(kind, FrameType::Welcome | FrameType::Auth);
        let ending = matches!(kind, FrameType::Error | FrameType::Close | FrameType::Goaway);
        if self.terms.is_none() && !greeting && !ending || self.terms.is_some() && greeting {
            return Err(LinkError::Unexpected(kind));
        }
        let more = header.flags & FLAG_MORE != 0;
        if header.flags & FLAG_CONT != 0 {
            return Ok(Event::Chunk { stream, kind, payload: frame.payload, more });
        }
        let payload = frame.payload;
        Ok(match kind {
            FrameType::Welcome => {
                let (welcome, extensions) = frame.head_with_extensions::<Welcome<'a>>()?;
                if welcome.version != VERSION {
                    return Err(LinkError::Version(welcome.version));
                }
                let encodings = extensions.get(EXTENSION_ENCODINGS).unwrap_or_default();
                self.open(&welcome, encodings.contains(&ENCODING_LZ4));
                Event::Welcome(welcome)
            }
            FrameType::Auth => {
                let head: Auth<'a> = frame.head()?;
                Event::Challenge { method: head.method, data: head.data }
            }
            FrameType::Ok => Event::Done { stream, done: frame.head()? },
            FrameType::Error => Event::Error { stream, error: frame.head()? },
            FrameType::PublishAck => Event::PublishAck { stream, ack: frame.head()? },
            FrameType::PublishNack => Event::PublishNack { stream, nack: frame.head()? },
            FrameType::Deliver => Event::Deliver { stream, head: frame.head()?, payload, more },
            FrameType::Dropped => Event::Dropped { stream, dropped: frame.head()? },
            FrameType::Pause => Event::Pause { stream, code: frame.head::<Pause>()?.code },
            FrameType::Resume => Event::Resume { stream },
            FrameType::Request => Event::Request { stream, head: frame.head()?, payload, more },
            FrameType::Response => Event::Response { stream, head: frame.head()?, payload, more },
            FrameType::Cancel => Event::Cancel { stream, code: frame.head::<Cancel>()?.code },
            FrameType::Ping => {
                self.pong_due = Some(frame.head::<Ping>()?.nonce);
                Event::Ping
            }
            FrameType::Pong => {
                let _: Pong = frame.head()?;
                Event::Pong
            }
            FrameType::Goaway => Event::Goaway(frame.head()?),
            FrameType::Close => Event::Close(frame.head()?),
            FrameType::Credit | FrameType::Report => Event::Ignored,
            FrameType::Hello
            | FrameType::Reauth
            | FrameType::Publish
            | FrameType::Batch
            | FrameType::Subscribe
            | FrameType::Unsubscribe
            | FrameType::Consume
            | FrameType::Ack
            | FrameType::Nack
            | FrameType::History => return Err(LinkError::Unexpected(kind)),
        })
    }

    fn open(&mut self, welcome: &Welcome<'_>, lz4: bool) {
        if welcome.heartbeat_ms > 0 {
            self.heartbeat_ms = u64::from(welcome.heartbeat_ms);
        }
        self.terms = Some(Terms {
            session: welcome.session,
            heartbeat_ms: welcome.heartbeat_ms,
            frame_bytes_max: welcome.frame_bytes_max,
            message_bytes_max: welcome.message_bytes_max,
            window_messages: welcome.window_messages,
            window_bytes: welcome.window_bytes,
            time_ms: welcome.time_ms,
            lz4,
        });
    }
}
