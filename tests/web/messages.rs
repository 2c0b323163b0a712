//! What travels in the messages of a WebSocket, and what must not.

use crate::Daemon;
use crate::ws::{BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Ws, ws_frame};
use std::io::Read;
use tidegate::wire::{Close, FrameType};

#[test]
fn a_frame_is_one_message_both_ways() {
    let daemon = Daemon::start(|_| ());
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    for number in 1..=3 {
        ws.publishes(number, "a/b");
    }
    // In pieces, with a ping between them.
    let frame = ws.publish(4, "a/b", &[7; 1_000]);
    ws.raw(false, BINARY, true, &frame[..10]);
    ws.raw(true, PING, true, b"there?");
    ws.raw(false, CONTINUATION, true, &[]);
    ws.raw(true, CONTINUATION, true, &frame[10..]);
    assert_eq!(ws.next(), Some((PONG, b"there?".to_vec())));
    ws.expect_ack(4);
    // Several messages in one write.
    let many: Vec<u8> = (5..=60).flat_map(|n| ws_frame(true, BINARY, true, &ws.publish(n, "a/b", b"x"))).collect();
    ws.write(&many);
    let mut acked = 4;
    while acked < 60 {
        let (kind, bytes) = ws.next_frame();
        assert_eq!(kind, FrameType::PublishAck);
        let count = u64::from(bytes[bytes.len() - 2]);
        acked += count;
    }
    // Close of a session is close of the WebSocket.
    ws.send(0, &Close { code: 0, detail: "" }, &[]);
    ws.expect_close(1_000);
    daemon.is_well();
}

#[test]
fn text_is_refused() {
    let daemon = Daemon::start(|_| ());
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    ws.raw(true, TEXT, true, b"{\"type\":\"hello\"}");
    assert!(ws.expect_close(1_003).contains("binary"));
    daemon.is_well();
}

#[test]
fn fragments_for_ever_are_ended() {
    let daemon = Daemon::start(|_| ());
    // Without bytes in them.
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    ws.raw(false, BINARY, true, b"T");
    let empty: Vec<u8> = (0..1_000).flat_map(|_| ws_frame(false, CONTINUATION, true, &[])).collect();
    for _ in 0..100 {
        ws.write(&empty);
    }
    assert!(ws.expect_close(1_008).contains("pieces"));
    // With bytes: they are as bounded as a message in one piece.
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    ws.raw(false, BINARY, true, b"TG");
    for _ in 0..200 {
        ws.raw(false, CONTINUATION, true, &[0; 1_000]);
    }
    ws.expect_close(1_009);
    daemon.is_well();
}

#[test]
fn a_message_too_large_is_refused_by_its_header() {
    let daemon = Daemon::start(|_| ());
    let mut ws = Ws::open(daemon.http());
    // Before the welcome little is taken.
    let mut header = ws_frame(true, BINARY, true, &[]);
    header[1] = 0x80 | 127;
    header.splice(2..2, (30_000u64).to_be_bytes());
    ws.write(&header);
    ws.expect_close(1_009);
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    header[2..10].copy_from_slice(&(1u64 << 62).to_be_bytes());
    ws.write(&header);
    ws.expect_close(1_009);
    daemon.is_well();
}

#[test]
fn wrong_masks_and_reserved_bits_break_the_protocol() {
    let daemon = Daemon::start(|_| ());
    type Bad = fn(&mut Ws);
    let bad: [(&str, Bad); 6] = [
        ("a frame without a mask", |ws| ws.raw(true, BINARY, false, b"TG")),
        ("a reserved bit", |ws| ws.write(&[0xc2, 0x80, 0, 0, 0, 0])),
        ("an unknown operation", |ws| ws.raw(true, 5, true, b"")),
        ("a continuation of nothing", |ws| ws.raw(true, CONTINUATION, true, b"TG")),
        ("a ping in pieces", |ws| ws.raw(false, PING, true, b"")),
        ("a long ping", |ws| ws.raw(true, PING, true, &[0; 126])),
    ];
    for (what, send) in bad {
        let mut ws = Ws::open(daemon.http());
        ws.hello();
        send(&mut ws);
        let reason = ws.expect_close(1_002);
        assert!(!reason.is_empty(), "{what}");
    }
    daemon.is_well();
}

#[test]
fn a_message_is_exactly_one_frame() {
    let daemon = Daemon::start(|_| ());
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    let two = [ws.publish(1, "a", b"x"), ws.publish(2, "a", b"x")].concat();
    ws.message(&two);
    assert!(ws.expect_close(1_007).contains("more than one frame"));
    for half in [0, 1, 10, 24, 30] {
        let mut ws = Ws::open(daemon.http());
        ws.hello();
        let frame = ws.publish(1, "a", b"x");
        ws.message(&frame[..half]);
        assert!(ws.expect_close(1_007).contains("less than one frame"), "{half} bytes");
    }
    daemon.is_well();
}

#[test]
fn errors_of_the_session_are_close_codes() {
    let daemon = Daemon::start(|_| ());
    // No frame at all: bad-magic, as over TCP.
    let mut ws = Ws::open(daemon.http());
    ws.message(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(ws.next_frame().0, FrameType::Error);
    assert!(ws.expect_close(4_001).starts_with("bad-magic"));
    // Not a hello first.
    let mut ws = Ws::open(daemon.http());
    let frame = ws.publish(1, "a", b"x");
    ws.message(&frame);
    assert_eq!(ws.next_frame().0, FrameType::Error);
    assert!(ws.expect_close(4_100).starts_with("hello-expected"));
    // A sequence that jumps.
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    ws.publish(1, "a", b"x");
    let frame = ws.publish(1, "a", b"x");
    ws.message(&frame);
    assert_eq!(ws.next_frame().0, FrameType::Error);
    assert!(ws.expect_close(4_009).starts_with("bad-sequence"));
    daemon.is_well();
}

#[test]
fn a_client_that_ignores_pings_is_ended_by_heartbeats() {
    let daemon = Daemon::start(|settings| settings.limits.heartbeat_ms = 1_000);
    let mut ws = Ws::open(daemon.http());
    ws.hello_with(100);
    // Pings and pongs of the WebSocket are no life of the session, nor are they answered for it.
    let mut pinged = false;
    loop {
        match ws.next().expect("a ping, or the end") {
            (BINARY, frame) if frame[3] == FrameType::Ping as u8 => pinged = true,
            (BINARY, frame) => {
                assert_eq!(frame[3], FrameType::Error as u8);
                break;
            }
            other => panic!("{other:?}"),
        }
        ws.raw(true, PONG, true, b"");
    }
    assert!(pinged);
    assert!(ws.expect_close(4_103).starts_with("heartbeat-timeout"));
    daemon.is_well();
}

#[test]
fn a_handshake_without_a_hello_times_out() {
    let daemon = Daemon::start(|settings| settings.limits.handshake_ms = 200);
    let mut ws = Ws::open(daemon.http());
    assert_eq!(ws.next_frame().0, FrameType::Error);
    assert!(ws.expect_close(4_101).starts_with("handshake-timeout"));
}

#[test]
fn a_broker_that_stops_says_so_in_its_close() {
    let daemon = Daemon::start(|_| ());
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    ws.publishes(1, "a");
    daemon.running.stopper.stop();
    ws.expect_close(1_001);
}

#[test]
fn a_peer_that_closes_is_answered_and_one_that_vanishes_is_forgotten() {
    let daemon = Daemon::start(|_| ());
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    ws.raw(true, CLOSE, true, &[]);
    let (operation, payload) = ws.next().expect("an answer");
    assert_eq!((operation, payload.len()), (CLOSE, 0));
    assert_eq!(ws.next(), None);
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    ws.stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    let mut rest = Vec::new();
    ws.stream.read_to_end(&mut rest).expect("the broker closes, too");
    daemon.is_well();
}
