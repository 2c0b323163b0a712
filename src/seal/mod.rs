//! Signatures, sealing and compression of records: what clients do end to end, and the broker only checks.
//!
//! Pure: entropy is an argument, files are read elsewhere. The bytes are those of `proto/frame.md`, section 23. The order
//! on the way out is seal, sign, compress, so that a broker may undo the last for a reader that cannot, and a signature holds
//! all the same.

mod batch;
mod compress;
mod error;
mod keys;
mod sealing;
mod sign;
mod statement;

pub use batch::{BatchPacker, unpack_batch};
pub use compress::{compress, expand, expand_into, expand_record, expanded_len, expanded_record_len};
pub use error::{CompressionError, SealError};
pub use keys::{KEY_BYTES, KeyError, KeyFault, KeyId, PublicKey, PublicKeys, SealingKey, SealingKeys, SigningKey};
pub use sealing::{Algorithm, SALT_BYTES, SEAL_BYTES, Sealed, Sealer, open};
pub use sign::{SIGNATURE_BYTES, sign, verify};
