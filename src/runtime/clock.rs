//! The machine's clocks.

use crate::model::{Mono, Now, Wall};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

#[expect(clippy::disallowed_methods, reason = "the one place")]
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Microseconds since the process first asked.
#[must_use]
pub fn mono() -> Mono {
    Mono(u64::try_from(start().elapsed().as_micros()).unwrap_or(u64::MAX))
}

/// The machine's wall clock as it stands: it may jump. 0 before 1970.
#[expect(clippy::disallowed_methods, reason = "the one place")]
#[must_use]
pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Both clocks as they stand.
#[must_use]
pub fn now() -> Now {
    Now { mono: mono(), wall: wall() }
}

/// The instant to hand to a timer so that it fires when [`mono`] reads `at`; a century ahead at most.
#[must_use]
pub fn instant(at: Mono) -> Instant {
    const CENTURY_US: u64 = 100 * 365 * 24 * 3_600 * 1_000_000;
    start() + Duration::from_micros(at.0.min(CENTURY_US))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the one place")]
mod tests {
    use super::*;

    #[test]
    fn mono_moves_forward_and_instants_agree() {
        let before = mono();
        let at = before.plus_ms(1);
        while Instant::now() < instant(at) {
            std::hint::spin_loop();
        }
        assert!(mono() >= at);
        assert!(wall().0 > 0);
        assert!(instant(Mono(u64::MAX)) > Instant::now());
    }
}
