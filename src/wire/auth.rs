//! Logging in: the extension of hello that names methods, and the bytes of each method.

use super::error::WireError;
use super::header::FrameType;
use crate::model::limits::HEAD_BYTES_MAX;

/// Tag of hello's extension `auth_methods`: one byte a method, the preferred first.
pub const EXTENSION_AUTH_METHODS: u32 = 1;
/// Methods a hello may name.
pub const AUTH_METHODS_MAX: usize = 16;

/// Most bytes of a method's data, such as a token: what a head has left beside the method and their length.
pub const AUTH_DATA_BYTES_MAX: usize = HEAD_BYTES_MAX - 1 - 2;

/// Numbers of the methods, as auth and reauth carry them.
pub mod auth_method {
    /// Nothing is shown.
    pub const NONE: u8 = 0;
    /// A signed token (JWT): its UTF-8 text.
    pub const TOKEN: u8 = 1;
    /// A name and a password: two byte strings.
    pub const PASSWORD: u8 = 2;
    /// An Ed25519 key and its signature over a challenge.
    pub const KEY: u8 = 3;
    /// What the transport knows: a client certificate or a Unix user.
    pub const TRANSPORT: u8 = 4;
}

/// Bytes of a challenge: unpredictable, and of one connection only.
pub const NONCE_BYTES: usize = 32;
/// Bytes of an Ed25519 public key.
pub const PUBLIC_KEY_BYTES: usize = 32;
/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// What a key signs to answer a challenge is these bytes followed by the challenge's. In place ("reauth") it is the other.
pub const AUTH_CONTEXT: &[u8] = b"tidegate auth v1\0";
/// As [`AUTH_CONTEXT`], for a reauth frame.
pub const REAUTH_CONTEXT: &[u8] = b"tidegate reauth v1\0";

/// Longest thing a key signs, in bytes: the longer context and a challenge.
const SIGNED_BYTES_MAX: usize = REAUTH_CONTEXT.len() + NONCE_BYTES;

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedNonce {
    bytes: [u8; SIGNED_BYTES_MAX],
    len: usize,
}

impl SignedNonce {
    /// The bytes to sign for this challenge: in an auth frame, or in a reauth frame when `again`.
    #[must_use]
    pub fn new(nonce: &[u8; NONCE_BYTES], again: bool) -> Self {
        let context = if again { REAUTH_CONTEXT } else { AUTH_CONTEXT };
        let mut bytes = [0; SIGNED_BYTES_MAX];
        let len = context.len() + NONCE_BYTES;
        bytes[..context.len()].copy_from_slice(context);
        bytes[context.len()..len].copy_from_slice(nonce);
        Self { bytes, len }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The data of method `key`: public key, signature.
///
/// # Errors
/// [`WireError::Head`] when it has another length.
pub fn parse_key(data: &[u8]) -> Result<(&[u8; PUBLIC_KEY_BYTES], &[u8; SIGNATURE_BYTES]), WireError> {
    let malformed = WireError::Head(FrameType::Auth as u8);
    let (key, signature) = data.split_first_chunk::<PUBLIC_KEY_BYTES>().ok_or(malformed)?;
    Ok((key, signature.try_into().map_err(|_| malformed)?))
}

/// The data of method `password`: name, password.
///
/// # Errors
/// [`WireError::Head`] when it is not two byte strings and nothing else.
pub fn parse_password(data: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let malformed = WireError::Head(FrameType::Auth as u8);
    match postcard::take_from_bytes::<(&[u8], &[u8])>(data) {
        Ok((pair, [])) => Ok(pair),
        _ => Err(malformed),
    }
}

/// Writes the data of method `password` into a buffer and returns its part that holds it.
///
/// # Errors
/// [`WireError::BufferTooSmall`].
pub fn write_password<'b>(buffer: &'b mut [u8], name: &[u8], password: &[u8]) -> Result<&'b mut [u8], WireError> {
    postcard::to_slice(&(name, password), buffer).map_err(|_| WireError::BufferTooSmall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_key_has_exactly_its_length() {
        let data = [7; PUBLIC_KEY_BYTES + SIGNATURE_BYTES + 1];
        assert!(parse_key(&data[..96]).is_ok());
        for len in [0, 31, 32, 95, 97] {
            assert_eq!(parse_key(&data[..len]), Err(WireError::Head(FrameType::Auth as u8)), "{len}");
        }
    }

    #[test]
    fn name_and_password_are_two_strings_and_nothing_else() {
        let mut buffer = [0; 64];
        let data = write_password(&mut buffer, b"ada", b"p\0w").expect("fits");
        assert_eq!(parse_password(data), Ok((&b"ada"[..], &b"p\0w"[..])));
        assert_eq!(data, b"\x03ada\x03p\0w");
        for bad in [&b""[..], b"\x03ada", b"\x03ada\x04pw", b"\x03ada\x02pw!", b"\x04ada"] {
            assert!(parse_password(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_signed_in_place_is_not_what_is_signed_to_enter() {
        let nonce = [9; NONCE_BYTES];
        let (enter, again) = (SignedNonce::new(&nonce, false), SignedNonce::new(&nonce, true));
        assert_eq!(enter.as_bytes(), [AUTH_CONTEXT, &nonce].concat());
        assert_eq!(again.as_bytes(), [REAUTH_CONTEXT, &nonce].concat());
    }
}
