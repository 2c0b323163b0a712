//! A link: a relay between two brokers that forwards bytes, and does what bad links do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often a pump looks what it is to do, while nothing comes.
const LOOK: Duration = Duration::from_millis(5);

/// What happens to what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It goes on.
    Open,
    /// Connections are made and closed at once.
    Cut,
    /// It is taken and goes nowhere, either way; connections stay.
    Hole,
    /// What the hub says goes nowhere.
    Deaf,
    /// Nothing is taken, and nothing is lost.
    Stalled,
}

struct Shared {
    target: Mutex<Option<SocketAddr>>,
    mode: Mutex<Mode>,
    connections: Mutex<Vec<TcpStream>>,
    /// Bytes towards the hub, and back, that came out.
    up: AtomicU64,
    down: AtomicU64,
    accepted: AtomicU64,
    /// Bytes a second each way; 0 is no bound.
    rate: AtomicU64,
    ends: AtomicBool,
}

/// A link to one broker.
pub struct Relay {
    /// Where the edge connects.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Relay {
    /// A link to nowhere, for now.
    pub fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            target: Mutex::new(None),
            mode: Mutex::new(Mode::Open),
            connections: Mutex::new(Vec::new()),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            ends: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &own));
        Self { address, shared }
    }

    /// A link to this broker.
    pub fn to(target: SocketAddr) -> Self {
        let relay = Self::new();
        relay.leads_to(Some(target));
        relay
    }

    /// Where new connections lead; nowhere is a broker that is down.
    pub fn leads_to(&self, target: Option<SocketAddr>) {
        *self.shared.target.lock().expect("nobody panics with it") = target;
    }

    /// The address as a bridge's URL.
    pub fn url(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// What happens from now on. What was swallowed is missing from a connection, so these end with the mode that swallowed.
    pub fn set(&self, mode: Mode) {
        let before = std::mem::replace(&mut *self.shared.mode.lock().expect("nobody panics with it"), mode);
        if mode == Mode::Cut || (matches!(before, Mode::Hole | Mode::Deaf) && before != mode) {
            for connection in self.shared.connections.lock().expect("nobody panics with it").drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
    }

    /// Bytes a second each way; 0 is no bound.
    pub fn slow(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, SeqCst);
    }

    /// Bytes that came out at the hub.
    pub fn up(&self) -> u64 {
        self.shared.up.load(SeqCst)
    }

    /// Connections made to it.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ends.store(true, SeqCst);
        self.set(Mode::Cut);
        // Its listener wakes, and ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ends.load(SeqCst) {
            return;
        }
        let Ok(edge) = stream else { continue };
        shared.accepted.fetch_add(1, SeqCst);
        let target = *shared.target.lock().expect("nobody panics with it");
        let hub = match *shared.mode.lock().expect("nobody panics with it") {
            Mode::Cut => None,
            _ => target.and_then(|target| TcpStream::connect(target).ok()),
        };
        let Some(hub) = hub else { continue };
        let mut connections = shared.connections.lock().expect("nobody panics with it");
        for stream in [&edge, &hub] {
            stream.set_nodelay(true).expect("can be set");
            stream.set_read_timeout(Some(LOOK)).expect("can be set");
            connections.push(stream.try_clone().expect("another handle"));
        }
        for (from, to, up) in [(&edge, &hub, true), (&hub, &edge, false)] {
            let (from, to) = (from.try_clone().expect("another handle"), to.try_clone().expect("another handle"));
            let shared = Arc::clone(shared);
            std::thread::spawn(move || pump(&shared, from, to, up));
        }
    }
}

fn pump(shared: &Shared, mut from: TcpStream, mut to: TcpStream, up: bool) {
    let mut buffer = [0; 16 * 1_024];
    loop {
        if *shared.mode.lock().expect("nobody panics with it") == Mode::Stalled {
            std::thread::sleep(LOOK);
            continue;
        }
        let rate = shared.rate.load(SeqCst);
        // Small pieces at a low rate, so that it is even.
        let most = if rate == 0 { buffer.len() } else { (rate as usize / 50).clamp(1, buffer.len()) };
        let n = match from.read(&mut buffer[..most]) {
            // An end is not heard through a hole either.
            Ok(0) if *shared.mode.lock().expect("nobody panics with it") == Mode::Hole => {
                std::thread::sleep(LOOK);
                continue;
            }
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                continue;
            }
            Err(_) => break,
        };
        match *shared.mode.lock().expect("nobody panics with it") {
            Mode::Hole => continue,
            Mode::Deaf if !up => continue,
            _ => {}
        }
        if rate > 0 {
            std::thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        if up { &shared.up } else { &shared.down }.fetch_add(n as u64, SeqCst);
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
