//! Ways in: bytes of a dialect to the broker's requests, and back. Native frames are the first.

pub mod native;

use crate::wire::{
    Ack, Auth, Batch, BatchItems, Cancel, Code, Consume, Contract, Credit, Extensions, FilterItems, Hello, History,
    Nack, Reauth, Request as Ask, Response, Source, Subscribe,
};
use std::borrow::Cow;

/// What a client asks of the broker, whatever dialect it speaks.
#[derive(Clone, Debug)]
pub enum Request<'a> {
    /// Open the session; what the client says beside it.
    Hello(Hello<'a>, Extensions<'a>),
    /// Credentials, to open the session.
    Auth(Auth<'a>),
    /// Credentials of an open session, renewed.
    Reauth(Reauth<'a>),
    /// Publish records with consecutive numbers.
    Publish {
        /// Stream whose order they belong to.
        stream: u32,
        /// Contract asked for.
        contract: Contract,
        /// Number of the first.
        first: u64,
        /// The records.
        records: Records<'a>,
        /// Where a bridge has them from; checked against their count.
        source: Option<Source<'a>>,
    },
    /// Publish records that were compressed together.
    Packed {
        /// Stream whose order they belong to.
        stream: u32,
        /// What they are once they are expanded.
        head: Batch,
        /// The LZ4 block.
        block: &'a [u8],
        /// Bytes it says to become.
        len: u32,
        /// As in [`Request::Publish`].
        source: Option<Source<'a>>,
    },
    /// Open live fan-out.
    Subscribe(u32, Subscribe<'a>),
    /// End a stream.
    Unsubscribe(u32),
    /// Open a durable consumer.
    Consume(u32, Consume<'a>, FilterItems<'a>),
    /// Deliveries are done.
    Ack(u32, Ack),
    /// Deliveries failed.
    Nack(u32, Nack<'a>),
    /// More may be sent.
    Credit(u32, Credit),
    /// Hold a stream.
    Pause(u32, Option<u16>),
    /// Go on.
    Resume(u32),
    /// Past messages.
    History(u32, History<'a>),
    /// A question.
    Ask(u32, Ask<'a>, &'a [u8]),
    /// An answer.
    Answer(u32, Response<'a>, &'a [u8]),
    /// A question is given up.
    Cancel(u32, Cancel),
    /// Are you there.
    Ping(u64),
    /// Nothing to do: an answer to a ping, or a goaway of the client.
    Alive,
    /// The client ends the session.
    Close,
}

/// One record or several.
#[derive(Clone, Debug)]
pub enum Records<'a> {
    /// One.
    One(Option<&'a [u8]>),
    /// Several.
    Many(BatchItems<'a>),
}

impl Records<'_> {
    /// How many are left.
    #[must_use]
    pub fn left(&self) -> u32 {
        match self {
            Self::One(one) => u32::from(one.is_some()),
            Self::Many(items) => items.len() as u32,
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Self::One(one) => one.take(),
            Self::Many(items) => items.next(),
        }
    }
}

/// A peer's mistake that ends the session: what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The code.
    pub code: Code,
    /// For people.
    pub detail: Cow<'static, str>,
}

impl Fault {
    /// A fault with a fixed text.
    #[must_use]
    pub const fn new(code: Code, detail: &'static str) -> Self {
        Self { code, detail: Cow::Borrowed(detail) }
    }
}
