//! Group commit: one batch gathers while the one before it becomes durable; acknowledgements leave when it is.

use super::mount::{Mount, Queues, Route};
use super::{Broker, Effect, Timer, Waiting};
use crate::model::{ConnId, Mono, Now, Position, Priority, Volume, Wall};
use crate::queue::{Freed, Queue, Tail};
use crate::session::{Publisher, RunKind};
use crate::store::block::{BlockWriter, HistoryLink};
use crate::store::schema::{self, META_CLOCK, META_COUNTERS, META_STOPPED};
use crate::store::{Batch, Block, Committed, Op, QueueKey, ReadRequest, Table};
use crate::wire::{DeliverItem, FrameType, Outcome, PublishAck, PublishNack, item_flag};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What tenants did is written at most this often, in milliseconds.
const TALLY_MS: u64 = 60_000;

/// One store as the broker sees it: what is durable, what is under way, what gathers.
pub(super) struct VolumeState {
    volume: Volume,
    pub(super) durable: Position,
    next: Position,
    flight: Option<Flight>,
    gathering: Gathering,
    /// Messages of the last batch: as many are expected again.
    last_messages: u32,
    pub(super) tail: Tail,
    /// Reads that must see what gathers now.
    after: Vec<(Position, Waiting, ReadRequest)>,
    /// The clock as stored.
    pub(super) clock: Wall,
    pub(super) clock_due: bool,
    /// The next commit is the last of an orderly stop.
    stopped_row: bool,
    /// When what tenants did was last written.
    tallied: Mono,
    /// Bridges' sources whose positions moved: places of mount and source. Their rows ride on what is written anyway.
    sources: BTreeSet<(usize, usize)>,
    /// Sessions that are not read from until this store catches up.
    pub(super) held: Vec<ConnId>,
}

/// What gathers for the next commit.
#[derive(Default)]
struct Gathering {
    ops: Vec<Op>,
    bytes: usize,
    messages: u32,
    blocks: hashbrown::HashMap<(usize, Priority), OpenBlock>,
    lanes: BTreeSet<(usize, Priority)>,
    /// How far each lane was trimmed: a later trim says all that an earlier one did.
    trims: BTreeMap<(QueueKey, Priority), u64>,
    /// Ids taken, by the mount's place.
    ids: BTreeMap<usize, Vec<u8>>,
    channels: BTreeSet<(usize, Box<str>)>,
    fanout: Fanout,
    publishers: Vec<(ConnId, u32)>,
    /// Consumers that are written for the first time: queue and place.
    born: Vec<(usize, usize)>,
    /// Since when a publish waits.
    urgent: Option<Mono>,
    /// Since when something waits that may ride on a publish.
    lazy: Option<Mono>,
}

/// A commit under way.
struct Flight {
    position: Position,
    visible: Vec<(usize, Priority, u64)>,
    fanout: Fanout,
    publishers: Vec<(ConnId, u32)>,
    born: Vec<(usize, usize)>,
    bytes: usize,
}

struct OpenBlock {
    first: u64,
    writer: BlockWriter,
    shared: bool,
}

/// Messages to fan out once they are durable, back to back in one buffer.
#[derive(Default)]
struct Fanout {
    records: Vec<u8>,
    items: Vec<FanItem>,
}

struct FanItem {
    end: usize,
    route: Rc<Route>,
    item: LiveItem,
}

/// What a subscriber learns beside the record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LiveItem {
    pub(super) epoch: u64,
    pub(super) lane: u8,
    pub(super) seq: u64,
    pub(super) offset: Option<u64>,
    pub(super) stored_ms: u64,
}

impl LiveItem {
    pub(super) fn deliver<'a>(&self, flags: u8, record: &'a [u8]) -> DeliverItem<'a> {
        let has_offset = if self.offset.is_some() { item_flag::HAS_OFFSET } else { 0 };
        DeliverItem {
            flags: flags | has_offset,
            lane: self.lane,
            seq: self.seq,
            offset: self.offset.unwrap_or(0),
            attempt: 1,
            stored_ms: self.stored_ms,
            record,
        }
    }
}

impl VolumeState {
    pub(super) fn new(volume: Volume, applied: Position, tail_bytes: usize) -> Self {
        Self {
            volume,
            durable: applied,
            next: Position(applied.0 + 1),
            flight: None,
            gathering: Gathering::default(),
            last_messages: 0,
            tail: Tail::new(tail_bytes),
            after: Vec::new(),
            clock: Wall(0),
            clock_due: false,
            stopped_row: false,
            tallied: Mono(0),
            sources: BTreeSet::new(),
            held: Vec::new(),
        }
    }

    /// The position of the commit that what is pushed now will be part of.
    pub(super) const fn next(&self) -> Position {
        self.next
    }

    /// Bytes accepted and not yet durable.
    pub(super) fn pending_bytes(&self) -> usize {
        self.gathering.bytes + self.flight.as_ref().map_or(0, |f| f.bytes)
    }

    /// Whether nothing gathers and nothing is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.flight.is_none() && !self.has_dirty_rows() && self.gathering.urgent.is_none()
    }

    pub(super) fn has_dirty_rows(&self) -> bool {
        self.gathering.lazy.is_some() || !self.gathering.ops.is_empty()
    }

    /// Adds an operation to the next commit.
    pub(super) fn push(&mut self, op: Op) {
        self.gathering.bytes += op.weight();
        self.gathering.ops.push(op);
    }

    /// A message waits for the next commit.
    pub(super) fn urge(&mut self, now: Mono) {
        self.gathering.messages += 1;
        self.gathering.urgent.get_or_insert(now);
    }

    /// A consumer is to be written at once; it is given nothing before the position returned is durable.
    pub(super) fn bear(&mut self, consumer: (usize, usize)) -> Position {
        self.gathering.born.push(consumer);
        self.next
    }

    /// Something may ride on the next commit, or be committed after a while.
    pub(super) fn nudge(&mut self, now: Mono) {
        self.gathering.lazy.get_or_insert(now);
    }

    /// Tells this publisher when the commit of this position is durable; that is the one under way (for a duplicate)
    /// or the next.
    pub(super) fn watch(&mut self, publisher: (ConnId, u32), position: Position) {
        let publishers = match &mut self.flight {
            Some(flight) if position <= flight.position => &mut flight.publishers,
            _ => &mut self.gathering.publishers,
        };
        if publishers.last() != Some(&publisher) {
            publishers.push(publisher);
        }
    }

    /// Remembers an id in the commit's row of a mount's dedupe window.
    pub(super) fn push_id(&mut self, mount: usize, id: [u8; 16]) {
        self.gathering.ids.entry(mount).or_default().extend_from_slice(&id);
        self.gathering.bytes += 16;
    }

    /// The row of a bridge's source is to be written with what is written next.
    pub(super) fn touch_source(&mut self, source: (usize, usize)) {
        self.sources.insert(source);
    }

    /// A source lost its place: its row goes.
    pub(super) fn forget_source(&mut self, source: (usize, usize), delete: Op) {
        self.sources.remove(&source);
        self.push(delete);
    }

    /// The row of this channel's history is to be written.
    pub(super) fn touch_channel(&mut self, queue: usize, channel: &str) {
        self.gathering.channels.insert((queue, channel.into()));
    }

    /// Adds a message to the end of a lane.
    pub(super) fn append(
        &mut self,
        queues: &[Queue],
        queue: usize,
        lane: Priority,
        seq: u64,
        now: Wall,
        link: Option<HistoryLink>,
        body: Option<u64>,
        data: &[u8],
    ) {
        if self.gathering.blocks.get(&(queue, lane)).is_some_and(|b| !b.writer.fits(data.len())) {
            self.seal(queues, queue, lane);
        }
        let g = &mut self.gathering;
        let block = g.blocks.entry((queue, lane)).or_insert_with(|| {
            g.bytes += 64;
            OpenBlock { first: seq, writer: BlockWriter::new(now), shared: false }
        });
        block.writer.push(now, link, body, data);
        block.shared |= body.is_some();
        g.lanes.insert((queue, lane));
        g.bytes += data.len() + 8;
    }

    /// Fans a message out once the next commit is durable.
    pub(super) fn fan_out_later(&mut self, route: &Rc<Route>, item: LiveItem, record: &[u8]) {
        let fanout = &mut self.gathering.fanout;
        fanout.records.extend_from_slice(record);
        fanout.items.push(FanItem { end: fanout.records.len(), route: Rc::clone(route), item });
        self.gathering.bytes += record.len();
    }

    fn seal(&mut self, queues: &[Queue], queue: usize, lane: Priority) {
        let Some(open) = self.gathering.blocks.remove(&(queue, lane)) else { return };
        let (first, count) = (open.first, open.writer.count());
        let bytes = open.writer.finish();
        // A block that refers to shared bodies is read from the store, which puts them back in place.
        if !open.shared {
            self.tail.push(queue, lane, Block { first, count, bytes: bytes.clone() });
        }
        let key = queues[queue].key;
        self.gathering.ops.push(Op::Append { queue: key, lane, first, count, block: bytes });
    }

    /// Everything is written but this: that the stop was in order, if that is what the next start may believe.
    pub(super) fn push_stopped(&mut self, now: Mono, in_order: bool) {
        (self.stopped_row, self.clock_due) = (in_order, true);
        self.nudge(now);
    }

    /// The store failed: forgets all that is not durable. Returns who waited to read it.
    pub(super) fn fail(&mut self) -> Vec<Waiting> {
        self.flight = None;
        self.gathering = Gathering::default();
        self.sources.clear();
        self.next = Position(self.durable.0 + 1);
        self.tail.clear();
        self.after.drain(..).map(|(_, waiting, _)| waiting).collect()
    }
}

impl Broker {
    /// Hands the gathered batch out when nothing is under way and it is worth it.
    pub(super) fn flush_if_due(&mut self) {
        self.flush_volume_if_due(Volume::Memory);
        if !self.health.is_failed() {
            self.flush_volume_if_due(Volume::Disk);
        }
    }

    fn flush_volume_if_due(&mut self, volume: Volume) {
        let (now, stopping) = (self.now.mono, self.stopping.is_some());
        let store = self.settings.store.clone_marks();
        let v = self.volume_mut(volume);
        if v.flight.is_some() {
            return;
        }
        let g = &v.gathering;
        let full = g.bytes >= store.batch_bytes;
        let wait_until = match (g.urgent, g.lazy) {
            // As many messages as half the last batch show that the usual crowd has arrived; a lone publisher's next
            // message meets a last batch of one and never waits.
            // A new consumer waits for nothing else, and comes seldom.
            _ if !g.born.is_empty() => now,
            (Some(_), _) if volume == Volume::Memory || g.messages.saturating_mul(2) >= v.last_messages => now,
            (Some(since), _) => since.plus_us(store.linger_us),
            (None, Some(_)) if volume == Volume::Memory => now,
            (None, Some(since)) => since.plus_ms(store.ack_linger_ms),
            (None, None) if g.ops.is_empty() => return,
            (None, None) => now,
        };
        if full || stopping || now >= wait_until {
            self.flush(volume);
        } else {
            self.timers.set_earlier(Timer::Flush, wait_until);
        }
    }

    fn flush(&mut self, volume: Volume) {
        let now = self.now;
        if volume == Volume::Disk {
            let touched: Vec<usize> = self.disk.gathering.ids.keys().copied().collect();
            touched.into_iter().for_each(|mount| self.expire_ids(mount));
        }
        let Self { queues, mounts, disk, memory, .. } = self;
        let v = match volume {
            Volume::Disk => disk,
            Volume::Memory => memory,
        };
        let mut open: Vec<(usize, Priority)> = v.gathering.blocks.keys().copied().collect();
        // The bytes on disk are a function of what happened, not of the order of a hash.
        open.sort_unstable();
        for (queue, lane) in open {
            v.seal(queues, queue, lane);
        }
        v.push_rows(queues, mounts, now);
        let g = std::mem::take(&mut v.gathering);
        if g.ops.is_empty() && g.publishers.is_empty() && g.fanout.items.is_empty() {
            // Something was looked at and nothing changed: flash lasts.
            return;
        }
        let position = v.next;
        v.next = Position(position.0 + 1);
        v.last_messages = g.messages;
        let visible = |(queue, lane): (usize, Priority)| {
            let next = queues[queue].lane(lane).map_or(1, |l| l.next);
            (queue, lane, next)
        };
        v.flight = Some(Flight {
            position,
            visible: g.lanes.into_iter().map(visible).collect(),
            fanout: g.fanout,
            publishers: g.publishers,
            born: g.born,
            bytes: g.bytes,
        });
        self.effects.push_back(Effect::Commit { volume, batches: vec![Batch { position, ops: g.ops }] });
    }

    pub(super) fn handle_committed(&mut self, volume: Volume, done: &Committed) {
        let now = self.now;
        if volume == Volume::Disk {
            self.counters.commits += 1;
            self.counters.commit_bytes += done.bytes_written;
            self.health.file_bytes = done.file_bytes;
        }
        let v = self.volume_mut(volume);
        let Some(flight) = v.flight.take() else { return };
        v.durable = flight.position;
        let ready: Vec<_> = v.after.extract_if(.., |(position, ..)| *position <= flight.position).collect();
        let held = std::mem::take(&mut v.held);
        for (queue, lane, next) in flight.visible {
            let q = &mut self.queues[queue];
            let lane = q.lane_mut(lane);
            lane.visible = lane.visible.max(next);
            self.pump_queue(queue);
        }
        self.pumps.extend(flight.born);
        let mut from = 0;
        for FanItem { end, route, item } in &flight.fanout.items {
            self.fan_out(route, *item, &flight.fanout.records[from..*end]);
            from = *end;
        }
        for (conn, stream) in flight.publishers {
            self.send_acks(conn, stream);
            self.hold_or_release(conn);
        }
        for (_, waiting, request) in ready {
            self.read(volume, waiting, request);
        }
        for conn in held {
            if let Some(c) = self.conns.get_mut(&conn) {
                c.waits_for_store = false;
            }
            self.hold_or_release(conn);
        }
        if volume == Volume::Disk {
            self.check_file_size();
        }
        self.now = now;
    }

    /// Tells a publisher what is decided, in order.
    pub(super) fn send_acks(&mut self, conn: ConnId, stream: u32) {
        let mut durable = [Position(0); 2];
        durable[Publisher::slot(Volume::Disk)] = self.disk.durable;
        durable[Publisher::slot(Volume::Memory)] = self.memory.durable;
        loop {
            let interims = self.interims_left(conn);
            let Some(c) = self.conns.get_mut(&conn) else { return };
            let s = &mut c.session;
            let Some(run) = s.publishers.get_mut(&stream).and_then(|p| p.poll(durable, interims)) else { return };
            s.unacked_messages = s.unacked_messages.saturating_sub(run.count);
            s.unacked_bytes = s.unacked_bytes.saturating_sub(run.bytes);
            match run.kind {
                RunKind::Ack(outcome) => {
                    let head = PublishAck { first: run.first, count: run.count, outcome };
                    self.control(conn, stream, FrameType::PublishAck, &head);
                    if outcome == Outcome::Accepted {
                        self.told_interim(conn, stream, run.first, run.count);
                    }
                }
                RunKind::Nack(code, retry_after_ms) => {
                    *self.counters.refused.entry(code).or_default() += u64::from(run.count);
                    self.mounts[c.mount].tally.refuse(code, u64::from(run.count));
                    let detail = super::publish::explain(code);
                    let head =
                        PublishNack { first: run.first, count: run.count, code: code as u16, retry_after_ms, detail };
                    self.control(conn, stream, FrameType::PublishNack, &head);
                }
            }
        }
    }

    /// Reads once everything taken so far is durable.
    pub(super) fn read_after_commit(&mut self, volume: Volume, waiting: Waiting, request: ReadRequest) {
        let failed = volume == Volume::Disk && self.health.is_failed();
        let v = self.volume_mut(volume);
        let position = match &v.flight {
            // Nothing will be durable until it is open again: the read itself says how the store is.
            _ if failed => v.durable,
            _ if v.gathering.urgent.is_some() || !v.gathering.ops.is_empty() => v.next,
            Some(flight) => flight.position,
            None => v.durable,
        };
        if position <= v.durable {
            self.read(volume, waiting, request);
        } else {
            v.after.push((position, waiting, request));
        }
    }

    /// Writes down that messages left a queue.
    pub(super) fn push_freed(&mut self, queue: usize, freed: &[(Priority, Freed)]) {
        let key = self.queues[queue].key;
        let volume = self.queues[queue].volume;
        let now = self.now.mono;
        for (lane, gone) in freed {
            if volume == Volume::Disk {
                for first in &gone.extents {
                    let row = Bytes::copy_from_slice(&schema::lane_key(key, *lane, *first));
                    self.disk.push(Op::Delete { table: Table::Extent, key: row });
                }
            }
            let below = self.queues[queue].lane(*lane).map_or(0, |l| l.head);
            let v = self.volume_mut(volume);
            v.gathering.trims.insert((key, *lane), below);
            v.nudge(now);
            self.decide_freed(queue, *lane, below);
        }
    }

    /// Lets go what the rules of a queue let go.
    pub(super) fn release(&mut self, queue: usize) {
        let (freed, aged) =
            self.queues[queue].release(|age_ms| self.leaps.back(Wall(self.now.wall.0.saturating_sub(age_ms))));
        self.counters.expired += aged;
        if !freed.is_empty() {
            self.push_freed(queue, &freed);
        }
    }

    /// Forgets the ids of a mount that are over the bounds of its window.
    pub(super) fn expire_ids(&mut self, mount: usize) {
        let mount = &mut self.mounts[mount];
        for position in mount.dedupe.expire(self.now.wall) {
            let key = Bytes::copy_from_slice(&schema::dedupe_key(mount.id, position));
            self.disk.push(Op::Delete { table: Table::Dedupe, key });
            self.disk.nudge(self.now.mono);
        }
    }
}

impl VolumeState {
    /// Adds the rows that changed. Those of the memory volume are never read back.
    fn push_rows(&mut self, queues: &mut Queues, mounts: &mut [Mount], now: Now) {
        for ((queue, lane), below) in std::mem::take(&mut self.gathering.trims) {
            self.push(Op::Trim { queue, lane, below });
        }
        if self.volume == Volume::Memory {
            for queue in queues.iter_mut().filter(|q| q.volume == Volume::Memory) {
                queue.dirty = false;
                queue.consumers.iter_mut().flatten().for_each(|c| c.dirty = false);
            }
            return;
        }
        let g = &mut self.gathering;
        for (queue, channel) in std::mem::take(&mut g.channels) {
            let q = &queues[queue];
            if let Some(row) = q.channels.get(&channel) {
                let key = schema::named_key(q.key, &channel);
                g.ops.push(Op::Put { table: Table::Channel, key, value: schema::encode(row) });
            }
        }
        for queue in queues.iter_mut().filter(|q| q.volume == Volume::Disk) {
            if std::mem::take(&mut queue.dirty) {
                let key = Bytes::copy_from_slice(&schema::queue_key(queue.key));
                g.ops.push(Op::Put { table: Table::Queue, key, value: schema::encode(&queue.row()) });
            }
            for consumer in queue.consumers.iter_mut().flatten() {
                if std::mem::take(&mut consumer.dirty) {
                    g.ops.push(Op::Ack {
                        queue: queue.key,
                        consumer: consumer.name.clone(),
                        progress: schema::encode(&consumer.row()),
                    });
                }
            }
        }
        for (mount, mut ids) in std::mem::take(&mut g.ids) {
            let mut value = Vec::with_capacity(8 + ids.len());
            value.extend_from_slice(&now.wall.0.to_be_bytes());
            value.append(&mut ids);
            let key = Bytes::copy_from_slice(&schema::dedupe_key(mounts[mount].id, self.next));
            g.ops.push(Op::Put { table: Table::Dedupe, key, value: value.into() });
        }
        if std::mem::take(&mut queues.numbers_dirty) {
            let key = Bytes::from_static(META_COUNTERS);
            g.ops.push(Op::Put { table: Table::Meta, key, value: schema::encode(&queues.numbers) });
        }
        if self.stopped_row || !g.ops.is_empty() {
            for (mount, source) in std::mem::take(&mut self.sources) {
                let mount = &mut mounts[mount];
                g.ops.extend(mount.sources.write(mount.id, source, self.next));
            }
        }
        // What tenants did rides on what is written anyway: losing a minute of it is better than a commit of its own.
        if self.stopped_row || (!g.ops.is_empty() && now.mono.ms_since(self.tallied) >= TALLY_MS) {
            self.tallied = now.mono;
            for mount in mounts.iter_mut().filter(|m| m.tally != m.kept_tally) {
                let value = schema::encode(&mount.tally);
                g.ops.push(Op::Put { table: Table::Meta, key: schema::tally_key(mount.id), value });
                mount.kept_tally.clone_from(&mount.tally);
            }
        }
        if std::mem::take(&mut self.stopped_row) {
            let key = Bytes::from_static(META_STOPPED);
            let value = Bytes::copy_from_slice(&now.wall.0.to_be_bytes());
            g.ops.push(Op::Put { table: Table::Meta, key, value });
        }
        if std::mem::take(&mut self.clock_due) {
            self.clock = now.wall;
            let value = Bytes::copy_from_slice(&now.wall.0.to_be_bytes());
            g.ops.push(Op::Put { table: Table::Meta, key: Bytes::from_static(META_CLOCK), value });
        }
    }
}

/// The marks `flush` looks at, by value: the borrow of the settings would last too long.
struct Marks {
    batch_bytes: usize,
    linger_us: u64,
    ack_linger_ms: u64,
}

impl crate::config::StoreSettings {
    fn clone_marks(&self) -> Marks {
        Marks {
            batch_bytes: self.batch_bytes as usize,
            linger_us: u64::from(self.linger_us),
            ack_linger_ms: u64::from(self.ack_linger_ms),
        }
    }
}
