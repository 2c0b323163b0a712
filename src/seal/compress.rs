//! LZ4: a compressed payload is its length as a varint and one LZ4 block. Nothing is expanded beyond a bound that is known
//! before memory is asked for.

use super::error::CompressionError;
use crate::model::{Record, is_compressed, varint_len};
use lz4_flex::block;

/// Payloads shorter than this are not tried, in bytes.
const COMPRESS_BYTES_MIN: usize = 64;
/// Most bytes one byte of a block becomes: a byte of a match's length counts 255.
pub(super) const RATIO_MAX: usize = 255;

/// The payload compressed, when that makes it shorter.
#[must_use]
pub fn compress(payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() < COMPRESS_BYTES_MIN {
        return None;
    }
    let head = varint_len(payload.len() as u64);
    let mut out = vec![0; head + block::get_maximum_output_size(payload.len())];
    put_varint(&mut out[..head], payload.len());
    let written = block::compress_into(payload, &mut out[head..]).ok()?;
    out.truncate(head + written);
    (out.len() < payload.len()).then_some(out)
}

fn put_varint(out: &mut [u8], mut value: usize) {
    let last = out.len() - 1;
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = (value & 0x7f) as u8 | if i < last { 0x80 } else { 0 };
        value >>= 7;
    }
}

/// The length a compressed payload announces, and its block.
fn split(payload: &[u8]) -> Result<(usize, &[u8]), CompressionError> {
    let (len, block) = postcard::take_from_bytes::<u32>(payload).map_err(|_| CompressionError::Malformed)?;
    let len = usize::try_from(len).map_err(|_| CompressionError::Malformed)?;
    // Nothing is compressed to something, and no block becomes more than this.
    if len == 0 || len > block.len().saturating_mul(RATIO_MAX) {
        return Err(CompressionError::Malformed);
    }
    Ok((len, block))
}

/// Bytes a compressed payload has when it is expanded, as it says: no more than its length allows.
///
/// # Errors
/// [`CompressionError::Malformed`].
pub fn expanded_len(payload: &[u8]) -> Result<usize, CompressionError> {
    split(payload).map(|(len, _)| len)
}

/// Bytes the record of a compressed payload has when that is expanded.
///
/// # Errors
/// [`CompressionError::Malformed`].
pub fn expanded_record_len(record: &Record<'_>) -> Result<usize, CompressionError> {
    let len = expanded_len(record.payload)?;
    Ok(Record { payload: &[], ..*record }.encoded_len() - 1 + varint_len(len as u64) + len)
}

/// Expands a compressed payload of at most `bytes_max` bytes.
///
/// # Errors
/// [`CompressionError::TooLarge`] before any memory is taken; [`CompressionError::Malformed`].
pub fn expand(payload: &[u8], bytes_max: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    expand_into(payload, bytes_max, &mut out)?;
    Ok(out)
}

/// As [`expand`], into a vector whose contents and place are used again. What it holds after an error means nothing.
///
/// # Errors
/// As [`expand`].
pub fn expand_into(payload: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Result<(), CompressionError> {
    let (len, block) = split(payload)?;
    if len > bytes_max {
        return Err(CompressionError::TooLarge(len, bytes_max));
    }
    out.clear();
    out.resize(len, 0);
    match block::decompress_into(block, out) {
        Ok(written) if written == len => Ok(()),
        _ => Err(CompressionError::Malformed),
    }
}

/// A record's bytes with its payload expanded; `None` when it is not compressed or no record. The whole record then has at
/// most `bytes_max` bytes.
///
/// # Errors
/// [`CompressionError`].
pub fn expand_record(bytes: &[u8], bytes_max: usize) -> Result<Option<Vec<u8>>, CompressionError> {
    if !is_compressed(bytes) {
        return Ok(None);
    }
    let record = Record::decode(bytes).map_err(|_| CompressionError::Malformed)?;
    let len = expanded_record_len(&record)?;
    if len > bytes_max {
        return Err(CompressionError::TooLarge(len, bytes_max));
    }
    let payload = expand(record.payload, bytes_max)?;
    let mut out = Vec::with_capacity(len);
    Record { compressed: false, payload: &payload, ..record }.encode_to(&mut out);
    debug_assert_eq!(out.len(), len);
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Channel, MessageId};
    use proptest::prelude::*;

    const MAX: usize = 1 << 20;

    #[test]
    fn what_repeats_gets_shorter_and_what_does_not_is_left() {
        let json = r#"{"sensor":"boiler","value":71.5,"unit":"C"},"#.repeat(20);
        let compressed = compress(json.as_bytes()).expect("it repeats");
        assert!(compressed.len() * 4 < json.len(), "{} of {}", compressed.len(), json.len());
        assert_eq!(expand(&compressed, MAX).expect("its own"), json.as_bytes());
        let mut rng = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(4_096).collect();
        assert_eq!(compress(&noise), None);
        assert_eq!(compress(b"short short short"), None);
    }

    #[test]
    fn a_compression_bomb_is_refused_before_memory_is_taken() {
        // The most that a block can become: zeros.
        let bomb = compress(&vec![0; 16 << 20]).expect("it repeats");
        assert!(bomb.len() < 70_000, "{}", bomb.len());
        let mut out = Vec::new();
        assert_eq!(expand_into(&bomb, MAX, &mut out), Err(CompressionError::TooLarge(16 << 20, MAX)));
        assert_eq!(out.capacity(), 0);
        // A length that its block cannot have.
        for lie in [&b"\xff\xff\xff\xff\x0f"[..], b"\xff\xff\xff\xff\x0f\x10\x00", b"\x80\x80\x40\x11\x22\x33"] {
            assert_eq!(expand_into(lie, usize::MAX, &mut out), Err(CompressionError::Malformed), "{lie:02x?}");
            assert_eq!(out.capacity(), 0);
        }
        // A length that is less or more than the block has.
        let honest = compress(&[7; 1_000]).expect("it repeats");
        for len in [1u32, 999, 1_001, 1_200] {
            let mut lie = postcard::to_stdvec(&len).expect("a number");
            lie.extend_from_slice(&honest[2..]);
            assert_eq!(expand(&lie, MAX), Err(CompressionError::Malformed), "{len}");
        }
        assert_eq!(expand(&[], MAX), Err(CompressionError::Malformed));
        assert_eq!(expand(&[0], MAX), Err(CompressionError::Malformed));
        assert_eq!(expand(&[0, 0], MAX), Err(CompressionError::Malformed), "nothing, compressed");
    }

    #[test]
    fn a_record_is_expanded_whole_or_not_at_all() {
        let payload = [b'x'; 3_000];
        let compressed = compress(&payload).expect("it repeats");
        let channel = Channel::parse("a/b").expect("valid");
        let plain = Record { id: MessageId([5; 16]), retain: true, ttl_ms: 300, ..Record::new(channel, &payload) };
        let (mut expected, mut bytes) = (Vec::new(), Vec::new());
        plain.encode_to(&mut expected);
        assert_eq!(expand_record(&expected, 1), Ok(None), "it is not compressed, whatever its length");
        let record = Record { compressed: true, payload: &compressed, ..plain };
        record.encode_to(&mut bytes);
        assert_eq!(expanded_record_len(&record), Ok(expected.len()));
        assert_eq!(expand_record(&bytes, expected.len()), Ok(Some(expected.clone())));
        let len = expected.len();
        assert_eq!(expand_record(&bytes, len - 1), Err(CompressionError::TooLarge(len, len - 1)));
        bytes.pop();
        assert_eq!(expand_record(&bytes, MAX), Err(CompressionError::Malformed));
    }

    proptest! {
        #[test]
        fn what_was_compressed_expands_to_itself(seed in prop::collection::vec(any::<u8>(), 1..200), times in 1usize..100) {
            let payload = seed.repeat(times);
            if let Some(compressed) = compress(&payload) {
                prop_assert!(compressed.len() < payload.len());
                prop_assert_eq!(expanded_len(&compressed), Ok(payload.len()));
                prop_assert_eq!(expand(&compressed, payload.len()), Ok(payload));
            }
        }

        #[test]
        fn any_bytes_expand_within_the_bound_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..400), max in 0usize..5_000) {
            let mut out = Vec::new();
            if expand_into(&bytes, max, &mut out).is_ok() {
                prop_assert_eq!(expanded_len(&bytes), Ok(out.len()));
            }
            prop_assert!(out.capacity() <= max);
        }
    }
}
