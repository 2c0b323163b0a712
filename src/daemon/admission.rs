//! What becomes of who connects: the gate, the handshake where the door has one, and a place, in this order.

use super::connection::Connection;
use super::handshakes::Handshakes;
use super::machine::Machine;
use super::shared::Shared;
use super::web::Pages;
use crate::broker::{Event, Peer};
use crate::model::Mono;
use crate::runtime::{clock, entropy};
use crate::schedule::{Gate, Rate};
use crate::session::{NONCE_BYTES, Via};
use crate::transport::{BoxStream, Http, Inside, Upgraded};
use crate::websocket::Frames;
use crate::wire::{self, Code, ErrorHead, FrameType};
use smol::LocalExecutor;
use smol::io::AsyncWrite;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

/// Connections over the limit that are told so at the same time.
pub(super) const REFUSALS_MAX: usize = 64;
/// What those are told to wait, in milliseconds.
const RETRY_CONNECT_MS: u32 = 5_000;
/// Seconds of connects an address may make at once.
const CONNECTS_BURST: u64 = 10;
/// Addresses whose connects are remembered.
const ADDRESSES_MAX: usize = 4_096;
/// A refusal for want of room is said this often, in milliseconds.
const SAY_EVERY_MS: u64 = 60_000;

/// A kind of listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// Frames at once.
    Frames,
    /// Frames over TLS.
    Tls,
    /// HTTP, until it is a WebSocket.
    Http,
    /// HTTP over TLS.
    Https,
}

/// All that doors share.
pub(super) struct Admission<M: Machine> {
    shared: Rc<Shared<M>>,
    /// The executor owns the tasks that own this.
    executor: Weak<LocalExecutor<'static>>,
    /// Where there is TLS.
    handshakes: Option<Rc<Handshakes>>,
    /// Handshakes and requests of each address.
    gate: RefCell<Gate>,
    http: Rc<Http>,
    said: Cell<Option<Mono>>,
}

impl<M: Machine + 'static> Admission<M> {
    pub(super) fn new(
        shared: &Rc<Shared<M>>,
        executor: &Rc<LocalExecutor<'static>>,
        handshakes: Option<Rc<Handshakes>>,
    ) -> Rc<Self> {
        let http = Rc::new(Http::new(Rc::new(Pages::new(shared))));
        let (shared, executor) = (Rc::clone(shared), Rc::downgrade(executor));
        Rc::new(Self {
            shared,
            executor,
            handshakes,
            gate: RefCell::new(Gate::new(ADDRESSES_MAX)),
            http,
            said: Cell::new(None),
        })
    }

    /// Somebody connected. Whatever costs little is looked at before whatever costs much.
    pub(super) fn arrived(self: &Rc<Self>, door: Door, stream: BoxStream, peer: Peer) {
        if let Peer::Ip { address, .. } = &peer
            && let Err(wait_ms) = self.may_come_in(door, address.ip())
        {
            log::debug!("no handshake with {address}, which connects too often: it may in {wait_ms} ms");
            return;
        }
        match (door, peer) {
            (Door::Tls | Door::Https, Peer::Ip { address, .. }) => {
                let Some(handshakes) = &self.handshakes else { return };
                if self.is_full() {
                    // It would cost a handshake to say so.
                    return self.say_full();
                }
                let timeout_ms = u64::from(self.shared.machine.borrow().settings().limits.handshake_ms);
                let admission = Rc::clone(self);
                if door == Door::Tls {
                    handshakes.start(stream, address, Inside::Frames, timeout_ms, move |stream, certificate| {
                        admission.enter(stream, Peer::Ip { address, via: Via::Tls, certificate });
                    });
                } else {
                    handshakes.start(stream, address, Inside::Http, timeout_ms, move |stream, certificate| {
                        admission.visit(stream, Peer::Ip { address, via: Via::Https, certificate });
                    });
                }
            }
            (Door::Http, Peer::Ip { address, certificate, .. }) => {
                self.visit(stream, Peer::Ip { address, via: Via::Http, certificate });
            }
            (_, peer) => self.enter(stream, peer),
        }
    }

    /// Somebody speaks HTTP, in a task of its own, and may speak frames once it is a WebSocket.
    fn visit(self: &Rc<Self>, stream: BoxStream, peer: Peer) {
        let Some(executor) = self.executor.upgrade() else { return };
        let admission = Rc::clone(self);
        // Boxed, so that what HTTP needed is gone once it is a WebSocket.
        let visit = Box::pin(Rc::clone(&self.http).serve(stream, peer));
        let task = async move {
            if let Some(Upgraded { stream, already, peer, .. }) = visit.await {
                let frame_bytes_max = admission.shared.machine.borrow().settings().limits.frame_bytes_max;
                admission.enter(Box::new(Frames::server(stream, already, frame_bytes_max)), peer);
            }
        };
        executor.spawn(task).detach();
    }

    /// Somebody who may speak frames now gets a task, if there is room.
    pub(super) fn enter(&self, stream: BoxStream, peer: Peer) {
        let Some(executor) = self.executor.upgrade() else { return };
        // The machine tells those just over its limit why it closes them, and waits for its words to arrive; of a flood
        // each gets the same words if its socket takes them at once, and costs no task.
        if self.is_full() && !peer.is_admin() {
            self.say_full();
            turn_away(stream);
            return;
        }
        let mut nonce = [0; NONCE_BYTES];
        if let Err(error) = entropy::fill(&mut nonce) {
            log::error!("a connection was refused, the kernel has no randomness for its challenge: {error}");
            return;
        }
        let conn = self.shared.number();
        log::debug!("connection {} from {peer:?}", conn.0);
        self.shared.handle(Event::Opened { conn, peer, nonce });
        executor.spawn(Connection::new(Rc::clone(&self.shared), conn, stream)).detach();
    }

    /// Asks the gate, where `limits.rates.connects` is set. The machine asks one of its own about every session, and can say
    /// why; here it is about what costs more than a connection: a handshake, a request. Whom a proxy brings is known later.
    fn may_come_in(&self, door: Door, address: IpAddr) -> Result<(), u32> {
        let machine = self.shared.machine.borrow();
        let settings = machine.settings();
        let behind_proxies = !settings.http.trusted_proxies.is_empty();
        if door == Door::Frames || (door != Door::Tls && behind_proxies) {
            return Ok(());
        }
        let per_second = u64::from(settings.limits.rates.connects_per_second);
        match Rate::new(per_second, per_second.saturating_mul(CONNECTS_BURST)) {
            Some(rate) => self.gate.borrow_mut().connect(address, rate, clock::mono()),
            None => Ok(()),
        }
    }

    fn connections_max(&self) -> usize {
        self.shared.machine.borrow().settings().limits.connections_max as usize
    }

    fn is_full(&self) -> bool {
        // Sessions of this process's bridges are on top.
        let bridges = self.shared.machine.borrow().settings().bridges.len();
        self.shared.connections() >= self.connections_max() + bridges + REFUSALS_MAX
    }

    fn say_full(&self) {
        let now = clock::mono();
        if self.said.get().is_none_or(|at| now.ms_since(at) >= SAY_EVERY_MS) {
            self.said.set(Some(now));
            log::warn!("a connection was refused: limits.connections_max = {} are open", self.connections_max());
        }
    }
}

/// Says why, as far as the socket takes it at once, and closes.
fn turn_away(mut stream: BoxStream) {
    let detail = "the broker has as many connections as it may: try later";
    let head = ErrorHead { code: Code::TooManyConnections as u16, retry_after_ms: RETRY_CONNECT_MS, detail };
    let mut frame = Vec::new();
    wire::append(&mut frame, FrameType::Error, 0, 0, Some(&head), &[]);
    wire::seal(&mut frame, 0);
    let mut cx = Context::from_waker(Waker::noop());
    // Best effort: there is nobody to wait for it.
    if let Poll::Ready(Ok(_)) = Pin::new(&mut stream).poll_write(&mut cx, &frame) {
        let _ = Pin::new(&mut stream).poll_close(&mut cx);
    }
}
