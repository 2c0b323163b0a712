//! How fast it may go: caps a second, the slow beginning after an outage, and turns between streams by their weights.

use super::window::SHARE_FULL;
use crate::model::Mono;
use crate::schedule::{Bucket, Rate};
use std::collections::BTreeMap;

/// Milliseconds of a cap that may go at once.
const BURST_MS: u64 = 250;
/// Fewest bytes that may go at once, so that a small cap does not cut batches to pieces.
const BURST_BYTES_MIN: u64 = 1_024;
/// Least and most parts of [`SHARE_FULL`] a drain begins with.
const SHARE_START: (u32, u32) = (20, 200);

/// Most that may go a second; 0 is no cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Bytes.
    pub bytes: u64,
    /// Messages.
    pub messages: u32,
}

/// What goes to one upstream, in time.
#[derive(Clone, Debug)]
pub struct Pace {
    bytes: Capped,
    messages: Capped,
    ramp: Option<Ramp>,
}

#[derive(Clone, Copy, Debug)]
struct Ramp {
    from: Mono,
    us: u64,
    share: u32,
}

impl Pace {
    /// Everything may go that the caps allow.
    #[must_use]
    pub fn new(now: Mono, caps: Caps) -> Self {
        let mut pace = Self { bytes: Capped::none(), messages: Capped::none(), ramp: None };
        pace.set_caps(now, caps);
        pace
    }

    /// Other caps. What went before counts towards them.
    pub fn set_caps(&mut self, now: Mono, caps: Caps) {
        self.bytes.set(now, Rate::new(caps.bytes, burst(caps.bytes, BURST_BYTES_MIN)));
        let messages = u64::from(caps.messages);
        self.messages.set(now, Rate::new(messages, burst(messages, 1)));
    }

    /// A connection opened with a backlog: its drain reaches full speed within `ramp_ms`. `jitter` (0 to 1) decides how soon
    /// and from where, so that a thousand edges that return together do not come together.
    pub fn drain(&mut self, now: Mono, ramp_ms: u32, jitter: f64) {
        let jitter = jitter.clamp(0.0, 1.0);
        let us = u64::from(ramp_ms) * 1_000;
        let (low, high) = SHARE_START;
        let share = low + (f64::from(high - low) * jitter) as u32;
        // Between half of the time and all of it.
        let us = us - (us as f64 / 2.0 * jitter) as u64;
        self.ramp = (us > 0).then_some(Ramp { from: now, us, share });
    }

    /// Nothing waits any more, or the connection ended: there is nothing to hold back.
    pub fn drained(&mut self) {
        self.ramp = None;
    }

    /// Parts of [`SHARE_FULL`] of the window that may be used now, at least 1: all of them unless a drain began lately.
    #[must_use]
    pub fn share(&self, now: Mono) -> u32 {
        let Some(ramp) = self.ramp else { return SHARE_FULL };
        let gone = now.0.saturating_sub(ramp.from.0);
        if gone >= ramp.us {
            return SHARE_FULL;
        }
        let rest = u128::from(SHARE_FULL - ramp.share);
        ramp.share + (rest * u128::from(gone) / u128::from(ramp.us)) as u32
    }

    /// When the share is to be looked at again: a sixteenth of the ramp ahead; `None` when it is out of the way.
    #[must_use]
    pub fn share_changes(&self, now: Mono) -> Option<Mono> {
        let ramp = self.ramp?;
        let end = ramp.from.plus_us(ramp.us);
        (now < end).then(|| now.plus_us((ramp.us / 16).max(1_000)).min(end))
    }

    /// Microseconds until so much may go: 0 when it may now. Something larger than a quarter of a second of a cap goes alone
    /// and is paid off after it.
    #[must_use]
    pub fn wait_us(&self, now: Mono, messages: u32, bytes: u64) -> u64 {
        self.bytes.wait_us(now, bytes).max(self.messages.wait_us(now, u64::from(messages)))
    }

    /// So much goes.
    pub fn sent(&mut self, now: Mono, messages: u32, bytes: u64) {
        self.bytes.take(now, bytes);
        self.messages.take(now, u64::from(messages));
    }

    /// Messages that the cap allows at once: no batch should have more. `u32::MAX` without a cap.
    #[must_use]
    pub fn batch_messages(&self) -> u32 {
        u32::try_from(self.messages.burst).unwrap_or(u32::MAX)
    }

    /// Bytes that the cap allows at once: no batch should have more, unless one message has. `u64::MAX` without a cap.
    #[must_use]
    pub const fn batch_bytes(&self) -> u64 {
        self.bytes.burst
    }
}

fn burst(per_second: u64, min: u64) -> u64 {
    (per_second.saturating_mul(BURST_MS) / 1_000).max(min)
}

/// A bucket, where there is a cap.
#[derive(Clone, Copy, Debug)]
struct Capped {
    bucket: Option<(Rate, Bucket)>,
    burst: u64,
}

impl Capped {
    const fn none() -> Self {
        Self { bucket: None, burst: u64::MAX }
    }

    fn set(&mut self, now: Mono, rate: Option<Rate>) {
        self.bucket =
            rate.map(|rate| (rate, self.bucket.map_or_else(|| Bucket::full(rate, now), |(_, bucket)| bucket)));
        self.burst = rate.map_or(u64::MAX, |rate| rate.burst());
    }

    fn wait_us(&self, now: Mono, tokens: u64) -> u64 {
        self.bucket.map_or(0, |(rate, bucket)| bucket.wait_us(rate, now, tokens))
    }

    fn take(&mut self, now: Mono, tokens: u64) {
        if let Some((rate, bucket)) = &mut self.bucket {
            bucket.take(*rate, now, tokens);
        }
    }
}

/// Whose turn it is among streams, each a lane of a queue: what several have waiting is shared by weight, and one that had
/// nothing for a while does not wait behind another's backlog.
///
/// Each stream has a mark: bytes it was given by its weight. The lowest goes next, and who comes back starts at the present and
/// brings nothing saved up. Marks at the present are no different from none, so it remembers only who was served lately.
#[derive(Clone, Debug)]
pub struct Turns<K> {
    present: u64,
    marks: BTreeMap<K, u64>,
}

/// Parts of a byte in which marks count, so that weights up to 1,000 are told apart.
const PARTS: u64 = 1_024;
/// Marks begin anew beyond this: 2^44 bytes of the lowest weight.
const PRESENT_MAX: u64 = 1 << 54;

impl<K: Ord + Copy> Turns<K> {
    /// Nobody was served.
    #[must_use]
    pub const fn new() -> Self {
        Self { present: 0, marks: BTreeMap::new() }
    }

    /// Whose turn it is among those that have something that may go; of equals the first. `None` where there is none.
    pub fn next(&self, ready: impl IntoIterator<Item = K>) -> Option<K> {
        ready.into_iter().min_by_key(|key| self.start(key))
    }

    /// So many bytes of this one went. `weight` 0 counts as 1.
    pub fn took(&mut self, key: K, weight: u32, bytes: u64) {
        let start = self.start(&key);
        self.present = self.present.max(start);
        let cost = bytes.saturating_mul(PARTS) / u64::from(weight.max(1));
        self.marks.insert(key, start.saturating_add(cost.max(1)));
        let present = self.present;
        self.marks.retain(|_, mark| *mark > present);
        if self.present > PRESENT_MAX {
            self.present = 0;
            self.marks.values_mut().for_each(|mark| *mark = mark.saturating_sub(present));
        }
    }

    fn start(&self, key: &K) -> u64 {
        self.marks.get(key).copied().unwrap_or(0).max(self.present)
    }
}

impl<K: Ord + Copy> Default for Turns<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Mono {
        Mono(0).plus_ms(ms)
    }

    /// Sends messages of `size` as soon as they may, until `end`; how many went.
    fn drive(pace: &mut Pace, now: &mut Mono, end: Mono, size: u64) -> u64 {
        let mut sent = 0;
        loop {
            match pace.wait_us(*now, 1, size) {
                0 => {
                    pace.sent(*now, 1, size);
                    sent += 1;
                }
                wait => *now = now.plus_us(wait),
            }
            if *now >= end {
                return sent;
            }
        }
    }

    #[test]
    fn without_caps_everything_goes_at_once() {
        let mut pace = Pace::new(at(0), Caps::default());
        for _ in 0..1_000 {
            assert_eq!(pace.wait_us(at(0), u32::MAX, u64::MAX), 0);
            pace.sent(at(0), u32::MAX, u64::MAX);
        }
        assert_eq!((pace.batch_messages(), pace.batch_bytes()), (u32::MAX, u64::MAX));
    }

    #[test]
    fn in_an_hour_as_many_bytes_and_messages_go_as_the_caps_say() {
        for (caps, size, expected) in [
            (Caps { bytes: 10_000, messages: 0 }, 100, 360_000),
            (Caps { bytes: 0, messages: 7 }, 100, 25_200),
            (Caps { bytes: 10_000, messages: 7 }, 100, 25_200),
            (Caps { bytes: 1_000, messages: 7 }, 1_000, 3_600),
            (Caps { bytes: 1_000, messages: 0 }, 9_000, 400),
        ] {
            let mut pace = Pace::new(at(0), caps);
            let sent = drive(&mut pace, &mut at(0), at(3_600_000), size);
            assert!(sent >= expected - 1 && sent <= expected + expected / 1_000 + 1, "{caps:?}: {sent}");
        }
    }

    #[test]
    fn new_caps_hold_at_once_and_forgive_nothing() {
        let mut pace = Pace::new(at(0), Caps { bytes: 1_000, messages: 0 });
        pace.sent(at(0), 1, 11_024);
        assert_eq!(pace.wait_us(at(0), 1, 1_000), 11_000_000);
        pace.set_caps(at(0), Caps { bytes: 10_000, messages: 0 });
        assert_eq!(pace.wait_us(at(0), 1, 1_000), 1_100_000);
        pace.set_caps(at(0), Caps::default());
        assert_eq!(pace.wait_us(at(0), 1, 1_000), 0);
        pace.set_caps(at(0), Caps { bytes: 0, messages: 4 });
        assert_eq!((pace.batch_messages(), pace.wait_us(at(0), 1, 0)), (1, 0));
    }

    #[test]
    fn a_drain_begins_small_and_is_out_of_the_way_after_its_time() {
        for jitter in [-1.0, 0.0, 0.3, 1.0, 7.0, f64::NAN] {
            let mut pace = Pace::new(at(0), Caps::default());
            assert_eq!((pace.share(at(0)), pace.share_changes(at(0))), (SHARE_FULL, None));
            pace.drain(at(100), 2_000, jitter);
            assert!((20..=200).contains(&pace.share(at(100))), "{jitter}: {}", pace.share(at(100)));
            let shares: Vec<u32> = (0..=20).map(|i| pace.share(at(100 + i * 100))).collect();
            assert!(shares.windows(2).all(|pair| pair[0] <= pair[1]), "{shares:?}");
            assert!(shares[5] < 700 && shares[20] == SHARE_FULL, "{shares:?}");
            // Who looks when told so sees it grow, and is let go at the end.
            let (mut now, mut looks) = (at(100), 0);
            while let Some(next) = pace.share_changes(now) {
                assert!(next > now && pace.share(next) > pace.share(now));
                (now, looks) = (next, looks + 1);
            }
            assert!(pace.share(now) == SHARE_FULL && (10..20).contains(&looks), "{looks}");
        }
        let mut pace = Pace::new(at(0), Caps::default());
        pace.drain(at(0), 0, 0.5);
        assert_eq!(pace.share(at(0)), SHARE_FULL, "no time is no ramp");
        pace.drain(at(0), 1_000, 0.5);
        pace.drained();
        assert_eq!(pace.share(at(0)), SHARE_FULL);
    }

    #[test]
    fn jitter_spreads_those_that_come_back_together() {
        let shares: std::collections::BTreeSet<u32> = (0..100)
            .map(|i| {
                let mut pace = Pace::new(at(0), Caps::default());
                pace.drain(at(0), 2_000, f64::from(i) / 100.0);
                pace.share(at(500))
            })
            .collect();
        assert!(shares.len() > 80, "{}", shares.len());
    }

    #[test]
    fn what_several_have_waiting_is_shared_by_weight() {
        let mut turns = Turns::new();
        let weights = [1u32, 2, 5];
        let mut bytes = [0u64; 3];
        for _ in 0..8_000 {
            let key = turns.next(0..3usize).unwrap();
            turns.took(key, weights[key], 1_000);
            bytes[key] += 1_000;
        }
        assert_eq!(bytes, [1_000_000, 2_000_000, 5_000_000]);
    }

    #[test]
    fn a_fresh_message_does_not_wait_behind_a_backlog_and_brings_nothing_saved_up() {
        let mut turns = Turns::new();
        for _ in 0..1_000 {
            turns.took('b', 1, 1_000);
        }
        assert_eq!(turns.next(['b', 'f']), Some('f'));
        turns.took('f', 1, 1_000);
        let mut of_f = 0;
        for _ in 0..100 {
            let key = turns.next(['b', 'f']).unwrap();
            of_f += u32::from(key == 'f');
            turns.took(key, 1, 1_000);
        }
        assert!((49..=51).contains(&of_f), "{of_f}");
        assert_eq!(turns.next([]), None);
    }

    #[test]
    fn streams_that_come_and_go_leave_nothing_behind() {
        let mut turns = Turns::new();
        for i in 0..10_000u32 {
            turns.took(i, 1, 100);
            turns.took(i, 1, 100);
            assert!(turns.marks.len() <= 1, "{}", turns.marks.len());
        }
    }

    #[test]
    fn marks_that_grew_too_large_begin_anew_and_turns_go_on() {
        let mut turns = Turns { present: PRESENT_MAX - 10, marks: BTreeMap::new() };
        let mut bytes = [0u64; 2];
        for _ in 0..1_000 {
            let key = turns.next(0..2usize).unwrap();
            turns.took(key, 1, 1 << 20);
            bytes[key] += 1;
        }
        assert_eq!(bytes, [500, 500]);
        assert!(turns.present < PRESENT_MAX / 2);
        turns.took(0, 0, u64::MAX);
        turns.took(1, u32::MAX, u64::MAX);
        assert!(turns.next(0..2usize).is_some());
    }

    proptest! {
        #[test]
        fn nobody_who_has_something_is_passed_by_more_than_the_weights_and_a_batch_say(
            weights in prop::collection::vec(1u32..1_000, 2..12),
            sizes in prop::collection::vec(1u64..64_000, 50..400),
        ) {
            let mut turns = Turns::new();
            let n = weights.len();
            let mut given = vec![0u64; n];
            for size in sizes {
                let key = turns.next(0..n).unwrap();
                turns.took(key, weights[key], size);
                given[key] += size;
                // By weight no two differ by more than one batch of each.
                let by_weight: Vec<f64> = (0..n).map(|k| given[k] as f64 / f64::from(weights[k])).collect();
                for a in 0..n {
                    for b in 0..n {
                        let most = 64_000.0 / f64::from(weights[a]) + 64_000.0 / f64::from(weights[b]) + 1.0;
                        prop_assert!(by_weight[a] - by_weight[b] <= most, "{by_weight:?} {weights:?}");
                    }
                }
            }
        }
    }
}
