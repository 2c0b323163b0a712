//! Opens the store of a data folder so that a bad one never keeps the broker down.
//!
//! The order: take the folder, look at the file's header, have a file that was closed in order verified (one that was
//! not is verified by redb itself), open it. A file that is damaged is set aside under a dated name, never deleted, and
//! a new one is begun. A newer format, a lock, a full or read-only disk are refused: there, waiting or another release
//! is the cure, and setting anything aside would lose messages.

use super::file::{Disk, RealDisk};
use super::overlay::{self, Header};
use super::redb::{RedbStore, from_io};
use super::{Store, StoreError};
use crate::model::{Civil, Wall};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Name of the database file in the data folder.
pub const STORE_NAME: &str = "store.redb";
/// Pages kept in memory unless told otherwise, in bytes; at most half of it is what a transaction wrote.
pub const CACHE_BYTES_DEFAULT: usize = 4 * 1_024 * 1_024;

/// How to open.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Most bytes of pages kept in memory.
    pub cache_bytes: usize,
    /// Whether a file that was closed in order is read and verified before it is trusted.
    pub verify: bool,
    /// Now, for the name of a file that is set aside.
    pub now: Wall,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { cache_bytes: CACHE_BYTES_DEFAULT, verify: true, now: Wall(0) }
    }
}

/// An opened store, and what happened on the way.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: RedbStore,
    /// What somebody should know.
    pub findings: Vec<Finding>,
}

/// Something that happened while opening. Displays as a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The store had not been closed; it was verified and is whole.
    Repaired,
    /// The store was damaged: it is kept under this name and a new one was begun.
    SetAside {
        /// The name in the data folder.
        name: String,
        /// What was wrong.
        why: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repaired => write!(f, "the store was not closed the last time; it was verified and is whole"),
            Self::SetAside { name, why } => write!(
                f,
                "the store was damaged ({why}); it is kept as {name} and a new, empty one was begun: every message in \
                 it is missing here"
            ),
        }
    }
}

/// Opens the store of a folder, which is created (mode 0700) where it is missing.
///
/// # Errors
/// [`StoreError::Locked`] when another process has it, [`StoreError::Newer`] for one of a later release,
/// [`StoreError::Full`] and [`StoreError::Io`] when the folder cannot be written: each names the folder and what to do.
pub fn open(folder: &Path, options: &OpenOptions) -> Result<Opened, StoreError> {
    let disk = RealDisk::create(folder).map_err(|e| explain(e, &folder.display().to_string()))?;
    open_on(Arc::new(disk), options)
}

/// As [`open`], on any disk.
///
/// # Errors
/// As [`open`].
pub fn open_on(disk: Arc<dyn Disk>, options: &OpenOptions) -> Result<Opened, StoreError> {
    let place = disk.describe();
    let Some(lock) = disk.lock().map_err(|e| explain(e, &place))? else {
        return Err(StoreError::Locked(format!("{place}: stop that process, or choose another data folder")));
    };
    let mut findings = Vec::new();
    let opened = match open_file(disk.as_ref(), options, &place) {
        Err(StoreError::Damaged(why)) => {
            let name = set_aside(disk.as_ref(), options.now).map_err(|e| explain(e, &place))?;
            let finding = Finding::SetAside { name, why };
            log::error!("{place}: {finding}");
            findings.push(finding);
            open_file(disk.as_ref(), options, &place)?
        }
        other => other?,
    };
    let OpenedStore { store, repaired } = opened;
    if repaired {
        log::info!("{place}: {}", Finding::Repaired);
        findings.push(Finding::Repaired);
    }
    store.keep(lock);
    Ok(Opened { store, findings })
}

type OpenedStore = super::redb::OpenedFile;

fn open_file(disk: &dyn Disk, options: &OpenOptions, place: &str) -> Result<OpenedStore, StoreError> {
    let file = disk.open(STORE_NAME).map_err(|e| explain(e, place))?;
    if overlay::look(file.as_ref())? == Header::Closed && options.verify {
        // Dropped at once: only its verdict counts.
        drop(overlay::verify(Arc::clone(&file), options.cache_bytes)?);
    }
    RedbStore::open_file(file, options.cache_bytes)
}

/// Gives the damaged file a dated name that no other has.
fn set_aside(disk: &dyn Disk, now: Wall) -> io::Result<String> {
    let names = disk.names()?;
    let dated = format!("{STORE_NAME}.damaged-{}", compact_time(now));
    let numbered = (2..).map(|n| format!("{dated}-{n}"));
    let name = std::iter::once(dated.clone()).chain(numbered).find(|name| !names.contains(name));
    let name = name.expect("the numbers do not end");
    disk.rename(STORE_NAME, &name)?;
    Ok(name)
}

/// `YYYYMMDDThhmmssZ` of a time.
fn compact_time(at: Wall) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = at.civil();
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// An error of the system with the place and what to do about it.
fn explain(error: io::Error, place: &str) -> StoreError {
    use io::ErrorKind;
    let advice = match error.kind() {
        ErrorKind::PermissionDenied => "the broker's user must be able to read and write this folder",
        ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only; the data folder must be writable",
        ErrorKind::NotADirectory => "a file is in the way of the data folder",
        _ => "",
    };
    let text = if advice.is_empty() { format!("{place}: {error}") } else { format!("{place}: {error}: {advice}") };
    match from_io(error) {
        StoreError::Full(_) => StoreError::Full(format!("{text}: free some space")),
        StoreError::Damaged(_) => StoreError::Damaged(text),
        _ => StoreError::Io(text),
    }
}

/// Sizes of the database file around a compaction, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// Deletes what was trimmed and makes the file as small as it goes. The broker must not be running.
///
/// # Errors
/// As [`open`]; [`StoreError::Damaged`] when the store is damaged, which stays where it is.
pub fn compact(folder: &Path) -> Result<Compacted, StoreError> {
    let disk = RealDisk::existing(folder).map_err(|e| explain(e, &folder.display().to_string()))?;
    compact_on(&disk)
}

/// As [`compact`], on any disk.
///
/// # Errors
/// As [`compact`].
pub fn compact_on(disk: &dyn Disk) -> Result<Compacted, StoreError> {
    let place = disk.describe();
    let lock = disk.lock().map_err(|e| explain(e, &place))?;
    let Some(lock) = lock else {
        return Err(StoreError::Locked(format!("{place}: stop the broker first")));
    };
    if !disk.names().map_err(|e| explain(e, &place))?.iter().any(|n| n == STORE_NAME) {
        return Err(StoreError::Io(format!("{place}: there is no {STORE_NAME}")));
    }
    let file = disk.open(STORE_NAME).map_err(|e| explain(e, &place))?;
    let before = file.len().map_err(from_io)?;
    let mut store = open_file(disk, &OpenOptions::default(), &place)?.store;
    store.keep(lock);
    while store.tidy()? {}
    store.compact()?;
    let after = file.len().map_err(from_io)?;
    Ok(Compacted { before, after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_763_726_613, "20251121T120333Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(compact_time(Wall(seconds * 1_000)), text);
        }
    }
}
