//! Errands: work that may block for long and that nothing may wait for, on a few threads that come and go.
//!
//! A name server that never answers keeps the thread that asked it until the system gives up; so many at most are kept, and no
//! second one ever asks the same thing meanwhile.

use super::clock;
use crate::model::Mono;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::Hash;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::Builder;

/// Most threads at once.
pub const THREADS_MAX: usize = 16;
/// Of these so many are for files alone: however many name servers never answer, files are read.
pub const FILE_THREADS: usize = 4;
/// The system's resolver needs some 100 KiB of stack with its modules.
const STACK_BYTES: usize = 512 * 1_024;

/// What is to be done.
type Work = Box<dyn FnOnce() + Send>;

/// What an errand waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Files.
    Files,
    /// Name servers.
    Names,
}

struct Waiting {
    number: u64,
    kind: Kind,
    work: Work,
}

/// Threads that run errands. A thread is there while there is something to do; clones share them.
#[derive(Clone, Default)]
pub struct Errands(Arc<Mutex<Office>>);

#[derive(Default)]
struct Office {
    threads: usize,
    /// Of the threads those that wait for name servers.
    naming: usize,
    waiting: VecDeque<Waiting>,
    last: u64,
}

impl Office {
    /// Place of the first that a thread may begin now.
    fn next(&self) -> Option<usize> {
        let names = self.naming < THREADS_MAX - FILE_THREADS;
        self.waiting.iter().position(|waiting| names || waiting.kind == Kind::Files)
    }
}

/// An errand that was begun: ready with what it brought. Dropping the last of its clones takes it back if no thread has begun.
pub struct Errand<T>(Arc<Begun<T>>);

struct Begun<T> {
    slot: Arc<Mutex<Slot<T>>>,
    errands: Errands,
    number: u64,
}

struct Slot<T> {
    /// What it brought, and when.
    brought: Option<(T, Mono)>,
    wakers: Vec<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Errands {
    /// Has a thread do this, now or when one is free.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn run<T: Clone + Send + 'static>(
        &self,
        kind: Kind,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Errand<T>> {
        let slot = Arc::new(Mutex::new(Slot { brought: None, wakers: Vec::new() }));
        let told = Arc::clone(&slot);
        let work = Box::new(move || {
            let brought = work();
            let mut slot = lock(&told);
            slot.brought = Some((brought, clock::mono()));
            let wakers = std::mem::take(&mut slot.wakers);
            drop(slot);
            wakers.into_iter().for_each(Waker::wake);
        });
        let mut office = lock(&self.0);
        office.last += 1;
        let number = office.last;
        office.waiting.push_back(Waiting { number, kind, work });
        if office.threads < THREADS_MAX && office.next().is_some() {
            if let Err(error) = self.hire() {
                office.waiting.pop_back();
                return Err(error);
            }
            office.threads += 1;
        }
        drop(office);
        Ok(Errand(Arc::new(Begun { slot, errands: self.clone(), number })))
    }

    #[expect(clippy::disallowed_methods, reason = "what blocks has a thread of its own")]
    fn hire(&self) -> io::Result<()> {
        // Its place is made on the thread: where there is none, no place is given up.
        let errands = self.clone();
        let body = move || Place { errands, naming: false }.work();
        Builder::new().name("errand".into()).stack_size(STACK_BYTES).spawn(body).map(drop)
    }
}

/// A thread's place; given up however the thread ends.
struct Place {
    errands: Errands,
    /// It waits for name servers.
    naming: bool,
}

impl Place {
    fn work(mut self) {
        while let Some(work) = self.next() {
            work();
        }
    }

    fn next(&mut self) -> Option<Work> {
        let mut office = lock(&self.errands.0);
        office.naming -= usize::from(std::mem::take(&mut self.naming));
        let at = office.next()?;
        let next = office.waiting.remove(at)?;
        self.naming = next.kind == Kind::Names;
        office.naming += usize::from(self.naming);
        Some(next.work)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut office = lock(&self.errands.0);
        office.naming -= usize::from(self.naming);
        office.threads -= 1;
        // What came between the last look and now would wait for ever.
        if office.next().is_some() && self.errands.hire().is_ok() {
            office.threads += 1;
        }
    }
}

impl<T> Clone for Errand<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Begun<T> {
    fn drop(&mut self) {
        lock(&self.errands.0).waiting.retain(|waiting| waiting.number != self.number);
    }
}

impl<T: Clone> Errand<T> {
    fn poll(&self, cx: &Context<'_>) -> Poll<T> {
        let mut slot = lock(&self.0.slot);
        if let Some((brought, _)) = &slot.brought {
            return Poll::Ready(brought.clone());
        }
        if !slot.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            slot.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// When it was done, if it is.
    fn done_at(&self) -> Option<Mono> {
        lock(&self.0.slot).brought.as_ref().map(|(_, at)| *at)
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Errands by what they are for: one of each at a time. Who asks while one is under way waits for that one; what was brought
/// when nobody waited any more is for who asks next.
pub struct Desk<K, T> {
    errands: Errands,
    kind: Kind,
    open: RefCell<HashMap<K, Errand<T>>>,
    fresh_ms: u64,
}

impl<K: Clone + Eq + Hash, T: Clone + Send + 'static> Desk<K, T> {
    /// What nobody waited for is good for so many milliseconds.
    #[must_use]
    pub fn new(errands: &Errands, kind: Kind, fresh_ms: u64) -> Self {
        Self { errands: errands.clone(), kind, open: RefCell::default(), fresh_ms }
    }

    /// What the errand for `key` brings. The caller bounds the time: giving up leaves the errand under way.
    ///
    /// # Errors
    /// The system gives no thread.
    pub async fn ask(&self, key: K, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let errand = self.join(&key, work)?;
        let brought = poll_fn(|cx| errand.poll(cx)).await;
        let mut open = self.open.borrow_mut();
        if open.get(&key).is_some_and(|kept| kept.is(&errand)) {
            open.remove(&key);
        }
        Ok(brought)
    }

    fn join(&self, key: &K, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Errand<T>> {
        let now = clock::mono();
        let mut open = self.open.borrow_mut();
        // What is old is for nobody: what stays is under way, or one fresh answer a key.
        open.retain(|_, errand| errand.done_at().is_none_or(|at| now.ms_since(at) < self.fresh_ms));
        if let Some(errand) = open.get(key) {
            return Ok(errand.clone());
        }
        let errand = self.errands.run(self.kind, work)?;
        open.insert(key.clone(), errand.clone());
        Ok(errand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::reactor::{Timer, block_on};
    use smol::future::FutureExt as _;
    use std::future::Future;
    use std::sync::mpsc::{Receiver, Sender, channel};

    fn wait<F: Future>(future: F) -> F::Output {
        block_on(future).expect("a reactor")
    }

    /// Gives up at once: as soon as the errand is under way.
    async fn give_up<T>(asked: impl Future<Output = io::Result<T>>) -> Option<io::Result<T>> {
        async { Some(asked.await) }.or(async { None }).await
    }

    fn gate() -> (Sender<u32>, Receiver<u32>) {
        channel()
    }

    #[test]
    fn what_an_errand_brings_wakes_who_waits() {
        let desk = Desk::new(&Errands::default(), Kind::Files, 0);
        assert_eq!(wait(desk.ask("a", || 7)).expect("a thread"), 7);
        assert_eq!(wait(desk.ask("a", || 8)).expect("a thread"), 8);
        assert!(desk.open.borrow().is_empty());
    }

    #[test]
    fn an_errand_that_hangs_has_no_second_thread_and_its_late_answer_serves_who_asks_next() {
        let errands = Errands::default();
        let desk = Desk::new(&errands, Kind::Files, 60_000);
        let (open, hangs) = gate();
        assert!(wait(give_up(desk.ask("hub", move || hangs.recv().unwrap_or_default()))).is_none());
        for _ in 0..100 {
            assert!(wait(give_up(desk.ask("hub", || unreachable!("one is under way")))).is_none());
        }
        assert_eq!(lock(&errands.0).threads, 1);
        // Others are served meanwhile.
        assert_eq!(wait(desk.ask("other", || 2)).expect("a thread"), 2);
        open.send(5).expect("it waits");
        assert_eq!(wait(desk.ask("hub", || unreachable!("one is under way"))).expect("there"), 5);
        assert_eq!(wait(desk.ask("hub", || 6)).expect("a thread"), 6);
    }

    #[test]
    fn an_answer_that_came_too_late_is_not_used_when_it_is_old() {
        let desk = Desk::new(&Errands::default(), Kind::Files, 0);
        let (open, hangs) = gate();
        assert!(wait(give_up(desk.ask("file", move || hangs.recv().unwrap_or_default()))).is_none());
        open.send(1).expect("it waits");
        while desk.open.borrow()["file"].done_at().is_none() {
            wait(Timer::after_ms(1));
        }
        assert_eq!(wait(desk.ask("file", || 2)).expect("a thread"), 2);
    }

    #[test]
    fn threads_are_bounded_and_what_nobody_waits_for_any_more_is_not_begun() {
        let errands = Errands::default();
        let desk = Desk::new(&errands, Kind::Files, 0);
        let (open, hangs) = gate();
        let hangs = Arc::new(Mutex::new(hangs));
        for key in 0..THREADS_MAX as u32 {
            let hangs = Arc::clone(&hangs);
            assert!(wait(give_up(desk.ask(key, move || lock(&hangs).recv().unwrap_or_default()))).is_none());
        }
        let late = errands.run(Kind::Files, || unreachable!("it was taken back")).expect("it waits for a thread");
        assert_eq!(lock(&errands.0).threads, THREADS_MAX);
        drop::<Errand<u32>>(late);
        let asked = desk.ask(99, || 3);
        // All that hang end one after another.
        drop(open);
        assert_eq!(wait(asked).expect("a thread"), 3);
        while lock(&errands.0).threads > 0 {
            wait(Timer::after_ms(1));
        }
    }

    #[test]
    fn name_servers_that_never_answer_hold_up_no_files() {
        let errands = Errands::default();
        let (names, files) = (Desk::new(&errands, Kind::Names, 0), Desk::new(&errands, Kind::Files, 0));
        let (open, hangs) = gate();
        let hangs = Arc::new(Mutex::new(hangs));
        for key in 0..2 * THREADS_MAX as u32 {
            let hangs = Arc::clone(&hangs);
            let asked = give_up(names.ask(key, move || lock(&hangs).recv().unwrap_or_default()));
            assert!(wait(asked).is_none());
        }
        let most = THREADS_MAX - FILE_THREADS;
        let counts = || {
            let office = lock(&errands.0);
            (office.naming, office.threads, office.waiting.len())
        };
        while counts() != (most, most, 2 * THREADS_MAX - most) {
            wait(Timer::after_ms(1));
        }
        for key in 0..100 {
            assert_eq!(wait(files.ask(key, move || key)).expect("a thread"), key);
        }
        // And what waits for names is done once these answer.
        let asked = names.ask(99, || 3);
        drop(open);
        assert_eq!(wait(asked).expect("a thread"), 3);
        while counts() != (0, 0, 0) {
            wait(Timer::after_ms(1));
        }
    }
}
