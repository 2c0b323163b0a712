//! `serve`: the broker.

use super::exit::{CliError, Exit};
use crate::config::{ConfigErrors, Settings, load};
use crate::daemon::{Options, identities, serve};
use crate::observe::log as logging;
use crate::runtime::clock;
use std::net::SocketAddr;
use std::path::PathBuf;

const HELP: &str = "Examples:
  tidegate serve                                  everything by default
  tidegate serve --config /etc/tidegate.yaml
  tidegate serve --data /var/lib/tidegate --listen 0.0.0.0:8433
Stops in order on SIGTERM and SIGINT; SIGHUP reads the configuration again. TIDEGATE_STORE__LINGER=1ms and the \
like override single keys.";

/// Arguments of `serve`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Serve {
    /// Configuration file [default: the built-in defaults]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder, instead of the configured one
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// TCP address to listen on, instead of the configured ones; may be repeated; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// Unix socket, instead of the configured one; `none` for none
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
}

impl Serve {
    pub(super) fn run(self) -> Result<Exit, CliError> {
        let loaded = load(self.config.as_deref(), std::env::vars_os()).map_err(|e| invalid(&e))?;
        let settings = self.over(loaded.settings);
        logging::init(&settings.log, clock::wall)
            .map_err(|e| CliError::failure(format!("logging cannot be set up: {e}")))?;
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        let again = self.clone();
        let reload = Box::new(move || {
            let loaded = load(again.config.as_deref(), std::env::vars_os()).map_err(|e| e.to_string())?;
            for warning in &loaded.warnings {
                log::warn!("{warning}");
            }
            Ok(again.over(loaded.settings))
        });
        serve(Options { settings, reload: Some(reload), signals: true, identities: identities() }, |_, _| {})?;
        Ok(Exit::Ok)
    }

    /// The settings with the arguments laid over them.
    fn over(&self, mut settings: Settings) -> Settings {
        if let Some(data) = &self.data {
            settings.data = Some(data.clone());
        }
        if !self.listen.is_empty() {
            settings.listen.tcp.clone_from(&self.listen);
        }
        if let Some(unix) = &self.unix {
            settings.listen.unix = (unix.as_os_str() != "none").then(|| unix.clone());
        }
        settings
    }
}

pub(super) fn invalid(errors: &ConfigErrors) -> CliError {
    CliError::new(Exit::Config, format!("the configuration is invalid:\n{errors}"))
}
