//! What every peer's codec does, and the connection around it.

use crate::{Result, amqp, mqtt, nats, redis, tidegate};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for an answer of a handshake.
const PATIENCE: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 256 * 1_024;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Publish,
    Subscribe,
    Idle,
}

/// What came in.
#[derive(PartialEq, Eq, Debug)]
pub enum Seen<'a> {
    /// The oldest so many publishes are acknowledged.
    Acks(u64),
    /// Publishes were refused.
    Refused(u64),
    /// The server says that it dropped so many deliveries.
    Lost(u64),
    /// A delivery's payload.
    Message(&'a [u8]),
}

/// One connection's codec.
pub trait Codec: Send {
    /// Opens the session.
    fn open(&mut self, wire: &mut Wire, role: Role, number: usize) -> Result<()>;
    /// Whether publishes are answered.
    fn answers(&self) -> bool;
    /// Appends one publish.
    fn publish(&mut self, payload: &[u8], out: &mut Vec<u8>);
    /// Appends what ends a run of publishes.
    fn flush(&mut self, _out: &mut Vec<u8>) {}
    /// Reads one whole unit at the start of `input`: how many bytes it took, 0 when it is not whole. What must be
    /// answered goes to `reply`.
    fn take(&mut self, input: &[u8], reply: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<usize>;
}

/// A codec by the peer's name.
pub fn codec(peer: &str) -> Result<Box<dyn Codec>> {
    Ok(match peer {
        "tidegate" => Box::new(tidegate::Tidegate::new(::tidegate::wire::Contract::Disk)),
        "tidegate-memory" => Box::new(tidegate::Tidegate::new(::tidegate::wire::Contract::Memory)),
        "redis-stream" => Box::new(redis::Redis::stream()),
        "redis-live" => Box::new(redis::Redis::live()),
        "mqtt0" => Box::new(mqtt::Mqtt::new(false)),
        "mqtt1" => Box::new(mqtt::Mqtt::new(true)),
        "nats" => Box::new(nats::Nats::core()),
        "jetstream" => Box::new(nats::Nats::jetstream()),
        "rabbit" => Box::new(amqp::Amqp::new()),
        _ => return Err(format!("no peer is called {peer}").into()),
    })
}

/// A blocking socket with what was read and not used.
pub struct Wire {
    pub socket: TcpStream,
    input: Vec<u8>,
    start: usize,
    end: usize,
}

impl Wire {
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, input: vec![0; READ_BYTES], start: 0, end: 0 }
    }

    /// Reads what is there, once; waits when nothing is.
    pub fn read(&mut self) -> Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.input.len() {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.input.len() {
                return Err("a unit is larger than the buffer".into());
            }
        }
        match self.socket.read(&mut self.input[self.end..])? {
            0 => Err("the server hung up".into()),
            n => {
                self.end += n;
                Ok(())
            }
        }
    }

    pub fn unread(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    pub fn used(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// For handshakes: reads until `find` finds the end of an answer; returns the answer.
    pub fn answer(&mut self, find: impl Fn(&[u8]) -> Option<usize>) -> Result<Vec<u8>> {
        loop {
            if let Some(len) = find(self.unread()) {
                let answer = self.unread()[..len].to_vec();
                self.used(len);
                return Ok(answer);
            }
            self.read()?;
        }
    }

    /// As [`Wire::answer`], for lines that end with CR LF; the line without its end.
    pub fn line(&mut self) -> Result<String> {
        let line = self.answer(|input| Some(input.windows(2).position(|w| w == b"\r\n")? + 2))?;
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    }
}

/// An open session.
pub struct Connection {
    pub wire: Wire,
    pub codec: Box<dyn Codec>,
    pub reply: Vec<u8>,
}

impl Connection {
    /// Hands over all that was read; sends what must be answered.
    pub fn handle(&mut self, mut seen: impl FnMut(Seen<'_>)) -> Result<()> {
        loop {
            let taken = self.codec.take(self.wire.unread(), &mut self.reply, &mut seen)?;
            if taken == 0 {
                break;
            }
            self.wire.used(taken);
        }
        if !self.reply.is_empty() {
            self.wire.socket.write_all(&self.reply)?;
            self.reply.clear();
        }
        Ok(())
    }
}

/// Connects and opens a session; `number` tells connections of one run apart: pairs share it.
pub fn connect(peer: &str, address: SocketAddr, role: Role, number: usize) -> Result<Connection> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut wire = Wire::new(socket);
    let mut codec = codec(peer)?;
    codec.open(&mut wire, role, number)?;
    Ok(Connection { wire, codec, reply: Vec::new() })
}
