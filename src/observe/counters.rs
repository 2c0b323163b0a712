//! What happened, counted since start.

use crate::wire::Code;
use std::collections::BTreeMap;

/// Counters of the broker; all grow only.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Messages stored by at least one queue or as retained value.
    pub published: u64,
    /// Bytes of their records.
    pub published_bytes: u64,
    /// Messages whose id was seen before.
    pub duplicates: u64,
    /// Messages no queue captured.
    pub live_only: u64,
    /// Messages handed to subscriptions.
    pub fanned_out: u64,
    /// Messages handed to consumers, redeliveries included.
    pub delivered: u64,
    /// Of these, redeliveries.
    pub redelivered: u64,
    /// Deliveries acknowledged.
    pub acked: u64,
    /// Deliveries refused or overdue.
    pub nacked: u64,
    /// Messages that became dead letters.
    pub dead: u64,
    /// Messages dropped by a full queue's policy.
    pub dropped_full: u64,
    /// Messages dropped for their age or TTL.
    pub expired: u64,
    /// Messages bridges did not forward, since newer ones of their channels were there.
    pub superseded: u64,
    /// Messages bridges did not forward, since one in so many is.
    pub thinned: u64,
    /// Messages slow subscribers lost.
    pub dropped_slow: u64,
    /// Messages lost to damage on disk.
    pub lost: u64,
    /// Transactions.
    pub commits: u64,
    /// Bytes written by them.
    pub commit_bytes: u64,
    /// Commits that failed.
    pub commit_errors: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Pauses of sessions that went on publishing above their rate.
    pub paused: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Sessions opened by credentials.
    pub logins: u64,
    /// Credentials refused, by reason.
    pub denied: BTreeMap<&'static str, u64>,
    /// TLS handshakes that failed, by reason; new files of TLS that were refused are `files`.
    pub no_tls: BTreeMap<&'static str, u64>,
    /// Messages that bridges sent again though they were judged before.
    pub resent: u64,
    /// Sessions of bridges that a newer one of the same bridge ended.
    pub bridge_takeovers: u64,
    /// Messages that were not sent to the bridge they came by.
    pub echoes: u64,
    /// Positions of bridges' sources that made room for others.
    pub sources_evicted: u64,
    /// Publishes refused, by code.
    pub refused: BTreeMap<Code, u64>,
    /// Sessions ended by us, by code.
    pub closed: BTreeMap<Code, u64>,
}

impl Counters {
    /// All of them by name; those by code as `name.code`.
    pub fn visit(&self, f: &mut dyn FnMut(String, u64)) {
        for (name, value) in [
            ("published", self.published),
            ("published_bytes", self.published_bytes),
            ("duplicates", self.duplicates),
            ("live_only", self.live_only),
            ("fanned_out", self.fanned_out),
            ("delivered", self.delivered),
            ("redelivered", self.redelivered),
            ("acked", self.acked),
            ("nacked", self.nacked),
            ("dead", self.dead),
            ("dropped", self.dropped_full + self.dropped_slow),
            ("dropped_full", self.dropped_full),
            ("dropped_slow", self.dropped_slow),
            ("expired", self.expired),
            ("superseded", self.superseded),
            ("thinned", self.thinned),
            ("lost", self.lost),
            ("commits", self.commits),
            ("commit_bytes", self.commit_bytes),
            ("commit_errors", self.commit_errors),
            ("read_errors", self.read_errors),
            ("paused", self.paused),
            ("connections", self.connections),
            ("logins", self.logins),
            ("resent", self.resent),
            ("bridge_takeovers", self.bridge_takeovers),
            ("echoes", self.echoes),
            ("sources_evicted", self.sources_evicted),
            ("denied", self.denied.values().sum()),
            ("no_tls", self.no_tls.values().sum()),
            ("refused", self.refused.values().sum()),
        ] {
            f(name.into(), value);
        }
        for (reason, value) in &self.denied {
            f(format!("denied.{reason}"), *value);
        }
        for (reason, value) in &self.no_tls {
            f(format!("no_tls.{reason}"), *value);
        }
        for (code, value) in &self.refused {
            f(format!("refused.{code}"), *value);
        }
        for (code, value) in &self.closed {
            f(format!("closed.{code}"), *value);
        }
    }
}
