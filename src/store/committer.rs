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
    /// submitted before [`Committer::resume`].
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
    #[must_use]
    pub fn spawn(store: Box<dyn Store>, reopen: Reopen, notify: Notify) -> Self {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("committer".to_owned())
            .spawn(move || Work { store: Some(store), receiver, reopen, notify, deaf: false, stopping: false }.run())
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
            Message::Resume => self.deaf = self.store.is_none(),
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
