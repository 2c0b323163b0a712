//! README's tour runs as it is written: every line of its shell blocks, against a broker of the test's own.
#![cfg(feature = "daemon")]
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::Path;
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

/// Runs a line with `tidegate` on the path, for at most some seconds; what it printed and its exit code (124: it went on).
fn run(line: &str, folder: &Path, url: &str) -> (String, i32) {
    // What runs for ever in the tour is stopped after a while; an ampersand of the tour must not outlive the test.
    let output = Command::new("timeout")
        .args(["--kill-after=1", "4", "bash", "-c", line])
        .current_dir(folder)
        .env("PATH", format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap()))
        .env("HOME", folder)
        .env("TIDEGATE_URL", url)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.code().unwrap_or(-1))
}

#[test]
fn the_five_minutes_of_the_readme_run_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    fs::create_dir(home.join("bin")).unwrap();
    std::os::unix::fs::symlink(BIN, home.join("bin/tidegate")).unwrap();
    let handle = home.join("handle.sh");
    fs::write(&handle, "#!/bin/sh\ncat >/dev/null\n").unwrap();
    fs::set_permissions(&handle, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data = home.join("data");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data"];
    let mut command = Command::new(BIN);
    let _broker = Broker(command.args(serve).arg(&data).stderr(Stdio::null()).spawn().unwrap());
    let began = Instant::now();
    while !data.join("ready.json").exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "the broker does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let url = format!("unix://{}", data.join("tidegate.sock").display());

    let mut ran = 0;
    let mut background = String::new();
    for line in lines("## Five minutes", "## Configure it") {
        if line.ends_with('&') {
            background = format!("{line} sleep 0.5; ");
            continue;
        }
        let whole =
            format!("{}{line}; status=$?; kill $(jobs -p) 2>/dev/null; exit $status", std::mem::take(&mut background));
        let (text, code) = run(&whole, home, &url);
        assert!(code == 0 || code == 124, "{line:?} ended with {code}: {text}");
        ran += 1;
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
        let (text, code) = run(line, home, "");
        assert_eq!(code, 0, "{line:?}: {text}");
    }
    assert!(home.join("tidegate.yaml").exists());
}
