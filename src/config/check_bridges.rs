//! What of bridges and outage policies contradicts the rest of the settings, or deserves a warning.

use super::bridges::{BridgeSettings, DownRoute, OutageSettings, UpRoute, host};
use super::check::Found;
use super::settings::{Keep, QueueSettings, Settings, Storage};
use crate::model::limits::NAME_BYTES_MAX;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Lanes there are: each has a share.
const LANES: usize = 10;

/// Name of the queue of a tenant for which none is configured, and the channels it captures.
const MAIN: (&str, &[&str]) = ("main", &["#"]);

/// The queues of a tenant, each with what it captures.
fn queues<'a>(settings: &'a Settings, tenant: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let own = |q: &&QueueSettings| q.tenant == *tenant;
    let captures = |q: &'a QueueSettings| (q.name.as_str(), q.capture.iter().map(String::as_str).collect());
    let queues: Vec<_> = settings.queues.iter().filter(own).map(captures).collect();
    if queues.is_empty() && !tenant.is_empty() { vec![(MAIN.0, MAIN.1.to_vec())] } else { queues }
}

fn find<'a>(settings: &'a Settings, tenant: &str, name: &str) -> Option<&'a QueueSettings> {
    settings.queues.iter().find(|q| q.tenant == *tenant && q.name == *name)
}

/// What was expected where a queue was named that is not there.
fn expected(settings: &Settings, tenant: &str) -> String {
    let names: Vec<&str> = queues(settings, tenant).iter().map(|(name, _)| *name).collect();
    let of = if tenant.is_empty() { String::new() } else { format!(" of tenant {tenant}") };
    if names.is_empty() { format!("a queue{of}: there is none") } else { format!("a queue{of}: {}", names.join(", ")) }
}

/// Whether a channel of one filter may match the other.
fn meet(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(x), Some(y)) if x == y || x == "+" || y == "+" => {}
            _ => return false,
        }
    }
}

fn is_loopback(url: &str) -> bool {
    let host = host(url);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Found<'_> {
    pub(super) fn bridges(&mut self) {
        let settings = &self.reading.settings;
        let mut forwarded: HashMap<(&str, String), &str> = HashMap::new();
        for (i, bridge) in settings.bridges.iter().enumerate() {
            let prefix = format!("bridges[{i}].");
            self.addresses(&prefix, bridge);
            self.credentials(&prefix, bridge);
            self.bounds(&prefix, bridge);
            self.up(&prefix, bridge, &mut forwarded);
            self.down(&prefix, bridge);
        }
        let mut classes = HashSet::new();
        for (i, class) in settings.outage.iter().enumerate() {
            let again = !classes.insert((&class.tenant, &class.queue, &class.channels));
            self.outage(
                &format!("outage[{i}]."),
                class,
                again,
                forwarded.contains_key(&(&class.tenant, class.queue.clone())),
            );
        }
    }

    /// Whether the queues of this tenant are known: neither it nor one of them was refused.
    fn knows_queues(&self, tenant: &str) -> bool {
        let settings = &self.reading.settings;
        let refused = (0..settings.queues.len()).any(|i| self.reading.failed(&format!("queues[{i}].name")));
        let known = tenant.is_empty() || settings.tenants.iter().any(|t| t.name == *tenant);
        known && !refused && !self.reading.failed("queues")
    }

    fn addresses(&mut self, prefix: &str, bridge: &BridgeSettings) {
        let urls = format!("{prefix}urls");
        if bridge.urls.is_empty() {
            self.problem(&[&urls], "found none; expected at least one address of the upstream".into());
        }
        let mut seen = HashSet::new();
        for url in &bridge.urls {
            if !seen.insert(url) {
                self.problem(&[&urls], format!("found {url} twice; expected each address once"));
            }
            let plain = ["tcp://", "ws://"].iter().any(|scheme| url.starts_with(scheme));
            if plain && !is_loopback(url) {
                let message = format!(
                    "{url} leaves this machine without TLS: whoever is on the way reads and changes what passes, and sees the \
                     credentials"
                );
                self.warn(&[&urls], message);
            }
        }
        let secure = bridge.urls.iter().any(|url| url.starts_with("tls://") || url.starts_with("wss://"));
        if !secure && !bridge.urls.is_empty() {
            for key in ["tls.ca", "tls.crl", "tls.certificate", "tls.server_name"] {
                let key = format!("{prefix}{key}");
                if self.reading.place(&key).is_some() {
                    self.warn(&[&key], "no address speaks TLS: this has no effect".into());
                }
            }
        }
    }

    fn credentials(&mut self, prefix: &str, bridge: &BridgeSettings) {
        let key = |name: &str| format!("{prefix}{name}");
        let (certificate, private) = (key("tls.certificate"), key("tls.key"));
        match (&bridge.certificate, bridge.certificate_key.as_str()) {
            (Some(path), "") => {
                let message = format!("found {} without tls.key; expected its private key there", path.display());
                self.problem(&[&certificate, &private], message);
            }
            (None, source) if !source.is_empty() => {
                let message = format!("found {source} without tls.certificate; expected the certificate it belongs to");
                self.problem(&[&private, &certificate], message);
            }
            _ => {}
        }
        let (user, password) = (key("login.user"), key("login.password"));
        match (bridge.user.as_str(), bridge.password.as_str()) {
            (user_name, "") if !user_name.is_empty() => {
                let message = format!("found {user_name} without login.password; expected where the password is");
                self.problem(&[&user, &password], message);
            }
            ("", source) if !source.is_empty() => {
                let message = format!("found {source} without login.user; expected whose password it is");
                self.problem(&[&password, &user], message);
            }
            _ => {}
        }
        let ways = [("login.key", &bridge.login_key), ("login.token", &bridge.token), ("login.user", &bridge.user)];
        let set: Vec<&str> = ways.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| *name).collect();
        if set.len() > 1 {
            let last = key(set[set.len() - 1]);
            self.problem(&[&last], format!("found {}; expected one way to log in", set.join(" and ")));
        }
    }

    fn bounds(&mut self, prefix: &str, bridge: &BridgeSettings) {
        let consumer = bridge.consumer().len();
        if consumer > NAME_BYTES_MAX {
            let most = NAME_BYTES_MAX - BridgeSettings::CONSUMER.len();
            let message = format!("found a name of {} bytes; expected at most {most}", bridge.name.len());
            self.problem(&[&format!("{prefix}name")], message);
        }
        if bridge.weights.len() != LANES {
            let message = format!("found {}; expected ten shares, those of the lanes 0 to 9", bridge.weights.len());
            self.problem(&[&format!("{prefix}weights")], message);
        }
    }

    fn up<'a>(
        &mut self,
        prefix: &str,
        bridge: &'a BridgeSettings,
        forwarded: &mut HashMap<(&'a str, String), &'a str>,
    ) {
        let settings = &self.reading.settings;
        let (up, tenant) = (format!("{prefix}up"), bridge.tenant.as_str());
        if bridge.up.is_empty() && bridge.down.is_empty() && !self.reading.failed(&format!("{prefix}down")) {
            self.warn(&[&up, &format!("{prefix}name")], "it has no routes: it connects and does nothing".into());
        }
        let there = queues(settings, tenant);
        let mut routes: Vec<UpRoute> = bridge.up_routes().collect();
        routes.sort_by(|a, b| a.queue.cmp(&b.queue));
        for same in routes.chunk_by(|a, b| a.queue == b.queue) {
            let name = same[0].queue.as_str();
            let Some((_, captures)) = there.iter().find(|(queue, _)| *queue == name) else {
                if !self.knows_queues(tenant) {
                    continue;
                }
                self.problem(&[&up], format!("found queue `{name}`; expected {}", expected(settings, tenant)));
                continue;
            };
            for route in same {
                let filter = &route.mapping.filter;
                if !captures.iter().any(|capture| meet(capture, filter)) {
                    let message =
                        format!("queue {name} captures no channel of {filter}: nothing will be forwarded by it");
                    self.warn(&[&up], message);
                }
            }
            let queue = find(settings, tenant, name);
            let other = forwarded.insert((tenant, name.to_owned()), &bridge.name);
            if let Some(other) = other.filter(|_| queue.is_some_and(|q| q.keep == Keep::Work)) {
                let message = format!(
                    "found queue `{name}`, which bridge {other} forwards and which has keep work; expected keep interest \
                     there, because a queue with keep work has one consumer"
                );
                self.problem(&[&up], message);
            } else if queue.is_some_and(|q| q.keep == Keep::Work) {
                let consumes = |filter: &String| filter.split('/').next() == Some(name);
                for role in settings.roles.iter().filter(|role| role.allow.consume.iter().any(consumes)) {
                    let message = format!(
                        "queue {name} has keep work and this bridge is its consumer: role {}, which may consume it, will be \
                         refused there",
                        role.name
                    );
                    self.warn(&[&up], message);
                }
            }
            if queue.is_some_and(|q| q.storage == Storage::Memory) {
                let message =
                    format!("queue {name} is in memory: what waits there for the upstream is gone at a restart");
                self.warn(&[&up], message);
            }
        }
    }

    fn down(&mut self, prefix: &str, bridge: &BridgeSettings) {
        let key = format!("{prefix}down");
        let there = queues(&self.reading.settings, &bridge.tenant);
        for route in bridge.down_routes() {
            let DownRoute::Consume(queue, mapping) = route else { continue };
            // Placeholders may become anything.
            let target = mapping.target.replace("{name}", "+").replace("{bridge}", "+");
            if !there.iter().any(|(_, captures)| captures.iter().any(|capture| meet(capture, &target))) {
                let message = format!(
                    "no queue captures {}: what comes from the upstream's {queue} cannot be stored here, and stays there",
                    mapping.target
                );
                self.warn(&[&key], message);
            }
        }
    }

    fn outage(&mut self, prefix: &str, class: &OutageSettings, again: bool, is_forwarded: bool) {
        let key = |name: &str| format!("{prefix}{name}");
        let (queue, channels) = (key("queue"), key("channels"));
        let settings = &self.reading.settings;
        let known = self.knows_queues(&class.tenant);
        if known && !queues(settings, &class.tenant).iter().any(|(name, _)| *name == class.queue) {
            let message = format!("found `{}`; expected {}", class.queue, expected(settings, &class.tenant));
            self.problem(&[&queue], message);
        } else if known && !is_forwarded {
            self.warn(
                &[&queue],
                format!("no bridge forwards queue {}: nothing in it waits for an upstream", class.queue),
            );
        }
        if class.channels.is_empty() {
            self.problem(&[&channels], "found no filter; expected at least one, such as telemetry/#".into());
        }
        if again {
            self.problem(&[&channels], "found a class that stands above already; expected each once".into());
        }
        let gives_up = class.keep_last > 0 || class.every > 1 || class.period_ms > 0 || class.ttl_ms > 0;
        if !gives_up && class.lane == 0 {
            let message = "it has none of keep_last, every, period, ttl and lane: it changes nothing".into();
            self.warn(&[&queue], message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::meet;
    use crate::config::{diff, parse};

    /// What is said of one bridge beside a queue `main` that captures all.
    fn of_bridge(keys: &str) -> String {
        said(&format!("queues: [{{name: main, capture: '#'}}]\nbridges:\n  - {{name: hub, {keys}}}\n"))
    }

    /// What is said of one outage policy beside a bridge of `main`.
    fn of_outage(keys: &str) -> String {
        said(&format!(
            "queues: [{{name: main, capture: '#'}}, {{name: idle, capture: x}}]\nbridges: [{{name: hub, urls: 'tls://h', up: \
             main}}]\noutage:\n  - {{{keys}}}\n"
        ))
    }

    /// Problems, or else warnings.
    fn said(text: &str) -> String {
        match parse(text, "t.yaml") {
            Ok(loaded) => loaded.warnings.iter().map(|w| format!("warning: {w}")).collect::<Vec<_>>().join("\n"),
            Err(errors) => errors.to_string(),
        }
    }

    #[test]
    fn each_mistake_of_a_bridge_is_told_with_its_line_and_what_was_expected() {
        let addresses = "expected addresses such as tls://hub.example:8434 or wss://hub.example/ws";
        let secrets = "expected file:PATH, credential:NAME (of systemd) or env:NAME";
        let at = |column: u32| format!("t.yaml:3:{column}: bridges[0].");
        for (keys, expected) in [
            (
                "up: main",
                "t.yaml:3:5: bridges[0].urls: found nothing; expected urls, which every bridge has".to_owned(),
            ),
            ("urls: [], up: main", at(23) + "urls: found none; expected at least one address of the upstream"),
            ("urls: h, up: main", at(23) + "urls: found `h`, which has no scheme such as tls://; " + addresses),
            (
                "urls: 'mqtt://h', up: main",
                at(23)
                    + "urls: found `mqtt://h`, which begins with `mqtt://`: tcp, tls, ws and wss are spoken; "
                    + addresses,
            ),
            (
                "urls: 'tls://h:port', up: main",
                at(23) + "urls: found `tls://h:port`, whose port is not a number from 1 to 65535; " + addresses,
            ),
            (
                "urls: 'tls://me:secret@h', up: main",
                at(23) + "urls: found a text, which holds a user: credentials belong to `login`; " + addresses,
            ),
            (
                "urls: 'tls://h/x', up: main",
                at(23)
                    + "urls: found `tls://h/x`, which has the path `/x`: only ws:// and wss:// have one; "
                    + addresses,
            ),
            (
                "urls: ['tls://h', 'tls://h'], up: main",
                at(23) + "urls: found tls://h twice; expected each address once",
            ),
            ("urls: 'tls://h', up: mian", at(38) + "up: found queue `mian`; expected a queue: main"),
            (
                "urls: 'tls://h', up: 'main a/+ -> b/#'",
                at(38)
                    + "up: found `main a/+ -> b/#`: `b/#` has not the same + and # in the same order as `a/+`; expected routes \
                       such as `main`, `main site/#` or `main site/# -> edges/{name}/site/#`",
            ),
            (
                "urls: 'tls://h', down: 'fetch a'",
                at(40)
                    + "down: found `fetch a`: it does not begin with `subscribe FILTER` or `consume QUEUE`; expected routes such \
                       as `subscribe command/{name}/# -> command/#` or `consume orders`",
            ),
            (
                "urls: 'tls://h', up: main, weights: [1, 2, 3]",
                at(53) + "weights: found 3; expected ten shares, those of the lanes 0 to 9",
            ),
            (
                "urls: 'tls://h', up: main, weights: [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]",
                at(54)
                    + "weights: found `0`: a lane without a share would wait for ever; expected ten shares, those of the lanes 0 \
                       to 9, each from 1 to 1000",
            ),
            (
                "urls: 'tls://h', up: main, tls: {certificate: edge.pem}",
                at(63) + "tls.certificate: found edge.pem without tls.key; expected its private key there",
            ),
            (
                "urls: 'tls://h', up: main, tls: {key: 'file:edge.key'}",
                at(55) + "tls.key: found file:edge.key without tls.certificate; expected the certificate it belongs to",
            ),
            (
                "urls: 'tls://h', up: main, tls: {key: edge.key}",
                at(55) + "tls.key: found `edge.key`, which does not say where the secret is; " + secrets,
            ),
            (
                "urls: 'tls://h', up: main, login: {user: box}",
                at(58) + "login.user: found box without login.password; expected where the password is",
            ),
            (
                "urls: 'tls://h', up: main, login: {password: 'env:P'}",
                at(62) + "login.password: found env:P without login.user; expected whose password it is",
            ),
            (
                "urls: 'tls://h', up: main, login: {key: 'env:K', token: 'env:T'}",
                at(73) + "login.token: found login.key and login.token; expected one way to log in",
            ),
            (
                "urls: 'tls://h', up: main, tenant: red",
                at(52) + "tenant: found `red`; expected the name of one of the tenants",
            ),
            (
                "urls: 'tls://h', up: main, pace: {bytes_per_day: 10}",
                at(66)
                    + "pace.bytes_per_day: found `10`, which has no unit; expected a size from 1KiB to 1024TiB, or none (units: \
                       B, KiB, MiB, GiB, TiB)",
            ),
            ("urls: 'tls://h', upp: main", at(34) + "upp: found an unknown key; did you mean `up`?"),
        ] {
            assert_eq!(of_bridge(keys), expected, "{keys}");
        }
        let long = "n".repeat(122);
        assert_eq!(
            said(&format!(
                "queues: [{{name: main, capture: '#'}}]\nbridges: [{{name: {long}, urls: 'tls://h', up: main}}]\n"
            )),
            "t.yaml:2:18: bridges[0].name: found a name of 122 bytes; expected at most 121"
        );
        assert_eq!(
            said(
                "queues: [{name: main, capture: '#'}]\nbridges:\n- {name: a, urls: 'tls://h', up: main}\n- {name: a, urls: \
                 'tls://i', up: main}\n"
            ),
            "t.yaml:4:10: bridges[1].name: found `a`, which is taken; expected another"
        );
    }

    #[test]
    fn two_bridges_of_a_queue_that_has_one_consumer_are_one_too_many() {
        let two = |keep: &str| {
            said(&format!(
                "queues: [{{name: main, capture: '#', keep: {keep}}}]\nbridges:\n- {{name: a, urls: 'tls://h', up: main}}\n\
                 - {{name: b, urls: 'tls://i', up: main}}\n"
            ))
        };
        assert_eq!(two("interest"), "");
        assert_eq!(
            two("work"),
            "t.yaml:4:34: bridges[1].up: found queue `main`, which bridge a forwards and which has keep work; expected keep \
             interest there, because a queue with keep work has one consumer"
        );
    }

    #[test]
    fn queues_of_a_tenant_are_its_own_and_one_without_any_has_main() {
        let of_red = |queues: &str, up: &str| {
            said(&format!(
                "tenants: [{{name: red}}]\nqueues: [{{name: all, capture: '#'}}{queues}]\nbridges: [{{name: hub, tenant: red, \
                 urls: 'tls://h', up: {up}}}]\n"
            ))
        };
        assert_eq!(of_red("", "main"), "");
        assert_eq!(of_red(", {name: own, tenant: red, capture: '#'}", "own"), "");
        assert_eq!(
            of_red(", {name: own, tenant: red, capture: '#'}", "main"),
            "t.yaml:3:57: bridges[0].up: found queue `main`; expected a queue of tenant red: own"
        );
        // One mistake is told once: whose queues are unknown is not told that they are.
        assert_eq!(
            said("queues: [{name: a/b, capture: '#'}]\nbridges: [{name: hub, urls: 'tls://h', up: main}]\n"),
            "t.yaml:1:17: queues[0].name: found `a/b`, which holds `/`; expected 1 to 128 letters, digits, `.`, `_` or `-`"
        );
    }

    #[test]
    fn what_of_a_bridge_is_probably_not_meant_is_a_warning() {
        let at = |column: u32| format!("warning: t.yaml:3:{column}: bridges[0].");
        let plain = "leaves this machine without TLS: whoever is on the way reads and changes what passes, and sees the credentials";
        for (keys, expected) in [
            ("urls: 'tcp://127.0.0.1:1', up: main", String::new()),
            ("urls: ['ws://[::1]:1/ws', 'tcp://localhost'], up: main", String::new()),
            ("urls: 'tcp://hub.example', up: main", at(23) + "urls: tcp://hub.example " + plain),
            ("urls: ['tls://h', 'ws://10.0.0.1/ws'], up: main", at(23) + "urls: ws://10.0.0.1/ws " + plain),
            ("urls: 'tls://h'", at(12) + "name: it has no routes: it connects and does nothing"),
            (
                "urls: 'tcp://localhost', up: main, tls: {ca: ca.pem}",
                at(62) + "tls.ca: no address speaks TLS: this has no effect",
            ),
        ] {
            assert_eq!(of_bridge(keys), expected, "{keys}");
        }
        let of_queue = |queue: &str, keys: &str| {
            said(&format!("queues: [{{name: main, {queue}}}]\nbridges: [{{name: hub, urls: 'tls://h', {keys}}}]\n"))
        };
        assert_eq!(
            of_queue("capture: '#', storage: memory", "up: main"),
            "warning: t.yaml:2:44: bridges[0].up: queue main is in memory: what waits there for the upstream is gone at a restart"
        );
        assert_eq!(
            of_queue("capture: site/#", "up: main other/#"),
            "warning: t.yaml:2:44: bridges[0].up: queue main captures no channel of other/#: nothing will be forwarded by it"
        );
        assert_eq!(of_queue("capture: site/#", "down: 'consume orders # -> {name}/#'"), "");
        assert_eq!(
            of_queue("capture: site/#", "down: 'consume orders order/#'"),
            "warning: t.yaml:2:46: bridges[0].down: no queue captures order/#: what comes from the upstream's orders cannot be \
             stored here, and stays there"
        );
        assert_eq!(
            said(
                "roles: [{name: reader, consume: 'main/#'}]\nqueues: [{name: main, capture: '#', keep: work}]\nbridges: [{name: \
                 hub, urls: 'tls://h', up: main}]\n"
            ),
            "warning: t.yaml:3:44: bridges[0].up: queue main has keep work and this bridge is its consumer: role reader, which may \
             consume it, will be refused there"
        );
    }

    #[test]
    fn outage_policies_name_queues_that_are_forwarded() {
        let at = |column: u32| format!("t.yaml:4:{column}: outage[0].");
        for (keys, expected) in [
            ("queue: main, channels: 'a/#', keep_last: 1", String::new()),
            ("queue: mian, channels: a, keep_last: 1", at(13) + "queue: found `mian`; expected a queue: main, idle"),
            (
                "queue: main, channels: 'a#', ttl: 1d",
                at(29)
                    + "channels: found `a#` (not a filter: # must stand alone in the last level); expected filters such as telemetry/#",
            ),
            (
                "queue: main, channels: [], ttl: 1d",
                at(29) + "channels: found no filter; expected at least one, such as telemetry/#",
            ),
            (
                "queue: main, channels: a, every: 1",
                at(39) + "every: found `1`, which is too small; expected a whole number from 2 to 1000000, or none",
            ),
            (
                "queue: main, channels: a, lane: 10",
                at(38) + "lane: found `10`, which is too large; expected a whole number from 0 to 9",
            ),
            (
                "queue: idle, channels: a, ttl: 1d",
                "warning: ".to_owned()
                    + &at(13)
                    + "queue: no bridge forwards queue idle: nothing in it waits for an upstream",
            ),
            (
                "queue: main, channels: a",
                "warning: ".to_owned()
                    + &at(13)
                    + "queue: it has none of keep_last, every, period, ttl and lane: it changes nothing",
            ),
        ] {
            assert_eq!(of_outage(keys), expected, "{keys}");
        }
        assert_eq!(
            of_outage("queue: main, channels: a, ttl: 1d}\n  - {queue: main, channels: a, ttl: 2d"),
            "t.yaml:5:29: outage[1].channels: found a class that stands above already; expected each once"
        );
    }

    #[test]
    fn a_reload_shows_what_changes_of_bridges_and_outage_policies() {
        let read = |text: &str| parse(text, "t.yaml").expect("valid").settings;
        let queues = "queues: [{name: main, capture: '#'}]\n";
        let old = read(&format!(
            "{queues}bridges: [{{name: hub, urls: 'tls://h', up: main}}, {{name: old, urls: 'tls://o', up: main}}]\noutage: \
             [{{queue: main, channels: a, ttl: 1d}}]\n"
        ));
        let new = read(&format!(
            "{queues}bridges: [{{name: hub, urls: ['tls://h', 'wss://h'], up: main a/#, login: {{token: 'file:t'}}}}, {{name: \
             new, urls: 'tls://n', up: main}}]\noutage: [{{queue: main, channels: a, ttl: 2d}}]\n"
        ));
        let changes: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(
            changes,
            [
                "bridges[hub].urls: [tls://h] -> [tls://h, wss://h]",
                "bridges[hub].login.token: none -> file:t",
                "bridges[hub].up: [main] -> [main a/#]",
                "bridges[new]: absent -> [tls://n]",
                "bridges[old]: [tls://o] -> absent",
                "outage[main a].ttl: 1d -> 2d",
            ]
        );
    }

    #[test]
    fn filters_meet_where_a_channel_can_match_both() {
        for (a, b, so) in [
            ("#", "a/b", true),
            ("a/#", "a", true),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/+/c", "a/b/#", true),
            ("a/b", "a/c", false),
            ("a", "a/b", false),
            ("+/b/#", "a/+", true),
        ] {
            assert_eq!((meet(a, b), meet(b, a)), (so, so), "{a} {b}");
        }
    }
}
