//! A publish: judged whole before anything of it is kept.

use super::commit::LiveItem;
use super::conn::Conn;
use super::expand::{Shapes, shrink};
use super::mount::Route;
use super::quotas::Takers;
use super::rates::retry_ms;
use super::sources::Place;
use super::tenants::Refused;
use super::tracks::Waiter;
use super::{Broker, Effect, signatures};
use crate::model::limits::{CAPTURES_MAX, SHARED_BODY_BYTES_MIN};
use crate::model::{ConnId, MessageId, Position, Record, RecordError, Volume, is_compressed};
use crate::protocols::{Fault, Records};
use crate::queue::Admission;
use crate::routing::Grants;
use crate::seal::{PublicKeys, expanded_record_len};
use crate::session::{Expect, Patience, Publisher, RunKind};
use crate::store::schema;
use crate::store::{Op, Table};
use crate::wire::{Code, Contract, Outcome, Source};
use bytes::Bytes;
use std::rc::Rc;

/// What became of a message that was not refused.
pub(super) struct Taken {
    pub(super) outcome: Outcome,
    pub(super) wait: [Position; 2],
    /// The disk's commit that holds it, whether the publisher waits for it or not; 0 where none does.
    pub(super) held: Position,
    /// Contract `upstream`: what it is known by until the upstream has it, and whether it was known before.
    pub(super) track: Option<(MessageId, bool)>,
}

/// Streams with this bit are opened by the broker.
pub(super) const BROKER_STREAM: u32 = 0x8000_0000;
/// Milliseconds after which a full queue may have room.
pub(super) const RETRY_FULL_MS: u32 = 1_000;
/// Milliseconds after which a full disk may have space.
const RETRY_STORAGE_MS: u32 = 5_000;

impl Broker {
    pub(super) fn handle_publish(
        &mut self,
        conn: ConnId,
        stream: u32,
        contract: Contract,
        first: u64,
        records: Records<'_>,
        source: Option<Source<'_>>,
    ) -> Result<(), Fault> {
        let streams_max = self.settings.limits.streams_max as usize;
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        if stream == 0 || stream & BROKER_STREAM != 0 {
            return Err(Fault::new(Code::BadStream, "publish on a stream of your own: 1 to 2^31-1"));
        }
        if c.session.streams.contains_key(&stream) {
            return Err(Fault::new(Code::BadStream, "this stream is in use for something else"));
        }
        let mount = c.mount;
        let publishers = &mut c.session.publishers;
        if !publishers.contains_key(&stream) && publishers.len() >= streams_max {
            return Err(Fault::new(Code::TooManyStreams, "this session publishes on as many streams as it may"));
        }
        let count = records.left();
        if first.checked_add(u64::from(count)).is_none() {
            return Err(Fault::new(Code::BadPublishNumber, "publish numbers end at 2^64-1"));
        }
        let mut places = match source {
            None => None,
            Some(source) => {
                let slot = self.source_slot(conn, &source)?;
                Some(source.sequences(count).map(move |seq| (slot, seq)))
            }
        };
        // What a bridge brings is not owed to an upstream: it waits for one answer, and publishes again what it knows of.
        let demands = !self.conns.get(&conn).is_some_and(Conn::is_of_bridge);
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        let mut publisher = std::mem::take(c.session.publishers.entry(stream).or_default());
        let mut grants = c.grants.take();
        let mut fenced = None;
        // What a bridge of this process brings is paced by its own settings; quotas hold for it as for all.
        let limited = self.is_limited(mount) && !self.is_bridge(conn);
        let expect = publisher.expect(first);
        let patience = if limited {
            publisher.judge(expect, self.now.mono, count, self.settings.limits.window_messages)
        } else {
            Patience::Unasked
        };
        match expect {
            Expect::Next => publisher.advance(first, count),
            Expect::Fenced => fenced = Some(Code::Fenced),
            Expect::Wrong => fenced = Some(Code::BadPublishNumber),
        }
        let mut bytes = 0;
        let mut last = [Position(0); 2];
        for (number, record) in (first..first + u64::from(count)).zip(records) {
            bytes += record.len() as u64;
            let place = places.as_mut().and_then(Iterator::next);
            let verdict = match fenced {
                Some(code) => Err((code, 0)),
                None if limited => match self.spend(conn, mount, self.cost(record)) {
                    Ok(()) => self.publish_at(place, mount, grants.as_mut(), contract, demands, record),
                    Err(wait_us) => {
                        publisher.wait(self.now.mono, wait_us);
                        Err((Code::RateLimited, retry_ms(wait_us)))
                    }
                },
                None => self.publish_at(place, mount, grants.as_mut(), contract, demands, record),
            };
            let (kind, wait) = match verdict {
                Ok(taken) => {
                    if let Some((id, again)) = taken.track {
                        self.mounts[mount].tracks.wait(id, Waiter { conn, stream, number, again });
                    }
                    (RunKind::Ack(taken.outcome), taken.wait)
                }
                Err((code, retry)) => {
                    if code.is_retryable() && fenced.is_none() {
                        publisher.fence(number);
                        fenced = Some(Code::Fenced);
                    }
                    (RunKind::Nack(code, retry), [Position(0); 2])
                }
            };
            last = [last[0].max(wait[0]), last[1].max(wait[1])];
            publisher.push(number, record.len() as u64, kind, wait);
        }
        // A stream is told in order: the last commit it waits for tells the rest.
        for volume in [Volume::Disk, Volume::Memory] {
            let position = last[Publisher::slot(volume)];
            let v = self.volume_mut(volume);
            if position > v.durable {
                v.watch((conn, stream), position);
            }
        }
        let minded = if limited { self.mind(conn, &publisher, patience) } else { Ok(()) };
        if let Some(c) = self.conns.get_mut(&conn) {
            c.grants = grants;
            c.session.unacked_messages += count;
            c.session.unacked_bytes += bytes;
            c.session.publishers.insert(stream, publisher);
        }
        self.send_acks(conn, stream);
        minded
    }

    /// Bytes that a publish is charged for: what it is expanded, since that is what it costs to check and to deliver.
    fn cost(&self, record: &[u8]) -> u64 {
        let most = self.settings.limits.message_bytes_max as usize;
        let expanded = || expanded_record_len(&Record::decode(record).ok()?).ok();
        let expanded = if is_compressed(record) { expanded() } else { None };
        expanded.map_or(record.len(), |len| len.clamp(record.len(), most.max(record.len()))) as u64
    }

    /// A publish, at its place in a bridge's source where it has one.
    fn publish_at(
        &mut self,
        place: Option<Place>,
        mount: usize,
        grants: Option<&mut Grants>,
        asked: Contract,
        demands: bool,
        bytes: &[u8],
    ) -> Result<Taken, Refused> {
        let Some(place) = place else { return self.publish_one(mount, grants, asked, demands, bytes) };
        if let Some(known) = self.known_at(mount, place) {
            return known;
        }
        let verdict = self.publish_one(mount, grants, asked, demands, bytes);
        self.settle_at(mount, place, verdict)
    }

    fn publish_one(
        &mut self,
        mount: usize,
        grants: Option<&mut Grants>,
        asked: Contract,
        demands: bool,
        bytes: &[u8],
    ) -> Result<Taken, Refused> {
        if bytes.len() > self.settings.limits.message_bytes_max as usize {
            return Err((Code::MessageTooLarge, 0));
        }
        let record = Record::decode(bytes).map_err(|e| match e {
            RecordError::Channel(_) => (Code::BadChannel, 0),
            _ => (Code::BadRecord, 0),
        })?;
        // Before anything else is told of it: whether its id is known is nobody's business who may not publish it.
        if record.channel.is_reserved() || !grants.is_some_and(|g| g.may_publish(record.channel.as_str())) {
            return Err((Code::Forbidden, 0));
        }
        if self.stopping.is_some() {
            return Err((Code::ShuttingDown, RETRY_FULL_MS));
        }
        let route = self.mounts[mount].route(record.channel.as_str());
        // Before its id is looked for: nobody learns from a message that is not signed what was published.
        self.check_contents(&record, route.signers.as_ref())?;
        let tracked = demands && self.is_tracked(asked, &route.queues);
        if tracked && let Some(known) = self.known_upstream(mount, record.id) {
            return known;
        }
        if let Some(seen) = self.mounts[mount].dedupe.seen(record.id, self.now.wall) {
            if tracked {
                // Its first copy came without the contract, or too long ago: nobody knows whether an upstream has it.
                return Err((Code::NotForwarded, 0));
            }
            let mut wait = [Position(0); 2];
            if let Some((volume, position)) = seen.stored {
                // The first copy was in the commit that failed: its position will be another's.
                if volume == Volume::Disk && self.health.is_failed() && position > self.disk.durable {
                    return Err((Code::StorageFailed, RETRY_FULL_MS));
                }
                wait[Publisher::slot(volume)] = position;
            }
            self.counters.duplicates += 1;
            let held = wait[Publisher::slot(Volume::Disk)];
            return Ok(Taken { outcome: Outcome::Duplicate, wait, held, track: None });
        }
        if tracked {
            self.admit_upstream(mount, &record, &route.upstream)?;
        }
        let takers = self.judge(mount, asked, &record, bytes, &route)?;
        if takers.over > 0 {
            self.make_quota_room(mount, &takers.list, &record, bytes.len() as u64);
        }
        Ok(self.take(mount, asked, tracked, &record, bytes, &route, &takers.list))
    }

    /// Whether the payload is what the record says of it, and signed by one of these where that is asked.
    fn check_contents(&mut self, record: &Record<'_>, signers: Option<&PublicKeys>) -> Result<(), Refused> {
        if !record.compressed && signers.is_none() {
            return Ok(());
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let plain = if record.compressed { self.check_compressed(record, &mut scratch) } else { Ok(*record) };
        let checked = plain.and_then(|plain| signers.map_or(Ok(()), |keys| signatures::check(&plain, keys)));
        shrink(&mut scratch);
        self.scratch = scratch;
        checked.map_err(|code| (code, 0))
    }

    /// Which queues take the message. Nothing is changed unless all that must take it can.
    fn judge(
        &mut self,
        mount: usize,
        asked: Contract,
        record: &Record<'_>,
        bytes: &[u8],
        route: &Route,
    ) -> Result<Takers, Refused> {
        let len = bytes.len() as u64;
        if route.queues.len() > CAPTURES_MAX {
            return Err((Code::BadOptions, 0));
        }
        let queues = &self.queues;
        let on_disk = record.retain || route.queues.iter().any(|&q| queues[q].volume == Volume::Disk);
        if on_disk {
            self.health.admit(record.priority, self.settings.store.alarm_priority).map_err(|code| match code {
                Code::StorageFull => (code, RETRY_STORAGE_MS),
                _ => (code, RETRY_FULL_MS),
            })?;
        } else if asked == Contract::Disk {
            return Err((Code::NoQueue, 0));
        }
        if record.delay_ms > 0 && route.queues.is_empty() {
            // Nobody would keep it until then.
            return Err((Code::NoQueue, 0));
        }
        let mut takers = Vec::with_capacity(route.queues.len());
        for &q in &route.queues {
            match self.queues[q].admit(len, self.queues[q].lane_for(record.channel.as_str(), record.priority)) {
                Admission::Reject if len > self.queues[q].settings.bytes_max => {
                    return Err((Code::MessageTooLarge, 0));
                }
                Admission::Reject => return Err((Code::QueueFull, RETRY_FULL_MS)),
                admission => takers.push((q, admission)),
            }
        }
        for &(q, admission) in &takers {
            let queue = &mut self.queues[q];
            if !queue.settings.history || admission == Admission::DropNewest {
                continue;
            }
            let mut forgotten = Vec::new();
            let room = queue.may_link(record.channel.as_str(), &mut forgotten);
            self.push_forgotten(q, forgotten);
            if !room {
                return Err((Code::LimitReached, RETRY_FULL_MS));
            }
        }
        if record.retain && !record.payload.is_empty() {
            let limits = &self.settings.limits;
            let mount = &self.mounts[mount];
            let old = mount.retained.get(record.channel.as_str()).copied();
            let count = mount.retained.len() + usize::from(old.is_none());
            let total = mount.retained_bytes - u64::from(old.unwrap_or(0)) + len;
            if count > limits.retained_max as usize || total > limits.retained_bytes_max {
                return Err((Code::LimitReached, RETRY_FULL_MS));
            }
        }
        self.fit_channels(mount, &takers, record)?;
        let over = self.over_stored(mount, &takers, len, record)?;
        Ok(Takers { list: takers, over })
    }

    fn take(
        &mut self,
        mount: usize,
        asked: Contract,
        tracked: bool,
        record: &Record<'_>,
        bytes: &[u8],
        route: &Rc<Route>,
        takers: &[(usize, Admission)],
    ) -> Taken {
        let now = self.now;
        let mut contract = asked;
        let mut live = LiveItem { lane: record.priority.get(), stored_ms: now.wall.0, ..LiveItem::default() };
        let mut stored = false;
        let (mut disk, mut memory) = (false, false);
        let mut parts = Vec::new();
        let history = self.history_queue(route);
        let sharers = takers
            .iter()
            .filter(|(q, a)| *a != Admission::DropNewest && self.queues[*q].volume == Volume::Disk)
            .count();
        // What is put back in front of a shared payload is its length in the fewest bytes, which never end in 0.
        let shortest = bytes.get(bytes.len() - record.payload.len() - 1).is_some_and(|last| *last != 0);
        let share = sharers > 1 && record.payload.len() > SHARED_BODY_BYTES_MIN && record.delay_ms == 0 && shortest;
        let body = share.then(|| self.push_body(mount, record.payload, sharers as u32));
        for &(q, admission) in takers {
            if admission == Admission::DropNewest {
                self.queues[q].dropped += 1;
                self.counters.dropped_full += 1;
                continue;
            }
            if admission == Admission::DropOldest {
                self.drop_oldest(q, bytes.len() as u64, record);
            }
            let queue = &self.queues[q];
            stored = true;
            contract = contract.max(queue.settings.contract);
            match queue.volume {
                Volume::Disk => disk = true,
                Volume::Memory => memory = true,
            }
            if record.delay_ms > 0 {
                self.delay(q, record, bytes);
                continue;
            }
            let shared = body.filter(|_| self.queues[q].volume == Volume::Disk);
            let placed = self.append(q, record, bytes, shared);
            if tracked && let Some(part) = self.part_of(q, route, placed) {
                parts.push(part);
            }
            // The channel's history is that of one queue: another's offsets would be a different count.
            let mine = history == Some(q);
            if live.seq == 0 || mine {
                live = LiveItem { stored_ms: live.stored_ms, offset: placed.offset.filter(|_| mine), ..placed };
            }
        }
        if record.retain {
            self.retain(mount, record, bytes);
            (stored, disk) = (true, true);
        }
        let wait = self.positions(contract, disk);
        if stored {
            self.counters.published += 1;
            self.counters.published_bytes += bytes.len() as u64;
            let tally = &mut self.mounts[mount].tally;
            tally.published += 1;
            tally.published_bytes += bytes.len() as u64;
        }
        // On disk was asked and no disk took it: that a queue in memory did is not what is said.
        let kept = stored && (disk || asked < Contract::Disk);
        let outcome = match (kept, stored || !takers.is_empty()) {
            (true, _) if tracked && parts.is_empty() => Outcome::Dropped,
            (true, _) if tracked => Outcome::Accepted,
            (true, _) => Outcome::Stored,
            (false, true) => Outcome::Dropped,
            (false, false) => Outcome::LiveOnly,
        };
        if outcome != Outcome::Dropped {
            self.remember(mount, record, disk, memory);
        }
        let heard = !route.subscriptions.is_empty() && record.delay_ms == 0;
        // What the disk's queue dropped must not overtake what it took.
        let behind = heard && !self.health.is_failed() && route.owed.get() > self.disk.durable;
        if heard {
            // Also where the publisher does not wait: an offset that was seen must never be another message's.
            if disk || behind {
                route.owed.set(self.disk.next());
                self.disk.fan_out_later(route, live, bytes);
            } else {
                self.fan_out(route, live, bytes);
            }
        }
        if disk || behind {
            self.disk.urge(now.mono);
        }
        if memory {
            self.memory.urge(now.mono);
        }
        self.counters.live_only += u64::from(outcome == Outcome::LiveOnly);
        let held = if disk { self.disk.next() } else { Position(0) };
        let track = (outcome == Outcome::Accepted).then(|| (self.track(mount, record, parts), false));
        Taken { outcome, wait, held, track }
    }

    /// The queue whose offsets and epoch are those of the route's channel.
    pub(super) fn history_queue(&self, route: &Route) -> Option<usize> {
        route.queues.iter().copied().find(|&q| self.queues[q].settings.history)
    }

    /// What must be durable before the publisher is told.
    fn positions(&self, contract: Contract, disk: bool) -> [Position; 2] {
        let mut wait = [Position(0); 2];
        if disk && contract >= Contract::Disk {
            wait[Publisher::slot(Volume::Disk)] = self.disk.next();
        }
        wait
    }

    fn remember(&mut self, mount: usize, record: &Record<'_>, disk: bool, memory: bool) {
        if record.id.is_none() || self.settings.store.dedupe.ids_max == 0 {
            return;
        }
        let stored = match (disk, memory) {
            (true, _) => Some((Volume::Disk, self.disk.next())),
            (false, true) => Some((Volume::Memory, self.memory.next())),
            (false, false) => None,
        };
        self.mounts[mount].dedupe.remember(record.id, self.now.wall, stored);
        if disk {
            self.disk.push_id(mount, record.id.0);
        }
        // A commit to disk forgets as it leaves; without one the window would grow until the next housekeeping.
        if !disk && self.mounts[mount].dedupe.is_over() {
            self.expire_ids(mount);
        }
    }

    fn push_body(&mut self, mount: usize, payload: &[u8], refs: u32) -> u64 {
        self.queues.numbers.body += 1;
        self.queues.numbers_dirty = true;
        let body = self.queues.numbers.body;
        let mount = self.mounts[mount].id;
        self.disk.push(Op::Body { mount, body, refs, bytes: Bytes::copy_from_slice(payload) });
        body
    }

    pub(super) fn drop_oldest(&mut self, queue: usize, len: u64, record: &Record<'_>) {
        let q = &mut self.queues[queue];
        let mut freed = Vec::new();
        let before = q.dropped;
        q.make_room(len, q.lane_for(record.channel.as_str(), record.priority), &mut freed);
        self.counters.dropped_full += q.dropped - before;
        self.push_freed(queue, &freed);
    }

    /// Puts a message at the end of its lane.
    pub(super) fn append(&mut self, queue: usize, record: &Record<'_>, bytes: &[u8], body: Option<u64>) -> LiveItem {
        let now = self.now.wall;
        let q = &mut self.queues[queue];
        q.dirty = true;
        let channel = record.channel.as_str();
        let lane = q.lane_for(channel, record.priority);
        let (seq, closed) = q.lane_mut(lane).append(bytes.len() as u64, now);
        let link = if q.settings.history { q.link(channel, lane, seq) } else { None };
        q.note_channel(channel, lane, seq);
        q.appended += 1;
        let (key, volume, epoch) = (q.key, q.volume, q.epoch.0);
        let v = match volume {
            Volume::Disk => &mut self.disk,
            Volume::Memory => &mut self.memory,
        };
        if let (Some(extent), Volume::Disk) = (closed, volume) {
            let key = Bytes::copy_from_slice(&schema::lane_key(key, lane, extent.first));
            v.push(Op::Put { table: Table::Extent, key, value: schema::encode(&extent) });
        }
        if link.is_some() && volume == Volume::Disk {
            v.touch_channel(queue, record.channel.as_str());
        }
        // What precedes a shared payload: all but the payload and the varint of its length.
        let data = match body {
            Some(_) => &bytes[..bytes.len() - record.payload.len() - varint_len(record.payload.len())],
            None => bytes,
        };
        v.append(&self.queues, queue, lane, seq, now, link, body, data);
        LiveItem { epoch, lane: lane.get(), seq, offset: link.map(|l| l.offset), stored_ms: now.0 }
    }

    fn retain(&mut self, mount: usize, record: &Record<'_>, bytes: &[u8]) {
        let channel = record.channel.as_str();
        let mount = &mut self.mounts[mount];
        let key = schema::retained_key(mount.id, channel);
        let old = if record.payload.is_empty() {
            self.disk.push(Op::Delete { table: Table::Retained, key });
            mount.retained.remove(channel)
        } else {
            let value = [&self.now.wall.0.to_be_bytes()[..], bytes].concat();
            self.disk.push(Op::Put { table: Table::Retained, key, value: value.into() });
            mount.retained_bytes += bytes.len() as u64;
            mount.retained.insert(channel.into(), bytes.len() as u32)
        };
        mount.retained_bytes -= u64::from(old.unwrap_or(0));
    }

    /// Hands a message to the live subscriptions of its route.
    pub(super) fn fan_out(&mut self, route: &Route, item: LiveItem, record: &[u8]) {
        let waiting_max = self.settings.limits.outbox_bytes_max as usize;
        let mut shapes = Shapes::new(record);
        for &(conn, stream) in &route.subscriptions {
            let Some(c) = self.conns.get_mut(&conn) else { continue };
            if c.is_echo(record) {
                self.counters.echoes += 1;
                continue;
            }
            let shaped = shapes.for_conn(c).filter(|shaped| c.takes_live(stream, shaped.len(), waiting_max));
            let Some(shaped) = shaped else {
                self.deliver_live(conn, stream, item, record);
                continue;
            };
            self.counters.fanned_out += 1;
            self.mounts[c.mount].tally.deliver(1, shaped.len());
            if c.item(stream, item.epoch, 0, &item.deliver(0, shaped)) {
                self.effects.push_back(Effect::Wake { conn });
            }
        }
    }
}

/// Bytes of a postcard varint.
fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// One sentence for people about a refused publish.
pub(super) const fn explain(code: Code) -> &'static str {
    match code {
        Code::BadChannel => "the channel must have 1 to 1,024 bytes, at most 128 levels, no NUL and no wildcard",
        Code::BadRecord => "the record's bytes are malformed",
        Code::MessageTooLarge => "the message is larger than the broker or the queue takes",
        Code::Forbidden => {
            "no role of this session allows to publish here (and channels that begin with $ belong to the broker)"
        }
        Code::NoQueue => {
            "no queue captures this channel that keeps what was asked: add one to the configuration, or ask for less"
        }
        Code::QueueFull => {
            "a queue that captures this channel is full and rejects: consume from it or raise its limits"
        }
        Code::StorageFull => "the disk is nearly full: only messages of high priority are taken until space is freed",
        Code::StorageFailed => "the store failed: the message may or may not be kept; send it again with the same id",
        Code::Fenced => "an earlier message of this stream was refused: resume at its number",
        Code::BadPublishNumber => "publish numbers of a stream must be consecutive",
        Code::LimitReached => {
            "a limit of retained values, of channels with history, or of refused messages of a bridge is reached"
        }
        Code::QuotaExceeded => "the tenant keeps as much as it may: consume from its queues, or raise its quota",
        Code::RateLimited => "more messages or bytes a second than may be: go on after the time told",
        Code::ShuttingDown => "the broker is stopping",
        Code::NotSupported => "a message that is held back cannot be asked to reach the upstream first",
        Code::NoUpstream => {
            "no bridge forwards this channel from a queue on disk: add a route to a bridge, or ask for less than upstream"
        }
        Code::UpstreamRefused => "the first copy was refused by the upstream: it is among the dead letters",
        Code::NotForwarded => "the first copy was given up, or whether the upstream has it is not known any more",
        Code::BadSignature => "this channel takes only messages signed by a key that is configured for it: sign it",
        Code::BadOptions => "more than 8 queues capture this channel",
        _ => "refused",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn varints_have_the_length_postcard_gives_them() {
        for value in [0usize, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
            assert_eq!(super::varint_len(value), postcard::to_stdvec(&value).expect("fits").len(), "{value}");
        }
    }
}
