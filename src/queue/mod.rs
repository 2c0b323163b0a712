//! What queues, consumers and the dedupe window decide; pure: the broker writes their decisions down as store operations.

mod channels;
mod consumer;
mod dedupe;
mod lane;
mod queue;
mod tail;

pub use channels::Channels;
pub use consumer::{Attachment, Consumer, ConsumerLane, Cursor, Failed, Pending, PendingState};
pub use dedupe::{DedupeWindow, Seen};
pub use lane::{Freed, Lane};
pub use queue::{Admission, Delayed, Queue};
pub use tail::Tail;
