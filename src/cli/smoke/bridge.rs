//! The part of `smoke` with two brokers: an edge that forwards to a hub, through an outage.

use super::{Test, connect, next_within, same, told};
use crate::cli::connect::{NO_QUERY, admin};
use crate::cli::exit::CliError;
use crate::cli::spawned::{Folder, Spawned};
use crate::client::{Address, Client, ClientError, ConsumeOptions, Message, Retry};
use crate::model::admin::{BRIDGE_RESUME, BRIDGES, BridgeQuery, BridgeState, BridgeStatus, STATUS, Status, counter};
use smol::LocalExecutor;
use smol::Timer;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Messages that the edge takes.
const MESSAGES: u32 = 2_000;
/// Of them, how many the hub must have when it is killed, and how many the edge must take while it is down.
const BEFORE_OUTAGE: u64 = 300;
const IN_OUTAGE: u64 = 500;
/// How often something is looked at that is waited for; the whole test has a time limit.
const LOOK: Duration = Duration::from_millis(5);

/// Writes a configuration into a folder.
fn write(folder: &Folder, text: &str) -> Result<PathBuf, CliError> {
    let path = folder.path.join("smoke.yaml");
    std::fs::write(&path, text).map_err(|e| CliError::failure(format!("{} cannot be written: {e}", path.display())))?;
    Ok(path)
}

fn hub_config(listen: &str) -> String {
    format!("name: smoke-hub\nlisten: {{tcp: ['{listen}']}}\nqueues: [{{name: main, capture: ['#']}}]\n")
}

fn edge_config(hub: &Address) -> String {
    format!(
        "name: smoke-edge\nlisten: {{tcp: ['127.0.0.1:0']}}\nqueues: [{{name: main, capture: ['#']}}]\nbridges: [{{name: hub, \
         urls: ['{hub}'], up: [main], pace: {{ramp: 0ms}}}}]\n"
    )
}

impl Test {
    /// An edge takes messages while its hub is killed and started again: everything arrives there, once and in order.
    pub(super) async fn outage(&mut self, executor: &LocalExecutor<'static>, keep: bool) -> Result<(), CliError> {
        let (hub_folder, edge_folder) = (Folder::new("smoke-hub", keep)?, Folder::new("smoke-edge", keep)?);
        let mut hub = Spawned::start(&hub_folder, &write(&hub_folder, &hub_config("127.0.0.1:0"))?).await?;
        let address = hub.tcp.clone();
        let edge = Spawned::start(&edge_folder, &write(&edge_folder, &edge_config(&address))?).await?;
        let operator = connect(executor, edge.unix.clone(), Retry::Never).await?;
        let well = wait_until_well(&operator).await;
        self.check("an edge connects to its upstream, a hub, and is healthy", well)?;

        let publisher = connect(executor, edge.unix.clone(), Retry::Forever).await?;
        let sending = publisher.clone();
        let sent = executor.spawn(async move { send_all(&sending).await });
        let at_hub = connect(executor, hub.unix.clone(), Retry::Never).await?;
        while stored(&at_hub).await? < BEFORE_OUTAGE {
            Timer::after(LOOK).await;
        }
        hub.kill();
        let before = publisher.stats().stored;
        while publisher.stats().stored < (before + IN_OUTAGE).min(u64::from(MESSAGES)) {
            Timer::after(LOOK).await;
        }
        let taken = sent.await.map_err(|e| e.to_string());
        let what = format!("the hub is killed after {before} messages, and the edge takes {MESSAGES} all the same");
        self.check(&what, taken)?;
        let mut ill = bridge(&operator).await?;
        while ill.healthy {
            Timer::after(LOOK).await;
            ill = bridge(&operator).await?;
        }
        let waits = if ill.queued > 0 { Ok(()) } else { Err(format!("it says {ill:?}")) };
        self.check("the edge says that its upstream is away, and how many messages wait", waits)?;

        let hub = restart(&hub_folder, &address).await?;
        let _: BridgeStatus = admin(&operator, BRIDGE_RESUME, Some(&BridgeQuery { name: "hub".into() })).await?;
        let at_hub = connect(executor, hub.unix.clone(), Retry::Never).await?;
        self.check("the hub is back, and has every message once and in order", in_order(&at_hub).await)?;
        let well = wait_until_well(&operator).await;
        self.check("the edge is healthy again, and nothing waits", well)?;
        for client in [&operator, &publisher, &at_hub] {
            client.close().await;
        }
        let stopped = async {
            edge.stop().await?;
            hub.stop().await
        };
        self.check("edge and hub stop in order", stopped.await.map_err(|e| e.message))
    }
}

/// Starts the hub where the edge looks for it.
async fn restart(folder: &Folder, address: &Address) -> Result<Spawned, CliError> {
    let text = address.to_string();
    let listen = text.strip_prefix("tcp://").unwrap_or(&text);
    let config: &Path = &write(folder, &hub_config(listen))?;
    Spawned::start(folder, config).await
}

async fn bridge(operator: &Client) -> Result<BridgeStatus, CliError> {
    let bridges: Vec<BridgeStatus> = admin(operator, BRIDGES, NO_QUERY).await?;
    bridges.into_iter().next().ok_or_else(|| CliError::failure("the edge knows of no bridge"))
}

async fn wait_until_well(operator: &Client) -> Result<(), String> {
    loop {
        let now = bridge(operator).await.map_err(|e| e.message)?;
        if now.healthy && now.state == BridgeState::Open && now.queued == 0 {
            return Ok(());
        }
        Timer::after(LOOK).await;
    }
}

/// Messages the broker stored since it started.
async fn stored(client: &Client) -> Result<u64, CliError> {
    let status: Status = admin(client, STATUS, NO_QUERY).await?;
    Ok(status.counters.get(counter::PUBLISHED).copied().unwrap_or(0))
}

async fn send_all(client: &Client) -> Result<(), ClientError> {
    for number in 0..MESSAGES {
        client.send(&Message::new("site/smoke", &number.to_be_bytes())?).await?;
        // Not so fast that the hub cannot be killed in the middle.
        if number % 50 == 49 {
            Timer::after(Duration::from_millis(5)).await;
        }
    }
    client.flush().await.map(drop)
}

async fn in_order(hub: &Client) -> Result<(), String> {
    let mut consumer = hub.consume("main", "reader", ConsumeOptions::default()).await.map_err(told)?;
    let mut expected = 0u32;
    while expected < MESSAGES {
        let Some(batch) = next_within(&mut consumer, Duration::from_secs(5)).await? else {
            return Err(format!("{expected} came of {MESSAGES} that the edge acknowledged"));
        };
        for delivery in &batch {
            let found = delivery.message.payload().try_into().map(u32::from_be_bytes).unwrap_or(u32::MAX);
            same(&expected.to_string(), found)?;
            expected += 1;
        }
        consumer.ack_all(&batch);
    }
    // Nothing is under way any more that could come twice.
    let status: Status = admin(hub, STATUS, NO_QUERY).await.map_err(|e| e.message)?;
    let lanes = status.queues.iter().flat_map(|q| &q.lanes);
    same(&MESSAGES.to_string(), lanes.map(|lane| lane.next - 1).sum::<u64>())
}
