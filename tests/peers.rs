//! Where other clients and proxies put a thousand keys: the presets must agree with every recorded answer.
//!
//! `vectors/README.md` says who answered and how the files are read.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use redis_sharding::hash::{HashTag, slot};
use redis_sharding::partition::peers::DjangoRedis;
use redis_sharding::partition::{Partitioner, by_name};
use redis_sharding::{NodeIndex, NodeSpec, Topology};
use xxhash_rust::xxh3::xxh3_64;

const KEYS: &[u8] = include_bytes!("vectors/keys.txt");
const ANSWERS: &str = include_str!("vectors/answers.tsv");
const SLOTS: &str = include_str!("vectors/slots.txt");

#[test]
fn peer_presets_match_every_recorded_answer() {
    let mut checked: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in ANSWERS.lines() {
        let record = Record::read(line);
        let (answers, mismatches) = record.check();
        *checked
            .entry(record.partitioner.name().to_owned())
            .or_default() += answers;
        if let Some((key, found, answer)) = mismatches.first() {
            wrong.push(format!(
                "{}: {} mismatches, such as {key:?} on {found}, but recorded on {answer}",
                record.name,
                mismatches.len(),
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // So that no answer is lost unseen.
    let expected = [
        ("django-redis/1", 10_000),
        ("envoy-maglev/1", 34_000),
        ("envoy-ring-hash/1", 52_000),
        ("go-redis-3/1", 9000),
        ("go-redis-8/1", 9000),
        ("jedis-2.10/1", 24_000),
        ("jedis-4/1", 12_000),
        ("libmemcached-ketama-weighted/1", 28_000),
        ("libmemcached-ketama/1", 37_000),
        ("libmemcached-modula/1", 15_000),
        ("nginx-consistent/1", 11_000),
        ("nginx-plain/1", 9000),
        ("node-hashring/1", 20_000),
        ("phpredis-consistent/1", 24_000),
        ("phpredis-range/1", 23_980),
        ("predis-hash-ring/1", 10_000),
        ("predis-ketama-ring/1", 10_000),
        ("pyhashring/1", 10_000),
        ("redis-rb-4/1", 13_000),
        ("redis-rb-5/1", 13_000),
        ("twemproxy-ketama/1", 75_000),
        ("twemproxy-modula/1", 75_000),
        ("uhashring-ketama/1", 10_000),
        ("uhashring/1", 11_000),
    ];
    assert_eq!(
        checked,
        expected
            .map(|(name, answers)| (name.to_owned(), answers))
            .into()
    );
}

/// A peer that has `n` nodes and takes some out places keys like the same peer with the others alone, and of that there
/// are recorded answers.
#[test]
fn peer_presets_with_nodes_out_match_every_answer_recorded_with_fewer_nodes() {
    let records: Vec<_> = ANSWERS.lines().map(Record::read).collect();
    let mut checked: BTreeMap<&str, usize> = BTreeMap::new();
    for all in &records {
        let topology = Topology::new(all.nodes.clone(), all.partitioner.clone()).unwrap();
        for few in &records {
            let Some(indices) = all.indices_of(few) else {
                continue;
            };
            let out = topology.indices().filter(|index| !indices.contains(index));
            let topology = topology.without(&out.collect()).unwrap();
            for (key, answer) in few.keys().zip(few.answers.chars()) {
                let Some(answer) = answer.to_digit(36) else {
                    continue;
                };
                let found = topology.locate(&key).unwrap();
                let expected = indices[answer as usize];
                let key = key.escape_ascii();
                assert_eq!(found, expected, "{} of {}: {key}", few.name, all.name);
                *checked.entry(all.partitioner.name()).or_default() += 1;
            }
        }
    }
    // So that no answer is lost unseen. Of twemproxy no two recorded pools share their servers: tests/twemproxy.rs asks
    // it while servers are dead.
    let expected = [
        ("django-redis/1", 11_000),
        ("envoy-maglev/1", 24_000),
        ("envoy-ring-hash/1", 38_000),
        ("go-redis-3/1", 10_000),
        ("go-redis-8/1", 10_000),
        ("jedis-2.10/1", 22_000),
        ("jedis-4/1", 20_000),
        ("libmemcached-ketama-weighted/1", 35_000),
        ("libmemcached-ketama/1", 72_000),
        ("nginx-consistent/1", 10_000),
        ("node-hashring/1", 9000),
        ("phpredis-consistent/1", 11_000),
        ("predis-hash-ring/1", 16_000),
        ("predis-ketama-ring/1", 16_000),
        ("pyhashring/1", 8000),
        ("redis-rb-4/1", 16_000),
        ("redis-rb-5/1", 16_000),
        ("uhashring-ketama/1", 8000),
        ("uhashring/1", 8000),
    ];
    assert_eq!(checked, expected.into());
}

#[test]
fn recorded_answers_of_peers_never_change() {
    let digests = [KEYS, ANSWERS.as_bytes(), SLOTS.as_bytes()].map(xxh3_64);
    let expected = [
        0xdb6a_4fd5_e226_7b89,
        0xc891_4a5a_689f_ab8d,
        0xc9e9_78fa_ef90_d6d9,
    ];
    assert_eq!(digests, expected, "found {digests:#x?}");
}

/// Ten keys, the empty one among them, on three nodes.
#[test]
fn peer_presets_place_empty_and_odd_keys_as_recorded() {
    let long = "k".repeat(100);
    let keys = [
        "",
        "foo",
        "bar",
        "user:1",
        "user:2",
        "{user:1}:cart",
        "x{user:1}",
        "{}{t}",
        "日本語",
        &long,
    ];
    let address = |i: u32| format!("10.0.0.{i}:6379");
    let unnamed = [1, 2, 3].map(|i| NodeSpec::unnamed(address(i)));
    let named = |name: fn(u32) -> String| [1, 2, 3].map(|i| NodeSpec::new(name(i), address(i)));
    let letters = named(|i| ["", "a", "b", "c"][i as usize].to_owned());
    let urls_4 = named(|i| format!("redis://10.0.0.{i}:6379/0"));
    let urls_5 = named(|i| format!("redis://10.0.0.{i}:6379"));

    type Sample<'a> = (
        &'a str,
        &'a [(&'a str, &'a str)],
        &'a [NodeSpec; 3],
        [usize; 10],
    );
    let samples: [Sample<'_>; 18] = [
        (
            "go-redis-8/1",
            &[],
            &letters,
            [2, 1, 1, 0, 0, 0, 0, 2, 2, 2],
        ),
        (
            "go-redis-3/1",
            &[],
            &letters,
            [2, 1, 0, 0, 2, 0, 0, 0, 2, 0],
        ),
        ("jedis-2.0/1", &[], &unnamed, [1, 0, 2, 1, 2, 1, 1, 0, 0, 1]),
        (
            "jedis-2.10/1",
            &[],
            &unnamed,
            [1, 0, 2, 1, 2, 1, 1, 0, 0, 1],
        ),
        ("jedis-4/1", &[], &letters, [1, 0, 2, 1, 2, 1, 1, 0, 0, 1]),
        (
            "jedis-4/1",
            &[("hash-tag", "jedis-pattern")],
            &unnamed,
            [1, 0, 2, 1, 2, 1, 1, 2, 0, 1],
        ),
        (
            "jedis-4/1",
            &[("hashing", "md5")],
            &unnamed,
            [2, 2, 2, 0, 0, 1, 2, 1, 1, 1],
        ),
        ("redis-rb-5/1", &[], &urls_5, [0, 2, 0, 2, 0, 2, 1, 0, 1, 1]),
        ("redis-rb-4/1", &[], &urls_4, [2, 0, 1, 1, 1, 1, 0, 1, 2, 1]),
        (
            "predis-hash-ring/1",
            &[],
            &unnamed,
            [2, 1, 1, 0, 2, 0, 0, 2, 1, 1],
        ),
        (
            "predis-ketama-ring/1",
            &[],
            &unnamed,
            [0, 2, 2, 0, 2, 0, 0, 2, 2, 2],
        ),
        (
            "phpredis-range/1",
            &[],
            &unnamed,
            [0, 1, 1, 1, 2, 1, 1, 0, 1, 0],
        ),
        (
            "phpredis-consistent/1",
            &[],
            &unnamed,
            [1, 2, 2, 2, 1, 2, 2, 1, 2, 2],
        ),
        (
            "twemproxy-ketama/1",
            &[],
            &unnamed,
            [1, 1, 1, 2, 2, 0, 0, 2, 2, 2],
        ),
        (
            "twemproxy-ketama/1",
            &[("hash-tag", "any-two:{}")],
            &unnamed,
            [1, 1, 1, 2, 2, 2, 2, 2, 2, 2],
        ),
        (
            "twemproxy-modula/1",
            &[("hash", "murmur")],
            &unnamed,
            [0, 2, 2, 2, 0, 2, 2, 2, 2, 2],
        ),
        (
            "twemproxy-ketama/1",
            &[("hash", "md5")],
            &unnamed,
            [1, 2, 2, 0, 2, 1, 0, 2, 2, 2],
        ),
        (
            "libmemcached-ketama-weighted/1",
            &[],
            &unnamed,
            [0, 2, 2, 0, 2, 1, 0, 2, 2, 2],
        ),
    ];
    for (name, options, nodes, answers) in samples {
        let options: Vec<_> = options
            .iter()
            .map(|&(option, value)| (option.to_owned(), value.to_owned()))
            .collect();
        let rule = by_name(name, &options).unwrap();
        let placement = rule.place(nodes).unwrap();
        let owner = |key: &str| {
            placement
                .locate(rule.hash_tag().of(key.as_bytes()))
                .unwrap()
                .get()
        };
        assert_eq!(keys.map(owner), answers, "{name} {options:?}");
    }
}

#[test]
fn cluster_slots_match_every_recorded_slot() {
    let slots: Vec<u16> = SLOTS
        .split_whitespace()
        .map(|slot| slot.parse().unwrap())
        .collect();
    let found: Vec<u16> = keys().map(|key| slot(HashTag::Braces.of(key))).collect();
    assert_eq!(found, slots);
}

/// One configuration of one peer, and what it answered.
struct Record<'t> {
    name: &'t str,
    partitioner: Arc<dyn Partitioner>,
    /// What the peer puts before every key.
    key_prefix: &'t str,
    nodes: Vec<NodeSpec>,
    answers: &'t str,
}

impl<'t> Record<'t> {
    fn read(line: &'t str) -> Self {
        let [name, placement, options, nodes, answers] = line
            .split('\t')
            .collect::<Vec<_>>()
            .try_into()
            .expect("five columns");
        let option = |word: &str| {
            let (option, value) = word.split_once('=').expect("option=value");
            (option.to_owned(), value.to_owned())
        };
        // What is no option of the preset.
        let (others, options): (Vec<_>, Vec<_>) = options
            .split_whitespace()
            .partition(|word| word.starts_with('@'));
        let other = |name: &str| others.iter().find_map(|word| word.strip_prefix(name));
        let options: Vec<_> = options.into_iter().map(option).collect();
        let partitioner = match other("@password=") {
            None => by_name(placement, &options).expect(name),
            Some(password) => Arc::new(DjangoRedis::new().with_password(password)),
        };
        Self {
            name,
            partitioner,
            key_prefix: other("@key-prefix=").unwrap_or_default(),
            nodes: nodes.split(' ').map(node).collect(),
            answers,
        }
    }

    /// The indices of the nodes of `few` among those of this record, if `few` is the same peer with fewer of the same
    /// nodes, and with these alone it places keys as with the others taken out.
    fn indices_of(&self, few: &Record<'_>) -> Option<Vec<NodeIndex>> {
        // Hash modulo nodes: these peers take no node out, except for twemproxy.
        const STAY: [&str; 3] = ["libmemcached-modula/1", "nginx-plain/1", "phpredis-range/1"];
        let rule = |record: &Record<'_>| {
            (
                record.partitioner.name().to_owned(),
                record.partitioner.options(),
            )
        };
        if rule(self) != rule(few)
            || self.key_prefix != few.key_prefix
            || few.nodes.len() >= self.nodes.len()
            || STAY.contains(&self.partitioner.name())
        {
            return None;
        }
        let index = |node| {
            let at = self.nodes.iter().position(|other| other == node)?;
            Some(NodeIndex::new(at as u16))
        };
        let indices: Vec<_> = few.nodes.iter().map(index).collect::<Option<_>>()?;
        // In another order the positions in Jedis' labels, and which node has a point on which two fall, are others.
        indices.is_sorted().then_some(indices)
    }

    /// The keys as the peer hashed them.
    fn keys(&self) -> impl Iterator<Item = Vec<u8>> {
        keys().map(|key| [self.key_prefix.as_bytes(), key].concat())
    }

    /// How many answers there are, and those that are not met: the key, what was found and what was recorded.
    fn check(&self) -> (usize, Vec<(String, char, char)>) {
        let placement = self.partitioner.place(&self.nodes).expect(self.name);
        let tag = self.partitioner.hash_tag();
        let mut mismatches = Vec::new();
        let mut answers = 0;
        for (key, answer) in self.keys().zip(self.answers.chars()) {
            let owner = placement
                .locate(tag.of(&key))
                .expect("every key has an owner");
            if answer == '-' {
                // Undefined in the original.
                continue;
            }
            answers += 1;
            let found = char::from_digit(owner.get() as u32, 36).expect("fewer than 36 nodes");
            if found != answer {
                mismatches.push((key.escape_ascii().to_string(), found, answer));
            }
        }
        (answers, mismatches)
    }
}

/// `name` or `name*weight`; with `=` before a name that was given, and not only the address.
fn node(text: &str) -> NodeSpec {
    let (name, weight) = text.split_once('*').unwrap_or((text, "1"));
    let node = match name.strip_prefix('=') {
        Some(name) => NodeSpec::new(name, "127.0.0.1:1"),
        None => NodeSpec::unnamed(name),
    };
    node.with_weight(weight.parse::<NonZeroU32>().expect("a weight"))
}

fn keys() -> impl Iterator<Item = &'static [u8]> {
    let keys = KEYS.strip_suffix(b"\n").unwrap_or(KEYS);
    keys.split(|&byte| byte == b'\n')
}
