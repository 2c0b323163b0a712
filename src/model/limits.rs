//! Every fixed bound of the protocol, with its unit in its name. What an operator may change lives in `config`.

/// Longest channel or filter, in bytes of UTF-8.
pub const CHANNEL_BYTES_MAX: usize = 1_024;
/// Most levels in a channel or filter; `a/b` has two.
pub const CHANNEL_LEVELS_MAX: usize = 128;
/// Longest name of a queue, consumer, client or responder group, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest human-readable detail in an error, in bytes.
pub const DETAIL_BYTES_MAX: usize = 512;
/// Most properties on one record.
pub const PROPERTIES_MAX: usize = 64;
/// Most bytes all properties of one record may take, keys and lengths included.
pub const PROPERTIES_BYTES_MAX: usize = 8 * 1_024;
/// Most bytes the properties of a request, or the trailers of a response, may take: they travel in the head.
pub const HEAD_PROPERTIES_BYTES_MAX: usize = 2 * 1_024;
/// Most filters one consumer may carry.
pub const CONSUMER_FILTERS_MAX: usize = 64;
/// Most queues that may capture one message.
pub const CAPTURES_MAX: usize = 8;
/// Payloads larger than this are stored once with a reference count when several queues capture them, in bytes.
pub const SHARED_BODY_BYTES_MIN: usize = 2 * 1_024;
/// Number of priority lanes; priorities run from 0 (lowest) to 9 (highest).
pub const PRIORITIES: usize = 10;
/// Size of a frame's header, in bytes.
pub const HEADER_BYTES: usize = 24;
/// Largest chunk of a message that must be split on the wire, in bytes.
pub const CHUNK_BYTES_MAX: usize = 16 * 1_024;
/// Largest frame payload a peer must accept, in bytes: any peer may send this much without asking.
pub const FRAME_PAYLOAD_BYTES_FLOOR: u32 = CHUNK_BYTES_MAX as u32;
/// Frame payload limit a broker offers unless configured otherwise, in bytes.
pub const FRAME_PAYLOAD_BYTES_DEFAULT: u32 = 128 * 1_024;
/// Largest frame payload that can be negotiated, in bytes.
pub const FRAME_PAYLOAD_BYTES_MAX: u32 = 1_024 * 1_024;
/// Largest frame head, in bytes.
pub const HEAD_BYTES_MAX: usize = 4 * 1_024;
/// Largest encoded record unless configured otherwise, in bytes.
pub const MESSAGE_BYTES_DEFAULT: u32 = 1_024 * 1_024;
/// Largest encoded record that can be configured, in bytes.
pub const MESSAGE_BYTES_MAX: u32 = 16 * 1_024 * 1_024;
/// Largest credit, in messages or in bytes, that may be outstanding on a stream.
pub const CREDIT_MAX: u32 = i32::MAX as u32;
/// Most messages in one batch frame.
pub const BATCH_MESSAGES_MAX: u32 = 16_384;
/// Most bytes that the payload of a compressed batch becomes: as many as the largest frame has.
pub const BATCH_EXPANDED_BYTES_MAX: usize = FRAME_PAYLOAD_BYTES_MAX as usize;

const _: () = assert!(FRAME_PAYLOAD_BYTES_FLOOR <= FRAME_PAYLOAD_BYTES_DEFAULT);
const _: () = assert!(FRAME_PAYLOAD_BYTES_DEFAULT <= FRAME_PAYLOAD_BYTES_MAX);
const _: () = assert!(MESSAGE_BYTES_DEFAULT <= MESSAGE_BYTES_MAX);
const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize);
// The largest heads are those of a request (channel and properties) and a nack (detail); 256 bytes are ample for numbers
// and names. Credentials and extensions must fit the limit by themselves.
const _: () = assert!(HEAD_BYTES_MAX >= CHANNEL_BYTES_MAX + HEAD_PROPERTIES_BYTES_MAX + DETAIL_BYTES_MAX + 256);
