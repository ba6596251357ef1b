//! [`KeyHash`]: frozen functions from bytes to a number, by name.

use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;
use xxhash_rust::xxh64::xxh64;

use super::named::named;
use super::{crc16, fnv, md5, memcached, murmur, php, sha};

named! {
    /// A frozen function from bytes to a number.
    ///
    /// Functions that this crate and most clients use come first; then those of single peers, with their
    /// deviations from what the names promise. "Signed" means that bytes from 0x80 up count as negative
    /// numbers, which is how C reads a `char` on x86; ARM builds of the same peer differ for such keys.
    ///
    /// ```
    /// use redis_sharding::hash::KeyHash;
    ///
    /// let hash: KeyHash = "crc32".parse()?;
    /// assert_eq!(hash.hash(b"user:1"), 0x7ba5c282);
    /// # Ok::<(), redis_sharding::hash::UnknownKeyHash>(())
    /// ```
    pub enum KeyHash {
        /// CRC16/XMODEM, the hash of Redis Cluster; 16 bits.
        Crc16 = "crc16",
        /// CRC32 of IEEE 802.3 and zlib, the usual choice of older clients; 32 bits.
        ///
        /// Good enough for keys modulo nodes. Poor for the labels of a ring: names that differ in one digit
        /// give points that lie close together.
        Crc32 = "crc32",
        /// FNV-1a with the standard 32-bit constants. Poor for the labels of a ring, like CRC32.
        Fnv1a32 = "fnv1a-32",
        /// FNV-1a with the standard 64-bit constants. Its high bits hardly change with the last bytes of a
        /// key, so it is poor for rings.
        ///
        /// twemproxy's `fnv1a_64` is another function: [`Fnv1aCut`](Self::Fnv1aCut).
        Fnv1a64 = "fnv1a-64",
        /// XXH3 of 64 bits with seed zero, [stable since xxHash 0.8.0]: the crate's own choice.
        ///
        /// [stable since xxHash 0.8.0]: https://github.com/Cyan4973/xxHash/releases/tag/v0.8.0
        Xxh3 = "xxh3-64",
        /// XXH64 with seed zero, the hash of go-redis' `Ring` (v8 and later).
        Xxh64 = "xxh64",
        /// The first four bytes of MD5 as a little-endian number: the key hash of every ketama. About 90 ns
        /// for a short key, a good ten times what the others cost.
        Md5 = "md5",
        /// The first four bytes of MD5 as a big-endian number: the points of redis-rb from 5.0.
        Md5Big = "md5-big",
        /// MurmurHash64A with the seed 0x1234ABCD, as in Jedis.
        Murmur64A = "murmur64a",
        /// CRC-32/JAMCRC, which is CRC32 without its final inversion, as on the ring of phpredis.
        CrcJam = "crc32-jam",
        /// CRC16/XMODEM in 32 bits, nothing cut off: `crc16` of twemproxy.
        Crc16Wide = "crc16-wide",
        /// Bits 16 to 30 of CRC32: `crc32` of twemproxy, `crc` of libmemcached. Numbers of 32 bits of which
        /// only fifteen are used: on a ring nearly every key goes to one node.
        Crc32Upper = "crc32-upper",
        /// Signed FNV-1 of 32 bits: `fnv1_32` of twemproxy and libmemcached.
        Fnv1Signed = "fnv1-signed",
        /// The lower 32 bits of signed FNV-1 of 64 bits: `fnv1_64` of twemproxy and libmemcached.
        Fnv1Cut = "fnv1-cut",
        /// Signed FNV-1a of 32 bits: `fnv1a_32` of twemproxy and libmemcached.
        Fnv1aSigned = "fnv1a-signed",
        /// Signed FNV-1a with the 64-bit constants cut to 32 bits: `fnv1a_64` of twemproxy, its default, and
        /// of libmemcached. Keys that differ in their last bytes lie close together.
        Fnv1aCut = "fnv1a-cut",
        /// SuperFastHash of P. Hsieh started with zero, its last byte signed: `hsieh` of twemproxy.
        Hsieh = "hsieh",
        /// `hashlittle` of B. Jenkins' lookup3 started with 13: `jenkins` of twemproxy and libmemcached.
        Jenkins = "jenkins",
        /// MurmurHash2 of 32 bits seeded with 0xDEADBEEF times the length: `murmur` of twemproxy and
        /// libmemcached.
        Murmur2 = "murmur2",
        /// MurmurHash3 for x86 of 32 bits seeded with 0xDEADBEEF times the length: `murmur3` of libmemcached.
        Murmur3 = "murmur3",
        /// Signed one-at-a-time of B. Jenkins: `one_at_a_time` of twemproxy, and the default of libmemcached.
        OneAtATime = "one-at-a-time",
        /// The number that phpredis makes of PHP's `adler32`; 32 bits, as all its numbers.
        PhpAdler32 = "php-adler32",
        /// The number that phpredis makes of PHP's `crc32`, which is bzip2's.
        PhpCrc32 = "php-crc32",
        /// The number that phpredis makes of PHP's `crc32b`, which is zlib's.
        PhpCrc32b = "php-crc32b",
        /// The number that phpredis makes of PHP's `crc32c`.
        PhpCrc32c = "php-crc32c",
        /// The number that phpredis makes of PHP's `fnv132`.
        PhpFnv132 = "php-fnv132",
        /// The number that phpredis makes of PHP's `fnv164`.
        PhpFnv164 = "php-fnv164",
        /// The number that phpredis makes of PHP's `fnv1a32`.
        PhpFnv1a32 = "php-fnv1a32",
        /// The number that phpredis makes of PHP's `fnv1a64`.
        PhpFnv1a64 = "php-fnv1a64",
        /// The number that phpredis makes of PHP's `joaat`.
        PhpJoaat = "php-joaat",
        /// The number that phpredis makes of PHP's `md5`.
        PhpMd5 = "php-md5",
        /// The number that phpredis makes of PHP's `murmur3a`.
        PhpMurmur3a = "php-murmur3a",
        /// The number that phpredis makes of PHP's `sha1`.
        PhpSha1 = "php-sha1",
        /// The number that phpredis makes of PHP's `sha256`.
        PhpSha256 = "php-sha256",
        /// The number that phpredis makes of PHP's `xxh3`.
        PhpXxh3 = "php-xxh3",
        /// The number that phpredis makes of PHP's `xxh32`.
        PhpXxh32 = "php-xxh32",
        /// The number that phpredis makes of PHP's `xxh64`.
        PhpXxh64 = "php-xxh64",
        /// The first eight bytes of MD5 as a big-endian number, for uhashring, which compares whole digests: no
        /// two differ after the eighth byte only.
        Md5Wide = "md5-wide",
        /// MurmurHash64A with the seed 0xC70F6907, which is `std::hash` of strings in libstdc++: the keys of
        /// Envoy.
        Murmur64AStd = "murmur64a-std",
        /// The first four bytes of SHA-1 as a little-endian number, as in node hashring.
        Sha1 = "sha1",
        /// The first four bytes of SHA-256 as a little-endian number, as in node hashring.
        Sha256 = "sha256",
        /// The first eight bytes of SHA-256 as a big-endian number, for django-redis, which compares whole
        /// digests.
        Sha256Wide = "sha256-wide",
    }
}

impl KeyHash {
    /// Returns the number of these bytes. A narrow hash fills the low bits.
    pub fn hash(self, bytes: &[u8]) -> u64 {
        self.function()(bytes)
    }

    /// Returns [`hash`](Self::hash) as a function, to be picked once and called for each key.
    pub const fn function(self) -> fn(&[u8]) -> u64 {
        match self {
            Self::Crc16 => |bytes| crc16::crc16(bytes) as u64,
            Self::Crc32 => |bytes| crc32fast::hash(bytes) as u64,
            Self::Fnv1a32 => |bytes| fnv::fnv1a_32(bytes) as u64,
            Self::Fnv1a64 => fnv::fnv1a_64,
            Self::Xxh3 => xxh3_64,
            Self::Xxh64 => |bytes| xxh64(bytes, 0),
            Self::Md5 => |bytes| md5::first(bytes) as u64,
            Self::Md5Big => |bytes| md5::first(bytes).swap_bytes() as u64,
            Self::Murmur64A => murmur::murmur64a_jedis,
            Self::CrcJam => |bytes| !crc32fast::hash(bytes) as u64,
            Self::Crc16Wide => |bytes| memcached::crc16(bytes) as u64,
            Self::Crc32Upper => |bytes| memcached::crc32(bytes) as u64,
            Self::Fnv1Signed => |bytes| memcached::fnv1_32(bytes) as u64,
            Self::Fnv1Cut => |bytes| memcached::fnv1_64(bytes) as u64,
            Self::Fnv1aSigned => |bytes| memcached::fnv1a_32(bytes) as u64,
            Self::Fnv1aCut => |bytes| memcached::fnv1a_64(bytes) as u64,
            Self::Hsieh => |bytes| memcached::hsieh(bytes) as u64,
            Self::Jenkins => |bytes| memcached::jenkins(bytes) as u64,
            Self::Murmur2 => |bytes| murmur::murmur2(bytes) as u64,
            Self::Murmur3 => |bytes| murmur::murmur3_memcached(bytes) as u64,
            Self::OneAtATime => |bytes| memcached::one_at_a_time(bytes) as u64,
            Self::PhpAdler32 => php::adler32,
            Self::PhpCrc32 => php::crc32,
            Self::PhpCrc32b => php::crc32b,
            Self::PhpCrc32c => php::crc32c,
            Self::PhpFnv132 => php::fnv132,
            Self::PhpFnv164 => php::fnv164,
            Self::PhpFnv1a32 => php::fnv1a32,
            Self::PhpFnv1a64 => php::fnv1a64,
            Self::PhpJoaat => php::joaat,
            Self::PhpMd5 => php::md5,
            Self::PhpMurmur3a => php::murmur3a,
            Self::PhpSha1 => php::sha1,
            Self::PhpSha256 => php::sha256,
            Self::PhpXxh3 => php::xxh3,
            Self::PhpXxh32 => php::xxh32_,
            Self::PhpXxh64 => php::xxh64_,
            Self::Md5Wide => md5::wide,
            Self::Murmur64AStd => murmur::murmur64a_std,
            Self::Sha1 => |bytes| sha::sha1_first(bytes) as u64,
            Self::Sha256 => |bytes| sha::sha256_first(bytes) as u64,
            Self::Sha256Wide => sha::sha256_wide,
        }
    }

    /// Returns the width of the numbers in bits: [`hash`](Self::hash) sets none beyond.
    pub const fn bits(self) -> u32 {
        match self {
            // Only what exceeds or falls short of 32 bits; `hash` widens all others to 32.
            Self::Crc16 => 16,
            Self::Fnv1a64
            | Self::Xxh3
            | Self::Xxh64
            | Self::Murmur64A
            | Self::Md5Wide
            | Self::Murmur64AStd
            | Self::Sha256Wide => 64,
            _ => 32,
        }
    }
}

impl FromStr for KeyHash {
    type Err = UnknownKeyHash;

    fn from_str(name: &str) -> Result<Self, UnknownKeyHash> {
        Self::from_name(name).ok_or_else(|| UnknownKeyHash {
            name: name.to_owned(),
        })
    }
}

/// Error for a name that is not that of a [`KeyHash`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key hash is called {name:?}")]
pub struct UnknownKeyHash {
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_hashes_match_published_values() {
        // `foo`: from zlib, from the FNV page, from the xxHash command line tool; see also recorded go-redis
        // answers.
        let expected = [
            (KeyHash::Crc16, 0xaf96),
            (KeyHash::Crc32, 0x8c73_6521),
            (KeyHash::Fnv1a32, 0xa9f3_7ed7),
            (KeyHash::Fnv1a64, 0xdcb2_7518_fed9_d577),
            (KeyHash::Xxh3, 0xab6e_5f64_077e_7d8a),
            (KeyHash::Xxh64, 0x33bf_00a8_59c4_ba3f),
        ];
        for (hash, value) in expected {
            assert_eq!(hash.hash(b"foo"), value, "{hash}");
        }
        assert_eq!(KeyHash::Xxh64.hash(b""), 0xef46_db37_51d8_e999);
        assert_eq!(KeyHash::Xxh3.hash(b""), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn key_hash_names_are_parsed_back() {
        for hash in KeyHash::ALL {
            assert_eq!(hash.name().parse(), Ok(*hash));
        }
        assert_eq!(
            "CRC32".parse::<KeyHash>().unwrap_err().to_string(),
            "no key hash is called \"CRC32\""
        );
    }

    #[test]
    fn key_hash_values_fit_into_their_bits() {
        for hash in KeyHash::ALL.iter().filter(|hash| hash.bits() < 64) {
            for i in 0..1000_u32 {
                assert_eq!(hash.hash(&i.to_le_bytes()) >> hash.bits(), 0, "{hash}");
            }
        }
    }
}
