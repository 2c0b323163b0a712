//! The engine of `bench`: many connections driven by one thread, frames encoded ahead, times taken per message.

use crate::model::limits::FRAME_PAYLOAD_BYTES_FLOOR;
use crate::model::{Channel, Encoding, MessageId, Record};
use crate::wire::{
    self, Ack, Batch, Consume, Contract, Credit, Decoded, Deliver, ErrorHead, FrameType, Head, Hello, Outcome, Ping,
    Pong, PublishAck, PublishNack, Since, Start, Subscribe, Welcome,
};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the broker is.
#[derive(Clone, Debug)]
pub enum Target {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What to load it with.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where.
    pub target: Target,
    /// Connections that publish.
    pub publishers: u32,
    /// Messages each may have unacknowledged.
    pub window: u32,
    /// Bytes of each payload.
    pub size: usize,
    /// Contract asked for.
    pub contract: Contract,
    /// Whether each message has an id, so that the broker dedupes.
    pub ids: bool,
    /// Live subscribers to all of it.
    pub subscribers: u32,
    /// Sessions that consume it under one name, from this queue.
    pub consumers: u32,
    /// The queue they consume.
    pub queue: String,
    /// Channel published on; `{n}` becomes the publisher's number.
    pub channel: String,
    /// Messages in all; 0 is until the time is over.
    pub count: u64,
    /// How long at most.
    pub time: Duration,
    /// Messages a second over all publishers; 0 is as fast as it goes.
    pub rate: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcomes {
    /// From the first publish to the last acknowledgement or delivery.
    pub time: Duration,
    /// Messages acknowledged.
    pub acked: u64,
    /// Of these, duplicates and dropped ones.
    pub not_stored: u64,
    /// Messages refused.
    pub nacked: u64,
    /// Messages subscribers heard, over all of them.
    pub heard: u64,
    /// Messages subscribers were told they lost.
    pub dropped: u64,
    /// Messages consumed and acknowledged.
    pub consumed: u64,
    /// Microseconds from publish to acknowledgement.
    pub ack_latency: Histogram<u64>,
    /// Microseconds from publish to delivery (subscribers and consumers).
    pub delivery_latency: Histogram<u64>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read(buffer),
            Self::Unix(s) => s.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(s) => s.write(bytes),
            Self::Unix(s) => s.write(bytes),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Unix(s) => s.as_fd(),
        }
    }
}

enum Role {
    Publisher(Publisher),
    Subscriber,
    Consumer { owed_messages: u32, owed_bytes: u32 },
}

struct Publisher {
    template: Vec<u8>,
    next: u64,
    acked: u64,
    /// First number and send time of each batch under way.
    sent: std::collections::VecDeque<(u64, u64)>,
    seed: u64,
}

struct Peer {
    stream: Stream,
    role: Role,
    out: Vec<u8>,
    out_at: usize,
    input: Vec<u8>,
    sequence: u32,
    window: u32,
}

/// Room in one batch frame, in bytes.
const BATCH_BYTES: usize = 60 * 1_024;
/// Where the time of sending stands in a payload, when there is room.
const STAMP_BYTES: usize = 8;

impl Peer {
    fn connect(load: &Load, role: Role, name: &str) -> io::Result<Self> {
        let stream = match &load.target {
            Target::Tcp(address) => {
                let s = TcpStream::connect(address)?;
                s.set_nodelay(true)?;
                s.set_read_timeout(Some(Duration::from_secs(10)))?;
                Stream::Tcp(s)
            }
            Target::Unix(path) => {
                let s = UnixStream::connect(path)?;
                s.set_read_timeout(Some(Duration::from_secs(10)))?;
                Stream::Unix(s)
            }
        };
        let mut peer =
            Self { stream, role, out: Vec::new(), out_at: 0, input: Vec::new(), sequence: 0, window: load.window };
        let hello = Hello {
            version_min: wire::VERSION,
            version_max: wire::VERSION,
            client: name,
            heartbeat_ms: 60_000,
            frame_bytes_max: 1 << 20,
            message_bytes_max: 1 << 24,
        };
        peer.frame(0, &hello, &[]);
        let mut welcome = None;
        peer.exchange(&mut |frame| {
            welcome = Some(frame.head::<Welcome<'_>>().map(|w| w.window_messages).map_err(bad)?);
            Ok(())
        })?;
        peer.window = peer.window.min(welcome.unwrap_or(1)).max(1);
        Ok(peer)
    }

    /// Sends what waits and takes one answer, blocking.
    fn exchange(&mut self, take: &mut dyn FnMut(wire::Frame<'_>) -> io::Result<()>) -> io::Result<()> {
        while self.out_at < self.out.len() {
            self.out_at += self.stream.write(&self.out[self.out_at..])?;
        }
        (self.out_at, _) = (0, self.out.clear());
        let mut buffer = [0; 4_096];
        loop {
            if let Decoded::Frame(frame, len) = wire::decode(&self.input, 1 << 20).map_err(bad)? {
                refused(&frame)?;
                take(frame)?;
                self.input.drain(..len);
                return Ok(());
            }
            match self.stream.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => self.input.extend_from_slice(&buffer[..n]),
            }
        }
    }

    fn frame<'h, H: Head<'h>>(&mut self, stream: u32, head: &H, payload: &[u8]) {
        let start = self.out.len();
        wire::append(&mut self.out, H::KIND, 0, stream, Some(head), &[payload]);
        wire::seal(&mut self.out[start..], self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Writes what waits, as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        while self.out_at < self.out.len() {
            match self.stream.write(&self.out[self.out_at..]) {
                Ok(n) => self.out_at += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        self.out.clear();
        self.out_at = 0;
        Ok(())
    }
}

/// Runs a load to its end. `progress` is called about ten times a second with the messages done so far.
///
/// # Errors
/// The broker cannot be reached, refuses, or breaks off.
pub fn run(load: &Load, progress: &mut dyn FnMut(u64)) -> io::Result<Outcomes> {
    let mut peers = Vec::new();
    for n in 0..load.subscribers {
        let mut peer = Peer::connect(load, Role::Subscriber, &format!("bench-sub-{n}"))?;
        let filter = load.channel.replace("{n}", "+");
        let head = Subscribe {
            filter: &filter,
            retained: false,
            since: Since::Now,
            respond: false,
            disconnect_when_slow: false,
        };
        peer.frame(1, &head, &[]);
        peer.exchange(&mut |_| Ok(()))?;
        peers.push(peer);
    }
    for n in 0..load.consumers {
        let role = Role::Consumer { owed_messages: 0, owed_bytes: 0 };
        let mut peer = Peer::connect(load, role, &format!("bench-consume-{n}"))?;
        let head = Consume {
            queue: &load.queue,
            name: "bench",
            start: Start::First,
            window: 0,
            attempts_max: 0,
            ack_timeout_ms: 0,
            backoff_ms: 0,
            filters: 0,
            credit_messages: 10_000,
            credit_bytes: 64 << 20,
        };
        peer.frame(1, &head, &[]);
        peer.exchange(&mut |_| Ok(()))?;
        peers.push(peer);
    }
    for n in 0..load.publishers {
        let publisher = Publisher {
            template: template(load, n),
            next: 0,
            acked: 0,
            sent: Default::default(),
            seed: fastrand::u64(..),
        };
        peers.push(Peer::connect(load, Role::Publisher(publisher), &format!("bench-pub-{n}"))?);
    }
    for peer in &peers {
        match &peer.stream {
            Stream::Tcp(s) => s.set_nonblocking(true)?,
            Stream::Unix(s) => s.set_nonblocking(true)?,
        }
    }
    Driver::new(load, peers).drive(progress)
}

struct Driver<'l> {
    load: &'l Load,
    peers: Vec<Peer>,
    start: Instant,
    published: u64,
    outcomes: Outcomes,
    buffer: Vec<u8>,
}

impl<'l> Driver<'l> {
    fn new(load: &'l Load, peers: Vec<Peer>) -> Self {
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds");
        let outcomes = Outcomes {
            time: Duration::ZERO,
            acked: 0,
            not_stored: 0,
            nacked: 0,
            heard: 0,
            dropped: 0,
            consumed: 0,
            ack_latency: histogram(),
            delivery_latency: histogram(),
        };
        Self { load, peers, start: now(), published: 0, outcomes, buffer: vec![0; 256 * 1_024] }
    }

    fn drive(mut self, progress: &mut dyn FnMut(u64)) -> io::Result<Outcomes> {
        let mut told = 0;
        let mut last = 0;
        loop {
            let at = micros(self.start);
            let ended = at >= self.load.time.as_micros() as u64;
            let all = self.load.count > 0 && self.published >= self.load.count;
            if (ended || all || self.load.publishers == 0) && self.is_done(last, at) {
                break;
            }
            if !ended && !all {
                self.publish(at)?;
            }
            let before = self.done();
            self.wait()?;
            if self.done() != before {
                last = micros(self.start);
                self.outcomes.time = Duration::from_micros(last);
            }
            if at - told >= 100_000 {
                told = at;
                progress(self.done());
            }
        }
        if self.load.consumers > 0 {
            // The last acknowledgements are still on their way out.
            self.settle()?;
        }
        Ok(self.outcomes)
    }

    fn done(&self) -> u64 {
        let o = &self.outcomes;
        o.acked + o.nacked + o.heard + o.consumed
    }

    /// Everything published is acknowledged, and what may be delivered was, or nothing came for a second.
    fn is_done(&self, last: u64, at: u64) -> bool {
        let o = &self.outcomes;
        let acked = o.acked + o.nacked >= self.published;
        let heard = self.load.subscribers == 0
            || o.heard + o.dropped >= (self.published - o.nacked) * u64::from(self.load.subscribers);
        let consumed = self.load.consumers == 0 || (self.load.publishers > 0 && o.consumed >= self.published);
        (acked && heard && consumed) || at.saturating_sub(last) > 2_000_000
    }

    fn publish(&mut self, at: u64) -> io::Result<()> {
        let load = self.load;
        let mut allowed = u64::MAX;
        if load.rate > 0 {
            allowed = (at * load.rate / 1_000_000).saturating_sub(self.published);
        }
        if load.count > 0 {
            allowed = allowed.min(load.count - self.published);
        }
        for peer in &mut self.peers {
            let window = u64::from(peer.window);
            let Role::Publisher(p) = &mut peer.role else { continue };
            let room = (window - (p.next - p.acked)).min(allowed);
            if room == 0 || peer.out.len() - peer.out_at > BATCH_BYTES {
                continue;
            }
            let each = p.template.len() + 3;
            let count = room.min((BATCH_BYTES / each).max(1) as u64);
            let mut payload = Vec::with_capacity(count as usize * each);
            let first = p.next;
            for n in first..first + count {
                if load.ids {
                    p.template[..8].copy_from_slice(&p.seed.to_be_bytes());
                    p.template[8..16].copy_from_slice(&(n + 1).to_be_bytes());
                }
                if load.size >= STAMP_BYTES {
                    let end = p.template.len();
                    p.template[end - STAMP_BYTES..].copy_from_slice(&at.to_be_bytes());
                }
                wire::append_record(&mut payload, &p.template);
            }
            p.sent.push_back((first, at));
            p.next += count;
            allowed -= count;
            self.published += count;
            let head = Batch { contract: load.contract, first, count: count as u32 };
            peer.frame(1, &head, &payload);
            peer.flush()?;
        }
        Ok(())
    }

    /// Waits until a connection can be read or written, and does so.
    fn wait(&mut self) -> io::Result<()> {
        let timeout = if self.load.rate > 0 { 1 } else { 50 };
        let mut fds: Vec<PollFd<'_>> = self
            .peers
            .iter()
            .map(|p| {
                let out = if p.out_at < p.out.len() { PollFlags::OUT } else { PollFlags::empty() };
                PollFd::from_borrowed_fd(p.stream.fd(), PollFlags::IN | out)
            })
            .collect();
        let spec = rustix::event::Timespec { tv_sec: 0, tv_nsec: timeout * 1_000_000 };
        poll(&mut fds, Some(&spec)).map_err(io::Error::from)?;
        let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        for (i, flags) in ready.into_iter().enumerate() {
            if flags.contains(PollFlags::OUT) {
                self.peers[i].flush()?;
            }
            if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                self.receive(i)?;
            }
        }
        Ok(())
    }

    fn receive(&mut self, i: usize) -> io::Result<()> {
        let peer = &mut self.peers[i];
        let n = match peer.stream.read(&mut self.buffer) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the broker closed a connection")),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut kept = std::mem::take(&mut peer.input);
        let bytes: &[u8] = if kept.is_empty() {
            &self.buffer[..n]
        } else {
            kept.extend_from_slice(&self.buffer[..n]);
            &kept
        };
        let at = micros(self.start);
        let mut from = 0;
        while let Decoded::Frame(frame, len) = wire::decode(&bytes[from..], 1 << 20).map_err(bad)? {
            take(peer, &frame, at, self.load, &mut self.outcomes)?;
            from += len;
        }
        let rest = bytes[from..].to_vec();
        peer.input = rest;
        peer.flush()
    }

    fn settle(&mut self) -> io::Result<()> {
        for _ in 0..20 {
            if self.peers.iter().all(|p| p.out.is_empty()) {
                return Ok(());
            }
            self.wait()?;
        }
        Ok(())
    }
}

fn take(peer: &mut Peer, frame: &wire::Frame<'_>, at: u64, load: &Load, o: &mut Outcomes) -> io::Result<()> {
    refused(frame)?;
    match frame.header.kind {
        FrameType::PublishAck => {
            let head = frame.head::<PublishAck>().map_err(bad)?;
            let count = u64::from(head.count);
            o.acked += count;
            if !matches!(head.outcome, Outcome::Stored | Outcome::LiveOnly) {
                o.not_stored += count;
            }
            if let Role::Publisher(p) = &mut peer.role {
                p.settle(head.first + count, at, &mut o.ack_latency);
            }
        }
        FrameType::PublishNack => {
            let head = frame.head::<PublishNack<'_>>().map_err(bad)?;
            let code = wire::Code::from_u16(head.code).map_or("unknown", wire::Code::name);
            return Err(io::Error::other(format!("the broker refused a publish: {code}: {}", head.detail)));
        }
        FrameType::Deliver => {
            let head = frame.head::<Deliver>().map_err(bad)?;
            let count = u64::from(head.count);
            if load.size >= STAMP_BYTES && frame.payload.len() >= STAMP_BYTES {
                // One sample a frame: the last message's stamp is its payload's end.
                let end = frame.payload.len();
                if let Ok(stamp) = frame.payload[end - STAMP_BYTES..].try_into() {
                    let sent = u64::from_be_bytes(stamp);
                    let _ = o.delivery_latency.record(at.saturating_sub(sent).max(1));
                }
            }
            match &mut peer.role {
                Role::Consumer { owed_messages, owed_bytes } => {
                    o.consumed += count;
                    *owed_messages += head.count;
                    *owed_bytes += head.total;
                    let credit = (*owed_messages, *owed_bytes);
                    peer.frame(1, &Ack { first: head.first_tag, count: head.count }, &[]);
                    if credit.0 >= 2_000 {
                        peer.frame(1, &Credit { messages: credit.0, bytes: credit.1 }, &[]);
                        peer.role = Role::Consumer { owed_messages: 0, owed_bytes: 0 };
                    }
                }
                _ => o.heard += count,
            }
        }
        FrameType::Dropped => o.dropped += frame.head::<wire::Dropped>().map_err(bad)?.count,
        FrameType::Ping => {
            let nonce = frame.head::<Ping>().map_err(bad)?.nonce;
            peer.frame(0, &Pong { nonce }, &[]);
        }
        _ => {}
    }
    Ok(())
}

impl Publisher {
    /// Everything below `end` is acknowledged.
    fn settle(&mut self, end: u64, at: u64, latency: &mut Histogram<u64>) {
        while let Some(&(first, sent)) = self.sent.front() {
            let next = self.sent.get(1).map_or(self.next, |s| s.0);
            let upto = next.min(end);
            if upto > first.max(self.acked) {
                let _ = latency.record_n(at.saturating_sub(sent).max(1), upto - first.max(self.acked));
            }
            if next > end {
                break;
            }
            self.sent.pop_front();
        }
        self.acked = end;
    }
}

/// The record of a publisher, ready but for id and stamp.
fn template(load: &Load, number: u32) -> Vec<u8> {
    let channel = load.channel.replace("{n}", &number.to_string());
    let payload: Vec<u8> = (0..load.size).map(|i| b'a' + (i % 26) as u8).collect();
    let Ok(channel) = Channel::parse(&channel) else { return Vec::new() };
    let id = if load.ids { MessageId([1; 16]) } else { MessageId::NONE };
    let record = Record { id, encoding: Encoding::Binary, ..Record::new(channel, &payload) };
    let mut bytes = Vec::new();
    record.encode_to(&mut bytes);
    bytes
}

fn refused(frame: &wire::Frame<'_>) -> io::Result<()> {
    if matches!(frame.header.kind, FrameType::Error | FrameType::Close) {
        let detail = frame.head::<ErrorHead<'_>>().map_or_else(|_| "closed".to_owned(), |h| h.detail.to_owned());
        return Err(io::Error::other(format!("the broker refused: {detail}")));
    }
    Ok(())
}

fn bad(error: wire::WireError) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error.to_string())
}

#[expect(clippy::disallowed_methods, reason = "a load generator measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn micros(start: Instant) -> u64 {
    start.elapsed().as_micros() as u64
}

const _: () = assert!(BATCH_BYTES >= FRAME_PAYLOAD_BYTES_FLOOR as usize);
