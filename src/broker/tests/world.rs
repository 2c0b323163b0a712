//! A broker with a clock that jumps, stores in memory, and clients that are byte buffers: everything runs in one thread
//! and in one order.

use crate::broker::{Broker, Effect, Event, Peer, Transmit};
use crate::config::{QueueSettings, Settings};
use crate::model::{Channel, ConnId, MessageId, Mono, Now, Position, Record, Volume, Wall};
use crate::session::{Attempt, Method, NONCE_BYTES, Principal};
use crate::store::{Batch, MemoryStore, Op, Reader, Store, StoreError, Table, perform, schema};
use crate::wire::{
    self, Ack, Batch as BatchHead, Code, Consume, Contract, Credit, Decoded, DeliverItems, ENCODING_LZ4,
    EXTENSION_ENCODINGS, Extended, Extension, FrameType, Head, Hello, Outcome, Publish, Start,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a client says first.
pub(super) const HELLO: Hello<'_> = Hello {
    version_min: 1,
    version_max: 1,
    client: "test",
    heartbeat_ms: 3_600_000,
    frame_bytes_max: 1 << 16,
    message_bytes_max: 1 << 20,
};

pub(super) struct World {
    pub(super) broker: Broker,
    pub(super) now: Now,
    disk: Box<dyn Store>,
    memory: MemoryStore,
    /// Commits of the disk wait here while `hold_commits` is set.
    pub(super) held: VecDeque<Vec<Batch>>,
    pub(super) hold_commits: bool,
    pub(super) commits: u64,
    clients: BTreeMap<ConnId, Client>,
    next: u64,
    pub(super) stopped: bool,
    /// The power went in the middle of a commit: nothing happens any more.
    pub(super) dead: bool,
    pub(super) reserve: Vec<bool>,
    /// What was asked of bridges: to pause, or to go on.
    pub(super) paused: Vec<(String, bool)>,
    /// Credentials that wait for an answer of the test.
    pub(super) asked: VecDeque<(ConnId, Attempt)>,
}

#[derive(Default)]
struct Client {
    sequence: u32,
    received: Vec<u8>,
    at: usize,
    next_sequence: u32,
    closed: bool,
    reads: bool,
}

/// A frame as a client saw it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) kind: FrameType,
    pub(super) stream: u32,
    pub(super) head: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) flags: u16,
}

/// A message as a client saw it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) stream: u32,
    pub(super) tag: u64,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) lane: u8,
    pub(super) flags: u8,
    pub(super) offset: u64,
    pub(super) attempt: u32,
    pub(super) text: String,
    pub(super) channel: String,
}

impl World {
    pub(super) fn new(queues: Vec<QueueSettings>) -> Self {
        Self::with(Settings { queues, ..Settings::default() })
    }

    pub(super) fn with(settings: Settings) -> Self {
        Self::on(settings, Box::new(MemoryStore::new()))
    }

    /// A broker that starts on a store as it is.
    pub(super) fn on(settings: Settings, disk: Box<dyn Store>) -> Self {
        Self::at(settings, disk, Wall(1_700_000_000_000))
    }

    /// A broker on a box whose clock is not set yet.
    pub(super) fn in_1970(settings: Settings) -> Self {
        Self::at(settings, Box::new(MemoryStore::new()), Wall(5_000))
    }

    fn at(settings: Settings, disk: Box<dyn Store>, wall: Wall) -> Self {
        let settings = behind_a_door(settings);
        let now = Now { mono: Mono(1_000_000), wall };
        let broker = Broker::new(now, Arc::new(settings), &*disk.reader(), 7).expect("the store loads");
        let mut world = Self {
            broker,
            now,
            disk,
            memory: MemoryStore::new(),
            held: VecDeque::new(),
            hold_commits: false,
            commits: 0,
            clients: BTreeMap::new(),
            next: 0,
            stopped: false,
            dead: false,
            reserve: Vec::new(),
            paused: Vec::new(),
            asked: VecDeque::new(),
        };
        world.settle();
        world
    }

    /// Pulls the plug: what was committed stays, all else is gone; the broker starts anew on it.
    pub(super) fn restart(&mut self) {
        let settings = self.broker.settings().clone();
        self.restart_with(settings);
    }

    /// As [`World::restart`], with other settings.
    pub(super) fn restart_with(&mut self, settings: Settings) {
        let settings = behind_a_door(settings);
        self.clients.clear();
        self.held.clear();
        self.hold_commits = false;
        self.memory = MemoryStore::new();
        self.broker =
            Broker::new(self.now, Arc::new(settings), &*self.disk.reader(), 8).expect("what was written loads");
        self.settle();
    }

    pub(super) fn reload(&mut self, settings: Settings) {
        let settings = behind_a_door(settings);
        self.broker.handle(self.now, Event::Reload { settings: Arc::new(settings) });
        self.settle();
    }

    pub(super) fn event(&mut self, event: Event<'_>) {
        self.broker.handle(self.now, event);
        self.settle();
    }

    pub(super) fn fail_store(&mut self, error: StoreError) {
        self.held.clear();
        self.event(Event::StoreFailed { error });
    }

    pub(super) fn reopen_store(&mut self) {
        let reader = self.disk.reader();
        self.event(Event::StoreReopened { reader: &*reader });
    }

    /// Performs a read of the disk, without telling the broker.
    pub(super) fn perform(&self, request: &crate::store::ReadRequest) -> Result<crate::store::ReadResult, StoreError> {
        perform(&*self.disk.reader(), request)
    }

    /// Lets time pass, firing every timer on its way.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now.mono.plus_ms(ms);
        while let Some(at) = self.broker.poll_timeout().filter(|at| *at <= end) {
            self.go_to(at.max(self.now.mono));
            self.broker.handle(self.now, Event::Timeout);
            self.settle();
        }
        self.go_to(end);
        self.settle();
    }

    /// Time passes that nobody looks at.
    pub(super) fn skip(&mut self, ms: u64) {
        self.go_to(self.now.mono.plus_ms(ms));
    }

    fn go_to(&mut self, mono: Mono) {
        let ms = mono.ms_since(self.now.mono);
        self.now = Now { mono, wall: self.now.wall.plus_ms(ms) };
    }

    /// Carries out effects until there are none.
    pub(super) fn settle(&mut self) {
        while let Some(effect) = self.broker.poll_effect().filter(|_| !self.dead) {
            match effect {
                Effect::Commit { volume: Volume::Disk, batches } if self.hold_commits => self.held.push_back(batches),
                Effect::Commit { volume, batches } => self.commit(volume, &batches),
                Effect::Read { volume, token, request } => {
                    let reader = match volume {
                        Volume::Disk => self.disk.reader(),
                        Volume::Memory => self.memory.reader(),
                    };
                    let result = perform(&*reader, &request);
                    self.broker.handle(self.now, Event::Read { token, result });
                }
                Effect::Wake { conn } => self.transmit(conn),
                Effect::Authenticate { conn, attempt } => self.asked.push_back((conn, attempt)),
                Effect::Bridge { name, pause } => self.paused.push((name, pause)),
                Effect::Reserve { present } => self.reserve.push(present),
                Effect::Stopped => self.stopped = true,
            }
        }
    }

    fn commit(&mut self, volume: Volume, batches: &[Batch]) {
        let store: &mut dyn Store = match volume {
            Volume::Disk => &mut *self.disk,
            Volume::Memory => &mut self.memory,
        };
        self.commits += u64::from(volume == Volume::Disk);
        let Ok(done) = store.commit(batches) else {
            self.dead = true;
            return;
        };
        self.broker.handle(self.now, Event::Committed { volume, done });
    }

    /// Lets the oldest held commit become durable.
    pub(super) fn release_commit(&mut self) {
        let batches = self.held.pop_front().expect("a commit is held");
        self.commit(Volume::Disk, &batches);
        self.settle();
    }

    fn transmit(&mut self, conn: ConnId) {
        let Some(client) = self.clients.get_mut(&conn) else { return };
        while client.reads && !client.closed {
            let before = client.received.len();
            match self.broker.poll_transmit(self.now, conn, &mut client.received, 64 * 1_024) {
                Transmit::More if client.received.len() > before => {}
                Transmit::More => panic!("more was promised and nothing given"),
                Transmit::Idle => break,
                Transmit::Close => {
                    client.closed = true;
                    self.broker.handle(self.now, Event::Closed { conn });
                }
            }
        }
    }

    /// A connection that has not said hello.
    pub(super) fn connect_raw(&mut self, admin: bool) -> ConnId {
        self.connect_from(Peer::Unix { uid: 0, pid: 0, admin })
    }

    /// A connection of this peer that has not said hello. Its challenge is its number, over and over.
    pub(super) fn connect_from(&mut self, peer: Peer) -> ConnId {
        self.next += 1;
        let conn = ConnId(self.next);
        self.clients.insert(conn, Client { reads: true, ..Client::default() });
        self.event(Event::Opened { conn, peer, nonce: [self.next as u8; NONCE_BYTES] });
        conn
    }

    pub(super) fn connect(&mut self) -> ConnId {
        self.connect_as(true, 1 << 20)
    }

    pub(super) fn connect_as(&mut self, admin: bool, message_bytes_max: u32) -> ConnId {
        let conn = self.connect_raw(admin);
        self.send(conn, 0, &Hello { message_bytes_max, ..HELLO }, &[]);
        assert_eq!(self.expect(conn).kind, FrameType::Welcome);
        conn
    }

    /// A client that takes compressed payloads.
    pub(super) fn connect_lz4(&mut self, message_bytes_max: u32) -> ConnId {
        let conn = self.connect_raw(true);
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            client: "new",
            heartbeat_ms: 3_600_000,
            frame_bytes_max: 1 << 16,
            message_bytes_max,
        };
        let extensions = &[Extension { tag: EXTENSION_ENCODINGS, value: &[9, ENCODING_LZ4] }];
        let mut out = vec![0; 256];
        let len = wire::encode_extended(&mut out, 0, 0, 0, &Extended { head: hello, extensions }, &[]).expect("fits");
        self.clients.get_mut(&conn).expect("connected").sequence = 1;
        self.send_bytes(conn, &out[..len]);
        assert_eq!(self.expect(conn).kind, FrameType::Welcome);
        conn
    }

    /// A session of somebody of this tenant who is no administrator.
    pub(super) fn connect_to(&mut self, tenant: &str) -> ConnId {
        let conn = self.greet(tenant);
        assert_eq!(self.expect(conn).kind, FrameType::Welcome, "of {tenant:?}");
        conn
    }

    /// Why nobody of this tenant may come in.
    pub(super) fn refused(&mut self, tenant: &str) -> Code {
        let conn = self.greet(tenant);
        let code = self.expect_error(conn);
        assert!(self.is_closed(conn));
        code
    }

    fn greet(&mut self, tenant: &str) -> ConnId {
        let conn = self.connect_raw(false);
        self.send(conn, 0, &HELLO, &[]);
        if let Some((conn, _)) = self.asked.pop_front() {
            let roles = vec!["open".into()];
            let principal = Principal {
                name: "somebody".into(),
                tenant: tenant.into(),
                roles,
                method: Method::Transport,
                ..Principal::default()
            };
            self.event(Event::Authenticated { conn, outcome: Ok(principal) });
        }
        conn
    }

    /// Makes a session that of an administrator.
    pub(super) fn administers(&mut self, conn: ConnId) {
        self.broker.conns.get_mut(&conn).expect("connected").session.principal.admin = true;
        self.broker.grant(conn);
    }

    /// What the disk holds.
    pub(super) fn disk(&self) -> Box<dyn Reader> {
        self.disk.reader()
    }

    /// Commits this behind the broker's back; the broker is to be started anew after it.
    pub(super) fn commit_beside(&mut self, op: Op) {
        let row = self.disk.reader().get(Table::Meta, schema::META_APPLIED).expect("reads").expect("was written");
        let position = Position(u64::from_be_bytes(row[..].try_into().expect("eight bytes")) + 1);
        self.disk.commit(&[Batch { position, ops: vec![op] }]).expect("commits");
    }

    pub(super) fn disconnect(&mut self, conn: ConnId) {
        self.clients.remove(&conn);
        self.event(Event::Closed { conn });
    }

    /// Stops or resumes taking bytes from the broker.
    pub(super) fn reads(&mut self, conn: ConnId, reads: bool) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.reads = reads;
        }
        self.transmit(conn);
        self.settle();
    }

    pub(super) fn is_closed(&self, conn: ConnId) -> bool {
        self.clients.get(&conn).is_none_or(|c| c.closed)
    }

    pub(super) fn send_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.event(Event::Received { conn, bytes });
    }

    /// The bytes that arrived since the last call, of a client that reads them by itself.
    pub(super) fn take_bytes(&mut self, conn: ConnId) -> Vec<u8> {
        let Some(client) = self.clients.get_mut(&conn) else { return Vec::new() };
        client.at = 0;
        std::mem::take(&mut client.received)
    }

    /// Encodes a frame as this client's next one.
    pub(super) fn frame<'a, H: Head<'a>>(&mut self, conn: ConnId, stream: u32, head: &H, payload: &[u8]) -> Vec<u8> {
        let client = self.clients.get_mut(&conn).expect("connected");
        let mut out = vec![0; payload.len() + 8_192];
        let n = wire::encode(&mut out, 0, stream, client.sequence, head, payload).expect("fits");
        client.sequence += 1;
        out.truncate(n);
        out
    }

    /// The number of this client's next frame, which the caller encodes.
    pub(super) fn skip_sequence(&mut self, conn: ConnId) -> u32 {
        let client = self.clients.get_mut(&conn).expect("connected");
        client.sequence += 1;
        client.sequence - 1
    }

    pub(super) fn send<'a, H: Head<'a>>(&mut self, conn: ConnId, stream: u32, head: &H, payload: &[u8]) {
        let bytes = self.frame(conn, stream, head, payload);
        self.send_bytes(conn, &bytes);
    }

    /// All frames that arrived since the last call.
    pub(super) fn frames(&mut self, conn: ConnId) -> Vec<Seen> {
        let client = self.clients.get_mut(&conn).expect("connected");
        let mut seen = Vec::new();
        while let Ok(Decoded::Frame(frame, n)) = wire::decode(&client.received[client.at..], 1 << 20) {
            assert_eq!(frame.header.sequence, client.next_sequence, "sequences have no gap");
            client.next_sequence += 1;
            client.at += n;
            seen.push(Seen {
                kind: frame.header.kind,
                stream: frame.header.stream,
                head: frame.head.to_vec(),
                payload: frame.payload.to_vec(),
                flags: frame.header.flags,
            });
        }
        assert_eq!(client.at, client.received.len(), "only whole frames are sent");
        seen
    }

    /// The one frame that arrived.
    pub(super) fn expect(&mut self, conn: ConnId) -> Seen {
        let mut frames = self.frames(conn);
        assert_eq!(frames.len(), 1, "{frames:?}");
        frames.remove(0)
    }

    /// The code of the one error that arrived.
    pub(super) fn expect_error(&mut self, conn: ConnId) -> Code {
        let seen = self.expect(conn);
        assert_eq!(seen.kind, FrameType::Error, "{seen:?}");
        Code::from_u16(seen.get::<wire::ErrorHead<'_>>().code).expect("a known code")
    }

    pub(super) fn publish(&mut self, conn: ConnId, number: u64, channel: &str, text: &str) {
        self.publish_with(conn, number, Contract::Queue, |_| {}, channel, text);
    }

    pub(super) fn publish_with(
        &mut self,
        conn: ConnId,
        number: u64,
        contract: Contract,
        change: impl FnOnce(&mut Record<'_>),
        channel: &str,
        text: &str,
    ) {
        let bytes = record(channel, text, change);
        self.send(conn, 1, &Publish { contract, number, total: bytes.len() as u32 }, &bytes);
    }

    pub(super) fn publish_batch(&mut self, conn: ConnId, first: u64, channel: &str, texts: &[String]) {
        let mut payload = Vec::new();
        for text in texts {
            wire::append_record(&mut payload, &record(channel, text, |_| {}));
        }
        let head = BatchHead { contract: Contract::Queue, first, count: texts.len() as u32 };
        self.send(conn, 1, &head, &payload);
    }

    /// The outcomes told since the last call, one by one: number and outcome or code.
    pub(super) fn verdicts(&mut self, conn: ConnId) -> Vec<(u64, Result<Outcome, Code>)> {
        let mut all = Vec::new();
        for seen in self.frames(conn) {
            match seen.kind {
                FrameType::PublishAck => {
                    let h = seen.get::<wire::PublishAck>();
                    all.extend((0..u64::from(h.count)).map(|i| (h.first + i, Ok(h.outcome))));
                }
                FrameType::PublishNack => {
                    let h = seen.get::<wire::PublishNack<'_>>();
                    let code = Code::from_u16(h.code).expect("a known code");
                    all.extend((0..u64::from(h.count)).map(|i| (h.first + i, Err(code))));
                }
                _ => panic!("not a verdict: {seen:?}"),
            }
        }
        all
    }

    pub(super) fn consume(&mut self, conn: ConnId, stream: u32, queue: &str, name: &str) {
        self.consume_with(conn, stream, queue, name, &[], |_| {});
        assert_eq!(self.frames(conn).first().map(|f| f.kind), Some(FrameType::Ok));
    }

    pub(super) fn consume_with(
        &mut self,
        conn: ConnId,
        stream: u32,
        queue: &str,
        name: &str,
        filters: &[&str],
        change: impl FnOnce(&mut Consume<'_>),
    ) {
        let mut payload = Vec::new();
        filters.iter().for_each(|f| wire::append_filter(&mut payload, f));
        let mut head = Consume {
            queue,
            name,
            start: Start::First,
            window: 0,
            attempts_max: 0,
            ack_timeout_ms: 0,
            backoff_ms: 0,
            filters: filters.len() as u32,
            credit_messages: 0,
            credit_bytes: 0,
        };
        change(&mut head);
        self.send(conn, stream, &head, &payload);
    }

    pub(super) fn credit(&mut self, conn: ConnId, stream: u32, messages: u32) {
        self.send(conn, stream, &Credit { messages, bytes: 1 << 20 }, &[]);
    }

    pub(super) fn ack(&mut self, conn: ConnId, stream: u32, first: u64, count: u32) {
        self.send(conn, stream, &Ack { first, count }, &[]);
    }

    /// The messages delivered since the last call.
    pub(super) fn messages(&mut self, conn: ConnId) -> Vec<Message> {
        let frames = self.frames(conn);
        let mut all = Vec::new();
        let mut chunks: Vec<u8> = Vec::new();
        let mut head = None;
        for seen in frames {
            assert_eq!(seen.kind, FrameType::Deliver, "{seen:?}");
            if seen.flags & wire::FLAG_CONT == 0 {
                head = Some(seen.get::<wire::Deliver>());
                chunks.clear();
            }
            chunks.extend_from_slice(&seen.payload);
            if seen.flags & wire::FLAG_MORE != 0 {
                continue;
            }
            let head = head.expect("a first chunk");
            let items = DeliverItems::parse(&chunks, head.count, head.total).expect("well-formed");
            for (tag, item) in (head.first_tag..).zip(items) {
                let record = Record::decode(item.record).expect("a record");
                all.push(Message {
                    stream: seen.stream,
                    tag,
                    epoch: head.epoch,
                    seq: item.seq,
                    lane: item.lane,
                    flags: item.flags,
                    offset: item.offset,
                    attempt: item.attempt,
                    text: String::from_utf8_lossy(record.payload).into_owned(),
                    channel: record.channel.as_str().to_owned(),
                });
            }
        }
        all
    }

    /// The texts of the messages before the one ok that ends them.
    pub(super) fn texts_until_ok(&mut self, conn: ConnId) -> Vec<String> {
        let mut frames = self.frames(conn);
        assert_eq!(frames.pop().map(|f| f.kind), Some(FrameType::Ok));
        assert!(frames.iter().all(|f| f.kind == FrameType::Deliver), "{frames:?}");
        let texts = |f: &Seen| {
            let head = f.get::<wire::Deliver>();
            let items = DeliverItems::parse(&f.payload, head.count, head.total).expect("well-formed");
            items
                .map(|i| String::from_utf8_lossy(Record::decode(i.record).expect("a record").payload).into_owned())
                .collect::<Vec<_>>()
        };
        frames.iter().flat_map(texts).collect()
    }

    pub(super) fn texts(&mut self, conn: ConnId) -> Vec<String> {
        self.messages(conn).into_iter().map(|m| m.text).collect()
    }
}

impl Seen {
    pub(super) fn get<'a, H: Head<'a>>(&'a self) -> H {
        assert_eq!(self.kind, H::KIND, "{self:?}");
        postcard::take_from_bytes::<H>(&self.head).expect("a well-formed head").0
    }
}

/// Where there are tenants somebody says who is of which.
fn behind_a_door(mut settings: Settings) -> Settings {
    if !settings.tenants.is_empty() {
        settings.auth.identities.get_or_insert_with(|| "identities".into());
    }
    settings
}

pub(super) fn record(channel: &str, text: &str, change: impl FnOnce(&mut Record<'_>)) -> Vec<u8> {
    let mut record = Record::new(Channel::parse(channel).expect("a valid channel"), text.as_bytes());
    change(&mut record);
    let mut bytes = Vec::new();
    record.encode_to(&mut bytes);
    bytes
}

pub(super) fn id(n: u8) -> MessageId {
    MessageId([n; 16])
}

pub(super) fn queue(name: &str, capture: &str) -> QueueSettings {
    QueueSettings { capture: vec![capture.into()], ..QueueSettings::new(name) }
}
