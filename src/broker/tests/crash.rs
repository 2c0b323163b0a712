//! The power goes at every sync, and at every write, of a broker's life: what it acknowledged is there, once, in order.

use super::world::{World, queue};
use crate::config::{Overflow, QueueSettings, Settings, TenantSettings};
use crate::model::{ConnId, MessageId, Priority};
use crate::store::testing::{FaultyDisk, Lost};
use crate::store::{OpenOptions, Store, open_on};
use crate::wire::{Contract, Outcome};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Messages of one life, in each of two mounts.
const MESSAGES: u64 = 30;
/// Nobody's, and a tenant's.
const TENANTS: [&str; 2] = ["", "red"];

fn settings() -> Settings {
    let ring = QueueSettings { messages_max: 10, overflow: Overflow::DropOldest, ..queue("ring", "b/#") };
    let mut queues = Vec::new();
    for tenant in TENANTS {
        let of = |q: &QueueSettings| QueueSettings { tenant: tenant.into(), ..q.clone() };
        queues.extend([of(&queue("main", "#")), of(&ring)]);
    }
    let tenants = vec![TenantSettings { name: TENANTS[1].into(), ..TenantSettings::default() }];
    let mut settings = Settings { queues, tenants, ..Settings::default() };
    // Small enough that lanes, tail and extents turn over within one life.
    settings.store.tail_bytes = 8 * 1_024;
    settings
}

pub(super) fn open(disk: &FaultyDisk) -> Option<Box<dyn Store>> {
    // Folded several times in a life.
    let options = OpenOptions { journal_bytes: 128 << 10, ..OpenOptions::default() };
    let opened = open_on(Arc::new(disk.clone()), &options).ok()?;
    Some(Box::new(opened.store))
}

/// What a life left behind in a mount, as its clients know it.
#[derive(Default)]
struct Known {
    /// Messages acknowledged as stored or duplicate.
    acked: BTreeSet<u64>,
    /// Messages whose consumption was acknowledged by us, whether the broker wrote it down or not.
    consumed: BTreeSet<u64>,
}

fn id(n: u64) -> MessageId {
    MessageId::from_parts(n + 1, [7; 10])
}

/// The same numbers, and the same ids, in each mount; not the same words.
fn text(tenant: &str, n: u64) -> String {
    format!("{n}{tenant}{}", "x".repeat((n as usize * 131) % 3_000))
}

/// The number of a tenant's message; of another's there is none.
fn number(tenant: &str, text: &str) -> Option<u64> {
    text.trim_end_matches('x').strip_suffix(tenant)?.parse().ok()
}

/// A life until its end or the cut: publishes in small commits, consumes some, nacks some.
fn live(disk: &FaultyDisk, known: &mut [Known; 2]) {
    let Some(store) = open(disk) else { return };
    let mut w = World::on(settings(), store);
    if w.dead {
        return;
    }
    let sessions = TENANTS.map(|tenant| (w.connect_to(tenant), w.connect_to(tenant)));
    for (_, c) in sessions {
        w.consume(c, 2, "main", "half");
        if w.dead {
            return;
        }
    }
    let mut verdicts = 0;
    for n in 0..MESSAGES {
        for ((&tenant, known), (p, c)) in TENANTS.iter().zip(&mut *known).zip(sessions) {
            let channel = if n % 3 == 0 { "b/x" } else { "a/x" };
            let priority = Priority::new(if n % 7 == 0 { 5 } else { 0 }).expect("below 10");
            let change = |r: &mut crate::model::Record<'_>| (r.id, r.priority) = (id(n), priority);
            w.publish_with(p, 1 + n, Contract::Queue, change, channel, &text(tenant, n));
            w.pass(3);
            if w.dead {
                return;
            }
            for (number, verdict) in w.verdicts(p) {
                assert!(matches!(verdict, Ok(Outcome::Stored | Outcome::Duplicate)), "{verdict:?}");
                known.acked.insert(number - 1);
                verdicts += 1;
            }
            if n % 5 == 4 {
                consume(&mut w, c, tenant, known);
            }
        }
    }
    assert!(w.dead || verdicts == 2 * MESSAGES);
}

/// Takes a few messages, and refuses some of them.
fn consume(w: &mut World, c: ConnId, tenant: &str, known: &mut Known) {
    w.credit(c, 2, 2);
    for message in w.messages(c) {
        if message.seq % 5 == 4 {
            let nack = crate::wire::Nack { first: message.tag, count: 1, delay_ms: 1, give_up: false, reason: "" };
            w.send(c, 2, &nack, &[]);
        } else {
            known.consumed.insert(number(tenant, &message.text).expect("its own message"));
            w.ack(c, 2, message.tag, 1);
        }
    }
    w.pass(250);
}

/// Starts on what is left and reads everything: says what a promise lost.
fn verify(disk: &FaultyDisk, known: &[Known; 2]) -> Result<(), String> {
    let store = open(disk).ok_or("the store does not open")?;
    let mut w = World::on(settings(), store);
    TENANTS.iter().zip(known).try_for_each(|(tenant, known)| verify_mount(&mut w, tenant, known))
}

fn verify_mount(w: &mut World, tenant: &str, known: &Known) -> Result<(), String> {
    let c = w.connect_to(tenant);
    w.consume(c, 2, "main", "half");
    // This world's clock begins where the first life's did: let every retry of that one come due.
    w.pass(60_000);
    let mut seen: BTreeMap<(u8, u64), u64> = BTreeMap::new();
    let mut last = BTreeMap::new();
    loop {
        w.credit(c, 2, 1_000);
        let messages = w.messages(c);
        if messages.is_empty() {
            break;
        }
        for m in &messages {
            let n = number(tenant, &m.text).ok_or("another's message")?;
            if m.text != text(tenant, n) {
                return Err(format!("message {n} of {tenant:?} came back changed"));
            }
            if seen.insert((m.lane, m.seq), n).is_some() {
                return Err(format!("lane {} sequence {} came twice in one life", m.lane, m.seq));
            }
            let first_time = m.flags & crate::wire::item_flag::REDELIVERED == 0;
            if first_time && last.insert(m.lane, n).is_some_and(|before| before >= n) {
                return Err(format!("message {n} is out of order"));
            }
            w.ack(c, 2, m.tag, 1);
        }
        w.pass(100);
    }
    let there: BTreeSet<u64> = seen.values().copied().collect();
    if there.len() != seen.len() {
        return Err("a message was stored twice under one id".into());
    }
    let missing: Vec<&u64> = known.acked.iter().filter(|n| !there.contains(n) && !known.consumed.contains(n)).collect();
    if !missing.is_empty() {
        return Err(format!("acknowledged and lost, of {tenant:?}: {missing:?}"));
    }
    Ok(())
}

fn all_acked(known: &[Known; 2]) -> bool {
    known.iter().all(|k| k.acked.len() as u64 == MESSAGES)
}

/// What may become of unsynced writes.
pub(super) fn losses(seed: u64) -> [Lost; 3] {
    [Lost::All, Lost::Some(seed), Lost::Torn(seed)]
}

fn whole_life() -> FaultyDisk {
    let disk = FaultyDisk::new();
    let mut known = <[Known; 2]>::default();
    live(&disk, &mut known);
    assert!(all_acked(&known));
    disk
}

#[test]
fn nothing_acknowledged_is_lost_whichever_sync_the_power_goes_at() {
    let syncs = whole_life().syncs();
    assert!(syncs > 60, "{syncs}");
    for at in 0..syncs {
        for lost in losses(at) {
            let disk = FaultyDisk::new();
            let mut known = <[Known; 2]>::default();
            disk.cut_at_sync(at);
            live(&disk, &mut known);
            disk.power_on(lost);
            verify(&disk, &known).unwrap_or_else(|e| panic!("cut at sync {at}, {lost:?}: {e}"));
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_whichever_write_the_power_goes_at() {
    let writes = whole_life().writes();
    for at in (0..writes).step_by(7) {
        let disk = FaultyDisk::new();
        let mut known = <[Known; 2]>::default();
        disk.cut_at_write(at);
        live(&disk, &mut known);
        disk.power_on(Lost::Torn(at));
        verify(&disk, &known).unwrap_or_else(|e| panic!("cut at write {at}: {e}"));
    }
}

#[test]
fn this_test_finds_a_disk_that_only_says_it_synced() {
    let syncs = whole_life().syncs();
    let found = (0..syncs).any(|at| {
        let disk = FaultyDisk::new();
        let mut known = <[Known; 2]>::default();
        disk.lie_about_sync(true);
        disk.cut_at_sync(at);
        live(&disk, &mut known);
        disk.power_on(Lost::All);
        verify(&disk, &known).is_err()
    });
    assert!(found, "acknowledgements without a sync went unnoticed");
}

#[test]
fn clients_that_publish_again_after_a_cut_leave_every_message_exactly_once() {
    let syncs = whole_life().syncs();
    for at in (0..syncs).step_by(3) {
        let disk = FaultyDisk::new();
        let mut known = <[Known; 2]>::default();
        disk.cut_at_sync(at);
        live(&disk, &mut known);
        disk.power_on(Lost::Some(at));
        // The same ids again, from the beginning: what was kept is a duplicate.
        live(&disk, &mut known);
        assert!(all_acked(&known), "cut at sync {at}");
        verify(&disk, &known).unwrap_or_else(|e| panic!("cut at sync {at}: {e}"));
    }
}
