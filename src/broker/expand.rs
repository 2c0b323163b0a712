//! Compressed payloads: checked when they are published, delivered as they are to who takes them, expanded for others.

use super::conn::Conn;
use super::{Broker, ConnId};
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::model::{Record, is_compressed};
use crate::protocols::{Fault, Records};
use crate::seal::{CompressionError, expand_into, expand_record, expanded_record_len, unpack_batch};
use crate::wire::{Batch, BatchItems, Code, ENCODING_LZ4, EXTENSION_ENCODINGS, Extensions, Source};
use std::borrow::Cow;

/// The place where payloads are expanded to be checked is given back when it grew past this, in bytes.
const SCRATCH_BYTES_MAX: usize = 64 * 1_024;

/// Where batches are expanded: used again for as long as they come.
#[derive(Default)]
pub(super) struct Unpacked {
    place: Vec<u8>,
    used: bool,
}

impl Broker {
    /// Notes which encodings a hello says its client takes.
    pub(super) fn note_encodings(&mut self, conn: ConnId, extensions: Extensions<'_>) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session.peer_takes_lz4 = extensions.get(EXTENSION_ENCODINGS).is_some_and(|v| v.contains(&ENCODING_LZ4));
        }
    }

    /// Records that were compressed together: checked, charged and kept as what they become.
    pub(super) fn handle_packed(
        &mut self,
        conn: ConnId,
        stream: u32,
        head: Batch,
        block: &[u8],
        len: u32,
        source: Option<Source<'_>>,
    ) -> Result<(), Fault> {
        let mut place = std::mem::take(&mut self.unpacked.place);
        let outcome = unpack_batch(block, len, &mut place)
            .map_err(|error| Fault { code: Code::BadPayload, detail: format!("a compressed batch: {error}").into() });
        let outcome = outcome.and_then(|payload| {
            let records = Records::Many(BatchItems::parse(payload, head.count)?);
            self.handle_publish(conn, stream, head.contract, head.first, records, source)
        });
        self.unpacked = Unpacked { place, used: true };
        outcome
    }

    /// Gives back where batches are expanded, once none came for a while.
    pub(super) fn rest_unpacked(&mut self) {
        if !std::mem::take(&mut self.unpacked.used) {
            self.unpacked.place = Vec::new();
        }
    }

    /// Bytes of where batches are expanded, for tests that it is given back.
    #[cfg(test)]
    pub(super) fn unpacked_bytes(&self) -> usize {
        self.unpacked.place.capacity()
    }

    /// A compressed record as it is without, if its payload is one, and not too large for a reader that wants it so. The
    /// payload lies in `scratch` then.
    pub(super) fn check_compressed<'r>(
        &self,
        record: &Record<'r>,
        scratch: &'r mut Vec<u8>,
    ) -> Result<Record<'r>, Code> {
        let max = self.settings.limits.message_bytes_max as usize;
        let len = expanded_record_len(record).map_err(|_| Code::BadRecord)?;
        if len > max {
            return Err(Code::MessageTooLarge);
        }
        expand_into(record.payload, max, scratch).map_err(|error| match error {
            CompressionError::TooLarge(..) => Code::MessageTooLarge,
            CompressionError::Malformed => Code::BadRecord,
        })?;
        Ok(Record { compressed: false, payload: scratch, ..*record })
    }

    /// A record as this connection takes it; `None` when it takes it in no shape.
    pub(super) fn shape<'r>(&self, conn: ConnId, record: &'r [u8]) -> Option<Cow<'r, [u8]>> {
        match self.conns.get(&conn) {
            Some(c) => Shapes::new(record).take(c),
            None => Some(Cow::Borrowed(record)),
        }
    }
}

/// Gives back a place that one large payload made large.
pub(super) fn shrink(scratch: &mut Vec<u8>) {
    if scratch.capacity() > SCRATCH_BYTES_MAX {
        *scratch = Vec::new();
    }
}

/// A record in the shapes that readers take: expanded at most once, and only for one that needs it.
pub(super) struct Shapes<'r> {
    record: &'r [u8],
    /// Bytes of the expanded record, where it is compressed; 0 where it cannot be read.
    expanded_len: Option<usize>,
    expanded: Option<Vec<u8>>,
}

impl<'r> Shapes<'r> {
    pub(super) fn new(record: &'r [u8]) -> Self {
        let expanded_len = is_compressed(record).then(|| {
            let len = Record::decode(record).ok().and_then(|record| expanded_record_len(&record).ok());
            len.unwrap_or(0)
        });
        Self { record, expanded_len, expanded: None }
    }

    /// The record as a connection takes it; `None` when it is too large for it or was damaged.
    pub(super) fn for_conn(&mut self, c: &Conn) -> Option<&[u8]> {
        let max = c.session.peer_message_bytes_max as usize;
        match self.expanded_len {
            None => (self.record.len() <= max).then_some(self.record),
            Some(len) if len == 0 || len.max(self.record.len()) > max => None,
            Some(_) if c.session.peer_takes_lz4 => Some(self.record),
            Some(_) => {
                if self.expanded.is_none() {
                    self.expanded = expand_record(self.record, MESSAGE_BYTES_MAX as usize).ok().flatten();
                }
                self.expanded.as_deref()
            }
        }
    }

    fn take(mut self, c: &Conn) -> Option<Cow<'r, [u8]>> {
        match (self.for_conn(c).is_some(), self.expanded) {
            (false, _) => None,
            (true, Some(expanded)) => Some(Cow::Owned(expanded)),
            (true, None) => Some(Cow::Borrowed(self.record)),
        }
    }
}
