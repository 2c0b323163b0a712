//! `bridge test`: the way to an upstream, step by step, with what fails and what to do; nothing is left behind there.
//!
//! Whether the bridge may do what its routes say is asked by requests that are refused for another reason once they passed the
//! permissions: a record whose payload is no LZ4 although it says so, a consumer without a name. What is allowed is heard by
//! that other refusal, and nothing is stored, delivered or opened.

use super::dial::{Dialed, Dialer, Progress, STEP_MS, hung_up};
use crate::bridge::mapping::Names;
use crate::bridge::{Failure, Reason};
use crate::client::{CONTROL_BYTES_MAX, Event, Link};
use crate::config::{BridgeSettings, DownRoute, MappingText, Settings};
use crate::model::limits::{FRAME_PAYLOAD_BYTES_FLOOR, MESSAGE_BYTES_DEFAULT};
use crate::model::{Channel, Mono, Record};
use crate::runtime::clock;
use crate::runtime::errands::Errands;
use crate::runtime::reactor::{Timer, block_on};
use crate::wire::{
    Auth, Close, Code, Consume, Contract, Decoded, EXTENSION_AUTH_METHODS, Extended, Extension, Frame, FrameType, Head,
    Ping, Publish, Since, Start, Subscribe, append, append_filter, auth_method, decode,
};
use smol::future::FutureExt as _;
use smol::io::{AsyncReadExt as _, AsyncWriteExt as _};
use std::future::Future;
use std::io;
use std::path::PathBuf;

/// What stands for a wildcard of a route in the channel that is asked about.
const PLACEHOLDER: &str = "bridge-test";
/// A payload that is not compressed and says it is: an expanded length, and a block that ends too early.
const NO_LZ4: &[u8] = &[1, 0xff, 0xff];
/// Bytes read at once.
const READ_BYTES: usize = 16 * 1_024;

/// A step, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// What was found; where it failed, why.
    pub text: String,
    /// Where it failed: what kind of failure it is, and what to do.
    pub failed: Option<(&'static str, String)>,
}

/// Walks the way to one address of a bridge's upstream; `tell` hears each step. Whether all went well.
///
/// # Errors
/// The kernel gives no epoll.
pub fn probe(
    settings: &Settings,
    folder: PathBuf,
    bridge: &BridgeSettings,
    url: &str,
    tell: &mut dyn FnMut(Step),
) -> io::Result<bool> {
    let dialer = Dialer::new(folder, &Errands::default());
    let mut probe = Probe { settings, bridge, since: clock::mono(), tell, failed: false };
    block_on(async {
        match probe.walk(&dialer, url).await {
            Ok(()) => !probe.failed,
            Err((name, failure)) => {
                probe.fail(name, &failure);
                false
            }
        }
    })
}

struct Probe<'a> {
    settings: &'a Settings,
    bridge: &'a BridgeSettings,
    since: Mono,
    tell: &'a mut dyn FnMut(Step),
    failed: bool,
}

/// The step that failed.
type Failed = (&'static str, Failure);

impl Probe<'_> {
    fn took(&mut self) -> u64 {
        let now = clock::mono();
        let took = now.0 - self.since.0;
        self.since = now;
        took
    }

    fn ok(&mut self, name: &'static str, text: impl Into<String>) {
        let took_us = self.took();
        (self.tell)(Step { name, took_us, text: text.into(), failed: None });
    }

    fn fail(&mut self, name: &'static str, failure: &Failure) {
        self.failed = true;
        let took_us = self.took();
        let failed = Some((failure.reason.name(), self.advice(name, failure.reason)));
        (self.tell)(Step { name, took_us, text: failure.detail.clone(), failed });
    }

    /// What to do about it.
    fn advice(&self, step: &str, reason: Reason) -> String {
        match (step, reason) {
            ("permission", Reason::Protocol) => "check the bridge's routes here, and the queues of the upstream".into(),
            ("permission", _) => "give the bridge's user at the upstream a role that allows it".into(),
            (_, Reason::Dns) => {
                "check the name in `urls`, and that this box reaches a name server (/etc/resolv.conf)".into()
            }
            (_, Reason::Refused) => {
                "check the port in `urls`, and that the upstream is running and listens there".into()
            }
            ("port", Reason::Timeout | Reason::Unreachable) => {
                "check the route to it and the firewalls in between, and whether the upstream is up".into()
            }
            ("tls", Reason::Tls) => "check `tls.ca`, `tls.server_name`, and this box's clock".into(),
            (_, Reason::Tls) => "check `tls.certificate` and `tls.key`, and what the upstream trusts".into(),
            (_, Reason::Http) => "check the path in `urls`, and what a proxy in between does with /ws".into(),
            (_, Reason::Auth) => "check `login` here, and the identities file of the upstream".into(),
            (_, Reason::Timeout) => {
                "something answers at that port, but not as a broker does: check the scheme in `urls`".into()
            }
            _ => "see the log of the upstream".into(),
        }
    }

    async fn walk(&mut self, dialer: &Dialer, url: &str) -> Result<(), Failed> {
        let dialed = self.dial(dialer, url).await?;
        self.since = clock::mono();
        let mut session = Session::new(dialed);
        let text = late(session.log_in(dialer, self.bridge)).await.map_err(|failure| ("login", failure))?;
        self.ok("login", text);
        self.permissions(&mut session).await?;
        late(session.ping()).await.map_err(|failure| ("round trip", failure))?;
        self.ok("round trip", "a ping came back");
        session.close().await;
        Ok(())
    }

    async fn dial(&mut self, dialer: &Dialer, url: &str) -> Result<Dialed, Failed> {
        let mut next = "name";
        let bridge = self.bridge;
        let mut done = |progress: Progress| {
            let (name, then) = match progress {
                Progress::Found(_) => ("name", "port"),
                Progress::Connected(_) => ("port", "tls"),
                Progress::Secured { .. } => ("tls", "websocket"),
                Progress::Upgraded => ("websocket", "login"),
            };
            next = then;
            self.ok(name, progress.to_string());
        };
        let dialed = dialer.dial(bridge, url, &mut done).await;
        dialed.map_err(|failure| {
            // What did not go well is the one behind what did; where a step is left out the reason tells.
            let name = match (next, failure.reason) {
                (_, Reason::Dns) => "name",
                (_, Reason::Refused | Reason::Unreachable) => "port",
                (_, Reason::Http) => "websocket",
                (_, Reason::Tls) => "tls",
                ("name", Reason::Timeout) => "port",
                ("tls", Reason::Timeout) if !url.starts_with("tls:") && !url.starts_with("wss:") => "websocket",
                (next, _) => next,
            };
            (name, failure)
        })
    }

    /// Asks for each route whether it may.
    async fn permissions(&mut self, session: &mut Session) -> Result<(), Failed> {
        let names = Names { name: &self.settings.name, bridge: &self.bridge.name };
        let up: Vec<MappingText> = self.bridge.up_routes().map(|route| route.mapping).collect();
        let down: Vec<DownRoute> = self.bridge.down_routes().collect();
        let failed = |failure| ("permission", failure);
        for route in up {
            let channel = example(&names.fill(&route.target));
            let asked = late(session.may_publish(&channel)).await.map_err(failed)?;
            self.permission(format!("publish to {channel}"), asked);
        }
        for route in down {
            let (what, asked) = match &route {
                DownRoute::Subscribe(mapping) => {
                    let filter = names.fill(&mapping.filter);
                    let asked = late(session.may_subscribe(&filter)).await.map_err(failed)?;
                    (format!("subscribe to {filter}"), asked)
                }
                DownRoute::Consume(queue, mapping) => {
                    let filter = names.fill(&mapping.filter);
                    let asked = late(session.may_consume(queue, &filter)).await.map_err(failed)?;
                    (format!("consume {queue}, {filter}"), asked)
                }
            };
            self.permission(what, asked);
        }
        Ok(())
    }

    fn permission(&mut self, what: String, asked: Result<(), Failure>) {
        match asked {
            Ok(()) => self.ok("permission", format!("may {what}")),
            Err(mut failure) => {
                failure.detail = format!("may not {what}: {}", failure.detail);
                self.fail("permission", &failure);
            }
        }
    }
}

/// A channel that a filter is about.
fn example(filter: &str) -> String {
    filter
        .split('/')
        .map(|level| if matches!(level, "+" | "#") { PLACEHOLDER } else { level })
        .collect::<Vec<_>>()
        .join("/")
}

/// The ways to log in that it has, the best first.
fn methods(bridge: &BridgeSettings) -> Vec<u8> {
    let ways = [
        (!bridge.login_key.is_empty(), auth_method::KEY),
        (!bridge.token.is_empty(), auth_method::TOKEN),
        (!bridge.user.is_empty(), auth_method::PASSWORD),
        (bridge.certificate.is_some(), auth_method::TRANSPORT),
    ];
    ways.into_iter().filter_map(|(has, method)| has.then_some(method)).collect()
}

fn protocol(detail: impl Into<String>) -> Failure {
    Failure { reason: Reason::Protocol, detail: detail.into() }
}

async fn late<T>(asked: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = async {
        Timer::after_ms(STEP_MS).await;
        let detail = format!("no answer within {} s", STEP_MS / 1_000);
        Err(Failure { reason: Reason::Timeout, detail })
    };
    asked.or(late).await
}

/// A session that asks one thing after another.
struct Session {
    dialed: Dialed,
    link: Link,
    received: Vec<u8>,
    stream: u32,
}

impl Session {
    fn new(dialed: Dialed) -> Self {
        Self { dialed, link: Link::new(now_ms()), received: Vec::new(), stream: 0 }
    }

    async fn send<H: serde::Serialize>(
        &mut self,
        kind: FrameType,
        stream: u32,
        head: &H,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let mut frame = Vec::new();
        append(&mut frame, kind, 0, stream, Some(head), &[payload]);
        self.link.seal(&mut frame);
        self.write(&frame).await
    }

    async fn write(&mut self, frame: &[u8]) -> Result<(), Failure> {
        let Dialed { stream, secure, .. } = &mut self.dialed;
        let written = async {
            stream.write_all(frame).await?;
            stream.flush().await
        };
        written.await.map_err(|error| hung_up(*secure, &error))
    }

    /// Hears frames until one means something to the caller.
    async fn hear<T>(&mut self, mut each: impl FnMut(&Event<'_>) -> Option<Result<T, Failure>>) -> Result<T, Failure> {
        loop {
            while let Some(len) = self.whole()? {
                let frame: Vec<u8> = self.received.drain(..len).collect();
                let heard = match decode(&frame, FRAME_PAYLOAD_BYTES_FLOOR) {
                    Ok(Decoded::Frame(frame, _)) => self.frame(&frame, &mut each)?,
                    _ => None,
                };
                let mut control = [0; CONTROL_BYTES_MAX];
                let len = self.link.poll_control(&mut control);
                if len > 0 {
                    self.write(&control[..len]).await?;
                }
                if let Some(heard) = heard {
                    return heard;
                }
            }
            let mut buffer = [0; READ_BYTES];
            let read = self.dialed.stream.read(&mut buffer).await;
            match read {
                Ok(n) if n > 0 => self.received.extend_from_slice(&buffer[..n]),
                ended => {
                    let error = ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                    return Err(hung_up(self.dialed.secure, &error));
                }
            }
        }
    }

    /// Length of the first frame, once it is whole.
    fn whole(&self) -> Result<Option<usize>, Failure> {
        match decode(&self.received, FRAME_PAYLOAD_BYTES_FLOOR) {
            Ok(Decoded::Frame(_, len)) => Ok(Some(len)),
            Ok(Decoded::Incomplete(_)) => Ok(None),
            Err(error) => Err(protocol(format!("what it says is no frame of a broker: {error}"))),
        }
    }

    fn frame<T>(
        &mut self,
        frame: &Frame<'_>,
        each: &mut impl FnMut(&Event<'_>) -> Option<Result<T, Failure>>,
    ) -> Result<Option<Result<T, Failure>>, Failure> {
        let event = self.link.handle_frame(frame).map_err(|error| protocol(error.to_string()))?;
        match &event {
            Event::Error { stream: 0, error } => Err(ended(error.code, error.detail)),
            Event::Close(close) => Err(ended(close.code, close.detail)),
            event => Ok(each(event)),
        }
    }

    /// Says hello and shows what is asked for; says by whom it was let in, and how.
    async fn log_in(&mut self, dialer: &Dialer, bridge: &BridgeSettings) -> Result<String, Failure> {
        let name = format!("{PLACEHOLDER}:{}", bridge.name);
        let head = Link::hello(&name, 0, FRAME_PAYLOAD_BYTES_FLOOR, MESSAGE_BYTES_DEFAULT);
        let methods = methods(bridge);
        let offered = [Extension { tag: EXTENSION_AUTH_METHODS, value: &methods }];
        let extensions = if methods.is_empty() { &[][..] } else { &offered[..] };
        self.send(FrameType::Hello, 0, &Extended { head, extensions }, &[]).await?;
        let mut shown = "without credentials";
        loop {
            let asked = self
                .hear(|event| match event {
                    Event::Challenge { method, data } => Some(Ok(Err((*method, data.to_vec())))),
                    Event::Welcome(welcome) => Some(Ok(Ok(welcome.server.to_owned()))),
                    _ => None,
                })
                .await?;
            let (method, challenge) = match asked {
                Ok(server) => return Ok(format!("let in by {server}, {shown}")),
                Err(asked) => asked,
            };
            shown = match method {
                auth_method::KEY => "by its key",
                auth_method::TOKEN => "by its token",
                auth_method::PASSWORD => "by its password",
                _ => "by its certificate",
            };
            let data = dialer.credentials(bridge, method, &challenge).await;
            let (method, data) = data.map_err(|detail| Failure { reason: Reason::Auth, detail })?;
            self.send(FrameType::Auth, 0, &Auth { method, data: &data }, &[]).await?;
        }
    }

    fn next_stream(&mut self) -> u32 {
        self.stream += 1;
        self.stream
    }

    /// A record that is refused whatever happens: it says that it is compressed, and is not.
    async fn may_publish(&mut self, channel: &str) -> Result<Result<(), Failure>, Failure> {
        let channel = match Channel::parse(channel) {
            Ok(channel) => channel,
            Err(error) => return Ok(Err(protocol(error.to_string()))),
        };
        let record = Record { compressed: true, ..Record::new(channel, NO_LZ4) };
        let mut bytes = Vec::new();
        record.encode_to(&mut bytes);
        let stream = self.next_stream();
        let head = Publish { contract: Contract::Queue, number: 1, total: bytes.len() as u32 };
        self.send(Publish::KIND, stream, &head, &bytes).await?;
        let (code, detail) = self
            .hear(|event| match event {
                Event::PublishNack { stream: of, nack } if *of == stream => {
                    Some(Ok((nack.code, nack.detail.to_owned())))
                }
                Event::PublishAck { stream: of, .. } if *of == stream => Some(Ok((Code::Normal as u16, String::new()))),
                _ => None,
            })
            .await?;
        Ok(verdict(code, &detail, &[Code::BadRecord, Code::BadSignature, Code::RateLimited]))
    }

    /// Hears nothing: it is ended as soon as it is there.
    async fn may_subscribe(&mut self, filter: &str) -> Result<Result<(), Failure>, Failure> {
        let stream = self.next_stream();
        let head =
            Subscribe { filter, retained: false, since: Since::Now, respond: false, disconnect_when_slow: false };
        self.ask(stream, &head, &[]).await
    }

    async fn may_consume(&mut self, queue: &str, filter: &str) -> Result<Result<(), Failure>, Failure> {
        let stream = self.next_stream();
        let mut filters = Vec::new();
        let all = filter == "#";
        if !all {
            append_filter(&mut filters, filter);
        }
        let head = Consume {
            queue,
            // None is the last that is looked at: nobody is called so.
            name: "",
            start: Start::New,
            window: 0,
            attempts_max: 0,
            ack_timeout_ms: 0,
            backoff_ms: 0,
            filters: u32::from(!all),
            credit_messages: 0,
            credit_bytes: 0,
        };
        self.ask(stream, &head, &filters).await
    }

    async fn ask<'h, H: Head<'h>>(
        &mut self,
        stream: u32,
        head: &H,
        payload: &[u8],
    ) -> Result<Result<(), Failure>, Failure> {
        self.send(H::KIND, stream, head, payload).await?;
        let (code, detail) = self
            .hear(|event| match event {
                Event::Done { stream: of, .. } if *of == stream => Some(Ok((Code::Normal as u16, String::new()))),
                Event::Error { stream: of, error } if *of == stream => Some(Ok((error.code, error.detail.to_owned()))),
                _ => None,
            })
            .await?;
        Ok(verdict(code, &detail, &[Code::BadName]))
    }

    async fn ping(&mut self) -> Result<(), Failure> {
        self.send(FrameType::Ping, 0, &Ping { nonce: now_ms() }, &[]).await?;
        self.hear(|event| matches!(event, Event::Pong).then_some(Ok(()))).await
    }

    /// Says that it goes. Whether it is heard is of no interest.
    async fn close(mut self) {
        let head = Close { code: Code::Normal as u16, detail: "" };
        if self.send(FrameType::Close, 0, &head, &[]).await.is_ok() {
            let end = async {
                let _ = self.hear(|_| None::<Result<(), Failure>>).await;
            };
            end.or(Timer::after_ms(STEP_MS)).await;
        }
    }
}

/// What an answer to a question means, where these codes are what is hoped for.
fn verdict(code: u16, detail: &str, hoped: &[Code]) -> Result<(), Failure> {
    let known = Code::from_u16(code);
    if known.is_some_and(|known| known == Code::Normal || hoped.contains(&known)) {
        return Ok(());
    }
    let name = known.map_or_else(|| code.to_string(), |known| known.name().to_owned());
    let detail = if detail.is_empty() { name } else { format!("{name}: {detail}") };
    let reason = if known == Some(Code::Forbidden) { Reason::Auth } else { Reason::Protocol };
    Err(Failure { reason, detail })
}

/// Why the upstream ended the session.
fn ended(code: u16, detail: &str) -> Failure {
    let known = Code::from_u16(code);
    let reason = match known {
        Some(Code::AuthFailed | Code::CredentialsExpired | Code::TooManyAttempts | Code::Forbidden) => Reason::Auth,
        _ => Reason::Protocol,
    };
    let name = known.map_or_else(|| code.to_string(), |known| known.name().to_owned());
    Failure { reason, detail: format!("the upstream ends the session: {name}: {detail}") }
}

fn now_ms() -> u64 {
    clock::mono().0 / 1_000
}
