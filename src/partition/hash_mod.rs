//! Hash modulo nodes.

use std::sync::Arc;

use super::catalogue::{OptionInfo, OptionValues, PartitionerInfo};
use super::living::rehashed;
use super::{
    EmptyKey, KeyNumber, NodeText, OutNodes, Partitioner, Placement, PlacementError, check_nodes,
    indexed,
};
use crate::hash::{KeyHash, named};
use crate::partition::{NodeIndex, NodeSpec};

/// The simplest rule: the hash of the key modulo the number of nodes.
///
/// The position of a node in the list is its identity here: put the nodes in another order and nearly every
/// key is looked for elsewhere. Add a node and nearly every key moves too, so this is for sets of nodes that
/// stay (many small nodes from the first day, "presharding") or for agreement with others who do the same. A
/// node of weight *w* stands in the list *w* times in a row.
///
/// While nodes are [out](OutNodes), only their own keys move: the hash *h* of such a key is replaced by
/// `mix(h + r * 0x9e3779b97f4a7c15)` (wrapping, `mix` as in [`Rendezvous`](super::Rendezvous)) for *r* = 1, 2,
/// ... up to 64, until that belongs to a living node. So the keys go to all living nodes by their weights.
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
    empty_key: EmptyKey,
    reduction: Reduction,
    order: NodeOrder,
}

impl HashMod {
    /// This hash of the key, modulo the nodes.
    pub const fn new(key_hash: KeyHash) -> Self {
        Self {
            key_hash,
            empty_key: EmptyKey::Hashed,
            reduction: Reduction::Modulo,
            order: NodeOrder::Given,
        }
    }

    /// The number of a key without bytes. Defaults to [`EmptyKey::Hashed`].
    #[must_use]
    pub const fn with_empty_key(mut self, empty_key: EmptyKey) -> Self {
        self.empty_key = empty_key;
        self
    }

    /// How the hash becomes a position in the list of nodes. Defaults to [`Reduction::Modulo`].
    #[must_use]
    pub const fn with_reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// The order of the nodes in the list. Defaults to [`NodeOrder::Given`].
    #[must_use]
    pub const fn with_order(mut self, order: NodeOrder) -> Self {
        self.order = order;
        self
    }

    pub(super) const ENTRY: PartitionerInfo = PartitionerInfo {
        name: "hash-mod/1",
        summary: "hash of the key modulo the nodes, in the order in which they are given",
        options: &[
            OptionInfo::hash("key-hash", "the hash of the keys", None),
            OptionInfo {
                name: "empty-key",
                meaning: "the number of a key without bytes",
                default: Some("hashed"),
                values: OptionValues::OneOf(EmptyKey::NAMES),
            },
            OptionInfo {
                name: "reduction",
                meaning: "how the hash becomes a position in the list of nodes",
                default: Some("modulo"),
                values: OptionValues::OneOf(Reduction::NAMES),
            },
            OptionInfo {
                name: "order",
                meaning: "the order of the nodes in the list",
                default: Some("given"),
                values: OptionValues::OneOf(NodeOrder::NAMES),
            },
        ],
        make: |given| {
            Ok(Arc::new(Self {
                key_hash: given.hash("key-hash")?,
                empty_key: given.read("empty-key", EmptyKey::from_name)?,
                reduction: given.read("reduction", Reduction::from_name)?,
                order: given.read("order", NodeOrder::from_name)?,
            }))
        },
    };
}

named! {
    /// How a hash becomes a position in a list.
    pub enum Reduction {
        /// The remainder of a division by the length of the list.
        Modulo = "modulo",
        /// The list cuts the 32-bit numbers into equal ranges, and the hash is inverted, as in phpredis: *(h
        /// xor 0xFFFFFFFF) n / 0xFFFFFFFF*, rounded down. For h = 0 that is *n*, one too many; here the last
        /// position is taken then. Made for 32-bit hashes: of wider ones the lower half counts.
        InvertedRange = "inverted-range",
    }
}

named! {
    /// The order of the nodes in a list.
    pub enum NodeOrder {
        /// As they are given.
        Given = "given",
        /// By their [text](super::NodeText::Twemproxy) in twemproxy, shorter ones first, then by bytes.
        Twemproxy = "twemproxy",
    }
}

impl Partitioner for HashMod {
    fn name(&self) -> &str {
        "hash-mod/1"
    }

    fn options(&self) -> Vec<(String, String)> {
        let words = [
            ("key-hash", self.key_hash.name()),
            ("empty-key", self.empty_key.name()),
            ("reduction", self.reduction.name()),
            ("order", self.order.name()),
        ];
        words
            .map(|(option, value)| (option.to_owned(), value.to_owned()))
            .into()
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_nodes(nodes)?;
        let nodes: Vec<_> = match self.order {
            NodeOrder::Given => indexed(nodes).collect(),
            NodeOrder::Twemproxy => {
                NodeText::Twemproxy.check(nodes)?;
                NodeText::Twemproxy.shortest_first(nodes)
            }
        };
        let entries = |(index, node): (_, &NodeSpec)| {
            std::iter::repeat_n(index, node.weight().get() as usize)
        };
        Ok(Box::new(Placed {
            number: KeyNumber::new(self.key_hash, self.empty_key),
            reduction: self.reduction,
            owners: nodes.into_iter().flat_map(entries).collect(),
        }))
    }
}

#[derive(Debug)]
struct Placed {
    number: KeyNumber,
    reduction: Reduction,
    /// Every node as often as it weighs; never empty.
    owners: Box<[NodeIndex]>,
}

impl Placement for Placed {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        self.owner(self.number.of(key))
    }

    fn locate_without(&self, key: &[u8], out: &OutNodes) -> Option<NodeIndex> {
        let number = self.number.of(key);
        let mut owners = std::iter::once(number).chain(rehashed(number));
        owners.find_map(|number| self.owner(number).filter(|owner| !out.contains(*owner)))
    }
}

impl Placed {
    #[inline]
    fn owner(&self, number: u64) -> Option<NodeIndex> {
        let length = self.owners.len() as u64;
        let position = match self.reduction {
            Reduction::Modulo => number.checked_rem(length)?,
            Reduction::InvertedRange => {
                let range = u64::from(!(number as u32)) * length / 0xffff_ffff;
                range.min(length - 1)
            }
        };
        self.owners.get(position as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{nodes, out, splitmix, weighted};
    use super::*;

    proptest! {
        #[test]
        fn hash_mod_owner_is_the_hash_modulo_the_nodes(
            hash in prop::sample::select(KeyHash::ALL),
            count in 1..40_usize,
            key in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let placement = HashMod::new(hash).place(&nodes(count)).unwrap();
            prop_assert_eq!(placement.locate(&key).unwrap().get() as u64, hash.hash(&key) % count as u64);
        }
    }

    #[test]
    fn hash_mod_hashes_again_until_a_node_lives() {
        let nodes = weighted(&[1, 2, 3, 1]);
        let entries = [0, 1, 1, 2, 2, 2, 3];
        for (hash, reduction) in [
            (KeyHash::Crc16, Reduction::Modulo),
            (KeyHash::Xxh3, Reduction::Modulo),
            (KeyHash::Crc32, Reduction::InvertedRange),
        ] {
            let placement = HashMod::new(hash)
                .with_reduction(reduction)
                .place(&nodes)
                .unwrap();
            for bits in 0..15 {
                let out = out(&nodes, bits);
                for i in 0..200_u32 {
                    let key = i.to_le_bytes();
                    let number = hash.hash(&key);
                    let mut numbers = vec![number];
                    numbers.extend((1..=64).map(|round| splitmix(number, round)));
                    let owners = numbers.into_iter().map(|number| match reduction {
                        Reduction::Modulo => entries[(number % 7) as usize],
                        Reduction::InvertedRange => {
                            let inverted = 0xffff_ffff - (number & 0xffff_ffff);
                            entries[(inverted * 7 / 0xffff_ffff).min(6) as usize]
                        }
                    });
                    let mut owners = owners.map(NodeIndex::new);
                    let expected = owners.find(|owner| !out.contains(*owner));
                    assert_eq!(placement.locate_without(&key, &out), expected);
                }
            }
        }
    }

    #[test]
    fn hash_mod_gives_up_after_64_numbers_of_nodes_that_are_out() {
        let nodes = weighted(&[4000, 1]);
        let placement = HashMod::new(KeyHash::Xxh3).place(&nodes).unwrap();
        let out = [NodeIndex::new(0)].into_iter().collect();
        let found =
            (0..2000_u32).filter(|i| placement.locate_without(&i.to_le_bytes(), &out).is_some());
        // 65 numbers of 4001 possible ones: 1.6 % of the keys.
        assert!((10..70).contains(&found.count()));
    }

    #[test]
    fn hash_mod_counts_a_node_of_weight_two_twice() {
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
