//! One priority lane: consecutive sequences, and extents that account for bytes and age without a word per message.
//!
//! Invariants: `1 <= head <= visible <= next` except that `visible` may trail `head` while a trim overtakes a commit;
//! the extents cover `head..next` without gaps; `bytes` is the sum over the extents. A partly trimmed extent counts the
//! average of its messages, so byte limits are exact to one extent (64 KiB or one message).

use crate::model::{Priority, Wall};
use crate::store::schema::{ExtentRow, LaneRow};
use std::collections::VecDeque;

/// An extent is closed at this many bytes.
const EXTENT_BYTES: u64 = 64 * 1_024;
/// An extent is closed at this many messages.
const EXTENT_MESSAGES: u32 = 1_024;

/// One lane of a queue.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Its priority.
    pub priority: Priority,
    /// Oldest sequence kept; equals `next` when empty.
    pub head: u64,
    /// Sequence of the next message.
    pub next: u64,
    /// Sequences below this are committed and may be delivered.
    pub visible: u64,
    bytes: u64,
    /// With the key each row was stored under: a cut moves `first`, not the key.
    closed: VecDeque<(u64, ExtentRow)>,
    open: ExtentRow,
}

/// What a trim freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Messages.
    pub messages: u64,
    /// Bytes, by account.
    pub bytes: u64,
    /// First sequences of the closed extents that are gone whole.
    pub extents: Vec<u64>,
}

impl Lane {
    /// An empty lane whose first message will be number 1.
    #[must_use]
    pub fn new(priority: Priority) -> Self {
        Self {
            priority,
            head: 1,
            next: 1,
            visible: 1,
            bytes: 0,
            closed: VecDeque::new(),
            open: ExtentRow { first: 1, ..ExtentRow::default() },
        }
    }

    /// A lane as the store keeps it. `closed` are its extent rows in order; those below the head are ignored, the one
    /// the head stands in is cut.
    #[must_use]
    pub fn load(row: &LaneRow, closed: Vec<ExtentRow>) -> Option<Self> {
        let mut lane = Self::new(Priority::new(row.lane)?);
        lane.head = row.head;
        lane.next = row.next;
        lane.visible = row.next;
        lane.open = row.open;
        lane.closed =
            closed.into_iter().filter(|e| e.first + u64::from(e.count) > row.head).map(|e| (e.first, e)).collect();
        match lane.closed.front_mut() {
            Some((_, first)) => cut(first, row.head),
            None => cut(&mut lane.open, row.head),
        };
        lane.bytes = lane.extents().map(|e| e.bytes).sum();
        Some(lane)
    }

    /// The row to store.
    #[must_use]
    pub fn row(&self) -> LaneRow {
        LaneRow { lane: self.priority.get(), head: self.head, next: self.next, bytes: self.bytes, open: self.open }
    }

    /// Messages kept.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.next - self.head
    }

    /// Bytes kept, by account.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the oldest message kept was stored, to the accuracy of its extent.
    #[must_use]
    pub fn oldest(&self) -> Option<Wall> {
        self.extents().find(|e| e.count > 0).map(|e| Wall(e.oldest_ms))
    }

    /// When a message kept was stored, guessed from its place in its extent.
    #[must_use]
    pub fn stored(&self, seq: u64) -> Option<Wall> {
        let e = self.extents().find(|e| (e.first..e.first + u64::from(e.count)).contains(&seq))?;
        Some(Wall(stamp(e, seq - e.first)))
    }

    fn extents(&self) -> impl Iterator<Item = &ExtentRow> {
        self.closed.iter().map(|(_, e)| e).chain(std::iter::once(&self.open))
    }

    /// Takes the next sequence for a message of this size. A closed extent is to be stored.
    pub fn append(&mut self, bytes: u64, now: Wall) -> (u64, Option<ExtentRow>) {
        let seq = self.next;
        let mut closed = None;
        if self.open.count > 0 && (self.open.bytes + bytes > EXTENT_BYTES || self.open.count >= EXTENT_MESSAGES) {
            closed = Some(self.open);
            self.closed.push_back((self.open.first, self.open));
            self.open = ExtentRow { first: seq, ..ExtentRow::default() };
        }
        if self.open.count == 0 {
            self.open = ExtentRow { first: seq, oldest_ms: now.0, ..ExtentRow::default() };
        }
        self.open.count += 1;
        self.open.bytes += bytes;
        self.open.newest_ms = now.0;
        self.next += 1;
        self.bytes += bytes;
        (seq, closed)
    }

    /// Lets go of everything below `below` (at most up to `next`).
    pub fn trim(&mut self, below: u64) -> Freed {
        let below = below.min(self.next);
        let mut freed = Freed::default();
        if below <= self.head {
            return freed;
        }
        freed.messages = below - self.head;
        while let Some((key, first)) = self.closed.front_mut() {
            if first.first + u64::from(first.count) > below {
                freed.bytes += cut(first, below);
                break;
            }
            freed.bytes += first.bytes;
            freed.extents.push(*key);
            self.closed.pop_front();
        }
        if self.closed.is_empty() {
            freed.bytes += cut(&mut self.open, below);
        }
        self.head = below;
        self.bytes = self.bytes.saturating_sub(freed.bytes);
        freed
    }

    /// How many of the oldest messages to let go to free at least `bytes` by account.
    #[must_use]
    pub fn oldest_worth(&self, bytes: u64) -> u64 {
        let mut count = 0;
        let mut left = bytes;
        for e in self.extents() {
            if left == 0 {
                break;
            }
            if e.bytes <= left {
                left -= e.bytes;
                count += u64::from(e.count);
            } else {
                let average = (e.bytes / u64::from(e.count.max(1))).max(1);
                count += left.div_ceil(average).min(u64::from(e.count));
                left = 0;
            }
        }
        count
    }

    /// First sequence that was not surely stored before `time`: the search inside its extent is the reader's.
    #[must_use]
    pub fn since(&self, time: Wall) -> u64 {
        self.extents().find(|e| e.count > 0 && e.newest_ms >= time.0).map_or(self.next, |e| e.first)
    }
}

/// When the message at this place of an extent was stored: those of its first and last are known, time between passes evenly.
fn stamp(extent: &ExtentRow, place: u64) -> u64 {
    let (span, steps) = (extent.newest_ms.saturating_sub(extent.oldest_ms), u64::from(extent.count).saturating_sub(1));
    extent.oldest_ms + if steps == 0 { span } else { (u128::from(span) * u128::from(place) / u128::from(steps)) as u64 }
}

/// Cuts an extent so that it begins at `head`; returns the bytes taken off.
fn cut(extent: &mut ExtentRow, head: u64) -> u64 {
    let gone = head.saturating_sub(extent.first).min(u64::from(extent.count));
    if gone == 0 {
        return 0;
    }
    let count = u64::from(extent.count);
    let bytes = if gone == count { extent.bytes } else { extent.bytes * gone / count };
    if gone < count {
        extent.oldest_ms = stamp(extent, gone);
    }
    extent.first += gone;
    extent.count -= gone as u32;
    extent.bytes -= bytes;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> Lane {
        Lane::new(Priority::default())
    }

    #[test]
    fn the_account_ends_at_zero_whatever_the_order_of_trims() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut lane = lane();
            for i in 0..3_000 {
                lane.append(rng.u64(1..4_000), Wall(i));
                if rng.u8(..) < 20 {
                    lane.trim(rng.u64(lane.head..=lane.next));
                }
                assert!(lane.head <= lane.next);
            }
            lane.trim(lane.next);
            assert_eq!((lane.messages(), lane.bytes()), (0, 0));
        }
    }

    #[test]
    fn a_lane_read_back_counts_as_before() {
        let mut lane = lane();
        let mut rows = Vec::new();
        for i in 0..5_000 {
            rows.extend(lane.append(100, Wall(i)).1);
        }
        lane.trim(1_234);
        let again = Lane::load(&lane.row(), rows).expect("valid");
        assert_eq!((again.head, again.next, again.bytes()), (lane.head, lane.next, lane.bytes()));
        assert_eq!(again.since(Wall(4_999)), lane.since(Wall(4_999)));
    }

    #[test]
    fn when_a_message_was_stored_is_known_at_the_ends_of_an_extent_and_guessed_between() {
        let mut lane = lane();
        for i in 0..11 {
            lane.append(100, Wall(1_000 + 60_000 * i));
        }
        let at = |lane: &Lane, seq| lane.stored(seq).map(|at| at.0);
        assert_eq!([at(&lane, 1), at(&lane, 6), at(&lane, 11)], [1_000, 301_000, 601_000].map(Some));
        // What is gone takes its time along.
        lane.trim(6);
        assert_eq!((lane.oldest(), at(&lane, 5), at(&lane, 6)), (Some(Wall(301_000)), None, Some(301_000)));
        lane.trim(11);
        assert_eq!((lane.oldest(), at(&lane, 11), at(&lane, 12)), (Some(Wall(601_000)), Some(601_000), None));
    }

    #[test]
    fn dropping_by_bytes_frees_at_least_what_was_asked() {
        let mut lane = lane();
        for i in 0..1_000 {
            lane.append(300, Wall(i));
        }
        let before = lane.bytes();
        let n = lane.oldest_worth(1_000);
        assert_eq!(n, 4);
        lane.trim(lane.head + n);
        assert!(before - lane.bytes() >= 1_000);
    }
}
