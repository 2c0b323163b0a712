//! The broker's promises, one by one, on a fake clock and stores in memory.

mod consuming;
mod live;
mod publishing;
mod storage;
mod world;
