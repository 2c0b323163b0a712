//! What the broker tells about itself: its log and its counters.

pub mod counters;
pub mod log;

pub use counters::{Counters, DropReason};
