//! The client's core of fixed buffers against a broker that sends anything: whole frames, torn ones, wrong ones. What it
//! sends stays well-formed and numbered, and its window holds.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tidegate::client::{Core, CoreError};
use tidegate::model::limits::FRAME_PAYLOAD_BYTES_MAX;
use tidegate::model::{Channel, Record};
use tidegate::wire::{
    self, Consume, Contract, Decoded, Dropped, ErrorHead, Head, Nack, Outcome, Pause, Ping, Pong, PublishAck,
    PublishNack, Resume, Since, Start, Subscribe, Welcome,
};

#[derive(Arbitrary, Debug)]
enum Op {
    Raw(Vec<u8>),
    Welcome {
        window_messages: u8,
        window_bytes: u16,
        heartbeat_ms: u16,
    },
    Ack {
        first: u8,
        count: u8,
        outcome: u8,
    },
    Nack {
        first: u8,
        count: u8,
        code: u16,
    },
    Deliver(Vec<u8>),
    Ping(u64),
    Pong(u64),
    Pause(bool),
    Dropped,
    Error {
        stream: u8,
        code: u16,
    },
    Publish {
        len: u16,
    },
    Subscribe(u8),
    Consume(u8),
    Tags {
        stream: u8,
        first: u8,
        count: u8,
        nack: bool,
    },
    Credit(u8),
    Request {
        len: u16,
    },
    Resume,
    Close,
    Transmit(u16),
    Pass(u16),
    /// Of what the broker sends, so many bytes arrive at a time.
    Trickle(u8),
    Connect,
}

const TX: usize = 2_048;
const RX: usize = 1_024;

struct World {
    core: Box<Core<TX, RX>>,
    now_ms: u64,
    /// Sequence of the broker's next frame.
    sequence: u32,
    /// Bytes from the broker on their way.
    incoming: Vec<u8>,
    /// Bytes the core gave.
    outgoing: Vec<u8>,
    expected: u32,
    window: u32,
    over: bool,
    trickle: usize,
}

fuzz_target!(|ops: Vec<Op>| {
    let mut world = World {
        core: Box::new(Core::new()),
        now_ms: 0,
        sequence: 0,
        incoming: Vec::new(),
        outgoing: Vec::new(),
        expected: 0,
        window: 0,
        over: false,
        trickle: 0,
    };
    world.apply(&Op::Connect);
    for op in &ops {
        world.apply(op);
        world.feed();
    }
    world.apply(&Op::Transmit(u16::MAX));
});

impl World {
    fn send<'a, H: Head<'a>>(&mut self, stream: u32, head: &H, payload: &[u8]) {
        let mut out = vec![0; payload.len() + 1_024];
        let len = wire::encode(&mut out, 0, stream, self.sequence, head, payload).expect("a frame of ours");
        self.sequence = self.sequence.wrapping_add(1);
        self.incoming.extend_from_slice(&out[..len]);
    }

    fn feed(&mut self) {
        while !self.over && !self.incoming.is_empty() {
            let len = if self.trickle == 0 { self.incoming.len() } else { self.trickle.min(self.incoming.len()) };
            let taken = self.core.receive(self.now_ms, &self.incoming[..len]);
            assert!(taken <= len);
            self.incoming.drain(..taken);
            let mut events = 0;
            loop {
                match self.core.poll_event() {
                    Ok(Some(_)) => events += 1,
                    Ok(None) => break,
                    Err(_) => {
                        self.over = true;
                        return;
                    }
                }
                assert!(events <= RX, "events without end");
            }
            assert!(taken > 0 || events > 0, "nothing is taken and nothing happens");
        }
    }

    /// Whatever does not fit changes nothing; nothing else may go wrong with what we say.
    fn said(&mut self, result: Result<(), CoreError>) {
        match result {
            Ok(()) | Err(CoreError::Full | CoreError::NotOpen | CoreError::TooLarge(_)) => {}
            Err(CoreError::Link(_)) => self.over = true,
            Err(other) => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Connect => {
                *self.core = Core::new();
                (self.sequence, self.expected, self.over, self.window) = (0, 0, false, 0);
                (self.incoming, self.outgoing) = (Vec::new(), Vec::new());
                self.core.connect(self.now_ms, "fuzz", 1_000).expect("a hello fits");
            }
            _ if self.over => {}
            Op::Raw(bytes) => self.incoming.extend_from_slice(&bytes[..bytes.len().min(4_096)]),
            Op::Welcome { window_messages, window_bytes, heartbeat_ms } => {
                self.window = self.window.max(u32::from(*window_messages));
                let head = Welcome {
                    version: 1,
                    server: "fuzz",
                    session: 1,
                    heartbeat_ms: u32::from(*heartbeat_ms),
                    frame_bytes_max: 16_384,
                    message_bytes_max: 1 << 20,
                    window_messages: u32::from(*window_messages),
                    window_bytes: u32::from(*window_bytes),
                    time_ms: 0,
                };
                self.send(0, &head, &[]);
            }
            Op::Ack { first, count, outcome } => {
                let outcome =
                    [Outcome::Stored, Outcome::Duplicate, Outcome::LiveOnly, Outcome::Dropped, Outcome::Accepted]
                        [usize::from(*outcome) % 5];
                self.send(1, &PublishAck { first: u64::from(*first), count: u32::from(*count), outcome }, &[]);
            }
            Op::Nack { first, count, code } => {
                let head = PublishNack {
                    first: u64::from(*first),
                    count: u32::from(*count),
                    code: *code,
                    retry_after_ms: 0,
                    detail: "no",
                };
                self.send(1, &head, &[]);
            }
            Op::Deliver(items) => {
                let items = &items[..items.len().min(900)];
                let head = wire::Deliver { epoch: 1, first_tag: 1, count: 1, total: items.len() as u32 };
                self.send(2, &head, items);
            }
            Op::Ping(nonce) => self.send(0, &Ping { nonce: *nonce }, &[]),
            Op::Pong(nonce) => self.send(0, &Pong { nonce: *nonce }, &[]),
            Op::Pause(true) => self.send(1, &Pause { code: 0 }, &[]),
            Op::Pause(false) => self.send(1, &Resume {}, &[]),
            Op::Dropped => self.send(2, &Dropped { count: 1, bytes: 1, code: 0 }, &[]),
            Op::Error { stream, code } => {
                self.send(u32::from(*stream), &ErrorHead { code: *code, retry_after_ms: 0, detail: "no" }, &[]);
            }
            Op::Publish { len } => {
                let payload = vec![b'.'; usize::from(*len) % 3_000];
                let record = Record::new(Channel::parse("a/b").expect("valid"), &payload);
                let before = self.core.unanswered();
                match self.core.publish(Contract::Queue, &record) {
                    Ok(_) => {
                        assert_eq!(self.core.unanswered(), before + 1);
                        assert!(before < self.window, "the window of {} is passed", self.window);
                    }
                    Err(_) => assert_eq!(self.core.unanswered(), before, "what failed counts for nothing"),
                }
            }
            Op::Subscribe(stream) => {
                let head = Subscribe {
                    filter: "a/#",
                    retained: true,
                    since: Since::Now,
                    respond: false,
                    disconnect_when_slow: false,
                };
                let result = self.core.subscribe(u32::from(*stream), &head);
                self.said(result);
            }
            Op::Consume(stream) => {
                let head = Consume {
                    queue: "main",
                    name: "one",
                    start: Start::First,
                    window: 0,
                    attempts_max: 0,
                    ack_timeout_ms: 0,
                    backoff_ms: 0,
                    filters: 0,
                    credit_messages: 1,
                    credit_bytes: 1,
                };
                let result = self.core.consume(u32::from(*stream), &head, &[]);
                self.said(result);
            }
            Op::Tags { stream, first, count, nack } => {
                let (stream, first, count) = (u32::from(*stream), u64::from(*first), u32::from(*count));
                let result = if *nack {
                    self.core.nack(stream, &Nack { first, count, delay_ms: 0, give_up: false, reason: "" })
                } else {
                    self.core.ack(stream, first, count)
                };
                self.said(result);
            }
            Op::Credit(stream) => {
                let result = self.core.credit(u32::from(*stream), 1, 1_000);
                self.said(result);
            }
            Op::Request { len } => {
                let result = self.core.request(3, "a/b", 1_000, &vec![b'?'; usize::from(*len)]);
                self.said(result);
            }
            Op::Resume => drop(self.core.resume()),
            Op::Close => {
                let result = self.core.close();
                self.said(result);
            }
            Op::Transmit(bytes) => self.transmit(usize::from(*bytes)),
            Op::Pass(ms) => {
                self.now_ms += u64::from(*ms);
                for round in 0.. {
                    if self.core.poll_timeout() > self.now_ms {
                        break;
                    }
                    assert!(round < 8, "a timer stays in the past");
                    if self.core.handle_timeout(self.now_ms).is_err() {
                        self.over = true;
                        break;
                    }
                    self.transmit(TX);
                }
            }
            Op::Trickle(n) => self.trickle = usize::from(*n),
        }
    }

    fn transmit(&mut self, bytes: usize) {
        let shown = self.core.poll_transmit();
        assert!(shown.len() <= TX);
        let taken = bytes.min(shown.len());
        self.outgoing.extend_from_slice(&shown[..taken]);
        self.core.transmitted(self.now_ms, taken);
        let mut at = 0;
        loop {
            match wire::decode(&self.outgoing[at..], FRAME_PAYLOAD_BYTES_MAX) {
                Ok(Decoded::Frame(frame, len)) => {
                    assert_eq!(frame.header.sequence, self.expected, "sequence numbers have no gap");
                    self.expected = self.expected.wrapping_add(1);
                    frame.any_head().expect("heads are well-formed");
                    at += len;
                }
                Ok(Decoded::Incomplete(_)) => break,
                Err(error) => panic!("what a client sends is well-formed: {error}"),
            }
        }
        self.outgoing.drain(..at);
    }
}
