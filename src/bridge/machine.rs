//! The machine: what both sessions and the clock tell it, and what it asks for.

use super::budget::Budget;
use super::down::Down;
use super::forward::{Passage, queues};
use super::keep::Kept;
use super::life::{Life, State};
use super::local::{self, Local, LocalState};
use super::loops::upstream_name;
use super::mapping::MapperError;
use super::pace::{Caps, Pace};
use super::side::{Stop, each_frame};
use super::up::{Bounds, Up};
use super::upstream::{self, Upstream, handle_link_timeout, link_timeout};
use super::window::WindowMax;
use super::{Action, Failure, Reason};
use crate::config::BridgeSettings;
use crate::model::limits::{DETAIL_BYTES_MAX, PRIORITIES};
use crate::model::{Mono, Now};
use crate::wire::{Auth, BridgeHello, Close, Code, FrameType};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Least milliseconds from one [`Action::Tell`] to the next.
const TELL_MS: u64 = 500;
/// A hub that acknowledges nothing while so many times `ack_ms_max` pass is given up, whatever else it sends.
const UNACKED_TIMES: u64 = 4;

/// A bridge.
pub struct Bridge {
    pub(super) settings: Arc<BridgeSettings>,
    name: String,
    pub(super) edge: String,
    pub(super) life: Life,
    pub(super) local: Local,
    pub(super) upstream: Option<Upstream>,
    pub(super) up: Up,
    pub(super) down: Down,
    pub(super) passage: Passage,
    pace: Pace,
    pub(super) budget: Budget,
    pub(super) kept: Kept,
    pub(super) counters: Counters,
    pub(super) actions: VecDeque<Action>,
    /// Something changed that was not told.
    pub(super) changed: bool,
    /// What it keeps changed.
    keep_changed: bool,
    told_at: Option<Mono>,
    /// Frames for a connection that is ended.
    last_words: Vec<u8>,
}

/// What is counted from the start on.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) acked: u64,
    pub(super) dropped: BTreeMap<String, u64>,
    /// Bytes sent and heard on connections that are gone.
    pub(super) bytes: (u64, u64),
}

/// What a bridge is made of.
pub struct Parts {
    /// Its settings.
    pub settings: Arc<BridgeSettings>,
    /// The local broker's configured name: `{name}` in routes.
    pub name: String,
    /// Name of this edge that no other has: the configured name and something of the machine.
    pub edge: String,
    /// What [`Action::Tell`] last had to keep.
    pub kept: Option<Vec<u8>>,
    /// Feeds jitter.
    pub seed: u64,
}

impl Bridge {
    /// A bridge that begins now.
    #[must_use]
    pub fn new(now: Now, parts: Parts) -> Self {
        let kept = Kept::read(parts.kept.as_deref());
        let (queues, problem) = queues(&parts.settings, &parts.name);
        let mut bridge = Self {
            life: Life::new(now.mono, parts.seed, kept.paused),
            local: Local::new(now, &queues),
            upstream: None,
            up: Up::new(parts.seed ^ 1),
            down: Down::new(now.mono, &parts.settings, &parts.name, &parts.edge, parts.seed ^ 2),
            passage: Passage::new(&parts.settings, &parts.edge, &queues),
            pace: Pace::new(now.mono, caps(&parts.settings)),
            budget: Budget::new(now, parts.settings.bytes_per_day, kept.budget),
            kept,
            counters: Counters::default(),
            actions: VecDeque::new(),
            changed: true,
            keep_changed: false,
            told_at: None,
            last_words: Vec::new(),
            name: parts.name,
            edge: parts.edge,
            settings: parts.settings,
        };
        bridge.note_routes(now, problem);
        bridge.advance(now);
        bridge
    }

    /// Says which routes up are left out, if any.
    fn note_routes(&mut self, now: Now, problem: Option<MapperError>) {
        if let Some(error) = problem {
            let detail = format!("a route up: {error}");
            self.life.last = Some((Failure { reason: Reason::Protocol, detail }, now.mono));
        }
    }

    // -- the upstream's bytes --

    /// An [`Action::Dial`] came to an end.
    pub fn handle_dialed(&mut self, now: Now, number: u64, result: Result<(), Failure>) {
        if !self.life.is_of(number) || self.upstream.is_some() {
            return;
        }
        match result {
            Ok(()) => {
                self.last_words.clear();
                let mut upstream = Upstream::new(now);
                upstream.hello(&self.settings, &self.edge);
                self.upstream = Some(upstream);
                self.life.dialed();
                self.changed = true;
            }
            Err(failure) => self.lose(now, failure, 0),
        }
        self.advance(now);
    }

    /// Bytes of the upstream arrived. The edge asks [`Bridge::wants_upstream`] before it reads.
    pub fn handle_upstream(&mut self, now: Now, number: u64, bytes: &[u8]) {
        let Some(upstream) = self.upstream.as_mut().filter(|_| self.life.is_of(number)) else { return };
        upstream.note_heard(now.mono, bytes.len());
        self.budget.spend(now, bytes.len() as u64);
        let mut kept = std::mem::take(&mut upstream.partial);
        let result = each_frame(&mut kept, bytes, upstream::FRAME_BYTES_MAX, |frame| self.upstream_frame(now, &frame));
        match result {
            Ok(()) => {
                if let Some(upstream) = self.upstream.as_mut() {
                    upstream.partial = kept;
                }
            }
            Err(stop) => self.stop(now, stop),
        }
        self.advance(now);
    }

    /// So many bytes of [`Bridge::poll_upstream`] were taken by the transport since the last call: the link moves.
    pub fn handle_sent(&mut self, now: Now, number: u64, bytes: usize) {
        if let Some(upstream) = self.upstream.as_mut().filter(|_| self.life.is_of(number) && bytes > 0) {
            upstream.moved_at = now.mono;
        }
    }

    /// The connection to the upstream ended, not by an [`Action::HangUp`].
    pub fn handle_hung_up(&mut self, now: Now, number: u64, failure: Failure) {
        if self.life.is_of(number) {
            self.lose(now, failure, 0);
            self.advance(now);
        }
    }

    /// The answer to [`Action::Credentials`]: the bytes of an auth frame, or why there are none.
    pub fn handle_credentials(&mut self, now: Now, number: u64, data: Result<(u8, Vec<u8>), String>) {
        if !self.life.is_of(number) {
            return;
        }
        match (data, self.upstream.as_mut()) {
            (Ok((method, data)), Some(upstream)) if self.life.state == State::Greeting => {
                upstream.frame(FrameType::Auth, 0, &Auth { method, data: &data });
            }
            (Ok(_), _) => {}
            (Err(detail), _) => {
                self.hang_up();
                self.lose(now, Failure { reason: Reason::Auth, detail }, 0);
            }
        }
        self.advance(now);
    }

    /// Appends whole frames for the upstream, about `bytes_max` of them; nothing when there is none to send now.
    pub fn poll_upstream(&mut self, now: Now, out: &mut Vec<u8>, bytes_max: usize) {
        let start = out.len();
        let Some(upstream) = self.upstream.as_mut() else { return out.append(&mut self.last_words) };
        if self.life.is_open() {
            self.down.poll_upstream(upstream.control());
        }
        upstream.poll_control(out);
        if self.life.is_open() && upstream.going.is_none() {
            let frame_bytes_max = upstream.terms().map_or(0, |terms| terms.frame_bytes_max as usize);
            let compress = self.settings.compress && upstream.lz4_batch;
            let bounds = Bounds { frame_bytes_max, compress, weights: &self.settings.weights };
            let room = bytes_max.saturating_sub(out.len() - start);
            self.up.fill(now.mono, &bounds, &mut self.pace, &mut upstream.link, out, room);
        }
        let sent = out.len() - start;
        upstream.note_sent(now.mono, sent);
        self.budget.spend(now, sent as u64);
    }

    /// Whether it has room for what the upstream sends.
    #[must_use]
    pub fn wants_upstream(&self) -> bool {
        self.local.waiting() < LOCAL_BYTES_MAX
    }

    // -- the local broker's bytes --

    /// Bytes of the local broker.
    pub fn handle_local(&mut self, now: Now, bytes: &[u8]) {
        if matches!(self.local.state, LocalState::Closed(_)) {
            return;
        }
        self.local.link.heard(local::ms(now.mono));
        let mut kept = std::mem::take(&mut self.local.partial);
        let result = each_frame(&mut kept, bytes, local::FRAME_BYTES_MAX, |frame| self.local_frame(now, &frame));
        match result {
            Ok(()) => self.local.partial = kept,
            Err(Stop::Over) => {}
            Err(Stop::Failed(failure, _)) => {
                self.actions.push_back(Action::CloseLocal);
                self.lose_local(now, failure.detail);
            }
        }
        self.advance(now);
    }

    /// The local session ended, not by an [`Action::CloseLocal`].
    pub fn handle_local_closed(&mut self, now: Now) {
        if !matches!(self.local.state, LocalState::Closed(_)) {
            self.lose_local(now, "the local broker ended the session".into());
            self.advance(now);
        }
    }

    /// Appends whole frames for the local broker.
    pub fn poll_local(&mut self, now: Now, out: &mut Vec<u8>, bytes_max: usize) {
        let start = out.len();
        self.local.poll(out, bytes_max);
        let room = bytes_max.saturating_sub(out.len() - start);
        if self.local.waiting() == 0 && room > 0 {
            self.down.poll_local(now.mono, &self.settings, &mut self.local.link, out, room);
        }
        if out.len() > start {
            self.local.link.sent(local::ms(now.mono));
        }
    }

    /// Whether it has room for what the local broker sends.
    #[must_use]
    pub fn wants_local(&self) -> bool {
        true
    }

    // -- life --

    /// New settings: what changed takes effect, with a new connection where it must.
    pub fn handle_settings(&mut self, now: Now, settings: Arc<BridgeSettings>) {
        let old = std::mem::replace(&mut self.settings, settings);
        let new = &*self.settings;
        let same_way = BridgeSettings { up: old.up.clone(), down: old.down.clone(), ..calm(&old) }
            == BridgeSettings { up: old.up.clone(), down: old.down.clone(), ..calm(new) };
        let same_routes = old.up == new.up && old.down == new.down && old.name == new.name && old.tenant == new.tenant;
        if !same_way || !same_routes {
            if self.life.is_connected() {
                self.hang_up();
                self.drop_upstream(now);
            }
            if !matches!(self.life.state, State::Paused) {
                self.life.restart(now.mono);
            }
        }
        if !same_routes {
            self.local.end_consumers();
            let (queues, problem) = queues(&self.settings, &self.name);
            self.local.set_queues(&queues);
            self.passage = Passage::new(&self.settings, &self.edge, &queues);
            self.note_routes(now, problem);
            self.down.set_routes(&self.settings);
            self.local.consume(&self.settings.consumer(), window(&self.settings));
        }
        self.passage.hops_max = self.settings.hops_max;
        self.pace.set_caps(now.mono, caps(&self.settings));
        self.budget.set_max(self.settings.bytes_per_day);
        self.up.window.set_max(self.window_max());
        self.changed = true;
        self.advance(now);
    }

    /// The files behind its credentials or certificates are others: it connects anew with what is in them now, at once where it
    /// waits.
    pub fn handle_renewed(&mut self, now: Now) {
        if self.life.is_connected() {
            self.renew(now, false);
        } else if self.life.is_waiting() {
            self.life.restart(now.mono);
        }
        self.advance(now);
    }

    /// The process ends, or its settings name it no more: the upstream hears it, what is settled is told here, and what it keeps
    /// is told once more. Nothing follows.
    pub fn handle_stop(&mut self, now: Now) {
        if self.life.is_connected() {
            self.hang_up();
            self.drop_upstream(now);
        }
        self.life.pause();
        if self.settings.bytes_per_day > 0 {
            self.kept.budget = Some(self.budget.to_keep());
        }
        self.actions.push_back(Action::Tell { keep: Some(self.kept.write()) });
    }

    /// An operator wants it paused, or to go on.
    pub fn handle_pause(&mut self, now: Now, pause: bool) {
        if pause != self.kept.paused {
            self.kept.paused = pause;
            (self.changed, self.keep_changed) = (true, true);
            // An operator's answer is not kept waiting.
            self.told_at = None;
        }
        if pause && self.life.state != State::Paused {
            if self.life.is_connected() {
                self.hang_up();
                self.drop_upstream(now);
            }
            self.life.pause();
        } else if !pause && self.life.state == State::Paused {
            self.life.restart(now.mono);
        }
        self.advance(now);
    }

    /// The time of [`Bridge::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Now) {
        match self.life.state {
            State::Dialing(by) if by <= now.mono => {
                self.hang_up();
                let detail = "the connection was not there in time".into();
                self.lose(now, Failure { reason: Reason::Timeout, detail }, 0);
            }
            _ => {}
        }
        if let Some(upstream) = self.upstream.as_mut()
            && let Err(stop) = upstream.handle_timeout(now.mono)
        {
            self.stop(now, stop);
        }
        if self.life.is_open() && self.stalled_at().is_some_and(|at| at <= now.mono) {
            let detail = "what was sent is not acknowledged".into();
            self.stop(now, Stop::Failed(Failure { reason: Reason::Stalled, detail }, 0));
        }
        self.up.handle_timeout(now.mono);
        if self.life.returns(now.mono, self.settings.return_ms) {
            self.renew(now, true);
        }
        if !matches!(self.local.state, LocalState::Closed(_))
            && handle_link_timeout(&mut self.local.link, now.mono).is_err()
        {
            self.actions.push_back(Action::CloseLocal);
            self.lose_local(now, "the local broker is silent".into());
        }
        self.advance(now);
    }

    /// When to call [`Bridge::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        let local = match self.local.state {
            LocalState::Closed(at) => at,
            LocalState::Greeting | LocalState::Open => link_timeout(&self.local.link),
        };
        let tell = self.changed.then(|| self.told_at.map_or(Mono(0), |at| at.plus_ms(TELL_MS)));
        let upstream = self.upstream.as_ref().map(Upstream::poll_timeout);
        let times = [
            Some(local),
            self.local.retry_at,
            // Until the local session is open it is not dialed.
            self.life.poll_timeout(self.settings.return_ms).filter(|_| self.local.is_open() || !self.life.is_waiting()),
            upstream,
            self.stalled_at(),
            self.up.poll_timeout(),
            self.down.poll_timeout(),
            self.up.look_at,
            tell,
        ];
        times.into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    // -- what follows --

    /// The session at the upstream is open.
    pub(super) fn opened(&mut self, now: Now) {
        if let Some(terms) = self.upstream.as_ref().and_then(Upstream::terms) {
            (self.passage.record_bytes_max, self.passage.lz4) = (terms.message_bytes_max as usize, terms.lz4);
        }
        self.down.upstream_opened();
        self.up.open(self.window_max());
        let jitter = self.life.jitter();
        self.pace.drain(now.mono, self.settings.ramp_ms, jitter);
        self.changed = true;
    }

    fn stop(&mut self, now: Now, stop: Stop) {
        if let Stop::Failed(failure, retry_after_ms) = stop {
            self.hang_up();
            self.lose(now, failure, retry_after_ms);
        }
    }

    /// Ends the connection; the upstream hears that it is meant.
    fn hang_up(&mut self) {
        self.last_words.clear();
        if let Some(upstream) = self.upstream.as_mut() {
            upstream.frame(FrameType::Close, 0, &Close { code: Code::Normal as u16, detail: "" });
            upstream.poll_control(&mut self.last_words);
        }
        self.actions.push_back(Action::HangUp { number: self.life.number });
    }

    /// Ends the connection on purpose, to make another at once.
    pub(super) fn renew(&mut self, now: Now, preferred: bool) {
        self.hang_up();
        self.drop_upstream(now);
        self.life.renew(now.mono, preferred);
    }

    /// The connection is gone or could not be made.
    fn lose(&mut self, now: Now, failure: Failure, retry_after_ms: u32) {
        self.drop_upstream(now);
        self.life.failed(now.mono, failure, retry_after_ms, self.settings.urls.len());
    }

    /// What was under way goes back to the queues.
    fn drop_upstream(&mut self, _now: Now) {
        self.changed = true;
        let Some(upstream) = self.upstream.take() else { return };
        self.counters.bytes.0 += upstream.bytes.0;
        self.counters.bytes.1 += upstream.bytes.1;
        self.settle();
        self.up.clear();
        self.down.upstream_closed();
        if self.local.is_open() {
            self.local.give_back(&self.settings.consumer(), window(&self.settings));
        }
    }

    /// The local session is gone, and with it what it gave.
    fn lose_local(&mut self, now: Now, detail: String) {
        self.up.clear();
        self.down.local_closed();
        self.local.lost(now);
        self.changed = true;
        if self.life.is_connected() {
            self.hang_up();
            self.drop_upstream(now);
            self.life.failed(now.mono, Failure { reason: Reason::Local, detail }, 0, self.settings.urls.len());
        } else {
            self.life.last = Some((Failure { reason: Reason::Local, detail }, now.mono));
        }
    }

    /// Tells the local broker what is settled.
    fn settle(&mut self) {
        for settled in self.up.acks.drain(..) {
            self.local.ack(settled.consumer, settled.first, settled.count);
            self.counters.acked += u64::from(settled.count);
            self.changed = true;
        }
        for given_up in self.up.given_up.drain(..) {
            let code = Code::from_u16(given_up.code).map_or_else(|| given_up.code.to_string(), |c| c.to_string());
            let mut reason = format!("the upstream refused it: {code}");
            if !given_up.detail.is_empty() {
                reason = format!("{reason}: {}", given_up.detail);
            }
            let mut end = reason.len().min(DETAIL_BYTES_MAX);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            self.local.give_up(given_up.consumer, given_up.tag, &reason[..end]);
            *self.counters.dropped.entry(code).or_default() += 1;
            self.changed = true;
        }
    }

    /// When the link is given up because nothing is acknowledged.
    fn stalled_at(&self) -> Option<Mono> {
        let upstream = self.upstream.as_ref().filter(|_| self.life.is_open())?;
        let oldest = self.up.oldest()?;
        let ack_ms = u64::from(self.settings.ack_ms_max);
        let still = upstream.moved_at.max(oldest).plus_ms(2 * ack_ms);
        // Twice what all that is under way takes at the rate the link was seen to have.
        let need_ms = match self.up.window.rate() {
            0 => 0,
            rate => self.up.window.under_way().1.saturating_mul(2_000) / rate,
        };
        Some(still.min(oldest.plus_ms(need_ms.max(UNACKED_TIMES * ack_ms))))
    }

    /// Does whatever follows from what was told.
    fn advance(&mut self, now: Now) {
        if let LocalState::Closed(at) = self.local.state
            && at <= now.mono
        {
            let client = self.settings.consumer();
            // To this broker its upstream is the edge: what came from there does not go back, and is known when it comes again.
            let upstream = upstream_name(&self.edge, &self.settings.name);
            self.local.open(now, &client, &BridgeHello { edge: &upstream, bridge: &self.settings.name });
            self.actions.push_back(Action::OpenLocal);
        }
        if self.local.retry_at.is_some_and(|at| at <= now.mono) {
            self.local.consume(&self.settings.consumer(), window(&self.settings));
        }
        if let State::Waiting(at) = self.life.state
            && at <= now.mono
            && self.local.is_open()
        {
            let (number, url) = self.life.dial(now.mono, self.settings.urls.len());
            self.actions.push_back(Action::Dial { number, url });
            self.changed = true;
        }
        self.settle();
        self.look_at_budget(now);
        if self.life.is_open() && self.local.is_open() && self.upstream.as_ref().is_some_and(|u| u.going.is_none()) {
            // Twice what may be under way: enough to go on with, and little enough that what is urgent is soon given.
            let (max, (messages, bytes)) = (self.window_max(), self.up.window.limits());
            let bytes = u32::try_from(bytes.saturating_mul(2)).unwrap_or(u32::MAX);
            self.grant((messages.saturating_mul(2).min(max.messages), bytes.min(max.bytes)));
        }
        self.down.advance(now.mono, &self.settings);
        if let Some(problem) = self.down.problem.take() {
            self.life.last = Some((problem, now.mono));
            self.changed = true;
        }
        if self.changed && self.told_at.is_none_or(|at| at.plus_ms(TELL_MS) <= now.mono) {
            self.changed = false;
            self.told_at = Some(now.mono);
            let keep = std::mem::take(&mut self.keep_changed).then(|| self.kept.write());
            self.actions.push_back(Action::Tell { keep });
        }
    }

    /// Gives the queues credit for so many messages and bytes: each its part, and those that have something what is left.
    fn grant(&mut self, (messages, bytes): (u32, u32)) {
        let count = self.local.consumers.len();
        let (mut all, mut all_bytes) = (0, 0);
        for at in 0..count {
            let ((held, held_bytes), _) = self.up.held(at);
            all += held;
            all_bytes += held_bytes;
        }
        let parts = count.max(1) as u32;
        for at in 0..count {
            let (held, lanes) = self.up.held(at);
            let mut share = (messages / parts, bytes / parts);
            if held.0 > 0 {
                let others = u32::try_from(all_bytes - held.1).unwrap_or(u32::MAX);
                share.0 = share.0.max(messages.saturating_sub(all - held.0));
                share.1 = share.1.max(bytes.saturating_sub(others));
            }
            self.local.grant(at, share, held, lanes);
        }
    }

    /// Ends the connection while the day's bytes are used up.
    fn look_at_budget(&mut self, now: Now) {
        if self.life.is_connected() && self.budget.left(now) == 0 {
            self.hang_up();
            self.drop_upstream(now);
            self.life.spend(now.mono.plus_ms(self.budget.wait_ms(now)));
            self.kept.budget = Some(self.budget.to_keep());
            (self.changed, self.keep_changed) = (true, true);
        }
        if let State::Spent(until) = self.life.state
            && until <= now.mono
        {
            match self.budget.left(now) {
                0 => self.life.spend(now.mono.plus_ms(self.budget.wait_ms(now))),
                _ => self.life.restart(now.mono),
            }
        }
        if let Some(kept) = self.budget.keep(now) {
            self.kept.budget = Some(kept);
            (self.changed, self.keep_changed) = (true, true);
        }
    }

    /// The window in force, in messages and bytes.
    pub(super) fn window(&self) -> (u64, u64) {
        let (messages, bytes) = self.up.window.limits();
        if self.life.is_open() { (u64::from(messages), bytes) } else { (0, 0) }
    }

    /// The most that may be under way.
    fn window_max(&self) -> WindowMax {
        let (messages, bytes) = (self.settings.window_messages, self.settings.window_bytes);
        match self.upstream.as_ref().and_then(Upstream::terms) {
            Some(terms) => {
                WindowMax { messages: messages.min(terms.window_messages), bytes: bytes.min(terms.window_bytes) }
            }
            None => WindowMax { messages, bytes },
        }
    }
}

/// Bytes that may wait for the local broker before the upstream is not read from.
const LOCAL_BYTES_MAX: usize = 1_024 * 1_024;

/// Deliveries that may be outstanding at a time, of one queue: a window for each lane that cannot go on, and one for the rest.
pub(super) fn window(settings: &BridgeSettings) -> u32 {
    settings.window_messages.saturating_mul(PRIORITIES as u32 + 1)
}

/// Most that may go a second.
fn caps(settings: &BridgeSettings) -> Caps {
    Caps { bytes: settings.bytes_per_second, messages: settings.messages_per_second }
}

/// Settings without what takes effect on a connection as it is.
fn calm(settings: &BridgeSettings) -> BridgeSettings {
    let blank = BridgeSettings::new("");
    BridgeSettings {
        ack_ms_max: blank.ack_ms_max,
        window_messages: blank.window_messages,
        window_bytes: blank.window_bytes,
        weights: blank.weights,
        bytes_per_second: 0,
        messages_per_second: 0,
        bytes_per_day: 0,
        ramp_ms: 0,
        hops_max: 0,
        return_ms: 0,
        ..settings.clone()
    }
}
