//! The one task of a client: connects, moves bytes both ways, reconnects; everything it knows is in [`State`].
//!
//! [`State`]: super::state::State

use super::address::Address;
use super::clock::{jitter, now_ms};
use super::credentials::{Credentials, Shown};
use super::error::ClientError;
use super::link::{CONTROL_BYTES_MAX, Link};
use super::login::Login;
use super::options::Options;
use super::state::{Effects, Phase, Shared};
use super::transport::{Transport, Transports};
use crate::model::limits::{HEAD_BYTES_MAX, HEADER_BYTES};
use crate::schedule::backoff_ms;
use crate::wire::{
    Close, Code, Decoded, ENCODING_LZ4, EXTENSION_AUTH_METHODS, EXTENSION_ENCODINGS, Extended, Extension, FrameType,
    append, decode,
};
use smol::Timer;
use smol::future::FutureExt as _;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Bytes gathered for one write.
const WRITE_BYTES: usize = 128 * 1_024;
/// Bytes asked for by one read.
const READ_BYTES: usize = 128 * 1_024;
/// Longest wait for the broker to hang up after our close, in milliseconds.
const CLOSE_MS: u64 = 1_000;
/// A session this long, in milliseconds, or one that was answered, starts the backoff anew.
const SESSION_GOOD_MS: u64 = 5_000;
/// Reads and writes before other tasks of the thread get their turn.
const TURNS_MAX: u32 = 32;

/// Runs a client until it is closed or cannot go on.
pub(super) async fn run(shared: Arc<Shared>, address: Address, options: Options) {
    let started_ms = now_ms();
    let from_file = options.credentials.as_ref().is_some_and(Credentials::is_file);
    let mut failures = 0;
    let mut transports = Transports::new(address, &options);
    let error = loop {
        let attempt_ms = now_ms();
        let (error, good) = match connect(&shared, &mut transports, &options).await {
            None => break ClientError::Closed,
            Some(Err(e)) => (e, false),
            Some(Ok(transport)) => {
                // Read now, so that the attempt shows what is in force now.
                match options.credentials.as_ref().map(Credentials::read).transpose() {
                    Err(why) => (ClientError::Credentials(why), false),
                    Ok(shown) => {
                        let mut session = Session::new(&shared, transport, transports.address(), &options, shown);
                        let error = poll_fn(|cx| session.poll(cx)).await;
                        (error, session.answered || now_ms() - attempt_ms >= SESSION_GOOD_MS)
                    }
                }
            }
        };
        let mut effects = Effects::default();
        let (was_open, closing) = {
            let mut state = shared.lock();
            state.disconnected(&error.to_string(), &mut effects);
            (state.session > 0, state.closing)
        };
        shared.run(&mut effects);
        let patient = was_open || now_ms() - started_ms < options.connect_patience_ms;
        if closing {
            break ClientError::Closed;
        }
        if !options.reconnect && was_open || !patient || is_final(&error, was_open && from_file) {
            break error;
        }
        failures = if good { 0 } else { failures + 1 };
        let asked_ms = match &error {
            ClientError::Refused(refusal) => u64::from(refusal.retry_after_ms),
            _ => 0,
        };
        let wait_ms = backoff_ms(options.backoff_ms, options.backoff_ms_max, failures, jitter()).max(asked_ms);
        log::debug!("{error}; trying {} again in {wait_ms} ms", transports.address());
        sleep(&shared, wait_ms).await;
    };
    let mut effects = Effects::default();
    shared.lock().end(&error, &mut effects);
    shared.run(&mut effects);
}

/// Whether connecting again cannot help. Credentials from a file that once were good may be good again.
fn is_final(error: &ClientError, may_be_renewed: bool) -> bool {
    match error {
        ClientError::Credentials(_) => !may_be_renewed,
        ClientError::Refused(refusal) if refusal.code == Some(Code::AuthFailed) => !may_be_renewed,
        ClientError::Refused(refusal) => {
            matches!(refusal.code, Some(Code::Forbidden | Code::NotSupported | Code::BadVersion | Code::BadName))
        }
        ClientError::Link(super::LinkError::Version(_)) => true,
        _ => false,
    }
}

/// Connects unless the client is closed meanwhile.
async fn connect(
    shared: &Shared,
    transports: &mut Transports,
    options: &Options,
) -> Option<Result<Transport, ClientError>> {
    let closed = poll_fn(|cx| {
        let mut state = shared.lock();
        if state.closing {
            return Poll::Ready(None);
        }
        state.park(cx.waker(), 0, false);
        Poll::Pending
    });
    let address = transports.address().clone();
    let late = async {
        Timer::after(Duration::from_millis(options.connect_timeout_ms)).await;
        let why = format!("no answer within {} ms", options.connect_timeout_ms);
        Some(Err(ClientError::Connect(address.to_string(), why)))
    };
    closed.or(async { Some(transports.connect().await) }).or(late).await
}

/// Sleeps unless the client is closed meanwhile; publishes that wait may expire.
async fn sleep(shared: &Shared, ms: u64) {
    let until = now_ms() + ms;
    loop {
        let mut effects = Effects::default();
        let next = {
            let mut state = shared.lock();
            state.pipeline.expire(now_ms(), &mut effects.settled);
            until.min(state.pipeline.poll_timeout().unwrap_or(until))
        };
        shared.run(&mut effects);
        let now = now_ms();
        if now >= until {
            return;
        }
        let closed = poll_fn(|cx| {
            let mut state = shared.lock();
            if state.closing {
                return Poll::Ready(true);
            }
            state.park(cx.waker(), 0, false);
            Poll::Pending
        });
        let woken = async {
            Timer::after(Duration::from_millis(next.saturating_sub(now).max(1))).await;
            false
        };
        if closed.or(woken).await {
            return;
        }
    }
}

/// One connection's life.
struct Session<'s> {
    shared: &'s Shared,
    transport: Transport,
    address: &'s Address,
    login: Login<'s>,
    link: Link,
    timer: Timer,
    timer_ms: u64,
    rx: Vec<u8>,
    rx_start: usize,
    rx_end: usize,
    frame_bytes_max: u32,
    tx: Vec<u8>,
    tx_sent: usize,
    /// Set when our close is queued: when to hang up at the latest.
    hang_up_ms: Option<u64>,
    /// Whether the broker sent anything after its welcome.
    answered: bool,
    effects: Effects,
}

impl<'s> Session<'s> {
    fn new(
        shared: &'s Shared,
        transport: Transport,
        address: &'s Address,
        options: &'s Options,
        shown: Option<Shown>,
    ) -> Self {
        let now = now_ms();
        let mut link = Link::new(now);
        let mut tx = Vec::with_capacity(WRITE_BYTES + 32 * 1_024);
        let frame_bytes_max = options.frame_bytes_max.max(crate::model::limits::FRAME_PAYLOAD_BYTES_FLOOR);
        let hello = Link::hello(&options.name, options.heartbeat_ms, frame_bytes_max, options.message_bytes_max);
        let login = Login::new(options.credentials.as_ref(), shown);
        let method = login.method().map(|method| [method]);
        let encodings = Extension { tag: EXTENSION_ENCODINGS, value: &[ENCODING_LZ4] };
        let extensions = match &method {
            Some(method) => &[Extension { tag: EXTENSION_AUTH_METHODS, value: method }, encodings][..],
            None => &[encodings],
        };
        append(&mut tx, FrameType::Hello, 0, 0, Some(&Extended { head: hello, extensions }), &[]);
        link.seal(&mut tx);
        Self {
            shared,
            transport,
            address,
            login,
            timer_ms: u64::MAX,
            timer: Timer::never(),
            link,
            rx: vec![0; READ_BYTES.max(HEADER_BYTES + HEAD_BYTES_MAX + frame_bytes_max as usize)],
            rx_start: 0,
            rx_end: 0,
            frame_bytes_max,
            tx,
            tx_sent: 0,
            hang_up_ms: None,
            answered: false,
            effects: Effects::default(),
        }
    }

    /// Ready with the reason when the session is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ClientError> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(e) => {
                let shared = self.shared;
                shared.run(&mut self.effects);
                Poll::Ready(e)
            }
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), ClientError> {
        for _ in 0..TURNS_MAX {
            let now = now_ms();
            let (read, blocked) = self.read(cx, now)?;
            let wrote = self.write(cx, now)?;
            let shared = self.shared;
            let timed = self.check_time(cx, now, blocked)?;
            shared.run(&mut self.effects);
            if read || wrote || timed {
                continue;
            }
            // What a handle queues from here on wakes this task.
            let may_write = self.tx_sent == self.tx.len();
            if shared.lock().park(cx.waker(), now, may_write) {
                return Ok(());
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Reads once; tells whether anything came, and whether a full inbox forbids reading.
    fn read(&mut self, cx: &mut Context<'_>, now: u64) -> Result<(bool, bool), ClientError> {
        if self.shared.lock().reading_blocked() {
            // The broker is not dead for being unread.
            self.link.heard(now);
            return Ok((false, true));
        }
        if self.rx_start == self.rx_end {
            (self.rx_start, self.rx_end) = (0, 0);
        } else if self.rx.len() - self.rx_end < READ_BYTES / 2 && self.rx_start > 0 {
            self.rx.copy_within(self.rx_start..self.rx_end, 0);
            (self.rx_start, self.rx_end) = (0, self.rx_end - self.rx_start);
        }
        match self.transport.poll_read(cx, &mut self.rx[self.rx_end..]) {
            Poll::Pending => Ok((false, false)),
            Poll::Ready(Err(e)) => Err(self.transport.broke(self.address, &e)),
            Poll::Ready(Ok(0)) => Err(ClientError::Disconnected("the broker hung up".into())),
            Poll::Ready(Ok(n)) => {
                self.rx_end += n;
                self.link.heard(now);
                self.take_frames()?;
                Ok((true, false))
            }
        }
    }

    fn take_frames(&mut self) -> Result<(), ClientError> {
        let mut state = self.shared.lock();
        loop {
            match decode(&self.rx[self.rx_start..self.rx_end], self.frame_bytes_max).map_err(super::LinkError::Wire)? {
                // The buffer holds the largest frame there can be, so what is incomplete will fit.
                Decoded::Incomplete(_) => return Ok(()),
                Decoded::Frame(frame, len) => {
                    self.rx_start += len;
                    self.answered |= self.link.terms().is_some();
                    let event = self.link.handle_frame(&frame)?;
                    if let Some(start) = self.login.handle(&event, now_ms(), &mut self.tx)? {
                        self.link.seal(&mut self.tx[start..]);
                    }
                    state.handle(&self.link, event, &mut self.effects)?;
                }
            }
        }
    }

    /// Writes once; tells whether anything went.
    fn write(&mut self, cx: &mut Context<'_>, now: u64) -> Result<bool, ClientError> {
        if self.tx_sent == self.tx.len() {
            self.tx.clear();
            self.tx_sent = 0;
            if self.link.has_control() {
                self.tx.resize(CONTROL_BYTES_MAX, 0);
                let len = self.link.poll_control(&mut self.tx);
                self.tx.truncate(len);
            }
            let mut state = self.shared.lock();
            if matches!(state.phase, Phase::Open) {
                state.fill(now, &mut self.link, &mut self.tx, WRITE_BYTES, &mut self.effects);
            }
            if state.closing && self.hang_up_ms.is_none() && !state.wants_write(now) {
                let start = self.tx.len();
                let head = Close { code: Code::Normal as u16, detail: "" };
                append(&mut self.tx, FrameType::Close, 0, 0, Some(&head), &[]);
                self.link.seal(&mut self.tx[start..]);
                self.hang_up_ms = Some(now + CLOSE_MS);
            }
        }
        if self.tx_sent == self.tx.len() {
            // What the transport took and could not send yet goes when the socket is ready again.
            return match self.transport.poll_flush(cx) {
                Poll::Ready(Err(e)) => Err(self.transport.broke(self.address, &e)),
                _ => Ok(false),
            };
        }
        match self.transport.poll_write(cx, &self.tx[self.tx_sent..]) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(e)) => Err(self.transport.broke(self.address, &e)),
            Poll::Ready(Ok(0)) => Err(ClientError::Disconnected("the broker hung up".into())),
            Poll::Ready(Ok(n)) => {
                self.tx_sent += n;
                self.link.sent(now);
                Ok(true)
            }
        }
    }

    /// Does what is due and sets the timer; tells whether there may be something to write now.
    fn check_time(&mut self, cx: &mut Context<'_>, now: u64, blocked: bool) -> Result<bool, ClientError> {
        if self.hang_up_ms.is_some_and(|at| at <= now) {
            return Err(ClientError::Closed);
        }
        let pinged = self.link.has_control();
        self.link.handle_timeout(now)?;
        let expiring = {
            let mut state = self.shared.lock();
            state.pipeline.expire(now, &mut self.effects.settled);
            state.pipeline.poll_timeout()
        };
        let mut next = self.link.poll_timeout();
        let renewed = self.login.handle_timeout(now, &mut self.tx);
        if let Some(start) = renewed {
            self.link.seal(&mut self.tx[start..]);
        }
        for other in [expiring, self.hang_up_ms, self.login.poll_timeout()] {
            next = next.min(other.unwrap_or(next));
        }
        if blocked {
            // Woken by whoever takes from the inbox; the timer is for the heartbeat only.
            next = next.max(now + 1);
        }
        // A timer that fires early only costs a look; so it is moved only when it must fire earlier or has fired.
        if next < self.timer_ms || self.timer_ms <= now {
            self.timer_ms = next;
            self.timer.set_after(Duration::from_millis(next.saturating_sub(now).max(1)));
        }
        let fired = Pin::new(&mut self.timer).poll(cx).is_ready();
        if fired {
            self.timer_ms = 0;
        }
        Ok(fired || renewed.is_some() || (!pinged && self.link.has_control() && self.tx_sent == self.tx.len()))
    }
}
