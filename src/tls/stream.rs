//! A TLS connection as a stream that owns little while it is idle and asks the kernel seldom while it is not.
//!
//! rustls reads 4 KiB at a time into a buffer of its own. Here up to 64 KiB come with one call into a buffer that all
//! connections of the thread share, and rustls is fed from there. What is written is sealed at once and goes out in one
//! vectored write; nothing more is taken until all of it has gone, so a peer that reads nothing costs one buffer.

use rustls::{Connection, HandshakeKind, IoState};
use smol::io::{AsyncRead, AsyncWrite};
use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice, Read as _, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Most read from the socket at once, in bytes.
const READ_BYTES_MAX: usize = 64 * 1_024;
/// Least asked for, in bytes: a reader with a small buffer must not cost a syscall a record.
const READ_BYTES_MIN: usize = 8 * 1_024;
/// Largest record there is, in bytes, with what sealing adds.
const RECORD_BYTES_MAX: usize = 16 * 1_024 + 2_048 + 5;
/// Opened bytes that rustls keeps; beyond it takes no more.
const OPENED_BYTES_MAX: usize = 16 * 1_024;
/// Bytes sealed at once, which are all that may wait for the socket.
const WRITE_BYTES_MAX: usize = 64 * 1_024;
/// First bytes of a peer that are remembered.
const FIRST_BYTES: usize = 4;

thread_local! {
    /// What was read and not yet fed to rustls: used within one call only.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// TLS over `S`, of either side.
pub struct TlsStream<S> {
    io: S,
    tls: Connection,
    /// Read from the socket and not yet opened, because the reader's buffer is full.
    kept: Vec<u8>,
    /// Opened bytes that wait to be read.
    opened: usize,
    /// What the peer began with, for who has to explain it.
    first: [u8; FIRST_BYTES],
    first_len: usize,
    closing: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// A connection whose handshake has not begun.
    pub fn new(io: S, tls: impl Into<Connection>) -> Self {
        let mut tls = tls.into();
        tls.set_buffer_limit(Some(WRITE_BYTES_MAX));
        Self { io, tls, kept: Vec::new(), opened: 0, first: [0; FIRST_BYTES], first_len: 0, closing: false }
    }

    /// What was agreed on.
    #[must_use]
    pub const fn tls(&self) -> &Connection {
        &self.tls
    }

    /// The stream below; what was not yet sent is lost.
    pub fn into_inner(self) -> S {
        self.io
    }

    /// Whether the handshake was a full or a resumed one; `None` before it is done.
    #[must_use]
    pub fn handshake_kind(&self) -> Option<HandshakeKind> {
        self.tls.handshake_kind()
    }

    /// The first bytes of the peer, as many as tell what it speaks.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        &self.first[..self.first_len]
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// What the peer did wrong, as a [`rustls::Error`] inside; it was told by an alert. What the socket says.
    pub async fn handshake(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_handshake(cx)).await
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if !self.tls.is_handshaking() {
                return Pin::new(&mut self.io).poll_flush(cx);
            }
            if ready!(self.poll_fill(cx, READ_BYTES_MAX))? == 0 {
                return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Says that the peer is wrong, as far as the socket takes it at once.
    fn tell_alert(&mut self, cx: &mut Context<'_>) {
        let _ = self.poll_drain(cx);
    }

    /// Writes all that is sealed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            let mut socket = Writing { io: &mut self.io, cx };
            match self.tls.write_tls(&mut socket) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads from the socket once, at most `bytes_max`, and opens what came; gives its bytes, 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<io::Result<usize>> {
        let mut scratch = SCRATCH.take();
        if scratch.is_empty() {
            scratch = vec![0; READ_BYTES_MAX];
        }
        let read = Pin::new(&mut self.io).poll_read(cx, &mut scratch[..bytes_max.min(READ_BYTES_MAX)]);
        let read = match read {
            Poll::Ready(Ok(0)) => Poll::Ready(self.tls.read_tls(&mut io::empty())),
            Poll::Ready(Ok(n)) => Poll::Ready(self.feed(cx, &scratch[..n]).map(|()| n)),
            other => other,
        };
        SCRATCH.set(scratch);
        read
    }

    /// Opens what was read, as far as there is room; the rest is kept.
    fn feed(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.first_len < FIRST_BYTES {
            let n = bytes.len().min(FIRST_BYTES - self.first_len);
            self.first[self.first_len..self.first_len + n].copy_from_slice(&bytes[..n]);
            self.first_len += n;
        }
        while !bytes.is_empty() {
            if self.opened > OPENED_BYTES_MAX {
                self.kept = bytes.to_vec();
                break;
            }
            if self.tls.read_tls(&mut bytes)? == 0 {
                // The peer has closed; what follows means nothing.
                break;
            }
            match self.tls.process_new_packets() {
                Ok(state) => self.opened = IoState::plaintext_bytes_to_read(&state),
                Err(error) => {
                    self.tell_alert(cx);
                    return Err(io::Error::new(ErrorKind::InvalidData, error));
                }
            }
        }
        if self.tls.wants_write() && !self.tls.is_handshaking() {
            // An answer to the peer's change of keys; what does not fit goes with the next write.
            let _ = self.poll_drain(cx);
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut filled = 0;
        loop {
            match this.tls.reader().read(&mut buffer[filled..]) {
                Ok(n) if n > 0 => {
                    filled += n;
                    this.opened = this.opened.saturating_sub(n);
                    if filled == buffer.len() {
                        return Poll::Ready(Ok(filled));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The end, clean or cut off, once all before it is read.
                ended if filled == 0 => return Poll::Ready(ended),
                _ => return Poll::Ready(Ok(filled)),
            }
            if !this.kept.is_empty() {
                let kept = std::mem::take(&mut this.kept);
                this.feed(cx, &kept)?;
                continue;
            }
            if filled > 0 {
                return Poll::Ready(Ok(filled));
            }
            // So much that what comes of it, with the piece of a record that is there, fits the caller's buffer.
            let fits = buffer.len().saturating_sub(RECORD_BYTES_MAX).max(READ_BYTES_MIN);
            ready!(this.poll_fill(cx, fits))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        let n = this.tls.writer().write(bytes)?;
        if n == 0 && !bytes.is_empty() {
            return Poll::Ready(Err(ErrorKind::WriteZero.into()));
        }
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // Taken all the same: the rest goes with the next write or flush.
            _ => Poll::Ready(Ok(n)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            self.tls.send_close_notify();
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}

/// A stream as rustls writes to it.
struct Writing<'a, 'c, S> {
    io: &'a mut S,
    cx: &'a mut Context<'c>,
}

impl<S: AsyncWrite + Unpin> Writing<'_, '_, S> {
    fn now(poll: Poll<io::Result<usize>>) -> io::Result<usize> {
        match poll {
            Poll::Ready(result) => result,
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for Writing<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::now(Pin::new(&mut *self.io).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::now(Pin::new(&mut *self.io).poll_write_vectored(self.cx, slices))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
