//! The run loop with a machine that is not the broker.
#![allow(clippy::disallowed_methods, reason = "tests wait in real time, with patience")]

mod child;
mod fake;

use super::testing::{Running, settings, spawn_with};
use crate::broker::Volume;
use crate::config::Settings;
use fake::{Fake, Ledger, Mode, Seen, stores};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A failing test ends after this long instead of hanging; none waits for it otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

struct Daemon {
    running: Option<Running>,
    ledger: Arc<Ledger>,
    folder: TempDir,
}

impl Daemon {
    fn start(mode: Mode) -> Self {
        Self::start_with(mode, |_| ())
    }

    fn start_with(mode: Mode, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut settings = settings(folder.path());
        change(&mut settings);
        let ledger = Arc::<Ledger>::default();
        let (kept, reloaded) = (Arc::clone(&ledger), settings.clone());
        let reload = move || {
            let mut settings = reloaded.clone();
            settings.limits.streams_max = 77;
            Ok(settings)
        };
        let running = spawn_with(
            settings,
            Some(Box::new(reload)),
            {
                let ledger = Arc::clone(&ledger);
                move |_, _, notify| Ok(stores(notify, ledger))
            },
            move |_, settings, _, _| Ok(Fake::new(mode, settings, kept)),
        );
        Self { running: Some(running.expect("the daemon starts")), ledger, folder }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.running.as_ref().expect("running").tcp()).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("nodelay can be set");
        stream
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("running")
    }

    fn stop(&mut self) {
        self.running.take().expect("running").stop().expect("a clean end");
    }
}

fn ask(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).expect("sent");
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).expect("answered");
    answer
}

#[test]
fn bytes_go_in_and_come_out() {
    let mut daemon = Daemon::start(Mode::Echo);
    let mut tcp = daemon.connect();
    assert_eq!(ask(&mut tcp, b"tide"), b"tide");
    // Far more than any buffer on the way.
    let large: Vec<u8> = (0..4_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut writer = tcp.try_clone().expect("cloned");
    let sent = large.clone();
    let thread = std::thread::spawn(move || writer.write_all(&sent).expect("sent"));
    let mut back = vec![0; large.len()];
    tcp.read_exact(&mut back).expect("all came back");
    thread.join().expect("sent");
    assert!(back == large);

    let mut unix = UnixStream::connect(daemon.running().unix()).expect("connected");
    unix.write_all(b"gate").expect("sent");
    let mut answer = [0; 4];
    unix.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, b"gate");
    daemon.ledger.wait("a Unix admin", |seen| seen.admins == 1);
    daemon.stop();
}

#[test]
fn the_ready_file_names_what_is_bound_and_goes_with_the_daemon() {
    let mut daemon = Daemon::start(Mode::Echo);
    let path = daemon.folder.path().join(super::READY_FILE);
    let ready: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("there once spawn returns")).expect("JSON");
    assert_eq!(ready["pid"], std::process::id());
    assert_eq!(ready["tcp"][0], daemon.running().tcp().to_string());
    let unix = daemon.running().unix();
    assert_eq!(ready["unix"], unix.to_string_lossy().as_ref());
    assert!(unix.exists());
    daemon.stop();
    assert!(!path.exists() && !unix.exists());
}

#[test]
fn an_address_in_use_is_said_and_leaves_nothing_behind() {
    let first = Daemon::start(Mode::Echo);
    let folder = tempfile::tempdir().expect("folder");
    let mut settings = settings(folder.path());
    settings.listen.tcp = vec![first.running().tcp()];
    let ledger = Arc::<Ledger>::default();
    let kept = Arc::clone(&ledger);
    let second = spawn_with(
        settings,
        None,
        move |_, _, notify| Ok(stores(notify, ledger)),
        move |_, settings, _, _| Ok(Fake::new(Mode::Echo, settings, kept)),
    );
    let error = second.err().expect("the address is taken");
    assert!(error.to_string().contains(&first.running().tcp().to_string()), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 0);
}

#[test]
fn a_wake_reaches_another_connection() {
    let daemon = Daemon::start(Mode::Relay);
    let (mut a, mut b) = (daemon.connect(), daemon.connect());
    daemon.ledger.wait("both open", |seen| seen.opened == 2);
    a.write_all(b"over").expect("sent");
    let mut got = [0; 4];
    b.read_exact(&mut got).expect("relayed");
    assert_eq!(&got, b"over");
}

#[test]
fn more_is_asked_for_until_close_and_all_of_it_arrives() {
    let daemon = Daemon::start(Mode::Pour { bytes: 3_000_000 });
    let mut stream = daemon.connect();
    // Unread bytes at the other end must not reset the connection and take the last words with them.
    stream.write_all(&[0; 1_000]).expect("sent");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("ends in order");
    assert_eq!(all.len(), 3_000_000);
    assert!(all.ends_with(b"end"));
    daemon.ledger.wait("closed", |seen| seen.closed == 1);
}

#[test]
fn who_may_not_be_read_from_is_not_read_from() {
    let daemon = Daemon::start(Mode::Gate { bytes: 100_000 });
    let mut stream = daemon.connect();
    // Window and buffers fill, then nothing more fits.
    stream.set_nonblocking(true).expect("set");
    let chunk = [7u8; 64 * 1_024];
    let mut sent = 0;
    let mut full_since: Option<Instant> = None;
    loop {
        match stream.write(&chunk) {
            Ok(n) => (sent, full_since) = (sent + n, None),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Full means no byte more for a while; a daemon that reads would have taken thousands by then.
                if full_since.get_or_insert_with(Instant::now).elapsed() > Duration::from_millis(200) {
                    break;
                }
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 64 << 20, "the daemon goes on reading");
    }
    let taken = daemon.ledger.get(|seen| seen.received);
    assert!((100_000..100_000 + (64 * 1_024)).contains(&taken), "{taken} bytes were taken");
    let mut other = daemon.connect();
    other.write_all(b"!").expect("sent");
    daemon.ledger.wait("the rest", |seen| seen.received == sent + 1);
}

#[test]
fn what_a_slow_reader_does_not_take_waits_and_all_of_it_comes() {
    let daemon = Daemon::start(Mode::Echo);
    let mut slow = daemon.connect();
    let mut writer = slow.try_clone().expect("cloned");
    let thread = std::thread::spawn(move || writer.write_all(&vec![1u8; 8 << 20]).expect("sent"));
    // The fake's outbox is bounded: it stops reading until we read.
    daemon.ledger.wait("the outbox full", |seen| seen.held_back > 0);
    let mut quick = daemon.connect();
    assert_eq!(ask(&mut quick, b"others go on"), b"others go on");
    let mut all = vec![0; 8 << 20];
    slow.read_exact(&mut all).expect("all of it");
    thread.join().expect("sent");
    assert!(all.iter().all(|&b| b == 1));
    assert!(daemon.ledger.get(|seen| seen.outbox_most) <= fake::OUTBOX_BYTES_MAX + 64 * 1_024);
}

#[test]
fn a_burst_of_many_sockets_ends_in_one_commit() {
    let daemon = Daemon::start(Mode::Durable { volume: Volume::Disk });
    let mut streams: Vec<_> = (0..20).map(|_| daemon.connect()).collect();
    daemon.ledger.wait("all open", |seen| seen.opened == 20);
    // The loop is held in the first one's event while the others send.
    let (go, wait) = channel();
    daemon.ledger.hold_next(wait);
    streams[0].write_all(b"0").expect("sent");
    daemon.ledger.wait("held", |seen| seen.held);
    for stream in &mut streams[1..] {
        stream.write_all(b"n").expect("sent");
    }
    go.send(()).expect("the loop waits");
    for stream in &mut streams {
        let mut yes = [0];
        stream.read_exact(&mut yes).expect("answered after the commit");
    }
    let commits = daemon.ledger.get(|seen| seen.commits.clone());
    // The first goes alone, then the others together: two, seldom three, because while the loop is held another thread
    // drives the reactor they share and may be in the midst of handing over events.
    assert!(commits.len() <= 5 && commits.iter().sum::<usize>() == 20, "{commits:?}");
}

#[test]
fn memory_is_committed_and_read_inline() {
    let daemon = Daemon::start(Mode::Durable { volume: Volume::Memory });
    let mut stream = daemon.connect();
    assert_eq!(ask(&mut stream, b"m"), b"m");
    assert_eq!(daemon.ledger.get(|seen| (seen.committed_memory, seen.commits.len())), (1, 0));
    let daemon = Daemon::start(Mode::Read { volume: Volume::Memory });
    assert_eq!(ask(&mut daemon.connect(), b"?"), b"r");
}

#[test]
fn a_failed_commit_lets_go_of_the_store_until_it_is_open_again() {
    let daemon = Daemon::start(Mode::Read { volume: Volume::Disk });
    let mut stream = daemon.connect();
    assert_eq!(ask(&mut stream, b"?"), b"r");
    assert_eq!(daemon.ledger.get(|seen| seen.readers), 1);
    daemon.ledger.notify(super::CommitEvent::Failed(crate::store::StoreError::Full("test".into())));
    daemon.ledger.wait("told, and the reader dropped", |seen| seen.failed == 1 && seen.readers == 0);
    // Free space is asked for at once, not after five seconds: at the start, and now.
    daemon.ledger.wait("space", |seen| seen.spaces == 2);
    assert_eq!(ask(&mut stream, b"?"), b"e");
    daemon.ledger.reopen();
    daemon.ledger.wait("reopened", |seen| seen.reopened == 1 && seen.resumed == 1);
    assert_eq!(ask(&mut stream, b"?"), b"r");
}

#[test]
fn a_store_that_cannot_be_read_back_ends_the_daemon_with_its_error() {
    let mut daemon = Daemon::start(Mode::Broken);
    let mut running = daemon.running.take().expect("running");
    daemon.ledger.notify(super::CommitEvent::Failed(crate::store::StoreError::Full("test".into())));
    daemon.ledger.reopen();
    // A supervisor starts anew what ends with a failure, and this one by its own exit code.
    let error = running.wait().expect_err("nobody asked it to stop");
    assert!(matches!(&error, super::ServeError::Store(crate::store::StoreError::Damaged(_))), "{error}");
}

#[test]
fn the_timer_follows_a_deadline_that_moves_earlier() {
    let daemon = Daemon::start(Mode::Timer);
    let mut stream = daemon.connect();
    // One minute, then fifty milliseconds.
    stream.write_all(&[60]).expect("sent");
    daemon.ledger.wait("armed", |seen| seen.received == 1);
    let asked = Instant::now();
    stream.write_all(&[0]).expect("sent");
    let mut tick = [0];
    stream.read_exact(&mut tick).expect("fired");
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(49) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(daemon.ledger.get(|seen| seen.timeouts), 1);
}

#[test]
fn the_reserve_file_comes_and_goes() {
    let daemon = Daemon::start_with(Mode::Reserve, |settings| settings.store.reserve_bytes = 64 * 1_024);
    let path = daemon.folder.path().join(super::worker::RESERVE_FILE);
    let mut stream = daemon.connect();
    // The read that follows each is behind it in the worker's queue.
    assert_eq!(ask(&mut stream, b"+"), b"r");
    assert_eq!(std::fs::metadata(&path).expect("made").len(), 64 * 1_024);
    assert_eq!(ask(&mut stream, b"-"), b"r");
    assert!(!path.exists());
}

#[test]
fn connections_come_and_go_and_nothing_stays() {
    let daemon = Daemon::start(Mode::Echo);
    for round in 1..=10 {
        let mut streams: Vec<_> = (0..100).map(|_| daemon.connect()).collect();
        for stream in &mut streams {
            assert_eq!(ask(stream, b"hi"), b"hi");
        }
        assert_eq!(daemon.ledger.get(|seen| seen.open), 100);
        drop(streams);
        daemon.ledger.wait("all closed", |seen| seen.closed == round * 100 && seen.open == 0);
    }
    assert_eq!(daemon.ledger.get(|seen| seen.conns_distinct.len()), 1_000);
}

#[test]
fn one_connection_too_many_is_refused_and_room_is_found_again() {
    let daemon = Daemon::start_with(Mode::Echo, |settings| settings.limits.connections_max = 2);
    let (mut a, mut b) = (daemon.connect(), daemon.connect());
    assert_eq!((ask(&mut a, b"a"), ask(&mut b, b"b")), (b"a".into(), b"b".into()));
    // Those just over the limit are the machine's to refuse, with a word.
    let mut told: Vec<_> = (0..super::admission::REFUSALS_MAX).map(|_| daemon.connect()).collect();
    told.iter_mut().for_each(|t| assert_eq!(ask(t, b"t"), b"t"));
    let mut refused = daemon.connect();
    let mut word = Vec::new();
    refused.read_to_end(&mut word).expect("closed");
    assert!(word.starts_with(b"TG"), "a flood gets a word, too: {word:?}");
    drop(a);
    daemon.ledger.wait("room", |seen| seen.closed == 1);
    // The task that holds the room ends in the same turn as it tells; it may still be at it.
    let began = std::time::Instant::now();
    loop {
        let mut again = daemon.connect();
        let mut answer = [0];
        if again.write_all(b"c").is_ok() && matches!(again.read(&mut answer), Ok(1)) && answer == *b"c" {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "no room was found again");
        std::thread::yield_now();
    }
    assert_eq!(ask(&mut b, b"b"), b"b");
}

#[test]
fn a_stop_tells_the_machine_lets_last_words_out_and_ends() {
    let mut daemon = Daemon::start(Mode::Echo);
    let mut stream = daemon.connect();
    assert_eq!(ask(&mut stream, b"x"), b"x");
    let reader = std::thread::spawn(move || {
        let mut last = String::new();
        stream.read_to_string(&mut last).expect("ends in order");
        last
    });
    let began = Instant::now();
    daemon.stop();
    assert_eq!(reader.join().expect("read"), "goodbye");
    assert!(began.elapsed() < Duration::from_secs(8), "did not wait for the deadline");
    assert_eq!(daemon.ledger.get(|seen| (seen.stops, seen.committer_stopped)), (1, true));
}

#[test]
fn a_second_stop_does_not_wait() {
    let mut daemon = Daemon::start(Mode::Stubborn);
    let mut running = daemon.running.take().expect("running");
    let began = Instant::now();
    running.stopper.stop();
    daemon.ledger.wait("told", |seen| seen.stops == 1);
    running.stopper.stop();
    running.wait().expect("a clean end");
    assert!(began.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_reload_reaches_the_machine() {
    let daemon = Daemon::start(Mode::Echo);
    daemon.running().stopper.reload();
    daemon.ledger.wait("reloaded", |seen: &Seen| seen.streams_max == Some(77));
}
