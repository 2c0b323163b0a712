//! The hub's power goes at every sync, and at every write, while an edge forwards: each record is there once, in order.

use super::crash::{losses, open};
use super::world::{World, queue};
use crate::config::{QueueSettings, Settings, TenantSettings};
use crate::store::testing::{FaultyDisk, Lost};
use crate::wire::Outcome;
use std::collections::BTreeMap;

/// Records of each lane at the edge; their sequences have gaps.
const RECORDS: usize = 15;
/// Nobody's, and a tenant's.
const TENANTS: [&str; 2] = ["", "red"];
/// Lanes of one queue at the edge: each flows on a stream of its own.
const LANES: [u8; 2] = [0, 9];

fn settings() -> Settings {
    let of = |tenant: &str| QueueSettings { tenant: tenant.into(), ..queue("main", "#") };
    let tenants = vec![TenantSettings { name: TENANTS[1].into(), ..TenantSettings::default() }];
    Settings { queues: TENANTS.map(of).into(), tenants, ..Settings::default() }
}

fn sequences() -> Vec<u64> {
    (1..=RECORDS as u64).map(|n| n + n / 5).collect()
}

/// What each edge had acknowledged, by tenant and lane: every sequence up to this.
type Acked = BTreeMap<(&'static str, u8), u64>;

/// The hub's life until its end or the cut. None of the records has an id: only positions know them. `trusts` says whether
/// the edges go on where the welcome says, or send everything again.
fn live(disk: &FaultyDisk, acked: &mut Acked, trusts: bool) {
    let Some(store) = open(disk) else { return };
    let mut w = World::on(settings(), store);
    if w.dead {
        return;
    }
    let mut left: BTreeMap<(&str, u8), Vec<u64>> = BTreeMap::new();
    let mut sessions = BTreeMap::new();
    for tenant in TENANTS {
        let (conn, told) = w.bridge_of(tenant, "gate", "edge", "up");
        sessions.insert(tenant, conn);
        for lane in LANES {
            let last = told.iter().find(|p| p.lane == lane).map_or(0, |p| p.last);
            let known = acked.get(&(tenant, lane)).copied().unwrap_or(0);
            assert!(last >= known, "told {last} of {tenant:?} lane {lane}, acknowledged was {known}");
            let from = if trusts { last } else { 0 };
            left.insert((tenant, lane), sequences().into_iter().filter(|seq| *seq > from).collect());
        }
    }
    for round in 0..RECORDS {
        for (&(tenant, lane), seqs) in &left {
            let Some(seqs) = seqs.chunks(3).nth(round) else { continue };
            let (conn, stream) = (sessions[tenant], 1 + u32::from(lane));
            // Publish numbers are any that follow one another.
            let first = 1 + 3 * round as u64;
            w.forward_from(conn, stream, first, (7, lane, 0), seqs, if lane == 0 { "a" } else { "b" });
            w.pass(3);
            if w.dead {
                return;
            }
            let verdicts = w.verdicts(conn);
            assert_eq!(verdicts.len(), seqs.len());
            assert!(
                verdicts.iter().all(|(_, v)| matches!(v, Ok(Outcome::Stored | Outcome::Duplicate))),
                "{verdicts:?}"
            );
            let last = acked.entry((if tenant.is_empty() { "" } else { TENANTS[1] }, lane)).or_default();
            *last = (*last).max(*seqs.last().expect("a chunk"));
        }
    }
}

/// Whether everything is there once, and in order.
fn verify(disk: &FaultyDisk) -> Result<(), String> {
    let mut w = World::on(settings(), open(disk).ok_or("the store does not open")?);
    let wanted: Vec<String> = sequences().iter().map(u64::to_string).collect();
    for tenant in TENANTS {
        let conn = w.connect_to(tenant);
        for (stream, channel) in [(2, "a"), (3, "b")] {
            w.consume_with(conn, stream, "main", channel, &[channel], |_| {});
            w.frames(conn);
            w.credit(conn, stream, 1_000);
            let there = w.texts(conn);
            if there != wanted {
                return Err(format!("of {tenant:?} on {channel:?}: {there:?}"));
            }
        }
    }
    Ok(())
}

fn whole_life() -> FaultyDisk {
    let disk = FaultyDisk::new();
    live(&disk, &mut Acked::new(), true);
    verify(&disk).expect("nothing went wrong");
    disk
}

/// A life that is cut, and one after it.
fn two_lives(disk: &FaultyDisk, lost: Lost, trusts: bool) -> Result<(), String> {
    let mut acked = Acked::new();
    live(disk, &mut acked, trusts);
    disk.power_on(lost);
    live(disk, &mut acked, trusts);
    verify(disk)
}

#[test]
fn an_edge_goes_on_exactly_whichever_sync_of_the_hub_the_power_goes_at() {
    let syncs = whole_life().syncs();
    assert!(syncs > 30, "{syncs}");
    for at in 0..syncs {
        for lost in losses(at) {
            let disk = FaultyDisk::new();
            disk.cut_at_sync(at);
            two_lives(&disk, lost, at % 2 == 0).unwrap_or_else(|e| panic!("cut at sync {at}, {lost:?}: {e}"));
        }
    }
}

#[test]
fn an_edge_goes_on_exactly_whichever_write_of_the_hub_the_power_goes_at() {
    for at in (0..whole_life().writes()).step_by(5) {
        let disk = FaultyDisk::new();
        disk.cut_at_write(at);
        two_lives(&disk, Lost::Torn(at), at % 2 == 0).unwrap_or_else(|e| panic!("cut at write {at}: {e}"));
    }
}
