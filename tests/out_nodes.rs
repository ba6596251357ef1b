//! A topology while nodes are out: where the keys of those nodes go, by every rule.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use proptest::prelude::*;
use redis_sharding::partition::{
    OutNodes, Partitioner, Placement, PlacementError, by_name, catalogue, from_fn,
};
use redis_sharding::{ErrorKind, NodeIndex, NodeSpec, Topology};
use xxhash_rust::xxh3::xxh3_64;

const KEYS: usize = 300;

/// Rules under which a key of a living node may move too, because the peer places all keys anew.
const REBUILT: [&str; 8] = [
    "envoy-maglev/1",
    "envoy-ring-hash/1",
    "libmemcached-ketama-weighted/1",
    "node-hashring/1",
    "pyhashring/1",
    "twemproxy-ketama/1",
    "twemproxy-modula/1",
    "uhashring-ketama/1",
];

/// Rules under which each key is where it would be if the nodes that are out did not exist. By a ring of relative
/// shares that is so only while all nodes weigh the same.
const AS_IF_THE_LIVING_WERE_ALL: [&str; 21] = [
    "django-redis/1",
    "envoy-maglev/1",
    "envoy-ring-hash/1",
    "go-redis-3/1",
    "go-redis-8/1",
    "jedis-2.0/1",
    "jedis-2.10/1",
    "libmemcached-ketama-weighted/1",
    "libmemcached-ketama/1",
    "nginx-consistent/1",
    "node-hashring/1",
    "phpredis-consistent/1",
    "pyhashring/1",
    "redis-rb-4/1",
    "redis-rb-5/1",
    "rendezvous/1",
    "ring/1",
    "twemproxy-ketama/1",
    "twemproxy-modula/1",
    "uhashring-ketama/1",
    "uhashring/1",
];

#[test]
fn topology_with_nodes_out_moves_their_keys_and_no_others_by_every_rule() {
    for rule in rules() {
        for weights in [&[1; 7][..], &[1, 5, 2, 1, 3, 1, 2]] {
            let nodes = nodes(weights);
            let Some(all) = placed(&nodes, &rule) else {
                continue;
            };
            let before = owners(&all);
            let mut moved = 0;
            for bits in (1..0b111_1111_u32).step_by(5) {
                let out = out(bits);
                let topology = all.without(&out).unwrap();
                assert_eq!(
                    (topology.fingerprint(), topology.epoch()),
                    (all.fingerprint(), all.epoch())
                );
                assert_eq!(topology.nodes(), all.nodes());
                assert_eq!(topology.out(), &out);
                for (key, (before, after)) in before.iter().zip(owners(&topology)).enumerate() {
                    let case = || format!("{} {bits:b} {}", rule.name(), self::key(key));
                    assert!(after.is_none_or(|owner| !out.contains(owner)), "{}", case());
                    // A key without an owner gets none, and no key loses its owner.
                    assert_eq!(before.is_none(), after.is_none(), "{}", case());
                    if before.is_some_and(|owner| !out.contains(owner)) {
                        assert!(
                            *before == after || REBUILT.contains(&rule.name()),
                            "{}",
                            case()
                        );
                    }
                    moved += usize::from(*before != after);
                }
            }
            assert!(
                moved > 1000,
                "{}: {moved} of the keys have moved",
                rule.name()
            );
        }
    }
}

#[test]
fn topology_with_nodes_out_places_keys_as_one_without_them_by_the_rules_that_say_so() {
    let mut checked = BTreeSet::new();
    for rule in rules() {
        if !AS_IF_THE_LIVING_WERE_ALL.contains(&rule.name()) {
            continue;
        }
        checked.insert(rule.name().to_owned());
        for weights in [&[1; 7][..], &[1, 5, 2, 1, 3, 1, 2]] {
            let nodes = nodes(weights);
            let Some(all) = placed(&nodes, &rule) else {
                continue;
            };
            for bits in [0b1, 0b100_0000, 0b101_0010, 0b111_1110, 0b11_1111] {
                let out = out(bits);
                let topology = all.without(&out).unwrap();
                let living: Vec<_> = topology
                    .living()
                    .map(|node| nodes[node.get()].clone())
                    .collect();
                let alone = placed(&living, &rule).unwrap();
                for key in (0..KEYS).map(key) {
                    let owner = |topology: &Topology| {
                        topology
                            .locate(key.as_bytes())
                            .map(|node| topology.node(node).name().to_owned())
                    };
                    assert_eq!(
                        owner(&topology),
                        owner(&alone),
                        "{} {bits:b} {key}",
                        rule.name()
                    );
                }
            }
        }
    }
    assert_eq!(checked.len(), AS_IF_THE_LIVING_WERE_ALL.len());
}

#[test]
fn topology_takes_the_highest_random_weight_where_the_rule_says_nothing() {
    let by_length = from_fn("length/1", |key, nodes| key.len() % nodes.len());
    let rules: [Arc<dyn Partitioner>; 3] = [Arc::new(by_length), range(), Arc::new(Stubborn)];
    let nodes = nodes(&[1; 7]);
    for rule in rules {
        let all = Topology::new(nodes.clone(), Arc::clone(&rule)).unwrap();
        for bits in 1..0b111_1111_u32 {
            let out = out(bits);
            let topology = all.without(&out).unwrap();
            for key in (0..KEYS).map(key) {
                let own = all
                    .locate(key.as_bytes())
                    .filter(|owner| !out.contains(*owner));
                let owner = own
                    .unwrap_or_else(|| highest(rule.hash_tag().of(key.as_bytes()), &nodes, &out));
                assert_eq!(
                    topology.locate(key.as_bytes()),
                    Some(owner),
                    "{} {bits:b} {key}",
                    rule.name()
                );
            }
        }
    }
}

#[test]
fn topology_takes_the_highest_random_weight_where_hashing_again_finds_no_living_node() {
    // One slot of 16384, and one entry of 4001: few of 65 numbers are theirs.
    let slots = [("map".to_owned(), "0-16382 node-0, 16383 node-1".to_owned())];
    let modulo = [("key-hash".to_owned(), "xxh3-64".to_owned())];
    for rule in [
        by_name("slot-map/1", &slots),
        by_name("hash-mod/1", &modulo),
    ] {
        let rule = rule.unwrap();
        let nodes = nodes(&[4000, 1, 1]);
        let out = out(0b101);
        // A third node, out too, so that there is something to choose wrongly.
        let topology = Topology::new(nodes, rule).unwrap().without(&out).unwrap();
        for key in (0..KEYS).map(key) {
            assert_eq!(topology.locate(key.as_bytes()), Some(NodeIndex::new(1)));
        }
    }
}

#[test]
fn topology_of_a_ring_on_which_no_living_node_has_a_point_still_finds_an_owner() {
    // Predis gives the light nodes no point.
    let rule = by_name("predis-ketama-ring/1", &[]).unwrap();
    let nodes = nodes(&[1, 100_000, 1]);
    let all = Topology::new(nodes.clone(), rule).unwrap();
    let out = out(0b10);
    let topology = all.without(&out).unwrap();
    let owners: BTreeSet<_> = (0..KEYS)
        .map(|number| {
            let key = key(number);
            let owner = topology.locate(key.as_bytes()).unwrap();
            assert_eq!(
                owner,
                highest(topology.hash_tag().of(key.as_bytes()), &nodes, &out)
            );
            owner
        })
        .collect();
    assert_eq!(owners, [0, 2].map(NodeIndex::new).into());
}

#[test]
fn topology_without_all_nodes_has_none_out() {
    for rule in rules() {
        let nodes = nodes(&[1; 3]);
        let all = placed(&nodes, &rule).unwrap();
        let topology = all.without(&out(0b111)).unwrap();
        assert!(topology.out().is_empty());
        assert_eq!(
            topology.living().collect::<Vec<_>>(),
            all.indices().collect::<Vec<_>>()
        );
        assert_eq!(owners(&topology), owners(&all), "{}", rule.name());
    }
}

#[test]
fn topology_without_a_node_that_it_has_not_is_a_config_error() {
    let all = placed(&nodes(&[1; 3]), &rules()[0]).unwrap();
    let error = all.without(&out(0b1001)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "node #3 cannot be out: it is not one of the 3 nodes of the topology"
    );
}

#[test]
fn topology_with_nodes_out_has_the_text_of_the_whole() {
    let all = placed(&nodes(&[1; 3]), &rules()[0]).unwrap();
    let topology = all.without(&out(0b1)).unwrap();
    assert_eq!(topology.to_string(), all.to_string());
    assert_eq!(
        Topology::parse(&topology.to_string()).unwrap().out(),
        &OutNodes::none()
    );
}

#[test]
fn hash_mod_and_slot_map_give_keys_of_nodes_that_are_out_to_the_others_by_weight() {
    let options = [("key-hash".to_owned(), "xxh3-64".to_owned())];
    let codis = by_name("codis/1", &[]).unwrap();
    for rule in [
        by_name("hash-mod/1", &options).unwrap(),
        by_name("slot-map/1", &[]).unwrap(),
        codis,
    ] {
        let all = Topology::new(nodes(&[4, 1, 2, 3, 2]), rule).unwrap();
        // Of 12 shares five are out, so each other node has 12/7 of what it had.
        let topology = all.without(&out(0b1_1000)).unwrap();
        let mut shares = [0_u32; 5];
        for number in 0..70_000_u32 {
            shares[topology
                .locate(format!("key:{number}").as_bytes())
                .unwrap()
                .get()] += 1;
        }
        for (share, expected) in shares.into_iter().zip([40_000_u32, 10_000, 20_000, 0, 0]) {
            // One slot of 1024 is many keys.
            assert!(
                share.abs_diff(expected) <= expected / 10,
                "{shares:?} {topology:?}"
            );
        }
    }
}

proptest! {
    /// Histories of nodes that go out and come back: two clients that see the same set agree, whatever was before.
    #[test]
    fn topology_depends_on_the_set_of_nodes_that_are_out_and_not_on_its_history(
        history in prop::collection::vec(1..0b111_1111_u32, 1..6),
        rule in prop::sample::select(rules().into_iter().map(|rule| rule.name().to_owned()).collect::<Vec<_>>()),
    ) {
        let rule = rules().into_iter().find(|other| other.name() == rule).unwrap();
        let all = placed(&nodes(&[1; 7]), &rule).unwrap();
        let mut topology = all.clone();
        for bits in &history {
            topology = topology.without(&out(*bits)).unwrap();
        }
        let direct = all.without(&out(*history.last().unwrap())).unwrap();
        prop_assert_eq!(owners(&topology), owners(&direct));
        let back = topology.without(&OutNodes::none()).unwrap();
        prop_assert_eq!(owners(&back), owners(&all));
    }
}

/// Every rule of the catalogue, and one of the application that answers with nodes that are out.
fn rules() -> Vec<Arc<dyn Partitioner>> {
    let mut rules: Vec<Arc<dyn Partitioner>> = Vec::new();
    for entry in catalogue() {
        rules.push(match entry.name {
            "hash-mod/1" => {
                by_name("hash-mod/1", &[("key-hash".to_owned(), "crc32".to_owned())]).unwrap()
            }
            "range/1" => range(),
            name => by_name(name, &[]).unwrap(),
        });
    }
    rules.push(Arc::new(Stubborn));
    rules
}

/// Users by their numbers to three nodes; all other keys to the last of these.
fn range() -> Arc<dyn Partitioner> {
    let ranges: Vec<_> = (0..7)
        .map(|i| format!("{}..={} node-{}", 50 * i, 50 * i + 49, i % 3))
        .collect();
    let options = [
        ("default".to_owned(), "node-2".to_owned()),
        ("numeric \"user:\"".to_owned(), ranges.join(", ")),
    ];
    by_name("range/1", &options).unwrap()
}

/// A rule that names a node that is out, or one that does not exist, when it is asked where else a key goes.
#[derive(Debug)]
struct Stubborn;

impl Partitioner for Stubborn {
    fn name(&self) -> &str {
        "stubborn/1"
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        Ok(Box::new(StubbornPlacement(nodes.len())))
    }
}

#[derive(Debug)]
struct StubbornPlacement(usize);

impl Placement for StubbornPlacement {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        Some(NodeIndex::new((key.len() % self.0) as u16))
    }

    fn locate_without(&self, key: &[u8], out: &OutNodes) -> Option<NodeIndex> {
        match key.len() % 3 {
            0 => out.iter().next(),
            1 => Some(NodeIndex::new(9999)),
            _ => None,
        }
    }
}

/// The definition, word for word.
fn highest(key: &[u8], nodes: &[NodeSpec], out: &OutNodes) -> NodeIndex {
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let weight = |node: usize| mix(xxh3_64(key) ^ xxh3_64(nodes[node].name().as_bytes()));
    let living = (0..nodes.len()).filter(|&node| !out.contains(NodeIndex::new(node as u16)));
    NodeIndex::new(living.max_by_key(|&node| weight(node)).unwrap() as u16)
}

/// `None` for weights where the rule has none.
fn placed(nodes: &[NodeSpec], rule: &Arc<dyn Partitioner>) -> Option<Topology> {
    let weighted = nodes.iter().any(|node| node.weight().get() != 1);
    match Topology::new(nodes.to_vec(), Arc::clone(rule)) {
        Ok(topology) => Some(topology),
        Err(error) if weighted => {
            assert!(
                error.to_string().contains("this rule has no weights"),
                "{error}"
            );
            None
        }
        Err(error) => panic!("{}: {error}", rule.name()),
    }
}

fn owners(topology: &Topology) -> Vec<Option<NodeIndex>> {
    (0..KEYS)
        .map(|number| topology.locate(key(number).as_bytes()))
        .collect()
}

fn key(number: usize) -> String {
    match number % 3 {
        0 => format!("user:{number}"),
        1 => format!("{{city:{number}}}:name"),
        _ => "x".repeat(number % 17) + &number.to_string(),
    }
}

fn nodes(weights: &[u32]) -> Vec<NodeSpec> {
    let node = |(number, &weight): (usize, &u32)| {
        let node = NodeSpec::new(format!("node-{number}"), format!("10.0.0.{number}:6379"));
        node.with_weight(NonZeroU32::new(weight).unwrap())
    };
    weights.iter().enumerate().map(node).collect()
}

/// A node for every bit.
fn out(bits: u32) -> OutNodes {
    (0..32)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(NodeIndex::new)
        .collect()
}
