//! The one thread that writes: takes what was submitted, commits it as one transaction, tells what became of it.

use super::{Batch, Committed, Reader, Store, StoreError};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long nothing must be submitted before the store is tidied.
const IDLE: Duration = Duration::from_millis(20);
/// First pause before the store is opened again after a failure; doubled each time.
const REOPEN_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest such pause.
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What became of what was submitted.
pub enum CommitEvent {
    /// One for each [`Committer::submit`], in order.
    Committed(Committed),
    /// The transaction failed. Everything submitted and not yet told as committed is dropped, and so is all that is
    /// submitted before [`Committer::resume`]. After [`StoreError::Gone`] the committer has ended.
    Failed(StoreError),
    /// The store was opened again: here is a reading half of it. Call [`Committer::resume`] when whoever submits knows.
    Reopened(Box<dyn Reader>),
}

/// Opens the store again after a failure.
pub type Reopen = Box<dyn FnMut() -> Result<Box<dyn Store>, StoreError> + Send>;
/// Takes events; called on the committer's thread, so it must be quick.
pub type Notify = Box<dyn Fn(CommitEvent) + Send>;

/// The thread that owns a store.
#[derive(Debug)]
pub struct Committer {
    sender: Sender<Message>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Message {
    Submit(Vec<Batch>),
    Resume,
    Stop,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Panics
    /// When the system gives no thread: there is no broker without one.
    #[expect(clippy::disallowed_methods, reason = "the one writing thread")]
    #[must_use]
    pub fn spawn(store: Box<dyn Store>, reopen: Reopen, notify: Notify) -> Self {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || {
                Work { store: Some(store), receiver, reopen, notify, deaf: false, owed: 0, stopping: false }.run()
            })
            .expect("a process that cannot start its one writing thread cannot serve");
        Self { sender, thread }
    }

    /// Hands over batches. One [`CommitEvent::Committed`] answers, unless a [`CommitEvent::Failed`] comes first.
    pub fn submit(&self, batches: Vec<Batch>) {
        // The thread ends only after `stop`, which takes `self`.
        let _ = self.sender.send(Message::Submit(batches));
    }

    /// Says that [`CommitEvent::Reopened`] was heard: what is submitted from now on builds on the store as it was
    /// opened again. Until then submits are dropped, because whoever made them did not yet know of the failure.
    pub fn resume(&self) {
        let _ = self.sender.send(Message::Resume);
    }

    /// Commits what was submitted, ends the thread and closes the store.
    pub fn stop(self) {
        let _ = self.sender.send(Message::Stop);
        if self.thread.join().is_err() {
            log::error!("the committer's thread panicked");
        }
    }
}

struct Work {
    store: Option<Box<dyn Store>>,
    receiver: Receiver<Message>,
    reopen: Reopen,
    notify: Notify,
    /// From a failure until it is known to whoever submits.
    deaf: bool,
    /// Times it was opened again and whoever submits has not yet said so: after two failures in a row the answer to the first is
    /// followed by batches that know nothing of the second.
    owed: u32,
    stopping: bool,
}

impl Work {
    fn run(mut self) {
        let mut untidy = true;
        while !self.stopping {
            let mut submits = Vec::new();
            let first =
                if untidy { self.receiver.recv_timeout(IDLE) } else { self.receiver.recv().map_err(Into::into) };
            match first {
                Ok(message) => self.take(message, &mut submits),
                Err(RecvTimeoutError::Timeout) => {
                    untidy = self.tidy();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.drain(&mut submits);
            if !submits.is_empty() {
                self.commit(submits);
                untidy = true;
            }
        }
    }

    fn take(&mut self, message: Message, submits: &mut Vec<Vec<Batch>>) {
        match message {
            Message::Submit(batches) if !self.deaf => submits.push(batches),
            Message::Submit(_) => {}
            Message::Resume => {
                self.owed = self.owed.saturating_sub(1);
                self.deaf = self.owed > 0 || self.store.is_none();
            }
            Message::Stop => self.stopping = true,
        }
    }

    /// Takes everything that waits.
    fn drain(&mut self, submits: &mut Vec<Vec<Batch>>) {
        while !self.stopping {
            match self.receiver.try_recv() {
                Ok(message) => self.take(message, submits),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
    }

    fn commit(&mut self, submits: Vec<Vec<Batch>>) {
        let shares: Vec<Share> = submits.iter().map(|batches| Share::of(batches)).collect();
        let batches: Vec<Batch> = submits.into_iter().flatten().collect();
        let store = self.store.as_mut().expect("reopened after every failure");
        match store.commit(&batches) {
            Ok(done) => tell(&self.notify, &shares, done),
            Err(error) => self.recover(error),
        }
    }

    fn tidy(&mut self) -> bool {
        let store = self.store.as_mut().expect("reopened after every failure");
        match store.tidy() {
            Ok(more) => more,
            Err(error) => {
                self.recover(error);
                true
            }
        }
    }

    /// Tells the failure and opens the store again, for as long as it takes.
    fn recover(&mut self, error: StoreError) {
        // A new store in the place of a deleted one would hide the loss, and who deleted it may want the folder.
        if matches!(error, StoreError::Gone(_)) {
            (self.notify)(CommitEvent::Failed(error));
            (self.store, self.deaf, self.stopping) = (None, true, true);
            return;
        }
        log::error!("{error}; opening it again");
        (self.notify)(CommitEvent::Failed(error));
        // Closed before it is opened: the file is locked.
        self.store = None;
        self.deaf = true;
        let mut pause = REOPEN_PAUSE_MIN;
        while !self.stopping {
            match (self.reopen)() {
                Ok(store) => {
                    let reader = store.reader();
                    self.store = Some(store);
                    self.owed += 1;
                    (self.notify)(CommitEvent::Reopened(reader));
                    return;
                }
                Err(error) => log::warn!("{error}; next try in {} ms", pause.as_millis()),
            }
            self.pause(pause);
            pause = (pause * 2).min(REOPEN_PAUSE_MAX);
        }
    }

    /// Waits, dropping what is submitted, until the time is over or it is to stop.
    fn pause(&mut self, pause: Duration) {
        // A message begins the wait anew, but whoever heard of the failure submits no more; the bound is for who did not.
        for _ in 0..1_000 {
            match self.receiver.recv_timeout(pause) {
                Ok(message) => self.take(message, &mut Vec::new()),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => self.stopping = true,
            }
            if self.stopping {
                return;
            }
        }
    }
}

/// What one submit contributed to a transaction.
struct Share {
    position: Option<crate::model::Position>,
    ops: u32,
}

impl Share {
    fn of(batches: &[Batch]) -> Self {
        let ops: usize = batches.iter().map(|b| b.ops.len()).sum();
        Self { position: batches.last().map(|b| b.position), ops: u32::try_from(ops).unwrap_or(u32::MAX) }
    }
}

/// Tells each submit its own share: its last position, and its conflicts counted from its own first operation. The
/// bytes written are told once.
fn tell(notify: &Notify, shares: &[Share], done: Committed) {
    let mut conflicts = done.conflicts.into_iter().peekable();
    let mut bytes_written = done.bytes_written;
    let mut start = 0;
    for share in shares {
        let end = start + share.ops;
        let mut own = Vec::new();
        while let Some(index) = conflicts.next_if(|index| *index < end) {
            own.push(index - start);
        }
        start = end;
        notify(CommitEvent::Committed(Committed {
            position: share.position.unwrap_or(done.position),
            conflicts: own,
            bytes_written: std::mem::take(&mut bytes_written),
            file_bytes: done.file_bytes,
        }));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::FaultyDisk;
    use super::super::{MemoryStore, Op, OpenOptions, Table, open_on};
    use super::*;
    use crate::model::Position;
    use bytes::Bytes;
    use std::sync::mpsc::Receiver;
    use std::sync::{Arc, Mutex};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn batch(position: u64) -> Batch {
        let key = Bytes::copy_from_slice(&position.to_be_bytes());
        Batch { position: Position(position), ops: vec![Op::Put { table: Table::Bridge, key, value: Bytes::new() }] }
    }

    /// A compare-and-put that never matches.
    fn conflict(position: u64) -> Batch {
        let mut batch = batch(position);
        let (key, value) = (Bytes::from_static(b"x"), Bytes::from_static(&[0; 8]));
        batch.ops.push(Op::CompareAndPut { table: Table::Document, key, expect: Some(9), value, then: 0 });
        batch
    }

    fn events() -> (Notify, Receiver<CommitEvent>) {
        let (sender, receiver) = channel();
        (Box::new(move |event| sender.send(event).unwrap()), receiver)
    }

    fn committed(receiver: &Receiver<CommitEvent>) -> Committed {
        match receiver.recv_timeout(PATIENCE).unwrap() {
            CommitEvent::Committed(done) => done,
            CommitEvent::Failed(e) => panic!("failed: {e}"),
            CommitEvent::Reopened(_) => panic!("reopened"),
        }
    }

    fn disk_store(disk: &FaultyDisk) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(open_on(Arc::new(disk.clone()), &OpenOptions::default())?.store))
    }

    #[test]
    fn every_submit_is_answered_in_order_with_its_own_conflicts() {
        /// Waits in its first commit until it may go on, so that everything else waits as one transaction.
        struct Gate(MemoryStore, Arc<Mutex<()>>, usize, Arc<Mutex<Vec<usize>>>);
        impl Store for Gate {
            fn commit(&mut self, batches: &[Batch]) -> Result<Committed, StoreError> {
                drop(self.1.lock().unwrap());
                self.2 += 1;
                self.3.lock().unwrap().push(batches.len());
                self.0.commit(batches)
            }
            fn reader(&self) -> Box<dyn Reader> {
                self.0.reader()
            }
            fn tidy(&mut self) -> Result<bool, StoreError> {
                Ok(false)
            }
        }
        let gate = Arc::new(Mutex::new(()));
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let (notify, receiver) = events();
        let store = Gate(MemoryStore::new(), Arc::clone(&gate), 0, Arc::clone(&sizes));
        let closed = gate.lock().unwrap();
        let committer = Committer::spawn(Box::new(store), Box::new(|| panic!("nothing failed")), notify);
        for n in 0..50u64 {
            committer.submit(vec![batch(2 * n + 1), conflict(2 * n + 2)]);
        }
        drop(closed);
        for n in 0..50 {
            let done = committed(&receiver);
            assert_eq!((done.position, &done.conflicts[..]), (Position(2 * n + 2), &[2][..]));
        }
        committer.stop();
        assert!(receiver.recv().is_err(), "nothing more");
        let sizes = sizes.lock().unwrap();
        assert_eq!(sizes.iter().sum::<usize>(), 100);
        assert!(sizes.len() < 50, "what waits goes into one transaction: {sizes:?}");
    }

    #[test]
    fn stop_commits_what_was_submitted_and_closes_the_store() {
        let disk = FaultyDisk::new();
        let (notify, receiver) = events();
        let committer = Committer::spawn(disk_store(&disk).unwrap(), Box::new(|| panic!("nothing failed")), notify);
        for n in 1..=20 {
            committer.submit(vec![batch(n)]);
        }
        committer.stop();
        assert_eq!((1..=20).map(|_| committed(&receiver).position.0).max(), Some(20));
        let opened = open_on(Arc::new(disk), &OpenOptions::default()).unwrap();
        assert_eq!((opened.store.applied(), &opened.findings[..]), (Position(20), &[][..]));
    }

    #[test]
    fn after_a_failure_everything_is_dropped_until_whoever_submits_knows() {
        let disk = FaultyDisk::new();
        let (notify, receiver) = events();
        let again = disk.clone();
        let committer = Committer::spawn(disk_store(&disk).unwrap(), Box::new(move || disk_store(&again)), notify);
        committer.submit(vec![batch(1)]);
        assert_eq!(committed(&receiver).position, Position(1));
        disk.set_space(Some(1_000));
        committer.submit(vec![batch(2)]);
        assert!(matches!(receiver.recv_timeout(PATIENCE).unwrap(), CommitEvent::Failed(StoreError::Full(_))));
        // Still full: it tries again and again, and what is submitted meanwhile is dropped.
        committer.submit(vec![batch(3)]);
        disk.set_space(None);
        let CommitEvent::Reopened(reader) = receiver.recv_timeout(PATIENCE).unwrap() else { panic!("not reopened") };
        assert!(reader.get(Table::Bridge, &1u64.to_be_bytes()).unwrap().is_some());
        // Not heard of yet by whoever submits: dropped as well.
        committer.submit(vec![batch(4)]);
        committer.resume();
        committer.submit(vec![batch(2)]);
        assert_eq!(committed(&receiver).position, Position(2));
        assert!(reader.get(Table::Bridge, &2u64.to_be_bytes()).unwrap().is_some());
        for dropped in [3u64, 4] {
            assert!(reader.get(Table::Bridge, &dropped.to_be_bytes()).unwrap().is_none());
        }
        committer.stop();
        assert!(receiver.recv().is_err(), "nothing more");
    }

    #[test]
    fn after_two_failures_in_a_row_the_answer_to_the_first_does_not_open_its_ears() {
        /// Fails to tidy once; commits in memory.
        struct Once(MemoryStore, bool);
        impl Store for Once {
            fn commit(&mut self, batches: &[Batch]) -> Result<Committed, StoreError> {
                self.0.commit(batches)
            }
            fn reader(&self) -> Box<dyn Reader> {
                self.0.reader()
            }
            fn tidy(&mut self) -> Result<bool, StoreError> {
                if self.1 { Err(StoreError::Io("tidy".to_owned())) } else { Ok(false) }
            }
        }
        let (notify, receiver) = events();
        let mut fails = [true, false].into_iter();
        let reopen = Box::new(move || {
            let store: Box<dyn Store> = Box::new(Once(MemoryStore::new(), fails.next().unwrap_or_default()));
            Ok(store)
        });
        let committer = Committer::spawn(Box::new(Once(MemoryStore::new(), true)), reopen, notify);
        let mut last = None;
        for _ in 0..2 {
            assert!(matches!(receiver.recv_timeout(PATIENCE).unwrap(), CommitEvent::Failed(StoreError::Io(_))));
            let CommitEvent::Reopened(reader) = receiver.recv_timeout(PATIENCE).unwrap() else {
                panic!("not reopened")
            };
            last = Some(reader);
        }
        // Of the second nobody has heard yet: what follows the first answer is made of what is lost.
        committer.resume();
        committer.submit(vec![batch(7)]);
        committer.resume();
        committer.submit(vec![batch(1)]);
        assert_eq!(committed(&receiver).position, Position(1));
        let reader = last.unwrap();
        assert!(reader.get(Table::Bridge, &7u64.to_be_bytes()).unwrap().is_none());
        assert!(reader.get(Table::Bridge, &1u64.to_be_bytes()).unwrap().is_some());
        committer.stop();
    }

    #[test]
    fn it_stops_even_while_the_store_cannot_be_opened() {
        let disk = FaultyDisk::new();
        let (notify, receiver) = events();
        let reopen = Box::new(|| Err(StoreError::Io("gone for good".to_owned())));
        let committer = Committer::spawn(disk_store(&disk).unwrap(), reopen, notify);
        disk.fail_writes(true);
        committer.submit(vec![batch(1)]);
        assert!(matches!(receiver.recv_timeout(PATIENCE).unwrap(), CommitEvent::Failed(StoreError::Io(_))));
        committer.stop();
    }

    #[test]
    fn it_tidies_when_idle() {
        struct Untidy(u32, Sender<u32>);
        impl Store for Untidy {
            fn commit(&mut self, _: &[Batch]) -> Result<Committed, StoreError> {
                Ok(Committed::default())
            }
            fn reader(&self) -> Box<dyn Reader> {
                MemoryStore::new().reader()
            }
            fn tidy(&mut self) -> Result<bool, StoreError> {
                self.0 -= 1;
                self.1.send(self.0).unwrap();
                Ok(self.0 > 0)
            }
        }
        let (sender, tidied) = channel();
        let (notify, _events) = events();
        let committer = Committer::spawn(Box::new(Untidy(3, sender)), Box::new(|| panic!("nothing failed")), notify);
        for left in [2, 1, 0] {
            assert_eq!(tidied.recv_timeout(PATIENCE).unwrap(), left);
        }
        committer.stop();
        assert!(tidied.recv().is_err(), "no more once it is tidy");
    }
}
