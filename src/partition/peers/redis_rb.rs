//! redis-rb's `Redis::Distributed`.

use std::sync::Arc;

use super::super::catalogue::{GivenOptions, OptionInfo, OptionValues, PartitionerInfo};
use super::super::{
    Direction, Partitioner, Placement, PlacementError, PointLabel, Ring, RingSpec, Shares, Ties,
};
use super::words;
use crate::hash::{HashTag, KeyHash};
use crate::partition::NodeSpec;

/// The placement of redis-rb's `Redis::Distributed`.
///
/// - **Equals**: [`v4`](Self::v4) 4.8 and before, [`v5`](Self::v5) 5.0 to 6. From 4 to 5 nearly all keys
///   move, because of both the points and the ids.
/// - **Nodes**: the id. Give it as the node's name: an address alone is never one. It is the `id:` option if
///   there is one, and otherwise
///   - `v4`: `redis://host:port/db`, always with the number of the database: `redis://10.0.0.1:6379/0`;
///     `rediss://` with TLS from 4.0 on; `unix:///path/db`.
///   - `v5`: `redis://host:port`, and `/db` only if that is not 0; `rediss://` with TLS; `unix:///path`, and
///     `?db=n` if not 0.
/// - **Weights**: none.
/// - **Tag**: the regular expression `^{(.+?)}`: braces at the start of the key, or of a line within it
///   ([`LineStart`](HashTag::LineStart)). Where redis-rb has a `tag:` option:
///   [`with_hash_tag`](Self::with_hash_tag).
/// - **Skew**: `v4` on average 1.23 times its share for the largest of eight nodes, and with two nodes 1.28
///   times at worst; `v5` 1.11 and 1.12.
/// - **While nodes are out**: redis-rb goes on to ask a dead node. Here the keys of nodes that are out belong
///   to the last point before them of a living node.
/// - **Undefined in the original**: nothing. Up to 3 two points on one place were an error; here, as since 4,
///   the last node has it.
/// - **Source**: `lib/redis/hash_ring.rb`, `lib/redis/distributed.rb` (4.8.0); the gem `redis` 5.4.1 with
///   redis-client 0.30.0.
///
/// ```
/// use redis_sharding::partition::peers::RedisRb;
/// use redis_sharding::partition::Partitioner;
/// use redis_sharding::NodeSpec;
///
/// let nodes = [1, 2, 3].map(|i| NodeSpec::new(format!("redis://10.0.0.{i}:6379"), format!("10.0.0.{i}:6379")));
/// let placement = RedisRb::v5().place(&nodes)?;
/// assert_eq!(placement.locate(b"foo").map(|node| node.get()), Some(2));
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RedisRb {
    version: Version,
    points: u32,
    tag: HashTag,
}

#[derive(Clone, Copy, Debug)]
enum Version {
    V4,
    V5,
}

impl RedisRb {
    /// Versions up to 4: points by CRC32.
    pub const fn v4() -> Self {
        Self::of(Version::V4)
    }

    /// Versions 5 and 6: points by MD5, keys still by CRC32.
    pub const fn v5() -> Self {
        Self::of(Version::V5)
    }

    const fn of(version: Version) -> Self {
        Self {
            version,
            points: 160,
            tag: HashTag::LineStart(b'{', b'}'),
        }
    }

    /// The argument that `HashRing.new` was given, from 1 to 1024. Defaults to 160.
    #[must_use]
    pub fn with_points(mut self, points: u32) -> Self {
        self.points = points;
        self
    }

    /// The `tag:` option. Defaults to [`HashTag::LineStart`] with braces.
    #[must_use]
    pub fn with_hash_tag(mut self, tag: HashTag) -> Self {
        self.tag = tag;
        self
    }

    const OPTIONS: &'static [OptionInfo] = &[
        OptionInfo {
            name: "points",
            meaning: "how many points a node has",
            default: Some("160"),
            values: OptionValues::Number { min: 1, max: 1024 },
        },
        OptionInfo::hash_tag("line-start:{}"),
    ];

    pub(in super::super) const V4: PartitionerInfo = PartitionerInfo {
        name: "redis-rb-4/1",
        summary: "redis-rb Distributed up to 4: CRC32 ring over ids",
        options: Self::OPTIONS,
        make: |given| Self::v4().given(given),
    };

    pub(in super::super) const V5: PartitionerInfo = PartitionerInfo {
        name: "redis-rb-5/1",
        summary: "redis-rb Distributed 5 and 6: MD5 ring over ids, keys by CRC32",
        options: Self::OPTIONS,
        make: |given| Self::v5().given(given),
    };

    fn given(self, given: &GivenOptions<'_>) -> Result<Arc<dyn Partitioner>, PlacementError> {
        let points = given.number("points")?;
        Ok(Arc::new(
            self.with_points(points).with_hash_tag(given.hash_tag()?),
        ))
    }
}

impl Partitioner for RedisRb {
    fn name(&self) -> &str {
        match self.version {
            Version::V4 => Self::V4.name,
            Version::V5 => Self::V5.name,
        }
    }

    fn options(&self) -> Vec<(String, String)> {
        words([
            ("points", &self.points.to_string()),
            ("hash-tag", &self.tag.name()),
        ])
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        let label_hash = match self.version {
            Version::V4 => KeyHash::Crc32,
            Version::V5 => KeyHash::Md5Big,
        };
        let spec = RingSpec::new()
            .with_points_per_weight(self.points)
            .with_shares(Shares::Alike)
            .with_label(PointLabel::NameColonIndex)
            .with_label_hash(label_hash)
            .with_key_hash(KeyHash::Crc32)
            .with_direction(Direction::AtOrBefore)
            .with_ties(Ties::LastNode);
        Ring::with_spec(spec).place(nodes)
    }

    fn hash_tag(&self) -> HashTag {
        self.tag.clone()
    }
}
