//! An edge and a hub, both whole brokers in memory, and the bridge between them over a link that can be cut at any byte.

use super::world::World;
use crate::bridge::{Action, Bridge, Failure, Parts, Reason};
use crate::broker::{Event, Peer};
use crate::config::{BridgeSettings, QueueSettings};
use crate::model::ConnId;
use crate::model::admin::{BridgeState, BridgeStatus};
use std::sync::Arc;

pub(super) struct Pair {
    pub(super) edge: World,
    pub(super) hub: World,
    pub(super) bridge: Bridge,
    pub(super) settings: BridgeSettings,
    local: Option<ConnId>,
    link: Option<(u64, ConnId)>,
    /// Addresses dialed so far.
    pub(super) dialed: Vec<usize>,
    /// What dialing an address leads to; connected where there is nothing.
    pub(super) broken: Vec<Option<Reason>>,
    /// Who the bridge is to the hub.
    pub(super) from: Peer,
    /// A dial hangs for ever.
    pub(super) hangs: bool,
    /// Bytes to the hub that still pass before the link is cut; `None` is all.
    pub(super) cut_after: Option<usize>,
    /// The hub takes nothing from the link.
    pub(super) hub_reads: bool,
    /// Nothing of the hub arrives.
    pub(super) hub_is_heard: bool,
    /// What of the bridge's bytes the hub did not take yet.
    pipe: Vec<u8>,
    /// Bytes of the pipe at most: the bridge is asked for no more.
    pub(super) pipe_max: usize,
    pub(super) kept: Option<Vec<u8>>,
    pub(super) told: u64,
    pub(super) asked: Vec<(u8, Vec<u8>)>,
    pub(super) answer: Option<Result<(u8, Vec<u8>), String>>,
}

pub(super) fn settings(up: &[&str]) -> BridgeSettings {
    BridgeSettings {
        urls: vec!["tcp://hub:1".into()],
        up: up.iter().map(|route| (*route).to_owned()).collect(),
        ..BridgeSettings::new("hub")
    }
}

impl Pair {
    pub(super) fn new(edge: Vec<QueueSettings>, hub: Vec<QueueSettings>, settings: BridgeSettings) -> Self {
        Self::of(World::new(edge), World::new(hub), settings)
    }

    pub(super) fn of(edge: World, hub: World, settings: BridgeSettings) -> Self {
        let bridge = Self::bridge(&edge, &settings, None);
        let mut pair = Self {
            edge,
            hub,
            bridge,
            settings,
            local: None,
            link: None,
            dialed: Vec::new(),
            broken: Vec::new(),
            from: Peer::Unix { uid: 0, pid: 0, admin: true },
            hangs: false,
            cut_after: None,
            hub_reads: true,
            hub_is_heard: true,
            pipe: Vec::new(),
            pipe_max: 64 * 1_024,
            kept: None,
            told: 0,
            asked: Vec::new(),
            answer: None,
        };
        pair.run();
        pair
    }

    fn bridge(edge: &World, settings: &BridgeSettings, kept: Option<Vec<u8>>) -> Bridge {
        let parts =
            Parts { settings: Arc::new(settings.clone()), name: "edge".into(), edge: "edge-1".into(), kept, seed: 11 };
        Bridge::new(edge.now, parts)
    }

    /// Carries bytes and actions until nothing moves.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it never rests: {:?}", self.status());
    }

    fn step(&mut self) -> bool {
        let mut moved = false;
        while let Some(action) = self.bridge.poll_action() {
            moved = true;
            self.act(action);
        }
        let now = self.edge.now;
        if let Some(conn) = self.local {
            let mut out = Vec::new();
            self.bridge.poll_local(now, &mut out, 64 * 1_024);
            if !out.is_empty() {
                moved = true;
                self.edge.send_bytes(conn, &out);
            }
            let bytes = self.edge.take_bytes(conn);
            if !bytes.is_empty() {
                moved = true;
                self.bridge.handle_local(now, &bytes);
            }
            if self.local == Some(conn) && self.edge.is_closed(conn) {
                self.local = None;
                moved = true;
                self.bridge.handle_local_closed(now);
            }
        }
        let Some((number, conn)) = self.link else { return moved };
        if self.pipe.len() < self.pipe_max {
            let before = self.pipe.len();
            self.bridge.poll_upstream(now, &mut self.pipe, self.pipe_max - before);
            moved |= self.pipe.len() > before;
        }
        if self.hub_reads && !self.pipe.is_empty() && self.hub.broker.wants_read(conn) {
            moved = true;
            let mut bytes = std::mem::take(&mut self.pipe);
            self.bridge.handle_sent(now, number, bytes.len());
            let mut cut = false;
            if let Some(left) = &mut self.cut_after {
                cut = bytes.len() >= *left;
                bytes.truncate(*left);
                *left -= bytes.len();
            }
            self.hub.send_bytes(conn, &bytes);
            if cut {
                self.cut_after = None;
                self.cut();
                return true;
            }
        }
        if self.hub_is_heard {
            let bytes = self.hub.take_bytes(conn);
            if !bytes.is_empty() {
                moved = true;
                self.bridge.handle_upstream(now, number, &bytes);
            }
        }
        if self.link == Some((number, conn)) && self.hub.is_closed(conn) {
            moved = true;
            self.link = None;
            self.pipe.clear();
            self.bridge.handle_hung_up(now, number, failure(Reason::Closed));
        }
        moved
    }

    /// Number of the connection.
    pub(super) fn number(&self) -> u64 {
        self.link.map_or(0, |(number, _)| number)
    }

    /// Carries once.
    pub(super) fn carry(&mut self) {
        self.step();
    }

    fn act(&mut self, action: Action) {
        let now = self.edge.now;
        match action {
            Action::Dial { number, url } => {
                self.dialed.push(url);
                self.hang_up();
                if self.hangs {
                    return;
                }
                match self.broken.get(url).copied().flatten() {
                    Some(reason) => self.bridge.handle_dialed(now, number, Err(failure(reason))),
                    None => {
                        let conn = self.hub.connect_from(self.from.clone());
                        self.link = Some((number, conn));
                        self.bridge.handle_dialed(now, number, Ok(()));
                    }
                }
            }
            Action::HangUp { number } => {
                if self.link.is_some_and(|(n, _)| n == number) {
                    self.hang_up();
                }
            }
            Action::Credentials { number, method, challenge } => {
                self.asked.push((method, challenge));
                if let Some(answer) = self.answer.clone() {
                    self.bridge.handle_credentials(now, number, answer);
                }
            }
            Action::OpenLocal => {
                let (name, tenant) = (self.settings.name.as_str().into(), self.settings.tenant.as_str().into());
                self.local = Some(self.edge.connect_from(Peer::Bridge { name, tenant }));
            }
            Action::CloseLocal => {
                if let Some(conn) = self.local.take() {
                    self.edge.disconnect(conn);
                }
            }
            Action::Tell { keep } => {
                self.told += 1;
                if keep.is_some() {
                    self.kept.clone_from(&keep);
                }
                let status = Box::new(self.bridge.status(now));
                self.edge.event(Event::Bridge { status, keep });
            }
        }
    }

    fn hang_up(&mut self) {
        if let Some((_, conn)) = self.link.take() {
            self.hub.disconnect(conn);
        }
        self.pipe.clear();
    }

    /// New settings.
    pub(super) fn set(&mut self, settings: BridgeSettings) {
        self.settings = settings.clone();
        self.bridge.handle_settings(self.edge.now, Arc::new(settings));
        self.run();
    }

    /// The link breaks: what was under way on it is gone.
    pub(super) fn cut(&mut self) {
        if let Some((number, _)) = self.link {
            self.hang_up();
            self.bridge.handle_hung_up(self.edge.now, number, failure(Reason::Closed));
        }
    }

    /// The edge loses power; its broker and its bridge begin anew on what was committed.
    pub(super) fn crash_edge(&mut self) {
        self.hang_up();
        self.local = None;
        self.edge.restart();
        self.bridge = Self::bridge(&self.edge, &self.settings, self.kept.clone());
    }

    /// The hub loses power.
    pub(super) fn crash_hub(&mut self) {
        let number = self.link.take().map(|(number, _)| number);
        self.pipe.clear();
        self.hub.restart();
        if let Some(number) = number {
            self.bridge.handle_hung_up(self.edge.now, number, failure(Reason::Closed));
        }
    }

    /// Lets time pass on both sides, a step at a time.
    pub(super) fn pass(&mut self, ms: u64) {
        const STEP_MS: u64 = 50;
        let mut left = ms;
        while left > 0 {
            let step = left.min(STEP_MS);
            left -= step;
            self.edge.pass(step);
            self.hub.pass(step);
            let now = self.edge.now;
            for _ in 0..1_000 {
                if self.bridge.poll_timeout().is_none_or(|at| at > now.mono) {
                    break;
                }
                self.bridge.handle_timeout(now);
                self.run();
            }
            assert!(self.bridge.poll_timeout().is_none_or(|at| at > now.mono), "a timer rings for ever");
            self.run();
        }
    }

    pub(super) fn status(&self) -> BridgeStatus {
        self.bridge.status(self.edge.now)
    }

    pub(super) fn state(&self) -> BridgeState {
        self.status().state
    }

    /// Lets time pass until it is open.
    pub(super) fn until_open(&mut self) {
        for _ in 0..2_000 {
            self.run();
            if self.state() == BridgeState::Open {
                return;
            }
            self.pass(50);
        }
        panic!("it does not open: {:?}", self.status());
    }
}

pub(super) fn failure(reason: Reason) -> Failure {
    Failure { reason, detail: format!("of the test: {}", reason.name()) }
}
