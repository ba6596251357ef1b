//! Envoy's `redis_proxy`.

use std::fmt::Write as _;
use std::sync::Arc;

use super::super::catalogue::{GivenOptions, OptionInfo, OptionValues, PartitionerInfo};
use super::super::living::place_over_living;
use super::super::ring::of_points;
use super::super::{
    OutNodes, Partitioner, Placement, PlacementError, RingSpec, check_names, check_total, indexed,
};
use super::maglev::Maglev;
use super::{in_bounds, words};
use crate::hash::{HashTag, KeyHash, named};
use crate::partition::{NodeIndex, NodeSpec};

/// The placement of Envoy's `redis_proxy`: [`ring_hash`](Self::ring_hash) for `lb_policy: RING_HASH`,
/// [`maglev`](Self::maglev) for `lb_policy: MAGLEV`.
///
/// - **Equals**: Envoy 1.36 and 1.40, built with libstdc++ for 64 bits, as its releases are; as `lb_policy` or
///   as `load_balancing_policy`. Other policies look at no key, so nothing can agree with them.
///   `envoy.clusters.redis` is Redis Cluster.
/// - **Nodes**: what Envoy hashes for an endpoint is, in this order: its metadata `envoy.lb: { hash_key: NAME }`;
///   with `use_hostname_for_hashing` its `hostname`, or else the DNS name that stands as its address, without
///   the port; the address as Envoy prints it, `127.0.0.1:6379`, `[::1]:6379` or the path of a unix socket.
///   Give one of the first two as the node's name, and leave a node of the third kind unnamed. With
///   `STRICT_DNS` and without `use_hostname_for_hashing` that is the address to which the name resolves.
/// - **Weights**: `load_balancing_weight`, relative, in 64-bit floating point. With
///   `locality_weighted_lb_config` they depend on localities, which this does not compute.
/// - **Tag**: none, unless the proxy has `enable_hashtagging: true`: then Redis Cluster's, by `with_hash_tag`
///   with [`HashTag::Braces`].
/// - **Keys**: what is sent to the server is hashed: a prefix that a route removes does not count. Always by
///   MurmurHash64A with the seed of `std::hash`; `hash_function` is about points only.
/// - **Skew**: a ring of default size: for eight hosts the largest has on average 1.11 times its share, at worst 1.19; a
///   table is even but for one entry.
/// - **While nodes are out**: as Envoy, when health checks or outlier detection have taken hosts out: all is
///   computed again over the others, which moves a few keys of living nodes too. Below the panic threshold,
///   by default when half of the hosts are out, Envoy asks dead hosts again; here they stay out. Without health
///   checks Envoy goes on to ask them.
/// - **Undefined in the original**: which host has a point of the ring on which two fall; here the first in the
///   order given.
/// - **Source**: `source/extensions/load_balancing_policies/` (`ring_hash/ring_hash_lb.cc`,
///   `maglev/maglev_lb.cc`, `common/thread_aware_lb_impl.cc`), `source/common/common/hash.cc`,
///   `source/extensions/filters/network/redis_proxy/conn_pool_impl.cc` (1.40.0). Recorded from 1.40.0; 1.36.2
///   gave the same answers. Not recorded: `hash_balance_factor`, which makes placement depend on load, and
///   weights of localities.
///
/// ```
/// use redis_sharding::hash::HashTag;
/// use redis_sharding::partition::peers::Envoy;
/// use redis_sharding::partition::Partitioner;
/// use redis_sharding::NodeSpec;
///
/// // lb_policy: MAGLEV, enable_hashtagging: true
/// let cluster = Envoy::maglev().with_hash_tag(HashTag::Braces);
/// let hosts = [1, 2, 3].map(|i| NodeSpec::unnamed(format!("10.0.0.{i}:6379")));
/// let placement = cluster.place(&hosts)?;
/// assert!(placement.locate(b"foo").is_some());
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
#[derive(Debug)]
pub struct Envoy(());

impl Envoy {
    /// `lb_policy: RING_HASH`: a ring of at least 1024 points, shared by weight.
    pub const fn ring_hash() -> EnvoyRingHash {
        EnvoyRingHash {
            point_hash: EnvoyPointHash::XxHash,
            minimum_ring_size: RING_SIZE_MIN,
            maximum_ring_size: RING_SIZE_MAX,
            tag: HashTag::None,
        }
    }

    /// `lb_policy: MAGLEV`: a table of 65537 entries, in which the hosts take turns.
    pub const fn maglev() -> EnvoyMaglev {
        EnvoyMaglev {
            table_size: TABLE_SIZE,
            tag: HashTag::None,
        }
    }

    pub(in super::super) const RING_HASH: PartitionerInfo = PartitionerInfo {
        name: "envoy-ring-hash/1",
        summary: "Envoy RING_HASH: ring over addresses, host names or hash keys",
        options: &[
            OptionInfo {
                name: "point-hash",
                meaning: "hash_function, the hash of the points, by Envoy's names in lower case",
                default: Some("xx_hash"),
                values: OptionValues::OneOf(EnvoyPointHash::NAMES),
            },
            ring_size("minimum-ring-size", "minimum_ring_size", "1024"),
            ring_size("maximum-ring-size", "maximum_ring_size", "8388608"),
            OptionInfo::hash_tag("none"),
        ],
        make: |given| Ok(Arc::new(EnvoyRingHash::from_given(given)?)),
    };

    pub(in super::super) const MAGLEV: PartitionerInfo = PartitionerInfo {
        name: "envoy-maglev/1",
        summary: "Envoy MAGLEV: table over addresses, host names or hash keys",
        options: &[
            OptionInfo {
                name: "table-size",
                meaning: "table_size, how many entries the table has; a prime",
                default: Some("65537"),
                values: OptionValues::Number {
                    min: 2,
                    max: TABLE_SIZE_MAX as u64,
                },
            },
            OptionInfo::hash_tag("none"),
        ],
        make: |given| Ok(Arc::new(EnvoyMaglev::from_given(given)?)),
    };
}

/// Envoy's `lb_policy: RING_HASH`, made by [`Envoy::ring_hash`].
///
/// A host has about its part of the ring's points, at the hashes of `LABEL_0`, `LABEL_1`, ... Fractions of points carry
/// over to the next host, so the order in which hosts are given matters a little where the parts are uneven.
#[derive(Clone, Debug)]
pub struct EnvoyRingHash {
    point_hash: EnvoyPointHash,
    minimum_ring_size: u32,
    maximum_ring_size: u32,
    tag: HashTag,
}

named! {
    /// The `hash_function` of Envoy's `ring_hash_lb_config`: the hash of the points. Keys have another.
    pub enum EnvoyPointHash {
        /// `XX_HASH`, the default: XXH64.
        XxHash = "xx_hash",
        /// `MURMUR_HASH_2`: MurmurHash64A with the seed of `std::hash`.
        MurmurHash2 = "murmur_hash_2",
    }
}

impl EnvoyPointHash {
    const fn key_hash(self) -> KeyHash {
        match self {
            Self::XxHash => KeyHash::Xxh64,
            Self::MurmurHash2 => KEY_HASH,
        }
    }
}

impl EnvoyRingHash {
    /// The `hash_function`. Defaults to [`EnvoyPointHash::XxHash`].
    #[must_use]
    pub fn with_point_hash(mut self, hash: EnvoyPointHash) -> Self {
        self.point_hash = hash;
        self
    }

    /// The `minimum_ring_size`, from 1 to `maximum_ring_size`. Defaults to 1024.
    #[must_use]
    pub fn with_minimum_ring_size(mut self, points: u32) -> Self {
        self.minimum_ring_size = points;
        self
    }

    /// The `maximum_ring_size`, up to 8388608, which is the default.
    #[must_use]
    pub fn with_maximum_ring_size(mut self, points: u32) -> Self {
        self.maximum_ring_size = points;
        self
    }

    /// [`HashTag::Braces`] for `enable_hashtagging: true`. Defaults to [`HashTag::None`].
    #[must_use]
    pub fn with_hash_tag(mut self, tag: HashTag) -> Self {
        self.tag = tag;
        self
    }

    fn from_given(given: &GivenOptions<'_>) -> Result<Self, PlacementError> {
        Ok(Self {
            point_hash: given.read("point-hash", EnvoyPointHash::from_name)?,
            minimum_ring_size: given.number("minimum-ring-size")?,
            maximum_ring_size: given.number("maximum-ring-size")?,
            tag: given.hash_tag()?,
        })
    }

    fn check_sizes(&self) -> Result<(), PlacementError> {
        let (least, most) = (self.minimum_ring_size, self.maximum_ring_size);
        in_bounds("maximum-ring-size", most, 1, RING_SIZE_MAX)?;
        in_bounds("minimum-ring-size", least, 1, most)
    }

    /// Every point with its host. All in 64-bit floating point, in the order of Envoy's operations.
    fn points(&self, nodes: &[NodeSpec]) -> Vec<(u64, NodeIndex)> {
        let parts = parts(nodes);
        let smallest = parts.iter().copied().fold(1.0, f64::min);
        let wanted = (smallest * f64::from(self.minimum_ring_size)).ceil() / smallest;
        let scale = wanted.min(f64::from(self.maximum_ring_size));
        let hash = self.point_hash.key_hash().function();
        let (mut points, mut label) = (Vec::new(), String::new());
        let (mut current, mut target) = (0.0, 0.0);
        for ((index, node), part) in indexed(nodes).zip(parts) {
            target += scale * part;
            let mut i = 0_u32;
            while current < target {
                label.clear();
                // Writing to a string does not fail.
                let _ = write!(label, "{}_{i}", node.name());
                points.push((hash(label.as_bytes()), index));
                current += 1.0;
                i += 1;
            }
        }
        points
    }
}

impl Partitioner for EnvoyRingHash {
    fn name(&self) -> &str {
        Envoy::RING_HASH.name
    }

    fn options(&self) -> Vec<(String, String)> {
        words([
            ("point-hash", self.point_hash.name()),
            ("minimum-ring-size", &self.minimum_ring_size.to_string()),
            ("maximum-ring-size", &self.maximum_ring_size.to_string()),
            ("hash-tag", &self.tag.name()),
        ])
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_hosts(nodes)?;
        self.check_sizes()?;
        of_points(&RingSpec::new().with_key_hash(KEY_HASH), self.points(nodes))
    }

    fn place_without(
        &self,
        nodes: &[NodeSpec],
        out: &OutNodes,
    ) -> Result<Option<Box<dyn Placement>>, PlacementError> {
        place_over_living(self, nodes, out)
    }

    fn hash_tag(&self) -> HashTag {
        self.tag.clone()
    }
}

/// Envoy's `lb_policy: MAGLEV`, made by [`Envoy::maglev`].
///
/// The entries of a table belong to the hosts, and the hash of a key modulo the table picks one. To fill it, the hosts take
/// turns in the order of their labels, each along a permutation of its own; a host of less weight sits out some rounds.
/// The order in which hosts are given does not matter. D. Eisenbud et al., "Maglev", NSDI 2016.
#[derive(Clone, Debug)]
pub struct EnvoyMaglev {
    table_size: u32,
    tag: HashTag,
}

impl EnvoyMaglev {
    /// The `table_size`, a prime up to 5000011. Defaults to 65537.
    #[must_use]
    pub fn with_table_size(mut self, entries: u32) -> Self {
        self.table_size = entries;
        self
    }

    /// [`HashTag::Braces`] for `enable_hashtagging: true`. Defaults to [`HashTag::None`].
    #[must_use]
    pub fn with_hash_tag(mut self, tag: HashTag) -> Self {
        self.tag = tag;
        self
    }

    fn from_given(given: &GivenOptions<'_>) -> Result<Self, PlacementError> {
        Ok(Self {
            table_size: given.number("table-size")?,
            tag: given.hash_tag()?,
        })
    }

    fn check_size(&self) -> Result<(), PlacementError> {
        in_bounds("table-size", self.table_size, 2, TABLE_SIZE_MAX)?;
        if is_prime(self.table_size) {
            return Ok(());
        }
        Err(PlacementError::OptionValue {
            placement: Envoy::MAGLEV.name,
            option: "table-size".to_owned(),
            value: self.table_size.to_string(),
            allowed: "a prime, as Envoy refuses other sizes".to_owned(),
        })
    }
}

impl Partitioner for EnvoyMaglev {
    fn name(&self) -> &str {
        Envoy::MAGLEV.name
    }

    fn options(&self) -> Vec<(String, String)> {
        words([
            ("table-size", &self.table_size.to_string()),
            ("hash-tag", &self.tag.name()),
        ])
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_hosts(nodes)?;
        self.check_size()?;
        let hosts: Vec<_> = indexed(nodes)
            .zip(parts(nodes))
            .map(|((index, node), part)| (node.name(), index, part))
            .collect();
        Ok(Box::new(Maglev::new(KEY_HASH, self.table_size, hosts)))
    }

    fn place_without(
        &self,
        nodes: &[NodeSpec],
        out: &OutNodes,
    ) -> Result<Option<Box<dyn Placement>>, PlacementError> {
        place_over_living(self, nodes, out)
    }

    fn hash_tag(&self) -> HashTag {
        self.tag.clone()
    }
}

/// The hash of keys under both policies.
const KEY_HASH: KeyHash = KeyHash::Murmur64AStd;

const RING_SIZE_MIN: u32 = 1024;
const RING_SIZE_MAX: u32 = 8_388_608;
const TABLE_SIZE: u32 = 65_537;
const TABLE_SIZE_MAX: u32 = 5_000_011;

const fn ring_size(name: &'static str, meaning: &'static str, default: &'static str) -> OptionInfo {
    OptionInfo {
        name,
        meaning,
        default: Some(default),
        values: OptionValues::Number {
            min: 1,
            max: RING_SIZE_MAX as u64,
        },
    }
}

fn check_hosts(nodes: &[NodeSpec]) -> Result<(), PlacementError> {
    check_names(nodes)?;
    check_total(nodes, u32::MAX)
}

/// The part of all weight that each host has.
fn parts(nodes: &[NodeSpec]) -> Vec<f64> {
    let weight = |node: &NodeSpec| f64::from(node.weight().get());
    // Whole numbers below 2^53: their sum is exact.
    let total: f64 = nodes.iter().map(weight).sum();
    nodes.iter().map(|node| weight(node) / total).collect()
}

fn is_prime(number: u32) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::weighted;
    use super::*;

    /// Numbers of points as Envoy's own statistics showed them.
    #[test]
    fn envoy_ring_has_the_points_that_envoy_counts() {
        let counts = |ring: EnvoyRingHash, weights: &[u32]| {
            let points = ring.points(&weighted(weights));
            (0..weights.len() as u16)
                .map(|i| {
                    let of = points.iter().filter(|point| point.1 == NodeIndex::new(i));
                    of.count()
                })
                .collect::<Vec<_>>()
        };
        let ring = Envoy::ring_hash;
        assert_eq!(counts(ring(), &[1]), [1024]);
        assert_eq!(counts(ring(), &[1; 3]), [342; 3]);
        assert_eq!(counts(ring(), &[1; 5]), [205; 5]);
        assert_eq!(counts(ring(), &[1; 16]), [64; 16]);
        assert_eq!(counts(ring(), &[1, 2, 1, 3]), [147, 294, 147, 441]);
        assert_eq!(counts(ring(), &[100, 50, 1]), [700, 350, 7]);
        assert_eq!(counts(ring(), &[10, 7, 3]), [514, 359, 154]);
        let least = |points| ring().with_minimum_ring_size(points);
        assert_eq!(counts(least(64), &[1; 5]), [13; 5]);
        assert_eq!(counts(least(4096), &[1, 2, 1, 3]), [586, 1172, 586, 1758]);
        assert_eq!(counts(least(1), &[1; 5]), [1; 5]);
        let most = ring().with_maximum_ring_size(1024);
        assert_eq!(counts(most, &[100, 50, 1]), [679, 339, 6]);
        let hundred = least(100).with_maximum_ring_size(100);
        assert_eq!(counts(hundred, &[1; 16])[..8], [7, 6, 6, 6, 7, 6, 6, 6]);
    }

    #[test]
    fn envoy_refuses_the_sizes_that_envoy_refuses() {
        let nodes = weighted(&[1, 2]);
        let refusal = |rule: &dyn Partitioner| rule.place(&nodes).unwrap_err().to_string();
        assert_eq!(
            refusal(&Envoy::maglev().with_table_size(65_536)),
            "table-size of envoy-maglev/1 is \"65536\", but must be a prime, as Envoy refuses other sizes"
        );
        assert_eq!(
            refusal(&Envoy::maglev().with_table_size(5_000_077)),
            "table-size is 5000077, but must be in 2..=5000011"
        );
        assert_eq!(
            refusal(&Envoy::ring_hash().with_maximum_ring_size(1000)),
            "minimum-ring-size is 1024, but must be in 1..=1000"
        );
        assert_eq!(
            refusal(&Envoy::ring_hash().with_maximum_ring_size(8_388_609)),
            "maximum-ring-size is 8388609, but must be in 1..=8388608"
        );
        for size in [2, 3, 251, 2039, 65_537, 5_000_011] {
            assert!(is_prime(size), "{size}");
        }
        for size in [0, 1, 4, 65_536, 2209] {
            assert!(!is_prime(size), "{size}");
        }
    }
}
