//! Opens the store of a data folder so that a bad one never keeps the broker down.
//!
//! The order: take the folder, look at the file's header, have a file that was closed in order verified (one that was
//! not is verified by redb itself), open it. A file that is damaged is set aside under a dated name, never deleted; what
//! verifies in it is taken over into a new one first (`store::salvage`). A newer format, a lock, a full or read-only
//! disk are refused: there, waiting or another release is the cure, and setting anything aside would lose messages. A
//! disk on which only a second store has no room is no reason to stay down: then the new one begins empty.

use super::StoreError;
use super::file::{Disk, RealDisk};
use super::journal::{Attach, JOURNAL_NAME, JournaledStore, attach};
use super::overlay::{self, Header};
use super::redb::{RedbStore, from_io};
use super::salvage::{self, SALVAGED};
use crate::model::{Civil, Position, Wall};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Name of the database file in the data folder.
pub const STORE_NAME: &str = "store.redb";
/// Pages kept in memory unless told otherwise, in bytes; at most half of it is what a transaction wrote.
pub const CACHE_BYTES_DEFAULT: usize = 4 * 1_024 * 1_024;
/// Size of the journal unless told otherwise, in bytes.
pub const JOURNAL_BYTES_DEFAULT: u64 = 4 * 1_024 * 1_024;

/// How to open.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Most bytes of pages kept in memory.
    pub cache_bytes: usize,
    /// Whether a file that was closed in order is read and verified before it is trusted.
    pub verify: bool,
    /// Now, for the name of a file that is set aside.
    pub now: Wall,
    /// Size of the journal in bytes, both segments and its header; 0 does without one.
    pub journal_bytes: u64,
    /// Random bits: what a journal that is made is known by.
    pub random: u128,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            cache_bytes: CACHE_BYTES_DEFAULT,
            verify: true,
            now: Wall(0),
            journal_bytes: JOURNAL_BYTES_DEFAULT,
            random: 0,
        }
    }
}

/// An opened store, and what happened on the way.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: JournaledStore,
    /// What somebody should know.
    pub findings: Vec<Finding>,
}

/// What a new store has from a damaged one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Messages that are there.
    pub messages: u64,
    /// Rows that were taken over.
    pub rows: u64,
    /// Messages that queues should have and have not.
    pub missing: u64,
    /// Pages that could not be trusted; what was below each of them, queues perhaps, is unknown.
    pub parts: u64,
    /// Whether anything may be missing or older than it was: then every queue has a new epoch.
    pub lossy: bool,
}

/// Something that happened while opening. Displays as a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The store had not been closed; it was verified and is whole.
    Repaired,
    /// The store was damaged: it is kept under this name and a new one was begun, with what was whole in it.
    SetAside {
        /// The name in the data folder.
        name: String,
        /// What was wrong, and why nothing was taken over where that is for want of space.
        why: String,
        /// What was taken over from it; nothing when the new store began empty.
        salvaged: Option<Salvaged>,
    },
    /// The last record of the journal was being written when the power went: nobody was told of it.
    JournalTail,
    /// The database lost its last transaction.
    FellBack {
        /// What it has.
        applied: Position,
        /// What it had.
        base: Position,
        /// Whether the journal still held all of it.
        recovered: bool,
    },
    /// The journal was damaged: what could be read of it was applied, the file is kept under this name.
    JournalDamaged {
        /// The name in the data folder.
        name: String,
        /// What was wrong.
        why: String,
        /// Commits that are lost: positions, the first excluded.
        holes: Vec<(Position, Position)>,
    },
    /// The journal belongs to another database and is kept under this name.
    JournalForeign {
        /// The name in the data folder.
        name: String,
        /// Whether this database had one, which now is missing.
        missing: bool,
    },
    /// The database had a journal and there is none.
    JournalMissing,
}

impl Finding {
    /// Whether messages that were acknowledged may be lost.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Repaired | Self::JournalTail => false,
            Self::FellBack { recovered, .. } => !recovered,
            Self::JournalForeign { missing, .. } => *missing,
            Self::SetAside { salvaged, .. } => salvaged.is_none_or(|s| s.lossy),
            // Without a hole the end of it may be missing.
            Self::JournalDamaged { .. } | Self::JournalMissing => true,
        }
    }

    /// Says it as loudly as it is.
    pub(super) fn log(&self, place: &str) {
        match self {
            _ if self.is_loss() => log::error!("{place}: {self}"),
            Self::JournalTail => log::info!("{place}: {self}"),
            _ => log::warn!("{place}: {self}"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repaired => write!(f, "the store was not closed the last time; it was verified and is whole"),
            Self::SetAside { name, why, salvaged: None } => write!(
                f,
                "the store was damaged ({why}); it is kept as {name} and a new, empty one was begun: every message in \
                 it is missing here"
            ),
            Self::SetAside { name, why, salvaged: Some(salvaged) } => {
                let Salvaged { messages, rows, missing, parts, lossy } = salvaged;
                write!(
                    f,
                    "the store was damaged ({why}); it is kept as {name} and a new one was made of what is whole in it: \
                     {messages} messages, {rows} rows; "
                )?;
                match lossy {
                    true => write!(
                        f,
                        "at least {missing} messages are missing, and what else was in {parts} damaged pages; queues \
                         have new epochs"
                    ),
                    false => write!(f, "nothing is missing"),
                }
            }
            Self::JournalTail => {
                write!(
                    f,
                    "the journal ends in a commit that was cut short before anybody was told of it: it is dropped"
                )
            }
            Self::FellBack { applied, base, recovered } => {
                let (at, had) = (applied.0, base.0);
                write!(f, "the database fell back from position {had} to {at}; ")?;
                match recovered {
                    true => write!(f, "the journal still held all between: nothing is lost"),
                    false => write!(f, "the journal does not hold all between: messages are missing"),
                }
            }
            Self::JournalDamaged { name, why, holes } => {
                write!(f, "the journal was damaged ({why}); it is kept as {name}; what could be read was applied")?;
                for (after, upto) in holes {
                    write!(f, "; commits {} to {} are lost", after.0 + 1, upto.0)?;
                }
                Ok(())
            }
            Self::JournalForeign { name, missing } => {
                write!(f, "the journal belongs to another database: it is kept as {name} and not replayed")?;
                match missing {
                    true => write!(f, "; the one of this database is missing, and with it what was committed last"),
                    false => Ok(()),
                }
            }
            Self::JournalMissing => {
                write!(
                    f,
                    "the journal is missing, and with it what was committed since it was last folded; a new one was made"
                )
            }
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
    salvage::resume(disk.as_ref()).map_err(|e| explain(e, &place))?;
    let mut findings = Vec::new();
    let opened = match open_file(disk.as_ref(), options, &place) {
        Err(StoreError::Damaged(why)) => begin_anew(disk.as_ref(), options, &place, why, &mut findings)?,
        other => other?,
    };
    let OpenedStore { store, repaired } = opened;
    store.keep(lock);
    if repaired {
        Finding::Repaired.log(&place);
        findings.push(Finding::Repaired);
    }
    let reopen = || Ok(open_file(disk.as_ref(), options, &place)?.store);
    let how = Attach { disk: disk.as_ref(), options, place: &place, findings: &mut findings, reopen: &reopen };
    let store = attach(store, how)?;
    Ok(Opened { store, findings })
}

type OpenedStore = super::redb::OpenedFile;

/// Sets the damaged store aside and goes on with what is whole in it, or with an empty one.
fn begin_anew(
    disk: &dyn Disk,
    options: &OpenOptions,
    place: &str,
    mut why: String,
    findings: &mut Vec<Finding>,
) -> Result<OpenedStore, StoreError> {
    let said = |e| explain(e, place);
    let name = free_name(disk, STORE_NAME, options.now).map_err(said)?;
    let salvaged = salvage::salvage(disk, &name, &why, options.cache_bytes).unwrap_or_else(|error| {
        // Being up comes first; what is set aside is not lost.
        why = format!("{why}; what is whole in it could not be taken over: {error}");
        None
    });
    if !salvaged.is_some_and(|s| s.journal) && disk.has(JOURNAL_NAME).map_err(said)? {
        // It goes with its database, and means nothing to another.
        set_aside(disk, JOURNAL_NAME, options.now).map_err(said)?;
    }
    disk.rename(STORE_NAME, &name).map_err(said)?;
    if salvaged.is_some() {
        disk.rename(SALVAGED, STORE_NAME).map_err(said)?;
        match open_file(disk, options, place) {
            // A disk that rots as it is written.
            Err(StoreError::Damaged(again)) => {
                let copy = set_aside(disk, STORE_NAME, options.now).map_err(said)?;
                why = format!("{why}; what was taken over is damaged, too ({again}), and kept as {copy}");
            }
            // The store tells what it is made of when it is joined with its journal.
            other => return other,
        }
    }
    let finding = Finding::SetAside { name, why, salvaged: None };
    finding.log(place);
    findings.push(finding);
    open_file(disk, options, place)
}

fn open_file(disk: &dyn Disk, options: &OpenOptions, place: &str) -> Result<OpenedStore, StoreError> {
    let file = disk.open(STORE_NAME).map_err(|e| explain(e, place))?;
    if overlay::look(file.as_ref())? == Header::Closed && options.verify {
        // Dropped at once: only its verdict counts.
        drop(overlay::verify(Arc::clone(&file), options.cache_bytes)?);
    }
    RedbStore::open_file(file, options.cache_bytes)
}

/// Gives a damaged file a dated name that no other has.
pub(super) fn set_aside(disk: &dyn Disk, name: &str, now: Wall) -> io::Result<String> {
    let free = free_name(disk, name, now)?;
    disk.rename(name, &free)?;
    Ok(free)
}

/// A dated name for a damaged file that no other has.
fn free_name(disk: &dyn Disk, name: &str, now: Wall) -> io::Result<String> {
    let names = disk.names()?;
    let dated = format!("{name}.damaged-{}", compact_time(now));
    let numbered = (2..).map(|n| format!("{dated}-{n}"));
    let free = std::iter::once(dated.clone()).chain(numbered).find(|name| !names.contains(name));
    Ok(free.expect("the numbers do not end"))
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
    if !disk.has(STORE_NAME).map_err(|e| explain(e, &place))? {
        return Err(StoreError::Io(format!("{place}: there is no {STORE_NAME}")));
    }
    let file = disk.open(STORE_NAME).map_err(|e| explain(e, &place))?;
    let before = file.len().map_err(from_io)?;
    // What is still in the journal belongs to what is made small; the next start makes a new one.
    let options = &OpenOptions { journal_bytes: 0, ..OpenOptions::default() };
    let store = open_file(disk, options, &place)?.store;
    store.keep(lock);
    let reopen = || Ok(open_file(disk, options, &place)?.store);
    let how = Attach { disk, options, place: &place, findings: &mut Vec::new(), reopen: &reopen };
    let mut store = attach(store, how)?;
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
