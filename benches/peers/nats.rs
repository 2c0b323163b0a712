//! NATS as far as PUB, SUB and JetStream's acknowledgements need it.

use crate::Result;
use crate::peer::{Codec, Role, Seen, Wire};
use std::io::Write;

/// One NATS connection.
pub struct Nats {
    jetstream: bool,
    /// The publish up to the payload's length.
    prefix: Vec<u8>,
}

impl Nats {
    /// Publishes that nobody answers.
    pub fn core() -> Self {
        Self { jetstream: false, prefix: Vec::new() }
    }

    /// Publishes to a stream on disk, each answered on an inbox.
    pub fn jetstream() -> Self {
        Self { jetstream: true, prefix: Vec::new() }
    }
}

impl Codec for Nats {
    fn open(&mut self, wire: &mut Wire, role: Role, number: usize) -> Result<()> {
        wire.line()?;
        let inbox = format!("_INBOX.{}.{role:?}.{number}", std::process::id());
        write!(wire.socket, "CONNECT {{\"verbose\":false,\"pedantic\":false,\"name\":\"bench\"}}\r\nPING\r\n")?;
        pong(wire)?;
        if self.jetstream && role == Role::Publish {
            let stream = "{\"name\":\"bench\",\"subjects\":[\"bench.>\"],\"storage\":\"file\",\"num_replicas\":1}";
            write!(wire.socket, "SUB {inbox} 1\r\nPUB $JS.API.STREAM.CREATE.bench {inbox} {}\r\n", stream.len())?;
            write!(wire.socket, "{stream}\r\n")?;
            let answer = wire.answer(|input| message(input).ok().flatten().map(|(_, len)| len))?;
            if answer.windows(8).any(|w| w == b"\"error\":") {
                return Err(String::from_utf8_lossy(&answer).into());
            }
        }
        if role == Role::Subscribe {
            write!(wire.socket, "SUB bench.{number} 1\r\nPING\r\n")?;
            pong(wire)?;
        }
        let reply = if self.jetstream { format!("{inbox} ") } else { String::new() };
        self.prefix = format!("PUB bench.{number} {reply}").into_bytes();
        Ok(())
    }

    fn answers(&self) -> bool {
        self.jetstream
    }

    fn publish(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        let _ = write!(out, "{}\r\n", payload.len());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    fn take(&mut self, input: &[u8], reply: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<usize> {
        let Some(head) = line(input) else { return Ok(0) };
        if input.starts_with(b"MSG ") {
            let Some((start, len)) = message(input)? else { return Ok(0) };
            let payload = &input[start..len - 2];
            if !self.jetstream {
                seen(Seen::Message(payload));
            } else if payload.starts_with(b"{\"error\"") {
                seen(Seen::Refused(1));
            } else {
                seen(Seen::Acks(1));
            }
            return Ok(len);
        }
        if input.starts_with(b"PING") {
            reply.extend_from_slice(b"PONG\r\n");
        } else if input.starts_with(b"-ERR") {
            return Err(String::from_utf8_lossy(&input[..head]).into());
        }
        Ok(head)
    }
}

fn pong(wire: &mut Wire) -> Result<()> {
    loop {
        let line = wire.line()?;
        if line.starts_with("-ERR") {
            return Err(line.into());
        }
        if line == "PONG" {
            return Ok(());
        }
    }
}

/// Length of the line at the start, its end included.
fn line(input: &[u8]) -> Option<usize> {
    Some(input.iter().position(|b| *b == b'\n')? + 1)
}

/// Where the payload begins and where the whole message ends, if it is there: the line's last word is the length.
fn message(input: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(head) = line(input) else { return Ok(None) };
    let text = std::str::from_utf8(&input[..head])?.trim_end();
    let bytes: usize = text.rsplit(' ').next().unwrap_or_default().parse()?;
    let len = head + bytes + 2;
    Ok((len <= input.len()).then_some((head, len)))
}
