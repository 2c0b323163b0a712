//! Request and response: live, to one responder, with a deadline.

use super::Broker;
use super::conn::Stream;
use super::publish::BROKER_STREAM;
use super::{Timer, admin, upstream};
use crate::model::limits::HEAD_PROPERTIES_BYTES_MAX;
use crate::model::{Channel, ConnId, Properties};
use crate::protocols::Fault;
use crate::routing::Ask as May;
use crate::wire::{Cancel, Code, FrameType, Request, Response};

/// A request under way.
pub(super) struct Ask {
    /// Place of the mount it is in.
    pub(super) mount: usize,
    asker: (ConnId, u32),
    responder: (ConnId, u32),
}

impl Broker {
    pub(super) fn add_responder(&mut self, conn: ConnId, stream: u32, filter: &str) -> Result<(), Fault> {
        if filter.starts_with('$') {
            self.refuse(conn, stream, Code::Forbidden, "channels that begin with $ belong to the broker");
            return Ok(());
        }
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        c.session.streams.insert(stream, Stream::Responder(filter.into()));
        self.mounts[c.mount].responders.insert(filter, (conn, stream));
        self.done(conn, stream, 0, 0, true);
        Ok(())
    }

    pub(super) fn handle_ask(
        &mut self,
        conn: ConnId,
        stream: u32,
        head: &Request<'_>,
        body: &[u8],
    ) -> Result<(), Fault> {
        self.check_new_stream(conn, stream)?;
        if let Some(id) = head.channel.strip_prefix(upstream::STATUS) {
            return self.handle_status(conn, stream, id);
        }
        let administers = head.channel.starts_with(admin::PREFIX);
        let what = if administers { May::Admin(head.channel) } else { May::Request(head.channel) };
        if let Err(why) = self.permit(conn, &what) {
            self.refuse(conn, stream, Code::Forbidden, &why);
            return Ok(());
        }
        if let Err((code, detail)) = self.ask(conn, stream, head, body) {
            self.refuse(conn, stream, code, detail);
        }
        Ok(())
    }

    fn ask(&mut self, conn: ConnId, stream: u32, head: &Request<'_>, body: &[u8]) -> Result<(), (Code, &'static str)> {
        let channel = Channel::parse(head.channel)
            .map_err(|_| (Code::BadChannel, "a request goes to a channel without wildcards"))?;
        if head.properties.len() > HEAD_PROPERTIES_BYTES_MAX || Properties::parse(head.properties).is_err() {
            return Err((Code::BadOptions, "a request's properties must be well-formed, at most 2 KiB in all"));
        }
        if body.len() > self.settings.limits.message_bytes_max as usize {
            return Err((Code::MessageTooLarge, "the body is larger than the broker takes"));
        }
        if channel.as_str().starts_with(admin::PREFIX) {
            return self.handle_admin(conn, stream, channel.as_str(), body);
        }
        let mount = self.mount_of_conn(conn);
        if self.asks.len() >= self.settings.limits.requests_max as usize && !self.has_share(mount) {
            return Err((Code::LimitReached, "as many requests are under way as may be"));
        }
        let mut found = Vec::new();
        self.mounts[mount].responders.matches(channel.as_str(), &mut found);
        // One who does not read is no responder.
        let room = self.settings.limits.outbox_bytes_max as usize;
        let takes = |conn: &ConnId| {
            self.conns.get(conn).is_some_and(|c| body.len() <= c.session.peer_message_bytes_max as usize)
        };
        found.retain(|(conn, _)| self.waiting_bytes(*conn) + body.len() < room && takes(conn));
        found.sort_unstable();
        if found.is_empty() {
            return Err((Code::NoResponder, "nobody answers on this channel"));
        }
        let turn = &mut self.mounts[mount].turn;
        *turn = turn.wrapping_add(1);
        let (to, _) = found[*turn % found.len()];
        let id = self.next_id();
        let Some(c) = self.conns.get_mut(&to) else { return Err((Code::NoResponder, "the responder is gone")) };
        let mut asked = BROKER_STREAM | (id as u32 & !BROKER_STREAM);
        while c.session.streams.contains_key(&asked) {
            asked = BROKER_STREAM | (asked.wrapping_add(1) & !BROKER_STREAM);
        }
        c.session.streams.insert(asked, Stream::Answering(id));
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session.streams.insert(stream, Stream::Asking(id));
        }
        self.asks.insert(id, Ask { mount, asker: (conn, stream), responder: (to, asked) });
        self.mounts[mount].asks += 1;
        let deadline_ms = match head.deadline_ms {
            0 => self.settings.limits.request_deadline_ms_max,
            ms => ms.min(self.settings.limits.request_deadline_ms_max),
        };
        self.timers.set(Timer::Ask(id), self.now.mono.plus_ms(u64::from(deadline_ms)));
        let head = Request { deadline_ms, total: body.len() as u32, ..*head };
        self.message(to, asked, FrameType::Request, &head, body);
        Ok(())
    }

    /// Whether a mount waits for less than its share of all requests: one that fills the rest takes nobody's away.
    fn has_share(&self, mount: usize) -> bool {
        self.mounts.len() > 1 && u64::from(self.mounts[mount].asks) < self.share_of_asks()
    }

    /// Requests that each mount may have under way, whatever the others have.
    pub(super) fn share_of_asks(&self) -> u64 {
        u64::from(self.settings.limits.requests_max) / self.mounts.len() as u64
    }

    pub(super) fn handle_answer(
        &mut self,
        conn: ConnId,
        stream: u32,
        head: &Response<'_>,
        body: &[u8],
    ) -> Result<(), Fault> {
        let found = self.conns.get(&conn).and_then(|c| c.session.streams.get(&stream));
        let Some(&Stream::Answering(id)) = found else {
            // The asker gave up, or its deadline passed, while the answer was on its way.
            return if stream & BROKER_STREAM != 0 {
                Ok(())
            } else {
                Err(Fault::new(Code::BadStream, "an answer goes to the stream its request came on"))
            };
        };
        let Some((to, asked)) = self.asks.get(&id).map(|a| a.asker) else { return Ok(()) };
        if Properties::parse(head.trailers).is_err() || head.trailers.len() > HEAD_PROPERTIES_BYTES_MAX {
            return Err(Fault::new(Code::BadOptions, "trailers must be well-formed, at most 2 KiB in all"));
        }
        if self.waiting_bytes(to) + body.len() > 2 * self.settings.limits.outbox_bytes_max as usize {
            self.end_ask(id, Code::SlowReader);
            return Ok(());
        }
        self.message(to, asked, FrameType::Response, head, body);
        if head.last {
            self.forget_ask(id);
        }
        Ok(())
    }

    pub(super) fn handle_cancel(&mut self, conn: ConnId, stream: u32, code: u16) -> Result<(), Fault> {
        match self.conns.get(&conn).and_then(|c| c.session.streams.get(&stream)) {
            Some(&Stream::Asking(id)) => self.drop_ask(id),
            Some(&Stream::Answering(id)) => self.end_ask(id, Code::from_u16(code).unwrap_or(Code::ResponderFailed)),
            // It ended while the cancel was on its way.
            _ => {}
        }
        Ok(())
    }

    /// The asker gave up or is gone: the responder is told.
    pub(super) fn drop_ask(&mut self, id: u64) {
        if let Some((to, stream)) = self.forget_ask(id).map(|a| a.responder) {
            self.control(to, stream, FrameType::Cancel, &Cancel { code: Code::Cancelled as u16 });
        }
    }

    /// There will be no answer, or no more of it: both sides are told.
    pub(super) fn end_ask(&mut self, id: u64, code: Code) {
        let Some(ask) = self.forget_ask(id) else { return };
        let detail = match code {
            Code::DeadlineExceeded => "no answer came before the deadline",
            Code::ResponderFailed => "the responder is gone",
            Code::SlowReader => "the asker does not read its answers",
            _ => "the request was given up",
        };
        self.refuse(ask.asker.0, ask.asker.1, code, detail);
        self.control(ask.responder.0, ask.responder.1, FrameType::Cancel, &Cancel { code: code as u16 });
    }

    fn forget_ask(&mut self, id: u64) -> Option<Ask> {
        self.timers.remove(Timer::Ask(id));
        let ask = self.asks.remove(&id)?;
        self.mounts[ask.mount].asks -= 1;
        for (conn, stream) in [ask.asker, ask.responder] {
            if let Some(c) = self.conns.get_mut(&conn) {
                c.session.streams.remove(&stream);
            }
        }
        Some(ask)
    }

    /// Answers a request the broker itself was asked.
    pub(super) fn answer(&mut self, conn: ConnId, stream: u32, status: u16, body: &[u8]) {
        let head = Response { status, last: true, total: body.len() as u32, trailers: &[] };
        self.message(conn, stream, FrameType::Response, &head, body);
    }
}
