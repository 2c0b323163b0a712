//! Bridges between real brokers on loopback, with a link between them that a test cuts, holes, stalls and slows down: what other
//! bridges fail at, each as a named test (`docs/bridge.md` has the table).
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

#[path = "../faults/broker.rs"]
mod broker;
#[path = "../support/child.rs"]
mod child;
mod dial;
mod disk;
mod lanes;
mod link;
mod local;
mod names;
mod operator;
mod outage;
mod pair;
#[path = "../support/pki.rs"]
mod pki;
mod poison;
#[path = "../faults/preload.rs"]
mod preload;
#[path = "../support/raw.rs"]
mod raw;
mod relay;
mod renewal;
mod test_command;
mod trust;
