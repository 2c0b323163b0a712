//! The whole room: files in a folder, attempts against what was loaded from them.

mod identities;
mod login;
mod tokens;
mod vectors;

use super::keys::SigningKey;
use super::{AuthError, Authenticator};
use crate::config::{IssuerSettings, RoleSettings, Settings, TenantSettings};
use crate::model::Wall;
use crate::session::{AUTH_CONTEXT, Attempt, Denied, Method, Peer, Principal};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// 2027-01-15T08:00:00Z.
const NOW: Wall = Wall(1_800_000_000_000);

/// A folder and the settings that point into it.
struct World {
    folder: tempfile::TempDir,
    settings: Settings,
}

impl World {
    /// With the roles sensor and reader, and the tenants acme and beta.
    fn new() -> Self {
        let mut settings = Settings::default();
        let role = |name: &str| RoleSettings { name: name.into(), ..RoleSettings::default() };
        let tenant = |name: &str| TenantSettings { name: name.into(), ..TenantSettings::default() };
        settings.roles = vec![role("sensor"), role("reader")];
        settings.tenants = vec![tenant("acme"), tenant("beta")];
        Self { folder: tempfile::tempdir().expect("a folder"), settings }
    }

    fn write(&self, name: &str, mode: u32, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        path
    }

    /// With an identities file.
    fn identities(mut self, text: &str) -> Self {
        self.write("identities", 0o600, text);
        self.settings.auth.identities = Some("identities".into());
        self
    }

    /// With an issuer `https://issuer.example` of these algorithms.
    fn issuer(mut self, algorithms: &[&str], change: impl FnOnce(&mut IssuerSettings)) -> Self {
        let mut issuer = IssuerSettings {
            name: "https://issuer.example".into(),
            algorithms: algorithms.iter().map(|name| (*name).to_owned()).collect(),
            keys: Vec::new(),
            jwks: None,
            audiences: vec!["tidegate".into(), "other".into()],
            leeway_ms: 60_000,
            tenant: String::new(),
            roles: vec!["sensor".into(), "reader".into()],
        };
        change(&mut issuer);
        self.settings.issuers.push(issuer);
        self
    }

    fn load(&self) -> Result<Authenticator, AuthError> {
        Authenticator::load_with(&self.settings, self.folder.path(), &|_| None)
    }

    #[track_caller]
    fn loaded(&self) -> Authenticator {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn refused(&self) -> String {
        self.load().expect_err("it was taken").to_string()
    }
}

fn peer() -> Peer {
    Peer::tcp("192.0.2.1:1".parse().expect("an address"))
}

fn attempt(method: Method, data: impl Into<Vec<u8>>) -> Attempt {
    Attempt { method, data: data.into(), nonce: [9; 32], again: false, peer: peer() }
}

fn by_token(auth: &Authenticator, now: Wall, token: impl AsRef<[u8]>) -> Result<Principal, Denied> {
    auth.check(now, &attempt(Method::Token, token.as_ref()))
}

fn password_data(name: &[u8], password: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    for part in [name, password] {
        let mut buffer = vec![0; part.len() + 10];
        data.extend_from_slice(postcard::to_slice(part, &mut buffer).expect("room"));
    }
    data
}

fn private_key(byte: u8) -> SigningKey {
    SigningKey::from_seed(&[byte; 32])
}

/// What a client answers a challenge with.
fn answer(key: &SigningKey, context: &[u8], nonce: &[u8]) -> Vec<u8> {
    let signature = key.sign_bytes(&[context, nonce].concat());
    [&key.public().as_bytes()[..], &signature].concat()
}

fn by_key(auth: &Authenticator, key: &SigningKey) -> Result<Principal, Denied> {
    auth.check(NOW, &attempt(Method::Key, answer(key, AUTH_CONTEXT, &[9; 32])))
}

#[track_caller]
fn reason(outcome: Result<Principal, Denied>) -> &'static str {
    outcome.expect_err("somebody came in").reason
}
