//! What becomes of a record on its way up: under which channel it goes on, and what is written on it.

use crate::seal::expand_record;

/// Why a record does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is larger than the upstream takes, in bytes.
    TooLarge(usize),
    /// It is no record, or cannot be written as the upstream reads it.
    Malformed,
}

/// What the records of a connection go through.
#[derive(Clone, Debug)]
pub(super) struct Passage {
    /// Largest record the upstream takes, in bytes.
    pub(super) record_bytes_max: usize,
    /// Whether it takes compressed payloads.
    pub(super) lz4: bool,
}

impl Passage {
    /// Appends the record as it goes on. What was appended before an error is to be cut off.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) fn pass(&self, record: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        let start = out.len();
        let expanded = match self.lz4 {
            true => None,
            false => expand_record(record, self.record_bytes_max).map_err(|_| Refused::Malformed)?,
        };
        out.extend_from_slice(expanded.as_deref().unwrap_or(record));
        let len = out.len() - start;
        if len > self.record_bytes_max { Err(Refused::TooLarge(len)) } else { Ok(()) }
    }
}
