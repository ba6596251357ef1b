//! The hashes of libmemcached, which twemproxy has taken over, with their deviations from what the names
//! promise.
//!
//! All give 32 bits. Several read a byte as a signed `char`, as C compilers do on x86: bytes from 0x80 up
//! count as negative numbers. Source: twemproxy 0.5.0, `src/hashkit/`.

use super::crc16;

/// Offset basis of 32-bit FNV.
const FNV_32_START: u32 = 0x811c_9dc5;
/// Prime of 32-bit FNV.
const FNV_32_PRIME: u32 = 0x0100_0193;
// The lower halves of the 64-bit constants.
const FNV_64_START_LOW: u32 = 0x8422_2325;
const FNV_64_PRIME_LOW: u32 = 0x0000_01b3;

/// A byte as a signed `char`, widened to 32 bits.
fn signed(byte: u8) -> u32 {
    i32::from(byte.cast_signed()).cast_unsigned()
}

/// FNV-1 over signed bytes.
fn fnv1(bytes: &[u8], start: u32, prime: u32) -> u32 {
    bytes
        .iter()
        .fold(start, |hash, &byte| hash.wrapping_mul(prime) ^ signed(byte))
}

/// FNV-1a over signed bytes.
fn fnv1a(bytes: &[u8], start: u32, prime: u32) -> u32 {
    bytes.iter().fold(start, |hash, &byte| {
        (hash ^ signed(byte)).wrapping_mul(prime)
    })
}

/// `fnv1_32`: FNV-1 of 32 bits over signed bytes.
pub(super) fn fnv1_32(bytes: &[u8]) -> u32 {
    fnv1(bytes, FNV_32_START, FNV_32_PRIME)
}

/// `fnv1a_32`: FNV-1a of 32 bits over signed bytes.
pub(super) fn fnv1a_32(bytes: &[u8]) -> u32 {
    fnv1a(bytes, FNV_32_START, FNV_32_PRIME)
}

/// `fnv1_64`: the lower half of 64-bit FNV-1. The upper half is not computed, since the lower never depends
/// on it.
pub(super) fn fnv1_64(bytes: &[u8]) -> u32 {
    fnv1(bytes, FNV_64_START_LOW, FNV_64_PRIME_LOW)
}

/// `fnv1a_64`: not FNV-1a of 64 bits, since the constants are cut to 32 bits.
pub(super) fn fnv1a_64(bytes: &[u8]) -> u32 {
    fnv1a(bytes, FNV_64_START_LOW, FNV_64_PRIME_LOW)
}

/// `crc32`: bits 16 to 30 of CRC32.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    (crc32fast::hash(bytes) >> 16) & 0x7fff
}

/// `crc16`: CRC16/XMODEM in 32 bits. The bits that are shifted out of the lower 16 are kept.
pub(super) fn crc16(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |crc: u32, &byte| {
        crc << 8 ^ u32::from(crc16::of_byte((crc >> 8) as u8 ^ byte))
    })
}

/// `hsieh`: SuperFastHash of P. Hsieh, started with zero instead of the length.
pub(super) fn hsieh(bytes: &[u8]) -> u32 {
    let pair = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]));
    let (blocks, tail) = bytes.as_chunks();
    let mut hash = 0_u32;
    for &[a, b, c, d] in blocks {
        hash = hash.wrapping_add(pair(a, b));
        hash = hash << 16 ^ (pair(c, d) << 11 ^ hash);
        hash = hash.wrapping_add(hash >> 11);
    }
    match *tail {
        [a, b, c] => {
            hash = hash.wrapping_add(pair(a, b));
            hash ^= hash << 16;
            // The odd byte of three is signed, that of one is not: the original casts it to `unsigned char`
            // in the latter case only.
            hash ^= signed(c) << 18;
            hash = hash.wrapping_add(hash >> 11);
        }
        [a, b] => {
            hash = hash.wrapping_add(pair(a, b));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        [a] => {
            hash = hash.wrapping_add(u32::from(a));
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        _ => {}
    }
    hash ^= hash << 3;
    hash = hash.wrapping_add(hash >> 5);
    hash ^= hash << 4;
    hash = hash.wrapping_add(hash >> 17);
    hash ^= hash << 25;
    hash.wrapping_add(hash >> 6)
}

/// `one_at_a_time`: the hash of B. Jenkins over signed bytes.
pub(super) fn one_at_a_time(bytes: &[u8]) -> u32 {
    one_at_a_time_of(bytes.iter().map(|&byte| signed(byte)))
}

/// One-at-a-time over bytes that are widened already, signed or not.
pub(super) fn one_at_a_time_of(bytes: impl Iterator<Item = u32>) -> u32 {
    let mut hash = bytes.fold(0_u32, |hash, byte| {
        let hash = hash.wrapping_add(byte);
        let hash = hash.wrapping_add(hash << 10);
        hash ^ hash >> 6
    });
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

/// `jenkins`: `hashlittle` of B. Jenkins' lookup3, started with 13.
pub(super) fn jenkins(bytes: &[u8]) -> u32 {
    let start = 0xdead_beef_u32
        .wrapping_add(bytes.len() as u32)
        .wrapping_add(13);
    let mut state = [start; 3];
    // The last block, even a complete one, is mixed in by another function. Without bytes there is no block
    // at all, and the state is returned as it started.
    let blocks = bytes.chunks(12);
    let last = blocks.len().wrapping_sub(1);
    for (i, block) in blocks.enumerate() {
        let mut padded = [0; 12];
        padded[..block.len()].copy_from_slice(block);
        for (part, word) in state.iter_mut().zip(padded.as_chunks().0) {
            *part = part.wrapping_add(u32::from_le_bytes(*word));
        }
        state = if i == last {
            jenkins_final(state)
        } else {
            jenkins_mix(state)
        };
    }
    state[2]
}

fn jenkins_mix([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
    for [first, second, third] in [[4, 6, 8], [16, 19, 4]] {
        a = a.wrapping_sub(c) ^ c.rotate_left(first);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(second);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(third);
        b = b.wrapping_add(a);
    }
    [a, b, c]
}

fn jenkins_final([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
    let step = |part: u32, other: u32, bits| (part ^ other).wrapping_sub(other.rotate_left(bits));
    c = step(c, b, 14);
    a = step(a, c, 11);
    b = step(b, a, 25);
    c = step(c, b, 16);
    a = step(a, c, 4);
    b = step(b, a, 14);
    c = step(c, b, 24);
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that twemproxy 0.5.0 computed.
    #[test]
    fn memcached_hashes_match_values_recorded_from_twemproxy() {
        type Hash = fn(&[u8]) -> u32;
        let long = "k".repeat(100);
        let keys = ["", "foo", "user:1", "{user:1}:cart", "日本語", &long];
        let recorded: [(&str, Hash, [u32; 6]); 10] = [
            (
                "fnv1a_64",
                fnv1a_64,
                [
                    0x8422_2325,
                    0xfed9_d577,
                    0x7508_1ceb,
                    0x55bb_a02d,
                    0x675e_a287,
                    0x59a6_d6f9,
                ],
            ),
            (
                "fnv1_64",
                fnv1_64,
                [
                    0x8422_2325,
                    0x6ba1_3533,
                    0xc93c_ea93,
                    0x1dae_8f8d,
                    0x0a4e_4453,
                    0x05cc_5f71,
                ],
            ),
            (
                "one_at_a_time",
                one_at_a_time,
                [
                    0,
                    0x2386_78dd,
                    0xa556_ff4b,
                    0x3df2_d711,
                    0x52b3_29b8,
                    0xa658_eb17,
                ],
            ),
            (
                "hsieh",
                hsieh,
                [
                    0,
                    0x76d4_d427,
                    0xe7bf_1826,
                    0x7458_ae16,
                    0x0625_e643,
                    0xbe95_8f02,
                ],
            ),
            (
                "murmur",
                super::super::murmur::murmur2,
                [
                    0,
                    0xc4e0_338f,
                    0xd5d0_b563,
                    0x4f8c_896f,
                    0xb3d1_0343,
                    0xbfd3_091d,
                ],
            ),
            (
                "jenkins",
                jenkins,
                [
                    0xdead_befc,
                    0x99f8_4f99,
                    0x37cd_5fd1,
                    0x1664_5d17,
                    0xc3c6_add4,
                    0x1e80_8a1c,
                ],
            ),
            (
                "crc16",
                crc16,
                [
                    0,
                    0x0c3c_af96,
                    0xd56e_6a1a,
                    0x8f6a_41ff,
                    0x3ced_31f4,
                    0xe742_b14b,
                ],
            ),
            ("crc32", crc32, [0, 0x0c73, 0x7ba5, 0x0c28, 0x280b, 0x24b4]),
            (
                "fnv1_32",
                fnv1_32,
                [
                    0x811c_9dc5,
                    0x408f_5e13,
                    0x00cc_85b3,
                    0xc7f1_424d,
                    0x349c_3df3,
                    0xdfba_d5d1,
                ],
            ),
            (
                "fnv1a_32",
                fnv1a_32,
                [
                    0x811c_9dc5,
                    0xa9f3_7ed7,
                    0x6d1a_4acb,
                    0x2a58_95ed,
                    0x125c_3fe7,
                    0xeca3_4c59,
                ],
            ),
        ];
        for (name, hash, values) in recorded {
            assert_eq!(keys.map(|key| hash(key.as_bytes())), values, "{name}");
        }
    }
}
