//! Token buckets: so many a second and so many at once, counted in whole millionths of a token, so that nothing drifts.

use crate::model::Mono;

/// Millionths of a token: at one token a second, one of them comes each microsecond.
const PARTS: i64 = 1_000_000;
/// Most tokens at once: with them all arithmetic stays far inside 64 bits.
const BURST_MAX: u64 = 4_000_000_000_000;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// So many tokens a second, and so many at once (at least one, at most 4 · 10¹²). `None` where `per_second` is 0: that
    /// is no limit.
    #[must_use]
    pub fn new(per_second: u64, burst: u64) -> Option<Self> {
        (per_second > 0).then(|| Self { per_second: per_second.min(BURST_MAX), burst: burst.clamp(1, BURST_MAX) })
    }

    /// Tokens it allows at once.
    #[must_use]
    pub const fn burst(self) -> u64 {
        self.burst
    }
}

/// A bucket. What it may hold and how it fills is told with each question, so that a change takes effect at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Parts that were there at `at`; below 0 it owes.
    parts: i64,
    at: Mono,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn full(rate: Rate, now: Mono) -> Self {
        Self { parts: capacity(rate), at: now }
    }

    /// Microseconds until so many tokens may be taken: 0 when they may now. More than the bucket can hold may be taken from
    /// a full one.
    #[must_use]
    pub fn wait_us(&self, rate: Rate, now: Mono, tokens: u64) -> u64 {
        let need = parts(tokens.min(rate.burst));
        let missing = need.saturating_sub(self.parts_at(rate, now)).max(0) as u64;
        missing.div_ceil(rate.per_second)
    }

    /// Takes so many tokens, also where they are not there: then it owes them.
    pub fn take(&mut self, rate: Rate, now: Mono, tokens: u64) {
        self.parts = self.parts_at(rate, now).saturating_sub(parts(tokens.min(BURST_MAX)));
        self.at = self.at.max(now);
    }

    /// Whether nothing is missing: a new one would be no different.
    #[must_use]
    pub fn is_full(&self, rate: Rate, now: Mono) -> bool {
        self.parts_at(rate, now) >= capacity(rate)
    }

    fn parts_at(&self, rate: Rate, now: Mono) -> i64 {
        let us = now.0.saturating_sub(self.at.0);
        let came = us.saturating_mul(rate.per_second).min(i64::MAX as u64) as i64;
        self.parts.saturating_add(came).min(capacity(rate))
    }
}

fn capacity(rate: Rate) -> i64 {
    parts(rate.burst)
}

/// `tokens` is at most [`BURST_MAX`].
fn parts(tokens: u64) -> i64 {
    tokens as i64 * PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(per_second: u64, burst: u64) -> Rate {
        Rate::new(per_second, burst).expect("a limit")
    }

    /// Takes where it may.
    fn try_take(bucket: &mut Bucket, rate: Rate, now: Mono, tokens: u64) -> Result<(), u64> {
        match bucket.wait_us(rate, now, tokens) {
            0 => {
                bucket.take(rate, now, tokens);
                Ok(())
            }
            wait => Err(wait),
        }
    }

    #[test]
    fn so_many_at_once_then_so_many_a_second() {
        let rate = rate(10, 3);
        let mut b = Bucket::full(rate, Mono(5));
        let taken = (0..5).filter(|_| try_take(&mut b, rate, Mono(5), 1).is_ok()).count();
        assert_eq!((taken, b.wait_us(rate, Mono(5), 1)), (3, 100_000));
        assert_eq!(try_take(&mut b, rate, Mono(100_004), 1), Err(1));
        assert_eq!(try_take(&mut b, rate, Mono(100_005), 1), Ok(()));
        assert!(b.is_full(rate, Mono(400_005)) && !b.is_full(rate, Mono(400_004)));
    }

    #[test]
    fn what_is_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_off_after() {
        let rate = rate(1_000, 2_000);
        let mut b = Bucket::full(rate, Mono(0));
        assert_eq!(try_take(&mut b, rate, Mono(0), 10_000), Ok(()));
        assert_eq!(b.wait_us(rate, Mono(0), 1), 8_001_000);
        assert_eq!(b.wait_us(rate, Mono(0), 10_000), 10_000_000);
    }

    #[test]
    fn a_changed_rate_takes_effect_at_once_and_no_limit_is_none() {
        let (slow, fast) = (rate(1, 1), rate(1_000_000, 5));
        let mut b = Bucket::full(slow, Mono(0));
        b.take(slow, Mono(0), 1);
        assert_eq!((b.wait_us(slow, Mono(0), 1), b.wait_us(fast, Mono(0), 1)), (1_000_000, 1));
        assert_eq!(b.wait_us(fast, Mono(10), 5), 0);
        assert_eq!(Rate::new(0, 5), None);
    }

    #[test]
    fn years_and_absurd_rates_neither_overflow_nor_drift() {
        for rate in [rate(u64::MAX, u64::MAX), rate(1, u64::MAX), rate(u64::MAX, 1), rate(3, 7)] {
            let mut b = Bucket::full(rate, Mono(0));
            b.take(rate, Mono(u64::MAX), u64::MAX);
            assert!(b.wait_us(rate, Mono(u64::MAX), u64::MAX) > 0);
            for _ in 0..10 {
                b.take(rate, Mono(u64::MAX), u64::MAX);
            }
            assert!(!b.is_full(rate, Mono(u64::MAX)));
        }
        // Three a second, which no whole number of microseconds is, for a day: not one more and not one less.
        let rate = rate(3, 1);
        let mut b = Bucket::full(rate, Mono(0));
        let (mut now, mut taken) = (Mono(0), 0u64);
        let end = 86_400_000_000;
        while now.0 < end {
            match try_take(&mut b, rate, now, 1) {
                Ok(()) => taken += 1,
                Err(wait) => now.0 += wait,
            }
        }
        assert_eq!(taken, 1 + 3 * 86_400 - 1, "of a day, the last of which comes as it ends");
    }

    proptest! {
        #[test]
        fn the_wait_told_is_enough_and_not_a_microsecond_more(
            per_second in 1u64..2_000_000_000_000,
            burst in 1u64..2_000_000_000_000,
            steps in prop::collection::vec((0u64..5_000_000, 1u64..20_000_000), 1..50),
        ) {
            let rate = rate(per_second, burst);
            let mut b = Bucket::full(rate, Mono(0));
            let mut now = Mono(0);
            for (pause, tokens) in steps {
                now.0 += pause;
                let wait = b.wait_us(rate, now, tokens);
                if wait > 0 {
                    prop_assert!(b.wait_us(rate, Mono(now.0 + wait - 1), tokens) > 0);
                    now.0 += wait;
                }
                prop_assert_eq!(b.wait_us(rate, now, tokens), 0);
                b.take(rate, now, tokens);
            }
        }

        #[test]
        fn in_any_time_no_more_passes_than_the_burst_and_the_rate(
            per_second in 1u64..1_000_000,
            burst in 1u64..1_000_000,
            steps in prop::collection::vec((0u64..2_000_000, 1u64..100_000), 1..100),
        ) {
            let rate = rate(per_second, burst);
            let mut b = Bucket::full(rate, Mono(0));
            let (mut now, mut passed) = (Mono(0), 0u128);
            for (pause, tokens) in steps {
                now.0 += pause;
                let tokens = tokens.min(burst);
                if try_take(&mut b, rate, now, tokens).is_ok() {
                    passed += u128::from(tokens);
                }
                let most = u128::from(burst) * 1_000_000 + u128::from(now.0) * u128::from(per_second);
                prop_assert!(passed * 1_000_000 <= most);
            }
        }
    }
}
