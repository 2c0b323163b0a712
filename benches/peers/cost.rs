//! What a run cost, by `/proc`: processor time of both sides, memory and bytes written of the server.

use std::fs;

/// Ticks a second in `/proc`, fixed by the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// Readings at one moment; what cannot be read is missing.
#[derive(Default)]
pub struct Cost {
    pub own_cpu_s: f64,
    pub server_cpu_s: Option<f64>,
    pub rss_kib: Option<f64>,
    pub rss_peak_kib: Option<f64>,
    /// Bytes that the server made the kernel write to storage: `write_bytes`, counted when a page is dirtied.
    pub written_bytes: Option<f64>,
}

impl Cost {
    pub fn read(pid: Option<u32>) -> Self {
        let server = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", pid?)).ok();
        let status = server("status");
        let kib = |name| status.as_deref().and_then(|text| field(text, name));
        Self {
            own_cpu_s: fs::read_to_string("/proc/self/stat").ok().and_then(|text| cpu_s(&text)).unwrap_or(0.0),
            server_cpu_s: server("stat").and_then(|text| cpu_s(&text)),
            rss_kib: kib("VmRSS:"),
            rss_peak_kib: kib("VmHWM:"),
            written_bytes: server("io").as_deref().and_then(|text| field(text, "write_bytes:")),
        }
    }
}

/// User and system time: fields 14 and 15, counted behind the name, which may hold anything.
pub fn cpu_s(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
