//! Mistakes and what is said about them, word for word.

use super::items::Item;
use super::*;
use std::collections::BTreeSet;

fn rendered(text: &str) -> String {
    match parse(text, "t.yaml") {
        Ok(loaded) => format!("valid: {:?}", loaded.settings),
        Err(errors) => errors.to_string(),
    }
}

fn with_env(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    build(text, "t.yaml", variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
}

#[test]
fn the_example_file_is_the_defaults() {
    let loaded = parse(EXAMPLE, "example.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.settings, Settings::default());
    assert_eq!(loaded.warnings, []);
    assert_eq!(load(None, []).map(|loaded| loaded.settings), Ok(Settings::default()));
}

#[test]
fn the_example_file_names_every_key() {
    let mut reading = read::Reading::new("example.yaml");
    reading.file(EXAMPLE);
    let missing: BTreeSet<String> = keys::SETTINGS
        .iter()
        .map(|key| key.path.to_owned())
        .chain(QueueSettings::TABLE.iter().map(|key| format!("queues[0].{}", key.path)))
        .filter(|path| reading.place(path).is_none())
        .collect();
    assert_eq!(missing, BTreeSet::new());
}

/// The items that the example shows in comments, as a file of their own.
fn shown_items() -> String {
    let mut text = String::new();
    let mut item: Vec<&str> = Vec::new();
    for line in EXAMPLE.lines() {
        match line.strip_prefix("# ").filter(|line| line.starts_with("  ")) {
            Some(line) => item.push(line),
            None if line.ends_with(": []") && !line.starts_with(' ') && !item.is_empty() => {
                text.push_str(&format!("{}\n{}\n", line.trim_end_matches(" []"), item.join("\n")));
                item.clear();
            }
            None => item.clear(),
        }
    }
    text
}

#[test]
fn the_items_shown_in_comments_are_right_and_name_every_key() {
    let text = shown_items().replace("ed25519:...", "ed25519:AAAA");
    let mut reading = read::Reading::new("items");
    reading.file(&text);
    assert_eq!(reading.problems, [], "{text}");
    let mut missing = BTreeSet::new();
    fn look<T: Item>(reading: &read::Reading, missing: &mut BTreeSet<String>) {
        let paths = T::TABLE.iter().map(|key| format!("{}[0].{}", T::LIST, key.path));
        missing.extend(paths.filter(|path| reading.place(path).is_none()));
    }
    look::<IssuerSettings>(&reading, &mut missing);
    look::<RoleSettings>(&reading, &mut missing);
    look::<TenantSettings>(&reading, &mut missing);
    look::<SignatureSettings>(&reading, &mut missing);
    look::<BridgeSettings>(&reading, &mut missing);
    look::<OutageSettings>(&reading, &mut missing);
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn defaults_are_within_their_own_bounds() {
    // Written out and read back, every key takes its own default.
    let settings = Settings::default();
    for key in keys::SETTINGS {
        let mut copy = settings.clone();
        key.copy(&settings, &mut copy);
        assert_eq!(copy, settings, "{}", key.path);
        if let keys::Kind::Number { unit, min, max, none, get, .. } = key.kind {
            let value = get(&settings);
            assert!(none == Some(value) || (min..=max).contains(&value), "{}: {}", key.path, unit.show(value));
        }
    }
}

/// A file and what is said about it.
const MISTAKES: &[(&str, &str)] = &[
    // doors
    (
        "listen: {tls: [127.0.0.1:1]}\n",
        "t.yaml:1:15: listen.tls: found 127.0.0.1:1 without tls.certificates; expected a certificate to show there",
    ),
    (
        "tls: {certificates: [a.pem]}\n",
        "t.yaml:1:21: tls.certificates: found 0 keys; expected 1, one for each of tls.certificates",
    ),
    (
        "tls: {certificates: [a.pem], keys: [a.key]}\n",
        "t.yaml:1:37: tls.keys: found a text, which does not say where the secret is; expected file:PATH, \
         credential:NAME (of systemd) or env:NAME",
    ),
    (
        "tls: {client_certificates: required}\n",
        "t.yaml:1:28: tls.client_certificates: found no authority; expected one whose client certificates are believed",
    ),
    (
        "http: {origins: [example.org]}\n",
        "t.yaml:1:18: http.origins: found `example.org`, which does not begin with https:// or http://; expected origins \
         such as https://example.org, * or none",
    ),
    (
        "http: {trusted_proxies: [10.0.0.0/33]}\n",
        "t.yaml:1:26: http.trusted_proxies: found `10.0.0.0/33`, whose prefix is not a number from 0 to 32; expected \
         addresses or networks such as 10.0.0.0/8, or none",
    ),
    (
        "roles: [{name: a, publish: [\"x/{client}y\"]}]\n",
        "t.yaml:1:29: roles[0].publish: found `x/{client}y`, whose level `{client}y` is not {client} or {tenant} alone; \
         expected filters such as site/{client}/#, or none",
    ),
    ("roles: [{name: open}]\n", "t.yaml:1:16: roles[0].name: found `open`, which is taken; expected another"),
    ("auth: {anonymous: x}\n", "t.yaml:1:19: auth.anonymous: found `x`; expected the name of a role: open, admin"),
    (
        "queues: [{name: a, capture: a, tenant: t}]\n",
        "t.yaml:1:40: queues[0].tenant: found `t`; expected the name of one of the tenants",
    ),
    (
        "issuers: [{name: i, algorithms: [none], audiences: [a], keys: [env:K]}]\n",
        "t.yaml:1:33: issuers[0].algorithms: found none; expected at least one",
    ),
    (
        "issuers: [{name: i, algorithms: [HS256], audiences: [a]}]\n",
        "t.yaml:1:18: issuers[0].name: found neither keys nor jwks; expected what `i` signs with",
    ),
    // the YAML
    ("name: a\nname: b\n", "t.yaml:2:1: found `name` again; expected it once (first in line 1)"),
    ("store: [\n", "t.yaml:2:1: not YAML: while parsing a node, did not find expected node content"),
    ("a: &x 1\n", "t.yaml:1:4: found an anchor (`&name`); expected the value alone"),
    ("name: !!str 1\n", "t.yaml:1:7: found a tag (`!name`); expected the value alone"),
    ("name: a\n---\nname: b\n", "t.yaml:3:1: found a second document; expected one"),
    ("[1]: a\n", "t.yaml:1:1: found a key that is not a word; expected a name"),
    (
        "- a\n",
        "t.yaml:1:1: found a list; expected a map of name, data, listen, tls, http, auth, limits, store, issuers, roles, tenants, signatures, queues, bridges, outage, log",
    ),
    // keys
    ("nme: a\n", "t.yaml:1:1: nme: found an unknown key; did you mean `name`?"),
    ("store:\n  lingr: 2ms\n", "t.yaml:2:3: store.lingr: found an unknown key; did you mean `linger`?"),
    (
        "limits:\n  frame-timeout: 2s\n",
        "t.yaml:2:3: limits.frame-timeout: found an unknown key; did you mean `frame_timeout`?",
    ),
    ("heartbeat: 2s\n", "t.yaml:1:1: heartbeat: found an unknown key; did you mean `limits.heartbeat`?"),
    ("store.batch: 1MiB\n", "t.yaml:1:1: store.batch: found a dot in a key; expected each level below the other"),
    ("log:\n  colour: red\n", "t.yaml:2:3: log.colour: found an unknown key; expected one of level, format"),
    ("security: {}\n", "t.yaml:1:1: security: found a section that this version does not have yet"),
    (
        "queues:\n  - name: a\n    capture: x\n    limts: {}\n",
        "t.yaml:4:5: queues[0].limts: found an unknown key; did you mean `limits`?",
    ),
    // shapes
    (
        "store: 5\n",
        "t.yaml:1:1: store: found `5`; expected a map of batch, linger, cache, journal, tail, pending, free_low, free_high, file, reserve, alarm_priority, ack_linger, dedupe",
    ),
    (
        "store:\n  batch:\n",
        "t.yaml:2:3: store.batch: found nothing; expected a size from 4KiB to 64MiB (units: B, KiB, MiB, GiB, TiB)",
    ),
    ("name: [a]\n", "t.yaml:1:7: name: found a list; expected 1 to 128 letters, digits, `.`, `_` or `-`"),
    ("queues: main\n", "t.yaml:1:1: queues: found `main`; expected a list of queues, or []"),
    (
        "queues: [main]\n",
        "t.yaml:1:10: queues[0]: found `main`; expected a map of name, tenant, capture, storage, contract, keep, overflow, limits, history, consumer\n\
      t.yaml:1:10: queues[0].name: found nothing; expected name, which every queue has\n\
      t.yaml:1:10: queues[0].capture: found nothing; expected capture, which every queue has",
    ),
    // units
    (
        "store:\n  batch: 256\n",
        "t.yaml:2:10: store.batch: found `256`, which has no unit; expected a size from 4KiB to 64MiB (units: B, KiB, MiB, GiB, TiB)",
    ),
    (
        "store:\n  batch: 256KB\n",
        "t.yaml:2:10: store.batch: found `256KB`, whose unit `KB` is unknown (did you mean `KiB`?); expected a size from 4KiB to 64MiB (units: B, KiB, MiB, GiB, TiB)",
    ),
    (
        "limits:\n  heartbeat: 15\n",
        "t.yaml:2:14: limits.heartbeat: found `15`, which has no unit; expected a duration from 1s to 1h (units: ms, s, m, h, d)",
    ),
    (
        "limits:\n  heartbeat: -5s\n",
        "t.yaml:2:14: limits.heartbeat: found `-5s`, which is negative; expected a duration from 1s to 1h (units: ms, s, m, h, d)",
    ),
    (
        "limits:\n  heartbeat: 2d\n",
        "t.yaml:2:14: limits.heartbeat: found `2d`, which is too large; expected a duration from 1s to 1h (units: ms, s, m, h, d)",
    ),
    (
        "store: {linger: 99999999999999999999s}\n",
        "t.yaml:1:17: store.linger: found `99999999999999999999s`, which is too large; expected a duration from 0ms to 1s (units: us, ms, s, m, h, d)",
    ),
    (
        "limits: {connections: many}\n",
        "t.yaml:1:23: limits.connections: found `many`; expected a whole number from 1 to 1000000",
    ),
    (
        "limits: {connections: 0}\n",
        "t.yaml:1:23: limits.connections: found `0`, which is too small; expected a whole number from 1 to 1000000",
    ),
    (
        "store: {alarm_priority: 10}\n",
        "t.yaml:1:25: store.alarm_priority: found `10`, which is too large; expected a whole number from 0 to 9",
    ),
    (
        "limits: {frame: 2MiB}\n",
        "t.yaml:1:17: limits.frame: found `2MiB`, which is too large; expected a size from 16KiB to 1MiB (units: B, KiB, MiB, GiB, TiB)",
    ),
    (
        "limits: {message: 17MiB}\n",
        "t.yaml:1:19: limits.message: found `17MiB`, which is too large; expected a size from 1KiB to 16MiB (units: B, KiB, MiB, GiB, TiB)",
    ),
    (
        "queues: [{name: a, capture: x, limits: {bytes: 1.5GiB}}]\n",
        "t.yaml:1:48: queues[0].limits.bytes: found `1.5GiB`, which has a fraction; expected a size from 1KiB to 1024TiB (units: B, KiB, MiB, GiB, TiB)",
    ),
    // words and texts
    (
        "log: {level: verbose}\n",
        "t.yaml:1:14: log.level: found `verbose`; expected off or error or warn or info or debug or trace",
    ),
    (
        "queues: [{name: a, capture: x, contract: upstream}]\n",
        "t.yaml:1:42: queues[0].contract: found upstream; expected memory or disk, because no bridge forwards this queue",
    ),
    (
        "queues: [{name: a, capture: x, history: {enabled: yes}}]\n",
        "t.yaml:1:51: queues[0].history.enabled: found `yes`; expected false or true",
    ),
    (
        "name: $me\n",
        "t.yaml:1:7: name: found `$me`, which begins with `$`, the broker's own space; expected 1 to 128 letters, digits, `.`, `_` or `-`",
    ),
    ("name: ''\n", "t.yaml:1:7: name: found ``, which is empty; expected 1 to 128 letters, digits, `.`, `_` or `-`"),
    (
        "queues: [{name: a/b, capture: x}]\n",
        "t.yaml:1:17: queues[0].name: found `a/b`, which holds `/`; expected 1 to 128 letters, digits, `.`, `_` or `-`",
    ),
    (
        "queues: [{name: a, capture: [x, 'a/#/b']}]\n",
        "t.yaml:1:33: queues[0].capture: found `a/#/b` (not a filter: # must stand alone in the last level); expected filters such as site/+/temp or #",
    ),
    (
        "data: ~/tidegate\n",
        "t.yaml:1:7: data: found `~/tidegate`, whose `~` nobody expands here: write the whole path; expected a folder, or auto",
    ),
    (
        "listen: {tcp: localhost}\n",
        "t.yaml:1:15: listen.tcp: found `localhost`, which has no port from 0 to 65535; expected addresses such as 127.0.0.1:8433 or [::1]:8433, or none",
    ),
    (
        "listen: {tcp: 'localhost:1'}\n",
        "t.yaml:1:15: listen.tcp: found `localhost:1`, which is not an IP address and a port; expected addresses such as 127.0.0.1:8433 or [::1]:8433, or none",
    ),
    (
        "listen: {unix_mode: 0680}\n",
        "t.yaml:1:21: listen.unix_mode: found `0680`, which is not octal; expected octal permission bits from 0600 to 0777, such as 0660",
    ),
    (
        "listen: {unix_mode: 0440}\n",
        "t.yaml:1:21: listen.unix_mode: found `0440`, which locks the owner out; expected octal permission bits from 0600 to 0777, such as 0660",
    ),
    // contradictions
    (
        "store:\n  free_low: 96MiB\n",
        "t.yaml:2:13: store.free_low: found 96MiB; expected less than 96MiB, which is store.free_high",
    ),
    (
        "store:\n  free_high: 1MiB\n",
        "t.yaml:2:14: store.free_high: found 1MiB; expected more than 64MiB, which is store.free_low",
    ),
    (
        "store:\n  batch: 16MiB\n  cache: 64MiB\n",
        "t.yaml:2:10: store.batch: found 16MiB; expected at most 8MiB, which is store.pending",
    ),
    (
        "limits:\n  outbox: 64KiB\n",
        "t.yaml:2:11: limits.outbox: found 64KiB; expected at least 1MiB, which is limits.message",
    ),
    (
        "limits:\n  message: 3MiB\n",
        "t.yaml:2:12: limits.message: found 3MiB; expected at most 2MiB, which is limits.outbox",
    ),
    (
        "listen: {tcp: none, unix: none}\n",
        "t.yaml:1:15: listen.tcp: found no address and no listen.unix; expected at least one of them",
    ),
    (
        "listen: {tcp: ['127.0.0.1:1', '127.0.0.1:1']}\n",
        "t.yaml:1:15: listen.tcp: found 127.0.0.1:1 twice; expected each address once",
    ),
    (
        "listen: {tcp: ['127.0.0.1:1', '0.0.0.0:1']}\n",
        "t.yaml:1:15: listen.tcp: found 127.0.0.1:1 and 0.0.0.0:1, of which one includes the other; expected one of them",
    ),
    (
        "queues:\n  - {name: a, capture: x}\n  - {name: a, capture: y}\n",
        "t.yaml:3:12: queues[1].name: found `a`, the name of queues[0] too; expected another",
    ),
    (
        "queues: [{name: a, capture: []}]\n",
        "t.yaml:1:29: queues[0].capture: found no filter; expected at least one, such as #",
    ),
    (
        "queues: [{name: a, capture: x, storage: memory, contract: disk}]\n",
        "t.yaml:1:59: queues[0].contract: found disk; expected memory, because the queue's storage is memory",
    ),
    (
        "queues: [{name: a, capture: x, keep: limits}]\n",
        "t.yaml:1:38: queues[0].keep: found limits with overflow reject and no limits.age; expected an age, drop-oldest or drop-newest: full once, this queue would refuse for ever",
    ),
    (
        "queues: [{name: a, capture: x, keep: work, limits: {consumers: 2}}]\n",
        "t.yaml:1:64: queues[0].limits.consumers: found 2; expected 1, because a queue with keep work has one",
    ),
    (
        "queues: [{name: a, capture: x, consumer: {backoff: 10m}}]\n",
        "t.yaml:1:52: queues[0].consumer.backoff: found 10m; expected at most 5m, which is queues[0].consumer.backoff_max",
    ),
];

#[test]
fn every_mistake_is_told_with_its_line_and_what_was_expected() {
    let mut wrong = String::new();
    for (text, expected) in MISTAKES {
        let found = rendered(text);
        if found != *expected {
            wrong.push_str(&format!("--- for\n{text}found\n{found}\nexpected\n{expected}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn nine_queues_that_capture_the_same_are_too_many() {
    let queues: String = (0..9).map(|n| format!("  - {{name: q{n}, capture: '#'}}\n")).collect();
    assert_eq!(
        rendered(&format!("queues:\n{queues}")),
        "t.yaml:10:25: queues[8].capture: found `#` in queue number 9; expected at most 8"
    );
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = "name: a b\nstore:\n  batch: 1\n  free_low: 1GiB\nlisten:\n  tcp: [x, 'y:1']\nlog:\n  level: loud\n";
    let errors = with_env(text, &[("TIDEGATE_LIMITS__STREAMS", "-1")]).expect_err("full of mistakes");
    let places: Vec<String> =
        errors.problems.iter().map(|p| format!("{} {}", p.place.as_ref().expect("set"), p.key)).collect();
    assert_eq!(
        places,
        [
            "t.yaml:1:7 name",
            "t.yaml:3:10 store.batch",
            "t.yaml:4:13 store.free_low",
            "t.yaml:6:9 listen.tcp",
            "t.yaml:6:12 listen.tcp",
            "t.yaml:8:10 log.level",
            "TIDEGATE_LIMITS__STREAMS limits.streams",
        ]
    );
}

#[test]
fn the_environment_overrides_the_file() {
    let loaded = with_env(
        "store: {linger: 5ms}\nlisten: {tcp: none}\n",
        &[
            ("TIDEGATE_STORE__LINGER", "1ms"),
            ("TIDEGATE_LISTEN__TCP", "127.0.0.1:9000, [::1]:9001"),
            ("TIDEGATE_DATA", "/var/lib/x"),
            ("TIDEGATE_LOG__LEVEL", "trace"),
            ("TIDEGATE_LIMITS__WINDOW__MESSAGES", "7"),
            ("TIDEGATE_SEED", "1"),
            ("TIDEGATE_BLESS", ""),
            ("TIDEGATE_URL", "x"),
            ("TIDEGATE_TEST_ANYTHING", "y"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    let settings = loaded.settings;
    assert_eq!(settings.store.linger_us, 1_000);
    assert_eq!(
        settings.listen.tcp.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["127.0.0.1:9000", "[::1]:9001"]
    );
    assert_eq!(settings.data.as_deref(), Some(Path::new("/var/lib/x")));
    assert_eq!(settings.log.level, log::LevelFilter::Trace);
    assert_eq!(settings.limits.window_messages, 7);
}

#[test]
fn mistakes_of_the_environment_name_the_variable() {
    for (name, value, expected) in [
        (
            "TIDEGATE_STORE__LINGR",
            "1ms",
            "TIDEGATE_STORE__LINGR: found an unknown variable; did you mean TIDEGATE_STORE__LINGER?",
        ),
        (
            "TIDEGATE_STORE_LINGER",
            "1ms",
            "TIDEGATE_STORE_LINGER: found an unknown variable; did you mean TIDEGATE_STORE__LINGER?",
        ),
        (
            "TIDEGATE_store__linger",
            "1ms",
            "TIDEGATE_store__linger: found an unknown variable; did you mean TIDEGATE_STORE__LINGER?",
        ),
        (
            "TIDEGATE_WHATEVER_THIS_IS",
            "",
            "TIDEGATE_WHATEVER_THIS_IS: found an unknown variable; expected TIDEGATE_ and a key such as TIDEGATE_STORE__LINGER",
        ),
        (
            "TIDEGATE_QUEUES__MAIN__KEEP",
            "",
            "TIDEGATE_QUEUES__MAIN__KEEP: found a variable for queues; expected them in the file, where alone they can be set",
        ),
        (
            "TIDEGATE_STORE__LINGER",
            "1",
            "TIDEGATE_STORE__LINGER: store.linger: found `1`, which has no unit; expected a duration from 0ms to 1s (units: us, ms, s, m, h, d)",
        ),
        (
            "TIDEGATE_STORE__FREE_LOW",
            "1GiB",
            "TIDEGATE_STORE__FREE_LOW: store.free_low: found 1GiB; expected less than 96MiB, which is store.free_high",
        ),
    ] {
        let found = with_env("", &[(name, value)]).map_err(|errors| errors.to_string());
        assert_eq!(found.expect_err(name), expected);
    }
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let value = OsString::from_vec(vec![0xff]);
    let errors = build("", "", [("TIDEGATE_NAME".into(), value)]).expect_err("not UTF-8");
    assert!(errors.to_string().starts_with("TIDEGATE_NAME: name: found bytes that are not UTF-8"), "{errors}");
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("missing.yaml");
    let errors = load(Some(&path), []).expect_err("missing").to_string();
    assert!(errors.starts_with(&format!("{}: cannot be read: ", path.display())), "{errors}");
    std::fs::write(&path, b"name: a\nlog: \xff\n").expect("written");
    let errors = load(Some(&path), []).expect_err("not UTF-8").to_string();
    assert_eq!(errors, format!("{}: found a byte in line 2 that is not UTF-8; expected UTF-8 text", path.display()));
    std::fs::write(&path, b"\xef\xbb\xbfname: a\n").expect("written");
    assert_eq!(load(Some(&path), []).map(|loaded| loaded.settings.name), Ok("a".into()), "a byte order mark is no key");
}

#[test]
fn a_memory_queue_is_acknowledged_from_memory_unless_told_otherwise() {
    let loaded = parse("queues: [{name: a, capture: x, storage: memory}]", "t.yaml").expect("valid");
    assert_eq!(loaded.settings.queues[0].contract, crate::wire::Contract::Memory);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    for (text, expected) in [
        (
            "listen: {tcp: '0.0.0.0:8433'}",
            "t.yaml:1:15: listen.tcp: 0.0.0.0:8433 can be reached from outside this machine without TLS: whoever is on the way reads and changes what passes",
        ),
        ("queues: []", "t.yaml:1:1: queues: there is no queue: every message is live only, and none is kept"),
        (
            "store: {batch: 4MiB}",
            "t.yaml:1:16: store.batch: 4MiB is more than half of store.cache (4MiB): a commit will write pages early",
        ),
        (
            "store: {dedupe: {ids: none}}",
            "t.yaml:1:23: store.dedupe.ids: dedupe is off: a publish sent twice is stored twice",
        ),
        ("queues: [{name: a, capture: [x, x]}]", "t.yaml:1:29: queues[0].capture: a filter is written twice"),
        (
            "queues: [{name: a, capture: x, limits: {bytes: 64KiB}}]",
            "t.yaml:1:48: queues[0].limits.bytes: 64KiB is less than limits.message (1MiB): larger messages never fit this queue",
        ),
    ] {
        let loaded = parse(text, "t.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
}
