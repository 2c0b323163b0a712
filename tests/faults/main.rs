//! Real faults against the real program: full and failing disks, damaged files, clocks that jump, stops, limits, with
//! publishers and consumers at work all the while. What needs privileges or minutes is in `scripts/faults.sh`.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod broker;
#[path = "../support/child.rs"]
mod child;
mod clocks;
mod damage;
mod descriptors;
mod disk_errors;
mod folder;
mod full_disk;
mod load;
mod memory;
mod preload;
#[path = "../support/raw.rs"]
mod raw;
mod stopped;

/// The seed of a test that draws, printed so that a failure can be had again.
pub fn seed(default: u64) -> u64 {
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(default);
    println!("seed {seed} (set TIDEGATE_SEED to choose)");
    seed
}
