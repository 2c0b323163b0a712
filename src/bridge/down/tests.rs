//! What an upstream says that no broker would.

use super::*;
use crate::model::{Channel, Priority};
use crate::wire::Done;

/// A route that is open, and its stream.
fn open(route: &str) -> (Down, BridgeSettings, u32) {
    let settings = BridgeSettings { down: vec![route.into()], ..BridgeSettings::new("hub") };
    let now = Mono(1_000_000);
    let mut down = Down::new(now, &settings, "edge", "edge-1", 3);
    down.local_opened(&Terms {
        session: 1,
        heartbeat_ms: 1_000,
        frame_bytes_max: 65_536,
        message_bytes_max: 65_536,
        window_messages: 100,
        window_bytes: 65_536,
        time_ms: 0,
        lz4: true,
    });
    down.upstream_opened();
    down.advance(now, &settings);
    let done = Done { epoch: 7, value: 0, complete: true };
    let opened = Event::Done { stream: STREAMS, done };
    assert!(matches!(down.handle_upstream(now, &settings, &opened), Ok(true)));
    (down, settings, STREAMS)
}

/// Delivers a message; whether it was taken.
fn deliver(route: &str, first_tag: u64, lane: u8, seq: u64, offset: u64) -> Result<Down, Stop> {
    let (mut down, settings, stream) = open(route);
    let mut record = Vec::new();
    Record::new(Channel::parse("a").expect("valid"), b"text").encode_to(&mut record);
    let flags = item_flag::HAS_OFFSET;
    let item = DeliverItem { flags, lane, seq, offset, attempt: 1, stored_ms: 0, record: &record };
    let payload = postcard::to_stdvec(&item).expect("a vector takes anything");
    let head = Deliver { epoch: 7, first_tag, count: 1, total: payload.len() as u32 };
    let event = Event::Deliver { stream, head, payload: &payload, more: false };
    down.handle_upstream(Mono(2_000_000), &settings, &event)?;
    Ok(down)
}

#[test]
fn what_comes_from_no_place_of_a_queue_is_the_upstreams_failure_and_nobody_elses() {
    let top = Priority::MAX.get();
    for (first_tag, lane, seq) in [(1, top, 1), (u64::MAX - 1, 0, u64::MAX - 1)] {
        assert!(deliver("consume main", first_tag, lane, seq, 0).is_ok());
    }
    for (first_tag, lane, seq) in [(1, 0, 0), (1, 0, u64::MAX), (1, top + 1, 1), (1, 255, 1), (u64::MAX, 0, 1)] {
        match deliver("consume main", first_tag, lane, seq, 0) {
            Err(Stop::Failed(failure, _)) => assert_eq!(failure.reason, Reason::Protocol),
            _ => panic!("{first_tag} {lane} {seq}"),
        }
    }
    assert!(deliver("subscribe a", 1, top + 1, 0, 0).is_err());
}

#[test]
fn an_offset_that_no_history_has_is_nothing_to_fall_over() {
    for offset in [0, u64::MAX] {
        let mut down = deliver("subscribe a", 0, 0, 0, offset).unwrap_or_else(|stop| panic!("{stop:?}"));
        down.local_closed();
    }
}
