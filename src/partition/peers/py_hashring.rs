//! PyPI's `hashring`.

use std::sync::Arc;

use super::super::catalogue::PartitionerInfo;
use super::super::living::place_over_living;
use super::super::{
    Direction, OutNodes, Partitioner, Placement, PlacementError, RingSpec, check_names, check_total,
};
use super::{integer_labels, place_words};
use crate::hash::{HashTag, KeyHash, md5_words};
use crate::partition::NodeSpec;

/// The placement of PyPI's `hashring`: a ketama ring of 40 labels for a node of average weight, with three points each.
///
/// - **Equals**: hashring 1.5.1, the port of `hash_ring` 1.3.1 to Python 3.
/// - **Nodes**: the string as it was given.
/// - **Weights**: relative, rounded down; a node can end up without a point.
/// - **Tag**: none.
/// - **Skew**: for eight nodes the largest has on average 1.12 times its share, at worst 1.22.
/// - **While nodes are out**: as a ring of the other nodes. hashring itself takes none out.
/// - **Undefined in the original**: nothing. Of equal points the last node has it, and a key at the place of a point belongs to
///   the point after it.
/// - **Source**: `hashring/hashring.py` (1.5.1). Which node has a point on which two fall is read, not recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PyHashring(());

impl PyHashring {
    /// `HashRing(nodes)` or `HashRing(nodes, weights)`.
    pub const fn new() -> Self {
        Self(())
    }

    pub(in super::super) const ENTRY: PartitionerInfo = PartitionerInfo {
        name: "pyhashring/1",
        summary: "PyPI hashring: ketama ring of three points a label",
        options: &[],
        make: |_| Ok(Arc::new(Self::new())),
    };
}

impl Partitioner for PyHashring {
    fn name(&self) -> &str {
        Self::ENTRY.name
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_names(nodes)?;
        check_total(nodes, u32::MAX)?;
        let spec = RingSpec::new()
            .with_key_hash(KeyHash::Md5)
            .with_direction(Direction::After);
        place_words(&spec, integer_labels(nodes), md5_words, POINTS_PER_LABEL)
    }

    fn place_without(
        &self,
        nodes: &[NodeSpec],
        out: &OutNodes,
    ) -> Result<Option<Box<dyn Placement>>, PlacementError> {
        place_over_living(self, nodes, out)
    }

    fn hash_tag(&self) -> HashTag {
        HashTag::None
    }
}

const POINTS_PER_LABEL: usize = 3;
