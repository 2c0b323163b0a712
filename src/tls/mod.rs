//! TLS over any stream: the stream itself, what is in certificate files, the client's side, and every refusal in words.
//!
//! rustls on ring, TLS 1.2 and 1.3, suites with forward secrecy only. The listener's side is in `transport/tls.rs`.

mod connector;
mod explain;
mod facts;
mod pem;
mod stream;

pub use connector::{Connector, Trust, handshake};
pub use explain::{Side, TlsError, blame, explain, explain_io};
pub use facts::{CertificateFacts, CrlFacts, KeyFacts, day, serial_text, signed_by};
pub use pem::{FILE_BYTES_MAX, Part, PemError, certificates, parts, private_key, revocation_lists};
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

/// The one provider of algorithms: ring, with rustls' choice of suites, all of which have forward secrecy. The listener's order
/// decides: where this machine computes AES by itself, AES first, else ChaCha20.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        let mut provider = rustls::crypto::ring::default_provider();
        if !has_aes() {
            // Stable: all others keep their order.
            provider.cipher_suites.sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("CHACHA20"));
        }
        Arc::new(provider)
    };
    Arc::clone(PROVIDER.get_or_init(make))
}

/// Whether the processor has instructions for AES, as far as it can be asked.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}
