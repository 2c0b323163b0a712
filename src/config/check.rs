//! What no single value is wrong about: contradictions between keys, and settings that deserve a warning.

use super::bridges::BridgeSettings;
use super::error::Problem;
use super::read::Reading;
use super::settings::{ClientCertificates, Keep, Overflow, QueueSettings, RoleSettings, Storage};
use super::units::Unit;
use crate::model::limits::CAPTURES_MAX;
use crate::wire::Contract;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

/// Appends contradictions to the problems of a reading and returns its warnings.
pub(super) fn check(reading: &mut Reading) -> Vec<Problem> {
    let mut found = Found { reading, problems: Vec::new(), warnings: Vec::new() };
    found.sizes();
    found.listeners();
    found.tls();
    found.names();
    found.queues();
    found.bridges();
    let Found { problems, warnings, .. } = found;
    reading.problems.extend(problems);
    warnings
}

/// Roles that are always there.
const BUILT_IN_ROLES: [&str; 2] = ["open", "admin"];

/// Places of names that were there before.
fn twice<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(usize, &'a str)> {
    let mut seen = HashSet::new();
    names.enumerate().filter(|(_, name)| !seen.insert(*name)).collect()
}

fn position(roles: &[RoleSettings], name: &str) -> usize {
    roles.iter().position(|role| role.name == name).unwrap_or_default()
}

pub(super) struct Found<'a> {
    pub(super) reading: &'a Reading,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// A key and its value, as one side of a comparison.
type Side<'a> = (&'a str, u64);

impl Found<'_> {
    /// Tells a problem at the first of `keys` that was set by someone; silent when one of them was refused already.
    pub(super) fn problem(&mut self, keys: &[&str], message: String) {
        if let Some(problem) = self.at(keys, message) {
            self.problems.push(problem);
        }
    }

    pub(super) fn warn(&mut self, keys: &[&str], message: String) {
        if let Some(problem) = self.at(keys, message) {
            self.warnings.push(problem);
        }
    }

    fn at(&self, keys: &[&str], message: String) -> Option<Problem> {
        if keys.iter().any(|key| self.reading.failed(key)) {
            return None;
        }
        let key = keys.iter().find(|key| self.reading.place(key).is_some()).or(keys.first())?;
        Some(Problem { place: self.reading.place(key).cloned(), key: (*key).into(), message })
    }

    /// `small` must not be above `large`.
    fn at_most(&mut self, unit: Unit, small: Side<'_>, large: Side<'_>) {
        if small.1 <= large.1 {
            return;
        }
        let (small_text, large_text) = (unit.show(small.1), unit.show(large.1));
        let message = if self.reading.place(small.0).is_some() {
            format!("found {small_text}; expected at most {large_text}, which is {}", large.0)
        } else {
            format!("found {large_text}; expected at least {small_text}, which is {}", small.0)
        };
        self.problem(&[small.0, large.0], message);
    }

    fn sizes(&mut self) {
        let (limits, store) = (&self.reading.settings.limits, &self.reading.settings.store);
        let message = ("limits.message", u64::from(limits.message_bytes_max));
        let reassembly = ("limits.reassembly", u64::from(limits.reassembly_bytes_max));
        let window = ("limits.window.bytes", u64::from(limits.window_bytes));
        let outbox = ("limits.outbox", u64::from(limits.outbox_bytes_max));
        let pending = ("store.pending", u64::from(store.pending_bytes_max));
        let batch = ("store.batch", u64::from(store.batch_bytes));
        let cache = u64::from(store.cache_bytes);
        let (low, high) = (store.free_low_bytes, store.free_high_bytes);
        let (ids, retained, values) = (store.dedupe.ids_max, limits.retained_bytes_max, limits.retained_max);

        for large in [reassembly, window, outbox, pending] {
            self.at_most(Unit::Bytes, message, large);
        }
        self.at_most(Unit::Bytes, batch, pending);
        if low >= high {
            let (low, high) = (Unit::Bytes.show(low), Unit::Bytes.show(high));
            let message = if self.reading.place("store.free_low").is_some() {
                format!("found {low}; expected less than {high}, which is store.free_high")
            } else {
                format!("found {high}; expected more than {low}, which is store.free_low")
            };
            self.problem(&["store.free_low", "store.free_high"], message);
        }
        if batch.1 > cache / 2 {
            let message = format!(
                "{} is more than half of store.cache ({}): a commit will write pages early",
                Unit::Bytes.show(batch.1),
                Unit::Bytes.show(cache)
            );
            self.warn(&["store.batch", "store.cache"], message);
        }
        if ids == 0 {
            self.warn(&["store.dedupe.ids"], "dedupe is off: a publish sent twice is stored twice".into());
        }
        if (retained == 0) != (values == 0) {
            let message = "one of limits.retained.values and limits.retained.bytes is 0: nothing is retained".into();
            self.warn(&["limits.retained.values", "limits.retained.bytes"], message);
        }
    }

    fn listeners(&mut self) {
        let listen = &self.reading.settings.listen;
        let all: Vec<(&str, SocketAddr)> = [
            ("listen.tcp", &listen.tcp),
            ("listen.tls", &listen.tls),
            ("listen.http", &listen.http),
            ("listen.https", &listen.https),
        ]
        .into_iter()
        .flat_map(|(key, addresses)| addresses.iter().map(move |address| (key, *address)))
        .collect();
        if all.is_empty() && listen.unix.is_none() {
            let message = "found no address and no listen.unix; expected at least one of them".into();
            return self.problem(&["listen.tcp", "listen.unix"], message);
        }
        let no_certificate = self.reading.settings.tls.certificates.is_empty();
        for (i, (key, second)) in all.iter().enumerate() {
            if let Some((_, first)) = all[..i].iter().find(|(_, first)| collide(*first, *second)) {
                let message = if first == second {
                    format!("found {second} twice; expected each address once")
                } else {
                    format!("found {first} and {second}, of which one includes the other; expected one of them")
                };
                self.problem(&[key], message);
            }
            let secure = matches!(*key, "listen.tls" | "listen.https");
            if secure && no_certificate {
                let message = format!("found {second} without tls.certificates; expected a certificate to show there");
                self.problem(&[key, "tls.certificates"], message);
            }
            if !secure && !second.ip().is_loopback() {
                let message = format!(
                    "{second} can be reached from outside this machine without TLS: whoever is on the way reads and \
                     changes what passes"
                );
                self.warn(&[key], message);
            }
        }
    }

    fn tls(&mut self) {
        let tls = &self.reading.settings.tls;
        let (certificates, keys) = (tls.certificates.len(), tls.keys.len());
        if certificates != keys {
            let message = format!("found {keys} keys; expected {certificates}, one for each of tls.certificates");
            self.problem(&["tls.keys", "tls.certificates"], message);
        }
        let asks = tls.client_certificates != ClientCertificates::None;
        if asks && tls.client_ca.is_empty() {
            let message = "found no authority; expected one whose client certificates are believed".into();
            self.problem(&["tls.client_ca", "tls.client_certificates"], message);
        }
        if !asks && !tls.client_ca.is_empty() {
            let message = "tls.client_certificates is none: no client is asked for a certificate".into();
            self.warn(&["tls.client_certificates", "tls.client_ca"], message);
        }
    }

    /// Names that other keys refer to: roles and tenants.
    fn names(&mut self) {
        let settings = &self.reading.settings;
        let roles: Vec<&str> = settings.roles.iter().map(|r| r.name.as_str()).chain(BUILT_IN_ROLES).collect();
        let tenants: Vec<&str> = settings.tenants.iter().map(|t| t.name.as_str()).collect();
        let mut unknown: Vec<(String, String)> = Vec::new();
        let mut role = |key: String, name: &str| {
            if !roles.contains(&name) {
                unknown.push((key, format!("found `{name}`; expected the name of a role: {}", roles.join(", "))));
            }
        };
        for name in settings.auth.anonymous.iter().flatten() {
            role("auth.anonymous".into(), name);
        }
        for (i, issuer) in settings.issuers.iter().enumerate() {
            issuer.roles.iter().for_each(|name| role(format!("issuers[{i}].roles"), name));
        }
        let mut tenant = |key: String, name: &str| {
            if !name.is_empty() && name != "{claim}" && !tenants.contains(&name) {
                unknown.push((key, format!("found `{name}`; expected the name of one of the tenants")));
            }
        };
        for (i, issuer) in settings.issuers.iter().enumerate() {
            tenant(format!("issuers[{i}].tenant"), &issuer.tenant);
        }
        for (i, rule) in settings.signatures.iter().enumerate() {
            tenant(format!("signatures[{i}].tenant"), &rule.tenant);
        }
        for (i, queue) in settings.queues.iter().enumerate() {
            tenant(format!("queues[{i}].tenant"), &queue.tenant);
        }
        for (i, bridge) in settings.bridges.iter().enumerate() {
            tenant(format!("bridges[{i}].tenant"), &bridge.tenant);
        }
        for (i, class) in settings.outage.iter().enumerate() {
            tenant(format!("outage[{i}].tenant"), &class.tenant);
        }
        for (i, issuer) in settings.issuers.iter().enumerate() {
            if issuer.keys.is_empty() && issuer.jwks.is_none() {
                let message = format!("found neither keys nor jwks; expected what `{}` signs with", issuer.name);
                unknown.push((format!("issuers[{i}].name"), message));
            }
            for (key, list) in [("algorithms", &issuer.algorithms), ("audiences", &issuer.audiences)] {
                if list.is_empty() {
                    unknown.push((format!("issuers[{i}].{key}"), "found none; expected at least one".into()));
                }
            }
        }
        for (i, name) in twice(settings.roles.iter().map(|r| r.name.as_str()).chain(BUILT_IN_ROLES)) {
            // The built-in ones come last: the one to blame is the file's.
            let i = if i < settings.roles.len() { i } else { position(&settings.roles, name) };
            unknown.push((format!("roles[{i}].name"), format!("found `{name}`, which is taken; expected another")));
        }
        for (i, name) in twice(settings.tenants.iter().map(|t| t.name.as_str())) {
            unknown.push((format!("tenants[{i}].name"), format!("found `{name}`, which is taken; expected another")));
        }
        for (i, name) in twice(settings.issuers.iter().map(|t| t.name.as_str())) {
            unknown.push((format!("issuers[{i}].name"), format!("found `{name}`, which is taken; expected another")));
        }
        for (i, name) in twice(settings.bridges.iter().map(|b| b.name.as_str())) {
            unknown.push((format!("bridges[{i}].name"), format!("found `{name}`, which is taken; expected another")));
        }
        for (key, message) in unknown {
            self.problem(&[&key], message);
        }
    }

    fn queues(&mut self) {
        let reading = self.reading;
        let queues = &reading.settings.queues;
        if queues.is_empty() {
            self.warn(&["queues"], "there is no queue: every message is live only, and none is kept".into());
        }
        let mut names: HashMap<(&str, &str), usize> = HashMap::new();
        let mut captures: HashMap<(&str, &str), usize> = HashMap::new();
        for (index, queue) in queues.iter().enumerate() {
            let name_key = format!("queues[{index}].name");
            let first = *names.entry((&queue.tenant, &queue.name)).or_insert(index);
            if first != index {
                let message = format!("found `{}`, the name of queues[{first}] too; expected another", queue.name);
                self.problem(&[&name_key], message);
            }
            self.queue(&format!("queues[{index}]."), queue);
            let mut filters: Vec<&str> = queue.capture.iter().map(String::as_str).collect();
            filters.sort_unstable();
            filters.dedup();
            let capture_key = format!("queues[{index}].capture");
            if filters.len() < queue.capture.len() {
                self.warn(&[&capture_key], "a filter is written twice".into());
            }
            for filter in filters {
                let count = captures.entry((&queue.tenant, filter)).or_insert(0);
                *count += 1;
                if *count > CAPTURES_MAX {
                    let message = format!("found `{filter}` in queue number {count}; expected at most {CAPTURES_MAX}");
                    self.problem(&[&capture_key], message);
                }
            }
        }
    }

    fn queue(&mut self, prefix: &str, queue: &QueueSettings) {
        let key = |name: &str| format!("{prefix}{name}");
        let (capture, contract, storage) = (key("capture"), key("contract"), key("storage"));
        if queue.capture.is_empty() {
            self.problem(&[&capture], "found no filter; expected at least one, such as #".into());
        }
        if queue.storage == Storage::Memory && queue.contract > Contract::Memory {
            let found = if queue.contract == Contract::Disk { "disk" } else { "upstream" };
            let message = format!("found {found}; expected memory, because the queue's storage is memory");
            self.problem(&[&contract, &storage], message);
        } else if queue.contract == Contract::Upstream {
            let forwards =
                |b: &BridgeSettings| b.tenant == queue.tenant && b.up_routes().any(|r| r.queue == queue.name);
            if !self.reading.settings.bridges.iter().any(forwards) {
                let message = "found upstream; expected memory or disk, because no bridge forwards this queue".into();
                self.problem(&[&contract], message);
            }
        }
        let (keep, overflow, age) = (key("keep"), key("overflow"), key("limits.age"));
        if queue.keep == Keep::Limits && queue.overflow == Overflow::Reject && queue.age_ms_max == 0 {
            let message = "found limits with overflow reject and no limits.age; expected an age, drop-oldest or \
                           drop-newest: full once, this queue would refuse for ever"
                .into();
            self.problem(&[&keep, &overflow, &age], message);
        }
        let consumers = key("limits.consumers");
        if queue.keep == Keep::Work && queue.consumers_max > 1 && self.reading.place(&consumers).is_some() {
            let message = format!("found {}; expected 1, because a queue with keep work has one", queue.consumers_max);
            self.problem(&[&consumers, &keep], message);
        }
        let (backoff, backoff_max) = (key("consumer.backoff"), key("consumer.backoff_max"));
        let first = (backoff.as_str(), u64::from(queue.backoff_ms));
        self.at_most(Unit::Millis, first, (&backoff_max, u64::from(queue.backoff_ms_max)));
        let bytes = key("limits.bytes");
        let message_bytes_max = u64::from(self.reading.settings.limits.message_bytes_max);
        if queue.bytes_max < message_bytes_max {
            let message = format!(
                "{} is less than limits.message ({}): larger messages never fit this queue",
                Unit::Bytes.show(queue.bytes_max),
                Unit::Bytes.show(message_bytes_max)
            );
            self.warn(&[&bytes, "limits.message"], message);
        }
    }
}

/// Whether binding both must fail: the same port on the same address, or on one and all addresses of its family.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
