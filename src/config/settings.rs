//! The settings themselves: typed, complete, already checked.

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
    /// Bounds of sessions.
    pub limits: Limits,
    /// The store.
    pub store: StoreSettings,
    /// The queues, in order.
    pub queues: Vec<QueueSettings>,
    /// Logging.
    pub log: LogSettings,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// TCP addresses; port 0 takes a free one.
    pub tcp: Vec<SocketAddr>,
    /// Unix socket; relative paths are inside the data folder. `None` is none.
    pub unix: Option<PathBuf>,
    /// Permission bits of the Unix socket.
    pub unix_mode: u32,
}

/// Bounds of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
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
            limits: Limits::default(),
            store: StoreSettings::default(),
            queues: vec![QueueSettings { capture: vec!["#".into()], ..QueueSettings::new("main") }],
            log: LogSettings { level: log::LevelFilter::Info, format: LogFormat::Text },
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            tcp: vec![SocketAddr::from(([127, 0, 0, 1], 8433))],
            unix: Some("tidegate.sock".into()),
            unix_mode: 0o660,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        use crate::model::limits;
        Self {
            connections_max: 10_000,
            handshake_ms: 5_000,
            frame_timeout_ms: 10_000,
            heartbeat_ms: 15_000,
            frame_bytes_max: limits::FRAME_PAYLOAD_BYTES_DEFAULT,
            message_bytes_max: limits::MESSAGE_BYTES_DEFAULT,
            reassembly_bytes_max: 4 * limits::MESSAGE_BYTES_DEFAULT,
            window_messages: 4_096,
            window_bytes: 4 * limits::MESSAGE_BYTES_DEFAULT,
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
