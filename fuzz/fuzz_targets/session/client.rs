//! A client as a byte buffer that remembers what it was promised, and panics when a promise is broken.

use crate::op::{Frame, Message, Number, Since};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tidegate::model::limits::{CHUNK_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX};
use tidegate::model::{Channel, MessageId, Priority, Record};
use tidegate::wire::{
    self, Ack, AnyHead, Batch, Cancel, Close, Code, Consume, Contract, Credit, Decoded, DeliverItems, FLAG_CONT,
    FLAG_MORE, Head, Hello, History, Nack, Outcome, Pause, Ping, Pong, Publish, Request, Response, Resume, Start,
    Subscribe, Unsubscribe, item_flag,
};

pub const CHANNELS: &[&str] = &[
    "d/a",
    "d/b",
    "h/a",
    "h/b",
    "w/a",
    "m/a",
    "c/a",
    "r/a",
    "x/a",
    "live/a",
    "$admin/status",
    "$admin/queue/peek",
    "d//",
    "ask/a",
];
const FILTERS: &[&str] = &["#", "d/#", "+/a", "h/a", "d/a", "live/+", "$admin/#", "bad#", "ask/a", "h/b", "x/a", ""];
pub const QUEUES: &[&str] = &["d", "h", "w", "m", "c", "r", "x", "$dead/d", "nosuch"];
const CONSUMERS: &[&str] = &["one", "two", "bad name"];
pub const MESSAGE_BYTES_MAX: u32 = 40 * 1_024;
const FRAME_BYTES_MAX: u32 = 32 * 1_024;

/// What all clients know together.
#[derive(Default)]
pub struct Shared {
    /// Marks of messages that are durable.
    pub durable: BTreeSet<u64>,
    /// Next mark.
    pub mark: u64,
    /// Ids and the marks published with them.
    pub ids: BTreeMap<u8, Vec<u64>>,
    /// What a consumer was given without the flag of a redelivery: queue, name, epoch, lane, sequence.
    pub first_time: BTreeSet<(u8, u8, u64, u8, u64)>,
    /// Consumers may have begun anew, or acknowledged ranges of which nothing is known: no word about `first_time`.
    pub blind: bool,
    /// The queue `d` left the configuration once.
    pub without_queue: bool,
}

impl Shared {
    /// Whether a message of this channel must be on disk before its publisher is told `stored`, or anyone sees it.
    fn on_disk(&self, channel: &str) -> bool {
        let captured = ["h/", "w/", "r/", "x/"].iter().any(|p| channel.starts_with(p));
        captured || (channel.starts_with("d/") && !self.without_queue)
    }
}

struct Sent {
    number: u64,
    mark: u64,
    /// It must be durable before `stored`.
    durable: bool,
    /// It is captured by the queue that may leave the configuration, and by no other.
    leaves: bool,
    id: u8,
}

#[derive(Default)]
struct Publisher {
    next: u64,
    refused: Option<u64>,
    unanswered: VecDeque<Sent>,
    /// As far as the answers tell: only this number may be taken next.
    fence: Option<u64>,
}

struct Consumer {
    queue: u8,
    name: u8,
    credit: u64,
    delivered: u64,
    last_tag: u64,
    open: bool,
    /// Tags not answered.
    tags: BTreeSet<u64>,
    window: u64,
    /// Last sequence that came for the first time, by lane and epoch.
    last_seq: BTreeMap<(u64, u8), u64>,
}

pub struct Client {
    pub reads: bool,
    pub closed: bool,
    pub trickle: usize,
    /// Bytes on their way to the broker.
    pub outgoing: VecDeque<u8>,
    /// It sent what nobody can foresee: only the form of what it is sent is judged.
    pub wild: bool,
    /// An orderly end, or a mistake of ours, was sent.
    pub ending: bool,
    sequence: u32,
    next_sequence: u32,
    publishers: BTreeMap<u32, Publisher>,
    consumers: BTreeMap<u32, Consumer>,
    chunks: BTreeMap<(u32, u8), Vec<u8>>,
    epoch: u64,
    welcomed: bool,
    error: bool,
}

impl Client {
    pub fn new() -> Self {
        Self {
            reads: true,
            closed: false,
            trickle: 0,
            outgoing: VecDeque::new(),
            wild: false,
            ending: false,
            sequence: 0,
            next_sequence: 0,
            publishers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            chunks: BTreeMap::new(),
            epoch: 0,
            welcomed: false,
            error: false,
        }
    }

    /// Everything that was sent was answered.
    pub fn assert_answered(&self) {
        if self.wild || self.ending || self.closed || self.error {
            return;
        }
        assert!(self.outgoing.is_empty(), "bytes of a session that may be read from were not read");
        for (stream, p) in &self.publishers {
            let open: Vec<u64> = p.unanswered.iter().map(|s| s.number).collect();
            assert!(open.is_empty(), "publishes {open:?} of stream {stream} were never answered");
        }
    }

    // -- to the broker --

    fn put<'a, H: Head<'a>>(&mut self, flags: u16, stream: u32, head: &H, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; payload.len() + 8_192];
        let len = wire::encode(&mut out, flags, stream, self.sequence, head, payload).expect("a frame of ours");
        self.sequence = self.sequence.wrapping_add(1);
        out.truncate(len);
        out
    }

    /// Encodes a frame and takes note of what it asks for.
    pub fn encode(&mut self, frame: &Frame, shared: &mut Shared) -> Vec<u8> {
        let streams = |s: u8| u32::from(s % 6);
        match frame {
            Frame::Publish { stream, number, message } => {
                let stream = 1 + streams(*stream) % 3;
                let number = self.number(stream, *number);
                let contract = contract(message.contract);
                let bytes = self.record(stream, number, contract, message, shared);
                let head = Publish { contract, number, total: bytes.len() as u32 };
                self.message(stream, &head, &bytes)
            }
            Frame::Batch { stream, number, messages } => {
                let stream = 1 + streams(*stream) % 3;
                let messages = &messages[..messages.len().min(8)];
                let Some(first) = messages.first() else { return Vec::new() };
                let contract = contract(first.contract);
                let first = self.number(stream, *number);
                let mut payload = Vec::new();
                let mut count = 0;
                for (number, message) in (first..).zip(messages) {
                    if payload.len() > 16_000 {
                        break;
                    }
                    let small = Message { len: message.len % 3_000, ..*message };
                    wire::append_record(&mut payload, &self.record(stream, number, contract, &small, shared));
                    count += 1;
                }
                self.publishers.entry(stream).or_default().next = first + u64::from(count);
                self.put(0, stream, &Batch { contract, first, count }, &payload)
            }
            Frame::Subscribe { stream, filter, retained, since, respond, disconnect } => {
                let head = Subscribe {
                    filter: FILTERS[usize::from(*filter) % FILTERS.len()],
                    retained: *retained,
                    since: self.since(*since),
                    respond: *respond,
                    disconnect_when_slow: *disconnect,
                };
                self.put(0, 4 + streams(*stream), &head, &[])
            }
            Frame::Unsubscribe { stream } => {
                let stream = 4 + streams(*stream);
                if let Some(c) = self.consumers.get_mut(&stream) {
                    c.open = false;
                }
                self.put(0, stream, &Unsubscribe {}, &[])
            }
            Frame::Consume { stream, queue, name, start, window, attempts, ack_timeout, filters, credit } => {
                let stream = 4 + streams(*stream);
                let (queue, name) = (queue % QUEUES.len() as u8, name % CONSUMERS.len() as u8);
                let filters = &filters[..filters.len().min(3)];
                let mut payload = Vec::new();
                for filter in filters {
                    wire::append_filter(&mut payload, FILTERS[usize::from(*filter) % FILTERS.len()]);
                }
                let head = Consume {
                    queue: QUEUES[usize::from(queue)],
                    name: CONSUMERS[usize::from(name)],
                    start: match start {
                        Since::Now => Start::New,
                        Since::Time(t) => Start::Time(1_700_000_000_000 + u64::from(*t)),
                        _ => Start::First,
                    },
                    window: u32::from(*window),
                    attempts_max: u32::from(*attempts % 4),
                    ack_timeout_ms: if *ack_timeout { 500 } else { 0 },
                    backoff_ms: 10,
                    filters: filters.len() as u32,
                    credit_messages: u32::from(*credit),
                    credit_bytes: u32::from(*credit) * 1_000,
                };
                // Refused where the stream is in use: then nothing is known of it.
                if self.consumers.get(&stream).is_some_and(|c| c.open) {
                    self.wild = true;
                }
                let window = if *window == 0 { 8 } else { u64::from(*window).min(8) };
                let consumer = Consumer {
                    queue,
                    name,
                    credit: u64::from(*credit),
                    delivered: 0,
                    last_tag: 0,
                    open: true,
                    tags: BTreeSet::new(),
                    // An overdue delivery goes to somebody else, and its tag is void.
                    window: if *ack_timeout { u64::MAX } else { window },
                    last_seq: BTreeMap::new(),
                };
                self.consumers.insert(stream, consumer);
                self.put(0, stream, &head, &payload)
            }
            Frame::Ack { stream, back, count } => {
                let (stream, first, count) = self.tags(*stream, *back, *count);
                self.put(0, stream, &Ack { first, count }, &[])
            }
            Frame::Nack { stream, back, count, delay_ms, give_up } => {
                let (stream, first, count) = self.tags(*stream, *back, *count);
                let head =
                    Nack { first, count, delay_ms: u32::from(*delay_ms), give_up: *give_up, reason: "it did not work" };
                self.put(0, stream, &head, &[])
            }
            Frame::Credit { stream, messages, bytes } => {
                let stream = 4 + streams(*stream);
                if let Some(c) = self.consumers.get_mut(&stream) {
                    c.credit += u64::from(*messages);
                }
                self.put(0, stream, &Credit { messages: u32::from(*messages), bytes: *bytes }, &[])
            }
            Frame::Pause { stream } => self.put(0, 4 + streams(*stream), &Pause { code: 0 }, &[]),
            Frame::Resume { stream } => self.put(0, 4 + streams(*stream), &Resume {}, &[]),
            Frame::History { stream, channel, since, limit } => {
                let channel = CHANNELS[usize::from(*channel) % CHANNELS.len()];
                let head = History { channel, since: self.since(*since), limit: u32::from(*limit) };
                self.put(0, 4 + streams(*stream), &head, &[])
            }
            Frame::Request { stream, channel, deadline_ms, len } => {
                let channel = CHANNELS[usize::from(*channel) % CHANNELS.len()];
                let body = vec![b'?'; usize::from(*len) % 40_000];
                let head = Request {
                    channel,
                    deadline_ms: u32::from(*deadline_ms),
                    total: body.len() as u32,
                    properties: &[],
                };
                self.message(4 + streams(*stream), &head, &body)
            }
            Frame::Response { stream, status, last, len } => {
                let body = vec![b'!'; usize::from(*len) % 40_000];
                let head =
                    Response { status: u16::from(*status), last: *last, total: body.len() as u32, trailers: &[] };
                self.message(0x8000_0000 | (stream % 64), &head, &body)
            }
            Frame::Cancel { stream } => self.put(
                0,
                if stream % 2 == 0 { stream % 10 } else { 0x8000_0000 | (stream % 64) },
                &Cancel { code: 0 },
                &[],
            ),
            Frame::Ping(nonce) => self.put(0, 0, &Ping { nonce: *nonce }, &[]),
            Frame::Pong(nonce) => self.put(0, 0, &Pong { nonce: *nonce }, &[]),
            Frame::Hello { small } => {
                let head = Hello {
                    version_min: 1,
                    version_max: 1,
                    client: "fuzz",
                    heartbeat_ms: 5_000,
                    frame_bytes_max: if *small { CHUNK_BYTES_MAX as u32 } else { FRAME_BYTES_MAX },
                    message_bytes_max: if *small { 8_000 } else { MESSAGE_BYTES_MAX },
                };
                self.put(0, 0, &head, &[])
            }
            Frame::Close => {
                self.ending = true;
                self.put(0, 0, &Close { code: 0, detail: "" }, &[])
            }
        }
    }

    /// A message in one frame, or in chunks where it is large.
    fn message<'a, H: Head<'a>>(&mut self, stream: u32, head: &H, payload: &[u8]) -> Vec<u8> {
        if payload.len() <= CHUNK_BYTES_MAX {
            return self.put(0, stream, head, payload);
        }
        let mut all = Vec::new();
        for (i, (flags, chunk)) in wire::chunks(payload).enumerate() {
            if i == 0 {
                all.extend(self.put(flags, stream, head, chunk));
                continue;
            }
            let mut out = vec![0; chunk.len() + 64];
            let len = wire::encode_into::<H>(&mut out, H::KIND, flags, stream, None, chunk).expect("a chunk of ours");
            out.truncate(len);
            wire::seal(&mut out, self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            all.extend(out);
        }
        all
    }

    fn number(&mut self, stream: u32, number: Number) -> u64 {
        let p = self.publishers.entry(stream).or_default();
        let number = match number {
            Number::Next => p.next.max(1),
            Number::Resume => p.refused.take().unwrap_or(p.next.max(1)),
            Number::Off(off) => p.next.saturating_add_signed(i64::from(off)).max(1),
        };
        p.next = number + 1;
        number
    }

    fn record(&mut self, stream: u32, number: u64, contract: Contract, m: &Message, shared: &mut Shared) -> Vec<u8> {
        let channel = CHANNELS[usize::from(m.channel) % CHANNELS.len()];
        shared.mark += 1;
        let mark = shared.mark;
        let mut payload = marked(mark).to_vec();
        payload.resize(16 + usize::from(m.len) % 45_000, b'.');
        let mut record = Record::new(Channel::parse(channel).expect("valid"), &payload);
        let id = m.id % 24;
        if id > 0 {
            record.id = MessageId([id; 16]);
            shared.ids.entry(id).or_default().push(mark);
        }
        record.priority = Priority::new(m.priority % 10).unwrap_or_default();
        record.retain = m.retain;
        record.ttl_ms = if m.ttl { 1_000 } else { 0 };
        record.delay_ms = if m.delay { 700 } else { 0 };
        let mut bytes = Vec::new();
        record.encode_to(&mut bytes);
        // What is retained is on disk, but how long it must have been there is for the contract to say.
        // A queue that dropped the newest, as `r` may, sets no minimum for what is only retained then.
        let durable = (shared.on_disk(channel) && !(m.retain && channel.starts_with("r/")))
            || (contract == Contract::Disk && !m.retain);
        let p = self.publishers.entry(stream).or_default();
        p.unanswered.push_back(Sent { number, mark, durable, leaves: channel.starts_with("d/"), id });
        bytes
    }

    fn since(&self, since: Since) -> wire::Since {
        match since {
            Since::Now => wire::Since::Now,
            Since::Last(n) => wire::Since::Last(u32::from(n)),
            Since::Offset(offset) => wire::Since::Offset { epoch: self.epoch, offset: u64::from(offset) },
            Since::Time(t) => wire::Since::Time(1_700_000_000_000 + u64::from(t)),
        }
    }

    /// A range of tags, counted back from the last one delivered.
    fn tags(&mut self, stream: u8, back: u8, count: u8) -> (u32, u64, u32) {
        let stream = 4 + u32::from(stream % 6);
        let Some(c) = self.consumers.get_mut(&stream) else { return (stream, 1, u32::from(count)) };
        let first = c.last_tag.saturating_sub(u64::from(back)).max(1);
        let end = (first + u64::from(count)).min(c.last_tag + 1).max(first);
        c.tags.retain(|tag| !(first..end).contains(tag));
        (stream, first, (end - first) as u32)
    }

    // -- from the broker --

    /// Judges bytes that arrived.
    pub fn receive(&mut self, mut bytes: &[u8], shared: &mut Shared) {
        while !bytes.is_empty() {
            let Ok(Decoded::Frame(frame, len)) = wire::decode(bytes, FRAME_PAYLOAD_BYTES_MAX) else {
                panic!("only whole and well-formed frames are sent");
            };
            bytes = &bytes[len..];
            assert_eq!(frame.header.sequence, self.next_sequence, "sequence numbers have no gap");
            self.next_sequence = self.next_sequence.wrapping_add(1);
            assert!(frame.header.payload_len <= FRAME_BYTES_MAX, "more than the client takes");
            assert!(!self.error, "nothing follows the error that ends a session");
            let key = (frame.header.stream, frame.header.kind as u8);
            let head = frame.any_head().expect("heads are well-formed");
            let stream = frame.header.stream;
            match head {
                None => {
                    let chunks = self.chunks.get_mut(&key).expect("a chunk continues something");
                    chunks.extend_from_slice(frame.payload);
                    if frame.header.flags & FLAG_MORE == 0 {
                        let whole = self.chunks.remove(&key).expect("just found");
                        let (head, payload) = split(&whole);
                        let frame = wire::Frame { head, payload, ..frame };
                        let header = wire::Header { flags: 0, ..frame.header };
                        let frame = wire::Frame { header, ..frame };
                        let head = frame.any_head().expect("it was well-formed before").expect("it has one");
                        self.judge(stream, &head, payload, shared);
                    }
                }
                Some(_) if frame.header.flags & FLAG_MORE != 0 => {
                    assert_eq!(frame.header.flags & FLAG_CONT, 0);
                    let mut begun = (frame.head.len() as u32).to_be_bytes().to_vec();
                    begun.extend_from_slice(frame.head);
                    begun.extend_from_slice(frame.payload);
                    assert!(self.chunks.insert(key, begun).is_none(), "one message a stream and type is under way");
                }
                Some(head) => self.judge(stream, &head, frame.payload, shared),
            }
        }
    }

    fn judge(&mut self, stream: u32, head: &AnyHead<'_>, payload: &[u8], shared: &mut Shared) {
        match head {
            AnyHead::Welcome(_) => {
                assert!(!self.welcomed, "welcome is said once");
                self.welcomed = true;
            }
            AnyHead::PublishAck(ack) => {
                self.answered(stream, ack.first, ack.count, Ok(ack.outcome), shared);
            }
            AnyHead::PublishNack(nack) => {
                let code = Code::from_u16(nack.code).expect("a known code");
                self.answered(stream, nack.first, nack.count, Err(code), shared);
            }
            AnyHead::Deliver(head) => {
                let items = DeliverItems::parse(payload, head.count, head.total).expect("well-formed items");
                for (i, item) in items.enumerate() {
                    let record = Record::decode(item.record).expect("records are whole");
                    if head.epoch != 0 {
                        self.epoch = head.epoch;
                    }
                    let channel = record.channel.as_str();
                    if let Some(mark) = mark_of(record.payload).filter(|_| shared.on_disk(channel)) {
                        assert!(
                            shared.durable.contains(&mark),
                            "{channel}: {mark} was delivered before it was durable"
                        );
                    }
                    if head.first_tag != 0 {
                        let first_time = item.flags & item_flag::REDELIVERED == 0;
                        let at = (head.epoch, item.lane, item.seq);
                        self.delivered(stream, head.first_tag + i as u64, at, first_time, shared);
                    }
                }
            }
            AnyHead::ErrorHead(head) if stream == 0 => {
                assert!(Code::from_u16(head.code).is_some_and(|c| c != Code::Internal), "code {}", head.code);
                self.error = true;
            }
            AnyHead::ErrorHead(head) => {
                assert!(Code::from_u16(head.code).is_some_and(|c| c != Code::Internal), "code {}", head.code);
                // A consumer that was refused.
                if let Some(c) = self.consumers.get_mut(&stream).filter(|c| c.last_tag == 0) {
                    c.open = false;
                }
            }
            AnyHead::Close(_) => self.error = true,
            AnyHead::Done(_) | AnyHead::Ping(_) | AnyHead::Pong(_) | AnyHead::Dropped(_) | AnyHead::Goaway(_) => {}
            AnyHead::Request(_) | AnyHead::Response(_) | AnyHead::Cancel(_) => {}
            AnyHead::Pause(_) | AnyHead::Resume(_) => {}
            other => panic!("a broker does not send this: {other:?}"),
        }
    }

    /// A range of publishes was answered: in order, once each, and never before its commit.
    fn answered(&mut self, stream: u32, first: u64, count: u32, what: Result<Outcome, Code>, shared: &Shared) {
        assert!(count > 0, "an answer of nothing");
        if self.wild {
            return;
        }
        let p = self.publishers.get_mut(&stream).expect("an answer on a stream that publishes");
        for number in first..first + u64::from(count) {
            let sent = p.unanswered.pop_front().expect("an answer to a publish that was not answered before");
            assert_eq!(number, sent.number, "answers come in the order of the publishes");
            match what {
                Ok(outcome) => {
                    assert!(p.fence.is_none_or(|f| f == number), "{number} passed the fence at {:?}", p.fence);
                    p.fence = None;
                    if outcome == Outcome::Stored && (sent.durable && !(sent.leaves && shared.without_queue)) {
                        assert!(shared.durable.contains(&sent.mark), "stored was said before {number} was durable");
                    }
                    if outcome == Outcome::Duplicate {
                        let copies = shared.ids.get(&sent.id).map_or(&[][..], Vec::as_slice);
                        assert!(copies.iter().any(|c| *c < sent.mark), "a duplicate of nothing");
                    }
                }
                Err(code) if code.is_retryable() && p.fence.is_none() => {
                    p.fence = Some(number);
                    p.refused = Some(number);
                }
                Err(Code::Fenced) => p.refused = p.fence,
                Err(_) => {}
            }
        }
    }

    fn delivered(&mut self, stream: u32, tag: u64, at: (u64, u8, u64), first_time: bool, shared: &mut Shared) {
        if self.wild {
            return;
        }
        let c = self.consumers.get_mut(&stream).expect("a delivery on a stream that consumes");
        assert_eq!(tag, c.last_tag + 1, "tags are consecutive");
        c.last_tag = tag;
        c.delivered += 1;
        assert!(c.delivered <= c.credit, "{} deliveries for {} messages of credit", c.delivered, c.credit);
        c.tags.insert(tag);
        assert!(c.tags.len() as u64 <= c.window, "{} are under way, the window is {}", c.tags.len(), c.window);
        let (epoch, lane, seq) = at;
        if !first_time {
            return;
        }
        let last = c.last_seq.entry((epoch, lane)).or_default();
        assert!(*last < seq, "lane {lane}: {seq} came for the first time after {last}");
        *last = seq;
        let new = shared.first_time.insert((c.queue, c.name, epoch, lane, seq));
        assert!(new || shared.blind, "lane {lane}: {seq} came for the first time twice");
    }
}

fn split(whole: &[u8]) -> (&[u8], &[u8]) {
    let (len, rest) = whole.split_first_chunk::<4>().expect("written so");
    rest.split_at(u32::from_be_bytes(*len) as usize)
}

fn contract(n: u8) -> Contract {
    match n % 8 {
        0 => Contract::Memory,
        1 => Contract::Disk,
        2 => Contract::Upstream,
        _ => Contract::Queue,
    }
}

const MARK: &[u8; 8] = b"\xF1MARK\xF2\xF3\xF4";

fn marked(mark: u64) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(MARK);
    out[8..].copy_from_slice(&mark.to_be_bytes());
    out
}

fn mark_of(payload: &[u8]) -> Option<u64> {
    let rest = payload.strip_prefix(&MARK[..])?;
    rest.first_chunk::<8>().map(|b| u64::from_be_bytes(*b))
}

/// All marks within some bytes.
pub fn marks(bytes: &[u8], found: &mut BTreeSet<u64>) {
    let mut at = 0;
    while let Some(i) = bytes[at..].iter().position(|b| *b == MARK[0]) {
        at += i;
        if let Some(mark) = mark_of(&bytes[at..]) {
            found.insert(mark);
        }
        at += 1;
    }
}
