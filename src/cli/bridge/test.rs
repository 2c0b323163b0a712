//! `bridge test`: the way to an upstream, step by step.

use crate::cli::Global;
use crate::cli::exit::{CliError, Exit};
use crate::cli::output;
use crate::cli::serve::invalid;
use crate::config::{BridgeSettings, Settings, load};
use crate::daemon::{Step, pick_folder, probe};
use serde_json::json;
use std::path::PathBuf;

const HELP: &str = "Examples:
  tidegate bridge test hub --config /etc/tidegate.yaml
  tidegate bridge test hub --config /etc/tidegate.yaml --json | jq 'select(.ok | not)'
Needs no running broker: it reads the configuration, the credentials and the certificates that the broker reads, so run it as \
the broker's user. Every address in `urls` is tried: its name, its port, TLS, WebSocket, the login, what the routes of the \
bridge may do there, and a round trip. Nothing is published, consumed or left behind, and a bridge that runs is not \
disturbed. The exit code is that of the first step that failed: 3 for the way to the upstream, 8 for the login, 4 for a \
permission, 5 where the upstream gave no answer.";

/// Arguments of `bridge test`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(in crate::cli) struct Test {
    /// The bridge, as the configuration calls it
    name: String,
    /// The configuration that has it; without it the defaults and the environment
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder, instead of the configured one: where relative paths of the configuration are
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

impl Test {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        let mut settings = load(self.config.as_deref(), std::env::vars_os()).map_err(|e| invalid(&e))?.settings;
        settings.data = self.data.clone().or(settings.data);
        let bridge = find(&settings, &self.name)?;
        let folder = pick_folder(&settings, |name| std::env::var_os(name)).unwrap_or_default();
        let mut exit = None;
        for url in &bridge.urls {
            if !global.json {
                output::line(format!("{} to {url}", bridge.name))?;
            }
            let mut said = Ok(());
            let mut tell = |step: Step| {
                if let Some((reason, _)) = &step.failed {
                    exit.get_or_insert(exit_of(step.name, reason));
                }
                if said.is_ok() {
                    said = if global.json { say_json(url, &step) } else { say(&step) };
                }
            };
            probe(&settings, folder.clone(), bridge, url, &mut tell)
                .map_err(|error| CliError::failure(format!("the kernel tells no events: {error}")))?;
            said?;
        }
        Ok(exit.unwrap_or(Exit::Ok))
    }
}

fn find<'a>(settings: &'a Settings, name: &str) -> Result<&'a BridgeSettings, CliError> {
    let names = || settings.bridges.iter().map(|bridge| bridge.name.as_str()).collect::<Vec<_>>().join(", ");
    settings.bridges.iter().find(|bridge| bridge.name == *name).ok_or_else(|| {
        let what = match settings.bridges.is_empty() {
            true => "it has none: give the file that has it with --config".to_owned(),
            false => format!("it has {}", names()),
        };
        CliError::usage(format!("the configuration has no bridge {name:?}; {what}"))
    })
}

/// The exit code of a step that failed.
fn exit_of(step: &str, reason: &str) -> Exit {
    match (step, reason) {
        ("permission", _) => Exit::Refused,
        ("login", "auth") => Exit::Login,
        ("login" | "round trip", "timeout") => Exit::Timeout,
        _ => Exit::Connect,
    }
}

fn say(step: &Step) -> Result<(), CliError> {
    let took = format!("{:.1} ms", step.took_us as f64 / 1_000.0);
    let verdict = if step.failed.is_some() { "FAILED" } else { "ok" };
    output::line(format!("  {:<10} {verdict:<6} {took:>11}  {}", step.name, step.text))?;
    match &step.failed {
        Some((_, advice)) => output::line(format!("{:>32}{advice}", "")),
        None => Ok(()),
    }
}

fn say_json(url: &str, step: &Step) -> Result<(), CliError> {
    let (reason, advice) = step.failed.as_ref().map(|(reason, advice)| (*reason, advice.as_str())).unzip();
    output::json(&json!({
        "url": url,
        "step": step.name,
        "ok": step.failed.is_none(),
        "ms": step.took_us as f64 / 1_000.0,
        "text": step.text,
        "reason": reason,
        "advice": advice,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_that_is_not_there_is_told_with_those_that_are() {
        let mut settings = Settings::default();
        assert!(find(&settings, "hub").expect_err("none").message.contains("--config"));
        settings.bridges.push(BridgeSettings::new("center"));
        let error = find(&settings, "hub").expect_err("another");
        assert!(error.exit == Exit::Usage && error.message.contains("it has center"), "{}", error.message);
        assert!(find(&settings, "center").is_ok());
    }

    #[test]
    fn exit_codes_tell_the_way_from_the_login_and_the_permission() {
        for (step, reason, exit) in [
            ("name", "dns", Exit::Connect),
            ("tls", "timeout", Exit::Connect),
            ("login", "auth", Exit::Login),
            ("login", "timeout", Exit::Timeout),
            ("permission", "auth", Exit::Refused),
        ] {
            assert_eq!(exit_of(step, reason), exit, "{step} {reason}");
        }
    }
}
