//! Groups the keys of one request by the node that owns them.
//!
//! This runs for every key of every split command, so it allocates one vector per part and looks at each key
//! twice: once to count, once to place it.

use crate::partition::NodeIndex;
use crate::plan::Part;

/// The owners of the keys of one request, in the order of the keys.
pub(super) struct Owners {
    by_key: Vec<NodeIndex>,
    /// Number of keys that each node owns, by node.
    counts: Vec<u32>,
}

impl Owners {
    /// Reserves room for `keys` keys over `nodes` nodes.
    pub(super) fn new(nodes: usize, keys: usize) -> Self {
        Self {
            by_key: Vec::with_capacity(keys),
            counts: vec![0; nodes],
        }
    }

    /// Adds the owner of the next key.
    #[inline]
    pub(super) fn push(&mut self, owner: NodeIndex) {
        self.by_key.push(owner);
        self.counts[owner.get()] += 1;
    }

    /// One part per node that owns a key, in node order; the keys of each part are ascending.
    pub(super) fn parts(self) -> Vec<Part> {
        let mut parts = Vec::new();
        // The counts are overwritten with the index of each node's part, which saves a second vector.
        let mut part_of = self.counts;
        for (node, count) in (0..).zip(&mut part_of) {
            if *count > 0 {
                let keys = Vec::with_capacity(*count as usize);
                *count = parts.len() as u32;
                parts.push(Part {
                    node: NodeIndex::new(node),
                    keys,
                });
            }
        }
        // In the order of the request, so the keys of each part are ascending.
        for (key, owner) in (0..).zip(self.by_key) {
            parts[part_of[owner.get()] as usize].keys.push(key);
        }
        parts
    }
}
