//! `passwd`: sets the password of somebody in an identities file.

use super::Global;
use super::exit::{CliError, Exit};
use super::keys::{fields, name, of_name, save, time, told};
use super::prompt;
use crate::auth::edit::Editor;
use crate::auth::identities::Kind;
use crate::auth::password::{Hashed, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, SALT_BYTES};
use crate::runtime::entropy;
use std::path::PathBuf;
use zeroize::Zeroizing;

const HELP: &str = "Examples:
  tidegate passwd identities alice --role operator
  tidegate passwd identities alice < alice.password        one line, for scripts
  tidegate passwd identities alice --remove
The password is asked for twice and never shown. It has at least 8 characters. What is kept is a hash (argon2id); a new \
password keeps the roles and the end unless they are given.";

/// Arguments of `passwd`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Passwd {
    /// The identities file; it is made when it is not there
    #[arg(value_name = "IDENTITIES")]
    file: PathBuf,
    /// The name to log in with; of a tenant it is TENANT/NAME then
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// The tenant
    #[arg(long, value_name = "TENANT", value_parser = name)]
    tenant: Option<String>,
    /// A role; may be repeated
    #[arg(long = "role", value_name = "ROLE", value_parser = name, conflicts_with = "remove")]
    roles: Vec<String>,
    /// When it ends: 2027-01-01 or 2027-01-01T12:00:00Z, in UTC
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "remove")]
    expires: Option<String>,
    /// Take the password out: nobody comes in by it any more
    #[arg(long)]
    remove: bool,
}

impl Passwd {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        let failed = |error: crate::auth::AuthError| CliError::failure(error.to_string());
        let tenant = self.tenant.clone().unwrap_or_default();
        let find = |editor: &Editor| of_name(editor.identities(), Kind::Password, &tenant, &self.name);
        // Before anybody types: the file may be refused, or roles missing.
        let editor = Editor::open(&self.file).map_err(failed)?;
        let before = find(&editor);
        drop(editor);
        if !self.remove && before.is_none() && self.roles.is_empty() {
            return Err(CliError::usage(format!(
                "`{}` is new: which roles? Give --role, once or more often",
                self.name
            )));
        }
        if self.remove && before.is_none() {
            return Err(CliError::failure(format!("`{}` has no password in {}", self.name, self.file.display())));
        }
        let hash = if self.remove { None } else { Some(ask(&self.name)?) };
        // Meanwhile somebody else may have changed it.
        let mut editor = Editor::open(&self.file).map_err(failed)?;
        let before = find(&editor);
        let (done, identity) = match (before, hash) {
            (Some(before), None) => {
                editor.remove(before.line).map_err(failed)?;
                ("removed", before)
            }
            (None, None) => return Err(CliError::failure(format!("`{}` has no password any more", self.name))),
            (before, Some(hash)) => {
                let (tenant, expires) = (self.tenant.as_deref(), self.expires.as_deref());
                let fields = fields(tenant, &self.roles, expires, before.as_ref())?;
                let line = format!("password {} {}{fields}", self.name, hash.as_str());
                let done = match &before {
                    Some(before) => editor.replace(before.line, line).map(|()| "replaced"),
                    None => editor.add(line).map(|()| "added"),
                };
                let done = done.map_err(failed)?;
                (done, find(&editor).ok_or_else(|| CliError::failure("the line that was added is not there"))?)
            }
        };
        save(editor, &self.file)?;
        told(global, &self.file, done, &identity)
    }
}

/// Asks for a new password and hashes it.
fn ask(name: &str) -> Result<Hashed, CliError> {
    let first = prompt::secret(&format!("New password of {name}: "))?;
    let text = std::str::from_utf8(&first).map_err(|_| CliError::failure("the password is not UTF-8 text"))?;
    let chars = text.chars().count();
    if chars < PASSWORD_CHARS_MIN {
        return Err(CliError::failure(format!(
            "the password has {chars} characters: at least {PASSWORD_CHARS_MIN} are needed"
        )));
    }
    if first.len() > PASSWORD_BYTES_MAX {
        return Err(CliError::failure(format!("the password is longer than {PASSWORD_BYTES_MAX} bytes")));
    }
    if prompt::is_terminal() {
        let second: Zeroizing<Vec<u8>> = prompt::secret("The same again: ")?;
        if first != second {
            return Err(CliError::failure("the two are not the same: nothing was changed"));
        }
    }
    let mut salt = [0; SALT_BYTES];
    entropy::fill(&mut salt).map_err(|e| CliError::failure(format!("the system gives no randomness: {e}")))?;
    Hashed::new(&first, &salt).map_err(CliError::failure)
}
