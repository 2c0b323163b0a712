//! Times as people write them: `2027-01-01T00:00:00Z` (RFC 3339, UTC alone) or `2027-01-01`, which is its first moment.

use crate::model::Wall;

/// What is expected of a time, for messages.
pub const TIME: &str = "a time in UTC such as 2027-01-01T00:00:00Z, or a day such as 2027-01-01";

/// Reads a time from 1970 to 9999.
#[must_use]
pub fn parse(text: &str) -> Option<Wall> {
    let (day, time) = match text.split_once('T') {
        Some((day, time)) => (day, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, date] = numbers(day, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    if !(1_970..=9_999).contains(&year) || hour > 23 || minute > 59 || second > 59 || date == 0 {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    if date > days {
        return None;
    }
    // Days since 0000-03-01, so that a leap day is the last of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + date - 1 - 719_468;
    Some(Wall((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000))
}

/// Numbers with exactly so many digits each.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut out = [0; 3];
    for (number, digits) in out.iter_mut().zip(digits) {
        let part = parts.next()?;
        if part.len() != digits || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

/// Writes a time, without its milliseconds.
#[must_use]
pub fn show(wall: Wall) -> String {
    let c = wall.civil();
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", c.year, c.month, c.day, c.hour, c.minute, c.second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2027-01-01", 1_798_761_600),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(parse(text), Some(Wall(seconds * 1_000)), "{text}");
            assert!(show(Wall(seconds * 1_000)).starts_with(text), "{text}");
        }
        // Every fifth day or so of four centuries, there and back.
        for day in (0..146_097u64).step_by(5) {
            let wall = Wall((day * 86_400 + day % 86_400) * 1_000);
            assert_eq!(parse(&show(wall)), Some(wall));
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2027",
            "2027-13-01",
            "2027-00-01",
            "2027-02-29",
            "2100-02-29",
            "2027-01-00",
            "2027-1-1",
            "1969-12-31",
            "2027-01-01T00:00:00",
            "2027-01-01T24:00:00Z",
            "2027-01-01T00:60:00Z",
            "2027-01-01T00:00Z",
            "+027-01-01",
            "2027-01-01T00:00:00+01:00",
            "2027-01-01-01",
            "Ｔ027-01-01",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
