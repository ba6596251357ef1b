//! Frozen answers: a placement is a file format.
//!
//! Each number is a digest of where ten thousand keys live on several sets of nodes. It never changes. Who changes an answer gives the partitioner a
//! new name, such as `ring/2`, and adds lines.

use std::num::NonZeroU32;
use std::sync::Arc;

use redis_sharding::hash::KeyHash;
use redis_sharding::partition::{
    BytesTable, Direction, HashMod, NumericTable, OutNodes, Partitioner, PlacementError,
    PointLabel, Range, Rendezvous, Ring, RingSpec, SlotMap, by_name, catalogue,
};
use redis_sharding::{NodeIndex, NodeSpec, Topology};
use xxhash_rust::xxh3::xxh3_64;

#[test]
fn rendezvous_1_placement_is_frozen() {
    check(&Rendezvous::new(), "rendezvous/1", 0x90fb_722e_786a_5086);
    check(
        &Rendezvous::new().with_slot_bits(12),
        "rendezvous/1",
        0x1047_49b0_d557_e68a,
    );
}

#[test]
fn ring_1_placement_is_frozen() {
    check(&Ring::new(), "ring/1", 0xcb2a_6b59_72ae_5c4e);
    let redis_rb = RingSpec::new()
        .with_label(PointLabel::NameColonIndex)
        .with_label_hash(KeyHash::Crc32)
        .with_key_hash(KeyHash::Crc32)
        .with_direction(Direction::AtOrBefore);
    check(&Ring::with_spec(redis_rb), "ring/1", 0x4f69_2d30_082a_3da5);
    let go_redis = RingSpec::new()
        .with_points_per_weight(100)
        .with_label(PointLabel::IndexName)
        .with_label_hash(KeyHash::Crc32)
        .with_key_hash(KeyHash::Crc32);
    check(&Ring::with_spec(go_redis), "ring/1", 0x25de_31d0_c343_5946);
}

#[test]
fn hash_mod_1_placement_is_frozen() {
    check(
        &HashMod::new(KeyHash::Crc16),
        "hash-mod/1",
        0x544c_7278_6193_277e,
    );
    check(
        &HashMod::new(KeyHash::Crc32),
        "hash-mod/1",
        0x7c30_7280_3be1_685e,
    );
    check(
        &HashMod::new(KeyHash::Fnv1a32),
        "hash-mod/1",
        0x0a6f_9dd3_0d8e_9bdd,
    );
    check(
        &HashMod::new(KeyHash::Fnv1a64),
        "hash-mod/1",
        0x6b63_f3d3_0059_e5b2,
    );
    check(
        &HashMod::new(KeyHash::Xxh3),
        "hash-mod/1",
        0x5a49_fe14_548b_a854,
    );
    check(
        &HashMod::new(KeyHash::Xxh64),
        "hash-mod/1",
        0x6ca4_9e59_45fb_0c6c,
    );
}

#[test]
fn slot_map_1_placement_is_frozen() {
    check(&SlotMap::even(), "slot-map/1", 0xac45_f225_bb0e_afaa);
}

#[test]
fn range_1_placement_is_frozen() {
    let rule = Range::builder()
        .table(
            NumericTable::new("user:")
                .range(0..=2499, "node-0")
                .range(2500..=4999, "node-1"),
        )
        .table(
            BytesTable::new("city:")
                .range(.."5", "node-1")
                .range("5".., "node-2"),
        )
        .default_node("node-2");
    check(&rule.build().unwrap(), "range/1", 0xbfc4_2ec5_29f9_de98);
}

#[test]
fn peer_preset_placements_are_frozen() {
    let expected = [
        ("codis/1", 0xf76a_e01c_6ea6_91ec),
        ("django-redis/1", 0x5cf2_1304_5e68_3dde),
        ("envoy-maglev/1", 0x1682_872b_2e7c_60f8),
        ("envoy-ring-hash/1", 0xa822_342c_f2de_6647),
        ("go-redis-3/1", 0x109d_ce15_24b2_a8d3),
        ("go-redis-8/1", 0x122f_78eb_67bd_3fd1),
        ("jedis-2.0/1", 0x3ce2_a86c_a490_fead),
        ("jedis-2.10/1", 0x2ecc_b610_b53d_4399),
        ("jedis-4/1", 0x76d7_cf45_fc13_047a),
        ("libmemcached-ketama-weighted/1", 0xc9de_eb3b_851d_1bd3),
        ("libmemcached-ketama/1", 0xc449_778a_6355_f64e),
        ("libmemcached-modula/1", 0xa5d3_03af_7aa6_aad8),
        ("nginx-consistent/1", 0xc6b8_2890_0b0c_c823),
        ("nginx-plain/1", 0xdd04_d83e_fbfa_3f98),
        ("node-hashring/1", 0xc9de_eb3b_851d_1bd3),
        ("phpredis-consistent/1", 0x1111_50da_197a_9d11),
        ("phpredis-range/1", 0x01da_4f67_4bb7_72ed),
        ("predis-hash-ring/1", 0xbd52_7cbe_b49c_4f08),
        ("predis-ketama-ring/1", 0x840a_d961_fd4d_795f),
        ("pyhashring/1", 0xc9d7_f83c_a2e3_5f5c),
        ("redis-rb-4/1", 0xacee_c137_daa0_7076),
        ("redis-rb-5/1", 0x0256_2385_91f2_094e),
        ("twemproxy-ketama/1", 0xeeb1_1910_50fc_541b),
        ("twemproxy-modula/1", 0x3f5a_52ad_2ef6_5bdf),
        ("uhashring-ketama/1", 0xc9de_eb3b_851d_1bd3),
        ("uhashring/1", 0xac6b_23f2_c960_cfce),
    ];
    let own = [
        "hash-mod/1",
        "range/1",
        "rendezvous/1",
        "ring/1",
        "slot-map/1",
    ];
    let mut peers = catalogue()
        .iter()
        .filter(|entry| !own.contains(&entry.name));
    for (name, digest) in expected {
        assert_eq!(peers.next().map(|entry| entry.name), Some(name));
        check(&*by_name(name, &[]).unwrap(), name, digest);
    }
    assert!(peers.next().is_none(), "every preset is frozen");
}

#[test]
fn key_hashes_are_frozen() {
    let expected = [
        ("crc16", 0x4315_98d5_f60a_bff9),
        ("crc32", 0x4c54_8443_a1ac_1a31),
        ("fnv1a-32", 0xfe9f_e3fb_7259_7d83),
        ("fnv1a-64", 0x675b_dcc4_e60e_2cd4),
        ("xxh3-64", 0xc37c_9667_4767_4036),
        ("xxh64", 0xfec5_9ae7_5bd8_f237),
        ("md5", 0x9a26_dd36_e92f_a0ab),
        ("md5-big", 0xcaa6_b1dd_3fe8_115a),
        ("murmur64a", 0x3911_8b30_4aa0_e413),
        ("crc32-jam", 0x982e_0f02_9041_42f6),
        ("crc16-wide", 0x142b_e80d_3370_dcda),
        ("crc32-upper", 0x03ae_6f0c_d5f8_96ee),
        ("fnv1-signed", 0xbbac_7ebc_68be_04fa),
        ("fnv1-cut", 0x846a_3a45_0f12_8b8b),
        ("fnv1a-signed", 0xe2c3_e0d7_c516_a2a0),
        ("fnv1a-cut", 0x9c46_6fa7_6343_2ea0),
        ("hsieh", 0xca58_47be_ef71_737a),
        ("jenkins", 0xc47c_2fa4_7ed5_6935),
        ("murmur2", 0xda10_d7d1_8bcf_c3ea),
        ("murmur3", 0xafed_335c_e1ab_c6f2),
        ("one-at-a-time", 0x5735_7ac4_d2fa_4a24),
        ("php-adler32", 0x272f_1644_572a_0ab1),
        ("php-crc32", 0x7dfc_7fb7_5d50_0525),
        ("php-crc32b", 0xafd2_6716_f63e_9339),
        ("php-crc32c", 0xb082_f4f1_9633_51b6),
        ("php-fnv132", 0x4f01_315c_7a5c_6502),
        ("php-fnv164", 0x1d65_f91d_7b96_26a6),
        ("php-fnv1a32", 0xeccf_78b0_4418_ec00),
        ("php-fnv1a64", 0xda26_7ac2_01a5_8bcb),
        ("php-joaat", 0x6b25_bad2_8cc9_a39d),
        ("php-md5", 0x6965_bc63_cb23_b516),
        ("php-murmur3a", 0x6189_76bb_ee40_a3a6),
        ("php-sha1", 0x7049_3507_8375_d9c1),
        ("php-sha256", 0xa2a1_14ce_4ae5_bef0),
        ("php-xxh3", 0xa96b_e3d4_0440_066d),
        ("php-xxh32", 0xd255_85b8_495d_e54b),
        ("php-xxh64", 0xc8b4_0425_0510_48b8),
        ("md5-wide", 0xcbc5_1891_eb3a_3337),
        ("murmur64a-std", 0x043b_6790_4ff2_38d0),
        ("sha1", 0xe6a4_a8fb_b644_3d65),
        ("sha256", 0x6f8b_4026_c78c_60e8),
        ("sha256-wide", 0x80a6_4273_7898_aa28),
    ];
    assert_eq!(KeyHash::ALL.len(), expected.len());
    for (hash, (name, expected)) in KeyHash::ALL.iter().zip(expected) {
        assert_eq!(hash.name(), name);
        let numbers = (0..10_000).flat_map(|i| hash.hash(key(i).as_bytes()).to_le_bytes());
        let digest = xxh3_64(&numbers.collect::<Vec<u8>>());
        assert_eq!(digest, expected, "{name}: found {digest:#x}");
    }
}

/// One and two nodes out. Where the peer does not say, and by the crate's own rules, this is part of the frozen name.
#[test]
fn placements_with_nodes_out_are_frozen() {
    const MAP: (&str, &str) = ("map", "0-99 node-0, 100-9999 node-2, 10000-16383 node-1");
    const USERS: (&str, &str) = ("numeric \"user:\"", "0..=2499 node-0, 2500..=4999 node-1");
    const CITIES: (&str, &str) = ("bytes \"city:\"", "..\"5\" node-1, \"5\".. node-2");
    type Frozen = (&'static str, &'static [(&'static str, &'static str)], u64);
    let expected: [Frozen; 40] = [
        ("codis/1", &[], 0x2123_7559_478a_8cd3),
        ("django-redis/1", &[], 0xb5cc_bf96_2845_4411),
        ("envoy-maglev/1", &[], 0x2427_9e28_51eb_d35b),
        ("envoy-ring-hash/1", &[], 0x4076_0004_df25_ed32),
        ("go-redis-3/1", &[], 0xa66b_c727_e958_d2bc),
        ("go-redis-8/1", &[], 0x8ea2_1ce6_95db_3095),
        (
            "hash-mod/1",
            &[("key-hash", "crc16")],
            0x803a_5e4e_34e0_59c6,
        ),
        (
            "hash-mod/1",
            &[("key-hash", "crc32")],
            0xd801_cb34_e8af_bb61,
        ),
        (
            "hash-mod/1",
            &[("key-hash", "xxh3-64")],
            0x16f2_7f84_f25c_6afe,
        ),
        (
            "hash-mod/1",
            &[("key-hash", "crc32"), ("reduction", "inverted-range")],
            0x5555_2421_16c4_cb66,
        ),
        ("jedis-2.0/1", &[], 0x4aad_cd46_e828_bfb7),
        ("jedis-2.10/1", &[], 0x6686_edf6_4147_5dca),
        ("jedis-4/1", &[], 0x86f0_32e6_aa17_ed8b),
        ("libmemcached-ketama-weighted/1", &[], 0x6117_d186_0d9f_b949),
        ("libmemcached-ketama/1", &[], 0x8895_8421_ffb9_f1b7),
        ("libmemcached-modula/1", &[], 0x6c58_31ab_9eb6_afc7),
        ("nginx-consistent/1", &[], 0xdd52_3d3e_d7af_b7ee),
        ("nginx-plain/1", &[], 0xa14c_acd3_418b_f271),
        ("node-hashring/1", &[], 0x4c6a_ae50_35fc_17cc),
        ("phpredis-consistent/1", &[], 0xf9fa_fd2b_8402_39a9),
        ("phpredis-range/1", &[], 0xf8cf_21cd_c07c_990b),
        ("predis-hash-ring/1", &[], 0x106d_0034_1c39_c8a9),
        ("predis-ketama-ring/1", &[], 0xf0fe_72c8_398e_86a1),
        ("pyhashring/1", &[], 0x9e65_91bc_ed58_a34b),
        (
            "range/1",
            &[USERS, CITIES, ("default", "node-2")],
            0x2fbe_7a99_5a97_9084,
        ),
        ("range/1", &[USERS, CITIES], 0x72da_93f1_d205_b726),
        ("redis-rb-4/1", &[], 0xf0a3_1bf0_11be_bfd4),
        ("redis-rb-5/1", &[], 0xd28e_9b05_ab84_85bc),
        ("rendezvous/1", &[], 0xcb85_60f3_5c66_f988),
        (
            "rendezvous/1",
            &[("slot-bits", "12")],
            0x721b_149e_d931_484f,
        ),
        ("ring/1", &[], 0xe444_67bd_84d0_21e4),
        (
            "ring/1",
            &[("direction", "at-or-before")],
            0x5b57_df67_ce5a_8b22,
        ),
        (
            "ring/1",
            &[("shares", "relative-f64")],
            0xc431_30c2_3395_f20a,
        ),
        ("ring/1", &[("label-hash", "crc16")], 0xc14d_dcd0_3761_5a6e),
        ("slot-map/1", &[], 0xd03f_cd22_34c5_4a78),
        ("slot-map/1", &[MAP], 0x6db9_6131_8d8f_60fb),
        ("twemproxy-ketama/1", &[], 0x2be4_cfd7_20a4_ca97),
        ("twemproxy-modula/1", &[], 0xdb38_cb36_6d07_d09d),
        ("uhashring-ketama/1", &[], 0x6117_d186_0d9f_b949),
        ("uhashring/1", &[], 0x36c6_9009_be77_12c4),
    ];
    let mut rules = catalogue().iter();
    for (name, options, digest) in expected {
        let options: Vec<_> = options
            .iter()
            .map(|&(option, value)| (option.to_owned(), value.to_owned()))
            .collect();
        let rule = by_name(name, &options).unwrap();
        if rules
            .as_slice()
            .first()
            .is_some_and(|entry| entry.name == name)
        {
            rules.next();
        }
        let found = digest_without(&rule);
        assert_eq!(found, digest, "{name} {options:?}: found {found:#x}");
    }
    assert_eq!(
        rules.next().map(|entry| entry.name),
        None,
        "every rule is frozen"
    );
}

/// As [`digest`], for topologies with one node out and with two, of which the second one is the last. Fewer keys, as
/// more rules are asked.
fn digest_without(rule: &Arc<dyn Partitioner>) -> u64 {
    let mut answers = Vec::new();
    for nodes in node_sets() {
        let count = nodes.len() as u16;
        let unplaced = rule.place(&nodes).err();
        if matches!(unplaced, Some(PlacementError::Weighted { .. })) {
            continue;
        }
        let all = Topology::new(nodes, Arc::clone(rule)).unwrap();
        for out in [&[count / 3][..], &[count / 3, count - 1]] {
            let out: OutNodes = out.iter().copied().map(NodeIndex::new).collect();
            let topology = all.without(&out).unwrap();
            for i in 0..2000 {
                let owner = topology.locate(key(i).as_bytes());
                answers.extend(owner.map_or(u16::MAX, |node| node.as_u16()).to_le_bytes());
            }
        }
    }
    xxh3_64(&answers)
}

#[track_caller]
fn check(partitioner: &dyn Partitioner, name: &str, expected: u64) {
    assert_eq!(partitioner.name(), name);
    let digest = digest(partitioner);
    assert_eq!(digest, expected, "{name}: found {digest:#x}");
}

/// The XXH3 of all owners over all sets of nodes, as little-endian pairs of bytes; `0xffff` for none.
fn digest(partitioner: &dyn Partitioner) -> u64 {
    let tag = partitioner.hash_tag();
    let mut answers = Vec::new();
    for nodes in node_sets() {
        let placement = match partitioner.place(&nodes) {
            Ok(placement) => placement,
            // A rule without weights has three sets of nodes.
            Err(PlacementError::Weighted { .. }) => continue,
            Err(refusal) => panic!("{refusal}"),
        };
        for i in 0..10_000 {
            let owner = placement.locate(tag.of(key(i).as_bytes()));
            answers.extend(owner.map_or(u16::MAX, |node| node.as_u16()).to_le_bytes());
        }
    }
    xxh3_64(&answers)
}

/// Keys of several kinds and lengths, with tags and without.
fn key(i: usize) -> String {
    match i % 5 {
        0 => format!("user:{i}"),
        1 => format!("{{user:{i}}}:cart"),
        2 => format!("city:{i}:{}", "é".repeat(i % 300)),
        3 => format!("{:x}", i * i),
        _ => "x".repeat(i % 40) + &i.to_string(),
    }
}

fn node_sets() -> [Vec<NodeSpec>; 4] {
    let node = |i: usize, weight: u32| {
        let node = NodeSpec::new(format!("node-{i}"), format!("10.0.0.{i}:6379"));
        node.with_weight(NonZeroU32::new(weight).unwrap())
    };
    let plain = |count: usize| (0..count).map(|i| node(i, 1)).collect();
    [
        plain(3),
        plain(16),
        plain(128),
        [1, 2, 4, 1]
            .into_iter()
            .enumerate()
            .map(|(i, weight)| node(i, weight))
            .collect(),
    ]
}
