//! A disk in memory that loses power, fills up, fails and rots when told to. For tests only.

use super::file::{Disk, DiskFile, FolderLock};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Smallest piece a torn write may be cut into, in bytes.
const SECTOR_BYTES: usize = 512;

/// What becomes of writes that were not synced when the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// All of them are lost.
    All,
    /// None is lost: the process died, the machine did not.
    None,
    /// Each is kept or lost, by this seed.
    Some(u64),
    /// Each sector of each is kept or lost, by this seed.
    Torn(u64),
    /// Those of this file are kept, those of all others are lost.
    Only(&'static str),
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Content>,
    /// Counts power cycles; handles of an earlier one are dead.
    generation: u64,
    powered_off: bool,
    writes: u64,
    syncs: u64,
    cut_at_write: Option<u64>,
    cut_at_sync: Option<u64>,
    space_bytes: Option<u64>,
    /// A file that gets no more space.
    cramped: Option<&'static str>,
    fail_writes: bool,
    fail_reads: bool,
    sync_is_a_lie: bool,
    locked: bool,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    locked: bool,
}

#[derive(Debug)]
enum Change {
    Len(usize),
    Write(usize, Vec<u8>),
}

impl FaultyDisk {
    /// An empty disk in working order.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power instead of doing the n-th write or change of length from now; 0 is the next.
    pub fn cut_at_write(&self, n: u64) {
        let mut s = self.state();
        s.cut_at_write = Some(s.writes + n);
    }

    /// Cuts the power instead of doing the n-th sync from now; 0 is the next.
    pub fn cut_at_sync(&self, n: u64) {
        let mut s = self.state();
        s.cut_at_sync = Some(s.syncs + n);
    }

    /// Takes back what was told to cut the power.
    pub fn cut_at_never(&self) {
        let mut s = self.state();
        (s.cut_at_write, s.cut_at_sync) = (None, None);
    }

    /// Whether the power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().powered_off
    }

    /// Cuts the power now.
    pub fn cut(&self) {
        self.state().powered_off = true;
    }

    /// Turns the power on again: unsynced writes are lost as told, old handles stay dead, faults are cleared.
    pub fn power_on(&self, lost: Lost) {
        let mut s = self.state();
        let mut rng = match lost {
            Lost::Some(seed) | Lost::Torn(seed) => fastrand::Rng::with_seed(seed),
            Lost::All | Lost::None | Lost::Only(_) => fastrand::Rng::with_seed(0),
        };
        for (name, content) in &mut s.files {
            for change in std::mem::take(&mut content.pending) {
                match (&change, lost) {
                    (_, Lost::All) => {}
                    (_, Lost::None) => change.apply(&mut content.durable),
                    (_, Lost::Only(kept)) => {
                        if name == kept {
                            change.apply(&mut content.durable);
                        }
                    }
                    (Change::Write(offset, data), Lost::Torn(_)) => {
                        for (i, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                            if rng.bool() {
                                Change::Write(offset + i * SECTOR_BYTES, sector.to_vec()).apply(&mut content.durable);
                            }
                        }
                    }
                    (_, Lost::Some(_) | Lost::Torn(_)) => {
                        if rng.bool() {
                            change.apply(&mut content.durable);
                        }
                    }
                }
            }
            content.now.clone_from(&content.durable);
            content.locked = false;
        }
        s.generation += 1;
        s.powered_off = false;
        s.cut_at_write = None;
        s.cut_at_sync = None;
        s.space_bytes = None;
        s.cramped = None;
        s.fail_writes = false;
        s.fail_reads = false;
        s.locked = false;
    }

    /// Leaves room for so many more bytes written; `None` is without end.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state().space_bytes = bytes;
    }

    /// What [`FaultyDisk::set_space`] left and was not used up since; `None` is without end.
    #[must_use]
    pub fn space(&self) -> Option<u64> {
        self.state().space_bytes
    }

    /// Gives this file no more space: what was written before can be written again, anything else fails with ENOSPC.
    pub fn no_space_for(&self, name: Option<&'static str>) {
        self.state().cramped = name;
    }

    /// Makes every write and sync fail with EIO, or no longer.
    pub fn fail_writes(&self, fail: bool) {
        self.state().fail_writes = fail;
    }

    /// Makes every read fail with EIO, or no longer.
    pub fn fail_reads(&self, fail: bool) {
        self.state().fail_reads = fail;
    }

    /// Makes sync do nothing and report success: the control that a crash test can find a loss at all.
    pub fn lie_about_sync(&self, lie: bool) {
        self.state().sync_is_a_lie = lie;
    }

    /// Writes and changes of length so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Syncs so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The durable bytes of a file.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.state().files.get(name).map(|c| c.durable.clone()).unwrap_or_default()
    }

    /// Replaces a file.
    pub fn set_bytes(&self, name: &str, bytes: &[u8]) {
        let content = Content { now: bytes.to_vec(), durable: bytes.to_vec(), ..Content::default() };
        self.state().files.insert(name.to_owned(), content);
    }
}

impl Disk for FaultyDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut s = self.state();
        s.alive(s.generation)?;
        s.files.entry(name.to_owned()).or_default();
        Ok(Arc::new(FaultyFile { disk: self.clone(), name: name.to_owned(), generation: s.generation }))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut s = self.state();
        s.alive(s.generation)?;
        if s.files.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = s.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        s.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut s = self.state();
        s.alive(s.generation)?;
        let gone = s.files.remove(name).map_or(0, |content| content.now.len() as u64);
        s.space_bytes = s.space_bytes.map(|space| space + gone);
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn FolderLock>>> {
        let mut s = self.state();
        s.alive(s.generation)?;
        if s.locked {
            return Ok(None);
        }
        s.locked = true;
        Ok(Some(Box::new(FaultyLock { disk: self.clone(), generation: s.generation })))
    }

    fn describe(&self) -> String {
        "a disk in memory".to_owned()
    }
}

#[derive(Debug)]
struct FaultyLock {
    disk: FaultyDisk,
    generation: u64,
}

impl FolderLock for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut s = self.disk.state();
        if s.generation == self.generation {
            s.locked = false;
        }
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    name: String,
    generation: u64,
}

impl FaultyFile {
    fn change(&self, change: Change, cost: u64) -> io::Result<()> {
        let mut s = self.disk.state();
        s.alive(self.generation)?;
        if s.cut_at_write == Some(s.writes) {
            s.powered_off = true;
            return Err(power_is_off());
        }
        s.writes += 1;
        if s.fail_writes {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        if let Some(space) = s.space_bytes {
            if space < cost {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
            }
            s.space_bytes = Some(space - cost);
        }
        let cramped = s.cramped == Some(&self.name);
        let content = s.files.get_mut(&self.name).ok_or(io::ErrorKind::NotFound)?;
        if let (true, Change::Write(offset, data)) = (cramped, &change) {
            // A page of nothing but zeroes is taken for one that was never written.
            let old = content.now.get(*offset..offset + data.len());
            if old.is_none_or(|old| old.iter().all(|b| *b == 0)) {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
            }
        }
        change.apply(&mut content.now);
        content.pending.push(change);
        Ok(())
    }
}

impl DiskFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        let s = self.disk.state();
        s.alive(self.generation)?;
        Ok(s.files.get(&self.name).ok_or(io::ErrorKind::NotFound)?.now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let s = self.disk.state();
        s.alive(self.generation)?;
        if s.fail_reads {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        let content = s.files.get(&self.name).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(content.now.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?), 0)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut s = self.disk.state();
        s.alive(self.generation)?;
        if s.cut_at_sync == Some(s.syncs) {
            s.powered_off = true;
            return Err(power_is_off());
        }
        s.syncs += 1;
        if s.fail_writes {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        if !s.sync_is_a_lie {
            let content = s.files.get_mut(&self.name).ok_or(io::ErrorKind::NotFound)?;
            for change in std::mem::take(&mut content.pending) {
                change.apply(&mut content.durable);
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.change(Change::Write(offset, data.to_vec()), data.len() as u64)
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut s = self.disk.state();
        s.alive(self.generation)?;
        let content = s.files.get_mut(&self.name).ok_or(io::ErrorKind::NotFound)?;
        Ok(!std::mem::replace(&mut content.locked, true))
    }

    fn unlock(&self) -> io::Result<()> {
        let mut s = self.disk.state();
        if s.generation == self.generation
            && let Some(content) = s.files.get_mut(&self.name)
        {
            content.locked = false;
        }
        Ok(())
    }
}

impl State {
    fn alive(&self, generation: u64) -> io::Result<()> {
        if self.powered_off || self.generation != generation { Err(power_is_off()) } else { Ok(()) }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Len(len) => bytes.resize(*len, 0),
            Self::Write(offset, data) => {
                let end = offset + data.len();
                // A write may survive where the change of length before it did not.
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
        }
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}
