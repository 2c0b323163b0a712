//! The conductor: the only room that knows the others. Events in, effects out; no clock, socket, file, task or lock.
//!
//! Invariants:
//! - An acknowledgement leaves only when every position its contract asks for is durable (`Event::Committed`).
//! - Consumers and subscribers of stored messages see only what is durable.
//! - At most one commit a volume is under way; what arrives meanwhile waits in one batch, bounded in bytes.
//! - A session that is out of window, or a store that is behind, is not read from: TCP carries that to the sender.

mod admin;
mod bridges;
mod commit;
mod conn;
mod consume;
mod dead;
mod delayed;
mod deliver;
mod edges;
mod entries;
mod expand;

mod event;
mod forward;
mod load;
mod login;
mod mount;
mod permit;
mod publish;
mod quotas;
mod rates;
mod request;
mod signatures;
mod sources;
mod storage;
mod subscribe;
mod tenants;
mod tracks;
mod upstream;
mod usage;
mod welcome;

pub use crate::model::Volume;
pub use crate::observe::Counters;
pub use event::{Effect, Event, Peer, Transmit};
pub use signatures::NamedKeys;
pub use usage::{Usage, Whose};

use crate::config::Settings;
use crate::model::{ConnId, Epoch, Mono, Now, Wall};
use crate::queue::Queue;
use crate::routing::Permissions;
use crate::schedule::{Due, Leap, Leaps};
use crate::store::{Op, Reader, StoreError, Table, schema};
use bridges::Bridges;
use commit::VolumeState;
use conn::Conn;
use hashbrown::HashMap;
use login::Logins;
use mount::{Mount, Queues};
use rates::{Budgets, Limit};
use request::Ask;
use std::collections::VecDeque;
use std::sync::Arc;
use storage::Health;

/// The whole broker as one state machine.
pub struct Broker {
    settings: Arc<Settings>,
    rng: fastrand::Rng,
    now: Now,
    started: Now,
    /// Times at which the clock was set: no time passed, so nothing became older.
    leaps: Leaps,
    conns: HashMap<ConnId, Conn>,
    /// Every mount's queues.
    queues: Queues,
    /// The spaces, by their ids; that of whoever has no tenant is the first.
    mounts: Vec<Mount>,
    disk: VolumeState,
    memory: VolumeState,
    health: Health,
    reads: HashMap<u64, Waiting>,
    asks: HashMap<u64, Ask>,
    logins: Logins,
    /// What is known of this process's bridges.
    bridges: Bridges,
    /// Keys that rules of signatures call by name.
    named_keys: NamedKeys,
    /// What each role allows; sessions share it.
    permissions: Arc<Permissions>,
    /// What a principal may publish, and what is left of it.
    rates: Limit,
    budgets: Budgets,
    /// Final answers to publishes of contract `upstream` that are to be told.
    finals: Vec<upstream::Final>,
    /// Consumers to look at before the broker rests: queue and consumer index.
    pumps: Vec<(usize, usize)>,
    timers: Due<Timer>,
    effects: VecDeque<Effect>,
    counters: Counters,
    /// Where compressed payloads are expanded to be looked at.
    scratch: Vec<u8>,
    /// Where compressed batches are.
    unpacked: expand::Unpacked,
    ids: u64,
    stopping: Option<Mono>,
    stopped: bool,
    /// The last commit of an orderly stop was handed out: what it says of consumers must stay true.
    said_stopped: bool,
    /// Why it ended, where nobody asked for it.
    failure: Option<StoreError>,
}

/// Every timer there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    /// Handshake, heartbeat, stopped frame or last bytes of a session.
    Session(ConnId),
    /// A session that was made to wait is read from again.
    Pause(ConnId),
    /// The pending batch of the disk has lingered long enough.
    Flush,
    /// A retry of a consumer (queue, consumer) is due.
    Retry(usize, usize),
    /// Deliveries of a consumer may be overdue.
    AckTimeout(usize, usize),
    /// A delayed message of a queue is due.
    Delayed(usize),
    /// Old messages, old ids.
    Housekeeping,
    /// A request's deadline.
    Ask(u64),
    /// The next session's credentials end, or are about to.
    Expiry,
    /// The last moment of a stop.
    Stop,
}

/// What a read's answer is for.
enum Waiting {
    /// The next page of a consumer's lane: queue, consumer, lane.
    Page(usize, usize, crate::model::Priority),
    /// One message to be delivered again or buried: queue, consumer, lane, sequence; and what its consumer said of it.
    Fetch(usize, usize, crate::model::Priority, u64, Option<Box<str>>),
    /// Due delayed messages of a queue.
    Delayed(usize),
    /// Retained values or history for a subscription or a history request.
    Prime(subscribe::Prime),
    /// Messages whose channels are to be noted: queue, lane, from where on.
    Places(usize, crate::model::Priority, u64),
    /// A page for an administrator.
    Admin(admin::Waiting),
}

/// How often old messages and ids are looked for, in milliseconds.
const HOUSEKEEPING_MS: u64 = 1_000;

impl Broker {
    /// A broker with the state found in the store. `seed` feeds epochs and jitter.
    ///
    /// # Errors
    /// What the reader says.
    pub fn new(now: Now, settings: Arc<Settings>, disk: &dyn Reader, seed: u64) -> Result<Self, StoreError> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let loaded = load::load(now, &settings, disk, &mut rng, &[])?;
        // Messages may know a later time than whoever gave this one.
        let now = Now { wall: now.wall.max(loaded.clock), ..now };
        let mut broker = Self {
            rng,
            now,
            started: now,
            leaps: loaded.leaps,
            conns: HashMap::new(),
            queues: loaded.queues,
            mounts: loaded.mounts,
            disk: VolumeState::new(Volume::Disk, loaded.applied, settings.store.tail_bytes as usize),
            memory: VolumeState::new(Volume::Memory, crate::model::Position(0), settings.store.tail_bytes as usize / 2),
            health: Health::default(),
            reads: HashMap::new(),
            asks: HashMap::new(),
            logins: Logins::default(),
            bridges: Bridges::load(disk)?,
            named_keys: NamedKeys::new(),
            permissions: Arc::new(Permissions::new(&settings.roles)),
            rates: Limit::default(),
            budgets: Budgets::default(),
            finals: Vec::new(),
            pumps: Vec::new(),
            timers: Due::default(),
            effects: VecDeque::new(),
            counters: Counters::default(),
            scratch: Vec::new(),
            unpacked: expand::Unpacked::default(),
            ids: 1,
            stopping: None,
            stopped: false,
            said_stopped: false,
            failure: None,
            settings,
        };
        broker.disk.clock = loaded.clock;
        broker.set_rates();
        if let Some(leap) = loaded.leap {
            broker.leapt(leap);
        }
        broker.after_load();
        broker.warn_of_strangers();
        Ok(broker)
    }

    /// Something happened.
    pub fn handle(&mut self, now: Now, event: Event<'_>) {
        self.advance(now);
        match event {
            Event::Opened { conn, peer, nonce } => self.handle_opened(conn, peer, nonce),
            Event::NamedKeys { keys } => self.handle_named_keys(keys),
            Event::Authenticated { conn, outcome } => self.handle_authenticated(conn, outcome),
            Event::Received { conn, bytes } => self.handle_received(conn, bytes),
            Event::Closed { conn } => self.handle_closed(conn),
            Event::Committed { volume, done } => self.handle_committed(volume, &done),
            Event::StoreFailed { error } => self.handle_store_failed(&error),
            Event::StoreReopened { reader } => self.handle_store_reopened(reader),
            Event::Read { token, result } => self.handle_read(token, result),
            Event::Disk { free_bytes } => self.handle_disk(free_bytes),
            Event::NoTls { reason } => *self.counters.no_tls.entry(reason).or_default() += 1,
            Event::Bridge { status, keep } => self.handle_bridge(*status, keep),
            Event::Timeout => self.handle_timeout(),
            Event::Reload { settings } => self.handle_reload(settings),
            Event::Stop { deadline } => self.handle_stop(deadline),
        }
    }

    /// The next thing to do, until `None`. Call after every [`Broker::handle`] and [`Broker::poll_transmit`].
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            self.run_pumps();
            self.tell_finals();
            self.flush_if_due();
            self.check_stopped();
        }
        self.effects.pop_front()
    }

    /// When to send [`Event::Timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.timers.next()
    }

    /// After [`Effect::Stopped`]: why it ended, where nobody asked for it.
    pub fn take_failure(&mut self) -> Option<StoreError> {
        self.failure.take()
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The latest time the store knows of: the wall clock handed to the broker must not be earlier.
    #[must_use]
    pub fn clock_floor(&self) -> Wall {
        self.disk.clock
    }

    /// Time goes on, and may have leapt.
    fn advance(&mut self, now: Now) {
        let before = std::mem::replace(&mut self.now, now);
        if let Some(leap) = self.leaps.watch(before, now) {
            self.leapt(leap);
        }
    }

    /// The clock was set: what was counted from its old time is moved along, and the leap is kept with the next commit.
    fn leapt(&mut self, leap: Leap) {
        log::warn!("the clock was set forward by {} s: messages do not become older by it", leap.by_ms / 1_000);
        self.mounts.iter_mut().for_each(|m| m.dedupe.shift(leap.by_ms));
        self.keep_leaps();
        // What is held back gets the new time for its old one.
        for queue in 0..self.queues.len() {
            self.read_delayed(queue);
        }
    }

    /// Writes the leaps with the next commit.
    fn keep_leaps(&mut self) {
        let key = bytes::Bytes::from_static(schema::META_LEAPS);
        self.disk.push(Op::Put { table: Table::Meta, key, value: schema::encode(&self.leaps) });
        self.disk.clock_due = true;
        self.disk.nudge(self.now.mono);
    }

    /// Whether a message stored then, with this time to live, is too old; 0 never is.
    fn is_over_ttl(&self, ttl_ms: u32, stored: Wall) -> bool {
        ttl_ms != 0 && self.now.wall.ms_since(self.leaps.forward(stored)) >= u64::from(ttl_ms)
    }

    /// Something is missing from the middle of a queue: nobody may prove by its epoch that they missed nothing.
    fn renew_epoch(&mut self, q: usize) {
        let queue = &mut self.queues[q];
        (queue.epoch, queue.dirty) = (Epoch(self.rng.u64(..)), true);
        let volume = queue.volume;
        let now = self.now.mono;
        self.volume_mut(volume).nudge(now);
    }

    fn handle_timeout(&mut self) {
        while let Some(timer) = self.timers.pop(self.now.mono) {
            match timer {
                Timer::Session(conn) => self.handle_session_timeout(conn),
                Timer::Pause(conn) => self.end_pause(conn),
                // `flush_if_due` looks at the clock itself.
                Timer::Flush => {}
                Timer::Retry(queue, consumer) => self.pumps.push((queue, consumer)),
                Timer::AckTimeout(queue, consumer) => self.handle_ack_timeout(queue, consumer),
                Timer::Delayed(queue) => self.read_delayed(queue),
                Timer::Housekeeping => self.housekeeping(),
                Timer::Ask(id) => self.end_ask(id, crate::wire::Code::DeadlineExceeded),
                Timer::Expiry => self.check_expiries(),
                Timer::Stop => self.stopped = true,
            }
        }
    }

    fn handle_read(&mut self, token: u64, result: Result<crate::store::ReadResult, StoreError>) {
        let Some(waiting) = self.reads.remove(&token) else { return };
        let result = match result {
            Ok(result) => Some(result),
            Err(error) => {
                log::error!("a read failed: {error}");
                self.counters.read_errors += 1;
                // Once a read failed the database may refuse everything until it is opened anew, which a commit finds out:
                // one of nothing would not be made.
                self.disk.clock_due |= matches!(error, StoreError::Io(_));
                self.disk.nudge(self.now.mono);
                None
            }
        };
        self.answer_read(waiting, result);
    }

    /// Hands what was read to who asked; `None` when it could not be.
    fn answer_read(&mut self, waiting: Waiting, result: Option<crate::store::ReadResult>) {
        match waiting {
            Waiting::Page(queue, consumer, lane) => self.handle_page(queue, consumer, lane, result),
            Waiting::Fetch(queue, consumer, lane, seq, why) => {
                self.handle_fetched(queue, consumer, lane, seq, why.as_deref(), result);
            }
            Waiting::Delayed(queue) => self.handle_delayed(queue, result),
            Waiting::Prime(prime) => self.handle_primed(prime, result),
            Waiting::Places(queue, lane, from) => self.handle_places(queue, lane, from, result),
            Waiting::Admin(waiting) => self.handle_admin_read(waiting, result),
        }
    }

    fn read(&mut self, volume: Volume, waiting: Waiting, request: crate::store::ReadRequest) {
        let token = self.next_id();
        self.reads.insert(token, waiting);
        self.effects.push_back(Effect::Read { volume, token, request });
    }

    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    fn volume_mut(&mut self, volume: Volume) -> &mut VolumeState {
        match volume {
            Volume::Disk => &mut self.disk,
            Volume::Memory => &mut self.memory,
        }
    }

    fn housekeeping(&mut self) {
        self.timers.set(Timer::Housekeeping, self.now.mono.plus_ms(HOUSEKEEPING_MS));
        for queue in 0..self.queues.len() {
            self.release(queue);
        }
        // The wall clock may have been set since the timer was.
        self.check_expiries();
        for mount in 0..self.mounts.len() {
            self.expire_ids(mount);
        }
        self.rest_unpacked();
        self.budgets.forget(self.rates, self.now.mono);
        if self.now.wall.ms_since(self.disk.clock) >= 60_000 && self.disk.has_dirty_rows() {
            self.disk.clock_due = true;
        }
    }

    /// Whether it takes messages.
    ///
    /// # Errors
    /// Why it does not.
    pub fn health(&self) -> Result<(), &'static str> {
        if self.stopping.is_some() || self.stopped {
            Err("the broker is stopping")
        } else if self.health.is_failed() {
            Err("the store failed and is being opened again")
        } else {
            Ok(())
        }
    }

    /// All connections in the order they came: what is done to each must not hang on the order of a hash.
    fn conns_in_order(&self) -> Vec<ConnId> {
        let mut all: Vec<ConnId> = self.conns.keys().copied().collect();
        all.sort_unstable();
        all
    }

    fn handle_stop(&mut self, deadline: Mono) {
        if self.stopping.is_some() {
            self.stopped = true;
            return;
        }
        self.stopping = Some(deadline);
        self.timers.set(Timer::Stop, deadline);
        let ms = deadline.ms_since(self.now.mono).min(u64::from(u32::MAX)) as u32;
        let conns = self.conns_in_order();
        log::info!("stopping: {} connections, {} bytes to commit", conns.len(), self.disk.pending_bytes());
        for conn in conns {
            self.send_goaway(conn, ms);
        }
    }

    fn check_stopped(&mut self) {
        if self.stopping.is_none() {
            return;
        }
        if !self.stopped && self.disk.is_settled() && self.memory.is_settled() {
            if !self.said_stopped && !self.health.is_failed() {
                self.said_stopped = true;
                self.disk.push_stopped(self.now.mono, !self.queues.iter().any(Queue::is_suspect));
                self.flush_if_due();
                return;
            }
            for conn in self.conns_in_order() {
                self.close(conn, crate::wire::Code::ShuttingDown, "the broker is stopping");
            }
            self.stopped = self.conns.is_empty();
        }
        if self.stopped {
            self.stopping = None;
            self.effects.push_back(Effect::Stopped);
        }
    }
}

#[cfg(test)]
mod tests;
