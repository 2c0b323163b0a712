//! What a review with fresh eyes found.

use super::world::{World, queue};
use crate::broker::{Effect, Event, Volume};
use crate::config::{Keep, Overflow, QueueSettings, Settings, Storage};
use crate::model::admin;
use crate::store::StoreError;
use crate::wire::{Code, Contract, Credit, Done, FrameType, History, Nack, Outcome, Request, Response};
use crate::wire::{Since, Subscribe};

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[test]
fn timers_of_consumers_that_did_not_survive_a_failure_ring_for_nobody() {
    let mut w = World::new(vec![queue("main", "#")]);
    w.hold_commits = true;
    let r = w.connect();
    w.consume_with(r, 1, "main", "r", &[], |h| h.ack_timeout_ms = 1_000);
    w.fail_store(StoreError::Io("gone".into()));
    w.hold_commits = false;
    w.reopen_store();
    w.pass(5_000);
    assert!(w.is_closed(r));
}
