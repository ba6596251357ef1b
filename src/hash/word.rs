//! Eight bytes at a time, in safe code.

/// The little-endian number of fewer than eight bytes, padded with zeros at the top.
#[inline]
pub(super) fn short(bytes: &[u8]) -> u64 {
    debug_assert!(bytes.len() < 8);
    let length = bytes.len();
    if let (Some(head), Some(tail)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        // The two halves overlap in equal bytes.
        u64::from(u32::from_le_bytes(*head))
            | u64::from(u32::from_le_bytes(*tail)) << (8 * (length - 4))
    } else if let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) {
        let middle = length / 2;
        u64::from(first)
            | u64::from(bytes[middle]) << (8 * middle)
            | u64::from(last) << (8 * (length - 1))
    } else {
        0
    }
}

/// The position of the first byte of `word`, in little-endian order, that equals `byte`.
///
/// The classic zero-byte test of Mycroft (1987): the lowest flag it raises is always a true one.
#[inline]
pub(super) fn position(word: u64, byte: u8) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let difference = word ^ (LOW * u64::from(byte));
    let flags = difference.wrapping_sub(LOW) & !difference & HIGH;
    (flags != 0).then(|| flags.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_is_the_padded_little_endian_number() {
        let bytes = [1, 2, 3, 0xff, 5, 6, 7];
        for length in 0..8 {
            let mut padded = [0; 8];
            padded[..length].copy_from_slice(&bytes[..length]);
            assert_eq!(
                short(&bytes[..length]),
                u64::from_le_bytes(padded),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn position_is_the_first_of_several() {
        assert_eq!(position(u64::from_le_bytes(*b"ab{{d{ef"), b'{'), Some(2));
        assert_eq!(position(u64::from_le_bytes(*b"{zzzzzzz"), b'{'), Some(0));
        assert_eq!(position(u64::from_le_bytes(*b"zzzzzzz{"), b'{'), Some(7));
        assert_eq!(position(u64::from_le_bytes([0xfb; 8]), b'{'), None);
        assert_eq!(position(0, b'{'), None);
    }
}
