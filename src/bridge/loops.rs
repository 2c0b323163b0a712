//! Marks against loops: where a message first entered, and how many bridges it has passed.
//!
//! A record goes on with property ORIGIN, set by the first bridge it passes, and with HOPS one higher. Everything else stays as it
//! is, in its order: neither mark is part of what a signature or a seal covers. Only `delay_ms` becomes 0, which is none of
//! theirs either: the message waited already, where it came from.
//!
//! Properties and messages are bounded, so a record may have no room for the marks. Then HOPS goes before ORIGIN, because it
//! alone ends every loop. A record without room for even that goes on as it is if it has an id, since a broker it comes round to
//! knows its ids; without an id nothing would stop it, so it does not go on ([`Refusal::Room`]) and becomes a dead letter.

use crate::model::limits::NAME_BYTES_MAX;
use crate::model::{Channel, Properties, Property, Record, tag};
use std::fmt;

/// What a record goes on as.
#[derive(Clone, Copy, Debug)]
pub struct Onward<'a> {
    /// Under which channel.
    pub channel: Channel<'a>,
    /// Broker it comes from: its origin where it has none yet.
    pub from: &'a str,
    /// Broker it goes to: what began there does not go back. Empty where that is not known.
    pub to: &'a str,
    /// Bridges it may have passed, this one included.
    pub hops_max: u32,
    /// Most bytes of the record there.
    pub bytes_max: usize,
}

/// Why a record does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It began where it would go, or came back to where it began.
    Loop,
    /// It passed as many bridges as it may.
    Hops,
    /// It has no room for the marks, and no id that would stop it without.
    Room,
    /// It is larger than messages may be there, even without the marks.
    Large,
}

impl Refusal {
    /// Its name in counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::Hops => "hops",
            Self::Room => "room",
            Self::Large => "message-too-large",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loop => "it began at the broker it would go to, or came back to where it began",
            Self::Hops => "it passed as many bridges as it may",
            Self::Large => "it is larger than messages may be there",
            Self::Room => "its properties leave no room to count the bridges it passes, and it has no id",
        })
    }
}

impl std::error::Error for Refusal {}

/// Name of a bridge's upstream as an origin. What the upstream says in its welcome is what somebody configured and often a default,
/// and an address of the same upstream may be another machine; edge and bridge are one way to one upstream.
#[must_use]
pub fn upstream_name(edge: &str, bridge: &str) -> String {
    bounded("upstream", edge, bridge)
}

/// Name of a bridge's consumer in the queues of its upstream.
#[must_use]
pub fn consumer_name(edge: &str, bridge: &str) -> String {
    bounded("bridge", edge, bridge)
}

/// A name of a consumer's letters and length. Where edge and bridge have others, or are too long, what tells them apart is a number
/// made of them.
fn bounded(what: &str, edge: &str, bridge: &str) -> String {
    let plain = format!("{what}:{edge}:{bridge}");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    if plain.len() <= NAME_BYTES_MAX && plain.chars().all(is_plain) {
        return plain;
    }
    // FNV-1a: the same on every machine and in every release. The zero is in neither name.
    let bytes = edge.bytes().chain([0]).chain(bridge.bytes());
    let number = bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut name: String = plain.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    name.truncate(NAME_BYTES_MAX - 17);
    format!("{name}-{number:016x}")
}

impl Onward<'_> {
    /// Appends the record as it goes on, encoded. `scratch` is overwritten; one that is used again makes this free of
    /// allocations but those of `out`.
    ///
    /// # Errors
    /// Why it does not go on; then nothing was appended.
    pub fn append(&self, record: &Record<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let origin = record.properties.get(tag::ORIGIN);
        let hops = hops(record.properties) + 1;
        // What has the origin that would be given to it here passed here before, and came round.
        let round = hops > 1 && origin == Some(self.from.as_bytes());
        if round || (!self.to.is_empty() && origin == Some(self.to.as_bytes())) {
            return Err(Refusal::Loop);
        }
        if hops > self.hops_max {
            return Err(Refusal::Hops);
        }
        let hops = [u8::try_from(hops).unwrap_or(u8::MAX)];
        let hops = Property { tag: tag::HOPS, value: &hops };
        let origin = Property { tag: tag::ORIGIN, value: origin.unwrap_or(self.from.as_bytes()) };
        let onward = Record { channel: self.channel, delay_ms: 0, ..*record };
        if onward.encoded_len() > self.bytes_max {
            return Err(Refusal::Large);
        }
        for marks in [&[origin, hops][..], &[hops]] {
            if let Some(properties) = marked(record.properties, marks, scratch) {
                let marked = Record { properties, ..onward };
                if marked.encoded_len() <= self.bytes_max {
                    marked.encode_to(out);
                    return Ok(());
                }
            }
        }
        if record.id.is_none() {
            return Err(Refusal::Room);
        }
        onward.encode_to(out);
        Ok(())
    }
}

/// Bridges passed so far; none where the property is not of one byte.
fn hops(properties: Properties<'_>) -> u32 {
    match properties.get(tag::HOPS) {
        Some(&[hops]) => hops.into(),
        _ => 0,
    }
}

/// The properties with these marks for those they have, in the place of the first of each tag, else at the end; `None` where
/// that is too much. A mark that is not among these is left out.
fn marked<'a>(properties: Properties<'_>, marks: &[Property<'_>], out: &'a mut Vec<u8>) -> Option<Properties<'a>> {
    out.clear();
    let mut done = [false; 2];
    for property in properties.iter() {
        if !matches!(property.tag, tag::ORIGIN | tag::HOPS) {
            put(out, property);
        } else if let Some(at) = marks.iter().position(|mark| mark.tag == property.tag)
            && !std::mem::replace(&mut done[at], true)
        {
            put(out, marks[at]);
        }
    }
    for (mark, _) in marks.iter().zip(done).filter(|(_, done)| !done) {
        put(out, *mark);
    }
    Properties::parse(out).ok()
}

fn put(out: &mut Vec<u8>, property: Property<'_>) {
    let start = out.len();
    out.resize(start + 10 + property.value.len(), 0);
    let written =
        Properties::encode_one(property, &mut out[start..]).expect("a tag and a length have ten bytes at most");
    out.truncate(start + written);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::limits::{PROPERTIES_BYTES_MAX, PROPERTIES_MAX};
    use crate::model::{Encoding, MessageId, Priority};
    use crate::seal::{PublicKeys, SealError, SigningKey, sign, verify};

    const ID: MessageId = MessageId([7; 16]);
    const ANY: usize = usize::MAX;

    fn channel(text: &str) -> Channel<'_> {
        Channel::parse(text).expect("a channel")
    }

    fn properties(of: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for &(tag, value) in of {
            put(&mut out, Property { tag, value });
        }
        out
    }

    fn record<'a>(id: MessageId, properties: &'a [u8]) -> Record<'a> {
        let properties = Properties::parse(properties).expect("within the bounds");
        Record { id, properties, ..Record::new(channel("a/b"), b"payload") }
    }

    fn onward(bytes_max: usize) -> Onward<'static> {
        Onward { channel: channel("x/a/b"), from: "edge", to: "hub", hops_max: 8, bytes_max }
    }

    fn pass(onward: Onward<'_>, record: &Record<'_>) -> Result<Vec<u8>, Refusal> {
        let mut out = b"before".to_vec();
        onward.append(record, &mut Vec::new(), &mut out).map(|()| out.split_off(6)).inspect_err(|_| {
            assert_eq!(out, b"before", "nothing of what is refused");
        })
    }

    fn list(record: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let record = Record::decode(record).expect("a record");
        record.properties.iter().map(|property| (property.tag, property.value.to_vec())).collect()
    }

    #[test]
    fn a_record_is_marked_and_nothing_else_of_it_changes() {
        let had = properties(&[(tag::CONTENT_TYPE, b"text/plain"), (999, b"?"), (tag::USER, b"\x01ab")]);
        let before = Record {
            priority: Priority::MAX,
            retain: true,
            time_ms: 5,
            ttl_ms: 6,
            delay_ms: 7,
            compressed: true,
            encoding: Encoding::Json,
            ..record(ID, &had)
        };
        let bytes = pass(onward(ANY), &before).expect("goes on");
        let after = Record::decode(&bytes).expect("a record");
        let expected = properties(&[
            (tag::CONTENT_TYPE, b"text/plain"),
            (999, b"?"),
            (tag::USER, b"\x01ab"),
            (tag::ORIGIN, b"edge"),
            (tag::HOPS, &[1]),
        ]);
        let expected = Properties::parse(&expected).expect("within the bounds");
        assert_eq!(after, Record { channel: channel("x/a/b"), delay_ms: 0, properties: expected, ..before });
    }

    #[test]
    fn the_first_origin_stays_and_hops_count() {
        let had = properties(&[(tag::HOPS, &[3]), (tag::ORIGIN, b"far"), (1, b"x"), (tag::HOPS, &[0]), (5, b"y")]);
        let bytes = pass(onward(ANY), &record(ID, &had)).expect("goes on");
        assert_eq!(list(&bytes), [(tag::HOPS, vec![4]), (tag::ORIGIN, b"far".to_vec()), (1, b"x".to_vec())]);
    }

    #[test]
    fn what_began_there_or_passed_too_many_does_not_go_on() {
        let with = |of: &[(u32, &[u8])], onward: Onward<'_>| pass(onward, &record(ID, &properties(of))).err();
        assert_eq!(with(&[(tag::ORIGIN, b"hub")], onward(ANY)), Some(Refusal::Loop));
        assert_eq!(
            with(&[(tag::ORIGIN, b"edge"), (tag::HOPS, &[3])], onward(ANY)),
            Some(Refusal::Loop),
            "it came round"
        );
        assert_eq!(with(&[(tag::ORIGIN, b"edge")], onward(ANY)), None, "it says where it is published");
        assert_eq!(with(&[(tag::ORIGIN, b"")], Onward { to: "", ..onward(ANY) }), None, "nobody is no origin");
        assert_eq!(with(&[(tag::HOPS, &[7])], onward(ANY)), None);
        assert_eq!(with(&[(tag::HOPS, &[8])], onward(ANY)), Some(Refusal::Hops));
        assert_eq!(with(&[(tag::HOPS, &[255])], Onward { hops_max: u32::MAX, ..onward(ANY) }), None);
        // No count at all counts as none, so that what a publisher put there neither stops nor frees it.
        assert_eq!(with(&[(tag::HOPS, &[9, 9])], onward(ANY)), None);
    }

    #[test]
    fn without_room_for_both_marks_hops_stay_and_without_any_an_id_has_to_do() {
        let full = vec![0; PROPERTIES_BYTES_MAX];
        // A user property of so many bytes in all.
        let of = |len: usize| properties(&[(tag::USER, &full[..len - 3])]);
        let tags = |had: &[u8], id| {
            pass(onward(ANY), &record(id, had)).map(|bytes| list(&bytes).iter().map(|p| p.0).collect::<Vec<_>>())
        };
        // An origin of four bytes takes six, the hops three.
        assert_eq!(tags(&of(PROPERTIES_BYTES_MAX - 9), ID), Ok(vec![tag::USER, tag::ORIGIN, tag::HOPS]));
        assert_eq!(tags(&of(PROPERTIES_BYTES_MAX - 8), ID), Ok(vec![tag::USER, tag::HOPS]));
        assert_eq!(tags(&of(PROPERTIES_BYTES_MAX - 2), ID), Ok(vec![tag::USER]));
        assert_eq!(tags(&of(PROPERTIES_BYTES_MAX - 2), MessageId::NONE), Err(Refusal::Room));
        let many = |count: usize| properties(&vec![(999, &b"x"[..]); count]);
        let count = |had: &[u8], id| tags(had, id).map(|tags| tags.len());
        assert_eq!(count(&many(PROPERTIES_MAX - 1), ID), Ok(PROPERTIES_MAX), "only hops");
        assert_eq!(count(&many(PROPERTIES_MAX), ID), Ok(PROPERTIES_MAX));
        assert_eq!(count(&many(PROPERTIES_MAX), MessageId::NONE), Err(Refusal::Room));
    }

    #[test]
    fn a_message_as_large_as_may_be_does_not_become_too_large() {
        let plain = record(ID, &[]);
        let bare = Record { channel: channel("x/a/b"), ..plain }.encoded_len();
        assert_eq!(pass(onward(bare + 9), &plain).map(|bytes| bytes.len()), Ok(bare + 9));
        assert_eq!(pass(onward(bare + 8), &plain).map(|bytes| bytes.len()), Ok(bare + 3));
        assert_eq!(pass(onward(bare), &plain).map(|bytes| bytes.len()), Ok(bare));
        assert_eq!(pass(onward(bare), &Record { id: MessageId::NONE, ..plain }), Err(Refusal::Room));
        assert_eq!(pass(onward(bare - 1), &plain), Err(Refusal::Large));
    }

    #[test]
    fn names_made_of_edge_and_bridge_are_names_and_differ() {
        assert_eq!(consumer_name("edge-7", "cloud"), "bridge:edge-7:cloud");
        assert_eq!(upstream_name("edge-7", "cloud"), "upstream:edge-7:cloud");
        let long = "x".repeat(200);
        let pairs = [("é", "b"), ("è", "b"), ("a b", "c"), ("a_b", "c"), (&long, "b"), (&long, "c"), (&long[1..], "b")];
        let names: std::collections::BTreeSet<String> = pairs.iter().map(|(e, b)| consumer_name(e, b)).collect();
        assert_eq!(names.len(), pairs.len());
        for name in &names {
            let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b));
            assert!(legal && name.len() <= NAME_BYTES_MAX, "{name}");
        }
    }

    #[test]
    fn a_signature_survives_the_marks_but_not_another_channel() {
        let key = SigningKey::from_seed(&[3; 32]);
        let keys: PublicKeys = [key.public()].into_iter().collect();
        let stated = properties(&[(tag::CONTENT_TYPE, b"text/plain")]);
        let plain = record(ID, &stated);
        let signature = sign(&plain, &key).expect("not compressed");
        let seal = properties(&[(tag::SIGNATURE, &signature), (tag::SIGNER, &key.public().id().0)]);
        let signed = [stated, seal].concat();
        let signed = record(ID, &signed);
        let verified = |channel| {
            let bytes = pass(Onward { channel, ..onward(ANY) }, &signed).expect("goes on");
            verify(&Record::decode(&bytes).expect("a record"), &keys)
        };
        assert_eq!(verified(signed.channel), Ok(key.public().id()));
        assert_eq!(verified(channel("x/a/b")), Err(SealError::BadSignature(key.public().id())));
    }
}
