//! What the run loop needs of the broker: its methods and nothing else, so that the loop can be tested with another.

use crate::broker::{Broker, Effect, Event, Transmit};
use crate::config::Settings;
use crate::model::{ConnId, Mono, Now, Wall};
use crate::store::StoreError;

/// [`Broker`]'s verbs.
pub trait Machine {
    /// As [`Broker::handle`].
    fn handle(&mut self, now: Now, event: Event<'_>);
    /// As [`Broker::poll_effect`].
    fn poll_effect(&mut self) -> Option<Effect>;
    /// As [`Broker::poll_transmit`].
    fn poll_transmit(&mut self, now: Now, conn: ConnId, out: &mut Vec<u8>, bytes_max: usize) -> Transmit;
    /// As [`Broker::wants_read`].
    fn wants_read(&self, conn: ConnId) -> bool;
    /// As [`Broker::is_over`].
    fn is_over(&self, _conn: ConnId) -> bool {
        false
    }
    /// As [`Broker::poll_timeout`].
    fn poll_timeout(&self) -> Option<Mono>;
    /// As [`Broker::clock_floor`].
    fn clock_floor(&self) -> Wall {
        Wall(0)
    }
    /// As [`Broker::take_failure`].
    fn take_failure(&mut self) -> Option<StoreError> {
        None
    }
    /// As [`Broker::health`].
    ///
    /// # Errors
    /// Why it takes no messages.
    fn health(&self) -> Result<(), &'static str> {
        Ok(())
    }
    /// As [`Broker::bridge_kept`].
    fn bridge_kept(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }
    /// As [`Broker::settings`].
    fn settings(&self) -> &Settings;
}

impl Machine for Broker {
    fn handle(&mut self, now: Now, event: Event<'_>) {
        Broker::handle(self, now, event);
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        Broker::poll_effect(self)
    }

    fn poll_transmit(&mut self, now: Now, conn: ConnId, out: &mut Vec<u8>, bytes_max: usize) -> Transmit {
        Broker::poll_transmit(self, now, conn, out, bytes_max)
    }

    fn wants_read(&self, conn: ConnId) -> bool {
        Broker::wants_read(self, conn)
    }

    fn is_over(&self, conn: ConnId) -> bool {
        Broker::is_over(self, conn)
    }

    fn poll_timeout(&self) -> Option<Mono> {
        Broker::poll_timeout(self)
    }

    fn clock_floor(&self) -> Wall {
        Broker::clock_floor(self)
    }

    fn take_failure(&mut self) -> Option<StoreError> {
        Broker::take_failure(self)
    }

    fn health(&self) -> Result<(), &'static str> {
        Broker::health(self)
    }

    fn bridge_kept(&self, name: &str) -> Option<Vec<u8>> {
        Broker::bridge_kept(self, name)
    }

    fn settings(&self) -> &Settings {
        Broker::settings(self)
    }
}
