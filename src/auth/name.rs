//! What a principal may be called: a name that stays one level of a channel, and one word of a log.

use crate::model::limits::NAME_BYTES_MAX;

/// What is expected of a name, for messages.
pub const NAME: &str = "1 to 128 printable ASCII characters without space, `/`, `+`, `#` and a `$` at the start";

/// Whether somebody may be called so. A name stands for a level in filters (`site/{client}/#`), so it must be no wildcard,
/// no two levels, and not the broker's own space.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && !text.starts_with('$')
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'+' | b'#'))
}

/// A text of somebody unknown, for a log: escaped, and not long.
pub(super) fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let mut out: String = text.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        out.push_str("...");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_level_and_no_wildcard() {
        for good in ["a", "sensor-7", "alice@example.org", "auth0|12", "a.b_c:d", "a$b", &"x".repeat(128)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a/b", "+", "a+b", "#", "$admin", "a b", "a\0", "a\n", "é", "\u{202e}a", &"x".repeat(129)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn what_is_shown_of_strangers_is_short_and_harmless() {
        assert_eq!(shown("a\n\"b"), "a\\n\\\"b");
        assert_eq!(shown(&"x".repeat(1_000)).len(), 67);
    }
}
