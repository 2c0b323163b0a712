//! Where a broker is: `tcp://host:port`, `tls://host:port`, `ws://host:port/ws`, `wss://`, `unix:///path` or a bare `host:port`.

use crate::websocket::PATH;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Port of the broker unless one is given.
pub const PORT_DEFAULT: u16 = 8433;
/// Its port for TLS unless one is given.
pub const PORT_TLS_DEFAULT: u16 = 8434;

/// An address of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address, and a port.
    Tcp(String, u16),
    /// The same, over TLS.
    Tls(String, u16),
    /// WebSocket: a host name or IP address, a port, and the path.
    Ws(String, u16, String),
    /// The same, over TLS.
    Wss(String, u16, String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// Why a text is not an address: the text, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError(String, &'static str);

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is not an address: {}; write tcp://HOST:PORT, tls://HOST:PORT, ws://HOST:PORT/ws, wss://HOST:PORT/ws or unix:///PATH",
            self.0, self.1
        )
    }
}

impl std::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |why| AddressError(text.into(), why);
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.is_empty() { Err(error("the path is missing")) } else { Ok(Self::Unix(path.into())) };
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        let (default, web) = match scheme {
            "tcp" => (PORT_DEFAULT, false),
            "tls" => (PORT_TLS_DEFAULT, false),
            "ws" => (80, true),
            "wss" => (443, true),
            _ => return Err(error("this release speaks tcp, tls, ws, wss and unix only")),
        };
        let (rest, path) = match rest.find('/') {
            Some(slash) if web => rest.split_at(slash),
            _ => (rest.strip_suffix('/').unwrap_or(rest), ""),
        };
        // It goes into a request line as it is.
        if path.bytes().any(|b| !b.is_ascii_graphic() || b == b'#') {
            return Err(error("the path is malformed"));
        }
        // An IPv6 address stands in brackets, so that its colons are not the port's.
        let (host, port) = match rest.strip_prefix('[') {
            Some(inner) => {
                let (host, after) = inner.split_once(']').ok_or_else(|| error("the bracket is not closed"))?;
                (host, after.strip_prefix(':').or(if after.is_empty() { None } else { Some(after) }))
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/' || c == '@') {
            return Err(error("the host is missing or malformed"));
        }
        let port = match port {
            Some(port) => port.parse().map_err(|_| error("the port is not a number from 0 to 65535"))?,
            None => default,
        };
        let (host, path) = (host.into(), if matches!(path, "" | "/") { PATH } else { path });
        Ok(match scheme {
            "tls" => Self::Tls(host, port),
            "ws" => Self::Ws(host, port, path.into()),
            "wss" => Self::Wss(host, port, path.into()),
            _ => Self::Tcp(host, port),
        })
    }
}

impl Address {
    /// `host:port`, an IPv6 address in brackets; nothing of a Unix socket.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp(host, port) | Self::Tls(host, port) | Self::Ws(host, port, _) | Self::Wss(host, port, _) => {
                authority(host, *port)
            }
            Self::Unix(_) => String::new(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port, path) = match self {
            Self::Tcp(host, port) => ("tcp", host, port, ""),
            Self::Tls(host, port) => ("tls", host, port, ""),
            Self::Ws(host, port, path) => ("ws", host, port, path.as_str()),
            Self::Wss(host, port, path) => ("wss", host, port, path.as_str()),
            Self::Unix(path) => return write!(f, "unix://{}", path.display()),
        };
        write!(f, "{scheme}://{}{path}", authority(host, *port))
    }
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_and_bad_ones_say_why() {
        for (text, shown) in [
            ("tcp://box:1234", "tcp://box:1234"),
            ("tcp://box", "tcp://box:8433"),
            ("box:1", "tcp://box:1"),
            ("127.0.0.1", "tcp://127.0.0.1:8433"),
            ("[::1]:9", "tcp://[::1]:9"),
            ("tcp://[::1]", "tcp://[::1]:8433"),
            ("tls://box", "tls://box:8434"),
            ("tls://[::1]:1", "tls://[::1]:1"),
            ("unix:///run/tidegate.sock", "unix:///run/tidegate.sock"),
            ("ws://box", "ws://box:80/ws"),
            ("ws://box:8434/", "ws://box:8434/ws"),
            ("ws://[::1]:8434/edge/ws?x=1", "ws://[::1]:8434/edge/ws?x=1"),
            ("wss://box/edge", "wss://box:443/edge"),
        ] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), shown);
        }
        for text in [
            "",
            "unix://",
            "tcp://",
            "http://box",
            "box:port",
            "box:70000",
            "[::1",
            "[::1]x",
            "a b:1",
            "ws://",
            "ws:///ws",
            "wss://box/a b",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
