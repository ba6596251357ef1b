//! The Murmur family of A. Appleby, with the seeds of the peers that use them.

use super::swar;

/// MurmurHash64A with the seed of Jedis, 0x1234ABCD.
pub(super) fn murmur64a_jedis(bytes: &[u8]) -> u64 {
    murmur64a(bytes, 0x1234_abcd)
}

/// MurmurHash64A with the seed that libstdc++ has for `std::hash`, 0xC70F6907, as in Envoy.
pub(super) fn murmur64a_std(bytes: &[u8]) -> u64 {
    murmur64a(bytes, 0xc70f_6907)
}

/// MurmurHash64A.
#[inline]
fn murmur64a(bytes: &[u8], seed: u64) -> u64 {
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    let (blocks, tail) = bytes.as_chunks();
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    for block in blocks {
        let mut word = u64::from_le_bytes(*block).wrapping_mul(FACTOR);
        word ^= word >> 47;
        hash = (hash ^ word.wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
    }
    // Without a tail there is no multiplication: an empty word would still change the hash.
    if !tail.is_empty() {
        hash = (hash ^ swar::short(tail)).wrapping_mul(FACTOR);
    }
    hash = (hash ^ hash >> 47).wrapping_mul(FACTOR);
    hash ^ hash >> 47
}

/// MurmurHash2 of 32 bits, seeded with 0xDEADBEEF times the length, as in libmemcached and twemproxy.
pub(super) fn murmur2(bytes: &[u8]) -> u32 {
    const FACTOR: u32 = 0x5bd1_e995;
    let length = bytes.len() as u32;
    let (blocks, tail) = bytes.as_chunks();
    let mut hash = 0xdead_beef_u32.wrapping_mul(length) ^ length;
    for block in blocks {
        let mut word = u32::from_le_bytes(*block).wrapping_mul(FACTOR);
        word ^= word >> 24;
        hash = hash.wrapping_mul(FACTOR) ^ word.wrapping_mul(FACTOR);
    }
    if !tail.is_empty() {
        // Fewer than four bytes.
        hash = (hash ^ swar::short(tail) as u32).wrapping_mul(FACTOR);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(FACTOR);
    hash ^ hash >> 15
}

/// MurmurHash3 of 32 bits for x86.
pub(super) fn murmur3(bytes: &[u8], seed: u32) -> u32 {
    let stir = |word: u32| {
        let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15);
        word.wrapping_mul(0x1b87_3593)
    };
    let (blocks, tail) = bytes.as_chunks();
    let mut hash = seed;
    for block in blocks {
        hash = (hash ^ stir(u32::from_le_bytes(*block))).rotate_left(13);
        hash = hash.wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    // The tail has fewer than four bytes. If it is empty the word is zero, and `stir` leaves zero as it is.
    hash ^= stir(swar::short(tail) as u32) ^ bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// [`murmur3`] with the seed of libmemcached: 0xDEADBEEF times the length.
pub(super) fn murmur3_memcached(bytes: &[u8]) -> u32 {
    murmur3(bytes, 0xdead_beef_u32.wrapping_mul(bytes.len() as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur64a_matches_values_recorded_from_jedis() {
        // Computed by Jedis 3.10.
        let recorded = [
            ("", 0x742d_0865_aa62_7b0b),
            ("foo", 0x9df7_e7ee_73c2_b95f),
            ("user:1", 0x0779_fdf9_25fd_cf12),
            ("x{user:1}", 0x99a8_9066_cf46_5567),
            ("日本語", 0x615d_0837_3de8_c6f1),
        ];
        for (key, hash) in recorded {
            assert_eq!(murmur64a_jedis(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn murmur3_matches_published_values() {
        // From the test vectors of the reference implementation that many ports share.
        assert_eq!(murmur3(b"", 0), 0);
        assert_eq!(murmur3(b"", 1), 0x514e_28b7);
        assert_eq!(murmur3(b"test", 0), 0xba6b_d213);
        assert_eq!(murmur3(b"Hello, world!", 0x9747_b28c), 0x2488_4cba);
    }
}
