//! The only room that reads time or randomness, hears signals, waits for events, or asks the system for disk and limits.

pub mod clock;
pub mod disk;
pub mod entropy;
pub mod errands;
pub mod identity;
pub mod limits;
pub mod reactor;
pub mod signals;
