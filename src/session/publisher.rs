//! One publish stream: consecutive numbers, fencing after a refusal that can be retried, acknowledgements in order.

use crate::model::{Mono, Position, Volume};
use crate::wire::{Code, Outcome};
use std::collections::VecDeque;

/// A publish stream of a session.
#[derive(Debug, Default)]
pub struct Publisher {
    next: Option<u64>,
    fence: Option<u64>,
    runs: VecDeque<Run>,
    /// It was told to wait until then, a little less, for its rate.
    wait_until: Option<Mono>,
    /// Messages it sent since without coming back to the one that was refused.
    ignored: u32,
    /// Held by us with a pause frame.
    pub paused: bool,
}

/// Consecutive publishes that share their fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// First number.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// Bytes of their records.
    pub bytes: u64,
    /// What happened.
    pub kind: RunKind,
    /// Both volumes' positions that must be durable before it is told.
    pub wait: [Position; 2],
}

/// The fate of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// Taken.
    Ack(Outcome),
    /// Refused.
    Nack(Code, u32),
}

/// What a publish number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The one expected.
    Next,
    /// The stream is fenced, and this is not the number it waits for.
    Fenced,
    /// Neither the next nor a resumption.
    Wrong,
}

/// How a publisher that was told to wait goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It was not told to.
    Unasked,
    /// It waited.
    Waited,
    /// It came back too early, or goes on far behind the message that was refused.
    Lost,
}

impl Publisher {
    /// Tells it to wait for its rate, from now on and at least so many microseconds.
    pub fn wait(&mut self, now: Mono, wait_us: u64) {
        // Clocks do not run alike: a tenth early is not early.
        self.wait_until = Some(now.plus_us(wait_us - wait_us / 10));
        self.ignored = 0;
    }

    /// Until when it is to wait.
    #[must_use]
    pub const fn waits_until(&self) -> Option<Mono> {
        self.wait_until
    }

    /// Judges how it goes on with `count` publishes that are what was expected or not. It may have `window` of them on the way
    /// before it can know.
    pub fn judge(&mut self, expect: Expect, now: Mono, count: u32, window: u32) -> Patience {
        let Some(until) = self.wait_until else { return Patience::Unasked };
        if expect == Expect::Next {
            (self.wait_until, self.ignored) = (None, 0);
            return if now < until { Patience::Lost } else { Patience::Waited };
        }
        self.ignored = self.ignored.saturating_add(count);
        if self.ignored <= window {
            return Patience::Unasked;
        }
        self.ignored = 0;
        Patience::Lost
    }

    /// Judges the number of the next publish of this stream; a fenced stream is opened again by the number it waits for.
    pub fn expect(&mut self, number: u64) -> Expect {
        match (self.fence, self.next) {
            (Some(fence), _) if fence == number => {
                self.fence = None;
                Expect::Next
            }
            (Some(_), _) => Expect::Fenced,
            (None, Some(next)) if next != number => Expect::Wrong,
            (None, _) => Expect::Next,
        }
    }

    /// `count` publishes from `first` on were judged.
    pub fn advance(&mut self, first: u64, count: u32) {
        self.next = Some(first.wrapping_add(u64::from(count)));
    }

    /// Refuses everything until this number comes again.
    pub fn fence(&mut self, number: u64) {
        self.fence = Some(number);
    }

    /// Remembers what happened to one publish, joined to the run before where all is equal.
    pub fn push(&mut self, number: u64, bytes: u64, kind: RunKind, wait: [Position; 2]) {
        if let Some(last) = self.runs.back_mut() {
            let follows = last.first.wrapping_add(u64::from(last.count)) == number && last.count < u32::MAX;
            // Positions only grow, so a run may wait for the later of both: within a commit they are equal anyway.
            if follows && last.kind == kind && last.wait == wait {
                last.count += 1;
                last.bytes += bytes;
                return;
            }
        }
        self.runs.push_back(Run { first: number, count: 1, bytes, kind, wait });
    }

    /// Whether a number was answered, be it in between.
    #[must_use]
    pub fn is_told(&self, number: u64) -> bool {
        self.runs.front().is_none_or(|run| number < run.first)
    }

    /// The next run that may be told, given what is durable; of those told in between, `interims` messages at most.
    pub fn poll(&mut self, durable: [Position; 2], interims: u32) -> Option<Run> {
        let run = self.runs.front_mut()?;
        if run.wait[0] > durable[0] || run.wait[1] > durable[1] {
            return None;
        }
        let most = if run.kind == RunKind::Ack(Outcome::Accepted) { interims } else { u32::MAX };
        if run.count > most {
            // The rest is told once final answers left room.
            let bytes = run.bytes * u64::from(most) / u64::from(run.count);
            let part = Run { count: most, bytes, ..run.clone() };
            (run.first, run.count, run.bytes) = (run.first + u64::from(most), run.count - most, run.bytes - bytes);
            return (most > 0).then_some(part);
        }
        let mut run = self.runs.pop_front()?;
        // Neighbours that differ only in the commit they waited for are one range.
        while let Some(next) = self.runs.front() {
            let follows = run.first.wrapping_add(u64::from(run.count)) == next.first;
            let ready = next.wait[0] <= durable[0] && next.wait[1] <= durable[1];
            let Some(count) = run.count.checked_add(next.count).filter(|count| *count <= most) else { break };
            if !follows || !ready || next.kind != run.kind {
                break;
            }
            run.count = count;
            run.bytes += next.bytes;
            self.runs.pop_front();
        }
        Some(run)
    }

    /// The store failed: what waited for it is refused with this code, from the first such run on; the stream is fenced
    /// there.
    pub fn fail(&mut self, durable: [Position; 2], code: Code, retry_after_ms: u32) {
        let mut failed = false;
        for run in &mut self.runs {
            let waits = run.wait[0] > durable[0] || run.wait[1] > durable[1];
            if !failed && waits {
                failed = true;
                if self.fence.is_none_or(|f| run.first < f) {
                    self.fence = Some(run.first);
                }
            }
            if failed && !matches!(run.kind, RunKind::Nack(c, _) if !c.is_retryable()) {
                run.kind = RunKind::Nack(code, retry_after_ms);
            }
            if failed {
                run.wait = [Position(0); 2];
            }
        }
    }

    /// Index of a volume in `wait` and `durable`.
    #[must_use]
    pub const fn slot(volume: Volume) -> usize {
        match volume {
            Volume::Disk => 0,
            Volume::Memory => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: RunKind = RunKind::Ack(Outcome::Stored);

    fn at(disk: u64) -> [Position; 2] {
        [Position(disk), Position(0)]
    }

    #[test]
    fn acknowledgements_come_in_order_as_ranges_and_never_before_their_commit() {
        let mut p = Publisher::default();
        p.push(1, 10, STORED, at(1));
        p.push(2, 10, STORED, at(1));
        p.push(3, 10, STORED, at(2));
        p.push(4, 10, RunKind::Ack(Outcome::LiveOnly), at(0));
        assert_eq!(p.poll(at(0), 9), None);
        let run = p.poll(at(1), 9).expect("durable");
        assert_eq!((run.first, run.count, run.bytes), (1, 2, 20));
        assert_eq!(p.poll(at(1), 9), None, "the live-only one waits behind the stored one");
        assert_eq!(p.poll(at(2), 9).map(|r| r.first), Some(3));
        assert_eq!(p.poll(at(2), 9).map(|r| r.first), Some(4));
    }

    #[test]
    fn a_fenced_stream_opens_only_at_the_refused_number() {
        let mut p = Publisher::default();
        assert_eq!(p.expect(10), Expect::Next);
        p.advance(10, 1);
        assert_eq!(p.expect(12), Expect::Wrong);
        p.fence(10);
        assert_eq!(p.expect(11), Expect::Fenced);
        assert_eq!(p.expect(10), Expect::Next);
        p.advance(10, 1);
        assert_eq!(p.expect(11), Expect::Next);
    }

    #[test]
    fn a_failed_store_refuses_everything_from_the_first_that_waited() {
        let mut p = Publisher::default();
        p.push(1, 1, STORED, at(1));
        p.push(2, 1, STORED, at(2));
        p.push(3, 1, RunKind::Ack(Outcome::LiveOnly), at(0));
        p.fail(at(1), Code::StorageFailed, 5);
        assert_eq!(p.poll(at(1), 9).map(|r| r.kind), Some(STORED));
        let run = p.poll(at(1), 9).expect("failed ones are told at once");
        assert_eq!((run.first, run.count, run.kind), (2, 2, RunKind::Nack(Code::StorageFailed, 5)));
        assert_eq!((p.expect(4), p.expect(2)), (Expect::Fenced, Expect::Next));
    }

    #[test]
    fn what_is_told_in_between_is_bounded_and_what_follows_waits_behind_it() {
        const ACCEPTED: RunKind = RunKind::Ack(Outcome::Accepted);
        let mut p = Publisher::default();
        for number in 1..=10 {
            p.push(number, 10, ACCEPTED, at(number % 2));
        }
        p.push(11, 10, STORED, at(0));
        let run = p.poll(at(1), 4).expect("some");
        assert_eq!((run.first, run.count, run.bytes), (1, 4, 40));
        assert_eq!((p.poll(at(1), 0), p.is_told(4), p.is_told(5)), (None, true, false));
        let run = p.poll(at(1), 100).expect("the rest");
        assert_eq!((run.first, run.count, run.bytes), (5, 6, 60));
        assert_eq!(p.poll(at(1), 0).map(|r| (r.first, r.kind)), Some((11, STORED)));
        p.push(12, 10, ACCEPTED, at(0));
        p.push(13, 30, ACCEPTED, at(0));
        assert_eq!(p.poll(at(0), 1).map(|r| (r.first, r.count)), Some((12, 1)));
        assert_eq!(p.poll(at(0), 1).map(|r| (r.first, r.count)), Some((13, 1)));
    }
}
