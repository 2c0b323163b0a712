//! Keys that verify tokens: each of one algorithm, which its own type decides.

use crate::auth::keys::PublicKey;
use crate::seal::KEY_BYTES;
use ring::{hmac, signature};
use rustls::pki_types::pem::{PemObject, SectionKind};
use std::fmt;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Fewest bytes of a secret of HS256 (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Fewest bits of an RSA key (RFC 7518 §3.3).
pub const RSA_BITS_MIN: usize = 2_048;
/// Most bits of an RSA key: what ring takes, and what verifying may cost.
const RSA_BITS_MAX: usize = 8_192;

/// An algorithm of signatures (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    /// Of its name in a header, which is compared exactly.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            // RFC 9864 §2.2 names the curve.
            "EdDSA" | "Ed25519" => Self::EdDsa,
            "ES256" => Self::Es256,
            "RS256" => Self::Rs256,
            _ => return None,
        })
    }

    /// Its name in a header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A key that verifies.
#[derive(Clone)]
pub enum VerifyingKey {
    /// A secret of HS256.
    Secret(hmac::Key),
    /// A public key of Ed25519.
    Ed25519(PublicKey),
    /// A point of P-256, uncompressed.
    P256([u8; 65]),
    /// A public key of RSA.
    Rsa(RsaKey),
}

/// A public key of RSA, as big-endian numbers without leading zeros.
#[derive(Clone)]
pub struct RsaKey {
    n: Vec<u8>,
    e: Vec<u8>,
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.algorithm())
    }
}

impl VerifyingKey {
    /// The one algorithm it is for.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Secret(_) => Algorithm::Hs256,
            Self::Ed25519(_) => Algorithm::EdDsa,
            Self::P256(_) => Algorithm::Es256,
            Self::Rsa(_) => Algorithm::Rs256,
        }
    }

    /// Takes a secret of HS256.
    ///
    /// # Errors
    /// It is too short, or it looks like a public key: whoever has that could sign.
    pub fn secret(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "found {} bytes; expected a secret of HS256 of at least {SECRET_BYTES_MIN}",
                bytes.len()
            ));
        }
        if looks_public(bytes) {
            return Err("found a public key; expected a secret for HS256, which nobody else knows".into());
        }
        Ok(Self::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// Reads public keys: PEM with `PUBLIC KEY` (one or several), or a line `ed25519:BASE64`.
    ///
    /// # Errors
    /// What was found and what was expected.
    pub fn public(bytes: &[u8]) -> Result<Vec<Self>, String> {
        if let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.starts_with("ed25519:")) {
            return PublicKey::parse(text.trim_end()).map(|key| vec![Self::Ed25519(key)]).map_err(|e| e.to_string());
        }
        let expected = "expected PEM with PUBLIC KEY";
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
            match section.map_err(|_| format!("found PEM that cannot be read; {expected}"))? {
                (SectionKind::PublicKey, der) => keys.push(Self::spki(&der)?),
                (SectionKind::Certificate, _) => {
                    return Err(format!("found a certificate; {expected}: openssl x509 -pubkey -noout -in FILE"));
                }
                (SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey, _) => {
                    return Err(format!(
                        "found a private key, which only the issuer should have; {expected}: openssl pkey -pubout -in FILE"
                    ));
                }
                _ => return Err(format!("found PEM of another kind; {expected}")),
            }
        }
        if keys.is_empty() { Err(format!("found no PEM; {expected}")) } else { Ok(keys) }
    }

    /// Reads a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    ///
    /// # Errors
    /// It is none, or of a kind that no algorithm of ours takes.
    pub fn spki(der: &[u8]) -> Result<Self, String> {
        let (rest, info) =
            SubjectPublicKeyInfo::from_der(der).map_err(|_| "found a public key that cannot be read".to_owned())?;
        if !rest.is_empty() {
            return Err("found bytes behind a public key".into());
        }
        let kinds = "expected Ed25519, P-256 or RSA";
        let algorithm = info.algorithm.algorithm.to_id_string();
        let curve = || info.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|oid| oid.to_id_string());
        match algorithm.as_str() {
            // RFC 8410 §3.
            "1.3.101.112" => Self::ed25519(&info.subject_public_key.data),
            // RFC 5480 §2.1.1.
            "1.2.840.10045.2.1" if curve().as_deref() == Some("1.2.840.10045.3.1.7") => {
                Self::p256(&info.subject_public_key.data)
            }
            "1.2.840.10045.2.1" => Err(format!("found a key of another curve; {kinds}")),
            // RFC 8017 §A.1.
            "1.2.840.113549.1.1.1" => match info.parsed() {
                Ok(Parsed::RSA(rsa)) => Self::rsa(rsa.modulus, rsa.exponent),
                _ => Err(format!("found a key of RSA that cannot be read; {kinds}")),
            },
            _ => Err(format!("found a public key of another kind; {kinds}")),
        }
    }

    /// Takes the bytes of an Ed25519 key.
    pub(super) fn ed25519(bytes: &[u8]) -> Result<Self, String> {
        let key = <[u8; KEY_BYTES]>::try_from(bytes);
        let key = key.map_err(|_| format!("found {} bytes of an Ed25519 key; expected {KEY_BYTES}", bytes.len()))?;
        Ok(Self::Ed25519(PublicKey::from_bytes(key)))
    }

    /// Takes an uncompressed point.
    pub(super) fn p256(point: &[u8]) -> Result<Self, String> {
        match <[u8; 65]>::try_from(point) {
            Ok(point) if point[0] == 4 => Ok(Self::P256(point)),
            _ => Err("found a compressed point; expected a P-256 key with both its numbers".into()),
        }
    }

    /// Takes a modulus and an exponent, with or without leading zeros.
    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Result<Self, String> {
        let strip = |number: &[u8]| {
            let zeros = number.iter().take_while(|b| **b == 0).count();
            number[zeros..].to_vec()
        };
        let (n, e) = (strip(n), strip(e));
        let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(format!("found an RSA key of {bits} bits; expected {RSA_BITS_MIN} to {RSA_BITS_MAX}"));
        }
        // As ring and RFC 8017 §3.1: odd, at least 3, and no more than 33 bits.
        let fits = e.len() <= 4 && e.last().is_some_and(|last| last % 2 == 1) && e != [1];
        if !fits {
            return Err("found an RSA key with an exponent that is even, 1 or too large; expected 65537".into());
        }
        Ok(Self::Rsa(RsaKey { n, e }))
    }

    /// Whether a signature is this key's. MACs are compared in constant time.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Ed25519(key) => key.verifies(message, signature),
            Self::P256(point) => signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
                .is_ok(),
            Self::Rsa(RsaKey { n, e }) => signature::RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
        }
    }
}

/// Whether bytes are PEM, whatever is in it.
pub(crate) fn is_pem(bytes: &[u8]) -> bool {
    bytes.windows(10).any(|window| window.eq_ignore_ascii_case(b"-----BEGIN"))
}

/// Whether bytes are a public key in any usual form, or something else that is no secret.
pub(super) fn looks_public(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    let begins = |what: &[u8]| text.get(..what.len()).is_some_and(|start| start.eq_ignore_ascii_case(what));
    is_pem(bytes)
        || [&b"ssh-"[..], b"ecdsa-sha2-", b"ed25519:"].into_iter().any(begins)
        || SubjectPublicKeyInfo::from_der(bytes).is_ok()
        || x509_parser::parse_x509_certificate(bytes).is_ok()
        || serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(text)
            .is_ok_and(|object| object.contains_key("kty") || object.contains_key("keys"))
}
