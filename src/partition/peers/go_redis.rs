//! go-redis' `Ring`.

use std::sync::Arc;

use super::super::catalogue::PartitionerInfo;
use super::super::{
    OutNodes, Partitioner, Placement, PlacementError, PointLabel, Ring, RingSpec, Shares,
    check_names, check_unweighted, indexed,
};
use crate::hash::KeyHash;
use crate::partition::{NodeIndex, NodeSpec};

/// The placement of go-redis' `Ring`.
///
/// - **Equals**: [`v8`](Self::v8) 8.0 to 9.22, [`v3`](Self::v3) 3.1 to 7.4. From 7 to 8 nearly all keys move.
/// - **Nodes**: the names that `RingOptions.Addrs` maps to addresses, never the addresses; their order does
///   not count. No weights.
/// - **Tag**: Redis Cluster's ([`Braces`](crate::hash::HashTag::Braces)), not to be turned off.
/// - **Skew**: `v8` none but chance; `v3` on average the largest of eight nodes has 1.23 times its share, at
///   worst 1.78.
/// - **While nodes are out**: as in go-redis, which takes shards out whose heartbeat fails: each key is where it
///   would be if the nodes that are out did not exist. Only their own keys move.
/// - **Undefined in the original**: which node has a point on which two fall (`v3`; the order of a Go map
///   decides) or an equal score (`v8`; once in 2^64). Here the first name, or the first node.
/// - **Beware**: go-redis 3 to 8 ask the server where a command has its key, and do not understand servers
///   from Redis 7: they then put all keys on one node (5) or on random ones (6 to 8). There is no placement
///   to agree with then.
/// - **Source**: `ring.go` and `internal/consistenthash` (7.4.1), `ring.go` and `dgryski/go-rendezvous`
///   (9.22.0).
///
/// `v8`, with wrapping 64-bit arithmetic: *x* = XXH64(key) xor XXH64(name); `x ^= x >> 12; x ^= x << 25; x ^=
/// x >> 27`; the score is *x* · 2685821657736338717, and the highest one wins. A key costs a score per node,
/// about a nanosecond each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoRedis {
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V3,
    V8,
}

impl GoRedis {
    /// Versions 3.1 to 7: a ring of 100 points per node, CRC32 throughout.
    pub const fn v3() -> Self {
        let version = Version::V3;
        Self { version }
    }

    /// Versions 8 and 9: rendezvous hashing.
    pub const fn v8() -> Self {
        let version = Version::V8;
        Self { version }
    }

    pub(in super::super) const V3: PartitionerInfo = PartitionerInfo {
        name: "go-redis-3/1",
        summary: "go-redis Ring 3.1 to 7: CRC32 ring over names",
        options: &[],
        make: |_| Ok(Arc::new(Self::v3())),
    };

    pub(in super::super) const V8: PartitionerInfo = PartitionerInfo {
        name: "go-redis-8/1",
        summary: "go-redis Ring 8 and 9: rendezvous hashing over names",
        options: &[],
        make: |_| Ok(Arc::new(Self::v8())),
    };
}

impl Partitioner for GoRedis {
    fn name(&self) -> &str {
        match self.version {
            Version::V3 => Self::V3.name,
            Version::V8 => Self::V8.name,
        }
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        match self.version {
            Version::V3 => Ring::with_spec(
                RingSpec::new()
                    .with_points_per_weight(100)
                    .with_shares(Shares::Alike)
                    .with_label(PointLabel::IndexName)
                    .with_label_hash(KeyHash::Crc32)
                    .with_key_hash(KeyHash::Crc32),
            )
            .place(nodes),
            Version::V8 => {
                check_names(nodes)?;
                check_unweighted(nodes)?;
                let seed = |(index, node): (_, &NodeSpec)| {
                    (KeyHash::Xxh64.hash(node.name().as_bytes()), index)
                };
                Ok(Box::new(Scores {
                    seeds: indexed(nodes).map(seed).collect(),
                }))
            }
        }
    }
}

#[derive(Debug)]
struct Scores {
    /// The hash of every name.
    seeds: Box<[(u64, NodeIndex)]>,
}

impl Placement for Scores {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        winner(key, self.seeds.iter().copied())
    }

    fn locate_without(&self, key: &[u8], out: &OutNodes) -> Option<NodeIndex> {
        let living = self.seeds.iter().filter(|(_, node)| !out.contains(*node));
        winner(key, living.copied())
    }
}

#[inline]
fn winner(key: &[u8], mut seeds: impl Iterator<Item = (u64, NodeIndex)>) -> Option<NodeIndex> {
    let hash = KeyHash::Xxh64.hash(key);
    let (seed, first) = seeds.next()?;
    let mut best = (score(hash ^ seed), first);
    for (seed, index) in seeds {
        let score = score(hash ^ seed);
        // Strictly greater: of equal scores the first node keeps the key.
        if score > best.0 {
            best = (score, index);
        }
    }
    Some(best.1)
}

/// S. Vigna's xorshift64*.
#[inline]
const fn score(mut x: u64) -> u64 {
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    x.wrapping_mul(2_685_821_657_736_338_717)
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{living, out, weighted};
    use super::*;

    #[test]
    fn go_redis_owner_with_nodes_out_is_that_of_the_living_nodes_alone() {
        let nodes = weighted(&[1; 7]);
        for rule in [GoRedis::v3(), GoRedis::v8()] {
            let placement = rule.place(&nodes).unwrap();
            for bits in 1..127 {
                let out = out(&nodes, bits);
                let (indices, living) = living(&nodes, &out);
                let without = rule.place(&living).unwrap();
                for i in 0..100_u32 {
                    let key = i.to_le_bytes();
                    let owner = placement.locate_without(&key, &out).unwrap().get();
                    assert_eq!(owner, indices[without.locate(&key).unwrap().get()]);
                }
            }
        }
    }

    #[test]
    fn go_redis_presets_refuse_weights() {
        for rule in [GoRedis::v3(), GoRedis::v8()] {
            let refusal = rule.place(&weighted(&[1, 2])).unwrap_err();
            assert_eq!(
                refusal.to_string(),
                "\"node-1\" weighs 2, but this rule has no weights: every node must weigh one"
            );
        }
    }
}
