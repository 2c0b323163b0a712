//! Keys in files: those of the seal room as `tidegate keys new` writes them, and Ed25519 keys that other programs made.

use super::file;
use crate::seal::KEY_BYTES;
pub use crate::seal::{PublicKey, PublicKeys, SealingKey, SigningKey};
use ring::signature::Ed25519KeyPair;
use ring::signature::KeyPair as _;
use rustls::pki_types::pem::{PemObject, SectionKind};
use std::fmt;
use std::path::Path;
use zeroize::Zeroizing;

/// What a public key's line begins with.
pub const PUBLIC_PREFIX: &str = "ed25519:";
/// Most bytes of a key's file.
const FILE_BYTES_MAX: usize = 16 * 1024;
/// An Ed25519 private key in PKCS#8, version 1 (RFC 8410 §7), up to its seed.
const PKCS8_HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A key's file.
pub enum KeyFile {
    /// A private key: proves who a client is, signs messages, signs tokens.
    Private(SigningKey),
    /// A key that seals messages end to end.
    Sealing(SealingKey),
    /// Public keys.
    Public(PublicKeys),
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private(key) => key.fmt(f),
            Self::Sealing(key) => key.fmt(f),
            Self::Public(keys) => keys.fmt(f),
        }
    }
}

impl KeyFile {
    /// Reads a file with a key of any kind; one with a private or a sealing key must not be open to others.
    ///
    /// # Errors
    /// A sentence that names the file: it cannot be read, others may read it, or there is no key in it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let told = |message: String| format!("{}: {message}", path.display());
        let contents = file::read(path, FILE_BYTES_MAX).map_err(|refused| told(refused.0))?;
        let key = Self::parse(&contents.bytes).map_err(told)?;
        if !matches!(key, Self::Public(_)) {
            file::check_secret_mode(path, contents.mode).map_err(|refused| told(refused.0))?;
        }
        Ok(key)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// There is no key in it; the text is not shown.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let mut words = text.lines().filter_map(|line| line.split_whitespace().next());
        let first = words.find(|word| !word.starts_with('#')).unwrap_or_default();
        if first.starts_with("seal:") {
            SealingKey::parse(text).map(Self::Sealing).map_err(|error| error.to_string())
        } else if first.starts_with(PUBLIC_PREFIX) {
            PublicKeys::parse(text).map(Self::Public).map_err(|error| error.to_string())
        } else {
            signing_key(bytes).map(Self::Private)
        }
    }

    /// The one public key of a file: of a private key its other half.
    ///
    /// # Errors
    /// It is a sealing key, which has none, or there are several.
    pub fn public(&self) -> Result<PublicKey, String> {
        match self {
            Self::Private(key) => Ok(key.public()),
            Self::Sealing(_) => Err("found a sealing key, which has no public half; expected an Ed25519 key".into()),
            Self::Public(keys) => {
                let mut keys = keys.iter();
                match (keys.next(), keys.next()) {
                    (Some(key), None) => Ok(*key),
                    _ => Err("found several keys; expected one".into()),
                }
            }
        }
    }
}

/// Reads a private key: `ed25519-private:BASE64` as `tidegate keys new` writes it, or PEM with `PRIVATE KEY` as
/// `openssl genpkey -algorithm ed25519` does.
///
/// # Errors
/// What was found and what was expected; the key is not shown.
pub fn signing_key(bytes: &[u8]) -> Result<SigningKey, String> {
    let wrong = |found: &str| format!("found {found}; expected an Ed25519 private key as `tidegate keys new` makes it");
    if !super::token::is_pem(bytes) {
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("no text"))?;
        return SigningKey::parse(text).map_err(|error| wrong(&format!("no such key ({error})")));
    }
    let (kind, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(bytes).map_err(|_| wrong("PEM that cannot be read"))?;
    let der = Zeroizing::new(der);
    match kind {
        SectionKind::PrivateKey => {}
        SectionKind::PublicKey => return Err(wrong("a public key")),
        _ => return Err(wrong("PEM of another kind")),
    }
    if let Some(Ok(seed)) = der.strip_prefix(&PKCS8_HEAD).map(<&[u8; KEY_BYTES]>::try_from) {
        return Ok(SigningKey::from_seed(seed));
    }
    // Version 2 of PKCS#8 has the public key behind the seed; ring sees that they fit.
    let checked = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| wrong("a key of another kind"))?;
    let at = der.windows(4).position(|w| w == [4, 0x22, 4, 0x20]).map(|at| at + 4);
    let seed = at.and_then(|at| der.get(at..at + KEY_BYTES)).and_then(|seed| <&[u8; KEY_BYTES]>::try_from(seed).ok());
    let key = SigningKey::from_seed(seed.ok_or_else(|| wrong("a key cut short"))?);
    if key.public().as_bytes() != checked.public_key().as_ref() {
        return Err(wrong("a key that contradicts itself"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    /// RFC 8410 §10.1.
    const PUBLIC: &str = "ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    /// RFC 8410 §10.3, version 1; and version 2 as ring makes it.
    #[test]
    fn private_keys_of_other_programs_are_read() {
        let one = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                   -----END PRIVATE KEY-----\n";
        assert_eq!(signing_key(one.as_bytes()).expect("version 1").public().to_string(), PUBLIC);
        let two = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).expect("randomness");
        let pair = Ed25519KeyPair::from_pkcs8(two.as_ref()).expect("ring's own");
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(two.as_ref()));
        let read = signing_key(pem.as_bytes()).expect("version 2").public();
        assert_eq!(read.as_bytes(), pair.public_key().as_ref());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        for bad in [
            "",
            "hunter2",
            "ed25519-private:hunter2",
            PUBLIC,
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
        ] {
            let error = signing_key(bad.as_bytes()).expect_err(bad);
            assert!(error.contains("expected an Ed25519 private key") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn files_of_secret_keys_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let read = |mode, text: &str| {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
            KeyFile::read(&path)
        };
        let private = SigningKey::from_seed(&[1; 32]);
        let text = format!("# a comment\n{}\n", private.to_text().as_str());
        let public = read(0o600, &text).expect("a key").public();
        assert_eq!(public, Ok(private.public()));
        assert!(read(0o644, &text).expect_err("others may read it").contains("chmod 600"));
        let sealing = format!("{}\n", SealingKey::from_bytes(&[2; 32]).to_text().as_str());
        assert!(matches!(read(0o600, &sealing), Ok(KeyFile::Sealing(_))));
        assert!(read(0o604, &sealing).expect_err("others may read it").contains("chmod 600"));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its mode");
        assert_eq!(read(0o644, PUBLIC).expect("everybody may").public().expect("one").to_string(), PUBLIC);
        let two = format!("{PUBLIC}\n{}\n", private.public());
        assert!(read(0o644, &two).expect("two keys").public().is_err());
    }
}
