//! What is brought from the upstream: consumed or heard there, stored here first, and only then acknowledged there.
//!
//! A route has a consumer or a subscription at the upstream and a publish stream here for each of its lanes ([`Up`], the other
//! way round). Nothing is held beyond a route's share of the window: a consumer gets credit for what was settled here and no
//! more, a subscription is held or ended until there is room. So a full queue here keeps the upstream's queue as it is.
//!
//! A consumer's messages are published with the place they have in the upstream's queue, and this broker knows up to which
//! place it has them. What comes again after a cut is answered `duplicate` and acknowledged. When the connection is gone, what
//! was taken is stored all the same, for nobody: the upstream gives it again, and learns that it is here.
//!
//! A subscription has no such places. Of a channel with history it goes on behind the last message that was taken; of others
//! what was published while it was away is gone, as for any subscriber.

mod route;

use self::route::{Kind, Room, Route, State};
use super::loops::{Onward, Refusal, consumer_name, upstream_name};
use super::mapping::{Mapper, Names};
use super::pace::{Caps, Pace};
use super::side::Stop;
use super::up::{Bounds, GivenUp, Up, push_ack};
use super::window::WindowMax;
use super::{Failure, Reason};
use crate::client::{Event, Link, Terms};
use crate::config::{BridgeSettings, DownRoute, MappingText};
use crate::model::limits::{DETAIL_BYTES_MAX, PRIORITIES};
use crate::model::{Filter, Mono, Record};
use crate::wire::{
    Ack, Code, Consume, Contract, Credit, Deliver, DeliverItem, DeliverItems, FrameType, Head, Nack, Outcome, Pause,
    Resume, Start, Subscribe, Unsubscribe, append, append_filter, item_flag,
};
use std::collections::BTreeMap;

/// First stream of the routes, in both sessions: below it are those of what goes up.
const STREAMS: u32 = 1 << 30;
/// Attempts of a delivery: what has no room here is not the message's failure.
const ATTEMPTS_MAX: u32 = u32::MAX;
/// Shares of its part of the window that a subscription may hold: what was under way when it was paused still comes.
const SHARES_MAX: u32 = 2;

/// All routes down.
pub(super) struct Down {
    name: String,
    edge: String,
    bridge: String,
    consumer: String,
    origin: String,
    routes: Vec<Route>,
    landing: Up,
    /// There is none here: what comes in order is as much as may come.
    pace: Pace,
    /// Whether the upstream's session is open.
    open: bool,
    local: Option<Terms>,
    next_streams: (u32, u32),
    /// Unsealed frames for the upstream.
    out: Vec<u8>,
    properties: Vec<u8>,
    record: Vec<u8>,
    channel: String,
    rng: fastrand::Rng,
    /// Messages that were brought.
    pub(super) brought: u64,
    /// Messages that were not, by reason.
    pub(super) dropped: BTreeMap<String, u64>,
    /// Why a route is not open, until it is told.
    pub(super) problem: Option<Failure>,
}

/// What becomes of a message that came.
enum Fate {
    /// It is `Down::record`, to be published here.
    Lands,
    /// It belongs to nobody here and is done with, counted under this name where it has one.
    Passed(Option<&'static str>),
    /// It cannot be taken, ever.
    Refused(Code, String),
}

impl Down {
    /// The routes of these settings, of a broker of this configured name and this unique one.
    pub(super) fn new(now: Mono, settings: &BridgeSettings, name: &str, edge: &str, seed: u64) -> Self {
        let mut down = Self {
            name: name.into(),
            edge: edge.into(),
            bridge: String::new(),
            consumer: String::new(),
            origin: String::new(),
            routes: Vec::new(),
            landing: Up::new(seed),
            pace: Pace::new(now, Caps::default()),
            open: false,
            local: None,
            next_streams: (STREAMS, STREAMS),
            out: Vec::new(),
            properties: Vec::new(),
            record: Vec::new(),
            channel: String::new(),
            rng: fastrand::Rng::with_seed(!seed),
            brought: 0,
            dropped: BTreeMap::new(),
            problem: None,
        };
        down.set_routes(settings);
        down
    }

    /// Other routes, while no upstream is open.
    pub(super) fn set_routes(&mut self, settings: &BridgeSettings) {
        self.bridge.clone_from(&settings.name);
        self.consumer = consumer_name(&self.edge, &self.bridge);
        self.origin = upstream_name(&self.edge, &self.bridge);
        self.landing.disown(None);
        self.routes.clear();
        let mut queues: Vec<(String, Vec<MappingText>)> = Vec::new();
        let mut earlier = Vec::new();
        for route in settings.down_routes() {
            match route {
                // One consumer a queue: two would each pass over what is the other's.
                DownRoute::Consume(queue, mapping) => match queues.iter_mut().find(|(known, _)| *known == queue) {
                    Some((_, mappings)) => mappings.push(mapping),
                    None => queues.push((queue, vec![mapping])),
                },
                DownRoute::Subscribe(mapping) => {
                    let Some(mapper) = self.mapper([mapping]) else { continue };
                    let filter = mapper.filters().next().map_or_else(String::new, |filter| filter.as_str().into());
                    self.routes.push(Route::new(Route::subscription(&filter, earlier.clone()), mapper));
                    earlier.push(filter);
                }
            }
        }
        for (queue, mappings) in queues {
            if let Some(mapper) = self.mapper(mappings) {
                self.routes.push(Route::new(Kind::Consume(queue), mapper));
            }
        }
    }

    fn mapper(&mut self, mappings: impl IntoIterator<Item = MappingText>) -> Option<Mapper> {
        let names = Names { name: &self.name, bridge: &self.bridge };
        match Mapper::new(mappings, names) {
            Ok(mapper) => Some(mapper),
            Err(error) => {
                self.problem = Some(Failure { reason: Reason::Protocol, detail: format!("a route down: {error}") });
                None
            }
        }
    }

    // -- sessions --

    /// The session at the upstream is open; that here is, too.
    pub(super) fn upstream_opened(&mut self) {
        self.open = true;
        self.next_streams.1 = STREAMS;
    }

    /// It is gone.
    pub(super) fn upstream_closed(&mut self) {
        self.open = false;
        self.out.clear();
        // Numbers of a subscription's messages are its own and go on; a consumer's tags are of the connection.
        for at in 0..self.routes.len() {
            self.routes[at].closed();
            if matches!(self.routes[at].kind, Kind::Consume(_)) {
                self.landing.disown(Some(at));
            }
        }
        self.settle();
    }

    /// The session here is open.
    pub(super) fn local_opened(&mut self, terms: &Terms) {
        self.local = Some(*terms);
        self.next_streams.0 = STREAMS;
        self.landing.open(WindowMax { messages: terms.window_messages, bytes: terms.window_bytes });
    }

    /// It is gone, and with it what was not stored; the upstream's session ends, too.
    pub(super) fn local_closed(&mut self) {
        self.settle();
        self.local = None;
        self.landing.clear();
        for route in &mut self.routes {
            let lost = route.lost();
            if lost > 0 {
                *self.dropped.entry("local".into()).or_default() += lost;
            }
        }
    }

    // -- what the upstream says --

    /// Takes what belongs to a route; whether it did.
    ///
    /// # Errors
    /// What it says is not understood.
    pub(super) fn handle_upstream(
        &mut self,
        now: Mono,
        settings: &BridgeSettings,
        event: &Event<'_>,
    ) -> Result<bool, Stop> {
        let stream = match *event {
            Event::Deliver { stream, .. }
            | Event::Chunk { stream, .. }
            | Event::Done { stream, .. }
            | Event::Error { stream, .. }
            | Event::Dropped { stream, .. } => stream,
            _ => return Ok(false),
        };
        if stream < STREAMS {
            return Ok(false);
        }
        // What was on its way when a route gave its stream up is nobody's.
        let Some(at) = self.routes.iter().position(|route| route.has(stream)) else { return Ok(true) };
        match *event {
            Event::Deliver { head, payload, more: true, .. } => {
                self.routes[at].assembly.begin(stream, head, payload)?;
            }
            Event::Deliver { head, payload, .. } => self.deliver(at, settings, &head, payload)?,
            Event::Chunk { payload, more, .. } => {
                if let Some((head, bytes)) = self.routes[at].assembly.go_on(stream, payload, more)? {
                    self.deliver(at, settings, &head, &bytes)?;
                }
            }
            Event::Done { done, .. } => {
                let route = &mut self.routes[at];
                route.opened();
                if let Kind::Subscribe(subscribed) = &mut route.kind {
                    let (gap, anew) = subscribed.opened(&done);
                    if gap {
                        *self.dropped.entry("gap".into()).or_default() += 1;
                        log::warn!("bridge {:?}: {route} missed messages that the upstream keeps no more", self.bridge);
                    }
                    if anew {
                        self.send(stream, &Unsubscribe {});
                        self.routes[at].closed();
                    }
                }
            }
            Event::Error { error, .. } => {
                if self.routes[at].without_history(error.code) {
                    return Ok(true);
                }
                let jitter = self.rng.f64();
                let route = &mut self.routes[at];
                route.refused(now, jitter);
                let detail = format!("{route} of the upstream: {} ({})", error.detail, code_name(error.code));
                log::warn!("bridge {:?}: {detail}", self.bridge);
                self.problem = Some(Failure { reason: Reason::Protocol, detail });
                if matches!(route.kind, Kind::Consume(_)) {
                    self.landing.disown(Some(at));
                }
            }
            Event::Dropped { .. } if self.routes[at].park() => self.send(stream, &Unsubscribe {}),
            Event::Dropped { dropped, .. } => {
                *self.dropped.entry(code_name(dropped.code)).or_default() += dropped.count;
                let (bridge, route) = (&self.bridge, &self.routes[at]);
                log::warn!("bridge {bridge:?}: {route} lost {} messages, as it was slow or held", dropped.count);
            }
            _ => {}
        }
        Ok(true)
    }

    fn deliver(&mut self, at: usize, settings: &BridgeSettings, head: &Deliver, payload: &[u8]) -> Result<(), Stop> {
        let share = self.share(settings);
        let items = DeliverItems::parse(payload, head.count, head.total)?;
        // What no broker would send is the upstream's failure, and never the session's here.
        let durable = matches!(self.routes[at].kind, Kind::Consume(_));
        let placed = |item: DeliverItem<'_>| !durable || (1..u64::MAX).contains(&item.seq);
        let end = head.first_tag.checked_add(u64::from(head.count));
        let valid = items.clone().all(|item| usize::from(item.lane) < PRIORITIES && placed(item));
        let Some(end) = end.filter(|_| valid) else {
            return Err(Stop::new(Reason::Protocol, "a delivery comes from no place that a queue has"));
        };
        for (tag, item) in (head.first_tag..end).zip(items) {
            let route = &mut self.routes[at];
            let tag = match &mut route.kind {
                Kind::Consume(_) => {
                    route.credit.0 = route.credit.0.saturating_sub(1);
                    route.credit.1 -= item.record.len() as i64;
                    tag
                }
                Kind::Subscribe(s) => {
                    let over = |held: u64, share: u64| held >= share * u64::from(SHARES_MAX);
                    if over(route.held.0.into(), share.0.into()) || over(route.held.1, share.1 as u64) {
                        if route.park() {
                            let stream = route.stream;
                            self.send(stream, &Unsubscribe {});
                            break;
                        }
                        *self.dropped.entry("overflow".into()).or_default() += 1;
                        continue;
                    }
                    let has = item.flags & item_flag::HAS_OFFSET != 0 && head.epoch != 0;
                    s.take(has.then_some((head.epoch, item.offset)))
                }
            };
            self.take(at, settings.hops_max, head.epoch, tag, &item);
        }
        Ok(())
    }

    /// A message came: it is published here, or settled at once.
    fn take(&mut self, at: usize, hops_max: u32, epoch: u64, tag: u64, item: &DeliverItem<'_>) {
        match self.judge(at, hops_max, item.record) {
            Fate::Lands => {
                // A subscription's sequences are those of queues that others of its channels are in, too: no place of their own.
                let (epoch, seq, contract) = match self.routes[at].kind {
                    Kind::Consume(_) => (epoch, item.seq, Contract::Disk),
                    Kind::Subscribe(_) => (0, tag, Contract::Queue),
                };
                let next = &mut self.next_streams.0;
                let lane = self.landing.lane(at, epoch, item.lane, || {
                    *next += 1;
                    (*next - 1, None)
                });
                let bytes = self.landing.put(lane, contract, tag, seq, &self.record);
                let held = &mut self.routes[at].held;
                (held.0, held.1) = (held.0 + 1, held.1 + bytes);
            }
            Fate::Passed(name) => {
                if let Some(name) = name {
                    *self.dropped.entry(name.into()).or_default() += 1;
                }
                push_ack(&mut self.landing.acks, at, tag, 0);
            }
            Fate::Refused(code, detail) => {
                self.landing.given_up.push(GivenUp { consumer: at, tag, bytes: 0, code: code as u16, detail });
            }
        }
    }

    /// What becomes of a record.
    fn judge(&mut self, at: usize, hops_max: u32, bytes: &[u8]) -> Fate {
        let record = match Record::decode(bytes) {
            Ok(record) => record,
            Err(error) => return Fate::Refused(error.into(), error.to_string()),
        };
        let route = &self.routes[at];
        if let Kind::Subscribe(s) = &route.kind {
            let hears = |filter: &String| Filter::parse(filter).is_ok_and(|filter| filter.matches(record.channel));
            if s.earlier.iter().any(hears) {
                return Fate::Passed(None);
            }
        }
        let channel = match route.mapper.map(record.channel, &mut self.channel) {
            Ok(channel) => channel,
            Err(error) => return Fate::Refused(Code::BadChannel, error.to_string()),
        };
        let bytes_max = self.local.as_ref().map_or(0, |terms| terms.message_bytes_max) as usize;
        let onward = Onward { channel, from: &self.origin, to: &self.edge, hops_max, bytes_max };
        self.record.clear();
        match onward.append(&record, &mut self.properties, &mut self.record) {
            Ok(()) => Fate::Lands,
            Err(refusal @ (Refusal::Loop | Refusal::Hops)) => Fate::Passed(Some(refusal.name())),
            Err(refusal @ Refusal::Large) => Fate::Refused(Code::MessageTooLarge, refusal.to_string()),
            Err(refusal @ Refusal::Room) => Fate::Refused(Code::BadRecord, refusal.to_string()),
        }
    }

    // -- what the local broker says --

    /// Takes answers to what was published here; whether it did.
    ///
    /// # Errors
    /// A publish stream ended.
    pub(super) fn handle_local(&mut self, now: Mono, event: &Event<'_>) -> Result<bool, Stop> {
        match *event {
            // `accepted`, too: it is on the disk here, and what another upstream makes of it is not this one's business.
            Event::PublishAck { stream, ack } if stream >= STREAMS => {
                if ack.outcome == Outcome::Dropped {
                    // By the policy of a full queue here: it is gone, and that is not silent.
                    *self.dropped.entry("local-full".into()).or_default() += u64::from(ack.count);
                }
                self.landing.handle_ack(now, stream, ack.first, ack.count);
            }
            Event::PublishNack { stream, nack } if stream >= STREAMS => self.landing.handle_nack(now, stream, &nack),
            Event::Pause { stream, .. } if stream >= STREAMS => self.landing.handle_pause(stream, true),
            Event::Resume { stream } if stream >= STREAMS => self.landing.handle_pause(stream, false),
            Event::Error { stream, error } if stream >= STREAMS => {
                return Err(Stop::new(Reason::Local, format!("what is brought cannot be published: {}", error.detail)));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    // -- what follows --

    /// A route's share of the window.
    fn share(&self, settings: &BridgeSettings) -> (u32, i64) {
        let routes = self.routes.len().max(1) as u32;
        ((settings.window_messages / routes).max(1), i64::from((settings.window_bytes / routes).max(1)))
    }

    /// Does whatever follows: opens routes, tells the upstream what is settled and what there is room for.
    pub(super) fn advance(&mut self, now: Mono, settings: &BridgeSettings) {
        self.settle();
        // What was refused here is tried again, whether there is room for it yet or not: its time has been told.
        self.landing.handle_timeout(now);
        if !self.open {
            return;
        }
        let share = self.share(settings);
        for at in 0..self.routes.len() {
            let route = &mut self.routes[at];
            if route.due().is_some_and(|due| due <= now) {
                self.open_route(at, share);
                continue;
            }
            let Some(room) = route.room(share) else { continue };
            let stream = route.stream;
            match room {
                Room::Credit(messages, bytes) => self.send(stream, &Credit { messages, bytes }),
                Room::Pause => self.send(stream, &Pause { code: 0 }),
                Room::Resume => self.send(stream, &Resume {}),
                Room::Park => self.send(stream, &Unsubscribe {}),
                Room::Unpark => self.open_route(at, share),
            }
        }
    }

    fn open_route(&mut self, at: usize, share: (u32, i64)) {
        let stream = self.next_streams.1;
        self.next_streams.1 += 1;
        let route = &mut self.routes[at];
        let credit = route.lacks(share);
        route.opening(stream, credit);
        match &mut route.kind {
            Kind::Subscribe(s) => {
                let (since, retained) = s.ask();
                let filter = s.filter.clone();
                let head = Subscribe { filter: &filter, retained, since, respond: false, disconnect_when_slow: false };
                self.send(stream, &head);
            }
            Kind::Consume(queue) => {
                let mut filters = Vec::new();
                let mut count = 0;
                for filter in route.mapper.filters() {
                    append_filter(&mut filters, filter.as_str());
                    count += 1;
                }
                let head = Consume {
                    queue,
                    name: &self.consumer,
                    start: Start::First,
                    window: share.0,
                    attempts_max: ATTEMPTS_MAX,
                    ack_timeout_ms: 0,
                    backoff_ms: 0,
                    filters: count,
                    credit_messages: credit.0,
                    credit_bytes: credit.1 as u32,
                };
                append(&mut self.out, FrameType::Consume, 0, stream, Some(&head), &[&filters]);
            }
        }
    }

    fn send<'h, H: Head<'h>>(&mut self, stream: u32, head: &H) {
        append(&mut self.out, H::KIND, 0, stream, Some(head), &[]);
    }

    /// Passes on what was settled here.
    fn settle(&mut self) {
        for (at, bytes) in std::mem::take(&mut self.landing.disowned) {
            self.free(at, 1, bytes);
        }
        for settled in std::mem::take(&mut self.landing.acks) {
            let at = settled.consumer;
            if settled.bytes > 0 {
                self.brought += u64::from(settled.count);
                self.free(at, settled.count, settled.bytes);
            }
            self.tell(at, settled.first, settled.count, None);
        }
        for given_up in std::mem::take(&mut self.landing.given_up) {
            let GivenUp { consumer: at, tag, bytes, code, detail } = given_up;
            if bytes > 0 {
                self.free(at, 1, bytes);
            }
            let name = code_name(code);
            let reason = format!("{}: {name}: {detail}", self.edge);
            *self.dropped.entry(name).or_default() += 1;
            self.tell(at, tag, 1, Some(&reason));
        }
    }

    fn free(&mut self, at: usize, count: u32, bytes: u64) {
        if let Some(route) = self.routes.get_mut(at) {
            route.held = (route.held.0.saturating_sub(count), route.held.1.saturating_sub(bytes));
        }
    }

    /// Tells a queue's upstream that these are done, or why not.
    fn tell(&mut self, at: usize, first: u64, count: u32, refused: Option<&str>) {
        let Some(route) = self.routes.get_mut(at) else { return };
        let stream = route.stream;
        match (&mut route.kind, refused) {
            (Kind::Subscribe(s), _) => s.settle(first, count),
            (Kind::Consume(_), None) if route.state == State::Open => self.send(stream, &Ack { first, count }),
            (Kind::Consume(_), Some(reason)) if route.state == State::Open => {
                let mut end = reason.len().min(DETAIL_BYTES_MAX);
                while !reason.is_char_boundary(end) {
                    end -= 1;
                }
                let reason = &reason[..end];
                self.send(stream, &Nack { first, count, delay_ms: 0, give_up: true, reason });
            }
            (Kind::Consume(_), _) => {}
        }
    }

    /// Moves frames for the upstream to those that go ahead of data.
    pub(super) fn poll_upstream(&mut self, control: &mut Vec<u8>) {
        control.append(&mut self.out);
    }

    /// Appends frames for the local broker, about `bytes_max` of them.
    pub(super) fn poll_local(
        &mut self,
        now: Mono,
        settings: &BridgeSettings,
        link: &mut Link,
        out: &mut Vec<u8>,
        bytes_max: usize,
    ) {
        let Some(terms) = &self.local else { return };
        let frame_bytes_max = terms.frame_bytes_max as usize;
        let bounds = Bounds { frame_bytes_max, compress: false, weights: &settings.weights };
        self.landing.fill(now, &bounds, &mut self.pace, link, out, bytes_max);
    }

    /// When a route is opened, or what was refused here is published again.
    pub(super) fn poll_timeout(&self) -> Option<Mono> {
        let routes = self.routes.iter().filter(|_| self.open).filter_map(Route::due).min();
        [routes, self.landing.poll_timeout()].into_iter().flatten().min()
    }
}

fn code_name(code: u16) -> String {
    Code::from_u16(code).map_or_else(|| code.to_string(), |code| code.name().into())
}

#[cfg(test)]
mod tests;
