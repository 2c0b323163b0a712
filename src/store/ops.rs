//! The operations of a batch: all that can ever be written.

use crate::model::{MountId, Position, Priority, QueueId};
use bytes::Bytes;

/// A queue, opened by its mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueKey {
    /// The mount.
    pub mount: MountId,
    /// The queue.
    pub queue: QueueId,
}

/// The tables of small rows. Keys and values are in `schema`; the number opens the key on disk and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// Format, clock, counters. Key: a name.
    Meta = 1,
    /// Queues: names, epochs, lanes. Key: mount, queue.
    Queue = 2,
    /// Closed extents of a lane. Key: mount, queue, lane, first sequence.
    Extent = 3,
    /// Consumers: positions, sparse acks, retries. Key: mount, queue, name.
    Consumer = 4,
    /// Ids taken by one commit. Key: mount, position.
    Dedupe = 5,
    /// Retained values. Key: mount, channel.
    Retained = 6,
    /// Channels with history: last offset and where it is. Key: mount, queue, channel.
    Channel = 7,
    /// Delayed messages. Key: mount, queue, due time, number.
    Delayed = 8,
    /// Documents of services (later). Key: mount, name.
    Document = 9,
    /// Delivery reports (later).
    Report = 10,
    /// What bridges need after a restart, and where those that came here stand. Key: a kind (one byte), and what that is by.
    Bridge = 11,
}

impl Table {
    /// The table with this number.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Meta,
            2 => Self::Queue,
            3 => Self::Extent,
            4 => Self::Consumer,
            5 => Self::Dedupe,
            6 => Self::Retained,
            7 => Self::Channel,
            8 => Self::Delayed,
            9 => Self::Document,
            10 => Self::Report,
            11 => Self::Bridge,
            _ => return None,
        })
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A block of messages at the end of a lane.
    Append {
        /// The queue.
        queue: QueueKey,
        /// The lane.
        lane: Priority,
        /// Sequence of the first message.
        first: u64,
        /// Number of messages.
        count: u32,
        /// The block, see `store::block`.
        block: Bytes,
    },
    /// A payload kept once for several queues; entries refer to it by number.
    Body {
        /// The mount.
        mount: MountId,
        /// Its number in the mount.
        body: u64,
        /// How many entries refer to it.
        refs: u32,
        /// The payload.
        bytes: Bytes,
    },
    /// Messages below this sequence are gone. The store deletes whole blocks when it sees fit; the batch must also put
    /// the queue's row with the new head, from which the trim is found again after a start.
    Trim {
        /// The queue.
        queue: QueueKey,
        /// The lane.
        lane: Priority,
        /// First sequence that stays.
        below: u64,
    },
    /// A consumer's progress: the whole row of [`Table::Consumer`].
    Ack {
        /// The queue.
        queue: QueueKey,
        /// The consumer's name.
        consumer: Box<str>,
        /// The encoded `schema::ConsumerRow`.
        progress: Bytes,
    },
    /// A row written over whatever stood there.
    Put {
        /// The table.
        table: Table,
        /// The key, without the table's byte.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// A row removed, if it is there. With a queue's row all blocks of the queue go, too; its other rows do not.
    Delete {
        /// The table.
        table: Table,
        /// The key.
        key: Bytes,
    },
    /// A row written only where its revision (the first eight bytes of the value, big-endian) is the expected one.
    CompareAndPut {
        /// The table.
        table: Table,
        /// The key.
        key: Bytes,
        /// The revision that must stand there; `None` means no row.
        expect: Option<u64>,
        /// The new value, beginning with its revision.
        value: Bytes,
        /// So many operations after this one take effect only if it does.
        then: u32,
    },
}

/// Operations that become durable together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Its number: one more than the last.
    pub position: Position,
    /// What to do, in order.
    pub ops: Vec<Op>,
}

impl Op {
    /// Rough size on disk, in bytes, for the bounds of a batch.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Append { block, .. } => 48 + block.len(),
            Self::Body { bytes, .. } => 48 + bytes.len(),
            Self::Trim { .. } => 32,
            Self::Ack { consumer, progress, .. } => 32 + consumer.len() + progress.len(),
            Self::Put { key, value, .. } | Self::CompareAndPut { key, value, .. } => 16 + key.len() + value.len(),
            Self::Delete { key, .. } => 16 + key.len(),
        }
    }
}
