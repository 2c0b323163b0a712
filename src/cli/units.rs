//! Durations and sizes as people write and read them.

use crate::model::Filter;
use std::time::Duration;

/// Reads `500ms`, `2s`, `5m`, `1h`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err("write a number and a unit: 500ms, 2s, 5m, 1h or 7d".into()),
    };
    let number: f64 = number.parse().map_err(|_| "the number cannot be read; write for example 2s".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| "the duration is too long".into())
}

/// A duration to repeat something at, not so short that it would do nothing else.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        short if short < Duration::from_millis(100) => Err("the interval must be 100ms or more".into()),
        interval => Ok(interval),
    }
}

/// A duration in milliseconds that fits the wire's 32 bits.
pub(super) fn duration_ms(text: &str) -> Result<u32, String> {
    u32::try_from(duration(text)?.as_millis()).map_err(|_| "the duration is longer than 49 days".into())
}

/// As `duration_ms`, where nothing would mean that there is no limit, or no pause.
pub(super) fn some_ms(text: &str) -> Result<u32, String> {
    match duration_ms(text)? {
        0 => Err("write at least 1ms".into()),
        ms => Ok(ms),
    }
}

/// A filter of channels.
pub(super) fn filter(text: &str) -> Result<String, String> {
    Filter::parse(text).map(|f| f.as_str().to_owned()).map_err(|error| error.to_string())
}

/// Milliseconds for people.
pub(super) fn show_ms(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0 => format!("{ms}ms"),
        1..=119 => format!("{}.{}s", s, ms % 1_000 / 100),
        120..=7_199 => format!("{}m{:02}s", s / 60, s % 60),
        7_200..=172_799 => format!("{}h{:02}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3_600 % 24),
    }
}

/// Bytes for people.
pub(super) fn show_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1_024.0 {
            return if unit == "B" { format!("{bytes}B") } else { format!("{value:.1}{unit}") };
        }
        value /= 1_024.0;
    }
    format!("{value:.1}TiB")
}

/// A count with thousands parted.
pub(super) fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration_ms("2m"), Ok(120_000));
        for bad in ["", "5", "s", "-1s", "1w", "1e3s", "100d"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
        assert!(some_ms("0s").is_err() && some_ms("900us").is_err() && some_ms("1ms") == Ok(1));
        for (ms, text) in
            [(7, "7ms"), (1_250, "1.2s"), (125_000, "2m05s"), (7_260_000, "2h01m"), (200_000_000, "2d07h")]
        {
            assert_eq!(show_ms(ms), text);
        }
        assert_eq!((show_bytes(999), show_bytes(1_536)), ("999B".into(), "1.5KiB".into()));
        assert_eq!((show_count(1_234_567), show_count(12)), ("1,234,567".into(), "12".into()));
    }

    #[test]
    fn an_interval_is_never_so_short_that_nothing_else_is_done() {
        assert!(interval("0s").is_err() && interval("99ms").is_err());
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
    }
}
