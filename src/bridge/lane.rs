//! A lane under way: records in the order of their queue, what of them was sent, and what was answered.

use super::window;
use crate::model::Mono;
use crate::wire::{Contract, SourcePosition};
use std::collections::VecDeque;

/// Settled bytes are cut off an arena when they are this many and half of it.
const COMPACT_BYTES: usize = 64 * 1_024;

/// Refused sequences of a lane that are remembered: a refusal that was passed on can still be lost by a cut, and is then to be
/// told again. The upstream remembers twice as many, so that a lane always goes on.
pub(super) const REFUSED_KEPT: usize = 512;

/// A record, from its delivery until it is settled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) tag: u64,
    pub(super) seq: u64,
    /// Bytes in the arena, the prefix included.
    pub(super) len: u32,
    pub(super) prefix: u8,
    pub(super) settled: bool,
}

/// Where a stream stands still, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fence {
    pub(super) number: u64,
    pub(super) retry_at: Mono,
}

/// A frame that was sent: the number behind its last record, when, and what the window knows of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) end: u64,
    pub(super) at: Mono,
    pub(super) window: window::Mark,
}

/// A lane of a queue.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) consumer: usize,
    pub(super) epoch: u64,
    pub(super) priority: u8,
    pub(super) stream: u32,
    /// What the upstream has of it since before this connection.
    pub(super) position: Option<SourcePosition>,
    pub(super) contract: Contract,
    pub(super) arena: Vec<u8>,
    pub(super) head: usize,
    pub(super) entries: VecDeque<Entry>,
    pub(super) base: u64,
    pub(super) cursor: usize,
    pub(super) cursor_at: usize,
    /// Bytes of the cursor's record already sent as chunks.
    pub(super) chunked: usize,
    pub(super) unanswered: u32,
    pub(super) fence: Option<Fence>,
    pub(super) refusals: u32,
    pub(super) paused: bool,
    pub(super) marks: VecDeque<Mark>,
    /// What the upstream refused for good, the last of it.
    refused: VecDeque<u64>,
}

impl Lane {
    pub(super) fn new(
        consumer: usize,
        epoch: u64,
        priority: u8,
        stream: u32,
        position: Option<SourcePosition>,
    ) -> Self {
        // All that the upstream told: it is told the broker here in one go, and nothing says when that is durable.
        let refused = position.iter().flat_map(|p| p.refused.iter().map(|(seq, _)| *seq)).collect();
        Self {
            consumer,
            epoch,
            priority,
            stream,
            position,
            // What is let go here must be on a disk there.
            contract: Contract::Disk,
            arena: Vec::new(),
            head: 0,
            entries: VecDeque::new(),
            base: 1,
            cursor: 0,
            cursor_at: 0,
            chunked: 0,
            unanswered: 0,
            fence: None,
            refusals: 0,
            paused: false,
            marks: VecDeque::new(),
            refused,
        }
    }

    pub(super) fn can_resume(&self, now: Mono) -> bool {
        self.unanswered == 0 && self.chunked == 0 && self.fence.is_some_and(|f| f.retry_at <= now)
    }

    /// After a fence: everything from the refused number on is sent again, from that number on.
    pub(super) fn resume(&mut self) {
        let Some(fence) = self.fence.take() else { return };
        let index = usize::try_from(fence.number.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.cursor = index.min(self.entries.len());
        self.cursor_at = self.head + self.entries.iter().take(self.cursor).map(|e| e.len as usize).sum::<usize>();
        self.chunked = 0;
        self.marks.clear();
        // The fence may be of an upstream that can remember no more.
        self.refused.drain(..self.refused.len().saturating_sub(REFUSED_KEPT));
    }

    /// The upstream refused a record for good.
    pub(super) fn refuse(&mut self, seq: u64) {
        if self.refused.len() >= REFUSED_KEPT {
            self.refused.pop_front();
        }
        self.refused.push_back(seq);
    }

    /// What is below this is settled, where `first` is the next record that is sent, and nothing need be remembered of it.
    pub(super) fn floor(&self, first: u64) -> u64 {
        let front = self.entries.front().map_or(first, |e| e.seq);
        self.refused.iter().fold(front, |floor, seq| floor.min(*seq))
    }

    /// Invariant 3.
    pub(super) fn pop(&mut self) {
        while self.cursor > 0 && self.entries.front().is_some_and(|front| front.settled) {
            let Some(front) = self.entries.pop_front() else { break };
            self.head += front.len as usize;
            self.base += 1;
            self.cursor -= 1;
        }
        if self.entries.is_empty() {
            self.arena.clear();
            if self.arena.capacity() > 2 * COMPACT_BYTES {
                self.arena = Vec::new();
            }
            self.head = 0;
            self.cursor_at = 0;
        } else if self.head >= COMPACT_BYTES && self.head >= self.arena.len() / 2 {
            self.arena.drain(..self.head);
            self.cursor_at -= self.head;
            self.head = 0;
        }
    }

    pub(super) fn record_len(&self, index: usize) -> usize {
        self.entries.get(index).map_or(0, |e| e.len as usize - usize::from(e.prefix))
    }
}
