//! The dedupe window of a mount: ids in the order they were taken, found by hash, 24 bytes each.
//!
//! Ids stand in a ring; a hash table holds their numbers. Ids taken by one commit form a group that knows the commit, so
//! that a duplicate is answered no earlier than its first copy, and that one stored row a commit is written and dropped.

use crate::model::Volume;
use crate::model::{MessageId, Position, Wall};
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

/// The first copy of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where it was stored; `None` when it was live-only.
    pub stored: Option<(Volume, Position)>,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    /// Number of its first id.
    first: u64,
    taken: Wall,
    stored: Option<(Volume, Position)>,
}

/// The window.
#[derive(Debug)]
pub struct DedupeWindow {
    ids_max: usize,
    window_ms: u64,
    /// Number of the id at the ring's front.
    base: u64,
    ring: VecDeque<[u8; 16]>,
    groups: VecDeque<Group>,
    index: HashTable<u32>,
    hasher: RandomState,
}

impl DedupeWindow {
    /// An empty window; `ids_max` 0 turns dedupe off.
    #[must_use]
    pub fn new(ids_max: u32, window_ms: u32) -> Self {
        Self {
            ids_max: ids_max as usize,
            window_ms: u64::from(window_ms),
            base: 0,
            ring: VecDeque::new(),
            groups: VecDeque::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// Changes the bounds; they take effect at the next [`DedupeWindow::expire`].
    pub fn resize(&mut self, ids_max: u32, window_ms: u32) {
        self.ids_max = ids_max as usize;
        self.window_ms = u64::from(window_ms);
    }

    /// Whether this id was taken within the window.
    #[must_use]
    pub fn seen(&self, id: MessageId, now: Wall) -> Option<Seen> {
        if self.ids_max == 0 || id.is_none() {
            return None;
        }
        let hash = self.hasher.hash_one(id.0);
        let number = *self.index.find(hash, |&n| self.id_at(n) == id.0)?;
        let number = self.base + u64::from(number.wrapping_sub(self.base as u32));
        let at = self.groups.partition_point(|g| g.first <= number);
        let group = self.groups.get(at.checked_sub(1)?)?;
        (now.ms_since(group.taken) < self.window_ms).then_some(Seen { stored: group.stored })
    }

    /// Remembers an id, taken now by this commit (or by none). Call only for ids not [`DedupeWindow::seen`].
    pub fn remember(&mut self, id: MessageId, now: Wall, stored: Option<(Volume, Position)>) {
        if self.ids_max == 0 || id.is_none() {
            return;
        }
        let number = self.base + self.ring.len() as u64;
        if !self.groups.back().is_some_and(|g| g.stored == stored && now.ms_since(g.taken) < 1_000) {
            self.groups.push_back(Group { first: number, taken: now, stored });
        }
        self.ring.push_back(id.0);
        let (ring, base, hasher) = (&self.ring, self.base, &self.hasher);
        let at = |n: u32| ring[n.wrapping_sub(base as u32) as usize];
        let hash = hasher.hash_one(id.0);
        match self.index.find_mut(hash, |&n| at(n) == id.0) {
            // An expired copy that was not evicted yet: the newer one takes its place.
            Some(older) => *older = number as u32,
            None => {
                self.index.insert_unique(hash, number as u32, |&n| hasher.hash_one(at(n)));
            }
        }
    }

    /// Takes over what another window remembers that no disk does: ids of messages in memory, or live only.
    pub fn adopt(&mut self, other: &Self, now: Wall) {
        for (i, group) in other.groups.iter().enumerate() {
            if matches!(group.stored, Some((Volume::Disk, _))) {
                continue;
            }
            let end = other.groups.get(i + 1).map_or(other.base + other.ring.len() as u64, |g| g.first);
            for number in group.first.max(other.base)..end {
                let id = MessageId(other.ring[(number - other.base) as usize]);
                if self.seen(id, now).is_none() {
                    self.remember(id, group.taken, group.stored);
                }
            }
        }
    }

    /// Forgets what is over the bounds; returns the positions on disk of groups that are gone whole.
    pub fn expire(&mut self, now: Wall) -> Vec<Position> {
        let mut gone = Vec::new();
        while let Some(group) = self.groups.front().copied() {
            let end = self.groups.get(1).map_or(self.base + self.ring.len() as u64, |g| g.first);
            let over = self.ring.len() > self.ids_max;
            if !over && now.ms_since(group.taken) < self.window_ms {
                break;
            }
            // By count only the excess goes, by age the whole group.
            let keep = if now.ms_since(group.taken) < self.window_ms { self.ids_max } else { 0 };
            while self.base < end && self.ring.len() > keep {
                self.forget_front();
            }
            if self.base < end {
                break;
            }
            self.groups.pop_front();
            if let Some((Volume::Disk, position)) = group.stored
                && !self.groups.iter().take(2).any(|g| g.stored == group.stored)
            {
                gone.push(position);
            }
        }
        gone
    }

    fn forget_front(&mut self) {
        let number = self.base as u32;
        if let Some(id) = self.ring.front() {
            let hash = self.hasher.hash_one(id);
            // A newer copy may have taken the index entry over; then there is nothing to remove.
            if let Ok(found) = self.index.find_entry(hash, |&n| n == number) {
                found.remove();
            }
        }
        self.ring.pop_front();
        self.base += 1;
    }

    fn id_at(&self, number: u32) -> [u8; 16] {
        self.ring[number.wrapping_sub(self.base as u32) as usize]
    }

    /// Ids remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> MessageId {
        MessageId::from_parts(n + 1, [0; 10])
    }

    #[test]
    fn a_repeated_id_is_seen_with_its_commit_until_the_window_is_over() {
        let mut w = DedupeWindow::new(100, 1_000);
        let at = Some((Volume::Disk, Position(7)));
        w.remember(id(1), Wall(0), at);
        assert_eq!(w.seen(id(1), Wall(999)), Some(Seen { stored: at }));
        assert_eq!(w.seen(id(1), Wall(1_000)), None);
        assert_eq!(w.seen(id(2), Wall(0)), None);
        assert_eq!(w.seen(MessageId::NONE, Wall(0)), None);
        assert_eq!(w.expire(Wall(1_000)), vec![Position(7)]);
        assert!(w.is_empty());
    }

    #[test]
    fn ids_in_memory_outlive_the_store_that_is_opened_anew() {
        let (memory, disk) = (Some((Volume::Memory, Position(3))), Some((Volume::Disk, Position(4))));
        let mut old = DedupeWindow::new(100, 1_000);
        for (n, stored) in [(1, memory), (2, disk), (3, None)] {
            old.remember(id(n), Wall(10), stored);
        }
        let mut new = DedupeWindow::new(100, 1_000);
        new.remember(id(9), Wall(5), disk);
        new.adopt(&old, Wall(20));
        assert_eq!(new.seen(id(1), Wall(20)), Some(Seen { stored: memory }));
        assert_eq!(new.seen(id(3), Wall(20)), Some(Seen { stored: None }));
        assert_eq!(new.seen(id(2), Wall(20)), None, "the disk knows its own");
        assert_eq!(new.seen(id(9), Wall(20)), Some(Seen { stored: disk }));
    }

    #[test]
    fn the_window_never_holds_more_than_its_bound() {
        let mut w = DedupeWindow::new(1_000, u32::MAX);
        let mut dropped = Vec::new();
        for n in 0..10_000u64 {
            w.remember(id(n), Wall(n), Some((Volume::Disk, Position(n / 10))));
            if n % 10 == 9 {
                dropped.extend(w.expire(Wall(n)));
            }
            assert!(w.len() <= 1_010);
        }
        assert_eq!(w.len(), 1_000);
        assert_eq!(dropped, (0..900).map(Position).collect::<Vec<_>>());
        assert!(w.seen(id(8_999), Wall(10_000)).is_none());
        for n in 9_000..10_000 {
            assert_eq!(w.seen(id(n), Wall(10_000)).and_then(|s| s.stored), Some((Volume::Disk, Position(n / 10))));
        }
    }
}
