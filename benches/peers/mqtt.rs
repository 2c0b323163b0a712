//! MQTT 3.1.1 as far as publishing and hearing with QoS 0 and 1 need it.

use crate::Result;
use crate::peer::{Codec, Role, Seen, Wire};
use std::io::Write;

/// One MQTT connection.
pub struct Mqtt {
    acknowledged: bool,
    name: Vec<u8>,
    next_id: u16,
}

impl Mqtt {
    /// QoS 1 where `acknowledged`, else QoS 0.
    pub fn new(acknowledged: bool) -> Self {
        Self { acknowledged, name: Vec::new(), next_id: 0 }
    }
}

impl Codec for Mqtt {
    fn open(&mut self, wire: &mut Wire, role: Role, number: usize) -> Result<()> {
        self.name = format!("bench/{number}").into_bytes();
        let client = format!("{role:?}-{number}-{}", std::process::id());
        let mut body = b"\0\x04MQTT\x04\x02\0\0".to_vec();
        text(&mut body, client.as_bytes());
        let mut out = vec![0x10];
        length(&mut out, body.len());
        out.extend_from_slice(&body);
        wire.socket.write_all(&out)?;
        let answer = wire.answer(|input| packet(input).ok().flatten().map(|(_, len)| len))?;
        if answer != [0x20, 2, 0, 0] {
            return Err(format!("the connection is refused: {answer:?}").into());
        }
        if role == Role::Subscribe {
            let mut body = vec![0, 1];
            text(&mut body, &self.name);
            body.push(u8::from(self.acknowledged));
            let mut out = vec![0x82];
            length(&mut out, body.len());
            out.extend_from_slice(&body);
            wire.socket.write_all(&out)?;
            let answer = wire.answer(|input| packet(input).ok().flatten().map(|(_, len)| len))?;
            if answer.first() != Some(&0x90) || answer.last() == Some(&0x80) {
                return Err(format!("the subscription is refused: {answer:?}").into());
            }
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        self.acknowledged
    }

    fn publish(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        out.push(if self.acknowledged { 0x32 } else { 0x30 });
        let id = usize::from(self.acknowledged) * 2;
        length(out, 2 + self.name.len() + id + payload.len());
        text(out, &self.name);
        if self.acknowledged {
            // 0 is no id.
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            out.extend_from_slice(&self.next_id.to_be_bytes());
        }
        out.extend_from_slice(payload);
    }

    fn take(&mut self, input: &[u8], reply: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<usize> {
        let Some((head, len)) = packet(input)? else { return Ok(0) };
        let body = &input[head..len];
        match input[0] >> 4 {
            4 => seen(Seen::Acks(1)),
            3 => {
                let name = body.first_chunk::<2>().map_or(0, |b| usize::from(u16::from_be_bytes(*b)));
                let mut at = 2 + name;
                if input[0] & 0x06 != 0 {
                    reply.extend_from_slice(&[0x40, 2]);
                    reply.extend_from_slice(body.get(at..at + 2).ok_or("a publish without its id")?);
                    at += 2;
                }
                seen(Seen::Message(body.get(at..).ok_or("a publish ends in its name")?));
            }
            13 => {}
            other => return Err(format!("an MQTT packet of type {other} is not expected").into()),
        }
        Ok(len)
    }
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}

fn length(out: &mut Vec<u8>, mut len: usize) {
    while len >= 128 {
        out.push(len as u8 | 128);
        len >>= 7;
    }
    out.push(len as u8);
}

/// Length of the fixed header and of the whole packet at the start, if it is there.
fn packet(input: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut len = 0;
    for (n, byte) in input.iter().skip(1).take(4).enumerate() {
        len |= usize::from(byte & 127) << (7 * n);
        if byte & 128 == 0 {
            let whole = 2 + n + len;
            return Ok((whole <= input.len()).then_some((2 + n, whole)));
        }
    }
    if input.len() > 4 { Err("an MQTT length has more than four bytes".into()) } else { Ok(None) }
}
