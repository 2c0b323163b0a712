//! Looks a store over without changing it: do the pages have their checksums, do the blocks decode, does it all fit
//! together.

use super::file::{Disk, RealDisk};
use super::open::{CACHE_BYTES_DEFAULT, STORE_NAME};
use super::ops::{QueueKey, Table};
use super::overlay::{self, Header};
use super::redb::{RedbStore, from_io};
use super::salvage::{self, Survey};
use super::schema::{self, ChannelRow, ConsumerRow, ExtentRow, META_TALLY, META_TENANT, QueueRow, SourceRow, Tally};
use super::{StoreError, bodies, journal};
use crate::model::{MountId, Position, Priority};
use crate::store::block::{BlockReader, unseal};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Most problems a report lists.
const PROBLEMS_MAX: usize = 100;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Size of the database file, in bytes.
    pub file_bytes: u64,
    /// Whether it was closed in order; if not, it is verified and repaired at the next start.
    pub closed: bool,
    /// The last position.
    pub position: Position,
    /// Queues.
    pub queues: u64,
    /// Blocks of messages.
    pub blocks: u64,
    /// Messages in them, those trimmed and not yet deleted included.
    pub messages: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Shared payloads.
    pub bodies: u64,
    /// Size of the journal, in bytes.
    pub journal_bytes: u64,
    /// Commits in the journal that are not yet in the database; what this report counts includes them.
    pub unfolded: u64,
    /// What is wrong, in sentences; empty when nothing is. Ends after the first hundred.
    pub problems: Vec<String>,
}

/// Checks the store of a data folder. The broker must not be running.
///
/// # Errors
/// [`StoreError::Locked`] when it is; [`StoreError::Newer`]; [`StoreError::Io`] when there is no store or it cannot be
/// read. Damage is no error here but a problem in the report.
pub fn check(folder: &Path) -> Result<Report, StoreError> {
    let disk = RealDisk::existing(folder).map_err(|e| StoreError::Io(format!("{}: {e}", folder.display())))?;
    check_on(&disk)
}

/// As [`check`], on any disk.
///
/// # Errors
/// As [`check`].
pub fn check_on(disk: &dyn Disk) -> Result<Report, StoreError> {
    let place = disk.describe();
    let lock = disk.lock().map_err(|e| StoreError::Io(format!("{place}: {e}")))?;
    let Some(_lock) = lock else {
        return Err(StoreError::Locked(format!("{place}: stop the broker first")));
    };
    if !disk.has(STORE_NAME).map_err(from_io)? {
        return Err(StoreError::Io(format!("{place}: there is no {STORE_NAME}")));
    }
    let file = disk.open(STORE_NAME).map_err(|e| StoreError::Io(format!("{place}: {e}")))?;
    let mut report = Report { file_bytes: file.len().map_err(from_io)?, ..Report::default() };
    let looked = overlay::look(file.as_ref()).and_then(|header| {
        report.closed = header != Header::Open;
        overlay::verify(Arc::clone(&file), CACHE_BYTES_DEFAULT)
    });
    match looked {
        Ok(mut store) => {
            let journal = journal::inspect(disk, &mut store)?;
            (report.journal_bytes, report.unfolded) = (journal.file_bytes, journal.unfolded);
            report.problems.extend(journal.problems);
            report.position = store.applied();
            let mut check = Check { report, ..Check::default() };
            check.run(&store)?;
            Ok(check.report)
        }
        Err(StoreError::Damaged(why)) => {
            report.problems.push(format!("the database is damaged: {why}"));
            report.problems.push(match salvage::survey(file.as_ref()) {
                Some(Survey { rows, messages, parts }) => format!(
                    "the next start takes over what is whole in it: up to {messages} messages and {rows} rows; \
                     {parts} pages are damaged or cannot be reached"
                ),
                None => "nothing in it is whole: the next start begins with an empty store".to_owned(),
            });
            Ok(report)
        }
        Err(other) => Err(other),
    }
}

#[derive(Default)]
struct Check {
    report: Report,
    queues: BTreeMap<QueueKey, QueueRow>,
    /// By queue and lane: where the blocks seen so far end, and the first gap behind the head.
    ends: BTreeMap<(QueueKey, u8), u64>,
    /// References found in blocks.
    references: BTreeMap<(MountId, u64), u32>,
}

impl Check {
    fn problem(&mut self, text: String) {
        if self.report.problems.len() < PROBLEMS_MAX {
            self.report.problems.push(text);
        }
    }

    fn run(&mut self, store: &RedbStore) -> Result<(), StoreError> {
        store.each_row(&mut |key, value| self.row(key, value))?;
        store.each_block(&mut |key, value| self.block(key, value))?;
        self.lanes();
        store.each_body(&mut |key, refs, payload| self.body(key, refs, payload))?;
        for ((mount, body), _) in std::mem::take(&mut self.references) {
            self.problem(format!("messages refer to payload {body} of mount {}, which is missing", mount.0));
        }
        Ok(())
    }

    fn row(&mut self, key: &[u8], value: &[u8]) {
        self.report.rows += 1;
        let Some((byte, key)) = key.split_first() else { return self.problem("a row has no key".to_owned()) };
        // Rows a later release may add are none of our business.
        let Some(table) = Table::from_byte(*byte) else { return };
        let readable = match table {
            Table::Queue => match (schema::split_queue_key(table, key), schema::decode::<QueueRow>(value)) {
                (Some((mount, queue)), Some(row)) => {
                    self.report.queues += 1;
                    self.queues.insert(QueueKey { mount, queue }, row);
                    true
                }
                _ => false,
            },
            Table::Extent => key.len() == 17 && schema::decode::<ExtentRow>(value).is_some(),
            Table::Consumer => schema::decode::<ConsumerRow>(value).is_some(),
            Table::Channel => schema::decode::<ChannelRow>(value).is_some(),
            Table::Bridge if key.first() == Some(&schema::BRIDGE_SOURCE) => {
                schema::split_source_key(key).is_some() && schema::decode::<SourceRow>(value).is_some()
            }
            Table::Meta if key.starts_with(META_TENANT) => value.len() == 4 && std::str::from_utf8(key).is_ok(),
            Table::Meta if key.starts_with(META_TALLY) => schema::decode::<Tally>(value).is_some(),
            _ => true,
        };
        if !readable {
            self.problem(format!("a row of the table {table:?} cannot be read (key {key:02x?})"));
        }
    }

    fn block(&mut self, key: &[u8], value: &[u8]) {
        self.report.blocks += 1;
        let Some((queue, lane, first)) = schema::split_lane_key(key) else {
            return self.problem(format!("a block has an impossible key {key:02x?}"));
        };
        let name = format!("queue {} of mount {}, lane {}", queue.queue.0, queue.mount.0, lane.get());
        let sealed = unseal(value);
        let value = sealed.unwrap_or_default();
        let mut entries = BlockReader::new(value);
        let count = entries.as_ref().map_or(0, BlockReader::remaining);
        let mut read = 0;
        if let Some(entries) = &mut entries {
            while entries.next_entry().is_some() {
                read += 1;
            }
        }
        self.report.messages += u64::from(read);
        if sealed.is_none() || read != count || entries.is_none_or(|e| e.rest_len() != 0) || count == 0 {
            self.problem(format!("{name}: message {} cannot be read", first + u64::from(read)));
        }
        bodies::each(value, |body| *self.references.entry((queue.mount, body)).or_default() += 1);
        let head = self.head(queue, lane);
        let end = self.ends.entry((queue, lane.get())).or_insert(first.min(head));
        let gap = (*end, first);
        *end = first.saturating_add(u64::from(count));
        if gap.1 < gap.0 {
            self.problem(format!("{name}: two blocks hold message {first}"));
        } else if gap.1 > gap.0.max(head) {
            self.problem(format!("{name}: messages {} to {} are missing", gap.0.max(head), gap.1 - 1));
        }
    }

    fn head(&self, queue: QueueKey, lane: Priority) -> u64 {
        let row = self.queues.get(&queue).and_then(|row| row.lanes.iter().find(|l| l.lane == lane.get()));
        // What belongs to no queue waits for its deletion.
        row.map_or(u64::MAX, |l| l.head)
    }

    fn lanes(&mut self) {
        for (queue, row) in std::mem::take(&mut self.queues) {
            for lane in row.lanes {
                let end = self.ends.get(&(queue, lane.lane)).copied().unwrap_or(lane.head).max(lane.head);
                if end != lane.next {
                    let name = &row.name;
                    self.problem(format!(
                        "queue {name:?} of mount {}, lane {}: it should end before message {}, its blocks end before {end}",
                        queue.mount.0, lane.lane, lane.next
                    ));
                }
            }
        }
    }

    fn body(&mut self, key: &[u8], refs: Option<u32>, payload: bool) {
        self.report.bodies += 1;
        let Some((mount, body)) = split_body_key(key) else {
            return self.problem(format!("a shared payload has an impossible key {key:02x?}"));
        };
        let found = self.references.remove(&(mount, body)).unwrap_or(0);
        let name = format!("payload {body} of mount {}", mount.0);
        if !payload {
            self.problem(format!("{name} is missing"));
        } else if found == 0 {
            self.problem(format!("{name} is kept though no reference to it is left"));
        } else if refs != Some(found) {
            self.problem(format!("{name} counts {refs:?} references, there are {found}"));
        }
    }
}

fn split_body_key(key: &[u8]) -> Option<(MountId, u64)> {
    let (mount, body) = key.split_first_chunk::<4>()?;
    Some((MountId(u32::from_be_bytes(*mount)), u64::from_be_bytes(body.try_into().ok()?)))
}
