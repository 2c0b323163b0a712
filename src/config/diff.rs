//! Two settings compared: what a reload changes, and what has to wait for the next start.

use super::bridges::{BridgeSettings, OutageSettings};
use super::items::Item;
use super::keys::{Key, SETTINGS};
use super::settings::{IssuerSettings, QueueSettings, RoleSettings, Settings, SignatureSettings, TenantSettings};
use std::fmt;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key's path; queues go by name, as in `queues[main].limits.bytes`.
    pub key: String,
    /// The value in force, as a file would have it; `absent` for a new queue.
    pub old: String,
    /// The value asked for; `absent` for a queue that is not named any more.
    pub new: String,
    /// Whether it takes effect while running.
    pub reloadable: bool,
}

/// The value of a queue that is not there.
const ABSENT: &str = "absent";

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, old, new, .. } = self;
        match (self.reloadable, new.as_str()) {
            (true, _) => write!(f, "{key}: {old} -> {new}"),
            (false, ABSENT) => write!(f, "{key}: stays until the next start, and its messages stay after that"),
            (false, _) => write!(f, "{key}: stays {old}; {new} takes effect at the next start"),
        }
    }
}

/// What differs, in the order of the tables; lists in the order of `new`, then those that are gone.
#[must_use]
pub fn diff(old: &Settings, new: &Settings) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(SETTINGS, old, new, "", &mut changes);
    compare_list::<IssuerSettings>(old, new, &mut changes);
    compare_list::<RoleSettings>(old, new, &mut changes);
    compare_list::<TenantSettings>(old, new, &mut changes);
    compare_list::<SignatureSettings>(old, new, &mut changes);
    compare_list::<QueueSettings>(old, new, &mut changes);
    compare_list::<BridgeSettings>(old, new, &mut changes);
    compare_list::<OutageSettings>(old, new, &mut changes);
    changes
}

fn compare_list<T: Item>(old: &Settings, new: &Settings, changes: &mut Vec<Change>) {
    for item in T::list(new) {
        let prefix = format!("{}[{}]", T::LIST, item.id());
        match find::<T>(old, &item.id()) {
            Some(before) => compare(T::TABLE, before, item, &format!("{prefix}."), changes),
            None => {
                changes.push(Change { key: prefix, old: ABSENT.into(), new: item.summary(), reloadable: true });
            }
        }
    }
    for item in T::list(old).iter().filter(|item| find::<T>(new, &item.id()).is_none()) {
        let key = format!("{}[{}]", T::LIST, item.id());
        changes.push(Change { key, old: item.summary(), new: ABSENT.into(), reloadable: T::REMOVABLE });
    }
}

/// `new`, with everything that cannot change while running kept as in `old`.
#[must_use]
pub fn reloadable(old: &Settings, new: &Settings) -> Settings {
    let mut settings = new.clone();
    for key in SETTINGS.iter().filter(|key| !key.live) {
        key.copy(old, &mut settings);
    }
    keep_list::<IssuerSettings>(old, &mut settings);
    keep_list::<RoleSettings>(old, &mut settings);
    keep_list::<TenantSettings>(old, &mut settings);
    keep_list::<SignatureSettings>(old, &mut settings);
    keep_list::<QueueSettings>(old, &mut settings);
    keep_list::<BridgeSettings>(old, &mut settings);
    keep_list::<OutageSettings>(old, &mut settings);
    settings
}

fn keep_list<T: Item>(old: &Settings, settings: &mut Settings) {
    for item in T::list_mut(settings) {
        let Some(before) = find::<T>(old, &item.id()) else { continue };
        for key in T::TABLE.iter().filter(|key| !key.live) {
            key.copy(before, item);
        }
        item.reconcile(before);
    }
    if !T::REMOVABLE {
        let gone: Vec<T> = T::list(old).iter().filter(|i| find::<T>(settings, &i.id()).is_none()).cloned().collect();
        T::list_mut(settings).extend(gone);
    }
}

/// Every key and its value, as a file would have them, for `check-config` and `status`.
#[must_use]
pub fn list(settings: &Settings) -> Vec<(String, String)> {
    let mut lines: Vec<_> = SETTINGS.iter().map(|key| (key.path.to_owned(), key.show(settings))).collect();
    list_items::<IssuerSettings>(settings, &mut lines);
    list_items::<RoleSettings>(settings, &mut lines);
    list_items::<TenantSettings>(settings, &mut lines);
    list_items::<SignatureSettings>(settings, &mut lines);
    list_items::<QueueSettings>(settings, &mut lines);
    list_items::<BridgeSettings>(settings, &mut lines);
    list_items::<OutageSettings>(settings, &mut lines);
    lines
}

fn list_items<T: Item>(settings: &Settings, lines: &mut Vec<(String, String)>) {
    for item in T::list(settings) {
        let id = item.id();
        lines.extend(T::TABLE.iter().map(|key| (format!("{}[{id}].{}", T::LIST, key.path), key.show(item))));
    }
}

fn find<'a, T: Item>(settings: &'a Settings, id: &str) -> Option<&'a T> {
    T::list(settings).iter().find(|item| item.id() == id)
}

fn compare<T>(table: &[Key<T>], old: &T, new: &T, prefix: &str, changes: &mut Vec<Change>) {
    for key in table {
        let (old, new) = (key.show(old), key.show(new));
        if old != new {
            changes.push(Change { key: format!("{prefix}{}", key.path), old, new, reloadable: key.live });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Storage, parse};
    use crate::wire::Contract;

    fn settings(text: &str) -> Settings {
        parse(text, "test.yaml").expect("valid").settings
    }

    #[test]
    fn a_reload_takes_what_can_change_and_says_what_cannot() {
        let old = settings(
            "name: a\nstore: {linger: 2ms, cache: 4MiB}\nqueues:\n  - {name: kept, capture: a, storage: memory}\n  \
             - {name: gone, capture: b}\n",
        );
        let new = settings(
            "name: b\nstore: {linger: 5ms, cache: 8MiB}\nlog: {level: debug}\nqueues:\n  \
             - {name: added, capture: c}\n  - {name: kept, capture: [a, d], limits: {bytes: 2GiB}}\n",
        );
        let changes: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(
            changes,
            [
                "name: stays a; b takes effect at the next start",
                "store.linger: 2ms -> 5ms",
                "store.cache: stays 4MiB; 8MiB takes effect at the next start",
                "log.level: info -> debug",
                "queues[added]: absent -> [c]",
                "queues[kept].capture: [a] -> [a, d]",
                "queues[kept].storage: stays memory; disk takes effect at the next start",
                "queues[kept].contract: memory -> disk",
                "queues[kept].limits.bytes: 1GiB -> 2GiB",
                "queues[gone]: stays until the next start, and its messages stay after that",
            ]
        );
        let merged = reloadable(&old, &new);
        assert_eq!((merged.name.as_str(), merged.store.linger_us, merged.store.cache_bytes), ("a", 5_000, 4 << 20));
        assert_eq!(merged.queues.iter().map(|q| q.name.as_str()).collect::<Vec<_>>(), ["added", "kept", "gone"]);
        assert_eq!((merged.queues[1].storage, merged.queues[1].contract), (Storage::Memory, Contract::Memory));
        assert_eq!(merged.queues[1].bytes_max, 2 << 30);
        assert!(diff(&old, &merged).iter().all(|change| change.reloadable), "what is left can change");
        assert!(diff(&old, &old).is_empty());
    }

    #[test]
    fn every_key_that_stays_is_restored_and_every_other_is_taken() {
        let old = Settings::default();
        let new = settings(
            "name: other\ndata: /elsewhere\nlisten: {tcp: none, unix: other.sock, unix_mode: 0600}\n\
             store: {cache: 8MiB, tail: 1MiB, reserve: 1MiB, dedupe: {ids: 1, window: 1s}}\n\
             limits: {heartbeat: 1m}\nqueues: [{name: main, capture: '#', storage: memory, keep: work, history: {enabled: true}}]",
        );
        let merged = reloadable(&old, &new);
        let left: Vec<String> = diff(&old, &merged).into_iter().map(|change| change.key).collect();
        assert_eq!(left, ["limits.heartbeat", "queues[main].contract"]);
    }
}
