//! New files under a running broker: taken without dropping a session, or refused with the old ones in force.

use super::*;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The serial number of the certificate the broker shows to who calls it by this name.
fn shown(daemon: &Daemon, name: Option<&str>) -> Vec<u8> {
    let stream = session(daemon, name, &[]);
    let der = stream.conn.peer_certificates().expect("shown")[0].clone();
    tidegate::tls::CertificateFacts::read(&der).expect("whole").serial
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_certificate_that_changes_is_shown_by_itself_and_under_load_no_session_is_dropped() {
    let (authority, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    assert_eq!(shown(&daemon, Some("localhost")), made.serial.to_bytes());
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (address, trust) = (daemon.url("localhost"), daemon.trust(&authority));
    let load = {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        std::thread::spawn(move || {
            smol::block_on(async {
                // A broken connection is an error here: nothing is tried again behind our back.
                let options = Options { reconnect: false, ..options(trust) };
                let client = Client::connect(address, options).await.expect("connected");
                while !stop.load(Ordering::Relaxed) {
                    client.publish(&Message::new("site/load", &[7; 300]).expect("valid")).await.expect("published");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                client.close().await;
            });
        })
    };
    for _ in 0..3 {
        let next = authority.make(&Wanted::server(&["localhost"]));
        pki::put(daemon.files.path(), "server", &next);
        wait_for("the new certificate is not shown", || shown(&daemon, Some("localhost")) == next.serial.to_bytes());
        let before = sent.load(Ordering::Relaxed);
        wait_for("the old session lives", || sent.load(Ordering::Relaxed) > before + 10);
    }
    stop.store(true, Ordering::Relaxed);
    load.join().expect("no session was dropped");
}

#[test]
fn bad_new_files_are_refused_with_their_reason_and_the_old_ones_stay() {
    let (authority, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    let here = Wanted::server(&["localhost"]);
    let other = authority.make(&here);
    let expired = authority.make(&Wanted { from: -20, until: -1, ..here.clone() });
    let early = authority.make(&Wanted { from: 3, ..here.clone() });
    let mixed = Made { key: other.key.clone(), ..made.clone() };
    let cut = Made { chain: made.chain[..200].into(), ..made.clone() };
    let no_key = Made { key: "nothing\n".into(), ..made.clone() };
    let cases = [
        (expired, "it expired on"),
        (early, "it is not valid before"),
        (mixed, "it is not the key of the first certificate"),
        (cut, "the file is cut off"),
        (no_key, "it holds no private key"),
    ];
    for (bad, why) in cases {
        pki::put(daemon.files.path(), "server", &bad);
        daemon.running.stopper.reload();
        let folder = daemon.files.path().display().to_string();
        heard(&["the new files are refused, the old ones stay in force", &folder, why]);
        assert_eq!(shown(&daemon, None), made.serial.to_bytes(), "{why}");
    }
    fs::remove_file(daemon.file("server.key")).expect("there");
    daemon.running.stopper.reload();
    heard(&["the old ones stay in force", &daemon.file("server.key").display().to_string(), "no such file"]);
    // And once it is right again it is taken, without being asked.
    pki::put(daemon.files.path(), "server", &other);
    wait_for("the good one is not shown", || shown(&daemon, None) == other.serial.to_bytes());
}

#[test]
fn a_key_that_others_may_read_is_refused_at_start_and_at_a_reload() {
    let (_, made) = good();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("ours");
    let refused =
        Daemon::try_start(&made, |files, _| open(&files.join("server.key"))).map(|_| ()).expect_err("refused");
    assert!(refused.contains("server.key") && refused.contains("others may read"), "{refused}");
    let daemon = Daemon::start(&made, |_, _| {});
    open(&daemon.file("server.key"));
    daemon.running.stopper.reload();
    heard(&["the old ones stay in force", &daemon.file("server.key").display().to_string(), "others may read"]);
    assert_eq!(shown(&daemon, None), made.serial.to_bytes());
}

#[test]
fn what_cannot_be_used_ends_the_start_with_the_file_and_the_reason() {
    let (authority, made) = good();
    let cases: Vec<(Made, &str, &str)> = vec![
        (Made { chain: "hello".into(), ..made.clone() }, "server.pem", "it holds no certificate"),
        (Made { key: authority.make(&Wanted::server(&["x"])).key, ..made.clone() }, "server.key", "it is not the key"),
        (Made { key: made.chain.clone(), ..made.clone() }, "server.key", "no private key but certificates"),
    ];
    for (bad, file, why) in cases {
        let refused = Daemon::try_start(&bad, |_, _| {}).map(|_| ()).expect_err(why);
        assert!(refused.contains(file) && refused.contains(why), "{refused}");
    }
    let refused = Daemon::try_start(&made, |files, settings| {
        ask(files, settings, ClientCertificates::Required, &authority);
        pki::write(&files.join("clients.pem"), &made.chain);
    });
    let refused = refused.map(|_| ()).expect_err("no authority");
    assert!(refused.contains("clients.pem") && refused.contains("is no authority"), "{refused}");
}

#[test]
fn a_revocation_takes_effect_by_itself_and_no_ticket_brings_the_revoked_back() {
    let (authority, made) = good();
    let clients = Authority::new("the clients' authority");
    let daemon = Daemon::start(&made, |files, settings| {
        ask(files, settings, ClientCertificates::Required, &clients);
        let list = files.join("list.pem");
        pki::write(&list, clients.revokes(&[], 10).0);
        settings.tls.client_crl = vec![list];
    });
    let (bad, good) = (clients.make(&Wanted::client("lost")), clients.make(&Wanted::client("kept")));
    let trust = |name: &str, made: &Made| {
        let mut trust = daemon.trust(&authority);
        let (chain, key) = pki::put(daemon.files.path(), name, made);
        (trust.certificate, trust.key) = (Some(chain), Some(key));
        trust
    };
    let (lost, kept) = (trust("lost", &bad), trust("kept", &good));
    // It keeps its tickets over both attempts.
    let mut connector = tidegate::tls::Connector::new(lost.clone(), tidegate::tls::ALPN_FRAMES);
    let mut attempt = || {
        smol::block_on(async {
            let stream = smol::net::TcpStream::connect(daemon.running.tls()).await.expect("connected");
            let mut stream = connector.connect(stream, "localhost").await.map_err(|error| error.to_string())?;
            // Anything that comes is the broker's error about this garbage, or its alert.
            stream.write_all(&[0; 64]).await.map_err(|error| error.to_string())?;
            stream.flush().await.map_err(|error| error.to_string())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(stream.handshake_kind())
        })
    };
    attempt().expect("not revoked");
    assert_eq!(attempt().expect("not revoked"), Some(rustls::HandshakeKind::Resumed));
    // As DER, which is taken as well.
    pki::write(&daemon.file("list.pem"), clients.revokes(std::slice::from_ref(&bad.serial), 10).1);
    wait_for("the revoked one still comes in", || attempt().is_err());
    let said = refusal(daemon.url("localhost"), lost);
    assert!(said.contains("was revoked"), "{said}");
    heard(&["no TLS with", "CN=lost", "was revoked"]);
    publish(daemon.url("localhost"), kept).expect("the other is not disturbed");
}

#[test]
fn an_overdue_list_is_said_and_still_revokes() {
    let (authority, made) = good();
    let clients = Authority::new("the clients' authority");
    let (bad, good) = (clients.make(&Wanted::client("lost")), clients.make(&Wanted::client("kept")));
    let daemon = Daemon::start(&made, |files, settings| {
        ask(files, settings, ClientCertificates::Required, &clients);
        let list = files.join("overdue.pem");
        pki::write(&list, clients.revokes(std::slice::from_ref(&bad.serial), -2).0);
        settings.tls.client_crl = vec![list];
    });
    heard(&[&daemon.file("overdue.pem").display().to_string(), "was to be replaced by"]);
    for (name, made, comes_in) in [("lost", &bad, false), ("kept", &good, true)] {
        let mut trust = daemon.trust(&authority);
        let (chain, key) = pki::put(daemon.files.path(), name, made);
        (trust.certificate, trust.key) = (Some(chain), Some(key));
        assert_eq!(publish(daemon.url("localhost"), trust).is_ok(), comes_in, "{name}");
    }
}

#[test]
fn the_end_of_a_certificate_is_said_before_and_after_it_comes() {
    let authority = Authority::new("the right authority");
    let here = Wanted::server(&["localhost"]);
    let soon = Daemon::start(&authority.make(&Wanted { until: 5, ..here.clone() }), |_, _| {});
    heard(&["WARN", &soon.file("server.pem").display().to_string(), "it ends in 4 days"]);
    publish(soon.url("localhost"), soon.trust(&authority)).expect("still good");
    // At a start there is no older one: the other doors must open, and whoever looks finds out why this one does not.
    let over = Daemon::start(&authority.make(&Wanted { from: -9, until: -1, ..here }), |_, _| {});
    heard(&["ERROR", &over.file("server.pem").display().to_string(), "it expired on"]);
    let plain = Address::Tcp("127.0.0.1".into(), over.running.tcp().port());
    publish(plain, Trust::default()).expect("the other door is open");
}
