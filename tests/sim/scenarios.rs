//! Worlds with a name: sweeps of one fault over one run, the control that must fail, and each checker told a wrong story.

use crate::ledger::{Ledger, Life, payload};
use crate::plan::{Cut, Fault, Plan};
use crate::run;
use crate::tap::Seen;
use std::collections::BTreeSet;
use tidegate::config::{Keep, Overflow, QueueSettings, Storage};
use tidegate::model::MessageId;
use tidegate::store::testing::Lost;
use tidegate::wire::{Contract, Outcome, item_flag};

/// When publishers begin.
const BEGIN_US: u64 = 200_000;

/// A seed's world without its own faults.
fn calm(seed: u64) -> Plan {
    Plan { faults: Vec::new(), ..Plan::random(seed) }
}

fn sweep(seed: u64, cuts: impl Iterator<Item = Cut>) {
    let plan = calm(seed);
    for cut in cuts {
        for lost in [Lost::All, Lost::None, Lost::Torn(seed)] {
            let faults = vec![(BEGIN_US, Fault::Power(0, cut, lost))];
            let (broken, trace) = run(&Plan { faults, ..plan.clone() }, false);
            assert_eq!(broken, None, "seed {seed}, {cut:?}, {lost:?}\n{}", trace.tail());
        }
    }
}

#[test]
fn the_power_goes_at_every_sync_of_a_small_run() {
    sweep(2, (0..24).map(Cut::AtSync));
}

#[test]
fn the_power_goes_at_many_writes_of_a_small_run() {
    sweep(3, (0..120).step_by(5).map(Cut::AtWrite));
}

#[test]
fn the_power_goes_right_after_every_acknowledgement_of_a_small_run() {
    sweep(4, (0..24).map(Cut::AfterAck));
}

/// The control: on a disk that lies about syncs messages are lost, and the books show it.
#[test]
fn a_disk_that_lies_about_its_syncs_is_found_out() {
    let found = (0..20).filter(|seed| {
        let faults = vec![(BEGIN_US, Fault::Power(0, Cut::AfterAck(20), Lost::All))];
        run(&Plan { faults, disks_lie: vec![0], ..calm(*seed) }, false).0.is_some()
    });
    let found = found.count();
    assert!(found >= 5, "only {found} of 20 runs lost something");
}

/// A ledger of one queue on disk, and ids that hold.
fn ledger() -> Ledger {
    let mut plan = calm(1);
    plan.window_holds = true;
    plan.hosts[0].queues = vec![QueueSettings {
        capture: vec!["c/#".into()],
        keep: Keep::Interest,
        overflow: Overflow::Reject,
        storage: Storage::Disk,
        ..QueueSettings::new("q")
    }];
    for (uid, m) in plan.messages.iter_mut().enumerate() {
        m.id = MessageId::from_parts(1 + uid as u64, [1; 10]);
        m.tenant = String::new();
        (m.channel, m.publisher, m.priority, m.size) = ("c/1/1".into(), 0, 0, 10);
        (m.contract, m.ttl_ms, m.delay_ms, m.retain) = (Contract::Disk, 0, 0, false);
    }
    Ledger::new(&plan)
}

fn seen(uid: u32, seq: u64, flags: u8) -> Seen {
    let (channel, bytes) = ("c/1/1".to_owned(), payload(uid, 10));
    Seen { epoch: 7, tag: seq, flags, lane: 0, seq, offset: seq, uid, channel, bytes, record: 30 }
}

#[test]
fn every_checker_can_fail() {
    type Story = fn(&mut Ledger);
    fn key() -> (usize, String, String) {
        (0, "q".into(), "k".into())
    }
    let stories: &[(&str, Story)] = &[
        ("acknowledged means kept: no ack before the sync", |l| {
            l.acknowledged(0, Outcome::Stored, Life::default(), &BTreeSet::new());
        }),
        ("nothing is seen before it is durable", |l| l.leaves(0, &seen(0, 1, 0), &BTreeSet::new())),
        ("what is delivered is what was published", |l| {
            l.delivered(1, &key(), &Seen { bytes: vec![0, 0, 0, 0, 9], ..seen(0, 1, 0) });
        }),
        ("a place of a queue is never another message's", |l| {
            l.delivered(1, &key(), &seen(0, 1, 0));
            l.delivered(1, &key(), &seen(1, 1, item_flag::REDELIVERED));
        }),
        ("delivery only to matching filters", |l| {
            l.reader(&key(), &["c/2/+".to_owned()]);
            l.delivered(1, &key(), &seen(0, 1, 0));
        }),
        ("a redelivery carries the flag", |l| {
            l.delivered(1, &key(), &seen(0, 1, 0));
            l.delivered(2, &key(), &seen(0, 1, 0));
        }),
        ("first deliveries are in the queue's order", |l| {
            l.delivered(1, &key(), &seen(1, 2, 0));
            l.delivered(1, &key(), &seen(0, 1, 0));
        }),
        ("no duplicate inside the dedupe window", |l| {
            l.delivered(1, &key(), &seen(0, 1, 0));
            l.delivered(1, &key(), &seen(0, 2, 0));
            l.close(&[Life::default()]);
        }),
        ("order per publisher, queue and priority", |l| {
            l.delivered(1, &key(), &seen(1, 1, 0));
            l.delivered(1, &key(), &seen(0, 2, 0));
            l.close(&[Life::default()]);
        }),
        ("no acknowledged message is lost", |l| {
            l.reader(&key(), &[]);
            l.acknowledged(0, Outcome::Stored, Life::default(), &BTreeSet::from([0]));
            l.close(&[Life { process: 2, losses: 1 }]);
        }),
        ("an offset that was seen is never another message's", |l| {
            l.heard(1, 0, "", "c/#", &seen(0, 1, item_flag::HAS_OFFSET));
            l.heard(1, 0, "", "c/#", &seen(1, 1, item_flag::HAS_OFFSET));
        }),
        ("no tenant sees another's", |l| l.heard(1, 0, "red", "c/#", &seen(0, 1, 0))),
        ("a subscriber hears a publisher in order", |l| {
            l.fates[0].sends = 1;
            l.fates[1].sends = 1;
            l.heard(1, 0, "", "c/#", &seen(1, 1, 0));
            l.heard(1, 0, "", "c/#", &seen(0, 2, 0));
        }),
    ];
    for (promise, story) in stories {
        let mut ledger = ledger();
        story(&mut ledger);
        assert_eq!(ledger.broken.as_ref().map(|b| b.promise), Some(*promise), "{:?}", ledger.broken);
    }
}
