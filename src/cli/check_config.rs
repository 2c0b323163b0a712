//! `check-config`: says whether a configuration may be run on.

use super::Global;
use super::exit::{CliError, Exit};
use super::output;
use super::serve::invalid;
use crate::config::{EXAMPLE, load};
use serde_json::json;
use std::path::PathBuf;

const HELP: &str = "Examples:
  tidegate check-config /etc/tidegate.yaml
  tidegate check-config --print-default > tidegate.yaml";

/// Arguments of `check-config`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct CheckConfig {
    /// The file; without it the defaults and the environment are checked
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print a file with every key, its default and what it does
    #[arg(long)]
    print_default: bool,
}

impl CheckConfig {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        if self.print_default {
            output::raw(EXAMPLE.as_bytes())?;
            return Ok(Exit::Ok);
        }
        match load(self.file.as_deref(), std::env::vars_os()) {
            Ok(loaded) => {
                let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
                if global.json {
                    output::json(&json!({"valid": true, "warnings": warnings, "errors": []}))?;
                } else {
                    for warning in &warnings {
                        output::line(format!("warning: {warning}"))?;
                    }
                    output::line("the configuration is valid")?;
                }
                Ok(Exit::Ok)
            }
            Err(errors) if global.json => {
                let errors: Vec<String> = errors.problems.iter().map(ToString::to_string).collect();
                output::json(&json!({"valid": false, "warnings": [], "errors": errors}))?;
                Ok(Exit::Config)
            }
            Err(errors) => Err(invalid(&errors)),
        }
    }
}
