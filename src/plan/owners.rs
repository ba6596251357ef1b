//! Which node owns which key of one request.

use crate::partition::NodeIndex;
use crate::plan::Part;

/// The owners of a request's keys.
pub(super) struct Owners {
    by_key: Vec<NodeIndex>,
    /// How many keys each node owns.
    counts: Vec<u32>,
}

impl Owners {
    /// For so many keys over so many nodes.
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

    /// The parts in node order.
    pub(super) fn parts(self) -> Vec<Part> {
        let mut parts = Vec::new();
        // From here on where a node's part is.
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
        for (key, owner) in (0..).zip(self.by_key) {
            parts[part_of[owner.get()] as usize].keys.push(key);
        }
        parts
    }
}
