//! Sizes, durations and counts as people write them: `64KiB`, `500ms`, `10_000`.

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Things: no unit is written.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
}

/// Units of size and their bytes, largest first.
const SIZES: &[(&str, u64)] = &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Units of duration and their microseconds, largest first.
const DURATIONS: &[(&str, u64)] =
    &[("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

impl Unit {
    /// Its written units, largest first, with their worth in the smallest one.
    const fn table(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Count => &[],
            Self::Bytes => SIZES,
            Self::Millis | Self::Micros => DURATIONS,
        }
    }

    /// How much of the smallest written unit one of this unit is.
    const fn grain(self) -> u64 {
        match self {
            Self::Millis => 1_000,
            Self::Count | Self::Bytes | Self::Micros => 1,
        }
    }

    /// A noun for messages.
    pub(super) const fn noun(self) -> &'static str {
        match self {
            Self::Count => "a whole number",
            Self::Bytes => "a size",
            Self::Millis | Self::Micros => "a duration",
        }
    }

    /// The units to choose from, for messages; empty for a count.
    pub(super) const fn choices(self) -> &'static str {
        match self {
            Self::Count => "",
            Self::Bytes => " (units: B, KiB, MiB, GiB, TiB)",
            Self::Millis => " (units: ms, s, m, h, d)",
            Self::Micros => " (units: us, ms, s, m, h, d)",
        }
    }

    /// Reads a number of this unit. The error says what is wrong with the text, to follow the text itself.
    pub(super) fn parse(self, text: &str) -> Result<u64, String> {
        if let Some(rest) = text.strip_prefix('-') {
            return Err(if rest.starts_with(|c: char| c.is_ascii_digit()) { ", which is negative" } else { "" }.into());
        }
        let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
        let (digits, written) = text.split_at(digits_end);
        if !digits.starts_with(|c: char| c.is_ascii_digit()) || digits.ends_with('_') {
            return Err(String::new());
        }
        if written.starts_with(['.', ',']) {
            return Err(", which has a fraction".into());
        }
        let written = written.strip_prefix(' ').unwrap_or(written);
        let worth = match (self, written) {
            (Self::Count, "") => 1,
            (Self::Count, _) => return Err(", which is more than a number".into()),
            (_, "") => return Err(", which has no unit".into()),
            (_, written) => {
                let exact = self.table().iter().find(|(name, _)| *name == written);
                exact.ok_or_else(|| self.unknown_unit(written))?.1
            }
        };
        let mut number: u64 = 0;
        for digit in digits.bytes().filter(u8::is_ascii_digit) {
            let next = number.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit - b'0')));
            number = next.ok_or(", which is too large")?;
        }
        let smallest = number.checked_mul(worth).ok_or(", which is too large")?;
        if !smallest.is_multiple_of(self.grain()) {
            return Err(", which is finer than 1ms".into());
        }
        Ok(smallest / self.grain())
    }

    fn unknown_unit(self, written: &str) -> String {
        let lower = written.to_ascii_lowercase();
        let meant = match (self, lower.as_str()) {
            (Self::Bytes, "b" | "byte" | "bytes") => Some("B"),
            (Self::Bytes, "k" | "kb" | "kib") => Some("KiB"),
            (Self::Bytes, "m" | "mb" | "mib") => Some("MiB"),
            (Self::Bytes, "g" | "gb" | "gib") => Some("GiB"),
            (Self::Bytes, "t" | "tb" | "tib") => Some("TiB"),
            (Self::Bytes, _) => None,
            (_, "ms" | "msec" | "millis" | "milliseconds") => Some("ms"),
            (_, "s" | "sec" | "secs" | "second" | "seconds") => Some("s"),
            (_, "m" | "min" | "mins" | "minute" | "minutes") => Some("m"),
            (_, "h" | "hr" | "hour" | "hours") => Some("h"),
            (_, "d" | "day" | "days") => Some("d"),
            _ => None,
        };
        match meant {
            Some(meant) => format!(", whose unit `{written}` is unknown (did you mean `{meant}`?)"),
            None => format!(", whose unit `{written}` is unknown"),
        }
    }

    /// Writes a number of this unit in the largest unit that is exact; reads back as the same number.
    pub(super) fn show(self, number: u64) -> String {
        let Some(smallest) = number.checked_mul(self.grain()) else {
            return format!("{number}ms");
        };
        let Some(least) = self.table().last() else {
            return number.to_string();
        };
        if smallest == 0 {
            return format!("0{}", if self == Self::Bytes { least.0 } else { "ms" });
        }
        let (name, worth) = self.table().iter().find(|(_, worth)| smallest.is_multiple_of(*worth)).unwrap_or(least);
        format!("{}{name}", smallest / worth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write_is_read() {
        for (unit, text, expected) in [
            (Unit::Count, "10_000", 10_000),
            (Unit::Bytes, "64KiB", 65_536),
            (Unit::Bytes, "1 MiB", 1 << 20),
            (Unit::Bytes, "12B", 12),
            (Unit::Bytes, "2GiB", 2 << 30),
            (Unit::Bytes, "16777215TiB", 16_777_215 << 40),
            (Unit::Millis, "500ms", 500),
            (Unit::Millis, "2s", 2_000),
            (Unit::Millis, "5m", 300_000),
            (Unit::Millis, "7d", 604_800_000),
            (Unit::Millis, "2000us", 2),
            (Unit::Micros, "1h", 3_600_000_000),
        ] {
            assert_eq!(unit.parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_number_says_why() {
        for (unit, text, why) in [
            (Unit::Count, "", ""),
            (Unit::Count, "ten", ""),
            (Unit::Count, "_1", ""),
            (Unit::Count, "1_", ""),
            (Unit::Count, "-1", ", which is negative"),
            (Unit::Count, "5s", ", which is more than a number"),
            (Unit::Count, "18446744073709551616", ", which is too large"),
            (Unit::Bytes, "64", ", which has no unit"),
            (Unit::Bytes, "16777216TiB", ", which is too large"),
            (Unit::Bytes, "64KB", ", whose unit `KB` is unknown (did you mean `KiB`?)"),
            (Unit::Bytes, "64ms", ", whose unit `ms` is unknown"),
            (Unit::Bytes, "1.5GiB", ", which has a fraction"),
            (Unit::Millis, "-5s", ", which is negative"),
            (Unit::Millis, "5 min", ", whose unit `min` is unknown (did you mean `m`?)"),
            (Unit::Millis, "1500us", ", which is finer than 1ms"),
            (Unit::Millis, "300000000000d", ", which is too large"),
        ] {
            assert_eq!(unit.parse(text), Err(why.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(number in 0..=u64::MAX / 1_000) {
            for unit in [Unit::Count, Unit::Bytes, Unit::Millis, Unit::Micros] {
                prop_assert_eq!(unit.parse(&unit.show(number)), Ok(number));
            }
        }

        #[test]
        fn any_text_is_a_number_or_an_error(text in ".*") {
            for unit in [Unit::Count, Unit::Bytes, Unit::Millis, Unit::Micros] {
                let _ = unit.parse(&text);
            }
        }
    }
}
