//! State from the store, and settings onto state.

use super::mount::{DEAD, Mount, dead_settings};
use super::{Broker, HOUSEKEEPING_MS, Timer};
use crate::config::{Keep, QueueSettings, Settings, Storage};
use crate::model::{Epoch, MessageId, MountId, Now, Position, Priority, QueueId, Volume, Wall};
use crate::queue::{Consumer, DedupeWindow, Queue};
use crate::schedule::{Leap, Leaps};
use crate::store::schema::{
    self, ChannelRow, ConsumerRow, Counters as Numbers, ExtentRow, META_APPLIED, META_CLOCK, META_COUNTERS, META_LEAPS,
    META_STOPPED, QueueRow,
};
use crate::store::{Op, QueueKey, Reader, StoreError, Table};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// What the store holds.
pub(super) struct Loaded {
    pub(super) mount: Mount,
    pub(super) applied: Position,
    pub(super) clock: Wall,
    pub(super) leaps: Leaps,
    /// Of them one that lies between the last run and this.
    pub(super) leap: Option<Leap>,
}

/// Reads everything small, and joins it with the settings.
pub(super) fn load(
    now: Now,
    settings: &Settings,
    reader: &dyn Reader,
    rng: &mut fastrand::Rng,
) -> Result<Loaded, StoreError> {
    let number = |key: &[u8]| -> Result<u64, StoreError> {
        let row = reader.get(Table::Meta, key)?;
        Ok(row.and_then(|r| Some(u64::from_be_bytes(r.first_chunk::<8>().copied()?))).unwrap_or(0))
    };
    let applied = Position(number(META_APPLIED)?);
    let mut clock = Wall(number(META_CLOCK)?);
    let mut leaps: Leaps = reader.get(Table::Meta, META_LEAPS)?.and_then(|r| schema::decode(&r)).unwrap_or_default();
    let numbers: Numbers = reader.get(Table::Meta, META_COUNTERS)?.and_then(|r| schema::decode(&r)).unwrap_or_default();
    let dedupe = &settings.store.dedupe;
    let mount_id = MountId(0);
    let mut mount = Mount::new(mount_id, DedupeWindow::new(dedupe.ids_max, dedupe.window_ms), numbers);

    let mut rows: Vec<(QueueKey, QueueRow)> = Vec::new();
    scan(reader, Table::Queue, |key, value| {
        if let (Some(key), Some(row)) = (queue_of(key), schema::decode(value)) {
            rows.push((key, row));
        }
    })?;
    let mut extents: HashMap<QueueKey, Vec<(Priority, ExtentRow)>> = HashMap::new();
    scan(reader, Table::Extent, |key, value| {
        let lane = key.get(8).copied().and_then(Priority::new);
        if let (Some(queue), Some(lane), Some(row)) = (queue_of(key), lane, schema::decode(value)) {
            extents.entry(queue).or_default().push((lane, row));
        }
    })?;
    for (key, row) in rows {
        let found = settings.queues.iter().find(|q| q.name == row.name && q.storage == Storage::Disk);
        let (queue_settings, configured) = match (found, row.name.strip_prefix(DEAD)) {
            (Some(found), _) => (found.clone(), true),
            (None, Some(of)) => {
                let of = settings.queues.iter().find(|q| q.name == of).cloned();
                (dead_settings(&of.unwrap_or_else(|| QueueSettings::new(&row.name[DEAD.len()..]))), true)
            }
            (None, None) => match settings.queues.iter().find(|q| q.name == row.name) {
                Some(other) => {
                    log::error!("queue {:?} is configured for memory but is on disk, where it stays", row.name);
                    (QueueSettings { storage: Storage::Disk, ..other.clone() }, true)
                }
                None => {
                    log::warn!("queue {:?} is on disk but not configured: it is kept and only drains", row.name);
                    (QueueSettings { keep: Keep::Interest, ..QueueSettings::new(&row.name) }, false)
                }
            },
        };
        let mut queue = Queue::new(key, queue_settings, Epoch(row.epoch));
        queue.configured = configured;
        queue.restore(&row, extents.remove(&key).unwrap_or_default());
        for lane in &row.lanes {
            clock = clock.max(Wall(lane.open.newest_ms));
        }
        mount.queues.push(queue);
    }
    let index: HashMap<QueueKey, usize> = mount.queues.iter().enumerate().map(|(i, q)| (q.key, i)).collect();
    let at = |key: &[u8]| queue_of(key).and_then(|k| index.get(&k).copied());
    scan(reader, Table::Consumer, |key, value| {
        let name = std::str::from_utf8(key.get(8..).unwrap_or_default());
        if let (Some(q), Ok(name), Some(row)) = (at(key), name, schema::decode::<ConsumerRow>(value)) {
            mount.queues[q].consumers.push(Some(Consumer::load(name, row)));
        }
    })?;
    scan(reader, Table::Channel, |key, value| {
        let name = std::str::from_utf8(key.get(8..).unwrap_or_default());
        if let (Some(q), Ok(name), Some(row)) = (at(key), name, schema::decode::<ChannelRow>(value)) {
            mount.queues[q].channels.restore(name, row);
        }
    })?;
    scan(reader, Table::Delayed, |key, value| {
        let due = key.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        if let (Some(q), Some(due)) = (at(key), due) {
            let delayed = &mut mount.queues[q].delayed;
            delayed.messages += 1;
            delayed.bytes += value.len() as u64;
            let due = leaps.forward(Wall(due));
            delayed.due = Some(delayed.due.map_or(due, |d| d.min(due)));
        }
    })?;
    scan(reader, Table::Retained, |key, value| {
        if let Ok(channel) = std::str::from_utf8(key.get(4..).unwrap_or_default()) {
            let len = value.len().saturating_sub(8) as u32;
            mount.retained.insert(channel.into(), len);
            mount.retained_bytes += u64::from(len);
        }
    })?;
    // Ids were taken at most now: a row from the future of a clock that ran back must not outlive its window twice.
    scan(reader, Table::Dedupe, |key, value| {
        let position = key.get(4..12).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        if let (Some(position), Some((taken, ids))) = (position, value.split_first_chunk::<8>()) {
            let taken = Wall(u64::from_be_bytes(*taken));
            clock = clock.max(taken);
            for id in ids.chunks_exact(16) {
                let id = MessageId(id.try_into().unwrap_or_default());
                mount.dedupe.remember(id, leaps.forward(taken), Some((Volume::Disk, Position(position))));
            }
        }
    })?;

    let cut_off = reader.get(Table::Meta, META_STOPPED)?.is_none();
    for queue in &mut mount.queues {
        let ends: Vec<(Priority, u64)> = queue.lanes().map(|l| (l.priority, l.visible)).collect();
        for consumer in queue.consumers.iter_mut().flatten().filter(|_| cut_off) {
            ends.iter().for_each(|(lane, end)| consumer.lane_mut(*lane).suspect_below = *end);
        }
    }
    for wanted in &settings.queues {
        if mount.queue(&wanted.name).is_none() {
            let epoch = rng.u64(..);
            mount.add_queue(wanted.clone(), epoch);
        }
    }
    mount.rebuild_captures();
    let leap = if clock.0 == 0 { None } else { leaps.watch_start(clock, now.wall) };
    clock = clock.max(if applied.0 == 0 { now.wall } else { Wall(0) });
    Ok(Loaded { mount, applied, clock, leaps, leap })
}

fn scan(reader: &dyn Reader, table: Table, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
    reader.scan(table, &[], &[], &mut |key, value| {
        visit(key, value);
        true
    })
}

fn queue_of(key: &[u8]) -> Option<QueueKey> {
    let mount = MountId(u32::from_be_bytes(*key.first_chunk::<4>()?));
    let queue = QueueId(u32::from_be_bytes(key.get(4..8)?.try_into().ok()?));
    Some(QueueKey { mount, queue })
}

impl Broker {
    /// Timers and first work after state was read.
    pub(super) fn after_load(&mut self) {
        for queue in 0..self.mount.queues.len() {
            self.arm_delayed(queue);
            self.release(queue);
        }
        // From here on a stop that is not in order is one.
        self.disk.push(Op::Delete { table: Table::Meta, key: Bytes::from_static(META_STOPPED) });
        self.timers.set(Timer::Housekeeping, self.now.mono.plus_ms(HOUSEKEEPING_MS));
    }

    /// Takes over from before the store was opened anew what never depended on it: memory queues, and the ids of what
    /// they and live subscribers got.
    pub(super) fn adopt_memory(&mut self, mut old: Mount) {
        self.mount.memory_queues = self.mount.memory_queues.max(old.memory_queues);
        self.mount.dedupe.adopt(&old.dedupe);
        let kept = old.queues.extract_if(.., |q| q.volume == Volume::Memory);
        for queue in kept {
            match self.mount.queue(&queue.settings.name) {
                Some(at) => self.mount.queues[at] = queue,
                // Of dead letters, or gone from the configuration.
                None => self.mount.queues.push(queue),
            }
        }
        // Their place in the list may have changed: what is remembered by it is read again.
        self.memory.tail.clear();
        for queue in self.mount.queues.iter_mut().filter(|q| q.volume == Volume::Memory) {
            for consumer in queue.consumers.iter_mut().flatten() {
                consumer.attachments.clear();
                consumer.lanes.iter_mut().flatten().for_each(|l| {
                    (l.at, l.reading) = (None, false);
                    l.ahead.clear();
                });
            }
        }
        self.mount.rebuild_captures();
    }

    pub(super) fn handle_reload(&mut self, settings: Arc<Settings>) {
        let dedupe = &settings.store.dedupe;
        self.mount.dedupe.resize(dedupe.ids_max, dedupe.window_ms);
        for queue in &mut self.mount.queues {
            let name = queue.settings.name.clone();
            if let Some(of) = name.strip_prefix(DEAD) {
                if let Some(of) = settings.queues.iter().find(|q| q.name == of) {
                    queue.settings = dead_settings(of);
                }
                continue;
            }
            match settings.queues.iter().find(|q| q.name == name) {
                Some(new) => {
                    let storage = queue.settings.storage;
                    queue.settings = QueueSettings { storage, ..new.clone() };
                    queue.configured = true;
                }
                None => {
                    log::warn!("queue {name:?} left the configuration: it is kept and only drains");
                    queue.configured = false;
                }
            }
        }
        for wanted in &settings.queues {
            if self.mount.queue(&wanted.name).is_none() {
                let epoch = self.rng.u64(..);
                self.mount.add_queue(wanted.clone(), epoch);
            }
        }
        self.mount.rebuild_captures();
        self.settings = settings;
        self.disk.nudge(self.now.mono);
        for queue in 0..self.mount.queues.len() {
            self.release(queue);
            self.pump_queue(queue);
        }
        self.handle_disk(self.health.free_bytes);
    }
}
