//! `bridge`: how this broker's bridges upstream are, and what an operator does with them.

mod show;
mod test;

pub(super) use show::list;

use super::Global;
use super::connect::{NO_QUERY, admin, block_on, client};
use super::exit::{CliError, Exit};
use super::output;
use super::units::interval;
use crate::client::Client;
use crate::model::admin::{BRIDGE_PAUSE, BRIDGE_RESUME, BRIDGES, BridgeQuery, BridgeStatus};
use std::io::IsTerminal as _;
use std::time::Duration;

/// What stands behind the list of subcommands.
pub(super) const HELP: &str =
    "A bridge forwards queues to another broker, its upstream, and brings channels from it; it stands in the \
configuration (`bridges`). These commands need the local broker's Unix socket, as its user or root, or a role that may \
administer $admin/bridges and $admin/bridge/#.

Example:
  tidegate bridge status
  tidegate bridge status hub || logger 'the link is in trouble'";

const STATUS_HELP: &str = "Examples:
  tidegate bridge status
  tidegate bridge status hub --watch
  tidegate bridge status --json | jq '{name, state, queued, last_error}'
Healthy means that what it forwards is acknowledged by the upstream within `ack_age` (30s unless configured otherwise); \
being connected is not enough. Exit code 0 means that every bridge shown is healthy, 1 that one is not (a paused one is \
not), 4 that there is none of this name. Totals count from the start of the broker.";

/// Subcommands of `bridge`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Bridge {
    /// Show how bridges are: state, backlog, traffic, and what is wrong
    #[command(after_help = STATUS_HELP)]
    Status {
        /// Only this one
        name: Option<String>,
        /// Show it again and again [default interval: 2s]
        #[arg(long, short, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s", value_parser = interval)]
        watch: Option<Duration>,
    },
    /// Stop forwarding and bringing, and end the connection
    #[command(after_help = "Example:
  tidegate bridge pause hub
Messages stay in their queues meanwhile, and it stays paused over restarts of the broker, until it is resumed.")]
    Pause {
        /// The bridge
        name: String,
    },
    /// Go on where it was paused, at once
    #[command(after_help = "Example:
  tidegate bridge resume hub")]
    Resume {
        /// The bridge
        name: String,
    },
    /// Say step by step whether the upstream can be reached and lets the bridge do its work
    Test(test::Test),
}

impl Bridge {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        let this = match self {
            // Of the configuration, not of a broker that runs.
            Self::Test(test) => return test.run(global),
            other => other,
        };
        let address = global.address()?;
        block_on(async |executor| {
            let client = client(&executor, address, global.options("bridge"), None).await?;
            let exit = this.ask(&client, global.json).await?;
            client.close().await;
            Ok(exit)
        })
    }

    async fn ask(self, client: &Client, json: bool) -> Result<Exit, CliError> {
        let (channel, name) = match self {
            Self::Status { name, watch } => return status(client, name.as_deref(), watch, json).await,
            Self::Pause { name } => (BRIDGE_PAUSE, name),
            Self::Resume { name } => (BRIDGE_RESUME, name),
            Self::Test(_) => unreachable!("it asks no broker"),
        };
        let done: BridgeStatus = admin(client, channel, Some(&BridgeQuery { name })).await?;
        match (json, channel) {
            (true, _) => output::json(&done)?,
            (false, BRIDGE_PAUSE) => {
                output::line(format!("{} is paused: what its queues take from now on waits there", done.name))?;
            }
            (false, _) => output::line(format!("{} goes on", done.name))?,
        }
        Ok(Exit::Ok)
    }
}

async fn status(client: &Client, name: Option<&str>, watch: Option<Duration>, json: bool) -> Result<Exit, CliError> {
    loop {
        let mut bridges: Vec<BridgeStatus> = admin(client, BRIDGES, NO_QUERY).await?;
        if let Some(name) = name {
            let there: Vec<String> = bridges.iter().map(|b| b.name.clone()).collect();
            bridges.retain(|b| b.name == name);
            if bridges.is_empty() {
                return Err(CliError::new(Exit::Refused, show::unknown(name, &there)));
            }
        }
        if json {
            bridges.iter().try_for_each(output::json)?;
        } else {
            let clear = watch.is_some() && std::io::stdout().is_terminal();
            let text = show::all(&bridges);
            output::raw(if clear { format!("\x1b[H\x1b[J{text}") } else { text }.as_bytes())?;
        }
        let Some(interval) = watch else {
            return Ok(if bridges.iter().all(|b| b.healthy) { Exit::Ok } else { Exit::Failure });
        };
        smol::Timer::after(interval).await;
    }
}
