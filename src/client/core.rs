//! The client's state machine with buffers of a fixed size: no clock, socket, task or allocation.
//!
//! The caller owns the transport. It calls [`Core::connect`] once a connection, feeds what it reads to
//! [`Core::receive`], drains [`Core::poll_event`], writes what [`Core::poll_transmit`] shows and wakes up no later than
//! [`Core::poll_timeout`]. Whatever does not fit answers [`CoreError::Full`] and changes nothing.

use super::link::{CONTROL_BYTES_MAX, Event, Link, LinkError, Terms};
use crate::model::limits::{CHUNK_BYTES_MAX, FRAME_PAYLOAD_BYTES_FLOOR, HEADER_BYTES};
use crate::model::{Record, RecordError};
use crate::wire::{
    Ack, Auth, Close, Code, Consume, Contract, Credit, Decoded, EXTENSION_AUTH_METHODS, Extended, Extension, FrameType,
    Head, Header, Nack, Outcome, Publish, PublishAck, PublishNack, Reauth, Request, Subscribe, Unsubscribe, WireError,
    decode, encode_into,
};
use core::fmt;
use heapless::Vec;

/// Stream this client publishes on.
pub const PUBLISH_STREAM: u32 = 1;
/// Longest publish head, in bytes: contract, number, total.
const PUBLISH_HEAD_BYTES_MAX: usize = 1 + 10 + 5;

/// Why the core could not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreError {
    /// The link is over: connect again.
    Link(LinkError),
    /// The transmit buffer has no room: send what [`Core::poll_transmit`] shows, then try again.
    Full,
    /// The broker's frame needs more bytes than the receive buffer has: needed, capacity. Connect again.
    ReceiveBuffer(usize, usize),
    /// No welcome came yet.
    NotOpen,
    /// The window is used up: wait for acknowledgements.
    Window,
    /// A publish was refused; call [`Core::resume`] with this number, then publish it again.
    Fenced(u64),
    /// The record is larger than one frame may carry, or than the broker takes.
    TooLarge(usize),
    /// The record cannot be written.
    Record(RecordError),
}

impl From<LinkError> for CoreError {
    fn from(e: LinkError) -> Self {
        Self::Link(e)
    }
}

impl fmt::Display for CoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(e) => e.fmt(f),
            Self::Full => write!(f, "the transmit buffer is full: send first"),
            Self::ReceiveBuffer(need, have) => {
                write!(f, "a frame of {need} bytes does not fit the receive buffer of {have}")
            }
            Self::NotOpen => write!(f, "the broker has not said welcome yet"),
            Self::Window => write!(f, "the publish window is used up: wait for acknowledgements"),
            Self::Fenced(number) => write!(f, "publish {number} was refused: resume there"),
            Self::TooLarge(n) => write!(f, "a record of {n} bytes is too large to be published here"),
            Self::Record(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for CoreError {}

/// One connection of a client: `TX` bytes may wait to be sent, a frame of at most `RX` bytes can be received.
///
/// `TX` and `RX` of 1,024 do for a device that publishes small messages. One that consumes bounds what it is sent by
/// the bytes of credit it gives; a record, its frame and its item take about 128 bytes more than the payload.
pub struct Core<const TX: usize, const RX: usize> {
    link: Link,
    tx: Vec<u8, TX>,
    tx_sent: usize,
    rx: Vec<u8, RX>,
    /// Bytes at the start of `rx` that the last event borrowed from.
    rx_used: usize,
    next_number: u64,
    unanswered: u32,
    unanswered_bytes: u32,
    /// Publishes below this number had their interim `accepted` and count no more.
    accepted_below: u64,
    fence: Option<u64>,
    paused: bool,
}

impl<const TX: usize, const RX: usize> Default for Core<TX, RX> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const TX: usize, const RX: usize> Core<TX, RX> {
    const CAPACITIES_HOLD_CONTROL: () = assert!(TX >= CONTROL_BYTES_MAX && RX >= 2 * HEADER_BYTES);

    /// A core that is not connected.
    #[must_use]
    pub const fn new() -> Self {
        let () = Self::CAPACITIES_HOLD_CONTROL;
        Self {
            link: Link::new(0),
            tx: Vec::new(),
            tx_sent: 0,
            rx: Vec::new(),
            rx_used: 0,
            next_number: 1,
            unanswered: 0,
            unanswered_bytes: 0,
            accepted_below: 0,
            fence: None,
            paused: false,
        }
    }

    /// The transport is connected: forgets the last connection and queues the hello. What was not acknowledged is for
    /// the caller to publish again, with the same ids and in the same order. `heartbeat_ms` 0 leaves it to the broker.
    ///
    /// # Errors
    /// [`CoreError::Full`] when the hello does not fit.
    pub fn connect(&mut self, now_ms: u64, client: &str, heartbeat_ms: u32) -> Result<(), CoreError> {
        self.connect_with(now_ms, client, heartbeat_ms, &[])
    }

    /// As [`Core::connect`], and names the methods to log in by ([`crate::wire::auth_method`]), the preferred first. An
    /// [`Event::Challenge`] follows for each, answered by [`Core::authenticate`], until one is taken.
    ///
    /// # Errors
    /// As [`Core::connect`].
    pub fn connect_with(
        &mut self,
        now_ms: u64,
        client: &str,
        heartbeat_ms: u32,
        methods: &[u8],
    ) -> Result<(), CoreError> {
        *self = Self::new();
        self.link = Link::new(now_ms);
        let largest = u32::try_from(RX).unwrap_or(u32::MAX);
        let hello = Link::hello(client, heartbeat_ms, FRAME_PAYLOAD_BYTES_FLOOR, largest);
        if methods.is_empty() {
            return self.queue(0, 0, &hello, &[]);
        }
        let extensions = [Extension { tag: EXTENSION_AUTH_METHODS, value: methods }];
        self.queue_head(FrameType::Hello, 0, 0, &Extended { head: hello, extensions: &extensions }, &[])
    }

    /// Answers a challenge; [`crate::wire`] has what the data of each method is.
    ///
    /// # Errors
    /// [`CoreError::Full`].
    pub fn authenticate(&mut self, method: u8, data: &[u8]) -> Result<(), CoreError> {
        self.queue(0, 0, &Auth { method, data }, &[])
    }

    /// Renews credentials in place, as before they end ([`Event::Goaway`] with `credentials-expired`). [`Event::Done`] on
    /// stream 0 says that it worked; a key signs the challenge it had.
    ///
    /// # Errors
    /// [`CoreError::NotOpen`] or [`CoreError::Full`].
    pub fn reauthenticate(&mut self, method: u8, data: &[u8]) -> Result<(), CoreError> {
        self.queue_open(0, &Reauth { method, data }, &[])
    }

    /// The terms, once the broker said welcome.
    #[must_use]
    pub const fn terms(&self) -> Option<&Terms> {
        self.link.terms()
    }

    /// Publishes that have no answer yet.
    #[must_use]
    pub const fn unanswered(&self) -> u32 {
        self.unanswered
    }

    // -- in --

    /// Takes bytes from the transport and returns how many; the rest must be given again after [`Core::poll_event`].
    pub fn receive(&mut self, now_ms: u64, bytes: &[u8]) -> usize {
        self.release();
        let take = bytes.len().min(RX - self.rx.len());
        if take > 0 {
            self.link.heard(now_ms);
            self.rx.extend_from_slice(&bytes[..take]).expect("take is bounded by the room left");
        }
        take
    }

    /// What the next frame says, until `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`CoreError::Link`] or [`CoreError::ReceiveBuffer`]; the connection is then to be closed.
    pub fn poll_event(&mut self) -> Result<Option<Event<'_>>, CoreError> {
        self.release();
        // The fields are borrowed apart, so that the event may go on borrowing `rx` while the rest is updated.
        let Self { link, rx, rx_used, .. } = self;
        let frame = match decode(rx, u32::MAX).map_err(LinkError::Wire)? {
            Decoded::Incomplete(need) if need > RX => return Err(CoreError::ReceiveBuffer(need, RX)),
            Decoded::Incomplete(_) => return Ok(None),
            Decoded::Frame(frame, len) => {
                *rx_used = len;
                frame
            }
        };
        let event = link.handle_frame(&frame)?;
        match &event {
            Event::PublishAck { stream: PUBLISH_STREAM, ack } => {
                answered(&mut self.unanswered, &mut self.unanswered_bytes, &mut self.accepted_below, ack);
            }
            Event::PublishNack { stream: PUBLISH_STREAM, nack } => {
                let PublishNack { first, count, code, .. } = *nack;
                let ack = PublishAck { first, count, outcome: Outcome::Dropped };
                answered(&mut self.unanswered, &mut self.unanswered_bytes, &mut self.accepted_below, &ack);
                if Code::from_u16(code).is_some_and(Code::is_retryable) && self.fence.is_none() {
                    self.fence = Some(first);
                }
            }
            Event::Pause { stream: PUBLISH_STREAM, .. } => self.paused = true,
            Event::Resume { stream: PUBLISH_STREAM } => self.paused = false,
            _ => {}
        }
        Ok(Some(event))
    }

    /// The time of [`Core::poll_timeout`] may have come.
    ///
    /// # Errors
    /// The link is dead: close it and connect again.
    pub fn handle_timeout(&mut self, now_ms: u64) -> Result<(), CoreError> {
        Ok(self.link.handle_timeout(now_ms)?)
    }

    /// When to call [`Core::handle_timeout`] at the latest, in the caller's milliseconds.
    #[must_use]
    pub const fn poll_timeout(&self) -> u64 {
        self.link.poll_timeout()
    }

    // -- out --

    /// Bytes to write to the transport; tell how many were taken with [`Core::transmitted`].
    pub fn poll_transmit(&mut self) -> &[u8] {
        if self.link.has_control() {
            self.compact();
            let len = self.tx.len();
            self.tx.resize_default(TX).expect("TX is its capacity");
            let control = self.link.poll_control(&mut self.tx[len..]);
            self.tx.truncate(len + control);
        }
        &self.tx[self.tx_sent..]
    }

    /// So many bytes of the last [`Core::poll_transmit`] were written.
    pub fn transmitted(&mut self, now_ms: u64, bytes: usize) {
        if bytes > 0 {
            self.tx_sent = (self.tx_sent + bytes).min(self.tx.len());
            self.link.sent(now_ms);
        }
    }

    /// Queues one message and returns its number, which its ack will name. Acknowledgements count for the window; use
    /// one contract a connection where `upstream` is asked for.
    ///
    /// # Errors
    /// [`CoreError::NotOpen`], [`CoreError::Fenced`], [`CoreError::Window`], [`CoreError::TooLarge`],
    /// [`CoreError::Full`].
    pub fn publish(&mut self, contract: Contract, record: &Record<'_>) -> Result<u64, CoreError> {
        let terms = *self.link.terms().ok_or(CoreError::NotOpen)?;
        if let Some(number) = self.fence {
            return Err(CoreError::Fenced(number));
        }
        if self.paused || self.unanswered >= terms.window_messages {
            return Err(CoreError::Window);
        }
        self.compact();
        let start = self.tx.len();
        // The record is written where it will stand behind the longest head, then moved up to the real one.
        let at = start + HEADER_BYTES + PUBLISH_HEAD_BYTES_MAX;
        if at >= TX {
            return Err(CoreError::Full);
        }
        self.tx.resize_default(TX).expect("TX is its capacity");
        let result = record.encode(&mut self.tx[at..]);
        let sealed = match result {
            Ok(len) => self.finish_publish(start, at, len, contract, &terms),
            Err(RecordError::BufferTooSmall) if start > 0 => Err(CoreError::Full),
            Err(RecordError::BufferTooSmall) => Err(CoreError::TooLarge(record.encoded_len_max())),
            Err(e) => Err(CoreError::Record(e)),
        };
        self.tx.truncate(start + *sealed.as_ref().unwrap_or(&0));
        sealed?;
        self.next_number += 1;
        self.unanswered += 1;
        Ok(self.next_number - 1)
    }

    fn finish_publish(
        &mut self,
        start: usize,
        at: usize,
        len: usize,
        contract: Contract,
        terms: &Terms,
    ) -> Result<usize, CoreError> {
        let total = u32::try_from(len).map_err(|_| CoreError::TooLarge(len))?;
        if len > CHUNK_BYTES_MAX || total > terms.message_bytes_max {
            return Err(CoreError::TooLarge(len));
        }
        if self.unanswered > 0 && self.unanswered_bytes.saturating_add(total) > terms.window_bytes {
            return Err(CoreError::Window);
        }
        let head = Publish { contract, number: self.next_number, total };
        let mut head_bytes = [0; PUBLISH_HEAD_BYTES_MAX];
        let head = postcard::to_slice(&head, &mut head_bytes).map_err(|_| CoreError::Full)?;
        let header = Header {
            kind: FrameType::Publish,
            flags: 0,
            head_len: head.len() as u16,
            payload_len: total,
            stream: PUBLISH_STREAM,
            sequence: 0,
            crc: 0,
        };
        let frame = &mut self.tx[start..];
        frame[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        frame[HEADER_BYTES..HEADER_BYTES + head.len()].copy_from_slice(head);
        frame.copy_within(at - start..at - start + len, HEADER_BYTES + head.len());
        let frame_len = header.frame_len();
        self.link.seal(&mut frame[..frame_len]);
        self.unanswered_bytes = self.unanswered_bytes.saturating_add(total);
        Ok(frame_len)
    }

    /// After [`CoreError::Fenced`]: the next publish gets this number. The refused message is to be published first,
    /// then all that followed it, in order.
    ///
    /// # Errors
    /// [`CoreError::Window`] while publishes sent before the refusal have no answer yet: an old answer could be
    /// taken for that of the new attempt.
    pub fn resume(&mut self) -> Result<(), CoreError> {
        if let Some(number) = self.fence {
            if self.unanswered > 0 {
                return Err(CoreError::Window);
            }
            self.next_number = number;
            self.fence = None;
        }
        Ok(())
    }

    /// Opens live fan-out on a stream of the caller's choice: not 0, not [`PUBLISH_STREAM`], below 2^31.
    ///
    /// # Errors
    /// [`CoreError::NotOpen`] or [`CoreError::Full`].
    pub fn subscribe(&mut self, stream: u32, subscribe: &Subscribe<'_>) -> Result<(), CoreError> {
        self.queue_open(stream, subscribe, &[])
    }

    /// Opens a durable consumer; `filters` is the payload: each filter a postcard string.
    ///
    /// # Errors
    /// [`CoreError::NotOpen`] or [`CoreError::Full`].
    pub fn consume(&mut self, stream: u32, consume: &Consume<'_>, filters: &[u8]) -> Result<(), CoreError> {
        self.queue_open(stream, consume, filters)
    }

    /// Ends a subscription or a consumer's session.
    ///
    /// # Errors
    /// [`CoreError::NotOpen`] or [`CoreError::Full`].
    pub fn unsubscribe(&mut self, stream: u32) -> Result<(), CoreError> {
        self.queue_open(stream, &Unsubscribe {}, &[])
    }

    /// Deliveries are done.
    ///
    /// # Errors
    /// [`CoreError::NotOpen`] or [`CoreError::Full`].
    pub fn ack(&mut self, stream: u32, first: u64, count: u32) -> Result<(), CoreError> {
        self.queue_open(stream, &Ack { first, count }, &[])
    }

    /// Deliveries failed.
    ///
    /// # Errors
    /// [`CoreError::NotOpen`] or [`CoreError::Full`].
    pub fn nack(&mut self, stream: u32, nack: &Nack<'_>) -> Result<(), CoreError> {
        self.queue_open(stream, nack, &[])
    }

    /// So much more may be sent on this stream.
    ///
    /// # Errors
    /// [`CoreError::NotOpen`] or [`CoreError::Full`].
    pub fn credit(&mut self, stream: u32, messages: u32, bytes: u32) -> Result<(), CoreError> {
        self.queue_open(stream, &Credit { messages, bytes }, &[])
    }

    /// Asks on a stream of its own; the body is at most one chunk.
    ///
    /// # Errors
    /// [`CoreError::NotOpen`], [`CoreError::TooLarge`] or [`CoreError::Full`].
    pub fn request(&mut self, stream: u32, channel: &str, deadline_ms: u32, body: &[u8]) -> Result<(), CoreError> {
        if body.len() > CHUNK_BYTES_MAX {
            return Err(CoreError::TooLarge(body.len()));
        }
        let head = Request { channel, deadline_ms, total: body.len() as u32, properties: &[] };
        self.queue_open(stream, &head, body)
    }

    /// Queues an orderly end; close the transport once everything is transmitted.
    ///
    /// # Errors
    /// [`CoreError::Full`].
    pub fn close(&mut self) -> Result<(), CoreError> {
        self.queue(0, 0, &Close { code: Code::Normal as u16, detail: "" }, &[])
    }

    fn queue_open<'h, H: Head<'h>>(&mut self, stream: u32, head: &H, payload: &[u8]) -> Result<(), CoreError> {
        if self.link.terms().is_none() {
            return Err(CoreError::NotOpen);
        }
        self.queue(0, stream, head, payload)
    }

    fn queue<'h, H: Head<'h>>(&mut self, flags: u16, stream: u32, head: &H, payload: &[u8]) -> Result<(), CoreError> {
        self.queue_head(H::KIND, flags, stream, head, payload)
    }

    fn queue_head<H: serde::Serialize>(
        &mut self,
        kind: FrameType,
        flags: u16,
        stream: u32,
        head: &H,
        payload: &[u8],
    ) -> Result<(), CoreError> {
        self.compact();
        let start = self.tx.len();
        self.tx.resize_default(TX).expect("TX is its capacity");
        let written = encode_into(&mut self.tx[start..], kind, flags, stream, Some(head), payload);
        let len = *written.as_ref().unwrap_or(&0);
        self.tx.truncate(start + len);
        written.map_err(|_: WireError| CoreError::Full)?;
        self.link.seal(&mut self.tx[start..]);
        Ok(())
    }

    /// Drops the sent bytes from the front of the transmit buffer.
    fn compact(&mut self) {
        drop_front(&mut self.tx, self.tx_sent);
        self.tx_sent = 0;
    }

    /// Drops the bytes of the last event.
    fn release(&mut self) {
        drop_front(&mut self.rx, self.rx_used);
        self.rx_used = 0;
    }
}

fn drop_front<const N: usize>(buffer: &mut Vec<u8, N>, count: usize) {
    if count > 0 {
        let len = buffer.len();
        buffer.copy_within(count..len, 0);
        buffer.truncate(len - count);
    }
}

fn answered(unanswered: &mut u32, bytes: &mut u32, accepted_below: &mut u64, ack: &PublishAck) {
    let end = ack.first.saturating_add(u64::from(ack.count));
    let news = end.saturating_sub(ack.first.max(*accepted_below)).min(u64::from(u32::MAX)) as u32;
    if ack.outcome == Outcome::Accepted {
        *accepted_below = (*accepted_below).max(end);
    }
    *unanswered = unanswered.saturating_sub(news);
    // Sizes are not remembered a message: the byte window opens again when everything is answered.
    if *unanswered == 0 {
        *bytes = 0;
    }
}

#[cfg(test)]
mod tests;
