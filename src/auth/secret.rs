//! Secrets: where they come from (`file:`, `credential:`, `env:`), never shown, zeroed when dropped.

use super::file::{self, Refused};
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Most bytes of a secret.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// Bytes that nobody may see: zeroed when dropped, and not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

/// Why a secret cannot be had; it names the source and never the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretError {
    /// The source as written.
    pub source: Box<str>,
    /// What was found and what was expected.
    pub message: String,
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.message)
    }
}

impl std::error::Error for SecretError {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

impl Secret {
    /// Takes bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes. Who copies them zeroes the copy.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Reads `file:PATH` (relative to `base`), `credential:NAME` (in `$CREDENTIALS_DIRECTORY`, systemd's) or `env:NAME`. One
    /// newline at the end is cut off.
    ///
    /// # Errors
    /// It is not there, empty, larger than [`SECRET_BYTES_MAX`], or a file that others may read or change.
    pub fn load(source: &str, base: &Path) -> Result<Self, SecretError> {
        Self::load_with(source, base, |name| std::env::var_os(name))
    }

    /// The file of a source, to watch it; `None` when it is a variable, or malformed.
    #[must_use]
    pub fn file(source: &str, base: &Path) -> Option<PathBuf> {
        path(source, base, |name| std::env::var_os(name)).ok().flatten()
    }

    /// As [`Self::load`], with an environment of the caller's.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(source: &str, base: &Path, env: impl Fn(&str) -> Option<OsString>) -> Result<Self, SecretError> {
        let (bytes, file) = read(source, base, env)?;
        if let Some((path, mode)) = file {
            file::check_secret_mode(&path, mode).map_err(|e| refused(source, e))?;
        }
        Ok(Self(bytes))
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

/// What a source held, and which file with which mode it was.
type Read = (Zeroizing<Vec<u8>>, Option<(PathBuf, u32)>);

/// Reads a source whose file may be public, since it may hold a public key: the caller decides by what is in it.
pub(super) fn read(source: &str, base: &Path, env: impl Fn(&str) -> Option<OsString>) -> Result<Read, SecretError> {
    let error = |message: &str| SecretError { source: source.into(), message: message.into() };
    let (mut bytes, file) = match path(source, base, &env)? {
        Some(path) => {
            let contents = file::read(&path, SECRET_BYTES_MAX).map_err(|e| refused(source, e))?;
            (contents.bytes, Some((path, contents.mode)))
        }
        None => {
            let name = source.strip_prefix("env:").unwrap_or_default();
            let value = env(name).ok_or_else(|| error("found no such variable in the environment"))?;
            let value = Zeroizing::new(value.into_vec());
            if value.len() > SECRET_BYTES_MAX {
                return Err(error("found more than 65536 bytes; expected at most so many"));
            }
            (value, None)
        }
    };
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(error("found nothing in it; expected a secret"));
    }
    Ok((bytes, file))
}

/// The file of a source; `None` when it is a variable.
///
/// # Errors
/// It is none of the three kinds, or `$CREDENTIALS_DIRECTORY` is not set.
pub(super) fn path(
    source: &str,
    base: &Path,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<PathBuf>, SecretError> {
    let error = |message: &str| SecretError { source: source.into(), message: message.into() };
    match source.split_once(':') {
        Some(("file", path)) if !path.is_empty() => Ok(Some(base.join(path))),
        Some(("credential", name)) if !name.is_empty() && !name.contains('/') && name != ".." && name != "." => {
            let folder = env("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|folder| folder.is_absolute());
            let folder = folder.ok_or_else(|| {
                error("found no $CREDENTIALS_DIRECTORY; expected systemd to set it: LoadCredential= in the service")
            })?;
            Ok(Some(folder.join(name)))
        }
        Some(("env", name)) if !name.is_empty() && !name.contains(['=', '\0']) => Ok(None),
        // Not echoed: somebody may have written the secret itself.
        _ => Err(SecretError {
            source: "a secret's source".into(),
            message: "found something else; expected file:PATH, credential:NAME (of systemd) or env:NAME".into(),
        }),
    }
}

fn refused(source: &str, Refused(message): Refused) -> SecretError {
    SecretError { source: source.into(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn file(mode: u32, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        fs::write(&path, bytes).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
        (folder, path)
    }

    #[test]
    fn a_file_that_others_may_read_or_change_is_refused_with_what_to_do() {
        for (mode, taken, told) in [
            (0o600, true, ""),
            (0o400, true, ""),
            (0o440, true, ""),
            (0o640, true, ""),
            (0o644, false, "chmod 600"),
            (0o604, false, "chmod 600"),
            (0o601, false, "chmod 600"),
            (0o660, false, "chmod go-w"),
            (0o602, false, "chmod go-w"),
            (0o666, false, "chmod go-w"),
        ] {
            let (folder, _) = file(mode, b"correct horse\n");
            match Secret::load("file:secret", folder.path()) {
                Ok(secret) => assert!(taken && secret.expose() == b"correct horse", "{mode:o}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!taken && error.contains(told) && !error.contains("horse"), "{mode:o}: {error}");
                }
            }
        }
    }

    #[test]
    fn secrets_come_from_files_credentials_and_the_environment_and_lose_one_newline() {
        let (folder, path) = file(0o600, b"a\n\n");
        let base = Path::new("/nowhere");
        let none = |_: &str| None;
        let load = |source: &str, env: &dyn Fn(&str) -> Option<OsString>| Secret::load_with(source, base, env);
        let absolute = format!("file:{}", path.display());
        assert_eq!(load(&absolute, &none).expect("read").expose(), b"a\n");
        let credentials = |name: &str| (name == "CREDENTIALS_DIRECTORY").then(|| folder.path().into());
        assert_eq!(load("credential:secret", &credentials).expect("read").expose(), b"a\n");
        assert!(load("credential:secret", &none).expect_err("no folder").message.contains("LoadCredential="));
        let variable = |name: &str| (name == "TOKEN").then(|| "b\r\n".into());
        assert_eq!(load("env:TOKEN", &variable).expect("read").expose(), b"b");
        assert!(load("env:OTHER", &variable).is_err());
        for wrong in ["credential:../secret", "credential:..", "credential:", "file:", "env:", "env:A=B"] {
            assert!(load(wrong, &credentials).is_err(), "{wrong}");
        }
        // A secret written in place of its source is not echoed.
        let inline = load("hunter2hunter2", &none).expect_err("no source").to_string();
        assert!(inline.contains("file:PATH") && !inline.contains("hunter"), "{inline}");
    }

    #[test]
    fn what_is_no_file_too_large_or_empty_is_refused() {
        let (folder, path) = file(0o600, b"");
        let load = |name: &str| Secret::load(&format!("file:{name}"), folder.path()).expect_err(name).message;
        assert!(load("secret").contains("nothing in it"));
        fs::write(&path, vec![b'x'; SECRET_BYTES_MAX + 1]).expect("written");
        assert!(load("secret").contains("more than 65536 bytes"));
        assert!(load(".").contains("regular file"));
        assert!(load("missing").contains("no such file"));
        // A pipe that nobody writes to holds nothing up.
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        assert!(load("pipe").contains("regular file"));
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "Secret(7 bytes)");
    }
}
