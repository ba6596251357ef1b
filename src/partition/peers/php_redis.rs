//! phpredis' `RedisArray`.

use std::sync::Arc;

use super::super::catalogue::{GivenOptions, OptionInfo, OptionValues, PartitionerInfo};
use super::super::{
    HashMod, NodeText, Partitioner, Placement, PlacementError, Reduction, Ring, RingSpec, Shares,
    Ties, check_unweighted,
};
use super::{check_lengths, words};
use crate::hash::{HashTag, KeyHash, named};
use crate::partition::NodeSpec;

/// The placement of phpredis' `RedisArray` without a `distributor` of the user's own.
///
/// - **Equals**: [`range`](Self::range) 2.2 to 6.1, except 3.1.4 and 3.1.5, which put every key on the first
///   node; [`consistent`](Self::consistent) and [`with_algorithm`](Self::with_algorithm) 4.3 to 6.1. On
///   64-bit builds for Unix: the `algorithm` of others differs.
/// - **Nodes**: `consistent` hashes the host exactly as PHP was given it, with or without a port: give that
///   as name. For `range` only the order counts. No weights.
/// - **Tag**: from the first `{` to the next `}` even if that is nothing, and not beyond a zero byte
///   ([`PhpRedis`](HashTag::PhpRedis)). All keys that start with `{}` are on one node. Where PHP has a
///   `function` of the user's own for it: [`with_hash_tag`](Self::with_hash_tag).
/// - **Skew**: `range` none but chance; `consistent` on average 1.11 times its share for the largest of eight
///   nodes.
/// - **While nodes are out**: `RedisArray` goes on to ask a dead host. Here the keys of nodes that are out
///   belong under `consistent` to the next point of a living node, and under `range` where [`HashMod`] puts
///   them.
/// - **Undefined in the original**: `range` where the hash is zero (a node that does not exist; here the last
///   node), which with `algorithm` meets the empty tag under `crc32`, `crc32b`, `crc32c`, `joaat` and
///   `murmur3a`; `consistent` where two points fall together (here the first node), and hosts of more than 60
///   bytes, which are refused.
/// - **Source**: `redis_array_impl.c` (5.3.7; the same text in 6.1.0).
#[derive(Clone, Debug)]
pub struct PhpRedis {
    distribution: Distribution,
    algorithm: PhpAlgorithm,
    tag: HashTag,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distribution {
    Consistent,
    Range,
}

named! {
    /// The `algorithm` option of `RedisArray`: a digest of PHP's `hash`. Of the many that PHP has, those that
    /// are recorded, and with them `fnv164` and `xxh3`, which PHP and phpredis treat as `fnv1a64` and
    /// `xxh64`.
    pub enum PhpAlgorithm {
        /// The option is not given: CRC32.
        None = "none",
        /// `adler32`.
        Adler32 = "adler32",
        /// `crc32`, which is bzip2's.
        Crc32 = "crc32",
        /// `crc32b`, which is zlib's.
        Crc32b = "crc32b",
        /// `crc32c`.
        Crc32c = "crc32c",
        /// `fnv132`.
        Fnv132 = "fnv132",
        /// `fnv164`.
        Fnv164 = "fnv164",
        /// `fnv1a32`.
        Fnv1a32 = "fnv1a32",
        /// `fnv1a64`.
        Fnv1a64 = "fnv1a64",
        /// `joaat`.
        Joaat = "joaat",
        /// `md5`.
        Md5 = "md5",
        /// `murmur3a`.
        Murmur3a = "murmur3a",
        /// `sha1`.
        Sha1 = "sha1",
        /// `sha256`.
        Sha256 = "sha256",
        /// `xxh3`.
        Xxh3 = "xxh3",
        /// `xxh32`.
        Xxh32 = "xxh32",
        /// `xxh64`.
        Xxh64 = "xxh64",
    }
}

impl PhpAlgorithm {
    const fn key_hash(self) -> KeyHash {
        match self {
            Self::None => KeyHash::CrcJam,
            Self::Adler32 => KeyHash::PhpAdler32,
            Self::Crc32 => KeyHash::PhpCrc32,
            Self::Crc32b => KeyHash::PhpCrc32b,
            Self::Crc32c => KeyHash::PhpCrc32c,
            Self::Fnv132 => KeyHash::PhpFnv132,
            Self::Fnv164 => KeyHash::PhpFnv164,
            Self::Fnv1a32 => KeyHash::PhpFnv1a32,
            Self::Fnv1a64 => KeyHash::PhpFnv1a64,
            Self::Joaat => KeyHash::PhpJoaat,
            Self::Md5 => KeyHash::PhpMd5,
            Self::Murmur3a => KeyHash::PhpMurmur3a,
            Self::Sha1 => KeyHash::PhpSha1,
            Self::Sha256 => KeyHash::PhpSha256,
            Self::Xxh3 => KeyHash::PhpXxh3,
            Self::Xxh32 => KeyHash::PhpXxh32,
            Self::Xxh64 => KeyHash::PhpXxh64,
        }
    }
}

impl PhpRedis {
    /// The default: the range of CRC32 values is cut into equal parts.
    pub const fn range() -> Self {
        Self::of(Distribution::Range)
    }

    /// `'consistent' => true`: a ring of 160 points per host.
    pub const fn consistent() -> Self {
        Self::of(Distribution::Consistent)
    }

    const fn of(distribution: Distribution) -> Self {
        Self {
            distribution,
            algorithm: PhpAlgorithm::None,
            tag: HashTag::PhpRedis,
        }
    }

    /// The `algorithm` option. Defaults to [`PhpAlgorithm::None`].
    #[must_use]
    pub fn with_algorithm(mut self, algorithm: PhpAlgorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Sets the tag rule, where PHP has a `function` of the user's own. Defaults to [`HashTag::PhpRedis`].
    #[must_use]
    pub fn with_hash_tag(mut self, tag: HashTag) -> Self {
        self.tag = tag;
        self
    }

    const OPTIONS: &'static [OptionInfo] = &[
        OptionInfo {
            name: "algorithm",
            meaning: "the algorithm option of RedisArray",
            default: Some("none"),
            values: OptionValues::OneOf(PhpAlgorithm::NAMES),
        },
        OptionInfo::hash_tag("phpredis"),
    ];

    pub(in super::super) const CONSISTENT: PartitionerInfo = PartitionerInfo {
        name: "phpredis-consistent/1",
        summary: "phpredis RedisArray with consistent: ring over hosts",
        options: Self::OPTIONS,
        make: |given| Self::consistent().given(given),
    };

    pub(in super::super) const RANGE: PartitionerInfo = PartitionerInfo {
        name: "phpredis-range/1",
        summary: "phpredis RedisArray by default: equal ranges of CRC32 over positions",
        options: Self::OPTIONS,
        make: |given| Self::range().given(given),
    };

    fn given(self, given: &GivenOptions<'_>) -> Result<Arc<dyn Partitioner>, PlacementError> {
        let algorithm = given.read("algorithm", PhpAlgorithm::from_name)?;
        Ok(Arc::new(
            self.with_algorithm(algorithm)
                .with_hash_tag(given.hash_tag()?),
        ))
    }
}

impl Partitioner for PhpRedis {
    fn name(&self) -> &str {
        match self.distribution {
            Distribution::Consistent => Self::CONSISTENT.name,
            Distribution::Range => Self::RANGE.name,
        }
    }

    fn options(&self) -> Vec<(String, String)> {
        words([
            ("algorithm", self.algorithm.name()),
            ("hash-tag", &self.tag.name()),
        ])
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_unweighted(nodes)?;
        let hash = self.algorithm.key_hash();
        match self.distribution {
            Distribution::Consistent => {
                check_lengths(nodes, NodeText::Name, LABEL_MAX)?;
                let spec = RingSpec::new()
                    .with_shares(Shares::Alike)
                    .with_md5_words()
                    .with_key_hash(hash)
                    .with_ties(Ties::FirstNode);
                Ring::with_spec(spec).place(nodes)
            }
            Distribution::Range => HashMod::new(hash)
                .with_reduction(Reduction::InvertedRange)
                .place(nodes),
        }
    }

    fn hash_tag(&self) -> HashTag {
        self.tag.clone()
    }
}

/// A buffer of `HOST_NAME_MAX`, which is 64 on Linux, less the zero at its end.
const LABEL_MAX: usize = 63;
