//! Jedis' `ShardedJedis` and `JedisSharding`.

use std::sync::Arc;

use super::super::catalogue::{GivenOptions, OptionInfo, OptionValues, PartitionerInfo};
use super::super::{
    Partitioner, Placement, PlacementError, PointLabel, Ring, RingSpec, Shares, Ties,
};
use super::words;
use crate::hash::{HashTag, KeyHash, named};
use crate::partition::NodeSpec;

/// The placement of Jedis: `ShardedJedis` up to 3, `JedisSharding` from 4.
///
/// - **Equals**: [`v2_0`](Self::v2_0) 2.0.0 to 2.9.3, [`v2_10`](Self::v2_10) 2.10 to 3.10, [`v4`](Self::v4)
///   4.0 to 6. All three agree where no shard has a name and none a weight. Jedis 1 had other rings, and
///   Jedis 7 has none.
/// - **Nodes**: a shard *with* a name is known by it, one *without* by its position in the list:
///   `SHARD-0-NODE-0`. So a [named](NodeSpec::is_named) node has its name hashed, and for unnamed ones the
///   order counts. `v4` knows no names and no weights: only the order counts, and names are for you alone.
/// - **Weights**: up to 3, 160 points for each unit of weight.
/// - **Tag**: none, unless Jedis is given a pattern: [`with_hash_tag`](Self::with_hash_tag).
/// - **Skew**: for three nodes of equal weight the largest has 1.05 times its share, for eight 1.10 times.
/// - **While nodes are out**: Jedis goes on to ask a dead shard. Here the keys of nodes that are out belong
///   to the next point of a living node; positions in labels stay what they are.
/// - **Beware**: Jedis looks for tags in `String` keys only, not in `byte[]` keys, and in 4 to 6 not in
///   pipelines of `JedisSharding`. Only keys that are UTF-8 can be tagged.
/// - **Source**: `util/Sharded.java` (2.9, 3.10), `providers/ShardedConnectionProvider.java` (4.4),
///   `util/Hashing.java`. The labels of named shards before 2.10 are read, not recorded.
#[derive(Clone, Debug)]
pub struct Jedis {
    version: Version,
    hashing: JedisHashing,
    tag: HashTag,
}

#[derive(Clone, Copy, Debug)]
enum Version {
    V2_0,
    V2_10,
    V4,
}

named! {
    /// The hash of keys and points in Jedis.
    pub enum JedisHashing {
        /// `Hashing.MURMUR_HASH`, the default: MurmurHash64A.
        Murmur = "murmur",
        /// `Hashing.MD5`: the first word of MD5.
        Md5 = "md5",
    }
}

impl JedisHashing {
    const fn key_hash(self) -> KeyHash {
        match self {
            Self::Murmur => KeyHash::Murmur64A,
            Self::Md5 => KeyHash::Md5,
        }
    }
}

impl Jedis {
    /// Versions 2.0 to 2.9: the label of a named shard is the name, `*`, the weight and the index, the last
    /// two run together.
    pub const fn v2_0() -> Self {
        Self::of(Version::V2_0)
    }

    /// Versions 2.10 to 3: the label of a named shard is the name, `*` and the index.
    pub const fn v2_10() -> Self {
        Self::of(Version::V2_10)
    }

    /// Versions 4 to 6: positions only.
    pub const fn v4() -> Self {
        Self::of(Version::V4)
    }

    const fn of(version: Version) -> Self {
        Self {
            version,
            hashing: JedisHashing::Murmur,
            tag: HashTag::None,
        }
    }

    /// The hash that Jedis was given. Defaults to [`JedisHashing::Murmur`].
    #[must_use]
    pub fn with_hashing(mut self, hashing: JedisHashing) -> Self {
        self.hashing = hashing;
        self
    }

    /// The pattern that Jedis was given: [`HashTag::JedisPattern`] for its `DEFAULT_KEY_TAG_PATTERN`.
    /// Defaults to [`HashTag::None`].
    #[must_use]
    pub fn with_hash_tag(mut self, tag: HashTag) -> Self {
        self.tag = tag;
        self
    }

    const OPTIONS: &'static [OptionInfo] = &[
        OptionInfo {
            name: "hashing",
            meaning: "the hash of keys and points",
            default: Some("murmur"),
            values: OptionValues::OneOf(JedisHashing::NAMES),
        },
        OptionInfo::hash_tag("none"),
    ];

    pub(in super::super) const V2_0: PartitionerInfo = PartitionerInfo {
        name: "jedis-2.0/1",
        summary: "Jedis 2.0 to 2.9: ring over names and weights, or positions",
        options: Self::OPTIONS,
        make: |given| Self::v2_0().given(given),
    };

    pub(in super::super) const V2_10: PartitionerInfo = PartitionerInfo {
        name: "jedis-2.10/1",
        summary: "Jedis 2.10 to 3: ring over names, or positions",
        options: Self::OPTIONS,
        make: |given| Self::v2_10().given(given),
    };

    pub(in super::super) const V4: PartitionerInfo = PartitionerInfo {
        name: "jedis-4/1",
        summary: "Jedis 4 to 6: ring over positions",
        options: Self::OPTIONS,
        make: |given| Self::v4().given(given),
    };

    fn given(self, given: &GivenOptions<'_>) -> Result<Arc<dyn Partitioner>, PlacementError> {
        let hashing = given.read("hashing", JedisHashing::from_name)?;
        Ok(Arc::new(
            self.with_hashing(hashing).with_hash_tag(given.hash_tag()?),
        ))
    }
}

impl Partitioner for Jedis {
    fn name(&self) -> &str {
        match self.version {
            Version::V2_0 => Self::V2_0.name,
            Version::V2_10 => Self::V2_10.name,
            Version::V4 => Self::V4.name,
        }
    }

    fn options(&self) -> Vec<(String, String)> {
        words([
            ("hashing", self.hashing.name()),
            ("hash-tag", &self.tag.name()),
        ])
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        let (label, shares) = match self.version {
            Version::V2_0 => (PointLabel::NameStarWeightIndex, Shares::ByWeight),
            Version::V2_10 => (PointLabel::NameStarIndex, Shares::ByWeight),
            Version::V4 => (PointLabel::ShardNode, Shares::Alike),
        };
        let hash = self.hashing.key_hash();
        let spec = RingSpec::new()
            .with_shares(shares)
            .with_label(label)
            .with_label_hash(hash)
            .with_key_hash(hash)
            .with_ties(Ties::LastNode);
        Ring::with_spec(spec).place(nodes)
    }

    fn hash_tag(&self) -> HashTag {
        self.tag.clone()
    }
}
