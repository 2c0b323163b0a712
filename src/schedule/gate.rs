//! What addresses may try: connects by a bucket each, logins with a delay that grows as they fail. Bounded: the address that
//! was idle longest is forgotten.

use super::bucket::{Bucket, Rate};
use crate::model::Mono;
use hashbrown::HashMap;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Milliseconds the first delay lasts; each next is twice as long.
const DELAY_MS: u64 = 1_000;
/// Milliseconds of the longest delay; also the time in which one failure is forgiven.
const DELAY_MS_MAX: u64 = 60_000;
/// Failures beyond the free ones that make a difference.
const DOUBLINGS: u32 = 6;

/// The addresses seen lately.
#[derive(Debug)]
pub struct Gate {
    entries: HashMap<Key, Entry>,
    /// By the time they were last seen.
    order: BTreeSet<(Mono, Key)>,
    addresses_max: usize,
}

/// An IPv4 address, or the first 64 bits of an IPv6 one: a network's owner has all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    V4(u32),
    V6(u64),
}

impl Key {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    seen: Mono,
    /// What is left of its connects, once there is a limit.
    connects: Option<Bucket>,
    failures: u32,
    failed: Mono,
    /// No login before this time.
    until: Mono,
}

impl Gate {
    /// Nobody was seen yet; `addresses_max` (at least 1) is how many are remembered.
    #[must_use]
    pub fn new(addresses_max: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeSet::new(), addresses_max: addresses_max.max(1) }
    }

    /// Somebody connects.
    ///
    /// # Errors
    /// The address connects too often: milliseconds until it may again.
    pub fn connect(&mut self, address: IpAddr, rate: Rate, now: Mono) -> Result<(), u32> {
        let entry = self.entry(address, now);
        let bucket = entry.connects.get_or_insert_with(|| Bucket::full(rate, now));
        match bucket.wait_us(rate, now, 1) {
            0 => {
                bucket.take(rate, now, 1);
                Ok(())
            }
            wait => Err(ms(wait)),
        }
    }

    /// Somebody is about to be looked at who shows credentials. Ask again right before they are verified where that had to
    /// wait: others of the address may have failed meanwhile.
    ///
    /// # Errors
    /// Logins of the address failed too often: milliseconds until it may try again.
    pub fn login(&self, address: IpAddr, now: Mono) -> Result<(), u32> {
        let Some(entry) = self.entries.get(&Key::of(address)) else { return Ok(()) };
        match entry.until.0.saturating_sub(now.0) {
            0 => Ok(()),
            wait => Err(ms(wait)),
        }
    }

    /// A login failed. Returns the milliseconds the address has to wait now: 0 for the first `free` of them; with `free` 0
    /// there is no delay at all. One failure is forgiven for each minute without another.
    pub fn failed(&mut self, address: IpAddr, free: u32, now: Mono) -> u32 {
        let entry = self.entry(address, now);
        let forgiven = u32::try_from(now.ms_since(entry.failed) / DELAY_MS_MAX).unwrap_or(u32::MAX);
        entry.failures =
            entry.failures.saturating_sub(forgiven).saturating_add(1).min(free.saturating_add(DOUBLINGS + 1));
        entry.failed = now;
        if free == 0 || entry.failures <= free {
            return 0;
        }
        let delay = (DELAY_MS << (entry.failures - free - 1).min(DOUBLINGS)).min(DELAY_MS_MAX);
        entry.until = now.plus_ms(delay);
        delay as u32
    }

    /// Addresses remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&mut self, address: IpAddr, now: Mono) -> &mut Entry {
        let key = Key::of(address);
        let fresh = Entry { seen: now, connects: None, failures: 0, failed: now, until: Mono(0) };
        match self.entries.get_mut(&key) {
            Some(known) => {
                self.order.remove(&(known.seen, key));
                known.seen = now;
            }
            None => {
                if self.entries.len() >= self.addresses_max
                    && let Some((_, oldest)) = self.order.pop_first()
                {
                    self.entries.remove(&oldest);
                }
            }
        }
        self.order.insert((now, key));
        self.entries.entry(key).or_insert(fresh)
    }
}

/// Whole milliseconds that last at least so many microseconds.
fn ms(us: u64) -> u32 {
    u32::try_from(us.div_ceil(1_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    fn at(ms: u64) -> Mono {
        Mono(0).plus_ms(ms)
    }

    #[test]
    fn an_address_connects_as_often_as_it_may_and_costs_no_other_anything() {
        let rate = Rate::new(2, 4).expect("a limit");
        let mut gate = Gate::new(10);
        let passed = (0..9).filter(|_| gate.connect(v4(1), rate, at(0)).is_ok()).count();
        assert_eq!((passed, gate.connect(v4(1), rate, at(0)), gate.connect(v4(2), rate, at(0))), (4, Err(500), Ok(())));
        assert_eq!((gate.connect(v4(1), rate, at(499)), gate.connect(v4(1), rate, at(500))), (Err(1), Ok(())));
    }

    #[test]
    fn after_the_free_ones_each_failure_waits_twice_as_long_up_to_a_minute() {
        let mut gate = Gate::new(10);
        let mut now = at(0);
        let mut delays = Vec::new();
        for _ in 0..12 {
            assert_eq!(gate.login(v4(1), now), Ok(()));
            delays.push(gate.failed(v4(1), 3, now));
            now = now.plus_ms(u64::from(*delays.last().expect("one")));
        }
        assert_eq!(delays[..9], [0, 0, 0, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000]);
        assert_eq!(delays[9..], [60_000, 60_000, 60_000], "and stays there for who goes on");
        let last = now.plus_ms(0);
        assert_eq!((gate.login(v4(1), Mono(last.0 - 1_000)), gate.login(v4(1), last)), (Err(1), Ok(())));
        assert_eq!(gate.login(v4(2), last), Ok(()), "another address");
    }

    #[test]
    fn failures_are_forgiven_one_a_minute_and_without_a_limit_nothing_waits() {
        let mut gate = Gate::new(10);
        for _ in 0..5 {
            gate.failed(v4(1), 3, at(0));
        }
        assert_eq!(gate.failed(v4(1), 3, at(4 * 60_000)), 0, "four of five are forgiven");
        assert_eq!(gate.failed(v4(1), 3, at(4 * 60_000)), 0);
        assert_eq!(gate.failed(v4(1), 3, at(4 * 60_000)), 1_000);
        assert!((0..1_000).all(|_| gate.failed(v4(2), 0, at(0)) == 0) && gate.login(v4(2), at(0)).is_ok());
    }

    #[test]
    fn at_once_failing_a_thousand_times_is_paid_for_no_longer_than_the_longest_delay() {
        let mut gate = Gate::new(10);
        for _ in 0..1_000 {
            gate.failed(v4(1), 3, at(0));
        }
        assert_eq!(gate.login(v4(1), at(0)), Err(60_000));
        assert_eq!(gate.failed(v4(1), 3, at(10 * 60_000)), 0);
    }

    #[test]
    fn a_network_is_one_address_and_an_old_one_in_new_clothes_the_same() {
        let mut gate = Gate::new(10);
        let rate = Rate::new(1, 1).expect("a limit");
        let v6 = |low: u64| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8_0000_0001_u128 << 64 | u128::from(low)));
        assert_eq!((gate.connect(v6(1), rate, at(0)), gate.connect(v6(2), rate, at(0))), (Ok(()), Err(1_000)));
        let mapped = IpAddr::from(Ipv4Addr::from_bits(7).to_ipv6_mapped());
        assert_eq!((gate.connect(v4(7), rate, at(0)), gate.connect(mapped, rate, at(0))), (Ok(()), Err(1_000)));
        assert_eq!(gate.len(), 2);
    }

    #[test]
    fn of_more_addresses_than_it_remembers_the_longest_idle_is_forgotten() {
        let mut gate = Gate::new(100);
        for _ in 0..4 {
            gate.failed(v4(0), 3, at(0));
        }
        for n in 1..10_000 {
            gate.failed(v4(n), 3, at(u64::from(n)));
            // Looked at again and again: not idle.
            if n % 50 == 0 {
                gate.failed(v4(0), 3, at(u64::from(n)));
            }
            assert!(gate.len() <= 100 && gate.order.len() == gate.len());
        }
        assert!(gate.login(v4(0), at(10_000)).is_err() && gate.entries.get(&Key::of(v4(9_000))).is_none());
    }
}
