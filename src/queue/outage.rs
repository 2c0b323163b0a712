//! What is given up of messages that waited for an upstream: the rules of a queue's channels, and what they remember.
//!
//! `keep_last` asks whether so many newer messages of a channel are in the lane. A queue with history knows it from the
//! offsets. Any other notes the newest sequences of each channel here, as many as the rule keeps: exact, whoever consumes and
//! whatever leaves the queue, and read anew from the queue after a start. What was not noted, since there is no room for more,
//! counts as not there: then more is kept, never less.
//!
//! `every` and `period` count in memory, a lane and channel, from when a bridge first passes: after a start, one more of a channel
//! may be kept. Only what is given for the first time is thinned: what was chosen once stays chosen.

use crate::config::OutageSettings;
use crate::model::{Channel, Filter, Priority, Wall};
use crate::schedule::Leaps;
use std::collections::{HashMap, VecDeque};

/// Sequences noted for `keep_last`, over all channels and lanes of a queue.
const PLACES_MAX: usize = 131_072;
/// Channels whose thinning is remembered, over all lanes of a consumer; of more all are forgotten and begin anew.
const THINNED_MAX: usize = 65_536;

/// Why a message was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It waited longer than it was worth.
    Expired,
    /// So many newer ones of its channel as are kept wait behind it.
    Superseded,
    /// One in so many, or one a period, is kept, and it is another.
    Thinned,
}

/// Messages that a consumer passed over, by reason, since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Over their time to live, their own or their class's.
    pub expired: u64,
    /// Replaced by newer ones of their channel.
    pub superseded: u64,
    /// Thinned out.
    pub thinned: u64,
}

impl Losses {
    /// Each reason by its name.
    #[must_use]
    pub const fn by_reason(&self) -> [(&'static str, u64); 3] {
        [("expired", self.expired), ("superseded", self.superseded), ("thinned", self.thinned)]
    }

    /// Counts one.
    pub const fn add(&mut self, loss: Loss) {
        match loss {
            Loss::Expired => self.expired += 1,
            Loss::Superseded => self.superseded += 1,
            Loss::Thinned => self.thinned += 1,
        }
    }
}

/// A message as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Waited<'a> {
    /// Its channel.
    pub channel: &'a str,
    /// Its lane.
    pub lane: Priority,
    /// Its sequence.
    pub seq: u64,
    /// When it was stored, as it was stamped.
    pub stored: Wall,
    /// How many newer messages its channel has, where history says it.
    pub newer: Option<u64>,
}

/// The rules of one queue.
#[derive(Debug)]
pub struct Outage {
    classes: Vec<OutageSettings>,
    newest: Newest,
}

/// The newest sequences of each channel, by lane.
#[derive(Debug, Default)]
struct Newest {
    lanes: [HashMap<Box<str>, VecDeque<u64>>; 10],
    places: usize,
    /// Notes until it is looked again which channels are gone.
    patience: usize,
    /// Sequences that are to be read before it is complete: from, to.
    unread: [Option<(u64, u64)>; 10],
}

/// What thinning remembers of the channels a consumer passed.
#[derive(Debug, Default)]
pub struct Thinner {
    lanes: [HashMap<Box<str>, Thin>; 10],
    channels: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Thin {
    /// Met since one was kept.
    met: u32,
    /// When the last that was kept was stored, as it was stamped.
    kept: Option<Wall>,
}

impl Outage {
    /// The rules of a queue's settings; `None` where there is none.
    #[must_use]
    pub fn new<'s>(settings: impl Iterator<Item = &'s OutageSettings>) -> Option<Box<Self>> {
        let classes: Vec<_> = settings.cloned().collect();
        (!classes.is_empty()).then(|| Box::new(Self { classes, newest: Newest::default() }))
    }

    /// The class of a channel: the first that names it.
    fn class(&self, channel: &str) -> Option<&OutageSettings> {
        let channel = Channel::parse(channel).ok()?;
        let names = |f: &String| Filter::parse(f).is_ok_and(|f| f.matches(channel));
        self.classes.iter().find(|class| class.channels.iter().any(names))
    }

    /// The lane of a message: its class's, unless the publisher asked for a higher one.
    #[must_use]
    pub fn lane(&self, channel: &str, asked: Priority) -> Priority {
        let lane = self.class(channel).and_then(|class| Priority::new(class.lane));
        lane.map_or(asked, |lane| lane.max(asked))
    }

    /// Whether the newest of each channel must be known here: a queue with history knows them.
    #[must_use]
    pub fn needs_places(&self, history: bool) -> bool {
        !history && self.classes.iter().any(|class| class.keep_last > 0)
    }

    /// A lane holds `from..to` that nobody noted yet.
    pub fn begin(&mut self, lane: Priority, from: u64, to: u64) {
        self.newest.unread[lane.index()] = (from < to).then_some((from, to));
    }

    /// The highest lane that is to be read, and from where to where.
    #[must_use]
    pub fn unread(&self) -> Option<(Priority, u64, u64)> {
        let lanes = self.newest.unread.iter().enumerate().rev();
        lanes.filter_map(|(i, range)| Some((Priority::new(i as u8)?, (*range)?))).map(|(p, (a, b))| (p, a, b)).next()
    }

    /// Whether a lane is not read yet: its messages wait until it is.
    #[must_use]
    pub const fn is_unread(&self, lane: Priority) -> bool {
        self.newest.unread[lane.index()].is_some()
    }

    /// A lane was read up to here; from `u64::MAX` on it is complete, or given up.
    pub fn read_to(&mut self, lane: Priority, next: u64) {
        let range = &mut self.newest.unread[lane.index()];
        *range = range.map(|(_, to)| (next, to)).filter(|(from, to)| from < to);
    }

    /// A message is in the queue. `heads` tells below which sequence each lane has none any more.
    pub fn note(&mut self, channel: &str, lane: Priority, seq: u64, heads: impl Fn() -> [u64; 10]) {
        let keep = self.class(channel).map_or(0, |class| class.keep_last as usize);
        if keep == 0 {
            return;
        }
        let newest = &mut self.newest;
        if newest.places >= PLACES_MAX {
            newest.forget(heads);
        }
        let full = newest.places >= PLACES_MAX;
        let known = newest.lanes[lane.index()].get_mut(channel);
        let places = match known {
            Some(places) => places,
            None if full => return,
            None => newest.lanes[lane.index()].entry(channel.into()).or_default(),
        };
        let at = places.partition_point(|s| *s < seq);
        if places.get(at) == Some(&seq) || (at == 0 && places.len() >= keep) {
            return;
        }
        if places.len() >= keep {
            places.pop_front();
            places.insert(at - 1, seq);
        } else if !full {
            places.insert(at, seq);
            newest.places += 1;
        }
    }

    /// Whether a message is given up, `age_ms` after it was stored. The thinner is asked of one that is given for the first time.
    pub fn judge(
        &self,
        message: &Waited<'_>,
        age_ms: u64,
        leaps: &Leaps,
        thinner: Option<&mut Thinner>,
    ) -> Option<Loss> {
        let class = self.class(message.channel)?;
        if age_ms < class.after_ms {
            return None;
        }
        if class.ttl_ms > 0 && age_ms >= class.ttl_ms {
            return Some(Loss::Expired);
        }
        if class.keep_last > 0 {
            let keep = u64::from(class.keep_last);
            let noted = || {
                let places = self.newest.lanes[message.lane.index()].get(message.channel);
                places.is_some_and(|p| p.len() as u64 >= keep && p.front().is_some_and(|s| *s > message.seq))
            };
            if message.newer.map_or_else(noted, |newer| newer >= keep) {
                return Some(Loss::Superseded);
            }
        }
        match thinner {
            Some(thinner) if class.every > 1 || class.period_ms > 0 => thinner.judge(class, message, leaps),
            _ => None,
        }
    }
}

impl Newest {
    /// Forgets channels of which nothing is left, now and then.
    fn forget(&mut self, heads: impl Fn() -> [u64; 10]) {
        if self.patience > 0 {
            self.patience -= 1;
            return;
        }
        self.patience = PLACES_MAX / 8;
        for (lane, head) in self.lanes.iter_mut().zip(heads()) {
            lane.retain(|_, places| places.back().is_some_and(|newest| *newest >= head));
        }
        self.places = self.lanes.iter().flat_map(HashMap::values).map(VecDeque::len).sum();
    }
}

impl Thinner {
    fn judge(&mut self, class: &OutageSettings, message: &Waited<'_>, leaps: &Leaps) -> Option<Loss> {
        let index = message.lane.index();
        if !self.lanes[index].contains_key(message.channel) {
            if self.channels >= THINNED_MAX {
                *self = Self::default();
            }
            self.channels += 1;
            self.lanes[index].insert(message.channel.into(), Thin::default());
        }
        let thin = self.lanes[index].get_mut(message.channel)?;
        if class.every > 1 {
            let met = thin.met;
            thin.met = (met + 1) % class.every;
            if met != 0 {
                return Some(Loss::Thinned);
            }
        }
        if class.period_ms > 0 {
            let stored = leaps.forward(message.stored);
            if thin.kept.is_some_and(|kept| stored.ms_since(leaps.forward(kept)) < class.period_ms) {
                return Some(Loss::Thinned);
            }
        }
        thin.kept = Some(message.stored);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mono, Now};

    const LOW: Priority = match Priority::new(0) {
        Some(p) => p,
        None => Priority::MAX,
    };
    const OLD: u64 = 3_600_000;

    fn class(channels: &str, change: impl FnOnce(&mut OutageSettings)) -> OutageSettings {
        let mut class = OutageSettings {
            queue: "q".into(),
            tenant: String::new(),
            channels: vec![channels.into()],
            after_ms: 60_000,
            keep_last: 0,
            every: 0,
            period_ms: 0,
            ttl_ms: 0,
            lane: 0,
        };
        change(&mut class);
        class
    }

    fn rules(classes: &[OutageSettings]) -> Box<Outage> {
        Outage::new(classes.iter()).expect("some")
    }

    const fn waited(channel: &str, seq: u64, stored: u64) -> Waited<'_> {
        Waited { channel, lane: LOW, seq, stored: Wall(stored), newer: None }
    }

    #[test]
    fn only_what_waited_longer_is_touched_and_the_first_class_holds() {
        let o = rules(&[class("a/#", |c| c.ttl_ms = 120_000), class("#", |c| (c.ttl_ms, c.after_ms) = (1_000, 0))]);
        let judge = |channel, age| o.judge(&waited(channel, 1, 0), age, &Leaps::default(), None);
        assert_eq!((judge("a/b", 119_999), judge("a/b", 120_000)), (None, Some(Loss::Expired)));
        assert_eq!((judge("b", 999), judge("b", 1_000)), (None, Some(Loss::Expired)));
        let early = rules(&[class("#", |c| c.ttl_ms = 1_000)]);
        assert_eq!(early.judge(&waited("a", 1, 0), 59_999, &Leaps::default(), None), None);
    }

    #[test]
    fn the_last_n_of_a_channel_are_kept_whatever_came_between_and_in_whatever_order_it_is_noted() {
        let mut rng = fastrand::Rng::with_seed(3);
        for keep in [1usize, 2, 5] {
            let mut o = rules(&[class("#", |c| c.keep_last = keep as u32)]);
            let mut all: Vec<(u64, &str)> = (1..=200).map(|seq| (seq, ["a", "b", "c"][rng.usize(0..3)])).collect();
            rng.shuffle(&mut all);
            all.iter().for_each(|(seq, channel)| o.note(channel, LOW, *seq, || [1; 10]));
            for &(seq, channel) in &all {
                let newer = all.iter().filter(|(s, c)| *c == channel && *s > seq).count();
                let expected = (newer >= keep).then_some(Loss::Superseded);
                assert_eq!(o.judge(&waited(channel, seq, 0), OLD, &Leaps::default(), None), expected, "{seq}");
            }
            assert_eq!(o.newest.places, 3 * keep);
        }
    }

    #[test]
    fn history_says_how_many_are_newer_without_any_note() {
        let o = rules(&[class("#", |c| c.keep_last = 3)]);
        assert!(!o.needs_places(true) && o.needs_places(false));
        let judge = |newer| o.judge(&Waited { newer: Some(newer), ..waited("a", 1, 0) }, OLD, &Leaps::default(), None);
        assert_eq!((judge(2), judge(3)), (None, Some(Loss::Superseded)));
    }

    #[test]
    fn notes_are_bounded_and_what_finds_no_room_is_kept() {
        let mut o = rules(&[class("#", |c| c.keep_last = 1)]);
        for seq in 1..=PLACES_MAX as u64 + 500 {
            o.note(&seq.to_string(), LOW, seq, || [1; 10]);
        }
        assert_eq!(o.newest.places, PLACES_MAX);
        o.note("late", LOW, 900_000, || [1; 10]);
        assert_eq!(o.judge(&waited("late", 5, 0), OLD, &Leaps::default(), None), None);
        // The queue let go of all but the last hundred: there is room again, after a while.
        for seq in 1_000_000..1_000_000 + PLACES_MAX as u64 / 8 + 1 {
            o.note("new", LOW, seq, || [PLACES_MAX as u64 - 99; 10]);
        }
        assert!(o.newest.places <= 102, "{}", o.newest.places);
        assert_eq!(o.judge(&waited("new", 5, 0), OLD, &Leaps::default(), None), Some(Loss::Superseded));
    }

    #[test]
    fn one_in_n_is_kept_of_each_channel_the_first_among_them() {
        let o = rules(&[class("#", |c| c.every = 3)]);
        let mut thinner = Thinner::default();
        let mut kept = Vec::new();
        for seq in 0..14 {
            let channel = ["a", "b"][seq as usize % 2];
            if o.judge(&waited(channel, seq, 0), OLD, &Leaps::default(), Some(&mut thinner)).is_none() {
                kept.push(seq);
            }
        }
        assert_eq!(kept, [0, 1, 6, 7, 12, 13]);
    }

    #[test]
    fn one_a_period_is_kept_by_the_time_that_passed_though_the_clock_was_set_between() {
        const YEARS: u64 = 56 * 365 * 24 * 3_600_000;
        let mut leaps = Leaps::default();
        let o = rules(&[class("#", |c| c.period_ms = 10_000)]);
        let mut thinner = Thinner::default();
        let mut judge = |leaps: &Leaps, stored| o.judge(&waited("a", 1, stored), OLD, leaps, Some(&mut thinner));
        assert_eq!((judge(&leaps, 1_000), judge(&leaps, 10_999)), (None, Some(Loss::Thinned)));
        let now = |mono_ms: u64, wall_ms| Now { mono: Mono(mono_ms * 1_000), wall: Wall(wall_ms) };
        leaps.watch(now(0, 5_000), now(1, YEARS + 5_001)).expect("the clock was set");
        assert_eq!(judge(&leaps, YEARS + 10_999), Some(Loss::Thinned), "not ten seconds passed");
        assert_eq!(judge(&leaps, YEARS + 11_000), None);
    }

    #[test]
    fn what_thinning_remembers_is_bounded() {
        let o = rules(&[class("#", |c| c.every = 2)]);
        let mut thinner = Thinner::default();
        for seq in 0..2 * THINNED_MAX as u64 {
            o.judge(&waited(&seq.to_string(), seq, 0), OLD, &Leaps::default(), Some(&mut thinner));
            assert!(thinner.channels <= THINNED_MAX);
        }
    }

    #[test]
    fn a_lane_that_is_not_read_yet_says_so_highest_first() {
        let mut o = rules(&[class("#", |c| (c.keep_last, c.lane) = (1, 4))]);
        let top = Priority::MAX;
        o.begin(LOW, 1, 10);
        o.begin(top, 5, 6);
        assert_eq!(o.unread(), Some((top, 5, 6)));
        o.read_to(top, 6);
        assert_eq!(o.unread(), Some((LOW, 1, 10)));
        o.read_to(LOW, 4);
        assert_eq!((o.unread(), o.is_unread(LOW)), (Some((LOW, 4, 10)), true));
        o.read_to(LOW, u64::MAX);
        assert_eq!(o.unread(), None);
        assert_eq!((o.lane("a", LOW).get(), o.lane("a", top)), (4, top));
    }
}
