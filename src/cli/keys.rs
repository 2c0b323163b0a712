//! `keys`: Ed25519 keys of clients, signers and issuers, sealing keys, and who may come in by them.

use super::Global;
use super::exit::{CliError, Exit};
use super::output;
use crate::auth::edit::Editor;
use crate::auth::identities::{Identity, Kind, Proof};
use crate::auth::keys::{KeyFile, PUBLIC_PREFIX, PublicKey, SealingKey, SigningKey};
use crate::auth::name::{NAME, is_name};
use crate::auth::utc;
use crate::runtime::entropy;
use crate::seal::KEY_BYTES;
use serde_json::json;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What stands under the help of `keys`: the identities file in short.
pub(super) const HELP: &str =
    "The identities file (auth.identities) has one line for each way that somebody is known by:

  key ed25519:BASE64 name=sensor-7 tenant=acme roles=sensor expires=2027-01-01
  password alice $argon2id$... roles=operator
  certificate *.sensors.example.org roles=sensor
  uid 1000 name=backup roles=reader

Example:
  tidegate keys new sensor-7.key
  tidegate keys authorize identities sensor-7.key --name sensor-7 --role sensor";

/// Subcommands of `keys`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Keys {
    /// Make a key that nobody else has, and print what may be known of it
    #[command(after_help = "Examples:
  tidegate keys new sensor-7.key              who a client is; also signs messages and tokens
  tidegate keys new --sealing site.seal       seals messages end to end
The file can be read by you alone. It is never overwritten.")]
    New(New),
    /// Show the public half of a key, or the id of a sealing key
    #[command(after_help = "Example:
  tidegate keys show sensor-7.key")]
    Show(Show),
    /// Let somebody in by a key: a line more in an identities file, or one less
    #[command(after_help = "Examples:
  tidegate keys authorize identities sensor-7.key --name sensor-7 --role sensor
  tidegate keys authorize identities ed25519:... --name sensor-7 --tenant acme --role sensor --role reader
  tidegate keys authorize identities new.key --name sensor-7 --replace
  tidegate keys authorize identities --name sensor-7 --remove
The rest of the file stays as it is. The broker reads it again by itself, and on SIGHUP.")]
    Authorize(Authorize),
}

/// Arguments of `keys new`.
#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// The file to make
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Make a key that seals messages, which those who write and those who read both have
    #[arg(long)]
    sealing: bool,
}

/// Arguments of `keys show`.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// A file of `keys new`, a file of public keys, or a private key in PEM
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `keys authorize`.
#[derive(Debug, clap::Args)]
pub(super) struct Authorize {
    /// The identities file; it is made when it is not there
    #[arg(value_name = "IDENTITIES")]
    file: PathBuf,
    /// The public key: ed25519:BASE64, or a file that it stands in
    #[arg(value_name = "PUBLIC", required_unless_present = "remove")]
    public: Option<String>,
    #[command(flatten)]
    who: Who,
    /// Put the key in the place of the one that the name has; roles and end stay unless given
    #[arg(long, conflicts_with = "remove")]
    replace: bool,
    /// Take the key, or that of the name, out
    #[arg(long, conflicts_with_all = ["roles", "expires"])]
    remove: bool,
}

/// Who somebody is.
#[derive(Debug, clap::Args)]
pub(super) struct Who {
    /// The name: what {client} stands for
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// The tenant
    #[arg(long, value_name = "TENANT", value_parser = name)]
    tenant: Option<String>,
    /// A role; may be repeated
    #[arg(long = "role", value_name = "ROLE", value_parser = name)]
    roles: Vec<String>,
    /// When it ends: 2027-01-01 or 2027-01-01T12:00:00Z, in UTC
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<String>,
}

pub(super) fn name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.into()) } else { Err(format!("write {NAME}")) }
}

pub(super) fn time(text: &str) -> Result<String, String> {
    if utc::parse(text).is_some() { Ok(text.into()) } else { Err(format!("write {}", utc::TIME)) }
}

impl Keys {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        match self {
            Self::New(command) => command.run(global),
            Self::Show(command) => command.run(global),
            Self::Authorize(command) => command.run(global),
        }
    }
}

impl New {
    fn run(self, global: &Global) -> Result<Exit, CliError> {
        let mut seed = Zeroizing::new([0; KEY_BYTES]);
        entropy::fill(&mut *seed).map_err(|e| CliError::failure(format!("the system gives no randomness: {e}")))?;
        if self.sealing {
            let key = SealingKey::from_bytes(&seed);
            let text = format!("# A sealing key of Tidegate, {}. Who has it can open and seal.\n", key.id());
            write_new(&self.file, &text, &key.to_text())?;
            show_sealing(&self.file, &key, global)?;
        } else {
            let key = SigningKey::from_seed(&seed);
            let text =
                format!("# A private key of Tidegate: show it to nobody. Its public half:\n# {}\n", key.public());
            write_new(&self.file, &text, &key.to_text())?;
            show_public(&self.file, &[key.public()], global)?;
        }
        Ok(Exit::Ok)
    }
}

/// Writes a key's file, for its owner alone; never over another.
fn write_new(path: &Path, comment: &str, key: &str) -> Result<(), CliError> {
    let opened = File::options().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|error| {
        let path = path.display();
        CliError::failure(match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{path} is there already: a key is never overwritten, choose another name")
            }
            _ => format!("{path} cannot be made: {error}"),
        })
    })?;
    let written = [comment, key, "\n"].iter().try_for_each(|part| file.write_all(part.as_bytes()));
    let done = written.and_then(|()| file.sync_all());
    done.map_err(|error| CliError::failure(format!("{} cannot be written: {error}", path.display())))
}

fn show_sealing(file: &Path, key: &SealingKey, global: &Global) -> Result<(), CliError> {
    if global.json {
        return output::json(&json!({"file": file, "kind": "sealing", "id": key.id().to_string()}));
    }
    output::line(format!("sealing key {}", key.id()))
}

fn show_public(file: &Path, keys: &[PublicKey], global: &Global) -> Result<(), CliError> {
    for key in keys {
        let (public, id) = (key.to_string(), key.id().to_string());
        if global.json {
            output::json(&json!({"file": file, "kind": "ed25519", "public": public, "id": id}))?;
        } else {
            output::line(format!("{public} {id}"))?;
        }
    }
    Ok(())
}

impl Show {
    fn run(self, global: &Global) -> Result<Exit, CliError> {
        match KeyFile::read(&self.file).map_err(CliError::failure)? {
            KeyFile::Sealing(key) => show_sealing(&self.file, &key, global)?,
            KeyFile::Private(key) => show_public(&self.file, &[key.public()], global)?,
            KeyFile::Public(keys) => {
                let keys: Vec<PublicKey> = keys.iter().copied().collect();
                show_public(&self.file, &keys, global)?;
            }
        }
        Ok(Exit::Ok)
    }
}

impl Authorize {
    fn run(self, global: &Global) -> Result<Exit, CliError> {
        let public = self.public.as_deref().map(public_key).transpose()?;
        let mut editor = Editor::open(&self.file).map_err(|e| CliError::failure(e.to_string()))?;
        let tenant = self.who.tenant.clone().unwrap_or_default();
        let of_name = self.who.name.as_deref().and_then(|name| of_name(editor.identities(), Kind::Key, &tenant, name));
        if self.remove {
            let found = match &public {
                Some(public) => editor.identities().iter().find(|i| i.proof == Proof::Key(*public)).cloned(),
                None if self.who.name.is_none() => {
                    return Err(CliError::usage("which key is to go? Give it, or its --name"));
                }
                None => of_name,
            };
            let found = found.ok_or_else(|| CliError::failure(format!("{} has no such key", self.file.display())))?;
            editor.remove(found.line).map_err(|e| CliError::failure(e.to_string()))?;
            save(editor, &self.file)?;
            return told(global, &self.file, "removed", &found);
        }
        let public = public.ok_or_else(|| CliError::usage("which key? Give ed25519:BASE64 or a file"))?;
        let name = self.who.name.as_deref().ok_or_else(|| CliError::usage("whose key is it? Give --name"))?;
        let line = |before: Option<&Identity>| {
            let who = &self.who;
            let fields = fields(who.tenant.as_deref(), &who.roles, who.expires.as_deref(), before)?;
            Ok::<_, CliError>(format!("key {public} name={name}{fields}"))
        };
        let done = match of_name {
            Some(before) if self.replace => editor.replace(before.line, line(Some(&before))?).map(|()| "replaced"),
            Some(before) => {
                return Err(CliError::failure(format!(
                    "`{name}` has a key in line {} of {}: use --replace to put this one in its place",
                    before.line,
                    self.file.display()
                )));
            }
            None => editor.add(line(None)?).map(|()| "added"),
        };
        let done = done.map_err(|e| CliError::failure(e.to_string()))?;
        let identity = of_name_again(&editor, name, &tenant)?;
        save(editor, &self.file)?;
        told(global, &self.file, done, &identity)
    }
}

fn of_name_again(editor: &Editor, name: &str, tenant: &str) -> Result<Identity, CliError> {
    let found = of_name(editor.identities(), Kind::Key, tenant, name);
    found.ok_or_else(|| CliError::failure("the line that was added is not there"))
}

/// A public key as an argument: itself, or a file with one.
fn public_key(text: &str) -> Result<PublicKey, CliError> {
    if text.starts_with(PUBLIC_PREFIX) {
        // As `keys show` prints it, with the id behind.
        let key = text.split_whitespace().next().unwrap_or_default();
        return PublicKey::parse(key).map_err(|error| CliError::usage(format!("this is no public key: {error}")));
    }
    let file = KeyFile::read(Path::new(text)).map_err(CliError::failure)?;
    file.public().map_err(|error| CliError::failure(format!("{text}: {error}")))
}

/// The identity of a kind, tenant and name.
pub(super) fn of_name(identities: &[Identity], kind: Kind, tenant: &str, name: &str) -> Option<Identity> {
    let mut all = identities.iter();
    all.find(|i| i.proof.kind() == kind && &*i.tenant == tenant && &*i.name == name).cloned()
}

/// Writes the file, or says why not.
pub(super) fn save(editor: Editor, path: &Path) -> Result<(), CliError> {
    editor.save().map_err(|error| CliError::failure(format!("{} cannot be written: {error}", path.display())))
}

/// Says what became of the file.
pub(super) fn told(global: &Global, path: &Path, done: &str, identity: &Identity) -> Result<Exit, CliError> {
    let (kind, name) = (identity.proof.kind().to_string(), &identity.name);
    if global.json {
        let roles = &identity.roles;
        output::json(&json!({
            "file": path, "done": done, "kind": kind, "name": name, "tenant": identity.tenant, "roles": roles,
        }))?;
    } else {
        output::line(format!("{done}: {kind} of {name} in {}", path.display()))?;
    }
    Ok(Exit::Ok)
}

/// What stands behind the beginning of a line: what was given, else what stood there before.
pub(super) fn fields(
    tenant: Option<&str>,
    roles: &[String],
    expires: Option<&str>,
    before: Option<&Identity>,
) -> Result<String, CliError> {
    let mut fields = tenant.map_or_else(String::new, |tenant| format!(" tenant={tenant}"));
    let roles = match before {
        Some(before) if roles.is_empty() => before.roles.join(","),
        _ => roles.join(","),
    };
    if roles.is_empty() {
        return Err(CliError::usage("which roles? Give --role, once or more often"));
    }
    fields.push_str(&format!(" roles={roles}"));
    let before = before.and_then(|before| before.expires).map(utc::show);
    if let Some(expires) = expires.map(str::to_owned).or(before) {
        fields.push_str(&format!(" expires={expires}"));
    }
    Ok(fields)
}
