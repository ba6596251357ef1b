//! A topology of which some nodes are out.

use crate::partition::{
    NodeId, NodeIndex, NodeSpec, OutNodes, Partitioner, Placement, PlacementError,
    highest_random_weight,
};

/// Which nodes live, and where the keys go. At least one node is out, and at least one lives.
pub(super) struct Living {
    out: OutNodes,
    /// In node order.
    nodes: Box<[(NodeId, NodeIndex)]>,
    /// For a rule that places keys anew over the living nodes.
    rebuilt: Option<Box<dyn Placement>>,
}

impl Living {
    /// `None` if no node lives: then none counts as out.
    pub(super) fn new(
        nodes: &[NodeSpec],
        partitioner: &dyn Partitioner,
        out: OutNodes,
    ) -> Result<Option<Self>, PlacementError> {
        let indexed = (0..).map(NodeIndex::new).zip(nodes);
        let living = indexed.filter(|(index, _)| !out.contains(*index));
        let living: Box<_> = living.map(|(index, node)| (node.id(), index)).collect();
        if living.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            rebuilt: partitioner.place_without(nodes, &out)?,
            nodes: living,
            out,
        }))
    }

    pub(super) fn out(&self) -> &OutNodes {
        &self.out
    }

    /// The living nodes, in node order.
    pub(super) fn nodes(&self) -> &[(NodeId, NodeIndex)] {
        &self.nodes
    }

    /// The owner of what the tag rule left of a key. `placement` is that over all `nodes`.
    #[cold]
    pub(super) fn locate(
        &self,
        placement: &dyn Placement,
        nodes: usize,
        key: &[u8],
    ) -> Option<NodeIndex> {
        // A rule of the application may answer anything.
        let lives = |owner: &NodeIndex| owner.get() < nodes && !self.out.contains(*owner);
        let found = match &self.rebuilt {
            Some(rebuilt) => Some(rebuilt.locate(key)?).filter(lives),
            None => {
                let owner = placement.locate(key).filter(|owner| owner.get() < nodes)?;
                if lives(&owner) {
                    return Some(owner);
                }
                placement.locate_without(key, &self.out).filter(lives)
            }
        };
        found.or_else(|| highest_random_weight(key, &self.nodes))
    }
}
