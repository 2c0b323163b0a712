//! What tells this broker from every other: the machine's id and one of the data folder's own.

use super::entropy;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Name of the file in the data folder that holds its id.
pub const FILE: &str = "identity";
/// Where systems keep theirs: systemd's, and that of D-Bus before it.
const MACHINE: &[&str] = &["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// Bytes of an id as text: 16 in hexadecimal digits.
const TEXT_BYTES: usize = 32;

/// The machine's id as it says it; `None` where it has none, or one that is not set yet.
#[must_use]
pub fn machine() -> Option<String> {
    MACHINE.iter().find_map(|path| read(Path::new(path)))
}

/// The id of a data folder: random, made when it is first asked for.
///
/// # Errors
/// What the file system says, or the kernel about randomness.
pub fn folder(folder: &Path) -> io::Result<String> {
    let path = folder.join(FILE);
    if let Some(id) = read(&path) {
        return Ok(id);
    }
    let mut bytes = [0; TEXT_BYTES / 2];
    entropy::fill(&mut bytes)?;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    // In one step: a power cut leaves the whole of it or none.
    let new = folder.join(format!("{FILE}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(folder)?.sync_all()?;
    Ok(id)
}

fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let id = text.trim();
    (id.len() == TEXT_BYTES && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_id_and_two_folders_have_two() {
        let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let first = folder(one.path()).expect("made");
        assert_eq!(folder(one.path()).expect("read"), first);
        assert_ne!(folder(two.path()).expect("made"), first);
        assert_eq!(first.len(), TEXT_BYTES);
    }

    #[test]
    fn a_damaged_id_is_made_anew() {
        let place = tempfile::tempdir().expect("a folder");
        for damage in ["", "uninitialized\n", "00112233445566778899aabbccddeefg"] {
            fs::write(place.path().join(FILE), damage).expect("written");
            let id = folder(place.path()).expect("made");
            assert_eq!(folder(place.path()).expect("read"), id, "{damage:?}");
        }
        assert!(folder(&place.path().join("nowhere")).is_err());
    }
}
