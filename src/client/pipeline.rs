//! What was published and is not settled: queued, on the wire, refused for now. Pure; the broker's window in, frames out.
//!
//! Records lie one after another in one arena, each behind its length, so that a run of them is the payload of a batch
//! frame as it stands. Every message has a *ticket*, which never changes, and on each connection a *number*, which is
//! given when it is sent. Invariants:
//!
//! 1. Entries `[0, cursor)` were sent on this connection or are settled; their numbers do not decrease. The rest has none.
//! 2. `unanswered` counts the entries in state `Sent`; it returns to 0 before a fenced stream is resumed, because until
//!    then an answer could belong to either attempt.
//! 3. An entry leaves at the front, settled and not on the wire, so that tickets stay contiguous.

use super::error::{ClientError, Refusal};
use super::link::{Link, Terms};
use super::options::{NO_TERMS, Options, Retry};
use crate::model::Record;
use crate::model::limits::{BATCH_MESSAGES_MAX, CHUNK_BYTES_MAX};
use crate::schedule::backoff_ms;
use crate::wire::{
    Batch, Contract, FLAG_CONT, FLAG_MORE, FrameType, Outcome, Publish, PublishAck, PublishNack, append,
};
use std::collections::VecDeque;

/// Largest payload of a batch frame, in bytes; the broker may take less.
pub(super) const BATCH_BYTES_MAX: usize = 64 * 1_024;
/// Bytes a record's length takes at most.
const PREFIX_BYTES_MAX: usize = 5;
/// Longest wait before a refused publish is tried again, in milliseconds, where the broker names none.
const RETRY_MS_MAX: u32 = 5_000;
/// First wait before a refused publish is tried again, in milliseconds, where the broker names none.
const RETRY_MS: u32 = 20;
/// Sent bytes are cut off the arena when they are this many and half of it.
const COMPACT_BYTES: usize = 64 * 1_024;
const NO_NUMBER: u64 = u64::MAX;

/// Consecutive messages whose fate is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Ticket of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// What became of them.
    pub result: Result<Outcome, ClientError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    Sent,
    /// Interim answer of contract `upstream`: off the window, not settled.
    Accepted,
}

#[derive(Clone, Debug)]
struct Entry {
    number: u64,
    queued_ms: u64,
    /// Bytes in the arena, the prefix included.
    len: u32,
    prefix: u8,
    contract: Contract,
    state: State,
    settled: bool,
}

impl Entry {
    fn record_len(&self) -> usize {
        self.len as usize - usize::from(self.prefix)
    }
}

#[derive(Debug)]
struct Fence {
    number: u64,
    retry_at_ms: u64,
}

#[derive(Debug)]
pub(super) struct Pipeline {
    arena: Vec<u8>,
    /// Where the first entry begins.
    head: usize,
    entries: VecDeque<Entry>,
    /// Ticket of the first entry.
    base: u64,
    cursor: usize,
    cursor_at: usize,
    /// Bytes of the cursor's record already sent as chunks.
    chunked: usize,
    next_number: u64,
    unanswered: u32,
    unanswered_bytes: u64,
    fence: Option<Fence>,
    refusals: u32,
    pub(super) paused: bool,
    open: bool,
    terms: Terms,
    window_messages: usize,
    window_bytes: usize,
    retry: Retry,
}

impl Pipeline {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            arena: Vec::new(),
            head: 0,
            entries: VecDeque::new(),
            base: 0,
            cursor: 0,
            cursor_at: 0,
            chunked: 0,
            next_number: 1,
            unanswered: 0,
            unanswered_bytes: 0,
            fence: None,
            refusals: 0,
            paused: false,
            open: false,
            terms: NO_TERMS,
            window_messages: options.window_messages.max(1),
            window_bytes: options.window_bytes,
            retry: options.retry,
        }
    }

    /// Ticket the next message will get; all below [`Pipeline::settled_below`] are settled.
    pub(super) fn next_ticket(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    pub(super) fn settled_below(&self) -> u64 {
        self.base
    }

    /// Whether a record of at most so many bytes may be queued now.
    pub(super) fn has_room(&self, record_bytes: usize) -> bool {
        self.entries.is_empty()
            || (self.entries.len() < self.window_messages
                && self.arena.len() - self.head + record_bytes + PREFIX_BYTES_MAX <= self.window_bytes)
    }

    /// Queues a record and returns its ticket. The caller asked [`Pipeline::has_room`].
    pub(super) fn push(&mut self, now_ms: u64, contract: Contract, record: &Record<'_>) -> u64 {
        let start = self.arena.len();
        self.arena.resize(start + PREFIX_BYTES_MAX, 0);
        record.encode_to(&mut self.arena);
        let at = start + PREFIX_BYTES_MAX;
        let record_len = self.arena.len() - at;
        let mut prefix = [0; PREFIX_BYTES_MAX];
        let prefix = postcard::to_slice(&(record_len as u32), &mut prefix).expect("five bytes hold any u32");
        self.arena[start..start + prefix.len()].copy_from_slice(prefix);
        self.arena.copy_within(at.., start + prefix.len());
        let len = prefix.len() + record_len;
        self.arena.truncate(start + len);
        self.entries.push_back(Entry {
            number: NO_NUMBER,
            queued_ms: now_ms,
            len: len as u32,
            prefix: prefix.len() as u8,
            contract,
            state: State::Queued,
            settled: false,
        });
        self.next_ticket() - 1
    }

    /// A session began: everything unsettled goes out again, in order.
    pub(super) fn connected(&mut self, terms: &Terms) {
        self.terms = *terms;
        self.open = true;
        self.paused = false;
        self.fence = None;
        self.next_number = 1;
        self.rewind(0, NO_NUMBER);
    }

    /// The session ended.
    pub(super) fn disconnected(&mut self) {
        self.open = false;
        self.rewind(0, NO_NUMBER);
        self.pop();
    }

    /// Back to this entry and everything behind it; nothing is on the wire any more.
    fn rewind(&mut self, index: usize, resume_at: u64) {
        self.cursor = index;
        self.cursor_at = self.head + self.entries.iter().take(index).map(|e| e.len as usize).sum::<usize>();
        self.chunked = 0;
        self.unanswered = 0;
        self.unanswered_bytes = 0;
        for entry in self.entries.iter_mut().skip(index) {
            entry.number = NO_NUMBER;
            entry.state = State::Queued;
        }
        if resume_at != NO_NUMBER {
            self.next_number = resume_at;
        }
    }

    /// Whether [`Pipeline::fill`] would write something.
    pub(super) fn wants_write(&self, now_ms: u64) -> bool {
        if !self.open || self.cursor >= self.entries.len() {
            // A refused tail waits behind the cursor.
            return self.open && self.can_resume(now_ms);
        }
        if self.chunked > 0 {
            return true;
        }
        match self.fence {
            Some(_) => self.can_resume(now_ms),
            None => !self.paused && self.window_allows(&self.entries[self.cursor], 0, 0),
        }
    }

    fn can_resume(&self, now_ms: u64) -> bool {
        self.unanswered == 0 && self.fence.as_ref().is_some_and(|f| f.retry_at_ms <= now_ms)
    }

    fn window_allows(&self, entry: &Entry, more: u32, more_bytes: u64) -> bool {
        let (count, bytes) = (self.unanswered + more, self.unanswered_bytes + more_bytes);
        entry.settled
            || count == 0
            || (count < self.terms.window_messages
                && bytes + u64::from(entry.len) <= u64::from(self.terms.window_bytes))
    }

    /// Appends sealed frames until `out` has about `bytes_max` bytes or nothing more may be sent.
    pub(super) fn fill(
        &mut self,
        now_ms: u64,
        link: &mut Link,
        out: &mut Vec<u8>,
        bytes_max: usize,
        settled: &mut Vec<Settled>,
    ) {
        if !self.open {
            return;
        }
        if self.can_resume(now_ms) {
            self.resume();
        }
        while out.len() < bytes_max && self.cursor < self.entries.len() {
            let entry = &self.entries[self.cursor];
            if self.chunked > 0 {
                self.send_chunk(link, out);
                continue;
            }
            if self.fence.is_some() || self.paused {
                break;
            }
            if entry.settled || entry.state == State::Accepted {
                self.skip();
            } else if entry.record_len() > self.terms.message_bytes_max as usize {
                let error = ClientError::TooLarge(entry.record_len(), self.terms.message_bytes_max as usize);
                self.settle(self.cursor, Err(error), settled);
                self.skip();
            } else if !self.window_allows(entry, 0, 0) {
                break;
            } else if entry.record_len() > CHUNK_BYTES_MAX {
                self.send_chunk(link, out);
            } else {
                self.send_run(link, out);
            }
        }
        self.pop();
    }

    fn skip(&mut self) {
        let next = self.next_number;
        let entry = &mut self.entries[self.cursor];
        entry.number = next;
        self.cursor_at += entry.len as usize;
        self.cursor += 1;
    }

    /// One frame with as many small records as may go into it.
    fn send_run(&mut self, link: &mut Link, out: &mut Vec<u8>) {
        let contract = self.entries[self.cursor].contract;
        let payload_max = BATCH_BYTES_MAX.min(self.terms.frame_bytes_max as usize);
        let (mut count, mut bytes) = (0u32, 0usize);
        for entry in self.entries.iter().skip(self.cursor) {
            let fits = count == 0 || (bytes + entry.len as usize <= payload_max && count < BATCH_MESSAGES_MAX);
            if entry.settled
                || entry.state == State::Accepted
                || entry.contract != contract
                || entry.record_len() > CHUNK_BYTES_MAX
                || !fits
                || !self.window_allows(entry, count, bytes as u64)
            {
                break;
            }
            count += 1;
            bytes += entry.len as usize;
        }
        let first = self.next_number;
        for (i, entry) in self.entries.iter_mut().skip(self.cursor).take(count as usize).enumerate() {
            entry.number = first + i as u64;
            entry.state = State::Sent;
        }
        let payload = &self.arena[self.cursor_at..self.cursor_at + bytes];
        let start = out.len();
        if count == 1 {
            let record = &payload[usize::from(self.entries[self.cursor].prefix)..];
            let head = Publish { contract, number: first, total: record.len() as u32 };
            append(out, FrameType::Publish, 0, super::PUBLISH_STREAM, Some(&head), &[record]);
        } else {
            append(
                out,
                FrameType::Batch,
                0,
                super::PUBLISH_STREAM,
                Some(&Batch { contract, first, count }),
                &[payload],
            );
        }
        link.seal(&mut out[start..]);
        self.next_number += u64::from(count);
        self.unanswered += count;
        self.unanswered_bytes += bytes as u64;
        self.cursor += count as usize;
        self.cursor_at += bytes;
    }

    /// The next chunk of the cursor's record.
    fn send_chunk(&mut self, link: &mut Link, out: &mut Vec<u8>) {
        let number = self.next_number;
        let entry = &mut self.entries[self.cursor];
        let total = entry.record_len();
        let record_at = self.cursor_at + usize::from(entry.prefix);
        let record = &self.arena[record_at..record_at + total];
        let chunk = &record[self.chunked..total.min(self.chunked + CHUNK_BYTES_MAX)];
        let first = self.chunked == 0;
        let last = self.chunked + chunk.len() == total;
        let flags = if last { 0 } else { FLAG_MORE } | if first { 0 } else { FLAG_CONT };
        let head = Publish { contract: entry.contract, number, total: total as u32 };
        let start = out.len();
        append(out, FrameType::Publish, flags, super::PUBLISH_STREAM, first.then_some(&head), &[chunk]);
        link.seal(&mut out[start..]);
        self.chunked += chunk.len();
        if first {
            entry.number = number;
            entry.state = State::Sent;
            self.unanswered += 1;
            self.unanswered_bytes += u64::from(entry.len);
        }
        if last {
            self.chunked = 0;
            self.next_number += 1;
            self.cursor_at += entry.len as usize;
            self.cursor += 1;
        }
    }

    /// The broker took these.
    pub(super) fn handle_ack(&mut self, ack: &PublishAck, settled: &mut Vec<Settled>) {
        self.refusals = 0;
        self.answer(ack.first, ack.count, settled, |this, index, settled| {
            if ack.outcome == Outcome::Accepted {
                this.entries[index].state = State::Accepted;
            } else {
                this.settle(index, Ok(ack.outcome), settled);
            }
        });
        self.pop();
    }

    /// The broker refused these.
    pub(super) fn handle_nack(&mut self, now_ms: u64, nack: &PublishNack<'_>, settled: &mut Vec<Settled>) {
        let refusal = Refusal::new(nack.code, nack.retry_after_ms, nack.detail);
        let retryable = refusal.is_retryable();
        // What was only refused because of the one before it never fails for that.
        let fenced = refusal.code == Some(crate::wire::Code::Fenced);
        if retryable {
            let earlier = self.fence.as_ref().is_none_or(|f| nack.first < f.number);
            if earlier {
                self.refusals = self.refusals.saturating_add(1);
                let own = backoff_ms(RETRY_MS, RETRY_MS_MAX, self.refusals - 1, super::clock::jitter());
                let wait = if self.retry == Retry::Never {
                    0
                } else if nack.retry_after_ms > 0 {
                    u64::from(nack.retry_after_ms)
                } else {
                    own
                };
                self.fence = Some(Fence { number: nack.first, retry_at_ms: now_ms.saturating_add(wait) });
            }
        }
        let fails = !retryable || (self.retry == Retry::Never && !fenced);
        self.answer(nack.first, nack.count, settled, |this, index, settled| {
            this.entries[index].state = State::Queued;
            if fails {
                this.settle(index, Err(ClientError::Refused(refusal.clone())), settled);
            }
        });
        self.pop();
    }

    /// Takes entries on the wire with these numbers off it and lets `each` judge them.
    fn answer(
        &mut self,
        first: u64,
        count: u32,
        settled: &mut Vec<Settled>,
        mut each: impl FnMut(&mut Self, usize, &mut Vec<Settled>),
    ) {
        let end = first.saturating_add(u64::from(count));
        // The front is the usual case; a search is for answers out of order.
        let mut index = match self.entries.front() {
            Some(front) if front.number >= first => 0,
            _ => self.entries.partition_point(|e| e.number < first),
        };
        while let Some(entry) = self.entries.get_mut(index).filter(|e| e.number < end) {
            match entry.state {
                State::Sent => {
                    self.unanswered -= 1;
                    self.unanswered_bytes -= u64::from(entry.len);
                    // `each` may set another.
                    entry.state = State::Queued;
                    each(self, index, settled);
                }
                State::Accepted => each(self, index, settled),
                State::Queued => {}
            }
            index += 1;
        }
    }

    /// After a fence: everything unsettled from the refused number on is sent again, from that number on.
    fn resume(&mut self) {
        if let Some(fence) = self.fence.take() {
            let index = self.entries.partition_point(|e| e.number < fence.number);
            self.rewind(index, fence.number);
        }
    }

    fn settle(&mut self, index: usize, result: Result<Outcome, ClientError>, settled: &mut Vec<Settled>) {
        let entry = &mut self.entries[index];
        if entry.settled {
            return;
        }
        entry.settled = true;
        let ticket = self.base + index as u64;
        match settled.last_mut() {
            Some(last) if last.first + last.count == ticket && last.result == result => last.count += 1,
            _ => settled.push(Settled { first: ticket, count: 1, result }),
        }
    }

    /// Invariant 3.
    fn pop(&mut self) {
        while let Some(front) = self.entries.front() {
            if !front.settled || front.state == State::Sent || (self.cursor == 0 && self.chunked > 0) {
                break;
            }
            self.head += front.len as usize;
            self.base += 1;
            self.entries.pop_front();
            if self.cursor == 0 {
                self.cursor_at = self.head;
            } else {
                self.cursor -= 1;
            }
        }
        if self.entries.is_empty() {
            self.arena.clear();
            self.head = 0;
            self.cursor_at = 0;
        } else if self.head >= COMPACT_BYTES && self.head >= self.arena.len() / 2 {
            self.arena.drain(..self.head);
            self.cursor_at -= self.head;
            self.head = 0;
        }
    }

    /// Fails what is older than the caller allows.
    pub(super) fn expire(&mut self, now_ms: u64, settled: &mut Vec<Settled>) {
        let Retry::For(limit) = self.retry else { return };
        for index in 0..self.entries.len() {
            if self.entries[index].queued_ms.saturating_add(limit) > now_ms {
                break;
            }
            self.settle(index, Err(ClientError::TimedOut), settled);
        }
        self.pop();
    }

    /// Fails everything.
    pub(super) fn fail_all(&mut self, error: &ClientError, settled: &mut Vec<Settled>) {
        for index in 0..self.entries.len() {
            self.settle(index, Err(error.clone()), settled);
        }
        self.disconnected();
    }

    /// When [`Pipeline::expire`] or a resumption is due.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        let resume = self.fence.as_ref().filter(|_| self.open && self.unanswered == 0).map(|f| f.retry_at_ms);
        let expiry = match self.retry {
            Retry::For(limit) => self.entries.iter().find(|e| !e.settled).map(|e| e.queued_ms.saturating_add(limit)),
            Retry::Forever | Retry::Never => None,
        };
        match (resume, expiry) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Channel, MessageId};
    use crate::wire::{BatchItems, Code, Decoded, FLAG_CONT, decode};

    const TERMS: Terms = Terms {
        session: 1,
        heartbeat_ms: 1_000,
        frame_bytes_max: 32 * 1_024,
        message_bytes_max: 100_000,
        window_messages: 16,
        window_bytes: 60_000,
        time_ms: 0,
    };

    /// A broker that takes publishes in order, dedupes by id, refuses at random, fences, and answers later in order.
    #[derive(Default)]
    struct Broker {
        sequence: u32,
        next: Option<u64>,
        fence: Option<u64>,
        chunked: Option<(u64, Vec<u8>, u32)>,
        stored: Vec<u128>,
        answers: VecDeque<(u64, Result<Outcome, Code>)>,
        window: u32,
    }

    impl Broker {
        fn restart(&mut self) {
            *self = Self { stored: std::mem::take(&mut self.stored), ..Self::default() };
        }

        fn receive(&mut self, rng: &mut fastrand::Rng, mut bytes: &[u8]) {
            while !bytes.is_empty() {
                let Ok(Decoded::Frame(frame, len)) = decode(bytes, TERMS.frame_bytes_max) else {
                    panic!("a whole valid frame")
                };
                bytes = &bytes[len..];
                assert_eq!(frame.header.sequence, self.sequence);
                self.sequence += 1;
                if frame.header.flags & FLAG_CONT != 0 {
                    let (number, whole, total) = self.chunked.as_mut().expect("begun");
                    whole.extend_from_slice(frame.payload);
                    if frame.header.flags & FLAG_MORE == 0 {
                        assert_eq!(whole.len(), *total as usize);
                        let (number, whole) = (*number, std::mem::take(whole));
                        self.chunked = None;
                        self.judge(rng, number, &whole);
                    }
                } else if frame.header.kind == FrameType::Batch {
                    assert!(self.chunked.is_none(), "nothing between chunks on this stream");
                    let head: Batch = frame.head().expect("batch");
                    let items = BatchItems::parse(frame.payload, head.count).expect("items");
                    for (number, record) in (head.first..).zip(items) {
                        self.judge(rng, number, record);
                    }
                } else {
                    let head: Publish = frame.head().expect("publish");
                    if frame.header.flags & FLAG_MORE != 0 {
                        self.chunked = Some((head.number, frame.payload.to_vec(), head.total));
                    } else {
                        self.judge(rng, head.number, frame.payload);
                    }
                }
            }
        }

        fn judge(&mut self, rng: &mut fastrand::Rng, number: u64, record: &[u8]) {
            let id = u128::from_be_bytes(Record::decode(record).expect("record").id.0);
            self.window += 1;
            assert!(self.window <= TERMS.window_messages);
            if let Some(fence) = self.fence {
                if number != fence {
                    self.answers.push_back((number, Err(Code::Fenced)));
                    return;
                }
                self.fence = None;
            } else if let Some(next) = self.next {
                assert_eq!(number, next);
            }
            self.next = Some(number + 1);
            let answer = if self.stored.contains(&id) {
                Ok(Outcome::Duplicate)
            } else if id.is_multiple_of(17) {
                Err(Code::BadChannel)
            } else if rng.u8(..) < 20 {
                self.fence = Some(number);
                self.next = Some(number);
                Err(Code::QueueFull)
            } else {
                self.stored.push(id);
                Ok(Outcome::Stored)
            };
            self.answers.push_back((number, answer));
        }

        /// Tells some of the answers that are due, as ranges.
        fn answer(&mut self, rng: &mut fastrand::Rng, pipeline: &mut Pipeline, now: u64, settled: &mut Vec<Settled>) {
            let mut left = rng.usize(0..=self.answers.len());
            while left > 0 {
                let (first, answer) = self.answers.pop_front().expect("left counts them");
                let mut count = 1;
                left -= 1;
                while left > 0 && self.answers[0] == (first + u64::from(count), answer) {
                    self.answers.pop_front();
                    count += 1;
                    left -= 1;
                }
                self.window -= count;
                match answer {
                    Ok(outcome) => pipeline.handle_ack(&PublishAck { first, count, outcome }, settled),
                    Err(code) => {
                        let nack =
                            PublishNack { first, count, code: code as u16, retry_after_ms: rng.u32(0..20), detail: "" };
                        pipeline.handle_nack(now, &nack, settled);
                    }
                }
            }
        }
    }

    /// Random sends, answers, refusals, lost connections: each message is stored once, in order, and settled once.
    #[test]
    fn whatever_happens_each_message_is_stored_once_in_order_and_settled_once() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let options = Options { window_messages: 40, window_bytes: 200_000, ..Options::default() };
            let mut pipeline = Pipeline::new(&options);
            let mut broker = Broker::default();
            let (mut settled, mut now, mut pushed) = (Vec::new(), 0, 0u128);
            let mut fate: Vec<Option<bool>> = Vec::new();
            let mut link = Link::new(0);
            pipeline.connected(&TERMS);
            while pushed < 300 || pipeline.settled_below() < 300 {
                now += rng.u64(0..10);
                let payload = vec![7; *rng.choice(&[0, 10, 200, 5_000, 40_000]).expect("some")];
                for _ in 0..rng.usize(0..12) {
                    if pushed < 300 && pipeline.has_room(payload.len() + 100) {
                        pushed += 1;
                        let record = Record {
                            id: MessageId(pushed.to_be_bytes()),
                            ..Record::new(Channel::parse("a").expect("valid"), &payload)
                        };
                        assert_eq!(u128::from(pipeline.push(now, Contract::Queue, &record)) + 1, pushed);
                    }
                }
                if rng.u8(..) < 6 {
                    pipeline.disconnected();
                    broker.restart();
                    link = Link::new(now);
                    pipeline.connected(&TERMS);
                }
                let wants = pipeline.wants_write(now);
                let mut out = Vec::new();
                pipeline.fill(now, &mut link, &mut out, rng.usize(1..100_000), &mut settled);
                assert!(wants || out.is_empty(), "seed {seed}: wrote without wanting to");
                broker.receive(&mut rng, &out);
                broker.answer(&mut rng, &mut pipeline, now, &mut settled);
                for s in settled.drain(..) {
                    for ticket in s.first..s.first + s.count {
                        if fate.len() <= ticket as usize {
                            fate.resize(ticket as usize + 1, None);
                        }
                        let before = fate[ticket as usize].replace(s.result.is_ok());
                        assert_eq!(before, None, "seed {seed}: ticket {ticket} settled twice");
                    }
                }
            }
            let refused = |id: u128| id.is_multiple_of(17);
            assert!(broker.stored.iter().copied().eq((1..=300).filter(|id| !refused(*id))), "seed {seed}");
            let expected = (1..=300).map(|id| Some(!refused(id)));
            assert!(fate.into_iter().eq(expected), "seed {seed}");
            assert!(pipeline.arena.is_empty() && pipeline.entries.is_empty());
        }
    }

    fn push(pipeline: &mut Pipeline, now: u64) -> u64 {
        pipeline.push(now, Contract::Queue, &Record::new(Channel::parse("a").expect("valid"), b"x"))
    }

    fn nack(first: u64, count: u32, code: Code) -> PublishNack<'static> {
        PublishNack { first, count, code: code as u16, retry_after_ms: 0, detail: "" }
    }

    #[test]
    fn with_a_deadline_a_message_fails_in_time_and_the_rest_goes_on() {
        let mut pipeline = Pipeline::new(&Options { retry: Retry::For(100), ..Options::default() });
        let (mut settled, mut out, mut link) = (Vec::new(), Vec::new(), Link::new(0));
        push(&mut pipeline, 0);
        push(&mut pipeline, 50);
        assert_eq!(pipeline.poll_timeout(), Some(100));
        pipeline.connected(&TERMS);
        pipeline.fill(60, &mut link, &mut out, 1_000, &mut settled);
        pipeline.expire(99, &mut settled);
        assert!(settled.is_empty());
        pipeline.expire(100, &mut settled);
        assert_eq!(settled, [Settled { first: 0, count: 1, result: Err(ClientError::TimedOut) }]);
        settled.clear();
        // The late answer to the first one is not told again.
        pipeline.handle_ack(&PublishAck { first: 1, count: 2, outcome: Outcome::Stored }, &mut settled);
        assert_eq!(settled, [Settled { first: 1, count: 1, result: Ok(Outcome::Stored) }]);
        assert_eq!(pipeline.settled_below(), 2);
    }

    #[test]
    fn without_retries_only_the_refused_message_fails_and_its_number_goes_to_the_next() {
        let mut pipeline = Pipeline::new(&Options { retry: Retry::Never, ..Options::default() });
        let (mut settled, mut out, mut link) = (Vec::new(), Vec::new(), Link::new(0));
        for _ in 0..3 {
            push(&mut pipeline, 0);
        }
        pipeline.connected(&TERMS);
        pipeline.fill(0, &mut link, &mut out, 1_000, &mut settled);
        pipeline.handle_nack(0, &nack(1, 1, Code::QueueFull), &mut settled);
        assert!(matches!(&settled[..], [Settled { first: 0, count: 1, result: Err(ClientError::Refused(_)) }]));
        settled.clear();
        assert!(!pipeline.wants_write(0), "two have no answer yet");
        pipeline.handle_nack(0, &nack(2, 2, Code::Fenced), &mut settled);
        assert!(settled.is_empty() && pipeline.wants_write(0));
        out.clear();
        pipeline.fill(0, &mut link, &mut out, 1_000, &mut settled);
        let Ok(Decoded::Frame(frame, _)) = decode(&out, 1_000) else { panic!("a frame") };
        assert_eq!(frame.head::<Batch>(), Ok(Batch { contract: Contract::Queue, first: 1, count: 2 }));
    }

    #[test]
    fn an_interim_acceptance_frees_the_window_and_settles_nothing() {
        let mut pipeline = Pipeline::new(&Options::default());
        let (mut settled, mut out, mut link) = (Vec::new(), Vec::new(), Link::new(0));
        for _ in 0..17 {
            push(&mut pipeline, 0);
        }
        pipeline.connected(&TERMS);
        pipeline.fill(0, &mut link, &mut out, 100_000, &mut settled);
        assert!(!pipeline.wants_write(0), "the window of 16 is used up");
        pipeline.handle_ack(&PublishAck { first: 1, count: 16, outcome: Outcome::Accepted }, &mut settled);
        assert!(settled.is_empty() && pipeline.wants_write(0));
        pipeline.fill(0, &mut link, &mut out, 100_000, &mut settled);
        pipeline.handle_ack(&PublishAck { first: 1, count: 17, outcome: Outcome::Stored }, &mut settled);
        assert_eq!(settled, [Settled { first: 0, count: 17, result: Ok(Outcome::Stored) }]);
        assert_eq!((pipeline.unanswered, pipeline.unanswered_bytes), (0, 0));
    }

    #[test]
    fn a_message_beyond_the_brokers_limit_fails_here_and_blocks_nobody() {
        let mut pipeline = Pipeline::new(&Options::default());
        let (mut settled, mut out, mut link) = (Vec::new(), Vec::new(), Link::new(0));
        let large = vec![0; 100_001];
        pipeline.push(0, Contract::Queue, &Record::new(Channel::parse("a").expect("valid"), &large));
        push(&mut pipeline, 0);
        pipeline.connected(&TERMS);
        pipeline.fill(0, &mut link, &mut out, 100_000, &mut settled);
        assert!(matches!(&settled[..], [Settled { first: 0, count: 1, result: Err(ClientError::TooLarge(..)) }]));
        let Ok(Decoded::Frame(frame, len)) = decode(&out, 1_000) else { panic!("a frame") };
        assert_eq!((frame.head::<Publish>().expect("publish").number, len), (1, out.len()));
    }
}
