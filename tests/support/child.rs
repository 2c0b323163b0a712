//! A part of a test in a process of its own: this test binary, started again. It speaks by lines on its standard output
//! and does what lines on its standard input say; when that ends, so does it, so that none outlives its test.

#![allow(dead_code, clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use tidegate::config::Settings;
use tidegate::daemon::testing;

const ROLE: &str = "TIDEGATE_TEST_ROLE";
const FOLDER: &str = "TIDEGATE_TEST_FOLDER";
/// What lines meant for the parent begin with: the test harness prints others.
const MARK: &str = "CHILD ";
/// The ignored test that every binary which uses this has at its root; it calls [`role`].
const ENTRY: &str = "a_part_of_another_test";

/// What this process was started for, and the folder it was given.
pub fn role() -> Option<(String, PathBuf)> {
    Some((std::env::var(ROLE).ok()?, std::env::var_os(FOLDER)?.into()))
}

/// Tells the parent.
pub fn say(line: &str) {
    // A line of its own, whatever the harness printed before.
    println!("\n{MARK}{line}");
    std::io::stdout().flush().expect("the parent listens");
}

/// In the child: the daemon with these settings, until the parent says stop or is gone.
pub fn serve(settings: Settings) -> ! {
    if std::env::var_os("TIDEGATE_TEST_LOG").is_some() && log::set_logger(&Loud).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    let folder = settings.data.clone().expect("settings of a test name a folder");
    let running = match testing::spawn(settings) {
        Ok(running) => running,
        Err(error) => {
            say(&format!("refused {error}"));
            std::process::exit(0);
        }
    };
    say(&format!("listening {}", running.tcp()));
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("stop", _) => {
                let ended = running.stop().map_or_else(|e| e.to_string(), |()| "well".to_owned());
                say(&format!("stopped {ended}"));
                std::process::exit(0);
            }
            // Takes space on the file system of the folder until less than so many bytes are free.
            ("fill", free) => say(&format!("filled {}", fill(&folder, free.parse().expect("bytes")))),
            ("free", _) => {
                fs::remove_file(folder.join("ballast")).expect("it was filled before");
                say("freed");
            }
            other => panic!("{other:?}"),
        }
    }
    // The parent is gone.
    std::process::exit(1);
}

fn fill(folder: &Path, leave: u64) -> u64 {
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("ballast")).expect("a file");
    let mut written = 0;
    loop {
        let free = tidegate::runtime::disk::free_bytes(folder).expect("told");
        let now = free.saturating_sub(leave).min(64 * 1_024);
        if now == 0 || file.write_all(&vec![1; now as usize]).is_err() {
            return written;
        }
        written += now;
    }
}

/// The log of a child on its standard error, for who looks into a failure.
struct Loud;

impl log::Log for Loud {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("tidegate")
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("{:?} {} {}", std::time::SystemTime::now(), record.level(), record.args());
        }
    }
    fn flush(&self) {}
}

/// A process.
pub struct Child {
    process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this binary again for a role.
    pub fn start(role: &str, folder: &Path) -> Self {
        Self::spawn(Command::new(std::env::current_exe().expect("known")), role, folder)
    }

    /// Starts it by a shell script in which `"$@"` is the command, as root of mounts of its own; `None` where this machine does
    /// not permit that.
    pub fn start_with_mounts(script: &str, role: &str, folder: &Path) -> Option<Self> {
        if !mounts_are_permitted() {
            return None;
        }
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-ec", script, "sh"]).arg(std::env::current_exe().expect("known"));
        Some(Self::spawn(command, role, folder))
    }

    fn spawn(mut command: Command, role: &str, folder: &Path) -> Self {
        let mut process = command
            .args(["--exact", ENTRY, "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("this binary starts again");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, input, output }
    }

    /// The next line it says.
    pub fn line(&mut self) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            let n = self.output.read_line(&mut line).expect("text");
            if let Some(said) = line.strip_prefix(MARK) {
                return said.trim_end().to_owned();
            }
            all.push_str(&line);
            assert!(n > 0, "the child ended without a word: {all}");
        }
    }

    /// Its address, once it listens.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.line();
        let address = line.strip_prefix("listening ").unwrap_or_else(|| panic!("{line}"));
        address.parse().expect("an address")
    }

    /// Tells it something and takes the answer.
    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("it listens");
        self.line()
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.process.kill().expect("ours");
        self.process.wait().expect("ours");
    }

    /// Memory of its own that is resident, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).expect("Linux says it");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1_024
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Ended already where the test went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a process may have mounts of its own here.
pub fn mounts_are_permitted() -> bool {
    let script = "d=$(mktemp -d) && mount -t tmpfs none $d && umount $d && rmdir $d";
    let tried = Command::new("unshare").args(["-rm", "sh", "-ec", script]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Says that a test could not be run: nobody should take its silence for a pass.
pub fn skipped(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}
