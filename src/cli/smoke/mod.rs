//! `smoke`: the product's self-test on any box.

mod bridge;

use super::Global;
use super::connect::{NO_QUERY, admin, block_on, client, options};
use super::exit::{CliError, Exit};
use super::output;
use super::spawned::{Folder, Spawned};
use super::units::duration;
use crate::client::{
    Address, Client, ClientError, ConsumeOptions, Consumer, Delivery, Heard, Id, Message, Options, Retry,
    SubscribeOptions,
};
use crate::model::MessageId;
use crate::model::admin::{STATUS, Status};
use crate::runtime::clock;
use crate::runtime::signals::Listening;
use crate::wire::{Code, Contract, Outcome};
use serde_json::json;
use smol::LocalExecutor;
use smol::future::FutureExt as _;
use std::fmt::Display;
use std::time::Duration;

const HELP: &str = "Example:
  tidegate smoke
It starts this program as a broker on a free port in a temporary folder, publishes, kills it hard, starts it again \
and consumes; then an edge forwards to a hub that is killed in the middle and comes back. One line a check. Exit code \
0 means that every promise held on this box.";

/// Messages under way when the broker is killed.
const MESSAGES: u32 = 5_000;
/// Of them, how many must be acknowledged before the kill.
const BEFORE_KILL: u64 = 1_000;
/// Longest wait for something that must not come.
const NOTHING: Duration = Duration::from_millis(300);

const CONFIG: &str = r##"name: smoke
listen:
  tcp: ["127.0.0.1:0"]
queues:
  - name: orders
    capture: ["order/#"]
  - name: tiny
    capture: ["tiny/#"]
    limits:
      messages: 3
  - name: fails
    capture: ["fail/#"]
    consumer:
      attempts: 2
      backoff: 10ms
log:
  level: info
"##;

/// Arguments of `smoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Smoke {
    /// Give up after so long
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    timeout: Duration,
    /// Leave the temporary folder behind, with the broker's data and log
    #[arg(long)]
    keep: bool,
}

impl Smoke {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        let folder = Folder::new("smoke", self.keep)?;
        let config = folder.path.join("smoke.yaml");
        std::fs::write(&config, CONFIG)
            .map_err(|e| CliError::failure(format!("{} cannot be written: {e}", config.display())))?;
        let mut signals = Listening::start().map_err(|e| CliError::failure(format!("signals cannot be heard: {e}")))?;
        let result = block_on(async |executor| {
            let mut test = Test { json: global.json, began: clock::mono(), step: clock::mono(), checks: 0, failed: 0 };
            let late = async {
                smol::Timer::after(self.timeout).await;
                Err(CliError::new(Exit::Timeout, format!("the checks took longer than {:?}", self.timeout)))
            };
            let interrupted = async {
                // However the signals end, the broker must not be left behind.
                let _ = signals.next().await;
                Err(CliError::new(Exit::Interrupted, "interrupted"))
            };
            let all = async {
                test.all(&executor, &folder, &config).await?;
                test.outage(&executor, self.keep).await
            };
            all.or(late).or(interrupted).await?;
            test.end()
        });
        if self.keep {
            output::note(&format!("kept in {} (and those of the edge and the hub beside it)", folder.path.display()));
        }
        result
    }
}

struct Test {
    json: bool,
    began: crate::model::Mono,
    step: crate::model::Mono,
    checks: u32,
    failed: u32,
}

impl Test {
    /// Prints one check: what holds, or why it does not.
    fn check(&mut self, what: &str, result: Result<(), String>) -> Result<(), CliError> {
        let ms = clock::mono().ms_since(self.step);
        self.step = clock::mono();
        self.checks += 1;
        self.failed += u32::from(result.is_err());
        let detail = result.as_ref().err();
        if self.json {
            return output::json(&json!({"check": what, "ok": result.is_ok(), "ms": ms, "detail": detail}));
        }
        match detail {
            None => output::line(format!("ok    {what} ({ms} ms)")),
            Some(why) => output::line(format!("FAIL  {what}: {why} ({ms} ms)")),
        }
    }

    fn end(self) -> Result<Exit, CliError> {
        let ms = clock::mono().ms_since(self.began);
        if self.json {
            output::json(&json!({"ok": self.failed == 0, "checks": self.checks, "failed": self.failed, "ms": ms}))?;
        } else if self.failed == 0 {
            output::line(format!("all {} checks hold ({ms} ms)", self.checks))?;
        } else {
            output::line(format!("{} of {} checks failed ({ms} ms)", self.failed, self.checks))?;
        }
        Ok(if self.failed == 0 { Exit::Ok } else { Exit::Failure })
    }

    async fn all(
        &mut self,
        executor: &LocalExecutor<'static>,
        folder: &Folder,
        config: &std::path::Path,
    ) -> Result<(), CliError> {
        let mut broker = Spawned::start(folder, config).await?;
        self.check("the broker starts and listens", Ok(()))?;
        let tcp = connect(executor, broker.tcp.clone(), Retry::Never).await?;
        let unix = connect(executor, broker.unix.clone(), Retry::Never).await?;
        let status: Status = admin(&unix, STATUS, NO_QUERY).await?;
        let found = same("smoke", &status.name);
        self.check("clients connect over TCP and Unix socket, and the owner may administer it", found)?;

        self.check("a message is acknowledged once it is on disk", first_publish(&tcp).await)?;
        let id = MessageId([7; 16]);
        let twice = async { format!("{:?} {:?}", publish_id(&tcp, id).await, publish_id(&tcp, id).await) };
        self.check(
            "a message published twice under one id is stored once",
            same("Ok(Stored) Ok(Duplicate)", twice.await),
        )?;
        self.check("a full queue refuses, and says so", full_queue(&tcp).await)?;
        self.check("a retained value is kept", retain(&tcp).await)?;
        self.check(
            "what was not acknowledged is delivered again, and flagged",
            redelivery(executor, &unix, &broker).await,
        )?;
        self.check("what keeps failing becomes a dead letter", dead_letter(&unix).await)?;

        // Publishing goes on while the broker is killed.
        let publisher = connect(executor, broker.unix.clone(), Retry::Forever).await?;
        let sending = publisher.clone();
        let sent = executor.spawn(async move { send_all(&sending).await });
        while publisher.stats().stored < BEFORE_KILL {
            smol::Timer::after(Duration::from_millis(1)).await;
        }
        broker.kill();
        let acknowledged = publisher.stats().stored;
        self.check(&format!("it is killed hard with {acknowledged} messages acknowledged"), Ok(()))?;
        let broker = Spawned::start(folder, config).await?;
        self.check("it starts again on what the kill left", Ok(()))?;
        let finished = sent.await.map_err(|e| e.to_string());
        self.check("the publisher reconnects and finishes by itself", finished)?;
        let unix = connect(executor, broker.unix.clone(), Retry::Never).await?;
        self.check("every message is there, once and in order", in_order(&unix).await)?;
        let again = format!("{:?}", publish_id(&unix, id).await);
        self.check("an id is remembered over the kill", same("Ok(Duplicate)", again))?;
        self.check("the retained value is remembered over the kill", retained(&unix).await)?;
        self.check("what was acknowledged by a consumer does not come again", nothing_left(&unix).await)?;
        for client in [&tcp, &unix, &publisher] {
            client.close().await;
        }
        self.check("it stops in order", broker.stop().await.map_err(|e| e.message))?;
        Ok(())
    }
}

fn same(expected: &str, found: impl Display) -> Result<(), String> {
    let found = found.to_string();
    if found == expected { Ok(()) } else { Err(format!("expected {expected}, found {found}")) }
}

fn told(error: ClientError) -> String {
    error.to_string()
}

async fn connect(executor: &LocalExecutor<'static>, address: Address, retry: Retry) -> Result<Client, CliError> {
    let options = Options { retry, backoff_ms: 5, backoff_ms_max: 50, ..options("smoke") };
    client(executor, address, options, None).await
}

async fn first_publish(client: &Client) -> Result<(), String> {
    let mut message = Message::new("order/first", b"first").map_err(told)?;
    message.contract = Contract::Disk;
    same("Stored", format!("{:?}", client.publish(&message).await.map_err(told)?))
}

async fn publish_id(client: &Client, id: MessageId) -> Result<Outcome, String> {
    let mut message = Message::new("order/once", b"once").map_err(told)?;
    message.id = Id::Given(id);
    client.publish(&message).await.map_err(told)
}

async fn full_queue(client: &Client) -> Result<(), String> {
    let message = Message::new("tiny/x", b"x").map_err(told)?;
    for _ in 0..3 {
        client.publish(&message).await.map_err(told)?;
    }
    match client.publish(&message).await {
        Err(ClientError::Refused(refusal)) if refusal.code == Some(Code::QueueFull) => Ok(()),
        other => Err(format!("the fourth message to a queue of three gave {other:?}")),
    }
}

async fn retain(client: &Client) -> Result<(), String> {
    let mut message = Message::new("state/valve", b"open").map_err(told)?;
    message.retain = true;
    client.publish(&message).await.map_err(told)?;
    retained(client).await
}

async fn retained(client: &Client) -> Result<(), String> {
    let options = SubscribeOptions { retained: true, ..SubscribeOptions::default() };
    let mut subscription = client.subscribe("state/#", options).await.map_err(told)?;
    match subscription.next().await.map_err(told)? {
        Heard::Message(m) if m.retained => same("open", String::from_utf8_lossy(m.payload())),
        other => Err(format!("heard {other:?}")),
    }
}

/// A session takes a message and goes without answering; the next one gets it again.
async fn redelivery(executor: &LocalExecutor<'static>, client: &Client, broker: &Spawned) -> Result<(), String> {
    let gone = connect(executor, broker.unix.clone(), Retry::Never).await.map_err(|e| e.message)?;
    let mut consumer = gone.consume("orders", "check", ConsumeOptions::default()).await.map_err(told)?;
    let first = consumer.next().await.map_err(told)?;
    if first.message.redelivered {
        return Err("the first delivery was flagged as a second one".into());
    }
    drop(consumer);
    gone.close().await;
    let mut consumer = client.consume("orders", "check", ConsumeOptions::default()).await.map_err(told)?;
    let again = consumer.next().await.map_err(told)?;
    consumer.ack(&again);
    let second = consumer.next().await.map_err(told)?;
    consumer.ack(&second);
    let found = (again.message.seq, again.message.redelivered);
    same(&format!("{:?}", (first.message.seq, true)), format!("{found:?}"))
}

async fn dead_letter(client: &Client) -> Result<(), String> {
    let message = Message::new("fail/x", b"bad").map_err(told)?;
    client.publish(&message).await.map_err(told)?;
    let mut consumer = client.consume("fails", "never", ConsumeOptions::default()).await.map_err(told)?;
    for attempt in 1..=2 {
        let delivery = consumer.next().await.map_err(told)?;
        same(&attempt.to_string(), delivery.message.attempt)?;
        consumer.nack(&delivery, 0, false, "smoke");
    }
    // The queue of dead letters is there once the first of them is on disk; the whole test has a time limit.
    let mut dead = loop {
        match client.consume("$dead/fails", "undertaker", ConsumeOptions::default()).await {
            Ok(dead) => break dead,
            Err(ClientError::Refused(r)) if r.code == Some(Code::UnknownQueue) => {
                smol::Timer::after(Duration::from_millis(5)).await;
            }
            Err(e) => return Err(told(e)),
        }
    };
    let letter = dead.next().await.map_err(told)?;
    dead.ack(&letter);
    same("bad", String::from_utf8_lossy(letter.message.payload()))
}

async fn send_all(client: &Client) -> Result<(), ClientError> {
    for number in 0..MESSAGES {
        client.send(&Message::new("order/many", &number.to_be_bytes())?).await?;
        // Not so fast that the broker cannot be killed in the middle.
        if number % 100 == 99 {
            smol::Timer::after(Duration::from_millis(1)).await;
        }
    }
    client.flush().await.map(drop)
}

async fn next_within(consumer: &mut Consumer, limit: Duration) -> Result<Option<Vec<Delivery>>, String> {
    let batch = async { consumer.next_batch().await.map(Some) };
    let quiet = async {
        smol::Timer::after(limit).await;
        Ok(None)
    };
    batch.or(quiet).await.map_err(told)
}

async fn in_order(client: &Client) -> Result<(), String> {
    let options = ConsumeOptions { filters: vec!["order/many".into()], ..ConsumeOptions::default() };
    let mut consumer = client.consume("orders", "reader", options).await.map_err(told)?;
    let mut expected = 0u32;
    while expected < MESSAGES {
        let Some(batch) = next_within(&mut consumer, Duration::from_secs(3)).await? else {
            return Err(format!("{expected} came, {MESSAGES} were acknowledged"));
        };
        for delivery in &batch {
            let found = delivery.message.payload().try_into().map(u32::from_be_bytes).unwrap_or(u32::MAX);
            if found != expected {
                return Err(format!("number {found} came where {expected} was due"));
            }
            expected += 1;
        }
        consumer.ack_all(&batch);
    }
    match next_within(&mut consumer, NOTHING).await? {
        None => Ok(()),
        Some(more) => Err(format!("{} more came than were published", more.len())),
    }
}

async fn nothing_left(client: &Client) -> Result<(), String> {
    let options = ConsumeOptions { filters: vec!["order/many".into()], ..ConsumeOptions::default() };
    let mut consumer = client.consume("orders", "reader", options).await.map_err(told)?;
    match next_within(&mut consumer, NOTHING).await? {
        None => Ok(()),
        Some(again) => Err(format!("{} came again", again.len())),
    }
}
