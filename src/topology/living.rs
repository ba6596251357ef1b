//! A topology of which some nodes are out.

use std::sync::Arc;

use crate::partition::{
    NodeId, NodeIndex, NodeSpec, OutNodes, Partitioner, Placement, PlacementError,
    highest_random_weight,
};
use crate::topology::ramp::{Ramp, RampingNodes};

/// The nodes of a topology that are not out, to choose one or go from one to the next. It outlives the topology;
/// copying it costs next to nothing.
#[derive(Clone, Debug)]
pub(crate) struct LivingNodes {
    /// Number of living nodes.
    len: usize,
    /// `None` if no node is out.
    living: Option<Arc<Living>>,
}

impl LivingNodes {
    /// No nodes.
    pub(crate) const fn none() -> Self {
        Self {
            len: 0,
            living: None,
        }
    }

    pub(super) fn new(nodes: usize, living: Option<Arc<Living>>) -> Self {
        Self {
            len: living.as_ref().map_or(nodes, |living| living.nodes.len()),
            living,
        }
    }

    /// Number of these nodes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The node with this number in node order, counted around: there is one for every number, unless there are no
    /// nodes.
    pub(crate) fn nth(&self, number: usize) -> Option<NodeIndex> {
        let number = number.checked_rem(self.len)?;
        match &self.living {
            // A topology has at most `NODES_MAX` nodes.
            None => u16::try_from(number).ok().map(NodeIndex::new),
            Some(living) => living.nodes.get(number).map(|&(_, index)| index),
        }
    }

    /// The node after `node` in node order, or the first one after the last. `node` itself may be out.
    pub(crate) fn after(&self, node: NodeIndex) -> Option<NodeIndex> {
        let before = match &self.living {
            None => node.get() + 1,
            Some(living) => living.nodes.partition_point(|&(_, index)| index <= node),
        };
        self.nth(before)
    }
}

/// Which nodes live, and where the keys go. At least one node is out or ramping, and at least one lives.
#[derive(Debug)]
pub(super) struct Living {
    out: OutNodes,
    ramp: Option<Ramp>,
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
        ramping: RampingNodes,
    ) -> Result<Option<Self>, PlacementError> {
        let indexed = (0..).map(NodeIndex::new).zip(nodes);
        let living = indexed.filter(|(index, _)| !out.contains(*index));
        let living: Box<_> = living.map(|(index, node)| (node.id(), index)).collect();
        if living.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            ramp: Ramp::new(ramping, &out, &living),
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
                match lives(&owner) {
                    true => Some(owner),
                    false => placement.locate_without(key, &self.out).filter(lives),
                }
            }
        };
        let owner = found.or_else(|| highest_random_weight(key, &self.nodes))?;
        match &self.ramp {
            Some(ramp) if self.rebuilt.is_none() => {
                Some(ramp.owner(placement, key, owner, || self.id(owner)))
            }
            _ => Some(owner),
        }
    }

    fn id(&self, node: NodeIndex) -> Option<NodeId> {
        let at = self.nodes.binary_search_by_key(&node, |(_, index)| *index);
        at.ok().map(|at| self.nodes[at].0)
    }

    pub(super) fn ramping(&self) -> RampingNodes {
        let ramp = self.ramp.as_ref();
        ramp.map_or_else(RampingNodes::default, |ramp| ramp.nodes().clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::partition::Rendezvous;
    use crate::topology::Topology;

    proptest! {
        #[test]
        fn living_nodes_go_around_in_node_order(count in 1..70_u16, bits in any::<u128>()) {
            let nodes = (0..count).map(|i| NodeSpec::unnamed(format!("{i}:1"))).collect();
            let rule = Rendezvous::new().with_slot_bits(4);
            let all = Topology::new(nodes, Arc::new(rule)).unwrap();
            let is_out = |i: u16| bits >> i & 1 == 1;
            let out: OutNodes = (0..count).filter(|i| is_out(*i)).map(NodeIndex::new).collect();
            let topology = all.without(&out).unwrap();
            // If all are out, none is.
            let is_out = |i: u16| out.len() < usize::from(count) && is_out(i);
            let expected: Vec<_> = (0..count).filter(|i| !is_out(*i)).map(NodeIndex::new).collect();
            prop_assert_eq!(topology.living().collect::<Vec<_>>(), expected.clone());
            let living = topology.living_nodes();
            prop_assert_eq!(living.len(), expected.len());
            for (number, node) in expected.iter().enumerate() {
                prop_assert_eq!(living.nth(number), Some(*node));
                prop_assert_eq!(living.nth(number + expected.len()), Some(*node));
            }
            for node in all.indices() {
                let later = expected.iter().copied().find(|living| *living > node);
                prop_assert_eq!(topology.next_living(Some(node)), later);
                prop_assert_eq!(living.after(node), later.or(expected.first().copied()));
            }
            prop_assert_eq!(topology.next_living(None), expected.first().copied());
            prop_assert_eq!(LivingNodes::none().nth(0), None);
        }
    }
}
