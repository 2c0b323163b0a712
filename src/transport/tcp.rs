//! TCP: listeners and what a connection is set to.

use super::{BoxStream, Socket};
use crate::runtime::reactor::Watched;
use crate::session::Peer;
use rustix::net::{listen, sockopt};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Connections the kernel may hold before they are accepted: after a power cut all clients come back at once.
pub(super) const BACKLOG: i32 = 1_024;
/// What may wait unsent in the kernel, in bytes: small, so that a heartbeat is not queued behind a long backlog there.
const UNSENT_BYTES_MAX: u32 = 64 * 1_024;
/// Silence after which the kernel probes a peer. Heartbeats are faster; this one finds peers that have none.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

pub(super) fn bind(address: SocketAddr) -> io::Result<Watched<TcpListener>> {
    let listener = TcpListener::bind(address)?;
    // A second call only changes the backlog.
    listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    Watched::new(listener)
}

pub(super) fn set_up(tcp: TcpStream, address: SocketAddr) -> io::Result<(BoxStream, Peer)> {
    tcp.set_nonblocking(true)?;
    sockopt::set_tcp_nodelay(&tcp, true)?;
    sockopt::set_socket_keepalive(&tcp, true)?;
    sockopt::set_tcp_keepidle(&tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&tcp, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&tcp, KEEPALIVE_PROBES)?;
    socket2::SockRef::from(&tcp).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    Ok((Box::new(Socket::new(tcp)?), Peer::tcp(address)))
}
