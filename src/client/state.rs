//! What the caller's handles and the connection's task share: the pipeline, the streams, who waits for what.
//!
//! One mutex guards it all; it is never held across an await, and no waker or callback is called under it: they are
//! collected in [`Effects`] and run after it is released.

use super::clock::{Ids, now_ms};
use super::error::{ClientError, Refusal};
use super::inbox::{Chunks, Delivered, Queued};
use super::link::{Event, Link, LinkError, Terms};
use super::options::{Options, WhenFull};
use super::pipeline::{Pipeline, Settled};
pub(super) use super::streams::{
    AskedState, ConsumerState, Opening, RequestState, ResponderState, Slot, Stream, SubscriptionState,
};
use crate::model::{Channel, Filter};
use crate::wire::{
    Ack, Cancel, Code, Consume, Credit, Done, FrameType, Head, Outcome, Request, Response, Since, Subscribe, append,
    append_filter, chunks, frame_len,
};
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Frames of control that may wait to be sent, in bytes, before new requests wait.
pub(super) const CONTROL_BYTES_MAX: usize = 1_024 * 1_024;
/// Requests that may wait for one responder; more are answered with `limit-reached`.
pub(super) const ASKED_MAX: usize = 1_024;
/// Streams with this bit are opened by the broker.
pub(super) const BROKER_STREAM: u32 = 1 << 31;

/// Totals of a client since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Publishes acknowledged as stored.
    pub stored: u64,
    /// Publishes recognised as duplicates.
    pub duplicates: u64,
    /// Publishes that only live subscribers got.
    pub live_only: u64,
    /// Publishes a queue's policy dropped.
    pub dropped: u64,
    /// Publishes that failed.
    pub failed: u64,
    /// Interim answers of contract `upstream`: kept by the broker, which waits for its upstream; one more for each time a message is
    /// published again.
    pub accepted: u64,
    /// Sessions opened.
    pub sessions: u64,
}

/// To be done once the lock is released.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) settled: Vec<Settled>,
    pub(super) wake: Vec<Waker>,
}

pub(super) enum Phase {
    Connecting,
    Open,
    Ended(ClientError),
}

pub(super) struct State {
    pub(super) options: Options,
    pub(super) pipeline: Pipeline,
    pub(super) ids: Ids,
    pub(super) phase: Phase,
    /// Number of the session, counted here; 0 before the first.
    pub(super) session: u64,
    pub(super) terms: Option<Terms>,
    /// When the last session was opened.
    pub(super) opened_ms: u64,
    pub(super) stats: Stats,
    pub(super) streams: HashMap<u32, Stream>,
    pub(super) closing: bool,
    pub(super) receipts: VecDeque<(u64, Arc<Mutex<Slot>>)>,
    next_stream: u32,
    /// Requests of the broker whose body is not whole yet.
    asking: HashMap<u32, (u32, AskedState)>,
    chunks: Chunks,
    /// Unsealed frames, one after another, sent before any publish.
    control: Vec<u8>,
    control_at: usize,
    /// Consumers with acks or credit to send.
    dirty: Vec<u32>,
    task: Option<Waker>,
    waiting: Vec<Waker>,
}

/// The state behind its lock.
pub(super) struct Shared {
    state: Mutex<State>,
    on_settled: Option<super::OnSettled>,
}

impl Shared {
    pub(super) fn new(options: Options, on_settled: Option<super::OnSettled>) -> Self {
        Self { state: Mutex::new(State::new(options)), on_settled }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug of ours; the other side may still close in order.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what was collected under the lock. Call it without holding the lock.
    pub(super) fn run(&self, effects: &mut Effects) {
        if !effects.settled.is_empty() {
            self.lock().distribute(effects);
            if let Some(callback) = &self.on_settled {
                for settled in &effects.settled {
                    callback(settled);
                }
            }
            effects.settled.clear();
        }
        for waker in effects.wake.drain(..) {
            waker.wake();
        }
    }
}

/// Registers a waker once.
pub(super) fn register(list: &mut Vec<Waker>, waker: &Waker) {
    if !list.iter().any(|w| w.will_wake(waker)) {
        list.push(waker.clone());
    }
}

impl State {
    fn new(options: Options) -> Self {
        Self {
            pipeline: Pipeline::new(&options),
            options,
            ids: Ids::default(),
            phase: Phase::Connecting,
            session: 0,
            terms: None,
            opened_ms: 0,
            stats: Stats::default(),
            streams: HashMap::new(),
            closing: false,
            receipts: VecDeque::new(),
            next_stream: super::PUBLISH_STREAM,
            asking: HashMap::new(),
            chunks: Chunks::default(),
            control: Vec::new(),
            control_at: 0,
            dirty: Vec::new(),
            task: None,
            waiting: Vec::new(),
        }
    }

    // -- for handles --

    /// The task has something to do: gives its waker, to be called without the lock.
    pub(super) fn take_task(&mut self) -> Option<Waker> {
        self.task.take()
    }

    /// Called again when room, phase or settlement may have changed.
    pub(super) fn wait(&mut self, waker: &Waker) {
        register(&mut self.waiting, waker);
    }

    /// Why the client has ended, if it has.
    pub(super) fn ended(&self) -> Option<ClientError> {
        match &self.phase {
            Phase::Ended(e) => Some(e.clone()),
            _ if self.closing => Some(ClientError::Closed),
            Phase::Connecting | Phase::Open => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    pub(super) fn control_has_room(&self) -> bool {
        self.control.len() - self.control_at < CONTROL_BYTES_MAX
    }

    /// Adds a stream under an id of its own; opens it at once when a session is there.
    pub(super) fn open_stream(&mut self, stream: Stream) -> u32 {
        let id = loop {
            self.next_stream = if self.next_stream >= BROKER_STREAM - 1 { 2 } else { self.next_stream + 1 };
            if !self.streams.contains_key(&self.next_stream) {
                break self.next_stream;
            }
        };
        self.streams.insert(id, stream);
        if self.is_open() {
            self.send_opening(id);
        }
        id
    }

    /// Queues a frame of control; it is lost with the session.
    pub(super) fn send<'h, H: Head<'h>>(&mut self, stream: u32, head: &H, payload: &[u8]) {
        if self.is_open() {
            append(&mut self.control, H::KIND, 0, stream, Some(head), &[payload]);
        }
    }

    /// Queues a request or response whose body may need several chunks.
    pub(super) fn send_chunked<'h, H: Head<'h>>(&mut self, stream: u32, head: &H, body: &[u8]) {
        if self.is_open() {
            for (i, (flags, part)) in chunks(body).enumerate() {
                append(&mut self.control, H::KIND, flags, stream, (i == 0).then_some(head), &[part]);
            }
        }
    }

    pub(super) fn send_request(&mut self, stream: u32, channel: &str, deadline_ms: u32, props: &[u8], body: &[u8]) {
        let head = Request { channel, deadline_ms, total: body.len() as u32, properties: props };
        self.send_chunked(stream, &head, body);
    }

    pub(super) fn send_response(&mut self, stream: u32, status: u16, last: bool, body: &[u8]) {
        let head = Response { status, last, total: body.len() as u32, trailers: &[] };
        self.send_chunked(stream, &head, body);
    }

    /// Notes that a consumer has acks or credit to send.
    pub(super) fn mark_dirty(&mut self, stream: u32) {
        if !self.dirty.contains(&stream) {
            self.dirty.push(stream);
        }
    }

    /// Queues a consumer's acks and credit.
    pub(super) fn flush_consumer(&mut self, id: u32) {
        if !self.is_open() {
            return;
        }
        let Some(Stream::Consumer(c)) = self.streams.get_mut(&id) else { return };
        for (first, count) in c.acks.drain(..) {
            append(&mut self.control, FrameType::Ack, 0, id, Some(&Ack { first, count }), &[]);
        }
        if c.taken_messages > 0 || c.taken_bytes > 0 {
            let head =
                Credit { messages: std::mem::take(&mut c.taken_messages), bytes: std::mem::take(&mut c.taken_bytes) };
            append(&mut self.control, FrameType::Credit, 0, id, Some(&head), &[]);
        }
    }

    fn send_opening(&mut self, id: u32) {
        match self.streams.get_mut(&id) {
            Some(Stream::Subscription(s)) => {
                // A reader that knows where it stood asks for what it missed; else the first request is repeated.
                let resume = s.last.filter(|_| Filter::parse(&s.filter).is_ok_and(|f| f.literal().is_some()));
                let since = resume.map_or(s.options.since, |(epoch, offset)| Since::Offset { epoch, offset });
                let head = Subscribe {
                    filter: &s.filter,
                    retained: s.options.retained && resume.is_none(),
                    since,
                    respond: false,
                    disconnect_when_slow: s.options.disconnect_when_slow,
                };
                append(&mut self.control, FrameType::Subscribe, 0, id, Some(&head), &[]);
            }
            Some(Stream::Responder(r)) => {
                let head = Subscribe {
                    filter: &r.filter,
                    retained: false,
                    since: Since::Now,
                    respond: true,
                    disconnect_when_slow: false,
                };
                append(&mut self.control, FrameType::Subscribe, 0, id, Some(&head), &[]);
            }
            Some(Stream::Consumer(c)) => {
                c.acks.clear();
                c.taken_messages = 0;
                c.taken_bytes = 0;
                let mut filters = Vec::new();
                for filter in &c.options.filters {
                    append_filter(&mut filters, filter);
                }
                let head = Consume {
                    queue: &c.queue,
                    name: &c.name,
                    start: c.options.start,
                    window: c.options.window,
                    attempts_max: c.options.attempts_max,
                    ack_timeout_ms: c.options.ack_timeout_ms,
                    backoff_ms: c.options.backoff_ms,
                    filters: c.options.filters.len() as u32,
                    credit_messages: c.options.credit_messages,
                    credit_bytes: c.options.credit_bytes,
                };
                append(&mut self.control, FrameType::Consume, 0, id, Some(&head), &[&filters]);
            }
            Some(Stream::Request(_)) | None => {}
        }
    }

    fn distribute(&mut self, effects: &mut Effects) {
        for settled in &effects.settled {
            let total = match &settled.result {
                Ok(Outcome::Stored | Outcome::Accepted) => &mut self.stats.stored,
                Ok(Outcome::Duplicate) => &mut self.stats.duplicates,
                Ok(Outcome::LiveOnly) => &mut self.stats.live_only,
                Ok(Outcome::Dropped) => &mut self.stats.dropped,
                Err(_) => &mut self.stats.failed,
            };
            *total += settled.count;
            let from = self.receipts.partition_point(|(ticket, _)| *ticket < settled.first);
            while self.receipts.get(from).is_some_and(|(t, _)| *t < settled.first + settled.count) {
                let Some((_, slot)) = self.receipts.remove(from) else { break };
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                slot.result = Some(settled.result.clone());
                effects.wake.extend(slot.waker.take());
            }
        }
        effects.wake.append(&mut self.waiting);
    }

    // -- for the task --

    /// The task found nothing to do: it is woken by handles. Tells whether that still holds.
    pub(super) fn park(&mut self, waker: &Waker, now_ms: u64, may_write: bool) -> bool {
        if may_write && self.wants_write(now_ms) {
            return false;
        }
        self.task = Some(waker.clone());
        true
    }

    pub(super) fn wants_write(&self, now_ms: u64) -> bool {
        self.control_at < self.control.len()
            || !self.dirty.is_empty()
            || (!self.closing && self.pipeline.wants_write(now_ms))
    }

    /// Whether the broker, as far as it was heard, takes compressed payloads.
    pub(super) fn takes_lz4(&self) -> bool {
        self.terms.is_some_and(|terms| terms.lz4)
    }

    /// A welcome came: everything is opened and published again.
    fn opened(&mut self, terms: &Terms, effects: &mut Effects) {
        self.session += 1;
        self.stats.sessions += 1;
        self.terms = Some(*terms);
        self.opened_ms = now_ms();
        self.phase = Phase::Open;
        self.pipeline.connected(terms);
        let mut ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.send_opening(id);
        }
        effects.wake.append(&mut self.waiting);
    }

    /// The session is over, for whatever reason.
    pub(super) fn disconnected(&mut self, why: &str, effects: &mut Effects) {
        if self.is_open() {
            self.phase = Phase::Connecting;
            effects.wake.append(&mut self.waiting);
        }
        self.pipeline.disconnected();
        self.control.clear();
        self.control_at = 0;
        self.dirty.clear();
        self.chunks.clear();
        self.asking.clear();
        for stream in self.streams.values_mut() {
            match stream {
                Stream::Subscription(s) => s.opening.again |= s.opening.answer.is_some(),
                Stream::Consumer(c) => {
                    c.opening.again |= c.opening.answer.is_some();
                    // Everything not acknowledged is delivered again.
                    c.inbox.clear();
                    c.acks.clear();
                }
                Stream::Responder(r) => {
                    r.opening.again |= r.opening.answer.is_some();
                    r.asked.clear();
                }
                Stream::Request(r) => {
                    r.done.get_or_insert_with(|| Err(ClientError::Disconnected(why.into())));
                    effects.wake.extend(r.waker.take());
                }
            }
        }
    }

    /// The client is over.
    pub(super) fn end(&mut self, error: &ClientError, effects: &mut Effects) {
        self.disconnected(&error.to_string(), effects);
        self.phase = Phase::Ended(error.clone());
        self.pipeline.fail_all(error, &mut effects.settled);
        for stream in self.streams.values_mut() {
            let (opening, waker) = match stream {
                Stream::Subscription(s) => {
                    s.inbox.end(error);
                    (&mut s.opening, s.inbox.waker.take())
                }
                Stream::Consumer(c) => {
                    c.inbox.end(error);
                    (&mut c.opening, c.inbox.waker.take())
                }
                Stream::Responder(r) => {
                    r.ended.get_or_insert_with(|| error.clone());
                    (&mut r.opening, r.waker.take())
                }
                Stream::Request(_) => continue,
            };
            opening.answer.get_or_insert_with(|| Err(error.clone()));
            effects.wake.extend(waker);
            effects.wake.extend(opening.waker.take());
        }
        effects.wake.append(&mut self.waiting);
    }

    /// Whether a full inbox asks not to read from the connection.
    pub(super) fn reading_blocked(&self) -> bool {
        self.streams.values().any(|s| {
            matches!(s, Stream::Subscription(s)
                if s.options.when_full == WhenFull::Block && s.inbox.bytes() >= s.options.inbox_bytes_max)
        })
    }

    /// Appends sealed frames to send, about `bytes_max` bytes.
    pub(super) fn fill(
        &mut self,
        now_ms: u64,
        link: &mut Link,
        out: &mut Vec<u8>,
        bytes_max: usize,
        effects: &mut Effects,
    ) {
        for id in std::mem::take(&mut self.dirty) {
            self.flush_consumer(id);
        }
        let had_room = self.control_has_room();
        while out.len() < bytes_max && self.control_at < self.control.len() {
            let rest = &self.control[self.control_at..];
            let len = frame_len(rest).expect("control holds whole frames");
            let start = out.len();
            out.extend_from_slice(&rest[..len]);
            link.seal(&mut out[start..]);
            self.control_at += len;
        }
        if self.control_at == self.control.len() {
            self.control.clear();
            self.control_at = 0;
        } else if self.control_at >= CONTROL_BYTES_MAX / 4 {
            self.control.drain(..self.control_at);
            self.control_at = 0;
        }
        if !had_room && self.control_has_room() {
            effects.wake.append(&mut self.waiting);
        }
        if !self.closing {
            self.pipeline.fill(now_ms, link, out, bytes_max, &mut effects.settled);
        }
    }

    /// A frame came.
    ///
    /// # Errors
    /// What ends the session.
    pub(super) fn handle(&mut self, link: &Link, event: Event<'_>, effects: &mut Effects) -> Result<(), ClientError> {
        match event {
            Event::Welcome(_) => {
                let terms = *link.terms().expect("a welcome sets the terms");
                self.opened(&terms, effects);
            }
            Event::PublishAck { stream: super::PUBLISH_STREAM, ack } => {
                if ack.outcome == Outcome::Accepted {
                    self.stats.accepted += u64::from(ack.count);
                }
                self.pipeline.handle_ack(&ack, &mut effects.settled);
            }
            Event::PublishNack { stream: super::PUBLISH_STREAM, nack } => {
                // A number the broker does not expect, or a window it does not know: start afresh.
                if [Code::BadPublishNumber as u16, Code::WindowExceeded as u16].contains(&nack.code) {
                    return Err(ClientError::Refused(Refusal::new(nack.code, nack.retry_after_ms, nack.detail)));
                }
                self.pipeline.handle_nack(now_ms(), &nack, &mut effects.settled);
            }
            Event::Pause { stream: super::PUBLISH_STREAM, .. } => self.pipeline.paused = true,
            Event::Resume { stream: super::PUBLISH_STREAM } => self.pipeline.paused = false,
            Event::Done { stream, done } => self.answered(stream, Ok(done), effects),
            Event::Error { stream, error } => {
                let refusal = Refusal::new(error.code, error.retry_after_ms, error.detail);
                if stream == 0 {
                    return Err(ClientError::Refused(refusal));
                }
                self.answered(stream, Err(ClientError::Refused(refusal)), effects);
            }
            Event::Deliver { stream, head, payload, more } => {
                if more {
                    self.begin(stream, Queued::Deliver(head), payload, head.total)?;
                } else {
                    self.deliver(stream, Delivered::new(self.session, head, Bytes::copy_from_slice(payload)), effects);
                }
            }
            Event::Dropped { stream, dropped } => {
                if let Some(Stream::Subscription(s)) = self.streams.get_mut(&stream) {
                    s.inbox.dropped(dropped.count);
                    effects.wake.extend(s.inbox.waker.take());
                }
            }
            Event::Response { stream, head, payload, more } => {
                let limit = self.options.response_bytes_max;
                if let Some(Stream::Request(r)) = self.streams.get_mut(&stream)
                    && r.done.is_none()
                {
                    if r.body.len() + head.total as usize > limit {
                        let size = r.body.len() + head.total as usize;
                        r.done = Some(Err(ClientError::TooLarge(size, limit)));
                        effects.wake.extend(r.waker.take());
                        self.send(stream, &Cancel { code: Code::MessageTooLarge as u16 }, &[]);
                    } else {
                        r.status = head.status;
                        r.trailers = head.trailers.to_vec();
                        if more {
                            self.begin(stream, Queued::Response { last: head.last }, payload, head.total)?;
                        } else {
                            self.respond(stream, payload, head.last, effects);
                        }
                    }
                }
            }
            Event::Request { stream, head, payload, more } => {
                self.asked(stream, &head, payload, more, effects)?;
            }
            Event::Cancel { stream, .. } => {
                self.asking.remove(&stream);
                for responder in self.streams.values_mut() {
                    if let Stream::Responder(r) = responder {
                        r.asked.retain(|a| a.stream != stream);
                    }
                }
            }
            Event::Chunk { stream, kind, payload, more } => {
                if let Some((queued, bytes)) = self.chunks.push(stream, kind, payload, more)? {
                    match queued {
                        Queued::Deliver(head) => {
                            self.deliver(stream, Delivered::new(self.session, head, bytes), effects);
                        }
                        Queued::Response { last } => self.respond(stream, &bytes, last, effects),
                        Queued::Request => {
                            if let Some((responder, mut asked)) = self.asking.remove(&stream) {
                                asked.body = bytes;
                                self.hand_over(responder, asked, effects);
                            }
                        }
                    }
                }
            }
            Event::Close(close) => {
                return Err(ClientError::Disconnected(Refusal::new(close.code, 0, close.detail).to_string()));
            }
            Event::Challenge { .. }
            | Event::Goaway(_)
            | Event::Ping
            | Event::Pong
            | Event::Pause { .. }
            | Event::Resume { .. }
            | Event::PublishAck { .. }
            | Event::PublishNack { .. }
            | Event::Ignored => {}
        }
        Ok(())
    }

    fn begin(&mut self, stream: u32, queued: Queued, payload: &[u8], total: u32) -> Result<(), ClientError> {
        // A deliver's total counts the item around the record, too.
        let max = self.options.message_bytes_max as usize + 1_024;
        self.chunks.begin(stream, queued, payload, total, max)
    }

    /// The broker answered the opening of a stream, or ended it.
    fn answered(&mut self, stream: u32, result: Result<Done, ClientError>, effects: &mut Effects) {
        let (opening, inbox) = match self.streams.get_mut(&stream) {
            Some(Stream::Subscription(s)) => (&mut s.opening, Some(&mut s.inbox)),
            Some(Stream::Consumer(c)) => (&mut c.opening, Some(&mut c.inbox)),
            Some(Stream::Responder(r)) => {
                if let Err(e) = &result {
                    r.ended = Some(e.clone());
                    effects.wake.extend(r.waker.take());
                }
                (&mut r.opening, None)
            }
            Some(Stream::Request(r)) => {
                if let Err(e) = result {
                    r.done.get_or_insert(Err(e));
                    effects.wake.extend(r.waker.take());
                }
                return;
            }
            None => return,
        };
        if let Some(inbox) = inbox {
            match &result {
                Ok(done) if opening.again => inbox.reconnected(done.complete),
                Ok(_) => {}
                Err(e) => inbox.end(e),
            }
            effects.wake.extend(inbox.waker.take());
        }
        if opening.answer.is_none() {
            opening.answer = Some(result);
        }
        effects.wake.extend(opening.waker.take());
    }

    fn deliver(&mut self, stream: u32, delivered: Delivered, effects: &mut Effects) {
        match self.streams.get_mut(&stream) {
            Some(Stream::Subscription(s)) => {
                if let Some(offset) = delivered.last_offset() {
                    s.last = Some((delivered.epoch(), offset));
                }
                let full = s.inbox.bytes() > 0 && s.inbox.bytes() + delivered.len() > s.options.inbox_bytes_max;
                if full && s.options.when_full == WhenFull::Drop {
                    s.inbox.dropped(u64::from(delivered.left()));
                } else {
                    s.inbox.push(delivered);
                }
                effects.wake.extend(s.inbox.waker.take());
            }
            // Credit bounds what can be here.
            Some(Stream::Consumer(c)) => {
                c.inbox.push(delivered);
                effects.wake.extend(c.inbox.waker.take());
            }
            Some(Stream::Responder(_) | Stream::Request(_)) | None => {}
        }
    }

    fn respond(&mut self, stream: u32, body: &[u8], last: bool, effects: &mut Effects) {
        if let Some(Stream::Request(r)) = self.streams.get_mut(&stream)
            && r.done.is_none()
        {
            r.body.extend_from_slice(body);
            if last {
                r.done = Some(Ok(()));
                effects.wake.extend(r.waker.take());
            }
        }
    }

    fn asked(
        &mut self,
        stream: u32,
        head: &Request<'_>,
        payload: &[u8],
        more: bool,
        effects: &mut Effects,
    ) -> Result<(), ClientError> {
        if stream & BROKER_STREAM == 0 {
            return Err(LinkError::Unexpected(FrameType::Request).into());
        }
        let matching = |r: &ResponderState| {
            Channel::parse(head.channel).is_ok_and(|c| Filter::parse(&r.filter).is_ok_and(|f| f.matches(c)))
        };
        let responder = self.streams.iter().filter_map(|(id, s)| match s {
            Stream::Responder(r) if matching(r) => Some((r.asked.len(), *id)),
            _ => None,
        });
        // The least busy one of several that match.
        let Some((_, responder)) = responder.min().filter(|(waiting, _)| *waiting < ASKED_MAX) else {
            self.send(stream, &Cancel { code: Code::LimitReached as u16 }, &[]);
            return Ok(());
        };
        let asked = AskedState {
            stream,
            session: self.session,
            channel: head.channel.into(),
            deadline_ms: head.deadline_ms,
            properties: head.properties.to_vec(),
            body: Bytes::new(),
        };
        if more {
            self.begin(stream, Queued::Request, payload, head.total)?;
            self.asking.insert(stream, (responder, asked));
        } else {
            self.hand_over(responder, AskedState { body: Bytes::copy_from_slice(payload), ..asked }, effects);
        }
        Ok(())
    }

    fn hand_over(&mut self, responder: u32, asked: AskedState, effects: &mut Effects) {
        if let Some(Stream::Responder(r)) = self.streams.get_mut(&responder) {
            r.asked.push_back(asked);
            effects.wake.extend(r.waker.take());
        } else {
            self.send(asked.stream, &Cancel { code: Code::NoResponder as u16 }, &[]);
        }
    }
}
