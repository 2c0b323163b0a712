//! Sealing: payloads that only the holders of a key read, and that open only where and when they were published.

use super::compress;
use super::error::SealError;
use super::keys::{KEY_BYTES, KeyId, SealingKey, SealingKeys};
use super::statement::statement;
use crate::model::{Record, tag};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the keys of messages are derived for, and what the associated data begins with.
const DOMAIN: &[u8] = b"tidegate seal v1\0";

/// Bytes of a message's salt: 16 of the process, then 8 that count its messages.
pub const SALT_BYTES: usize = 24;
/// Bytes of the property that describes a seal: algorithm, flags, key id, salt.
pub const SEAL_BYTES: usize = 2 + 8 + SALT_BYTES;

/// What is sealed was compressed before.
const FLAG_COMPRESSED: u8 = 1;

/// How payloads are sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// ChaCha20-Poly1305 (RFC 8439): fast everywhere.
    #[default]
    ChaCha20Poly1305 = 1,
    /// AES-256-GCM: faster where the processor has instructions for it.
    Aes256Gcm = 2,
}

impl Algorithm {
    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::ChaCha20Poly1305),
            2 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }

    fn cipher(self) -> &'static ring::aead::Algorithm {
        match self {
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Self::Aes256Gcm => &AES_256_GCM,
        }
    }
}

/// A sealed payload and the property that describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Value of the property [`tag::SEAL`].
    pub property: [u8; SEAL_BYTES],
    /// The payload.
    pub payload: Vec<u8>,
}

/// Seals payloads with one key. Each message gets a key of its own, derived from 16 random bytes and a count: none is
/// used twice by one sealer, and by two only when their random bytes are the same.
pub struct Sealer {
    key: SealingKey,
    algorithm: Algorithm,
    process: [u8; 16],
    count: AtomicU64,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({:?}, {})", self.algorithm, self.key.id())
    }
}

impl Sealer {
    /// A sealer. The entropy must be new and random for each that is ever made.
    #[must_use]
    pub fn new(key: SealingKey, algorithm: Algorithm, entropy: [u8; 16]) -> Self {
        Self { key, algorithm, process: entropy, count: AtomicU64::new(0) }
    }

    /// The id of its key.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.key.id()
    }

    /// Seals the payload of a message that has its channel, id, time, encoding and all its properties but those of
    /// seal and signature. `compress` makes it shorter first, where that helps: its length then tells something about it.
    ///
    /// # Errors
    /// [`SealError::AlreadySealed`], [`SealError::Compressed`].
    pub fn seal(&self, record: &Record<'_>, compress: bool) -> Result<Sealed, SealError> {
        if record.properties.get(tag::SEAL).is_some() {
            return Err(SealError::AlreadySealed);
        }
        if record.compressed {
            return Err(SealError::Compressed);
        }
        let inside = compress.then(|| compress::compress(record.payload)).flatten();
        let mut salt = [0; SALT_BYTES];
        salt[..16].copy_from_slice(&self.process);
        salt[16..].copy_from_slice(&self.count.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let header = Header {
            algorithm: self.algorithm,
            flags: if inside.is_some() { FLAG_COMPRESSED } else { 0 },
            key: self.key.id(),
            salt,
        };
        let property = header.to_bytes();
        let mut payload = inside.unwrap_or_else(|| record.payload.to_vec());
        let aad = Aad::from(statement(DOMAIN, record, &property, &[]));
        message_key(self.key.as_bytes(), &header)
            .seal_in_place_append_tag(nonce(), aad, &mut payload)
            .expect("a cipher refuses only payloads of many GiB");
        Ok(Sealed { property, payload })
    }
}

/// Opens the payload of a sealed message, which has at most `bytes_max` bytes then.
///
/// # Errors
/// [`SealError`].
pub fn open(record: &Record<'_>, keys: &SealingKeys, bytes_max: usize) -> Result<Vec<u8>, SealError> {
    if record.compressed {
        return Err(SealError::Compressed);
    }
    let property = record.properties.get(tag::SEAL).ok_or(SealError::NotSealed)?;
    let header = property.try_into().ok().and_then(Header::from_bytes).ok_or(SealError::BadSeal)?;
    let key = keys.get(header.key).ok_or(SealError::UnknownKey(header.key))?;
    let aad = Aad::from(statement(DOMAIN, record, property, &[]));
    let mut payload = record.payload.to_vec();
    let opened = message_key(key.as_bytes(), &header)
        .open_in_place(nonce(), aad, &mut payload)
        .map_err(|_| SealError::DoesNotOpen(header.key))?;
    if header.flags & FLAG_COMPRESSED != 0 {
        return compress::expand(opened, bytes_max).map_err(SealError::Inside);
    }
    let len = opened.len();
    payload.truncate(len);
    Ok(payload)
}

/// What the property of a sealed message says.
struct Header {
    algorithm: Algorithm,
    flags: u8,
    key: KeyId,
    salt: [u8; SALT_BYTES],
}

impl Header {
    fn to_bytes(&self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        (bytes[0], bytes[1]) = (self.algorithm as u8, self.flags);
        bytes[2..10].copy_from_slice(&self.key.0);
        bytes[10..].copy_from_slice(&self.salt);
        bytes
    }

    fn from_bytes(bytes: &[u8; SEAL_BYTES]) -> Option<Self> {
        let (mut key, mut salt) = ([0; 8], [0; SALT_BYTES]);
        key.copy_from_slice(&bytes[2..10]);
        salt.copy_from_slice(&bytes[10..]);
        let known = bytes[1] & !FLAG_COMPRESSED == 0;
        known.then_some(Self { algorithm: Algorithm::from_code(bytes[0])?, flags: bytes[1], key: KeyId(key), salt })
    }
}

/// The key of one message.
fn message_key(key: &[u8; KEY_BYTES], header: &Header) -> LessSafeKey {
    let extracted = Salt::new(HKDF_SHA256, &header.salt).extract(key);
    let info = [DOMAIN, &[header.algorithm as u8]];
    let expanded = extracted.expand(&info, header.algorithm.cipher()).expect("a key is shorter than 255 hashes");
    LessSafeKey::new(UnboundKey::from(expanded))
}

/// Each key seals one message, so that its nonce may be the same.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Channel, Encoding, MessageId, Properties};
    use crate::seal::sign::tests::encoded;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const MAX: usize = 1 << 20;
    const BOTH: [Algorithm; 2] = [Algorithm::ChaCha20Poly1305, Algorithm::Aes256Gcm];

    fn key(n: u8) -> SealingKey {
        SealingKey::from_bytes(&[n; 32])
    }

    fn keys(all: &[u8]) -> SealingKeys {
        all.iter().map(|n| key(*n)).collect()
    }

    fn message<'a>(stated: &'a [u8], payload: &'a [u8]) -> Record<'a> {
        Record {
            id: MessageId([7; 16]),
            time_ms: 1_763_726_400_000,
            encoding: Encoding::Text,
            properties: Properties::parse(stated).expect("valid"),
            ..Record::new(Channel::parse("site/boiler/temp").expect("valid"), payload)
        }
    }

    #[test]
    fn what_was_sealed_opens_with_any_key_of_the_ring_and_with_no_other() {
        for algorithm in BOTH {
            let sealer = Sealer::new(key(2), algorithm, [9; 16]);
            let stated = encoded(&[(tag::CONTENT_TYPE, b"text/plain")]);
            let plain = message(&stated, b"a secret");
            let sealed = sealer.seal(&plain, false).expect("not sealed yet");
            assert_eq!(sealed.payload.len(), b"a secret".len() + 16);
            assert!(!sealed.payload.windows(6).any(|w| w == b"secret"));
            let all = [stated.clone(), encoded(&[(tag::SEAL, &sealed.property)])].concat();
            let record = message(&all, &sealed.payload);
            assert_eq!(open(&record, &keys(&[1, 2, 3]), MAX).as_deref(), Ok(&b"a secret"[..]));
            assert_eq!(open(&record, &keys(&[1, 3]), MAX), Err(SealError::UnknownKey(key(2).id())));
            assert_eq!(open(&plain, &keys(&[2]), MAX), Err(SealError::NotSealed));
            assert_eq!(sealer.seal(&record, false), Err(SealError::AlreadySealed));
        }
    }

    #[test]
    fn a_sealed_payload_with_a_flipped_bit_anywhere_does_not_open() {
        for algorithm in BOTH {
            let sealer = Sealer::new(key(2), algorithm, [9; 16]);
            let plain = message(&[], b"a secret");
            let sealed = sealer.seal(&plain, false).expect("not sealed yet");
            let with = |property: &[u8], payload: &[u8]| {
                let all = encoded(&[(tag::SEAL, property)]);
                open(&message(&all, payload), &keys(&[2]), MAX)
            };
            assert!(with(&sealed.property, &sealed.payload).is_ok());
            for bit in 0..sealed.payload.len() * 8 {
                let mut payload = sealed.payload.clone();
                payload[bit / 8] ^= 1 << (bit % 8);
                let refused = with(&sealed.property, &payload);
                assert_eq!(refused, Err(SealError::DoesNotOpen(key(2).id())), "bit {bit} of payload and tag");
            }
            for bit in 0..sealed.property.len() * 8 {
                let mut property = sealed.property;
                property[bit / 8] ^= 1 << (bit % 8);
                assert!(with(&property, &sealed.payload).is_err(), "bit {bit} of algorithm, flags, key id and salt");
            }
            for len in 0..sealed.payload.len() {
                assert!(with(&sealed.property, &sealed.payload[..len]).is_err(), "cut to {len}");
            }
            for len in 0..sealed.property.len() {
                assert_eq!(with(&sealed.property[..len], &sealed.payload), Err(SealError::BadSeal), "cut to {len}");
            }
        }
    }

    #[test]
    fn a_sealed_payload_opens_only_where_and_when_it_was_published() {
        let plain = message(&[], b"a secret");
        let sealed = Sealer::new(key(2), Algorithm::default(), [9; 16]).seal(&plain, false).expect("not sealed yet");
        let all = encoded(&[(tag::SEAL, &sealed.property)]);
        let record = message(&all, &sealed.payload);
        let more = [all.clone(), encoded(&[(tag::CONTENT_TYPE, b"text/html")])].concat();
        let more = Properties::parse(&more).expect("valid");
        for (what, moved) in [
            ("another channel", Record { channel: Channel::parse("site/boiler/tempo").expect("valid"), ..record }),
            ("another id", Record { id: MessageId([8; 16]), ..record }),
            ("another time", Record { time_ms: 0, ..record }),
            ("another encoding", Record { encoding: Encoding::Binary, ..record }),
            ("a property more", Record { properties: more, ..record }),
        ] {
            assert_eq!(open(&moved, &keys(&[2]), MAX), Err(SealError::DoesNotOpen(key(2).id())), "{what}");
        }
        assert_eq!(open(&Record { compressed: true, ..record }, &keys(&[2]), MAX), Err(SealError::Compressed));
    }

    #[test]
    fn no_salt_comes_twice_so_that_no_key_and_nonce_do() {
        let sealer = Sealer::new(key(2), Algorithm::default(), [9; 16]);
        let other = Sealer::new(key(2), Algorithm::default(), [10; 16]);
        let plain = message(&[], b"the same");
        let (mut salts, mut payloads) = (HashSet::new(), HashSet::new());
        for _ in 0..1_000 {
            for sealer in [&sealer, &other] {
                let sealed = sealer.seal(&plain, false).expect("not sealed yet");
                assert!(salts.insert(sealed.property) && payloads.insert(sealed.payload));
            }
        }
        std::thread::scope(|scope| {
            let work =
                || (0..1_000).map(|_| sealer.seal(&plain, false).expect("not sealed").property).collect::<Vec<_>>();
            let threads = [scope.spawn(work), scope.spawn(work)];
            for thread in threads {
                assert!(thread.join().expect("no panic").into_iter().all(|salt| salts.insert(salt)));
            }
        });
    }

    #[test]
    fn what_is_compressed_inside_a_seal_is_bounded_when_it_opens() {
        let payload = vec![0; 100_000];
        let plain = message(&[], &payload);
        let sealed = Sealer::new(key(2), Algorithm::default(), [9; 16]).seal(&plain, true).expect("not sealed yet");
        assert!(sealed.payload.len() < 1_000);
        let all = encoded(&[(tag::SEAL, &sealed.property)]);
        let record = message(&all, &sealed.payload);
        assert_eq!(open(&record, &keys(&[2]), 100_000), Ok(payload));
        assert!(matches!(open(&record, &keys(&[2]), 99_999), Err(SealError::Inside(_))));
    }

    #[test]
    fn the_cipher_is_that_of_rfc_8439() {
        // Section 2.8.2, by the cipher this room seals with.
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
        };
        let key: Vec<u8> = (0x80..=0x9f).collect();
        let key = UnboundKey::new(Algorithm::ChaCha20Poly1305.cipher(), &key).expect("32 bytes");
        let nonce: [u8; 12] = hex("070000004041424344454647").try_into().expect("12 bytes");
        let mut text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
                         sunscreen would be it."
            .to_vec();
        let aad = Aad::from(hex("50515253c0c1c2c3c4c5c6c7"));
        let sealing = LessSafeKey::new(key);
        sealing.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text).expect("short");
        assert_eq!(text[..8], hex("d31a8d34648e60db")[..]);
        assert_eq!(text[text.len() - 16..], hex("1ae10b594f09e26a7e902ecbd0600691")[..]);
    }

    proptest! {
        #[test]
        fn any_payload_comes_back(payload in prop::collection::vec(any::<u8>(), 0..2_000), compress: bool, aes: bool) {
            let plain = message(&[], &payload);
            let sealer = Sealer::new(key(2), BOTH[usize::from(aes)], [9; 16]);
            let sealed = sealer.seal(&plain, compress).expect("not sealed yet");
            let all = encoded(&[(tag::SEAL, &sealed.property)]);
            prop_assert_eq!(open(&message(&all, &sealed.payload), &keys(&[2]), MAX), Ok(payload));
        }
    }
}
