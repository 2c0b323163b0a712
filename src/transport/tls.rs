//! The listener's side of TLS: certificates by name, client certificates, and handshakes over accepted streams.
//!
//! What a listener shows and trusts is one [`Material`], made of bytes that somebody else read, checked whole before it is
//! used and swapped whole by a reload. A handshake under way keeps the one it began with. Sessions are resumed within one
//! material only: what a reload revokes cannot come back by a ticket.

mod verifier;

use super::BoxStream;
use crate::auth::Secret;
use crate::config::ClientCertificates;
use crate::model::Wall;
use crate::runtime::clock;
use crate::session::Certificate;
use crate::tls::{
    ALPN_FRAMES, ALPN_HTTP, CertificateFacts, CrlFacts, Side, TlsError, TlsStream, VERSIONS, certificates, day,
    explain_io, private_key, provider, revocation_lists,
};
use rustls::crypto::ring::Ticketer;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore, ServerConfig, ServerConnection};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use verifier::Telling;

/// Sessions of TLS 1.2 that can be resumed without a ticket: rustls keeps about this many.
const SESSIONS_MAX: usize = 1_024;
/// Tickets given to a client of TLS 1.3: one is enough to come back once, and it gets another then.
const TICKETS: usize = 1;
/// What is thrown away of a peer that was refused, in bytes, so that it hears why before the connection is reset.
const LINGER_BYTES_MAX: usize = 64 * 1_024;

/// Bytes, and what to call where they come from.
pub struct Named<T> {
    /// A path, or where else it comes from.
    pub name: String,
    /// All of it.
    pub bytes: T,
}

/// A private key in PEM.
pub type Key = Named<Secret>;

/// What a material is made of.
#[derive(Default)]
pub struct Source {
    /// Chains in PEM with their private keys.
    pub certificates: Vec<(Named<Vec<u8>>, Key)>,
    /// Authorities of clients, in PEM.
    pub client_ca: Vec<Named<Vec<u8>>>,
    /// Their revocation lists, in PEM or DER.
    pub client_crl: Vec<Named<Vec<u8>>>,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
}

/// Why a source cannot be used: which part of it, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaterialError {
    /// The name of the part.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for MaterialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.why)
    }
}

impl std::error::Error for MaterialError {}

/// What listeners show and trust, ready to be used.
#[derive(Clone)]
pub struct Material {
    frames: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    /// The leaves shown, each with the name of its file.
    leaves: Vec<(String, CertificateFacts)>,
    warnings: Vec<String>,
}

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// Native frames: ALPN `tidegate/1`, or none.
    Frames,
    /// HTTP/1.1: ALPN `http/1.1`, or none.
    Http,
}

impl Material {
    /// Checks a source. Certificates that are out of date are taken: see [`Material::out_of_date`].
    ///
    /// # Errors
    /// The first part that cannot be used.
    pub fn new(source: Source, now: Wall) -> Result<Self, MaterialError> {
        let mut warnings = Vec::new();
        let mut leaves = Vec::new();
        let mut shown = Shown::default();
        for (chain, key) in &source.certificates {
            let ders = certificates(&chain.bytes).map_err(|why| bad(&chain.name, &why))?;
            let leaf = CertificateFacts::read(&ders[0]).map_err(|why| bad(&chain.name, &why))?;
            if leaf.dns.is_empty() && leaf.addresses.is_empty() {
                let why = "its first certificate names no host (no subject alternative name): clients will refuse it";
                warnings.push(format!("{}: {why}", chain.name));
            }
            let secret = private_key(key.bytes.expose()).map_err(|why| bad(&key.name, &why))?;
            let certified = CertifiedKey::from_der(ders, secret, &provider()).map_err(|why| match why {
                Error::InconsistentKeys(_) => {
                    bad(&key.name, &format!("it is not the key of the first certificate in {}", chain.name))
                }
                other => bad(&key.name, &format!("the key cannot be used ({other})")),
            })?;
            shown.add(Arc::new(certified), &leaf.dns);
            leaves.push((chain.name.clone(), leaf));
        }
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|why| bad("tls", &why))?;
        let builder = match source.client_certificates {
            ClientCertificates::None => builder.with_client_cert_verifier(Arc::new(NoClientAuth)),
            asked => {
                let verifier = believed(&source, now, asked == ClientCertificates::Optional, &mut warnings)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(shown));
        config.ticketer = Ticketer::new().map_err(|why| bad("tls", &format!("no randomness for tickets ({why})")))?;
        config.send_tls13_tickets = TICKETS;
        config.ignore_client_order = true;
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        config.alpn_protocols = vec![ALPN_FRAMES.to_vec()];
        let mut http = config.clone();
        http.alpn_protocols = vec![ALPN_HTTP.to_vec()];
        Ok(Self { frames: Arc::new(config), http: Arc::new(http), leaves, warnings })
    }

    /// The first leaf that is not valid at this time, and why.
    #[must_use]
    pub fn out_of_date(&self, now: Wall) -> Option<MaterialError> {
        self.leaves.iter().find_map(|(name, leaf)| leaf.out_of_date(now).map(|why| bad(name, &why)))
    }

    /// The leaves shown, each with the name of its file.
    #[must_use]
    pub fn leaves(&self) -> &[(String, CertificateFacts)] {
        &self.leaves
    }

    /// What is odd about it, and works.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn bad(name: &str, why: &dyn fmt::Display) -> MaterialError {
    MaterialError { name: name.into(), why: why.to_string() }
}

/// Whom the clients' certificates must come from. A list that is overdue still revokes what it names and is said; a
/// certificate whose authority has no list at all is refused once there is any.
fn believed(
    source: &Source,
    now: Wall,
    optional: bool,
    warnings: &mut Vec<String>,
) -> Result<Arc<Telling>, MaterialError> {
    let mut roots = RootCertStore::empty();
    for file in &source.client_ca {
        for der in certificates(&file.bytes).map_err(|why| bad(&file.name, &why))? {
            let facts = CertificateFacts::read(&der).map_err(|why| bad(&file.name, &why))?;
            if !facts.is_ca {
                return Err(bad(&file.name, &format!("{} is no authority: it may sign nothing", facts.subject)));
            }
            if let Some(why) = facts.out_of_date(now) {
                warnings.push(format!(
                    "{}: the authority {}: {why}; what it signed is still believed",
                    file.name, facts.subject
                ));
            }
            roots.add(der).map_err(|why| bad(&file.name, &why))?;
        }
    }
    let mut lists = Vec::new();
    for file in &source.client_crl {
        for der in revocation_lists(&file.bytes).map_err(|why| bad(&file.name, &why))? {
            let facts = CrlFacts::read(&der).map_err(|why| bad(&file.name, &why))?;
            if let Some(next) = facts.next.filter(|next| *next < now) {
                warnings.push(format!(
                    "{}: the revocation list of {} was to be replaced by {}; what it revokes stays revoked, what was revoked \
                     since is not known",
                    file.name,
                    facts.issuer,
                    day(next)
                ));
            }
            lists.push(der);
        }
    }
    let names = source.client_ca.iter().chain(&source.client_crl).map(|file| file.name.as_str());
    let names = names.collect::<Vec<_>>().join(", ");
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).with_crls(lists);
    if optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map(|verifier| Arc::new(Telling(verifier))).map_err(|why| bad(&names, &why))
}

/// The certificates of a listener, by the names in them.
#[derive(Debug, Default)]
struct Shown {
    /// All, in order.
    all: Vec<Arc<CertifiedKey>>,
    /// Lower-case DNS names, wildcards with their `*`.
    names: HashMap<String, Vec<usize>>,
}

impl Shown {
    fn add(&mut self, key: Arc<CertifiedKey>, names: &[String]) {
        for name in names {
            self.names.entry(name.to_ascii_lowercase()).or_default().push(self.all.len());
        }
        self.all.push(key);
    }

    fn by_name(&self, name: &str) -> Option<&[usize]> {
        let name = name.to_ascii_lowercase();
        let wildcard = || name.split_once('.').and_then(|(_, parent)| self.names.get(&format!("*.{parent}")));
        self.names.get(&name).or_else(wildcard).map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Shown {
    /// The first of this name whose key signs as the client can read; without a known name the first of all.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = hello.server_name().and_then(|name| self.by_name(name));
        match named {
            Some(named) => named.iter().map(|at| &self.all[*at]).find(fits).or(self.all.get(named[0])),
            None => self.all.iter().find(fits).or(self.all.first()),
        }
        .cloned()
    }
}

/// The TLS of all listeners: clones share it.
#[derive(Clone)]
pub struct Tls(Rc<RefCell<Material>>);

impl Tls {
    /// Shows and trusts this from now on.
    #[must_use]
    pub fn new(material: Material) -> Self {
        Self(Rc::new(RefCell::new(material)))
    }

    /// Shows and trusts another from now on; connections that are there stay.
    pub fn replace(&self, material: Material) {
        *self.0.borrow_mut() = material;
    }

    /// What is in force.
    #[must_use]
    pub fn material(&self) -> Material {
        self.0.borrow().clone()
    }

    /// Shakes hands with whoever connected; the caller bounds the time and the crowd. Gives the stream inside and what the
    /// peer's certificate says.
    ///
    /// # Errors
    /// [`Refused`]: why there is no connection. The peer was told by an alert; see [`Refused::linger`].
    pub async fn accept(
        &self,
        stream: BoxStream,
        inside: Inside,
    ) -> Result<(BoxStream, Option<Arc<Certificate>>), Refused> {
        let config = {
            let material = self.0.borrow();
            Arc::clone(match inside {
                Inside::Frames => &material.frames,
                Inside::Http => &material.http,
            })
        };
        let refused = |reason, text: String| TlsError { reason, text };
        let tls = match ServerConnection::new(config) {
            Ok(tls) => tls,
            Err(error) => return Err(Refused { error: refused("other", error.to_string()), stream: None }),
        };
        let mut stream = TlsStream::new(stream, tls);
        let done = stream.handshake().await;
        let told = done.map_err(|error| explain_io(&error, Side::Broker, stream.first())).and_then(|()| {
            match peer_certificate(&stream).map_err(|why| refused("malformed", why))? {
                // A resumed session brings the certificate of its first handshake, which may have ended since.
                Some(certificate) if certificate.expires < clock::wall() => {
                    let text = format!("its certificate expired on {}: renew it", day(certificate.expires));
                    Err(refused("expired", text))
                }
                certificate => Ok(certificate),
            }
        });
        match told {
            Ok(certificate) => Ok((Box::new(stream), certificate)),
            Err(error) => Err(Refused { error, stream: Some(Box::new(stream)) }),
        }
    }
}

/// A peer that does not come in.
pub struct Refused {
    /// Why.
    pub error: TlsError,
    stream: Option<Box<TlsStream<BoxStream>>>,
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Refused {
    /// Closes our end and waits for the peer to close its own: closing a socket with unread bytes would reset it, and take
    /// the alert from the peer. The caller bounds the time.
    pub async fn linger(self) {
        let Some(mut stream) = self.stream else { return };
        if stream.close().await.is_err() {
            return;
        }
        let mut io = stream.into_inner();
        let (mut left, mut buffer) = (LINGER_BYTES_MAX, [0; 1_024]);
        while let Ok(n) = io.read(&mut buffer).await {
            if n == 0 || n > left {
                return;
            }
            left -= n;
        }
    }
}

/// What the leaf that the peer showed, and rustls verified, says.
fn peer_certificate(stream: &TlsStream<BoxStream>) -> Result<Option<Arc<Certificate>>, String> {
    let Some(der) = stream.tls().peer_certificates().and_then(<[_]>::first) else { return Ok(None) };
    let facts = CertificateFacts::read(der)?;
    let (names, fingerprint, expires) = (facts.client_names(), facts.fingerprint, facts.not_after);
    Ok(Some(Arc::new(Certificate { names, fingerprint, expires })))
}
