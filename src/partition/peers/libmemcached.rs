//! libmemcached.

use std::sync::Arc;

use super::super::catalogue::{GivenOptions, OptionInfo, OptionValues, PartitionerInfo};
use super::super::living::place_over_living;
use super::super::{
    HashMod, NodeText, OutNodes, Partitioner, Placement, PlacementError, Ring, RingSpec, Shares,
    Ties, check_unweighted,
};
use super::words;
use crate::hash::{HashTag, KeyHash, named};
use crate::partition::NodeSpec;

/// The placement of libmemcached, which is the reference that many memcached clients and proxies follow.
///
/// - **Equals**: libmemcached 1.0 and 1.1, without `KETAMA_SPY`, `SORT_HOSTS` (sort the nodes yourself) and
///   virtual buckets.
/// - **Nodes**: their `host:port`, taken from the name; port 11211 disappears from labels. The path of a unix
///   socket has `:0` behind it. With [`modula`](Self::modula) only the order counts.
/// - **Weights**: [`ketama_weighted`](Self::ketama_weighted) only. A weight above one switches libmemcached
///   to it under *any* consistent distribution, and the key hash stays what it was: then take
///   `ketama_weighted` and that hash.
/// - **Tag**: none.
/// - **Skew**: weighted, at eight nodes the largest has on average 1.11 times its share, at worst 1.25.
///   Unweighted with `fnv1a_64` is extreme: of 2000 keys four nodes had 291, 8, 766 and 935.
/// - **While nodes are out**: as with `MEMCACHED_BEHAVIOR_AUTO_EJECT_HOSTS`: the continuum of
///   [`ketama`](Self::ketama) and [`ketama_weighted`](Self::ketama_weighted) is that of the living nodes. With
///   weights that moves keys of living nodes too. For [`modula`](Self::modula) libmemcached ejects nothing;
///   here the keys of nodes that are out go where [`HashMod`] puts them.
/// - **Source**: `src/libmemcached/hosts.cc` (`update_continuum`), `src/libmemcached/hash.cc`,
///   `src/libhashkit/` (1.1.4). Not recorded and left out: `hsieh`, which distributions of libmemcached are
///   built without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libmemcached {
    distribution: Distribution,
    hash: LibmemcachedHash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distribution {
    Ketama,
    KetamaWeighted,
    Modula,
}

named! {
    /// The `MEMCACHED_BEHAVIOR_HASH` of libmemcached, by its own names. Several deviate from what their names
    /// promise, see [`KeyHash`].
    pub enum LibmemcachedHash {
        /// `MEMCACHED_HASH_DEFAULT`: one-at-a-time.
        Default = "default",
        /// `MEMCACHED_HASH_MD5`.
        Md5 = "md5",
        /// `MEMCACHED_HASH_CRC`, of fifteen bits.
        Crc = "crc",
        /// `MEMCACHED_HASH_FNV1_64`.
        Fnv1_64 = "fnv1_64",
        /// `MEMCACHED_HASH_FNV1A_64`.
        Fnv1a64 = "fnv1a_64",
        /// `MEMCACHED_HASH_FNV1_32`.
        Fnv1_32 = "fnv1_32",
        /// `MEMCACHED_HASH_FNV1A_32`.
        Fnv1a32 = "fnv1a_32",
        /// `MEMCACHED_HASH_MURMUR`.
        Murmur = "murmur",
        /// `MEMCACHED_HASH_JENKINS`.
        Jenkins = "jenkins",
        /// `MEMCACHED_HASH_MURMUR3`.
        Murmur3 = "murmur3",
    }
}

impl LibmemcachedHash {
    const fn key_hash(self) -> KeyHash {
        match self {
            Self::Default => KeyHash::OneAtATime,
            Self::Md5 => KeyHash::Md5,
            Self::Crc => KeyHash::Crc32Upper,
            Self::Fnv1_64 => KeyHash::Fnv1Cut,
            Self::Fnv1a64 => KeyHash::Fnv1aCut,
            Self::Fnv1_32 => KeyHash::Fnv1Signed,
            Self::Fnv1a32 => KeyHash::Fnv1aSigned,
            Self::Murmur => KeyHash::Murmur2,
            Self::Jenkins => KeyHash::Jenkins,
            Self::Murmur3 => KeyHash::Murmur3,
        }
    }
}

impl Libmemcached {
    /// `MEMCACHED_DISTRIBUTION_CONSISTENT` and `_CONSISTENT_KETAMA`, which place alike: 100 points per node,
    /// each of them the *key* hash of `host:port-i`.
    pub const fn ketama() -> Self {
        Self {
            distribution: Distribution::Ketama,
            hash: LibmemcachedHash::Default,
        }
    }

    /// `MEMCACHED_BEHAVIOR_KETAMA_WEIGHTED`: 160 points per node of average weight, four from each MD5. The
    /// key hash is MD5 unless it was changed afterwards.
    pub const fn ketama_weighted() -> Self {
        Self {
            distribution: Distribution::KetamaWeighted,
            hash: LibmemcachedHash::Md5,
        }
    }

    /// `MEMCACHED_DISTRIBUTION_MODULA`, the default: the key hash modulo the nodes.
    pub const fn modula() -> Self {
        Self {
            distribution: Distribution::Modula,
            hash: LibmemcachedHash::Default,
        }
    }

    /// The hash of the keys, and with [`ketama`](Self::ketama) of the points. Defaults to
    /// [`LibmemcachedHash::Md5`] for [`ketama_weighted`](Self::ketama_weighted), otherwise to
    /// [`LibmemcachedHash::Default`].
    #[must_use]
    pub const fn with_hash(mut self, hash: LibmemcachedHash) -> Self {
        self.hash = hash;
        self
    }

    const fn hash_option(default: &'static str) -> OptionInfo {
        OptionInfo {
            name: "hash",
            meaning: "the hash of the keys, by libmemcached's names",
            default: Some(default),
            values: OptionValues::OneOf(LibmemcachedHash::NAMES),
        }
    }

    pub(in super::super) const KETAMA: PartitionerInfo = PartitionerInfo {
        name: "libmemcached-ketama/1",
        summary: "libmemcached consistent or ketama, unweighted: 100 points by the key hash",
        options: &[Self::hash_option("default")],
        make: |given| Self::ketama().given(given),
    };

    pub(in super::super) const KETAMA_WEIGHTED: PartitionerInfo = PartitionerInfo {
        name: "libmemcached-ketama-weighted/1",
        summary: "libmemcached ketama weighted: 160 points by MD5",
        options: &[Self::hash_option("md5")],
        make: |given| Self::ketama_weighted().given(given),
    };

    pub(in super::super) const MODULA: PartitionerInfo = PartitionerInfo {
        name: "libmemcached-modula/1",
        summary: "libmemcached modula: hash modulo nodes",
        options: &[Self::hash_option("default")],
        make: |given| Self::modula().given(given),
    };

    fn given(self, given: &GivenOptions<'_>) -> Result<Arc<dyn Partitioner>, PlacementError> {
        Ok(Arc::new(self.with_hash(
            given.read("hash", LibmemcachedHash::from_name)?,
        )))
    }
}

impl Partitioner for Libmemcached {
    fn name(&self) -> &str {
        match self.distribution {
            Distribution::Ketama => Self::KETAMA.name,
            Distribution::KetamaWeighted => Self::KETAMA_WEIGHTED.name,
            Distribution::Modula => Self::MODULA.name,
        }
    }

    fn options(&self) -> Vec<(String, String)> {
        words([("hash", self.hash.name())])
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        let hash = self.hash.key_hash();
        let ring = RingSpec::new()
            .with_node_text(NodeText::Libmemcached)
            .with_key_hash(hash)
            .with_ties(Ties::FirstNode);
        match self.distribution {
            Distribution::Ketama => {
                let ring = ring.with_points_per_weight(100).with_shares(Shares::Alike);
                Ring::with_spec(ring.with_label_hash(hash)).place(nodes)
            }
            Distribution::KetamaWeighted => {
                Ring::with_spec(ring.with_shares(Shares::RelativeF32).with_md5_words()).place(nodes)
            }
            Distribution::Modula => {
                check_unweighted(nodes)?;
                HashMod::new(hash).place(nodes)
            }
        }
    }

    fn place_without(
        &self,
        nodes: &[NodeSpec],
        out: &OutNodes,
    ) -> Result<Option<Box<dyn Placement>>, PlacementError> {
        match self.distribution {
            Distribution::KetamaWeighted => place_over_living(self, nodes, out),
            // The next point of a living node is the continuum over them, as all nodes have the same points; and
            // modula does not change.
            Distribution::Ketama | Distribution::Modula => Ok(None),
        }
    }

    /// The whole key counts.
    fn hash_tag(&self) -> HashTag {
        HashTag::None
    }
}
