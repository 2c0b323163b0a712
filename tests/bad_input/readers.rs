//! Clients that never read: the broker holds no more for them than it said.

use super::child::Child;
use super::raw::{Raw, Stream as _, consume, frame, record};
use super::{Daemon, queue};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tidegate::config::Settings;
use tidegate::daemon::testing;
use tidegate::wire::{Code, Consume, Contract, Credit, Dropped, FrameType, Ping, PublishAck, Since, Subscribe};

const PAYLOAD_BYTES: usize = 8 * 1_024;
const OUTBOX_BYTES: u32 = 256 * 1_024;
/// What a process may grow by for a bounded outbox, a page or two and what the allocator keeps.
const GROWTH_BYTES_MAX: u64 = 4 * 1_024 * 1_024;

/// The daemon of the tests below.
pub fn settings(folder: &Path) -> Settings {
    let mut settings = testing::settings(folder);
    settings.limits.outbox_bytes_max = OUTBOX_BYTES;
    settings.queues = vec![queue("work", "work/#", |q| q.window = 1_000_000)];
    settings
}

struct Broker {
    child: Child,
    folder: TempDir,
    address: std::net::SocketAddr,
}

impl Broker {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut child = Child::start("readers", folder.path());
        let address = child.address();
        Self { child, folder, address }
    }

    fn admin(&self) -> Raw {
        let mut raw = Raw::unix(&self.folder.path().join("tidegate.sock"));
        raw.hello(60_000);
        raw
    }

    fn stop(mut self) {
        assert_eq!(self.child.ask("stop"), "stopped well");
    }
}

/// Publishes `count` messages, the number of each in its first four bytes.
fn publish(raw: &mut Raw, channel: &str, from: u32, count: u32) {
    let mut acked = 0;
    for n in 0..count {
        let mut payload = [0; PAYLOAD_BYTES];
        payload[..4].copy_from_slice(&n.to_be_bytes());
        raw.publish(1, u64::from(from + n), Contract::Queue, &record(channel, &payload));
        while n + 1 - acked >= 64 {
            acked += raw.expect(FrameType::PublishAck).head::<PublishAck>().count;
        }
    }
    while acked < count {
        acked += raw.expect(FrameType::PublishAck).head::<PublishAck>().count;
    }
}

#[test]
fn a_subscriber_that_never_reads_loses_messages_or_its_session_as_it_chose() {
    const MESSAGES: u32 = 3_000;
    let broker = Broker::start();
    let mut publisher = Raw::open(broker.address);
    publish(&mut publisher, "live", 1, 64);
    let subscribe = |disconnect_when_slow| Subscribe {
        filter: "live",
        retained: false,
        since: Since::Now,
        respond: false,
        disconnect_when_slow,
    };
    let mut told = Raw::open(broker.address);
    told.send(1, &subscribe(false), &[]);
    told.expect(FrameType::Ok);
    let mut cut = Raw::open(broker.address);
    cut.send(1, &subscribe(true), &[]);
    cut.expect(FrameType::Ok);
    let before = broker.child.resident_bytes();
    publish(&mut publisher, "live", 65, MESSAGES);
    let grown = broker.child.resident_bytes().saturating_sub(before);
    println!(
        "two subscribers that do not read {} MiB: {} KiB more",
        (MESSAGES as usize * PAYLOAD_BYTES) >> 20,
        grown >> 10
    );
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more");

    // The one is told exactly what it lost, where it lost it.
    let (mut heard, mut lost, mut next) = (0, 0, 0);
    while heard + lost < u64::from(MESSAGES) {
        told.peek(super::raw::PATIENCE).expect("all is heard or told");
        let got = told.peeked();
        if got.kind == FrameType::Dropped {
            let head: Dropped = told.next().head();
            assert_eq!(head.code, Code::SlowReader as u16);
            assert!(head.bytes >= head.count * PAYLOAD_BYTES as u64);
            lost += head.count;
            next += head.count as u32;
            continue;
        }
        for (_, payload, _) in told.delivery() {
            let n = u32::from_be_bytes(payload[..4].try_into().expect("four"));
            assert_eq!(n, next, "what is not here was told before");
            (heard, next) = (heard + 1, n + 1);
        }
    }
    println!("heard {heard}, told of {lost} lost");
    assert!(lost > 0);
    // The other gets what was on its way and then the reason.
    loop {
        let got = cut.next();
        if got.kind == FrameType::Error {
            assert_eq!((got.code(), got.stream), (Code::SlowReader, 0));
            break;
        }
        assert_eq!(got.kind, FrameType::Deliver);
    }
    broker.stop();
}

#[test]
fn a_consumer_that_never_reads_costs_a_bounded_outbox_and_loses_nothing() {
    const MESSAGES: u32 = 2_500;
    let broker = Broker::start();
    let mut publisher = Raw::open(broker.address);
    publish(&mut publisher, "work/1", 1, MESSAGES);
    let before = broker.child.resident_bytes();
    let mut lazy = Raw::open(broker.address);
    let most =
        Consume { credit_messages: 1_000_000, credit_bytes: 1 << 30, window: 1_000_000, ..consume("work", "lazy", 1) };
    lazy.send(1, &most, &[]);
    lazy.expect(FrameType::Ok);
    // The kernel's buffers fill and then the outbox; until nothing moves any more.
    let mut admin = broker.admin();
    let mut last = (0, 0);
    while last.1 < 20 {
        let delivered = admin.status()["counters"]["delivered"].as_u64().expect("counted");
        last = if delivered == last.0 { (delivered, last.1 + 1) } else { (delivered, 0) };
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!((1..u64::from(MESSAGES)).contains(&last.0), "{} delivered", last.0);
    let grown = broker.child.resident_bytes().saturating_sub(before);
    println!("a consumer that does not read, {} under way: {} KiB more", last.0, grown >> 10);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more");
    publish(&mut publisher, "work/2", MESSAGES + 1, 10);
    let mut seen = 0;
    while seen < MESSAGES + 10 {
        for (_, payload, _) in lazy.delivery() {
            let n = u32::from_be_bytes(payload[..4].try_into().expect("four"));
            assert_eq!(n, if seen < MESSAGES { seen } else { seen - MESSAGES });
            seen += 1;
        }
    }
    broker.stop();
}

#[test]
fn a_peer_that_only_asks_and_never_reads_is_not_read_from_and_then_let_go() {
    let broker = Broker::start();
    let mut admin = broker.admin();
    let mut witness = Raw::open(broker.address);
    let mut flood = TcpStream::connect(broker.address).expect("connected");
    let mut hello = frame(0, 0, 0, &super::raw::hello(100), &[]);
    std::io::Write::write_all(&mut flood, &hello).expect("sent");
    admin.wait_for_status("connections", |n| n == 3);
    let before = broker.child.resident_bytes();
    flood.set_write_timeout(Some(Duration::from_millis(200))).expect("set");
    let mut sequence = 1;
    let mut sent = 0;
    loop {
        hello.clear();
        for _ in 0..1_000 {
            hello.extend(frame(0, 0, sequence, &Ping { nonce: u64::from(sequence) }, &[]));
            sequence += 1;
        }
        if std::io::Write::write_all(&mut flood, &hello).is_err() {
            break;
        }
        sent += hello.len();
        assert!(sent < 64 << 20, "the broker goes on reading what nobody hears the answer of");
    }
    let grown = broker.child.resident_bytes().saturating_sub(before);
    println!("{} KiB of pings taken before it was held: {} KiB more", sent >> 10, grown >> 10);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes more");
    witness.publishes(1, 1, "work/well");
    // Three heartbeats of 100 ms without taking anything, and two seconds for the last bytes.
    admin.wait_for_status("connections", |n| n == 2);
    flood.end();
    broker.stop();
}

#[test]
fn paused_and_without_credit_nothing_is_sent() {
    let daemon = Daemon::start(|_| ());
    let mut publisher = daemon.open();
    publisher.publishes(1, 1, "a");
    let mut reader = daemon.open();
    reader.consume(1, "main", "c", 0);
    assert!(reader.peek(Duration::from_millis(100)).is_err());
    reader.send(1, &tidegate::wire::Pause { code: 0 }, &[]);
    reader.send(1, &Credit { messages: 1, bytes: 0 }, &[]);
    assert!(reader.peek(Duration::from_millis(100)).is_err());
    reader.send(1, &tidegate::wire::Resume {}, &[]);
    assert_eq!(reader.delivery().len(), 1);
    publisher.publishes(1, 2, "a");
    assert!(reader.peek(Duration::from_millis(100)).is_err(), "its credit is spent");
    daemon.stop();
}
