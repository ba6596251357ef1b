//! A node of one topology, as a handle keeps it.

use std::sync::Arc;

use super::Topology;
use crate::partition::{NodeId, NodeIndex, NodeSpec};

/// One node of one snapshot. It owns the snapshot, so that a handle can lend the node's name and address even
/// if the client has a newer topology by now; there the node is found again by its identity.
#[derive(Clone, Debug)]
pub(crate) struct NodeRef {
    /// The snapshot in which `index` is valid.
    topology: Arc<Topology>,
    /// Index in `topology`.
    index: NodeIndex,
}

impl NodeRef {
    /// Returns the node at `index` of this topology.
    pub(crate) fn new(topology: Arc<Topology>, index: NodeIndex) -> Self {
        Self { topology, index }
    }

    /// The topology in which the handle was made.
    pub(crate) fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Returns the index in its own snapshot.
    pub(crate) fn index(&self) -> NodeIndex {
        self.index
    }

    /// Returns its name, address and weight.
    pub(crate) fn spec(&self) -> &NodeSpec {
        self.topology.node(self.index)
    }

    /// Returns its identity, which is the same in all epochs.
    pub(crate) fn id(&self) -> NodeId {
        self.spec().id()
    }

    /// Returns the index of this node in `topology`, or `None` if it is not in it.
    #[inline]
    pub(crate) fn index_in(&self, topology: &Arc<Topology>) -> Option<NodeIndex> {
        // The usual case, without a search: the topology has not changed since the handle was made.
        match Arc::ptr_eq(&self.topology, topology) {
            true => Some(self.index),
            // A node may have another index there, or be gone.
            false => topology.index_of_id(self.id()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::Rendezvous;

    fn topology(names: &[&str]) -> Arc<Topology> {
        let node = |name: &&str| NodeSpec::new(*name, format!("{name}:6379"));
        let nodes = names.iter().map(node).collect();
        Arc::new(Topology::new(nodes, Arc::new(Rendezvous::default())).unwrap())
    }

    #[test]
    fn node_ref_finds_its_node_by_id_after_the_list_of_nodes_changed() {
        let before = topology(&["a", "b", "c"]);
        let b = NodeRef::new(Arc::clone(&before), before.index_of("b").unwrap());
        for (names, expected) in [
            (&["a", "b", "c"][..], Some(1)),
            (&["x", "a", "b", "c"], Some(2)),
            (&["b", "c"], Some(0)),
            (&["c", "a", "b"], Some(2)),
            (&["a", "c"], None),
            (&["a", "x", "c"], None),
        ] {
            let found = b.index_in(&topology(names)).map(NodeIndex::get);
            assert_eq!(found, expected, "{names:?}");
        }
        assert_eq!(b.index_in(&before), Some(b.index()));
    }
}
