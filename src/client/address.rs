//! Where a broker is: `tcp://host:port`, `tls://host:port`, `unix:///path` or a bare `host:port`.

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
            "\"{}\" is not an address: {}; write tcp://HOST:PORT, tls://HOST:PORT or unix:///PATH",
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
        let default = match scheme {
            "tcp" => PORT_DEFAULT,
            "tls" => PORT_TLS_DEFAULT,
            _ => return Err(error("this release speaks tcp, tls and unix only")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
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
        Ok(if scheme == "tls" { Self::Tls(host.into(), port) } else { Self::Tcp(host.into(), port) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Tcp(host, port) => ("tcp", host, port),
            Self::Tls(host, port) => ("tls", host, port),
            Self::Unix(path) => return write!(f, "unix://{}", path.display()),
        };
        if host.contains(':') { write!(f, "{scheme}://[{host}]:{port}") } else { write!(f, "{scheme}://{host}:{port}") }
    }
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
        ] {
            assert_eq!(text.parse::<Address>().expect(text).to_string(), shown);
        }
        for text in ["", "unix://", "tcp://", "http://box", "box:port", "box:70000", "[::1", "[::1]x", "a b:1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
