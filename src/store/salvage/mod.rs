//! Takes over into a new store what verifies in a damaged database file.
//!
//! redb refuses a file of which one page is damaged. Its pages carry checksums, each held by whatever points to it, so
//! what the damage did not touch can be told from what it did: `format` reads pages, `walk` follows the tree, `copy`
//! writes what came of it. The new store is made under a name of its own and gets its name last ([`SALVAGED`]), so that
//! a power cut on the way costs nothing.
//!
//! A row says in the new store that it was made so ([`Marker`]); it goes once the journal is folded, the epochs are
//! renewed, and somebody was told.

mod copy;
mod format;
mod reckon;
mod walk;

use super::StoreError;
use super::block::{BlockReader, unseal};
use super::file::{Disk, DiskFile};
use super::open::STORE_NAME;
use super::ops::Table;
use super::redb::{ROWS, RedbStore, from_io, from_redb, row_key};
use super::schema::{self, META_SALVAGED};
pub(super) use reckon::{Reckoning, reckon};
use serde::{Deserialize, Serialize};
use std::io;
use std::ops::ControlFlow;
use walk::{Source, Walk};

/// The new store while it is made.
const SALVAGING: &str = "store.redb.salvaging";
/// The new store when it is whole and waits for its name.
pub(super) const SALVAGED: &str = "store.redb.salvaged";

/// What a store that was made from a damaged one remembers until it was said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// Name of the damaged file.
    pub(super) name: String,
    /// What was wrong with it.
    pub(super) why: String,
    /// Something is missing, or older than it was.
    pub(super) lossy: bool,
    /// Pages that did not verify; what was below each is unknown.
    pub(super) parts: u64,
    /// Rows taken over.
    pub(super) rows: u64,
}

/// What became of a salvage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salvage {
    /// The journal may be replayed on top.
    pub(super) journal: bool,
}

impl Source for &dyn DiskFile {
    fn read(&self, at: u64, out: &mut [u8]) -> bool {
        DiskFile::read(*self, at, out).is_ok()
    }
}

/// Makes [`SALVAGED`] from the damaged store, which is not changed and will be kept as `name`; `None` when nothing in it
/// verifies.
///
/// # Errors
/// Whatever writing a store gives; then nothing is left of the attempt, as far as that can be.
pub(super) fn salvage(
    disk: &dyn Disk,
    name: &str,
    why: &str,
    cache_bytes: usize,
) -> Result<Option<Salvage>, StoreError> {
    let result = make(disk, name, why, cache_bytes);
    if !matches!(result, Ok(Some(_))) {
        let _ = disk.remove(SALVAGING);
    }
    result
}

fn make(disk: &dyn Disk, name: &str, why: &str, cache_bytes: usize) -> Result<Option<Salvage>, StoreError> {
    let file = disk.open(STORE_NAME).map_err(from_io)?;
    let file = file.as_ref();
    let Some(mut walk) = Walk::begin(&file) else { return Ok(None) };
    disk.remove(SALVAGING).map_err(from_io)?;
    let store = RedbStore::open(disk, SALVAGING, cache_bytes)?.store;
    let Some(copied) = copy::copy(&mut walk, &store)? else { return Ok(None) };
    let marker = Marker {
        name: name.to_owned(),
        why: why.to_owned(),
        lossy: copied.lossy,
        parts: walk.broken,
        rows: copied.rows,
    };
    let txn = store.inner().db.begin_write().map_err(from_redb)?;
    let key = row_key(Table::Meta as u8, META_SALVAGED);
    txn.open_table(ROWS).map_err(from_redb)?.insert(&key[..], &schema::encode(&marker)[..]).map_err(from_redb)?;
    txn.commit().map_err(from_redb)?;
    drop(store);
    disk.rename(SALVAGING, SALVAGED).map_err(from_io)?;
    Ok(Some(Salvage { journal: copied.journal }))
}

/// Brings to an end what a power cut interrupted: a new store that is whole gets its name when the damaged one has lost it,
/// anything else is made again.
pub(super) fn resume(disk: &dyn Disk) -> io::Result<()> {
    let names = disk.names()?;
    let there = |name| names.iter().any(|n| n == name);
    if there(SALVAGED) && !there(STORE_NAME) {
        disk.rename(SALVAGED, STORE_NAME)?;
    } else if there(SALVAGED) {
        disk.remove(SALVAGED)?;
    }
    if there(SALVAGING) { disk.remove(SALVAGING) } else { Ok(()) }
}

/// What could be taken over of a damaged file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// Rows that verify.
    pub(super) rows: u64,
    /// Messages in blocks that verify.
    pub(super) messages: u64,
    /// Pages that do not.
    pub(super) parts: u64,
}

/// Looks what could be taken over; `None` when nothing verifies.
pub(super) fn survey(file: &dyn DiskFile) -> Option<Survey> {
    let mut walk = Walk::begin(&file)?;
    let mut survey = Survey::default();
    let never: ControlFlow<()> = walk.table("blocks", &mut |_, value| {
        let count = unseal(value).and_then(BlockReader::new).map_or(0, |block| block.remaining());
        survey.messages += u64::from(count);
        ControlFlow::Continue(())
    });
    debug_assert!(never.is_continue());
    let _: ControlFlow<()> = walk.table("rows", &mut |_, _| {
        survey.rows += 1;
        ControlFlow::Continue(())
    });
    survey.parts = walk.broken;
    (survey.rows > 0).then_some(survey)
}
