//! A byte-bounded tail of recent blocks, so that live readers never touch the disk.

use crate::model::Priority;
use crate::store::Block;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Recent blocks of all queues of a volume, oldest forgotten first.
#[derive(Debug, Default)]
pub struct Tail {
    bytes_max: usize,
    bytes: usize,
    lanes: HashMap<(usize, Priority), VecDeque<Block>>,
    order: VecDeque<(usize, Priority, usize)>,
}

impl Tail {
    /// An empty tail of at most so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    /// Remembers a block at the end of a lane.
    pub fn push(&mut self, queue: usize, lane: Priority, block: Block) {
        let bytes = block.bytes.len() + 64;
        self.bytes += bytes;
        self.order.push_back((queue, lane, bytes));
        self.lanes.entry((queue, lane)).or_default().push_back(block);
        while self.bytes > self.bytes_max {
            let Some((queue, lane, bytes)) = self.order.pop_front() else { break };
            self.bytes -= bytes;
            if let Some(blocks) = self.lanes.get_mut(&(queue, lane)) {
                blocks.pop_front();
                if blocks.is_empty() {
                    self.lanes.remove(&(queue, lane));
                }
            }
        }
    }

    /// The block that holds this sequence, if it is remembered.
    #[must_use]
    pub fn find(&self, queue: usize, lane: Priority, seq: u64) -> Option<&Block> {
        let blocks = self.lanes.get(&(queue, lane))?;
        let at = blocks.partition_point(|b| b.first <= seq).checked_sub(1)?;
        blocks.get(at).filter(|b| seq < b.first + u64::from(b.count))
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.lanes.clear();
        self.order.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_finds_recent_blocks_and_keeps_its_bound() {
        let mut tail = Tail::new(10_000);
        let lane = Priority::default();
        for i in 0..100u64 {
            let block = Block { first: 1 + i * 10, count: 10, bytes: vec![0; 936].into() };
            tail.push(0, lane, block);
            assert!(tail.bytes <= 10_000);
        }
        assert_eq!(tail.find(0, lane, 1_000).map(|b| b.first), Some(991));
        assert_eq!(tail.find(0, lane, 1_001), None);
        assert_eq!(tail.find(0, lane, 1), None);
        assert_eq!(tail.find(1, lane, 1_000), None);
    }
}
