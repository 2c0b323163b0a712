//! What the HTTP listeners answer beside WebSocket.

use super::machine::Machine;
use super::shared::Shared;
use crate::config::HttpSettings;
use crate::transport::{Answer, Site};
use std::rc::Rc;

/// What is behind the paths.
pub(super) struct Pages<M> {
    shared: Rc<Shared<M>>,
}

impl<M> Pages<M> {
    pub(super) fn new(shared: &Rc<Shared<M>>) -> Self {
        Self { shared: Rc::clone(shared) }
    }
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
