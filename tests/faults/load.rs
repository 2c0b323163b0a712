//! Publishers and a consumer at work while something goes wrong, and what must be true of them afterwards: nothing
//! acknowledged is missing, nothing is there twice, and each publisher's messages are in its order.

use super::broker::{wait_for, wait_until};
use super::raw::{self, Raw, record_with};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tidegate::model::{MessageId, Priority, Record};
use tidegate::wire::{Ack, Code, Contract, Deliver, DeliverItems, FrameType, PublishAck, PublishNack, item_flag};

/// A session on which nothing comes for so long while an answer is owed is given up.
const QUIET: Duration = Duration::from_secs(30);
/// Longest wait a refusal is believed, in milliseconds: tests are in a hurry.
const RETRY_MS_MAX: u32 = 100;

/// Who publishes, and what.
#[derive(Clone, Copy, Debug)]
pub struct Publisher {
    /// Priority of its messages.
    pub priority: u8,
    /// Bytes of each.
    pub bytes: usize,
    /// Messages under way at a time.
    pub window: u64,
    /// Pause after each answer.
    pub pause: Duration,
}

impl Default for Publisher {
    fn default() -> Self {
        Self { priority: 4, bytes: 200, window: 32, pause: Duration::ZERO }
    }
}

/// Where a message is: epoch, lane, sequence.
type At = (u64, u8, u64);
/// Which it is: publisher, number.
type What = (u64, u64);

/// What the threads share.
#[derive(Default)]
struct Shared {
    place: Mutex<Option<SocketAddr>>,
    publishers_end: AtomicBool,
    consumer_ends: AtomicBool,
    /// Acknowledged messages of each publisher.
    acked: Vec<AtomicU64>,
    /// Refusals by code, and the shortest wait each asked for.
    refusals: Mutex<BTreeMap<&'static str, (u64, u32)>>,
    rows: Mutex<Vec<(At, What)>>,
    seen: Mutex<BTreeSet<What>>,
    flagged: AtomicU64,
    /// Deliveries of something that was delivered before, without the flag.
    unflagged: AtomicU64,
}

/// The load on one broker.
pub struct Load {
    shared: Arc<Shared>,
    publishers: Vec<JoinHandle<()>>,
    consumer: Option<JoinHandle<()>>,
}

impl Load {
    /// Publishers at work on the broker at `address`. The consumer comes with [`Load::consume`]; it exists from now on.
    pub fn start(address: SocketAddr, publishers: &[Publisher]) -> Self {
        let acked = publishers.iter().map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { place: Mutex::new(Some(address)), acked, ..Shared::default() });
        Raw::open(address).consume(1, "main", "reader", 0);
        let spawn = |(number, publisher): (usize, &Publisher)| {
            let (shared, publisher) = (Arc::clone(&shared), *publisher);
            std::thread::spawn(move || publish(&shared, number, publisher))
        };
        let publishers = publishers.iter().enumerate().map(spawn).collect();
        Self { shared, publishers, consumer: None }
    }

    /// The consumer begins.
    pub fn consume(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.consumer = Some(std::thread::spawn(move || consume(&shared)));
    }

    /// The broker is somewhere else now, or nowhere.
    pub fn moved(&self, address: Option<SocketAddr>) {
        *self.shared.place.lock().expect("nobody panics with it") = address;
    }

    /// Messages of a publisher acknowledged so far.
    pub fn acked(&self, publisher: usize) -> u64 {
        self.shared.acked[publisher].load(Ordering::SeqCst)
    }

    /// Messages of all acknowledged so far.
    pub fn acked_by_all(&self) -> u64 {
        (0..self.shared.acked.len()).map(|p| self.acked(p)).sum()
    }

    /// Waits until each publisher has `more` acknowledged than now.
    pub fn progresses(&self, more: u64) {
        for publisher in 0..self.shared.acked.len() {
            self.one_progresses(publisher, more);
        }
    }

    /// Waits until one publisher has `more` acknowledged than now.
    pub fn one_progresses(&self, publisher: usize, more: u64) {
        let from = self.acked(publisher);
        wait_until(&format!("publisher {publisher} goes on from {from}"), || self.acked(publisher) >= from + more);
    }

    /// How often this was the answer, and the shortest wait it asked for, in milliseconds.
    pub fn refusals(&self, code: Code) -> (u64, u32) {
        self.shared.refusals.lock().expect("nobody panics with it").get(code.name()).copied().unwrap_or_default()
    }

    /// Waits for one more refusal with one of these codes.
    pub fn is_refused(&self, codes: &[Code]) {
        let count = || codes.iter().map(|c| self.refusals(*c).0).sum::<u64>();
        let before = count();
        wait_until(&format!("{codes:?}"), || count() > before);
    }

    /// Different messages the consumer has seen.
    pub fn seen(&self) -> usize {
        self.shared.seen.lock().expect("nobody panics with it").len()
    }

    /// The publishers end; then everything acknowledged must come to the consumer, once and in order.
    pub fn finish(mut self) -> String {
        self.shared.publishers_end.store(true, Ordering::SeqCst);
        for publisher in self.publishers.drain(..) {
            publisher.join().expect("a publisher ends");
        }
        if self.consumer.is_none() {
            self.consume();
        }
        let total: u64 = self.acked_by_all();
        let missing = || {
            let seen = self.shared.seen.lock().expect("nobody panics with it");
            (0..self.shared.acked.len())
                .flat_map(|p| (0..self.acked(p)).map(move |n| (p as u64, n)))
                .find(|what| !seen.contains(what))
        };
        wait_for(&format!("all {total} acknowledged come"), || missing().is_none().then_some(()));
        self.shared.consumer_ends.store(true, Ordering::SeqCst);
        self.consumer.take().expect("it began").join().expect("the consumer ends");
        let mut rows = std::mem::take(&mut *self.shared.rows.lock().expect("nobody panics with it"));
        let deliveries = rows.len();
        rows.sort_unstable();
        rows.dedup();
        let places: BTreeSet<At> = rows.iter().map(|(at, _)| *at).collect();
        assert_eq!(places.len(), rows.len(), "a sequence stood for two messages");
        for publisher in 0..self.shared.acked.len() {
            let own: Vec<u64> = rows.iter().filter(|(_, w)| w.0 == publisher as u64).map(|(_, w)| w.1).collect();
            // What was under way at the end may be there, too.
            let all: Vec<u64> = (0..own.len() as u64).collect();
            assert!(own == all, "publisher {publisher}: missing, twice or out of order");
            assert!(own.len() as u64 >= self.acked(publisher));
        }
        assert_eq!(self.shared.unflagged.load(Ordering::SeqCst), 0, "a second delivery without the flag");
        let refusals = self.shared.refusals.lock().expect("nobody panics with it").clone();
        let flagged = self.shared.flagged.load(Ordering::SeqCst);
        format!("{total} acknowledged, {deliveries} deliveries, {flagged} flagged, refusals {refusals:?}")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.publishers_end.store(true, Ordering::SeqCst);
        self.shared.consumer_ends.store(true, Ordering::SeqCst);
    }
}

/// A message with an id of its own.
pub fn message(publisher: u64, n: u64, shape: Publisher) -> Vec<u8> {
    let mut id = [1; 16];
    id[..8].copy_from_slice(&publisher.to_be_bytes());
    id[8..].copy_from_slice(&n.to_be_bytes());
    let mut payload = vec![n as u8; shape.bytes.max(16)];
    payload[..8].copy_from_slice(&publisher.to_be_bytes());
    payload[8..16].copy_from_slice(&n.to_be_bytes());
    let priority = Priority::new(shape.priority).expect("0 to 9");
    record_with("load", &payload, |r| Record { id: MessageId(id), priority, ..r })
}

fn open(shared: &Shared) -> Option<Raw> {
    let address = *shared.place.lock().expect("nobody panics with it");
    let opened = address.and_then(Raw::try_open);
    if opened.is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    opened
}

/// Publishes in order until told to end; after a refusal or a lost connection again from the first unacknowledged on, under the
/// same ids.
fn publish(shared: &Shared, number: usize, shape: Publisher) {
    let ends = || shared.publishers_end.load(Ordering::SeqCst);
    // Messages below are acknowledged.
    let mut done = 0;
    while !ends() {
        let Some(mut raw) = open(shared) else { continue };
        let mut next = done;
        let mut refused: Option<u32> = None;
        // Answers owed.
        let mut owed = 0;
        loop {
            if owed == 0 {
                if let Some(wait_ms) = refused.take() {
                    std::thread::sleep(Duration::from_millis(u64::from(wait_ms.min(RETRY_MS_MAX))));
                    next = done;
                }
                if ends() {
                    return;
                }
            }
            while refused.is_none() && !ends() && owed < shape.window {
                raw.publish(1, next, Contract::Disk, &message(number as u64, next, shape));
                (next, owed) = (next + 1, owed + 1);
            }
            if owed == 0 {
                continue;
            }
            let Ok(got) = raw.poll(QUIET) else { break };
            match got.kind {
                FrameType::PublishAck => {
                    let head: PublishAck = got.head();
                    assert_eq!(head.first, done, "publisher {number}: acknowledged in order");
                    done += u64::from(head.count);
                    owed -= u64::from(head.count);
                    shared.acked[number].store(done, Ordering::SeqCst);
                }
                FrameType::PublishNack => {
                    let head: PublishNack<'_> = got.head();
                    let code = Code::from_u16(head.code).expect("a code of the page");
                    assert!(code.is_retryable(), "{code}: {}", head.detail);
                    let mut refusals = shared.refusals.lock().expect("nobody panics with it");
                    let entry = refusals.entry(code.name()).or_insert((0, u32::MAX));
                    *entry = (entry.0 + 1, entry.1.min(head.retry_after_ms));
                    owed -= u64::from(head.count);
                    refused = Some(refused.unwrap_or(0).max(head.retry_after_ms));
                }
                // The store was opened anew, or the broker ends.
                FrameType::Error | FrameType::Goaway | FrameType::Close => break,
                _ => panic!("{}", got.words()),
            }
            if !shape.pause.is_zero() {
                std::thread::sleep(shape.pause);
            }
        }
    }
}

/// Consumes and acknowledges, with reconnects, until told to end.
fn consume(shared: &Shared) {
    let ends = || shared.consumer_ends.load(Ordering::SeqCst);
    while !ends() {
        let Some(mut raw) = open(shared) else { continue };
        raw.send(1, &raw::consume("main", "reader", 1_000_000), &[]);
        if !raw.poll(QUIET).is_ok_and(|got| got.kind == FrameType::Ok) {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        while !ends() {
            let got = match raw.poll(Duration::from_millis(200)) {
                Ok(got) if got.kind == FrameType::Deliver => got,
                Err(raw::Nothing::Quiet) => continue,
                _ => break,
            };
            let head: Deliver = got.head();
            let items = DeliverItems::parse(&got.payload, head.count, head.total).expect("a well-formed delivery");
            let mut rows = shared.rows.lock().expect("nobody panics with it");
            let mut seen = shared.seen.lock().expect("nobody panics with it");
            for item in items {
                let record = Record::decode(item.record).expect("a well-formed record");
                if record.channel.as_str() != "load" {
                    continue;
                }
                let payload = record.payload;
                let at = |i: usize| u64::from_be_bytes(payload[i..i + 8].try_into().expect("eight"));
                let what = (at(0), at(8));
                assert!(payload[16..].iter().all(|&b| b == what.1 as u8), "a payload is not what was published");
                let flag = item.flags & item_flag::REDELIVERED != 0;
                shared.flagged.fetch_add(u64::from(flag), Ordering::SeqCst);
                shared.unflagged.fetch_add(u64::from(!seen.insert(what) && !flag), Ordering::SeqCst);
                rows.push(((head.epoch, item.lane, item.seq), what));
            }
            drop((rows, seen));
            raw.send(1, &Ack { first: head.first_tag, count: head.count }, &[]);
        }
    }
}
