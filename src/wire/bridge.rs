//! What a bridge says beside the heads: who it is, where its messages come from, what of them is kept already.

use crate::model::limits::{HEAD_BYTES_MAX, NAME_BYTES_MAX, PRIORITIES};
use serde::{Deserialize, Serialize};
#[cfg(feature = "daemon")]
use std::borrow::Borrow;

/// Tag of hello's extension that makes the session a bridge's ([`BridgeHello`]), and of welcome's with what the broker has of
/// it already ([`SourcePosition`]s, one after another).
pub const EXTENSION_BRIDGE: u32 = 3;
/// Tag of the extension of publish and batch that says where their records come from ([`Source`]).
pub const EXTENSION_SOURCE: u32 = 4;
/// Tag of batch's extension that says that the payload is an LZ4 block: its expanded length, a u32 as postcard writes it.
pub const EXTENSION_LZ4: u32 = 5;
/// Tag of pause's extension that says which lanes of a consumer are held, in place of those held before: a u16 as postcard
/// writes it, bit n for lane n. The consumer itself is not held then.
pub const EXTENSION_LANES: u32 = 6;
/// Batches compressed as a whole, among [`super::EXTENSION_ENCODINGS`].
pub const ENCODING_LZ4_BATCH: u8 = 2;

/// Most bytes of a welcome's positions: what the head has left.
pub const POSITIONS_BYTES_MAX: usize = HEAD_BYTES_MAX - 512;
/// Positions that may be left out of a welcome, because they do not fit, before it counts as full.
#[cfg(feature = "daemon")]
const LEFT_OUT_MAX: usize = 8;
/// Most runs of a [`Source`].
pub const SOURCE_RUNS_MAX: usize = 512;

/// Who bridges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeHello<'a> {
    /// The edge: a name that no other edge has, at most 128 bytes. Messages that began there carry it as their origin.
    pub edge: &'a str,
    /// Its bridge: one session of each at a time, the newest.
    pub bridge: &'a str,
}

impl BridgeHello<'_> {
    /// Whether its names have 1 to 128 bytes.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        !self.edge.is_empty()
            && self.edge.len() <= NAME_BYTES_MAX
            && !self.bridge.is_empty()
            && self.bridge.len() <= NAME_BYTES_MAX
    }
}

/// Where the records of a publish or batch come from: consecutive in the order of a lane of a queue, with gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source<'a> {
    /// Epoch of the queue at the edge.
    pub epoch: u64,
    /// Its lane.
    pub lane: u8,
    /// Everything below this sequence is settled at the edge: nothing need be remembered of it.
    pub floor: u64,
    /// Sequence of the first record.
    pub first: u64,
    /// Pairs of varints (u32): so many records follow one another, then so many sequences are left out. The last run has no
    /// gap behind it; nothing at all means that all follow one another.
    pub runs: &'a [u8],
}

impl<'a> Source<'a> {
    /// Whether this is where `count` records may come from: a lane there is, sequences from 1 on that end below 2^64-1, and runs
    /// that say where each of them is and nothing else.
    #[must_use]
    pub fn is_valid(&self, count: u32) -> bool {
        if usize::from(self.lane) >= PRIORITIES || self.first == 0 || count == 0 {
            return false;
        }
        let (mut left, mut span, mut runs) = (count, u64::from(count), 0);
        let mut rest = self.runs;
        while !rest.is_empty() {
            let Some((len, gap, behind)) = take_run(rest, runs == 0) else { return false };
            let Some(after) = left.checked_sub(len) else { return false };
            runs += 1;
            // A gap before nothing would be no run.
            if runs > SOURCE_RUNS_MAX || (after == 0 && !behind.is_empty()) {
                return false;
            }
            (left, span, rest) = (after, span.saturating_add(u64::from(gap)), behind);
        }
        (runs == 0 || left == 0) && self.first.checked_add(span).is_some()
    }

    /// The sequences of `count` records, in order; fewer where the runs are malformed or pass 2^64-1.
    pub fn sequences(&self, count: u32) -> impl Iterator<Item = u64> + 'a {
        let mut runs = self.runs;
        let (mut next, mut run) = (Some(self.first), u32::MAX);
        if !runs.is_empty() {
            run = 0;
        }
        (0..count).map_while(move |i| {
            if run == 0 {
                let (len, gap, rest) = take_run(runs, i == 0)?;
                runs = rest;
                run = len;
                next = next?.checked_add(u64::from(gap));
            }
            let seq = next?;
            next = seq.checked_add(1);
            run -= 1;
            Some(seq)
        })
    }
}

/// The next run: how many follow one another, behind which gap. The first has no gap before it.
fn take_run(bytes: &[u8], first: bool) -> Option<(u32, u32, &[u8])> {
    let (gap, bytes) = if first { (0, bytes) } else { postcard::take_from_bytes::<u32>(bytes).ok()? };
    let (len, bytes) = postcard::take_from_bytes::<u32>(bytes).ok()?;
    (len > 0 && (first || gap > 0)).then_some((len, gap, bytes))
}

/// Writes the runs of sequences that grow.
#[cfg(feature = "daemon")]
#[derive(Clone, Debug, Default)]
pub struct SourceRuns {
    bytes: Vec<u8>,
    runs: usize,
    last: Option<u64>,
    run: u32,
}

#[cfg(feature = "daemon")]
impl SourceRuns {
    /// Whether this sequence, above the last, can be added.
    #[must_use]
    pub fn takes(&self, seq: u64) -> bool {
        let Some(last) = self.last else { return true };
        match seq.checked_sub(last) {
            None | Some(0) => false,
            Some(1) => true,
            Some(step) => self.runs + 1 < SOURCE_RUNS_MAX && u32::try_from(step - 1).is_ok(),
        }
    }

    /// Adds it.
    pub fn push(&mut self, seq: u64) {
        debug_assert!(self.takes(seq), "asked before");
        if let Some(last) = self.last
            && seq - last > 1
        {
            append_varint(&mut self.bytes, self.run);
            append_varint(&mut self.bytes, (seq - last - 1) as u32);
            self.runs += 1;
            self.run = 0;
        }
        self.run += 1;
        self.last = Some(seq);
    }

    /// The bytes, and an empty one again.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        if self.runs > 0 {
            append_varint(&mut self.bytes, self.run);
        }
        (self.last, self.runs, self.run) = (None, 0, 0);
        core::mem::take(&mut self.bytes)
    }
}

#[cfg(feature = "daemon")]
fn append_varint(out: &mut Vec<u8>, value: u32) {
    let mut bytes = [0; 5];
    let written = postcard::to_slice(&value, &mut bytes).expect("a u32 has at most five bytes");
    out.extend_from_slice(written);
}

/// What a broker has of a source. Sequences up to `last` were stored, or refused for good and are among `refused`.
#[cfg(feature = "daemon")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePosition {
    /// Epoch of the queue at the edge.
    pub epoch: u64,
    /// Its lane.
    pub lane: u8,
    /// The last sequence.
    pub last: u64,
    /// Those up to it that were refused for good, with their codes, in order.
    pub refused: Vec<(u64, u16)>,
}

#[cfg(feature = "daemon")]
impl SourcePosition {
    /// Writes as many as fit into a welcome, in order; one that does not fit is left out, and after some of these no more are
    /// asked for.
    #[must_use]
    pub fn write_all<P: Borrow<Self>>(positions: impl IntoIterator<Item = P>) -> Vec<u8> {
        let (mut out, mut left_out) = (Vec::new(), 0);
        for position in positions {
            let item = postcard::to_stdvec(position.borrow()).expect("a vector takes anything");
            if out.len() + item.len() <= POSITIONS_BYTES_MAX {
                out.extend_from_slice(&item);
                continue;
            }
            left_out += 1;
            if left_out >= LEFT_OUT_MAX {
                break;
            }
        }
        out
    }

    /// Reads them; those up to the first that is malformed.
    #[must_use]
    pub fn read_all(mut bytes: &[u8]) -> Vec<Self> {
        let mut positions = Vec::new();
        while let Ok((position, rest)) = postcard::take_from_bytes(bytes) {
            positions.push(position);
            bytes = rest;
        }
        positions
    }
}

#[cfg(all(test, feature = "daemon"))]
mod tests {
    use super::*;

    #[test]
    fn sequences_with_gaps_come_back_as_they_were() {
        for seqs in [vec![7], vec![7, 8, 9], vec![1, 5, 6, 100, 101], vec![3, 4, 5, 300_000]] {
            let mut runs = SourceRuns::default();
            for &seq in &seqs {
                assert!(runs.takes(seq));
                runs.push(seq);
            }
            let runs = runs.take();
            let source = Source { epoch: 1, lane: 0, floor: 0, first: seqs[0], runs: &runs };
            assert_eq!(source.sequences(seqs.len() as u32).collect::<Vec<_>>(), seqs);
        }
    }

    #[test]
    fn no_sequence_follows_the_last_there_is() {
        let mut runs = SourceRuns::default();
        runs.push(u64::MAX - 1);
        assert!(runs.takes(u64::MAX));
        runs.push(u64::MAX);
        assert!(!runs.takes(u64::MAX) && !runs.takes(1));
    }

    #[test]
    fn a_source_is_valid_only_where_its_runs_say_all_and_nothing_else() {
        let source = |first: u64, runs: &'static [u8]| Source { epoch: 1, lane: 9, floor: 0, first, runs };
        assert!(source(1, &[]).is_valid(5) && source(1, &[5]).is_valid(5) && source(1, &[2, 1, 3]).is_valid(5));
        for runs in [&[4][..], &[6], &[0], &[2, 0, 3], &[2, 1, 0], &[2, 1], &[5, 1], &[5, 1, 1], &[2, 1, 3, 7], &[0x80]]
        {
            assert!(!source(1, runs).is_valid(5), "{runs:?}");
        }
        assert!(!source(0, &[]).is_valid(1), "sequences begin at 1");
        assert!(!source(1, &[]).is_valid(0), "nothing comes from nowhere");
        assert!(source(u64::MAX - 5, &[]).is_valid(5) && !source(u64::MAX - 4, &[]).is_valid(5));
        assert!(!source(u64::MAX - 6, &[1, 4, 4]).is_valid(5), "the gap passes the end");
        assert!(!Source { lane: 10, ..source(1, &[]) }.is_valid(1));
        let many: Vec<u8> = [1].into_iter().chain([1, 1].into_iter().cycle().take(2 * SOURCE_RUNS_MAX)).collect();
        let runs =
            |n: usize| Source { epoch: 1, lane: 0, floor: 0, first: 1, runs: &many[..2 * n - 1] }.is_valid(n as u32);
        assert!(runs(SOURCE_RUNS_MAX) && !runs(SOURCE_RUNS_MAX + 1));
    }

    #[test]
    fn what_is_valid_says_where_each_record_is() {
        let mut rng = fastrand::Rng::with_seed(6);
        let mut valid = 0;
        for _ in 0..20_000 {
            let runs: Vec<u8> = (0..rng.usize(0..6)).map(|_| rng.u8(..8)).collect();
            let source = Source { epoch: 1, lane: 0, floor: 0, first: rng.u64(1..), runs: &runs };
            let count = rng.u32(1..12);
            if source.is_valid(count) {
                valid += 1;
                assert_eq!(source.sequences(count).count(), count as usize, "{source:?}");
            }
        }
        assert!(valid > 1_000, "{valid}");
    }

    #[test]
    fn positions_that_do_not_fit_are_left_out_and_the_others_said() {
        let position = |epoch, refused| SourcePosition { epoch, lane: 1, last: 9, refused: vec![(5, 200); refused] };
        let all = [position(1, 0), position(2, POSITIONS_BYTES_MAX), position(3, 2)];
        let written = SourcePosition::write_all(&all);
        assert_eq!(SourcePosition::read_all(&written), [all[0].clone(), all[2].clone()]);
    }

    #[test]
    fn a_welcome_that_is_full_asks_for_no_more_positions_however_many_there_are() {
        let asked = std::cell::Cell::new(0);
        let all = (0..1_000_u64).map(|epoch| {
            asked.set(asked.get() + 1);
            SourcePosition { epoch, lane: 1, last: 9, refused: vec![(5, 200); 100] }
        });
        let written = SourcePosition::read_all(&SourcePosition::write_all(all));
        assert!(written.len() > 5 && written.iter().zip(0..).all(|(p, epoch)| p.epoch == epoch), "{written:?}");
        assert_eq!(asked.get(), written.len() + LEFT_OUT_MAX);
    }

    #[test]
    fn sequences_of_any_bytes_end_and_grow() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..2_000 {
            let runs: Vec<u8> = (0..rng.usize(0..12)).map(|_| rng.u8(..)).collect();
            let source = Source { epoch: 1, lane: 0, floor: 0, first: rng.u64(..), runs: &runs };
            let seqs: Vec<u64> = source.sequences(50).collect();
            assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "{runs:?}");
        }
    }
}
