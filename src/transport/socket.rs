//! A socket as a stream that asks the kernel no question whose answer it knows.

use crate::runtime::reactor::{Watched, Way};
use smol::io::{AsyncRead, AsyncWrite};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What TCP and Unix streams have in common here.
pub trait Raw: AsFd + 'static {
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
    /// Writes what fits of several pieces.
    ///
    /// # Errors
    /// As `sendmsg`.
    fn send_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;
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
            fn send_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
                (&mut &*self).write_vectored(pieces)
            }
            fn end(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }
        }
    )*};
}

raw!(TcpStream, UnixStream);

/// A non-blocking socket on this thread's reactor. A short read means it is empty and a short write that it is full, so the
/// next call waits for the event instead of trying in vain: one syscall saved each way on every wake-up.
#[derive(Debug)]
pub struct Socket<T: Raw>(Watched<T>);

impl<T: Raw> Socket<T> {
    /// Wraps a socket that was set not to block.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(io: T) -> io::Result<Self> {
        Watched::new(io).map(Self)
    }
}

impl<T: Raw> From<Watched<T>> for Socket<T> {
    fn from(io: Watched<T>) -> Self {
        Self(io)
    }
}

impl<T: Raw> Unpin for Socket<T> {}

impl<T: Raw> AsyncRead for Socket<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_with(Way::Read, cx, |io| io.recv(buffer).map(|n| (n, n < buffer.len())))
    }
}

impl<T: Raw> AsyncWrite for Socket<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_with(Way::Write, cx, |io| io.send(bytes).map(|n| (n, n < bytes.len())))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.0.poll_with(Way::Write, cx, |io| io.send_vectored(pieces).map(|n| (n, n < bytes)))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.get_ref().end())
    }
}
