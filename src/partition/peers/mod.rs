//! Where does another client or proxy look for this key?
//!
//! Presets that put every key exactly where a fleet of another client or proxy has put it: take one to read
//! data that others wrote, to share servers with them, or to move away from them in steps. All are built from
//! the general [`Ring`](super::Ring), [`HashMod`](super::HashMod) and [`SlotMap`](super::SlotMap); only the
//! scores of go-redis from v8 are their own.
//!
//! | preset | frozen name | of | a node is | weights | tag |
//! |---|---|---|---|---|---|
//! | [`Codis::even`] | `codis/1` | Codis | a name in a table of 1024 slots | slots | braces, even empty |
//! | [`GoRedis::v3`] | `go-redis-3/1` | go-redis `Ring` 3.1 to 7 | its name | – | braces |
//! | [`GoRedis::v8`] | `go-redis-8/1` | go-redis `Ring` 8 and 9 | its name | – | braces |
//! | [`Jedis::v2_0`] | `jedis-2.0/1` | Jedis 2.0 to 2.9 | its name, or its position if unnamed | points | none, may be chosen |
//! | [`Jedis::v2_10`] | `jedis-2.10/1` | Jedis 2.10 to 3 | its name, or its position if unnamed | points | none, may be chosen |
//! | [`Jedis::v4`] | `jedis-4/1` | Jedis 4 to 6 | its position | – | none, may be chosen |
//! | [`Libmemcached::ketama`] | `libmemcached-ketama/1` | libmemcached 1.x | `host:port` | – | none |
//! | [`Libmemcached::ketama_weighted`] | `libmemcached-ketama-weighted/1` | libmemcached 1.x | `host:port` | relative | none |
//! | [`Libmemcached::modula`] | `libmemcached-modula/1` | libmemcached 1.x | its position | – | none |
//! | [`PhpRedis::consistent`] | `phpredis-consistent/1` | phpredis `RedisArray` from 4.3 | the host as given | – | braces, even empty |
//! | [`PhpRedis::range`] | `phpredis-range/1` | phpredis `RedisArray` | its position | – | braces, even empty |
//! | [`Predis::hash_ring`] | `predis-hash-ring/1` | Predis 0.8 to 3 | `host:port` | relative | braces |
//! | [`Predis::ketama_ring`] | `predis-ketama-ring/1` | Predis 0.8 to 3 | `host:port` | relative | braces |
//! | [`RedisRb::v4`] | `redis-rb-4/1` | redis-rb 4 and before | its id | – | braces at the start, may be chosen |
//! | [`RedisRb::v5`] | `redis-rb-5/1` | redis-rb 5 and 6 | its id | – | braces at the start, may be chosen |
//! | [`Twemproxy::ketama`] | `twemproxy-ketama/1` | twemproxy 0.4 and 0.5 | its name, or `host:port` | relative | none, may be chosen |
//! | [`Twemproxy::modula`] | `twemproxy-modula/1` | twemproxy 0.4 and 0.5 | its position once sorted | entries | none, may be chosen |
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
//! go-redis takes dead nodes out, twemproxy and libmemcached can be told to, and then they put keys elsewhere
//! for a while. Their presets say where: for one set of nodes that are [out](super::OutNodes) they agree with the
//! peer. They do not make two clients agree on *which* nodes are out. The other peers go on to ask dead nodes;
//! what their presets do is this crate's own, see each preset.
//!
//! # Speed
//!
//! Rings have the same index by top bits as the crate's own ring, so a key costs its hash and a few loads.
//! Where the key hash is MD5 (Predis `KetamaRing`, libmemcached weighted, anything told to use it) that is
//! about 90 ns for a short key and nothing else matters. [`GoRedis::v8`] computes a score per node and key.

mod codis;
mod go_redis;
mod jedis;
mod libmemcached;
mod php_redis;
mod predis;
mod redis_rb;
mod twemproxy;

use super::{NodeText, PlacementError, check_passwords};
use crate::partition::NodeSpec;

pub use codis::Codis;
pub use go_redis::GoRedis;
pub use jedis::{Jedis, JedisHashing};
pub use libmemcached::{Libmemcached, LibmemcachedHash};
pub use php_redis::{PhpAlgorithm, PhpRedis};
pub use predis::Predis;
pub use redis_rb::RedisRb;
pub use twemproxy::{Twemproxy, TwemproxyHash};

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
            Box::new(GoRedis::v3()),
            Box::new(GoRedis::v8()),
            Box::new(Jedis::v2_0()),
            Box::new(Jedis::v2_10()),
            Box::new(Jedis::v4()),
            Box::new(Libmemcached::ketama()),
            Box::new(Libmemcached::ketama_weighted()),
            Box::new(Libmemcached::modula()),
            Box::new(PhpRedis::consistent()),
            Box::new(PhpRedis::range()),
            Box::new(Predis::hash_ring()),
            Box::new(Predis::ketama_ring()),
            Box::new(RedisRb::v4()),
            Box::new(RedisRb::v5()),
            Box::new(Twemproxy::ketama()),
            Box::new(Twemproxy::modula()),
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
                "twemproxy-ketama/1" | "libmemcached-ketama-weighted/1"
            ) || preset.name().starts_with("predis");
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
                // The first node has no point at all.
                assert!(
                    (0..1000_u32)
                        .all(|key| placement.locate(&key.to_le_bytes()).unwrap().get() == 1)
                );
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
