//! Identifiers: newtypes that cannot be confused with one another.

use core::fmt;

/// A tenant's space: opens every key; never crossed. Mount 0 is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MountId(pub u32);

/// A queue inside its mount, numbered at creation and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u32);

/// One connection for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Number of a commit: strictly increasing over the life of a data folder, starting at 1; 0 is "nothing yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub u64);

/// Which store a queue lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Volume {
    /// The durable one.
    Disk,
    /// The one in memory.
    Memory,
}

/// A queue's incarnation: random, renewed at creation and at any loss that is not its tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Priority 0 (lowest) to 9 (highest): the lane of a queue a message travels in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// Highest priority.
    pub const MAX: Priority = Priority(9);

    /// The priority, or `None` above 9.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if value <= 9 { Some(Self(value)) } else { None }
    }

    /// The number, 0 to 9.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The lane's index, 0 to 9.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// 128-bit message id (a ULID by convention), scoped to the mount; all zero means "none, do not dedupe".
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub [u8; 16]);

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl MessageId {
    /// No id: the message is not deduplicated.
    pub const NONE: MessageId = MessageId([0; 16]);

    /// A ULID from a wall clock in milliseconds since 1970 (48 bits are kept) and 80 random bits.
    #[must_use]
    pub fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        Self(bytes)
    }

    /// Whether this is [`MessageId::NONE`].
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0 == [0; 16]
    }

    /// Reads the 26 characters of a ULID in Crockford's base 32, either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 26 || text[0] > b'7' {
            return None;
        }
        let mut value: u128 = 0;
        for &c in text {
            let digit = match c.to_ascii_uppercase() {
                b'O' => 0,
                b'I' | b'L' => 1,
                upper => CROCKFORD.iter().position(|&d| d == upper)?,
            };
            value = (value << 5) | digit as u128;
        }
        Some(Self(value.to_be_bytes()))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        for i in (0..26).rev() {
            let digit = (value >> (i * 5)) & 31;
            write!(f, "{}", CROCKFORD[digit as usize] as char)?;
        }
        Ok(())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
