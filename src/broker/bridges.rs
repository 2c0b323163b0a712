//! What the broker knows of this process's bridges: what they told last, for whoever asks.

use super::Broker;
use crate::model::admin::BridgeStatus;

impl Broker {
    /// A bridge told how it is.
    pub(super) fn handle_bridge(&mut self, status: BridgeStatus, _keep: Option<Vec<u8>>) {
        self.bridges.insert(status.name.clone(), status);
    }

    /// The bridges that an administrator in this mount sees.
    pub(super) fn bridge_statuses(&self, mount: usize) -> Vec<BridgeStatus> {
        let tenant = &self.mounts[mount].tenant;
        self.bridges.values().filter(|status| mount == 0 || *status.tenant == **tenant).cloned().collect()
    }
}
