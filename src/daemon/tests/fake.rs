//! A machine that echoes, relays, pours and so on, and a ledger of what it saw for the tests to wait on.

use super::super::{Commit, CommitEvent, Machine, Notify, Stores};
use super::PATIENCE;
use crate::broker::{Effect, Event, Peer, Transmit, Volume};
use crate::config::Settings;
use crate::model::{ConnId, Mono, Now, Position, Priority};
use crate::store::{Batch, Block, Committed, Op, QueueKey, ReadRequest, ReadResult, Reader, Store, StoreError, Table};
use bytes::Bytes;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

pub(super) const OUTBOX_BYTES_MAX: usize = 256 * 1_024;

/// What the fake does with bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Back to the sender; not read from while too much waits to be sent.
    Echo,
    /// To everybody else.
    Relay,
    /// Answers the first with this many and closes.
    Pour { bytes: usize },
    /// Takes this many from a connection, and no more until another one sends.
    Gate { bytes: usize },
    /// Echoes once committed.
    Durable { volume: Volume },
    /// Reads, and answers `r` or, where that failed, `e`.
    Read { volume: Volume },
    /// A byte is a number of seconds; 0 is 50 ms. Answers when they are over.
    Timer,
    /// `+` makes the reserve, else it goes; then as `Read`.
    Reserve,
    /// Never stops.
    Stubborn,
    /// Ends when the store is open again.
    Broken,
}

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) opened: usize,
    pub(super) closed: usize,
    pub(super) open: usize,
    pub(super) admins: usize,
    pub(super) conns_distinct: HashSet<u64>,
    pub(super) received: usize,
    pub(super) held_back: usize,
    pub(super) outbox_most: usize,
    pub(super) held: bool,
    pub(super) commits: Vec<usize>,
    pub(super) committed_memory: usize,
    pub(super) committer_stopped: bool,
    pub(super) readers: usize,
    pub(super) failed: usize,
    pub(super) reopened: usize,
    pub(super) resumed: usize,
    pub(super) spaces: usize,
    pub(super) timeouts: usize,
    pub(super) stops: usize,
    pub(super) streams_max: Option<u32>,
}

#[derive(Default)]
pub(super) struct Ledger {
    seen: Mutex<Seen>,
    changed: Condvar,
    hold: Mutex<Option<Receiver<()>>>,
    notify: Mutex<Option<Notify>>,
}

impl Ledger {
    pub(super) fn get<R>(&self, read: impl FnOnce(&Seen) -> R) -> R {
        read(&self.seen.lock().expect("unpoisoned"))
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().expect("unpoisoned"));
        self.changed.notify_all();
    }

    /// Waits until it is so.
    pub(super) fn wait(&self, what: &str, so: impl Fn(&Seen) -> bool) {
        let seen = self.seen.lock().expect("unpoisoned");
        let (_seen, late) = self.changed.wait_timeout_while(seen, PATIENCE, |seen| !so(seen)).expect("unpoisoned");
        assert!(!late.timed_out(), "waited in vain for: {what}");
    }

    /// Holds the loop in the next event with bytes until told.
    pub(super) fn hold_next(&self, until: Receiver<()>) {
        *self.hold.lock().expect("unpoisoned") = Some(until);
    }

    pub(super) fn notify(&self, news: CommitEvent) {
        self.notify.lock().expect("unpoisoned").as_ref().expect("set at the start")(news);
    }

    pub(super) fn reopen(self: &Arc<Self>) {
        self.notify(CommitEvent::Reopened(Box::new(Row::new(self))));
    }
}

#[derive(Default)]
struct Conn {
    out: VecDeque<u8>,
    taken: usize,
    gate_open: bool,
    close: bool,
}

pub(super) struct Fake {
    mode: Mode,
    settings: Arc<Settings>,
    ledger: Arc<Ledger>,
    conns: HashMap<ConnId, Conn>,
    effects: VecDeque<Effect>,
    waiting: Vec<(ConnId, Vec<u8>)>,
    committing: Vec<(ConnId, Vec<u8>)>,
    position: u64,
    due: Option<(Mono, ConnId)>,
}

impl Fake {
    pub(super) fn new(mode: Mode, settings: Arc<Settings>, ledger: Arc<Ledger>) -> Self {
        Self {
            mode,
            settings,
            ledger,
            conns: HashMap::new(),
            effects: VecDeque::new(),
            waiting: Vec::new(),
            committing: Vec::new(),
            position: 0,
            due: None,
        }
    }

    fn give(&mut self, conn: ConnId, bytes: &[u8]) {
        if let Some(state) = self.conns.get_mut(&conn) {
            state.out.extend(bytes);
            self.effects.push_back(Effect::Wake { conn });
        }
    }

    fn received(&mut self, now: Now, conn: ConnId, bytes: &[u8]) {
        if let Some(until) = self.ledger.hold.lock().expect("unpoisoned").take() {
            self.ledger.note(|seen| seen.held = true);
            until.recv().expect("told to go on");
        }
        let state = self.conns.get_mut(&conn).expect("bytes of an open connection only");
        state.taken += bytes.len();
        match self.mode {
            Mode::Echo | Mode::Stubborn | Mode::Broken => {
                state.out.extend(bytes);
                let waits = state.out.len();
                self.ledger.note(|seen| {
                    seen.outbox_most = seen.outbox_most.max(waits);
                    seen.held_back += usize::from(waits > OUTBOX_BYTES_MAX);
                });
            }
            Mode::Relay => {
                let others: Vec<_> = self.conns.keys().copied().filter(|other| *other != conn).collect();
                for other in others {
                    self.give(other, bytes);
                }
            }
            Mode::Pour { bytes } => {
                if !state.close {
                    state.out.extend(std::iter::repeat_n(b'.', bytes - 3).chain(*b"end"));
                    state.close = true;
                }
            }
            Mode::Gate { .. } => {
                for (&other, state) in &mut self.conns {
                    if other != conn && !state.gate_open {
                        state.gate_open = true;
                        self.effects.push_back(Effect::Wake { conn: other });
                    }
                }
            }
            Mode::Durable { .. } => self.waiting.push((conn, bytes.to_vec())),
            Mode::Read { volume } => self.read(volume, conn),
            Mode::Reserve => {
                self.effects.push_back(Effect::Reserve { present: bytes == b"+" });
                self.read(Volume::Disk, conn);
            }
            Mode::Timer => {
                let delay_ms = if bytes[0] == 0 { 50 } else { u64::from(bytes[0]) * 1_000 };
                self.due = Some((now.mono.plus_ms(delay_ms), conn));
            }
        }
        self.ledger.note(|seen| seen.received += bytes.len());
    }

    fn read(&mut self, volume: Volume, conn: ConnId) {
        let request = ReadRequest::Rows {
            table: Table::Meta,
            prefix: Bytes::new(),
            from: Bytes::new(),
            rows_max: 1,
            bytes_max: 100,
        };
        self.effects.push_back(Effect::Read { volume, token: conn.0, request });
    }
}

impl Machine for Fake {
    fn handle(&mut self, now: Now, event: Event<'_>) {
        let ledger = Arc::clone(&self.ledger);
        match event {
            Event::Bridge { .. } | Event::Authenticated { .. } => panic!("nothing was asked"),
            Event::Opened { conn, peer, .. } => {
                assert!(self.conns.insert(conn, Conn::default()).is_none(), "a number is given once");
                let admin = matches!(peer, Peer::Unix { admin: true, .. });
                ledger.note(|seen| {
                    seen.opened += 1;
                    seen.open += 1;
                    seen.admins += usize::from(admin);
                    seen.conns_distinct.insert(conn.0);
                });
            }
            Event::Received { conn, bytes } => self.received(now, conn, bytes),
            Event::Closed { conn } => {
                self.conns.remove(&conn).expect("told once");
                ledger.note(|seen| (seen.closed, seen.open) = (seen.closed + 1, seen.open - 1));
            }
            Event::Committed { volume, .. } => {
                if volume == Volume::Memory {
                    ledger.note(|seen| seen.committed_memory += 1);
                }
                for (conn, bytes) in std::mem::take(&mut self.committing) {
                    self.give(conn, &bytes);
                }
            }
            Event::StoreFailed { .. } => ledger.note(|seen| seen.failed += 1),
            Event::StoreReopened { reader } => {
                assert!(reader.get(Table::Meta, b"row").expect("read").is_some());
                ledger.note(|seen| seen.reopened += 1);
                if self.mode == Mode::Broken {
                    self.effects.push_back(Effect::Stopped);
                }
            }
            Event::Read { token, result } => {
                let answer: &[u8] = match result {
                    Ok(ReadResult::Rows(rows)) if !rows.is_empty() => b"r",
                    _ => b"e",
                };
                self.give(ConnId(token), answer);
            }
            Event::Disk { free_bytes } => {
                assert!(free_bytes > 0);
                ledger.note(|seen| seen.spaces += 1);
            }
            Event::NoTls { .. } | Event::NamedKeys { .. } => {}
            Event::Timeout => {
                let (due, conn) = self.due.take().expect("armed");
                assert!(due <= now.mono, "never early");
                self.give(conn, b"t");
                ledger.note(|seen| seen.timeouts += 1);
            }
            Event::Reload { settings } => {
                ledger.note(|seen| seen.streams_max = Some(settings.limits.streams_max));
                self.settings = settings;
            }
            Event::Stop { .. } => {
                ledger.note(|seen| seen.stops += 1);
                if self.mode == Mode::Stubborn {
                    return;
                }
                let all: Vec<_> = self.conns.keys().copied().collect();
                for conn in all {
                    self.give(conn, b"goodbye");
                    self.conns.get_mut(&conn).expect("listed").close = true;
                }
                self.effects.push_back(Effect::Stopped);
            }
        }
    }

    fn take_failure(&mut self) -> Option<StoreError> {
        (self.mode == Mode::Broken).then(|| StoreError::Damaged("read back".into()))
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty()
            && self.committing.is_empty()
            && !self.waiting.is_empty()
            && let Mode::Durable { volume } = self.mode
        {
            self.committing = std::mem::take(&mut self.waiting);
            self.position += 1;
            let put = Op::Put { table: Table::Meta, key: Bytes::from_static(b"k"), value: Bytes::new() };
            let batch = Batch { position: Position(self.position), ops: vec![put; self.committing.len()] };
            return Some(Effect::Commit { volume, batches: vec![batch] });
        }
        self.effects.pop_front()
    }

    fn poll_transmit(&mut self, _: Now, conn: ConnId, out: &mut Vec<u8>, bytes_max: usize) -> Transmit {
        let Some(state) = self.conns.get_mut(&conn) else { return Transmit::Idle };
        let n = state.out.len().min(bytes_max);
        let held_back = state.out.len() > OUTBOX_BYTES_MAX;
        out.extend(state.out.drain(..n));
        if held_back && state.out.len() <= OUTBOX_BYTES_MAX {
            self.effects.push_back(Effect::Wake { conn });
        }
        match (state.out.is_empty(), state.close) {
            (false, _) => Transmit::More,
            (true, true) => Transmit::Close,
            (true, false) => Transmit::Idle,
        }
    }

    fn wants_read(&self, conn: ConnId) -> bool {
        let Some(state) = self.conns.get(&conn) else { return false };
        match self.mode {
            Mode::Gate { bytes } => state.gate_open || state.taken < bytes,
            _ => state.out.len() <= OUTBOX_BYTES_MAX,
        }
    }

    fn poll_timeout(&self) -> Option<Mono> {
        self.due.map(|(due, _)| due)
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// Counts itself.
struct Row(Arc<Ledger>);

impl Row {
    fn new(ledger: &Arc<Ledger>) -> Self {
        ledger.note(|seen| seen.readers += 1);
        Self(Arc::clone(ledger))
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.0.note(|seen| seen.readers -= 1);
    }
}

impl Reader for Row {
    fn page(&self, _: QueueKey, _: Priority, _: u64, _: usize) -> Result<Vec<Block>, StoreError> {
        Ok(Vec::new())
    }

    fn scan(
        &self,
        _: Table,
        _: &[u8],
        _: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        visit(b"row", b"value");
        Ok(())
    }

    fn get(&self, _: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok((key == b"row").then(|| Bytes::from_static(b"value")))
    }
}

/// Takes anything.
struct Anything;

impl Store for Anything {
    fn commit(&mut self, batches: &[Batch]) -> Result<Committed, StoreError> {
        let position = batches.last().map(|batch| batch.position).unwrap_or_default();
        Ok(Committed { position, ..Committed::default() })
    }

    fn reader(&self) -> Box<dyn Reader> {
        // Of memory: not counted among those that must be let go.
        Box::new(Row(Arc::new(Ledger {
            seen: Mutex::new(Seen { readers: 1, ..Seen::default() }),
            ..Ledger::default()
        })))
    }

    fn tidy(&mut self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// A committer with a thread, as the real one has.
struct Thread {
    batches: Sender<Vec<Batch>>,
    thread: JoinHandle<()>,
    ledger: Arc<Ledger>,
}

impl Commit for Thread {
    fn submit(&mut self, batches: Vec<Batch>) {
        self.ledger.note(|seen| seen.commits.push(batches.iter().map(|batch| batch.ops.len()).sum()));
        self.batches.send(batches).expect("the thread waits");
    }

    fn resume(&mut self) {
        self.ledger.note(|seen| seen.resumed += 1);
    }

    fn stop(self: Box<Self>) {
        drop(self.batches);
        self.thread.join().expect("no panic");
        self.ledger.note(|seen| seen.committer_stopped = true);
        *self.ledger.notify.lock().expect("unpoisoned") = None;
    }
}

/// Stores that keep nothing.
pub(super) fn stores(notify: Notify, ledger: Arc<Ledger>) -> Stores {
    *ledger.notify.lock().expect("unpoisoned") = Some(notify);
    let (batches, todo) = channel::<Vec<Batch>>();
    let mut store = Anything;
    let told = Arc::clone(&ledger);
    let thread = std::thread::spawn(move || {
        while let Ok(batches) = todo.recv() {
            let done = store.commit(&batches).expect("takes anything");
            told.notify(CommitEvent::Committed(done));
        }
    });
    Stores {
        reader: Box::new(Row::new(&ledger)),
        memory: Box::new(Anything),
        committer: Box::new(Thread { batches, thread, ledger }),
    }
}
