//! One issuer: whose tokens are believed, by which keys, for how long, and what they may say.

use super::jwks::{self, Listed};
use super::key::{Algorithm, VerifyingKey, looks_public};
use super::parse::{Claims, TokenError, Unverified};
use crate::auth::error::setting;
use crate::auth::file;
use crate::auth::name::{NAME, is_name, shown};
use crate::auth::secret;
use crate::config::{IssuerSettings, Problem};
use crate::model::Wall;
use std::ffi::OsString;
use std::path::Path;

/// Most keys tried for a token that does not say which.
const KEYS_MAX: usize = 32;

/// Somebody whose tokens are believed.
#[derive(Debug)]
pub struct Issuer {
    name: Box<str>,
    algorithms: Vec<Algorithm>,
    keys: Vec<Listed>,
    audiences: Vec<Box<str>>,
    leeway_ms: u64,
    /// `None` takes it from the claim.
    tenant: Option<Box<str>>,
    roles: Vec<Box<str>>,
}

/// What a token proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The claim `sub`.
    pub name: Box<str>,
    /// The issuer's tenant, or that of the claim; empty for none.
    pub tenant: Box<str>,
    /// Those of the claim that the issuer may give.
    pub roles: Vec<Box<str>>,
    /// The claim `exp` and the leeway.
    pub expires: Wall,
}

impl Issuer {
    /// Reads the keys of an issuer; `index` is its place in the list, for messages.
    ///
    /// # Errors
    /// Every key that cannot be used, with its source.
    pub fn load(
        settings: &IssuerSettings,
        index: usize,
        base: &Path,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let algorithms: Vec<Algorithm> = settings.algorithms.iter().filter_map(|name| Algorithm::parse(name)).collect();
        let mut keys: Vec<Listed> = Vec::new();
        for (i, source) in settings.keys.iter().enumerate() {
            match from_source(source, &algorithms, base, env) {
                Ok(found) => keys.extend(found.into_iter().map(|key| Listed { kid: None, key })),
                Err(message) => problems.push(setting(format!("issuers[{index}].keys[{i}]"), message)),
            }
        }
        if let Some(path) = &settings.jwks {
            let path = base.join(path);
            match from_set(&path, &algorithms) {
                Ok(found) => keys.extend(found),
                Err(message) => {
                    problems.push(setting(format!("issuers[{index}].jwks"), format!("{}: {message}", path.display())));
                }
            }
        }
        if problems.is_empty() {
            for algorithm in &algorithms {
                if !keys.iter().any(|listed| listed.key.algorithm() == *algorithm) {
                    let message = format!("found no key for {algorithm}; expected one, or the algorithm left out");
                    problems.push(setting(format!("issuers[{index}].algorithms"), message));
                }
            }
        }
        if keys.iter().filter(|listed| listed.kid.is_none()).count() > KEYS_MAX {
            let message = format!("found more than {KEYS_MAX} keys without an id; expected at most so many");
            problems.push(setting(format!("issuers[{index}].keys"), message));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            name: settings.name.as_str().into(),
            algorithms,
            keys,
            audiences: settings.audiences.iter().map(|audience| audience.as_str().into()).collect(),
            leeway_ms: u64::from(settings.leeway_ms),
            tenant: (settings.tenant != "{claim}").then(|| settings.tenant.as_str().into()),
            roles: settings.roles.iter().map(|role| role.as_str().into()).collect(),
        })
    }

    /// The claim `iss` of its tokens.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Verifies a token of this issuer. Whether the tenant exists is the caller's to know.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(&self, token: &Unverified<'_>, now: Wall) -> Result<Verified, TokenError> {
        let algorithm = token.algorithm()?;
        if !self.algorithms.contains(&algorithm) {
            let detail = format!("the token is signed with {algorithm}, which this issuer is not believed with");
            return Err(TokenError::new("algorithm", detail));
        }
        self.verify_signature(token, algorithm)?;
        let claims = token.claims()?;
        if claims.iss.as_deref() != Some(&*self.name) {
            return Err(TokenError::new("unknown-issuer", "the token is of another issuer"));
        }
        let audience = claims.aud.as_ref();
        if !audience.is_some_and(|texts| texts.iter().any(|text| self.audiences.iter().any(|own| **own == *text))) {
            let found = audience.and_then(|texts| texts.iter().next()).unwrap_or_default();
            let detail = format!("the token is for the audience `{}`", shown(found));
            return Err(TokenError::new("wrong-audience", detail));
        }
        let expires = self.verify_times(&claims, now)?;
        self.who(&claims, expires)
    }

    fn verify_signature(&self, token: &Unverified<'_>, algorithm: Algorithm) -> Result<(), TokenError> {
        let fitting = || self.keys.iter().filter(|listed| listed.key.algorithm() == algorithm);
        let kid = token.header.kid.as_deref();
        // The key of that id, if there is one; else those without an id, such as PEM files have.
        let named = kid.is_some_and(|kid| fitting().any(|listed| listed.kid.as_deref() == Some(kid)));
        let mut tried = 0;
        for listed in fitting() {
            let candidate = match (kid, listed.kid.as_deref()) {
                (None, _) => true,
                (Some(kid), own) if named => own == Some(kid),
                (Some(_), own) => own.is_none(),
            };
            if candidate {
                tried += 1;
                if listed.key.verifies(token.signed, &token.signature) {
                    return Ok(());
                }
            }
        }
        if tried == 0 {
            let detail = format!("the issuer has no {algorithm} key of the id `{}`", shown(kid.unwrap_or_default()));
            return Err(TokenError::new("unknown-kid", detail));
        }
        Err(TokenError::new("bad-signature", format!("no {algorithm} key of the issuer made the token's signature")))
    }

    /// When it ends, by its own word and the leeway (RFC 7519 §4.1.4 to 6).
    fn verify_times(&self, claims: &Claims, now: Wall) -> Result<Wall, TokenError> {
        let time = |seconds: f64| {
            // Saturating: far before 1970 is 1970, far in the future is the end of time.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
            let ms = (seconds * 1_000.0) as u64;
            Wall(ms)
        };
        let Some(exp) = claims.exp else {
            return Err(TokenError::new("no-expiry", "the token does not say when it ends (exp)"));
        };
        let expires = time(exp).plus_ms(self.leeway_ms);
        if now >= expires {
            let late = now.ms_since(expires) / 1_000;
            return Err(TokenError::new("expired", format!("the token ended {late} s before now and the leeway")));
        }
        let latest = now.plus_ms(self.leeway_ms);
        if claims.nbf.is_some_and(|nbf| time(nbf) > latest) {
            return Err(TokenError::new("not-yet-valid", "the token is not valid yet (nbf)"));
        }
        if claims.iat.is_some_and(|iat| time(iat) > latest) {
            return Err(TokenError::new("not-yet-valid", "the token was issued in the future (iat)"));
        }
        Ok(expires)
    }

    fn who(&self, claims: &Claims, expires: Wall) -> Result<Verified, TokenError> {
        let name = claims.sub.as_deref().unwrap_or_default();
        if !is_name(name) {
            let detail = format!("the token's subject (sub) is `{}`; expected {NAME}", shown(name));
            return Err(TokenError::new("name", detail));
        }
        let tenant = match (&self.tenant, claims.tenant.as_deref()) {
            (Some(tenant), _) => tenant.clone(),
            // An empty one would be the space outside all tenants.
            (None, Some(tenant)) if is_name(tenant) => tenant.into(),
            (None, _) => return Err(TokenError::new("unknown-tenant", "the token names no tenant")),
        };
        let named: Vec<&str> = match &claims.roles {
            Some(texts) => texts.iter().flat_map(str::split_ascii_whitespace).collect(),
            None => Vec::new(),
        };
        let roles = self.roles.iter().filter(|role| named.contains(&&***role)).cloned().collect();
        Ok(Verified { name: name.into(), tenant, roles, expires })
    }
}

/// Keys of a source: a secret of HS256 or public keys, by what is in it.
fn from_source(
    source: &str,
    algorithms: &[Algorithm],
    base: &Path,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Vec<VerifyingKey>, String> {
    let (bytes, file) = secret::read(source, base, env).map_err(|error| error.to_string())?;
    let told = |message: String| format!("{source}: {message}");
    let hs256 = algorithms.contains(&Algorithm::Hs256);
    let only_hs256 = algorithms.iter().all(|algorithm| *algorithm == Algorithm::Hs256);
    if only_hs256 || (hs256 && !looks_public(&bytes)) {
        let key = VerifyingKey::secret(&bytes).map_err(told)?;
        if let Some((path, mode)) = file {
            file::check_secret_mode(&path, mode).map_err(|refused| told(refused.0))?;
        }
        return Ok(vec![key]);
    }
    let keys = VerifyingKey::public(&bytes).map_err(told)?;
    for key in &keys {
        if !algorithms.contains(&key.algorithm()) {
            let algorithm = key.algorithm();
            return Err(told(format!("found a key for {algorithm}; expected {algorithm} among algorithms")));
        }
    }
    Ok(keys)
}

/// Keys of a set; one with secrets must not be read by others.
fn from_set(path: &Path, algorithms: &[Algorithm]) -> Result<Vec<Listed>, String> {
    let contents = file::read(path, jwks::FILE_BYTES_MAX).map_err(|refused| refused.0)?;
    let set = jwks::parse(&contents.bytes, algorithms)?;
    if set.secret {
        file::check_secret_mode(path, contents.mode).map_err(|refused| refused.0)?;
    }
    Ok(set.keys)
}
