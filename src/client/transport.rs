//! Where the client's bytes go: TCP or a Unix socket, with TLS and WebSocket around them.

use super::address::{Address, authority};
use super::error::ClientError;
use super::options::Options;
use crate::model::limits::FRAME_PAYLOAD_BYTES_FLOOR;
use crate::tls::{ALPN_FRAMES, ALPN_HTTP, Connector, Side, TlsStream, explain_io};
use crate::websocket::{self, Frames};
use smol::io::{AsyncRead, AsyncWrite};
use smol::net::TcpStream;
use smol::net::unix::UnixStream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Makes transports to one address.
pub(super) struct Transports {
    address: Address,
    tls: Connector,
    frame_bytes_max: u32,
}

impl Transports {
    pub(super) fn new(address: Address, options: &Options) -> Self {
        let inside = if matches!(address, Address::Wss(..)) { ALPN_HTTP } else { ALPN_FRAMES };
        let frame_bytes_max = options.frame_bytes_max.max(FRAME_PAYLOAD_BYTES_FLOOR);
        Self { address, tls: Connector::new(options.tls.clone(), inside), frame_bytes_max }
    }

    pub(super) const fn address(&self) -> &Address {
        &self.address
    }

    /// Connects; the caller bounds the time.
    pub(super) async fn connect(&mut self) -> Result<Transport, ClientError> {
        let address = &self.address;
        let failed = |e: io::Error| ClientError::Connect(address.to_string(), e.to_string());
        match address {
            Address::Tcp(host, port) => tcp(host, *port).await.map(Transport::Tcp).map_err(failed),
            Address::Tls(host, port) => {
                let stream = tcp(host, *port).await.map_err(failed)?;
                match self.tls.connect(stream, host).await {
                    Ok(stream) => Ok(Transport::Tls(Box::new(stream))),
                    Err(error) => Err(ClientError::Tls(address.to_string(), error)),
                }
            }
            Address::Ws(host, port, path) => {
                let stream = tcp(host, *port).await.map_err(failed)?;
                let opened = websocket::connect(stream, &authority(host, *port), path, self.frame_bytes_max).await;
                let refused = |e: websocket::HandshakeError| ClientError::Connect(address.to_string(), e.to_string());
                opened.map(|frames| Transport::Ws(Box::new(frames))).map_err(refused)
            }
            Address::Wss(host, port, path) => {
                let stream = tcp(host, *port).await.map_err(failed)?;
                let stream = self.tls.connect(stream, host).await;
                let stream = stream.map_err(|error| ClientError::Tls(address.to_string(), error))?;
                let opened = websocket::connect(stream, &authority(host, *port), path, self.frame_bytes_max).await;
                let refused = |e: websocket::HandshakeError| ClientError::Connect(address.to_string(), e.to_string());
                opened.map(|frames| Transport::Wss(Box::new(frames))).map_err(refused)
            }
            Address::Unix(path) => UnixStream::connect(path).await.map(Transport::Unix).map_err(failed),
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

/// A connected byte stream.
pub(super) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    Ws(Box<Frames<TcpStream>>),
    Wss(Box<Frames<TlsStream<TcpStream>>>),
}

impl Transport {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Ws(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Wss(s) => Pin::new(s).poll_read(cx, buffer),
        }
    }

    /// Where frames are messages, takes whole frames.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buffer),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buffer),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buffer),
            Self::Ws(s) => Pin::new(s).poll_write(cx, buffer),
            Self::Wss(s) => Pin::new(s).poll_write(cx, buffer),
        }
    }

    /// Sends what was taken and waits inside.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
            Self::Ws(s) => Pin::new(s).poll_flush(cx),
            Self::Wss(s) => Pin::new(s).poll_flush(cx),
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    /// What a broken connection means: in TLS 1.3 a broker refuses a client's certificate only when the client believes that
    /// it is connected.
    pub(super) fn broke(&self, address: &Address, error: &io::Error) -> ClientError {
        match self {
            Self::Tls(stream) if error.kind() == io::ErrorKind::InvalidData => {
                ClientError::Tls(address.to_string(), explain_io(error, Side::Client, stream.first()))
            }
            _ => ClientError::Disconnected(error.to_string()),
        }
    }
}
