//! Errors of the system and of redb, in our words.

use super::StoreError;

/// The bytes are not what they should be.
pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}

/// Any error of redb in our words.
pub(super) fn from_redb(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(e) => from_io(e),
        redb::Error::DatabaseAlreadyOpen => StoreError::Locked("its database file".to_owned()),
        redb::Error::Corrupted(what) => StoreError::Damaged(what),
        redb::Error::UpgradeRequired(version) => {
            StoreError::Damaged(format!("the database file has redb's old format {version}, which was never ours"))
        }
        e @ (redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_)) => StoreError::Damaged(e.to_string()),
        e => StoreError::Io(e.to_string()),
    }
}

/// Any error of the system in our words.
pub(super) fn from_io(error: std::io::Error) -> StoreError {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full(error.to_string()),
        ErrorKind::StaleNetworkFileHandle => StoreError::Gone(error.to_string()),
        // A file that ends before its own header says it does, or that is no database at all.
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData => StoreError::Damaged(error.to_string()),
        _ => StoreError::Io(error.to_string()),
    }
}
