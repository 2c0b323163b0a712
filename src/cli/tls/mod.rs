//! `tls`: certificates to develop with, and what is in those one has.

mod authority;
mod init;
mod options;
mod revoke;
mod show;

pub(super) use authority::Authority;
pub(super) use options::TlsOptions;

use super::Global;
use super::exit::{CliError, Exit};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Subcommands of `tls`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Tls {
    /// Make an authority and certificates to develop and test with
    Init(init::Init),
    /// Explain a certificate, chain, key or revocation list
    Show(show::Show),
    /// Revoke a certificate that `tls init` made
    Revoke(revoke::Revoke),
}

impl Tls {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        match self {
            Self::Init(command) => command.run(global),
            Self::Show(command) => command.run(global),
            Self::Revoke(command) => command.run(global),
        }
    }
}

fn of_file(path: &Path, why: &dyn std::fmt::Display) -> CliError {
    CliError::failure(format!("{}: {why}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    fs::read(path).map_err(|error| of_file(path, &error))
}

/// Writes a file in one step, with these permission bits from its first moment on.
pub(super) fn write(path: &Path, text: &[u8], mode: u32) -> Result<(), CliError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // One that an earlier run left behind may have other bits.
    let _ = fs::remove_file(&new);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| of_file(path, &error))
}
