//! Filters come and go in the routing table; what it finds is what matching each filter by itself finds, and both agree
//! with MQTT's rules written down once more as plainly as they go.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tidegate::model::{Channel, Filter};
use tidegate::routing::Table;

#[derive(Arbitrary, Debug)]
enum Op {
    Insert { filter: Text, target: u8 },
    Remove { which: u8 },
    RemoveAny { filter: Text, target: u8 },
    Ask { channel: Text },
}

/// A text of few words, so that filters and channels meet, or any.
#[derive(Arbitrary, Debug)]
enum Text {
    Words(Vec<u8>),
    Any(String),
}

impl Text {
    fn get(&self) -> String {
        const WORDS: &[&str] = &["a", "b", "", "+", "#", "$SYS", "a+", "long level with spaces", "é"];
        match self {
            Self::Words(words) => {
                let words: Vec<&str> = words.iter().take(140).map(|w| WORDS[usize::from(*w) % WORDS.len()]).collect();
                words.join("/")
            }
            Self::Any(text) => text.clone(),
        }
    }
}

fuzz_target!(|ops: Vec<Op>| {
    let mut table = Table::default();
    let mut model: Vec<(String, u8)> = Vec::new();
    for op in &ops {
        match op {
            Op::Insert { filter, target } => {
                let filter = filter.get();
                assert_eq!(Filter::parse(&filter).is_ok(), is_filter(&filter), "{filter:?}");
                if Filter::parse(&filter).is_ok() {
                    table.insert(&filter, *target);
                    if !model.contains(&(filter.clone(), *target)) {
                        model.push((filter, *target));
                    }
                }
            }
            Op::Remove { which } if !model.is_empty() => {
                let (filter, target) = model.swap_remove(usize::from(*which) % model.len());
                table.remove(&filter, target);
            }
            Op::Remove { .. } => {}
            Op::RemoveAny { filter, target } => {
                let filter = filter.get();
                if Filter::parse(&filter).is_ok() {
                    table.remove(&filter, *target);
                    model.retain(|known| *known != (filter.clone(), *target));
                }
            }
            Op::Ask { channel } => ask(&table, &model, &channel.get()),
        }
        assert_eq!((table.len(), table.is_empty()), (model.len(), model.is_empty()));
    }
    for channel in ["a", "a/b", "$SYS/a", "a//b", "/"] {
        ask(&table, &model, channel);
    }
});

fn ask(table: &Table<u8>, model: &[(String, u8)], text: &str) {
    let Ok(channel) = Channel::parse(text) else { return };
    let mut found = Vec::new();
    table.matches(text, &mut found);
    let mut expected = Vec::new();
    for (filter, target) in model {
        let matches = Filter::parse(filter).expect("only filters are kept").matches(channel);
        assert_eq!(matches, plainly(filter, text), "{filter:?} on {text:?}");
        if matches {
            expected.push(*target);
        }
    }
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{text:?} among {model:?}");
}

/// MQTT 3.1.1, 4.7, by recursion over levels.
fn plainly(filter: &str, channel: &str) -> bool {
    fn levels(filter: &[&str], channel: &[&str]) -> bool {
        match (filter, channel) {
            (["#"], _) => true,
            ([], []) => true,
            (["+", f @ ..], [_, c @ ..]) => levels(f, c),
            ([a, f @ ..], [b, c @ ..]) if a == b => levels(f, c),
            _ => false,
        }
    }
    let (filter, channel): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), channel.split('/').collect());
    let hidden = channel[0].starts_with('$') && ["+", "#"].contains(&filter[0]);
    !hidden && levels(&filter, &channel)
}

fn is_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    let last = levels.len() - 1;
    (1..=1_024).contains(&text.len())
        && levels.len() <= 128
        && !text.contains('\0')
        && levels
            .iter()
            .enumerate()
            .all(|(i, l)| (!l.contains('+') || *l == "+") && (!l.contains('#') || (*l == "#" && i == last)))
}
