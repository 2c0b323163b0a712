//! Whole frames: decode borrows, encode writes into the caller's buffer.

use super::crc::crc32c;
use super::error::WireError;
use super::head::{Extended, Extensions, Head};
use super::header::{FLAG_CONT, FLAG_MORE, FrameType, Header, MAGIC, flags_contradict};
use crate::model::limits::{HEAD_BYTES_MAX, HEADER_BYTES};

/// A checked frame, borrowing from the bytes it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header.
    pub header: Header,
    /// Encoded head.
    pub head: &'a [u8],
    /// Opaque payload.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the head as the type `H`, skipping extensions it does not know.
    ///
    /// # Errors
    /// [`WireError::Head`].
    pub fn head<H: Head<'a>>(&self) -> Result<H, WireError> {
        self.head_with_extensions().map(|(head, _)| head)
    }

    /// Reads the head and gives the extensions behind it.
    ///
    /// # Errors
    /// [`WireError::Head`], also when the frame is of another type than `H`: bytes are never read as what they are not.
    pub fn head_with_extensions<H: Head<'a>>(&self) -> Result<(H, Extensions<'a>), WireError> {
        let malformed = WireError::Head(self.header.kind as u8);
        if self.header.kind != H::KIND {
            return Err(malformed);
        }
        let (head, rest) = postcard::take_from_bytes::<H>(self.head).map_err(|_| malformed)?;
        let extensions = Extensions::parse(rest).ok_or(malformed)?;
        Ok((head, extensions))
    }

    /// The payload of a message that is not chunked, whose head announces `total` bytes.
    ///
    /// # Errors
    /// [`WireError::Payload`] when the length is another; [`WireError::FlagsContradict`] when this is a chunk.
    pub fn unchunked(&self, total: u32) -> Result<&'a [u8], WireError> {
        if self.header.flags & (FLAG_MORE | FLAG_CONT) != 0 {
            return Err(WireError::FlagsContradict);
        }
        if self.header.payload_len != total {
            return Err(WireError::Payload(self.header.kind as u8));
        }
        Ok(self.payload)
    }
}

/// What the first bytes of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A frame, and how many bytes it took.
    Frame(Frame<'a>, usize),
    /// Not yet a whole frame: this many bytes are needed in all before trying again.
    Incomplete(usize),
}

/// Reads one frame from the start of `bytes`. Never panics, never allocates.
///
/// # Errors
/// What is wrong with the header, as soon as it is readable, or the checksum.
pub fn decode(bytes: &[u8], payload_bytes_max: u32) -> Result<Decoded<'_>, WireError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        // A stranger is recognised by the first bytes, without waiting for a whole header.
        let known = MAGIC.to_be_bytes();
        if let Some(&[a, b]) = bytes.first_chunk::<2>()
            && [a, b] != known
        {
            return Err(WireError::Magic(u16::from_be_bytes([a, b])));
        }
        return Ok(Decoded::Incomplete(HEADER_BYTES));
    };
    let parsed = Header::parse(header, payload_bytes_max)?;
    let len = parsed.frame_len();
    let Some(body) = bytes.get(HEADER_BYTES..len) else {
        return Ok(Decoded::Incomplete(len));
    };
    let computed = crc32c(&header[..HEADER_BYTES - 4], body);
    if computed != parsed.crc {
        return Err(WireError::Crc(computed, parsed.crc));
    }
    let (head, payload) = body.split_at(usize::from(parsed.head_len));
    Ok(Decoded::Frame(Frame { header: parsed, head, payload }, len))
}

/// Writes a whole frame with its sequence and checksum; returns its length.
///
/// # Errors
/// [`WireError::BufferTooSmall`]; [`WireError::HeadTooLarge`] when texts or extensions pass
/// [`HEAD_BYTES_MAX`]; [`WireError::FlagsContradict`] when the peer would refuse the flags.
pub fn encode<'h, H: Head<'h>>(
    out: &mut [u8],
    flags: u16,
    stream: u32,
    sequence: u32,
    head: &H,
    payload: &[u8],
) -> Result<usize, WireError> {
    let len = encode_into(out, H::KIND, flags, stream, Some(head), payload)?;
    seal(&mut out[..len], sequence);
    Ok(len)
}

/// Writes a whole frame as [`encode`] does, with extensions behind its head.
///
/// # Errors
/// As [`encode`].
pub fn encode_extended<'h, H: Head<'h>>(
    out: &mut [u8],
    flags: u16,
    stream: u32,
    sequence: u32,
    head: &Extended<'_, H>,
    payload: &[u8],
) -> Result<usize, WireError> {
    let len = encode_into(out, H::KIND, flags, stream, Some(head), payload)?;
    seal(&mut out[..len], sequence);
    Ok(len)
}

/// Writes a frame without sequence and checksum, which [`seal`] adds once the lanes are merged; a continuation has no
/// head.
///
/// # Errors
/// [`WireError::BufferTooSmall`]; [`WireError::HeadTooLarge`] when texts or extensions pass
/// [`HEAD_BYTES_MAX`]; [`WireError::FlagsContradict`] when the peer would refuse the flags.
pub fn encode_into<H: serde::Serialize>(
    out: &mut [u8],
    kind: FrameType,
    flags: u16,
    stream: u32,
    head: Option<&H>,
    payload: &[u8],
) -> Result<usize, WireError> {
    let body = out.get_mut(HEADER_BYTES..).ok_or(WireError::BufferTooSmall)?;
    let head_len = match head {
        Some(head) => postcard::to_slice(head, body).map_err(|_| WireError::BufferTooSmall)?.len(),
        None => 0,
    };
    if head_len > HEAD_BYTES_MAX {
        return Err(WireError::HeadTooLarge(u16::try_from(head_len).unwrap_or(u16::MAX), HEAD_BYTES_MAX as u16));
    }
    if flags_contradict(kind, flags, head_len) {
        return Err(WireError::FlagsContradict);
    }
    let target = body.get_mut(head_len..head_len + payload.len()).ok_or(WireError::BufferTooSmall)?;
    target.copy_from_slice(payload);
    let header = Header {
        kind,
        flags,
        head_len: head_len as u16,
        payload_len: u32::try_from(payload.len()).map_err(|_| WireError::BufferTooSmall)?,
        stream,
        sequence: 0,
        crc: 0,
    };
    out[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    Ok(header.frame_len())
}

/// Length of the frame that begins here, in bytes, by its header alone; `None` while the header is incomplete.
#[must_use]
pub fn frame_len(bytes: &[u8]) -> Option<usize> {
    let h = bytes.first_chunk::<HEADER_BYTES>()?;
    let head = usize::from(u16::from_be_bytes([h[6], h[7]]));
    let payload = u32::from_be_bytes([h[8], h[9], h[10], h[11]]) as usize;
    Some((HEADER_BYTES + head).saturating_add(payload))
}

/// Gives one whole encoded frame its sequence number and checksum.
///
/// # Panics
/// When `frame` is shorter than a header: it is always the output of [`encode_into`].
pub fn seal(frame: &mut [u8], sequence: u32) {
    frame[16..20].copy_from_slice(&sequence.to_be_bytes());
    let (header, body) = frame.split_at(HEADER_BYTES);
    let crc = crc32c(&header[..HEADER_BYTES - 4], body);
    frame[20..24].copy_from_slice(&crc.to_be_bytes());
}

/// Appends an unsealed frame to a vector. The payload may be given in parts.
///
/// # Panics
/// When the head is longer than [`HEAD_BYTES_MAX`]: callers bound every text in it.
#[cfg(feature = "daemon")]
pub fn append<H: serde::Serialize>(
    out: &mut Vec<u8>,
    kind: FrameType,
    flags: u16,
    stream: u32,
    head: Option<&H>,
    payload: &[&[u8]],
) {
    let start = out.len();
    let payload_len: usize = payload.iter().map(|p| p.len()).sum();
    out.reserve(HEADER_BYTES + 64 + payload_len);
    out.resize(start + HEADER_BYTES, 0);
    if let Some(head) = head {
        append_value(out, head);
    }
    let head_len = out.len() - start - HEADER_BYTES;
    assert!(head_len <= HEAD_BYTES_MAX, "head of {kind:?} has {head_len} bytes");
    debug_assert!(!flags_contradict(kind, flags, head_len), "flags {flags:#06x} on {kind:?}, head of {head_len}");
    for part in payload {
        out.extend_from_slice(part);
    }
    let header = Header {
        kind,
        flags,
        head_len: head_len as u16,
        payload_len: u32::try_from(payload_len).expect("payloads are bounded by the negotiated frame size"),
        stream,
        sequence: 0,
        crc: 0,
    };
    out[start..start + HEADER_BYTES].copy_from_slice(&header.to_bytes());
}

/// Appends a value in postcard to a vector, which grows by exactly its bytes.
#[cfg(feature = "daemon")]
pub(super) fn append_value<T: serde::Serialize>(out: &mut Vec<u8>, value: &T) {
    struct Sink<'v>(&'v mut Vec<u8>);
    impl postcard::ser_flavors::Flavor for Sink<'_> {
        type Output = ();
        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.push(byte);
            Ok(())
        }
        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    postcard::serialize_with_flavor(value, Sink(out)).expect("a vector takes every value of known length");
}
