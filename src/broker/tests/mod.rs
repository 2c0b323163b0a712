//! The broker's promises, one by one, on a fake clock and stores in memory.

mod attacks;
mod bridged;
mod bridges;
mod brought;
mod clocks;
mod compressed;
mod consuming;
mod crash;
mod echoes;
mod limits;
mod live;
mod login;
mod outage;
mod pair;
mod permits;
mod positions;
mod publishing;
mod resume;
mod review;
mod rings;
mod signatures;
mod simulated;
mod storage;
mod tenants;
mod upstream;
mod world;
