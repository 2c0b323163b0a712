//! The way to an upstream, step by step: its name, a connection, TLS, WebSocket; each with its time and its own failure.

use super::files::Stamps;
use crate::auth::Secret;
use crate::bridge::{Failure, Reason};
use crate::client::{Address, Credentials, SecretSource};
use crate::config::BridgeSettings;
use crate::model::Wall;
use crate::model::limits::FRAME_PAYLOAD_BYTES_MAX;
use crate::runtime::clock;
use crate::runtime::errands::{Desk, Errands};
use crate::runtime::reactor::Timer;
use crate::tls::{
    ALPN_FRAMES, ALPN_HTTP, CertificateFacts, Side, TlsError, TlsStream, Trust, day, explain_io, handshake,
};
use crate::transport::{BoxStream, Metered, Reached, Stream, connect};
use crate::websocket::{self, HandshakeError};
use crate::wire::auth_method;
use rustls::ClientConfig;
use smol::future::FutureExt as _;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// Each step of the way to an upstream may take so long, in milliseconds.
pub const STEP_MS: u64 = 10_000;
/// An answer of a name server that came too late for one attempt serves the next within this, in milliseconds.
const NAME_FRESH_MS: u64 = 60_000;

/// Dials upstreams. What may block (name servers, files) is done by errands.
pub(super) struct Dialer {
    /// Where relative paths are.
    pub(super) folder: PathBuf,
    names: Desk<(String, u16), Result<Vec<SocketAddr>, String>>,
    trusts: Desk<String, Result<Arc<ClientConfig>, TlsError>>,
    secrets: Desk<(String, u8), Result<Credentials, String>>,
    pub(super) looks: Desk<Vec<PathBuf>, Stamps>,
}

/// A connected upstream.
pub(super) struct Dialed {
    /// Its bytes.
    pub stream: BoxStream,
    /// How many of them the kernel has taken, with what TLS and WebSocket add, since the connection was made.
    pub taken: Rc<Cell<u64>>,
    /// Whether TLS is between.
    pub secure: bool,
}

/// A step that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The name has these addresses; nothing is said of an address that was given as such.
    Found(Vec<SocketAddr>),
    /// This address answers.
    Connected(SocketAddr),
    /// TLS is spoken.
    Secured {
        /// Its version.
        version: &'static str,
        /// Names in the upstream's certificate.
        names: Vec<String>,
        /// When the certificate ends.
        ends: Wall,
    },
    /// WebSocket is spoken.
    Upgraded,
}

fn failure(reason: Reason, detail: impl Into<String>) -> Failure {
    Failure { reason, detail: detail.into() }
}

/// A step, within its time.
async fn within<T>(what: &str, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = async {
        Timer::after_ms(STEP_MS).await;
        Err(failure(Reason::Timeout, format!("{what} took longer than {} s", STEP_MS / 1_000)))
    };
    step.or(late).await
}

impl Dialer {
    /// Relative paths of settings are inside this folder.
    #[must_use]
    pub fn new(folder: PathBuf, errands: &Errands) -> Self {
        Self {
            folder,
            names: Desk::new(errands, NAME_FRESH_MS),
            trusts: Desk::new(errands, 0),
            secrets: Desk::new(errands, 0),
            looks: Desk::new(errands, 0),
        }
    }

    /// Connects to an address of a bridge's upstream; `tell` hears of each step that went well.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub async fn dial(
        &self,
        bridge: &BridgeSettings,
        url: &str,
        tell: &mut dyn FnMut(Progress),
    ) -> Result<Dialed, Failure> {
        let address: Address = url.parse().map_err(|error| failure(Reason::Protocol, format!("{error}")))?;
        let (host, port, secure, path) = match &address {
            Address::Tcp(host, port) => (host, *port, false, None),
            Address::Tls(host, port) => (host, *port, true, None),
            Address::Ws(host, port, path) => (host, *port, false, Some(path)),
            Address::Wss(host, port, path) => (host, *port, true, Some(path)),
            Address::Unix(_) => return Err(failure(Reason::Protocol, "a bridge dials no Unix socket")),
        };
        // Files first: without them nobody need be troubled.
        let config = if secure { Some(self.trust(bridge, path.is_some()).await?) } else { None };
        let addresses = self.find(host, port, tell).await?;
        let (socket, reached) = reach(host, &addresses).await?;
        tell(Progress::Connected(reached));
        let (socket, taken) = Metered::new(socket);
        let stream: BoxStream = match (config, path) {
            (None, None) => Box::new(socket),
            (None, Some(path)) => upgrade(socket, &address, path, tell).await?,
            (Some(config), path) => {
                let name = if bridge.server_name.is_empty() { host } else { &bridge.server_name };
                let shaken =
                    async { handshake(socket, config, name).await.map_err(|error| failure(Reason::Tls, error.text)) };
                let stream = within(&format!("the TLS handshake with {host}"), shaken).await?;
                tell(secured(&stream));
                match path {
                    None => Box::new(stream),
                    Some(path) => upgrade(stream, &address, path, tell).await?,
                }
            }
        };
        Ok(Dialed { stream, taken, secure })
    }

    /// What TLS trusts and shows, from the files as they are now: one that was renewed, or revoked, counts from here on.
    async fn trust(&self, bridge: &BridgeSettings, web: bool) -> Result<Arc<ClientConfig>, Failure> {
        let at = |paths: &[PathBuf]| paths.iter().map(|path| self.folder.join(path)).collect();
        let trust = Trust {
            ca: at(&bridge.ca),
            crl: at(&bridge.crl),
            certificate: bridge.certificate.as_ref().map(|path| self.folder.join(path)),
            key: None,
            server_name: None,
        };
        let (key, folder) = (bridge.certificate_key.clone(), self.folder.clone());
        let protocol = if web { ALPN_HTTP } else { ALPN_FRAMES };
        // Whoever has the same files may share the reading of them.
        let what = format!("{trust:?} {key} {web}");
        let load = move || {
            if key.is_empty() {
                return trust.load(protocol, None);
            }
            let secret = Secret::load(&key, &folder)
                .map_err(|error| TlsError { reason: "file", text: format!("tls.key: {error}") })?;
            trust.load(protocol, Some((&key, secret.expose())))
        };
        let asked = async {
            let loaded = self.trusts.ask(what, load).await.map_err(no_thread)?;
            loaded.map_err(|error| failure(Reason::Tls, error.text))
        };
        within("reading the files of TLS", asked).await
    }

    async fn find(&self, host: &str, port: u16, tell: &mut dyn FnMut(Progress)) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let name = host.to_owned();
        let look_up = move || match (name.as_str(), port).to_socket_addrs() {
            Ok(found) => Ok(found.collect()),
            Err(error) => Err(error.to_string()),
        };
        let asked = async {
            let found = self.names.ask((host.to_owned(), port), look_up).await.map_err(no_thread)?;
            found.map_err(|why| {
                let why = why.strip_prefix("failed to lookup address information: ").unwrap_or(&why);
                failure(Reason::Dns, format!("no address was found for {host}: {why}"))
            })
        };
        let late = async {
            Timer::after_ms(STEP_MS).await;
            let text = format!("no name server answers for {host} within {} s", STEP_MS / 1_000);
            Err(failure(Reason::Dns, text))
        };
        let found: Vec<SocketAddr> = asked.or(late).await?;
        if found.is_empty() {
            return Err(failure(Reason::Dns, format!("{host} has no address")));
        }
        tell(Progress::Found(found.clone()));
        Ok(found)
    }

    /// The bytes of an auth frame that answers the upstream's challenge, from the secrets as they are now.
    ///
    /// # Errors
    /// A sentence that says why there are none.
    pub async fn credentials(
        &self,
        bridge: &BridgeSettings,
        method: u8,
        challenge: &[u8],
    ) -> Result<(u8, Vec<u8>), String> {
        let (wanted, source) = match method {
            auth_method::KEY => ("a key: set login.key", &bridge.login_key),
            auth_method::TOKEN => ("a token: set login.token", &bridge.token),
            auth_method::PASSWORD => ("a password: set login.user and login.password", &bridge.password),
            auth_method::TRANSPORT => return Ok((method, Vec::new())),
            _ => return Err(format!("the upstream asks for credentials of a kind that is unknown here ({method})")),
        };
        if source.is_empty() {
            return Err(format!("the upstream asks for {wanted}"));
        }
        let (source, folder, user) = (source.clone(), self.folder.clone(), bridge.user.clone());
        let key = (format!("{} {source} {user}", bridge.name), method);
        let load = move || {
            let secret = Secret::load(&source, &folder).map_err(|error| error.to_string())?;
            let secret = SecretSource::Bytes(secret.expose().to_vec().into());
            Ok(match method {
                auth_method::KEY => Credentials::Key(secret),
                auth_method::TOKEN => Credentials::Token(secret),
                _ => Credentials::Password { user, password: secret },
            })
        };
        let asked = async { self.secrets.ask(key, load).await.map_err(|error| error.to_string())? };
        let late = async {
            Timer::after_ms(STEP_MS).await;
            Err(format!("reading the credentials took longer than {} s", STEP_MS / 1_000))
        };
        let (method, data) = asked.or(late).await?.show(challenge)?;
        Ok((method, data.to_vec()))
    }
}

fn no_thread(error: io::Error) -> Failure {
    failure(Reason::Timeout, format!("the system gives no thread: {error}"))
}

async fn reach(host: &str, addresses: &[SocketAddr]) -> Result<Reached, Failure> {
    let failed = match connect(addresses, clock::mono().plus_ms(STEP_MS)).await {
        Ok(reached) => return Ok(reached),
        Err(failed) => failed,
    };
    // What tells most of the way: somebody who refuses is nearer than nobody who answers, and that than no route.
    let telling = |reason: Reason| [Reason::Refused, Reason::Timeout].iter().position(|r| *r == reason).unwrap_or(9);
    let reason = failed.iter().map(|(_, error)| reason_of(error)).min_by_key(|reason| telling(*reason));
    let each: Vec<String> =
        failed.iter().map(|(address, error)| format!("{address} {}", words(reason_of(error), error))).collect();
    let text = match each.as_slice() {
        [one] if one.starts_with(host) => one.clone(),
        many => format!("{host}: {}", many.join(", ")),
    };
    Err(failure(reason.unwrap_or(Reason::Unreachable), text))
}

fn words(reason: Reason, error: &io::Error) -> String {
    match reason {
        Reason::Refused => "refuses the connection: nothing listens there, or a firewall is in between".into(),
        Reason::Timeout => "does not answer".into(),
        Reason::Unreachable => format!("cannot be reached: {error}"),
        _ => error.to_string(),
    }
}

/// What an error of a socket means for the way to the upstream.
pub(super) fn reason_of(error: &io::Error) -> Reason {
    use io::ErrorKind as K;
    match error.kind() {
        K::ConnectionRefused => Reason::Refused,
        K::TimedOut => Reason::Timeout,
        K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown | K::AddrNotAvailable | K::PermissionDenied => {
            Reason::Unreachable
        }
        _ => Reason::Closed,
    }
}

/// What it means that a connection ended: in TLS 1.3 a certificate is refused only once the client believes that it is
/// connected.
pub(super) fn hung_up(secure: bool, error: &io::Error) -> Failure {
    if secure && error.kind() == io::ErrorKind::InvalidData && error.get_ref().is_some_and(|e| e.is::<rustls::Error>())
    {
        return failure(Reason::Tls, explain_io(error, Side::Client, &[]).text);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => failure(Reason::Closed, "the upstream closed the connection"),
        _ => failure(reason_of(error), format!("the connection broke: {error}")),
    }
}

async fn upgrade<S: Stream + 'static>(
    stream: S,
    address: &Address,
    path: &str,
    tell: &mut dyn FnMut(Progress),
) -> Result<BoxStream, Failure> {
    let secure = matches!(address, Address::Wss(..));
    let host = address.authority();
    let asked = async {
        websocket::connect(stream, &host, path, FRAME_PAYLOAD_BYTES_MAX).await.map_err(|error| match error {
            HandshakeError::Io(error) => match hung_up(secure, &error) {
                Failure { reason: Reason::Closed, detail } => {
                    failure(Reason::Http, format!("{detail} before it answered; does it speak HTTP on this port?"))
                }
                other => other,
            },
            other => failure(Reason::Http, format!("{path}: {other}")),
        })
    };
    let frames = within(&format!("the WebSocket handshake with {host}"), asked).await?;
    tell(Progress::Upgraded);
    Ok(Box::new(frames))
}

fn secured<S: Stream>(stream: &TlsStream<S>) -> Progress {
    let tls = stream.tls();
    let version = match tls.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
        _ => "1.2",
    };
    let leaf = tls.peer_certificates().and_then(<[_]>::first).and_then(|der| CertificateFacts::read(der).ok());
    let (names, ends) = match leaf {
        Some(leaf) => {
            let addresses = leaf.addresses.iter().map(ToString::to_string);
            (leaf.dns.iter().cloned().chain(addresses).collect(), leaf.not_after)
        }
        None => (Vec::new(), Wall(0)),
    };
    Progress::Secured { version, names, ends }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Found(addresses) => {
                let mut ips: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
                ips.dedup();
                f.write_str(&ips.join(", "))
            }
            Self::Connected(address) => write!(f, "{address}"),
            Self::Secured { version, names, ends } => {
                write!(f, "TLS {version}, certificate of {}, valid until {}", names.join(", "), day(*ends))
            }
            Self::Upgraded => f.write_str("WebSocket"),
        }
    }
}
