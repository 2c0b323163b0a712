//! The client a program holds: connects, publishes, opens everything else.

use super::address::Address;
use super::clock::{now_ms, unix_ms};
use super::error::ClientError;
use super::link::Terms;
use super::message::{Id, Message};
use super::options::Options;
use super::pipeline::Settled;
use super::state::{Shared, Slot, State, Stats};
use super::task;
use crate::model::MessageId;
use crate::model::limits::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX};
use crate::wire::Outcome;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Told what became of messages, in ranges of tickets, on the client's own task: it must not block. It may not call the
/// client it belongs to.
pub type OnSettled = Box<dyn Fn(&Settled) + Send + Sync>;

/// A connection to a broker that comes back by itself. Clones share it; it ends when the last clone, subscription,
/// consumer and responder of it is gone, or by [`Client::close`].
///
/// One client is one publisher: its messages are stored in the order they were queued.
#[derive(Clone)]
pub struct Client {
    pub(super) handle: Arc<Handle>,
}

/// Ends the task when the last holder is gone.
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let task = {
            let mut state = self.shared.lock();
            state.closing = true;
            state.take_task()
        };
        wake(task);
    }
}

pub(super) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects and waits for the broker's welcome. The task runs on smol's global executor.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when the broker cannot be reached within the options' patience; [`ClientError::Refused`].
    pub async fn connect(address: Address, options: Options) -> Result<Self, ClientError> {
        Self::connect_with(address, options, None).await
    }

    /// As [`Client::connect`]; `on_settled` hears what becomes of every message.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(
        address: Address,
        options: Options,
        on_settled: Option<OnSettled>,
    ) -> Result<Self, ClientError> {
        let (client, task) = Self::prepare(address, options, on_settled);
        #[expect(clippy::disallowed_methods, reason = "for programs without an executor; the others use `prepare`")]
        smol::spawn(task).detach();
        client.opened().await?;
        Ok(client)
    }

    /// A client and its task, for a caller with an executor of its own. Nothing happens before the task runs.
    pub fn prepare(
        address: Address,
        mut options: Options,
        on_settled: Option<OnSettled>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let mut end = options.name.len().min(NAME_BYTES_MAX);
        while !options.name.is_char_boundary(end) {
            end -= 1;
        }
        options.name.truncate(end);
        let shared = Arc::new(Shared::new(options.clone(), on_settled));
        let task = task::run(shared.clone(), address, options);
        (Self { handle: Arc::new(Handle { shared }) }, task)
    }

    /// Waits until a session is open.
    ///
    /// # Errors
    /// Why the client has ended.
    pub async fn opened(&self) -> Result<Terms, ClientError> {
        self.wait_for(|state| state.is_open().then(|| state.terms.expect("an open session has terms"))).await
    }

    /// Waits while a session is open, and returns once there is none: the client tries to open another. The opposite of
    /// [`Client::opened`].
    ///
    /// # Errors
    /// Why the client has ended.
    pub async fn lost(&self) -> Result<(), ClientError> {
        self.wait_for(|state| (!state.is_open() && !state.closing).then_some(())).await
    }

    /// Queues a message, waiting while the window is full, and returns its ticket. What becomes of it shows in
    /// [`Client::stats`], the `on_settled` callback and [`Client::flush`].
    ///
    /// # Errors
    /// [`ClientError::TooLarge`]; why the client has ended.
    pub async fn send(&self, message: &Message<'_>) -> Result<u64, ClientError> {
        loop {
            if let Some(ticket) = self.try_send(message)? {
                return Ok(ticket);
            }
            let bytes = message.record_bytes_max();
            self.wait_for(|state| state.pipeline.has_room(bytes).then_some(())).await?;
        }
    }

    /// Queues a message if the window has room; `None` when it has not.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn try_send(&self, message: &Message<'_>) -> Result<Option<u64>, ClientError> {
        self.push(message, None)
    }

    /// Publishes and waits for the broker's answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::TimedOut`] as the retry policy says; as [`Client::send`].
    pub async fn publish(&self, message: &Message<'_>) -> Result<Outcome, ClientError> {
        self.publish_nowait(message).await?.await
    }

    /// Queues a message, waiting while the window is full; the receipt gives the broker's answer.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn publish_nowait(&self, message: &Message<'_>) -> Result<Receipt, ClientError> {
        let slot = Arc::new(Mutex::new(Slot::default()));
        while self.push(message, Some(&slot))?.is_none() {
            let bytes = message.record_bytes_max();
            self.wait_for(|state| state.pipeline.has_room(bytes).then_some(())).await?;
        }
        Ok(Receipt { slot })
    }

    /// Waits until everything queued so far is settled, and returns the totals.
    ///
    /// # Errors
    /// Why the client has ended; messages that failed are counted, not an error.
    pub async fn flush(&self) -> Result<Stats, ClientError> {
        let target = self.shared().lock().pipeline.next_ticket();
        self.wait_for(|state| (state.pipeline.settled_below() >= target).then_some(state.stats)).await
    }

    /// Totals since the client was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared().lock().stats
    }

    /// A new message id, above all that this client gave before.
    #[must_use]
    pub fn new_id(&self) -> MessageId {
        self.shared().lock().ids.next(unix_ms())
    }

    /// Milliseconds since the session was opened; `None` while there is none.
    #[must_use]
    pub fn connected_for_ms(&self) -> Option<u64> {
        let state = self.shared().lock();
        state.is_open().then(|| now_ms().saturating_sub(state.opened_ms))
    }

    /// Sends what is queued of acks, nacks and answers, says goodbye and waits for the connection to end. Publishes
    /// that are not settled fail: [`Client::flush`] first.
    pub async fn close(&self) {
        let task = {
            let mut state = self.shared().lock();
            state.closing = true;
            state.take_task()
        };
        wake(task);
        poll_fn(|cx| {
            let mut state = self.shared().lock();
            if matches!(state.phase, super::state::Phase::Ended(_)) {
                return Poll::Ready(());
            }
            state.wait(cx.waker());
            Poll::Pending
        })
        .await;
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Waits until `ready` gives something or the client ends.
    pub(super) async fn wait_for<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T, ClientError> {
        poll_fn(|cx| {
            let mut state = self.shared().lock();
            if let Some(value) = ready(&mut state) {
                return Poll::Ready(Ok(value));
            }
            if let Some(error) = state.ended() {
                return Poll::Ready(Err(error));
            }
            state.wait(cx.waker());
            Poll::Pending
        })
        .await
    }

    fn push(&self, message: &Message<'_>, slot: Option<&Arc<Mutex<Slot>>>) -> Result<Option<u64>, ClientError> {
        let bytes = message.record_bytes_max();
        if message.payload.len() > MESSAGE_BYTES_MAX as usize {
            return Err(ClientError::TooLarge(message.payload.len(), MESSAGE_BYTES_MAX as usize));
        }
        let (unix_ms, now_ms) = (unix_ms(), now_ms());
        let open = |state: &State| match state.ended() {
            Some(error) => Err(error),
            None => Ok(state.pipeline.has_room(bytes)),
        };
        let mut state = self.shared().lock();
        if !open(&state)? {
            return Ok(None);
        }
        let id = match message.id {
            Id::Auto => state.ids.next(unix_ms),
            Id::None => MessageId::NONE,
            Id::Given(id) => id,
        };
        let ticket = if message.is_plain() {
            state.pipeline.push(now_ms, message.contract, &message.record(id, unix_ms))
        } else {
            let lz4 = state.takes_lz4();
            // The work is done without the lock; what may have changed meanwhile is looked at again.
            drop(state);
            let finished = message.finish(id, unix_ms, lz4)?;
            state = self.shared().lock();
            if !open(&state)? {
                return Ok(None);
            }
            if lz4 && !state.takes_lz4() {
                drop(state);
                return self.push(message, slot);
            }
            state.pipeline.push(now_ms, message.contract, &finished.record())
        };
        if let Some(slot) = slot {
            state.receipts.push_back((ticket, slot.clone()));
        }
        let task = state.take_task();
        drop(state);
        wake(task);
        Ok(Some(ticket))
    }
}

/// The broker's answer to one publish, to be awaited.
#[derive(Debug)]
pub struct Receipt {
    slot: Arc<Mutex<Slot>>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.result.fmt(f)
    }
}

impl Future for Receipt {
    type Output = Result<Outcome, ClientError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = &slot.result {
            return Poll::Ready(result.clone());
        }
        slot.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
