//! The load: a thread a connection, windows, open loops, and latencies from the time a message should have left.

use crate::Result;
use crate::peer::{Connection, Role, Seen, connect};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Bytes of a payload that tell when it should have left.
pub const STAMP_BYTES: usize = 8;
/// Most messages in one write.
const BURST: u64 = 64;
/// Longest latency told apart, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// How often the main thread looks.
const LOOK: Duration = Duration::from_millis(2);

/// What is to be done; `count` and `rate` are for each publisher.
pub struct Load {
    pub peer: String,
    pub address: SocketAddr,
    pub publishers: usize,
    pub window: u64,
    pub size: usize,
    pub count: Option<u64>,
    pub rate: Option<f64>,
    pub live: bool,
}

/// What all threads of a run share.
struct Shared {
    epoch: Instant,
    measuring: AtomicBool,
    stopping: AtomicBool,
}

impl Shared {
    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

/// What one pair (or lone publisher) counts.
#[derive(Default)]
struct Counts {
    acked: AtomicU64,
    heard: AtomicU64,
    lost: AtomicU64,
    refused: AtomicU64,
    /// The publisher sleeps until its subscriber heard more.
    waiting: AtomicBool,
}

/// Figures of a run beside its counts.
pub struct Outcome {
    pub latency: Histogram<u64>,
    pub refused: u64,
    pub lost: u64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants that fit together")
}

/// A run under way.
pub struct Running {
    shared: Arc<Shared>,
    counts: Vec<Arc<Counts>>,
    threads: Vec<JoinHandle<Result<Histogram<u64>>>>,
    sockets: Vec<TcpStream>,
    live: bool,
    count: Option<u64>,
    base: AtomicU64,
}

impl Load {
    /// Connects everybody and lets them go.
    pub fn start(&self) -> Result<Running> {
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            measuring: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let mut running = Running {
            shared: shared.clone(),
            counts: Vec::new(),
            threads: Vec::new(),
            sockets: Vec::new(),
            live: self.live,
            count: self.count.map(|count| count * self.publishers as u64),
            base: AtomicU64::new(0),
        };
        let mut pairs = Vec::new();
        for number in 0..self.publishers {
            let subscriber = if self.live { Some(self.connect(Role::Subscribe, number)?) } else { None };
            pairs.push((self.connect(Role::Publish, number)?, subscriber));
        }
        for (number, (publisher, subscriber)) in pairs.into_iter().enumerate() {
            let counts = Arc::new(Counts::default());
            running.sockets.push(publisher.wire.socket.try_clone()?);
            let publisher = Publisher {
                connection: publisher,
                shared: shared.clone(),
                counts: counts.clone(),
                window: self.window,
                size: self.size,
                count: self.count.unwrap_or(u64::MAX),
                // Spread over the interval, as publishers that know nothing of each other.
                rate: self.rate.map(|rate| (rate, number as f64 / self.publishers as f64 / rate)),
                live: self.live,
                times: VecDeque::new(),
                latency: histogram(),
            };
            let thread = std::thread::Builder::new().name(format!("pub-{number}")).spawn(|| publisher.run())?;
            if let Some(connection) = subscriber {
                running.sockets.push(connection.wire.socket.try_clone()?);
                let (shared, counts, publisher) = (shared.clone(), counts.clone(), thread.thread().clone());
                let hear = move || hear(connection, &shared, &counts, &publisher);
                running.threads.push(std::thread::Builder::new().name(format!("sub-{number}")).spawn(hear)?);
            }
            running.threads.push(thread);
            running.counts.push(counts);
        }
        Ok(running)
    }

    fn connect(&self, role: Role, number: usize) -> Result<Connection> {
        let connection = connect(&self.peer, self.address, role, number)?;
        connection.wire.socket.set_read_timeout(None)?;
        Ok(connection)
    }
}

impl Running {
    /// From here on everything counts.
    pub fn measure(&self) {
        let base = if self.count.is_some() { 0 } else { self.total() };
        self.base.store(base, Ordering::Relaxed);
        self.shared.measuring.store(true, Ordering::Relaxed);
    }

    /// Messages done since then: heard, or acknowledged where nobody hears.
    pub fn counted(&self) -> u64 {
        self.total() - self.base.load(Ordering::Relaxed)
    }

    fn total(&self) -> u64 {
        let done = |c: &Counts| if self.live { &c.heard } else { &c.acked }.load(Ordering::Relaxed);
        self.counts.iter().map(|c| done(c)).sum()
    }

    /// Lets it run.
    pub fn wait(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.alive()?;
            std::thread::sleep(left.min(LOOK.max(left / 8)));
        }
        Ok(())
    }

    /// Lets it run until the count is done.
    pub fn wait_for_all(&self) -> Result<()> {
        let told = |c: &Counts| c.lost.load(Ordering::Relaxed) + c.refused.load(Ordering::Relaxed);
        while self.total() + self.counts.iter().map(|c| told(c)).sum::<u64>() < self.count.unwrap_or(0) {
            self.alive()?;
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// A thread that ended before it was told to has failed, unless it had a count.
    fn alive(&self) -> Result<()> {
        if self.count.is_none() && self.threads.iter().any(JoinHandle::is_finished) {
            return Err("a connection ended".into());
        }
        Ok(())
    }

    /// Ends everything.
    pub fn stop(self) -> Result<Outcome> {
        self.shared.measuring.store(false, Ordering::Relaxed);
        self.shared.stopping.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            // Who waits in a read or a write is woken; it may have gone already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let mut latency = histogram();
        for thread in self.threads {
            thread.thread().unpark();
            latency.add(&thread.join().expect("threads of a run do not panic")?)?;
        }
        let sum = |f: fn(&Counts) -> &AtomicU64| self.counts.iter().map(|c| f(c).load(Ordering::Relaxed)).sum();
        Ok(Outcome { latency, refused: sum(|c| &c.refused), lost: sum(|c| &c.lost) })
    }
}

struct Publisher {
    connection: Connection,
    shared: Arc<Shared>,
    counts: Arc<Counts>,
    window: u64,
    size: usize,
    count: u64,
    /// Messages a second, and when the first is due, in seconds.
    rate: Option<(f64, f64)>,
    live: bool,
    /// When the publishes without an answer should have left, in nanoseconds.
    times: VecDeque<u64>,
    latency: Histogram<u64>,
}

impl Publisher {
    fn run(mut self) -> Result<Histogram<u64>> {
        match self.publish() {
            // Its socket was shut under it.
            Err(_) if self.shared.stopping.load(Ordering::Relaxed) => Ok(self.latency),
            Err(e) => {
                eprintln!("a publisher failed: {e}");
                Err(e)
            }
            Ok(()) => Ok(self.latency),
        }
    }

    fn publish(&mut self) -> Result<()> {
        // Letters at random: nothing on the way may gain by compressing them.
        let mut payload: Vec<u8> = std::iter::repeat_with(|| fastrand::alphanumeric() as u8).take(self.size).collect();
        let answers = self.connection.codec.answers();
        let started = self.shared.now_ns();
        let (mut sent, mut acked) = (0u64, 0u64);
        let mut out = Vec::new();
        let due_ns = |(rate, first): (f64, f64), n: u64| started + ((first + n as f64 / rate) * 1e9) as u64;
        while !self.shared.stopping.load(Ordering::Relaxed) {
            let now = self.shared.now_ns();
            let left = (self.count - sent).min(BURST);
            let by_acks = if answers { self.window.saturating_sub(sent - acked) } else { u64::MAX };
            let gone = || self.counts.heard.load(Ordering::Acquire) + self.counts.lost.load(Ordering::Relaxed);
            let by_heard = if self.live { self.window.saturating_sub(sent.saturating_sub(gone())) } else { u64::MAX };
            let mut n = 0;
            while n < left.min(by_acks).min(by_heard) {
                let mut stamp = now;
                if let Some(rate) = self.rate {
                    stamp = due_ns(rate, sent + n);
                    if stamp > now {
                        break;
                    }
                }
                payload[..STAMP_BYTES].copy_from_slice(&stamp.to_be_bytes());
                self.connection.codec.publish(&payload, &mut out);
                if answers {
                    self.times.push_back(stamp);
                }
                n += 1;
            }
            if n > 0 {
                self.connection.codec.flush(&mut out);
                self.connection.wire.socket.write_all(&out)?;
                out.clear();
                sent += n;
            }
            let done = sent == self.count;
            if done && (!answers || acked == sent) {
                return Ok(());
            }
            let full = answers && sent - acked >= self.window;
            if full || done {
                acked += self.read()?;
            } else if let Some(rate) = self.rate
                && let wait = due_ns(rate, sent).saturating_sub(self.shared.now_ns())
                && wait > 0
            {
                if self.readable(wait)? {
                    acked += self.read()?;
                }
            } else if n == 0 {
                // Only the subscriber can be what holds it.
                self.counts.waiting.store(true, Ordering::SeqCst);
                if sent.saturating_sub(gone()) >= self.window {
                    std::thread::park_timeout(LOOK);
                }
                self.counts.waiting.store(false, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn readable(&self, wait_ns: u64) -> Result<bool> {
        let time = Timespec { tv_sec: (wait_ns / 1_000_000_000) as i64, tv_nsec: (wait_ns % 1_000_000_000) as i64 };
        let mut fds = [PollFd::new(&self.connection.wire.socket, PollFlags::IN)];
        Ok(poll(&mut fds, Some(&time))? > 0)
    }

    /// Reads answers, once; returns how many publishes they settle.
    fn read(&mut self) -> Result<u64> {
        self.connection.wire.read()?;
        let now = self.shared.now_ns();
        // Where somebody hears, the latency is theirs.
        let measuring = self.shared.measuring.load(Ordering::Relaxed) && !self.live;
        let (mut acks, mut refused) = (0, 0);
        let Self { times, latency, connection, .. } = self;
        connection.handle(|seen| match seen {
            Seen::Acks(n) => {
                acks += n;
                for sent in times.drain(..(n as usize).min(times.len())) {
                    if measuring {
                        latency.saturating_record(now.saturating_sub(sent).max(1));
                    }
                }
            }
            Seen::Refused(n) => {
                refused += n;
                times.drain(..(n as usize).min(times.len()));
            }
            Seen::Lost(_) | Seen::Message(_) => {}
        })?;
        self.counts.acked.fetch_add(acks, Ordering::Relaxed);
        self.counts.refused.fetch_add(refused, Ordering::Relaxed);
        Ok(acks + refused)
    }
}

/// Hears until its socket is shut.
fn hear(mut connection: Connection, shared: &Shared, counts: &Counts, publisher: &Thread) -> Result<Histogram<u64>> {
    let mut latency = histogram();
    loop {
        let mut heard = 0;
        let done = connection.wire.read().and_then(|()| {
            let now = shared.now_ns();
            let measuring = shared.measuring.load(Ordering::Relaxed);
            connection.handle(|seen| match seen {
                Seen::Message(payload) => {
                    heard += 1;
                    if let Some(stamp) = payload.first_chunk::<STAMP_BYTES>().filter(|_| measuring) {
                        latency.saturating_record(now.saturating_sub(u64::from_be_bytes(*stamp)).max(1));
                    }
                }
                Seen::Lost(n) => {
                    counts.lost.fetch_add(n, Ordering::Relaxed);
                }
                Seen::Acks(_) | Seen::Refused(_) => {}
            })
        });
        match done {
            Err(_) if shared.stopping.load(Ordering::Relaxed) => return Ok(latency),
            Err(e) => {
                eprintln!("a subscriber failed: {e}");
                return Err(e);
            }
            Ok(()) => {}
        }
        counts.heard.fetch_add(heard, Ordering::SeqCst);
        if counts.waiting.load(Ordering::SeqCst) {
            publisher.unpark();
        }
    }
}

/// Publishes one message and waits for its acknowledgement.
pub fn publish_one(mut connection: Connection, size: usize) -> Result<()> {
    let mut out = Vec::new();
    connection.codec.publish(&vec![b'x'; size], &mut out);
    connection.codec.flush(&mut out);
    connection.wire.socket.write_all(&out)?;
    let (mut acks, mut refused) = (0, 0);
    while acks + refused == 0 {
        connection.wire.read()?;
        connection.handle(|seen| match seen {
            Seen::Acks(n) => acks += n,
            Seen::Refused(n) => refused += n,
            Seen::Lost(_) | Seen::Message(_) => {}
        })?;
    }
    if refused > 0 { Err("the publish was refused".into()) } else { Ok(()) }
}
