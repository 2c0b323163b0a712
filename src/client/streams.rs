//! What is known of each open stream: how its opening went, what waits in its inbox, what is to be sent for it.

use super::error::ClientError;
use super::inbox::Inbox;
use super::options::{ConsumeOptions, SubscribeOptions};
use crate::wire::{Done, Outcome};
use bytes::Bytes;
use std::collections::VecDeque;
use std::task::Waker;

pub(super) enum Stream {
    Subscription(SubscriptionState),
    Consumer(ConsumerState),
    Responder(ResponderState),
    Request(RequestState),
}

/// How opening a stream went.
#[derive(Default)]
pub(super) struct Opening {
    /// The broker's answer to the first opening.
    pub(super) answer: Option<Result<Done, ClientError>>,
    /// Whether the stream was answered once and this is a reopening.
    pub(super) again: bool,
    pub(super) waker: Option<Waker>,
}

pub(super) struct SubscriptionState {
    pub(super) filter: String,
    pub(super) options: SubscribeOptions,
    pub(super) opening: Opening,
    pub(super) inbox: Inbox,
    pub(super) last: Option<(u64, u64)>,
}

pub(super) struct ConsumerState {
    pub(super) queue: String,
    pub(super) name: String,
    pub(super) options: ConsumeOptions,
    pub(super) opening: Opening,
    pub(super) inbox: Inbox,
    pub(super) acks: Vec<(u64, u32)>,
    pub(super) taken_messages: u32,
    pub(super) taken_bytes: u32,
}

pub(super) struct ResponderState {
    pub(super) filter: String,
    pub(super) opening: Opening,
    pub(super) asked: VecDeque<AskedState>,
    pub(super) waker: Option<Waker>,
    pub(super) ended: Option<ClientError>,
}

pub(super) struct AskedState {
    pub(super) stream: u32,
    pub(super) session: u64,
    pub(super) channel: String,
    pub(super) deadline_ms: u32,
    pub(super) properties: Vec<u8>,
    pub(super) body: Bytes,
}

#[derive(Default)]
pub(super) struct RequestState {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<u8>,
    pub(super) done: Option<Result<(), ClientError>>,
    pub(super) waker: Option<Waker>,
}

/// A future's end of one publish.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) result: Option<Result<Outcome, ClientError>>,
    pub(super) waker: Option<Waker>,
}
