//! CRC-32C as the kernel keeps it in the superblock: Castagnoli, reflected, not inverted at the end.

const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The checksum of some bytes, begun with all ones. One block per image, so no table.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_published_check_value() {
        // RFC 3720, appendix B.4, states them inverted.
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(!crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(!crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }
}
