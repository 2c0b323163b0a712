//! Forwarding: what the queues gave, in lanes, until the upstream settles it.
//!
//! A lane is one lane of one queue and has a publish stream of its own, so that a refusal holds up nothing else. Its records
//! lie one after another in an arena, each behind its length, so that a run of them is the payload of a batch frame as it
//! stands. Invariants:
//!
//! 1. Entry `i` has the number `base + i`; entries `[0, cursor)` were sent, the rest was not.
//! 2. `unanswered` counts those sent and not answered; it returns to 0 before a fenced stream goes on, because until then an
//!    answer could belong to either attempt.
//! 3. An entry leaves at the front, settled and sent; so the front's sequence, or that of the oldest refusal that is remembered,
//!    is the floor of the source.
//! 4. Sequences grow along a lane: the queue gives them in order, and what comes again comes on a new connection.

mod answers;

pub(super) use self::answers::push_ack;
use super::forward::{Passage, Refused};
use super::lane::{Entry, Fence, Lane, Mark};
use super::loops::Refusal;
use super::pace::{Pace, Turns};
use super::window::{Window, WindowMax};
use crate::client::Link;
use crate::model::Mono;
use crate::model::limits::{BATCH_MESSAGES_MAX, CHUNK_BYTES_MAX};
use crate::seal::BatchPacker;
use crate::wire::{
    Batch, Code, Contract, EXTENSION_LZ4, EXTENSION_SOURCE, Extended, Extension, FLAG_CONT, FLAG_MORE, FrameType,
    Publish, Source, SourcePosition, SourceRuns, append,
};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Bytes a record's length takes at most.
const PREFIX_BYTES_MAX: usize = 5;
/// First and longest wait before a refused record is tried again where the upstream names none, in milliseconds.
const RETRY_MS: u32 = 100;
const RETRY_MS_MAX: u32 = 30_000;
/// Tag of a delivery that is acknowledged to nobody.
const NOBODY: u64 = 0;

/// A range of deliveries of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) consumer: usize,
    pub(super) first: u64,
    pub(super) count: u32,
    /// Bytes of their records as they lay here; 0 for those that never did.
    pub(super) bytes: u64,
}

/// A delivery that is never forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GivenUp {
    pub(super) consumer: usize,
    pub(super) tag: u64,
    pub(super) bytes: u64,
    /// Whose name counts it.
    pub(super) code: u16,
    pub(super) detail: String,
}

/// All lanes of a connection, and what came of them.
pub(super) struct Up {
    lanes: Vec<Lane>,
    turns: Turns<(Reverse<u8>, u32)>,
    /// The lane whose record is under way in chunks.
    chunking: Option<usize>,
    runs: SourceRuns,
    head: Vec<u8>,
    packer: BatchPacker,
    packed: Vec<u8>,
    rng: fastrand::Rng,
    pub(super) window: Window,
    /// Whether something waits for the pace alone, and when to look again.
    pub(super) look_at: Option<Mono>,
    pub(super) acks: Vec<Settled>,
    pub(super) given_up: Vec<GivenUp>,
    /// Messages that did not go on, by reason, though nothing is wrong with them.
    pub(super) passed: BTreeMap<&'static str, u64>,
    /// Consumers and bytes of records that were settled after [`Up::disown`].
    pub(super) disowned: Vec<(usize, u64)>,
    /// Messages forwarded, bytes of their records, and bytes of the frames they went in.
    pub(super) sent: (u64, u64, u64),
    /// When the upstream last acknowledged something.
    pub(super) acked_at: Option<Mono>,
}

/// What bounds a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'s> {
    /// Largest payload of a frame that the upstream takes, in bytes.
    pub(super) frame_bytes_max: usize,
    /// Whether batches are compressed where that makes them smaller.
    pub(super) compress: bool,
    /// Shares of the lanes.
    pub(super) weights: &'s [u32],
}

impl Bounds<'_> {
    fn weight(&self, priority: u8) -> u32 {
        self.weights.get(usize::from(priority)).copied().unwrap_or(1)
    }
}

/// What may be sent at this moment.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    messages: u32,
    bytes: u64,
    /// Largest payload of a frame: so that what is urgent never waits behind more than about a second of data.
    frame: usize,
    /// Largest record that goes in a frame with others.
    chunk: usize,
}

impl Up {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            lanes: Vec::new(),
            turns: Turns::new(),
            chunking: None,
            runs: SourceRuns::default(),
            head: Vec::new(),
            packer: BatchPacker::default(),
            packed: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            window: Window::new(WindowMax { messages: 1, bytes: 1 }),
            look_at: None,
            acks: Vec::new(),
            given_up: Vec::new(),
            passed: BTreeMap::new(),
            disowned: Vec::new(),
            sent: (0, 0, 0),
            acked_at: None,
        }
    }

    /// A connection is open: it begins small.
    pub(super) fn open(&mut self, max: WindowMax) {
        self.window = Window::new(max);
    }

    /// The connection is gone: what it held goes back to the queues.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        self.turns = Turns::new();
        self.chunking = None;
        self.look_at = None;
        self.window = Window::new(WindowMax { messages: 1, bytes: 1 });
        self.acks.clear();
        self.given_up.clear();
        self.disowned.clear();
    }

    /// A consumer, or each, gives what it gave anew: what was sent is answered for nobody, the rest is dropped. Without a consumer
    /// the lanes are nobody's, too.
    pub(super) fn disown(&mut self, consumer: Option<usize>) {
        for (at, l) in self.lanes.iter_mut().enumerate() {
            if consumer.is_some_and(|consumer| consumer != l.consumer) {
                continue;
            }
            // What is under way in chunks is brought to its end: the stream can take nothing else before.
            let keep = l.cursor + usize::from(self.chunking == Some(at));
            for entry in l.entries.drain(keep.min(l.entries.len())..) {
                l.arena.truncate(l.arena.len() - entry.len as usize);
                if !entry.settled {
                    self.disowned.push((l.consumer, u64::from(entry.len)));
                }
            }
            l.entries.iter_mut().for_each(|entry| entry.tag = NOBODY);
            if consumer.is_none() {
                l.consumer = usize::MAX;
            }
            l.pop();
        }
    }

    /// The lane of a delivery, made with a stream of its own when it is new.
    pub(super) fn lane(
        &mut self,
        consumer: usize,
        epoch: u64,
        priority: u8,
        new: impl FnOnce() -> (u32, Option<SourcePosition>),
    ) -> usize {
        let same = |l: &Lane| l.consumer == consumer && l.epoch == epoch && l.priority == priority;
        self.lanes.iter().position(same).unwrap_or_else(|| {
            let (stream, position) = new();
            // Of a lane whose epoch ended nothing more comes.
            self.lanes.retain(|l| (l.consumer, l.priority) != (consumer, priority) || !l.entries.is_empty());
            self.chunking = self.lanes.iter().position(|l| l.chunked > 0);
            self.lanes.push(Lane::new(consumer, epoch, priority, stream, position));
            self.lanes.len() - 1
        })
    }

    /// Takes a delivery. Returns the bytes it holds here; `None` when it is settled at once: the upstream has it, or will
    /// never take it.
    pub(super) fn take(
        &mut self,
        passage: &mut Passage,
        lane: usize,
        tag: u64,
        seq: u64,
        record: &[u8],
    ) -> Option<u64> {
        let l = &self.lanes[lane];
        let consumer = l.consumer;
        let position = l.position.as_ref().filter(|p| seq <= p.last);
        let code_of = |p: &SourcePosition| {
            let at = p.refused.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
            Some(p.refused[at].1)
        };
        if let Some(code) = position.and_then(code_of) {
            self.given_up.push(GivenUp { consumer, tag, bytes: 0, code, detail: String::new() });
            return None;
        }
        // A record given up here was never sent, and the upstream is past it by what came behind it: it is given up again.
        if position.is_some() && passage.pass(consumer, record, &mut Vec::new()).is_ok() {
            push_ack(&mut self.acks, consumer, tag, 0);
            return None;
        }
        let written = self.append(lane, tag, seq, |arena| passage.pass(consumer, record, arena));
        written
            .map_err(|refused| {
                let (code, detail) = match refused {
                    Refused::TooLarge(len) => {
                        let max = passage.record_bytes_max;
                        (Code::MessageTooLarge, format!("it has {len} bytes, and the upstream takes {max}"))
                    }
                    Refused::Malformed => (Code::BadRecord, "it cannot be written as the upstream reads it".into()),
                    Refused::Channel(error) => (Code::BadChannel, error.to_string()),
                    Refused::Marks(refusal @ (Refusal::Loop | Refusal::Hops)) => {
                        // It is done with: it was where it would go, or far enough.
                        *self.passed.entry(refusal.name()).or_default() += 1;
                        return push_ack(&mut self.acks, consumer, tag, 0);
                    }
                    Refused::Marks(refusal) => (Code::BadRecord, refusal.to_string()),
                };
                self.given_up.push(GivenUp { consumer, tag, bytes: 0, code: code as u16, detail });
            })
            .ok()
    }

    /// Takes a record as it is to be sent, under a contract of the lane's. Returns the bytes it holds here.
    pub(super) fn put(&mut self, lane: usize, contract: Contract, tag: u64, seq: u64, record: &[u8]) -> u64 {
        self.lanes[lane].contract = contract;
        let write = |arena: &mut Vec<u8>| {
            arena.extend_from_slice(record);
            Ok::<_, std::convert::Infallible>(())
        };
        match self.append(lane, tag, seq, write) {
            Ok(bytes) => bytes,
        }
    }

    /// Puts what `write` writes at the end of a lane.
    fn append<E>(
        &mut self,
        lane: usize,
        tag: u64,
        seq: u64,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let l = &mut self.lanes[lane];
        let start = l.arena.len();
        l.arena.extend_from_slice(&[0; PREFIX_BYTES_MAX]);
        let at = start + PREFIX_BYTES_MAX;
        if let Err(error) = write(&mut l.arena) {
            l.arena.truncate(start);
            return Err(error);
        }
        let record_len = l.arena.len() - at;
        let mut prefix = [0; PREFIX_BYTES_MAX];
        let prefix = postcard::to_slice(&(record_len as u32), &mut prefix).expect("five bytes hold any u32");
        let prefix_len = prefix.len();
        l.arena[start..start + prefix_len].copy_from_slice(prefix);
        l.arena.copy_within(at.., start + prefix_len);
        let len = prefix_len + record_len;
        l.arena.truncate(start + len);
        l.entries.push_back(Entry { tag, seq, len: len as u32, prefix: prefix_len as u8, settled: false });
        Ok(len as u64)
    }

    /// The lane to be sent from next, if any may.
    fn next(&self, allowed: &Allowed) -> Option<usize> {
        let ready =
            |(at, l): &(usize, &Lane)| l.cursor < l.entries.len() && (l.chunked > 0 || self.may_begin(*at, allowed));
        let lanes = self.lanes.iter().enumerate().filter(ready).map(|(_, l)| (Reverse(l.priority), l.stream));
        let (_, stream) = self.turns.next(lanes)?;
        self.lane_of(stream)
    }

    /// Whether the next record of a lane may be sent.
    fn may_begin(&self, at: usize, allowed: &Allowed) -> bool {
        let l = &self.lanes[at];
        let Some(entry) = l.entries.get(l.cursor) else { return false };
        let alone = self.window.under_way().0 == 0;
        // Not in less room than for a batch of what waits: acknowledgements of a record or two would each be followed by a frame
        // of as many, a third of it head.
        let batch = l.arena.len().saturating_sub(l.cursor_at).min(allowed.frame).max(entry.len as usize);
        let room = alone || (allowed.messages > 0 && batch as u64 <= allowed.bytes);
        // One record at a time goes in chunks: of more the upstream could not promise to have the memory.
        let large = self.chunking.is_some() && l.record_len(l.cursor) > allowed.chunk;
        // Of one lane of a queue the older epoch goes first.
        let same = |o: &Lane| (o.consumer, o.priority) == (l.consumer, l.priority);
        let waits = self.lanes[..at].iter().any(|o| same(o) && !o.entries.is_empty());
        l.fence.is_none() && !l.paused && room && !large && !waits
    }

    fn allowed(&self, now: Mono, bounds: &Bounds<'_>, pace: &Pace) -> Allowed {
        let room = self.window.least_room(pace.share(now));
        let most = self.window.batch_bytes().min(pace.batch_bytes());
        let frame = usize::try_from(most).unwrap_or(usize::MAX).min(bounds.frame_bytes_max).max(1);
        let messages = room.messages.min(pace.batch_messages()).min(BATCH_MESSAGES_MAX);
        Allowed { messages, bytes: room.bytes, frame, chunk: CHUNK_BYTES_MAX.min(frame) }
    }

    /// The time has come for something: the edge asks what there is to send after this.
    pub(super) fn handle_timeout(&mut self, now: Mono) {
        self.look_at = self.look_at.filter(|at| *at > now);
        self.resume(now);
    }

    /// Lanes that were refused are tried again, where their time has come.
    fn resume(&mut self, now: Mono) {
        self.lanes.iter_mut().filter(|l| l.can_resume(now)).for_each(Lane::resume);
    }

    /// Appends sealed frames until `out` has grown by about `bytes_max` or nothing more may be sent.
    pub(super) fn fill(
        &mut self,
        now: Mono,
        bounds: &Bounds<'_>,
        pace: &mut Pace,
        link: &mut Link,
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) {
        self.resume(now);
        self.look_at = None;
        let start = out.len();
        while out.len() - start < bytes_max {
            let allowed = self.allowed(now, bounds, pace);
            let Some(at) = self.next(&allowed) else {
                if self.lanes.iter().any(|l| l.cursor < l.entries.len()) {
                    self.look_at = pace.share_changes(now);
                }
                return;
            };
            let before = out.len();
            let l = &self.lanes[at];
            let (key, weight) = ((Reverse(l.priority), l.stream), bounds.weight(l.priority));
            let (count, bytes, chunked) = self.run(at, &allowed);
            let wait_us = pace.wait_us(now, count, bytes as u64);
            if wait_us > 0 {
                drop(self.runs.take());
                self.look_at = Some(now.plus_us(wait_us));
                return;
            }
            if chunked {
                self.send_chunk(at, now, &allowed, link, out);
            } else {
                self.send_run(at, now, (count, bytes), bounds.compress, link, out);
            }
            let len = (out.len() - before) as u64;
            self.sent.2 += len;
            self.turns.took(key, weight, len);
            pace.sent(now, count, len);
        }
    }

    /// What of a lane goes into the next frame: how many records and bytes, and whether it is a chunk of one.
    fn run(&mut self, at: usize, allowed: &Allowed) -> (u32, usize, bool) {
        let l = &self.lanes[at];
        if l.chunked > 0 || l.record_len(l.cursor) > allowed.chunk {
            let left = l.record_len(l.cursor) - l.chunked;
            return (u32::from(l.chunked == 0), left.min(allowed.chunk), true);
        }
        let (mut count, mut bytes) = (0u32, 0usize);
        for entry in l.entries.range(l.cursor..) {
            let next = bytes + entry.len as usize;
            let fits = count < allowed.messages && next <= allowed.frame && next as u64 <= allowed.bytes;
            let small = entry.len as usize - usize::from(entry.prefix) <= allowed.chunk;
            if !small || (count > 0 && !fits) || !self.runs.takes(entry.seq) {
                break;
            }
            self.runs.push(entry.seq);
            count += 1;
            bytes = next;
        }
        (count, bytes, false)
    }

    /// Writes the extension that says where the records come from into `self.head`.
    /// Those of a lane without an epoch come from no queue, and go without.
    fn source(&mut self, at: usize, first: u64) {
        let l = &self.lanes[at];
        let runs = self.runs.take();
        let source = Source { epoch: l.epoch, lane: l.priority, floor: l.floor(first), first, runs: &runs };
        self.head.clear();
        let head = std::mem::take(&mut self.head);
        self.head = postcard::to_extend(&source, head).expect("a vector takes anything");
    }

    /// One frame with the records of a run.
    fn send_run(
        &mut self,
        at: usize,
        now: Mono,
        (count, bytes): (u32, usize),
        compress: bool,
        link: &mut Link,
        out: &mut Vec<u8>,
    ) {
        let l = &self.lanes[at];
        let first_seq = l.entries[l.cursor].seq;
        self.source(at, first_seq);
        let l = &mut self.lanes[at];
        let first = l.base + l.cursor as u64;
        let payload = &l.arena[l.cursor_at..l.cursor_at + bytes];
        let expanded = if compress { self.packer.pack(payload, &mut self.packed) } else { None };
        let mut len = [0; PREFIX_BYTES_MAX];
        let len = postcard::to_slice(&expanded.unwrap_or_default(), &mut len).expect("five bytes hold any u32");
        let extensions =
            &[Extension { tag: EXTENSION_SOURCE, value: &self.head }, Extension { tag: EXTENSION_LZ4, value: len }];
        // What has no source (it was never in a queue there) has none to tell.
        let extensions = &extensions[usize::from(l.epoch == 0)..1 + usize::from(expanded.is_some())];
        let start = out.len();
        let contract = l.contract;
        if expanded.is_some() {
            let head = Batch { contract, first, count };
            append(out, FrameType::Batch, 0, l.stream, Some(&Extended { head, extensions }), &[&self.packed]);
        } else if count == 1 {
            let record = &payload[usize::from(l.entries[l.cursor].prefix)..];
            let head = Publish { contract, number: first, total: record.len() as u32 };
            append(out, FrameType::Publish, 0, l.stream, Some(&Extended { head, extensions }), &[record]);
        } else {
            let head = Batch { contract, first, count };
            append(out, FrameType::Batch, 0, l.stream, Some(&Extended { head, extensions }), &[payload]);
        }
        link.seal(&mut out[start..]);
        l.cursor += count as usize;
        l.cursor_at += bytes;
        self.note_sent(at, now, count, bytes);
    }

    /// The next chunk of the cursor's record.
    fn send_chunk(&mut self, at: usize, now: Mono, allowed: &Allowed, link: &mut Link, out: &mut Vec<u8>) {
        let l = &self.lanes[at];
        let entry = l.entries[l.cursor];
        let (first, number) = (l.chunked == 0, l.base + l.cursor as u64);
        if first {
            self.runs.push(entry.seq);
            self.source(at, entry.seq);
        }
        let l = &mut self.lanes[at];
        let record_at = l.cursor_at + usize::from(entry.prefix);
        let record = &l.arena[record_at..l.cursor_at + entry.len as usize];
        let chunk = &record[l.chunked..record.len().min(l.chunked + allowed.chunk)];
        let last = l.chunked + chunk.len() == record.len();
        let flags = if last { 0 } else { FLAG_MORE } | if first { 0 } else { FLAG_CONT };
        let extensions = &[Extension { tag: EXTENSION_SOURCE, value: &self.head }][..usize::from(l.epoch != 0)];
        let head = Publish { contract: l.contract, number, total: record.len() as u32 };
        let head = Extended { head, extensions };
        let start = out.len();
        append(out, FrameType::Publish, flags, l.stream, first.then_some(&head), &[chunk]);
        link.seal(&mut out[start..]);
        l.chunked += chunk.len();
        self.chunking = Some(at);
        if last {
            l.chunked = 0;
            l.cursor += 1;
            l.cursor_at += entry.len as usize;
            self.chunking = None;
            self.note_sent(at, now, 1, entry.len as usize);
        }
    }

    /// Records were sent whole: they are in flight.
    fn note_sent(&mut self, at: usize, now: Mono, count: u32, bytes: usize) {
        let l = &mut self.lanes[at];
        l.unanswered += count;
        let window = self.window.sent(now, count, bytes as u64);
        l.marks.push_back(Mark { end: l.base + l.cursor as u64, at: now, window });
        self.sent.0 += u64::from(count);
        self.sent.1 += bytes as u64;
    }

    fn lane_of(&self, stream: u32) -> Option<usize> {
        self.lanes.iter().position(|l| l.stream == stream)
    }

    /// The upstream holds a stream, or lets it go on.
    pub(super) fn handle_pause(&mut self, stream: u32, pause: bool) {
        if let Some(at) = self.lane_of(stream) {
            self.lanes[at].paused = pause;
        }
    }

    /// Messages and bytes that a consumer gave and that can go on, and the lanes that cannot for now, bit n for lane n. What
    /// these hold counts for nothing, so that the others are not kept from theirs.
    pub(super) fn held(&self, consumer: usize) -> ((u32, u64), u16) {
        let (mut messages, mut bytes, mut lanes) = (0, 0, 0);
        for l in self.lanes.iter().filter(|l| l.consumer == consumer) {
            if l.fence.is_some() || l.paused {
                lanes |= 1_u16.checked_shl(u32::from(l.priority)).unwrap_or(0);
            } else {
                messages += l.entries.len() as u32;
                bytes += (l.arena.len() - l.head) as u64;
            }
        }
        ((messages, bytes), lanes)
    }

    /// When the oldest frame without an answer was sent.
    pub(super) fn oldest(&self) -> Option<Mono> {
        self.lanes.iter().filter_map(|l| l.marks.front()).map(|m| m.at).min()
    }

    /// When a fenced lane is tried again.
    pub(super) fn poll_timeout(&self) -> Option<Mono> {
        let fences = self.lanes.iter().filter(|l| l.unanswered == 0 && l.chunked == 0).filter_map(|l| l.fence);
        fences.map(|f| f.retry_at).min()
    }
}

#[cfg(test)]
mod tests;
