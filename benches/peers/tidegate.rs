//! Tidegate's own frames, by the crate's codec: publishes of one write go as one batch, each with an id.

use crate::Result;
use crate::peer::{Codec, Role, Seen, Wire};
use std::io::Write;
use tidegate::model::{Channel, MessageId, Record};
use tidegate::wire::{
    Batch, Code, Contract, Decoded, Deliver, DeliverItem, Dropped, FrameType, Head, Hello, Outcome, Ping, Pong,
    PublishAck, PublishNack, Since, Subscribe, append, append_record, decode, encode, frame_len, seal,
};

/// The stream of publishes, and the one of the subscription.
const PUBLISHES: u32 = 1;
const HEARD: u32 = 3;
const CONTROL_BYTES_MAX: usize = 512;

/// One Tidegate connection.
pub struct Tidegate {
    contract: Contract,
    channel: String,
    number: u64,
    sequence: u32,
    pending: u32,
    records: Vec<u8>,
    record: Vec<u8>,
    id_start: [u8; 10],
    time_ms: u64,
}

impl Tidegate {
    pub fn new(contract: Contract) -> Self {
        Self {
            contract,
            channel: String::new(),
            number: 1,
            sequence: 0,
            pending: 0,
            records: Vec::new(),
            record: Vec::new(),
            id_start: std::array::from_fn(|_| fastrand::u8(..)),
            time_ms: 0,
        }
    }

    fn frame<'h, H: Head<'h>>(&mut self, out: &mut Vec<u8>, stream: u32, head: &H) -> Result<()> {
        let mut bytes = [0; CONTROL_BYTES_MAX];
        let len = encode(&mut bytes, 0, stream, self.sequence, head, &[])?;
        self.sequence = self.sequence.wrapping_add(1);
        out.extend_from_slice(&bytes[..len]);
        Ok(())
    }
}

impl Codec for Tidegate {
    fn open(&mut self, wire: &mut Wire, role: Role, number: usize) -> Result<()> {
        self.channel = format!("bench/{number}");
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            client: "bench",
            heartbeat_ms: 0,
            frame_bytes_max: 128 * 1_024,
            message_bytes_max: 1_024 * 1_024,
        };
        let mut out = Vec::new();
        self.frame(&mut out, 0, &hello)?;
        if role == Role::Subscribe {
            let subscribe = Subscribe {
                filter: &self.channel.clone(),
                retained: false,
                since: Since::Now,
                respond: false,
                disconnect_when_slow: false,
            };
            self.frame(&mut out, HEARD, &subscribe)?;
        }
        wire.socket.write_all(&out)?;
        let last = if role == Role::Subscribe { FrameType::Ok } else { FrameType::Welcome };
        loop {
            let answer = wire.answer(|input| frame_len(input).filter(|len| *len <= input.len()))?;
            let Decoded::Frame(frame, _) = decode(&answer, u32::MAX)? else { continue };
            match frame.header.kind {
                FrameType::Error | FrameType::Close | FrameType::Goaway => {
                    return Err(format!("the session is refused: {:?}", frame.any_head()?).into());
                }
                kind if kind == last => return Ok(()),
                _ => {}
            }
        }
    }

    fn answers(&self) -> bool {
        true
    }

    fn publish(&mut self, payload: &[u8], _out: &mut Vec<u8>) {
        // Ids as the client makes them: the time in front, never twice the same.
        let count = self.number + u64::from(self.pending);
        if self.time_ms == 0 || count.is_multiple_of(1_024) {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            self.time_ms = now.map_or(1, |now| now.as_millis() as u64);
        }
        let mut random = self.id_start;
        random[5..].copy_from_slice(&count.to_be_bytes()[3..]);
        let channel = Channel::parse(&self.channel).expect("made of letters, a slash and digits");
        let record = Record { id: MessageId::from_parts(self.time_ms, random), ..Record::new(channel, payload) };
        self.record.clear();
        record.encode_to(&mut self.record);
        append_record(&mut self.records, &self.record);
        self.pending += 1;
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if self.pending == 0 {
            return;
        }
        let start = out.len();
        let batch = Batch { contract: self.contract, first: self.number, count: self.pending };
        append(out, FrameType::Batch, 0, PUBLISHES, Some(&batch), &[&self.records]);
        seal(&mut out[start..], self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        self.number += u64::from(self.pending);
        self.pending = 0;
        self.records.clear();
    }

    fn take(&mut self, input: &[u8], reply: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<usize> {
        let (frame, len) = match decode(input, u32::MAX)? {
            Decoded::Incomplete(_) => return Ok(0),
            Decoded::Frame(frame, len) => (frame, len),
        };
        match frame.header.kind {
            FrameType::PublishAck => {
                let ack = frame.head::<PublishAck>()?;
                match ack.outcome {
                    Outcome::Dropped | Outcome::Duplicate => seen(Seen::Refused(u64::from(ack.count))),
                    _ => seen(Seen::Acks(u64::from(ack.count))),
                }
            }
            FrameType::PublishNack => {
                let nack = frame.head::<PublishNack<'_>>()?;
                // What follows it would be refused, too: the run cannot go on.
                let name = Code::from_u16(nack.code).map_or("unknown", Code::name);
                return Err(format!("a publish was refused: {name} {}", nack.detail).into());
            }
            FrameType::Deliver => {
                let head = frame.head::<Deliver>()?;
                let mut rest = frame.payload;
                for _ in 0..head.count {
                    let (item, next) = DeliverItem::take(rest)?;
                    seen(Seen::Message(Record::decode(item.record)?.payload));
                    rest = next;
                }
            }
            FrameType::Dropped => seen(Seen::Lost(frame.head::<Dropped>()?.count)),
            FrameType::Ping => {
                let pong = Pong { nonce: frame.head::<Ping>()?.nonce };
                self.frame(reply, 0, &pong)?;
            }
            FrameType::Error | FrameType::Close | FrameType::Goaway => {
                return Err(format!("the broker ends the session: {:?}", frame.any_head()?).into());
            }
            _ => {}
        }
        Ok(len)
    }
}
