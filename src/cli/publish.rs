//! `pub`: one message, or each line of a file or of standard input.

use super::Global;
use super::connect::{block_on, client, within};
use super::end_to_end::{MakeArgs, Making};
use super::exit::{CliError, Exit};
use super::output;
use super::units::{duration, duration_ms, show_count, some_ms};
use crate::client::{Client, ClientError, Id, Message, Retry, Settled, Stats};
use crate::model::{Encoding, MessageId, Priority, tag};
use crate::runtime::clock;
use crate::wire::{Contract, Outcome};
use clap::ValueEnum;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use smol::Unblock;
use smol::future::FutureExt as _;
use smol::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use std::fs::File;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const HELP: &str = "Examples:
  tidegate pub site/boiler/temp 71.5
  tidegate pub config/display --retain --file display.json
  tidegate pub log/import --lines --file access.log
  journalctl -f | tidegate pub log/host --lines
  tidegate pub alarm/fire on --sign ~/.keys/boiler --seal ~/.keys/site
With --lines the connection is made again when it breaks, and what was not acknowledged is sent again under the \
same ids; a full queue is waited for. A single message is refused at once unless --timeout gives it time.";

/// Bytes read at once from a file or pipe.
const READ_BYTES: usize = 256 * 1_024;
/// Refusals told one by one; the rest is counted.
const TOLD_MAX: u64 = 5;
/// How often it is looked whether the broker has a message that its upstream is to have.
const INTERIM_LOOK: Duration = Duration::from_millis(500);

/// What must have happened before a message counts as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ContractArg {
    /// What the queues ask
    Queue,
    /// In the broker's memory
    Memory,
    /// On the broker's disk
    Disk,
    /// Acknowledged by the upstream of every bridge that forwards it
    Upstream,
}

impl From<ContractArg> for Contract {
    fn from(contract: ContractArg) -> Self {
        match contract {
            ContractArg::Queue => Self::Queue,
            ContractArg::Memory => Self::Memory,
            ContractArg::Disk => Self::Disk,
            ContractArg::Upstream => Self::Upstream,
        }
    }
}

/// Arguments of `pub`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Pub {
    /// Where to publish
    channel: String,
    /// The message; `-` reads it from standard input
    #[arg(conflicts_with_all = ["file", "lines"])]
    message: Option<String>,
    /// Publish this file: whole, or each of its lines with --lines
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Publish each line of standard input or of --file as a message
    #[arg(long, short)]
    lines: bool,
    /// Message id (a ULID): publishing it twice stores it once [default: a new one]
    #[arg(long, value_name = "ULID", value_parser = parse_id, conflicts_with = "lines")]
    id: Option<MessageId>,
    /// Publish without an id: after a broken connection the message may be stored twice
    #[arg(long, conflicts_with = "id")]
    no_id: bool,
    /// Time to live: it expires so long after being stored
    #[arg(long, value_name = "DURATION", value_parser = some_ms)]
    ttl: Option<u32>,
    /// 0 (lowest) to 9 (highest)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// Hold it back from consumers for so long
    #[arg(long, value_name = "DURATION", value_parser = duration_ms)]
    delay: Option<u32>,
    /// Keep it as the channel's retained value; an empty message clears it
    #[arg(long)]
    retain: bool,
    /// What must have happened before it counts as published
    #[arg(long, value_enum, default_value_t = ContractArg::Queue)]
    contract: ContractArg,
    /// Property of the message; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_property)]
    property: Vec<(String, String)>,
    /// Media type of the payload
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Give a message up after so long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Print nothing on success
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    make: MakeArgs,
}

fn parse_id(text: &str) -> Result<MessageId, String> {
    MessageId::parse(text).ok_or_else(|| "a ULID has 26 letters and digits, such as 01J9ZK3V5N8Q4W7X2Y6T0R1P3M".into())
}

fn parse_property(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

impl Pub {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        if self.message.is_none() && self.file.is_none() && !self.lines && std::io::stdin().is_terminal() {
            return Err(CliError::usage("what should be published? Give a MESSAGE, --file FILE or --lines"));
        }
        // Checked before connecting: a wrong channel or key is the caller's mistake whether or not the broker is there.
        let making = self.make.load()?;
        self.message(b"", &making)?;
        let address = global.address()?;
        block_on(async |executor| {
            let mut options = global.options("pub");
            options.retry = match self.timeout {
                Some(limit) => Retry::For(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
                None if self.lines => Retry::Forever,
                None => Retry::Never,
            };
            let refusals: Arc<Mutex<Refusals>> = Arc::default();
            let told = refusals.clone();
            let on_settled = move |settled: &Settled| {
                if let Err(error) = &settled.result {
                    told.lock().unwrap_or_else(PoisonError::into_inner).add(settled.count, error);
                }
            };
            let connecting = client(&executor, address, options, Some(Box::new(on_settled)));
            let client = within(self.timeout, "connecting", connecting).await?;
            if self.lines {
                self.publish_lines(&client, global, &making, &refusals).await
            } else {
                self.publish_one(&client, global, &making).await
            }
        })
    }

    fn message<'a>(&'a self, payload: &'a [u8], making: &'a Making) -> Result<Message<'a>, CliError> {
        let mut message = Message::new(&self.channel, payload)?;
        message.id = match self.id {
            Some(id) => Id::Given(id),
            None if self.no_id => Id::None,
            None => Id::Auto,
        };
        message.priority = Priority::new(self.priority).expect("clap bounds it to 9");
        message.retain = self.retain;
        message.ttl_ms = self.ttl.unwrap_or(0);
        message.delay_ms = self.delay.unwrap_or(0);
        message.contract = self.contract.into();
        making.ask(&mut message);
        if std::str::from_utf8(payload).is_ok() && !self.lines {
            message.encoding = Encoding::Text;
        }
        if let Some(media) = &self.content_type {
            message.property(tag::CONTENT_TYPE, media.as_bytes())?;
        }
        for (key, value) in &self.property {
            message.user_property(key, value.as_bytes())?;
        }
        Ok(message)
    }

    fn input(&self) -> Result<Pin<Box<dyn AsyncRead>>, CliError> {
        match &self.file {
            Some(path) => {
                let file = File::open(path)
                    .map_err(|e| CliError::failure(format!("{} cannot be read: {e}", path.display())))?;
                Ok(Box::pin(Unblock::with_capacity(READ_BYTES, file)))
            }
            None => Ok(Box::pin(Unblock::with_capacity(READ_BYTES, std::io::stdin()))),
        }
    }

    async fn publish_one(&self, client: &Client, global: &Global, making: &Making) -> Result<Exit, CliError> {
        let payload = match self.message.as_deref() {
            Some(text) if text != "-" => text.as_bytes().to_vec(),
            _ => {
                let mut bytes = Vec::new();
                self.input()?.read_to_end(&mut bytes).await.map_err(cannot_read)?;
                bytes
            }
        };
        let mut message = self.message(&payload, making)?;
        if let (Contract::Upstream, Id::Auto) = (message.contract, message.id) {
            // Who goes away before the end asks later, by an id that must be known for that.
            message.id = Id::Given(client.new_id());
        }
        let told = self.tell_interim(client, message.id);
        let outcome = async { Ok(client.publish(&message).await?) }.or(told).await?;
        client.close().await;
        let name = match outcome {
            Outcome::Stored => "stored",
            Outcome::Duplicate => "duplicate",
            Outcome::LiveOnly => "live-only",
            Outcome::Dropped => "dropped",
            Outcome::Accepted => "accepted",
        };
        if global.json {
            output::json(&json!({"outcome": name}))?;
        } else if !self.quiet && outcome != Outcome::Stored {
            output::note(match outcome {
                Outcome::Duplicate => "this id was published before: stored once, not again",
                Outcome::LiveOnly => "no queue captures this channel: only live subscribers heard it",
                _ => "a full queue's policy dropped the message",
            });
        }
        Ok(Exit::Ok)
    }

    /// Says once that the broker keeps the message and waits for its upstream, where that takes a moment; never ends.
    async fn tell_interim(&self, client: &Client, id: Id) -> Result<Outcome, CliError> {
        while client.stats().accepted == 0 {
            smol::Timer::after(INTERIM_LOOK).await;
        }
        if !self.quiet {
            let kept = "the broker keeps the message and waits for its upstream";
            output::note(&match id {
                Id::Given(id) => format!("{kept}; `tidegate request '$status/{id}'` tells later what became of it"),
                Id::Auto | Id::None => kept.into(),
            });
        }
        std::future::pending().await
    }

    async fn publish_lines(
        &self,
        client: &Client,
        global: &Global,
        making: &Making,
        refusals: &Mutex<Refusals>,
    ) -> Result<Exit, CliError> {
        let started = clock::mono();
        let progress = self.progress();
        let mut input = BufReader::with_capacity(READ_BYTES, self.input()?);
        let mut line = Vec::new();
        let (mut count, mut bytes) = (0u64, 0u64);
        // One message is made and its payload changed: its properties need not be encoded for each line.
        let template = self.message(b"", making)?;
        loop {
            line.clear();
            let read = input.read_until(b'\n', &mut line).await.map_err(cannot_read)?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            let mut message = template.clone();
            message.payload = &line;
            client.send(&message).await?;
            count += 1;
            if count.is_multiple_of(1_024) {
                progress.set_position(bytes);
                progress.set_message(HumanCount(client.stats().stored).to_string());
            }
        }
        progress.set_position(bytes);
        let stats = client.flush().await?;
        progress.finish_and_clear();
        client.close().await;
        let elapsed_ms = clock::mono().ms_since(started).max(1);
        self.report(global, count, &stats, elapsed_ms)?;
        let refusals = refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.result(count)
    }

    fn progress(&self) -> ProgressBar {
        let total = self.file.as_ref().and_then(|f| std::fs::metadata(f).ok()).map(|m| m.len()).filter(|n| *n > 0);
        let (bar, template) = match total {
            Some(total) => {
                (ProgressBar::new(total), "{bar:30} {percent:>3}%  {msg} stored  {bytes_per_sec}  {eta} left")
            }
            None => (ProgressBar::new_spinner(), "{spinner} {msg} stored  {bytes}  {bytes_per_sec}"),
        };
        if self.quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }

    fn report(&self, global: &Global, count: u64, stats: &Stats, elapsed_ms: u64) -> Result<(), CliError> {
        let rate = count * 1_000 / elapsed_ms;
        if global.json {
            return output::json(&json!({
                "messages": count, "stored": stats.stored, "duplicates": stats.duplicates,
                "live_only": stats.live_only, "dropped": stats.dropped, "failed": stats.failed,
                "elapsed_ms": elapsed_ms, "messages_per_second": rate, "reconnects": stats.sessions - 1,
            }));
        }
        if !self.quiet {
            let mut text = format!("{} messages in {:.1} s", show_count(count), elapsed_ms as f64 / 1_000.0);
            text.push_str(&format!(" ({}/s): {} stored", show_count(rate), show_count(stats.stored)));
            for (number, what) in [
                (stats.duplicates, "already there"),
                (stats.live_only, "to live subscribers only"),
                (stats.dropped, "dropped by a full queue's policy"),
                (stats.failed, "failed"),
                (stats.sessions - 1, "reconnects"),
            ] {
                if number > 0 {
                    text.push_str(&format!(", {} {what}", show_count(number)));
                }
            }
            output::note(&text);
        }
        Ok(())
    }
}

fn cannot_read(error: std::io::Error) -> CliError {
    CliError::failure(format!("the input cannot be read: {error}"))
}

/// Messages that failed, and the first reasons.
#[derive(Default)]
struct Refusals {
    count: u64,
    first: Option<ClientError>,
}

impl Refusals {
    fn add(&mut self, count: u64, error: &ClientError) {
        if self.count < TOLD_MAX {
            log::debug!("{count} messages failed: {error}");
        }
        self.count += count;
        self.first.get_or_insert_with(|| error.clone());
    }

    fn result(&self, of: u64) -> Result<Exit, CliError> {
        match &self.first {
            None => Ok(Exit::Ok),
            Some(first) => {
                let CliError { exit, message } = first.clone().into();
                let count = show_count(self.count);
                Err(CliError::new(exit, format!("{count} of {} messages failed; the first: {message}", show_count(of))))
            }
        }
    }
}
