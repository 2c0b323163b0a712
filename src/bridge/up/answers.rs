//! What the upstream answers: who of those under way is settled, and what is to be sent again.

use super::{Entry, Fence, GivenUp, NOBODY, RETRY_MS, RETRY_MS_MAX, Settled, Up};
use crate::model::Mono;
use crate::schedule::backoff_ms;
use crate::wire::{Code, PublishNack};

impl Up {
    /// The upstream took these. Whether something was settled by it.
    pub(in crate::bridge) fn handle_ack(&mut self, now: Mono, stream: u32, first: u64, count: u32) -> bool {
        let Some(at) = self.lane_of(stream) else { return false };
        self.lanes[at].refusals = 0;
        let settled = self.answer(now, at, (first, count), true, |up, consumer, entry| {
            let bytes = u64::from(entry.len);
            match entry.tag {
                NOBODY => up.disowned.push((consumer, bytes)),
                tag => push_ack(&mut up.acks, consumer, tag, bytes),
            }
            true
        });
        if settled {
            self.acked_at = Some(now);
        }
        settled
    }

    /// The upstream refused these: for good, or for now, which fences this lane's stream alone.
    pub(in crate::bridge) fn handle_nack(&mut self, now: Mono, stream: u32, nack: &PublishNack<'_>) {
        let Some(at) = self.lane_of(stream) else { return };
        let retryable = Code::from_u16(nack.code).is_none_or(Code::is_retryable);
        let l = &mut self.lanes[at];
        // What was not sent is refused by nobody: going on from there would pass over what lies before it.
        let under_way = l.base..l.base + l.cursor as u64 + u64::from(l.chunked > 0);
        if retryable && under_way.contains(&nack.first) && l.fence.is_none_or(|f| nack.first < f.number) {
            l.refusals = l.refusals.saturating_add(1);
            let own = backoff_ms(RETRY_MS, RETRY_MS_MAX, l.refusals - 1, self.rng.f64());
            let wait = own.max(u64::from(nack.retry_after_ms.min(RETRY_MS_MAX)));
            l.fence = Some(Fence { number: nack.first, retry_at: now.plus_ms(wait) });
        }
        let (code, detail) = (nack.code, nack.detail);
        self.answer(now, at, (nack.first, nack.count), !retryable, |up, consumer, entry| {
            if retryable {
                return false;
            }
            up.lanes[at].refuse(entry.seq);
            let bytes = u64::from(entry.len);
            match entry.tag {
                NOBODY => up.disowned.push((consumer, bytes)),
                tag => up.given_up.push(GivenUp { consumer, tag, bytes, code, detail: detail.into() }),
            }
            true
        });
    }

    /// Takes a range of records off the flight and lets `each` say whether they are settled; whether one was. `moved` says that
    /// the link did its work with them.
    fn answer(
        &mut self,
        now: Mono,
        at: usize,
        (first, count): (u64, u32),
        moved: bool,
        mut each: impl FnMut(&mut Self, usize, &Entry) -> bool,
    ) -> bool {
        let l = &self.lanes[at];
        let (base, consumer) = (l.base, l.consumer);
        let from = first.max(base) - base;
        let end = first.saturating_add(u64::from(count)).saturating_sub(base).min(l.cursor as u64);
        if from >= end {
            return false;
        }
        let (mut any, mut index) = (false, from);
        // A peer that answers twice takes nothing off that is not under way.
        let mut left = l.unanswered;
        while index < end {
            // Frame by frame, as the window knows them.
            let marks = &self.lanes[at].marks;
            let mark = marks.get(marks.partition_point(|m| m.end <= base + index)).copied();
            let until = mark.map_or(end, |m| end.min(m.end - base));
            let (mut messages, mut bytes) = (0, 0);
            for index in index..until {
                let entry = self.lanes[at].entries[index as usize];
                messages += 1;
                bytes += u64::from(entry.len);
                if !entry.settled && each(self, consumer, &entry) {
                    self.lanes[at].entries[index as usize].settled = true;
                    any = true;
                }
            }
            index = until;
            let messages = left.min(messages);
            left -= messages;
            match mark {
                Some(mark) if moved && messages > 0 => self.window.acked(now, &mark.window, messages, bytes),
                _ if messages > 0 => self.window.gone(messages, bytes),
                _ => {}
            }
        }
        let l = &mut self.lanes[at];
        l.unanswered = left;
        while l.marks.front().is_some_and(|m| m.end <= base + end) {
            l.marks.pop_front();
        }
        l.pop();
        any
    }
}

/// Adds a delivery to the range before it, or begins another.
pub(in crate::bridge) fn push_ack(acks: &mut Vec<Settled>, consumer: usize, tag: u64, bytes: u64) {
    match acks.last_mut() {
        Some(last) if last.consumer == consumer && last.first + u64::from(last.count) == tag => {
            last.count += 1;
            last.bytes += bytes;
        }
        _ => acks.push(Settled { consumer, first: tag, count: 1, bytes }),
    }
}
