//! Keys and the lines they are written as: `ed25519:…`, `ed25519-private:…` and `seal:…`, each with base64 of 32 bytes.
//!
//! A file of keys has one a line; what follows the key on its line is a note, a line that begins with `#` a comment.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of every key.
pub const KEY_BYTES: usize = 32;

const PUBLIC: &str = "ed25519:";
const PRIVATE: &str = "ed25519-private:";
const SEALING: &str = "seal:";

/// Written with padding, read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Longest base64 that is decoded, in bytes: a key has 44.
const BASE64_BYTES_MAX: usize = 64;

/// Names a key without showing it: the first 8 bytes of the SHA-256 of its 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl KeyId {
    fn of(key: &[u8; KEY_BYTES]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&digest(&SHA256, key).as_ref()[..8]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is wrong with a key as it is written. The text itself is never part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// It does not begin with what keys of this kind begin with.
    Prefix(&'static str),
    /// What follows is no base64.
    Base64,
    /// It has another number of bytes than 32.
    Length,
    /// There is no key at all.
    None,
    /// There are several where one is asked for.
    Several,
}

/// Why a text is not the key or keys it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// Line of the text, from 1; 0 when it is about none.
    pub line: usize,
    /// What is wrong.
    pub fault: KeyFault,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        match self.fault {
            KeyFault::Prefix(prefix) => write!(f, "a key here begins with `{prefix}`"),
            KeyFault::Base64 => f.write_str("what follows the key's kind is not base64"),
            KeyFault::Length => write!(f, "a key has {KEY_BYTES} bytes, which are 44 letters of base64"),
            KeyFault::None => f.write_str("there is no key"),
            KeyFault::Several => f.write_str("there is more than one key; one is expected"),
        }
    }
}

impl std::error::Error for KeyError {}

/// The 32 bytes behind a prefix.
fn decode(text: &str, prefix: &'static str) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyFault> {
    let coded = text.strip_prefix(prefix).ok_or(KeyFault::Prefix(prefix))?;
    if coded.len() > BASE64_BYTES_MAX {
        return Err(KeyFault::Length);
    }
    let mut bytes = Zeroizing::new([0; BASE64_BYTES_MAX]);
    let len = BASE64.decode_slice(coded, &mut bytes[..]).map_err(|_| KeyFault::Base64)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if len != KEY_BYTES {
        return Err(KeyFault::Length);
    }
    key.copy_from_slice(&bytes[..KEY_BYTES]);
    Ok(key)
}

fn encode(prefix: &str, key: &[u8; KEY_BYTES]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(prefix.len() + BASE64_BYTES_MAX));
    text.push_str(prefix);
    BASE64.encode_string(key, &mut text);
    text
}

/// Each key of a text, with the number of its line.
fn each_line<T>(text: &str, parse: impl Fn(&str) -> Result<T, KeyFault>) -> Result<Vec<T>, KeyError> {
    let keys: Result<Vec<T>, KeyError> = text
        .lines()
        .enumerate()
        .filter_map(|(n, line)| Some((n + 1, line.split_whitespace().next()?)))
        .filter(|(_, word)| !word.starts_with('#'))
        .map(|(line, word)| parse(word).map_err(|fault| KeyError { line, fault }))
        .collect();
    let keys = keys?;
    if keys.is_empty() {
        return Err(KeyError { line: 0, fault: KeyFault::None });
    }
    Ok(keys)
}

fn only<T>(mut keys: Vec<T>) -> Result<T, KeyError> {
    match keys.pop() {
        Some(key) if keys.is_empty() => Ok(key),
        _ => Err(KeyError { line: 0, fault: KeyFault::Several }),
    }
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey {
    bytes: [u8; KEY_BYTES],
    id: KeyId,
}

impl PublicKey {
    /// The key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self { bytes, id: KeyId::of(&bytes) }
    }

    /// Reads `ed25519:BASE64`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        decode(text, PUBLIC).map(|key| Self::from_bytes(*key)).map_err(|fault| KeyError { line: 0, fault })
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Whether the signature of these bytes is this key's (RFC 8032, Ed25519).
    #[must_use]
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.bytes).verify(bytes, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(PUBLIC, &self.bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id)
    }
}

/// Public keys by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicKeys(Vec<PublicKey>);

impl PublicKeys {
    /// Reads a file of keys, one a line.
    ///
    /// # Errors
    /// [`KeyError`] with the first line that is no public key; when there is none at all.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        each_line(text, |word| decode(word, PUBLIC).map(|key| PublicKey::from_bytes(*key)))
            .map(|keys| keys.into_iter().collect())
    }

    /// The key of this id.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&PublicKey> {
        self.0.binary_search_by_key(&id, PublicKey::id).ok().map(|at| &self.0[at])
    }

    /// The keys, by id.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that are among others, too.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.iter().filter(|key| other.get(key.id) == Some(key)).copied().collect()
    }
}

impl FromIterator<PublicKey> for PublicKeys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        let mut keys: Vec<PublicKey> = keys.into_iter().collect();
        keys.sort_unstable_by_key(PublicKey::id);
        keys.dedup_by_key(|key| key.id);
        Self(keys)
    }
}

impl Extend<PublicKey> for PublicKeys {
    fn extend<I: IntoIterator<Item = PublicKey>>(&mut self, keys: I) {
        *self = std::mem::take(&mut self.0).into_iter().chain(keys).collect();
    }
}

/// An Ed25519 private key. Its seed is zeroed when it is dropped; ring keeps a copy of the expanded key that it does not zero.
pub struct SigningKey {
    seed: Zeroizing<[u8; KEY_BYTES]>,
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl SigningKey {
    /// The key of this seed: 32 bytes that nobody can guess.
    #[must_use]
    pub fn from_seed(seed: &[u8; KEY_BYTES]) -> Self {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(seed).expect("ring refuses only seeds of another length than 32");
        let mut public = [0; KEY_BYTES];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { seed: Zeroizing::new(*seed), pair, public: PublicKey::from_bytes(public) }
    }

    /// Reads a file with one private key: `ed25519-private:BASE64`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        each_line(text, |word| decode(word, PRIVATE).map(|seed| Self::from_seed(&seed))).and_then(only)
    }

    /// As it is written into a file, without a line's end.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        encode(PRIVATE, &self.seed)
    }

    /// The key that verifies what this one signed.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs bytes (RFC 8032, Ed25519). Those of a message are made by [`super::sign`]; others begin with a domain of their own.
    #[must_use]
    pub fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(bytes).as_ref());
        signature
    }
}

impl fmt::Debug for SigningKey {
    /// Without the key: it may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id)
    }
}

/// A key that payloads are sealed with; whoever opens them has the same. Zeroed when it is dropped.
#[derive(Clone)]
pub struct SealingKey {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    id: KeyId,
}

impl SealingKey {
    /// The key of these bytes, which nobody can guess.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self { bytes: Zeroizing::new(*bytes), id: KeyId::of(bytes) }
    }

    /// Reads a file with one key: `seal:BASE64`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        each_line(text, |word| decode(word, SEALING).map(|key| Self::from_bytes(&key))).and_then(only)
    }

    /// As it is written into a file, without a line's end.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        encode(SEALING, &self.bytes)
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }
}

impl fmt::Debug for SealingKey {
    /// Without the key: it may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

/// Sealing keys by their ids: the present one and those before it.
#[derive(Clone, Debug, Default)]
pub struct SealingKeys(Vec<SealingKey>);

impl SealingKeys {
    /// Reads a file of keys, one a line.
    ///
    /// # Errors
    /// [`KeyError`] with the first line that is no sealing key; when there is none at all.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        each_line(text, |word| decode(word, SEALING).map(|key| SealingKey::from_bytes(&key)))
            .map(|keys| keys.into_iter().collect())
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &SealingKey> {
        self.0.iter()
    }

    /// The key of this id.
    #[must_use]
    pub fn get(&self, id: KeyId) -> Option<&SealingKey> {
        self.0.iter().find(|key| key.id == id)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<SealingKey> for SealingKeys {
    fn from_iter<I: IntoIterator<Item = SealingKey>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl Extend<SealingKey> for SealingKeys {
    fn extend<I: IntoIterator<Item = SealingKey>>(&mut self, keys: I) {
        self.0.extend(keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        let digit = |i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex");
        (0..text.len()).step_by(2).map(digit).collect()
    }

    fn array(text: &str) -> [u8; 32] {
        bytes(text).try_into().expect("32 bytes")
    }

    #[test]
    fn signatures_are_those_of_rfc_8032() {
        for (seed, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let key = SigningKey::from_seed(&array(seed));
            assert_eq!(key.public().as_bytes(), &array(public));
            assert_eq!(key.sign_bytes(&bytes(message)).to_vec(), bytes(signature));
            assert!(key.public().verifies(&bytes(message), &bytes(signature)));
            assert!(!key.public().verifies(b"other", &bytes(signature)));
        }
    }

    #[test]
    fn keys_read_back_from_their_text() {
        let signing = SigningKey::from_seed(&[1; 32]);
        let again = SigningKey::parse(&signing.to_text()).expect("its own text");
        assert_eq!(again.public(), signing.public());
        assert_eq!(PublicKey::parse(&signing.public().to_string()), Ok(signing.public()));
        let sealing = SealingKey::from_bytes(&[2; 32]);
        assert_eq!(SealingKey::parse(&sealing.to_text()).expect("its own text").as_bytes(), sealing.as_bytes());
        assert_eq!(sealing.to_text().as_str(), "seal:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=");
        assert_eq!(sealing.id().to_string(), "75877bb41d393b5f");
    }

    #[test]
    fn a_file_of_keys_has_notes_and_comments() {
        let (a, b) = (SigningKey::from_seed(&[1; 32]).public(), SigningKey::from_seed(&[2; 32]).public());
        let text = format!("# who may sign\n\n  {a} the boiler's\n{b}\n{a}\n");
        let keys = PublicKeys::parse(&text).expect("a file of keys");
        assert_eq!(keys.iter().count(), 2);
        assert_eq!(keys.get(b.id()), Some(&b));
        assert_eq!(keys.intersection(&[a].into_iter().collect()).iter().collect::<Vec<_>>(), [&a]);
        let seals =
            SealingKeys::parse("seal:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI 2026\n").expect("without padding");
        assert!(seals.get(SealingKey::from_bytes(&[2; 32]).id()).is_some());
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_line_and_is_not_shown() {
        let refused = |text: &str| PublicKeys::parse(text).expect_err("no keys");
        assert_eq!(refused("# nothing\n"), KeyError { line: 0, fault: KeyFault::None });
        assert_eq!(refused("\nseal:AAAA"), KeyError { line: 2, fault: KeyFault::Prefix("ed25519:") });
        assert_eq!(refused("ed25519:A*AA").fault, KeyFault::Base64);
        assert_eq!(refused("ed25519:AAAA").fault, KeyFault::Length);
        assert_eq!(refused(&format!("ed25519:{}", "A".repeat(10_000))).fault, KeyFault::Length);
        let private = SigningKey::from_seed(&[9; 32]).to_text();
        let error = PublicKeys::parse(&private).expect_err("a private key is no public one").to_string();
        assert!(!error.contains(&private[16..]), "{error}");
        let two = format!("{}\n{}", private.as_str(), private.as_str());
        assert_eq!(SigningKey::parse(&two).expect_err("two").fault, KeyFault::Several);
        assert!(!format!("{:?}", SigningKey::from_seed(&[9; 32])).contains(&private[16..]));
    }
}
