//! A message on its way out, and one that came in.

use super::error::ClientError;
use crate::model::limits::{MESSAGE_BYTES_MAX, PROPERTIES_BYTES_MAX};
use crate::model::{Channel, Encoding, MessageId, Priority, Properties, Property, Record, RecordError, tag};
use crate::seal::{
    KeyId, PublicKeys, SealError, Sealer, SealingKeys, SigningKey, compress, expand_record, open, sign, verify,
};
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
    /// Key to sign it with.
    pub sign: Option<&'a SigningKey>,
    /// What seals the payload; that of a message which clears a retained value is left as it is.
    pub seal: Option<&'a Sealer>,
    /// Whether the payload is made shorter: inside the seal, or else where the broker takes that.
    pub compress: bool,
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
            sign: None,
            seal: None,
            compress: false,
            properties: Vec::new(),
        })
    }

    /// Adds a property of one of the tags in [`tag`].
    ///
    /// # Errors
    /// [`ClientError::Record`] when all together are too many or too long.
    pub fn property(&mut self, tag: u32, value: &[u8]) -> Result<&mut Self, ClientError> {
        add_property(&mut self.properties, tag, value)?;
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

    /// Whether its record takes work beside being written.
    pub(super) const fn is_plain(&self) -> bool {
        self.sign.is_none() && self.seal.is_none() && !self.compress
    }

    /// An upper bound of its record, in bytes.
    pub(super) fn record_bytes_max(&self) -> usize {
        let added = if self.is_plain() { 0 } else { ADDED_BYTES_MAX };
        self.record(MessageId::NONE, 0).encoded_len_max() + added
    }

    /// Its record sealed, signed and compressed as it is to be, in this order.
    ///
    /// # Errors
    /// [`ClientError::Record`] when no room for the properties of seal and signature is left.
    pub(super) fn finish(&self, id: MessageId, time_ms: u64, lz4: bool) -> Result<Finished<'_>, ClientError> {
        let mut record = self.record(id, time_ms);
        let mut properties = self.properties.clone();
        let mut payload = None;
        let clears = self.retain && self.payload.is_empty();
        if let Some(sealer) = self.seal.filter(|_| !clears) {
            let sealed = sealer.seal(&record, self.compress)?;
            add_property(&mut properties, tag::SEAL, &sealed.property)?;
            payload = Some(sealed.payload);
        }
        if let Some(key) = self.sign {
            let stated = Record {
                properties: Properties::parse(&properties)?,
                payload: payload.as_deref().unwrap_or(self.payload),
                ..record
            };
            let signature = sign(&stated, key)?;
            add_property(&mut properties, tag::SIGNATURE, &signature)?;
            add_property(&mut properties, tag::SIGNER, &key.public().id().0)?;
        }
        if self.compress && lz4 && self.seal.is_none() {
            payload = compress(self.payload);
            record.compressed = payload.is_some();
        }
        Ok(Finished { record, properties, payload })
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

/// Most bytes a seal and a signature add to a record.
const ADDED_BYTES_MAX: usize = 256;

/// A message with what was made of it.
#[derive(Debug)]
pub(super) struct Finished<'m> {
    record: Record<'m>,
    properties: Vec<u8>,
    /// Where it is another than the message's.
    payload: Option<Vec<u8>>,
}

impl Finished<'_> {
    pub(super) fn record(&self) -> Record<'_> {
        Record {
            properties: Properties::parse(&self.properties).expect("each property was checked when it was added"),
            payload: self.payload.as_deref().unwrap_or(self.record.payload),
            ..self.record
        }
    }
}

/// Adds a property to encoded ones, or leaves them as they are.
fn add_property(properties: &mut Vec<u8>, tag: u32, value: &[u8]) -> Result<(), RecordError> {
    let start = properties.len();
    if value.len() > PROPERTIES_BYTES_MAX {
        return Err(RecordError::Properties);
    }
    properties.resize(start + value.len() + 10, 0);
    let written = Properties::encode_one(Property { tag, value }, &mut properties[start..])?;
    properties.truncate(start + written);
    Properties::parse(properties).map(|_| ()).inspect_err(|_| properties.truncate(start))
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
    /// The payload, once it was opened.
    opened: Option<Bytes>,
}

impl Incoming {
    /// Takes the item whose record lies in `bytes`; what is compressed is expanded, to a record of at most `bytes_max` bytes.
    pub(super) fn new(
        epoch: u64,
        item: &DeliverItem<'_>,
        bytes: &Bytes,
        bytes_max: usize,
    ) -> Result<Self, ClientError> {
        let record = match expand_record(item.record, bytes_max)? {
            Some(expanded) => expanded.into(),
            None => bytes.slice_ref(item.record),
        };
        let payload_bytes = Record::decode(&record)?.payload.len() as u32;
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
            record,
            opened: None,
        })
    }

    /// The record: channel, id, payload and all attributes.
    #[must_use]
    pub fn record(&self) -> Record<'_> {
        Record { payload: self.payload(), ..self.as_it_came() }
    }

    fn as_it_came(&self) -> Record<'_> {
        Record::decode(&self.record).expect("the record was checked when it came in")
    }

    /// Who signed the message, if it is one of these keys.
    ///
    /// # Errors
    /// [`SealError`]: it is not signed, by none of them, or not as it is.
    pub fn verify(&self, keys: &PublicKeys) -> Result<KeyId, SealError> {
        verify(&self.as_it_came(), keys)
    }

    /// Opens the payload with one of these keys: it is what [`Incoming::payload`] gives from here on.
    ///
    /// # Errors
    /// [`SealError`]: it is not sealed, with none of them, or was changed.
    pub fn open(&mut self, keys: &SealingKeys) -> Result<(), SealError> {
        self.opened = Some(open(&self.as_it_came(), keys, MESSAGE_BYTES_MAX as usize)?.into());
        Ok(())
    }

    /// Bytes of memory its record takes.
    pub(super) fn record_bytes(&self) -> usize {
        self.record.len()
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        if let Some(opened) = &self.opened {
            return opened;
        }
        &self.record[self.record.len() - self.payload_bytes as usize..]
    }

    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &str {
        self.record().channel.as_str()
    }

    /// The record's bytes, as in store and bridge, its payload expanded and not opened.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Checks;
    use crate::seal::{Algorithm, SealingKey};

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

    #[test]
    fn a_message_is_sealed_signed_and_compressed_in_this_order_and_read_in_the_opposite_one() {
        let (key, sealing) = (SigningKey::from_seed(&[1; 32]), SealingKey::from_bytes(&[2; 32]));
        let sealer = super::super::sealer(sealing.clone(), Algorithm::default()).expect("random bits");
        let public: PublicKeys = [key.public()].into_iter().collect();
        let checks = |open: bool| Checks {
            verify: Some(public.clone()),
            open: open.then(|| [sealing.clone()].into_iter().collect()),
        };
        let text = b"all work and no play ".repeat(20);
        let mut message = Message::new("a", &text).expect("valid");
        message.property(tag::CONTENT_TYPE, b"text/plain").expect("fits");
        (message.sign, message.compress) = (Some(&key), true);
        let arrive = |message: &Message<'_>, lz4: bool| {
            let finished = message.finish(MessageId([5; 16]), 7, lz4).expect("it can be made");
            let record = finished.record();
            let mut bytes = Vec::new();
            record.encode_to(&mut bytes);
            assert!(bytes.len() <= message.record_bytes_max());
            let bytes = Bytes::from(bytes);
            let item = DeliverItem { flags: 0, lane: 0, seq: 0, offset: 0, attempt: 1, stored_ms: 1, record: &bytes };
            (record.compressed, Incoming::new(0, &item, &bytes, 1 << 20).expect("well-formed"))
        };
        for lz4 in [false, true] {
            let (compressed, mut incoming) = arrive(&message, lz4);
            assert_eq!(compressed, lz4);
            assert_eq!(checks(false).check(&mut incoming), Ok(Some(key.public().id())));
            assert_eq!((incoming.payload(), incoming.record().payload), (&text[..], &text[..]));
            assert_eq!(checks(true).check(&mut incoming), Err(SealError::NotSealed));
        }
        message.seal = Some(&sealer);
        let (compressed, mut incoming) = arrive(&message, true);
        assert!(!compressed && incoming.payload().len() < 100, "it is compressed inside the seal");
        assert_eq!(checks(true).check(&mut incoming), Ok(Some(key.public().id())));
        assert_eq!((incoming.payload(), incoming.record().payload), (&text[..], &text[..]));
        // What clears a retained value must be seen to do so.
        let clear = Message { retain: true, payload: b"", ..message.clone() };
        assert!(arrive(&clear, true).1.payload().is_empty());
        // No room for a signature.
        let full = Message::new("a", b"x").and_then(|mut full| {
            full.property(tag::USER, &[0; PROPERTIES_BYTES_MAX - 20])?;
            full.sign = Some(&key);
            full.finish(MessageId::NONE, 0, false).map(|_| ())
        });
        assert_eq!(full, Err(ClientError::Record(RecordError::Properties)));
    }
}
