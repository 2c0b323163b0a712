//! Tenants: who is in which mount, and who may come in.

use super::Broker;
use super::conn::Conn;
use crate::model::{ConnId, MountId};
use crate::protocols::Fault;
use crate::store::{Op, Table, schema};
use crate::wire::Code;
use bytes::Bytes;

/// Why a message is refused, and after how many milliseconds to try again.
pub(super) type Refused = (Code, u32);

impl Broker {
    /// Place of the mount of a tenant (empty: of whoever has none). `None` when the configuration does not name it.
    pub(super) fn mount_of(&self, tenant: &str) -> Option<usize> {
        self.mounts.iter().position(|m| m.configured && *m.tenant == *tenant)
    }

    /// Place of the mount a connection is in. Of one that is gone it is the first: whoever asks does nothing for it.
    pub(super) fn mount_of_conn(&self, conn: ConnId) -> usize {
        self.conns.get(&conn).map_or(0, |c| c.mount)
    }

    /// Place of the mount a queue is in.
    pub(super) fn mount_of_queue(&self, queue: usize) -> usize {
        self.mount_at(self.queues[queue].key.mount)
    }

    /// Place of the mount of this id.
    pub(super) fn mount_at(&self, id: MountId) -> usize {
        self.mounts
            .binary_search_by_key(&id, |m| m.id)
            .expect("mounts are never taken out, and nothing has another's id")
    }

    /// Moves a connection whose principal was just found into the mount of its tenant, and counts it there. Call once a
    /// session, before it is open: nothing of it may be in another mount.
    ///
    /// # Errors
    /// The configuration does not name the tenant, or it has as many connections as it may. The session is to end.
    pub(super) fn enter(&mut self, conn: ConnId) -> Result<(), Fault> {
        let Some(c) = self.conns.get(&conn) else { return Ok(()) };
        debug_assert!(c.session.streams.is_empty() && c.session.publishers.is_empty() && !c.entered);
        let Some(at) = self.mount_of(&c.session.principal.tenant) else {
            return Err(Fault::new(Code::Forbidden, "the configuration does not name its tenant"));
        };
        let mount = &mut self.mounts[at];
        if mount.quota.connections_max > 0 && mount.connections >= mount.quota.connections_max {
            mount.tally.refuse(Code::QuotaExceeded, 1);
            return Err(Fault::new(Code::QuotaExceeded, "the tenant has as many connections as it may: try later"));
        }
        mount.connections += 1;
        mount.tally.connects += 1;
        if let Some(c) = self.conns.get_mut(&conn) {
            (c.mount, c.entered) = (at, true);
        }
        Ok(())
    }

    /// A connection is gone.
    pub(super) fn leave(&mut self, gone: &Conn) {
        if gone.entered {
            self.mounts[gone.mount].connections -= 1;
            if let Some(owner) = gone.source_owner() {
                self.leave_bridge(gone.mount, gone.session.conn, owner);
            }
        }
    }

    /// Writes the ids of mounts that were made, with the next commit or after a while.
    pub(super) fn keep_tenants(&mut self) {
        for mount in self.mounts.iter_mut().filter(|m| !m.stored && !m.tenant.is_empty()) {
            mount.stored = true;
            let value = Bytes::copy_from_slice(&mount.id.0.to_be_bytes());
            self.disk.push(Op::Put { table: Table::Meta, key: schema::tenant_key(&mount.tenant), value });
            self.disk.nudge(self.now.mono);
        }
    }
}
