//! How much a tenant may keep: bytes over all its queues, and channels.

use super::Broker;
use super::mount::DEAD;
use super::tenants::Refused;
use crate::config::{Overflow, TenantSettings};
use crate::model::{Priority, Record};
use crate::queue::Admission;
use crate::store::{Op, Table, schema};
use crate::wire::Code;

/// What a tenant may have; 0 is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) connections_max: u32,
    pub(super) stored_bytes_max: u64,
    pub(super) channels_max: u32,
}

impl Quota {
    pub(super) const fn of(tenant: &TenantSettings) -> Self {
        Self {
            connections_max: tenant.connections_max,
            stored_bytes_max: tenant.stored_bytes_max,
            channels_max: tenant.channels_max,
        }
    }
}

/// Milliseconds after which a tenant may have room.
pub(super) const RETRY_QUOTA_MS: u32 = 1_000;

/// Queues that take a message, and what its tenant has too much then: bytes that dead letters and those queues that drop their
/// oldest make room for.
pub(super) struct Takers {
    pub(super) list: Vec<(usize, Admission)>,
    pub(super) over: u64,
}

impl Broker {
    /// Bytes of records in all queues of a mount, and of its retained values.
    pub(super) fn stored_bytes(&self, mount: usize) -> u64 {
        let m = &self.mounts[mount];
        m.queues.iter().map(|&q| self.queues[q].bytes()).sum::<u64>() + m.retained_bytes
    }

    /// Bytes that a message adds to what is retained.
    fn retained_growth(&self, mount: usize, record: &Record<'_>, len: u64) -> u64 {
        if !record.retain || record.payload.is_empty() {
            return 0;
        }
        let old = self.mounts[mount].retained.get(record.channel.as_str()).copied();
        len.saturating_sub(u64::from(old.unwrap_or(0)))
    }

    /// Channels of a mount with history, and with a retained value.
    pub(super) fn channels(&self, mount: usize) -> u64 {
        let m = &self.mounts[mount];
        m.queues.iter().map(|&q| self.queues[q].channels.len() as u64).sum::<u64>() + m.retained.len() as u64
    }

    /// Whether a message that these queues take fits its tenant's bytes; by how many they do not. Nothing is changed.
    pub(super) fn over_stored(
        &mut self,
        mount: usize,
        takers: &[(usize, Admission)],
        len: u64,
        record: &Record<'_>,
    ) -> Result<u64, Refused> {
        let most = self.mounts[mount].quota.stored_bytes_max;
        if most == 0 {
            return Ok(0);
        }
        let keep = || takers.iter().filter(|(_, a)| *a != Admission::DropNewest).map(|(q, _)| *q);
        let retained = self.retained_growth(mount, record, len);
        let more = len.saturating_mul(keep().count() as u64).saturating_add(retained);
        if more > most {
            return Err((Code::MessageTooLarge, 0));
        }
        // What was counted on top of the last look is never less than there is: only near the bound all queues are asked.
        if self.mounts[mount].stored_most.saturating_add(more) <= most {
            self.mounts[mount].stored_most += more;
            return Ok(0);
        }
        let stored = self.stored_bytes(mount);
        let over = stored.saturating_add(more).saturating_sub(most);
        let drops = |q: &usize| self.queues[*q].settings.overflow == Overflow::DropOldest;
        let may_go: u64 = keep().filter(drops).map(|q| self.queues[q].droppable(record.priority)).sum();
        let may_go = may_go + self.dead_queues(mount).map(|q| self.queues[q].droppable(Priority::MAX)).sum::<u64>();
        if over > may_go {
            return Err((Code::QuotaExceeded, RETRY_QUOTA_MS));
        }
        self.mounts[mount].stored_most = stored.saturating_add(more);
        Ok(over)
    }

    fn dead_queues(&self, mount: usize) -> impl Iterator<Item = usize> {
        self.mounts[mount].queues.iter().copied().filter(|&q| self.queues[q].settings.name.starts_with(DEAD))
    }

    /// Makes the queues that drop their oldest do so until the message fits its tenant's bytes.
    pub(super) fn make_quota_room(
        &mut self,
        mount: usize,
        takers: &[(usize, Admission)],
        record: &Record<'_>,
        len: u64,
    ) {
        // First what each needs for itself.
        for &(q, _) in takers.iter().filter(|(_, a)| *a == Admission::DropOldest) {
            self.drop_oldest(q, len, record);
        }
        let count = takers.iter().filter(|(_, a)| *a != Admission::DropNewest).count() as u64;
        let most = self.mounts[mount].quota.stored_bytes_max;
        let more = len * count + self.retained_growth(mount, record, len);
        let mut over = (self.stored_bytes(mount) + more).saturating_sub(most);
        // Letters nobody takes would stop their tenant for ever: they go before the living.
        for q in self.dead_queues(mount).collect::<Vec<_>>() {
            over -= self.drop_bytes(q, over, Priority::MAX).min(over);
        }
        for &(q, admission) in takers {
            if admission != Admission::DropNewest && self.queues[q].settings.overflow == Overflow::DropOldest {
                over -= self.drop_bytes(q, over, record.priority).min(over);
            }
        }
    }

    /// What the broker itself moves into a queue has its place also where the tenant has none: the oldest there go for it.
    pub(super) fn make_moved_room(&mut self, queue: usize) {
        let mount = self.mount_of_queue(queue);
        let most = self.mounts[mount].quota.stored_bytes_max;
        if most > 0 {
            let over = self.stored_bytes(mount).saturating_sub(most);
            self.drop_bytes(queue, over, Priority::MAX);
            // Counted anew with the next publish.
            self.mounts[mount].stored_most = u64::MAX;
        }
    }

    /// Drops the oldest of a queue, so many bytes or all; returns how many.
    fn drop_bytes(&mut self, queue: usize, bytes: u64, priority: Priority) -> u64 {
        let q = &mut self.queues[queue];
        let mut freed = Vec::new();
        let before = q.dropped;
        let gone = q.drop_bytes(bytes, priority, &mut freed);
        self.counters.dropped_full += q.dropped - before;
        if !freed.is_empty() {
            self.push_freed(queue, &freed);
        }
        gone
    }

    /// Whether the channels that a message would begin fit its tenant's; forgets such as have no messages any more.
    pub(super) fn fit_channels(
        &mut self,
        mount: usize,
        takers: &[(usize, Admission)],
        record: &Record<'_>,
    ) -> Result<(), Refused> {
        let most = u64::from(self.mounts[mount].quota.channels_max);
        if most == 0 {
            return Ok(());
        }
        let channel = record.channel.as_str();
        let begins = |(q, admission): &&(usize, Admission)| {
            let queue = &self.queues[*q];
            *admission != Admission::DropNewest && queue.settings.history && queue.channels.get(channel).is_none()
        };
        let retains = record.retain && !record.payload.is_empty() && !self.mounts[mount].retained.contains_key(channel);
        let new = takers.iter().filter(begins).count() as u64 + u64::from(retains);
        if new == 0 || self.channels(mount) + new <= most {
            return Ok(());
        }
        for at in 0..self.mounts[mount].queues.len() {
            let queue = self.mounts[mount].queues[at];
            let forgotten = self.queues[queue].forget_channels();
            self.push_forgotten(queue, forgotten);
        }
        if self.channels(mount) + new <= most { Ok(()) } else { Err((Code::QuotaExceeded, RETRY_QUOTA_MS)) }
    }

    /// Writes down that a queue forgot channels.
    pub(super) fn push_forgotten(&mut self, queue: usize, channels: Vec<Box<str>>) {
        let (key, volume) = (self.queues[queue].key, self.queues[queue].volume);
        for channel in channels {
            let key = schema::named_key(key, &channel);
            self.volume_mut(volume).push(Op::Delete { table: Table::Channel, key });
        }
    }
}
