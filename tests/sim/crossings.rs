//! Worlds of a bridge with a name: sweeps of one fault over one run, the controls that must fail, and each checker of the books
//! over both sides told a wrong story.

use crate::bridged::{HUB, WayFault};
use crate::ledger::{Ledger, Life, payload};
use crate::plan::{Cut, Fault, Plan};
use crate::run;
use crate::tap::Seen;
use std::collections::BTreeSet;
use tidegate::config::{Keep, Overflow, QueueSettings};
use tidegate::model::MessageId;
use tidegate::store::testing::Lost;
use tidegate::wire::{Contract, item_flag};

/// When publishers have begun.
const BEGIN_US: u64 = 250_000;

/// A seed's world of a bridge, without its own faults.
fn calm(seed: u64) -> Plan {
    let plan = Plan { faults: Vec::new(), ..Plan::random(2 * seed) };
    assert!(plan.bridge.is_some());
    plan
}

/// The same, where nothing but the bridge and what is behind it matters, and queues have room.
fn plain(seed: u64) -> Plan {
    let mut plan = calm(seed);
    for host in &mut plan.hosts {
        host.limits.message_bytes_max = 65_536;
        for q in &mut host.queues {
            (q.overflow, q.messages_max, q.bytes_max) = (Overflow::Reject, 100_000, 100_000_000);
            q.contract = Contract::Disk;
            q.keep = if q.keep == Keep::Limits { Keep::Interest } else { q.keep };
        }
    }
    for m in &mut plan.messages {
        (m.ttl_ms, m.delay_ms) = (0, 0);
    }
    if let Some(bridge) = &mut plan.bridge {
        bridge.record_bytes_max = 65_536;
    }
    plan
}

fn holds(plan: &Plan, faults: Vec<(u64, Fault)>, what: &str) {
    let (broken, trace) = run(&Plan { faults, ..plan.clone() }, false);
    assert_eq!(broken, None, "seed {}, {what}\n{}", plan.seed, trace.tail());
}

#[test]
fn the_power_of_edge_and_hub_goes_at_every_sync_of_a_small_run() {
    let plan = plain(1);
    for host in [0, HUB] {
        for n in 0..16 {
            let cut = Fault::Power(host, Cut::AtSync(n), Lost::All);
            holds(&plan, vec![(BEGIN_US, cut)], &format!("{cut:?}"));
        }
    }
}

#[test]
fn the_power_of_the_hub_goes_right_after_every_acknowledgement_of_a_small_run() {
    let plan = plain(2);
    for n in 0..16 {
        let cut = Fault::Power(HUB, Cut::AfterAck(n), Lost::All);
        holds(&plan, vec![(BEGIN_US, cut)], &format!("{cut:?}"));
    }
}

#[test]
fn every_acknowledgement_of_the_hub_is_lost_once() {
    let plan = plain(9);
    for n in 0..24 {
        let cut = Fault::Way(WayFault::LoseAck { n });
        holds(&plan, vec![(BEGIN_US, cut), (BEGIN_US + 700_000, cut)], &format!("{cut:?}"));
    }
}

#[test]
fn the_connection_is_cut_at_many_bytes_either_way() {
    let plan = plain(3);
    for up in [true, false] {
        for bytes in (1..900).step_by(45) {
            let cut = Fault::Way(WayFault::Lose { up, bytes });
            holds(&plan, vec![(BEGIN_US, cut), (BEGIN_US + 400_000, cut)], &format!("{cut:?}"));
        }
    }
}

#[test]
fn a_black_hole_of_either_direction_ends_and_nothing_was_lost() {
    for up in [true, false] {
        for (n, us) in [100_000, 900_000, 2_500_000, 3_600_000].into_iter().enumerate() {
            let hole = Fault::Way(WayFault::Block { up, down: !up, us });
            holds(&plain(4 + n as u64), vec![(BEGIN_US, hole)], &format!("{hole:?}"));
        }
    }
}

/// The control: a hub that is not told where messages come from has some of them twice, and the books show it.
#[test]
fn a_hub_that_ignores_positions_is_found_out() {
    let found = (0..12).filter(|seed| {
        let mut plan = plain(*seed);
        plan.messages.iter_mut().for_each(|m| m.id = MessageId::NONE);
        if let Some(bridge) = &mut plan.bridge {
            bridge.positions_ignored = true;
        }
        // Its acknowledgements are lost.
        let faults = (0..8).map(|n| (BEGIN_US + n * 150_000, Fault::Way(WayFault::LoseAck { n: 0 }))).collect();
        let broken = run(&Plan { faults, ..plan }, false).0;
        broken.is_some_and(|broken| broken.promise == "each message is at the hub exactly once")
    });
    let found = found.count();
    assert!(found >= 4, "only {found} of 12 runs had one twice");
}

/// The control: a hub that acknowledges before its disk has it loses messages, and the books show it.
#[test]
fn a_hub_whose_disk_lies_about_its_syncs_is_found_out() {
    let found = (0..12).filter(|seed| {
        let plan = plain(*seed);
        let faults = vec![(BEGIN_US, Fault::Power(HUB, Cut::AfterAck(12), Lost::All))];
        run(&Plan { faults, disks_lie: vec![HUB], ..plan }, false).0.is_some()
    });
    let found = found.count();
    assert!(found >= 4, "only {found} of 12 runs lost something");
}

/// A ledger of an edge that forwards all, and a hub with one queue.
fn ledger() -> Ledger {
    let mut plan = plain(1);
    let queue = |name: &str| QueueSettings {
        capture: vec!["#".into()],
        keep: Keep::Interest,
        overflow: Overflow::Reject,
        ..QueueSettings::new(name)
    };
    plan.hosts[0].queues = vec![queue("b0")];
    plan.hosts[HUB].queues = vec![queue("u0")];
    if let Some(bridge) = &mut plan.bridge {
        bridge.settings.up = vec!["b0 c/# -> far/#".into()];
    }
    for m in &mut plan.messages {
        (m.channel, m.tenant, m.publisher, m.priority, m.size) = ("c/1/1".into(), String::new(), 0, 0, 10);
    }
    Ledger::new(&plan)
}

fn edge_key() -> (usize, String, String) {
    (0, "b0".into(), "bridge:up".into())
}

fn seen(uid: u32, seq: u64, channel: &str) -> Seen {
    let (channel, bytes) = (channel.to_owned(), payload(uid, 10));
    Seen {
        epoch: 7,
        tag: seq,
        flags: item_flag::REDELIVERED,
        lane: 0,
        seq,
        offset: seq,
        uid,
        channel,
        bytes,
        record: 30,
    }
}

/// The edge's bridge has a message, and then the hub's consumer.
fn crosses(l: &mut Ledger, uid: u32, edge_seq: u64, hub_seq: u64) {
    l.delivered(1, &edge_key(), &seen(uid, edge_seq, "c/1/1"));
    l.delivered(2, &(HUB, "u0".into(), "k0".into()), &seen(uid, hub_seq, "far/1/1"));
}

#[test]
fn every_checker_of_both_sides_can_fail() {
    type Story = fn(&mut Ledger);
    let stories: &[(&str, Story)] = &[
        ("nothing leaves the edge before the hub has it", |l| {
            l.forwarded(&edge_key(), 0, Life::default(), &BTreeSet::new());
        }),
        ("each message is at the hub exactly once", |l| {
            crosses(l, 0, 1, 1);
            crosses(l, 0, 1, 2);
            l.check_across();
        }),
        ("a hub has the messages in the edge's order", |l| {
            crosses(l, 0, 2, 1);
            crosses(l, 1, 1, 2);
            l.check_across();
        }),
        ("what a hub has came over the bridge", |l| {
            l.delivered(2, &(HUB, "u0".into(), "k0".into()), &seen(0, 1, "far/1/1"));
            l.check_across();
        }),
        ("what is delivered is what was published", |l| {
            l.delivered(2, &(HUB, "u0".into(), "k0".into()), &seen(0, 1, "c/1/1"));
        }),
        ("a bridge gives up only what its hub refuses for good", |l| l.given_up(0, "because")),
        ("what a hub refuses is counted", |l| {
            l.messages[0].size = 100_000;
            l.given_up(0, "because");
            l.check_refused(0);
        }),
        ("no acknowledged message is lost", |l| {
            let reader = (HUB, "u0".into(), "k0".into());
            l.reader(&reader, &[]);
            l.delivered(1, &edge_key(), &seen(0, 1, "c/1/1"));
            l.forwarded(&edge_key(), 0, Life::default(), &BTreeSet::from([0]));
            l.close(&[Life::default(), Life { process: 2, losses: 1 }]);
        }),
    ];
    for (promise, story) in stories {
        let mut ledger = ledger();
        story(&mut ledger);
        assert_eq!(ledger.broken.as_ref().map(|b| b.promise), Some(*promise), "{:?}", ledger.broken);
    }
}
