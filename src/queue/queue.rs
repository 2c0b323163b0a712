//! A queue: its lanes, limits and consumers; what a full one does, and when a message may leave.

use super::channels::Channels;
use super::consumer::Consumer;
use super::lane::{Freed, Lane};
use super::outage::{Losses, Outage, Waited};
use crate::config::{Keep, Overflow, QueueSettings, Storage};
use crate::model::{Epoch, Priority, Volume, Wall};
use crate::store::QueueKey;
use crate::store::block::HistoryLink;
use crate::store::schema::{ExtentRow, QueueRow};

/// A queue.
#[derive(Debug)]
pub struct Queue {
    /// Its key in the store.
    pub key: QueueKey,
    /// What was configured.
    pub settings: QueueSettings,
    /// Where it lives.
    pub volume: Volume,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Messages ever appended.
    pub appended: u64,
    lanes: [Option<Box<Lane>>; 10],
    /// Its consumers; `None` where one was deleted.
    pub consumers: Vec<Option<Consumer>>,
    /// Messages held back.
    pub delayed: Delayed,
    /// Last message of each channel, where history is kept.
    pub channels: Channels,
    /// Whether its row must be written.
    pub dirty: bool,
    /// Messages its policy dropped since start.
    pub dropped: u64,
    /// Whether it still stands in the configuration; else it only drains.
    pub configured: bool,
    /// What is given up of what waited for an upstream.
    pub outage: Option<Box<Outage>>,
}

/// Messages held back until they are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delayed {
    /// How many.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When to look next.
    pub due: Option<Wall>,
    /// A read is under way.
    pub reading: bool,
}

/// What a queue says to one more message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It fits.
    Take,
    /// It fits once so many of the oldest are dropped.
    DropOldest,
    /// It is dropped.
    DropNewest,
    /// The publish is refused.
    Reject,
}

impl Queue {
    /// A new, empty queue.
    #[must_use]
    pub fn new(key: QueueKey, settings: QueueSettings, epoch: Epoch) -> Self {
        let volume = match settings.storage {
            Storage::Disk => Volume::Disk,
            Storage::Memory => Volume::Memory,
        };
        Self {
            key,
            settings,
            volume,
            epoch,
            appended: 0,
            lanes: Default::default(),
            consumers: Vec::new(),
            delayed: Delayed::default(),
            channels: Channels::default(),
            dirty: true,
            dropped: 0,
            configured: true,
            outage: None,
        }
    }

    /// Takes over what the store keeps.
    pub fn restore(&mut self, row: &QueueRow, mut extents: Vec<(Priority, ExtentRow)>) {
        self.epoch = Epoch(row.epoch);
        self.appended = row.appended;
        for lane_row in &row.lanes {
            let Some(priority) = Priority::new(lane_row.lane) else { continue };
            let closed = extents.extract_if(.., |(p, _)| *p == priority).map(|(_, e)| e).collect();
            self.lanes[priority.index()] = Lane::load(lane_row, closed).map(Box::new);
        }
        self.dirty = false;
    }

    /// The row to store.
    #[must_use]
    pub fn row(&self) -> QueueRow {
        QueueRow {
            name: self.settings.name.clone(),
            epoch: self.epoch.0,
            appended: self.appended,
            lanes: self.lanes().map(Lane::row).collect(),
        }
    }

    /// The lanes in use, lowest first.
    pub fn lanes(&self) -> impl DoubleEndedIterator<Item = &Lane> {
        self.lanes.iter().flatten().map(|l| &**l)
    }

    /// A lane, if it is in use.
    #[must_use]
    pub fn lane(&self, priority: Priority) -> Option<&Lane> {
        self.lanes[priority.index()].as_deref()
    }

    /// A lane, made when it is new.
    pub fn lane_mut(&mut self, priority: Priority) -> &mut Lane {
        self.lanes[priority.index()].get_or_insert_with(|| Box::new(Lane::new(priority)))
    }

    /// The lane that a message of this channel goes into, its publisher having asked for this one.
    #[must_use]
    pub fn lane_for(&self, channel: &str, asked: Priority) -> Priority {
        self.outage.as_ref().map_or(asked, |outage| outage.lane(channel, asked))
    }

    /// Takes over the rules of outages. Where they ask for the newest of each channel, the lanes are to be read.
    pub fn set_outage(&mut self, outage: Option<Box<Outage>>) {
        self.outage = outage;
        let Some(outage) = &mut self.outage else { return };
        if outage.needs_places(self.settings.history) {
            self.lanes.iter().flatten().for_each(|lane| outage.begin(lane.priority, lane.head, lane.next));
        }
    }

    /// A message was appended.
    pub fn note_channel(&mut self, channel: &str, lane: Priority, seq: u64) {
        let lanes = &self.lanes;
        if let Some(outage) = self.outage.as_mut().filter(|o| o.needs_places(self.settings.history)) {
            outage.note(channel, lane, seq, || lanes.each_ref().map(|l| l.as_ref().map_or(u64::MAX, |l| l.head)));
        }
    }

    /// A message as the rules of outages see it.
    #[must_use]
    pub fn waited<'a>(
        &self,
        channel: &'a str,
        lane: Priority,
        seq: u64,
        stored: Wall,
        link: Option<HistoryLink>,
    ) -> Waited<'a> {
        let last = self.channels.get(channel).filter(|_| self.settings.history);
        let newer = last.zip(link).map(|(last, link)| last.offset.saturating_sub(link.offset));
        Waited { channel, lane, seq, stored, newer }
    }

    /// What its bridges did not forward by the rules of time, since start, over all of them.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.consumers.iter().flatten().fold(Losses::default(), |sum, c| Losses {
            expired: sum.expired + c.losses.expired,
            superseded: sum.superseded + c.losses.superseded,
            thinned: sum.thinned + c.losses.thinned,
        })
    }

    /// Messages kept, delayed ones included.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.lanes().map(Lane::messages).sum::<u64>() + self.delayed.messages
    }

    /// Bytes kept, delayed ones included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lanes().map(Lane::bytes).sum::<u64>() + self.delayed.bytes
    }

    /// Whether one more message of this size fits, and what happens if not.
    #[must_use]
    pub fn admit(&self, bytes: u64, priority: Priority) -> Admission {
        let s = &self.settings;
        if self.messages() < s.messages_max && self.bytes() + bytes <= s.bytes_max {
            return Admission::Take;
        }
        match s.overflow {
            Overflow::Reject => Admission::Reject,
            Overflow::DropNewest => Admission::DropNewest,
            // What is larger than the queue can never fit, and bulk must not push alarms out.
            Overflow::DropOldest if bytes > s.bytes_max => Admission::Reject,
            Overflow::DropOldest => {
                let may_go = || self.lanes().filter(|l| l.priority <= priority);
                let (messages, held) = may_go().fold((0, 0), |(m, b), l| (m + l.messages(), b + l.bytes()));
                let fits = self.messages() - messages < s.messages_max && self.bytes() - held + bytes <= s.bytes_max;
                if fits { Admission::DropOldest } else { Admission::DropNewest }
            }
        }
    }

    /// Drops the oldest messages of the lowest lanes, never above `priority`, until one more of this size fits; returns
    /// whether it does.
    pub fn make_room(&mut self, bytes: u64, priority: Priority, freed: &mut Vec<(Priority, Freed)>) -> bool {
        loop {
            let (messages_max, bytes_max) = (self.settings.messages_max, self.settings.bytes_max);
            let over_messages = (self.messages() + 1).saturating_sub(messages_max);
            let over_bytes = (self.bytes() + bytes).saturating_sub(bytes_max);
            if over_messages == 0 && over_bytes == 0 {
                return true;
            }
            let Some(lane) = self.lanes.iter_mut().flatten().find(|l| l.messages() > 0) else { return false };
            if lane.priority > priority {
                return false;
            }
            let count = over_messages.max(lane.oldest_worth(over_bytes)).clamp(1, lane.messages());
            let below = lane.head + count;
            let gone = lane.trim(below);
            self.dropped += gone.messages;
            self.dirty = true;
            freed.push((lane.priority, gone));
        }
    }

    /// Bytes that [`Queue::drop_bytes`] could drop.
    #[must_use]
    pub fn droppable(&self, priority: Priority) -> u64 {
        self.lanes().filter(|l| l.priority <= priority).map(Lane::bytes).sum()
    }

    /// Drops the oldest messages of the lowest lanes, never above `priority`, so many bytes or all; returns how many.
    pub fn drop_bytes(&mut self, bytes: u64, priority: Priority, freed: &mut Vec<(Priority, Freed)>) -> u64 {
        let mut dropped = 0;
        for lane in self.lanes.iter_mut().flatten().filter(|l| l.priority <= priority) {
            if dropped >= bytes {
                break;
            }
            let below = lane.head + lane.oldest_worth(bytes - dropped);
            let gone = lane.trim(below);
            if gone.messages > 0 {
                dropped += gone.bytes;
                self.dropped += gone.messages;
                self.dirty = true;
                freed.push((lane.priority, gone));
            }
        }
        dropped
    }

    /// Trims what every rule lets go: consumed (by `keep`) and too old. Returns what was freed, by lane; the second
    /// number says how many of them age alone took. `before` tells the stamp below which messages are older than so many
    /// milliseconds.
    pub fn release(&mut self, before: impl Fn(u64) -> Wall) -> (Vec<(Priority, Freed)>, u64) {
        let mut freed = Vec::new();
        let mut aged = 0;
        let by_consumers = self.settings.keep != Keep::Limits && self.consumers.iter().any(Option::is_some);
        for i in 0..self.lanes.len() {
            let Some(lane) = self.lanes[i].as_deref_mut() else { continue };
            let mut below = lane.head;
            if by_consumers {
                let done = self.consumers.iter().flatten().map(|c| c.position(lane.priority)).min();
                below = below.max(done.unwrap_or(0).min(lane.visible));
            }
            if self.settings.age_ms_max > 0 {
                let old = lane.since(before(self.settings.age_ms_max)).min(lane.visible);
                aged += old.saturating_sub(below);
                below = below.max(old);
            }
            let gone = lane.trim(below);
            if gone.messages > 0 {
                self.dirty = true;
                freed.push((lane.priority, gone));
            }
        }
        (freed, aged)
    }

    /// Whether `release` by age has something to do, and when it will.
    #[must_use]
    pub fn oldest(&self) -> Option<Wall> {
        self.lanes().filter_map(Lane::oldest).min()
    }

    /// Gives a message its place in its channel's history and remembers it as the last. `None` when the limit of
    /// channels is reached.
    pub fn link(&mut self, channel: &str, priority: Priority, seq: u64) -> Option<HistoryLink> {
        // A channel forgotten earlier must not reuse an offset: the count of all appends is above any it ever had.
        self.channels.link(channel, priority, seq, self.appended + 1, self.settings.channels_max)
    }

    /// Whether a channel could be linked; forgets channels whose messages are all gone when the limit is reached.
    pub fn may_link(&mut self, channel: &str, forgotten: &mut Vec<Box<str>>) -> bool {
        let heads = self.lanes.each_ref().map(|l| l.as_ref().map_or(u64::MAX, |l| l.head));
        self.channels.may_link(channel, self.settings.channels_max, heads, forgotten)
    }

    /// Forgets channels whose messages are all gone, a bounded number at a time.
    pub fn forget_channels(&mut self) -> Vec<Box<str>> {
        let mut forgotten = Vec::new();
        if !self.channels.is_empty() {
            let heads = self.lanes.each_ref().map(|l| l.as_ref().map_or(u64::MAX, |l| l.head));
            self.channels.forget(heads, &mut forgotten);
        }
        forgotten
    }

    /// Whether a consumer has yet to be sent what a process that was cut off may have delivered: such deliveries carry
    /// the flag, and after an orderly stop no less.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        let suspect = |c: &Consumer| c.lanes.iter().flatten().any(|l| l.cursor < l.suspect_below);
        self.volume == Volume::Disk && self.consumers.iter().flatten().any(suspect)
    }

    /// The consumer of this name.
    #[must_use]
    pub fn consumer_index(&self, name: &str) -> Option<usize> {
        self.consumers.iter().position(|c| c.as_ref().is_some_and(|c| &*c.name == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MountId, QueueId};

    fn queue(overflow: Overflow, messages_max: u64) -> Queue {
        let key = QueueKey { mount: MountId(0), queue: QueueId(1) };
        Queue::new(key, QueueSettings { overflow, messages_max, ..QueueSettings::new("q") }, Epoch(1))
    }

    fn p(n: u8) -> Priority {
        Priority::new(n).expect("below 10")
    }

    #[test]
    fn a_full_queue_does_what_its_policy_says() {
        for (overflow, expected) in [
            (Overflow::Reject, Admission::Reject),
            (Overflow::DropNewest, Admission::DropNewest),
            (Overflow::DropOldest, Admission::DropOldest),
        ] {
            let mut q = queue(overflow, 2);
            for _ in 0..2 {
                assert_eq!(q.admit(10, p(0)), Admission::Take);
                q.lane_mut(p(0)).append(10, Wall(0));
            }
            assert_eq!(q.admit(10, p(0)), expected);
        }
    }

    #[test]
    fn drop_oldest_takes_the_lowest_lane_first_and_never_an_alarm_for_bulk() {
        let mut q = queue(Overflow::DropOldest, 4);
        for lane in [9, 9, 1, 0] {
            q.lane_mut(p(lane)).append(10, Wall(0));
        }
        let mut freed = Vec::new();
        for expected in [0, 1, 9] {
            assert!(q.make_room(10, p(9), &mut freed));
            assert_eq!(freed.last().map(|f| f.0), Some(p(expected)));
            q.lane_mut(p(9)).append(10, Wall(0));
        }
        assert_eq!(q.admit(10, p(3)), Admission::DropNewest);
    }

    #[test]
    fn bytes_of_alarms_make_no_room_for_bulk_and_the_bound_holds() {
        let mut q = queue(Overflow::DropOldest, 100);
        q.settings.bytes_max = 100;
        for (lane, bytes) in [(0, 10), (9, 80)] {
            q.lane_mut(p(lane)).append(bytes, Wall(0));
        }
        assert_eq!(q.admit(50, p(3)), Admission::DropNewest, "the oldest bulk is not enough, and alarms stay");
        assert_eq!(q.admit(20, p(3)), Admission::DropOldest);
        assert_eq!(q.admit(50, p(9)), Admission::DropOldest);
    }

    #[test]
    fn interest_keeps_until_the_last_consumer_passed() {
        let mut q = queue(Overflow::Reject, 100);
        for _ in 0..10 {
            q.lane_mut(p(0)).append(10, Wall(0));
        }
        q.lane_mut(p(0)).visible = 11;
        assert!(q.release(|_| Wall(0)).0.is_empty());
        let mut fast = Consumer::new("fast");
        fast.lane_mut(p(0)).cursor = 8;
        let mut slow = Consumer::new("slow");
        slow.lane_mut(p(0)).cursor = 4;
        q.consumers = vec![Some(fast), Some(slow)];
        assert_eq!(q.release(|_| Wall(0)).0[0].1.messages, 3);
        assert_eq!(q.messages(), 7);
    }

    #[test]
    fn offsets_of_a_forgotten_channel_never_repeat() {
        let mut q = queue(Overflow::Reject, 100);
        q.settings.channels_max = 1;
        let seq = q.lane_mut(p(0)).append(10, Wall(0)).0;
        let first = q.link("a", p(0), seq).expect("room").offset;
        q.appended += 1;
        let mut gone = Vec::new();
        assert!(!q.may_link("b", &mut gone));
        q.lane_mut(p(0)).trim(2);
        assert!(q.may_link("b", &mut gone) && gone == ["a".into()]);
        let seq = q.lane_mut(p(0)).append(10, Wall(0)).0;
        assert!(q.link("a", p(0), seq).expect("room").offset > first);
    }
}
