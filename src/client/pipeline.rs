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
use crate::model::limits::{BATCH_MESSAGES_MAX, CHUNK_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::model::{Record, is_compressed};
use crate::schedule::backoff_ms;
use crate::seal::expand_record;
use crate::wire::{
    Batch, Contract, FLAG_CONT, FLAG_MORE, FrameType, Outcome, Publish, PublishAck, PublishNack, append, append_record,
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
        if !terms.lz4 {
            self.expand();
        }
        self.rewind(0, NO_NUMBER);
    }

    /// This broker takes no compressed payloads, though the one before did: what is queued is written anew.
    fn expand(&mut self) {
        let mut at = self.head;
        let record = |entry: &Entry, at: &mut usize| {
            let from = *at + usize::from(entry.prefix);
            *at += entry.len as usize;
            from..*at
        };
        if !self.entries.iter().any(|entry| is_compressed(&self.arena[record(entry, &mut at)])) {
            return;
        }
        at = self.head;
        let arena = std::mem::take(&mut self.arena);
        for entry in &mut self.entries {
            let bytes = &arena[record(entry, &mut at)];
            let expanded = expand_record(bytes, MESSAGE_BYTES_MAX as usize).ok().flatten();
            let bytes = expanded.as_deref().unwrap_or(bytes);
            let start = self.arena.len();
            append_record(&mut self.arena, bytes);
            entry.len = (self.arena.len() - start) as u32;
            entry.prefix = (entry.len as usize - bytes.len()) as u8;
        }
        self.head = 0;
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
mod tests;
