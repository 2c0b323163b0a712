//! What a signature and a seal say about a message, as bytes of one form only.

use crate::model::{Record, tag};

/// Whether a property is what the publisher states. Brokers write the others, and the seal and the signature speak of
/// themselves elsewhere.
const fn is_stated(number: u32) -> bool {
    !matches!(number, tag::ORIGIN | tag::HOPS | tag::SIGNATURE | tag::SIGNER | tag::SEAL | 16..=31)
}

/// A message's statement behind the name of what it is for: all numbers big-endian, all lengths before their bytes.
pub(super) fn statement(domain: &[u8], record: &Record<'_>, seal: &[u8], payload: &[u8]) -> Vec<u8> {
    let channel = record.channel.as_str().as_bytes();
    let properties = record.properties.as_bytes().len();
    let mut out = Vec::with_capacity(domain.len() + channel.len() + 3 * properties + seal.len() + payload.len() + 64);
    out.extend_from_slice(domain);
    put_block(&mut out, channel);
    out.extend_from_slice(&record.id.0);
    out.extend_from_slice(&record.time_ms.to_be_bytes());
    out.push(record.encoding as u8);
    let stated = || record.properties.iter().filter(|property| is_stated(property.tag));
    put_u32(&mut out, stated().count());
    for property in stated() {
        out.extend_from_slice(&property.tag.to_be_bytes());
        put_block(&mut out, property.value);
    }
    put_block(&mut out, seal);
    out.extend_from_slice(payload);
    out
}

fn put_u32(out: &mut Vec<u8>, value: usize) {
    let value = u32::try_from(value).expect("records and their parts have far less than 4 GiB");
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_block(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len());
    out.extend_from_slice(bytes);
}
