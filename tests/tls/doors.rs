//! Each mistake with certificates, on both sides: nobody gets in, and who looks finds out why.

use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn a_client_that_knows_the_authority_publishes() {
    let (authority, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    publish(daemon.url("localhost"), daemon.trust(&authority)).expect("by name");
    publish(daemon.url("127.0.0.1"), daemon.trust(&authority)).expect("by address");
}

#[test]
fn a_server_certificate_that_is_wrong_is_refused_by_the_client_in_words() {
    let (authority, stranger) = (Authority::new("the right authority"), Authority::new("a stranger"));
    let here = Wanted::server(&["localhost"]);
    let cases: Vec<(&str, Made, &[&str])> = vec![
        ("expired", authority.make(&Wanted { from: -30, until: -1, ..here.clone() }), &["expired on 20", "renewed"]),
        ("not yet valid", authority.make(&Wanted { from: 2, ..here.clone() }), &["not valid before 20", "clock"]),
        (
            "wrong host",
            authority.make(&Wanted::server(&["broker.example", "10.0.0.1"])),
            &["broker.example, 10.0.0.1", "not for localhost", "--server-name"],
        ),
        ("wrong authority", stranger.make(&here), &["a stranger", "not trusted", "--ca"]),
        ("signed by itself", here.by_itself(), &["signed by itself", "--ca"]),
        (
            "a client's",
            authority.make(&Wanted { names: &["localhost"], ..Wanted::client("me") }),
            &["not made for servers"],
        ),
    ];
    for (what, shown, words) in cases {
        let daemon = Daemon::start(&shown, |_, _| {});
        let said = refusal(daemon.url("localhost"), daemon.trust(&authority));
        for word in words {
            assert!(said.contains(word), "{what}: {word:?} is not in {said:?}");
        }
    }
}

#[test]
fn a_revoked_server_certificate_is_refused_by_a_client_with_the_list() {
    let (authority, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    let mut trust = daemon.trust(&authority);
    let list = daemon.file("list.pem");
    trust.crl = vec![list.clone()];
    pki::write(&list, authority.revokes(&[], 10).0);
    publish(daemon.url("localhost"), trust.clone()).expect("not revoked");
    pki::write(&list, authority.revokes(std::slice::from_ref(&made.serial), 10).1);
    let said = refusal(daemon.url("localhost"), trust);
    assert!(said.contains("was revoked"), "{said}");
}

#[test]
fn a_client_certificate_that_is_wrong_is_refused_by_the_broker_and_both_say_why() {
    let (authority, made) = good();
    let clients = Authority::new("the clients' authority");
    let daemon = Daemon::asking(&made, ClientCertificates::Required, &clients);
    let me = Wanted::client("sensor-7");
    let stranger = Authority::new("a stranger");
    let cases: Vec<(&str, Made, &str, &str)> = vec![
        (
            "expired",
            clients.make(&Wanted { from: -30, until: -1, common_name: "old", ..me.clone() }),
            "expired",
            "expired on",
        ),
        (
            "early",
            clients.make(&Wanted { from: 2, common_name: "early", ..me.clone() }),
            "not valid yet",
            "not valid before",
        ),
        (
            "stranger",
            stranger.make(&Wanted { common_name: "far", ..me.clone() }),
            "does not know who signed",
            "not trusted",
        ),
        (
            "itself",
            Wanted { common_name: "own", ..me.clone() }.by_itself(),
            "does not know who signed",
            "signed by itself",
        ),
        (
            "a server's",
            clients.make(&Wanted { common_name: "host", ..Wanted::server(&["localhost"]) }),
            "refused this client's",
            "not made for clients",
        ),
    ];
    for (what, shown, client_says, broker_says) in cases {
        let mut trust = daemon.trust(&authority);
        let (chain, key) = pki::put(daemon.files.path(), "client", &shown);
        (trust.certificate, trust.key) = (Some(chain), Some(key));
        let said = refusal(daemon.url("localhost"), trust);
        assert!(said.contains(client_says), "{what}: {said}");
        heard(&["no TLS with 127.0.0.1:", broker_says]);
    }
    let said = refusal(daemon.url("localhost"), daemon.trust(&authority));
    assert!(said.contains("--cert and --key"), "none: {said}");
    let mut trust = daemon.trust(&authority);
    let (chain, key) = pki::put(daemon.files.path(), "client", &clients.make(&me));
    (trust.certificate, trust.key) = (Some(chain), Some(key));
    publish(daemon.url("localhost"), trust).expect("a good one");
}

#[test]
fn plaintext_on_the_tls_port_is_answered_with_an_alert_and_named_in_the_log() {
    let (authority, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    let address = daemon.running.tls();
    for (sent, named) in
        [(&b"GET / HTTP/1.1\r\n\r\n"[..], "HTTP without TLS"), (b"TG\x01\x00 whatever", "frames without TLS")]
    {
        let mut stream = TcpStream::connect(address).expect("connected");
        let peer = stream.local_addr().expect("bound").to_string();
        stream.write_all(sent).expect("sent");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer, and an end");
        // A record of type alert, level fatal.
        assert_eq!((answer[0], answer[5]), (21, 2), "{answer:?}");
        heard(&[&peer, named]);
    }
    publish(daemon.url("localhost"), daemon.trust(&authority)).expect("others are not disturbed");
    let mut admin = raw::Raw::unix(&daemon.running.unix());
    admin.hello(60_000);
    assert_eq!(admin.status()["counters"]["no_tls.plaintext"], 2);
}

#[test]
fn a_client_that_speaks_tls_to_a_plain_port_says_so() {
    let (authority, made) = good();
    let daemon = Daemon::start(&made, |_, _| {});
    let plain = Address::Tls("localhost".into(), daemon.running.tcp().port());
    let said = refusal(plain, daemon.trust(&authority));
    assert!(said.contains("tcp:// instead of tls://"), "{said}");
}
