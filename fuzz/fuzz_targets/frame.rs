//! Any bytes: frames are read to the bottom, twice: as they are, and with a header and checksum made to fit, so that the
//! fuzzer gets past them to the heads, payloads and records.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::model::limits::{FRAME_PAYLOAD_BYTES_MAX, HEAD_BYTES_MAX, HEADER_BYTES};
use tidegate::model::{Channel, Filter, Properties, Record};
use tidegate::wire::{AnyHead, BatchItems, Decoded, DeliverItems, FilterItems, Frame, FrameType, decode, seal};

fuzz_target!(|bytes: &[u8]| {
    stream(bytes);
    let mut fitted = bytes.to_vec();
    if fit(&mut fitted) {
        let Ok(Decoded::Frame(frame, len)) = decode(&fitted, FRAME_PAYLOAD_BYTES_MAX) else {
            panic!("a fitted frame is whole");
        };
        assert_eq!(len, fitted.len());
        read(&frame);
    }
});

/// Reads frames one after another, as a connection would.
fn stream(mut bytes: &[u8]) {
    loop {
        match decode(bytes, FRAME_PAYLOAD_BYTES_MAX) {
            Ok(Decoded::Frame(frame, len)) => {
                assert!(len >= HEADER_BYTES && len <= bytes.len());
                read(&frame);
                bytes = &bytes[len..];
            }
            Ok(Decoded::Incomplete(needed)) => {
                assert!(needed > bytes.len());
                return;
            }
            Err(error) => {
                assert!(error.code() as u16 != 500);
                return;
            }
        }
    }
}

/// Gives bytes of at least a header's length a valid header around what they hold.
fn fit(bytes: &mut [u8]) -> bool {
    let Some(body) = bytes.len().checked_sub(HEADER_BYTES) else { return false };
    let kind = FrameType::ALL[usize::from(bytes[3]) % FrameType::ALL.len()];
    let head = usize::from(u16::from_be_bytes([bytes[6], bytes[7]])) % (HEAD_BYTES_MAX.min(body) + 1);
    let Ok(payload) = u32::try_from(body - head) else { return false };
    if payload > FRAME_PAYLOAD_BYTES_MAX {
        return false;
    }
    let sequence = u32::from_be_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
    bytes[..3].copy_from_slice(b"TG\x01");
    bytes[3] = kind as u8;
    bytes[4..6].copy_from_slice(&[0, 0]);
    bytes[6..8].copy_from_slice(&(head as u16).to_be_bytes());
    bytes[8..12].copy_from_slice(&payload.to_be_bytes());
    seal(bytes, sequence);
    true
}

fn read(frame: &Frame<'_>) {
    let Ok(Some(head)) = frame.any_head() else { return };
    match head {
        AnyHead::Publish(_) => record(frame.payload),
        AnyHead::Batch(head) => {
            if let Ok(items) = BatchItems::parse(frame.payload, head.count) {
                assert_eq!(items.len(), items.inspect(|r| record(r)).count());
            }
        }
        AnyHead::Deliver(head) => {
            if let Ok(items) = DeliverItems::parse(frame.payload, head.count, head.total) {
                assert_eq!(items.len(), items.inspect(|item| record(item.record)).count());
            }
        }
        AnyHead::Consume(head) => {
            if let Ok(items) = FilterItems::parse(frame.payload, head.filters) {
                assert_eq!(items.len(), items.inspect(|f| filter(f)).count());
            }
        }
        AnyHead::Subscribe(head) => filter(head.filter),
        AnyHead::Request(head) => properties(head.properties),
        AnyHead::Response(head) => properties(head.trailers),
        _ => {}
    }
}

/// What is read is written back and read again as the same.
fn record(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        properties(record.properties.as_bytes());
        let mut again = Vec::new();
        record.encode_to(&mut again);
        assert!(again.len() <= bytes.len(), "the shortest form is not longer");
        assert_eq!(Record::decode(&again), Ok(record));
    }
}

fn properties(bytes: &[u8]) {
    if let Ok(properties) = Properties::parse(bytes) {
        assert!(properties.iter().map(|p| p.value.len()).sum::<usize>() <= bytes.len());
    }
}

fn filter(text: &str) {
    if let Ok(filter) = Filter::parse(text) {
        let channel = Channel::parse("site/boiler/temp").expect("valid");
        let _ = filter.matches(channel);
        if let Some(literal) = filter.literal() {
            assert!(filter.matches(literal));
        }
    }
}
