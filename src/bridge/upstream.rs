//! The session at the upstream: hello, credentials, welcome, and what is sent ahead of data.

use super::local::ms;
use super::side::Stop;
use super::{Failure, Reason};
use crate::client::{CONTROL_BYTES_MAX, Link, LinkError, Terms};
use crate::config::BridgeSettings;
use crate::model::limits::{FRAME_PAYLOAD_BYTES_DEFAULT, MESSAGE_BYTES_MAX};
use crate::model::{Mono, Now};
use crate::wire::{
    BridgeHello, Code, ENCODING_LZ4, ENCODING_LZ4_BATCH, EXTENSION_AUTH_METHODS, EXTENSION_BRIDGE, EXTENSION_ENCODINGS,
    Extended, Extension, Frame, FrameType, SourcePosition, Welcome, append, auth_method, frame_len,
};

/// Largest frame payload it takes, in bytes.
pub(super) const FRAME_BYTES_MAX: u32 = FRAME_PAYLOAD_BYTES_DEFAULT;
/// Milliseconds an upstream has beyond the time it named to end the connection.
pub(super) const GOING_MS: u64 = 5_000;
/// Heartbeats of silence after which a link is dead, as a fraction: a black hole is noticed within two.
const SILENCE: (u64, u64) = (7, 4);

/// A connection to the upstream.
pub(super) struct Upstream {
    pub(super) link: Link,
    pub(super) partial: Vec<u8>,
    /// Unsealed frames that go ahead of data.
    control: Vec<u8>,
    next_stream: u32,
    /// Its name.
    pub(super) server: String,
    /// Whether it takes batches compressed as a whole.
    pub(super) lz4_batch: bool,
    /// What it has of each lane since before this connection, until the lane is met.
    positions: Vec<SourcePosition>,
    /// It will end the connection, at the latest at this time, as it said for this reason: nothing new is begun.
    pub(super) going: Option<(Mono, String)>,
    /// The last byte that was heard, taken by the transport, or acknowledged.
    pub(super) moved_at: Mono,
    /// When the last byte was heard, and whether a sign of life was asked for since.
    heard_at: Mono,
    asked: bool,
    /// Bytes sent and heard.
    pub(super) bytes: (u64, u64),
}

impl Upstream {
    pub(super) fn new(now: Now) -> Self {
        Self {
            link: Link::new(ms(now.mono)),
            partial: Vec::new(),
            control: Vec::new(),
            next_stream: 1,
            server: String::new(),
            lz4_batch: false,
            positions: Vec::new(),
            going: None,
            moved_at: now.mono,
            heard_at: now.mono,
            asked: false,
            bytes: (0, 0),
        }
    }

    /// Says who it is.
    pub(super) fn hello(&mut self, settings: &BridgeSettings, edge: &str) {
        let client = settings.consumer();
        let head = Link::hello(&client, settings.heartbeat_ms, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX);
        let bridge =
            postcard::to_stdvec(&BridgeHello { edge, bridge: &settings.name }).expect("a vector takes anything");
        let methods = methods(settings);
        let encodings: &[u8] = if settings.compress { &[ENCODING_LZ4, ENCODING_LZ4_BATCH] } else { &[ENCODING_LZ4] };
        let mut extensions = vec![
            Extension { tag: EXTENSION_ENCODINGS, value: encodings },
            Extension { tag: EXTENSION_BRIDGE, value: &bridge },
        ];
        if !methods.is_empty() {
            extensions.push(Extension { tag: EXTENSION_AUTH_METHODS, value: &methods });
        }
        self.frame(FrameType::Hello, 0, &Extended { head, extensions: &extensions });
    }

    /// What stands behind the welcome.
    pub(super) fn welcomed(&mut self, frame: &Frame<'_>) -> Result<(), Stop> {
        let (welcome, extensions) = frame.head_with_extensions::<Welcome<'_>>()?;
        self.server = welcome.server.into();
        self.lz4_batch = extensions.get(EXTENSION_ENCODINGS).is_some_and(|e| e.contains(&ENCODING_LZ4_BATCH));
        self.positions = SourcePosition::read_all(extensions.get(EXTENSION_BRIDGE).unwrap_or_default());
        Ok(())
    }

    /// What the upstream has of a lane since before this connection.
    pub(super) fn take_position(&mut self, epoch: u64, lane: u8) -> Option<SourcePosition> {
        let at = self.positions.iter().position(|p| (p.epoch, p.lane) == (epoch, lane))?;
        Some(self.positions.swap_remove(at))
    }

    pub(super) fn terms(&self) -> Option<&Terms> {
        self.link.terms()
    }

    /// A stream never used on this connection.
    pub(super) fn stream(&mut self) -> u32 {
        self.next_stream += 1;
        self.next_stream - 1
    }

    /// Appends a frame that goes ahead of data.
    pub(super) fn frame<H: serde::Serialize>(&mut self, kind: FrameType, stream: u32, head: &H) {
        append(&mut self.control, kind, 0, stream, Some(head), &[]);
    }

    /// Unsealed frames that go ahead of data: others may be put behind them.
    pub(super) fn control(&mut self) -> &mut Vec<u8> {
        &mut self.control
    }

    /// Appends what goes ahead of data, all of it: heartbeats first.
    pub(super) fn poll_control(&mut self, out: &mut Vec<u8>) {
        let mut control = [0; CONTROL_BYTES_MAX];
        let len = self.link.poll_control(&mut control);
        out.extend_from_slice(&control[..len]);
        let mut at = out.len();
        out.append(&mut self.control);
        while at < out.len() {
            let len = frame_len(&out[at..]).expect("whole frames wait there");
            self.link.seal(&mut out[at..at + len]);
            at += len;
        }
    }

    /// Bytes were given to the transport.
    pub(super) fn note_sent(&mut self, now: Mono, bytes: usize) {
        if bytes > 0 {
            self.link.sent(ms(now));
            self.bytes.0 += bytes as u64;
        }
    }

    /// Bytes were heard.
    pub(super) fn note_heard(&mut self, now: Mono, bytes: usize) {
        self.link.heard(ms(now));
        self.bytes.1 += bytes as u64;
        self.moved_at = now;
        (self.heard_at, self.asked) = (now, false);
    }
}

/// The ways to log in that the settings have something for, the preferred first.
fn methods(settings: &BridgeSettings) -> Vec<u8> {
    let with = [
        (!settings.login_key.is_empty(), auth_method::KEY),
        (!settings.token.is_empty(), auth_method::TOKEN),
        (!settings.user.is_empty(), auth_method::PASSWORD),
        (settings.certificate.is_some(), auth_method::TRANSPORT),
    ];
    with.into_iter().filter(|(has, _)| *has).map(|(_, method)| method).collect()
}

/// What an error of the upstream's session means.
pub(super) fn refused(code: u16, retry_after_ms: u32, detail: &str) -> Stop {
    let known = Code::from_u16(code);
    let reason = match known {
        Some(Code::AuthFailed | Code::CredentialsExpired | Code::Forbidden | Code::TooManyAttempts) => Reason::Auth,
        Some(Code::Normal | Code::ShuttingDown) => Reason::Closed,
        Some(Code::HeartbeatTimeout) => Reason::Heartbeat,
        Some(Code::HandshakeTimeout) => Reason::Timeout,
        _ => Reason::Protocol,
    };
    let name = known.map_or_else(|| code.to_string(), |code| code.to_string());
    let detail = if detail.is_empty() { name } else { format!("{name}: {detail}") };
    Stop::Failed(Failure { reason, detail }, retry_after_ms)
}

impl Upstream {
    /// When the link's silence is to be looked at next.
    pub(super) fn poll_timeout(&self) -> Mono {
        let link = link_timeout(&self.link);
        let link = self.going.as_ref().map_or(link, |(at, _)| link.min(*at));
        let Some(terms) = self.terms() else { return link };
        let ms = u64::from(terms.heartbeat_ms);
        link.min(self.heard_at.plus_ms(if self.asked { ms * SILENCE.0 / SILENCE.1 } else { ms }))
    }

    /// Looks at the link's silence: after one heartbeat of it a sign of life is asked for, and soon after it is the end.
    ///
    /// # Errors
    /// The end.
    pub(super) fn handle_timeout(&mut self, now: Mono) -> Result<(), Stop> {
        handle_link_timeout(&mut self.link, now)?;
        if let Some((_, detail)) = self.going.take_if(|(at, _)| *at <= now) {
            return Err(Stop::new(Reason::Closed, detail));
        }
        let Some(heartbeat_ms) = self.terms().map(|terms| u64::from(terms.heartbeat_ms)) else { return Ok(()) };
        let silent_ms = now.ms_since(self.heard_at);
        if silent_ms >= heartbeat_ms * SILENCE.0 / SILENCE.1 {
            return Err(Stop::new(Reason::Heartbeat, format!("nothing was heard of the upstream for {silent_ms} ms")));
        }
        if silent_ms >= heartbeat_ms && !self.asked {
            self.asked = true;
            self.link.ping();
        }
        Ok(())
    }
}

/// When a link's own timer rings next.
pub(super) const fn link_timeout(link: &Link) -> Mono {
    Mono(link.poll_timeout().saturating_mul(1_000))
}

/// Lets a link's own timer ring.
pub(super) fn handle_link_timeout(link: &mut Link, now: Mono) -> Result<(), LinkError> {
    link.handle_timeout(ms(now))
}
