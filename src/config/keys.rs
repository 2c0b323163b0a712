//! Every key there is: its path, its bounds, where it lands in the settings and whether it can change while running.
//!
//! Reading a file, the environment, the comparison of two settings and the test of the example file all follow these
//! two tables, so a key that is missing here does not exist anywhere.

use super::settings::{ClientCertificates, LogFormat, Settings};
use super::units::Unit;
use crate::model::Priority;
use crate::model::limits;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// A key of the settings `T`.
pub(super) struct Key<T: 'static> {
    /// Its path, with dots.
    pub path: &'static str,
    /// Whether a change takes effect while running.
    pub live: bool,
    /// What its value is.
    pub kind: Kind<T>,
}

/// What a value is, and how it goes in and out of the settings.
pub(super) enum Kind<T: 'static> {
    /// A number within bounds. `none` is what the word `none` stands for, where the key knows it.
    Number { unit: Unit, min: u64, max: u64, none: Option<u64>, get: fn(&T) -> u64, set: fn(&mut T, u64) },
    /// One of a few words.
    Choice { words: &'static [&'static str], get: fn(&T) -> usize, set: fn(&mut T, usize) },
    /// A text. `set` says what is wrong, to follow the text itself.
    Text { expected: &'static str, get: fn(&T) -> String, set: fn(&mut T, &str) -> Result<(), String> },
    /// A list of texts, or one text alone. `check` says what is wrong with an item.
    List {
        expected: &'static str,
        check: fn(&str) -> Result<(), String>,
        get: fn(&T) -> Vec<String>,
        set: fn(&mut T, &[String]),
    },
}

impl<T> Key<T> {
    /// What a value must be, for messages.
    pub(super) fn expected(&self) -> String {
        match &self.kind {
            Kind::Number { unit, min, max, none, .. } => {
                let none = if none.is_some() { ", or none" } else { "" };
                format!("{} from {} to {}{none}{}", unit.noun(), unit.show(*min), unit.show(*max), unit.choices())
            }
            Kind::Choice { words, .. } => words.join(" or "),
            Kind::Text { expected, .. } | Kind::List { expected, .. } => (*expected).into(),
        }
    }

    /// The value as it would be written in a file.
    pub(super) fn show(&self, settings: &T) -> String {
        match &self.kind {
            Kind::Number { unit, none, get, .. } => {
                let number = get(settings);
                if *none == Some(number) { "none".into() } else { unit.show(number) }
            }
            Kind::Choice { words, get, .. } => words[get(settings)].into(),
            Kind::Text { get, .. } => get(settings),
            Kind::List { get, .. } => format!("[{}]", get(settings).join(", ")),
        }
    }

    /// Takes this key's value from other settings.
    pub(super) fn copy(&self, from: &T, to: &mut T) {
        match &self.kind {
            Kind::Number { get, set, .. } => set(to, get(from)),
            Kind::Choice { get, set, .. } => set(to, get(from)),
            Kind::Text { get, set, .. } => {
                let taken = set(to, &get(from));
                debug_assert!(taken.is_ok(), "{} was valid before", self.path);
            }
            Kind::List { get, set, .. } => set(to, &get(from)),
        }
    }
}

pub(super) const fn live<T>(path: &'static str, kind: Kind<T>) -> Key<T> {
    Key { path, live: true, kind }
}

pub(super) const fn fixed<T>(path: &'static str, kind: Kind<T>) -> Key<T> {
    Key { path, live: false, kind }
}

/// `number!(Unit, min, max, field: type)`, with `none = value` where the word `none` is allowed.
macro_rules! number {
    ($unit:ident, $min:expr, $max:expr, $($field:ident).+: $type:ty $(, none = $none:expr)?) => {
        Kind::Number {
            unit: Unit::$unit,
            min: $min,
            max: { assert!($max as u128 <= <$type>::MAX as u128); $max as u64 },
            none: { let none: Option<u64> = None; $(let _ = none; let none = Some($none);)? none },
            get: |s| u64::from(s.$($field).+),
            // Lossless: the value is within bounds that fit the type, asserted above.
            set: |s, value| s.$($field).+ = value as $type,
        }
    };
}

pub(super) use number;

/// `choice!(field: Type { word = Variant, ... })`.
macro_rules! choice {
    ($($field:ident).+: $($word:literal = $variant:path),+) => {
        Kind::Choice {
            words: &[$($word),+],
            get: |s| [$($variant),+].iter().position(|v| *v == s.$($field).+).unwrap_or_default(),
            set: |s, index| s.$($field).+ = [$($variant),+][index],
        }
    };
}

pub(super) use choice;

/// `texts!(expected, check, field)`: a list of texts.
macro_rules! texts {
    ($expected:expr, $check:expr, $($field:ident).+) => {
        Kind::List {
            expected: $expected,
            check: $check,
            get: |s| s.$($field).+.clone(),
            set: |s, items| s.$($field).+ = items.to_vec(),
        }
    };
}

pub(super) use texts;

/// `addresses!(field)`: where to listen.
macro_rules! addresses {
    ($($field:ident).+) => {
        Kind::List {
            expected: "addresses such as 127.0.0.1:8433 or [::1]:8433, or none",
            check: check_address,
            get: |s| s.$($field).+.iter().map(ToString::to_string).collect(),
            set: |s, items| s.$($field).+ = items.iter().filter_map(|text| text.parse().ok()).collect(),
        }
    };
}

/// `paths!(field)`: files.
macro_rules! paths {
    ($($field:ident).+) => {
        Kind::List {
            expected: "paths of files, or none",
            check: |text| check_path(text).map(|_| ()),
            get: |s| s.$($field).+.iter().map(|path| path.display().to_string()).collect(),
            set: |s, items| s.$($field).+ = items.iter().map(PathBuf::from).collect(),
        }
    };
}

pub(super) use paths;

/// `path!(field)`: a file, or none.
macro_rules! one_path {
    ($($field:ident).+) => {
        Kind::Text {
            expected: "the path of a file, or none",
            get: |s| s.$($field).+.as_ref().map_or_else(|| "none".into(), |path| path.display().to_string()),
            set: |s, text| {
                s.$($field).+ = if text == "none" { None } else { Some(check_path(text)?.into()) };
                Ok(())
            },
        }
    };
}

pub(super) use one_path;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;
pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

/// Longest path of a Unix socket, in bytes: `sun_path` is 108 with its NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;

pub(super) const NAME: &str = "1 to 128 letters, digits, `.`, `_` or `-`";

/// The keys outside `queues`.
pub(super) const SETTINGS: &[Key<Settings>] = &[
    fixed(
        "name",
        Kind::Text {
            expected: NAME,
            get: |s| s.name.clone(),
            set: |s, text| {
                check_name(text)?;
                s.name = text.into();
                Ok(())
            },
        },
    ),
    fixed(
        "data",
        Kind::Text {
            expected: "a folder, or auto",
            get: |s| s.data.as_ref().map_or_else(|| "auto".into(), |path| path.display().to_string()),
            set: |s, text| {
                s.data = if text == "auto" { None } else { Some(check_path(text)?.into()) };
                Ok(())
            },
        },
    ),
    fixed("listen.tcp", addresses!(listen.tcp)),
    fixed("listen.tls", addresses!(listen.tls)),
    fixed("listen.http", addresses!(listen.http)),
    fixed("listen.https", addresses!(listen.https)),
    fixed(
        "listen.unix",
        Kind::Text {
            expected: "a path of at most 107 bytes, or none",
            get: |s| s.listen.unix.as_ref().map_or_else(|| "none".into(), |path| path.display().to_string()),
            set: |s, text| {
                if text.len() > UNIX_PATH_BYTES_MAX {
                    return Err(format!(", which has {} bytes", text.len()));
                }
                s.listen.unix = if text == "none" { None } else { Some(check_path(text)?.into()) };
                Ok(())
            },
        },
    ),
    fixed(
        "listen.unix_mode",
        Kind::Text {
            expected: "octal permission bits from 0600 to 0777, such as 0660",
            get: |s| format!("{:04o}", s.listen.unix_mode),
            set: |s, text| {
                let digits = text.strip_prefix("0o").unwrap_or(text);
                let octal = !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
                let mode = u32::from_str_radix(digits, 8).ok().filter(|_| octal).ok_or(", which is not octal")?;
                if mode > 0o777 {
                    return Err(", which is too large".into());
                }
                if mode & 0o600 != 0o600 {
                    return Err(", which locks the owner out".into());
                }
                s.listen.unix_mode = mode;
                Ok(())
            },
        },
    ),
    live("tls.certificates", paths!(tls.certificates)),
    live("tls.keys", texts!(SECRETS, check_secret, tls.keys)),
    live(
        "tls.client_certificates",
        choice!(
            tls.client_certificates: "none" = ClientCertificates::None, "optional" = ClientCertificates::Optional,
            "required" = ClientCertificates::Required
        ),
    ),
    live("tls.client_ca", paths!(tls.client_ca)),
    live("tls.client_crl", paths!(tls.client_crl)),
    live("http.origins", texts!("origins such as https://example.org, * or none", check_origin, http.origins)),
    live(
        "http.trusted_proxies",
        texts!("addresses or networks such as 10.0.0.0/8, or none", check_network, http.trusted_proxies),
    ),
    live(
        "auth.anonymous",
        Kind::List {
            expected: "names of roles, auto or none",
            check: |text| if text == "auto" { Ok(()) } else { check_name(text) },
            get: |s| s.auth.anonymous.clone().unwrap_or_else(|| vec!["auto".into()]),
            set: |s, items| s.auth.anonymous = if items == ["auto"] { None } else { Some(items.to_vec()) },
        },
    ),
    live("auth.identities", one_path!(auth.identities)),
    live("limits.rates.connects", number!(Count, 1, 1_000_000, limits.rates.connects_per_second: u32, none = 0)),
    live("limits.rates.logins_failed", number!(Count, 1, 1_000_000, limits.rates.logins_failed_max: u32, none = 0)),
    live("limits.rates.messages", number!(Count, 1, 100_000_000, limits.rates.messages_per_second: u32, none = 0)),
    live("limits.rates.bytes", number!(Bytes, KIB, TIB, limits.rates.bytes_per_second: u64, none = 0)),
    live("limits.connections", number!(Count, 1, 1_000_000, limits.connections_max: u32)),
    live("limits.handshake", number!(Millis, 100, 10 * MINUTE, limits.handshake_ms: u32)),
    live("limits.frame_timeout", number!(Millis, 100, 10 * MINUTE, limits.frame_timeout_ms: u32)),
    live("limits.heartbeat", number!(Millis, SECOND, HOUR, limits.heartbeat_ms: u32)),
    live(
        "limits.frame",
        number!(
            Bytes,
            limits::FRAME_PAYLOAD_BYTES_FLOOR as u64,
            limits::FRAME_PAYLOAD_BYTES_MAX as u64,
            limits.frame_bytes_max: u32
        ),
    ),
    live("limits.message", number!(Bytes, KIB, limits::MESSAGE_BYTES_MAX as u64, limits.message_bytes_max: u32)),
    live("limits.reassembly", number!(Bytes, KIB, GIB, limits.reassembly_bytes_max: u32)),
    live("limits.window.messages", number!(Count, 1, limits::CREDIT_MAX as u64, limits.window_messages: u32)),
    live("limits.window.bytes", number!(Bytes, KIB, GIB, limits.window_bytes: u32)),
    live("limits.upstream.session", number!(Count, 1, 1_000_000, limits.upstream_session_max: u32)),
    live("limits.upstream.waiting", number!(Count, 1, 10_000_000, limits.upstream_waiting_max: u32)),
    live("limits.upstream.known", number!(Count, 1, 10_000_000, limits.upstream_known_max: u32)),
    live("limits.outbox", number!(Bytes, KIB, GIB, limits.outbox_bytes_max: u32)),
    live("limits.streams", number!(Count, 1, 65_536, limits.streams_max: u32)),
    live("limits.retained.values", number!(Count, 0, 10_000_000, limits.retained_max: u32)),
    live("limits.retained.bytes", number!(Bytes, 0, 4 * GIB, limits.retained_bytes_max: u64)),
    live("limits.requests.waiting", number!(Count, 0, 1_000_000, limits.requests_max: u32)),
    live("limits.requests.deadline", number!(Millis, SECOND, DAY, limits.request_deadline_ms_max: u32)),
    live("store.batch", number!(Bytes, 4 * KIB, 64 * MIB, store.batch_bytes: u32)),
    live("store.linger", number!(Micros, 0, 1_000_000, store.linger_us: u32)),
    fixed("store.cache", number!(Bytes, MIB, GIB, store.cache_bytes: u32)),
    fixed("store.journal", number!(Bytes, 256 * KIB, 16 * MIB, store.journal_bytes: u64, none = 0)),
    fixed("store.tail", number!(Bytes, 0, GIB, store.tail_bytes: u32)),
    live("store.pending", number!(Bytes, 64 * KIB, GIB, store.pending_bytes_max: u32)),
    live("store.free_low", number!(Bytes, 0, TIB, store.free_low_bytes: u64)),
    live("store.free_high", number!(Bytes, 0, TIB, store.free_high_bytes: u64)),
    live("store.file", number!(Bytes, 16 * MIB, 1_024 * TIB, store.file_bytes_max: u64, none = 0)),
    fixed("store.reserve", number!(Bytes, 0, GIB, store.reserve_bytes: u64)),
    live("store.alarm_priority", number!(Count, 0, Priority::MAX.get() as u64, store.alarm_priority: u8)),
    live("store.ack_linger", number!(Millis, 0, MINUTE, store.ack_linger_ms: u32)),
    fixed("store.dedupe.ids", number!(Count, 0, 10_000_000, store.dedupe.ids_max: u32, none = 0)),
    fixed("store.dedupe.window", number!(Millis, SECOND, 7 * DAY, store.dedupe.window_ms: u32)),
    live(
        "log.level",
        choice!(
            log.level: "off" = log::LevelFilter::Off, "error" = log::LevelFilter::Error,
            "warn" = log::LevelFilter::Warn, "info" = log::LevelFilter::Info,
            "debug" = log::LevelFilter::Debug, "trace" = log::LevelFilter::Trace
        ),
    ),
    live("log.format", choice!(log.format: "text" = LogFormat::Text, "json" = LogFormat::Json)),
];

/// Top-level sections that a later version will know.
pub(super) const LATER: &[&str] = &["transports", "adapters", "security"];

pub(super) fn check_name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(", which is empty".into());
    }
    if text.starts_with('$') {
        return Err(", which begins with `$`, the broker's own space".into());
    }
    if text.len() > limits::NAME_BYTES_MAX {
        return Err(format!(", which has {} bytes", text.len()));
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        Some(c) => Err(format!(", which holds `{}`", c.escape_debug())),
        None => Ok(()),
    }
}

/// What a secret source looks like.
pub(super) const SECRETS: &str = "file:PATH, credential:NAME (of systemd) or env:NAME";

/// What each kind of source begins with.
pub(super) const SOURCES: [&str; 3] = ["file:", "credential:", "env:"];

pub(super) fn check_secret(text: &str) -> Result<(), String> {
    match text.split_once(':') {
        Some(("file", path)) => check_path(path).map(|_| ()),
        Some(("credential", name)) if name.is_empty() || name.contains('/') => {
            Err(", which names no credential".into())
        }
        Some(("env", "")) => Err(", which names no variable".into()),
        Some(("credential" | "env", _)) => Ok(()),
        _ => Err(", which does not say where the secret is".into()),
    }
}

fn check_address(text: &str) -> Result<(), String> {
    match text.parse::<SocketAddr>() {
        Ok(_) => Ok(()),
        Err(_) if text.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) => {
            Err(", which has no port from 0 to 65535".into())
        }
        Err(_) => Err(", which is not an IP address and a port".into()),
    }
}

fn check_origin(text: &str) -> Result<(), String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host {
        _ if text == "*" => Ok(()),
        Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']) => Ok(()),
        Some(_) => Err(", which holds more or less than a scheme, a host and a port".into()),
        None => Err(", which does not begin with https:// or http://".into()),
    }
}

fn check_network(text: &str) -> Result<(), String> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_| ", which is not an IP address")?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match bits.map(str::parse::<u8>) {
        Some(Ok(bits)) if bits <= most => Ok(()),
        None => Ok(()),
        Some(_) => Err(format!(", whose prefix is not a number from 0 to {most}")),
    }
}

pub(super) fn check_path(text: &str) -> Result<&str, String> {
    if text.is_empty() {
        return Err(", which is empty".into());
    }
    if text.starts_with('~') {
        return Err(", whose `~` nobody expands here: write the whole path".into());
    }
    if text.contains('\0') {
        return Err(", which holds a NUL".into());
    }
    Ok(text)
}
