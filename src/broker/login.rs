//! From hello to welcome: who comes in, by which method, how often one may try, and when what one showed ends.
//!
//! Credentials are checked outside, a few at a time and one password at a time; what waits has its turn by address, so
//! that a flood from one leaves the others theirs.

use super::conn::{Conn, HELLO_FIRST};
use super::{Broker, Effect, Peer, Timer};
use crate::config::{AuthSettings, Settings};
use crate::model::limits::{FRAME_PAYLOAD_BYTES_FLOOR, NAME_BYTES_MAX};
use crate::model::{ConnId, Mono, Wall};
use crate::protocols::Fault;
use crate::schedule::{Bucket, Gate, Rate};
use crate::session::{Attempt, Denied, HEARTBEAT_MS, Method, NONCE_BYTES, Phase, Principal, Via, network};
use crate::wire::{AUTH_METHODS_MAX, Auth, Code, FrameType, Goaway, Hello, Reauth, VERSION};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Credentials one connection may show before it is open.
pub(super) const ATTEMPTS_MAX: usize = 3;
/// Credentials under way at a time, beside one password.
const CHEAP_CHECKS_MAX: usize = 8;
/// Passwords under way at a time: each takes tens of milliseconds and megabytes on purpose.
const PASSWORD_CHECKS_MAX: usize = 1;
/// Credentials of one address that may wait for their turn.
const WAITING_MAX: u32 = 1_024;
/// Seconds of connects that may come at once.
const CONNECTS_AT_ONCE: u64 = 10;
/// Lines a second, and at once, that say at level info that somebody does not come in.
const LINES_PER_SECOND: u64 = 2;
const LINES_AT_ONCE: u64 = 100;
/// Addresses remembered for their connects and failed logins.
const ADDRESSES_MAX: usize = 16_384;
/// Milliseconds after which who found no place to wait may come again.
const RETRY_BUSY_MS: u32 = 1_000;
/// Milliseconds before its credentials end that a session is told.
pub(super) const EXPIRY_NOTICE_MS: u64 = 30_000;
/// All that a peer hears of why its credentials were refused.
const REFUSED: &str = "credentials refused";

/// How a connection proves who it is.
pub(super) struct Login {
    nonce: [u8; NONCE_BYTES],
    /// Methods still to be tried, the next first.
    methods: Vec<Method>,
    /// The client named no methods: it may answer by any.
    any: bool,
    attempts: usize,
    check: Option<Check>,
    /// Where its place is among those that wait to be checked.
    place: Option<(Lane, Place)>,
}

/// Credentials that wait to be checked, or are being.
struct Check {
    method: Method,
    /// Taken when they are handed out.
    data: Vec<u8>,
    /// The session is open and renews them.
    again: bool,
    /// The client did not ask for it: a refusal leaves it a stranger.
    silent: bool,
}

impl Login {
    pub(super) const fn new(nonce: [u8; NONCE_BYTES]) -> Self {
        Self { nonce, methods: Vec::new(), any: false, attempts: 0, check: None, place: None }
    }

    /// Nothing is to be tried any more.
    pub(super) fn finish(&mut self) {
        self.methods = Vec::new();
    }
}

/// Whom failures are counted for: an address, of IPv6 the network that one customer has, or a user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    Ip(IpAddr),
    User(u32),
}

impl Source {
    pub(super) fn of(peer: &Peer) -> Self {
        match peer {
            Peer::Unix { uid, .. } => Self::User(*uid),
            // Never counted: it shows no credentials.
            Peer::Bridge { .. } => Self::User(u32::MAX),
            Peer::Ip { address, .. } => Self::Ip(network(address.ip())),
        }
    }

    /// What the gate knows it by: a user has an address that no peer on a network can have, a multicast one.
    fn address(self) -> IpAddr {
        match self {
            Self::Ip(address) => address,
            Self::User(uid) => IpAddr::V6(((0xFF00 << 112) | u128::from(uid) << 64).into()),
        }
    }
}

/// What kind of check it is: a password costs a thousand times what the others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Cheap,
    Password,
}

impl Lane {
    const fn of(method: Method) -> Self {
        match method {
            Method::Password => Self::Password,
            _ => Self::Cheap,
        }
    }
}

/// A place in a line: by source, then by coming.
type Place = (Source, u64);

/// Who waits for a check, and how many are under way.
#[derive(Default)]
struct Line {
    under_way: usize,
    waiting: BTreeMap<Place, ConnId>,
    /// Whose turn it was last.
    last: Option<Source>,
}

impl Line {
    /// The next in turn: the sources one after another, of each the one that waits longest.
    fn pop(&mut self) -> Option<ConnId> {
        let behind = self.last.and_then(|last| {
            let end = (last, u64::MAX);
            self.waiting.range(end..).next().map(|(place, _)| *place)
        });
        let place = behind.or_else(|| self.waiting.first_key_value().map(|(place, _)| *place))?;
        self.last = Some(place.0);
        self.waiting.remove(&place)
    }
}

/// All logins under way.
pub(super) struct Logins {
    cheap: Line,
    password: Line,
    /// Lanes of what was handed out and is not answered: its connection may be gone.
    asked: hashbrown::HashMap<ConnId, Lane>,
    /// How many wait, by source.
    crowd: hashbrown::HashMap<Source, u32>,
    /// How many are connected and not open, by source.
    greeting: hashbrown::HashMap<Source, u32>,
    places: u64,
    gate: Gate,
    /// Lines of the log left for those who do not come in.
    lines: Option<Bucket>,
    /// When sessions are to be looked at for their credentials' end.
    expiries: BTreeSet<(Wall, ConnId)>,
}

impl Default for Logins {
    fn default() -> Self {
        Self {
            cheap: Line::default(),
            password: Line::default(),
            asked: hashbrown::HashMap::new(),
            crowd: hashbrown::HashMap::new(),
            greeting: hashbrown::HashMap::new(),
            places: 0,
            gate: Gate::new(ADDRESSES_MAX),
            lines: None,
            expiries: BTreeSet::new(),
        }
    }
}

impl Logins {
    /// Milliseconds that a source has to wait before it may show credentials; 0 when it may now.
    fn wait_ms(&self, source: Source, now: Mono) -> u32 {
        self.gate.login(source.address(), now).err().unwrap_or(0)
    }

    fn line(&mut self, lane: Lane) -> &mut Line {
        match lane {
            Lane::Cheap => &mut self.cheap,
            Lane::Password => &mut self.password,
        }
    }

    /// Gives a connection a place to wait; `None` when too many of its source wait.
    fn enter(&mut self, lane: Lane, source: Source, conn: ConnId) -> Option<Place> {
        let crowd = self.crowd.entry(source).or_default();
        if *crowd >= WAITING_MAX {
            return None;
        }
        *crowd += 1;
        self.places += 1;
        let place = (source, self.places);
        self.line(lane).waiting.insert(place, conn);
        Some(place)
    }

    fn leave(&mut self, source: Source) {
        count_down(&mut self.crowd, source);
    }

    /// Whether one more line may say that somebody does not come in.
    pub(super) fn may_say(&mut self, now: Mono) -> bool {
        let Some(rate) = Rate::new(LINES_PER_SECOND, LINES_AT_ONCE) else { return true };
        let lines = self.lines.get_or_insert_with(|| Bucket::full(rate, now));
        let may = lines.wait_us(rate, now, 1) == 0;
        if may {
            lines.take(rate, now, 1);
        }
        may
    }

    /// Somebody connected; returns how many of its source are not open, with it.
    pub(super) fn greet(&mut self, peer: &Peer) -> u32 {
        let greeting = self.greeting.entry(Source::of(peer)).or_default();
        *greeting += 1;
        *greeting
    }

    /// It is open, or gone.
    pub(super) fn know(&mut self, peer: &Peer) {
        count_down(&mut self.greeting, Source::of(peer));
    }
}

fn count_down(counts: &mut hashbrown::HashMap<Source, u32>, source: Source) {
    if let Some(count) = counts.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&source);
        }
    }
}

impl Broker {
    /// Whether an address connects too often: milliseconds until it may again.
    pub(super) fn connects_too_often(&mut self, peer: &Peer) -> Option<u32> {
        let per_second = u64::from(self.settings.limits.rates.connects_per_second);
        let rate = Rate::new(per_second, per_second * CONNECTS_AT_ONCE)?;
        let Peer::Ip { address, .. } = peer else { return None };
        self.logins.gate.connect(address.ip(), rate, self.now.mono).err()
    }

    pub(super) fn handle_hello(
        &mut self,
        conn: ConnId,
        hello: &Hello<'_>,
        methods: Option<&[u8]>,
    ) -> Result<(), Fault> {
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        if !matches!(c.session.phase, Phase::Greeting(_)) {
            return Err(Fault::new(Code::UnexpectedFrame, "hello is said once"));
        }
        if hello.version_min > hello.version_max || !(hello.version_min..=hello.version_max).contains(&VERSION) {
            return Err(Fault {
                code: Code::BadVersion,
                detail: format!(
                    "you speak versions {} to {}, this broker speaks {VERSION}",
                    hello.version_min, hello.version_max
                )
                .into(),
            });
        }
        if hello.client.len() > NAME_BYTES_MAX {
            return Err(Fault::new(Code::BadName, "a client's name has at most 128 bytes"));
        }
        if hello.frame_bytes_max < FRAME_PAYLOAD_BYTES_FLOOR {
            return Err(Fault::new(Code::BadOptions, "every peer must take frame payloads of 16 KiB"));
        }
        let wished = if hello.heartbeat_ms == 0 { self.settings.limits.heartbeat_ms } else { hello.heartbeat_ms };
        c.session.client = hello.client.into();
        c.session.heartbeat_ms = wished.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
        c.session.peer_frame_bytes_max = hello.frame_bytes_max;
        c.session.peer_message_bytes_max = hello.message_bytes_max;
        match methods {
            Some(methods) => self.begin_login(conn, methods),
            None => {
                self.begin_silently(conn);
                Ok(())
            }
        }
    }

    /// The client said by which methods it can prove who it is.
    fn begin_login(&mut self, conn: ConnId, methods: &[u8]) -> Result<(), Fault> {
        let settings = Arc::clone(&self.settings);
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        if methods.is_empty() || methods.len() > AUTH_METHODS_MAX {
            return Err(Fault::new(Code::BadOptions, "name 1 to 16 methods to log in"));
        }
        let mut wanted = Vec::new();
        for method in methods.iter().filter_map(|number| Method::from_u8(*number)) {
            if !wanted.contains(&method) && wanted.len() < ATTEMPTS_MAX && takes(&settings, &c.peer, method) {
                wanted.push(method);
            }
        }
        if wanted.is_empty() {
            return Err(Fault { code: Code::NotSupported, detail: taken(&settings, &c.peer).into() });
        }
        c.login.methods = wanted;
        self.challenge(conn);
        Ok(())
    }

    /// The client said nothing of credentials: what its transport tells may be enough.
    fn begin_silently(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get(&conn) else { return };
        if let Peer::Bridge { name, tenant } = &c.peer {
            let principal = Principal::bridge(name, tenant);
            self.open(conn, principal);
        } else if c.peer.is_admin() {
            self.open(conn, Principal::local_admin());
        } else if takes(&self.settings, &c.peer, Method::Transport) {
            self.check(conn, Check { method: Method::Transport, data: Vec::new(), again: false, silent: true });
        } else {
            self.open_stranger(conn);
        }
    }

    /// Lets in whoever shows nothing, or asks for something to show.
    fn open_stranger(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        match stranger_roles(&self.settings, &c.peer) {
            Some(roles) => self.open(conn, Principal { roles, ..Principal::default() }),
            None if !takes(&self.settings, &c.peer, Method::Key) && self.settings.issuers.is_empty() => {
                let detail = "strangers may not enter from here, and no way to log in is configured: set auth.identities, \
                              issuers or auth.anonymous, or use the Unix socket";
                self.fail(conn, Code::AuthFailed, detail);
            }
            None => {
                c.login.any = true;
                c.login.methods =
                    vec![if self.settings.auth.identities.is_some() { Method::Key } else { Method::Token }];
                self.challenge(conn);
            }
        }
    }

    /// Asks for the next credentials.
    fn challenge(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let (Some(&method), Some(by)) = (c.login.methods.first(), c.session.phase.handshake_by()) else { return };
        if method == Method::None {
            return self.open_stranger(conn);
        }
        c.session.phase = Phase::Challenged(by);
        let nonce = c.login.nonce;
        let data = if method == Method::Key { &nonce[..] } else { &[] };
        self.control(conn, 0, FrameType::Auth, &Auth { method: method as u8, data });
    }

    /// Credentials that open the session.
    pub(super) fn handle_auth(&mut self, conn: ConnId, auth: &Auth<'_>) -> Result<(), Fault> {
        let settings = Arc::clone(&self.settings);
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        match c.session.phase {
            Phase::Challenged(by) => c.session.phase = Phase::Checking(by),
            Phase::Open => return Err(Fault::new(Code::UnexpectedFrame, "an open session renews with reauth")),
            Phase::Checking(_) => return Err(Fault::new(Code::UnexpectedFrame, "one attempt to log in at a time")),
            Phase::Greeting(_) | Phase::Closing(_) => return Err(HELLO_FIRST),
        }
        let method = Method::from_u8(auth.method).filter(|method| *method != Method::None);
        let fits = |method: &Method| c.login.any || c.login.methods.first() == Some(method);
        let Some(method) = method.filter(|m| fits(m) && takes(&settings, &c.peer, *m)) else {
            return Err(Fault::new(Code::UnexpectedFrame, "answer by the method that was asked for"));
        };
        c.login.attempts += 1;
        if method == Method::Transport && c.peer.is_admin() {
            self.open(conn, Principal::local_admin());
        } else {
            self.check(conn, Check { method, data: auth.data.to_vec(), again: false, silent: false });
        }
        Ok(())
    }

    /// Credentials of an open session, renewed.
    pub(super) fn handle_reauth(&mut self, conn: ConnId, reauth: &Reauth<'_>) -> Result<(), Fault> {
        let Some(c) = self.conns.get(&conn) else { return Ok(()) };
        if c.login.check.is_some() {
            return Err(Fault::new(Code::UnexpectedFrame, "one attempt to log in at a time"));
        }
        let who = &c.session.principal;
        if who.method == Method::None && !who.admin {
            // What it shows could only be another's: it would be a way to try passwords past the gate.
            return Err(Fault::new(
                Code::UnexpectedFrame,
                "who showed no credentials has none to renew: connect again",
            ));
        }
        let method = Method::from_u8(reauth.method).filter(|method| *method != Method::None);
        match method.filter(|method| takes(&self.settings, &c.peer, *method)) {
            Some(method) => self.check(conn, Check { method, data: reauth.data.to_vec(), again: true, silent: false }),
            None => return Err(Fault { code: Code::NotSupported, detail: taken(&self.settings, &c.peer).into() }),
        }
        Ok(())
    }

    /// Puts credentials in line to be checked.
    fn check(&mut self, conn: ConnId, check: Check) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let source = Source::of(&c.peer);
        let wait_ms = if check.again || check.silent { 0 } else { self.logins.wait_ms(source, self.now.mono) };
        if wait_ms > 0 {
            return self.turn_back(conn, wait_ms);
        }
        let lane = Lane::of(check.method);
        let Some(place) = self.logins.enter(lane, source, conn) else {
            return self.turn_back(conn, RETRY_BUSY_MS);
        };
        if let Some(by) = c.session.phase.handshake_by() {
            c.session.phase = Phase::Checking(by);
        }
        (c.login.check, c.login.place) = (Some(check), Some((lane, place)));
        self.next_checks();
    }

    /// Milliseconds a peer has to wait before it may log in, for tests of delays.
    #[cfg(test)]
    pub(super) fn login_wait_ms(&self, peer: &Peer) -> u32 {
        self.logins.wait_ms(Source::of(peer), self.now.mono)
    }

    /// Credentials that wait for their turn, for tests of bounds.
    #[cfg(test)]
    pub(super) fn logins_waiting(&self) -> usize {
        let logins = &self.logins;
        assert_eq!(
            logins.crowd.values().sum::<u32>() as usize,
            logins.cheap.waiting.len() + logins.password.waiting.len()
        );
        logins.cheap.waiting.len() + logins.password.waiting.len()
    }

    fn turn_back(&mut self, conn: ConnId, retry_after_ms: u32) {
        *self.counters.denied.entry("too-many-attempts").or_default() += 1;
        let detail = "too many failed logins from this address: wait";
        self.fail_for(conn, Code::TooManyAttempts, retry_after_ms, detail);
    }

    /// Hands out as many checks as may be under way.
    fn next_checks(&mut self) {
        for (lane, max) in [(Lane::Cheap, CHEAP_CHECKS_MAX), (Lane::Password, PASSWORD_CHECKS_MAX)] {
            while self.logins.line(lane).under_way < max {
                let Some(conn) = self.logins.line(lane).pop() else { break };
                let Some(c) = self.conns.get_mut(&conn) else { continue };
                let source = Source::of(&c.peer);
                c.login.place = None;
                self.logins.leave(source);
                let (nonce, peer) = (c.login.nonce, c.peer.clone());
                let Some(check) = c.login.check.as_mut() else { continue };
                // Others of its address may have failed since it came.
                let wait_ms = self.logins.wait_ms(source, self.now.mono);
                if wait_ms > 0 && !check.again && !check.silent {
                    self.turn_back(conn, wait_ms);
                    continue;
                }
                let data = std::mem::take(&mut check.data);
                let attempt = Attempt { method: check.method, data, nonce, again: check.again, peer };
                self.logins.line(lane).under_way += 1;
                self.logins.asked.insert(conn, lane);
                self.effects.push_back(Effect::Authenticate { conn, attempt });
            }
        }
    }

    /// A connection waits no longer to be checked. What was handed out is answered nevertheless.
    pub(super) fn forget_check(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.login.check = None;
        if let Some((lane, place)) = c.login.place.take() {
            self.logins.line(lane).waiting.remove(&place);
            self.logins.leave(place.0);
        }
        if let Some(at) = c.session.principal.expires {
            self.forget_expiry(conn, at);
        }
    }

    /// A connection is gone.
    pub(super) fn forget_login(&mut self, conn: ConnId, gone: &Conn) {
        if let Some((lane, place)) = gone.login.place {
            self.logins.line(lane).waiting.remove(&place);
            self.logins.leave(place.0);
        }
        if let Some(at) = gone.session.principal.expires {
            self.forget_expiry(conn, at);
        }
    }

    fn forget_expiry(&mut self, conn: ConnId, at: Wall) {
        self.logins.expiries.remove(&(at, conn));
        self.logins.expiries.remove(&(notice(at), conn));
    }

    /// Credentials were checked.
    pub(super) fn handle_authenticated(&mut self, conn: ConnId, outcome: Result<Principal, Denied>) {
        if let Some(lane) = self.logins.asked.remove(&conn) {
            self.logins.line(lane).under_way -= 1;
        }
        self.judge_login(conn, outcome);
        self.next_checks();
    }

    fn judge_login(&mut self, conn: ConnId, outcome: Result<Principal, Denied>) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        // It may have ended, or run out of time, meanwhile.
        let Some(check) = c.login.check.take() else { return };
        let outcome = outcome.and_then(|principal| self.admit(principal));
        let Some(c) = self.conns.get_mut(&conn) else { return };
        match outcome {
            Ok(principal) if check.again => self.renew(conn, principal),
            Ok(principal) => {
                self.counters.logins += 1;
                self.open(conn, principal);
            }
            Err(denied) if check.silent => {
                log::debug!("connection {} from {:?} is a stranger: {denied}", conn.0, c.peer);
                self.open_stranger(conn);
            }
            Err(denied) => {
                let said = self.logins.may_say(self.now.mono);
                let level = if said { log::Level::Info } else { log::Level::Debug };
                log::log!(level, "connection {} from {:?}: {} refused: {denied}", conn.0, c.peer, check.method.name());
                let source = Source::of(&c.peer);
                c.login.methods.drain(..1.min(c.login.methods.len()));
                let tries_on = !check.again && !c.login.methods.is_empty() && c.login.attempts < ATTEMPTS_MAX;
                *self.counters.denied.entry(denied.reason).or_default() += 1;
                let free = self.settings.limits.rates.logins_failed_max;
                self.logins.gate.failed(source.address(), free, self.now.mono);
                if tries_on {
                    self.challenge(conn);
                } else {
                    self.fail(conn, Code::AuthFailed, REFUSED);
                }
            }
        }
    }

    /// An open session showed credentials again.
    fn renew(&mut self, conn: ConnId, principal: Principal) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let old = &c.session.principal;
        if (&old.name, &old.tenant) != (&principal.name, &principal.tenant) {
            log::info!("session {} of {:?} showed credentials of {:?}: ended", conn.0, old.name, principal.name);
            *self.counters.denied.entry("another-principal").or_default() += 1;
            // Right or wrong, another's credentials cost the same: else the next delay would tell which they were.
            let (source, free) = (Source::of(&c.peer), self.settings.limits.rates.logins_failed_max);
            self.logins.gate.failed(source.address(), free, self.now.mono);
            return self.fail(conn, Code::AuthFailed, REFUSED);
        }
        if let Some(at) = old.expires {
            self.forget_expiry(conn, at);
        }
        let expires = principal.expires;
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session.principal = principal;
        }
        self.counters.logins += 1;
        self.watch_expiry(conn, expires);
        self.grant(conn);
        self.done(conn, 0, 0, 0, true);
        self.reconsider(conn);
    }

    /// Notes when a session's credentials end.
    pub(super) fn watch_expiry(&mut self, conn: ConnId, expires: Option<Wall>) {
        let Some(at) = expires else { return };
        self.logins.expiries.insert((notice(at).min(at), conn));
        self.arm_expiry();
    }

    fn arm_expiry(&mut self) {
        if let Some((at, _)) = self.logins.expiries.first() {
            let at = self.now.mono.plus_ms(at.ms_since(self.now.wall).max(1));
            self.timers.set_earlier(Timer::Expiry, at);
        }
    }

    /// Tells sessions whose credentials are about to end, and closes those whose have.
    pub(super) fn check_expiries(&mut self) {
        while let Some(&(at, conn)) = self.logins.expiries.first().filter(|(at, _)| *at <= self.now.wall) {
            self.logins.expiries.remove(&(at, conn));
            let Some(expires) = self.conns.get(&conn).and_then(|c| c.session.principal.expires) else { continue };
            if expires <= self.now.wall {
                self.fail(conn, Code::CredentialsExpired, "the credentials of this session have ended");
                continue;
            }
            self.logins.expiries.insert((expires, conn));
            let deadline_ms = expires.ms_since(self.now.wall).min(u64::from(u32::MAX)) as u32;
            let detail = "the credentials of this session end: renew them with reauth";
            let head = Goaway { code: Code::CredentialsExpired as u16, deadline_ms, detail };
            self.control(conn, 0, FrameType::Goaway, &head);
        }
        self.arm_expiry();
    }
}

/// When a session is told that its credentials end then.
const fn notice(expires: Wall) -> Wall {
    Wall(expires.0.saturating_sub(EXPIRY_NOTICE_MS))
}

/// Whether a peer may try this method.
fn takes(settings: &Settings, peer: &Peer, method: Method) -> bool {
    match method {
        Method::None => stranger_roles(settings, peer).is_some(),
        Method::Token => !settings.issuers.is_empty(),
        Method::Password | Method::Key => settings.auth.identities.is_some(),
        Method::Transport => match peer {
            Peer::Unix { admin: true, .. } | Peer::Bridge { .. } => true,
            Peer::Unix { .. } => settings.auth.identities.is_some(),
            Peer::Ip { certificate, .. } => settings.auth.identities.is_some() && certificate.is_some(),
        },
    }
}

/// What a peer may log in by, said to one that knows no such method.
fn taken(settings: &Settings, peer: &Peer) -> String {
    let all = [Method::Token, Method::Password, Method::Key, Method::Transport];
    let names: Vec<&str> = all.into_iter().filter(|m| takes(settings, peer, *m)).map(Method::name).collect();
    match &names[..] {
        [] => "this broker takes no credentials here: say hello without any".into(),
        names => format!("this broker takes here: {}", names.join(", ")),
    }
}

/// The roles of a peer that shows nothing; `None` where strangers may not enter.
pub(super) fn stranger_roles(settings: &Settings, peer: &Peer) -> Option<Vec<Box<str>>> {
    // Behind a proxy on this machine everybody may look as if they were on it, with a header the proxy passes on.
    let proxied =
        matches!(peer, Peer::Ip { via: Via::Http | Via::Https, .. } if !settings.http.trusted_proxies.is_empty());
    let here = peer.is_here() && !proxied;
    match &settings.auth.anonymous {
        Some(roles) if roles.is_empty() => None,
        Some(roles) => Some(roles.iter().map(|role| role.as_str().into()).collect()),
        None if here && is_unlocked(settings) => Some(vec!["open".into()]),
        None => None,
    }
}

/// Whether nothing is configured of who may do what.
fn is_unlocked(settings: &Settings) -> bool {
    let Settings { auth: AuthSettings { identities, .. }, issuers, roles, tenants, .. } = settings;
    identities.is_none() && issuers.is_empty() && roles.is_empty() && tenants.is_empty()
}
