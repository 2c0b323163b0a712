//! The network: connections of two byte pipes with delay, chunking, bandwidth, backpressure, silence and cuts.

use std::collections::VecDeque;
use tidegate::model::ConnId;

/// One direction of a connection.
#[derive(Default)]
pub struct Pipe {
    /// On the way.
    pub way: VecDeque<u8>,
    /// Arrived, not yet read.
    pub arrived: VecDeque<u8>,
    /// What may be on the way and unread together, in bytes: the sockets' buffers.
    pub capacity: usize,
    /// An arrival is scheduled.
    pub moving: bool,
    /// The sender ended it in order, after these bytes.
    pub ended: bool,
    /// The connection is lost once so many more bytes arrived.
    pub lost_after: Option<usize>,
    /// Delay of an arrival, in microseconds: least, most.
    pub delay_us: (u64, u64),
    /// Bytes that pass in a millisecond.
    pub rate: usize,
    /// Nothing passes before this time; what is on the way waits.
    pub blocked_until: u64,
}

impl Pipe {
    /// How much the sender may write now.
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.way.len() + self.arrived.len())
    }

    /// Takes as much as fits and returns how much.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room());
        self.way.extend(&bytes[..n]);
        n
    }

    /// Moves a piece to the reader's end; true when the connection is lost with it.
    pub fn arrive(&mut self, count: usize) -> bool {
        let mut n = count.min(self.way.len());
        if let Some(left) = &mut self.lost_after {
            n = n.min(*left);
            *left -= n;
        }
        self.arrived.extend(self.way.drain(..n));
        self.lost_after == Some(0)
    }

    /// Until when the end is on its way, where it was sent and something keeps it.
    pub fn end_comes(&self, now_us: u64) -> Option<u64> {
        (self.ended && self.way.is_empty() && self.blocked_until > now_us).then_some(self.blocked_until)
    }

    pub fn read(&mut self, max: usize) -> Vec<u8> {
        let n = self.arrived.len().min(max);
        self.arrived.drain(..n).collect()
    }
}

/// Who is at the other end of a broker's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A client.
    Client(usize),
    /// The bridge of this host.
    Bridge(usize),
}

/// A connection.
pub struct Link {
    pub end: End,
    pub host: usize,
    pub conn: ConnId,
    /// From the client (or bridge) to the broker.
    pub up: Pipe,
    /// From broker to client.
    pub down: Pipe,
    /// The broker's end: what its last write could not place.
    pub unsent: VecDeque<u8>,
    pub client_open: bool,
    pub host_open: bool,
    /// The broker said close: what is unsent goes out, then the end.
    pub closing: bool,
    /// Nothing passes any more and nobody is told.
    pub silent: bool,
    /// A look of the broker's end is scheduled.
    pub looking: bool,
    /// A look of the client's end is scheduled.
    pub waking: bool,
    /// Numbers of publishes sent here, and which messages they are.
    pub numbers: std::collections::BTreeMap<u64, u32>,
    /// What the broker has sent, read as it leaves.
    pub tap: super::tap::Tap,
}
