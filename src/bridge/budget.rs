//! Bytes a day (UTC) over a metered link: counted through restarts, and with clocks that are wrong.

use crate::model::{Mono, Now, Wall};
use serde::{Deserialize, Serialize};

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;
/// The clock is believed from 2020-01-01 on, in days since 1970: one before it was never set.
const DAY_MIN: u32 = 18_262;
/// What it used is worth keeping after this part of the budget, or after so long where anything changed; never more often
/// than each second.
const KEEP_SHARE: u64 = 100;
const KEEP_MS: u64 = 60_000;
const KEEP_MS_MIN: u64 = 1_000;
/// Longest time after which to ask again, in milliseconds: clocks are set.
const ASK_MS_MAX: u64 = 60_000;

/// What of a budget outlives the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetKept {
    /// The day it is about, since 1970; `None` while the clock was never set.
    pub day: Option<u32>,
    /// Bytes used of it.
    pub used: u64,
    /// Milliseconds this process and those before it ran on it, for clocks that tell nothing.
    pub ran_ms: u64,
}

/// A budget.
///
/// The day is the wall clock's. A clock that was never set, or is behind the day counted on, begins no new one: then a day is 24
/// hours of running. So neither a restart in 1970 nor a clock set back gives bytes anew, and one that was once years ahead
/// locks nothing for longer than a day. Bytes used before the clock was set count towards the day it is set to.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Bytes a day; 0 is no budget.
    max: u64,
    count: BudgetKept,
    seen: Mono,
    kept: BudgetKept,
    kept_at: Mono,
}

impl Budget {
    /// A budget of so many bytes a day (0 is none), of which so many were used.
    #[must_use]
    pub fn new(now: Now, max: u64, kept: Option<BudgetKept>) -> Self {
        let mut count = kept.unwrap_or_default();
        count.ran_ms = count.ran_ms.min(DAY_MS);
        let mut budget = Self { max, count, seen: now.mono, kept: count, kept_at: now.mono };
        budget.look(now);
        if kept.is_none() {
            budget.kept = budget.count;
        }
        budget
    }

    /// Another budget; what was used of the day stays used.
    pub const fn set_max(&mut self, max: u64) {
        self.max = max;
    }

    /// So many bytes went over the link, either way.
    pub fn spend(&mut self, now: Now, bytes: u64) {
        self.look(now);
        self.count.used = self.count.used.saturating_add(bytes);
    }

    /// Bytes that are left; `u64::MAX` without a budget. What is under way when it is spent may exceed it.
    pub fn left(&mut self, now: Now) -> u64 {
        self.look(now);
        match self.max {
            0 => u64::MAX,
            max => max.saturating_sub(self.count.used),
        }
    }

    /// Bytes used of the day, for the status; `None` without a budget.
    #[must_use]
    pub fn used(&self) -> Option<u64> {
        (self.max > 0).then_some(self.count.used)
    }

    /// Where it is spent, how many milliseconds to wait before it is asked again: to the next day, at most a minute, because
    /// clocks are set.
    #[must_use]
    pub fn wait_ms(&self, now: Now) -> u64 {
        let rest = match (day(now.wall), self.count.day) {
            (Some(today), Some(counted)) if today >= counted => DAY_MS - now.wall.0 % DAY_MS,
            (Some(_), None) => 0,
            _ => DAY_MS.saturating_sub(self.count.ran_ms + now.mono.ms_since(self.seen)),
        };
        rest.clamp(1, ASK_MS_MAX)
    }

    /// What to keep, where that is worth it: each hundredth of the budget, each minute where anything was used, each new day,
    /// at most once a second. It counts as kept then.
    pub fn keep(&mut self, now: Now) -> Option<BudgetKept> {
        self.look(now);
        if self.max == 0 {
            return None;
        }
        let ago = now.mono.ms_since(self.kept_at);
        let more = self.count.used.saturating_sub(self.kept.used);
        let anything = self.count.used > 0 || self.kept.used > 0;
        let other_day = self.count.day != self.kept.day || self.count.used < self.kept.used;
        let worth = other_day || more > self.max / KEEP_SHARE || (ago >= KEEP_MS && self.count != self.kept);
        (anything && worth && ago >= KEEP_MS_MIN).then(|| {
            (self.kept, self.kept_at) = (self.count, now.mono);
            self.count
        })
    }

    /// What to keep, worth it or not: for the orderly end.
    #[must_use]
    pub const fn to_keep(&self) -> BudgetKept {
        self.count
    }

    /// Takes note of the time.
    fn look(&mut self, now: Now) {
        self.count.ran_ms = self.count.ran_ms.saturating_add(now.mono.ms_since(self.seen));
        // The rest of a millisecond is not lost.
        self.seen = self.seen.plus_ms(now.mono.ms_since(self.seen)).min(now.mono.max(self.seen));
        match (day(now.wall), self.count.day) {
            (Some(today), Some(counted)) if today > counted => self.renew(Some(today)),
            (Some(today), Some(counted)) if today == counted => {}
            (Some(today), None) => self.count.day = Some(today),
            (today, _) if self.count.ran_ms >= DAY_MS => self.renew(today),
            _ => {}
        }
    }

    const fn renew(&mut self, day: Option<u32>) {
        self.count = BudgetKept { day, used: 0, ran_ms: 0 };
    }
}

/// The day, where the clock was ever set.
fn day(wall: Wall) -> Option<u32> {
    u32::try_from(wall.0 / DAY_MS).ok().filter(|day| *day >= DAY_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-01-01.
    const TODAY: u64 = 20_454;
    const HOUR: u64 = 3_600_000;

    fn at(mono_ms: u64, wall_ms: u64) -> Now {
        Now { mono: Mono(0).plus_ms(mono_ms), wall: Wall(wall_ms) }
    }

    /// A process that starts at this wall clock and whose clock is right.
    fn noon(ms: u64) -> Now {
        at(ms, TODAY * DAY_MS + DAY_MS / 2 + ms)
    }

    #[test]
    fn it_is_spent_for_the_rest_of_the_day_and_there_again_at_midnight() {
        let mut budget = Budget::new(noon(0), 1_000, None);
        budget.spend(noon(5), 400);
        assert_eq!((budget.left(noon(5)), budget.used()), (600, Some(400)));
        budget.spend(noon(10), 700);
        assert_eq!((budget.left(noon(10)), budget.used()), (0, Some(1_100)));
        assert_eq!(budget.wait_ms(noon(10)), 60_000);
        assert_eq!(budget.wait_ms(noon(12 * HOUR - 5)), 5);
        assert_eq!((budget.left(noon(12 * HOUR - 1)), budget.left(noon(12 * HOUR))), (0, 1_000));
        let mut none = Budget::new(noon(0), 0, None);
        none.spend(noon(0), u64::MAX);
        assert_eq!((none.left(noon(0)), none.used(), none.keep(noon(HOUR))), (u64::MAX, None, None));
    }

    #[test]
    fn a_restart_gives_nothing_back() {
        let mut budget = Budget::new(noon(0), 1_000, None);
        budget.spend(noon(5), 400);
        let mut next = Budget::new(noon(HOUR), 1_000, Some(budget.to_keep()));
        assert_eq!(next.left(noon(HOUR)), 600);
        // Nor does one whose clock begins in 1970 until it is set to the same day.
        let mut next = Budget::new(at(0, 5_000), 1_000, Some(budget.to_keep()));
        assert_eq!(next.left(at(0, 5_000)), 600);
        next.spend(at(0, 5_000), 100);
        assert_eq!(next.left(noon(HOUR)), 500);
        // The day after it does.
        assert_eq!(Budget::new(noon(DAY_MS), 1_000, Some(budget.to_keep())).left(noon(DAY_MS)), 1_000);
    }

    #[test]
    fn a_clock_that_was_never_set_counts_24_hours_of_running_through_restarts() {
        let mut budget = Budget::new(at(0, 0), 1_000, None);
        budget.spend(at(0, 0), 2_000);
        assert_eq!(budget.left(at(13 * HOUR, 13 * HOUR)), 0);
        let kept = budget.to_keep();
        let mut next = Budget::new(at(0, 0), 1_000, Some(kept));
        assert_eq!(next.left(at(11 * HOUR - 1, 0)), 0);
        assert!(next.wait_ms(at(11 * HOUR - 1, 0)) <= 2);
        assert_eq!(next.left(at(11 * HOUR, 0)), 1_000);
        // And then the clock is set: what was used counts towards the day.
        next.spend(at(12 * HOUR, 0), 300);
        assert_eq!(next.left(at(12 * HOUR, TODAY * DAY_MS)), 700);
        assert_eq!(next.left(at(13 * HOUR, (TODAY + 1) * DAY_MS)), 1_000);
    }

    #[test]
    fn a_clock_set_back_refills_nothing_and_locks_nothing_for_longer_than_a_day() {
        let year = 365 * DAY_MS;
        let ahead = at(0, TODAY * DAY_MS + year);
        let mut budget = Budget::new(ahead, 1_000, None);
        budget.spend(ahead, 1_000);
        let back = |ms: u64| at(ms, TODAY * DAY_MS + ms);
        assert_eq!(budget.left(back(1)), 0);
        assert_eq!(budget.left(back(DAY_MS - 1)), 0, "even though a midnight passed on that clock");
        assert_eq!(budget.left(back(DAY_MS)), 1_000);
        // From then on that clock's days count.
        budget.spend(back(DAY_MS), 1_000);
        assert_eq!((budget.left(back(2 * DAY_MS - 1)), budget.left(back(2 * DAY_MS))), (0, 1_000));
        // To and fro over midnight is one new day, not many.
        let mut budget = Budget::new(back(0), 1_000, None);
        for i in 0..100 {
            let now = at(i, (TODAY + i % 2) * DAY_MS);
            let left = budget.left(now);
            budget.spend(now, left);
        }
        assert_eq!(budget.left(back(200)), 0);
    }

    #[test]
    fn it_is_kept_each_hundredth_each_minute_and_each_day_but_not_more_often_than_each_second() {
        let mut budget = Budget::new(noon(0), 100_000, None);
        assert_eq!(budget.keep(noon(5_000)), None, "nothing was used");
        budget.spend(noon(5_000), 10);
        assert_eq!(budget.keep(noon(6_000)), None);
        assert_eq!(budget.keep(noon(60_000)).map(|kept| kept.used), Some(10));
        assert_eq!(budget.keep(noon(120_000)).map(|kept| kept.used), Some(10), "the time that ran is kept, too");
        budget.spend(noon(120_000), 1_001);
        assert_eq!(budget.keep(noon(120_500)), None);
        assert_eq!(budget.keep(noon(121_000)).map(|kept| kept.used), Some(1_011));
        assert!(budget.keep(noon(12 * HOUR)).is_some_and(|kept| kept.used == 0));
        // However small the budget and fast the link.
        let mut budget = Budget::new(noon(0), 1, None);
        let kept = (0..10_000).filter(|ms| {
            budget.spend(noon(*ms), 10_000);
            budget.keep(noon(*ms)).is_some()
        });
        assert!(kept.count() <= 10);
    }

    #[test]
    fn whatever_was_kept_is_taken() {
        for kept in [
            BudgetKept { day: Some(u32::MAX), used: u64::MAX, ran_ms: u64::MAX },
            BudgetKept { day: Some(0), used: u64::MAX, ran_ms: 0 },
            BudgetKept { day: None, used: u64::MAX, ran_ms: u64::MAX },
        ] {
            let mut budget = Budget::new(noon(0), 1_000, Some(kept));
            budget.spend(noon(0), u64::MAX);
            assert_eq!(budget.left(noon(2 * DAY_MS)), 1_000, "{kept:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_clock_does_in_a_day_of_running_only_days_above_all_before_give_bytes_anew(
            steps in prop::collection::vec((0u64..DAY_MS / 200, 0u64..40, prop::bool::ANY), 1..200),
        ) {
            let max = 1_000;
            let mut budget = Budget::new(at(0, 0), max, None);
            let (mut mono, mut spent, mut highest, mut allowed) = (0, 0u64, None, max);
            for (ms, day, restart) in steps {
                // Below 5 the clock is not set.
                mono = if restart { 0 } else { mono + ms };
                let now = at(mono, if day < 5 { mono } else { (TODAY + day) * DAY_MS });
                if restart {
                    let kept: BudgetKept = postcard::from_bytes(&postcard::to_stdvec(&budget.to_keep()).unwrap()).unwrap();
                    budget = Budget::new(now, max, Some(kept));
                }
                if day >= 5 && highest.is_none_or(|highest| day > highest) {
                    // The first day that the clock tells gives nothing: what was used before counts towards it.
                    allowed += if highest.is_some() { max } else { 0 };
                    highest = Some(day);
                }
                let left = budget.left(now);
                budget.spend(now, left);
                spent += left;
                prop_assert!(spent == allowed, "{spent} of {allowed}");
            }
        }

        #[test]
        fn it_never_stays_spent_for_longer_than_two_days_of_running(
            start in 0u64..60_000 * DAY_MS,
            jumps in prop::collection::vec((0u64..3 * HOUR, 0u64..60_000 * DAY_MS), 1..20),
        ) {
            let mut budget = Budget::new(at(0, start), 1_000, None);
            let mut mono = 0;
            for (ms, wall) in jumps {
                mono += ms;
                let now = at(mono, wall);
                budget.spend(now, 1_000);
            }
            let wall = (TODAY + 3) * DAY_MS;
            prop_assert!(budget.left(at(mono + DAY_MS, wall)) > 0 || budget.left(at(mono + 2 * DAY_MS, wall + DAY_MS)) > 0);
        }
    }
}
