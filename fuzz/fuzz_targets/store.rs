//! Operations against the store on a disk that loses power, fills up and fails, and against the one in memory: after every
//! commit, reopening and power cut they hold the same rows and the same messages, or the failed commit as a whole
//! (a prefix of its batches, never half a batch) is there or not.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate::model::{MountId, Position, Priority, QueueId, Wall};
use tidegate::store::block::{BlockReader, BlockWriter, HistoryLink};
use tidegate::store::schema::{self, ConsumerRow, LaneRow, META_APPLIED, QueueRow};
use tidegate::store::testing::{FaultyDisk, Lost};
use tidegate::store::{
    Batch, Block, Finding, MemoryStore, Op, OpenOptions, Opened, QueueKey, ReadRequest, Reader, Store, Table, open_on,
    perform,
};

#[derive(Arbitrary, Debug)]
enum Step {
    Append {
        queue: u8,
        lane: u8,
        count: u8,
        len: u16,
        history: bool,
    },
    Shared {
        mount: bool,
        len: u16,
        refs: u8,
    },
    Trim {
        queue: u8,
        lane: u8,
        by: u8,
    },
    Ack {
        queue: u8,
        name: u8,
        value: u8,
    },
    Put {
        table: u8,
        key: u8,
        len: u16,
    },
    Delete {
        table: u8,
        key: u8,
    },
    Compare {
        key: u8,
        right: bool,
        then: u8,
    },
    DeleteQueue {
        queue: u8,
    },
    /// The next batch begins.
    Batch,
    Commit,
    /// A commit in the middle of which something happens.
    CommitUnder(Fault),
    Tidy,
    /// Closed in order and opened.
    Reopen,
    /// The process dies, or the power goes.
    Cut(Loss),
    Compare2 {
        table: u8,
        prefix: u8,
        from: u8,
    },
    History {
        queue: u8,
        lane: u8,
        back: u8,
    },
    Page {
        queue: u8,
        lane: u8,
        from: u8,
        bytes_max: u16,
    },
}

#[derive(Arbitrary, Debug)]
enum Fault {
    CutAtWrite(u8, Loss),
    CutAtSync(u8, Loss),
    Space(u16),
    Errors,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Loss {
    All,
    None,
    Some(u8),
    Torn(u8),
}

impl Loss {
    fn of(self) -> Lost {
        match self {
            Self::All => Lost::All,
            Self::None => Lost::None,
            Self::Some(seed) => Lost::Some(u64::from(seed)),
            Self::Torn(seed) => Lost::Torn(u64::from(seed)),
        }
    }
}

const QUEUES: u8 = 3;
const LANES: u8 = 2;
/// Tables whose rows no operation but these writes.
const FREE: &[Table] = &[Table::Retained, Table::Report, Table::Bridge, Table::Channel, Table::Extent, Table::Delayed];
const ALL: &[Table] = &[
    Table::Queue,
    Table::Extent,
    Table::Consumer,
    Table::Dedupe,
    Table::Retained,
    Table::Channel,
    Table::Delayed,
    Table::Document,
    Table::Report,
    Table::Bridge,
];

fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    for step in steps.iter().take(150) {
        world.step(step);
    }
    world.commit();
    world.reopen();
    world.trim_all();
});

/// First sequence kept and next one, by queue and lane.
type Lanes = BTreeMap<(u8, u8), (u64, u64)>;

struct World {
    disk: FaultyDisk,
    opened: Option<Opened>,
    model: MemoryStore,
    lanes: Lanes,
    /// Lanes as they were after each batch that is not committed.
    lanes_after: Vec<Lanes>,
    batches: Vec<Batch>,
    ops: Vec<Op>,
    position: u64,
    bodies: u64,
    revisions: BTreeMap<u8, u64>,
    /// How often each queue was deleted: its number is never used again.
    deleted: [u32; QUEUES as usize],
    now: u64,
}

fn lane(n: u8) -> Priority {
    Priority::new(n % LANES).expect("below ten")
}

fn fill(len: usize, seed: u64) -> Bytes {
    (0..len).map(|i| (i as u64).wrapping_mul(31).wrapping_add(seed) as u8).collect()
}

impl World {
    fn new() -> Self {
        let disk = FaultyDisk::new();
        let opened = open(&disk);
        Self {
            disk,
            opened: Some(opened),
            model: MemoryStore::new(),
            lanes: Lanes::new(),
            lanes_after: Vec::new(),
            batches: Vec::new(),
            ops: Vec::new(),
            position: 0,
            bodies: 0,
            revisions: BTreeMap::new(),
            deleted: [0; QUEUES as usize],
            now: 1_000,
        }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        let now = Wall(self.now);
        match *step {
            Step::Append { queue, lane, count, len, history } => {
                let mut block = BlockWriter::new(now);
                let data = fill(usize::from(len) % 3_000, self.now);
                let last = self.lanes.get(&(queue % QUEUES, lane % LANES)).map_or(0, |l| l.1 - 1);
                for n in 0..=u64::from(count % 20) {
                    let link =
                        HistoryLink { offset: last + n + 1, previous_lane: lane % LANES, previous_seq: last + n };
                    if block.fits(data.len()) {
                        block.push(now, history.then_some(link), None, &data);
                    }
                }
                self.append(queue, lane, block);
            }
            Step::Shared { mount, len, refs } => {
                self.bodies += 1;
                let (queue, mount) = if mount { (1, MountId(1)) } else { (0, MountId(0)) };
                let refs = u32::from(refs % 3) + 1;
                let bytes = fill(usize::from(len), self.now);
                self.ops.push(Op::Body { mount, body: self.bodies, refs, bytes });
                for n in 0..refs {
                    let mut block = BlockWriter::new(now);
                    block.push(now, None, None, b"before");
                    block.push(now, None, Some(self.bodies), b"head");
                    self.append(queue, n as u8, block);
                }
            }
            Step::Trim { queue, lane: l, by } => {
                if let Some((head, next)) = self.lanes.get_mut(&(queue % QUEUES, l % LANES)) {
                    *head = (*head + u64::from(by)).min(*next);
                    let below = *head;
                    self.ops.push(Op::Trim { queue: self.key(queue), lane: lane(l), below });
                    self.put_queue(queue);
                }
            }
            Step::Ack { queue, name, value } => {
                let row = ConsumerRow { window: u32::from(value), ..ConsumerRow::default() };
                let consumer = format!("c{}", name % 4).into();
                self.ops.push(Op::Ack { queue: self.key(queue), consumer, progress: schema::encode(&row) });
            }
            Step::Put { table, key, len } => {
                let table = FREE[usize::from(table) % FREE.len()];
                let value = fill(usize::from(len) % 9_000, self.now);
                self.ops.push(Op::Put { table, key: row_key(key), value });
            }
            Step::Delete { table, key } => {
                let table = FREE[usize::from(table) % FREE.len()];
                self.ops.push(Op::Delete { table, key: row_key(key) });
            }
            Step::Compare { key, right, then } => {
                let key = key % 4;
                let known = self.revisions.get(&key).copied();
                let expect = if right { known } else { Some(u64::MAX) };
                let revision = known.unwrap_or(0) + 1;
                if right {
                    self.revisions.insert(key, revision);
                }
                let then = u32::from(then % 3);
                let value = [&revision.to_be_bytes()[..], b"document"].concat().into();
                self.ops.push(Op::CompareAndPut { table: Table::Document, key: vec![key].into(), expect, value, then });
                for n in 0..then as u8 {
                    let value = fill(usize::from(n) + 1, self.now);
                    self.ops.push(Op::Put { table: Table::Document, key: vec![key, n].into(), value });
                }
            }
            Step::DeleteQueue { queue } => {
                self.lanes.retain(|(q, _), _| *q != queue % QUEUES);
                let key = Bytes::copy_from_slice(&schema::queue_key(self.key(queue)));
                self.ops.push(Op::Delete { table: Table::Queue, key });
                // Committed at once: a queue whose end was lost would have to come back.
                self.commit();
                self.deleted[usize::from(queue % QUEUES)] += 1;
            }
            Step::Batch => self.next_batch(),
            Step::Commit => self.commit(),
            Step::CommitUnder(ref fault) => self.commit_under(fault),
            Step::Tidy => {
                let store = &mut self.opened.as_mut().expect("open").store;
                store.tidy().expect("the disk works");
                self.compare();
            }
            Step::Reopen => self.reopen(),
            Step::Cut(loss) => {
                self.disk.cut();
                self.opened = None;
                self.disk.power_on(loss.of());
                self.opened = Some(open(&self.disk));
                self.compare();
            }
            Step::Compare2 { table, prefix, from } => {
                let table = ALL[usize::from(table) % ALL.len()];
                let prefix = &row_key(prefix)[..usize::from(prefix >> 7)];
                let from = &row_key(from);
                assert_eq!(
                    rows(self.reader().as_ref(), table, prefix, from),
                    rows(self.model.reader().as_ref(), table, prefix, from)
                );
            }
            Step::History { queue, lane: l, back } => {
                let Some((head, next)) = self.committed_lane(queue, l) else { return };
                let seq = next.saturating_sub(1 + u64::from(back));
                if seq < head || seq == 0 {
                    return;
                }
                let request = ReadRequest::History {
                    queue: self.key(queue),
                    newest: (lane(l), seq),
                    above_offset: Some(head.saturating_sub(1)),
                    not_before: None,
                    count_max: 50,
                    bytes_max: 20_000,
                };
                let found = perform(self.reader().as_ref(), &request).expect("the disk works");
                assert_eq!(found, perform(self.model.reader().as_ref(), &request).expect("memory works"));
            }
            Step::Page { queue, lane: l, from, bytes_max } => {
                let Some((head, next)) = self.committed_lane(queue, l) else { return };
                let from = (head + u64::from(from)).min(next);
                // Blocks may be joined on their way, so it is their messages that are compared.
                let reader = self.reader();
                let page = reader.page(self.key(queue), lane(l), from, usize::from(bytes_max)).expect("it works");
                let found = entries(&page, from);
                let wanted = messages(self.model.reader().as_ref(), self.key(queue), lane(l), from);
                assert!(wanted.starts_with(&found), "a page of other messages");
                assert!(!found.is_empty() || from == next, "an empty page before the end");
            }
        }
    }

    fn key(&self, queue: u8) -> QueueKey {
        let n = u32::from(queue % QUEUES);
        let deleted = self.deleted[usize::from(queue % QUEUES)];
        QueueKey { mount: MountId(n % 2), queue: QueueId(n + 1 + u32::from(QUEUES) * deleted) }
    }

    fn reader(&self) -> Box<dyn Reader> {
        self.opened.as_ref().expect("open").store.reader()
    }

    /// First sequence kept and next one, as the model's row of the queue says.
    fn committed_lane(&self, queue: u8, l: u8) -> Option<(u64, u64)> {
        let row = self.model.reader().get(Table::Queue, &schema::queue_key(self.key(queue))).expect("memory works")?;
        let row: QueueRow = schema::decode(&row)?;
        row.lanes.iter().find(|found| found.lane == l % LANES).map(|found| (found.head, found.next))
    }

    fn append(&mut self, queue: u8, l: u8, block: BlockWriter) {
        let (_, next) = self.lanes.entry((queue % QUEUES, l % LANES)).or_insert((1, 1));
        let (first, count) = (*next, block.count());
        *next += u64::from(count);
        self.ops.push(Op::Append { queue: self.key(queue), lane: lane(l), first, count, block: block.finish() });
        self.put_queue(queue);
    }

    fn put_queue(&mut self, queue: u8) {
        let lanes = self.lanes.range((queue % QUEUES, 0)..=(queue % QUEUES, LANES));
        let lanes =
            lanes.map(|((_, l), (head, next))| LaneRow { lane: *l, head: *head, next: *next, ..LaneRow::default() });
        let row = QueueRow { name: format!("q{}", queue % QUEUES), lanes: lanes.collect(), ..QueueRow::default() };
        let key = Bytes::copy_from_slice(&schema::queue_key(self.key(queue)));
        self.ops.push(Op::Put { table: Table::Queue, key, value: schema::encode(&row) });
    }

    fn next_batch(&mut self) {
        if !self.ops.is_empty() {
            self.position += 1;
            self.batches.push(Batch { position: Position(self.position), ops: std::mem::take(&mut self.ops) });
            self.lanes_after.push(self.lanes.clone());
        }
    }

    fn commit(&mut self) {
        self.next_batch();
        if self.batches.is_empty() {
            return;
        }
        let batches = std::mem::take(&mut self.batches);
        self.lanes_after.clear();
        let done = self.opened.as_mut().expect("open").store.commit(&batches).expect("the disk works");
        let expected = self.model.commit(&batches).expect("memory works");
        assert_eq!((done.position, done.conflicts), (expected.position, expected.conflicts));
        self.compare();
    }

    fn commit_under(&mut self, fault: &Fault) {
        self.next_batch();
        if self.batches.is_empty() {
            return;
        }
        match *fault {
            Fault::CutAtWrite(n, _) => self.disk.cut_at_write(u64::from(n)),
            Fault::CutAtSync(n, _) => self.disk.cut_at_sync(u64::from(n % 4)),
            Fault::Space(bytes) => self.disk.set_space(Some(u64::from(bytes))),
            Fault::Errors => self.disk.fail_writes(true),
        }
        let batches = std::mem::take(&mut self.batches);
        let lanes_after = std::mem::take(&mut self.lanes_after);
        let result = self.opened.as_mut().expect("open").store.commit(&batches);
        self.opened = None;
        match *fault {
            Fault::CutAtWrite(_, loss) | Fault::CutAtSync(_, loss) => self.disk.power_on(loss.of()),
            Fault::Space(_) => self.disk.set_space(None),
            Fault::Errors => self.disk.fail_writes(false),
        }
        self.opened = Some(open(&self.disk));
        // What was acknowledged is there; of what was not, a prefix of whole batches.
        let row = self.reader().get(Table::Meta, META_APPLIED).expect("the disk works");
        let applied = row.map_or(0, |r| u64::from_be_bytes(r[..].try_into().expect("eight bytes")));
        let kept = batches.iter().take_while(|b| b.position.0 <= applied).count();
        assert!(result.is_err() || kept == batches.len(), "an acknowledged commit is gone");
        let before = batches[0].position.0 - 1;
        assert_eq!(applied, before + kept as u64, "a position that was never written");
        if kept > 0 {
            self.model.commit(&batches[..kept]).expect("memory works");
        }
        self.position = applied;
        if kept < batches.len() {
            self.lanes = if kept > 0 { lanes_after[kept - 1].clone() } else { self.lanes_of_model() };
            self.revisions = self.revisions_of_model();
        }
        self.compare();
    }

    fn lanes_of_model(&self) -> Lanes {
        let mut lanes = Lanes::new();
        for queue in 0..QUEUES {
            for l in 0..LANES {
                if let Some(at) = self.committed_lane(queue, l) {
                    lanes.insert((queue, l), at);
                }
            }
        }
        lanes
    }

    fn revisions_of_model(&self) -> BTreeMap<u8, u64> {
        let rows = rows(self.model.reader().as_ref(), Table::Document, &[], &[]);
        let documents = rows.into_iter().filter(|(key, _)| key.len() == 1);
        documents.map(|(k, v)| (k[0], u64::from_be_bytes(v[..8].try_into().expect("a revision")))).collect()
    }

    fn reopen(&mut self) {
        self.opened = None;
        self.opened = Some(open(&self.disk));
        self.compare();
    }

    fn compare(&self) {
        let (found, wanted) = (self.reader(), self.model.reader());
        for table in ALL {
            let (a, b) = (rows(found.as_ref(), *table, &[], &[]), rows(wanted.as_ref(), *table, &[], &[]));
            assert_eq!(a, b, "{table:?}");
        }
        for queue in 0..QUEUES {
            for l in 0..LANES {
                if let Some((head, next)) = self.committed_lane(queue, l) {
                    let messages = messages(found.as_ref(), self.key(queue), lane(l), head);
                    assert_eq!(messages.len() as u64, next - head, "queue {queue} lane {l}: messages are missing");
                    assert!(
                        messages == self::messages(wanted.as_ref(), self.key(queue), lane(l), head),
                        "messages differ"
                    );
                }
            }
        }
    }

    /// Once everything is trimmed nothing stays.
    fn trim_all(&mut self) {
        for queue in 0..QUEUES {
            for l in 0..LANES {
                self.step(&Step::Trim { queue, lane: l, by: u8::MAX });
            }
        }
        while self.lanes.values().any(|(head, next)| head < next) {
            for queue in 0..QUEUES {
                for l in 0..LANES {
                    self.step(&Step::Trim { queue, lane: l, by: u8::MAX });
                }
            }
        }
        self.commit();
        // A journal knows of the trim what the database does not yet, until it is closed.
        self.reopen();
        let store = &mut self.opened.as_mut().expect("open").store;
        let mut rounds = 0;
        while store.tidy().expect("the disk works") {
            rounds += 1;
            assert!(rounds < 10_000, "tidying does not end");
        }
        for queue in 0..QUEUES {
            for l in 0..LANES {
                let left = self.reader().page(self.key(queue), lane(l), 0, usize::MAX).expect("the disk works");
                assert!(left.is_empty(), "queue {queue} lane {l}: {} trimmed blocks stay", left.len());
            }
        }
        assert_eq!(self.model.bodies(), 0, "bodies without a reference");
    }
}

fn row_key(n: u8) -> Bytes {
    // Short and long, some beginning like others.
    Bytes::from(vec![n % 3; 1 + usize::from(n % 5)])
}

fn open(disk: &FaultyDisk) -> Opened {
    let opened = open_on(Arc::new(disk.clone()), &OpenOptions::default()).expect("it always opens");
    for finding in &opened.findings {
        assert!(*finding == Finding::Repaired, "a power cut is no damage: {finding}");
    }
    opened
}

fn rows(reader: &dyn Reader, table: Table, prefix: &[u8], from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    reader
        .scan(table, prefix, from, &mut |k, v| {
            all.push((k.to_vec(), v.to_vec()));
            true
        })
        .expect("it works");
    all
}

/// A message: sequence, time, bytes.
type Message = (u64, Wall, Vec<u8>);

fn messages(reader: &dyn Reader, queue: QueueKey, lane: Priority, head: u64) -> Vec<Message> {
    let mut all = Vec::new();
    let mut from = head;
    loop {
        let blocks = reader.page(queue, lane, from, 30_000).expect("it works");
        let Some(last) = blocks.last() else { return all };
        from = last.first + u64::from(last.count);
        all.extend(entries(&blocks, head));
    }
}

/// The messages of some blocks from a sequence on.
fn entries(blocks: &[Block], head: u64) -> Vec<Message> {
    let mut all = Vec::new();
    for block in blocks {
        let mut entries = BlockReader::new(&block.bytes).expect("a block");
        let mut seq = block.first;
        while let Some((stored, entry)) = entries.next_entry() {
            assert_eq!(entry.body, None, "bodies are put back");
            if seq >= head {
                all.push((seq, stored, entry.data.to_vec()));
            }
            seq += 1;
        }
        assert_eq!(seq, block.first + u64::from(block.count), "every entry decodes");
    }
    all
}
