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
/// The system's resolver needs some 100 KiB of stack with its modules.
const STACK_BYTES: usize = 512 * 1_024;

/// What is to be done.
type Work = Box<dyn FnOnce() + Send>;

/// Threads that run errands. A thread is there while there is something to do; clones share them.
#[derive(Clone, Default)]
pub struct Errands(Arc<Mutex<Office>>);

#[derive(Default)]
struct Office {
    threads: usize,
    waiting: VecDeque<(u64, Work)>,
    last: u64,
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
    pub fn run<T: Clone + Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Errand<T>> {
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
        office.waiting.push_back((number, work));
        if office.threads < THREADS_MAX {
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
        let body = move || Place(errands).work();
        Builder::new().name("errand".into()).stack_size(STACK_BYTES).spawn(body).map(drop)
    }
}

/// A thread's place; given up however the thread ends.
struct Place(Errands);

impl Place {
    fn work(&self) {
        loop {
            // In a statement of its own: the lock is not held while the work is done.
            let next = lock(&self.0.0).waiting.pop_front();
            match next {
                Some((_, work)) => work(),
                None => return,
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut office = lock(&self.0.0);
        office.threads -= 1;
        // What came between the last look and now would wait for ever.
        if !office.waiting.is_empty() && self.0.hire().is_ok() {
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
        lock(&self.errands.0).waiting.retain(|(number, _)| *number != self.number);
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
    open: RefCell<HashMap<K, Errand<T>>>,
    fresh_ms: u64,
}

impl<K: Clone + Eq + Hash, T: Clone + Send + 'static> Desk<K, T> {
    /// What nobody waited for is good for so many milliseconds.
    #[must_use]
    pub fn new(errands: &Errands, fresh_ms: u64) -> Self {
        Self { errands: errands.clone(), open: RefCell::default(), fresh_ms }
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
        let errand = self.errands.run(work)?;
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
        let desk = Desk::new(&Errands::default(), 0);
        assert_eq!(wait(desk.ask("a", || 7)).expect("a thread"), 7);
        assert_eq!(wait(desk.ask("a", || 8)).expect("a thread"), 8);
        assert!(desk.open.borrow().is_empty());
    }

    #[test]
    fn an_errand_that_hangs_has_no_second_thread_and_its_late_answer_serves_who_asks_next() {
        let errands = Errands::default();
        let desk = Desk::new(&errands, 60_000);
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
        let desk = Desk::new(&Errands::default(), 0);
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
        let desk = Desk::new(&errands, 0);
        let (open, hangs) = gate();
        let hangs = Arc::new(Mutex::new(hangs));
        for key in 0..THREADS_MAX as u32 {
            let hangs = Arc::clone(&hangs);
            assert!(wait(give_up(desk.ask(key, move || lock(&hangs).recv().unwrap_or_default()))).is_none());
        }
        let late = errands.run(|| unreachable!("it was taken back")).expect("it waits for a thread");
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
}
