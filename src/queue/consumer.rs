//! A durable consumer: its place in each lane, what is under way, what waits for a retry, and the sessions that compete.
//!
//! Invariants: in a lane, `pending` is sorted by sequence, its first element is not done, and everything below
//! `position()` is done. `outstanding` counts the pending messages that are not done; it never exceeds `window` by new
//! deliveries, so the stored row is bounded, too.

use super::outage::{Losses, Thinner};
use super::shares::Shares;
use crate::model::limits::CREDIT_MAX;
use crate::model::{ConnId, Mono, Position, Priority, Wall};
use crate::store::Block;
use crate::store::schema::{ConsumerLaneRow, ConsumerRow, PendingRow};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

/// A consumer of one queue.
#[derive(Debug)]
pub struct Consumer {
    /// Its name.
    pub name: Box<str>,
    /// What it wants; none means everything.
    pub filters: Vec<String>,
    /// Most messages outstanding.
    pub window: u32,
    /// Failures before a message becomes a dead letter; 0 is without end.
    pub attempts_max: u32,
    /// Milliseconds without an answer before redelivery; 0 is never.
    pub ack_timeout_ms: u32,
    /// First retry delay, in milliseconds.
    pub backoff_ms: u32,
    /// Its place in each lane it has met.
    pub lanes: [Option<Box<ConsumerLane>>; 10],
    /// The sessions that compete.
    pub attachments: Vec<Attachment>,
    /// Whose turn it is.
    pub turn: usize,
    /// Pending messages that are not done.
    pub outstanding: u32,
    /// Of these, messages whose bytes are being read to be delivered again.
    pub fetching: u32,
    /// Messages to try again, by time, then higher lanes first.
    pub waiting: BTreeSet<(Wall, Reverse<Priority>, u64)>,
    /// The commit that writes it for the first time; 0 when it was found in the store or is never stored.
    pub born: Position,
    /// Whether its row must be written.
    pub dirty: bool,
    /// Messages acknowledged since start.
    pub acked: u64,
    /// Messages the queue dropped before this consumer saw them, since start.
    pub lost: u64,
    /// Messages it was not given by the rules of time, since start.
    pub losses: Losses,
    /// What it has beyond others, once a bridge consumed by this name.
    pub forward: Option<Box<Forward>>,
}

/// What a bridge's consumer has beyond others.
#[derive(Debug)]
pub struct Forward {
    /// Whose turn it is among its lanes.
    pub shares: Shares,
    /// What thinning remembers.
    pub thinner: Thinner,
}

/// A consumer's place in a lane.
#[derive(Debug)]
pub struct ConsumerLane {
    /// First sequence never looked at.
    pub cursor: u64,
    /// Messages below the cursor that are not done, and done ones between them.
    pub pending: VecDeque<Pending>,
    /// Where the cursor stands in a block.
    pub at: Option<Cursor>,
    /// Blocks that follow, of the last page read.
    pub ahead: VecDeque<Block>,
    /// A page was asked for.
    pub reading: bool,
    /// Messages below this may have been delivered before the broker was cut off, without its having written it down.
    pub suspect_below: u64,
}

/// A place inside a block.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// The block.
    pub bytes: Bytes,
    /// Its base time.
    pub base: Wall,
    /// Offset of the next entry.
    pub offset: usize,
    /// Entries left.
    pub left: u32,
    /// Sequence of the next entry.
    pub seq: u64,
}

/// A message under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its sequence.
    pub seq: u64,
    /// Failures so far.
    pub attempts: u32,
    /// Whether it was handed to a session before.
    pub delivered: bool,
    /// What it waits for.
    pub state: PendingState,
}

/// What a pending message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingState {
    /// Nothing: it is done, and others before it are not.
    Done,
    /// An answer of this attachment, since this time.
    InFlight(u64, Mono),
    /// Its time to be tried again.
    Waiting(Wall),
    /// Its bytes, to be delivered again.
    Fetching,
    /// Its bytes, to become a dead letter.
    Dying,
}

/// A session that consumes.
#[derive(Debug)]
pub struct Attachment {
    /// Number, unique in the process.
    pub id: u64,
    /// The connection.
    pub conn: ConnId,
    /// Its stream.
    pub stream: u32,
    /// Messages it may still be sent.
    pub credit_messages: u32,
    /// Bytes it may still be sent; the last message may overdraw.
    pub credit_bytes: i64,
    /// Held by the client.
    pub paused: bool,
    /// Lanes of which it is given nothing, bit n for lane n.
    pub held_lanes: u16,
    /// The next tag to be given.
    pub next_tag: u64,
    /// What the tags that are not settled stand for, by tag: those between are gone, however long one is held back.
    pub tags: VecDeque<(u64, Priority, u64)>,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Tried again at this time.
    Retry(Wall),
    /// A dead letter.
    Dead,
}

impl Consumer {
    /// A consumer that begins at the oldest message of every lane.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            filters: Vec::new(),
            window: 1,
            attempts_max: 0,
            ack_timeout_ms: 0,
            backoff_ms: 0,
            lanes: Default::default(),
            attachments: Vec::new(),
            turn: 0,
            outstanding: 0,
            fetching: 0,
            waiting: BTreeSet::new(),
            born: Position(0),
            dirty: true,
            acked: 0,
            lost: 0,
            losses: Losses::default(),
            forward: None,
        }
    }

    /// A consumer as the store keeps it: what was under way may have been delivered.
    #[must_use]
    pub fn load(name: &str, row: ConsumerRow) -> Self {
        let mut consumer = Self {
            filters: row.filters,
            window: row.window.max(1),
            attempts_max: row.attempts_max,
            ack_timeout_ms: row.ack_timeout_ms,
            backoff_ms: row.backoff_ms,
            dirty: false,
            ..Self::new(name)
        };
        for lane_row in row.lanes {
            let Some(priority) = Priority::new(lane_row.lane) else { continue };
            let mut lane = ConsumerLane::at(lane_row.cursor);
            for p in lane_row.pending {
                let due = Wall(p.due_ms);
                lane.pending.push_back(Pending {
                    seq: p.seq,
                    attempts: p.attempts,
                    delivered: true,
                    state: PendingState::Waiting(due),
                });
                consumer.waiting.insert((due, Reverse(priority), p.seq));
                consumer.outstanding += 1;
            }
            consumer.lanes[priority.index()] = Some(Box::new(lane));
        }
        consumer
    }

    /// Whether this is the set of filters it has; order and repetitions do not matter.
    #[must_use]
    pub fn has_filters(&self, filters: &[String]) -> bool {
        let within = |of: &[String], all: &[String]| of.iter().all(|f| all.contains(f));
        within(filters, &self.filters) && within(&self.filters, filters)
    }

    /// The row to store.
    #[must_use]
    pub fn row(&self) -> ConsumerRow {
        let lanes = self.lanes.iter().enumerate().filter_map(|(i, lane)| {
            let lane = lane.as_ref()?;
            let pending = lane.pending.iter().filter(|p| p.state != PendingState::Done).map(|p| PendingRow {
                seq: p.seq,
                attempts: p.attempts,
                due_ms: if let PendingState::Waiting(due) = p.state { due.0 } else { 0 },
            });
            Some(ConsumerLaneRow {
                lane: i as u8,
                position: lane.position(),
                cursor: lane.cursor,
                pending: pending.collect(),
            })
        });
        ConsumerRow {
            filters: self.filters.clone(),
            window: self.window,
            attempts_max: self.attempts_max,
            ack_timeout_ms: self.ack_timeout_ms,
            backoff_ms: self.backoff_ms,
            lanes: lanes.collect(),
        }
    }

    /// The consumer's place in a lane, made at the lane's beginning when it is new.
    pub fn lane_mut(&mut self, priority: Priority) -> &mut ConsumerLane {
        self.lanes[priority.index()].get_or_insert_with(|| Box::new(ConsumerLane::at(1)))
    }

    /// Below this sequence everything in the lane is done.
    #[must_use]
    pub fn position(&self, priority: Priority) -> u64 {
        self.lanes[priority.index()].as_ref().map_or(1, |l| l.position())
    }

    fn pending_mut(&mut self, priority: Priority, seq: u64) -> Option<&mut Pending> {
        let lane = self.lanes[priority.index()].as_mut()?;
        let at = lane.pending.binary_search_by_key(&seq, |p| p.seq).ok()?;
        lane.pending.get_mut(at)
    }

    /// State of a message below the cursor; `None` when it is long done.
    #[must_use]
    pub fn pending(&self, priority: Priority, seq: u64) -> Option<Pending> {
        let lane = self.lanes[priority.index()].as_ref()?;
        let at = lane.pending.binary_search_by_key(&seq, |p| p.seq).ok()?;
        lane.pending.get(at).copied()
    }

    /// Puts the message at the cursor under way to an attachment and moves on.
    pub fn deliver_next(&mut self, priority: Priority, attachment: u64, now: Mono) {
        let lane = self.lane_mut(priority);
        let seq = lane.cursor;
        lane.cursor += 1;
        let state = PendingState::InFlight(attachment, now);
        lane.pending.push_back(Pending { seq, attempts: 0, delivered: true, state });
        self.outstanding += 1;
        self.dirty = true;
    }

    /// Changes what a pending message waits for.
    pub fn set_state(&mut self, priority: Priority, seq: u64, state: PendingState) {
        let mut old = None;
        if let Some(p) = self.pending_mut(priority, seq) {
            old = Some(p.state);
            p.state = state;
            if matches!(state, PendingState::InFlight(..)) {
                p.delivered = true;
            }
        }
        match old {
            Some(PendingState::Waiting(due)) => drop(self.waiting.remove(&(due, Reverse(priority), seq))),
            Some(PendingState::Fetching) => self.fetching -= 1,
            _ => {}
        }
        if old.is_some() && state == PendingState::Fetching {
            self.fetching += 1;
        }
        if let (Some(_), PendingState::Waiting(due)) = (old, state) {
            self.waiting.insert((due, Reverse(priority), seq));
        }
    }

    /// Marks a message done. False when it was already.
    pub fn settle(&mut self, priority: Priority, seq: u64) -> bool {
        let Some(p) = self.pending(priority, seq) else { return false };
        if p.state == PendingState::Done {
            return false;
        }
        self.set_state(priority, seq, PendingState::Done);
        self.outstanding -= 1;
        self.dirty = true;
        if let Some(lane) = self.lanes[priority.index()].as_mut() {
            lane.drop_done();
            lane.squeeze(self.outstanding);
        }
        true
    }

    /// A delivery failed: when to try again, or that it is dead. `delay_ms` 0 leaves it to the backoff; `jitter` is
    /// between 0 and 1.
    pub fn fail(
        &mut self,
        priority: Priority,
        seq: u64,
        now: Wall,
        delay_ms: u32,
        give_up: bool,
        backoff_ms_max: u32,
        jitter: f64,
    ) -> Option<Failed> {
        let (attempts_max, backoff) = (self.attempts_max, self.backoff_ms);
        let p = self.pending_mut(priority, seq)?;
        if p.state == PendingState::Done {
            return None;
        }
        p.attempts = p.attempts.saturating_add(1);
        let attempts = p.attempts;
        self.dirty = true;
        if give_up || (attempts_max != 0 && attempts >= attempts_max) {
            self.set_state(priority, seq, PendingState::Dying);
            return Some(Failed::Dead);
        }
        let delay = if delay_ms != 0 {
            u64::from(delay_ms)
        } else {
            crate::schedule::backoff_ms(backoff, backoff_ms_max, attempts - 1, jitter)
        };
        let due = now.plus_ms(delay);
        self.set_state(priority, seq, PendingState::Waiting(due));
        Some(Failed::Retry(due))
    }

    /// A session is gone: what it had under way is to be delivered again, at once. This is not a failed attempt.
    pub fn detach(&mut self, attachment: u64) {
        self.attachments.retain(|a| a.id != attachment);
        if self.attachments.is_empty() {
            // Nobody reads on: no bytes are kept for it.
            self.lanes.iter_mut().flatten().for_each(|l| (l.at, l.ahead) = (None, VecDeque::new()));
        }
        let mut again = Vec::new();
        for (i, lane) in self.lanes.iter().enumerate() {
            let (Some(lane), Some(priority)) = (lane, Priority::new(i as u8)) else { continue };
            again.extend(
                lane.pending
                    .iter()
                    .filter(|p| matches!(p.state, PendingState::InFlight(a, _) if a == attachment))
                    .map(|p| (priority, p.seq)),
            );
        }
        for (priority, seq) in again {
            self.set_state(priority, seq, PendingState::Waiting(Wall(0)));
        }
    }

    /// Deliveries whose answer is overdue.
    #[must_use]
    pub fn overdue(&self, now: Mono) -> Vec<(Priority, u64)> {
        if self.ack_timeout_ms == 0 {
            return Vec::new();
        }
        let late = |p: &&Pending| matches!(p.state, PendingState::InFlight(_, since) if now.ms_since(since) >= u64::from(self.ack_timeout_ms));
        let lanes = self.lanes.iter().enumerate();
        lanes
            .filter_map(|(i, lane)| Some((Priority::new(i as u8)?, lane.as_ref()?)))
            .flat_map(|(priority, lane)| lane.pending.iter().filter(late).map(move |p| (priority, p.seq)))
            .collect()
    }

    /// Forgets tags of deliveries that were overdue, once they are many: what they stood for is under way under another
    /// tag, or done.
    pub fn squeeze_tags(&mut self) {
        let room = 256 + 2 * self.outstanding as usize;
        let mut attachments = std::mem::take(&mut self.attachments);
        for a in attachments.iter_mut().filter(|a| a.tags.len() > room) {
            let mut met = std::collections::HashSet::new();
            let mut kept: VecDeque<_> = VecDeque::new();
            for &(tag, priority, seq) in a.tags.iter().rev() {
                let state = self.pending(priority, seq).map(|p| p.state);
                let mine = matches!(state, Some(PendingState::InFlight(owner, _)) if owner == a.id);
                if mine && met.insert((priority, seq)) {
                    kept.push_front((tag, priority, seq));
                }
            }
            a.tags = kept;
        }
        self.attachments = attachments;
    }

    /// Whether one more new message may be under way.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.outstanding < self.window
    }

    /// Whether something is due again, or being read for it: it goes before anything new, so that what a lost session
    /// had comes back in order.
    #[must_use]
    pub fn owes(&self, now: Wall) -> bool {
        self.fetching > 0 || self.waiting.first().is_some_and(|(due, ..)| *due <= now)
    }

    /// New messages of a lane that may be under way to a bridge, `above` lanes of the queue being higher: a part of the window
    /// is kept for each of them, so that bulk that is held up leaves alarms a way.
    #[must_use]
    pub fn room_below(&self, above: u32) -> u32 {
        (self.window - self.window / 16 * above.min(8)).saturating_sub(self.outstanding)
    }

    /// The lowest sequence of a lane that waits to be tried again, and from when on, or whose bytes are being read. `None` where
    /// everything below the cursor is under way or done.
    #[must_use]
    pub fn first_back(&self, priority: Priority) -> Option<Pending> {
        if self.waiting.is_empty() && self.fetching == 0 {
            return None;
        }
        let back = |p: &&Pending| matches!(p.state, PendingState::Waiting(_) | PendingState::Fetching);
        self.lanes[priority.index()].as_ref()?.pending.iter().find(back).copied()
    }

    /// Messages under way to sessions.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.outstanding.saturating_sub(self.waiting.len() as u32)
    }
}

impl ConsumerLane {
    const fn at(cursor: u64) -> Self {
        Self { cursor, pending: VecDeque::new(), at: None, ahead: VecDeque::new(), reading: false, suspect_below: 0 }
    }

    /// Below this sequence everything is done.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.pending.front().map_or(self.cursor, |p| p.seq)
    }

    /// The queue let go of everything below `head`: messages never looked at are skipped. Returns how many.
    pub fn skip_to(&mut self, head: u64) -> u64 {
        let skipped = head.saturating_sub(self.cursor);
        if skipped > 0 {
            self.cursor = head;
            self.at = None;
        }
        skipped
    }

    fn drop_done(&mut self) {
        while self.pending.front().is_some_and(|p| p.state == PendingState::Done) {
            self.pending.pop_front();
        }
    }

    /// Forgets the done messages behind one that is stuck, once they outnumber the `outstanding` ones by far.
    fn squeeze(&mut self, outstanding: u32) {
        if self.pending.len() > 256 + 4 * outstanding as usize {
            self.pending.retain(|p| p.state != PendingState::Done);
        }
    }
}

impl Attachment {
    /// Whether it may be sent another message.
    #[must_use]
    pub const fn has_credit(&self) -> bool {
        !self.paused && self.credit_messages > 0 && self.credit_bytes > 0
    }

    /// Whether it is given nothing of a lane.
    #[must_use]
    pub const fn holds(&self, priority: Priority) -> bool {
        self.held_lanes & (1 << priority.get()) != 0
    }

    /// Adds credit; false when more than 2^31-1 would be outstanding.
    #[must_use]
    pub fn add_credit(&mut self, messages: u32, bytes: u32) -> bool {
        let messages = u64::from(self.credit_messages) + u64::from(messages);
        let bytes = self.credit_bytes + i64::from(bytes);
        if messages > u64::from(CREDIT_MAX) || bytes > i64::from(CREDIT_MAX) {
            return false;
        }
        self.credit_messages = messages as u32;
        self.credit_bytes = bytes;
        true
    }

    /// Gives a message the next tag.
    pub fn tag(&mut self, priority: Priority, seq: u64, bytes: usize) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.tags.push_back((tag, priority, seq));
        self.credit_messages = self.credit_messages.saturating_sub(1);
        self.credit_bytes -= bytes as i64;
        tag
    }

    /// Takes the messages of a range of tags that are not settled yet; `None` when one of them was never given.
    pub fn take_tags(&mut self, first: u64, count: u32) -> Option<Vec<(Priority, u64)>> {
        let end = first.checked_add(u64::from(count))?;
        if first == 0 || end > self.next_tag {
            return None;
        }
        let from = self.tags.partition_point(|(tag, ..)| *tag < first);
        let to = self.tags.partition_point(|(tag, ..)| *tag < end);
        let taken = self.tags.drain(from..to).map(|(_, priority, seq)| (priority, seq)).collect();
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Priority = match Priority::new(0) {
        Some(p) => p,
        None => Priority::MAX,
    };

    fn consumer() -> Consumer {
        Consumer { window: 100, attempts_max: 3, backoff_ms: 100, ..Consumer::new("c") }
    }

    #[test]
    fn the_position_moves_only_past_what_is_done() {
        let mut c = consumer();
        for _ in 0..5 {
            c.deliver_next(P, 1, Mono(0));
        }
        assert!(c.settle(P, 2) && c.settle(P, 3) && !c.settle(P, 3));
        assert_eq!((c.position(P), c.outstanding), (1, 3));
        assert!(c.settle(P, 1));
        assert_eq!((c.position(P), c.outstanding), (4, 2));
        let again = Consumer::load("c", c.row());
        assert_eq!((again.position(P), again.outstanding, again.waiting.len()), (4, 2, 2));
    }

    #[test]
    fn a_message_dies_after_its_last_attempt_and_backs_off_before() {
        let mut c = consumer();
        c.deliver_next(P, 1, Mono(0));
        let fail = |c: &mut Consumer| c.fail(P, 1, Wall(1_000), 0, false, 10_000, 1.0);
        assert_eq!(fail(&mut c), Some(Failed::Retry(Wall(1_100))));
        assert_eq!(fail(&mut c), Some(Failed::Retry(Wall(1_200))));
        assert_eq!(c.waiting.len(), 1);
        assert_eq!(fail(&mut c), Some(Failed::Dead));
        assert_eq!((c.waiting.len(), c.outstanding), (0, 1));
    }

    #[test]
    fn a_lost_session_is_no_failed_attempt() {
        let mut c = consumer();
        c.deliver_next(P, 1, Mono(0));
        c.deliver_next(P, 2, Mono(0));
        c.detach(1);
        assert_eq!(c.pending(P, 1).map(|p| p.attempts), Some(0));
        assert_eq!(c.waiting.len(), 1);
    }

    #[test]
    fn tags_are_taken_once_and_never_beyond_what_was_given() {
        let mut a = Attachment {
            id: 1,
            conn: ConnId(1),
            stream: 1,
            credit_messages: 10,
            credit_bytes: 100,
            paused: false,
            held_lanes: 0,
            next_tag: 1,
            tags: VecDeque::new(),
        };
        for seq in 1..=3 {
            a.tag(P, seq, 10);
        }
        assert_eq!(a.take_tags(2, 1), Some(vec![(P, 2)]));
        assert_eq!(a.take_tags(1, 3), Some(vec![(P, 1), (P, 3)]));
        assert_eq!(a.take_tags(1, 3), Some(vec![]));
        assert_eq!(a.take_tags(3, 2), None);
        assert_eq!(a.take_tags(0, 1), None);
        assert_eq!(a.take_tags(u64::MAX, 2), None);
        assert!(!a.add_credit(u32::MAX, 0) && a.add_credit(1, 1));
    }

    fn attachment() -> Attachment {
        Attachment {
            id: 1,
            conn: ConnId(1),
            stream: 1,
            credit_messages: 1_000_000,
            credit_bytes: 1_000_000,
            paused: false,
            held_lanes: 0,
            next_tag: 1,
            tags: VecDeque::new(),
        }
    }

    #[test]
    fn one_delivery_held_back_does_not_keep_the_tags_of_all_that_follow() {
        let mut a = attachment();
        a.tag(P, 1, 1);
        for seq in 2..10_000 {
            let tag = a.tag(P, seq, 1);
            assert_eq!(a.take_tags(tag, 1), Some(vec![(P, seq)]));
        }
        assert_eq!(a.tags.len(), 1);
        assert_eq!(a.take_tags(1, 5_000), Some(vec![(P, 1)]));
    }

    #[test]
    fn deliveries_overdue_again_and_again_do_not_keep_their_tags() {
        let mut c = consumer();
        c.attempts_max = 0;
        c.attachments.push(attachment());
        c.deliver_next(P, 1, Mono(0));
        let mut last = 0;
        for _ in 0..10_000 {
            last = c.attachments[0].tag(P, 1, 1);
            c.fail(P, 1, Wall(0), 1, false, 1, 0.0);
            c.set_state(P, 1, PendingState::InFlight(1, Mono(0)));
            c.squeeze_tags();
        }
        assert!(c.attachments[0].tags.len() <= 300, "{}", c.attachments[0].tags.len());
        assert_eq!(c.attachments[0].take_tags(last, 1), Some(vec![(P, 1)]), "the newest still answers");
    }
}
