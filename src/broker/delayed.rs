//! Delayed messages: held in a table of their own until they are due.

use super::commit::LiveItem;
use super::{Broker, Timer, Waiting};
use crate::model::{Record, Volume, Wall};
use crate::store::{Op, ReadRequest, ReadResult, Table, schema};
use bytes::Bytes;

/// Delayed messages moved at a time.
const DELAYED_ROWS: usize = 256;
/// Bytes of them read at a time.
const DELAYED_BYTES: usize = 256 * 1_024;
/// Milliseconds before a failed read is tried again.
const READ_RETRY_MS: u64 = 1_000;

impl Broker {
    /// Holds a message back.
    pub(super) fn delay(&mut self, queue: usize, record: &Record<'_>, bytes: &[u8]) {
        let due = self.now.wall.plus_ms(u64::from(record.delay_ms));
        self.queues.numbers.delayed += 1;
        self.queues.numbers_dirty = true;
        let number = self.queues.numbers.delayed;
        let q = &mut self.queues[queue];
        q.delayed.messages += 1;
        q.delayed.bytes += bytes.len() as u64;
        q.delayed.due = Some(q.delayed.due.map_or(due, |d| d.min(due)));
        let key = Bytes::copy_from_slice(&schema::delayed_key(q.key, due, number));
        let volume = q.volume;
        self.volume_mut(volume).push(Op::Put { table: Table::Delayed, key, value: Bytes::copy_from_slice(bytes) });
        self.arm_delayed(queue);
    }

    /// Sets the timer for the first that is due.
    pub(super) fn arm_delayed(&mut self, queue: usize) {
        let delayed = self.queues[queue].delayed;
        if let (Some(due), false) = (delayed.due, delayed.reading) {
            let at = self.now.mono.plus_ms(due.ms_since(self.now.wall));
            self.timers.set(Timer::Delayed(queue), at);
        }
    }

    /// Live subscribers hear a delayed message when it is due: once, though several queues held it.
    fn fan_out_due(&mut self, queue: usize, live: LiveItem, record: &Record<'_>, bytes: &[u8]) {
        let mount = self.mount_of_queue(queue);
        let route = self.mounts[mount].route(record.channel.as_str());
        let teller = self.history_queue(&route).or(route.queues.first().copied());
        if route.subscriptions.is_empty() || teller != Some(queue) {
            return;
        }
        match self.queues[queue].volume {
            Volume::Disk => self.disk.fan_out_later(&route, live, bytes),
            Volume::Memory => self.fan_out(&route, live, bytes),
        }
    }

    /// Looks for messages that are due.
    pub(super) fn read_delayed(&mut self, queue: usize) {
        let q = &mut self.queues[queue];
        if q.delayed.reading || q.delayed.messages == 0 {
            return;
        }
        // What is held back from here on is not among the rows: its time is kept apart.
        (q.delayed.reading, q.delayed.due) = (true, None);
        let prefix = Bytes::copy_from_slice(&schema::queue_key(q.key));
        let request = ReadRequest::Rows {
            table: Table::Delayed,
            from: prefix.clone(),
            prefix,
            rows_max: DELAYED_ROWS,
            bytes_max: DELAYED_BYTES,
        };
        let volume = q.volume;
        self.read_after_commit(volume, Waiting::Delayed(queue), request);
    }

    /// Moves what is due into its lane: append and delete are one commit.
    pub(super) fn handle_delayed(&mut self, queue: usize, result: Option<ReadResult>) {
        self.queues[queue].delayed.reading = false;
        let Some(ReadResult::Rows(rows)) = result else {
            self.queues[queue].delayed.due = Some(self.now.wall);
            self.timers.set(Timer::Delayed(queue), self.now.mono.plus_ms(READ_RETRY_MS));
            return;
        };
        let full = rows.len() >= DELAYED_ROWS;
        let mut next: Option<Wall> = None;
        let mut ended = false;
        for (key, bytes) in rows {
            let Some(due) = key.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes) else { continue };
            let volume = self.queues[queue].volume;
            let moved = self.leaps.forward(Wall(due));
            if moved > self.now.wall {
                next = Some(next.map_or(moved, |next| next.min(moved)));
                if moved == Wall(due) {
                    ended = true;
                    break;
                }
                // Held back before the clock was set: it goes where it belongs among those of after.
                let number = key.get(16..24).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
                let place = Bytes::copy_from_slice(&schema::delayed_key(self.queues[queue].key, moved, number));
                let now = self.now.mono;
                let v = self.volume_mut(volume);
                v.push(Op::Delete { table: Table::Delayed, key });
                v.push(Op::Put { table: Table::Delayed, key: place, value: bytes });
                v.nudge(now);
                continue;
            }
            self.volume_mut(volume).push(Op::Delete { table: Table::Delayed, key });
            let delayed = &mut self.queues[queue].delayed;
            delayed.messages = delayed.messages.saturating_sub(1);
            delayed.bytes = delayed.bytes.saturating_sub(bytes.len() as u64);
            if let Ok(record) = Record::decode(&bytes) {
                // It was counted from its publish on, so there is room for it.
                let live = self.append(queue, &record, &bytes, None);
                self.fan_out_due(queue, live, &record, &bytes);
                let now = self.now.mono;
                self.volume_mut(volume).urge(now);
            }
        }
        let delayed = &mut self.queues[queue].delayed;
        let next_or_soon = (delayed.messages > 0).then(|| next.unwrap_or(self.now.wall.plus_ms(50)));
        delayed.due = next_or_soon.map(|next| delayed.due.map_or(next, |due| due.min(next)));
        // A row that is not due ends the search: after it there is nothing to look for yet.
        if full && !ended {
            self.read_delayed(queue);
        } else {
            self.arm_delayed(queue);
        }
    }
}
