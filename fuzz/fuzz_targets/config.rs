//! Any text, and the example file with changes: settings, or mistakes with places inside the file. Settings that were
//! taken are in bounds, are taken again as they list themselves, and a broker starts on them.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use tidegate::broker::Broker;
use tidegate::config::{EXAMPLE, Loaded, Place, Problem, Settings, diff, list, load, parse, reloadable};
use tidegate::model::{Mono, Now, Wall};
use tidegate::store::{MemoryStore, Store};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Text(&'a str),
    Example(Vec<Edit<'a>>),
    Variables(Vec<(u8, &'a str)>),
    /// Many of the same: deep nesting, long lists, long words.
    Repeat {
        before: &'a str,
        piece: &'a str,
        times: u16,
        after: &'a str,
    },
}

#[derive(Arbitrary, Debug)]
struct Edit<'a> {
    line: u8,
    what: What<'a>,
}

#[derive(Arbitrary, Debug)]
enum What<'a> {
    Value(&'a str),
    Word(u8),
    Key(&'a str),
    Remove,
    Double,
    Indent(u8),
    Insert(&'a str),
    Cut(u8),
}

/// Values that are right somewhere, or nearly.
const WORDS: &[&str] = &[
    "0",
    "1",
    "none",
    "auto",
    "true",
    "false",
    "disk",
    "memory",
    "64KiB",
    "1 MiB",
    "16777215TiB",
    "5m",
    "36500d",
    "-1",
    "18446744073709551616",
    "1e9",
    "0x10",
    "[]",
    "[a, b/#]",
    "{}",
    "~",
    "null",
    "'",
    "\"",
    "&a b",
    "*a",
    "!t x",
    "|",
    ">",
    "127.0.0.1:0",
    "[::1]:1",
    "0777",
    "work",
    "limits",
    "drop-oldest",
    "$x",
    "a: b",
    "[[[[",
    "1_000",
    "2 ms",
];

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Text(text) => judge(text),
        Input::Example(edits) => judge(&edited(&edits)),
        Input::Variables(variables) => environment(&variables),
        Input::Repeat { before, piece, times, after } => {
            if piece.len() * usize::from(times) <= 1 << 16 {
                judge(&format!("{before}{}{after}", piece.repeat(usize::from(times))));
            }
        }
    }
});

fn edited(edits: &[Edit<'_>]) -> String {
    let mut lines: Vec<String> = EXAMPLE.lines().filter(|l| !l.trim_start().starts_with('#')).map(Into::into).collect();
    for edit in edits.iter().take(20) {
        if lines.is_empty() {
            break;
        }
        let at = usize::from(edit.line) % lines.len();
        let line = &mut lines[at];
        let colon = line.find(':').unwrap_or(line.len());
        match edit.what {
            What::Value(value) => *line = format!("{}: {value}", &line[..colon]),
            What::Word(word) => *line = format!("{}: {}", &line[..colon], WORDS[usize::from(word) % WORDS.len()]),
            What::Key(key) => *line = format!("{key}{}", &line[colon..]),
            What::Remove => drop(lines.remove(at)),
            What::Double => {
                let line = line.clone();
                lines.insert(at, line);
            }
            What::Indent(n) => *line = format!("{}{}", " ".repeat(usize::from(n % 20)), line.trim_start()),
            What::Insert(text) => lines.insert(at, text.into()),
            What::Cut(n) => {
                let end = line.char_indices().nth(usize::from(n)).map_or(line.len(), |(i, _)| i);
                line.truncate(end);
            }
        }
    }
    lines.join("\n")
}

fn judge(text: &str) {
    // CR alone ends a line in YAML, too.
    let lines = 1 + text.bytes().filter(|b| *b == b'\n' || *b == b'\r').count() as u32;
    let well_placed = |problem: &Problem| {
        assert!(!problem.message.is_empty());
        match &problem.place {
            Some(Place::File { line, column, .. }) => {
                assert!(*line <= lines, "{problem}: line {line} of {lines}");
                assert!(*column as usize <= text.len() + 1, "{problem}");
            }
            Some(Place::Env { variable }) => panic!("{problem}: {variable} was not given"),
            None => {}
        }
    };
    match parse(text, "fuzz.yaml") {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(well_placed);
            accepted(&loaded);
        }
        Err(errors) => {
            assert!(!errors.problems.is_empty(), "an error without a mistake");
            errors.problems.iter().for_each(well_placed);
            assert!(!errors.to_string().is_empty());
        }
    }
}

fn environment(variables: &[(u8, &str)]) {
    let defaults = Settings::default();
    let keys: Vec<String> = list(&defaults).into_iter().map(|(key, _)| key).filter(|k| !k.contains('[')).collect();
    let variable = |(n, value): &(u8, &str)| {
        let key = keys[usize::from(*n) % keys.len()].to_uppercase().replace('.', "__");
        (OsString::from(format!("TIDEGATE_{key}")), OsString::from(*value))
    };
    match load(None, variables.iter().map(variable)) {
        Ok(loaded) => accepted(&loaded),
        Err(errors) => assert!(!errors.problems.is_empty() && !errors.to_string().is_empty()),
    }
}

fn accepted(loaded: &Loaded) {
    let settings = &loaded.settings;
    let (limits, store) = (&settings.limits, &settings.store);
    assert!(
        limits.message_bytes_max <= limits.reassembly_bytes_max && limits.message_bytes_max <= limits.outbox_bytes_max
    );
    assert!(limits.message_bytes_max <= limits.window_bytes && limits.message_bytes_max <= store.pending_bytes_max);
    assert!(store.free_low_bytes < store.free_high_bytes && store.batch_bytes <= store.pending_bytes_max);
    assert!(limits.connections_max > 0 && limits.window_messages > 0 && limits.streams_max > 0);
    for (i, queue) in settings.queues.iter().enumerate() {
        assert!(!queue.capture.is_empty() && !queue.name.is_empty() && !queue.name.starts_with('$'));
        assert!(settings.queues[..i].iter().all(|q| q.name != queue.name), "{} twice", queue.name);
        assert!(queue.window > 0 && queue.consumers_max > 0 && queue.backoff_ms <= queue.backoff_ms_max);
    }
    let again = parse(&written(settings), "again.yaml");
    let again = again.unwrap_or_else(|errors| panic!("what was taken is refused as it lists itself: {errors}"));
    assert_eq!(&again.settings, settings);
    assert_eq!(again.warnings.len(), loaded.warnings.len());
    assert!(diff(settings, &again.settings).is_empty());
    // A reload from anything and to anything leaves settings of which only what may change did.
    let defaults = Settings::default();
    let reloaded = reloadable(&defaults, settings);
    assert!(diff(&defaults, &reloaded).iter().all(|c| c.reloadable), "{:?}", diff(&defaults, &reloaded));
    let now = Now { mono: Mono(0), wall: Wall(0) };
    if store.dedupe.ids_max <= 1_000_000 {
        let broker = Broker::new(now, Arc::new(settings.clone()), &*MemoryStore::new().reader(), 1);
        assert!(broker.is_ok());
    }
}

/// The settings as a file, from how they list themselves.
fn written(settings: &Settings) -> String {
    let mut top: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut queues: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for (key, value) in list(settings) {
        let Some(rest) = key.strip_prefix("queues[") else {
            let (section, rest) = key.split_once('.').unwrap_or((&key, ""));
            top.entry(section.into()).or_default().insert(rest.into(), value);
            continue;
        };
        let (name, key) = rest.split_once("].").expect("names have no bracket");
        if queues.last().is_none_or(|(last, _)| last != name) {
            queues.push((name.into(), BTreeMap::new()));
        }
        queues.last_mut().expect("just pushed").1.insert(key.into(), value);
    }
    let tcp: Vec<String> = settings.listen.tcp.iter().map(ToString::to_string).collect();
    top.entry("listen".into()).or_default().remove("tcp");
    let mut out = String::new();
    for (section, keys) in &top {
        match keys.get("") {
            Some(value) => out.push_str(&format!("{section}: {}\n", quoted(value))),
            None => {
                out.push_str(&format!("{section}: {{"));
                if section == "listen" {
                    out.push_str(&format!("tcp: {}, ", quoted_list(&tcp)));
                }
                out.push_str(&nested(keys));
                out.push_str("}\n");
            }
        }
    }
    if queues.is_empty() {
        return out + "queues: []\n";
    }
    out.push_str("queues:\n");
    for ((_, keys), queue) in queues.iter_mut().zip(&settings.queues) {
        keys.remove("capture");
        out.push_str(&format!("  - {{capture: {}, {}}}\n", quoted_list(&queue.capture), nested(keys)));
    }
    out
}

/// Keys with at most two levels as a flow map's inside.
fn nested(keys: &BTreeMap<String, String>) -> String {
    let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, value) in keys {
        match key.split_once('.') {
            Some((group, rest)) => groups.entry(group).or_default().push(format!("{rest}: {}", quoted(value))),
            None => groups.entry(key).or_default().push(quoted(value)),
        }
    }
    let deep = |key: &str| keys.keys().any(|k| k.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')));
    let group = |(key, values): (&&str, &Vec<String>)| {
        if deep(key) { format!("{key}: {{{}}}", values.join(", ")) } else { format!("{key}: {}", values.join("")) }
    };
    groups.iter().map(group).collect::<Vec<_>>().join(", ")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (' '..='~').contains(&c) => out.push(c),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out + "\""
}

fn quoted_list(items: &[String]) -> String {
    if items.is_empty() {
        return "none".into();
    }
    format!("[{}]", items.iter().map(|t| quoted(t)).collect::<Vec<_>>().join(", "))
}
