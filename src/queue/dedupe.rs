//! The dedupe window of a mount: ids in the order they were taken, found by hash, 24 bytes each.
//!
//! Ids stand in a ring; a hash table holds their numbers. Ids taken by one commit form a group that knows the commit, so
//! that a duplicate is answered no earlier than its first copy, and that one stored row a commit is written and dropped.
//! Groups of one commit may have others between them, but those on disk stand in the order of their positions: a row is
//! dropped when the first group of a later one has left.

use crate::model::Volume;
use crate::model::{MessageId, Position, Wall};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::collections::VecDeque;
use std::hash::BuildHasher;

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

/// Ids over the bound that are forgotten together, at least.
const IDS_OVER: usize = 256;

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
    hasher: DefaultHashBuilder,
    /// Position of the last group on disk that left: others of its row may follow.
    leaving: Option<Position>,
    /// Ids taken since the last [`DedupeWindow::expire`].
    fresh: usize,
}

/// Ids forgotten at a time at most, beyond twice as many as came.
const EXPIRE_IDS: usize = 1_024;

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
            hasher: DefaultHashBuilder::default(),
            leaving: None,
            fresh: 0,
        }
    }

    /// Changes the bounds; they take effect at the next [`DedupeWindow::expire`].
    pub fn resize(&mut self, ids_max: u32, window_ms: u32) {
        self.ids_max = ids_max as usize;
        self.window_ms = u64::from(window_ms);
    }

    /// Takes over what another window remembers and no disk does: what it took live-only or in memory. `self` holds what
    /// the disk knows.
    pub fn adopt(&mut self, old: &Self) {
        let mut merged = Self { ids_max: self.ids_max, window_ms: self.window_ms, ..Self::new(0, 0) };
        let elsewhere = |(_, group): &(MessageId, &Group)| !matches!(group.stored, Some((Volume::Disk, _)));
        let mut kept = old.entries().filter(elsewhere).peekable();
        // Groups expire in the order they were taken.
        for (id, group) in self.entries() {
            while let Some((older, of)) = kept.next_if(|(_, of)| of.taken <= group.taken) {
                merged.remember(older, of.taken, of.stored);
            }
            merged.remember(id, group.taken, group.stored);
        }
        kept.for_each(|(id, group)| merged.remember(id, group.taken, group.stored));
        *self = merged;
    }

    /// The ids with the group they were taken in, oldest first.
    fn entries(&self) -> impl Iterator<Item = (MessageId, &Group)> {
        let ends = self.groups.iter().skip(1).map(|g| g.first).chain([self.base + self.ring.len() as u64]);
        let groups = self.groups.iter().zip(ends);
        groups.flat_map(move |(group, end)| {
            let from = group.first.max(self.base);
            (from..end).map(move |number| (MessageId(self.id_at(number as u32)), group))
        })
    }

    /// Whether this id was taken within the window.
    #[must_use]
    pub fn seen(&self, id: MessageId, now: Wall) -> Option<Seen> {
        if self.ids_max == 0 || id.is_none() {
            return None;
        }
        let hash = hash(&self.hasher, &id.0);
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
        self.fresh += 1;
        let (ring, base, hasher) = (&self.ring, self.base, &self.hasher);
        let at = |n: u32| ring[n.wrapping_sub(base as u32) as usize];
        let hashed = hash(hasher, &id.0);
        match self.index.find_mut(hashed, |&n| at(n) == id.0) {
            // An expired copy that was not evicted yet: the newer one takes its place.
            Some(older) => *older = number as u32,
            None => {
                self.index.insert_unique(hashed, number as u32, |&n| hash(hasher, &at(n)));
            }
        }
    }

    /// Whether so many ids are over the bound that [`DedupeWindow::expire`] is due: not for each one, and never many more,
    /// for the window is fast only while it fits the processor's cache.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ring.len() > self.ids_max + (self.ids_max / 64).max(IDS_OVER)
    }

    /// The clock was set forward by so much: what was taken before was taken as long ago as ever.
    pub fn shift(&mut self, by_ms: u64) {
        for group in &mut self.groups {
            group.taken = group.taken.plus_ms(by_ms);
        }
    }

    /// Forgets what is over the bounds, a bounded number of ids at a time but always more than came since; returns the
    /// positions whose rows on disk are gone whole, each once.
    pub fn expire(&mut self, now: Wall) -> Vec<Position> {
        let mut gone = Vec::new();
        let mut allowed = EXPIRE_IDS + 2 * std::mem::take(&mut self.fresh);
        while let Some(group) = self.groups.front().copied() {
            let end = self.groups.get(1).map_or(self.base + self.ring.len() as u64, |g| g.first);
            // By count only the excess goes, by age the whole group.
            let keep = if now.ms_since(group.taken) < self.window_ms { self.ids_max } else { 0 };
            while self.base < end && self.ring.len() > keep && allowed > 0 {
                self.forget_front();
                allowed -= 1;
            }
            if self.base < end {
                break;
            }
            self.groups.pop_front();
            if let Some((Volume::Disk, position)) = group.stored {
                gone.extend(self.leaving.replace(position).filter(|left| *left != position));
            }
        }
        let follows = |left: &mut Position| match self.groups.front().map(|g| g.stored) {
            None => false,
            Some(Some((Volume::Disk, position))) => position == *left,
            // Whether another of the row stands behind it shows when this one leaves.
            Some(_) => true,
        };
        gone.extend(self.leaving.take_if(|left| !follows(left)));
        gone
    }

    fn forget_front(&mut self) {
        let number = self.base as u32;
        if let Some(id) = self.ring.front() {
            let hash = hash(&self.hasher, id);
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

/// Ids are chosen by publishers, so the hash is seeded anew in each process; as one number it is a few instructions.
fn hash(hasher: &DefaultHashBuilder, id: &[u8; 16]) -> u64 {
    hasher.hash_one(u128::from_ne_bytes(*id))
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
    fn adopting_keeps_what_no_disk_remembers_in_the_order_it_was_taken() {
        let (disk, memory) = (Some((Volume::Disk, Position(7))), Some((Volume::Memory, Position(3))));
        let mut old = DedupeWindow::new(100, 60_000);
        for (n, stored) in [None, disk, memory, Some((Volume::Disk, Position(8))), None].into_iter().enumerate() {
            old.remember(id(n as u64), Wall(n as u64 * 10_000), stored);
        }
        // Position 8 was not durable.
        let mut new = DedupeWindow::new(100, 60_000);
        new.remember(id(1), Wall(10_000), disk);
        new.adopt(&old);
        let seen: Vec<_> = (0..5).map(|n| new.seen(id(n), Wall(40_000)).map(|s| s.stored)).collect();
        assert_eq!(seen, [Some(None), Some(disk), Some(memory), None, Some(None)]);
        let mut rows = new.expire(Wall(85_000));
        assert_eq!((new.len(), new.seen(id(4), Wall(85_000)).is_some()), (1, true));
        rows.extend(new.expire(Wall(100_000)));
        assert_eq!((rows, new.len()), (vec![Position(7)], 0));
    }

    #[test]
    fn a_row_is_dropped_once_and_only_when_the_last_of_its_ids_is_forgotten() {
        let disk = |n| Some((Volume::Disk, Position(n)));
        let memory = Some((Volume::Memory, Position(1)));
        let mut w = DedupeWindow::new(100, 1_000);
        // One commit's ids with others between them, and half a second into them.
        let taken = [(disk(7), 0), (None, 0), (memory, 0), (disk(7), 500), (None, 500), (disk(8), 500)];
        for (n, (stored, at)) in taken.into_iter().enumerate() {
            w.remember(id(n as u64), Wall(at), stored);
        }
        assert_eq!(w.expire(Wall(1_000)), vec![], "half of row 7 is still needed");
        assert!(w.seen(id(3), Wall(1_000)).is_some() && w.len() == 3);
        assert_eq!(w.expire(Wall(1_500)), vec![Position(7), Position(8)]);
        assert!(w.is_empty() && w.expire(Wall(9_000)).is_empty());
    }

    #[test]
    fn a_whole_window_that_is_too_old_leaves_in_bounded_portions_and_completely() {
        let mut w = DedupeWindow::new(1_000_000, 1_000);
        for n in 0..20_000u64 {
            w.remember(id(n), Wall(0), Some((Volume::Disk, Position(n))));
        }
        w.expire(Wall(0));
        let mut rows = Vec::new();
        while !w.is_empty() {
            let gone = w.expire(Wall(5_000));
            assert!((1..=EXPIRE_IDS).contains(&gone.len()), "{}", gone.len());
            rows.extend(gone);
        }
        assert_eq!(rows, (0..20_000).map(Position).collect::<Vec<_>>());
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
