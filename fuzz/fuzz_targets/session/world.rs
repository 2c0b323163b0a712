//! A broker between two stores in memory and clients that are byte buffers, in one thread and in one order.

use crate::client::{Client, MESSAGE_BYTES_MAX, Shared, marks};
use crate::op::{Limits as Change, Op};
use std::collections::VecDeque;
use std::sync::Arc;
use tidegate::broker::{Broker, Effect, Event, Peer, Transmit};
use tidegate::config::{Dedupe, Keep, Limits, Overflow, QueueSettings, Settings, Storage, StoreSettings};
use tidegate::model::{ConnId, Mono, Now, Position, Volume, Wall};
use tidegate::store::{Batch, MemoryStore, Op as StoreOp, ReadRequest, Store, StoreError, perform};
use tidegate::wire::Contract;

const CLIENTS: usize = 4;
const OUTBOX_BYTES_MAX: u32 = 96 * 1_024;
const PENDING_BYTES_MAX: u32 = 128 * 1_024;
/// Bytes of one read of the edge.
const READ_BYTES_MAX: usize = 4 * 1_024;
/// What may be waiting beside the messages: control frames, the answers to one read, one message above the bound.
const SLACK_BYTES: usize = 256 * 1_024 + READ_BYTES_MAX / 24 * 640 + 2 * MESSAGE_BYTES_MAX as usize;
/// Looks at the timers without time passing, after which one must be in the future.
const TIMEOUTS_MAX: usize = 64;
/// Effects of one event, far more than any should have.
const EFFECTS_MAX: usize = 100_000;

pub struct World {
    broker: Broker,
    now: Now,
    disk: MemoryStore,
    memory: MemoryStore,
    commits: VecDeque<(Volume, Vec<Batch>)>,
    reads: VecDeque<(Volume, u64, ReadRequest)>,
    hold_commits: bool,
    hold_reads: bool,
    failed: bool,
    stopping: bool,
    stopped: bool,
    /// Position of the last batch of a volume that was handed out and not lost.
    position: [Position; 2],
    clients: Vec<Option<(ConnId, Client)>>,
    shared: Shared,
    next_conn: u64,
    seed: u64,
}

fn settings(change: &Change) -> Settings {
    let queue = |name: &str, capture: &[&str]| QueueSettings {
        capture: capture.iter().map(|c| (*c).into()).collect(),
        messages_max: if change.tiny_queues { 2 } else { 60 },
        bytes_max: if change.tiny_queues { 20_000 } else { 400_000 },
        consumers_max: 3,
        window: 8,
        channels_max: 3,
        ..QueueSettings::new(name)
    };
    let mut queues = vec![
        queue("d", &["d/#"]),
        QueueSettings {
            history: true,
            keep: Keep::Limits,
            overflow: Overflow::DropOldest,
            ..queue("h", &["h/#", "x/#"])
        },
        QueueSettings { keep: Keep::Work, ..queue("w", &["w/#"]) },
        QueueSettings { storage: Storage::Memory, contract: Contract::Memory, history: true, ..queue("m", &["m/#"]) },
        QueueSettings { contract: Contract::Memory, ..queue("c", &["c/#"]) },
        QueueSettings {
            keep: Keep::Limits,
            overflow: Overflow::DropNewest,
            age_ms_max: 60_000,
            ..queue("r", &["r/#"])
        },
        queue("x", &["x/#", "h/b"]),
    ];
    if change.without_queue {
        queues.remove(0);
    }
    Settings {
        queues,
        limits: Limits {
            connections_max: CLIENTS as u32 - 1,
            frame_bytes_max: 32 * 1_024,
            message_bytes_max: MESSAGE_BYTES_MAX,
            reassembly_bytes_max: 2 * MESSAGE_BYTES_MAX,
            window_messages: 16,
            window_bytes: 2 * MESSAGE_BYTES_MAX,
            outbox_bytes_max: OUTBOX_BYTES_MAX,
            streams_max: 5,
            retained_max: 4,
            retained_bytes_max: 60_000,
            requests_max: 4,
            ..Limits::default()
        },
        store: StoreSettings {
            batch_bytes: 32 * 1_024,
            tail_bytes: 32 * 1_024,
            pending_bytes_max: PENDING_BYTES_MAX,
            dedupe: Dedupe { ids_max: if change.without_dedupe { 0 } else { 16 }, window_ms: 20_000 },
            ..StoreSettings::default()
        },
        ..Settings::default()
    }
}

impl World {
    pub fn new() -> Self {
        let now = Now { mono: Mono(1_000_000), wall: Wall(1_700_000_000_000) };
        let disk = MemoryStore::new();
        let change = Change { tiny_queues: false, without_queue: false, without_dedupe: false };
        let broker = Broker::new(now, Arc::new(settings(&change)), &*disk.reader(), 1).expect("an empty store loads");
        let mut world = Self {
            broker,
            now,
            disk,
            memory: MemoryStore::new(),
            commits: VecDeque::new(),
            reads: VecDeque::new(),
            hold_commits: false,
            hold_reads: false,
            failed: false,
            stopping: false,
            stopped: false,
            position: [Position(0); 2],
            clients: (0..CLIENTS).map(|_| None).collect(),
            shared: Shared::default(),
            next_conn: 0,
            seed: 1,
        };
        world.settle();
        world.connect(0, true);
        world.say_hello(0);
        world
    }

    pub fn apply(&mut self, op: &Op) {
        if self.stopped {
            return;
        }
        let at = op.client().map(|c| usize::from(c) % CLIENTS);
        match op {
            Op::Connect { admin } => {
                if let Some(free) = self.clients.iter().position(Option::is_none) {
                    self.connect(free, *admin);
                    self.say_hello(free);
                }
            }
            Op::Disconnect(_) => self.disconnect(at.expect("it names one")),
            Op::Raw(_, bytes) => self.with(at, |client, _| {
                client.wild = true;
                bytes[..bytes.len().min(8_192)].to_vec()
            }),
            Op::Send(_, frame) => self.with(at, |client, shared| client.encode(frame, shared)),
            Op::Mangle { frame, at: place, xor, reseal, .. } => self.with(at, |client, shared| {
                client.wild = true;
                let mut bytes = client.encode(frame, shared);
                if bytes.is_empty() {
                    return bytes;
                }
                let place = usize::from(*place) % bytes.len();
                bytes[place] ^= *xor;
                let whole = tidegate::wire::frame_len(&bytes).is_some_and(|len| len == bytes.len());
                if *reseal && whole {
                    let sequence = u32::from_be_bytes(bytes[16..20].try_into().expect("four bytes"));
                    tidegate::wire::seal(&mut bytes, sequence);
                }
                bytes
            }),
            Op::Trickle(_, n) => {
                if let Some((_, client)) = &mut self.clients[at.expect("it names one")] {
                    client.trickle = usize::from(*n);
                }
            }
            Op::Reads(_, reads) => {
                let at = at.expect("it names one");
                if let Some((conn, client)) = &mut self.clients[at] {
                    client.reads = *reads;
                    let conn = *conn;
                    self.transmit(conn);
                    self.settle();
                }
            }
            Op::Pass(ms) => self.pass(u64::from(*ms)),
            Op::Jump(seconds) => self.now.wall = self.now.wall.plus_ms(u64::from(*seconds) * 1_000),
            Op::Hold { commits, reads } => {
                (self.hold_commits, self.hold_reads) = (*commits, *reads);
                self.release();
            }
            Op::Commit => self.commit_oldest(),
            Op::Read { which, fails } => {
                if !self.reads.is_empty() {
                    let at = usize::from(*which) % self.reads.len();
                    let read = self.reads.remove(at).expect("within the length");
                    self.read(read, *fails);
                }
            }
            Op::Fail { full, kept } => self.fail(*full, *kept),
            Op::Reopen => self.reopen(),
            Op::Disk { free_mib } => self.event(Event::Disk { free_bytes: u64::from(*free_mib) << 20 }),
            Op::Reload(change) => {
                self.shared.without_queue |= change.without_queue;
                self.event(Event::Reload { settings: Arc::new(settings(change)) });
            }
            Op::Cut { kept } => self.cut(*kept),
            Op::Stop => self.stop(),
        }
        self.feed();
    }

    /// Lets everything come to rest, and looks whether all that was asked was answered.
    pub fn finish(&mut self) {
        (self.hold_commits, self.hold_reads) = (false, false);
        if self.failed && !self.stopped {
            self.reopen();
        }
        for at in 0..CLIENTS {
            if let Some((conn, client)) = &mut self.clients[at] {
                (client.reads, client.trickle) = (true, 0);
                let conn = *conn;
                self.transmit(conn);
            }
        }
        self.release();
        for _ in 0..4 {
            self.feed();
            self.pass(50);
        }
        if self.stopped {
            return;
        }
        for (_, client) in self.clients.iter().flatten() {
            if !self.stopping {
                client.assert_answered();
            }
        }
        self.stop();
        self.pass(6_000);
        assert!(self.stopped, "the broker stops in time");
    }

    // -- the edges --

    fn event(&mut self, event: Event<'_>) {
        self.broker.handle(self.now, event);
        self.settle();
    }

    fn settle(&mut self) {
        for n in 0.. {
            assert!(n < EFFECTS_MAX, "effects without end");
            let Some(effect) = self.broker.poll_effect() else { return };
            match effect {
                Effect::Commit { volume, batches } => self.take_commit(volume, batches),
                Effect::Read { volume, token, request } => {
                    self.reads.push_back((volume, token, request));
                    if !self.hold_reads {
                        let read = self.reads.pop_back().expect("just pushed");
                        self.answer(read, false);
                    }
                }
                Effect::Wake { conn } => self.transmit(conn),
                Effect::Authenticate { conn, .. } => {
                    // None are configured; were some, they would be refused.
                    let denied = tidegate::session::Denied { reason: "fuzz", detail: String::new() };
                    self.broker.handle(self.now, Event::Authenticated { conn, outcome: Err(denied) });
                }
                Effect::Bridge { .. } => {}
                Effect::Reserve { .. } => {}
                Effect::Stopped => self.stopped = true,
            }
        }
    }

    fn take_commit(&mut self, volume: Volume, batches: Vec<Batch>) {
        assert!(self.commits.iter().all(|(v, _)| *v != volume), "two commits of {volume:?} are under way");
        assert!(!(self.failed && volume == Volume::Disk), "a commit of a store that failed");
        let slot = usize::from(volume == Volume::Memory);
        let mut weight = 0;
        for batch in &batches {
            assert_eq!(batch.position.0, self.position[slot].0 + 1, "positions of {volume:?} have no gap");
            self.position[slot] = batch.position;
            weight += batch.ops.iter().map(StoreOp::weight).sum::<usize>();
        }
        assert!(weight <= PENDING_BYTES_MAX as usize + SLACK_BYTES, "a commit of {weight} bytes");
        self.commits.push_back((volume, batches));
        if !self.hold_commits {
            self.do_commit();
        }
    }

    /// The oldest commit becomes durable, and the broker hears of it.
    fn do_commit(&mut self) {
        let Some((volume, batches)) = self.commits.pop_front() else { return };
        let done = self.keep(volume, &batches);
        self.broker.handle(self.now, Event::Committed { volume, done });
    }

    fn keep(&mut self, volume: Volume, batches: &[Batch]) -> tidegate::store::Committed {
        if volume == Volume::Memory {
            return self.memory.commit(batches).expect("memory does not fail");
        }
        for op in batches.iter().flat_map(|b| &b.ops) {
            match op {
                StoreOp::Append { block, .. } => marks(block, &mut self.shared.durable),
                StoreOp::Body { bytes, .. } => marks(bytes, &mut self.shared.durable),
                StoreOp::Put { value, .. } => marks(value, &mut self.shared.durable),
                _ => {}
            }
        }
        self.disk.commit(batches).expect("memory does not fail")
    }

    fn commit_oldest(&mut self) {
        self.do_commit();
        self.settle();
    }

    fn read(&mut self, read: (Volume, u64, ReadRequest), fails: bool) {
        self.answer(read, fails);
        self.settle();
    }

    fn answer(&mut self, (volume, token, request): (Volume, u64, ReadRequest), fails: bool) {
        let result = if fails {
            Err(StoreError::Io("the fuzzer says so".into()))
        } else {
            let reader = match volume {
                Volume::Disk => self.disk.reader(),
                Volume::Memory => self.memory.reader(),
            };
            perform(&*reader, &request)
        };
        self.broker.handle(self.now, Event::Read { token, result });
    }

    /// What waits goes on, unless it is to wait.
    fn release(&mut self) {
        while !self.hold_commits && !self.commits.is_empty() {
            self.commit_oldest();
        }
        while !self.hold_reads && !self.reads.is_empty() {
            let read = self.reads.pop_front().expect("not empty");
            self.read(read, false);
        }
        self.feed();
    }

    fn fail(&mut self, full: bool, kept: bool) {
        if self.failed {
            return;
        }
        self.lose_commit(kept);
        self.failed = true;
        let why = "the fuzzer says so".to_owned();
        self.event(Event::StoreFailed { error: if full { StoreError::Full(why) } else { StoreError::Io(why) } });
    }

    /// A commit of the disk under way is made durable without a word, or is lost.
    fn lose_commit(&mut self, kept: bool) {
        if let Some(at) = self.commits.iter().position(|(v, _)| *v == Volume::Disk) {
            let (volume, batches) = self.commits.remove(at).expect("just found");
            if kept {
                self.keep(volume, &batches);
            } else if let Some(first) = batches.first() {
                self.position[0] = Position(first.position.0 - 1);
            }
        }
    }

    fn reopen(&mut self) {
        if !std::mem::take(&mut self.failed) {
            return;
        }
        // Reads of the old store fail or were dropped with it.
        self.reads.retain(|(volume, ..)| *volume == Volume::Memory);
        let reader = self.disk.reader();
        self.event(Event::StoreReopened { reader: &*reader });
    }

    fn cut(&mut self, kept: bool) {
        self.lose_commit(kept);
        self.commits.clear();
        self.reads.clear();
        self.clients.iter_mut().for_each(|c| *c = None);
        self.memory = MemoryStore::new();
        (self.failed, self.stopping, self.position[1]) = (false, false, Position(0));
        self.seed += 1;
        let settings = Arc::new(self.broker.settings().clone());
        self.broker = Broker::new(self.now, settings, &*self.disk.reader(), self.seed).expect("what was written loads");
        self.settle();
    }

    fn stop(&mut self) {
        self.stopping = true;
        let deadline = self.now.mono.plus_ms(5_000);
        self.event(Event::Stop { deadline });
    }

    /// Time passes, and every timer on its way rings.
    fn pass(&mut self, ms: u64) {
        let end = self.now.mono.plus_ms(ms);
        let mut rounds = 0;
        while let Some(at) = self.broker.poll_timeout().filter(|at| *at <= end && !self.stopped) {
            rounds = if at <= self.now.mono { rounds + 1 } else { 0 };
            assert!(rounds < TIMEOUTS_MAX, "a timer stays in the past");
            self.go_to(at.max(self.now.mono));
            self.event(Event::Timeout);
        }
        self.go_to(end);
        self.settle();
        self.feed();
    }

    fn go_to(&mut self, mono: Mono) {
        self.now.wall = self.now.wall.plus_ms(mono.ms_since(self.now.mono));
        self.now.mono = mono;
    }

    // -- clients --

    fn connect(&mut self, at: usize, admin: bool) {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.clients[at] = Some((conn, Client::new()));
        self.event(Event::Opened { conn, peer: Peer::Unix { uid: 0, pid: 0, admin }, nonce: [7; 32] });
    }

    fn say_hello(&mut self, at: usize) {
        self.with(Some(at), |client, shared| client.encode(&crate::op::Frame::Hello { small: false }, shared));
        self.feed();
    }

    fn disconnect(&mut self, at: usize) {
        if let Some((conn, _)) = self.clients[at].take() {
            self.event(Event::Closed { conn });
        }
    }

    fn with(&mut self, at: Option<usize>, make: impl FnOnce(&mut Client, &mut Shared) -> Vec<u8>) {
        if let Some((_, client)) = &mut self.clients[at.expect("it names one")]
            && client.outgoing.len() < 1 << 20
        {
            let bytes = make(client, &mut self.shared);
            client.outgoing.extend(bytes);
        }
    }

    /// Hands the broker what clients sent, as far as it reads.
    fn feed(&mut self) {
        for at in 0..CLIENTS {
            while let Some((conn, client)) = &mut self.clients[at] {
                let conn = *conn;
                let all = client.outgoing.len().min(READ_BYTES_MAX);
                let len = if client.trickle == 0 { all } else { all.min(client.trickle) };
                if len == 0 || client.closed || self.stopped || !self.broker.wants_read(conn) {
                    break;
                }
                let bytes: Vec<u8> = client.outgoing.drain(..len).collect();
                let once = client.trickle != 0;
                self.event(Event::Received { conn, bytes: &bytes });
                if once {
                    break;
                }
            }
        }
    }

    fn transmit(&mut self, conn: ConnId) {
        let Some(at) = self.clients.iter().position(|c| c.as_ref().is_some_and(|(id, _)| *id == conn)) else { return };
        if self.broker.is_over(conn) {
            self.clients[at] = None;
            self.broker.handle(self.now, Event::Closed { conn });
            return;
        }
        loop {
            let Some((_, client)) = &mut self.clients[at] else { return };
            if !client.reads || client.closed {
                return;
            }
            let mut out = Vec::new();
            let more = self.broker.poll_transmit(self.now, conn, &mut out, usize::MAX);
            assert!(out.len() <= OUTBOX_BYTES_MAX as usize + SLACK_BYTES, "{} bytes waited for one client", out.len());
            client.receive(&out, &mut self.shared);
            match more {
                Transmit::More => assert!(!out.is_empty(), "more was promised and nothing given"),
                Transmit::Idle => return,
                Transmit::Close => {
                    client.closed = true;
                    self.broker.handle(self.now, Event::Closed { conn });
                    self.clients[at] = None;
                    return;
                }
            }
        }
    }
}
