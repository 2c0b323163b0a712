//! The broker as it is installed: the real program in a process of its own, with a log to look into.

#![allow(dead_code)]

use super::raw::{PATIENCE, Raw};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What every broker here is configured with, unless its test says where it listens.
const LISTEN: &str = "listen: {tcp: [\"127.0.0.1:0\"]}\n";

/// How to start one.
#[derive(Default)]
pub struct Setup {
    /// Configuration beside the address.
    pub config: String,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// A command that starts it: its words come before the program's.
    pub wrapper: Vec<String>,
}

/// A folder for a broker: configuration, log and `data`.
pub struct Place {
    folder: TempDir,
}

impl Place {
    /// A new one.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("folder") }
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Starts a broker and waits until it listens.
    pub fn start(&self, setup: &Setup) -> Broker<'_> {
        let mut broker = self.spawn(setup);
        broker.address = broker.await_ready();
        broker
    }

    /// Starts a broker.
    pub fn spawn(&self, setup: &Setup) -> Broker<'_> {
        let config = self.folder.path().join("config.yaml");
        let listen = if setup.config.contains("listen:") { "" } else { LISTEN };
        fs::write(&config, format!("{listen}{}", setup.config)).expect("written");
        let log = OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).expect("a log");
        let mut words: Vec<String> = setup.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_tidegate").into());
        let process = Command::new(&words[0])
            .args(&words[1..])
            .arg("serve")
            .args([Path::new("--config"), &config, Path::new("--data"), &self.data()])
            .envs(setup.env.iter().cloned())
            .env("DATA", self.data())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it starts");
        Broker { process, place: self, address: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }
}

/// A running broker; killed with its owner.
pub struct Broker<'p> {
    process: Child,
    place: &'p Place,
    /// Its address: TCP, or what else it listens on.
    pub address: SocketAddr,
}

impl Broker<'_> {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A path as the broker sees it, which may have mounts of its own.
    pub fn seen(&self, path: &Path) -> PathBuf {
        let mut seen = PathBuf::from(format!("/proc/{}", self.pid()));
        seen.push("root");
        seen.push(path.strip_prefix("/").expect("absolute"));
        seen
    }

    /// The data folder as the broker sees it.
    pub fn data(&self) -> PathBuf {
        self.seen(&self.place.data())
    }

    fn await_ready(&mut self) -> SocketAddr {
        wait_for("the broker listens", || {
            if let Some(status) = self.process.try_wait().expect("ours") {
                panic!("it ended ({status}):\n{}", self.place.log());
            }
            let text = fs::read_to_string(self.data().join("ready.json")).ok()?;
            let ready: Value = serde_json::from_str(&text).ok()?;
            let first = ["tcp", "tls", "http", "https"].iter().find_map(|door| ready[door][0].as_str());
            (ready["pid"] == self.pid()).then(|| first.expect("listens").parse().expect("an address"))
        })
    }

    /// Another address it listens on: of `tls`, `http` or `https`.
    pub fn door(&self, name: &str) -> SocketAddr {
        let text = fs::read_to_string(self.data().join("ready.json")).expect("it is ready");
        let ready: Value = serde_json::from_str(&text).expect("JSON");
        ready[name][0].as_str().expect("it listens there").parse().expect("an address")
    }

    /// A session over the Unix socket, which may ask everything.
    pub fn admin(&self) -> Raw {
        let mut raw = Raw::unix(&self.data().join("tidegate.sock"));
        raw.hello(60_000);
        raw
    }

    /// The status.
    pub fn status(&self) -> Value {
        self.admin().status()
    }

    /// What `tidegate status` prints.
    pub fn status_for_people(&self) -> String {
        let url = format!("unix://{}", self.data().join("tidegate.sock").display());
        let output =
            Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["status", "--url", &url]).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Waits until the log has a line with all of these words.
    pub fn says(&self, words: &[&str]) -> String {
        wait_for(&format!("the log says {words:?}"), || {
            let log = self.place.log();
            log.lines().find(|line| words.iter().all(|w| line.contains(w))).map(str::to_owned)
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.process), signal).expect("ours");
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        self.process.kill().expect("ours");
        self.process.wait().expect("ours");
    }

    /// Ends it in order.
    pub fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "it ended with {status}:\n{}", self.place.log());
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        wait_for("the broker ends", || self.process.try_wait().expect("ours"))
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.process.try_wait().expect("ours").is_none()
    }

    /// Processor time used, in clock ticks of a hundredth of a second.
    pub fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let after = stat.rsplit(')').next().expect("a name in brackets");
        let fields: Vec<u64> =
            after.split_whitespace().skip(11).take(2).map(|n| n.parse().expect("a number")).collect();
        fields[0] + fields[1]
    }

    /// A number of kB in its `/proc` status, in bytes.
    pub fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|l| l.strip_prefix(field)).expect("Linux says it");
        let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1_024
    }

    /// Descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }
}

impl Drop for Broker<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("the broker's log:\n{}", self.place.log());
        }
    }
}

/// Waits until there is something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "not within {:?}: {what}", began.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until it is so.
pub fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    wait_for(what, || is().then_some(()));
}
