//! Keys in files and lines: Ed25519 key pairs (PKCS#8 PEM, RFC 8410), their public lines, and symmetric keys of sealing.

use super::file;
use super::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use ring::signature::{Ed25519KeyPair, KeyPair, Signature};
use rustls::pki_types::pem::{PemObject, SectionKind};
use std::fmt;
use std::path::Path;
use zeroize::Zeroizing;

/// Bytes of an Ed25519 public key, of its seed, and of a sealing key.
pub const KEY_BYTES: usize = 32;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// What a public key's line begins with.
pub const PUBLIC_PREFIX: &str = "ed25519:";
/// What a sealing key's file begins with.
pub const SEALING_PREFIX: &str = "seal:";

/// Most bytes of a key's file.
const FILE_BYTES_MAX: usize = 16 * 1024;
/// An Ed25519 private key in PKCS#8, version 1 (RFC 8410 §7), up to its seed.
const PKCS8_HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError(pub String);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyError {}

/// An Ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; KEY_BYTES]);

impl PublicKey {
    /// Reads `ed25519:BASE64`.
    ///
    /// # Errors
    /// It begins otherwise, or does not hold 32 bytes.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let wrong = |found: &str| KeyError(format!("found {found}; expected ed25519: and 32 bytes of base64"));
        let encoded = text.strip_prefix(PUBLIC_PREFIX).ok_or_else(|| wrong("no ed25519: at the start"))?;
        let bytes = STANDARD.decode(encoded).map_err(|_| wrong("text that is not base64"))?;
        let bytes = <[u8; KEY_BYTES]>::try_from(bytes).map_err(|b| wrong(&format!("{} bytes", b.len())))?;
        Ok(Self(bytes))
    }

    /// SHA-256 of it: short enough to compare by eye, as `SHA256:` and base64 without padding.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let encoded = STANDARD.encode(digest(&SHA256, &self.0));
        format!("SHA256:{}", encoded.trim_end_matches('='))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", STANDARD.encode(self.0))
    }
}

/// An Ed25519 key pair: proves who a client is, signs messages, signs tokens.
pub struct PrivateKey {
    seed: Zeroizing<[u8; KEY_BYTES]>,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public())
    }
}

impl PrivateKey {
    /// Of 32 bytes that nobody can guess.
    #[must_use]
    pub fn from_seed(seed: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).expect("a seed of 32 bytes is a key");
        Self { seed, pair }
    }

    /// Reads PEM with one `PRIVATE KEY`, as `tidegate keys new` and `openssl genpkey -algorithm ed25519` write it.
    ///
    /// # Errors
    /// It is no such PEM, or the key is of another kind.
    pub fn parse(pem: &[u8]) -> Result<Self, KeyError> {
        let wrong = |found: &str| {
            KeyError(format!("found {found}; expected an Ed25519 private key as `tidegate keys new` makes it"))
        };
        let (kind, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(pem).map_err(|_| wrong("no PEM"))?;
        let der = Zeroizing::new(der);
        match kind {
            SectionKind::PrivateKey => {}
            SectionKind::PublicKey => return Err(wrong("a public key")),
            _ => return Err(wrong("PEM of another kind")),
        }
        let seed = der.strip_prefix(&PKCS8_HEAD).and_then(|seed| seed.try_into().ok());
        if let Some(seed) = seed {
            return Ok(Self::from_seed(Zeroizing::new(seed)));
        }
        // Version 2 of PKCS#8 has the public key behind the seed; ring sees that they fit.
        let checked = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| wrong("a key of another kind"))?;
        let at = der.windows(4).position(|w| w == [4, 0x22, 4, 0x20]).ok_or_else(|| wrong("a key of another kind"))?;
        let seed = der.get(at + 4..at + 4 + KEY_BYTES).and_then(|seed| seed.try_into().ok());
        let key = Self::from_seed(Zeroizing::new(seed.ok_or_else(|| wrong("a key cut short"))?));
        if key.pair.public_key().as_ref() != checked.public_key().as_ref() {
            return Err(wrong("a key that contradicts itself"));
        }
        Ok(key)
    }

    /// Reads a key's file, which others may not read.
    ///
    /// # Errors
    /// As [`Self::parse`], the file cannot be read, or others may.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let error = |message: &str| KeyError(format!("{}: {message}", path.display()));
        let bytes = file::read_secret(path, FILE_BYTES_MAX).map_err(|e| error(&e.0))?;
        Self::parse(&bytes).map_err(|e| error(&e.0))
    }

    /// As PEM, which [`Self::parse`] reads and openssl too.
    #[must_use]
    pub fn to_pem(&self) -> Secret {
        let mut der = Zeroizing::new([0; PKCS8_HEAD.len() + KEY_BYTES]);
        der[..PKCS8_HEAD.len()].copy_from_slice(&PKCS8_HEAD);
        der[PKCS8_HEAD.len()..].copy_from_slice(&*self.seed);
        let body = Zeroizing::new(STANDARD.encode(der.as_slice()));
        Secret::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", *body).into_bytes())
    }

    /// The half that everybody may know.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.public_key().as_ref().try_into().expect("a public key has 32 bytes"))
    }

    /// The 32 bytes it is made of.
    #[must_use]
    pub fn seed(&self) -> &[u8; KEY_BYTES] {
        &self.seed
    }

    /// Signs (RFC 8032).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.pair.sign(message)
    }
}

/// A symmetric key that seals messages end to end: `seal:` and 32 bytes of base64.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id_text())
    }
}

impl SealingKey {
    /// Of 32 bytes that nobody can guess.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self(bytes)
    }

    /// Reads `seal:BASE64` and at most one newline.
    ///
    /// # Errors
    /// It begins otherwise, or does not hold 32 bytes.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let wrong = || {
            KeyError("found something else; expected seal: and 32 bytes of base64, as `tidegate keys new --sealing` makes it".into())
        };
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let encoded = text.strip_prefix(SEALING_PREFIX.as_bytes()).ok_or_else(wrong)?;
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        match STANDARD.decode_slice(encoded, &mut *bytes) {
            Ok(KEY_BYTES) => Ok(Self(bytes)),
            _ => Err(wrong()),
        }
    }

    /// As its file's text, with a newline.
    #[must_use]
    pub fn to_text(&self) -> Secret {
        let encoded = Zeroizing::new(STANDARD.encode(self.0.as_slice()));
        Secret::new(format!("{SEALING_PREFIX}{}\n", *encoded).into_bytes())
    }

    /// The key itself.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// What names it in sealed messages: the first 8 bytes of its SHA-256.
    #[must_use]
    pub fn id(&self) -> [u8; 8] {
        digest(&SHA256, &*self.0).as_ref()[..8].try_into().expect("a digest has 32 bytes")
    }

    /// Its id in hexadecimal.
    #[must_use]
    pub fn id_text(&self) -> String {
        self.id().iter().map(|b| format!("{b:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032 §7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn hex(text: &str) -> [u8; 32] {
        let bytes: Vec<u8> =
            (0..32).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal")).collect();
        bytes.try_into().expect("32 bytes")
    }

    #[test]
    fn keys_are_those_of_the_rfc_and_come_back_from_their_file() {
        let key = PrivateKey::from_seed(Zeroizing::new(hex(SEED)));
        assert_eq!(key.public(), PublicKey(hex(PUBLIC)));
        let signature = key.sign(b"");
        assert!(signature.as_ref().starts_with(&[0xe5, 0x56, 0x43, 0x00]), "RFC 8032 §7.1");
        let again = PrivateKey::parse(key.to_pem().expose()).expect("its own file");
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::parse(&key.public().to_string()), Ok(key.public()));
        assert!(key.public().fingerprint().starts_with("SHA256:"));
        let shown = format!("{key:?}");
        assert!(!shown.contains("9d61") && !shown.contains("seed"), "{shown}");
    }

    /// RFC 8410 §10.3: version 1, and version 2 with its public key.
    #[test]
    fn private_keys_of_other_programs_are_read() {
        let one = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
        let two = "-----BEGIN PRIVATE KEY-----\nMHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\noB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\nZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
                   -----END PRIVATE KEY-----\n";
        let public = PrivateKey::parse(one.as_bytes()).expect("version 1").public();
        // §10.1.
        assert_eq!(public.to_string(), "ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=");
        if let Ok(key) = PrivateKey::parse(two.as_bytes()) {
            assert_eq!(key.public(), public);
        }
        let generated = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).expect("randomness");
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(generated.as_ref())
        );
        let pair = Ed25519KeyPair::from_pkcs8(generated.as_ref()).expect("ring's own");
        let read = PrivateKey::parse(pem.as_bytes()).expect("version 2");
        assert_eq!(read.public().0, pair.public_key().as_ref());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        for bad in [
            "",
            "hunter2",
            "ed25519:",
            "ed25519:AAAA",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
        ] {
            let error = PrivateKey::parse(bad.as_bytes()).expect_err(bad).to_string();
            assert!(error.contains("expected an Ed25519 private key") && !error.contains("hunter2"), "{error}");
            assert!(PublicKey::parse(bad).is_err(), "{bad}");
            assert!(SealingKey::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(PublicKey::parse(&format!("ed25519:{}", STANDARD.encode([0; 33]))).is_err());
    }

    #[test]
    fn a_sealing_key_comes_back_from_its_file_under_the_same_id() {
        let key = SealingKey::new(Zeroizing::new([7; 32]));
        assert_eq!(SealingKey::parse(key.to_text().expose()), Ok(key.clone()));
        assert_eq!(key.id_text().len(), 16);
        assert!(digest(&SHA256, &[7; 32]).as_ref().starts_with(&key.id()));
        assert_eq!(format!("{key:?}"), format!("SealingKey({})", key.id_text()));
        for bad in ["seal:", "seal:AAAA", "seal:!!!!", &format!("seal:{}", STANDARD.encode([7; 33]))] {
            assert!(SealingKey::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
