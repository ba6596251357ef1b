//! Hash modulo nodes.

use std::sync::Arc;

use super::catalogue::{Entry, EntryOption};
use super::{Partitioner, Placement, PlacementError, check_nodes, indexed};
use crate::hash::KeyHash;
use crate::node::{NodeIndex, NodeSpec};

/// The simplest rule: the hash of the key modulo the number of nodes.
///
/// The position of a node in the list is its identity here: put the nodes in another order and nearly every key is
/// looked for elsewhere. Add a node and nearly every key moves too, so this is for sets of nodes that stay (many small
/// nodes from the first day, "presharding") or for agreement with others who do the same. A node of weight *w* stands
/// in the list *w* times in a row.
///
/// Where a node's *name* should count, take [`Rendezvous`](super::Rendezvous).
///
/// ```
/// use redis_sharding::hash::KeyHash;
/// use redis_sharding::partition::{HashMod, Partitioner};
/// use redis_sharding::NodeSpec;
///
/// // The classic of redis.io: crc32(key) modulo the number of nodes.
/// let nodes = ["10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:6379", "10.0.0.4:6379"].map(NodeSpec::unnamed);
/// let placement = HashMod::new(KeyHash::Crc32).place(&nodes)?;
/// let owner = placement.locate(b"foobar").expect("hash-mod owns every key");
/// assert_eq!(owner.get() as u32, 0x9ef61f95 % 4);
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
#[derive(Clone, Debug)]
pub struct HashMod {
    key_hash: KeyHash,
}

impl HashMod {
    /// This hash of the key, modulo the nodes.
    pub const fn new(key_hash: KeyHash) -> Self {
        Self { key_hash }
    }

    pub(super) const ENTRY: Entry = Entry {
        name: "hash-mod/1",
        summary: "hash of the key modulo the nodes, in the order in which they are given",
        options: &[EntryOption::hash("key-hash", "the hash of the keys", None)],
        make: |given| Ok(Arc::new(Self::new(given.hash("key-hash")?))),
    };
}

impl Partitioner for HashMod {
    fn name(&self) -> &str {
        "hash-mod/1"
    }

    fn options(&self) -> Vec<(String, String)> {
        vec![("key-hash".into(), self.key_hash.to_string())]
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_nodes(nodes)?;
        let entries = |(index, node): (_, &NodeSpec)| {
            std::iter::repeat_n(index, node.weight().get() as usize)
        };
        Ok(Box::new(Placed {
            hash: self.key_hash.function(),
            owners: indexed(nodes).flat_map(entries).collect(),
        }))
    }
}

#[derive(Debug)]
struct Placed {
    hash: fn(&[u8]) -> u64,
    /// Every node as often as it weighs; never empty.
    owners: Box<[NodeIndex]>,
}

impl Placement for Placed {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        let entry = (self.hash)(key).checked_rem(self.owners.len() as u64)?;
        self.owners.get(entry as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{nodes, weighted};
    use super::*;

    proptest! {
        #[test]
        fn matches_naive(
            hash in prop::sample::select(KeyHash::ALL),
            count in 1..40_usize,
            key in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let placement = HashMod::new(hash).place(&nodes(count)).unwrap();
            prop_assert_eq!(placement.locate(&key).unwrap().get() as u64, hash.hash(&key) % count as u64);
        }
    }

    #[test]
    fn a_node_of_weight_two_stands_twice_in_the_list() {
        let placement = HashMod::new(KeyHash::Crc32)
            .place(&weighted(&[1, 2, 1]))
            .unwrap();
        for i in 0..1000_u32 {
            let key = i.to_le_bytes();
            let expected = [0, 1, 1, 2][KeyHash::Crc32.hash(&key) as usize % 4];
            assert_eq!(placement.locate(&key).unwrap().get(), expected);
        }
    }
}
