//! This process's bridges as its broker sees them: what they told last, what they want kept, what waits for them.

use super::admin::{Refused, json, query};
use super::{Broker, Effect};
use crate::config::{BridgeSettings, Settings};
use crate::model::Mono;
use crate::model::admin::{self, BridgeQuery, BridgeState, BridgeStatus};
use crate::store::{Op, Reader, StoreError, Table, schema};
use crate::wire::Code;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Most bytes of what one bridge wants kept: more is not, and said.
const KEPT_BYTES_MAX: usize = 4_096;
/// Most bridges that are not configured of which what they wanted kept stays.
const STRANGERS_MAX: usize = 64;

/// What is known of bridges, by name.
#[derive(Default)]
pub(super) struct Bridges {
    /// What each told last, and when.
    told: BTreeMap<String, (Mono, BridgeStatus)>,
    kept: BTreeMap<String, Vec<u8>>,
}

impl Bridges {
    /// What they wanted kept.
    pub(super) fn load(reader: &dyn Reader) -> Result<Self, StoreError> {
        let mut kept = BTreeMap::new();
        let prefix = [schema::BRIDGE_KEPT];
        reader.scan(Table::Bridge, &prefix, &prefix, &mut |key, value| {
            if let Ok(name) = std::str::from_utf8(&key[1..]) {
                kept.insert(name.to_owned(), value.to_vec());
            }
            true
        })?;
        Ok(Self { told: BTreeMap::new(), kept })
    }
}

/// What waits for a bridge.
#[derive(Default)]
struct Waits {
    messages: u64,
    /// For how long the oldest has.
    oldest_ms: u64,
    /// Messages that their queue let go before they were forwarded.
    lost: u64,
}

/// A bridge that has told nothing yet.
fn untold(settings: &BridgeSettings) -> BridgeStatus {
    BridgeStatus {
        name: settings.name.clone(),
        tenant: settings.tenant.clone(),
        url: settings.urls.first().cloned().unwrap_or_default(),
        ..BridgeStatus::default()
    }
}

/// What was told so many milliseconds ago: ages went on since.
fn grown_older(told: &BridgeStatus, ms: u64) -> BridgeStatus {
    let older = |age: u64| if age == 0 { 0 } else { age + ms };
    BridgeStatus {
        open_ms: older(told.open_ms),
        last_error_age_ms: older(told.last_error_age_ms),
        last_ack_age_ms: older(told.last_ack_age_ms),
        retry_ms: told.retry_ms.saturating_sub(ms),
        ..told.clone()
    }
}

impl Broker {
    /// What a bridge wanted kept over restarts, in its last words in this process or an earlier one.
    #[must_use]
    pub fn bridge_kept(&self, name: &str) -> Option<Vec<u8>> {
        self.bridges.kept.get(name).cloned()
    }

    /// A bridge told how it is.
    pub(super) fn handle_bridge(&mut self, status: BridgeStatus, keep: Option<Vec<u8>>) {
        // One that just left the configuration has a last word that nobody waits for.
        if !self.settings.bridges.iter().any(|b| b.name == status.name) {
            return;
        }
        match keep {
            Some(keep) if keep.len() > KEPT_BYTES_MAX => {
                log::error!("bridge {:?} wants {} bytes kept: they are not", status.name, keep.len());
            }
            Some(keep) if self.bridges.kept.get(&status.name) != Some(&keep) => {
                self.write_kept(&status.name, &keep);
                self.bridges.kept.insert(status.name.clone(), keep);
            }
            _ => {}
        }
        self.bridges.told.insert(status.name.clone(), (self.now.mono, status));
    }

    /// The row rides on the next commit.
    fn write_kept(&mut self, name: &str, keep: &[u8]) {
        let value = Bytes::copy_from_slice(keep);
        self.disk.push(Op::Put { table: Table::Bridge, key: schema::bridge_kept_key(name), value });
        self.disk.nudge(self.now.mono);
    }

    /// The store was opened anew: what had not reached it is written again.
    pub(super) fn keep_bridges(&mut self) {
        for (name, keep) in self.bridges.kept.clone() {
            self.write_kept(&name, &keep);
        }
    }

    /// Forgets what left the configuration by a reload. At a start it stays: the file may not be the one that was meant.
    pub(super) fn forget_bridges(&mut self, before: &Settings) {
        let is_configured = |name: &str| self.settings.bridges.iter().any(|b| b.name == *name);
        let gone: Vec<String> = before.bridges.iter().map(|b| b.name.clone()).filter(|b| !is_configured(b)).collect();
        for name in gone {
            self.forget_bridge(&name);
        }
        self.warn_of_strangers();
    }

    /// Says which queues keep messages for a bridge that nobody runs, and bounds what is kept of such.
    pub(super) fn warn_of_strangers(&mut self) {
        let is_configured = |name: &str| self.settings.bridges.iter().any(|b| b.name == *name);
        for queue in self.queues.iter() {
            let consumers = queue.consumers.iter().flatten();
            for bridge in consumers.filter_map(|c| c.name.strip_prefix(BridgeSettings::CONSUMER)) {
                if !is_configured(bridge) {
                    log::warn!(
                        "queue {:?} keeps its messages for bridge {bridge:?}, which is not configured: `tidegate queue \
                         forget {0} {1}{bridge} --yes` ends that",
                        queue.settings.name,
                        BridgeSettings::CONSUMER
                    );
                }
            }
        }
        let strangers = self.bridges.kept.keys().filter(|name| !is_configured(name));
        let over: Vec<String> = strangers.skip(STRANGERS_MAX).cloned().collect();
        over.iter().for_each(|name| self.forget_bridge(name));
    }

    fn forget_bridge(&mut self, name: &str) {
        self.bridges.told.remove(name);
        if self.bridges.kept.remove(name).is_some() {
            self.disk.push(Op::Delete { table: Table::Bridge, key: schema::bridge_kept_key(name) });
            self.disk.nudge(self.now.mono);
        }
    }

    /// The bridges that an administrator in this mount sees, in the order of the configuration.
    pub(super) fn bridge_statuses(&self, mount: usize) -> Vec<BridgeStatus> {
        self.bridges_of(mount).map(|settings| self.bridge_status(settings)).collect()
    }

    fn bridges_of(&self, mount: usize) -> impl Iterator<Item = &BridgeSettings> {
        let tenant = &self.mounts[mount].tenant;
        self.settings.bridges.iter().filter(move |bridge| mount == 0 || *bridge.tenant == **tenant)
    }

    /// What it told, and what waits for it now.
    fn bridge_status(&self, settings: &BridgeSettings) -> BridgeStatus {
        let told = self.bridges.told.get(&settings.name);
        let mut status =
            told.map_or_else(|| untold(settings), |(at, told)| grown_older(told, self.now.mono.ms_since(*at)));
        let waits = self.waits_for(settings);
        (status.queued, status.oldest_ms) = (waits.messages, waits.oldest_ms);
        if waits.lost > 0 {
            *status.dropped.entry(admin::NOT_KEPT.into()).or_default() += waits.lost;
        }
        status.day_bytes_max = settings.bytes_per_day;
        // What its machine never sees, since its consumers pass it over.
        for queue in self.mount_of(&settings.tenant).iter().flat_map(|mount| &self.mounts[*mount].queues) {
            let queue = &self.queues[*queue];
            let consumer = queue.consumer_index(&settings.consumer()).and_then(|at| queue.consumers[at].as_ref());
            for (reason, count) in consumer.map(|c| c.losses.by_reason()).into_iter().flatten().filter(|(_, n)| *n > 0)
            {
                *status.dropped.entry(reason.into()).or_default() += count;
            }
        }
        // Nothing need be under way to be overdue: an upstream may refuse everything for now.
        let ack_ms_max = u64::from(settings.ack_ms_max);
        let acked_lately = (1..=ack_ms_max).contains(&status.last_ack_age_ms);
        status.healthy &= acked_lately || status.oldest_ms <= ack_ms_max;
        status
    }

    /// What a bridge has yet to forward.
    fn waits_for(&self, settings: &BridgeSettings) -> Waits {
        let mut waits = Waits::default();
        let Some(mount) = self.mount_of(&settings.tenant) else { return waits };
        let mut names: Vec<String> = settings.up_routes().map(|route| route.queue).collect();
        names.sort_unstable();
        names.dedup();
        for q in names.iter().filter_map(|name| self.mounts[mount].queue(&self.queues, name)) {
            let queue = &self.queues[q];
            let consumer = queue.consumer_index(&settings.consumer()).and_then(|at| queue.consumers[at].as_ref());
            for lane in queue.lanes() {
                let place = consumer.and_then(|c| c.lanes[lane.priority.index()].as_ref());
                let cursor = place.map_or(lane.head, |l| l.cursor);
                waits.messages += lane.visible.saturating_sub(cursor.max(lane.head));
                waits.lost += lane.head.saturating_sub(cursor);
                let position = place.map_or(lane.head, |l| l.position()).max(lane.head);
                if position < lane.visible
                    && let Some(stored) = lane.stored(position)
                {
                    waits.oldest_ms = waits.oldest_ms.max(self.now.wall.ms_since(self.leaps.forward(stored)).max(1));
                }
            }
            waits.messages += consumer.map_or(0, |c| u64::from(c.outstanding));
            waits.lost += consumer.map_or(0, |c| c.lost);
        }
        waits
    }

    /// An administrator wants a bridge paused, or to go on.
    pub(super) fn pause_bridge(&mut self, mount: usize, body: &[u8], pause: bool) -> Result<Vec<u8>, Refused> {
        let ask: BridgeQuery = query(body)?;
        let found = self.bridges_of(mount).find(|bridge| bridge.name == ask.name);
        let Some(settings) = found.cloned() else {
            let names: Vec<&str> = self.bridges_of(mount).map(|bridge| bridge.name.as_str()).collect();
            let there =
                if names.is_empty() { "none is configured".into() } else { format!("there is {}", names.join(", ")) };
            return Err((Code::BadName, format!("there is no bridge {:?}: {there}", ask.name)));
        };
        self.effects.push_back(Effect::Bridge { name: settings.name.clone(), pause });
        // What it will tell itself in a moment.
        let now = self.now.mono;
        let (_, told) = self.bridges.told.entry(settings.name.clone()).or_insert_with(|| (now, untold(&settings)));
        match (pause, told.state) {
            (true, _) => (told.state, told.healthy, told.retry_ms) = (BridgeState::Paused, false, 0),
            (false, BridgeState::Paused) => told.state = BridgeState::Waiting,
            (false, _) => {}
        }
        Ok(json(&self.bridge_status(&settings)))
    }
}
