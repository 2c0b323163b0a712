//! The run loop's centre: carries the machine's effects out, brings it what other threads say, keeps its one timer.

use super::bridges::Bridges;
use super::inbox::{Inbox, Notice};
use super::machine::Machine;
use super::porter::Porter;
use super::reload;
use super::shared::Shared;
use super::tls::Keeper;
use super::worker::{Job, Worker};
use super::{Commit, Reload};
use crate::broker::{Effect, Event, Volume};
use crate::model::Mono;
use crate::runtime::clock;
use crate::runtime::reactor::Timer;
use crate::store::{Batch, CommitEvent, Reader, Store, StoreError, perform};
use smol::Task;
use std::collections::VecDeque;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Free space is looked at this often, in milliseconds.
const SPACE_EVERY_MS: u64 = 5_000;
/// And whenever so many bytes were written since, so that a fast writer does not pass the low mark between two looks.
const SPACE_EVERY_BYTES: u64 = 2 * 1_024 * 1_024;
/// A stop has this long, in milliseconds.
const STOP_MS: u64 = 10_000;
/// When the machine is done, or its time is over, connections have this long to take their last bytes, in milliseconds.
const LAST_BYTES_MS: u64 = 1_000;
/// Commits to memory between two tidyings.
const TIDY_EVERY: u32 = 32;

/// The store in memory, whose commits cost nothing to wait for.
pub(super) struct Memory {
    pub(super) store: Box<dyn Store>,
    pub(super) reader: Box<dyn Reader>,
    commits: u32,
}

impl Memory {
    pub(super) fn new(store: Box<dyn Store>) -> Self {
        Self { reader: store.reader(), store, commits: 0 }
    }

    fn commit(&mut self, batches: &[Batch]) -> Result<crate::store::Committed, StoreError> {
        let done = self.store.commit(batches)?;
        self.commits += 1;
        if self.commits >= TIDY_EVERY {
            self.commits = 0;
            self.store.tidy()?;
        }
        Ok(done)
    }
}

/// The task at the centre. Ends when the process should.
pub(super) struct Conductor<M: Machine> {
    shared: Rc<Shared<M>>,
    inbox: Inbox,
    notices: VecDeque<Notice>,
    committer: Box<dyn Commit>,
    memory: Memory,
    worker: Worker,
    porter: Porter,
    reload: Option<Reload>,
    /// Accepting ends when these are dropped.
    acceptors: Vec<Task<()>>,
    bridges: Bridges<M>,
    /// Where there are TLS listeners.
    tls: Option<Keeper>,
    timer: Timer,
    /// When the timer fires. It may be early, never late.
    armed: Option<Mono>,
    next_space: Mono,
    /// Bytes written since free space was last asked for.
    written_bytes: u64,
    /// Set by a stop: when it ends whatever happens.
    end_by: Option<Mono>,
    /// The machine has nothing left to do.
    stopped: bool,
}

/// What a conductor is made of.
pub(super) struct Parts<M: Machine> {
    pub(super) shared: Rc<Shared<M>>,
    pub(super) inbox: Inbox,
    pub(super) committer: Box<dyn Commit>,
    pub(super) memory: Memory,
    pub(super) worker: Worker,
    pub(super) porter: Porter,
    pub(super) reload: Option<Reload>,
    pub(super) acceptors: Vec<Task<()>>,
    pub(super) bridges: Bridges<M>,
    pub(super) tls: Option<Keeper>,
}

/// How it ended.
pub(super) struct Ended {
    /// To be stopped, which writes what was handed over.
    pub(super) committer: Box<dyn Commit>,
    /// What broke, if it was not a stop.
    pub(super) result: Result<(), StoreError>,
}

impl<M: Machine + 'static> Conductor<M> {
    pub(super) fn new(parts: Parts<M>) -> Self {
        let Parts { shared, inbox, committer, memory, worker, porter, reload, acceptors, bridges, tls } = parts;
        let next_space = shared.now().mono.plus_ms(SPACE_EVERY_MS);
        Self {
            shared,
            inbox,
            notices: VecDeque::new(),
            committer,
            memory,
            worker,
            porter,
            reload,
            acceptors,
            bridges,
            tls,
            timer: Timer::never(),
            armed: None,
            next_space,
            written_bytes: 0,
            end_by: None,
            stopped: false,
        }
    }

    /// Conducts until the end.
    pub(super) async fn run(mut self) -> Ended {
        let result = std::future::poll_fn(|cx| self.turn(cx)).await;
        let failure = self.shared.machine.borrow_mut().take_failure();
        let result = result.and(failure.map_or(Ok(()), Err));
        Ended { committer: self.committer, result }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        self.shared.set_conductor(cx.waker());
        self.shared.begin_turn();
        self.inbox.take(cx, &mut self.notices);
        while let Some(notice) = self.notices.pop_front() {
            if matches!(notice, Notice::Commit(CommitEvent::Reopened(_))) {
                // What was asked of the store in memory names queues by their old places.
                self.drain()?;
            }
            if let ControlFlow::Break(ended) = self.notice(notice) {
                return Poll::Ready(ended);
            }
        }
        let was_stopped = self.stopped;
        self.drain()?;
        if self.rest(cx)? || (was_stopped && self.shared.is_flushed()) {
            return Poll::Ready(Ok(()));
        }
        if self.stopped && !was_stopped {
            // One more turn, after the connections that were just woken with their last bytes.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn handle(&self, event: Event<'_>) {
        self.shared.machine.borrow_mut().handle(self.shared.now(), event);
    }

    /// Brings the machine what was told; break means end now.
    fn notice(&mut self, notice: Notice) -> ControlFlow<Result<(), StoreError>> {
        match notice {
            Notice::Commit(CommitEvent::Committed(done)) => {
                self.written_bytes += done.bytes_written;
                if self.written_bytes >= SPACE_EVERY_BYTES {
                    self.written_bytes = 0;
                    self.worker.send(Job::Space);
                }
                self.handle(Event::Committed { volume: Volume::Disk, done });
            }
            Notice::Commit(CommitEvent::Failed(error @ StoreError::Gone(_))) => {
                log::error!("{error}: every message in it is lost, the broker ends");
                return ControlFlow::Break(Err(error));
            }
            Notice::Commit(CommitEvent::Failed(error)) => {
                log::error!("a commit failed, the store is opened again: {error}");
                // The old store must be let go of before it can be opened again.
                self.worker.send(Job::Reader(None));
                self.worker.send(Job::Space);
                self.handle(Event::StoreFailed { error });
            }
            Notice::Commit(CommitEvent::Reopened(reader)) => {
                log::info!("the store is open again");
                self.handle(Event::StoreReopened { reader: &*reader });
                self.committer.resume();
                self.worker.send(Job::Reader(Some(reader)));
            }
            Notice::Read { token, result } => self.handle(Event::Read { token, result }),
            Notice::NamedKeys(keys) => self.handle(Event::NamedKeys { keys }),
            Notice::Authenticated { conn, outcome } => self.handle(Event::Authenticated { conn, outcome }),
            Notice::Space { free_bytes } => self.handle(Event::Disk { free_bytes }),
            Notice::Stop if self.end_by.is_some() => {
                log::warn!("asked to stop twice: ending at once");
                return ControlFlow::Break(Ok(()));
            }
            Notice::Stop => {
                log::info!("stopping");
                self.acceptors.clear();
                self.bridges.stop();
                let deadline = self.shared.now().mono.plus_ms(STOP_MS);
                self.end_by = Some(deadline.plus_ms(LAST_BYTES_MS));
                self.handle(Event::Stop { deadline });
            }
            Notice::Reload => {
                let running = self.shared.machine.borrow().settings().clone();
                if let Some(settings) = self.reload.as_mut().and_then(|load| reload::reload(&running, load)) {
                    let settings = Arc::new(settings);
                    self.porter.reload(Arc::clone(&settings));
                    self.handle(Event::Reload { settings: Arc::clone(&settings) });
                    self.bridges.reload(&settings);
                }
                self.bridges.look_at_files();
                if self.tls.is_some() {
                    let settings = self.shared.machine.borrow().settings().tls.clone();
                    self.worker.send(Job::RenewTls(settings));
                }
            }
            Notice::Tls(result) => {
                let now = self.shared.now().wall;
                if let Some(tls) = &mut self.tls
                    && !tls.renewed(result.map(|material| *material), now)
                {
                    self.handle(Event::NoTls { reason: "files" });
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Carries out all the machine asks for.
    fn drain(&mut self) -> Result<(), StoreError> {
        loop {
            let Some(effect) = self.shared.machine.borrow_mut().poll_effect() else { return Ok(()) };
            match effect {
                Effect::Commit { volume: Volume::Disk, batches } => self.committer.submit(batches),
                Effect::Commit { volume: Volume::Memory, batches } => {
                    let done = self.memory.commit(&batches)?;
                    self.handle(Event::Committed { volume: Volume::Memory, done });
                }
                Effect::Read { volume: Volume::Disk, token, request } => self.worker.send(Job::Read { token, request }),
                Effect::Read { volume: Volume::Memory, token, request } => {
                    let result = perform(&*self.memory.reader, &request);
                    self.handle(Event::Read { token, result });
                }
                Effect::Wake { conn } => self.shared.wake(conn),
                Effect::Authenticate { conn, attempt } => self.porter.check(conn, self.shared.now(), attempt),
                Effect::Reserve { present } => {
                    let bytes = self.shared.machine.borrow().settings().store.reserve_bytes;
                    self.worker.send(Job::Reserve(present.then_some(bytes)));
                }
                Effect::Bridge { name, pause } => self.bridges.pause(&name, pause),
                Effect::Stopped if self.stopped => {}
                Effect::Stopped => {
                    self.stopped = true;
                    self.end_by = Some(self.shared.now().mono.plus_ms(LAST_BYTES_MS));
                }
            }
        }
    }

    /// Does what is due and arms the timer for the rest; true when the time to stop in is over.
    fn rest(&mut self, cx: &mut Context<'_>) -> Result<bool, StoreError> {
        // The machine's deadline moves as it is told that its time has come; one that does not must not stop the others.
        for _ in 0..4 {
            let due = self.shared.machine.borrow().poll_timeout();
            let tls = self.tls.as_ref().map(Keeper::next);
            let next = [due, self.end_by, tls].into_iter().flatten().fold(self.next_space, Mono::min);
            let now = clock::mono();
            if now < next {
                self.arm(cx, now, next);
                return Ok(false);
            }
            if self.end_by.is_some_and(|end| end <= now) {
                log::warn!("the time to stop in is over");
                return Ok(true);
            }
            if self.next_space <= now {
                self.next_space = now.plus_ms(SPACE_EVERY_MS);
                // A certificate that was revoked is believed no longer than this.
                self.bridges.look_at_files();
                self.worker.send(Job::Space);
                while self.memory.store.tidy()? {}
            }
            let wall = self.shared.now().wall;
            if self.tls.as_mut().is_some_and(|tls| tls.due(now, wall)) {
                self.worker.send(Job::LookTls);
            }
            if due.is_some_and(|due| due <= now) {
                self.handle(Event::Timeout);
                self.drain()?;
            }
        }
        cx.waker().wake_by_ref();
        Ok(false)
    }

    /// Sets the timer only where it would fire too late; one that fires early costs one look.
    fn arm(&mut self, cx: &mut Context<'_>, now: Mono, next: Mono) {
        if self.armed.is_none_or(|armed| armed > next || armed <= now) {
            self.timer.set(next);
            self.armed = Some(next);
            if Pin::new(&mut self.timer).poll(cx).is_ready() {
                // It came due between the two lines.
                self.armed = None;
                cx.waker().wake_by_ref();
            }
        }
    }
}
