//! Reads what a broker sends at the moment it leaves, before the network can delay or lose it: promises are broken there.

use std::collections::BTreeMap;
use tidegate::model::{ConnId, Record};
use tidegate::wire::{
    self, Ack, Consume, Decoded, Deliver, DeliverItems, EXTENSION_LANES, FLAG_CONT, FLAG_MORE, Frame, FrameType, Nack,
    Outcome, Pause,
};

/// A message as it travels.
#[derive(Clone, Debug)]
pub struct Seen {
    pub epoch: u64,
    pub tag: u64,
    pub flags: u8,
    pub lane: u8,
    pub seq: u64,
    pub offset: u64,
    pub uid: u32,
    pub channel: String,
    /// Whether every byte is as it was published; judged by the ledger.
    pub bytes: Vec<u8>,
    /// Bytes of the whole record.
    pub record: usize,
}

/// What left.
pub enum Told {
    Ack(u64, u32, Outcome),
    Message(Seen),
}

/// Puts chunks together and takes items apart.
#[derive(Default)]
pub struct Assembler {
    head: Option<Deliver>,
    bytes: Vec<u8>,
}

impl Assembler {
    /// The same, of a frame.
    fn deliver(&mut self, frame: &Frame<'_>) -> Vec<Seen> {
        let flags = frame.header.flags;
        let head = (flags & FLAG_CONT == 0).then(|| frame.head().expect("a head"));
        self.frame(head, frame.payload, flags & FLAG_MORE != 0)
    }

    /// One deliver frame; the messages in it when it is the last of its chunks.
    pub fn frame(&mut self, head: Option<Deliver>, payload: &[u8], more: bool) -> Vec<Seen> {
        if let Some(head) = head {
            self.head = Some(head);
            self.bytes.clear();
        }
        self.bytes.extend_from_slice(payload);
        if more {
            return Vec::new();
        }
        let head = self.head.take().expect("a chunk follows its first");
        let items =
            DeliverItems::parse(&self.bytes, head.count, head.total).expect("a broker's deliver frame is well-formed");
        let tags = (0..).map(|i| if head.first_tag == 0 { 0 } else { head.first_tag + i });
        tags.zip(items)
            .map(|(tag, item)| {
                let record = Record::decode(item.record).expect("a broker delivers records");
                Seen {
                    epoch: head.epoch,
                    tag,
                    flags: item.flags,
                    lane: item.lane,
                    seq: item.seq,
                    offset: item.offset,
                    uid: uid_of(record.payload).unwrap_or(u32::MAX),
                    channel: record.channel.as_str().to_owned(),
                    bytes: record.payload.to_vec(),
                    record: item.record.len(),
                }
            })
            .collect()
    }
}

/// The number of a message, which opens its payload.
pub fn uid_of(payload: &[u8]) -> Option<u32> {
    payload.first_chunk::<4>().map(|b| u32::from_be_bytes(*b))
}

/// One connection's bytes from the broker.
#[derive(Default)]
pub struct Tap {
    bytes: Vec<u8>,
    assembler: Assembler,
}

impl Tap {
    /// More left.
    pub fn feed(&mut self, bytes: &[u8], told: &mut Vec<Told>) {
        let assembler = &mut self.assembler;
        each_frame(&mut self.bytes, bytes, |frame| match frame.header.kind {
            FrameType::PublishAck => {
                let ack: wire::PublishAck = frame.head().expect("a head");
                told.push(Told::Ack(ack.first, ack.count, ack.outcome));
            }
            FrameType::Deliver => told.extend(assembler.deliver(frame).into_iter().map(Told::Message)),
            _ => {}
        });
    }
}

fn each_frame(kept: &mut Vec<u8>, bytes: &[u8], mut each: impl FnMut(&Frame<'_>)) {
    kept.extend_from_slice(bytes);
    let mut at = 0;
    while let Decoded::Frame(frame, n) = wire::decode(&kept[at..], u32::MAX).expect("both ends send frames") {
        each(&frame);
        at += n;
    }
    kept.drain(..at);
}

/// What was said in the session between a broker and a bridge of its own.
pub enum Local {
    /// The bridge got a message: of this queue.
    Message(String, Seen),
    /// It is done with one of this queue.
    Done(String, u32),
    /// It gave one up, for this reason.
    GivenUp(u32, String),
}

/// Both directions of that session.
pub struct SessionTap {
    /// Its number, unlike that of any link.
    pub session: usize,
    /// The largest window that was in force in it, in messages and bytes: credit that was given stays.
    pub window: (u32, u32),
    broker: Vec<u8>,
    machine: Vec<u8>,
    /// The consumers that are open.
    streams: BTreeMap<u32, Stream>,
}

#[derive(Default)]
struct Stream {
    queue: String,
    assembler: Assembler,
    /// Deliveries without an answer: tag, message, bytes of its record.
    held: BTreeMap<u64, (u32, usize)>,
    /// Lanes of which it wanted no more at some time, bit n for lane n.
    stopped: u16,
}

impl SessionTap {
    pub fn new(conn: ConnId) -> Self {
        let session = usize::MAX / 2 + conn.0 as usize;
        Self { session, window: (0, 0), broker: Vec::new(), machine: Vec::new(), streams: BTreeMap::new() }
    }

    /// The broker said this.
    pub fn broker_says(&mut self, bytes: &[u8], told: &mut Vec<Local>) {
        let streams = &mut self.streams;
        each_frame(&mut self.broker, bytes, |frame| {
            let Some(stream) = streams.get_mut(&frame.header.stream) else { return };
            if frame.header.kind == FrameType::Deliver {
                for seen in stream.assembler.deliver(frame) {
                    stream.held.insert(seen.tag, (seen.uid, seen.record));
                    told.push(Local::Message(stream.queue.clone(), seen));
                }
            }
        });
    }

    /// The bridge said this.
    pub fn machine_says(&mut self, bytes: &[u8], told: &mut Vec<Local>) {
        let streams = &mut self.streams;
        each_frame(&mut self.machine, bytes, |frame| {
            let number = frame.header.stream;
            match frame.header.kind {
                FrameType::Consume => {
                    let queue = frame.head::<Consume<'_>>().expect("a head").queue.to_owned();
                    streams.insert(number, Stream { queue, ..Stream::default() });
                }
                FrameType::Pause => {
                    let (_, extensions) = frame.head_with_extensions::<Pause>().expect("a head");
                    let lanes = extensions.iter().find(|e| e.tag == EXTENSION_LANES);
                    let lanes = lanes.and_then(|e| postcard::from_bytes::<u16>(e.value).ok());
                    streams.entry(number).or_default().stopped |= lanes.expect("it names lanes");
                }
                FrameType::Unsubscribe => drop(streams.remove(&number)),
                FrameType::Ack => {
                    let ack: Ack = frame.head().expect("a head");
                    let stream = streams.get_mut(&number).expect("an ack is of an open consumer");
                    for tag in ack.first..ack.first + u64::from(ack.count) {
                        // The range may name some that were answered before.
                        if let Some((uid, _)) = stream.held.remove(&tag) {
                            told.push(Local::Done(stream.queue.clone(), uid));
                        }
                    }
                }
                FrameType::Nack => {
                    let nack: Nack<'_> = frame.head().expect("a head");
                    let stream = streams.get_mut(&number).expect("a nack is of an open consumer");
                    for tag in nack.first..nack.first + u64::from(nack.count) {
                        let held = stream.held.remove(&tag);
                        if let Some((uid, _)) = held.filter(|_| nack.give_up) {
                            told.push(Local::GivenUp(uid, nack.reason.to_owned()));
                        }
                    }
                }
                _ => {}
            }
        });
    }

    /// Lanes of all its consumers that it wanted no more of at some time.
    pub fn stopped(&self) -> u64 {
        self.streams.values().map(|stream| u64::from(stream.stopped.count_ones())).sum()
    }

    /// Messages and bytes of records that the bridge has and answered not yet.
    pub fn held(&self) -> (u64, u64) {
        let held = self.streams.values().flat_map(|stream| stream.held.values());
        held.fold((0, 0), |(messages, bytes), (_, record)| (messages + 1, bytes + *record as u64))
    }
}
