//! The promise of the whole program: every line of a file arrives once and in order, though the broker is killed hard
//! again and again while the file is being published. `scripts/kill-test.sh` does the same with millions of lines.
#![cfg(all(feature = "daemon", target_os = "linux"))]
#![allow(clippy::disallowed_methods, reason = "a test waits for a condition, but not for ever")]

use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LINES: u64 = 50_000;
const KILLS: u64 = 3;

/// A process of this test, ended with it.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str], paths: &[&Path], out: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(arguments).args(paths).env_remove("TIDEGATE_URL").stdin(Stdio::null());
        command.stdout(File::create(out).expect("a file"));
        Self(command.spawn().expect("it can be started"))
    }

    /// Kills it hard; it must have been running until then.
    fn kill(&mut self) {
        assert_eq!(self.0.try_wait().expect("ours"), None, "it ended by itself");
        self.0.kill().expect("ours");
        self.0.wait().expect("ours");
    }

    #[track_caller]
    fn ends_well(&mut self) {
        let status = wait_for(|| self.0.try_wait().expect("ours"));
        assert!(status.success(), "{status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn wait_for<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "it did not come in time");
        // Looks often without taking a processor from those it waits for.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn serve(folder: &Path) -> Process {
    let broker = Process::start(
        &["serve", "--listen", "127.0.0.1:0", "--data"],
        &[&folder.join("data")],
        &folder.join("serve.txt"),
    );
    wait_for(|| {
        let text = fs::read_to_string(folder.join("data/ready.json")).ok()?;
        let ready: Value = serde_json::from_str(&text).ok()?;
        (ready["pid"] == broker.0.id()).then_some(())
    });
    broker
}

/// Up to where a process has read a file; `None` before it has opened it and after it has closed it.
fn place_of(process: u32, file: &Path) -> Option<u64> {
    let handles = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    let handle: PathBuf =
        handles.flatten().map(|h| h.path()).find(|h| fs::read_link(h).is_ok_and(|target| target == file))?;
    let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{}", handle.file_name()?.to_str()?)).ok()?;
    info.lines().find_map(|l| l.strip_prefix("pos:"))?.trim().parse().ok()
}

/// Lines of 0 to 400 bytes, and each thousandth of more than goes into one frame.
fn text() -> String {
    let mut text = String::new();
    for i in 0..LINES {
        match i % 1_000 {
            7 => (),
            999 => text.push_str(&format!("{i} ").repeat(4_000)),
            _ => text.push_str(&format!("{i}: {}", "Gerät mißt 21,5 °C ".repeat((i % 17) as usize))),
        }
        text.push('\n');
    }
    text
}

#[test]
fn every_line_arrives_once_and_in_order_through_kills_while_publishing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path().canonicalize().expect("it is there");
    let (input, copy) = (folder.join("input.txt"), folder.join("copy.txt"));
    let (published, consumed) = (folder.join("published.json"), folder.join("consumed.json"));
    let text = text();
    fs::write(&input, &text).expect("written");
    let mut broker = serve(&folder);
    let url = format!("unix://{}", folder.join("data/tidegate.sock").display());
    let consume = ["consume", "main", "--as", "copy", "--idle", "1s", "--json", "--url", &url, "--out"];
    let mut consumer = Process::start(&consume, &[&copy], &consumed);
    let publish = ["pub", "log", "--lines", "--json", "--url", &url, "--file"];
    let mut publisher = Process::start(&publish, &[&input], &published);
    wait_for(|| place_of(publisher.0.id(), &input));
    for n in 0..KILLS {
        let due = text.len() as u64 * (4 * n + 1) / (4 * KILLS);
        let place = wait_for(|| match place_of(publisher.0.id(), &input) {
            Some(place) => (place >= due).then_some(place),
            None => panic!("the file was read before kill {}", n + 1),
        });
        // What it has not read it cannot have published.
        assert!(place < text.len() as u64, "the file was read before kill {}", n + 1);
        broker.kill();
        broker = serve(&folder);
    }
    publisher.ends_well();
    consumer.ends_well();
    let report = |path| serde_json::from_str::<Value>(&fs::read_to_string(path).expect("a report")).expect("JSON");
    let (published, consumed) = (report(&published), report(&consumed));
    assert_eq!((&published["messages"], &published["failed"]), (&LINES.into(), &0.into()), "{published}");
    assert!(published["reconnects"].as_u64() >= Some(KILLS), "a kill did not cut the connection: {published}");
    assert_eq!(consumed["messages"], LINES, "{consumed}");
    assert!(fs::read(&copy).expect("the copy") == text.as_bytes(), "the copy differs from the file");
    broker.kill();
}
