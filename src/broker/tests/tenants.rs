//! Tenants: each in a space of its own, of which no other sees, guesses or fills anything.

use super::world::{World, id, queue};
use crate::config::{QueueSettings, Settings, TenantSettings};
use crate::model::admin;
use crate::model::{ConnId, MountId};
use crate::store::{MemoryStore, StoreError, Table, schema};
use crate::wire::{Code, Contract, FrameType, History, Outcome, Request, Response, Since, Subscribe};

fn tenants(names: &[&str]) -> Vec<TenantSettings> {
    names.iter().map(|name| TenantSettings { name: (*name).into(), ..TenantSettings::default() }).collect()
}

/// Nobody's queues are `main` with history; the tenants have what a tenant has that no queue names.
fn settings(names: &[&str]) -> Settings {
    let queues = vec![QueueSettings { history: true, ..queue("main", "#") }];
    Settings { tenants: tenants(names), queues, ..Settings::default() }
}

fn with_history(names: &[&str]) -> Settings {
    let mut settings = settings(names);
    for name in names {
        settings.queues.push(QueueSettings {
            tenant: (*name).into(),
            history: true,
            attempts_max: 1,
            ..queue("main", "#")
        });
    }
    settings
}

fn subscribe(filter: &str) -> Subscribe<'_> {
    Subscribe { filter, retained: false, since: Since::Now, respond: false, disconnect_when_slow: false }
}

/// The answer to a request of administration: status and body.
fn ask(w: &mut World, conn: ConnId, channel: &str, body: &str) -> (u16, String) {
    let head = Request { channel, deadline_ms: 0, total: body.len() as u32, properties: &[] };
    w.send(conn, 77, &head, body.as_bytes());
    let seen = w.expect(conn);
    (seen.get::<Response<'_>>().status, String::from_utf8(seen.payload).expect("text"))
}

#[test]
fn a_tenant_sees_its_own_queues_messages_and_letters_and_nobody_elses() {
    let mut w = World::with(with_history(&["red", "blue"]));
    w.pass(1_000);
    let spaces = ["", "red", "blue"].map(|tenant| (tenant, w.connect_to(tenant), w.connect_to(tenant)));
    let text = |tenant: &str| format!("of {tenant}");
    for (tenant, publisher, reader) in spaces {
        w.send(reader, 9, &Subscribe { retained: true, ..subscribe("#") }, &[]);
        assert_eq!(w.expect(reader).kind, FrameType::Ok);
        w.publish_with(publisher, 1, Contract::Queue, |r| r.retain = true, "site/a", &text(tenant));
        assert_eq!(w.verdicts(publisher), [(1, Ok(Outcome::Stored))]);
    }
    for (tenant, _, reader) in spaces {
        assert_eq!(w.texts(reader), [text(tenant)], "live: its own alone");
        let late = w.connect_to(tenant);
        w.send(late, 1, &Subscribe { retained: true, ..subscribe("site/+") }, &[]);
        assert_eq!(w.frames(late).len(), 2, "its own retained value alone");
        w.send(late, 2, &History { channel: "site/a", since: Since::Last(10), limit: 0 }, &[]);
        assert_eq!(w.texts_until_ok(late), [text(tenant)]);
        w.consume(reader, 1, "main", "same");
        w.credit(reader, 1, 10);
        let heard = w.messages(reader);
        assert_eq!(heard.iter().map(|m| (m.text.as_str(), m.seq)).collect::<Vec<_>>(), [(&*text(tenant), 1)]);
        // Its only attempt: it dies, in its own space.
        w.send(reader, 1, &crate::wire::Nack { first: 1, count: 1, delay_ms: 0, give_up: true, reason: "" }, &[]);
        w.consume(reader, 2, "$dead/main", "same");
        w.credit(reader, 2, 10);
        assert_eq!(w.texts(reader), [text(tenant)]);
    }
    for (tenant, _, reader) in spaces {
        assert!(w.frames(reader).is_empty(), "{tenant:?} heard of another's doings");
    }
}

#[test]
fn one_id_in_two_tenants_is_two_messages_also_after_a_restart() {
    let mut w = World::with(settings(&["red", "blue"]));
    for round in 0..2 {
        for tenant in ["", "red", "blue"] {
            let c = w.connect_to(tenant);
            w.publish_with(c, 1, Contract::Queue, |r| r.id = id(7), "a", "x");
            let expected = if round == 0 { Outcome::Stored } else { Outcome::Duplicate };
            assert_eq!(w.verdicts(c), [(1, Ok(expected))], "{tenant:?} in round {round}");
        }
        w.restart();
    }
    // The windows end each by themselves, and so do their rows.
    w.pass(600_000);
    let mut rows = 0;
    let mut count = |_: &[u8], _: &[u8]| {
        rows += 1;
        true
    };
    w.disk().scan(Table::Dedupe, &[], &[], &mut count).expect("reads");
    assert_eq!(rows, 0);
}

#[test]
fn requests_find_responders_of_their_own_tenant_only() {
    let mut w = World::with(settings(&["red", "blue"]));
    let responder = w.connect_to("red");
    w.send(responder, 1, &Subscribe { respond: true, ..subscribe("#") }, &[]);
    assert_eq!(w.expect(responder).kind, FrameType::Ok);
    for (tenant, found) in [("", false), ("blue", false), ("red", true)] {
        let asker = w.connect_to(tenant);
        w.send(asker, 1, &Request { channel: "calc", deadline_ms: 0, total: 0, properties: &[] }, &[]);
        match found {
            true => assert_eq!((w.frames(asker).len(), w.expect(responder).kind), (0, FrameType::Request)),
            false => assert_eq!((w.expect_error(asker), w.frames(responder).len()), (Code::NoResponder, 0)),
        }
    }
}

/// What the meta rows say of tenants: names and ids.
fn ids(w: &World) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        let name = String::from_utf8_lossy(&key[schema::META_TENANT.len()..]).into_owned();
        found.push((name, u32::from_be_bytes(value.try_into().expect("four bytes"))));
        true
    };
    w.disk().scan(Table::Meta, schema::META_TENANT, schema::META_TENANT, &mut visit).expect("reads");
    found
}

#[test]
fn a_tenant_has_its_mount_for_ever_and_none_gets_anothers() {
    let mut w = World::with(settings(&["red", "blue"]));
    let red = w.connect_to("red");
    w.publish(red, 1, "a", "mine");
    w.pass(1_000);
    assert_eq!(ids(&w), [("blue".into(), 2), ("red".into(), 1)]);
    // Another order, one gone, one new; then all of them.
    w.restart_with(settings(&["green", "blue"]));
    w.pass(1_000);
    assert_eq!(ids(&w), [("blue".into(), 2), ("green".into(), 3), ("red".into(), 1)]);
    assert!(w.broker.mount_of("red").is_none());
    let green = w.connect_to("green");
    w.consume(green, 1, "main", "c");
    w.credit(green, 1, 10);
    assert!(w.frames(green).is_empty());
    w.restart_with(settings(&["blue", "green", "red"]));
    let red = w.connect_to("red");
    w.consume(red, 1, "main", "c");
    w.credit(red, 1, 10);
    assert_eq!(w.texts(red), ["mine"]);
    assert_eq!(w.broker.mounts.iter().map(|m| m.id).collect::<Vec<_>>(), [0, 1, 2, 3].map(MountId));
}

#[test]
fn a_reload_brings_tenants_and_closes_the_sessions_of_those_that_left() {
    let mut w = World::with(settings(&["red"]));
    assert_eq!(w.refused("blue"), Code::Forbidden);
    let red = w.connect_to("red");
    w.publish(red, 1, "a", "mine");
    w.frames(red);
    let nobody = w.connect_to("");
    w.reload(settings(&["blue"]));
    assert_eq!(w.expect_error(red), Code::Forbidden);
    assert!(w.is_closed(red) && !w.is_closed(nobody));
    assert_eq!(w.refused("red"), Code::Forbidden);
    let blue = w.connect_to("blue");
    w.publish(blue, 1, "a", "blue's");
    assert_eq!(w.verdicts(blue), [(1, Ok(Outcome::Stored))]);
    w.consume(blue, 2, "main", "c");
    w.credit(blue, 2, 10);
    assert_eq!(w.texts(blue), ["blue's"]);
    w.reload(settings(&["blue", "red"]));
    let red = w.connect_to("red");
    w.consume(red, 2, "main", "c");
    w.credit(red, 2, 10);
    assert_eq!(w.texts(red), ["mine"], "its data stayed");
    w.restart();
    assert_eq!(w.broker.mounts.iter().map(|m| &*m.tenant).collect::<Vec<_>>(), ["", "red", "blue"]);
}

#[test]
fn a_store_opened_anew_gives_nobody_anothers_place() {
    let mut w = World::with(settings(&["red"]));
    w.hold_commits = true;
    let mut wanted = settings(&["red", "blue", "green"]);
    let memory =
        QueueSettings { storage: crate::config::Storage::Memory, contract: Contract::Memory, ..queue("m", "#") };
    wanted.queues.push(QueueSettings { tenant: "green".into(), ..memory });
    w.reload(wanted.clone());
    // Their ids are not durable, and the settings name them in another order by the time the store is open again.
    wanted.tenants = tenants(&["green", "blue", "red"]);
    w.reload(wanted);
    let (green, idle) = (w.connect_to("green"), w.connect_to("blue"));
    w.publish(green, 1, "a", "green's");
    assert_eq!(w.verdicts(green), [(1, Ok(Outcome::Stored))]);
    w.fail_store(StoreError::Io("torn out".into()));
    w.hold_commits = false;
    w.reopen_store();
    w.pass(1_000);
    assert_eq!(ids(&w), [("blue".into(), 2), ("green".into(), 3), ("red".into(), 1)]);
    let green = w.connect_to("green");
    w.consume(green, 1, "m", "c");
    w.credit(green, 1, 10);
    assert_eq!(w.texts(green), ["green's"], "queues in memory stay where they were");
    w.consume(idle, 1, "main", "c");
    w.credit(idle, 1, 10);
    assert!(w.frames(idle).is_empty());
    let blue = w.connect_to("blue");
    w.publish(blue, 1, "b", "blue's");
    assert_eq!(w.texts(idle), ["blue's"]);
}

#[test]
fn what_is_under_an_id_that_no_row_names_is_kept_from_everybody() {
    let mut w = World::with(settings(&["red"]));
    let red = w.connect_to("red");
    w.publish_with(red, 1, Contract::Queue, |r| r.retain = true, "a", "mine");
    w.pass(1_000);
    // As after damage: salvage found the queue and not the row that says whose it is.
    let gone = crate::store::Op::Delete { table: Table::Meta, key: schema::tenant_key("red") };
    w.commit_beside(gone);
    w.restart();
    w.pass(1_000);
    assert_eq!(ids(&w), [("red".into(), 2)], "an id above all that were seen");
    let red = w.connect_to("red");
    w.consume(red, 1, "main", "c");
    w.credit(red, 1, 10);
    w.send(red, 2, &Subscribe { retained: true, ..subscribe("#") }, &[]);
    assert_eq!(w.frames(red).len(), 1, "only the ok");
    assert_eq!(w.broker.mounts[1].queues.len(), 1, "and nothing is deleted");
}

#[test]
fn filters_crafted_to_escape_a_mount_get_nothing_of_others() {
    let mut w = World::with(with_history(&["red", "blue"]));
    let victim = w.connect_to("blue");
    for (n, channel) in ["secret", "/secret", "a//b", "../secret", "blue/secret", "\u{2}secret"].iter().enumerate() {
        w.publish_with(victim, 1 + n as u64, Contract::Queue, |r| r.retain = true, channel, "blue's");
    }
    w.frames(victim);
    let deep = format!("{}+", "+/".repeat(127));
    let deeper = format!("{}#", "+/".repeat(128));
    let crafted = [
        "#",
        "+",
        "+/+",
        "/#",
        "//#",
        "../#",
        "../../#",
        "$dead/#",
        "$admin/#",
        "$/#",
        "$SYS/#",
        "blue/#",
        "/blue/#",
        "+/secret",
        "\u{2}#",
        "\0#",
        "a\0b",
        "\0\0\0\u{2}#",
        "%2e%2e/#",
        "secret",
        &deep,
        &deeper,
    ];
    for filter in crafted {
        let spy = w.connect_to("red");
        w.send(spy, 1, &Subscribe { retained: true, ..subscribe(filter) }, &[]);
        w.send(spy, 2, &Subscribe { respond: true, ..subscribe(filter) }, &[]);
        w.publish(victim, 100, "secret", "live");
        w.send(victim, 50, &Request { channel: "secret", deadline_ms: 1, total: 0, properties: &[] }, &[]);
        for seen in w.frames(spy) {
            assert!(matches!(seen.kind, FrameType::Ok | FrameType::Error), "{filter:?} got {seen:?}");
        }
        w.frames(victim);
    }
    let spy = w.connect_to("red");
    for (stream, channel) in (1..).zip(["secret", "../secret", "blue/secret", "/secret", "\u{2}secret", "$dead/main"]) {
        w.send(spy, stream, &History { channel, since: Since::Last(10), limit: 0 }, &[]);
    }
    assert!(w.frames(spy).iter().all(|f| f.kind != FrameType::Deliver));
    for (stream, name) in
        (10..).zip(["blue/main", "$dead/blue/main", "../main", "/main", "\u{2}main", "blue", "$dead/"])
    {
        w.consume_with(spy, stream, name, "c", &[], |_| {});
        assert_eq!(w.expect_error(spy), Code::UnknownQueue, "{name:?}");
    }
}

#[test]
fn a_tenants_administrator_sees_its_own_and_the_brokers_own_sees_all() {
    let mut w = World::with(with_history(&["red", "blue"]));
    let blue = w.connect_to("blue");
    w.publish(blue, 1, "secret", "blue's");
    w.pass(1_000);
    let red = w.connect_to("red");
    w.administers(red);
    let (status, body) = ask(&mut w, red, admin::STATUS, "");
    assert!(status == 0 && !body.contains("blue") && !body.contains("commits"), "{body}");
    let (_, body) = ask(&mut w, red, admin::QUEUES, "");
    let seen: Vec<admin::QueueStatus> = serde_json::from_str(&body).expect("queues");
    assert_eq!(seen.iter().map(|q| (&*q.tenant, &*q.name, q.messages)).collect::<Vec<_>>(), [("red", "main", 0)]);
    for name in ["blue/main", "$dead/blue/main", "/main", "red/main"] {
        for channel in [admin::QUEUE_SHOW, admin::QUEUE_PEEK, admin::QUEUE_PURGE, admin::QUEUE_REPLAY] {
            let (status, _) = ask(&mut w, red, channel, &format!(r#"{{"name":"{name}"}}"#));
            assert_eq!(status, Code::UnknownQueue as u16, "{channel} {name}");
        }
        let (status, _) = ask(&mut w, red, admin::CONSUMER_DELETE, &format!(r#"{{"queue":"{name}","name":"c"}}"#));
        assert_eq!(status, Code::UnknownQueue as u16);
    }
    let own = w.connect();
    for (name, expected) in [("main", 0), ("red/main", 0), ("blue/main", 1)] {
        let (_, body) = ask(&mut w, own, admin::QUEUE_SHOW, &format!(r#"{{"name":"{name}"}}"#));
        assert_eq!(serde_json::from_str::<admin::QueueStatus>(&body).expect("a queue").messages, expected, "{name}");
    }
    let (_, body) = ask(&mut w, own, admin::QUEUE_SHOW, r#"{"name":"$dead/blue/main"}"#);
    assert_eq!(serde_json::from_str::<admin::QueueStatus>(&body).expect("a queue").tenant, "blue");
    for name in ["/main", "nobody/main", "blue/", "blue/none", "$dead//main"] {
        let (status, _) = ask(&mut w, own, admin::QUEUE_SHOW, &format!(r#"{{"name":"{name}"}}"#));
        assert_eq!(status, Code::UnknownQueue as u16, "{name}");
    }
}

#[test]
fn a_tenant_without_a_queue_has_one_that_takes_all() {
    let mut named = settings(&["red", "blue"]);
    named.queues.push(QueueSettings { tenant: "blue".into(), ..queue("alarms", "alarm/#") });
    let w = World::on(named, Box::new(MemoryStore::new()));
    let of = |tenant: &str| {
        let mount = &w.broker.mounts[w.broker.mount_of(tenant).expect("configured")];
        mount.queues.iter().map(|&q| w.broker.queues[q].settings.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((of(""), of("red"), of("blue")), (vec!["main"], vec!["main"], vec!["alarms"]));
}
