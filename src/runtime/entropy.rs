//! Random bits from the kernel.

use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// Fills the buffer. Blocks only early at boot, before the kernel has gathered enough.
///
/// # Errors
/// What the kernel says.
pub fn fill(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match getrandom(&mut *buffer, GetRandomFlags::empty()) {
            Ok(filled) => buffer = &mut buffer[filled..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A random number for seeds.
///
/// # Errors
/// As [`fill`].
pub fn seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_of_a_large_buffer_is_filled() {
        let mut buffer = vec![0u8; 4_096];
        super::fill(&mut buffer).expect("the kernel has randomness");
        // A run of 16 zero bytes has a chance of 2^-116.
        assert!(buffer.chunks(16).all(|c| c.iter().any(|&b| b != 0)));
        assert_ne!(super::seed().expect("seed"), super::seed().expect("seed"));
    }
}
