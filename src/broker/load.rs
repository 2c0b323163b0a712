//! State from the store, and settings onto state.

use super::mount::{DEAD, Mount, Queues, dead_settings};
use super::tracks::Track;
use super::{Broker, HOUSEKEEPING_MS, Timer};
use crate::config::{Keep, QueueSettings, Settings, Storage};
use crate::model::{Epoch, MessageId, MountId, Now, Position, Priority, QueueId, Volume, Wall};
use crate::queue::{Consumer, DedupeWindow, Queue};
use crate::routing::Permissions;
use crate::schedule::{Leap, Leaps};
use crate::store::schema::{
    self, BRIDGE_SOURCE, ChannelRow, ConsumerRow, Counters as Numbers, ExtentRow, META_APPLIED, META_CLOCK,
    META_COUNTERS, META_LEAPS, META_STOPPED, META_TALLY, META_TENANT, QueueRow, Tally, UpstreamRow, split_source_key,
};
use crate::store::{Op, QueueKey, Reader, StoreError, Table};
use crate::wire::Code;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// What the store holds.
pub(super) struct Loaded {
    pub(super) mounts: Vec<Mount>,
    pub(super) queues: Queues,
    pub(super) applied: Position,
    pub(super) clock: Wall,
    pub(super) leaps: Leaps,
    /// Of them one that lies between the last run and this.
    pub(super) leap: Option<Leap>,
}

/// Reads everything small, and joins it with the settings. `known` are the mounts as they were before the store was opened
/// anew: their ids may not have reached the disk and stay theirs.
pub(super) fn load(
    now: Now,
    settings: &Settings,
    reader: &dyn Reader,
    rng: &mut fastrand::Rng,
    known: &[Mount],
) -> Result<Loaded, StoreError> {
    let number = |key: &[u8]| -> Result<u64, StoreError> {
        let row = reader.get(Table::Meta, key)?;
        Ok(row.and_then(|r| Some(u64::from_be_bytes(r.first_chunk::<8>().copied()?))).unwrap_or(0))
    };
    let applied = Position(number(META_APPLIED)?);
    let mut clock = Wall(number(META_CLOCK)?);
    let mut leaps: Leaps = reader.get(Table::Meta, META_LEAPS)?.and_then(|r| schema::decode(&r)).unwrap_or_default();
    let numbers: Numbers = reader.get(Table::Meta, META_COUNTERS)?.and_then(|r| schema::decode(&r)).unwrap_or_default();
    let mut mounts = Mounts::load(settings, reader, known)?;
    let mut queues = Queues::new(numbers);

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
    let wanted = wanted(settings);
    for (key, row) in rows {
        let mount = mounts.at(key.mount);
        let (queue_settings, configured) = settings_of(&wanted, mount, &row.name);
        let mut queue = Queue::new(key, queue_settings, Epoch(row.epoch));
        queue.configured = configured;
        queue.restore(&row, extents.remove(&key).unwrap_or_default());
        for lane in &row.lanes {
            clock = clock.max(Wall(lane.open.newest_ms));
        }
        mount.queues.push(queues.adopt(queue));
    }
    let index: HashMap<QueueKey, usize> = queues.iter().enumerate().map(|(i, q)| (q.key, i)).collect();
    let at = |key: &[u8]| queue_of(key).and_then(|k| index.get(&k).copied());
    scan(reader, Table::Consumer, |key, value| {
        let name = std::str::from_utf8(key.get(8..).unwrap_or_default());
        if let (Some(q), Ok(name), Some(row)) = (at(key), name, schema::decode::<ConsumerRow>(value)) {
            queues[q].consumers.push(Some(Consumer::load(name, row)));
        }
    })?;
    scan(reader, Table::Channel, |key, value| {
        let name = std::str::from_utf8(key.get(8..).unwrap_or_default());
        if let (Some(q), Ok(name), Some(row)) = (at(key), name, schema::decode::<ChannelRow>(value)) {
            queues[q].channels.restore(name, row);
        }
    })?;
    scan(reader, Table::Delayed, |key, value| {
        let due = key.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        if let (Some(q), Some(due)) = (at(key), due) {
            let delayed = &mut queues[q].delayed;
            delayed.messages += 1;
            delayed.bytes += value.len() as u64;
            let due = leaps.forward(Wall(due));
            delayed.due = Some(delayed.due.map_or(due, |d| d.min(due)));
        }
    })?;
    let mut tracks = Vec::new();
    scan(reader, Table::Bridge, |key, value| {
        if let (Some((mount, id)), Some(row)) = (schema::split_upstream_key(key), schema::decode::<UpstreamRow>(value))
        {
            tracks.push((row.decided_ms, mount, id, row));
        }
    })?;
    // Those decided first are forgotten first.
    tracks.sort_unstable_by_key(|(decided_ms, mount, id, _)| (*decided_ms, *mount, *id));
    for (_, mount, id, row) in tracks {
        let place = |queue| index.get(&QueueKey { mount, queue: QueueId(queue) }).copied();
        mounts.at(mount).tracks.add(id, Track::load(row, place));
    }
    scan(reader, Table::Retained, |key, value| {
        if let (Some(mount), Ok(channel)) = (mount_of(key), std::str::from_utf8(key.get(4..).unwrap_or_default())) {
            let len = value.len().saturating_sub(8) as u32;
            let mount = mounts.at(mount);
            mount.retained.insert(channel.into(), len);
            mount.retained_bytes += u64::from(len);
        }
    })?;
    // Ids were taken at most now: a row from the future of a clock that ran back must not outlive its window twice.
    scan(reader, Table::Dedupe, |key, value| {
        let position = key.get(4..12).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        let taken = value.split_first_chunk::<8>();
        if let (Some(mount), Some(position), Some((taken, ids))) = (mount_of(key), position, taken) {
            let mount = mounts.at(mount);
            let taken = Wall(u64::from_be_bytes(*taken));
            clock = clock.max(taken);
            for id in ids.chunks_exact(16) {
                let id = MessageId(id.try_into().unwrap_or_default());
                mount.dedupe.remember(id, leaps.forward(taken), Some((Volume::Disk, Position(position))));
            }
        }
    })?;
    reader.scan(Table::Bridge, &[BRIDGE_SOURCE], &[BRIDGE_SOURCE], &mut |key, value| {
        if let (Some((mount, owner, epoch, lane)), Some(row)) = (split_source_key(key), schema::decode(value)) {
            mounts.at(mount).sources.restore(owner, epoch, lane, row);
        }
        true
    })?;

    let cut_off = reader.get(Table::Meta, META_STOPPED)?.is_none();
    for queue in queues.iter_mut() {
        let ends: Vec<(Priority, u64)> = queue.lanes().map(|l| (l.priority, l.visible)).collect();
        for consumer in queue.consumers.iter_mut().flatten().filter(|_| cut_off) {
            ends.iter().for_each(|(lane, end)| consumer.lane_mut(*lane).suspect_below = *end);
        }
    }
    // Every id that was ever seen is known by now: a new tenant's is above them all.
    let mut mounts = mounts.with_tenants(settings);
    add_queues(&mut mounts, &mut queues, &wanted, rng);
    let leap = if clock.0 == 0 { None } else { leaps.watch_start(clock, now.wall) };
    clock = clock.max(if applied.0 == 0 { now.wall } else { Wall(0) });
    Ok(Loaded { mounts, queues, applied, clock, leaps, leap })
}

/// Mounts while they are read, in the order of their ids.
struct Mounts<'a> {
    settings: &'a Settings,
    list: Vec<Mount>,
}

impl<'a> Mounts<'a> {
    /// The broker's own, and those of all tenants there ever were.
    fn load(settings: &'a Settings, reader: &dyn Reader, known: &[Mount]) -> Result<Self, StoreError> {
        let mut mounts = Self { settings, list: Vec::new() };
        mounts.at(MountId(0));
        let prefix = META_TENANT;
        reader.scan(Table::Meta, prefix, prefix, &mut |key, value| {
            let name = key.strip_prefix(prefix).and_then(|name| std::str::from_utf8(name).ok());
            if let (Some(name), Ok(id)) = (name, value.try_into()) {
                let mount = mounts.at(MountId(u32::from_be_bytes(id)));
                (mount.tenant, mount.stored) = (name.into(), true);
            }
            true
        })?;
        reader.scan(Table::Meta, META_TALLY, META_TALLY, &mut |key, value| {
            let id = key.strip_prefix(META_TALLY).and_then(mount_of);
            if let (Some(id), Some(tally)) = (id, schema::decode::<Tally>(value)) {
                let mount = mounts.at(id);
                mount.kept_tally.clone_from(&tally);
                mount.tally = tally;
            }
            true
        })?;
        for old in known {
            let mount = mounts.at(old.id);
            if !mount.stored {
                mount.tenant.clone_from(&old.tenant);
            }
        }
        for mount in &mut mounts.list {
            mount.configure(settings);
            if !mount.configured {
                log::warn!(
                    "tenant {:?} is on disk but not configured: what it has is kept, nobody enters",
                    mount.tenant
                );
            }
        }
        Ok(mounts)
    }

    /// The mount of this id. One whose tenant nobody knows any more is kept; nobody enters it.
    fn at(&mut self, id: MountId) -> &mut Mount {
        let at = match self.list.binary_search_by_key(&id, |m| m.id) {
            Ok(at) => at,
            Err(at) => {
                let dedupe = &self.settings.store.dedupe;
                let mut mount = Mount::new(id, "", DedupeWindow::new(dedupe.ids_max, dedupe.window_ms));
                mount.configured = id == MountId(0);
                self.list.insert(at, mount);
                at
            }
        };
        &mut self.list[at]
    }

    fn with_tenants(mut self, settings: &Settings) -> Vec<Mount> {
        add_tenants(&mut self.list, settings);
        self.list
    }
}

/// Gives each tenant that has none a mount, of an id never used before.
fn add_tenants(mounts: &mut Vec<Mount>, settings: &Settings) {
    let dedupe = &settings.store.dedupe;
    for tenant in &settings.tenants {
        if mounts.iter().any(|m| *m.tenant == *tenant.name) {
            continue;
        }
        // They stand in the order of their ids, and none is ever taken out.
        let Some(id) = mounts.last().map_or(Some(0), |m| m.id.0.checked_add(1)) else { return };
        let mut mount = Mount::new(MountId(id), &tenant.name, DedupeWindow::new(dedupe.ids_max, dedupe.window_ms));
        mount.configure(settings);
        mounts.push(mount);
    }
}

/// Makes the queues that are wanted and not there.
fn add_queues(mounts: &mut [Mount], queues: &mut Queues, wanted: &[QueueSettings], rng: &mut fastrand::Rng) {
    for wanted in wanted {
        let Some(mount) = mounts.iter_mut().find(|m| m.configured && *m.tenant == *wanted.tenant) else { continue };
        if mount.queue(queues, &wanted.name).is_none() {
            queues.add(mount, wanted.clone(), rng.u64(..));
        }
    }
    mounts.iter_mut().for_each(|m| m.rebuild_captures(queues));
}

/// The queues there are to be: those of the settings, and one for each tenant of which they name none.
fn wanted(settings: &Settings) -> Vec<QueueSettings> {
    let known = |tenant: &str| tenant.is_empty() || settings.tenants.iter().any(|t| t.name == tenant);
    let mut wanted: Vec<_> = settings.queues.iter().filter(|q| known(&q.tenant)).cloned().collect();
    for tenant in &settings.tenants {
        if !settings.queues.iter().any(|q| q.tenant == tenant.name) {
            let main = QueueSettings::new("main");
            wanted.push(QueueSettings { tenant: tenant.name.clone(), capture: vec!["#".into()], ..main });
        }
    }
    wanted
}

/// Settings of a queue that is on disk, and whether they are configured.
fn settings_of(wanted: &[QueueSettings], mount: &Mount, name: &str) -> (QueueSettings, bool) {
    let find = |name: &str| wanted.iter().find(|q| mount.configured && q.name == name && *q.tenant == *mount.tenant);
    let bare = |name: &str| QueueSettings { tenant: mount.tenant.to_string(), ..QueueSettings::new(name) };
    match (find(name), name.strip_prefix(DEAD)) {
        (Some(found), _) if found.storage == Storage::Disk => (found.clone(), true),
        (Some(other), _) => {
            log::error!("queue {name:?} is configured for memory but is on disk, where it stays");
            (QueueSettings { storage: Storage::Disk, ..other.clone() }, true)
        }
        (None, Some(of)) => (dead_settings(&find(of).cloned().unwrap_or_else(|| bare(of))), true),
        (None, None) => {
            log::warn!("queue {name:?} is on disk but not configured: it is kept and only drains");
            (QueueSettings { keep: Keep::Interest, ..bare(name) }, false)
        }
    }
}

fn scan(reader: &dyn Reader, table: Table, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
    reader.scan(table, &[], &[], &mut |key, value| {
        visit(key, value);
        true
    })
}

fn mount_of(key: &[u8]) -> Option<MountId> {
    Some(MountId(u32::from_be_bytes(*key.first_chunk::<4>()?)))
}

fn queue_of(key: &[u8]) -> Option<QueueKey> {
    let mount = mount_of(key)?;
    let queue = QueueId(u32::from_be_bytes(key.get(4..8)?.try_into().ok()?));
    Some(QueueKey { mount, queue })
}

impl Broker {
    /// Timers and first work after state was read.
    pub(super) fn after_load(&mut self) {
        self.renew_signers();
        for queue in 0..self.queues.len() {
            self.arm_delayed(queue);
            self.release(queue);
        }
        self.renew_outages();
        self.renew_forwards();
        self.review_upstream(false);
        self.keep_tenants();
        // From here on a stop that is not in order is one.
        self.disk.push(Op::Delete { table: Table::Meta, key: Bytes::from_static(META_STOPPED) });
        self.timers.set(Timer::Housekeeping, self.now.mono.plus_ms(HOUSEKEEPING_MS));
    }

    /// Takes over from before the store was opened anew what never depended on it: memory queues, the ids of what they and
    /// live subscribers got, and who is connected.
    pub(super) fn adopt_memory(&mut self, old_mounts: Vec<Mount>, old_queues: Queues) {
        self.queues.memory_queues = self.queues.memory_queues.max(old_queues.memory_queues);
        let places: Vec<usize> = old_mounts.iter().map(|old| self.mount_at(old.id)).collect();
        for c in self.conns.values_mut() {
            c.mount = places[c.mount];
        }
        for ask in self.asks.values_mut() {
            ask.mount = places[ask.mount];
        }
        for (old, &at) in old_mounts.into_iter().zip(&places) {
            let mount = &mut self.mounts[at];
            mount.dedupe.adopt(&old.dedupe);
            (mount.connections, mount.asks) = (old.connections, old.asks);
            mount.budget = old.budget;
            mount.tally = old.tally;
            mount.sources.adopt(old.sources, self.disk.durable);
            mount.bridges = old.bridges;
        }
        for queue in old_queues.into_memory() {
            let mount = self.mount_at(queue.key.mount);
            match self.mounts[mount].queue(&self.queues, &queue.settings.name) {
                Some(at) => self.queues[at] = queue,
                // Of dead letters, or gone from the configuration.
                None => {
                    let at = self.queues.adopt(queue);
                    self.mounts[mount].queues.push(at);
                }
            }
        }
        // Their place in the list may have changed: what is remembered by it is read again.
        self.memory.tail.clear();
        for queue in self.queues.iter_mut().filter(|q| q.volume == Volume::Memory) {
            for consumer in queue.consumers.iter_mut().flatten() {
                consumer.attachments.clear();
                consumer.lanes.iter_mut().flatten().for_each(|l| {
                    (l.at, l.reading) = (None, false);
                    l.ahead.clear();
                });
            }
        }
        self.mounts.iter_mut().for_each(|m| m.rebuild_captures(&self.queues));
    }

    pub(super) fn handle_reload(&mut self, settings: Arc<Settings>) {
        let dedupe = &settings.store.dedupe;
        add_tenants(&mut self.mounts, &settings);
        for mount in &mut self.mounts {
            mount.dedupe.resize(dedupe.ids_max, dedupe.window_ms);
            let was = mount.configured;
            mount.configure(&settings);
            if was && !mount.configured {
                log::warn!("tenant {:?} left the configuration: what it has is kept, nobody enters", mount.tenant);
            }
        }
        let wanted = wanted(&settings);
        for at in 0..self.queues.len() {
            let mount = &self.mounts[self.mount_of_queue(at)];
            let queue = &mut self.queues[at];
            let name = queue.settings.name.clone();
            let find =
                |name: &str| wanted.iter().find(|q| mount.configured && q.name == name && *q.tenant == *mount.tenant);
            if let Some(of) = name.strip_prefix(DEAD) {
                if let Some(of) = find(of) {
                    queue.settings = dead_settings(of);
                }
                continue;
            }
            match find(&name) {
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
        add_queues(&mut self.mounts, &mut self.queues, &wanted, &mut self.rng);
        let before = std::mem::replace(&mut self.settings, settings);
        self.forget_bridges(&before);
        self.renew_signers();
        self.renew_outages();
        self.renew_forwards();
        self.review_upstream(true);
        self.set_rates();
        self.keep_tenants();
        self.disk.nudge(self.now.mono);
        for conn in self.conns_in_order() {
            if self.conns.get(&conn).is_some_and(|c| !self.mounts[c.mount].configured) {
                self.fail(conn, Code::Forbidden, "its tenant left the configuration");
            }
        }
        self.permissions = Arc::new(Permissions::new(&self.settings.roles));
        self.regrant();
        for queue in 0..self.queues.len() {
            self.release(queue);
            self.pump_queue(queue);
        }
        self.handle_disk(self.health.free_bytes);
    }
}
