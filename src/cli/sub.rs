//! `sub`: what is published, live.

use super::Global;
use super::connect::{block_on, client, tell_of_breaks};
use super::end_to_end::CheckArgs;
use super::exit::{CliError, Exit};
use super::messages::Form;
use super::output;
use super::units::duration;
use crate::client::{Heard, SubscribeOptions, WhenFull};
use crate::runtime::clock;
use crate::wire::Since;
use serde_json::json;
use smol::future::FutureExt as _;
use smol::stream::{self, StreamExt as _};
use std::time::Duration;

const HELP: &str = "Examples:
  tidegate sub 'site/+/temp'
  tidegate sub '#' --json | jq .text
  tidegate sub config/# --retained --idle 1s
  tidegate sub site/boiler/temp --last 10
  tidegate sub 'alarm/#' --verify trusted.keys --open ~/.keys/site
Text is CHANNEL PAYLOAD; --raw prints payloads only. History (--last, --since) needs a plain channel that a queue \
with history captures. With --verify and --open, messages that are not signed or sealed as demanded are not printed \
but told on standard error, and the command ends with exit code 1.";

/// Arguments of `sub`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Sub {
    /// What to hear: + is one level, # the rest
    #[arg(required = true, value_name = "FILTER", value_parser = crate::cli::units::filter)]
    filters: Vec<String>,
    /// Begin with the retained values
    #[arg(long)]
    retained: bool,
    /// Begin with the last N messages of the channel
    #[arg(long, value_name = "N", conflicts_with = "since")]
    last: Option<u32>,
    /// Begin so long ago (10m), or at a time in milliseconds since 1970, or after EPOCH:OFFSET
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    since: Option<When>,
    /// End after so many messages
    #[arg(long, short, value_name = "N")]
    count: Option<u64>,
    /// End when nothing was heard for so long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    idle: Option<Duration>,
    /// Print payloads only
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    check: CheckArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Ago(Duration),
    At(u64),
    After(u64, u64),
}

fn parse_since(text: &str) -> Result<When, String> {
    if let Some((epoch, offset)) = text.split_once(':') {
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| "the epoch is 16 hex digits")?;
        return Ok(When::After(epoch, offset.parse().map_err(|_| "the offset is a number")?));
    }
    match text.parse() {
        Ok(ms) => Ok(When::At(ms)),
        Err(_) => duration(text).map(When::Ago),
    }
}

impl Sub {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        let address = global.address()?;
        let form = Form::pick(global.json, self.raw);
        let mut checking = self.check.load()?;
        block_on(async |executor| {
            let client = client(&executor, address, global.options("sub"), None).await?;
            tell_of_breaks(&executor, &client);
            let mut all = stream::empty().boxed();
            for filter in &self.filters {
                let since = match (self.last, self.since) {
                    (Some(last), _) => Since::Last(last),
                    (None, None) => Since::Now,
                    (None, Some(When::Ago(ago))) => Since::Time(clock::wall().0.saturating_sub(ago.as_millis() as u64)),
                    (None, Some(When::At(ms))) => Since::Time(ms),
                    (None, Some(When::After(epoch, offset))) => Since::Offset { epoch, offset },
                };
                let options = SubscribeOptions {
                    retained: self.retained,
                    since,
                    when_full: WhenFull::Block,
                    ..SubscribeOptions::default()
                };
                let subscription = client.subscribe(filter, options).await?;
                all = stream::race(all, subscription).boxed();
            }
            let mut left = self.count.unwrap_or(u64::MAX);
            while left > 0 {
                let quiet = async {
                    match self.idle {
                        Some(idle) => drop(smol::Timer::after(idle).await),
                        None => std::future::pending().await,
                    }
                    None
                };
                match all.next().or(quiet).await {
                    None => break,
                    Some(heard) => match heard? {
                        Heard::Message(mut message) => {
                            if checking.check(&mut message).is_ok() {
                                form.print(&message)?;
                                left -= 1;
                            }
                        }
                        Heard::Dropped(count) if form == Form::Json => output::json(&json!({"dropped": count}))?,
                        Heard::Dropped(count) => {
                            output::note(&format!("{count} messages were lost: reading is too slow"))
                        }
                        Heard::Reconnected { complete } if form == Form::Json => {
                            output::json(&json!({"reconnected": true, "complete": complete}))?;
                        }
                        // That the broker is back was said; each subscription knows whether it missed something.
                        Heard::Reconnected { complete: true } => output::note("nothing is missing"),
                        Heard::Reconnected { complete: false } => output::note("messages may be missing"),
                    },
                }
            }
            drop(all);
            client.close().await;
            checking.end()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_a_duration_a_time_or_an_offset() {
        assert_eq!(parse_since("10m"), Ok(When::Ago(Duration::from_secs(600))));
        assert_eq!(parse_since("1700000000000"), Ok(When::At(1_700_000_000_000)));
        assert_eq!(parse_since("00ff:7"), Ok(When::After(255, 7)));
        assert!(parse_since("yesterday").is_err() && parse_since("x:1").is_err());
    }
}
