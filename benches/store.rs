//! What a commit costs: commits and messages a second, bytes written and processor time a message, time to open.
//!
//! `cargo bench --bench store` measures in a folder below the target directory; as a test it runs with small inputs.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use bytes::Bytes;
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate::model::{MountId, Position, Priority, QueueId, Wall};
use tidegate::store::block::BlockWriter;
use tidegate::store::schema::{self, LaneRow, QueueRow};
use tidegate::store::{Batch, Op, OpenOptions, QueueKey, Store, Table, open};

const MESSAGE_BYTES: usize = 256;
const QUEUE: QueueKey = QueueKey { mount: MountId(0), queue: QueueId(1) };

fn main() {
    let measure = std::env::args().any(|a| a == "--bench");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for journal in [true, false] {
        println!("{} a journal", if journal { "with" } else { "without" });
        let options = options(journal);
        for batch in [1, 10, 50, 100, 200, 300, 400, 800, 10_000] {
            let messages = if measure { (batch * 3_000).clamp(600, 400_000) } else { batch * 3 };
            let data = folder.path().join(format!("batch-{batch}"));
            run(&data, &options, batch, messages, Load::Fill);
            std::fs::remove_dir_all(data).unwrap();
        }
        for batch in [1, 800] {
            let messages = if measure { batch * 1_200 } else { batch * 5 };
            println!("consumed as fast:");
            let data = folder.path().join("drained");
            run(&data, &options, batch, messages, Load::Drain);
            std::fs::remove_dir_all(data).unwrap();
        }
        let messages = if measure { 1_000_000 } else { 4_000 };
        let data = folder.path().join(format!("queued-{journal}"));
        run(&data, &options, 800, messages, Load::FillAndKill);
        reopen(&data, &options, messages);
    }
}

fn options(journal: bool) -> OpenOptions {
    let journal_bytes = if journal { OpenOptions::default().journal_bytes } else { 0 };
    OpenOptions { journal_bytes, random: 1, ..OpenOptions::default() }
}

/// What happens besides appending.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Nothing.
    Fill,
    /// In the end the file is copied as a killed process would leave it.
    FillAndKill,
    /// Consumers keep up: no more than ten batches stay.
    Drain,
}

/// Appends messages in batches of one size.
fn run(data: &Path, options: &OpenOptions, batch: usize, messages: usize, load: Load) {
    let mut store = open(data, options).unwrap().store;
    let made = store.traffic().written_bytes.load(std::sync::atomic::Ordering::Relaxed);
    let commits = messages / batch;
    let record = [7u8; MESSAGE_BYTES];
    let mut seq = 1;
    let (start, cpu) = (Instant::now(), cpu_time());
    let mut slowest = Duration::ZERO;
    for n in 1..=commits as u64 {
        let mut ops = Vec::new();
        let mut block = BlockWriter::new(Wall(n));
        let mut first = seq;
        for _ in 0..batch {
            if !block.fits(record.len()) {
                append(&mut ops, first, std::mem::replace(&mut block, BlockWriter::new(Wall(n))));
                first = seq;
            }
            block.push(Wall(n), None, None, &record);
            seq += 1;
        }
        append(&mut ops, first, block);
        let head = if load == Load::Drain { seq.saturating_sub(10 * batch as u64).max(1) } else { 1 };
        if head > 1 {
            ops.push(Op::Trim { queue: QUEUE, lane: Priority::default(), below: head });
        }
        let lanes = vec![LaneRow { lane: 0, head, next: seq, ..LaneRow::default() }];
        let row = QueueRow { name: "main".to_owned(), lanes, ..QueueRow::default() };
        let key = Bytes::copy_from_slice(&schema::queue_key(QUEUE));
        ops.push(Op::Put { table: Table::Queue, key, value: schema::encode(&row) });
        let key = Bytes::copy_from_slice(&schema::dedupe_key(QUEUE.mount, Position(n)));
        ops.push(Op::Put { table: Table::Dedupe, key, value: vec![9; 17 * batch].into() });
        if let Some(old) = n.checked_sub(100_000 / batch as u64).filter(|old| *old > 0) {
            let key = Bytes::copy_from_slice(&schema::dedupe_key(QUEUE.mount, Position(old)));
            ops.push(Op::Delete { table: Table::Dedupe, key });
        }
        let began = Instant::now();
        store.commit(&[Batch { position: Position(n), ops }]).unwrap();
        slowest = slowest.max(began.elapsed());
    }
    let unfolded = store.unfolded_bytes();
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_time() - cpu);
    let (user, system) = (cpu.0, cpu.1);
    let traffic = store.traffic();
    // The journal's making is not the messages'.
    let written = traffic.written_bytes.load(std::sync::atomic::Ordering::Relaxed) - made;
    let total = (commits * batch) as f64;
    println!(
        "batch {batch:>6}: {:>8.0} commits/s {:>9.0} messages/s {:>7.0} B written a message, {:.2} us user + {:.2} us \
         system a message, slowest {slowest:?}, most resident {} KiB, file {} KiB, unfolded {unfolded} B",
        commits as f64 / seconds,
        total / seconds,
        written as f64 / total,
        user * 1e6 / total,
        system * 1e6 / total,
        status("VmHWM:"),
        traffic.file_bytes.load(std::sync::atomic::Ordering::Relaxed) / 1_024,
    );
    if load == Load::FillAndKill {
        // Never closed: the lock goes with a duplicate folder, as a copy of the files is what is opened next.
        let copy = data.with_extension("killed");
        std::fs::create_dir(&copy).unwrap();
        for file in std::fs::read_dir(data).unwrap() {
            let name = file.unwrap().file_name();
            std::fs::copy(data.join(&name), copy.join(&name)).unwrap();
        }
    }
}

fn append(ops: &mut Vec<Op>, first: u64, block: BlockWriter) {
    ops.push(Op::Append {
        queue: QUEUE,
        lane: Priority::default(),
        first,
        count: block.count(),
        block: block.finish(),
    });
}

/// Time to open, killed and closed, and to read everything once.
fn reopen(data: &Path, options: &OpenOptions, messages: usize) {
    for (what, folder) in [("killed", data.with_extension("killed")), ("closed", data.to_owned())] {
        let start = Instant::now();
        let opened = open(&folder, options).unwrap();
        let took = start.elapsed();
        let reader = opened.store.reader();
        let (mut from, mut count) = (1, 0);
        let start = Instant::now();
        loop {
            let blocks = reader.page(QUEUE, Priority::default(), from, 256 * 1_024).unwrap();
            let Some(last) = blocks.last() else { break };
            from = last.first + u64::from(last.count);
            count += blocks.iter().map(|b| b.count as usize).sum::<usize>();
        }
        println!(
            "open {what}: {took:?} with {messages} queued ({:?}), read in {:?}, most resident {} KiB",
            opened.findings,
            start.elapsed(),
            status("VmHWM:")
        );
        assert_eq!(count, messages / 800 * 800);
    }
}

#[derive(Clone, Copy)]
struct Cpu(f64, f64);

impl std::ops::Sub for Cpu {
    type Output = Cpu;
    fn sub(self, other: Cpu) -> Cpu {
        Cpu(self.0 - other.0, self.1 - other.1)
    }
}

/// User and system seconds of this process.
fn cpu_time() -> Cpu {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    Cpu(fields.get(11).copied().unwrap_or(0.0) / 100.0, fields.get(12).copied().unwrap_or(0.0) / 100.0)
}

fn status(name: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).unwrap_or("?").to_owned()
}
