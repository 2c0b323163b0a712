//! A socket as a stream that asks the kernel no question whose answer it knows.

use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// What TCP and Unix streams have in common here.
pub trait Raw: 'static {
    /// Reads what is there.
    ///
    /// # Errors
    /// As `recv`.
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes what fits.
    ///
    /// # Errors
    /// As `send`.
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// As `shutdown`.
    fn end(&self) -> io::Result<()>;
}

macro_rules! raw {
    ($($stream:ty),*) => {$(
        impl Raw for $stream {
            fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
                (&mut &*self).read(buffer)
            }
            fn send(&self, bytes: &[u8]) -> io::Result<usize> {
                (&mut &*self).write(bytes)
            }
            fn end(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }
        }
    )*};
}

raw!(TcpStream, UnixStream);

/// A non-blocking socket. A short read means it is empty and a short write that it is full, so the next call waits for
/// the event instead of trying in vain: one syscall saved each way on every wake-up.
#[derive(Debug)]
pub struct Socket<T> {
    io: Async<T>,
    empty: bool,
    full: bool,
}

impl<T> Socket<T> {
    /// Wraps it.
    #[must_use]
    pub fn new(io: Async<T>) -> Self {
        Self { io, empty: false, full: false }
    }
}

impl<T> Unpin for Socket<T> {}

impl<T: Raw> AsyncRead for Socket<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.empty {
                ready!(self.io.poll_readable(cx))?;
                self.empty = false;
            }
            match self.io.get_ref().recv(buffer) {
                Ok(n) => {
                    self.empty = n < buffer.len();
                    return Poll::Ready(Ok(n));
                }
                Err(error) => self.empty = is_would_block(error)?,
            }
        }
    }
}

impl<T: Raw> AsyncWrite for Socket<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.full {
                ready!(self.io.poll_writable(cx))?;
                self.full = false;
            }
            match self.io.get_ref().send(bytes) {
                Ok(n) => {
                    self.full = n < bytes.len();
                    return Poll::Ready(Ok(n));
                }
                Err(error) => self.full = is_would_block(error)?,
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.io.get_ref().end())
    }
}

fn is_would_block(error: io::Error) -> io::Result<bool> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(true),
        io::ErrorKind::Interrupted => Ok(false),
        _ => Err(error),
    }
}
