//! `store`: what is done to the files of a broker that is not running.

use super::Global;
use super::exit::{CliError, Exit};
use super::output;
use super::units::{show_bytes, show_count};
use crate::config::Settings;
use crate::daemon::pick_folder;
use crate::store::{STORE_NAME, check, compact};
use serde_json::json;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

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
        // Looking at it takes what changing it does: nobody else may have it open meanwhile.
        match File::options().read(true).write(true).open(folder.join(STORE_NAME)) {
            Ok(_) => Ok(folder),
            Err(error) => Err(CliError::failure(unusable(&folder, &error))),
        }
    }
}

/// Why the store of a folder cannot be looked at, and what to do.
fn unusable(folder: &Path, error: &io::Error) -> String {
    let folder = folder.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            format!("there is no store in {folder}: give the broker's folder with --data")
        }
        io::ErrorKind::PermissionDenied => {
            format!("you may not read and write the store in {folder}: run this as the broker's user or as root")
        }
        _ => format!("the store in {folder} cannot be opened: {error}"),
    }
}

impl Store {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        match self {
            Self::Check(data) => {
                let folder = data.folder()?;
                let report = check(&folder)?;
                if global.json {
                    output::json(&json!({
                        "folder": folder, "whole": report.problems.is_empty(), "closed": report.closed,
                        "file_bytes": report.file_bytes, "position": report.position.0, "queues": report.queues,
                        "blocks": report.blocks, "messages": report.messages, "rows": report.rows,
                        "bodies": report.bodies, "journal_bytes": report.journal_bytes,
                        "unfolded": report.unfolded, "problems": report.problems,
                    }))?;
                } else {
                    for problem in &report.problems {
                        output::line(problem)?;
                    }
                    let how = if report.closed { "closed in order" } else { "not closed: the next start repairs it" };
                    if report.unfolded > 0 {
                        let commits = show_count(report.unfolded);
                        output::line(format!("{commits} commits are in the journal and not yet in the database"))?;
                    }
                    output::line(format!(
                        "{}, {} messages in {} queues, {how}",
                        show_bytes(report.file_bytes),
                        show_count(report.messages),
                        report.queues,
                    ))?;
                }
                if !report.problems.is_empty() {
                    let text = "the store is damaged: the next start repairs it, or sets it aside and takes over what is whole";
                    return Err(CliError::new(Exit::Store, text));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_look_at_a_store_is_told_so() {
        let told = |kind: io::ErrorKind| unusable(Path::new("/data"), &kind.into());
        assert!(told(io::ErrorKind::PermissionDenied).contains("may not read and write the store in /data"));
        assert!(told(io::ErrorKind::NotFound).contains("no store in /data"));
    }
}
