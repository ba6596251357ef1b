//! The ring of consistent hashing.
//!
//! `mod.rs` is the rule, `spec.rs` all that can differ between rings, `placed.rs` the lookup.

mod placed;
mod spec;

use std::sync::Arc;

use placed::Placed;

use super::catalogue::{OptionInfo, OptionValues, PartitionerInfo};
use super::{
    EmptyKey, NodeText, Partitioner, Placement, PlacementError, check_names, check_weights,
};
use crate::partition::{NodeIndex, NodeSpec};

pub use spec::{Direction, PointLabel, RingSpec, Shares, Ties};

/// Consistent hashing on a ring: a key belongs to the next point, and every node has many points.
///
/// Nodes are told apart by name; their order does not matter. A node that comes takes its share from the
/// others, a node that goes leaves its keys to the others, and no other key moves. The shares are less even
/// than those of [`Rendezvous`](super::Rendezvous) (with 160 points a share deviates by 8 % of itself), so a
/// ring is for those who must agree with a ring that exists: [`RingSpec`] says exactly which, and
/// [`peers`](super::peers) has those of the usual clients and proxies.
///
/// Of points that fall on one place, the node whose name sorts first, as bytes, has it.
///
/// While nodes are [out](super::OutNodes), a key belongs to the next point of a living node, further in the
/// ring's [`Direction`]. Where the number of points of a node does not depend on the other nodes
/// ([`Shares::ByWeight`], [`Shares::Alike`]) and labels hold no position, each key is where it would be if the
/// nodes that are out did not exist.
///
/// D. Karger et al., "Consistent hashing and random trees", STOC 1997; points as labels of the node's name:
/// R. Jones, `libketama`, 2007.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    spec: RingSpec,
}

impl Ring {
    /// The ring of [`RingSpec::new`].
    pub const fn new() -> Self {
        Self::with_spec(RingSpec::new())
    }

    /// The ring that `spec` describes.
    pub const fn with_spec(spec: RingSpec) -> Self {
        Self { spec }
    }

    pub(super) const ENTRY: PartitionerInfo = PartitionerInfo {
        name: "ring/1",
        summary: "the next of many points on a circle",
        options: &[
            OptionInfo {
                name: "points-per-weight",
                meaning: "how many points a node has per unit of weight",
                default: Some("160"),
                values: OptionValues::Number {
                    min: 1,
                    max: POINTS_PER_WEIGHT_MAX as u64,
                },
            },
            OptionInfo {
                name: "shares",
                meaning: "how weights become numbers of points",
                default: Some("by-weight"),
                values: OptionValues::OneOf(Shares::NAMES),
            },
            OptionInfo {
                name: "node-text",
                meaning: "what stands for the node in a label",
                default: Some("name"),
                values: OptionValues::OneOf(NodeText::NAMES),
            },
            OptionInfo {
                name: "label",
                meaning: "the bytes that are hashed for a point",
                default: Some("name-dash-index"),
                values: OptionValues::OneOf(PointLabel::NAMES),
            },
            OptionInfo {
                name: "label-hash",
                meaning: "the hash of the labels; md5-words makes four points of each",
                default: Some("xxh3-64"),
                values: OptionValues::OneOf(spec::LABEL_HASHES),
            },
            OptionInfo::hash("key-hash", "the hash of the keys", Some("xxh3-64")),
            OptionInfo {
                name: "empty-key",
                meaning: "the number of a key without bytes",
                default: Some("hashed"),
                values: OptionValues::OneOf(EmptyKey::NAMES),
            },
            OptionInfo {
                name: "direction",
                meaning: "which point owns a key",
                default: Some("at-or-after"),
                values: OptionValues::OneOf(Direction::NAMES),
            },
            OptionInfo {
                name: "ties",
                meaning: "which node has a place on which points of several fall",
                default: Some("first-name"),
                values: OptionValues::OneOf(Ties::NAMES),
            },
        ],
        make: |given| Ok(Arc::new(Self::with_spec(RingSpec::from_given(given)?))),
    };
}

impl Partitioner for Ring {
    fn name(&self) -> &str {
        "ring/1"
    }

    fn options(&self) -> Vec<(String, String)> {
        self.spec.options()
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_names(nodes)?;
        if !(1..=POINTS_PER_WEIGHT_MAX).contains(&self.spec.points_per_weight) {
            return Err(PlacementError::OptionOutOfBounds {
                option: "points-per-weight",
                value: self.spec.points_per_weight.into(),
                min: 1,
                max: POINTS_PER_WEIGHT_MAX.into(),
            });
        }
        match self.spec.shares {
            Shares::ByWeight => check_weights(nodes)?,
            Shares::Alike => super::check_unweighted(nodes)?,
            // The number of points does not grow with the weights, only what they are divided by.
            Shares::RelativeF32 | Shares::RelativeF64 | Shares::RelativeF64Rounded => {
                super::check_total(nodes, u32::MAX)?;
            }
        }
        self.spec.node_text.check(nodes)?;
        let points = self.spec.points(nodes);
        if points.is_empty() {
            return Err(PlacementError::NoPoints);
        }
        Ok(Box::new(Placed::new(&self.spec, &points)))
    }
}

/// The placement of a ring whose points a peer lays by a rule of its own. Of `spec`, the key hash, the number of the empty
/// key and the direction count. Of equal points the first one counts.
pub(super) fn of_points(
    spec: &RingSpec,
    mut points: Vec<(u64, NodeIndex)>,
) -> Result<Box<dyn Placement>, PlacementError> {
    if points.is_empty() {
        return Err(PlacementError::NoPoints);
    }
    // Stable: equal points stay in their order.
    points.sort_by_key(|&(point, _)| point);
    Ok(Box::new(Placed::new(spec, &points)))
}

pub(super) const POINTS_PER_WEIGHT_MAX: u32 = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{living, nodes, out, owners, weighted};
    use super::placed::arcs;
    use super::spec::top;
    use super::*;
    use crate::hash::KeyHash;

    /// Everything that a ring of plain points depends on.
    #[derive(Clone, Debug)]
    struct Plain {
        points: u32,
        label: PointLabel,
        label_hash: KeyHash,
        key_hash: KeyHash,
        direction: Direction,
    }

    impl Plain {
        fn ring(&self) -> Ring {
            let spec = RingSpec::new()
                .with_points_per_weight(self.points)
                .with_label(self.label)
                .with_label_hash(self.label_hash)
                .with_key_hash(self.key_hash)
                .with_direction(self.direction);
            Ring::with_spec(spec)
        }
    }

    fn rings() -> impl Strategy<Value = Plain> {
        let labels = [
            PointLabel::IndexName,
            PointLabel::NameColonIndex,
            PointLabel::NameDashIndex,
        ];
        let hashes = || prop::sample::select(KeyHash::ALL);
        let parts = (
            1..200_u32,
            prop::sample::select(labels.to_vec()),
            hashes(),
            hashes(),
            prop::sample::select(Direction::ALL),
        );
        parts.prop_map(|(points, label, label_hash, key_hash, direction)| Plain {
            points,
            label,
            label_hash,
            key_hash,
            direction,
        })
    }

    proptest! {
        #[test]
        fn ring_owner_matches_a_naive_search(
            ring in rings(),
            weights in prop::collection::vec(1..4_u32, 1..9),
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 20),
        ) {
            let nodes = weighted(&weights);
            let placement = ring.ring().place(&nodes).unwrap();
            for key in keys {
                prop_assert_eq!(placement.locate(&key).unwrap().get(), naive(&ring, &nodes, &key));
            }
        }

        #[test]
        fn ring_owner_with_nodes_out_is_that_of_a_ring_of_the_living(
            ring in rings(),
            weights in prop::collection::vec(1..4_u32, 1..9),
            bits in any::<u32>(),
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 20),
        ) {
            let nodes = weighted(&weights);
            let out = out(&nodes, bits);
            let (indices, living) = living(&nodes, &out);
            let placement = ring.ring().place(&nodes).unwrap();
            let without = ring.ring().place(&living).unwrap();
            for key in keys {
                let owner = placement.locate_without(&key, &out).unwrap().get();
                prop_assert_eq!(owner, indices[naive(&ring, &living, &key)]);
                prop_assert_eq!(owner, indices[without.locate(&key).unwrap().get()]);
            }
        }

        #[test]
        fn ring_of_relative_shares_with_nodes_out_is_that_of_the_points_that_are_left(
            weights in prop::collection::vec(1..400_u32, 1..9),
            shares in prop::sample::select(vec![Shares::RelativeF32, Shares::RelativeF64, Shares::RelativeF64Rounded]),
            direction in prop::sample::select(Direction::ALL),
            ties in prop::sample::select(Ties::ALL),
            // Of 65536 places many have several points.
            label_hash in prop::sample::select(vec![KeyHash::Crc16, KeyHash::Md5]),
            bits in any::<u32>(),
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 20),
        ) {
            let spec = RingSpec::new()
                .with_shares(shares)
                .with_direction(direction)
                .with_ties(ties)
                .with_label_hash(label_hash);
            let nodes = weighted(&weights);
            let out = out(&nodes, bits);
            let placement = Ring::with_spec(spec.clone()).place(&nodes).unwrap();
            let mut points = spec.points(&nodes);
            points.retain(|(_, node)| !out.contains(*node));
            points.dedup_by_key(|point| point.0);
            for key in keys {
                let expected = (!points.is_empty()).then(|| scan(&points, direction, top(KeyHash::Xxh3, &key)));
                prop_assert_eq!(placement.locate_without(&key, &out), expected);
            }
        }

        #[test]
        fn ring_arcs_match_a_naive_search_for_any_points(
            points in prop::collection::btree_map(prop_oneof![any::<u64>(), 0..9_u64, Just(u64::MAX)], 0..9_u16, 1..20),
            direction in prop::sample::select(Direction::ALL),
            places in prop::collection::vec(prop_oneof![any::<u64>(), 0..9_u64, Just(u64::MAX)], 20),
        ) {
            let points: Vec<_> = points.into_iter().map(|(point, node)| (point, NodeIndex::new(node))).collect();
            let arcs = arcs(&points, direction);
            for place in places {
                let owner = arcs.iter().find(|&&(end, _)| place <= end).map(|&(_, owner)| owner);
                prop_assert_eq!(owner, Some(scan(&points, direction, place)));
            }
        }

        #[test]
        fn ring_moves_keys_only_to_an_added_node(
            ring in rings(),
            weights in prop::collection::vec(1..4_u32, 2..9),
            added in 0..9_usize,
        ) {
            let ring = ring.ring();
            let after = weighted(&weights);
            let mut before = after.clone();
            let added = before.remove(added % before.len());
            for (old, new) in owners(&ring, &before, 200).into_iter().zip(owners(&ring, &after, 200)) {
                prop_assert!(old == new || new == added.name(), "{} to {}", old, new);
            }
        }

        #[test]
        fn ring_does_not_depend_on_the_order_of_nodes(
            ring in rings(),
            (nodes, shuffled) in prop::collection::vec(1..4_u32, 1..9)
                .prop_map(|weights| weighted(&weights))
                .prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle())),
        ) {
            let ring = ring.ring();
            prop_assert_eq!(owners(&ring, &nodes, 200), owners(&ring, &shuffled, 200));
        }
    }

    #[test]
    fn ring_keeps_the_first_name_of_equal_points() {
        // CRC16 has 65536 places, so 4096 points of each of two nodes must meet.
        let spec = RingSpec::new()
            .with_points_per_weight(1024)
            .with_label_hash(KeyHash::Crc16);
        let nodes = weighted(&[4, 4]);
        let points = spec.points(&nodes);
        let places = super::placed::places(&points);
        let labels = |node: &NodeSpec| {
            let label = |i| top(KeyHash::Crc16, format!("{}-{i}", node.name()).as_bytes());
            (0..4096)
                .map(label)
                .collect::<std::collections::BTreeSet<_>>()
        };
        let (first, second) = (labels(&nodes[0]), labels(&nodes[1]));
        let mut met = first.intersection(&second).peekable();
        assert!(met.peek().is_some());
        assert!(met.all(|point| {
            let place = places.iter().find(|(place, _)| place == point).unwrap();
            place.1[0].1 == NodeIndex::new(0)
        }));
    }

    #[test]
    fn ring_agrees_with_recorded_answers_of_go_redis_7() {
        // Names a, b, c; keys and answers as recorded from go-redis v7 (CRC32, 100 points, `0a`, `1a`, ...).
        let spec = RingSpec::new()
            .with_points_per_weight(100)
            .with_label(PointLabel::IndexName)
            .with_label_hash(KeyHash::Crc32)
            .with_key_hash(KeyHash::Crc32);
        let nodes = ["a", "b", "c"].map(|name| NodeSpec::new(name, format!("{name}:6379")));
        let placement = Ring::with_spec(spec).place(&nodes).unwrap();
        let answers = ["", "foo", "bar", "user:1", "user:2", "日本語"]
            .map(|key| placement.locate(key.as_bytes()).unwrap());
        assert_eq!(answers.map(NodeIndex::get), [2, 1, 0, 0, 2, 2]);
    }

    #[test]
    fn ring_agrees_with_recorded_answers_of_redis_rb_4() {
        // CRC32, 160 points, `id:0`, `id:1`, ..., the last point at or before the key.
        let spec = RingSpec::new()
            .with_label(PointLabel::NameColonIndex)
            .with_label_hash(KeyHash::Crc32)
            .with_key_hash(KeyHash::Crc32)
            .with_direction(Direction::AtOrBefore);
        let nodes = [1, 2, 3].map(|i| NodeSpec::unnamed(format!("redis://10.0.0.{i}:6379/0")));
        let placement = Ring::with_spec(spec).place(&nodes).unwrap();
        let answers = ["", "foo", "bar", "user:1", "user:2", "日本語"]
            .map(|key| placement.locate(key.as_bytes()).unwrap());
        assert_eq!(answers.map(NodeIndex::get), [2, 0, 1, 1, 1, 2]);
    }

    #[test]
    fn ring_without_points_is_refused() {
        let spec = RingSpec::new().with_points_per_weight(3).with_md5_words();
        assert_eq!(
            Ring::with_spec(spec).place(&nodes(2)).unwrap_err(),
            PlacementError::NoPoints
        );
    }

    #[test]
    fn ring_shares_round_down_as_the_peers_do() {
        // Such numbers of nodes give each 39 labels of four points, and not 40.
        let short = |shares: Shares| {
            let spec = RingSpec::new().with_shares(shares).with_md5_words();
            let few = |count: &usize| spec.points(&nodes(*count)).len() < 159 * count;
            (1..=260).filter(few).collect::<Vec<_>>()
        };
        let f32 = short(Shares::RelativeF32);
        assert_eq!(
            f32[..16],
            [
                25, 47, 50, 55, 61, 71, 94, 100, 107, 109, 110, 115, 122, 142, 159, 163
            ]
        );
        let f64 = short(Shares::RelativeF64);
        assert_eq!(
            f64[..14],
            [
                49, 98, 103, 107, 161, 187, 196, 197, 206, 214, 237, 239, 249, 253
            ]
        );
    }

    #[test]
    fn ring_points_per_weight_out_of_bounds_are_refused() {
        for points in [0, 1025] {
            let refusal = Ring::with_spec(RingSpec::new().with_points_per_weight(points))
                .place(&nodes(2))
                .unwrap_err();
            assert_eq!(
                refusal.to_string(),
                format!("points-per-weight is {points}, but must be in 1..=1024")
            );
        }
    }

    /// All points of all nodes, looked at one by one.
    fn naive(ring: &Plain, nodes: &[NodeSpec], key: &[u8]) -> usize {
        let mut points = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            for i in 0..node.weight().get() * ring.points {
                let name = node.name();
                let label = match ring.label {
                    PointLabel::IndexName => format!("{i}{name}"),
                    PointLabel::NameColonIndex => format!("{name}:{i}"),
                    PointLabel::NameDashIndex => format!("{name}-{i}"),
                    other => unreachable!("{other}"),
                };
                let point = top(ring.label_hash, label.as_bytes());
                points.push((point, name, NodeIndex::new(index as u16)));
            }
        }
        points.sort();
        points.dedup_by_key(|point| point.0);
        let points: Vec<_> = points
            .into_iter()
            .map(|(point, _, index)| (point, index))
            .collect();
        scan(&points, ring.direction, top(ring.key_hash, key)).get()
    }

    fn scan(points: &[(u64, NodeIndex)], direction: Direction, place: u64) -> NodeIndex {
        let found = match direction {
            Direction::AtOrAfter => points
                .iter()
                .find(|(point, _)| *point >= place)
                .or(points.first()),
            Direction::After => points
                .iter()
                .find(|(point, _)| *point > place)
                .or(points.first()),
            Direction::AtOrBefore => points
                .iter()
                .rev()
                .find(|(point, _)| *point <= place)
                .or(points.last()),
        };
        found.unwrap().1
    }
}
