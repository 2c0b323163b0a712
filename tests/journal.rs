//! The journal: its bytes are those of `proto/golden-journal`, and nothing that happens to its file keeps the store down, gives
//! wrong messages, or goes unsaid.
//!
//! `TIDEGATE_BLESS=1 cargo test --test journal` writes the golden files anew. A change in them is a change of the format.
#![cfg(feature = "daemon")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/workload.rs"]
mod workload;

use bytes::Bytes;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidegate::model::{MountId, Position, Priority, QueueId, Wall};
use tidegate::store::block::BlockWriter;
use tidegate::store::file::Disk;
use tidegate::store::journal::{
    FileHeader, HeaderError, PAGE_BYTES, Payload, RECORD_HEADER_BYTES, RecordHead, StoreId, decode_payload,
    encode_record, plan, scan,
};
use tidegate::store::schema::{self, QueueRow};
use tidegate::store::testing::{FaultyDisk, Lost};
use tidegate::store::{
    Batch, Finding, JOURNAL_NAME, JournaledStore, MemoryStore, Op, OpenOptions, QueueKey, STORE_NAME, Store,
    StoreError, Table, check_on, compact_on, open_on,
};
use workload::{Workload, assert_same_as_rows, marked, messages};

const JOURNAL_BYTES: u64 = 1 << 20;
const ASIDE: &str = "store.journal.damaged-20251121T120333Z";

fn options() -> OpenOptions {
    OpenOptions {
        now: Wall(1_763_726_613_000),
        journal_bytes: JOURNAL_BYTES,
        random: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        ..OpenOptions::default()
    }
}

fn open(disk: &FaultyDisk) -> (JournaledStore, Vec<Finding>) {
    let opened = open_on(Arc::new(disk.clone()), &options()).unwrap();
    (opened.store, opened.findings)
}

/// As a killed process leaves it.
fn kill(disk: &FaultyDisk, store: JournaledStore) {
    disk.cut();
    drop(store);
    disk.power_on(Lost::All);
}

/// A killed store of so many commits, all in the journal, and what it holds.
fn filled(commits: usize) -> (FaultyDisk, Vec<Vec<Batch>>) {
    let disk = FaultyDisk::new();
    let (mut store, _) = open(&disk);
    let mut work = Workload::new(7);
    let all: Vec<Vec<Batch>> = (0..commits).map(|_| work.batches()).collect();
    for batches in &all {
        store.commit(batches).unwrap();
    }
    assert!(store.unfolded_bytes() > 0);
    kill(&disk, store);
    (disk, all)
}

fn model(transactions: &[Vec<Batch>]) -> MemoryStore {
    let mut model = MemoryStore::new();
    for batches in transactions {
        model.commit(batches).unwrap();
    }
    model
}

fn copy(disk: &FaultyDisk) -> FaultyDisk {
    let copy = FaultyDisk::new();
    for name in [STORE_NAME, JOURNAL_NAME] {
        copy.set_bytes(name, &disk.bytes(name));
    }
    copy
}

// The bytes.

fn sample() -> (RecordHead, Vec<Batch>) {
    let queue = QueueKey { mount: MountId(0), queue: QueueId(1) };
    let mut block = BlockWriter::new(Wall(1_763_726_400_000));
    block.push(Wall(1_763_726_400_005), None, None, b"record");
    let key = Bytes::from_static(b"key");
    let value = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 2]);
    let append = Op::Append { queue, lane: Priority::default(), first: 41, count: 1, block: block.finish() };
    let put = Op::CompareAndPut { table: Table::Document, key, expect: Some(1), value, then: 0 };
    let batches =
        vec![Batch { position: Position(42), ops: vec![append] }, Batch { position: Position(43), ops: vec![put] }];
    let head = RecordHead {
        id: StoreId(*b"0123456789abcdef"),
        generation: 3,
        base: Position(40),
        after: Position(41),
        last: Position(43),
        payload_bytes: 0,
        payload_crc: 0,
    };
    (head, batches)
}

fn golden() -> Vec<(&'static str, Vec<u8>)> {
    let (head, batches) = sample();
    let record = encode_record(head, &[1], &batches).unwrap();
    let header = FileHeader { id: head.id, segment_bytes: 2_093_056 }.encode().to_vec();
    let mut newer = header.clone();
    newer[8] = 2;
    let crc = tidegate::wire::crc32c(&newer[..36], &[]).to_le_bytes();
    newer[36..].copy_from_slice(&crc);
    let mut torn = record.clone();
    torn[RECORD_HEADER_BYTES + 20] ^= 1;
    vec![("header.bin", header), ("header-newer.bin", newer), ("record.bin", record), ("record-torn.bin", torn)]
}

#[test]
fn the_bytes_are_those_of_the_golden_files() {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/golden-journal");
    for (name, bytes) in golden() {
        if std::env::var_os("TIDEGATE_BLESS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), &bytes).unwrap();
        }
        assert!(std::fs::read(folder.join(name)).unwrap() == bytes, "{name}");
    }
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (head, batches) = sample();
    assert_eq!(FileHeader::decode(&read("header.bin")), Ok(FileHeader { id: head.id, segment_bytes: 2_093_056 }));
    assert_eq!(FileHeader::decode(&read("header-newer.bin")), Err(HeaderError::Newer(2)));
    let found = scan(&read("record.bin"), head.id).found.remove(0);
    assert_eq!(RecordHead { payload_bytes: 0, payload_crc: 0, ..found.head }, head);
    let payload = decode_payload(&read("record.bin")[found.payload.unwrap()]);
    assert_eq!(payload, Ok(Payload { conflicts: vec![1], batches }));
    assert_eq!(scan(&read("record-torn.bin"), head.id).found[0].payload, None);
}

#[test]
fn every_flipped_bit_of_a_record_is_found_and_every_other_id_is_foreign() {
    let (head, batches) = sample();
    let good = encode_record(head, &[1], &batches).unwrap();
    let end = RECORD_HEADER_BYTES + scan(&good, head.id).found[0].head.payload_bytes as usize;
    for bit in 0..end * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let seen = scan(&bad, head.id);
        assert!(seen.found.iter().all(|f| f.payload.is_none()), "bit {bit}");
        assert!(!seen.found.is_empty() || !seen.broken.is_empty(), "bit {bit}: it looks like an empty page");
    }
    let seen = scan(&good, StoreId([7; 16]));
    assert_eq!((seen.found.len(), seen.foreign), (0, 1));
}

proptest! {
    #[test]
    fn any_bytes_are_scanned_and_decoded(
        bytes in prop::collection::vec(any::<u8>(), 0..3 * PAGE_BYTES),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let seen = scan(&bytes, StoreId([1; 16]));
        let _ = plan(&[seen.clone(), seen], Position(9));
        let _ = decode_payload(&payload);
        let _ = (FileHeader::decode(&bytes), RecordHead::decode(&bytes));
    }
}

// The file.

#[test]
fn no_damage_of_the_journal_keeps_the_store_down_or_gives_wrong_messages_or_goes_unsaid() {
    let (disk, all) = filled(30);
    let whole = model(&all);
    let good = disk.bytes(JOURNAL_NAME);
    let used: Vec<usize> =
        good.chunks(PAGE_BYTES).enumerate().filter(|(_, p)| p.iter().any(|b| *b != 0)).map(|p| p.0).collect();
    let (mut untouched, mut lost, mut tails) = (0, 0, 0);
    for seed in 0..1_200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bad = good.clone();
        let page = used[rng.usize(..used.len())] * PAGE_BYTES;
        match rng.u8(..8) {
            0..=2 => bad[page + rng.usize(..PAGE_BYTES)] ^= 1 << rng.u8(..8),
            3 => bad[page + rng.usize(..RECORD_HEADER_BYTES)] ^= 1 << rng.u8(..8),
            4 => bad[page..page + PAGE_BYTES].fill(0),
            5 => bad[page..page + PAGE_BYTES].iter_mut().for_each(|b| *b = rng.u8(..)),
            6 => bad.truncate(rng.usize(..page + PAGE_BYTES)),
            _ => bad[page..page + 512].fill(rng.u8(..)),
        }
        let disk = copy(&disk);
        disk.set_bytes(JOURNAL_NAME, &bad);
        let opened = open_on(Arc::new(disk.clone()), &options()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let (mut store, findings) = (opened.store, opened.findings);
        let at = store.applied();
        let findings: Vec<Finding> = findings.into_iter().filter(|f| *f != Finding::Repaired).collect();
        let holes = findings.iter().any(Finding::is_loss);
        if !holes && marked(store.reader().as_ref(), b"last") == marked(whole.reader().as_ref(), b"last") {
            assert_same_as_rows(store.reader().as_ref(), whole.reader().as_ref());
            untouched += 1;
        } else if holes {
            assert!(disk.bytes(ASIDE) == bad, "seed {seed}: kept as it was found");
            // What came after the hole is there, unless the damage reached to the end.
            assert!(at.0 == marked(store.reader().as_ref(), b"first"), "seed {seed}");
            assert_eq!(at.0, marked(store.reader().as_ref(), b"last"), "seed {seed}: half of a commit");
            lost += 1;
        } else {
            // Nothing valid follows: that cannot be told from a write that was cut. All before it is there.
            let known = all.iter().take_while(|t| t[0].position <= at).count();
            assert_same_as_rows(store.reader().as_ref(), model(&all[..known]).reader().as_ref());
            assert_eq!(all[known - 1].last().unwrap().position, at, "seed {seed}");
            tails += 1;
        }
        let next = Batch { position: Position(at.0 + 1), ops: vec![put(b"new", b"v")] };
        assert_eq!(store.commit(&[next]).unwrap().position, Position(at.0 + 1));
        kill(&disk, store);
        let (store, findings) = open(&disk);
        assert_eq!((store.applied(), &findings[..]), (Position(at.0 + 1), &[Finding::Repaired][..]), "seed {seed}");
    }
    assert!(untouched > 40 && lost > 300 && tails > 3, "untouched {untouched}, lost {lost}, tails {tails}");
}

fn put(key: &'static [u8], value: &'static [u8]) -> Op {
    Op::Put { table: Table::Bridge, key: Bytes::from_static(key), value: Bytes::from_static(value) }
}

/// Damages the records that hold this position.
fn damage(disk: &FaultyDisk, position: u64) {
    let mut bytes = disk.bytes(JOURNAL_NAME);
    let header = FileHeader::decode(&bytes).unwrap();
    let seen = scan(&bytes[PAGE_BYTES..], header.id);
    let hit = seen.found.iter().filter(|f| f.head.after.0 < position && position <= f.head.last.0);
    for found in hit {
        bytes[PAGE_BYTES * (found.page + 1) + RECORD_HEADER_BYTES] ^= 1;
    }
    disk.set_bytes(JOURNAL_NAME, &bytes);
}

#[test]
fn a_hole_costs_what_it_held_and_renews_the_epochs() {
    let disk = FaultyDisk::new();
    let (mut store, _) = open(&disk);
    let queue = workload::queue(2);
    let block = |n: u64| {
        let mut block = BlockWriter::new(Wall(n));
        block.push(Wall(n), None, None, &n.to_be_bytes());
        block.finish()
    };
    for n in 1..=9u64 {
        let row = QueueRow { epoch: 77, appended: n, ..QueueRow::default() };
        let ops = vec![
            Op::Append { queue, lane: Priority::default(), first: n, count: 1, block: block(n) },
            Op::Put {
                table: Table::Queue,
                key: Bytes::copy_from_slice(&schema::queue_key(queue)),
                value: schema::encode(&row),
            },
        ];
        store.commit(&[Batch { position: Position(n), ops }]).unwrap();
    }
    kill(&disk, store);
    damage(&disk, 4);
    damage(&disk, 5);
    let report = check_on(&disk).unwrap();
    assert!(report.problems.iter().any(|p| p.contains("commits 4 to 5 are lost")), "{:?}", report.problems);
    let (store, findings) = open(&disk);
    let holes = vec![(Position(3), Position(5))];
    assert!(
        findings
            .iter()
            .any(|f| matches!(f, Finding::JournalDamaged { name, holes: h, .. } if name == ASIDE && *h == holes)),
        "{findings:?}"
    );
    let reader = store.reader();
    let found: Vec<u64> = messages(reader.as_ref(), queue, 0, 1).iter().map(|m| m.0).collect();
    assert_eq!(found, [1, 2, 3, 6, 7, 8, 9]);
    let row = reader.get(Table::Queue, &schema::queue_key(queue)).unwrap().unwrap();
    let row: QueueRow = schema::decode(&row).unwrap();
    assert_eq!(row.appended, 9);
    assert_ne!(row.epoch, 77, "readers must hear that something is missing");
}

#[test]
fn a_torn_tail_is_dropped_and_is_no_loss() {
    let (disk, all) = filled(8);
    damage(&disk, all.last().unwrap()[0].position.0);
    let (store, findings) = open(&disk);
    assert_eq!(findings, [Finding::Repaired, Finding::JournalTail]);
    assert_eq!(store.applied(), all[6].last().unwrap().position);
    assert_same_as_rows(store.reader().as_ref(), model(&all[..7]).reader().as_ref());
}

#[test]
fn of_two_damaged_records_at_the_end_the_first_is_a_loss() {
    let (disk, all) = filled(8);
    let end = |n: usize| all[n].last().unwrap().position;
    damage(&disk, end(6).0);
    damage(&disk, end(7).0);
    let (store, findings) = open(&disk);
    let holes = vec![(end(5), end(6))];
    assert!(
        findings.iter().any(|f| matches!(f, Finding::JournalDamaged { holes: h, .. } if *h == holes)),
        "{findings:?}"
    );
    assert_eq!(store.applied(), end(5), "all before them is there");
}

#[test]
fn a_database_that_fell_back_is_replayed_from_the_older_segment() {
    let disk = FaultyDisk::new();
    let mut work = Workload::new(3);
    let (mut store, _) = open(&disk);
    let mut all = Vec::new();
    let mut commit = |store: &mut JournaledStore, n: usize| {
        for _ in 0..n {
            let batches = work.batches();
            store.commit(&batches).unwrap();
            all.push(batches);
        }
    };
    commit(&mut store, 5);
    store.fold().unwrap();
    commit(&mut store, 5);
    let before = disk.bytes(STORE_NAME);
    store.fold().unwrap();
    commit(&mut store, 5);
    kill(&disk, store);
    disk.set_bytes(STORE_NAME, &before);
    let (store, findings) = open(&disk);
    assert!(findings.iter().any(|f| matches!(f, Finding::FellBack { recovered: true, .. })), "{findings:?}");
    assert_same_as_rows(store.reader().as_ref(), model(&all).reader().as_ref());
    kill(&disk, store);

    // Older than the journal goes back: said, and what it holds is applied.
    disk.set_bytes(STORE_NAME, &before);
    damage(&disk, all[7][0].position.0);
    let (store, findings) = open(&disk);
    assert!(findings.iter().any(|f| matches!(f, Finding::FellBack { recovered: false, .. })), "{findings:?}");
    assert!(findings.iter().any(|f| matches!(f, Finding::JournalDamaged { .. })), "{findings:?}");
    assert_eq!(store.applied(), all.last().unwrap().last().unwrap().position);
}

#[test]
fn a_journal_of_another_database_is_never_replayed() {
    let (other, _) = filled(6);
    let (disk, all) = filled(4);
    // Another random id than this one's.
    let stranger = FaultyDisk::new();
    let options = OpenOptions { random: 99, ..options() };
    let mut store = open_on(Arc::new(stranger.clone()), &options).unwrap().store;
    store.commit(&all[0]).unwrap();
    kill(&stranger, store);
    disk.set_bytes(JOURNAL_NAME, &stranger.bytes(JOURNAL_NAME));
    let (store, findings) = open(&disk);
    assert!(
        findings.iter().any(|f| matches!(f, Finding::JournalForeign { name, missing: true } if name == ASIDE)),
        "{findings:?}"
    );
    assert_eq!(store.applied(), Position(0));
    assert!(disk.bytes(ASIDE) == stranger.bytes(JOURNAL_NAME));
    drop(store);
    // A new database beside an old journal.
    let alone = FaultyDisk::new();
    alone.set_bytes(JOURNAL_NAME, &other.bytes(JOURNAL_NAME));
    let (store, findings) = open(&alone);
    assert!(matches!(&findings[..], [Finding::JournalForeign { missing: false, .. }]), "{findings:?}");
    assert_eq!(store.applied(), Position(0));
}

#[test]
fn a_missing_journal_is_said_once() {
    let (disk, _) = filled(4);
    disk.remove(JOURNAL_NAME).unwrap();
    assert!(check_on(&disk).unwrap().problems[0].contains("journal is missing"));
    let (store, findings) = open(&disk);
    assert!(findings.contains(&Finding::JournalMissing), "{findings:?}");
    drop(store);
    assert_eq!(open(&disk).1, []);
}

#[test]
fn a_damaged_database_takes_its_journal_with_it() {
    let (disk, _) = filled(4);
    disk.set_bytes(STORE_NAME, b"no database");
    let journal = disk.bytes(JOURNAL_NAME);
    let (store, findings) = open(&disk);
    assert!(matches!(&findings[..], [Finding::SetAside { .. }]), "{findings:?}");
    assert!(disk.bytes(ASIDE) == journal);
    assert_eq!(store.applied(), Position(0));
}

#[test]
fn newer_versions_are_refused_and_left_alone() {
    let (disk, _) = filled(2);
    let mut bytes = disk.bytes(JOURNAL_NAME);
    bytes[8] = 9;
    let crc = tidegate::wire::crc32c(&bytes[..36], &[]).to_le_bytes();
    bytes[36..40].copy_from_slice(&crc);
    disk.set_bytes(JOURNAL_NAME, &bytes);
    assert!(matches!(open_on(Arc::new(disk.clone()), &options()), Err(StoreError::Newer(9, 1))));
    assert!(disk.bytes(JOURNAL_NAME) == bytes);
}

#[test]
fn a_message_that_looks_like_a_record_of_any_version_keeps_nothing_down() {
    let id = StoreId([5; 16]);
    let head = RecordHead {
        id,
        generation: 1,
        base: Position(0),
        after: Position(0),
        last: Position(9),
        payload_bytes: 0,
        payload_crc: 0,
    };
    let mut forged = encode_record(head, &[], &[]).unwrap()[..RECORD_HEADER_BYTES].to_vec();
    forged[4] = 9;
    let crc = tidegate::wire::crc32c(&forged[..68], &[]).to_le_bytes();
    forged[68..].copy_from_slice(&crc);
    let mut page = forged.clone();
    page.resize(PAGE_BYTES, 0);
    assert_eq!(scan(&page, id).newer, Some(9), "of this database it is one");

    let commit = |value: Vec<u8>| {
        let disk = FaultyDisk::new();
        let (mut store, _) = open(&disk);
        let op = Op::Put { table: Table::Bridge, key: Bytes::from_static(b"k"), value: value.into() };
        store.commit(&[Batch { position: Position(1), ops: vec![op] }]).unwrap();
        kill(&disk, store);
        disk
    };
    // Where a message comes to stand can be known: here it is looked up.
    let mut value = vec![0xAB; 2 * PAGE_BYTES];
    let bytes = commit(value.clone()).bytes(JOURNAL_NAME);
    let start = bytes.windows(value.len()).position(|w| w == value).unwrap();
    let at = start.next_multiple_of(PAGE_BYTES) - start;
    value[at..at + forged.len()].copy_from_slice(&forged);
    let disk = commit(value);
    let (store, findings) = open(&disk);
    assert_eq!((store.applied(), &findings[..]), (Position(1), &[Finding::Repaired][..]));
}

#[test]
fn another_size_or_none_takes_effect_at_a_start_and_loses_nothing() {
    let (disk, all) = filled(12);
    for journal_bytes in [64 << 10, 0, 0, 2 << 20, JOURNAL_BYTES] {
        let options = OpenOptions { journal_bytes, ..options() };
        let opened = open_on(Arc::new(disk.clone()), &options).unwrap();
        assert!(opened.findings.iter().all(|f| *f == Finding::Repaired), "{:?}", opened.findings);
        assert_same_as_rows(opened.store.reader().as_ref(), model(&all).reader().as_ref());
        let there = disk.names().unwrap().iter().any(|n| n == JOURNAL_NAME);
        assert_eq!(there, journal_bytes > 0);
        if there {
            let len = disk.bytes(JOURNAL_NAME).len() as u64;
            assert!(len <= journal_bytes && len + 2 * PAGE_BYTES as u64 >= journal_bytes, "{len} of {journal_bytes}");
        }
        drop(opened);
    }
}

#[test]
fn a_disk_too_full_for_the_journal_is_served_without_one_until_a_start_finds_space() {
    let disk = FaultyDisk::new();
    drop(open_on(Arc::new(disk.clone()), &OpenOptions { journal_bytes: 0, ..options() }).unwrap());
    disk.set_space(Some(300_000));
    let (mut store, findings) = open(&disk);
    assert_eq!(findings, []);
    assert!(!disk.names().unwrap().iter().any(|n| n == JOURNAL_NAME), "what was written of it is given back");
    let batch = [Batch { position: Position(store.applied().0 + 1), ops: vec![put(b"key", b"value")] }];
    store.commit(&batch).unwrap();
    kill(&disk, store);
    let (store, findings) = open(&disk);
    assert_eq!(findings, [Finding::Repaired]);
    assert_eq!(store.applied(), batch[0].position);
    assert!(disk.names().unwrap().iter().any(|n| n == JOURNAL_NAME));
}

#[test]
fn on_a_full_disk_everything_is_read_acknowledgements_go_on_and_space_mends_it() {
    let (disk, all) = filled(14);
    disk.no_space_for(Some(STORE_NAME));
    let (mut store, findings) = open(&disk);
    assert_eq!(findings, [Finding::Repaired]);
    assert!(store.unfolded_bytes() > 0, "there was no space to fold it");
    let mut model = model(&all);
    assert_same_as_rows(store.reader().as_ref(), model.reader().as_ref());
    // More of these than a segment has pages, over a kill and another start.
    let mut at = store.applied().0;
    for round in 0..2 {
        for _ in 0..90 {
            at += 1;
            let batch = [Batch { position: Position(at), ops: vec![put(b"ack", b"progress")] }];
            store.commit(&batch).unwrap_or_else(|e| panic!("round {round}, position {at}: {e}"));
            model.commit(&batch).unwrap();
        }
        kill(&disk, store);
        disk.no_space_for(Some(STORE_NAME));
        store = open(&disk).0;
        assert_same_as_rows(store.reader().as_ref(), model.reader().as_ref());
    }
    let queue = workload::queue(1);
    let body = Op::Body { mount: queue.mount, body: 1 << 40, refs: 1, bytes: Bytes::from_static(b"x") };
    let more = [Batch { position: Position(at + 1), ops: vec![body] }];
    assert!(matches!(store.commit(&more), Err(StoreError::Full(_))));
    drop(store);
    disk.power_on(Lost::All);
    let (mut store, findings) = open(&disk);
    assert!(findings.iter().all(|f| !f.is_loss()), "{findings:?}");
    assert_eq!(store.unfolded_bytes(), 0);
    assert_same_as_rows(store.reader().as_ref(), model.reader().as_ref());
    store.commit(&more).unwrap();
}

#[test]
fn an_orderly_stop_leaves_nothing_in_the_journal_and_a_check_says_what_is_there() {
    let (disk, all) = filled(10);
    let before = (disk.bytes(STORE_NAME), disk.bytes(JOURNAL_NAME));
    let report = check_on(&disk).unwrap();
    assert_eq!((&report.problems[..], report.unfolded), (&[][..], 10));
    assert_eq!(report.position, all.last().unwrap().last().unwrap().position);
    assert!((disk.bytes(STORE_NAME), disk.bytes(JOURNAL_NAME)) == before, "checking changes nothing");
    drop(open(&disk));
    let report = check_on(&disk).unwrap();
    assert_eq!((&report.problems[..], report.unfolded, report.closed), (&[][..], 0, true));
    compact_on(&disk).unwrap();
    assert_same_as_rows(open(&disk).0.reader().as_ref(), model(&all).reader().as_ref());
}

#[test]
fn what_was_consumed_in_time_never_reaches_the_database() {
    let disk = FaultyDisk::new();
    let (mut store, _) = open(&disk);
    let made = disk.writes();
    let queue = workload::queue(1);
    for n in 1..=60u64 {
        let mut block = BlockWriter::new(Wall(n));
        block.push(Wall(n), None, Some(n), b"record");
        let body = Bytes::from(vec![7; 3_000]);
        let ops = vec![
            Op::Body { mount: queue.mount, body: n, refs: 1, bytes: body },
            Op::Append {
                queue,
                lane: Priority::new((n % 10) as u8).unwrap(),
                first: n,
                count: 1,
                block: block.finish(),
            },
            Op::Trim { queue, lane: Priority::new((n % 10) as u8).unwrap(), below: n },
        ];
        store.commit(&[Batch { position: Position(n), ops }]).unwrap();
    }
    assert_eq!(disk.writes() - made, 60, "one write a commit");
    assert_eq!(store.bodies(), 10, "one is left in each lane");
    store.fold().unwrap();
    assert_eq!(store.bodies(), 10);
    let left: usize = (0..10).map(|lane| messages(store.reader().as_ref(), queue, lane, 1).len()).sum();
    assert_eq!(left, 10);
}
