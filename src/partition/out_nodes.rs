//! Which nodes of a topology are out.

use std::fmt;

use super::NodeIndex;

/// The nodes of one topology that are out: they own no keys for now, although they are in its list.
///
/// A set, which is never changed. The owner of a key depends on the key and on this set, and not on when or in
/// which order the nodes went out; see [`Topology::without`](crate::Topology::without).
///
/// ```
/// use redis_sharding::NodeIndex;
/// use redis_sharding::partition::OutNodes;
///
/// let out: OutNodes = [7, 3].map(NodeIndex::new).into_iter().collect();
/// assert!(out.contains(NodeIndex::new(3)));
/// assert!(!out.contains(NodeIndex::new(4)));
/// assert_eq!(out, [3, 7, 7].map(NodeIndex::new).into_iter().collect());
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct OutNodes {
    /// A bit per node, in node order. The last word is not zero, so that equal sets are equal words.
    words: Vec<u64>,
    len: usize,
}

impl OutNodes {
    /// The empty set: no node is out.
    pub const fn none() -> Self {
        Self {
            words: Vec::new(),
            len: 0,
        }
    }

    /// Whether this node is out.
    #[inline]
    pub fn contains(&self, node: NodeIndex) -> bool {
        let word = self.words.get(node.get() / 64);
        word.is_some_and(|word| word >> (node.get() % 64) & 1 == 1)
    }

    /// Number of nodes that are out.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no node is out.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Iterates over the nodes that are out, in node order.
    pub fn iter(&self) -> impl Iterator<Item = NodeIndex> {
        (0..=u16::MAX)
            .step_by(64)
            .zip(&self.words)
            .flat_map(|(base, &word)| {
                let mut bits = word;
                std::iter::from_fn(move || {
                    let bit = bits.trailing_zeros() as u16;
                    // Takes the lowest bit away, and ends when there is none.
                    bits &= bits.checked_sub(1)?;
                    Some(NodeIndex::new(base + bit))
                })
            })
    }
}

impl FromIterator<NodeIndex> for OutNodes {
    fn from_iter<I: IntoIterator<Item = NodeIndex>>(nodes: I) -> Self {
        let mut words: Vec<u64> = Vec::new();
        for node in nodes {
            let word = node.get() / 64;
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << (node.get() % 64);
        }
        let ones = words.iter().map(|word| word.count_ones() as usize);
        Self {
            len: ones.sum(),
            words,
        }
    }
}

impl fmt::Debug for OutNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn out_nodes_are_a_set(
            given in prop::collection::vec(prop_oneof![0..200_u16, any::<u16>()], 0..40),
            asked in any::<u16>(),
        ) {
            let expected: BTreeSet<u16> = given.iter().copied().collect();
            let out: OutNodes = given.iter().copied().map(NodeIndex::new).collect();
            prop_assert_eq!(out.len(), expected.len());
            prop_assert_eq!(out.is_empty(), expected.is_empty());
            prop_assert_eq!(out.iter().map(NodeIndex::as_u16).collect::<Vec<_>>(), Vec::from_iter(expected.clone()));
            for node in given.into_iter().chain([asked]) {
                prop_assert_eq!(out.contains(NodeIndex::new(node)), expected.contains(&node));
            }
            let sorted: OutNodes = expected.into_iter().map(NodeIndex::new).collect();
            prop_assert_eq!(out, sorted);
        }
    }

    #[test]
    fn out_nodes_are_shown_as_their_positions() {
        let out: OutNodes = [65, 2].map(NodeIndex::new).into_iter().collect();
        assert_eq!(format!("{out:?}"), "{#2, #65}");
        assert_eq!(OutNodes::none().iter().count(), 0);
        let last: OutNodes = [NodeIndex::new(u16::MAX)].into_iter().collect();
        assert_eq!(format!("{last:?}"), "{#65535}");
    }
}
