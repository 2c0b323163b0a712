//! Listeners, and the loop that accepts whatever befalls it.

use super::{BoxStream, tcp, unix};
use crate::model::Mono;
use crate::runtime::clock;
use crate::runtime::reactor::{Timer, Watched, Way};
use crate::session::Peer;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Pause after the system could not give a connection, in milliseconds; the peers wait in the kernel's backlog meanwhile.
const BACK_OFF_MS: u64 = 100;
/// A failure that lasts is said this often, in milliseconds.
const SAY_EVERY_MS: u64 = 60_000;

/// A bound address.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    /// With the scheme of its addresses.
    Tcp(Watched<TcpListener>, &'static str),
    Unix(Watched<UnixListener>, PathBuf),
}

impl Listener {
    /// Binds a TCP address; port 0 takes a free one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        Self::ip(address, "tcp")
    }

    /// As [`Listener::tcp`], for what is spoken over TCP under a scheme of its own, such as `tls`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ip(address: SocketAddr, scheme: &'static str) -> io::Result<Self> {
        tcp::bind(address).map(|listener| Self(Kind::Tcp(listener, scheme)))
    }

    /// Binds a Unix socket with these permission bits; the file is removed again when the listener is dropped.
    ///
    /// # Errors
    /// What the kernel says; `AddrInUse` when somebody answers there or it is no socket.
    pub fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        unix::bind(path, mode).map(|listener| Self(Kind::Unix(listener, path.into())))
    }

    /// The scheme of its addresses: `unix`, `tcp` or what it was bound with.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        match &self.0 {
            Kind::Tcp(_, scheme) => scheme,
            Kind::Unix(..) => "unix",
        }
    }

    /// The TCP address really bound.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener, _) => listener.get_ref().local_addr().ok(),
            Kind::Unix(..) => None,
        }
    }

    /// The Unix socket's path.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Tcp(..) => None,
            Kind::Unix(_, path) => Some(path),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// What the kernel says: about this connection or about the process.
    pub async fn accept(&self) -> io::Result<(BoxStream, Peer)> {
        match &self.0 {
            Kind::Tcp(listener, _) => {
                let accept = |l: &TcpListener| l.accept().map(|accepted| (accepted, false));
                let (stream, address) = poll_fn(|cx| listener.poll_with(Way::Read, cx, accept)).await?;
                tcp::set_up(stream, address)
            }
            Kind::Unix(listener, _) => {
                let accept = |l: &UnixListener| l.accept().map(|accepted| (accepted, false));
                let (stream, _) = poll_fn(|cx| listener.poll_with(Way::Read, cx, accept)).await?;
                unix::set_up(stream)
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Tcp(_, scheme) => match self.tcp_address() {
                Some(address) => write!(f, "{scheme}://{address}"),
                None => f.write_str(scheme),
            },
            Kind::Unix(_, path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Kind::Unix(_, path) = &self.0 {
            // Best effort: a file left behind is found stale by the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Accepts until it is dropped. Where the system has no more files or memory it waits and tries again; what fails with one
/// connection costs that one only.
pub async fn accept_forever(listener: Listener, mut on_connection: impl FnMut(BoxStream, Peer)) {
    let mut said: Option<Mono> = None;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => on_connection(stream, peer),
            Err(error) if is_of_one_connection(&error) => log::debug!("{listener}: a connection was lost: {error}"),
            Err(error) => {
                let now = clock::mono();
                if said.is_none_or(|at| now.ms_since(at) >= SAY_EVERY_MS) {
                    said = Some(now);
                    log::warn!("{listener}: cannot accept connections for now: {error}");
                }
                Timer::after_ms(BACK_OFF_MS).await;
            }
        }
        // Others get their turn during a storm of connections.
        smol::future::yield_now().await;
    }
}

/// Errors `accept` passes on from the connection itself, or of setting it up; all others last.
fn is_of_one_connection(error: &io::Error) -> bool {
    use rustix::io::Errno as E;
    let Some(errno) = E::from_io_error(error) else { return true };
    !matches!(errno, E::MFILE | E::NFILE | E::NOBUFS | E::NOMEM | E::BADF | E::INVAL | E::NOTSOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::reactor::block_on;
    use smol::io::{AsyncReadExt, AsyncWriteExt};
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_unix_peer_is_known_by_its_credentials() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("s");
        let listener = Listener::unix(&path, 0o600).expect("bound");
        assert_eq!(std::fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        let mut client = UnixStream::connect(&path).expect("connected");
        block_on(async {
            let (mut stream, peer) = listener.accept().await.expect("accepted");
            let uid = rustix::process::getuid().as_raw();
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            assert_eq!(peer, Peer::Unix { uid, pid, admin: true });
            client.write_all(b"tide").expect("sent");
            let mut got = [0; 4];
            stream.read_exact(&mut got).await.expect("received");
            stream.write_all(&got).await.expect("sent back");
            stream.close().await.expect("ended");
        })
        .expect("a reactor");
        let mut echo = String::new();
        client.read_to_string(&mut echo).expect("received until the end");
        assert_eq!(echo, "tide");
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_socket_nobody_answers_on_is_replaced() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("s");
        // As a crash leaves it: std does not unlink.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        let live = Listener::unix(&path, 0o660).expect("a stale socket is replaced");
        let refused = Listener::unix(&path, 0o660).expect_err("a live one is not");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).expect("the first still answers");
        drop(live);
        std::fs::write(&path, b"letters").expect("a file");
        Listener::unix(&path, 0o660).expect_err("a file is not replaced");
        assert_eq!(std::fs::read(&path).expect("still there"), b"letters");
    }

    #[test]
    fn port_zero_becomes_a_real_one() {
        let listener = Listener::tcp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bound");
        let address = listener.tcp_address().expect("tcp");
        assert_ne!(address.port(), 0);
        assert_eq!(listener.to_string(), format!("tcp://{address}"));
        assert_eq!(listener.unix_path(), None);
    }

    #[test]
    fn errors_of_the_process_are_told_from_those_of_a_connection() {
        use rustix::io::Errno as E;
        for (errno, one) in [(E::MFILE, false), (E::NFILE, false), (E::CONNABORTED, true), (E::PROTO, true)] {
            assert_eq!(is_of_one_connection(&errno.into()), one, "{errno}");
        }
    }
}
