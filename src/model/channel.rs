//! Channels and filters: MQTT 3.1.1 §4.7 syntax and matching, bounded in bytes and levels.

use super::limits::{CHANNEL_BYTES_MAX, CHANNEL_LEVELS_MAX};
use core::fmt;

/// A valid channel to publish on: 1 to 1,024 bytes, at most 128 levels, no NUL, no wildcard. Empty levels are legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel<'a>(&'a str);

/// A valid filter: a channel in which `+` may stand for one level and a final `#` for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter<'a>(&'a str);

/// Why a text is not a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// Zero bytes long.
    Empty,
    /// Longer than [`CHANNEL_BYTES_MAX`].
    TooLong(usize),
    /// More levels than [`CHANNEL_LEVELS_MAX`].
    TooManyLevels(usize),
    /// Contains U+0000.
    Nul,
    /// Contains `+` or `#`, which only filters may.
    Wildcard,
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the channel is empty"),
            Self::TooLong(n) => write!(f, "the channel has {n} bytes; at most {CHANNEL_BYTES_MAX} are allowed"),
            Self::TooManyLevels(n) => {
                write!(f, "the channel has {n} levels; at most {CHANNEL_LEVELS_MAX} are allowed")
            }
            Self::Nul => write!(f, "the channel contains a NUL character"),
            Self::Wildcard => write!(f, "the channel contains + or #, which only a filter may"),
        }
    }
}

impl core::error::Error for ChannelError {}

/// Why a text is not a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// What would be wrong with a channel, too.
    Channel(ChannelError),
    /// `+` that is not alone in its level.
    PlusNotAlone,
    /// `#` that is not alone in the last level.
    HashNotLast,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(e) => write!(f, "not a filter: {e}"),
            Self::PlusNotAlone => write!(f, "not a filter: + must stand alone between slashes"),
            Self::HashNotLast => write!(f, "not a filter: # must stand alone in the last level"),
        }
    }
}

impl core::error::Error for FilterError {}

fn check_common(text: &str) -> Result<(), ChannelError> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(ChannelError::Empty);
    }
    if bytes.len() > CHANNEL_BYTES_MAX {
        return Err(ChannelError::TooLong(bytes.len()));
    }
    let mut levels = 1;
    for &b in bytes {
        match b {
            0 => return Err(ChannelError::Nul),
            b'/' => levels += 1,
            _ => {}
        }
    }
    if levels > CHANNEL_LEVELS_MAX {
        return Err(ChannelError::TooManyLevels(levels));
    }
    Ok(())
}

impl<'a> Channel<'a> {
    /// Checks a text.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &'a str) -> Result<Self, ChannelError> {
        check_common(text)?;
        if text.bytes().any(|b| b == b'+' || b == b'#') {
            return Err(ChannelError::Wildcard);
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether the first level begins with `$`: the broker's own space, which wildcards at the first level skip.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        self.0.starts_with('$')
    }
}

impl fmt::Display for Channel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<'a> Filter<'a> {
    /// Checks a text.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &'a str) -> Result<Self, FilterError> {
        check_common(text).map_err(FilterError::Channel)?;
        let mut rest = text.split('/').peekable();
        while let Some(level) = rest.next() {
            if level.contains('#') && (level != "#" || rest.peek().is_some()) {
                return Err(FilterError::HashNotLast);
            }
            if level.contains('+') && level != "+" {
                return Err(FilterError::PlusNotAlone);
            }
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The channel this filter names, when it has no wildcard.
    #[must_use]
    pub fn literal(self) -> Option<Channel<'a>> {
        Channel::parse(self.0).ok()
    }

    /// Whether a channel matches (MQTT 3.1.1 §4.7.1 and §4.7.2: `a/#` matches `a`; a wildcard in the first level does
    /// not match a channel that begins with `$`).
    #[must_use]
    pub fn matches(self, channel: Channel<'_>) -> bool {
        if channel.is_reserved() && (self.0.starts_with('+') || self.0.starts_with('#')) {
            return false;
        }
        let mut levels = channel.0.split('/');
        let mut pattern = self.0.split('/');
        loop {
            match (pattern.next(), levels.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(p), Some(l)) if p == l => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Filter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, channel: &str) -> bool {
        Filter::parse(filter).expect("filter").matches(Channel::parse(channel).expect("channel"))
    }

    #[test]
    fn filters_match_as_in_mqtt() {
        for (filter, channel, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("a/+/c", "a/b/c", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "a/b", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "$broker/x", false),
            ("+/x", "$broker/x", false),
            ("$broker/#", "$broker/x", true),
        ] {
            assert_eq!(matches(filter, channel), expected, "{filter} against {channel}");
        }
    }

    #[test]
    fn wrong_channels_and_filters_say_why() {
        assert_eq!(Channel::parse(""), Err(ChannelError::Empty));
        assert_eq!(Channel::parse("a/+"), Err(ChannelError::Wildcard));
        assert_eq!(Channel::parse("a\0"), Err(ChannelError::Nul));
        let text = [b'x'; 1_025];
        let text = core::str::from_utf8(&text).expect("ascii");
        assert_eq!(Channel::parse(text), Err(ChannelError::TooLong(1_025)));
        assert!(Channel::parse(&text[..1_024]).is_ok());
        let slashes = [b'/'; 128];
        let slashes = core::str::from_utf8(&slashes).expect("ascii");
        assert_eq!(Channel::parse(slashes), Err(ChannelError::TooManyLevels(129)));
        assert!(Channel::parse(&slashes[..127]).is_ok());
        assert_eq!(Filter::parse("a/#/b"), Err(FilterError::HashNotLast));
        assert_eq!(Filter::parse("a#"), Err(FilterError::HashNotLast));
        assert_eq!(Filter::parse("a+/b"), Err(FilterError::PlusNotAlone));
    }
}
