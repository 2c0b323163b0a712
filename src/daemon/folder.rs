//! The data folder: where it is, and the file that says the daemon is ready.

use crate::config::Settings;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Name of the file that is there while the daemon listens.
pub const READY_FILE: &str = "ready.json";

/// Picks the data folder: the settings', else systemd's `$STATE_DIRECTORY` (its first), else the user's state folder.
#[must_use]
pub fn pick(settings: &Settings, env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(data) = &settings.data {
        return Some(data.clone());
    }
    if let Some(state) = env("STATE_DIRECTORY") {
        let first = state.to_string_lossy().split(':').next().map(PathBuf::from);
        if let Some(first) = first.filter(|path| path.is_absolute()) {
            return Some(first);
        }
    }
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("tidegate"))
}

/// Makes the folder, for its owner only, if it is not there.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// What the daemon listens on, as written to [`READY_FILE`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// The data folder.
    pub folder: PathBuf,
    /// TCP addresses really bound.
    pub tcp: Vec<SocketAddr>,
    /// Addresses of TLS really bound.
    pub tls: Vec<SocketAddr>,
    /// HTTP addresses really bound.
    pub http: Vec<SocketAddr>,
    /// Addresses of HTTP over TLS really bound.
    pub https: Vec<SocketAddr>,
    /// The Unix socket.
    pub unix: Option<PathBuf>,
}

/// The file, removed when dropped.
pub(super) struct ReadyFile(PathBuf);

impl ReadyFile {
    /// Writes it in one step: who sees it sees all of it.
    pub(super) fn write(ready: &Ready) -> io::Result<Self> {
        let texts = |addresses: &[SocketAddr]| addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>();
        let text = serde_json::json!({
            "pid": std::process::id(),
            "tcp": texts(&ready.tcp),
            "tls": texts(&ready.tls),
            "http": texts(&ready.http),
            "https": texts(&ready.https),
            "unix": ready.unix.as_ref().map(|path| path.to_string_lossy()),
        });
        let path = ready.folder.join(READY_FILE);
        let new = ready.folder.join("ready.json.new");
        fs::write(&new, format!("{text}\n"))?;
        fs::rename(&new, &path)?;
        Ok(Self(path))
    }

    /// Removes one that a killed daemon left.
    pub(super) fn remove_stale(folder: &Path) {
        let _ = fs::remove_file(folder.join(READY_FILE));
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            log::warn!("{} could not be removed: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(data: Option<&str>, env: &[(&str, &str)]) -> Option<String> {
        let settings = Settings { data: data.map(PathBuf::from), ..Settings::default() };
        let find = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        pick(&settings, find).map(|path| path.to_string_lossy().into_owned())
    }

    #[test]
    fn the_folder_is_the_first_that_is_named() {
        let home = ("HOME", "/home/t");
        let xdg = ("XDG_STATE_HOME", "/x");
        assert_eq!(picked(Some("here"), &[home, xdg]).as_deref(), Some("here"));
        assert_eq!(picked(None, &[home, xdg, ("STATE_DIRECTORY", "/var/lib/a:/b")]).as_deref(), Some("/var/lib/a"));
        assert_eq!(picked(None, &[home, xdg]).as_deref(), Some("/x/tidegate"));
        assert_eq!(picked(None, &[home, ("XDG_STATE_HOME", "")]).as_deref(), Some("/home/t/.local/state/tidegate"));
        assert_eq!(picked(None, &[]), None);
    }
}
