//! Ten thousand connections at once: the broker and its clients are processes of their own, each with files for them.

use super::child::{self, Child};
use super::raw::{Raw, frame, hello};
use rustix::process::{Resource, getrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate::config::Settings;
use tidegate::daemon::testing;
use tidegate::wire::{self, Code, Decoded, ErrorHead, FrameType};

const CLIENTS: usize = 10_000;
/// Room for those of the parent, which are there before the crowd, and for fewer than the crowd.
const CONNECTIONS_MAX: u32 = 9_900;
/// Who connects at the same time.
const THREADS: usize = 4;
/// Files a process needs beside its connections.
const FILES_SPARE: u64 = 100;
/// Memory a connection that says nothing may cost the broker, in bytes.
const CONNECTION_BYTES_MAX: u64 = 4 * 1_024;

/// The broker of the test below.
pub fn settings(folder: &Path) -> Settings {
    let mut settings = testing::settings(folder);
    settings.limits.connections_max = CONNECTIONS_MAX;
    // On a busy machine the last of a crowd waits for its turn.
    settings.limits.handshake_ms = 60_000;
    settings
}

/// The clients of the test below: connect all, tell how they were received, hold on until told to go.
pub fn clients(folder: &Path) -> ! {
    tidegate::runtime::limits::raise_open_files();
    let address = std::fs::read_to_string(folder.join("address")).expect("left there").parse().expect("an address");
    let began = Instant::now();
    let share = |thread: usize| (thread..CLIENTS).step_by(THREADS).count();
    let threads: Vec<_> =
        (0..THREADS).map(|thread| std::thread::spawn(move || crowd(address, share(thread)))).collect();
    let (mut held, mut welcomed, mut refused) = (Vec::new(), 0, 0);
    for thread in threads {
        let (streams, yes, no) = thread.join().expect("no client failed");
        held.extend(streams);
        welcomed += yes;
        refused += no;
    }
    child::say(&format!("{welcomed} {refused} {}", began.elapsed().as_millis()));
    let mut go = String::new();
    std::io::stdin().read_line(&mut go).expect("text");
    drop(held);
    child::say("gone");
    std::process::exit(0);
}

/// Connects `count` clients and then hears what each is told.
fn crowd(address: SocketAddr, count: usize) -> (Vec<TcpStream>, usize, usize) {
    let greeting = frame(0, 0, 0, &hello(600_000), &[]);
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).expect("connected");
        match stream.write_all(&greeting) {
            Ok(()) => {}
            // Refused already; the reason is still to be read.
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            Err(e) => panic!("{e}"),
        }
        streams.push(stream);
    }
    let (mut welcomed, mut refused) = (0, 0);
    for stream in &mut streams {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        let mut input = Vec::new();
        let mut buffer = [0; 1_024];
        loop {
            let n = stream.read(&mut buffer).unwrap_or_else(|e| panic!("told nothing: {e}"));
            assert!(n > 0, "closed without a word");
            input.extend_from_slice(&buffer[..n]);
            let Decoded::Frame(frame, _) = wire::decode(&input, 1 << 20).expect("well-formed") else { continue };
            match frame.header.kind {
                FrameType::Welcome => welcomed += 1,
                FrameType::Error => {
                    let head: ErrorHead<'_> = frame.head().expect("well-formed");
                    assert_eq!(Code::from_u16(head.code), Some(Code::TooManyConnections), "{}", head.detail);
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
            break;
        }
    }
    (streams, welcomed, refused)
}

#[test]
fn ten_thousand_connections_at_once_are_taken_or_told_why_not() {
    let files = getrlimit(Resource::Nofile).maximum;
    if files.is_some_and(|files| files < CLIENTS as u64 + FILES_SPARE) {
        child::skipped("ten thousand connections", &format!("a process may have {files:?} files here"));
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let mut broker = Child::start("crowd-broker", folder.path());
    let address = broker.address();
    std::fs::write(folder.path().join("address"), address.to_string()).expect("written");
    let mut admin = Raw::unix(&folder.path().join("tidegate.sock"));
    admin.hello(600_000);
    let mut witness = Raw::open(address);
    let mut number = 0;
    let mut publish = |slowest: &mut Duration| {
        number += 1;
        let began = Instant::now();
        witness.publishes(1, number, "witness");
        *slowest = (*slowest).max(began.elapsed());
    };
    let mut quiet = Duration::ZERO;
    publish(&mut quiet);
    let before = broker.resident_bytes();
    let mut crowd = Child::start("crowd-clients", folder.path());
    // Publishing goes on while they come.
    let mut slowest = Duration::ZERO;
    let mut published = 0;
    while admin.status()["connections"].as_u64().expect("a number") < u64::from(CONNECTIONS_MAX) {
        publish(&mut slowest);
        published += 1;
    }
    let told = crowd.line();
    let numbers: Vec<usize> = told.split(' ').map(|n| n.parse().expect("numbers")).collect();
    let [welcomed, refused, ms] = numbers[..] else { panic!("{told}") };
    let grown = broker.resident_bytes().saturating_sub(before);
    let each = grown / welcomed as u64;
    println!(
        "{CLIENTS} connections in {ms} ms: {welcomed} welcomed, {refused} told that there are too many; {each} bytes of \
         memory each; {published} publishes meanwhile, the slowest in {} ms ({} ms alone)",
        slowest.as_millis(),
        quiet.as_millis()
    );
    // The witness and the administrator were there before.
    assert_eq!((welcomed, refused), (CONNECTIONS_MAX as usize - 2, CLIENTS + 2 - CONNECTIONS_MAX as usize));
    assert!(published > 0, "nothing was published meanwhile");
    assert!(each <= CONNECTION_BYTES_MAX, "{each} bytes a connection");
    publish(&mut slowest);
    assert_eq!(crowd.ask("go"), "gone");
    admin.wait_for_status("connections", |n| n == 2);
    publish(&mut slowest);
    assert_eq!(broker.ask("stop"), "stopped well");
}
