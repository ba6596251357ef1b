//! From bytes to a number.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;
use xxhash_rust::xxh64::xxh64;

use super::{crc16, fnv};

/// A frozen function from bytes to a number.
///
/// ```
/// use redis_sharding::hash::KeyHash;
///
/// let hash: KeyHash = "crc32".parse()?;
/// assert_eq!(hash.hash(b"user:1"), 0x7ba5c282);
/// # Ok::<(), redis_sharding::hash::UnknownKeyHash>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyHash {
    /// CRC16/XMODEM, the hash of Redis Cluster; 16 bits.
    Crc16,
    /// CRC32 of IEEE 802.3 and zlib, the usual choice of older clients; 32 bits.
    ///
    /// Good enough for keys modulo nodes. Poor for the labels of a ring: names that differ in one digit give points
    /// that lie close together.
    Crc32,
    /// FNV-1a with the standard 32-bit constants. Poor for the labels of a ring, like CRC32.
    Fnv1a32,
    /// FNV-1a with the standard 64-bit constants. Its high bits hardly change with the last bytes of a key, so it is poor
    /// for rings.
    ///
    /// What twemproxy calls `fnv1a_64` is another function.
    Fnv1a64,
    /// XXH3 of 64 bits with seed zero, [stable since xxHash 0.8.0]: the crate's own choice.
    ///
    /// [stable since xxHash 0.8.0]: https://github.com/Cyan4973/xxHash/releases/tag/v0.8.0
    Xxh3,
    /// XXH64 with seed zero, the hash of go-redis' `Ring` (v8 and later).
    Xxh64,
}

impl KeyHash {
    /// Every hash there is, in the order of the names.
    pub const ALL: [Self; 6] = [
        Self::Crc16,
        Self::Crc32,
        Self::Fnv1a32,
        Self::Fnv1a64,
        Self::Xxh3,
        Self::Xxh64,
    ];

    /// The names of [`ALL`](Self::ALL).
    pub(crate) const NAMES: &'static [&'static str] = &{
        let mut names = [""; Self::ALL.len()];
        let mut i = 0;
        while i < names.len() {
            names[i] = Self::ALL[i].name();
            i += 1;
        }
        names
    };

    /// The number of these bytes. A narrow hash fills the low bits.
    pub fn hash(self, bytes: &[u8]) -> u64 {
        self.function()(bytes)
    }

    /// [`hash`](Self::hash) as a function, for who picks it once and calls it per key.
    pub const fn function(self) -> fn(&[u8]) -> u64 {
        match self {
            Self::Crc16 => |bytes| crc16::crc16(bytes) as u64,
            Self::Crc32 => |bytes| crc32fast::hash(bytes) as u64,
            Self::Fnv1a32 => |bytes| fnv::fnv1a_32(bytes) as u64,
            Self::Fnv1a64 => fnv::fnv1a_64,
            Self::Xxh3 => xxh3_64,
            Self::Xxh64 => |bytes| xxh64(bytes, 0),
        }
    }

    /// How many bits of [`hash`](Self::hash) can be set.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Crc16 => 16,
            Self::Crc32 | Self::Fnv1a32 => 32,
            Self::Fnv1a64 | Self::Xxh3 | Self::Xxh64 => 64,
        }
    }

    /// The frozen name, which [`FromStr`] reads back. It goes into fingerprints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc16 => "crc16",
            Self::Crc32 => "crc32",
            Self::Fnv1a32 => "fnv1a-32",
            Self::Fnv1a64 => "fnv1a-64",
            Self::Xxh3 => "xxh3-64",
            Self::Xxh64 => "xxh64",
        }
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyHash {
    type Err = UnknownKeyHash;

    fn from_str(name: &str) -> Result<Self, UnknownKeyHash> {
        Self::ALL
            .into_iter()
            .find(|hash| hash.name() == name)
            .ok_or_else(|| UnknownKeyHash {
                name: name.to_owned(),
            })
    }
}

/// There is no [`KeyHash`] of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key hash is called {name:?}")]
pub struct UnknownKeyHash {
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values_are_met() {
        // `foo`: from zlib, from the FNV page, from the xxHash command line tool; see also recorded go-redis answers.
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
    fn names_are_read_back() {
        for hash in KeyHash::ALL {
            assert_eq!(hash.name().parse(), Ok(hash));
        }
        assert_eq!(
            "CRC32".parse::<KeyHash>().unwrap_err().to_string(),
            "no key hash is called \"CRC32\""
        );
    }

    #[test]
    fn no_hash_is_wider_than_it_says() {
        for hash in KeyHash::ALL.into_iter().filter(|hash| hash.bits() < 64) {
            for i in 0..1000_u32 {
                assert_eq!(hash.hash(&i.to_le_bytes()) >> hash.bits(), 0, "{hash}");
            }
        }
    }
}
