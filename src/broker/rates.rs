//! How fast principals and tenants may publish, and what becomes of who goes on all the same: a nack that says how long to
//! wait, then a pause, then the end.

use super::login::Source;
use super::{Broker, Timer};
use crate::model::{ConnId, Mono, MountId};
use crate::protocols::Fault;
use crate::schedule::{Bucket, Rate};
use crate::session::{Patience, Publisher};
use crate::wire::Code;
use hashbrown::HashMap;
use std::cell::Cell;
use std::rc::Rc;

/// Messages and bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limit {
    messages: Option<Rate>,
    bytes: Option<Rate>,
}

impl Limit {
    /// So many a second and twice as many at once; 0 is no limit.
    pub(super) fn per_second(messages: u32, bytes: u64) -> Self {
        let rate = |per_second: u64| Rate::new(per_second, per_second.saturating_mul(2));
        Self { messages: rate(u64::from(messages)), bytes: rate(bytes) }
    }

    const fn is_none(&self) -> bool {
        self.messages.is_none() && self.bytes.is_none()
    }
}

/// What is left of a limit; of what was never used nothing is missing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Budget {
    /// Microseconds until a message of this size may pass.
    fn wait_us(&self, limit: Limit, now: Mono, bytes: u64) -> u64 {
        let wait = |bucket: Option<Bucket>, rate: Option<Rate>, tokens| match (bucket, rate) {
            (Some(bucket), Some(rate)) => bucket.wait_us(rate, now, tokens),
            _ => 0,
        };
        wait(self.messages, limit.messages, 1).max(wait(self.bytes, limit.bytes, bytes))
    }

    fn take(&mut self, limit: Limit, now: Mono, bytes: u64) {
        let take = |bucket: &mut Option<Bucket>, rate: Option<Rate>, tokens| {
            if let Some(rate) = rate {
                bucket.get_or_insert_with(|| Bucket::full(rate, now)).take(rate, now, tokens);
            }
        };
        take(&mut self.messages, limit.messages, 1);
        take(&mut self.bytes, limit.bytes, bytes);
    }

    fn is_full(&self, limit: Limit, now: Mono) -> bool {
        let full = |bucket: Option<Bucket>, rate: Option<Rate>| match (bucket, rate) {
            (Some(bucket), Some(rate)) => bucket.is_full(rate, now),
            _ => true,
        };
        full(self.messages, limit.messages) && full(self.bytes, limit.bytes)
    }
}

/// A budget that sessions of one principal share.
pub(super) type Shared = Rc<Cell<Budget>>;

/// Budgets of principals, also of such as have just gone: to come back is no way to a full one.
#[derive(Default)]
pub(super) struct Budgets {
    of: HashMap<(MountId, Box<str>), Shared>,
}

impl Budgets {
    /// The budget of a principal.
    fn get(&mut self, mount: MountId, name: &str, most: usize, limit: Limit, now: Mono) -> Shared {
        if let Some(known) = self.of.get(&(mount, name.into())) {
            return Rc::clone(known);
        }
        if self.of.len() >= most {
            self.forget(limit, now);
        }
        let fresh = Shared::default();
        if self.of.len() < most {
            self.of.insert((mount, name.into()), Rc::clone(&fresh));
        }
        fresh
    }

    /// Forgets those of which nothing is missing, and that no session has.
    pub(super) fn forget(&mut self, limit: Limit, now: Mono) {
        self.of.retain(|_, budget| Rc::strong_count(budget) > 1 || !budget.get().is_full(limit, now));
    }

    pub(super) fn len(&self) -> usize {
        self.of.len()
    }
}

/// How a session behaves that was told to wait.
#[derive(Debug, Default)]
pub(super) struct Manners {
    /// Pauses since it last waited by itself.
    pauses: u8,
    /// It was paused since it was last told to wait: that it came late is not its doing.
    made_to_wait: bool,
    /// It is not read from before this time.
    until: Option<Mono>,
}

impl Manners {
    /// Whether it is not to be read from.
    pub(super) fn is_paused(&self, now: Mono) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// Milliseconds a refused publisher is told to wait at least: so that it comes back with more than one message to send.
const RETRY_MS_MIN: u64 = 100;
/// Milliseconds of the longest pause.
const PAUSE_MS_MAX: u64 = 60_000;
/// Pauses of a session that never waits by itself, before its end.
const PAUSES_MAX: u8 = 3;

impl Broker {
    /// Takes over what the settings say of principals.
    pub(super) fn set_rates(&mut self) {
        let rates = &self.settings.limits.rates;
        self.rates = Limit::per_second(rates.messages_per_second, rates.bytes_per_second);
    }

    /// Whether anything is limited for who publishes in this mount.
    pub(super) fn is_limited(&self, mount: usize) -> bool {
        !self.rates.is_none() || !self.mounts[mount].limit.is_none()
    }

    /// Takes a message of this size from the budgets of its publisher and its tenant, or from neither: then it says after how
    /// many microseconds both will have it.
    pub(super) fn spend(&mut self, conn: ConnId, mount: usize, bytes: u64) -> Result<(), u64> {
        let now = self.now.mono;
        let tenant = &mut self.mounts[mount];
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        let most = 2 * self.settings.limits.connections_max as usize;
        let (rates, budgets, name) = (self.rates, &mut self.budgets, &c.session.principal.name);
        let own = c.budget.get_or_insert_with(|| match &**name {
            // Whoever has no name is known by the address, which is no name: more connections are no way to more.
            "" => budgets.get(tenant.id, &format!("\0{:?}", Source::of(&c.peer)), most, rates, now),
            name => budgets.get(tenant.id, name, most, rates, now),
        });
        let mut left = own.get();
        match left.wait_us(rates, now, bytes).max(tenant.budget.wait_us(tenant.limit, now, bytes)) {
            0 => {
                left.take(rates, now, bytes);
                own.set(left);
                tenant.budget.take(tenant.limit, now, bytes);
                Ok(())
            }
            wait => Err(wait),
        }
    }

    /// A publisher came back that was told to wait, or it goes on without having understood.
    ///
    /// # Errors
    /// It does so again and again: its session is to end.
    pub(super) fn mind(&mut self, conn: ConnId, publisher: &Publisher, patience: Patience) -> Result<(), Fault> {
        let now = self.now.mono;
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        let manners = &mut c.manners;
        match patience {
            Patience::Unasked => {}
            Patience::Waited => {
                if !std::mem::take(&mut manners.made_to_wait) {
                    manners.pauses = 0;
                }
            }
            Patience::Lost if manners.pauses >= PAUSES_MAX => {
                let (mount, detail) = (c.mount, "it went on publishing above its rate though it was told to wait");
                self.mounts[mount].tally.refuse(Code::RateExceeded, 1);
                return Err(Fault::new(Code::RateExceeded, detail));
            }
            Patience::Lost => {
                manners.pauses += 1;
                manners.made_to_wait = true;
                let until = publisher.waits_until().unwrap_or(now);
                let until = until.clamp(now.plus_ms(RETRY_MS_MIN), now.plus_ms(PAUSE_MS_MAX));
                manners.until = Some(until);
                self.counters.paused += 1;
                self.timers.set(Timer::Pause(conn), until);
            }
        }
        Ok(())
    }

    /// A pause is over.
    pub(super) fn end_pause(&mut self, conn: ConnId) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.manners.until = None;
            self.hold_or_release(conn);
        }
    }
}

/// What a publisher is told to wait, in milliseconds: long enough for the message that was refused.
pub(super) fn retry_ms(wait_us: u64) -> u32 {
    u32::try_from(wait_us.div_ceil(1_000).max(RETRY_MS_MIN)).unwrap_or(u32::MAX)
}
