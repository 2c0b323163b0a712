//! TLS over any stream: the stream itself, what is in certificate files, the client's side, and every refusal in words.
//!
//! rustls on ring, TLS 1.2 and 1.3, suites with forward secrecy only. The listener's side is in `transport/tls.rs`.

mod connector;
mod explain;
mod facts;
mod pem;
mod stream;

pub use connector::{Connector, Trust};
pub use explain::{Side, TlsError, blame, explain, explain_io};
pub use facts::{CertificateFacts, CrlFacts, day};
pub use pem::{FILE_BYTES_MAX, PemError, certificates, private_key, revocation_lists};
pub use stream::TlsStream;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use std::sync::{Arc, OnceLock};

/// The application protocol (ALPN) of native frames.
pub const ALPN_FRAMES: &[u8] = b"tidegate/1";
/// The application protocol of HTTP, with or without WebSocket.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// What is spoken: nothing older.
pub static VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The one provider of algorithms: ring, with rustls' choice of suites, all of which have forward secrecy.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}
