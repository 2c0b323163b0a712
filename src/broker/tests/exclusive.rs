//! A bridge shares its consumer with nobody: what it has it tells by positions, so nothing below them may be another's.

use super::outage::settings;
use super::world::{World, queue};
use crate::config::{BridgeSettings, Keep, Settings};
use crate::model::ConnId;
use crate::wire::{Code, ErrorHead, FrameType};

/// Consumes `main` under this name on a new stream; what was answered.
fn consume(w: &mut World, conn: ConnId, stream: u32, name: &str) -> Result<(), Code> {
    w.consume_with(conn, stream, "main", name, &[], |_| {});
    let frames = w.frames(conn);
    assert_eq!(frames.len(), 1, "{frames:?}");
    match frames[0].kind {
        FrameType::Ok => Ok(()),
        FrameType::Error => Err(Code::from_u16(frames[0].get::<ErrorHead<'_>>().code).expect("a known code")),
        other => panic!("{other:?}"),
    }
}

fn hub() -> World {
    let mut settings = Settings { queues: vec![queue("main", "#")], ..Settings::default() };
    settings.auth.identities = Some("identities".into());
    World::with(settings)
}

#[test]
fn an_edge_under_another_login_takes_nothing_while_its_older_session_has_the_consumer_and_loses_nothing() {
    let mut w = hub();
    let p = w.connect();
    let name = "bridge:edge:up";
    let (older, _) = w.bridge_of("", "gate", "edge", "up");
    assert_eq!(consume(&mut w, older, 2, name), Ok(()));
    w.credit(older, 2, 2);
    (1..=4).for_each(|n| w.publish(p, n, "a", &n.to_string()));
    assert_eq!(w.texts(older), ["1", "2"]);
    // Its connection is half open, and the edge comes back by another name.
    let (newer, _) = w.bridge_of("", "renamed", "edge", "up");
    assert_eq!(consume(&mut w, newer, 2, name), Err(Code::Conflict));
    assert!(!w.is_closed(older) && !w.is_closed(newer));
    w.disconnect(older);
    assert_eq!(consume(&mut w, newer, 3, name), Ok(()));
    w.credit(newer, 3, 10);
    assert_eq!(w.texts(newer), ["1", "2", "3", "4"], "all of it, and in order");
    // The same login takes over, as ever.
    let (newest, _) = w.bridge_of("", "renamed", "edge", "up");
    assert_eq!(consume(&mut w, newest, 2, name), Ok(()));
    w.credit(newest, 2, 10);
    assert_eq!(w.texts(newest), ["1", "2", "3", "4"]);
}

#[test]
fn a_bridge_and_others_do_not_share_a_consumer_whoever_came_first() {
    let mut w = hub();
    let p = w.connect();
    let (b, _) = w.bridge_of("", "gate", "edge", "down");
    assert_eq!(consume(&mut w, b, 2, "shared"), Ok(()));
    assert_eq!(consume(&mut w, p, 2, "shared"), Err(Code::Conflict));
    assert_eq!(consume(&mut w, b, 4, "shared"), Err(Code::DuplicateConsumer));
    w.disconnect(b);
    assert_eq!(consume(&mut w, p, 3, "shared"), Ok(()));
    let q = w.connect();
    assert_eq!(consume(&mut w, q, 3, "shared"), Ok(()), "others share as ever");
    let (b, _) = w.bridge_of("", "gate", "edge", "down");
    assert_eq!(consume(&mut w, b, 2, "shared"), Err(Code::Conflict));
    w.disconnect(p);
    w.disconnect(q);
    assert_eq!(consume(&mut w, b, 3, "shared"), Ok(()));
}

#[test]
fn nobody_but_a_bridge_consumes_under_a_bridges_name_and_only_its_own_under_that_of_one_of_this_broker() {
    let mut s = settings(|q| q.keep = Keep::Limits, vec![]);
    s.auth.identities = Some("identities".into());
    s.bridges.push(BridgeSettings::new("second"));
    let mut w = World::with(s);
    let c = w.connect();
    for (stream, name) in [(1, "bridge:hub"), (2, "bridge:edge:up"), (3, "bridge:")] {
        assert_eq!(consume(&mut w, c, stream, name), Err(Code::Forbidden), "{name}");
    }
    assert_eq!(consume(&mut w, c, 4, "bridges"), Ok(()));
    let (remote, _) = w.bridge_of("", "gate", "edge", "up");
    assert_eq!(consume(&mut w, remote, 2, "bridge:hub"), Err(Code::Forbidden));
    assert_eq!(consume(&mut w, remote, 3, "bridge:edge:up"), Ok(()));
    let (own, other) = (w.local_bridge("hub"), w.local_bridge("second"));
    assert_eq!(consume(&mut w, other, 2, "bridge:hub"), Err(Code::Forbidden));
    assert_eq!(consume(&mut w, own, 2, "bridge:hub"), Ok(()));
}
