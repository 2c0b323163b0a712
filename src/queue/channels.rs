//! The channels of a queue that keeps history: the last message of each, and which may be forgotten when they are many.

use crate::model::Priority;
use crate::store::block::HistoryLink;
use crate::store::schema::ChannelRow;
use std::collections::{BTreeMap, HashMap};

/// The last message of each channel.
#[derive(Debug, Default)]
pub struct Channels {
    rows: HashMap<Box<str>, ChannelRow>,
    /// Channels by lane and sequence of their last message, oldest first. Kept from when the limit is first reached on:
    /// most queues never need it.
    by_age: Option<BTreeMap<(u8, u64), Box<str>>>,
}

/// Channels forgotten at a time at most.
const FORGET_MAX: usize = 64;

impl Channels {
    /// Takes over what the store keeps of a channel.
    pub fn restore(&mut self, channel: &str, row: ChannelRow) {
        self.rows.insert(channel.into(), row);
    }

    /// The last message of a channel.
    #[must_use]
    pub fn get(&self, channel: &str) -> Option<&ChannelRow> {
        self.rows.get(channel)
    }

    /// Gives a message its place in its channel's history and remembers it as the last. Of a channel met for the first
    /// time the offset is `first_offset`; `None` when that would be one more than `channels_max`.
    pub fn link(
        &mut self,
        channel: &str,
        lane: Priority,
        seq: u64,
        first_offset: u64,
        channels_max: u32,
    ) -> Option<HistoryLink> {
        let link = if let Some(last) = self.rows.get_mut(channel) {
            let link = HistoryLink { offset: last.offset + 1, previous_lane: last.lane, previous_seq: last.seq };
            *last = ChannelRow { offset: link.offset, lane: lane.get(), seq };
            link
        } else if self.rows.len() < channels_max as usize {
            self.rows.insert(channel.into(), ChannelRow { offset: first_offset, lane: lane.get(), seq });
            HistoryLink { offset: first_offset, previous_lane: 0, previous_seq: 0 }
        } else {
            return None;
        };
        if let Some(by_age) = &mut self.by_age {
            let name = by_age.remove(&(link.previous_lane, link.previous_seq)).unwrap_or_else(|| channel.into());
            by_age.insert((lane.get(), seq), name);
        }
        Some(link)
    }

    /// Whether a channel could be linked. When the limit is reached, forgets some whose messages are all gone: those whose
    /// last is below its lane's head.
    pub fn may_link(
        &mut self,
        channel: &str,
        channels_max: u32,
        heads: [u64; 10],
        forgotten: &mut Vec<Box<str>>,
    ) -> bool {
        if self.rows.contains_key(channel) || self.rows.len() < channels_max as usize {
            return true;
        }
        self.forget(heads, forgotten);
        self.rows.len() < channels_max as usize
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Forgets channels whose messages are all gone: those whose last is below its lane's head; a bounded number at a time.
    pub fn forget(&mut self, heads: [u64; 10], forgotten: &mut Vec<Box<str>>) {
        let rows = &self.rows;
        let by_age = self
            .by_age
            .get_or_insert_with(|| rows.iter().map(|(name, row)| ((row.lane, row.seq), name.clone())).collect());
        for (lane, head) in (0u8..).zip(heads) {
            while forgotten.len() < FORGET_MAX
                && let Some((&oldest, _)) = by_age.range((lane, 0)..(lane, head)).next()
            {
                if let Some(name) = by_age.remove(&oldest) {
                    self.rows.remove(&name);
                    forgotten.push(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(n: u8) -> Priority {
        Priority::new(n).expect("below 10")
    }

    /// Heads of lanes 0 and 1; the others are not in use.
    fn heads(first: u64, second: u64) -> [u64; 10] {
        let mut heads = [u64::MAX; 10];
        (heads[0], heads[1]) = (first, second);
        heads
    }

    #[test]
    fn a_channel_is_forgotten_when_its_last_message_is_gone_and_not_before() {
        let mut c = Channels::default();
        for (name, lane, seq) in [("a", 0, 1), ("b", 0, 2), ("c", 1, 1), ("a", 1, 2)] {
            assert!(c.link(name, p(lane), seq, 1, 3).is_some());
        }
        let mut gone = Vec::new();
        assert!(!c.may_link("new", 3, heads(1, 1), &mut gone) && gone.is_empty());
        assert!(c.may_link("a", 3, heads(1, 1), &mut gone), "it is there");
        // While it is at its limit a channel moves on: its first message says nothing any more.
        assert_eq!(c.link("b", p(0), 9, 1, 3).map(|l| l.previous_seq), Some(2));
        assert!(!c.may_link("new", 3, heads(9, 1), &mut gone));
        assert!(c.may_link("new", 3, heads(9, 2), &mut gone) && gone == ["c".into()]);
        assert!(c.link("new", p(0), 10, 5, 3).is_some() && c.link("more", p(0), 11, 6, 3).is_none());
        assert!(c.may_link("more", 3, heads(11, 3), &mut gone));
        assert_eq!(gone[1..], ["b".into(), "new".into(), "a".into()]);
    }

    #[test]
    fn what_is_forgotten_at_a_time_is_bounded() {
        let mut c = Channels::default();
        for seq in 1..=1_000 {
            c.link(&format!("site/{seq}"), p(0), seq, seq, 1_000);
        }
        let mut gone = Vec::new();
        assert!(c.may_link("new", 1_000, heads(1_001, 1), &mut gone));
        assert_eq!((gone.len(), c.rows.len(), c.by_age.as_ref().map(BTreeMap::len)), (FORGET_MAX, 936, Some(936)));
    }
}
