//! What a client shows to be let in. Secrets come from files, which are read again at each attempt, or from the caller.

use crate::seal::{KEY_BYTES, SigningKey};
use crate::wire::{
    AUTH_DATA_BYTES_MAX, NONCE_BYTES, PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SignedNonce, auth_method, write_password,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Most bytes of a secret's file.
const FILE_BYTES_MAX: u64 = 64 * 1_024;
/// Permission bits that let others read, or group and others write.
const OTHERS: u32 = 0o027;

/// Where a secret is.
#[derive(Clone)]
pub enum SecretSource {
    /// In a file that others may not read. One newline at its end is cut off.
    File(PathBuf),
    /// Here; zeroed when dropped.
    Bytes(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Bytes(_) => f.write_str("Bytes(..)"),
        }
    }
}

/// What a client shows to be let in.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A signed token (JWT). One from a file is renewed in place when the file has a newer one before it ends.
    Token(SecretSource),
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: SecretSource,
    },
    /// An Ed25519 private key: the text that `tidegate keys new` writes, PEM of PKCS#8, or the 32 bytes it is made of.
    Key(SecretSource),
    /// What the transport knows: the client certificate of TLS, or the user of the Unix socket.
    Transport,
}

/// Credentials as they are now.
pub(super) struct Shown {
    method: u8,
    user: String,
    secret: Zeroizing<Vec<u8>>,
}

impl Credentials {
    /// Reads them.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file.
    pub(super) fn read(&self) -> Result<Shown, String> {
        let (method, user, secret) = match self {
            Self::Token(source) => (auth_method::TOKEN, String::new(), source.read()?),
            Self::Password { user, password } => (auth_method::PASSWORD, user.clone(), password.read()?),
            Self::Key(source) => (auth_method::KEY, String::new(), source.read()?),
            Self::Transport => (auth_method::TRANSPORT, String::new(), Zeroizing::default()),
        };
        if method == auth_method::TOKEN && secret.len() > AUTH_DATA_BYTES_MAX {
            return Err(format!("the token has {} bytes; at most {AUTH_DATA_BYTES_MAX} can be shown", secret.len()));
        }
        Ok(Shown { method, user, secret })
    }

    /// Reads them and gives the bytes of an auth frame that answers a challenge, with the method's number.
    ///
    /// # Errors
    /// A sentence that says why there are none.
    pub fn show(&self, challenge: &[u8]) -> Result<(u8, Zeroizing<Vec<u8>>), String> {
        let shown = self.read()?;
        let data = shown.data(challenge.try_into().ok().as_ref(), false)?;
        Ok((shown.method(), data))
    }

    /// Whether to show them again can help without anybody having changed them.
    pub(super) const fn is_file(&self) -> bool {
        match self {
            Self::Token(source) | Self::Key(source) | Self::Password { password: source, .. } => {
                matches!(source, SecretSource::File(_))
            }
            Self::Transport => false,
        }
    }
}

impl SecretSource {
    fn read(&self) -> Result<Zeroizing<Vec<u8>>, String> {
        let mut bytes = match self {
            Self::Bytes(bytes) => return Ok(bytes.clone()),
            Self::File(path) => read_file(path).map_err(|why| format!("{}: {why}", path.display()))?,
        };
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        match self {
            Self::File(path) if bytes.is_empty() => Err(format!("{}: there is nothing in it", path.display())),
            _ => Ok(bytes),
        }
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    // Of the file that is open, not of the name, which may be another's by now.
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if meta.mode() & OTHERS != 0 {
        let mode = meta.mode() & 0o777;
        return Err(format!("others may read or change it (mode {mode:04o}): chmod 600 it"));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(format!("it has {} bytes; at most {FILE_BYTES_MAX} are read", meta.len()));
    }
    // With room for all of it: a vector that grows leaves copies behind that nobody zeroes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

impl Shown {
    /// The method's number.
    pub(super) const fn method(&self) -> u8 {
        self.method
    }

    /// Whether these are other credentials than those.
    pub(super) fn differs(&self, other: &Self) -> bool {
        (self.method, &self.user, &self.secret) != (other.method, &other.user, &other.secret)
    }

    /// The data of an auth or, when `again`, a reauth frame.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub(super) fn data(&self, nonce: Option<&[u8; NONCE_BYTES]>, again: bool) -> Result<Zeroizing<Vec<u8>>, String> {
        match self.method {
            auth_method::PASSWORD => {
                let mut data = Zeroizing::new(vec![0; self.user.len() + self.secret.len() + 2 * 5]);
                let len = write_password(&mut data, self.user.as_bytes(), &self.secret)
                    .map_err(|_| "name and password are too long".to_owned())?
                    .len();
                data.truncate(len);
                if len > AUTH_DATA_BYTES_MAX {
                    return Err("name and password are too long".into());
                }
                Ok(data)
            }
            auth_method::KEY => {
                let nonce = nonce.ok_or("the broker asked for a key without a challenge")?;
                let (public, signature) = sign(&self.secret, SignedNonce::new(nonce, again).as_bytes())?;
                Ok(Zeroizing::new([&public[..], &signature].concat()))
            }
            _ => Ok(self.secret.clone()),
        }
    }
}

/// Signs with a private key in any of its forms; gives its public half, too.
fn sign(secret: &[u8], message: &[u8]) -> Result<([u8; PUBLIC_KEY_BYTES], [u8; SIGNATURE_BYTES]), String> {
    let wrong = || "it is no Ed25519 private key as `tidegate keys new` makes one".to_owned();
    let ours = match <&[u8; KEY_BYTES]>::try_from(secret) {
        Ok(seed) => Some(SigningKey::from_seed(seed)),
        Err(_) => std::str::from_utf8(secret).ok().and_then(|text| SigningKey::parse(text).ok()),
    };
    if let Some(key) = ours {
        return Ok((*key.public().as_bytes(), key.sign_bytes(message)));
    }
    let der = PrivatePkcs8KeyDer::from_pem_slice(secret).map_err(|_| wrong())?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(|_| wrong())?;
    let public = pair.public_key().as_ref().try_into().map_err(|_| wrong())?;
    let signature = pair.sign(message).as_ref().try_into().map_err(|_| wrong())?;
    Ok((public, signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{parse_key, parse_password};
    use ring::signature::{ED25519, UnparsedPublicKey};

    fn bytes(bytes: &[u8]) -> SecretSource {
        SecretSource::Bytes(Zeroizing::new(bytes.to_vec()))
    }

    #[test]
    fn a_key_signs_the_challenge_and_in_place_something_else() {
        let shown = Credentials::Key(bytes(&[5; 32])).read().expect("a seed");
        let nonce = [9; NONCE_BYTES];
        for again in [false, true] {
            let data = shown.data(Some(&nonce), again).expect("signs");
            let (key, signature) = parse_key(&data).expect("laid out");
            let signed = SignedNonce::new(&nonce, again);
            let public = UnparsedPublicKey::new(&ED25519, key);
            assert!(public.verify(signed.as_bytes(), signature).is_ok());
            assert!(public.verify(SignedNonce::new(&nonce, !again).as_bytes(), signature).is_err());
        }
        assert!(shown.data(None, false).is_err());
        assert!(Credentials::Key(bytes(b"no key")).read().expect("bytes").data(Some(&nonce), false).is_err());
    }

    #[test]
    fn secrets_are_not_shown_and_files_that_others_read_are_refused() {
        let credentials = Credentials::Password { user: "ada".into(), password: bytes(b"geheim") };
        assert!(!format!("{credentials:?}").contains("geheim"));
        let data = credentials.read().expect("reads").data(None, false).expect("fits");
        assert_eq!(parse_password(&data), Ok((&b"ada"[..], &b"geheim"[..])));

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let read = || Credentials::Token(SecretSource::File(path.clone())).read();
        assert!(read().is_err_and(|why| why.contains("token")));
        std::fs::write(&path, "e30.e30.c2ln\r\n").expect("written");
        let mode = |mode| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
        };
        mode(0o644);
        assert!(read().is_err_and(|why| why.contains("chmod 600")));
        mode(0o600);
        assert_eq!(&*read().expect("reads").data(None, false).expect("fits"), b"e30.e30.c2ln");
        std::fs::write(&path, vec![b'x'; AUTH_DATA_BYTES_MAX + 1]).expect("written");
        assert!(read().is_err_and(|why| why.contains("at most 4093")));
        std::fs::write(&path, "\n").expect("written");
        assert!(read().is_err());
    }
}
