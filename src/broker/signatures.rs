//! Which channels of a mount take only signed messages, and whose.

use super::Broker;
use crate::config::Settings;
use crate::model::Record;
use crate::routing::Table;
use crate::seal::{PublicKey, PublicKeys, verify};
use crate::wire::Code;
use std::collections::BTreeMap;

/// Public keys that rules of signatures call by name: by tenant and name.
pub type NamedKeys = BTreeMap<(Box<str>, Box<str>), PublicKey>;

/// What a rule's text begins with when it is the key itself.
const KEY_PREFIX: &str = "ed25519:";

/// The rules of one tenant. A channel that several match takes what all of them take.
#[derive(Debug, Default)]
pub(super) struct Signers {
    table: Table<usize>,
    rules: Vec<PublicKeys>,
}

impl Signers {
    /// The rules of a tenant. A name that nobody has, and what is no key, signs nothing, so that a mistake lets nobody in.
    pub(super) fn new(settings: &Settings, tenant: &str, named: &NamedKeys) -> Self {
        let mut signers = Self::default();
        for (n, rule) in settings.signatures.iter().enumerate().filter(|(_, rule)| *rule.tenant == *tenant) {
            let key = |text: &String| {
                if !text.starts_with(KEY_PREFIX) {
                    return named.get(&(tenant.into(), text.as_str().into())).copied();
                }
                let key = PublicKey::parse(text);
                key.inspect_err(|e| {
                    log::error!("signatures[{n}].keys: {text:?} is no public key ({e}): it signs nothing")
                })
                .ok()
            };
            let place = signers.rules.len();
            rule.channels.iter().for_each(|filter| signers.table.insert(filter, place));
            signers.rules.push(rule.keys.iter().filter_map(key).collect());
        }
        signers
    }

    /// Whose messages a channel takes; `None` where no rule matches and it takes all.
    pub(super) fn of(&self, channel: &str) -> Option<PublicKeys> {
        let mut found = Vec::new();
        self.table.matches(channel, &mut found);
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|rule| self.rules[rule].clone()).reduce(|all, keys| all.intersection(&keys))
    }
}

impl Broker {
    /// Names stand for other keys from now on.
    pub(super) fn handle_named_keys(&mut self, keys: NamedKeys) {
        self.named_keys = keys;
        self.renew_signers();
    }

    /// Who signs for which channels, after the settings or the names' keys have changed.
    pub(super) fn renew_signers(&mut self) {
        for mount in &mut self.mounts {
            mount.set_signers(Signers::new(&self.settings, &mount.tenant, &self.named_keys));
        }
    }
}

/// Whether one of these keys signed a message whose payload is not compressed.
pub(super) fn check(record: &Record<'_>, keys: &PublicKeys) -> Result<(), Code> {
    verify(record, keys).map(|_| ()).map_err(|error| {
        log::debug!("message {} on {:?} is refused: {error}", record.id, record.channel.as_str());
        Code::BadSignature
    })
}
