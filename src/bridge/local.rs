//! The session at the local broker: a consumer in each queue that is forwarded, credit for them, and what settles.
//!
//! Streams are never used twice: what the broker still sends for a consumer that was given back is known by its stream and
//! dropped.

use super::mapping::Mapper;
use super::side::Assembly;
use crate::client::{CONTROL_BYTES_MAX, Link};
use crate::model::limits::{FRAME_PAYLOAD_BYTES_DEFAULT, MESSAGE_BYTES_MAX};
use crate::model::{Mono, Now};
use crate::wire::{
    Ack, BridgeHello, Consume, Credit, Deliver, ENCODING_LZ4, EXTENSION_BRIDGE, EXTENSION_ENCODINGS, EXTENSION_LANES,
    Extended, Extension, FrameType, Head, Nack, Pause, Start, Unsubscribe, append, append_filter,
};

/// Heartbeat of a session in memory, in milliseconds: nothing is lost there.
const HEARTBEAT_MS: u32 = 3_600_000;
/// Milliseconds before a session or a consumer that was refused is tried again.
pub(super) const RETRY_MS: u64 = 5_000;
/// Largest frame payload it takes, in bytes.
pub(super) const FRAME_BYTES_MAX: u32 = FRAME_PAYLOAD_BYTES_DEFAULT;
/// Attempts its deliveries have: a message that the upstream does not take is not the consumer's failure.
const ATTEMPTS_MAX: u32 = u32::MAX;
/// A consumer is given credit in parts of its share not smaller than this.
const CREDIT_PARTS: u32 = 4;

/// How far the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LocalState {
    /// There is none; opened at this time.
    Closed(Mono),
    /// It said hello.
    Greeting,
    /// It is open.
    Open,
}

/// The session and its consumers.
pub(super) struct Local {
    pub(super) state: LocalState,
    pub(super) link: Link,
    pub(super) partial: Vec<u8>,
    pub(super) assembly: Assembly,
    /// Sealed frames for the broker.
    out: Vec<u8>,
    next_stream: u32,
    pub(super) consumers: Vec<LocalConsumer>,
    /// When consumers that were refused are tried again.
    pub(super) retry_at: Option<Mono>,
}

/// The consumer in one queue.
#[derive(Debug)]
pub(super) struct LocalConsumer {
    pub(super) queue: String,
    filters: Vec<String>,
    /// Its stream; 0 while it has none.
    pub(super) stream: u32,
    /// The broker said yes.
    pub(super) open: bool,
    /// Credit it has left.
    pub(super) credit_messages: u32,
    pub(super) credit_bytes: i64,
    /// It was given credit: something may be under way.
    granted: bool,
    /// Lanes of which it gives nothing, bit n for lane n.
    held_lanes: u16,
}

impl LocalConsumer {
    fn new(queue: String) -> Self {
        Self {
            queue,
            filters: Vec::new(),
            stream: 0,
            open: false,
            credit_messages: 0,
            credit_bytes: 0,
            granted: false,
            held_lanes: 0,
        }
    }
}

impl Local {
    pub(super) fn new(now: Now, queues: &[(String, Mapper)]) -> Self {
        let mut local = Self {
            state: LocalState::Closed(now.mono),
            link: Link::new(ms(now.mono)),
            partial: Vec::new(),
            assembly: Assembly::default(),
            out: Vec::new(),
            next_stream: 1,
            consumers: Vec::new(),
            retry_at: None,
        };
        local.set_queues(queues);
        local
    }

    /// The queues that are forwarded, with what any of their routes wants.
    pub(super) fn set_queues(&mut self, queues: &[(String, Mapper)]) {
        self.consumers.clear();
        for (queue, mapper) in queues {
            let mut consumer = LocalConsumer::new(queue.clone());
            for filter in mapper.filters().map(|filter| filter.as_str().to_owned()) {
                if !consumer.filters.contains(&filter) {
                    consumer.filters.push(filter);
                }
            }
            // Without a filter it is everything, which costs the broker no look.
            if consumer.filters.iter().any(|f| f == "#") {
                consumer.filters.clear();
            }
            self.consumers.push(consumer);
        }
    }

    /// Begins a session: the edge connects it, what follows goes there.
    pub(super) fn open(&mut self, now: Now, client: &str, bridge: &BridgeHello<'_>) {
        self.state = LocalState::Greeting;
        self.link = Link::new(ms(now.mono));
        self.partial = Vec::new();
        self.assembly = Assembly::default();
        self.out.clear();
        let head = Link::hello(client, HEARTBEAT_MS, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX);
        let bridge = postcard::to_stdvec(bridge).expect("a vector takes anything");
        let extensions = &[
            Extension { tag: EXTENSION_ENCODINGS, value: &[ENCODING_LZ4] },
            Extension { tag: EXTENSION_BRIDGE, value: &bridge },
        ];
        self.frame(FrameType::Hello, 0, &Extended { head, extensions }, &[]);
        self.forget();
    }

    /// The session is gone; another is begun later.
    pub(super) fn lost(&mut self, now: Now) {
        self.state = LocalState::Closed(now.mono.plus_ms(RETRY_MS));
        self.out.clear();
        self.forget();
    }

    fn forget(&mut self) {
        self.retry_at = None;
        for c in &mut self.consumers {
            (c.stream, c.open, c.credit_messages, c.credit_bytes) = (0, false, 0, 0);
            (c.granted, c.held_lanes) = (false, 0);
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == LocalState::Open
    }

    /// A stream never used before.
    pub(super) fn stream(&mut self) -> u32 {
        let stream = self.next_stream;
        // Streams of the upper half are the broker's; after so many the session is as good as new.
        self.next_stream = if stream >= i32::MAX as u32 { 1 } else { stream + 1 };
        stream
    }

    /// Appends a frame, behind all others.
    pub(super) fn frame<H: serde::Serialize>(&mut self, kind: FrameType, stream: u32, head: &H, payload: &[u8]) {
        let start = self.out.len();
        append(&mut self.out, kind, 0, stream, Some(head), &[payload]);
        self.link.seal(&mut self.out[start..]);
    }

    fn send<'h, H: Head<'h>>(&mut self, stream: u32, head: &H) {
        self.frame(H::KIND, stream, head, &[]);
    }

    /// Opens the consumers that have no stream, without credit: they hold their places, and nothing comes.
    pub(super) fn consume(&mut self, name: &str, window: u32) {
        self.retry_at = None;
        if !self.is_open() {
            return;
        }
        for at in 0..self.consumers.len() {
            if self.consumers[at].stream != 0 {
                continue;
            }
            let stream = self.stream();
            let c = &mut self.consumers[at];
            (c.stream, c.open, c.credit_messages, c.credit_bytes) = (stream, false, 0, 0);
            (c.granted, c.held_lanes) = (false, 0);
            let (queue, filters) = (std::mem::take(&mut c.queue), std::mem::take(&mut c.filters));
            let mut payload = Vec::new();
            filters.iter().for_each(|f| append_filter(&mut payload, f));
            let head = Consume {
                queue: &queue,
                name,
                start: Start::First,
                window,
                attempts_max: ATTEMPTS_MAX,
                ack_timeout_ms: 0,
                backoff_ms: 0,
                filters: filters.len() as u32,
                credit_messages: 0,
                credit_bytes: 0,
            };
            self.frame(FrameType::Consume, stream, &head, &payload);
            (self.consumers[at].queue, self.consumers[at].filters) = (queue, filters);
        }
    }

    /// Gives back what is held: the consumers end their part and take it up anew, without credit.
    pub(super) fn give_back(&mut self, name: &str, window: u32) {
        for at in 0..self.consumers.len() {
            let c = &mut self.consumers[at];
            let stream = c.stream;
            if stream != 0 && std::mem::take(&mut c.granted) {
                c.stream = 0;
                self.send(stream, &Unsubscribe {});
            }
        }
        self.consume(name, window);
    }

    /// Ends the consumers, for others.
    pub(super) fn end_consumers(&mut self) {
        let streams: Vec<u32> = self.consumers.iter().map(|c| c.stream).filter(|s| *s != 0).collect();
        if self.is_open() {
            streams.into_iter().for_each(|stream| self.send(stream, &Unsubscribe {}));
        }
        self.forget();
    }

    /// The consumer of a stream.
    pub(super) fn consumer_of(&self, stream: u32) -> Option<usize> {
        self.consumers.iter().position(|c| c.stream == stream)
    }

    /// The broker opened a consumer.
    pub(super) fn handle_done(&mut self, stream: u32) {
        if let Some(at) = self.consumer_of(stream) {
            self.consumers[at].open = true;
        }
    }

    /// The broker refused a consumer: its queue; tried again later.
    pub(super) fn handle_refused(&mut self, now: Now, stream: u32) -> Option<&str> {
        let at = self.consumer_of(stream)?;
        self.retry_at = Some(now.mono.plus_ms(RETRY_MS));
        let c = &mut self.consumers[at];
        (c.stream, c.open) = (0, false);
        Some(&c.queue)
    }

    /// Gives a consumer credit up to its share, of which it holds so much; and nothing of these lanes from now on.
    pub(super) fn grant(&mut self, at: usize, share: (u32, u32), held: (u32, u64), held_lanes: u16) {
        let (messages, bytes) = (share.0.max(1), i64::from(share.1.max(1)));
        let c = &mut self.consumers[at];
        if !c.open {
            return;
        }
        let stream = c.stream;
        if std::mem::replace(&mut c.held_lanes, held_lanes) != held_lanes {
            let lanes = postcard::to_stdvec(&held_lanes).expect("a vector takes anything");
            let extensions = &[Extension { tag: EXTENSION_LANES, value: &lanes }];
            self.frame(FrameType::Pause, stream, &Extended { head: Pause { code: 0 }, extensions }, &[]);
        }
        let c = &mut self.consumers[at];
        let more = messages.saturating_sub(held.0.saturating_add(c.credit_messages));
        let more_bytes = bytes - i64::try_from(held.1).unwrap_or(i64::MAX) - c.credit_bytes;
        let dry = c.credit_messages == 0 || c.credit_bytes <= 0;
        let part = more >= messages.div_ceil(CREDIT_PARTS) || more_bytes >= bytes / i64::from(CREDIT_PARTS);
        let more_bytes = u32::try_from(more_bytes).unwrap_or(0);
        if (dry || part) && (more > 0 || more_bytes > 0) {
            c.credit_messages += more;
            c.credit_bytes += i64::from(more_bytes);
            c.granted = true;
            self.send(stream, &Credit { messages: more, bytes: more_bytes });
        }
    }

    /// Deliveries of a consumer are done.
    pub(super) fn ack(&mut self, consumer: usize, first: u64, count: u32) {
        let stream = self.consumers[consumer].stream;
        self.send(stream, &Ack { first, count });
    }

    /// A delivery will never be forwarded: it becomes a dead letter, with the reason.
    pub(super) fn give_up(&mut self, consumer: usize, tag: u64, reason: &str) {
        let stream = self.consumers[consumer].stream;
        self.send(stream, &Nack { first: tag, count: 1, delay_ms: 0, give_up: true, reason });
    }

    /// Moves frames to the edge, about `bytes_max` of them.
    pub(super) fn poll(&mut self, out: &mut Vec<u8>, bytes_max: usize) {
        if self.link.has_control() {
            let mut control = [0; CONTROL_BYTES_MAX];
            let len = self.link.poll_control(&mut control);
            self.out.extend_from_slice(&control[..len]);
        }
        if self.out.len() <= bytes_max {
            out.append(&mut self.out);
            return;
        }
        let mut end = 0;
        while end < bytes_max {
            end += crate::wire::frame_len(&self.out[end..]).expect("whole frames wait there");
        }
        out.extend(self.out.drain(..end));
    }

    /// Bytes that wait for the edge.
    pub(super) fn waiting(&self) -> usize {
        self.out.len()
    }

    /// A delivery of this stream came, or its first chunk: whether it is of a consumer that still is.
    pub(super) fn takes(&self, stream: u32) -> bool {
        self.consumer_of(stream).is_some()
    }

    /// Begins to put a delivery together.
    pub(super) fn begin(&mut self, stream: u32, head: Deliver, payload: &[u8]) -> Result<(), super::side::Stop> {
        self.assembly.begin(stream, head, payload)
    }
}

/// The link's clock.
pub(super) const fn ms(now: Mono) -> u64 {
    now.0 / 1_000
}
