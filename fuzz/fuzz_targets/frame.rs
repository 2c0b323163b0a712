//! Any bytes: frames are read to the bottom, twice: as they are, and with a header and checksum made to fit, so that the
//! fuzzer gets past them to the heads, payloads and records. What was read is written back, by the `no_std` core's way
//! into a slice and by the daemon's into a vector: the same bytes both, and those that were read where no number was
//! longer than it needs to be. A message cut into chunks is put together as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::model::limits::{
    BATCH_EXPANDED_BYTES_MAX, BATCH_MESSAGES_MAX, FRAME_PAYLOAD_BYTES_MAX, HEAD_BYTES_MAX, HEADER_BYTES,
};
use tidegate::model::{Channel, Filter, Properties, Record};
use tidegate::protocols::native::{Accepted, Native};
use tidegate::seal::unpack_batch;
use tidegate::wire::{
    AnyHead, Batch, BatchItems, Code, Decoded, DeliverItems, EXTENSION_BRIDGE, EXTENSION_LZ4, EXTENSION_SOURCE, Extended,
    Extension, FLAG_CONT, FLAG_MORE, FilterItems, Frame, FrameType, Head, POSITIONS_BYTES_MAX, Publish, Source,
    SourcePosition, SourceRuns, Welcome, WireError, append, append_filter, append_item, append_record, chunks, decode, encode_extended,
    encode_into, frame_len, push_filter, push_item, push_record, seal,
};

fuzz_target!(|bytes: &[u8]| {
    stream(bytes);
    let mut fitted = bytes.to_vec();
    if fit(&mut fitted) {
        let Ok(Decoded::Frame(frame, len)) = decode(&fitted, FRAME_PAYLOAD_BYTES_MAX) else {
            panic!("a fitted frame is whole");
        };
        assert_eq!(len, fitted.len());
        assert_eq!(frame_len(&fitted), Some(len));
        assert_eq!(frame.header.crc, checksum(&fitted), "the checksum is the catalogue's");
        read(&frame);
        chunked(&frame, usize::from(bytes[20]));
        damaged(&mut fitted, usize::from(u16::from_be_bytes([bytes[21], bytes[22]])), bytes[23] % 8);
    }
});

/// CRC-32C over all but the checksum, bit by bit.
fn checksum(frame: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in frame[..HEADER_BYTES - 4].iter().chain(&frame[HEADER_BYTES..]) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}

/// No flipped bit passes, and none panics.
fn damaged(frame: &mut [u8], at: usize, bit: u8) {
    let at = at % frame.len();
    frame[at] ^= 1 << bit;
    match decode(frame, FRAME_PAYLOAD_BYTES_MAX) {
        Ok(Decoded::Frame(..)) => panic!("bit {bit} of byte {at} was flipped and nobody noticed"),
        Ok(Decoded::Incomplete(needed)) => assert!(needed > frame.len()),
        Err(_) => {}
    }
}

/// Cut into chunks and put together a message says what it said whole.
fn chunked(frame: &Frame<'_>, cut: usize) {
    const BUDGET: usize = 2 * FRAME_PAYLOAD_BYTES_MAX as usize;
    let plain = Frame { header: tidegate::wire::Header { flags: 0, sequence: 0, ..frame.header }, ..*frame };
    let whole = Native::default().accept(plain, BUDGET).map(|a| format!("{a:?}"));
    if !frame.header.kind.may_chunk() || frame.payload.len() < 2 {
        return;
    }
    let mut native = Native::default();
    let cut = 1 + cut % (frame.payload.len() - 1);
    let (first, second) = frame.payload.split_at(cut);
    let header = |flags: u16, sequence: u32| tidegate::wire::Header { flags, sequence, ..frame.header };
    let begun = native.accept(Frame { header: header(FLAG_MORE, 0), head: frame.head, payload: first }, BUDGET);
    if let Err(fault) = begun {
        // A head that lies about the total, or is none, or of a type that only a broker sends.
        assert!(whole.is_err() || fault.code == Code::ReassemblyBudget, "{fault:?} of {whole:?}");
        return;
    }
    let ended = native.accept(Frame { header: header(FLAG_CONT, 1), head: &[], payload: second }, BUDGET);
    match (ended, whole) {
        (Ok(Accepted::Assembled(assembly)), whole) => match (assembly.request(), whole) {
            (Ok(request), Ok(whole)) => assert_eq!(format!("Request({request:?})"), whole),
            (Err(_), Err(_)) => {}
            (chunked, whole) => panic!("in chunks {chunked:?}, whole {whole:?}"),
        },
        (Err(_), Err(_)) => {}
        (chunked, whole) => panic!("in chunks {chunked:?}, whole {whole:?}"),
    }
    let joined: Vec<u8> = chunks(frame.payload).flat_map(|(_, chunk)| chunk.to_vec()).collect();
    assert_eq!(joined, frame.payload);
}

/// Writes a head back in both ways.
fn rewrite<'a, H: Head<'a>>(frame: &Frame<'a>, _: H) {
    let (head, extensions) = frame.head_with_extensions::<H>().expect("it was read before");
    let extensions: Vec<Extension<'_>> = extensions.iter().collect();
    for extension in &extensions {
        let first = extensions.iter().find(|e| e.tag == extension.tag).map(|e| e.value);
        assert_eq!(frame.head_with_extensions::<H>().map(|(_, e)| e.get(extension.tag)), Ok(first));
    }
    let head = Extended { head, extensions: &extensions };
    let (flags, stream) = (frame.header.flags, frame.header.stream);
    let mut slice = vec![0; HEADER_BYTES + frame.head.len() + frame.payload.len()];
    let len = encode_extended(&mut slice, flags, stream, 7, &head, frame.payload).expect("the shortest form fits");
    let mut vector = Vec::new();
    append(&mut vector, frame.header.kind, flags, stream, Some(&head), &[frame.payload]);
    seal(&mut vector, 7);
    assert_eq!(slice[..len], vector, "into a slice and into a vector");
    let Ok(Decoded::Frame(again, _)) = decode(&vector, FRAME_PAYLOAD_BYTES_MAX) else {
        panic!("what we write we read")
    };
    assert_eq!((again.header.kind, again.header.flags, again.header.stream), (frame.header.kind, flags, stream));
    assert_eq!(again.payload, frame.payload);
    assert_eq!(again.any_head(), frame.any_head());
    assert!(again.head.len() <= frame.head.len());
    if again.head.len() == frame.head.len() {
        assert_eq!(again.head, frame.head, "one value, one shortest form");
    }
    // A buffer one byte too small is an error, and says so.
    let short = encode_into(&mut slice[..len - 1], frame.header.kind, flags, stream, Some(&head), frame.payload);
    assert_eq!(short, Err(WireError::BufferTooSmall));
}

/// Items written back by both ways are the same, and give the same items.
fn items<T: Copy>(
    items: impl Iterator<Item = T>,
    push: impl Fn(&mut [u8], T) -> Result<usize, WireError>,
    append: impl Fn(&mut Vec<u8>, T),
    payload: &[u8],
) -> Vec<u8> {
    let (mut slice, mut at, mut vector) = (vec![0; payload.len()], 0, Vec::new());
    for item in items {
        at += push(&mut slice[at..], item).expect("the shortest form fits");
        append(&mut vector, item);
    }
    assert_eq!(slice[..at], vector, "into a slice and into a vector");
    if at == payload.len() {
        assert_eq!(vector, payload, "one list, one shortest form");
    }
    vector
}

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
    macro_rules! rewrite_any {
        ($($name:ident)*) => { match head { $(AnyHead::$name(head) => rewrite(frame, head),)* } };
    }
    rewrite_any! {
        Hello Welcome Auth Done ErrorHead Close Goaway Publish Batch PublishAck PublishNack Subscribe Deliver Dropped
        Consume Ack Nack Credit Pause History Request Response Cancel Report Ping Pong Reauth Unsubscribe Resume
    }
    match head {
        AnyHead::Welcome(_) => positions(extension::<Welcome<'_>>(frame, EXTENSION_BRIDGE)),
        AnyHead::Publish(_) => {
            source(extension::<Publish>(frame, EXTENSION_SOURCE), 1);
            record(frame.payload);
        }
        AnyHead::Batch(head) => {
            source(extension::<Batch>(frame, EXTENSION_SOURCE), head.count);
            packed(frame.payload, extension::<Batch>(frame, EXTENSION_LZ4));
            if let Ok(found) = BatchItems::parse(frame.payload, head.count) {
                assert_eq!(found.len(), found.clone().inspect(|r| record(r)).count());
                let again = items(found.clone(), push_record, append_record, frame.payload);
                assert!(BatchItems::parse(&again, head.count).is_ok_and(|again| again.eq(found)));
            }
        }
        AnyHead::Deliver(head) => {
            if let Ok(found) = DeliverItems::parse(frame.payload, head.count, head.total) {
                assert_eq!(found.len(), found.clone().inspect(|item| record(item.record)).count());
                let push = |out: &mut [u8], item| push_item(out, &item);
                let again = items(found.clone(), push, |out, item| append_item(out, &item), frame.payload);
                let again = DeliverItems::parse(&again, head.count, again.len() as u32);
                assert!(again.is_ok_and(|again| again.eq(found)));
            }
        }
        AnyHead::Consume(head) => {
            if let Ok(found) = FilterItems::parse(frame.payload, head.filters) {
                assert_eq!(found.len(), found.clone().inspect(|f| filter(f)).count());
                let again = items(found.clone(), push_filter, append_filter, frame.payload);
                assert!(FilterItems::parse(&again, head.filters).is_ok_and(|again| again.eq(found)));
            }
        }
        AnyHead::Subscribe(head) => filter(head.filter),
        AnyHead::Request(head) => properties(head.properties),
        AnyHead::Response(head) => properties(head.trailers),
        _ => {}
    }
}

fn extension<'a, H: Head<'a>>(frame: &Frame<'a>, tag: u32) -> &'a [u8] {
    frame.head_with_extensions::<H>().ok().and_then(|(_, extensions)| extensions.get(tag)).unwrap_or_default()
}

/// The positions that a welcome tells are told again as the same.
fn positions(bytes: &[u8]) {
    let found = SourcePosition::read_all(bytes);
    let again = SourcePosition::write_all(&found);
    assert!(again.len() <= POSITIONS_BYTES_MAX.min(bytes.len()));
    assert!(again.len() < bytes.len().min(POSITIONS_BYTES_MAX) || SourcePosition::read_all(&again) == found);
}

/// A source that is valid gives each record a sequence of its own, in order; its runs are written back as the same.
fn source(bytes: &[u8], count: u32) {
    let Ok((source, _)) = postcard::take_from_bytes::<Source<'_>>(bytes) else { return };
    let sequences: Vec<u64> = source.sequences(count.min(BATCH_MESSAGES_MAX)).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]));
    if count > BATCH_MESSAGES_MAX || !source.is_valid(count) {
        return;
    }
    assert_eq!((sequences.len(), sequences[0]), (count as usize, source.first));
    let mut runs = SourceRuns::default();
    for sequence in &sequences {
        assert!(runs.takes(*sequence));
        runs.push(*sequence);
    }
    let runs = runs.take();
    let again = Source { runs: &runs, ..source };
    assert!(again.is_valid(count) && again.sequences(count).eq(sequences));
}

/// A block becomes exactly what it says, or nothing.
fn packed(block: &[u8], len: &[u8]) {
    let Ok((len, _)) = postcard::take_from_bytes::<u32>(len) else { return };
    let mut place = Vec::new();
    if let Ok(payload) = unpack_batch(block, len, &mut place) {
        assert_eq!(payload.len(), len as usize);
    }
    assert!(place.capacity() <= BATCH_EXPANDED_BYTES_MAX.min(255 * block.len()));
}

/// What is read is written back and read again as the same.
fn record(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        properties(record.properties.as_bytes());
        let mut again = Vec::new();
        record.encode_to(&mut again);
        assert!(again.len() <= bytes.len(), "the shortest form is not longer");
        assert!(again.len() <= record.encoded_len_max());
        assert!(again.len() < bytes.len() || again == bytes, "one record, one shortest form");
        let mut slice = vec![0; again.len()];
        assert_eq!(record.encode(&mut slice), Ok(again.len()));
        assert_eq!(slice, again);
        assert!(record.encode(&mut slice[1..]).is_err());
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
        let deep = ["a"; 60].join("/");
        for channel in ["site/boiler/temp", "$SYS/a", "/", &deep] {
            let channel = Channel::parse(channel).expect("valid");
            assert!(filter.as_str() != "#" || filter.matches(channel) != channel.is_reserved());
            assert_eq!(filter.literal() == Some(channel), filter.literal().is_some() && filter.matches(channel));
        }
        if let Some(literal) = filter.literal() {
            assert!(filter.matches(literal));
        }
    }
}
