//! Data folders that cannot be used, are damaged, or run full: a sentence that says what to do, and nothing lost that was
//! acknowledged.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

#[path = "support/child.rs"]
mod child;
#[path = "support/raw.rs"]
mod raw;

use child::Child;
use raw::{PATIENCE, Raw, record_with};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use tidegate::config::Settings;
use tidegate::daemon::{ServeError, testing};
use tidegate::model::{MessageId, Position, Priority, Record};
use tidegate::store::schema::{FORMAT, META_FORMAT};
use tidegate::store::{self, Batch, Op, OpenOptions, STORE_NAME, Store, StoreError, Table};
use tidegate::wire::{Ack, Code, Contract, FrameType, Outcome, PublishAck, PublishNack};

/// Space of the small disk, in bytes.
const SMALL_DISK: &str = "16m";
/// Payload of a message that fills it, in bytes.
const PAYLOAD_BYTES: usize = 8 * 1_024;

/// Not a test: what other tests start in a process of its own.
#[test]
#[ignore = "started by other tests in a process of its own"]
fn a_part_of_another_test() {
    let (role, folder) = child::role().expect("started by another test");
    match &role[..] {
        "plain" => child::serve(testing::settings(&folder)),
        "small-disk" => child::serve(small_disk(&folder)),
        other => panic!("{other}"),
    }
}

/// The sentence with which a daemon does not start.
fn refusal(settings: Settings) -> String {
    match testing::spawn(settings) {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    }
}

fn assert_says(sentence: &str, words: &[&str]) {
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in {sentence:?}");
    }
}

#[test]
fn a_folder_in_use_by_another_process_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let mut first = Child::start("plain", folder.path());
    let address = first.address();
    let mut client = Raw::open(address);
    client.publishes(1, 1, "a");
    let said = refusal(testing::settings(folder.path()));
    assert_says(&said, &["in use by another process", &folder.path().display().to_string(), "stop that process"]);
    // Whose folder it is was not disturbed, its ready file least of all.
    client.publishes(1, 2, "a");
    assert!(folder.path().join(tidegate::daemon::READY_FILE).exists());
    first.kill();
    // A killed process leaves no lock behind.
    let second = testing::spawn(testing::settings(folder.path())).expect("the folder is free");
    let mut reader = Raw::open(second.tcp());
    reader.consume(1, "main", "c", 10);
    let mut seen = 0;
    while seen < 2 {
        seen += reader.delivery().len();
    }
}

#[test]
fn a_read_only_folder_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    // With a store in it, and without.
    for script in [
        r#"mount -t tmpfs none "$TIDEGATE_TEST_FOLDER"; mount -o remount,ro "$TIDEGATE_TEST_FOLDER"; exec "$@""#,
        r#"mount --bind "$TIDEGATE_TEST_FOLDER" "$TIDEGATE_TEST_FOLDER"
           mount -o remount,bind,ro "$TIDEGATE_TEST_FOLDER"; exec "$@""#,
    ] {
        let Some(mut child) = Child::start_with_mounts(script, "plain", folder.path()) else {
            child::skipped("a read-only folder", "this machine permits no mounts of one's own");
            return;
        };
        let said = child.line();
        assert_says(&said, &["refused", "read-only", "must be writable", &folder.path().display().to_string()]);
        let daemon = testing::spawn(testing::settings(folder.path())).expect("the folder itself is good");
        Raw::open(daemon.tcp()).publishes(1, 1, "a");
    }
}

#[test]
fn a_full_folder_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    // 16 KiB are left, fewer than a new store needs.
    let script = r#"mount -t tmpfs -o size=256k none "$TIDEGATE_TEST_FOLDER"
        head -c 245760 /dev/zero >"$TIDEGATE_TEST_FOLDER/other"; exec "$@""#;
    let Some(mut child) = Child::start_with_mounts(script, "plain", folder.path()) else {
        child::skipped("a full folder", "this machine permits no mounts of one's own");
        return;
    };
    let said = child.line();
    assert_says(&said, &["refused", "o space left", &folder.path().display().to_string(), "free some space"]);
}

#[test]
fn a_folder_that_is_a_file_or_below_one_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("file");
    fs::write(&file, b"letters").expect("written");
    for path in [file.clone(), file.join("below")] {
        let said = refusal(testing::settings(&path));
        assert_says(&said, &["cannot be used", "a file is in the way", &path.display().to_string()]);
    }
    assert_eq!(fs::read(&file).expect("still there"), b"letters");
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("folder");
    {
        let mut opened = store::open(folder.path(), &OpenOptions::default()).expect("a new store");
        let newer = (FORMAT + 1).to_be_bytes().to_vec().into();
        let key = META_FORMAT.to_vec().into();
        let op = Op::Put { table: Table::Meta, key, value: newer };
        opened.store.commit(&[Batch { position: Position(1), ops: vec![op] }]).expect("written");
    }
    let before = fs::read(folder.path().join(STORE_NAME)).expect("a store");
    let error = testing::spawn(testing::settings(folder.path())).err().expect("it is newer");
    assert!(
        matches!(error, ServeError::Store(StoreError::Newer(found, known)) if (found, known) == (FORMAT + 1, FORMAT))
    );
    assert_says(&error.to_string(), &[&(FORMAT + 1).to_string(), &FORMAT.to_string(), "install the newer release"]);
    let names: Vec<_> = fs::read_dir(folder.path()).expect("folder").map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|n| !n.to_string_lossy().contains("damaged")), "{names:?}");
    // redb may note that it was opened and closed; no row is touched.
    let again = testing::spawn(testing::settings(folder.path())).err().expect("it still is");
    assert!(matches!(again, ServeError::Store(StoreError::Newer(..))));
    assert_eq!(fs::read(folder.path().join(STORE_NAME)).expect("a store").len(), before.len());
}

#[test]
fn a_damaged_store_is_set_aside_said_loudly_and_the_broker_runs() {
    listen_to_the_log();
    // Noise for the header, a file that is no store, and a store of which the second half is gone.
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage); 3] = [
        ("header", |mut bytes| {
            bytes[..512].fill(0xA5);
            bytes
        }),
        ("other", |_| b"this is no store at all, it is a letter".repeat(200)),
        ("half", |mut bytes| {
            bytes.truncate(bytes.len() / 2);
            bytes
        }),
    ];
    for (what, damage) in damages {
        let folder = tempfile::tempdir().expect("folder");
        let daemon = testing::spawn(testing::settings(folder.path())).expect("a new store");
        Raw::open(daemon.tcp()).publishes(1, 1, "a");
        daemon.stop().expect("a clean end");
        let path = folder.path().join(STORE_NAME);
        let damaged = damage(fs::read(&path).expect("a store"));
        fs::write(&path, &damaged).expect("damaged");

        let daemon = testing::spawn(testing::settings(folder.path())).unwrap_or_else(|e| panic!("{what}: {e}"));
        Raw::open(daemon.tcp()).publishes(1, 1, "a");
        let aside: Vec<_> = fs::read_dir(folder.path())
            .expect("folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
            .filter(|name| name.starts_with("store.redb.damaged-"))
            .collect();
        let [aside] = &aside[..] else { panic!("{what}: {aside:?}") };
        assert_eq!(fs::read(folder.path().join(aside)).expect("kept").len(), damaged.len(), "{what}: kept as it was");
        let said = logged(&format!("kept as {aside}"));
        match what {
            // Of half a small store something may be whole.
            "half" => assert_says(&said, &["damaged"]),
            _ => assert_says(&said, &["ERROR", "damaged", "every message in it is missing here"]),
        }
    }
}

fn small_disk(folder: &Path) -> Settings {
    const MIB: u64 = 1_024 * 1_024;
    let mut settings = testing::settings(folder);
    // The marks are out of the way: the file system itself says that it is full.
    settings.store.free_low_bytes = 0;
    settings.store.free_high_bytes = MIB;
    settings.store.reserve_bytes = MIB;
    settings.store.alarm_priority = 8;
    settings
}

/// A message with an id of its own.
fn numbered(n: u64, priority: u8) -> Vec<u8> {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let mut payload = vec![0; PAYLOAD_BYTES];
    payload[..8].copy_from_slice(&n.to_be_bytes());
    let change = |r| Record { id: MessageId(id), priority: Priority::new(priority).unwrap(), ..r };
    record_with("fill", &payload, change)
}

/// Publishes until something is refused; the numbers acknowledged, and the code and number of the first refusal.
fn publish_until_refused(raw: &mut Raw, from: u64) -> (Vec<u64>, (u64, Code)) {
    let mut acked = Vec::new();
    for n in from.. {
        raw.publish(1, n, Contract::Disk, &numbered(n, 0));
        let got = raw.next();
        match got.kind {
            FrameType::PublishAck => {
                let head: PublishAck = got.head();
                assert_eq!((head.first, head.count), (n, 1));
                acked.push(n);
            }
            FrameType::PublishNack => {
                let head: PublishNack<'_> = got.head();
                assert_eq!(head.first, n);
                return (acked, (n, Code::from_u16(head.code).expect("a code of the page")));
            }
            _ => panic!("{}", got.words()),
        }
        assert!(n < 100_000, "the disk has no end");
    }
    unreachable!("the numbers do not end")
}

/// Consumes and acknowledges until `want` different messages were seen; sessions end when the store is opened anew.
fn drain(address: std::net::SocketAddr, seen: &mut BTreeMap<u64, u32>, want: usize) {
    let began = Instant::now();
    while seen.len() < want {
        assert!(began.elapsed() < PATIENCE, "{} of {want} came", seen.len());
        let mut raw = Raw::open(address);
        raw.send(1, &raw::consume("main", "drain", 1_000_000), &[]);
        if raw.next().kind != FrameType::Ok {
            continue;
        }
        while seen.len() < want {
            match raw.peek(Duration::from_secs(2)) {
                Ok(()) if raw.peeked().kind == FrameType::Deliver => {
                    for (tag, payload, _) in raw.delivery() {
                        let n = u64::from_be_bytes(payload[..8].try_into().expect("eight"));
                        *seen.entry(n).or_default() += 1;
                        raw.send(1, &Ack { first: tag, count: 1 }, &[]);
                    }
                }
                _ => break,
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_publishes_lets_acknowledgements_go_on_and_recovers_by_itself() {
    let folder = tempfile::tempdir().expect("folder");
    let script = format!(r#"mount -t tmpfs -o size={SMALL_DISK} none "$TIDEGATE_TEST_FOLDER"; exec "$@""#);
    let Some(mut child) = Child::start_with_mounts(&script, "small-disk", folder.path()) else {
        child::skipped("a full disk", "this machine permits no mounts of one's own");
        return;
    };
    let address = child.address();
    let mut raw = Raw::open(address);
    // Somebody else takes the space.
    let ballast = child.ask("fill 3000000");
    let (acked, (refused, code)) = publish_until_refused(&mut raw, 1);
    println!("{ballast}; {} messages acknowledged, then {}", acked.len(), code.name());
    assert!(matches!(code, Code::StorageFailed | Code::StorageFull), "{code:?}");
    assert!(!acked.is_empty());
    // It stays refused, in whatever state the store is, and says so with a code that can be tried again.
    let (more, (_, code)) = publish_until_refused(&mut raw, refused);
    assert!(code.is_retryable(), "{code:?}");
    // What was acknowledged is delivered, and acknowledgements are taken, while there is no space.
    let mut seen = BTreeMap::new();
    let want: Vec<u64> = acked.into_iter().chain(more).collect();
    drain(address, &mut seen, want.len());
    assert!(want.iter().all(|n| seen.contains_key(n)), "something acknowledged is missing");

    assert_eq!(child.ask("free"), "freed");
    let began = Instant::now();
    let mut after = Raw::open(address);
    let next = refused + 1_000;
    loop {
        after.publish(1, next, Contract::Disk, &numbered(next, 0));
        let got = after.next();
        if got.kind == FrameType::PublishAck {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "it never recovered");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("taken again {} ms after there was space", began.elapsed().as_millis());
    let count = seen.len();
    drain(address, &mut seen, count + 1);
    assert!(seen.contains_key(&next));
    assert_eq!(child.ask("stop"), "stopped well");
}

#[test]
fn below_the_low_mark_alarms_are_taken_and_acknowledgements_go_on() {
    let folder = tempfile::tempdir().expect("folder");
    let mut settings = testing::settings(folder.path());
    settings.store.free_low_bytes = u64::MAX / 4;
    settings.store.free_high_bytes = u64::MAX / 2;
    settings.store.alarm_priority = 8;
    let daemon = testing::spawn(settings).expect("it starts, low or not");
    let mut raw = Raw::open(daemon.tcp());
    raw.publish(1, 1, Contract::Disk, &numbered(1, 7));
    raw.expect_nack(1, 1, 1, Code::StorageFull);
    // Fenced like every refusal that can be tried again; alarms have a stream of their own.
    raw.publish(2, 1, Contract::Disk, &numbered(2, 8));
    raw.expect_ack(2, 1, 1, Outcome::Stored);
    raw.publish(2, 2, Contract::Disk, &numbered(3, 9));
    raw.expect_ack(2, 2, 1, Outcome::Stored);
    let mut seen = BTreeMap::new();
    drain(daemon.tcp(), &mut seen, 2);
    let mut admin = Raw::unix(&daemon.unix());
    admin.hello(60_000);
    assert_eq!(admin.status()["state"], "low");
    let began = Instant::now();
    while admin.status()["counters"]["acked"] != 2 {
        assert!(began.elapsed() < PATIENCE, "acknowledgements are not taken");
    }
    drop((raw, admin));
    daemon.stop().expect("a clean end");
}

/// Lines of the log, kept for the tests of what is said.
static LOG: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

struct Ear;

impl log::Log for Ear {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        LOG.get_or_init(Mutex::default).lock().expect("nobody panics with it").push(line);
    }
    fn flush(&self) {}
}

fn listen_to_the_log() {
    if log::set_logger(&Ear).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// The line of the log that holds these words.
fn logged(words: &str) -> String {
    let lines = LOG.get_or_init(Mutex::default).lock().expect("nobody panics with it");
    lines.iter().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words:?} was not said")).clone()
}
