//! What waits to be sent: control frames in a lane ahead of data, sealed with sequence and checksum when they leave.

use crate::wire;

/// Two lanes of whole, unsealed frames.
#[derive(Debug, Default)]
pub struct Outbox {
    control: Vec<u8>,
    data: Vec<u8>,
    /// How much of `data` has left.
    data_at: usize,
    sequence: u32,
}

/// Buffers larger than this are given back once empty, in bytes.
const KEEP_BYTES: usize = 4 * 1_024;
/// Sent data is cut off the buffer past this, in bytes.
const COMPACT_BYTES: usize = 256 * 1_024;

impl Outbox {
    /// The lane of acknowledgements, errors, pings and answers: never behind data.
    pub fn control(&mut self) -> &mut Vec<u8> {
        &mut self.control
    }

    /// The lane of messages.
    pub fn data(&mut self) -> &mut Vec<u8> {
        if self.data_at >= COMPACT_BYTES {
            self.data.drain(..self.data_at);
            self.data_at = 0;
        }
        &mut self.data
    }

    /// Bytes of messages waiting.
    #[must_use]
    pub const fn data_len(&self) -> usize {
        self.data.len() - self.data_at
    }

    /// Bytes of control frames waiting.
    #[must_use]
    pub const fn control_len(&self) -> usize {
        self.control.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.control.is_empty() && self.data_len() == 0
    }

    /// Moves all control frames and then data frames to `out`, at least one frame if there is any, about `bytes_max`
    /// bytes at most.
    pub fn transmit(&mut self, out: &mut Vec<u8>, bytes_max: usize) {
        let start = out.len();
        out.extend_from_slice(&self.control);
        clear(&mut self.control);
        let mut end = self.data_at;
        while end < self.data.len() && (out.len() - start) + (end - self.data_at) < bytes_max {
            end += wire::frame_len(&self.data[end..]).expect("the lane holds whole frames");
        }
        out.extend_from_slice(&self.data[self.data_at..end]);
        self.data_at = end;
        if self.data_at == self.data.len() {
            clear(&mut self.data);
            self.data_at = 0;
        }
        let mut at = start;
        while at < out.len() {
            let len = wire::frame_len(&out[at..]).expect("the lanes hold whole frames");
            wire::seal(&mut out[at..at + len], self.sequence);
            self.sequence = self.sequence.wrapping_add(1);
            at += len;
        }
    }
}

fn clear(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEEP_BYTES {
        *buffer = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Decoded, FrameType, Ping, decode};

    #[test]
    fn a_ping_overtakes_waiting_data_and_sequences_follow_the_order_of_leaving() {
        let mut o = Outbox::default();
        for nonce in 0..3 {
            wire::append(o.data(), FrameType::Ping, 0, 1, Some(&Ping { nonce }), &[&[0; 100]]);
        }
        let mut out = Vec::new();
        o.transmit(&mut out, 1);
        wire::append(o.control(), FrameType::Ping, 0, 0, Some(&Ping { nonce: 9 }), &[]);
        o.transmit(&mut out, 10_000);
        assert!(o.is_empty());
        let (mut at, mut seen) = (0, Vec::new());
        while at < out.len() {
            let Ok(Decoded::Frame(f, n)) = decode(&out[at..], 1_024) else { panic!("whole frames") };
            seen.push((f.header.sequence, f.head::<Ping>().expect("a ping").nonce));
            at += n;
        }
        assert_eq!(seen, [(0, 0), (1, 9), (2, 1), (3, 2)]);
    }
}
