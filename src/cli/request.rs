//! `request`: asks whoever answers on a channel.

use super::Global;
use super::connect::{block_on, client};
use super::exit::{CliError, Exit};
use super::output;
use super::units::some_ms;
use crate::model::admin::Payload;
use serde_json::{Map, json};
use smol::Unblock;
use smol::io::AsyncReadExt as _;

const HELP: &str = "Examples:
  tidegate request svc/time
  tidegate request svc/convert --timeout 2s < picture.raw > picture.png
The answer is printed as it is. A responder that answers with a status other than 0 gives exit code 4, a passed \
deadline 5.";

/// Arguments of `request`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct RequestArgs {
    /// Who is asked
    channel: String,
    /// The question; `-` reads it from standard input [default: empty]
    body: Option<String>,
    /// How long to wait for the whole answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_ms)]
    timeout: u32,
}

impl RequestArgs {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        let address = global.address()?;
        block_on(async |executor| {
            let body = match self.body.as_deref() {
                Some("-") => {
                    let mut bytes = Vec::new();
                    let read = Unblock::new(std::io::stdin()).read_to_end(&mut bytes).await;
                    read.map_err(|e| CliError::failure(format!("the input cannot be read: {e}")))?;
                    bytes
                }
                text => text.unwrap_or_default().as_bytes().to_vec(),
            };
            let client = client(&executor, address, global.options("request"), None).await?;
            let response = client.request(&self.channel, &body, self.timeout).await?;
            client.close().await;
            if global.json {
                let mut object = Map::new();
                object.insert("status".into(), json!(response.status));
                match Payload::from_bytes(&response.body) {
                    Payload::Text(text) => object.insert("text".into(), json!(text)),
                    Payload::Base64(coded) => object.insert("base64".into(), json!(coded)),
                };
                output::json(&object)?;
            } else {
                let mut body = response.body;
                // A terminal is left at the beginning of a line.
                if std::io::IsTerminal::is_terminal(&std::io::stdout()) && body.last().is_some_and(|b| *b != b'\n') {
                    body.push(b'\n');
                }
                output::raw(&body)?;
            }
            if response.status != 0 {
                let text = format!("the responder answered with status {}", response.status);
                return Err(CliError::new(Exit::Refused, text));
            }
            Ok(Exit::Ok)
        })
    }
}
