//! A message on its way out, and one that came in.

use super::error::ClientError;
use crate::model::limits::PROPERTIES_BYTES_MAX;
use crate::model::{Channel, Encoding, MessageId, Priority, Properties, Property, Record, RecordError, tag};
use crate::wire::{Contract, DeliverItem, item_flag};
use bytes::Bytes;

/// The id a message is published under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Id {
    /// A new ULID: a republish after a broken connection is recognised by it.
    #[default]
    Auto,
    /// No id: a republish may store the message twice.
    None,
    /// This one.
    Given(MessageId),
}

/// A message to publish, borrowing its payload.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Where.
    pub channel: Channel<'a>,
    /// What.
    pub payload: &'a [u8],
    /// Under which id.
    pub id: Id,
    /// In which lane.
    pub priority: Priority,
    /// Whether it replaces the channel's retained value.
    pub retain: bool,
    /// Milliseconds after which it expires; 0 is never.
    pub ttl_ms: u32,
    /// Milliseconds to hold it back from consumers; 0 is none.
    pub delay_ms: u32,
    /// How to read the payload.
    pub encoding: Encoding,
    /// What must have happened before it is acknowledged.
    pub contract: Contract,
    properties: Vec<u8>,
}

impl<'a> Message<'a> {
    /// A message with defaults: an id of its own, priority 0, the queue's contract.
    ///
    /// # Errors
    /// [`ClientError::Channel`].
    pub fn new(channel: &'a str, payload: &'a [u8]) -> Result<Self, ClientError> {
        Ok(Self {
            channel: Channel::parse(channel)?,
            payload,
            id: Id::Auto,
            priority: Priority::default(),
            retain: false,
            ttl_ms: 0,
            delay_ms: 0,
            encoding: Encoding::Binary,
            contract: Contract::Queue,
            properties: Vec::new(),
        })
    }

    /// Adds a property of one of the tags in [`tag`].
    ///
    /// # Errors
    /// [`ClientError::Record`] when all together are too many or too long.
    pub fn property(&mut self, tag: u32, value: &[u8]) -> Result<&mut Self, ClientError> {
        let start = self.properties.len();
        if value.len() > PROPERTIES_BYTES_MAX {
            return Err(RecordError::Properties.into());
        }
        self.properties.resize(start + value.len() + 10, 0);
        let written = Properties::encode_one(Property { tag, value }, &mut self.properties[start..])?;
        self.properties.truncate(start + written);
        if let Err(e) = Properties::parse(&self.properties) {
            self.properties.truncate(start);
            return Err(e.into());
        }
        Ok(self)
    }

    /// Adds a pair of the user's own.
    ///
    /// # Errors
    /// As [`Message::property`].
    pub fn user_property(&mut self, key: &str, value: &[u8]) -> Result<&mut Self, ClientError> {
        let mut pair = vec![0; key.len() + 5];
        let written = postcard::to_slice(key, &mut pair).expect("five bytes hold any length").len();
        pair.truncate(written);
        pair.extend_from_slice(value);
        self.property(tag::USER, &pair)
    }

    pub(super) fn record(&self, id: MessageId, time_ms: u64) -> Record<'_> {
        Record {
            id,
            priority: self.priority,
            retain: self.retain,
            time_ms,
            ttl_ms: self.ttl_ms,
            delay_ms: self.delay_ms,
            encoding: self.encoding,
            properties: Properties::parse(&self.properties).expect("each property was checked when it was added"),
            ..Record::new(self.channel, self.payload)
        }
    }
}

/// A message that came in, on a subscription or for a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Epoch of the queue it comes from; 0 for live-only ones.
    pub epoch: u64,
    /// Lane it travelled in.
    pub lane: u8,
    /// Sequence in queue and lane; 0 when no queue is behind it.
    pub seq: u64,
    /// Offset in its channel's history, where that is kept.
    pub offset: Option<u64>,
    /// Attempt, from 1.
    pub attempt: u32,
    /// When the broker took it, milliseconds since 1970.
    pub stored_ms: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Whether it is a retained value.
    pub retained: bool,
    /// Whether it comes from history.
    pub history: bool,
    record: Bytes,
    /// The payload is the record's end.
    payload_bytes: u32,
}

impl Incoming {
    /// Takes the item whose record lies in `bytes`.
    pub(super) fn new(epoch: u64, item: &DeliverItem<'_>, bytes: &Bytes) -> Result<Self, RecordError> {
        let payload_bytes = Record::decode(item.record)?.payload.len() as u32;
        Ok(Self {
            payload_bytes,
            epoch,
            lane: item.lane,
            seq: item.seq,
            offset: (item.flags & item_flag::HAS_OFFSET != 0).then_some(item.offset),
            attempt: item.attempt,
            stored_ms: item.stored_ms,
            redelivered: item.flags & item_flag::REDELIVERED != 0,
            retained: item.flags & item_flag::RETAINED != 0,
            history: item.flags & item_flag::HISTORY != 0,
            record: bytes.slice_ref(item.record),
        })
    }

    /// The record: channel, id, payload and all attributes.
    #[must_use]
    pub fn record(&self) -> Record<'_> {
        Record::decode(&self.record).expect("the record was checked when it came in")
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.record[self.record.len() - self.payload_bytes as usize..]
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &str {
        self.record().channel.as_str()
    }

    /// The record's bytes, as in store and bridge.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_bounded_and_a_refused_one_leaves_no_trace() {
        let mut message = Message::new("a", b"x").expect("valid");
        message.property(tag::CONTENT_TYPE, b"text/plain").expect("fits");
        message.user_property("key", b"value").expect("fits");
        assert!(message.property(tag::USER, &[0; PROPERTIES_BYTES_MAX]).is_err());
        let record = message.record(MessageId::NONE, 0);
        assert_eq!(record.properties.get(tag::CONTENT_TYPE), Some(&b"text/plain"[..]));
        assert_eq!(record.properties.get(tag::USER), Some(&b"\x03keyvalue"[..]));
        assert_eq!(record.properties.iter().count(), 2);
    }
}
