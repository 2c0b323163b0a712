//! Where the client's bytes go: the one enum to which TLS and WebSocket will be added.

use super::address::Address;
use super::error::ClientError;
use smol::io::{AsyncRead, AsyncWrite};
use smol::net::TcpStream;
use smol::net::unix::UnixStream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A connected byte stream.
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Transport {
    /// Connects; the caller bounds the time.
    pub(super) async fn connect(address: &Address) -> Result<Self, ClientError> {
        let connected = match address {
            Address::Tcp(host, port) => TcpStream::connect((host.as_str(), *port)).await.map(|stream| {
                // Frames are written whole, so waiting for more only adds delay. Failing to say so costs only that.
                if let Err(e) = stream.set_nodelay(true) {
                    log::debug!("TCP_NODELAY cannot be set: {e}");
                }
                Self::Tcp(stream)
            }),
            Address::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
        };
        connected.map_err(|e| ClientError::Connect(address.to_string(), e.to_string()))
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buffer),
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buffer),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buffer),
        }
    }
}
