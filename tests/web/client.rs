//! The client of this crate over a WebSocket.

use crate::Daemon;
use tidegate::client::{Address, Client, ClientError, Heard, Message, Options, SubscribeOptions};
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
