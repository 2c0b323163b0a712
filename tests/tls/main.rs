//! TLS against the real daemon over real sockets: who gets in, who does not and hears why, and what a reload changes.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod doors;
mod patience;
#[path = "../support/pki.rs"]
mod pki;
#[path = "../support/raw.rs"]
mod raw;
mod reload;
mod sessions;

use pki::{Authority, Made, Wanted};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};
use std::io;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate::client::{Address, Client, ClientError, Message, Options};
use tidegate::config::{ClientCertificates, Settings};
use tidegate::daemon::testing::{self, Running};
use tidegate::tls::Trust;

/// A test that waits longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon in this process with a TLS listener, and a folder of files beside its data.
pub struct Daemon {
    /// Where it listens.
    pub running: Running,
    /// Files of this test.
    pub files: TempDir,
    _data: TempDir,
}

impl Daemon {
    /// Shows `shown` and has this change.
    pub fn start(shown: &Made, change: impl FnOnce(&Path, &mut Settings)) -> Self {
        Self::try_start(shown, change).expect("the daemon starts")
    }

    /// As [`Daemon::start`], if it starts.
    pub fn try_start(shown: &Made, change: impl FnOnce(&Path, &mut Settings)) -> Result<Self, String> {
        listen_to_the_log();
        let (data, files) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let mut settings = testing::settings(data.path());
        settings.listen.tls = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let (chain, key) = pki::put(files.path(), "server", shown);
        settings.tls.certificates = vec![chain];
        settings.tls.keys = vec![format!("file:{}", key.display())];
        change(files.path(), &mut settings);
        let running = testing::spawn(settings).map_err(|error| error.to_string())?;
        Ok(Self { running, files, _data: data })
    }

    /// Asks for a certificate by this authority.
    pub fn asking(shown: &Made, asked: ClientCertificates, clients: &Authority) -> Self {
        Self::start(shown, |files, settings| ask(files, settings, asked, clients))
    }

    /// Its TLS address, with a name for this machine.
    pub fn url(&self, host: &str) -> Address {
        Address::Tls(host.into(), self.running.tls().port())
    }

    /// A file of this test's.
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Trust in this authority, written to a file of that name.
    pub fn trust(&self, authority: &Authority) -> Trust {
        let path = self.file("trusted.pem");
        pki::write(&path, authority.pem());
        Trust { ca: vec![path], ..Trust::default() }
    }
}

/// Has the broker ask for certificates signed by `clients`.
pub fn ask(files: &Path, settings: &mut Settings, asked: ClientCertificates, clients: &Authority) {
    let path = files.join("clients.pem");
    pki::write(&path, clients.pem());
    settings.tls.client_ca = vec![path];
    settings.tls.client_certificates = asked;
}

/// An authority and what it signed for this machine.
pub fn good() -> (Authority, Made) {
    let authority = Authority::new("the right authority");
    let made = authority.make(&Wanted::server(&["localhost", "127.0.0.1"]));
    (authority, made)
}

/// Of a client.
pub fn options(tls: Trust) -> Options {
    Options { tls, connect_timeout_ms: 10_000, ..Options::default() }
}

/// Connects, publishes one message and goes; or why not.
pub fn publish(address: Address, tls: Trust) -> Result<(), ClientError> {
    smol::block_on(async {
        let client = Client::connect(address, options(tls)).await?;
        client.publish(&Message::new("site/tls", b"hello")?).await?;
        client.close().await;
        Ok(())
    })
}

/// As [`publish`], refused: in these words.
pub fn refusal(address: Address, tls: Trust) -> String {
    let error = publish(address, tls).expect_err("refused");
    assert!(matches!(error, ClientError::Tls(..)), "{error:?}");
    error.to_string()
}

/// A client that looks at nothing, to see what there is to see.
#[derive(Debug)]
struct Blind;

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tidegate::tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Of such a client.
pub fn blind(versions: &[&'static SupportedProtocolVersion], protocols: &[&[u8]]) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(tidegate::tls::provider())
        .with_protocol_versions(versions)
        .expect("spoken")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Blind))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config
}

/// A blocking TLS connection.
pub type Blocking = StreamOwned<ClientConnection, TcpStream>;

impl raw::Stream for Blocking {
    fn set_timeout(&self, timeout: Duration) {
        self.sock.set_read_timeout(Some(timeout)).expect("a timeout can be set");
    }
    fn end(&self) {
        let _ = self.sock.shutdown(std::net::Shutdown::Write);
    }
}

/// Shakes hands, and waits for the ticket that follows.
pub fn try_connect(daemon: &Daemon, name: &str, config: &Arc<ClientConfig>) -> io::Result<Blocking> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let mut socket = TcpStream::connect(daemon.running.tls())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    if tls.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3) {
        while tls.tls13_tickets_received() == 0 {
            if tls.read_tls(&mut socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }
    Ok(StreamOwned::new(tls, socket))
}

/// As [`try_connect`], which must succeed.
pub fn connect(daemon: &Daemon, name: &str, config: &Arc<ClientConfig>) -> Blocking {
    try_connect(daemon, name, config).expect("a handshake")
}

/// A connection by this name, or by none, that offers these protocols.
pub fn session(daemon: &Daemon, name: Option<&str>, protocols: &[&[u8]]) -> Blocking {
    let config = Arc::new(blind(tidegate::tls::VERSIONS, protocols));
    // An IP address is not sent.
    connect(daemon, name.unwrap_or("127.0.0.1"), &config)
}

/// What this process logged.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Ear;

impl log::Log for Ear {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("tidegate")
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {}", record.level(), record.args());
            LOGGED.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }
    fn flush(&self) {}
}

fn listen_to_the_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Ear).expect("the only one");
        log::set_max_level(log::LevelFilter::Debug);
    });
}

/// Waits for a line of the log that has all of these.
pub fn heard(pieces: &[&str]) -> String {
    let started = Instant::now();
    loop {
        let logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = logged.iter().find(|line| pieces.iter().all(|piece| line.contains(piece))) {
            return line.clone();
        }
        assert!(started.elapsed() < PATIENCE, "{pieces:?} is not in the log: {logged:#?}");
        drop(logged);
        std::thread::yield_now();
    }
}
