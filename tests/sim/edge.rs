//! The bridge of a host as the daemon runs it: the real machine between its broker, without a network, and an upstream behind a
//! way that stands still, breaks and comes back.

use crate::bridged::{BridgePlan, WayFault};
use crate::net::{End, Pipe};
use crate::tap::{Local, SessionTap};
use crate::world::{Ev, World};
use std::sync::Arc;
use tidegate::bridge::{Action, Bridge, Failure, Parts, Reason};
use tidegate::broker::{Event, Peer, Transmit};
use tidegate::config::BridgeSettings;
use tidegate::model::ConnId;
use tidegate::model::limits::PRIORITIES;
use tidegate::wire::{
    self, Batch, Decoded, EXTENSION_BRIDGE, EXTENSION_SOURCE, Extended, Extension, FLAG_CONT, Frame, FrameType, Head,
    Hello, Publish,
};

/// What a daemon takes of a machine for the upstream at once.
const UPSTREAM_BYTES: usize = 16 * 1_024;
/// And of the session at its broker.
const LOCAL_BYTES: usize = 64 * 1_024;
/// Turns of a look before others have theirs.
const TURNS_MAX: u32 = 16;
/// What may come above a machine's window: the largest message of each of its queues, on its way here already.
const SLACK_BYTES: u64 = 2 * 13_000;
/// Longest wait of a dial into nowhere, in microseconds.
const NOWHERE_US: u64 = 3_000_000;

/// The way of a bridge to its upstream, which outlives its processes.
pub struct Way {
    pub plan: BridgePlan,
    settings: Arc<BridgeSettings>,
    /// Nothing passes up, or down, before this time.
    blocked_until: [u64; 2],
    /// Who dials is refused before this time.
    refused_until: u64,
    /// The connection is lost with the acknowledgement after so many.
    acks_left: Option<u32>,
    /// It had other settings for a while.
    reloaded: bool,
    /// An operator wants it paused.
    paused: bool,
}

impl Way {
    pub fn new(plan: BridgePlan) -> Self {
        let settings = Arc::new(plan.settings.clone());
        Self {
            plan,
            settings,
            blocked_until: [0; 2],
            refused_until: 0,
            acks_left: None,
            reloaded: false,
            paused: false,
        }
    }
}

/// A machine and what is around it, gone with its process.
pub struct Running {
    machine: Bridge,
    /// Its session at its broker.
    local: Option<ConnId>,
    tap: SessionTap,
    dialing: Option<u64>,
    /// Its connection: number, link.
    link: Option<(u64, usize)>,
    /// Taken from the machine, and not by the link.
    unsent: Vec<u8>,
    timer_us: Option<u64>,
    looking: bool,
}

impl World<'_> {
    /// A process starts: so does its bridge, with what it kept.
    pub fn start_bridge(&mut self, h: usize) {
        let Some(way) = self.way.as_ref().filter(|way| way.plan.edge == h) else { return };
        let settings = Arc::clone(&way.settings);
        let seed = self.rng.u64(..);
        let now = self.host_now(h);
        let kept = self.hosts[h].broker.as_ref().and_then(|broker| broker.bridge_kept(&settings.name));
        let parts = Parts { name: "box".into(), edge: "box-7".into(), kept, seed, settings };
        self.hosts[h].bridge = Some(Running {
            machine: Bridge::new(now, parts),
            local: None,
            tap: SessionTap::new(ConnId(0)),
            dialing: None,
            link: None,
            unsent: Vec::new(),
            timer_us: None,
            looking: false,
        });
        self.bridge_later(h);
    }

    /// The process is gone, and its connection with it; `silent` if nobody is told.
    pub fn end_bridge(&mut self, h: usize, silent: bool) {
        let now = self.host_now(h);
        let Some(running) = self.hosts[h].bridge.take() else { return };
        self.ledger.across.refused += running.machine.status(now).dropped.values().sum::<u64>();
        if let Some((_, l)) = running.link {
            self.links[l].client_open = false;
            self.lose(l, silent);
        }
    }

    pub fn bridge_later(&mut self, h: usize) {
        let process = self.hosts[h].life.process;
        if let Some(running) = &mut self.hosts[h].bridge
            && !std::mem::replace(&mut running.looking, true)
        {
            let us = self.rng.u64(1..30);
            self.after(us, Ev::Bridge(h, process));
        }
    }

    fn machine(&mut self, h: usize) -> Option<&mut Bridge> {
        self.hosts[h].bridge.as_mut().map(|running| &mut running.machine)
    }

    pub fn bridge_look(&mut self, h: usize) {
        if let Some(running) = &mut self.hosts[h].bridge {
            running.looking = false;
        }
        for _ in 0..TURNS_MAX {
            if !self.bridge_turn(h) {
                self.arm_bridge(h);
                return;
            }
        }
        self.bridge_later(h);
    }

    /// Does what can be done now; whether anything was.
    fn bridge_turn(&mut self, h: usize) -> bool {
        let mut moved = false;
        while let Some(action) = self.machine(h).and_then(Bridge::poll_action) {
            self.bridge_acts(h, action);
            moved = true;
        }
        moved |= self.hear_local(h);
        moved |= self.tell_local(h);
        moved |= self.hear_upstream(h);
        moved |= self.tell_upstream(h);
        moved
    }

    fn arm_bridge(&mut self, h: usize) {
        let process = self.hosts[h].life.process;
        let mono = self.mono();
        let Some(running) = &mut self.hosts[h].bridge else { return };
        let Some(at) = running.machine.poll_timeout() else { return };
        let at_us = at.0.saturating_sub(mono.0).saturating_add(self.now_us);
        if at_us < u64::MAX / 2 && running.timer_us.is_none_or(|armed| armed > at_us || armed <= self.now_us) {
            running.timer_us = Some(at_us);
            self.at(at_us, Ev::BridgeTimer(h, process));
        }
    }

    pub fn bridge_timer(&mut self, h: usize) {
        let now = self.host_now(h);
        let Some(running) = &mut self.hosts[h].bridge else { return };
        if running.timer_us.is_some_and(|at| at <= self.now_us) {
            running.timer_us = None;
        }
        if running.machine.poll_timeout().is_some_and(|at| at <= now.mono) {
            running.machine.handle_timeout(now);
            self.trace.note("a bridge's timer", [h as u64, 0, 0]);
        }
        self.bridge_look(h);
    }

    fn bridge_acts(&mut self, h: usize, action: Action) {
        let now = self.host_now(h);
        let process = self.hosts[h].life.process;
        let Some(running) = &mut self.hosts[h].bridge else { return };
        match action {
            Action::Dial { number, url } => {
                running.dialing = Some(number);
                let us = self.rng.u64(200..80_000);
                self.trace.note("a bridge dials", [h as u64, number, url as u64]);
                self.after(us, Ev::Dialed(h, process, number));
            }
            Action::HangUp { number } => {
                running.dialing = None;
                if let Some((_, l)) = running.link.take_if(|(of, _)| *of == number) {
                    self.trace.note("a bridge hangs up", [h as u64, l as u64, number]);
                    // Its last words, as far as there is room for them.
                    let last = std::mem::take(&mut running.unsent);
                    self.links[l].up.write(&last);
                    self.links[l].up.ended = true;
                    self.links[l].client_open = false;
                    self.move_later(l, true);
                    self.look_later(l);
                }
            }
            Action::Credentials { number, .. } => {
                running.machine.handle_credentials(now, number, Err("there are none here".into()));
            }
            Action::OpenLocal => {
                self.hosts[h].next_conn += 1;
                let conn = ConnId(self.hosts[h].next_conn);
                let Some(running) = &mut self.hosts[h].bridge else { return };
                (running.local, running.tap) = (Some(conn), SessionTap::new(conn));
                let name = self.way.as_ref().map_or("", |way| &way.settings.name).into();
                self.tell(h, Event::Opened { conn, peer: Peer::Bridge { name, tenant: "".into() }, nonce: [9; 32] });
            }
            Action::CloseLocal => {
                if let Some(conn) = running.local.take() {
                    self.tell(h, Event::Closed { conn });
                }
            }
            Action::Tell { keep } => {
                let status = Box::new(running.machine.status(now));
                self.tell(h, Event::Bridge { status, keep });
            }
        }
    }

    // -- its session at its broker --

    fn hear_local(&mut self, h: usize) -> bool {
        let now = self.host_now(h);
        let host = &mut self.hosts[h];
        let (Some(running), Some(broker)) = (&mut host.bridge, &mut host.broker) else { return false };
        let Some(conn) = running.local.filter(|_| running.machine.wants_local()) else { return false };
        let mut out = Vec::new();
        let said = broker.poll_transmit(now, conn, &mut out, LOCAL_BYTES);
        let mut told = Vec::new();
        running.tap.broker_says(&out, &mut told);
        let cut = if self.rng.u8(..4) == 0 { self.rng.usize(..=out.len()) } else { out.len() };
        for piece in [&out[..cut], &out[cut..]] {
            if !piece.is_empty() {
                running.machine.handle_local(now, piece);
            }
        }
        let over = said == Transmit::Close || broker.is_over(conn);
        if over {
            running.local = None;
            running.machine.handle_local_closed(now);
        }
        self.judge(h, told);
        self.turn(h);
        if over {
            self.tell(h, Event::Closed { conn });
        }
        over || !out.is_empty()
    }

    fn tell_local(&mut self, h: usize) -> bool {
        let now = self.host_now(h);
        let host = &mut self.hosts[h];
        let (Some(running), Some(broker)) = (&mut host.bridge, &mut host.broker) else { return false };
        let Some(conn) = running.local.filter(|conn| broker.wants_read(*conn)) else { return false };
        let (mut out, mut told) = (Vec::new(), Vec::new());
        running.machine.poll_local(now, &mut out, LOCAL_BYTES);
        if out.is_empty() {
            return false;
        }
        running.tap.machine_says(&out, &mut told);
        self.judge(h, told);
        self.tell(h, Event::Received { conn, bytes: &out });
        true
    }

    /// Judges what was said in the session between a broker and its bridge.
    fn judge(&mut self, h: usize, told: Vec<Local>) {
        let Some(way) = &self.way else { return };
        let (hub, consumer) = (way.plan.hub, way.settings.consumer());
        let session = self.hosts[h].bridge.as_ref().map_or(0, |running| running.tap.session);
        if !told.is_empty() {
            self.active_us = self.now_us;
        }
        for told in told {
            match told {
                Local::Message(queue, seen) => {
                    self.trace.note("a bridge gets a message", [h as u64, u64::from(seen.uid), seen.seq]);
                    self.ledger.delivered(session, &(h, queue, consumer.clone()), &seen);
                }
                Local::Done(queue, uid) => {
                    self.trace.note("a bridge is done with one", [h as u64, u64::from(uid), 0]);
                    let life = self.hosts[hub].life;
                    self.ledger.forwarded(&(h, queue, consumer.clone()), uid, life, &self.hosts[hub].durable);
                }
                Local::GivenUp(uid, reason) => {
                    self.trace.note("a bridge gives one up", [h as u64, u64::from(uid), 0]);
                    self.ledger.given_up(uid, &reason);
                }
            }
        }
        let Some(running) = &mut self.hosts[h].bridge else { return };
        let (messages, bytes) = running.tap.held();
        let (settings, before) = (&way.settings, running.tap.window);
        running.tap.window = (settings.window_messages.max(before.0), settings.window_bytes.max(before.1));
        let queues = way.plan.settings.up.len() as u64;
        let (most, most_bytes) = running.tap.window;
        // One for what moves, where a queue that begins has its part beside one that had it all; and one for each lane
        // that stands still.
        let windows = 2 + running.tap.stopped();
        if messages > windows * u64::from(most) + queues || bytes > windows * u64::from(most_bytes) + SLACK_BYTES {
            let detail = format!("{messages} messages and {bytes} bytes of {windows} times {most} and {most_bytes}");
            self.ledger.fail("a bridge holds no more than its windows", detail);
        }
    }

    // -- the upstream --

    pub fn dialed(&mut self, h: usize, number: u64) {
        let now = self.host_now(h);
        let Some(way) = &self.way else { return };
        let (hub, blocked) = (way.plan.hub, way.blocked_until.iter().any(|until| *until > self.now_us));
        let refused = way.refused_until > self.now_us;
        let process = self.hosts[h].life.process;
        let (up, down) = way.pipes();
        let Some(running) = self.hosts[h].bridge.as_mut().filter(|r| r.dialing == Some(number)) else { return };
        running.dialing = None;
        let failed = |reason: Reason| Err(Failure { reason, detail: "as told".into() });
        if blocked {
            let until = self.way.as_ref().map_or(0, |way| way.blocked_until.into_iter().max().unwrap_or(0));
            if until > self.now_us + NOWHERE_US {
                running.machine.handle_dialed(now, number, failed(Reason::Timeout));
            } else {
                // It is sent again until it comes through.
                running.dialing = Some(number);
                self.at(until + 1, Ev::Dialed(h, process, number));
            }
        } else if refused {
            let reasons = [Reason::Dns, Reason::Refused, Reason::Timeout, Reason::Unreachable, Reason::Tls];
            let reason = reasons[self.rng.usize(..reasons.len())];
            running.machine.handle_dialed(now, number, failed(reason));
        } else if let Some(l) = self.join(End::Bridge(h), hub, up, down) {
            self.trace.note("a bridge connects", [h as u64, l as u64, number]);
            if let Some(running) = &mut self.hosts[h].bridge {
                (running.link, running.unsent) = (Some((number, l)), Vec::new());
                running.machine.handle_dialed(now, number, Ok(()));
            }
        } else if let Some(machine) = self.machine(h) {
            machine.handle_dialed(now, number, failed(Reason::Refused));
        }
        self.bridge_look(h);
    }

    /// The bridge learns that its connection is gone.
    pub fn bridge_lost(&mut self, h: usize, l: usize) {
        let now = self.host_now(h);
        self.links[l].client_open = false;
        let Some(running) = &mut self.hosts[h].bridge else { return };
        if let Some((number, _)) = running.link.take_if(|(_, of)| *of == l) {
            self.trace.note("a bridge loses its connection", [h as u64, l as u64, number]);
            let failure = Failure { reason: Reason::Closed, detail: "as told".into() };
            running.machine.handle_hung_up(now, number, failure);
            self.bridge_look(h);
        }
    }

    fn hear_upstream(&mut self, h: usize) -> bool {
        let now = self.host_now(h);
        let Some(running) = &mut self.hosts[h].bridge else { return false };
        let Some((number, l)) = running.link.filter(|_| running.machine.wants_upstream()) else { return false };
        let most = self.rng.usize(1..=8_192);
        let bytes = self.links[l].down.read(most);
        if !bytes.is_empty() {
            running.machine.handle_upstream(now, number, &bytes);
            self.look_later(l);
            return true;
        }
        let down = &self.links[l].down;
        if let Some(until) = down.end_comes(self.now_us) {
            self.links[l].waking = true;
            self.at(until, Ev::Wake(l));
        } else if down.ended && down.way.is_empty() {
            self.bridge_lost(h, l);
            return true;
        }
        false
    }

    fn tell_upstream(&mut self, h: usize) -> bool {
        let now = self.host_now(h);
        let ignored = self.way.as_ref().is_some_and(|way| way.plan.positions_ignored);
        let Some(running) = &mut self.hosts[h].bridge else { return false };
        let Some((number, l)) = running.link else { return false };
        if running.unsent.is_empty() {
            running.machine.poll_upstream(now, &mut running.unsent, UPSTREAM_BYTES);
            if ignored {
                running.unsent = without_positions(&running.unsent);
            }
        }
        let took = self.links[l].up.write(&running.unsent);
        if took == 0 {
            return false;
        }
        running.unsent.drain(..took);
        running.machine.handle_sent(now, number, took);
        self.move_later(l, true);
        true
    }

    // -- what happens to it --

    /// The hub acknowledges something to the bridge; whether the connection is to be lost with it.
    pub fn acknowledges(&mut self) -> bool {
        let Some(left) = self.way.as_mut().and_then(|way| way.acks_left.as_mut()) else { return false };
        if *left > 0 {
            *left -= 1;
            return false;
        }
        self.way.iter_mut().for_each(|way| way.acks_left = None);
        true
    }

    pub fn way_fault(&mut self, fault: WayFault) {
        let Some(way) = &mut self.way else { return };
        let (edge, now_us) = (way.plan.edge, self.now_us);
        let link = self.hosts[edge].bridge.as_ref().and_then(|running| running.link).map(|(_, l)| l);
        match fault {
            WayFault::Block { up, down, us } => {
                for (on, until) in [up, down].into_iter().zip(&mut way.blocked_until) {
                    *until = if on { now_us + us } else { *until };
                }
                if let Some(l) = link {
                    let [up, down] = way.blocked_until;
                    (self.links[l].up.blocked_until, self.links[l].down.blocked_until) = (up, down);
                }
            }
            WayFault::Lose { up, bytes } => {
                if let Some(l) = link {
                    let pipe = if up { &mut self.links[l].up } else { &mut self.links[l].down };
                    pipe.lost_after = Some(bytes.max(1));
                }
            }
            WayFault::LoseAck { n } => way.acks_left = Some(n),
            WayFault::Silence => {
                if let Some(l) = link {
                    self.links[l].silent = true;
                }
            }
            WayFault::Refuse { us } => way.refused_until = now_us + us,
            WayFault::Pause { us } => {
                self.pause_bridge(edge, true);
                self.after(us, Ev::Restore(edge, true));
            }
            WayFault::Reload { us } => {
                self.reload(edge, true);
                self.after(us, Ev::Restore(edge, false));
            }
        }
    }

    pub fn restore(&mut self, h: usize, pause: bool) {
        if pause {
            self.pause_bridge(h, false);
        } else {
            self.reload(h, false);
        }
    }

    pub fn pause_bridge(&mut self, h: usize, pause: bool) {
        let now = self.host_now(h);
        if let Some(way) = &mut self.way {
            way.paused = pause;
        }
        if let Some(machine) = self.machine(h) {
            machine.handle_pause(now, pause);
            self.bridge_look(h);
        }
    }

    fn reload(&mut self, h: usize, other: bool) {
        let now = self.host_now(h);
        let Some(way) = &mut self.way else { return };
        let settings = Arc::new(if other { way.plan.other.clone() } else { way.plan.settings.clone() });
        way.settings = Arc::clone(&settings);
        way.reloaded |= other;
        if let Some(machine) = self.machine(h) {
            machine.handle_settings(now, settings);
            self.bridge_look(h);
        }
    }

    /// From now on nothing is in its way.
    pub fn heal_way(&mut self) {
        let Some(way) = &mut self.way else { return };
        let edge = way.plan.edge;
        (way.blocked_until, way.refused_until, way.acks_left) = ([0; 2], 0, None);
        for l in 0..self.links.len() {
            if self.links[l].end == End::Bridge(edge) {
                (self.links[l].up.blocked_until, self.links[l].down.blocked_until) = (0, 0);
            }
        }
        self.reload(edge, false);
        self.pause_bridge(edge, false);
    }

    /// Messages that bridges said they would not forward, in all processes so far.
    pub fn refused(&mut self) -> u64 {
        let mut sum = self.ledger.across.refused;
        for h in 0..self.hosts.len() {
            let now = self.host_now(h);
            if let Some(running) = &self.hosts[h].bridge {
                sum += running.machine.status(now).dropped.values().sum::<u64>();
            }
        }
        sum
    }
}

impl Way {
    /// The name of its consumers, and the deliveries that they may have above a window that became smaller.
    pub fn left_over(&self) -> (String, u64) {
        let windows = u64::from(self.plan.other.window_messages) * (PRIORITIES as u64 + 1);
        (self.settings.consumer(), if self.reloaded { windows } else { 0 })
    }

    fn pipes(&self) -> (Pipe, Pipe) {
        let pipe = |blocked_until| Pipe {
            capacity: self.plan.capacity,
            delay_us: self.plan.delay_us,
            rate: self.plan.rate,
            blocked_until,
            ..Pipe::default()
        };
        (pipe(self.blocked_until[0]), pipe(self.blocked_until[1]))
    }
}

/// The same frames, as from a bridge that says neither that it is one nor where its messages come from: the upstream cannot know
/// what it has already.
fn without_positions(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while let Decoded::Frame(frame, len) = wire::decode(&bytes[at..], u32::MAX).expect("a machine sends frames") {
        let first = frame.header.flags & FLAG_CONT == 0;
        match frame.header.kind {
            FrameType::Hello => bare::<Hello<'_>>(&frame, &mut out),
            FrameType::Publish if first => bare::<Publish>(&frame, &mut out),
            FrameType::Batch => bare::<Batch>(&frame, &mut out),
            _ => out.extend_from_slice(&bytes[at..at + len]),
        }
        at += len;
    }
    assert_eq!(at, bytes.len(), "a machine gives whole frames");
    out
}

fn bare<'a, H: Head<'a> + serde::Serialize>(frame: &Frame<'a>, out: &mut Vec<u8>) {
    let (head, extensions) = frame.head_with_extensions::<H>().expect("a head");
    let kept: Vec<Extension<'_>> =
        extensions.iter().filter(|e| e.tag != EXTENSION_BRIDGE && e.tag != EXTENSION_SOURCE).collect();
    let start = out.len();
    let head = Extended { head, extensions: &kept };
    wire::append(out, frame.header.kind, frame.header.flags, frame.header.stream, Some(&head), &[frame.payload]);
    wire::seal(&mut out[start..], frame.header.sequence);
}
