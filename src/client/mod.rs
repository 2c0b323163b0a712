//! The client: a sans-IO core that a microcontroller can run and, with `daemon`, a smol client that reconnects by itself.

mod core;
mod link;

pub use self::core::{Core, CoreError, PUBLISH_STREAM};
pub use link::{CONTROL_BYTES_MAX, Event, HEARTBEAT_MS_DEFAULT, HEARTBEATS_MISSED_MAX, Link, LinkError, Terms};
