//! Clients: the real core, and programs that publish, consume and subscribe with it.

use crate::ledger::{ReaderKey, full_name};
use crate::net::End;
use crate::plan::{ClientPlan, ConsumerPlan, Message, RolePlan};
use crate::tap::{Assembler, Seen};
use crate::world::{Ev, Verdict, World};
use std::collections::BTreeMap;
use tidegate::client::{Core, CoreError, Event, PUBLISH_STREAM};
use tidegate::model::{Channel, Priority, Record};
use tidegate::wire::{Code, Consume, FrameType, Nack, Since, Start, Subscribe, append_filter, item_flag};

/// The stream of a consumer or a subscription.
const STREAM: u32 = 2;
/// What a message of any size needs of credit.
const CREDIT_BYTES: u32 = 20_000;

type SimCore = Core<16_384, 40_960>;

pub struct Client {
    pub plan: ClientPlan,
    core: Box<SimCore>,
    pub link: Option<usize>,
    open: bool,
    assembler: Assembler,
    timer_us: Option<u64>,
    failures: u32,
    role: Role,
}

enum Role {
    Publisher(Publisher),
    Consumer(Worker),
    Subscriber(Subscriber),
}

struct Publisher {
    uids: Vec<u32>,
    /// So many of them it has by now.
    ready: usize,
    /// The next to be sent on this connection.
    cursor: usize,
    /// No earlier than this it goes on after a refusal.
    wait_us: u64,
}

struct Worker {
    plan: ConsumerPlan,
    key: ReaderKey,
    /// Deliveries of this connection without an answer.
    held: BTreeMap<u64, u32>,
}

#[derive(Default)]
struct Subscriber {
    filter: String,
    history: bool,
    retained: bool,
    slow: bool,
    /// Epoch and offset of the last message.
    last: Option<(u64, u64)>,
    /// The next message continues there.
    exact: bool,
    paused_until: u64,
}

/// What an event says, without its borrow of the core.
enum Got {
    Welcome,
    Done(u64, u64, bool),
    Refused(u32, Code),
    Ack(u64, u32),
    Nack(u64, u32, Option<Code>, u32),
    Messages(Vec<Seen>),
    Dropped,
    Close,
    Nothing,
}

impl Client {
    pub fn new(plan: &ClientPlan, index: usize, messages: &[Message]) -> Self {
        let role = match &plan.role {
            RolePlan::Publisher => {
                let mine = messages.iter().enumerate().filter(|(_, m)| m.publisher == index).map(|(uid, _)| uid as u32);
                Role::Publisher(Publisher { uids: mine.collect(), ready: 0, cursor: 0, wait_us: 0 })
            }
            RolePlan::Consumer(c) => Role::Consumer(Worker {
                plan: c.clone(),
                key: (plan.host, full_name(&plan.tenant, &c.queue), c.name.clone()),
                held: BTreeMap::new(),
            }),
            RolePlan::Subscriber { filter, history, retained, slow } => Role::Subscriber(Subscriber {
                filter: filter.clone(),
                history: *history,
                retained: *retained,
                slow: *slow,
                ..Subscriber::default()
            }),
        };
        Self {
            plan: plan.clone(),
            core: Box::new(Core::new()),
            link: None,
            open: false,
            assembler: Assembler::default(),
            timer_us: None,
            failures: 0,
            role,
        }
    }
}

impl World<'_> {
    fn ms(&self) -> u64 {
        self.now_us / 1_000
    }

    pub fn connect(&mut self, c: usize) {
        if self.clients[c].link.is_some() {
            return;
        }
        let Some(l) = self.dial(c) else {
            self.connect_later(c);
            return;
        };
        self.trace.note("a client connects", [c as u64, l as u64, 0]);
        self.active_us = self.now_us;
        let now = self.ms();
        let client = &mut self.clients[c];
        client.link = Some(l);
        client.open = false;
        client.assembler = Assembler::default();
        client.core.connect(now, "sim", client.plan.heartbeat_ms).expect("an empty buffer takes the hello");
        match &mut client.role {
            Role::Publisher(p) => (p.cursor, p.wait_us) = (0, 0),
            Role::Consumer(w) => w.held.clear(),
            Role::Subscriber(_) => {}
        }
        self.flush(c);
    }

    fn connect_later(&mut self, c: usize) {
        let client = &mut self.clients[c];
        client.failures = (client.failures + 1).min(6);
        let most = 10_000 << client.failures;
        let us = self.rng.u64(1_000..most);
        self.after(us, Ev::Connect(c));
    }

    /// The client gives its connection up.
    fn hang_up(&mut self, c: usize) {
        let Some(l) = self.clients[c].link.take() else { return };
        self.trace.note("a client hangs up", [c as u64, l as u64, 0]);
        self.links[l].client_open = false;
        self.links[l].up.ended = true;
        self.look_later(l);
        self.connect_later(c);
    }

    /// It ends its connection in order.
    pub fn leave(&mut self, c: usize) {
        if self.clients[c].link.is_some() {
            let _ = self.clients[c].core.close();
            self.flush(c);
            self.hang_up(c);
        }
    }

    pub fn client_lost(&mut self, l: usize) {
        let c = match self.links[l].end {
            End::Client(c) => c,
            End::Bridge(h) => return self.bridge_lost(h, l),
        };
        if std::mem::take(&mut self.links[l].client_open) && self.clients[c].link == Some(l) {
            self.clients[c].link = None;
            self.connect_later(c);
        }
    }

    /// Sends what the core has, and sees to its timer.
    fn flush(&mut self, c: usize) {
        let now = self.ms();
        let Some(l) = self.clients[c].link else { return };
        let (client, link) = (&mut self.clients[c], &mut self.links[l]);
        let took = link.up.write(client.core.poll_transmit());
        client.core.transmitted(now, took);
        if took > 0 {
            self.move_later(l, true);
        }
        let mut at = self.clients[c].core.poll_timeout().saturating_mul(1_000);
        if let Role::Publisher(p) = &self.clients[c].role
            && p.wait_us > self.now_us
        {
            at = at.min(p.wait_us);
        }
        let at = at.max(self.now_us + 1_000);
        if at < u64::MAX / 2 && self.clients[c].timer_us.is_none_or(|armed| armed > at || armed <= self.now_us) {
            self.clients[c].timer_us = Some(at);
            self.at(at, Ev::ClientTimer(c, at));
        }
    }

    pub fn client_timer(&mut self, c: usize, at: u64) {
        if self.clients[c].timer_us != Some(at) {
            return;
        }
        self.clients[c].timer_us = None;
        self.trace.note("a client's timer", [c as u64, 0, 0]);
        if self.clients[c].link.is_none() {
            return;
        }
        let now = self.ms();
        if self.clients[c].core.handle_timeout(now).is_err() {
            self.hang_up(c);
            return;
        }
        self.publish(c);
        self.flush(c);
    }

    /// The client's end of a link is looked at.
    pub fn wake(&mut self, l: usize) {
        self.links[l].waking = false;
        let c = match self.links[l].end {
            End::Client(c) => c,
            End::Bridge(h) => return self.bridge_look(h),
        };
        if self.clients[c].link != Some(l) || !self.links[l].client_open {
            return;
        }
        if let Role::Subscriber(s) = &mut self.clients[c].role
            && s.slow
            && !self.healed
        {
            if s.paused_until > self.now_us {
                return;
            }
            // It reads a little now and nothing for a while.
            s.paused_until = self.now_us + 60_000;
            self.links[l].waking = true;
            self.after(60_000, Ev::Wake(l));
        }
        let now = self.ms();
        for _ in 0..64 {
            let bytes = self.links[l].down.read(4_096);
            if bytes.is_empty() {
                break;
            }
            self.look_later(l);
            let mut at = 0;
            while at < bytes.len() {
                at += self.clients[c].core.receive(now, &bytes[at..]);
                if !self.take_events(c, l) {
                    return;
                }
            }
        }
        if self.links[l].down.arrived.is_empty() && self.links[l].down.ended && self.links[l].down.way.is_empty() {
            self.hang_up(c);
            return;
        }
        self.publish(c);
        self.flush(c);
    }

    /// False when the connection is over.
    fn take_events(&mut self, c: usize, l: usize) -> bool {
        loop {
            let client = &mut self.clients[c];
            let got = match client.core.poll_event() {
                Ok(Some(event)) => read_event(&mut client.assembler, event),
                Ok(None) => return true,
                Err(error) => {
                    self.ledger.fail("the broker speaks the protocol", format!("client {c}: {error}"));
                    return false;
                }
            };
            self.handle_got(c, l, got);
            if self.clients[c].link != Some(l) {
                return false;
            }
        }
    }

    fn handle_got(&mut self, c: usize, l: usize, got: Got) {
        match got {
            Got::Welcome => {
                (self.clients[c].open, self.clients[c].failures) = (true, 0);
                self.begin(c);
            }
            Got::Ack(first, count) => self.answered(c, l, first, count, None, 0),
            Got::Nack(first, count, code, retry) => self.answered(c, l, first, count, Some(code), retry),
            Got::Messages(all) => all.into_iter().for_each(|seen| self.message(c, l, seen)),
            Got::Done(epoch, value, complete) => self.begun(c, epoch, value, complete),
            Got::Dropped => {
                if let Role::Subscriber(s) = &mut self.clients[c].role {
                    s.exact = false;
                }
            }
            Got::Refused(0, _) | Got::Close => self.hang_up(c),
            Got::Refused(_, Code::NoHistory) => {
                if let Role::Subscriber(s) = &mut self.clients[c].role {
                    s.history = false;
                }
                self.begin(c);
            }
            // Of the store, or of a consumer that another has the place of: tried again.
            Got::Refused(..) => self.hang_up(c),
            Got::Nothing => {}
        }
    }

    /// The session is open: what this client is there for.
    fn begin(&mut self, c: usize) {
        let client = &mut self.clients[c];
        let done = match &mut client.role {
            Role::Publisher(_) => Ok(()),
            Role::Consumer(w) => {
                let mut filters = Vec::new();
                w.plan.filters.iter().for_each(|f| append_filter(&mut filters, f));
                let head = Consume {
                    queue: &w.plan.queue,
                    name: &w.plan.name,
                    start: Start::First,
                    window: w.plan.window,
                    attempts_max: w.plan.attempts_max,
                    ack_timeout_ms: w.plan.ack_timeout_ms,
                    backoff_ms: 0,
                    filters: w.plan.filters.len() as u32,
                    credit_messages: w.plan.credit,
                    credit_bytes: w.plan.credit * CREDIT_BYTES,
                };
                client.core.consume(STREAM, &head, &filters)
            }
            Role::Subscriber(s) => {
                let since = match (s.history, s.last) {
                    (true, Some((epoch, offset))) => Since::Offset { epoch, offset },
                    (true, None) => Since::Last(3),
                    (false, _) => Since::Now,
                };
                let head = Subscribe {
                    filter: &s.filter,
                    retained: s.retained,
                    since,
                    respond: false,
                    disconnect_when_slow: false,
                };
                client.core.subscribe(STREAM, &head)
            }
        };
        done.expect("a fresh session takes one request");
        self.publish(c);
        self.flush(c);
    }

    /// The consumer or the subscription is open.
    fn begun(&mut self, c: usize, epoch: u64, value: u64, complete: bool) {
        match &mut self.clients[c].role {
            Role::Consumer(w) => {
                let (key, filters) = (w.key.clone(), w.plan.filters.clone());
                self.ledger.reader(&key, &filters);
                self.ledger.opened(&key, self.hosts[key.0].life.process, self.now_us);
            }
            Role::Subscriber(s) if s.history => {
                // Told that nothing is missing, it holds the broker to it.
                s.exact = complete && s.last.is_some_and(|(of, _)| of == epoch);
                if let (true, Some((of, last))) = (complete, s.last)
                    && (of != epoch || last > value)
                {
                    let detail = format!("{last} of {of} was seen, {value} of {epoch} is the newest");
                    self.ledger.fail("recovered means complete", detail);
                }
            }
            _ => {}
        }
    }

    // -- publishing --

    pub fn ready(&mut self, c: usize) {
        if let Role::Publisher(p) = &mut self.clients[c].role {
            p.ready = (p.ready + 1).min(p.uids.len());
        }
        self.publish(c);
        self.flush(c);
    }

    fn publish(&mut self, c: usize) {
        // The core's buffer holds a few messages, the pipe perhaps more.
        while self.publish_some(c) && self.clients[c].link.is_some_and(|l| self.links[l].up.room() > 0) {
            self.flush(c);
        }
    }

    /// True when the core's buffer is full.
    fn publish_some(&mut self, c: usize) -> bool {
        let client = &mut self.clients[c];
        let (Role::Publisher(p), Some(l), true) = (&mut client.role, client.link, client.open) else { return false };
        while p.cursor < p.ready {
            let uid = p.uids[p.cursor];
            if self.ledger.fates[uid as usize].settled {
                p.cursor += 1;
                continue;
            }
            let m = &self.ledger.messages[uid as usize];
            let payload = crate::ledger::payload(uid, m.size);
            let record = Record {
                id: m.id,
                priority: Priority::new(m.priority).expect("a priority"),
                ttl_ms: m.ttl_ms,
                delay_ms: m.delay_ms,
                retain: m.retain,
                ..Record::new(Channel::parse(&m.channel).expect("a channel"), &payload)
            };
            match client.core.publish(m.contract, &record) {
                Ok(number) => {
                    self.links[l].numbers.insert(number, uid);
                    let fate = &mut self.ledger.fates[uid as usize];
                    if fate.sends == 0 {
                        fate.sent_us = self.now_us;
                    }
                    fate.sends += 1;
                    p.cursor += 1;
                    self.trace.note("a publish", [c as u64, number, u64::from(uid)]);
                }
                Err(CoreError::Fenced(number)) => {
                    if p.wait_us > self.now_us || client.core.resume().is_err() {
                        return false;
                    }
                    let uid = self.links[l].numbers[&number];
                    p.cursor = p.uids.iter().position(|u| *u == uid).expect("a message of its own");
                }
                Err(CoreError::Full) => return true,
                Err(_) => return false,
            }
        }
        false
    }

    fn answered(&mut self, c: usize, l: usize, first: u64, count: u32, refused: Option<Option<Code>>, retry_ms: u32) {
        let Role::Publisher(p) = &mut self.clients[c].role else { return };
        for number in first..first + u64::from(count) {
            let Some(&uid) = self.links[l].numbers.get(&number) else {
                self.ledger.fail("an answer is to a publish", format!("client {c}, number {number}"));
                return;
            };
            match refused {
                Some(Some(code)) if code.is_retryable() => {
                    // From here on again, even when nothing new comes.
                    let at = p.uids.iter().position(|u| *u == uid).expect("a message of its own");
                    p.cursor = p.cursor.min(at);
                    if code != Code::Fenced {
                        p.wait_us = self.now_us + u64::from(retry_ms.clamp(5, 200)) * 1_000;
                    }
                }
                _ => self.ledger.fates[uid as usize].settled = true,
            }
            let code = refused.map_or(0, |code| code.map_or(1, |c| c as u64));
            self.trace.note("an answer", [c as u64, u64::from(uid), code]);
        }
    }

    // -- hearing --

    fn message(&mut self, c: usize, l: usize, seen: Seen) {
        self.trace.note("a message", [c as u64, u64::from(seen.uid), seen.seq]);
        let host = self.clients[c].plan.host;
        match &mut self.clients[c].role {
            Role::Consumer(w) => {
                w.held.insert(seen.tag, seen.uid);
                let key = w.key.clone();
                let plan = &w.plan;
                let roll = self.rng.u32(..100);
                let verdict = if self.healed || roll >= plan.nack + plan.give_up + plan.ignore {
                    Some(Verdict::Ack)
                } else if roll < plan.nack {
                    Some(Verdict::Nack(if roll.is_multiple_of(2) { 0 } else { 1 + roll * 5 }))
                } else {
                    (roll < plan.nack + plan.give_up).then_some(Verdict::GiveUp)
                };
                let us = if self.healed { 0 } else { self.rng.u64(..=plan.work_us) };
                let (tag, uid) = (seen.tag, seen.uid);
                self.ledger.delivered(l, &key, &seen);
                if let Some(verdict) = verdict {
                    self.after(us, Ev::Settle(c, l, tag, uid, verdict));
                }
            }
            Role::Subscriber(s) => {
                let filter = s.filter.clone();
                if seen.flags & item_flag::HAS_OFFSET != 0 && seen.flags & item_flag::RETAINED == 0 && s.history {
                    if let (true, Some((epoch, offset))) = (s.exact, s.last)
                        && (epoch, offset + 1) != (seen.epoch, seen.offset)
                        && !self.ledger.messages.iter().any(|m| m.ttl_ms > 0)
                    {
                        let detail = format!(
                            "{filter:?}: {offset} of {epoch} was followed by {} of {}",
                            seen.offset, seen.epoch
                        );
                        self.ledger.fail("recovered means complete", detail);
                    }
                    (s.last, s.exact) = (Some((seen.epoch, seen.offset)), true);
                }
                let tenant = &self.clients[c].plan.tenant;
                self.ledger.heard(l, host, tenant, &filter, &seen);
            }
            Role::Publisher(_) => self.ledger.fail("a publisher is sent no messages", format!("client {c}")),
        }
    }

    pub fn settle(&mut self, c: usize, l: usize, tag: u64, uid: u32, verdict: Verdict) {
        let client = &mut self.clients[c];
        let Role::Consumer(w) = &mut client.role else { return };
        if client.link != Some(l) || w.held.get(&tag) != Some(&uid) {
            return;
        }
        let nack = |delay_ms, give_up| Nack { first: tag, count: 1, delay_ms, give_up, reason: "" };
        let told = match verdict {
            Verdict::Ack => client.core.ack(STREAM, tag, 1),
            Verdict::Nack(delay) => client.core.nack(STREAM, &nack(delay, false)),
            Verdict::GiveUp => client.core.nack(STREAM, &nack(0, true)),
        };
        if told.is_err() || client.core.credit(STREAM, 1, CREDIT_BYTES).is_err() {
            // The buffer is full: a little later.
            self.after(5_000, Ev::Settle(c, l, tag, uid, verdict));
            self.flush(c);
            return;
        }
        w.held.remove(&tag);
        if verdict == Verdict::Ack {
            let key = w.key.clone();
            self.ledger.done(&key, uid);
        }
        self.active_us = self.now_us;
        self.trace.note("a delivery is answered", [c as u64, u64::from(uid), tag]);
        self.flush(c);
    }

    /// From now on it answers all it has.
    pub fn settle_held(&mut self, c: usize) {
        let Some(l) = self.clients[c].link else { return };
        if let Role::Consumer(w) = &self.clients[c].role {
            for (tag, uid) in w.held.clone() {
                self.after(1, Ev::Settle(c, l, tag, uid, Verdict::Ack));
            }
        }
        self.wake_later(l);
    }
}

fn read_event(assembler: &mut Assembler, event: Event<'_>) -> Got {
    match event {
        Event::Welcome(_) => Got::Welcome,
        Event::Done { done, .. } => Got::Done(done.epoch, done.value, done.complete),
        Event::Error { stream, error } => Got::Refused(stream, Code::from_u16(error.code).unwrap_or(Code::Internal)),
        Event::PublishAck { stream: PUBLISH_STREAM, ack } => Got::Ack(ack.first, ack.count),
        Event::PublishNack { stream: PUBLISH_STREAM, nack } => {
            Got::Nack(nack.first, nack.count, Code::from_u16(nack.code), nack.retry_after_ms)
        }
        Event::Deliver { head, payload, more, .. } => Got::Messages(assembler.frame(Some(head), payload, more)),
        Event::Chunk { kind: FrameType::Deliver, payload, more, .. } => {
            Got::Messages(assembler.frame(None, payload, more))
        }
        Event::Dropped { .. } => Got::Dropped,
        Event::Close(_) | Event::Goaway(_) => Got::Close,
        _ => Got::Nothing,
    }
}
