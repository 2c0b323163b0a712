//! Deliveries: the order of retries and lanes, pages in, messages out.

use super::conn::Stream;
use super::edges::began_at;
use super::entries::{delivery, entry_at, holds, stand, wanted};
use super::{Broker, Timer, Waiting, upstream};
use crate::model::{ConnId, Priority, Record, Volume, Wall};
use crate::queue::{Consumer, Loss, PendingState};
use crate::store::block::{BlockReader, Entry};
use crate::store::{Block, ReadRequest, ReadResult};
use crate::wire::item_flag;
use std::cmp::Reverse;
use std::collections::VecDeque;

/// A page read for a consumer, in bytes.
pub(super) const PAGE_BYTES: usize = 64 * 1_024;
/// Messages one session is given before its competitors have their turn.
pub(super) const BURST: u32 = 64;
/// Milliseconds before a failed read is tried again.
const READ_RETRY_MS: u64 = 1_000;

impl Broker {
    /// All consumers of a queue are to be looked at.
    pub(super) fn pump_queue(&mut self, queue: usize) {
        for consumer in 0..self.queues[queue].consumers.len() {
            self.pumps.push((queue, consumer));
        }
    }

    /// All consumers of a session are to be looked at.
    pub(super) fn pump_session(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get(&conn) else { return };
        for stream in c.session.streams.values() {
            if let Stream::Consumer(q, c, _) = *stream {
                self.pumps.push((q, c));
            }
        }
    }

    pub(super) fn run_pumps(&mut self) {
        if self.said_stopped {
            // The last commit has left: a delivery made now would come again after the start, and would not say so.
            self.pumps.clear();
        }
        while !self.pumps.is_empty() {
            let mut round = std::mem::take(&mut self.pumps);
            round.sort_unstable();
            round.dedup();
            for (q, c) in round {
                self.pump(q, c);
            }
        }
    }

    fn pump(&mut self, q: usize, c: usize) {
        if self.said_stopped {
            // The last commit says what was delivered; what followed it would come again without the flag.
            return;
        }
        let Some(queue) = self.queues.get_mut(q) else { return };
        let Some(mut consumer) = queue.consumers.get_mut(c).and_then(Option::take) else { return };
        // Looked at again when its birth is durable.
        if consumer.born <= self.disk.durable {
            if consumer.forward.is_some() {
                self.pump_shares(q, c, &mut consumer, None);
            } else {
                self.pump_retries(q, c, &mut consumer, None);
                self.pump_new(q, c, &mut consumer);
            }
        }
        if let Some((due, ..)) = consumer.waiting.first().filter(|(due, ..)| *due > self.now.wall) {
            self.timers.set(Timer::Retry(q, c), self.now.mono.plus_ms(due.ms_since(self.now.wall)));
        }
        self.queues[q].consumers[c] = Some(consumer);
    }

    /// The attachment whose turn it is, among those that may be sent a message.
    pub(super) fn pick(&mut self, consumer: &mut Consumer) -> Option<usize> {
        let room = self.settings.limits.outbox_bytes_max as usize;
        for i in 0..consumer.attachments.len() {
            let at = (consumer.turn + i) % consumer.attachments.len();
            let a = &consumer.attachments[at];
            if !a.has_credit() {
                continue;
            }
            if self.waiting_bytes(a.conn) >= room {
                if let Some(c) = self.conns.get_mut(&a.conn) {
                    c.starved = true;
                }
                continue;
            }
            consumer.turn = at + 1;
            return Some(at);
        }
        None
    }

    /// Delivers again what is due; `read` is a block that was just read for it.
    fn pump_retries(&mut self, q: usize, c: usize, consumer: &mut Consumer, read: Option<(Priority, &Block)>) {
        while let Some(&(due, Reverse(lane), seq)) = consumer.waiting.first() {
            if due > self.now.wall {
                return;
            }
            let head = self.queues[q].lane(lane).map_or(0, |l| l.head);
            if seq < head {
                consumer.settle(lane, seq);
                consumer.lost += 1;
                continue;
            }
            // One read at a time, and nothing overtakes it: a window of reads would be as many blocks in memory.
            if consumer.fetching > 0 {
                return;
            }
            let Some(at) = self.pick(consumer) else { return };
            let read = read.filter(|(l, block)| *l == lane && holds(block, seq)).map(|(_, block)| block);
            match read.or_else(|| self.queues[q].volume_tail(self).find(q, lane, seq)).cloned() {
                Some(block) => self.redeliver(q, c, consumer, at, lane, seq, &block),
                None => {
                    consumer.set_state(lane, seq, PendingState::Fetching);
                    self.fetch(q, c, lane, seq, None);
                }
            }
        }
    }

    /// Asks for the bytes of one message below the cursor.
    pub(super) fn fetch(&mut self, q: usize, c: usize, lane: Priority, seq: u64, why: Option<Box<str>>) {
        let (queue, volume) = (self.queues[q].key, self.queues[q].volume);
        let request = ReadRequest::Page { queue, lane, from: seq, bytes_max: 1 };
        self.read(volume, Waiting::Fetch(q, c, lane, seq, why), request);
    }

    pub(super) fn handle_fetched(
        &mut self,
        q: usize,
        c: usize,
        lane: Priority,
        seq: u64,
        why: Option<&str>,
        result: Option<ReadResult>,
    ) {
        let Some(mut consumer) = self.queues[q].consumers.get_mut(c).and_then(Option::take) else { return };
        let Some(pending) = consumer.pending(lane, seq) else {
            self.queues[q].consumers[c] = Some(consumer);
            return;
        };
        let block = match result {
            Some(ReadResult::Blocks(blocks)) => Some(blocks.into_iter().find(|b| holds(b, seq))),
            _ => None,
        };
        match (block, pending.state) {
            // The read failed: try again later. What was to die is delivered once more and then dies.
            (None, _) => consumer.set_state(lane, seq, PendingState::Waiting(self.now.wall.plus_ms(READ_RETRY_MS))),
            // It left the queue meanwhile, by age or overflow.
            (Some(None), _) => {
                consumer.settle(lane, seq);
                consumer.lost += 1;
                self.decide_lost(q, &consumer, lane, seq, upstream::DROPPED);
            }
            (Some(Some(block)), PendingState::Dying) => self.bury(q, &mut consumer, lane, seq, pending, why, &block),
            (Some(Some(block)), PendingState::Fetching) => match self.pick(&mut consumer) {
                Some(at) => {
                    self.redeliver(q, c, &mut consumer, at, lane, seq, &block);
                    if consumer.forward.is_some() {
                        self.pump_shares(q, c, &mut consumer, Some((lane, &block)));
                    } else {
                        self.pump_retries(q, c, &mut consumer, Some((lane, &block)));
                    }
                }
                None => consumer.set_state(lane, seq, PendingState::Waiting(Wall(0))),
            },
            _ => {}
        }
        self.queues[q].consumers[c] = Some(consumer);
        self.progressed(q, c);
    }

    pub(super) fn redeliver(
        &mut self,
        q: usize,
        c: usize,
        consumer: &mut Consumer,
        at: usize,
        lane: Priority,
        seq: u64,
        block: &Block,
    ) {
        let Some(pending) = consumer.pending(lane, seq) else { return };
        let Some((stored, entry)) = entry_at(block, seq) else {
            self.lose(q, consumer, lane, seq);
            return;
        };
        let bridge = self.is_bridge(consumer.attachments[at].conn);
        if let Some(loss) = self.given_up(q, consumer, bridge, lane, seq, stored, &entry, false) {
            consumer.settle(lane, seq);
            self.count_loss(q, consumer, lane, seq, loss);
            return;
        }
        if self.conns.get(&consumer.attachments[at].conn).is_some_and(|c| c.is_echo(entry.data)) {
            consumer.settle(lane, seq);
            self.counters.echoes += 1;
            return;
        }
        let flags = if pending.delivered { item_flag::REDELIVERED } else { 0 };
        let now = self.now.mono;
        let a = &mut consumer.attachments[at];
        let Some(shaped) = self.shape(a.conn, entry.data) else {
            consumer.set_state(lane, seq, PendingState::Dying);
            self.fetch(q, c, lane, seq, None);
            return;
        };
        let tag = a.tag(lane, seq, shaped.len());
        let (conn, stream, id) = (a.conn, a.stream, a.id);
        let entry = Entry { data: &shaped, ..entry };
        let item = delivery(flags, lane, seq, pending.attempts + 1, stored, &entry);
        let epoch = self.queues[q].epoch.0;
        self.item(conn, stream, epoch, tag, &item);
        consumer.set_state(lane, seq, PendingState::InFlight(id, now));
        self.counters.delivered += 1;
        self.counters.redelivered += 1;
        let mount = self.mount_of_queue(q);
        self.mounts[mount].tally.deliver(1, entry.data.len());
    }

    fn pump_new(&mut self, q: usize, c: usize, consumer: &mut Consumer) {
        while consumer.has_room() && !consumer.attachments.is_empty() && !consumer.owes(self.now.wall) {
            let Some(lane) = self.next_lane(q, consumer) else { return };
            let Some(at) = self.pick(consumer) else { return };
            if !self.position(q, c, consumer, lane) {
                return;
            }
            self.deliver_burst(q, c, consumer, at, lane, BURST);
        }
    }

    /// The highest lane with something new for a consumer; `None` also while that lane's page is being read.
    fn next_lane(&mut self, q: usize, consumer: &mut Consumer) -> Option<Priority> {
        for lane in self.queues[q].lanes().rev() {
            let place = consumer.lane_mut(lane.priority);
            let skipped = place.skip_to(lane.head);
            let (cursor, reading) = (place.cursor, place.reading);
            if skipped > 0 {
                consumer.lost += skipped;
                consumer.dirty = true;
            }
            if cursor < lane.visible {
                return (!reading).then_some(lane.priority);
            }
        }
        None
    }

    /// Makes the cursor stand in a block; false when that has to be read first.
    pub(super) fn position(&mut self, q: usize, c: usize, consumer: &mut Consumer, lane: Priority) -> bool {
        let place = consumer.lane_mut(lane);
        if place.at.as_ref().is_some_and(|at| at.seq == place.cursor && at.left > 0) {
            return true;
        }
        let cursor = place.cursor;
        while let Some(block) = place.ahead.pop_front() {
            if holds(&block, cursor) {
                place.at = stand(&block, cursor);
                if place.at.is_some() {
                    return true;
                }
            }
        }
        if let Some(block) = self.queues[q].volume_tail(self).find(q, lane, cursor) {
            place.at = stand(block, cursor);
            if place.at.is_some() {
                return true;
            }
        }
        place.at = None;
        place.reading = true;
        let (queue, volume) = (self.queues[q].key, self.queues[q].volume);
        let request = ReadRequest::Page { queue, lane, from: cursor, bytes_max: PAGE_BYTES };
        self.read(volume, Waiting::Page(q, c, lane), request);
        false
    }

    pub(super) fn handle_page(&mut self, q: usize, c: usize, lane: Priority, result: Option<ReadResult>) {
        let Some(mut consumer) = self.queues[q].consumers.get_mut(c).and_then(Option::take) else { return };
        let place = consumer.lane_mut(lane);
        place.reading = false;
        let visible = self.queues[q].lane(lane).map_or(0, |l| l.visible);
        let mut lost = 0;
        match result {
            Some(ReadResult::Blocks(blocks)) => {
                let cursor = place.cursor;
                let mut blocks = VecDeque::from(blocks);
                while blocks.front().is_some_and(|b| b.first + u64::from(b.count) <= cursor) {
                    blocks.pop_front();
                }
                match blocks.pop_front() {
                    Some(block) if block.first <= cursor => (place.at, place.ahead) = (stand(&block, cursor), blocks),
                    // Damage on disk, or a trim that came between: what is missing is not waited for.
                    Some(block) => lost = place.skip_to(block.first.min(visible)),
                    None => lost = place.skip_to(visible),
                }
                if place.at.is_none() && lost == 0 && place.cursor < visible {
                    lost = place.skip_to(place.cursor + 1);
                }
            }
            _ => {
                self.timers.set(Timer::Retry(q, c), self.now.mono.plus_ms(READ_RETRY_MS));
                self.queues[q].consumers[c] = Some(consumer);
                return;
            }
        }
        if lost > 0 {
            let head = self.queues[q].lane(lane).map_or(0, |l| l.head);
            let name = &self.queues[q].settings.name;
            let trimmed = consumer.lane_mut(lane).cursor <= head;
            if !trimmed {
                log::error!("queue {name:?} lane {}: {lost} messages cannot be read and are skipped", lane.get());
                self.counters.lost += lost;
                self.renew_epoch(q);
            }
            consumer.lost += lost;
            consumer.dirty = true;
            let cursor = consumer.lane_mut(lane).cursor;
            self.decide_range(q, &consumer, lane, cursor - lost, cursor, upstream::DROPPED);
        }
        self.queues[q].consumers[c] = Some(consumer);
        self.pumps.push((q, c));
    }

    pub(super) fn deliver_burst(
        &mut self,
        q: usize,
        c: usize,
        consumer: &mut Consumer,
        at: usize,
        lane: Priority,
        most: u32,
    ) {
        let (visible, epoch) = {
            let queue = &self.queues[q];
            (queue.lane(lane).map_or(0, |l| l.visible), queue.epoch.0)
        };
        let room = self.settings.limits.outbox_bytes_max as usize;
        let now = self.now;
        let mount = self.mount_of_queue(q);
        let bridge = self.is_bridge(consumer.attachments[at].conn);
        let owner = self.conns.get(&consumer.attachments[at].conn).and_then(|c| c.source_owner().cloned());
        let Some(mut place) = consumer.lane_mut(lane).at.take() else { return };
        for _ in 0..most {
            let a = &consumer.attachments[at];
            if place.left == 0 || place.seq >= visible || !consumer.has_room() || !a.has_credit() {
                break;
            }
            let bytes = place.bytes.clone();
            let mut reader = BlockReader::resume(place.base, place.left, &bytes[place.offset..]);
            let Some((stored, entry)) = reader.next_entry() else {
                log::error!("queue {:?}: a damaged block is skipped", self.queues[q].settings.name);
                self.counters.lost += u64::from(place.left);
                self.renew_epoch(q);
                consumer.lost += u64::from(place.left);
                let end = place.seq + u64::from(place.left);
                consumer.lane_mut(lane).skip_to(end);
                self.decide_range(q, consumer, lane, place.seq, end, upstream::DROPPED);
                return;
            };
            let seq = place.seq;
            place.offset = bytes.len() - reader.rest_len();
            place.left -= 1;
            place.seq += 1;
            let wanted = wanted(&consumer.filters, &entry);
            let (conn, stream, id) = (a.conn, a.stream, a.id);
            let echo = wanted && owner.as_ref().is_some_and(|owner| began_at(entry.data, &owner.edge));
            self.counters.echoes += u64::from(echo);
            let wanted = wanted && !echo;
            let loss = if wanted { self.given_up(q, consumer, bridge, lane, seq, stored, &entry, true) } else { None };
            if let Some(loss) = loss {
                self.count_loss(q, consumer, lane, seq, loss);
            }
            if !wanted {
                self.decide_lost(q, consumer, lane, seq, "no route of the bridge takes its channel");
            }
            if !wanted || loss.is_some() {
                consumer.lane_mut(lane).cursor = seq + 1;
                consumer.dirty = true;
                continue;
            }
            let Some(shaped) = self.shape(conn, entry.data) else {
                consumer.deliver_next(lane, id, now.mono);
                consumer.set_state(lane, seq, PendingState::Dying);
                self.fetch(q, c, lane, seq, None);
                continue;
            };
            let entry = Entry { data: &shaped, ..entry };
            let tag = consumer.attachments[at].tag(lane, seq, shaped.len());
            consumer.deliver_next(lane, id, now.mono);
            let suspect = seq < consumer.lane_mut(lane).suspect_below;
            let flags = if suspect { item_flag::REDELIVERED } else { 0 };
            self.item(conn, stream, epoch, tag, &delivery(flags, lane, seq, 1, stored, &entry));
            self.counters.delivered += 1;
            self.mounts[mount].tally.deliver(1, entry.data.len());
            if self.waiting_bytes(conn) >= room {
                break;
            }
        }
        consumer.lane_mut(lane).at = Some(place);
    }

    /// Why a message is not given any more, if it is not: its own time to live, or to a bridge the rules of outages.
    fn given_up(
        &self,
        q: usize,
        consumer: &mut Consumer,
        bridge: bool,
        lane: Priority,
        seq: u64,
        stored: Wall,
        entry: &Entry<'_>,
        first: bool,
    ) -> Option<Loss> {
        if self.is_over_ttl(Record::decode(entry.data).map_or(0, |r| r.ttl_ms), stored) {
            return Some(Loss::Expired);
        }
        if bridge { self.loss(q, consumer, lane, seq, stored, entry, first) } else { None }
    }
}

impl crate::queue::Queue {
    /// The tail of the volume this queue lives in.
    pub(super) fn volume_tail<'b>(&self, broker: &'b Broker) -> &'b crate::queue::Tail {
        match self.volume {
            Volume::Disk => &broker.disk.tail,
            Volume::Memory => &broker.memory.tail,
        }
    }
}
