//! The habits that no compiler checks: who imports whom, who reads a clock, how long files are, which words are used.
//!
//! The tables come first and are meant to be edited; a change to them is a change to the architecture and says so in
//! its commit. The reading is plain text search over code laid out by rustfmt, with comments, literals and test code
//! taken out where a rule is about the product alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each room and the rooms it may import. A room that is not here may not exist.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wire", &["model"]),
    ("session", &["model", "wire"]),
    ("schedule", &["model"]),
    ("config", &["model", "wire"]),
    ("routing", &["model", "config"]),
    ("store", &["model", "wire"]),
    ("queue", &["model", "wire", "schedule", "config", "store"]),
    ("protocols", &["model", "wire", "session"]),
    ("observe", &["model", "wire", "config"]),
    ("seal", &["model"]),
    ("auth", &["model", "wire", "session", "config", "seal"]),
    (
        "broker",
        &[
            "model",
            "wire",
            "session",
            "routing",
            "schedule",
            "queue",
            "store",
            "config",
            "observe",
            "protocols",
            "seal",
        ],
    ),
    ("runtime", &["model"]),
    ("tls", &["model"]),
    ("websocket", &["model", "wire"]),
    ("client", &["model", "wire", "schedule", "seal", "tls", "websocket"]),
    ("bridge", &["model", "wire", "schedule", "config", "client", "seal"]),
    ("transport", &["model", "session", "config", "auth", "runtime", "tls", "websocket"]),
    (
        "daemon",
        &[
            "model",
            "wire",
            "schedule",
            "broker",
            "store",
            "config",
            "observe",
            "runtime",
            "transport",
            "auth",
            "session",
            "seal",
            "tls",
            "websocket",
            "bridge",
            "client",
        ],
    ),
    (
        "cli",
        &[
            "model",
            "wire",
            "client",
            "config",
            "store",
            "daemon",
            "observe",
            "runtime",
            "auth",
            "seal",
            "routing",
            "session",
            "transport",
            "tls",
        ],
    ),
];

/// Rooms, and files of others, that never touch a clock, randomness, a socket, a file, a task or a lock.
const PURE: &[&str] = &[
    "src/model/",
    "src/wire/",
    "src/session/",
    "src/routing/",
    "src/schedule/",
    "src/queue/",
    "src/protocols/",
    "src/seal/",
    "src/broker/",
    "src/bridge/",
    "src/client/core",
];

/// What must not appear in them. Randomness comes as a seed: `fastrand::Rng::with_seed` is a number, not a source.
const IMPURE: &[&str] = &[
    "smol",
    "rustix",
    "async_signal",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "std::io",
    "std::os",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
    "fastrand::Rng::new",
    "fastrand::u",
    "fastrand::f",
    "getrandom",
];

/// Where a clock may be read: the client has one of its own, since a program that uses it has no daemon.
const CLOCKS: &[&str] = &["src/runtime/", "src/client/clock.rs", "src/cli/bench/"];

/// Where a thread may be started.
const THREADS: &[&str] = &[
    "src/runtime/",
    "src/store/committer.rs",
    // The reader, and daemons of tests.
    "src/daemon/worker.rs",
    // Credentials.
    "src/daemon/porter.rs",
    "src/daemon/testing.rs",
    // One task a client.
    "src/client/client.rs",
];

/// Most lines of a file.
const LINES_MAX: usize = 700;

/// Files that may be longer, with the reason.
const LONG: &[(&str, &str)] = &[("tests/golden.rs", "one entry for each frame kind and each malformation")];

/// What may stand at the top: of a stray file nobody would say why it is there.
const TOP: &[&str] = &[
    ".ci",
    ".github",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "Cross.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "clients",
    "clippy.toml",
    "cross",
    "deny.toml",
    "docs",
    "examples",
    "fuzz",
    "proto",
    "rustfmt.toml",
    "scripts",
    "src",
    "systemd",
    "tests",
];

/// Words that the project does not use, and the word it uses instead.
const WORDS: &[(&str, &str)] = &[("topic", "channel"), ("topics", "channels"), ("mailbox", "queue")];

/// Traces of one person's machine. In halves, so that this file holds none of them.
const PRIVATE: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/tmp/", "wt-"),
    concat!("arti", "factory"),
    concat!("index.crates", ".io"),
];

/// Ends of the names of files that are text and ours.
const TEXTS: &[&str] =
    &["rs", "md", "toml", "yaml", "yml", "service", "socket", "conf", "sh", "proto", "json", "1", "run", "check"];

/// A file of the repository.
struct File {
    /// Path from its root, with `/`.
    path: String,
    /// Everything.
    text: String,
    /// Code alone: no comments, no literals, no test code.
    code: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_product(&self) -> bool {
        self.is_rust() && self.path.starts_with("src/") && !is_test_file(&self.path)
    }

    fn room(&self) -> Option<&str> {
        let mut parts = self.path.strip_prefix("src/")?.split('/');
        let room = parts.next()?;
        parts.next().map(|_| room)
    }

    /// Lines of the code that hold a piece of text at the beginning of a word, for messages.
    fn lines_with(&self, piece: &str) -> Vec<String> {
        let holds = |line: &&str| {
            line.match_indices(piece).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        };
        self.code.lines().filter(holds).map(|line| format!("{}: `{piece}` in `{}`", self.path, line.trim())).collect()
    }
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.ends_with("/testing.rs") || path.contains("/tests/")
}

fn within(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

/// Names at the top of what git keeps; of an unpacked package, where there is no git, all that is there and not built.
fn at_the_top() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]).output();
    let listed = listed.ok().filter(|output| output.status.success() && !output.stdout.is_empty());
    let top: BTreeSet<String> = match listed {
        Some(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split_terminator('\0').filter_map(|path| path.split('/').next().map(str::to_owned)).collect()
        }
        None => {
            let entries = fs::read_dir(root).expect("the root");
            let names = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
            names
                .filter(|name| !matches!(name.as_str(), "target" | ".cargo_vcs_info.json" | "Cargo.toml.orig"))
                .collect()
        }
    };
    assert!(top.contains("src") && top.contains("Cargo.toml"), "the top was found: {top:?}");
    top
}

fn repository() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                // Not ours, or not written by people.
                if !matches!(name.as_str(), "target" | ".git" | "dist" | "corpus" | "artifacts") {
                    folders.push(path);
                }
            } else if TEXTS.contains(&name.rsplit('.').next().unwrap_or(&name)) {
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let relative = path.strip_prefix(root).expect("below the root");
                let code = if name.ends_with(".rs") { without_tests(&without_text(&text)) } else { String::new() };
                files.push(File { path: relative.to_string_lossy().replace('\\', "/"), text, code });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the repository was found");
    files
}

/// Code without comments and the insides of literals; lines stay lines.
fn without_text(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < bytes.len() {
        let rest = &bytes[i..];
        match rest {
            ['/', '/', ..] => i += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => {
                let end = rest.windows(2).position(|w| w == ['*', '/']).map_or(rest.len(), |at| at + 2);
                out.extend(rest[..end].iter().filter(|c| **c == '\n'));
                i += end;
            }
            ['r', '"' | '#', ..] if !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') => {
                let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
                if rest.get(1 + hashes) != Some(&'"') {
                    out.push('r');
                    i += 1;
                    continue;
                }
                let mut close = vec!['"'];
                close.extend(std::iter::repeat_n('#', hashes));
                let inside = &rest[2 + hashes..];
                let end = inside.windows(close.len()).position(|w| w == close.as_slice()).unwrap_or(inside.len());
                out.extend(inside[..end].iter().filter(|c| **c == '\n'));
                out.push_str("\"\"");
                i += 2 + hashes + end + close.len();
            }
            ['"', ..] => {
                out.push_str("\"\"");
                i += 1;
                while i < bytes.len() && bytes[i] != '"' {
                    if bytes[i] == '\n' || (bytes[i] == '\\' && bytes.get(i + 1) == Some(&'\n')) {
                        out.push('\n');
                    }
                    i += if bytes[i] == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            // A character literal that would otherwise begin a string or a comment.
            ['\'', '\\', _, '\'', ..] => i += 4,
            ['\'', _, '\'', ..] => i += 3,
            [c, ..] => {
                out.push(*c);
                i += 1;
            }
            [] => {}
        }
    }
    out
}

/// Code without the items behind `#[cfg(test)]`, as rustfmt lays them out.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        if !(trimmed.starts_with("#[cfg(test)]") || trimmed.starts_with("#[cfg(all(test")) {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        let indent = &line[..line.len() - trimmed.len()];
        let close = format!("{indent}}}");
        for line in lines.by_ref() {
            let at_indent = line.starts_with(indent) && !line[indent.len()..].starts_with([' ', '#', '}', ')']);
            if line == close || (at_indent && line.ends_with([';', ',', '}'])) {
                break;
            }
        }
    }
    out
}

/// Rooms that code names after `crate::`, alone or in braces.
fn imports(code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && !c.is_whitespace() => {
                    found.push(word(&group[i..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn the_table_of_rooms_has_no_circle() {
    for (n, (room, may)) in ROOMS.iter().enumerate() {
        for import in *may {
            let position = ROOMS.iter().position(|(name, _)| name == import);
            assert!(position.is_some_and(|at| at < n), "{room} may import {import}, which must stand above it");
        }
    }
}

#[test]
fn rooms_import_only_what_their_row_allows() {
    let rooms: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let files = repository();
    let mut broken = Vec::new();
    for file in files.iter().filter(|file| file.is_product()) {
        let Some(room) = file.room() else { continue };
        let Some(may) = rooms.get(room) else {
            broken.push(format!("{}: the room {room} is not in the table", file.path));
            continue;
        };
        for import in imports(&file.code) {
            if import != room && rooms.contains_key(import.as_str()) && !may.contains(&import.as_str()) {
                broken.push(format!("{}: {room} may not import {import}", file.path));
            }
        }
        // The way round: `super::other_room`, where the room has no module of that name.
        for other in rooms.keys().filter(|other| **other != room) {
            let own = files.iter().any(|f| {
                f.path == format!("src/{room}/{other}.rs") || f.path.starts_with(&format!("src/{room}/{other}/"))
            });
            if !own && file.code.contains(&format!("super::{other}::")) {
                broken.push(format!("{}: {other} by way of super", file.path));
            }
        }
    }
    assert_none("rooms import only what their row allows", &broken);
}

#[test]
fn pure_rooms_touch_nothing() {
    let mut broken = Vec::new();
    for file in repository().iter().filter(|file| file.is_product() && within(&file.path, PURE)) {
        broken.extend(IMPURE.iter().flat_map(|piece| file.lines_with(piece)));
    }
    assert_none("pure rooms read no clock, file, socket or randomness, and hold no lock", &broken);
}

#[test]
fn clocks_and_threads_have_their_places() {
    let mut broken = Vec::new();
    for file in repository().iter().filter(|file| file.is_product()) {
        if !within(&file.path, CLOCKS) {
            broken.extend(["Instant::now", "SystemTime::now"].iter().flat_map(|piece| file.lines_with(piece)));
        }
        if !within(&file.path, THREADS) {
            broken.extend(["thread::spawn", "thread::Builder", "smol::spawn"].iter().flat_map(|p| file.lines_with(p)));
        }
    }
    assert_none("only the places of the tables read a clock or start a thread", &broken);
}

#[test]
fn every_file_says_what_it_is_and_keeps_to_a_length() {
    let mut broken = Vec::new();
    for file in repository().iter().filter(|file| file.is_rust()) {
        if !file.text.starts_with("//! ") {
            broken.push(format!("{}: does not begin with a //! sentence", file.path));
        }
        let lines = file.text.lines().count();
        if lines > LINES_MAX && !LONG.iter().any(|(path, _)| *path == file.path) {
            broken.push(format!("{}: has {lines} lines; at most {LINES_MAX}, or a row in LONG", file.path));
        }
    }
    assert_none("files open with a sentence and are not too long", &broken);
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let mut broken = Vec::new();
    for file in repository().iter().filter(|file| file.is_product()) {
        let lines = file.code.lines().filter(|line| line.contains(".unwrap()"));
        broken.extend(lines.map(|line| format!("{}: {}", file.path, line.trim())));
    }
    assert_none("`expect` with its proof, or an error; never unwrap", &broken);
}

#[test]
fn the_same_noun_everywhere() {
    let mut broken = Vec::new();
    for file in repository().iter().filter(|file| file.path.starts_with("src/")) {
        for (number, line) in file.text.lines().enumerate() {
            let line = line.to_lowercase();
            for (word, instead) in WORDS {
                if line.split(|c: char| !c.is_alphanumeric()).any(|w| w == *word) {
                    broken.push(format!("{}:{}: `{word}`; say {instead}", file.path, number + 1));
                }
            }
        }
    }
    assert_none("the words of the design", &broken);
}

#[test]
fn nothing_stray_stands_at_the_top() {
    let broken: Vec<String> = at_the_top().into_iter().filter(|name| !TOP.contains(&name.as_str())).collect();
    assert_none("the list of what stands at the top", &broken);
}

#[test]
fn nothing_private_is_written_down() {
    let mut broken = Vec::new();
    for file in repository() {
        for (number, line) in file.text.lines().enumerate() {
            for piece in PRIVATE.iter().filter(|piece| line.contains(**piece)) {
                // Cargo.lock's registry is a name that everyone shares, but it is no file of ours and not read here.
                broken.push(format!("{}:{}: {piece}", file.path, number + 1));
            }
        }
    }
    assert_none("no path or host of one machine", &broken);
}

#[test]
fn the_reading_itself_works() {
    let code =
        without_text("let a = \"crate::x // no\"; // crate::y\nlet b = r#\"crate::z\"#; let c = '\"'; crate::w;\n");
    assert_eq!(code.lines().count(), 2);
    assert_eq!(imports(&code), ["w"]);
    assert_eq!(imports("use crate::{a::b, c::{d, e}, f};"), ["a", "c", "f"]);
    let kept = without_tests(
        "#[cfg(test)]\nmod tests;\nmod a;\n#[cfg(all(test, unix))]\nmod tests {\n    use crate::x;\n}\nfn b() {}\n\
         impl C {\n    #[cfg(test)]\n    fn d() {\n        crate::y;\n    }\n    fn e() {}\n}\n",
    );
    assert_eq!(kept, "mod a;\nfn b() {}\nimpl C {\n    fn e() {}\n}\n");
}
