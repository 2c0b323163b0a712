//! The machine's clocks.

use crate::model::{Mono, Now, Wall};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

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

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the one place")]
mod tests {
    use super::*;

    #[test]
    fn mono_moves_forward() {
        let before = mono();
        let at = before.plus_ms(1);
        while mono() < at {
            std::hint::spin_loop();
        }
        assert!(mono() >= at && wall().0 > 0);
    }
}
