//! Any bytes as a batch of the store: a batch or an error, never more memory than a multiple of the bytes; and what was
//! read is written back as exactly the same bytes. Given a checksum that fits, so that the fuzzer gets past it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::store::encoding::{ENCODING, decode, encode};
use tidegate::wire::crc32c;

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    if bytes.len() >= 5 {
        let mut fitted = bytes.to_vec();
        fitted[0] = ENCODING;
        let body = fitted.len() - 4;
        let checksum = crc32c(&fitted[..body], &[]);
        fitted[body..].copy_from_slice(&checksum.to_le_bytes());
        read(&fitted);
        // A single flipped bit is always noticed.
        let at = usize::from(bytes[0]) * 7 % fitted.len();
        fitted[at] ^= 1 << (bytes[1] % 8);
        assert!(decode(&fitted).is_err(), "a flipped bit in byte {at} passed");
    }
});

fn read(bytes: &[u8]) {
    if let Ok(batch) = decode(bytes) {
        let again = encode(&batch);
        assert_eq!(again, bytes, "one batch, one form");
        assert_eq!(decode(&again).as_ref(), Ok(&batch));
        for cut in 0..bytes.len().min(64) {
            assert!(decode(&bytes[..bytes.len() - 1 - cut]).is_err(), "a batch cut short passed");
        }
    }
}
