//! The nodes of handles that outlive a snapshot: nodes, dedicated connections, scans.

use std::sync::Arc;

use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::refusal::{keys_moved, node_left, node_moved};
use crate::plan::{KeyCheck, Router};
use crate::topology::NodeRef;

impl Router {
    /// A reference to a node that outlives this snapshot, for a handle.
    pub(crate) fn node_ref(&self, node: NodeIndex) -> NodeRef {
        NodeRef::new(Arc::clone(self.topology()), node)
    }

    /// The index in this snapshot of the node of a handle, which may come from an older one.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](crate::ErrorKind::Unroutable) when the node has left the topology.
    #[inline]
    pub(crate) fn locate_node(&self, node: &NodeRef) -> Result<NodeIndex, Error> {
        node.index_in(self.topology())
            .ok_or_else(|| node_left(node.spec().name()))
    }

    /// The index in this snapshot of the node of a dedicated connection, which was opened for `keys`.
    ///
    /// # Errors
    ///
    /// When the node has left the topology, when `is_same_server` is false for its index: the node is reached
    /// otherwise now, and when keys have moved: a watched key may have changed elsewhere. In a cluster only the slot of
    /// the connection's keys matters, and not even that for a connection that `relies_on_server`.
    pub(crate) fn locate_dedicated(
        &self,
        node: &NodeRef,
        (keys, relies_on_server): (&KeyCheck, bool),
        is_same_server: impl FnOnce(NodeIndex) -> bool,
    ) -> Result<NodeIndex, Error> {
        let name = node.spec().name();
        let index = node.index_in(self.topology());
        let Some(index) = index.filter(|&index| is_same_server(index)) else {
            return Err(node_moved(name));
        };
        let have_moved = match (keys, self.topology().cluster()) {
            (KeyCheck::None, _) => false,
            (KeyCheck::Together(_), Some(_)) if relies_on_server => false,
            (KeyCheck::Together(first), Some(map)) => map.target(map.slot(first)) != Some(index),
            _ => !node.topology().places_like(self.topology()),
        };
        match have_moved {
            true => Err(keys_moved(name)),
            false => Ok(index),
        }
    }
}
