//! Logging in: who is asked for what, what is told to whom, what a flood costs, and what ends with its credentials.

use super::world::{HELLO, World};
use crate::broker::login::EXPIRY_NOTICE_MS;
use crate::broker::{Event, Peer};
use crate::config::{IssuerSettings, Settings, TenantSettings};
use crate::model::{ConnId, Wall};
use crate::session::{Attempt, Certificate, Denied, Method, Principal, Via};
use crate::wire::{
    self, Auth, Code, Done, ErrorHead, Extended, Extension, FrameType, Goaway, Head, Hello, Ping, Pong, Reauth,
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

fn from(ip: &str) -> Peer {
    Peer::tcp(SocketAddr::new(ip.parse().expect("an address"), 4_000))
}

/// Somebody elsewhere.
fn remote() -> Peer {
    from("192.0.2.7")
}

fn with_certificate() -> Peer {
    let certificate = Certificate { names: vec!["box-7".into()], fingerprint: [1; 32], expires: Wall(u64::MAX) };
    let address = SocketAddr::new(IpAddr::from([192, 0, 2, 8]), 4_000);
    Peer::Ip { address, via: Via::Tls, certificate: Some(Arc::new(certificate)) }
}

fn locked() -> Settings {
    let mut settings = Settings::default();
    settings.auth.identities = Some("identities".into());
    settings
}

fn issuer() -> IssuerSettings {
    IssuerSettings {
        name: "issuer".into(),
        algorithms: vec!["EdDSA".into()],
        keys: vec!["file:issuer.pem".into()],
        jwks: None,
        audiences: vec!["tidegate".into()],
        leeway_ms: 0,
        tenant: String::new(),
        roles: Vec::new(),
    }
}

fn principal(name: &str) -> Principal {
    Principal { name: name.into(), roles: vec!["open".into()], method: Method::Key, ..Principal::default() }
}

fn denied() -> Denied {
    Denied { reason: "bad-signature", detail: "the signature is of another key".into() }
}

impl World {
    fn say_hello(&mut self, conn: ConnId, methods: &[Method]) {
        let numbers: Vec<u8> = methods.iter().map(|m| *m as u8).collect();
        self.say_hello_raw(conn, &numbers);
    }

    fn say_hello_raw(&mut self, conn: ConnId, methods: &[u8]) {
        let extensions = [Extension { tag: wire::EXTENSION_AUTH_METHODS, value: methods }];
        let mut out = vec![0; 1_024];
        let head = Extended { head: HELLO, extensions: &extensions };
        let n = wire::encode_extended::<Hello<'_>>(&mut out, 0, 0, self.skip_sequence(conn), &head, &[]).expect("fits");
        self.send_bytes(conn, &out[..n]);
    }

    fn enter(&mut self, peer: Peer, methods: &[Method]) -> ConnId {
        let conn = self.connect_from(peer);
        self.say_hello(conn, methods);
        conn
    }

    /// The challenge that arrived.
    fn challenge(&mut self, conn: ConnId) -> (Method, Vec<u8>) {
        let seen = self.expect(conn);
        let head = seen.get::<Auth<'_>>();
        (Method::from_u8(head.method).expect("a known method"), head.data.to_vec())
    }

    fn show(&mut self, conn: ConnId, method: Method, data: &[u8]) {
        self.send(conn, 0, &Auth { method: method as u8, data }, &[]);
    }

    fn show_again(&mut self, conn: ConnId, method: Method, data: &[u8]) {
        self.send(conn, 0, &Reauth { method: method as u8, data }, &[]);
    }

    /// Answers the oldest check.
    fn judge(&mut self, outcome: Result<Principal, Denied>) -> Attempt {
        let (conn, attempt) = self.asked.pop_front().expect("something is to be checked");
        self.event(Event::Authenticated { conn, outcome });
        attempt
    }

    /// A session opened by a key, as this principal.
    fn opened_as(&mut self, peer: Peer, principal: Principal) -> ConnId {
        let conn = self.enter(peer, &[Method::Key]);
        self.challenge(conn);
        self.show(conn, Method::Key, &[7; 96]);
        self.judge(Ok(principal));
        assert_eq!(self.expect(conn).kind, FrameType::Welcome);
        conn
    }

    fn error(&mut self, conn: ConnId) -> (Code, u32, String) {
        let seen = self.expect(conn);
        let head = seen.get::<ErrorHead<'_>>();
        assert_eq!(seen.stream, 0);
        (Code::from_u16(head.code).expect("known"), head.retry_after_ms, head.detail.to_owned())
    }

    fn counted(&self, name: &str) -> u64 {
        let mut found = 0;
        self.broker.counters().visit(&mut |n, value| {
            if n == name {
                found = value;
            }
        });
        found
    }
}

#[test]
fn without_any_settings_this_machine_comes_in_and_others_do_not() {
    let mut w = World::with(Settings::default());
    for peer in [from("127.0.0.1"), from("::1"), from("::ffff:127.0.0.1"), Peer::Unix { uid: 5, pid: 1, admin: false }]
    {
        let conn = w.connect_from(peer);
        w.send(conn, 0, &HELLO, &[]);
        assert_eq!(w.expect(conn).kind, FrameType::Welcome);
    }
    let conn = w.connect_from(remote());
    w.send(conn, 0, &HELLO, &[]);
    let (code, _, detail) = w.error(conn);
    assert_eq!(code, Code::AuthFailed);
    assert!(detail.contains("auth.anonymous"), "{detail}");
    assert!(w.is_closed(conn));
}

#[test]
fn anonymous_says_who_comes_in_with_nothing_to_show() {
    let mut settings = locked();
    settings.auth.anonymous = Some(vec!["open".into()]);
    let mut w = World::with(settings);
    let conn = w.connect_from(remote());
    w.send(conn, 0, &HELLO, &[]);
    assert_eq!(w.expect(conn).kind, FrameType::Welcome);
    let conn = w.enter(remote(), &[Method::None]);
    assert_eq!(w.expect(conn).kind, FrameType::Welcome, "it may say so, too");

    // Once anything is configured, this machine's peers are strangers as well.
    let mut w = World::with(locked());
    let conn = w.connect_from(from("127.0.0.1"));
    w.send(conn, 0, &HELLO, &[]);
    assert_eq!(w.challenge(conn), (Method::Key, vec![1; 32]));
}

#[test]
fn a_key_is_challenged_with_bytes_of_this_connection_alone() {
    let mut w = World::with(locked());
    let a = w.enter(remote(), &[Method::Key]);
    let b = w.enter(remote(), &[Method::Key]);
    assert_eq!(w.challenge(a), (Method::Key, vec![1; 32]));
    assert_eq!(w.challenge(b), (Method::Key, vec![2; 32]));
    w.show(b, Method::Key, &[7; 96]);
    let attempt = w.judge(Ok(principal("ada")));
    assert_eq!((attempt.nonce, attempt.data.len(), attempt.again), ([2; 32], 96, false), "not the other's challenge");
    assert_eq!(w.expect(b).kind, FrameType::Welcome);
    assert_eq!(w.counted("logins"), 1);
}

#[test]
fn the_peer_hears_only_that_its_credentials_were_refused() {
    let mut w = World::with(locked());
    let conn = w.enter(remote(), &[Method::Key]);
    w.challenge(conn);
    w.show(conn, Method::Key, &[7; 96]);
    w.judge(Err(denied()));
    assert_eq!(w.error(conn), (Code::AuthFailed, 0, "credentials refused".into()));
    assert!(w.is_closed(conn));
    assert_eq!((w.counted("denied"), w.counted("denied.bad-signature"), w.counted("logins")), (1, 1, 0));
}

#[test]
fn methods_are_asked_for_in_the_clients_order_as_far_as_they_are_taken_and_three_at_most() {
    let mut settings = locked();
    settings.issuers = vec![issuer()];
    let mut w = World::with(settings);
    let conn = w.connect_from(with_certificate());
    w.say_hello_raw(conn, &[77, 4, 2, 1, 3]);
    for method in [Method::Transport, Method::Password, Method::Token] {
        assert_eq!(w.challenge(conn).0, method);
        w.show(conn, method, b"");
        w.judge(Err(denied()));
    }
    assert_eq!(w.error(conn).0, Code::AuthFailed, "the key is a fourth");

    let conn = w.enter(remote(), &[Method::Transport]);
    let (code, _, detail) = w.error(conn);
    assert_eq!(code, Code::NotSupported);
    assert_eq!(detail, "this broker takes here: token, password, key");
}

#[test]
fn an_answer_by_another_method_or_a_second_one_meanwhile_ends_the_connection() {
    let mut w = World::with(locked());
    let conn = w.enter(remote(), &[Method::Key]);
    w.challenge(conn);
    w.show(conn, Method::Password, b"\x03ada\x02pw");
    assert_eq!(w.error(conn).0, Code::UnexpectedFrame);

    let conn = w.enter(remote(), &[Method::Key]);
    w.challenge(conn);
    w.show(conn, Method::Key, &[7; 96]);
    w.show(conn, Method::Key, &[8; 96]);
    assert_eq!(w.error(conn).0, Code::UnexpectedFrame);
    // The answer comes too late for anybody.
    w.judge(Ok(principal("ada")));
    assert_eq!((w.counted("logins"), w.asked.len()), (0, 0));

    fn early<'a, H: Head<'a>>(head: &H) -> Code {
        let mut w = World::with(locked());
        let conn = w.enter(remote(), &[Method::Key]);
        w.challenge(conn);
        w.send(conn, 0, head, &[]);
        w.error(conn).0
    }
    assert_eq!(early(&Ping { nonce: 1 }), Code::HelloExpected);
    assert_eq!(early(&Reauth { method: 3, data: &[] }), Code::HelloExpected);
    assert_eq!(early(&HELLO), Code::UnexpectedFrame);
}

#[test]
fn a_list_of_no_methods_or_of_too_many_is_refused() {
    for list in [&[][..], &[3; 17]] {
        let mut w = World::with(locked());
        let conn = w.connect_from(remote());
        w.say_hello_raw(conn, list);
        assert_eq!(w.error(conn).0, Code::BadOptions);
    }
}

#[test]
fn what_the_transport_knows_is_tried_without_being_asked_and_leaves_a_stranger() {
    let mut w = World::with(locked());
    let conn = w.connect_from(with_certificate());
    w.send(conn, 0, &HELLO, &[]);
    let attempt = w.judge(Ok(principal("box-7")));
    assert_eq!((attempt.method, attempt.data.len()), (Method::Transport, 0));
    assert_eq!(w.expect(conn).kind, FrameType::Welcome);

    let conn = w.connect_from(Peer::Unix { uid: 1_000, pid: 3, admin: false });
    w.send(conn, 0, &HELLO, &[]);
    w.judge(Err(denied()));
    assert_eq!(w.challenge(conn).0, Method::Key, "it may show something else");
    assert_eq!(w.counted("denied"), 0, "it did not ask for it");
}

#[test]
fn the_local_admin_needs_no_credentials() {
    let mut w = World::with(locked());
    let conn = w.connect_raw(true);
    w.send(conn, 0, &HELLO, &[]);
    assert_eq!(w.expect(conn).kind, FrameType::Welcome);
    let conn = w.enter(Peer::Unix { uid: 0, pid: 0, admin: true }, &[Method::Transport]);
    w.challenge(conn);
    w.show(conn, Method::Transport, b"");
    assert_eq!(w.expect(conn).kind, FrameType::Welcome);
    assert!(w.asked.is_empty());
}

#[test]
fn a_login_has_the_time_of_the_handshake_in_all() {
    let mut w = World::with(locked());
    let handshake_ms = u64::from(w.broker.settings().limits.handshake_ms);
    let conn = w.enter(remote(), &[Method::Key]);
    w.challenge(conn);
    w.pass(handshake_ms - 10);
    w.show(conn, Method::Key, &[7; 96]);
    w.pass(20);
    assert_eq!(w.error(conn).0, Code::HandshakeTimeout);
    w.judge(Ok(principal("ada")));
    assert!(w.is_closed(conn));
    // What was under way is not forgotten: others have their turn.
    w.opened_as(remote(), principal("bob"));
}

#[test]
fn a_tenant_that_is_not_configured_is_nobodys() {
    let mut settings = locked();
    settings.tenants = vec![TenantSettings { name: "acme".into(), ..TenantSettings::default() }];
    let mut w = World::with(settings);
    let of = |tenant: &str| Principal { tenant: tenant.into(), ..principal("ada") };
    w.opened_as(remote(), of("acme"));
    let conn = w.enter(remote(), &[Method::Key]);
    w.challenge(conn);
    w.show(conn, Method::Key, &[7; 96]);
    w.judge(Ok(of("acme2")));
    assert_eq!(w.error(conn).0, Code::Forbidden);
}

#[test]
fn an_address_that_connects_too_often_waits_and_others_do_not() {
    let mut settings = Settings::default();
    settings.limits.rates.connects_per_second = 2;
    let mut w = World::with(settings);
    for _ in 0..20 {
        let conn = w.connect_from(from("127.0.0.1"));
        w.send(conn, 0, &HELLO, &[]);
        assert_eq!(w.expect(conn).kind, FrameType::Welcome);
    }
    let conn = w.connect_from(from("127.0.0.1"));
    let (code, retry, _) = w.error(conn);
    assert_eq!((code, retry), (Code::TooManyAttempts, 500));
    let other = w.connect_from(from("127.0.0.2"));
    w.send(other, 0, &HELLO, &[]);
    assert_eq!(w.expect(other).kind, FrameType::Welcome);
    w.connect();
    w.pass(500);
    let conn = w.connect_from(from("127.0.0.1"));
    w.send(conn, 0, &HELLO, &[]);
    assert_eq!(w.expect(conn).kind, FrameType::Welcome);
}

#[test]
fn failed_logins_of_an_address_wait_longer_each_time_and_others_do_not() {
    let mut w = World::with(locked());
    let free = w.broker.settings().limits.rates.logins_failed_max;
    for _ in 0..=free {
        let conn = w.enter(remote(), &[Method::Key]);
        w.challenge(conn);
        w.show(conn, Method::Key, &[7; 96]);
        w.judge(Err(denied()));
    }
    for wait in [1_000, 2_000, 4_000] {
        let conn = w.enter(remote(), &[Method::Key]);
        w.challenge(conn);
        w.show(conn, Method::Key, &[7; 96]);
        let (code, retry, _) = w.error(conn);
        assert_eq!((code, retry), (Code::TooManyAttempts, wait));
        assert!(w.asked.is_empty(), "it costs no check");
        w.opened_as(from("192.0.2.9"), principal("bob"));
        w.pass(u64::from(wait));
        let conn = w.enter(remote(), &[Method::Key]);
        w.challenge(conn);
        w.show(conn, Method::Key, &[7; 96]);
        w.judge(Err(denied()));
    }
}

#[test]
fn a_login_flood_of_10_000_attempts_leaves_the_others_theirs() {
    let mut settings = locked();
    settings.limits.connections_max = 20_000;
    let mut w = World::with(settings);
    let witness = w.opened_as(from("192.0.2.1"), principal("witness"));
    let flood: Vec<ConnId> = (0..10_000)
        .map(|_| {
            let conn = w.enter(remote(), &[Method::Password]);
            w.challenge(conn);
            w.show(conn, Method::Password, b"\x03ada\x05wrong");
            conn
        })
        .collect();
    assert_eq!(w.asked.len(), 1, "one password at a time");
    // Passwords of others come next, keys at once.
    let other = w.enter(from("198.51.100.3"), &[Method::Password]);
    w.challenge(other);
    w.show(other, Method::Password, b"\x03bob\x05right");
    w.opened_as_beside(from("198.51.100.4"));
    w.judge(Err(denied()));
    w.judge(Ok(principal("bob")));
    assert_eq!(w.expect(other).kind, FrameType::Welcome);
    // Of the flood a handful is checked; the rest is turned back.
    let mut checked = 1;
    while !w.asked.is_empty() {
        w.judge(Err(denied()));
        checked += 1;
    }
    assert!(checked <= 8, "{checked}");
    assert!(flood.iter().all(|conn| w.is_closed(*conn)));
    assert_eq!(w.counted("denied.too-many-attempts"), 10_000 - checked);
    assert_eq!(w.broker.logins_waiting(), 0);
    w.send(witness, 0, &Ping { nonce: 5 }, &[]);
    assert_eq!(w.expect(witness).get::<Pong>().nonce, 5);
}

impl World {
    /// As `opened_as`, while something else is being checked.
    fn opened_as_beside(&mut self, peer: Peer) {
        let conn = self.enter(peer, &[Method::Key]);
        self.challenge(conn);
        self.show(conn, Method::Key, &[7; 96]);
        let (asked, attempt) = self.asked.pop_back().expect("it is checked beside the password");
        assert_eq!((asked, attempt.method), (conn, Method::Key));
        self.event(Event::Authenticated { conn, outcome: Ok(principal("eve")) });
        assert_eq!(self.expect(conn).kind, FrameType::Welcome);
    }

    /// As `principal`, with credentials that end in so many milliseconds.
    fn for_ms(&self, ms: u64) -> Principal {
        Principal { expires: Some(self.now.wall.plus_ms(ms)), ..principal("ada") }
    }
}

#[test]
fn a_session_whose_credentials_end_is_told_before_and_closed_then() {
    let mut w = World::with(locked());
    let ada = w.for_ms(60_000);
    let conn = w.opened_as(remote(), ada);
    w.pass(60_000 - EXPIRY_NOTICE_MS - 1);
    assert_eq!(w.frames(conn), []);
    w.pass(2);
    let seen = w.expect(conn);
    let head = seen.get::<Goaway<'_>>();
    assert_eq!(head.code, Code::CredentialsExpired as u16);
    assert!((EXPIRY_NOTICE_MS - 5..=EXPIRY_NOTICE_MS).contains(&u64::from(head.deadline_ms)), "{}", head.deadline_ms);
    w.pass(EXPIRY_NOTICE_MS - 10);
    assert_eq!(w.frames(conn), []);
    w.pass(11);
    assert_eq!(w.error(conn).0, Code::CredentialsExpired);
    assert!(w.is_closed(conn));

    // With less time than that it is told at once.
    let ada = w.for_ms(5_000);
    let conn = w.enter(remote(), &[Method::Key]);
    w.challenge(conn);
    w.show(conn, Method::Key, &[7; 96]);
    w.judge(Ok(ada));
    w.pass(10);
    let kinds: Vec<FrameType> = w.frames(conn).iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [FrameType::Welcome, FrameType::Goaway]);
}

#[test]
fn credentials_that_have_ended_already_do_not_open_a_session() {
    let mut w = World::with(locked());
    let conn = w.enter(remote(), &[Method::Key]);
    w.challenge(conn);
    w.show(conn, Method::Key, &[7; 96]);
    let ended = w.for_ms(0);
    w.judge(Ok(ended));
    assert_eq!(w.error(conn).0, Code::AuthFailed);
    assert_eq!(w.counted("denied.expired"), 1);
}

#[test]
fn a_clock_set_forward_ends_what_has_ended() {
    let mut w = World::with(locked());
    let ada = w.for_ms(3_600_000);
    let conn = w.opened_as(remote(), ada);
    w.now.wall = w.now.wall.plus_ms(3_600_000);
    w.pass(1_001);
    assert_eq!(w.frames(conn).last().map(|f| f.kind), Some(FrameType::Error));
}

#[test]
fn reauth_in_place_renews_and_only_as_the_same_principal() {
    let mut w = World::with(locked());
    let ada = w.for_ms(60_000);
    let conn = w.opened_as(remote(), ada);
    w.pass(40_000);
    assert_eq!(w.expect(conn).kind, FrameType::Goaway);
    w.show_again(conn, Method::Key, &[9; 96]);
    let longer = w.for_ms(60_000);
    let attempt = w.judge(Ok(longer));
    assert!(attempt.again);
    assert_eq!(w.expect(conn).get::<Done>(), Done { epoch: 0, value: 0, complete: true });
    w.pass(25_000);
    assert_eq!(w.frames(conn), [], "the old end is void");
    w.pass(35_010);
    let kinds: Vec<FrameType> = w.frames(conn).iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [FrameType::Goaway, FrameType::Error], "the new one holds");

    for other in [principal("eve"), Principal { tenant: "".into(), name: "".into(), ..principal("") }] {
        let conn = w.opened_as(remote(), principal("ada"));
        w.show_again(conn, Method::Key, &[9; 96]);
        w.judge(Ok(other));
        assert_eq!(w.error(conn), (Code::AuthFailed, 0, "credentials refused".into()));
    }
    let conn = w.opened_as(remote(), principal("ada"));
    w.show_again(conn, Method::Key, &[9; 96]);
    w.judge(Err(denied()));
    assert_eq!(w.error(conn).0, Code::AuthFailed);
}

#[test]
fn a_second_reauth_waits_for_the_first() {
    let mut w = World::with(locked());
    let conn = w.opened_as(remote(), principal("ada"));
    w.show_again(conn, Method::Key, &[9; 96]);
    w.show_again(conn, Method::Key, &[9; 96]);
    assert_eq!(w.error(conn).0, Code::UnexpectedFrame);
    w.judge(Ok(principal("ada")));
    let stranger = w.opened_as(remote(), principal("bob"));
    w.show(stranger, Method::Key, &[9; 96]);
    assert_eq!(w.error(stranger).0, Code::UnexpectedFrame, "an open session says reauth");
}

#[test]
fn a_connection_that_goes_while_it_waits_leaves_nothing() {
    let mut w = World::with(locked());
    let waiting: Vec<ConnId> = (0..100)
        .map(|_| {
            let conn = w.enter(remote(), &[Method::Password]);
            w.challenge(conn);
            w.show(conn, Method::Password, b"\x03ada\x02pw");
            conn
        })
        .collect();
    assert_eq!(w.broker.logins_waiting(), 99);
    for conn in waiting {
        w.disconnect(conn);
    }
    assert_eq!(w.broker.logins_waiting(), 0);
    w.judge(Ok(principal("ada")));
    assert!(w.asked.is_empty());
}
