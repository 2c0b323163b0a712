//! What both sessions share: bytes to frames, and messages that come in chunks.

use super::{Failure, Reason};
use crate::client::LinkError;
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::wire::{DELIVER_ITEM_OVERHEAD_BYTES_MAX, Decoded, Deliver, Frame, WireError, decode};

/// Why the frames of a session are not read on.
#[derive(Debug)]
pub(super) enum Stop {
    /// It failed: why, and after how many milliseconds to come again; 0 is unknown.
    Failed(Failure, u32),
    /// It was ended on purpose.
    Over,
}

impl Stop {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Failed(Failure { reason, detail: detail.into() }, 0)
    }
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Self::new(Reason::Protocol, error.to_string())
    }
}

impl From<LinkError> for Stop {
    fn from(error: LinkError) -> Self {
        let reason = match error {
            LinkError::Dead => Reason::Heartbeat,
            LinkError::HandshakeTimeout => Reason::Timeout,
            LinkError::Wire(_) | LinkError::Sequence(..) | LinkError::Unexpected(_) | LinkError::Version(_) => {
                Reason::Protocol
            }
        };
        Self::new(reason, error.to_string())
    }
}

/// Gives each whole frame of what was kept and what follows it, and keeps the rest.
pub(super) fn each_frame(
    kept: &mut Vec<u8>,
    mut bytes: &[u8],
    payload_bytes_max: u32,
    mut each: impl FnMut(Frame<'_>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    loop {
        // Of what follows only as much is copied as the kept frame needs.
        let input = if kept.is_empty() { bytes } else { kept.as_slice() };
        match decode(input, payload_bytes_max)? {
            Decoded::Frame(frame, len) => {
                each(frame)?;
                if kept.is_empty() {
                    bytes = &bytes[len..];
                } else {
                    kept.clear();
                }
            }
            Decoded::Incomplete(_) if bytes.is_empty() => return Ok(()),
            Decoded::Incomplete(_) if kept.is_empty() => {
                kept.extend_from_slice(bytes);
                return Ok(());
            }
            Decoded::Incomplete(need) => {
                let (more, rest) = bytes.split_at((need - kept.len()).min(bytes.len()));
                kept.extend_from_slice(more);
                bytes = rest;
            }
        }
    }
}

/// A delivery under way in chunks. A broker sends the chunks of one before it begins another on the same stream, and no
/// stream of ours is given two at a time.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    stream: u32,
    head: Option<Deliver>,
    bytes: Vec<u8>,
}

impl Assembly {
    /// The first chunk.
    pub(super) fn begin(&mut self, stream: u32, head: Deliver, payload: &[u8]) -> Result<(), Stop> {
        if head.total as usize > MESSAGE_BYTES_MAX as usize + DELIVER_ITEM_OVERHEAD_BYTES_MAX {
            return Err(Stop::new(Reason::Protocol, "a delivery is larger than any message"));
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(payload);
        (self.stream, self.head) = (stream, Some(head));
        Ok(())
    }

    /// Another chunk; the whole once it was the last.
    pub(super) fn go_on(
        &mut self,
        stream: u32,
        payload: &[u8],
        more: bool,
    ) -> Result<Option<(Deliver, Vec<u8>)>, Stop> {
        let Some(head) = self.head.filter(|_| self.stream == stream) else {
            return Err(Stop::new(Reason::Protocol, "a chunk continues a delivery that was never begun"));
        };
        self.bytes.extend_from_slice(payload);
        if self.bytes.len() > head.total as usize {
            return Err(Stop::new(Reason::Protocol, "a delivery is longer than it says"));
        }
        if more {
            return Ok(None);
        }
        self.head = None;
        Ok(Some((head, std::mem::take(&mut self.bytes))))
    }
}
