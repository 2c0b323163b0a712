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
///
/// # Errors
/// The file system does not say whether it has one.
pub fn machine() -> io::Result<Option<String>> {
    machine_at(MACHINE)
}

fn machine_at(paths: &[impl AsRef<Path>]) -> io::Result<Option<String>> {
    use io::ErrorKind as K;
    for path in paths.iter().map(AsRef::as_ref) {
        match fs::read(path) {
            Ok(bytes) => {
                if let Some(id) = parse(&bytes) {
                    return Ok(Some(id));
                }
            }
            // A container may have an empty folder in its place.
            Err(error) if matches!(error.kind(), K::NotFound | K::NotADirectory | K::IsADirectory) => {}
            Err(error) => return Err(about(path, &error)),
        }
    }
    Ok(None)
}

/// The id of a data folder: random, made when it is first asked for. One that is there and cannot be read, or is damaged, is left
/// as it is: another would make this broker a stranger to those who know it.
///
/// # Errors
/// What the file system says, or the kernel about randomness; `InvalidData` for a file that holds no id.
pub fn folder(folder: &Path) -> io::Result<String> {
    let path = folder.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let damaged = "is damaged: put its copy back, or remove it, and the broker is a new one to its upstreams";
            return parse(&bytes).ok_or_else(|| about(&path, &io::Error::new(io::ErrorKind::InvalidData, damaged)));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(about(&path, &error)),
    }
    let mut bytes = [0; TEXT_BYTES / 2];
    entropy::fill(&mut bytes)?;
    let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    make(folder, &path, &id).map_err(|error| about(&path, &error))?;
    Ok(id)
}

/// In one step: a power cut leaves the whole of it or none.
fn make(folder: &Path, path: &Path, id: &str) -> io::Result<()> {
    let new = folder.join(format!("{FILE}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn parse(bytes: &[u8]) -> Option<String> {
    let id = std::str::from_utf8(bytes).ok()?.trim();
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
    fn an_id_that_is_damaged_or_cannot_be_read_is_kept_as_it_is_and_counts_again_once_it_can_be() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join(FILE);
        for damage in [&b""[..], b"uninitialized\n", b"00112233445566778899aabbccddeefg", &[0xFF; 33]] {
            fs::write(&path, damage).expect("written");
            assert_eq!(folder(place.path()).expect_err("damaged").kind(), io::ErrorKind::InvalidData, "{damage:?}");
            assert_eq!(fs::read(&path).expect("there"), damage);
        }
        // As an error of the disk, and of any user: what is there is no file.
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("a folder in its place");
        let error = folder(place.path()).expect_err("unreadable");
        assert!(error.to_string().contains(FILE), "{error}");
        assert!(path.is_dir() && fs::read_dir(place.path()).expect("a folder").count() == 1, "nothing was made");
        fs::remove_dir(&path).expect("removed");
        fs::write(&path, "00112233445566778899aabbccddeeff\n").expect("written");
        assert_eq!(folder(place.path()).expect("read"), "00112233445566778899aabbccddeeff");
        assert!(folder(&place.path().join("nowhere")).is_err());
    }

    #[test]
    fn a_machine_has_no_id_only_where_there_is_no_file_with_one() {
        let place = tempfile::tempdir().expect("a folder");
        let (first, second) = (place.path().join("a"), place.path().join("b"));
        let paths = [first.clone(), second.clone()];
        assert_eq!(machine_at(&paths).expect("none"), None);
        fs::write(&first, "uninitialized\n").expect("written");
        fs::write(&second, "00112233445566778899aabbccddeeff\n").expect("written");
        assert_eq!(machine_at(&paths).expect("the second"), Some("00112233445566778899aabbccddeeff".into()));
        // A link to itself can be read by nobody: it may hold another.
        fs::remove_file(&first).expect("removed");
        std::os::unix::fs::symlink(&first, &first).expect("a link");
        assert!(machine_at(&paths).is_err());
    }
}
