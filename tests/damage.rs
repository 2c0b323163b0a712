//! Damaged, foreign, newer, locked and unwritable stores: the broker comes up, or says clearly why not.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/workload.rs"]
mod workload;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use tidegate::model::{Position, Wall};
use tidegate::store::file::Disk;
use tidegate::store::testing::{FaultyDisk, Lost};
use tidegate::store::{
    Batch, Finding, MemoryStore, Op, OpenOptions, RedbStore, STORE_NAME, Store, StoreError, Table, check, check_on,
    compact, open, open_on,
};
use workload::{Workload, assert_part_of, assert_same_as_rows, marked};

/// Without a journal: `tests/journal.rs` damages that.
const OPTIONS: OpenOptions =
    OpenOptions { cache_bytes: 4 << 20, verify: true, now: Wall(1_763_726_613_000), journal_bytes: 0, random: 0 };
const ASIDE: &str = "store.redb.damaged-20251121T120333Z";

/// A store with a history, and what it holds.
fn filled(commits: u32, closed: bool) -> (FaultyDisk, MemoryStore) {
    let disk = FaultyDisk::new();
    let mut store = open_on(Arc::new(disk.clone()), &OPTIONS).unwrap().store;
    let mut model = MemoryStore::new();
    let mut work = Workload::new(7);
    for _ in 0..commits {
        let batches = work.batches();
        store.commit(&batches).unwrap();
        model.commit(&batches).unwrap();
    }
    if !closed {
        disk.cut();
    }
    drop(store);
    disk.power_on(Lost::None);
    (disk, model)
}

fn damage(good: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bad = good.to_vec();
    let used: Vec<usize> =
        good.chunks(4_096).enumerate().filter(|(_, p)| p.iter().any(|b| *b != 0)).map(|p| p.0).collect();
    let at = used[rng.usize(..used.len())] * 4_096;
    let page = at..(at + 4_096).min(bad.len());
    match rng.u8(..7) {
        0 | 1 => bad[at + rng.usize(..4_096)] ^= 1 << rng.u8(..8),
        2 => bad[page].fill(0),
        3 => bad[page].iter_mut().for_each(|b| *b = rng.u8(..)),
        4 => bad.truncate(rng.usize(..good.len())),
        5 => bad[rng.usize(..320)] ^= 1 << rng.u8(..8),
        _ => bad.extend(std::iter::repeat_n(7, rng.usize(1..9_000))),
    }
    bad
}

#[test]
fn no_damage_keeps_the_store_down_or_gives_wrong_messages() {
    for closed in [true, false] {
        let (disk, model) = filled(120, closed);
        let good = disk.bytes(STORE_NAME);
        let model_applied = Position(marked(model.reader().as_ref(), b"last"));
        let (mut whole, mut aside, mut rolled_back) = (0, 0, 0);
        for seed in 0..300 {
            let bad = damage(&good, &mut fastrand::Rng::with_seed(seed));
            let disk = FaultyDisk::new();
            disk.set_bytes(STORE_NAME, &bad);
            let opened = match open_on(Arc::new(disk.clone()), &OPTIONS) {
                Ok(opened) => opened,
                Err(e) => panic!("closed {closed}, seed {seed}: {e}"),
            };
            let mut store = opened.store;
            let salvaged = opened.findings.iter().find_map(|f| match f {
                Finding::SetAside { salvaged, .. } => Some(*salvaged),
                _ => None,
            });
            if let Some(salvaged) = salvaged {
                // Of a file that was not closed redb may have written the header before it found the damage.
                let skip = if closed { 0 } else { 4_096.min(bad.len()) };
                assert!(disk.bytes(ASIDE)[skip..] == bad[skip..], "kept as it was found");
                assert!(store.applied() <= model_applied);
                // The last transaction may be gone with a slot of the header: then nothing here to compare with.
                if store.applied() == model_applied {
                    let (there, _) = assert_part_of(store.reader().as_ref(), model.reader().as_ref());
                    assert_eq!(there as u64, salvaged.map_or(0, |s| s.messages), "seed {seed}");
                }
                if salvaged.is_none() {
                    assert_eq!(store.applied(), Position(0));
                }
                aside += 1;
            } else if marked(store.reader().as_ref(), b"last") == marked(model.reader().as_ref(), b"last") {
                assert_same_as_rows(store.reader().as_ref(), model.reader().as_ref());
                whole += 1;
            } else {
                // Not closed, and the last transaction is damaged: that cannot be told from a write that was cut.
                assert!(!closed, "seed {seed}: what was closed in order is never rolled back");
                rolled_back += 1;
            }
            let at = store.applied();
            let next = Batch { position: Position(at.0 + 1), ops: vec![put(b"new")] };
            assert_eq!(store.commit(&[next]).unwrap().position, Position(at.0 + 1));
        }
        assert!(
            whole > 30 && aside > 30,
            "whole {whole}, set aside {aside}, rolled back {rolled_back}: not both kinds"
        );
    }
}

fn put(key: &'static [u8]) -> Op {
    Op::Put { table: Table::Bridge, key: bytes::Bytes::from_static(key), value: bytes::Bytes::from_static(b"v") }
}

#[test]
fn a_file_that_is_no_database_is_set_aside_and_no_older_one_is_overwritten() {
    let disk = FaultyDisk::new();
    for (n, foreign) in [&b"not a database"[..], &[0; 9_000], &[b'r'; 100_000]].into_iter().enumerate() {
        disk.set_bytes(STORE_NAME, foreign);
        let opened = open_on(Arc::new(disk.clone()), &OPTIONS).unwrap();
        let name = if n == 0 { ASIDE.to_owned() } else { format!("{ASIDE}-{}", n + 1) };
        assert!(matches!(&opened.findings[..], [Finding::SetAside { name: found, .. }] if *found == name));
        assert!(opened.findings[0].to_string().contains(&name));
        assert!(disk.bytes(&name) == foreign);
        drop(opened);
        disk.power_on(Lost::None);
    }
    let names: BTreeSet<String> = disk.names().unwrap().into_iter().collect();
    assert_eq!(names.len(), 4);
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (disk, _) = filled(3, true);
    let mut store = RedbStore::open(&disk, STORE_NAME, 1 << 20).unwrap().store;
    let newer = tidegate::store::schema::FORMAT + 1;
    let row = Op::Put {
        table: Table::Meta,
        key: bytes::Bytes::from_static(tidegate::store::schema::META_FORMAT),
        value: bytes::Bytes::copy_from_slice(&newer.to_be_bytes()),
    };
    let next = Position(store.applied().0 + 1);
    store.commit(&[Batch { position: next, ops: vec![row] }]).unwrap();
    drop(store);
    let refused = open_on(Arc::new(disk.clone()), &OPTIONS);
    assert!(matches!(refused, Err(StoreError::Newer(found, _)) if found == newer));
    assert_eq!(disk.names().unwrap(), [STORE_NAME]);
    // A later release's redb.
    let mut bytes = disk.bytes(STORE_NAME);
    bytes[64] = 9;
    bytes[192] = 9;
    disk.set_bytes(STORE_NAME, &bytes);
    assert!(matches!(open_on(Arc::new(disk.clone()), &OPTIONS), Err(StoreError::Newer(9, 3))));
    assert_eq!(disk.names().unwrap(), [STORE_NAME]);
}

#[test]
fn a_folder_in_use_is_refused_and_free_again_when_the_store_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a/data");
    let first = open(&data, &OPTIONS).unwrap();
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    for refused in [open(&data, &OPTIONS).err(), compact(&data).err(), check(&data).err()] {
        let Some(StoreError::Locked(text)) = refused else { panic!("not refused: {refused:?}") };
        assert!(text.contains("a/data"), "{text}");
    }
    drop(first);
    open(&data, &OPTIONS).unwrap();
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("file");
    std::fs::write(&in_the_way, "").unwrap();
    let text = open(&in_the_way.join("data"), &OPTIONS).unwrap_err().to_string();
    assert!(text.contains("file/data"), "{text}");
    // Root may write anywhere, so the rest holds only for others.
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
    if std::fs::write(closed.join("probe"), "").is_err() {
        let text = open(&closed, &OPTIONS).unwrap_err().to_string();
        assert!(text.contains("must be able to read and write"), "{text}");
    }
}

#[test]
fn a_disk_too_full_for_a_new_store_says_so() {
    let disk = FaultyDisk::new();
    disk.set_space(Some(2_000));
    assert!(matches!(open_on(Arc::new(disk.clone()), &OPTIONS), Err(StoreError::Full(_))));
    disk.set_space(None);
    // What a first opening left half made is no loss, and no reason to stay down.
    open_on(Arc::new(disk), &OPTIONS).unwrap();
}

#[test]
fn reads_that_fail_set_nothing_aside() {
    let (disk, _) = filled(10, true);
    disk.fail_reads(true);
    assert!(matches!(open_on(Arc::new(disk.clone()), &OPTIONS), Err(StoreError::Io(_))));
    assert_eq!(disk.names().unwrap(), [STORE_NAME]);
}

#[test]
fn a_sound_store_has_no_problems_and_checking_changes_nothing() {
    for closed in [true, false] {
        let (disk, _) = filled(120, closed);
        let before = disk.bytes(STORE_NAME);
        let report = check_on(&disk).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        assert!(report.messages > 500 && report.bodies > 0 && report.rows > 10, "{report:?}");
        assert_eq!(report.closed, closed);
        assert!(disk.bytes(STORE_NAME) == before);
    }
}

#[test]
fn what_does_not_fit_together_is_found() {
    let (disk, _) = filled(120, true);
    let mut store = RedbStore::open(&disk, STORE_NAME, 4 << 20).unwrap().store;
    let queue = workload::queue(1);
    let lane = tidegate::model::Priority::default();
    let at = Position(store.applied().0 + 1);
    // A block that is none, far behind a gap, and a body nobody refers to.
    let block = bytes::Bytes::from_static(b"\x02\0\0\0\0\0\0\0\0\0\0\0garbage");
    let append = Op::Append { queue, lane, first: 1 << 40, count: 2, block };
    let body = Op::Body { mount: queue.mount, body: 1 << 50, refs: 1, bytes: bytes::Bytes::from_static(b"x") };
    store.commit(&[Batch { position: at, ops: vec![append, body] }]).unwrap();
    drop(store);
    let problems = check_on(&disk).unwrap().problems.join("\n");
    for expected in ["cannot be read", "no reference"] {
        assert!(problems.contains(expected), "{expected} is not in: {problems}");
    }
    let mut bytes = disk.bytes(STORE_NAME);
    let middle = bytes.len() / 4_096 / 3 * 4_096;
    bytes[4_096..middle].fill(0);
    disk.set_bytes(STORE_NAME, &bytes);
    let problems = check_on(&disk).unwrap().problems;
    assert!(problems[0].contains("damaged") && problems[1].contains("next start"), "{problems:?}");
}

#[test]
fn compacting_gives_space_back_and_keeps_what_is_queued() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(folder.path(), &OPTIONS).unwrap().store;
    let mut model = MemoryStore::new();
    let mut work = Workload::new(5);
    for _ in 0..200 {
        let batches = work.batches();
        store.commit(&batches).unwrap();
        model.commit(&batches).unwrap();
    }
    let batches = work.trim_all();
    store.commit(&batches).unwrap();
    model.commit(&batches).unwrap();
    drop(store);
    let done = compact(folder.path()).unwrap();
    assert!(done.after < done.before / 2, "{done:?}");
    let store = open(folder.path(), &OPTIONS).unwrap().store;
    assert_same_as_rows(store.reader().as_ref(), model.reader().as_ref());
    assert_eq!(store.bodies(), 0);
}
