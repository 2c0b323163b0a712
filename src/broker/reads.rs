//! Reads of the disk, mount by mount in turn: one thread performs them, and a mount that asks for many must not make the
//! others wait for all of them.

use super::{Broker, Effect, Waiting};
use crate::model::{MountId, Volume};
use crate::store::ReadRequest;
use std::collections::{BTreeMap, HashSet, VecDeque};

/// Reads handed out at once: the thread has the next at hand, and nobody waits behind more than these.
const UNDER_WAY_MAX: usize = 4;

/// Reads of the disk that wait, and those that are under way.
#[derive(Default)]
pub(super) struct Reads {
    /// By mount, each in the order it asked in; none is empty.
    queued: BTreeMap<MountId, VecDeque<(u64, ReadRequest)>>,
    under_way: HashSet<u64>,
    /// Whose turn was the last.
    last: MountId,
}

impl Reads {
    /// One asked.
    fn push(&mut self, token: u64, request: ReadRequest) {
        self.queued.entry(mount_of(&request)).or_default().push_back((token, request));
    }

    /// One was performed.
    fn done(&mut self, token: u64) {
        self.under_way.remove(&token);
    }

    /// The next to hand out, of the mount after the one that had its turn.
    fn next(&mut self) -> Option<(u64, ReadRequest)> {
        if self.under_way.len() >= UNDER_WAY_MAX {
            return None;
        }
        let after = MountId(self.last.0.saturating_add(1));
        let mount = self.queued.range(after..).next().or_else(|| self.queued.iter().next()).map(|(mount, _)| *mount)?;
        let queue = self.queued.get_mut(&mount)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.queued.remove(&mount);
        }
        let (token, request) = next?;
        self.under_way.insert(token);
        self.last = mount;
        Some((token, request))
    }

    /// Nothing that was asked counts any more: the store was opened anew.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Every key opens with its mount's id.
fn mount_of(request: &ReadRequest) -> MountId {
    match request {
        ReadRequest::Page { queue, .. } | ReadRequest::History { queue, .. } => queue.mount,
        ReadRequest::Rows { prefix, .. } => {
            prefix.first_chunk().map_or(MountId(0), |id| MountId(u32::from_be_bytes(*id)))
        }
    }
}

impl Broker {
    /// Reads, now or when it is the mount's turn, and answers what waits.
    pub(super) fn read(&mut self, volume: Volume, waiting: Waiting, request: ReadRequest) {
        let token = self.next_id();
        self.waiting.insert(token, waiting);
        match volume {
            Volume::Disk => {
                self.reads.push(token, request);
                self.hand_out_reads();
            }
            // Performed at once, by whoever asks.
            Volume::Memory => self.effects.push_back(Effect::Read { volume, token, request }),
        }
    }

    /// A read was performed: what waits for it, and the next.
    pub(super) fn read_done(&mut self, token: u64) -> Option<Waiting> {
        self.reads.done(token);
        self.hand_out_reads();
        self.waiting.remove(&token)
    }

    fn hand_out_reads(&mut self) {
        while let Some((token, request)) = self.reads.next() {
            // Who asked may be gone.
            if self.waiting.contains_key(&token) {
                self.effects.push_back(Effect::Read { volume: Volume::Disk, token, request });
            } else {
                self.reads.done(token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Priority, QueueId};
    use crate::store::QueueKey;

    fn page(mount: u32) -> ReadRequest {
        let queue = QueueKey { mount: MountId(mount), queue: QueueId(1) };
        ReadRequest::Page { queue, lane: Priority::default(), from: 1, bytes_max: 1 }
    }

    #[test]
    fn a_mount_that_asks_for_many_reads_waits_for_its_turn_among_the_others() {
        let mut reads = Reads::default();
        (1..=100).for_each(|token| reads.push(token, page(7)));
        let first: Vec<u64> = std::iter::from_fn(|| reads.next().map(|(token, _)| token)).collect();
        assert_eq!(first, [1, 2, 3, 4], "no more than may be under way");
        reads.push(201, page(0));
        reads.push(202, page(0));
        reads.push(301, page(9));
        let mut order = Vec::new();
        for done in 1..=6 {
            reads.done(done);
            order.extend(reads.next().map(|(token, _)| token));
        }
        assert_eq!(order[..4], [301, 201, 5, 202], "each of the others after one more of the many at most");
        assert_eq!(reads.under_way.len(), UNDER_WAY_MAX);
        reads.clear();
        assert!(reads.next().is_none() && reads.under_way.is_empty());
    }
}
