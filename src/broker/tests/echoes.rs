//! Nothing goes back to the edge it began at: consumers of a bridge pass over it, its subscriptions do not hear it.

use super::world::{World, queue};
use crate::config::{QueueSettings, Settings};
use crate::model::{Channel, ConnId, Properties, Property, Record, tag};
use crate::wire::{Contract, FrameType, Nack, Publish, Since, Subscribe};

const SUBSCRIBE: Subscribe<'_> =
    Subscribe { filter: "#", retained: false, since: Since::Now, respond: false, disconnect_when_slow: false };

fn world() -> World {
    let history = QueueSettings { history: true, ..queue("main", "#") };
    let mut settings = Settings { queues: vec![history], ..Settings::default() };
    settings.auth.identities = Some("identities".into());
    World::with(settings)
}

fn origin_of(edge: &str) -> Vec<u8> {
    let mut out = vec![0; 256];
    let property = Property { tag: tag::ORIGIN, value: edge.as_bytes() };
    let n = Properties::encode_one(property, &mut out).expect("fits");
    out.truncate(n);
    out
}

/// Publishes a message that began at this edge; at none where it is empty.
fn publish(w: &mut World, conn: ConnId, number: u64, edge: &str, text: &str, retain: bool) {
    let origin = origin_of(edge);
    let properties = if edge.is_empty() { &[] } else { &origin[..] };
    let channel = Channel::parse("a").expect("a channel");
    let properties = Properties::parse(properties).expect("well-formed");
    let mut bytes = Vec::new();
    Record { properties, retain, ..Record::new(channel, text.as_bytes()) }.encode_to(&mut bytes);
    w.send(conn, 1, &Publish { contract: Contract::Queue, number, total: bytes.len() as u32 }, &bytes);
    assert_eq!(w.verdicts(conn).len(), 1);
}

#[test]
fn a_bridges_consumer_passes_over_what_began_at_its_edge_and_is_done_with_it() {
    let mut w = world();
    let p = w.connect();
    let (b, _) = w.bridge_of("", "gate", "edge", "down");
    w.consume(b, 2, "main", "bridge");
    // Who is no bridge, or another's, is given all.
    let (other, _) = w.bridge_of("", "gate", "third", "down");
    w.consume(other, 2, "main", "third");
    w.consume(p, 2, "main", "plain");
    for (number, edge) in [(1, "edge"), (2, ""), (3, "other"), (4, "edge"), (5, "edge")] {
        publish(&mut w, p, number, edge, &number.to_string(), false);
    }
    w.credit(b, 2, 10);
    let messages = w.messages(b);
    assert_eq!(messages.iter().map(|m| &*m.text).collect::<Vec<_>>(), ["2", "3"]);
    messages.iter().for_each(|m| w.ack(b, 2, m.tag, 1));
    w.pass(1_000);
    assert_eq!((w.broker.counters().echoes, w.broker.counters().delivered), (3, 2));
    for conn in [other, p] {
        w.credit(conn, 2, 10);
        assert_eq!(w.texts(conn).len(), 5);
    }
    // Done with it, also after a restart.
    w.restart();
    let (b, _) = w.bridge_of("", "gate", "edge", "down");
    w.consume(b, 2, "main", "bridge");
    w.credit(b, 2, 10);
    assert_eq!(w.texts(b), Vec::<String>::new());
    assert_eq!(w.broker.counters().echoes, 0, "nothing is looked at again");
}

#[test]
fn what_was_under_way_to_another_is_not_delivered_again_to_the_edge_it_began_at() {
    let mut w = world();
    let p = w.connect();
    let c = w.connect();
    w.consume(c, 2, "main", "shared");
    publish(&mut w, p, 1, "edge", "its own", false);
    w.credit(c, 2, 10);
    let tag = w.messages(c)[0].tag;
    w.send(c, 2, &Nack { first: tag, count: 1, delay_ms: 10, give_up: false, reason: "" }, &[]);
    w.disconnect(c);
    let (b, _) = w.bridge_of("", "gate", "edge", "down");
    w.consume(b, 2, "main", "shared");
    w.credit(b, 2, 10);
    w.pass(1_000);
    assert_eq!((w.texts(b).len(), w.broker.counters().echoes), (0, 1));
}

#[test]
fn a_bridges_subscription_does_not_hear_what_began_at_its_edge_live_retained_or_past() {
    let mut w = world();
    let p = w.connect();
    let (b, _) = w.bridge_of("", "gate", "edge", "down");
    let c = w.connect();
    for conn in [b, c] {
        w.send(conn, 2, &SUBSCRIBE, &[]);
        assert_eq!(w.expect(conn).kind, FrameType::Ok);
    }
    publish(&mut w, p, 1, "edge", "own", true);
    publish(&mut w, p, 2, "hub", "theirs", false);
    w.pass(10);
    assert_eq!((w.texts(b), w.texts(c)), (vec!["theirs".into()], vec!["own".into(), "theirs".into()]));
    w.send(b, 3, &Subscribe { retained: true, ..SUBSCRIBE }, &[]);
    w.send(c, 3, &Subscribe { retained: true, ..SUBSCRIBE }, &[]);
    w.pass(10);
    let delivered = |w: &mut World, conn| {
        let frames = w.frames(conn);
        assert!(frames.iter().all(|f| f.kind == FrameType::Ok || f.kind == FrameType::Deliver), "{frames:?}");
        frames.iter().filter(|f| f.kind == FrameType::Deliver).count()
    };
    assert_eq!((delivered(&mut w, b), delivered(&mut w, c)), (0, 1));
    // Its history is complete all the same: what it is not sent it has.
    w.send(b, 4, &Subscribe { filter: "a", since: Since::Last(10), ..SUBSCRIBE }, &[]);
    w.pass(10);
    let frames = w.frames(b);
    assert!(frames[0].get::<crate::wire::Done>().complete);
    assert_eq!(frames.len(), 2, "{frames:?}");
    assert_eq!(w.broker.counters().echoes, 3);
}
