//! A broker of this very program in a process and a temporary folder of its own; always ended with its owner.

use super::exit::CliError;
use crate::client::Address;
use crate::daemon::READY_FILE;
use crate::runtime::clock;
use rustix::process::{Pid, Signal, kill_process};
use smol::Timer;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How often the folder is looked at while the broker starts or stops.
const LOOK: Duration = Duration::from_millis(5);
/// Longest start and longest stop, in milliseconds.
const START_MS_MAX: u64 = 10_000;
const STOP_MS_MAX: u64 = 5_000;

/// A temporary folder, removed with its owner.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    keep: bool,
}

impl Folder {
    pub(super) fn new(what: &str, keep: bool) -> Result<Self, CliError> {
        let name = format!("tidegate-{what}-{}-{:06x}", std::process::id(), fastrand::u32(..1 << 24));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).map_err(|e| CliError::failure(format!("{} cannot be made: {e}", path.display())))?;
        Ok(Self { path, keep })
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed lies in a folder for temporary things.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A running broker. Dropping it kills it.
pub(super) struct Spawned {
    child: Child,
    /// Its Unix socket: stays the same over restarts.
    pub(super) unix: Address,
    /// Its TCP address.
    pub(super) tcp: Address,
    /// Its TLS address, if its configuration has one.
    pub(super) tls: Option<Address>,
}

impl Spawned {
    /// Starts a broker and waits until it listens. Its log goes to `log.txt` in the folder.
    pub(super) async fn start(folder: &Folder, config: &Path) -> Result<Self, CliError> {
        let program = std::env::current_exe()
            .map_err(|e| CliError::failure(format!("this program's own file cannot be found: {e}")))?;
        let log_path = folder.path.join("log.txt");
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.map_err(|e| CliError::failure(format!("{} cannot be written: {e}", log_path.display())))?;
        let data = folder.data();
        // One that was killed left its own behind.
        let _ = fs::remove_file(data.join(READY_FILE));
        let mut command = Command::new(program);
        command.arg("serve").arg("--config").arg(config).arg("--data").arg(&data);
        // The caller's overrides are for the caller's broker.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| CliError::failure(format!("the broker cannot be started: {e}")))?;
        let nowhere = Address::Unix(data.join("tidegate.sock"));
        let mut spawned = Self { child, unix: nowhere.clone(), tcp: nowhere, tls: None };
        let started = clock::mono();
        loop {
            if let Some(ready) = ready(&data, spawned.pid()) {
                let address = |scheme: &str| ready[scheme][0].as_str().map(|text| format!("{scheme}://{text}"));
                let parsed =
                    |text: String| text.parse().map_err(|e| CliError::failure(format!("the broker wrote {text}: {e}")));
                spawned.tcp = parsed(address("tcp").unwrap_or_default())?;
                spawned.tls = address("tls").map(parsed).transpose()?;
                return Ok(spawned);
            }
            let ended = spawned.child.try_wait().ok().flatten();
            if let Some(status) = ended {
                let log = fs::read_to_string(&log_path).unwrap_or_default();
                let last = log.lines().last().unwrap_or("its log is empty");
                return Err(CliError::failure(format!("the broker did not start ({status}): {last}")));
            }
            if clock::mono().ms_since(started) > START_MS_MAX {
                return Err(CliError::failure("the broker did not start in time"));
            }
            Timer::after(LOOK).await;
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As a power cut does it: SIGKILL.
    pub(super) fn kill(&mut self) {
        // It can only fail when the broker ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// As an operator does it: SIGTERM. Tells whether it ended in order and in time.
    pub(super) async fn stop(mut self) -> Result<(), CliError> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).map_err(|e| CliError::failure(format!("the broker cannot be stopped: {e}")))?;
        let asked = clock::mono();
        while clock::mono().ms_since(asked) < STOP_MS_MAX {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(CliError::failure(format!("the broker stopped with {status}"))),
                Ok(None) => drop(Timer::after(LOOK).await),
                Err(e) => return Err(CliError::failure(format!("the broker cannot be waited for: {e}"))),
            }
        }
        Err(CliError::failure("the broker did not stop in time"))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The ready file, if it is of this process.
fn ready(data: &Path, pid: u32) -> Option<serde_json::Value> {
    let text = fs::read_to_string(data.join(READY_FILE)).ok()?;
    let ready: serde_json::Value = serde_json::from_str(&text).ok()?;
    (ready["pid"].as_u64() == Some(u64::from(pid))).then_some(ready)
}
