//! What a caller may choose, each with its unit and default.

use super::credentials::Credentials;
use super::link::Terms;
use crate::model::limits::{FRAME_PAYLOAD_BYTES_DEFAULT, MESSAGE_BYTES_MAX};
use crate::tls::Trust;
use crate::wire::{Since, Start};

/// What happens to a publish that is refused for now (queue full, storage full ...) or meets a broken connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retry {
    /// It is tried again until it is taken, in order.
    #[default]
    Forever,
    /// It fails so many milliseconds after it was queued.
    For(u64),
    /// The first refusal is an error. A broken connection still republishes.
    Never,
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name in the broker's logs and status, at most 128 bytes.
    pub name: String,
    /// Heartbeat wished for, in milliseconds; 0 leaves it to the broker.
    pub heartbeat_ms: u32,
    /// Longest one attempt to connect may take, handshake included, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long the first connect is tried again, in milliseconds; 0 fails at the first attempt.
    pub connect_patience_ms: u64,
    /// Whether a broken connection is made again.
    pub reconnect: bool,
    /// First delay before a reconnect, in milliseconds; doubles each time, with jitter.
    pub backoff_ms: u32,
    /// Longest delay before a reconnect, in milliseconds.
    pub backoff_ms_max: u32,
    /// Messages queued and not yet settled; publishing beyond it waits.
    pub window_messages: usize,
    /// Bytes of them; publishing beyond it waits. One message may always be queued.
    pub window_bytes: usize,
    /// What happens to a refused publish.
    pub retry: Retry,
    /// Largest frame payload taken from the broker, in bytes; at least 16 KiB.
    pub frame_bytes_max: u32,
    /// Largest message taken from the broker, in bytes.
    pub message_bytes_max: u32,
    /// Largest whole answer to a request, in bytes.
    pub response_bytes_max: usize,
    /// What to show to be let in; nothing leaves it to the transport.
    pub credentials: Option<Credentials>,
    /// Whom to trust over TLS, and what to show there.
    pub tls: Trust,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: String::new(),
            heartbeat_ms: 0,
            connect_timeout_ms: 5_000,
            connect_patience_ms: 0,
            reconnect: true,
            backoff_ms: 50,
            backoff_ms_max: 60_000,
            window_messages: 8_192,
            window_bytes: 8 * 1_024 * 1_024,
            retry: Retry::Forever,
            frame_bytes_max: FRAME_PAYLOAD_BYTES_DEFAULT,
            message_bytes_max: MESSAGE_BYTES_MAX,
            response_bytes_max: MESSAGE_BYTES_MAX as usize,
            credentials: None,
            tls: Trust::default(),
        }
    }
}

/// What a subscription's full inbox does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// New messages are dropped and counted, so that this connection's acknowledgements go on.
    #[default]
    Drop,
    /// The connection is not read until there is room: the broker then decides. Publishes of the same client wait, too.
    Block,
}

/// How a subscription behaves.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// Send the retained values that match first.
    pub retained: bool,
    /// Send history first; the filter must then be a plain channel.
    pub since: Since,
    /// Whether the broker disconnects a reader that is too slow, instead of dropping.
    pub disconnect_when_slow: bool,
    /// Bytes that may wait here to be taken.
    pub inbox_bytes_max: usize,
    /// What happens when they do.
    pub when_full: WhenFull,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self {
            retained: false,
            since: Since::Now,
            disconnect_when_slow: false,
            inbox_bytes_max: 8 * 1_024 * 1_024,
            when_full: WhenFull::Drop,
        }
    }
}

/// How a consumer behaves. The fields that name a consumer's rules hold for all sessions that share its name.
#[derive(Clone, Debug)]
pub struct ConsumeOptions {
    /// What to take of the queue; empty is everything.
    pub filters: Vec<String>,
    /// Where a new consumer begins.
    pub start: Start,
    /// Deliveries not yet acknowledged over all sessions; 0 leaves it to the broker.
    pub window: u32,
    /// Attempts before a message becomes a dead letter; 0 leaves it to the broker.
    pub attempts_max: u32,
    /// Milliseconds without an answer after which a delivery is made again; 0 is never while the session lives.
    pub ack_timeout_ms: u32,
    /// First delay after a nack without one, in milliseconds; 0 leaves it to the broker.
    pub backoff_ms: u32,
    /// Messages that may wait here to be taken; renewed as they are.
    pub credit_messages: u32,
    /// Bytes of records that may wait here to be taken.
    pub credit_bytes: u32,
}

impl Default for ConsumeOptions {
    fn default() -> Self {
        Self {
            filters: Vec::new(),
            start: Start::First,
            window: 0,
            attempts_max: 0,
            ack_timeout_ms: 0,
            backoff_ms: 0,
            credit_messages: 1_024,
            credit_bytes: 4 * 1_024 * 1_024,
        }
    }
}

/// The broker's terms where none are known yet.
pub(super) const NO_TERMS: Terms = Terms {
    session: 0,
    heartbeat_ms: 0,
    frame_bytes_max: 0,
    message_bytes_max: 0,
    window_messages: 0,
    window_bytes: 0,
    time_ms: 0,
    lz4: false,
};
