//! A wall clock that never runs back, made of one that may.

use crate::model::{Mono, Wall};

/// While it is ahead of the machine's clock, the steady clock runs slower by one part in this many, until the machine's
/// has caught up: a lead of one hour is gone after sixteen.
const SLOWER_SHARE: u64 = 16;

/// Turns the machine's wall clock into one that never decreases.
///
/// A jump forward is followed. After a jump back (or a start before the persisted floor, as on a box without RTC) it goes
/// on from where it was by monotonic progress, a little slower than real time, until the machine's clock has caught up.
#[derive(Clone, Copy, Debug)]
pub struct SteadyWall {
    /// Last value given, and nothing lower is ever given again.
    last: Wall,
    /// Where the clock was last in step: after that point it counts monotonic time.
    anchor: Option<(Mono, Wall)>,
}

impl SteadyWall {
    /// A clock that gives nothing below `floor`, the last time known from an earlier run.
    #[must_use]
    pub const fn new(floor: Wall) -> Self {
        Self { last: floor, anchor: None }
    }

    /// Nothing below `floor` is given from now on.
    pub fn raise(&mut self, floor: Wall) {
        if floor > self.last {
            (self.last, self.anchor) = (floor, None);
        }
    }

    /// The steady time for this monotonic time and this reading of the machine's wall clock.
    pub fn at(&mut self, mono: Mono, raw: Wall) -> Wall {
        if raw >= self.last {
            let counted = self.anchor.map_or(self.last, |anchor| counted(anchor, mono));
            if raw >= counted {
                self.anchor = None;
                self.last = raw;
                return raw;
            }
        }
        let anchor = *self.anchor.get_or_insert((mono, self.last));
        self.last = self.last.max(counted(anchor, mono));
        self.last
    }

    /// How far this clock is ahead of a reading of the machine's, in milliseconds.
    #[must_use]
    pub const fn lead_ms(&self, raw: Wall) -> u64 {
        self.last.ms_since(raw)
    }
}

const fn counted(anchor: (Mono, Wall), mono: Mono) -> Wall {
    let elapsed_us = mono.0.saturating_sub(anchor.0.0);
    anchor.1.plus_ms((elapsed_us - elapsed_us / SLOWER_SHARE) / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn at_ms(clock: &mut SteadyWall, mono_ms: u64, raw_ms: u64) -> u64 {
        clock.at(Mono(mono_ms * 1_000), Wall(raw_ms)).0
    }

    #[test]
    fn a_well_behaved_clock_passes_through() {
        let mut clock = SteadyWall::new(Wall(0));
        for i in 0..1_000 {
            // Slower and faster than monotonic time by what NTP may slew.
            assert_eq!(at_ms(&mut clock, i * 10, 5_000 + i * 9), 5_000 + i * 9);
        }
    }

    #[test]
    fn a_jump_forward_is_followed() {
        let mut clock = SteadyWall::new(Wall(0));
        assert_eq!(at_ms(&mut clock, 0, 7), 7);
        assert_eq!(at_ms(&mut clock, 10, 50 * HOUR_MS), 50 * HOUR_MS);
        assert_eq!(at_ms(&mut clock, 20, 50 * HOUR_MS + 10), 50 * HOUR_MS + 10);
    }

    #[test]
    fn a_jump_back_goes_on_by_monotonic_time_and_meets_the_machine_again() {
        let mut clock = SteadyWall::new(Wall(0));
        let start = 100 * HOUR_MS;
        assert_eq!(at_ms(&mut clock, 0, start), start);
        // One hour back: the first reading does not move, then it counts 15/16 of the time that passes.
        assert_eq!(at_ms(&mut clock, 1_000, start - HOUR_MS), start);
        assert_eq!(at_ms(&mut clock, 17_000, start - HOUR_MS + 16_000), start + 15_000);
        assert_eq!(clock.lead_ms(Wall(start - HOUR_MS + 16_000)), HOUR_MS - 1_000);
        // Sixteen hours later the lead is gone and the machine's clock is followed to the millisecond.
        let later = 17 * HOUR_MS;
        assert_eq!(at_ms(&mut clock, later, start - HOUR_MS + later), start - HOUR_MS + later);
    }

    #[test]
    fn a_box_without_rtc_starts_at_the_floor() {
        let mut clock = SteadyWall::new(Wall(100 * HOUR_MS));
        assert_eq!(at_ms(&mut clock, 0, 3_000), 100 * HOUR_MS);
        assert_eq!(at_ms(&mut clock, 16_000, 19_000), 100 * HOUR_MS + 15_000);
        // Then NTP arrives.
        assert_eq!(at_ms(&mut clock, 17_000, 200 * HOUR_MS), 200 * HOUR_MS);
    }

    proptest::proptest! {
        #[test]
        fn it_never_runs_back_and_never_falls_behind(
            floor in 0u64..10_000_000,
            steps in proptest::collection::vec((0u64..10_000_000, 0u64..20_000_000), 1..200),
        ) {
            let mut clock = SteadyWall::new(Wall(floor));
            let (mut mono, mut last) = (0, floor);
            for (step_us, raw) in steps {
                mono += step_us;
                let now = clock.at(Mono(mono), Wall(raw)).0;
                proptest::prop_assert!(now >= last && now >= raw);
                // Beyond the machine's clock it moves no faster than time does.
                proptest::prop_assert!(now <= raw.max(last + step_us / 1_000 + 1));
                last = now;
            }
        }
    }
}
