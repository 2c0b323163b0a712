//! The books over an edge and its hub: what must be at the hub, once and in order, before it may leave the edge.

use crate::bridged::BridgePlan;
use crate::ledger::{Kept, Ledger, Life, ReaderKey, full_name, matches};
use std::collections::{BTreeMap, BTreeSet};
use tidegate::config::{Overflow, QueueSettings, Storage};

/// What is known of the way across.
#[derive(Default)]
pub struct Across {
    edge: usize,
    pub hub: usize,
    /// Queue of the edge, filter, target.
    routes: Vec<(String, String, String)>,
    /// Largest record the hub takes, in bytes.
    record_bytes_max: usize,
    /// Messages given up, as the machines of ended processes counted them.
    pub refused: u64,
    /// Messages given up, as was seen.
    given_up: BTreeSet<u32>,
}

impl Across {
    pub fn new(plan: &BridgePlan) -> Self {
        let routes = plan.settings.up_routes();
        let routes = routes.map(|r| (r.queue, r.mapping.filter, r.mapping.target.replace("{name}", "box")));
        let record_bytes_max = plan.record_bytes_max;
        Self { edge: plan.edge, hub: plan.hub, routes: routes.collect(), record_bytes_max, ..Self::default() }
    }

    /// Whether the bridge said that its hub will never take this message.
    pub fn is_given_up(&self, uid: u32) -> bool {
        self.given_up.contains(&uid)
    }
}

impl Ledger {
    /// The route of a message over the bridge: the queue of its edge that brings it there, and its channel at the hub.
    fn route(&self, uid: u32) -> Option<(&str, String)> {
        let m = &self.messages[uid as usize];
        if m.host != self.across.edge {
            return None;
        }
        let captures: Vec<String> = self.captures(uid).map(|q| full_name(&q.tenant, &q.name)).collect();
        let mut routes = self.across.routes.iter();
        let (queue, filter, target) =
            routes.find(|(queue, filter, _)| captures.contains(queue) && matches(filter, &m.channel))?;
        // Filters here are a channel, or levels and a `#`, behind which channels go on as they were.
        let channel = match (filter.strip_suffix('#'), target.strip_suffix('#')) {
            (Some(from), Some(to)) => format!("{to}{}", m.channel.strip_prefix(from)?),
            _ => target.clone(),
        };
        Some((queue, channel))
    }

    /// A message's channel at a broker; `None` where it has no business.
    pub fn channel_at(&self, uid: u32, host: usize) -> Option<String> {
        let m = &self.messages[uid as usize];
        if m.host == host { Some(m.channel.clone()) } else { self.route(uid).map(|(_, channel)| channel) }
    }

    /// The bridge lets its broker forget a message: the hub must have it.
    pub fn forwarded(&mut self, key: &ReaderKey, uid: u32, hub: Life, durable: &BTreeSet<u32>) {
        self.done(key, uid);
        // The bridge asks for no less than the disk, whatever the hub's queue promises by itself.
        let strict = |q: &&QueueSettings| q.storage == Storage::Disk && q.overflow == Overflow::Reject;
        let mortal = self.messages[uid as usize].ttl_ms > 0;
        let must = !mortal && self.captures_at(uid, self.across.hub).iter().any(strict);
        let has = durable.contains(&uid);
        if must && !has {
            self.fail("nothing leaves the edge before the hub has it", format!("message {uid} of {key:?}"));
        }
        if has {
            let kept = Kept { durable: true, process: hub.process, losses: hub.losses, stored: true };
            self.fates[uid as usize].hub.get_or_insert(kept);
        }
    }

    /// The bridge says that the hub will never take a message.
    pub fn given_up(&mut self, uid: u32, reason: &str) {
        self.across.given_up.insert(uid);
        // What a full queue there drops by its own rule is a dead letter here, too.
        let drops = |q: &&QueueSettings| q.overflow == Overflow::DropNewest;
        let dropped = reason.starts_with("upstream-full") && self.captures_at(uid, self.across.hub).iter().any(drops);
        if !dropped && self.messages[uid as usize].size + 300 < self.across.record_bytes_max {
            let detail = format!("message {uid}: {reason:?}");
            self.fail("a bridge gives up only what its hub refuses for good", detail);
        }
        if reason.is_empty() {
            self.fail("a dead letter has a reason", format!("message {uid}"));
        }
    }

    /// What bridges gave up, and how many of that they counted.
    pub fn check_refused(&mut self, counted: u64) {
        let seen = self.across.given_up.len() as u64;
        if seen > counted {
            self.fail("what a hub refuses is counted", format!("{seen} were given up, {counted} were counted"));
        }
    }

    /// Each message is at the hub once for each time it was stored at the edge, and in the order of the edge's queues.
    pub fn check_across(&mut self) {
        let (edge, hub) = (self.across.edge, self.across.hub);
        if edge == hub {
            return;
        }
        // Where each message stood at the edge: queue and message, then places.
        let mut stood: BTreeMap<(&str, u32), Vec<(u64, u64)>> = BTreeMap::new();
        for ((host, queue, epoch, _, seq), uid) in &self.places {
            if *host == edge {
                stood.entry((queue, *uid)).or_default().push((*epoch, *seq));
            }
        }
        let mut copies: BTreeMap<(&str, u64, u32), usize> = BTreeMap::new();
        // By queue, epoch and lane at the hub, and queue and epoch at the edge: the last place there, and its message.
        type Stream<'a> = (&'a str, u64, u8, &'a str, u64);
        let mut last: BTreeMap<Stream<'_>, (u64, u32)> = BTreeMap::new();
        let mut broken = Vec::new();
        for ((host, queue, epoch, lane, seq), uid) in &self.places {
            if *host != hub || queue.starts_with("$dead/") {
                continue;
            }
            let Some((source, _)) = self.route(*uid) else { continue };
            let Some(at) = stood.get(&(source, *uid)) else {
                let detail = format!("message {uid} is in {queue}, and was never taken from {source}");
                broken.push(("what a hub has came over the bridge", detail));
                continue;
            };
            let copies = copies.entry((queue, *epoch, *uid)).or_default();
            *copies += 1;
            if *copies > at.len() {
                let detail = format!("message {uid} is {copies} times in {queue}, {} times in {source}", at.len());
                broken.push(("each message is at the hub exactly once", detail));
            }
            // Where it stood once at the edge, it stands behind all that stood before it there.
            let [(edge_epoch, edge_seq)] = at[..] else { continue };
            if self.messages[*uid as usize].delay_ms > 0 {
                continue;
            }
            let before = last.insert((queue, *epoch, *lane, source, edge_epoch), (edge_seq, *uid));
            if let Some((before, other)) = before.filter(|(before, _)| *before > edge_seq) {
                let detail = format!(
                    "{queue} lane {lane} sequence {seq}: message {uid}, {edge_seq} of {source}, behind {other}, {before} there"
                );
                broken.push(("a hub has the messages in the edge's order", detail));
            }
        }
        for (promise, detail) in broken {
            self.fail(promise, detail);
        }
    }
}
