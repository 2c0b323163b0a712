//! A device with a few KiB: publishes one reading and waits for its acknowledgement, with fixed buffers and no allocation.
//!
//! `cargo run --example micro -- 127.0.0.1:8433`. The socket is the only part that a board would replace.

use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use tidegate::client::{Core, CoreError, Event, PUBLISH_STREAM};
use tidegate::model::{Channel, MessageId, Record};
use tidegate::wire::Contract;

/// Both buffers: room for a hello, small records and every answer to them.
const BUFFER_BYTES: usize = 512;

/// What can end this device's work.
enum Failure {
    Io(std::io::Error),
    Core(CoreError),
    Refused(u16),
    HungUp,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::Core(e) => e.fmt(f),
            Self::Refused(code) => write!(f, "the broker refused with code {code}"),
            Self::HungUp => write!(f, "the broker hung up"),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<CoreError> for Failure {
    fn from(e: CoreError) -> Self {
        Self::Core(e)
    }
}

fn main() -> ExitCode {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8433".into());
    match publish(&address, b"21.5") {
        Ok(number) => {
            let _ = writeln!(std::io::stdout(), "publish {number} is on the broker's disk");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::FAILURE
        }
    }
}

fn publish(address: &str, reading: &[u8]) -> Result<u64, Failure> {
    let mut socket = TcpStream::connect(address)?;
    let mut core: Core<BUFFER_BYTES, BUFFER_BYTES> = Core::new();
    // A board passes its tick counter. Nothing here waits longer than one answer, so that one instant will do.
    let now_ms = 0;
    core.connect(now_ms, "micro", 0)?;
    let channel = Channel::parse("site/boiler/temp").expect("the text is a channel");
    // A board counts in flash, or takes the time from the welcome: the same reading sent twice keeps its id.
    let record = Record { id: MessageId::from_parts(1, [1; 10]), ..Record::new(channel, reading) };
    let mut sent = None;
    let mut bytes = [0; 128];
    loop {
        while !core.poll_transmit().is_empty() {
            let n = socket.write(core.poll_transmit())?;
            core.transmitted(now_ms, n);
        }
        let n = socket.read(&mut bytes)?;
        if n == 0 {
            return Err(Failure::HungUp);
        }
        let mut rest = &bytes[..n];
        while !rest.is_empty() {
            let taken = core.receive(now_ms, rest);
            rest = &rest[taken..];
            while let Some(event) = core.poll_event()? {
                match event {
                    Event::PublishAck { stream: PUBLISH_STREAM, ack } if Some(ack.first) == sent => {
                        return Ok(ack.first);
                    }
                    Event::PublishNack { nack, .. } => return Err(Failure::Refused(nack.code)),
                    Event::Error { error, .. } => return Err(Failure::Refused(error.code)),
                    _ => {}
                }
            }
        }
        if sent.is_none() && core.terms().is_some() {
            sent = Some(core.publish(Contract::Disk, &record)?);
        }
    }
}
