//! One load generator for Tidegate and its peers: the same shapes, threads, sockets and clocks for each of them.
//!
//! `scripts/bench-peers.sh` starts the servers and calls this program; by hand:
//! `cargo bench --bench peers -- publish redis-stream 127.0.0.1:6379 --pid PID`. It prints one line of JSON. Connections
//! are blocking sockets with a thread each, the codecs hold only what a run needs. As a test (`cargo test`) it checks
//! the codecs byte by byte and runs every shape with small inputs against a Tidegate of its own.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod amqp;
mod check;
mod cost;
mod load;
mod mqtt;
mod nats;
mod peer;
mod redis;
mod report;
mod tidegate;

use cost::Cost;
use load::{Load, Outcome};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

const USAGE: &str = "usage: peers SHAPE PEER ADDRESS [--name VALUE]...
shapes: publish     publishers that wait for acknowledgements: --publishers 8 --window 100
        live        pairs of one publisher and one subscriber: --publishers 1 --window 1000
        idle        connections that do nothing: --connections 1000
        first-ack   connects until it can, publishes one message: --since SECONDS (of 1970, with a fraction)
peers:  tidegate tidegate-memory redis-stream redis-live mqtt0 mqtt1 nats jetstream rabbit
        report FILE prints tables of what lines of JSON say
further: --who NAME and --case NAME go into the line as they are,
         --size 256, --seconds 3 or --count N, --warm 0.3 (seconds), --rate N (messages a second in all: open loop,
         latency from the intended time), --pid N (of the server, for its CPU, memory and bytes written)";

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let measure = std::env::args().any(|arg| arg == "--bench");
    if args.is_empty()
        || !args.iter().any(|arg| matches!(arg.as_str(), "publish" | "live" | "idle" | "first-ack" | "report"))
    {
        if measure {
            println!("{USAGE}\nnothing is measured without a server: see scripts/bench-peers.sh");
            return ExitCode::SUCCESS;
        }
        check::all();
        return ExitCode::SUCCESS;
    }
    let done = match args.as_slice() {
        [report, file] if report == "report" => tables(file),
        _ => Run::parse(&args).and_then(|run| run.run()).map(|value| value.to_string() + "\n"),
    };
    match done {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("peers {}: {e}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn tables(file: &str) -> Result<String> {
    Ok(report::Figures::parse(&std::fs::read_to_string(file)?)?.markdown())
}

/// What is asked for on the command line.
#[derive(Clone)]
struct Run {
    shape: String,
    peer: String,
    address: SocketAddr,
    publishers: usize,
    window: u64,
    size: usize,
    seconds: f64,
    warm: f64,
    count: Option<u64>,
    rate: Option<f64>,
    pid: Option<u32>,
    connections: usize,
    since: Option<f64>,
    who: Option<String>,
    case: Option<String>,
}

impl Run {
    fn parse(args: &[String]) -> Result<Self> {
        let [shape, peer, address, rest @ ..] = args else { return Err(USAGE.into()) };
        let live = shape == "live";
        let mut run = Self {
            shape: shape.clone(),
            peer: peer.clone(),
            address: address.parse()?,
            publishers: if live { 1 } else { 8 },
            window: if live { 1_000 } else { 100 },
            size: 256,
            seconds: 3.0,
            warm: 0.3,
            count: None,
            rate: None,
            pid: None,
            connections: 1_000,
            since: None,
            who: None,
            case: None,
        };
        for pair in rest.chunks(2) {
            let [name, value] = pair else { return Err(USAGE.into()) };
            match name.as_str() {
                "--publishers" => run.publishers = value.parse()?,
                "--window" => run.window = value.parse()?,
                "--size" => run.size = value.parse()?,
                "--seconds" => run.seconds = value.parse()?,
                "--warm" => run.warm = value.parse()?,
                "--count" => run.count = Some(value.parse()?),
                "--rate" => run.rate = Some(value.parse()?),
                "--pid" => run.pid = Some(value.parse()?),
                "--connections" => run.connections = value.parse()?,
                "--since" => run.since = Some(value.parse()?),
                "--who" => run.who = Some(value.clone()),
                "--case" => run.case = Some(value.clone()),
                _ => return Err(USAGE.into()),
            }
        }
        if run.size < load::STAMP_BYTES || run.publishers == 0 || run.window == 0 {
            return Err(format!("a payload holds {} bytes or more, and somebody publishes", load::STAMP_BYTES).into());
        }
        Ok(run)
    }

    fn run(&self) -> Result<Value> {
        let mut report = match self.shape.as_str() {
            "publish" => self.load(false),
            "live" => self.load(true),
            "idle" => self.idle(),
            "first-ack" => self.first_ack(),
            _ => Err(USAGE.into()),
        }?;
        report["who"] = json!(self.who.as_ref().unwrap_or(&self.peer));
        report["case"] = json!(self.case.as_ref().unwrap_or(&self.shape));
        Ok(report)
    }

    fn load(&self, live: bool) -> Result<Value> {
        let load = Load {
            peer: self.peer.clone(),
            address: self.address,
            publishers: self.publishers,
            window: self.window,
            size: self.size,
            count: self.count.map(|count| count.div_ceil(self.publishers as u64)),
            rate: self.rate.map(|rate| rate / self.publishers as f64),
            live,
        };
        let running = load.start()?;
        // A run that is bounded by a count measures all of it.
        if self.count.is_none() {
            running.wait(Duration::from_secs_f64(self.warm))?;
        }
        let before = Cost::read(self.pid);
        let began = Instant::now();
        running.measure();
        match self.count {
            Some(_) => running.wait_for_all()?,
            None => running.wait(Duration::from_secs_f64(self.seconds))?,
        }
        let counted = running.counted();
        let elapsed = began.elapsed().as_secs_f64();
        let after = Cost::read(self.pid);
        let outcome = running.stop()?;
        Ok(self.report(counted, elapsed, &outcome, &before, &after))
    }

    fn report(&self, messages: u64, seconds: f64, outcome: &Outcome, before: &Cost, after: &Cost) -> Value {
        let each = |total: f64| total / messages.max(1) as f64;
        let quantile = |q: f64| outcome.latency.value_at_quantile(q) as f64 / 1e3;
        let since = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a - b);
        json!({
            "shape": self.shape, "peer": self.peer, "publishers": self.publishers, "window": self.window,
            "size": self.size, "rate": self.rate, "messages": messages, "seconds": seconds,
            "per_second": messages as f64 / seconds,
            "p50_us": quantile(0.5), "p90_us": quantile(0.9), "p99_us": quantile(0.99), "p999_us": quantile(0.999),
            "max_us": outcome.latency.max() as f64 / 1e3,
            "refused": outcome.refused, "lost": outcome.lost,
            "server_cpu_us": since(after.server_cpu_s, before.server_cpu_s).map(|s| each(s * 1e6)),
            "server_cpu_share": since(after.server_cpu_s, before.server_cpu_s).map(|s| s / seconds),
            "generator_cpu_us": each((after.own_cpu_s - before.own_cpu_s) * 1e6),
            "generator_cpu_share": (after.own_cpu_s - before.own_cpu_s) / seconds,
            "server_rss_kib": after.rss_kib, "server_rss_peak_kib": after.rss_peak_kib,
            "written_bytes": since(after.written_bytes, before.written_bytes).map(each),
        })
    }

    fn idle(&self) -> Result<Value> {
        // What a first connection sets up for good is not counted.
        let first = peer::connect(&self.peer, self.address, peer::Role::Idle, 0)?;
        let before = Cost::read(self.pid);
        let held: Vec<_> = (1..=self.connections)
            .map(|n| peer::connect(&self.peer, self.address, peer::Role::Idle, n))
            .collect::<Result<_>>()?;
        std::thread::sleep(Duration::from_secs_f64(self.warm));
        let after = Cost::read(self.pid);
        drop((held, first));
        let grown = after.rss_kib.zip(before.rss_kib).map(|(a, b)| a - b);
        Ok(json!({
            "shape": "idle", "peer": self.peer, "connections": self.connections, "server_rss_kib": after.rss_kib,
            "rss_before_kib": before.rss_kib, "kib_each": grown.map(|kib| kib / self.connections.max(1) as f64),
        }))
    }

    fn first_ack(&self) -> Result<Value> {
        let patience = Instant::now() + Duration::from_secs_f64(self.seconds.max(60.0));
        loop {
            let done = peer::connect(&self.peer, self.address, peer::Role::Publish, 0)
                .and_then(|connection| load::publish_one(connection, self.size));
            match done {
                Ok(()) => break,
                Err(e) if Instant::now() > patience => return Err(e),
                // Not yet.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        let after = Cost::read(self.pid);
        Ok(json!({
            "shape": "first-ack", "peer": self.peer, "ms": self.since.map(|since| (now - since) * 1e3),
            "server_rss_kib": after.rss_kib, "server_rss_peak_kib": after.rss_peak_kib,
        }))
    }
}
