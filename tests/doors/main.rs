//! All doors at once: two tenants with three roles each log in over TLS and work, while the certificate and the list of
//! revoked ones are replaced under them. Nobody is dropped, and nobody sees, guesses or fills what is another's.
#![cfg(feature = "daemon")]
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../support/pki.rs"]
mod pki;

use pki::{Authority, Wanted};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate::client::{
    Address, Client, ClientError, ConsumeOptions, Credentials, Heard, Message, Options, Refusal, Retry, SecretSource,
    SubscribeOptions,
};
use tidegate::config::{ClientCertificates, RoleSettings, Rules, TenantSettings};
use tidegate::daemon::testing::{self, Running};
use tidegate::seal::SigningKey;
use tidegate::tls::Trust;
use tidegate::wire::{Code, Since};

const PATIENCE: Duration = Duration::from_secs(60);
const TENANTS: [&str; 2] = ["acme", "globex"];
const ROLES: [&str; 3] = ["sensor", "reader", "operator"];

/// The seed of the key of somebody: any will do, each its own.
fn seed(tenant: usize, role: usize) -> [u8; 32] {
    [(1 + tenant * ROLES.len() + role) as u8; 32]
}

struct World {
    running: Running,
    files: tempfile::TempDir,
    authority: Authority,
    _data: tempfile::TempDir,
}

impl World {
    fn start() -> Self {
        let (data, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let authority = Authority::new("the authority");
        let mut settings = testing::settings(data.path());
        settings.listen.tls = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let (chain, key) = pki::put(files.path(), "server", &authority.make(&Wanted::server(&["localhost"])));
        (settings.tls.certificates, settings.tls.keys) = (vec![chain], vec![format!("file:{}", key.display())]);
        pki::write(&files.path().join("ca.pem"), authority.pem());
        settings.tls.client_certificates = ClientCertificates::Optional;
        settings.tls.client_ca = vec![files.path().join("ca.pem")];
        settings.tenants = TENANTS.map(|name| TenantSettings { name: name.into(), ..TenantSettings::default() }).into();
        let list = |filters: &[&str]| filters.iter().map(|filter| (*filter).to_owned()).collect::<Vec<_>>();
        settings.roles = vec![
            RoleSettings {
                name: "sensor".into(),
                allow: Rules { publish: list(&["site/{client}/#"]), ..Rules::default() },
                deny: Rules { publish: list(&["site/+/command"]), ..Rules::default() },
            },
            RoleSettings {
                name: "reader".into(),
                allow: Rules { subscribe: list(&["site/#"]), consume: list(&["main/site/#"]), ..Rules::default() },
                deny: Rules { subscribe: list(&["site/secret/#"]), ..Rules::default() },
            },
            RoleSettings {
                name: "operator".into(),
                allow: Rules {
                    publish: list(&["#"]),
                    subscribe: list(&["#"]),
                    consume: list(&["#"]),
                    admin: list(&["$admin/#"]),
                    ..Rules::default()
                },
                deny: Rules::default(),
            },
        ];
        let mut identities = String::new();
        for (t, tenant) in TENANTS.iter().enumerate() {
            for (r, role) in ROLES.iter().enumerate() {
                let public = SigningKey::from_seed(&seed(t, r)).public();
                identities.push_str(&format!("key {public} name={role}-1 tenant={tenant} roles={role}\n"));
            }
        }
        let path = files.path().join("identities");
        pki::write(&path, &identities);
        settings.auth.identities = Some(path);
        let running = testing::spawn(settings).expect("the daemon starts");
        Self { running, files, authority, _data: data }
    }

    fn address(&self) -> Address {
        Address::Tls("localhost".into(), self.running.tls().port())
    }

    /// Of somebody who wants nothing done again behind our back.
    fn options(&self, credentials: Option<Credentials>) -> Options {
        let tls = Trust { ca: vec![self.files.path().join("ca.pem")], ..Trust::default() };
        let once = Options { reconnect: false, retry: Retry::Never, ..Options::default() };
        Options { tls, credentials, connect_timeout_ms: 20_000, ..once }
    }

    async fn login(&self, tenant: usize, role: usize) -> Client {
        let key = Credentials::Key(SecretSource::Bytes(seed(tenant, role).to_vec().into()));
        Client::connect(self.address(), self.options(Some(key))).await.expect("let in")
    }

    /// The serial number of the certificate shown to who comes now.
    fn shown(&self) -> Vec<u8> {
        let mut roots = rustls::RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(self.authority.pem().as_bytes()) {
            roots.add(der.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = rustls::ClientConnection::new(config, name).unwrap();
        let mut tcp = TcpStream::connect(self.running.tls()).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp).expect("a handshake");
        }
        tidegate::tls::CertificateFacts::read(&tls.peer_certificates().unwrap()[0]).unwrap().serial
    }
}

/// What the broker refused with.
#[track_caller]
fn code<T>(outcome: Result<T, ClientError>) -> Option<Code> {
    match outcome {
        Err(ClientError::Refused(Refusal { code, .. })) => code,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => None,
    }
}

fn path_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}

#[track_caller]
fn wait_for(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What comes within a test's patience.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let late = async {
        smol::Timer::after(PATIENCE).await;
        panic!("nothing came");
    };
    smol::future::or(future, late).await
}

/// Stops the sensors, also when what watches them panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Publishes until told to stop; gives the payloads that were acknowledged, in order.
fn sensor(world: &World, tenant: usize, stop: &AtomicBool, sent: &AtomicU64) -> Vec<String> {
    smol::block_on(async {
        let client = world.login(tenant, 0).await;
        let mut all = Vec::new();
        // Both tenants use the same ids and channels: they are two spaces.
        for n in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let payload = format!("{} {n}", TENANTS[tenant]);
            let mut message = Message::new("site/sensor-1/temp", payload.as_bytes()).unwrap();
            message.id = tidegate::client::Id::Given(tidegate::model::MessageId(
                [n.to_be_bytes(), n.to_be_bytes()].concat().try_into().unwrap(),
            ));
            let outcome = client.publish(&message).await.expect("published on the first connection");
            assert_eq!(outcome, tidegate::wire::Outcome::Stored, "{payload}");
            all.push(payload);
            sent.fetch_add(1, Ordering::Relaxed);
        }
        client.close().await;
        all
    })
}

/// Hears and consumes until the last message has come; gives what came each way.
fn reader(world: &World, tenant: usize, ready: &AtomicU64, last: &std::sync::OnceLock<String>) -> [Vec<String>; 2] {
    smol::block_on(async {
        let client = world.login(tenant, 1).await;
        let mut live = client.subscribe("site/sensor-1/#", SubscribeOptions::default()).await.expect("allowed");
        let wants = ConsumeOptions { filters: vec!["site/#".into()], ..ConsumeOptions::default() };
        let mut consumer = client.consume("main", "reader", wants).await.expect("allowed");
        ready.fetch_add(1, Ordering::Relaxed);
        let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
        let (mut heard, mut consumed) = (Vec::<String>::new(), Vec::<String>::new());
        let over = |all: &[String]| last.get().is_some_and(|last| all.last() == Some(last));
        while !over(&consumed) {
            let delivery = soon(consumer.next()).await.expect("the session lives");
            consumer.ack(&delivery);
            consumed.push(text(delivery.message.payload()));
        }
        while !over(&heard) {
            match soon(live.next()).await.expect("the session lives") {
                Heard::Message(message) => heard.push(text(message.payload())),
                Heard::Dropped(n) => panic!("{n} dropped"),
                Heard::Reconnected { .. } => panic!("the connection was lost"),
            }
        }
        assert_eq!(client.stats().sessions, 1, "the reader's session was dropped");
        [heard, consumed]
    })
}

#[test]
fn two_tenants_with_three_roles_work_through_a_change_of_certificates_without_a_drop_or_a_leak() {
    let world = World::start();
    let (stop, sent, ready) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2], AtomicU64::new(0));
    let last = [const { std::sync::OnceLock::new() }; 2];
    let first = world.shown();
    let (published, came) = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|t| {
                let (world, ready, last) = (&world, &ready, &last[t]);
                scope.spawn(move || reader(world, t, ready, last))
            })
            .collect();
        wait_for("the readers listen", || ready.load(Ordering::Relaxed) == 2);
        let stopping = Stop(&stop);
        let sensors: Vec<_> = (0..2)
            .map(|t| {
                let (world, stop, sent) = (&world, &stop, &sent[t]);
                scope.spawn(move || sensor(world, t, stop, sent))
            })
            .collect();
        let on = |n: u64| {
            let from = [0, 1].map(|t| sent[t].load(Ordering::Relaxed));
            wait_for("messages go on", || (0..2).all(|t| sent[t].load(Ordering::Relaxed) >= from[t] + n));
        };
        on(20);
        let mut serials = BTreeSet::from([first.clone()]);
        for _ in 0..2 {
            let next = world.authority.make(&Wanted::server(&["localhost"]));
            pki::put(world.files.path(), "server", &next);
            wait_for("the new certificate is shown", || world.shown() == next.serial.to_bytes());
            serials.insert(next.serial.to_bytes());
            on(20);
        }
        assert_eq!(serials.len(), 3);
        // And one that is no good changes nothing.
        pki::write(&path_of(world.files.path(), "server.pem"), "nothing");
        world.running.stopper.reload();
        on(20);
        assert!(serials.contains(&world.shown()));
        forbidden(&world);
        on(20);
        drop(stopping);
        let published: Vec<Vec<String>> = sensors.into_iter().map(|s| s.join().expect("no session dropped")).collect();
        for t in 0..2 {
            last[t].set(published[t].last().unwrap().clone()).unwrap();
        }
        // Wakes a reader that had read the last one before it was known to be the last.
        smol::block_on(async {
            for (t, published) in published.iter().enumerate() {
                let operator = world.login(t, 2).await;
                let end = published.last().unwrap();
                operator.publish(&Message::new("site/sensor-1/temp", end.as_bytes()).unwrap()).await.unwrap();
            }
        });
        let came: Vec<[Vec<String>; 2]> = readers.into_iter().map(|r| r.join().expect("no session dropped")).collect();
        (published, came)
    });
    for t in 0..2 {
        for (way, got) in ["heard", "consumed"].iter().zip(&came[t]) {
            let mut expected = published[t].clone();
            if got.len() > expected.len() {
                expected.push(published[t].last().unwrap().clone());
            }
            assert_eq!(*got, expected, "what {} {way}", TENANTS[t]);
        }
    }
}

/// What each may not do, over sessions of its own, and what an operator sees of its tenant.
fn forbidden(world: &World) {
    smol::block_on(async {
        for (t, tenant) in TENANTS.iter().enumerate() {
            let [sensor, reader, operator] =
                [world.login(t, 0).await, world.login(t, 1).await, world.login(t, 2).await];
            for channel in ["site/sensor-2/temp", "site/sensor-1/command", "other", "site"] {
                let refused = sensor.publish(&Message::new(channel, b"x").unwrap()).await;
                assert_eq!(code(refused), Some(Code::Forbidden), "a sensor publishes to {channel}");
            }
            assert_eq!(code(sensor.subscribe("site/#", SubscribeOptions::default()).await), Some(Code::Forbidden));
            assert_eq!(code(sensor.consume("main", "reader", ConsumeOptions::default()).await), Some(Code::Forbidden));
            for filter in ["#", "+/#", "site/#", "site/secret", "site/+/key", "other", "$admin/#"] {
                let refused = reader.subscribe(filter, SubscribeOptions::default()).await;
                assert_eq!(code(refused), Some(Code::Forbidden), "a reader hears {filter}");
            }
            let history = SubscribeOptions { since: Since::Last(1), ..SubscribeOptions::default() };
            assert_eq!(code(reader.subscribe("other", history).await), Some(Code::Forbidden));
            // Without filters it would be all of the queue.
            assert_eq!(code(reader.consume("main", "all", ConsumeOptions::default()).await), Some(Code::Forbidden));
            let refused = reader.publish(&Message::new("site/reader-1/x", b"x").unwrap()).await;
            assert_eq!(code(refused), Some(Code::Forbidden));
            assert_eq!(code(reader.request("$admin/status", b"", 5_000).await), Some(Code::Forbidden));
            // No name leads into another's space.
            let other = TENANTS[1 - t];
            for queue in [format!("{other}/main"), format!("../{other}/main"), other.to_string(), "\u{0}".into()] {
                let refused = operator.consume(&queue, "spy", ConsumeOptions::default()).await;
                assert!(matches!(code(refused), Some(Code::UnknownQueue | Code::BadName)), "{queue:?}");
            }
            let queues = operator.request("$admin/queues", b"", 5_000).await.expect("an operator may ask");
            let queues: serde_json::Value = serde_json::from_slice(&queues.body).unwrap();
            let mut seen: BTreeMap<String, u64> = BTreeMap::new();
            for queue in queues.as_array().expect("a list") {
                *seen.entry(queue["name"].as_str().unwrap().into()).or_default() += 1;
            }
            assert_eq!(seen, BTreeMap::from([("main".to_owned(), 1)]), "what {tenant} sees");
            for client in [sensor, reader, operator] {
                assert_eq!(client.stats().sessions, 1);
                client.close().await;
            }
        }
        // And without credentials, or with a key nobody knows, there is nothing to be had.
        let stranger = Client::connect(world.address(), world.options(None)).await;
        assert!(matches!(stranger, Err(ClientError::Credentials(_))), "a stranger is asked who it is");
        let unknown = Credentials::Key(SecretSource::Bytes(vec![99; 32].into()));
        let stranger = Client::connect(world.address(), world.options(Some(unknown))).await;
        assert_eq!(code(stranger), Some(Code::AuthFailed));
    });
}
