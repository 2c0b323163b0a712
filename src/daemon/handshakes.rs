//! Handshakes under way: each a task of its own, bounded in time and number, before anybody hears of the connection.

use crate::model::Mono;
use crate::runtime::clock;
use crate::runtime::reactor::Timer;
use crate::session::{Certificate, network};
use crate::tls::TlsError;
use crate::transport::{BoxStream, Inside, Tls, oldest_of_crowd};
use smol::future::FutureExt as _;
use smol::{LocalExecutor, Task};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;

/// Most at the same time. Where one more comes, one of the address that has most of them is dropped, the one that takes longest:
/// who means it is done within a few round trips, and a crowd that only holds the door costs no other address its place.
pub(super) const HANDSHAKES_MAX: usize = 256;
/// A peer that was refused has this long to take our last words and to close its own end, in milliseconds.
const LINGER_MS: u64 = 2_000;
/// Refusals are said this often, in milliseconds; those between are counted, and said at level debug.
const SAY_EVERY_MS: u64 = 10_000;

/// All of them.
pub(super) struct Handshakes {
    tls: Tls,
    /// The executor owns the tasks that own this.
    executor: Weak<LocalExecutor<'static>>,
    under_way: RefCell<BTreeMap<u64, (IpAddr, Task<()>)>>,
    last: Cell<u64>,
    /// Hears of each refusal.
    tell: Box<dyn Fn(&'static str)>,
    said: Cell<Option<Mono>>,
    unsaid: Cell<u64>,
}

impl Handshakes {
    /// `tell` is told the reason of each refusal.
    pub(super) fn new(
        tls: Tls,
        executor: &Rc<LocalExecutor<'static>>,
        tell: impl Fn(&'static str) + 'static,
    ) -> Rc<Self> {
        Rc::new(Self {
            tls,
            executor: Rc::downgrade(executor),
            under_way: RefCell::default(),
            last: Cell::new(0),
            tell: Box::new(tell),
            said: Cell::new(None),
            unsaid: Cell::new(0),
        })
    }

    /// Shakes hands with a peer; `then` is called if that went well, within the time.
    pub(super) fn start(
        self: &Rc<Self>,
        stream: BoxStream,
        address: SocketAddr,
        inside: Inside,
        timeout_ms: u64,
        then: impl FnOnce(BoxStream, Option<Arc<Certificate>>) + 'static,
    ) {
        let Some(executor) = self.executor.upgrade() else { return };
        let number = self.last.get() + 1;
        self.last.set(number);
        let this = Rc::clone(self);
        let task = executor.spawn(async move {
            let late = async {
                Timer::after_ms(timeout_ms).await;
                None
            };
            let done = async { Some(this.tls.accept(stream, inside).await) }.or(late).await;
            let done = match done {
                Some(Ok((stream, certificate))) => Some((stream, certificate)),
                Some(Err(refused)) => {
                    this.refused(address, &refused.error);
                    // Still one of those under way.
                    refused.linger().or(Timer::after_ms(LINGER_MS)).await;
                    None
                }
                None => {
                    let text = "its handshake takes longer than limits.handshake".into();
                    this.refused(address, &TlsError { reason: "late", text });
                    None
                }
            };
            if let Some((_, task)) = this.under_way.borrow_mut().remove(&number) {
                task.detach();
            }
            if let Some((stream, certificate)) = done {
                then(stream, certificate);
            }
        });
        let mut under_way = self.under_way.borrow_mut();
        under_way.insert(number, (network(address.ip()), task));
        if under_way.len() > HANDSHAKES_MAX {
            let networks = under_way.iter().map(|(number, (network, _))| (*number, Some(*network)));
            let oldest = oldest_of_crowd(networks).and_then(|(number, ..)| under_way.remove(&number));
            drop(under_way);
            // Dropping a task ends it.
            drop(oldest);
            (self.tell)("crowd");
            log::debug!("a handshake was dropped: {HANDSHAKES_MAX} others are under way");
        }
    }

    fn refused(&self, address: SocketAddr, error: &TlsError) {
        (self.tell)(error.reason);
        let now = clock::mono();
        if self.said.get().is_some_and(|at| now.ms_since(at) < SAY_EVERY_MS) {
            self.unsaid.set(self.unsaid.get() + 1);
            log::debug!("no TLS with {address}: {error}");
            return;
        }
        self.said.set(Some(now));
        match self.unsaid.take() {
            0 => log::warn!("no TLS with {address}: {error}"),
            more => log::warn!("no TLS with {address}: {error} (and {more} more since the last such line)"),
        }
    }
}
