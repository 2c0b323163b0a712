//! Whose turn it is among lanes that share a link by weights: none is starved, and the heavy pass.
//!
//! Each lane has a time of its own, which goes on by the bytes it was given, divided by its weight. The lane whose time is the
//! least has its turn; of equals the highest. A lane that had nothing begins where the others are: it saves nothing up.

use crate::model::Priority;

/// One byte of a lane of weight 1, in its time.
const BYTE: u128 = 1 << 20;

/// Lanes and how far each is.
#[derive(Clone, Debug)]
pub struct Shares {
    weights: [u32; 10],
    times: [u128; 10],
    now: u128,
}

impl Shares {
    /// Weights of the lanes 0 to 9; where one is missing or 0 it is 1.
    #[must_use]
    pub fn new(weights: &[u32]) -> Self {
        let mut shares = Self { weights: [1; 10], times: [0; 10], now: 0 };
        shares.set(weights);
        shares
    }

    /// Other weights from now on.
    pub fn set(&mut self, weights: &[u32]) {
        for (i, weight) in self.weights.iter_mut().enumerate() {
            *weight = weights.get(i).copied().unwrap_or(1).max(1);
        }
    }

    /// The one of these lanes whose turn it is.
    pub fn choose(&mut self, ready: impl Iterator<Item = Priority>) -> Option<Priority> {
        let time = |lane: &Priority| (self.times[lane.index()].max(self.now), std::cmp::Reverse(*lane));
        let lane = ready.min_by_key(time)?;
        self.now = time(&lane).0;
        Some(lane)
    }

    /// A lane was given so many bytes.
    pub fn charge(&mut self, lane: Priority, bytes: u64) {
        let time = &mut self.times[lane.index()];
        *time = (*time).max(self.now).saturating_add(u128::from(bytes) * BYTE / u128::from(self.weights[lane.index()]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(n: u8) -> Priority {
        Priority::new(n).expect("below 10")
    }

    #[test]
    fn lanes_get_their_shares_and_none_is_starved() {
        let mut shares = Shares::new(&[1, 2, 4, 1, 1, 1, 1, 1, 1, 8]);
        let mut given = [0u64; 10];
        for _ in 0..15_000 {
            let lane = shares.choose([0, 1, 2, 9].map(p).into_iter()).expect("some");
            shares.charge(lane, 100);
            given[lane.index()] += 100;
        }
        assert_eq!([given[0], given[1], given[2], given[9]], [100_000, 200_000, 400_000, 800_000]);
    }

    #[test]
    fn an_alarm_passes_at_once_whatever_bulk_had_before_and_saves_nothing_up() {
        let mut shares = Shares::new(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 100]);
        for _ in 0..1_000 {
            assert_eq!(shares.choose([p(0)].into_iter()), Some(p(0)));
            shares.charge(p(0), 1_000);
        }
        for _ in 0..50 {
            assert_eq!(shares.choose([p(0), p(9)].into_iter()), Some(p(9)));
            shares.charge(p(9), 1_000);
        }
        let mut bulk = 0;
        for _ in 0..1_010 {
            let lane = shares.choose([p(0), p(9)].into_iter()).expect("some");
            shares.charge(lane, 1_000);
            bulk += u32::from(lane == p(0));
        }
        assert_eq!(bulk, 10);
        assert_eq!(shares.choose(std::iter::empty()), None);
    }
}
