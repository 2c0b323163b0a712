//! All that can wake the broker, and all it can ask of the world.

pub use crate::session::Peer;

use crate::config::Settings;
use crate::model::admin::BridgeStatus;
use crate::model::{ConnId, Mono, Volume};
use crate::session::{Attempt, Denied, NONCE_BYTES, Principal};
use crate::store::{Batch, Committed, ReadRequest, ReadResult, Reader, StoreError};
use std::sync::Arc;

/// The closed list of what can happen.
pub enum Event<'a> {
    /// A connection was accepted.
    Opened {
        /// Its number, never used before.
        conn: ConnId,
        /// Who it is.
        peer: Peer,
        /// Bytes nobody can foretell, for its challenge.
        nonce: [u8; NONCE_BYTES],
    },
    /// Credentials were checked: the answer to [`Effect::Authenticate`], one each.
    Authenticated {
        /// The connection.
        conn: ConnId,
        /// Who it is, or why not.
        outcome: Result<Principal, Denied>,
    },
    /// Bytes arrived.
    Received {
        /// The connection.
        conn: ConnId,
        /// All of them must be taken: the edge asks [`super::Broker::wants_read`] before it reads.
        bytes: &'a [u8],
    },
    /// The connection is gone, for whatever reason. Nothing more of it will come.
    Closed {
        /// The connection.
        conn: ConnId,
    },
    /// The batches of the oldest [`Effect::Commit`] of this volume are as durable as it makes things.
    Committed {
        /// The volume.
        volume: Volume,
        /// What the commit did.
        done: Committed,
    },
    /// A commit failed. Every batch handed out and not committed is lost to the broker; [`Event::StoreReopened`] follows
    /// once the store could be opened again.
    StoreFailed {
        /// Why.
        error: StoreError,
    },
    /// The store was opened again after a failure: state is to be read from it.
    StoreReopened {
        /// A reading half of the new store.
        reader: &'a dyn Reader,
    },
    /// A read was performed.
    Read {
        /// The number in [`Effect::Read`].
        token: u64,
        /// What it gave.
        result: Result<ReadResult, StoreError>,
    },
    /// Free space on the data folder's file system, in bytes; told every few seconds and after a failed commit.
    Disk {
        /// Free bytes.
        free_bytes: u64,
    },
    /// A TLS handshake failed, or new files of TLS were refused (`files`): for the counters.
    NoTls {
        /// Why, as a counter's label.
        reason: &'static str,
    },
    /// The keys that the settings' rules of signatures call by name, at the start and whenever they were read again.
    NamedKeys {
        /// All of them.
        keys: super::NamedKeys,
    },
    /// How a bridge of this process is: told when that changes, at most a few times a second.
    Bridge {
        /// It.
        status: Box<BridgeStatus>,
        /// What it wants kept over restarts, where that changed: any bytes.
        keep: Option<Vec<u8>>,
    },
    /// The time of [`super::Broker::poll_timeout`] has come.
    Timeout,
    /// New settings; what cannot change while running was already taken out and reported.
    Reload {
        /// The settings.
        settings: Arc<Settings>,
    },
    /// Stop: tell the clients, finish what is under way, at the latest at this time.
    Stop {
        /// The last moment.
        deadline: Mono,
    },
}

/// The closed list of what the broker asks for.
#[derive(Debug)]
pub enum Effect {
    /// Make these durable, in order, and answer with [`Event::Committed`] or [`Event::StoreFailed`].
    Commit {
        /// Where.
        volume: Volume,
        /// What.
        batches: Vec<Batch>,
    },
    /// Check these credentials and answer with [`Event::Authenticated`]. Few are asked for at a time.
    Authenticate {
        /// The connection they came from.
        conn: ConnId,
        /// The credentials.
        attempt: Attempt,
    },
    /// Perform this read and answer with [`Event::Read`].
    Read {
        /// Where.
        volume: Volume,
        /// Number for the answer.
        token: u64,
        /// What.
        request: ReadRequest,
    },
    /// This connection has something to send, may be read from again, or is to be closed: look at it.
    Wake {
        /// The connection.
        conn: ConnId,
    },
    /// An operator wants a bridge of this process paused, or to go on.
    Bridge {
        /// Its name.
        name: String,
        /// Which.
        pause: bool,
    },
    /// Give up the reserve file so that acknowledgements can go on, or make it again.
    Reserve {
        /// Whether it should exist.
        present: bool,
    },
    /// Everything is done after [`Event::Stop`]: the process may end.
    Stopped,
}

/// What to do with a connection after [`super::Broker::poll_transmit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// Nothing more to send for now.
    Idle,
    /// More is waiting than fitted.
    More,
    /// Close the connection once the bytes given so far are sent.
    Close,
}
