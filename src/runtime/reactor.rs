//! What one thread waits for: its sockets, its timers and calls from other threads, behind one epoll.
//!
//! A socket is registered once, edge-triggered, and asked only when an event said that it is ready: a lone message costs
//! one wait, one read and one write. Invariants:
//!
//! 1. A socket is taken for ready until it said otherwise. Whoever is told to wait has left its waker first, and every event
//!    after that wakes it.
//! 2. Once the kernel said that a peer is gone, a short read means nothing any more: no event will follow, so the socket is
//!    asked until it says so itself.
//! 3. A call from another thread is seen: either before this one sleeps, or because it writes to the bell.
//! 4. A timer never fires early.

use super::clock;
use crate::model::Mono;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// What the bell is registered as; sockets have their place in the table.
const BELL: u64 = u64::MAX;

/// Runs a future on this thread until it is ready; its wakers may be called from any thread.
///
/// # Errors
/// When the kernel gives no epoll, or takes it back.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let reactor = Reactor::current()?;
    let waker = Waker::from(Arc::clone(&reactor.bell));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        reactor.bell.hear();
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Ok(output);
        }
        reactor.turn()?;
    }
}

/// Which of a socket's two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What comes from the peer, new connections included.
    Read,
    /// What goes to it.
    Write,
}

/// A non-blocking file that this thread's [`block_on`] watches.
pub struct Watched<T: AsFd> {
    file: T,
    place: usize,
    source: Rc<Source>,
    reactor: Rc<Reactor>,
}

impl<T: AsFd> Watched<T> {
    /// Watches a file, which must be set not to block.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(file: T) -> io::Result<Self> {
        let reactor = Reactor::current()?;
        let source = Rc::<Source>::default();
        let place = reactor.enter(&source);
        let watched = Self { file, place, source, reactor };
        epoll::add(&watched.reactor.epoll, &watched.file, EventData::new_u64(place as u64), READ)?;
        Ok(watched)
    }

    /// The file.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        &self.file
    }

    /// Tries an operation when the file may be ready for it; it also says whether it left nothing, so that the next try
    /// may wait for an event.
    ///
    /// # Errors
    /// As the operation, which is repeated where it was interrupted or would block.
    pub fn poll_with<R>(
        &self,
        way: Way,
        cx: &Context<'_>,
        mut operation: impl FnMut(&T) -> io::Result<(R, bool)>,
    ) -> Poll<io::Result<R>> {
        let half = self.source.half(way);
        loop {
            if !half.ready.get() {
                half.leave(cx.waker());
                if way == Way::Write && !self.source.told_of_room.replace(true) {
                    // The kernel looks anew when it is asked for more: nothing is missed between.
                    self.modify(READ | EventFlags::OUT)?;
                }
                return Poll::Pending;
            }
            match operation(&self.file) {
                Ok((done, exhausted)) => {
                    half.ready.set(!exhausted || self.source.gone.get());
                    if way == Way::Write && !exhausted && self.source.told_of_room.replace(false) {
                        self.modify(READ)?;
                    }
                    return Poll::Ready(Ok(done));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => half.ready.set(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn modify(&self, flags: EventFlags) -> io::Result<()> {
        epoll::modify(&self.reactor.epoll, &self.file, EventData::new_u64(self.place as u64), flags)?;
        Ok(())
    }
}

impl<T: AsFd> Drop for Watched<T> {
    fn drop(&mut self) {
        // It was added, or nothing is to be removed.
        let _ = epoll::delete(&self.reactor.epoll, &self.file);
        self.reactor.leave(self.place);
    }
}

impl<T: AsFd + fmt::Debug> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.file).finish()
    }
}

/// What every file is watched for. That there is room to write is asked for only where there was none: a Unix socket would
/// tell it each time its peer reads.
const READ: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// What is known of a file.
#[derive(Default)]
struct Source {
    read: Half,
    write: Half,
    /// The peer closed its end, or the connection broke.
    gone: Cell<bool>,
    /// The kernel tells of room to write.
    told_of_room: Cell<bool>,
}

struct Half {
    ready: Cell<bool>,
    /// Somebody was told to wait.
    awaited: Cell<bool>,
    /// The last who was: usually the same task for the whole life of a file.
    waker: RefCell<Waker>,
}

impl Default for Half {
    fn default() -> Self {
        Self { ready: Cell::new(true), awaited: Cell::new(false), waker: RefCell::new(Waker::noop().clone()) }
    }
}

impl Half {
    fn leave(&self, waker: &Waker) {
        self.awaited.set(true);
        self.waker.borrow_mut().clone_from(waker);
    }

    fn become_ready(&self) {
        self.ready.set(true);
        if self.awaited.replace(false) {
            self.waker.borrow().wake_by_ref();
        }
    }
}

impl Source {
    fn half(&self, way: Way) -> &Half {
        match way {
            Way::Read => &self.read,
            Way::Write => &self.write,
        }
    }

    fn happened(&self, flags: EventFlags) {
        let broken = EventFlags::HUP | EventFlags::ERR;
        if flags.intersects(broken | EventFlags::RDHUP) {
            self.gone.set(true);
        }
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | broken) {
            self.read.become_ready();
        }
        if flags.intersects(EventFlags::OUT | broken) {
            self.write.become_ready();
        }
    }
}

/// What other threads call this one by.
struct Bell {
    file: OwnedFd,
    state: AtomicU8,
}

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const CALLED: u8 = 2;

impl Bell {
    /// What was called for until now is looked at next.
    fn hear(&self) {
        self.state.swap(AWAKE, Ordering::AcqRel);
    }

    /// Whether nobody called; from then on a call writes.
    fn sleep(&self) -> bool {
        self.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(CALLED, Ordering::AcqRel) == ASLEEP {
            // Fails only when the counter is full, and then the bell rings already. Nobody reads it: every write is an event.
            let _ = rustix::io::write(&self.file, &1u64.to_ne_bytes());
        }
    }
}

struct Reactor {
    epoll: OwnedFd,
    bell: Arc<Bell>,
    sources: RefCell<Vec<Option<Rc<Source>>>>,
    /// Places of the table nobody has.
    free: RefCell<Vec<usize>>,
}

impl Reactor {
    fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let file = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &file, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        let bell = Arc::new(Bell { file, state: AtomicU8::new(AWAKE) });
        Ok(Self { epoll, bell, sources: RefCell::default(), free: RefCell::default() })
    }

    /// This thread's.
    fn current() -> io::Result<Rc<Self>> {
        thread_local! {
            static CURRENT: OnceCell<Rc<Reactor>> = const { OnceCell::new() };
        }
        CURRENT.with(|current| match current.get() {
            Some(reactor) => Ok(Rc::clone(reactor)),
            None => {
                let reactor = Rc::new(Self::new()?);
                Ok(Rc::clone(current.get_or_init(|| reactor)))
            }
        })
    }

    fn enter(&self, source: &Rc<Source>) -> usize {
        let mut sources = self.sources.borrow_mut();
        let place = self.free.borrow_mut().pop().unwrap_or(sources.len());
        if place == sources.len() {
            sources.push(None);
        }
        sources[place] = Some(Rc::clone(source));
        place
    }

    fn leave(&self, place: usize) {
        self.sources.borrow_mut()[place] = None;
        self.free.borrow_mut().push(place);
    }

    /// Waits for something to happen, not at all when somebody called meanwhile, and wakes whom it concerns.
    fn turn(&self) -> io::Result<()> {
        let timeout = if self.bell.sleep() { next_timer() } else { Some(NOW) };
        let mut room = [MaybeUninit::uninit(); EVENTS_MAX];
        let waited = epoll::wait(&self.epoll, &mut room[..], timeout.as_ref());
        // Whoever calls from here on need not write: all is looked at before the next sleep.
        self.bell.hear();
        let events = match waited {
            Ok((events, _)) => events,
            Err(Errno::INTR) => &mut [],
            Err(error) => return Err(error.into()),
        };
        for event in events {
            let (flags, place) = (event.flags, event.data.u64());
            let source =
                usize::try_from(place).ok().and_then(|place| self.sources.borrow().get(place).cloned().flatten());
            if let Some(source) = source {
                source.happened(flags);
            }
        }
        fire_timers();
        Ok(())
    }
}

/// Longest wait, in microseconds: a day.
const WAIT_US_MAX: u64 = 24 * 3_600 * 1_000_000;
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// The timers of this thread that somebody waits for, by time and number.
#[derive(Default)]
struct Timers {
    due: BTreeMap<(Mono, u64), Waker>,
    last: u64,
}

thread_local! {
    static TIMERS: RefCell<Timers> = RefCell::default();
}

/// How long until the first is due; `None` is for ever.
fn next_timer() -> Option<Timespec> {
    let at = TIMERS.with_borrow(|timers| timers.due.first_key_value().map(|((at, _), _)| *at))?;
    // What is further away is looked at again: kernels before 5.11 wait no longer than 24 days.
    let us = at.0.saturating_sub(clock::mono().0).min(WAIT_US_MAX);
    // The kernel counts milliseconds, and rustix rounds up to them.
    let tv_sec = i64::try_from(us / 1_000_000).unwrap_or(i64::MAX);
    Some(Timespec { tv_sec, tv_nsec: (us % 1_000_000 * 1_000) as _ })
}

fn fire_timers() {
    if TIMERS.with_borrow(|timers| timers.due.is_empty()) {
        return;
    }
    let now = clock::mono();
    loop {
        let due = TIMERS.with_borrow_mut(|timers| match timers.due.first_entry() {
            Some(first) if first.key().0 <= now => Some(first.remove()),
            _ => None,
        });
        match due {
            Some(waker) => waker.wake(),
            None => return,
        }
    }
}

/// Is ready when its time has come, on a thread in [`block_on`]. It can be set again.
#[derive(Debug)]
pub struct Timer {
    at: Option<Mono>,
    /// Where its waker is.
    entry: Option<(Mono, u64)>,
}

impl Timer {
    /// Never ready until it is set.
    #[must_use]
    pub const fn never() -> Self {
        Self { at: None, entry: None }
    }

    /// Ready when [`clock::mono`] reads `at`.
    #[must_use]
    pub const fn at(at: Mono) -> Self {
        Self { at: Some(at), entry: None }
    }

    /// Ready so many milliseconds from now.
    #[must_use]
    pub fn after_ms(ms: u64) -> Self {
        Self::at(clock::mono().plus_ms(ms))
    }

    /// Sets another time; poll it again, so that it knows whom to wake.
    pub fn set(&mut self, at: Mono) {
        self.cancel();
        self.at = Some(at);
    }

    fn cancel(&mut self) {
        if let Some(entry) = self.entry.take() {
            // When the thread ends there are no timers any more.
            let _ = TIMERS.try_with(|timers| timers.borrow_mut().due.remove(&entry));
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        if clock::mono() >= at {
            self.cancel();
            return Poll::Ready(());
        }
        let known = self.entry;
        self.entry = TIMERS.with_borrow_mut(|timers| {
            let entry = known.unwrap_or_else(|| {
                timers.last += 1;
                (at, timers.last)
            });
            timers.due.insert(entry, cx.waker().clone());
            Some(entry)
        });
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests;
