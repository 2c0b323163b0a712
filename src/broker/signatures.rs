//! Which channels of a mount take only signed messages, and whose.

use crate::config::Settings;
use crate::model::Record;
use crate::routing::Table;
use crate::seal::{PublicKey, PublicKeys, verify};
use crate::wire::Code;

/// The rules of one tenant. A channel that several match takes what all of them take.
#[derive(Debug, Default)]
pub(super) struct Signers {
    table: Table<usize>,
    rules: Vec<PublicKeys>,
}

impl Signers {
    /// The rules of a tenant. Whoever gives the settings wrote public keys where names stood; what is none signs nothing, so
    /// that a mistake lets nobody in.
    pub(super) fn new(settings: &Settings, tenant: &str) -> Self {
        let mut signers = Self::default();
        for (n, rule) in settings.signatures.iter().enumerate().filter(|(_, rule)| *rule.tenant == *tenant) {
            let key = |text: &String| {
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

/// Whether one of these keys signed a message whose payload is not compressed.
pub(super) fn check(record: &Record<'_>, keys: &PublicKeys) -> Result<(), Code> {
    verify(record, keys).map(|_| ()).map_err(|error| {
        log::debug!("message {} on {:?} is refused: {error}", record.id, record.channel.as_str());
        Code::BadSignature
    })
}
