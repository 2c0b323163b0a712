//! Dead letters: where messages end that exhausted their attempts.

use super::Broker;
use super::entries::entry_at;
use super::mount::{DEAD, dead_settings};
use super::tracks::Fate;
use super::upstream::DROPPED;
use crate::model::limits::{PROPERTIES_BYTES_MAX, PROPERTIES_MAX};
use crate::model::{Priority, Properties, Property, Record, tag};
use crate::queue::{Consumer, Pending};
use crate::store::Block;
use crate::wire::Code;

impl Broker {
    /// A message that cannot be read is done with, loudly.
    pub(super) fn lose(&mut self, q: usize, consumer: &mut Consumer, lane: Priority, seq: u64) {
        log::error!("queue {:?}: message {seq} cannot be read and is lost", self.queues[q].settings.name);
        consumer.settle(lane, seq);
        consumer.lost += 1;
        self.counters.lost += 1;
        self.decide_lost(q, consumer, lane, seq, DROPPED);
    }

    /// Moves a message to the dead letters and is done with it, in one commit.
    pub(super) fn bury(
        &mut self,
        q: usize,
        consumer: &mut Consumer,
        lane: Priority,
        seq: u64,
        pending: Pending,
        why: Option<&str>,
        block: &Block,
    ) {
        let Some((_, entry)) = entry_at(block, seq) else {
            self.lose(q, consumer, lane, seq);
            return;
        };
        let name = self.queues[q].settings.name.clone();
        if name.starts_with(DEAD) {
            // A dead letter that dies again stays where it is: there is nothing behind it.
            consumer.settle(lane, seq);
            return;
        }
        let Ok(record) = Record::decode(entry.data) else {
            self.lose(q, consumer, lane, seq);
            return;
        };
        let reason = if let Some(why) = why {
            why
        } else if consumer.attachments.iter().any(|a| self.shape(a.conn, entry.data).is_none()) {
            "larger than its consumer takes"
        } else {
            "its attempts were exhausted or it was given up"
        };
        let properties = dead_properties(&record, reason, pending.attempts, &name);
        let dead = self.dead_queue(q);
        let letter = Record {
            properties: Properties::parse(&properties).unwrap_or_default(),
            delay_ms: 0,
            ttl_ms: 0,
            retain: false,
            ..record
        };
        let mut bytes = Vec::new();
        letter.encode_to(&mut bytes);
        self.append_bounded(dead, &letter, &bytes);
        consumer.settle(lane, seq);
        if consumer.forward.is_some() {
            self.decide(q, &consumer.name, lane, seq, Fate::Refused(Code::UpstreamRefused, reason.into()));
        }
        self.counters.dead += 1;
        log::warn!("queue {name:?}: message {} became a dead letter: {reason:?}", record.id);
    }

    /// A mount's queue of this name; that of a queue's dead letters is there even before the first.
    pub(super) fn named_queue(&mut self, mount: usize, name: &str) -> Option<usize> {
        let its = &self.mounts[mount];
        if let Some(found) = its.queue(&self.queues, name) {
            return Some(found);
        }
        let of = its.queue(&self.queues, name.strip_prefix(DEAD).filter(|of| !of.starts_with(DEAD))?)?;
        Some(self.dead_queue(of))
    }

    /// The queue of a queue's dead letters, made at the first.
    fn dead_queue(&mut self, q: usize) -> usize {
        let settings = dead_settings(&self.queues[q].settings);
        let mount = self.mount_of_queue(q);
        let mount = &mut self.mounts[mount];
        match mount.queue(&self.queues, &settings.name) {
            Some(dead) => dead,
            None => {
                let epoch = self.rng.u64(..);
                self.queues.add(mount, settings, epoch)
            }
        }
    }

    /// Appends a message the broker itself moves: a full queue drops its oldest.
    pub(super) fn append_bounded(&mut self, queue: usize, record: &Record<'_>, bytes: &[u8]) {
        self.make_moved_room(queue);
        let mut freed = Vec::new();
        let q = &mut self.queues[queue];
        let before = q.dropped;
        q.make_room(bytes.len() as u64, Priority::MAX, &mut freed);
        self.counters.dropped_full += q.dropped - before;
        if !freed.is_empty() {
            self.push_freed(queue, &freed);
        }
        self.append(queue, record, bytes, None);
        let (volume, now) = (self.queues[queue].volume, self.now.mono);
        self.volume_mut(volume).urge(now);
    }
}

/// The properties of a dead letter: its own, as far as there is room, and what became of it.
fn dead_properties(record: &Record<'_>, reason: &str, attempts: u32, queue: &str) -> Vec<u8> {
    let attempts = attempts.to_string();
    let added = [
        Property { tag: tag::DEAD_REASON, value: reason.as_bytes() },
        Property { tag: tag::DEAD_ATTEMPTS, value: attempts.as_bytes() },
        Property { tag: tag::DEAD_QUEUE, value: queue.as_bytes() },
    ];
    let own = record.properties.iter().filter(|p| !(tag::DEAD_REASON..=tag::DEAD_QUEUE).contains(&p.tag));
    let mut out = Vec::new();
    let mut buffer = vec![0; PROPERTIES_BYTES_MAX];
    let (mut count, mut written) = (0, 0);
    for property in added.into_iter().chain(own) {
        let Ok(n) = Properties::encode_one(property, &mut buffer) else { continue };
        if count < PROPERTIES_MAX && written + n <= PROPERTIES_BYTES_MAX {
            out.extend_from_slice(&buffer[..n]);
            (count, written) = (count + 1, written + n);
        }
    }
    out
}
