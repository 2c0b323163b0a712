//! TCP connections to others, and what they are set to: for bridges, over links that are slow and lossy.

use super::Socket;
use crate::model::Mono;
use crate::runtime::clock;
use crate::runtime::reactor::{Timer, Watched, Way};
use smol::future::FutureExt as _;
use smol::io::{AsyncRead, AsyncWrite};
use socket2::{Domain, Protocol, Type};
use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Addresses of a name that are tried.
pub const ADDRESSES_MAX: usize = 8;
/// What may wait unsent in the kernel, in bytes: a ping is behind so much at most, 3 s at 50 kbit/s.
const UNSENT_BYTES_MAX: u32 = 16 * 1_024;

/// A connection, and the address that answered.
pub type Reached = (Socket<TcpStream>, SocketAddr);

/// Connects to the first of these addresses that answers, one after another, each with its share of the time that is left
/// until `end`.
///
/// # Errors
/// What befell each of them, in the order they were tried; nothing where there was no address.
pub async fn connect(addresses: &[SocketAddr], end: Mono) -> Result<Reached, Vec<(SocketAddr, io::Error)>> {
    let addresses = in_turn(addresses);
    let mut failed = Vec::new();
    for (i, address) in addresses.iter().enumerate() {
        let left_ms = end.ms_since(clock::mono()) / (addresses.len() - i) as u64;
        let late = async {
            Timer::after_ms(left_ms).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        match one(*address).or(late).await {
            Ok(socket) => return Ok((socket, *address)),
            Err(error) => failed.push((*address, error)),
        }
    }
    Err(failed)
}

/// The two families take turns, the one that the system prefers first: where one is broken the other is not last.
fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address: &SocketAddr| address.is_ipv6() == first_is_v6);
    one.reverse();
    other.reverse();
    let mut turns = Vec::new();
    while turns.len() < ADDRESSES_MAX && !(one.is_empty() && other.is_empty()) {
        turns.extend(one.pop());
        turns.extend(other.pop());
    }
    turns.truncate(ADDRESSES_MAX);
    turns
}

async fn one(address: SocketAddr) -> io::Result<Socket<TcpStream>> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Frames are written whole, so waiting for more only adds delay.
    socket.set_tcp_nodelay(true)?;
    // What the kernel holds cannot be passed by anything. How long silence may last is for heartbeats to say, not for TCP.
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => return Err(error),
        // Watched only from here on: a socket that is not on its way looks like one that was hung up.
        _ => {}
    }
    let watched = Watched::new(TcpStream::from(socket))?;
    let is_there = |stream: &TcpStream| match stream.take_error()? {
        Some(error) => Err(error),
        None => match stream.peer_addr() {
            Ok(_) => Ok(((), false)),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error),
        },
    };
    poll_fn(|cx| watched.poll_with(Way::Write, cx, is_there)).await?;
    Ok(Socket::from(watched))
}

/// A stream that counts what the stream below took.
pub struct Metered<S> {
    io: S,
    sent: Rc<Cell<u64>>,
}

impl<S> Metered<S> {
    /// Counts the bytes of all that is written, from 0.
    pub fn new(io: S) -> (Self, Rc<Cell<u64>>) {
        let sent = Rc::<Cell<u64>>::default();
        (Self { io, sent: Rc::clone(&sent) }, sent)
    }

    fn count(&self, bytes: usize) -> Poll<io::Result<usize>> {
        self.sent.set(self.sent.get() + bytes as u64);
        Poll::Ready(Ok(bytes))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.count(taken)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, pieces))?;
        self.count(taken)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::reactor::block_on;
    use smol::io::{AsyncReadExt, AsyncWriteExt};
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};

    fn reach(addresses: &[SocketAddr], ms: u64) -> Result<Reached, Vec<(SocketAddr, io::Error)>> {
        block_on(connect(addresses, clock::mono().plus_ms(ms))).expect("a reactor")
    }

    fn closed() -> SocketAddr {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port")
    }

    #[test]
    fn an_address_that_refuses_is_passed_and_bytes_are_counted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let address = listener.local_addr().expect("bound");
        let (socket, reached) = reach(&[closed(), address], 10_000).expect("the second answers");
        assert_eq!(reached, address);
        let (mut peer, _) = listener.accept().expect("accepted");
        let (mut stream, sent) = Metered::new(socket);
        block_on(async {
            stream.write_all(b"tide").await.expect("sent");
            assert_eq!(sent.get(), 4);
            let mut got = [0; 4];
            peer.read_exact(&mut got).expect("received");
            peer.write_all(&got).expect("sent back");
            stream.read_exact(&mut got).await.expect("received");
            assert_eq!(&got, b"tide");
        })
        .expect("a reactor");
    }

    #[test]
    fn each_address_that_fails_says_why() {
        let (first, second) = (closed(), closed());
        let failed = reach(&[first, second], 10_000).map(drop).expect_err("nobody listens");
        assert_eq!(failed.iter().map(|(address, _)| *address).collect::<Vec<_>>(), [first, second]);
        assert!(failed.iter().all(|(_, error)| error.kind() == io::ErrorKind::ConnectionRefused), "{failed:?}");
        assert!(reach(&[], 10_000).map(drop).expect_err("there is none").is_empty());
    }

    #[test]
    fn an_address_that_never_answers_costs_its_share_of_the_time_only() {
        // A queue of one that is full: the kernel drops what comes, as a black hole would.
        let silent = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        silent.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bound");
        silent.listen(0).expect("listens");
        let hole = silent.local_addr().expect("bound").as_socket().expect("of TCP");
        let mut filling = Vec::new();
        while let Ok((socket, _)) = reach(&[hole], 100) {
            filling.push(socket);
            assert!(filling.len() < 64, "its queue is never full");
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let address = listener.local_addr().expect("bound");
        let (_, reached) = reach(&[hole, address], 400).expect("the second answers");
        assert_eq!(reached, address);
        let failed = reach(&[hole], 50).map(drop).expect_err("no answer");
        assert_eq!(failed[0].1.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn families_take_turns_in_the_order_of_the_system() {
        let [a, b, c] = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let [x, y] = [4, 5].map(|port| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)));
        assert_eq!(in_turn(&[a, b, c, x, y]), [a, x, b, y, c]);
        assert_eq!(in_turn(&[x, y, a]), [x, a, y]);
        assert_eq!(in_turn(&[a; 20]).len(), ADDRESSES_MAX);
    }
}
