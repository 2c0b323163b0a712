//! Contract `upstream`: a publish is told in between that it is kept here, and in the end whether the upstream has it.

use super::commit::LiveItem;
use super::mount::Route;
use super::tracks::{At, Fate, Track, Waiter};
use super::{Broker, tenants::Refused};
use crate::model::{Channel, ConnId, Filter, MessageId, Position, Priority, Record, Volume};
use crate::protocols::Fault;
use crate::queue::{Consumer, Loss, PendingState};
use crate::routing::Ask as May;
use crate::session::Publisher;
use crate::store::{Op, Table, schema};
use crate::wire::{Code, Contract, FrameType, Outcome, PublishAck, PublishNack};
use bytes::Bytes;
use std::rc::Rc;

/// Requests to these channels ask what became of a message: the id follows, a ULID.
pub(super) const STATUS: &str = "$status/";

/// A queue, what of it a bridge forwards, and the bridge's consumer.
pub(super) type Forwards = (usize, Box<str>, Rc<str>);

/// A final answer that is to be told.
pub(super) struct Final {
    conn: ConnId,
    stream: u32,
    number: u64,
    verdict: Verdict,
}

/// What a publisher is told in the end.
pub(super) type Verdict = Result<Outcome, (Code, Rc<str>)>;

impl Broker {
    /// Notes what bridges forward: after a start or a reload.
    pub(super) fn renew_forwards(&mut self) {
        for mount in 0..self.mounts.len() {
            let mut forwards: Vec<Forwards> = Vec::new();
            let tenant = &self.mounts[mount].tenant;
            for bridge in self.settings.bridges.iter().filter(|b| *b.tenant == **tenant) {
                let consumer: Rc<str> = bridge.consumer().into();
                for route in bridge.up_routes() {
                    if let Some(q) = self.mounts[mount].queue(&self.queues, &route.queue) {
                        forwards.push((q, route.mapping.filter.into(), Rc::clone(&consumer)));
                    }
                }
            }
            self.mounts[mount].set_forwards(forwards);
        }
    }

    /// Whether a message is to reach an upstream before its publisher is done.
    pub(super) fn is_tracked(&self, asked: Contract, queues: &[usize]) -> bool {
        asked == Contract::Upstream || queues.iter().any(|&q| self.queues[q].settings.contract == Contract::Upstream)
    }

    /// What is known of a message published under this id before: it is not taken again.
    pub(super) fn known_upstream(
        &mut self,
        mount: usize,
        id: MessageId,
    ) -> Option<Result<super::publish::Taken, Refused>> {
        let track = self.mounts[mount].tracks.get(id)?;
        let held = track.held;
        if held > self.disk.durable && self.health.is_failed() {
            return Some(Err((Code::StorageFailed, super::publish::RETRY_FULL_MS)));
        }
        let mut wait = [Position(0); 2];
        wait[Publisher::slot(Volume::Disk)] = held;
        let taken = |outcome, track| super::publish::Taken { outcome, wait, held, track };
        let known = match &track.fate {
            None => Ok(taken(Outcome::Accepted, Some((id, true)))),
            Some(Fate::Stored) => Ok(taken(Outcome::Duplicate, None)),
            Some(Fate::Refused(code, _)) => Err((*code, 0)),
        };
        self.counters.duplicates += u64::from(known.is_ok());
        Some(known)
    }

    /// Whether one more message may wait for an upstream.
    pub(super) fn admit_upstream(
        &self,
        mount: usize,
        record: &Record<'_>,
        forwards: &[(usize, Vec<Rc<str>>)],
    ) -> Result<(), Refused> {
        if forwards.iter().all(|(q, _)| self.queues[*q].volume != Volume::Disk) {
            return Err((Code::NoUpstream, 0));
        }
        if record.delay_ms > 0 {
            return Err((Code::NotSupported, 0));
        }
        if self.mounts[mount].tracks.waiting() >= self.settings.limits.upstream_waiting_max as usize {
            return Err((Code::LimitReached, super::publish::RETRY_FULL_MS));
        }
        Ok(())
    }

    /// A message waits for upstreams from now on; gives the id it is known by.
    pub(super) fn track(&mut self, mount: usize, record: &Record<'_>, parts: Vec<(At, Vec<Rc<str>>)>) -> MessageId {
        // One without an id is known by one that nobody can ask for.
        let id = if record.id.is_none() { MessageId(self.rng.u128(..).to_be_bytes()) } else { record.id };
        let channel = record.channel.as_str().into();
        let track = Track { channel, parts, fate: None, held: self.disk.next(), waiters: Vec::new() };
        self.mounts[mount].tracks.add(id, track);
        self.write_track(mount, id);
        id
    }

    /// Where a message waits, if a bridge forwards it from this queue.
    pub(super) fn part_of(&self, q: usize, route: &Route, placed: LiveItem) -> Option<(At, Vec<Rc<str>>)> {
        let (_, names) = route.upstream.iter().find(|(at, _)| *at == q)?;
        let lane = Priority::new(placed.lane)?;
        (self.queues[q].volume == Volume::Disk).then(|| ((q, lane, placed.seq), names.clone()))
    }

    fn write_track(&mut self, mount: usize, id: MessageId) {
        let m = &self.mounts[mount];
        if let Some(op) = m.tracks.write(m.id, id, self.now.wall.0, |q| self.queues[q].key.queue.0) {
            self.disk.push(op);
            self.disk.nudge(self.now.mono);
        }
    }

    /// A bridge's consumer is done with a message.
    pub(super) fn decide(&mut self, q: usize, consumer: &str, lane: Priority, seq: u64, fate: Fate) {
        let mount = self.mount_of_queue(q);
        if self.mounts[mount].tracks.is_idle() {
            return;
        }
        let told: Verdict = match &fate {
            Fate::Stored => Ok(Outcome::Stored),
            Fate::Refused(code, reason) => Err((*code, Rc::clone(reason))),
        };
        let Some((id, decided)) = self.mounts[mount].tracks.settle((q, lane, seq), consumer, fate) else { return };
        self.write_track(mount, id);
        if !decided {
            return;
        }
        for waiter in self.mounts[mount].tracks.take_waiters(id) {
            let verdict = if waiter.again && told.is_ok() { Ok(Outcome::Duplicate) } else { told.clone() };
            let Waiter { conn, stream, number, .. } = waiter;
            self.finals.push(Final { conn, stream, number, verdict });
        }
        let most = self.settings.limits.upstream_known_max as usize;
        for id in self.mounts[mount].tracks.forget(most) {
            let key = Bytes::copy_from_slice(&schema::upstream_key(self.mounts[mount].id, id));
            self.disk.push(Op::Delete { table: Table::Bridge, key });
        }
    }

    /// A consumer was not given a message, or not to the end, for this reason.
    pub(super) fn decide_lost(&mut self, q: usize, consumer: &Consumer, lane: Priority, seq: u64, why: &str) {
        if consumer.forward.is_some() && !self.mounts[self.mount_of_queue(q)].tracks.is_idle() {
            self.decide(q, &consumer.name, lane, seq, Fate::Refused(Code::NotForwarded, why.into()));
        }
    }

    /// The same, of all of a lane in `from..to`.
    pub(super) fn decide_range(
        &mut self,
        q: usize,
        consumer: &Consumer,
        lane: Priority,
        from: u64,
        to: u64,
        why: &str,
    ) {
        let mount = self.mount_of_queue(q);
        for ((_, _, seq), _) in self.mounts[mount].tracks.range(q, lane, from, to) {
            self.decide_lost(q, consumer, lane, seq, why);
        }
    }

    /// Messages left a queue below this sequence. What is under way to a bridge is decided by its answer.
    pub(super) fn decide_freed(&mut self, q: usize, lane: Priority, below: u64) {
        let mount = self.mount_of_queue(q);
        if self.mounts[mount].tracks.is_idle() {
            return;
        }
        for (at, left) in self.mounts[mount].tracks.range(q, lane, 0, below) {
            for name in left {
                if !self.is_under_way(at, &name) {
                    let why = Fate::Refused(Code::NotForwarded, DROPPED.into());
                    self.decide(q, &name, lane, at.2, why);
                }
            }
        }
    }

    fn is_under_way(&self, (q, lane, seq): At, consumer: &str) -> bool {
        let queue = &self.queues[q];
        let consumer = queue.consumer_index(consumer).and_then(|c| queue.consumers[c].as_ref());
        consumer.and_then(|c| c.pending(lane, seq)).is_some_and(|p| p.state != PendingState::Done)
    }

    /// After a start or a change: what no bridge forwards any more, and what its consumer passed without a word, is decided. At a
    /// start the settings may not be those that were meant: then it waits.
    pub(super) fn review_upstream(&mut self, reload: bool) {
        for mount in 0..self.mounts.len() {
            for (at, channel, left) in self.mounts[mount].tracks.all() {
                let (q, lane, seq) = at;
                for name in left {
                    let queue = &self.queues[q];
                    let consumer = queue.consumer_index(&name).and_then(|c| queue.consumers[c].as_ref());
                    let passed = consumer.is_some_and(|c| {
                        c.lanes[lane.index()].as_ref().is_some_and(|l| seq < l.cursor) && !self.is_under_way(at, &name)
                    });
                    let gone = queue.lane(lane).is_none_or(|l| seq < l.head) && !self.is_under_way(at, &name);
                    let why = if reload && !self.mounts[mount].forwards(q, &channel).any(|n| **n == *name) {
                        "no bridge forwards it any more"
                    } else if passed || gone {
                        DROPPED
                    } else {
                        continue;
                    };
                    self.decide(q, &name, lane, seq, Fate::Refused(Code::NotForwarded, why.into()));
                }
            }
        }
    }

    /// Messages a session may be told of in between before more final answers are there.
    pub(super) fn interims_left(&self, conn: ConnId) -> u32 {
        let told = self.conns.get(&conn).map_or(0, |c| c.finals);
        self.settings.limits.upstream_session_max.saturating_sub(told)
    }

    /// So many numbers of a stream were told that they are kept here. Those decided already are told the rest, too.
    pub(super) fn told_interim(&mut self, conn: ConnId, stream: u32, first: u64, count: u32) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.finals += count;
        let end = first.saturating_add(u64::from(count));
        let early: Vec<u64> = c.early.range((stream, first)..(stream, end)).map(|(&(_, number), _)| number).collect();
        for number in early {
            if let Some(verdict) = c.early.remove(&(stream, number)) {
                self.finals.push(Final { conn, stream, number, verdict });
            }
        }
    }

    /// Tells final answers, as ranges.
    pub(super) fn tell_finals(&mut self) {
        while !self.finals.is_empty() {
            let mut finals = std::mem::take(&mut self.finals);
            finals.sort_by_key(|f| (f.conn, f.stream, f.number));
            let mut touched = Vec::new();
            let mut finals = finals.into_iter().peekable();
            while let Some(Final { conn, stream, number, verdict }) = finals.next() {
                let Some(c) = self.conns.get_mut(&conn) else { continue };
                if !c.session.publishers.get(&stream).is_some_and(|p| p.is_told(number)) {
                    c.early.insert((stream, number), verdict);
                    continue;
                }
                let mut count = 1;
                let joins = |c: &Self, f: &Final, count: u32| {
                    (f.conn, f.stream, f.number) == (conn, stream, number + u64::from(count))
                        && f.verdict == verdict
                        && c.conns
                            .get(&conn)
                            .and_then(|c| c.session.publishers.get(&stream))
                            .is_some_and(|p| p.is_told(f.number))
                };
                while finals.next_if(|f| joins(self, f, count)).is_some() {
                    count += 1;
                }
                self.tell_final(conn, stream, number, count, &verdict);
                touched.push(conn);
            }
            touched.dedup();
            for conn in touched {
                let streams: Vec<u32> =
                    self.conns.get(&conn).map(|c| c.session.publishers.keys().copied().collect()).unwrap_or_default();
                streams.into_iter().for_each(|stream| self.send_acks(conn, stream));
                self.hold_or_release(conn);
            }
        }
    }

    fn tell_final(&mut self, conn: ConnId, stream: u32, first: u64, count: u32, verdict: &Verdict) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.finals = c.finals.saturating_sub(count);
        let mount = c.mount;
        match verdict {
            Ok(outcome) => {
                let head = PublishAck { first, count, outcome: *outcome };
                self.control(conn, stream, FrameType::PublishAck, &head);
            }
            Err((code, reason)) => {
                *self.counters.refused.entry(*code).or_default() += u64::from(count);
                self.mounts[mount].tally.refuse(*code, u64::from(count));
                let detail = super::conn::clip(reason);
                let head = PublishNack { first, count, code: *code as u16, retry_after_ms: 0, detail };
                self.control(conn, stream, FrameType::PublishNack, &head);
            }
        }
    }

    /// The store failed: publishes that were not told anything are refused, so nothing final follows for them; who was told in
    /// between begins anew once it is open, as its places are read again.
    pub(super) fn end_waiting_sessions(&mut self) {
        for conn in self.conns_in_order() {
            if self.conns.get(&conn).is_some_and(|c| c.finals > 0 || !c.early.is_empty()) {
                self.fail(conn, Code::StorageFailed, "the store was opened anew: connect again");
            }
        }
    }

    /// What became of a message, to who asks by its id and may publish where it was published.
    pub(super) fn handle_status(&mut self, conn: ConnId, stream: u32, id: &str) -> Result<(), Fault> {
        let Some(id) = MessageId::parse(id) else {
            self.refuse(
                conn,
                stream,
                Code::BadChannel,
                "ask $status/ and the message's id, a ULID of 26 letters and digits",
            );
            return Ok(());
        };
        let mount = self.mount_of_conn(conn);
        let track = self.mounts[mount].tracks.get(id);
        // Whose messages there are is nobody's business who may not publish them.
        let track = track.filter(|t| self.permit(conn, &May::Publish(&t.channel)).is_ok());
        let (state, code, reason, waits) = match track {
            None => ("unknown", None, None, Vec::new()),
            Some(t) => match &t.fate {
                None => {
                    let mut waits: Vec<&str> = t.parts.iter().flat_map(|(_, left)| left).map(|n| &**n).collect();
                    waits.sort_unstable();
                    waits.dedup();
                    ("queued", None, None, waits)
                }
                Some(Fate::Stored) => ("forwarded", None, None, Vec::new()),
                Some(Fate::Refused(code, reason)) => ("refused", Some(code.name()), Some(&**reason), Vec::new()),
            },
        };
        let prefix = crate::config::BridgeSettings::CONSUMER;
        let waits: Vec<&str> = waits.iter().map(|name| name.strip_prefix(prefix).unwrap_or(name)).collect();
        let status = crate::model::admin::MessageStatus {
            id: id.to_string(),
            state: state.into(),
            code: code.map(Into::into),
            reason: reason.map(Into::into),
            bridges: waits.into_iter().map(Into::into).collect(),
        };
        let body = super::admin::json(&status);
        self.answer(conn, stream, 0, &body);
        Ok(())
    }
}

/// What is said of a message that left its queue before a bridge had it.
pub(super) const DROPPED: &str = "it left the queue before it was forwarded: dropped as too many, too old or damaged";

/// What is said of a message that the rules of time gave up.
pub(super) const fn explain(loss: Loss) -> &'static str {
    match loss {
        Loss::Expired => "expired: it waited longer than its time to live",
        Loss::Superseded => "superseded: newer messages of its channel were there",
        Loss::Thinned => "thinned: of its channel one in so many is forwarded",
    }
}

/// Whether a filter of a route matches.
pub(super) fn matches(filter: &str, channel: &str) -> bool {
    Channel::parse(channel).is_ok_and(|channel| Filter::parse(filter).is_ok_and(|f| f.matches(channel)))
}
