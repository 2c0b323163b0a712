//! The identities file: keys, passwords, certificates' names and users of this machine, a line each.
//!
//! ```text
//! # comments begin with #
//! key ed25519:BASE64 name=sensor-7 tenant=acme roles=sensor,reader expires=2027-01-01T00:00:00Z
//! password alice $argon2id$v=19$... roles=operator
//! certificate *.sensors.example.org roles=sensor
//! uid 1000 name=backup roles=reader
//! ```

use super::error::{AuthError, problem};
use super::keys::PublicKey;
use super::name::{NAME, is_name, shown};
use super::password::Hashed;
use super::utc;
use crate::config::{Problem, Settings};
use crate::model::Wall;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

/// Most bytes of the file.
pub const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes of a line.
pub const LINE_BYTES_MAX: usize = 4 * 1024;
/// Most identities.
pub const IDENTITIES_MAX: usize = 100_000;
/// Most roles of an identity.
pub const ROLES_MAX: usize = 64;
/// Most mistakes told at once.
const PROBLEMS_MAX: usize = 100;

/// Roles that are always there.
const BUILT_IN_ROLES: [&str; 2] = ["open", "admin"];

/// What somebody is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A key that signs the challenge.
    Key(PublicKey),
    /// A password.
    Password(Hashed),
    /// A name in a verified certificate.
    Certificate(Pattern),
    /// A user of this machine.
    User(u32),
}

impl Proof {
    /// The word its line begins with.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Key(_) => Kind::Key,
            Self::Password(_) => Kind::Password,
            Self::Certificate(_) => Kind::Certificate,
            Self::User(_) => Kind::User,
        }
    }
}

/// The kinds of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `key`
    Key,
    /// `password`
    Password,
    /// `certificate`
    Certificate,
    /// `uid`
    User,
}

impl Kind {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "key" => Self::Key,
            "password" => Self::Password,
            "certificate" => Self::Certificate,
            "uid" => Self::User,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Password => "password",
            Self::Certificate => "certificate",
            Self::User => "uid",
        })
    }
}

/// A name in certificates; with `*.` in front one label of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Whether the first label may be any.
    pub wildcard: bool,
    /// The name, without `*.`; of host names in lower case.
    pub name: Box<str>,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if name.is_empty() || name.contains('*') {
            return Err("a `*` elsewhere than alone as the first label");
        }
        if wildcard && (name.starts_with('.') || name.contains(['/', ':', '@'])) {
            return Err("a wildcard in what is no host name");
        }
        Ok(Self { wildcard, name: folded(name) })
    }
}

/// A certificate's name as it is compared: host names without regard to case (RFC 5280 §7.2), others as they are.
#[must_use]
pub(super) fn folded(name: &str) -> Box<str> {
    let host = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if host { name.to_ascii_lowercase().into() } else { name.into() }
}

/// One line: who somebody is, and how it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The line, from 1.
    pub line: u32,
    /// What it is known by.
    pub proof: Proof,
    /// Its name; empty when it is that of the certificate.
    pub name: Box<str>,
    /// Its tenant; empty for none.
    pub tenant: Box<str>,
    /// Its roles.
    pub roles: Vec<Box<str>>,
    /// When it ends.
    pub expires: Option<Wall>,
}

/// Names that lines may refer to.
#[derive(Debug)]
pub struct Known<'a> {
    roles: HashSet<&'a str>,
    tenants: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    /// Those of the settings, and the roles that are always there.
    #[must_use]
    pub fn of(settings: &'a Settings) -> Self {
        Self {
            roles: settings.roles.iter().map(|role| role.name.as_str()).chain(BUILT_IN_ROLES).collect(),
            tenants: settings.tenants.iter().map(|tenant| tenant.name.as_str()).collect(),
        }
    }
}

/// Reads the text of an identities file; `path` is what its mistakes are told under. Without `known` any role and tenant is
/// taken: what edits the file has no settings.
///
/// # Errors
/// Every mistake with its line; hashes of passwords are not shown.
pub fn parse(text: &[u8], path: &Path, known: Option<&Known<'_>>) -> Result<Vec<Identity>, AuthError> {
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let line = 1 + text[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
            let line = u32::try_from(line).unwrap_or(u32::MAX);
            return Err(AuthError::file(path, line, "found a byte that is not UTF-8; expected UTF-8 text"));
        }
    };
    let mut found =
        Found { path, identities: Vec::new(), problems: Vec::new(), names: HashMap::new(), proofs: HashMap::new() };
    for (number, line) in (1..).zip(text.lines()) {
        let read = if line.len() > LINE_BYTES_MAX {
            Err(format!("found a line of {} bytes; expected at most {LINE_BYTES_MAX}", line.len()))
        } else {
            parse_line(line, number)
        };
        match read {
            Ok(None) => {}
            Ok(Some(identity)) => found.add(identity, known),
            Err(message) => found.problem(number, message),
        }
        if found.problems.len() >= PROBLEMS_MAX || found.identities.len() > IDENTITIES_MAX {
            break;
        }
    }
    if found.identities.len() > IDENTITIES_MAX {
        found.problem(0, format!("found more than {IDENTITIES_MAX} identities; expected at most so many"));
    }
    if found.problems.is_empty() { Ok(found.identities) } else { Err(AuthError { problems: found.problems }) }
}

struct Found<'a> {
    path: &'a Path,
    identities: Vec<Identity>,
    problems: Vec<Problem>,
    /// The line of each name, by kind and tenant.
    names: HashMap<(Kind, Box<str>, Box<str>), u32>,
    /// The line of each thing that one is known by, passwords apart.
    proofs: HashMap<String, u32>,
}

impl Found<'_> {
    fn problem(&mut self, line: u32, message: String) {
        self.problems.push(problem(self.path, line, message));
    }

    fn add(&mut self, identity: Identity, known: Option<&Known<'_>>) {
        let line = identity.line;
        if let Some(known) = known {
            for role in identity.roles.iter().filter(|role| !known.roles.contains(&***role)) {
                let mut roles: Vec<&str> = known.roles.iter().copied().collect();
                roles.sort_unstable();
                self.problem(line, format!("found role `{role}`; expected one of: {}", roles.join(", ")));
            }
            if !identity.tenant.is_empty() && !known.tenants.contains(&*identity.tenant) {
                self.problem(
                    line,
                    format!("found tenant `{}`; expected the name of one of the tenants", identity.tenant),
                );
            }
        }
        let kind = identity.proof.kind();
        if !identity.name.is_empty() {
            let key = (kind, identity.tenant.clone(), identity.name.clone());
            if let Some(first) = self.names.insert(key, line) {
                let message =
                    format!("found {kind} of `{}`, who has one in line {first}; expected another name", identity.name);
                self.problem(line, message);
            }
        }
        let proof = match &identity.proof {
            Proof::Key(key) => Some(key.to_string()),
            Proof::Certificate(pattern) => {
                Some(format!("certificate {}{}", if pattern.wildcard { "*." } else { "" }, pattern.name))
            }
            Proof::User(uid) => Some(format!("uid {uid}")),
            Proof::Password(_) => None,
        };
        if let Some(proof) = proof
            && let Some(first) = self.proofs.insert(proof.clone(), line)
        {
            self.problem(line, format!("found `{proof}`, which is in line {first}; expected each once"));
        }
        self.identities.push(identity);
    }
}

/// Reads one line; `None` when it is empty or a comment.
///
/// # Errors
/// What was found and what was expected.
pub fn parse_line(line: &str, number: u32) -> Result<Option<Identity>, String> {
    let mut words = line.split_ascii_whitespace().take_while(|word| !word.starts_with('#'));
    let Some(first) = words.next() else { return Ok(None) };
    let kind = Kind::parse(first)
        .ok_or_else(|| format!("found {}; expected key, password, certificate or uid at the start", word(first)))?;
    let what = words.next().filter(|word| kind == Kind::Key || !word.contains('='));
    let missing = |expected: &str| format!("found nothing behind `{kind}`; expected {expected}");
    let what = match (kind, what) {
        (_, Some(what)) => what,
        (Kind::Key, None) => return Err(missing("ed25519: and the base64 of a public key")),
        (Kind::Password, None) => return Err(missing("a name and the hash of a password")),
        (Kind::Certificate, None) => return Err(missing("a name that certificates hold")),
        (Kind::User, None) => return Err(missing("the number of a user")),
    };
    let mut name = None;
    let proof = match kind {
        Kind::Key => Proof::Key(PublicKey::parse(what).map_err(|error| {
            format!("found something else behind `key`: {error}; expected ed25519: and the base64 of a public key")
        })?),
        Kind::Password => {
            name = Some(checked_name(what)?);
            let hash = words.next().ok_or("found no hash behind the name; expected one of `tidegate passwd`")?;
            Proof::Password(Hashed::parse(hash)?)
        }
        Kind::Certificate => {
            let pattern = Pattern::parse(what);
            Proof::Certificate(pattern.map_err(|found| {
                format!("found {found}; expected a name such as sensor-7.example.org or *.sensors.example.org")
            })?)
        }
        Kind::User => {
            let uid: u32 =
                what.parse().map_err(|_| format!("found `{}`; expected the number of a user", shown(what)))?;
            if uid == 0 {
                return Err("found uid 0; expected another: root may do everything anyway".into());
            }
            Proof::User(uid)
        }
    };
    let fields = Fields::parse(words, name)?;
    let name = match (&proof, fields.name) {
        (_, Some(name)) => name,
        (Proof::Certificate(Pattern { wildcard: true, .. }), None) => "".into(),
        (Proof::Certificate(Pattern { name, .. }), None) => {
            if !is_name(name) {
                return Err(format!("found `{}` without name=; expected one: {NAME}", shown(name)));
            }
            name.clone()
        }
        (_, None) => return Err("found no name=; expected who this is".into()),
    };
    let roles = fields.roles.ok_or("found no roles=; expected names of roles, separated by commas")?;
    let tenant = fields.tenant.unwrap_or_default();
    Ok(Some(Identity { line: number, proof, name, tenant, roles, expires: fields.expires }))
}

/// A word that nobody expected: shown if it is short and plain, since it may be part of a secret.
fn word(text: &str) -> String {
    const SHOWN_BYTES_MAX: usize = 16;
    if text.len() <= SHOWN_BYTES_MAX && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return format!("`{text}`");
    }
    "something else".into()
}

fn checked_name(text: &str) -> Result<Box<str>, String> {
    if is_name(text) { Ok(text.into()) } else { Err(format!("found the name `{}`; expected {NAME}", shown(text))) }
}

/// What stands behind what one is known by.
#[derive(Default)]
struct Fields {
    name: Option<Box<str>>,
    tenant: Option<Box<str>>,
    roles: Option<Vec<Box<str>>>,
    expires: Option<Wall>,
}

impl Fields {
    fn parse<'a>(words: impl Iterator<Item = &'a str>, name: Option<Box<str>>) -> Result<Self, String> {
        let named = name.is_some();
        let mut fields = Self { name, ..Self::default() };
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(format!("found {}; expected name=, tenant=, roles= or expires=", self::word(word)));
            };
            let twice = || Err(format!("found {key}= twice; expected it once"));
            match key {
                "name" if named => return Err("found name=; expected none, a password has its name in front".into()),
                "name" if fields.name.is_some() => return twice(),
                "name" => fields.name = Some(checked_name(value)?),
                "tenant" if fields.tenant.is_some() => return twice(),
                "tenant" => fields.tenant = Some(checked_name(value)?),
                "roles" if fields.roles.is_some() => return twice(),
                "roles" => fields.roles = Some(roles(value)?),
                "expires" if fields.expires.is_some() => return twice(),
                "expires" => {
                    let time = utc::parse(value);
                    fields.expires =
                        Some(time.ok_or_else(|| format!("found `{}`; expected {}", shown(value), utc::TIME))?);
                }
                _ => return Err(format!("found `{}=`; expected name=, tenant=, roles= or expires=", shown(key))),
            }
        }
        Ok(fields)
    }
}

fn roles(text: &str) -> Result<Vec<Box<str>>, String> {
    let mut roles: Vec<Box<str>> = Vec::new();
    for role in text.split(',') {
        if !is_name(role) {
            return Err(format!("found `{}` in roles=; expected names of roles, separated by commas", shown(role)));
        }
        if roles.iter().any(|other| **other == *role) {
            return Err(format!("found role `{role}` twice; expected it once"));
        }
        if roles.len() == ROLES_MAX {
            return Err(format!("found more than {ROLES_MAX} roles; expected at most so many"));
        }
        roles.push(role.into());
    }
    Ok(roles)
}

/// Identities by what they are known by.
#[derive(Debug, Default)]
pub(super) struct Index {
    identities: Vec<Identity>,
    keys: HashMap<PublicKey, usize>,
    passwords: HashMap<Box<str>, usize>,
    certificates: HashMap<Pattern, usize>,
    users: HashMap<u32, usize>,
    names_of_keys: HashMap<Box<str>, usize>,
}

/// How a name of a tenant is written where one word names both: neither holds a slash.
pub(super) fn qualified(tenant: &str, name: &str) -> Box<str> {
    if tenant.is_empty() { name.into() } else { format!("{tenant}/{name}").into() }
}

impl Index {
    pub(super) fn new(identities: Vec<Identity>) -> Self {
        let mut index = Self { identities, ..Self::default() };
        for (at, identity) in index.identities.iter().enumerate() {
            match &identity.proof {
                Proof::Key(key) => {
                    index.keys.insert(*key, at);
                    index.names_of_keys.insert(qualified(&identity.tenant, &identity.name), at);
                }
                Proof::Password(_) => {
                    index.passwords.insert(qualified(&identity.tenant, &identity.name), at);
                }
                Proof::Certificate(pattern) => {
                    index.certificates.insert(pattern.clone(), at);
                }
                Proof::User(uid) => {
                    index.users.insert(*uid, at);
                }
            }
        }
        index
    }

    pub(super) fn identities(&self) -> &[Identity] {
        &self.identities
    }

    pub(super) fn key(&self, key: &PublicKey) -> Option<&Identity> {
        self.keys.get(key).map(|at| &self.identities[*at])
    }

    pub(super) fn key_named(&self, tenant: &str, name: &str) -> Option<&Identity> {
        self.names_of_keys.get(&qualified(tenant, name)).map(|at| &self.identities[*at])
    }

    /// Of a login name: `alice`, or `acme/alice` of a tenant.
    pub(super) fn password(&self, login: &str) -> Option<(&Identity, &Hashed)> {
        let identity = &self.identities[*self.passwords.get(login)?];
        match &identity.proof {
            Proof::Password(hash) => Some((identity, hash)),
            _ => None,
        }
    }

    pub(super) fn user(&self, uid: u32) -> Option<&Identity> {
        self.users.get(&uid).map(|at| &self.identities[*at])
    }

    /// The first line, in the file's order, that one of these names fits; with the name.
    pub(super) fn certificate(&self, names: &[String]) -> Option<(&Identity, Box<str>)> {
        let mut best: Option<(usize, Box<str>)> = None;
        for name in names {
            let name = folded(name);
            let exact = Pattern { wildcard: false, name: name.clone() };
            let wild =
                name.split_once('.').filter(|(label, _)| !label.is_empty() && !label.contains(['*', '/', ':', '@']));
            let wild = wild.map(|(_, rest)| Pattern { wildcard: true, name: rest.into() });
            for pattern in [Some(exact), wild].into_iter().flatten() {
                if let Some(at) = self.certificates.get(&pattern)
                    && best.as_ref().is_none_or(|(best, _)| at < best)
                {
                    best = Some((*at, name.clone()));
                }
            }
        }
        best.map(|(at, name)| (&self.identities[at], name))
    }
}
