//! Listeners, and connections to others, to byte streams; knows no frames.
//!
//! What wraps a stream (TLS, WebSocket) takes a [`BoxStream`] and gives one.

mod accept;
mod connect;
mod http;
mod origin;
mod socket;
mod tcp;
mod tls;
mod unix;

pub use accept::{Listener, accept_forever};
pub use connect::{Metered, Reached, connect};
pub use http::{Answer, CONNECTIONS_MAX as HTTP_CONNECTIONS_MAX, Http, Site, Upgraded, oldest_of_crowd};
pub use socket::Socket;
pub use tls::{Inside, Material, MaterialError, Named, Refused, Source, Tls};

use smol::io::{AsyncRead, AsyncWrite};

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Any stream.
pub type BoxStream = Box<dyn Stream>;
