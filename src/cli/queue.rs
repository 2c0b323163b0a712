//! `queue`: what an administrator does with queues.

use super::Global;
use super::connect::{NO_QUERY, admin, block_on, client};
use super::exit::{CliError, Exit};
use super::output;
use super::units::{show_bytes, show_count, show_ms};
use crate::client::Client;
use crate::model::admin::{
    CONSUMER_DELETE, ConsumerQuery, Count, PEEK_MAX, PeekItem, PeekQuery, QUEUE_PEEK, QUEUE_PURGE, QUEUE_REPLAY,
    QUEUE_SHOW, QUEUES, QueueQuery, QueueStatus, ReplayQuery,
};
use crate::runtime::clock;
use std::cmp::Reverse;

/// What the dead letters of a queue are kept under.
const DEAD: &str = "$dead/";

/// Subcommands of `queue`. They need the broker's Unix socket, as its user or root.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Queue {
    /// List the queues
    #[command(after_help = "Example:
  tidegate queue ls")]
    Ls,
    /// Show one queue, its lanes and its consumers
    #[command(after_help = "Example:
  tidegate queue show main")]
    Show {
        /// The queue
        queue: String,
    },
    /// Look at messages without consuming them
    #[command(after_help = "Example:
  tidegate queue peek main --count 3 --lane 9")]
    Peek {
        /// The queue
        queue: String,
        #[command(flatten)]
        range: Range,
    },
    /// Look at the dead letters of a queue
    #[command(after_help = "Example:
  tidegate queue dead main")]
    Dead {
        /// The queue they died in
        queue: String,
        #[command(flatten)]
        range: Range,
    },
    /// Remove every message of a queue
    #[command(after_help = "Example:
  tidegate queue purge main --yes
  tidegate queue purge '$dead/main' --yes")]
    Purge {
        /// The queue
        queue: String,
        /// Yes, remove them
        #[arg(long)]
        yes: bool,
    },
    /// Move dead letters back into the queue they died in
    #[command(after_help = "Example:
  tidegate queue replay main --count 10")]
    Replay {
        /// The queue they died in
        queue: String,
        /// Most messages [default: all]
        #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Forget a durable consumer and its position
    #[command(after_help = "Example:
  tidegate queue forget main dashboard --yes")]
    Forget {
        /// The queue
        queue: String,
        /// The consumer
        consumer: String,
        /// Yes, forget it
        #[arg(long)]
        yes: bool,
    },
}

/// Which messages are looked at.
#[derive(Debug, clap::Args)]
pub(super) struct Range {
    /// Most messages, up to 1000
    #[arg(long, short, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(PEEK_MAX)))]
    count: u32,
    /// Only of this priority
    #[arg(long, value_name = "PRIORITY", value_parser = clap::value_parser!(u8).range(0..=9))]
    lane: Option<u8>,
}

impl Queue {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        match &self {
            Self::Purge { yes: false, queue } => {
                return Err(CliError::usage(format!("this removes every message of {queue}: add --yes to mean it")));
            }
            Self::Forget { yes: false, consumer, .. } => {
                return Err(CliError::usage(format!("this forgets where {consumer} stands: add --yes to mean it")));
            }
            _ => {}
        }
        let address = global.address()?;
        block_on(async |executor| {
            let client = client(&executor, address, global.options("queue"), None).await?;
            self.ask(&client, global.json).await?;
            client.close().await;
            Ok(Exit::Ok)
        })
    }

    async fn ask(self, client: &Client, json: bool) -> Result<(), CliError> {
        match self {
            Self::Ls => {
                let queues: Vec<QueueStatus> = admin(client, QUEUES, NO_QUERY).await?;
                if json {
                    return queues.iter().try_for_each(output::json);
                }
                output::raw(list(&queues).as_bytes())
            }
            Self::Show { queue } => {
                let status: QueueStatus = admin(client, QUEUE_SHOW, Some(&QueueQuery { name: queue })).await?;
                if json { output::json(&status) } else { output::raw(show(&status).as_bytes()) }
            }
            Self::Peek { queue, range } => peek(client, queue, range, json).await,
            Self::Dead { queue, range } => peek(client, format!("{DEAD}{queue}"), range, json).await,
            Self::Purge { queue, .. } => {
                let done: Count = admin(client, QUEUE_PURGE, Some(&QueueQuery { name: queue })).await?;
                told(done, "removed", json)
            }
            Self::Replay { queue, count } => {
                let done: Count = admin(client, QUEUE_REPLAY, Some(&ReplayQuery { name: queue, count })).await?;
                told(done, "moved back", json)
            }
            Self::Forget { queue, consumer, .. } => {
                let query = ConsumerQuery { queue, name: consumer };
                let done: Count = admin(client, CONSUMER_DELETE, Some(&query)).await?;
                if json { output::json(&done) } else { output::line("forgotten") }
            }
        }
    }
}

fn told(done: Count, what: &str, json: bool) -> Result<(), CliError> {
    if json {
        return output::json(&done);
    }
    output::line(format!("{} {} {what}", show_count(done.count), if done.count == 1 { "message" } else { "messages" }))
}

async fn peek(client: &Client, name: String, range: Range, json: bool) -> Result<(), CliError> {
    let mut lanes = vec![range.lane];
    if range.lane.is_none() {
        // The broker looks into one lane at a time.
        let queue: QueueStatus = admin(client, QUEUE_SHOW, Some(&QueueQuery { name: name.clone() })).await?;
        lanes = queue.lanes.iter().filter(|l| l.head < l.next).map(|l| Some(l.lane)).collect();
        lanes.sort_unstable_by_key(|lane| Reverse(*lane));
    }
    let mut items: Vec<PeekItem> = Vec::new();
    for lane in lanes {
        let left = range.count.saturating_sub(items.len() as u32);
        if left == 0 {
            break;
        }
        let query = PeekQuery { name: name.clone(), count: left, lane };
        items.extend(admin::<_, Vec<PeekItem>>(client, QUEUE_PEEK, Some(&query)).await?);
    }
    if json {
        return items.iter().try_for_each(output::json);
    }
    for item in items {
        let mut text = format!("{}:{} {} {}", item.lane, item.seq, item.channel, item.payload.as_str());
        for (key, value) in &item.properties {
            text.push_str(&format!(" {key}={value}"));
        }
        output::line(text)?;
    }
    Ok(())
}

/// Age of a queue's oldest message for people.
fn age(queue: &QueueStatus) -> String {
    match queue.oldest_ms {
        0 => "-".into(),
        oldest => show_ms(clock::wall().0.saturating_sub(oldest)),
    }
}

/// A queue's name as the other commands take it.
fn full_name(q: &QueueStatus) -> String {
    match (q.tenant.as_str(), q.name.strip_prefix(DEAD)) {
        ("", _) => q.name.clone(),
        (tenant, Some(of)) => format!("{DEAD}{tenant}/{of}"),
        (tenant, None) => format!("{tenant}/{}", q.name),
    }
}

/// A table of queues.
pub(super) fn list(queues: &[QueueStatus]) -> String {
    let head = ["QUEUE", "MESSAGES", "BYTES", "FULL", "OLDEST", "DELAYED", "DEAD", "CONSUMERS"].map(String::from);
    let mut rows = vec![head.to_vec()];
    for q in queues {
        let part = |used: u64, max: u64| if max == 0 { 0.0 } else { used as f64 * 100.0 / max as f64 };
        let full = part(q.messages, q.messages_max).max(part(q.bytes, q.bytes_max));
        rows.push(vec![
            full_name(q),
            show_count(q.messages),
            show_bytes(q.bytes),
            format!("{full:.0}%"),
            age(q),
            show_count(q.delayed),
            show_count(q.dead),
            q.consumers.len().to_string(),
        ]);
    }
    output::table(&rows)
}

fn show(q: &QueueStatus) -> String {
    let mut text = format!(
        "{}: {} messages of {}, {} of {}, oldest {}\n{}, keep {}, contract {}, epoch {}\n{} delayed, {} dead\n",
        full_name(q),
        show_count(q.messages),
        show_count(q.messages_max),
        show_bytes(q.bytes),
        show_bytes(q.bytes_max),
        age(q),
        q.storage,
        q.keep,
        q.contract,
        q.epoch,
        show_count(q.delayed),
        show_count(q.dead),
    );
    if !q.lanes.is_empty() {
        let mut rows = vec![["LANE", "HEAD", "NEXT"].map(String::from).to_vec()];
        rows.extend(q.lanes.iter().map(|l| vec![l.lane.to_string(), l.head.to_string(), l.next.to_string()]));
        text.push('\n');
        text.push_str(&output::table(&rows));
    }
    if !q.consumers.is_empty() {
        let head = ["CONSUMER", "SESSIONS", "LAG", "IN FLIGHT", "RETRIES"].map(String::from).to_vec();
        let mut rows = vec![head];
        rows.extend(q.consumers.iter().map(|c| {
            let numbers = [u64::from(c.sessions), c.lag, c.in_flight, c.waiting_retry];
            [c.name.clone()].into_iter().chain(numbers.map(show_count)).collect()
        }));
        text.push('\n');
        text.push_str(&output::table(&rows));
    }
    text
}
