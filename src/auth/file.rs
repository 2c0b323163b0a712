//! Reading a file that decides who may come in: bounded, regular, and not open to others.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// Permission bits of group and others that let somebody else write.
const WRITABLE: u32 = 0o022;
/// Permission bits that let others do anything. The group may read: systemd hands credentials out so.
const OTHERS: u32 = 0o007;

/// What a file held, and who else could read it.
pub(super) struct Contents {
    /// Its bytes, zeroed after use.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Its permission bits.
    pub mode: u32,
}

/// Why a file was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused(pub String);

/// Reads a file that nobody but its owner may write.
///
/// # Errors
/// A sentence about the file, without its name: it is not there, too large, not a file, or writable by others.
pub(super) fn read(path: &Path, bytes_max: usize) -> Result<Contents, Refused> {
    // Not waiting for a writer, should it be a pipe.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = File::options().read(true).custom_flags(nonblock).open(path);
    let mut file = opened.map_err(|error| Refused(unreadable(&error)))?;
    // Of the file that is open, not of the name, which may be another's by now.
    let metadata = file.metadata().map_err(|error| Refused(unreadable(&error)))?;
    if !metadata.is_file() {
        return Err(Refused("found something else; expected a regular file".into()));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & WRITABLE != 0 {
        return Err(Refused(format!(
            "found mode {mode:04o}, so others may change it; expected it writable by its owner alone: chmod go-w {}",
            path.display()
        )));
    }
    let too_large = || Refused(format!("found more than {bytes_max} bytes; expected at most so many"));
    let len = usize::try_from(metadata.len()).ok().filter(|len| *len <= bytes_max).ok_or_else(too_large)?;
    // With room for all of it: a vector that grows leaves copies behind that nobody zeroes.
    let mut bytes = Zeroizing::new(vec![0; len + 1]);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Refused(unreadable(&error))),
        }
    }
    if filled > len {
        return Err(Refused("found it growing while it was read; expected a file that is whole".into()));
    }
    bytes.truncate(filled);
    Ok(Contents { bytes, mode })
}

/// Whether others may read a file that holds secrets.
pub(super) fn check_secret_mode(path: &Path, mode: u32) -> Result<(), Refused> {
    if mode & OTHERS == 0 {
        return Ok(());
    }
    Err(Refused(format!(
        "found mode {mode:04o}, so others may read what is secret in it; expected 0600: chmod 600 {}",
        path.display()
    )))
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "found no such file".into(),
        io::ErrorKind::PermissionDenied => {
            "found no permission to read it; expected the broker's user to own it".into()
        }
        _ => format!("found that it cannot be read: {error}"),
    }
}
