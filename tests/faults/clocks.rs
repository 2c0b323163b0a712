//! Wall clocks that jump by fifty years either way while the broker runs, and a box that begins in 1970.

use super::broker::{Broker, Place, Setup, wait_until};
use super::load::{Load, Publisher};
use super::preload::{Fault, Preload};
use super::raw::{self, PATIENCE, Raw, record_with};
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};
use tidegate::model::{MessageId, Record};
use tidegate::wire::{Ack, Consume, Contract, Deliver, DeliverItems, FrameType, Outcome, PublishAck, item_flag};

const HOUR_MS: u32 = 3_600_000;
const YEARS_50: i64 = 50 * 365 * 86_400;
const CONFIG: &str = "
store: {ack_linger: 20ms}
queues:
  - {name: main, capture: [load, aged/#, ttl/#, late/#]}
  - {name: short, capture: [aged/#], limits: {age: 1h}}
  - {name: brief, capture: [brief]}
";

fn setup(preload: &Preload, place: &Place) -> Setup {
    Setup { config: CONFIG.into(), env: preload.env(&place.data()), ..Setup::default() }
}

/// A delivery: when it was stored, whether it carries the flag, its tag, and the payload.
struct Got {
    stored_ms: u64,
    again: bool,
    tag: u64,
    payload: Vec<u8>,
}

/// A consumer of a queue with all the credit it wants.
struct Reader {
    raw: Raw,
    got: VecDeque<Got>,
}

impl Reader {
    fn open(broker: &Broker<'_>, queue: &str, name: &str, ack_timeout_ms: u32) -> Self {
        let mut raw = Raw::open(broker.address);
        raw.send(1, &Consume { ack_timeout_ms, ..raw::consume(queue, name, 1_000_000) }, &[]);
        raw.expect(FrameType::Ok);
        Self { raw, got: VecDeque::new() }
    }

    fn next(&mut self) -> Got {
        while self.got.is_empty() {
            let got = self.raw.expect(FrameType::Deliver);
            let head: Deliver = got.head();
            let items = DeliverItems::parse(&got.payload, head.count, head.total).expect("well-formed");
            self.got.extend(items.enumerate().map(|(i, item)| Got {
                stored_ms: item.stored_ms,
                again: item.flags & item_flag::REDELIVERED != 0,
                tag: head.first_tag + i as u64,
                payload: Record::decode(item.record).expect("well-formed").payload.to_vec(),
            }));
        }
        self.got.pop_front().expect("not empty")
    }

    fn takes(&mut self) -> Got {
        let got = self.next();
        self.raw.send(1, &Ack { first: got.tag, count: 1 }, &[]);
        got
    }
}

/// A publisher of single messages, each payload the channel's name.
struct Writer {
    raw: Raw,
    number: u64,
}

impl Writer {
    fn open(broker: &Broker<'_>) -> Self {
        Self { raw: Raw::open(broker.address), number: 0 }
    }

    fn put(&mut self, id: u8, channel: &str, ttl_ms: u32, delay_ms: u32) -> Outcome {
        self.number += 1;
        let record =
            record_with(channel, channel.as_bytes(), |r| Record { id: MessageId([id; 16]), ttl_ms, delay_ms, ..r });
        self.raw.publish(1, self.number, Contract::Disk, &record);
        let got = self.raw.expect(FrameType::PublishAck);
        got.head::<PublishAck>().outcome
    }

    fn stores(&mut self, id: u8, channel: &str, ttl_ms: u32, delay_ms: u32) {
        assert_eq!(self.put(id, channel, ttl_ms, delay_ms), Outcome::Stored);
    }
}

#[test]
fn jumps_of_fifty_years_lose_nothing_and_stop_nothing() {
    let Some(preload) = Preload::build("a clock that jumps") else { return };
    let place = Place::new();
    let broker = place.start(&setup(&preload, &place));
    let mut load = Load::start(broker.address, &[Publisher::default(); 2]);
    load.consume();
    let mut writer = Writer::open(&broker);
    let mut number = 0;
    let mut next = || {
        number += 1;
        number
    };
    // They have their messages kept until the end.
    Raw::open(broker.address).consume(1, "main", "late", 0);
    Raw::open(broker.address).consume(1, "short", "afterwards", 0);
    // Open before and after, so that it sees the jumps.
    let mut holder = Reader::open(&broker, "short", "holder", 1_500);
    for jump in [YEARS_50, -YEARS_50, 0, YEARS_50, 0] {
        load.progresses(50);
        let (aged, ttl) = (next(), next());
        writer.stores(aged, "aged/one", 0, 0);
        writer.stores(ttl, "ttl/hour", HOUR_MS, 0);
        writer.stores(next(), "late/second", 0, 1_000);
        writer.stores(next(), "late/hour", 0, HOUR_MS);
        let held = holder.next();
        assert!(!held.again);
        preload.set(Fault::ClockSeconds, jump);
        // Everybody goes on: publishers, the consumer, this session.
        load.progresses(50);
        // The dedupe window is of time that passes, and none did.
        assert_eq!(writer.put(aged, "aged/one", 0, 0), Outcome::Duplicate);
        // What was not acknowledged comes again after its timeout, flagged.
        let again = holder.takes();
        assert!(again.again && again.payload == held.payload, "jump {jump}");
    }
    // A clock that was set says nothing about a message's age: nothing was too old.
    let mut late = Reader::open(&broker, "main", "late", 0);
    let mut counts = [0; 3];
    let began = Instant::now();
    while counts != [5; 3] {
        assert!(began.elapsed() < PATIENCE, "{counts:?} of five each");
        let got = late.raw.expect(FrameType::Deliver);
        let head: Deliver = got.head();
        for item in DeliverItems::parse(&got.payload, head.count, head.total).expect("well-formed") {
            let channel = Record::decode(item.record).expect("well-formed").channel;
            assert_ne!(channel.as_str(), "late/hour", "an hour has not passed");
            let kinds = ["aged/one", "ttl/hour", "late/second"];
            kinds.iter().position(|k| *k == channel.as_str()).into_iter().for_each(|k| counts[k] += 1);
        }
        late.raw.send(1, &Ack { first: head.first_tag, count: head.count }, &[]);
    }
    let mut short = Reader::open(&broker, "short", "afterwards", 0);
    for _ in 0..5 {
        assert_eq!(short.takes().payload, b"aged/one");
    }
    // Time that does pass counts as ever.
    let expired = |broker: &Broker<'_>| broker.status()["counters"]["expired"].as_u64().expect("a number");
    assert_eq!(expired(&broker), 0);
    writer.stores(next(), "brief", 300, 0);
    // Time is what is waited for here.
    std::thread::sleep(Duration::from_millis(500));
    let brief = Reader::open(&broker, "brief", "reader", 0);
    wait_until("it expires", || expired(&broker) > 0);
    drop(brief);
    println!("{}", load.finish());
    broker.stop();
}

#[test]
fn a_box_that_begins_in_1970_delivers_and_its_clock_never_runs_back() {
    let Some(preload) = Preload::build("a box without a clock") else { return };
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a sane clock").as_secs() as i64;
    let unset = 20 - since_1970;
    let place = Place::new();
    preload.set(Fault::ClockSeconds, unset);
    let broker = place.start(&setup(&preload, &place));
    Raw::open(broker.address).consume(1, "main", "reader", 0);
    Raw::open(broker.address).consume(1, "short", "reader", 0);
    let mut writer = Writer::open(&broker);
    writer.stores(1, "aged/1970", 0, 0);
    writer.stores(2, "ttl/1970", HOUR_MS, 0);
    writer.stores(3, "late/1970", 0, 1_000);
    let mut reader = Reader::open(&broker, "main", "reader", 0);
    let first = reader.takes();
    assert!(first.stored_ms < 1_000_000, "it was 1970: {}", first.stored_ms);
    drop(reader);
    preload.set(Fault::ClockSeconds, unset - 15);
    // The power fails, and it begins in 1970 again, even earlier: time goes on from where it was known to be.
    broker.kill();
    let broker = place.start(&setup(&preload, &place));
    let mut writer = Writer::open(&broker);
    writer.stores(4, "aged/again", 0, 0);
    // Then the time comes from the network.
    preload.set(Fault::ClockSeconds, 0);
    writer.stores(5, "aged/now", 0, 0);
    let mut stored = vec![first.stored_ms];
    let mut payloads = vec![first.payload];
    let mut reader = Reader::open(&broker, "main", "reader", 0);
    while payloads.len() < 5 {
        let got = reader.takes();
        if !payloads.contains(&got.payload) {
            payloads.push(got.payload);
            stored.push(got.stored_ms);
        }
    }
    assert!(
        stored.last().expect("five") / 1_000 + 60 > since_1970 as u64,
        "what comes now has today's time: {stored:?}"
    );
    // Not too old for a queue that keeps an hour, either.
    let mut short = Reader::open(&broker, "short", "reader", 0);
    let aged: Vec<_> = (0..3).map(|_| short.takes().payload).collect();
    assert_eq!(aged, [&b"aged/1970"[..], b"aged/again", b"aged/now"]);
    drop((reader, short));
    // Without the network's time it begins in 1970 once more, after today.
    broker.stop();
    preload.set(Fault::ClockSeconds, unset);
    let broker = place.start(&setup(&preload, &place));
    broker.says(&["WARN", "the machine's clock is", "behind the last time known here"]);
    Writer::open(&broker).stores(6, "aged/later", 0, 0);
    let later = Reader::open(&broker, "main", "reader", 0).takes();
    assert_eq!(later.payload, b"aged/later");
    assert!(later.stored_ms >= *stored.last().expect("five"), "the clock ran back");
    broker.stop();
}
