//! The world of a seed: brokers, clients and connections on one queue of events, one clock, one source of randomness.
//!
//! Nothing here knows which broker is which: hosts, clients and links are numbered, and a plan says who speaks to whom.

use crate::clients::Client;
use crate::edge::Way;
use crate::host::Host;
use crate::ledger::{Broken, Ledger, Missing};
use crate::net::{End, Link, Pipe};
use crate::plan::{Fault, Plan, RolePlan};
use crate::tap::Tap;
use crate::trace::Trace;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use tidegate::broker::Event;
use tidegate::model::Wall;

/// How long after the healing everything must have come to rest, in microseconds.
const REST_US: u64 = 120_000_000;
/// Rest that is watched once nothing is missing any more, in microseconds.
const QUIET_US: u64 = 2_000_000;
/// Commits a broker may make while nothing is said, for what expires or falls due.
const IDLE_COMMITS_MAX: usize = 8;
/// Events of a run at most: time that does not pass is no progress either.
const EVENTS_MAX: u64 = 3_000_000;

/// What can happen. Those of a process name it, so that one that is gone hears nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ev {
    Start(usize),
    Timer(usize, u64),
    Commit(usize, u64),
    Tidy(usize, u64, u64),
    Failed(usize, u64, bool),
    Reopen(usize, u64, u64),
    Read(usize, u64),
    Space(usize, u64),
    StopOver(usize, u64),
    /// A piece arrives: link, whether at the broker.
    Arrive(usize, bool),
    /// The broker's end of a link is looked at.
    Look(usize),
    /// The client's end is.
    Wake(usize),
    /// An end learns that the link is lost: link, whether the broker's.
    Lost(usize, bool),
    Connect(usize),
    ClientTimer(usize, u64),
    /// A bridge is looked at: host, process.
    Bridge(usize, u64),
    BridgeTimer(usize, u64),
    /// What a bridge dialed answers, or not: host, process, number of the connection.
    Dialed(usize, u64, u64),
    /// A bridge is let go on, or gets its settings back.
    Restore(usize, bool),
    /// A publisher has another message.
    Ready(usize),
    /// A consumer has worked on a delivery: client, link, tag, message, what it says.
    Settle(usize, usize, u64, u32, Verdict),
    Fault(usize),
    /// A fault is over: host, which.
    Mend(usize, bool),
    Heal,
    Check,
}

/// What a consumer says to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Ack,
    Nack(u32),
    GiveUp,
}

pub struct World<'t> {
    pub rng: fastrand::Rng,
    pub now_us: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Ev)>>,
    pub hosts: Vec<Host>,
    pub links: Vec<Link>,
    pub clients: Vec<Client>,
    pub ledger: Ledger,
    pub trace: &'t mut Trace,
    pub commit_us: (u64, u64),
    pub healed: bool,
    quiet_since: Option<u64>,
    /// When commits ended.
    pub last_commits: VecDeque<u64>,
    /// When something was last said that is not a heartbeat.
    pub active_us: u64,
    heal_us: u64,
    faults: Vec<(u64, Fault)>,
    /// The way of the bridge, if there is one.
    pub way: Option<Way>,
}

impl<'t> World<'t> {
    pub fn new(plan: &Plan, trace: &'t mut Trace) -> Self {
        let mut world = World {
            rng: fastrand::Rng::with_seed(plan.seed),
            now_us: 0,
            order: 0,
            queue: BinaryHeap::new(),
            hosts: plan.hosts.iter().cloned().map(|settings| Host::new(settings, plan.wall_ms)).collect(),
            links: Vec::new(),
            clients: Vec::new(),
            ledger: Ledger::new(plan),
            trace,
            commit_us: plan.commit_us,
            healed: false,
            quiet_since: None,
            last_commits: VecDeque::new(),
            active_us: 0,
            heal_us: plan.heal_us,
            faults: plan.faults.clone(),
            way: plan.bridge.clone().map(Way::new),
        };
        for h in 0..world.hosts.len() {
            world.hosts[h].disk.lie_about_sync(plan.disks_lie.contains(&h));
            world.at(0, Ev::Start(h));
        }
        for (c, client) in plan.clients.iter().enumerate() {
            world.clients.push(Client::new(client, c, &plan.messages));
            let at = 1_000 + world.rng.u64(..20_000);
            world.at(at, Ev::Connect(c));
        }
        for message in &plan.messages {
            world.at(message.at_us, Ev::Ready(message.publisher));
        }
        for (n, (at, _)) in plan.faults.iter().enumerate() {
            world.at(*at, Ev::Fault(n));
        }
        world.at(plan.heal_us, Ev::Heal);
        world
    }

    /// The clock of a host's machine.
    pub fn wall(&self, h: usize) -> Wall {
        Wall((self.hosts[h].wall_us + self.now_us as i64).max(0) as u64 / 1_000)
    }

    pub fn at(&mut self, at_us: u64, event: Ev) {
        self.order += 1;
        self.queue.push(Reverse((at_us, self.order, event)));
    }

    pub fn after(&mut self, us: u64, event: Ev) {
        self.at(self.now_us + us, event);
    }

    /// Runs to the end; what was broken first, if anything.
    pub fn run(&mut self) -> Option<Broken> {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            self.now_us = at;
            self.trace.at(at);
            self.happen(event);
            if self.trace.events > EVENTS_MAX {
                self.ledger.fail("the broker makes progress", "too much happens in no time".into());
            }
            if self.ledger.broken.is_some() || self.is_over() {
                break;
            }
        }
        self.ledger.broken.clone()
    }

    fn alive(&self, h: usize, process: u64) -> bool {
        self.hosts[h].life.process == process && self.hosts[h].broker.is_some()
    }

    fn happen(&mut self, event: Ev) {
        match event {
            Ev::Start(h) => self.start(h),
            Ev::Timer(h, p) if self.alive(h, p) => self.timer(h),
            Ev::Commit(h, p) if self.alive(h, p) => self.commit(h),
            Ev::Tidy(h, p, busy) if self.alive(h, p) => self.tidy(h, busy),
            Ev::Failed(h, p, full) if self.alive(h, p) => self.failed(h, full),
            Ev::Reopen(h, p, pause) if self.alive(h, p) => self.reopen(h, pause),
            Ev::Read(h, p) if self.alive(h, p) => self.read(h),
            Ev::StopOver(h, p) if self.alive(h, p) => self.stop_over(h),
            Ev::Space(h, p) if self.alive(h, p) => {
                self.tell_space(h);
                self.after(5_000_000, Ev::Space(h, p));
            }
            Ev::Arrive(l, up) => self.arrive(l, up),
            Ev::Look(l) => self.look(l),
            Ev::Wake(l) => self.wake(l),
            Ev::Lost(l, true) => self.host_lost(l),
            Ev::Lost(l, false) => self.client_lost(l),
            Ev::Connect(c) => self.connect(c),
            Ev::ClientTimer(c, at) => self.client_timer(c, at),
            Ev::Bridge(h, p) if self.alive(h, p) => self.bridge_look(h),
            Ev::BridgeTimer(h, p) if self.alive(h, p) => self.bridge_timer(h),
            Ev::Dialed(h, p, number) if self.alive(h, p) => self.dialed(h, number),
            Ev::Restore(h, pause) => self.restore(h, pause),
            Ev::Ready(c) => self.ready(c),
            Ev::Settle(c, l, tag, uid, verdict) => self.settle(c, l, tag, uid, verdict),
            Ev::Fault(n) => self.fault(n),
            Ev::Mend(h, writes) => {
                if writes {
                    self.hosts[h].disk.fail_writes(false);
                } else {
                    self.hosts[h].disk.fail_reads(false);
                }
                self.hosts[h].disk.set_space(None);
                self.tell_space(h);
            }
            Ev::Heal => self.heal(),
            Ev::Check => {
                self.check_rest();
                self.after(100_000, Ev::Check);
            }
            _ => {}
        }
    }

    fn fault(&mut self, n: usize) {
        let (_, fault) = self.faults[n];
        self.trace.note("a fault", [n as u64, 0, 0]);
        match fault {
            Fault::Power(h, cut, lost) => self.cut(h, cut, lost),
            Fault::Kill(h) => self.die(h, false),
            Fault::Stop(h) => self.stop(h),
            Fault::Full(h, bytes, us) => {
                self.hosts[h].disk.set_space(Some(bytes));
                self.tell_space(h);
                self.after(us, Ev::Mend(h, true));
            }
            Fault::Broken(h, writes, us) => {
                if writes {
                    self.hosts[h].disk.fail_writes(true);
                } else {
                    self.hosts[h].disk.fail_reads(true);
                }
                self.after(us, Ev::Mend(h, writes));
            }
            Fault::Stall(h, us) => self.hosts[h].stall_until = self.now_us + us,
            Fault::Wall(h, ms) => {
                self.hosts[h].wall_us += ms * 1_000;
                self.tell(h, Event::Timeout);
            }
            Fault::Way(fault) => self.way_fault(fault),
            Fault::Lose(c, up, bytes) => {
                if let Some(l) = self.clients[c].link {
                    let link = &mut self.links[l];
                    let pipe = if up { &mut link.up } else { &mut link.down };
                    pipe.lost_after = Some(bytes.max(1));
                }
            }
            Fault::Silence(c) => {
                if let Some(l) = self.clients[c].link {
                    self.links[l].silent = true;
                }
            }
            Fault::Leave(c) => self.leave(c),
        }
    }

    fn heal(&mut self) {
        self.trace.note("everything heals", [0; 3]);
        self.healed = true;
        for h in 0..self.hosts.len() {
            let disk = self.hosts[h].disk.clone();
            disk.set_space(None);
            disk.fail_writes(false);
            disk.fail_reads(false);
            disk.cut_at_never();
            self.hosts[h].cut_after_acks = None;
            self.hosts[h].stall_until = 0;
            self.tell_space(h);
        }
        for c in 0..self.clients.len() {
            self.quicken(c);
            self.settle_held(c);
        }
        self.heal_way();
        self.at(self.now_us, Ev::Check);
    }

    /// Who must answer in time has a line from now on that lets it: where a message takes longer than that to come, it is
    /// sent again for ever.
    fn quicken(&mut self, c: usize) {
        let client = &mut self.clients[c];
        let RolePlan::Consumer(consumer) = &client.plan.role else { return };
        if consumer.ack_timeout_ms == 0 {
            return;
        }
        (client.plan.delay_us, client.plan.rate) = ((10, 100), 100_000);
        if let Some(l) = client.link {
            let link = &mut self.links[l];
            for pipe in [&mut link.up, &mut link.down] {
                (pipe.delay_us, pipe.rate) = (client.plan.delay_us, client.plan.rate);
            }
        }
    }

    fn check_rest(&mut self) {
        let waits = self.ledger.unanswered().next();
        let missing = self.not_at_rest();
        let (dropped, expired) = self.counted();
        let lost = self.ledger.lost(&missing, dropped, expired).is_some();
        if waits.is_none() && !lost {
            self.quiet_since.get_or_insert(self.now_us);
        } else {
            self.quiet_since = None;
        }
    }

    /// What is promised and did not arrive yet.
    fn not_at_rest(&self) -> Vec<Missing> {
        let lives: Vec<_> = self.hosts.iter().map(|h| h.life).collect();
        self.ledger.missing(&lives)
    }

    fn is_over(&mut self) -> bool {
        if self.now_us > self.heal_us + REST_US {
            let waits = self.ledger.unanswered().next();
            if let Some(uid) = waits {
                self.ledger.fail("every publish is answered once everything works", format!("message {uid}"));
            }
            self.close_books();
            let what = format!("{:?}", self.not_at_rest().into_iter().take(3).collect::<Vec<_>>());
            self.ledger.fail("everything comes to rest once everything works", what);
            return true;
        }
        let over = self.quiet_since.is_some_and(|since| self.now_us > since + QUIET_US);
        if over {
            self.check_idle();
            self.close_books();
        }
        over
    }

    /// Nothing happens any more: what is written now wears the flash out for nothing.
    fn check_idle(&mut self) {
        let idle = self.last_commits.iter().filter(|at| **at > self.active_us + QUIET_US / 4).count();
        if idle > IDLE_COMMITS_MAX * self.hosts.len() {
            self.ledger.fail("an idle broker writes nothing", format!("{idle} commits"));
        }
    }

    // -- links --

    pub fn dial(&mut self, c: usize) -> Option<usize> {
        let plan = &self.clients[c].plan;
        let pipe = || Pipe { capacity: plan.capacity, delay_us: plan.delay_us, rate: plan.rate, ..Pipe::default() };
        self.join(End::Client(c), plan.host, pipe(), pipe())
    }

    /// A connection to a host; `None` while nobody listens there.
    pub fn join(&mut self, end: End, h: usize, up: Pipe, down: Pipe) -> Option<usize> {
        let l = self.links.len();
        let conn = self.accept(h, l)?;
        self.links.push(Link {
            end,
            host: h,
            conn,
            up,
            down,
            unsent: VecDeque::new(),
            client_open: true,
            host_open: true,
            closing: false,
            silent: false,
            looking: false,
            waking: false,
            numbers: BTreeMap::new(),
            tap: Tap::default(),
        });
        self.opened(h, conn);
        Some(l)
    }

    pub fn look_later(&mut self, l: usize) {
        if !std::mem::replace(&mut self.links[l].looking, true) {
            let us = self.rng.u64(1..30);
            self.after(us, Ev::Look(l));
        }
    }

    pub fn wake_later(&mut self, l: usize) {
        if !std::mem::replace(&mut self.links[l].waking, true) {
            let us = self.rng.u64(1..30);
            self.after(us, Ev::Wake(l));
        }
    }

    /// Bytes or an end are on the way.
    pub fn move_later(&mut self, l: usize, up: bool) {
        let link = &mut self.links[l];
        let pipe = if up { &mut link.up } else { &mut link.down };
        if std::mem::replace(&mut pipe.moving, true) {
            return;
        }
        let (least, most) = pipe.delay_us;
        let us = self.rng.u64(least..=most) + (pipe.way.len().min(2_000) * 1_000 / pipe.rate.max(1)) as u64;
        self.after(us, Ev::Arrive(l, up));
    }

    fn arrive(&mut self, l: usize, up: bool) {
        let some = self.rng.u8(..4) == 0;
        let cut = self.rng.usize(1..=2_000);
        let link = &mut self.links[l];
        let pipe = if up { &mut link.up } else { &mut link.down };
        if pipe.blocked_until > self.now_us && !link.silent {
            let until = pipe.blocked_until;
            self.at(until, Ev::Arrive(l, up));
            return;
        }
        pipe.moving = false;
        if link.silent || !(link.client_open || link.host_open) {
            return;
        }
        let count = if some { cut } else { 2_000.max(pipe.rate) };
        let lost = pipe.arrive(count);
        if !pipe.way.is_empty() {
            self.move_later(l, up);
        }
        if up {
            self.look_later(l);
        } else {
            self.wake_later(l);
        }
        if lost {
            self.lose(l, false);
        }
    }

    /// The connection is gone; each end learns it at its own time, or never (`silent`).
    pub fn lose(&mut self, l: usize, silent: bool) {
        let link = &mut self.links[l];
        link.up.way.clear();
        link.down.way.clear();
        link.silent = true;
        if silent {
            return;
        }
        let (a, b) = (self.rng.u64(..50_000), self.rng.u64(..50_000));
        self.after(a, Ev::Lost(l, true));
        self.after(b, Ev::Lost(l, false));
    }

    /// A broker is gone with all its connections.
    pub fn lose_all(&mut self, h: usize, silent: bool) {
        let conns = std::mem::take(&mut self.hosts[h].conns);
        for l in conns.into_values() {
            self.links[l].host_open = false;
            self.lose(l, silent);
        }
    }
}
