//! `store`: what is done to the files of a broker that is not running.

use super::Global;
use super::exit::{CliError, Exit};
use super::output;
use super::units::show_bytes;
use crate::config::Settings;
use crate::daemon::pick_folder;
use crate::store::{STORE_NAME, compact};
use serde_json::json;
use std::path::PathBuf;

/// Subcommands of `store`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Store {
    /// Verify the whole store and say how it is; it is not changed
    #[command(after_help = "Example:
  tidegate store check --data /var/lib/tidegate")]
    Check(Data),
    /// Make the store's file as small as it goes
    #[command(after_help = "Example:
  tidegate store compact --data /var/lib/tidegate")]
    Compact(Data),
}

/// Where the store is.
#[derive(Debug, clap::Args)]
pub(super) struct Data {
    /// Data folder [default: the broker's default]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

impl Data {
    fn folder(self) -> Result<PathBuf, CliError> {
        let settings = Settings { data: self.data, ..Settings::default() };
        let folder = pick_folder(&settings, |name| std::env::var_os(name));
        let folder = folder.ok_or_else(|| CliError::usage("no data folder: give one with --data"))?;
        if !folder.join(STORE_NAME).exists() {
            let text = format!("there is no store in {}: give the broker's folder with --data", folder.display());
            return Err(CliError::failure(text));
        }
        Ok(folder)
    }
}

impl Store {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        match self {
            Self::Check(data) => {
                let folder = data.folder()?;
                let checked = crate::store::check(&folder)?;
                if global.json {
                    output::json(
                        &json!({"folder": folder, "whole": true, "clean": checked.clean, "bytes": checked.bytes}),
                    )?;
                } else {
                    let how = if checked.clean {
                        "closed in order"
                    } else {
                        "not closed; it will be repaired at the next start"
                    };
                    output::line(format!("the store is whole, {}, {how}", show_bytes(checked.bytes)))?;
                }
            }
            Self::Compact(data) => {
                let folder = data.folder()?;
                let done = compact(&folder)?;
                if global.json {
                    output::json(&json!({"folder": folder, "bytes_before": done.before, "bytes_after": done.after}))?;
                } else {
                    output::line(format!("{} became {}", show_bytes(done.before), show_bytes(done.after)))?;
                }
            }
        }
        Ok(Exit::Ok)
    }
}
