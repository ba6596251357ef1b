//! The ring of consistent hashing.

use std::sync::Arc;

use super::catalogue::{Entry, EntryOption, Values};
use super::{Partitioner, Placement, PlacementError, check_nodes, sorted_by_name};
use crate::hash::KeyHash;
use crate::hash::named;
use crate::node::{NodeIndex, NodeSpec};

/// Consistent hashing on a ring: a key belongs to the next point, and every node has many points.
///
/// Nodes are told apart by name; their order does not matter. A node that comes takes its share from the others, a node
/// that goes leaves its keys to the others, and no other key moves. The shares are less even than those of
/// [`Rendezvous`](super::Rendezvous) (with 160 points a share deviates by 8 % of itself), so a ring is for those who must
/// agree with a ring that exists: [`RingSpec`] says exactly which.
///
/// Of points that fall on one place, the node whose name sorts first, as bytes, has it.
///
/// D. Karger et al., "Consistent hashing and random trees", STOC 1997; points as labels of the node's name: R. Jones,
/// `libketama`, 2007.
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

    pub(super) const ENTRY: Entry = Entry {
        name: "ring/1",
        summary: "the next of many points on a circle",
        options: &[
            EntryOption {
                name: "points-per-weight",
                meaning: "how many points a node has per unit of weight",
                default: Some("160"),
                values: Values::Number {
                    min: 1,
                    max: POINTS_PER_WEIGHT_MAX as u64,
                },
            },
            EntryOption {
                name: "label",
                meaning: "the bytes that are hashed for a point",
                default: Some("name-dash-index"),
                values: Values::OneOf(PointLabel::NAMES),
            },
            EntryOption::hash("label-hash", "the hash of the labels", Some("xxh3-64")),
            EntryOption::hash("key-hash", "the hash of the keys", Some("xxh3-64")),
            EntryOption {
                name: "direction",
                meaning: "which point owns a key",
                default: Some("at-or-after"),
                values: Values::OneOf(Direction::NAMES),
            },
        ],
        make: |given| {
            let spec = RingSpec::new()
                .with_points_per_weight(given.number("points-per-weight")?)
                .with_label(given.read("label", PointLabel::from_name)?)
                .with_label_hash(given.hash("label-hash")?)
                .with_key_hash(given.hash("key-hash")?)
                .with_direction(given.read("direction", Direction::from_name)?);
            Ok(Arc::new(Self::with_spec(spec)))
        },
    };
}

/// All that decides where the points of a ring lie and which of them owns a key.
///
/// Hashes of different width meet on one circle of 64 bits: a narrower hash is shifted to the top.
///
/// ```
/// use redis_sharding::hash::KeyHash;
/// use redis_sharding::partition::{PointLabel, Ring, RingSpec};
///
/// // go-redis' `Ring` up to v7: 100 points, CRC32 of the index followed by the name.
/// let ring = Ring::with_spec(
///     RingSpec::new()
///         .with_points_per_weight(100)
///         .with_label(PointLabel::IndexName)
///         .with_label_hash(KeyHash::Crc32)
///         .with_key_hash(KeyHash::Crc32),
/// );
/// # let _ = ring;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingSpec {
    points_per_weight: u32,
    label: PointLabel,
    label_hash: KeyHash,
    key_hash: KeyHash,
    direction: Direction,
}

impl RingSpec {
    /// The crate's own ring: 160 points per unit of weight at the XXH3 of `name-i`, keys by XXH3, first point at or after
    /// the key.
    pub const fn new() -> Self {
        Self {
            points_per_weight: 160,
            label: PointLabel::NameDashIndex,
            label_hash: KeyHash::Xxh3,
            key_hash: KeyHash::Xxh3,
            direction: Direction::AtOrAfter,
        }
    }

    /// How many points a node has per unit of weight, from 1 to 1024. Defaults to 160.
    #[must_use]
    pub const fn with_points_per_weight(mut self, points: u32) -> Self {
        self.points_per_weight = points;
        self
    }

    /// The bytes that are hashed for a point. Defaults to [`PointLabel::NameDashIndex`].
    #[must_use]
    pub const fn with_label(mut self, label: PointLabel) -> Self {
        self.label = label;
        self
    }

    /// The hash of the labels. Defaults to [`KeyHash::Xxh3`].
    ///
    /// Labels differ in one digit, so take CRC and FNV only for agreement with others: CRC32 gives the largest of 16
    /// nodes 1.36 times its share, where XXH3 gives 1.13 times.
    #[must_use]
    pub const fn with_label_hash(mut self, hash: KeyHash) -> Self {
        self.label_hash = hash;
        self
    }

    /// The hash of the keys. Defaults to [`KeyHash::Xxh3`].
    #[must_use]
    pub const fn with_key_hash(mut self, hash: KeyHash) -> Self {
        self.key_hash = hash;
        self
    }

    /// Where a key looks for its point. Defaults to [`Direction::AtOrAfter`].
    #[must_use]
    pub const fn with_direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }
}

impl Default for RingSpec {
    /// [`RingSpec::new`]: the crate's own ring.
    fn default() -> Self {
        Self::new()
    }
}

named! {
    /// The bytes whose hash is a point of a node: its name and the index of the point, from zero, in decimal digits.
    pub enum PointLabel {
        /// `0name`, as in go-redis up to v7.
        IndexName = "index-name",
        /// `name:0`, as in redis-rb and Predis.
        NameColonIndex = "name-colon-index",
        /// `name-0`, as in ketama.
        NameDashIndex = "name-dash-index",
    }
}

named! {
    /// Which point owns a key. The circle has no end: past the last point comes the first.
    pub enum Direction {
        /// The first point at or after the key, as in ketama.
        AtOrAfter = "at-or-after",
        /// The last point at or before the key, as in redis-rb and Predis.
        AtOrBefore = "at-or-before",
    }
}

impl Partitioner for Ring {
    fn name(&self) -> &str {
        "ring/1"
    }

    fn options(&self) -> Vec<(String, String)> {
        vec![
            (
                "points-per-weight".into(),
                self.spec.points_per_weight.to_string(),
            ),
            ("label".into(), self.spec.label.to_string()),
            ("label-hash".into(), self.spec.label_hash.to_string()),
            ("key-hash".into(), self.spec.key_hash.to_string()),
            ("direction".into(), self.spec.direction.to_string()),
        ]
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_nodes(nodes)?;
        if !(1..=POINTS_PER_WEIGHT_MAX).contains(&self.spec.points_per_weight) {
            return Err(PlacementError::OptionOutOfBounds {
                option: "points-per-weight",
                value: self.spec.points_per_weight.into(),
                min: 1,
                max: POINTS_PER_WEIGHT_MAX.into(),
            });
        }
        let arcs = arcs(&self.spec.points(nodes), self.spec.direction);
        Ok(Box::new(Placed::new(self.spec.key_hash, &arcs)))
    }
}

impl RingSpec {
    /// Every point with its owner, sorted, one owner per point.
    fn points(&self, nodes: &[NodeSpec]) -> Vec<(u64, NodeIndex)> {
        let mut points = Vec::new();
        for (index, node) in sorted_by_name(nodes) {
            let count = node.weight().get() * self.points_per_weight;
            points.extend((0..count).map(|i| {
                (
                    top(self.label_hash, self.label.of(node.name(), i).as_bytes()),
                    index,
                )
            }));
        }
        // Both are stable: of equal points the first name stays.
        points.sort_by_key(|&(point, _)| point);
        points.dedup_by_key(|&mut (point, _)| point);
        points
    }
}

impl PointLabel {
    fn of(self, name: &str, index: u32) -> String {
        match self {
            Self::IndexName => format!("{index}{name}"),
            Self::NameColonIndex => format!("{name}:{index}"),
            Self::NameDashIndex => format!("{name}-{index}"),
        }
    }
}

/// The place of these bytes on the circle of 64 bits.
fn top(hash: KeyHash, bytes: &[u8]) -> u64 {
    hash.hash(bytes) << (64 - hash.bits())
}

/// The circle cut into arcs, each named by its last place; the last arc ends at `u64::MAX`.
fn arcs(points: &[(u64, NodeIndex)], direction: Direction) -> Vec<(u64, NodeIndex)> {
    let (first, last) = match points {
        [] => return Vec::new(),
        [first, ..] => (first, points.last().unwrap_or(first)),
    };
    let mut arcs: Vec<_> = match direction {
        // An arc ends at the point that owns it.
        Direction::AtOrAfter => points.to_vec(),
        // An arc ends before the next point. Before the first point the last one owns.
        Direction::AtOrBefore => {
            let before_first = first.0.checked_sub(1).map(|end| (end, last.1));
            let between = points.windows(2).map(|pair| (pair[1].0 - 1, pair[0].1));
            before_first.into_iter().chain(between).collect()
        }
    };
    arcs.push((
        u64::MAX,
        if direction == Direction::AtOrAfter {
            first.1
        } else {
            last.1
        },
    ));
    arcs
}

/// Arcs found by the top bits of the key's place: a table says where to start, and a step or two forward find the arc.
#[derive(Debug)]
struct Placed {
    hash: fn(&[u8]) -> u64,
    /// Shifts a hash to its place on the circle.
    widen: u32,
    /// Shifts a place to its top bits.
    narrow: u32,
    /// For every value of the top bits, the first arc that does not end before it.
    starts: Box<[u32]>,
    /// The last place of every arc.
    ends: Box<[u64]>,
    /// The owner of every arc; apart, because they are asked once and the ends more often.
    owners: Box<[NodeIndex]>,
}

impl Placed {
    fn new(key_hash: KeyHash, arcs: &[(u64, NodeIndex)]) -> Self {
        // Two to four entries per arc.
        let bits = (2 * arcs.len()).next_power_of_two().ilog2();
        let narrow = 64 - bits;
        let start = |top: u64| arcs.partition_point(|&(end, _)| end < top << narrow) as u32;
        Self {
            hash: key_hash.function(),
            widen: 64 - key_hash.bits(),
            narrow,
            starts: (0..1 << bits).map(start).collect(),
            ends: arcs.iter().map(|&(end, _)| end).collect(),
            owners: arcs.iter().map(|&(_, owner)| owner).collect(),
        }
    }
}

impl Placement for Placed {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        let place = (self.hash)(key) << self.widen;
        let mut arc = *self.starts.get((place >> self.narrow) as usize)? as usize;
        // Nearly every key needs no step or one. Which of them is a coin toss, so it must not be a branch.
        arc += usize::from(*self.ends.get(arc)? < place);
        while *self.ends.get(arc)? < place {
            arc += 1;
        }
        self.owners.get(arc).copied()
    }
}

const POINTS_PER_WEIGHT_MAX: u32 = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{nodes, owners, weighted};
    use super::*;

    fn specs() -> impl Strategy<Value = RingSpec> {
        let labels = [
            PointLabel::IndexName,
            PointLabel::NameColonIndex,
            PointLabel::NameDashIndex,
        ];
        let hashes = || prop::sample::select(KeyHash::ALL);
        let directions = [Direction::AtOrAfter, Direction::AtOrBefore];
        let parts = (
            1..200_u32,
            prop::sample::select(labels.to_vec()),
            hashes(),
            hashes(),
            prop::sample::select(directions.to_vec()),
        );
        parts.prop_map(|(points, label, label_hash, key_hash, direction)| {
            RingSpec::new()
                .with_points_per_weight(points)
                .with_label(label)
                .with_label_hash(label_hash)
                .with_key_hash(key_hash)
                .with_direction(direction)
        })
    }

    proptest! {
        #[test]
        fn matches_naive(
            spec in specs(),
            weights in prop::collection::vec(1..4_u32, 1..9),
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 20),
        ) {
            let nodes = weighted(&weights);
            let placement = Ring::with_spec(spec.clone()).place(&nodes).unwrap();
            for key in keys {
                prop_assert_eq!(placement.locate(&key).unwrap().get(), naive(&spec, &nodes, &key));
            }
        }

        #[test]
        fn matches_naive_on_points_of_any_kind(
            points in prop::collection::btree_map(prop_oneof![any::<u64>(), 0..9_u64, Just(u64::MAX)], 0..9_u16, 1..20),
            direction in prop::sample::select(vec![Direction::AtOrAfter, Direction::AtOrBefore]),
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
        fn a_key_moves_only_to_the_added_node(
            spec in specs(),
            weights in prop::collection::vec(1..4_u32, 2..9),
            added in 0..9_usize,
        ) {
            let ring = Ring::with_spec(spec);
            let after = weighted(&weights);
            let mut before = after.clone();
            let added = before.remove(added % before.len());
            for (old, new) in owners(&ring, &before, 200).into_iter().zip(owners(&ring, &after, 200)) {
                prop_assert!(old == new || new == added.name(), "{} to {}", old, new);
            }
        }

        #[test]
        fn the_order_of_the_nodes_does_not_matter(
            spec in specs(),
            (nodes, shuffled) in prop::collection::vec(1..4_u32, 1..9)
                .prop_map(|weights| weighted(&weights))
                .prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle())),
        ) {
            let ring = Ring::with_spec(spec);
            prop_assert_eq!(owners(&ring, &nodes, 200), owners(&ring, &shuffled, 200));
        }
    }

    #[test]
    fn of_equal_points_the_first_name_stays() {
        // CRC16 has 65536 places, so 4096 points of each of two nodes must meet.
        let spec = RingSpec::new()
            .with_points_per_weight(1024)
            .with_label_hash(KeyHash::Crc16);
        let nodes = weighted(&[4, 4]);
        let points = spec.points(&nodes);
        let labels = |node: &NodeSpec| {
            let label = |i| top(KeyHash::Crc16, spec.label.of(node.name(), i).as_bytes());
            (0..4096)
                .map(label)
                .collect::<std::collections::BTreeSet<_>>()
        };
        let (first, second) = (labels(&nodes[0]), labels(&nodes[1]));
        let mut met = first.intersection(&second).peekable();
        assert!(met.peek().is_some());
        assert!(met.all(|point| points.contains(&(*point, NodeIndex::new(0)))));
    }

    #[test]
    fn agrees_with_recorded_answers_of_go_redis_7() {
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
    fn agrees_with_recorded_answers_of_redis_rb_4() {
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
    fn a_number_of_points_outside_of_the_limits_is_refused() {
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
    fn naive(spec: &RingSpec, nodes: &[NodeSpec], key: &[u8]) -> usize {
        let mut points = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            for i in 0..node.weight().get() * spec.points_per_weight {
                let point = top(spec.label_hash, spec.label.of(node.name(), i).as_bytes());
                points.push((point, node.name(), NodeIndex::new(index as u16)));
            }
        }
        points.sort();
        points.dedup_by_key(|point| point.0);
        let points: Vec<_> = points
            .into_iter()
            .map(|(point, _, index)| (point, index))
            .collect();
        scan(&points, spec.direction, top(spec.key_hash, key)).get()
    }

    fn scan(points: &[(u64, NodeIndex)], direction: Direction, place: u64) -> NodeIndex {
        let found = match direction {
            Direction::AtOrAfter => points
                .iter()
                .find(|(point, _)| *point >= place)
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
