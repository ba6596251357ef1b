//! SHA-1 and SHA-256, cut into the words of which rings are made.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Returns the five little-endian words of SHA-1.
pub(crate) fn sha1_words(bytes: &[u8]) -> [u32; 5] {
    words(&Sha1::digest(bytes))
}

/// Returns the eight little-endian words of SHA-256.
pub(crate) fn sha256_words(bytes: &[u8]) -> [u32; 8] {
    words(&Sha256::digest(bytes))
}

/// Returns the first little-endian word of SHA-1.
pub(super) fn sha1_first(bytes: &[u8]) -> u32 {
    sha1_words(bytes)[0]
}

/// Returns the first little-endian word of SHA-256.
pub(super) fn sha256_first(bytes: &[u8]) -> u32 {
    sha256_words(bytes)[0]
}

/// Returns the first eight bytes of SHA-256 as a big-endian number: what comes first in the digest counts most.
pub(super) fn sha256_wide(bytes: &[u8]) -> u64 {
    let [high, low, ..] = sha256_words(bytes).map(|word| u64::from(word.swap_bytes()));
    high << 32 | low
}

/// The little-endian words of a digest.
fn words<const N: usize>(digest: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    for (word, part) in words.iter_mut().zip(digest.as_chunks().0) {
        *word = u32::from_le_bytes(*part);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha_words_match_fips_180_4() {
        // SHA-1("abc") = a9993e364706816aba3e25717850c26c9cd0d89d.
        assert_eq!(
            sha1_words(b"abc"),
            [
                0x363e_99a9,
                0x6a81_0647,
                0x7125_3eba,
                0x6cc2_5078,
                0x9dd8_d09c
            ]
        );
        // SHA-256("abc") = ba7816bf8f01cfea414140de...
        assert_eq!(
            sha256_words(b"abc")[..3],
            [0xbf16_78ba, 0xeacf_018f, 0xde40_4141]
        );
        assert_eq!(sha256_first(b"abc"), 0xbf16_78ba);
        assert_eq!(sha256_wide(b"abc"), 0xba78_16bf_8f01_cfea);
    }
}
