//! Making tokens, for tests, scripts and small sites that are their own issuer.

use super::key::{Algorithm, looks_public};
use crate::auth::keys::{self, SigningKey as Ed25519Key};
use crate::auth::secret::Secret;
use crate::model::Wall;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SecureRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use ring::{hmac, signature};
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde_json::{Map, Value, json};
use std::fmt;
use zeroize::Zeroizing;

/// A key that signs tokens, of one algorithm.
pub enum SigningKey {
    /// HS256.
    Secret(hmac::Key),
    /// EdDSA.
    Ed25519(Ed25519Key),
    /// ES256.
    P256(EcdsaKeyPair),
    /// RS256.
    Rsa(Box<RsaKeyPair>),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.algorithm())
    }
}

/// What a token says.
#[derive(Clone, Debug, Default)]
pub struct Grant<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `sub`.
    pub subject: &'a str,
    /// `aud`.
    pub audiences: &'a [String],
    /// `tenant`.
    pub tenant: Option<&'a str>,
    /// `roles`.
    pub roles: &'a [String],
    /// `iat` and `nbf`.
    pub issued: Wall,
    /// `exp`.
    pub expires: Wall,
    /// `kid`.
    pub kid: Option<&'a str>,
}

impl SigningKey {
    /// Reads a key for an algorithm: for HS256 the secret itself, else PEM with a `PRIVATE KEY` (PKCS#8).
    ///
    /// # Errors
    /// What was found and what was expected, without the key.
    pub fn parse(algorithm: Algorithm, key: &Secret, random: &dyn SecureRandom) -> Result<Self, String> {
        let bytes = key.expose();
        if algorithm == Algorithm::Hs256 {
            super::key::VerifyingKey::secret(bytes)?;
            return Ok(Self::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes)));
        }
        if algorithm == Algorithm::EdDsa {
            return keys::signing_key(bytes).map(Self::Ed25519);
        }
        let expected =
            format!("expected a private key for {algorithm} in PKCS#8: openssl pkcs8 -topk8 -nocrypt -in FILE");
        let der = match <(SectionKind, Vec<u8>)>::from_pem_slice(bytes) {
            Ok((SectionKind::PrivateKey, der)) => Zeroizing::new(der),
            Ok((_, other)) => {
                drop(Zeroizing::new(other));
                return Err(format!("found PEM of another kind; {expected}"));
            }
            Err(_) if looks_public(bytes) => return Err(format!("found a public key; {expected}")),
            Err(_) => return Err(format!("found no PEM; {expected}")),
        };
        let wrong = |_| format!("found a key of another kind; {expected}");
        if algorithm == Algorithm::Es256 {
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, random).map(Self::P256).map_err(wrong)
        } else {
            RsaKeyPair::from_pkcs8(&der).map(|pair| Self::Rsa(Box::new(pair))).map_err(wrong)
        }
    }

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

    /// Makes a token.
    ///
    /// # Errors
    /// There is no randomness, or the key cannot sign.
    pub fn issue(&self, grant: &Grant<'_>, random: &dyn SecureRandom) -> Result<String, String> {
        let mut header = json!({"alg": self.algorithm().name(), "typ": "JWT"});
        if let Some(kid) = grant.kid {
            header["kid"] = kid.into();
        }
        let (issued, expires) = (grant.issued.0 / 1_000, grant.expires.0 / 1_000);
        let mut claims = Map::new();
        claims.insert("iss".into(), grant.issuer.into());
        claims.insert("sub".into(), grant.subject.into());
        claims.insert(
            "aud".into(),
            match grant.audiences {
                [one] => one.as_str().into(),
                several => several.into(),
            },
        );
        claims.insert("iat".into(), issued.into());
        claims.insert("nbf".into(), issued.into());
        claims.insert("exp".into(), expires.into());
        if let Some(tenant) = grant.tenant {
            claims.insert("tenant".into(), tenant.into());
        }
        if !grant.roles.is_empty() {
            claims.insert("roles".into(), grant.roles.into());
        }
        self.sign(&header, &Value::Object(claims), random)
    }

    /// Signs any header and claims.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn sign(&self, header: &Value, claims: &Value, random: &dyn SecureRandom) -> Result<String, String> {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut token = format!("{}.{}", encode(header), encode(claims));
        let failed = |_| "the key cannot sign".to_owned();
        let message = token.as_bytes();
        let signature = match self {
            Self::Secret(key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Ed25519(key) => key.sign_bytes(message).to_vec(),
            Self::P256(pair) => pair.sign(random, message).map_err(failed)?.as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let encoding: &'static dyn signature::RsaEncoding = &RSA_PKCS1_SHA256;
                pair.sign(encoding, random, message, &mut signature).map_err(failed)?;
                signature
            }
        };
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Ok(token)
    }
}
