//! `consume`: a queue, durably: each message is acknowledged once it is printed, written or handled.

use super::Global;
use super::connect::{block_on, client, tell_of_breaks};
use super::end_to_end::{CheckArgs, Checking};
use super::exit::{CliError, Exit};
use super::messages::{Form, as_json};
use super::output;
use super::units::{duration, show_count, some_ms};
use crate::client::{Client, ConsumeOptions, Consumer, Delivery, Incoming};
use crate::runtime::clock;
use crate::wire::Start;
use serde_json::json;
use smol::future::FutureExt as _;
use smol::io::AsyncWriteExt as _;
use smol::process::{Command, Stdio};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "Examples:
  tidegate consume main --as dashboard
  tidegate consume main --as billing --filter 'order/#' --exec './bill.sh'
  tidegate consume main --as copy --out copy.txt --idle 2s
Several processes that use the same --as, with the same filters, share the queue. --exec runs the command with \
`sh -c` for each message, the payload on its standard input and TIDEGATE_CHANNEL, TIDEGATE_ID, TIDEGATE_SEQ, \
TIDEGATE_EPOCH, TIDEGATE_ATTEMPT, TIDEGATE_PRIORITY in its environment, and TIDEGATE_MESSAGE, all of it as JSON, \
if that is at most 64 KiB; exit code 0 acknowledges, any other tries again later. --out writes each message once \
while it runs, even if it is delivered again; after a start, those come again that were not yet acknowledged. With --verify \
and --open, messages that are not signed or sealed as demanded become dead letters, are told on standard error, and \
the command ends with exit code 1.";

/// Longest JSON handed over as TIDEGATE_MESSAGE: Linux starts no program with a variable of 128 KiB.
const ENVIRONMENT_BYTES_MAX: usize = 64 * 1_024;
/// How long --until-empty waits for another message.
const EMPTY_AFTER: Duration = Duration::from_secs(1);

/// Arguments of `consume`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct ConsumeArgs {
    /// The queue
    queue: String,
    /// Name of the durable consumer: its position is kept under it
    #[arg(long = "as", value_name = "NAME")]
    name: String,
    /// Take only what matches; may be repeated
    #[arg(long, value_name = "FILTER", value_parser = crate::cli::units::filter)]
    filter: Vec<String>,
    /// Run this for each message; it is acknowledged when the command succeeds
    #[arg(long, value_name = "COMMAND", conflicts_with = "out")]
    exec: Option<String>,
    /// Append each payload and a newline to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print payloads only
    #[arg(long)]
    raw: bool,
    /// End after so many messages
    #[arg(long, short, value_name = "N")]
    count: Option<u64>,
    /// End when nothing came for so long; a broken connection does not count
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    idle: Option<Duration>,
    /// End when nothing came for a second
    #[arg(long, conflicts_with = "idle")]
    until_empty: bool,
    /// Begin a new consumer with what is stored from now on
    #[arg(long)]
    new: bool,
    /// Deliveries under way over all sessions of this name [default: the queue's]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    window: u32,
    /// Attempts before a message becomes a dead letter [default: the queue's]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    attempts: u32,
    /// First delay before a message is tried again [default: the queue's]
    #[arg(long, value_name = "DURATION", value_parser = some_ms)]
    backoff: Option<u32>,
    /// Deliver again what was not acknowledged for so long
    #[arg(long, value_name = "DURATION", value_parser = some_ms)]
    ack_timeout: Option<u32>,
    #[command(flatten)]
    check: CheckArgs,
}

impl ConsumeArgs {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        let address = global.address()?;
        let mut checking = self.check.load()?;
        let mut sink = match (&self.exec, &self.out) {
            (Some(command), _) => Sink::Exec(command.clone()),
            (None, Some(path)) => Sink::File(path.clone(), open(path)?, Written::default()),
            (None, None) => Sink::Print(Form::pick(global.json, self.raw)),
        };
        block_on(async |executor| {
            let client = client(&executor, address, global.options("consume"), None).await?;
            tell_of_breaks(&executor, &client);
            let one = ConsumeOptions::default();
            // What will not be taken must not be fetched away from other sessions of the same name.
            let wanted = self.count.map_or(one.credit_messages, |n| u32::try_from(n).unwrap_or(u32::MAX));
            let credit = if self.exec.is_some() { 16 } else { one.credit_messages };
            let options = ConsumeOptions {
                filters: self.filter.clone(),
                start: if self.new { Start::New } else { Start::First },
                window: self.window,
                attempts_max: self.attempts,
                ack_timeout_ms: self.ack_timeout.unwrap_or(0),
                backoff_ms: self.backoff.unwrap_or(0),
                credit_messages: credit.min(wanted).max(1),
                ..one
            };
            let mut consumer = client.consume(&self.queue, &self.name, options).await?;
            let started = clock::mono();
            let result = self.take(&client, &mut consumer, &mut sink, &mut checking).await;
            drop(consumer);
            client.close().await;
            let totals = result?;
            if let Sink::File(path, file, _) = &sink {
                file.sync_all().map_err(|e| cannot_write(path, &e))?;
            }
            if !matches!(sink, Sink::Print(_)) {
                let elapsed_ms = clock::mono().ms_since(started).max(1);
                totals.report(global.json, elapsed_ms)?;
            }
            checking.end()
        })
    }

    async fn take(
        &self,
        client: &Client,
        consumer: &mut Consumer,
        sink: &mut Sink,
        checking: &mut Checking,
    ) -> Result<Totals, CliError> {
        let idle = self.idle.or(self.until_empty.then_some(EMPTY_AFTER));
        let mut totals = Totals::default();
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut heard = clock::mono();
        while left > 0 {
            let quiet = async {
                match idle {
                    Some(idle) => drop(smol::Timer::after(idle).await),
                    None => std::future::pending().await,
                }
                None
            };
            let Some(batch) = async { Some(consumer.next_batch().await) }.or(quiet).await else {
                let idle_ms = idle.map_or(0, |i| i.as_millis() as u64);
                // A broker that is away, or came back a moment ago, has not said that there is nothing more.
                if client.connected_for_ms().is_some_and(|ms| ms >= idle_ms) && clock::mono().ms_since(heard) >= idle_ms
                {
                    break;
                }
                continue;
            };
            let mut batch = batch?;
            batch.retain_mut(|delivery| match checking.check(&mut delivery.message) {
                Ok(()) => true,
                Err(why) => {
                    // It will not become better by being delivered again: a dead letter can be looked at.
                    consumer.nack(delivery, 0, true, &why);
                    false
                }
            });
            batch.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= sink.take(consumer, &batch, &mut totals).await?;
            heard = clock::mono();
        }
        Ok(totals)
    }
}

#[derive(Default)]
struct Totals {
    done: u64,
    failed: u64,
    again: u64,
}

impl Totals {
    fn report(&self, json: bool, elapsed_ms: u64) -> Result<(), CliError> {
        let rate = self.done * 1_000 / elapsed_ms;
        if json {
            return output::json(&json!({
                "messages": self.done, "failed": self.failed, "seen_again": self.again,
                "elapsed_ms": elapsed_ms, "messages_per_second": rate,
            }));
        }
        let mut text = format!("{} messages in {:.1} s", show_count(self.done), elapsed_ms as f64 / 1_000.0);
        text.push_str(&format!(" ({}/s)", show_count(rate)));
        for (number, what) in [(self.failed, "failures"), (self.again, "delivered again and skipped")] {
            if number > 0 {
                text.push_str(&format!(", {} {what}", show_count(number)));
            }
        }
        output::note(&text);
        Ok(())
    }
}

/// Where messages go.
enum Sink {
    Print(Form),
    File(PathBuf, File, Written),
    Exec(String),
}

impl Sink {
    /// Takes a batch, acknowledges what is done, and tells how many messages counted.
    async fn take(&mut self, consumer: &Consumer, batch: &[Delivery], totals: &mut Totals) -> Result<u64, CliError> {
        let mut counted = 0;
        match self {
            Self::Print(form) => {
                for delivery in batch {
                    form.print(&delivery.message)?;
                    consumer.ack(delivery);
                    counted += 1;
                }
            }
            Self::File(path, file, written) => {
                let mut text = Vec::new();
                for Delivery { message, .. } in batch {
                    if written.insert(message) {
                        text.extend_from_slice(message.payload());
                        text.push(b'\n');
                        counted += 1;
                    } else {
                        totals.again += 1;
                    }
                }
                // First written, then acknowledged: a death between the two is a redelivery, not a loss.
                file.write_all(&text).map_err(|e| cannot_write(path, &e))?;
                consumer.ack_all(batch);
            }
            Self::Exec(command) => {
                for delivery in batch {
                    match execute(command, &delivery.message).await? {
                        None => {
                            consumer.ack(delivery);
                            counted += 1;
                        }
                        Some(reason) => {
                            consumer.nack(delivery, 0, false, &reason);
                            output::note(&format!("{}: {reason}", delivery.message.channel()));
                            totals.failed += 1;
                        }
                    }
                }
            }
        }
        totals.done += counted;
        Ok(counted)
    }
}

/// Runs the command for one message; tells why it failed.
async fn execute(command: &str, message: &Incoming) -> Result<Option<String>, CliError> {
    let record = message.record();
    let mut shell = Command::new("sh");
    let json = as_json(message).to_string();
    if json.len() <= ENVIRONMENT_BYTES_MAX {
        shell.env("TIDEGATE_MESSAGE", json);
    } else {
        shell.env_remove("TIDEGATE_MESSAGE");
    }
    let mut child = shell
        .arg("-c")
        .arg(command)
        .env("TIDEGATE_CHANNEL", record.channel.as_str())
        .env("TIDEGATE_ID", if record.id.is_none() { String::new() } else { record.id.to_string() })
        .env("TIDEGATE_SEQ", message.seq.to_string())
        .env("TIDEGATE_EPOCH", format!("{:016x}", message.epoch))
        .env("TIDEGATE_ATTEMPT", message.attempt.to_string())
        .env("TIDEGATE_PRIORITY", record.priority.get().to_string())
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|e| CliError::failure(format!("the command cannot be started: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input says by its exit code whether it succeeded.
        let _ = stdin.write_all(record.payload).await;
    }
    let status =
        child.status().await.map_err(|e| CliError::failure(format!("the command cannot be waited for: {e}")))?;
    Ok((!status.success()).then(|| format!("the command failed: {status}")))
}

fn open(path: &PathBuf) -> Result<File, CliError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|e| cannot_write(path, &e))
}

fn cannot_write(path: &std::path::Path, error: &std::io::Error) -> CliError {
    CliError::failure(format!("{} cannot be written: {error}", path.display()))
}

/// Which messages were written, as runs of sequences a lane.
#[derive(Debug, Default)]
struct Written {
    /// First sequence of a run to its last, by epoch and lane.
    lanes: BTreeMap<(u64, u8), BTreeMap<u64, u64>>,
}

impl Written {
    /// Runs remembered a lane. Filters leave gaps; the oldest runs are forgotten, as what was acknowledged long ago does
    /// not come again.
    const RUNS_MAX: usize = 65_536;

    /// Notes a message; false when it was noted before.
    fn insert(&mut self, message: &Incoming) -> bool {
        self.insert_key(message.epoch, message.lane, message.seq)
    }

    fn insert_key(&mut self, epoch: u64, lane: u8, seq: u64) -> bool {
        // Without a sequence there is nothing to tell two of them apart by.
        if seq == 0 {
            return true;
        }
        let runs = self.lanes.entry((epoch, lane)).or_default();
        let before = runs.range(..=seq).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= seq) {
            return false;
        }
        let last = runs.remove(&(seq + 1)).unwrap_or(seq);
        let first = before.filter(|(_, last)| last + 1 == seq).map_or(seq, |(first, _)| first);
        runs.insert(first, last);
        if runs.len() > Self::RUNS_MAX {
            runs.pop_first();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sequence_of_a_lane_is_written_once() {
        let mut written = Written::default();
        let order = [5, 6, 8, 7, 6, 8, 9, 3];
        let new: Vec<bool> = order.iter().map(|seq| written.insert_key(1, 0, *seq)).collect();
        assert_eq!(new, [true, true, true, true, false, false, true, true]);
        assert!(written.lanes[&(1, 0)].iter().eq([(&3, &3), (&5, &9)]));
        assert!(written.insert_key(1, 1, 5) && written.insert_key(2, 0, 5));
    }
}
