//! Leaps of the wall clock: times at which it was set, and no time passed.
//!
//! A box without a battery begins in 1970 and jumps to today when the network tells it the time; a receiver that loses count
//! sends it fifty years ahead. Stamps follow such a jump, ages must not: a message of this morning is not too old because the
//! clock was wrong when it came.

use crate::model::{Now, Wall};
use serde::{Deserialize, Serialize};

/// A jump forward of at least this much within one run, in milliseconds, beyond the time that passed: the clock was set.
/// A smaller one may be a machine that slept, of which monotonic clocks know nothing.
pub const LEAP_MS_MIN: u64 = 24 * 3_600 * 1_000;
/// Between two runs, in milliseconds: a box is not switched off for ten years, but may have been in 1970 before.
pub const LEAP_BETWEEN_RUNS_MS_MIN: u64 = 10 * 365 * LEAP_MS_MIN;
/// Leaps remembered; of more the oldest two become one.
pub const LEAPS_MAX: usize = 16;

/// A time at which the clock was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leap {
    /// What it was set to, in milliseconds since 1970: earlier stamps are of before.
    pub to_ms: u64,
    /// By how much, in milliseconds.
    pub by_ms: u64,
}

/// All that are known, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaps(Vec<Leap>);

impl Leaps {
    /// Looks at two consecutive times of one run; returns the leap if there was one.
    pub fn watch(&mut self, before: Now, now: Now) -> Option<Leap> {
        let passed_ms = now.mono.ms_since(before.mono);
        let by_ms = now.wall.ms_since(before.wall).saturating_sub(passed_ms);
        self.note(by_ms, LEAP_MS_MIN, now.wall)
    }

    /// Looks at the last time of an earlier run and the first of this one.
    pub fn watch_start(&mut self, last: Wall, now: Wall) -> Option<Leap> {
        self.note(now.ms_since(last), LEAP_BETWEEN_RUNS_MS_MIN, now)
    }

    fn note(&mut self, by_ms: u64, min_ms: u64, now: Wall) -> Option<Leap> {
        if by_ms < min_ms {
            return None;
        }
        let leap = Leap { to_ms: now.0, by_ms };
        self.0.push(leap);
        if self.0.len() > LEAPS_MAX {
            let first = self.0.remove(0);
            self.0[0].by_ms = self.0[0].by_ms.saturating_add(first.by_ms);
        }
        Some(leap)
    }

    /// A stamp as it would be had the clock always been set as it is now: what age is counted from.
    #[must_use]
    pub fn forward(&self, stamp: Wall) -> Wall {
        self.0.iter().filter(|leap| stamp.0 < leap.to_ms).fold(stamp, |at, leap| at.plus_ms(leap.by_ms))
    }

    /// The stamp that [`Leaps::forward`] takes to `time`: stamps below it are older. 0 before the first.
    #[must_use]
    pub fn back(&self, time: Wall) -> Wall {
        self.0
            .iter()
            .rev()
            .fold(time, |at, leap| if at.0 < leap.to_ms { Wall(at.0.saturating_sub(leap.by_ms)) } else { at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mono;

    const DAY: u64 = LEAP_MS_MIN;

    fn now(mono_ms: u64, wall_ms: u64) -> Now {
        Now { mono: Mono(mono_ms * 1_000), wall: Wall(wall_ms) }
    }

    #[test]
    fn a_clock_that_is_set_is_told_from_time_that_passes() {
        let mut leaps = Leaps::default();
        for (before, after) in [
            (now(0, 5), now(1_000, 1_005)),
            // Back, a little forward, a machine that slept overnight, and a day without an event.
            (now(0, 5 * DAY), now(0, 0)),
            (now(0, 5), now(10, 60_000)),
            (now(0, 5), now(10, DAY / 2)),
            (now(0, 5), now(2 * DAY, 2 * DAY + 5)),
        ] {
            assert_eq!(leaps.watch(before, after), None);
        }
        let set = leaps.watch(now(0, 5), now(1_000, 3 * DAY + 1_005));
        assert_eq!(set, Some(Leap { to_ms: 3 * DAY + 1_005, by_ms: 3 * DAY }));
        assert_eq!(leaps.watch_start(Wall(5), Wall(9 * 365 * DAY)), None, "a box in a cupboard");
        assert!(leaps.watch_start(Wall(5), Wall(56 * 365 * DAY)).is_some(), "a box in 1970");
    }

    #[test]
    fn ages_count_the_time_that_passed() {
        let mut leaps = Leaps::default();
        leaps.watch(now(0, 1_000), now(0, 1_000 + 10 * DAY)).expect("a leap");
        leaps.watch(now(0, 11 * DAY), now(0, 31 * DAY)).expect("a leap");
        let at = Wall(31 * DAY + 500);
        let age = |stamp: u64| at.ms_since(leaps.forward(Wall(stamp)));
        assert_eq!(age(31 * DAY), 500);
        assert_eq!(age(11 * DAY), 500);
        // Stored a second before the first leap; a day less a second passed between the two.
        assert_eq!(age(0), 1_000 + DAY - 1_000 + 500);
        for stamp in [0, 999, 10 * DAY + 1_000, 11 * DAY - 1, 31 * DAY, 31 * DAY + 400] {
            assert_eq!(leaps.back(leaps.forward(Wall(stamp))), Wall(stamp));
        }
        assert_eq!(leaps.back(Wall(0)), Wall(0));
    }

    #[test]
    fn no_more_than_a_few_are_remembered_and_ages_do_not_grow_by_it() {
        let mut leaps = Leaps::default();
        let mut wall = 0;
        for _ in 0..3 * LEAPS_MAX as u64 {
            leaps.watch(now(0, wall), now(0, wall + 2 * DAY)).expect("a leap");
            wall += 2 * DAY;
        }
        assert_eq!(leaps.0.len(), LEAPS_MAX);
        assert_eq!(Wall(wall).ms_since(leaps.forward(Wall(0))), 0);
    }
}
