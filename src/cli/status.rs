//! `status`: how the broker is.

use super::Global;
use super::bridge;
use super::connect::{NO_QUERY, admin, block_on, client};
use super::exit::{CliError, Exit};
use super::output;
use super::queue::list;
use super::units::{interval, show_bytes, show_count, show_ms};
use crate::model::admin::{STATUS, Status, StoreState, TenantStatus, counter};
use std::io::IsTerminal as _;
use std::time::Duration;

const HELP: &str = "Examples:
  tidegate status
  tidegate status --watch
  tidegate status --json | jq .counters
It needs the broker's Unix socket, as its user or root.";

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct StatusArgs {
    /// Show it again and again, with rates [default interval: 2s]
    #[arg(long, short, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s", value_parser = interval)]
    watch: Option<Duration>,
}

impl StatusArgs {
    pub(super) fn run(self, global: &Global) -> Result<Exit, CliError> {
        let address = global.address()?;
        block_on(async |executor| {
            let client = client(&executor, address, global.options("status"), None).await?;
            let mut before: Option<Status> = None;
            loop {
                let status: Status = admin(&client, STATUS, NO_QUERY).await?;
                if global.json {
                    output::json(&status)?;
                } else {
                    // From the top left corner, and nothing left of what stood there.
                    let clear = self.watch.is_some() && std::io::stdout().is_terminal();
                    let text = show(&status, before.as_ref());
                    output::raw(if clear { format!("\x1b[H\x1b[J{text}") } else { text }.as_bytes())?;
                }
                let Some(interval) = self.watch else { break };
                before = Some(status);
                smol::Timer::after(interval).await;
            }
            client.close().await;
            Ok(Exit::Ok)
        })
    }
}

fn show(status: &Status, before: Option<&Status>) -> String {
    let state = match status.state {
        StoreState::Ok => "ok",
        StoreState::Low => "LOW DISK: only alarms are taken",
        StoreState::Full => "FULL DISK: nothing is taken",
        StoreState::Failed => "STORE FAILED: being opened again",
    };
    let mut text = format!(
        "{} (tidegate {}): {state}\nup {}, {} connections, store {}, {} free",
        status.name,
        status.version,
        show_ms(status.uptime_ms),
        show_count(status.connections),
        show_bytes(status.file_bytes),
        show_bytes(status.free_bytes),
    );
    if !status.data.is_empty() {
        text.push_str(&format!(", in {}", status.data));
    }
    text.push_str("\n\n");
    let mut rows = vec![["", "TOTAL", "PER SECOND"].map(String::from).to_vec()];
    for name in [
        counter::PUBLISHED,
        counter::DUPLICATES,
        counter::REFUSED,
        counter::FANNED_OUT,
        counter::DELIVERED,
        counter::ACKED,
        counter::DROPPED,
        counter::DEAD,
        counter::COMMITS,
    ] {
        let value = |s: &Status| s.counters.get(name).copied().unwrap_or(0);
        let mut row = vec![name.replace('_', " "), show_count(value(status))];
        if let Some(before) = before {
            let ms = status.uptime_ms.saturating_sub(before.uptime_ms).max(1);
            row.push(show_count(value(status).saturating_sub(value(before)) * 1_000 / ms));
        }
        rows.push(row);
    }
    if before.is_none() {
        rows[0].pop();
    }
    text.push_str(&output::table(&rows));
    text.push('\n');
    text.push_str(&list(&status.queues));
    if !status.bridges.is_empty() {
        text.push('\n');
        text.push_str(&bridge::list(&status.bridges));
    }
    // Where there are none, the one without a name has done all that stands above.
    if status.tenants.len() > 1 {
        text.push('\n');
        text.push_str(&tenants(&status.tenants));
    }
    text
}

/// A table of tenants: what each has of what it may have, and what it did ever.
fn tenants(tenants: &[TenantStatus]) -> String {
    let head = ["TENANT", "CONNECTIONS", "STORED", "CHANNELS", "PUBLISHED", "DELIVERED", "REFUSED", "CONNECTS"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for t in tenants {
        let of = |used: u64, most: u64, show: fn(u64) -> String| match most {
            0 => show(used),
            most => format!("{}/{}", show(used), show(most)),
        };
        let name = match (t.name.as_str(), t.left) {
            ("", false) => "-".to_owned(),
            ("", true) => "(lost)".to_owned(),
            (name, false) => name.to_owned(),
            (name, true) => format!("{name} (left)"),
        };
        rows.push(vec![
            name,
            of(t.connections, t.connections_max, show_count),
            of(t.stored_bytes, t.stored_bytes_max, show_bytes),
            of(t.channels, t.channels_max, show_count),
            show_count(t.published),
            show_count(t.delivered),
            show_count(t.refused.values().sum()),
            show_count(t.connects),
        ]);
    }
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_are_shown_with_what_they_may_have() {
        let red = TenantStatus {
            name: "red".into(),
            stored_bytes: 512,
            stored_bytes_max: 1 << 20,
            connects: 3,
            refused: [("queue-full".to_owned(), 2), ("rate-limited".to_owned(), 5)].into(),
            ..TenantStatus::default()
        };
        let gone = TenantStatus { name: "blue".into(), left: true, ..TenantStatus::default() };
        let text = tenants(&[TenantStatus::default(), red, gone]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..3], ["-", "0", "0B"]);
        assert_eq!((lines[2][0], lines[2].last()), ("red", Some(&"3")), "{text}");
        assert!(text.contains("512B/1.0MiB"), "{text}");
        assert_eq!(lines[3][..2], ["blue", "(left)"]);
        assert!(lines[2].contains(&"7"));
    }
}
