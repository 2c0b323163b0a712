//! A broker as the daemon runs it: the real machine and the real store, on a disk that fails when told to.

use crate::contents::{stored, uids};
use crate::edge::Way;
use crate::ledger::Life;
use crate::net::End;
use crate::plan::{Cut, TENANT};
use crate::tap::Told;
use crate::world::{Ev, World};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tidegate::broker::{Broker, Effect, Event, Peer, Transmit, Volume, Whose};
use tidegate::config::Settings;
use tidegate::model::{ConnId, Mono, Now, Wall};
use tidegate::schedule::SteadyWall;
use tidegate::session::Principal;
use tidegate::store::testing::{FaultyDisk, Lost};
use tidegate::store::{
    Batch, MemoryStore, OpenOptions, ReadRequest, Reader, Store, StoreError, Table, open_on, perform, schema,
};

/// A read of a socket.
const READ_BYTES: usize = 64 * 1_024;
/// What may come above a bound by one read, or one message too large for the rest, in bytes and in messages.
const SLACK_BYTES: u64 = 96 * 1_024;
const SLACK_MESSAGES: u64 = READ_BYTES as u64 / 30;

pub struct Host {
    pub settings: Arc<Settings>,
    pub disk: FaultyDisk,
    memory: MemoryStore,
    memory_commits: u32,
    store: Option<Box<dyn Store>>,
    reader: Option<Box<dyn Reader>>,
    pub broker: Option<Broker>,
    steady: SteadyWall,
    pub life: Life,
    committing: Option<Vec<Batch>>,
    /// A failure was not yet told, or the store is not yet open again.
    deaf: bool,
    reads: VecDeque<(u64, ReadRequest)>,
    reading: bool,
    timer_us: Option<u64>,
    pub durable: BTreeSet<u32>,
    uncertain: BTreeSet<u32>,
    pub conns: BTreeMap<ConnId, usize>,
    pub next_conn: u64,
    busy: u64,
    pub stall_until: u64,
    pub cut_after_acks: Option<u32>,
    pub lost: Lost,
    starting: bool,
    stopped: bool,
    /// The machine's clock when the world began, and how it was set since, in microseconds.
    pub wall_us: i64,
    /// Its bridge.
    pub bridge: Option<crate::edge::Running>,
}

impl Host {
    pub fn new(settings: Settings, wall_ms: u64) -> Self {
        Self {
            settings: Arc::new(settings),
            disk: FaultyDisk::new(),
            memory: MemoryStore::new(),
            memory_commits: 0,
            store: None,
            reader: None,
            broker: None,
            steady: SteadyWall::new(Wall(0)),
            life: Life::default(),
            committing: None,
            deaf: false,
            reads: VecDeque::new(),
            reading: false,
            timer_us: None,
            durable: BTreeSet::new(),
            uncertain: BTreeSet::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            busy: 0,
            stall_until: 0,
            cut_after_acks: None,
            lost: Lost::All,
            starting: false,
            stopped: false,
            wall_us: wall_ms as i64 * 1_000,
            bridge: None,
        }
    }
}

impl World<'_> {
    pub fn host_now(&mut self, h: usize) -> Now {
        let (mono, raw) = (self.mono(), self.wall(h));
        Now { mono, wall: self.hosts[h].steady.at(mono, raw) }
    }

    /// Starts a process on what the disk holds.
    pub fn start(&mut self, h: usize) {
        self.hosts[h].starting = false;
        if self.hosts[h].broker.is_some() {
            return;
        }
        let Some(store) = self.open(h) else {
            self.start_later(h, 200_000);
            return;
        };
        let reader = store.reader();
        let floor = reader.get(Table::Meta, schema::META_CLOCK).ok().flatten();
        let floor = floor.and_then(|row| row.first_chunk::<8>().copied()).map_or(0, u64::from_be_bytes);
        let seed = self.rng.u64(..);
        let host = &mut self.hosts[h];
        host.steady = SteadyWall::new(Wall(floor));
        host.life.process += 1;
        host.memory = MemoryStore::new();
        let process = host.life.process;
        let now = self.host_now(h);
        let host = &mut self.hosts[h];
        let broker = match Broker::new(now, Arc::clone(&host.settings), &*reader, seed) {
            Ok(broker) => broker,
            Err(error) => {
                let faulty = host.disk.is_off();
                (host.store, host.reader) = (None, None);
                self.trace
                    .note("a store that cannot be read", [h as u64, u64::from(faulty), error.to_string().len() as u64]);
                self.start_later(h, 200_000);
                return;
            }
        };
        host.steady.raise(broker.clock_floor());
        (host.broker, host.store, host.reader) = (Some(broker), Some(store), Some(reader));
        (host.committing, host.deaf, host.reading, host.timer_us, host.stopped) = (None, false, false, None, false);
        host.reads.clear();
        host.durable.append(&mut host.uncertain);
        self.trace.note("a broker starts", [h as u64, process, 0]);
        self.look_for_losses(h);
        self.tell_space(h);
        self.after(5_000_000, Ev::Space(h, process));
        self.start_bridge(h);
    }

    /// What was promised and is not done with must be on the disk now: a publisher that sends it again, because the answer
    /// did not reach it, would hide its loss.
    fn look_for_losses(&mut self, h: usize) {
        let Some(found) = self.hosts[h].reader.as_deref().and_then(|reader| stored(reader).ok()) else { return };
        let lives: Vec<Life> = self.hosts.iter().map(|h| h.life).collect();
        for (uid, reader, droppable, mortal) in self.ledger.missing(&lives) {
            if reader.0 == h && !droppable && !mortal && !found.contains(&uid) {
                self.ledger.fail("no acknowledged message is lost", format!("message {uid} for {reader:?}"));
            }
        }
    }

    fn open(&mut self, h: usize) -> Option<Box<dyn Store>> {
        // A small journal, so that it is folded several times in a life.
        let (now, random) = (self.wall(h), 1 + h as u128);
        let options =
            OpenOptions { cache_bytes: 1 << 20, now, journal_bytes: 96 << 10, random, ..OpenOptions::default() };
        if self.hosts[h].disk.is_off() {
            let lost = self.hosts[h].lost;
            self.hosts[h].disk.power_on(lost);
        }
        match open_on(Arc::new(self.hosts[h].disk.clone()), &options) {
            Ok(opened) => {
                for finding in &opened.findings {
                    if finding.is_loss() {
                        self.ledger.fail("a store that was only cut off loses nothing", finding.to_string());
                    }
                }
                Some(Box::new(opened.store))
            }
            Err(error) => {
                self.trace.note("the store does not open", [h as u64, error.to_string().len() as u64, 0]);
                None
            }
        }
    }

    fn start_later(&mut self, h: usize, us: u64) {
        if !std::mem::replace(&mut self.hosts[h].starting, true) {
            self.after(us, Ev::Start(h));
        }
    }

    /// The process is gone at once; the machine too if `power`.
    pub fn die(&mut self, h: usize, power: bool) {
        let host = &mut self.hosts[h];
        let Some(broker) = host.broker.take() else { return };
        self.ledger.dropped += broker.counters().dropped_full;
        self.ledger.expired += broker.counters().expired;
        host.life.losses += 1;
        let in_flight: Vec<u32> = host.committing.take().iter().flatten().flat_map(uids).collect();
        host.uncertain.extend(in_flight);
        // Before the store is dropped: it must not be closed in order.
        host.disk.cut();
        (host.store, host.reader) = (None, None);
        if !power {
            host.disk.power_on(Lost::None);
        }
        host.cut_after_acks = None;
        self.trace.note("a broker dies", [h as u64, u64::from(power), 0]);
        let silent = power && self.rng.bool();
        self.end_bridge(h, silent);
        self.lose_all(h, silent);
        let pause = self.rng.u64(5_000..400_000);
        self.start_later(h, pause);
    }

    /// Asks the broker to stop; it is started again afterwards.
    pub fn stop(&mut self, h: usize) {
        let deadline = self.mono().plus_ms(10_000);
        self.tell(h, Event::Stop { deadline });
        let process = self.hosts[h].life.process;
        self.after(11_000_000, Ev::StopOver(h, process));
    }

    pub fn stop_over(&mut self, h: usize) {
        let host = &mut self.hosts[h];
        let Some(broker) = host.broker.take() else { return };
        self.ledger.dropped += broker.counters().dropped_full;
        self.ledger.expired += broker.counters().expired;
        let orderly = host.committing.is_none() && host.stopped && !host.deaf;
        if !orderly {
            // Its time was over before all was written.
            host.life.losses += 1;
        }
        if let Some(batches) = host.committing.take()
            && let Some(store) = &mut host.store
        {
            // The committer writes what was handed over.
            host.uncertain.extend(batches.iter().flat_map(uids));
            let _ = store.commit(&batches);
        }
        (host.store, host.reader) = (None, None);
        self.trace.note("a broker ends", [h as u64, u64::from(orderly), 0]);
        self.end_bridge(h, false);
        self.lose_all(h, false);
        let pause = self.rng.u64(5_000..400_000);
        self.start_later(h, pause);
    }

    /// Brings a broker an event and carries out what it asks for.
    pub fn tell(&mut self, h: usize, event: Event<'_>) {
        let now = self.host_now(h);
        let Some(broker) = self.hosts[h].broker.as_mut() else { return };
        broker.handle(now, event);
        self.turn(h);
    }

    pub fn turn(&mut self, h: usize) {
        loop {
            let Some(effect) = self.hosts[h].broker.as_mut().and_then(Broker::poll_effect) else { break };
            let process = self.hosts[h].life.process;
            match effect {
                Effect::Commit { volume: Volume::Disk, batches } => {
                    let host = &mut self.hosts[h];
                    host.busy += 1;
                    if host.deaf {
                        continue;
                    }
                    if host.committing.replace(batches).is_some() {
                        self.ledger.fail("one commit a volume is under way", "a second was asked for".into());
                    }
                    let (least, most) = self.commit_us;
                    let stall = self.hosts[h].stall_until.saturating_sub(self.now_us);
                    let latency = self.rng.u64(least..=most) + stall.min(2_000_000);
                    self.after(latency, Ev::Commit(h, process));
                }
                Effect::Commit { volume: Volume::Memory, batches } => {
                    let now = self.host_now(h);
                    let host = &mut self.hosts[h];
                    let done = host.memory.commit(&batches).expect("memory takes everything");
                    host.memory_commits += 1;
                    if host.memory_commits.is_multiple_of(32) {
                        host.memory.tidy().expect("memory takes everything");
                    }
                    if let Some(broker) = host.broker.as_mut() {
                        broker.handle(now, Event::Committed { volume: Volume::Memory, done });
                    }
                }
                Effect::Read { volume: Volume::Disk, token, request } => {
                    self.hosts[h].reads.push_back((token, request));
                    self.read_next(h);
                }
                Effect::Read { volume: Volume::Memory, token, request } => {
                    let result = perform(&*self.hosts[h].memory.reader(), &request);
                    let now = self.host_now(h);
                    if let Some(broker) = self.hosts[h].broker.as_mut() {
                        broker.handle(now, Event::Read { token, result });
                    }
                }
                Effect::Wake { conn } => {
                    if let Some(&link) = self.hosts[h].conns.get(&conn) {
                        self.look_later(link);
                    } else {
                        self.bridge_later(h);
                    }
                }
                Effect::Authenticate { conn, .. } => {
                    // A user of the machine whom the identities name: no administrator, and of that tenant.
                    let roles = vec!["open".into()];
                    let principal =
                        Principal { name: "sim".into(), tenant: TENANT.into(), roles, ..Principal::default() };
                    let now = self.host_now(h);
                    if let Some(broker) = self.hosts[h].broker.as_mut() {
                        broker.handle(now, Event::Authenticated { conn, outcome: Ok(principal) });
                    }
                }
                Effect::Reserve { present } => {
                    let bytes = self.hosts[h].settings.store.reserve_bytes;
                    let host = &mut self.hosts[h];
                    if let (Some(space), false) = (host.disk.space(), present) {
                        host.disk.set_space(Some(space + bytes));
                    }
                }
                Effect::Bridge { pause, .. } => self.pause_bridge(h, pause),
                Effect::Stopped => {
                    self.hosts[h].stopped = true;
                    self.after(20_000, Ev::StopOver(h, process));
                }
            }
        }
        self.arm(h);
        self.check_bounds(h);
    }

    fn arm(&mut self, h: usize) {
        let process = self.hosts[h].life.process;
        let Some(at) = self.hosts[h].broker.as_ref().and_then(Broker::poll_timeout) else { return };
        let at_us = at.0.saturating_sub(self.mono().0) + self.now_us;
        if self.hosts[h].timer_us.is_none_or(|armed| armed > at_us) {
            self.hosts[h].timer_us = Some(at_us);
            self.at(at_us, Ev::Timer(h, process));
        }
    }

    pub fn timer(&mut self, h: usize) {
        if self.hosts[h].timer_us.is_some_and(|at| at <= self.now_us) {
            self.hosts[h].timer_us = None;
        }
        let due = self.hosts[h].broker.as_ref().and_then(Broker::poll_timeout);
        if due.is_some_and(|due| due <= self.mono()) {
            self.tell(h, Event::Timeout);
        } else {
            self.arm(h);
        }
    }

    fn check_bounds(&mut self, h: usize) {
        let Some(broker) = &self.hosts[h].broker else { return };
        let conns = self.hosts[h].conns.len() as u64 + 1;
        // What a bridge has under a larger window, it still has under a smaller one.
        let bridge = self.way.as_ref().map_or((String::new(), 0), Way::left_over);
        let mut over = None;
        broker.usage(&mut |u| {
            let slack = match u.what {
                "deliveries without an answer" if matches!(u.whose, Whose::Consumer(_, name) if name == bridge.0) => {
                    bridge.1
                }
                "messages of a queue" | "bytes of a queue" | "retained values" | "deliveries without an answer" => 0,
                "bytes waiting for the disk" => 4 * SLACK_BYTES * conns,
                "ids remembered" => SLACK_MESSAGES * conns,
                "publishes without an answer" => SLACK_MESSAGES,
                "bytes of an outbox" => 20_000,
                _ => SLACK_BYTES,
            };
            if u.used > u.bound.saturating_add(slack) {
                over = Some(format!("{}: {:?} has {} of {}", u.what, u.whose, u.used, u.bound));
            }
        });
        if let Some(detail) = over {
            self.ledger.fail("no bound is exceeded", detail);
        }
    }

    // -- the disk --

    pub fn commit(&mut self, h: usize) {
        let host = &mut self.hosts[h];
        let (Some(batches), Some(store)) = (host.committing.take(), host.store.as_mut()) else { return };
        let result = store.commit(&batches);
        let process = host.life.process;
        match result {
            Ok(done) => {
                host.durable.extend(batches.iter().flat_map(uids));
                let busy = host.busy;
                self.last_commits.push_back(self.now_us);
                self.trace.note("a commit", [h as u64, done.position.0, done.bytes_written]);
                self.tell(h, Event::Committed { volume: Volume::Disk, done });
                self.after(20_000, Ev::Tidy(h, process, busy));
            }
            Err(error) => {
                host.uncertain.extend(batches.iter().flat_map(uids));
                self.store_failed(h, error);
            }
        }
    }

    pub fn tidy(&mut self, h: usize, busy: u64) {
        let host = &mut self.hosts[h];
        let process = host.life.process;
        let Some(store) = host.store.as_mut().filter(|_| host.busy == busy && host.committing.is_none()) else {
            return;
        };
        match store.tidy() {
            Ok(true) => self.after(1_000, Ev::Tidy(h, process, busy)),
            Ok(false) => {}
            Err(error) => self.store_failed(h, error),
        }
    }

    fn store_failed(&mut self, h: usize, error: StoreError) {
        if self.hosts[h].disk.is_off() {
            self.die(h, true);
            return;
        }
        self.ledger.store_failed = true;
        let full = matches!(error, StoreError::Full(_));
        self.trace.note("the store fails", [h as u64, u64::from(full), error.to_string().len() as u64]);
        let host = &mut self.hosts[h];
        host.deaf = true;
        host.store = None;
        // Until it is told, the broker may hand over more, which is dropped.
        let process = host.life.process;
        let later = self.rng.u64(..2_000);
        self.after(later, Ev::Failed(h, process, full));
    }

    pub fn failed(&mut self, h: usize, full: bool) {
        let host = &mut self.hosts[h];
        host.reader = None;
        host.life.losses += 1;
        if let Some(batches) = host.committing.take() {
            host.uncertain.extend(batches.iter().flat_map(uids));
        }
        let process = host.life.process;
        let text = "as told".to_owned();
        let error = if full { StoreError::Full(text) } else { StoreError::Io(text) };
        self.tell(h, Event::StoreFailed { error });
        self.tell_space(h);
        self.after(1_000, Ev::Reopen(h, process, 100_000));
    }

    pub fn reopen(&mut self, h: usize, pause: u64) {
        let process = self.hosts[h].life.process;
        let Some(store) = self.open(h) else {
            if self.hosts[h].disk.is_off() {
                self.die(h, true);
            } else {
                self.after(pause, Ev::Reopen(h, process, (pause * 2).min(5_000_000)));
            }
            return;
        };
        let reader = store.reader();
        let host = &mut self.hosts[h];
        host.durable.append(&mut host.uncertain);
        host.store = Some(store);
        host.deaf = false;
        self.trace.note("the store is open again", [h as u64, 0, 0]);
        self.tell(h, Event::StoreReopened { reader: &*reader });
        self.hosts[h].reader = Some(reader);
        self.read_next(h);
    }

    fn read_next(&mut self, h: usize) {
        let process = self.hosts[h].life.process;
        if self.hosts[h].reading || self.hosts[h].reads.is_empty() {
            return;
        }
        self.hosts[h].reading = true;
        let latency = self.rng.u64(5..2_000);
        self.after(latency, Ev::Read(h, process));
    }

    pub fn read(&mut self, h: usize) {
        let host = &mut self.hosts[h];
        host.reading = false;
        let Some((token, request)) = host.reads.pop_front() else { return };
        let result = match &host.reader {
            Some(reader) => perform(&**reader, &request),
            None => Err(StoreError::Io("it is being opened again".into())),
        };
        if host.disk.is_off() {
            self.die(h, true);
            return;
        }
        self.tell(h, Event::Read { token, result });
        self.read_next(h);
    }

    pub fn tell_space(&mut self, h: usize) {
        let free_bytes = self.hosts[h].disk.space().unwrap_or(1 << 40);
        self.tell(h, Event::Disk { free_bytes });
    }

    /// Arms a loss of power.
    pub fn cut(&mut self, h: usize, cut: Cut, lost: Lost) {
        self.hosts[h].lost = lost;
        match cut {
            Cut::Now => self.die(h, true),
            Cut::AtWrite(n) => self.hosts[h].disk.cut_at_write(n),
            Cut::AtSync(n) => self.hosts[h].disk.cut_at_sync(n),
            Cut::AfterAck(n) => self.hosts[h].cut_after_acks = Some(n),
        }
    }

    // -- its connections --

    pub fn accept(&mut self, h: usize, link: usize) -> Option<ConnId> {
        let host = &mut self.hosts[h];
        host.broker.as_ref()?;
        host.next_conn += 1;
        let conn = ConnId(host.next_conn);
        host.conns.insert(conn, link);
        Some(conn)
    }

    pub fn opened(&mut self, h: usize, conn: ConnId) {
        let end = self.hosts[h].conns.get(&conn).map(|l| self.links[*l].end);
        let admin = match end {
            Some(End::Client(c)) => self.clients[c].plan.tenant.is_empty(),
            _ => true,
        };
        self.tell(h, Event::Opened { conn, peer: Peer::Unix { uid: 0, pid: 0, admin }, nonce: [7; 32] });
    }

    /// The broker's end of a connection is looked at, as the daemon's task of it does.
    pub fn look(&mut self, l: usize) {
        self.links[l].looking = false;
        let (h, conn) = (self.links[l].host, self.links[l].conn);
        for _ in 0..8 {
            if !self.links[l].host_open {
                return;
            }
            if self.hosts[h].broker.as_ref().is_none_or(|b| b.is_over(conn)) && !self.links[l].closing {
                self.links[l].host_open = false;
                self.lose(l, false);
                self.close_host(l);
                return;
            }
            self.send(l);
            if self.links[l].closing {
                self.links[l].up.arrived.clear();
                if self.links[l].unsent.is_empty() {
                    self.links[l].down.ended = true;
                    self.links[l].host_open = false;
                    self.move_later(l, false);
                }
                return;
            }
            let wants = self.hosts[h].broker.as_ref().is_some_and(|b| b.wants_read(conn));
            if !wants || !self.links[l].host_open {
                return;
            }
            let bytes = self.links[l].up.read(READ_BYTES);
            if bytes.is_empty() {
                if let Some(until) = self.links[l].up.end_comes(self.now_us) {
                    self.links[l].looking = true;
                    self.at(until, Ev::Look(l));
                } else if self.links[l].up.ended && self.links[l].up.way.is_empty() {
                    self.links[l].host_open = false;
                    self.links[l].down.ended = true;
                    self.close_host(l);
                }
                return;
            }
            self.wake_later(l);
            self.tell(h, Event::Received { conn, bytes: &bytes });
        }
        self.look_later(l);
    }

    fn send(&mut self, l: usize) {
        let (h, conn) = (self.links[l].host, self.links[l].conn);
        loop {
            let link = &mut self.links[l];
            let unsent: Vec<u8> = link.unsent.drain(..).collect();
            let took = link.down.write(&unsent);
            link.unsent.extend(&unsent[took..]);
            if took > 0 {
                self.move_later(l, false);
            }
            if !self.links[l].unsent.is_empty() || self.links[l].closing {
                return;
            }
            let now = self.host_now(h);
            let Some(broker) = self.hosts[h].broker.as_mut() else { return };
            let mut out = Vec::new();
            let state = broker.poll_transmit(now, conn, &mut out, READ_BYTES);
            self.hear(l, &out);
            if self.hosts[h].broker.is_none() {
                return;
            }
            self.links[l].unsent.extend(&out);
            self.turn(h);
            match state {
                Transmit::Close => {
                    self.links[l].closing = true;
                    self.close_host(l);
                    if self.links[l].unsent.is_empty() {
                        return;
                    }
                }
                _ if out.is_empty() => return,
                _ => {}
            }
        }
    }

    /// Judges what leaves a broker, at the moment it leaves.
    fn hear(&mut self, l: usize, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        let mut told = Vec::new();
        self.links[l].tap.feed(out, &mut told);
        let h = self.links[l].host;
        let (mut cut, mut lost) = (false, false);
        if !told.is_empty() {
            self.active_us = self.now_us;
        }
        for told in told {
            match told {
                Told::Ack(first, count, outcome) => {
                    self.trace.note("an ack leaves", [l as u64, first, u64::from(count)]);
                    for number in first..first + u64::from(count) {
                        if let Some(left) = &mut self.hosts[h].cut_after_acks {
                            cut |= *left == 0;
                            *left = left.saturating_sub(1);
                        }
                        if matches!(self.links[l].end, End::Bridge(_)) {
                            lost |= self.acknowledges();
                            continue;
                        }
                        let Some(&uid) = self.links[l].numbers.get(&number) else {
                            self.ledger.fail("an answer is to a publish", format!("number {number}"));
                            continue;
                        };
                        let life = self.hosts[h].life;
                        self.ledger.acknowledged(uid, outcome, life, &self.hosts[h].durable);
                    }
                }
                Told::Message(seen) => {
                    self.trace.note("a message leaves", [l as u64, u64::from(seen.uid), seen.seq]);
                    self.ledger.leaves(h, &seen, &self.hosts[h].durable);
                }
            }
        }
        if cut {
            self.die(h, true);
        } else if lost {
            self.trace.note("an ack is lost", [l as u64, 0, 0]);
            self.lose(l, false);
        }
    }

    fn close_host(&mut self, l: usize) {
        let (h, conn) = (self.links[l].host, self.links[l].conn);
        if self.hosts[h].conns.remove(&conn).is_some() {
            self.tell(h, Event::Closed { conn });
        }
    }

    /// The broker learns that a connection was lost.
    pub fn host_lost(&mut self, l: usize) {
        if std::mem::take(&mut self.links[l].host_open) {
            self.close_host(l);
        }
    }

    /// Messages that policies dropped and that expired, as all processes so far counted them.
    pub fn counted(&self) -> (u64, u64) {
        let running = self.hosts.iter().filter_map(|h| h.broker.as_ref()).map(Broker::counters);
        let start = (self.ledger.dropped, self.ledger.expired);
        running.fold(start, |(dropped, expired), c| (dropped + c.dropped_full, expired + c.expired))
    }

    /// When everything is over: nothing may be waiting, and the books are closed.
    pub fn close_books(&mut self) {
        (self.ledger.dropped, self.ledger.expired) = self.counted();
        let refused = self.refused();
        self.ledger.check_refused(refused);
        let lives: Vec<Life> = self.hosts.iter().map(|h| h.life).collect();
        self.ledger.close(&lives);
    }

    pub fn mono(&self) -> Mono {
        Mono(1_000_000 + self.now_us)
    }
}
