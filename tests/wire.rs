//! Properties of the frame codec: total over any bytes, faithful to what was written, and deaf to no damage.
#![cfg(feature = "daemon")]

use proptest::collection::vec;
use proptest::prelude::*;
use std::fmt::Debug;
use tidegate::model::limits::{CHUNK_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX, HEAD_BYTES_MAX, HEADER_BYTES};
use tidegate::model::{Channel, Encoding, Filter, MessageId, Priority, Properties, Property, Record, is_compressed};
use tidegate::wire::{
    Ack, AnyHead, Auth, Batch, BatchItems, Cancel, Close, Code, Consume, Contract, Credit, Decoded, Deliver,
    DeliverItem, DeliverItems, Done, Dropped, ErrorHead, Extended, Extension, FilterItems, Frame, FrameType, Goaway,
    Head, Hello, History, Nack, Outcome, Pause, Ping, Pong, Publish, PublishAck, PublishNack, Reauth, Report, Request,
    Response, Resume, Since, Start, Subscribe, Unsubscribe, Welcome, WireError, append_item, append_record, chunks,
    decode, encode, encode_extended, seal,
};

const MAX: u32 = FRAME_PAYLOAD_BYTES_MAX;

/// Raw material of heads. Numbers prefer the edges of varints.
#[derive(Clone, Debug)]
struct Pool {
    n: [u64; 6],
    text: [String; 2],
    bytes: Vec<u8>,
    flag: [bool; 3],
    id: [u8; 16],
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..300u64,
        (0..64u32).prop_map(|bits| (1 << bits) - 1),
        (0..64u32).prop_map(|bits| 1 << bits),
        Just(u64::MAX)
    ]
}

fn pool() -> impl Strategy<Value = Pool> {
    (
        prop::array::uniform6(number()),
        prop::array::uniform2("\\PC{0,40}"),
        vec(any::<u8>(), 0..200),
        any::<[bool; 3]>(),
        any::<[u8; 16]>(),
    )
        .prop_map(|(n, text, bytes, flag, id)| Pool { n, text, bytes, flag, id })
}

impl Pool {
    fn u8(&self, i: usize) -> u8 {
        self.n[i] as u8
    }
    fn u16(&self, i: usize) -> u16 {
        self.n[i] as u16
    }
    fn u32(&self, i: usize) -> u32 {
        self.n[i] as u32
    }
    fn contract(&self) -> Contract {
        [Contract::Queue, Contract::Memory, Contract::Disk, Contract::Upstream][self.n[0] as usize % 4]
    }
    fn outcome(&self) -> Outcome {
        [Outcome::Stored, Outcome::Duplicate, Outcome::LiveOnly, Outcome::Dropped, Outcome::Accepted]
            [self.n[0] as usize % 5]
    }
    fn since(&self) -> Since {
        match self.n[0] % 4 {
            0 => Since::Now,
            1 => Since::Last(self.u32(1)),
            2 => Since::Offset { epoch: self.n[1], offset: self.n[2] },
            _ => Since::Time(self.n[1]),
        }
    }
    fn start(&self) -> Start {
        match self.n[0] % 3 {
            0 => Start::First,
            1 => Start::New,
            _ => Start::Time(self.n[1]),
        }
    }
}

/// Does something with every head that a pool makes.
trait Visit {
    fn head<'a, H: Head<'a> + PartialEq + Debug + Copy>(&mut self, head: H, any: AnyHead<'a>);
}

/// One head of each type.
fn every_head(p: &Pool, visit: &mut impl Visit) {
    let [a, b] = [p.text[0].as_str(), p.text[1].as_str()];
    macro_rules! visit {
        ($($name:ident { $($field:tt)* })*) => {$(
            let head = $name { $($field)* };
            visit.head(head, AnyHead::$name(head));
        )*};
    }
    visit! {
        Hello { version_min: p.u8(0), version_max: p.u8(1), client: a, heartbeat_ms: p.u32(2), frame_bytes_max: p.u32(3), message_bytes_max: p.u32(4) }
        Welcome { version: p.u8(0), server: a, session: p.n[1], heartbeat_ms: p.u32(2), frame_bytes_max: p.u32(3), message_bytes_max: p.u32(4), window_messages: p.u32(5), window_bytes: p.u32(0), time_ms: p.n[1] }
        Auth { method: p.u8(0), data: &p.bytes }
        Reauth { method: p.u8(0), data: &p.bytes }
        Done { epoch: p.n[0], value: p.n[1], complete: p.flag[0] }
        ErrorHead { code: p.u16(0), retry_after_ms: p.u32(1), detail: a }
        Close { code: p.u16(0), detail: a }
        Goaway { code: p.u16(0), deadline_ms: p.u32(1), detail: a }
        Publish { contract: p.contract(), number: p.n[1], total: p.u32(2) }
        Batch { contract: p.contract(), first: p.n[1], count: p.u32(2) }
        PublishAck { first: p.n[1], count: p.u32(2), outcome: p.outcome() }
        PublishNack { first: p.n[0], count: p.u32(1), code: p.u16(2), retry_after_ms: p.u32(3), detail: a }
        Subscribe { filter: a, retained: p.flag[0], since: p.since(), respond: p.flag[1], disconnect_when_slow: p.flag[2] }
        Unsubscribe {}
        Deliver { epoch: p.n[0], first_tag: p.n[1], count: p.u32(2), total: p.u32(3) }
        Dropped { count: p.n[0], bytes: p.n[1], code: p.u16(2) }
        Consume { queue: a, name: b, start: p.start(), window: p.u32(2), attempts_max: p.u32(3), ack_timeout_ms: p.u32(4), backoff_ms: p.u32(5), filters: p.u32(0), credit_messages: p.u32(1), credit_bytes: p.u32(2) }
        Ack { first: p.n[0], count: p.u32(1) }
        Nack { first: p.n[0], count: p.u32(1), delay_ms: p.u32(2), give_up: p.flag[0], reason: a }
        Credit { messages: p.u32(0), bytes: p.u32(1) }
        Pause { code: p.u16(0) }
        Resume {}
        History { channel: a, since: p.since(), limit: p.u32(3) }
        Request { channel: a, deadline_ms: p.u32(0), total: p.u32(1), properties: &p.bytes }
        Response { status: p.u16(0), last: p.flag[0], total: p.u32(1), trailers: &p.bytes }
        Cancel { code: p.u16(0) }
        Report { id: p.id, state: p.u8(0), attempt: p.u32(1), time_ms: p.n[2], detail: a }
        Ping { nonce: p.n[0] }
        Pong { nonce: p.n[0] }
    }
}

/// Encodes a head with a payload.
fn frame<'h, H: Head<'h>>(stream: u32, sequence: u32, head: &H, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES + HEAD_BYTES_MAX + payload.len()];
    let n = encode(&mut out, 0, stream, sequence, head, payload).expect("fits");
    out.truncate(n);
    out
}

fn whole(bytes: &[u8]) -> Frame<'_> {
    match decode(bytes, MAX) {
        Ok(Decoded::Frame(frame, len)) if len == bytes.len() => frame,
        other => panic!("a whole frame was expected: {other:?}"),
    }
}

/// Writes each head, reads it back both ways, and keeps the frames.
struct RoundTrip<'p> {
    payload: &'p [u8],
    stream: u32,
    sequence: u32,
    frames: Vec<Vec<u8>>,
}

impl Visit for RoundTrip<'_> {
    fn head<'a, H: Head<'a> + PartialEq + Debug + Copy>(&mut self, head: H, any: AnyHead<'a>) {
        let bytes = frame(self.stream, self.sequence, &head, self.payload);
        let read = whole(&bytes);
        assert_eq!(read.any_head(), Ok(Some(any)));
        assert_eq!((read.header.kind, read.header.flags), (H::KIND, 0));
        assert_eq!((read.header.stream, read.header.sequence), (self.stream, self.sequence));
        assert_eq!(read.payload, self.payload);

        // With extensions behind it the head is the same.
        let values = [Extension { tag: 5, value: self.payload }, Extension { tag: u32::MAX, value: b"" }];
        let mut out = vec![0; 2 * HEAD_BYTES_MAX];
        let extended = Extended { head, extensions: &values };
        let n = encode_extended(&mut out, 0, self.stream, self.sequence, &extended, &[]).expect("fits");
        assert_eq!(whole(&out[..n]).any_head(), Ok(Some(any)));

        // A buffer that is one byte short is an error, never a cut frame.
        let mut short = vec![0; bytes.len() - 1];
        let refused = encode(&mut short, 0, self.stream, self.sequence, &head, self.payload);
        assert_eq!(refused, Err(WireError::BufferTooSmall));
        self.frames.push(bytes);
    }
}

/// Reads whatever can be read. Nothing here may panic, whatever the bytes.
fn read_to_the_bottom(frame: &Frame<'_>) {
    let kind = frame.header.kind;
    let head = match frame.any_head() {
        Ok(Some(head)) => head,
        Ok(None) => return,
        Err(e) => return assert_eq!(e, WireError::Head(kind as u8)),
    };
    match head {
        AnyHead::Publish(_) => _ = Record::decode(frame.payload),
        AnyHead::Batch(head) => match BatchItems::parse(frame.payload, head.count) {
            Ok(items) => assert_eq!(items.inspect(|r| _ = Record::decode(r)).count(), head.count as usize),
            Err(e) => assert_eq!(e.code(), Code::BadPayload),
        },
        AnyHead::Deliver(head) => match DeliverItems::parse(frame.payload, head.count, head.total) {
            Ok(items) => assert_eq!(items.inspect(|i| _ = Record::decode(i.record)).count(), head.count as usize),
            Err(e) => assert_eq!(e.code(), Code::BadPayload),
        },
        AnyHead::Consume(head) => match FilterItems::parse(frame.payload, head.filters) {
            Ok(items) => assert_eq!(items.inspect(|f| _ = Filter::parse(f)).count(), head.filters as usize),
            Err(e) => assert_eq!(e.code(), Code::BadPayload),
        },
        _ => {}
    }
}

/// One valid frame of any type.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    (pool(), vec(any::<u8>(), 0..100), any::<u32>(), any::<u32>(), any::<prop::sample::Index>()).prop_map(
        |(p, payload, stream, sequence, which)| {
            let mut made = RoundTrip { payload: &payload, stream, sequence, frames: Vec::new() };
            every_head(&p, &mut made);
            let at = which.index(made.frames.len());
            made.frames.swap_remove(at)
        },
    )
}

fn properties() -> impl Strategy<Value = Vec<(u32, Vec<u8>)>> {
    vec((number().prop_map(|n| n as u32), vec(any::<u8>(), 0..60)), 0..=64)
}

proptest! {
    #[test]
    fn every_head_survives_the_wire(p in pool(), payload in vec(any::<u8>(), 0..100), stream: u32, sequence: u32) {
        let mut made = RoundTrip { payload: &payload, stream, sequence, frames: Vec::new() };
        every_head(&p, &mut made);
        let kinds: Vec<u8> = made.frames.iter().map(|f| f[3]).collect();
        let mut all: Vec<u8> = FrameType::ALL.iter().map(|k| *k as u8).collect();
        let mut sorted = kinds;
        sorted.sort_unstable();
        all.sort_unstable();
        prop_assert_eq!(sorted, all, "every type was tried");
    }

    #[test]
    fn any_bytes_give_a_frame_or_a_typed_error(bytes in vec(any::<u8>(), 0..200), limit: u32) {
        match decode(&bytes, limit) {
            Ok(Decoded::Frame(frame, len)) => {
                prop_assert!(len <= bytes.len());
                read_to_the_bottom(&frame);
            }
            Ok(Decoded::Incomplete(needed)) => {
                prop_assert!(needed > bytes.len());
                prop_assert!(needed <= HEADER_BYTES + HEAD_BYTES_MAX + limit.min(MAX) as usize);
            }
            Err(e) => prop_assert!(e.code() != Code::Internal && (e.code() as u16) < 100),
        }
        let _ = Record::decode(&bytes);
        let _ = Properties::parse(&bytes);
    }

    /// Damage behind a checksum that fits: what a hostile peer can send.
    #[test]
    fn hostile_heads_and_payloads_are_read_without_harm(
        mut bytes in any_frame(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        head_len in prop::option::of(0..200u16),
    ) {
        let body = bytes.len() - HEADER_BYTES;
        for (at, value) in damage {
            if body > 0 {
                bytes[HEADER_BYTES + at.index(body)] = value;
            }
        }
        if let Some(head_len) = head_len {
            let head_len = usize::from(head_len).min(body);
            bytes[6..8].copy_from_slice(&(head_len as u16).to_be_bytes());
            bytes[8..12].copy_from_slice(&((body - head_len) as u32).to_be_bytes());
        }
        seal(&mut bytes, 1);
        read_to_the_bottom(&whole(&bytes));
    }

    #[test]
    fn a_prefix_is_never_a_frame_and_says_what_it_needs(bytes in any_frame()) {
        for end in 0..bytes.len() {
            let needed = if end < HEADER_BYTES { HEADER_BYTES } else { bytes.len() };
            prop_assert_eq!(decode(&bytes[..end], MAX), Ok(Decoded::Incomplete(needed)), "cut at {}", end);
        }
        // What follows a frame does not belong to it.
        let mut longer = bytes.clone();
        longer.push(0);
        prop_assert!(matches!(decode(&longer, MAX), Ok(Decoded::Frame(_, len)) if len == bytes.len()));
    }

    #[test]
    fn every_flipped_bit_is_noticed(bytes in any_frame()) {
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Decoded::Incomplete(needed)) = decode(&damaged, MAX) {
                // A length grew: once that much is there, the checksum tells.
                prop_assert!(needed > damaged.len() && (6 * 8..12 * 8).contains(&bit), "bit {}", bit);
                damaged.resize(needed, 0);
            }
            prop_assert!(decode(&damaged, MAX).is_err(), "bit {} of {:02x?}", bit, bytes);
        }
    }

    #[test]
    fn a_limit_is_kept_to_the_byte(payload in vec(any::<u8>(), 0..300), less in 1..10u32) {
        let bytes = frame(1, 1, &Ping { nonce: 1 }, &payload);
        let len = payload.len() as u32;
        prop_assert!(decode(&bytes, len).is_ok());
        if len >= less {
            let refused = Err(WireError::PayloadTooLarge(len, len - less));
            prop_assert_eq!(decode(&bytes[..HEADER_BYTES], len - less), refused, "from the header alone");
        }
    }

    #[test]
    fn every_record_survives_and_its_damage_does_not_panic(
        id: [u8; 16], levels in vec("[^/+#\0]{0,7}", 1..20), priority in 0..=9u8, (retain, compressed) in any::<(bool, bool)>(), time in number(),
        ttl in number(), delay in number(), encoding in 0..5usize, pairs in properties(), payload in vec(any::<u8>(), 0..300),
        cut: prop::sample::Index, damage: (prop::sample::Index, u8),
    ) {
        let channel = levels.join("/");
        let Ok(channel) = Channel::parse(&channel) else { return Ok(()) };
        let mut encoded = Vec::new();
        for (tag, value) in &pairs {
            let mut one = [0; 80];
            let n = Properties::encode_one(Property { tag: *tag, value }, &mut one).expect("fits");
            encoded.extend_from_slice(&one[..n]);
        }
        let record = Record {
            id: MessageId(id),
            channel,
            priority: Priority::new(priority).expect("in range"),
            retain,
            compressed,
            time_ms: time,
            ttl_ms: ttl as u32,
            delay_ms: delay as u32,
            encoding: [Encoding::Binary, Encoding::Text, Encoding::Json, Encoding::Protobuf, Encoding::Postcard][encoding],
            properties: Properties::parse(&encoded).expect("within the limits"),
            payload: &payload,
        };
        let mut bytes = Vec::new();
        record.encode_to(&mut bytes);
        prop_assert!(bytes.len() <= record.encoded_len_max());
        prop_assert_eq!(bytes.len(), record.encoded_len());
        prop_assert_eq!(is_compressed(&bytes), compressed);
        prop_assert_eq!(Record::decode(&bytes), Ok(record));
        let read: Vec<(u32, Vec<u8>)> = record.properties.iter().map(|p| (p.tag, p.value.to_vec())).collect();
        prop_assert_eq!(read, pairs);
        prop_assert!(Record::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let at = damage.0.index(bytes.len());
        bytes[at] = damage.1;
        let _ = Record::decode(&bytes);
    }

    #[test]
    fn batches_and_deliveries_survive(records in vec(vec(any::<u8>(), 0..200), 1..30), seq in number(), more in 1..5u32) {
        let (mut batch, mut items) = (Vec::new(), Vec::new());
        let item = |record| DeliverItem { flags: 8, lane: 3, seq, offset: seq, attempt: 1, stored_ms: seq, record };
        for record in &records {
            append_record(&mut batch, record);
            append_item(&mut items, &item(record));
        }
        let (count, total) = (records.len() as u32, items.len() as u32);
        prop_assert!(BatchItems::parse(&batch, count).expect("well-formed").eq(records.iter().map(Vec::as_slice)));
        let read = DeliverItems::parse(&items, count, total).expect("well-formed");
        prop_assert!(read.eq(records.iter().map(|r| item(r))));
        prop_assert!(BatchItems::parse(&batch, count + more).is_err() && BatchItems::parse(&batch, count - 1).is_err());
        prop_assert!(DeliverItems::parse(&items, count + more, total).is_err());
        prop_assert!(DeliverItems::parse(&items, count, total + more).is_err());
    }

    #[test]
    fn chunks_join_to_the_message(len in 0..3 * CHUNK_BYTES_MAX) {
        let message: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let parts: Vec<_> = chunks(&message).collect();
        prop_assert!(parts.iter().flat_map(|(_, part)| part.iter()).eq(&message));
        prop_assert!(parts.iter().all(|(_, part)| part.len() <= CHUNK_BYTES_MAX));
        for (i, (flags, _)) in parts.iter().enumerate() {
            let expected = u16::from(i + 1 < parts.len()) | u16::from(i > 0) << 1;
            prop_assert_eq!(*flags, expected);
        }
    }

    /// As in MQTT, by a second way of saying it.
    #[test]
    fn filters_match_as_a_plain_model_does(filter in "[a+#/$]{1,8}", channel in "[a$/]{1,8}") {
        let (Ok(filter), Ok(channel)) = (Filter::parse(&filter), Channel::parse(&channel)) else { return Ok(()) };
        let pattern: Vec<&str> = filter.as_str().split('/').collect();
        let levels: Vec<&str> = channel.as_str().split('/').collect();
        prop_assert_eq!(filter.matches(channel), model(&pattern, &levels, true));
    }
}

fn model(pattern: &[&str], levels: &[&str], first: bool) -> bool {
    let hidden = first && levels.first().is_some_and(|l| l.starts_with('$'));
    match (pattern, levels) {
        (["#"], _) => !hidden,
        ([], []) => true,
        (["+", pattern @ ..], [_, levels @ ..]) => !hidden && model(pattern, levels, false),
        ([p, pattern @ ..], [l, levels @ ..]) => p == l && model(pattern, levels, false),
        _ => false,
    }
}

#[test]
fn what_a_peer_would_refuse_is_not_encoded() {
    let mut out = vec![0; 100_000];
    let text = "x".repeat(HEAD_BYTES_MAX);
    let close = Close { code: 0, detail: &text };
    assert!(matches!(encode(&mut out, 0, 0, 0, &close, &[]), Err(WireError::HeadTooLarge(_, 4_096))));
    assert_eq!(encode(&mut out, 1, 0, 0, &Ping { nonce: 1 }, &[]), Err(WireError::FlagsContradict));
    let publish = Publish { contract: Contract::Queue, number: 1, total: 0 };
    assert_eq!(encode(&mut out, 2, 1, 0, &publish, &[]), Err(WireError::FlagsContradict));
}

#[test]
fn a_head_is_read_only_as_its_own_type() {
    let bytes = frame(0, 0, &Ping { nonce: 1 }, &[]);
    assert_eq!(whole(&bytes).head::<Pong>(), Err(WireError::Head(FrameType::Ping as u8)));
}

#[test]
fn a_repeated_extension_counts_once() {
    let mut out = [0; 64];
    let extensions = [Extension { tag: 1, value: b"a" }, Extension { tag: 1, value: b"b" }];
    let head = Extended { head: Ping { nonce: 1 }, extensions: &extensions };
    let n = encode_extended(&mut out, 0, 0, 0, &head, &[]).expect("fits");
    let (ping, read) = whole(&out[..n]).head_with_extensions::<Ping>().expect("well-formed");
    assert_eq!(ping, head.head);
    assert_eq!((read.get(1), read.get(2)), (Some(&b"a"[..]), None));
    assert!(read.iter().eq(extensions));
}
