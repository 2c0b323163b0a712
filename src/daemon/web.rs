//! The HTTP listeners: what the site answers, and WebSockets that become connections like all others.

use super::machine::Machine;
use super::shared::Shared;
use crate::config::HttpSettings;
use crate::session::Peer;
use crate::transport::{Answer, BoxStream, Http, Site, Upgraded};
use crate::websocket::Frames;
use smol::LocalExecutor;
use std::rc::{Rc, Weak};

/// The HTTP side of the daemon: one for all its listeners.
pub(super) struct Web<M> {
    shared: Rc<Shared<M>>,
    http: Rc<Http>,
}

impl<M: Machine + 'static> Web<M> {
    pub(super) fn new(shared: &Rc<Shared<M>>) -> Self {
        let http = Rc::new(Http::new(Rc::new(Pages { shared: Rc::clone(shared) })));
        Self { shared: Rc::clone(shared), http }
    }

    /// What becomes of a new connection: a task, until it ends or is admitted as a connection of frames.
    pub(super) fn visits(
        &self,
        executor: &Rc<LocalExecutor<'static>>,
        admit: Rc<dyn Fn(BoxStream, Peer)>,
    ) -> impl FnMut(BoxStream, Peer) + use<M> {
        let (shared, http) = (Rc::clone(&self.shared), Rc::clone(&self.http));
        // The executor owns the task that owns this.
        let executor: Weak<LocalExecutor<'static>> = Rc::downgrade(executor);
        move |stream, peer| {
            let Some(executor) = executor.upgrade() else { return };
            let (shared, http, admit) = (Rc::clone(&shared), Rc::clone(&http), Rc::clone(&admit));
            // Boxed, so that what HTTP needed is gone once it is a WebSocket.
            let visit = Box::pin(http.serve(stream, peer));
            let task = async move {
                if let Some(Upgraded { stream, already, peer, .. }) = visit.await {
                    let frame_bytes_max = shared.machine.borrow().settings().limits.frame_bytes_max;
                    admit(Box::new(Frames::server(stream, already, frame_bytes_max)), peer);
                }
            };
            executor.spawn(task).detach();
        }
    }
}

/// What is behind the paths.
struct Pages<M> {
    shared: Rc<Shared<M>>,
}

impl<M: Machine> Site for Pages<M> {
    fn settings(&self) -> HttpSettings {
        self.shared.machine.borrow().settings().http.clone()
    }

    fn head_ms(&self) -> u64 {
        u64::from(self.shared.machine.borrow().settings().limits.handshake_ms)
    }

    fn get(&self, path: &str) -> Option<Answer> {
        match path {
            "/healthz" => Some(match self.shared.machine.borrow().health() {
                Ok(()) => Answer::text(200, "ok\n"),
                Err(why) => Answer::text(503, format!("{why}\n")),
            }),
            _ => None,
        }
    }
}
