//! When things are to happen, and how often: backoff, due times, token buckets; pure.

mod bucket;
mod clock;
mod due;
mod gate;
mod leaps;

pub use bucket::{Bucket, Rate};
pub use clock::SteadyWall;
pub use due::Due;
pub use gate::Gate;
pub use leaps::{LEAP_BETWEEN_RUNS_MS_MIN, LEAP_MS_MIN, LEAPS_MAX, Leap, Leaps};

/// Delay before retry number `attempt` (0 is the first), in milliseconds: `base` doubled each time up to `max`, of which
/// `jitter` (0 to 1) picks between half and all.
#[must_use]
pub fn backoff_ms(base: u32, max: u32, attempt: u32, jitter: f64) -> u64 {
    let full = u64::from(base).saturating_mul(1u64.checked_shl(attempt.min(32)).unwrap_or(u64::MAX));
    let full = full.min(u64::from(max)).max(1);
    let half = full / 2;
    half + ((full - half) as f64 * jitter.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_bound_with_jitter_between_half_and_all() {
        assert_eq!((0..5).map(|n| backoff_ms(100, 500, n, 1.0)).collect::<Vec<_>>(), [100, 200, 400, 500, 500]);
        assert_eq!(backoff_ms(100, 500, 0, 0.0), 50);
        assert_eq!(backoff_ms(0, 0, 0, 1.0), 1);
        assert_eq!(backoff_ms(1_000, 60_000, u32::MAX, 1.0), 60_000);
    }
}
