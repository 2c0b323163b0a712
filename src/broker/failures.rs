//! Failed logins by source: after some, each next waits, longer each time.

use super::login::Source;
use crate::model::Mono;
use hashbrown::HashMap;

/// Sources remembered; beyond it the one that failed longest ago is forgotten.
const SOURCES_MAX: usize = 4_096;
/// Milliseconds without a failure after which a source is as new.
const FORGET_MS: u64 = 600_000;
/// First and longest wait, in milliseconds.
const WAIT_MS: (u64, u64) = (1_000, 60_000);

/// Who failed, how often, and until when it waits.
#[derive(Default)]
pub(super) struct Failures(HashMap<Source, Failed>);

struct Failed {
    count: u32,
    last: Mono,
    until: Mono,
}

impl Failures {
    /// Milliseconds that a source has to wait before it may try again; 0 when it may now.
    pub(super) fn wait_ms(&self, source: Source, now: Mono) -> u32 {
        let wait = self.0.get(&source).map_or(0, |failed| failed.until.0.saturating_sub(now.0).div_ceil(1_000));
        u32::try_from(wait).unwrap_or(u32::MAX)
    }

    /// A login failed. `free` failures cost nothing; 0 is no limit.
    pub(super) fn failed(&mut self, source: Source, now: Mono, free: u32) {
        if free == 0 {
            return;
        }
        if self.0.len() >= SOURCES_MAX && !self.0.contains_key(&source) {
            self.0.retain(|_, failed| now.ms_since(failed.last) < FORGET_MS);
            let oldest = self.0.iter().min_by_key(|(_, failed)| failed.last).map(|(source, _)| *source);
            if let Some(oldest) = oldest.filter(|_| self.0.len() >= SOURCES_MAX) {
                self.0.remove(&oldest);
            }
        }
        let failed = self.0.entry(source).or_insert(Failed { count: 0, last: now, until: now });
        if now.ms_since(failed.last) >= FORGET_MS {
            failed.count = 0;
        }
        failed.count = failed.count.saturating_add(1);
        failed.last = now;
        if let Some(over) = failed.count.checked_sub(free) {
            failed.until = now.plus_ms((WAIT_MS.0 << over.min(16)).min(WAIT_MS.1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_beyond_the_free_ones_doubles_the_wait_up_to_a_minute() {
        let mut failures = Failures::default();
        let (mine, other) = (Source::User(1), Source::User(2));
        let mut now = Mono(0);
        let mut waits = Vec::new();
        for _ in 0..10 {
            failures.failed(mine, now, 3);
            waits.push(failures.wait_ms(mine, now));
            now = now.plus_ms(60_000);
            assert_eq!(failures.wait_ms(mine, now), 0);
        }
        assert_eq!(waits, [0, 0, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(failures.wait_ms(other, now), 0);
        failures.failed(mine, now.plus_ms(FORGET_MS), 3);
        assert_eq!(failures.wait_ms(mine, now.plus_ms(FORGET_MS)), 0, "long ago is forgotten");
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut failures = Failures::default();
        for user in 0..3 * SOURCES_MAX as u32 {
            failures.failed(Source::User(user), Mono(u64::from(user)), 1);
        }
        assert_eq!(failures.0.len(), SOURCES_MAX);
        assert!(failures.0.contains_key(&Source::User(3 * SOURCES_MAX as u32 - 1)));
        assert!(!failures.0.contains_key(&Source::User(0)));
    }
}
