//! The store: one writing verb, `commit(batch)`, over redb on disk or a plain map in memory.
//!
//! The store knows rows, not rules. `broker` and `queue` decide what a publish or an ack means and say it in [`Op`]s;
//! the store makes a batch of them durable in one transaction and reads pages back.

mod apply;
pub mod block;
mod bodies;
mod check;
mod committer;
pub mod encoding;
mod errors;
pub mod file;
pub mod journal;
mod memory;
mod open;
mod ops;
mod overlay;
mod read;
mod redb;
mod redb_reader;
mod salvage;
pub mod schema;
#[doc(hidden)]
pub mod testing;
mod trims;

pub use self::journal::{JOURNAL_NAME, JournaledStore};
pub use self::redb::{OpenedFile, RedbStore};
pub use check::{Report, check, check_on};
pub use committer::{CommitEvent, Committer, Notify, Reopen};
pub use memory::MemoryStore;
pub use open::{
    CACHE_BYTES_DEFAULT, Compacted, Finding, JOURNAL_BYTES_DEFAULT, OpenOptions, Opened, STORE_NAME, Salvaged, compact,
    compact_on, open, open_on,
};
pub use ops::{Batch, Op, QueueKey, Table};
pub use read::{Past, ReadRequest, ReadResult, perform};

use crate::model::{Position, Priority};
use bytes::Bytes;

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The last position that is now as durable as this store makes things.
    pub position: Position,
    /// Indices of [`Op::CompareAndPut`]s whose revision did not match, counted through the operations of all batches
    /// of the commit (or of the submit, where a [`Committer`] tells it); they and their dependants had no effect.
    pub conflicts: Vec<u32>,
    /// Bytes handed to the file since the last commit, for the wear metric.
    pub bytes_written: u64,
    /// Size of everything the store keeps on disk, in bytes.
    pub file_bytes: u64,
}

/// Why the store could not do it. After any error of [`Store::commit`] nothing of the batch may be assumed, and the
/// store must be opened anew.
#[derive(Debug)]
pub enum StoreError {
    /// No space left on the device.
    Full(String),
    /// Any other input or output error.
    Io(String),
    /// The bytes on disk are not what they should be.
    Damaged(String),
    /// Another process has the data folder open.
    Locked(String),
    /// Its file was deleted while it was open: what is written to it is kept nowhere.
    Gone(String),
    /// Written by a newer release: found, understood.
    Newer(u32, u32),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full(what) => write!(f, "no space left for the store: {what}"),
            Self::Io(what) => write!(f, "the store cannot be read or written: {what}"),
            Self::Damaged(what) => write!(f, "the store is damaged: {what}"),
            Self::Locked(what) => write!(f, "the store is in use by another process: {what}"),
            Self::Gone(what) => write!(f, "the store was deleted while the broker used it: {what}"),
            Self::Newer(found, known) => write!(
                f,
                "the store has format {found}, this release understands up to {known}: install the newer release again"
            ),
        }
    }
}

impl std::error::Error for StoreError {}

/// A run of consecutive messages of one lane, encoded as [`block`] describes, shared bodies put back in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Sequence of its first message.
    pub first: u64,
    /// Number of messages.
    pub count: u32,
    /// The encoded block.
    pub bytes: Bytes,
}

/// The writing half. Owned by one thread.
pub trait Store: Send {
    /// Makes all operations of the batches durable in one transaction, in order.
    ///
    /// # Errors
    /// Any [`StoreError`]; nothing of the batches may then be assumed.
    fn commit(&mut self, batches: &[Batch]) -> Result<Committed, StoreError>;

    /// A reading half, usable from other threads at the same time; it sees committed batches only.
    fn reader(&self) -> Box<dyn Reader>;

    /// Physically deletes a bounded amount of what was trimmed; true when more is left. Called when idle.
    ///
    /// # Errors
    /// As [`Store::commit`].
    fn tidy(&mut self) -> Result<bool, StoreError>;
}

/// The reading half: short reads that never block a commit.
pub trait Reader: Send + Sync {
    /// Blocks of a lane from the one that holds `from` (or the next after it), until `bytes_max` is reached; at least
    /// one block if there is any. Logically trimmed messages may still appear: the caller knows the head.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Damaged`].
    fn page(&self, queue: QueueKey, lane: Priority, from: u64, bytes_max: usize) -> Result<Vec<Block>, StoreError>;

    /// Rows of a table in key order, beginning at `from` (inclusive) among those that start with `prefix`; `visit`
    /// gets the key without the table's own byte and returns false to stop.
    ///
    /// # Errors
    /// As [`Reader::page`].
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError>;

    /// One row.
    ///
    /// # Errors
    /// As [`Reader::page`].
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
}
