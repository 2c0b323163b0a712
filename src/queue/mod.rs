//! What queues, consumers and the dedupe window decide; pure: the broker writes their decisions down as store operations.

mod channels;
mod consumer;
mod dedupe;
mod lane;
mod outage;
mod queue;
mod shares;
mod tail;

pub use channels::Channels;
pub use consumer::{Attachment, Consumer, ConsumerLane, Cursor, Failed, Forward, Pending, PendingState};
pub use dedupe::{DedupeWindow, Seen};
pub use lane::{Freed, Lane};
pub use outage::{Loss, Losses, Outage, Thinner, Waited};
pub use queue::{Admission, Delayed, Queue};
pub use shares::Shares;
pub use tail::Tail;
