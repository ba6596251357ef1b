//! MD5, cut into the words of which ketama rings are made.

use md5::{Digest, Md5};

/// Returns the four little-endian words of the digest: the points that one label has on a ketama ring.
pub(crate) fn words(bytes: &[u8]) -> [u32; 4] {
    let digest: [u8; 16] = Md5::digest(bytes).into();
    let mut words = [0; 4];
    for (word, part) in words.iter_mut().zip(digest.as_chunks().0) {
        *word = u32::from_le_bytes(*part);
    }
    words
}

/// Returns the first little-endian word.
pub(super) fn first(bytes: &[u8]) -> u32 {
    words(bytes)[0]
}

/// Returns the first eight bytes as a big-endian number: what comes first in the digest counts most.
pub(super) fn wide(bytes: &[u8]) -> u64 {
    head(bytes).swap_bytes()
}

/// Returns the first eight bytes as a little-endian number.
pub(super) fn head(bytes: &[u8]) -> u64 {
    let [low, high, ..] = words(bytes);
    u64::from(low) | u64::from(high) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_words_match_rfc_1321() {
        // MD5("abc") = 900150983cd24fb0d6963f7d28e17f72.
        assert_eq!(
            words(b"abc"),
            [0x9850_0190, 0xb04f_d23c, 0x7d3f_96d6, 0x727f_e128]
        );
        assert_eq!(head(b"abc"), 0xb04f_d23c_9850_0190);
        assert_eq!(wide(b"abc"), 0x9001_5098_3cd2_4fb0);
    }
}
