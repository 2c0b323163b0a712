//! README's tour runs as it is written: every line of its shell blocks, against a broker of the test's own.
#![cfg(feature = "daemon")]
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BIN: &str = env!("CARGO_BIN_EXE_tidegate");

struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of the `sh` blocks between two headings.
fn lines(from: &str, to: &str) -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let part = readme.split(from).nth(1).unwrap().split(to).next().unwrap();
    let blocks = part.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// Starts a line with `tidegate` on the path; what it prints goes to a file. A line that hangs ends after some seconds.
fn begin(line: &str, folder: &Path, url: &str) -> Line {
    let printed = folder.join("printed.txt");
    let file = fs::File::create(&printed).unwrap();
    let child = Command::new("timeout")
        .args(["--kill-after=1", "60", "bash", "-c", line])
        .current_dir(folder)
        .env("PATH", format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap()))
        .env("HOME", folder)
        .env("TIDEGATE_URL", url)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    Line { child, printed }
}

struct Line {
    child: Child,
    printed: PathBuf,
}

impl Line {
    /// Waits for its end: what it printed, and its exit code.
    fn end(mut self) -> (String, i32) {
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        (fs::read_to_string(&self.printed).unwrap(), code)
    }

    /// Ends what would run for ever, and all it started.
    fn stop(mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        self.child.wait().unwrap();
    }
}

/// Connections of the broker beside the one that asks.
fn connections(url: &str) -> u64 {
    let output = Command::new(BIN).args(["status", "--json", "--url", url]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["connections"].as_u64().unwrap() - 1
}

#[track_caller]
fn wait_for(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_five_minutes_of_the_readme_run_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    fs::create_dir(home.join("bin")).unwrap();
    std::os::unix::fs::symlink(BIN, home.join("bin/tidegate")).unwrap();
    let handle = home.join("handle.sh");
    fs::write(&handle, "#!/bin/sh\ncat >/dev/null\ntouch handled\n").unwrap();
    fs::set_permissions(&handle, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data = home.join("data");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data"];
    let mut command = Command::new(BIN);
    let _broker = Broker(command.args(serve).arg(&data).stderr(Stdio::null()).spawn().unwrap());
    wait_for("the broker starts", || data.join("ready.json").exists());
    let url = format!("unix://{}", data.join("tidegate.sock").display());

    let mut ran = 0;
    let mut background = None;
    for line in lines("## Five minutes", "## Lock it down") {
        ran += 1;
        if let Some(line) = line.strip_suffix('&') {
            background = Some(begin(line, home, &url));
            wait_for("it is ready to answer", || connections(&url) == 1);
        } else if line.contains("--exec") {
            let worker = begin(&line, home, &url);
            wait_for("a message is handled", || home.join("handled").exists());
            worker.stop();
        } else if line.starts_with("tidegate sub") {
            let listener = begin(&line, home, &url);
            wait_for("it listens", || connections(&url) == 1);
            listener.stop();
        } else {
            // The tour measures for longer than a test needs to.
            let line = line.replace("bench --spawn", "bench --spawn --duration 200ms");
            let (text, code) = begin(&line, home, &url).end();
            assert!(code == 0, "{line:?} ended with {code}: {text}");
            if let Some(background) = background.take() {
                background.stop();
            }
        }
    }
    assert!(ran >= 12, "{ran} lines ran");
    let archive = fs::read_to_string(home.join("archive.txt")).unwrap();
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(archive == expected, "the archive is not what was published");
}

#[test]
fn the_configuration_the_readme_begins_with_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    fs::create_dir(home.join("bin")).unwrap();
    std::os::unix::fs::symlink(BIN, home.join("bin/tidegate")).unwrap();
    for line in lines("## Configure it", "## Use it").iter().filter(|line| !line.contains("serve")) {
        let (text, code) = begin(line, home, "").end();
        assert_eq!(code, 0, "{line:?}: {text}");
    }
    assert!(home.join("tidegate.yaml").exists());
}

#[test]
fn lock_it_down_works_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    fs::create_dir(home.join("bin")).unwrap();
    std::os::unix::fs::symlink(BIN, home.join("bin/tidegate")).unwrap();
    let lines = lines("## Lock it down", "## Bridge upstream");
    assert!(lines.len() <= 10, "{} lines", lines.len());
    let serve = lines.iter().position(|line| line.starts_with("tidegate serve")).unwrap();
    // Any free port here.
    let (text, code) = begin(&lines[..serve].join("\n").replace(":8434", ":0"), home, "").end();
    assert_eq!(code, 0, "{text}");
    let data = home.join("data");
    let mut command = Command::new("bash");
    command.args(["-c", &format!("exec {} --data data", lines[serve].trim_end_matches(" &"))]).current_dir(home);
    command.env("PATH", format!("{}:{}", home.join("bin").display(), std::env::var("PATH").unwrap()));
    let _broker = Broker(command.stderr(Stdio::null()).spawn().unwrap());
    wait_for("the broker starts", || data.join("ready.json").exists());
    let ready: serde_json::Value = serde_json::from_slice(&fs::read(data.join("ready.json")).unwrap()).unwrap();
    let port = ready["tls"][0].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    let run = |line: &str| begin(&line.replace(":8434", &format!(":{port}")), home, "").end();
    let (text, code) = run(&lines[serve + 1]);
    assert_eq!(code, 0, "{text}");
    // Another's channel, and nobody's key.
    let (text, code) = run(&lines[serve + 1].replace("site/sensor-7", "site/sensor-8"));
    assert!(code != 0 && text.contains("forbidden"), "{code}: {text}");
    let (text, code) = run(lines[serve + 1].split(" --key-file").next().unwrap());
    assert!(code != 0 && text.contains("asks for a key"), "{code}: {text}");
    let (text, code) = run(&lines[serve + 2]);
    assert!(code == 1 && text.contains("denied"), "{code}: {text}");
}

/// Two ports that are free now.
fn free_ports() -> [String; 2] {
    let listeners = [0; 2].map(|_| std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port().to_string())
}

#[test]
fn bridge_upstream_works_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    fs::create_dir(home.join("bin")).unwrap();
    std::os::unix::fs::symlink(BIN, home.join("bin/tidegate")).unwrap();
    let lines = lines("## Bridge upstream", "## Configure it");
    assert!(lines.len() <= 10, "{} lines", lines.len());
    let [hub, edge] = free_ports();
    let mut brokers = Vec::new();
    let mut printed = Vec::new();
    let mut text = String::new();
    for line in &lines {
        text.push_str(&line.replace(":8435", &format!(":{hub}")).replace(":8436", &format!(":{edge}")));
        if text.matches('"').count() % 2 == 1 {
            text.push('\n');
            continue;
        }
        let statement = std::mem::take(&mut text);
        if let Some(serve) = statement.strip_suffix(" &") {
            let mut command = Command::new("bash");
            command.args(["-c", &format!("exec {serve}")]).current_dir(home);
            command.env("PATH", format!("{}:{}", home.join("bin").display(), std::env::var("PATH").unwrap()));
            brokers.push(Broker(command.stderr(Stdio::null()).spawn().unwrap()));
            let data = home.join(serve.rsplit(' ').next().unwrap());
            wait_for("the broker starts", || data.join("ready.json").exists());
        } else if statement.contains("bridge status") {
            // Whoever types it takes longer than the bridge to say that it is well.
            wait_for("it is healthy", || begin(&statement, home, "").end().1 == 0);
        } else {
            let (said, code) = begin(&statement, home, "").end();
            assert_eq!(code, 0, "{statement:?}: {said}");
            printed.push(said);
        }
    }
    assert_eq!(brokers.len(), 2);
    assert!(printed.iter().any(|said| said.contains("71.5")), "what the edge was given is at the hub: {printed:?}");
}
