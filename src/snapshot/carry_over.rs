//! The connections to nodes that stay, from one snapshot to the next.

use std::sync::Arc;

use crate::endpoint::Endpoint;

/// The connections to one node, which are of use for as long as it is reached by this endpoint.
pub(crate) trait OfEndpoint {
    /// How the node is reached.
    fn endpoint(&self) -> &Arc<Endpoint>;

    /// Keeps no idle connections any more. What is in use is not disturbed.
    fn retire(&self);
}

/// The connections to the nodes with these endpoints, in their order: those of `former` to nodes that are reached as
/// before, and new ones to others. Those of nodes that have left are retired.
pub(crate) fn carry_over<C: OfEndpoint>(
    former: &[Arc<C>],
    endpoints: &[Arc<Endpoint>],
    open: impl Fn(&Arc<Endpoint>) -> C,
) -> Arc<[Arc<C>]> {
    let node = |(index, endpoint): (usize, &Arc<Endpoint>)| {
        let is_of = |node: &&Arc<C>| Arc::ptr_eq(node.endpoint(), endpoint);
        // Most nodes keep their index.
        let same = former.get(index).filter(is_of);
        match same.or_else(|| former.iter().find(is_of)) {
            Some(node) => Arc::clone(node),
            None => Arc::new(open(endpoint)),
        }
    };
    let nodes: Arc<[Arc<C>]> = endpoints.iter().enumerate().map(node).collect();
    for (index, node) in former.iter().enumerate() {
        let is_same = |other: &Arc<C>| Arc::ptr_eq(other, node);
        if !nodes.get(index).is_some_and(is_same) && !nodes.iter().any(is_same) {
            node.retire();
        }
    }
    nodes
}
