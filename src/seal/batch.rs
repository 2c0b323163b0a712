//! LZ4 over a whole batch: one block, whose expanded length travels in the head of its frame.

use super::compress::RATIO_MAX;
use super::error::CompressionError;
use crate::model::limits::BATCH_EXPANDED_BYTES_MAX;
use lz4_flex::block;

/// Batches shorter than this are not tried, in bytes.
const PACK_BYTES_MIN: usize = 256;
/// A batch is packed when that takes away at least this part of it.
const GAIN: usize = 16;
/// Batches that are not tried after one that did not get smaller: twice as many after each such, up to this.
const SKIP_MAX: u32 = 64;

/// Packs batches that get smaller by it, and tries seldom where they do not.
#[derive(Clone, Debug, Default)]
pub struct BatchPacker {
    /// Batches still to be left as they are.
    skip: u32,
    /// As many were left last.
    skipped: u32,
}

impl BatchPacker {
    /// Packs the payload of a batch into `out`, whose contents and place are used again. Gives back its length as it was, for
    /// the head; `None` where it is to be sent as it is.
    pub fn pack(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Option<u32> {
        if !(PACK_BYTES_MIN..=BATCH_EXPANDED_BYTES_MAX).contains(&payload.len()) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let most = block::get_maximum_output_size(payload.len());
        // What was there need not be cleared: it is written over.
        if out.len() < most {
            out.resize(most, 0);
        }
        let written = block::compress_into(payload, out).unwrap_or(most);
        out.truncate(written);
        if written > payload.len() - payload.len() / GAIN {
            self.skipped = (2 * self.skipped).clamp(1, SKIP_MAX);
            self.skip = self.skipped;
            return None;
        }
        self.skipped = 0;
        u32::try_from(payload.len()).ok()
    }
}

/// Unpacks a batch whose head says that it has `len` bytes. The place is used again and only grows.
///
/// # Errors
/// [`CompressionError::TooLarge`] before any memory is taken; [`CompressionError::Malformed`].
pub fn unpack_batch<'p>(block: &[u8], len: u32, place: &'p mut Vec<u8>) -> Result<&'p [u8], CompressionError> {
    let len = len as usize;
    if len > BATCH_EXPANDED_BYTES_MAX {
        return Err(CompressionError::TooLarge(len, BATCH_EXPANDED_BYTES_MAX));
    }
    // No block becomes more than this.
    if len == 0 || len > block.len().saturating_mul(RATIO_MAX) {
        return Err(CompressionError::Malformed);
    }
    if place.len() < len {
        place.resize(len, 0);
    }
    match block::decompress_into(block, &mut place[..len]) {
        Ok(written) if written == len => Ok(&place[..len]),
        _ => Err(CompressionError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(rng: &mut fastrand::Rng, len: usize) -> Vec<u8> {
        std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
    }

    #[test]
    fn a_batch_comes_back_and_what_gains_too_little_is_left() {
        let json = r#"{"sensor":"boiler/7","value":71.5,"unit":"C","ts":1700000000123}"#.repeat(100);
        let (mut packer, mut out, mut place) = (BatchPacker::default(), Vec::new(), Vec::new());
        for _ in 0..3 {
            assert_eq!(packer.pack(json.as_bytes(), &mut out), Some(json.len() as u32));
            assert!(out.len() * 4 < json.len(), "{} of {}", out.len(), json.len());
            assert_eq!(unpack_batch(&out, json.len() as u32, &mut place), Ok(json.as_bytes()));
        }
        let mut rng = fastrand::Rng::with_seed(2);
        // A fortieth that repeats is not worth a reader's work.
        let mut dull = noise(&mut rng, 4_000);
        dull.extend_from_slice(&[0; 100]);
        assert_eq!(packer.pack(&dull, &mut out), None);
        assert_eq!(BatchPacker::default().pack(&json.as_bytes()[..PACK_BYTES_MIN - 1], &mut out), None);
        assert_eq!(BatchPacker::default().pack(&vec![0; BATCH_EXPANDED_BYTES_MAX + 1], &mut out), None);
    }

    #[test]
    fn what_does_not_get_smaller_is_tried_ever_more_seldom_and_found_when_it_does() {
        let mut rng = fastrand::Rng::with_seed(3);
        let noise = noise(&mut rng, 2_000);
        let (mut packer, mut tried) = (BatchPacker::default(), 0);
        for _ in 0..1_000 {
            let mut out = Vec::new();
            assert_eq!(packer.pack(&noise, &mut out), None);
            // One that is not tried asks for no place.
            tried += usize::from(out.capacity() > 0);
        }
        assert!((10..40).contains(&tried), "{tried} of 1,000");
        let mut out = Vec::new();
        let found = (0..=SKIP_MAX).find(|_| packer.pack(&[7; 2_000], &mut out).is_some());
        assert!(found.is_some(), "packed again after {SKIP_MAX} at most");
        assert!(packer.pack(&[7; 2_000], &mut out).is_some(), "and at once from then on");
    }

    #[test]
    fn a_batch_that_lies_about_its_length_is_refused_and_a_bomb_before_memory_is_taken() {
        let (mut packer, mut bomb, mut place) = (BatchPacker::default(), Vec::new(), Vec::new());
        packer.pack(&vec![0; BATCH_EXPANDED_BYTES_MAX], &mut bomb).expect("zeros");
        let over = BATCH_EXPANDED_BYTES_MAX as u32 + 1;
        let too_large = CompressionError::TooLarge(over as usize, BATCH_EXPANDED_BYTES_MAX);
        assert_eq!(unpack_batch(&bomb, over, &mut place), Err(too_large));
        assert!(unpack_batch(&bomb, u32::MAX, &mut place).is_err());
        assert_eq!(unpack_batch(&bomb[..9], 1_000_000, &mut place), Err(CompressionError::Malformed));
        assert_eq!(unpack_batch(&[], 0, &mut place), Err(CompressionError::Malformed));
        assert_eq!(place.capacity(), 0);
        for len in [1, over - 2] {
            assert_eq!(unpack_batch(&bomb, len, &mut place), Err(CompressionError::Malformed), "{len}");
        }
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..2_000 {
            let any: Vec<u8> = (0..rng.usize(0..60)).map(|_| rng.u8(..)).collect();
            let len = rng.u32(0..400);
            if let Ok(batch) = unpack_batch(&any, len, &mut place) {
                assert_eq!(batch.len(), len as usize);
            }
        }
    }
}
