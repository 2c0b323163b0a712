//! What the broker tells about itself: its log and its counters.

mod counters;
pub mod log;

pub use counters::Counters;
