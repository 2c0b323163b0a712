//! The judge of credentials: what was read at start or reload, asked for each login.

use super::error::{AuthError, setting};
use super::file;
use super::identities::{self, Identity, Index, Known, Proof};
use super::keys::PublicKey;
use super::name::{is_name, shown};
use super::password::{Hashed, PASSWORD_BYTES_MAX};
use super::secret;
use super::token::{Issuer, TokenError, Unverified};
use crate::config::{Problem, Settings, SignatureSettings};
use crate::model::Wall;
use crate::model::limits::NAME_BYTES_MAX;
use crate::seal::{KEY_BYTES, SIGNATURE_BYTES};
use crate::session::{AUTH_CONTEXT, Attempt, Denied, Method, NONCE_BYTES, Peer, Principal, REAUTH_CONTEXT};
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Most bytes of a name at login: a tenant, a slash and a name.
const LOGIN_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 1;

/// Knows every identity and every issuer. It never changes: a reload makes another.
#[derive(Debug)]
pub struct Authenticator {
    identities: Index,
    /// What unknown users are tried with: as costly as the costliest there is. `None` without passwords.
    pub(super) dummy: Option<Hashed>,
    issuers: Vec<Issuer>,
    tenants: HashSet<Box<str>>,
    files: Vec<PathBuf>,
}

impl Authenticator {
    /// Reads what the settings name; relative paths are inside `base`, the data folder.
    ///
    /// # Errors
    /// Every mistake of every file, with its line, and every key that cannot be used.
    pub fn load(settings: &Settings, base: &Path) -> Result<Self, AuthError> {
        Self::load_with(settings, base, &|name| std::env::var_os(name))
    }

    /// As [`Self::load`], with an environment of the caller's.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(
        settings: &Settings,
        base: &Path,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, AuthError> {
        let mut problems: Vec<Problem> = Vec::new();
        let mut identities = Index::default();
        if let Some(path) = &settings.auth.identities {
            match read_identities(&base.join(path), Some(&Known::of(settings))) {
                Ok(found) => identities = Index::new(found),
                Err(error) => problems.extend(error.problems),
            }
        }
        let mut issuers = Vec::new();
        for (index, issuer) in settings.issuers.iter().enumerate() {
            match Issuer::load(issuer, index, base, env) {
                Ok(issuer) => issuers.push(issuer),
                Err(found) => problems.extend(found),
            }
        }
        let hashes = identities.identities().iter().filter_map(|identity| match &identity.proof {
            Proof::Password(hash) => Some(hash),
            _ => None,
        });
        let dummy = hashes.max_by_key(|hash| hash.work()).map(Hashed::dummy_like);
        let tenants = settings.tenants.iter().map(|tenant| tenant.name.as_str().into()).collect();
        let files = files(settings, base, env);
        let authenticator = Self { identities, dummy, issuers, tenants, files };
        if problems.is_empty() {
            for (index, rule) in settings.signatures.iter().enumerate() {
                if let Err(message) = authenticator.signers(rule) {
                    problems.push(setting(format!("signatures[{index}].keys"), message));
                }
            }
        }
        if problems.is_empty() { Ok(authenticator) } else { Err(AuthError { problems }) }
    }

    /// Files it was read from: when one changes it is to be read again.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether anybody could come in by this method.
    #[must_use]
    pub fn takes(&self, method: Method) -> bool {
        let any = |kind: fn(&Proof) -> bool| self.identities.identities().iter().any(|identity| kind(&identity.proof));
        match method {
            Method::None => false,
            Method::Token => !self.issuers.is_empty(),
            Method::Password => self.dummy.is_some(),
            Method::Key => any(|proof| matches!(proof, Proof::Key(_))),
            Method::Transport => any(|proof| matches!(proof, Proof::Certificate(_) | Proof::User(_))),
        }
    }

    /// The public keys of a rule of signatures: `ed25519:BASE64`, or the name of a key of the rule's tenant.
    ///
    /// # Errors
    /// A key that cannot be read, or a name that no key has.
    pub fn signers(&self, rule: &SignatureSettings) -> Result<Vec<PublicKey>, String> {
        let one = |text: &String| {
            if text.starts_with(super::keys::PUBLIC_PREFIX) {
                return PublicKey::parse(text).map_err(|error| error.to_string());
            }
            match self.identities.key_named(&rule.tenant, text).map(|identity| &identity.proof) {
                Some(Proof::Key(key)) => Ok(*key),
                // A private key in its place is not repeated.
                _ => {
                    let found = if text.contains(':') { "something else".into() } else { format!("`{}`", shown(text)) };
                    Err(format!("found {found}; expected ed25519:BASE64 or the name of a key in auth.identities"))
                }
            }
        };
        rule.keys.iter().map(one).collect()
    }

    /// Judges credentials. A password takes tens of milliseconds and megabytes (`auth::password`): one at a time, and not on
    /// the broker's thread.
    ///
    /// # Errors
    /// Why they are not taken, for the log and the counters; the peer is told only that they are not.
    pub fn check(&self, now: Wall, attempt: &Attempt) -> Result<Principal, Denied> {
        match attempt.method {
            Method::None => Err(denied("no-credentials", "nothing was shown")),
            Method::Token => self.token(now, &attempt.data),
            Method::Password => self.password(now, &attempt.data),
            Method::Key => self.key(now, attempt),
            Method::Transport => self.transport(now, &attempt.peer),
        }
    }

    fn key(&self, now: Wall, attempt: &Attempt) -> Result<Principal, Denied> {
        let Some((key, signature)) =
            attempt.data.split_at_checked(KEY_BYTES).filter(|(_, signature)| signature.len() == SIGNATURE_BYTES)
        else {
            return Err(denied("malformed", "a key is shown with 32 bytes of it and 64 of a signature"));
        };
        let key = PublicKey::from_bytes(key.try_into().map_err(|_| denied("malformed", "a key has 32 bytes"))?);
        let Some(identity) = self.identities.key(&key) else {
            return Err(denied("unknown-key", format!("nobody has the key {key}")));
        };
        let context = if attempt.again { REAUTH_CONTEXT } else { AUTH_CONTEXT };
        let mut message = Vec::with_capacity(context.len() + NONCE_BYTES);
        message.extend_from_slice(context);
        message.extend_from_slice(&attempt.nonce);
        if !key.verifies(&message, signature) {
            let detail =
                format!("the signature is not of this connection's challenge and the key of `{}`", identity.name);
            return Err(denied("bad-signature", detail));
        }
        admit(now, identity, &identity.name, Method::Key, None)
    }

    fn token(&self, now: Wall, data: &[u8]) -> Result<Principal, Denied> {
        if self.issuers.is_empty() {
            return Err(denied("not-configured", "no issuer of tokens is configured"));
        }
        let refused = |TokenError { reason, detail }| Denied { reason, detail };
        let token = Unverified::parse(data).map_err(refused)?;
        let name = token.issuer().map_err(refused)?;
        let Some(issuer) = self.issuers.iter().find(|issuer| issuer.name() == name) else {
            return Err(denied("unknown-issuer", format!("tokens of `{}` are not believed", shown(&name))));
        };
        let verified = issuer.verify(&token, now).map_err(refused)?;
        if !verified.tenant.is_empty() && !self.tenants.contains(&verified.tenant) {
            let detail =
                format!("the token of `{}` names the tenant `{}`, which is none", verified.name, verified.tenant);
            return Err(denied("unknown-tenant", detail));
        }
        Ok(Principal {
            name: verified.name,
            tenant: verified.tenant,
            roles: verified.roles,
            method: Method::Token,
            expires: Some(verified.expires),
            admin: false,
        })
    }

    fn password(&self, now: Wall, data: &[u8]) -> Result<Principal, Denied> {
        let Some(dummy) = &self.dummy else {
            return Err(denied("not-configured", "nobody has a password"));
        };
        let malformed = || denied("malformed", "a password comes as a name and a password, two postcard byte strings");
        let ((name, password), rest): ((&[u8], &[u8]), _) = postcard::take_from_bytes(data).map_err(|_| malformed())?;
        if !rest.is_empty() || name.len() > LOGIN_BYTES_MAX || password.len() > PASSWORD_BYTES_MAX {
            return Err(malformed());
        }
        let login = std::str::from_utf8(name).map_err(|_| malformed())?;
        // A wrong name costs what a wrong password costs: the time does not tell whether somebody is there.
        let found = self.identities.password(login);
        let hash = found.map_or(dummy, |(_, hash)| hash);
        let fits = hash.fits(password);
        match found {
            Some((identity, _)) if fits => admit(now, identity, &identity.name, Method::Password, None),
            Some((identity, _)) => {
                Err(denied("wrong-password", format!("the password is not that of `{}`", identity.name)))
            }
            None => Err(denied("unknown-user", format!("nobody with a password is called `{}`", shown(login)))),
        }
    }

    fn transport(&self, now: Wall, peer: &Peer) -> Result<Principal, Denied> {
        match peer {
            Peer::Unix { admin: true, .. } => Ok(Principal::local_admin()),
            Peer::Bridge { name, tenant } => Ok(Principal::bridge(name, tenant)),
            Peer::Unix { uid, .. } => match self.identities.user(*uid) {
                Some(identity) => admit(now, identity, &identity.name, Method::Transport, None),
                None => Err(denied("unknown-user", format!("no line names the user {uid} of this machine"))),
            },
            Peer::Ip { certificate: Some(certificate), .. } => {
                let Some((identity, name)) = self.identities.certificate(&certificate.names) else {
                    let names: Vec<String> = certificate.names.iter().take(4).map(|name| shown(name)).collect();
                    let detail = format!("no line names the certificate of {}", names.join(", "));
                    return Err(denied("unknown-certificate", detail));
                };
                let name = if identity.name.is_empty() { &name } else { &identity.name };
                if !is_name(name) {
                    return Err(denied(
                        "name",
                        format!("a certificate's name cannot be a principal's: `{}`", shown(name)),
                    ));
                }
                admit(now, identity, name, Method::Transport, Some(certificate.expires))
            }
            Peer::Ip { certificate: None, .. } => Err(denied("no-credentials", "the peer showed no certificate")),
        }
    }
}

/// Lets somebody in, unless the time of the line, or of what was shown, is over.
fn admit(
    now: Wall,
    identity: &Identity,
    name: &str,
    method: Method,
    shown_until: Option<Wall>,
) -> Result<Principal, Denied> {
    let expires = identity.expires.into_iter().chain(shown_until).min();
    if expires.is_some_and(|end| now >= end) {
        let detail = format!("the {} of `{name}` has expired", identity.proof.kind());
        return Err(denied("expired", detail));
    }
    let (tenant, roles) = (identity.tenant.clone(), identity.roles.clone());
    Ok(Principal { name: name.into(), tenant, roles, method, expires, admin: false })
}

fn denied(reason: &'static str, detail: impl Into<String>) -> Denied {
    Denied { reason, detail: detail.into() }
}

/// Reads an identities file, whose mode must fit what is in it.
///
/// # Errors
/// Every mistake with its line, or why the file is not read.
pub(super) fn read_identities(path: &Path, known: Option<&Known<'_>>) -> Result<Vec<Identity>, AuthError> {
    let refused = |file::Refused(message)| AuthError::file(path, 0, message);
    let contents = file::read(path, identities::FILE_BYTES_MAX).map_err(refused)?;
    let found = identities::parse(&contents.bytes, path, known)?;
    if found.iter().any(|identity| matches!(identity.proof, Proof::Password(_))) {
        file::check_secret_mode(path, contents.mode).map_err(refused)?;
    }
    Ok(found)
}

/// Files that settings name for identities and issuers, whether they are there or not.
#[must_use]
pub fn files(settings: &Settings, base: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = settings.auth.identities.iter().map(|path| base.join(path)).collect();
    for issuer in &settings.issuers {
        files.extend(issuer.jwks.iter().map(|path| base.join(path)));
        files.extend(issuer.keys.iter().filter_map(|source| secret::path(source, base, env).ok().flatten()));
    }
    files.sort_unstable();
    files.dedup();
    files
}
