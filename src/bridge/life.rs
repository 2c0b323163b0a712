//! A bridge's way to its upstream: which address is dialed when, how long it waits, and when it may begin anew.

use super::{Failure, Reason};
use crate::model::Mono;
use crate::model::admin::BridgeState;
use crate::schedule::backoff_ms;

/// First wait once every address was tried, in milliseconds; doubled each time.
const BACKOFF_MS: u32 = 1_000;
/// Longest wait, in milliseconds.
const BACKOFF_MS_MAX: u32 = 60_000;
/// Milliseconds after which a connection that is not there yet is given up.
const DIAL_MS_MAX: u64 = 30_000;
/// Milliseconds after which an open link that acknowledged something has held.
const HELD_MS: u64 = 30_000;
/// Milliseconds after which an open link has held though nothing was to be acknowledged.
const HELD_IDLE_MS: u64 = 60_000;
/// Milliseconds a link must have been open to be ended for new credentials or another address without counting as lost.
const PLANNED_MS_MIN: u64 = 60_000;

/// What it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Dials at this time.
    Waiting(Mono),
    /// Dialed; given up at this time.
    Dialing(Mono),
    /// Says hello and logs in; the link knows how long that may take.
    Greeting,
    /// Open since.
    Open(Mono),
    /// An operator paused it.
    Paused,
    /// The day's bytes are used up; looked at again at this time.
    Spent(Mono),
}

/// The state, the address, and what it learned.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) state: State,
    /// Number of the last connection.
    pub(super) number: u64,
    /// The address in use, or tried last.
    pub(super) at: usize,
    /// The address to try next.
    next: usize,
    /// Addresses tried since the last wait.
    tried: usize,
    /// Waits since a link held.
    waits: u32,
    /// Whether the open link acknowledged something.
    acked: bool,
    /// Connections that came to be open.
    pub(super) connects: u64,
    /// Why the last one ended or could not be made, and when.
    pub(super) last: Option<(Failure, Mono)>,
    rng: fastrand::Rng,
}

impl Life {
    pub(super) fn new(now: Mono, seed: u64, paused: bool) -> Self {
        Self {
            state: if paused { State::Paused } else { State::Waiting(now) },
            number: 0,
            at: 0,
            next: 0,
            tried: 0,
            waits: 0,
            acked: false,
            connects: 0,
            last: None,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether there is, or is to be, a connection of this number.
    pub(super) fn is_of(&self, number: u64) -> bool {
        number == self.number && self.is_connected()
    }

    /// Whether a connection is there or being made.
    pub(super) const fn is_connected(&self) -> bool {
        matches!(self.state, State::Dialing(_) | State::Greeting | State::Open(_))
    }

    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(_))
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// The time to dial has come: number and address.
    pub(super) fn dial(&mut self, now: Mono, urls: usize) -> (u64, usize) {
        self.number += 1;
        self.at = if self.next < urls { self.next } else { 0 };
        self.state = State::Dialing(now.plus_ms(DIAL_MS_MAX));
        self.acked = false;
        (self.number, self.at)
    }

    pub(super) fn dialed(&mut self) {
        self.state = State::Greeting;
    }

    pub(super) fn opened(&mut self, now: Mono) {
        self.state = State::Open(now);
        self.connects += 1;
    }

    /// The upstream acknowledged something.
    pub(super) fn acknowledged(&mut self) {
        self.acked = true;
    }

    /// Whether the link that is open now has held.
    fn held(&self, now: Mono) -> bool {
        let State::Open(since) = self.state else { return false };
        let (open, stalled) = (now.ms_since(since), matches!(&self.last, Some((f, _)) if f.reason == Reason::Stalled));
        (self.acked && open >= HELD_MS) || (open >= HELD_IDLE_MS && !stalled)
    }

    /// A connection ended or could not be made: the next address at once, or a wait once all were tried; no shorter than the
    /// upstream asked for.
    pub(super) fn failed(&mut self, now: Mono, failure: Failure, retry_after_ms: u32, urls: usize) {
        self.last = Some((failure, now));
        if self.held(now) {
            (self.tried, self.waits) = (0, 0);
        }
        self.tried += 1;
        let mut wait_ms = u64::from(retry_after_ms.min(BACKOFF_MS_MAX));
        if self.tried < urls {
            self.next = (self.at + 1) % urls;
            // Another address need not be as busy.
            wait_ms = 0;
        } else {
            wait_ms = wait_ms.max(backoff_ms(BACKOFF_MS, BACKOFF_MS_MAX, self.waits, self.rng.f64()));
            self.waits = self.waits.saturating_add(1);
            (self.tried, self.next) = (0, 0);
        }
        self.state = State::Waiting(now.plus_ms(wait_ms));
    }

    /// Ends a link on purpose, to dial at once: the preferred address, or the same again.
    pub(super) fn renew(&mut self, now: Mono, preferred: bool) {
        if self.held(now) {
            self.waits = 0;
        }
        self.tried = 0;
        self.next = if preferred { 0 } else { self.at };
        self.state = State::Waiting(now);
    }

    /// Whether the open link is old enough to be ended on purpose.
    pub(super) fn may_renew(&self, now: Mono) -> bool {
        matches!(self.state, State::Open(since) if now.ms_since(since) >= PLANNED_MS_MIN)
    }

    /// When the preferred address is tried again, where another one is in use.
    fn return_at(&self, return_ms: u32) -> Option<Mono> {
        match self.state {
            State::Open(since) if self.at != 0 => Some(since.plus_ms(u64::from(return_ms).max(PLANNED_MS_MIN))),
            _ => None,
        }
    }

    pub(super) fn returns(&self, now: Mono, return_ms: u32) -> bool {
        self.return_at(return_ms).is_some_and(|at| at <= now)
    }

    /// An operator paused it.
    pub(super) fn pause(&mut self) {
        self.state = State::Paused;
    }

    /// The day's bytes are used up.
    pub(super) fn spend(&mut self, until: Mono) {
        self.state = State::Spent(until);
    }

    /// Feeds jitter, 0 to 1.
    pub(super) fn jitter(&mut self) -> f64 {
        self.rng.f64()
    }

    /// It begins anew, with the preferred address, at once.
    pub(super) fn restart(&mut self, now: Mono) {
        (self.next, self.tried, self.waits) = (0, 0, 0);
        self.state = State::Waiting(now);
    }

    pub(super) fn poll_timeout(&self, return_ms: u32) -> Option<Mono> {
        match self.state {
            State::Waiting(at) | State::Dialing(at) | State::Spent(at) => Some(at),
            State::Open(_) => self.return_at(return_ms),
            State::Greeting | State::Paused => None,
        }
    }

    pub(super) const fn name(&self) -> BridgeState {
        match self.state {
            State::Waiting(_) => BridgeState::Waiting,
            State::Dialing(_) => BridgeState::Connecting,
            State::Greeting => BridgeState::Greeting,
            State::Open(_) => BridgeState::Open,
            State::Paused => BridgeState::Paused,
            State::Spent(_) => BridgeState::Spent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: Reason) -> Failure {
        Failure { reason, detail: String::new() }
    }

    fn life() -> Life {
        Life::new(Mono(0), 7, false)
    }

    /// Fails at once and returns the wait in milliseconds.
    fn fail(life: &mut Life, now: Mono, urls: usize) -> u64 {
        life.dial(now, urls);
        life.failed(now, failure(Reason::Refused), 0, urls);
        match life.state {
            State::Waiting(at) => at.ms_since(now),
            state => panic!("{state:?}"),
        }
    }

    #[test]
    fn it_waits_1_2_4_to_60_seconds_with_jitter_between_half_and_all() {
        let mut life = life();
        for full in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            let wait = fail(&mut life, Mono(0), 1);
            assert!((full / 2..=full).contains(&wait), "{wait} of {full}");
        }
    }

    #[test]
    fn every_address_is_tried_before_it_waits_and_the_preferred_is_the_first_again() {
        let mut life = life();
        let mut tried = Vec::new();
        for _ in 0..5 {
            let wait = fail(&mut life, Mono(0), 3);
            tried.push((life.at, wait > 0));
        }
        assert_eq!(tried, [(0, false), (1, false), (2, true), (0, false), (1, false)]);
    }

    #[test]
    fn the_wait_begins_anew_only_after_a_link_has_held() {
        for (open_ms, acked, anew) in
            [(29_000, true, false), (30_000, true, true), (59_000, false, false), (60_000, false, true)]
        {
            let mut life = life();
            for _ in 0..5 {
                fail(&mut life, Mono(0), 1);
            }
            life.dial(Mono(0), 1);
            life.opened(Mono(0));
            if acked {
                life.acknowledged();
            }
            let end = Mono(0).plus_ms(open_ms);
            life.failed(end, failure(Reason::Closed), 0, 1);
            let State::Waiting(at) = life.state else { panic!() };
            assert_eq!(at.ms_since(end) <= 1_000, anew, "{open_ms} {acked}");
        }
    }

    #[test]
    fn what_the_upstream_asks_to_wait_is_waited_and_no_more_than_a_minute() {
        for (asked, at_least) in [(20_000, 20_000), (u32::MAX, 60_000)] {
            let mut life = life();
            life.dial(Mono(0), 1);
            life.failed(Mono(0), failure(Reason::Protocol), asked, 1);
            assert_eq!(life.state, State::Waiting(Mono(0).plus_ms(at_least)));
        }
    }

    #[test]
    fn it_returns_to_the_preferred_address_after_a_time_and_fails_over_again_at_once() {
        let mut life = life();
        fail(&mut life, Mono(0), 2);
        life.dial(Mono(0), 2);
        life.opened(Mono(0));
        assert_eq!(life.at, 1);
        let back = Mono(0).plus_ms(300_000);
        assert_eq!(life.poll_timeout(300_000), Some(back));
        assert!(!life.returns(Mono(1), 300_000) && life.returns(back, 300_000));
        life.renew(back, true);
        assert_eq!(fail(&mut life, back, 2), 0);
        assert_eq!(life.at, 0);
        assert_eq!(life.dial(back, 2).1, 1);
    }
}
