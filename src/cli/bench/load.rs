//! The load: publishers that keep a window full, subscribers and consumers that count and time what they get.

use super::super::connect::client;
use super::super::exit::CliError;
use super::Target;
use crate::client::{Client, Consumer, Heard, Id, Message, Options, Settled, Subscription};
use crate::model::Mono;
use crate::runtime::clock;
use crate::wire::Contract;
use hdrhistogram::Histogram;
use smol::{LocalExecutor, Task, Timer};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Longest latency told apart, in microseconds.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Payloads of this many bytes carry the time they were made.
const STAMP_BYTES: usize = 8;
/// Messages a publisher queues before other tasks of the thread get their turn.
const TURN: u32 = 64;

pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constants that fit together")
}

/// What one publisher sends.
pub(super) struct Plan {
    pub(super) channel: String,
    pub(super) size: usize,
    pub(super) contract: Contract,
    pub(super) id: bool,
    pub(super) window: usize,
}

/// When all publishers together stop, and how fast they may go.
#[derive(Clone)]
pub(super) struct Pace(Rc<PaceState>);

struct PaceState {
    started: Mono,
    until: Option<Mono>,
    left: Cell<u64>,
    given: Cell<u64>,
    rate: Option<u64>,
}

impl Pace {
    pub(super) fn new(count: Option<u64>, duration: Duration, rate: Option<u64>) -> Self {
        let started = clock::mono();
        let until = count.is_none().then(|| started.plus_us(duration.as_micros() as u64));
        let left = Cell::new(count.unwrap_or(u64::MAX));
        Self(Rc::new(PaceState { started, until, left, given: Cell::new(0), rate }))
    }

    /// Leave to send one message at this time: now, after a wait in microseconds, or never again.
    fn next(&self, now: Mono) -> Result<(), Option<u64>> {
        let state = &self.0;
        if state.left.get() == 0 || state.until.is_some_and(|until| now >= until) {
            return Err(None);
        }
        if let Some(rate) = state.rate {
            let due = state.started.plus_us((u128::from(state.given.get()) * 1_000_000 / u128::from(rate)) as u64);
            if due > now {
                return Err(Some(due.0 - now.0));
            }
        }
        state.left.set(state.left.get() - 1);
        state.given.set(state.given.get() + 1);
        Ok(())
    }
}

/// What publishers did.
pub(super) struct Published {
    pub(super) latency: Histogram<u64>,
    pub(super) stored: u64,
    pub(super) failed: u64,
    pub(super) reconnects: u64,
    pub(super) by_publisher: Vec<u64>,
}

impl Default for Published {
    fn default() -> Self {
        Self { latency: histogram(), stored: 0, failed: 0, reconnects: 0, by_publisher: Vec::new() }
    }
}

impl Published {
    pub(super) fn add(&mut self, other: Self) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.stored += other.stored;
        self.failed += other.failed;
        self.reconnects += other.reconnects;
        self.by_publisher.extend(other.by_publisher);
    }
}

/// Times of the messages under way, by ticket: a ring as large as the window.
struct Times {
    sent_us: Vec<u64>,
    latency: Histogram<u64>,
}

impl Times {
    fn note(&mut self, ticket: u64, sent_us: u64) {
        let slots = self.sent_us.len();
        self.sent_us[ticket as usize % slots] = sent_us;
    }
}

/// Connects one publisher; its task ends when the pace does and everything is acknowledged.
pub(super) async fn publisher(
    executor: &Rc<LocalExecutor<'static>>,
    target: &Target,
    plan: Plan,
    pace: Pace,
) -> Result<Task<Result<Published, CliError>>, CliError> {
    let times = Arc::new(Mutex::new(Times { sent_us: vec![0; plan.window], latency: histogram() }));
    let settled = times.clone();
    let on_settled = move |s: &Settled| {
        let now = clock::mono().0;
        let mut times = settled.lock().unwrap_or_else(PoisonError::into_inner);
        let Times { sent_us, latency } = &mut *times;
        if s.result.is_ok() {
            for ticket in s.first..s.first + s.count {
                let sent = sent_us[ticket as usize % sent_us.len()];
                latency.saturating_record(now.saturating_sub(sent).max(1));
            }
        }
    };
    let window_bytes = plan.window.saturating_mul(plan.size + 2_048);
    let options = Options { window_messages: plan.window, window_bytes, ..target.options.clone() };
    let client = client(executor, target.address.clone(), options, Some(Box::new(on_settled))).await?;
    Ok(executor.spawn(publish(client, plan, pace, times)))
}

async fn publish(client: Client, plan: Plan, pace: Pace, times: Arc<Mutex<Times>>) -> Result<Published, CliError> {
    // Letters and digits at random: nothing on the way may gain by compressing them.
    let mut payload: Vec<u8> = std::iter::repeat_with(|| fastrand::alphanumeric() as u8).take(plan.size).collect();
    let mut template = Message::new(&plan.channel, &[])?;
    template.contract = plan.contract;
    template.id = if plan.id { Id::Auto } else { Id::None };
    let mut turn = 0;
    loop {
        let now = clock::mono();
        match pace.next(now) {
            Ok(()) => {}
            Err(None) => break,
            Err(Some(wait_us)) => {
                Timer::after(Duration::from_micros(wait_us)).await;
                continue;
            }
        }
        if let Some(stamp) = payload.first_chunk_mut::<STAMP_BYTES>() {
            *stamp = now.0.to_be_bytes();
        }
        let mut message = template.clone();
        message.payload = &payload;
        let (ticket, sent_us) = match client.try_send(&message)? {
            Some(ticket) => (ticket, now.0),
            // Waiting for the window is the publisher's time, not the broker's.
            None => (client.send(&message).await?, clock::mono().0),
        };
        times.lock().unwrap_or_else(PoisonError::into_inner).note(ticket, sent_us);
        turn += 1;
        if turn == TURN {
            turn = 0;
            smol::future::yield_now().await;
        }
    }
    let stats = client.flush().await?;
    client.close().await;
    let latency = times.lock().unwrap_or_else(PoisonError::into_inner).latency.clone();
    let stored = stats.stored + stats.live_only + stats.duplicates;
    Ok(Published {
        latency,
        stored,
        failed: stats.failed + stats.dropped,
        reconnects: stats.sessions - 1,
        by_publisher: vec![stored],
    })
}

/// What subscribers and consumers got.
pub(super) struct Readers {
    pub(super) count: Cell<u64>,
    pub(super) lost: Cell<u64>,
    pub(super) latency: RefCell<Histogram<u64>>,
}

impl Default for Readers {
    fn default() -> Self {
        Self { count: Cell::new(0), lost: Cell::new(0), latency: RefCell::new(histogram()) }
    }
}

impl Readers {
    fn take(&self, payload: &[u8], now: u64) {
        self.count.set(self.count.get() + 1);
        if let Some(stamp) = payload.first_chunk::<STAMP_BYTES>() {
            let made = u64::from_be_bytes(*stamp);
            self.latency.borrow_mut().saturating_record(now.saturating_sub(made).max(1));
        }
    }

    /// Waits until so many came or were lost, or nothing came for a while; tells which.
    pub(super) async fn reached(&self, expected: u64, patience: Duration) -> bool {
        let all = || self.count.get() + self.lost.get();
        let (mut seen, mut since) = (all(), clock::mono());
        while all() < expected {
            Timer::after(Duration::from_millis(5)).await;
            if all() > seen {
                (seen, since) = (all(), clock::mono());
            } else if u128::from(clock::mono().ms_since(since)) > patience.as_millis() {
                return false;
            }
        }
        true
    }
}

/// Counts what a subscription hears, until dropped.
pub(super) async fn hear(mut subscription: Subscription, readers: Rc<Readers>) {
    let mut turn = 0;
    while let Ok(heard) = subscription.next().await {
        match heard {
            Heard::Message(message) => readers.take(message.payload(), clock::mono().0),
            Heard::Dropped(count) => readers.lost.set(readers.lost.get() + count),
            Heard::Reconnected { .. } => {}
        }
        turn += 1;
        if turn == TURN {
            turn = 0;
            smol::future::yield_now().await;
        }
    }
}

/// Counts and acknowledges what a consumer gets, until dropped.
pub(super) async fn drain(mut consumer: Consumer, readers: Rc<Readers>) {
    while let Ok(batch) = consumer.next_batch().await {
        let now = clock::mono().0;
        for delivery in &batch {
            readers.take(delivery.message.payload(), now);
        }
        consumer.ack_all(&batch);
        smol::future::yield_now().await;
    }
}
