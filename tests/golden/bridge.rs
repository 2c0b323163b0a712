//! What a bridge says beside the heads: its golden frames, and what a reader makes of them.

use super::*;
use std::borrow::Cow;
use tidegate::seal::unpack_batch;
use tidegate::wire::{
    BridgeHello, ENCODING_LZ4, ENCODING_LZ4_BATCH, EXTENSION_BRIDGE, EXTENSION_ENCODINGS, EXTENSION_LZ4,
    EXTENSION_SOURCE, Extensions, Frame, Source, SourcePosition,
};

fn extended<'h, H: Head<'h>>(stream: u32, head: H, extensions: &[(u32, &[u8])], payload: &[u8]) -> Vec<u8> {
    let extensions: Vec<_> = extensions.iter().map(|&(tag, value)| Extension { tag, value }).collect();
    let mut bytes = vec![0; limits::HEADER_BYTES + limits::HEAD_BYTES_MAX + payload.len()];
    let head = Extended { head, extensions: &extensions };
    let n = encode_extended(&mut bytes, 0, stream, u32::from(stream != 0), &head, payload).expect("encodes");
    bytes.truncate(n);
    bytes
}

/// Three records from the middle of a lane: 7, 8 and 10.
fn source() -> Source<'static> {
    Source { epoch: 0x0123_4567_89AB_CDEF, lane: 0, floor: 7, first: 7, runs: &[2, 1, 1] }
}

fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data")
}

fn batch_of(count: u32, record: &[u8]) -> (Batch, Vec<u8>) {
    let mut payload = Vec::new();
    (0..count).for_each(|_| append_record(&mut payload, record));
    (Batch { contract: Contract::Queue, first: 1, count }, payload)
}

/// Sixteen small records as one block. By hand, since a compressor may do it otherwise tomorrow.
fn packed() -> (Batch, Vec<u8>, u32) {
    let record = record_bytes(&Record::new(channel("a"), b"21.5"));
    let (head, payload) = batch_of(16, &record);
    let one = payload.len() / 16;
    // The first record as letters, then from as many bytes back all but the last five, which LZ4 wants as letters.
    let matched = payload.len() - one - 5;
    let mut block = vec![0xFF, (one - 15) as u8];
    block.extend_from_slice(&payload[..one]);
    block.extend_from_slice(&(one as u16).to_le_bytes());
    let mut rest = matched - 4 - 15;
    while rest >= 255 {
        block.push(255);
        rest -= 255;
    }
    block.push(rest as u8);
    block.push(0x50);
    block.extend_from_slice(&payload[payload.len() - 5..]);
    (head, block, payload.len() as u32)
}

/// The frames, good ones first.
pub fn cases() -> Vec<Case> {
    use Expected::{Accepted, Refused};
    let mut cases = Vec::new();
    let mut add = |name, bytes: Vec<u8>, expected, note| cases.push(Case { name, bytes, expected, note });
    let bridge = encoded(&BridgeHello { edge: "edge-1.7f3a", bridge: "head-office" });
    // As the others that are malformed the second frame of a connection.
    let of_hello = |value: &[u8]| {
        let mut bytes = extended(0, hello_head(), &[(EXTENSION_BRIDGE, value)], &[]);
        seal(&mut bytes, 1);
        bytes
    };
    let encodings = [ENCODING_LZ4, ENCODING_LZ4_BATCH];
    let both = [(EXTENSION_ENCODINGS, &encodings[..]), (EXTENSION_BRIDGE, &bridge)];
    add("hello-bridge", extended(0, hello_head(), &both, &[]), Accepted, "extension 3: the session is a bridge's");
    let epoch = source().epoch;
    let positions = [
        SourcePosition { epoch, lane: 0, last: 10, refused: vec![(8, Code::MessageTooLarge as u16)] },
        SourcePosition { epoch, lane: 9, last: 300, refused: vec![] },
    ];
    let positions = SourcePosition::write_all(&positions);
    let kept = [(EXTENSION_ENCODINGS, &encodings[..]), (EXTENSION_BRIDGE, &positions)];
    add(
        "welcome-bridge",
        extended(0, welcome_head(), &kept, &[]),
        Accepted,
        "extension 3: what is kept of two sources",
    );
    let record = plain_record();
    let one = Publish { contract: Contract::Queue, number: 1, total: record.len() as u32 };
    let single = encoded(&Source { runs: &[], ..source() });
    add(
        "publish-source",
        extended(1, one, &[(EXTENSION_SOURCE, &single)], &record),
        Accepted,
        "extension 4: the record is the seventh of its lane",
    );
    let (three, payload) = batch_of(3, &record);
    let of_batch = |source: &Source<'_>| extended(1, three, &[(EXTENSION_SOURCE, &encoded(source))], &payload);
    add("batch-source", of_batch(&source()), Accepted, "extension 4: sequences 7, 8 and 10");
    let (head, block, len) = packed();
    let of_block = |head, len: &[u8], block: &[u8]| extended(1, head, &[(EXTENSION_LZ4, len)], block);
    add("batch-lz4", of_block(head, &encoded(&len), &block), Accepted, "extension 5: sixteen records as one LZ4 block");

    let mut trailing = bridge.clone();
    trailing.push(0);
    add("bad-bridge-trailing", of_hello(&trailing), Refused(Code::BadHead), "a byte behind the bridge's name");
    add(
        "bad-bridge-short",
        of_hello(&bridge[..5]),
        Refused(Code::BadHead),
        "an edge's name of 11 bytes of which 4 are there",
    );
    let nameless = encoded(&BridgeHello { edge: "", bridge: "head-office" });
    add("bad-bridge-nameless", of_hello(&nameless), Refused(Code::BadName), "an edge without a name");
    for (name, source, note) in [
        ("bad-source-lane", Source { lane: 10, ..source() }, "lane 10"),
        ("bad-source-first", Source { first: 0, ..source() }, "sequences begin at 1"),
        ("bad-source-end", Source { first: u64::MAX - 3, ..source() }, "the last sequence is 2^64-1"),
        ("bad-source-runs-few", Source { runs: &[2], ..source() }, "two sequences for three records"),
        ("bad-source-runs-many", Source { runs: &[2, 1, 2], ..source() }, "four sequences for three records"),
        ("bad-source-runs-gap", Source { runs: &[2, 0, 1], ..source() }, "a gap of nothing"),
        ("bad-source-runs-end", Source { runs: &[3, 1], ..source() }, "a gap behind the last"),
    ] {
        add(name, of_batch(&source), Refused(Code::BadHead), note);
    }
    let mut trailing = encoded(&source());
    trailing.push(0);
    let trailing = extended(1, three, &[(EXTENSION_SOURCE, &trailing)], &payload);
    add("bad-source-trailing", trailing, Refused(Code::BadHead), "a byte behind the runs");
    let lies = |len: u32| of_block(head, &encoded(&len), &block);
    add("bad-batch-lz4-short", lies(len - 1), Refused(Code::BadPayload), "one byte less is announced than is there");
    add("bad-batch-lz4-long", lies(len + 1), Refused(Code::BadPayload), "one byte more is announced than is there");
    let over = limits::BATCH_EXPANDED_BYTES_MAX as u32 + 1;
    add("bad-batch-lz4-bomb", lies(over), Refused(Code::BadPayload), "more than a batch may become");
    let fewer = Batch { count: 15, ..head };
    add(
        "bad-batch-lz4-count",
        of_block(fewer, &encoded(&len), &block),
        Refused(Code::BadPayload),
        "one record too many",
    );
    add("bad-batch-lz4-length", of_block(head, &[0x80], &block), Refused(Code::BadHead), "its length does not end");
    cases
}

/// What the extensions of a bridge say, in words.
pub fn said(frame: &Frame<'_>, head: &AnyHead<'_>) -> Result<String, Code> {
    let mut text = String::new();
    match head {
        AnyHead::Hello(_) => {
            if let Some(value) = extension::<Hello<'_>>(frame, EXTENSION_BRIDGE) {
                let bridge: BridgeHello<'_> = whole(value)?;
                if !bridge.is_valid() {
                    return Err(Code::BadName);
                }
                let _ = write!(text, ", bridge {:?} of edge {:?}", bridge.bridge, bridge.edge);
            }
        }
        AnyHead::Welcome(_) => {
            for position in
                SourcePosition::read_all(extension::<Welcome<'_>>(frame, EXTENSION_BRIDGE).unwrap_or_default())
            {
                let _ = write!(text, ", `{position:?}`");
            }
        }
        AnyHead::Publish(_) => text = source_of(extension::<Publish>(frame, EXTENSION_SOURCE), 1)?,
        AnyHead::Batch(head) => text = source_of(extension::<Batch>(frame, EXTENSION_SOURCE), head.count)?,
        _ => {}
    }
    Ok(text)
}

fn source_of(value: Option<&[u8]>, count: u32) -> Result<String, Code> {
    let Some(value) = value else { return Ok(String::new()) };
    let source: Source<'_> = whole(value)?;
    if !source.is_valid(count) {
        return Err(Code::BadHead);
    }
    let Source { epoch, lane, floor, .. } = source;
    let sequences: Vec<u64> = source.sequences(count).collect();
    Ok(format!(", from {sequences:?} of lane {lane} of epoch {epoch:016x}, settled below {floor}"))
}

/// The payload of a batch, expanded where it is compressed.
pub fn expanded<'a>(frame: &Frame<'a>) -> Result<Cow<'a, [u8]>, Code> {
    let Some(len) = extension::<Batch>(frame, EXTENSION_LZ4) else { return Ok(frame.payload.into()) };
    let mut place = Vec::new();
    let payload = unpack_batch(frame.payload, whole(len)?, &mut place).map_err(|_| Code::BadPayload)?;
    Ok(payload.to_vec().into())
}

fn extension<'a, H: Head<'a>>(frame: &Frame<'a>, tag: u32) -> Option<&'a [u8]> {
    let (_, extensions): (H, Extensions<'a>) = frame.head_with_extensions().ok()?;
    extensions.get(tag)
}

/// A value that these bytes are, and nothing else.
fn whole<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Code> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Code::BadHead),
    }
}
