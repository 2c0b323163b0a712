//! WebSocket (RFC 6455) for both sides: a stream of one frame a message behind the face of a byte stream.
//!
//! The protocol's state machine is tungstenite's. What it leaves open is decided here: every buffer has a bound, a message
//! may not come in pieces for ever, and what ends a session has a close code.

mod client;
mod frames;
mod messages;
mod server;

pub use async_tungstenite::tungstenite::protocol::frame::coding::Data;
pub use client::{HandshakeError, connect};
pub use frames::Frames;
pub use messages::{Limits, Message, Messages, Role};
pub use server::{Upgrade, check};

/// Where frames are spoken.
pub const PATH: &str = "/ws";
/// The subprotocol of native frames.
pub const SUBPROTOCOL: &str = "tidegate.v1";

/// Close codes that are used here (RFC 6455, section 7.4.1).
pub mod close {
    /// An orderly end.
    pub const NORMAL: u16 = 1_000;
    /// The broker is stopping.
    pub const GOING_AWAY: u16 = 1_001;
    /// The peer broke the protocol.
    pub const PROTOCOL: u16 = 1_002;
    /// A kind of message that is not taken: text.
    pub const UNSUPPORTED: u16 = 1_003;
    /// A message that is not what it should be: not one frame.
    pub const INVALID: u16 = 1_007;
    /// A message in too many pieces, or silence filled with pings.
    pub const POLICY: u16 = 1_008;
    /// A message larger than is taken.
    pub const TOO_LARGE: u16 = 1_009;
    /// The codes of frames are this and more: `frame-too-large`, 8, is 4008.
    pub const OURS: u16 = 4_000;
}
