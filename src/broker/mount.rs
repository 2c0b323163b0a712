//! A mount's space: who listens where, its ids and retained values; and the queues of all mounts in one list.

use super::edges::BridgeSession;
use super::quotas::Quota;
use super::rates::{Budget, Limit};
use super::signatures::Signers;
use super::sources::Sources;
use super::tracks::Tracks;
use super::upstream::{self, Forwards};
use crate::config::{Keep, Overflow, QueueSettings, Settings};
use crate::model::{ConnId, Epoch, MountId, Position, QueueId};
use crate::queue::{DedupeWindow, Queue};
use crate::routing::Table;
use crate::seal::PublicKeys;
use crate::store::QueueKey;
use crate::store::schema::{Counters as Numbers, SourceOwner, Tally};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// A stream of a connection.
pub(super) type StreamRef = (ConnId, u32);

/// Every mount's queues. A place in the list is a queue's for as long as the store stays open: timers, reads and streams
/// know it by that.
#[derive(Default)]
pub(super) struct Queues {
    list: Vec<Queue>,
    /// Numbers never used twice.
    pub(super) numbers: Numbers,
    pub(super) numbers_dirty: bool,
    /// Queues of the memory volume ever made.
    pub(super) memory_queues: u32,
}

impl Deref for Queues {
    type Target = [Queue];

    fn deref(&self) -> &[Queue] {
        &self.list
    }
}

impl DerefMut for Queues {
    fn deref_mut(&mut self) -> &mut [Queue] {
        &mut self.list
    }
}

impl Queues {
    pub(super) fn new(numbers: Numbers) -> Self {
        Self { numbers, ..Self::default() }
    }

    /// Takes over a queue as it is.
    pub(super) fn adopt(&mut self, queue: Queue) -> usize {
        self.list.push(queue);
        self.list.len() - 1
    }

    /// The queues of the memory volume, taken out.
    pub(super) fn into_memory(self) -> impl Iterator<Item = Queue> {
        self.list.into_iter().filter(|q| q.volume == crate::model::Volume::Memory)
    }

    /// Adds an empty queue to a mount.
    pub(super) fn add(&mut self, mount: &mut Mount, settings: QueueSettings, epoch: u64) -> usize {
        let number = match settings.storage {
            crate::config::Storage::Disk => {
                self.numbers_dirty = true;
                self.numbers.queue += 1;
                self.numbers.queue
            }
            crate::config::Storage::Memory => {
                self.memory_queues += 1;
                MEMORY_QUEUE + self.memory_queues
            }
        };
        let key = QueueKey { mount: mount.id, queue: QueueId(number) };
        let at = self.adopt(Queue::new(key, settings, Epoch(epoch)));
        mount.queues.push(at);
        at
    }
}

/// Everything of one mount but its queues.
pub(super) struct Mount {
    pub(super) id: MountId,
    /// The tenant whose space it is; empty for the broker's own.
    pub(super) tenant: Box<str>,
    /// Whether the tenant stands in the configuration; else nobody may enter.
    pub(super) configured: bool,
    /// Whether the row that keeps its id was written.
    pub(super) stored: bool,
    /// Places of its queues in the list of all.
    pub(super) queues: Vec<usize>,
    /// Sessions in it.
    pub(super) connections: u32,
    /// Requests of its sessions that wait for an answer.
    pub(super) asks: u32,
    pub(super) quota: Quota,
    /// Bytes in its queues at most: what came since they were last asked is counted on top, what left is not.
    pub(super) stored_most: u64,
    /// What may be published in it, and what is left of that.
    pub(super) limit: Limit,
    pub(super) budget: Budget,
    /// What was done in it since there is this tenant.
    pub(super) tally: Tally,
    /// The same as the store has it.
    pub(super) kept_tally: Tally,
    /// Queues by the filters they capture.
    captures: Table<usize>,
    /// Subscriptions by filter.
    subscriptions: Table<StreamRef>,
    /// Who answers requests, by filter.
    pub(super) responders: Table<StreamRef>,
    /// Whose turn it is among several responders.
    pub(super) turn: usize,
    pub(super) dedupe: DedupeWindow,
    /// What is kept of the sources of bridges.
    pub(super) sources: Sources,
    /// The session of each bridge that is connected.
    pub(super) bridges: hashbrown::HashMap<Rc<SourceOwner>, BridgeSession>,
    /// Length of each retained value by channel.
    pub(super) retained: BTreeMap<Box<str>, u32>,
    pub(super) retained_bytes: u64,
    /// Who must have signed what is published.
    signers: Signers,
    /// What bridges forward.
    forwards: Vec<Forwards>,
    /// Messages that an upstream is to have before their publishers are done.
    pub(super) tracks: Tracks,
    routes: hashbrown::HashMap<Box<str>, Rc<Route>>,
}

/// Where a channel's messages go.
#[derive(Debug, Default)]
pub(super) struct Route {
    /// Indices of the queues that capture it.
    pub(super) queues: Vec<usize>,
    /// Live subscriptions.
    pub(super) subscriptions: Vec<StreamRef>,
    /// Whose messages it takes; all where there is no rule.
    pub(super) signers: Option<PublicKeys>,
    /// Of the queues those that bridges forward it from, with the bridges' consumers.
    pub(super) upstream: Vec<(usize, Vec<Rc<str>>)>,
    /// The last commit after which subscribers hear a message of this route: until then none may overtake it.
    pub(super) owed: Cell<Position>,
}

/// Routes remembered; beyond it they are found anew.
const ROUTES_MAX: usize = 1_024;
/// Queue numbers of the memory volume begin here: they are never stored.
const MEMORY_QUEUE: u32 = 0x8000_0000;
/// Dead letters kept a queue at most, in bytes.
const DEAD_BYTES_MAX: u64 = 64 * 1_024 * 1_024;
/// What the names of dead letter queues begin with.
pub(super) const DEAD: &str = "$dead/";

impl Mount {
    pub(super) fn new(id: MountId, tenant: &str, dedupe: DedupeWindow) -> Self {
        Self {
            id,
            tenant: tenant.into(),
            configured: true,
            stored: false,
            queues: Vec::new(),
            connections: 0,
            asks: 0,
            quota: Quota::default(),
            stored_most: u64::MAX,
            limit: Limit::default(),
            budget: Budget::default(),
            tally: Tally::default(),
            kept_tally: Tally::default(),
            captures: Table::default(),
            subscriptions: Table::default(),
            responders: Table::default(),
            turn: 0,
            dedupe,
            sources: Sources::default(),
            bridges: hashbrown::HashMap::new(),
            retained: BTreeMap::new(),
            retained_bytes: 0,
            signers: Signers::default(),
            forwards: Vec::new(),
            tracks: Tracks::default(),
            routes: hashbrown::HashMap::new(),
        }
    }

    /// Takes over what the settings say of its tenant.
    pub(super) fn configure(&mut self, settings: &Settings) {
        let tenant = settings.tenants.iter().find(|t| !self.tenant.is_empty() && *t.name == *self.tenant);
        self.configured = self.id == MountId(0) || tenant.is_some();
        self.quota = tenant.map(Quota::of).unwrap_or_default();
        self.limit = tenant.map(|t| Limit::per_second(t.messages_per_second, t.bytes_per_second)).unwrap_or_default();
        self.stored_most = u64::MAX;
    }

    /// Takes over who signs for which channels.
    pub(super) fn set_signers(&mut self, signers: Signers) {
        self.signers = signers;
        self.routes.clear();
    }

    /// Takes over what bridges forward.
    pub(super) fn set_forwards(&mut self, forwards: Vec<Forwards>) {
        self.forwards = forwards;
        self.routes.clear();
    }

    /// The consumers of the bridges that forward a channel from a queue.
    pub(super) fn forwards<'a>(&'a self, queue: usize, channel: &'a str) -> impl Iterator<Item = &'a Rc<str>> {
        let mine = move |(q, filter, _): &&Forwards| *q == queue && upstream::matches(filter, channel);
        self.forwards.iter().filter(mine).map(|(_, _, consumer)| consumer)
    }

    /// The mount's queue of this name.
    pub(super) fn queue(&self, queues: &[Queue], name: &str) -> Option<usize> {
        self.queues.iter().copied().find(|&q| queues[q].settings.name == name)
    }

    /// Rebuilds what captures what, after queues or their filters changed.
    pub(super) fn rebuild_captures(&mut self, queues: &[Queue]) {
        self.captures = Table::default();
        for &i in &self.queues {
            let queue = &queues[i];
            for filter in queue.settings.capture.iter().filter(|_| queue.configured) {
                self.captures.insert(filter, i);
            }
        }
        self.routes.clear();
    }

    pub(super) fn subscribe(&mut self, filter: &str, target: StreamRef) {
        self.subscriptions.insert(filter, target);
        self.routes.clear();
    }

    pub(super) fn unsubscribe(&mut self, filter: &str, target: StreamRef) {
        self.subscriptions.remove(filter, target);
        self.routes.clear();
    }

    /// Where a valid channel's messages go.
    pub(super) fn route(&mut self, channel: &str) -> Rc<Route> {
        if let Some(route) = self.routes.get(channel) {
            return Rc::clone(route);
        }
        let mut route = Route::default();
        self.captures.matches(channel, &mut route.queues);
        route.queues.sort_unstable();
        route.queues.dedup();
        self.subscriptions.matches(channel, &mut route.subscriptions);
        route.subscriptions.sort_unstable();
        route.subscriptions.dedup();
        route.signers = self.signers.of(channel);
        for &q in &route.queues {
            let mut consumers: Vec<Rc<str>> = self.forwards(q, channel).cloned().collect();
            consumers.sort_unstable();
            consumers.dedup();
            if !consumers.is_empty() {
                route.upstream.push((q, consumers));
            }
        }
        let route = Rc::new(route);
        if self.routes.len() >= ROUTES_MAX {
            self.routes.clear();
        }
        self.routes.insert(channel.into(), Rc::clone(&route));
        route
    }
}

/// Settings of the queue where another's dead letters go.
pub(super) fn dead_settings(of: &QueueSettings) -> QueueSettings {
    QueueSettings {
        capture: Vec::new(),
        keep: Keep::Limits,
        overflow: Overflow::DropOldest,
        bytes_max: of.bytes_max.min(DEAD_BYTES_MAX),
        messages_max: of.messages_max,
        age_ms_max: 0,
        history: false,
        ..QueueSettings { name: format!("{DEAD}{}", of.name), ..of.clone() }
    }
}
