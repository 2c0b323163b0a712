//! Who somebody is: what a transport knows of a peer, how it proves more, and what comes of it.

pub use crate::wire::{AUTH_CONTEXT, NONCE_BYTES, REAUTH_CONTEXT};

use crate::model::Wall;
use crate::wire::auth_method;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Who is at the other end of a connection, as far as the transport knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A peer on the network.
    Ip {
        /// Its address: behind a trusted proxy the one the proxy tells.
        address: SocketAddr,
        /// The way it came.
        via: Via,
        /// Its certificate, verified by the listener.
        certificate: Option<Arc<Certificate>>,
    },
    /// A Unix peer and its credentials; `admin` when they are the broker's own user or root.
    Unix {
        /// User id.
        uid: u32,
        /// Process id, 0 when unknown.
        pid: i32,
        /// Whether it may administer the broker.
        admin: bool,
    },
    /// A bridge of this very process, which forwards what its tenant's queues hold.
    Bridge {
        /// Its name in the settings.
        name: Arc<str>,
        /// Its tenant; empty for none.
        tenant: Arc<str>,
    },
}

impl Peer {
    /// A peer by plain TCP.
    #[must_use]
    pub const fn tcp(address: SocketAddr) -> Self {
        Self::Ip { address, via: Via::Tcp, certificate: None }
    }

    /// Whether it may administer the broker by what it is: its own user or root.
    #[must_use]
    pub const fn is_admin(&self) -> bool {
        matches!(self, Self::Unix { admin: true, .. })
    }

    /// Whether it is part of this process.
    #[must_use]
    pub const fn is_bridge(&self) -> bool {
        matches!(self, Self::Bridge { .. })
    }

    /// Whether it is on this machine.
    #[must_use]
    pub const fn is_here(&self) -> bool {
        match self {
            Self::Unix { .. } | Self::Bridge { .. } => true,
            Self::Ip { address, .. } => address.ip().to_canonical().is_loopback(),
        }
    }

    /// The network it is in: an IPv4 address, or of IPv6 the 64 bits that one customer has. `None` for one of this machine.
    #[must_use]
    pub const fn network(&self) -> Option<IpAddr> {
        match self {
            Self::Ip { address, .. } => Some(network(address.ip())),
            Self::Unix { .. } | Self::Bridge { .. } => None,
        }
    }
}

/// The network that a customer has whose address this is: an IPv4 address, or the first 64 bits of an IPv6 one.
#[must_use]
pub const fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !(u64::MAX as u128))),
        ip => ip,
    }
}

/// The kind of listener a peer came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// Frames over TCP.
    Tcp,
    /// Frames over TLS.
    Tls,
    /// Frames over WebSocket.
    Http,
    /// Frames over WebSocket over TLS.
    Https,
}

/// What a verified client certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its subject alternative names (DNS names, URIs, mail addresses); the common name where it has none.
    pub names: Vec<String>,
    /// SHA-256 of its DER.
    pub fingerprint: [u8; 32],
    /// When it ends.
    pub expires: Wall,
}

/// A way to prove who one is, as the auth frame numbers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// Nothing is shown.
    #[default]
    None = auth_method::NONE,
    /// A signed token (JWT): its UTF-8 text.
    Token = auth_method::TOKEN,
    /// A name and a password: two postcard byte strings.
    Password = auth_method::PASSWORD,
    /// An Ed25519 key: 32 bytes of public key, 64 of a signature over the challenge.
    Key = auth_method::KEY,
    /// What the transport knows: the client certificate or the Unix user. No bytes.
    Transport = auth_method::TRANSPORT,
}

impl Method {
    /// The method of this number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            auth_method::NONE => Self::None,
            auth_method::TOKEN => Self::Token,
            auth_method::PASSWORD => Self::Password,
            auth_method::KEY => Self::Key,
            auth_method::TRANSPORT => Self::Transport,
            _ => return None,
        })
    }

    /// Its name in configuration, logs and counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Token => "token",
            Self::Password => "password",
            Self::Key => "key",
            Self::Transport => "transport",
        }
    }
}

/// Somebody shows credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Attempt {
    /// How.
    pub method: Method,
    /// Bytes of the method.
    pub data: Vec<u8>,
    /// The connection's challenge.
    pub nonce: [u8; NONCE_BYTES],
    /// Whether the session is open already and renews its credentials.
    pub again: bool,
    /// Who the transport says it is.
    pub peer: Peer,
}

impl fmt::Debug for Attempt {
    /// Without the credentials: it may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("method", &self.method).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Who a session belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// Its name: what `{client}` stands for. Empty for whoever showed nothing.
    pub name: Box<str>,
    /// Its tenant: what `{tenant}` stands for. Empty for none.
    pub tenant: Box<str>,
    /// Its roles, by name.
    pub roles: Vec<Box<str>>,
    /// How it proved who it is.
    pub method: Method,
    /// When its credentials end.
    pub expires: Option<Wall>,
    /// The broker's own user or root on this machine: it may do everything.
    pub admin: bool,
}

impl Principal {
    /// A bridge of this process: it passes permissions, within its tenant.
    #[must_use]
    pub fn bridge(name: &str, tenant: &str) -> Self {
        let name = format!("bridge:{name}").into();
        Self { name, tenant: tenant.into(), method: Method::Transport, admin: true, ..Self::default() }
    }

    /// The broker's own user or root.
    #[must_use]
    pub fn local_admin() -> Self {
        Self { name: "admin".into(), method: Method::Transport, admin: true, ..Self::default() }
    }
}

/// Why credentials were refused: for the log and the counters. The peer hears only that they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The reason, as a counter's label.
    pub reason: &'static str,
    /// The whole story, without the secret.
    pub detail: String,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}
