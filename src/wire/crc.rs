//! CRC-32C (Castagnoli, RFC 3720 §12.1): by hardware in the daemon, by table in the `no_std` core.

/// Checksum of two parts, one after the other.
#[must_use]
pub fn crc32c(first: &[u8], second: &[u8]) -> u32 {
    #[cfg(feature = "daemon")]
    {
        crc32c::crc32c_append(crc32c::crc32c(first), second)
    }
    #[cfg(not(feature = "daemon"))]
    {
        const TABLE: crc::Crc<u32, crc::Table<1>> = crc::Crc::<u32, crc::Table<1>>::new(&crc::CRC_32_ISCSI);
        let mut digest = TABLE.digest();
        digest.update(first);
        digest.update(second);
        digest.finalize()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_catalogue_holds() {
        assert_eq!(super::crc32c(b"1234", b"56789"), 0xE306_9283);
    }
}
