//! The core against a broker's end that is a byte buffer.

use super::*;
use crate::model::{Channel, MessageId};
use crate::wire::{Deliver, DeliverItem, Goaway, Hello, Ping, Pong, Welcome, auth_method, encode};

const WELCOME: Welcome<'_> = Welcome {
    version: 1,
    server: "fake",
    session: 7,
    heartbeat_ms: 1_000,
    frame_bytes_max: 16_384,
    message_bytes_max: 65_536,
    window_messages: 4,
    window_bytes: 400,
    time_ms: 5,
};

/// The broker's end: reads frames with `wire`, checks their sequence, writes answers.
#[derive(Default)]
struct Server {
    sequence_in: u32,
    sequence_out: u32,
    bytes: Vec<u8, 4_096>,
}

impl Server {
    fn send<'h, H: Head<'h>>(&mut self, stream: u32, head: &H, payload: &[u8]) {
        let mut frame = [0; 1_024];
        let len = encode(&mut frame, 0, stream, self.sequence_out, head, payload).expect("fits");
        self.sequence_out += 1;
        self.bytes.extend_from_slice(&frame[..len]).expect("fits");
    }

    /// Takes one frame from the client, hands it to `check`, returns the client's event on the answers so far.
    fn take<const T: usize, const R: usize>(
        &mut self,
        core: &mut Core<T, R>,
        now_ms: u64,
        check: impl FnOnce(&crate::wire::Frame<'_>),
    ) {
        let Ok(Decoded::Frame(frame, len)) = decode(core.poll_transmit(), 16_384) else {
            panic!("no whole frame is waiting")
        };
        assert_eq!(frame.header.sequence, self.sequence_in);
        self.sequence_in += 1;
        check(&frame);
        core.transmitted(now_ms, len);
    }

    fn deliver_all<const T: usize, const R: usize>(&mut self, core: &mut Core<T, R>, now_ms: u64) {
        let taken = core.receive(now_ms, &self.bytes);
        assert_eq!(taken, self.bytes.len());
        self.bytes.clear();
    }
}

fn open() -> (Core<512, 512>, Server) {
    let (mut core, mut server) = (Core::new(), Server::default());
    core.connect(0, "micro", 0).expect("fits");
    server.take(&mut core, 0, |frame| assert_eq!(frame.head::<Hello<'_>>().expect("hello").client, "micro"));
    server.send(0, &WELCOME, &[]);
    server.deliver_all(&mut core, 1);
    assert_eq!(core.poll_event(), Ok(Some(Event::Welcome(WELCOME))));
    assert_eq!(core.poll_event(), Ok(None));
    (core, server)
}

fn record(payload: &[u8]) -> Record<'_> {
    Record { id: MessageId([3; 16]), ..Record::new(Channel::parse("a/b").expect("valid"), payload) }
}

#[test]
fn a_publish_arrives_whole_and_its_ack_reopens_the_window() {
    let (mut core, mut server) = open();
    for number in 1..=4 {
        assert_eq!(core.publish(Contract::Disk, &record(b"x")), Ok(number));
    }
    assert_eq!(core.publish(Contract::Disk, &record(b"x")), Err(CoreError::Window));
    for number in 1..=4 {
        server.take(&mut core, 2, |frame| {
            let head: Publish = frame.head().expect("publish");
            assert_eq!((head.number, head.total as usize), (number, frame.payload.len()));
            assert_eq!(Record::decode(frame.payload), Ok(record(b"x")));
        });
    }
    let ack = PublishAck { first: 1, count: 3, outcome: Outcome::Stored };
    server.send(PUBLISH_STREAM, &ack, &[]);
    server.deliver_all(&mut core, 3);
    assert_eq!(core.poll_event(), Ok(Some(Event::PublishAck { stream: PUBLISH_STREAM, ack })));
    assert_eq!(core.unanswered(), 1);
    assert_eq!(core.publish(Contract::Disk, &record(b"x")), Ok(5));
}

#[test]
fn a_challenge_is_answered_before_the_welcome_and_credentials_are_renewed_after_it() {
    let (mut core, mut server): (Core<512, 512>, _) = (Core::new(), Server::default());
    core.connect_with(0, "micro", 0, &[auth_method::KEY, auth_method::TOKEN]).expect("fits");
    server.take(&mut core, 0, |frame| {
        let (hello, extensions) = frame.head_with_extensions::<Hello<'_>>().expect("hello");
        assert_eq!((hello.client, extensions.get(EXTENSION_AUTH_METHODS)), ("micro", Some(&[3, 1][..])));
    });
    server.send(0, &Auth { method: auth_method::KEY, data: &[7; 32] }, &[]);
    server.deliver_all(&mut core, 1);
    assert_eq!(core.poll_event(), Ok(Some(Event::Challenge { method: auth_method::KEY, data: &[7; 32] })));
    assert_eq!(core.reauthenticate(auth_method::KEY, &[]), Err(CoreError::NotOpen));
    core.authenticate(auth_method::KEY, &[8; 96]).expect("fits");
    server.take(&mut core, 1, |frame| {
        assert_eq!(frame.head(), Ok(Auth { method: auth_method::KEY, data: &[8; 96] }));
    });
    server.send(0, &WELCOME, &[]);
    let head = Goaway { code: Code::CredentialsExpired as u16, deadline_ms: 30_000, detail: "" };
    server.send(0, &head, &[]);
    server.deliver_all(&mut core, 2);
    assert_eq!(core.poll_event(), Ok(Some(Event::Welcome(WELCOME))));
    assert_eq!(core.poll_event(), Ok(Some(Event::Goaway(head))));
    core.reauthenticate(auth_method::KEY, &[9; 96]).expect("fits");
    server.take(&mut core, 2, |frame| {
        assert_eq!(frame.head(), Ok(Reauth { method: auth_method::KEY, data: &[9; 96] }));
    });
    server.send(0, &Auth { method: auth_method::KEY, data: &[7; 32] }, &[]);
    server.deliver_all(&mut core, 3);
    let late = CoreError::Link(LinkError::Unexpected(FrameType::Auth));
    assert_eq!(core.poll_event(), Err(late), "an open session is not challenged");
}

#[test]
fn the_byte_window_and_the_buffers_say_no_and_change_nothing() {
    let (mut core, _server) = open();
    assert_eq!(core.publish(Contract::Queue, &record(&[0; 350])), Ok(1));
    assert_eq!(core.publish(Contract::Queue, &record(&[0; 350])), Err(CoreError::Full));
    let mut roomy: Core<4_096, 512> = Core::new();
    roomy.connect(0, "", 0).expect("fits");
    assert_eq!(roomy.publish(Contract::Queue, &record(b"")), Err(CoreError::NotOpen));
    let mut server = Server::default();
    server.send(0, &WELCOME, &[]);
    server.deliver_all(&mut roomy, 0);
    roomy.poll_event().expect("welcome");
    assert_eq!(roomy.publish(Contract::Queue, &record(&[0; 350])), Ok(1));
    assert_eq!(roomy.publish(Contract::Queue, &record(&[0; 350])), Err(CoreError::Window));
    assert!(matches!(roomy.publish(Contract::Queue, &record(&[0; 4_096])), Err(CoreError::Full)));
    assert_eq!(roomy.unanswered(), 1);
}

#[test]
fn after_a_retryable_refusal_publishing_goes_on_at_its_number() {
    let (mut core, mut server) = open();
    for _ in 0..3 {
        core.publish(Contract::Queue, &record(b"x")).expect("window");
    }
    let nack =
        |first, count, code: Code| PublishNack { first, count, code: code as u16, retry_after_ms: 10, detail: "" };
    server.send(PUBLISH_STREAM, &PublishAck { first: 1, count: 1, outcome: Outcome::Stored }, &[]);
    server.send(PUBLISH_STREAM, &nack(2, 1, Code::QueueFull), &[]);
    server.deliver_all(&mut core, 2);
    core.poll_event().expect("ack");
    core.poll_event().expect("nack");
    assert_eq!(core.publish(Contract::Queue, &record(b"y")), Err(CoreError::Fenced(2)));
    assert_eq!(core.resume(), Err(CoreError::Window), "publish 3 has no answer yet");
    server.send(PUBLISH_STREAM, &nack(3, 1, Code::Fenced), &[]);
    server.deliver_all(&mut core, 3);
    core.poll_event().expect("nack");
    assert_eq!(core.resume(), Ok(()));
    assert_eq!(core.publish(Contract::Queue, &record(b"x")), Ok(2));
}

#[test]
fn an_idle_link_pings_answers_pings_and_dies_after_three_silent_heartbeats() {
    let (mut core, mut server) = open();
    server.send(0, &Ping { nonce: 99 }, &[]);
    server.deliver_all(&mut core, 500);
    assert_eq!(core.poll_event(), Ok(Some(Event::Ping)));
    server.take(&mut core, 500, |frame| assert_eq!(frame.head::<Pong>().expect("pong").nonce, 99));
    assert_eq!(core.poll_timeout(), 1_500);
    core.handle_timeout(1_499).expect("alive");
    assert!(core.poll_transmit().is_empty());
    core.handle_timeout(1_500).expect("alive");
    server.take(&mut core, 1_500, |frame| assert_eq!(frame.header.kind, FrameType::Ping));
    assert_eq!(core.poll_timeout(), 2_500);
    core.handle_timeout(3_499).expect("alive");
    assert_eq!(core.handle_timeout(3_500), Err(CoreError::Link(LinkError::Dead)));
}

#[test]
fn a_broker_that_does_not_answer_the_hello_is_given_up() {
    let mut core: Core<256, 256> = Core::new();
    core.connect(1_000, "micro", 0).expect("fits");
    assert_eq!(core.poll_timeout(), 1_000 + u64::from(crate::client::HEARTBEAT_MS_DEFAULT));
    assert_eq!(core.handle_timeout(core.poll_timeout()), Err(CoreError::Link(LinkError::HandshakeTimeout)));
}

#[test]
fn deliveries_are_read_from_bytes_that_come_one_by_one_and_are_acknowledged() {
    let (mut core, mut server) = open();
    let mut bytes = [0; 128];
    let len = record(b"warm").encode(&mut bytes).expect("fits");
    let item = DeliverItem { flags: 0, lane: 0, seq: 1, offset: 0, attempt: 1, stored_ms: 9, record: &bytes[..len] };
    let mut payload = [0; 256];
    let payload = postcard::to_slice(&item, &mut payload).expect("fits");
    let head = Deliver { epoch: 4, first_tag: 1, count: 1, total: payload.len() as u32 };
    server.send(2, &head, payload);
    for (at, byte) in server.bytes.iter().enumerate() {
        assert_eq!(core.receive(2, &[*byte]), 1);
        let event = core.poll_event().expect("valid");
        if at + 1 < server.bytes.len() {
            assert_eq!(event, None);
        } else {
            let Some(Event::Deliver { stream: 2, payload, more: false, .. }) = event else { panic!("{event:?}") };
            let (item, rest) = DeliverItem::take(payload).expect("an item");
            assert!(rest.is_empty());
            assert_eq!(Record::decode(item.record), Ok(record(b"warm")));
        }
    }
    core.ack(2, 1, 1).expect("fits");
    server.take(&mut core, 3, |frame| assert_eq!(frame.head::<Ack>(), Ok(Ack { first: 1, count: 1 })));
}

#[test]
fn a_gap_in_the_sequence_a_foreign_frame_and_a_frame_too_large_end_the_link() {
    let (mut core, mut server) = open();
    server.sequence_out += 1;
    server.send(0, &Ping { nonce: 1 }, &[]);
    server.deliver_all(&mut core, 2);
    assert_eq!(core.poll_event(), Err(CoreError::Link(LinkError::Sequence(1, 2))));

    let (mut core, mut server) = open();
    server.send(1, &Publish { contract: Contract::Queue, number: 1, total: 0 }, &[]);
    server.deliver_all(&mut core, 2);
    assert_eq!(core.poll_event(), Err(CoreError::Link(LinkError::Unexpected(FrameType::Publish))));

    let (mut core, mut server) = open();
    server.send(2, &Deliver { epoch: 0, first_tag: 0, count: 1, total: 600 }, &[0; 600]);
    assert_eq!(core.receive(2, &server.bytes), 512);
    assert!(matches!(core.poll_event(), Err(CoreError::ReceiveBuffer(_, 512))));
}
