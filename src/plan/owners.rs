//! Groups the keys of one request by the node that owns them or, in a Redis Cluster, by slot.
//!
//! ```text
//! keys 0 1 2 3 4, of the nodes b a b a b        in a cluster also of the slots 7 3 9 3 7
//!   a: 1 3 · b: 0 2 4                             a: 1 3 · b: 0 4 · b: 2
//!
//!   keys    1 3 0 2 4                             1 3 0 4 2
//!   ends    (a, 2) (b, 5)                         (a, 2) (b, 4) (b, 5)
//! ```
//!
//! This runs for every key of every split command, so there are two lists for all parts, not one for each.

use crate::partition::NodeIndex;
use crate::plan::{KeyLocation, Part};

/// The parts of a split command: groups of the numbers of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Numbers of all keys, part after part.
    keys: Vec<u32>,
    /// For each part, its node and where its keys end in `keys`.
    ends: Vec<(NodeIndex, u32)>,
}

impl Parts {
    /// Number of keys in all parts.
    pub(super) fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Iterates over the parts, in node order; the keys of each part are ascending.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = Part<'_>> {
        let mut start = 0;
        self.ends.iter().map(move |&(node, end)| {
            let keys = &self.keys[start..end as usize];
            start = end as usize;
            Part { node, keys }
        })
    }

    /// Part number `number`.
    pub(super) fn get(&self, number: usize) -> Option<Part<'_>> {
        let &(node, end) = self.ends.get(number)?;
        let start = match number.checked_sub(1) {
            Some(before) => self.ends[before].1,
            None => 0,
        };
        Some(Part {
            node,
            keys: &self.keys[start as usize..end as usize],
        })
    }
}

/// The locations of the keys of one request, in the order of the keys.
pub(super) enum Owners {
    /// Over plain nodes.
    Nodes {
        /// The owner of each key.
        by_key: Vec<NodeIndex>,
        /// Number of keys that each node owns, by node.
        counts: Vec<u32>,
    },
    /// In a cluster: node, slot and number of each key in one number, so that sorting groups them.
    Slots(Vec<u64>),
}

impl Owners {
    /// Reserves room for `keys` keys over `nodes` nodes, `in_cluster` or not.
    pub(super) fn new(in_cluster: bool, nodes: usize, keys: usize) -> Self {
        match in_cluster {
            true => Self::Slots(Vec::with_capacity(keys)),
            false => Self::Nodes {
                by_key: Vec::with_capacity(keys),
                counts: vec![0; nodes],
            },
        }
    }

    /// Adds the location of the next key.
    #[inline]
    pub(super) fn push(&mut self, location: KeyLocation) {
        match self {
            Self::Nodes { by_key, counts } => {
                by_key.push(location.node);
                counts[location.node.get()] += 1;
            }
            Self::Slots(keys) => {
                let slot = u64::from(location.slot.unwrap_or_default());
                let node = location.node.get() as u64;
                // A request has fewer arguments than 2^31, and there are fewer nodes and slots than 2^16.
                keys.push(node << 48 | slot << 32 | keys.len() as u64);
            }
        }
    }

    /// One part per node or slot that owns a key, in the order of the nodes, then of the slots; the keys of each part are
    /// ascending.
    pub(super) fn parts(self) -> Parts {
        match self {
            Self::Nodes { by_key, counts } => by_node(by_key, counts),
            Self::Slots(keys) => by_slot(keys),
        }
    }
}

/// Groups the keys by node. `counts` says how many keys each node owns.
fn by_node(by_key: Vec<NodeIndex>, counts: Vec<u32>) -> Parts {
    let mut ends = Vec::new();
    // The counts are overwritten with the place of each node's next key, which saves another list.
    let mut next = counts;
    let mut end = 0;
    for (node, count) in (0..).zip(&mut next) {
        if *count > 0 {
            let start = end;
            end += *count;
            *count = start;
            ends.push((NodeIndex::new(node), end));
        }
    }
    let mut keys = vec![0; by_key.len()];
    // In the order of the request, so the keys of each part are ascending.
    for (key, owner) in (0..).zip(by_key) {
        let place = &mut next[owner.get()];
        keys[*place as usize] = key;
        *place += 1;
    }
    Parts { keys, ends }
}

/// Groups the keys, each given with its node and slot, by both.
fn by_slot(mut sorted: Vec<u64>) -> Parts {
    sorted.sort_unstable();
    let mut keys = Vec::with_capacity(sorted.len());
    // Most parts have one key.
    let mut ends: Vec<(NodeIndex, u32)> = Vec::with_capacity(sorted.len());
    let mut before = None;
    for key in sorted {
        keys.push(key as u32);
        let end = keys.len() as u32;
        match ends.last_mut() {
            Some(last) if before == Some(key >> 32) => last.1 = end,
            _ => ends.push((NodeIndex::new((key >> 48) as u16), end)),
        }
        before = Some(key >> 32);
    }
    Parts { keys, ends }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of keys with these nodes and slots, as text.
    fn parts(in_cluster: bool, keys: &[(u16, u16)]) -> String {
        let mut owners = Owners::new(in_cluster, 3, keys.len());
        for &(node, slot) in keys {
            owners.push(KeyLocation {
                node: NodeIndex::new(node),
                slot: in_cluster.then_some(slot),
            });
        }
        let parts = owners.parts();
        assert_eq!(parts.key_count(), keys.len());
        for (number, part) in parts.iter().enumerate() {
            assert_eq!(parts.get(number), Some(part));
        }
        assert_eq!(parts.get(parts.iter().len()), None);
        let text = parts
            .iter()
            .map(|part| format!("{}{:?}", part.node.get(), part.keys));
        text.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn keys_are_grouped_by_node_and_in_a_cluster_by_slot() {
        let keys = [(2, 7), (0, 3), (2, 9), (0, 3), (2, 7)];
        assert_eq!(parts(false, &keys), "0[1, 3] 2[0, 2, 4]");
        assert_eq!(parts(true, &keys), "0[1, 3] 2[0, 4] 2[2]");
        // One slot number on two nodes does not occur, and would be two parts.
        assert_eq!(parts(true, &[(1, 16383), (0, 16383)]), "0[1] 1[0]");
        assert_eq!(parts(true, &[]), "");
    }
}
