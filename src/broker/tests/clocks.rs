//! Clocks that are set while the broker runs.

use super::world::{World, id, queue};
use crate::wire::{Contract, Outcome};

const HOUR_MS: u32 = 3_600_000;
const YEARS_50_MS: u64 = 50 * 365 * 24 * HOUR_MS as u64;

#[test]
fn a_clock_that_is_set_makes_nothing_older_now_or_after_a_restart() {
    let mut aged = queue("aged", "a/#");
    aged.age_ms_max = u64::from(HOUR_MS);
    let mut w = World::new(vec![queue("main", "#"), aged]);
    let c = w.connect();
    let ttl = |r: &mut crate::model::Record<'_>| (r.ttl_ms, r.id) = (HOUR_MS, id(1));
    w.publish_with(c, 1, Contract::Queue, ttl, "a/ttl", "fresh");
    w.publish_with(c, 2, Contract::Queue, |r| r.delay_ms = HOUR_MS, "a/late", "late");
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Stored)), (2, Ok(Outcome::Stored))]);
    w.now.wall = w.now.wall.plus_ms(YEARS_50_MS);
    w.pass(2_000);
    w.publish_with(c, 3, Contract::Queue, ttl, "a/ttl", "fresh");
    assert_eq!(w.verdicts(c), [(3, Ok(Outcome::Duplicate))]);
    w.restart();
    w.pass(2_000);
    let r = w.connect();
    for (stream, name) in [(1, "main"), (2, "aged")] {
        w.consume(r, stream, name, "r");
        w.credit(r, stream, 10);
        assert_eq!(w.texts(r), ["fresh"], "{name}: neither too old nor early");
    }
    w.pass(u64::from(HOUR_MS));
    assert_eq!(w.texts(r), ["late", "late"]);
}
