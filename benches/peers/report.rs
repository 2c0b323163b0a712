//! Lines of JSON to two tables in markdown: the figures side by side, and every bar with what was measured.

use crate::Result;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The builds of Tidegate that bars are for.
const BUILDS: [(&str, &str); 2] = [("tidegate", "Tidegate"), ("tidegate-static", "Tidegate, static musl")];

/// Cases in the order of the table.
const CASES: &[(&str, &str)] = &[
    ("publish-8x100", "acknowledged, 8 publishers × 100 in flight"),
    ("publish-1x1", "acknowledged, 1 publisher × 1 in flight"),
    ("live-1", "live, 1 publisher to 1 subscriber"),
    ("live-8", "live, 8 publishers to 8 subscribers, one to one"),
    ("live-2000", "live, one to one at 2,000 a second"),
    ("rate-1", "lone messages, 1 a second"),
    ("rate-10", "10 a second"),
    ("rate-100", "100 a second"),
    ("rate-10000", "10,000 a second"),
];

const KIB: f64 = 1_024.0;
const PAYLOAD_BYTES: f64 = 256.0;

/// All values of one figure, by server, case and field.
pub struct Figures(BTreeMap<(String, String), BTreeMap<String, Vec<f64>>>);

impl Figures {
    pub fn parse(lines: &str) -> Result<Self> {
        let mut figures: BTreeMap<_, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
        for line in lines.lines().filter(|line| !line.is_empty()) {
            let value: Value = serde_json::from_str(line)?;
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            let fields = figures.entry((text("who"), text("case"))).or_default();
            for (key, number) in value.as_object().into_iter().flatten() {
                if let Some(number) = number.as_f64() {
                    fields.entry(key.clone()).or_default().push(number);
                }
            }
        }
        Ok(Self(figures))
    }

    /// The median of the rounds.
    pub fn get(&self, who: &str, case: &str, field: &str) -> Option<f64> {
        let mut values = self.0.get(&(who.to_owned(), case.to_owned()))?.get(field)?.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        Some(if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) })
    }

    pub fn markdown(&self) -> String {
        let mut out = String::from(
            "| | server | messages/s | Tidegate is | p50 µs | p99 µs | server CPU µs | generator CPU µs | server RSS MiB \
             | written B |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for (case, title) in CASES {
            let mut title = *title;
            let mut rows: Vec<&String> = self.0.keys().filter(|(_, c)| c == case).map(|(who, _)| who).collect();
            rows.sort_by_key(|who| (!who.starts_with("tidegate"), *who));
            for who in rows {
                let get = |field| self.get(who, case, field);
                let own = self.get("tidegate", case, "per_second");
                let ratio = own.zip(get("per_second")).map(|(own, theirs)| format!("{:.2}×", own / theirs));
                let _ = writeln!(
                    out,
                    "| {title} | {who} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    count(get("per_second")),
                    ratio.filter(|_| who != "tidegate").unwrap_or_default(),
                    count(get("p50_us")),
                    count(get("p99_us")),
                    small(get("server_cpu_us")),
                    small(get("generator_cpu_us")),
                    small(get("server_rss_kib").map(|kib| kib / KIB)),
                    count(get("written_bytes")),
                );
                title = "";
            }
        }
        for (who, name) in BUILDS {
            if self.0.keys().any(|(w, _)| w == who) {
                let _ = writeln!(out, "\n| bar ({name}) | asked | measured | |\n|---|---:|---:|---|");
                self.bars(who, &mut out);
            }
        }
        out
    }

    fn bars(&self, who: &str, out: &mut String) {
        let get = |case, field| self.get(who, case, field);
        let ratio = |case, field, to: &str| Some(get(case, field)? / self.get(to, case, field)?);
        let mib = |case, field| get(case, field).map(|kib| kib / KIB);
        let rows: Vec<(&str, Bar, Option<f64>, &str)> = vec![
            (
                "`disk` 8 × 100, of Redis Streams (always)",
                Bar::Least(0.5),
                ratio("publish-8x100", "per_second", "redis-always"),
                "×",
            ),
            (
                "`disk` 1 × 1, of Redis Streams (always)",
                Bar::Least(0.8),
                ratio("publish-1x1", "per_second", "redis-always"),
                "×",
            ),
            (
                "live one to one, of Mosquitto QoS 0",
                Bar::Least(3.0),
                ratio("live-1", "per_second", "mosquitto-qos0"),
                "×",
            ),
            (
                "live p99 at 2,000/s, of Mosquitto QoS 0",
                Bar::Most(1.0),
                ratio("live-2000", "p99_us", "mosquitto-qos0"),
                "×",
            ),
            ("a million queued, resident", Bar::Below(24.0), mib("million", "server_rss_kib"), " MiB"),
            ("the same at its most", Bar::Told, mib("million", "server_rss_peak_kib"), " MiB"),
            ("idle, resident", Bar::Below(6.0), mib("resident", "server_rss_kib"), " MiB"),
            ("each of 1,000 idle connections", Bar::Below(12.0), get("idle", "kib_each"), " KiB"),
            ("binary, stripped", Bar::Below(4.0), mib("binary", "kib"), " MiB"),
            ("start to first ack, a million queued, clean stop", Bar::Below(1_000.0), get("start-clean", "ms"), " ms"),
            ("the same after a kill", Bar::Below(3_000.0), get("start-killed", "ms"), " ms"),
            (
                "written a lone message, 1 a second",
                Bar::Most(8.0),
                get("rate-1", "written_bytes").map(|b| b / KIB),
                " KiB",
            ),
            (
                "written a message, 10 a second",
                Bar::Most(8.0),
                get("rate-10", "written_bytes").map(|b| b / KIB),
                " KiB",
            ),
            ("written a message, 100 a second", Bar::Told, get("rate-100", "written_bytes").map(|b| b / KIB), " KiB"),
            (
                "written a message, 10,000 a second",
                Bar::Told,
                get("rate-10000", "written_bytes").map(|b| b / KIB),
                " KiB",
            ),
            (
                "written at full load, of payload",
                Bar::Most(2.2),
                get("publish-8x100", "written_bytes").map(|b| b / PAYLOAD_BYTES),
                "×",
            ),
        ];
        for (name, bar, measured, unit) in rows {
            let (asked, met) = match (bar, measured) {
                (Bar::Told, _) => (String::new(), "told"),
                (bar, None) => (bar.text(unit), "not measured"),
                (bar, Some(value)) => (bar.text(unit), if bar.met(value) { "met" } else { "**not met**" }),
            };
            let measured = measured.map_or_else(|| "-".to_owned(), |value| format!("{}{unit}", small(Some(value))));
            let _ = writeln!(out, "| {name} | {asked} | {measured} | {met} |");
        }
    }
}

#[derive(Clone, Copy)]
enum Bar {
    Least(f64),
    Most(f64),
    Below(f64),
    /// Told, not asked for.
    Told,
}

impl Bar {
    fn met(self, value: f64) -> bool {
        match self {
            Self::Least(bar) => value >= bar,
            Self::Most(bar) => value <= bar,
            Self::Below(bar) => value < bar,
            Self::Told => true,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::Least(bar) => format!("≥ {bar}{unit}"),
            Self::Most(bar) => format!("≤ {bar}{unit}"),
            Self::Below(bar) => format!("< {bar}{unit}"),
            Self::Told => String::new(),
        }
    }
}

/// A whole number with its thousands apart.
fn count(value: Option<f64>) -> String {
    let Some(value) = value else { return "-".to_owned() };
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number where parts of it matter.
fn small(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => count(Some(value)),
        Some(value) => format!("{value:.2}"),
    }
}

#[allow(clippy::float_cmp, reason = "the values are exact")]
pub fn check() {
    let lines = r#"{"who":"tidegate","case":"publish-8x100","per_second":10.0,"written_bytes":512.0}
{"who":"tidegate","case":"publish-8x100","per_second":1000.0,"written_bytes":512.0}
{"who":"tidegate","case":"publish-8x100","per_second":1200.0,"written_bytes":768.0}
{"who":"redis-always","case":"publish-8x100","per_second":1600.0}"#;
    let figures = Figures::parse(lines).unwrap();
    assert_eq!(figures.get("tidegate", "publish-8x100", "per_second"), Some(1000.0), "the median, not the mean");
    let text = figures.markdown();
    assert!(text.contains("| redis-always | 1,600 | 0.62× |"), "{text}");
    assert!(text.contains("| ≥ 0.5× | 0.62× | met |"), "{text}");
    assert!(text.contains("| ≤ 2.2× | 2.00× | met |"), "{text}");
    assert!(text.contains("| idle, resident | < 6 MiB | - | not measured |"), "a bar is never met by silence: {text}");
    assert_eq!([count(Some(1_234_567.4)), count(Some(999.0))], ["1,234,567", "999"]);
}
