//! The machine: what both sessions and the clock tell it, and what it asks for.

use super::{Action, Failure};
use crate::config::BridgeSettings;
use crate::model::admin::BridgeStatus;
use crate::model::{Mono, Now};
use std::collections::VecDeque;
use std::sync::Arc;

/// A bridge.
pub struct Bridge {
    settings: Arc<BridgeSettings>,
    actions: VecDeque<Action>,
}

/// What a bridge is made of.
pub struct Parts {
    /// Its settings.
    pub settings: Arc<BridgeSettings>,
    /// The local broker's configured name: `{name}` in routes.
    pub name: String,
    /// Name of this edge that no other has: the configured name and something of the machine.
    pub edge: String,
    /// What [`Action::Tell`] last had to keep.
    pub kept: Option<Vec<u8>>,
    /// Feeds jitter.
    pub seed: u64,
}

impl Bridge {
    /// A bridge that begins now.
    #[must_use]
    pub fn new(_now: Now, parts: Parts) -> Self {
        Self { settings: parts.settings, actions: VecDeque::new() }
    }

    // -- the upstream's bytes --

    /// An [`Action::Dial`] came to an end.
    pub fn handle_dialed(&mut self, _now: Now, _number: u64, _result: Result<(), Failure>) {}

    /// Bytes of the upstream arrived. The edge asks [`Bridge::wants_upstream`] before it reads.
    pub fn handle_upstream(&mut self, _now: Now, _number: u64, _bytes: &[u8]) {}

    /// So many bytes of [`Bridge::poll_upstream`] were taken by the transport since the last call: the link moves.
    pub fn handle_sent(&mut self, _now: Now, _number: u64, _bytes: usize) {}

    /// The connection to the upstream ended, not by an [`Action::HangUp`].
    pub fn handle_hung_up(&mut self, _now: Now, _number: u64, _failure: Failure) {}

    /// The answer to [`Action::Credentials`]: the bytes of an auth frame, or why there are none.
    pub fn handle_credentials(&mut self, _now: Now, _number: u64, _data: Result<(u8, Vec<u8>), String>) {}

    /// Appends whole frames for the upstream, about `bytes_max` of them; nothing when there is none to send now.
    pub fn poll_upstream(&mut self, _now: Now, _out: &mut Vec<u8>, _bytes_max: usize) {}

    /// Whether it has room for what the upstream sends.
    #[must_use]
    pub fn wants_upstream(&self) -> bool {
        true
    }

    // -- the local broker's bytes --

    /// Bytes of the local broker.
    pub fn handle_local(&mut self, _now: Now, _bytes: &[u8]) {}

    /// The local session ended, not by an [`Action::CloseLocal`].
    pub fn handle_local_closed(&mut self, _now: Now) {}

    /// Appends whole frames for the local broker.
    pub fn poll_local(&mut self, _now: Now, _out: &mut Vec<u8>, _bytes_max: usize) {}

    /// Whether it has room for what the local broker sends.
    #[must_use]
    pub fn wants_local(&self) -> bool {
        true
    }

    // -- life --

    /// New settings: what changed takes effect, with a new connection where it must.
    pub fn handle_settings(&mut self, _now: Now, settings: Arc<BridgeSettings>) {
        self.settings = settings;
    }

    /// An operator wants it paused, or to go on.
    pub fn handle_pause(&mut self, _now: Now, _pause: bool) {}

    /// The time of [`Bridge::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, _now: Now) {}

    /// When to call [`Bridge::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        None
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How it is.
    #[must_use]
    pub fn status(&self, _now: Now) -> BridgeStatus {
        BridgeStatus {
            name: self.settings.name.clone(),
            tenant: self.settings.tenant.clone(),
            ..BridgeStatus::default()
        }
    }
}
