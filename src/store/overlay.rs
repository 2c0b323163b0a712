//! A file that can be written without changing it: what is written stays in memory and is forgotten.
//!
//! redb opens a file that was closed in order without looking at its pages, and on a damaged one it may then panic or
//! give out wrong bytes; only a file that was not closed is verified. [`verify`] has such a file verified, too, by
//! showing redb one that looks as if it had not been closed, and [`Overlay`] takes what redb writes while it repairs it.

use super::StoreError;
use super::file::DiskFile;
use super::redb::{RedbStore, from_io};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE_BYTES: usize = 4_096;
/// redb's first bytes (its design document, "Super-header"; the release is pinned in `Cargo.toml`).
const MAGIC: &[u8; 9] = b"redb\x1A\x0A\xA9\x0D\x0A";
/// Header and both commit slots.
const HEADER_BYTES: usize = 320;
const FLAGS_AT: usize = 9;
const SECOND_SLOT_IS_PRIMARY: u8 = 1;
const RECOVERY_REQUIRED: u8 = 2;
const TWO_PHASE_COMMIT: u8 = 4;
const SLOTS_AT: [usize; 2] = [64, 192];
/// In a slot: whether there is a tree of tables, and of redb's own tables; first bytes of their roots' checksums.
const USER_TREE_AT: usize = 1;
const SYSTEM_TREE_AT: usize = 2;
const USER_CHECKSUM_AT: usize = 16;
const SYSTEM_CHECKSUM_AT: usize = 48;
/// Version of redb's file format; the first byte of a slot.
const REDB_FORMAT: u8 = 3;

/// How a file presents itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// No bytes: a new store.
    Empty,
    /// It was closed in order, so redb will trust it.
    Closed,
    /// It was not, so redb will verify and repair it.
    Open,
}

/// Looks at a file's first bytes.
///
/// # Errors
/// [`StoreError::Damaged`] when it is no database, [`StoreError::Newer`] when both its slots are of a later format.
pub(super) fn look(file: &dyn DiskFile) -> Result<Header, StoreError> {
    let len = file.len().map_err(from_io)?;
    if len == 0 {
        return Ok(Header::Empty);
    }
    let mut header = [0; HEADER_BYTES];
    if len < HEADER_BYTES as u64 {
        return Err(StoreError::Damaged(format!("the file has {len} bytes, less than its header")));
    }
    file.read(0, &mut header).map_err(from_io)?;
    if !header.starts_with(MAGIC) {
        return Err(StoreError::Damaged("the file does not begin as a database does".to_owned()));
    }
    let versions = SLOTS_AT.map(|at| header[at]);
    // One damaged byte is no reason to refuse to start; two equal ones are no accident.
    if versions[0] == versions[1] && versions[0] > REDB_FORMAT {
        return Err(StoreError::Newer(u32::from(versions[0]), u32::from(REDB_FORMAT)));
    }
    Ok(if header[FLAGS_AT] & RECOVERY_REQUIRED == 0 { Header::Closed } else { Header::Open })
}

/// Reads every page of a file that was closed in order and compares its checksum; the file is not changed. Returns the
/// store as it was found, for reading.
///
/// # Errors
/// [`StoreError::Damaged`] when a checksum is wrong; otherwise as [`RedbStore::open`].
pub(super) fn verify(file: Arc<dyn DiskFile>, cache_bytes: usize) -> Result<RedbStore, StoreError> {
    let header = look(file.as_ref())?;
    let overlay = Overlay::new(file).map_err(from_io)?;
    if header == Header::Closed {
        let mut bytes = [0; HEADER_BYTES];
        overlay.read(0, &mut bytes).map_err(from_io)?;
        let primary = usize::from(bytes[FLAGS_AT] & SECOND_SLOT_IS_PRIMARY != 0);
        bytes[FLAGS_AT] = (bytes[FLAGS_AT] | RECOVERY_REQUIRED) & !TWO_PHASE_COMMIT;
        // Without the older slot there is nothing to fall back to: the newest one is right or the file is damaged. Both
        // its trees are said to exist and given a wrong checksum.
        let older = &mut bytes[SLOTS_AT[1 - primary]..];
        older[USER_TREE_AT] = 1;
        older[SYSTEM_TREE_AT] = 1;
        older[USER_CHECKSUM_AT] ^= 0xFF;
        older[SYSTEM_CHECKSUM_AT] ^= 0xFF;
        overlay.write(0, &bytes).map_err(from_io)?;
    }
    Ok(RedbStore::open_file(Arc::new(overlay), cache_bytes)?.store)
}

/// The file, with what was written over it in memory.
#[derive(Debug)]
pub(super) struct Overlay {
    below: Arc<dyn DiskFile>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    len: u64,
    /// Bytes of the file below that still show.
    below_len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
}

impl Overlay {
    pub(super) fn new(below: Arc<dyn DiskFile>) -> io::Result<Self> {
        let len = below.len()?;
        Ok(Self { below, state: Mutex::new(State { len, below_len: len, pages: BTreeMap::new() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page as it is below, zeroes where there is nothing.
    fn page_below(&self, page: u64, below_len: u64) -> io::Result<Box<[u8; PAGE_BYTES]>> {
        let mut bytes = Box::new([0; PAGE_BYTES]);
        let start = page * PAGE_BYTES as u64;
        let there = below_len.saturating_sub(start).min(PAGE_BYTES as u64) as usize;
        if there > 0 {
            self.below.read(start, &mut bytes[..there])?;
        }
        Ok(bytes)
    }
}

/// Page, offset in it and length of each piece of a range.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let inside = (at % PAGE_BYTES as u64) as usize;
        let piece = (PAGE_BYTES - inside).min(len - done);
        let range = done..done + piece;
        done += piece;
        Some((at / PAGE_BYTES as u64, inside, range))
    })
}

impl DiskFile for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let end = offset.checked_add(out.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = usize::try_from(state.below_len.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        if there > 0 {
            self.below.read(offset, &mut out[..there])?;
        }
        out[there..].fill(0);
        let pages = offset / PAGE_BYTES as u64..=end / PAGE_BYTES as u64;
        if state.pages.range(pages).next().is_some() {
            for (page, inside, range) in pieces(offset, out.len()) {
                if let Some(bytes) = state.pages.get(&page) {
                    let len = range.len();
                    out[range].copy_from_slice(&bytes[inside..inside + len]);
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.len = len;
        state.below_len = state.below_len.min(len);
        let last = len / PAGE_BYTES as u64;
        state.pages.retain(|page, _| *page <= last);
        // A shortened file grows again with zeroes.
        if let Some(bytes) = state.pages.get_mut(&last) {
            bytes[(len % PAGE_BYTES as u64) as usize..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        for (page, inside, range) in pieces(offset, data.len()) {
            if !state.pages.contains_key(&page) {
                let bytes = self.page_below(page, state.below_len)?;
                state.pages.insert(page, bytes);
            }
            if let Some(bytes) = state.pages.get_mut(&page) {
                bytes[inside..inside + range.len()].copy_from_slice(&data[range]);
            }
        }
        state.len = state.len.max(offset + data.len() as u64);
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::file::Disk;
    use super::super::testing::FaultyDisk;
    use super::*;

    #[test]
    fn an_overlay_reads_as_a_file_and_leaves_the_one_below_alone() {
        let mut rng = fastrand::Rng::with_seed(1);
        let disk = FaultyDisk::new();
        let mut model: Vec<u8> = (0..10_000).map(|i| i as u8).collect();
        disk.set_bytes("f", &model);
        let before = disk.bytes("f");
        let overlay = Overlay::new(disk.open("f").unwrap()).unwrap();
        for _ in 0..500 {
            match rng.u8(..5) {
                0 => {
                    let len = rng.usize(..20_000);
                    model.resize(len, 0);
                    overlay.set_len(len as u64).unwrap();
                }
                1 | 2 => {
                    let (at, len) = (rng.usize(..20_000), rng.usize(..9_000));
                    let data: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
                    if at <= model.len() {
                        model.resize(model.len().max(at + len), 0);
                        model[at..at + len].copy_from_slice(&data);
                        overlay.write(at as u64, &data).unwrap();
                    }
                }
                _ => {
                    let at = rng.usize(..=model.len());
                    let mut out = vec![9; rng.usize(..=model.len() - at)];
                    overlay.read(at as u64, &mut out).unwrap();
                    assert!(out == model[at..at + out.len()]);
                }
            }
            assert_eq!(overlay.len().unwrap(), model.len() as u64);
            assert!(overlay.read(model.len() as u64, &mut [0]).is_err());
        }
        assert!(disk.bytes("f") == before);
    }
}
