//! Reads what a broker sends at the moment it leaves, before the network can delay or lose it: promises are broken there.

use tidegate::model::Record;
use tidegate::wire::{self, Decoded, Deliver, DeliverItems, FLAG_CONT, FLAG_MORE, FrameType, Outcome};

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
        self.bytes.extend_from_slice(bytes);
        let mut at = 0;
        while let Decoded::Frame(frame, n) = wire::decode(&self.bytes[at..], u32::MAX).expect("a broker sends frames") {
            match frame.header.kind {
                FrameType::PublishAck => {
                    let ack: wire::PublishAck = frame.head().expect("a head");
                    told.push(Told::Ack(ack.first, ack.count, ack.outcome));
                }
                FrameType::Deliver => {
                    let flags = frame.header.flags;
                    let head = (flags & FLAG_CONT == 0).then(|| frame.head().expect("a head"));
                    let more = flags & FLAG_MORE != 0;
                    let seen = self.assembler.frame(head, frame.payload, more);
                    told.extend(seen.into_iter().map(Told::Message));
                }
                _ => {}
            }
            at += n;
        }
        self.bytes.drain(..at);
    }
}
