//! What a bridge promises, between two whole brokers.

use super::pair::{Pair, settings};
use super::world::{World, queue};
use crate::bridge::Reason;
use crate::broker::{Event, Peer};
use crate::config::BridgeSettings;
use crate::config::{AuthSettings, QueueSettings, Settings, SignatureSettings};
use crate::model::ConnId;
use crate::model::admin::BridgeState;
use crate::session::Denied;
use crate::wire::auth_method;

/// Publishes numbered texts at the edge.
fn publish(edge: &mut World, conn: ConnId, from: u64, count: u64) {
    for n in from..from + count {
        edge.publish(conn, n, "a/b", &n.to_string());
    }
    edge.frames(conn);
}

/// The texts that the hub's queue holds.
fn arrived(hub: &mut World) -> Vec<String> {
    let conn = hub.connect();
    hub.consume(conn, 1, "main", "reader");
    hub.credit(conn, 1, 10_000);
    let mut texts = Vec::new();
    loop {
        let messages = hub.messages(conn);
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { break };
        hub.ack(conn, 1, first.tag, (last.tag - first.tag + 1) as u32);
        texts.extend(messages.into_iter().map(|m| m.text));
    }
    hub.disconnect(conn);
    texts
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Messages that the edge's queue holds.
fn queued(edge: &World) -> u64 {
    edge.broker.queues.iter().flat_map(|q| q.lanes()).map(|lane| lane.next - lane.head).sum()
}

#[test]
fn a_message_is_forwarded_and_leaves_its_queue_only_after_the_hubs_acknowledgement() {
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings(&["main"]));
    assert_eq!(pair.state(), BridgeState::Open);
    let conn = pair.edge.connect();
    pair.hub.hold_commits = true;
    publish(&mut pair.edge, conn, 1, 3);
    pair.run();
    assert_eq!((pair.status().in_flight, pair.status().acked, queued(&pair.edge)), (3, 0, 3));
    pair.hub.hold_commits = false;
    while !pair.hub.held.is_empty() {
        pair.hub.release_commit();
    }
    pair.run();
    assert_eq!((pair.status().in_flight, pair.status().acked, queued(&pair.edge)), (0, 3, 0));
    assert_eq!(arrived(&mut pair.hub), numbers(1..=3));
}

/// A pair whose queues are both called main, forwarded as they are.
fn pair() -> Pair {
    Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings(&["main"]))
}

#[test]
fn nothing_is_taken_from_a_queue_while_there_is_no_upstream_and_all_of_it_goes_once_there_is() {
    let mut pair = pair();
    pair.broken = vec![Some(Reason::Refused)];
    pair.cut();
    pair.run();
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 50);
    pair.pass(5_000);
    assert_eq!((pair.status().in_flight, queued(&pair.edge)), (0, 50));
    assert_eq!(pair.status().last_error, "refused");
    pair.broken.clear();
    pair.until_open();
    pair.pass(3_000);
    assert_eq!(queued(&pair.edge), 0);
    assert_eq!(arrived(&mut pair.hub), numbers(1..=50));
}

#[test]
fn the_next_address_is_tried_at_once_and_the_preferred_one_again_after_a_time() {
    let urls = vec!["tcp://a:1".into(), "tcp://b:1".into()];
    let settings = BridgeSettings { urls, return_ms: 120_000, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings);
    assert_eq!(pair.dialed, [0]);
    pair.broken = vec![Some(Reason::Dns)];
    pair.pass(70_000);
    pair.cut();
    pair.run();
    assert_eq!((pair.dialed.as_slice(), pair.state()), (&[0, 1][..], BridgeState::Open), "the other one at once");
    assert_eq!(pair.status().url, "tcp://b:1");
    pair.broken.clear();
    pair.pass(119_000);
    assert_eq!(pair.dialed, [0, 1]);
    pair.pass(2_000);
    assert_eq!((pair.dialed.as_slice(), pair.state()), (&[0, 1, 0][..], BridgeState::Open));
}

#[test]
fn a_paused_bridge_takes_nothing_stays_so_over_a_restart_and_goes_on_at_once() {
    let mut pair = pair();
    pair.bridge.handle_pause(pair.edge.now, true);
    pair.run();
    assert_eq!(pair.state(), BridgeState::Paused);
    pair.crash_edge();
    pair.run();
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 3);
    pair.pass(100_000);
    assert_eq!((pair.state(), queued(&pair.edge)), (BridgeState::Paused, 3));
    pair.bridge.handle_pause(pair.edge.now, false);
    pair.run();
    assert_eq!((pair.state(), queued(&pair.edge)), (BridgeState::Open, 0));
    pair.crash_hub();
    pair.until_open();
    assert_eq!(arrived(&mut pair.hub), numbers(1..=3));
}

#[test]
fn a_hub_that_reads_and_never_acknowledges_is_given_up() {
    let mut pair = pair();
    pair.hub.hold_commits = true;
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 10);
    pair.run();
    pair.pass(119_000);
    assert_eq!((pair.dialed.len(), pair.status().healthy), (1, false));
    pair.pass(3_000);
    assert_eq!((pair.dialed.len(), pair.status().last_error.as_str()), (2, "stalled"));
}

#[test]
fn a_link_that_swallows_everything_is_noticed_within_two_heartbeats() {
    let settings = BridgeSettings { heartbeat_ms: 15_000, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings);
    pair.hub_is_heard = false;
    pair.broken = vec![Some(Reason::Unreachable)];
    pair.pass(26_000);
    assert_eq!(pair.state(), BridgeState::Open);
    pair.pass(500);
    assert_eq!((pair.state(), pair.status().last_error.as_str()), (BridgeState::Waiting, "heartbeat"));
}

#[test]
fn a_link_that_moves_nothing_while_something_is_under_way_is_given_up_after_twice_the_ack_age() {
    let settings = BridgeSettings { heartbeat_ms: 3_600_000, ack_ms_max: 5_000, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings);
    (pair.hub_reads, pair.hub_is_heard) = (false, false);
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 3);
    pair.pass(9_900);
    assert_eq!(pair.status().last_error, "");
    pair.pass(200);
    assert_eq!(pair.status().last_error, "stalled");
}

#[test]
fn a_dial_without_an_end_is_given_up_and_another_follows() {
    let mut pair = pair();
    pair.hangs = true;
    pair.cut();
    pair.pass(40_000);
    assert_eq!((pair.dialed.len(), pair.status().last_error.as_str()), (3, "timeout"));
}

#[test]
fn an_idle_link_lives_by_its_heartbeats() {
    let settings = BridgeSettings { heartbeat_ms: 15_000, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings);
    pair.pass(600_000);
    assert_eq!((pair.state(), pair.dialed.len(), pair.status().healthy), (BridgeState::Open, 1, true));
}

#[test]
fn a_lane_that_the_hub_does_not_take_holds_up_no_other() {
    let full = QueueSettings { messages_max: 5, ..queue("bulk", "bulk/#") };
    let small = BridgeSettings { window_messages: 100, ramp_ms: 0, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![full, queue("main", "alarm/#")], small);
    let conn = pair.edge.connect();
    for n in 1..=1_000 {
        pair.edge.publish(conn, n, "bulk/x", &n.to_string());
    }
    pair.pass(2_000);
    assert_eq!(queued(&pair.edge), 995, "the hub's queue is full");
    for n in 1_001..=1_300 {
        let urgent = |r: &mut crate::model::Record<'_>| r.priority = crate::model::Priority::MAX;
        pair.edge.publish_with(conn, n, crate::wire::Contract::Queue, urgent, "alarm/x", &n.to_string());
    }
    pair.run();
    pair.pass(1_000);
    assert_eq!(queued(&pair.edge), 995, "alarms pass: {:?}", pair.status());
    assert_eq!(arrived(&mut pair.hub), numbers(1_001..=1_300));
    // Somebody takes the bulk: the rest follows, in order.
    let reader = pair.hub.connect();
    pair.hub.consume(reader, 1, "bulk", "reader");
    pair.hub.credit(reader, 1, 10_000);
    let mut seen = Vec::new();
    for _ in 0..4_000 {
        for m in pair.hub.messages(reader) {
            pair.hub.ack(reader, 1, m.tag, 1);
            seen.push(m.text);
        }
        if seen.len() == 1_000 {
            break;
        }
        pair.pass(100);
    }
    assert_eq!((seen, queued(&pair.edge)), (numbers(1..=1_000), 0));
}

#[test]
fn what_the_hub_refuses_for_good_is_a_dead_letter_once_and_burns_no_data() {
    let rule = SignatureSettings { channels: vec!["signed/#".into()], keys: Vec::new(), tenant: String::new() };
    let hub = Settings { queues: vec![queue("main", "#")], signatures: vec![rule], ..Settings::default() };
    let mut pair = Pair::of(World::new(vec![queue("main", "#")]), World::with(hub), settings(&["main"]));
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 2);
    pair.edge.publish(conn, 3, "signed/x", "poison");
    publish(&mut pair.edge, conn, 4, 2);
    pair.pass(3_000);
    assert_eq!(queued(&pair.edge), 1, "only the dead letter is left");
    let dropped = pair.status().dropped;
    assert_eq!(dropped.into_iter().collect::<Vec<_>>(), [("bad-signature".to_owned(), 1)]);
    let up = pair.status().bytes["up"];
    pair.cut();
    pair.until_open();
    pair.pass(5_000);
    assert!(pair.status().bytes["up"] - up < 2_000, "it is not sent again");
    assert_eq!(pair.status().dropped["bad-signature"], 1);
    let reader = pair.edge.connect();
    pair.edge.consume(reader, 1, "$dead/main", "reader");
    pair.edge.credit(reader, 1, 10);
    assert_eq!(pair.edge.texts(reader), ["poison"]);
    assert_eq!(arrived(&mut pair.hub), ["1", "2", "4", "5"]);
}

#[test]
fn a_message_that_the_hub_has_no_room_for_is_never_sent() {
    let mut hub = Settings { queues: vec![queue("main", "#")], ..Settings::default() };
    hub.limits.message_bytes_max = 20_000;
    let mut pair = Pair::of(World::new(vec![queue("main", "#")]), World::with(hub), settings(&["main"]));
    let conn = pair.edge.connect();
    pair.edge.publish(conn, 1, "a/b", &"x".repeat(30_000));
    pair.edge.publish(conn, 2, "a/b", "small");
    pair.pass(3_000);
    assert!(pair.status().bytes["up"] < 3_000);
    assert_eq!(pair.status().dropped["message-too-large"], 1);
    assert_eq!(arrived(&mut pair.hub), ["small"]);
}

#[test]
fn a_large_message_goes_in_chunks_and_heartbeats_pass_it_on_a_slow_link() {
    let settings = BridgeSettings { heartbeat_ms: 15_000, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings);
    // A frame a second.
    (pair.pipe_max, pair.hub_reads) = (1_024, false);
    let conn = pair.edge.connect();
    let large = "x".repeat(60_000);
    pair.edge.publish(conn, 1, "a/b", &large);
    let mut seconds = 0;
    while queued(&pair.edge) > 0 {
        pair.pass(1_000);
        pair.hub_reads = true;
        pair.carry();
        pair.hub_reads = false;
        seconds += 1;
        assert!(seconds < 1_000, "{:?}", pair.status());
    }
    assert!(seconds > 40, "the link was slow");
    assert_eq!((pair.dialed.len(), pair.state()), (1, BridgeState::Open));
    assert_eq!(arrived(&mut pair.hub), [large]);
}

#[test]
fn caps_are_kept() {
    let capped = BridgeSettings { messages_per_second: 100, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], capped);
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 1_000);
    pair.pass(5_000);
    let acked = pair.status().acked;
    assert!((450..=550).contains(&acked), "{acked}");
}

#[test]
fn a_spent_budget_ends_the_connection_until_the_next_day_also_over_a_restart() {
    let poor = BridgeSettings { bytes_per_day: 20_000, compress: false, ..settings(&["main"]) };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], poor);
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 2_000);
    pair.pass(5_000);
    assert_eq!(pair.state(), BridgeState::Spent);
    let left = queued(&pair.edge);
    assert!(left > 1_000);
    pair.crash_edge();
    pair.pass(60_000);
    assert_eq!((pair.state(), queued(&pair.edge)), (BridgeState::Spent, left));
    let day = 86_400_000;
    let rest = day - pair.edge.now.wall.0 % day;
    for _ in 0..=rest / 600_000 {
        pair.edge.skip(600_000);
        pair.hub.skip(600_000);
        pair.pass(50);
    }
    pair.pass(61_000);
    assert!(queued(&pair.edge) < left, "{:?}", pair.status());
}

#[test]
fn batches_of_telemetry_are_a_quarter_as_large_on_the_wire_and_arrive_as_they_were() {
    let mut pair = pair();
    let conn = pair.edge.connect();
    let text = |n: u64| {
        format!(
            r#"{{"device":"boiler-{}","seq":{n},"temperature":{}.{},"unit":"C","state":"ok"}}"#,
            n % 7,
            n % 90,
            n % 10
        )
    };
    for n in 1..=3_000 {
        pair.edge.publish(conn, n, &format!("site/{}/boiler", n % 7), &text(n));
    }
    pair.edge.frames(conn);
    pair.pass(3_000);
    let bytes = pair.status().bytes;
    assert!(bytes["records"] >= 4 * bytes["batches"], "{bytes:?}");
    assert!(arrived(&mut pair.hub).into_iter().eq((1..=3_000).map(text)));
}

#[test]
fn after_a_cut_at_any_byte_each_message_is_at_the_hub_once_and_in_order() {
    // Without ids nothing but the positions tells what the hub has.
    for cut in (1..4_000).step_by(37) {
        let mut pair = pair();
        let conn = pair.edge.connect();
        pair.cut_after = Some(cut);
        publish(&mut pair.edge, conn, 1, 60);
        pair.run();
        pair.until_open();
        pair.pass(3_000);
        assert_eq!(queued(&pair.edge), 0, "cut at byte {cut}");
        assert_eq!(arrived(&mut pair.hub), numbers(1..=60), "cut at byte {cut}");
    }
}

#[test]
fn what_the_hub_stored_before_a_cut_is_acknowledged_by_its_welcome_and_not_sent_again() {
    let mut pair = pair();
    pair.hub_is_heard = false;
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 50);
    pair.pass(3_000);
    let sent = pair.status().bytes["records"];
    assert!(queued(&pair.edge) == 50 && sent > 0);
    pair.cut();
    pair.hub_is_heard = true;
    pair.crash_edge();
    pair.until_open();
    pair.pass(3_000);
    assert_eq!((queued(&pair.edge), pair.status().acked), (0, 50));
    let again = pair.status().bytes["records"];
    let one = (sent + again) / 50;
    assert!(sent + again <= 50 * (one + 1), "{sent} bytes and {again} after it");
    assert_eq!(arrived(&mut pair.hub), numbers(1..=50));
}

#[test]
fn a_refusal_that_a_cut_swallowed_is_a_dead_letter_all_the_same() {
    let rule = SignatureSettings { channels: vec!["signed/#".into()], keys: Vec::new(), tenant: String::new() };
    let hub = Settings { queues: vec![queue("main", "#")], signatures: vec![rule], ..Settings::default() };
    let mut pair = Pair::of(World::new(vec![queue("main", "#")]), World::with(hub), settings(&["main"]));
    pair.hub_is_heard = false;
    let conn = pair.edge.connect();
    pair.edge.publish(conn, 1, "signed/x", "poison");
    pair.run();
    pair.cut();
    pair.hub_is_heard = true;
    pair.until_open();
    pair.pass(3_000);
    assert_eq!(pair.status().dropped["bad-signature"], 1);
    let reader = pair.edge.connect();
    pair.edge.consume(reader, 1, "$dead/main", "reader");
    pair.edge.credit(reader, 1, 10);
    assert_eq!(pair.edge.texts(reader), ["poison"]);
}

#[test]
fn through_cuts_and_crashes_of_both_sides_each_message_is_at_the_hub_once_and_in_order_of_its_lane() {
    for seed in 0..8 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut pair = pair();
        let mut conn = pair.edge.connect();
        let (mut number, mut next, mut sent) = (1, [0u64; 2], [Vec::new(), Vec::new()]);
        for _ in 0..60 {
            match rng.u8(0..10) {
                0..=4 => {
                    for _ in 0..rng.u64(1..80) {
                        let lane = rng.usize(0..2);
                        let text = format!("{lane}:{}", next[lane]);
                        let high = |r: &mut crate::model::Record<'_>| {
                            r.priority = crate::model::Priority::new(4 * lane as u8).expect("a lane");
                        };
                        let contract = crate::wire::Contract::Queue;
                        pair.edge.publish_with(conn, number, contract, high, "a/b", &text);
                        sent[lane].push(text);
                        (number, next[lane]) = (number + 1, next[lane] + 1);
                    }
                }
                5 => pair.cut_after = Some(rng.usize(1..3_000)),
                6 => pair.cut(),
                7 => {
                    pair.crash_edge();
                    (conn, number) = (pair.edge.connect(), 1);
                }
                8 => pair.crash_hub(),
                _ => pair.hub_is_heard = rng.bool(),
            }
            pair.run();
            pair.pass(rng.u64(0..1_500));
        }
        (pair.hub_is_heard, pair.cut_after) = (true, None);
        for _ in 0..200 {
            if queued(&pair.edge) == 0 {
                break;
            }
            pair.pass(1_000);
        }
        assert_eq!(queued(&pair.edge), 0, "{:?}", pair.status());
        let all = arrived(&mut pair.hub);
        for (lane, sent) in sent.iter().enumerate() {
            let of: Vec<_> = all.iter().filter(|t| t.starts_with(&format!("{lane}:"))).cloned().collect();
            assert!(of == *sent, "seed {seed}, lane {lane}: {} of {}", of.len(), sent.len());
        }
    }
}

#[test]
fn new_routes_are_consumed_and_new_addresses_dialed_at_once() {
    let queues = || vec![queue("main", "a/#"), queue("other", "b/#")];
    let mut pair = Pair::new(queues(), vec![queue("main", "#")], settings(&["main"]));
    let conn = pair.edge.connect();
    pair.edge.publish(conn, 1, "b/x", "1");
    pair.pass(100);
    assert_eq!(queued(&pair.edge), 1);
    pair.set(settings(&["main", "other"]));
    pair.pass(3_000);
    assert_eq!((queued(&pair.edge), pair.dialed.len()), (0, 2));
    let calm = BridgeSettings { ack_ms_max: 7_000, ..settings(&["main", "other"]) };
    pair.set(calm.clone());
    assert_eq!(pair.dialed.len(), 2, "nothing that needs another connection");
    pair.set(BridgeSettings { urls: vec!["tcp://elsewhere:1".into()], ..calm });
    assert_eq!((pair.dialed.len(), pair.status().url.as_str()), (3, "tcp://elsewhere:1"));
    assert_eq!(arrived(&mut pair.hub), ["1"]);
}

#[test]
fn credentials_are_asked_for_and_what_is_refused_says_auth() {
    let hub = Settings {
        queues: vec![queue("main", "#")],
        auth: AuthSettings { identities: Some("identities".into()), ..Settings::default().auth },
        ..Settings::default()
    };
    let with = BridgeSettings { login_key: "env:KEY".into(), ..settings(&["main"]) };
    let mut pair = Pair::of(World::new(vec![queue("main", "#")]), World::with(hub), with);
    pair.from = Peer::tcp(([127, 0, 0, 1], 5_000).into());
    pair.cut();
    pair.pass(1_000);
    let (method, challenge) = pair.asked.pop().expect("the edge is asked for credentials");
    assert_eq!((pair.state(), method, challenge.len()), (BridgeState::Greeting, auth_method::KEY, 32));
    pair.bridge.handle_credentials(pair.edge.now, pair.number(), Ok((method, vec![7; 96])));
    pair.run();
    let (conn, attempt) = pair.hub.asked.pop_front().expect("the hub is to check them");
    assert_eq!(attempt.data, [7; 96]);
    pair.hub
        .event(Event::Authenticated { conn, outcome: Err(Denied { reason: "unknown", detail: "a test's".into() }) });
    pair.run();
    assert_eq!((pair.state(), pair.status().last_error.as_str()), (BridgeState::Waiting, "auth"));
    pair.answer = Some(Err("the file is not there".into()));
    pair.pass(3_000);
    assert_eq!(pair.status().last_error_detail, "the file is not there");
}

#[test]
fn a_hub_that_stops_is_sent_nothing_more_and_come_back_to() {
    let mut pair = pair();
    let deadline = pair.hub.now.mono.plus_ms(2_000);
    pair.hub.hold_commits = true;
    let conn = pair.edge.connect();
    publish(&mut pair.edge, conn, 1, 1);
    pair.run();
    pair.hub.event(Event::Stop { deadline });
    pair.run();
    let up = pair.status().bytes["up"];
    publish(&mut pair.edge, conn, 2, 10);
    pair.run();
    assert_eq!(pair.status().bytes["up"], up);
    pair.crash_hub();
    pair.until_open();
    pair.pass(3_000);
    assert_eq!(arrived(&mut pair.hub), numbers(1..=11));
}

#[test]
fn one_busy_queue_among_idle_ones_has_the_whole_window() {
    let names = ["main", "q1", "q2", "q3", "q4", "q5", "q6", "q7"];
    let queues = names.iter().map(|name| queue(name, &format!("{name}/#"))).collect();
    let with = BridgeSettings { ramp_ms: 0, ..settings(&names) };
    let mut pair = Pair::new(queues, vec![queue("main", "#")], with);
    let start = pair.status().window;
    let conn = pair.edge.connect();
    for n in 1..=2_000 {
        pair.edge.publish(conn, n, "main/x", &n.to_string());
        if n % 400 == 0 {
            pair.pass(100);
        }
    }
    pair.pass(1_000);
    assert_eq!(queued(&pair.edge), 0);
    let grown = pair.status().window;
    assert!(grown.0 >= 4 * start.0 && grown.1 >= 2 * start.1, "{start:?} became {grown:?}");
}

/// A pair whose hub refuses `signed/#` for good.
fn strict() -> Pair {
    let rule = SignatureSettings { channels: vec!["signed/#".into()], keys: Vec::new(), tenant: String::new() };
    let hub = Settings { queues: vec![queue("main", "#")], signatures: vec![rule], ..Settings::default() };
    Pair::of(World::new(vec![queue("main", "#")]), World::with(hub), settings(&["main"]))
}

/// The texts of the edge's dead letters.
fn dead(pair: &mut Pair) -> Vec<String> {
    let reader = pair.edge.connect();
    pair.edge.consume(reader, 1, "$dead/main", "reader");
    pair.edge.credit(reader, 1, 10_000);
    let mut texts = Vec::new();
    loop {
        let messages = pair.edge.messages(reader);
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { break };
        pair.edge.ack(reader, 1, first.tag, (last.tag - first.tag + 1) as u32);
        texts.extend(messages.into_iter().map(|m| m.text));
    }
    texts
}

#[test]
fn whatever_many_are_refused_for_good_the_lane_goes_on_and_each_is_a_dead_letter_once() {
    let mut pair = strict();
    let conn = pair.edge.connect();
    for n in 1..=3_000 {
        pair.edge.publish(conn, n, "signed/x", &n.to_string());
        if n % 1_400 == 0 {
            pair.pass(200);
            pair.cut();
        }
    }
    pair.edge.publish(conn, 3_001, "a/b", "good");
    pair.until_open();
    pair.pass(30_000);
    assert_eq!(arrived(&mut pair.hub), ["good"], "{:?}", pair.status());
    assert_eq!(queued(&pair.edge), 3_000, "only dead letters are left");
    assert_eq!(dead(&mut pair), numbers(1..=3_000));
}

#[test]
fn a_refusal_is_told_again_after_a_crash_however_much_was_taken_behind_it() {
    let mut pair = strict();
    pair.broken = vec![Some(Reason::Refused)];
    pair.cut();
    let conn = pair.edge.connect();
    pair.edge.publish(conn, 1, "signed/x", "poison");
    publish(&mut pair.edge, conn, 2, 5_000);
    pair.pass(100);
    // Nothing of what the hub answers becomes durable.
    pair.edge.hold_commits = true;
    pair.broken.clear();
    pair.until_open();
    pair.pass(5_000);
    assert_eq!(pair.status().acked, 5_000, "{:?}", pair.status());
    pair.edge.hold_commits = false;
    pair.crash_edge();
    pair.until_open();
    pair.pass(5_000);
    assert_eq!(dead(&mut pair), ["poison"]);
    assert_eq!(arrived(&mut pair.hub), numbers(2..=5_001));
}
