//! Tree and environment to settings: every mistake is collected, and every key remembers where it was set.

use super::bridges::{BridgeSettings, OutageSettings};
use super::error::{Place, Problem};
use super::items::{Item, LISTS};
use super::keys::{Key, Kind, LATER, SECRETS, SETTINGS, SOURCES};
use super::settings::{IssuerSettings, QueueSettings, RoleSettings, Settings, SignatureSettings, TenantSettings};
use super::yaml::{self, Node, Pos, Value};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::sync::Arc;

/// What every variable of ours begins with.
const PREFIX: &str = "TIDEGATE_";
/// Variables that begin so and are no keys.
const NOT_KEYS: &[&str] = &[
    "TIDEGATE_BLESS",
    "TIDEGATE_CA",
    "TIDEGATE_CERT",
    "TIDEGATE_CRL",
    "TIDEGATE_KEY",
    "TIDEGATE_KEY_FILE",
    "TIDEGATE_PASSWORD_FILE",
    "TIDEGATE_SEED",
    "TIDEGATE_SERVER_NAME",
    "TIDEGATE_TOKEN_FILE",
    "TIDEGATE_URL",
    "TIDEGATE_USER",
];
/// What variables for tests begin with; they are no keys either.
const TEST_PREFIX: &str = "TIDEGATE_TEST_";

/// Settings in the making.
pub(super) struct Reading {
    pub settings: Settings,
    pub problems: Vec<Problem>,
    file: Arc<str>,
    /// Settings of which only the lists that the file names count.
    lists: Settings,
    places: HashMap<String, Place>,
    failed: HashSet<String>,
}

impl Reading {
    pub(super) fn new(file: &str) -> Self {
        Self {
            settings: Settings::default(),
            problems: Vec::new(),
            file: file.into(),
            lists: Settings::default(),
            places: HashMap::new(),
            failed: HashSet::new(),
        }
    }

    /// Where a key was set, if it was.
    pub(super) fn place(&self, key: &str) -> Option<&Place> {
        self.places.get(key)
    }

    /// Whether the value of a key was refused, so that the settings hold its default.
    pub(super) fn failed(&self, key: &str) -> bool {
        self.failed.contains(key)
    }

    fn at(&self, pos: Pos) -> Place {
        Place::File { file: Arc::clone(&self.file), line: pos.line, column: pos.column }
    }

    fn problem(&mut self, place: Place, key: &str, message: String) {
        self.problems.push(Problem { place: Some(place), key: key.into(), message });
    }

    /// Takes the values of a file's text.
    pub(super) fn file(&mut self, text: &str) {
        let mut mistakes = Vec::new();
        let root = yaml::parse(text, &mut mistakes);
        for mistake in mistakes {
            self.problem(self.at(mistake.pos), "", mistake.message);
        }
        if let Some(root) = root {
            let mut settings = std::mem::take(&mut self.settings);
            self.section(SETTINGS, &mut settings, "", "", &root, root.pos);
            self.settings = settings;
            self.keep::<IssuerSettings>();
            self.keep::<RoleSettings>();
            self.keep::<TenantSettings>();
            self.keep::<SignatureSettings>();
            self.keep::<QueueSettings>();
            self.keep::<BridgeSettings>();
            self.keep::<OutageSettings>();
        }
    }

    /// Takes a list over, if the file has it.
    fn keep<T: Item>(&mut self) {
        if self.places.contains_key(T::LIST) {
            *T::list_mut(&mut self.settings) = std::mem::take(T::list_mut(&mut self.lists));
        }
    }

    /// Takes the keys of `node` below `section` (a path of the table; `shown` stands before it in messages).
    fn section<T>(
        &mut self,
        table: &'static [Key<T>],
        target: &mut T,
        shown: &str,
        section: &str,
        node: &Node,
        pos: Pos,
    ) {
        let entries = match &node.value {
            Value::Null => return,
            Value::Map(entries) => entries,
            other => {
                let key = format!("{shown}{section}");
                let names = children(table, section, shown.is_empty()).join(", ");
                let message = format!("found {}; expected a map of {names}", describe(other));
                return self.problem(self.at(pos), key.trim_end_matches('.'), message);
            }
        };
        for entry in entries {
            let path = format!("{section}{}", entry.key);
            let key = format!("{shown}{path}");
            if entry.key.contains('.') {
                let message = "found a dot in a key; expected each level below the other".into();
                self.problem(self.at(entry.pos), &key, message);
            } else if let Some(found) = table.iter().find(|k| k.path == path) {
                self.value(found, target, &key, &entry.node, entry.pos);
            } else if table.iter().any(|k| is_below(k.path, &path)) {
                self.section(table, target, shown, &format!("{path}."), &entry.node, entry.pos);
            } else if shown.is_empty() && LISTS.contains(&path.as_str()) {
                // Read apart: they are no part of `T`, which is the settings' own table here.
                match path.as_str() {
                    IssuerSettings::LIST => self.list::<IssuerSettings>(&entry.node, entry.pos),
                    RoleSettings::LIST => self.list::<RoleSettings>(&entry.node, entry.pos),
                    TenantSettings::LIST => self.list::<TenantSettings>(&entry.node, entry.pos),
                    SignatureSettings::LIST => self.list::<SignatureSettings>(&entry.node, entry.pos),
                    BridgeSettings::LIST => self.list::<BridgeSettings>(&entry.node, entry.pos),
                    OutageSettings::LIST => self.list::<OutageSettings>(&entry.node, entry.pos),
                    _ => self.list::<QueueSettings>(&entry.node, entry.pos),
                }
            } else if shown.is_empty() && LATER.contains(&path.as_str()) {
                self.problem(self.at(entry.pos), &key, "found a section that this version does not have yet".into());
            } else {
                let message = unknown(table, section, &entry.key, shown.is_empty());
                self.problem(self.at(entry.pos), &key, message);
            }
        }
    }

    fn value<T>(&mut self, found: &Key<T>, target: &mut T, key: &str, node: &Node, pos: Pos) {
        let texts: Vec<(&str, Pos)> = match (&node.value, &found.kind) {
            (Value::Scalar(text), _) => vec![(text, node.pos)],
            (Value::List(items), Kind::List { .. }) => {
                let mut texts = Vec::with_capacity(items.len());
                for item in items {
                    match &item.value {
                        Value::Scalar(text) => texts.push((text.as_str(), item.pos)),
                        other => {
                            let message = format!("found {}; expected {}", describe(other), found.expected());
                            return self.refuse(self.at(item.pos), key, message);
                        }
                    }
                }
                texts
            }
            (other, _) => {
                let pos = if matches!(other, Value::Null) { pos } else { node.pos };
                let message = format!("found {}; expected {}", describe(other), found.expected());
                return self.refuse(self.at(pos), key, message);
            }
        };
        let texts: Vec<_> = texts.into_iter().map(|(text, pos)| (text, self.at(pos))).collect();
        self.places.insert(key.into(), self.at(node.pos));
        self.take(found, target, key, &texts);
    }

    fn refuse(&mut self, place: Place, key: &str, message: String) {
        self.failed.insert(key.into());
        self.problem(place, key, message);
    }

    /// Puts texts into the settings, or says why not.
    fn take<T>(&mut self, found: &Key<T>, target: &mut T, key: &str, texts: &[(&str, Place)]) {
        let mut wrong: Vec<(Place, String)> = Vec::new();
        match (&found.kind, texts) {
            (Kind::List { check, set, expected, .. }, texts) => {
                let texts = if let [("none", _)] = texts { &[] } else { texts };
                for (text, place) in texts {
                    if let Err(why) = check(text) {
                        // Somebody may have written the secret where its source belongs, or into an address.
                        let source = *expected != SECRETS || SOURCES.iter().any(|kind| text.starts_with(kind));
                        let source = source && !(text.contains("://") && text.contains('@'));
                        let shown = if source { format!("`{text}`") } else { "a text".into() };
                        wrong.push((place.clone(), format!("found {shown}{why}")));
                    }
                }
                if wrong.is_empty() {
                    set(target, &texts.iter().map(|(text, _)| (*text).to_owned()).collect::<Vec<_>>());
                }
            }
            (kind, [(text, place)]) => {
                let result = match kind {
                    Kind::Number { none: Some(none), set, .. } if *text == "none" => {
                        set(target, *none);
                        Ok(())
                    }
                    Kind::Number { unit, min, max, none, set, .. } => match unit.parse(text) {
                        Ok(n) if n < *min && *none != Some(n) => Err(", which is too small".into()),
                        Ok(n) if n > *max => Err(", which is too large".into()),
                        Ok(n) => {
                            set(target, n);
                            Ok(())
                        }
                        Err(why) => Err(why),
                    },
                    Kind::Choice { words, set, .. } => match words.iter().position(|word| word == text) {
                        Some(index) => {
                            set(target, index);
                            Ok(())
                        }
                        None => Err(String::new()),
                    },
                    Kind::Text { set, .. } => set(target, text),
                    Kind::List { .. } => Ok(()),
                };
                if let Err(why) = result {
                    wrong.push((place.clone(), format!("found `{text}`{why}")));
                }
            }
            // Only lists get here with anything but one text.
            _ => {}
        }
        for (place, found_text) in wrong {
            self.refuse(place, key, format!("{found_text}; expected {}", found.expected()));
        }
    }

    fn list<T: Item>(&mut self, node: &Node, pos: Pos) {
        let items = match &node.value {
            Value::List(items) if items.len() <= T::ITEMS_MAX => items,
            Value::List(items) => {
                let message = format!("found {} {}; expected at most {}", items.len(), T::LIST, T::ITEMS_MAX);
                return self.refuse(self.at(pos), T::LIST, message);
            }
            other => {
                let message = format!("found {}; expected a list of {}, or []", describe(other), T::LIST);
                return self.refuse(self.at(pos), T::LIST, message);
            }
        };
        self.places.insert(T::LIST.into(), self.at(pos));
        let mut read = Vec::with_capacity(items.len());
        for (index, node) in items.iter().enumerate() {
            let shown = format!("{}[{index}].", T::LIST);
            let mut item = T::blank();
            self.section(T::TABLE, &mut item, &shown, "", node, node.pos);
            for needed in T::NEEDED {
                let key = format!("{shown}{needed}");
                if self.place(&key).is_none() && !self.failed(&key) {
                    let message = format!("found nothing; expected {needed}, which every {} has", T::NOUN);
                    self.refuse(self.at(node.pos), &key, message);
                }
            }
            item.finish(|key| self.place(&format!("{shown}{key}")).is_some());
            read.push(item);
        }
        *T::list_mut(&mut self.lists) = read;
    }

    /// Takes the overrides among the environment's variables.
    pub(super) fn env(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        let mut ours: Vec<(String, OsString)> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .filter(|(name, _)| !NOT_KEYS.contains(&name.as_str()) && !name.starts_with(TEST_PREFIX))
            .collect();
        ours.sort();
        let mut settings = std::mem::take(&mut self.settings);
        for (name, value) in ours {
            let place = Place::Env { variable: name.clone() };
            let path = name[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
            let Some(found) = SETTINGS.iter().find(|k| k.path == path && variable(k.path) == name) else {
                self.problem(place, "", unknown_variable(&name, &path));
                continue;
            };
            let Ok(value) = value.into_string() else {
                self.refuse(
                    place,
                    found.path,
                    format!("found bytes that are not UTF-8; expected {}", found.expected()),
                );
                continue;
            };
            let parts: Vec<(&str, Place)> = match found.kind {
                Kind::List { .. } => value.split(',').map(|part| (part.trim(), place.clone())).collect(),
                _ => vec![(value.as_str(), place.clone())],
            };
            self.places.insert(found.path.into(), place);
            self.failed.remove(found.path);
            self.take(found, &mut settings, found.path, &parts);
        }
        self.settings = settings;
    }
}

/// The variable that overrides a key.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

fn unknown_variable(name: &str, path: &str) -> String {
    let list = LISTS
        .iter()
        .find(|list| path.strip_prefix(**list).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '_'])));
    if let Some(list) = list {
        return format!("found a variable for {list}; expected them in the file, where alone they can be set");
    }
    let variables: Vec<String> = SETTINGS.iter().map(|k| variable(k.path)).collect();
    match closest(name, variables.iter().map(String::as_str)) {
        Some(meant) => format!("found an unknown variable; did you mean {meant}?"),
        None => "found an unknown variable; expected TIDEGATE_ and a key such as TIDEGATE_STORE__LINGER".into(),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Scalar(text) => format!("`{text}`"),
        Value::List(_) => "a list".into(),
        Value::Map(_) => "a map".into(),
    }
}

fn is_below(path: &str, section: &str) -> bool {
    path.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

/// The names directly below a section, in the table's order.
fn children<T>(table: &[Key<T>], section: &str, top: bool) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for key in table {
        if let Some(rest) = key.path.strip_prefix(section) {
            let name = rest.split('.').next().unwrap_or(rest);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if top && section.is_empty() {
        names.splice(names.len() - 1..names.len() - 1, LISTS.iter().copied());
    }
    names
}

fn unknown<T>(table: &[Key<T>], section: &str, name: &str, top: bool) -> String {
    let names = children(table, section, top);
    if let Some(meant) = closest(name, names.iter().copied()) {
        return format!("found an unknown key; did you mean `{meant}`?");
    }
    // The right word in the wrong section.
    let elsewhere = table.iter().find(|k| k.path == name || k.path.rsplit('.').next() == Some(name));
    match elsewhere {
        Some(key) => format!("found an unknown key; did you mean `{}`?", key.path),
        None => format!("found an unknown key; expected one of {}", names.join(", ")),
    }
}

/// The name that a mistyped one most likely meant.
fn closest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_ascii_lowercase().replace('-', "_");
    let likely = names.map(|name| (distance(&written, &name.to_ascii_lowercase()), name)).min_by_key(|(d, _)| *d);
    likely.filter(|(d, name)| *d <= 1.max(name.len().min(written.len()) / 3)).map(|(_, name)| name)
}

/// Edits (insert, delete, replace, swap of neighbours) between two texts.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(128).collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
