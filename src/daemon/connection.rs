//! One connection: bytes between a stream and the machine, both ways, by hand.
//!
//! An idle connection owns no buffer: reads go through one buffer shared by all, and so do writes; only what a socket did
//! not take is kept, and dropped when it is sent.

use super::machine::Machine;
use super::shared::{BUFFER_BYTES, Shared, Slot};
use crate::broker::{Event, Transmit};
use crate::model::ConnId;
use crate::runtime::reactor::Timer;
use crate::transport::BoxStream;
use smol::io::{AsyncRead, AsyncWrite};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Buffers read, or written, before others get their turn.
const ROUNDS_MAX: u32 = 8;
/// A closing connection has this long to take its last bytes and to close its own end, in milliseconds.
const CLOSING_MS: u64 = 2_000;

/// The task of one connection.
pub(super) struct Connection<M: Machine> {
    shared: Rc<Shared<M>>,
    slot: Rc<Slot>,
    id: ConnId,
    stream: BoxStream,
    /// What the socket did not take of the last write; `sent` of it has gone since.
    unsent: Vec<u8>,
    sent: usize,
    /// The machine may have something to send.
    more: bool,
    phase: Phase,
    busy: bool,
    closing: Option<Box<Timer>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The machine said close: its last bytes are on the way.
    Ending,
    /// Our end is closed. What still comes is thrown away until the peer closes too: closing a socket with unread bytes
    /// would reset it and take our last words from the peer.
    Lingering,
}

impl<M: Machine> Connection<M> {
    /// A connection the machine was just told of.
    pub(super) fn new(shared: Rc<Shared<M>>, id: ConnId, stream: BoxStream) -> Self {
        let slot = shared.enter(id);
        Self {
            shared,
            slot,
            id,
            stream,
            unsent: Vec::new(),
            sent: 0,
            more: true,
            phase: Phase::Open,
            busy: false,
            closing: None,
        }
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(timer) = &mut self.closing
            && Pin::new(&mut **timer).poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.phase == Phase::Open {
            match ready!(self.exchange(cx)) {
                // The stream itself refused what came, and has told the peer: that must get there.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    log::debug!("connection {} is closed: {error}", self.id.0);
                    (self.unsent, self.sent, self.more) = (Vec::new(), 0, false);
                    self.end(cx);
                }
                ended => ended?,
            }
        }
        if self.phase == Phase::Ending {
            ready!(self.send(cx))?;
            ready!(Pin::new(&mut self.stream).poll_close(cx))?;
            self.phase = Phase::Lingering;
        }
        let mut buffer = self.shared.read_buffer.borrow_mut();
        for _ in 0..ROUNDS_MAX {
            if ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves bytes both ways; ready only when the machine has said close.
    fn exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut rounds = ROUNDS_MAX;
        loop {
            if self.slot.take_look() {
                self.more = true;
                // A peer that reads nothing would keep what is unsent, and with it the connection, for ever.
                if self.shared.machine.borrow().is_over(self.id) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            if let Poll::Ready(sent) = self.send(cx) {
                sent?;
            }
            if self.phase == Phase::Ending {
                self.end(cx);
                return Poll::Ready(Ok(()));
            }
            if !self.shared.machine.borrow().wants_read(self.id) {
                return Poll::Pending;
            }
            if rounds == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            rounds -= 1;
            let mut buffer = self.shared.read_buffer.borrow_mut();
            let n = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.shared.handle(Event::Received { conn: self.id, bytes: &buffer[..n] });
            self.more = true;
        }
    }

    /// From here on it has a little time to go in order.
    fn end(&mut self, cx: &mut Context<'_>) {
        self.phase = Phase::Ending;
        let mut timer = Box::new(Timer::after_ms(CLOSING_MS));
        // Cannot have fired yet; this leaves the waker.
        let _ = Pin::new(&mut *timer).poll(cx);
        self.closing = Some(timer);
    }

    /// Sends until the machine has nothing more; pending when the socket takes no more or others should have a turn.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut rounds = ROUNDS_MAX;
        loop {
            while self.sent < self.unsent.len() {
                self.sent += ready!(write(&mut self.stream, cx, &self.unsent[self.sent..]))?;
            }
            if self.sent > 0 {
                (self.unsent, self.sent) = (Vec::new(), 0);
            }
            if !self.more {
                return Pin::new(&mut self.stream).poll_flush(cx);
            }
            if rounds == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            rounds -= 1;
            let mut out = self.shared.write_buffer.borrow_mut();
            out.clear();
            match self.shared.transmit(self.id, &mut out) {
                // Nothing given although more was promised: it will wake us.
                Transmit::More => self.more = !out.is_empty(),
                Transmit::Idle => self.more = false,
                Transmit::Close => (self.more, self.phase) = (false, Phase::Ending),
            }
            if !out.is_empty() {
                let took = match write(&mut self.stream, cx, &out) {
                    Poll::Ready(took) => took?,
                    Poll::Pending => 0,
                };
                // The waker of a pending write is left by the next try, which waits for the event.
                self.unsent.extend_from_slice(&out[took..]);
            }
            if out.capacity() > 4 * BUFFER_BYTES {
                *out = Vec::new();
            }
        }
    }

    fn set_busy(&mut self, busy: bool) {
        if busy != self.busy {
            self.busy = busy;
            self.shared.count_busy(busy);
        }
    }
}

fn write(stream: &mut BoxStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(stream).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        n => Poll::Ready(Ok(n)),
    }
}

impl<M: Machine> Future for Connection<M> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.slot.remember(cx.waker());
        let was = this.phase;
        let step = this.step(cx);
        if let Poll::Ready(ended) = &step {
            match ended {
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                    log::debug!("connection {} ended: {error}", this.id.0);
                }
                _ => log::debug!("connection {} ended", this.id.0),
            }
        }
        let told = was == Phase::Lingering;
        if !told && (step.is_ready() || this.phase == Phase::Lingering) {
            this.shared.handle(Event::Closed { conn: this.id });
        }
        this.set_busy(step.is_pending() && (!this.unsent.is_empty() || this.phase != Phase::Open));
        step.map(|_| ())
    }
}

impl<M: Machine> Drop for Connection<M> {
    fn drop(&mut self) {
        self.set_busy(false);
        self.shared.leave(self.id);
    }
}
