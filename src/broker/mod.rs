//! The conductor: the only room that knows the others. Events in, effects out; no clock, socket, file, task or lock.

mod event;

pub use crate::model::Volume;
pub use event::{Effect, Event, Peer, Transmit};

use crate::config::Settings;
use crate::model::{ConnId, Mono, Now};
use crate::store::{Reader, StoreError};
use std::sync::Arc;

/// The whole broker as one state machine.
pub struct Broker {
    settings: Arc<Settings>,
}

impl Broker {
    /// A broker with the state found in the store. `seed` feeds epochs and jitter.
    ///
    /// # Errors
    /// What the reader says.
    pub fn new(_now: Now, settings: Arc<Settings>, _disk: &dyn Reader, _seed: u64) -> Result<Self, StoreError> {
        Ok(Self { settings })
    }

    /// Something happened.
    pub fn handle(&mut self, _now: Now, _event: Event<'_>) {}

    /// The next thing to do, until `None`. Call after every [`Broker::handle`] and [`Broker::poll_transmit`].
    pub fn poll_effect(&mut self) -> Option<Effect> {
        None
    }

    /// Appends up to about `bytes_max` bytes to send to this connection (at least one frame if there is one).
    pub fn poll_transmit(&mut self, _now: Now, _conn: ConnId, _out: &mut Vec<u8>, _bytes_max: usize) -> Transmit {
        Transmit::Idle
    }

    /// Whether this connection may be read from; after false an [`Effect::Wake`] says when to ask again.
    #[must_use]
    pub fn wants_read(&self, _conn: ConnId) -> bool {
        true
    }

    /// When to send [`Event::Timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        None
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
