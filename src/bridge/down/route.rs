//! One route down at the upstream: its consumer or its subscription, what it may be sent, and where it stopped.

use crate::bridge::mapping::Mapper;
use crate::bridge::side::Assembly;
use crate::model::{Filter, Mono};
use crate::schedule::backoff_ms;
use crate::wire::{Code, Done, Since};
use std::collections::BTreeMap;
use std::fmt;

/// First and longest wait before a route that was refused is tried again, in milliseconds.
const RETRY_MS: u32 = 1_000;
const RETRY_MS_MAX: u32 = 60_000;
/// A consumer is given credit in parts of its share not smaller than this.
const CREDIT_PARTS: u32 = 4;

/// How a route's messages come.
#[derive(Debug)]
pub(super) enum Kind {
    /// From a queue, durably.
    Consume(String),
    /// Live.
    Subscribe(Subscribed),
}

/// A subscription.
#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) filter: String,
    /// Filters of the subscriptions before it: what they hear is theirs.
    pub(super) earlier: Vec<String>,
    /// Whether the upstream may keep history of it: it is a plain channel, and the upstream did not say no on this connection.
    history: bool,
    /// Epoch and offset of the last message that was taken.
    place: Option<(u64, u64)>,
    /// Number of the next message that is taken.
    next: u64,
    /// Places of those that are not settled here, by their numbers.
    unsettled: BTreeMap<u64, (u64, u64)>,
    /// The retained values are to be sent: it is new, or missed something for good.
    stale: bool,
    /// The retained values were asked for with what is open, or is being opened.
    retained: bool,
    paused: bool,
}

/// How far a route has come on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has no stream, until then.
    Closed(Mono),
    /// It has no stream until there is room for more.
    Parked,
    /// Asked for.
    Opening,
    /// Messages may come.
    Open,
}

/// A route.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) kind: Kind,
    pub(super) mapper: Mapper,
    pub(super) state: State,
    /// Its stream, new each time; of no meaning without one.
    pub(super) stream: u32,
    pub(super) assembly: Assembly,
    /// Credit it has left, in messages and bytes.
    pub(super) credit: (u32, i64),
    /// What it gave and is not settled here, in messages and bytes.
    pub(super) held: (u32, u64),
    refusals: u32,
}

/// What is to be told to the upstream about a route's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// More credit: messages and bytes.
    Credit(u32, u32),
    /// Hold the subscription.
    Pause,
    /// Go on with it.
    Resume,
    /// End it: it is taken up again where it stopped.
    Park,
    /// Take it up.
    Unpark,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Consume(queue) => write!(f, "queue {queue:?}"),
            Kind::Subscribe(s) => write!(f, "subscription {:?}", s.filter),
        }
    }
}

impl Route {
    pub(super) fn new(kind: Kind, mapper: Mapper) -> Self {
        Self {
            kind,
            mapper,
            state: State::Closed(Mono(0)),
            stream: 0,
            assembly: Assembly::default(),
            credit: (0, 0),
            held: (0, 0),
            refusals: 0,
        }
    }

    pub(super) fn subscription(filter: &str, earlier: Vec<String>) -> Kind {
        let history = Filter::parse(filter).is_ok_and(|filter| filter.literal().is_some());
        Kind::Subscribe(Subscribed {
            filter: filter.into(),
            earlier,
            history,
            place: None,
            next: 1,
            unsettled: BTreeMap::new(),
            stale: true,
            retained: false,
            paused: false,
        })
    }

    /// The connection is gone.
    pub(super) fn closed(&mut self) {
        self.state = State::Closed(Mono(0));
        self.assembly = Assembly::default();
        self.credit = (0, 0);
        if let Kind::Subscribe(s) = &mut self.kind {
            s.paused = false;
            s.history = Filter::parse(&s.filter).is_ok_and(|filter| filter.literal().is_some());
        }
    }

    /// What it held is lost here. A queue gives it again, and so does history; returns the messages that come from neither.
    pub(super) fn lost(&mut self) -> u64 {
        let held = std::mem::take(&mut self.held).0;
        let Kind::Subscribe(s) = &mut self.kind else { return 0 };
        s.stale = true;
        if let Some((_, (epoch, offset))) = s.unsettled.pop_first() {
            s.place = Some((epoch, offset.saturating_sub(1)));
        }
        let again = std::mem::take(&mut s.unsettled).len() as u64 + 1;
        if s.place.is_some() { u64::from(held).saturating_sub(again) } else { held.into() }
    }

    /// The upstream does not open it, or ended it: tried again later.
    pub(super) fn refused(&mut self, now: Mono, jitter: f64) {
        let wait = backoff_ms(RETRY_MS, RETRY_MS_MAX, self.refusals, jitter);
        self.refusals = self.refusals.saturating_add(1);
        self.state = State::Closed(now.plus_ms(wait));
        self.assembly = Assembly::default();
        self.credit = (0, 0);
    }

    /// The upstream keeps no history of a channel: whether that is news, and it may be asked at once for what comes from now on.
    pub(super) fn without_history(&mut self, code: u16) -> bool {
        match &mut self.kind {
            Kind::Subscribe(s) if s.history && code == Code::NoHistory as u16 => {
                (s.history, s.place) = (false, None);
                self.state = State::Closed(Mono(0));
                true
            }
            _ => false,
        }
    }

    /// The upstream opened it.
    pub(super) fn opened(&mut self) {
        (self.state, self.refusals) = (State::Open, 0);
    }

    /// When it is to be opened.
    pub(super) const fn due(&self) -> Option<Mono> {
        if let State::Closed(at) = self.state { Some(at) } else { None }
    }

    /// Whether this stream is its own.
    pub(super) fn has(&self, stream: u32) -> bool {
        self.stream == stream && matches!(self.state, State::Opening | State::Open)
    }

    /// Notes that it is asked for on a new stream.
    pub(super) fn opening(&mut self, stream: u32, credit: (u32, i64)) {
        (self.stream, self.state, self.credit) = (stream, State::Opening, credit);
        self.assembly = Assembly::default();
    }

    /// What it lacks of its share.
    pub(super) fn lacks(&self, share: (u32, i64)) -> (u32, i64) {
        let (messages, bytes) = (self.held.0 + self.credit.0, self.held.1 as i64 + self.credit.1);
        (share.0.saturating_sub(messages), (share.1 - bytes).max(0))
    }

    /// Gives up a stream from which no more can be taken in order, where what follows can be had again: from where it stopped,
    /// once there is room. Whether it could.
    pub(super) fn park(&mut self) -> bool {
        let again = matches!(&self.kind, Kind::Subscribe(s) if s.place.is_some());
        if again {
            self.state = State::Parked;
            self.assembly = Assembly::default();
        }
        again
    }

    /// What is to be said about its room now, of a share in messages and bytes.
    pub(super) fn room(&mut self, share: (u32, i64)) -> Option<Room> {
        let full = self.held.0 >= share.0 || self.held.1 as i64 >= share.1;
        let half = self.held.0 <= share.0 / 2 && self.held.1 as i64 <= share.1 / 2;
        if full && self.state == State::Open && self.park() {
            return Some(Room::Park);
        }
        match (&mut self.kind, self.state) {
            (Kind::Consume(_), State::Open) => {
                let (messages, bytes) = self.lacks(share);
                let dry = self.credit.0 == 0 || self.credit.1 <= 0;
                let little = messages < share.0.div_ceil(CREDIT_PARTS) && bytes < share.1 / i64::from(CREDIT_PARTS);
                if (messages == 0 && bytes == 0) || (!dry && little) {
                    return None;
                }
                self.credit = (self.credit.0 + messages, self.credit.1 + bytes);
                Some(Room::Credit(messages, bytes as u32))
            }
            (Kind::Subscribe(s), State::Open) if full && !s.paused => {
                s.paused = true;
                Some(Room::Pause)
            }
            (Kind::Subscribe(s), State::Open) if half && s.paused => {
                s.paused = false;
                Some(Room::Resume)
            }
            (_, State::Parked) if half => Some(Room::Unpark),
            _ => None,
        }
    }
}

impl Subscribed {
    /// What is asked for: since when, and whether with the retained values.
    pub(super) fn ask(&mut self) -> (Since, bool) {
        self.retained = std::mem::take(&mut self.stale);
        self.paused = false;
        let since = match self.place {
            Some((epoch, offset)) => Since::Offset { epoch, offset },
            // Nothing of the past, but where the present is.
            None if self.history => Since::Last(0),
            None => Since::Now,
        };
        (since, self.retained)
    }

    /// The answer. Returns whether some of what was missed is gone, and whether it is to be asked for anew: with the retained
    /// values, since theirs may be among what is gone.
    pub(super) fn opened(&mut self, done: &Done) -> (bool, bool) {
        if !self.history {
            return (false, false);
        }
        let resumed = self.place.is_some();
        if !resumed || !done.complete {
            self.place = Some((done.epoch, done.value));
        }
        let gap = resumed && !done.complete;
        self.stale = gap && !self.retained;
        (gap, self.stale)
    }

    /// Takes a message, with its place in the channel's history where it has one; returns its number.
    pub(super) fn take(&mut self, place: Option<(u64, u64)>) -> u64 {
        let number = self.next;
        self.next += 1;
        if let Some(place) = place.filter(|_| self.history) {
            self.place = Some(place);
            self.unsettled.insert(number, place);
        }
        number
    }

    /// These are settled here.
    pub(super) fn settle(&mut self, first: u64, count: u32) {
        for number in first..first + u64::from(count) {
            self.unsettled.remove(&number);
        }
    }
}
