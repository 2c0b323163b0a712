//! The nouns every room shares: channels, filters, records, identifiers, time and limits; pure and `no_std`.

#[cfg(feature = "daemon")]
pub mod admin;
mod channel;
mod ids;
pub mod limits;
mod record;
mod time;

pub use channel::{Channel, ChannelError, Filter, FilterError};
pub use ids::{ConnId, Epoch, MessageId, MountId, Position, Priority, QueueId, Volume};
pub use record::{Encoding, Properties, Property, Record, RecordError, is_compressed, tag, varint_len};
pub use time::{Civil, Mono, Now, Wall};
