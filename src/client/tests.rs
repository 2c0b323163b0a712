//! The smol client against a small broker: threads with blocking sockets, frames by `wire`.
#![allow(clippy::disallowed_methods, reason = "the broker of a test runs on a thread, the client on smol's executor")]

use super::*;
use crate::model::{MessageId, Record};
use crate::wire::{
    Ack, Batch, BatchItems, Close, Code, Consume, Contract, Credit, Decoded, Deliver, DeliverItem, Done, Dropped,
    ErrorHead, Frame, FrameType, Head, Hello, Outcome, Ping, Publish, PublishAck, PublishNack, Request, Since,
    Subscribe, append, append_item, chunks, decode, item_flag, seal,
};
use smol::future::block_on;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

const WINDOW: u32 = 4_096;

/// Runs `broker` on a thread of its own; it accepts as many connections as it likes.
fn fake(broker: impl FnOnce(&Fake) + Send + 'static) -> (Address, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port();
    let thread = spawn(move || broker(&Fake { listener }));
    (Address::Tcp("127.0.0.1".into(), port), thread)
}

struct Fake {
    listener: TcpListener,
}

struct Conn {
    stream: TcpStream,
    received: Vec<u8>,
    sequence_in: u32,
    sequence_out: u32,
}

impl Fake {
    /// The next connection, hello taken and welcome said.
    fn accept(&self) -> Conn {
        self.accept_with_heartbeat(15_000)
    }

    fn accept_with_heartbeat(&self, heartbeat_ms: u32) -> Conn {
        let (stream, _) = self.listener.accept().expect("accept");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        let mut conn = Conn { stream, received: Vec::new(), sequence_in: 0, sequence_out: 0 };
        conn.take(|frame| assert_eq!(frame.head::<Hello<'_>>().expect("hello").version_max, 1));
        let welcome = crate::wire::Welcome {
            version: 1,
            server: "fake",
            session: 1,
            heartbeat_ms,
            frame_bytes_max: 65_536,
            message_bytes_max: 1 << 20,
            window_messages: WINDOW,
            window_bytes: 4 << 20,
            time_ms: 0,
        };
        conn.send(0, &welcome, &[]);
        conn
    }
}

impl Conn {
    fn send<'h, H: Head<'h>>(&mut self, stream: u32, head: &H, payload: &[u8]) {
        for (i, (flags, part)) in chunks(payload).enumerate() {
            let mut frame = Vec::new();
            append(&mut frame, H::KIND, flags, stream, (i == 0).then_some(head), &[part]);
            seal(&mut frame, self.sequence_out);
            self.sequence_out += 1;
            self.stream.write_all(&frame).expect("write");
        }
    }

    /// The next frame that is not a ping of the client.
    fn take<T>(&mut self, read: impl FnOnce(&Frame<'_>) -> T) -> T {
        loop {
            if let Decoded::Frame(frame, len) = decode(&self.received, 65_536).expect("valid") {
                assert_eq!(frame.header.sequence, self.sequence_in);
                self.sequence_in += 1;
                if frame.header.kind == FrameType::Ping {
                    self.received.drain(..len);
                    continue;
                }
                let value = read(&frame);
                self.received.drain(..len);
                return value;
            }
            assert!(self.fill() > 0, "the client hung up");
        }
    }

    fn fill(&mut self) -> usize {
        let mut chunk = [0; 65_536];
        let n = self.stream.read(&mut chunk).expect("read");
        self.received.extend_from_slice(&chunk[..n]);
        n
    }

    /// Takes one publish or batch: its first number and its records.
    fn publishes(&mut self) -> (u64, Vec<Vec<u8>>) {
        let (number, total, mut record) = match self.take(|frame| match frame.header.kind {
            FrameType::Batch => {
                let head: Batch = frame.head().expect("batch");
                let items = BatchItems::parse(frame.payload, head.count).expect("items");
                Ok((head.first, items.map(<[u8]>::to_vec).collect()))
            }
            _ => {
                let head: Publish = frame.head().expect("publish");
                Err((head.number, head.total as usize, frame.payload.to_vec()))
            }
        }) {
            Ok(batch) => return batch,
            Err(single) => single,
        };
        while record.len() < total {
            record.extend(self.take(|frame| frame.payload.to_vec()));
        }
        (number, vec![record])
    }

    fn ack(&mut self, first: u64, count: u32) {
        self.send(PUBLISH_STREAM, &PublishAck { first, count, outcome: Outcome::Stored }, &[]);
    }

    fn nack(&mut self, first: u64, count: u32, code: Code) {
        let head = PublishNack { first, count, code: code as u16, retry_after_ms: 1, detail: "no" };
        self.send(PUBLISH_STREAM, &head, &[]);
    }

    fn done(&mut self, stream: u32, complete: bool) {
        self.send(stream, &Done { epoch: 9, value: 0, complete }, &[]);
    }

    fn deliver(&mut self, stream: u32, first_tag: u64, items: &[DeliverItem<'_>]) {
        let mut payload = Vec::new();
        for item in items {
            append_item(&mut payload, item);
        }
        let head = Deliver { epoch: 9, first_tag, count: items.len() as u32, total: payload.len() as u32 };
        self.send(stream, &head, &payload);
    }

    /// Reads until the client hangs up or says goodbye.
    fn drain(&mut self) {
        loop {
            let len = match decode(&self.received, 65_536).expect("valid") {
                Decoded::Frame(frame, _) if frame.header.kind == FrameType::Close => return,
                Decoded::Frame(_, len) => len,
                Decoded::Incomplete(_) => 0,
            };
            self.received.drain(..len);
            if len == 0 && self.fill() == 0 {
                return;
            }
        }
    }
}

fn quick() -> Options {
    Options { backoff_ms: 1, backoff_ms_max: 5, ..Options::default() }
}

fn record(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Record::new(crate::model::Channel::parse("a/b").expect("valid"), payload).encode_to(&mut bytes);
    bytes
}

fn item(record: &[u8], offset: u64) -> DeliverItem<'_> {
    let flags = if offset > 0 { item_flag::HAS_OFFSET } else { 0 };
    DeliverItem { flags, lane: 0, seq: offset, offset, attempt: 1, stored_ms: 0, record }
}

fn payloads(records: &[Vec<u8>]) -> Vec<Vec<u8>> {
    records.iter().map(|r| Record::decode(r).expect("record").payload.to_vec()).collect()
}

#[test]
fn many_messages_travel_in_batches_and_large_ones_in_chunks_in_order() {
    let (address, broker) = fake(|fake| {
        let mut conn = fake.accept();
        let mut seen = 0u32;
        while seen < 3_000 {
            let (first, records) = conn.publishes();
            for payload in payloads(&records) {
                assert_eq!(payload[..4], seen.to_be_bytes());
                assert_eq!(payload.len(), if seen % 1_000 == 999 { 100_000 } else { 200 });
                seen += 1;
            }
            conn.ack(first, records.len() as u32);
        }
        conn.drain();
    });
    block_on(async {
        let client = Client::connect(address, quick()).await.expect("connect");
        for i in 0..3_000u32 {
            let mut payload = vec![0; if i % 1_000 == 999 { 100_000 } else { 200 }];
            payload[..4].copy_from_slice(&i.to_be_bytes());
            client.send(&Message::new("a/b", &payload).expect("valid")).await.expect("send");
        }
        let stats = client.flush().await.expect("flush");
        assert_eq!((stats.stored, stats.failed), (3_000, 0));
        client.close().await;
        assert_eq!(client.send(&Message::new("a", b"").expect("valid")).await, Err(ClientError::Closed));
    });
    broker.join().expect("broker");
}

#[test]
fn after_a_broken_connection_the_unacknowledged_go_again_under_their_ids_and_in_order() {
    let (address, broker) = fake(|fake| {
        let mut conn = fake.accept();
        let mut sent = Vec::new();
        while sent.len() < 10 {
            sent.extend(conn.publishes().1);
        }
        conn.ack(1, 4);
        drop(conn);
        let mut conn = fake.accept();
        let mut again = Vec::new();
        while again.len() < 6 {
            let (first, records) = conn.publishes();
            assert_eq!(first, 1 + again.len() as u64);
            conn.ack(first, records.len() as u32);
            again.extend(records);
        }
        let ids: Vec<MessageId> = again.iter().map(|r| Record::decode(r).expect("record").id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b) && !ids[0].is_none());
        // What the broker saw of the first connection may lack the ack of the four.
        assert_eq!(again, sent[4..]);
        conn.drain();
    });
    block_on(async {
        let client = Client::connect(address, quick()).await.expect("connect");
        let mut receipts = Vec::new();
        for i in 0..10u8 {
            receipts.push(client.publish_nowait(&Message::new("a", &[i]).expect("valid")).await.expect("queued"));
        }
        for receipt in receipts {
            assert_eq!(receipt.await, Ok(Outcome::Stored));
        }
        assert_eq!(client.stats().sessions, 2);
    });
    broker.join().expect("broker");
}

#[test]
fn a_refusal_for_now_is_tried_again_and_a_final_one_fails_that_message_only() {
    let (address, broker) = fake(|fake| {
        let mut conn = fake.accept();
        let mut all = Vec::new();
        while all.len() < 4 {
            all.extend(conn.publishes().1);
        }
        conn.nack(1, 1, Code::BadRecord);
        conn.nack(2, 1, Code::QueueFull);
        conn.nack(3, 2, Code::Fenced);
        let mut again = Vec::new();
        while again.len() < 3 {
            let (first, records) = conn.publishes();
            assert_eq!(first, 2 + again.len() as u64);
            conn.ack(first, records.len() as u32);
            again.extend(records);
        }
        assert_eq!(again, all[1..]);
        conn.drain();
    });
    block_on(async {
        let client = Client::connect(address, quick()).await.expect("connect");
        let mut receipts = Vec::new();
        for i in 0..4u8 {
            receipts.push(client.publish_nowait(&Message::new("a", &[i]).expect("valid")).await.expect("queued"));
        }
        let mut results = Vec::new();
        for receipt in receipts {
            results.push(receipt.await);
        }
        assert!(matches!(&results[0], Err(ClientError::Refused(r)) if r.code == Some(Code::BadRecord)));
        assert!(results[1..].iter().all(|r| *r == Ok(Outcome::Stored)), "{results:?}");
    });
    broker.join().expect("broker");
}

#[test]
fn publishing_beyond_the_window_waits() {
    let (address, broker) = fake(|fake| {
        let mut conn = fake.accept();
        let mut seen = 0;
        while seen < 3 {
            seen += conn.publishes().1.len();
        }
        conn.ack(1, 3);
        let (first, records) = conn.publishes();
        conn.ack(first, records.len() as u32);
        conn.drain();
    });
    block_on(async {
        let options = Options { window_messages: 3, ..quick() };
        let client = Client::connect(address, options).await.expect("connect");
        let message = Message::new("a", b"x").expect("valid");
        // Two are queued at once; the broker answers only after the third.
        assert!(client.try_send(&message).expect("open").is_some());
        assert!(client.try_send(&message).expect("open").is_some());
        assert_eq!(client.stats().stored, 0);
        client.send(&message).await.expect("room for a third");
        client.send(&message).await.expect("room after the ack");
        assert_eq!(client.flush().await.expect("flush").stored, 4);
    });
    broker.join().expect("broker");
}

#[test]
fn a_subscription_resumes_after_the_last_offset_and_tells_what_was_lost() {
    let (address, broker) = fake(|fake| {
        let mut conn = fake.accept();
        let stream = conn.take(|frame| {
            assert_eq!(frame.head::<Subscribe<'_>>().expect("subscribe").since, Since::Last(2));
            frame.header.stream
        });
        conn.done(stream, true);
        let (one, two) = (record(b"1"), record(b"2"));
        conn.deliver(stream, 0, &[item(&one, 1), item(&two, 2)]);
        conn.send(stream, &Dropped { count: 5, bytes: 9, code: 110 }, &[]);
        drop(conn);
        let mut conn = fake.accept();
        conn.take(|frame| {
            let head: Subscribe<'_> = frame.head().expect("subscribe");
            assert_eq!(head.since, Since::Offset { epoch: 9, offset: 2 });
        });
        conn.done(stream, false);
        let large = record(&[3; 50_000]);
        conn.deliver(stream, 0, &[item(&large, 4)]);
        conn.take(|frame| assert_eq!(frame.header.kind, FrameType::Unsubscribe));
        conn.drain();
    });
    block_on(async {
        let client = Client::connect(address, quick()).await.expect("connect");
        let options = SubscribeOptions { since: Since::Last(2), ..SubscribeOptions::default() };
        let mut subscription = client.subscribe("a/b", options).await.expect("subscribe");
        let mut heard = Vec::new();
        for _ in 0..5 {
            heard.push(match subscription.next().await.expect("heard") {
                Heard::Message(m) => format!("{} {:?} {}", m.payload()[0], m.offset, m.payload().len()),
                Heard::Dropped(n) => format!("dropped {n}"),
                Heard::Reconnected { complete } => format!("back {complete}"),
            });
        }
        assert_eq!(heard, ["49 Some(1) 1", "50 Some(2) 1", "dropped 5", "back false", "3 Some(4) 50000"]);
        drop(subscription);
        client.close().await;
    });
    broker.join().expect("broker");
}

#[test]
fn a_consumer_acknowledges_in_ranges_renews_credit_and_voids_acks_of_an_old_session() {
    let (address, broker) = fake(|fake| {
        let consume = |conn: &mut Conn| {
            conn.take(|frame| {
                let head: Consume<'_> = frame.head().expect("consume");
                assert_eq!((head.queue, head.name, head.filters, head.credit_messages), ("q", "me", 1, 4));
                frame.header.stream
            })
        };
        let mut conn = fake.accept();
        let stream = consume(&mut conn);
        conn.done(stream, true);
        let one = record(b"1");
        conn.deliver(stream, 1, &[item(&one, 1), item(&one, 2)]);
        let (mut acked, mut credit) = (0, 0);
        while acked < 2 || credit < 2 {
            conn.take(|frame| match frame.header.kind {
                FrameType::Ack => acked += frame.head::<Ack>().expect("ack").count,
                _ => credit += frame.head::<Credit>().expect("credit").messages,
            });
        }
        conn.deliver(stream, 3, &[item(&one, 3)]);
        drop(conn);
        let mut conn = fake.accept();
        let stream = consume(&mut conn);
        conn.done(stream, true);
        let again = DeliverItem { flags: item_flag::REDELIVERED, attempt: 2, ..item(&one, 3) };
        conn.deliver(stream, 1, &[again]);
        conn.take(|frame| assert_eq!(frame.header.kind, FrameType::Nack));
        conn.take(|frame| assert_eq!(frame.header.kind, FrameType::Unsubscribe));
        conn.drain();
    });
    block_on(async {
        let client = Client::connect(address, quick()).await.expect("connect");
        let options = ConsumeOptions { filters: vec!["a/#".into()], credit_messages: 4, ..ConsumeOptions::default() };
        let mut consumer = client.consume("q", "me", options).await.expect("consume");
        let mut taken = Vec::new();
        while taken.len() < 2 {
            taken.extend(consumer.next_batch().await.expect("batch"));
        }
        consumer.ack_all(&taken);
        // The third may be lost with the connection or be seen twice; the ack of an old one has no effect.
        let third = loop {
            let delivery = consumer.next().await.expect("delivery");
            if delivery.message.redelivered {
                break delivery;
            }
            while client.stats().sessions < 2 {
                smol::future::yield_now().await;
            }
            consumer.ack(&delivery);
        };
        assert_eq!((third.tag, third.message.seq, third.message.attempt), (1, 3, 2));
        consumer.ack(&taken[0]);
        consumer.nack(&third, 5, false, "not now");
        drop(consumer);
        client.close().await;
    });
    broker.join().expect("broker");
}

#[test]
fn requests_are_answered_in_parts_refused_and_cancelled() {
    let (address, broker) = fake(|fake| {
        let mut conn = fake.accept();
        let stream = conn.take(|frame| {
            let head: Request<'_> = frame.head().expect("request");
            assert_eq!((head.channel, frame.payload), ("ask", &b"?"[..]));
            frame.header.stream
        });
        let part =
            |last, body: &[u8]| crate::wire::Response { status: 7, last, total: body.len() as u32, trailers: &[] };
        let large = vec![1; 40_000];
        conn.send(stream, &part(false, &large), &large);
        conn.send(stream, &part(true, b"!"), b"!");
        let stream = conn.take(|frame| frame.header.stream);
        conn.send(stream, &ErrorHead { code: Code::NoResponder as u16, retry_after_ms: 0, detail: "" }, &[]);
        conn.take(|frame| assert_eq!(frame.header.kind, FrameType::Request));
        conn.take(|frame| assert_eq!(frame.header.kind, FrameType::Cancel));
        conn.drain();
    });
    block_on(async {
        let client = Client::connect(address, quick()).await.expect("connect");
        let response = client.request("ask", b"?", 10_000).await.expect("answer");
        assert_eq!((response.status, response.body.len()), (7, 40_001));
        let refused = client.request("ask", b"?", 10_000).await;
        assert!(matches!(refused, Err(ClientError::Refused(r)) if r.code == Some(Code::NoResponder)));
        let mut given_up = Box::pin(client.request("ask", b"?", 10_000));
        assert!(smol::future::poll_once(&mut given_up).await.is_none());
        drop(given_up);
        client.close().await;
    });
    broker.join().expect("broker");
}

#[test]
fn a_responder_answers_on_the_stream_the_broker_chose_and_an_unanswered_request_is_cancelled() {
    let (address, broker) = fake(|fake| {
        let mut conn = fake.accept();
        let stream = conn.take(|frame| {
            assert!(frame.head::<Subscribe<'_>>().expect("subscribe").respond);
            frame.header.stream
        });
        conn.done(stream, true);
        let asked = 1 << 31 | 5;
        let body = vec![4; 20_000];
        let head = Request { channel: "svc/x", deadline_ms: 500, total: 20_000, properties: &[] };
        conn.send(asked, &head, &body);
        conn.take(|frame| {
            let head: crate::wire::Response<'_> = frame.head().expect("response");
            assert_eq!((frame.header.stream, head.status, head.last, frame.payload), (asked, 0, true, &b"ok"[..]));
        });
        conn.send(asked + 1, &Request { total: 0, ..head }, &[]);
        conn.take(|frame| assert_eq!((frame.header.kind, frame.header.stream), (FrameType::Cancel, asked + 1)));
        conn.drain();
    });
    block_on(async {
        let client = Client::connect(address, quick()).await.expect("connect");
        let mut responder = client.respond("svc/+").await.expect("respond");
        let mut asked = responder.next().await.expect("asked");
        assert_eq!((asked.channel.as_str(), asked.deadline_ms, asked.body.len()), ("svc/x", 500, 20_000));
        asked.respond(0, b"ok", true).await.expect("sent");
        drop(responder.next().await.expect("asked"));
        client.close().await;
    });
    broker.join().expect("broker");
}

#[test]
fn a_silent_broker_is_left_after_three_heartbeats() {
    let (address, broker) = fake(|fake| {
        let mut silent = fake.accept_with_heartbeat(20);
        // Pings come, nothing is answered, the client hangs up and comes again.
        silent.drain();
        let mut conn = fake.accept();
        conn.send(0, &Ping { nonce: 4 }, &[]);
        conn.take(|frame| assert_eq!(frame.header.kind, FrameType::Pong));
        conn.drain();
    });
    block_on(async {
        let client = Client::connect(address, quick()).await.expect("connect");
        client.wait_for(|state| (state.session == 2).then_some(())).await.expect("a second session");
        client.close().await;
    });
    broker.join().expect("broker");
}

#[test]
fn refusals_of_the_session_and_bad_bytes_are_told() {
    let (address, broker) = fake(|fake| {
        let mut conn = fake.accept();
        let stream = conn.take(|frame| frame.header.stream);
        conn.send(stream, &ErrorHead { code: Code::UnknownQueue as u16, retry_after_ms: 0, detail: "no q" }, &[]);
        conn.send(0, &ErrorHead { code: Code::Forbidden as u16, retry_after_ms: 0, detail: "go" }, &[]);
        conn.drain();
        let mut conn = fake.accept();
        conn.stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").expect("write");
        conn.drain();
        let mut conn = fake.accept();
        conn.send(0, &Close { code: Code::ShuttingDown as u16, detail: "bye" }, &[]);
        conn.drain();
    });
    block_on(async {
        let client = Client::connect(address.clone(), quick()).await.expect("connect");
        let refused = client.consume("q", "me", ConsumeOptions::default()).await.map(drop);
        assert!(matches!(refused, Err(ClientError::Refused(r)) if r.code == Some(Code::UnknownQueue)));
        // Forbidden is final: no reconnect.
        let never = client.wait_for(|state| (state.session == 2).then_some(())).await;
        assert!(matches!(never, Err(ClientError::Refused(r)) if r.code == Some(Code::Forbidden)));
        let options = Options { reconnect: false, ..quick() };
        for part in ["not the magic", "shutting-down"] {
            // The end may come together with the welcome, before the connect is seen to have succeeded.
            let (client, task) = Client::prepare(address.clone(), options.clone(), None);
            let run = smol::spawn(task);
            let error = client.wait_for(|_| None::<()>).await.expect_err("ended").to_string();
            run.await;
            assert!(error.contains(part), "{error}");
        }
    });
    broker.join().expect("broker");
    let free = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let error = block_on(Client::connect(Address::Tcp("127.0.0.1".into(), free.port()), quick())).expect_err("closed");
    assert!(matches!(error, ClientError::Connect(..)), "{error}");
}

#[test]
fn a_message_may_ask_for_a_contract_and_for_no_id() {
    let (address, broker) = fake(|fake| {
        let mut conn = fake.accept();
        let contract = conn.take(|frame| {
            assert!(Record::decode(frame.payload).expect("record").id.is_none());
            frame.head::<Publish>().expect("publish").contract
        });
        assert_eq!(contract, Contract::Disk);
        conn.nack(1, 1, Code::NoQueue);
        conn.drain();
    });
    block_on(async {
        let client = Client::connect(address, quick()).await.expect("connect");
        let mut message = Message::new("a", b"x").expect("valid");
        message.contract = Contract::Disk;
        message.id = Id::None;
        let refused = client.publish(&message).await;
        assert!(matches!(refused, Err(ClientError::Refused(r)) if r.code == Some(Code::NoQueue)));
    });
    broker.join().expect("broker");
}

fn compressed(payload: &[u8]) -> Vec<u8> {
    let payload = crate::seal::compress(payload).expect("it repeats");
    let channel = crate::model::Channel::parse("a").expect("valid");
    let mut bytes = Vec::new();
    Record { compressed: true, ..Record::new(channel, &payload) }.encode_to(&mut bytes);
    bytes
}

#[test]
fn a_bomb_of_a_malicious_broker_is_an_error_and_what_follows_is_heard() {
    let (address, broker) = fake(|fake| {
        let mut conn = fake.accept();
        let stream = conn.take(|frame| frame.header.stream);
        conn.done(stream, true);
        let bomb = compressed(&vec![0; 4 << 20]);
        assert!(bomb.len() < 20_000);
        for record in [bomb, compressed(&[7; 5_000])] {
            let item = DeliverItem { flags: 0, lane: 0, seq: 0, offset: 0, attempt: 1, stored_ms: 1, record: &record };
            conn.deliver(stream, 0, &[item]);
        }
        conn.drain();
    });
    block_on(async {
        let options = Options { message_bytes_max: 1 << 20, reconnect: false, ..Options::default() };
        let client = Client::connect(address, options).await.expect("connected");
        let mut heard = client.subscribe("#", SubscribeOptions::default()).await.expect("subscribed");
        let refused = heard.next().await.expect_err("a bomb");
        assert!(matches!(refused, ClientError::Compression(_)), "{refused}");
        let Ok(Heard::Message(message)) = heard.next().await else { panic!("the next one") };
        assert_eq!((message.payload(), message.record().compressed), (&[7; 5_000][..], false));
        drop(heard);
        client.close().await;
    });
    broker.join().expect("the broker is done");
}
