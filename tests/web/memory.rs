//! What an idle connection costs the broker.

use crate::child::Child;
use crate::pki::{self, Authority, Wanted};
use crate::raw;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream;
use std::net::SocketAddr;
use std::path::Path;
use tidegate::config::Settings;
use tidegate::daemon::testing;
use tidegate::tls::{ALPN_HTTP, Connector, TlsStream, Trust};
use tidegate::websocket::{self, Frames};

/// Connections that warm the allocator, and those that are counted.
const FIRST: usize = 200;
const COUNTED: u64 = 1_000;
/// Most that one may cost, in bytes of resident memory.
const BYTES_MAX: u64 = 32 * 1_024;

/// Settings of the broker in a process of its own, whose certificate is in the folder.
pub fn settings(folder: &Path) -> Settings {
    let mut settings = testing::settings(&folder.join("data"));
    settings.listen.https = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    settings.tls.certificates = vec![folder.join("server.pem")];
    settings.tls.keys = vec![format!("file:{}", folder.join("server.key").display())];
    settings
}

async fn open(connector: &mut Connector, address: SocketAddr) -> Frames<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await.expect("connected");
    let stream = connector.connect(stream, "localhost").await.expect("TLS");
    let mut frames = websocket::connect(stream, "localhost", "/ws", 1 << 17).await.expect("a WebSocket");
    frames.write_all(&raw::frame(0, 0, 0, &raw::hello(600_000), &[])).await.expect("sent");
    frames.flush().await.expect("sent");
    let mut header = [0; 24];
    frames.read_exact(&mut header).await.expect("a welcome");
    assert_eq!(header[3], 2, "a welcome");
    frames
}

#[test]
fn an_idle_websocket_over_tls_costs_less_than_32_kib() {
    let folder = tempfile::tempdir().expect("folder");
    let authority = Authority::new("the right authority");
    let made = authority.make(&Wanted::server(&["localhost"]));
    pki::write(&folder.path().join("server.pem"), &made.chain);
    pki::write(&folder.path().join("server.key"), &made.key);
    let trusted = folder.path().join("trusted.pem");
    pki::write(&trusted, authority.pem());

    let mut child = Child::start("websockets", folder.path());
    child.address();
    let ready = std::fs::read(folder.path().join("data/ready.json")).expect("it listens");
    let ready: serde_json::Value = serde_json::from_slice(&ready).expect("JSON");
    let address = ready["https"][0].as_str().expect("an address").parse().expect("an address");
    let mut connector = Connector::new(Trust { ca: vec![trusted], ..Trust::default() }, ALPN_HTTP);
    let bytes = smol::block_on(async {
        let mut held = Vec::new();
        for _ in 0..FIRST {
            held.push(open(&mut connector, address).await);
        }
        let before = child.resident_bytes();
        for _ in 0..COUNTED {
            held.push(open(&mut connector, address).await);
        }
        (child.resident_bytes() - before) / COUNTED
    });
    println!("an idle WebSocket over TLS costs {bytes} bytes");
    assert!(bytes < BYTES_MAX, "{bytes} bytes a connection");
}
