//! All that can differ between rings.

use std::fmt::Write as _;

use super::super::catalogue::GivenOptions;
use super::super::{EmptyKey, NodeText, PlacementError, indexed, sorted_by_name};
use crate::hash::{KeyHash, md5_words, named};
use crate::partition::{NodeIndex, NodeSpec};

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
    pub(super) points_per_weight: u32,
    pub(super) shares: Shares,
    pub(super) node_text: NodeText,
    label: PointLabel,
    label_hash: LabelHash,
    pub(super) key_hash: KeyHash,
    pub(super) empty_key: EmptyKey,
    pub(super) direction: Direction,
    ties: Ties,
}

impl RingSpec {
    /// The crate's own ring: 160 points per unit of weight at the XXH3 of `name-i`, keys by XXH3, first point
    /// at or after the key.
    pub const fn new() -> Self {
        Self {
            points_per_weight: 160,
            shares: Shares::ByWeight,
            node_text: NodeText::Name,
            label: PointLabel::NameDashIndex,
            label_hash: LabelHash::One(KeyHash::Xxh3),
            key_hash: KeyHash::Xxh3,
            empty_key: EmptyKey::Hashed,
            direction: Direction::AtOrAfter,
            ties: Ties::FirstName,
        }
    }

    /// Number of points of a node per unit of weight, from 1 to 1024. Defaults to 160.
    ///
    /// Where [`Shares`] makes the weights relative, how many a node of average weight has.
    #[must_use]
    pub const fn with_points_per_weight(mut self, points: u32) -> Self {
        self.points_per_weight = points;
        self
    }

    /// How weights become numbers of points. Defaults to [`Shares::ByWeight`].
    #[must_use]
    pub const fn with_shares(mut self, shares: Shares) -> Self {
        self.shares = shares;
        self
    }

    /// Sets the text that stands for a node in a label. Defaults to [`NodeText::Name`].
    #[must_use]
    pub const fn with_node_text(mut self, text: NodeText) -> Self {
        self.node_text = text;
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
    /// Labels differ in one digit, so take CRC and FNV only for agreement with others: CRC32 gives the
    /// largest of 16 nodes 1.36 times its share, where XXH3 gives 1.13 times.
    #[must_use]
    pub const fn with_label_hash(mut self, hash: KeyHash) -> Self {
        self.label_hash = LabelHash::One(hash);
        self
    }

    /// Four points per label, as in ketama: the little-endian words of its MD5. The number of points is
    /// rounded down to a multiple of four.
    #[must_use]
    pub const fn with_md5_words(mut self) -> Self {
        self.label_hash = LabelHash::Md5Words;
        self
    }

    /// The hash of the keys. Defaults to [`KeyHash::Xxh3`].
    #[must_use]
    pub const fn with_key_hash(mut self, hash: KeyHash) -> Self {
        self.key_hash = hash;
        self
    }

    /// The number of a key without bytes. Defaults to [`EmptyKey::Hashed`].
    #[must_use]
    pub const fn with_empty_key(mut self, empty_key: EmptyKey) -> Self {
        self.empty_key = empty_key;
        self
    }

    /// Where a key looks for its point. Defaults to [`Direction::AtOrAfter`].
    #[must_use]
    pub const fn with_direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// Which node has a place on which points of several nodes fall. Defaults to [`Ties::FirstName`].
    #[must_use]
    pub const fn with_ties(mut self, ties: Ties) -> Self {
        self.ties = ties;
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
    /// How the weight of a node becomes a number of points.
    pub enum Shares {
        /// This number of points per unit of weight.
        ByWeight = "by-weight",
        /// An equal number for all nodes: weights other than one are refused.
        Alike = "alike",
        /// By the node's part of all weight, in 32-bit floating point, rounded down, as in libmemcached and
        /// twemproxy. Where a label gives four points, the number of labels is rounded.
        ///
        /// The weight of one node changes the number of points of all. Rounding errors cost equal nodes a
        /// label each at some numbers of nodes, such as 25, 47 and 50.
        RelativeF32 = "relative-f32",
        /// By the node's part of all weight, in 64-bit floating point, rounded down, as in Predis'
        /// `KetamaRing`. Equal nodes lose a label each at other numbers of nodes, such as 49, 98 and 103.
        RelativeF64 = "relative-f64",
        /// By the node's part of all weight, in 64-bit floating point, rounded to the nearest, halves up, as
        /// in Predis' `HashRing`.
        RelativeF64Rounded = "relative-f64-rounded",
    }
}

named! {
    /// The bytes whose hash is a point of a node: what [stands for the node](NodeText) and the index of the
    /// label, from zero, in decimal digits.
    pub enum PointLabel {
        /// `0name`, as in go-redis up to v7.
        IndexName = "index-name",
        /// `name:0`, as in redis-rb and Predis.
        NameColonIndex = "name-colon-index",
        /// `name-0`, as in ketama.
        NameDashIndex = "name-dash-index",
        /// `name*0`, as in Jedis from 2.10. A node without a name of its own has
        /// [`ShardNode`](Self::ShardNode).
        NameStarIndex = "name-star-index",
        /// `name*10`, the weight followed by the index, as in Jedis before 2.10. A node without a name of its
        /// own has [`ShardNode`](Self::ShardNode).
        NameStarWeightIndex = "name-star-weight-index",
        /// `SHARD-0-NODE-0`, the position of the node and the index, as in Jedis: no name counts.
        ShardNode = "shard-node",
    }
}

named! {
    /// Which point owns a key. The circle has no end: past the last point comes the first.
    pub enum Direction {
        /// The first point at or after the key, as in ketama.
        AtOrAfter = "at-or-after",
        /// The last point at or before the key, as in redis-rb and Predis.
        AtOrBefore = "at-or-before",
        /// The first point after the key, as in uhashring: a point at the place of the key is passed over.
        After = "after",
    }
}

named! {
    /// Which node has a place on which points of several nodes fall.
    pub enum Ties {
        /// The one whose name sorts first, as bytes. Does not depend on the order of the nodes.
        FirstName = "first-name",
        /// The first one in the order given.
        FirstNode = "first-node",
        /// The last one in the order given.
        LastNode = "last-node",
        /// The one whose [text](NodeText) is shortest, and of these the one that sorts first, as in
        /// twemproxy.
        ShortestText = "shortest-text",
    }
}

/// The points that a label becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LabelHash {
    /// One point.
    One(KeyHash),
    /// Four points, the words of its MD5.
    Md5Words,
}

impl LabelHash {
    const fn name(self) -> &'static str {
        match self {
            Self::One(hash) => hash.name(),
            Self::Md5Words => "md5-words",
        }
    }

    const fn points(self) -> u32 {
        match self {
            Self::One(_) => 1,
            Self::Md5Words => 4,
        }
    }
}

/// The names of all label hashes.
pub(super) const LABEL_HASHES: &[&str] = &{
    let mut names = ["md5-words"; KeyHash::NAMES.len() + 1];
    let mut i = 0;
    while i < KeyHash::NAMES.len() {
        names[i] = KeyHash::NAMES[i];
        i += 1;
    }
    names
};

impl RingSpec {
    pub(super) fn options(&self) -> Vec<(String, String)> {
        let points = self.points_per_weight.to_string();
        let words = [
            ("points-per-weight", &*points),
            ("shares", self.shares.name()),
            ("node-text", self.node_text.name()),
            ("label", self.label.name()),
            ("label-hash", self.label_hash.name()),
            ("key-hash", self.key_hash.name()),
            ("empty-key", self.empty_key.name()),
            ("direction", self.direction.name()),
            ("ties", self.ties.name()),
        ];
        words
            .map(|(option, value)| (option.to_owned(), value.to_owned()))
            .into()
    }

    /// Reads what [`options`](Self::options) writes.
    pub(super) fn from_given(given: &GivenOptions<'_>) -> Result<Self, PlacementError> {
        let label_hash = |name: &str| match name {
            "md5-words" => Some(LabelHash::Md5Words),
            _ => KeyHash::from_name(name).map(LabelHash::One),
        };
        Ok(Self {
            points_per_weight: given.number("points-per-weight")?,
            shares: given.read("shares", Shares::from_name)?,
            node_text: given.read("node-text", NodeText::from_name)?,
            label: given.read("label", PointLabel::from_name)?,
            label_hash: given.read("label-hash", label_hash)?,
            key_hash: given.hash("key-hash")?,
            empty_key: given.read("empty-key", EmptyKey::from_name)?,
            direction: given.read("direction", Direction::from_name)?,
            ties: given.read("ties", Ties::from_name)?,
        })
    }

    /// Every point with its owner, sorted. Of equal points the first one counts.
    pub(super) fn points(&self, nodes: &[NodeSpec]) -> Vec<(u64, NodeIndex)> {
        let total = nodes
            .iter()
            .map(|node| u64::from(node.weight().get()))
            .sum();
        let mut points = Vec::new();
        let mut label = String::new();
        for (index, node) in self.first_to_last(nodes) {
            let text = self.node_text.of(node);
            for i in 0..self.labels(node, total, nodes.len()) {
                label.clear();
                self.label.write(&mut label, &text, node, index, i);
                match self.label_hash {
                    LabelHash::One(hash) => points.push((top(hash, label.as_bytes()), index)),
                    LabelHash::Md5Words => {
                        let words = md5_words(label.as_bytes());
                        points.extend(words.map(|word| (u64::from(word) << 32, index)));
                    }
                }
            }
        }
        // Stable: equal points stay in the order of their nodes.
        points.sort_by_key(|&(point, _)| point);
        points
    }

    /// The nodes in such an order that of equal points the first one counts.
    fn first_to_last<'n>(&self, nodes: &'n [NodeSpec]) -> Vec<(NodeIndex, &'n NodeSpec)> {
        match self.ties {
            Ties::FirstName => sorted_by_name(nodes),
            Ties::FirstNode => indexed(nodes).collect(),
            Ties::LastNode => {
                let mut nodes: Vec<_> = indexed(nodes).collect();
                nodes.reverse();
                nodes
            }
            Ties::ShortestText => self.node_text.shortest_first(nodes),
        }
    }

    /// Number of labels of a node; each gives one point or four. The order of the floating-point operations
    /// is the peer's.
    fn labels(&self, node: &NodeSpec, total: u64, nodes: usize) -> u32 {
        let (points, points_per_label) = (self.points_per_weight, self.label_hash.points());
        let weight = node.weight().get();
        match self.shares {
            Shares::ByWeight => weight * points / points_per_label,
            Shares::Alike => points / points_per_label,
            Shares::RelativeF32 => {
                let part = weight as f32 / total as f32;
                let labels = part * points as f32 / points_per_label as f32;
                (labels * nodes as f32) as u32
            }
            Shares::RelativeF64 => {
                let part = f64::from(weight) / total as f64;
                (part * nodes as f64 * (f64::from(points) / f64::from(points_per_label))) as u32
            }
            Shares::RelativeF64Rounded => {
                let part = f64::from(weight) / total as f64;
                (part * nodes as f64 * (f64::from(points) / f64::from(points_per_label))).round()
                    as u32
            }
        }
    }
}

impl PointLabel {
    fn write(self, label: &mut String, text: &str, node: &NodeSpec, index: NodeIndex, i: u32) {
        // Writing to a string does not fail.
        let _ = match self {
            Self::IndexName => write!(label, "{i}{text}"),
            Self::NameColonIndex => write!(label, "{text}:{i}"),
            Self::NameDashIndex => write!(label, "{text}-{i}"),
            Self::NameStarIndex if node.is_named() => write!(label, "{text}*{i}"),
            Self::NameStarWeightIndex if node.is_named() => {
                write!(label, "{text}*{}{i}", node.weight())
            }
            Self::NameStarIndex | Self::NameStarWeightIndex | Self::ShardNode => {
                write!(label, "SHARD-{}-NODE-{i}", index.get())
            }
        };
    }
}

/// The place of these bytes on the circle of 64 bits.
pub(super) fn top(hash: KeyHash, bytes: &[u8]) -> u64 {
    hash.hash(bytes) << (64 - hash.bits())
}
