//! What goes on inside a handshake and after it: names, resumption, versions, sizes, ends.

use super::*;
use raw::Raw;
use rustls::{HandshakeKind, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::net::TcpStream;
use tidegate::client::{Heard, SubscribeOptions};

const BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

#[test]
fn the_name_a_client_calls_decides_which_certificate_it_sees() {
    let authority = Authority::new("the right authority");
    let [first, second, third] =
        [&["one.example"][..], &["two.example"], &["*.three.example"]].map(|n| authority.make(&Wanted::server(n)));
    let daemon = Daemon::start(&first, |files, settings| {
        for (name, made) in [("second", &second), ("third", &third)] {
            let (chain, key) = pki::put(files, name, made);
            settings.tls.certificates.push(chain);
            settings.tls.keys.push(format!("file:{}", key.display()));
        }
    });
    for (name, seen) in [
        (Some("one.example"), &first),
        (Some("TWO.example"), &second),
        (Some("a.three.example"), &third),
        (Some("a.b.three.example"), &first),
        (Some("three.example"), &first),
        (Some("unknown.example"), &first),
        (None, &first),
    ] {
        let stream = session(&daemon, name, &[]);
        let der = stream.conn.peer_certificates().expect("shown")[0].clone();
        let serial = tidegate::tls::CertificateFacts::read(&der).expect("whole").serial;
        assert_eq!(serial, seen.serial.to_bytes(), "{name:?}");
    }
}

#[test]
fn sessions_are_resumed_in_both_versions() {
    let (_, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    for version in BOTH {
        let config = Arc::new(blind(&[version], &[]));
        let kinds: Vec<_> = (0..3).map(|_| connect(&daemon, "localhost", &config).conn.handshake_kind()).collect();
        let (full, resumed) = (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed));
        assert_eq!(kinds, [full, resumed, resumed], "{version:?}");
    }
}

#[test]
fn the_protocol_inside_is_ours_or_not_named() {
    let (_, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    let stream = session(&daemon, Some("localhost"), &[b"h2", b"tidegate/1"]);
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"tidegate/1"[..]));
    let stream = session(&daemon, Some("localhost"), &[]);
    assert_eq!(stream.conn.alpn_protocol(), None);
    let config = Arc::new(blind(&BOTH, &[b"http/1.1"]));
    let error = try_connect(&daemon, "localhost", &config).expect_err("refused");
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    heard(&["no TLS with", "another protocol"]);
}

/// A hello of TLS 1.0 with nothing newer in it, by hand: no library of ours makes one.
fn hello_of_tls_1_0() -> Vec<u8> {
    let mut body = vec![3, 1];
    body.extend([7; 32]);
    body.push(0);
    // ECDHE with AES-CBC, and RSA.
    body.extend([0, 4, 0xc0, 0x13, 0x00, 0x2f]);
    body.extend([1, 0]);
    let groups = [0, 10, 0, 4, 0, 2, 0, 23];
    body.extend([0, groups.len() as u8]);
    body.extend(groups);
    let mut record = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    record.extend(body);
    record
}

#[test]
fn tls_1_0_is_refused_with_an_alert_and_named_in_the_log() {
    let (_, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    let mut stream = TcpStream::connect(daemon.running.tls()).expect("connected");
    let peer = stream.local_addr().expect("bound").to_string();
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(&hello_of_tls_1_0()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer, and an end");
    // Alert, fatal: such a client knows no signature algorithms either, so it may hear of a failure or of the version.
    assert!((answer[0], answer[5]) == (21, 2) && matches!(answer[6], 40 | 70), "{answer:?}");
    heard(&[&peer, "TLS 1.1 or older"]);
}

#[test]
fn a_certificate_may_be_shown_or_not_where_it_is_optional() {
    let (authority, made) = good();
    let clients = Authority::new("the clients' authority");
    let daemon = Daemon::asking(&made, ClientCertificates::Optional, &clients);
    publish(daemon.url("localhost"), daemon.trust(&authority)).expect("without");
    let mut trust = daemon.trust(&authority);
    let wanted = Wanted { names: &["urn://sensor/7"], ..Wanted::client("sensor-7") };
    let (chain, key) = pki::put(daemon.files.path(), "client", &clients.make(&wanted));
    (trust.certificate, trust.key) = (Some(chain), Some(key));
    publish(daemon.url("localhost"), trust).expect("with");
    // What the session is told of who is there.
    heard(&["via: Tls", "certificate: Some", "urn://sensor/7"]);
}

#[test]
fn large_messages_and_many_small_frames_pass_both_ways() {
    const LARGE: usize = 900 * 1_024;
    let (authority, made) = good();
    let daemon = Daemon::start(&made, |_, settings| settings.limits.outbox_bytes_max = 64 << 20);
    smol::block_on(async {
        let (address, options) = (daemon.url("localhost"), options(daemon.trust(&authority)));
        let reader = Client::connect(address.clone(), options.clone()).await.expect("connected");
        let subscribe = SubscribeOptions { inbox_bytes_max: 64 << 20, ..SubscribeOptions::default() };
        let mut heard = reader.subscribe("size/#", subscribe).await.expect("subscribed");
        let writer = Client::connect(address, options).await.expect("connected");
        let large: Vec<u8> = (0..LARGE).map(|i| (i * 31 % 251) as u8).collect();
        let mut sent = 0;
        for round in 0..4 {
            writer.send(&Message::new("size/large", &large[round..]).expect("valid")).await.expect("queued");
            for i in 0..2_000_u32 {
                writer.send(&Message::new("size/small", &i.to_be_bytes()).expect("valid")).await.expect("queued");
            }
            sent += 2_001;
        }
        writer.flush().await.expect("stored");
        let (mut large_heard, mut small_heard) = (0, 0_u32);
        for _ in 0..sent {
            let Heard::Message(message) = heard.next().await.expect("the session lives") else { panic!("a gap") };
            if message.channel() == "size/large" {
                assert!(message.payload() == &large[large_heard..], "message {large_heard}");
                large_heard += 1;
            } else {
                assert_eq!(message.payload(), (small_heard % 2_000).to_be_bytes());
                small_heard += 1;
            }
        }
        assert_eq!((large_heard, small_heard), (4, 8_000));
    });
}

#[test]
fn frames_pass_over_tls_1_2() {
    let (_, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    let config = Arc::new(blind(&[&rustls::version::TLS12], &[b"tidegate/1"]));
    let mut raw = Raw::over(Box::new(connect(&daemon, "localhost", &config)));
    raw.hello(60_000);
    for number in 1..=100 {
        raw.publishes(1, number, "site/small");
    }
}

#[test]
fn a_peer_that_goes_without_a_word_is_gone_and_nothing_else() {
    let (authority, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    let config = Arc::new(blind(&BOTH, &[b"tidegate/1"]));
    for _ in 0..10 {
        // Without close_notify: the socket is just closed.
        let mut raw = Raw::over(Box::new(connect(&daemon, "localhost", &config)));
        raw.hello(60_000);
        raw.publishes(1, 1, "site/rude");
    }
    publish(daemon.url("localhost"), daemon.trust(&authority)).expect("others are not disturbed");
}
