//! What a run cost: CPU and memory of both processes by `/proc`, bytes written by the broker's own count; the report.

use super::super::connect::{NO_QUERY, admin};
use super::super::units::{show_bytes, show_count};
use super::Bench;
use super::load::{Published, Readers};
use crate::client::{Address, Client};
use crate::daemon::READY_FILE;
use crate::model::admin::{STATUS, Status, counter};
use clap::ValueEnum as _;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::fs;

/// Ticks a second in `/proc`, fixed by the kernel's interface on all targets built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Readings at one moment.
#[derive(Default)]
pub(super) struct Cost {
    own_cpu_s: f64,
    broker_cpu_s: Option<f64>,
    broker_rss_bytes: Option<u64>,
    broker_rss_peak_bytes: Option<u64>,
    broker_io_bytes: Option<u64>,
    commit_bytes: Option<u64>,
    commits: Option<u64>,
}

impl Cost {
    /// Reads everything that can be read; what cannot is left out of the report.
    pub(super) async fn read(client: &Client, pid: Option<u32>) -> Self {
        let status: Option<Status> = admin(client, STATUS, NO_QUERY).await.ok();
        let count = |name: &str| status.as_ref().and_then(|s| s.counters.get(name).copied());
        let pid = pid.or_else(|| status.as_ref().map(|s| s.pid).filter(|pid| *pid > 0)).map(|pid| pid.to_string());
        let broker = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", pid.as_ref()?)).ok();
        let memory = broker("status");
        let kib = |name| memory.as_ref().and_then(|text| field(text, name)).map(|kib| kib * 1_024);
        Self {
            own_cpu_s: fs::read_to_string("/proc/self/stat").ok().and_then(|s| cpu_s(&s)).unwrap_or(0.0),
            broker_cpu_s: broker("stat").and_then(|s| cpu_s(&s)),
            broker_rss_bytes: kib("VmRSS:"),
            broker_rss_peak_bytes: kib("VmHWM:"),
            broker_io_bytes: broker("io").and_then(|text| field(&text, "write_bytes:")),
            commit_bytes: count(counter::COMMIT_BYTES),
            commits: count(counter::COMMITS),
        }
    }
}

/// Process of the broker that wrote the ready file beside a Unix socket.
pub(super) fn pid_of(address: &Address) -> Option<u32> {
    let Address::Unix(path) = address else { return None };
    let text = fs::read_to_string(path.parent()?.join(READY_FILE)).ok()?;
    let ready: Value = serde_json::from_str(&text).ok()?;
    ready["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
}

/// User and system time in `/proc/PID/stat`: fields 14 and 15, counted behind the name, which may hold anything.
fn cpu_s(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// All figures of a run.
pub(super) struct Report {
    settings: Value,
    messages: u64,
    pub(super) failed: u64,
    reconnects: u64,
    elapsed_us: u64,
    publish: Histogram<u64>,
    deliveries: Option<Deliveries>,
    own_cpu_s: f64,
    broker_cpu_s: Option<f64>,
    broker_rss_bytes: Option<u64>,
    broker_rss_peak_bytes: Option<u64>,
    io_bytes: Option<u64>,
    commit_bytes: Option<u64>,
    commits: Option<u64>,
    bytes: u64,
}

struct Deliveries {
    expected: u64,
    received: u64,
    lost: u64,
    elapsed_us: u64,
    complete: bool,
    latency: Histogram<u64>,
}

impl Report {
    pub(super) fn new(bench: &Bench, published: &Published, elapsed_us: u64, before: &Cost, after: &Cost) -> Self {
        let contract = bench.contract.to_possible_value().map(|v| v.get_name().to_owned());
        let since = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a.saturating_sub(b));
        Self {
            settings: json!({
                "publishers": bench.publishers, "window": bench.window, "size": bench.size, "contract": contract,
                "ids": !bench.no_id, "subscribers": bench.subscribers, "consumers": bench.consumers,
                "rate": bench.rate,
            }),
            messages: published.stored,
            failed: published.failed,
            reconnects: published.reconnects,
            elapsed_us: elapsed_us.max(1),
            publish: published.latency.clone(),
            deliveries: None,
            own_cpu_s: after.own_cpu_s - before.own_cpu_s,
            broker_cpu_s: after.broker_cpu_s.zip(before.broker_cpu_s).map(|(a, b)| a - b),
            broker_rss_bytes: after.broker_rss_bytes,
            broker_rss_peak_bytes: after.broker_rss_peak_bytes,
            io_bytes: since(after.broker_io_bytes, before.broker_io_bytes),
            commit_bytes: since(after.commit_bytes, before.commit_bytes),
            commits: since(after.commits, before.commits),
            bytes: published.stored * bench.size as u64,
        }
    }

    pub(super) fn delivered(&mut self, expected: u64, readers: &Readers, elapsed_us: u64, complete: bool) {
        self.deliveries = Some(Deliveries {
            expected,
            received: readers.count.get(),
            lost: readers.lost.get(),
            elapsed_us: elapsed_us.max(1),
            complete,
            latency: readers.latency.borrow().clone(),
        });
    }

    /// Deliveries that neither came nor were told to be lost.
    pub(super) fn missing(&self) -> u64 {
        self.deliveries.as_ref().filter(|d| !d.complete).map_or(0, |d| d.expected.saturating_sub(d.received + d.lost))
    }

    fn per_message(&self, total: f64) -> f64 {
        total / self.messages.max(1) as f64
    }

    pub(super) fn json(&self) -> Value {
        let mut object = Map::new();
        let mut set = |key: &str, value: Value| drop(object.insert(key.into(), value));
        set("settings", self.settings.clone());
        set("messages", json!(self.messages));
        set("failed", json!(self.failed));
        set("reconnects", json!(self.reconnects));
        set("elapsed_s", json!(self.elapsed_us as f64 / 1e6));
        set("messages_per_second", json!(rate(self.messages, self.elapsed_us)));
        set("payload_bytes_per_second", json!(rate(self.bytes, self.elapsed_us)));
        set("publish_latency_us", latency_json(&self.publish));
        if let Some(d) = &self.deliveries {
            set(
                "deliveries",
                json!({
                    "expected": d.expected, "received": d.received, "lost": d.lost, "complete": d.complete,
                    "per_second": rate(d.received, d.elapsed_us), "latency_us": latency_json(&d.latency),
                }),
            );
        }
        set("generator_cpu_us_per_message", json!(self.per_message(self.own_cpu_s * 1e6)));
        set("generator_cpu_share", json!(self.own_cpu_s / (self.elapsed_us as f64 / 1e6)));
        if let Some(cpu) = self.broker_cpu_s {
            set("broker_cpu_us_per_message", json!(self.per_message(cpu * 1e6)));
        }
        for (key, value) in [
            ("broker_rss_bytes", self.broker_rss_bytes),
            ("broker_rss_peak_bytes", self.broker_rss_peak_bytes),
            ("broker_io_bytes", self.io_bytes),
            ("commit_bytes", self.commit_bytes),
            ("commits", self.commits),
        ] {
            if let Some(value) = value {
                set(key, json!(value));
            }
        }
        if let Some(bytes) = self.commit_bytes.or(self.io_bytes) {
            set("bytes_written_per_message", json!(self.per_message(bytes as f64)));
        }
        object.into()
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} messages in {:.2} s: {} messages/s, {}/s of payload\n",
            show_count(self.messages),
            self.elapsed_us as f64 / 1e6,
            show_count(rate(self.messages, self.elapsed_us)),
            show_bytes(rate(self.bytes, self.elapsed_us)),
        );
        text.push_str(&format!("publish latency   {}\n", latency_text(&self.publish)));
        if let Some(d) = &self.deliveries {
            text.push_str(&format!(
                "deliveries        {} at {}/s",
                show_count(d.received),
                show_count(rate(d.received, d.elapsed_us))
            ));
            if d.lost > 0 {
                text.push_str(&format!(", {} lost by slow readers", show_count(d.lost)));
            }
            text.push_str(&format!("\ndelivery latency  {}\n", latency_text(&d.latency)));
        }
        if let Some(cpu) = self.broker_cpu_s {
            text.push_str(&format!("broker            {:.2} us CPU a message", self.per_message(cpu * 1e6)));
            if let (Some(rss), Some(peak)) = (self.broker_rss_bytes, self.broker_rss_peak_bytes) {
                text.push_str(&format!(", {} resident, {} at most", show_bytes(rss), show_bytes(peak)));
            }
            text.push('\n');
        }
        if let Some(bytes) = self.commit_bytes.or(self.io_bytes) {
            text.push_str(&format!("written           {:.0} bytes a message", self.per_message(bytes as f64)));
            if let Some(commits) = self.commits.filter(|c| *c > 0) {
                let each = self.messages as f64 / commits as f64;
                text.push_str(&format!(", {} commits of {each:.1} messages", show_count(commits)));
            }
            text.push('\n');
        }
        text.push_str(&format!(
            "generator         {:.2} us CPU a message, {:.0}% of a core\n",
            self.per_message(self.own_cpu_s * 1e6),
            self.own_cpu_s / (self.elapsed_us as f64 / 1e6) * 100.0,
        ));
        for (number, what) in [(self.failed, "publishes failed"), (self.reconnects, "reconnects")] {
            if number > 0 {
                text.push_str(&format!("{} {what}\n", show_count(number)));
            }
        }
        text
    }
}

fn rate(count: u64, elapsed_us: u64) -> u64 {
    (u128::from(count) * 1_000_000 / u128::from(elapsed_us)) as u64
}

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

fn latency_json(latency: &Histogram<u64>) -> Value {
    let mut object: Map<String, Value> =
        QUANTILES.iter().map(|(name, q)| ((*name).into(), json!(latency.value_at_quantile(*q)))).collect();
    object.insert("max".into(), json!(latency.max()));
    object.insert("mean".into(), json!(latency.mean()));
    object.into()
}

fn latency_text(latency: &Histogram<u64>) -> String {
    let ms = |us: u64| format!("{:.2}", us as f64 / 1_000.0);
    let mut parts: Vec<String> =
        QUANTILES.iter().map(|(name, q)| format!("{name} {}", ms(latency.value_at_quantile(*q)))).collect();
    parts.push(format!("max {} ms", ms(latency.max())));
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_read_behind_a_name_that_holds_spaces_and_brackets() {
        let stat = "12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 1 0 100";
        assert_eq!(cpu_s(stat), Some(4.0));
        assert_eq!(cpu_s("12 (a"), None);
        assert_eq!(field("VmHWM:\t  900 kB\nVmRSS:\t  800 kB\n", "VmRSS:"), Some(800));
    }
}
