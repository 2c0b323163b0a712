//! YAML text to a tree in which every key and value knows its line and column.
//!
//! Built on the parser's events: deserialising through serde would lose the place of a value that is well-formed but
//! wrong. Scalars keep their text, so nothing is guessed about `0660` or `no`. Anchors, aliases, tags and several
//! documents in one file are refused: a configuration needs none of them.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Longest configuration, in bytes.
pub(super) const FILE_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of lists and maps.
const DEPTH_MAX: usize = 16;

/// Line and column, both from 1; the column counts characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pos {
    pub line: u32,
    pub column: u32,
}

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub pos: Pos,
    pub value: Value,
}

/// A value.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text as written, without its quotes.
    Scalar(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in order.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub pos: Pos,
    pub node: Node,
}

/// A mistake of the YAML itself.
#[derive(Debug)]
pub(super) struct Mistake {
    pub pos: Pos,
    pub message: String,
}

/// Reads a text. Keys written twice are reported in `mistakes` and the first is kept; `None` when the text is no YAML.
pub(super) fn parse(text: &str, mistakes: &mut Vec<Mistake>) -> Option<Node> {
    if text.len() > FILE_BYTES_MAX {
        let message = format!("found {} bytes; expected at most {FILE_BYTES_MAX}", text.len());
        mistakes.push(Mistake { pos: Pos::default(), message });
        return None;
    }
    let mut reader = Reader { parser: Parser::new_from_str(text), mistakes };
    match reader.document() {
        Ok(node) => Some(node),
        Err(mut mistake) => {
            // At the end of a file without a last line break the parser counts one line too many.
            let last = last_line(text);
            if mistake.pos.line > last {
                mistake.pos = Pos { line: last, column: 0 };
            }
            mistakes.push(mistake);
            None
        }
    }
}

/// Number of the last line; LF, CR and both together end one.
fn last_line(text: &str) -> u32 {
    let feeds = text.matches('\n').count() + text.matches('\r').count() - text.matches("\r\n").count();
    u32::try_from(1 + feeds).unwrap_or(u32::MAX)
}

struct Reader<'a, 'm> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    mistakes: &'m mut Vec<Mistake>,
}

impl<'a> Reader<'a, '_> {
    fn document(&mut self) -> Result<Node, Mistake> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => return Err(at(&span, "found a second document; expected one")),
                event => root = Some(self.node(event, &span, 0)?),
            }
        }
        Ok(root.unwrap_or(Node { pos: Pos { line: 1, column: 1 }, value: Value::Null }))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Mistake> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(not_yaml(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Mistake> {
        if depth > DEPTH_MAX {
            return Err(at(span, &format!("found more than {DEPTH_MAX} levels; expected fewer")));
        }
        let value = match event {
            Event::Alias(_) => return Err(at(span, "found an alias (`*name`); expected the value itself")),
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                return Err(at(span, "found an anchor (`&name`); expected the value alone"));
            }
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                return Err(at(span, "found a tag (`!name`); expected the value alone"));
            }
            Event::Scalar(text, ScalarStyle::Plain, ..) if matches!(&*text, "" | "~" | "null") => Value::Null,
            Event::Scalar(text, ..) => Value::Scalar(text.into_owned()),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Value::List(items),
                        (event, span) => items.push(self.node(event, &span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => Value::Map(self.entries(depth)?),
            _ => return Err(at(span, "found the end of the file; expected a value")),
        };
        Ok(Node { pos: pos(span), value })
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Mistake> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let key = self.node(event, &span, depth + 1)?;
            let Value::Scalar(name) = key.value else {
                return Err(at(&span, "found a key that is not a word; expected a name"));
            };
            let (event, span) = self.next()?;
            let node = self.node(event, &span, depth + 1)?;
            match entries.iter().find(|entry| entry.key == name) {
                Some(first) => {
                    let message = format!("found `{name}` again; expected it once (first in line {})", first.pos.line);
                    self.mistakes.push(Mistake { pos: key.pos, message });
                }
                None => entries.push(Entry { key: name, pos: key.pos, node }),
            }
        }
    }
}

fn pos(span: &Span) -> Pos {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Pos { line: number(span.start.line()), column: number(span.start.col() + 1) }
}

fn at(span: &Span, message: &str) -> Mistake {
    Mistake { pos: pos(span), message: message.into() }
}

fn not_yaml(error: &ScanError) -> Mistake {
    at(&Span::empty(*error.marker()), &format!("not YAML: {}", error.info()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_are_those_of_an_editor() {
        let mut mistakes = Vec::new();
        let root = parse("a: 1\nb:\n  - x\n  - {c: 'y', d: }\n", &mut mistakes).expect("YAML");
        let Value::Map(entries) = &root.value else { panic!("{root:?}") };
        assert_eq!((entries[0].pos, entries[0].node.pos), (Pos { line: 1, column: 1 }, Pos { line: 1, column: 4 }));
        let Value::List(items) = &entries[1].node.value else { panic!("{root:?}") };
        assert_eq!(items[0].pos, Pos { line: 3, column: 5 });
        let Value::Map(inner) = &items[1].value else { panic!("{root:?}") };
        assert_eq!((inner[0].pos, inner[0].node.pos), (Pos { line: 4, column: 6 }, Pos { line: 4, column: 9 }));
        assert!(matches!(inner[1].node.value, Value::Null));
        assert!(mistakes.is_empty());
    }

    #[test]
    fn a_mistake_at_the_end_of_the_file_is_in_its_last_line() {
        for (text, last) in [("a: 1\nb", 2), ("a:\n  b: 1\n  c", 3), ("a: 1\r\nb: 2\r\nc", 3), ("a: [", 1)] {
            let mut mistakes = Vec::new();
            assert!(parse(text, &mut mistakes).is_none(), "{text:?}");
            let [Mistake { pos, .. }] = mistakes[..] else { panic!("{mistakes:?}") };
            assert!(pos.line <= last, "{text:?}: line {} of {last}", pos.line);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_tree_or_a_mistake(text in "[ab:#\\-\\[\\]{}\"'&*!|>%@`,? \n\t\u{e9}]{0,64}") {
            let mut mistakes = Vec::new();
            if parse(&text, &mut mistakes).is_none() {
                prop_assert!(!mistakes.is_empty());
            }
        }
    }
}
