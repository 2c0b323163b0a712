//! Requests to the HTTP port before they are WebSockets, and those that never are.

use crate::ws::{UPGRADE, Ws};
use crate::{Daemon, PATIENCE};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use tidegate::transport::HTTP_CONNECTIONS_MAX;
use tidegate::wire::FrameType;

/// Ends a head whose answer ends the connection.
const END: &str = "Connection: close\r\n\r\n";

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn health_is_told_and_all_else_is_refused_in_words() {
    let daemon = Daemon::start(|_| ());
    let get =
        |what: &str| daemon.exchange(format!("{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    let healthy = get("GET /healthz");
    assert_eq!((status(&healthy), healthy.ends_with("\r\n\r\nok\n")), ("200", true), "{healthy}");
    let head = get("HEAD /healthz");
    assert_eq!((status(&head), head.ends_with("\r\n\r\n")), ("200", true), "{head}");
    assert_eq!(status(&get("GET /")), "404");
    assert_eq!(status(&get("GET /healthz/")), "404");
    assert!(get("GET /anything").contains("/ws"), "it says where things are");
    assert_eq!(status(&get("DELETE /healthz")), "405");
    assert_eq!(status(&get("POST /ws")), "405");
    assert_eq!(status(&get("GET /ws")), "426");
    daemon.is_well();
}

#[test]
fn a_connection_serves_several_requests_and_ends_when_idle() {
    let daemon = Daemon::start(|settings| settings.limits.handshake_ms = 300);
    let mut stream = daemon.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut answer = [0; 1_024];
        let mut got = 0;
        while !answer[..got].ends_with(b"ok\n") {
            let n = stream.read(&mut answer[got..]).expect("an answer");
            assert_ne!(n, 0, "the broker hung up");
            got += n;
        }
    }
}

#[test]
fn a_handshake_that_is_none_is_told_why() {
    let daemon = Daemon::start(|_| ());
    for (from, to, expected) in [
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", "400"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "x", "400"),
        ("Version: 13", "Version: 8", "426"),
        ("Sec-WebSocket-Version: 13\r\n", "", "426"),
        ("Upgrade: websocket\r\n", "", "426"),
        ("Connection: Upgrade\r\n", "", "426"),
        ("tidegate.v1", "tidegate.v9", "400"),
        ("Sec-WebSocket-Protocol: tidegate.v1\r\n", "", "400"),
        ("HTTP/1.1", "HTTP/1.0", "400"),
        ("Host: 127.0.0.1\r\n", "", "400"),
        ("Host: 127.0.0.1\r\n", "Host: 127.0.0.1\r\nHost: other\r\n", "400"),
        ("Host: 127.0.0.1\r\n", "Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n", "403"),
        ("Host: 127.0.0.1\r\n", "Host: 127.0.0.1\r\nOrigin: null\r\n", "403"),
    ] {
        assert!(UPGRADE.contains(from), "{from}");
        let request = UPGRADE.replace(from, to) + END;
        let answer = daemon.exchange(request.as_bytes());
        assert_eq!(status(&answer), expected, "{from:?} -> {to:?}: {answer}");
        let words = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        assert!(words.len() > 10 && words.ends_with('\n'), "{from:?} says nothing to people: {answer}");
    }
    daemon.is_well();
}

#[test]
fn cross_origin_pages_are_refused_unless_they_are_listed() {
    let daemon = Daemon::start(|settings| settings.http.origins = vec!["https://app.example".into()]);
    let port = daemon.http().port();
    Ws::open_with(daemon.http(), "Origin: https://app.example\r\n").hello();
    Ws::open_with(daemon.http(), "Origin: http://127.0.0.1\r\n").hello();
    for origin in ["https://evil.example", "https://app.example:8443", &format!("http://127.0.0.1:{port}0")] {
        let answer = daemon.exchange(format!("{UPGRADE}Origin: {origin}\r\n{END}").as_bytes());
        assert_eq!(status(&answer), "403", "{origin}");
        assert!(answer.contains("http.origins"), "it says what to do: {answer}");
    }
    daemon.is_well();
}

#[test]
fn whom_a_proxy_brings_is_no_peer_of_this_machine() {
    let forwarded = "X-Forwarded-For: 192.0.2.7\r\n";
    // Peers of this machine may come in without credentials; who comes by a proxy that nobody listed is none.
    let daemon = Daemon::start(|_| ());
    let answer = daemon.exchange(format!("{UPGRADE}{forwarded}{END}").as_bytes());
    assert_eq!(status(&answer), "403", "{answer}");
    assert!(answer.contains("http.trusted_proxies"), "{answer}");
    // Listed, its word counts: a stranger from elsewhere, who may do nothing here.
    let daemon = Daemon::start(|settings| settings.http.trusted_proxies = vec!["127.0.0.1".into()]);
    let mut ws = Ws::open_with(daemon.http(), forwarded);
    ws.send(0, &crate::raw::hello(60_000), &[]);
    assert_eq!(ws.next_frame().0, FrameType::Error);
    // Where proxies are listed, whoever comes by HTTP may have come by one: nobody is of this machine by that door.
    let mut ws = Ws::open(daemon.http());
    ws.send(0, &crate::raw::hello(60_000), &[]);
    assert_eq!(ws.next_frame().0, FrameType::Error);
    assert_eq!(status(&daemon.exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")), "200");
}

#[test]
fn heads_too_large_are_refused() {
    let daemon = Daemon::start(|_| ());
    let long = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(64 * 1_024));
    let mut stream = daemon.connect();
    // The broker may have closed before all of it is sent.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(status(&String::from_utf8_lossy(&answer)), "431");
    let many = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: x\r\n".repeat(200));
    assert_eq!(status(&daemon.exchange(many.as_bytes())), "431");
    daemon.is_well();
}

#[test]
fn a_head_that_comes_too_slowly_is_not_waited_for() {
    let daemon = Daemon::start(|settings| settings.limits.handshake_ms = 300);
    let mut stream = daemon.connect();
    stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout can be set");
    let began = Instant::now();
    // A byte now and then, for ever; none of them is the end.
    for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
        assert!(began.elapsed() < PATIENCE, "it is waited for");
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        let mut answer = [0; 512];
        match stream.read(&mut answer) {
            Ok(0) => break,
            Ok(n) => panic!("{}", String::from_utf8_lossy(&answer[..n])),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    daemon.is_well();
}

#[test]
fn what_is_no_http_is_refused() {
    let daemon = Daemon::start(|_| ());
    // Frames on the HTTP port.
    let answer =
        daemon.exchange(b"TG\x01\x01\0\0\0\x13\0\0\0\0\0\0\0\0\0\0\0\0\x35\xcf\x7b\x97\x01\x01\x08sensor-7\r\n\r\n");
    assert_eq!(status(&answer), "400");
    // A request in order, and garbage pipelined behind it.
    let answer = daemon.exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n\0\x01\x02garbage\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("HTTP/1.1 400 "), "{answer}");
    // HTTP/1.0 has no Host and no second request.
    let answer = daemon.exchange(b"GET /healthz HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("ok\n"), "{answer}");
    // HTTP/2 with prior knowledge: nobody there would read an answer.
    assert_eq!(daemon.exchange(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "");
    // Two lengths smuggle a second request.
    let smuggled =
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = daemon.exchange(smuggled);
    assert!(answer.matches("HTTP/1.1").count() == 1, "{answer}");
    daemon.is_well();
}

#[test]
fn what_is_sent_behind_the_handshake_is_not_lost() {
    let daemon = Daemon::start(|_| ());
    let mut ws = Ws::open(daemon.http());
    ws.hello();
    // The same in one write.
    let mut stream = daemon.connect();
    let hello = crate::raw::frame(0, 0, 0, &crate::raw::hello(0), &[]);
    let mut bytes = format!("{UPGRADE}\r\n").into_bytes();
    bytes.extend(crate::ws::ws_frame(true, crate::ws::BINARY, true, &hello));
    stream.write_all(&bytes).expect("sent");
    let mut got = Vec::new();
    while !got.windows(4).any(|bytes| bytes == b"TG\x01\x02") {
        let mut buffer = [0; 1_024];
        let n = stream.read(&mut buffer).expect("a welcome");
        assert_ne!(n, 0, "{}", String::from_utf8_lossy(&got));
        got.extend(&buffer[..n]);
    }
}

#[test]
fn connections_that_never_upgrade_are_bounded_and_told() {
    let daemon = Daemon::start(|settings| settings.limits.handshake_ms = 3_000);
    let all: Vec<_> = (0..1_000).map(|_| daemon.connect()).collect();
    let mut told = 0;
    for mut stream in all {
        let mut answer = String::new();
        // All end by themselves: the first when their time is over, the rest at once and with words.
        let _ = stream.read_to_string(&mut answer);
        if !answer.is_empty() {
            assert_eq!(status(&answer), "503", "{answer}");
            assert!(answer.contains("Retry-After: "), "{answer}");
            told += 1;
        }
    }
    assert!(told >= 1_000 - HTTP_CONNECTIONS_MAX - 10, "{told} were told");
    daemon.is_well();
}

#[test]
fn one_address_that_holds_every_place_keeps_no_other_out() {
    let daemon = Daemon::start(|settings| settings.limits.handshake_ms = 60_000);
    let crowd: Vec<_> = (0..HTTP_CONNECTIONS_MAX + 50).map(|_| daemon.connect()).collect();
    for _ in 0..3 {
        // Another of this machine's addresses.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("bound");
        socket.connect(&daemon.http().into()).expect("connected");
        let mut stream = std::net::TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.write_all(format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{END}").as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert_eq!(status(&answer), "200", "{answer}");
    }
    drop(crowd);
}
