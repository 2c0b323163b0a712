//! The one place of the client that reads clocks and randomness.
#![allow(clippy::disallowed_methods, reason = "a program that uses the client has no daemon to tell it the time")]

use super::error::ClientError;
use crate::model::MessageId;
use crate::seal::{Algorithm, Sealer, SealingKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

/// Monotonic milliseconds since the first call in this process.
#[expect(clippy::disallowed_methods, reason = "a program that uses the client has no runtime room")]
pub(super) fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// Milliseconds since 1970 by the system's clock, 0 before.
#[expect(clippy::disallowed_methods, reason = "a program that uses the client has no runtime room")]
pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// A number from 0 to 1, for jitter.
pub(super) fn jitter() -> f64 {
    fastrand::f64()
}

/// What seals payloads with a key, for as long as the program runs: make one of it and share it.
///
/// # Errors
/// [`ClientError::Entropy`].
pub fn sealer(key: SealingKey, algorithm: Algorithm) -> Result<Sealer, ClientError> {
    let mut entropy = [0; 16];
    SystemRandom::new().fill(&mut entropy).map_err(|_| ClientError::Entropy)?;
    Ok(Sealer::new(key, algorithm, entropy))
}

/// Makes ULIDs that only grow: within a millisecond, and when the clock steps back, the random part counts up.
#[derive(Debug, Default)]
pub(super) struct Ids {
    ms: u64,
    random: u128,
}

impl Ids {
    const RANDOM_BITS: u32 = 80;

    pub(super) fn next(&mut self, unix_ms: u64) -> MessageId {
        if unix_ms > self.ms {
            self.ms = unix_ms;
            // The top bit stays clear, so that counting up within a millisecond cannot overflow.
            self.random = fastrand::u128(..) >> (128 - Self::RANDOM_BITS + 1);
        } else {
            self.random += 1;
        }
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&self.random.to_be_bytes()[6..]);
        MessageId::from_parts(self.ms, bytes)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_only_grow_even_when_the_clock_steps_back() {
        let mut ids = super::Ids::default();
        let made: Vec<_> = [5, 5, 5, 3, 6, 6].map(|ms| ids.next(ms)).into();
        assert!(made.is_sorted_by(|a, b| a < b), "{made:?}");
    }
}
