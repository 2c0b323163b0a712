//! AMQP 0-9-1 as far as confirmed publishes to a durable quorum queue need it.

use crate::Result;
use crate::peer::{Codec, Role, Seen, Wire};
use std::io::Write;

const METHOD: u8 = 1;
const END: u8 = 0xCE;
const QUEUE: &str = "bench";

/// One RabbitMQ connection, with channel 1 in confirm mode.
pub struct Amqp {
    settled: u64,
    /// Method and header frames of a publish, up to the body's length, which differs.
    publish: Vec<u8>,
}

impl Amqp {
    pub fn new() -> Self {
        // basic.publish: reserved, default exchange, the queue's name, no flags.
        let mut body = vec![0, 60, 0, 40, 0, 0, 0];
        short(&mut body, QUEUE);
        body.push(0);
        let mut publish = Vec::new();
        frame(&mut publish, METHOD, 1, &body);
        Self { settled: 0, publish }
    }

    /// Sends a method and waits for its answer.
    fn call(wire: &mut Wire, channel: u16, body: &[u8], expect: [u8; 4]) -> Result<()> {
        let mut out = Vec::new();
        frame(&mut out, METHOD, channel, body);
        wire.socket.write_all(&out)?;
        Self::expect(wire, expect)
    }

    fn expect(wire: &mut Wire, expect: [u8; 4]) -> Result<()> {
        let answer = wire.answer(|input| unit(input).ok().flatten())?;
        if answer.get(7..11) == Some(&expect) {
            return Ok(());
        }
        Err(format!("the server answers {}", String::from_utf8_lossy(&answer)).into())
    }
}

impl Codec for Amqp {
    fn open(&mut self, wire: &mut Wire, role: Role, _number: usize) -> Result<()> {
        if role == Role::Subscribe {
            return Err("live subscribers are not measured here".into());
        }
        wire.socket.write_all(b"AMQP\0\0\x09\x01")?;
        Self::expect(wire, [0, 10, 0, 10])?;
        // start-ok: no properties, PLAIN, guest as guest.
        let mut body = vec![0, 10, 0, 11, 0, 0, 0, 0];
        short(&mut body, "PLAIN");
        body.extend_from_slice(&12u32.to_be_bytes());
        body.extend_from_slice(b"\0guest\0guest");
        short(&mut body, "en_US");
        Self::call(wire, 0, &body, [0, 10, 0, 30])?;
        // tune-ok: 2,047 channels, frames of 128 KiB, no heartbeat.
        let mut out = Vec::new();
        frame(&mut out, METHOD, 0, &[0, 10, 0, 31, 7, 255, 0, 2, 0, 0, 0, 0]);
        wire.socket.write_all(&out)?;
        Self::call(wire, 0, &[0, 10, 0, 40, 1, b'/', 0, 0], [0, 10, 0, 41])?;
        Self::call(wire, 1, &[0, 20, 0, 10, 0], [0, 20, 0, 11])?;
        // queue.declare, durable, x-queue-type: quorum.
        let mut table = Vec::new();
        short(&mut table, "x-queue-type");
        table.push(b'S');
        table.extend_from_slice(&6u32.to_be_bytes());
        table.extend_from_slice(b"quorum");
        let mut body = vec![0, 50, 0, 10, 0, 0];
        short(&mut body, QUEUE);
        body.push(2);
        body.extend_from_slice(&(table.len() as u32).to_be_bytes());
        body.extend_from_slice(&table);
        Self::call(wire, 1, &body, [0, 50, 0, 11])?;
        Self::call(wire, 1, &[0, 85, 0, 10, 0], [0, 85, 0, 11])
    }

    fn answers(&self) -> bool {
        true
    }

    fn publish(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.publish);
        // The header: class, weight, length, the one property delivery-mode 2.
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        header.extend_from_slice(&[0x10, 0, 2]);
        frame(out, 2, 1, &header);
        frame(out, 3, 1, payload);
    }

    fn take(&mut self, input: &[u8], reply: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<usize> {
        let Some(len) = unit(input)? else { return Ok(0) };
        let body = &input[7..len - 1];
        match (input[0], body.first_chunk::<4>()) {
            (METHOD, Some([0, 60, 0, kind @ (80 | 120)])) => {
                let tag = u64::from_be_bytes(*body[4..].first_chunk().ok_or("an ack without its tag")?);
                let multiple = body.get(12).is_some_and(|bits| bits & 1 == 1);
                // Confirms may pass each other: they are counted, and the latency is that of the oldest.
                let count = if multiple { tag.saturating_sub(self.settled) } else { 1 };
                self.settled += count;
                seen(if *kind == 80 { Seen::Acks(count) } else { Seen::Refused(count) });
            }
            (8, _) => frame(reply, 8, 0, &[]),
            _ => return Err(format!("the server says {}", String::from_utf8_lossy(&input[..len])).into()),
        }
        Ok(len)
    }
}

fn short(out: &mut Vec<u8>, text: &str) {
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, body: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
    out.push(END);
}

/// Length of the whole frame at the start, if it is there.
fn unit(input: &[u8]) -> Result<Option<usize>> {
    let Some(header) = input.first_chunk::<7>() else { return Ok(None) };
    let len = 8 + u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
    if len > input.len() {
        return Ok(None);
    }
    if input[len - 1] != END {
        return Err("an AMQP frame does not end with its mark".into());
    }
    Ok(Some(len))
}
