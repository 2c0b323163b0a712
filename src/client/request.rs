//! Questions and answers: asking a channel, answering on a filter.

use super::client::{Client, wake};
use super::error::ClientError;
use super::state::{AskedState, Opening, RequestState, ResponderState, Stream};
use crate::model::limits::{HEAD_PROPERTIES_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::model::{Channel, Filter, Properties, RecordError};
use crate::wire::{Cancel, Code};
use bytes::Bytes;
use smol::Timer;
use smol::future::FutureExt as _;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

/// Milliseconds this side waits beyond a request's deadline for the broker to say that it passed.
const GRACE_MS: u64 = 1_000;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 0 is success; else the application's own.
    pub status: u16,
    /// All parts, joined.
    pub body: Vec<u8>,
    /// Trailers of the last part, encoded as properties.
    pub trailers: Vec<u8>,
}

/// Answers requests on the channels of a filter. Dropping it ends that.
#[derive(Debug)]
pub struct Responder {
    client: Client,
    stream: u32,
}

/// A request to be answered. Dropping it unanswered tells the asker that the responder failed.
#[derive(Debug)]
pub struct Asked {
    /// The channel it was asked on.
    pub channel: String,
    /// Milliseconds the asker waits.
    pub deadline_ms: u32,
    /// Properties, encoded as in a record.
    pub properties: Vec<u8>,
    /// The question.
    pub body: Bytes,
    client: Client,
    stream: u32,
    session: u64,
    answered: bool,
}

impl Client {
    /// Asks whoever answers on a channel and waits for the whole answer, connecting included, up to `deadline_ms`.
    /// Dropping the future cancels the request. It is not asked again when the connection breaks.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `no-responder`, `deadline-exceeded` ...; [`ClientError::TimedOut`];
    /// [`ClientError::Disconnected`]; [`ClientError::TooLarge`].
    pub async fn request(&self, channel: &str, body: &[u8], deadline_ms: u32) -> Result<Response, ClientError> {
        self.request_with(channel, body, &[], deadline_ms).await
    }

    /// As [`Client::request`], with encoded properties of at most 2 KiB.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub async fn request_with(
        &self,
        channel: &str,
        body: &[u8],
        properties: &[u8],
        deadline_ms: u32,
    ) -> Result<Response, ClientError> {
        Channel::parse(channel)?;
        Properties::parse(properties)?;
        if properties.len() > HEAD_PROPERTIES_BYTES_MAX {
            return Err(RecordError::Properties.into());
        }
        if body.len() > MESSAGE_BYTES_MAX as usize {
            return Err(ClientError::TooLarge(body.len(), MESSAGE_BYTES_MAX as usize));
        }
        let late = async {
            Timer::after(Duration::from_millis(u64::from(deadline_ms) + GRACE_MS)).await;
            Err(ClientError::TimedOut)
        };
        self.ask(channel, body, properties, deadline_ms).or(late).await
    }

    async fn ask(
        &self,
        channel: &str,
        body: &[u8],
        properties: &[u8],
        deadline_ms: u32,
    ) -> Result<Response, ClientError> {
        let stream = self
            .wait_for(|state| {
                if !state.is_open() || state.closing || !state.control_has_room() {
                    return None;
                }
                let stream = state.open_stream(Stream::Request(RequestState::default()));
                state.send_request(stream, channel, deadline_ms, properties, body);
                Some(stream)
            })
            .await?;
        let pending = Pending { client: self, stream };
        let task = self.shared().lock().take_task();
        wake(task);
        let result = poll_fn(|cx| {
            let mut state = self.shared().lock();
            let Some(Stream::Request(r)) = state.streams.get_mut(&stream) else {
                return Poll::Ready(Err(ClientError::Closed));
            };
            match r.done.take() {
                Some(Ok(())) => Poll::Ready(Ok(Response {
                    status: r.status,
                    body: std::mem::take(&mut r.body),
                    trailers: std::mem::take(&mut r.trailers),
                })),
                Some(Err(e)) => Poll::Ready(Err(e)),
                None => {
                    r.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        pending.settle();
        result
    }

    /// Answers requests on the channels of a filter; waits for the broker's answer to that.
    ///
    /// # Errors
    /// [`ClientError::Filter`]; [`ClientError::Refused`]; why the client has ended.
    pub async fn respond(&self, filter: &str) -> Result<Responder, ClientError> {
        Filter::parse(filter)?;
        let state = ResponderState {
            filter: filter.into(),
            opening: Opening::default(),
            asked: VecDeque::new(),
            waker: None,
            ended: None,
        };
        let stream = self.open(Stream::Responder(state)).await?;
        let responder = Responder { client: self.clone(), stream };
        self.answer(stream).await?;
        Ok(responder)
    }
}

/// Cancels a request whose future is dropped before the answer.
struct Pending<'c> {
    client: &'c Client,
    stream: u32,
}

impl Pending<'_> {
    fn settle(self) {
        self.client.shared().lock().streams.remove(&self.stream);
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let task = {
            let mut state = self.client.shared().lock();
            if state.streams.remove(&self.stream).is_none() {
                return;
            }
            state.send(self.stream, &Cancel { code: Code::Cancelled as u16 }, &[]);
            state.take_task()
        };
        wake(task);
    }
}

impl Responder {
    /// The next request.
    ///
    /// # Errors
    /// Why nothing comes any more.
    pub async fn next(&mut self) -> Result<Asked, ClientError> {
        let asked = poll_fn(|cx| {
            let mut state = self.client.shared().lock();
            let Some(Stream::Responder(r)) = state.streams.get_mut(&self.stream) else {
                return Poll::Ready(Err(ClientError::Closed));
            };
            match (r.asked.pop_front(), &r.ended) {
                (Some(asked), _) => Poll::Ready(Ok(asked)),
                (None, Some(e)) => Poll::Ready(Err(e.clone())),
                (None, None) => {
                    r.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await?;
        let AskedState { stream, session, channel, deadline_ms, properties, body } = asked;
        let client = self.client.clone();
        Ok(Asked { channel, deadline_ms, properties, body, client, stream, session, answered: false })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.client.leave(self.stream);
    }
}

impl Asked {
    /// Sends one part of the answer; `last` with the final one. Waits while too much is queued. An asker that has gone
    /// meanwhile is no error.
    ///
    /// # Errors
    /// [`ClientError::TooLarge`]; why the client has ended.
    pub async fn respond(&mut self, status: u16, body: &[u8], last: bool) -> Result<(), ClientError> {
        if body.len() > MESSAGE_BYTES_MAX as usize {
            return Err(ClientError::TooLarge(body.len(), MESSAGE_BYTES_MAX as usize));
        }
        self.client.wait_for(|state| state.control_has_room().then_some(())).await?;
        let task = {
            let mut state = self.client.shared().lock();
            if state.session == self.session && !self.answered {
                state.send_response(self.stream, status, last, body);
            }
            state.take_task()
        };
        self.answered |= last;
        wake(task);
        Ok(())
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let task = {
            let mut state = self.client.shared().lock();
            if state.session == self.session {
                state.send(self.stream, &Cancel { code: Code::ResponderFailed as u16 }, &[]);
            }
            state.take_task()
        };
        wake(task);
    }
}
