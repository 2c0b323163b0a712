//! Bytes to frames and back: the frame of `proto/frame.md`; total, allocation-free and `no_std`.

mod auth;
mod bridge;
mod codec;
mod crc;
mod error;
mod head;
mod header;
mod payload;

pub use auth::{
    AUTH_CONTEXT, AUTH_DATA_BYTES_MAX, AUTH_METHODS_MAX, EXTENSION_AUTH_METHODS, NONCE_BYTES, PUBLIC_KEY_BYTES,
    REAUTH_CONTEXT, SIGNATURE_BYTES, SignedNonce, auth_method, parse_key, parse_password, write_password,
};
pub use bridge::{
    BridgeHello, ENCODING_LZ4_BATCH, EXTENSION_BRIDGE, EXTENSION_LANES, EXTENSION_LZ4, EXTENSION_SOURCE,
    POSITIONS_BYTES_MAX, SOURCE_RUNS_MAX, Source,
};
#[cfg(feature = "daemon")]
pub use bridge::{SourcePosition, SourceRuns};
#[cfg(feature = "daemon")]
pub use codec::append;
pub use codec::{Decoded, Frame, decode, encode, encode_extended, encode_into, frame_len, seal};
pub use crc::crc32c;
pub use error::{Code, WireError};
pub use head::{
    Ack, AnyHead, Auth, Batch, Cancel, Close, Consume, Contract, Credit, Deliver, DeliverItem, Done, Dropped,
    ENCODING_LZ4, EXTENSION_ENCODINGS, ErrorHead, Extended, Extension, Extensions, Goaway, Head, Hello, History, Nack,
    Outcome, Pause, Ping, Pong, Publish, PublishAck, PublishNack, Reauth, Report, Request, Response, Resume, Since,
    Start, Subscribe, Unsubscribe, Welcome, item_flag,
};
pub use header::{FLAG_CONT, FLAG_MORE, FrameType, Header, MAGIC, VERSION};
pub use payload::{
    BATCH_ITEM_OVERHEAD_BYTES_MAX, BatchItems, DELIVER_ITEM_OVERHEAD_BYTES_MAX, DeliverItems, FilterItems, chunks,
    push_filter, push_item, push_record,
};
#[cfg(feature = "daemon")]
pub use payload::{append_filter, append_item, append_record};
