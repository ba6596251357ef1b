//! A function as a partitioner.

use std::fmt;
use std::sync::Arc;

use super::{Partitioner, Placement, PlacementError, check_nodes};
use crate::partition::{NodeIndex, NodeSpec};

/// A partitioner from a function of the key and the nodes, for experiments and tests.
///
/// The function answers with a position in the nodes; a position that does not exist leaves the key without
/// an owner. It must be pure. `name` goes into fingerprints: change it whenever the function's answers
/// change. Weights are the function's own business.
///
/// ```
/// use redis_sharding::partition::{from_fn, Partitioner};
/// use redis_sharding::NodeSpec;
///
/// let by_length = from_fn("by-length/1", |key, nodes| key.len() % nodes.len());
/// let placement = by_length.place(&[NodeSpec::unnamed("a:1"), NodeSpec::unnamed("b:1")])?;
/// assert_eq!(placement.locate(b"odd").map(|node| node.get()), Some(1));
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
pub fn from_fn<F>(name: impl Into<String>, rule: F) -> FromFn
where
    F: Fn(&[u8], &[NodeSpec]) -> usize + Send + Sync + 'static,
{
    FromFn {
        name: name.into(),
        rule: Arc::new(rule),
    }
}

/// A partitioner made by [`from_fn`].
#[derive(Clone)]
pub struct FromFn {
    name: String,
    rule: Arc<Rule>,
}

type Rule = dyn Fn(&[u8], &[NodeSpec]) -> usize + Send + Sync;

impl Partitioner for FromFn {
    fn name(&self) -> &str {
        &self.name
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_nodes(nodes)?;
        Ok(Box::new(Placed {
            rule: self.clone(),
            nodes: nodes.into(),
        }))
    }
}

impl fmt::Debug for FromFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FromFn").field(&self.name).finish()
    }
}

#[derive(Debug)]
struct Placed {
    rule: FromFn,
    nodes: Box<[NodeSpec]>,
}

impl Placement for Placed {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        let position = (self.rule.rule)(key, &self.nodes);
        // There are at most `NODES_MAX` nodes, so a valid position fits.
        (position < self.nodes.len()).then(|| NodeIndex::new(position as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::nodes;
    use super::*;

    #[test]
    fn from_fn_result_beyond_the_nodes_is_no_owner() {
        let length = from_fn("length/1", |key, _| key.len());
        let placement = length.place(&nodes(2)).unwrap();
        assert_eq!(placement.locate(b"a"), Some(NodeIndex::new(1)));
        assert_eq!(placement.locate(b"ab"), None);
        let huge = from_fn("huge/1", |_, _| 65_536).place(&nodes(2)).unwrap();
        assert_eq!(huge.locate(b"a"), None);
    }
}
