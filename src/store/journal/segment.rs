//! The journal's file: made whole once, then written forward, page by page, one segment after the other.

use super::super::StoreError;
use super::super::file::{Disk, DiskFile, Traffic};
use super::super::redb::from_io;
use super::format::{FILE_HEADER_BYTES, FileHeader, HeaderError, PAGE_BYTES, RecordHead, StoreId};
use crate::model::Position;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Name of the journal in the data folder.
pub const JOURNAL_NAME: &str = "store.journal";
/// Longest segment that is read: opening holds one in memory.
const SEGMENT_BYTES_MAX: u64 = 16 * 1_024 * 1_024;
/// Zeroes written at a time when the file is made: a page, so that the page cache keeps single pages and a record dirties no
/// more than its own.
const ZEROES_BYTES: usize = PAGE_BYTES;

/// Bytes of a segment of a journal that may take so many altogether.
pub(super) const fn segment_bytes(journal_bytes: u64) -> u64 {
    let pages = journal_bytes / PAGE_BYTES as u64;
    let each = pages.saturating_sub(1) / 2;
    if each == 0 { PAGE_BYTES as u64 } else { each * PAGE_BYTES as u64 }
}

/// The open file, and where the next record goes.
#[derive(Debug)]
pub(super) struct JournalFile {
    file: Arc<dyn DiskFile>,
    traffic: Arc<Traffic>,
    pub(super) header: FileHeader,
    generation: u64,
    base: Position,
    /// Bytes of the segment that are taken.
    used: u64,
    /// The other segment holds records that are needed, too.
    spilled: bool,
}

impl JournalFile {
    /// Makes a file where there is none: zeroes, so that the file system has nothing left to note down when a page is
    /// written, then, once they are durable, the header.
    pub(super) fn create(disk: &dyn Disk, traffic: Arc<Traffic>, header: FileHeader) -> Result<Self, StoreError> {
        let file = disk.open(JOURNAL_NAME).map_err(from_io)?;
        let len = PAGE_BYTES as u64 + 2 * header.segment_bytes;
        let zeroes = vec![0; ZEROES_BYTES];
        let mut at = 0;
        while at < len {
            let piece = (len - at).min(ZEROES_BYTES as u64);
            file.write(at, &zeroes[..piece as usize]).map_err(from_io)?;
            at += piece;
        }
        file.sync_data().map_err(from_io)?;
        let mut page = vec![0; PAGE_BYTES];
        page[..FILE_HEADER_BYTES].copy_from_slice(&header.encode());
        file.write(0, &page).map_err(from_io)?;
        file.sync_data().map_err(from_io)?;
        traffic.written_bytes.fetch_add(len + PAGE_BYTES as u64, Ordering::Relaxed);
        traffic.syncs.fetch_add(2, Ordering::Relaxed);
        traffic.journal_bytes.store(len, Ordering::Relaxed);
        Ok(Self { file, traffic, header, generation: 0, base: Position(0), used: 0, spilled: false })
    }

    /// Goes on with a file that was read.
    pub(super) fn resume(found: Existing, traffic: Arc<Traffic>, header: FileHeader) -> Self {
        let len = PAGE_BYTES as u64 + 2 * header.segment_bytes;
        traffic.journal_bytes.store(len, Ordering::Relaxed);
        Self { file: found.file, traffic, header, generation: 0, base: Position(0), used: 0, spilled: false }
    }

    /// Where the next record goes, and what it says of its generation; `spilled` when the other segment is needed, too.
    pub(super) fn place(&mut self, generation: u64, base: Position, used: u64, spilled: bool) {
        (self.generation, self.base, self.used, self.spilled) = (generation, base, used, spilled);
    }

    /// Goes on in the other segment though what this one holds is still needed; false when that holds such, too.
    pub(super) fn spill(&mut self) -> bool {
        if self.spilled {
            return false;
        }
        (self.spilled, self.used) = (true, 0);
        self.generation += 1;
        true
    }

    /// Nothing in the file is needed any more: the next record begins the other segment.
    pub(super) fn begin(&mut self, base: Position) {
        if self.used > 0 {
            self.generation += 1;
            self.used = 0;
        }
        (self.base, self.spilled) = (base, false);
    }

    /// The head of the next record, for batches behind `after` up to `last`.
    pub(super) fn head(&self, after: Position, last: Position) -> RecordHead {
        RecordHead {
            id: self.header.id,
            generation: self.generation,
            base: self.base,
            after,
            last,
            payload_bytes: 0,
            payload_crc: 0,
        }
    }

    pub(super) fn has_room(&self, record: &[u8]) -> bool {
        self.used + record.len() as u64 <= self.header.segment_bytes
    }

    /// Bytes of the segment that are taken.
    pub(super) const fn used(&self) -> u64 {
        self.used
    }

    /// Writes a record and makes it durable.
    pub(super) fn write(&mut self, record: &[u8]) -> Result<(), StoreError> {
        debug_assert!(self.has_room(record) && record.len().is_multiple_of(PAGE_BYTES));
        let at = segment_at(&self.header, self.generation) + self.used;
        self.traffic.written_bytes.fetch_add(record.len() as u64, Ordering::Relaxed);
        self.file.write(at, record).map_err(from_io)?;
        self.traffic.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data().map_err(from_io)?;
        self.used += record.len() as u64;
        Ok(())
    }

    /// Makes what was found in the file durable, should it not have been.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(from_io)
    }
}

fn segment_at(header: &FileHeader, generation: u64) -> u64 {
    PAGE_BYTES as u64 + (generation % 2) * header.segment_bytes
}

/// A file that was there.
#[derive(Debug)]
pub(super) struct Existing {
    file: Arc<dyn DiskFile>,
    len: u64,
    /// What its first page says.
    pub(super) header: Result<FileHeader, HeaderError>,
}

impl Existing {
    pub(super) fn open(disk: &dyn Disk) -> io::Result<Self> {
        let file = disk.open(JOURNAL_NAME)?;
        let len = file.len()?;
        let mut page = [0; FILE_HEADER_BYTES];
        let there = usize::try_from(len).unwrap_or(usize::MAX).min(FILE_HEADER_BYTES);
        if there > 0 {
            file.read(0, &mut page[..there])?;
        }
        let header = FileHeader::decode(&page);
        Ok(Self { file, len, header })
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// The header, or what it must have been.
    pub(super) fn layout(&self, id: StoreId) -> FileHeader {
        let guess = FileHeader { id, segment_bytes: segment_bytes(self.len) };
        match self.header {
            Ok(header) if header.segment_bytes <= SEGMENT_BYTES_MAX => header,
            _ => FileHeader { segment_bytes: guess.segment_bytes.min(SEGMENT_BYTES_MAX), ..guess },
        }
    }

    /// Whether the file is as long as its header says.
    pub(super) fn is_whole(&self) -> bool {
        let len = |h: FileHeader| h.segment_bytes.checked_mul(2).and_then(|s| s.checked_add(PAGE_BYTES as u64));
        self.header.is_ok_and(|h| h.segment_bytes > 0 && len(h) == Some(self.len))
    }

    /// The bytes of the segment that generations like this one are in; what the file lacks are zeroes.
    pub(super) fn segment(&self, layout: &FileHeader, generation: u64) -> io::Result<Vec<u8>> {
        let at = segment_at(layout, generation);
        let mut bytes = vec![0; usize::try_from(layout.segment_bytes).map_err(|_| io::ErrorKind::FileTooLarge)?];
        let there = self.len.saturating_sub(at).min(layout.segment_bytes) as usize;
        if there > 0 {
            self.file.read(at, &mut bytes[..there])?;
        }
        Ok(bytes)
    }

    /// Some bytes of that segment.
    pub(super) fn read(
        &self,
        layout: &FileHeader,
        generation: u64,
        range: std::ops::Range<usize>,
    ) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; range.len()];
        self.file.read(segment_at(layout, generation) + range.start as u64, &mut bytes)?;
        Ok(bytes)
    }
}
