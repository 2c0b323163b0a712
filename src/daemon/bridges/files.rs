//! The files behind a bridge's TLS and credentials: whether they are still those that a connection was made with.

use super::dial::Dialer;
use crate::auth::Secret;
use crate::config::BridgeSettings;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What tells one state of all files from another.
pub(super) type Stamps = Vec<Option<(u64, i64, i64, u64)>>;

/// All that settings name, in order.
fn files(bridge: &BridgeSettings, folder: &Path) -> Vec<PathBuf> {
    let plain = bridge.ca.iter().chain(&bridge.crl).chain(&bridge.certificate).map(|path| folder.join(path));
    let secrets = [&bridge.certificate_key, &bridge.login_key, &bridge.token, &bridge.password];
    plain.chain(secrets.into_iter().filter_map(|source| Secret::file(source, folder))).collect()
}

/// The files as they are now. Blocks as files do.
fn look(files: &[PathBuf]) -> Stamps {
    let stamp = |path: &PathBuf| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
    };
    files.iter().map(stamp).collect()
}

impl Dialer {
    /// The files of a bridge as they are now; nothing when that cannot be told.
    pub(super) async fn stamps(&self, bridge: &BridgeSettings) -> Stamps {
        let files = files(bridge, &self.folder);
        if files.is_empty() {
            return Stamps::new();
        }
        let asked = self.looks.ask(files.clone(), move || look(&files));
        asked.await.unwrap_or_default()
    }
}
