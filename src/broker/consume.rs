//! Durable consumers: who consumes, acknowledgements, failures, credit.

use super::conn::{Conn, Stream, clip};
use super::tracks::Fate;
use super::{Broker, Peer, Timer};
use crate::config::{BridgeSettings, Keep};
use crate::model::limits::{CONSUMER_FILTERS_MAX, NAME_BYTES_MAX};
use crate::model::{ConnId, Filter, Priority, Volume, Wall};
use crate::protocols::Fault;
use crate::queue::{Attachment, Consumer, Failed, PendingState};
use crate::wire::{Ack, Code, Consume, Credit, FilterItems, Nack, Start};
use std::collections::VecDeque;

impl Broker {
    pub(super) fn handle_consume(
        &mut self,
        conn: ConnId,
        stream: u32,
        head: &Consume<'_>,
        filters: FilterItems<'_>,
    ) -> Result<(), Fault> {
        self.check_new_stream(conn, stream)?;
        let refused = self.consume(conn, stream, head, filters);
        if let Err((code, detail)) = refused {
            self.refuse(conn, stream, code, &detail);
        }
        Ok(())
    }

    fn consume(
        &mut self,
        conn: ConnId,
        stream: u32,
        head: &Consume<'_>,
        filters: FilterItems<'_>,
    ) -> Result<(), (Code, String)> {
        if filters.len() > CONSUMER_FILTERS_MAX {
            return Err((Code::BadOptions, format!("a consumer has at most {CONSUMER_FILTERS_MAX} filters")));
        }
        let mut wanted = Vec::new();
        for filter in filters {
            Filter::parse(filter).map_err(|e| (Code::BadFilter, format!("{filter:?}: {e}")))?;
            wanted.push(filter.to_owned());
        }
        let forbidden = |why| (Code::Forbidden, why);
        self.permit_consume(conn, head.queue, &wanted).map_err(forbidden)?;
        let Some(q) = self.named_queue(self.mount_of_conn(conn), head.queue) else {
            return Err((Code::UnknownQueue, format!("there is no queue {:?}", head.queue)));
        };
        if !is_name(head.name) {
            let what = "a consumer's name has 1 to 128 bytes of letters, digits, '.', '_', '-' and ':'";
            return Err((Code::BadName, what.into()));
        }
        self.check_consumer_name(conn, head.name)?;
        let mut attachment = Attachment {
            id: self.ids + 1,
            conn,
            stream,
            credit_messages: 0,
            credit_bytes: 0,
            paused: false,
            held_lanes: 0,
            next_tag: 1,
            tags: VecDeque::new(),
        };
        if !attachment.add_credit(head.credit_messages, head.credit_bytes) {
            return Err((Code::CreditOverflow, "more than 2^31-1 messages or bytes of credit".into()));
        }
        // The last that may refuse: what is refused leaves no consumer that holds the queue's messages.
        let index = match self.queues[q].consumer_index(head.name) {
            Some(index) => {
                let known = self.queues[q].consumers[index].as_ref().filter(|c| c.filters != wanted);
                // What is under way comes back whatever the filters are, and what only the old ones want is passed over from
                // now on: it must be this session's to see, and to lose, too.
                known.map_or(Ok(()), |c| self.permit_consume(conn, head.queue, &c.filters)).map_err(forbidden)?;
                index
            }
            None => self.add_consumer(q, head)?,
        };
        let bridge = self.is_bridge(conn);
        self.check_alone(conn, q, index, head)?;
        let queue = &self.queues[q];
        let (window_max, epoch, volume) = (queue.settings.window, queue.epoch.0, queue.volume);
        let defaults = (queue.settings.attempts_max, queue.settings.backoff_ms);
        let Some(c) = self.queues[q].consumers[index].as_mut() else { return Ok(()) };
        if c.attachments.iter().any(|a| a.conn == conn) {
            let what = format!("this session already consumes {:?} as {:?}", head.queue, head.name);
            return Err((Code::DuplicateConsumer, what));
        }
        if !c.attachments.is_empty() && !c.has_filters(&wanted) {
            // What its filters leave out is passed over for all: the others would not know.
            let what = format!("other sessions consume {:?} as {:?} with other filters", head.queue, head.name);
            return Err((Code::Conflict, what));
        }
        let id = attachment.id;
        self.ids = id;
        let new = (
            match head.window {
                0 => window_max,
                // What a bridge holds is bounded by its credit.
                window if bridge => window,
                window => window.min(window_max),
            },
            if head.attempts_max == 0 { defaults.0 } else { head.attempts_max },
            head.ack_timeout_ms,
            if head.backoff_ms == 0 { defaults.1 } else { head.backoff_ms },
        );
        if (c.window, c.attempts_max, c.ack_timeout_ms, c.backoff_ms) != new || c.filters != wanted {
            (c.window, c.attempts_max, c.ack_timeout_ms, c.backoff_ms) = new;
            c.filters = wanted;
            c.dirty = true;
        }
        c.attachments.push(attachment);
        let position = c.position(Priority::default());
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.session.streams.insert(stream, Stream::Consumer(q, index, id));
        }
        let now = self.now.mono;
        self.volume_mut(volume).nudge(now);
        if head.ack_timeout_ms > 0 {
            self.timers.set_earlier(Timer::AckTimeout(q, index), now.plus_ms(u64::from(head.ack_timeout_ms)));
        }
        self.adopt_forward(conn, q, index);
        self.done(conn, stream, epoch, position, true);
        self.pumps.push((q, index));
        Ok(())
    }

    /// Names of bridges' consumers are for sessions of bridges, and that of a bridge of this process for its own: a competitor
    /// would take messages the upstream never gets.
    fn check_consumer_name(&self, conn: ConnId, consumer: &str) -> Result<(), (Code, String)> {
        if !consumer.starts_with(BridgeSettings::CONSUMER) {
            return Ok(());
        }
        let Some(c) = self.conns.get(&conn) else { return Ok(()) };
        if !c.is_of_bridge() {
            let what = format!("{consumer:?} is a name for bridges: begin it with something else");
            return Err((Code::Forbidden, what));
        }
        let tenant = &*self.mounts[c.mount].tenant;
        let owner = self.settings.bridges.iter().find(|b| *b.tenant == *tenant && b.consumer() == consumer);
        let is_its = |b: &BridgeSettings| matches!(&c.peer, Peer::Bridge { name, .. } if **name == *b.name);
        if owner.is_some_and(|b| !is_its(b)) {
            return Err((Code::Forbidden, format!("{consumer:?} is the consumer of a bridge of this broker")));
        }
        Ok(())
    }

    /// A bridge shares a consumer with nobody: it tells by positions what it has, and below them there must be nothing that
    /// another session was given.
    fn check_alone(&self, conn: ConnId, q: usize, index: usize, head: &Consume<'_>) -> Result<(), (Code, String)> {
        let is_bridge = |conn: &ConnId| self.conns.get(conn).is_some_and(Conn::is_of_bridge);
        let attached = self.queues[q].consumers[index].as_ref().map_or(&[][..], |c| &c.attachments);
        let mut others = attached.iter().map(|a| a.conn).filter(|other| *other != conn).peekable();
        if others.peek().is_none() || (!is_bridge(&conn) && !others.any(|other| is_bridge(&other))) {
            return Ok(());
        }
        let what =
            format!("another session consumes {:?} as {:?}, and a bridge shares that with none", head.queue, head.name);
        Err((Code::Conflict, what))
    }

    fn add_consumer(&mut self, q: usize, head: &Consume<'_>) -> Result<usize, (Code, String)> {
        let queue = &mut self.queues[q];
        let existing = queue.consumers.iter().flatten().count();
        if queue.settings.keep == Keep::Work && existing > 0 {
            let name = queue.consumers.iter().flatten().map(|c| c.name.to_string()).next().unwrap_or_default();
            let what = format!("queue {:?} keeps for one consumer group, and that is {name:?}", head.queue);
            return Err((Code::QueueHasConsumer, what));
        }
        if existing >= queue.settings.consumers_max as usize {
            return Err((Code::BadOptions, format!("queue {:?} has as many consumers as it may", head.queue)));
        }
        let mut consumer = Consumer::new(head.name);
        let starts: Vec<(Priority, u64)> = queue
            .lanes()
            .map(|lane| {
                let at = match head.start {
                    Start::First => lane.head,
                    Start::New => lane.next,
                    Start::Time(ms) => lane.since(Wall(ms)).max(lane.head),
                };
                (lane.priority, at)
            })
            .collect();
        for (priority, at) in starts {
            consumer.lane_mut(priority).cursor = at;
        }
        let volume = queue.volume;
        let index = match queue.consumers.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                queue.consumers.push(None);
                queue.consumers.len() - 1
            }
        };
        if volume == Volume::Disk {
            // After a cut it would not be known what it was given: that is to carry the flag of a redelivery then.
            consumer.born = self.disk.bear((q, index));
        }
        self.queues[q].consumers[index] = Some(consumer);
        Ok(index)
    }

    /// A session's part in a consumer is over.
    pub(super) fn detach(&mut self, queue: usize, consumer: usize, attachment: u64) {
        if let Some(c) = self.queues[queue].consumers[consumer].as_mut() {
            c.detach(attachment);
            self.pumps.push((queue, consumer));
        }
    }

    fn attachment_mut(&mut self, conn: ConnId, stream: u32) -> Result<(usize, usize, &mut Attachment), Fault> {
        let missing = Fault::new(Code::BadStream, "no consumer is open on this stream");
        let Some(&Stream::Consumer(q, c, id)) =
            self.conns.get(&conn).and_then(|conn| conn.session.streams.get(&stream))
        else {
            return Err(missing);
        };
        let consumer = self.queues[q].consumers[c].as_mut().ok_or_else(|| missing.clone())?;
        let attachment = consumer.attachments.iter_mut().find(|a| a.id == id).ok_or(missing)?;
        Ok((q, c, attachment))
    }

    pub(super) fn handle_ack(&mut self, conn: ConnId, stream: u32, head: Ack) -> Result<(), Fault> {
        let (q, c, attachment) = self.attachment_mut(conn, stream)?;
        let id = attachment.id;
        let Some(taken) = attachment.take_tags(head.first, head.count) else { return Err(NEVER_DELIVERED) };
        let Some(consumer) = self.queues[q].consumers[c].as_mut() else { return Ok(()) };
        let (mut acked, mut stored) = (0, Vec::new());
        let forwards = consumer.forward.is_some();
        for (lane, seq) in taken {
            // A delivery that was overdue went to somebody else: this answer is void.
            let mine = consumer
                .pending(lane, seq)
                .is_some_and(|p| matches!(p.state, PendingState::InFlight(owner, _) if owner == id));
            let done = mine && consumer.settle(lane, seq);
            acked += u64::from(done);
            if done && forwards {
                stored.push((lane, seq));
            }
        }
        consumer.acked += acked;
        if forwards && !self.mounts[self.mount_of_queue(q)].tracks.is_idle() {
            let name = self.queues[q].consumers[c].as_ref().map(|c| c.name.clone()).unwrap_or_default();
            stored.into_iter().for_each(|(lane, seq)| self.decide(q, &name, lane, seq, Fate::Stored));
        }
        self.counters.acked += acked;
        self.progressed(q, c);
        Ok(())
    }

    pub(super) fn handle_nack(&mut self, conn: ConnId, stream: u32, head: &Nack<'_>) -> Result<(), Fault> {
        let (q, c, attachment) = self.attachment_mut(conn, stream)?;
        let id = attachment.id;
        let Some(taken) = attachment.take_tags(head.first, head.count) else { return Err(NEVER_DELIVERED) };
        let why = head.give_up.then(|| clip(head.reason));
        for (lane, seq) in taken {
            let consumer = self.queues[q].consumers[c].as_ref();
            let mine = consumer
                .and_then(|consumer| consumer.pending(lane, seq))
                .is_some_and(|p| matches!(p.state, PendingState::InFlight(owner, _) if owner == id));
            if mine {
                self.fail_delivery(q, c, lane, seq, head.delay_ms, why);
            }
        }
        self.progressed(q, c);
        Ok(())
    }

    /// A delivery failed; with a text, empty or not, that says why, it is not to be tried again.
    fn fail_delivery(&mut self, q: usize, c: usize, lane: Priority, seq: u64, delay_ms: u32, gives_up: Option<&str>) {
        let jitter = self.rng.f64();
        let backoff_max = self.queues[q].settings.backoff_ms_max;
        let wall = self.now.wall;
        let Some(consumer) = self.queues[q].consumers[c].as_mut() else { return };
        self.counters.nacked += 1;
        if consumer.fail(lane, seq, wall, delay_ms, gives_up.is_some(), backoff_max, jitter) == Some(Failed::Dead) {
            self.fetch(q, c, lane, seq, gives_up.filter(|why| !why.is_empty()).map(Into::into));
        }
    }

    pub(super) fn handle_ack_timeout(&mut self, q: usize, c: usize) {
        let now = self.now.mono;
        let Some(consumer) = self.queues[q].consumers[c].as_ref() else { return };
        let timeout = u64::from(consumer.ack_timeout_ms);
        if timeout == 0 {
            return;
        }
        let (overdue, busy) = (consumer.overdue(now), consumer.outstanding > 0 || !consumer.attachments.is_empty());
        let late = !overdue.is_empty();
        for (lane, seq) in overdue {
            self.fail_delivery(q, c, lane, seq, 0, None);
        }
        if let Some(consumer) = self.queues[q].consumers[c].as_mut() {
            consumer.squeeze_tags();
        }
        if busy {
            self.timers.set(Timer::AckTimeout(q, c), now.plus_ms((timeout / 4).max(10)));
        }
        // A look that finds nothing writes nothing.
        if late {
            self.progressed(q, c);
        }
    }

    pub(super) fn handle_credit(&mut self, conn: ConnId, stream: u32, head: Credit) -> Result<(), Fault> {
        let (q, c, attachment) = self.attachment_mut(conn, stream)?;
        if !attachment.add_credit(head.messages, head.bytes) {
            return Err(Fault::new(Code::CreditOverflow, "more than 2^31-1 messages or bytes of credit"));
        }
        self.pumps.push((q, c));
        Ok(())
    }

    pub(super) fn handle_pause(&mut self, conn: ConnId, stream: u32, pause: bool) -> Result<(), Fault> {
        if let Some(subscription) = self.subscription_mut(conn, stream) {
            subscription.paused = pause;
            if !pause {
                self.tell_dropped(conn);
            }
            return Ok(());
        }
        let (q, c, attachment) = self.attachment_mut(conn, stream)?;
        attachment.paused = pause;
        if !pause {
            attachment.held_lanes = 0;
        }
        self.pumps.push((q, c));
        Ok(())
    }

    /// A bridge cannot forward these lanes for now, and is to be given the others.
    pub(super) fn handle_held_lanes(&mut self, conn: ConnId, stream: u32, lanes: u16) -> Result<(), Fault> {
        if !self.is_bridge(conn) {
            return Err(Fault::new(Code::NotSupported, "lanes are held for bridges of this process alone"));
        }
        let (q, c, attachment) = self.attachment_mut(conn, stream)?;
        attachment.held_lanes = lanes;
        self.pumps.push((q, c));
        Ok(())
    }

    /// A consumer moved: its row rides on the next commit, messages may leave, and more may be delivered.
    pub(super) fn progressed(&mut self, q: usize, c: usize) {
        let now = self.now.mono;
        let volume = self.queues[q].volume;
        self.volume_mut(volume).nudge(now);
        if self.queues[q].settings.keep != Keep::Limits {
            self.release(q);
        }
        self.pumps.push((q, c));
    }
}

const NEVER_DELIVERED: Fault = Fault::new(Code::NeverDelivered, "a tag of this range was never delivered");

/// Whether a text may name a consumer.
fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b))
}
