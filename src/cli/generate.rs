//! `completions` and `man`: what packagers install.

use super::definition;
use super::exit::{CliError, Exit};
use super::output;
use clap_complete::Shell;
use clap_mangen::Man as Page;
use std::path::{Path, PathBuf};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  tidegate completions bash > /etc/bash_completion.d/tidegate")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tidegate man | man -l -
  tidegate man --out /usr/share/man/man1")]
pub(super) struct Man {
    /// Write one page a command into this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl Completions {
    pub(super) fn run(self) -> Result<Exit, CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut definition(), "tidegate", &mut script);
        output::raw(&script)?;
        Ok(Exit::Ok)
    }
}

impl Man {
    pub(super) fn run(self) -> Result<Exit, CliError> {
        let mut whole = documented();
        let Some(folder) = &self.out else {
            output::raw(&page(whole)?)?;
            return Ok(Exit::Ok);
        };
        std::fs::create_dir_all(folder).map_err(|e| cannot_write(folder, &e))?;
        // Gives each subcommand its full name.
        whole.build();
        write_pages(folder, whole, "tidegate")?;
        Ok(Exit::Ok)
    }
}

/// What there are pages of: `help` would be listed with a copy of every command, and a page of each.
fn documented() -> clap::Command {
    definition().disable_help_subcommand(true)
}

fn page(command: clap::Command) -> Result<Vec<u8>, CliError> {
    let mut page = Vec::new();
    Page::new(command).render(&mut page)?;
    Ok(page)
}

/// `tidegate.1`, `tidegate-queue.1`, `tidegate-queue-ls.1` ...
fn write_pages(folder: &Path, command: clap::Command, name: &str) -> Result<(), CliError> {
    for sub in command.get_subcommands() {
        write_pages(folder, sub.clone(), &format!("{name}-{}", sub.get_name()))?;
    }
    let path = folder.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?).map_err(|e| cannot_write(&path, &e))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> CliError {
    CliError::failure(format!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_pages_are_of_commands_and_not_of_help() {
        let folder = tempfile::tempdir().expect("a folder");
        Man { out: Some(folder.path().into()) }.run().expect("written");
        let entries = std::fs::read_dir(folder.path()).expect("listed");
        let names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        assert!(names.iter().any(|n| n == "tidegate-queue-ls.1") && names.iter().any(|n| n == "tidegate.1"));
        assert!(names.iter().all(|n| !n.contains("help")), "{names:?}");
        let whole = String::from_utf8(page(documented()).expect("a page")).expect("text");
        assert!(whole.contains("queue") && !whole.contains("\\-help(1)"), "{whole}");
    }
}
