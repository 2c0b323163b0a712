//! How a bridge is, for people.

use super::life::State;
use super::machine::Bridge;
use crate::model::admin::BridgeStatus;
use crate::model::{Mono, Now};
use std::collections::BTreeMap;

impl Bridge {
    /// How it is. What its queues hold is the broker's to add.
    #[must_use]
    pub fn status(&self, now: Now) -> BridgeStatus {
        let since = |at: Mono| now.mono.ms_since(at);
        let (error, detail, error_age) = match &self.life.last {
            Some((failure, at)) => (failure.reason.name(), failure.detail.clone(), since(*at).max(1)),
            None => ("", String::new(), 0),
        };
        let bytes = self.upstream.as_ref().map_or((0, 0), |u| u.bytes);
        let (_, records, batches) = self.up.sent;
        let kinds = [
            ("up", self.counters.bytes.0 + bytes.0),
            ("down", self.counters.bytes.1 + bytes.1),
            ("records", records),
            ("batches", batches),
        ];
        let mut dropped = self.counters.dropped.clone();
        for (name, count) in &self.up.passed {
            *dropped.entry((*name).into()).or_default() += count;
        }
        for (name, count) in &self.down.dropped {
            *dropped.entry(name.clone()).or_default() += count;
        }
        BridgeStatus {
            name: self.settings.name.clone(),
            tenant: self.settings.tenant.clone(),
            state: self.life.name(),
            healthy: self.is_healthy(now),
            url: self.settings.urls.get(self.life.at).cloned().unwrap_or_default(),
            open_ms: if let State::Open(at) = self.life.state { since(at) } else { 0 },
            last_error: error.into(),
            last_error_detail: detail,
            last_error_age_ms: error_age,
            retry_ms: if let State::Waiting(at) = self.life.state { at.ms_since(now.mono) } else { 0 },
            connects: self.life.connects,
            in_flight: u64::from(self.up.window.under_way().0),
            acked: self.counters.acked.saturating_sub(self.up.passed.values().sum()),
            last_ack_age_ms: self.up.acked_at.map_or(0, |at| since(at).max(1)),
            round_trip_ms: self.up.window.round_trip_ms(),
            window: self.window(),
            brought: self.down.brought,
            day_bytes: self.budget.used(),
            bytes: kinds.into_iter().map(|(kind, bytes)| (kind.into(), bytes)).collect::<BTreeMap<String, u64>>(),
            dropped,
            ..BridgeStatus::default()
        }
    }

    /// Whether it is connected, and what it forwards is acknowledged in time.
    fn is_healthy(&self, now: Now) -> bool {
        let late = |at: Mono| now.mono.ms_since(at) > u64::from(self.settings.ack_ms_max);
        self.life.is_open() && self.local.is_open() && !self.up.oldest().is_some_and(late)
    }
}
