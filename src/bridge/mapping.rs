//! Under which channel a message goes on: the routes of a bridge, compiled.
//!
//! The channel is part of what a signature and a seal say about a message (`proto/frame.md`, section 23). Under another channel
//! a signed message does not verify any more, and a sealed one cannot be opened: map what is neither.

use crate::config::MappingText;
use crate::model::limits::CHANNEL_BYTES_MAX;
use crate::model::{Channel, ChannelError, Filter, FilterError};
use std::fmt;

/// Routes in their order; of those that match a channel the first decides.
#[derive(Clone, Debug, Default)]
pub struct Mapper {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    filter: Box<str>,
    target: Box<str>,
    same: bool,
}

/// What placeholders of routes stand for.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// `{name}`: the local broker's configured name.
    pub name: &'a str,
    /// `{bridge}`: the bridge's.
    pub bridge: &'a str,
}

impl Names<'_> {
    /// A filter of a route with the names in their places.
    #[must_use]
    pub fn fill(self, text: &str) -> String {
        fill(text, self)
    }
}

/// Why a route cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapperError {
    /// With the names in their places this is no filter.
    Filter(String, FilterError),
    /// With the names in their places this has not the wildcards of its filter.
    Wildcards(String),
}

impl fmt::Display for MapperError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter(text, error) => write!(f, "`{text}`: {error}"),
            Self::Wildcards(text) => write!(f, "`{text}` has not the same + and # in the same order as its filter"),
        }
    }
}

impl std::error::Error for MapperError {}

/// Why a message has no channel to go on under. It never has one: this is for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// No route is about its channel.
    NoRoute,
    /// The channel it would have breaks a rule.
    Channel(ChannelError),
    /// The channel it would have begins with `$`, which the route itself does not say.
    Reserved,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("no route of the bridge is about this channel"),
            Self::Channel(error) => write!(f, "under its new channel: {error}"),
            Self::Reserved => f.write_str("its new channel would begin with $, the broker's own space"),
        }
    }
}

impl std::error::Error for MapError {}

impl Mapper {
    /// Puts the names into their places and checks what that makes.
    ///
    /// # Errors
    /// The first route that is none.
    pub fn new(routes: impl IntoIterator<Item = MappingText>, names: Names<'_>) -> Result<Self, MapperError> {
        let rules = routes.into_iter().map(|route| Rule::new(&route, names)).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// What is to be consumed or subscribed to, in the order of the routes.
    pub fn filters(&self) -> impl Iterator<Item = Filter<'_>> {
        self.rules.iter().map(Rule::filter)
    }

    /// The channel under which this one goes on: itself where the route changes nothing, else in `scratch`, which is
    /// overwritten. Allocates only where `scratch` is too short, at most [`CHANNEL_BYTES_MAX`].
    ///
    /// # Errors
    /// [`MapError`].
    pub fn map<'a>(&self, channel: Channel<'a>, scratch: &'a mut String) -> Result<Channel<'a>, MapError> {
        let rule = self.rules.iter().find(|rule| rule.filter().matches(channel)).ok_or(MapError::NoRoute)?;
        if rule.same {
            return Ok(channel);
        }
        scratch.clear();
        rule.write(channel, scratch)?;
        let mapped = Channel::parse(scratch).map_err(MapError::Channel)?;
        if mapped.is_reserved() && !rule.target.starts_with('$') {
            return Err(MapError::Reserved);
        }
        Ok(mapped)
    }
}

impl Rule {
    fn new(route: &MappingText, names: Names<'_>) -> Result<Self, MapperError> {
        let [filter, target] = [&route.filter, &route.target].map(|text| fill(text, names));
        for text in [&filter, &target] {
            Filter::parse(text).map_err(|error| MapperError::Filter(text.clone(), error))?;
        }
        if !wildcards(&filter).eq(wildcards(&target)) {
            return Err(MapperError::Wildcards(target));
        }
        Ok(Self { same: filter == target, filter: filter.into(), target: target.into() })
    }

    fn filter(&self) -> Filter<'_> {
        Filter::parse(&self.filter).expect("it was parsed when the rule was made")
    }

    /// Writes the target with what the channel has at the filter's wildcards. A `#` that stands for no level takes the slash
    /// before it along: of `a/# -> b/#` the channel `a` becomes `b`.
    fn write(&self, channel: Channel<'_>, out: &mut String) -> Result<(), MapError> {
        let mut captures = captures(&self.filter, channel.as_str());
        for (i, level) in self.target.split('/').enumerate() {
            let part = match level {
                "+" | "#" => captures.next().expect("the target has no more wildcards than the filter, which matches"),
                _ => Some(level),
            };
            let Some(part) = part else { break };
            if out.len() + 1 + part.len() > 2 * CHANNEL_BYTES_MAX {
                return Err(MapError::Channel(ChannelError::TooLong(out.len() + 1 + part.len())));
            }
            if i > 0 {
                out.push('/');
            }
            out.push_str(part);
        }
        Ok(())
    }
}

fn fill(text: &str, names: Names<'_>) -> String {
    // One after the other would put the second into what the first stood for; names hold no braces.
    text.replace("{name}", names.name).replace("{bridge}", names.bridge)
}

fn wildcards(text: &str) -> impl Iterator<Item = &str> {
    text.split('/').filter(|level| matches!(*level, "+" | "#"))
}

/// What a matching channel has at the filter's wildcards, in order: a level each, and for `#` the rest, which may be nothing.
fn captures<'a>(filter: &'a str, channel: &'a str) -> impl Iterator<Item = Option<&'a str>> {
    let mut rest = Some(channel);
    filter.split('/').filter_map(move |level| {
        if level == "#" {
            return Some(rest.take());
        }
        let (first, after) = match rest?.split_once('/') {
            Some((first, after)) => (first, Some(after)),
            None => (rest?, None),
        };
        rest = after;
        (level == "+").then_some(Some(first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: Names<'_> = Names { name: "edge-7", bridge: "cloud" };

    fn route(filter: &str, target: &str) -> MappingText {
        MappingText { filter: filter.into(), target: target.into() }
    }

    fn mapper(routes: &[(&str, &str)]) -> Mapper {
        Mapper::new(routes.iter().map(|(filter, target)| route(filter, target)), NAMES).expect("routes")
    }

    fn map(mapper: &Mapper, channel: &str) -> Result<String, MapError> {
        let mut scratch = String::new();
        let channel = Channel::parse(channel).expect("a channel");
        mapper.map(channel, &mut scratch).map(|mapped| mapped.as_str().to_owned())
    }

    #[test]
    fn levels_go_where_the_route_says() {
        for (filter, target, channel, expected) in [
            ("site/#", "edges/{name}/site/#", "site/boiler/temp", "edges/edge-7/site/boiler/temp"),
            ("site/#", "edges/{name}/#", "site", "edges/edge-7"),
            ("site/#", "edges/#", "site/", "edges/"),
            ("#", "via-{bridge}/#", "a/b", "via-cloud/a/b"),
            ("command/{name}/#", "command/#", "command/edge-7/reboot", "command/reboot"),
            ("a/+/b/+", "x/+/+", "a/1/b/2", "x/1/2"),
            ("+/+", "+/y/+", "/2", "/y/2"),
            ("a/b", "c", "a/b", "c"),
            ("a/b", "$sys/c", "a/b", "$sys/c"),
            ("a/#", "a/#", "a/b", "a/b"),
        ] {
            assert_eq!(map(&mapper(&[(filter, target)]), channel).as_deref(), Ok(expected), "{filter} -> {target}");
        }
    }

    #[test]
    fn the_first_route_that_matches_decides() {
        let mapper = mapper(&[("a/b/#", "first/#"), ("a/#", "second/#"), ("c", "c")]);
        assert_eq!(map(&mapper, "a/b/x").as_deref(), Ok("first/x"));
        assert_eq!(map(&mapper, "a/x").as_deref(), Ok("second/x"));
        assert_eq!(map(&mapper, "c").as_deref(), Ok("c"));
        assert_eq!(map(&mapper, "d"), Err(MapError::NoRoute));
        assert_eq!(mapper.filters().map(Filter::as_str).collect::<Vec<_>>(), ["a/b/#", "a/#", "c"]);
    }

    #[test]
    fn what_cannot_be_a_channel_says_why() {
        let deep = mapper(&[("#", "a/b/#")]);
        let long = "x".repeat(CHANNEL_BYTES_MAX - 3);
        assert_eq!(map(&deep, &long), Err(MapError::Channel(ChannelError::TooLong(CHANNEL_BYTES_MAX + 1))));
        assert!(map(&deep, &long[1..]).is_ok());
        assert_eq!(map(&deep, &"/".repeat(127)), Err(MapError::Channel(ChannelError::TooManyLevels(130))));
        assert_eq!(map(&mapper(&[("x/#", "#")]), "x"), Err(MapError::Channel(ChannelError::Empty)));
        // Nobody may reach the broker's own space by what he puts behind a prefix.
        assert_eq!(map(&mapper(&[("x/#", "#")]), "x/$admin/y"), Err(MapError::Reserved));
    }

    #[test]
    fn names_that_break_a_route_are_told() {
        let with = |name: &str, filter: &str, target: &str| {
            Mapper::new([route(filter, target)], Names { name, bridge: "b" }).map(|_| ())
        };
        assert!(matches!(with("a+", "x", "{name}/x"), Err(MapperError::Filter(..))));
        assert!(matches!(with("+", "x", "{name}"), Err(MapperError::Wildcards(_))));
        let long = "x".repeat(128);
        assert!(matches!(with(&long, "a", &"{name}".repeat(9)), Err(MapperError::Filter(..))));
        assert_eq!(with("a/b", "{name}/#", "c/#"), Ok(()));
    }

    #[test]
    fn nothing_mapped_allocates_nothing() {
        let mut scratch = String::new();
        let channel = Channel::parse("a/b").expect("a channel");
        assert_eq!(mapper(&[("#", "#")]).map(channel, &mut scratch), Ok(channel));
        assert_eq!(scratch.capacity(), 0);
    }

    /// Levels of a route: literals, `+` and a last `#`, with the wildcards of both sides the same.
    fn levels() -> impl Strategy<Value = (String, String)> {
        let literal = "[abc]{0,2}";
        let side = || proptest::collection::vec(literal, 0..3);
        (proptest::collection::vec((side(), side()), 0..4), side(), side(), any::<bool>()).prop_filter_map(
            "a filter has a level",
            |(pluses, source, target, hash)| {
                let (mut filter, mut to) = (Vec::new(), Vec::new());
                for (before, after) in pluses {
                    filter.extend(before);
                    to.extend(after);
                    filter.push("+".to_owned());
                    to.push("+".to_owned());
                }
                filter.extend(source);
                to.extend(target);
                if hash {
                    filter.push("#".to_owned());
                    to.push("#".to_owned());
                }
                let (filter, to) = (filter.join("/"), to.join("/"));
                (!filter.is_empty() && !to.is_empty()).then_some((filter, to))
            },
        )
    }

    proptest! {
        #[test]
        fn a_mapping_and_its_inverse_give_the_channel_back(
            (filter, target) in levels(),
            fillings in proptest::collection::vec("[abc$é]{0,3}", 8),
            rest in proptest::option::of("[abc/]{0,6}"),
        ) {
            let mut fillings = fillings.into_iter();
            let mut channel = String::new();
            for (i, level) in filter.split('/').enumerate() {
                let part = match level {
                    "+" => fillings.next(),
                    "#" => rest.clone(),
                    literal => Some(literal.to_owned()),
                };
                let Some(part) = part else { break };
                if i > 0 {
                    channel.push('/');
                }
                channel.push_str(&part);
            }
            if let Ok(parsed) = Channel::parse(&channel)
                && Filter::parse(&filter).expect("made so").matches(parsed)
            {
                let there = mapper(&[(&filter, &target)]);
                let back = mapper(&[(&target, &filter)]);
                match map(&there, &channel) {
                    // A wildcard in the first level of the way back leaves these alone.
                    Ok(mapped) if mapped.starts_with('$') => {}
                    Ok(mapped) => prop_assert_eq!(map(&back, &mapped), Ok(channel)),
                    Err(error) => prop_assert!(
                        matches!(error, MapError::Reserved | MapError::Channel(ChannelError::Empty)),
                        "{} -> {} of {}: {}", filter, target, channel, error
                    ),
                }
            }
        }

        #[test]
        fn no_route_and_no_channel_panics(filter in "[a{}name+#$/é]{0,12}", target in "[a{}bridge+#$/é]{0,12}", channel in "[a$/é]{1,12}") {
            if let Ok(mapper) = Mapper::new([route(&filter, &target)], NAMES) {
                let mut scratch = String::new();
                let channel = Channel::parse(&channel).expect("of legal letters");
                if let Ok(mapped) = mapper.map(channel, &mut scratch) {
                    prop_assert!(Filter::parse(&filter).is_ok());
                    prop_assert!(Channel::parse(mapped.as_str()).is_ok());
                }
            }
        }
    }
}
