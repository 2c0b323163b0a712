//! How much of each bound is used: what a bound is worth is seen by looking, at any moment, from outside.

use super::Broker;
use super::conn::CONTROL_BYTES_MAX;

/// One bounded thing and how much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage<'a> {
    /// What it is, with its unit.
    pub what: &'static str,
    /// Whose: the queue, the consumer or the number of the session; empty for the broker's own.
    pub whose: Whose<'a>,
    /// How much there is.
    pub used: u64,
    /// The configured bound. What one read of a socket brings, or one message too large for the rest, may come on top
    /// where `proto/frame.md` and the settings say so; nothing else may.
    pub bound: u64,
}

/// Whose a bounded thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose<'a> {
    /// The broker's own.
    Broker,
    /// A tenant's, or with an empty name that of whoever belongs to none.
    Mount(&'a str),
    /// A queue's.
    Queue(&'a str),
    /// A consumer's: its queue, its name.
    Consumer(&'a str, &'a str),
    /// A session's.
    Session(u64),
}

impl Broker {
    /// Shows every bounded thing: queues, windows, outboxes, what waits for the disk.
    pub fn usage(&self, visit: &mut dyn FnMut(Usage<'_>)) {
        let limits = &self.settings.limits;
        let mut own =
            |what, used: usize, bound: u64| visit(Usage { what, whose: Whose::Broker, used: used as u64, bound });
        let store = &self.settings.store;
        own("bytes waiting for the disk", self.disk.pending_bytes(), u64::from(store.pending_bytes_max));
        // Beyond it each tenant still has its share.
        let shares = if self.mounts.len() > 1 { self.share_of_asks() * self.mounts.len() as u64 } else { 0 };
        own("requests waiting for an answer", self.asks.len(), u64::from(limits.requests_max) + shares);
        let principals = 2 * u64::from(limits.connections_max);
        own("principals whose rate is watched", self.budgets.len(), principals);
        for m in &self.mounts {
            let whose = Whose::Mount(&m.tenant);
            let mut its = |what, used: u64, bound: u64| visit(Usage { what, whose, used, bound });
            its("ids remembered", m.dedupe.len() as u64, u64::from(store.dedupe.ids_max));
            its("retained values", m.retained.len() as u64, u64::from(limits.retained_max));
            its("bytes of retained values", m.retained_bytes, limits.retained_bytes_max);
            if m.quota.connections_max > 0 {
                its("connections of a tenant", u64::from(m.connections), u64::from(m.quota.connections_max));
            }
        }
        for q in self.queues.iter() {
            let name = &*q.settings.name;
            let whose = Whose::Queue(name);
            let (messages_max, bytes_max) = (q.settings.messages_max, q.settings.bytes_max);
            visit(Usage { what: "messages of a queue", whose, used: q.messages(), bound: messages_max });
            visit(Usage { what: "bytes of a queue", whose, used: q.bytes(), bound: bytes_max });
            for c in q.consumers.iter().flatten() {
                let whose = Whose::Consumer(name, &c.name);
                let (used, bound) = (u64::from(c.outstanding), u64::from(c.window));
                visit(Usage { what: "deliveries without an answer", whose, used, bound });
            }
        }
        for (id, c) in &self.conns {
            let s = &c.session;
            let whose = Whose::Session(id.0);
            let data = self.waiting_bytes(*id) as u64;
            visit(Usage { what: "bytes of an outbox", whose, used: data, bound: u64::from(limits.outbox_bytes_max) });
            let (used, bound) = (s.outbox.control_len() as u64, CONTROL_BYTES_MAX as u64);
            visit(Usage { what: "bytes of control frames", whose, used, bound });
            let (used, bound) = (u64::from(s.unacked_messages), u64::from(limits.window_messages));
            visit(Usage { what: "publishes without an answer", whose, used, bound });
            let (used, bound) = (s.unacked_bytes, u64::from(limits.window_bytes));
            visit(Usage { what: "bytes of publishes without an answer", whose, used, bound });
            let (used, bound) = (s.streams.len() as u64, u64::from(limits.streams_max));
            visit(Usage { what: "streams of a session", whose, used, bound });
        }
    }
}
