//! `bench`: loads a broker and measures it: messages a second, latencies, bytes written and CPU a message.
//!
//! Everything runs on one thread, so that the generator's own cost is known and told: where it comes near one core, the
//! figures are the generator's, not the broker's.

mod load;
mod measure;

use super::Global;
use super::connect::{block_on, client};
use super::exit::{CliError, Exit};
use super::output;
use super::publish::ContractArg;
use super::spawned::{Folder, Spawned};
use super::tls::{Authority, write};
use super::units::duration;
use crate::client::{Address, Client, ClientError, ConsumeOptions, Options, Retry, SubscribeOptions};
use crate::runtime::clock;
use crate::runtime::signals::Listening;
use load::{Pace, Plan, Readers};
use measure::{Cost, Report};
use smol::LocalExecutor;
use smol::future::FutureExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

const HELP: &str = "Examples:
  tidegate bench --spawn                                  a broker of its own in a temporary folder
  tidegate bench --spawn --tls                            the same over TLS
  tidegate bench --publishers 8 --window 100 --size 256 --contract disk --duration 10s
  tidegate bench --publishers 1 --window 1 --count 2000   one message at a time
  tidegate bench --subscribers 100 --contract memory      fan-out
  tidegate bench --consumers 2 --queue main --json
Publish latency is from handing a message over to its acknowledgement; delivery latency from there to a subscriber \
or consumer of this process.";

/// Longest wait for readers to get what was published, without any progress.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Arguments of `bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Bench {
    /// Publishing connections
    #[arg(long, short, value_name = "N", default_value_t = 8)]
    publishers: usize,
    /// Messages a publisher has unacknowledged
    #[arg(long, short, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    window: usize,
    /// Bytes of a payload
    #[arg(long, short, value_name = "BYTES", default_value_t = 256)]
    size: usize,
    /// What must have happened before a message is acknowledged
    #[arg(long, value_enum, default_value_t = ContractArg::Disk)]
    contract: ContractArg,
    /// Publish without ids: the broker does not look for duplicates
    #[arg(long)]
    no_id: bool,
    /// Live subscribers; each hears every message
    #[arg(long, value_name = "N", default_value_t = 0)]
    subscribers: usize,
    /// Each subscriber hears one publisher only, in turn
    #[arg(long)]
    one_to_one: bool,
    /// Sessions of one durable consumer, which share the messages
    #[arg(long, value_name = "N", default_value_t = 0)]
    consumers: usize,
    /// The queue consumed
    #[arg(long, value_name = "QUEUE", default_value = "main")]
    queue: String,
    /// Channel published on, with the publisher's number behind it
    #[arg(long, value_name = "CHANNEL", default_value = "bench")]
    channel: String,
    /// Publish so many messages in all
    #[arg(long, short, value_name = "N", conflicts_with = "duration")]
    count: Option<u64>,
    /// Publish for so long [default: 10s]
    #[arg(long, short, value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,
    /// Publish so many messages a second in all, instead of as fast as it goes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Start a broker in a temporary folder and stop it afterwards
    #[arg(long)]
    spawn: bool,
    /// Configuration of that broker
    #[arg(long, value_name = "FILE", requires = "spawn")]
    config: Option<PathBuf>,
    /// Connect to that broker over TLS, with a certificate made for it
    #[arg(long, requires = "spawn", conflicts_with = "config")]
    tls: bool,
    /// Connect to that broker over TCP [default: over its Unix socket]
    #[arg(long, requires = "spawn", conflicts_with = "tls")]
    tcp: bool,
    /// Process of the broker, for its CPU and memory [default: found by its Unix socket]
    #[arg(long, value_name = "PID", conflicts_with = "spawn")]
    pid: Option<u32>,
}

const CONFIG: &str = "listen:\n  tcp: [\"127.0.0.1:0\"]\nlog:\n  level: warn\n";

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a number from 1".into())
}

/// What is loaded.
struct Target {
    address: Address,
    options: Options,
}

impl Bench {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        if self.publishers == 0 {
            return Err(CliError::usage("there is nothing to measure: give at least one of --publishers"));
        }
        let mut signals = Listening::start().map_err(|e| CliError::failure(format!("signals cannot be heard: {e}")))?;
        // The spawned broker and its folder go with them, however this ends.
        let folder = if self.spawn { Some(Folder::new("bench", false)?) } else { None };
        block_on(async |executor| {
            let interrupted = async {
                let _ = signals.next().await;
                Err(CliError::new(Exit::Interrupted, "interrupted"))
            };
            let report = async {
                match &folder {
                    None => {
                        self.measure(
                            &executor,
                            &Target { address: global.address()?, options: global.options("bench") },
                            self.pid,
                        )
                        .await
                    }
                    Some(folder) => {
                        let mut options = global.options("bench");
                        let config = match &self.config {
                            Some(config) => config.clone(),
                            None => self.configuration(folder, &mut options)?,
                        };
                        let broker = Spawned::start(folder, &config).await?;
                        let over_tcp = self.tcp.then(|| broker.tcp.clone());
                        let address = if self.tls { broker.tls.clone() } else { over_tcp };
                        let address = address.unwrap_or_else(|| broker.unix.clone());
                        let target = Target { address, options };
                        let report = self.measure(&executor, &target, Some(broker.pid())).await?;
                        broker.stop().await?;
                        Ok(report)
                    }
                }
            };
            let report = report.or(interrupted).await?;
            if global.json {
                output::json(&report.json())?;
            } else {
                output::raw(report.text().as_bytes())?;
            }
            if report.failed > 0 || report.missing() > 0 {
                let text = format!("{} publishes failed, {} deliveries are missing", report.failed, report.missing());
                return Err(CliError::failure(text));
            }
            Ok(Exit::Ok)
        })
    }

    /// Writes a configuration for the spawned broker, with a certificate where it speaks TLS.
    fn configuration(&self, folder: &Folder, options: &mut Options) -> Result<PathBuf, CliError> {
        let mut config = CONFIG.to_owned();
        if self.tls {
            let authority = Authority::new("bench")?;
            let made = authority.server(&["127.0.0.1".into()], 1)?;
            let (ca, chain, key) = (folder.path.join("ca.pem"), folder.path.join("s.pem"), folder.path.join("s.key"));
            write(&ca, authority.pem.as_bytes(), 0o644)?;
            write(&chain, made.pem.as_bytes(), 0o644)?;
            write(&key, made.key.as_bytes(), 0o600)?;
            let (chain, key) = (chain.display(), key.display());
            config = config.replace("log:", "  tls: [\"127.0.0.1:0\"]\nlog:");
            config += &format!("tls:\n  certificates: [\"{chain}\"]\n  keys: [\"file:{key}\"]\n");
            options.tls.ca = vec![ca];
        }
        let path = folder.path.join("bench.yaml");
        std::fs::write(&path, config).map_err(|e| CliError::failure(format!("{}: {e}", path.display())))?;
        Ok(path)
    }

    async fn measure(
        &self,
        executor: &Rc<LocalExecutor<'static>>,
        target: &Target,
        pid: Option<u32>,
    ) -> Result<Report, CliError> {
        let pid = pid.or_else(|| measure::pid_of(&target.address));
        let readers = Rc::new(Readers::default());
        let mut held = Vec::new();
        for i in 0..self.subscribers {
            let reader = self.client(executor, target).await?;
            let filter = if self.one_to_one {
                format!("{}/{}", self.channel, i % self.publishers)
            } else {
                format!("{}/#", self.channel)
            };
            let subscribe = SubscribeOptions { inbox_bytes_max: 64 * 1_024 * 1_024, ..SubscribeOptions::default() };
            let subscription = reader.subscribe(&filter, subscribe).await?;
            held.push(executor.spawn(load::hear(subscription, readers.clone())));
        }
        for _ in 0..self.consumers {
            let reader = self.client(executor, target).await?;
            let name = format!("bench-{}", std::process::id());
            let consume = ConsumeOptions {
                filters: vec![format!("{}/#", self.channel)],
                start: crate::wire::Start::New,
                ..ConsumeOptions::default()
            };
            let consumer = reader.consume(&self.queue, &name, consume).await?;
            held.push(executor.spawn(load::drain(consumer, readers.clone())));
        }
        let admin = self.client(executor, target).await?;
        let before = Cost::read(&admin, pid).await;
        let started = clock::mono();
        let pace = Pace::new(self.count, self.duration.unwrap_or(Duration::from_secs(10)), self.rate);
        let mut publishers = Vec::new();
        for number in 0..self.publishers {
            let plan = Plan {
                channel: format!("{}/{number}", self.channel),
                size: self.size,
                contract: self.contract.into(),
                id: !self.no_id,
                window: self.window,
            };
            publishers.push(load::publisher(executor, target, plan, pace.clone()).await?);
        }
        let mut published = load::Published::default();
        for publisher in publishers {
            published.add(publisher.await?);
        }
        let elapsed_us = clock::mono().0 - started.0;
        let expected = self.expected(&published.by_publisher);
        let complete = readers.reached(expected, CATCH_UP).await;
        let delivered_us = clock::mono().0 - started.0;
        let after = Cost::read(&admin, pid).await;
        drop(held);
        self.forget(&admin).await;
        admin.close().await;
        let mut report = Report::new(self, &published, elapsed_us, &before, &after);
        if self.subscribers + self.consumers > 0 {
            report.delivered(expected, &readers, delivered_us, complete);
        }
        Ok(report)
    }

    /// Deliveries there must be for what was stored.
    fn expected(&self, by_publisher: &[u64]) -> u64 {
        let all: u64 = by_publisher.iter().sum();
        let heard: u64 = if self.one_to_one {
            (0..self.subscribers).map(|i| by_publisher[i % self.publishers]).sum()
        } else {
            all * self.subscribers as u64
        };
        heard + if self.consumers > 0 { all } else { 0 }
    }

    async fn client(&self, executor: &LocalExecutor<'static>, target: &Target) -> Result<Client, CliError> {
        let options = Options { retry: Retry::Forever, ..target.options.clone() };
        client(executor, target.address.clone(), options, None).await
    }

    /// The durable consumer was for this run only; where this is not an administrator it stays and is told.
    async fn forget(&self, admin: &Client) {
        if self.consumers == 0 {
            return;
        }
        let query = crate::model::admin::ConsumerQuery {
            queue: self.queue.clone(),
            name: format!("bench-{}", std::process::id()),
        };
        let body = serde_json::to_vec(&query).unwrap_or_default();
        let asked = admin.request(crate::model::admin::CONSUMER_DELETE, &body, 5_000).await;
        if let Err(ClientError::Refused(_)) = asked {
            output::note(&format!("the consumer {} of {} stays behind: forget it by hand", query.name, query.queue));
        }
    }
}
