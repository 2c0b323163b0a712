//! What sessions may do: asked where their requests are admitted, and again for what is open when roles change.

use super::Broker;
use super::conn::Stream;
use super::login::stranger_roles;
use crate::model::ConnId;
use crate::routing::{Ask, Grants};
use crate::session::Method;
use crate::wire::Code;
use std::sync::Arc;

impl Broker {
    /// Gives a session what its roles allow.
    pub(super) fn grant(&mut self, conn: ConnId) {
        if let Some(c) = self.conns.get_mut(&conn) {
            let who = &c.session.principal;
            let roles = who.roles.iter().map(|role| &**role);
            c.grants = Some(Grants::new(Arc::clone(&self.permissions), &who.name, &who.tenant, roles, who.admin));
        }
    }

    /// Whether a session may do this.
    ///
    /// # Errors
    /// What its client is told.
    pub(super) fn permit(&self, conn: ConnId, ask: &Ask<'_>) -> Result<(), String> {
        let grants = self.conns.get(&conn).and_then(|c| c.grants.as_ref());
        let Some(grants) = grants else { return Err("the session is not open".into()) };
        let decision = grants.decide(ask);
        if decision.is_allowed() { Ok(()) } else { Err(format!("{}: {decision}", ask.name())) }
    }

    /// Settings were loaded again: what roles allow holds for open sessions, too.
    pub(super) fn regrant(&mut self) {
        for conn in self.conns_in_order() {
            let Some(c) = self.conns.get_mut(&conn).filter(|c| c.session.is_open()) else { continue };
            let who = &mut c.session.principal;
            if who.method == Method::None && !who.admin {
                match stranger_roles(&self.settings, &c.peer) {
                    Some(roles) => who.roles = roles,
                    None => {
                        self.fail(conn, Code::Forbidden, "strangers may not be here any more: log in");
                        continue;
                    }
                }
            }
            self.grant(conn);
            self.reconsider(conn);
        }
    }

    /// Ends what a session has open and may not have any more.
    pub(super) fn reconsider(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get(&conn) else { return };
        let mut ended = Vec::new();
        for (id, stream) in &c.session.streams {
            let judged = match stream {
                Stream::Subscription(subscription) => self.permit(conn, &Ask::Subscribe(subscription.filter())),
                Stream::Responder(filter) => self.permit(conn, &Ask::Respond(filter)),
                Stream::Consumer(q, consumer, _) => {
                    let queue = &self.queues[*q];
                    let filters = queue.consumers[*consumer].as_ref().map(|c| c.filters.as_slice()).unwrap_or_default();
                    self.permit_consume(conn, &queue.settings.name, filters)
                }
                Stream::Asking(_) | Stream::Answering(_) | Stream::History => Ok(()),
            };
            if let Err(why) = judged {
                ended.push((*id, why));
            }
        }
        for (id, why) in ended {
            let Some(stream) = self.conns.get_mut(&conn).and_then(|c| c.session.streams.remove(&id)) else { continue };
            self.build(conn);
            self.end_stream(self.mount_of_conn(conn), conn, id, stream, false);
            self.refuse(conn, id, Code::Forbidden, &why);
        }
    }

    /// Whether a session may consume with these filters; none is everything.
    ///
    /// # Errors
    /// What its client is told.
    pub(super) fn permit_consume(&self, conn: ConnId, queue: &str, filters: &[String]) -> Result<(), String> {
        if filters.is_empty() {
            return self.permit(conn, &Ask::Consume { queue, filter: "#" });
        }
        filters.iter().try_for_each(|filter| self.permit(conn, &Ask::Consume { queue, filter }))
    }
}
