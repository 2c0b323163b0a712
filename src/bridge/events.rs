//! What the sessions say, frame by frame.

use super::local::LocalState;
use super::machine::{Bridge, window};
use super::side::Stop;
use super::upstream::{self, refused};
use super::{Action, Failure, Reason};
use crate::client::Event;
use crate::model::Now;
use crate::wire::{Auth, Code, Deliver, DeliverItems, Frame, FrameType, Goaway, Outcome, auth_method};

impl Bridge {
    pub(super) fn upstream_frame(&mut self, now: Now, frame: &Frame<'_>) -> Result<(), Stop> {
        let Some(upstream) = self.upstream.as_mut() else { return Err(Stop::Over) };
        if frame.header.kind == FrameType::Welcome {
            upstream.welcomed(frame)?;
        }
        let event = upstream.link.handle_frame(frame)?;
        if self.down.handle_upstream(now.mono, &self.settings, &event)? {
            return Ok(());
        }
        match event {
            Event::Challenge { method, data } => self.handle_challenge(method, data),
            Event::Welcome(_) => {
                self.life.opened(now.mono);
                self.opened(now);
                Ok(())
            }
            Event::PublishAck { stream, ack } => {
                if ack.outcome == Outcome::Dropped {
                    // By the policy of a full queue there: it is gone, and that is not silent.
                    *self.counters.dropped.entry("upstream-full".into()).or_default() += u64::from(ack.count);
                }
                if self.up.handle_ack(now.mono, stream, ack.first, ack.count) {
                    self.life.acknowledged();
                    upstream.moved_at = now.mono;
                }
                Ok(())
            }
            Event::PublishNack { stream, nack } => {
                self.up.handle_nack(now.mono, stream, &nack);
                Ok(())
            }
            Event::Pause { stream, .. } => {
                self.up.handle_pause(stream, true);
                Ok(())
            }
            Event::Resume { stream } => {
                self.up.handle_pause(stream, false);
                Ok(())
            }
            Event::Error { stream: 0, error } => Err(refused(error.code, error.retry_after_ms, error.detail)),
            Event::Close(close) => Err(refused(close.code, 0, close.detail)),
            Event::Goaway(goaway) => self.handle_goaway(now, &goaway),
            // Of streams that are open no more.
            Event::Deliver { .. }
            | Event::Chunk { .. }
            | Event::Done { .. }
            | Event::Error { .. }
            | Event::Dropped { .. } => Ok(()),
            Event::Request { .. }
            | Event::Response { .. }
            | Event::Cancel { .. }
            | Event::Pong
            | Event::Ping
            | Event::Ignored => Ok(()),
        }
    }

    fn handle_challenge(&mut self, method: u8, challenge: &[u8]) -> Result<(), Stop> {
        if method == auth_method::TRANSPORT {
            if let Some(upstream) = self.upstream.as_mut() {
                upstream.frame(FrameType::Auth, 0, &Auth { method, data: &[] });
            }
            return Ok(());
        }
        let (number, challenge) = (self.life.number, challenge.to_vec());
        self.actions.push_back(Action::Credentials { number, method, challenge });
        Ok(())
    }

    /// The upstream will end the connection. What it refuses to renew in time is begun anew before it ends, where the link is
    /// not just that.
    fn handle_goaway(&mut self, now: Now, goaway: &Goaway<'_>) -> Result<(), Stop> {
        if goaway.code == Code::CredentialsExpired as u16 {
            if self.life.may_renew(now.mono) {
                self.renew(now, false);
                return Err(Stop::Over);
            }
        } else if let Some(upstream) = self.upstream.as_mut() {
            let deadline_ms = u64::from(goaway.deadline_ms) + upstream::GOING_MS;
            upstream.going = Some((now.mono.plus_ms(deadline_ms), goaway.detail.into()));
        }
        Ok(())
    }

    pub(super) fn local_frame(&mut self, now: Now, frame: &Frame<'_>) -> Result<(), Stop> {
        let event = self.local.link.handle_frame(frame)?;
        if self.down.handle_local(now.mono, &event)? {
            self.changed = true;
            return Ok(());
        }
        match event {
            Event::Welcome(_) => {
                self.local.state = LocalState::Open;
                if let Some(terms) = self.local.link.terms() {
                    self.down.local_opened(terms);
                }
                self.local.consume(&self.settings.consumer(), window(&self.settings));
                self.changed = true;
                Ok(())
            }
            Event::Done { stream, .. } => {
                self.local.handle_done(stream);
                Ok(())
            }
            Event::Deliver { stream, head, payload, more } if self.local.takes(stream) => {
                if more {
                    return self.local.begin(stream, head, payload);
                }
                self.handle_delivery(stream, &head, payload)
            }
            Event::Chunk { stream, kind: FrameType::Deliver, payload, more } if self.local.takes(stream) => {
                match self.local.assembly.go_on(stream, payload, more)? {
                    Some((head, bytes)) => self.handle_delivery(stream, &head, &bytes),
                    None => Ok(()),
                }
            }
            Event::Error { stream: 0, error } => Err(Stop::new(Reason::Local, error.detail)),
            Event::Error { stream, error } => {
                if let Some(queue) = self.local.handle_refused(now, stream) {
                    let detail = format!("queue {queue:?} cannot be consumed: {}", error.detail);
                    self.life.last = Some((Failure { reason: Reason::Local, detail }, now.mono));
                    self.changed = true;
                }
                Ok(())
            }
            Event::Close(close) => Err(Stop::new(Reason::Local, close.detail)),
            _ => Ok(()),
        }
    }

    /// Messages of a queue: into their lanes.
    fn handle_delivery(&mut self, stream: u32, head: &Deliver, payload: &[u8]) -> Result<(), Stop> {
        let Some(consumer) = self.local.consumer_of(stream) else { return Ok(()) };
        let Some(upstream) = self.upstream.as_mut() else { return Ok(()) };
        let mut lane = None;
        for (tag, item) in (head.first_tag..).zip(DeliverItems::parse(payload, head.count, head.total)?) {
            let c = &mut self.local.consumers[consumer];
            c.credit_messages = c.credit_messages.saturating_sub(1);
            c.credit_bytes -= item.record.len() as i64;
            let at = match lane {
                Some((priority, at)) if priority == item.lane => at,
                _ => self.up.lane(consumer, head.epoch, item.lane, || {
                    (upstream.stream(), upstream.take_position(head.epoch, item.lane))
                }),
            };
            lane = Some((item.lane, at));
            self.up.take(&mut self.passage, at, tag, item.seq, item.record);
        }
        Ok(())
    }
}
