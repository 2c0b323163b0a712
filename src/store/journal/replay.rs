//! Which records of a journal are to be applied to a database again, and what is missing between them. Pure.

use super::format::{Found, Scan};
use crate::model::Position;

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Records above what the database applied, in order.
    pub records: Vec<Found>,
    /// Positions (the first excluded, the second included) that were committed once and are nowhere: damage.
    pub holes: Vec<(Position, Position)>,
    /// The newest generation, and the page behind its last whole record.
    pub newest: Option<(u64, usize)>,
    /// A record that was being written when the power went stands behind the last whole one; nobody was told of it.
    pub tail: bool,
    /// The database had applied more when the newest generation began than it has now: it lost its last commit.
    pub fell_back: Option<Position>,
}

/// Plans a replay of two segments above `applied`.
///
/// Records are written one after the other, each after the one before it is durable, so of all that a journal holds only the last
/// record of the newest generation can be torn; anything else that is missing is damage. What follows a hole is
/// applied all the same: rows are whole states, messages stand by themselves, and the broker steps over what is missing
/// in a lane, and counts it.
#[must_use]
pub fn plan(segments: &[Scan; 2], applied: Position) -> Plan {
    let mut all: Vec<&Found> = segments.iter().flat_map(|s| &s.found).collect();
    all.sort_by_key(|f| (f.head.generation, f.page));
    let mut plan = Plan::default();
    let Some(newest) = all.last().map(|f| f.head.generation) else { return plan };
    let base = all.iter().filter(|f| f.head.generation == newest).map(|f| f.head.base).max().unwrap_or_default();
    if base > applied {
        plan.fell_back = Some(base);
    }
    // What an older generation holds beyond the beginning of a later one was never told to anyone.
    let mut void_above = Position(u64::MAX);
    let mut later = newest;
    let mut lowest_after = void_above;
    let mut valid = Vec::new();
    for found in all.iter().rev() {
        if found.head.generation < later {
            (later, void_above) = (found.head.generation, lowest_after);
        }
        lowest_after = lowest_after.min(found.head.after);
        if found.payload.is_some() && found.head.last <= void_above {
            valid.push(*found);
        }
    }
    let end = valid.iter().filter(|f| f.head.generation == newest).map(|f| f.end()).max().unwrap_or(0);
    plan.newest = Some((newest, end));
    plan.tail = all.iter().any(|f| f.head.generation == newest && f.payload.is_none() && f.page >= end)
        || segments[(newest % 2) as usize].broken.contains(&end);
    let mut at = applied;
    for found in valid.into_iter().rev() {
        let head = &found.head;
        if head.last <= at {
            continue;
        }
        // One that begins below where the database stands cannot come about: commits are taken whole.
        if head.after != at {
            plan.holes.push((at, if head.after > at { head.after } else { head.last }));
        }
        if head.after >= at {
            plan.records.push(found.clone());
        }
        at = head.last;
    }
    // The database lost more than the journal goes back to, or a record was begun after others that are damaged: it began only
    // when they were durable.
    let begun = all.iter().filter(|f| f.head.generation == newest).map(|f| f.head.after).max().unwrap_or_default();
    if begun > at {
        plan.holes.push((at, begun));
    }
    plan
}
