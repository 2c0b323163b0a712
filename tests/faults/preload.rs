//! The disk that fails and the clock that jumps (`preload.c`), built here and told what to do while a broker runs.

#![allow(dead_code)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Places of the numbers in the control file, as in `preload.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What writes and changes of a file's length fail with, once [`Fault::WritesLeft`] more went well.
    Write = 0,
    /// What syncs fail with.
    Sync = 1,
    /// What reads fail with.
    Read = 2,
    /// What opening for writing fails with.
    Open = 3,
    /// Reads and writes do a third of what they were asked to.
    Short = 4,
    /// Every second call is interrupted.
    Interrupts = 5,
    /// Milliseconds by which a sync is late.
    SyncMs = 6,
    /// Seconds by which the wall clock is off.
    ClockSeconds = 7,
    /// Writes that go well before they fail.
    WritesLeft = 8,
}

/// Where the number of calls that were meddled with stands.
const INJECTED: u64 = 9;
const PLACES: u64 = 10;

/// The library, and the file by which it is told.
pub struct Preload {
    control: File,
    control_path: PathBuf,
    library: PathBuf,
    _folder: TempDir,
}

impl Preload {
    /// Builds it; `None`, said loudly, where there is no C compiler.
    pub fn build(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("folder");
        let library = folder.path().join("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/preload.c");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).arg("-ldl").output();
        match built {
            Ok(output) => assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => {
                super::child::skipped(test, &format!("there is no C compiler to build the failing disk with: {error}"));
                return None;
            }
        }
        let control_path = folder.path().join("control");
        fs::write(&control_path, [0; 8 * PLACES as usize]).expect("written");
        let control = OpenOptions::new().read(true).write(true).open(&control_path).expect("there");
        Some(Self { control, control_path, library, _folder: folder })
    }

    /// What a broker on this data folder is started with.
    pub fn env(&self, data: &Path) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().expect("a plain path").to_owned();
        vec![
            ("LD_PRELOAD".into(), text(&self.library)),
            ("FAULTS_CONTROL".into(), text(&self.control_path)),
            ("FAULTS_FOLDER".into(), text(data)),
        ]
    }

    /// From now on it is so.
    pub fn set(&self, fault: Fault, number: i64) {
        self.control.write_all_at(&number.to_ne_bytes(), 8 * fault as u64).expect("written");
    }

    /// The disk is well again.
    pub fn heal(&self) {
        use Fault::{Interrupts, Open, Read, Short, Sync, SyncMs, Write, WritesLeft};
        for fault in [Write, Sync, Read, Open, Short, Interrupts, SyncMs, WritesLeft] {
            self.set(fault, 0);
        }
    }

    /// Calls meddled with so far.
    pub fn injected(&self) -> i64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, 8 * INJECTED).expect("there");
        i64::from_ne_bytes(bytes)
    }
}
