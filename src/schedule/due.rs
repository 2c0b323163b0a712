//! A queue of due times: one time a key, cheap to move.

use crate::model::Mono;
use hashbrown::HashMap;
use std::collections::BTreeSet;
use std::hash::Hash;

/// Keys and when they are due.
#[derive(Debug)]
pub struct Due<K> {
    times: HashMap<K, Mono>,
    order: BTreeSet<(Mono, K)>,
}

impl<K: Copy + Ord + Hash> Default for Due<K> {
    fn default() -> Self {
        Self { times: HashMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Copy + Ord + Hash> Due<K> {
    /// Sets the time of a key, replacing an older one.
    pub fn set(&mut self, key: K, at: Mono) {
        if let Some(old) = self.times.insert(key, at) {
            self.order.remove(&(old, key));
        }
        self.order.insert((at, key));
    }

    /// Sets the time of a key unless an earlier one stands.
    pub fn set_earlier(&mut self, key: K, at: Mono) {
        if self.times.get(&key).is_none_or(|old| at < *old) {
            self.set(key, at);
        }
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: K) {
        if let Some(old) = self.times.remove(&key) {
            self.order.remove(&(old, key));
        }
    }

    /// Forgets all keys but these.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.times.retain(|key, _| keep(key));
        self.order.retain(|(_, key)| keep(key));
    }

    /// When the first is due.
    #[must_use]
    pub fn next(&self) -> Option<Mono> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the first key that is due.
    pub fn pop(&mut self, now: Mono) -> Option<K> {
        let (at, key) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.order.pop_first();
        self.times.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_out_in_the_order_of_their_last_time() {
        let mut due = Due::default();
        due.set(1, Mono(30));
        due.set(2, Mono(10));
        due.set(1, Mono(5));
        due.set_earlier(2, Mono(20));
        due.set(3, Mono(7));
        due.remove(3);
        assert_eq!(due.next(), Some(Mono(5)));
        assert_eq!((due.pop(Mono(4)), due.pop(Mono(9)), due.pop(Mono(9))), (None, Some(1), None));
        assert_eq!((due.pop(Mono(10)), due.next()), (Some(2), None));
    }
}
