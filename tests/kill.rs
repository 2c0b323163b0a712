//! The daemon is killed at moments nobody chose and started again: nothing acknowledged is missing, nothing is there twice,
//! and each publisher's messages are in its order.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

#[path = "support/child.rs"]
mod child;
#[path = "support/raw.rs"]
mod raw;

use child::Child;
use raw::{PATIENCE, Raw, record_with};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidegate::daemon::testing;
use tidegate::model::{MessageId, Record};
use tidegate::wire::{Ack, Code, Contract, FrameType, Outcome, PublishAck, PublishNack};

const PUBLISHERS: u64 = 3;
/// Messages of each publisher.
const MESSAGES: u64 = 10_000;
/// Under way at a time.
const WINDOW: u64 = 64;
const KILLS: usize = 5;

/// Not a test: what other tests start in a process of its own.
#[test]
#[ignore = "started by other tests in a process of its own"]
fn a_part_of_another_test() {
    let (_, folder) = child::role().expect("started by another test");
    let mut settings = testing::settings(&folder);
    // Acknowledged or not, a message is delivered again after a kill only if its consumer's row was not yet written.
    settings.store.ack_linger_ms = 20;
    child::serve(settings)
}

fn id(publisher: u64, n: u64) -> MessageId {
    let mut id = [1; 16];
    id[..8].copy_from_slice(&publisher.to_be_bytes());
    id[8..].copy_from_slice(&n.to_be_bytes());
    MessageId(id)
}

fn message(publisher: u64, n: u64) -> Vec<u8> {
    let mut payload = [0; 200];
    payload[..8].copy_from_slice(&publisher.to_be_bytes());
    payload[8..16].copy_from_slice(&n.to_be_bytes());
    record_with("kill", &payload, |r| Record { id: id(publisher, n), ..r })
}

fn read(payload: &[u8]) -> (u64, u64) {
    let at = |i: usize| u64::from_be_bytes(payload[i..i + 8].try_into().expect("eight"));
    (at(0), at(8))
}

/// What became of all publishers together.
#[derive(Default)]
struct Tally {
    acked: AtomicCount,
    duplicates: AtomicCount,
}

#[derive(Default)]
struct AtomicCount(std::sync::atomic::AtomicU64);

impl AtomicCount {
    fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where the daemon is now.
type Place = Mutex<SocketAddr>;

/// Publishes all messages in order; after each lost connection again from the first unacknowledged on, under the same ids.
fn publish_all(place: &Place, publisher: u64, tally: &Tally) {
    // Messages below are acknowledged.
    let mut done = 0;
    let began = Instant::now();
    while done < MESSAGES {
        assert!(began.elapsed() < 3 * PATIENCE, "publisher {publisher} stays at {done}");
        let address = *place.lock().expect("nobody panics with it");
        let Some(mut raw) = Raw::try_open(address) else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let mut next = done;
        'session: while done < MESSAGES {
            while next < MESSAGES && next - done < WINDOW {
                let record = message(publisher, next);
                raw.publish(1, next, Contract::Disk, &record);
                next += 1;
            }
            let Ok(got) = raw.poll(PATIENCE) else { break 'session };
            match got.kind {
                FrameType::PublishAck => {
                    let head: PublishAck = got.head();
                    assert_eq!(head.first, done, "in order");
                    match head.outcome {
                        Outcome::Stored => {}
                        Outcome::Duplicate => tally.duplicates.add(u64::from(head.count)),
                        other => panic!("{other:?}"),
                    }
                    done += u64::from(head.count);
                    tally.acked.add(u64::from(head.count));
                }
                FrameType::PublishNack => {
                    let head: PublishNack<'_> = got.head();
                    let code = Code::from_u16(head.code).expect("a code of the page");
                    panic!("nothing is wrong with the store: {code}: {}", head.detail);
                }
                _ => panic!("{}", got.words()),
            }
        }
    }
}

#[test]
fn killed_at_any_moment_it_loses_nothing_acknowledged() {
    const SEED: u64 = 0x6b69_6c6c;
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(SEED);
    println!("seed {seed} (the moments of the kills; set TIDEGATE_SEED to choose)");
    let mut rng = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().expect("folder");
    let mut daemon = Child::start("daemon", folder.path());
    let place = Place::new(daemon.address());
    let tally = Tally::default();
    let stop = AtomicBool::new(false);
    let seen = Mutex::new(Vec::new());

    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let (place, tally) = (&place, &tally);
                scope.spawn(move || publish_all(place, publisher, tally))
            })
            .collect();
        let consumer = scope.spawn(|| consume_all(&place, &stop, &seen));
        let mut killed = 0;
        while killed < KILLS {
            // A share of the whole further on than the last, and then any moment within a commit or two.
            let from = tally.acked.get();
            let goal = PUBLISHERS * MESSAGES * (killed as u64 + 1) / (KILLS as u64 + 1);
            let began = Instant::now();
            while tally.acked.get() < goal.max(from + 1) && tally.acked.get() < PUBLISHERS * MESSAGES {
                assert!(began.elapsed() < PATIENCE, "no progress after {killed} kills");
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(Duration::from_micros(rng.u64(..5_000)));
            daemon.kill();
            killed += 1;
            daemon = Child::start("daemon", folder.path());
            *place.lock().expect("nobody panics with it") = daemon.address();
        }
        for publisher in publishers {
            publisher.join().expect("every publisher ends");
        }
        stop.store(true, Ordering::Relaxed);
        consumer.join().expect("the consumer ends");
    });

    let seen = seen.into_inner().expect("nobody panics with it");
    println!(
        "{} acknowledged, {} of them known already after a kill; {} deliveries",
        tally.acked.get(),
        tally.duplicates.get(),
        seen.len()
    );
    // Redeliveries carry the sequence of the first delivery: what the queue holds is what each sequence is.
    let mut rows: Vec<((u64, u64), (u64, u64))> = seen;
    rows.sort_unstable();
    rows.dedup();
    let sequences: BTreeSet<_> = rows.iter().map(|(at, _)| *at).collect();
    assert_eq!(sequences.len(), rows.len(), "a sequence stood for two messages");
    for publisher in 0..PUBLISHERS {
        let own: Vec<u64> = rows.iter().filter(|(_, m)| m.0 == publisher).map(|(_, m)| m.1).collect();
        let all: Vec<u64> = (0..MESSAGES).collect();
        let missing: Vec<_> = all.iter().filter(|n| !own.contains(n)).take(5).collect();
        assert!(missing.is_empty(), "seed {seed}: publisher {publisher} misses {missing:?}");
        assert!(own == all, "seed {seed}: publisher {publisher}: twice or out of order");
    }
    assert_eq!(daemon.ask("stop"), "stopped well");
}

/// Where a message is (epoch, sequence), and which it is (publisher, number).
type Row = ((u64, u64), (u64, u64));

/// Consumes and acknowledges until everything there is came, with reconnects.
fn consume_all(place: &Place, stop: &AtomicBool, seen: &Mutex<Vec<Row>>) {
    let mut different = BTreeSet::new();
    let mut stopped: Option<Instant> = None;
    while different.len() < (PUBLISHERS * MESSAGES) as usize {
        if stop.load(Ordering::Relaxed) && stopped.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            // The assertions on what came say what is missing.
            return;
        }
        let address = *place.lock().expect("nobody panics with it");
        let Some(mut raw) = Raw::try_open(address) else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        raw.send(1, &raw::consume("main", "reader", 1_000_000), &[]);
        if !raw.poll(PATIENCE).is_ok_and(|got| got.kind == FrameType::Ok) {
            continue;
        }
        while different.len() < (PUBLISHERS * MESSAGES) as usize {
            match raw.peek(Duration::from_millis(500)) {
                Ok(()) => {}
                Err(raw::Nothing::Quiet) if !stop.load(Ordering::Relaxed) => continue,
                Err(_) => break,
            }
            let Some((epoch, items)) = raw.try_delivery() else { break };
            let mut rows = seen.lock().expect("nobody panics with it");
            for (tag, seq, payload) in items {
                let what = read(&payload);
                different.insert(what);
                rows.push(((epoch, seq), what));
                raw.send(1, &Ack { first: tag, count: 1 }, &[]);
            }
        }
    }
}
