//! Why a message is not what its signature says, cannot be opened or cannot be expanded.

use super::keys::KeyId;
use std::fmt;

/// Why a compressed payload cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionError {
    /// It is no LZ4 block of the length it announces.
    Malformed,
    /// It announces so many bytes; so many are taken.
    TooLarge(usize, usize),
}

impl fmt::Display for CompressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the compressed payload is malformed"),
            Self::TooLarge(bytes, max) => {
                write!(f, "the compressed payload would have {bytes} bytes; at most {max} are taken here")
            }
        }
    }
}

impl std::error::Error for CompressionError {}

/// Why a message is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// It carries no signature, or one without a signer.
    Unsigned,
    /// The key that signed it is not among those trusted.
    UnknownSigner(KeyId),
    /// The signature is not that of this message: forged, cut, or the message was changed or moved.
    BadSignature(KeyId),
    /// It is not sealed.
    NotSealed,
    /// It is sealed already.
    AlreadySealed,
    /// What describes the seal is malformed, or of a later version.
    BadSeal,
    /// The key it is sealed with is not among those at hand.
    UnknownKey(KeyId),
    /// It does not open: it was changed or moved, or the key is another.
    DoesNotOpen(KeyId),
    /// Its payload is compressed and must be expanded first.
    Compressed,
    /// What is inside cannot be expanded.
    Inside(CompressionError),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned => f.write_str("it is not signed"),
            Self::UnknownSigner(id) => write!(f, "it is signed by key {id}, which is not trusted here"),
            Self::BadSignature(id) => write!(f, "its signature is not that of key {id} over this message"),
            Self::NotSealed => f.write_str("it is not sealed"),
            Self::AlreadySealed => f.write_str("it is sealed already"),
            Self::BadSeal => f.write_str("its seal is malformed or of a later version"),
            Self::UnknownKey(id) => write!(f, "it is sealed with key {id}, which is not at hand"),
            Self::DoesNotOpen(id) => write!(f, "it does not open with key {id}: it was changed or moved"),
            Self::Compressed => f.write_str("its payload is compressed"),
            Self::Inside(error) => write!(f, "it opens, but {error}"),
        }
    }
}

impl std::error::Error for SealError {}
