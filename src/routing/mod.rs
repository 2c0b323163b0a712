//! Which filters match a channel: a trie by level, in time that does not grow with the number of filters.

mod permissions;

pub use permissions::{Ask, Decision, Grants, Permissions};

use std::collections::HashMap;

/// Filters and what stands behind each.
#[derive(Debug)]
pub struct Table<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    children: Children<T>,
    plus: Option<Box<Node<T>>>,
    /// Targets of the filter that ends here.
    here: Vec<T>,
    /// Targets of the filter that ends here with `/#` (or is `#`).
    rest: Vec<T>,
}

/// Most nodes have one child or none: a map for each would make a deep filter cost tens of kilobytes.
#[derive(Debug)]
enum Children<T> {
    /// Up to [`FEW`], in no order, with no room for more.
    Few(Vec<(Box<str>, Node<T>)>),
    Many(HashMap<Box<str>, Node<T>>),
}

/// Children that are looked through one by one.
const FEW: usize = 8;

impl<T> Children<T> {
    fn get(&self, level: &str) -> Option<&Node<T>> {
        match self {
            Self::Few(list) => list.iter().find(|(name, _)| **name == *level).map(|(_, node)| node),
            Self::Many(map) => map.get(level),
        }
    }

    fn get_mut(&mut self, level: &str) -> Option<&mut Node<T>> {
        match self {
            Self::Few(list) => list.iter_mut().find(|(name, _)| **name == *level).map(|(_, node)| node),
            Self::Many(map) => map.get_mut(level),
        }
    }

    fn get_or_insert(&mut self, level: &str) -> &mut Node<T> {
        if let Self::Few(list) = self
            && list.len() == FEW
            && !list.iter().any(|(name, _)| **name == *level)
        {
            *self = Self::Many(std::mem::take(list).into_iter().collect());
        }
        match self {
            Self::Few(list) => {
                let at = list.iter().position(|(name, _)| **name == *level).unwrap_or_else(|| {
                    list.reserve_exact(1);
                    list.push((level.into(), Node::default()));
                    list.len() - 1
                });
                &mut list[at].1
            }
            Self::Many(map) => {
                if !map.contains_key(level) {
                    map.insert(level.into(), Node::default());
                }
                map.get_mut(level).expect("inserted above")
            }
        }
    }

    fn remove(&mut self, level: &str) {
        match self {
            Self::Few(list) => list.retain(|(name, _)| **name != *level),
            Self::Many(map) => {
                map.remove(level);
                if map.is_empty() {
                    *self = Self::Few(Vec::new());
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
        }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: Children::Few(Vec::new()), plus: None, here: Vec::new(), rest: Vec::new() }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

impl<T: Copy + PartialEq> Table<T> {
    /// Adds a target behind a valid filter. The same target twice counts once.
    pub fn insert(&mut self, filter: &str, target: T) {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            match level {
                "#" => {
                    if !node.rest.contains(&target) {
                        node.rest.push(target);
                        self.len += 1;
                    }
                    return;
                }
                "+" => node = node.plus.get_or_insert_with(Default::default),
                _ => node = node.children.get_or_insert(level),
            }
        }
        if !node.here.contains(&target) {
            node.here.push(target);
            self.len += 1;
        }
    }

    /// Removes a target from behind a filter; nothing happens when it is not there.
    pub fn remove(&mut self, filter: &str, target: T) {
        let levels: Vec<&str> = filter.split('/').collect();
        if self.root.remove(&levels, target) {
            self.len -= 1;
        }
    }

    /// Targets in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends the targets of every filter that matches a valid channel; a target behind several appears several times.
    pub fn matches(&self, channel: &str, found: &mut Vec<T>) {
        if self.len > 0 {
            self.root.matches(Some(channel), channel.starts_with('$'), found);
        }
    }
}

impl<T: Copy + PartialEq> Node<T> {
    fn matches(&self, rest: Option<&str>, first_reserved: bool, found: &mut Vec<T>) {
        if !first_reserved {
            found.extend_from_slice(&self.rest);
        }
        let Some(rest) = rest else {
            found.extend_from_slice(&self.here);
            return;
        };
        let (level, after) = match rest.split_once('/') {
            Some((level, after)) => (level, Some(after)),
            None => (rest, None),
        };
        if let Some(child) = self.children.get(level) {
            child.matches(after, false, found);
        }
        if let (Some(plus), false) = (&self.plus, first_reserved) {
            plus.matches(after, false, found);
        }
    }

    fn remove(&mut self, levels: &[&str], target: T) -> bool {
        let take = |list: &mut Vec<T>| match list.iter().position(|t| *t == target) {
            Some(at) => {
                list.swap_remove(at);
                true
            }
            None => false,
        };
        let Some((level, after)) = levels.split_first() else { return take(&mut self.here) };
        match *level {
            "#" => take(&mut self.rest),
            "+" => {
                let Some(plus) = &mut self.plus else { return false };
                let removed = plus.remove(after, target);
                if plus.is_unused() {
                    self.plus = None;
                }
                removed
            }
            level => {
                let Some(child) = self.children.get_mut(level) else { return false };
                let removed = child.remove(after, target);
                if child.is_unused() {
                    self.children.remove(level);
                }
                removed
            }
        }
    }

    fn is_unused(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.here.is_empty() && self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Channel, Filter};

    #[test]
    fn the_table_agrees_with_the_filters_one_by_one() {
        let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
        let mut rng = fastrand::Rng::with_seed(seed);
        let words = ["a", "b", "", "$x", "+", "#"];
        for round in 0..2_000 {
            let mut table = Table::default();
            let mut plain: Vec<String> = Vec::new();
            for i in 0..rng.usize(1..12) {
                let text: Vec<&str> = (0..rng.usize(1..5)).map(|_| words[rng.usize(..words.len())]).collect();
                let text = text.join("/");
                if Filter::parse(&text).is_ok() {
                    table.insert(&text, i);
                    plain.push(text);
                } else {
                    plain.push(String::new());
                }
            }
            let gone = rng.usize(..plain.len());
            if !plain[gone].is_empty() {
                table.remove(&plain[gone].clone(), gone);
                plain[gone].clear();
            }
            let channel: Vec<&str> = (0..rng.usize(1..5)).map(|_| words[rng.usize(..4)]).collect();
            let channel = channel.join("/");
            let Ok(parsed) = Channel::parse(&channel) else { continue };
            let mut found = Vec::new();
            table.matches(&channel, &mut found);
            found.sort_unstable();
            let expected: Vec<usize> =
                (0..plain.len()).filter(|&i| Filter::parse(&plain[i]).is_ok_and(|f| f.matches(parsed))).collect();
            assert_eq!(found, expected, "seed {seed} round {round}: {channel:?} against {plain:?}");
            assert_eq!(table.len(), plain.iter().filter(|p| !p.is_empty()).count());
        }
    }

    #[test]
    fn a_level_may_have_one_child_or_thousands_and_forgets_them_again() {
        let mut table = Table::default();
        let name = |i: usize| format!("site/{i}/temp");
        let found = |table: &Table<usize>, i: usize| {
            let mut found = Vec::new();
            table.matches(&name(i), &mut found);
            found
        };
        for i in 0..2_000 {
            table.insert(&name(i), i);
            for before in [0, i / 2, i] {
                assert_eq!(found(&table, before), [before], "{before} of {i}");
            }
            assert!(found(&table, i + 1).is_empty());
        }
        for i in 0..2_000 {
            table.remove(&name(i), i);
            assert!(found(&table, i).is_empty());
            assert_eq!(table.len(), 1_999 - i);
        }
        assert!(table.root.is_unused(), "nothing is left of them");
    }

    #[test]
    fn a_level_of_a_deep_filter_costs_little() {
        // What each level holds beside its name, when no other filter goes another way.
        assert!(size_of::<(Box<str>, Node<(u64, u32)>)>() <= 128, "{}", size_of::<(Box<str>, Node<(u64, u32)>)>());
        let mut table = Table::default();
        table.insert(&vec!["level"; 128].join("/"), 1);
        let mut node = &table.root;
        while let Children::Few(list) = &node.children
            && let Some((_, child)) = list.first()
        {
            assert_eq!(list.capacity(), 1);
            node = child;
        }
        assert_eq!(node.here, [1]);
    }
}
