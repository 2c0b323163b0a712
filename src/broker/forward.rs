//! What a bridge's consumer has beyond others: its lanes share by weights, and each strictly in order, so that the upstream
//! can tell by a sequence what it has; and what waited too long is given up by the rules of outages.

use super::deliver::{BURST, PAGE_BYTES};
use super::entries::{channel_of, holds};
use super::{Broker, Peer, Waiting, upstream};
use crate::config::BridgeSettings;
use crate::model::{ConnId, Priority, Wall};
use crate::queue::{Consumer, Forward, Loss, Outage, PendingState, Shares, Thinner};
use crate::store::block::{BlockReader, Entry};
use crate::store::{Block, ReadRequest, ReadResult};

/// What a lane has for a bridge.
#[derive(Clone, Copy)]
enum Turn {
    /// This message comes back.
    Back(u64),
    /// Something new, so many messages at most.
    New(u32),
}

impl Broker {
    /// Whether a session is that of a bridge of this process.
    pub(super) fn is_bridge(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_some_and(|c| c.peer.is_bridge())
    }

    /// The weights of a bridge's lanes, where this session is one: that of another broker has said nothing of them.
    fn weights_of(&self, conn: ConnId) -> Option<Vec<u32>> {
        let c = self.conns.get(&conn)?;
        match &c.peer {
            Peer::Bridge { name, .. } => {
                let of = self.settings.bridges.iter().find(|b| b.name == **name);
                Some(of.map_or_else(Vec::new, |b| b.weights.clone()))
            }
            _ => c.source_owner().map(|_| BridgeSettings::new("").weights),
        }
    }

    /// A session consumes: if it is a bridge, the consumer is one's from now on.
    pub(super) fn adopt_forward(&mut self, conn: ConnId, q: usize, c: usize) {
        let Some(weights) = self.weights_of(conn) else { return };
        if let Some(consumer) = self.queues[q].consumers[c].as_mut() {
            match &mut consumer.forward {
                Some(forward) => forward.shares.set(&weights),
                None => {
                    let forward = Forward { shares: Shares::new(&weights), thinner: Thinner::default() };
                    consumer.forward = Some(Box::new(forward));
                }
            }
        }
    }

    /// Gives queues their rules of outages, and bridges their weights: after a start or a reload.
    pub(super) fn renew_outages(&mut self) {
        for q in 0..self.queues.len() {
            let queue = &self.queues[q];
            let (name, tenant) = (&queue.settings.name, &queue.settings.tenant);
            let of = self.settings.outage.iter().filter(|o| o.queue == *name && o.tenant == *tenant);
            let outage = Outage::new(of);
            if outage.is_some() || queue.outage.is_some() {
                self.queues[q].set_outage(outage);
                self.read_places(q);
            }
            for c in 0..self.queues[q].consumers.len() {
                let consumer = self.queues[q].consumers[c].as_ref();
                let conns: Vec<ConnId> = consumer.iter().flat_map(|c| &c.attachments).map(|a| a.conn).collect();
                conns.into_iter().for_each(|conn| self.adopt_forward(conn, q, c));
            }
        }
    }

    /// Reads on which messages are the newest of their channels.
    fn read_places(&mut self, q: usize) {
        let queue = &self.queues[q];
        let Some((lane, from, _)) = queue.outage.as_ref().and_then(|o| o.unread()) else { return };
        let (key, volume) = (queue.key, queue.volume);
        let request = ReadRequest::Page { queue: key, lane, from, bytes_max: PAGE_BYTES };
        self.read_after_commit(volume, Waiting::Places(q, lane, from), request);
    }

    /// A page of messages whose channels are to be noted.
    pub(super) fn handle_places(&mut self, q: usize, lane: Priority, from: u64, result: Option<ReadResult>) {
        let Some(mut outage) = self.queues[q].outage.take() else { return };
        // A reload meanwhile began anew: its own read goes on.
        let current = outage.unread().filter(|(l, at, _)| (*l, *at) == (lane, from));
        let Some((_, _, to)) = current else {
            self.queues[q].outage = Some(outage);
            return;
        };
        let heads = [1; 10];
        let mut next = from;
        if let Some(ReadResult::Blocks(blocks)) = &result {
            for block in blocks {
                let Some(mut reader) = BlockReader::new(&block.bytes) else { continue };
                let mut seq = block.first;
                while let Some((_, entry)) = reader.next_entry() {
                    if let Some(channel) = channel_of(entry.data).filter(|_| (from..to).contains(&seq)) {
                        outage.note(channel.as_str(), lane, seq, || heads);
                    }
                    seq += 1;
                }
                next = next.max(block.first + u64::from(block.count));
            }
        }
        // Where nothing more can be read, what is not noted is kept.
        outage.read_to(lane, if next > from { next } else { u64::MAX });
        let done = !outage.is_unread(lane);
        self.queues[q].outage = Some(outage);
        if done {
            self.pump_queue(q);
        }
        self.read_places(q);
    }

    /// Whether a message is not to be forwarded any more. `first` is whether it is given for the first time.
    pub(super) fn loss(
        &self,
        q: usize,
        consumer: &mut Consumer,
        lane: Priority,
        seq: u64,
        stored: Wall,
        entry: &Entry<'_>,
        first: bool,
    ) -> Option<Loss> {
        let queue = &self.queues[q];
        let outage = queue.outage.as_ref()?;
        let channel = channel_of(entry.data)?;
        let age_ms = self.now.wall.ms_since(self.leaps.forward(stored));
        let waited = queue.waited(channel.as_str(), lane, seq, stored, entry.history);
        let thinner = consumer.forward.as_mut().filter(|_| first).map(|f| &mut f.thinner);
        outage.judge(&waited, age_ms, &self.leaps, thinner)
    }

    /// A consumer is not given a message, and is done with it.
    pub(super) fn count_loss(&mut self, q: usize, consumer: &mut Consumer, lane: Priority, seq: u64, loss: Loss) {
        consumer.losses.add(loss);
        self.decide_lost(q, consumer, lane, seq, upstream::explain(loss));
        match loss {
            Loss::Expired => self.counters.expired += 1,
            Loss::Superseded => self.counters.superseded += 1,
            Loss::Thinned => self.counters.thinned += 1,
        }
    }

    /// Gives a bridge its messages; `read` is a block that was just read for it.
    pub(super) fn pump_shares(
        &mut self,
        q: usize,
        c: usize,
        consumer: &mut Consumer,
        read: Option<(Priority, &Block)>,
    ) {
        let mut blocked = [false; 10];
        while !consumer.attachments.is_empty() {
            let Some((lane, turn)) = self.next_share(q, consumer, blocked) else { return };
            let Some(at) = self.pick(consumer) else { return };
            let credit = consumer.attachments[at].credit_bytes;
            match turn {
                Turn::Back(seq) => {
                    let read = read.filter(|(l, block)| *l == lane && holds(block, seq)).map(|(_, block)| block);
                    match read.or_else(|| self.queues[q].volume_tail(self).find(q, lane, seq)).cloned() {
                        Some(block) => self.redeliver(q, c, consumer, at, lane, seq, &block),
                        // One read at a time: a window of reads would be as many blocks in memory.
                        None if consumer.fetching > 0 => blocked[lane.index()] = true,
                        None => {
                            consumer.set_state(lane, seq, PendingState::Fetching);
                            self.fetch(q, c, lane, seq, None);
                        }
                    }
                }
                Turn::New(most) if self.position(q, c, consumer, lane) => {
                    self.deliver_burst(q, c, consumer, at, lane, most.min(BURST));
                }
                // It is being read; the other lanes go on.
                Turn::New(_) => {}
            }
            let bytes = credit - consumer.attachments.get(at).map_or(credit, |a| a.credit_bytes);
            if let Some(forward) = &mut consumer.forward {
                forward.shares.charge(lane, bytes.unsigned_abs());
            }
        }
    }

    /// The lane whose turn it is, and what it has.
    fn next_share(&mut self, q: usize, consumer: &mut Consumer, blocked: [bool; 10]) -> Option<(Priority, Turn)> {
        let mut turns = [None; 10];
        let mut lost = Vec::new();
        for (above, lane) in (0..).zip(self.queues[q].lanes().rev()) {
            let priority = lane.priority;
            let place = consumer.lane_mut(priority);
            let skipped = place.skip_to(lane.head);
            let (cursor, reading) = (place.cursor, place.reading);
            if skipped > 0 {
                consumer.lost += skipped;
                consumer.dirty = true;
            }
            let mut back = consumer.first_back(priority);
            while let Some(gone) = back.filter(|p| p.seq < lane.head && p.state != PendingState::Fetching) {
                consumer.settle(priority, gone.seq);
                consumer.lost += 1;
                lost.push((priority, gone.seq));
                back = consumer.first_back(priority);
            }
            // Within a lane nothing passes what comes back, not even while that waits: the upstream goes by the sequence.
            let unread = || self.queues[q].outage.as_ref().is_some_and(|o| o.is_unread(priority));
            if consumer.attachments.iter().all(|a| a.holds(priority)) {
                continue;
            }
            turns[priority.index()] = match back.map(|p| (p.seq, p.state)) {
                Some((seq, PendingState::Waiting(due))) => {
                    (due <= self.now.wall && !unread()).then_some(Turn::Back(seq))
                }
                Some(_) => None,
                None if cursor >= lane.visible || reading || unread() => None,
                None => Some(consumer.room_below(above)).filter(|most| *most > 0).map(Turn::New),
            };
        }
        for (lane, seq) in lost {
            self.decide_lost(q, consumer, lane, seq, upstream::DROPPED);
        }
        let shares = &mut consumer.forward.as_mut()?.shares;
        let ready = (0..10).filter_map(Priority::new).filter(|p| turns[p.index()].is_some() && !blocked[p.index()]);
        let lane = shares.choose(ready)?;
        Some((lane, turns[lane.index()]?))
    }
}
