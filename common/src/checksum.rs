//! CRC-32C (Castagnoli, as in iSCSI, RFC 3720), kept for each chunk of 1 MiB of a block and for whole blocks.

use crc_fast::{CrcAlgorithm, Digest};

/// How many bytes one stored checksum covers.
pub const CHUNK: u64 = 1 << 20;

/// The CRC-32C of these bytes.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The CRC-32C of two runs of bytes, from the CRC of each and the length of the second.
#[must_use]
pub fn combine(first: u32, second: u32, second_length: u64) -> u32 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, u64::from(first), u64::from(second), second_length) as u32
}

/// Computes a CRC-32C over bytes as they arrive.
#[derive(Debug, Clone)]
pub struct Crc32c(Digest);

impl Crc32c {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far.
    #[must_use]
    pub fn value(&self) -> u32 {
        self.0.finalize() as u32
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        let mut digest = Crc32c::new();
        digest.update(b"1234");
        digest.update(b"56789");
        assert_eq!(digest.value(), 0xe306_9283);
        assert_eq!(combine(crc32c(b"1234"), crc32c(b"56789"), 5), 0xe306_9283);
    }
}
