//! Where bridges' messages come from, and what of them is kept already: a position a source, written with what it is about.
//!
//! A source is a lane of a queue at an edge. Its records come in order, so one number says all: what is at or below it was
//! judged for good, and is not judged again whatever becomes of the dedupe window. A commit writes one row of each source it
//! has records of, in the transaction that appends them; what no disk takes moves the position in memory, and the row follows
//! with the next commit there is.

use super::mount::Mount;
use super::publish::{RETRY_FULL_MS, Taken};
use super::tenants::Refused;
use super::{Broker, ConnId};
use crate::model::{MountId, Position, Volume, Wall};
use crate::protocols::Fault;
use crate::session::Publisher;
use crate::store::schema::{self, SourceOwner, SourceRow};
use crate::store::{Op, Table};
use crate::wire::{Code, Outcome, Source, SourcePosition};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Sources of a mount at most; beyond it the one that was not used for longest is forgotten.
pub(super) const SOURCES_MAX: usize = 10_000;
/// Of them one principal's at most, so that nobody's make another's forgotten.
pub(super) const SOURCES_OF_ONE_MAX: usize = 1_024;
/// Refused sequences of a source that are remembered, until the edge has settled them.
pub(super) const REFUSED_MAX: usize = 1_024;
/// How exactly the disk knows when a source was last used, in milliseconds.
const DAY_MS: u64 = 86_400_000;

/// A source: whose, epoch and lane.
type Key = (Rc<SourceOwner>, u64, u8);

/// A record's place: which source, by its slot, and its sequence there.
pub(super) type Place = (usize, u64);

/// The sources of a mount.
#[derive(Default)]
pub(super) struct Sources {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    index: BTreeMap<Key, usize>,
}

/// What is kept of a source.
struct Slot {
    key: Key,
    last: u64,
    refused: Vec<(u64, u16)>,
    used: Wall,
    /// The commit that must be durable before all up to `last` is.
    wait: Position,
    /// The commit that its row was last written by, and what it said.
    written: (Position, u64),
    /// What the row said that was durable before.
    safe: u64,
    /// It is among those that the next commit writes.
    touched: bool,
}

impl Slot {
    fn new(key: Key, row: SourceRow) -> Self {
        let used = Wall(u64::from(row.day) * DAY_MS);
        let (last, refused) = (row.last, row.refused);
        let written = (Position(0), last);
        Self { key, last, refused, used, wait: Position(0), written, safe: last, touched: false }
    }

    fn row(&self) -> SourceRow {
        let day = u32::try_from(self.used.0 / DAY_MS).unwrap_or(u32::MAX);
        SourceRow { last: self.last, refused: self.refused.clone(), day }
    }

    /// What a bridge may be told now: nothing that a cut could take back.
    fn durable(&self, durable: Position) -> u64 {
        if self.wait <= durable {
            self.last
        } else if self.written.0 <= durable {
            self.written.1
        } else {
            self.safe
        }
    }

    /// Everything up to this sequence is judged; the commit, where there is one, holds it.
    fn advance(&mut self, seq: u64, held: Position) {
        self.last = seq;
        self.wait = self.wait.max(held);
    }
}

impl Sources {
    /// Takes over a row of the store.
    pub(super) fn restore(&mut self, owner: SourceOwner, epoch: u64, lane: u8, row: SourceRow) {
        let key = (Rc::new(owner), epoch, lane);
        self.insert(Slot::new(key, row));
    }

    fn insert(&mut self, slot: Slot) -> usize {
        let key = slot.key.clone();
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[at] = Some(slot);
        self.index.insert(key, at);
        at
    }

    /// Sources kept.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// What is kept of a principal, of whatever edge.
    fn of_principal(&self, owner: &SourceOwner) -> impl Iterator<Item = usize> {
        let (here, principal) = (owner.here, owner.principal.clone());
        let first = SourceOwner { here, principal: principal.clone(), ..SourceOwner::default() };
        let its = self.index.range((Rc::new(first), 0, 0)..);
        its.take_while(move |((o, ..), _)| o.here == here && o.principal == principal).map(|(_, at)| *at)
    }

    /// Of these the one that was not used for longest.
    fn longest_unused(&self, of: impl Iterator<Item = usize>) -> Option<usize> {
        of.min_by_key(|at| self.slots[*at].as_ref().map(|slot| (slot.used, *at)))
    }

    /// Makes room for one more of this owner; gives back whom it cost its place, and where that was.
    fn make_room(&mut self, owner: &SourceOwner) -> Option<(usize, Slot)> {
        let at = if self.of_principal(owner).count() >= SOURCES_OF_ONE_MAX {
            self.longest_unused(self.of_principal(owner))
        } else if self.len() >= SOURCES_MAX {
            self.longest_unused(self.index.values().copied())
        } else {
            None
        }?;
        let slot = self.slots[at].take()?;
        self.index.remove(&slot.key);
        self.free.push(at);
        Some((at, slot))
    }

    /// What an owner may be told that is kept of its sources, the last used first; each is copied when it is asked for.
    pub(super) fn told(&self, owner: &Rc<SourceOwner>, durable: Position) -> impl Iterator<Item = SourcePosition> {
        let its = self.index.range((Rc::clone(owner), 0, 0)..).take_while(|((o, ..), _)| o == owner);
        let mut slots: Vec<&Slot> = its.filter_map(|(_, at)| self.slots[*at].as_ref()).collect();
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.used));
        let tell = move |slot: &Slot| {
            let last = slot.durable(durable);
            let refused = slot.refused.iter().copied().filter(|(seq, _)| *seq <= last).collect();
            SourcePosition { epoch: slot.key.1, lane: slot.key.2, last, refused }
        };
        slots.into_iter().map(tell).filter(|position| position.last > 0)
    }

    /// Adds the row of a source to a commit of this position; everything that was written before is durable.
    pub(super) fn write(&mut self, mount: MountId, at: usize, position: Position) -> Option<Op> {
        let slot = self.slots.get_mut(at)?.as_mut()?;
        slot.touched = false;
        slot.safe = slot.written.1;
        slot.written = (position, slot.last);
        let (owner, epoch, lane) = &slot.key;
        let key = schema::source_key(mount, owner, *epoch, *lane);
        Some(Op::Put { table: Table::Bridge, key, value: schema::encode(&slot.row()) })
    }

    /// Takes over from before the store was opened anew what does not hang on commits that failed: what memory took, and
    /// when each was used. `self` holds what the disk knows.
    pub(super) fn adopt(&mut self, old: Self, durable: Position) {
        for slot in old.slots.into_iter().flatten() {
            let of_memory = slot.wait <= durable;
            match self.index.get(&slot.key).copied() {
                Some(at) => {
                    let Some(known) = self.slots[at].as_mut() else { continue };
                    known.used = known.used.max(slot.used);
                    if of_memory && slot.last > known.last {
                        (known.last, known.refused) = (slot.last, slot.refused);
                    }
                }
                None if of_memory => {
                    self.insert(Slot { written: (Position(0), 0), safe: 0, touched: false, ..slot });
                }
                None => {}
            }
        }
    }
}

impl Broker {
    /// The slot of where a bridge's records come from, made at the first.
    ///
    /// # Errors
    /// The session is no bridge's.
    pub(super) fn source_slot(&mut self, conn: ConnId, source: &Source<'_>) -> Result<usize, Fault> {
        let Some(c) = self.conns.get(&conn) else { return Err(NO_BRIDGE) };
        let (Some(owner), mount) = (c.source_owner(), c.mount) else { return Err(NO_BRIDGE) };
        let key = (Rc::clone(owner), source.epoch, source.lane);
        let now = self.now.wall;
        let Mount { sources, id, .. } = &mut self.mounts[mount];
        let at = match sources.index.get(&key) {
            Some(at) => *at,
            None => {
                while let Some((at, gone)) = sources.make_room(&key.0) {
                    let (owner, epoch, lane) = &gone.key;
                    let row = schema::source_key(*id, owner, *epoch, *lane);
                    self.disk.forget_source((mount, at), Op::Delete { table: Table::Bridge, key: row });
                    self.disk.nudge(self.now.mono);
                    self.counters.sources_evicted += 1;
                    log::info!("the position of lane {lane} of epoch {epoch:016x} of {owner:?} made room for another");
                }
                sources.insert(Slot { used: now, ..Slot::new(key, SourceRow::default()) })
            }
        };
        let Some(slot) = sources.slots[at].as_mut() else { return Err(NO_BRIDGE) };
        let settled = slot.refused.partition_point(|(seq, _)| *seq < source.floor);
        slot.refused.drain(..settled);
        let same_day = now.0 / DAY_MS == slot.used.0 / DAY_MS;
        slot.used = now;
        if !same_day && !std::mem::replace(&mut slot.touched, true) {
            self.disk.touch_source((mount, at));
        }
        Ok(at)
    }

    /// What is known already of the record at this place.
    pub(super) fn known_at(&mut self, mount: usize, (at, seq): Place) -> Option<Result<Taken, Refused>> {
        let slot = self.mounts[mount].sources.slots[at].as_ref()?;
        if seq > slot.last {
            return None;
        }
        if let Ok(found) = slot.refused.binary_search_by_key(&seq, |(seq, _)| *seq) {
            let code = Code::from_u16(slot.refused[found].1).unwrap_or(Code::Internal);
            return Some(Err((code, 0)));
        }
        let mut wait = [Position(0); 2];
        if slot.wait > self.disk.durable {
            // What is at or below it was in the commit that failed, or may have been.
            if self.health.is_failed() {
                return Some(Err((Code::StorageFailed, RETRY_FULL_MS)));
            }
            wait[Publisher::slot(Volume::Disk)] = slot.wait;
        }
        self.counters.duplicates += 1;
        self.counters.resent += 1;
        Some(Ok(Taken { outcome: Outcome::Duplicate, wait, held: Position(0), track: None }))
    }

    /// Moves a source's position by what became of the record at this place.
    pub(super) fn settle_at(
        &mut self,
        mount: usize,
        (at, seq): Place,
        verdict: Result<Taken, Refused>,
    ) -> Result<Taken, Refused> {
        let Some(slot) = self.mounts[mount].sources.slots[at].as_mut() else { return verdict };
        match &verdict {
            Ok(taken) => slot.advance(seq, taken.held),
            Err((code, _)) if code.is_retryable() => return verdict,
            Err(_) if slot.refused.len() >= REFUSED_MAX => return Err((Code::LimitReached, RETRY_FULL_MS)),
            Err((code, _)) => {
                slot.refused.push((seq, *code as u16));
                slot.advance(seq, Position(0));
            }
        }
        if !std::mem::replace(&mut slot.touched, true) {
            self.disk.touch_source((mount, at));
        }
        verdict
    }
}

const NO_BRIDGE: Fault = Fault::new(Code::UnexpectedFrame, "only a session that said hello as a bridge names sources");
