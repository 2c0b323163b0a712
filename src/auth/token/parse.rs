//! The three parts of a token, read but not verified.

use super::{Algorithm, TOKEN_BYTES_MAX};
use crate::auth::name::shown;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::fmt;

/// Why a token is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenError {
    /// The reason, as a counter's label.
    pub reason: &'static str,
    /// The whole story; what a stranger wrote is shortened and escaped.
    pub detail: String,
}

impl TokenError {
    pub(super) fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for TokenError {}

/// The header (RFC 7515 §4.1). Keys that a token brings along or points to (`jwk`, `jku`, `x5c`, `x5u`) are not looked at. A
/// name that stands there twice is an error.
#[derive(Clone, Debug, Deserialize)]
pub struct Header {
    /// Algorithm.
    pub alg: String,
    /// Type of the whole.
    #[serde(default)]
    pub typ: Option<String>,
    /// Which key.
    #[serde(default)]
    pub kid: Option<String>,
    /// Whether extensions must be understood, whatever they are: none is.
    #[serde(default, deserialize_with = "present")]
    pub crit: bool,
}

/// That there is something, even null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Ok(true)
}

/// One text or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Texts {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Texts {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let all = match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        };
        all.iter().map(String::as_str)
    }
}

/// The claims that are looked at (RFC 7519 §4.1, and two of ours). A name that stands there twice is an error.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Claims {
    /// Who issued it.
    #[serde(default)]
    pub iss: Option<String>,
    /// Whom it is about.
    #[serde(default)]
    pub sub: Option<String>,
    /// Whom it is for.
    #[serde(default)]
    pub aud: Option<Texts>,
    /// When it ends, in seconds since 1970.
    #[serde(default)]
    pub exp: Option<f64>,
    /// Before when it is not to be taken.
    #[serde(default)]
    pub nbf: Option<f64>,
    /// When it was issued.
    #[serde(default)]
    pub iat: Option<f64>,
    /// Tenant.
    #[serde(default)]
    pub tenant: Option<String>,
    /// Roles: an array, or separated by spaces.
    #[serde(default)]
    pub roles: Option<Texts>,
}

/// The one claim that is needed to know who is to be asked.
#[derive(Deserialize)]
struct Issued {
    iss: Option<String>,
}

/// A token in its parts.
#[derive(Clone, Debug)]
pub struct Unverified<'a> {
    /// Its header.
    pub header: Header,
    /// Bytes of its header.
    pub header_json: Vec<u8>,
    /// Bytes of its claims.
    pub claims_json: Vec<u8>,
    /// What is signed.
    pub signed: &'a [u8],
    /// By this.
    pub signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// It is too long, has not three parts of base64url, or its header is no header that is understood.
    pub fn parse(token: &'a [u8]) -> Result<Self, TokenError> {
        let [header, claims, signature] = parts(token)?;
        let header_json = decode(header)?;
        let parsed: Header = json(&header_json, "header")?;
        let unverified = Self {
            header: parsed,
            header_json,
            claims_json: decode(claims)?,
            signed: &token[..header.len() + 1 + claims.len()],
            signature: decode(signature)?,
        };
        unverified.check_header()?;
        Ok(unverified)
    }

    fn check_header(&self) -> Result<(), TokenError> {
        if self.header.crit {
            let detail = "the token's header has crit: extensions that must be understood, and are not";
            return Err(TokenError::new("extension", detail));
        }
        // A token of another type, such as one that says a session is over, is not one to log in with (RFC 8725 §3.11).
        if let Some(typ) = &self.header.typ {
            let typ = typ.to_ascii_lowercase();
            let typ = typ.strip_prefix("application/").unwrap_or(&typ);
            if !matches!(typ, "jwt" | "at+jwt") {
                let detail = format!("the token's typ is `{}`; JWT and at+jwt are taken", shown(typ));
                return Err(TokenError::new("malformed", detail));
            }
        }
        Ok(())
    }

    /// The algorithm its header names.
    ///
    /// # Errors
    /// It is none of ours; `none` is no algorithm.
    pub fn algorithm(&self) -> Result<Algorithm, TokenError> {
        Algorithm::parse(&self.header.alg).ok_or_else(|| {
            let detail = format!("the token's alg is `{}`, which is not taken", shown(&self.header.alg));
            TokenError::new("algorithm", detail)
        })
    }

    /// Who it says issued it.
    ///
    /// # Errors
    /// It does not say, or the claims are no JSON object.
    pub fn issuer(&self) -> Result<String, TokenError> {
        let issued: Issued = json(&self.claims_json, "claims")?;
        issued.iss.ok_or_else(|| TokenError::new("unknown-issuer", "the token does not say who issued it (iss)"))
    }

    /// All its claims.
    ///
    /// # Errors
    /// One is of the wrong type or there twice, or they are no JSON object.
    pub fn claims(&self) -> Result<Claims, TokenError> {
        json(&self.claims_json, "claims")
    }
}

/// Reads an object. An error tells the place and not the value.
fn json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, TokenError> {
    let malformed = |detail: String| TokenError::new("malformed", detail);
    // A struct may be read from an array, too, which no token is.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(malformed(format!("the token's {what} are no JSON object")));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let text = error.to_string();
        let why = match error.classify() {
            serde_json::error::Category::Data if text.starts_with("duplicate field") => "a name stands there twice",
            serde_json::error::Category::Data => "a value is missing or of the wrong type",
            _ => "it is no JSON",
        };
        malformed(format!("the token's {what} cannot be read at byte {}: {why}", error.column()))
    })
}

/// The header and the claims of any token, to look at: nothing is verified, and of a name that stands there twice the last is
/// shown.
///
/// # Errors
/// It is too long, or has not three parts of which two are JSON objects.
pub fn peek(token: &[u8]) -> Result<(Value, Value), TokenError> {
    let [header, claims, _] = parts(token)?;
    let object = |part: &[u8], what: &str| {
        let value: Value = json(&decode(part)?, what)?;
        Ok(value)
    };
    Ok((object(header, "header")?, object(claims, "claims")?))
}

/// The three parts.
fn parts(token: &[u8]) -> Result<[&[u8]; 3], TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        let detail = format!("the token has {} bytes; at most {TOKEN_BYTES_MAX} are looked at", token.len());
        return Err(TokenError::new("too-large", detail));
    }
    let mut parts = token.split(|b| *b == b'.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(claims), Some(signature), None) => Ok([header, claims, signature]),
        _ => Err(TokenError::new("malformed", "the token has not three parts with dots between them")),
    }
}

fn decode(part: &[u8]) -> Result<Vec<u8>, TokenError> {
    let wrong = |_| TokenError::new("malformed", "a part of the token is not base64url without padding");
    URL_SAFE_NO_PAD.decode(part).map_err(wrong)
}
