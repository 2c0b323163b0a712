//! Whole messages over a byte stream, both ways, with a bound on all that is held.

use super::close;
use async_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use async_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use async_tungstenite::tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use async_tungstenite::tungstenite::protocol::{WebSocketConfig, WebSocketContext};
use async_tungstenite::tungstenite::{Bytes, Error, Utf8Bytes};
use smol::io::{AsyncRead, AsyncWrite};
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

pub use async_tungstenite::tungstenite::protocol::Role;

/// What is read at once, and held for an idle connection, in bytes.
const READ_BYTES: usize = 4 * 1_024;
/// What a message may cost beyond its bytes, in bytes: headers of fragments, and control frames between messages.
const OVERHEAD_BYTES: usize = 64 * 1_024;
/// Pongs that may wait, in bytes; beyond it nothing is read until the peer reads.
const REPLIES_BYTES_MAX: usize = 16 * 1_024;
/// Control frames answered before others get their turn.
const CONTROLS_MAX: u32 = 64;
/// Longest reason of a close (RFC 6455, section 5.5), in bytes.
const REASON_BYTES_MAX: usize = 123;

/// What a peer may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message, in bytes.
    pub message_bytes_max: usize,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Bytes.
    Binary(Bytes),
    /// UTF-8.
    Text(Utf8Bytes),
}

/// A WebSocket after its handshake.
///
/// What waits to leave is in `unsent`; tungstenite's own buffer is empty but within a call, except for its one reply.
#[derive(Debug)]
pub struct Messages<S> {
    stream: S,
    context: WebSocketContext,
    role: Role,
    unsent: Unsent,
    /// Bytes that may still be read before a whole message is there.
    left: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The peer broke a rule: our close is on its way, and nothing that comes is looked at any more.
    Failed,
    /// Both have closed, or the peer is gone.
    Over,
}

#[derive(Debug, Default)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
    /// How many of them are replies that the peer asked for.
    replies: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Messages<S> {
    /// After the handshake; `already` is what was read behind it.
    #[must_use]
    pub fn new(stream: S, already: Vec<u8>, role: Role, limits: Limits) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            // Everything goes to `unsent` at once.
            .write_buffer_size(0)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(Some(limits.message_bytes_max))
            .max_frame_size(Some(limits.message_bytes_max))
            .accept_unmasked_frames(false);
        let context = WebSocketContext::from_partially_read(already, role, Some(config));
        let left = budget(limits.message_bytes_max);
        Self { stream, context, role, unsent: Unsent::default(), left, phase: Phase::Open }
    }

    /// Takes messages of another size from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.context.set_config(|config| {
            config.max_message_size = Some(limits.message_bytes_max);
            config.max_frame_size = Some(limits.message_bytes_max);
        });
        self.left = budget(limits.message_bytes_max);
    }

    /// Whether messages can be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open && self.context.can_write()
    }

    /// Whether the peer broke a rule and is to go; [`Self::poll_rest`] reads the rest of what it sends.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.phase == Phase::Failed
    }

    /// The next message; `None` when both sides have closed or the peer is gone. Pings are answered.
    ///
    /// # Errors
    /// `InvalidData` when the peer broke a rule and is told so by a close that [`Self::poll_flush`] sends; otherwise what
    /// the stream says.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Message>>> {
        for _ in 0..CONTROLS_MAX {
            let drained = self.poll_drain(cx)?;
            match self.phase {
                Phase::Open => {}
                Phase::Failed => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Phase::Over => return drained.map(|()| Ok(None)),
            }
            if self.unsent.replies > REPLIES_BYTES_MAX {
                return Poll::Pending;
            }
            let mut bridge =
                Bridge { stream: &mut self.stream, unsent: &mut self.unsent, left: &mut self.left, cx: &mut *cx };
            let before = bridge.unsent.bytes.len();
            let read = self.context.read(&mut bridge);
            self.unsent.replies += self.unsent.bytes.len().saturating_sub(before);
            match read {
                Ok(async_tungstenite::tungstenite::Message::Binary(bytes)) => {
                    return self.whole(Message::Binary(bytes));
                }
                Ok(async_tungstenite::tungstenite::Message::Text(text)) => return self.whole(Message::Text(text)),
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_drain(cx))?;
                    return Poll::Pending;
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::InvalidData && self.left == 0 => {
                    return Poll::Ready(Err(self.fail(cx, close::POLICY, "a message in too many pieces")));
                }
                Err(error) => {
                    if let Some(error) = self.refuse(cx, error) {
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn whole(&mut self, message: Message) -> Poll<io::Result<Option<Message>>> {
        self.left = budget(self.context.get_config().max_message_size.unwrap_or_default());
        Poll::Ready(Ok(Some(message)))
    }

    /// What an error of the state machine means; `None` is the end.
    fn refuse(&mut self, cx: &mut Context<'_>, error: Error) -> Option<io::Error> {
        match error {
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                self.phase = Phase::Over;
                None
            }
            Error::Io(error) => Some(error),
            Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                let reason = format!("a message of {size} bytes; at most {max_size} are taken");
                Some(self.fail(cx, close::TOO_LARGE, &reason))
            }
            Error::Utf8(_) => Some(self.fail(cx, close::INVALID, "text that is not UTF-8")),
            other => Some(self.fail(cx, close::PROTOCOL, &other.to_string())),
        }
    }

    /// Tells the peer what it did wrong; nothing it sends is looked at from now on. Returns the error to end with.
    pub fn fail(&mut self, cx: &mut Context<'_>, code: u16, reason: &str) -> io::Error {
        self.close(cx, code, reason);
        self.phase = Phase::Failed;
        io::Error::new(io::ErrorKind::InvalidData, format!("{reason} (closed with {code})"))
    }

    /// Queues our close, once; the peer's answer is the end that [`Self::poll_next`] tells.
    pub fn close(&mut self, cx: &mut Context<'_>, code: u16, reason: &str) {
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason[..end].into() };
        let mut bridge = Bridge { stream: &mut self.stream, unsent: &mut self.unsent, left: &mut self.left, cx };
        // It is queued, or a close went out before; the bridge takes all there is.
        if let Err(error) = self.context.close(&mut bridge, Some(frame)) {
            log::trace!("a close was not queued: {error}");
        }
    }

    /// Queues a binary message. The caller waits for [`Self::poll_ready`] before a first one, and so bounds what waits.
    ///
    /// # Errors
    /// `BrokenPipe` after a close.
    pub fn send(&mut self, cx: &mut Context<'_>, kind: Data, bytes: &[u8]) -> io::Result<()> {
        if !self.is_open() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.role == Role::Server {
            // Unmasked, so that one copy does; tungstenite has nothing of its own in between.
            let header = FrameHeader { opcode: OpCode::Data(kind), ..FrameHeader::default() };
            let formatted = header.format(bytes.len() as u64, &mut self.unsent.bytes);
            formatted.map_err(io::Error::other)?;
            self.unsent.bytes.extend_from_slice(bytes);
            return Ok(());
        }
        let message = match kind {
            Data::Text => async_tungstenite::tungstenite::Message::Text(
                Utf8Bytes::try_from(bytes.to_vec()).map_err(io::Error::other)?,
            ),
            _ => async_tungstenite::tungstenite::Message::Binary(Bytes::copy_from_slice(bytes)),
        };
        let mut bridge = Bridge { stream: &mut self.stream, unsent: &mut self.unsent, left: &mut self.left, cx };
        self.context.write(&mut bridge, message).map_err(|error| match error {
            Error::Io(error) => error,
            other => io::Error::other(other),
        })
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.bytes.len() - self.unsent.sent
    }

    /// Ready when nothing waits to be sent.
    ///
    /// # Errors
    /// What the stream says.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// What the stream says.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Sends what waits; after a failure also ends our half of the stream, since the peer's answer is not looked at.
    ///
    /// # Errors
    /// What the stream says.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        if self.has_failed() { Pin::new(&mut self.stream).poll_close(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Bytes of a peer that was told to go; nobody looks at them.
    ///
    /// # Errors
    /// What the stream says.
    pub fn poll_rest(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Unsent { bytes, sent, replies } = &mut self.unsent;
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while *sent < bytes.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[*sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => *sent += n,
            }
        }
        (*bytes, *sent, *replies) = (Vec::new(), 0, 0);
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

/// A message of this size, and as much again for one that comes in small pieces.
const fn budget(message_bytes_max: usize) -> usize {
    2 * message_bytes_max + OVERHEAD_BYTES
}

/// The stream as tungstenite knows streams.
struct Bridge<'a, 'w, S> {
    stream: &'a mut S,
    unsent: &'a mut Unsent,
    left: &'a mut usize,
    cx: &'a mut Context<'w>,
}

impl<S: AsyncRead + Unpin> Read for Bridge<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(*self.left);
        if room == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match Pin::new(&mut *self.stream).poll_read(self.cx, &mut buffer[..room]) {
            Poll::Ready(Ok(n)) => {
                *self.left -= n;
                Ok(n)
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S> Write for Bridge<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unsent.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
