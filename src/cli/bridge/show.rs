//! Bridges for people: a block each, or a line each, and what to do about what is wrong.

use crate::cli::output;
use crate::cli::units::{show_bytes, show_count, show_ms};
use crate::model::admin::{BridgeState, BridgeStatus, NOT_KEPT};

/// What is said of a name that no bridge has.
pub(super) fn unknown(name: &str, there: &[String]) -> String {
    match there {
        [] => format!("there is no bridge {name:?}: the broker's configuration has none (`bridges`)"),
        there => format!("there is no bridge {name:?}: there is {}", there.join(", ")),
    }
}

/// All of them, a block each.
pub(super) fn all(bridges: &[BridgeStatus]) -> String {
    if bridges.is_empty() {
        return "no bridge is configured (`bridges` in the configuration)\n".into();
    }
    bridges.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// All of them, a line each, under a head.
pub(in crate::cli) fn list(bridges: &[BridgeStatus]) -> String {
    let head = ["BRIDGE", "STATE", "HEALTHY", "QUEUED", "OLDEST", "IN FLIGHT", "ACKED", "LAST ACK", "LAST ERROR"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for b in bridges {
        rows.push(vec![
            full_name(b),
            state(b.state).into(),
            if b.healthy { "yes" } else { "NO" }.into(),
            show_count(b.queued),
            if b.oldest_ms == 0 { "-".into() } else { show_ms(b.oldest_ms) },
            show_count(b.in_flight),
            show_count(b.acked),
            if b.last_ack_age_ms == 0 { "-".into() } else { show_ms(b.last_ack_age_ms) },
            match b.last_error.as_str() {
                "" => "-".into(),
                error => format!("{error} ({} ago)", show_ms(b.last_error_age_ms)),
            },
        ]);
    }
    output::table(&rows)
}

fn full_name(b: &BridgeStatus) -> String {
    if b.tenant.is_empty() { b.name.clone() } else { format!("{} (of {})", b.name, b.tenant) }
}

fn state(state: BridgeState) -> &'static str {
    match state {
        BridgeState::Waiting => "waiting",
        BridgeState::Connecting => "connecting",
        BridgeState::Greeting => "greeting",
        BridgeState::Open => "open",
        BridgeState::Paused => "paused",
        BridgeState::Spent => "spent",
    }
}

/// One, with all that is known of it.
fn block(b: &BridgeStatus) -> String {
    let healthy = if b.healthy { "healthy" } else { "NOT HEALTHY" };
    let mut text = format!("{}: {}, {healthy}, {}", full_name(b), state(b.state), b.url);
    if b.open_ms > 0 {
        text.push_str(&format!(", connected for {}", show_ms(b.open_ms)));
    }
    if b.retry_ms > 0 {
        text.push_str(&format!(", next try in {}", show_ms(b.retry_ms)));
    }
    text.push('\n');
    let mut line = |what: &str, value: String| text.push_str(&format!("  {what:<11} {value}\n"));
    match b.state {
        BridgeState::Paused => {
            line("paused", format!("by an operator: `tidegate bridge resume {}` lets it go on", b.name))
        }
        BridgeState::Spent => line("spent", "the day's bytes are used up: it goes on at midnight UTC".into()),
        _ => {}
    }
    if !b.last_error.is_empty() {
        let detail = if b.last_error_detail.is_empty() { String::new() } else { format!(": {}", b.last_error_detail) };
        line("last error", format!("{}, {} ago{detail}", b.last_error, show_ms(b.last_error_age_ms)));
        // What is over needs nothing done.
        if b.state != BridgeState::Open || !b.healthy {
            line("what to do", advice(&b.last_error, &b.name));
        }
    }
    let oldest = if b.oldest_ms == 0 { String::new() } else { format!(", the oldest for {}", show_ms(b.oldest_ms)) };
    line("queued", format!("{}{oldest}", messages(b.queued)));
    let window = match b.window {
        (0, _) => String::new(),
        (most, bytes) => format!(" (window: {}, {})", messages(most), show_bytes(bytes)),
    };
    line("in flight", format!("{}{window}", messages(b.in_flight)));
    let last =
        if b.last_ack_age_ms == 0 { String::new() } else { format!(", the last {} ago", show_ms(b.last_ack_age_ms)) };
    line("acked", format!("{}{last}", messages(b.acked)));
    if b.brought > 0 {
        line("brought", messages(b.brought));
    }
    line("bytes", bytes(b));
    if let Some(used) = b.day_bytes {
        let most = if b.day_bytes_max == 0 { String::new() } else { format!(" of {}", show_bytes(b.day_bytes_max)) };
        line("today", format!("{}{most} (UTC)", show_bytes(used)));
    }
    let trip = if b.round_trip_ms == 0 { String::new() } else { format!(", round trip {}", show_ms(b.round_trip_ms)) };
    line("connects", format!("{}{trip}", show_count(b.connects)));
    if !b.dropped.is_empty() {
        let reasons = b.dropped.iter().map(|(reason, count)| format!("{reason} {}", show_count(*count)));
        line("dropped", reasons.collect::<Vec<_>>().join(", "));
        if b.dropped.keys().any(|reason| !OWN_REASONS.contains(&reason.as_str())) {
            line("", "what the upstream refused for good lies in the dead letters: `tidegate queue dead QUEUE`".into());
        }
    }
    text
}

/// Reasons of `dropped` that are not codes of the upstream: what these name is no dead letter.
const OWN_REASONS: [&str; 6] = ["loop", "hops", "expired", "superseded", "thinned", NOT_KEPT];

fn messages(count: u64) -> String {
    format!("{} {}", show_count(count), if count == 1 { "message" } else { "messages" })
}

/// Bytes by kind, those that everybody asks for first.
fn bytes(b: &BridgeStatus) -> String {
    let of = |kind: &str| b.bytes.get(kind).copied().unwrap_or(0);
    let (up, down, records, batches) = (of("up"), of("down"), of("records"), of("batches"));
    let mut text = format!("{} up, {} down", show_bytes(up), show_bytes(down));
    if batches > 0 {
        let (ratio, shown) = (records as f64 / batches as f64, show_bytes(records));
        text.push_str(&format!("; {shown} of records in {} of batches ({ratio:.1}:1)", show_bytes(batches)));
    }
    for (kind, count) in b.bytes.iter().filter(|(k, _)| !["up", "down", "records", "batches"].contains(&k.as_str())) {
        text.push_str(&format!("; {kind} {}", show_bytes(*count)));
    }
    text
}

/// What helps, by the reason of the last error.
fn advice(error: &str, name: &str) -> String {
    let test = format!("`tidegate bridge test {name} --config FILE` shows where it fails");
    match error {
        "dns" => format!("check the name in `urls` and this box's name server; {test}"),
        "refused" => {
            format!("the machine is there, but nobody listens at this port: check the upstream and the port; {test}")
        }
        "timeout" => format!("nothing answered in time: a firewall, a wrong port, or a link that is down; {test}"),
        "unreachable" => "this box has no way there: check its link".into(),
        "tls" => format!("the certificates do not fit, or a clock is wrong; {test}"),
        "http" => "what answers is no WebSocket: check the path in `urls`, and the proxy before the upstream".into(),
        "auth" => "the upstream does not let it in: check `login` here, and the upstream's identities and roles".into(),
        "protocol" => {
            "the upstream ended the session: its log says why; check its release and the bridge's role".into()
        }
        "heartbeat" => "the link went silent; it connects again by itself".into(),
        "stalled" => {
            "connected, but nothing was acknowledged: look at `tidegate status` of the upstream (full disk?)".into()
        }
        "closed" => "the upstream closed the connection; it connects again by itself".into(),
        "local" => "this broker ended the bridge's own session: its log says why".into(),
        _ => test,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> BridgeStatus {
        BridgeStatus {
            name: "hub".into(),
            state: BridgeState::Open,
            healthy: true,
            url: "tls://hub.example:8434".into(),
            open_ms: 7_260_000,
            connects: 3,
            queued: 12,
            oldest_ms: 1_250,
            in_flight: 4,
            acked: 12_345,
            last_ack_age_ms: 300,
            round_trip_ms: 41,
            window: (512, 1 << 20),
            bytes: [("up", 2_048), ("down", 999), ("records", 8_192), ("batches", 2_048)]
                .map(|(kind, count)| (kind.to_owned(), count))
                .into(),
            day_bytes: Some(3_047),
            day_bytes_max: 1 << 20,
            ..BridgeStatus::default()
        }
    }

    #[test]
    fn a_bridge_that_is_well_is_shown_whole() {
        assert_eq!(
            all(&[well()]),
            "hub: open, healthy, tls://hub.example:8434, connected for 2h01m
  queued      12 messages, the oldest for 1.2s
  in flight   4 messages (window: 512 messages, 1.0MiB)
  acked       12,345 messages, the last 300ms ago
  bytes       2.0KiB up, 999B down; 8.0KiB of records in 2.0KiB of batches (4.0:1)
  today       3.0KiB of 1.0MiB (UTC)
  connects    3, round trip 41ms
"
        );
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_age_and_what_to_do() {
        let ill = BridgeStatus {
            state: BridgeState::Waiting,
            healthy: false,
            open_ms: 0,
            retry_ms: 4_000,
            last_error: "refused".into(),
            last_error_detail: "nobody listens at 10.0.0.9:8434".into(),
            last_error_age_ms: 12_000,
            dropped: [("loop".to_owned(), 2), ("message-too-large".to_owned(), 1)].into(),
            ..well()
        };
        let text = all(&[ill]);
        for part in [
            "hub: waiting, NOT HEALTHY, tls://hub.example:8434, next try in 4.0s\n",
            "  last error  refused, 12.0s ago: nobody listens at 10.0.0.9:8434\n",
            "  what to do  the machine is there, but nobody listens at this port",
            "`tidegate bridge test hub --config FILE`",
            "  dropped     loop 2, message-too-large 1\n",
            "`tidegate queue dead QUEUE`",
        ] {
            assert!(text.contains(part), "{part:?} in:\n{text}");
        }
        // An error that is over asks for nothing.
        let over = BridgeStatus { last_error: "refused".into(), last_error_age_ms: 9_000, ..well() };
        assert!(!all(&[over]).contains("what to do"));
        // What was thinned out is no dead letter.
        let thinned = BridgeStatus { dropped: [("thinned".to_owned(), 2)].into(), ..well() };
        assert!(!all(&[thinned]).contains("dead"));
    }

    #[test]
    fn every_reason_has_advice_of_its_own() {
        let reasons = [
            "dns",
            "refused",
            "timeout",
            "unreachable",
            "tls",
            "http",
            "auth",
            "protocol",
            "heartbeat",
            "stalled",
            "closed",
            "local",
        ];
        let mut all: Vec<String> = reasons.iter().map(|reason| advice(reason, "hub")).collect();
        all.push(advice("something new", "hub"));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), reasons.len() + 1);
    }

    #[test]
    fn bridges_in_a_line_each_name_their_tenant_and_their_error() {
        let red = BridgeStatus {
            tenant: "red".into(),
            healthy: false,
            last_error: "dns".into(),
            last_error_age_ms: 7,
            ..well()
        };
        let text = list(&[well(), red]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("hub ") && lines[1].contains("yes") && lines[1].ends_with('-'), "{text}");
        assert!(lines[2].starts_with("hub (of red)") && lines[2].contains("NO") && lines[2].ends_with("dns (7ms ago)"));
        assert!(all(&[]).contains("no bridge is configured"));
    }
}
