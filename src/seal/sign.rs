//! Signatures: that the holder of a key published this, here, then, and under this id.

use super::error::SealError;
use super::keys::{KeyId, PublicKeys, SigningKey};
use super::statement::statement;
use crate::model::{Record, tag};

/// What every signed message's bytes begin with, so that no other use of a key can be taken for one.
const DOMAIN: &[u8] = b"tidegate sign v1\0";

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

fn signed_bytes(record: &Record<'_>) -> Vec<u8> {
    let seal = record.properties.get(tag::SEAL).unwrap_or_default();
    statement(DOMAIN, record, seal, record.payload)
}

/// The signature of a message that has all its properties but this one and the signer's, and whose payload is sealed if it
/// is to be, and not compressed.
///
/// # Errors
/// [`SealError::Compressed`].
pub fn sign(record: &Record<'_>, key: &SigningKey) -> Result<[u8; SIGNATURE_BYTES], SealError> {
    if record.compressed {
        return Err(SealError::Compressed);
    }
    Ok(key.sign_bytes(&signed_bytes(record)))
}

/// Checks the signature of a message whose payload is not compressed, and says whose it is.
///
/// # Errors
/// [`SealError::Compressed`], [`SealError::Unsigned`], [`SealError::UnknownSigner`], [`SealError::BadSignature`].
pub fn verify(record: &Record<'_>, keys: &PublicKeys) -> Result<KeyId, SealError> {
    if record.compressed {
        return Err(SealError::Compressed);
    }
    let signer = record.properties.get(tag::SIGNER).and_then(|id| id.try_into().ok());
    let (Some(signature), Some(id)) = (record.properties.get(tag::SIGNATURE), signer.map(KeyId)) else {
        return Err(SealError::Unsigned);
    };
    let key = keys.get(id).ok_or(SealError::UnknownSigner(id))?;
    // Before the message is put together: a signature of another length is none.
    if signature.len() != SIGNATURE_BYTES || !key.verifies(&signed_bytes(record), signature) {
        return Err(SealError::BadSignature(id));
    }
    Ok(id)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Channel, Encoding, MessageId, Priority, Properties, Property};

    /// Properties of these tags and values, as they are encoded.
    pub(crate) fn encoded(properties: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for &(tag, value) in properties {
            let mut one = vec![0; value.len() + 10];
            let len = Properties::encode_one(Property { tag, value }, &mut one).expect("fits");
            out.extend_from_slice(&one[..len]);
        }
        out
    }

    fn properties(bytes: &[u8]) -> Properties<'_> {
        Properties::parse(bytes).expect("valid")
    }

    fn message<'a>(stated: &'a [u8], payload: &'a [u8]) -> Record<'a> {
        Record {
            id: MessageId([7; 16]),
            time_ms: 1_763_726_400_000,
            encoding: Encoding::Json,
            properties: properties(stated),
            ..Record::new(Channel::parse("site/boiler/temp").expect("valid"), payload)
        }
    }

    /// The message's properties with its signature.
    fn signed(record: &Record<'_>, key: &SigningKey) -> Vec<u8> {
        let signature = sign(record, key).expect("not compressed");
        let added = encoded(&[(tag::SIGNATURE, &signature), (tag::SIGNER, &key.public().id().0)]);
        [record.properties.as_bytes(), &added].concat()
    }

    #[test]
    fn what_a_key_signed_is_verified_and_whatever_is_changed_or_moved_is_not() {
        let key = SigningKey::from_seed(&[1; 32]);
        let keys: PublicKeys = [key.public(), SigningKey::from_seed(&[2; 32]).public()].into_iter().collect();
        let stated = encoded(&[(tag::CONTENT_TYPE, b"application/json"), (tag::USER, b"\x01kv")]);
        let plain = message(&stated, b"{\"t\":71.5}");
        let all = signed(&plain, &key);
        let record = Record { properties: properties(&all), ..plain };
        assert_eq!(verify(&record, &keys), Ok(key.public().id()));

        let bad = Err(SealError::BadSignature(key.public().id()));
        let channel = Channel::parse("site/boiler/tem").expect("valid");
        let less = [encoded(&[(tag::CONTENT_TYPE, b"application/json")]), all[stated.len()..].to_vec()].concat();
        let sealed = [encoded(&[(tag::SEAL, b"x")]), all.clone()].concat();
        for (what, changed) in [
            ("another channel", Record { channel, ..record }),
            ("another id", Record { id: MessageId([8; 16]), ..record }),
            ("another time", Record { time_ms: record.time_ms + 1, ..record }),
            ("another encoding", Record { encoding: Encoding::Text, ..record }),
            ("another payload", Record { payload: b"{\"t\":71.6}", ..record }),
            ("a cut payload", Record { payload: b"{\"t\":71.", ..record }),
            ("a property less", Record { properties: properties(&less), ..record }),
            ("as if sealed", Record { properties: properties(&sealed), ..record }),
        ] {
            assert_eq!(verify(&changed, &keys), bad, "{what}");
        }
        assert_eq!(verify(&Record { compressed: true, ..record }, &keys), Err(SealError::Compressed));
        // What brokers write or change says nothing about the publisher.
        let dead = [all.clone(), encoded(&[(tag::DEAD_REASON, b"late"), (tag::HOPS, &[1])])].concat();
        let moved = Record { properties: properties(&dead), retain: true, ttl_ms: 9, delay_ms: 9, ..record };
        assert_eq!(verify(&Record { priority: Priority::MAX, ..moved }, &keys), Ok(key.public().id()));
    }

    #[test]
    fn forged_and_truncated_signatures_are_refused() {
        let key = SigningKey::from_seed(&[1; 32]);
        let (keys, id) = ([key.public()].into_iter().collect(), key.public().id());
        let plain = message(&[], b"payload");
        let signature = sign(&plain, &key).expect("not compressed");
        let check = |signature: &[u8], signer: &[u8]| {
            let all = encoded(&[(tag::SIGNATURE, signature), (tag::SIGNER, signer)]);
            verify(&Record { properties: properties(&all), ..plain }, &keys)
        };
        assert_eq!(check(&signature, &id.0), Ok(id));
        for bit in 0..signature.len() * 8 {
            let mut forged = signature;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check(&forged, &id.0), Err(SealError::BadSignature(id)), "bit {bit}");
        }
        for len in 0..signature.len() {
            assert_eq!(check(&signature[..len], &id.0), Err(SealError::BadSignature(id)), "cut to {len}");
        }
        assert_eq!(check(&[&signature[..], &[0]].concat(), &id.0), Err(SealError::BadSignature(id)));
        let other = SigningKey::from_seed(&[3; 32]);
        assert_eq!(check(&signature, &other.public().id().0), Err(SealError::UnknownSigner(other.public().id())));
        assert_eq!(check(&other.sign_bytes(&signed_bytes(&plain)), &id.0), Err(SealError::BadSignature(id)));
        assert_eq!(check(&signature, b"short"), Err(SealError::Unsigned));
        assert_eq!(verify(&plain, &keys), Err(SealError::Unsigned));
        // A login's signature is no message's, whatever it was made of.
        let login = key.sign_bytes(&signed_bytes(&plain)[DOMAIN.len()..]);
        assert_eq!(check(&login, &id.0), Err(SealError::BadSignature(id)));
    }
}
