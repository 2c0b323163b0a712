//! The pipeline against a model of the broker, and its policies one by one.

use super::*;
use crate::model::{Channel, MessageId};
use crate::wire::{BatchItems, Code, Decoded, FLAG_CONT, decode};

const TERMS: Terms = Terms {
    session: 1,
    heartbeat_ms: 1_000,
    frame_bytes_max: 32 * 1_024,
    message_bytes_max: 100_000,
    window_messages: 16,
    window_bytes: 60_000,
    time_ms: 0,
    lz4: false,
};

/// A broker that takes publishes in order, dedupes by id, refuses at random, fences, and answers later in order.
#[derive(Default)]
struct Broker {
    sequence: u32,
    next: Option<u64>,
    fence: Option<u64>,
    chunked: Option<(u64, Vec<u8>, u32)>,
    stored: Vec<u128>,
    answers: VecDeque<(u64, Result<Outcome, Code>)>,
    window: u32,
}

impl Broker {
    fn restart(&mut self) {
        *self = Self { stored: std::mem::take(&mut self.stored), ..Self::default() };
    }

    fn receive(&mut self, rng: &mut fastrand::Rng, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Ok(Decoded::Frame(frame, len)) = decode(bytes, TERMS.frame_bytes_max) else {
                panic!("a whole valid frame")
            };
            bytes = &bytes[len..];
            assert_eq!(frame.header.sequence, self.sequence);
            self.sequence += 1;
            if frame.header.flags & FLAG_CONT != 0 {
                let (number, whole, total) = self.chunked.as_mut().expect("begun");
                whole.extend_from_slice(frame.payload);
                if frame.header.flags & FLAG_MORE == 0 {
                    assert_eq!(whole.len(), *total as usize);
                    let (number, whole) = (*number, std::mem::take(whole));
                    self.chunked = None;
                    self.judge(rng, number, &whole);
                }
            } else if frame.header.kind == FrameType::Batch {
                assert!(self.chunked.is_none(), "nothing between chunks on this stream");
                let head: Batch = frame.head().expect("batch");
                let items = BatchItems::parse(frame.payload, head.count).expect("items");
                for (number, record) in (head.first..).zip(items) {
                    self.judge(rng, number, record);
                }
            } else {
                let head: Publish = frame.head().expect("publish");
                if frame.header.flags & FLAG_MORE != 0 {
                    self.chunked = Some((head.number, frame.payload.to_vec(), head.total));
                } else {
                    self.judge(rng, head.number, frame.payload);
                }
            }
        }
    }

    fn judge(&mut self, rng: &mut fastrand::Rng, number: u64, record: &[u8]) {
        let id = u128::from_be_bytes(Record::decode(record).expect("record").id.0);
        self.window += 1;
        assert!(self.window <= TERMS.window_messages);
        if let Some(fence) = self.fence {
            if number != fence {
                self.answers.push_back((number, Err(Code::Fenced)));
                return;
            }
            self.fence = None;
        } else if let Some(next) = self.next {
            assert_eq!(number, next);
        }
        self.next = Some(number + 1);
        let answer = if self.stored.contains(&id) {
            Ok(Outcome::Duplicate)
        } else if id.is_multiple_of(17) {
            Err(Code::BadChannel)
        } else if rng.u8(..) < 20 {
            self.fence = Some(number);
            self.next = Some(number);
            Err(Code::QueueFull)
        } else {
            self.stored.push(id);
            Ok(Outcome::Stored)
        };
        self.answers.push_back((number, answer));
    }

    /// Tells some of the answers that are due, as ranges.
    fn answer(&mut self, rng: &mut fastrand::Rng, pipeline: &mut Pipeline, now: u64, settled: &mut Vec<Settled>) {
        let mut left = rng.usize(0..=self.answers.len());
        while left > 0 {
            let (first, answer) = self.answers.pop_front().expect("left counts them");
            let mut count = 1;
            left -= 1;
            while left > 0 && self.answers[0] == (first + u64::from(count), answer) {
                self.answers.pop_front();
                count += 1;
                left -= 1;
            }
            self.window -= count;
            match answer {
                Ok(outcome) => pipeline.handle_ack(&PublishAck { first, count, outcome }, settled),
                Err(code) => {
                    let nack =
                        PublishNack { first, count, code: code as u16, retry_after_ms: rng.u32(0..20), detail: "" };
                    pipeline.handle_nack(now, &nack, settled);
                }
            }
        }
    }
}

/// Random sends, answers, refusals, lost connections: each message is stored once, in order, and settled once.
#[test]
fn whatever_happens_each_message_is_stored_once_in_order_and_settled_once() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let options = Options { window_messages: 40, window_bytes: 200_000, ..Options::default() };
        let mut pipeline = Pipeline::new(&options);
        let mut broker = Broker::default();
        let (mut settled, mut now, mut pushed) = (Vec::new(), 0, 0u128);
        let mut fate: Vec<Option<bool>> = Vec::new();
        let mut link = Link::new(0);
        pipeline.connected(&TERMS);
        while pushed < 300 || pipeline.settled_below() < 300 {
            now += rng.u64(0..10);
            let payload = vec![7; *rng.choice(&[0, 10, 200, 5_000, 40_000]).expect("some")];
            for _ in 0..rng.usize(0..12) {
                if pushed < 300 && pipeline.has_room(payload.len() + 100) {
                    pushed += 1;
                    let record = Record {
                        id: MessageId(pushed.to_be_bytes()),
                        ..Record::new(Channel::parse("a").expect("valid"), &payload)
                    };
                    assert_eq!(u128::from(pipeline.push(now, Contract::Queue, &record)) + 1, pushed);
                }
            }
            if rng.u8(..) < 6 {
                pipeline.disconnected();
                broker.restart();
                link = Link::new(now);
                pipeline.connected(&TERMS);
            }
            let wants = pipeline.wants_write(now);
            let mut out = Vec::new();
            pipeline.fill(now, &mut link, &mut out, rng.usize(1..100_000), &mut settled);
            assert!(wants || out.is_empty(), "seed {seed}: wrote without wanting to");
            broker.receive(&mut rng, &out);
            broker.answer(&mut rng, &mut pipeline, now, &mut settled);
            for s in settled.drain(..) {
                for ticket in s.first..s.first + s.count {
                    if fate.len() <= ticket as usize {
                        fate.resize(ticket as usize + 1, None);
                    }
                    let before = fate[ticket as usize].replace(s.result.is_ok());
                    assert_eq!(before, None, "seed {seed}: ticket {ticket} settled twice");
                }
            }
        }
        let refused = |id: u128| id.is_multiple_of(17);
        assert!(broker.stored.iter().copied().eq((1..=300).filter(|id| !refused(*id))), "seed {seed}");
        let expected = (1..=300).map(|id| Some(!refused(id)));
        assert!(fate.into_iter().eq(expected), "seed {seed}");
        assert!(pipeline.arena.is_empty() && pipeline.entries.is_empty());
    }
}

fn push(pipeline: &mut Pipeline, now: u64) -> u64 {
    pipeline.push(now, Contract::Queue, &Record::new(Channel::parse("a").expect("valid"), b"x"))
}

fn nack(first: u64, count: u32, code: Code) -> PublishNack<'static> {
    PublishNack { first, count, code: code as u16, retry_after_ms: 0, detail: "" }
}

#[test]
fn with_a_deadline_a_message_fails_in_time_and_the_rest_goes_on() {
    let mut pipeline = Pipeline::new(&Options { retry: Retry::For(100), ..Options::default() });
    let (mut settled, mut out, mut link) = (Vec::new(), Vec::new(), Link::new(0));
    push(&mut pipeline, 0);
    push(&mut pipeline, 50);
    assert_eq!(pipeline.poll_timeout(), Some(100));
    pipeline.connected(&TERMS);
    pipeline.fill(60, &mut link, &mut out, 1_000, &mut settled);
    pipeline.expire(99, &mut settled);
    assert!(settled.is_empty());
    pipeline.expire(100, &mut settled);
    assert_eq!(settled, [Settled { first: 0, count: 1, result: Err(ClientError::TimedOut) }]);
    settled.clear();
    // The late answer to the first one is not told again.
    pipeline.handle_ack(&PublishAck { first: 1, count: 2, outcome: Outcome::Stored }, &mut settled);
    assert_eq!(settled, [Settled { first: 1, count: 1, result: Ok(Outcome::Stored) }]);
    assert_eq!(pipeline.settled_below(), 2);
}

#[test]
fn without_retries_only_the_refused_message_fails_and_its_number_goes_to_the_next() {
    let mut pipeline = Pipeline::new(&Options { retry: Retry::Never, ..Options::default() });
    let (mut settled, mut out, mut link) = (Vec::new(), Vec::new(), Link::new(0));
    for _ in 0..3 {
        push(&mut pipeline, 0);
    }
    pipeline.connected(&TERMS);
    pipeline.fill(0, &mut link, &mut out, 1_000, &mut settled);
    pipeline.handle_nack(0, &nack(1, 1, Code::QueueFull), &mut settled);
    assert!(matches!(&settled[..], [Settled { first: 0, count: 1, result: Err(ClientError::Refused(_)) }]));
    settled.clear();
    assert!(!pipeline.wants_write(0), "two have no answer yet");
    pipeline.handle_nack(0, &nack(2, 2, Code::Fenced), &mut settled);
    assert!(settled.is_empty() && pipeline.wants_write(0));
    out.clear();
    pipeline.fill(0, &mut link, &mut out, 1_000, &mut settled);
    let Ok(Decoded::Frame(frame, _)) = decode(&out, 1_000) else { panic!("a frame") };
    assert_eq!(frame.head::<Batch>(), Ok(Batch { contract: Contract::Queue, first: 1, count: 2 }));
}

#[test]
fn an_interim_acceptance_frees_the_window_and_settles_nothing() {
    let mut pipeline = Pipeline::new(&Options::default());
    let (mut settled, mut out, mut link) = (Vec::new(), Vec::new(), Link::new(0));
    for _ in 0..17 {
        push(&mut pipeline, 0);
    }
    pipeline.connected(&TERMS);
    pipeline.fill(0, &mut link, &mut out, 100_000, &mut settled);
    assert!(!pipeline.wants_write(0), "the window of 16 is used up");
    pipeline.handle_ack(&PublishAck { first: 1, count: 16, outcome: Outcome::Accepted }, &mut settled);
    assert!(settled.is_empty() && pipeline.wants_write(0));
    pipeline.fill(0, &mut link, &mut out, 100_000, &mut settled);
    pipeline.handle_ack(&PublishAck { first: 1, count: 17, outcome: Outcome::Stored }, &mut settled);
    assert_eq!(settled, [Settled { first: 0, count: 17, result: Ok(Outcome::Stored) }]);
    assert_eq!((pipeline.unanswered, pipeline.unanswered_bytes), (0, 0));
}

#[test]
fn what_was_accepted_in_between_is_published_again_after_a_lost_connection_and_settled_in_any_order() {
    let mut pipeline = Pipeline::new(&Options::default());
    let (mut settled, mut out) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        push(&mut pipeline, 0);
    }
    pipeline.connected(&TERMS);
    pipeline.fill(0, &mut Link::new(0), &mut out, 100_000, &mut settled);
    let accepted = PublishAck { first: 1, count: 3, outcome: Outcome::Accepted };
    pipeline.handle_ack(&accepted, &mut settled);
    pipeline.disconnected();
    pipeline.connected(&TERMS);
    out.clear();
    pipeline.fill(0, &mut Link::new(0), &mut out, 100_000, &mut settled);
    let Ok(Decoded::Frame(frame, _)) = decode(&out, 1 << 20) else { panic!("a whole frame") };
    assert_eq!((frame.head::<Batch>().expect("a batch").count, settled.len()), (3, 0), "all three again");
    pipeline.handle_ack(&accepted, &mut settled);
    pipeline.handle_ack(&PublishAck { first: 3, count: 1, outcome: Outcome::Duplicate }, &mut settled);
    let code = Code::UpstreamRefused as u16;
    let nack = PublishNack { first: 1, count: 1, code, retry_after_ms: 0, detail: "too old" };
    pipeline.handle_nack(0, &nack, &mut settled);
    let told: Vec<(u64, bool)> = settled.iter().map(|s| (s.first, s.result.is_ok())).collect();
    assert_eq!(told, [(2, true), (0, false)]);
    // A final nack is no fence: what follows goes out.
    push(&mut pipeline, 0);
    assert!(pipeline.wants_write(0));
    pipeline.handle_ack(&PublishAck { first: 2, count: 1, outcome: Outcome::Duplicate }, &mut settled);
    assert_eq!((pipeline.settled_below(), pipeline.unanswered), (3, 0));
}

#[test]
fn a_message_beyond_the_brokers_limit_fails_here_and_blocks_nobody() {
    let mut pipeline = Pipeline::new(&Options::default());
    let (mut settled, mut out, mut link) = (Vec::new(), Vec::new(), Link::new(0));
    let large = vec![0; 100_001];
    pipeline.push(0, Contract::Queue, &Record::new(Channel::parse("a").expect("valid"), &large));
    push(&mut pipeline, 0);
    pipeline.connected(&TERMS);
    pipeline.fill(0, &mut link, &mut out, 100_000, &mut settled);
    assert!(matches!(&settled[..], [Settled { first: 0, count: 1, result: Err(ClientError::TooLarge(..)) }]));
    let Ok(Decoded::Frame(frame, len)) = decode(&out, 1_000) else { panic!("a frame") };
    assert_eq!((frame.head::<Publish>().expect("publish").number, len), (1, out.len()));
}

#[test]
fn what_was_compressed_for_one_broker_goes_out_plain_to_one_that_does_not_take_it() {
    let mut pipeline = Pipeline::new(&Options::default());
    pipeline.connected(&Terms { lz4: true, ..TERMS });
    let text = b"all work and no play ".repeat(20);
    let payload = crate::seal::compress(&text).expect("it repeats");
    let channel = Channel::parse("a").expect("valid");
    for n in 0..3u8 {
        let plain = Record { id: MessageId([n; 16]), ..Record::new(channel, b"plain") };
        let compressed = Record { compressed: true, payload: &payload, ..plain };
        pipeline.push(0, Contract::Queue, if n == 1 { &compressed } else { &plain });
    }
    let mut sent = |terms: Terms| {
        pipeline.disconnected();
        pipeline.connected(&terms);
        let (mut out, mut settled) = (Vec::new(), Vec::new());
        pipeline.fill(0, &mut Link::new(0), &mut out, 1 << 20, &mut settled);
        assert!(settled.is_empty());
        let Ok(Decoded::Frame(frame, _)) = decode(&out, 1 << 20) else { panic!("a whole frame") };
        let head = frame.head::<Batch>().expect("a batch");
        let items = BatchItems::parse(frame.payload, head.count).expect("well-formed");
        let read = |bytes| Record::decode(bytes).map(|r| (r.id.0[0], r.compressed, r.payload.to_vec()));
        items.map(|bytes| read(bytes).expect("a record")).collect::<Vec<_>>()
    };
    let (first, last) = ((0, false, b"plain".to_vec()), (2, false, b"plain".to_vec()));
    assert_eq!(sent(Terms { lz4: true, ..TERMS }), [first.clone(), (1, true, payload.clone()), last.clone()]);
    let expanded = [first, (1, false, text.clone()), last];
    assert_eq!(sent(TERMS), expanded);
    assert_eq!(sent(Terms { lz4: true, ..TERMS }), expanded, "it stays so");
}
