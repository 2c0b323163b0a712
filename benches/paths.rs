//! The pure steps of a message's way, each alone: frames, records, routes, blocks, the dedupe window, signatures, seals.
//!
//! `cargo bench --bench paths` measures; under `cargo test` each runs once with small inputs.
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use tidegate::config::{RoleSettings, Rules};
use tidegate::model::{Channel, MessageId, Position, Properties, Property, Record, Volume, Wall, tag};
use tidegate::queue::DedupeWindow;
use tidegate::routing::{Ask, Grants, Permissions, Table};
use tidegate::seal::{
    Algorithm, PublicKeys, Sealer, SealingKey, SealingKeys, SigningKey, compress, expand, open, sign, verify,
};
use tidegate::store::block::{BlockReader, BlockWriter};
use tidegate::wire::{
    Batch, BatchItems, Contract, Decoded, FrameType, PublishAck, append, append_record, decode, seal,
};

const PAYLOAD: [u8; 256] = [7; 256];
/// Records of a batch.
const BATCH: u32 = 64;

fn id(n: u64) -> MessageId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    MessageId::from_parts(1_763_733_600_000, random)
}

fn record(n: u64) -> Vec<u8> {
    let channel = Channel::parse("site/boiler/temp").unwrap();
    let mut bytes = Vec::new();
    Record { id: id(n), ..Record::new(channel, &PAYLOAD) }.encode_to(&mut bytes);
    bytes
}

fn batch_frame(records: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let head = Batch { contract: Contract::Disk, first: 1, count: BATCH };
    append(&mut frame, FrameType::Batch, 0, 1, Some(&head), &[records]);
    seal(&mut frame, 0);
    frame
}

fn wire(c: &mut Criterion) {
    let mut records = Vec::new();
    (0..u64::from(BATCH)).for_each(|n| append_record(&mut records, &record(n)));
    let frame = batch_frame(&records);
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(u64::from(BATCH)));
    group.bench_function("encode a batch of 64", |b| b.iter(|| batch_frame(black_box(&records))));
    group.bench_function("decode a batch of 64 and its records", |b| {
        b.iter(|| {
            let Decoded::Frame(frame, _) = decode(black_box(&frame), u32::MAX).unwrap() else { unreachable!() };
            let head = frame.head::<Batch>().unwrap();
            let items = BatchItems::parse(frame.payload, head.count).unwrap();
            items.map(|item| Record::decode(item).unwrap().payload.len()).sum::<usize>()
        });
    });
    group.throughput(Throughput::Elements(1));
    let mut ack = Vec::new();
    let head = PublishAck { first: 1, count: BATCH, outcome: tidegate::wire::Outcome::Stored };
    append(&mut ack, FrameType::PublishAck, 0, 1, Some(&head), &[]);
    seal(&mut ack, 0);
    group.bench_function("decode an acknowledgement", |b| b.iter(|| decode(black_box(&ack), u32::MAX).unwrap()));
    let one = record(1);
    group.bench_function("parse a record", |b| b.iter(|| Record::decode(black_box(&one)).unwrap().payload.len()));
    group.finish();
}

fn routes(c: &mut Criterion) {
    let measuring = std::env::args().any(|arg| arg == "--bench");
    for filters in if measuring { [10, 10_000] } else { [1, 10] } {
        let mut table = Table::default();
        for n in 0..filters {
            table.insert(&format!("site/{n}/temp"), n);
        }
        table.insert("site/+/temp", filters);
        table.insert("#", filters + 1);
        let mut found = Vec::new();
        c.bench_function(&format!("routes/one channel among {filters} filters"), |b| {
            b.iter(|| {
                found.clear();
                table.matches(black_box("site/0/temp"), &mut found);
                assert_eq!(found.len(), 3);
            });
        });
    }
}

fn blocks(c: &mut Criterion) {
    let record = record(1);
    let write = || {
        let mut block = BlockWriter::new(Wall(1));
        let mut count = 0;
        while block.fits(record.len()) {
            block.push(Wall(2), None, None, &record);
            count += 1;
        }
        (block.finish(), count)
    };
    let (block, count) = write();
    let mut group = c.benchmark_group("blocks");
    group.throughput(Throughput::Elements(count));
    group.bench_function("fill one", |b| b.iter(write));
    group.bench_function("read one", |b| {
        b.iter(|| {
            let mut reader = BlockReader::new(black_box(&block)).unwrap();
            let mut seen = 0;
            while reader.next_entry().is_some() {
                seen += 1;
            }
            assert_eq!(seen, count);
        });
    });
    group.finish();
}

fn dedupe(c: &mut Criterion) {
    let measuring = std::env::args().any(|arg| arg == "--bench");
    let ids_max = if measuring { 100_000 } else { 100 };
    let mut full = DedupeWindow::new(ids_max, 300_000);
    let mut next = 0;
    let mut take = |window: &mut DedupeWindow| {
        next += 1;
        assert_eq!(window.seen(id(next), Wall(1)), None);
        window.remember(id(next), Wall(1), Some((Volume::Disk, Position(next / 800))));
        if next.is_multiple_of(800) {
            black_box(window.expire(Wall(1)));
        }
    };
    (0..ids_max).for_each(|_| take(&mut full));
    c.bench_function("dedupe/a new id in a full window", |b| b.iter(|| take(&mut full)));
    let newest = id(next);
    c.bench_function("dedupe/a repeated id", |b| b.iter(|| full.seen(black_box(newest), Wall(1)).unwrap()));
    c.bench_function("dedupe/800 ids in an empty window", |b| {
        b.iter_batched(
            || DedupeWindow::new(ids_max, 300_000),
            |mut window| (0..800).for_each(|n| window.remember(id(n), Wall(1), None)),
            BatchSize::SmallInput,
        );
    });
}

fn permissions(c: &mut Criterion) {
    let measuring = std::env::args().any(|arg| arg == "--bench");
    let rules = if measuring { 1_000 } else { 10 };
    let list = |name: &str| (0..rules / 4).map(|n| format!("{name}/{n}/+/{{client}}/#")).collect::<Vec<_>>();
    let allow = Rules { publish: list("site"), subscribe: list("site"), ..Rules::default() };
    let deny = Rules { publish: list("secret"), subscribe: list("secret"), ..Rules::default() };
    let role = RoleSettings { name: "sensor".into(), allow, deny };
    let all = Arc::new(Permissions::new(&[role]));
    let mut grants = Grants::new(all, "ada", "", ["sensor"], false);
    let mut group = c.benchmark_group("permissions");
    group.bench_function(format!("a channel among {rules} rules"), |b| {
        b.iter(|| assert!(grants.decide(black_box(&Ask::Publish("site/1/temp/ada/now"))).is_allowed()));
    });
    group.bench_function(format!("a filter among {rules} rules"), |b| {
        b.iter(|| assert!(grants.decide(black_box(&Ask::Subscribe("site/1/temp/ada/#"))).is_allowed()));
    });
    group.bench_function("a channel published to before", |b| {
        b.iter(|| assert!(grants.may_publish(black_box("site/1/temp/ada/now"))));
    });
    group.finish();
}

/// Readings of a sensor as JSON, cut at so many bytes.
fn readings(bytes: usize) -> Vec<u8> {
    let one =
        |n| format!(r#"{{"sensor":"boiler-{}","value":{}.{},"unit":"C","at":{}}},"#, n % 7, n % 90, n % 10, n * 37);
    (0..).flat_map(|n: u32| one(n).into_bytes()).take(bytes).collect()
}

fn properties(all: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(tag, value) in all {
        let mut one = [0; 128];
        let len = Properties::encode_one(Property { tag, value }, &mut one).unwrap();
        bytes.extend_from_slice(&one[..len]);
    }
    bytes
}

fn with<'a>(properties: &'a [u8], payload: &'a [u8]) -> Record<'a> {
    Record {
        id: id(1),
        time_ms: 1_763_726_400_000,
        properties: Properties::parse(properties).unwrap(),
        ..Record::new(Channel::parse("site/boiler/temp").unwrap(), payload)
    }
}

fn end_to_end(c: &mut Criterion) {
    let measuring = std::env::args().any(|arg| arg == "--bench");
    let key = SigningKey::from_seed(&[1; 32]);
    let public: PublicKeys = [key.public()].into_iter().collect();
    let sealing = SealingKey::from_bytes(&[2; 32]);
    let ring: SealingKeys = [sealing.clone()].into_iter().collect();
    let mut group = c.benchmark_group("end to end");
    for bytes in if measuring { [256, 16_384] } else { [200, 256] } {
        let payload = readings(bytes);
        let plain = with(&[], &payload);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("sign, {bytes} bytes"), |b| b.iter(|| sign(black_box(&plain), &key).unwrap()));
        let signature = sign(&plain, &key).unwrap();
        let signer = key.public().id();
        let stated = properties(&[(tag::SIGNATURE, &signature), (tag::SIGNER, &signer.0)]);
        let signed = with(&stated, &payload);
        group.bench_function(format!("verify, {bytes} bytes"), |b| {
            b.iter(|| verify(black_box(&signed), &public).unwrap());
        });
        for (algorithm, name) in [(Algorithm::ChaCha20Poly1305, "ChaCha20"), (Algorithm::Aes256Gcm, "AES")] {
            let sealer = Sealer::new(sealing.clone(), algorithm, [3; 16]);
            group.bench_function(format!("seal with {name}, {bytes} bytes"), |b| {
                b.iter(|| sealer.seal(black_box(&plain), false).unwrap());
            });
            let sealed = sealer.seal(&plain, false).unwrap();
            let stated = properties(&[(tag::SEAL, &sealed.property)]);
            let record = with(&stated, &sealed.payload);
            group.bench_function(format!("open with {name}, {bytes} bytes"), |b| {
                b.iter(|| open(black_box(&record), &ring, bytes).unwrap());
            });
        }
        let compressed = compress(&payload).unwrap();
        let len = compressed.len();
        group.bench_function(format!("compress, {bytes} bytes to {len}"), |b| {
            b.iter(|| compress(black_box(&payload)).unwrap());
        });
        group.bench_function(format!("expand, {bytes} bytes from {len}"), |b| {
            b.iter(|| expand(black_box(&compressed), bytes).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, wire, routes, blocks, dedupe, permissions, end_to_end);
criterion_main!(benches);
