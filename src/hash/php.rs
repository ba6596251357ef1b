//! The digests of PHP's `hash`, turned into numbers as phpredis does.
//!
//! phpredis reads the first eight bytes of the binary digest, or all if there are fewer, as a little-endian
//! number, and takes it modulo 2^32 - 1. PHP writes most of its short digests with the high byte first, so
//! they are read backwards. Source: phpredis 5.3.7, `redis_array_impl.c`, `ra_pos`; PHP 8.2, `ext/hash/`.

use super::{fnv, md5, memcached, murmur};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use xxhash_rust::xxh3::xxh3_64;
use xxhash_rust::xxh32::xxh32;
use xxhash_rust::xxh64::xxh64;

/// The number of a digest of four bytes, high byte first.
fn short(hash: u32) -> u64 {
    u64::from(hash.swap_bytes()) % MODULUS
}

/// The number of a digest of eight bytes, high byte first.
fn long(hash: u64) -> u64 {
    hash.swap_bytes() % MODULUS
}

/// The number of a digest of more than eight bytes.
fn head(digest: &[u8]) -> u64 {
    let head = digest.first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(head) % MODULUS
}

/// `adler32` of zlib.
pub(super) fn adler32(bytes: &[u8]) -> u64 {
    // Reduced at every byte: simple, and fast enough for keys.
    let (mut low, mut high) = (1, 0);
    for &byte in bytes {
        low = (low + u32::from(byte)) % 65_521;
        high = (high + low) % 65_521;
    }
    short(high << 16 | low)
}

/// `crc32`: the CRC32 of bzip2, and the only short digest with the low byte first.
pub(super) fn crc32(bytes: &[u8]) -> u64 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte) << 24;
        for _ in 0..8 {
            crc = crc << 1 ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 };
        }
    }
    // Not through `short`: PHP writes this digest with the low byte first.
    u64::from(!crc) % MODULUS
}

/// `crc32b`: the CRC32 of zlib.
pub(super) fn crc32b(bytes: &[u8]) -> u64 {
    short(crc32fast::hash(bytes))
}

/// `crc32c`: the CRC32 of Castagnoli.
pub(super) fn crc32c(bytes: &[u8]) -> u64 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    short(!crc)
}

/// `fnv132`: FNV-1 of 32 bits.
pub(super) fn fnv132(bytes: &[u8]) -> u64 {
    short(fnv::fnv1_32(bytes))
}

/// `fnv1a32`: FNV-1a of 32 bits.
pub(super) fn fnv1a32(bytes: &[u8]) -> u64 {
    short(fnv::fnv1a_32(bytes))
}

/// `fnv164`: FNV-1 of 64 bits.
pub(super) fn fnv164(bytes: &[u8]) -> u64 {
    long(fnv::fnv1_64(bytes))
}

/// `fnv1a64`: FNV-1a of 64 bits.
pub(super) fn fnv1a64(bytes: &[u8]) -> u64 {
    long(fnv::fnv1a_64(bytes))
}

/// `joaat`: one-at-a-time of B. Jenkins, over unsigned bytes, unlike libmemcached's.
pub(super) fn joaat(bytes: &[u8]) -> u64 {
    short(memcached::one_at_a_time_of(
        bytes.iter().copied().map(u32::from),
    ))
}

/// `md5`, which is little-endian in itself.
pub(super) fn md5(bytes: &[u8]) -> u64 {
    md5::head(bytes) % MODULUS
}

/// `murmur3a`: MurmurHash3 of 32 bits for x86 with seed 0.
pub(super) fn murmur3a(bytes: &[u8]) -> u64 {
    short(murmur::murmur3(bytes, 0))
}

pub(super) fn sha1(bytes: &[u8]) -> u64 {
    head(&Sha1::digest(bytes))
}

pub(super) fn sha256(bytes: &[u8]) -> u64 {
    head(&Sha256::digest(bytes))
}

pub(super) fn xxh32_(bytes: &[u8]) -> u64 {
    short(xxh32(bytes, 0))
}

pub(super) fn xxh64_(bytes: &[u8]) -> u64 {
    long(xxh64(bytes, 0))
}

pub(super) fn xxh3(bytes: &[u8]) -> u64 {
    long(xxh3_64(bytes))
}

/// 2^32 - 1, not 2^32: phpredis takes the number modulo the largest 32-bit value, so `0xffff_ffff` becomes 0.
const MODULUS: u64 = 0xffff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn php_digests_match_published_values() {
        // `123456789`, from the catalogue of CRC algorithms and from zlib; `abc`, from FIPS 180-4. Read
        // backwards unless the digest starts with the low byte.
        assert_eq!(crc32(b"123456789"), 0xfc89_1918);
        assert_eq!(
            crc32b(b"123456789"),
            u64::from(0xcbf4_3926_u32.swap_bytes())
        );
        assert_eq!(
            crc32c(b"123456789"),
            u64::from(0xe306_9283_u32.swap_bytes())
        );
        assert_eq!(
            adler32(b"123456789"),
            u64::from(0x091e_01de_u32.swap_bytes())
        );
        assert_eq!(
            sha1(b"abc"),
            0xa999_3e36_4706_816a_u64.swap_bytes() % 0xffff_ffff
        );
        assert_eq!(
            sha256(b"abc"),
            0xba78_16bf_8f01_cfea_u64.swap_bytes() % 0xffff_ffff
        );
    }
}
