//! A seeded stream of batches such as a broker makes, and the comparison of two stores.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use std::collections::BTreeMap;
use tidegate::model::{MountId, Position, Priority, QueueId, Wall};
use tidegate::store::block::{BlockReader, BlockWriter, HistoryLink};
use tidegate::store::schema::{self, LaneRow, QueueRow};
use tidegate::store::{Batch, Op, QueueKey, Reader, Table};

pub const QUEUES: u32 = 4;
pub const LANES: u8 = 2;

#[derive(Clone, Copy, Debug, Default)]
pub struct Lane {
    pub head: u64,
    pub next: u64,
}

pub struct Workload {
    rng: fastrand::Rng,
    pub position: u64,
    body: u64,
    pub lanes: BTreeMap<(QueueKey, u8), Lane>,
    revisions: BTreeMap<u8, u64>,
    now: Wall,
}

pub fn queue(n: u32) -> QueueKey {
    QueueKey { mount: MountId(n % 2), queue: QueueId(n) }
}

impl Workload {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            position: 0,
            body: 0,
            lanes: BTreeMap::new(),
            revisions: BTreeMap::new(),
            now: Wall(1_000),
        }
    }

    pub fn chance(&mut self, one_in: u32) -> bool {
        self.rng.u32(..one_in) == 0
    }

    /// One to three batches of a transaction.
    pub fn batches(&mut self) -> Vec<Batch> {
        (0..self.rng.u32(1..=3)).map(|_| self.batch()).collect()
    }

    pub fn batch(&mut self) -> Batch {
        self.position += 1;
        self.now = self.now.plus_ms(self.rng.u64(..50));
        let mut ops = Vec::new();
        // The mark of a position: half of the batch at its beginning, half at its end, to see that none is half there.
        ops.push(mark(b"first", self.position));
        for _ in 0..self.rng.u32(..6) {
            match self.rng.u32(..12) {
                0..=4 => self.append(&mut ops),
                5 => self.append_shared(&mut ops),
                6 | 7 => self.trim(&mut ops),
                8 => self.ack(&mut ops),
                9 => self.compare_and_put(&mut ops),
                10 => {
                    let key = Bytes::from(vec![self.rng.u8(..16)]);
                    ops.push(Op::Put { table: Table::Retained, key, value: self.bytes(0, 6_000) });
                }
                _ => ops.push(Op::Delete { table: Table::Retained, key: Bytes::from(vec![self.rng.u8(..16)]) }),
            }
        }
        ops.push(mark(b"last", self.position));
        Batch { position: Position(self.position), ops }
    }

    /// Trims every lane as far as it goes.
    pub fn trim_all(&mut self) -> Vec<Batch> {
        self.position += 1;
        let mut ops = Vec::new();
        for ((queue, lane), l) in &mut self.lanes {
            l.head = l.next;
            ops.push(Op::Trim { queue: *queue, lane: Priority::new(*lane).unwrap(), below: l.next });
        }
        for n in 1..=QUEUES {
            self.put_queue(&mut ops, queue(n));
        }
        vec![Batch { position: Position(self.position), ops }]
    }

    /// Takes note of what did not match.
    pub fn learn(&mut self, batches: &[Batch], conflicts: &[u32]) {
        let all: Vec<&Op> = batches.iter().flat_map(|b| &b.ops).collect();
        for index in conflicts {
            let Op::CompareAndPut { .. } = all[*index as usize] else { panic!("a conflict that is none") };
        }
    }

    fn bytes(&mut self, min: usize, max: usize) -> Bytes {
        let len = self.rng.usize(min..=max);
        let byte = self.rng.u8(..);
        Bytes::from((0..len).map(|i| byte.wrapping_add(i as u8)).collect::<Vec<u8>>())
    }

    fn lane(&mut self) -> (QueueKey, u8) {
        (queue(self.rng.u32(1..=QUEUES)), self.rng.u8(..LANES))
    }

    fn append(&mut self, ops: &mut Vec<Op>) {
        let at = self.lane();
        let mut block = BlockWriter::new(self.now);
        for _ in 0..self.rng.u32(1..=20) {
            let data = self.bytes(10, 600);
            let link = self.rng.bool().then_some(HistoryLink { offset: 3, previous_lane: 0, previous_seq: 1 });
            if block.fits(data.len()) {
                block.push(self.now.plus_ms(1), link, None, &data);
            }
        }
        self.push(ops, at, block);
    }

    fn append_shared(&mut self, ops: &mut Vec<Op>) {
        self.body += 1;
        let payload = self.bytes(2_000, 20_000);
        let refs = self.rng.u32(1..=3);
        let mount = MountId(self.rng.u32(..2));
        ops.push(Op::Body { mount, body: self.body, refs, bytes: payload });
        // Several references may be in one block.
        let at = (queue(if mount.0 == 0 { 2 } else { 1 }), 0);
        let mut left = refs;
        while left > 0 {
            let here = self.rng.u32(1..=left);
            let mut block = BlockWriter::new(self.now);
            for _ in 0..here {
                block.push(self.now, None, Some(self.body), b"head of a record");
                block.push(self.now, None, None, b"a whole record");
            }
            left -= here;
            self.push(ops, at, block);
        }
    }

    fn push(&mut self, ops: &mut Vec<Op>, at: (QueueKey, u8), block: BlockWriter) {
        let lane = self.lanes.entry(at).or_insert(Lane { head: 1, next: 1 });
        let (first, count) = (lane.next, block.count());
        lane.next += u64::from(count);
        let lane = Priority::new(at.1).unwrap();
        ops.push(Op::Append { queue: at.0, lane, first, count, block: block.finish() });
        self.put_queue(ops, at.0);
    }

    fn trim(&mut self, ops: &mut Vec<Op>) {
        let at = self.lane();
        let Some(lane) = self.lanes.get_mut(&at) else { return };
        lane.head = self.rng.u64(lane.head..=lane.next);
        let below = lane.head;
        ops.push(Op::Trim { queue: at.0, lane: Priority::new(at.1).unwrap(), below });
        self.put_queue(ops, at.0);
    }

    fn put_queue(&mut self, ops: &mut Vec<Op>, queue: QueueKey) {
        let lanes = (0..LANES).filter_map(|lane| self.lanes.get(&(queue, lane)).map(|l| (lane, *l)));
        let lanes = lanes.map(|(lane, l)| LaneRow { lane, head: l.head, next: l.next, ..LaneRow::default() }).collect();
        let row = QueueRow { name: format!("q{}", queue.queue.0), lanes, ..QueueRow::default() };
        let key = Bytes::copy_from_slice(&schema::queue_key(queue));
        ops.push(Op::Put { table: Table::Queue, key, value: schema::encode(&row) });
    }

    fn ack(&mut self, ops: &mut Vec<Op>) {
        let queue = queue(self.rng.u32(1..=QUEUES));
        let row = schema::ConsumerRow { window: self.rng.u32(..), ..schema::ConsumerRow::default() };
        let progress = schema::encode(&row);
        ops.push(Op::Ack { queue, consumer: format!("c{}", self.rng.u32(..3)).into(), progress });
    }

    fn compare_and_put(&mut self, ops: &mut Vec<Op>) {
        let key = self.rng.u8(..4);
        let known = self.revisions.get(&key).copied();
        // Wrong now and then: then neither it nor its dependant may have an effect.
        let wrong = self.rng.u32(..3) == 0;
        let expect = if wrong { Some(u64::MAX) } else { known };
        let revision = known.unwrap_or(0) + 1;
        if !wrong {
            self.revisions.insert(key, revision);
        }
        let value = [&revision.to_be_bytes()[..], b"document"].concat().into();
        ops.push(Op::CompareAndPut { table: Table::Document, key: Bytes::from(vec![key]), expect, value, then: 1 });
        let value = self.bytes(1, 20);
        ops.push(Op::Put { table: Table::Document, key: Bytes::from(vec![key, 0]), value });
    }
}

fn mark(name: &'static [u8], position: u64) -> Op {
    let value = Bytes::copy_from_slice(&position.to_be_bytes());
    Op::Put { table: Table::Report, key: Bytes::from_static(name), value }
}

pub fn marked(reader: &dyn Reader, name: &[u8]) -> u64 {
    reader.get(Table::Report, name).unwrap().map_or(0, |v| u64::from_be_bytes(v[..].try_into().unwrap()))
}

const TABLES: [Table; 11] = [
    Table::Meta,
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

/// All rows but those of Meta, which only the store on disk has.
pub fn rows(reader: &dyn Reader) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for table in TABLES.into_iter().filter(|t| *t != Table::Meta) {
        let visit = &mut |k: &[u8], v: &[u8]| {
            all.push((table as u8, k.to_vec(), v.to_vec()));
            true
        };
        reader.scan(table, &[], &[], visit).unwrap();
    }
    all
}

/// All messages of a lane from `head`: sequence, time, data.
pub fn messages(reader: &dyn Reader, queue: QueueKey, lane: u8, head: u64) -> Vec<(u64, Wall, Vec<u8>)> {
    let lane = Priority::new(lane).unwrap();
    let mut all = Vec::new();
    let mut from = head;
    loop {
        let blocks = reader.page(queue, lane, from, 30_000).unwrap();
        let Some(last) = blocks.last() else { return all };
        from = last.first + u64::from(last.count);
        for block in &blocks {
            let mut entries = BlockReader::new(&block.bytes).unwrap();
            assert_eq!(entries.remaining(), block.count);
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
    }
}

pub fn assert_same(work: &Workload, a: &dyn Reader, b: &dyn Reader) {
    assert_eq!(rows(a), rows(b));
    for ((queue, lane), l) in &work.lanes {
        let (x, y) = (messages(a, *queue, *lane, l.head), messages(b, *queue, *lane, l.head));
        assert_eq!(x.iter().map(|m| m.0).collect::<Vec<_>>(), (l.head..l.next).collect::<Vec<_>>());
        assert!(x == y, "messages of {queue:?} lane {lane} differ");
    }
}

/// As [`assert_same`], for the queues whose rows `wanted` has.
pub fn assert_same_as_rows(found: &dyn Reader, wanted: &dyn Reader) {
    assert_eq!(rows(found), rows(wanted));
    let mut lanes = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        let (mount, queue) = schema::split_queue_key(Table::Queue, key).unwrap();
        let row: QueueRow = schema::decode(value).unwrap();
        lanes.extend(row.lanes.iter().map(|l| (QueueKey { mount, queue }, *l)));
        true
    };
    wanted.scan(Table::Queue, &[], &[], visit).unwrap();
    for (queue, lane) in lanes {
        let (x, y) = (messages(found, queue, lane.lane, lane.head), messages(wanted, queue, lane.lane, lane.head));
        assert_eq!(x.iter().map(|m| m.0).collect::<Vec<_>>(), (lane.head..lane.next).collect::<Vec<_>>());
        assert!(x == y, "messages of {queue:?} lane {} differ", lane.lane);
    }
}

/// That all rows and messages of one store are as they are in the other, whose row of a queue may have another epoch. Returns how
/// many messages there are of how many.
pub fn assert_part_of(found: &dyn Reader, whole: &dyn Reader) -> (usize, usize) {
    let plain = |reader: &dyn Reader| -> BTreeMap<(u8, Vec<u8>), Vec<u8>> {
        let of_queue = |row: &[u8]| schema::encode(&QueueRow { epoch: 0, ..schema::decode(row).unwrap() }).to_vec();
        let value = |table, value: Vec<u8>| if table == Table::Queue as u8 { of_queue(&value) } else { value };
        rows(reader).into_iter().map(|(t, k, v)| ((t, k), value(t, v))).collect()
    };
    let (found_rows, whole_rows) = (plain(found), plain(whole));
    for (key, value) in &found_rows {
        assert_eq!(Some(value), whole_rows.get(key), "the row {key:?} is what it was");
    }
    let (mut there, mut of) = (0, 0);
    for ((table, key), value) in &whole_rows {
        if *table != Table::Queue as u8 {
            continue;
        }
        let (mount, number) = schema::split_queue_key(Table::Queue, key).unwrap();
        let queue = QueueKey { mount, queue: number };
        for lane in schema::decode::<QueueRow>(value).unwrap().lanes {
            let wanted = messages(whole, queue, lane.lane, lane.head);
            of += wanted.len();
            if !found_rows.contains_key(&(*table, key.clone())) {
                continue;
            }
            let wanted: BTreeMap<u64, _> = wanted.into_iter().map(|m| (m.0, m)).collect();
            for message in messages(found, queue, lane.lane, lane.head) {
                assert!(wanted.get(&message.0) == Some(&message), "message {} of {queue:?} is what it was", message.0);
                there += 1;
            }
        }
    }
    (there, of)
}
