//! What is given up, and what the upstream has already.

use super::*;
use crate::bridge::forward::queues;
use crate::bridge::pace::Caps;
use crate::config::BridgeSettings;
use crate::model::{Channel, Record};
use crate::wire::PublishNack;

#[test]
fn what_was_given_up_here_is_so_again_where_the_upstream_is_past_it() {
    let mut up = Up::new(1);
    let position = SourcePosition { epoch: 7, lane: 0, last: 9, refused: vec![(4, 204)] };
    let lane = up.lane(0, 7, 0, || (1, Some(position)));
    let settings = BridgeSettings { up: vec!["main".into()], ..BridgeSettings::new("hub") };
    let (queues, problem) = queues(&settings, "edge");
    assert_eq!(problem, None);
    let mut passage = Passage::new(&settings, "edge-1", &queues);
    (passage.record_bytes_max, passage.lz4) = (1_000, true);
    let record = |bytes: usize| {
        let payload = vec![7; bytes];
        let mut out = Vec::new();
        Record::new(Channel::parse("a").expect("a channel"), &payload).encode_to(&mut out);
        out
    };
    // 3 was never sent: the upstream is past it only because of what came behind it.
    for (tag, seq, bytes) in [(1, 2, 10), (2, 3, 2_000), (3, 4, 10), (4, 5, 10)] {
        assert_eq!(up.take(&mut passage, lane, tag, seq, &record(bytes)), None);
    }
    assert!(up.take(&mut passage, lane, 5, 10, &record(10)).is_some(), "this one it has yet to get");
    assert_eq!(up.acks.iter().map(|a| (a.first, a.count)).collect::<Vec<_>>(), [(1, 1), (4, 1)]);
    let given_up: Vec<_> = up.given_up.iter().map(|g| (g.tag, g.code)).collect();
    assert_eq!(given_up, [(2, Code::MessageTooLarge as u16), (3, 204)]);
}

#[test]
fn a_refusal_of_what_was_not_sent_passes_over_nothing() {
    let now = Mono(1_000_000);
    let mut up = Up::new(1);
    up.open(WindowMax { messages: 100, bytes: 100_000 });
    let lane = up.lane(0, 7, 0, || (1, None));
    let mut pace = Pace::new(now, Caps::default());
    let mut link = Link::new(1_000);
    let bounds = Bounds { frame_bytes_max: 10_000, compress: false, weights: &[] };
    let mut fill = |up: &mut Up, now| up.fill(now, &bounds, &mut pace, &mut link, &mut Vec::new(), 100_000);
    for n in 1..=2 {
        up.put(lane, Contract::Disk, n, n, b"record");
    }
    fill(&mut up, now);
    for n in 3..=4 {
        up.put(lane, Contract::Disk, n, n, b"record");
    }
    for first in [3, 4, 5, u64::MAX] {
        let code = Code::QueueFull as u16;
        up.handle_nack(now, 1, &PublishNack { first, count: 1, code, retry_after_ms: 0, detail: "" });
        up.handle_ack(now, 1, first, 1);
    }
    assert!(up.oldest().is_some(), "what was sent still waits for its answer");
    up.handle_ack(now, 1, 1, 2);
    let later = now.plus_ms(60_000);
    up.handle_timeout(later);
    fill(&mut up, later);
    assert_eq!(up.sent.0, 4, "each was sent");
    up.handle_ack(later, 1, 3, 2);
    assert_eq!(up.acks.iter().map(|a| (a.first, a.count)).collect::<Vec<_>>(), [(1, 4)]);
}
