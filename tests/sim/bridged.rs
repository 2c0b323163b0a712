//! Worlds with a bridge: what joins an edge with its hub, and what goes wrong on the way.

use crate::plan::{Fault, Plan, RolePlan, chance, fault, one, queue, settings};
use fastrand::Rng;
use tidegate::config::{BridgeSettings, Keep, Overflow, QueueSettings};

/// What joins an edge with its hub.
#[derive(Clone, Debug)]
pub struct BridgePlan {
    pub edge: usize,
    pub hub: usize,
    pub settings: BridgeSettings,
    /// What a reload brings for a while.
    pub other: BridgeSettings,
    /// Bytes of the sockets' buffers, each way.
    pub capacity: usize,
    pub delay_us: (u64, u64),
    pub rate: usize,
    /// Largest record the hub takes.
    pub record_bytes_max: usize,
    /// The control: the hub is not told where messages come from.
    pub positions_ignored: bool,
}

/// What goes wrong on the way.
#[derive(Clone, Copy, Debug)]
pub enum WayFault {
    /// Nothing passes up, or down, or both; what is on its way waits.
    Block { up: bool, down: bool, us: u64 },
    /// The connection is lost after so many more bytes up, or down.
    Lose { up: bool, bytes: usize },
    /// The connection is lost with the n-th acknowledgement from now on: the hub has stored what the bridge does not hear of.
    LoseAck { n: u32 },
    /// Nothing passes any more over this connection, and nobody is told.
    Silence,
    /// Who dials is refused.
    Refuse { us: u64 },
    /// An operator pauses the bridge, and lets it go on.
    Pause { us: u64 },
    /// It has other settings for a while.
    Reload { us: u64 },
}

const MS: u64 = 1_000;
/// Where the hub is.
pub const HUB: usize = 1;

impl Plan {
    /// In half of the worlds the broker is an edge, with a hub behind a bridge.
    pub fn add_bridge(&mut self, rng: &mut Rng, history: bool) {
        if !self.seed.is_multiple_of(2) {
            return;
        }
        // Either one queue forwards everything, or two share it.
        let parts: Vec<Vec<&str>> =
            if rng.bool() { vec![vec!["c/#"]] } else { vec![vec!["c/0/#"], vec!["c/1/#", "c/2/#"]] };
        let mapped = chance(rng, 50);
        let mut up = Vec::new();
        for (n, capture) in parts.iter().enumerate() {
            let q = QueueSettings {
                capture: capture.iter().map(|f| (*f).to_owned()).collect(),
                keep: one(rng, &[Keep::Work, Keep::Interest]),
                ..queue(rng, 0, history)
            };
            let q = QueueSettings { name: format!("b{n}"), overflow: one(rng, &[Overflow::Reject, q.overflow]), ..q };
            self.add_undertaker(rng, &q);
            up.push(if mapped { format!("b{n} c/# -> edges/{{name}}/c/#") } else { format!("b{n}") });
            self.hosts[0].queues.push(q);
        }
        let mut settings = bridge_settings(rng, up);
        let mut other = settings.clone();
        match rng.u8(..3) {
            0 if other.up.len() > 1 => drop(other.up.pop()),
            1 => other.urls.reverse(),
            _ => {
                (other.window_messages, other.window_bytes) = (4_096, 1 << 20);
                (other.bytes_per_second, other.messages_per_second) = (0, 0);
            }
        }
        self.add_hub(rng, history, mapped);
        let slow = chance(rng, 20);
        let capacity = one(rng, if slow { &[512, 4_096] } else { &[512, 4_096, 65_536, 65_536] });
        let delay_us = one(rng, &[(10, 100), (2_000, 40_000), (300_000, 310_000)]);
        // A message must come through before the hub is given up: the largest needs some eight seconds on the worst way.
        let least = if delay_us.0 > 100_000 { 5_000 } else { 0 };
        for settings in [&mut settings, &mut other] {
            settings.ack_ms_max = settings.ack_ms_max.max(least);
        }
        self.hosts[0].bridges.push(settings.clone());
        let record_bytes_max = self.hosts[HUB].limits.message_bytes_max as usize;
        self.bridge = Some(BridgePlan {
            edge: 0,
            hub: HUB,
            settings,
            other,
            capacity,
            delay_us,
            rate: if slow { 6 } else { one(rng, &[100_000, 2_000, 60]) },
            record_bytes_max,
            positions_ignored: false,
        });
        for _ in 0..rng.usize(0..=4) {
            let way = self.way_fault(rng);
            self.faults.push((rng.u64(300 * MS..self.heal_us), Fault::Way(way)));
        }
        for _ in 0..one(rng, &[0, 0, 1, 1, 2]) {
            let what = fault(rng, HUB);
            self.faults.push((rng.u64(300 * MS..self.heal_us), what));
        }
    }

    fn add_hub(&mut self, rng: &mut Rng, history: bool, mapped: bool) {
        let mut queues = Vec::new();
        for n in 0..rng.usize(1..=2) {
            // On disk, all of them: what is in memory is promised to nobody.
            let q = queue(rng, 0, history);
            let capture = if mapped { "edges/+/c/#" } else { "c/#" };
            let capture = if n == 0 { capture } else { "#" };
            queues.push(QueueSettings { name: format!("u{n}"), capture: vec![capture.into()], ..q });
        }
        let mut hub = settings(rng, queues.clone());
        hub.limits.message_bytes_max = one(rng, &[65_536, 65_536, 3_000]);
        self.hosts.push(hub);
        let first = self.clients.len();
        for q in &queues {
            self.add_consumers(rng, q);
        }
        if chance(rng, 30) {
            let filter = if mapped { "edges/box/#" } else { "c/#" };
            let role = RolePlan::Subscriber { filter: filter.into(), history: false, retained: false, slow: false };
            self.add_client(rng, role);
        }
        for client in &mut self.clients[first..] {
            client.host = HUB;
            if let RolePlan::Consumer(c) = &mut client.role {
                // Drawn for channels as they are at the edge.
                c.filters.clear();
            }
        }
    }

    fn way_fault(&self, rng: &mut Rng) -> WayFault {
        let us = rng.u64(1..3_000) * MS;
        match rng.u8(..12) {
            0 | 1 => WayFault::Block { up: true, down: true, us },
            2 => WayFault::Block { up: true, down: false, us },
            3 => WayFault::Block { up: false, down: true, us },
            4 => WayFault::LoseAck { n: rng.u32(..20) },
            5..8 => {
                let most = one(rng, &[40, 500, 8_000]);
                WayFault::Lose { up: rng.bool(), bytes: rng.usize(..most) }
            }
            8 => WayFault::Silence,
            9 => WayFault::Refuse { us },
            10 => WayFault::Pause { us },
            _ => WayFault::Reload { us },
        }
    }
}

fn bridge_settings(rng: &mut Rng, up: Vec<String>) -> BridgeSettings {
    BridgeSettings {
        urls: one(rng, &[vec!["tcp://hub:1".into()], vec!["tcp://hub:1".into(), "tcp://spare:1".into()]]),
        up,
        heartbeat_ms: one(rng, &[500, 1_000, 5_000]),
        ack_ms_max: one(rng, &[1_000, 5_000, 30_000]),
        window_messages: one(rng, &[1, 8, 4_096, 4_096]),
        window_bytes: one(rng, &[4_000, 1 << 20, 1 << 20]),
        compress: rng.bool(),
        bytes_per_second: one(rng, &[0, 0, 0, 20_000]),
        messages_per_second: one(rng, &[0, 0, 0, 100]),
        ramp_ms: one(rng, &[0, 200, 2_000]),
        ..BridgeSettings::new("up")
    }
}
