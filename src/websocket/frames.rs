//! Native frames, one binary message each, behind the face of a byte stream.

use super::messages::Role;
use super::{Limits, Message, Messages, close};
use crate::model::limits::{FRAME_PAYLOAD_BYTES_FLOOR, HEAD_BYTES_MAX, HEADER_BYTES};
use crate::wire::{Close, Code, Decoded, ErrorHead, FrameType, MAGIC, decode, frame_len};
use async_tungstenite::tungstenite::Bytes;
use async_tungstenite::tungstenite::protocol::frame::coding::Data;
use smol::io::{AsyncRead, AsyncWrite};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// About the most that waits to be sent, in bytes, beside one frame.
const UNSENT_BYTES: usize = 64 * 1_024;

/// A byte stream whose bytes travel as messages. What is read are whole frames; what is written must be.
#[derive(Debug)]
pub struct Frames<S> {
    messages: Messages<S>,
    /// What is left of the message that is read.
    rest: Bytes,
    /// The end, to be told once what was read before it is.
    later: Option<io::Result<()>>,
    /// Largest payload of a frame once the session is open, in bytes.
    frame_bytes_max: u32,
    /// Before the welcome no frame may be large (proto/frame.md, section 9).
    welcomed: bool,
    /// What to close with: what the last frame said.
    last: Option<(u16, String)>,
}

/// Largest message where frames carry so much.
const fn limits(frame_bytes_max: u32) -> Limits {
    Limits { message_bytes_max: HEADER_BYTES + HEAD_BYTES_MAX + frame_bytes_max as usize }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// The broker's side after the handshake; `already` is what was read behind it.
    #[must_use]
    pub fn server(stream: S, already: Vec<u8>, frame_bytes_max: u32) -> Self {
        let messages = Messages::new(stream, already, Role::Server, limits(FRAME_PAYLOAD_BYTES_FLOOR));
        Self::new(messages, frame_bytes_max, false)
    }

    /// The client's side after the handshake; `already` is what was read behind it.
    #[must_use]
    pub fn client(stream: S, already: Vec<u8>, frame_bytes_max: u32) -> Self {
        Self::new(Messages::new(stream, already, Role::Client, limits(frame_bytes_max)), frame_bytes_max, true)
    }

    fn new(messages: Messages<S>, frame_bytes_max: u32, welcomed: bool) -> Self {
        Self { messages, rest: Bytes::new(), later: None, frame_bytes_max, welcomed, last: None }
    }

    /// Looks at a frame that leaves: a welcome opens the gate, and what ends the session decides the close.
    fn note(&mut self, frame: &[u8]) {
        let kind = frame.get(3).copied();
        if !self.welcomed && kind == Some(FrameType::Welcome as u8) {
            self.welcomed = true;
            self.messages.set_limits(limits(self.frame_bytes_max));
        } else if kind == Some(FrameType::Error as u8) || kind == Some(FrameType::Close as u8) {
            self.last = last_words(frame).or_else(|| self.last.take());
        }
    }

    /// Why a message is not taken.
    fn fault(message: &Message) -> Option<(u16, &'static str)> {
        let Message::Binary(bytes) = message else { return Some((close::UNSUPPORTED, "frames are binary messages")) };
        if bytes.first_chunk().is_some_and(|magic| *magic != MAGIC.to_be_bytes()) {
            // No frame at all: the session says so, as over TCP.
            return None;
        }
        match frame_len(bytes) {
            Some(len) if len == bytes.len() => None,
            Some(len) if len < bytes.len() => Some((close::INVALID, "more than one frame in a message")),
            _ => Some((close::INVALID, "less than one frame in a message")),
        }
    }

    fn end(&mut self, ended: io::Result<()>, got: usize) -> Poll<io::Result<usize>> {
        if got > 0 {
            self.later = Some(ended);
            return Poll::Ready(Ok(got));
        }
        Poll::Ready(ended.map(|()| 0))
    }
}

/// The close code and reason of a frame that ends its session.
fn last_words(frame: &[u8]) -> Option<(u16, String)> {
    let Ok(Decoded::Frame(frame, _)) = decode(frame, u32::MAX) else { return None };
    if frame.header.stream != 0 {
        return None;
    }
    let (code, detail) = match frame.header.kind {
        FrameType::Error => frame.head::<ErrorHead<'_>>().ok().map(|head| (head.code, head.detail)),
        FrameType::Close => frame.head::<Close<'_>>().ok().map(|head| (head.code, head.detail)),
        _ => None,
    }?;
    let known = Code::from_u16(code);
    let number = match known {
        Some(Code::Normal) => close::NORMAL,
        Some(Code::ShuttingDown) => close::GOING_AWAY,
        Some(Code::FrameTooLarge) => close::TOO_LARGE,
        _ => close::OURS.saturating_add(code).min(4_999),
    };
    let name = known.map_or("", Code::name);
    Some((number, if detail.is_empty() { name.into() } else { format!("{name}: {detail}") }))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Frames<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Some(ended) = this.later.take() {
            return Poll::Ready(ended.map(|()| 0));
        }
        if this.messages.has_failed() {
            return this.messages.poll_rest(cx, buffer);
        }
        let mut got = 0;
        loop {
            let n = this.rest.len().min(buffer.len() - got);
            buffer[got..got + n].copy_from_slice(&this.rest.split_to(n));
            got += n;
            if got == buffer.len() {
                return Poll::Ready(Ok(got));
            }
            // A message's bytes are let go of before the next is waited for.
            this.rest = Bytes::new();
            match this.messages.poll_next(cx) {
                Poll::Pending if got == 0 => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(got)),
                Poll::Ready(Ok(None)) => return this.end(Ok(()), got),
                Poll::Ready(Err(error)) => return this.end(Err(error), got),
                Poll::Ready(Ok(Some(message))) => match (Self::fault(&message), message) {
                    (None, Message::Binary(bytes)) => this.rest = bytes,
                    (fault, _) => {
                        let (code, reason) = fault.unwrap_or((close::UNSUPPORTED, "frames are binary messages"));
                        let error = this.messages.fail(cx, code, reason);
                        return this.end(Err(error), got);
                    }
                },
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    /// Takes whole frames only, as many as there is room for.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.messages.poll_ready(cx))?;
        let mut taken = 0;
        while taken < bytes.len() && this.messages.unsent_bytes() < UNSENT_BYTES {
            let rest = &bytes[taken..];
            let Some(frame) = frame_len(rest).and_then(|len| rest.get(..len)) else {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, "not a whole frame to send")));
            };
            this.note(frame);
            this.messages.send(cx, Data::Binary, frame)?;
            taken += frame.len();
        }
        // What does not go now goes with the next call, of whatever kind.
        if let Poll::Ready(Err(error)) = this.messages.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.messages.poll_flush(cx)
    }

    /// Sends a close; the peer's answer ends what is read.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.messages.is_open() {
            let (code, reason) = self.last.take().unwrap_or((close::NORMAL, String::new()));
            self.messages.close(cx, code, &reason);
        }
        self.messages.poll_close(cx)
    }
}
