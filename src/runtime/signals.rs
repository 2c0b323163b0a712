//! The signals a daemon hears, as a stream.

use async_signal::{Signal, Signals};
use smol::stream::StreamExt;
use std::io;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// TERM or INT: stop.
    Stop,
    /// HUP: read the configuration again.
    Reload,
}

/// Hears TERM, INT and HUP instead of dying of them.
#[derive(Debug)]
pub struct Listening(Signals);

impl Listening {
    /// Begins to hear them.
    ///
    /// # Errors
    /// What the kernel says to the handlers.
    pub fn start() -> io::Result<Self> {
        Signals::new([Signal::Term, Signal::Int, Signal::Hup]).map(Self)
    }

    /// The next one.
    ///
    /// # Errors
    /// When the pipe behind the handlers fails; none comes after.
    pub async fn next(&mut self) -> io::Result<Asked> {
        match self.0.next().await {
            Some(Ok(Signal::Hup)) => Ok(Asked::Reload),
            Some(Ok(_)) => Ok(Asked::Stop),
            Some(Err(error)) => Err(error),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
