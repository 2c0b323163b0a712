//! The client's side: whom it trusts, what it shows, and a handshake over any stream.

use super::explain::{Side, TlsError, blame, explain_io};
use super::stream::TlsStream;
use super::{VERSIONS, pem, provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use smol::io::{AsyncRead, AsyncWrite};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where systems keep the authorities they trust; the first that is there is taken.
const SYSTEM: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// Brokers whose sessions are remembered, to resume them.
const SESSIONS_MAX: usize = 8;

/// Whom a client trusts and what it shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// PEM files of authorities; none is those of this system.
    pub ca: Vec<PathBuf>,
    /// PEM or DER files of their revocation lists. If there is any, every authority in use needs one.
    pub crl: Vec<PathBuf>,
    /// PEM file of the chain it shows when it is asked, leaf first.
    pub certificate: Option<PathBuf>,
    /// PEM file of its key: for its owner's eyes only.
    pub key: Option<PathBuf>,
    /// The name the broker must have, instead of the host that is connected to.
    pub server_name: Option<String>,
}

/// Makes TLS connections. Files are read at the first, and again whenever they have changed.
pub struct Connector {
    trust: Trust,
    protocol: &'static [u8],
    made: Option<(Vec<Stamp>, Arc<ClientConfig>)>,
}

/// What tells one state of a file from another.
type Stamp = Option<(u64, i64, i64, u64)>;

impl Connector {
    /// For one application protocol, such as [`super::ALPN_FRAMES`].
    #[must_use]
    pub const fn new(trust: Trust, protocol: &'static [u8]) -> Self {
        Self { trust, protocol, made: None }
    }

    /// Shakes hands with `host`, which is whom `io` is connected to, unless [`Trust::server_name`] says otherwise.
    ///
    /// # Errors
    /// A file that cannot be used, or why the handshake failed.
    pub async fn connect<S>(&mut self, io: S, host: &str) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config()?;
        handshake(io, config, self.trust.server_name.as_deref().unwrap_or(host)).await
    }

    fn config(&mut self) -> Result<Arc<ClientConfig>, TlsError> {
        let trust = &self.trust;
        let files = trust.ca.iter().chain(&trust.crl).chain(&trust.certificate).chain(&trust.key);
        let stamps: Vec<Stamp> = files.map(|path| stamp(path)).collect();
        if let Some((at, config)) = &self.made
            && *at == stamps
        {
            return Ok(Arc::clone(config));
        }
        let config = trust.load(self.protocol, None)?;
        self.made = Some((stamps, Arc::clone(&config)));
        Ok(config)
    }
}

/// Shakes hands with a broker of this name over a connected stream.
///
/// # Errors
/// Why it failed.
pub async fn handshake<S>(io: S, config: Arc<ClientConfig>, name: &str) -> Result<TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| TlsError::new("name", format!("\"{name}\" is neither a DNS name nor an IP address")))?;
    let tls = ClientConnection::new(config, name).map_err(|error| TlsError::new("other", error.to_string()))?;
    let mut stream = TlsStream::new(io, tls);
    match stream.handshake().await {
        Ok(()) => Ok(stream),
        Err(error) => Err(explain_io(&error, Side::Client, stream.first())),
    }
}

impl Trust {
    /// Reads the files, which may block, and makes of them what a handshake needs. A key that is in no file of its own is
    /// given: what it is called, and its PEM.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(&self, protocol: &[u8], given: Option<(&str, &[u8])>) -> Result<Arc<ClientConfig>, TlsError> {
        let roots = Arc::new(self.roots()?);
        let mut lists = Vec::new();
        for path in &self.crl {
            lists.extend(pem::revocation_lists(&read(path)?).map_err(|error| bad(path, &error))?);
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).with_crls(lists);
        let verifier = verifier.build().map_err(|error| TlsError::new("file", error.to_string()))?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| TlsError::new("other", error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Telling(verifier)));
        let key = match (given, &self.key) {
            (Some((name, pem)), _) => Some((Path::new(name), zeroize::Zeroizing::new(pem.to_vec()))),
            (None, Some(path)) => Some((path.as_path(), read_private(path)?)),
            (None, None) => None,
        };
        let mut config = match (&self.certificate, key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some((key, pem))) => {
                let chain = pem::certificates(&read(certificate)?).map_err(|error| bad(certificate, &error))?;
                let secret = pem::private_key(&pem).map_err(|error| bad(key, &error))?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| match error {
                    Error::InconsistentKeys(_) => bad(key, &format!("it is not the key of {}", certificate.display())),
                    other => bad(certificate, &other),
                })?
            }
            _ => {
                return Err(TlsError::new("file", "a client certificate and its key come together: give both or none"));
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        if self.ca.is_empty() {
            let Some(path) = SYSTEM.iter().map(Path::new).find(|path| path.exists()) else {
                let text = "no authority is trusted: give the file of one with --ca; this system has none of its own";
                return Err(TlsError::new("file", text));
            };
            let (added, _) =
                roots.add_parsable_certificates(pem::certificates(&read(path)?).map_err(|e| bad(path, &e))?);
            if added == 0 {
                return Err(bad(path, &"it holds no usable certificate"));
            }
        }
        for path in &self.ca {
            for certificate in pem::certificates(&read(path)?).map_err(|error| bad(path, &error))? {
                roots.add(certificate).map_err(|error| bad(path, &error))?;
            }
        }
        Ok(roots)
    }
}

fn bad(path: &Path, why: &dyn std::fmt::Display) -> TlsError {
    TlsError::new("file", format!("{}: {why}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    read_some(path).map_err(|error| bad(path, &error))
}

/// A file that is for its owner only.
fn read_private(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, TlsError> {
    let meta = fs::metadata(path).map_err(|error| bad(path, &error))?;
    if meta.is_file() && meta.mode() & 0o007 != 0 {
        let text = format!(
            "others may read it ({:04o}): a key is for its owner's eyes only; chmod 600 it",
            meta.mode() & 0o7777
        );
        return Err(bad(path, &text));
    }
    read(path).map(zeroize::Zeroizing::new)
}

fn read_some(path: &Path) -> io::Result<Vec<u8>> {
    let len = fs::metadata(path)?.len();
    if len > pem::FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {len} bytes; at most {} are taken", pem::FILE_BYTES_MAX)));
    }
    fs::read(path)
}

fn stamp(path: &Path) -> Stamp {
    let of = |meta: Metadata| (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len());
    fs::metadata(path).ok().map(of)
}

/// A verifier that remembers which certificate it refused.
#[derive(Debug)]
struct Telling(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Telling {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .inspect_err(|_| blame(end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
