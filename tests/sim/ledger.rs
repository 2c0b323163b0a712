//! What was promised to whom, and whether it was kept. Each check carries its promise in its name.

use crate::across::Across;
use crate::plan::{Message, Plan};
use crate::tap::{Seen, uid_of};
use std::collections::{BTreeMap, BTreeSet};
use tidegate::config::{Overflow, QueueSettings, Storage};
use tidegate::model::{Channel, Filter};
use tidegate::wire::{Contract, Outcome, item_flag};

/// A queue of so many messages and bytes is never full here.
const ROOM: u64 = 100_000;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub promise: &'static str,
    pub detail: String,
}

/// What is known of a message.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    /// Times it was handed to a connection.
    pub sends: u32,
    /// When it was first, in microseconds.
    pub sent_us: u64,
    /// Its publisher knows what became of it.
    pub settled: bool,
    /// It was acknowledged as kept: at which point of its broker's life, and whether after a sync.
    pub kept: Option<Kept>,
    /// The same of its edge's hub: it left the edge for it.
    pub hub: Option<Kept>,
}

#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub durable: bool,
    pub process: u64,
    pub losses: u64,
    /// The first copy was taken here and now: queues in memory have it too.
    pub stored: bool,
}

/// Where a broker is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Processes so far.
    pub process: u64,
    /// Losses of what was not durable so far.
    pub losses: u64,
}

/// A durable reader of a queue: host, queue by its full name, consumer.
pub type ReaderKey = (usize, String, String);

/// A message that its reader has not: message, reader, whether a policy may have dropped it, whether its age may.
pub type Missing = (u32, ReaderKey, bool, bool);

#[derive(Default)]
struct ReaderState {
    filters: Vec<String>,
    /// In which process of its broker it was opened last, and when it knew first, in microseconds.
    opened: Option<(u64, u64)>,
    /// Messages its sessions got.
    had: BTreeSet<u32>,
    /// Messages its sessions acknowledged.
    done: BTreeSet<u32>,
    /// Places delivered to its sessions without the flag: epoch, lane, sequence.
    fresh: BTreeSet<(u64, u8, u64)>,
    /// Highest of them by connection, epoch and lane.
    newest: BTreeMap<(usize, u64, u8), u64>,
}

/// Everything that was said and seen.
#[derive(Default)]
pub struct Ledger {
    pub messages: Vec<Message>,
    pub fates: Vec<Fate>,
    pub queues: Vec<Vec<QueueSettings>>,
    window_holds: bool,
    pub across: Across,
    readers: BTreeMap<ReaderKey, ReaderState>,
    /// What stands at a place of a queue: host, queue, epoch, lane, sequence.
    pub places: BTreeMap<(usize, String, u64, u8, u64), u32>,
    /// What stands at an offset of a channel: host, epoch, channel, offset.
    offsets: BTreeMap<(usize, u64, String, u64), u32>,
    /// Dead letters seen: host, queue.
    pub dead: BTreeSet<(usize, String, u32)>,
    /// Last message heard by connection, channel and publisher.
    live: BTreeMap<(usize, String, usize, u8), u32>,
    pub dropped: u64,
    pub expired: u64,
    /// A commit failed in a process that went on.
    pub store_failed: bool,
    pub broken: Option<Broken>,
}

impl Ledger {
    pub fn new(plan: &Plan) -> Self {
        // A bridge has its place in its queues from the start, connected or not.
        let bridge = plan.bridge.iter();
        let forwarding = bridge.flat_map(|b| b.settings.up_routes().map(|r| (b.edge, r.queue, b.settings.consumer())));
        Self {
            readers: forwarding.map(|key| (key, ReaderState::default())).collect(),
            fates: vec![Fate::default(); plan.messages.len()],
            messages: plan.messages.clone(),
            queues: plan.hosts.iter().map(|h| h.queues.clone()).collect(),
            window_holds: plan.window_holds,
            across: plan.bridge.as_ref().map_or_else(Across::default, Across::new),
            ..Self::default()
        }
    }

    /// Notes a broken promise; the first one counts.
    pub fn fail(&mut self, promise: &'static str, detail: String) {
        self.broken.get_or_insert(Broken { promise, detail });
    }

    /// The queues of the broker it was published at that capture a message's channel.
    pub fn captures(&self, uid: u32) -> impl Iterator<Item = &QueueSettings> {
        let m = &self.messages[uid as usize];
        let its = self.queues[m.host].iter().filter(|q| q.tenant == m.tenant);
        its.filter(|q| q.capture.iter().any(|f| matches(f, &m.channel)))
    }

    /// The queues of a broker that capture a message.
    pub fn captures_at(&self, uid: u32, host: usize) -> Vec<&QueueSettings> {
        if host == self.messages[uid as usize].host {
            return self.captures(uid).collect();
        }
        let Some(channel) = self.channel_at(uid, host) else { return Vec::new() };
        self.queues[host].iter().filter(|q| q.capture.iter().any(|f| matches(f, &channel))).collect()
    }

    /// Whether its ack may leave only after a sync.
    fn must_be_durable(&self, uid: u32) -> bool {
        // A queue that drops the newest (or bulk for an alarm) may not have taken it; what was asked for holds even then.
        let asked = self.messages[uid as usize].contract >= Contract::Disk;
        let by_queue = |q: &QueueSettings| {
            q.storage == Storage::Disk && q.contract >= Contract::Disk && q.overflow == Overflow::Reject
        };
        asked || self.captures(uid).any(by_queue)
    }

    /// A broker lets an acknowledgement go; `durable` says which messages its disk holds.
    pub fn acknowledged(&mut self, uid: u32, outcome: Outcome, life: Life, durable: &BTreeSet<u32>) {
        if !matches!(outcome, Outcome::Stored | Outcome::Duplicate) {
            return;
        }
        let needs = self.must_be_durable(uid);
        let has = durable.contains(&uid);
        if needs && !has {
            self.fail("acknowledged means kept: no ack before the sync", format!("message {uid}, {outcome:?}"));
        }
        let kept = Kept {
            durable: needs && has,
            process: life.process,
            losses: life.losses,
            stored: outcome == Outcome::Stored,
        };
        self.fates[uid as usize].kept.get_or_insert(kept);
    }

    /// A broker lets a message of a stored queue go to a consumer or a subscriber.
    pub fn leaves(&mut self, host: usize, seen: &Seen, durable: &BTreeSet<u32>) {
        let Some(m) = self.messages.get(seen.uid as usize) else {
            self.fail("what is delivered is what was published", format!("no such message: {}", seen.uid));
            return;
        };
        let captures = self.captures_at(seen.uid, host);
        let disk = m.retain || captures.iter().any(|q| q.storage == Storage::Disk);
        let all_disk = captures.iter().all(|q| q.storage == Storage::Disk && q.overflow != Overflow::DropNewest);
        if disk && all_disk && seen.seq > 0 && !durable.contains(&seen.uid) {
            self.fail("nothing is seen before it is durable", format!("message {} at {}", seen.uid, seen.seq));
        }
    }

    /// The message itself, byte for byte.
    fn same(&mut self, host: usize, seen: &Seen) -> bool {
        let Some(m) = self.messages.get(seen.uid as usize) else { return false };
        let same =
            self.channel_at(seen.uid, host).as_ref() == Some(&seen.channel) && payload(seen.uid, m.size) == seen.bytes;
        let lane = m.priority == seen.lane;
        if !same || !lane {
            let detail =
                format!("message {} on {:?} lane {}, {} bytes", seen.uid, seen.channel, seen.lane, seen.bytes.len());
            self.fail("what is delivered is what was published", detail);
        }
        same
    }

    /// A consumer was opened.
    pub fn reader(&mut self, key: &ReaderKey, filters: &[String]) {
        self.readers.entry(key.clone()).or_default().filters = filters.to_vec();
    }

    /// The same, in this process of its broker.
    pub fn opened(&mut self, key: &ReaderKey, process: u64, now_us: u64) {
        let opened = &mut self.readers.entry(key.clone()).or_default().opened;
        if opened.is_none_or(|(of, _)| of != process) {
            *opened = Some((process, now_us));
        }
    }

    /// A session of a consumer got a message.
    pub fn delivered(&mut self, link: usize, key: &ReaderKey, seen: &Seen) {
        if !self.same(key.0, seen) {
            return;
        }
        let (host, queue, _) = key;
        let place = (*host, queue.clone(), seen.epoch, seen.lane, seen.seq);
        let before = *self.places.entry(place).or_insert(seen.uid);
        if before != seen.uid {
            let detail = format!("{queue} lane {} sequence {}: {before}, then {}", seen.lane, seen.seq, seen.uid);
            self.fail("a place of a queue is never another message's", detail);
        }
        if let Some(of) = queue.strip_prefix("$dead/") {
            if !self.captures_at(seen.uid, *host).iter().any(|q| full_name(&q.tenant, &q.name) == of) {
                self.fail("no tenant sees another's", format!("message {} in {queue}", seen.uid));
            }
            self.dead.insert((*host, of.to_owned(), seen.uid));
        } else if !self.captures_at(seen.uid, *host).iter().any(|q| full_name(&q.tenant, &q.name) == *queue) {
            self.fail("delivery only to matching filters", format!("{queue} captured {:?}", seen.channel));
        }
        let state = self.readers.entry(key.clone()).or_default();
        state.had.insert(seen.uid);
        if !state.filters.is_empty() && !state.filters.iter().any(|f| matches(f, &seen.channel)) {
            let detail = format!("{key:?} was sent {:?}", seen.channel);
            self.fail("delivery only to matching filters", detail);
            return;
        }
        if seen.flags & item_flag::REDELIVERED != 0 {
            return;
        }
        let at = format!("{key:?} lane {} sequence {} message {}", seen.lane, seen.seq, seen.uid);
        let newest = state.newest.entry((link, seen.epoch, seen.lane)).or_default();
        let last = std::mem::replace(newest, seen.seq);
        if !state.fresh.insert((seen.epoch, seen.lane, seen.seq)) {
            self.fail("a redelivery carries the flag", at);
        } else if seen.seq < last {
            self.fail("first deliveries are in the queue's order", format!("{at} after {last}"));
        }
    }

    /// A session of a consumer acknowledged a message.
    pub fn done(&mut self, key: &ReaderKey, uid: u32) {
        self.readers.entry(key.clone()).or_default().done.insert(uid);
    }

    /// A subscriber of a filter got a message.
    pub fn heard(&mut self, link: usize, host: usize, tenant: &str, filter: &str, seen: &Seen) {
        if !self.same(host, seen) {
            return;
        }
        if self.messages[seen.uid as usize].tenant != tenant {
            self.fail("no tenant sees another's", format!("{tenant:?} heard message {}", seen.uid));
        }
        if !matches(filter, &seen.channel) {
            self.fail("delivery only to matching filters", format!("{filter:?} heard {:?}", seen.channel));
        }
        let m = &self.messages[seen.uid as usize];
        if seen.flags & item_flag::RETAINED == 0 && m.delay_ms == 0 && self.fates[seen.uid as usize].sends == 1 {
            // On its way over a bridge a higher priority overtakes.
            let lane = if m.host == host { 0 } else { seen.lane };
            let stream = (link, seen.channel.clone(), m.publisher, lane);
            let before = self.live.insert(stream, seen.uid);
            if before.is_some_and(|before| before >= seen.uid) {
                let detail = format!("{:?}: message {} after {before:?}", seen.channel, seen.uid);
                self.fail("a subscriber hears a publisher in order", detail);
            }
        }
        if seen.flags & item_flag::HAS_OFFSET != 0 {
            let place = (host, seen.epoch, seen.channel.clone(), seen.offset);
            let before = *self.offsets.entry(place).or_insert(seen.uid);
            if before != seen.uid {
                let detail = format!("{:?} offset {}: {before}, then {}", seen.channel, seen.offset, seen.uid);
                self.fail("an offset that was seen is never another message's", detail);
            }
        }
    }

    /// Messages whose publishers wait for an answer.
    pub fn unanswered(&self) -> impl Iterator<Item = u32> {
        self.fates.iter().enumerate().filter(|(_, f)| !f.settled).map(|(uid, _)| uid as u32)
    }

    /// What was promised and is not there: message, reader, whether a policy may have dropped it, whether its age may.
    pub fn missing(&self, life: &[Life]) -> Vec<Missing> {
        let mut missing = Vec::new();
        for (uid, fate) in self.fates.iter().enumerate() {
            let uid = uid as u32;
            let m = &self.messages[uid as usize];
            let places = [(m.host, fate.kept), (self.across.hub, fate.hub)];
            let kept = places.into_iter().filter_map(|(host, kept)| Some((host, kept?)));
            let queues =
                kept.flat_map(|(host, kept)| self.captures_at(uid, host).into_iter().map(move |q| (host, kept, q)));
            for (host, kept, q) in queues {
                let now = life[host];
                let holds = match q.storage {
                    Storage::Memory => kept.stored && kept.process == now.process,
                    Storage::Disk => kept.durable || kept.losses == now.losses,
                };
                if !holds || self.dead.contains(&(host, full_name(&q.tenant, &q.name), uid)) {
                    continue;
                }
                let name = full_name(&q.tenant, &q.name);
                let readers = self.readers.iter().filter(|((of, queue, _), _)| *of == host && *queue == name);
                for (key, state) in readers {
                    let channel = self.channel_at(uid, host).unwrap_or_default();
                    let wants = state.filters.is_empty() || state.filters.iter().any(|f| matches(f, &channel));
                    // A queue in memory forgets its consumers, too: it keeps for them again when they are back.
                    let known = q.storage == Storage::Disk
                        || state.opened.is_some_and(|(process, us)| process == now.process && us < fate.sent_us);
                    if wants && known && !state.done.contains(&uid) {
                        // A dead letter nobody took for long may be dropped for another, where there is little room.
                        let room = q.messages_max.min(q.bytes_max) >= ROOM;
                        let dead = !room && state.had.contains(&uid) || self.across.is_given_up(uid);
                        let droppable = q.overflow != Overflow::Reject || dead;
                        missing.push((uid, key.clone(), droppable, m.ttl_ms > 0));
                    }
                }
            }
        }
        missing
    }

    /// Which promise it would break if that were never to come, where so much was counted as dropped and as expired.
    pub fn lost(&self, missing: &[Missing], dropped: u64, expired: u64) -> Option<(&'static str, String)> {
        // What a policy drops of a queue is counted once, however many readers miss it.
        let (mut droppable, mut mortal) = (BTreeSet::new(), BTreeSet::new());
        for (uid, key, may_drop, may_expire) in missing {
            match (may_drop, may_expire) {
                (_, true) => drop(mortal.insert((uid, &key.1))),
                (true, _) => drop(droppable.insert((uid, &key.1))),
                _ => {
                    let detail = format!("message {uid} for {key:?}, {:?}", self.fates[*uid as usize]);
                    return Some(("no acknowledged message is lost", detail));
                }
            }
        }
        if droppable.len() as u64 > dropped {
            let detail = format!("{} are missing, {dropped} were counted", droppable.len());
            return Some(("what a policy drops is counted", detail));
        }
        let both = (droppable.len() + mortal.len()) as u64;
        (both > dropped + expired).then(|| {
            let detail = format!("{both} are missing, {dropped} and {expired} were counted");
            ("what expires is counted", detail)
        })
    }

    /// The last judgement, when everything is quiet.
    pub fn close(&mut self, life: &[Life]) {
        if let Some((promise, detail)) = self.lost(&self.missing(life), self.dropped, self.expired) {
            self.fail(promise, detail);
        }
        self.check_order();
        self.check_across();
    }

    /// Copies of a message of which more than one may be stored: sent again without an id the broker remembers.
    pub fn may_repeat(&self, uid: u32) -> bool {
        let m = &self.messages[uid as usize];
        self.fates[uid as usize].sends > 1 && (m.id.is_none() || !self.window_holds)
    }

    /// Order per publisher, queue and priority, and one copy an id.
    fn check_order(&mut self) {
        let mut last: BTreeMap<(usize, &str, u64, u8, usize), u32> = BTreeMap::new();
        let mut copies: BTreeMap<(usize, &str, u64, u32), u64> = BTreeMap::new();
        let mut broken = None;
        for ((host, queue, epoch, lane, seq), uid) in &self.places {
            let m = &self.messages[*uid as usize];
            if *host != m.host || queue.starts_with("$dead/") || self.may_repeat(*uid) {
                continue;
            }
            let is_memory = |q: &QueueSettings| full_name(&q.tenant, &q.name) == *queue && q.storage == Storage::Memory;
            let memory = self.queues[*host].iter().any(is_memory);
            let mixed = memory && (m.retain || self.captures(*uid).any(|q| q.storage == Storage::Disk));
            let dropping = |q: &QueueSettings| q.storage == Storage::Disk && q.overflow != Overflow::Reject;
            if mixed && (self.store_failed || self.captures(*uid).any(dropping)) {
                // The disk alone failed or dropped it: the second copy is the one that was asked for.
                continue;
            }
            if let Some(first) = copies.insert((*host, queue, *epoch, *uid), *seq) {
                let detail = format!("message {uid} is at {first} and {seq} of {queue}");
                broken.get_or_insert(Broken { promise: "no duplicate inside the dedupe window", detail });
            }
            if m.delay_ms > 0 {
                continue;
            }
            if let Some(before) = last.insert((*host, queue, *epoch, *lane, m.publisher), *uid)
                && before > *uid
            {
                let detail = format!("{queue} lane {lane}: message {before} before {uid} of publisher {}", m.publisher);
                broken.get_or_insert(Broken { promise: "order per publisher, queue and priority", detail });
            }
        }
        if let Some(Broken { promise, detail }) = broken {
            self.fail(promise, detail);
        }
    }
}

/// A queue's name with its tenant's, as an administrator gives it.
pub fn full_name(tenant: &str, queue: &str) -> String {
    match (tenant, queue.strip_prefix("$dead/")) {
        ("", _) => queue.to_owned(),
        (_, Some(of)) => format!("$dead/{tenant}/{of}"),
        (_, None) => format!("{tenant}/{queue}"),
    }
}

pub fn matches(filter: &str, channel: &str) -> bool {
    let channel = Channel::parse(channel).expect("a valid channel");
    Filter::parse(filter).expect("a valid filter").matches(channel)
}

/// The payload of a message: its number, then a pattern of its own.
pub fn payload(uid: u32, size: usize) -> Vec<u8> {
    let mut bytes = uid.to_be_bytes().to_vec();
    bytes.extend((4..size.max(4)).map(|i| (i as u32).wrapping_mul(31).wrapping_add(uid) as u8));
    debug_assert_eq!(uid_of(&bytes), Some(uid));
    bytes
}
