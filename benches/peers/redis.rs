//! RESP 2 as far as XADD, PUBLISH and SUBSCRIBE need it.

use crate::Result;
use crate::peer::{Codec, Role, Seen, Wire};
use std::io::Write;

/// One Redis connection.
pub struct Redis {
    stream: bool,
    /// The request up to the payload's length.
    prefix: Vec<u8>,
}

impl Redis {
    /// Publishes with XADD to one stream.
    pub fn stream() -> Self {
        Self { stream: true, prefix: b"*5\r\n$4\r\nXADD\r\n$5\r\nbench\r\n$1\r\n*\r\n$1\r\nv\r\n$".to_vec() }
    }

    /// Publishes with PUBLISH.
    pub fn live() -> Self {
        Self { stream: false, prefix: Vec::new() }
    }
}

impl Codec for Redis {
    fn open(&mut self, wire: &mut Wire, role: Role, number: usize) -> Result<()> {
        let name = format!("bench:{number}");
        if !self.stream {
            self.prefix = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{name}\r\n$", name.len()).into_bytes();
        }
        if role == Role::Subscribe {
            write!(wire.socket, "*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{name}\r\n", name.len())?;
        } else {
            wire.socket.write_all(b"*1\r\n$4\r\nPING\r\n")?;
        }
        let answer = wire.answer(|input| unit(input).ok().flatten())?;
        if answer.starts_with(b"-") {
            return Err(String::from_utf8_lossy(&answer).into());
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        true
    }

    fn publish(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        let _ = write!(out, "{}\r\n", payload.len());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    fn take(&mut self, input: &[u8], _reply: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<usize> {
        let Some(len) = unit(input)? else { return Ok(0) };
        match input[0] {
            b'-' => seen(Seen::Refused(1)),
            // A push: message, name, payload. The payload is the last bulk string.
            b'*' => {
                let mut at = line(input).unwrap_or(len);
                for _ in 0..2 {
                    at += unit(&input[at..])?.unwrap_or(0);
                }
                let payload = at + line(&input[at..]).unwrap_or(0);
                seen(Seen::Message(input.get(payload..len - 2).unwrap_or(&[])));
            }
            _ => seen(Seen::Acks(1)),
        }
        Ok(len)
    }
}

/// Length of the line at the start, its end included.
fn line(input: &[u8]) -> Option<usize> {
    Some(input.iter().position(|b| *b == b'\n')? + 1)
}

/// Length of the whole value at the start, if it is there.
fn unit(input: &[u8]) -> Result<Option<usize>> {
    let Some(head) = line(input) else { return Ok(None) };
    let number = || -> Result<usize> {
        let text = std::str::from_utf8(&input[1..head])?.trim_end();
        Ok(text.parse::<i64>()?.max(0) as usize)
    };
    let len = match input[0] {
        b'+' | b'-' | b':' => head,
        b'$' => head + number()? + 2,
        b'*' => {
            let mut len = head;
            for _ in 0..number()? {
                match unit(&input[len..])? {
                    Some(next) => len += next,
                    None => return Ok(None),
                }
            }
            len
        }
        other => return Err(format!("a RESP value cannot begin with byte {other}").into()),
    };
    Ok((len <= input.len()).then_some(len))
}
