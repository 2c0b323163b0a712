//! Messages published under contract `upstream`: where each waits, for which bridges, who is to be told, and what became of
//! those that are decided; pure.

use crate::model::{ConnId, MessageId, MountId, Position, Priority};
use crate::store::schema::{self, UpstreamPart, UpstreamRow};
use crate::store::{Op, Table};
use crate::wire::Code;
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A place in a queue: the queue's in the list, lane, sequence.
pub(super) type At = (usize, Priority, u64);

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// All upstreams have it.
    Stored,
    /// One has it not and never will, for this reason.
    Refused(Code, Rc<str>),
}

/// Who is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) conn: ConnId,
    pub(super) stream: u32,
    pub(super) number: u64,
    /// It published an id that was known.
    pub(super) again: bool,
}

/// One message.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) channel: Box<str>,
    /// Where it waits, and the consumers it waits for there.
    pub(super) parts: Vec<(At, Vec<Rc<str>>)>,
    pub(super) fate: Option<Fate>,
    /// The commit that keeps it.
    pub(super) held: Position,
    pub(super) waiters: Vec<Waiter>,
}

/// All of a mount.
#[derive(Default)]
pub(super) struct Tracks {
    by_id: HashMap<MessageId, Track>,
    at: BTreeMap<At, MessageId>,
    /// Decided ones, oldest first.
    decided: VecDeque<MessageId>,
}

impl Tracks {
    /// Whether nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.at.is_empty()
    }

    /// Messages that wait.
    pub(super) fn waiting(&self) -> usize {
        self.by_id.len() - self.decided.len()
    }

    pub(super) fn get(&self, id: MessageId) -> Option<&Track> {
        self.by_id.get(&id)
    }

    /// A message waits from now on.
    pub(super) fn add(&mut self, id: MessageId, track: Track) {
        for (at, _) in &track.parts {
            self.at.insert(*at, id);
        }
        if track.fate.is_some() {
            self.decided.push_back(id);
        }
        self.by_id.insert(id, track);
    }

    /// Somebody waits for a message.
    pub(super) fn wait(&mut self, id: MessageId, waiter: Waiter) {
        if let Some(track) = self.by_id.get_mut(&id) {
            track.waiters.push(waiter);
        }
    }

    /// The places of a lane that wait, in `from..to`, with the consumers they wait for.
    pub(super) fn range(&self, queue: usize, lane: Priority, from: u64, to: u64) -> Vec<(At, Vec<Rc<str>>)> {
        if from >= to {
            return Vec::new();
        }
        self.at.range((queue, lane, from)..(queue, lane, to)).map(|(at, id)| (*at, self.left(*at, *id))).collect()
    }

    /// All places that wait, with the channel and the consumers they wait for.
    pub(super) fn all(&self) -> Vec<(At, Box<str>, Vec<Rc<str>>)> {
        let channel = |id| self.by_id.get(id).map(|t| t.channel.clone()).unwrap_or_default();
        self.at.iter().map(|(at, id)| (*at, channel(id), self.left(*at, *id))).collect()
    }

    fn left(&self, at: At, id: MessageId) -> Vec<Rc<str>> {
        let track = self.by_id.get(&id);
        track.and_then(|t| t.parts.iter().find(|(a, _)| *a == at)).map(|(_, left)| left.clone()).unwrap_or_default()
    }

    /// A consumer is done with a place: its upstream has the message, or this is why not. Gives the message's id where anything
    /// changed, and whether it is decided.
    pub(super) fn settle(&mut self, at: At, consumer: &str, fate: Fate) -> Option<(MessageId, bool)> {
        let id = *self.at.get(&at)?;
        let track = self.by_id.get_mut(&id)?;
        let (_, left) = track.parts.iter_mut().find(|(a, _)| *a == at)?;
        let found = left.iter().position(|name| **name == *consumer)?;
        left.swap_remove(found);
        if fate == Fate::Stored && track.parts.iter().any(|(_, left)| !left.is_empty()) {
            return Some((id, false));
        }
        for (at, _) in std::mem::take(&mut track.parts) {
            self.at.remove(&at);
        }
        track.fate = Some(fate);
        self.decided.push_back(id);
        Some((id, true))
    }

    /// Who is to be told of a message, once.
    pub(super) fn take_waiters(&mut self, id: MessageId) -> Vec<Waiter> {
        self.by_id.get_mut(&id).map(|t| std::mem::take(&mut t.waiters)).unwrap_or_default()
    }

    /// Forgets the oldest decided ones beyond so many; gives their ids.
    pub(super) fn forget(&mut self, most: usize) -> Vec<MessageId> {
        let over = self.decided.len().saturating_sub(most);
        let gone: Vec<MessageId> = self.decided.drain(..over).collect();
        for id in &gone {
            self.by_id.remove(id);
        }
        gone
    }

    /// The row that keeps a message.
    pub(super) fn write(&self, mount: MountId, id: MessageId, now_ms: u64, queue: impl Fn(usize) -> u32) -> Option<Op> {
        let track = self.by_id.get(&id)?;
        let part = |((q, lane, seq), left): &(At, Vec<Rc<str>>)| UpstreamPart {
            queue: queue(*q),
            lane: lane.get(),
            seq: *seq,
            left: left.iter().map(|name| name.to_string()).collect(),
        };
        let (code, reason) = match &track.fate {
            None | Some(Fate::Stored) => (0, String::new()),
            Some(Fate::Refused(code, reason)) => (*code as u16, reason.to_string()),
        };
        let row = UpstreamRow {
            channel: track.channel.to_string(),
            parts: track.parts.iter().map(part).collect(),
            decided_ms: track.fate.as_ref().map_or(0, |_| now_ms.max(1)),
            code,
            reason,
        };
        let key = Bytes::copy_from_slice(&schema::upstream_key(mount, id));
        Some(Op::Put { table: Table::Bridge, key, value: schema::encode(&row) })
    }
}

impl Track {
    /// As the store keeps it; `place` finds a queue by its number. Parts in queues that are gone do not wait.
    pub(super) fn load(row: UpstreamRow, place: impl Fn(u32) -> Option<usize>) -> Self {
        let parts = row.parts.into_iter().filter_map(|part| {
            let at = (place(part.queue)?, Priority::new(part.lane)?, part.seq);
            Some((at, part.left.iter().map(|name| Rc::from(name.as_str())).collect()))
        });
        let parts: Vec<_> = parts.collect();
        let fate = match (row.decided_ms, Code::from_u16(row.code).filter(|_| row.code != 0)) {
            (0, _) if parts.is_empty() => {
                Some(Fate::Refused(Code::NotForwarded, "the queue that held it is gone".into()))
            }
            (0, _) => None,
            (_, None) if row.code == 0 => Some(Fate::Stored),
            (_, code) => Some(Fate::Refused(code.unwrap_or(Code::NotForwarded), row.reason.into())),
        };
        Self { channel: row.channel.into(), parts, fate, held: Position(0), waiters: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Priority = Priority::MAX;

    fn id(n: u8) -> MessageId {
        MessageId([n; 16])
    }

    fn track(parts: &[(u64, &[&str])]) -> Track {
        let part = |(seq, left): &(u64, &[&str])| ((0, LANE, *seq), left.iter().map(|n| Rc::from(*n)).collect());
        let parts = parts.iter().map(part).collect();
        Track { channel: "a".into(), parts, fate: None, held: Position(1), waiters: Vec::new() }
    }

    #[test]
    fn a_message_is_stored_once_all_have_it_and_refused_once_one_has_not() {
        let mut t = Tracks::default();
        t.add(id(1), track(&[(1, &["x", "y"]), (7, &["x"])]));
        t.add(id(2), track(&[(2, &["x", "y"])]));
        assert_eq!(t.settle((0, LANE, 1), "x", Fate::Stored), Some((id(1), false)));
        assert_eq!(t.settle((0, LANE, 1), "x", Fate::Stored), None, "once");
        assert_eq!(t.settle((0, LANE, 7), "x", Fate::Stored), Some((id(1), false)));
        assert_eq!((t.waiting(), t.is_idle()), (2, false));
        assert_eq!(t.settle((0, LANE, 1), "y", Fate::Stored), Some((id(1), true)));
        let why = Fate::Refused(Code::NotForwarded, "why".into());
        assert_eq!(t.settle((0, LANE, 2), "y", why.clone()), Some((id(2), true)));
        assert_eq!(t.settle((0, LANE, 2), "x", Fate::Stored), None, "it is decided");
        assert_eq!((t.waiting(), t.is_idle()), (0, true));
        assert_eq!(t.get(id(2)).and_then(|t| t.fate.clone()), Some(why));
        assert_eq!(t.forget(1), [id(1)]);
        assert!(t.get(id(1)).is_none() && t.get(id(2)).is_some());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut t = Tracks::default();
        t.add(id(1), track(&[(1, &["x", "y"])]));
        t.add(id(2), track(&[(2, &["x"])]));
        t.settle((0, LANE, 2), "x", Fate::Refused(Code::UpstreamRefused, "bad".into()));
        for n in [1, 2] {
            let Some(Op::Put { value, .. }) = t.write(MountId(0), id(n), 5, |_| 9) else { panic!("a row") };
            let row: UpstreamRow = schema::decode(&value).expect("a row");
            let again = Track::load(row.clone(), |queue| (queue == 9).then_some(0));
            let was = t.get(id(n)).expect("there");
            assert_eq!((&again.channel, &again.parts, &again.fate), (&was.channel, &was.parts, &was.fate));
            let gone = Track::load(row, |_| None);
            assert!(matches!(gone.fate, Some(Fate::Refused(..))), "its queue is gone");
        }
    }
}
