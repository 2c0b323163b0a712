//! What can go wrong for a caller of the client, each with a sentence that says what to do.

use super::address::AddressError;
use super::link::LinkError;
use crate::model::{ChannelError, FilterError, RecordError};
use crate::seal::{CompressionError, SealError};
use crate::tls::TlsError;
use crate::wire::Code;
use std::fmt;

/// Why the client could not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// The address cannot be read.
    Address(AddressError),
    /// The broker cannot be reached: where, and what the system says.
    Connect(String, String),
    /// There is no TLS with the broker: where, and why.
    Tls(String, TlsError),
    /// The connection broke while this was under way; what became of it is not known.
    Disconnected(String),
    /// The broker sent what it may not.
    Link(LinkError),
    /// What is to be shown to the broker cannot be had: why.
    Credentials(String),
    /// The broker said no.
    Refused(Refusal),
    /// The caller's time is over.
    TimedOut,
    /// The client was closed.
    Closed,
    /// The channel breaks a rule.
    Channel(ChannelError),
    /// The filter breaks a rule.
    Filter(FilterError),
    /// The record cannot be written.
    Record(RecordError),
    /// What came cannot be expanded.
    Compression(CompressionError),
    /// The message cannot be sealed or signed.
    Seal(SealError),
    /// The system has no random bits.
    Entropy,
    /// The message is larger than the client's or the broker's bound: bytes, bound.
    TooLarge(usize, usize),
}

/// The broker's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why, as a [`Code`] where this build knows it.
    pub code: Option<Code>,
    /// Why, as a number.
    pub number: u16,
    /// Milliseconds after which trying again makes sense; 0 is unknown.
    pub retry_after_ms: u32,
    /// For people.
    pub detail: String,
}

impl Refusal {
    /// A refusal as the broker wrote it.
    #[must_use]
    pub fn new(number: u16, retry_after_ms: u32, detail: &str) -> Self {
        Self { code: Code::from_u16(number), number, retry_after_ms, detail: detail.into() }
    }

    /// Whether the same can be tried again later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.code.is_some_and(Code::is_retryable)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => f.write_str(code.name())?,
            None => write!(f, "code {}", self.number)?,
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        if self.retry_after_ms > 0 {
            write!(f, " (try again in {} ms)", self.retry_after_ms)?;
        }
        Ok(())
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(e) => e.fmt(f),
            Self::Connect(address, error) => {
                write!(f, "cannot connect to {address}: {error}; is the broker running there?")
            }
            Self::Tls(address, error) => write!(f, "no TLS with {address}: {error}"),
            Self::Disconnected(why) => {
                write!(f, "the connection broke ({why}); whether this was done is not known, so ask again")
            }
            Self::Link(e) => e.fmt(f),
            Self::Credentials(why) => write!(f, "no credentials to show: {why}"),
            Self::Refused(refusal) if refusal.code == Some(Code::AuthFailed) => {
                write!(f, "the broker let nobody in: {refusal}; show credentials it knows")
            }
            Self::Refused(refusal) => write!(f, "the broker refused: {refusal}"),
            Self::TimedOut => f.write_str("no answer came in time"),
            Self::Closed => f.write_str("the client is closed"),
            Self::Channel(e) => e.fmt(f),
            Self::Filter(e) => e.fmt(f),
            Self::Record(e) => e.fmt(f),
            Self::Compression(e) => e.fmt(f),
            Self::Seal(e) => write!(f, "the message cannot be sealed or signed: {e}"),
            Self::Entropy => f.write_str("the system has no random bits"),
            Self::TooLarge(bytes, max) => write!(f, "the message has {bytes} bytes; at most {max} are taken here"),
        }
    }
}

impl std::error::Error for ClientError {}

macro_rules! from {
    ($($source:ty => $variant:ident),*) => {$(
        impl From<$source> for ClientError {
            fn from(e: $source) -> Self {
                Self::$variant(e)
            }
        }
    )*};
}
from!(AddressError => Address, LinkError => Link, ChannelError => Channel, FilterError => Filter, RecordError => Record,
    CompressionError => Compression, SealError => Seal);
