//! The client: a sans-IO core that a microcontroller can run and, with `daemon`, a smol client that reconnects by itself.

#[cfg(feature = "daemon")]
mod address;
#[cfg(feature = "daemon")]
mod checks;
#[cfg(feature = "daemon")]
#[allow(clippy::module_inception, reason = "the public type of the room has a file of its own")]
mod client;
#[cfg(feature = "daemon")]
mod clock;
mod core;
#[cfg(feature = "daemon")]
mod credentials;
#[cfg(feature = "daemon")]
mod error;
#[cfg(feature = "daemon")]
mod inbox;
mod link;
#[cfg(feature = "daemon")]
mod login;
#[cfg(feature = "daemon")]
mod message;
#[cfg(feature = "daemon")]
mod options;
#[cfg(feature = "daemon")]
mod pipeline;
#[cfg(feature = "daemon")]
mod request;
#[cfg(feature = "daemon")]
mod state;
#[cfg(feature = "daemon")]
mod streams;
#[cfg(feature = "daemon")]
mod subscription;
#[cfg(feature = "daemon")]
mod task;
#[cfg(all(test, feature = "daemon"))]
mod tests;
#[cfg(feature = "daemon")]
mod transport;

pub use self::core::{Core, CoreError, PUBLISH_STREAM};
#[cfg(feature = "daemon")]
pub use address::{Address, AddressError, PORT_DEFAULT, PORT_TLS_DEFAULT};
#[cfg(feature = "daemon")]
pub use checks::Checks;
#[cfg(feature = "daemon")]
pub use client::{Client, OnSettled, Receipt};
#[cfg(feature = "daemon")]
pub use clock::sealer;
#[cfg(feature = "daemon")]
pub use credentials::{Credentials, SecretSource};
#[cfg(feature = "daemon")]
pub use error::{ClientError, Refusal};
pub use link::{CONTROL_BYTES_MAX, Event, HEARTBEAT_MS_DEFAULT, HEARTBEATS_MISSED_MAX, Link, LinkError, Terms};
#[cfg(feature = "daemon")]
pub use message::{Id, Incoming, Message};
#[cfg(feature = "daemon")]
pub use options::{ConsumeOptions, Options, Retry, SubscribeOptions, WhenFull};
#[cfg(feature = "daemon")]
pub use pipeline::Settled;
#[cfg(feature = "daemon")]
pub use request::{Asked, Responder, Response};
#[cfg(feature = "daemon")]
pub use state::Stats;
#[cfg(feature = "daemon")]
pub use subscription::{Consumer, Delivery, Heard, Subscription};
