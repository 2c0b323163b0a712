//! One bridge on the loop: carries bytes between its machine, the broker's session for it and the upstream, and does what the
//! machine asks for.
//!
//! Nothing is taken from the machine for the upstream before the transport has got rid of what was taken before: a ping that
//! becomes due waits behind one buffer, and behind what the kernel holds, which is as small.

use super::Office;
use super::dial::{Dialed, hung_up};
use super::farewell::Farewell;
use super::files::Stamps;
use crate::bridge::{Action, Bridge, Failure, Reason};
use crate::broker::{Event, Transmit};
use crate::config::BridgeSettings;
use crate::daemon::machine::Machine;
use crate::daemon::shared::{BUFFER_BYTES, Shared, Slot};
use crate::model::{ConnId, Mono};
use crate::runtime::entropy;
use crate::runtime::reactor::Timer;
use crate::session::{NONCE_BYTES, Peer};
use crate::transport::BoxStream;
use smol::io::{AsyncRead, AsyncWrite};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Turns before others get theirs: few, since one may compress a batch, and local publishers wait meanwhile.
const ROUNDS_MAX: u32 = 4;
/// About the most taken from the machine for the upstream at once, in bytes: on a link of 50 kbit/s it is gone in 3 s.
const UPSTREAM_BYTES: usize = 16 * 1_024;
/// Reads of what a connection still held when it broke: the upstream may have said why.
const LAST_READS: u32 = 8;

/// What the loop wants of a bridge.
pub(super) enum Order {
    /// These settings.
    Settings(Arc<BridgeSettings>),
    /// A pause, or its end.
    Pause(bool),
    /// Its files may have changed.
    Files,
    /// Its end: of the whole process, or because it is in the settings no more.
    End {
        /// The process ends.
        stop: bool,
    },
}

/// Orders for a task; the loop gives a few at a time, and the task takes all it finds.
#[derive(Default)]
pub(super) struct Orders {
    waiting: RefCell<VecDeque<Order>>,
    waker: RefCell<Option<Waker>>,
}

impl Orders {
    pub(super) fn give(&self, order: Order) {
        self.waiting.borrow_mut().push_back(order);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Keeps the waker of the task: the same one for its whole life.
    fn remember(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if kept.is_none() {
            *kept = Some(waker.clone());
        }
    }

    fn take(&self) -> Option<Order> {
        self.waiting.borrow_mut().pop_front()
    }
}

/// Something that is waited for.
type Waiting<T> = Pin<Box<dyn Future<Output = T>>>;

/// What answers a challenge, and for which connection.
type Showing = (u64, Waiting<Result<(u8, Vec<u8>), String>>);

/// The session at the broker.
struct Local {
    conn: ConnId,
    slot: Rc<Slot>,
    /// The broker may have something to say.
    more: bool,
}

enum Upstream {
    None,
    Dialing(u64, Waiting<Result<Dialed, Failure>>),
    Open(Box<Link>),
}

/// A connection to the upstream.
struct Link {
    number: u64,
    stream: BoxStream,
    secure: bool,
    /// Taken from the machine; `sent` of it went to the stream, which may still hold some.
    unsent: Vec<u8>,
    sent: usize,
    /// Of `unsent` the machine was told to be gone.
    told: usize,
    /// What the kernel has taken, and what of it was there when `unsent` was begun.
    taken: Rc<Cell<u64>>,
    taken_before: u64,
}

impl Link {
    fn new(number: u64, dialed: Dialed) -> Self {
        let Dialed { stream, taken, secure } = dialed;
        let taken_before = taken.get();
        Self { number, stream, secure, unsent: Vec::new(), sent: 0, told: 0, taken, taken_before }
    }

    /// Sends what was taken from the machine; ready when the kernel has all of it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.unsent[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.sent += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Bytes of the machine's that the kernel took and it was not told of. With TLS or WebSocket between it is about so many
    /// while some wait, and exact once none do.
    fn gone(&mut self, all: bool) -> usize {
        let taken = usize::try_from(self.taken.get() - self.taken_before).unwrap_or(usize::MAX);
        let gone = if all { self.unsent.len() } else { taken.min(self.unsent.len()) };
        let more = gone.saturating_sub(self.told);
        self.told += more;
        more
    }

    /// All was sent: room for more.
    fn begin(&mut self) {
        self.unsent.clear();
        (self.sent, self.told, self.taken_before) = (0, 0, self.taken.get());
        if self.unsent.capacity() > 4 * UPSTREAM_BYTES {
            self.unsent = Vec::new();
        }
    }
}

/// The task of one bridge.
pub(super) struct Task<M: Machine> {
    shared: Rc<Shared<M>>,
    office: Rc<Office>,
    orders: Rc<Orders>,
    settings: Arc<BridgeSettings>,
    bridge: Bridge,
    local: Option<Local>,
    upstream: Upstream,
    credentials: Option<Showing>,
    /// The files as they were when the upstream was last dialed.
    seen: Rc<RefCell<Stamps>>,
    looking: Option<Waiting<Stamps>>,
    timer: Timer,
    armed: Option<Mono>,
    /// It takes up nothing more.
    ending: bool,
    /// What it tells is of no interest any more.
    removed: bool,
}

impl<M: Machine + 'static> Task<M> {
    pub(super) fn new(
        shared: &Rc<Shared<M>>,
        office: &Rc<Office>,
        orders: &Rc<Orders>,
        settings: Arc<BridgeSettings>,
        bridge: Bridge,
    ) -> Self {
        Self {
            shared: Rc::clone(shared),
            office: Rc::clone(office),
            orders: Rc::clone(orders),
            settings,
            bridge,
            local: None,
            upstream: Upstream::None,
            credentials: None,
            seen: Rc::default(),
            looking: None,
            timer: Timer::never(),
            armed: None,
            ending: false,
            removed: false,
        }
    }

    /// Does what can be done now; whether anything was.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = self.take_orders(cx);
        moved |= self.act(cx);
        moved |= self.finish(cx);
        moved |= self.hear_local();
        moved |= self.tell_local();
        moved |= self.hear_upstream(cx);
        moved |= self.tell_upstream(cx);
        moved | self.ring(cx)
    }

    fn take_orders(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(order) = self.orders.take() {
            moved = true;
            let now = self.shared.now();
            match order {
                Order::Settings(settings) => {
                    self.settings = Arc::clone(&settings);
                    self.bridge.handle_settings(now, settings);
                }
                Order::Pause(pause) => self.bridge.handle_pause(now, pause),
                Order::Files => {
                    let (office, settings) = (Rc::clone(&self.office), Arc::clone(&self.settings));
                    self.looking = Some(Box::pin(async move { office.dialer.stamps(&settings).await }));
                }
                Order::End { stop } => self.end(cx, stop),
            }
        }
        moved
    }

    /// Ends it in order: what the upstream acknowledged is acknowledged here, and both hear that it is the end.
    fn end(&mut self, cx: &mut Context<'_>, stop: bool) {
        (self.ending, self.removed) = (true, !stop);
        self.bridge.handle_stop(self.shared.now());
        while self.tell_local() {}
        self.act(cx);
        self.close_local();
        self.hang_up(None);
    }

    /// Looks at what is waited for.
    fn finish(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        if let Upstream::Dialing(number, dialing) = &mut self.upstream
            && let Poll::Ready(dialed) = dialing.as_mut().poll(cx)
        {
            let number = *number;
            let result = match dialed {
                Ok(dialed) => {
                    self.upstream = Upstream::Open(Box::new(Link::new(number, dialed)));
                    Ok(())
                }
                Err(failure) => {
                    self.upstream = Upstream::None;
                    Err(failure)
                }
            };
            self.bridge.handle_dialed(self.shared.now(), number, result);
            moved = true;
        }
        if let Some((number, asked)) = &mut self.credentials
            && let Poll::Ready(data) = asked.as_mut().poll(cx)
        {
            let number = *number;
            self.credentials = None;
            self.bridge.handle_credentials(self.shared.now(), number, data);
            moved = true;
        }
        if let Some(looking) = &mut self.looking
            && let Poll::Ready(stamps) = looking.as_mut().poll(cx)
        {
            self.looking = None;
            if stamps != *self.seen.borrow() {
                log::info!("bridge {}: its credentials or certificates changed, it connects anew", self.settings.name);
                self.bridge.handle_renewed(self.shared.now());
            }
            moved = true;
        }
        moved
    }

    // -- the broker's side --

    fn open_local(&mut self, cx: &Context<'_>) {
        self.close_local();
        let mut nonce = [0; NONCE_BYTES];
        if let Err(error) = entropy::fill(&mut nonce) {
            log::error!("bridge {}: no session, the kernel has no randomness: {error}", self.settings.name);
            return self.bridge.handle_local_closed(self.shared.now());
        }
        let conn = self.shared.number();
        let slot = self.shared.enter(conn);
        slot.remember(cx.waker());
        let peer =
            Peer::Bridge { name: self.settings.name.as_str().into(), tenant: self.settings.tenant.as_str().into() };
        self.shared.handle(Event::Opened { conn, peer, nonce });
        self.local = Some(Local { conn, slot, more: true });
    }

    /// Ends the session, if there is one.
    fn close_local(&mut self) -> bool {
        let Some(local) = self.local.take() else { return false };
        self.shared.leave(local.conn);
        self.shared.handle(Event::Closed { conn: local.conn });
        true
    }

    /// Takes what the broker says, as far as there is room for it.
    fn hear_local(&mut self) -> bool {
        let Some(local) = &mut self.local else { return false };
        if local.slot.take_look() {
            local.more = true;
        }
        if !local.more || !self.bridge.wants_local() {
            return false;
        }
        let shared = Rc::clone(&self.shared);
        let mut out = shared.write_buffer.borrow_mut();
        out.clear();
        let said = shared.transmit(local.conn, &mut out);
        local.more = said == Transmit::More && !out.is_empty();
        if !out.is_empty() {
            self.bridge.handle_local(shared.now(), &out);
        }
        let moved = !out.is_empty() || said == Transmit::Close;
        if out.capacity() > 4 * BUFFER_BYTES {
            *out = Vec::new();
        }
        drop(out);
        if said == Transmit::Close && self.close_local() {
            self.bridge.handle_local_closed(shared.now());
        }
        moved
    }

    /// Gives the broker what the machine says.
    fn tell_local(&mut self) -> bool {
        let Some(local) = &mut self.local else { return false };
        let shared = Rc::clone(&self.shared);
        let mut moved = false;
        // What comes of one is looked at before the next.
        while !moved && shared.machine.borrow().wants_read(local.conn) {
            let mut out = shared.write_buffer.borrow_mut();
            out.clear();
            self.bridge.poll_local(shared.now(), &mut out, BUFFER_BYTES);
            if out.is_empty() {
                break;
            }
            shared.handle(Event::Received { conn: local.conn, bytes: &out });
            (local.more, moved) = (true, true);
        }
        moved
    }

    // -- the upstream's side --

    fn hear_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        let Upstream::Open(link) = &mut self.upstream else { return false };
        if !self.bridge.wants_upstream() {
            return false;
        }
        let mut buffer = self.shared.read_buffer.borrow_mut();
        let read = Pin::new(&mut link.stream).poll_read(cx, &mut buffer);
        let number = link.number;
        match read {
            Poll::Pending => return false,
            Poll::Ready(Ok(n)) if n > 0 => self.bridge.handle_upstream(self.shared.now(), number, &buffer[..n]),
            Poll::Ready(ended) => {
                drop(buffer);
                let error = ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                self.lose(&error);
            }
        }
        true
    }

    /// The connection is gone.
    fn lose(&mut self, error: &io::Error) {
        if let Upstream::Open(link) = std::mem::replace(&mut self.upstream, Upstream::None) {
            let failure = hung_up(link.secure, error);
            self.bridge.handle_hung_up(self.shared.now(), link.number, failure);
        }
    }

    /// Sends what the machine has for the upstream, a buffer a turn.
    fn tell_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        let Upstream::Open(link) = &mut self.upstream else { return false };
        let number = link.number;
        let mut moved = false;
        let sent = link.poll_send(cx);
        let gone = link.gone(matches!(sent, Poll::Ready(Ok(()))));
        if gone > 0 {
            self.bridge.handle_sent(self.shared.now(), number, gone);
            moved = true;
        }
        match sent {
            Poll::Pending => {}
            Poll::Ready(Err(error)) => {
                self.hear_last(cx);
                self.lose(&error);
                moved = true;
            }
            Poll::Ready(Ok(())) => {
                link.begin();
                self.bridge.poll_upstream(self.shared.now(), &mut link.unsent, UPSTREAM_BYTES);
                // Sent by the next turn, which is at once.
                moved |= !link.unsent.is_empty();
            }
        }
        moved
    }

    /// A connection broke while something was sent: what came before that is heard.
    fn hear_last(&mut self, cx: &mut Context<'_>) {
        for _ in 0..LAST_READS {
            let Upstream::Open(link) = &mut self.upstream else { return };
            let mut buffer = self.shared.read_buffer.borrow_mut();
            match Pin::new(&mut link.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.bridge.handle_upstream(self.shared.now(), link.number, &buffer[..n])
                }
                _ => return,
            }
        }
    }

    /// Ends the connection of this number, or whichever there is: its last bytes have a little time on their own.
    fn hang_up(&mut self, number: Option<u64>) {
        let of = |n: u64| number.is_none_or(|number| number == n);
        match std::mem::replace(&mut self.upstream, Upstream::None) {
            Upstream::Open(mut link) if of(link.number) => {
                self.bridge.poll_upstream(self.shared.now(), &mut link.unsent, UPSTREAM_BYTES);
                link.unsent.drain(..link.sent);
                self.office.say_goodbye(Farewell::new(&self.shared, link.stream, link.unsent));
            }
            Upstream::Dialing(n, _) if of(n) => {}
            other => self.upstream = other,
        }
        if self.credentials.as_ref().is_some_and(|(n, _)| of(*n)) {
            self.credentials = None;
        }
    }

    // -- what the machine asks for --

    fn act(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(action) = self.bridge.poll_action() {
            moved = true;
            match action {
                Action::Dial { .. } | Action::OpenLocal | Action::Credentials { .. } if self.ending => {}
                Action::Dial { number, url } => self.dial(number, url),
                Action::HangUp { number } => self.hang_up(Some(number)),
                Action::Credentials { number, method, challenge } => {
                    let (office, settings) = (Rc::clone(&self.office), Arc::clone(&self.settings));
                    let asked = async move { office.dialer.credentials(&settings, method, &challenge).await };
                    self.credentials = Some((number, Box::pin(asked)));
                }
                Action::OpenLocal => self.open_local(cx),
                Action::CloseLocal => {
                    self.tell_local();
                    self.close_local();
                }
                Action::Tell { .. } if self.removed => {}
                Action::Tell { keep } => {
                    let status = Box::new(self.bridge.status(self.shared.now()));
                    self.shared.handle(Event::Bridge { status, keep });
                }
            }
        }
        moved
    }

    fn dial(&mut self, number: u64, url: usize) {
        self.hang_up(None);
        let (office, settings, seen) = (Rc::clone(&self.office), Arc::clone(&self.settings), Rc::clone(&self.seen));
        let Some(address) = self.settings.urls.get(url).cloned() else {
            let detail = format!("there is no address number {url}");
            let failure = Failure { reason: Reason::Protocol, detail };
            return self.bridge.handle_dialed(self.shared.now(), number, Err(failure));
        };
        log::debug!("bridge {}: dials {address}", self.settings.name);
        let dialing = async move {
            // Taken before the files are read: what changes meanwhile is found at the next look.
            let stamps = office.dialer.stamps(&settings).await;
            *seen.borrow_mut() = stamps;
            office.dialer.dial(&settings, &address, &mut |_| ()).await
        };
        self.upstream = Upstream::Dialing(number, Box::pin(dialing));
    }

    /// Tells the machine when its time has come, and arms the timer for the next.
    fn ring(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(at) = self.bridge.poll_timeout() else { return false };
        let now = self.shared.now();
        if at <= now.mono {
            self.bridge.handle_timeout(now);
            return true;
        }
        // One that fires early costs one look.
        if self.armed.is_none_or(|armed| armed > at || armed <= now.mono) {
            self.timer.set(at);
            self.armed = Some(at);
        }
        Pin::new(&mut self.timer).poll(cx).is_ready()
    }
}

impl<M: Machine> Unpin for Task<M> {}

impl<M: Machine + 'static> Future for Task<M> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.orders.remember(cx.waker());
        for _ in 0..ROUNDS_MAX {
            let moved = self.turn(cx);
            if self.ending {
                return Poll::Ready(());
            }
            if !moved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<M: Machine> Drop for Task<M> {
    fn drop(&mut self) {
        if let Some(local) = &self.local {
            self.shared.leave(local.conn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all at once, as TLS does, and gives the kernel so much at each flush.
    struct Sealed {
        held: u64,
        step: u64,
        taken: Rc<Cell<u64>>,
    }

    impl AsyncRead for Sealed {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Sealed {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            // What sealing adds.
            self.held += bytes.len() as u64 + 22;
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let now = self.held.min(self.step);
            self.held -= now;
            self.taken.set(self.taken.get() + now);
            if self.held > 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_tls_holds_is_not_gone_and_its_progress_is_told_to_the_byte_in_the_end() {
        let taken = Rc::new(Cell::new(1_000));
        let stream = Box::new(Sealed { held: 0, step: 400, taken: Rc::clone(&taken) });
        let mut link = Link::new(1, Dialed { stream, taken, secure: true });
        let mut cx = Context::from_waker(Waker::noop());
        for len in [1_000_usize, 10] {
            link.begin();
            link.unsent.resize(len, 7);
            let mut told = Vec::new();
            loop {
                let sent = link.poll_send(&mut cx);
                told.push(link.gone(sent.is_ready()));
                if sent.is_ready() {
                    break;
                }
                // Nothing more is taken from the machine meanwhile: a ping has but this before it.
                assert!(told.iter().sum::<usize>() < len, "{told:?}");
            }
            assert_eq!(told.iter().sum::<usize>(), len, "{told:?}");
            assert_eq!(told.len(), if len == 10 { 1 } else { 3 }, "{told:?}");
            assert_eq!(link.gone(true), 0);
        }
    }
}
