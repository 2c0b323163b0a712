//! What the broker is told: raw YAML and environment in, validated settings out, every mistake with its line.
//!
//! The YAML is read by events (`saphyr-parser`) into a tree that keeps places, then every key is looked up in the two
//! tables of `keys.rs`. One file may hold many mistakes; all of them are told at once.

mod bridges;
mod check;
mod check_bridges;
mod diff;
mod error;
mod items;
mod keys;
mod read;
mod settings;
#[cfg(test)]
mod tests;
mod units;
mod yaml;

pub use bridges::{BridgeSettings, DownRoute, MappingText, OutageSettings, RouteError, UpRoute};
pub use diff::{Change, diff, list, reloadable};
pub use error::{ConfigErrors, Place, Problem};
pub use settings::{
    AuthSettings, ClientCertificates, Dedupe, HttpSettings, IssuerSettings, Keep, Limits, Listen, LogFormat,
    LogSettings, Overflow, QueueSettings, Rates, RoleSettings, Rules, Settings, SignatureSettings, Storage,
    StoreSettings, TenantSettings, TlsSettings,
};

use std::ffi::OsString;
use std::path::Path;

/// A file that names every key with its default and says what it does.
pub const EXAMPLE: &str = include_str!("example.yaml");

/// Settings that may be run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Problem>,
}

/// Reads a file, or the defaults without one, and lays the environment's `TIDEGATE_` variables over it:
/// `TIDEGATE_STORE__LINGER=1ms` is `store.linger: 1ms`; lists are separated by commas. Pass `std::env::vars_os()`.
///
/// # Errors
/// Every mistake of the file and of the variables, or that the file cannot be read.
pub fn load(
    path: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigErrors> {
    let Some(path) = path else { return build("", "", variables) };
    let name = path.display().to_string();
    let whole_file = |message: String| ConfigErrors {
        problems: vec![Problem {
            place: Some(Place::File { file: name.as_str().into(), line: 0, column: 0 }),
            key: String::new(),
            message,
        }],
    };
    let bytes = std::fs::read(path).map_err(|error| whole_file(format!("cannot be read: {error}")))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => build(text, &name, variables),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
            Err(whole_file(format!("found a byte in line {line} that is not UTF-8; expected UTF-8 text")))
        }
    }
}

/// Reads a text; `file_name` is what its mistakes are told under.
///
/// # Errors
/// Every mistake of the text.
pub fn parse(text: &str, file_name: &str) -> Result<Loaded, ConfigErrors> {
    build(text, file_name, [])
}

fn build(
    text: &str,
    file: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigErrors> {
    let mut reading = read::Reading::new(file);
    reading.file(text);
    reading.env(variables);
    let warnings = check::check(&mut reading);
    if reading.problems.is_empty() {
        return Ok(Loaded { settings: reading.settings, warnings });
    }
    // Files sort before variables, and by line and column; the sort is stable.
    reading.problems.sort_by(|a, b| a.place.cmp(&b.place));
    Err(ConfigErrors { problems: reading.problems })
}
