//! What `pub`, `sub` and `consume` do end to end: sign, seal and compress; verify and open.

use super::exit::{CliError, Exit};
use super::output;
use crate::client::{Checks, Incoming, Message, sealer};
use crate::seal::{Algorithm, KeyError, PublicKey, PublicKeys, Sealer, SealingKey, SealingKeys, SigningKey};
use clap::ValueEnum;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Most bytes of a file of keys.
const KEY_FILE_BYTES_MAX: u64 = 1_024 * 1_024;
/// Messages told one by one that were not what they should be; the rest is counted.
const TOLD_MAX: u64 = 20;

/// How payloads are sealed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AlgorithmArg {
    /// Fast everywhere
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
    /// Faster where the processor has instructions for it
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
}

/// Arguments of commands that publish.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "End to end")]
pub(super) struct MakeArgs {
    /// Sign with the private key in this file, which nobody else may read
    #[arg(long, value_name = "KEYFILE")]
    sign: Option<PathBuf>,
    /// Seal the payload with the key in this file, which nobody else may read: only who has the same key reads it
    #[arg(long, value_name = "KEYFILE")]
    seal: Option<PathBuf>,
    /// How to seal
    #[arg(long, value_enum, requires = "seal", default_value = "chacha20-poly1305")]
    algorithm: AlgorithmArg,
    /// Compress the payload: inside the seal, or else if the broker takes that
    #[arg(long)]
    compress: bool,
}

/// What is made of each message.
pub(super) struct Making {
    sign: Option<SigningKey>,
    seal: Option<Sealer>,
    compress: bool,
}

impl MakeArgs {
    /// Reads the keys.
    pub(super) fn load(&self) -> Result<Making, CliError> {
        let algorithm = match self.algorithm {
            AlgorithmArg::ChaCha20Poly1305 => Algorithm::ChaCha20Poly1305,
            AlgorithmArg::Aes256Gcm => Algorithm::Aes256Gcm,
        };
        let seal = match &self.seal {
            Some(path) => Some(sealer(read_secret(path, SealingKey::parse)?, algorithm)?),
            None => None,
        };
        let sign = self.sign.as_ref().map(|path| read_secret(path, SigningKey::parse)).transpose()?;
        Ok(Making { sign, seal, compress: self.compress })
    }
}

impl Making {
    /// Asks for it all on a message.
    pub(super) fn ask<'a>(&'a self, message: &mut Message<'a>) {
        (message.sign, message.seal, message.compress) = (self.sign.as_ref(), self.seal.as_ref(), self.compress);
    }
}

/// Arguments of commands that receive.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "End to end")]
pub(super) struct CheckArgs {
    /// Take only messages signed by this key (ed25519:…) or one of those in this file; may be repeated
    #[arg(long, value_name = "PUBLIC")]
    verify: Vec<String>,
    /// Take only sealed messages, and open them with a key in this file, which nobody else may read; may be repeated
    #[arg(long, value_name = "KEYFILE")]
    open: Vec<PathBuf>,
}

impl CheckArgs {
    /// Reads the keys.
    pub(super) fn load(&self) -> Result<Checking, CliError> {
        let mut checks = Checks::default();
        for text in &self.verify {
            let keys = if text.starts_with("ed25519:") {
                let key = PublicKey::parse(text).map_err(|e| CliError::usage(format!("--verify {text}: {e}")))?;
                [key].into_iter().collect()
            } else {
                let path = Path::new(text);
                let (text, _) = read(path)?;
                PublicKeys::parse(&text).map_err(|e| bad_key(path, e))?
            };
            checks.verify.get_or_insert_default().extend(keys.iter().copied());
        }
        for path in &self.open {
            let keys = read_secret(path, SealingKeys::parse)?;
            checks.open.get_or_insert_default().extend(keys.iter().cloned());
        }
        Ok(Checking { checks, refused: 0 })
    }
}

/// What is demanded of each message, and how many did not satisfy it.
pub(super) struct Checking {
    checks: Checks,
    refused: u64,
}

impl Checking {
    /// Verifies and opens a message; tells and counts why it is not to be used.
    pub(super) fn check(&mut self, message: &mut Incoming) -> Result<(), String> {
        self.checks.check(message).map(|_| ()).map_err(|error| {
            self.refused += 1;
            if self.refused <= TOLD_MAX {
                let id = message.record().id;
                let id = if id.is_none() { String::new() } else { format!(" {id}") };
                output::note(&format!("refused: message{id} on {}: {error}", message.channel()));
            }
            error.to_string()
        })
    }

    /// How the command ends: that messages were refused is a failure.
    pub(super) fn end(&self) -> Result<Exit, CliError> {
        match self.refused {
            0 => Ok(Exit::Ok),
            count => Err(CliError::failure(format!("{count} messages were refused: not signed or sealed as demanded"))),
        }
    }
}

/// Reads a key that nobody else may read.
fn read_secret<T>(path: &Path, parse: impl Fn(&str) -> Result<T, KeyError>) -> Result<T, CliError> {
    let (text, mode) = read(path)?;
    if mode & 0o077 != 0 {
        let shown = path.display();
        return Err(CliError::failure(format!("{shown} may be read or changed by others: chmod 600 {shown}")));
    }
    parse(&text).map_err(|e| bad_key(path, e))
}

/// A file's text, and its mode when it was opened.
fn read(path: &Path) -> Result<(Zeroizing<String>, u32), CliError> {
    let cannot = |what: String| CliError::failure(format!("{} cannot be read: {what}", path.display()));
    let file = File::open(path).map_err(|e| cannot(e.to_string()))?;
    let metadata = file.metadata().map_err(|e| cannot(e.to_string()))?;
    if metadata.len() > KEY_FILE_BYTES_MAX {
        return Err(cannot("it is too large for a file of keys".into()));
    }
    // Of its full size from the start, so that no copy of a key is left behind in a smaller place.
    let mut text = Zeroizing::new(String::with_capacity(metadata.len() as usize + 1));
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(|e| cannot(e.to_string()))?;
    Ok((text, metadata.mode()))
}

fn bad_key(path: &Path, error: KeyError) -> CliError {
    CliError::failure(format!("{}: {error}", path.display()))
}
