//! Compressed payloads: delivered as they are to readers that take them, expanded to others, refused when they lie.

use super::world::{World, queue};
use crate::config::{QueueSettings, Settings};
use crate::model::limits::BATCH_EXPANDED_BYTES_MAX;
use crate::model::{Channel, ConnId, Record, admin, is_compressed};
use crate::seal::{BatchPacker, compress};
use crate::wire::{
    Batch, Code, Contract, Deliver, DeliverItems, ENCODING_LZ4, ENCODING_LZ4_BATCH, EXTENSION_ENCODINGS, EXTENSION_LZ4,
    Extension, FLAG_CONT, FrameType, History, Nack, Outcome, Publish, Request, Response, Since, Subscribe, Unsubscribe,
    append_record,
};

const TEXT: &str = "all work and no play makes the box a dull box; ";

fn text() -> String {
    TEXT.repeat(100)
}

/// A record with its payload compressed.
fn compressed(channel: &str, payload: &[u8], change: impl FnOnce(&mut Record<'_>)) -> Vec<u8> {
    let payload = compress(payload).expect("it repeats");
    let mut record =
        Record { compressed: true, ..Record::new(Channel::parse(channel).expect("a channel"), payload.as_slice()) };
    change(&mut record);
    let mut bytes = Vec::new();
    record.encode_to(&mut bytes);
    bytes
}

fn publish(w: &mut World, conn: ConnId, number: u64, record: &[u8]) -> Result<Outcome, Code> {
    let head = Publish { contract: Contract::Queue, number, total: record.len() as u32 };
    w.send(conn, 1, &head, record);
    let verdicts = w.verdicts(conn);
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    verdicts[0].1
}

/// The records delivered since the last call, as they came.
fn records(w: &mut World, conn: ConnId) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut whole: Vec<u8> = Vec::new();
    let mut head: Option<Deliver> = None;
    for seen in w.frames(conn).into_iter().filter(|seen| seen.kind == FrameType::Deliver) {
        if seen.flags & FLAG_CONT == 0 {
            head = Some(seen.get());
            whole.clear();
        }
        whole.extend_from_slice(&seen.payload);
        let head = head.expect("a first chunk");
        if whole.len() == head.total as usize {
            let items = DeliverItems::parse(&whole, head.count, head.total).expect("well-formed");
            all.extend(items.map(|item| item.record.to_vec()));
        }
    }
    all
}

/// What arrived, whether it came compressed.
fn came(w: &mut World, conn: ConnId) -> Vec<(bool, String)> {
    let plain = |record: &[u8]| {
        let expanded = crate::seal::expand_record(record, 1 << 20).expect("well-formed");
        let text = |record: &[u8]| {
            String::from_utf8(Record::decode(record).expect("a record").payload.to_vec()).expect("text")
        };
        expanded.map_or_else(|| text(record), |record| text(&record))
    };
    records(w, conn).iter().map(|record| (is_compressed(record), plain(record))).collect()
}

fn subscribe(filter: &str) -> Subscribe<'_> {
    Subscribe { filter, retained: true, since: Since::Now, respond: false, disconnect_when_slow: false }
}

fn world() -> World {
    World::new(vec![QueueSettings { history: true, ..queue("main", "kept/#") }])
}

#[test]
fn a_reader_that_takes_lz4_gets_it_and_an_old_one_gets_it_expanded() {
    let mut w = world();
    let (new, old) = (w.connect_lz4(1 << 20), w.connect());
    let publisher = w.connect();
    for conn in [new, old] {
        w.send(conn, 1, &subscribe("#"), &[]);
        w.consume(conn, 2, "main", if conn == new { "new" } else { "old" });
        w.credit(conn, 2, 10);
    }
    let record = compressed("kept/a", text().as_bytes(), |r| r.retain = true);
    assert!(record.len() < 400);
    assert_eq!(publish(&mut w, publisher, 1, &record), Ok(Outcome::Stored));
    // Live, and from the queue.
    assert_eq!(came(&mut w, new), [(true, text()), (true, text())]);
    assert_eq!(came(&mut w, old), [(false, text()), (false, text())]);
    // The retained value, and history.
    for (conn, lz4) in [(new, true), (old, false)] {
        w.send(conn, 5, &subscribe("kept/+"), &[]);
        assert_eq!(came(&mut w, conn), [(lz4, text())], "retained");
        w.send(conn, 7, &History { channel: "kept/a", since: Since::Last(1), limit: 0 }, &[]);
        assert_eq!(came(&mut w, conn), [(lz4, text())], "history");
        // Again, and as a dead letter.
        let nack = |give_up| Nack { first: 1 + u64::from(give_up), count: 1, delay_ms: 1, give_up, reason: "" };
        w.send(conn, 2, &nack(false), &[]);
        w.pass(10);
        assert_eq!(came(&mut w, conn), [(lz4, text())], "again");
        w.send(conn, 2, &nack(true), &[]);
        w.send(conn, 2, &Unsubscribe {}, &[]);
        w.frames(conn);
        w.consume(conn, 9, "$dead/main", if conn == new { "new" } else { "old" });
        w.credit(conn, 9, 10);
        assert_eq!(came(&mut w, conn).last(), Some(&(lz4, text())), "dead");
    }
    // What the broker shows is what it means.
    let peek = admin::PeekQuery { name: "$dead/main".into(), count: 10, lane: None };
    let body = serde_json::to_vec(&peek).expect("plain data");
    let head = Request { channel: admin::QUEUE_PEEK, deadline_ms: 1_000, total: body.len() as u32, properties: &[] };
    w.send(old, 11, &head, &body);
    let answer = w.frames(old).into_iter().find(|seen| seen.kind == FrameType::Response).expect("an answer");
    assert_eq!(answer.get::<Response<'_>>().status, 0);
    let found: Vec<admin::PeekItem> = serde_json::from_slice(&answer.payload).expect("items");
    assert!(found[0].payload.as_str().starts_with(TEXT) && found[0].size == text().len() as u64, "{found:?}");
}

#[test]
fn what_lies_of_its_compression_is_refused_and_leaves_no_trace() {
    let mut w = world();
    let c = w.connect();
    let max = w.broker.settings().limits.message_bytes_max as usize;
    // A bomb: small as it comes, larger than a message may be.
    let bomb = compressed("kept/a", &vec![0; max], |r| r.id = super::world::id(1));
    assert!(bomb.len() < 5_000);
    assert_eq!(publish(&mut w, c, 1, &bomb), Err(Code::MessageTooLarge));
    let good = compressed("kept/a", text().as_bytes(), |r| r.id = super::world::id(1));
    let record = Record::decode(&good).expect("a record");
    let with = |payload: &[u8]| {
        let mut bytes = Vec::new();
        Record { payload, ..record }.encode_to(&mut bytes);
        bytes
    };
    let cut = &record.payload[..record.payload.len() - 1];
    let mut longer = postcard::to_stdvec(&(max as u32 / 2)).expect("a number");
    longer.extend_from_slice(&record.payload[2..]);
    let endless = [&b"\xff\xff\xff\xff\x0f"[..], &[0xff; 100]].concat();
    for (number, payload) in (2..).zip([&b""[..], &[0], &[0, 0], cut, &longer, &endless, b"no compression at all"]) {
        assert_eq!(publish(&mut w, c, number, &with(payload)), Err(Code::BadRecord), "{payload:02x?}");
    }
    assert_eq!(w.broker.counters().refused[&Code::BadRecord], 7);
    // Its id was never taken.
    assert_eq!(publish(&mut w, c, 9, &good), Ok(Outcome::Stored));
    assert_eq!(publish(&mut w, c, 10, &good), Ok(Outcome::Duplicate));
}

#[test]
fn the_largest_message_a_reader_takes_holds_for_what_it_expands_to() {
    let mut w = world();
    let (new, old) = (w.connect_lz4(4_000), w.connect_as(false, 4_000));
    let publisher = w.connect();
    for (conn, name) in [(new, "new"), (old, "old")] {
        w.send(conn, 1, &subscribe("#"), &[]);
        w.consume(conn, 2, "main", name);
        w.credit(conn, 2, 10);
    }
    let (large, small) = (compressed("kept/a", text().as_bytes(), |_| {}), compressed("kept/a", &[7; 3_900], |_| {}));
    assert!(large.len() < 4_000);
    assert_eq!(publish(&mut w, publisher, 1, &large), Ok(Outcome::Stored));
    assert_eq!(publish(&mut w, publisher, 2, &small), Ok(Outcome::Stored));
    for (conn, lz4) in [(new, true), (old, false)] {
        let came = came(&mut w, conn);
        assert_eq!(came.len(), 2, "the small one live and from the queue");
        assert!(came.iter().all(|(compressed, text)| *compressed == lz4 && text.len() == 3_900));
    }
    assert_eq!(w.broker.counters().dead, 2, "the large one died of each consumer");
}

#[test]
fn memory_for_slow_readers_is_counted_as_they_get_it() {
    let mut settings = Settings { queues: vec![], ..Settings::default() };
    settings.limits.outbox_bytes_max = 10_000;
    let mut w = World::with(settings);
    let slow = w.connect();
    w.send(slow, 1, &subscribe("#"), &[]);
    w.frames(slow);
    w.reads(slow, false);
    let publisher = w.connect();
    let record = compressed("a", text().as_bytes(), |_| {});
    for number in 1..=20 {
        assert_eq!(publish(&mut w, publisher, number, &record), Ok(Outcome::LiveOnly));
        assert!(w.broker.waiting_bytes(slow) <= 10_500, "{}", w.broker.waiting_bytes(slow));
    }
    w.reads(slow, true);
    assert_eq!(came(&mut w, slow).len(), 2);
}

/// A batch of these records, compressed as a whole: its head, its block and what the head says the block becomes.
fn packed(first: u64, records: &[Vec<u8>]) -> (Batch, Vec<u8>, u32) {
    let (mut payload, mut block) = (Vec::new(), Vec::new());
    records.iter().for_each(|record| append_record(&mut payload, record));
    let len = BatchPacker::default().pack(&payload, &mut block).expect("it repeats");
    (Batch { contract: Contract::Queue, first, count: records.len() as u32 }, block, len)
}

fn send_packed(w: &mut World, conn: ConnId, head: Batch, block: &[u8], len: &[u8]) {
    w.send_extended::<Batch>(conn, 1, head, &[Extension { tag: EXTENSION_LZ4, value: len }], block);
}

fn varint(len: u32) -> Vec<u8> {
    postcard::to_stdvec(&len).expect("a number")
}

#[test]
fn a_welcome_says_that_batches_may_be_compressed() {
    let mut w = World::new(vec![queue("main", "#")]);
    let conn = w.connect_raw(true);
    w.send(conn, 0, &super::world::HELLO, &[]);
    let welcome = w.expect(conn);
    let (_, rest) = postcard::take_from_bytes::<crate::wire::Welcome<'_>>(&welcome.head).expect("a head");
    let (tag, value): (u32, &[u8]) = postcard::from_bytes(rest).expect("an extension");
    assert_eq!((tag, value), (EXTENSION_ENCODINGS, &[ENCODING_LZ4, ENCODING_LZ4_BATCH][..]));
}

#[test]
fn a_batch_that_is_compressed_as_a_whole_is_kept_as_the_records_it_holds() {
    let mut w = World::new(vec![queue("main", "#")]);
    let conn = w.connect();
    let texts: Vec<String> = (0..50).map(|n| format!("{n} {TEXT}")).collect();
    let plain: Vec<Vec<u8>> = texts.iter().map(|text| super::world::record("a", text, |_| {})).collect();
    let (head, block, len) = packed(1, &plain);
    assert!(block.len() * 4 < len as usize, "{} of {len}", block.len());
    send_packed(&mut w, conn, head, &block, &varint(len));
    assert_eq!(w.verdicts(conn).len(), 50);
    let reader = w.connect();
    w.consume(reader, 2, "main", "c");
    w.credit(reader, 2, 100);
    assert_eq!(w.texts(reader), texts);
    // Records that are compressed themselves stay so within.
    let within: Vec<Vec<u8>> = (0..9).map(|_| compressed("a", text().as_bytes(), |_| {})).collect();
    let (head, block, len) = packed(51, &within);
    send_packed(&mut w, conn, head, &block, &varint(len));
    assert_eq!(w.verdicts(conn).len(), 9);
    assert_eq!(w.texts(reader), vec![text(); 9]);
}

#[test]
fn windows_and_rates_count_a_compressed_batch_as_what_it_becomes() {
    let mut settings = Settings { queues: vec![queue("main", "#")], ..Settings::default() };
    settings.limits.rates.bytes_per_second = 10_000;
    let mut w = World::with(settings);
    let conn = w.connect();
    let plain: Vec<Vec<u8>> = (0..100).map(|_| super::world::record("a", &TEXT.repeat(10), |_| {})).collect();
    let (head, block, len) = packed(1, &plain);
    assert!(block.len() < 5_000 && len > 40_000, "{} {len}", block.len());
    send_packed(&mut w, conn, head, &block, &varint(len));
    let stored = w.verdicts(conn).iter().filter(|(_, v)| *v == Ok(Outcome::Stored)).count();
    assert!((10..60).contains(&stored), "{stored} of 100 within ten thousand bytes a second");
}

#[test]
fn a_compressed_batch_that_lies_ends_the_session_and_leaves_nothing() {
    let mut w = World::new(vec![queue("main", "#")]);
    let plain: Vec<Vec<u8>> = (0..20).map(|_| super::world::record("a", TEXT, |_| {})).collect();
    let (head, block, len) = packed(1, &plain);
    let bomb = {
        let mut bomb = Vec::new();
        BatchPacker::default().pack(&vec![0; BATCH_EXPANDED_BYTES_MAX], &mut bomb).expect("zeros");
        bomb
    };
    let over = BATCH_EXPANDED_BYTES_MAX as u32 + 1;
    let lies = [
        (head, &block[..], varint(len - 1), Code::BadPayload),
        (head, &block, varint(len + 1), Code::BadPayload),
        (head, &block, varint(0), Code::BadPayload),
        (head, &block, varint(u32::MAX), Code::BadPayload),
        (head, &block[..block.len() - 1], varint(len), Code::BadPayload),
        (head, &[], varint(len), Code::BadPayload),
        (head, &bomb, varint(over), Code::BadPayload),
        (head, &bomb, varint(over - 1), Code::BadPayload),
        (Batch { count: 19, ..head }, &block, varint(len), Code::BadPayload),
        (Batch { count: 21, ..head }, &block, varint(len), Code::BadPayload),
        (Batch { count: 0, ..head }, &block, varint(len), Code::BadPayload),
        (head, &block, vec![], Code::BadHead),
        (head, &block, vec![0x80], Code::BadHead),
        (head, &block, [varint(len), vec![0]].concat(), Code::BadHead),
    ];
    for (n, (head, block, len, code)) in lies.into_iter().enumerate() {
        let conn = w.connect();
        send_packed(&mut w, conn, head, block, &len);
        assert_eq!(w.expect_error(conn), code, "{n}");
        assert!(w.is_closed(conn));
    }
    // Nobody who has not said hello makes the broker expand anything.
    let stranger = w.connect_raw(true);
    send_packed(&mut w, stranger, head, &block, &varint(len));
    assert_eq!(w.expect_error(stranger), Code::HelloExpected);
    assert_eq!(w.held_by("", "main"), Vec::<String>::new());
}

#[test]
fn where_batches_are_expanded_is_given_back_when_none_come() {
    let mut w = World::new(vec![queue("main", "#")]);
    let conn = w.connect();
    let plain: Vec<Vec<u8>> = (0..20).map(|_| super::world::record("a", TEXT, |_| {})).collect();
    let (head, block, len) = packed(1, &plain);
    send_packed(&mut w, conn, head, &block, &varint(len));
    assert!(w.broker.unpacked_bytes() >= len as usize);
    w.pass(5_000);
    assert_eq!(w.broker.unpacked_bytes(), 0);
}
