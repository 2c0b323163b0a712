//! What client commands show to be let in: from files that arguments or the environment name, never from an argument.

use crate::client::{Credentials, SecretSource};
use std::path::PathBuf;

/// Arguments of every command that connects.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct LoginOptions {
    /// File of the token to show; it is read again for each login, and before the token ends
    #[arg(long, env = "TIDEGATE_TOKEN_FILE", global = true, value_name = "FILE", help_heading = super::COMMON)]
    #[arg(conflicts_with_all = ["key_file", "user"])]
    token_file: Option<PathBuf>,
    /// File of the Ed25519 private key to log in with, as `tidegate keys new` makes it
    #[arg(long, env = "TIDEGATE_KEY_FILE", global = true, value_name = "FILE", help_heading = super::COMMON)]
    #[arg(conflicts_with = "user")]
    key_file: Option<PathBuf>,
    /// Name to log in with, and a password
    #[arg(long, env = "TIDEGATE_USER", global = true, value_name = "NAME", help_heading = super::COMMON)]
    #[arg(requires = "password_file")]
    user: Option<String>,
    /// File of the password
    #[arg(long, env = "TIDEGATE_PASSWORD_FILE", global = true, value_name = "FILE", help_heading = super::COMMON)]
    #[arg(requires = "user")]
    password_file: Option<PathBuf>,
}

impl LoginOptions {
    /// What to show, if anything.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        let file = |path: &PathBuf| SecretSource::File(path.clone());
        if let Some(path) = &self.token_file {
            return Some(Credentials::Token(file(path)));
        }
        if let Some(path) = &self.key_file {
            return Some(Credentials::Key(file(path)));
        }
        let (user, path) = self.user.as_ref().zip(self.password_file.as_ref())?;
        Some(Credentials::Password { user: user.clone(), password: file(path) })
    }
}
