//! Keys and values of every small row, with the format's version. Keys are big-endian so that they sort.

use super::ops::{QueueKey, Table};
use crate::model::{MessageId, MountId, Position, Priority, QueueId, Wall};
use crate::wire::Code;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of everything this module describes while a journal is in use; stored in [`META_FORMAT`]. Blocks of 1 and 2 had no
/// checksums and were never released.
pub const FORMAT: u32 = 4;
/// The version without one: a release that knows of no journals may open it.
pub const FORMAT_ALONE: u32 = 3;
/// Meta row: the format's version, u32 big-endian.
pub const META_FORMAT: &[u8] = b"format";
/// Meta row: the last position applied, u64 big-endian; written in every transaction.
pub const META_APPLIED: &[u8] = b"applied";
/// Meta row: the journal of this database: its id (16 bytes), and 1 while it is in use, else 0.
pub const META_JOURNAL: &[u8] = b"journal";
/// Meta row: the clock that never runs back, u64 big-endian milliseconds since 1970.
pub const META_CLOCK: &[u8] = b"clock";
/// Meta row: there while the broker is down after an orderly stop.
pub const META_STOPPED: &[u8] = b"stopped";
/// Meta row: this store was made from what verified in a damaged one, and nobody was told yet; `store::salvage`.
pub const META_SALVAGED: &[u8] = b"salvaged";
/// Meta row: times at which the clock was set, postcard `schedule::Leaps`.
pub const META_LEAPS: &[u8] = b"leaps";
/// Meta row: the next queue and body numbers, postcard [`Counters`].
pub const META_COUNTERS: &[u8] = b"counters";

/// Meta rows: the mount of each tenant there ever was, u32 big-endian, by the tenant's name behind this. They are never
/// deleted, so that no id is used twice.
pub const META_TENANT: &[u8] = b"tenant/";

/// Meta rows: what a mount's tenant did since there is one, postcard [`Tally`], by the mount's id (u32 big-endian) behind
/// this.
pub const META_TALLY: &[u8] = b"tally/";

/// First byte of the keys of [`Table::Bridge`] under which this process's bridges keep what they need after a restart; those of
/// sources' positions begin with another.
pub const BRIDGE_KEPT: u8 = 2;
/// As [`BRIDGE_KEPT`], of the rows that say where bridges' sources stand: a [`SourceRow`] each.
pub const BRIDGE_SOURCE: u8 = 1;
/// As [`BRIDGE_KEPT`], of the rows that say whether upstreams have a message: an [`UpstreamRow`] each.
pub const BRIDGE_UPSTREAM: u8 = 3;

/// What the sessions of a mount did, ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
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
    pub refused: BTreeMap<u16, u64>,
}

impl Tally {
    /// So many messages of so many bytes in all were handed on.
    pub fn deliver(&mut self, messages: u64, bytes: usize) {
        self.delivered += messages;
        self.delivered_bytes += bytes as u64;
    }

    /// So much was refused.
    pub fn refuse(&mut self, code: Code, count: u64) {
        *self.refused.entry(code as u16).or_default() += count;
    }
}

/// Numbers that are never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Next queue.
    pub queue: u32,
    /// Next shared body.
    pub body: u64,
    /// Next delayed message.
    pub delayed: u64,
}

/// A queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    /// Its name.
    pub name: String,
    /// Its epoch.
    pub epoch: u64,
    /// Messages ever appended, over all lanes: the source of history offsets.
    pub appended: u64,
    /// The lanes in use.
    pub lanes: Vec<LaneRow>,
}

/// A lane of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRow {
    /// Priority, 0 to 9.
    pub lane: u8,
    /// Sequence of the oldest message kept (or the next one, when empty); sequences begin at 1.
    pub head: u64,
    /// Sequence the next message gets.
    pub next: u64,
    /// Bytes kept in the lane.
    pub bytes: u64,
    /// The extent still open at the end of the lane.
    pub open: ExtentRow,
}

/// A run of messages in a lane, for accounting, age and search by time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentRow {
    /// First sequence.
    pub first: u64,
    /// Messages.
    pub count: u32,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest was stored, milliseconds since 1970.
    pub oldest_ms: u64,
    /// When the newest was stored, milliseconds since 1970.
    pub newest_ms: u64,
}

/// A consumer of a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerRow {
    /// Filters; none means everything.
    pub filters: Vec<String>,
    /// Most deliveries outstanding.
    pub window: u32,
    /// Attempts before a dead letter; 0 is without end.
    pub attempts_max: u32,
    /// Milliseconds without an answer before redelivery; 0 is never.
    pub ack_timeout_ms: u32,
    /// First retry delay, in milliseconds.
    pub backoff_ms: u32,
    /// Position in each lane in use.
    pub lanes: Vec<ConsumerLaneRow>,
}

/// A consumer's place in a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerLaneRow {
    /// Priority, 0 to 9.
    pub lane: u8,
    /// Every sequence below this is done with.
    pub position: u64,
    /// First sequence never looked at; those between are done unless listed in `pending`.
    pub cursor: u64,
    /// Sequences between `position` and `cursor` that are not done, ascending.
    pub pending: Vec<PendingRow>,
}

/// A message a consumer was given and has not finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRow {
    /// Its sequence.
    pub seq: u64,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before this time, milliseconds since 1970; 0 is at once.
    pub due_ms: u64,
}

/// Last message of a channel with history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRow {
    /// Its offset.
    pub offset: u64,
    /// Its lane.
    pub lane: u8,
    /// Its sequence.
    pub seq: u64,
}

/// Whose a source is. What one bridge shows moves no other's positions.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceOwner {
    /// Whether the bridge is one of this process: no credentials make anybody that.
    pub here: bool,
    /// The principal's name.
    pub principal: Box<str>,
    /// The edge it says it comes from.
    pub edge: Box<str>,
    /// The bridge at that edge.
    pub bridge: Box<str>,
}

/// What is kept of a source, see `broker::sources`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// Every sequence up to this was judged for good.
    pub last: u64,
    /// Those among them that were refused, with their codes, ascending.
    pub refused: Vec<(u64, u16)>,
    /// The day it was last used, counted from 1970.
    pub day: u32,
}

/// A message published under contract `upstream`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamRow {
    /// Its channel: who may publish there may ask for it.
    pub channel: String,
    /// Where it waits; nothing once it is decided.
    pub parts: Vec<UpstreamPart>,
    /// When it was decided, milliseconds since 1970; 0 while it waits.
    pub decided_ms: u64,
    /// Once it is decided: why it was not forwarded, as a code of the wire; 0 where all upstreams have it.
    pub code: u16,
    /// The same for people.
    pub reason: String,
}

/// A place where a message waits for upstreams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamPart {
    /// Number of the queue.
    pub queue: u32,
    /// The lane.
    pub lane: u8,
    /// The sequence.
    pub seq: u64,
    /// Consumers of the bridges that have yet to forward it.
    pub left: Vec<String>,
}

/// Encodes a row.
///
/// # Panics
/// Never: rows hold nothing that cannot be encoded.
pub fn encode<T: Serialize>(row: &T) -> Bytes {
    postcard::to_stdvec(row).expect("rows are plain data").into()
}

/// Decodes a row; `None` when it is damaged.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

/// Key of a queue: mount, queue. Also the prefix of everything that belongs to it.
#[must_use]
pub fn queue_key(queue: QueueKey) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&queue.mount.0.to_be_bytes());
    key[4..].copy_from_slice(&queue.queue.0.to_be_bytes());
    key
}

/// Key of a block or extent: mount, queue, lane, first sequence.
#[must_use]
pub fn lane_key(queue: QueueKey, lane: Priority, first: u64) -> [u8; 17] {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&queue_key(queue));
    key[8] = lane.get();
    key[9..].copy_from_slice(&first.to_be_bytes());
    key
}

/// Queue, lane and first sequence of such a key; `None` for bytes that are none.
#[must_use]
pub fn split_lane_key(key: &[u8]) -> Option<(QueueKey, Priority, u64)> {
    let key = <&[u8; 17]>::try_from(key).ok()?;
    let (mount, rest) = key.split_first_chunk::<4>()?;
    let (queue, rest) = rest.split_first_chunk::<4>()?;
    let (lane, first) = rest.split_first()?;
    let queue = QueueKey { mount: MountId(u32::from_be_bytes(*mount)), queue: QueueId(u32::from_be_bytes(*queue)) };
    Some((queue, Priority::new(*lane)?, u64::from_be_bytes(first.try_into().ok()?)))
}

/// Key of a row named by text inside a queue: a consumer or a channel.
#[must_use]
pub fn named_key(queue: QueueKey, name: &str) -> Bytes {
    [&queue_key(queue)[..], name.as_bytes()].concat().into()
}

/// Key of a retained value: mount, channel.
#[must_use]
pub fn retained_key(mount: MountId, channel: &str) -> Bytes {
    [&mount.0.to_be_bytes()[..], channel.as_bytes()].concat().into()
}

/// Key of the ids of one commit: mount, position.
#[must_use]
pub fn dedupe_key(mount: MountId, position: Position) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&mount.0.to_be_bytes());
    key[4..].copy_from_slice(&position.0.to_be_bytes());
    key
}

/// Key of the meta row that keeps a tenant's mount.
#[must_use]
pub fn tenant_key(tenant: &str) -> Bytes {
    [META_TENANT, tenant.as_bytes()].concat().into()
}

/// Key of the meta row of a mount's tally.
#[must_use]
pub fn tally_key(mount: MountId) -> Bytes {
    [META_TALLY, &mount.0.to_be_bytes()].concat().into()
}

/// Key of a source, a lane of a queue at an edge: [`BRIDGE_SOURCE`], mount, and in postcard whose it is, epoch, lane.
#[must_use]
pub fn source_key(mount: MountId, owner: &SourceOwner, epoch: u64, lane: u8) -> Bytes {
    [&[BRIDGE_SOURCE][..], &mount.0.to_be_bytes(), &encode(&(owner, epoch, lane))].concat().into()
}

/// Mount, owner, epoch and lane of such a key; `None` for bytes that are none.
#[must_use]
pub fn split_source_key(key: &[u8]) -> Option<(MountId, SourceOwner, u64, u8)> {
    let (mount, rest) = key.strip_prefix(&[BRIDGE_SOURCE])?.split_first_chunk::<4>()?;
    let (owner, epoch, lane) = decode(rest)?;
    Some((MountId(u32::from_be_bytes(*mount)), owner, epoch, lane))
}

/// Key of what a bridge of this process wants kept: [`BRIDGE_KEPT`], its name. The value is the bridge's own.
#[must_use]
pub fn bridge_kept_key(bridge: &str) -> Bytes {
    [&[BRIDGE_KEPT][..], bridge.as_bytes()].concat().into()
}

/// Key of a message published under contract `upstream`: [`BRIDGE_UPSTREAM`], mount, id.
#[must_use]
pub fn upstream_key(mount: MountId, id: MessageId) -> [u8; 21] {
    let mut key = [BRIDGE_UPSTREAM; 21];
    key[1..5].copy_from_slice(&mount.0.to_be_bytes());
    key[5..].copy_from_slice(&id.0);
    key
}

/// Mount and id of such a key; `None` for bytes that are none.
#[must_use]
pub fn split_upstream_key(key: &[u8]) -> Option<(MountId, MessageId)> {
    let (mount, id) = key.strip_prefix(&[BRIDGE_UPSTREAM])?.split_first_chunk::<4>()?;
    Some((MountId(u32::from_be_bytes(*mount)), MessageId(id.try_into().ok()?)))
}

/// Key of a delayed message: mount, queue, due time, number.
#[must_use]
pub fn delayed_key(queue: QueueKey, due: Wall, number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&queue_key(queue));
    key[8..16].copy_from_slice(&due.0.to_be_bytes());
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The queue whose row this is; `None` for rows of other tables.
#[must_use]
pub fn split_queue_key(table: Table, key: &[u8]) -> Option<(MountId, QueueId)> {
    if table != Table::Queue {
        return None;
    }
    let (mount, rest) = key.split_first_chunk::<4>()?;
    let queue = <[u8; 4]>::try_from(rest).ok()?;
    Some((MountId(u32::from_be_bytes(*mount)), QueueId(u32::from_be_bytes(queue))))
}
