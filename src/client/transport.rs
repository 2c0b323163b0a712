//! Where the client's bytes go: the one enum to which TLS will be added.

use super::address::{Address, authority};
use super::error::ClientError;
use super::options::Options;
use crate::model::limits::FRAME_PAYLOAD_BYTES_FLOOR;
use crate::websocket::{self, Frames};
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
    Ws(Box<Frames<TcpStream>>),
}

impl Transport {
    /// Connects; the caller bounds the time.
    pub(super) async fn connect(address: &Address, options: &Options) -> Result<Self, ClientError> {
        let failed = |e: &dyn std::fmt::Display| ClientError::Connect(address.to_string(), e.to_string());
        match address {
            Address::Tcp(host, port) => tcp(host, *port).await.map(Self::Tcp).map_err(|e| failed(&e)),
            Address::Ws(host, port, path) => {
                let stream = tcp(host, *port).await.map_err(|e| failed(&e))?;
                let name = authority(host, *port);
                let max = options.frame_bytes_max.max(FRAME_PAYLOAD_BYTES_FLOOR);
                let frames = websocket::connect(stream, &name, Some(path), max).await.map_err(|e| failed(&e))?;
                Ok(Self::Ws(Box::new(frames)))
            }
            Address::Unix(path) => UnixStream::connect(path).await.map(Self::Unix).map_err(|e| failed(&e)),
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Ws(s) => Pin::new(&mut **s).poll_read(cx, buffer),
        }
    }

    /// Takes whole frames only where they are messages.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buffer),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buffer),
            Self::Ws(s) => Pin::new(&mut **s).poll_write(cx, buffer),
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    // Frames are written whole, so waiting for more only adds delay. Failing to say so costs only that.
    if let Err(e) = stream.set_nodelay(true) {
        log::debug!("TCP_NODELAY cannot be set: {e}");
    }
    Ok(stream)
}
