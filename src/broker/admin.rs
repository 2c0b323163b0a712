//! What the broker answers to administrators: status, queues, peek, purge, replay.

use super::Broker;
use super::conn::PRIMES_MAX;
use super::entries::channel_of;
use super::mount::DEAD;
use crate::config::{Keep, Storage};
use crate::model::admin::{
    self, AdminError, ConsumerQuery, ConsumerStatus, Count, LaneStatus, PEEK_MAX, PEEK_PAYLOAD_BYTES_MAX, Payload,
    PeekItem, PeekQuery, QueueQuery, QueueStatus, ReplayQuery, Status, TenantStatus,
};
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::{ConnId, Priority, Properties, Record, tag};
use crate::queue::{Admission, Queue};
use crate::seal::expand_record;
use crate::store::block::BlockReader;
use crate::store::{Op, ReadRequest, ReadResult, Table, schema};
use crate::wire::{Code, Contract};
use serde::Serialize;
use std::collections::BTreeMap;

/// What the channels of administration begin with.
pub(super) const PREFIX: &str = "$admin/";

/// What a page is read for.
pub(super) enum Waiting {
    /// To be shown: what is left to show, and what was found.
    Peek { conn: ConnId, stream: u32, queue: usize, lane: Priority, from: u64, left: usize, found: Vec<PeekItem> },
    /// To be moved back: the dead letters' queue, where to, how many are left and were moved.
    Replay { conn: ConnId, stream: u32, dead: usize, target: usize, lane: Priority, from: u64, left: u64, moved: u64 },
}

impl Waiting {
    const fn conn(&self) -> ConnId {
        let (Self::Peek { conn, .. } | Self::Replay { conn, .. }) = self;
        *conn
    }
}

/// A page read for an administrator, in bytes.
const PAGE_BYTES: usize = 128 * 1_024;

pub(super) type Refused = (Code, String);

impl Broker {
    pub(super) fn handle_admin(
        &mut self,
        conn: ConnId,
        stream: u32,
        channel: &str,
        body: &[u8],
    ) -> Result<(), (Code, &'static str)> {
        let mount = self.mount_of_conn(conn);
        let reads = self.conns.get(&conn).map_or(0, |c| c.primes);
        if self.waiting_bytes(conn) > self.settings.limits.outbox_bytes_max as usize || reads >= PRIMES_MAX {
            return Err((Code::LimitReached, "read what was answered before you ask for more"));
        }
        let answer = match channel {
            admin::QUEUE_PURGE | admin::QUEUE_REPLAY | admin::CONSUMER_DELETE if self.health.is_failed() => {
                Err((Code::StorageFailed, "the store failed: nothing can be changed until it is open again".to_owned()))
            }
            admin::STATUS => Ok(Some(json(&self.status(mount)))),
            admin::QUEUES => Ok(Some(json(&self.queue_statuses(mount)))),
            admin::QUEUE_SHOW => query::<QueueQuery>(body)
                .and_then(|ask| self.named(mount, &ask.name))
                .map(|q| Some(json(&self.queue_status(q)))),
            admin::QUEUE_PEEK => query(body).and_then(|ask| self.begin_peek(conn, stream, mount, &ask)),
            admin::QUEUE_PURGE => query::<QueueQuery>(body)
                .and_then(|ask| self.named(mount, &ask.name))
                .map(|q| Some(json(&Count { count: self.purge(q) }))),
            admin::QUEUE_REPLAY => query(body).and_then(|ask| self.begin_replay(conn, stream, mount, &ask)),
            admin::BRIDGES => Ok(Some(json(&self.bridge_statuses(mount)))),
            admin::BRIDGE_PAUSE => self.pause_bridge(mount, body, true).map(Some),
            admin::BRIDGE_RESUME => self.pause_bridge(mount, body, false).map(Some),
            admin::CONSUMER_DELETE => query(body).and_then(|ask| self.remove_consumer(mount, &ask)).map(Some),
            _ => Err((Code::NoResponder, format!("there is no request {channel:?}"))),
        };
        match answer {
            Ok(Some(body)) => self.answer(conn, stream, 0, &body),
            Ok(None) => {}
            Err((code, error)) => self.answer(conn, stream, code as u16, &json(&AdminError { error })),
        }
        Ok(())
    }

    /// The queue an administrator names. Who belongs to no tenant administers them all and names a tenant's queue
    /// `tenant/queue` or `$dead/tenant/queue`; a tenant's own sees nothing else.
    fn named(&mut self, mount: usize, name: &str) -> Result<usize, Refused> {
        let found = match (mount, split_tenant(name)) {
            (0, Some((tenant, its))) => {
                self.mounts.iter().position(|m| !tenant.is_empty() && *m.tenant == *tenant).map(|mount| (mount, its))
            }
            _ => Some((mount, name.to_owned())),
        };
        let found = found.and_then(|(mount, its)| self.named_queue(mount, &its));
        found.ok_or_else(|| (Code::UnknownQueue, format!("there is no queue {name:?}")))
    }

    /// The queues that an administrator in this mount sees.
    fn queue_statuses(&self, mount: usize) -> Vec<QueueStatus> {
        match mount {
            0 => (0..self.queues.len()).map(|q| self.queue_status(q)).collect(),
            _ => self.mounts[mount].queues.iter().map(|&q| self.queue_status(q)).collect(),
        }
    }

    fn status(&self, mount: usize) -> Status {
        // What a tenant's administrator sees tells nothing of others.
        let whole = mount == 0;
        let mut counters = BTreeMap::new();
        if whole {
            self.counters.visit(&mut |name, value| {
                counters.insert(name, value);
            });
        }
        let data = self.settings.data.as_ref().filter(|_| whole);
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.settings.name.clone(),
            // The process and its folder are the edge's to know.
            pid: 0,
            uptime_ms: self.uptime_ms(),
            data: data.map(|d| d.display().to_string()).unwrap_or_default(),
            state: self.health.state(),
            free_bytes: if whole { self.health.free_bytes } else { 0 },
            file_bytes: if whole { self.health.file_bytes } else { 0 },
            connections: if whole { self.conns.len() as u64 } else { u64::from(self.mounts[mount].connections) },
            counters,
            queues: self.queue_statuses(mount),
            bridges: self.bridge_statuses(mount),
            tenants: match mount {
                0 => (0..self.mounts.len()).map(|m| self.tenant_status(m)).collect(),
                _ => vec![self.tenant_status(mount)],
            },
        }
    }

    fn tenant_status(&self, mount: usize) -> TenantStatus {
        let m = &self.mounts[mount];
        let tenant = self.settings.tenants.iter().find(|t| m.configured && *t.name == *m.tenant);
        let refused = m.tally.refused.iter().map(|(code, count)| {
            let name = Code::from_u16(*code).map_or_else(|| code.to_string(), |code| code.name().to_owned());
            (name, *count)
        });
        TenantStatus {
            name: m.tenant.to_string(),
            left: !m.configured,
            connections: u64::from(m.connections),
            connections_max: u64::from(m.quota.connections_max),
            stored_bytes: self.stored_bytes(mount),
            stored_bytes_max: m.quota.stored_bytes_max,
            channels: self.channels(mount),
            channels_max: u64::from(m.quota.channels_max),
            messages_per_second: tenant.map_or(0, |t| u64::from(t.messages_per_second)),
            bytes_per_second: tenant.map_or(0, |t| t.bytes_per_second),
            published: m.tally.published,
            published_bytes: m.tally.published_bytes,
            delivered: m.tally.delivered,
            delivered_bytes: m.tally.delivered_bytes,
            connects: m.tally.connects,
            refused: refused.collect(),
        }
    }

    fn queue_status(&self, index: usize) -> QueueStatus {
        let q = &self.queues[index];
        let s = &q.settings;
        let mount = &self.mounts[self.mount_of_queue(index)];
        let dead = mount.queue(&self.queues, &format!("{DEAD}{}", s.name));
        QueueStatus {
            name: s.name.clone(),
            tenant: mount.tenant.to_string(),
            epoch: q.epoch.to_string(),
            storage: match s.storage {
                Storage::Disk => "disk",
                Storage::Memory => "memory",
            }
            .into(),
            keep: match s.keep {
                Keep::Work => "work",
                Keep::Interest => "interest",
                Keep::Limits => "limits",
            }
            .into(),
            contract: match s.contract {
                Contract::Queue | Contract::Memory => "memory",
                Contract::Disk => "disk",
                Contract::Upstream => "upstream",
            }
            .into(),
            messages: q.messages(),
            bytes: q.bytes(),
            messages_max: s.messages_max,
            bytes_max: s.bytes_max,
            oldest_ms: q.oldest().map_or(0, |w| w.0),
            lanes: q.lanes().map(|l| LaneStatus { lane: l.priority.get(), head: l.head, next: l.next }).collect(),
            delayed: q.delayed.messages,
            dead: dead.map_or(0, |d| self.queues[d].messages()),
            consumers: consumers(q),
        }
    }

    /// Deletes a consumer that nobody is attached to.
    pub(super) fn delete_consumer(&mut self, queue: usize, consumer: usize) {
        let Some(c) = self.queues[queue].consumers[consumer].take() else { return };
        let (key, volume) = (self.queues[queue].key, self.queues[queue].volume);
        // Another may take its place in the list: what was read for this one says nothing to that.
        self.reads.retain(|_, waiting| {
            !matches!(waiting, super::Waiting::Page(q, c, _) | super::Waiting::Fetch(q, c, ..) if (*q, *c) == (queue, consumer))
        });
        let now = self.now.mono;
        let row = schema::named_key(key, &c.name);
        let v = self.volume_mut(volume);
        v.push(Op::Delete { table: Table::Consumer, key: row });
        v.nudge(now);
        self.release(queue);
        self.review_upstream(false);
    }

    fn purge(&mut self, queue: usize) -> u64 {
        let q = &mut self.queues[queue];
        let mut freed = Vec::new();
        let mut count = 0;
        for priority in (0..=9).filter_map(Priority::new) {
            if q.lane(priority).is_some() {
                let lane = q.lane_mut(priority);
                let gone = lane.trim(lane.visible);
                count += gone.messages;
                freed.push((priority, gone));
            }
        }
        q.dirty = true;
        log::info!("queue {:?}: purged of {count} messages", q.settings.name);
        self.push_freed(queue, &freed);
        self.pump_queue(queue);
        count
    }

    fn remove_consumer(&mut self, mount: usize, ask: &ConsumerQuery) -> Result<Vec<u8>, Refused> {
        let q = self.named(mount, &ask.queue)?;
        let Some(index) = self.queues[q].consumer_index(&ask.name) else {
            return Err((Code::BadName, format!("queue {:?} has no consumer {:?}", ask.queue, ask.name)));
        };
        if self.queues[q].consumers[index].as_ref().is_some_and(|c| !c.attachments.is_empty()) {
            return Err((Code::BadOptions, format!("consumer {:?} is in use: stop its sessions first", ask.name)));
        }
        self.delete_consumer(q, index);
        Ok(json(&Count { count: 1 }))
    }

    fn begin_peek(
        &mut self,
        conn: ConnId,
        stream: u32,
        mount: usize,
        ask: &PeekQuery,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let queue = self.named(mount, &ask.name)?;
        let lane = match ask.lane {
            Some(lane) => Priority::new(lane).ok_or((Code::BadOptions, "a lane is 0 to 9".to_owned()))?,
            None => match self.queues[queue].lanes().rev().find(|l| l.messages() > 0) {
                Some(lane) => lane.priority,
                None => return Ok(Some(json::<[PeekItem]>(&[]))),
            },
        };
        let left = ask.count.clamp(1, PEEK_MAX) as usize;
        let from = self.queues[queue].lane(lane).map_or(1, |l| l.head);
        self.read_page(Waiting::Peek { conn, stream, queue, lane, from, left, found: Vec::new() });
        Ok(None)
    }

    fn begin_replay(
        &mut self,
        conn: ConnId,
        stream: u32,
        mount: usize,
        ask: &ReplayQuery,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let target = self.named(mount, ask.name.strip_prefix(DEAD).unwrap_or(&ask.name))?;
        let name = format!("{DEAD}{}", self.queues[target].settings.name);
        let Some(dead) = self.mounts[self.mount_of_queue(target)].queue(&self.queues, &name) else {
            return Ok(Some(json(&Count { count: 0 })));
        };
        let Some(lane) = self.queues[dead].lanes().rev().find(|l| l.messages() > 0) else {
            return Ok(Some(json(&Count { count: 0 })));
        };
        let (lane, from) = (lane.priority, lane.head);
        let left = ask.count.unwrap_or(u64::MAX).max(1);
        self.read_page(Waiting::Replay { conn, stream, dead, target, lane, from, left, moved: 0 });
        Ok(None)
    }

    fn read_page(&mut self, waiting: Waiting) {
        let (queue, lane, from) = match &waiting {
            Waiting::Peek { queue, lane, from, .. } => (*queue, *lane, *from),
            Waiting::Replay { dead, lane, from, .. } => (*dead, *lane, *from),
        };
        self.count_prime(waiting.conn(), 1);
        let q = &self.queues[queue];
        let (key, volume) = (q.key, q.volume);
        let request = ReadRequest::Page { queue: key, lane, from, bytes_max: PAGE_BYTES };
        self.read_after_commit(volume, super::Waiting::Admin(waiting), request);
    }

    pub(super) fn handle_admin_read(&mut self, waiting: Waiting, result: Option<ReadResult>) {
        let conn = waiting.conn();
        self.count_prime(conn, -1);
        self.answer_admin_read(waiting, result);
        self.hold_or_release(conn);
    }

    fn answer_admin_read(&mut self, waiting: Waiting, result: Option<ReadResult>) {
        let Some(ReadResult::Blocks(blocks)) = result else {
            let (Waiting::Peek { conn, stream, .. } | Waiting::Replay { conn, stream, .. }) = waiting;
            let error = "the queue could not be read".to_owned();
            self.answer(conn, stream, Code::StorageFailed as u16, &json(&AdminError { error }));
            return;
        };
        match waiting {
            Waiting::Peek { conn, stream, queue, lane, mut from, mut left, mut found } => {
                let visible = self.queues[queue].lane(lane).map_or(1, |l| l.visible);
                let more = !blocks.is_empty();
                each(&blocks, &mut from, visible, &mut |seq, stored_ms, data| {
                    found.extend(peek_item(lane, seq, stored_ms, data));
                    left -= 1;
                    left > 0
                });
                if left > 0 && more && from < visible {
                    self.read_page(Waiting::Peek { conn, stream, queue, lane, from, left, found });
                } else {
                    self.answer(conn, stream, 0, &json(&found));
                }
            }
            Waiting::Replay { conn, stream, dead, target, lane, mut from, mut left, mut moved } => {
                let visible = self.queues[dead].lane(lane).map_or(1, |l| l.visible);
                let mut letters = Vec::new();
                each(&blocks, &mut from, visible, &mut |seq, _, data| {
                    letters.push((seq, data.to_vec()));
                    left -= 1;
                    left > 0
                });
                let mut below = from;
                let mut more = !letters.is_empty();
                for (seq, letter) in &letters {
                    if !self.revive(target, letter) {
                        (below, more) = (*seq, false);
                        break;
                    }
                    moved += 1;
                }
                let gone = self.queues[dead].lane_mut(lane).trim(below);
                if gone.messages > 0 {
                    self.queues[dead].dirty = true;
                    self.push_freed(dead, &[(lane, gone)]);
                }
                let next = self.queues[dead].lanes().rev().find(|l| l.head < l.visible);
                match next.map(|l| (l.priority, l.head)) {
                    Some((lane, from)) if left > 0 && more => {
                        self.read_page(Waiting::Replay { conn, stream, dead, target, lane, from, left, moved });
                    }
                    _ => self.answer(conn, stream, 0, &json(&Count { count: moved })),
                }
            }
        }
    }

    /// A dead letter lives again: without what the broker wrote on it, past the dedupe window. False when its queue is
    /// full and does not drop its oldest: what waits there was acknowledged.
    fn revive(&mut self, target: usize, letter: &[u8]) -> bool {
        let Ok(record) = Record::decode(letter) else { return true };
        let mut properties = Vec::new();
        let mut buffer = vec![0; letter.len()];
        for p in record.properties.iter().filter(|p| !(tag::DEAD_REASON..=tag::DEAD_QUEUE).contains(&p.tag)) {
            if let Ok(n) = Properties::encode_one(p, &mut buffer) {
                properties.extend_from_slice(&buffer[..n]);
            }
        }
        let record = Record { properties: Properties::parse(&properties).unwrap_or_default(), ..record };
        let mut bytes = Vec::new();
        record.encode_to(&mut bytes);
        let room = {
            let to = &self.queues[target];
            to.admit(bytes.len() as u64, to.lane_for(record.channel.as_str(), record.priority))
        };
        if !matches!(room, Admission::Take | Admission::DropOldest) {
            return false;
        }
        self.append_bounded(target, &record, &bytes);
        true
    }
}

/// The tenant and the queue of a name that says both.
fn split_tenant(name: &str) -> Option<(&str, String)> {
    match name.strip_prefix(DEAD) {
        Some(of) => of.split_once('/').map(|(tenant, of)| (tenant, format!("{DEAD}{of}"))),
        None => name.split_once('/').map(|(tenant, its)| (tenant, its.to_owned())),
    }
}

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data with text keys serialises")
}

pub(super) fn query<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refused> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|e| (Code::BadOptions, format!("the request's body is not understood: {e}")))
}

/// Visits the messages of pages from `from` on, below `visible`; moves `from` behind the last one visited.
fn each(blocks: &[crate::store::Block], from: &mut u64, visible: u64, visit: &mut dyn FnMut(u64, u64, &[u8]) -> bool) {
    for block in blocks {
        let Some(mut reader) = BlockReader::new(&block.bytes) else { continue };
        let mut seq = block.first;
        while let Some((stored, entry)) = reader.next_entry() {
            if seq >= visible {
                return;
            }
            if seq >= *from {
                *from = seq + 1;
                if !visit(seq, stored.0, entry.data) {
                    return;
                }
            }
            seq += 1;
        }
    }
}

fn peek_item(lane: Priority, seq: u64, stored_ms: u64, data: &[u8]) -> Option<PeekItem> {
    let expanded = expand_record(data, MESSAGE_BYTES_MAX as usize).ok()?;
    let record = Record::decode(expanded.as_deref().unwrap_or(data)).ok()?;
    let shown = &record.payload[..record.payload.len().min(PEEK_PAYLOAD_BYTES_MAX)];
    let properties = record.properties.iter().map(|p| {
        let text = Payload::from_bytes(p.value).as_str().to_owned();
        (property_name(p.tag), text)
    });
    Some(PeekItem {
        lane: lane.get(),
        seq,
        id: (!record.id.is_none()).then(|| record.id.to_string()),
        channel: channel_of(data)?.as_str().into(),
        stored_ms,
        size: record.payload.len() as u64,
        payload: Payload::from_bytes(shown),
        properties: properties.collect(),
    })
}

fn property_name(number: u32) -> String {
    match number {
        tag::CONTENT_TYPE => "content-type",
        tag::CORRELATION => "correlation",
        tag::REPLY_TO => "reply-to",
        tag::ORDERING_KEY => "ordering-key",
        tag::ORIGIN => "origin",
        tag::HOPS => "hops",
        tag::SIGNATURE => "signature",
        tag::SIGNER => "signer",
        tag::SEAL => "seal",
        tag::DEAD_REASON => "dead-reason",
        tag::DEAD_ATTEMPTS => "dead-attempts",
        tag::DEAD_QUEUE => "dead-queue",
        other => return format!("property-{other}"),
    }
    .into()
}

fn consumers(q: &Queue) -> Vec<ConsumerStatus> {
    let status = |c: &crate::queue::Consumer| {
        let lag = |l: &crate::queue::Lane| {
            let cursor = c.lanes[l.priority.index()].as_ref().map_or(1, |p| p.cursor);
            l.visible.saturating_sub(cursor.max(l.head))
        };
        ConsumerStatus {
            name: c.name.to_string(),
            sessions: c.attachments.len() as u32,
            positions: q.lanes().map(|l| (l.priority.get(), c.position(l.priority))).collect(),
            in_flight: u64::from(c.in_flight()),
            waiting_retry: c.waiting.len() as u64,
            lag: q.lanes().map(lag).sum::<u64>() + u64::from(c.outstanding),
        }
    };
    q.consumers.iter().flatten().map(status).collect()
}
