//! The data folder taken by another process, read-only, and deleted under a running broker.

use super::broker::{Place, Setup, wait_until};
use super::child::{mounts_are_permitted, skipped};
use super::load::{Load, Publisher};
use super::preload::{Fault, Preload};
use super::raw::{PATIENCE, Raw, record};
use std::fs;
use std::process::Command;
use tidegate::wire::{Code, Contract, FrameType};

#[test]
fn a_second_process_on_a_folder_is_refused_and_does_not_disturb_the_first() {
    let place = Place::new();
    let broker = place.start(&Setup::default());
    let mut load = Load::start(broker.address, &[Publisher::default(); 2]);
    load.consume();
    load.progresses(20);
    let ready = fs::read(broker.data().join("ready.json")).expect("there");
    for _ in 0..2 {
        let mut second = place.spawn(&Setup::default());
        assert!(!second.ended().success());
        load.progresses(20);
    }
    broker.says(&["in use by another process", "stop that process"]);
    assert_eq!(fs::read(broker.data().join("ready.json")).expect("there"), ready, "whose folder it is stays told");
    assert_eq!(broker.status()["state"], "ok");
    println!("{}", load.finish());
    broker.stop();
}

#[test]
fn a_read_only_folder_is_refused_by_name() {
    if !mounts_are_permitted() {
        skipped("a read-only folder", "this machine permits no mounts of one's own");
        return;
    }
    let place = Place::new();
    place.start(&Setup::default()).stop();
    let script = r#"mount --bind "$DATA" "$DATA"; mount -o remount,bind,ro "$DATA"; exec "$@""#;
    let wrapper = ["unshare", "-rm", "sh", "-ec", script, "sh"].map(String::from).to_vec();
    let mut refused = place.spawn(&Setup { wrapper, ..Setup::default() });
    assert!(!refused.ended().success());
    refused.says(&["read-only", "must be writable", place.data().to_str().expect("a plain path")]);
    drop(refused);
    // Nothing was set aside for it.
    let broker = place.start(&Setup::default());
    Raw::open(broker.address).publishes(1, 1, "a");
    assert_eq!(super::disk_errors::damaged(&place), 0);
    broker.stop();
}

#[test]
fn a_folder_that_becomes_read_only_refuses_publishes_until_it_is_writable_again() {
    const EROFS: i64 = 30;
    let Some(preload) = Preload::build("a folder that becomes read-only") else { return };
    let place = Place::new();
    let broker = place.start(&Setup { env: preload.env(&place.data()), ..Setup::default() });
    let mut load = Load::start(broker.address, &[Publisher::default(); 2]);
    load.consume();
    load.progresses(50);
    for fault in [Fault::Open, Fault::Write] {
        preload.set(fault, EROFS);
    }
    load.is_refused(&[Code::StorageFailed]);
    broker.says(&["WARN", "read-only", "next try in"]);
    assert_eq!(broker.status()["state"], "failed");
    preload.heal();
    load.progresses(50);
    assert_eq!(broker.status()["state"], "ok");
    assert_eq!(super::disk_errors::damaged(&place), 0);
    println!("{}", load.finish());
    broker.stop();
}

#[test]
#[ignore = "needs root and a loop device: scripts/faults.sh runs it"]
fn privileged_a_file_system_that_turns_read_only_refuses_publishes_and_keeps_what_was_acknowledged() {
    let place = Place::new();
    let broker = place.start(&super::full_disk::small_ext4("64M", "store: {free_low: 1MiB, free_high: 2MiB}\n"));
    let mut load = Load::start(broker.address, &[Publisher::default(); 2]);
    load.consume();
    load.progresses(100);
    // As ext4 itself does after an error: every write fails from now on, open files or not.
    let data = place.data();
    let pid = broker.pid().to_string();
    let enter = ["--mount", "--target", &pid, "mount", "-o", "remount,abort"];
    let turned = Command::new("nsenter").args(enter).arg(&data).status();
    assert!(turned.expect("nsenter is of util-linux").success());
    load.is_refused(&[Code::StorageFailed]);
    broker.says(&["WARN", "next try in"]);
    assert_eq!(broker.status()["state"], "failed");
    // What is on the disk is all there when it is mounted anew.
    load.moved(None);
    broker.kill();
    let script = r#"mount -o loop "$DATA.ext4" "$DATA"; exec "$@""#;
    let wrapper = ["unshare", "-m", "sh", "-ec", script, "sh"].map(String::from).to_vec();
    let broker = place.start(&Setup { wrapper, ..Setup::default() });
    load.moved(Some(broker.address));
    wait_until("it is well", || broker.status()["state"] == "ok" || broker.status()["state"] == "low");
    println!("{}", load.finish());
    broker.stop();
}

#[test]
fn a_folder_that_is_deleted_acknowledges_nothing_more_and_ends_the_broker() {
    let place = Place::new();
    let mut broker = place.start(&Setup::default());
    let mut raw = Raw::open(broker.address);
    raw.publishes(1, 1, "a");
    fs::remove_dir_all(place.data()).expect("deleted");
    // What comes now would be kept nowhere.
    raw.publish(1, 2, Contract::Disk, &record("a", b"kept nowhere"));
    match raw.poll(PATIENCE) {
        Ok(got) if got.kind == FrameType::PublishAck => panic!("acknowledged, and kept nowhere"),
        Ok(_) | Err(_) => {}
    }
    assert!(!broker.ended().success(), "whoever watches over it must start it again");
    broker.says(&["ERROR", "was deleted while the broker used it"]);
    drop(broker);
    // It begins anew: folder, store, socket.
    let broker = place.start(&Setup::default());
    Raw::open(broker.address).publishes(1, 1, "a");
    wait_until("it is well", || broker.status()["state"] == "ok");
    broker.stop();
}
