//! The HTTP port against the real daemon: WebSockets that carry frames, and everything that must not pass.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

#[path = "../support/child.rs"]
mod child;
mod client;
mod memory;
mod messages;
#[path = "../support/pki.rs"]
mod pki;
#[path = "../support/raw.rs"]
mod raw;
mod requests;
mod ws;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tempfile::TempDir;
use tidegate::config::Settings;
use tidegate::daemon::testing::{self, Running};
use ws::Ws;

/// A failing test ends after this long instead of hanging; none waits for it otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon in this process with an HTTP port.
pub struct Daemon {
    /// It.
    pub running: Running,
    _folder: TempDir,
}

impl Daemon {
    /// With free ports, a folder of its own, and this change.
    pub fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut settings = testing::settings(folder.path());
        settings.listen.http = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        change(&mut settings);
        Self { running: testing::spawn(settings).expect("the daemon starts"), _folder: folder }
    }

    /// Where HTTP is spoken.
    pub fn http(&self) -> SocketAddr {
        self.running.http()
    }

    /// A connection to the HTTP port.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.http()).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("nodelay can be set");
        stream
    }

    /// Sends bytes and returns all that comes until the broker closes.
    pub fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the broker closes in order");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The broker still answers, and a WebSocket still publishes.
    pub fn is_well(&self) {
        let answer = self.exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        let mut ws = Ws::open(self.http());
        ws.hello();
        ws.publishes(1, "well");
        ws.close();
    }
}

/// Not a test: what other tests start in a process of its own.
#[test]
#[ignore = "started by other tests in a process of its own"]
fn a_part_of_another_test() {
    let (role, folder) = child::role().expect("started by another test");
    match &role[..] {
        "websockets" => child::serve(memory::settings(&folder)),
        other => panic!("{other}"),
    }
}
