//! What a bridge keeps over restarts.

use super::budget::BudgetKept;
use serde::{Deserialize, Serialize};

/// What is kept, as postcard: fields are only ever added behind the others, and what is not there has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// An operator paused it.
    pub(super) paused: bool,
    /// What was used of the day's bytes.
    pub(super) budget: Option<BudgetKept>,
}

impl Kept {
    /// What was kept; the defaults where there is nothing or it is not understood.
    pub(super) fn read(bytes: Option<&[u8]>) -> Self {
        bytes.and_then(|bytes| postcard::take_from_bytes(bytes).ok()).map_or_else(Self::default, |(kept, _)| kept)
    }

    /// Its bytes.
    pub(super) fn write(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a vector takes anything")
    }
}
