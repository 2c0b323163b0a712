//! Bridges in rings: what goes round comes to an end.

use super::pair::settings;
use super::world::{World, queue};
use crate::bridge::{Action, Bridge, Parts};
use crate::broker::Peer;
use crate::config::{BridgeSettings, Keep, QueueSettings};
use crate::model::ConnId;
use std::sync::Arc;

/// Brokers of which each forwards what it has to the next.
struct Ring {
    worlds: Vec<World>,
    bridges: Vec<Joint>,
}

/// A bridge, its session here, and its connection to the next.
type Joint = (Bridge, Option<ConnId>, Option<(u64, ConnId)>);

impl Ring {
    fn new(names: &[&str], settings: &BridgeSettings) -> Self {
        let keep = || QueueSettings { keep: Keep::Limits, ..queue("main", "#") };
        let worlds: Vec<World> = names.iter().map(|_| World::new(vec![keep()])).collect();
        let bridge = |name: &&str| {
            let (settings, name) = (Arc::new(settings.clone()), (*name).to_owned());
            let parts = Parts { settings, edge: name.clone(), name, kept: None, seed: 5 };
            (Bridge::new(worlds[0].now, parts), None, None)
        };
        let bridges = names.iter().map(bridge).collect();
        Self { worlds, bridges }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 50 {
            self.worlds.iter_mut().for_each(|world| world.pass(50));
            let now = self.worlds[0].now;
            for (bridge, ..) in &mut self.bridges {
                if bridge.poll_timeout().is_some_and(|at| at <= now.mono) {
                    bridge.handle_timeout(now);
                }
            }
            let moved = (0..100_000).take_while(|_| self.step()).count();
            assert!(moved < 100_000, "it goes round for ever");
        }
    }

    /// Carries what there is; whether there was something.
    fn step(&mut self) -> bool {
        let (mut moved, count) = (false, self.worlds.len());
        for at in 0..count {
            let (bridge, local, link) = &mut self.bridges[at];
            let now = self.worlds[at].now;
            while let Some(action) = bridge.poll_action() {
                moved = true;
                match action {
                    Action::OpenLocal => {
                        let peer = Peer::Bridge { name: "hub".into(), tenant: "".into() };
                        *local = Some(self.worlds[at].connect_from(peer));
                    }
                    Action::Dial { number, .. } => {
                        *link = Some((number, self.worlds[(at + 1) % count].connect_raw(true)));
                        bridge.handle_dialed(now, number, Ok(()));
                    }
                    Action::Tell { .. } => {}
                    other => panic!("nothing fails here: {other:?}"),
                }
            }
            if let Some(conn) = *local {
                let world = &mut self.worlds[at];
                let mut out = Vec::new();
                bridge.poll_local(now, &mut out, 65_536);
                let bytes = world.take_bytes(conn);
                moved |= !out.is_empty() || !bytes.is_empty();
                world.send_bytes(conn, &out);
                bridge.handle_local(now, &bytes);
            }
            if let Some((number, conn)) = *link {
                let world = &mut self.worlds[(at + 1) % count];
                let mut out = Vec::new();
                bridge.poll_upstream(now, &mut out, 65_536);
                let bytes = world.take_bytes(conn);
                moved |= !out.is_empty() || !bytes.is_empty();
                world.send_bytes(conn, &out);
                bridge.handle_upstream(now, number, &bytes);
            }
        }
        moved
    }

    fn texts(&mut self, at: usize) -> Vec<String> {
        let conn = self.worlds[at].connect();
        self.worlds[at].consume(conn, 1, "main", "reader");
        self.worlds[at].credit(conn, 1, 10_000);
        let texts = self.worlds[at].texts(conn);
        self.worlds[at].disconnect(conn);
        texts
    }

    fn dropped(&self, reason: &str) -> u64 {
        let count = |bridge: &Bridge| bridge.status(self.worlds[0].now).dropped.get(reason).copied().unwrap_or(0);
        self.bridges.iter().map(|(bridge, ..)| count(bridge)).sum()
    }
}

#[test]
fn in_a_ring_of_three_a_message_without_an_id_goes_round_once() {
    let mut ring = Ring::new(&["a", "b", "c"], &settings(&["main"]));
    ring.pass(1_000);
    for at in 0..3 {
        let conn = ring.worlds[at].connect();
        ring.worlds[at].publish(conn, 1, "x", &format!("of {at}"));
    }
    ring.pass(10_000);
    for at in 0..3 {
        let mut came = ring.texts(at);
        came.sort_unstable();
        let mut expected = vec!["of 0".to_owned(), "of 1".into(), "of 2".into(), format!("of {at}")];
        expected.sort_unstable();
        assert_eq!(came, expected, "its own twice, the others once");
    }
    assert_eq!((ring.dropped("loop"), ring.dropped("hops")), (3, 0));
}

#[test]
fn a_message_passes_no_more_bridges_than_it_may() {
    let mut ring = Ring::new(&["a", "b", "c", "d"], &BridgeSettings { hops_max: 2, ..settings(&["main"]) });
    ring.pass(1_000);
    let conn = ring.worlds[0].connect();
    ring.worlds[0].publish(conn, 1, "x", "far");
    ring.pass(10_000);
    let came: Vec<_> = (0..4).map(|at| ring.texts(at).len()).collect();
    assert_eq!((came, ring.dropped("hops")), (vec![1, 1, 1, 0], 1));
}
