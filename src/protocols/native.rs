//! The native dialect: the frames of `proto/frame.md`, checked for sequence and put together from chunks.

use super::{Fault, Records, Request};
use crate::wire::{
    Ack, Auth, Batch, BatchItems, Cancel, Close, Code, Consume, Credit, EXTENSION_LANES, EXTENSION_LZ4,
    EXTENSION_SOURCE, Extensions, FLAG_CONT, FLAG_MORE, FilterItems, Frame, FrameType, Goaway, Header, Hello, History,
    Nack, Pause, Ping, Pong, Publish, Reauth, Request as Ask, Response, Resume, Source, Subscribe, Unsubscribe,
    WireError,
};
use std::collections::HashMap;

/// State of one native connection's incoming half.
#[derive(Debug, Default)]
pub struct Native {
    sequence: u32,
    assembling: HashMap<(u32, u8), Assembly>,
    /// What all of them are charged together.
    charged_bytes: usize,
}

/// A chunked message under way, or whole.
#[derive(Debug)]
pub struct Assembly {
    header: Header,
    head: Vec<u8>,
    payload: Vec<u8>,
    total: usize,
    /// What it takes of the budget: all it may ever hold, and itself.
    charge: usize,
}

/// What an assembly costs beside its head and payload, in bytes: the entry of the table and two allocations.
const ASSEMBLY_BYTES: usize = 256;
const _: () = assert!(ASSEMBLY_BYTES >= size_of::<((u32, u8), Assembly)>() + 128);

/// What a frame led to.
#[derive(Debug)]
pub enum Accepted<'a> {
    /// The frame is a whole request.
    Request(Request<'a>),
    /// The frame completed a chunked message: ask it for the request.
    Assembled(Assembly),
    /// A chunk was put aside.
    Nothing,
}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Self {
        Self { code: error.code(), detail: error.to_string().into() }
    }
}

impl Native {
    /// Takes the next frame of the connection. `budget` bounds all chunked messages under way, in bytes.
    ///
    /// # Errors
    /// The peer's mistake, which ends the session.
    pub fn accept<'a>(&mut self, frame: Frame<'a>, budget: usize) -> Result<Accepted<'a>, Fault> {
        let header = frame.header;
        if header.sequence != self.sequence {
            return Err(Fault {
                code: Code::BadSequence,
                detail: format!("frame {} came where {} was expected", header.sequence, self.sequence).into(),
            });
        }
        self.sequence = self.sequence.wrapping_add(1);
        if header.flags & (FLAG_MORE | FLAG_CONT) == 0 {
            return parse(frame).map(Accepted::Request);
        }
        let key = (header.stream, header.kind as u8);
        if header.flags & FLAG_CONT == 0 {
            if self.assembling.contains_key(&key) {
                return Err(Fault::new(
                    Code::FlagsContradict,
                    "a chunked message began before the last of this stream and type was complete",
                ));
            }
            let total = total(&frame)?;
            let charge = total.checked_add(frame.head.len() + ASSEMBLY_BYTES);
            let charged = charge.and_then(|charge| self.charged_bytes.checked_add(charge));
            // The overhead counts from the second message on: one of the whole budget is always taken.
            let over = |charged: usize| charged > budget && (self.charged_bytes > 0 || total > budget);
            let (Some(charge), Some(charged)) = (charge, charged.filter(|charged| !over(*charged))) else {
                return Err(Fault::new(
                    Code::ReassemblyBudget,
                    "chunked messages under way exceed this connection's budget: send fewer at a time",
                ));
            };
            if frame.payload.len() > total {
                return Err(WireError::Payload(header.kind as u8).into());
            }
            let assembly =
                Assembly { header, head: frame.head.to_vec(), payload: frame.payload.to_vec(), total, charge };
            self.charged_bytes = charged;
            self.assembling.insert(key, assembly);
            return Ok(Accepted::Nothing);
        }
        let Some(assembly) = self.assembling.get_mut(&key) else {
            return Err(Fault::new(Code::FlagsContradict, "a chunk continues a message that was never begun"));
        };
        if assembly.payload.len() + frame.payload.len() > assembly.total {
            return Err(WireError::Payload(header.kind as u8).into());
        }
        // Never more than was charged: a vector left to itself would double.
        assembly.payload.reserve_exact(assembly.total - assembly.payload.len());
        assembly.payload.extend_from_slice(frame.payload);
        if header.flags & FLAG_MORE != 0 {
            return Ok(Accepted::Nothing);
        }
        let assembly = self.assembling.remove(&key).expect("found above");
        self.charged_bytes -= assembly.charge;
        Ok(Accepted::Assembled(assembly))
    }
}

impl Assembly {
    /// The request the chunks make.
    ///
    /// # Errors
    /// The peer's mistake, which ends the session.
    pub fn request(&self) -> Result<Request<'_>, Fault> {
        parse(Frame { header: self.header, head: &self.head, payload: &self.payload })
    }
}

/// What the head says the whole message has, in bytes.
fn total(frame: &Frame<'_>) -> Result<usize, Fault> {
    let total = match frame.header.kind {
        FrameType::Publish => frame.head::<Publish>()?.total,
        FrameType::Request => frame.head::<Ask<'_>>()?.total,
        FrameType::Response => frame.head::<Response<'_>>()?.total,
        kind => return Err(unexpected(kind)),
    };
    Ok(total as usize)
}

fn unexpected(kind: FrameType) -> Fault {
    Fault { code: Code::UnexpectedFrame, detail: format!("a client does not send {} frames", kind.name()).into() }
}

/// Whether frames of this type belong to the session and to none of its streams.
const fn is_of_session(kind: FrameType) -> bool {
    use FrameType::{Auth, Close, Goaway, Hello, Ping, Pong, Reauth};
    matches!(kind, Hello | Auth | Reauth | Close | Goaway | Ping | Pong)
}

/// Where `count` records come from, if the head says so.
fn source(extensions: Extensions<'_>, count: u32, kind: FrameType) -> Result<Option<Source<'_>>, WireError> {
    let Some(bytes) = extensions.get(EXTENSION_SOURCE) else { return Ok(None) };
    match postcard::take_from_bytes::<Source<'_>>(bytes) {
        Ok((source, [])) if source.is_valid(count) => Ok(Some(source)),
        _ => Err(WireError::Head(kind as u8)),
    }
}

fn parse(frame: Frame<'_>) -> Result<Request<'_>, Fault> {
    let Frame { header: Header { kind, stream, .. }, payload, .. } = frame;
    let whole = |total: u32| {
        if total as usize == payload.len() { Ok(()) } else { Err(Fault::from(WireError::Payload(kind as u8))) }
    };
    if stream != 0 && is_of_session(kind) {
        return Err(Fault { code: Code::BadStream, detail: format!("{} frames go on stream 0", kind.name()).into() });
    }
    let bare = || if payload.is_empty() { Ok(()) } else { Err(Fault::from(WireError::Payload(kind as u8))) };
    Ok(match kind {
        FrameType::Hello => {
            bare()?;
            let (hello, extensions) = frame.head_with_extensions::<Hello<'_>>()?;
            Request::Hello(hello, extensions)
        }
        FrameType::Auth => {
            bare()?;
            Request::Auth(frame.head::<Auth<'_>>()?)
        }
        FrameType::Reauth => {
            bare()?;
            Request::Reauth(frame.head::<Reauth<'_>>()?)
        }
        FrameType::Publish => {
            let (head, extensions) = frame.head_with_extensions::<Publish>()?;
            whole(head.total)?;
            let source = source(extensions, 1, kind)?;
            let records = Records::One(Some(payload));
            Request::Publish { stream, contract: head.contract, first: head.number, records, source }
        }
        FrameType::Batch => {
            let (head, extensions) = frame.head_with_extensions::<Batch>()?;
            let source = source(extensions, head.count, kind)?;
            if let Some(len) = extensions.get(EXTENSION_LZ4) {
                let Ok((len, [])) = postcard::take_from_bytes(len) else {
                    return Err(WireError::Head(kind as u8).into());
                };
                return Ok(Request::Packed { stream, head, block: payload, len, source });
            }
            let records = Records::Many(BatchItems::parse(payload, head.count)?);
            Request::Publish { stream, contract: head.contract, first: head.first, records, source }
        }
        FrameType::Subscribe => {
            bare()?;
            Request::Subscribe(stream, frame.head::<Subscribe<'_>>()?)
        }
        FrameType::Unsubscribe => {
            frame.head::<Unsubscribe>()?;
            Request::Unsubscribe(stream)
        }
        FrameType::Consume => {
            let head: Consume<'_> = frame.head()?;
            let filters = FilterItems::parse(payload, head.filters)?;
            Request::Consume(stream, head, filters)
        }
        FrameType::Ack => Request::Ack(stream, frame.head::<Ack>()?),
        FrameType::Nack => Request::Nack(stream, frame.head::<Nack<'_>>()?),
        FrameType::Credit => Request::Credit(stream, frame.head::<Credit>()?),
        FrameType::Pause => {
            let (_, extensions) = frame.head_with_extensions::<Pause>()?;
            let lanes = extensions.get(EXTENSION_LANES).map(postcard::from_bytes::<u16>).transpose();
            Request::Pause(stream, lanes.map_err(|_| WireError::Head(kind as u8))?)
        }
        FrameType::Resume => {
            frame.head::<Resume>()?;
            Request::Resume(stream)
        }
        FrameType::History => Request::History(stream, frame.head::<History<'_>>()?),
        FrameType::Request => {
            let head: Ask<'_> = frame.head()?;
            whole(head.total)?;
            Request::Ask(stream, head, payload)
        }
        FrameType::Response => {
            let head: Response<'_> = frame.head()?;
            whole(head.total)?;
            Request::Answer(stream, head, payload)
        }
        FrameType::Cancel => Request::Cancel(stream, frame.head::<Cancel>()?),
        FrameType::Ping => Request::Ping(frame.head::<Ping>()?.nonce),
        FrameType::Pong => {
            frame.head::<Pong>()?;
            Request::Alive
        }
        FrameType::Goaway => {
            frame.head::<Goaway<'_>>()?;
            Request::Alive
        }
        FrameType::Close => {
            frame.head::<Close<'_>>()?;
            Request::Close
        }
        FrameType::Welcome
        | FrameType::Ok
        | FrameType::Error
        | FrameType::PublishAck
        | FrameType::PublishNack
        | FrameType::Deliver
        | FrameType::Dropped
        | FrameType::Report => return Err(unexpected(kind)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Contract, Decoded, Head, decode, encode, encode_into, seal};

    fn frame(flags: u16, sequence: u32, head: Option<&Publish>, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 256 + payload.len()];
        let n = encode_into(&mut out, Publish::KIND, flags, 7, head, payload).expect("fits");
        out.truncate(n);
        seal(&mut out, sequence);
        out
    }

    fn feed(native: &mut Native, bytes: &[u8]) -> Result<Option<Vec<u8>>, Code> {
        feed_within(native, bytes, 1_000)
    }

    fn feed_within(native: &mut Native, bytes: &[u8], budget: usize) -> Result<Option<Vec<u8>>, Code> {
        let Ok(Decoded::Frame(frame, _)) = decode(bytes, 1 << 20) else { panic!("a whole frame") };
        let request = native.accept(frame, budget).map_err(|f| f.code)?;
        let payload = |r: Request<'_>| match r {
            Request::Publish { mut records, .. } => records.next().map(<[u8]>::to_vec),
            _ => None,
        };
        match request {
            Accepted::Request(r) => Ok(payload(r)),
            Accepted::Assembled(a) => Ok(payload(a.request().map_err(|f| f.code)?)),
            Accepted::Nothing => Ok(None),
        }
    }

    fn head(total: u32) -> Publish {
        Publish { contract: Contract::Queue, number: 1, total }
    }

    #[test]
    fn chunks_become_one_record() {
        let mut n = Native::default();
        assert_eq!(feed(&mut n, &frame(FLAG_MORE, 0, Some(&head(5)), b"ab")), Ok(None));
        assert_eq!(feed(&mut n, &frame(FLAG_MORE | FLAG_CONT, 1, None, b"cd")), Ok(None));
        assert_eq!(feed(&mut n, &frame(FLAG_CONT, 2, None, b"e")), Ok(Some(b"abcde".to_vec())));
        assert_eq!(n.charged_bytes, 0);
    }

    #[test]
    fn chunks_that_lie_are_refused() {
        let lies = |frames: &[Vec<u8>]| {
            let mut n = Native::default();
            frames.iter().find_map(|f| feed(&mut n, f).err())
        };
        assert_eq!(lies(&[frame(FLAG_CONT, 0, None, b"x")]), Some(Code::FlagsContradict));
        assert_eq!(lies(&[frame(FLAG_MORE, 0, Some(&head(1_001)), b"x")]), Some(Code::ReassemblyBudget));
        assert_eq!(lies(&[frame(FLAG_MORE, 0, Some(&head(1)), b"xy")]), Some(Code::BadPayload));
        let begun = frame(FLAG_MORE, 0, Some(&head(3)), b"x");
        assert_eq!(lies(&[begun.clone(), frame(FLAG_CONT, 1, None, b"yzz")]), Some(Code::BadPayload));
        assert_eq!(lies(&[begun.clone(), frame(FLAG_CONT, 1, None, b"y")]), Some(Code::BadPayload));
        assert_eq!(lies(&[begun.clone(), frame(FLAG_MORE, 1, Some(&head(3)), b"x")]), Some(Code::FlagsContradict));
        assert_eq!(lies(&[begun, frame(FLAG_CONT, 5, None, b"yz")]), Some(Code::BadSequence));
        assert_eq!(lies(&[frame(0, 0, Some(&head(2)), b"x")]), Some(Code::BadPayload));
    }

    #[test]
    fn tiny_totals_on_ever_new_streams_are_charged_for_their_heads() {
        const BUDGET: usize = 64 * 1_024;
        let mut n = Native::default();
        let channel = "c".repeat(1_024);
        let properties = [0; 2_048];
        let begun = (0..u32::MAX).map(|i| {
            let head = Ask { channel: &channel, deadline_ms: 0, total: 1, properties: &properties };
            let mut out = vec![0; 4_096];
            let len = encode(&mut out, FLAG_MORE, 1 + i, i, &head, &[]).expect("fits");
            feed_within(&mut n, &out[..len], BUDGET)
        });
        let taken = begun.take_while(Result::is_ok).count();
        assert!((1..=BUDGET / 3_072).contains(&taken), "{taken} heads of 3 KiB within 64 KiB");
        let held: usize = n.assembling.values().map(|a| a.head.len() + a.total + size_of::<Assembly>()).sum();
        assert!(held <= BUDGET, "{held}");
    }

    #[test]
    fn totals_that_would_wrap_the_sum_are_over_the_budget() {
        let mut n = Native { charged_bytes: usize::MAX - 100, ..Native::default() };
        let wraps = frame(FLAG_MORE, 0, Some(&head(u32::MAX)), b"x");
        assert_eq!(feed_within(&mut n, &wraps, usize::MAX), Err(Code::ReassemblyBudget));
    }

    #[test]
    fn one_message_of_the_whole_budget_is_taken_and_no_second_beside_it() {
        let mut n = Native::default();
        assert_eq!(feed(&mut n, &frame(FLAG_MORE, 0, Some(&head(1_000)), b"x")), Ok(None));
        let mut second = vec![0; 256];
        let len = encode(&mut second, FLAG_MORE, 8, 1, &head(1), &[]).expect("fits");
        assert_eq!(feed(&mut n, &second[..len]), Err(Code::ReassemblyBudget));
    }

    #[test]
    fn frames_of_the_session_go_on_stream_0() {
        use crate::wire::{Close, Goaway, Hello, Ping, Pong};
        fn on<'a, H: Head<'a>>(stream: u32, head: &H) -> Result<Option<Vec<u8>>, Code> {
            let mut out = [0; 256];
            let n = encode(&mut out, 0, stream, 0, head, &[]).expect("fits");
            feed(&mut Native::default(), &out[..n])
        }
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            client: "",
            heartbeat_ms: 0,
            frame_bytes_max: 16_384,
            message_bytes_max: 0,
        };
        for (stream, expected) in [(0, Ok(None)), (1, Err(Code::BadStream)), (1 << 31, Err(Code::BadStream))] {
            assert_eq!(on(stream, &hello), expected);
            assert_eq!(on(stream, &Auth { method: 0, data: &[] }), expected);
            assert_eq!(on(stream, &Reauth { method: 0, data: &[] }), expected);
            assert_eq!(on(stream, &Close { code: 0, detail: "" }), expected);
            assert_eq!(on(stream, &Goaway { code: 0, deadline_ms: 0, detail: "" }), expected);
            assert_eq!(on(stream, &Ping { nonce: 1 }), expected);
            assert_eq!(on(stream, &Pong { nonce: 1 }), expected);
        }
    }

    #[test]
    fn frames_only_a_broker_sends_are_refused() {
        let mut out = [0; 128];
        let n = encode(&mut out, 0, 0, 0, &crate::wire::Dropped { count: 1, bytes: 1, code: 0 }, &[]).expect("fits");
        assert_eq!(feed(&mut Native::default(), &out[..n]), Err(Code::UnexpectedFrame));
    }
}
