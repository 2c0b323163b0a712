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
    children: HashMap<Box<str>, Node<T>>,
    plus: Option<Box<Node<T>>>,
    /// Targets of the filter that ends here.
    here: Vec<T>,
    /// Targets of the filter that ends here with `/#` (or is `#`).
    rest: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), plus: None, here: Vec::new(), rest: Vec::new() }
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
                _ => {
                    if !node.children.contains_key(level) {
                        node.children.insert(level.into(), Node::default());
                    }
                    node = node.children.get_mut(level).expect("inserted above");
                }
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
}
