//! Unix sockets: the file, its mode, and who is at the other end.

use super::{BoxStream, Socket, tcp};
use crate::runtime::reactor::Watched;
use crate::session::Peer;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_fd, listen, socket_with, sockopt,
};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Binds `path`. A socket file that is there and that nobody answers on is removed first.
pub(super) fn bind(path: &Path, mode: u32) -> io::Result<Watched<UnixListener>> {
    let address = SocketAddrUnix::new(path)?;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if let Err(error) = bind_fd(&fd, &address) {
        if error != rustix::io::Errno::ADDRINUSE || !is_stale(path) {
            return Err(error.into());
        }
        fs::remove_file(path)?;
        bind_fd(&fd, &address)?;
    }
    // Between bind and listen nobody can connect, so the mode holds from the first connection on.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    listen(&fd, tcp::BACKLOG)?;
    Watched::new(into_listener(fd))
}

fn into_listener(fd: OwnedFd) -> UnixListener {
    fd.into()
}

fn is_stale(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

pub(super) fn set_up(stream: UnixStream) -> io::Result<(BoxStream, Peer)> {
    stream.set_nonblocking(true)?;
    let peer = peer(&stream)?;
    Ok((Box::new(Socket::new(stream)?), peer))
}

fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let credentials = sockopt::socket_peercred(stream)?;
    let uid = credentials.uid.as_raw();
    let admin = uid == 0 || credentials.uid == rustix::process::geteuid();
    Ok(Peer::Unix { uid, pid: credentials.pid.as_raw_nonzero().get(), admin })
}
