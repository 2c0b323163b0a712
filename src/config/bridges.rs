//! Bridges upstream: their settings, their routes as text, and the keys of both.

use super::items::{Item, check_text, filter, name, tenant, tenant_shown};
use super::keys::{
    DAY, HOUR, KIB, Key, Kind, MIB, NAME, SECOND, SECRETS, TIB, check_name, check_path, check_secret, choice, live,
    number, one_path, paths, texts,
};
use super::settings::Settings;
use super::units::Unit;
use crate::model::Filter;
use crate::model::limits::NAME_BYTES_MAX;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A bridge: one upstream, what is forwarded to it and what is brought from it. Relative paths are inside the data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeSettings {
    /// Its name: what it is operated by, and its consumers' names are made of.
    pub name: String,
    /// Tenant whose queues and channels it joins with the upstream; empty for none.
    pub tenant: String,
    /// Addresses of the upstream, the preferred first: `tcp://`, `tls://`, `ws://` or `wss://`.
    pub urls: Vec<String>,
    /// PEM files of the authorities whose server certificates are believed; the system's where there is none.
    pub ca: Vec<PathBuf>,
    /// Revocation lists of these authorities.
    pub crl: Vec<PathBuf>,
    /// PEM file of the certificate shown, leaf first.
    pub certificate: Option<PathBuf>,
    /// Its private key: a secret source, or empty.
    pub certificate_key: String,
    /// Name the upstream's certificate must hold, where it is not the address's; empty is that.
    pub server_name: String,
    /// Ed25519 key to log in with: a secret source, or empty.
    pub login_key: String,
    /// Token to log in with: a secret source, or empty.
    pub token: String,
    /// Name to log in with, beside a password; or empty.
    pub user: String,
    /// Password: a secret source, or empty.
    pub password: String,
    /// What is forwarded: [`UpRoute`]s as text.
    pub up: Vec<String>,
    /// What is brought: [`DownRoute`]s as text.
    pub down: Vec<String>,
    /// Heartbeat asked for, in milliseconds; 0 leaves it to the upstream.
    pub heartbeat_ms: u32,
    /// Milliseconds a forwarded message may wait for its acknowledgement before the link is not healthy; after twice that, without
    /// any byte or acknowledgement moving, it is connected anew.
    pub ack_ms_max: u32,
    /// Most messages under way without an acknowledgement.
    pub window_messages: u32,
    /// Most bytes of records under way without an acknowledgement.
    pub window_bytes: u32,
    /// Whether batches are compressed with LZ4, where that makes them smaller and the upstream takes it.
    pub compress: bool,
    /// Shares of the lanes 0 to 9, of what is sent while several wait.
    pub weights: Vec<u32>,
    /// Most bytes a second to the upstream; 0 is no cap.
    pub bytes_per_second: u64,
    /// Most messages a second to the upstream; 0 is no cap.
    pub messages_per_second: u32,
    /// Most bytes a day (UTC) to and from the upstream; 0 is no budget.
    pub bytes_per_day: u64,
    /// Milliseconds in which a drain after an outage reaches its full speed.
    pub ramp_ms: u32,
    /// Bridges a message may have passed.
    pub hops_max: u32,
    /// Milliseconds after which the preferred address is tried again while another one is in use.
    pub return_ms: u32,
}

/// What of a channel class is given up when the upstream was away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutageSettings {
    /// Queue it is about.
    pub queue: String,
    /// Tenant of the queue; empty for none.
    pub tenant: String,
    /// Channels it is about.
    pub channels: Vec<String>,
    /// Only messages that waited longer than this are touched, in milliseconds.
    pub after_ms: u64,
    /// Newest messages of each channel that are kept; 0 is all.
    pub keep_last: u32,
    /// Of each channel one of so many is kept; 0 and 1 are all.
    pub every: u32,
    /// Of each channel one is kept in so many milliseconds; 0 is all.
    pub period_ms: u64,
    /// Milliseconds after which a message is not worth sending any more; 0 is never.
    pub ttl_ms: u64,
    /// Lane its messages travel in, unless the publisher asked for a higher one.
    pub lane: u8,
}

/// What is forwarded of a queue and under which channels: `QUEUE [FILTER [-> TARGET]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpRoute {
    /// The queue.
    pub queue: String,
    /// What of it.
    pub mapping: MappingText,
}

/// What is brought from the upstream: `subscribe FILTER [-> TARGET]` (live, since the last that came) or
/// `consume QUEUE [FILTER [-> TARGET]]` (durably: stored here first).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownRoute {
    /// Live.
    Subscribe(MappingText),
    /// From a queue of the upstream.
    Consume(String, MappingText),
}

/// A filter and where its messages go. The target has as many `+` as the filter, in order, and ends in `#` if that does;
/// `{name}` and `{bridge}` stand for the broker's and the bridge's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingText {
    /// What is meant.
    pub filter: String,
    /// Under which channel it goes on; the same as the filter where nothing is changed.
    pub target: String,
}

/// Why a text is not a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteError(String);

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RouteError {}

impl MappingText {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.filter == self.target
    }

    fn parse(words: &[&str]) -> Result<Self, RouteError> {
        let (source, target) = match words {
            [] => ("#", "#"),
            [source] => (*source, *source),
            [source, "->", target] => (*source, *target),
            _ => return Err(RouteError("it has more than a filter, `->` and a target".into())),
        };
        for text in [source, target] {
            Filter::parse(text).map_err(|error| RouteError(format!("`{text}`: {error}")))?;
        }
        let wild = |text: &str| {
            text.split('/').filter(|level| matches!(*level, "+" | "#")).map(str::to_owned).collect::<Vec<_>>()
        };
        if wild(source) != wild(target) {
            return Err(RouteError(format!("`{target}` has not the same + and # in the same order as `{source}`")));
        }
        Ok(Self { filter: source.into(), target: target.into() })
    }
}

impl FromStr for UpRoute {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let Some((queue, rest)) = words.split_first() else { return Err(RouteError("it is empty".into())) };
        check_queue(queue)?;
        Ok(Self { queue: (*queue).into(), mapping: MappingText::parse(rest)? })
    }
}

impl FromStr for DownRoute {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["subscribe", rest @ ..] if !rest.is_empty() => Ok(Self::Subscribe(MappingText::parse(rest)?)),
            ["consume", queue, rest @ ..] => {
                check_queue(queue)?;
                Ok(Self::Consume((*queue).into(), MappingText::parse(rest)?))
            }
            _ => Err(RouteError("it does not begin with `subscribe FILTER` or `consume QUEUE`".into())),
        }
    }
}

fn check_queue(name: &str) -> Result<(), RouteError> {
    if name.len() > NAME_BYTES_MAX || check_name(name).is_err() {
        return Err(RouteError(format!("`{name}` is not the name of a queue: {NAME}")));
    }
    Ok(())
}

/// Shares of the lanes 0 to 9 by default: each twice the one below, the upper ones more.
const WEIGHTS: [u32; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

impl BridgeSettings {
    /// What the names of bridges' consumers begin with.
    pub const CONSUMER: &str = "bridge:";

    /// A bridge with the defaults, to nowhere.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            tenant: String::new(),
            urls: Vec::new(),
            ca: Vec::new(),
            crl: Vec::new(),
            certificate: None,
            certificate_key: String::new(),
            server_name: String::new(),
            login_key: String::new(),
            token: String::new(),
            user: String::new(),
            password: String::new(),
            up: Vec::new(),
            down: Vec::new(),
            heartbeat_ms: 0,
            ack_ms_max: 30_000,
            window_messages: 4_096,
            window_bytes: MIB as u32,
            compress: true,
            weights: WEIGHTS.to_vec(),
            bytes_per_second: 0,
            messages_per_second: 0,
            bytes_per_day: 0,
            ramp_ms: 2_000,
            hops_max: 8,
            return_ms: 300_000,
        }
    }

    /// Its routes up; what is malformed was refused when the settings were read.
    pub fn up_routes(&self) -> impl Iterator<Item = UpRoute> + '_ {
        self.up.iter().filter_map(|text| text.parse().ok())
    }

    /// Its routes down.
    pub fn down_routes(&self) -> impl Iterator<Item = DownRoute> + '_ {
        self.down.iter().filter_map(|text| text.parse().ok())
    }

    /// Name of its consumer in the queues it forwards.
    #[must_use]
    pub fn consumer(&self) -> String {
        format!("{}{}", Self::CONSUMER, self.name)
    }
}

impl Item for BridgeSettings {
    const LIST: &'static str = "bridges";
    const NOUN: &'static str = "bridge";
    const TABLE: &'static [Key<Self>] = BRIDGE;
    const NEEDED: &'static [&'static str] = &["name", "urls"];
    const ITEMS_MAX: usize = 64;
    const REMOVABLE: bool = true;

    fn blank() -> Self {
        Self::new("")
    }
    fn id(&self) -> String {
        self.name.clone()
    }
    fn list(settings: &Settings) -> &Vec<Self> {
        &settings.bridges
    }
    fn list_mut(settings: &mut Settings) -> &mut Vec<Self> {
        &mut settings.bridges
    }
    fn summary(&self) -> String {
        format!("[{}]", self.urls.join(", "))
    }
}

impl Item for OutageSettings {
    const LIST: &'static str = "outage";
    const NOUN: &'static str = "outage policy";
    const TABLE: &'static [Key<Self>] = OUTAGE;
    const NEEDED: &'static [&'static str] = &["queue", "channels"];
    const ITEMS_MAX: usize = 256;
    const REMOVABLE: bool = true;

    fn blank() -> Self {
        Self {
            queue: String::new(),
            tenant: String::new(),
            channels: Vec::new(),
            after_ms: 60_000,
            keep_last: 0,
            every: 0,
            period_ms: 0,
            ttl_ms: 0,
            lane: 0,
        }
    }
    fn id(&self) -> String {
        let queue = if self.tenant.is_empty() { self.queue.clone() } else { format!("{}/{}", self.tenant, self.queue) };
        format!("{queue} {}", self.channels.join(","))
    }
    fn list(settings: &Settings) -> &Vec<Self> {
        &settings.outage
    }
    fn list_mut(settings: &mut Settings) -> &mut Vec<Self> {
        &mut settings.outage
    }
}

/// `secret!(field)`: a secret source, or none.
macro_rules! secret {
    ($field:ident) => {
        Kind::Text {
            expected: SECRETS,
            get: |s| if s.$field.is_empty() { "none".into() } else { s.$field.clone() },
            set: |s, text| {
                s.$field = if text == "none" {
                    String::new()
                } else {
                    check_secret(text)?;
                    text.into()
                };
                Ok(())
            },
        }
    };
}

/// `text!(expected, field)`: a text, or none.
macro_rules! text {
    ($expected:literal, $field:ident) => {
        Kind::Text {
            expected: $expected,
            get: |s| if s.$field.is_empty() { "none".into() } else { s.$field.clone() },
            set: |s, text| {
                check_text(text)?;
                s.$field = if text == "none" { String::new() } else { text.into() };
                Ok(())
            },
        }
    };
}

/// The keys of one bridge.
const BRIDGE: &[Key<BridgeSettings>] = &[
    live("name", name!()),
    live("tenant", tenant!()),
    live("urls", texts!("addresses such as tls://hub.example:8434 or wss://hub.example/ws", check_url, urls)),
    live("tls.ca", paths!(ca)),
    live("tls.crl", paths!(crl)),
    live("tls.certificate", one_path!(certificate)),
    live("tls.key", secret!(certificate_key)),
    live("tls.server_name", text!("the name in the upstream's certificate, or none", server_name)),
    live("login.key", secret!(login_key)),
    live("login.token", secret!(token)),
    live("login.user", text!("the name that goes with login.password, or none", user)),
    live("login.password", secret!(password)),
    live("up", texts!("routes such as `main`, `main site/#` or `main site/# -> edges/{name}/site/#`", check_up, up)),
    live(
        "down",
        texts!("routes such as `subscribe command/{name}/# -> command/#` or `consume orders`", check_down, down),
    ),
    live("heartbeat", number!(Millis, SECOND, HOUR, heartbeat_ms: u32, none = 0)),
    live("ack_age", number!(Millis, SECOND, HOUR, ack_ms_max: u32)),
    live("window.messages", number!(Count, 1, 1_000_000, window_messages: u32)),
    live("window.bytes", number!(Bytes, 16 * KIB, 64 * MIB, window_bytes: u32)),
    live("compress", choice!(compress: "false" = FALSE, "true" = TRUE)),
    live(
        "weights",
        Kind::List {
            expected: "ten shares, those of the lanes 0 to 9, each from 1 to 1000",
            check: |text| match text.parse::<u32>() {
                Ok(1..=1_000) => Ok(()),
                Ok(0) => Err(": a lane without a share would wait for ever".into()),
                _ => Err(String::new()),
            },
            get: |s| s.weights.iter().map(ToString::to_string).collect(),
            set: |s, items| s.weights = items.iter().filter_map(|text| text.parse().ok()).collect(),
        },
    ),
    live("pace.bytes_per_second", number!(Bytes, KIB, TIB, bytes_per_second: u64, none = 0)),
    live("pace.messages_per_second", number!(Count, 1, 100_000_000, messages_per_second: u32, none = 0)),
    live("pace.bytes_per_day", number!(Bytes, KIB, 1_024 * TIB, bytes_per_day: u64, none = 0)),
    live("pace.ramp", number!(Millis, 0, HOUR, ramp_ms: u32)),
    live("hops", number!(Count, 1, 64, hops_max: u32)),
    live("return", number!(Millis, SECOND, DAY, return_ms: u32)),
];

/// The keys of one outage policy.
const OUTAGE: &[Key<OutageSettings>] = &[
    live("queue", text!("the name of a queue", queue)),
    live("tenant", tenant!()),
    live("channels", texts!("filters such as telemetry/#", filter, channels)),
    live("after", number!(Millis, 0, 365 * DAY, after_ms: u64)),
    live("keep_last", number!(Count, 1, 1_000_000, keep_last: u32, none = 0)),
    live("every", number!(Count, 2, 1_000_000, every: u32, none = 0)),
    live("period", number!(Millis, SECOND, 365 * DAY, period_ms: u64, none = 0)),
    live("ttl", number!(Millis, SECOND, 365 * DAY, ttl_ms: u64, none = 0)),
    live("lane", number!(Count, 0, 9, lane: u8)),
];

const FALSE: bool = false;
const TRUE: bool = true;

/// An address of an upstream: scheme, host (an IPv6 address in brackets), perhaps a port, and a path where it is a WebSocket's.
fn check_url(text: &str) -> Result<(), String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(", which has no scheme such as tls://".into());
    };
    let web = match scheme {
        "tcp" | "tls" => false,
        "ws" | "wss" => true,
        _ => return Err(format!(", which begins with `{scheme}://`: tcp, tls, ws and wss are spoken")),
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    if !web && !matches!(path, "" | "/") {
        return Err(format!(", which has the path `{path}`: only ws:// and wss:// have one"));
    }
    if path.bytes().any(|b| !b.is_ascii_graphic() || b == b'#') {
        return Err(", whose path is malformed".into());
    }
    if authority.contains('@') {
        return Err(", which holds a user: credentials belong to `login`".into());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(inner) => match inner.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, after)) if after.starts_with(':') => (host, Some(&after[1..])),
            _ => return Err(", whose bracket is not closed".into()),
        },
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(", whose host is missing or malformed".into());
    }
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(()),
        _ => Err(", whose port is not a number from 1 to 65535".into()),
    }
}

/// The host of such an address.
pub(super) fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or(inner),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

fn check_up(text: &str) -> Result<(), String> {
    text.parse::<UpRoute>().map(|_| ()).map_err(|error| format!(": {error}"))
}

fn check_down(text: &str) -> Result<(), String> {
    text.parse::<DownRoute>().map(|_| ()).map_err(|error| format!(": {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_and_bad_ones_say_why() {
        let up = |text: &str| text.parse::<UpRoute>().map(|r| (r.queue, r.mapping.filter, r.mapping.target));
        let of = |q: &str, f: &str, t: &str| Ok((q.to_owned(), f.to_owned(), t.to_owned()));
        assert_eq!(up("main"), of("main", "#", "#"));
        assert_eq!(up("main site/+/x"), of("main", "site/+/x", "site/+/x"));
        assert_eq!(up("main site/#  ->  edges/{name}/#"), of("main", "site/#", "edges/{name}/#"));
        for bad in ["", "ma in x y", "main a/+ -> b/#", "main a/# -> b", "main a#", "mai/n"] {
            assert!(up(bad).is_err(), "{bad}");
        }
        assert!(matches!("subscribe a/#".parse(), Ok(DownRoute::Subscribe(_))));
        assert!(matches!("consume q a/# -> b/#".parse(), Ok(DownRoute::Consume(..))));
        for bad in ["subscribe", "consume", "fetch a", "consume q a/# -> b/+"] {
            assert!(bad.parse::<DownRoute>().is_err(), "{bad}");
        }
    }
}
