//! What somebody who means harm tries: to fill, to starve, to guess, and to take what is another's.

use super::world::{HELLO, World, queue};
use crate::broker::conn::CONTROL_BYTES_MAX;
use crate::broker::{Event, Peer};
use crate::config::{QueueSettings, RoleSettings, Rules, Settings, TenantSettings};
use crate::model::{ConnId, admin};
use crate::session::{Denied, Method, Principal, Via};
use crate::wire::{Code, ErrorHead, FrameType, History, Outcome, Reauth, Request, Response, Since};
use std::net::SocketAddr;

fn tenants(names: &[&str]) -> Settings {
    let tenant = |name: &&str| TenantSettings { name: (*name).into(), ..TenantSettings::default() };
    Settings { tenants: names.iter().map(tenant).collect(), ..Settings::default() }
}

fn ip(text: &str, via: Via) -> Peer {
    let address = SocketAddr::new(text.parse().expect("an address"), 4_000);
    Peer::Ip { address, via, certificate: None }
}

fn request(channel: &str) -> Request<'_> {
    Request { channel, deadline_ms: 0, total: 0, properties: &[] }
}

impl World {
    /// Sends what `next` makes for as long as the broker reads, a thousand at a time; the most bytes that ever waited.
    fn flood(&mut self, conn: ConnId, mut next: impl FnMut(&mut Self) -> Vec<u8>) -> usize {
        let (mut sent, mut most) = (0, 0);
        while self.broker.wants_read(conn) && !self.is_closed(conn) {
            let bytes: Vec<u8> = (0..1_000).flat_map(|_| next(self)).collect();
            self.send_bytes(conn, &bytes);
            most = most.max(self.broker.waiting_bytes(conn));
            sent += 1_000;
            assert!(sent <= 200_000, "it is read from for ever, and {most} bytes wait");
        }
        most
    }
}

#[test]
fn answers_that_nobody_reads_are_bounded_and_then_the_end() {
    let mut settings =
        Settings { queues: vec![QueueSettings { history: true, ..queue("main", "#") }], ..Settings::default() };
    settings.limits.outbox_bytes_max = 64 * 1_024;
    settings.limits.message_bytes_max = 64 * 1_024;
    let bound = 4 * 64 * 1_024;
    for kind in 0..3 {
        let mut w = World::with(settings.clone());
        let c = w.connect();
        w.publish(c, 1, "a", &"x".repeat(1_000));
        w.frames(c);
        w.reads(c, false);
        let most = w.flood(c, |w| match kind {
            0 => w.frame(c, 7, &request(admin::STATUS), &[]),
            1 => w.frame(c, 7, &History { channel: "a", since: Since::Now, limit: 0 }, &[]),
            _ => {
                let body = br#"{"name":"main","count":1000}"#;
                let head = Request { total: body.len() as u32, ..request(admin::QUEUE_PEEK) };
                w.frame(c, 7, &head, body)
            }
        });
        assert!(most <= bound, "{most} bytes of answers to requests of kind {kind}");
        assert!(w.broker.conns[&c].session.outbox.control_len() < 8 * CONTROL_BYTES_MAX);
        assert!(!w.broker.wants_read(c));
        // It is read from again when it reads.
        w.reads(c, true);
        assert!(w.broker.wants_read(c));
        w.frames(c);
        w.send(c, 9, &request(admin::STATUS), &[]);
        assert_eq!(w.expect(c).get::<Response<'_>>().status, 0);
        // One that never does is not kept.
        w.reads(c, false);
        w.flood(c, |w| w.frame(c, 7, &request(admin::STATUS), &[]));
        w.pass(5 * 3_600_000);
        assert!(w.broker.is_over(c), "of kind {kind}");
    }
}

#[test]
fn a_stranger_cannot_try_the_credentials_of_others_by_renewing() {
    let mut settings = Settings::default();
    settings.auth.identities = Some("identities".into());
    settings.auth.anonymous = Some(vec!["open".into()]);
    let mut w = World::with(settings);
    let c = w.connect_from(ip("192.0.2.7", Via::Tcp));
    w.send(c, 0, &HELLO, &[]);
    assert_eq!(w.expect(c).kind, FrameType::Welcome);
    w.send(c, 0, &Reauth { method: Method::Password as u8, data: b"guess" }, &[]);
    assert_eq!(w.expect_error(c), Code::UnexpectedFrame);
    assert!(w.asked.is_empty() && w.is_closed(c), "nobody looks at it");
}

#[test]
fn to_renew_with_anothers_credentials_delays_as_wrong_ones_do() {
    let mut waits = Vec::new();
    for right in [true, false] {
        let mut settings = Settings::default();
        settings.auth.identities = Some("identities".into());
        settings.limits.rates.logins_failed_max = 1;
        let mut w = World::with(settings);
        let who = |w: &mut World, name: &str| {
            let c = w.connect_raw(false);
            w.send(c, 0, &HELLO, &[]);
            let (conn, _) = w.asked.pop_front().expect("its user is looked for");
            let principal = Principal { name: name.into(), method: Method::Transport, ..Principal::default() };
            w.event(Event::Authenticated { conn, outcome: Ok(principal) });
            w.frames(c);
            c
        };
        for _ in 0..2 {
            let c = who(&mut w, "mallory");
            w.send(c, 0, &Reauth { method: Method::Password as u8, data: b"alice's?" }, &[]);
            let (conn, attempt) = w.asked.pop_front().expect("it is checked");
            let alice = Principal { name: "alice".into(), method: Method::Password, ..Principal::default() };
            let denied = Denied { reason: "wrong-password", detail: String::new() };
            w.event(Event::Authenticated { conn, outcome: if right { Ok(alice) } else { Err(denied) } });
            assert_eq!((attempt.again, w.expect_error(c)), (true, Code::AuthFailed));
        }
        let peer = Peer::Unix { uid: 0, pid: 0, admin: false };
        waits.push(w.broker.login_wait_ms(&peer));
    }
    assert_eq!(waits, [1_000, 1_000]);
}

#[test]
fn whom_a_trusted_proxy_brings_is_never_taken_for_somebody_of_this_machine() {
    let mut settings = Settings::default();
    settings.http.trusted_proxies = vec!["127.0.0.1".into()];
    let mut w = World::with(settings.clone());
    // The proxy itself: so a peer looks whose headers contradict each other.
    for (via, comes_in) in [(Via::Http, false), (Via::Https, false), (Via::Tcp, true)] {
        let c = w.connect_from(ip("127.0.0.1", via));
        w.send(c, 0, &HELLO, &[]);
        assert_eq!(w.expect(c).kind == FrameType::Welcome, comes_in, "{via:?}");
    }
    settings.http.trusted_proxies = Vec::new();
    w.reload(settings);
    let c = w.connect_from(ip("127.0.0.1", Via::Http));
    w.send(c, 0, &HELLO, &[]);
    assert_eq!(w.expect(c).kind, FrameType::Welcome, "a page of this machine, without proxies");
}

#[test]
fn strangers_of_one_address_cannot_hold_every_place_and_the_administrator_always_comes_in() {
    let mut settings = Settings::default();
    settings.limits.connections_max = 400;
    settings.auth.anonymous = Some(vec!["open".into()]);
    let mut w = World::with(settings);
    let silent: Vec<ConnId> = (0..400).map(|_| w.connect_from(ip("192.0.2.7", Via::Tcp))).collect();
    let held = silent.iter().filter(|c| !w.is_closed(**c)).count();
    assert_eq!(held, 100, "a quarter");
    // Who logged in does not count.
    let last = silent[99];
    w.send(last, 0, &HELLO, &[]);
    assert_eq!(w.expect(last).kind, FrameType::Welcome);
    let next = w.connect_from(ip("192.0.2.7", Via::Tcp));
    assert!(!w.is_closed(next));
    w.disconnect(next);
    let again = w.connect_from(ip("192.0.2.7", Via::Tcp));
    assert!(!w.is_closed(again), "who went does not count");
    for n in 0..400 {
        w.connect_from(ip(&format!("192.0.3.{}", n % 200), Via::Tcp));
    }
    let late = w.connect_from(ip("192.0.4.1", Via::Tcp));
    assert_eq!(w.expect_error(late), Code::TooManyConnections, "all places are held");
    let admin = w.connect();
    assert!(!w.is_closed(admin));
}

#[test]
fn who_may_consume_less_does_not_take_over_a_consumer_and_pass_over_what_it_waits_for() {
    let role = |name: &str, rule: &str| RoleSettings {
        name: name.into(),
        allow: Rules { consume: vec![rule.into()], publish: vec!["#".into()], ..Rules::default() },
        deny: Rules::default(),
    };
    let mut settings = Settings { roles: vec![role("all", "main"), role("some", "main/b/#")], ..Settings::default() };
    settings.auth.identities = Some("identities".into());
    let mut w = World::with(settings);
    let enter = |w: &mut World, role: &str| {
        let c = w.connect_raw(false);
        w.send(c, 0, &HELLO, &[]);
        let (conn, _) = w.asked.pop_front().expect("its user is looked for");
        let roles = vec![role.into()];
        let principal = Principal { name: role.into(), roles, method: Method::Transport, ..Principal::default() };
        w.event(Event::Authenticated { conn, outcome: Ok(principal) });
        w.frames(c);
        c
    };
    let owner = enter(&mut w, "all");
    w.consume(owner, 2, "main", "worker");
    w.disconnect(owner);
    let other = enter(&mut w, "some");
    w.publish(other, 1, "a/1", "precious");
    w.frames(other);
    w.consume_with(other, 2, "main", "worker", &["b/#"], |_| {});
    assert_eq!(w.expect_error(other), Code::Forbidden);
    w.pass(2_000);
    let owner = enter(&mut w, "all");
    w.consume(owner, 2, "main", "worker");
    w.credit(owner, 2, 10);
    assert_eq!(w.texts(owner), ["precious"]);
}

#[test]
fn more_connections_are_no_way_for_strangers_to_a_higher_rate() {
    let mut settings = Settings::default();
    settings.auth.anonymous = Some(vec!["open".into()]);
    settings.limits.rates.messages_per_second = 1;
    let mut w = World::with(settings);
    let mut taken = Vec::new();
    for address in ["192.0.2.7", "192.0.2.7", "192.0.2.8"] {
        let c = w.connect_from(ip(address, Via::Tcp));
        w.send(c, 0, &HELLO, &[]);
        w.frames(c);
        w.publish_batch(c, 1, "a", &["1".into(), "2".into(), "3".into()]);
        taken.push(w.verdicts(c).iter().filter(|(_, verdict)| *verdict == Ok(Outcome::Stored)).count());
    }
    assert_eq!(taken, [2, 0, 2]);
}

#[test]
fn what_is_compressed_is_charged_for_what_it_expands_to() {
    let mut settings = Settings::default();
    settings.limits.rates.bytes_per_second = 50_000;
    let mut w = World::with(settings);
    let c = w.connect();
    let payload = crate::seal::compress(&[0; 60_000]).expect("it repeats");
    assert!(payload.len() < 1_000);
    for number in 1..=3 {
        let mut record = crate::model::Record::new(crate::model::Channel::parse("a").expect("valid"), &payload);
        record.compressed = true;
        let mut bytes = Vec::new();
        record.encode_to(&mut bytes);
        let contract = crate::wire::Contract::Queue;
        w.send(c, 1, &crate::wire::Publish { contract, number, total: bytes.len() as u32 }, &bytes);
    }
    let verdicts = w.frames(c);
    let nacked = verdicts.iter().find(|seen| seen.kind == FrameType::PublishNack).expect("over its rate");
    let head = nacked.get::<crate::wire::PublishNack<'_>>();
    assert_eq!((head.first, Code::from_u16(head.code)), (2, Some(Code::RateLimited)));
}

#[test]
fn errors_to_strangers_name_nothing_of_who_is_there() {
    let mut settings = tenants(&["red"]);
    settings.auth.identities = Some("identities".into());
    let mut w = World::with(settings);
    let c = w.connect_from(ip("192.0.2.7", Via::Tcp));
    w.send(c, 0, &HELLO, &[]);
    w.frames(c);
    w.send(c, 0, &crate::wire::Auth { method: Method::Password as u8, data: b"x" }, &[]);
    let (conn, _) = w.asked.pop_front().expect("it is checked");
    let denied = Denied { reason: "wrong-password", detail: "the password is not that of `alice`".into() };
    w.event(Event::Authenticated { conn, outcome: Err(denied) });
    let seen = w.expect(c);
    assert_eq!(seen.get::<ErrorHead<'_>>().detail, "credentials refused");
}

#[test]
fn retained_values_are_no_way_past_a_tenants_stored_bytes() {
    let mut settings = tenants(&["red"]);
    settings.tenants[0].stored_bytes_max = 1_000;
    settings.queues = vec![QueueSettings { tenant: "red".into(), ..queue("main", "kept/#") }];
    let mut w = World::with(settings);
    let red = w.connect_to("red");
    let retain = |w: &mut World, number: u64, channel: &str, text: &str| {
        let queue = crate::wire::Contract::Queue;
        w.publish_with(red, number, queue, |r| r.retain = true, channel, text);
        w.verdicts(red).pop().map(|(_, verdict)| verdict)
    };
    let text = "x".repeat(200);
    for n in 1..=4 {
        assert_eq!(retain(&mut w, n, &format!("v/{n}"), &text), Some(Ok(Outcome::Stored)));
    }
    assert_eq!(retain(&mut w, 5, "v/5", &text), Some(Err(Code::QuotaExceeded)));
    assert!(w.broker.stored_bytes(1) <= 1_000);
    assert_eq!(retain(&mut w, 5, "v/1", &text), Some(Ok(Outcome::Stored)), "another value in the place of the old");
    assert_eq!(retain(&mut w, 6, "v/1", ""), Some(Ok(Outcome::Stored)));
    assert_eq!(retain(&mut w, 7, "v/5", &text), Some(Ok(Outcome::Stored)), "what is cleared makes room");
}

#[test]
fn a_flood_of_strangers_floods_no_log() {
    let mut settings = Settings::default();
    settings.auth.identities = Some("identities".into());
    let mut w = World::with(settings);
    let said = |w: &mut World| {
        let c = w.connect_from(ip("192.0.2.7", Via::Tcp));
        let level = w.broker.level_of(c, Code::BadMagic);
        w.disconnect(c);
        level == log::Level::Info
    };
    let loud = (0..1_000).filter(|_| said(&mut w)).count();
    assert_eq!(loud, 100);
    w.pass(1_000);
    assert_eq!((0..10).filter(|_| said(&mut w)).count(), 2);
    let open = w.connect();
    assert_eq!(w.broker.level_of(open, Code::BadMagic), log::Level::Info, "who is known is always told of");
}
