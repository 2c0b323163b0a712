//! Live fan-out: subscriptions, retained values and history first, and what slow readers lose.

use super::commit::LiveItem;
use super::conn::Stream;
use super::{Broker, Waiting};
use crate::model::{Channel, ConnId, Filter, Priority, Record, Volume, Wall};
use crate::protocols::Fault;
use crate::routing::Ask;
use crate::store::schema::retained_key;
use crate::store::{Past, ReadRequest, ReadResult, Table};
use crate::wire::{Code, Done, Dropped, FrameType, History, Since, Subscribe, item_flag};
use bytes::Bytes;
use std::borrow::Cow;

/// A live subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    filter: Box<str>,
    disconnect_when_slow: bool,
    pub(super) paused: bool,
    dropped: u64,
    dropped_bytes: u64,
    /// Retained values or history are on their way: live messages wait behind them.
    priming: Option<Priming>,
}

impl Subscription {
    /// What it hears.
    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    /// Whether live messages pass as they come: nothing waits before them, and nothing is to be told.
    pub(super) const fn is_even(&self) -> bool {
        self.priming.is_none() && !self.paused && self.dropped == 0
    }
}

#[derive(Debug, Default)]
struct Priming {
    /// Reads not answered yet.
    reads: u32,
    held: Vec<Held>,
    held_bytes: usize,
    /// Offset up to which history was sent.
    sent: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Held {
    item: LiveItem,
    record: Vec<u8>,
}

/// What was read for whom.
pub(super) enum Prime {
    /// Retained values for a subscription.
    Retained { conn: ConnId, stream: u32, filter: Box<str> },
    /// History for a subscription or a history request.
    History(PrimeHistory),
}

/// A history read: where it began and what it must reach.
pub(super) struct PrimeHistory {
    conn: ConnId,
    stream: u32,
    queue: usize,
    epoch: u64,
    newest: u64,
    /// The offset after which the reader must miss nothing.
    since: Option<u64>,
    /// As many of the newest are all that was asked for.
    wanted: u32,
    limit: u32,
}

/// Messages of a history at most, unless less is asked.
const HISTORY_MAX: u32 = 10_000;
/// Retained values read at a time.
const RETAINED_ROWS: usize = 1_000;

impl Broker {
    pub(super) fn handle_subscribe(&mut self, conn: ConnId, stream: u32, head: &Subscribe<'_>) -> Result<(), Fault> {
        self.check_new_stream(conn, stream)?;
        let Ok(filter) = Filter::parse(head.filter) else {
            let why = Filter::parse(head.filter).err().map(|e| e.to_string()).unwrap_or_default();
            self.refuse(conn, stream, Code::BadFilter, &why);
            return Ok(());
        };
        let ask = if head.respond { Ask::Respond(head.filter) } else { Ask::Subscribe(head.filter) };
        if let Err(why) = self.permit(conn, &ask) {
            self.refuse(conn, stream, Code::Forbidden, &why);
            return Ok(());
        }
        if head.respond {
            return self.add_responder(conn, stream, head.filter);
        }
        if head.since != Since::Now && filter.literal().is_none() {
            self.refuse(conn, stream, Code::BadOptions, "history needs a channel without wildcards");
            return Ok(());
        }
        let subscription = Subscription {
            filter: head.filter.into(),
            disconnect_when_slow: head.disconnect_when_slow,
            paused: false,
            dropped: 0,
            dropped_bytes: 0,
            priming: None,
        };
        let Some(c) = self.conns.get_mut(&conn) else { return Ok(()) };
        let mount = c.mount;
        c.session.streams.insert(stream, Stream::Subscription(subscription));
        self.mounts[mount].subscribe(head.filter, (conn, stream));
        if head.retained {
            self.prime_retained(conn, stream, head.filter, Bytes::new());
        }
        match (head.since, filter.literal()) {
            (Since::Now, _) | (_, None) => self.done(conn, stream, 0, 0, true),
            (since, Some(channel)) => match self.prime_history(conn, stream, channel, since, 0) {
                Ok(()) => {}
                Err((code, detail)) => {
                    self.end_subscription(conn, stream);
                    self.refuse(conn, stream, code, detail);
                }
            },
        }
        Ok(())
    }

    pub(super) fn handle_unsubscribe(&mut self, conn: ConnId, stream: u32) -> Result<(), Fault> {
        let Some(found) = self.conns.get_mut(&conn).and_then(|c| c.session.streams.remove(&stream)) else {
            self.refuse(conn, stream, Code::BadStream, "nothing is open on this stream");
            return Ok(());
        };
        self.build(conn);
        self.end_stream(self.mount_of_conn(conn), conn, stream, found, true);
        self.done(conn, stream, 0, 0, true);
        Ok(())
    }

    /// Undoes what a stream stood for, after it was taken out of its session in this mount.
    pub(super) fn end_stream(&mut self, mount: usize, conn: ConnId, id: u32, stream: Stream, cancelled: bool) {
        match stream {
            Stream::Subscription(s) => {
                self.mounts[mount].unsubscribe(&s.filter, (conn, id));
                self.let_go(conn, s.priming.map_or(0, |p| p.held_bytes));
            }
            Stream::Responder(filter) => self.mounts[mount].responders.remove(&filter, (conn, id)),
            Stream::Consumer(q, c, attachment) => self.detach(q, c, attachment),
            Stream::Asking(ask) => self.drop_ask(ask),
            Stream::Answering(ask) => {
                self.end_ask(ask, if cancelled { Code::Cancelled } else { Code::ResponderFailed })
            }
            Stream::History => {}
        }
    }

    fn end_subscription(&mut self, conn: ConnId, stream: u32) {
        if let Some(found) = self.conns.get_mut(&conn).and_then(|c| c.session.streams.remove(&stream)) {
            self.end_stream(self.mount_of_conn(conn), conn, stream, found, false);
        }
    }

    pub(super) fn subscription_mut(&mut self, conn: ConnId, stream: u32) -> Option<&mut Subscription> {
        match self.conns.get_mut(&conn)?.session.streams.get_mut(&stream)? {
            Stream::Subscription(s) => Some(s),
            _ => None,
        }
    }

    fn prime_retained(&mut self, conn: ConnId, stream: u32, filter: &str, from: Bytes) {
        let mount = self.mounts[self.mount_of_conn(conn)].id;
        let Some(subscription) = self.subscription_mut(conn, stream) else { return };
        subscription.priming.get_or_insert_default().reads += 1;
        // Only channels that begin like the filter up to its first wildcard can match.
        let literal = filter.split(['+', '#']).next().unwrap_or_default().trim_end_matches('/');
        let prefix = retained_key(mount, literal);
        let from = if from.is_empty() { prefix.clone() } else { from };
        let bytes_max = self.settings.limits.outbox_bytes_max as usize / 4;
        let request = ReadRequest::Rows { table: Table::Retained, prefix, from, rows_max: RETAINED_ROWS, bytes_max };
        let waiting = Waiting::Prime(Prime::Retained { conn, stream, filter: filter.into() });
        self.count_prime(conn, 1);
        self.read_after_commit(Volume::Disk, waiting, request);
    }

    /// Begins to read a channel's history.
    fn prime_history(
        &mut self,
        conn: ConnId,
        stream: u32,
        channel: Channel<'_>,
        since: Since,
        limit: u32,
    ) -> Result<(), (Code, &'static str)> {
        let mount = self.mount_of_conn(conn);
        let route = self.mounts[mount].route(channel.as_str());
        let Some(q) = self.history_queue(&route) else {
            return Err((Code::NoHistory, "no queue with history captures this channel"));
        };
        let queue = &self.queues[q];
        let (epoch, key, volume) = (queue.epoch.0, queue.key, queue.volume);
        let last = queue.channels.get(channel.as_str()).copied();
        let limit = if limit == 0 { HISTORY_MAX } else { limit.min(HISTORY_MAX) };
        let (count, above, after) = match since {
            Since::Now => (0, None, None),
            Since::Last(n) => (n.min(limit), None, None),
            Since::Offset { epoch: asked, .. } if asked != epoch => (0, None, None),
            Since::Offset { offset, .. } => (limit, Some(offset), None),
            Since::Time(ms) => (limit, None, Some(Wall(ms))),
        };
        let lost_epoch = matches!(since, Since::Offset { epoch: asked, .. } if asked != epoch);
        let newest = last.map_or(0, |l| l.offset);
        let wanted = if let Since::Last(n) = since { n } else { u32::MAX };
        let prime = PrimeHistory { conn, stream, queue: q, epoch, newest, since: above, wanted, limit: count };
        let newest_at = last.and_then(|l| Some((Priority::new(l.lane)?, l.seq)));
        if let Some(subscription) = self.subscription_mut(conn, stream) {
            subscription.priming.get_or_insert_default().reads += 1;
        }
        match newest_at {
            Some(newest) if count > 0 => {
                let request = ReadRequest::History {
                    queue: key,
                    newest,
                    above_offset: above,
                    not_before: after,
                    count_max: count as usize,
                    bytes_max: self.settings.limits.outbox_bytes_max as usize / 2,
                };
                self.count_prime(conn, 1);
                self.read_after_commit(volume, Waiting::Prime(Prime::History(prime)), request);
            }
            _ => {
                // Nothing to read. A reader of another epoch, or ahead of us, must be told that it cannot be complete.
                let ahead = above.is_some_and(|offset| offset > newest);
                self.finish_history(prime, Vec::new(), !lost_epoch && !ahead);
            }
        }
        Ok(())
    }

    pub(super) fn handle_history(&mut self, conn: ConnId, stream: u32, head: &History<'_>) -> Result<(), Fault> {
        self.check_new_stream(conn, stream)?;
        let Ok(channel) = Channel::parse(head.channel) else {
            self.refuse(conn, stream, Code::BadChannel, "history is asked of a channel without wildcards");
            return Ok(());
        };
        if let Err(why) = self.permit(conn, &Ask::Subscribe(head.channel)) {
            self.refuse(conn, stream, Code::Forbidden, &why);
            return Ok(());
        }
        if let Some(c) = self.conns.get_mut(&conn) {
            c.session.streams.insert(stream, Stream::History);
        }
        if let Err((code, detail)) = self.prime_history(conn, stream, channel, head.since, head.limit) {
            self.end_subscription(conn, stream);
            self.refuse(conn, stream, code, detail);
        }
        Ok(())
    }

    pub(super) fn count_prime(&mut self, conn: ConnId, change: i32) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.primes = c.primes.saturating_add_signed(change);
        }
    }

    pub(super) fn handle_primed(&mut self, prime: Prime, result: Option<ReadResult>) {
        let conn = match &prime {
            Prime::Retained { conn, .. } => *conn,
            Prime::History(history) => history.conn,
        };
        self.count_prime(conn, -1);
        self.answer_prime(prime, result);
        self.hold_or_release(conn);
    }

    fn answer_prime(&mut self, prime: Prime, result: Option<ReadResult>) {
        match (prime, result) {
            (Prime::History(prime), Some(ReadResult::History { mut found, left_out })) => {
                // What was let go of may still be on disk.
                let queue = &self.queues[prime.queue];
                let gone = |lane: Priority, seq: u64| queue.lane(lane).is_none_or(|l| seq < l.head);
                if let Some(last) = found.iter().rposition(|p| gone(p.lane, p.seq)) {
                    found.drain(..=last);
                }
                let complete = match prime.since {
                    None => found.len() >= prime.wanted as usize || left_out.is_none_or(|(lane, seq)| gone(lane, seq)),
                    // Nothing is missing when the chain reaches the offset after the one already seen.
                    Some(offset) if offset == prime.newest => true,
                    Some(offset) => found.first().is_some_and(|p| p.offset == offset + 1),
                };
                let found = if complete || prime.since.is_none() { found } else { Vec::new() };
                self.finish_history(prime, found, complete);
            }
            (Prime::History(prime), _) => {
                let (conn, stream) = (prime.conn, prime.stream);
                self.end_subscription(conn, stream);
                self.refuse(conn, stream, Code::StorageFailed, "the history could not be read");
            }
            (Prime::Retained { conn, stream, filter }, Some(ReadResult::Rows(rows))) => {
                self.send_retained(conn, stream, &filter, &rows);
            }
            (Prime::Retained { conn, stream, .. }, _) => {
                self.end_subscription(conn, stream);
                self.refuse(conn, stream, Code::StorageFailed, "the retained values could not be read");
            }
        }
    }

    fn send_retained(&mut self, conn: ConnId, stream: u32, filter: &str, rows: &[(Bytes, Bytes)]) {
        let Ok(parsed) = Filter::parse(filter) else { return };
        if self.subscription_mut(conn, stream).is_none() {
            // It ended while they were read.
            return;
        }
        for (_, value) in rows {
            let Some((stored, bytes)) = value.split_first_chunk::<8>() else { continue };
            let stored_ms = u64::from_be_bytes(*stored);
            let Ok(record) = Record::decode(bytes) else { continue };
            let expired = self.is_over_ttl(record.ttl_ms, Wall(stored_ms));
            if expired || !parsed.matches(record.channel) {
                continue;
            }
            let item = LiveItem { stored_ms, lane: record.priority.get(), ..LiveItem::default() };
            self.deliver_now(conn, stream, item_flag::RETAINED, item, bytes);
        }
        // A page ends by rows or by bytes: only an empty one is surely the last.
        if let Some((last, _)) = rows.last() {
            let next = [&last[..], &[0]].concat();
            self.prime_retained(conn, stream, filter, next.into());
        }
        self.primed(conn, stream);
    }

    fn finish_history(&mut self, prime: PrimeHistory, found: Vec<Past>, complete: bool) {
        let PrimeHistory { conn, stream, epoch, newest, limit, .. } = prime;
        debug_assert!(found.len() <= limit as usize);
        let is_request = match self.conns.get(&conn).and_then(|c| c.session.streams.get(&stream)) {
            Some(Stream::History) => true,
            Some(Stream::Subscription(_)) => false,
            // It ended while its history was read.
            _ => return,
        };
        if !is_request {
            self.done(conn, stream, epoch, newest, complete);
        }
        let sent = found.last().map(|p| (epoch, p.offset));
        let mut complete = complete;
        let expired =
            |past: &&Past| self.is_over_ttl(Record::decode(&past.record).map_or(0, |r| r.ttl_ms), past.stored);
        let alive: Vec<&Past> = found.iter().filter(|past| !expired(past)).collect();
        for past in alive {
            let item = LiveItem {
                epoch,
                lane: past.lane.get(),
                seq: past.seq,
                offset: Some(past.offset),
                stored_ms: past.stored.0,
            };
            complete &= self.deliver_now(conn, stream, item_flag::HISTORY, item, &past.record);
        }
        if is_request {
            // The end of a history travels behind its messages.
            self.message(conn, stream, FrameType::Ok, &Done { epoch, value: newest, complete }, &[]);
            if let Some(c) = self.conns.get_mut(&conn) {
                c.session.streams.remove(&stream);
            }
            return;
        }
        if let Some(priming) = self.subscription_mut(conn, stream).and_then(|s| s.priming.as_mut()) {
            priming.sent = sent.or(priming.sent);
        }
        self.primed(conn, stream);
    }

    /// One read of a subscription is answered; after the last, what was held follows.
    fn primed(&mut self, conn: ConnId, stream: u32) {
        let Some(subscription) = self.subscription_mut(conn, stream) else { return };
        let Some(priming) = subscription.priming.as_mut() else { return };
        priming.reads = priming.reads.saturating_sub(1);
        if priming.reads > 0 {
            return;
        }
        let Some(priming) = subscription.priming.take() else { return };
        self.let_go(conn, priming.held_bytes);
        for Held { item, record } in priming.held {
            let known = priming
                .sent
                .is_some_and(|(epoch, sent)| item.epoch == epoch && item.offset.is_some_and(|offset| offset <= sent));
            if !known {
                self.deliver_now(conn, stream, 0, item, &record);
            }
        }
    }

    /// A live message for a subscription.
    pub(super) fn deliver_live(&mut self, conn: ConnId, stream: u32, item: LiveItem, record: &[u8]) {
        if self.subscription_mut(conn, stream).is_some_and(|s| s.priming.is_some()) {
            self.hold_live(conn, stream, item, record);
        } else {
            self.deliver_now(conn, stream, 0, item, record);
        }
    }

    /// Keeps a live message until what comes before it was sent, as far as the session has room for such.
    fn hold_live(&mut self, conn: ConnId, stream: u32, item: LiveItem, record: &[u8]) {
        let held_max = self.settings.limits.outbox_bytes_max as usize;
        let bytes = record.len() + size_of::<Held>();
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if c.held_bytes + bytes > held_max {
            self.drop_slow(conn, stream, record.len());
            return;
        }
        c.held_bytes += bytes;
        if let Some(priming) = self.subscription_mut(conn, stream).and_then(|s| s.priming.as_mut()) {
            priming.held_bytes += bytes;
            priming.held.push(Held { item, record: record.to_vec() });
        }
    }

    /// So many bytes of live messages wait no longer.
    fn let_go(&mut self, conn: ConnId, bytes: usize) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.held_bytes -= bytes;
        }
    }

    /// False when the message was dropped.
    fn deliver_now(&mut self, conn: ConnId, stream: u32, flags: u8, item: LiveItem, record: &[u8]) -> bool {
        let limit = self.settings.limits.outbox_bytes_max as usize;
        if self.conns.get(&conn).is_some_and(|c| c.is_echo(record)) {
            self.counters.echoes += 1;
            return true;
        }
        let waiting = self.waiting_bytes(conn);
        let shaped = self.shape(conn, record);
        let (paused, lost) = self.subscription_mut(conn, stream).map_or((false, 0), |s| (s.paused, s.dropped));
        // A message larger than the whole outbox still passes when nothing else waits.
        let fits = |shaped: &Cow<'_, [u8]>| !paused && (waiting == 0 || waiting + shaped.len() <= limit);
        let Some(shaped) = shaped.filter(fits) else {
            self.drop_slow(conn, stream, record.len());
            return false;
        };
        if lost > 0 {
            // The gap is told where it is: before what follows it.
            self.tell_dropped(conn);
        }
        self.counters.fanned_out += 1;
        let mount = self.mount_of_conn(conn);
        self.mounts[mount].tally.deliver(1, shaped.len());
        self.item(conn, stream, item.epoch, 0, &item.deliver(flags, &shaped));
        true
    }

    /// A message did not fit: counted and told, or the end of the session, as the subscriber chose.
    fn drop_slow(&mut self, conn: ConnId, stream: u32, bytes: usize) {
        self.counters.dropped_slow += 1;
        if let Some(c) = self.conns.get_mut(&conn) {
            c.starved = true;
        }
        let Some(subscription) = self.subscription_mut(conn, stream) else { return };
        subscription.dropped += 1;
        subscription.dropped_bytes += bytes as u64;
        if subscription.disconnect_when_slow && !subscription.paused {
            self.fail(conn, Code::SlowReader, "the subscriber reads too slowly and asked to be disconnected for it");
        }
    }

    /// Tells a session's subscriptions what they lost, now that there is room.
    pub(super) fn tell_dropped(&mut self, conn: ConnId) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let mut told = Vec::new();
        for (stream, s) in &mut c.session.streams {
            if let Stream::Subscription(s) = s
                && s.dropped > 0
                && !s.paused
            {
                let code = Code::SlowReader as u16;
                told.push((*stream, Dropped { count: s.dropped, bytes: s.dropped_bytes, code }));
                (s.dropped, s.dropped_bytes) = (0, 0);
            }
        }
        for (stream, head) in told {
            // In the lane of data: the gap is told where it is.
            self.message(conn, stream, FrameType::Dropped, &head, &[]);
        }
    }
}
