//! The client of this crate over a WebSocket.

use crate::pki::{self, Authority, Wanted};
use crate::{Daemon, PATIENCE};
use std::io::{Read, Write};
use std::net::TcpStream;
use tidegate::client::{Address, Client, ClientError, Heard, Message, Options, SubscribeOptions};
use tidegate::tls::Trust;
use tidegate::wire::Outcome;

fn address(daemon: &Daemon) -> Address {
    format!("ws://{}/ws", daemon.http()).parse().expect("an address")
}

#[test]
fn the_client_publishes_and_hears_over_a_websocket() {
    let daemon = Daemon::start(|_| ());
    smol::block_on(async {
        let client = Client::connect(address(&daemon), Options::default()).await.expect("connected");
        let mut heard = client.subscribe("a/#", SubscribeOptions::default()).await.expect("subscribed");
        // Small ones, several chunks, and more than a socket takes at once.
        for size in [0, 1, 16_385, 100_000, 900_000] {
            let payload = vec![7; size];
            let message = Message::new("a/b", &payload).expect("a message");
            assert_eq!(client.publish(&message).await.expect("taken"), Outcome::Stored);
            match heard.next().await.expect("heard") {
                Heard::Message(delivery) => assert_eq!(delivery.payload(), payload),
                other => panic!("{other:?}"),
            }
        }
        for n in 0..2_000_u32 {
            client.send(&Message::new("b", &n.to_be_bytes()).expect("a message")).await.expect("queued");
        }
        let stats = client.flush().await.expect("all taken");
        assert_eq!(stats.stored, 2_005);
        client.close().await;
    });
    daemon.is_well();
}

#[test]
fn a_server_that_is_no_broker_is_told_from_one() {
    let daemon = Daemon::start(|_| ());
    smol::block_on(async {
        let elsewhere = format!("ws://{}/healthz", daemon.http()).parse().expect("an address");
        let options = Options { reconnect: false, ..Options::default() };
        match Client::connect(elsewhere, options).await.expect_err("no WebSocket is there") {
            ClientError::Connect(_, why) => assert!(why.contains("the server answered 200"), "{why}"),
            other => panic!("{other}"),
        }
    });
}

#[test]
fn the_same_over_tls_with_http_inside() {
    let (authority, files) = (Authority::new("the right authority"), tempfile::tempdir().expect("folder"));
    let (chain, key) = pki::put(files.path(), "server", &authority.make(&Wanted::server(&["localhost", "127.0.0.1"])));
    let trusted = files.path().join("trusted.pem");
    pki::write(&trusted, authority.pem());
    let daemon = Daemon::start(|settings| {
        settings.listen.https = vec![([127, 0, 0, 1], 0).into()];
        settings.tls.certificates = vec![chain];
        settings.tls.keys = vec![format!("file:{}", key.display())];
    });
    let port = daemon.running.https().port();
    let options = |trust| Options { tls: trust, reconnect: false, ..Options::default() };
    let address: Address = format!("wss://localhost:{port}/ws").parse().expect("an address");
    smol::block_on(async {
        let trust = Trust { ca: vec![trusted], ..Trust::default() };
        let client = Client::connect(address.clone(), options(trust)).await.expect("connected");
        let payload = vec![7; 300_000];
        let message = Message::new("a/b", &payload).expect("a message");
        assert_eq!(client.publish(&message).await.expect("taken"), Outcome::Stored);
        client.close().await;
        // Whoever does not trust it does not connect.
        match Client::connect(address, options(Trust::default())).await.expect_err("nobody signed it here") {
            ClientError::Tls(..) => {}
            other => panic!("{other}"),
        }
    });
    // Plaintext on the TLS port is no conversation: an alert at most, and the end.
    let mut stream = TcpStream::connect(daemon.running.https()).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    // It may be reset.
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
    daemon.is_well();
}
