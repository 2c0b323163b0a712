//! One client's life: handshake, heartbeats, publish order, acknowledgements and what waits to be sent; pure.

mod outbox;
mod principal;
mod publisher;

pub use outbox::Outbox;
pub use principal::{
    AUTH_CONTEXT, Attempt, Certificate, Denied, Method, NONCE_BYTES, Peer, Principal, REAUTH_CONTEXT, Via, network,
};
pub use publisher::{Expect, Patience, Publisher, Run, RunKind};

use crate::model::{ConnId, Mono};
use std::collections::BTreeMap;

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connected, no hello yet; closed at this time.
    Greeting(Mono),
    /// Asked for credentials; closed at this time.
    Challenged(Mono),
    /// Its credentials are being checked; closed at this time.
    Checking(Mono),
    /// Open.
    Open,
    /// Closed once its last bytes are sent, at the latest at this time.
    Closing(Mono),
}

/// Why a session's timer rang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// The handshake took too long.
    Handshake,
    /// Nothing was heard for three heartbeats.
    Silence,
    /// A frame stopped in its middle.
    Frame,
    /// The last bytes could not be sent in time.
    Linger,
}

/// Bytes a second a frame must at least make to be waited for.
const FRAME_RATE_MIN: u64 = 1_024;
/// Milliseconds a closing session may take to send its last bytes.
pub const CLOSE_LINGER_MS: u64 = 2_000;
/// Heartbeats a client may ask for, in milliseconds.
pub const HEARTBEAT_MS: std::ops::RangeInclusive<u32> = 100..=3_600_000;

/// One connection, as far as no dialect is concerned. `S` is what the broker keeps for each of its streams.
#[derive(Debug)]
pub struct Session<S> {
    /// Its connection.
    pub conn: ConnId,
    /// Who it belongs to, once that is known.
    pub principal: Principal,
    /// How far it has come.
    pub phase: Phase,
    /// The client's name, once it said hello.
    pub client: Box<str>,
    /// What waits to be sent.
    pub outbox: Outbox,
    /// Its publish streams.
    pub publishers: BTreeMap<u32, Publisher>,
    /// Its other streams.
    pub streams: BTreeMap<u32, S>,
    /// Publishes not yet acknowledged, in messages.
    pub unacked_messages: u32,
    /// Publishes not yet acknowledged, in bytes.
    pub unacked_bytes: u64,
    /// Heartbeat in force, in milliseconds.
    pub heartbeat_ms: u32,
    /// Largest frame payload the peer takes, in bytes.
    pub peer_frame_bytes_max: u32,
    /// Largest message the peer takes, in bytes.
    pub peer_message_bytes_max: u32,
    /// Whether the peer takes payloads that are compressed with LZ4.
    pub peer_takes_lz4: bool,
    /// Bytes of a frame that is not complete.
    pub partial: Vec<u8>,
    /// Whether the edge is told not to read.
    pub held: bool,
    received: Mono,
    sent: Mono,
    frame_began: Option<Mono>,
}

impl Phase {
    /// When the handshake must be over, while it is not.
    #[must_use]
    pub const fn handshake_by(self) -> Option<Mono> {
        match self {
            Self::Greeting(at) | Self::Challenged(at) | Self::Checking(at) => Some(at),
            Self::Open | Self::Closing(_) => None,
        }
    }
}

impl<S> Session<S> {
    /// A session that has `handshake_ms` to say hello.
    #[must_use]
    pub fn new(conn: ConnId, now: Mono, handshake_ms: u32, frame_bytes_max: u32) -> Self {
        Self {
            conn,
            principal: Principal::default(),
            phase: Phase::Greeting(now.plus_ms(u64::from(handshake_ms))),
            client: "".into(),
            outbox: Outbox::default(),
            publishers: BTreeMap::new(),
            streams: BTreeMap::new(),
            unacked_messages: 0,
            unacked_bytes: 0,
            heartbeat_ms: 0,
            peer_frame_bytes_max: frame_bytes_max,
            peer_message_bytes_max: frame_bytes_max,
            peer_takes_lz4: false,
            partial: Vec::new(),
            held: false,
            received: now,
            sent: now,
            frame_began: None,
        }
    }

    /// Whether it takes requests.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Bytes arrived: the peer lives.
    pub fn handle_received(&mut self, now: Mono) {
        self.received = now;
    }

    /// A frame began or went on (`incomplete`), or all bytes so far were whole frames.
    pub fn handle_frame_state(&mut self, now: Mono, incomplete: bool, progressed: bool) {
        if !incomplete {
            self.frame_began = None;
        } else if progressed || self.frame_began.is_none() {
            self.frame_began = Some(now);
        }
    }

    /// Bytes were given to the transport.
    pub fn handle_sent(&mut self, now: Mono) {
        self.sent = now;
    }

    /// The session is read from again after a pause of ours: the silence was not the peer's.
    pub fn handle_released(&mut self, now: Mono) {
        self.received = now;
        self.frame_began = self.frame_began.map(|_| now);
    }

    /// Begins the end: what is in the outbox is still sent.
    pub fn close(&mut self, now: Mono) {
        if !matches!(self.phase, Phase::Closing(_)) {
            self.phase = Phase::Closing(now.plus_ms(CLOSE_LINGER_MS));
            // Nothing more is read: a frame that was late before is not late again.
            self.frame_began = None;
        }
    }

    /// What is overdue, if anything, and whether a ping should be sent. `frame_timeout_ms` bounds a stopped frame.
    #[must_use]
    pub fn overdue(&self, now: Mono, frame_timeout_ms: u32) -> Option<Overdue> {
        match self.phase {
            Phase::Greeting(at) | Phase::Challenged(at) | Phase::Checking(at) if now >= at => {
                return Some(Overdue::Handshake);
            }
            Phase::Closing(at) if now >= at => return Some(Overdue::Linger),
            Phase::Open if !self.held && now >= self.silence_at() => return Some(Overdue::Silence),
            _ => {}
        }
        (!self.held && self.frame_at(frame_timeout_ms).is_some_and(|at| now >= at)).then_some(Overdue::Frame)
    }

    /// Whether it is time to send a ping.
    #[must_use]
    pub fn ping_due(&self, now: Mono) -> bool {
        self.is_open() && now >= self.ping_at()
    }

    /// When to look again.
    #[must_use]
    pub fn poll_timeout(&self, frame_timeout_ms: u32) -> Mono {
        let at = match self.phase {
            Phase::Greeting(at) | Phase::Challenged(at) | Phase::Checking(at) | Phase::Closing(at) => at,
            Phase::Open if self.held => self.ping_at(),
            Phase::Open => self.silence_at().min(self.ping_at()),
        };
        match self.frame_at(frame_timeout_ms) {
            Some(frame) if !self.held => at.min(frame),
            _ => at,
        }
    }

    fn silence_at(&self) -> Mono {
        self.received.plus_ms(3 * u64::from(self.heartbeat_ms))
    }

    fn ping_at(&self) -> Mono {
        self.sent.plus_ms(u64::from(self.heartbeat_ms))
    }

    fn frame_at(&self, frame_timeout_ms: u32) -> Option<Mono> {
        // A slow link gets the time its frame needs at the lowest rate worth waiting for.
        let need = crate::wire::frame_len(&self.partial).unwrap_or(0) as u64;
        Some(self.frame_began?.plus_ms(u64::from(frame_timeout_ms) + need * 1_000 / FRAME_RATE_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(heartbeat_ms: u32) -> Session<()> {
        let mut s = Session::new(ConnId(1), Mono(0), 5_000, 1_024);
        s.phase = Phase::Open;
        s.heartbeat_ms = heartbeat_ms;
        s
    }

    #[test]
    fn silence_for_three_heartbeats_is_the_end_and_any_byte_is_life() {
        let mut s = open(1_000);
        assert_eq!(s.overdue(Mono(2_999_999), 10_000), None);
        assert_eq!(s.overdue(Mono(3_000_000), 10_000), Some(Overdue::Silence));
        s.handle_received(Mono(2_000_000));
        assert_eq!(s.overdue(Mono(4_999_999), 10_000), None);
        assert_eq!(s.overdue(Mono(5_000_000), 10_000), Some(Overdue::Silence));
    }

    #[test]
    fn a_session_we_do_not_read_from_is_not_called_silent() {
        let mut s = open(1_000);
        s.held = true;
        assert_eq!(s.overdue(Mono(60_000_000), 10_000), None);
        s.held = false;
        s.handle_released(Mono(60_000_000));
        assert_eq!(s.overdue(Mono(60_000_000), 10_000), None);
    }

    #[test]
    fn a_frame_that_stops_times_out_though_single_bytes_trickle() {
        let mut s = open(60_000);
        s.partial = vec![0; 5];
        s.handle_frame_state(Mono(0), true, false);
        for second in 1..10 {
            s.handle_received(Mono(second * 1_000_000));
            s.handle_frame_state(Mono(second * 1_000_000), true, false);
            assert_eq!(s.overdue(Mono(second * 1_000_000), 10_000), None);
        }
        assert_eq!(s.overdue(Mono(10_000_000), 10_000), Some(Overdue::Frame));
        assert_eq!(s.poll_timeout(10_000), Mono(10_000_000));
    }

    #[test]
    fn a_closing_session_waits_for_its_linger_alone() {
        let mut s = open(1_000);
        s.partial = vec![0; 5];
        s.handle_frame_state(Mono(0), true, false);
        assert_eq!(s.overdue(Mono(10_000_000), 10_000), Some(Overdue::Silence));
        s.close(Mono(10_000_000));
        let end = Mono(10_000_000).plus_ms(CLOSE_LINGER_MS);
        assert_eq!((s.overdue(Mono(10_000_000), 10_000), s.poll_timeout(10_000)), (None, end));
        assert_eq!(s.overdue(end, 10_000), Some(Overdue::Linger));
    }

    #[test]
    fn a_handshake_has_its_time_and_a_ping_follows_silence_of_ours() {
        let mut s: Session<()> = Session::new(ConnId(1), Mono(0), 5_000, 1_024);
        assert_eq!(s.overdue(Mono(5_000_000), 10_000), Some(Overdue::Handshake));
        s.phase = Phase::Open;
        s.heartbeat_ms = 1_000;
        assert!(!s.ping_due(Mono(999_999)) && s.ping_due(Mono(1_000_000)));
        s.handle_sent(Mono(1_000_000));
        assert!(!s.ping_due(Mono(1_999_999)));
    }
}
