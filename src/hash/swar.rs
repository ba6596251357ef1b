//! Eight bytes at a time in safe code (SIMD within a register): short loads, and the search for a byte.

/// Loads fewer than eight bytes as a little-endian number, padded with zeros at the top.
#[inline]
pub(super) fn short(bytes: &[u8]) -> u64 {
    debug_assert!(bytes.len() < 8);
    let length = bytes.len();
    if let (Some(head), Some(tail)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        // The halves overlap where there are fewer than eight bytes, in equal bytes, so `|` joins them.
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

/// Returns a word with the top bit set in the first byte of `word`, in little-endian order, that equals
/// `byte`, and possibly in later bytes; zero if no byte equals it.
///
/// The zero-byte test of A. Mycroft (1987). Only the lowest flag is certain: a borrow may set flags above it.
#[inline]
pub(super) fn flags(word: u64, byte: u8) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let difference = word ^ (LOW * u64::from(byte));
    difference.wrapping_sub(LOW) & !difference & HIGH
}

/// Returns the index of the byte of the lowest flag; 8 if there is none.
#[inline]
pub(super) fn first(flags: u64) -> usize {
    flags.trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swar_short_reads_up_to_seven_bytes_as_a_little_endian_number() {
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
    fn swar_first_finds_the_lowest_matching_byte() {
        let position = |bytes: &[u8; 8]| match flags(u64::from_le_bytes(*bytes), b'{') {
            0 => None,
            flags => Some(first(flags)),
        };
        assert_eq!(position(b"ab{{d{ef"), Some(2));
        assert_eq!(position(b"{zzzzzzz"), Some(0));
        assert_eq!(position(b"zzzzzzz{"), Some(7));
        // One above the byte looked for is flagged wrongly, but only after a true one.
        assert_eq!(position(b"zz{|||||"), Some(2));
        assert_eq!(position(b"||||||||"), None);
        assert_eq!(position(&[0xfb; 8]), None);
        assert_eq!(position(&[0; 8]), None);
    }
}
