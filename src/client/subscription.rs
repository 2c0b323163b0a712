//! Live fan-out to this client, and durable consumers: streams of what the broker delivers.

use super::client::{Client, wake};
use super::error::ClientError;
use super::inbox::{Inbox, Next, Taken};
use super::message::Incoming;
use super::options::{ConsumeOptions, SubscribeOptions};
use super::state::{ConsumerState, Opening, State, Stream, SubscriptionState};
use crate::model::Filter;
use crate::model::limits::DETAIL_BYTES_MAX;
use crate::wire::{Done, Nack, Unsubscribe};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Deliveries [`Consumer::next_batch`] gives at once.
const BATCH_MAX: usize = 1_024;
/// Bytes of records, expanded where they came compressed, after which no more are given at once.
const BATCH_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// What a subscription hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Incoming),
    /// So many messages were lost because this side did not take them in time.
    Dropped(u64),
    /// The connection broke and is back; `complete` when nothing is missing.
    Reconnected {
        /// Whether history closed the gap.
        complete: bool,
    },
}

/// Live fan-out of a filter to this client. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    client: Client,
    stream: u32,
}

/// A durable consumer's session. Dropping it leaves unacknowledged deliveries to be made again.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    stream: u32,
}

/// A message for a consumer, to be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub message: Incoming,
    /// The broker's number of this delivery, consecutive on the consumer's session.
    pub tag: u64,
    session: u64,
}

impl Client {
    /// Opens live fan-out and waits for the broker's answer.
    ///
    /// # Errors
    /// [`ClientError::Filter`]; [`ClientError::Refused`]; why the client has ended.
    pub async fn subscribe(&self, filter: &str, options: SubscribeOptions) -> Result<Subscription, ClientError> {
        Filter::parse(filter)?;
        let state = SubscriptionState {
            filter: filter.into(),
            options,
            opening: Opening::default(),
            inbox: Inbox::new(self.shared().lock().options.message_bytes_max),
            last: None,
        };
        let stream = self.open(Stream::Subscription(state)).await?;
        let subscription = Subscription { client: self.clone(), stream };
        self.answer(stream).await?;
        Ok(subscription)
    }

    /// Joins the durable consumer `name` of a queue and waits for the broker's answer.
    ///
    /// # Errors
    /// [`ClientError::Filter`]; [`ClientError::Refused`]; why the client has ended.
    pub async fn consume(&self, queue: &str, name: &str, options: ConsumeOptions) -> Result<Consumer, ClientError> {
        for filter in &options.filters {
            Filter::parse(filter)?;
        }
        let state = ConsumerState {
            queue: queue.into(),
            name: name.into(),
            options,
            opening: Opening::default(),
            inbox: Inbox::new(self.shared().lock().options.message_bytes_max),
            acks: Vec::new(),
            taken_messages: 0,
            taken_bytes: 0,
        };
        let stream = self.open(Stream::Consumer(state)).await?;
        let consumer = Consumer { client: self.clone(), stream };
        self.answer(stream).await?;
        Ok(consumer)
    }

    /// Adds a stream once there is room for its opening frame.
    pub(super) async fn open(&self, stream: Stream) -> Result<u32, ClientError> {
        let mut stream = Some(stream);
        let id = self
            .wait_for(|state| {
                if state.ended().is_some() || !state.control_has_room() {
                    return None;
                }
                stream.take().map(|s| state.open_stream(s))
            })
            .await?;
        let task = self.shared().lock().take_task();
        wake(task);
        Ok(id)
    }

    /// Waits for the broker's answer to the opening of a stream.
    pub(super) async fn answer(&self, stream: u32) -> Result<Done, ClientError> {
        poll_fn(|cx| {
            let mut state = self.shared().lock();
            let opening = match state.streams.get_mut(&stream) {
                Some(Stream::Subscription(s)) => &mut s.opening,
                Some(Stream::Consumer(c)) => &mut c.opening,
                Some(Stream::Responder(r)) => &mut r.opening,
                Some(Stream::Request(_)) | None => return Poll::Ready(Err(ClientError::Closed)),
            };
            if let Some(answer) = &opening.answer {
                return Poll::Ready(answer.clone());
            }
            opening.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Ends a stream: what comes on it from here on is ignored.
    pub(super) fn leave(&self, stream: u32) {
        let task = {
            let mut state = self.shared().lock();
            if state.streams.remove(&stream).is_some() {
                state.send(stream, &Unsubscribe {}, &[]);
            }
            state.take_task()
        };
        wake(task);
    }
}

impl Subscription {
    /// The next thing heard.
    ///
    /// # Errors
    /// Why nothing comes any more.
    pub async fn next(&mut self) -> Result<Heard, ClientError> {
        poll_fn(|cx| self.poll_heard(cx)).await
    }

    fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Result<Heard, ClientError>> {
        let mut task = None;
        let polled = {
            let mut state = self.client.shared().lock();
            let was_blocked = state.reading_blocked();
            let Some(Stream::Subscription(s)) = state.streams.get_mut(&self.stream) else {
                return Poll::Ready(Err(ClientError::Closed));
            };
            let next = s.inbox.take();
            if next.is_none() {
                s.inbox.waker = Some(cx.waker().clone());
            }
            if was_blocked && !state.reading_blocked() {
                task = state.take_task();
            }
            next
        };
        wake(task);
        match polled {
            None => Poll::Pending,
            Some(next) => Poll::Ready(next.map(|next| match next {
                Next::Item(taken) => Heard::Message(taken.message),
                Next::Dropped(count) => Heard::Dropped(count),
                Next::Reconnected(complete) => Heard::Reconnected { complete },
            })),
        }
    }
}

impl smol::stream::Stream for Subscription {
    type Item = Result<Heard, ClientError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_heard(cx).map(Some)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.client.leave(self.stream);
    }
}

impl Consumer {
    /// The next delivery.
    ///
    /// # Errors
    /// Why nothing comes any more.
    pub async fn next(&mut self) -> Result<Delivery, ClientError> {
        let mut one = Vec::with_capacity(1);
        self.take(&mut one, 1).await?;
        one.pop().ok_or(ClientError::Closed)
    }

    /// All deliveries that are here, at least one and at most 1,024.
    ///
    /// # Errors
    /// Why nothing comes any more.
    pub async fn next_batch(&mut self) -> Result<Vec<Delivery>, ClientError> {
        let mut batch = Vec::new();
        self.take(&mut batch, BATCH_MAX).await?;
        Ok(batch)
    }

    async fn take(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<(), ClientError> {
        poll_fn(|cx| {
            let mut task = None;
            let result = {
                let mut state = self.client.shared().lock();
                let polled = take_deliveries(&mut state, self.stream, into, max, cx);
                if polled.1 {
                    task = state.take_task();
                }
                polled.0
            };
            wake(task);
            result
        })
        .await
    }

    /// This delivery is done. Of an earlier session it has no effect: the message comes again.
    pub fn ack(&self, delivery: &Delivery) {
        self.ack_all(std::slice::from_ref(delivery));
    }

    /// These deliveries are done.
    pub fn ack_all(&self, deliveries: &[Delivery]) {
        let task = {
            let mut state = self.client.shared().lock();
            if !state.is_open() {
                return;
            }
            let session = state.session;
            let Some(Stream::Consumer(c)) = state.streams.get_mut(&self.stream) else { return };
            for delivery in deliveries.iter().filter(|d| d.session == session) {
                match c.acks.last_mut() {
                    Some((first, count)) if *first + u64::from(*count) == delivery.tag && *count < u32::MAX => {
                        *count += 1;
                    }
                    _ => c.acks.push((delivery.tag, 1)),
                }
            }
            if c.acks.is_empty() {
                return;
            }
            state.mark_dirty(self.stream);
            state.take_task()
        };
        wake(task);
    }

    /// This delivery failed: it is tried again after `delay_ms` (0 leaves it to the backoff), or becomes a dead letter
    /// at once with `give_up`.
    pub fn nack(&self, delivery: &Delivery, delay_ms: u32, give_up: bool, reason: &str) {
        let mut end = reason.len().min(DETAIL_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let head = Nack { first: delivery.tag, count: 1, delay_ms, give_up, reason: &reason[..end] };
        let task = {
            let mut state = self.client.shared().lock();
            if delivery.session != state.session {
                return;
            }
            state.send(self.stream, &head, &[]);
            state.take_task()
        };
        wake(task);
    }
}

/// Takes what is there; tells also whether the task should send credit.
fn take_deliveries(
    state: &mut State,
    stream: u32,
    into: &mut Vec<Delivery>,
    max: usize,
    cx: &mut Context<'_>,
) -> (Poll<Result<(), ClientError>>, bool) {
    let Some(Stream::Consumer(c)) = state.streams.get_mut(&stream) else {
        return (Poll::Ready(Err(ClientError::Closed)), false);
    };
    let mut bytes = 0;
    while into.len() < max && bytes < BATCH_BYTES_MAX {
        match c.inbox.take() {
            Some(Ok(Next::Item(Taken { session, tag, record_bytes, message }))) => {
                c.taken_messages += 1;
                c.taken_bytes = c.taken_bytes.saturating_add(record_bytes);
                bytes += message.record_bytes();
                into.push(Delivery { message, tag, session });
            }
            // A consumer is told by redelivery, not by events.
            Some(Ok(Next::Dropped(_) | Next::Reconnected(_))) => {}
            // What was taken before an error is given first; the error stays.
            Some(Err(_)) if !into.is_empty() => break,
            Some(Err(e)) => return (Poll::Ready(Err(e)), false),
            None => break,
        }
    }
    // Credit is renewed by halves: a frame for each message would cost more than it brings.
    let renew = c.taken_messages >= (c.options.credit_messages / 2).max(1)
        || c.taken_bytes >= (c.options.credit_bytes / 2).max(1);
    if into.is_empty() {
        c.inbox.waker = Some(cx.waker().clone());
    }
    if renew {
        state.mark_dirty(stream);
    }
    (if into.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }, renew)
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let shared = self.client.shared();
        // Acks given before the end are not lost with it; more deliveries are of no use.
        let mut state = shared.lock();
        if let Some(Stream::Consumer(c)) = state.streams.get_mut(&self.stream) {
            (c.taken_messages, c.taken_bytes) = (0, 0);
        }
        state.flush_consumer(self.stream);
        drop(state);
        self.client.leave(self.stream);
    }
}
