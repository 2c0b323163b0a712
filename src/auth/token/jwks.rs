//! JSON Web Key Sets (RFC 7517): the public keys of an issuer, or secrets of HS256 in a file that nobody else may read.

use super::key::{Algorithm, VerifyingKey};
use crate::auth::name::shown;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

/// Most keys of a set.
pub const KEYS_MAX: usize = 64;
/// Most bytes of a set.
pub const FILE_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of the id of a key.
const KID_BYTES_MAX: usize = 256;

/// A key of a set.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its id.
    pub kid: Option<Box<str>>,
    /// The key.
    pub key: VerifyingKey,
}

/// What was read.
#[derive(Debug)]
pub struct Set {
    /// Keys that can be used.
    pub keys: Vec<Listed>,
    /// Whether it holds secrets.
    pub secret: bool,
}

#[derive(Deserialize)]
struct File {
    keys: Vec<Jwk>,
}

/// A key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    k: Option<String>,
    #[serde(default)]
    d: Option<String>,
}

impl Drop for Jwk {
    fn drop(&mut self) {
        self.k.zeroize();
        self.d.zeroize();
    }
}

/// Reads a set. Keys of other kinds, for encryption or of algorithms that are not `taken` are left out (RFC 7517 §5).
///
/// # Errors
/// It is no set, a key of ours is damaged, or it holds a private key.
pub fn parse(json: &[u8], taken: &[Algorithm]) -> Result<Set, String> {
    let file: File = serde_json::from_slice(json).map_err(|error| {
        // Of the error only the place: its text may show a secret.
        let (line, column) = (error.line(), error.column());
        format!(
            "found something else in line {line}, column {column}; expected a JSON Web Key Set: {{\"keys\": [...]}}"
        )
    })?;
    if file.keys.len() > KEYS_MAX {
        return Err(format!("found {} keys; expected at most {KEYS_MAX}", file.keys.len()));
    }
    let mut set = Set { keys: Vec::new(), secret: false };
    for (index, jwk) in file.keys.iter().enumerate() {
        set.secret |= jwk.kty == "oct";
        let kid = jwk.kid.as_deref();
        let told = |message: String| match kid {
            Some(kid) => format!("keys[{index}] (kid `{}`): {message}", shown(kid)),
            None => format!("keys[{index}]: {message}"),
        };
        if jwk.d.is_some() {
            return Err(told(
                "found a private key, which only the issuer should have; expected its public half".into(),
            ));
        }
        if kid.is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err(told(format!("found a kid of more than {KID_BYTES_MAX} bytes; expected at most so many")));
        }
        let Some(algorithm) = jwk.algorithm() else { continue };
        let signs = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
            && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"))
            && jwk.alg.as_deref().is_none_or(|name| Algorithm::parse(name) == Some(algorithm));
        if !signs || !taken.contains(&algorithm) {
            continue;
        }
        set.keys.push(Listed { kid: kid.map(Into::into), key: jwk.key(algorithm).map_err(told)? });
    }
    Ok(set)
}

impl Jwk {
    /// The algorithm of ours that it is a key of.
    fn algorithm(&self) -> Option<Algorithm> {
        Some(match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => Algorithm::Hs256,
            ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
            ("EC", Some("P-256")) => Algorithm::Es256,
            ("RSA", _) => Algorithm::Rs256,
            _ => return None,
        })
    }

    fn key(&self, algorithm: Algorithm) -> Result<VerifyingKey, String> {
        let bytes = |name: &str, value: &Option<String>| {
            let value = value.as_ref().ok_or_else(|| format!("found no `{name}`; expected one"))?;
            let decoded = URL_SAFE_NO_PAD.decode(value.trim_end_matches('='));
            decoded.map(Zeroizing::new).map_err(|_| format!("found `{name}` that is not base64url; expected it so"))
        };
        match algorithm {
            Algorithm::Hs256 => VerifyingKey::secret(&bytes("k", &self.k)?),
            Algorithm::EdDsa => VerifyingKey::ed25519(&bytes("x", &self.x)?),
            Algorithm::Rs256 => VerifyingKey::rsa(&bytes("n", &self.n)?, &bytes("e", &self.e)?),
            Algorithm::Es256 => {
                let (x, y) = (bytes("x", &self.x)?, bytes("y", &self.y)?);
                if x.len() != 32 || y.len() != 32 {
                    return Err("found `x` and `y` of other lengths; expected 32 bytes each".into());
                }
                let mut point = vec![4];
                point.extend_from_slice(&x);
                point.extend_from_slice(&y);
                VerifyingKey::p256(&point)
            }
        }
    }
}
