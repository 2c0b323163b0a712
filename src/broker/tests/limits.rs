//! Quotas and rates: who uses up what it may have is told so, is made to wait, and disturbs nobody.

use super::world::{Seen, World, id, queue, record};
use crate::config::{Overflow, QueueSettings, Settings, TenantSettings};
use crate::model::admin::TenantStatus;
use crate::model::{ConnId, Priority};
use crate::store::{ReadRequest, Table, schema};
use crate::wire::{Code, Contract, ErrorHead, FrameType, Outcome, Publish, PublishNack, Request, Since, Subscribe};

/// Two tenants of which the first is bounded; each with a queue that rejects.
fn bounded(red: TenantSettings, overflow: Overflow) -> Settings {
    let blue = TenantSettings { name: "blue".into(), ..TenantSettings::default() };
    let its = |tenant: &str| QueueSettings { tenant: tenant.into(), overflow, ..queue("main", "#") };
    let queues = vec![queue("main", "#"), its("red"), its("blue")];
    Settings { tenants: vec![TenantSettings { name: "red".into(), ..red }, blue], queues, ..Settings::default() }
}

/// Publishes so many messages one after the other, and says what came of them.
fn flood(w: &mut World, conn: ConnId, first: u64, count: u64) -> Vec<Result<Outcome, Code>> {
    let mut all = Vec::new();
    for number in first..first + count {
        w.publish(conn, number, "a", "0123456789");
        all.extend(w.verdicts(conn).into_iter().map(|(_, verdict)| verdict));
    }
    all
}

/// The nack that came, and nothing else.
fn nack(seen: &Seen) -> (u64, Code, u32) {
    let head = seen.get::<PublishNack<'_>>();
    (head.first, Code::from_u16(head.code).expect("known"), head.retry_after_ms)
}

#[test]
fn a_tenant_has_as_many_connections_as_its_quota_says() {
    let red = TenantSettings { connections_max: 2, ..TenantSettings::default() };
    let mut w = World::with(bounded(red, Overflow::Reject));
    let first = w.connect_to("red");
    w.connect_to("red");
    assert_eq!(w.refused("red"), Code::QuotaExceeded);
    assert_eq!(w.refused("red"), Code::QuotaExceeded);
    for _ in 0..5 {
        w.connect_to("blue");
        w.connect_to("");
    }
    w.disconnect(first);
    w.connect_to("red");
    assert_eq!(w.refused("red"), Code::QuotaExceeded);
    assert_eq!(w.broker.mounts[1].connections, 2);
}

#[test]
fn a_tenant_at_its_quota_is_told_while_another_works_on_undisturbed() {
    let red = TenantSettings { stored_bytes_max: 300, ..TenantSettings::default() };
    let mut w = World::with(bounded(red, Overflow::Reject));
    let (red, blue) = (w.connect_to("red"), w.connect_to("blue"));
    let one = record("a", "0123456789", |_| {}).len() as u64;
    let fit = 300 / one;
    let verdicts = flood(&mut w, red, 1, fit);
    assert!(verdicts.iter().all(|v| *v == Ok(Outcome::Stored)), "{verdicts:?}");
    w.publish_with(red, fit + 1, Contract::Queue, |r| r.id = id(1), "a", "0123456789");
    assert_eq!(nack(&w.expect(red)), (fit + 1, Code::QuotaExceeded, 1_000));
    assert!(w.broker.stored_bytes(1) <= 300);
    assert!(flood(&mut w, blue, 1, 100).iter().all(|v| *v == Ok(Outcome::Stored)));
    // What is refused leaves nothing, fences what follows, and passes once there is room.
    w.publish(red, fit + 2, "a", "0123456789");
    assert_eq!(w.verdicts(red), [(fit + 2, Err(Code::Fenced))]);
    w.consume(red, 5, "main", "c");
    w.credit(red, 5, 100);
    assert_eq!(w.messages(red).len() as u64, fit);
    w.ack(red, 5, 1, 1);
    w.publish_with(red, fit + 1, Contract::Queue, |r| r.id = id(1), "a", "0123456789");
    w.pass(1_000);
    let frames = w.frames(red);
    assert!(frames.iter().any(|f| f.kind == FrameType::PublishAck), "{frames:?}");
    // Never fits: no use in trying again.
    w.publish(red, fit + 2, "a", &"x".repeat(400));
    assert_eq!(w.verdicts(red), [(fit + 2, Err(Code::MessageTooLarge))]);
}

#[test]
fn queues_that_drop_their_oldest_make_room_in_themselves_for_their_tenants_quota() {
    let red = TenantSettings { stored_bytes_max: 300, ..TenantSettings::default() };
    let mut settings = bounded(red, Overflow::DropOldest);
    settings.queues.push(QueueSettings { tenant: "red".into(), ..queue("kept", "kept") });
    let mut w = World::with(settings);
    let (red, blue) = (w.connect_to("red"), w.connect_to("blue"));
    assert!(flood(&mut w, blue, 1, 50).iter().all(|v| *v == Ok(Outcome::Stored)));
    // Captured by both: one that rejects and one that drops.
    w.publish(red, 1, "kept", "0123456789");
    assert!(flood(&mut w, red, 2, 100).iter().all(|v| v.is_ok()));
    let kept = w.broker.mounts[1].queue(&w.broker.queues, "kept").expect("configured");
    assert_eq!(w.broker.queues[kept].messages(), 1, "another queue's messages do not go for it");
    assert!(w.broker.stored_bytes(1) <= 300 && w.broker.stored_bytes(2) > 900);
    // Alarms push bulk out, and bulk no alarms.
    let alarm = Priority::new(9).expect("a priority");
    for n in 0..20 {
        w.publish_with(red, 102 + n, Contract::Queue, |r| r.priority = alarm, "a", "0123456789");
    }
    assert!(w.verdicts(red).iter().all(|(_, v)| v.is_ok()));
    w.publish(red, 122, "a", "0123456789");
    assert_eq!(w.verdicts(red), [(122, Err(Code::QuotaExceeded))]);
    assert!(w.broker.stored_bytes(1) <= 300);
}

#[test]
fn dead_letters_stay_within_their_tenants_quota() {
    let red = TenantSettings { stored_bytes_max: 2_000, ..TenantSettings::default() };
    let mut settings = bounded(red, Overflow::Reject);
    settings.queues[1].keep = crate::config::Keep::Limits;
    settings.queues[1].overflow = Overflow::DropOldest;
    let mut w = World::with(settings);
    let red = w.connect_to("red");
    w.consume(red, 5, "main", "c");
    w.credit(red, 5, 10_000);
    for n in 1..200 {
        w.publish(red, n, "a", &"x".repeat(100));
        assert!(w.frames(red).iter().all(|f| f.kind != FrameType::PublishNack), "letters go before the living");
        w.send(red, 5, &crate::wire::Nack { first: n, count: 1, delay_ms: 0, give_up: true, reason: "" }, &[]);
        assert!(w.broker.stored_bytes(1) <= 2_000 + 300, "after {n}: {}", w.broker.stored_bytes(1));
    }
    assert_eq!(w.broker.counters().dead, 199);
}

#[test]
fn a_tenant_begins_as_many_channels_as_its_quota_says_and_forgets_empty_ones() {
    let red = TenantSettings { channels_max: 5, ..TenantSettings::default() };
    let mut settings = bounded(red, Overflow::Reject);
    settings.queues[1].history = true;
    settings.queues[2].history = true;
    let mut w = World::with(settings);
    let (red, blue) = (w.connect_to("red"), w.connect_to("blue"));
    let publish = |w: &mut World, conn, n: u64, channel: &str, retain: bool| {
        w.publish_with(conn, n, Contract::Queue, |r| r.retain = retain, channel, "x");
        w.verdicts(conn).pop().expect("a verdict").1
    };
    for n in 1..=4 {
        assert!(publish(&mut w, red, n, &format!("c/{n}"), false).is_ok());
    }
    assert!(publish(&mut w, red, 5, "c/1", true).is_ok(), "a value is the fifth");
    assert_eq!(publish(&mut w, red, 6, "c/9", false), Err(Code::QuotaExceeded));
    assert_eq!(publish(&mut w, red, 6, "c/2", true), Err(Code::QuotaExceeded));
    assert!(publish(&mut w, red, 6, "c/2", false).is_ok() && publish(&mut w, red, 7, "c/1", true).is_ok());
    for n in 1..=50 {
        assert!(publish(&mut w, blue, n, &format!("c/{n}"), true).is_ok());
    }
    // Its messages gone, a channel may go.
    let reader = w.connect_to("red");
    w.consume(reader, 5, "main", "c");
    w.credit(reader, 5, 100);
    let count = w.messages(reader).len() as u32;
    w.ack(reader, 5, 1, count);
    assert!(publish(&mut w, red, 8, "c/9", false).is_ok());
    assert_eq!(w.broker.channels(1), 2, "the new one and the value");
    w.pass(1_000);
    let rows = ReadRequest::Rows {
        table: Table::Channel,
        prefix: bytes::Bytes::from_static(&[0, 0, 0, 1]),
        from: bytes::Bytes::new(),
        rows_max: 100,
        bytes_max: 10_000,
    };
    let crate::store::ReadResult::Rows(rows) = w.perform(&rows).expect("reads") else { panic!("rows") };
    assert_eq!(rows.len(), 1, "those forgotten are gone from the disk");
}

#[test]
fn above_its_rate_a_publisher_is_told_a_time_that_fits_and_a_patient_one_loses_nothing() {
    let mut settings = Settings { queues: vec![queue("main", "#")], ..Settings::default() };
    settings.limits.rates.messages_per_second = 10;
    let mut w = World::with(settings);
    let c = w.connect();
    let mut next = 1;
    let began = w.now.mono;
    while next <= 100 {
        w.publish(c, next, "a", "x");
        let seen = w.expect(c);
        if seen.kind == FrameType::PublishAck {
            next += 1;
            continue;
        }
        let (number, code, retry) = nack(&seen);
        assert_eq!((number, code), (next, Code::RateLimited));
        // What was on its way behind it is fenced, and no offence.
        w.publish(c, next + 1, "a", "x");
        assert_eq!(w.verdicts(c), [(next + 1, Err(Code::Fenced))]);
        assert!(w.broker.wants_read(c));
        w.pass(u64::from(retry));
    }
    let took = w.now.mono.ms_since(began);
    assert_eq!(took, 8_000, "twenty at once, then ten a second");
    assert_eq!((w.broker.counters().paused, w.is_closed(c)), (0, false));
}

#[test]
fn who_goes_on_above_its_rate_is_paused_then_closed_and_each_is_counted() {
    let mut settings = Settings { queues: vec![queue("main", "#")], ..Settings::default() };
    settings.limits.rates.messages_per_second = 10;
    let mut w = World::with(settings);
    let (c, other) = (w.connect(), w.connect());
    let (mut next, mut pauses) = (1, 0);
    while !w.is_closed(c) {
        assert!(next < 1_000, "it never ends");
        w.publish(c, next, "a", "x");
        for seen in w.frames(c) {
            match seen.kind {
                FrameType::PublishAck => next += 1,
                FrameType::PublishNack => assert_eq!(nack(&seen).1, Code::RateLimited),
                FrameType::Error => {
                    let head = seen.get::<ErrorHead<'_>>();
                    assert_eq!((head.code, head.retry_after_ms > 0), (Code::RateExceeded as u16, true));
                }
                other => panic!("{other:?}"),
            }
        }
        if !w.is_closed(c) && !w.broker.wants_read(c) {
            pauses += 1;
            // As long as it is not read from it says nothing; then it is read from again by itself.
            let mut waited = 0;
            while !w.broker.wants_read(c) {
                w.pass(10);
                waited += 10;
                assert!(waited <= 200, "a pause ends");
            }
            assert!(waited >= 80);
        }
    }
    let counters = w.broker.counters();
    assert_eq!((pauses, counters.paused), (3, 3));
    assert_eq!(counters.closed.get(&Code::RateExceeded), Some(&1));
    assert!(counters.refused.get(&Code::RateLimited).is_some_and(|n| *n > 3));
    assert_eq!(w.broker.mounts[0].tally.refused.get(&(Code::RateExceeded as u16)), Some(&1));
    let verdicts = flood(&mut w, other, 1, 1);
    assert_eq!(verdicts, [Err(Code::RateLimited)], "sessions of one principal share one budget");
}

#[test]
fn who_never_looks_at_its_nacks_is_paused_and_closed_too() {
    let mut settings = Settings { queues: vec![queue("main", "#")], ..Settings::default() };
    settings.limits.rates.messages_per_second = 10;
    settings.limits.window_messages = 50;
    let mut w = World::with(settings);
    let c = w.connect();
    let mut sent = 0;
    while !w.is_closed(c) {
        sent += 1;
        w.publish(c, sent, "a", "x");
        w.frames(c);
        if !w.is_closed(c) && !w.broker.wants_read(c) {
            w.pass(1_000);
        }
        assert!(sent < 400, "it never ends");
    }
    assert!(sent > 20 + 50, "a window of messages may be on its way");
    assert_eq!(w.broker.counters().paused, 3);
    assert_eq!(w.broker.counters().closed.get(&Code::RateExceeded), Some(&1));
}

#[test]
fn bytes_are_limited_as_messages_are_and_a_large_one_passes_in_the_end() {
    let mut settings = Settings { queues: vec![queue("main", "#")], ..Settings::default() };
    settings.limits.rates.bytes_per_second = 1_000;
    let mut w = World::with(settings);
    let c = w.connect();
    // More than the bucket holds: it passes while that is full, and is paid off after.
    w.publish(c, 1, "a", &"x".repeat(5_000));
    assert_eq!(w.verdicts(c), [(1, Ok(Outcome::Stored))]);
    w.publish(c, 2, "a", "x");
    let (_, code, retry) = nack(&w.expect(c));
    assert_eq!(code, Code::RateLimited);
    assert!((3_000..3_100).contains(&retry), "{retry}");
    w.pass(u64::from(retry) - 1);
    w.pass(1);
    w.publish(c, 2, "a", "x");
    assert_eq!(w.verdicts(c), [(2, Ok(Outcome::Stored))]);
}

#[test]
fn a_tenant_above_its_rate_costs_no_other_anything() {
    let red = TenantSettings { messages_per_second: 5, ..TenantSettings::default() };
    let mut w = World::with(bounded(red, Overflow::Reject));
    // Each with a budget of its own, but one for all of the tenant.
    let sessions: Vec<ConnId> = (0..4).map(|_| w.connect_to("red")).collect();
    let mut passed = 0;
    for &conn in &sessions {
        passed += flood(&mut w, conn, 1, 5).iter().filter(|v| v.is_ok()).count();
    }
    assert_eq!(passed, 10);
    let (blue, nobody) = (w.connect_to("blue"), w.connect_to(""));
    assert!(flood(&mut w, blue, 1, 100).iter().all(|v| v.is_ok()));
    assert!(flood(&mut w, nobody, 1, 100).iter().all(|v| v.is_ok()));
}

#[test]
fn to_come_back_is_no_way_to_a_full_budget_also_for_strangers_of_one_address() {
    let mut settings = Settings { queues: vec![queue("main", "#")], ..Settings::default() };
    settings.limits.rates.messages_per_second = 10;
    let mut w = World::with(settings);
    let c = w.connect();
    assert_eq!(flood(&mut w, c, 1, 20).iter().filter(|v| v.is_ok()).count(), 20);
    w.disconnect(c);
    w.pass(1_000);
    let c = w.connect();
    assert_eq!(flood(&mut w, c, 1, 20).iter().filter(|v| v.is_ok()).count(), 10, "a second's worth");
    for left in [20, 0, 0] {
        let stranger = w.connect_to("");
        assert_eq!(flood(&mut w, stranger, 1, 20).iter().filter(|v| v.is_ok()).count(), left);
        w.disconnect(stranger);
    }
    assert_eq!(w.broker.budgets.len(), 2);
    w.disconnect(c);
    w.pass(10_000);
    assert_eq!(w.broker.budgets.len(), 0, "nothing is missing of it: it is forgotten");
}

#[test]
fn a_reload_changes_rates_and_quotas_at_once() {
    let red = TenantSettings { messages_per_second: 1, stored_bytes_max: 200, ..TenantSettings::default() };
    let mut w = World::with(bounded(red, Overflow::Reject));
    let c = w.connect_to("red");
    assert_eq!(flood(&mut w, c, 1, 3)[1..], [Ok(Outcome::Stored), Err(Code::RateLimited)]);
    w.reload(bounded(TenantSettings::default(), Overflow::Reject));
    assert!(flood(&mut w, c, 3, 100).iter().all(|v| v.is_ok()));
    w.reload(bounded(TenantSettings { stored_bytes_max: 200, ..TenantSettings::default() }, Overflow::Reject));
    assert_eq!(flood(&mut w, c, 103, 1), [Err(Code::QuotaExceeded)], "what is there stays");
}

/// The tallies on disk: mount and messages published.
fn tallies(w: &World) -> Vec<(u32, u64)> {
    let mut found = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        let id = u32::from_be_bytes(key[schema::META_TALLY.len()..].try_into().expect("four bytes"));
        found.push((id, schema::decode::<schema::Tally>(value).expect("a tally").published));
        true
    };
    w.disk().scan(Table::Meta, schema::META_TALLY, schema::META_TALLY, &mut visit).expect("reads");
    found
}

#[test]
fn what_a_tenant_did_is_counted_for_itself_and_outlives_restarts() {
    let red = TenantSettings { connections_max: 2, ..TenantSettings::default() };
    let mut w = World::with(bounded(red, Overflow::Reject));
    let (red, blue) = (w.connect_to("red"), w.connect_to("blue"));
    flood(&mut w, red, 1, 3);
    flood(&mut w, blue, 1, 5);
    w.publish(red, 9, "a", "x");
    assert_eq!(w.verdicts(red), [(9, Err(Code::BadPublishNumber))]);
    w.consume(red, 5, "main", "c");
    w.credit(red, 5, 2);
    assert_eq!(w.messages(red).len(), 2);
    w.connect_to("red");
    assert_eq!(w.refused("red"), Code::QuotaExceeded);
    let status = |w: &mut World| -> Vec<TenantStatus> {
        let own = w.connect();
        let channel = crate::model::admin::STATUS;
        w.send(own, 1, &Request { channel, deadline_ms: 0, total: 0, properties: &[] }, &[]);
        let body = w.expect(own).payload;
        w.disconnect(own);
        serde_json::from_slice::<crate::model::admin::Status>(&body).expect("a status").tenants
    };
    let before = status(&mut w);
    let names: Vec<&str> = before.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["", "red", "blue"]);
    let red = &before[1];
    assert_eq!((red.published, red.delivered, red.connects, red.connections), (3, 2, 2, 2));
    assert_eq!((before[2].published, before[2].delivered, before[0].published), (5, 0, 0));
    let bytes = 3 * record("a", "0123456789", |_| {}).len() as u64;
    assert_eq!((red.published_bytes, red.stored_bytes, red.connections_max), (bytes, bytes, 2));
    let refused: Vec<(&str, u64)> = red.refused.iter().map(|(code, n)| (code.as_str(), *n)).collect();
    assert_eq!(refused, [("bad-publish-number", 1), ("quota-exceeded", 1)]);
    // Orderly: all of it is kept.
    let deadline = w.now.mono.plus_ms(5_000);
    w.event(crate::broker::Event::Stop { deadline });
    assert!(w.stopped);
    w.restart();
    let after = status(&mut w);
    for (before, after) in before.iter().zip(&after).skip(1) {
        let same = TenantStatus { connections: after.connections, ..before.clone() };
        assert_eq!(*after, same);
    }
}

#[test]
fn tallies_ride_on_commits_that_are_made_anyway_once_a_minute_at_most() {
    let mut w = World::with(bounded(TenantSettings::default(), Overflow::Reject));
    let c = w.connect_to("red");
    w.pass(61_000);
    w.publish(c, 1, "a", "x");
    assert_eq!(tallies(&w), [(1, 1)], "the row says what is committed with it");
    for n in 2..50 {
        w.publish(c, n, "a", "x");
        w.pass(1_000);
    }
    assert_eq!(tallies(&w), [(1, 1)]);
    w.pass(60_000);
    let commits = w.commits;
    // Live only: nothing is written for it, however long it goes on.
    let live = w.connect_to("blue");
    w.send(
        live,
        1,
        &Subscribe { filter: "#", retained: false, since: Since::Now, respond: false, disconnect_when_slow: false },
        &[],
    );
    w.pass(200_000);
    assert_eq!((w.commits, tallies(&w)), (commits, vec![(1, 1)]));
    w.publish(c, 50, "a", "x");
    assert_eq!(tallies(&w), [(1, 50), (2, 0)]);
    // After a cut at most what came since the last row is missing.
    w.publish(c, 51, "a", "x");
    w.restart();
    assert_eq!(w.broker.mounts[1].tally.published, 50);
}

#[test]
fn a_publish_that_is_limited_still_needs_its_place_in_the_order() {
    let mut settings = Settings { queues: vec![queue("main", "#")], ..Settings::default() };
    settings.limits.rates.messages_per_second = 1;
    let mut w = World::with(settings);
    let c = w.connect();
    let bytes = record("a", "x", |_| {});
    let head = |number| Publish { contract: Contract::Queue, number, total: bytes.len() as u32 };
    for number in [1, 2, 3, 4, 7] {
        w.send(c, 1, &head(number), &bytes);
    }
    use Code::{Fenced, RateLimited};
    let verdicts = w.verdicts(c);
    let expected = [Ok(Outcome::Stored), Ok(Outcome::Stored), Err(RateLimited), Err(Fenced), Err(Fenced)];
    assert_eq!(verdicts.iter().map(|(_, v)| *v).collect::<Vec<_>>(), expected);
    // Batches: what passes of one is taken, the rest fenced.
    w.pass(2_000);
    w.publish_batch(c, 3, "a", &["x".into(), "y".into(), "z".into(), "zz".into()]);
    let verdicts: Vec<_> = w.verdicts(c).into_iter().map(|(_, v)| v).collect();
    assert_eq!(verdicts, [Ok(Outcome::Stored), Ok(Outcome::Stored), Err(RateLimited), Err(Fenced)]);
}

#[test]
fn a_tenant_that_fills_the_requests_leaves_each_other_its_share() {
    let mut settings = bounded(TenantSettings::default(), Overflow::Reject);
    settings.limits.requests_max = 30;
    let mut w = World::with(settings);
    let open = |w: &mut World, tenant: &str, count: u32| {
        let responder = w.connect_to(tenant);
        let subscribe = Subscribe {
            filter: "calc",
            retained: false,
            since: Since::Now,
            respond: true,
            disconnect_when_slow: false,
        };
        w.send(responder, 1, &subscribe, &[]);
        let asker = w.connect_to(tenant);
        for stream in 1..=count {
            w.send(asker, stream, &Request { channel: "calc", deadline_ms: 0, total: 0, properties: &[] }, &[]);
        }
        let refused = w.frames(asker);
        assert!(refused.iter().all(|f| f.get::<ErrorHead<'_>>().code == Code::LimitReached as u16));
        (asker, count - refused.len() as u32)
    };
    let (red, taken) = open(&mut w, "red", 100);
    assert_eq!(taken, 30, "while nobody else asks, all of them");
    assert_eq!(open(&mut w, "blue", 100).1, 10);
    assert_eq!(open(&mut w, "", 100).1, 10);
    w.disconnect(red);
    assert_eq!(w.broker.mounts.iter().map(|m| m.asks).collect::<Vec<_>>(), [10, 0, 10]);
}
