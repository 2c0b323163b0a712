//! Connections: bytes in and out, heartbeats, and the end.

use super::login::Login;
use super::publish::BROKER_STREAM;
use super::{Broker, Effect, Peer, Timer, Transmit};
use crate::model::limits::{CHUNK_BYTES_MAX, DETAIL_BYTES_MAX, FRAME_PAYLOAD_BYTES_FLOOR};
use crate::model::{ConnId, Mono};
use crate::protocols::native::{Accepted, Native};
use crate::protocols::{Fault, Request};
use crate::routing::Grants;
use crate::session::{NONCE_BYTES, Overdue, Phase, Session};
use crate::store::schema::SourceOwner;
use crate::wire::{
    self, Close, Code, Decoded, Deliver, DeliverItem, Done, EXTENSION_AUTH_METHODS, ErrorHead, FrameType, Goaway, Ping,
    Pong,
};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A connection: the session and the dialect it speaks.
pub(super) struct Conn {
    pub(super) session: Session<Stream>,
    /// Place of the mount whose names it sees.
    pub(super) mount: usize,
    /// Whether it is counted there.
    pub(super) entered: bool,
    /// What it may publish, with others of its principal; from when that is first limited on.
    pub(super) budget: Option<super::rates::Shared>,
    pub(super) manners: super::rates::Manners,
    pub(super) peer: Peer,
    /// Whether it is counted among those of its address that are not open yet.
    pub(super) greeting: bool,
    /// What it may do, once it is open.
    pub(super) grants: Option<Grants>,
    /// How it proves who it is.
    pub(super) login: Login,
    /// The bridge whose session it is.
    pub(super) bridge: Option<Rc<SourceOwner>>,
    native: Native,
    building: Building,
    /// An [`Effect::Wake`] is on its way.
    woken: bool,
    /// A consumer stopped because the outbox was full.
    pub(super) starved: bool,
    /// It is looked at after the next commit, with contract memory by nothing else.
    pub(super) waits_for_store: bool,
    /// Reads for its subscriptions and histories under way.
    pub(super) primes: u32,
    /// Live messages that wait behind retained values and histories, over all its subscriptions, in bytes.
    pub(super) held_bytes: usize,
    /// Publishes told that they are kept here and not yet whether the upstream has them.
    pub(super) finals: u32,
    /// What is decided of publishes that were told nothing yet, by stream and number.
    pub(super) early: BTreeMap<(u32, u64), super::upstream::Verdict>,
    /// Pings that were due since the peer last took anything, its control frames being as many as may wait.
    unread_pings: u8,
    /// It was told why it ends: nothing more follows.
    told_end: bool,
    /// It did not take its last bytes in time: nobody waits for it any more.
    over: bool,
}

impl Conn {
    /// Adds a message to what a stream is sent; whether the edge must be asked to look.
    pub(super) fn item(&mut self, stream: u32, epoch: u64, tag: u64, item: &DeliverItem<'_>) -> bool {
        if self.told_end {
            return false;
        }
        let goal = DELIVER_BYTES_GOAL.min(self.session.peer_frame_bytes_max as usize);
        let need = item.record.len() + wire::DELIVER_ITEM_OVERHEAD_BYTES_MAX;
        let b = &self.building;
        let joins = b.count > 0 && b.stream == stream && b.epoch == epoch && b.items.len() + need <= goal;
        if !joins {
            self.build();
        }
        let b = &mut self.building;
        if b.count == 0 {
            (b.stream, b.epoch, b.first_tag) = (stream, epoch, tag);
        }
        b.count += 1;
        wire::append_item(&mut b.items, item);
        !std::mem::replace(&mut self.woken, true)
    }

    /// Frames the items gathered so far.
    fn build(&mut self) {
        let b = &mut self.building;
        if b.count == 0 {
            return;
        }
        let head = Deliver { epoch: b.epoch, first_tag: b.first_tag, count: b.count, total: b.items.len() as u32 };
        let data = self.session.outbox.data();
        if b.count == 1 {
            append_message(data, b.stream, FrameType::Deliver, &head, &b.items);
        } else {
            wire::append(data, FrameType::Deliver, 0, b.stream, Some(&head), &[&b.items]);
        }
        b.count = 0;
        b.items.clear();
        if b.items.capacity() > 2 * DELIVER_BYTES_GOAL {
            b.items = Vec::new();
        }
    }

    /// Bytes of messages that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.session.outbox.data_len() + self.building.items.len()
    }

    /// Whether so much waits that the peer is to read before it asks for more: answers, which have no window of their own,
    /// would gather without a bound.
    fn is_unread(&self, outbox_bytes_max: u32) -> bool {
        self.waiting_bytes() > 2 * outbox_bytes_max as usize
    }

    /// Whether a message of this length, which the peer takes, may go to this subscription at once, nothing else being to do
    /// for it.
    pub(super) fn takes_live(&self, stream: u32, len: usize, waiting_max: usize) -> bool {
        let Some(Stream::Subscription(subscription)) = self.session.streams.get(&stream) else { return false };
        let waiting = self.waiting_bytes();
        subscription.is_even() && (waiting == 0 || waiting + len <= waiting_max)
    }
}

/// What a stream of a session is.
#[derive(Debug)]
pub(super) enum Stream {
    /// Live fan-out.
    Subscription(super::subscribe::Subscription),
    /// Part of a durable consumer: queue, consumer, attachment.
    Consumer(usize, usize, u64),
    /// Answers requests on this filter.
    Responder(Box<str>),
    /// A request that waits for its answer.
    Asking(u64),
    /// A request to answer.
    Answering(u64),
    /// A history request under way.
    History,
}

/// Items of one deliver frame, not yet framed: neighbours travel together.
#[derive(Default)]
struct Building {
    stream: u32,
    epoch: u64,
    first_tag: u64,
    count: u32,
    items: Vec<u8>,
}

/// A deliver frame is closed at this many bytes: a ping waits behind it at most.
const DELIVER_BYTES_GOAL: usize = 32 * 1_024;
/// Reads for subscriptions, histories and administrators of a session under way before it is not read from.
pub(super) const PRIMES_MAX: u32 = 16;
/// Control frames a peer may leave unread before it is not read from, in bytes.
pub(super) const CONTROL_BYTES_MAX: usize = 256 * 1_024;
/// Heartbeats in which a peer may take nothing of as many control frames as may wait.
const UNREAD_PINGS_MAX: u8 = 3;
/// Of all connections an address may hold the n-th part while nobody knows whose they are, and so many in any case: else one
/// stranger who says nothing could hold every place.
const CROWD_PART: u32 = 4;
const CROWD_MIN: u32 = 64;
/// Milliseconds a refused connection is told to wait.
const RETRY_CONNECT_MS: u32 = 5_000;

impl Broker {
    pub(super) fn handle_opened(&mut self, conn: ConnId, peer: Peer, nonce: [u8; NONCE_BYTES]) {
        self.counters.connections += 1;
        let too_often = self.connects_too_often(&peer);
        let limits = &self.settings.limits;
        // Who administers this machine is let in also where strangers hold every place: somebody must be able to look.
        let admin = peer.is_admin() || peer.is_bridge();
        // Bridges have places of their own.
        let places = limits.connections_max as usize + self.settings.bridges.len();
        let over = !admin && self.conns.len() >= places;
        let crowd = self.logins.greet(&peer);
        let crowded = !admin && !peer.is_here() && crowd > (limits.connections_max / CROWD_PART).max(CROWD_MIN);
        let session = Session::new(conn, self.now.mono, limits.handshake_ms, FRAME_PAYLOAD_BYTES_FLOOR);
        let c = Conn {
            session,
            mount: 0,
            entered: false,
            budget: None,
            manners: super::rates::Manners::default(),
            peer,
            grants: None,
            greeting: true,
            login: Login::new(nonce),
            bridge: None,
            native: Native::default(),
            building: Building::default(),
            woken: false,
            starved: false,
            waits_for_store: false,
            primes: 0,
            held_bytes: 0,
            finals: 0,
            early: BTreeMap::new(),
            unread_pings: 0,
            told_end: false,
            over: false,
        };
        self.conns.insert(conn, c);
        if over {
            self.fail(conn, Code::TooManyConnections, "the broker has as many connections as it may: try later");
        } else if crowded {
            let detail = "too many connections of this address have not logged in yet: try later";
            self.fail(conn, Code::TooManyConnections, detail);
        } else if let Some(wait_ms) = too_often {
            self.fail_for(conn, Code::TooManyAttempts, wait_ms, "this address connects too often");
        } else if self.stopping.is_some() {
            self.fail(conn, Code::ShuttingDown, "the broker is stopping");
        }
        self.arm_session(conn);
    }

    pub(super) fn handle_closed(&mut self, conn: ConnId) {
        let Some(mut gone) = self.conns.remove(&conn) else { return };
        self.timers.remove(Timer::Session(conn));
        self.forget_login(conn, &gone);
        if gone.greeting {
            self.logins.know(&gone.peer);
        }
        self.timers.remove(Timer::Pause(conn));
        for (id, stream) in std::mem::take(&mut gone.session.streams) {
            self.end_stream(gone.mount, conn, id, stream, false);
        }
        self.leave(&gone);
    }

    pub(super) fn handle_received(&mut self, conn: ConnId, bytes: &[u8]) {
        let open_max = self.settings.limits.frame_bytes_max;
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.session.handle_received(self.now.mono);
        if matches!(c.session.phase, Phase::Closing(_)) {
            return;
        }
        let kept = std::mem::take(&mut c.session.partial);
        // Strangers may not make us keep what only the welcome allows.
        let payload_max = if c.session.is_open() { open_max } else { FRAME_PAYLOAD_BYTES_FLOOR };
        let outcome = self.handle_bytes(conn, kept, bytes, payload_max, open_max);
        let (rest, progressed) = match outcome {
            Ok(Some(rest)) => rest,
            Ok(None) => return,
            Err(fault) => return self.fail(conn, fault.code, &fault.detail),
        };
        if let Some(c) = self.conns.get_mut(&conn) {
            let incomplete = !rest.is_empty();
            c.session.partial = rest;
            c.session.handle_frame_state(self.now.mono, incomplete, progressed);
            self.arm_session(conn);
            self.hold_or_release(conn);
        }
    }

    /// Handles all whole frames of what was kept and what follows it. Gives back what is to be kept now and whether a frame
    /// was whole, or nothing when the session is over.
    fn handle_bytes(
        &mut self,
        conn: ConnId,
        mut kept: Vec<u8>,
        mut bytes: &[u8],
        mut payload_max: u32,
        open_max: u32,
    ) -> Result<Option<(Vec<u8>, bool)>, Fault> {
        let mut progressed = false;
        loop {
            // Of what follows only as much is copied as the kept frame needs.
            let input = if kept.is_empty() { bytes } else { &kept };
            match wire::decode(input, payload_max)? {
                Decoded::Frame(frame, len) => {
                    progressed = true;
                    self.handle_frame(conn, frame)?;
                    match self.conns.get(&conn).map(|c| c.session.phase) {
                        None | Some(Phase::Closing(_)) => return Ok(None),
                        Some(Phase::Open) => payload_max = open_max,
                        Some(Phase::Greeting(_) | Phase::Challenged(_) | Phase::Checking(_)) => {}
                    }
                    if kept.is_empty() {
                        bytes = &bytes[len..];
                    } else {
                        debug_assert_eq!(len, kept.len(), "it was given exactly what it needed");
                        kept = Vec::new();
                    }
                }
                Decoded::Incomplete(_) if bytes.is_empty() => return Ok(Some((kept, progressed))),
                Decoded::Incomplete(_) if kept.is_empty() => return Ok(Some((bytes.to_vec(), progressed))),
                Decoded::Incomplete(need) => {
                    let (more, rest) = bytes.split_at((need - kept.len()).min(bytes.len()));
                    kept.extend_from_slice(more);
                    bytes = rest;
                }
            }
        }
    }

    fn handle_frame(&mut self, conn: ConnId, frame: wire::Frame<'_>) -> Result<(), Fault> {
        let budget = self.settings.limits.reassembly_bytes_max as usize;
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        let accepted = c.native.accept(frame, budget)?;
        let open = c.session.is_open();
        match accepted {
            Accepted::Request(request) => self.handle_request(conn, open, request),
            Accepted::Assembled(assembly) => self.handle_request(conn, open, assembly.request()?),
            Accepted::Nothing if open => Ok(()),
            Accepted::Nothing => Err(HELLO_FIRST),
        }
    }

    fn handle_request(&mut self, conn: ConnId, open: bool, request: Request<'_>) -> Result<(), Fault> {
        match request {
            Request::Hello(hello, extensions) => {
                self.note_encodings(conn, extensions);
                self.note_bridge(conn, extensions)?;
                self.handle_hello(conn, &hello, extensions.get(EXTENSION_AUTH_METHODS))
            }
            Request::Auth(auth) => self.handle_auth(conn, &auth),
            Request::Close => {
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.session.close(self.now.mono);
                    self.wake(conn);
                    self.arm_session(conn);
                }
                Ok(())
            }
            _ if !open => Err(HELLO_FIRST),
            Request::Reauth(reauth) => self.handle_reauth(conn, &reauth),
            Request::Publish { stream, contract, first, records, source } => {
                self.handle_publish(conn, stream, contract, first, records, source)
            }
            Request::Packed { stream, head, block, len, source } => {
                self.handle_packed(conn, stream, head, block, len, source)
            }
            Request::Subscribe(stream, head) => self.handle_subscribe(conn, stream, &head),
            Request::Unsubscribe(stream) => self.handle_unsubscribe(conn, stream),
            Request::Consume(stream, head, filters) => self.handle_consume(conn, stream, &head, filters),
            Request::Ack(stream, head) => self.handle_ack(conn, stream, head),
            Request::Nack(stream, head) => self.handle_nack(conn, stream, &head),
            Request::Credit(stream, head) => self.handle_credit(conn, stream, head),
            Request::Pause(stream, None) => self.handle_pause(conn, stream, true),
            Request::Pause(stream, Some(lanes)) => self.handle_held_lanes(conn, stream, lanes),
            Request::Resume(stream) => self.handle_pause(conn, stream, false),
            Request::History(stream, head) => self.handle_history(conn, stream, &head),
            Request::Ask(stream, head, body) => self.handle_ask(conn, stream, &head, body),
            Request::Answer(stream, head, body) => self.handle_answer(conn, stream, &head, body),
            Request::Cancel(stream, head) => self.handle_cancel(conn, stream, head.code),
            Request::Ping(nonce) => {
                self.control(conn, 0, FrameType::Pong, &Pong { nonce });
                Ok(())
            }
            Request::Alive => Ok(()),
        }
    }

    /// Appends up to about `bytes_max` bytes to send to this connection (at least one frame if there is one).
    pub fn poll_transmit(&mut self, now: crate::model::Now, conn: ConnId, out: &mut Vec<u8>, max: usize) -> Transmit {
        self.advance(now);
        self.build(conn);
        let room = self.settings.limits.outbox_bytes_max as usize / 2;
        let Some(c) = self.conns.get_mut(&conn) else { return Transmit::Close };
        c.woken = false;
        let before = out.len();
        c.session.outbox.transmit(out, max);
        if out.len() > before {
            c.session.handle_sent(now.mono);
            c.unread_pings = 0;
        }
        let refill = c.starved && c.session.outbox.data_len() < room;
        let empty = c.session.outbox.is_empty();
        let closing = matches!(c.session.phase, Phase::Closing(_));
        if refill && !closing {
            c.starved = false;
            self.tell_dropped(conn);
            self.pump_session(conn);
        }
        self.hold_or_release(conn);
        match (empty, closing) {
            (false, _) => Transmit::More,
            (true, true) => Transmit::Close,
            (true, false) => Transmit::Idle,
        }
    }

    /// Whether this connection may be read from; after false an [`Effect::Wake`] says when to ask again.
    #[must_use]
    pub fn wants_read(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_some_and(|c| !c.session.held)
    }

    /// Whether this connection is to be dropped with all that the edge still holds for it; after a wake it may be.
    #[must_use]
    pub fn is_over(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_none_or(|c| c.over)
    }

    pub(super) fn handle_session_timeout(&mut self, conn: ConnId) {
        let frame_timeout_ms = self.settings.limits.frame_timeout_ms;
        let Some(c) = self.conns.get(&conn) else { return };
        match c.session.overdue(self.now.mono, frame_timeout_ms) {
            Some(Overdue::Handshake) => {
                self.fail(conn, Code::HandshakeTimeout, "no hello came in time");
            }
            Some(Overdue::Silence) => {
                self.fail(conn, Code::HeartbeatTimeout, "nothing was heard for three heartbeats");
            }
            Some(Overdue::Frame) => {
                self.fail(conn, Code::FrameTimeout, "a frame stopped in its middle");
            }
            Some(Overdue::Linger) => {
                // The peer does not take its last bytes: forget them. The edge may sit on some of its own: `is_over` tells it.
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.over = true;
                    c.session.outbox = Default::default();
                    c.building = Building::default();
                }
                self.wake_hard(conn);
                return;
            }
            None => {
                let unread = c.is_unread(self.settings.limits.outbox_bytes_max);
                let full = unread || c.session.outbox.control_len() >= CONTROL_BYTES_MAX;
                if c.session.ping_due(self.now.mono) && full {
                    self.handle_unread(conn);
                } else if c.session.ping_due(self.now.mono) {
                    let nonce = self.rng.u64(..);
                    self.control(conn, 0, FrameType::Ping, &Ping { nonce });
                    // Counts as sent: a peer that does not read is found out by its silence, not by more pings.
                    if let Some(c) = self.conns.get_mut(&conn) {
                        c.session.handle_sent(self.now.mono);
                    }
                }
            }
        }
        self.arm_session(conn);
    }

    /// A heartbeat passed in which a peer took nothing of a full outbox. It is not read from, so its silence says
    /// nothing: not reading for three heartbeats is its end.
    fn handle_unread(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.session.handle_sent(self.now.mono);
        c.unread_pings += 1;
        if c.unread_pings >= UNREAD_PINGS_MAX {
            self.fail(conn, Code::SlowReader, "the peer does not read its answers");
        }
    }

    pub(super) fn arm_session(&mut self, conn: ConnId) {
        let frame_timeout_ms = self.settings.limits.frame_timeout_ms;
        if let Some(c) = self.conns.get(&conn) {
            // A later deadline is found when the earlier timer rings: the hot path does not move timers. One that has passed
            // rings again a little later: not within the same look at the timers, which would never end.
            let at = c.session.poll_timeout(frame_timeout_ms).max(self.now.mono.plus_ms(1));
            self.timers.set_earlier(Timer::Session(conn), at);
        }
    }

    /// Whether a client may open this stream.
    pub(super) fn check_new_stream(&self, conn: ConnId, stream: u32) -> Result<(), Fault> {
        let Some(c) = self.conns.get(&conn) else { return Ok(()) };
        if stream == 0 || stream & BROKER_STREAM != 0 {
            return Err(Fault::new(Code::BadStream, "open streams of your own: 1 to 2^31-1"));
        }
        if c.session.streams.contains_key(&stream) || c.session.publishers.contains_key(&stream) {
            return Err(Fault::new(Code::BadStream, "this stream is in use"));
        }
        let streams_max = self.settings.limits.streams_max as usize;
        // Requests to answer come on streams of the broker's: others open them, and they take none of the client's own.
        let own = |streams: &BTreeMap<u32, Stream>| streams.keys().filter(|id| *id & BROKER_STREAM == 0).count();
        if c.session.streams.len() >= streams_max && own(&c.session.streams) >= streams_max {
            return Err(Fault::new(Code::TooManyStreams, "this session has as many streams as it may"));
        }
        Ok(())
    }

    /// Ends a session: the error is the last it hears.
    pub(super) fn fail(&mut self, conn: ConnId, code: Code, detail: &str) {
        self.fail_for(conn, code, if code.is_retryable() { RETRY_CONNECT_MS } else { 0 }, detail);
    }

    /// Ends a session as [`Broker::fail`] does, and says after how many milliseconds to come again.
    pub(super) fn fail_for(&mut self, conn: ConnId, code: Code, retry_after_ms: u32, detail: &str) {
        let detail = clip(detail);
        let level = self.level_of(conn, code);
        let Some(c) = self.conns.get(&conn) else { return };
        if matches!(c.session.phase, Phase::Closing(_)) {
            return;
        }
        log::log!(level, "session {} of {:?} from {:?} ends: {code}: {detail}", conn.0, c.session.client, c.peer);
        self.control(conn, 0, FrameType::Error, &ErrorHead { code: code as u16, retry_after_ms, detail });
        self.end(conn, code);
    }

    /// How loudly an end is said: of strangers so many a second, so that a flood of them floods no log. The counters tell all.
    pub(super) fn level_of(&mut self, conn: ConnId, code: Code) -> log::Level {
        let stranger = self.conns.get(&conn).is_some_and(|c| c.greeting);
        if code == Code::TooManyAttempts || (stranger && !self.logins.may_say(self.now.mono)) {
            log::Level::Debug
        } else {
            log::Level::Info
        }
    }

    /// Ends a session in an orderly way.
    pub(super) fn close(&mut self, conn: ConnId, code: Code, detail: &str) {
        let closing = |c: &Conn| matches!(c.session.phase, Phase::Closing(_));
        if self.conns.get(&conn).is_none_or(closing) {
            return;
        }
        self.control(conn, 0, FrameType::Close, &Close { code: code as u16, detail: clip(detail) });
        self.end(conn, code);
    }

    fn end(&mut self, conn: ConnId, code: Code) {
        *self.counters.closed.entry(code).or_default() += 1;
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.session.close(self.now.mono);
        c.session.partial = Vec::new();
        c.told_end = true;
        self.forget_check(conn);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (mount, streams) = (c.mount, std::mem::take(&mut c.session.streams));
        for (id, stream) in streams {
            self.end_stream(mount, conn, id, stream, false);
        }
        self.arm_session(conn);
        self.wake_hard(conn);
    }

    pub(super) fn send_goaway(&mut self, conn: ConnId, deadline_ms: u32) {
        let head = Goaway { code: Code::ShuttingDown as u16, deadline_ms, detail: "the broker is stopping" };
        self.control(conn, 0, FrameType::Goaway, &head);
    }

    /// Puts a frame without payload into the lane ahead of data.
    pub(super) fn control<H: serde::Serialize>(&mut self, conn: ConnId, stream: u32, kind: FrameType, head: &H) {
        let Some(c) = self.conns.get_mut(&conn).filter(|c| !c.told_end) else { return };
        wire::append(c.session.outbox.control(), kind, 0, stream, Some(head), &[]);
        self.wake(conn);
    }

    /// Puts frames of a message into the lane of data: one, or chunks where it is large.
    pub(super) fn message<H: serde::Serialize>(
        &mut self,
        conn: ConnId,
        stream: u32,
        kind: FrameType,
        head: &H,
        payload: &[u8],
    ) {
        self.build(conn);
        let Some(c) = self.conns.get_mut(&conn).filter(|c| !c.told_end) else { return };
        append_message(c.session.outbox.data(), stream, kind, head, payload);
        self.wake(conn);
    }

    /// Answers a request of a stream with success.
    pub(super) fn done(&mut self, conn: ConnId, stream: u32, epoch: u64, value: u64, complete: bool) {
        self.control(conn, stream, FrameType::Ok, &Done { epoch, value, complete });
    }

    /// Answers a request of a stream with an error; the session goes on.
    pub(super) fn refuse(&mut self, conn: ConnId, stream: u32, code: Code, detail: &str) {
        let retry_after_ms = if code.is_retryable() { 1_000 } else { 0 };
        let head = ErrorHead { code: code as u16, retry_after_ms, detail: clip(detail) };
        self.control(conn, stream, FrameType::Error, &head);
    }

    /// Adds a message to what a stream is sent.
    pub(super) fn item(&mut self, conn: ConnId, stream: u32, epoch: u64, tag: u64, item: &DeliverItem<'_>) {
        if let Some(c) = self.conns.get_mut(&conn)
            && c.item(stream, epoch, tag, item)
        {
            self.effects.push_back(Effect::Wake { conn });
        }
    }

    /// Frames the items gathered so far.
    pub(super) fn build(&mut self, conn: ConnId) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.build();
        }
    }

    /// Bytes of messages that wait for a connection.
    pub(super) fn waiting_bytes(&self, conn: ConnId) -> usize {
        self.conns.get(&conn).map_or(0, Conn::waiting_bytes)
    }

    /// Asks the edge to look at a connection.
    pub(super) fn wake(&mut self, conn: ConnId) {
        if let Some(c) = self.conns.get_mut(&conn)
            && !c.woken
        {
            c.woken = true;
            self.effects.push_back(Effect::Wake { conn });
        }
    }

    fn wake_hard(&mut self, conn: ConnId) {
        self.effects.push_back(Effect::Wake { conn });
    }

    /// Stops or resumes reading from a session, by its windows and the store's.
    pub(super) fn hold_or_release(&mut self, conn: ConnId) {
        let limits = &self.settings.limits;
        let behind = self.disk.pending_bytes() >= self.settings.store.pending_bytes_max as usize;
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let unread = c.is_unread(limits.outbox_bytes_max);
        let s = &mut c.session;
        let publishing = !s.publishers.is_empty();
        let hold = matches!(s.phase, Phase::Closing(_))
            || s.unacked_messages >= limits.window_messages
            || s.unacked_bytes >= u64::from(limits.window_bytes)
            || s.outbox.control_len() >= CONTROL_BYTES_MAX
            || unread
            || c.primes >= PRIMES_MAX
            || c.manners.is_paused(self.now.mono)
            || (behind && publishing);
        if s.held && !hold {
            s.held = false;
            s.handle_released(self.now.mono);
            self.wake_hard(conn);
        }
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session.held = hold;
            if hold && behind && !std::mem::replace(&mut c.waits_for_store, true) {
                self.disk.held.push(conn);
            }
        }
    }

    /// Milliseconds since start.
    pub(super) fn uptime_ms(&self) -> u64 {
        self.now.mono.ms_since(Mono(self.started.mono.0))
    }
}

pub(super) const HELLO_FIRST: Fault = Fault::new(Code::HelloExpected, "say hello and wait for the welcome first");

/// Cuts a text to what a detail may have.
pub(super) fn clip(text: &str) -> &str {
    let mut end = text.len().min(DETAIL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn append_message<H: serde::Serialize>(out: &mut Vec<u8>, stream: u32, kind: FrameType, head: &H, payload: &[u8]) {
    if payload.len() <= CHUNK_BYTES_MAX {
        wire::append(out, kind, 0, stream, Some(head), &[payload]);
        return;
    }
    for (i, (flags, chunk)) in wire::chunks(payload).enumerate() {
        wire::append(out, kind, flags, stream, (i == 0).then_some(head), &[chunk]);
    }
}
