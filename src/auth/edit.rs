//! Changes to an identities file: a line more, less or another; comments, order and mode stay, and who reads it meanwhile sees
//! the old file or the new one.

use super::error::AuthError;
use super::file;
use super::identities::{self, Identity};
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// An identities file under change. Others that change one in the same folder wait.
#[derive(Debug)]
pub struct Editor {
    path: PathBuf,
    folder: PathBuf,
    lines: Vec<String>,
    identities: Vec<Identity>,
    /// Mode and owner of the file that is there.
    before: Option<(u32, u32, u32)>,
    /// Holds others off while it is open.
    _lock: File,
}

impl Editor {
    /// Reads a file; one that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read, others may change it, or it has mistakes.
    pub fn open(path: &Path) -> Result<Self, AuthError> {
        let failed = |error: io::Error| AuthError::file(path, 0, format!("found that it cannot be opened: {error}"));
        // Behind a link the file itself is changed, not the link.
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_path_buf(),
            Err(error) => return Err(failed(error)),
        };
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        let lock = File::open(&folder).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let mut editor = Self { path, folder, lines: Vec::new(), identities: Vec::new(), before: None, _lock: lock };
        match fs::metadata(&editor.path) {
            Ok(metadata) => {
                let refused = |file::Refused(message)| AuthError::file(&editor.path, 0, message);
                let contents = file::read(&editor.path, identities::FILE_BYTES_MAX).map_err(refused)?;
                editor.identities = identities::parse(&contents.bytes, &editor.path, None)?;
                editor.lines = String::from_utf8_lossy(&contents.bytes).lines().map(str::to_owned).collect();
                editor.before = Some((contents.mode, metadata.uid(), metadata.gid()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        Ok(editor)
    }

    /// Who is in it.
    #[must_use]
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// Adds a line.
    ///
    /// # Errors
    /// The line is wrong, or contradicts one that is there.
    pub fn add(&mut self, line: String) -> Result<(), AuthError> {
        self.lines.push(line);
        self.check()
    }

    /// Puts another line in the place of an identity's.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn replace(&mut self, number: u32, line: String) -> Result<(), AuthError> {
        if let Some(place) = self.lines.get_mut(number as usize - 1) {
            *place = line;
        }
        self.check()
    }

    /// Takes an identity's line out.
    ///
    /// # Errors
    /// None that was not there before.
    pub fn remove(&mut self, number: u32) -> Result<(), AuthError> {
        if (number as usize) <= self.lines.len() {
            self.lines.remove(number as usize - 1);
        }
        self.check()
    }

    fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    fn check(&mut self) -> Result<(), AuthError> {
        self.identities = identities::parse(self.text().as_bytes(), &self.path, None)?;
        Ok(())
    }

    /// Writes it: under another name, to the disk, and then in place of the old one.
    ///
    /// # Errors
    /// What the disk says; the old file is then as it was.
    pub fn save(self) -> io::Result<()> {
        let mode = self.before.map_or(0o600, |(mode, ..)| mode);
        let owner = self.before.map(|(_, uid, gid)| (uid, gid));
        write_atomically(&self.path, &self.folder, self.text().as_bytes(), mode, owner)
    }
}

fn write_atomically(path: &Path, folder: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let new = folder.join(name);
    // One that a killed editor left; the lock says that nobody writes it.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        if let Some((uid, gid)) = owner {
            let now = file.metadata()?;
            if (now.uid(), now.gid()) != (uid, gid) {
                fchown(&file, Some(uid), Some(gid))?;
            }
        }
        // After the owner, which takes bits away.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    let done = written();
    if done.is_err() {
        // It is the new one that failed; when it cannot be removed either, it is of no harm.
        let _ = fs::remove_file(&new);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_order_and_mode_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("identities");
        let text = "# of the site\n\nuid 1000 name=a roles=r # the first\n# and\nuid 1001 name=b roles=r";
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("its mode");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        let mut editor = Editor::open(&link).expect("read");
        editor.add("uid 1002 name=c roles=r".into()).expect("a new one");
        let second = editor.identities().iter().find(|identity| &*identity.name == "b").expect("there").line;
        editor.replace(second, "uid 1001 name=B roles=r".into()).expect("another");
        let first = editor.identities().iter().find(|identity| &*identity.name == "a").expect("there").line;
        editor.remove(first).expect("one less");
        editor.save().expect("written");
        let now = fs::read_to_string(&path).expect("read");
        assert_eq!(now, "# of the site\n\n# and\nuid 1001 name=B roles=r\nuid 1002 name=c roles=r\n");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        let names: Vec<_> = fs::read_dir(folder.path()).expect("read").collect();
        assert_eq!(names.len(), 2, "nothing is left behind");
    }

    #[test]
    fn a_new_file_is_for_its_owner_alone_and_a_wrong_change_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("identities");
        let mut editor = Editor::open(&path).expect("empty");
        editor.add("uid 1000 name=a roles=r".into()).expect("a new one");
        editor.save().expect("written");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        let mut editor = Editor::open(&path).expect("read");
        let twice = editor.add("uid 1000 name=b roles=r".into()).expect_err("twice").to_string();
        assert!(twice.contains("`uid 1000`, which is in line 1"), "{twice}");
        drop(editor);
        assert_eq!(fs::read_to_string(&path).expect("read"), "uid 1000 name=a roles=r\n");
        fs::write(&path, "frob\n").expect("written");
        assert!(Editor::open(&path).expect_err("a mistake").to_string().contains("identities:1"));
    }
}
