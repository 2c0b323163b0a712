//! Counters of the single-threaded broker: plain numbers that only grow, listed by one visitor.

use crate::wire::{Code, Outcome};

/// Why a message was dropped after it had been taken, or instead of being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// A full queue dropped its oldest.
    OldestOfQueue,
    /// A full queue dropped the new one.
    NewestOfQueue,
    /// It outlived its own TTL.
    Expired,
    /// It outlived the queue's age.
    Aged,
    /// A live subscriber did not read fast enough.
    SlowReader,
    /// It exhausted its attempts, and no dead letter could be written.
    Undeliverable,
    /// A person purged the queue.
    Purged,
}

impl DropReason {
    /// Every reason, in order.
    pub const ALL: [Self; 7] = [
        Self::OldestOfQueue,
        Self::NewestOfQueue,
        Self::Expired,
        Self::Aged,
        Self::SlowReader,
        Self::Undeliverable,
        Self::Purged,
    ];

    /// Its name in documents, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OldestOfQueue => "drop-oldest",
            Self::NewestOfQueue => "drop-newest",
            Self::Expired => "expired",
            Self::Aged => "aged",
            Self::SlowReader => "slow-reader",
            Self::Undeliverable => "undeliverable",
            Self::Purged => "purged",
        }
    }
}

/// Outcomes of a publish and their names, in the order of [`Outcome`]'s numbers.
const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Stored, "stored"),
    (Outcome::Duplicate, "duplicate"),
    (Outcome::LiveOnly, "live-only"),
    (Outcome::Dropped, "dropped"),
    (Outcome::Accepted, "accepted"),
];

const CODES: usize = Code::ALL.len();

/// What [`Counters::visit`] calls: a name, its labels, its value.
pub type Visitor<'a> = dyn FnMut(&'static str, &[(&'static str, &str)], u64) + 'a;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Everything counted since the start.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)*
            publishes: [u64; OUTCOMES.len()],
            nacks: [u64; CODES],
            dropped: [u64; DropReason::ALL.len()],
            sessions_closed: [u64; CODES],
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($field: 0,)*
                    publishes: [0; OUTCOMES.len()],
                    nacks: [0; CODES],
                    dropped: [0; DropReason::ALL.len()],
                    sessions_closed: [0; CODES],
                }
            }
        }

        impl Counters {
            fn visit_plain(&self, f: &mut Visitor<'_>) {
                $(f(stringify!($field), &[], self.$field);)*
            }
        }
    };
}

counters! {
    /// Bytes read from connections.
    bytes_in,
    /// Bytes given to connections.
    bytes_out,
    /// Frames read.
    frames_in,
    /// Frames written.
    frames_out,
    /// Bytes of records published and not refused.
    published_bytes,
    /// Messages sent to live subscriptions.
    deliveries_live,
    /// Messages sent to consumers, redeliveries among them.
    deliveries_queued,
    /// Messages sent to consumers again.
    redeliveries,
    /// Bytes of records sent to subscriptions and consumers.
    delivered_bytes,
    /// Messages that consumers acknowledged.
    consumer_acks,
    /// Messages that consumers refused.
    consumer_nacks,
    /// Deliveries whose session ended before it acknowledged them.
    consumer_returns,
    /// Messages moved to a dead-letter queue.
    dead_letters,
    /// Messages replayed from a dead-letter queue.
    replays,
    /// Retained values written or cleared.
    retained_writes,
    /// Requests taken.
    requests,
    /// Answers passed back.
    responses,
    /// History reads answered.
    history_reads,
    /// Commits done.
    commits,
    /// Messages in those commits.
    commit_messages,
    /// Bytes of records in those commits.
    commit_record_bytes,
    /// Bytes that those commits wrote to the file: divided by the bytes of records, the wear of the flash.
    commit_file_bytes,
    /// Commits that failed.
    commit_failures,
    /// Times that free space went below the low mark.
    storage_full_entered,
    /// Pages read from the store.
    store_reads,
    /// Connections accepted.
    sessions_opened,
    /// Sessions that finished their handshake.
    sessions_welcomed,
    /// Connections that went away without a word of their own or ours.
    sessions_lost,
    /// Times a session was not read from because it or the store was full.
    pauses,
}

impl Counters {
    /// Counts a publish that was not refused.
    pub fn publish(&mut self, outcome: Outcome) {
        self.publishes[outcome as usize] += 1;
    }

    /// Counts a refused publish.
    pub fn nack(&mut self, code: Code) {
        self.nacks[index(code)] += 1;
    }

    /// Counts dropped messages.
    pub fn drop(&mut self, reason: DropReason, messages: u64) {
        self.dropped[reason as usize] += messages;
    }

    /// Counts a session ended with a reason, theirs or ours.
    pub fn session_closed(&mut self, code: Code) {
        self.sessions_closed[index(code)] += 1;
    }

    /// Publishes with this outcome.
    #[must_use]
    pub const fn publishes(&self, outcome: Outcome) -> u64 {
        self.publishes[outcome as usize]
    }

    /// Publishes refused with this code.
    #[must_use]
    pub fn nacks(&self, code: Code) -> u64 {
        self.nacks[index(code)]
    }

    /// Messages dropped for this reason.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Lists every counter in a stable order. Of those told apart by a wire code, only codes that occurred are listed.
    pub fn visit(&self, f: &mut Visitor<'_>) {
        for (outcome, name) in OUTCOMES {
            f("publishes", &[("outcome", name)], self.publishes(outcome));
        }
        by_code("publish_nacks", &self.nacks, f);
        for reason in DropReason::ALL {
            f("dropped", &[("reason", reason.name())], self.dropped(reason));
        }
        by_code("sessions_closed", &self.sessions_closed, f);
        self.visit_plain(f);
    }
}

fn by_code(name: &'static str, counts: &[u64; CODES], f: &mut Visitor<'_>) {
    for (code, count) in Code::ALL.iter().zip(counts).filter(|(_, count)| **count > 0) {
        f(name, &[("code", code.name())], *count);
    }
}

/// Where a code stands in [`Code::ALL`].
fn index(code: Code) -> usize {
    Code::ALL.binary_search(&code).expect("ALL holds every code in the order of its numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn listed(counters: &Counters) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        counters.visit(&mut |name, labels, value| {
            let labels: String = labels.iter().map(|(key, value)| format!(" {key}={value}")).collect();
            assert_eq!(all.insert(format!("{name}{labels}"), value), None, "{name}{labels} is listed twice");
        });
        all
    }

    #[test]
    fn every_code_outcome_and_reason_has_its_own_place() {
        let mut counters = Counters::default();
        for (n, code) in Code::ALL.iter().enumerate() {
            for _ in 0..=n {
                counters.nack(*code);
                counters.session_closed(*code);
            }
        }
        for (n, (outcome, _)) in OUTCOMES.iter().enumerate() {
            assert_eq!(*outcome as usize, n, "the table is in the order of the numbers");
        }
        for (n, reason) in DropReason::ALL.iter().enumerate() {
            counters.drop(*reason, n as u64 + 1);
        }
        let all = listed(&counters);
        for (n, code) in Code::ALL.iter().enumerate() {
            assert_eq!(all[&format!("publish_nacks code={}", code.name())], n as u64 + 1);
            assert_eq!(all[&format!("sessions_closed code={}", code.name())], n as u64 + 1);
        }
        for (n, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(all[&format!("dropped reason={}", reason.name())], n as u64 + 1);
        }
    }

    #[test]
    fn what_is_counted_is_listed() {
        let mut counters = Counters::default();
        assert!(listed(&counters).values().all(|value| *value == 0));
        counters.publish(Outcome::Stored);
        counters.publish(Outcome::Stored);
        counters.publish(Outcome::LiveOnly);
        counters.nack(Code::QueueFull);
        counters.bytes_in += 7;
        let changed: Vec<_> = listed(&counters).into_iter().filter(|(_, value)| *value > 0).collect();
        assert_eq!(
            changed,
            [
                ("bytes_in".to_owned(), 7),
                ("publish_nacks code=queue-full".to_owned(), 1),
                ("publishes outcome=live-only".to_owned(), 1),
                ("publishes outcome=stored".to_owned(), 2),
            ]
        );
    }
}
