//! The settings themselves: typed, complete, already checked.

use super::bridges::{BridgeSettings, OutageSettings};
use crate::wire::Contract;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The broker's name, told to clients and written as origin.
    pub name: String,
    /// Data folder; `None` leaves it to the environment (`$STATE_DIRECTORY`, `$XDG_STATE_HOME/tidegate`,
    /// `~/.local/state/tidegate`).
    pub data: Option<PathBuf>,
    /// Where to listen.
    pub listen: Listen,
    /// Certificates of the TLS listeners, and of whom they trust.
    pub tls: TlsSettings,
    /// The HTTP listeners.
    pub http: HttpSettings,
    /// Who may come in.
    pub auth: AuthSettings,
    /// Bounds of sessions.
    pub limits: Limits,
    /// The store.
    pub store: StoreSettings,
    /// Who signs tokens that are believed.
    pub issuers: Vec<IssuerSettings>,
    /// What principals may do, by role.
    pub roles: Vec<RoleSettings>,
    /// Spaces of their own.
    pub tenants: Vec<TenantSettings>,
    /// Channels whose messages must be signed.
    pub signatures: Vec<SignatureSettings>,
    /// The queues, in order.
    pub queues: Vec<QueueSettings>,
    /// Upstreams.
    pub bridges: Vec<BridgeSettings>,
    /// What is given up of what waited for an upstream.
    pub outage: Vec<OutageSettings>,
    /// Logging.
    pub log: LogSettings,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// TCP addresses; port 0 takes a free one.
    pub tcp: Vec<SocketAddr>,
    /// Addresses of frames over TLS.
    pub tls: Vec<SocketAddr>,
    /// Addresses of HTTP with WebSocket, without TLS.
    pub http: Vec<SocketAddr>,
    /// Addresses of HTTP with WebSocket over TLS.
    pub https: Vec<SocketAddr>,
    /// Unix socket; relative paths are inside the data folder. `None` is none.
    pub unix: Option<PathBuf>,
    /// Permission bits of the Unix socket.
    pub unix_mode: u32,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    None,
    /// They are asked, and may come without.
    Optional,
    /// Without a valid one there is no connection.
    Required,
}

/// Certificates of the TLS listeners, and of whom they trust. Relative paths are inside the data folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM files of certificate chains, leaf first. The first is shown to who names no host, or an unknown one.
    pub certificates: Vec<PathBuf>,
    /// Their private keys, in the same order: secret sources.
    pub keys: Vec<String>,
    /// PEM files of the authorities whose client certificates are believed.
    pub client_ca: Vec<PathBuf>,
    /// PEM or DER files of revocation lists of these authorities.
    pub client_crl: Vec<PathBuf>,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
}

/// The HTTP listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpSettings {
    /// Origins whose pages may open a WebSocket, beside the listener's own host; `*` is any.
    pub origins: Vec<String>,
    /// Addresses or networks (`10.0.0.0/8`) of proxies whose `Forwarded` and `X-Forwarded-For` are believed.
    pub trusted_proxies: Vec<String>,
}

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthSettings {
    /// Roles of whoever shows no credentials. `None` decides by the rest: where nothing else of `auth`, `issuers`, `roles`
    /// and `tenants` is set, peers of this machine have the role `open`; else strangers have none.
    pub anonymous: Option<Vec<String>>,
    /// File of keys, passwords, certificates' names and users of this machine, a line each.
    pub identities: Option<PathBuf>,
}

/// Who signs tokens (JWT, RFC 7519) that are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// The claim `iss`.
    pub name: String,
    /// Algorithms taken: HS256, EdDSA, ES256, RS256.
    pub algorithms: Vec<String>,
    /// Secret source (HS256) or PEM file of a public key; several while keys are rotated.
    pub keys: Vec<String>,
    /// File of a JSON Web Key Set (RFC 7517).
    pub jwks: Option<PathBuf>,
    /// The claim `aud` must hold one of these.
    pub audiences: Vec<String>,
    /// Milliseconds that clocks may differ by.
    pub leeway_ms: u32,
    /// Tenant of its principals: a name, empty for none, or `{claim}` to take the claim `tenant`.
    pub tenant: String,
    /// Roles its tokens may name in the claim `roles`; others are left out.
    pub roles: Vec<String>,
}

/// A role: what its principals may do. Each list holds filters, with `{client}` and `{tenant}` as whole levels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleSettings {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub allow: Rules,
    /// What it denies, whatever any role allows.
    pub deny: Rules,
}

/// Filters by action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Channels to publish to.
    pub publish: Vec<String>,
    /// Channels to hear and to read the history of.
    pub subscribe: Vec<String>,
    /// `<queue>/<channel>`: what to consume of which queue.
    pub consume: Vec<String>,
    /// Channels to send requests to.
    pub request: Vec<String>,
    /// Channels to answer requests on.
    pub respond: Vec<String>,
    /// Channels of administration, such as `$admin/#`.
    pub admin: Vec<String>,
}

/// A tenant: a space of its own, and its quotas; 0 is no quota.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantSettings {
    /// Its name.
    pub name: String,
    /// Most connections.
    pub connections_max: u32,
    /// Messages published a second.
    pub messages_per_second: u32,
    /// Bytes of records published a second.
    pub bytes_per_second: u64,
    /// Bytes of records stored in all its queues.
    pub stored_bytes_max: u64,
    /// Channels with history or a retained value.
    pub channels_max: u32,
}

/// Channels whose messages must carry a valid signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignatureSettings {
    /// Filters of the channels.
    pub channels: Vec<String>,
    /// Public keys that may sign: `ed25519:` and base64, or names of keys in the identities file.
    pub keys: Vec<String>,
    /// Tenant whose channels are meant; empty for none.
    pub tenant: String,
}

/// Token buckets; 0 is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Connections an address may open a second; ten times as many at once.
    pub connects_per_second: u32,
    /// Failed logins an address has before each next waits, doubling from a second to a minute.
    pub logins_failed_max: u32,
    /// Messages a principal may publish a second; twice as many at once.
    pub messages_per_second: u32,
    /// Bytes of records a principal may publish a second; twice as many at once.
    pub bytes_per_second: u64,
}

/// Bounds of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Token buckets.
    pub rates: Rates,
    /// Most connections at once.
    pub connections_max: u32,
    /// Milliseconds from connect to a finished handshake.
    pub handshake_ms: u32,
    /// Milliseconds a frame may stop in its middle.
    pub frame_timeout_ms: u32,
    /// Heartbeat offered, in milliseconds.
    pub heartbeat_ms: u32,
    /// Largest frame payload taken, in bytes.
    pub frame_bytes_max: u32,
    /// Largest record taken, in bytes.
    pub message_bytes_max: u32,
    /// Chunked messages under way on a connection, in bytes.
    pub reassembly_bytes_max: u32,
    /// Publishes a session may have unacknowledged, in messages.
    pub window_messages: u32,
    /// Publishes a session may have unacknowledged, in bytes.
    pub window_bytes: u32,
    /// Publishes of a session, contract `upstream`, that may be kept here and wait for the upstream, in messages.
    pub upstream_session_max: u32,
    /// Messages of a tenant, contract `upstream`, that may wait for the upstream.
    pub upstream_waiting_max: u32,
    /// Messages of a tenant, contract `upstream`, of which it is remembered what became of them.
    pub upstream_known_max: u32,
    /// What may wait to be sent to one connection, in bytes.
    pub outbox_bytes_max: u32,
    /// Subscriptions, consumers and requests of one session.
    pub streams_max: u32,
    /// Retained values of a mount.
    pub retained_max: u32,
    /// Bytes of retained values of a mount.
    pub retained_bytes_max: u64,
    /// Requests waiting for an answer, over all sessions.
    pub requests_max: u32,
    /// Longest deadline of a request, in milliseconds.
    pub request_deadline_ms_max: u32,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// A commit is begun at once when this much waits, in bytes.
    pub batch_bytes: u32,
    /// Longest a busy broker waits for more before it commits, in microseconds; an idle one does not wait.
    pub linger_us: u32,
    /// redb's page cache, in bytes.
    pub cache_bytes: u32,
    /// Size of the journal in front of the database, in bytes; 0 does without one.
    pub journal_bytes: u64,
    /// Recent messages kept in memory for live readers, in bytes.
    pub tail_bytes: u32,
    /// Accepted but not yet committed, in bytes; beyond it sessions are not read from.
    pub pending_bytes_max: u32,
    /// Below this much free space, in bytes, publishes under `alarm_priority` are refused.
    pub free_low_bytes: u64,
    /// Above this much free space, in bytes, all publishes are taken again.
    pub free_high_bytes: u64,
    /// Largest the store's file may become, in bytes; 0 is no bound of its own.
    pub file_bytes_max: u64,
    /// Kept in a file of its own, in bytes, and given up when the disk is full so that acknowledgements go on.
    pub reserve_bytes: u64,
    /// Lowest priority still taken when free space is low.
    pub alarm_priority: u8,
    /// Milliseconds a consumer's progress may wait for a commit to ride on.
    pub ack_linger_ms: u32,
    /// The dedupe window of each mount.
    pub dedupe: Dedupe,
}

/// The dedupe window: whichever bound is reached first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dedupe {
    /// Ids remembered; 0 turns dedupe off.
    pub ids_max: u32,
    /// Milliseconds they are remembered.
    pub window_ms: u32,
}

/// When a message leaves a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// When its one consumer group acknowledged it.
    Work,
    /// When all durable consumers passed it; with none, by the limits.
    Interest,
    /// By size, count and age only.
    Limits,
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Refuses the publish.
    Reject,
    /// Drops the oldest message of the lowest lane.
    DropOldest,
    /// Drops the message that does not fit.
    DropNewest,
}

/// Where a queue lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    Disk,
    /// In memory: gone at restart.
    Memory,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Its name.
    pub name: String,
    /// Tenant it belongs to; empty for none.
    pub tenant: String,
    /// Filters of the channels it captures.
    pub capture: Vec<String>,
    /// Where it lives.
    pub storage: Storage,
    /// Least that must have happened before a publish is acknowledged: memory or disk.
    pub contract: Contract,
    /// When a message leaves.
    pub keep: Keep,
    /// Most messages.
    pub messages_max: u64,
    /// Most bytes of records.
    pub bytes_max: u64,
    /// Longest life of a message, in milliseconds; 0 is without end.
    pub age_ms_max: u64,
    /// What happens when it is full.
    pub overflow: Overflow,
    /// Whether its channels have offsets and can be read back.
    pub history: bool,
    /// Most channels with history.
    pub channels_max: u32,
    /// Most durable consumers.
    pub consumers_max: u32,
    /// Default of a consumer's window, in messages; also the most it may ask for.
    pub window: u32,
    /// Default of a consumer's attempts before a message becomes a dead letter; 0 is without end.
    pub attempts_max: u32,
    /// Default first retry delay, in milliseconds.
    pub backoff_ms: u32,
    /// Longest retry delay, in milliseconds.
    pub backoff_ms_max: u32,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Least severe level written.
    pub level: log::LevelFilter,
    /// Form.
    pub format: LogFormat,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "tidegate".into(),
            data: None,
            listen: Listen::default(),
            tls: TlsSettings::default(),
            http: HttpSettings::default(),
            auth: AuthSettings::default(),
            limits: Limits::default(),
            store: StoreSettings::default(),
            issuers: Vec::new(),
            roles: Vec::new(),
            tenants: Vec::new(),
            signatures: Vec::new(),
            queues: vec![QueueSettings { capture: vec!["#".into()], ..QueueSettings::new("main") }],
            bridges: Vec::new(),
            outage: Vec::new(),
            log: LogSettings { level: log::LevelFilter::Info, format: LogFormat::Text },
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            tcp: vec![SocketAddr::from(([127, 0, 0, 1], 8433))],
            tls: Vec::new(),
            http: Vec::new(),
            https: Vec::new(),
            unix: Some("tidegate.sock".into()),
            unix_mode: 0o660,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        use crate::model::limits;
        Self {
            rates: Rates { connects_per_second: 0, logins_failed_max: 5, messages_per_second: 0, bytes_per_second: 0 },
            connections_max: 10_000,
            handshake_ms: 5_000,
            frame_timeout_ms: 10_000,
            heartbeat_ms: 15_000,
            frame_bytes_max: limits::FRAME_PAYLOAD_BYTES_DEFAULT,
            message_bytes_max: limits::MESSAGE_BYTES_DEFAULT,
            reassembly_bytes_max: 4 * limits::MESSAGE_BYTES_DEFAULT,
            window_messages: 4_096,
            window_bytes: 4 * limits::MESSAGE_BYTES_DEFAULT,
            upstream_session_max: 4_096,
            upstream_waiting_max: 20_000,
            upstream_known_max: 10_000,
            outbox_bytes_max: 2 * limits::MESSAGE_BYTES_DEFAULT,
            streams_max: 256,
            retained_max: 10_000,
            retained_bytes_max: 16 * 1_024 * 1_024,
            requests_max: 10_000,
            request_deadline_ms_max: 3_600_000,
        }
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        const MIB: u64 = 1_024 * 1_024;
        Self {
            batch_bytes: 256 * 1_024,
            linger_us: 2_000,
            cache_bytes: 4 * MIB as u32,
            journal_bytes: 4 * MIB,
            tail_bytes: 2 * MIB as u32,
            pending_bytes_max: 8 * MIB as u32,
            free_low_bytes: 64 * MIB,
            free_high_bytes: 96 * MIB,
            file_bytes_max: 0,
            reserve_bytes: 8 * MIB,
            alarm_priority: 8,
            ack_linger_ms: 200,
            dedupe: Dedupe { ids_max: 100_000, window_ms: 300_000 },
        }
    }
}

impl QueueSettings {
    /// A queue with the defaults and no filters.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            tenant: String::new(),
            capture: Vec::new(),
            storage: Storage::Disk,
            contract: Contract::Disk,
            keep: Keep::Interest,
            messages_max: 10_000_000,
            bytes_max: 1_024 * 1_024 * 1_024,
            age_ms_max: 0,
            overflow: Overflow::Reject,
            history: false,
            channels_max: 10_000,
            consumers_max: 64,
            window: 1_024,
            attempts_max: 10,
            backoff_ms: 1_000,
            backoff_ms_max: 300_000,
        }
    }
}
