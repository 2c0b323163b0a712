//! Joins a database with its journal when the store is opened: replays, and makes, keeps or sets aside the file.

use super::super::file::Disk;
use super::super::open::{Finding, OpenOptions, Salvaged, set_aside};
use super::super::redb::{RedbStore, from_io};
use super::super::salvage::{Marker, Reckoning, reckon};
use super::super::schema::{self, META_SALVAGED, QueueRow};
use super::super::{Store, StoreError, Table};
use super::format::{
    FileHeader, Found, HeaderError, RECORD_HEADER_BYTES, Scan, StoreId, VERSION, decode_payload, scan,
};
use super::pending::{Condensed, Pending};
use super::replay::{Plan, plan};
use super::segment::{Existing, JOURNAL_NAME, JournalFile, segment_bytes};
use super::{JournaledStore, Payload};
use crate::model::Position;
use bytes::Bytes;

/// What is needed to join the two.
pub(in super::super) struct Attach<'a> {
    pub(in super::super) disk: &'a dyn Disk,
    pub(in super::super) options: &'a OpenOptions,
    pub(in super::super) place: &'a str,
    pub(in super::super) findings: &'a mut Vec<Finding>,
    /// Opens the database again after an error.
    pub(in super::super) reopen: &'a dyn Fn() -> Result<RedbStore, StoreError>,
}

/// Replays the journal of a database and goes on with both.
pub(in super::super) fn attach(redb: RedbStore, how: Attach<'_>) -> Result<JournaledStore, StoreError> {
    Opening { redb, how }.run()
}

struct Opening<'a> {
    redb: RedbStore,
    how: Attach<'a>,
}

/// A journal that belongs to the database.
struct Own {
    file: Existing,
    layout: FileHeader,
    plan: Plan,
    /// Something in it is damaged.
    damaged: Option<String>,
}

impl Opening<'_> {
    fn run(mut self) -> Result<JournaledStore, StoreError> {
        let named = self.redb.journal()?;
        let there = self.how.disk.has(JOURNAL_NAME).map_err(from_io)?;
        let own = match named {
            Some((id, true)) if there => self.read(id)?,
            Some((_, true)) => {
                self.found(Finding::JournalMissing);
                self.renew_epochs()?;
                None
            }
            _ if there => {
                self.leftover(named.is_some())?;
                None
            }
            _ => None,
        };
        match own {
            Some(own) => self.replay(own),
            None => {
                self.settle()?;
                self.make(named.map(|(id, _)| id))
            }
        }
    }

    fn found(&mut self, finding: Finding) {
        finding.log(self.how.place);
        self.how.findings.push(finding);
    }

    /// Looks at the journal that the database names; `None` when the file is that of another.
    fn read(&mut self, id: StoreId) -> Result<Option<Own>, StoreError> {
        let file = Existing::open(self.how.disk).map_err(from_io)?;
        let mut damaged = None;
        match file.header {
            Err(HeaderError::Newer(version)) => {
                return Err(StoreError::Newer(u32::from(version), u32::from(VERSION)));
            }
            Err(HeaderError::Damaged) => damaged = Some("its header cannot be read".to_owned()),
            Ok(header) if header.id != id => {
                let name = set_aside(self.how.disk, JOURNAL_NAME, self.how.options.now).map_err(from_io)?;
                self.found(Finding::JournalForeign { name, missing: true });
                self.renew_epochs()?;
                return Ok(None);
            }
            Ok(_) if !file.is_whole() => damaged = Some("the file does not have its length".to_owned()),
            Ok(_) => {}
        }
        let layout = FileHeader { id, ..file.layout(id) };
        let scans = scans(&file, &layout)?;
        if let Some(version) = scans.iter().find_map(|s| s.newer) {
            return Err(StoreError::Newer(u32::from(version), u32::from(VERSION)));
        }
        let plan = plan(&scans, self.redb.applied());
        if !plan.holes.is_empty() {
            damaged.get_or_insert_with(|| "records are missing".to_owned());
        }
        Ok(Some(Own { file, layout, plan, damaged }))
    }

    /// Applies what the journal holds above the database, and folds it.
    fn replay(mut self, own: Own) -> Result<JournaledStore, StoreError> {
        let Own { file, layout, mut plan, mut damaged } = own;
        let before = self.redb.applied();
        let (pending, unsound) = gather(&file, &layout, &mut plan)?;
        damaged = damaged.or(unsound);
        let (generation, end) = plan.newest.unwrap_or((0, 0));
        let records = plan.records.len();
        let last = pending.last();
        let spilled = plan.records.iter().any(|found| found.head.generation != generation);
        let seen = Seen { layout, generation, used: end as u64 * super::PAGE_BYTES as u64, before, spilled };
        // With nothing to fold nothing is written: an error would leave a handle that refuses everything.
        let folded = if pending.is_empty() { Ok(Vec::new()) } else { self.redb.fold(&pending.condense(), &[]) };
        match folded {
            Ok(_) => {}
            // A full disk is no reason to stay down: the records are where they are, and the segment is gone on with.
            Err(StoreError::Full(why)) if damaged.is_none() && self.keeps(&file, &layout) => {
                self.tell_salvage()?;
                log::warn!("{}: no space to fold the journal ({why}): it is kept as it is", self.how.place);
                return self.keep_unfolded(file, seen, pending);
            }
            Err(error) => return Err(error),
        }
        self.settle()?;
        if let Some(last) = last {
            let place = self.how.place;
            log::info!("{place}: {records} commits came back from the journal, up to position {}", last.0);
        }
        if let Some(base) = plan.fell_back {
            let recovered = plan.holes.is_empty();
            self.found(Finding::FellBack { applied: before, base, recovered });
        }
        if plan.tail {
            self.found(Finding::JournalTail);
        }
        if let Some(why) = damaged {
            // Given up in the database first: from here on the file is no journal of it, whatever its name.
            self.renew_epochs()?;
            self.redb.set_journal(layout.id, false)?;
            drop(file);
            let name = set_aside(self.how.disk, JOURNAL_NAME, self.how.options.now).map_err(from_io)?;
            self.found(Finding::JournalDamaged { name, why, holes: plan.holes });
            return self.make(Some(layout.id));
        }
        if !self.keeps(&file, &layout) {
            drop(file);
            return self.make(Some(layout.id));
        }
        let mut journal = JournalFile::resume(file, self.redb.traffic(), layout);
        journal.place(generation + 1, self.redb.applied(), 0, false);
        Ok(JournaledStore::new(self.redb, Some(journal), Pending::default()))
    }

    /// Whether the file is what the options ask for.
    fn keeps(&self, file: &Existing, layout: &FileHeader) -> bool {
        let wanted = self.how.options.journal_bytes;
        wanted > 0 && file.is_whole() && layout.segment_bytes == segment_bytes(wanted)
    }

    fn keep_unfolded(mut self, file: Existing, seen: Seen, pending: Pending) -> Result<JournaledStore, StoreError> {
        // The handle of the database is of no use after the error.
        let lock = self.redb.take_lock();
        drop(self.redb);
        self.redb = (self.how.reopen)()?;
        if let Some(lock) = lock {
            self.redb.keep(lock);
        }
        let mut journal = JournalFile::resume(file, self.redb.traffic(), seen.layout);
        // Should the last of it only be in memory.
        journal.sync()?;
        journal.place(seen.generation, seen.before, seen.used, seen.spilled);
        let mut store = JournaledStore::new(self.redb, Some(journal), pending);
        store.cramped = true;
        Ok(store)
    }

    /// A file the database does not name as in use: rubbish of one that was being made or given up, or a stranger's.
    fn leftover(&mut self, named: bool) -> Result<(), StoreError> {
        if !named {
            let file = Existing::open(self.how.disk).map_err(from_io)?;
            let id = file.header.map_or(StoreId::default(), |h| h.id);
            let scans = scans(&file, &file.layout(id))?;
            if scans.iter().any(|s| !s.found.is_empty() || s.foreign > 0) {
                drop(file);
                let name = set_aside(self.how.disk, JOURNAL_NAME, self.how.options.now).map_err(from_io)?;
                self.found(Finding::JournalForeign { name, missing: false });
                return Ok(());
            }
        }
        self.how.disk.remove(JOURNAL_NAME).map_err(from_io)
    }

    /// Makes the file the options ask for, or none. Nothing of an old one is needed any more.
    fn make(mut self, known: Option<StoreId>) -> Result<JournaledStore, StoreError> {
        let disk = self.how.disk;
        if let Some(id) = known
            && self.redb.journal()?.is_some_and(|(_, live)| live)
        {
            self.redb.set_journal(id, false)?;
        }
        if disk.has(JOURNAL_NAME).map_err(from_io)? {
            disk.remove(JOURNAL_NAME).map_err(from_io)?;
        }
        let wanted = self.how.options.journal_bytes;
        if wanted == 0 {
            return Ok(JournaledStore::new(self.redb, None, Pending::default()));
        }
        let header = FileHeader { id: new_id(self.how.options.random), segment_bytes: segment_bytes(wanted) };
        let mut journal = match JournalFile::create(disk, self.redb.traffic(), header) {
            Ok(journal) => journal,
            // A full disk is no reason to stay down: the database alone keeps its promises, at more bytes a message.
            Err(StoreError::Full(why)) => {
                let place = self.how.place;
                log::warn!(
                    "{place}: {why}: the journal of {wanted} bytes is not made, so lone messages cost more until the next start: \
                     free some space, or make store.journal smaller"
                );
                disk.remove(JOURNAL_NAME).map_err(from_io)?;
                return Ok(JournaledStore::new(self.redb, None, Pending::default()));
            }
            Err(other) => return Err(other),
        };
        self.redb.set_journal(header.id, true)?;
        journal.place(1, self.redb.applied(), 0, false);
        Ok(JournaledStore::new(self.redb, Some(journal), Pending::default()))
    }

    /// Puts in order a store that was made of what is whole in a damaged one, once its journal is folded: what belongs to
    /// queues that did not come back goes, the others get new epochs when anything is missing, and it is said.
    fn settle(&mut self) -> Result<(), StoreError> {
        let Some(seen) = self.tell_salvage()? else { return Ok(()) };
        if seen.lossy {
            self.renew_epochs()?;
        }
        let mut ops = seen.orphans;
        ops.push(super::Op::Delete { table: Table::Meta, key: Bytes::from_static(META_SALVAGED) });
        self.redb.fold(&Condensed { ops, ..Condensed::default() }, &[])?;
        Ok(())
    }

    /// Says what a store is made of that was made from a damaged one.
    fn tell_salvage(&mut self) -> Result<Option<Reckoning>, StoreError> {
        let Some(row) = self.redb.row(Table::Meta, META_SALVAGED)? else { return Ok(None) };
        // One that cannot be read still says that there was a loss.
        let unread = || Marker { lossy: true, ..Marker::default() };
        let marker = schema::decode::<Marker>(&row).unwrap_or_else(unread);
        let Marker { name, why, lossy, parts, rows } = marker;
        let (mut seen, messages, missing) = reckon(&self.redb)?;
        seen.lossy = lossy || missing > 0 || !seen.orphans.is_empty();
        let salvaged = Some(Salvaged { messages, rows, missing, parts, lossy: seen.lossy });
        self.found(Finding::SetAside { name, why, salvaged });
        Ok(Some(seen))
    }

    /// Something was lost that readers may have seen: what they remember of the queues is void.
    fn renew_epochs(&mut self) -> Result<(), StoreError> {
        let mut ops = Vec::new();
        let random = (self.how.options.random >> 64) as u64;
        self.redb.reader().scan(Table::Queue, &[], &[], &mut |key, value| {
            if let Some(mut row) = schema::decode::<QueueRow>(value) {
                // Of the old one, too: two renewals in a row never lead back.
                row.epoch = fastrand::Rng::with_seed(random ^ row.epoch).u64(1..);
                let key = Bytes::copy_from_slice(key);
                ops.push(super::Op::Put { table: Table::Queue, key, value: schema::encode(&row) });
            }
            true
        })?;
        self.redb.fold(&Condensed { ops, ..Condensed::default() }, &[])?;
        Ok(())
    }
}

/// Where a replay found the journal.
struct Seen {
    layout: FileHeader,
    generation: u64,
    used: u64,
    /// What the database had applied.
    before: Position,
    /// Both segments are needed.
    spilled: bool,
}

/// Never zero: an id must be told from an empty page.
fn new_id(random: u128) -> StoreId {
    StoreId((random ^ 0x5449_4445_4741_5445_0000_0000_0000_0001).to_le_bytes())
}

/// Both segments, one after the other in memory; the first holds generations with even numbers.
fn scans(file: &Existing, layout: &FileHeader) -> Result<[Scan; 2], StoreError> {
    let even = scan(&file.segment(layout, 0).map_err(from_io)?, layout.id);
    let odd = scan(&file.segment(layout, 1).map_err(from_io)?, layout.id);
    Ok([even, odd])
}

/// What the planned records hold. One that cannot be taken becomes a hole of the plan; why is said of the first.
fn gather(file: &Existing, layout: &FileHeader, plan: &mut Plan) -> Result<(Pending, Option<String>), StoreError> {
    let (mut pending, mut unsound) = (Pending::default(), None);
    for found in &plan.records {
        match read_record(file, layout, found)? {
            Ok(payload) => pending.apply(&payload.batches, &payload.conflicts),
            // Its checksum is right and its content is not: whoever wrote it was not sound.
            Err(why) => {
                plan.holes.push((found.head.after, found.head.last));
                unsound.get_or_insert(why);
            }
        }
    }
    Ok((pending, unsound))
}

/// The payload of a record that the scan found whole.
fn read_record(file: &Existing, layout: &FileHeader, found: &Found) -> Result<Result<Payload, String>, StoreError> {
    let start = found.page * super::PAGE_BYTES + RECORD_HEADER_BYTES;
    let range = start..start + found.head.payload_bytes as usize;
    let bytes = file.read(layout, found.head.generation, range).map_err(from_io)?;
    let payload = decode_payload(&bytes).map_err(|e| e.to_string());
    Ok(payload.and_then(|payload| match payload.batches.last() {
        Some(batch) if batch.position == found.head.last => Ok(payload),
        _ => Err("a record holds other batches than it says".to_owned()),
    }))
}

/// What a check says of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Inspected {
    pub(in super::super) file_bytes: u64,
    /// Commits not yet in the database.
    pub(in super::super) unfolded: u64,
    pub(in super::super) problems: Vec<String>,
}

/// Looks at a journal and applies what it holds to a database that is a copy in memory; the file is not changed.
pub(in super::super) fn inspect(disk: &dyn Disk, redb: &mut RedbStore) -> Result<Inspected, StoreError> {
    let mut seen = Inspected::default();
    let there = disk.has(JOURNAL_NAME).map_err(from_io)?;
    let id = match redb.journal()? {
        Some((id, true)) => id,
        _ => return Ok(seen),
    };
    if !there {
        seen.problems.push("the journal is missing: what was committed last may be lost".to_owned());
        return Ok(seen);
    }
    let file = Existing::open(disk).map_err(from_io)?;
    seen.file_bytes = file.len();
    match file.header {
        Err(HeaderError::Newer(version)) => return Err(StoreError::Newer(u32::from(version), u32::from(VERSION))),
        Err(HeaderError::Damaged) => seen.problems.push("the journal is damaged: its header cannot be read".to_owned()),
        Ok(header) if header.id != id => {
            seen.problems.push("the journal belongs to another database".to_owned());
            return Ok(seen);
        }
        Ok(_) if !file.is_whole() => seen.problems.push("the journal does not have its length".to_owned()),
        Ok(_) => {}
    }
    let layout = FileHeader { id, ..file.layout(id) };
    let mut plan = plan(&scans(&file, &layout)?, redb.applied());
    let (pending, _) = gather(&file, &layout, &mut plan)?;
    for (after, upto) in &plan.holes {
        seen.problems.push(format!("the journal is damaged: commits {} to {} are lost", after.0 + 1, upto.0));
    }
    seen.unfolded = plan.records.len() as u64;
    redb.fold(&pending.condense(), &[])?;
    Ok(seen)
}
