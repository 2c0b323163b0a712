//! Tokens: JSON Web Tokens (RFC 7519) in compact form (RFC 7515 §7.1), signed with HS256, EdDSA, ES256 or RS256.
//!
//! What is read before the signature is verified decides only which issuer and which keys to try. The type of a key decides the
//! algorithm, never the token (RFC 8725 §3.1): an HS256 token is not tried with a public key.

mod issue;
mod issuer;
pub mod jwks;
mod key;
mod parse;

pub use issue::{Grant, SigningKey};
pub use issuer::{Issuer, Verified};
pub(crate) use key::is_pem;
pub use key::{Algorithm, VerifyingKey};
pub use parse::{Claims, Header, TokenError, Unverified, peek};

/// Most bytes of a token; what is longer is not looked at.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
