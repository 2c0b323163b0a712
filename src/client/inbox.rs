//! What came in and waits to be taken: deliveries in order, with what happened between them; chunks being put together.

use super::error::ClientError;
use super::link::LinkError;
use super::message::Incoming;
use crate::wire::{Deliver, DeliverItem, DeliverItems, FrameType, WireError, item_flag};
use bytes::{Buf as _, Bytes, BytesMut};
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::task::Waker;

/// Chunked messages that may be under way on one connection.
const CHUNKED_MAX: usize = 64;
/// Bytes of them, all together.
const CHUNKED_BYTES_MAX: usize = 64 * 1_024 * 1_024;

/// The items of one deliver frame that are not taken yet.
#[derive(Debug)]
pub(super) struct Delivered {
    session: u64,
    head: Deliver,
    left: u32,
    bytes: Bytes,
}

impl Delivered {
    pub(super) fn new(session: u64, head: Deliver, bytes: Bytes) -> Self {
        Self { session, head, left: head.count, bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn left(&self) -> u32 {
        self.left
    }

    pub(super) fn epoch(&self) -> u64 {
        self.head.epoch
    }

    /// Offset of the last item, where the first has one.
    pub(super) fn last_offset(&self) -> Option<u64> {
        // The first byte of an item is its flags: most subscriptions have no history and are not walked through.
        if self.bytes.first().is_none_or(|flags| flags & item_flag::HAS_OFFSET == 0) {
            return None;
        }
        let items = DeliverItems::parse(&self.bytes, self.head.count, self.head.total).ok()?;
        items.filter(|i| i.flags & item_flag::HAS_OFFSET != 0).last().map(|i| i.offset)
    }

    /// The next item, its tag and the bytes of its record.
    fn take(&mut self, bytes_max: usize) -> Result<Option<Taken>, ClientError> {
        if self.left == 0 {
            return if self.bytes.is_empty() { Ok(None) } else { Err(malformed()) };
        }
        let (item, rest) = DeliverItem::take(&self.bytes).map_err(LinkError::Wire)?;
        let rest = rest.len();
        let taken = Taken {
            session: self.session,
            tag: self.head.first_tag.wrapping_add(u64::from(self.head.count - self.left)),
            record_bytes: item.record.len() as u32,
            message: Incoming::new(self.head.epoch, &item, &self.bytes, bytes_max)?,
        };
        self.bytes.advance(self.bytes.len() - rest);
        self.left -= 1;
        Ok(Some(taken))
    }
}

fn malformed() -> ClientError {
    LinkError::Wire(WireError::Payload(FrameType::Deliver as u8)).into()
}

/// One item taken from an inbox.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) session: u64,
    pub(super) tag: u64,
    pub(super) record_bytes: u32,
    pub(super) message: Incoming,
}

#[derive(Debug)]
enum Entry {
    Items(Delivered),
    Dropped(u64),
    Reconnected(bool),
}

/// What [`Inbox::take`] gives.
#[derive(Debug)]
pub(super) enum Next {
    Item(Taken),
    Dropped(u64),
    Reconnected(bool),
}

/// Everything of one stream that waits.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    entries: VecDeque<Entry>,
    bytes: usize,
    ended: Option<ClientError>,
    /// Largest message that is taken, compressed or not.
    message_bytes_max: usize,
    pub(super) waker: Option<Waker>,
}

impl Inbox {
    pub(super) fn new(message_bytes_max: u32) -> Self {
        Self { message_bytes_max: message_bytes_max as usize, ..Self::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, delivered: Delivered) {
        self.bytes += delivered.len();
        self.entries.push_back(Entry::Items(delivered));
    }

    /// Counts into the last entry, so that an inbox nobody reads does not grow by being told what it lost.
    pub(super) fn dropped(&mut self, count: u64) {
        match self.entries.back_mut() {
            Some(Entry::Dropped(before)) => *before += count,
            _ => self.entries.push_back(Entry::Dropped(count)),
        }
    }

    pub(super) fn reconnected(&mut self, complete: bool) {
        match self.entries.back_mut() {
            Some(Entry::Reconnected(before)) => *before &= complete,
            _ => self.entries.push_back(Entry::Reconnected(complete)),
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    pub(super) fn end(&mut self, error: &ClientError) {
        self.ended.get_or_insert_with(|| error.clone());
    }

    /// The next thing, or why nothing comes any more, or `None`: wait.
    pub(super) fn take(&mut self) -> Option<Result<Next, ClientError>> {
        while let Some(front) = self.entries.front_mut() {
            let next = match front {
                Entry::Items(delivered) => {
                    let before = delivered.len();
                    let taken = delivered.take(self.message_bytes_max);
                    self.bytes -= before - delivered.len();
                    match taken {
                        Ok(Some(taken)) => return Some(Ok(Next::Item(taken))),
                        Ok(None) => {
                            self.entries.pop_front();
                            continue;
                        }
                        Err(e) => {
                            self.bytes -= delivered.len();
                            Err(e)
                        }
                    }
                }
                Entry::Dropped(count) => Ok(Next::Dropped(*count)),
                Entry::Reconnected(complete) => Ok(Next::Reconnected(*complete)),
            };
            self.entries.pop_front();
            return Some(next);
        }
        self.ended.clone().map(Err)
    }
}

/// What a chunked message is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Queued {
    Deliver(Deliver),
    Response { last: bool },
    Request,
}

impl Queued {
    fn kind(&self) -> FrameType {
        match self {
            Self::Deliver(_) => FrameType::Deliver,
            Self::Response { .. } => FrameType::Response,
            Self::Request => FrameType::Request,
        }
    }
}

/// Chunked messages under way, within their budget.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    streams: HashMap<u32, (Queued, BytesMut, usize)>,
    bytes: usize,
}

impl Chunks {
    pub(super) fn clear(&mut self) {
        self.streams.clear();
        self.bytes = 0;
    }

    pub(super) fn begin(
        &mut self,
        stream: u32,
        queued: Queued,
        first: &[u8],
        total: u32,
        total_max: usize,
    ) -> Result<(), ClientError> {
        let total = total as usize;
        let kind = queued.kind();
        if total > total_max || self.bytes + total > CHUNKED_BYTES_MAX || self.streams.len() >= CHUNKED_MAX {
            return Err(ClientError::TooLarge(total, total_max));
        }
        if first.len() >= total || self.streams.contains_key(&stream) {
            return Err(LinkError::Wire(WireError::Payload(kind as u8)).into());
        }
        let mut bytes = BytesMut::with_capacity(total);
        bytes.extend_from_slice(first);
        self.bytes += total;
        self.streams.insert(stream, (queued, bytes, total));
        Ok(())
    }

    /// Adds a chunk; the last one gives the whole message.
    pub(super) fn push(
        &mut self,
        stream: u32,
        kind: FrameType,
        chunk: &[u8],
        more: bool,
    ) -> Result<Option<(Queued, Bytes)>, ClientError> {
        let bad = || ClientError::from(LinkError::Wire(WireError::Payload(kind as u8)));
        // The rest of a message whose beginning found nobody, such as an answer to a request given up.
        let Some((queued, bytes, total)) = self.streams.get_mut(&stream) else { return Ok(None) };
        if queued.kind() != kind || bytes.len() + chunk.len() > *total || (!more && bytes.len() + chunk.len() != *total)
        {
            return Err(bad());
        }
        bytes.extend_from_slice(chunk);
        if more {
            return Ok(None);
        }
        let whole = (*queued, std::mem::take(bytes).freeze());
        self.bytes -= *total;
        self.streams.remove(&stream);
        Ok(Some(whole))
    }
}
