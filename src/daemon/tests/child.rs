//! What needs a process of its own: too few files, signals, and measuring.

use super::super::{Options, READY_FILE, serve_with, testing};
use super::fake::{Fake, Ledger, Mode, stores};
use super::{PATIENCE, ask};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const FOLDER: &str = "TIDEGATE_TEST_FOLDER";
const FILES: &str = "TIDEGATE_TEST_FILES";

/// Not a test: the daemon of the others below.
#[test]
#[ignore = "started by other tests in a process of its own"]
fn daemon_of_its_own() {
    let folder = std::env::var_os(FOLDER).expect("started by another test");
    if let Some(files) = std::env::var(FILES).ok().and_then(|files| files.parse().ok()) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) }).expect("lowered");
    }
    let options = Options {
        settings: testing::settings(Path::new(&folder)),
        reload: None,
        signals: true,
        identities: super::super::identities(),
    };
    let ledger = Arc::<Ledger>::default();
    let kept = Arc::clone(&ledger);
    serve_with(
        options,
        |_, _, notify| Ok(stores(notify, ledger)),
        |_, settings, _, _| Ok(Fake::new(Mode::Echo, settings, kept)),
        |_, _| (),
    )
    .expect("a clean end");
}

struct Process {
    child: Child,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Process {
    fn start(files: Option<u64>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut command = Command::new(std::env::current_exe().expect("known"));
        command.args(["--exact", "daemon::tests::child::daemon_of_its_own", "--ignored"]).env(FOLDER, folder.path());
        if let Some(files) = files {
            command.env(FILES, files.to_string());
        }
        let child = command.stdout(Stdio::null()).spawn().expect("started");
        let ready = folder.path().join(READY_FILE);
        let began = Instant::now();
        let text = loop {
            if let Ok(text) = std::fs::read(&ready) {
                break text;
            }
            assert!(began.elapsed() < PATIENCE, "it never became ready");
            std::thread::sleep(Duration::from_millis(2));
        };
        let ready: serde_json::Value = serde_json::from_slice(&text).expect("JSON, whole");
        assert_eq!(ready["pid"], child.id());
        let address = ready["tcp"][0].as_str().and_then(|text| text.parse().ok()).expect("an address");
        Self { child, folder, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected, or waiting in the backlog");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_nodelay(true).expect("set");
        stream
    }

    fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("ours").count()
    }

    /// Processor time used, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("ours");
        let fields: Vec<_> = stat.rsplit(')').next().expect("has a name").split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("ours");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("has memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process");
        kill_process(pid, signal).expect("ours");
    }

    fn terminate(mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().expect("ours").success());
        assert!(!self.folder.path().join(READY_FILE).exists());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_daemon_out_of_files_serves_those_it_has_and_takes_more_when_it_can() {
    let process = Process::start(Some(48));
    let before = process.files();
    let mut clients: Vec<_> = (0..80).map(|_| process.connect()).collect();
    for client in &mut clients[..20] {
        assert_eq!(ask(client, b"served"), b"served");
    }
    let began = Instant::now();
    while process.files() < 48 {
        assert!(began.elapsed() < PATIENCE, "it does not accept what it could");
        std::thread::sleep(Duration::from_millis(2));
    }
    // It has no file left and 40 wait: it must not spin. A measurement, so it takes its time.
    let ticks = process.ticks();
    std::thread::sleep(Duration::from_millis(500));
    let used = process.ticks() - ticks;
    assert!(used <= 15, "{used}0 ms of processor time in 500 ms");
    // The waiting ones get their turn as the others go.
    let mut waiting = clients.split_off(60);
    drop(clients);
    for client in &mut waiting {
        assert_eq!(ask(client, b"at last"), b"at last");
    }
    drop(waiting);
    let began = Instant::now();
    while process.files() != before {
        assert!(began.elapsed() < PATIENCE, "{} files open, {before} before", process.files());
        std::thread::sleep(Duration::from_millis(2));
    }
    process.terminate();
}

#[test]
fn a_hangup_without_reload_harms_nothing_and_int_ends() {
    let mut process = Process::start(None);
    process.signal(Signal::HUP);
    assert_eq!(ask(&mut process.connect(), b"still here"), b"still here");
    process.signal(Signal::INT);
    assert!(process.child.wait().expect("ours").success());
}

#[test]
#[ignore = "a measurement: run with --ignored --nocapture"]
#[allow(clippy::print_stdout)]
fn measure_echo_and_idle_connections() {
    let process = Process::start(None);
    for connections in [1usize, 100] {
        let mut clients: Vec<_> = (0..connections).map(|_| process.connect()).collect();
        let message = [9u8; 64];
        let mut back = [0; 64];
        let (ticks, began) = (process.ticks(), Instant::now());
        let mut trips = 0u64;
        while began.elapsed() < Duration::from_secs(3) {
            for client in &mut clients {
                client.write_all(&message).expect("sent");
            }
            for client in &mut clients {
                client.read_exact(&mut back).expect("answered");
            }
            trips += connections as u64;
        }
        let (used, took) = (process.ticks() - ticks, began.elapsed());
        println!(
            "{connections} connections: {:.0} round trips/s, {:.2} us of processor each",
            trips as f64 / took.as_secs_f64(),
            used as f64 * 10_000.0 / trips as f64
        );
    }
    let before = process.resident_kib();
    let clients: Vec<_> = (0..400)
        .map(|_| {
            let mut client = process.connect();
            ask(&mut client, b"hello");
            client
        })
        .collect();
    let each = (process.resident_kib() - before) * 1_024 / clients.len() as u64;
    println!("an idle connection: {each} bytes resident");
    let (ticks, began) = (process.ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    println!("idle for {:?}: {}0 ms of processor", began.elapsed(), process.ticks() - ticks);
    process.terminate();
}
