//! What a bridge brings from its upstream, between two whole brokers.

use super::pair::{Pair, settings};
use super::world::{Message, World, queue, record};
use crate::config::{BridgeSettings, Keep, Overflow, QueueSettings, Settings};
use crate::model::admin::BridgeState;
use crate::model::{Channel, ConnId, Priority, Properties, Property, Record, tag};
use crate::wire::{Contract, Publish, Since, Subscribe};

fn down(routes: &[&str]) -> BridgeSettings {
    BridgeSettings { down: routes.iter().map(|route| (*route).to_owned()).collect(), ..settings(&[]) }
}

/// An edge and a hub with a queue each, of all channels, of which the hub's is brought.
fn pair() -> Pair {
    Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], down(&["consume main"]))
}

/// Publishes numbered texts without ids.
fn publish(world: &mut World, conn: ConnId, channel: &str, from: u64, count: u64) {
    for n in from..from + count {
        world.publish(conn, n, channel, &n.to_string());
    }
    world.frames(conn);
}

/// What a queue of this broker holds.
fn held(world: &mut World, queue: &str) -> Vec<Message> {
    let conn = world.connect();
    world.consume(conn, 1, queue, "reader");
    world.credit(conn, 1, 100_000);
    let mut messages = Vec::new();
    loop {
        let more = world.messages(conn);
        if more.is_empty() {
            break;
        }
        messages.extend(more);
        world.send(conn, 1, &crate::wire::Credit { messages: 0, bytes: 1 << 24 }, &[]);
    }
    world.disconnect(conn);
    messages
}

fn texts(world: &mut World, queue: &str) -> Vec<String> {
    held(world, queue).into_iter().map(|message| message.text).collect()
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Messages that a broker's queues keep.
fn kept(world: &World) -> u64 {
    world.broker.queues.iter().flat_map(|q| q.lanes()).map(|lane| lane.next - lane.head).sum()
}

fn dropped(pair: &Pair, reason: &str) -> u64 {
    pair.status().dropped.get(reason).copied().unwrap_or(0)
}

fn listen(world: &mut World, filter: &str) -> ConnId {
    let conn = world.connect();
    let head = Subscribe { filter, retained: false, since: Since::Now, respond: false, disconnect_when_slow: false };
    world.send(conn, 1, &head, &[]);
    world.frames(conn);
    conn
}

#[test]
fn a_message_is_brought_and_leaves_the_hubs_queue_only_after_it_is_stored_here() {
    let mut pair = pair();
    assert_eq!(pair.state(), BridgeState::Open);
    let conn = pair.hub.connect();
    pair.edge.hold_commits = true;
    publish(&mut pair.hub, conn, "a/b", 1, 3);
    pair.run();
    pair.pass(1_000);
    assert_eq!((pair.status().brought, kept(&pair.hub)), (0, 3));
    pair.edge.hold_commits = false;
    while !pair.edge.held.is_empty() {
        pair.edge.release_commit();
    }
    pair.run();
    assert_eq!((pair.status().brought, kept(&pair.hub)), (3, 0));
    assert_eq!(texts(&mut pair.edge, "main"), numbers(1..=3));
}

#[test]
fn what_is_brought_says_where_it_entered_and_how_far_it_came() {
    let mut pair = pair();
    let conn = pair.hub.connect();
    let listener = listen(&mut pair.edge, "#");
    publish(&mut pair.hub, conn, "a/b", 1, 1);
    pair.run();
    let seen = pair.edge.expect(listener);
    let head = seen.get::<crate::wire::Deliver>();
    let item = crate::wire::DeliverItems::parse(&seen.payload, head.count, head.total).expect("well-formed").next();
    let item = item.expect("one item");
    let record = Record::decode(item.record).expect("a record");
    assert_eq!(record.properties.get(tag::ORIGIN), Some(&b"upstream:edge-1:hub"[..]));
    assert_eq!(record.properties.get(tag::HOPS), Some(&[1][..]));
}

#[test]
fn cut_at_any_byte_what_is_brought_comes_once_and_in_order() {
    let mut bytes = 300;
    for cut in 0.. {
        let mut pair = pair();
        let conn = pair.hub.connect();
        pair.cut_after = Some(1 + cut * 7);
        for part in 0..5 {
            publish(&mut pair.hub, conn, "a/b", 1 + part * 20, 20);
            pair.run();
        }
        let was_cut = pair.cut_after.is_none();
        pair.cut_after = None;
        pair.until_open();
        // A commit may wait for more, and an answer with it.
        pair.pass(1_000);
        assert_eq!(texts(&mut pair.edge, "main"), numbers(1..=100), "cut after {} bytes", 1 + cut * 7);
        assert_eq!(kept(&pair.hub), 0, "cut after {} bytes: {:?}", 1 + cut * 7, pair.status());
        bytes = 1 + cut * 7;
        if !was_cut {
            break;
        }
    }
    assert!(bytes > 100, "acknowledgements were cut, too");
}

#[test]
fn whatever_crashes_between_storing_and_acknowledging_each_message_is_here_once() {
    for edge in [true, false] {
        let mut pair = pair();
        let conn = pair.hub.connect();
        // The hub is told nothing of what is stored here.
        pair.hub_reads = false;
        publish(&mut pair.hub, conn, "a/b", 1, 30);
        pair.run();
        assert_eq!((kept(&pair.hub), kept(&pair.edge)), (30, 30));
        if edge {
            pair.crash_edge()
        } else {
            pair.crash_hub()
        }
        pair.hub_reads = true;
        pair.until_open();
        pair.run();
        assert_eq!(kept(&pair.hub), 0);
        assert_eq!(texts(&mut pair.edge, "main"), numbers(1..=30), "the edge crashed: {edge}");
    }
}

#[test]
fn a_full_queue_here_holds_the_hubs_queue_and_nothing_is_lost() {
    let full = QueueSettings { messages_max: 5, overflow: Overflow::Reject, ..queue("main", "#") };
    let settings = BridgeSettings { window_messages: 8, ..down(&["consume main"]) };
    let mut pair = Pair::new(vec![full], vec![queue("main", "#")], settings);
    let conn = pair.hub.connect();
    publish(&mut pair.hub, conn, "a/b", 1, 100);
    pair.run();
    pair.pass(60_000);
    assert_eq!((kept(&pair.edge), kept(&pair.hub)), (5, 95));
    pair.cut();
    pair.until_open();
    let reader = pair.edge.connect();
    pair.edge.consume(reader, 1, "main", "reader");
    pair.edge.credit(reader, 1, 1_000);
    let mut came = Vec::new();
    for _ in 0..3_000 {
        for message in pair.edge.messages(reader) {
            came.push(message.text);
            pair.edge.ack(reader, 1, message.tag, 1);
        }
        pair.pass(100);
        if came.len() == 100 {
            break;
        }
    }
    assert_eq!(came, numbers(1..=100));
    assert_eq!((kept(&pair.hub), pair.status().brought), (0, 100));
}

#[test]
fn a_full_bulk_lane_stops_no_alarm() {
    let bulk = QueueSettings { messages_max: 1, overflow: Overflow::Reject, ..queue("bulk", "bulk/#") };
    let mut pair = Pair::new(vec![bulk, queue("alarms", "alarm/#")], vec![queue("main", "#")], down(&["consume main"]));
    let conn = pair.hub.connect();
    publish(&mut pair.hub, conn, "bulk/x", 1, 10);
    pair.run();
    pair.pass(5_000);
    pair.hub.publish_with(conn, 11, Contract::Queue, |r| r.priority = Priority::MAX, "alarm/x", "fire");
    pair.run();
    assert_eq!(texts(&mut pair.edge, "alarms"), ["fire"]);
    assert_eq!(kept(&pair.hub), 9);
}

#[test]
fn a_message_that_can_never_be_taken_is_a_dead_letter_of_the_hub_and_holds_nothing_up() {
    let mut edge = Settings { queues: vec![queue("main", "#")], ..Settings::default() };
    edge.limits.message_bytes_max = 20_000;
    let route = format!("consume main # -> {}/#", "x".repeat(1_000));
    let mut pair = Pair::of(World::with(edge), World::new(vec![queue("main", "#")]), down(&[&route]));
    let conn = pair.hub.connect();
    pair.hub.publish(conn, 1, "a", "before");
    pair.hub.publish(conn, 2, "a", &"y".repeat(30_000));
    pair.hub.publish(conn, 3, &"z".repeat(100), "too deep");
    pair.hub.publish(conn, 4, "a", "after");
    pair.run();
    assert_eq!(texts(&mut pair.edge, "main"), ["before", "after"]);
    assert_eq!((dropped(&pair, "message-too-large"), dropped(&pair, "bad-channel")), (1, 1));
    pair.pass(60_000);
    pair.cut();
    pair.until_open();
    pair.pass(60_000);
    assert_eq!(texts(&mut pair.hub, "$dead/main").len(), 2);
    assert_eq!((dropped(&pair, "message-too-large"), dropped(&pair, "bad-channel")), (1, 1), "once");
}

#[test]
fn large_messages_come_in_pieces_both_ways_and_whole() {
    let mut pair = pair();
    let conn = pair.hub.connect();
    let large: Vec<String> = (0..3).map(|n| n.to_string().repeat(400_000)).collect();
    for (n, text) in (1..).zip(&large) {
        send_large(&mut pair.hub, conn, n, text);
        pair.hub.publish(conn, n * 2, "a/b", "small");
    }
    pair.run();
    let came = texts(&mut pair.edge, "main");
    assert_eq!(came.iter().map(String::len).collect::<Vec<_>>(), [400_000, 5, 400_000, 5, 400_000, 5]);
    assert!(came.iter().step_by(2).eq(large.iter()));
    assert_eq!(kept(&pair.hub), 0);
}

/// Publishes in chunks; the number is that of odd publishes.
fn send_large(world: &mut World, conn: ConnId, n: u64, text: &str) {
    let bytes = record("a/b", text, |_| {});
    let head = Publish { contract: Contract::Queue, number: n * 2 - 1, total: bytes.len() as u32 };
    for (flags, chunk) in crate::wire::chunks(&bytes) {
        let mut frame = Vec::new();
        let first = (flags & crate::wire::FLAG_CONT == 0).then_some(&head);
        crate::wire::append(&mut frame, crate::wire::FrameType::Publish, flags, 1, first, &[chunk]);
        let sequence = world.skip_sequence(conn);
        crate::wire::seal(&mut frame, sequence);
        world.send_bytes(conn, &frame);
    }
}

#[test]
fn channels_are_mapped_and_the_first_route_that_matches_takes_a_message_once() {
    let routes = [
        "subscribe command/{name}/# -> command/#",
        "subscribe command/# -> others/#",
        "consume orders orders/+/new -> fresh/+",
        "consume orders orders/#",
    ];
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("orders", "orders/#")], down(&routes));
    let conn = pair.hub.connect();
    let channels = ["command/edge/reboot", "command/other/reboot", "orders/7/new", "orders/7/paid", "unasked"];
    for (n, channel) in (1..).zip(channels) {
        pair.hub.publish(conn, n, channel, channel);
        pair.run();
    }
    let came: Vec<_> = held(&mut pair.edge, "main").into_iter().map(|m| (m.text, m.channel)).collect();
    let expected = [
        ("command/edge/reboot", "command/reboot"),
        ("command/other/reboot", "others/other/reboot"),
        ("orders/7/new", "fresh/7"),
        ("orders/7/paid", "orders/7/paid"),
    ];
    assert_eq!(came, expected.map(|(text, channel)| (text.to_owned(), channel.to_owned())));
}

#[test]
fn a_subscription_to_a_channel_with_history_goes_on_where_it_stopped() {
    let hub = QueueSettings { history: true, keep: Keep::Limits, ..queue("main", "a/#") };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![hub], down(&["subscribe a/b"]));
    let conn = pair.hub.connect();
    publish(&mut pair.hub, conn, "a/b", 1, 3);
    pair.run();
    pair.cut();
    publish(&mut pair.hub, conn, "a/b", 4, 3);
    pair.until_open();
    pair.run();
    publish(&mut pair.hub, conn, "a/b", 7, 3);
    pair.run();
    assert_eq!(texts(&mut pair.edge, "main"), numbers(1..=9));
    assert_eq!(dropped(&pair, "gap"), 0);
}

#[test]
fn a_gap_that_the_hub_cannot_fill_is_counted_and_the_retained_value_comes_anew() {
    let hub = QueueSettings { history: true, keep: Keep::Limits, messages_max: 2, ..queue("main", "a/#") };
    let hub = QueueSettings { overflow: Overflow::DropOldest, ..hub };
    let mut pair = Pair::new(vec![queue("main", "#")], vec![hub], down(&["subscribe a/b"]));
    let conn = pair.hub.connect();
    publish(&mut pair.hub, conn, "a/b", 1, 1);
    pair.run();
    pair.cut();
    pair.hub.publish_with(conn, 2, Contract::Queue, |r| r.retain = true, "a/b", "2");
    publish(&mut pair.hub, conn, "a/b", 3, 7);
    pair.until_open();
    pair.run();
    assert_eq!(dropped(&pair, "gap"), 1);
    publish(&mut pair.hub, conn, "a/b", 10, 1);
    pair.run();
    assert_eq!(texts(&mut pair.edge, "main"), ["1", "2", "10"]);
}

#[test]
fn retained_values_come_and_live_messages_follow_without_history() {
    let mut pair = Pair::new(vec![queue("main", "#")], vec![], down(&["subscribe a/#", "subscribe b"]));
    pair.cut();
    let conn = pair.hub.connect();
    pair.hub.publish_with(conn, 1, Contract::Queue, |r| r.retain = true, "a/x", "on");
    pair.hub.publish(conn, 2, "a/x", "missed");
    pair.until_open();
    pair.run();
    pair.hub.publish(conn, 3, "a/x", "live");
    pair.hub.publish(conn, 4, "b", "live, too");
    pair.run();
    assert_eq!(texts(&mut pair.edge, "main"), ["live", "live, too"], "what was there when it first came is not new");
}

#[test]
fn a_subscription_is_held_while_there_is_no_room_and_what_it_loses_is_counted() {
    let full = QueueSettings { messages_max: 5, overflow: Overflow::Reject, ..queue("main", "#") };
    let settings = BridgeSettings { window_messages: 4, ..down(&["subscribe a/#"]) };
    let mut pair = Pair::new(vec![full], vec![], settings);
    let conn = pair.hub.connect();
    for n in 1..=50 {
        pair.hub.publish(conn, n, "a/b", &n.to_string());
        pair.run();
    }
    let reader = pair.edge.connect();
    pair.edge.consume(reader, 1, "main", "reader");
    pair.edge.credit(reader, 1, 1_000);
    let mut came = Vec::new();
    for _ in 0..100 {
        for message in pair.edge.messages(reader) {
            came.push(message.text);
            pair.edge.ack(reader, 1, message.tag, 1);
        }
        pair.pass(500);
    }
    assert_eq!(came, numbers(1..=9), "what the queue and the share of the window hold");
    assert_eq!(dropped(&pair, "slow-reader") + dropped(&pair, "overflow"), 41);
    pair.hub.publish(conn, 51, "a/b", "51");
    pair.run();
    assert_eq!(pair.edge.texts(reader), ["51"]);
}

#[test]
fn of_a_channel_with_history_nothing_is_lost_while_there_is_no_room() {
    let full = QueueSettings { messages_max: 5, overflow: Overflow::Reject, ..queue("main", "#") };
    let hub = QueueSettings { history: true, keep: Keep::Limits, ..queue("main", "a/#") };
    let settings = BridgeSettings { window_messages: 4, ..down(&["subscribe a/b"]) };
    let mut pair = Pair::new(vec![full], vec![hub], settings);
    let conn = pair.hub.connect();
    for n in 1..=50 {
        pair.hub.publish(conn, n, "a/b", &n.to_string());
        pair.run();
    }
    let reader = pair.edge.connect();
    pair.edge.consume(reader, 1, "main", "reader");
    pair.edge.credit(reader, 1, 1_000);
    let mut came = Vec::new();
    for _ in 0..1_000 {
        for message in pair.edge.messages(reader) {
            came.push(message.text);
            pair.edge.ack(reader, 1, message.tag, 1);
        }
        pair.pass(100);
        if came.len() == 50 {
            break;
        }
    }
    assert_eq!(came, numbers(1..=50));
    assert_eq!((dropped(&pair, "overflow"), dropped(&pair, "gap")), (0, 0));
}

#[test]
fn what_began_here_does_not_come_back_and_what_passed_too_many_bridges_goes_no_further() {
    let mut pair = pair();
    let conn = pair.hub.connect();
    let marks: [(u32, &[u8], &str); 3] =
        [(tag::ORIGIN, b"edge-1", "own"), (tag::ORIGIN, b"edge-2", "far"), (tag::HOPS, &[8], "old")];
    for (n, (tag, value, text)) in (1..).zip(marks) {
        let mut properties = [0; 32];
        let len = Properties::encode_one(Property { tag, value }, &mut properties).expect("fits");
        let properties = Properties::parse(&properties[..len]).expect("valid");
        let record = Record { properties, ..Record::new(Channel::parse("a/b").expect("valid"), text.as_bytes()) };
        let mut bytes = Vec::new();
        record.encode_to(&mut bytes);
        let head = Publish { contract: Contract::Queue, number: n, total: bytes.len() as u32 };
        pair.hub.send(conn, 1, &head, &bytes);
    }
    pair.run();
    assert_eq!(texts(&mut pair.edge, "main"), ["far"]);
    assert_eq!((dropped(&pair, "hops"), kept(&pair.hub)), (1, 0));
}

#[test]
fn a_queue_that_is_up_and_down_with_the_same_hub_does_not_go_round() {
    let keep = |name| QueueSettings { keep: Keep::Limits, ..queue(name, "#") };
    let settings = BridgeSettings { up: vec!["main".into()], ..down(&["consume main"]) };
    let mut pair = Pair::new(vec![keep("main")], vec![keep("main")], settings);
    let (edge, hub) = (pair.edge.connect(), pair.hub.connect());
    for n in 1..=10 {
        pair.edge.publish(edge, n, "a/b", &format!("of the edge {n}"));
        pair.hub.publish(hub, n, "a/b", &format!("of the hub {n}"));
        pair.run();
    }
    pair.pass(10_000);
    assert_eq!((pair.status().acked, pair.status().brought), (10, 10), "{:?}", pair.status());
    for world in [&mut pair.edge, &mut pair.hub] {
        let mut came = texts(world, "main");
        came.sort_unstable();
        let mut all: Vec<_> = (1..=10).flat_map(|n| [format!("of the edge {n}"), format!("of the hub {n}")]).collect();
        all.sort_unstable();
        assert_eq!(came, all, "each once");
    }
}

#[test]
fn what_goes_up_is_mapped_and_says_where_it_entered() {
    let settings = settings(&["main site/+/# -> edges/{name}/{bridge}/+/#", "main secret/# -> secret/#"]);
    let mut pair = Pair::new(vec![queue("main", "#")], vec![queue("main", "#")], settings);
    let conn = pair.edge.connect();
    let listener = listen(&mut pair.hub, "#");
    publish(&mut pair.edge, conn, "site/7/temp/room", 1, 1);
    pair.run();
    let seen = pair.hub.expect(listener);
    let head = seen.get::<crate::wire::Deliver>();
    let item = crate::wire::DeliverItems::parse(&seen.payload, head.count, head.total).expect("well-formed").next();
    let item = item.expect("one item");
    let record = Record::decode(item.record).expect("a record");
    assert_eq!(record.channel.as_str(), "edges/edge/hub/7/temp/room");
    assert_eq!(record.properties.get(tag::ORIGIN), Some(&b"edge-1"[..]));
    assert_eq!(record.properties.get(tag::HOPS), Some(&[1][..]));
    publish(&mut pair.edge, conn, "other", 2, 1);
    publish(&mut pair.edge, conn, &format!("site/{}", "x".repeat(1_015)), 3, 1);
    publish(&mut pair.edge, conn, "secret/x", 4, 1);
    pair.run();
    let seen = held(&mut pair.hub, "main").into_iter().map(|m| m.channel).collect::<Vec<_>>();
    assert_eq!(seen, ["edges/edge/hub/7/temp/room", "secret/x"]);
    assert_eq!(dropped(&pair, "bad-channel"), 1);
    assert_eq!(texts(&mut pair.edge, "$dead/main"), ["3"]);
}

#[test]
fn a_queue_the_hub_does_not_have_is_told_and_taken_up_once_it_has() {
    let mut pair = Pair::new(vec![queue("main", "#")], vec![], down(&["consume orders"]));
    assert!(pair.status().last_error_detail.contains("orders"), "{:?}", pair.status());
    assert_eq!(pair.state(), BridgeState::Open, "the rest goes on");
    pair.hub.reload(Settings { queues: vec![queue("orders", "#")], ..Settings::default() });
    let conn = pair.hub.connect();
    publish(&mut pair.hub, conn, "a/b", 1, 3);
    pair.pass(61_000);
    assert_eq!(texts(&mut pair.edge, "main"), numbers(1..=3));
}

#[test]
fn what_was_refused_here_rings_no_timer_twice_while_there_is_no_room_to_publish_it() {
    let full = QueueSettings { messages_max: 1, overflow: Overflow::Reject, ..queue("main", "#") };
    let mut pair = Pair::new(vec![full], vec![queue("main", "#")], down(&["consume main"]));
    let conn = pair.hub.connect();
    publish(&mut pair.hub, conn, "a/b", 1, 3);
    pair.pass(5_000);
    assert_eq!((kept(&pair.edge), kept(&pair.hub)), (1, 2));
    for _ in 0..100 {
        // The edge asks for no frames for the local broker.
        let Some(at) = pair.bridge.poll_timeout() else { break };
        pair.edge.now.mono = pair.edge.now.mono.max(at);
        pair.bridge.handle_timeout(pair.edge.now);
        let next = pair.bridge.poll_timeout();
        assert!(next.is_none_or(|next| next > pair.edge.now.mono), "{next:?}");
    }
}
