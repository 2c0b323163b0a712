//! What the fuzzer chooses from. Small numbers select among what exists, so that most inputs say something sensible.

use arbitrary::Arbitrary;

/// One step.
#[derive(Arbitrary, Debug)]
pub enum Op {
    Connect {
        admin: bool,
    },
    /// The connection breaks.
    Disconnect(u8),
    /// Bytes that are no frame of ours.
    Raw(u8, Vec<u8>),
    /// A frame.
    Send(u8, Frame),
    /// A frame in which a byte is changed, and perhaps a checksum that fits again.
    Mangle {
        client: u8,
        frame: Frame,
        at: u16,
        xor: u8,
        reseal: bool,
    },
    /// Of what the client sends, only so many bytes arrive at a time from here on; 0 is all.
    Trickle(u8, u8),
    /// The client takes what it is sent, or no longer.
    Reads(u8, bool),
    /// Milliseconds pass.
    Pass(u16),
    /// The wall clock jumps ahead by so many seconds.
    Jump(u32),
    /// Commits (of the disk) and reads wait until told, or no longer.
    Hold {
        commits: bool,
        reads: bool,
    },
    /// The oldest commit that waits is done.
    Commit,
    /// A read that waits is done, well or not.
    Read {
        which: u8,
        fails: bool,
    },
    /// The disk fails: the commit under way, if there is one, is kept or not.
    Fail {
        full: bool,
        kept: bool,
    },
    Reopen,
    Disk {
        free_mib: u8,
    },
    Reload(Limits),
    /// The power goes and comes back: what was under way is kept or not.
    Cut {
        kept: bool,
    },
    Stop,
}

/// What a reload changes.
#[derive(Arbitrary, Debug)]
pub struct Limits {
    pub tiny_queues: bool,
    pub without_queue: bool,
    pub without_dedupe: bool,
}

/// A frame of a client.
#[derive(Arbitrary, Debug)]
pub enum Frame {
    Publish {
        stream: u8,
        number: Number,
        message: Message,
    },
    Batch {
        stream: u8,
        number: Number,
        messages: Vec<Message>,
    },
    Subscribe {
        stream: u8,
        filter: u8,
        retained: bool,
        since: Since,
        respond: bool,
        disconnect: bool,
    },
    Unsubscribe {
        stream: u8,
    },
    Consume {
        stream: u8,
        queue: u8,
        name: u8,
        start: Since,
        window: u8,
        attempts: u8,
        ack_timeout: bool,
        filters: Vec<u8>,
        credit: u8,
    },
    Ack {
        stream: u8,
        back: u8,
        count: u8,
    },
    Nack {
        stream: u8,
        back: u8,
        count: u8,
        delay_ms: u8,
        give_up: bool,
    },
    Credit {
        stream: u8,
        messages: u8,
        bytes: u32,
    },
    Pause {
        stream: u8,
    },
    Resume {
        stream: u8,
    },
    History {
        stream: u8,
        channel: u8,
        since: Since,
        limit: u8,
    },
    Request {
        stream: u8,
        channel: u8,
        deadline_ms: u16,
        len: u16,
    },
    Response {
        stream: u32,
        status: u8,
        last: bool,
        len: u16,
    },
    Cancel {
        stream: u32,
    },
    Ping(u64),
    Pong(u64),
    Hello {
        small: bool,
    },
    Close,
}

/// The number of a publish.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Number {
    Next,
    /// What the last refusal asks for.
    Resume,
    Off(i8),
}

/// A message.
#[derive(Arbitrary, Debug)]
pub struct Message {
    pub channel: u8,
    pub len: u16,
    pub id: u8,
    pub priority: u8,
    pub retain: bool,
    pub ttl: bool,
    pub delay: bool,
    pub contract: u8,
}

/// Where history or a consumer begins.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Since {
    Now,
    Last(u8),
    /// An offset of the epoch that was seen last.
    Offset(u8),
    Time(u32),
}

impl Op {
    /// Which client it concerns.
    pub fn client(&self) -> Option<u8> {
        match self {
            Self::Disconnect(c) | Self::Raw(c, _) | Self::Send(c, _) | Self::Trickle(c, _) | Self::Reads(c, _) => {
                Some(*c)
            }
            Self::Mangle { client, .. } => Some(*client),
            _ => None,
        }
    }
}
