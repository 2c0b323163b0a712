//! What is printed: JSON a line for programs, text for people; a reader that has gone ends the command quietly.

use super::exit::CliError;
use serde::Serialize;
use std::io::{self, Write};

/// Prints one line and flushes, so that a reader at the other end of a pipe sees it now.
pub(super) fn line(text: impl AsRef<[u8]>) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref())?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// Prints bytes as they are.
pub(super) fn raw(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Prints one JSON object on a line.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), CliError> {
    let text = serde_json::to_vec(value).map_err(|e| CliError::failure(format!("cannot write JSON: {e}")))?;
    line(text)
}

/// Says on standard error what went wrong; nothing when there is nothing to say.
pub(super) fn complain(message: &str) {
    if !message.is_empty() {
        note(&format!("tidegate: {message}"));
    }
}

/// Tells a person something on standard error.
pub(super) fn note(message: &str) {
    // When standard error is closed nobody can be told.
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Asks a person something on standard error; the answer comes on the same line.
pub(super) fn ask(question: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(question.as_bytes()).and_then(|()| err.flush());
}

/// Rows in columns as wide as they need; the first row is the head. Numbers (all rows but the head) stand right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, c: usize| row.get(c).cloned().unwrap_or_default();
    let width = |c| rows.iter().map(|r| cell(r, c).chars().count()).max().unwrap_or(0);
    let number = |c| rows.iter().skip(1).all(|r| cell(r, c).starts_with(|x: char| x.is_ascii_digit()));
    let mut out = String::new();
    for row in rows {
        let mut text = String::new();
        for c in 0..columns {
            let value = cell(row, c);
            let pad = " ".repeat(width(c) - value.chars().count());
            let (left, right) = if number(c) { (pad.as_str(), "") } else { ("", pad.as_str()) };
            text.push_str(&format!("{left}{value}{right}  "));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn tables_align_numbers_to_the_right() {
        let row = |cells: [&str; 2]| cells.map(String::from).to_vec();
        let text = super::table(&[row(["queue", "messages"]), row(["main", "12"]), row(["a-long-one", "3"])]);
        assert_eq!(text, "queue       messages\nmain              12\na-long-one         3\n");
    }
}
