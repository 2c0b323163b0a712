//! A full disk is a state, and so is a failed store.

use super::Broker;
use super::{Effect, Timer, Waiting, load};
use crate::model::{Position, Priority, Volume};
use crate::session::Publisher;
use crate::store::{Reader, StoreError};
use crate::wire::Code;

/// How the durable store is.
#[derive(Debug)]
pub(super) struct Health {
    low: bool,
    failed: bool,
    /// The reserve was given up.
    spent: bool,
    /// The reserve was asked for and not given up since.
    reserved: bool,
    pub(super) free_bytes: u64,
    pub(super) file_bytes: u64,
}

impl Default for Health {
    /// Well, and with space, until told otherwise.
    fn default() -> Self {
        Self { low: false, failed: false, spent: false, reserved: false, free_bytes: u64::MAX, file_bytes: 0 }
    }
}

impl Health {
    pub(super) const fn is_failed(&self) -> bool {
        self.failed
    }

    /// Whether a message of this priority is taken.
    pub(super) fn admit(&self, priority: Priority, alarm_priority: u8) -> Result<(), Code> {
        if self.failed {
            return Err(Code::StorageFailed);
        }
        if self.low && priority.get() < alarm_priority {
            return Err(Code::StorageFull);
        }
        Ok(())
    }

    pub(super) const fn state(&self) -> crate::model::admin::StoreState {
        use crate::model::admin::StoreState;
        match (self.failed, self.spent, self.low) {
            (true, ..) => StoreState::Failed,
            (_, true, true) => StoreState::Full,
            // Without its reserve, but with space: all is taken.
            (_, false, true) => StoreState::Low,
            _ => StoreState::Ok,
        }
    }
}

/// Of what the store's file occupies, what is not held by messages can be written again. Rows, tables and unfilled pages are
/// taken to need half as much again as the messages, and so many bytes.
pub(super) const FILE_BYTES_MIN: u64 = 1_024 * 1_024;

/// Milliseconds after which a failed store may be back.
const RETRY_MS: u32 = 1_000;

impl Broker {
    pub(super) fn handle_disk(&mut self, free_bytes: u64) {
        self.health.free_bytes = free_bytes;
        self.judge_disk();
    }

    pub(super) fn check_file_size(&mut self) {
        if self.settings.store.file_bytes_max > 0 {
            self.judge_disk();
        }
    }

    fn judge_disk(&mut self) {
        let s = &self.settings.store;
        let (free, file) = (self.health.free_bytes, self.health.file_bytes);
        // The file does not shrink as messages leave it; what queues hold decides once it has reached its bound.
        let held: u64 = self.queues.iter().filter(|q| q.volume == Volume::Disk).map(|q| q.bytes()).sum();
        let file_full = s.file_bytes_max > 0 && file >= s.file_bytes_max && held * 4 >= s.file_bytes_max * 3;
        // What left the queues left room in the file, which does not shrink. On a disk that is all but full it does not count:
        // some file systems need space even to write what is there again.
        let kept = held.saturating_add(held / 2).saturating_add(FILE_BYTES_MIN + s.journal_bytes);
        let inside = if free >= s.free_low_bytes / 4 { file.saturating_sub(kept) } else { 0 };
        let room = free.saturating_add(inside);
        let reserve = if self.health.spent { s.reserve_bytes } else { 0 };
        if room < s.free_low_bytes || file_full {
            if !self.health.low {
                self.health.low = true;
                log::warn!(
                    "storage is low ({free} bytes free, file {file}): only priority {} and above is taken",
                    s.alarm_priority
                );
            }
        } else if self.health.low && room >= s.free_high_bytes.saturating_add(reserve) {
            self.health.low = false;
            log::info!(
                "storage has space again ({free} bytes free, {inside} more in the file): all messages are taken"
            );
        }
        // Before the first shortage as after each: what acknowledgements go on with must be there when space ends.
        let h = &mut self.health;
        if h.low || h.failed || h.reserved {
            return;
        }
        if s.reserve_bytes == 0 {
            h.spent = false;
        } else if free >= s.free_high_bytes.saturating_add(s.reserve_bytes) {
            (h.reserved, h.spent) = (true, false);
            self.effects.push_back(Effect::Reserve { present: true });
        }
    }

    pub(super) fn handle_store_failed(&mut self, error: &StoreError) {
        log::error!("{error}");
        self.counters.commit_errors += 1;
        if matches!(error, StoreError::Full(_)) {
            self.health.low = true;
            (self.health.spent, self.health.reserved) = (true, false);
            self.effects.push_back(Effect::Reserve { present: false });
        }
        self.health.failed = true;
        for waiting in self.disk.fail() {
            self.answer_read(waiting, None);
        }
        let mut durable = [Position(u64::MAX); 2];
        durable[Publisher::slot(Volume::Disk)] = self.disk.durable;
        for conn in self.conns_in_order() {
            let mut streams = Vec::new();
            if let Some(c) = self.conns.get_mut(&conn) {
                for (stream, publisher) in &mut c.session.publishers {
                    publisher.fail(durable, Code::StorageFailed, RETRY_MS);
                    streams.push(*stream);
                }
            }
            for stream in streams {
                self.send_acks(conn, stream);
            }
            self.hold_or_release(conn);
        }
    }

    /// The store is open again: what it holds is the truth. Sessions with streams begin anew, so that none goes on with
    /// positions that are not.
    pub(super) fn handle_store_reopened(&mut self, reader: &dyn Reader) {
        let settings = std::sync::Arc::clone(&self.settings);
        let loaded = match load::load(self.now, &settings, reader, &mut self.rng, &self.mounts) {
            Ok(loaded) => loaded,
            Err(error) => {
                // Nobody would try again: what starts this process anew does, and opens the store with care.
                log::error!("the store was opened but cannot be read back, the broker ends: {error}");
                self.stopping = Some(self.now.mono);
                self.stopped = true;
                self.failure = Some(error);
                return;
            }
        };
        for conn in self.conns_in_order() {
            if self.conns.get(&conn).is_some_and(|c| !c.session.streams.is_empty()) {
                self.fail(conn, Code::StorageFailed, "the store was opened anew: connect again");
            }
        }
        self.end_waiting_sessions();
        // What was read names queues by their old places: who asked is told that it failed, or asks again.
        let mut reads: Vec<(u64, Waiting)> = self.reads.drain().collect();
        reads.sort_unstable_by_key(|(token, _)| *token);
        for (_, waiting) in reads {
            self.answer_read(waiting, None);
        }
        self.reads.clear();
        self.pumps.clear();
        // Queues and consumers may have other places in their lists now, or none.
        self.timers.retain(|t| !matches!(t, Timer::Retry(..) | Timer::AckTimeout(..) | Timer::Delayed(_)));
        // Queues in memory did not fail: they stay as they are, at their place in the list.
        let old =
            (std::mem::replace(&mut self.mounts, loaded.mounts), std::mem::replace(&mut self.queues, loaded.queues));
        self.adopt_memory(old.0, old.1);
        self.disk.durable = loaded.applied;
        // Nobody waits any more: who did when it failed was told then, and since then no read waits for a commit.
        let waiting = self.disk.fail();
        debug_assert!(waiting.is_empty(), "no read waits for a commit of a failed store");
        if loaded.leaps != self.leaps {
            self.keep_leaps();
        }
        self.keep_bridges();
        self.health.failed = false;
        log::info!("the store is open again at position {}", loaded.applied.0);
        self.after_load();
    }
}
