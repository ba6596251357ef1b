//! Where does another client or proxy look for this key?
//!
//! Presets that put every key exactly where a fleet of another client or proxy has put it: take one to read
//! data that others wrote, to share servers with them, or to move away from them in steps. All are built from
//! the general [`Ring`](super::Ring), [`HashMod`](super::HashMod) and [`SlotMap`](super::SlotMap); only the
//! scores of go-redis from v8 and the table of Envoy's Maglev are their own.
//!
//! | preset | frozen name | of | a node is | weights | tag |
//! |---|---|---|---|---|---|
//! | [`Codis::even`] | `codis/1` | Codis | a name in a table of 1024 slots | slots | braces, even empty |
//! | [`DjangoRedis`] | `django-redis/1` | django-redis `ShardClient` 7 | its connection string | – | the last braces, even empty |
//! | [`Envoy::maglev`] | `envoy-maglev/1` | Envoy `MAGLEV` | its address, host name or hash key | relative | none, may be chosen |
//! | [`Envoy::ring_hash`] | `envoy-ring-hash/1` | Envoy `RING_HASH` | its address, host name or hash key | relative | none, may be chosen |
//! | [`GoRedis::v3`] | `go-redis-3/1` | go-redis `Ring` 3.1 to 7 | its name | – | braces |
//! | [`GoRedis::v8`] | `go-redis-8/1` | go-redis `Ring` 8 and 9 | its name | – | braces |
//! | [`Jedis::v2_0`] | `jedis-2.0/1` | Jedis 2.0 to 2.9 | its name, or its position if unnamed | points | none, may be chosen |
//! | [`Jedis::v2_10`] | `jedis-2.10/1` | Jedis 2.10 to 3 | its name, or its position if unnamed | points | none, may be chosen |
//! | [`Jedis::v4`] | `jedis-4/1` | Jedis 4 to 6 | its position | – | none, may be chosen |
//! | [`Libmemcached::ketama`] | `libmemcached-ketama/1` | libmemcached 1.x | `host:port` | – | none |
//! | [`Libmemcached::ketama_weighted`] | `libmemcached-ketama-weighted/1` | libmemcached 1.x | `host:port` | relative | none |
//! | [`Libmemcached::modula`] | `libmemcached-modula/1` | libmemcached 1.x | its position | – | none |
//! | [`Nginx::consistent`] | `nginx-consistent/1` | nginx `hash $key consistent` | `host:port` | points | none |
//! | [`Nginx::plain`] | `nginx-plain/1` | nginx `hash $key` | its position | entries | none |
//! | [`NodeHashring`] | `node-hashring/1` | npm `hashring` 3 | its name | relative | none |
//! | [`PhpRedis::consistent`] | `phpredis-consistent/1` | phpredis `RedisArray` from 4.3 | the host as given | – | braces, even empty |
//! | [`PhpRedis::range`] | `phpredis-range/1` | phpredis `RedisArray` | its position | – | braces, even empty |
//! | [`Predis::hash_ring`] | `predis-hash-ring/1` | Predis 0.8 to 3 | `host:port` | relative | braces |
//! | [`Predis::ketama_ring`] | `predis-ketama-ring/1` | Predis 0.8 to 3 | `host:port` | relative | braces |
//! | [`PyHashring`] | `pyhashring/1` | PyPI `hashring` 1.5 | its name | relative | none |
//! | [`RedisRb::v4`] | `redis-rb-4/1` | redis-rb 4 and before | its id | – | braces at the start, may be chosen |
//! | [`RedisRb::v5`] | `redis-rb-5/1` | redis-rb 5 and 6 | its id | – | braces at the start, may be chosen |
//! | [`Twemproxy::ketama`] | `twemproxy-ketama/1` | twemproxy 0.4 and 0.5 | its name, or `host:port` | relative | none, may be chosen |
//! | [`Twemproxy::modula`] | `twemproxy-modula/1` | twemproxy 0.4 and 0.5 | its position once sorted | entries | none, may be chosen |
//! | [`Uhashring::ketama`] | `uhashring-ketama/1` | PyPI `uhashring` 2 with `hash_fn='ketama'` | its name | relative | none |
//! | [`Uhashring::new`] | `uhashring/1` | PyPI `uhashring` 2 | its name | points | none |
//!
//! Redis Cluster's own numbering is [`SlotMap`](super::SlotMap).
//!
//! # What must be the same
//!
//! What a peer hashes for a node is the node's [`name`](crate::NodeSpec::name) here, which is its address
//! unless it was given another. So leave nodes unnamed if the peer knows them by the address that you use
//! too, and otherwise give them as name whatever the peer hashes: a server may have moved, but its keys are
//! where its old address put them. Where a position counts, list the nodes in the peer's order. Where a
//! preset says "none" for weights, other weights than one are refused.
//!
//! # Reads and writes of others
//!
//! go-redis and nginx take dead nodes out, twemproxy, libmemcached and Envoy can be told to, and then they put keys
//! elsewhere for a while. Their presets say where: for one set of nodes that are [out](super::OutNodes) they agree with the
//! peer. They do not make two clients agree on *which* nodes are out. The other peers go on to ask dead nodes;
//! what their presets do is this crate's own, see each preset.
//!
//! # Speed
//!
//! Rings have the same index by top bits as the crate's own ring, so a key costs its hash and a few loads.
//! Where the key hash is MD5 (Predis `KetamaRing`, libmemcached weighted, the hashrings, anything told to use it) that is
//! about 90 ns for a short key and nothing else matters; SHA-256 (django-redis) costs more on machines without
//! instructions for it. [`GoRedis::v8`] computes a score per node and key.

mod codis;
mod django_redis;
mod envoy;
mod go_redis;
mod jedis;
mod libmemcached;
mod maglev;
mod nginx;
mod node_hashring;
mod php_redis;
mod predis;
mod py_hashring;
mod redis_rb;
mod twemproxy;
mod uhashring;

use std::borrow::Cow;

use super::ring::of_points;
use super::{NodeText, Placement, PlacementError, RingSpec, check_passwords, indexed};
use crate::partition::{NodeIndex, NodeSpec};

pub use codis::Codis;
pub use django_redis::DjangoRedis;
pub use envoy::{Envoy, EnvoyMaglev, EnvoyPointHash, EnvoyRingHash};
pub use go_redis::GoRedis;
pub use jedis::{Jedis, JedisHashing};
pub use libmemcached::{Libmemcached, LibmemcachedHash};
pub use nginx::Nginx;
pub use node_hashring::{NodeHashring, NodeHashringAlgorithm, NodeHashringWeights};
pub use php_redis::{PhpAlgorithm, PhpRedis};
pub use predis::Predis;
pub use py_hashring::PyHashring;
pub use redis_rb::RedisRb;
pub use twemproxy::{Twemproxy, TwemproxyHash};
pub use uhashring::Uhashring;

/// Refuses a text that, with a dash and two digits more, overflows the peer's buffer for labels.
fn check_lengths(
    nodes: &[NodeSpec],
    text: NodeText,
    label_max: usize,
) -> Result<(), PlacementError> {
    check_passwords(nodes)?;
    let max = label_max - "-39".len();
    match nodes
        .iter()
        .map(|node| text.of(node))
        .find(|text| text.len() > max)
    {
        None => Ok(()),
        Some(text) => Err(PlacementError::NameTooLong {
            length: text.len(),
            name: text.into_owned(),
            max,
        }),
    }
}

/// Refuses a number that the peer, or this crate, does not take.
fn in_bounds(option: &'static str, value: u32, min: u32, max: u32) -> Result<(), PlacementError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(PlacementError::OptionOutOfBounds {
        option,
        value: value.into(),
        min: min.into(),
        max: max.into(),
    })
}

/// A ketama ring: `labels` labels of each node, `TEXT-0`, `TEXT-1`, ..., with `points` points each, which are the first words
/// of its digest. Of equal points the first node has it.
fn place_words<'n, const N: usize>(
    spec: &RingSpec,
    nodes: impl Iterator<Item = (NodeIndex, Cow<'n, str>, u32)>,
    digest: fn(&[u8]) -> [u32; N],
    points: usize,
) -> Result<Box<dyn Placement>, PlacementError> {
    let mut ring = Vec::new();
    for (index, text, labels) in nodes {
        for i in 0..labels {
            let words = digest(format!("{text}-{i}").as_bytes()).into_iter();
            ring.extend(
                words
                    .take(points)
                    .map(|word| (u64::from(word) << 32, index)),
            );
        }
    }
    of_points(spec, ring)
}

/// The nodes with their names and numbers of labels, 40 for a node of average weight, rounded down in whole numbers. In such
/// an order that of equal points the last node given has it, as where points are written into a table one after the other.
fn integer_labels(nodes: &[NodeSpec]) -> impl Iterator<Item = (NodeIndex, Cow<'_, str>, u32)> {
    let weight = |node: &NodeSpec| u64::from(node.weight().get());
    let total: u64 = nodes.iter().map(weight).sum();
    let count = nodes.len() as u64;
    let mut labelled: Vec<_> = indexed(nodes)
        .map(|(index, node)| {
            let labels = LABELS * count * weight(node) / total.max(1);
            (index, node.name().into(), labels as u32)
        })
        .collect();
    labelled.reverse();
    labelled.into_iter()
}

/// Number of labels of a node of average weight on a ketama ring.
const LABELS: u64 = 40;

/// Options as a partitioner gives them.
fn words<const N: usize>(words: [(&str, &str); N]) -> Vec<(String, String)> {
    words
        .map(|(option, value)| (option.to_owned(), value.to_owned()))
        .into()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{nodes, weighted};
    use super::super::{Partitioner, WEIGHTS_MAX};
    use super::*;
    use crate::partition::NODES_MAX;

    fn all() -> Vec<Box<dyn Partitioner>> {
        vec![
            Box::new(Codis::even()),
            Box::new(DjangoRedis::new()),
            Box::new(Envoy::maglev().with_table_size(2039)),
            Box::new(Envoy::ring_hash().with_maximum_ring_size(4096)),
            Box::new(GoRedis::v3()),
            Box::new(GoRedis::v8()),
            Box::new(Jedis::v2_0()),
            Box::new(Jedis::v2_10()),
            Box::new(Jedis::v4()),
            Box::new(Libmemcached::ketama()),
            Box::new(Libmemcached::ketama_weighted()),
            Box::new(Libmemcached::modula()),
            Box::new(Nginx::consistent()),
            Box::new(Nginx::plain()),
            Box::new(NodeHashring::new()),
            Box::new(PhpRedis::consistent()),
            Box::new(PhpRedis::range()),
            Box::new(Predis::hash_ring()),
            Box::new(Predis::ketama_ring()),
            Box::new(PyHashring::new()),
            Box::new(RedisRb::v4()),
            Box::new(RedisRb::v5()),
            Box::new(Twemproxy::ketama()),
            Box::new(Twemproxy::modula()),
            Box::new(Uhashring::ketama()),
            Box::new(Uhashring::new()),
        ]
    }

    #[test]
    fn every_peer_preset_refuses_invalid_lists_of_nodes() {
        let twins = [NodeSpec::new("a", "x:1"), NodeSpec::new("a", "x:2")];
        for preset in all() {
            let refusal = |nodes: &[NodeSpec]| preset.place(nodes).unwrap_err();
            assert_eq!(refusal(&[]), PlacementError::NoNodes);
            assert_eq!(
                refusal(&twins),
                PlacementError::DuplicateName { name: "a".into() }
            );
            assert_eq!(
                refusal(&nodes(NODES_MAX + 1)),
                PlacementError::TooManyNodes { count: 4097 }
            );
        }
    }

    #[test]
    fn peer_presets_place_or_refuse_huge_weights() {
        for preset in all() {
            let total = 1 << 32;
            let refusal = preset.place(&weighted(&[1, u32::MAX])).unwrap_err();
            let relative = matches!(
                preset.name(),
                "twemproxy-ketama/1"
                    | "libmemcached-ketama-weighted/1"
                    | "node-hashring/1"
                    | "pyhashring/1"
                    | "uhashring-ketama/1"
            ) || preset.name().starts_with("predis")
                || preset.name().starts_with("envoy");
            let max = if relative { u32::MAX } else { WEIGHTS_MAX };
            let unweighted = PlacementError::Weighted {
                name: "node-1".into(),
                weight: u32::MAX,
            };
            assert!(
                refusal == PlacementError::TooHeavy { total, max } || refusal == unweighted,
                "{refusal}"
            );
            if relative {
                let placement = preset.place(&weighted(&[1, u32::MAX - 1])).unwrap();
                // The first node has no point at all, or by Envoy a single one.
                let light = (0..1000_u32)
                    .filter(|key| placement.locate(&key.to_le_bytes()).unwrap().get() == 0)
                    .count();
                let few = if preset.name().starts_with("envoy") {
                    5
                } else {
                    0
                };
                assert!(light <= few, "{} {light}", preset.name());
            }
        }
    }

    #[test]
    fn predis_rings_depend_only_on_the_ratio_of_weights() {
        for preset in [Predis::hash_ring(), Predis::ketama_ring()] {
            let placements = [[1, 2, 1, 3], [100, 200, 100, 300]]
                .map(|weights| preset.place(&weighted(&weights)).unwrap());
            for key in 0..1000_u32 {
                let [one, hundred] = placements
                    .each_ref()
                    .map(|placement| placement.locate(&key.to_le_bytes()));
                assert_eq!(one, hundred);
            }
        }
    }

    #[test]
    fn peer_presets_refuse_names_too_long_for_the_peer() {
        let named = |length: usize| {
            [
                NodeSpec::new("n".repeat(length), "a:1"),
                NodeSpec::unnamed("b:1"),
            ]
        };
        assert!(Twemproxy::ketama().place(&named(269)).is_ok());
        assert!(PhpRedis::consistent().place(&named(60)).is_ok());
        assert!(PhpRedis::range().place(&named(61)).is_ok());
        assert_eq!(
            Twemproxy::ketama().place(&named(270)).unwrap_err(),
            PlacementError::NameTooLong {
                name: "n".repeat(270),
                length: 270,
                max: 269
            }
        );
        let refusal = PhpRedis::consistent()
            .place(&named(61))
            .unwrap_err()
            .to_string();
        assert!(
            refusal.ends_with(
                "has 61 bytes, and the peer is sound only up to 60: give the node a shorter name"
            ),
            "{refusal}"
        );
    }

    #[test]
    fn twemproxy_modula_does_not_depend_on_the_order_of_servers() {
        let mut servers = ["delta", "alpha", "b", "10.0.0.1:11211"].map(NodeSpec::unnamed);
        let owners = |servers: &[NodeSpec]| {
            let placement = Twemproxy::modula().place(servers).unwrap();
            let owner = |key: u32| {
                servers[placement.locate(&key.to_le_bytes()).unwrap().get()]
                    .name()
                    .to_owned()
            };
            (0..1000).map(owner).collect::<Vec<_>>()
        };
        let before = owners(&servers);
        servers.reverse();
        assert_eq!(owners(&servers), before);
    }
}
