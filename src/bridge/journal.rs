//! What a bridge's log says of its link: when it opens, when it ends, and of a series of failures no more than is news.

use super::{Failure, Reason};
use crate::model::Mono;
use std::collections::BTreeMap;

/// What was said of the link since it was open last.
#[derive(Debug)]
pub(super) struct Journal {
    /// Since when there is no link.
    without: Mono,
    /// What was said last, by the number of the address: as many as there are addresses.
    said: BTreeMap<usize, Reason>,
    /// Failures since it was open last.
    failures: u64,
}

impl Journal {
    pub(super) const fn new(now: Mono) -> Self {
        Self { without: now, said: BTreeMap::new(), failures: 0 }
    }

    /// The link ended, meant or not.
    pub(super) const fn ended(&mut self, now: Mono) {
        self.without = now;
    }

    /// The link is open: what to say.
    pub(super) fn opened(&mut self, now: Mono, url: &str) -> String {
        let ms = now.ms_since(self.without);
        let failures = std::mem::take(&mut self.failures);
        self.said.clear();
        let mut line = format!("connected to {url} after {}.{:03} s without", ms / 1_000, ms % 1_000);
        if failures > 0 {
            line.push_str(&format!(", {failures} {}", if failures == 1 { "failure" } else { "failures" }));
        }
        line
    }

    /// The link over this address ended (`was_open`) or could not be made: what to say, where it is news.
    pub(super) fn failed(&mut self, at: usize, url: &str, was_open: bool, failure: &Failure) -> Option<String> {
        self.failures += 1;
        if self.said.insert(at, failure.reason) == Some(failure.reason) && !was_open {
            return None;
        }
        let Failure { reason, detail } = failure;
        let what = if was_open { "lost the connection to" } else { "no connection to" };
        let colon = if detail.is_empty() { "" } else { ": " };
        Some(format!("{what} {url} ({}){colon}{detail}", reason.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: Reason) -> Failure {
        Failure { reason, detail: "why".into() }
    }

    #[test]
    fn of_a_series_of_failures_the_first_is_said_and_each_change_and_how_many_there_were_with_the_next_success() {
        let mut journal = Journal::new(Mono(0));
        assert_eq!(journal.opened(Mono(0).plus_ms(40), "tcp://a:1"), "connected to tcp://a:1 after 0.040 s without");
        journal.ended(Mono(0).plus_ms(1_000));
        let said = journal.failed(0, "tcp://a:1", true, &failure(Reason::Closed));
        assert_eq!(said.as_deref(), Some("lost the connection to tcp://a:1 (closed): why"));
        let mut lines = Vec::new();
        for reason in [Reason::Refused, Reason::Refused, Reason::Refused, Reason::Dns, Reason::Dns] {
            lines.extend(journal.failed(0, "tcp://a:1", false, &failure(reason)));
            // Another address fails in its own way all the time.
            lines.extend(journal.failed(1, "tcp://b:1", false, &failure(Reason::Timeout)));
        }
        let expected =
            ["a:1 (refused)", "b:1 (timeout)", "a:1 (dns)"].map(|l| format!("no connection to tcp://{l}: why"));
        assert_eq!(lines, expected);
        let said = journal.opened(Mono(0).plus_ms(62_500), "tcp://b:1");
        assert_eq!(said, "connected to tcp://b:1 after 61.500 s without, 11 failures");
        assert!(journal.failed(0, "tcp://a:1", false, &failure(Reason::Dns)).is_some(), "a new series");
    }
}
