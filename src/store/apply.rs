//! The order of a batch: which operations take effect, given the compare-and-puts among them.

use super::StoreError;
use super::ops::{Batch, Op, Table};
use std::convert::Infallible;

/// What operations are applied to.
pub(super) trait Target {
    /// The value of a row, as far as its revision.
    fn revision(&mut self, table: Table, key: &[u8]) -> Result<Revision, StoreError>;

    /// Applies one operation; a compare-and-put has been compared already.
    fn apply(&mut self, op: &Op) -> Result<(), StoreError>;
}

/// The revision of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revision {
    /// No row.
    Missing,
    /// A row too short to have one: matches nothing.
    Unreadable,
    /// The first eight bytes of the value.
    Is(u64),
}

impl Revision {
    pub(super) fn of(value: Option<&[u8]>) -> Self {
        match value.map(<[u8]>::first_chunk::<8>) {
            None => Self::Missing,
            Some(None) => Self::Unreadable,
            Some(Some(bytes)) => Self::Is(u64::from_be_bytes(*bytes)),
        }
    }

    fn matches(self, expect: Option<u64>) -> bool {
        match self {
            Self::Missing => expect.is_none(),
            Self::Unreadable => false,
            Self::Is(found) => expect == Some(found),
        }
    }
}

/// Applies batches in order. Returns the indices of the compare-and-puts that did not match, counted through the
/// operations of all batches; those skipped because they depended on one are not looked at and not listed.
pub(super) fn apply_all(batches: &[Batch], target: &mut impl Target) -> Result<Vec<u32>, StoreError> {
    let mut conflicts = Vec::new();
    walk(batches, |index, op| {
        if let Op::CompareAndPut { table, key, expect, .. } = op
            && !target.revision(*table, key)?.matches(*expect)
        {
            conflicts.push(index);
            return Ok(false);
        }
        target.apply(op).map(|()| true)
    })?;
    Ok(conflicts)
}

/// Applies batches of which it was decided before which compare-and-puts do not match.
pub(super) fn apply_decided(batches: &[Batch], conflicts: &[u32], mut apply: impl FnMut(&Op)) {
    let done: Result<(), Infallible> = walk(batches, |index, op| {
        let matches = !matches!(op, Op::CompareAndPut { .. }) || conflicts.binary_search(&index).is_err();
        if matches {
            apply(op);
        }
        Ok(matches)
    });
    let Ok(()) = done;
}

/// Hands out operations in order with their index through all batches; where one says false, those that depend on it are
/// left out.
fn walk<E>(batches: &[Batch], mut act: impl FnMut(u32, &Op) -> Result<bool, E>) -> Result<(), E> {
    let mut index = 0u32;
    for batch in batches {
        // Dependants end with their batch.
        let mut skip = 0u32;
        for op in &batch.ops {
            if skip > 0 {
                skip -= 1;
            } else if !act(index, op)?
                && let Op::CompareAndPut { then, .. } = op
            {
                skip = *then;
            }
            index += 1;
        }
    }
    Ok(())
}

/// The last position of some batches.
pub(super) fn last_position(batches: &[Batch]) -> Option<crate::model::Position> {
    batches.last().map(|b| b.position)
}
