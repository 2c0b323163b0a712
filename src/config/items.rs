//! The lists of the settings: what one item of each is made of.

use super::keys::{
    DAY, KIB, Key, Kind, MINUTE, NAME, SECOND, SECRETS, TIB, check_name, check_path, check_secret, choice, fixed, live,
    number, one_path, texts,
};
use super::settings::{
    IssuerSettings, Keep, Overflow, QueueSettings, RoleSettings, Settings, SignatureSettings, Storage, TenantSettings,
};
use super::units::Unit;
use crate::model::Filter;
use crate::wire::Contract;

/// One item of a list of the settings.
pub(super) trait Item: Clone + 'static {
    /// The list's key.
    const LIST: &'static str;
    /// One of them, for messages.
    const NOUN: &'static str;
    /// Its keys.
    const TABLE: &'static [Key<Self>];
    /// Keys that every item has.
    const NEEDED: &'static [&'static str];
    /// Most items.
    const ITEMS_MAX: usize;
    /// Whether one that a file names no more is gone at once.
    const REMOVABLE: bool;

    /// One with the defaults.
    fn blank() -> Self;
    /// What it is known by: unique in its list.
    fn id(&self) -> String;
    /// The list.
    fn list(settings: &Settings) -> &Vec<Self>;
    /// The list.
    fn list_mut(settings: &mut Settings) -> &mut Vec<Self>;
    /// What follows from the keys that were set and those that were not.
    fn finish(&mut self, _was_set: impl Fn(&str) -> bool) {}
    /// What stands for it where it is told of as a whole.
    fn summary(&self) -> String {
        self.id()
    }
    /// After a reload: what cannot be, since `before` cannot change.
    fn reconcile(&mut self, _before: &Self) {}
}

/// Keys of the lists, in the order they are told.
pub(super) const LISTS: &[&str] = &["issuers", "roles", "tenants", "signatures", "queues", "bridges", "outage"];

/// A name as the key `name` of every list has it.
macro_rules! name {
    () => {
        Kind::Text {
            expected: NAME,
            get: |s| s.name.clone(),
            set: |s, text| {
                check_name(text)?;
                s.name = text.into();
                Ok(())
            },
        }
    };
}

pub(super) use name;

/// A tenant's name, or none.
macro_rules! tenant {
    () => {
        Kind::Text {
            expected: "the name of a tenant, or none",
            get: |s| tenant_shown(&s.tenant),
            set: |s, text| {
                s.tenant = $crate::config::items::tenant_named(text)?;
                Ok(())
            },
        }
    };
}

pub(super) use tenant;

impl Item for QueueSettings {
    const LIST: &'static str = "queues";
    const NOUN: &'static str = "queue";
    const TABLE: &'static [Key<Self>] = QUEUE;
    const NEEDED: &'static [&'static str] = &["name", "capture"];
    const ITEMS_MAX: usize = 1_024;
    const REMOVABLE: bool = false;

    fn blank() -> Self {
        Self::new("")
    }
    fn id(&self) -> String {
        if self.tenant.is_empty() { self.name.clone() } else { format!("{}/{}", self.tenant, self.name) }
    }
    fn list(settings: &Settings) -> &Vec<Self> {
        &settings.queues
    }
    fn list_mut(settings: &mut Settings) -> &mut Vec<Self> {
        &mut settings.queues
    }
    fn finish(&mut self, was_set: impl Fn(&str) -> bool) {
        if self.storage == Storage::Memory && !was_set("contract") {
            self.contract = Contract::Memory;
        }
    }
    fn summary(&self) -> String {
        format!("[{}]", self.capture.join(", "))
    }
    fn reconcile(&mut self, before: &Self) {
        // The storage kept may not be able to hold the contract asked for.
        if self.storage == Storage::Memory && self.contract > Contract::Memory {
            self.contract = before.contract;
        }
    }
}

impl Item for IssuerSettings {
    const LIST: &'static str = "issuers";
    const NOUN: &'static str = "issuer";
    const TABLE: &'static [Key<Self>] = ISSUER;
    const NEEDED: &'static [&'static str] = &["name", "algorithms", "audiences"];
    const ITEMS_MAX: usize = 64;
    const REMOVABLE: bool = true;

    fn blank() -> Self {
        Self {
            name: String::new(),
            algorithms: Vec::new(),
            keys: Vec::new(),
            jwks: None,
            audiences: Vec::new(),
            leeway_ms: 60_000,
            tenant: String::new(),
            roles: Vec::new(),
        }
    }
    fn id(&self) -> String {
        self.name.clone()
    }
    fn list(settings: &Settings) -> &Vec<Self> {
        &settings.issuers
    }
    fn list_mut(settings: &mut Settings) -> &mut Vec<Self> {
        &mut settings.issuers
    }
}

impl Item for RoleSettings {
    const LIST: &'static str = "roles";
    const NOUN: &'static str = "role";
    const TABLE: &'static [Key<Self>] = ROLE;
    const NEEDED: &'static [&'static str] = &["name"];
    const ITEMS_MAX: usize = 1_024;
    const REMOVABLE: bool = true;

    fn blank() -> Self {
        Self::default()
    }
    fn id(&self) -> String {
        self.name.clone()
    }
    fn list(settings: &Settings) -> &Vec<Self> {
        &settings.roles
    }
    fn list_mut(settings: &mut Settings) -> &mut Vec<Self> {
        &mut settings.roles
    }
}

impl Item for TenantSettings {
    const LIST: &'static str = "tenants";
    const NOUN: &'static str = "tenant";
    const TABLE: &'static [Key<Self>] = TENANT;
    const NEEDED: &'static [&'static str] = &["name"];
    const ITEMS_MAX: usize = 1_024;
    const REMOVABLE: bool = true;

    fn blank() -> Self {
        Self::default()
    }
    fn id(&self) -> String {
        self.name.clone()
    }
    fn list(settings: &Settings) -> &Vec<Self> {
        &settings.tenants
    }
    fn list_mut(settings: &mut Settings) -> &mut Vec<Self> {
        &mut settings.tenants
    }
}

impl Item for SignatureSettings {
    const LIST: &'static str = "signatures";
    const NOUN: &'static str = "rule of signatures";
    const TABLE: &'static [Key<Self>] = SIGNATURE;
    const NEEDED: &'static [&'static str] = &["channels", "keys"];
    const ITEMS_MAX: usize = 256;
    const REMOVABLE: bool = true;

    fn blank() -> Self {
        Self::default()
    }
    fn id(&self) -> String {
        format!("{}:{}", self.tenant, self.channels.join(","))
    }
    fn list(settings: &Settings) -> &Vec<Self> {
        &settings.signatures
    }
    fn list_mut(settings: &mut Settings) -> &mut Vec<Self> {
        &mut settings.signatures
    }
}

/// Most bytes of an issuer's name: the claim `iss` may be a URL.
const ISSUER_BYTES_MAX: usize = 256;

/// The keys of one issuer.
const ISSUER: &[Key<IssuerSettings>] = &[
    live(
        "name",
        Kind::Text {
            expected: "the claim iss of its tokens, 1 to 256 bytes",
            get: |s| s.name.clone(),
            set: |s, text| {
                if text.is_empty() || text.len() > ISSUER_BYTES_MAX {
                    return Err(format!(", which has {} bytes", text.len()));
                }
                s.name = text.into();
                Ok(())
            },
        },
    ),
    live(
        "algorithms",
        texts!(
            "HS256, EdDSA, ES256 or RS256",
            |text| if matches!(text, "HS256" | "EdDSA" | "ES256" | "RS256") { Ok(()) } else { Err(String::new()) },
            algorithms
        ),
    ),
    live("keys", texts!(SECRETS, check_secret, keys)),
    live("jwks", one_path!(jwks)),
    live("audiences", texts!("audiences that its tokens may name", check_text, audiences)),
    live("leeway", number!(Millis, 0, 10 * MINUTE, leeway_ms: u32)),
    live(
        "tenant",
        Kind::Text {
            expected: "the name of a tenant, {claim} to take the claim `tenant`, or none",
            get: |s| tenant_shown(&s.tenant),
            set: |s, text| {
                s.tenant = if text == "{claim}" { text.into() } else { tenant_named(text)? };
                Ok(())
            },
        },
    ),
    live("roles", texts!("names of roles, or none", check_name, roles)),
];

/// `rules!(list)`: filters with placeholders.
macro_rules! rules {
    ($($field:ident).+) => {
        texts!("filters such as site/{client}/#, or none", check_rule, $($field).+)
    };
}

/// The keys of one role.
const ROLE: &[Key<RoleSettings>] = &[
    live("name", name!()),
    live("publish", rules!(allow.publish)),
    live("subscribe", rules!(allow.subscribe)),
    live("consume", rules!(allow.consume)),
    live("request", rules!(allow.request)),
    live("respond", rules!(allow.respond)),
    live("admin", rules!(allow.admin)),
    live("deny.publish", rules!(deny.publish)),
    live("deny.subscribe", rules!(deny.subscribe)),
    live("deny.consume", rules!(deny.consume)),
    live("deny.request", rules!(deny.request)),
    live("deny.respond", rules!(deny.respond)),
    live("deny.admin", rules!(deny.admin)),
];

/// The keys of one tenant.
const TENANT: &[Key<TenantSettings>] = &[
    fixed("name", name!()),
    live("connections", number!(Count, 1, 1_000_000, connections_max: u32, none = 0)),
    live("messages_per_second", number!(Count, 1, 100_000_000, messages_per_second: u32, none = 0)),
    live("bytes_per_second", number!(Bytes, KIB, TIB, bytes_per_second: u64, none = 0)),
    live("stored", number!(Bytes, KIB, 1_024 * TIB, stored_bytes_max: u64, none = 0)),
    live("channels", number!(Count, 1, 10_000_000, channels_max: u32, none = 0)),
];

/// The keys of one rule of signatures.
const SIGNATURE: &[Key<SignatureSettings>] = &[
    live("channels", texts!("filters such as alarms/#", filter, channels)),
    live("keys", texts!("public keys (ed25519:BASE64) or names of keys in auth.identities", check_text, keys)),
    live("tenant", tenant!()),
];

/// The keys of one queue.
const QUEUE: &[Key<QueueSettings>] = &[
    fixed("name", name!()),
    fixed("tenant", tenant!()),
    live(
        "capture",
        Kind::List {
            expected: "filters such as site/+/temp or #",
            check: filter,
            get: |q| q.capture.clone(),
            set: |q, items| q.capture = items.to_vec(),
        },
    ),
    fixed("storage", choice!(storage: "disk" = Storage::Disk, "memory" = Storage::Memory)),
    live(
        "contract",
        choice!(contract: "memory" = Contract::Memory, "disk" = Contract::Disk, "upstream" = Contract::Upstream),
    ),
    fixed("keep", choice!(keep: "work" = Keep::Work, "interest" = Keep::Interest, "limits" = Keep::Limits)),
    live(
        "overflow",
        choice!(
            overflow: "reject" = Overflow::Reject, "drop-oldest" = Overflow::DropOldest,
            "drop-newest" = Overflow::DropNewest
        ),
    ),
    live("limits.messages", number!(Count, 1, 1_000_000_000_000, messages_max: u64)),
    live("limits.bytes", number!(Bytes, KIB, 1_024 * TIB, bytes_max: u64)),
    live("limits.age", number!(Millis, SECOND, 36_500 * DAY, age_ms_max: u64, none = 0)),
    live("limits.consumers", number!(Count, 1, 10_000, consumers_max: u32)),
    fixed("history.enabled", choice!(history: "false" = FALSE, "true" = TRUE)),
    live("history.channels", number!(Count, 1, 10_000_000, channels_max: u32)),
    live("consumer.window", number!(Count, 1, 1_000_000, window: u32)),
    live("consumer.attempts", number!(Count, 1, 1_000_000, attempts_max: u32, none = 0)),
    live("consumer.backoff", number!(Millis, 1, DAY, backoff_ms: u32)),
    live("consumer.backoff_max", number!(Millis, 1, 30 * DAY, backoff_ms_max: u32)),
];

const FALSE: bool = false;
const TRUE: bool = true;

/// The word that stands for no tenant.
pub(super) fn tenant_shown(tenant: &str) -> String {
    if tenant.is_empty() { "none".into() } else { tenant.into() }
}

pub(super) fn tenant_named(text: &str) -> Result<String, String> {
    if text == "none" {
        return Ok(String::new());
    }
    check_name(text)?;
    Ok(text.into())
}

/// Whether it is a filter.
pub(super) fn filter(text: &str) -> Result<(), String> {
    Filter::parse(text).map(|_| ()).map_err(|error| format!(" ({error})"))
}

pub(super) fn check_text(text: &str) -> Result<(), String> {
    if text.is_empty() { Err(", which is empty".into()) } else { Ok(()) }
}

/// Placeholders are whole levels: within one, a name could pretend to be another's.
fn check_rule(text: &str) -> Result<(), String> {
    Filter::parse(text).map_err(|error| format!(" ({error})"))?;
    for level in text.split('/') {
        match level {
            "{client}" | "{tenant}" => {}
            level if level.contains(['{', '}']) => {
                return Err(format!(", whose level `{level}` is not {{client}} or {{tenant}} alone"));
            }
            _ => {}
        }
    }
    Ok(())
}
