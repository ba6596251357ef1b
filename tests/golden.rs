//! Frozen answers: a placement is a file format.
//!
//! Each number is a digest of where ten thousand keys live on several sets of nodes. It never changes. Who changes an answer gives the partitioner a
//! new name, such as `ring/2`, and adds lines.

use std::num::NonZeroU32;

use redis_sharding::NodeSpec;
use redis_sharding::hash::KeyHash;
use redis_sharding::partition::{
    BytesTable, Direction, HashMod, NumericTable, Partitioner, PointLabel, Range, Rendezvous, Ring,
    RingSpec, SlotMap,
};
use xxhash_rust::xxh3::xxh3_64;

#[test]
fn rendezvous_1_is_frozen() {
    check(&Rendezvous::new(), "rendezvous/1", 0x90fb_722e_786a_5086);
    check(
        &Rendezvous::new().with_slot_bits(12),
        "rendezvous/1",
        0x1047_49b0_d557_e68a,
    );
}

#[test]
fn ring_1_is_frozen() {
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
fn hash_mod_1_is_frozen() {
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
fn slot_map_1_is_frozen() {
    check(&SlotMap::even(), "slot-map/1", 0xac45_f225_bb0e_afaa);
}

#[test]
fn range_1_is_frozen() {
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

#[track_caller]
fn check(partitioner: &dyn Partitioner, name: &str, expected: u64) {
    assert_eq!(partitioner.name(), name);
    let digest = digest(partitioner);
    assert_eq!(digest, expected, "found {digest:#x}");
}

/// The XXH3 of all owners over all sets of nodes, as little-endian pairs of bytes; `0xffff` for none.
fn digest(partitioner: &dyn Partitioner) -> u64 {
    let tag = partitioner.hash_tag();
    let mut answers = Vec::new();
    for nodes in node_sets() {
        let placement = partitioner.place(&nodes).unwrap();
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
