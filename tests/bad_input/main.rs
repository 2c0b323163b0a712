//! Bad input against the real daemon over real sockets: a typed error that says what to do, and nobody else disturbed.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod bytes;
#[path = "../support/child.rs"]
mod child;
mod crowd;
mod patience;
mod publishing;
#[path = "../support/raw.rs"]
mod raw;
mod readers;
mod requests;
mod streams;

use raw::Raw;
use std::net::SocketAddr;
use tempfile::TempDir;
use tidegate::config::{QueueSettings, Settings};
use tidegate::daemon::testing::{self, Running};

/// A daemon in this process.
pub struct Daemon {
    running: Option<Running>,
    _folder: TempDir,
}

impl Daemon {
    /// With the default settings, free ports, a folder of its own, and this change.
    pub fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut settings = testing::settings(folder.path());
        change(&mut settings);
        Self { running: Some(testing::spawn(settings).expect("the daemon starts")), _folder: folder }
    }

    /// Its TCP address.
    pub fn tcp(&self) -> SocketAddr {
        self.running.as_ref().expect("running").tcp()
    }

    /// Its Unix socket.
    pub fn unix(&self) -> std::path::PathBuf {
        self.running.as_ref().expect("running").unix()
    }

    /// A session that is welcomed.
    pub fn open(&self) -> Raw {
        Raw::open(self.tcp())
    }

    /// A good client that was there before the bad ones.
    pub fn witness(&self) -> Witness {
        Witness { raw: self.open(), number: 1 }
    }

    /// Stops it at once, without waiting for the clients that are still there; it must end well.
    pub fn stop(mut self) {
        let mut running = self.running.take().expect("running");
        running.stopper.stop();
        running.stopper.stop();
        running.wait().expect("a clean end");
    }
}

/// Shows that the others are not disturbed.
pub struct Witness {
    raw: Raw,
    number: u64,
}

impl Witness {
    /// Its session lives and the broker stores what it publishes.
    pub fn is_well(&mut self) {
        self.raw.publishes(1, self.number, "witness");
        self.number += 1;
    }
}

/// A queue on `filter`.
pub fn queue(name: &str, filter: &str, change: impl FnOnce(&mut QueueSettings)) -> QueueSettings {
    let mut queue = QueueSettings { capture: vec![filter.into()], ..QueueSettings::new(name) };
    change(&mut queue);
    queue
}

/// Not a test: what other tests start in a process of its own.
#[test]
#[ignore = "started by other tests in a process of its own"]
fn a_part_of_another_test() {
    let (role, folder) = child::role().expect("started by another test");
    match &role[..] {
        "readers" => child::serve(readers::settings(&folder)),
        "crowd-broker" => child::serve(crowd::settings(&folder)),
        "crowd-clients" => crowd::clients(&folder),
        other => panic!("{other}"),
    }
}
