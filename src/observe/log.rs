//! The log: one line a record on standard error, for people or as JSON, with UTC times.
//!
//! The log must never stop the broker. A line is cut to [`LINE_BYTES_MAX`] bytes, the most a pipe takes whole, and is
//! written by one call, after asking whether there is room. Where a reader has stalled the line is lost and counted,
//! and the next line that gets through is preceded by one that says how many were lost.

use crate::config::{LogFormat, LogSettings};
use crate::model::{Civil, Wall};
use log::{Level, Log, Metadata, Record, SetLoggerError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fmt::Write as _;
use std::io::Stderr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Longest line, in bytes with its end: `PIPE_BUF` on Linux, below which a write to a pipe is whole or not at all.
pub const LINE_BYTES_MAX: usize = 4_096;
/// Longest that a line waits for a reader which kept up so far, in milliseconds. One that did not is not waited for.
pub const WAIT_MS_MAX: u32 = 10;
/// What other crates may say: their informative lines speak of their own insides.
const FOREIGN_LEVEL: Level = Level::Warn;
/// Our own targets.
const OURS: &str = "tidegate";

static LOGGER: OnceLock<Logger<Stderr>> = OnceLock::new();

/// Starts logging to standard error. `now` is asked for the time of each line.
///
/// # Errors
/// When the process has a logger already.
pub fn init(settings: &LogSettings, now: fn() -> Wall) -> Result<(), SetLoggerError> {
    log::set_logger(LOGGER.get_or_init(|| Logger::new(std::io::stderr(), settings.format, now)))?;
    apply(settings);
    Ok(())
}

/// Takes other settings while running; does nothing to the form before [`init`].
pub fn apply(settings: &LogSettings) {
    log::set_max_level(settings.level);
    if let Some(logger) = LOGGER.get() {
        logger.json.store(settings.format == LogFormat::Json, Ordering::Relaxed);
    }
}

/// Lines lost since the start because nobody read them or the write failed.
#[must_use]
pub fn lost() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.lost.load(Ordering::Relaxed))
}

/// A [`Log`] on a file descriptor.
struct Logger<W> {
    out: W,
    json: AtomicBool,
    now: fn() -> Wall,
    lost: AtomicU64,
    /// Lost lines already told; the lock also keeps lines and their notes in order.
    told: Mutex<u64>,
}

impl<W: AsFd> Logger<W> {
    fn new(out: W, format: LogFormat, now: fn() -> Wall) -> Self {
        let json = AtomicBool::new(format == LogFormat::Json);
        Self { out, json, now, lost: AtomicU64::new(0), told: Mutex::new(0) }
    }

    fn line(&self, level: Level, target: &str, message: &str) -> String {
        let time = rfc3339((self.now)());
        if self.json.load(Ordering::Relaxed) {
            json(&time, level, target, message)
        } else {
            text(&time, level, target, message)
        }
    }

    fn send(&self, level: Level, target: &str, message: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = self.lost.load(Ordering::Relaxed);
        let wait_ms = if lost == *told { WAIT_MS_MAX } else { 0 };
        if lost > *told {
            let note = format!("{} log lines were lost: nobody read them", lost - *told);
            if !self.write(&self.line(Level::Warn, OURS, &note), 0) {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            *told = lost;
        }
        if !self.write(&self.line(level, target, message), wait_ms) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a line if there is room for it within the time; whether it went out.
    fn write(&self, line: &str, wait_ms: u32) -> bool {
        let fd = self.out.as_fd();
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait_ms) * 1_000_000 };
        let mut ready = [PollFd::new(&fd, PollFlags::OUT)];
        loop {
            match poll(&mut ready, Some(&wait)) {
                Ok(0) => return false,
                Ok(_) if !ready[0].revents().contains(PollFlags::OUT) => return false,
                Err(Errno::INTR) => continue,
                // A descriptor that cannot be polled can be written: poll is a courtesy.
                Ok(_) | Err(_) => {}
            }
            match rustix::io::write(fd, line.as_bytes()) {
                Ok(written) => return written == line.len(),
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

impl<W: AsFd + Send + Sync> Log for Logger<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().strip_prefix(OURS).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        ours || metadata.level() <= FOREIGN_LEVEL
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            match record.args().as_str() {
                Some(message) => self.send(record.level(), record.target(), message),
                None => self.send(record.level(), record.target(), &record.args().to_string()),
            }
        }
    }

    fn flush(&self) {}
}

/// A line for people. Control characters are escaped, so that a message is one line and cannot forge another.
fn text(time: &str, level: Level, target: &str, message: &str) -> String {
    let room = target.strip_prefix(OURS).map_or(target, |rest| rest.trim_start_matches(':'));
    let mut line = format!("{time} {level:<5} ");
    if !room.is_empty() {
        escape(&mut line, room);
        line.push_str(": ");
    }
    escape(&mut line, message);
    cut(&mut line, LINE_BYTES_MAX - 1);
    line.push('\n');
    line
}

fn escape(line: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

/// A JSON object. The message is cut until the object fits.
fn json(time: &str, level: Level, target: &str, message: &str) -> String {
    let level = level.as_str().to_ascii_lowercase();
    let mut message = message.to_owned();
    let mut target = target.to_owned();
    cut(&mut target, 256);
    cut(&mut message, LINE_BYTES_MAX);
    loop {
        let object = serde_json::json!({ "time": time, "level": level, "target": target, "message": message });
        let line = format!("{object}\n");
        let over = line.len().saturating_sub(LINE_BYTES_MAX);
        if over == 0 {
            return line;
        }
        // An escape makes up to six bytes of one: take what is surely too much, and look again.
        let keep = message.len().saturating_sub(1 + over.div_ceil(6));
        cut(&mut message, keep);
    }
}

/// Shortens a text to at most `bytes`, at a character's end, with a mark where it was cut.
fn cut(text: &mut String, bytes: usize) {
    const MARK: &str = "…";
    if text.len() > bytes {
        let mut end = bytes.saturating_sub(MARK.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        if bytes >= MARK.len() {
            text.push_str(MARK);
        }
    }
}

/// A time as RFC 3339 in UTC with milliseconds, `2026-11-21T12:04:40.123Z`. Years above 9999 have more digits.
#[must_use]
pub fn rfc3339(time: Wall) -> String {
    let Civil { year, month, day, hour, minute, second, ms } = time.civil();
    let mut text = String::with_capacity(24);
    // Writing to a String cannot fail.
    let _ = write!(text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{BufRead, BufReader, PipeWriter, Read};

    fn noon() -> Wall {
        Wall(1_795_262_680_123)
    }

    fn piped(format: LogFormat) -> (Logger<PipeWriter>, std::io::PipeReader) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        (Logger::new(writer, format, noon), reader)
    }

    fn say(logger: &Logger<PipeWriter>, level: Level, target: &str, message: &str) {
        logger.log(&Record::builder().level(level).target(target).args(format_args!("{message}")).build());
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (1_795_262_680_123, "2026-11-21T12:04:40.123Z"),
        ] {
            assert_eq!(rfc3339(Wall(ms)), text);
        }
        let _ = rfc3339(Wall(u64::MAX));
    }

    #[test]
    fn lines_for_people_and_for_programs() {
        let (logger, reader) = piped(LogFormat::Text);
        say(&logger, Level::Info, "tidegate::broker", "one\ntwo\u{1b}[31m");
        say(&logger, Level::Error, "tidegate", "plain");
        logger.json.store(true, Ordering::Relaxed);
        say(&logger, Level::Warn, "polling", "say \"hi\"\n");
        say(&logger, Level::Info, "polling", "not for us");
        say(&logger, Level::Info, "tidegate_like", "not ours");
        drop(logger);
        let lines: Vec<String> = BufReader::new(reader).lines().map(|line| line.expect("text")).collect();
        assert_eq!(
            lines,
            [
                r"2026-11-21T12:04:40.123Z INFO  broker: one\ntwo\u{1b}[31m",
                "2026-11-21T12:04:40.123Z ERROR plain",
                r#"{"level":"warn","message":"say \"hi\"\n","target":"polling","time":"2026-11-21T12:04:40.123Z"}"#,
            ]
        );
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_not_the_broker() {
        let (logger, mut reader) = piped(LogFormat::Text);
        let mut said = 0_u64;
        while logger.lost.load(Ordering::Relaxed) < 3 {
            say(&logger, Level::Info, "tidegate", &"x".repeat(2_000));
            said += 1;
            assert!(said < 100_000, "the pipe never filled");
        }
        let mut bytes = vec![0; 32_768];
        reader.read_exact(&mut bytes).expect("what was written");
        say(&logger, Level::Info, "tidegate", "again");
        drop(logger);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        let last: Vec<&str> = rest.lines().rev().take(2).collect();
        assert!(last[0].ends_with("INFO  again"), "{last:?}");
        assert!(last[1].ends_with("WARN  3 log lines were lost: nobody read them"), "{last:?}");
    }

    #[test]
    fn a_closed_reader_is_no_failure() {
        let (logger, reader) = piped(LogFormat::Text);
        drop(reader);
        say(&logger, Level::Info, "tidegate", "to nobody");
        assert_eq!(logger.lost.load(Ordering::Relaxed), 1);
    }

    proptest! {
        #[test]
        fn any_message_is_one_line_that_fits(message in "(.|\n){0,200}", repeat in 1_usize..60) {
            let message = message.repeat(repeat);
            for line in [text("t", Level::Info, "tidegate::x", &message), json("t", Level::Info, "x", &message)] {
                prop_assert!(line.len() <= LINE_BYTES_MAX);
                prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
            }
        }
    }
}
