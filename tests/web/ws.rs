//! A WebSocket client that knows the protocol and keeps to it only where it is told to.

use crate::{PATIENCE, raw};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use tidegate::wire::{self, Contract, Decoded, FrameType, Head, Outcome, Publish, PublishAck};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The headers of an upgrade that is accepted, without the empty line.
pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidegate.v1\r\n";

pub struct Ws {
    pub stream: TcpStream,
    got: VecDeque<u8>,
    sequence: u32,
}

impl Ws {
    /// Upgraded, without hello.
    pub fn open(address: SocketAddr) -> Self {
        Self::open_with(address, "")
    }

    /// Upgraded with further headers.
    pub fn open_with(address: SocketAddr, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("nodelay can be set");
        stream.write_all(format!("{UPGRADE}{headers}\r\n").as_bytes()).expect("sent");
        let mut ws = Self { stream, got: VecDeque::new(), sequence: 0 };
        let head = ws.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let lower = head.to_lowercase();
        assert!(lower.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        assert!(lower.contains("sec-websocket-protocol: tidegate.v1\r\n"), "{head}");
        ws
    }

    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.byte().expect("a whole head"));
        }
        String::from_utf8(head).expect("text")
    }

    fn byte(&mut self) -> Option<u8> {
        if self.got.is_empty() {
            let mut buffer = [0; 16 * 1024];
            let n = match self.stream.read(&mut buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                Err(error) => panic!("nothing came: {error}"),
            };
            self.got.extend(&buffer[..n]);
        }
        self.got.pop_front()
    }

    fn bytes(&mut self, n: usize) -> Option<Vec<u8>> {
        (0..n).map(|_| self.byte()).collect()
    }

    /// A frame of the WebSocket: last or not, operation, masked or not.
    pub fn raw(&mut self, last: bool, operation: u8, masked: bool, payload: &[u8]) {
        self.write(&ws_frame(last, operation, masked, payload));
    }

    /// Sends bytes as they are; a broker that has closed is no failure.
    pub fn write(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub fn message(&mut self, payload: &[u8]) {
        self.raw(true, BINARY, true, payload);
    }

    /// A frame of ours with the next sequence.
    pub fn frame<'h, H: Head<'h>>(&mut self, stream: u32, head: &H, payload: &[u8]) -> Vec<u8> {
        let frame = raw::frame(0, stream, self.sequence, head, payload);
        self.sequence += 1;
        frame
    }

    pub fn send<'h, H: Head<'h>>(&mut self, stream: u32, head: &H, payload: &[u8]) {
        let frame = self.frame(stream, head, payload);
        self.message(&frame);
    }

    /// The next frame of the WebSocket: operation and payload; `None` when the broker closed the connection.
    pub fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.byte()?;
        assert_eq!(first & 0xf0, 0x80, "the broker sends no fragments and no reserved bits");
        let second = self.byte()?;
        assert_eq!(second & 0x80, 0, "the broker masks nothing");
        let len = match second {
            126 => u64::from(u16::from_be_bytes(self.bytes(2)?.try_into().unwrap())),
            127 => u64::from_be_bytes(self.bytes(8)?.try_into().unwrap()),
            short => u64::from(short),
        };
        let payload = self.bytes(usize::try_from(len).unwrap())?;
        Some((first & 0x0f, payload))
    }

    /// The next binary message, which must be one frame of ours.
    pub fn next_frame(&mut self) -> (FrameType, Vec<u8>) {
        let (operation, payload) = self.next().expect("a message");
        assert_eq!(operation, BINARY, "{payload:?}");
        match wire::decode(&payload, 1 << 20) {
            Ok(Decoded::Frame(frame, len)) if len == payload.len() => (frame.header.kind, payload),
            other => panic!("not one frame: {other:?}"),
        }
    }

    pub fn hello(&mut self) {
        self.hello_with(60_000);
    }

    pub fn hello_with(&mut self, heartbeat_ms: u32) {
        self.send(0, &raw::hello(heartbeat_ms), &[]);
        assert_eq!(self.next_frame().0, FrameType::Welcome);
    }

    /// Publishes a message and hears that it is stored.
    pub fn publishes(&mut self, number: u64, channel: &str) {
        let frame = self.publish(number, channel, b"x");
        self.message(&frame);
        self.expect_ack(number);
    }

    /// A publish on stream 1.
    pub fn publish(&mut self, number: u64, channel: &str, payload: &[u8]) -> Vec<u8> {
        let record = raw::record(channel, payload);
        let head = Publish { contract: Contract::Queue, number, total: record.len() as u32 };
        self.frame(1, &head, &record)
    }

    pub fn expect_ack(&mut self, number: u64) {
        let (kind, bytes) = self.next_frame();
        assert_eq!(kind, FrameType::PublishAck);
        let Ok(Decoded::Frame(frame, _)) = wire::decode(&bytes, 1 << 20) else { unreachable!("it was decoded") };
        let ack: PublishAck = frame.head().expect("an ack");
        assert_eq!(ack, PublishAck { first: number, count: 1, outcome: Outcome::Stored });
    }

    /// Everything up to the broker's close: its code and reason. Then the connection ends in order.
    pub fn expect_close(&mut self, code: u16) -> String {
        loop {
            let (operation, payload) = self.next().expect("a close");
            if operation != CLOSE {
                continue;
            }
            let said = u16::from_be_bytes(payload[..2].try_into().unwrap());
            let reason = String::from_utf8(payload[2..].to_vec()).expect("UTF-8");
            assert_eq!(said, code, "{reason}");
            self.raw(true, CLOSE, true, &code.to_be_bytes());
            assert_eq!(self.next(), None);
            return reason;
        }
    }

    pub fn close(mut self) {
        self.raw(true, CLOSE, true, &1_000u16.to_be_bytes());
        self.expect_close(1_000);
    }
}

/// Bytes of one frame of the WebSocket.
pub fn ws_frame(last: bool, operation: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::from(last) << 7 | operation];
    let mask = u8::from(masked) << 7;
    match payload.len() {
        short @ ..=125 => bytes.push(mask | short as u8),
        middle @ ..=0xffff => {
            bytes.push(mask | 126);
            bytes.extend((middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(mask | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    if masked {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        bytes.extend(key);
        bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    } else {
        bytes.extend(payload);
    }
    bytes
}
