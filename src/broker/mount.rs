//! A mount's space: its queues, who listens where, its ids and retained values.

use crate::config::{Keep, Overflow, QueueSettings};
use crate::model::{ConnId, Epoch, MountId, Position, QueueId};
use crate::queue::{DedupeWindow, Queue};
use crate::routing::Table;
use crate::store::QueueKey;
use crate::store::schema::Counters as Numbers;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A stream of a connection.
pub(super) type StreamRef = (ConnId, u32);

/// Everything of one mount.
pub(super) struct Mount {
    pub(super) id: MountId,
    pub(super) queues: Vec<Queue>,
    /// Queues by the filters they capture.
    captures: Table<usize>,
    /// Subscriptions by filter.
    subscriptions: Table<StreamRef>,
    /// Who answers requests, by filter.
    pub(super) responders: Table<StreamRef>,
    /// Whose turn it is among several responders.
    pub(super) turn: usize,
    pub(super) dedupe: DedupeWindow,
    /// Length of each retained value by channel.
    pub(super) retained: BTreeMap<Box<str>, u32>,
    pub(super) retained_bytes: u64,
    /// Numbers never used twice.
    pub(super) numbers: Numbers,
    pub(super) numbers_dirty: bool,
    /// Queues of the memory volume ever made.
    pub(super) memory_queues: u32,
    routes: hashbrown::HashMap<Box<str>, Rc<Route>>,
}

/// Where a channel's messages go.
#[derive(Debug, Default)]
pub(super) struct Route {
    /// Indices of the queues that capture it.
    pub(super) queues: Vec<usize>,
    /// Live subscriptions.
    pub(super) subscriptions: Vec<StreamRef>,
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
    pub(super) fn new(id: MountId, dedupe: DedupeWindow, numbers: Numbers) -> Self {
        Self {
            id,
            queues: Vec::new(),
            captures: Table::default(),
            subscriptions: Table::default(),
            responders: Table::default(),
            turn: 0,
            dedupe,
            retained: BTreeMap::new(),
            retained_bytes: 0,
            numbers,
            numbers_dirty: false,
            memory_queues: 0,
            routes: hashbrown::HashMap::new(),
        }
    }

    /// The queue of this name.
    pub(super) fn queue(&self, name: &str) -> Option<usize> {
        self.queues.iter().position(|q| q.settings.name == name)
    }

    /// Adds an empty queue.
    pub(super) fn add_queue(&mut self, settings: QueueSettings, epoch: u64) -> usize {
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
        let key = QueueKey { mount: self.id, queue: QueueId(number) };
        self.queues.push(Queue::new(key, settings, Epoch(epoch)));
        self.queues.len() - 1
    }

    /// Rebuilds what captures what, after queues or their filters changed.
    pub(super) fn rebuild_captures(&mut self) {
        self.captures = Table::default();
        for (i, queue) in self.queues.iter().enumerate() {
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
