//! The client's state machine with buffers of a fixed size: no clock, socket, task or allocation.
//!
//! The caller owns the transport. It calls [`Core::connect`] once a connection, feeds what it reads to
//! [`Core::receive`], drains [`Core::poll_event`], writes what [`Core::poll_transmit`] shows and wakes up no later than
//! [`Core::poll_timeout`]. Whatever does not fit answers [`CoreError::Full`] and changes nothing.

use super::link::{CONTROL_BYTES_MAX, Event, Link, LinkError, Terms};
use crate::model::limits::{CHUNK_BYTES_MAX, FRAME_PAYLOAD_BYTES_FLOOR, HEADER_BYTES};
use crate::model::{Record, RecordError};
use crate::wire::{
    Ack, Close, Code, Consume, Contract, Credit, Decoded, FrameType, Head, Header, Nack, Outcome, Publish, PublishAck,
    PublishNack, Request, Subscribe, Unsubscribe, WireError, decode, encode_into,
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
        *self = Self::new();
        self.link = Link::new(now_ms);
        let largest = u32::try_from(RX).unwrap_or(u32::MAX);
        let hello = Link::hello(client, heartbeat_ms, FRAME_PAYLOAD_BYTES_FLOOR, largest);
        self.queue(0, 0, &hello, &[])
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
        self.compact();
        let start = self.tx.len();
        self.tx.resize_default(TX).expect("TX is its capacity");
        let written = encode_into(&mut self.tx[start..], H::KIND, flags, stream, Some(head), payload);
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
mod tests {
    use super::*;
    use crate::model::{Channel, MessageId};
    use crate::wire::{Deliver, DeliverItem, Hello, Ping, Pong, Welcome, encode};

    const WELCOME: Welcome<'_> = Welcome {
        version: 1,
        server: "fake",
        session: 7,
        heartbeat_ms: 1_000,
        frame_bytes_max: 16_384,
        message_bytes_max: 65_536,
        window_messages: 4,
        window_bytes: 400,
        time_ms: 5,
    };

    /// The broker's end: reads frames with `wire`, checks their sequence, writes answers.
    #[derive(Default)]
    struct Server {
        sequence_in: u32,
        sequence_out: u32,
        bytes: Vec<u8, 4_096>,
    }

    impl Server {
        fn send<'h, H: Head<'h>>(&mut self, stream: u32, head: &H, payload: &[u8]) {
            let mut frame = [0; 1_024];
            let len = encode(&mut frame, 0, stream, self.sequence_out, head, payload).expect("fits");
            self.sequence_out += 1;
            self.bytes.extend_from_slice(&frame[..len]).expect("fits");
        }

        /// Takes one frame from the client, hands it to `check`, returns the client's event on the answers so far.
        fn take<const T: usize, const R: usize>(
            &mut self,
            core: &mut Core<T, R>,
            now_ms: u64,
            check: impl FnOnce(&crate::wire::Frame<'_>),
        ) {
            let Ok(Decoded::Frame(frame, len)) = decode(core.poll_transmit(), 16_384) else {
                panic!("no whole frame is waiting")
            };
            assert_eq!(frame.header.sequence, self.sequence_in);
            self.sequence_in += 1;
            check(&frame);
            core.transmitted(now_ms, len);
        }

        fn deliver_all<const T: usize, const R: usize>(&mut self, core: &mut Core<T, R>, now_ms: u64) {
            let taken = core.receive(now_ms, &self.bytes);
            assert_eq!(taken, self.bytes.len());
            self.bytes.clear();
        }
    }

    fn open() -> (Core<512, 512>, Server) {
        let (mut core, mut server) = (Core::new(), Server::default());
        core.connect(0, "micro", 0).expect("fits");
        server.take(&mut core, 0, |frame| assert_eq!(frame.head::<Hello<'_>>().expect("hello").client, "micro"));
        server.send(0, &WELCOME, &[]);
        server.deliver_all(&mut core, 1);
        assert_eq!(core.poll_event(), Ok(Some(Event::Welcome(WELCOME))));
        assert_eq!(core.poll_event(), Ok(None));
        (core, server)
    }

    fn record(payload: &[u8]) -> Record<'_> {
        Record { id: MessageId([3; 16]), ..Record::new(Channel::parse("a/b").expect("valid"), payload) }
    }

    #[test]
    fn a_publish_arrives_whole_and_its_ack_reopens_the_window() {
        let (mut core, mut server) = open();
        for number in 1..=4 {
            assert_eq!(core.publish(Contract::Disk, &record(b"x")), Ok(number));
        }
        assert_eq!(core.publish(Contract::Disk, &record(b"x")), Err(CoreError::Window));
        for number in 1..=4 {
            server.take(&mut core, 2, |frame| {
                let head: Publish = frame.head().expect("publish");
                assert_eq!((head.number, head.total as usize), (number, frame.payload.len()));
                assert_eq!(Record::decode(frame.payload), Ok(record(b"x")));
            });
        }
        let ack = PublishAck { first: 1, count: 3, outcome: Outcome::Stored };
        server.send(PUBLISH_STREAM, &ack, &[]);
        server.deliver_all(&mut core, 3);
        assert_eq!(core.poll_event(), Ok(Some(Event::PublishAck { stream: PUBLISH_STREAM, ack })));
        assert_eq!(core.unanswered(), 1);
        assert_eq!(core.publish(Contract::Disk, &record(b"x")), Ok(5));
    }

    #[test]
    fn the_byte_window_and_the_buffers_say_no_and_change_nothing() {
        let (mut core, _server) = open();
        assert_eq!(core.publish(Contract::Queue, &record(&[0; 350])), Ok(1));
        assert_eq!(core.publish(Contract::Queue, &record(&[0; 350])), Err(CoreError::Full));
        let mut roomy: Core<4_096, 512> = Core::new();
        roomy.connect(0, "", 0).expect("fits");
        assert_eq!(roomy.publish(Contract::Queue, &record(b"")), Err(CoreError::NotOpen));
        let mut server = Server::default();
        server.send(0, &WELCOME, &[]);
        server.deliver_all(&mut roomy, 0);
        roomy.poll_event().expect("welcome");
        assert_eq!(roomy.publish(Contract::Queue, &record(&[0; 350])), Ok(1));
        assert_eq!(roomy.publish(Contract::Queue, &record(&[0; 350])), Err(CoreError::Window));
        assert!(matches!(roomy.publish(Contract::Queue, &record(&[0; 4_096])), Err(CoreError::Full)));
        assert_eq!(roomy.unanswered(), 1);
    }

    #[test]
    fn after_a_retryable_refusal_publishing_goes_on_at_its_number() {
        let (mut core, mut server) = open();
        for _ in 0..3 {
            core.publish(Contract::Queue, &record(b"x")).expect("window");
        }
        let nack =
            |first, count, code: Code| PublishNack { first, count, code: code as u16, retry_after_ms: 10, detail: "" };
        server.send(PUBLISH_STREAM, &PublishAck { first: 1, count: 1, outcome: Outcome::Stored }, &[]);
        server.send(PUBLISH_STREAM, &nack(2, 1, Code::QueueFull), &[]);
        server.deliver_all(&mut core, 2);
        core.poll_event().expect("ack");
        core.poll_event().expect("nack");
        assert_eq!(core.publish(Contract::Queue, &record(b"y")), Err(CoreError::Fenced(2)));
        assert_eq!(core.resume(), Err(CoreError::Window), "publish 3 has no answer yet");
        server.send(PUBLISH_STREAM, &nack(3, 1, Code::Fenced), &[]);
        server.deliver_all(&mut core, 3);
        core.poll_event().expect("nack");
        assert_eq!(core.resume(), Ok(()));
        assert_eq!(core.publish(Contract::Queue, &record(b"x")), Ok(2));
    }

    #[test]
    fn an_idle_link_pings_answers_pings_and_dies_after_three_silent_heartbeats() {
        let (mut core, mut server) = open();
        server.send(0, &Ping { nonce: 99 }, &[]);
        server.deliver_all(&mut core, 500);
        assert_eq!(core.poll_event(), Ok(Some(Event::Ping)));
        server.take(&mut core, 500, |frame| assert_eq!(frame.head::<Pong>().expect("pong").nonce, 99));
        assert_eq!(core.poll_timeout(), 1_500);
        core.handle_timeout(1_499).expect("alive");
        assert!(core.poll_transmit().is_empty());
        core.handle_timeout(1_500).expect("alive");
        server.take(&mut core, 1_500, |frame| assert_eq!(frame.header.kind, FrameType::Ping));
        assert_eq!(core.poll_timeout(), 2_500);
        core.handle_timeout(3_499).expect("alive");
        assert_eq!(core.handle_timeout(3_500), Err(CoreError::Link(LinkError::Dead)));
    }

    #[test]
    fn a_broker_that_does_not_answer_the_hello_is_given_up() {
        let mut core: Core<256, 256> = Core::new();
        core.connect(1_000, "micro", 0).expect("fits");
        assert_eq!(core.poll_timeout(), 1_000 + u64::from(super::super::HEARTBEAT_MS_DEFAULT));
        assert_eq!(core.handle_timeout(core.poll_timeout()), Err(CoreError::Link(LinkError::HandshakeTimeout)));
    }

    #[test]
    fn deliveries_are_read_from_bytes_that_come_one_by_one_and_are_acknowledged() {
        let (mut core, mut server) = open();
        let mut bytes = [0; 128];
        let len = record(b"warm").encode(&mut bytes).expect("fits");
        let item =
            DeliverItem { flags: 0, lane: 0, seq: 1, offset: 0, attempt: 1, stored_ms: 9, record: &bytes[..len] };
        let mut payload = [0; 256];
        let payload = postcard::to_slice(&item, &mut payload).expect("fits");
        let head = Deliver { epoch: 4, first_tag: 1, count: 1, total: payload.len() as u32 };
        server.send(2, &head, payload);
        for (at, byte) in server.bytes.iter().enumerate() {
            assert_eq!(core.receive(2, &[*byte]), 1);
            let event = core.poll_event().expect("valid");
            if at + 1 < server.bytes.len() {
                assert_eq!(event, None);
            } else {
                let Some(Event::Deliver { stream: 2, payload, more: false, .. }) = event else { panic!("{event:?}") };
                let (item, rest) = DeliverItem::take(payload).expect("an item");
                assert!(rest.is_empty());
                assert_eq!(Record::decode(item.record), Ok(record(b"warm")));
            }
        }
        core.ack(2, 1, 1).expect("fits");
        server.take(&mut core, 3, |frame| assert_eq!(frame.head::<Ack>(), Ok(Ack { first: 1, count: 1 })));
    }

    #[test]
    fn a_gap_in_the_sequence_a_foreign_frame_and_a_frame_too_large_end_the_link() {
        let (mut core, mut server) = open();
        server.sequence_out += 1;
        server.send(0, &Ping { nonce: 1 }, &[]);
        server.deliver_all(&mut core, 2);
        assert_eq!(core.poll_event(), Err(CoreError::Link(LinkError::Sequence(1, 2))));

        let (mut core, mut server) = open();
        server.send(1, &Publish { contract: Contract::Queue, number: 1, total: 0 }, &[]);
        server.deliver_all(&mut core, 2);
        assert_eq!(core.poll_event(), Err(CoreError::Link(LinkError::Unexpected(FrameType::Publish))));

        let (mut core, mut server) = open();
        server.send(2, &Deliver { epoch: 0, first_tag: 0, count: 1, total: 600 }, &[0; 600]);
        assert_eq!(core.receive(2, &server.bytes), 512);
        assert!(matches!(core.poll_event(), Err(CoreError::ReceiveBuffer(_, 512))));
    }
}
