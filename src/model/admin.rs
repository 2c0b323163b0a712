//! What `$admin/...` requests ask and answer: JSON documents that the broker and its clients share.
//!
//! A request goes to one of the channels below with one of the `…Query` structs as its JSON body (an empty body is the
//! default where every field has one). Status 0 answers with the document named; any other status is a
//! [`crate::wire::Code`] and the body is an [`AdminError`].

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Answers with [`Status`]; no body.
pub const STATUS: &str = "$admin/status";
/// Answers with `Vec<QueueStatus>`; no body.
pub const QUEUES: &str = "$admin/queues";
/// [`QueueQuery`] in, [`QueueStatus`] out.
pub const QUEUE_SHOW: &str = "$admin/queue/show";
/// [`PeekQuery`] in, `Vec<PeekItem>` out.
pub const QUEUE_PEEK: &str = "$admin/queue/peek";
/// [`QueueQuery`] in, [`Count`] out: every message of the queue is removed.
pub const QUEUE_PURGE: &str = "$admin/queue/purge";
/// [`ReplayQuery`] in, [`Count`] out: dead letters go back into their queue.
pub const QUEUE_REPLAY: &str = "$admin/queue/replay";
/// [`ConsumerQuery`] in, [`Count`] out: the durable consumer and its position are forgotten.
pub const CONSUMER_DELETE: &str = "$admin/consumer/delete";

/// Answers with `Vec<BridgeStatus>`; no body.
pub const BRIDGES: &str = "$admin/bridges";
/// [`BridgeQuery`] in, [`BridgeStatus`] out: it takes nothing more from its queues, ends its connection, and stays so over restarts.
pub const BRIDGE_PAUSE: &str = "$admin/bridge/pause";
/// [`BridgeQuery`] in, [`BridgeStatus`] out: it goes on, and connects at once.
pub const BRIDGE_RESUME: &str = "$admin/bridge/resume";

/// Among [`BridgeStatus::dropped`]: the queue let them go before they were forwarded, since it was full, by their age, or purged.
pub const NOT_KEPT: &str = "not-kept";

/// Most messages one peek answers.
pub const PEEK_MAX: u32 = 1_000;
/// Most bytes of a payload one [`PeekItem`] shows; the rest is cut off and `size` tells the whole.
pub const PEEK_PAYLOAD_BYTES_MAX: usize = 4 * 1_024;

/// Names a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueQuery {
    /// Its name; `$dead/NAME` is the dead letters of NAME. Who belongs to no tenant names another's `TENANT/NAME` and
    /// `$dead/TENANT/NAME`.
    pub name: String,
}

/// What to look at in a queue, without consuming it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeekQuery {
    /// The queue.
    pub name: String,
    /// Most messages, 1 to [`PEEK_MAX`].
    #[serde(default = "ten")]
    pub count: u32,
    /// Only this lane; without it all lanes, highest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<u8>,
}

fn ten() -> u32 {
    10
}

/// Which dead letters to move back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayQuery {
    /// The queue they died in (not `$dead/...`).
    pub name: String,
    /// Most messages; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Names a durable consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerQuery {
    /// The queue it reads.
    pub queue: String,
    /// Its name.
    pub name: String,
}

/// Names a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeQuery {
    /// Its name.
    pub name: String,
}

/// What a bridge is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BridgeState {
    /// It waits before it tries again.
    #[default]
    Waiting,
    /// It looks up the name, connects, and agrees on TLS and WebSocket.
    Connecting,
    /// It says hello and logs in.
    Greeting,
    /// Messages flow, or could.
    Open,
    /// An operator paused it.
    Paused,
    /// The day's bytes are used up.
    Spent,
}

/// A bridge at one moment. Totals are since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeStatus {
    /// Its name.
    pub name: String,
    /// Its tenant; absent when it is nobody's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// What it is doing.
    pub state: BridgeState,
    /// Whether what it forwards is acknowledged within `ack_age`, and nothing waits that could be forwarded.
    pub healthy: bool,
    /// The address in use, or tried last.
    pub url: String,
    /// Milliseconds the connection holds; 0 without one.
    pub open_ms: u64,
    /// Why the last connection ended or could not be made: `dns`, `refused`, `timeout`, `unreachable`, `tls`, `http`, `auth`,
    /// `protocol`, `heartbeat`, `stalled`, `closed` or `local`; empty when there was none.
    pub last_error: String,
    /// The same for people.
    pub last_error_detail: String,
    /// Milliseconds since the last error; 0 without one.
    pub last_error_age_ms: u64,
    /// Milliseconds until the next try; 0 unless it waits.
    pub retry_ms: u64,
    /// Connections made.
    pub connects: u64,
    /// Messages in the queues that it has yet to forward, filters not considered.
    pub queued: u64,
    /// Messages under way without an acknowledgement.
    pub in_flight: u64,
    /// Messages the upstream acknowledged.
    pub acked: u64,
    /// Milliseconds the oldest message not yet forwarded has waited; 0 when none waits.
    pub oldest_ms: u64,
    /// Milliseconds since the last acknowledgement; 0 before the first.
    pub last_ack_age_ms: u64,
    /// Round trip of the last ping or batch, in milliseconds; 0 unknown.
    pub round_trip_ms: u64,
    /// The window in force, in messages and bytes.
    pub window: (u64, u64),
    /// Messages brought from the upstream and taken here.
    pub brought: u64,
    /// Bytes by kind: `up` and `down` as sent and heard, `records` forwarded as they are, `batches` the same as sent.
    pub bytes: BTreeMap<String, u64>,
    /// Bytes of today's budget that are used; absent without a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day_bytes: Option<u64>,
    /// Most bytes a day; 0 without a budget.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub day_bytes_max: u64,
    /// Messages not forwarded, by reason: codes of the upstream (dead letters), `upstream-full` (a full
    /// queue there dropped them), `loop`, `hops`, `expired`, `superseded`, `thinned`,
    /// [`NOT_KEPT`].
    pub dropped: BTreeMap<String, u64>,
}

/// What became of a message published under contract `upstream`: the answer to a request to `$status/` and its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageStatus {
    /// Its id, a ULID.
    pub id: String,
    /// `queued` while it waits for the upstream, `forwarded` once that has it, `refused`, or `unknown`.
    pub state: String,
    /// Of a refused one the code, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bridges that have yet to forward it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<String>,
}

/// How many things a command touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The number.
    pub count: u64,
}

/// The body of an answer whose status is not 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminError {
    /// One sentence for people.
    pub error: String,
}

/// How the broker's disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreState {
    /// Everything is taken.
    #[default]
    Ok,
    /// Free space is low: only alarms are taken.
    Low,
    /// The disk is full: nothing is taken, acknowledgements and drains go on.
    Full,
    /// The store failed and is being reopened.
    Failed,
}

/// The broker at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Release of the broker.
    pub version: String,
    /// Its configured name.
    pub name: String,
    /// Its process id, 0 when unknown: what a load generator reads CPU and I/O by.
    #[serde(default)]
    pub pid: u32,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Its data folder.
    pub data: String,
    /// How its disk is.
    pub state: StoreState,
    /// Free bytes on the data folder's file system, as last looked at.
    #[serde(default)]
    pub free_bytes: u64,
    /// Bytes the store keeps on disk.
    #[serde(default)]
    pub file_bytes: u64,
    /// Sessions open now.
    pub connections: u64,
    /// Totals since the start by name; [`counter`] names those that clients rely on.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// Every queue.
    pub queues: Vec<QueueStatus>,
    /// Every bridge that whoever asks may see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<BridgeStatus>,
    /// Every tenant; the one without a name is whoever belongs to none. A tenant's administrator sees its own alone.
    #[serde(default)]
    pub tenants: Vec<TenantStatus>,
}

/// A tenant at one moment: what it has, what it may have (0 is no bound), and what was done in it ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantStatus {
    /// Its name.
    pub name: String,
    /// Whether it left the configuration: what it has is kept, and nobody may enter.
    #[serde(default, skip_serializing_if = "is_false")]
    pub left: bool,
    /// Sessions open now.
    pub connections: u64,
    /// Most sessions.
    pub connections_max: u64,
    /// Bytes of records in all its queues.
    pub stored_bytes: u64,
    /// Most of them.
    pub stored_bytes_max: u64,
    /// Channels with history, and with a retained value.
    pub channels: u64,
    /// Most of them.
    pub channels_max: u64,
    /// Messages it may publish a second.
    pub messages_per_second: u64,
    /// Bytes of records it may publish a second.
    pub bytes_per_second: u64,
    /// Messages stored by at least one queue or as retained value.
    pub published: u64,
    /// Bytes of their records.
    pub published_bytes: u64,
    /// Messages handed to subscriptions and consumers.
    pub delivered: u64,
    /// Bytes of their records.
    pub delivered_bytes: u64,
    /// Sessions opened.
    pub connects: u64,
    /// What was refused, by code: publishes, and sessions for a quota or a rate.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Names of counters in [`Status::counters`].
pub mod counter {
    /// Messages stored in at least one queue.
    pub const PUBLISHED: &str = "published";
    /// Messages recognised by their id as already taken.
    pub const DUPLICATES: &str = "duplicates";
    /// Publishes refused.
    pub const REFUSED: &str = "refused";
    /// Messages sent to live subscriptions.
    pub const FANNED_OUT: &str = "fanned_out";
    /// Messages sent to consumers, redeliveries included.
    pub const DELIVERED: &str = "delivered";
    /// Deliveries acknowledged.
    pub const ACKED: &str = "acked";
    /// Messages a slow subscription lost.
    pub const DROPPED: &str = "dropped";
    /// Messages that became dead letters.
    pub const DEAD: &str = "dead";
    /// Commits of the store.
    pub const COMMITS: &str = "commits";
    /// Bytes the store handed to its file.
    pub const COMMIT_BYTES: &str = "commit_bytes";
}

/// A queue at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its name.
    pub name: String,
    /// The tenant whose it is; absent when it is nobody's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// Its epoch, 16 hex digits.
    pub epoch: String,
    /// `disk` or `memory`.
    pub storage: String,
    /// `work`, `interest` or `limits`.
    pub keep: String,
    /// `memory`, `disk` or `upstream`.
    pub contract: String,
    /// Messages it holds.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Most messages it takes.
    pub messages_max: u64,
    /// Most bytes it takes.
    pub bytes_max: u64,
    /// When its oldest message was stored, milliseconds since 1970; 0 when empty.
    pub oldest_ms: u64,
    /// Lanes in use.
    pub lanes: Vec<LaneStatus>,
    /// Messages held back by a delay.
    pub delayed: u64,
    /// Dead letters of this queue.
    pub dead: u64,
    /// Durable consumers.
    pub consumers: Vec<ConsumerStatus>,
}

/// A lane of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// Priority.
    pub lane: u8,
    /// Sequence of its oldest message.
    pub head: u64,
    /// Sequence the next message will get.
    pub next: u64,
}

/// A durable consumer at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerStatus {
    /// Its name.
    pub name: String,
    /// Sessions consuming under it now.
    pub sessions: u32,
    /// Next sequence a lane, as `(lane, sequence)`.
    #[serde(default)]
    pub positions: Vec<(u8, u64)>,
    /// Deliveries not yet answered.
    pub in_flight: u64,
    /// Messages waiting for another attempt.
    pub waiting_retry: u64,
    /// Messages between its position and the end of the queue, filters not considered.
    pub lag: u64,
}

/// A message seen by a peek.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeekItem {
    /// Lane.
    pub lane: u8,
    /// Sequence in its lane.
    pub seq: u64,
    /// Its id as a ULID; absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it was published.
    pub channel: String,
    /// When the broker took it, milliseconds since 1970.
    pub stored_ms: u64,
    /// Bytes of its payload.
    pub size: u64,
    /// The payload, perhaps cut.
    #[serde(flatten)]
    pub payload: Payload,
    /// User's own properties and the known ones by name, as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// Bytes in JSON: as text where they are UTF-8, else in base 64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// UTF-8.
    #[serde(rename = "text")]
    Text(String),
    /// RFC 4648 §4, padded.
    #[serde(rename = "base64")]
    Base64(String),
}

impl Payload {
    /// The bytes, whichever way they fit.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.into()),
            Err(_) => Self::Base64(base64(bytes)),
        }
    }

    /// The text, or the base 64.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Text(text) | Self::Base64(text) => text,
        }
    }
}

/// Base 64 of RFC 4648 §4, padded.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().enumerate().fold(0u32, |acc, (i, &b)| acc | u32::from(b) << (16 - 8 * i));
        for i in 0..4 {
            if i <= chunk.len() {
                out.push(ALPHABET[(group >> (18 - 6 * i)) as usize & 63] as char);
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_gives_the_vectors_of_rfc_4648() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn documents_survive_json_and_short_queries_take_defaults() {
        let item = PeekItem {
            lane: 1,
            seq: 2,
            id: None,
            channel: "a".into(),
            stored_ms: 3,
            size: 2,
            payload: Payload::from_bytes(&[0xFF, 0]),
            properties: BTreeMap::new(),
        };
        let json = serde_json::to_string(&item).expect("serialises");
        assert!(json.contains(r#""base64":"/wA=""#), "{json}");
        assert_eq!(serde_json::from_str::<PeekItem>(&json).expect("parses"), item);
        let query: PeekQuery = serde_json::from_str(r#"{"name":"main"}"#).expect("defaults");
        assert_eq!(query, PeekQuery { name: "main".into(), count: 10, lane: None });
    }
}
