//! Reading what nobody should see: from the terminal without echo, or a line of standard input.

use super::exit::{CliError, Exit};
use super::output;
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcsetattr};
use std::io::{self, Stdin};
use zeroize::Zeroizing;

/// Most bytes of a line.
const LINE_BYTES_MAX: usize = 4 * 1024;

/// Whether somebody sits in front of it.
pub(super) fn is_terminal() -> bool {
    isatty(io::stdin())
}

/// Reads a line without its end: after a question and unseen when there is a terminal.
pub(super) fn secret(question: &str) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let stdin = io::stdin();
    if !isatty(&stdin) {
        return read_line(&stdin, false);
    }
    let unseen = Unseen::new(&stdin).map_err(|e| CliError::failure(format!("the terminal cannot be set: {e}")))?;
    output::ask(question);
    let line = read_line(&stdin, true);
    drop(unseen);
    output::note("");
    line
}

/// A terminal that shows nothing and gives each key as it is pressed, until dropped.
struct Unseen<'a> {
    stdin: &'a Stdin,
    before: Termios,
}

impl<'a> Unseen<'a> {
    fn new(stdin: &'a Stdin) -> Result<Self, Errno> {
        let before = tcgetattr(stdin)?;
        let mut unseen = before.clone();
        // With signals off: a program stopped by Ctrl-C would leave the terminal as it is now.
        unseen.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        unseen.special_codes[SpecialCodeIndex::VMIN] = 1;
        unseen.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(stdin, OptionalActions::Flush, &unseen)?;
        Ok(Self { stdin, before })
    }
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        // If it fails there is nothing else to try.
        let _ = tcsetattr(self.stdin, OptionalActions::Flush, &self.before);
    }
}

/// Reads byte by byte, so that nothing is left in a buffer that nobody zeroes.
fn read_line(stdin: &Stdin, keys: bool) -> Result<Zeroizing<Vec<u8>>, CliError> {
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX));
    let mut any = false;
    loop {
        let mut byte = Zeroizing::new([0]);
        match rustix::io::read(stdin, &mut *byte) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(CliError::failure(format!("standard input cannot be read: {error}"))),
        }
        any = true;
        match byte[0] {
            b'\n' => break,
            b'\r' if keys => break,
            // Ctrl-C, Ctrl-D, Ctrl-U, and a character back.
            3 if keys => return Err(CliError::new(Exit::Interrupted, "")),
            4 if keys => break,
            0x15 if keys => line.clear(),
            8 | 0x7f if keys => while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            byte if line.len() < LINE_BYTES_MAX => line.push(byte),
            _ => return Err(CliError::failure(format!("the line is longer than {LINE_BYTES_MAX} bytes"))),
        }
    }
    if !any {
        return Err(CliError::usage("standard input is empty: expected a line"));
    }
    if !keys && line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}
