//! Peers that are too slow, too silent or too many.

use super::Daemon;
use super::raw::{Nothing, PATIENCE, Raw, frame};
use std::time::{Duration, Instant};
use tidegate::wire::{Code, Contract, ErrorHead, FrameType, Ping, Pong, Publish};

/// Sends a byte every 20 ms until something comes back.
fn trickle(raw: &mut Raw, bytes: &[u8]) {
    for byte in bytes {
        raw.bytes(&[*byte]);
        match raw.peek(Duration::from_millis(20)) {
            Ok(()) => return,
            Err(Nothing::Quiet) => {}
            Err(Nothing::Closed) => panic!("closed without a word"),
        }
    }
}

#[test]
fn who_never_says_hello_is_let_go() {
    let daemon = Daemon::start(|s| {
        s.limits.handshake_ms = 200;
        s.limits.frame_timeout_ms = 60_000;
    });
    let mut witness = daemon.witness();
    let began = Instant::now();
    let mut silent = Raw::tcp(daemon.tcp());
    let mut slow = Raw::tcp(daemon.tcp());
    let mut unix = Raw::unix(&daemon.unix());
    trickle(&mut slow, &frame(0, 0, 0, &super::raw::hello(0), b"")[..36]);
    slow.expect_end(Code::HandshakeTimeout);
    silent.expect_end(Code::HandshakeTimeout);
    unix.expect_end(Code::HandshakeTimeout);
    assert!(began.elapsed() >= Duration::from_millis(200));
    witness.is_well();
    daemon.stop();
}

#[test]
fn who_says_nothing_for_three_heartbeats_is_let_go_and_who_pings_stays() {
    let daemon = Daemon::start(|_| ());
    let mut witness = daemon.witness();
    let mut silent = Raw::tcp(daemon.tcp());
    silent.hello(100);
    let mut lively = Raw::tcp(daemon.tcp());
    lively.hello(100);
    let began = Instant::now();
    let mut nonce = 0;
    while began.elapsed() < Duration::from_millis(600) {
        nonce += 1;
        lively.send(0, &Ping { nonce }, &[]);
        assert_eq!(lively.expect(FrameType::Pong).head::<Pong>().nonce, nonce);
        // Its own wait: the peer must only be heard of often enough.
        assert_eq!(lively.poll(Duration::from_millis(50)).err(), Some(Nothing::Quiet));
    }
    silent.expect_end(Code::HeartbeatTimeout);
    lively.publishes(1, 1, "well");
    witness.is_well();
    daemon.stop();
}

#[test]
fn a_byte_now_and_then_is_not_enough_for_a_frame() {
    let daemon = Daemon::start(|s| s.limits.frame_timeout_ms = 200);
    let mut witness = daemon.witness();
    let mut slow = daemon.open();
    trickle(&mut slow, &frame(0, 1, 1, &Publish { contract: Contract::Disk, number: 1, total: 100 }, &[0; 100]));
    slow.expect_end(Code::FrameTimeout);
    // What comes in time is taken, in however many pieces.
    let mut honest = daemon.open();
    for byte in frame(0, 0, 1, &Ping { nonce: 5 }, b"") {
        honest.bytes(&[byte]);
    }
    assert_eq!(honest.expect(FrameType::Pong).head::<Pong>().nonce, 5);
    witness.is_well();
    daemon.stop();
}

#[test]
fn connections_beyond_the_limit_are_told_so_and_room_is_found_again() {
    const OVER: usize = 200;
    let daemon = Daemon::start(|s| s.limits.connections_max = 3);
    let mut open: Vec<Raw> = (0..3).map(|_| daemon.open()).collect();
    // More than the machine itself tells: the flood is told, too.
    let mut over: Vec<Raw> = (0..OVER).map(|_| Raw::tcp(daemon.tcp())).collect();
    for raw in &mut over {
        let got = raw.poll(PATIENCE).unwrap_or_else(|why| panic!("{why:?} without a word"));
        assert_eq!(got.code(), Code::TooManyConnections);
        let head: ErrorHead<'_> = got.head();
        assert!(head.retry_after_ms > 0 && !head.detail.is_empty());
        assert_eq!(raw.poll(PATIENCE).err(), Some(Nothing::Closed));
    }
    open[0].publishes(1, 1, "well");
    drop(over);
    open.pop().expect("three").close();
    let began = Instant::now();
    loop {
        let mut raw = Raw::tcp(daemon.tcp());
        raw.send(0, &super::raw::hello(0), &[]);
        match raw.next() {
            got if got.kind == FrameType::Welcome => break,
            got => assert_eq!(got.code(), Code::TooManyConnections),
        }
        assert!(began.elapsed() < PATIENCE, "no room was found again");
    }
    daemon.stop();
}
