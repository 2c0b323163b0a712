//! `reply`: answers requests.

use super::Global;
use super::connect::{block_on, client, tell_of_breaks};
use super::exit::{CliError, Exit};
use super::output;
use crate::client::Asked;
use serde_json::json;
use smol::io::AsyncWriteExt as _;
use smol::process::{Command, Stdio};

const HELP: &str = "Examples:
  tidegate reply svc/time --exec date
  tidegate reply 'svc/echo/+' --echo
--exec runs the command with `sh -c` for each request: the question on its standard input, TIDEGATE_CHANNEL and \
TIDEGATE_DEADLINE_MS in its environment; its standard output is the answer and its exit code the status.";

/// Arguments of `reply`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
#[command(group = clap::ArgGroup::new("how").required(true).args(["exec", "text", "echo"]))]
pub(super) struct Reply {
    /// Channels to answer on
    #[arg(value_parser = crate::cli::units::filter)]
    filter: String,
    /// Answer with what this command prints
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Answer with this text
    #[arg(long)]
    text: Option<String>,
    /// Answer with the question
    #[arg(long)]
    echo: bool,
    /// End after so many requests
    #[arg(long, short, value_name = "N")]
    count: Option<u64>,
}

impl Reply {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        let address = global.address()?;
        block_on(async |executor| {
            let client = client(&executor, address, global.options("reply"), None).await?;
            tell_of_breaks(&executor, &client);
            let mut responder = client.respond(&self.filter).await?;
            let mut left = self.count.unwrap_or(u64::MAX);
            while left > 0 {
                let mut asked = responder.next().await?;
                let (status, answer) = self.answer(&asked).await?;
                asked.respond(status, &answer, true).await?;
                left -= 1;
                if global.json {
                    let (bytes, answered) = (asked.body.len(), answer.len());
                    output::json(&json!({
                        "channel": asked.channel, "status": status, "bytes": bytes, "answer_bytes": answered,
                    }))?;
                }
            }
            drop(responder);
            client.close().await;
            Ok(Exit::Ok)
        })
    }

    async fn answer(&self, asked: &Asked) -> Result<(u16, Vec<u8>), CliError> {
        let Some(command) = &self.exec else {
            return Ok((0, self.text.as_ref().map_or_else(|| asked.body.to_vec(), |text| text.clone().into_bytes())));
        };
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(command)
            .env("TIDEGATE_CHANNEL", &asked.channel)
            .env("TIDEGATE_DEADLINE_MS", asked.deadline_ms.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| CliError::failure(format!("the command cannot be started: {e}")))?;
        let stdin = child.stdin.take();
        let question = asked.body.clone();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A command that does not read its input says by its exit code whether it succeeded.
                let _ = stdin.write_all(&question).await;
            }
        };
        let (output, ()) = smol::future::zip(child.output(), feed).await;
        let output = output.map_err(|e| CliError::failure(format!("the command cannot be waited for: {e}")))?;
        let status = output.status.code().map_or(1, |code| u16::try_from(code).unwrap_or(1));
        Ok((status, output.stdout))
    }
}
