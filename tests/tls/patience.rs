//! Peers that begin a handshake and do not end it: bounded in time and number, and in nobody's way.

use super::*;
use std::io::{Read, Write};

/// The beginning of a record that announces a client's hello of 500 bytes.
const HALF: [u8; 9] = [22, 3, 1, 1, 244, 1, 0, 1, 240];

#[test]
fn a_handshake_that_takes_too_long_is_ended_and_named_in_the_log() {
    let (authority, made) = good();
    let daemon = Daemon::start(&made, |_, settings| settings.limits.handshake_ms = 300);
    for beginning in [&b""[..], &HALF] {
        let mut stream = TcpStream::connect(daemon.running.tls()).expect("connected");
        let peer = stream.local_addr().expect("bound").to_string();
        stream.write_all(beginning).expect("sent");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        assert_eq!(stream.read(&mut [0; 64]).expect("ended, not timed out"), 0);
        heard(&[&peer, "limits.handshake"]);
    }
    publish(daemon.url("localhost"), daemon.trust(&authority)).expect("others are not disturbed");
}

#[test]
fn a_crowd_of_half_handshakes_keeps_nobody_out() {
    let (authority, made) = good();
    // None of them ends by time.
    let daemon = Daemon::start(&made, |_, settings| settings.limits.handshake_ms = 60_000);
    let witness = connect(&daemon, "localhost", &Arc::new(blind(tidegate::tls::VERSIONS, &[])));
    let mut crowd = Vec::new();
    for _ in 0..600 {
        let mut stream = TcpStream::connect(daemon.running.tls()).expect("connected");
        // One that was dropped meanwhile is as good.
        let _ = stream.write_all(&HALF);
        crowd.push(stream);
    }
    publish(daemon.url("localhost"), daemon.trust(&authority)).expect("within a few round trips");
    heard(&["a handshake was dropped"]);
    // The first of the crowd was dropped for the last.
    crowd[0].set_read_timeout(Some(PATIENCE)).expect("set");
    let ended = crowd[0].read(&mut [0; 1]);
    assert!(matches!(&ended, Ok(0)) || ended.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    // Nobody who was in is out, and the crowd is no session.
    let mut raw = raw::Raw::over(Box::new(witness));
    raw.hello(60_000);
    raw.publishes(1, 1, "site/witness");
}

#[test]
fn an_address_that_connects_too_often_gets_no_handshake() {
    let (_, made) = good();
    let daemon = Daemon::start(&made, |_, settings| settings.limits.rates.connects_per_second = 1);
    let config = Arc::new(blind(tidegate::tls::VERSIONS, &[]));
    // Ten at once, and one a second: of thirty, some come to an end before a byte.
    let refused = (0..30).filter(|_| try_connect(&daemon, "localhost", &config).is_err()).count();
    assert!((1..=20).contains(&refused), "{refused}");
    heard(&["no handshake with 127.0.0.1:", "connects too often"]);
}
