//! Any bytes as the two segments of a journal: they are scanned, planned and decoded, as they are and with headers and
//! checksums made to fit, so that the fuzzer gets past those to the batches.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::model::Position;
use tidegate::store::encoding;
use tidegate::store::journal::{
    FileHeader, PAGE_BYTES, RecordHead, StoreId, decode_payload, encode_record, plan, scan,
};

const ID: StoreId = StoreId([7; 16]);

fuzz_target!(|bytes: &[u8]| {
    let _ = FileHeader::decode(bytes);
    let _ = RecordHead::decode(bytes);
    payload(bytes);
    let half = bytes.len() / 2;
    replay(&bytes[..half], &bytes[half..]);
    // Each eight bytes are a record of some generation and position, or a page that is damaged.
    let mut segments = [Vec::new(), Vec::new()];
    for piece in bytes.chunks_exact(8).take(64) {
        let generation = u64::from(piece[0] % 4) + 1;
        let base = u64::from(piece[1]);
        let after = base + u64::from(piece[2]);
        let head = RecordHead {
            id: ID,
            generation,
            base: Position(base),
            after: Position(after),
            last: Position(after + 1 + u64::from(piece[3] % 4)),
            payload_bytes: 0,
            payload_crc: 0,
        };
        let mut record = encode_record(head, &[], &[]).expect("an empty payload is short");
        if piece[4] < 32 {
            record[usize::from(piece[5])] ^= piece[6];
        }
        segments[(generation % 2) as usize].extend_from_slice(&record);
    }
    replay(&segments[0], &segments[1]);
});

fn payload(bytes: &[u8]) {
    if let Ok(payload) = decode_payload(bytes) {
        for batch in &payload.batches {
            assert_eq!(encoding::decode(&encoding::encode(batch)).as_ref(), Ok(batch));
        }
        assert!(payload.conflicts.is_sorted());
    }
}

fn replay(even: &[u8], odd: &[u8]) {
    let segments = [scan(even, ID), scan(odd, ID)];
    for applied in [0, 3, 40] {
        let plan = plan(&segments, Position(applied));
        let mut at = Position(applied);
        for found in &plan.records {
            assert!(found.payload.is_some(), "only whole records are applied");
            assert!(found.head.after >= at && found.head.last > at, "in order, none twice");
            // Several holes may follow each other where records overlap.
            for (from, to) in &plan.holes {
                at = if *from == at { *to } else { at };
            }
            assert!(at >= found.head.after, "what is missing is said");
            at = found.head.last;
        }
        assert!(even.len().max(odd.len()) >= PAGE_BYTES || plan.records.is_empty());
    }
}
