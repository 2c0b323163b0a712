//! What a broker keeps for bridges: positions by which nothing comes twice, and one session of each bridge.

use super::world::{HELLO, Seen, World, id, queue, record};
use crate::broker::sources::{REFUSED_MAX, SOURCES_OF_ONE_MAX};
use crate::config::{Overflow, QueueSettings, Settings, Storage, TenantSettings};
use crate::model::ConnId;
use crate::session::{Method, Peer, Principal};
use crate::store::{StoreError, Table, schema};
use crate::wire::{
    self, Batch, BridgeHello, Code, Contract, EXTENSION_BRIDGE, EXTENSION_SOURCE, Extended, Extension, FrameType,
    Hello, Outcome, Publish, Source, SourcePosition, SourceRuns,
};

const STORED: Result<Outcome, Code> = Ok(Outcome::Stored);
const DUPLICATE: Result<Outcome, Code> = Ok(Outcome::Duplicate);

impl World {
    /// Sends a frame with extensions behind its head.
    pub(super) fn send_extended<'a, H: wire::Head<'a>>(
        &mut self,
        conn: ConnId,
        stream: u32,
        head: H,
        extensions: &[Extension<'_>],
        payload: &[u8],
    ) {
        let sequence = self.skip_sequence(conn);
        let mut out = vec![0; payload.len() + 8_192];
        let head = Extended { head, extensions };
        let n = wire::encode_extended(&mut out, 0, stream, sequence, &head, payload).expect("fits");
        self.send_bytes(conn, &out[..n]);
    }

    /// Says hello as a bridge, with whatever these bytes say of it.
    fn hello_bridge(&mut self, conn: ConnId, value: &[u8]) {
        self.send_extended::<Hello<'_>>(conn, 0, HELLO, &[Extension { tag: EXTENSION_BRIDGE, value }], &[]);
    }

    /// The session of a bridge that is this principal of this tenant, and what it is told of its positions.
    pub(super) fn bridge_of(
        &mut self,
        tenant: &str,
        principal: &str,
        edge: &str,
        bridge: &str,
    ) -> (ConnId, Vec<SourcePosition>) {
        let conn = self.connect_raw(false);
        self.hello_bridge(conn, &postcard::to_stdvec(&BridgeHello { edge, bridge }).expect("encodes"));
        if let Some((conn, _)) = self.asked.pop_front() {
            let (name, tenant, roles) = (principal.into(), tenant.into(), vec!["open".into()]);
            let principal = Principal { name, tenant, roles, method: Method::Transport, ..Principal::default() };
            self.event(crate::broker::Event::Authenticated { conn, outcome: Ok(principal) });
        }
        let welcome = self.expect(conn);
        (conn, told(&welcome).expect("a bridge is told its positions"))
    }

    /// A bridge of somebody who has no tenant.
    fn gate(&mut self) -> (ConnId, Vec<SourcePosition>) {
        self.bridge_of("", "gate", "edge", "up")
    }

    /// Publishes what stands at these sequences of lane 0 of epoch 7, on stream 1.
    fn sends(&mut self, conn: ConnId, first: u64, seqs: &[u64]) {
        self.forward_from(conn, 1, first, (7, 0, 0), seqs, "a");
    }

    /// The same for an epoch, a lane and a floor.
    pub(super) fn forward_from(
        &mut self,
        conn: ConnId,
        stream: u32,
        first: u64,
        (epoch, lane, floor): (u64, u8, u64),
        seqs: &[u64],
        channel: &str,
    ) {
        let mut payload = Vec::new();
        seqs.iter().for_each(|seq| wire::append_record(&mut payload, &record(channel, &seq.to_string(), |_| {})));
        let mut runs = SourceRuns::default();
        seqs.iter().for_each(|seq| runs.push(*seq));
        let source = Source { epoch, lane, floor, first: seqs[0], runs: &runs.take() };
        let value = postcard::to_stdvec(&source).expect("encodes");
        let head = Batch { contract: Contract::Queue, first, count: seqs.len() as u32 };
        self.send_extended::<Batch>(
            conn,
            stream,
            head,
            &[Extension { tag: EXTENSION_SOURCE, value: &value }],
            &payload,
        );
    }

    /// What a queue holds, oldest first; read by a consumer of its own, which takes nothing.
    pub(super) fn held_by(&mut self, tenant: &str, queue: &str) -> Vec<String> {
        let conn = if tenant.is_empty() { self.connect() } else { self.connect_to(tenant) };
        self.consume(conn, 9, queue, "looks");
        self.credit(conn, 9, 10_000);
        let texts = self.texts(conn);
        self.disconnect(conn);
        texts
    }

    /// Rows of sources on disk.
    fn source_rows(&self) -> usize {
        let mut rows = 0;
        let visit = &mut |key: &[u8], value: &[u8]| {
            assert!(schema::split_source_key(key).is_some());
            assert!(schema::decode::<schema::SourceRow>(value).is_some());
            rows += 1;
            true
        };
        self.disk().scan(Table::Bridge, &[schema::BRIDGE_SOURCE], &[schema::BRIDGE_SOURCE], visit).expect("reads");
        rows
    }
}

/// The positions of a welcome; `None` where it says nothing of them.
fn told(welcome: &Seen) -> Option<Vec<SourcePosition>> {
    assert_eq!(welcome.kind, FrameType::Welcome, "{welcome:?}");
    let (_, rest) = postcard::take_from_bytes::<wire::Welcome<'_>>(&welcome.head).expect("a head");
    let mut rest = rest;
    while let Ok(((tag, value), behind)) = postcard::take_from_bytes::<(u32, &[u8])>(rest) {
        if tag == EXTENSION_BRIDGE {
            return Some(SourcePosition::read_all(value));
        }
        rest = behind;
    }
    None
}

fn at(last: u64) -> SourcePosition {
    SourcePosition { epoch: 7, lane: 0, last, refused: Vec::new() }
}

/// Verdicts, one after another, from this number on.
fn verdicts(from: u64, all: &[Result<Outcome, Code>]) -> Vec<(u64, Result<Outcome, Code>)> {
    (from..).zip(all.iter().copied()).collect()
}

/// A broker where whoever comes has a name.
fn named(queues: Vec<QueueSettings>) -> World {
    let mut settings = Settings { queues, ..Settings::default() };
    settings.auth.identities = Some("identities".into());
    World::with(settings)
}

fn main_queue() -> Vec<QueueSettings> {
    vec![queue("main", "#")]
}

#[test]
fn what_a_bridge_sends_again_is_a_duplicate_by_its_place_whatever_its_id() {
    let mut w = named(main_queue());
    let (b, told) = w.gate();
    assert_eq!(told, []);
    w.sends(b, 1, &[1, 2, 5]);
    assert_eq!(w.verdicts(b), verdicts(1, &[STORED; 3]));
    w.disconnect(b);
    let (b, told) = w.gate();
    assert_eq!(told, [at(5)]);
    w.sends(b, 1, &[2, 5, 6]);
    w.pass(3);
    assert_eq!(w.verdicts(b), verdicts(1, &[DUPLICATE, DUPLICATE, STORED]));
    w.restart();
    let (b, told) = w.gate();
    assert_eq!(told, [at(6)]);
    w.sends(b, 1, &[1, 2, 5, 6, 9]);
    w.pass(3);
    assert_eq!(w.verdicts(b), verdicts(1, &[DUPLICATE, DUPLICATE, DUPLICATE, DUPLICATE, STORED]));
    assert_eq!(w.held_by("", "main"), ["1", "2", "5", "6", "9"]);
    assert_eq!((w.broker.counters().resent, w.source_rows()), (4, 1));
}

#[test]
fn lanes_and_epochs_have_positions_of_their_own_the_last_used_is_told_first() {
    let mut w = named(main_queue());
    let (b, _) = w.gate();
    for (n, (epoch, lane)) in [(7, 0), (7, 9), (8, 0)].into_iter().enumerate() {
        w.forward_from(b, 1 + n as u32, 1, (epoch, lane, 0), &[4], "a");
        w.pass(1);
    }
    assert_eq!(w.verdicts(b).len(), 3);
    let (_, told) = w.gate();
    let all: Vec<_> = told.iter().map(|p| (p.epoch, p.lane, p.last)).collect();
    assert_eq!(all, [(8, 0, 4), (7, 9, 4), (7, 0, 4)]);
}

#[test]
fn a_welcome_tells_only_what_is_durable_and_a_duplicate_waits_for_the_commit_that_holds_it() {
    let mut w = named(main_queue());
    let (b, _) = w.gate();
    w.sends(b, 1, &[1]);
    assert_eq!(w.verdicts(b), verdicts(1, &[STORED]));
    w.hold_commits = true;
    w.sends(b, 2, &[2]);
    // One commit is under way, the next gathers.
    w.sends(b, 3, &[3]);
    w.disconnect(b);
    let (b, told) = w.gate();
    assert_eq!(told, [at(1)]);
    w.sends(b, 1, &[1, 2, 3]);
    assert_eq!(w.verdicts(b), []);
    w.release_commit();
    let (c, told) = w.bridge_of("", "gate", "edge", "up");
    assert_eq!(told, [at(2)], "and the newer session is the one that goes on");
    w.release_commit();
    w.hold_commits = false;
    w.sends(c, 1, &[1, 2, 3, 4]);
    assert_eq!(w.verdicts(c), verdicts(1, &[DUPLICATE, DUPLICATE, DUPLICATE, STORED]));
    assert_eq!(w.held_by("", "main"), ["1", "2", "3", "4"]);
}

#[test]
fn what_was_refused_for_good_is_refused_again_until_the_edge_has_settled_it() {
    let mut w = named(main_queue());
    let (b, _) = w.gate();
    w.sends(b, 1, &[1]);
    w.forward_from(b, 1, 2, (7, 0, 1), &[2, 3], "$sys/x");
    w.sends(b, 4, &[4]);
    let refused = Err(Code::Forbidden);
    assert_eq!(w.verdicts(b), verdicts(1, &[STORED, refused, refused, STORED]));
    w.restart();
    let (b, told) = w.gate();
    let code = Code::Forbidden as u16;
    assert_eq!(told, [SourcePosition { refused: vec![(2, code), (3, code)], ..at(4) }]);
    w.sends(b, 1, &[1, 2, 3, 4]);
    assert_eq!(w.verdicts(b), verdicts(1, &[DUPLICATE, refused, refused, DUPLICATE]));
    w.forward_from(b, 1, 5, (7, 0, 3), &[5], "a");
    assert_eq!(w.verdicts(b), verdicts(5, &[STORED]));
    let (_, told) = w.gate();
    assert_eq!(told, [SourcePosition { refused: vec![(3, code)], ..at(5) }]);
    assert_eq!(w.held_by("", "main"), ["1", "4", "5"]);
}

#[test]
fn a_refusal_that_can_be_tried_again_moves_nothing_nor_does_what_comes_behind_it() {
    let mut w = named(vec![QueueSettings { messages_max: 2, overflow: Overflow::Reject, ..queue("main", "#") }]);
    let (b, _) = w.gate();
    w.sends(b, 1, &[1, 2, 3, 4]);
    let nacks = [STORED, STORED, Err(Code::QueueFull), Err(Code::Fenced)];
    assert_eq!(w.verdicts(b), verdicts(1, &nacks));
    // Another lane's stream is not held up by it, and its refusal for good does not move this one.
    w.forward_from(b, 2, 1, (7, 9, 0), &[1], "$sys/x");
    assert_eq!(w.verdicts(b), verdicts(1, &[Err(Code::Forbidden)]));
    w.sends(b, 4, &[4]);
    assert_eq!(w.verdicts(b), verdicts(4, &[Err(Code::Fenced)]));
    let c = w.connect();
    w.consume(c, 9, "main", "takes");
    w.credit(c, 9, 1);
    assert_eq!(w.messages(c).len(), 1);
    w.ack(c, 9, 1, 1);
    w.pass(100);
    w.disconnect(b);
    let (b, told) = w.gate();
    assert!(told.contains(&at(2)), "{told:?}");
    w.sends(b, 1, &[3, 4]);
    assert_eq!(w.verdicts(b), verdicts(1, &[STORED, Err(Code::QueueFull)]));
}

#[test]
fn a_source_remembers_so_many_refusals_and_then_takes_no_more_until_they_are_settled() {
    let mut w = named(main_queue());
    let (b, _) = w.gate();
    let seqs: Vec<u64> = (1..=REFUSED_MAX as u64 + 2).collect();
    w.forward_from(b, 1, 1, (7, 0, 1), &seqs, "$sys/x");
    let mut all = w.verdicts(b);
    let last = all.split_off(REFUSED_MAX);
    assert!(all.iter().all(|(_, v)| *v == Err(Code::Forbidden)));
    let held = REFUSED_MAX as u64 + 1;
    assert_eq!(last, verdicts(held, &[Err(Code::LimitReached), Err(Code::Fenced)]));
    w.forward_from(b, 1, held, (7, 0, 2), &[held, held + 1], "$sys/x");
    assert_eq!(w.verdicts(b), verdicts(held, &[Err(Code::Forbidden), Err(Code::LimitReached)]));
}

#[test]
fn nobody_elses_credentials_edge_bridge_or_tenant_touches_a_position() {
    let tenants = vec![TenantSettings { name: "red".into(), ..TenantSettings::default() }];
    let mut w = World::with(Settings { queues: main_queue(), tenants, ..Settings::default() });
    let (b, _) = w.gate();
    w.sends(b, 1, &[1_000]);
    let others = [("", "thief", "edge", "up"), ("", "gate", "other", "up"), ("", "gate", "edge", "down")];
    for (tenant, principal, edge, bridge) in others.into_iter().chain([("red", "gate", "edge", "up")]) {
        let (other, told) = w.bridge_of(tenant, principal, edge, bridge);
        assert_eq!(told, [], "{principal} {edge} {bridge}");
        w.sends(other, 1, &[5, 2_000]);
        assert_eq!(w.verdicts(other), verdicts(1, &[STORED; 2]));
    }
    w.sends(b, 2, &[1_000, 1_001]);
    assert_eq!(w.verdicts(b), verdicts(1, &[STORED, DUPLICATE, STORED]));
    assert_eq!((w.source_rows(), w.held_by("red", "main").len()), (5, 2));
    w.restart();
    assert_eq!(w.gate().1, [at(1_001)]);
    assert_eq!(w.bridge_of("red", "gate", "edge", "up").1, [at(2_000)]);
}

#[test]
fn a_name_that_looks_like_a_bridge_of_this_process_is_none() {
    let mut w = named(main_queue());
    let peer = Peer::Bridge { name: "up".into(), tenant: "".into() };
    let own = w.connect_from(peer.clone());
    w.hello_bridge(own, &postcard::to_stdvec(&BridgeHello { edge: "hub", bridge: "up" }).expect("encodes"));
    assert_eq!(told(&w.expect(own)), Some(vec![]));
    w.sends(own, 1, &[9]);
    assert_eq!(w.verdicts(own), verdicts(1, &[STORED]));
    let (_, theirs) = w.bridge_of("", "bridge:up", "hub", "up");
    assert_eq!(theirs, []);
    assert!(!w.is_closed(own));
    w.restart();
    let own = w.connect_from(peer);
    w.hello_bridge(own, &postcard::to_stdvec(&BridgeHello { edge: "hub", bridge: "up" }).expect("encodes"));
    assert_eq!(told(&w.expect(own)), Some(vec![at(9)]));
}

#[test]
fn a_newer_session_of_a_bridge_ends_the_older_one_and_no_other() {
    let mut w = named(main_queue());
    let (old, _) = w.gate();
    let (other, _) = w.bridge_of("", "gate", "edge", "second");
    let (thief, _) = w.bridge_of("", "thief", "edge", "up");
    assert_eq!(w.broker.counters().bridge_takeovers, 0);
    let (new, _) = w.gate();
    assert_eq!(w.expect_error(old), Code::Conflict);
    assert!(w.is_closed(old) && !w.is_closed(other) && !w.is_closed(thief) && !w.is_closed(new));
    let counters = w.broker.counters();
    assert_eq!((counters.bridge_takeovers, counters.closed.get(&Code::Conflict)), (1, Some(&1)));
    // The older one's end does not make the newer one's place free: a third finds it.
    let (third, _) = w.gate();
    assert_eq!(w.expect_error(new), Code::Conflict);
    w.disconnect(third);
    let (_, _) = w.gate();
    assert_eq!(w.broker.counters().bridge_takeovers, 2, "nobody was there any more");
}

#[test]
fn what_is_malformed_or_not_said_by_a_bridge_ends_the_session_with_its_code() {
    let mut w = World::new(main_queue());
    let long = "x".repeat(129);
    let hello = |edge, bridge| postcard::to_stdvec(&BridgeHello { edge, bridge }).expect("encodes");
    let mut trailing = hello("edge", "up");
    trailing.push(0);
    let bad = [
        (vec![], Code::BadHead),
        (vec![9, b'x'], Code::BadHead),
        (trailing, Code::BadHead),
        (hello("", "up"), Code::BadName),
        (hello("edge", ""), Code::BadName),
        (hello(&long, "up"), Code::BadName),
    ];
    for (value, code) in bad {
        let c = w.connect_raw(true);
        w.hello_bridge(c, &value);
        assert_eq!(w.expect_error(c), code, "{value:?}");
        assert!(w.is_closed(c));
    }
    let c = w.connect();
    w.sends(c, 1, &[1]);
    assert_eq!(w.expect_error(c), Code::UnexpectedFrame);
    let good = Source { epoch: 7, lane: 0, floor: 0, first: 1, runs: &[] };
    let encoded = |source: Source<'_>| postcard::to_stdvec(&source).expect("encodes");
    let mut trailing = encoded(good);
    trailing.push(0);
    let sources = [
        vec![],
        trailing,
        encoded(Source { lane: 10, ..good }),
        encoded(Source { first: 0, ..good }),
        encoded(Source { first: u64::MAX, ..good }),
        encoded(Source { runs: &[2], ..good }),
        encoded(Source { runs: &[1, 1], ..good }),
    ];
    for value in sources {
        let (b, _) = w.gate();
        let bytes = record("a", "x", |_| {});
        let head = Publish { contract: Contract::Queue, number: 1, total: bytes.len() as u32 };
        w.send_extended::<Publish>(b, 1, head, &[Extension { tag: EXTENSION_SOURCE, value: &value }], &bytes);
        assert_eq!(w.expect_error(b), Code::BadHead, "{value:?}");
    }
    assert_eq!(w.held_by("", "main"), Vec::<String>::new());
}

#[test]
fn a_chunked_publish_says_where_it_is_from_in_its_first_chunk() {
    let mut w = World::new(main_queue());
    let (b, _) = w.gate();
    let bytes = record("a", &"x".repeat(40_000), |_| {});
    let source = Source { epoch: 7, lane: 0, floor: 0, first: 3, runs: &[] };
    let value = postcard::to_stdvec(&source).expect("encodes");
    let extensions = &[Extension { tag: EXTENSION_SOURCE, value: &value }];
    for expected in [STORED, DUPLICATE] {
        let number = if expected == STORED { 1 } else { 2 };
        let head = Publish { contract: Contract::Queue, number, total: bytes.len() as u32 };
        for (i, (flags, chunk)) in wire::chunks(&bytes).enumerate() {
            let head = (i == 0).then_some(Extended { head, extensions });
            let mut out = vec![0; 20_000];
            let n = wire::encode_into(&mut out, FrameType::Publish, flags, 1, head.as_ref(), chunk).expect("fits");
            wire::seal(&mut out[..n], w.skip_sequence(b));
            w.send_bytes(b, &out[..n]);
        }
        assert_eq!(w.verdicts(b), verdicts(number, &[expected]));
    }
}

#[test]
fn what_no_disk_takes_moves_the_position_and_forces_no_commit() {
    let memory = QueueSettings { storage: Storage::Memory, ..queue("quick", "m") };
    let mut w = named(vec![queue("main", "a"), memory]);
    let (b, _) = w.gate();
    w.pass(5_000);
    let commits = w.commits;
    w.forward_from(b, 1, 1, (7, 0, 0), &[1, 2], "m");
    w.forward_from(b, 1, 3, (7, 0, 0), &[3], "nobody/hears");
    w.pass(5_000);
    assert_eq!((w.commits, w.source_rows()), (commits, 0));
    assert_eq!(w.verdicts(b), verdicts(1, &[STORED, STORED, Ok(Outcome::LiveOnly)]));
    w.forward_from(b, 1, 4, (7, 0, 0), &[2, 3], "m");
    assert_eq!(w.verdicts(b), verdicts(4, &[DUPLICATE; 2]));
    // It rides on whatever is written next.
    let c = w.connect();
    w.publish(c, 1, "a", "else");
    assert_eq!((w.commits, w.source_rows()), (commits + 1, 1));
    w.restart();
    assert_eq!(w.gate().1, [at(3)]);
}

#[test]
fn a_failed_store_takes_positions_back_to_what_is_durable() {
    let memory = QueueSettings { storage: Storage::Memory, ..queue("quick", "m") };
    let mut w = named(vec![queue("main", "a"), memory]);
    let (b, _) = w.gate();
    w.sends(b, 1, &[1]);
    w.forward_from(b, 2, 1, (9, 0, 0), &[50], "m");
    assert_eq!(w.verdicts(b).len(), 2);
    w.hold_commits = true;
    w.sends(b, 2, &[2, 3]);
    w.fail_store(StoreError::Io("the cable".into()));
    let failed = Err(Code::StorageFailed);
    assert_eq!(w.verdicts(b), verdicts(2, &[failed; 2]));
    // While it is failed nobody is told that what was lost is there.
    w.sends(b, 2, &[2, 3]);
    assert_eq!(w.verdicts(b), verdicts(2, &[failed, Err(Code::Fenced)]));
    w.forward_from(b, 2, 2, (9, 0, 0), &[51], "m");
    assert_eq!(w.verdicts(b), verdicts(2, &[STORED]));
    w.hold_commits = false;
    w.reopen_store();
    w.sends(b, 2, &[1, 2, 3]);
    assert_eq!(w.verdicts(b), verdicts(2, &[DUPLICATE, STORED, STORED]));
    w.forward_from(b, 2, 3, (9, 0, 0), &[50, 51], "m");
    assert_eq!(w.verdicts(b), verdicts(3, &[DUPLICATE; 2]), "memory did not fail");
    assert_eq!(w.held_by("", "main"), ["1", "2", "3"]);
    assert_eq!(w.held_by("", "quick"), ["50", "51"]);
    let (_, told) = w.gate();
    assert_eq!(w.expect_error(b), Code::Conflict, "the session is known as the bridge's over it");
    assert!(told.contains(&at(3)), "{told:?}");
}

#[test]
fn a_principal_has_so_many_sources_and_loses_its_own_longest_unused_with_its_row() {
    let mut w = named(main_queue());
    let (other, _) = w.bridge_of("", "other", "edge", "up");
    w.sends(other, 1, &[1]);
    assert_eq!(w.verdicts(other), verdicts(1, &[STORED]));
    let (b, _) = w.gate();
    for epoch in 1..=SOURCES_OF_ONE_MAX as u64 {
        w.forward_from(b, 1, epoch, (epoch, 0, 0), &[1], "a");
        w.pass(1);
    }
    // The first is used again: the second is the oldest now.
    let next = SOURCES_OF_ONE_MAX as u64 + 1;
    w.forward_from(b, 1, next, (1, 0, 0), &[2], "a");
    assert_eq!((w.verdicts(b).len(), w.source_rows()), (SOURCES_OF_ONE_MAX + 1, SOURCES_OF_ONE_MAX + 1));
    w.forward_from(b, 1, next + 1, (9_999, 0, 0), &[1], "a");
    w.pass(1_000);
    assert_eq!((w.source_rows(), w.broker.counters().sources_evicted), (SOURCES_OF_ONE_MAX + 1, 1));
    w.forward_from(b, 1, next + 2, (1, 0, 0), &[1], "a");
    w.sends(other, 2, &[1]);
    assert_eq!(w.verdicts(other), verdicts(2, &[DUPLICATE]), "another's stayed");
    assert_eq!(w.verdicts(b), verdicts(next + 1, &[STORED, DUPLICATE]));
    w.forward_from(b, 1, next + 3, (2, 0, 0), &[1], "a");
    assert_eq!(w.verdicts(b), verdicts(next + 3, &[STORED]), "what is forgotten is judged as if it were new");
    w.restart();
    assert_eq!(w.source_rows(), SOURCES_OF_ONE_MAX + 1);
}

#[test]
fn an_id_that_was_seen_moves_the_position_and_an_ordinary_publish_writes_none() {
    let mut w = named(main_queue());
    let c = w.connect();
    w.publish_with(c, 1, Contract::Queue, |r| r.id = id(3), "a", "first");
    assert_eq!((w.verdicts(c), w.source_rows()), (verdicts(1, &[STORED]), 0));
    let (b, _) = w.gate();
    let bytes = record("a", "again", |r| r.id = id(3));
    let source = Source { epoch: 7, lane: 0, floor: 0, first: 4, runs: &[] };
    let value = postcard::to_stdvec(&source).expect("encodes");
    let head = Publish { contract: Contract::Queue, number: 1, total: bytes.len() as u32 };
    w.send_extended::<Publish>(b, 1, head, &[Extension { tag: EXTENSION_SOURCE, value: &value }], &bytes);
    assert_eq!(w.verdicts(b), verdicts(1, &[DUPLICATE]));
    let (_, told) = w.gate();
    assert_eq!(told, [at(4)]);
    assert_eq!(w.held_by("", "main"), ["first"]);
}
