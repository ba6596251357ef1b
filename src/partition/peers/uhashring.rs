//! PyPI's `uhashring`.

use std::sync::Arc;

use super::super::catalogue::{OptionInfo, OptionValues, PartitionerInfo};
use super::super::living::place_over_living;
use super::super::ring::POINTS_PER_WEIGHT_MAX;
use super::super::{
    Direction, OutNodes, Partitioner, Placement, PlacementError, Ring, RingSpec, Ties, check_names,
    check_total,
};
use super::{in_bounds, integer_labels, place_words, words};
use crate::hash::{HashTag, KeyHash, md5_words};
use crate::partition::NodeSpec;

/// The placement of PyPI's `uhashring`: [`new`](Self::new) without a `hash_fn`, [`ketama`](Self::ketama) with
/// `hash_fn='ketama'`.
///
/// - **Equals**: uhashring 2.5. Not recorded: `hash_fn` with a function of the user's own, which is left out.
/// - **Nodes**: the name as it was given.
/// - **Weights**: [`new`](Self::new) that many times the points; [`ketama`](Self::ketama) relative, rounded down.
/// - **Tag**: none.
/// - **Skew**: for eight nodes the largest has on average 1.11 times its share, at worst 1.21.
/// - **While nodes are out**: as after `remove_node` of these nodes: the ring is that of the others. uhashring itself takes
///   none out.
/// - **Undefined in the original**: nothing. Of equal points the last node has it, and a key at the place of a point belongs to
///   the point after it. Without `hash_fn` digests of 128 bits are compared; here their first 64 bits, of which no two
///   points and keys are known to be equal without being the same.
/// - **Source**: `uhashring/ring.py`, `ring_ketama.py`, `ring_meta.py` (2.5). Which node has a point on which two fall is
///   read, not recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uhashring {
    points: Points,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Points {
    Md5 { per_weight: u32 },
    Ketama,
}

impl Uhashring {
    /// `HashRing(nodes)`: 160 points per unit of weight, the whole MD5 of each label.
    pub const fn new() -> Self {
        Self {
            points: Points::Md5 { per_weight: 160 },
        }
    }

    /// `HashRing(nodes, vnodes=...)`: that many points per unit of weight, from 1 to 1024.
    pub const fn with_points(points: u32) -> Self {
        Self {
            points: Points::Md5 { per_weight: points },
        }
    }

    /// `HashRing(nodes, hash_fn='ketama')`: 40 labels for a node of average weight, with four points each.
    pub const fn ketama() -> Self {
        Self {
            points: Points::Ketama,
        }
    }

    pub(in super::super) const ENTRY: PartitionerInfo = PartitionerInfo {
        name: "uhashring/1",
        summary: "uhashring by default: MD5 ring over names",
        options: &[OptionInfo {
            name: "points",
            meaning: "vnodes, how many points a node has per unit of weight",
            default: Some("160"),
            values: OptionValues::Number {
                min: 1,
                max: POINTS_PER_WEIGHT_MAX as u64,
            },
        }],
        make: |given| Ok(Arc::new(Self::with_points(given.number("points")?))),
    };

    pub(in super::super) const KETAMA: PartitionerInfo = PartitionerInfo {
        name: "uhashring-ketama/1",
        summary: "uhashring with hash_fn='ketama': ketama ring over names",
        options: &[],
        make: |_| Ok(Arc::new(Self::ketama())),
    };
}

impl Default for Uhashring {
    /// [`Uhashring::new`]: the ring without a `hash_fn`.
    fn default() -> Self {
        Self::new()
    }
}

impl Partitioner for Uhashring {
    fn name(&self) -> &str {
        match self.points {
            Points::Md5 { .. } => Self::ENTRY.name,
            Points::Ketama => Self::KETAMA.name,
        }
    }

    fn options(&self) -> Vec<(String, String)> {
        match self.points {
            Points::Md5 { per_weight } => words([("points", &per_weight.to_string())]),
            Points::Ketama => Vec::new(),
        }
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        let spec = RingSpec::new().with_direction(Direction::After);
        match self.points {
            Points::Md5 { per_weight } => {
                in_bounds("points", per_weight, 1, POINTS_PER_WEIGHT_MAX)?;
                let spec = spec
                    .with_points_per_weight(per_weight)
                    .with_label_hash(KeyHash::Md5Wide)
                    .with_key_hash(KeyHash::Md5Wide)
                    .with_ties(Ties::LastNode);
                Ring::with_spec(spec).place(nodes)
            }
            Points::Ketama => {
                check_names(nodes)?;
                check_total(nodes, u32::MAX)?;
                let spec = spec.with_key_hash(KeyHash::Md5);
                place_words(&spec, integer_labels(nodes), md5_words, POINTS_PER_LABEL)
            }
        }
    }

    fn place_without(
        &self,
        nodes: &[NodeSpec],
        out: &OutNodes,
    ) -> Result<Option<Box<dyn Placement>>, PlacementError> {
        match self.points {
            // The points of a node do not depend on the others: the next point of a living node says the same.
            Points::Md5 { .. } => Ok(None),
            Points::Ketama => place_over_living(self, nodes, out),
        }
    }

    fn hash_tag(&self) -> HashTag {
        HashTag::None
    }
}

const POINTS_PER_LABEL: usize = 4;
