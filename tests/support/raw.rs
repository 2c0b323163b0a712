//! A blocking client that speaks frames and nothing else, so that tests can send what no client would.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate::model::admin::STATUS;
use tidegate::model::{Channel, Encoding, MessageId, Priority, Properties, Record};
use tidegate::wire::{
    self, Close, Code, Consume, Contract, Decoded, DeliverItems, ErrorHead, Frame, FrameType, Head, Hello, Outcome,
    Publish, PublishAck, PublishNack, Start,
};

/// A test that waits longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
pub trait Stream: Read + Write {
    /// Bounds one read.
    fn set_timeout(&self, timeout: Duration);
    /// Says that nothing more will be sent.
    fn end(&self);
}

impl Stream for TcpStream {
    fn set_timeout(&self, timeout: Duration) {
        self.set_read_timeout(Some(timeout)).expect("a timeout can be set");
    }
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Stream for UnixStream {
    fn set_timeout(&self, timeout: Duration) {
        self.set_read_timeout(Some(timeout)).expect("a timeout can be set");
    }
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// A client.
pub struct Raw {
    stream: Box<dyn Stream>,
    /// Sequence of the next frame sent.
    pub sequence: u32,
    /// Sequence expected of the next frame received.
    heard: u32,
    input: Vec<u8>,
    put_back: Option<Got>,
}

/// A frame as it came, of its own.
#[derive(Clone, Debug)]
pub struct Got {
    pub kind: FrameType,
    pub flags: u16,
    pub stream: u32,
    head: Vec<u8>,
    pub payload: Vec<u8>,
    raw: Vec<u8>,
}

impl Got {
    /// Its head, which must be of this type.
    pub fn head<'a, H: Head<'a>>(&'a self) -> H {
        postcard::take_from_bytes(&self.head).unwrap_or_else(|e| panic!("{:?}: {e}", self.kind)).0
    }

    /// All of it in words.
    pub fn words(&self) -> String {
        match wire::decode(&self.raw, 1 << 20) {
            Ok(Decoded::Frame(frame, _)) => {
                format!("stream {}: {:?}", self.stream, frame.any_head().expect("the broker's heads are well-formed"))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Its error's code.
    pub fn code(&self) -> Code {
        assert_eq!(self.kind, FrameType::Error, "{}", self.words());
        Code::from_u16(self.head::<ErrorHead<'_>>().code).expect("a code of the page")
    }
}

/// A delivered message: tag, sequence, payload.
pub type Item = (u64, u64, Vec<u8>);

/// Why nothing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// The broker closed.
    Closed,
    /// The time was over.
    Quiet,
}

impl Raw {
    /// Over TCP, without hello.
    pub fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_nodelay(true).expect("nodelay can be set");
        Self::over(Box::new(stream))
    }

    /// Over a Unix socket, without hello.
    pub fn unix(path: &Path) -> Self {
        Self::over(Box::new(UnixStream::connect(path).expect("connected")))
    }

    /// Over any stream, without hello.
    pub fn over(stream: Box<dyn Stream>) -> Self {
        Self { stream, sequence: 0, heard: 0, input: Vec::new(), put_back: None }
    }

    /// Over TCP, welcomed.
    pub fn open(address: SocketAddr) -> Self {
        let mut raw = Self::tcp(address);
        raw.hello(60_000);
        raw
    }

    /// Over TCP, welcomed, if somebody is there.
    pub fn try_open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        let mut raw = Self::over(Box::new(stream));
        raw.send(0, &hello(60_000), &[]);
        raw.poll(PATIENCE).is_ok_and(|got| got.kind == FrameType::Welcome).then_some(raw)
    }

    /// Says hello and takes the welcome.
    pub fn hello(&mut self, heartbeat_ms: u32) {
        self.send(0, &hello(heartbeat_ms), &[]);
        let got = self.next();
        assert_eq!(got.kind, FrameType::Welcome, "{}", got.words());
    }

    /// Sends a frame with the next sequence.
    pub fn send<'h, H: Head<'h>>(&mut self, stream: u32, head: &H, payload: &[u8]) {
        self.send_flags(0, stream, head, payload);
    }

    /// Sends a frame with these flags.
    pub fn send_flags<'h, H: Head<'h>>(&mut self, flags: u16, stream: u32, head: &H, payload: &[u8]) {
        let bytes = frame(flags, stream, self.sequence, head, payload);
        self.bytes(&bytes);
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Sends bytes as they are. That the broker has closed already is no error: its last words are still to be read.
    pub fn bytes(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(e) => panic!("sending: {e}"),
        }
    }

    /// Whether bytes can still be sent.
    pub fn try_bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Ends our half of the connection.
    pub fn end(&self) {
        self.stream.end();
    }

    /// The next frame that is no ping, or that there is none until `within`.
    pub fn poll(&mut self, within: Duration) -> Result<Got, Nothing> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(got) = self.put_back.take().or_else(|| self.take()) {
                if got.kind == FrameType::Ping {
                    continue;
                }
                return Ok(got);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Nothing::Quiet);
            }
            self.stream.set_timeout(left.max(Duration::from_millis(1)));
            let mut buffer = [0; 16 * 1_024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Nothing::Closed),
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Err(Nothing::Closed),
                Err(e) => panic!("receiving: {e}"),
            }
        }
    }

    fn take(&mut self) -> Option<Got> {
        match wire::decode(&self.input, 1 << 20).expect("the broker's frames are well-formed") {
            Decoded::Frame(Frame { header, head, payload }, len) => {
                assert_eq!(header.sequence, self.heard, "the broker's sequence");
                self.heard = self.heard.wrapping_add(1);
                let got = Got {
                    kind: header.kind,
                    flags: header.flags,
                    stream: header.stream,
                    head: head.to_vec(),
                    payload: payload.to_vec(),
                    raw: self.input[..len].to_vec(),
                };
                self.input.drain(..len);
                Some(got)
            }
            Decoded::Incomplete(_) => None,
        }
    }

    /// Waits for a frame without taking it.
    pub fn peek(&mut self, within: Duration) -> Result<(), Nothing> {
        self.put_back = Some(self.poll(within)?);
        Ok(())
    }

    /// The frame that was waited for.
    pub fn peeked(&self) -> &Got {
        self.put_back.as_ref().expect("peek found one")
    }

    /// The next frame that is no ping.
    pub fn next(&mut self) -> Got {
        self.poll(PATIENCE).unwrap_or_else(|why| panic!("a frame was expected: {why:?}"))
    }

    /// The next frame, which must have this head's type.
    pub fn expect(&mut self, kind: FrameType) -> Got {
        let got = self.next();
        assert_eq!(got.kind, kind, "{}", got.words());
        got
    }

    /// The next frame must be an error on this stream; the session goes on.
    pub fn expect_refusal(&mut self, stream: u32, code: Code) {
        let got = self.next();
        assert_eq!((got.code(), got.stream), (code, stream), "{}", got.words());
        assert!(!got.head::<ErrorHead<'_>>().detail.is_empty(), "{code} says nothing to people");
    }

    /// The next frame must be an error on stream 0, with words for people, and then the end.
    pub fn expect_end(&mut self, code: Code) {
        self.expect_refusal(0, code);
        match self.poll(PATIENCE) {
            Err(Nothing::Closed) => {}
            Err(Nothing::Quiet) => panic!("{code} was not followed by the end"),
            Ok(got) => panic!("{code} was followed by {}", got.words()),
        }
    }

    /// Publishes one record without waiting.
    pub fn publish(&mut self, stream: u32, number: u64, contract: Contract, record: &[u8]) {
        let head = Publish { contract, number, total: record.len() as u32 };
        self.send(stream, &head, record);
    }

    /// The next frame must take these numbers.
    pub fn expect_ack(&mut self, stream: u32, first: u64, count: u32, outcome: Outcome) {
        let got = self.expect(FrameType::PublishAck);
        let head: PublishAck = got.head();
        assert_eq!((got.stream, head), (stream, PublishAck { first, count, outcome }));
    }

    /// The next frame must refuse these numbers.
    pub fn expect_nack(&mut self, stream: u32, first: u64, count: u32, code: Code) {
        let got = self.expect(FrameType::PublishNack);
        let head: PublishNack<'_> = got.head();
        let said = Code::from_u16(head.code).expect("a code of the page");
        assert_eq!((got.stream, head.first, head.count, said), (stream, first, count, code), "{}", head.detail);
        assert!(!head.detail.is_empty(), "{code} says nothing to people");
    }

    /// Publishes to `channel` and takes the acknowledgement: this session is well.
    pub fn publishes(&mut self, stream: u32, number: u64, channel: &str) {
        self.publish(stream, number, Contract::Queue, &record(channel, b"well"));
        self.expect_ack(stream, number, 1, Outcome::Stored);
    }

    /// Opens a consumer from the first message on, with credit for `messages`.
    pub fn consume(&mut self, stream: u32, queue: &str, name: &str, messages: u32) {
        self.send(stream, &consume(queue, name, messages), &[]);
        let got = self.next();
        assert_eq!((got.kind, got.stream), (FrameType::Ok, stream), "{}", got.words());
    }

    /// The items of the next delivery, chunks joined, as (tag, payload of the record, flags).
    pub fn delivery(&mut self) -> Vec<(u64, Vec<u8>, u8)> {
        let first = self.expect(FrameType::Deliver);
        let head: wire::Deliver = first.head();
        let mut payload = first.payload.clone();
        let mut more = first.flags & wire::FLAG_MORE != 0;
        while more {
            let next = self.next();
            payload.extend_from_slice(&next.payload);
            more = next.flags & wire::FLAG_MORE != 0;
        }
        let items = DeliverItems::parse(&payload, head.count, head.total).expect("a well-formed delivery");
        let read = |(i, item): (usize, wire::DeliverItem<'_>)| {
            let record = Record::decode(item.record).expect("a well-formed record");
            (head.first_tag + i as u64, record.payload.to_vec(), item.flags)
        };
        items.enumerate().map(read).collect()
    }

    /// The epoch and items (tag, sequence, payload) of the next delivery of small messages; `None` at the end.
    pub fn try_delivery(&mut self) -> Option<(u64, Vec<Item>)> {
        let got = self.poll(PATIENCE).ok()?;
        assert_eq!(got.kind, FrameType::Deliver, "{}", got.words());
        let head: wire::Deliver = got.head();
        let items = DeliverItems::parse(&got.payload, head.count, head.total).expect("a well-formed delivery");
        let read = |(i, item): (usize, wire::DeliverItem<'_>)| {
            let record = Record::decode(item.record).expect("a well-formed record");
            (head.first_tag + i as u64, item.seq, record.payload.to_vec())
        };
        Some((head.epoch, items.enumerate().map(read).collect()))
    }

    /// The broker's status, which it tells over its Unix socket only.
    pub fn status(&mut self) -> serde_json::Value {
        let head = wire::Request { channel: STATUS, deadline_ms: 10_000, total: 0, properties: &[] };
        self.send(0x7FFF_FFFF, &head, &[]);
        let got = self.expect(FrameType::Response);
        serde_json::from_slice(&got.payload).expect("JSON")
    }

    /// Waits until the status says this of a field.
    pub fn wait_for_status(&mut self, field: &str, is: impl Fn(u64) -> bool) -> u64 {
        let began = Instant::now();
        loop {
            let value = self.status()[field].as_u64().expect("a number");
            if is(value) {
                return value;
            }
            assert!(began.elapsed() < PATIENCE, "{field} stays {value}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends in order.
    pub fn close(mut self) {
        self.send(0, &Close { code: 0, detail: "" }, &[]);
        while self.poll(PATIENCE).is_ok() {}
    }
}

/// A hello with this heartbeat.
pub fn hello(heartbeat_ms: u32) -> Hello<'static> {
    Hello {
        version_min: 1,
        version_max: 1,
        client: "raw",
        heartbeat_ms,
        frame_bytes_max: 131_072,
        message_bytes_max: 1 << 20,
    }
}

/// A consume from the first message on.
pub fn consume<'a>(queue: &'a str, name: &'a str, messages: u32) -> Consume<'a> {
    Consume {
        queue,
        name,
        start: Start::First,
        window: 0,
        attempts_max: 0,
        ack_timeout_ms: 0,
        backoff_ms: 0,
        filters: 0,
        credit_messages: messages,
        credit_bytes: 1 << 30,
    }
}

/// A whole sealed frame.
pub fn frame<'h, H: Head<'h>>(flags: u16, stream: u32, sequence: u32, head: &H, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::append(&mut out, H::KIND, flags, stream, Some(head), &[payload]);
    wire::seal(&mut out, sequence);
    out
}

/// A record without an id.
pub fn record(channel: &str, payload: &[u8]) -> Vec<u8> {
    record_with(channel, payload, |r| r)
}

/// A record, changed before it is written.
pub fn record_with<'a>(channel: &'a str, payload: &'a [u8], change: impl FnOnce(Record<'a>) -> Record<'a>) -> Vec<u8> {
    let record = change(Record {
        id: MessageId::NONE,
        channel: Channel::parse(channel).expect("a good channel"),
        priority: Priority::default(),
        time_ms: 0,
        ttl_ms: 0,
        delay_ms: 0,
        retain: false,
        compressed: false,
        encoding: Encoding::Binary,
        properties: Properties::default(),
        payload,
    });
    let mut out = Vec::new();
    record.encode_to(&mut out);
    out
}

/// A record whose channel is any bytes.
pub fn record_of_bytes(channel: &[u8]) -> Vec<u8> {
    let mut out = record("c", b"x");
    // 16 bytes of id, then the length of the channel and the channel.
    out.splice(16..18, [&postcard::to_stdvec(&(channel.len() as u32)).expect("a number"), channel].concat());
    out
}
