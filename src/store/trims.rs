//! What was trimmed and is still on disk: where the next round of deletions goes on.

use super::ops::QueueKey;
use super::schema::{lane_key, queue_key};
use crate::model::Priority;
use std::collections::BTreeMap;

/// Trims not yet carried out. Bounded by the lanes of the queues there are.
#[derive(Debug, Default)]
pub(super) struct Trims {
    /// Key of a lane's first possible block, and where to stop.
    pending: BTreeMap<[u8; 17], (QueueKey, Below)>,
}

/// Where a trim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    /// Below a sequence of a lane.
    Lane(Priority, u64, QueueKey),
    /// The whole queue.
    Queue(QueueKey),
}

impl Trims {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Messages of a lane below this sequence are gone.
    pub(super) fn trim(&mut self, queue: QueueKey, lane: Priority, below: u64) {
        // Sequences begin at 1: below that there is nothing to delete.
        if below <= 1 {
            return;
        }
        let entry = self.pending.entry(lane_key(queue, lane, 0)).or_insert((queue, Below::Lane(lane, below, queue)));
        if let Below::Lane(_, old, _) = &mut entry.1 {
            *old = below.max(*old);
        }
    }

    /// The whole queue is gone.
    pub(super) fn doom(&mut self, queue: QueueKey) {
        self.pending.retain(|_, (q, _)| *q != queue);
        self.pending.insert(lane_key(queue, Priority::default(), 0), (queue, Below::Queue(queue)));
    }

    /// The next trim: queue, key to begin at, where to stop.
    pub(super) fn next(&self) -> Option<(QueueKey, [u8; 17], Below)> {
        self.pending.iter().next().map(|(key, (queue, below))| (*queue, *key, *below))
    }

    /// The trim that [`Trims::next`] gave is carried out; true when it was a whole queue.
    pub(super) fn done(&mut self) -> bool {
        self.pending.pop_first().is_some_and(|(_, (_, below))| matches!(below, Below::Queue(_)))
    }
}

impl Below {
    /// First key that is certainly not covered.
    pub(super) fn bound(&self) -> Vec<u8> {
        match self {
            Self::Lane(lane, below, queue) => lane_key(*queue, *lane, *below).to_vec(),
            // Lanes end at 9.
            Self::Queue(queue) => [&queue_key(*queue)[..], &[u8::MAX]].concat(),
        }
    }

    /// Whether this block, whose key is below the bound, is gone as a whole.
    pub(super) fn covers(&self, key: &[u8], block: &[u8]) -> bool {
        match self {
            Self::Queue(_) => true,
            Self::Lane(_, below, _) => {
                let first = key.last_chunk::<8>().map_or(u64::MAX, |b| u64::from_be_bytes(*b));
                let count = block.first_chunk::<4>().map_or(u32::MAX, |b| u32::from_le_bytes(*b));
                first.saturating_add(u64::from(count)) <= *below
            }
        }
    }
}
