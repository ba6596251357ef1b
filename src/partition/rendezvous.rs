//! Rendezvous hashing over a fixed number of slots.

use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::catalogue::{OptionInfo, OptionValues, PartitionerInfo};
use super::mix::{GOLDEN, mix};
use super::{OutNodes, Partitioner, Placement, PlacementError, check_nodes, sorted_by_name};
use crate::partition::{NodeIndex, NodeSpec};

/// Rendezvous hashing, or highest random weight: the default.
///
/// Nodes are told apart by name; their order does not matter. A node that comes takes its share evenly from
/// all others, a node that goes leaves its keys evenly to all others, and no other key moves.
///
/// The keys are divided into a fixed number of slots, and every slot is won by the node with the highest
/// score for it. The slots are decided once, when the nodes change, so a key costs one hash and one load
/// however many nodes there are. The function, frozen as `rendezvous/1`, with wrapping 64-bit arithmetic
/// throughout:
///
/// - `mix(z)` is the finalizer of SplitMix64: `z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9`, `z = (z ^ z >> 27) *
///   0x94d049bb133111eb`, `z ^ z >> 31`.
/// - The slot of a key is the top `slot_bits` bits of its XXH3 (64 bits, seed 0).
/// - A node of weight *w* draws *w* scores for slot *s*: `mix(mix((s + 1) * 0x9e3779b97f4a7c15) ^ seed)`,
///   where `seed` is the XXH3 of its name with the seeds 0, 1, ..., *w* - 1. Its highest score counts.
/// - The highest score owns the slot; of equal scores, the name that sorts first, as bytes.
/// - While nodes are [out](OutNodes), the highest score of the living nodes owns the slot: each key is where it
///   would be if the nodes that are out did not exist.
///
/// The shares of the nodes are even up to chance: with 65536 slots a share deviates by about √(*n* / 65536)
/// of itself, so 1.6 % with 16 nodes and 4.4 % with 128. Beyond a total weight of a few hundred, more
/// [slots](Self::with_slot_bits) make the shares more even.
///
/// D. G. Thaler and C. V. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
/// Transactions on Networking 6 (1998). Slots decided by rendezvous: Apache Ignite's
/// `RendezvousAffinityFunction`. SplitMix64: G. L. Steele, D. Lea and C. H. Flood, "Fast splittable
/// pseudorandom number generators", OOPSLA 2014, in the variant 13 of D. Stafford.
///
/// ```
/// use redis_sharding::partition::{Partitioner, Rendezvous};
/// use redis_sharding::NodeSpec;
///
/// let [a, b, c] = ["a", "b", "c"].map(|name| NodeSpec::new(name, format!("{name}.example:6379")));
/// let three = Rendezvous::new().place(&[a.clone(), b.clone(), c])?;
/// let two = Rendezvous::new().place(&[a, b])?;
/// let (before, after) = (three.locate(b"user:1"), two.locate(b"user:1"));
/// // Either the key was on `c`, or it has not moved.
/// assert!(before.is_some_and(|node| node.get() == 2) || before == after);
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rendezvous {
    slot_bits: u32,
}

impl Rendezvous {
    /// Rendezvous hashing with the default number of slots.
    pub const fn new() -> Self {
        Self { slot_bits: 16 }
    }

    /// Divides the keys into 2^`bits` slots, from 2^4 to 2^20. Defaults to 16, which are 65536 slots and 128
    /// KiB.
    ///
    /// It belongs to the placement for ever: with another number of slots nearly every key moves. A total
    /// weight of *n* asks for 512 *n* slots, which keeps the deviation of a share below 4.5 %. Building a
    /// placement takes about a nanosecond per slot and unit of weight: 1 ms for 16 nodes, 8 ms for 128.
    #[must_use]
    pub const fn with_slot_bits(mut self, bits: u32) -> Self {
        self.slot_bits = bits;
        self
    }

    pub(super) const ENTRY: PartitionerInfo = PartitionerInfo {
        name: "rendezvous/1",
        summary: "the node with the highest score for the key's slot; the default",
        options: &[OptionInfo {
            name: "slot-bits",
            meaning: "the keys are divided into two to the power of this many slots",
            default: Some("16"),
            values: OptionValues::Number {
                min: SLOT_BITS_MIN as u64,
                max: SLOT_BITS_MAX as u64,
            },
        }],
        make: |given| {
            let bits = given.number("slot-bits")?;
            Ok(Arc::new(Self::new().with_slot_bits(bits)))
        },
    };
}

impl Default for Rendezvous {
    /// [`Rendezvous::new`]: 65536 slots.
    fn default() -> Self {
        Self::new()
    }
}

impl Partitioner for Rendezvous {
    fn name(&self) -> &str {
        "rendezvous/1"
    }

    fn options(&self) -> Vec<(String, String)> {
        vec![("slot-bits".into(), self.slot_bits.to_string())]
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        check_nodes(nodes)?;
        if !(SLOT_BITS_MIN..=SLOT_BITS_MAX).contains(&self.slot_bits) {
            return Err(PlacementError::OptionOutOfBounds {
                option: "slot-bits",
                value: self.slot_bits.into(),
                min: SLOT_BITS_MIN.into(),
                max: SLOT_BITS_MAX.into(),
            });
        }
        let entries = entries(nodes);
        let owners = (0..1_u64 << self.slot_bits)
            .map(|slot| winner(slot, entries.iter().copied()))
            .collect::<Option<_>>();
        let owners = owners.ok_or(PlacementError::NoNodes)?;
        Ok(Box::new(Placed {
            shift: 64 - self.slot_bits,
            owners,
            entries: entries.into(),
        }))
    }
}

#[derive(Debug)]
struct Placed {
    shift: u32,
    /// One owner per slot.
    owners: Box<[NodeIndex]>,
    /// What the slots were decided by, for those whose owner is out.
    entries: Box<[(u64, NodeIndex)]>,
}

impl Placement for Placed {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        self.owners
            .get((xxh3_64(key) >> self.shift) as usize)
            .copied()
    }

    fn locate_without(&self, key: &[u8], out: &OutNodes) -> Option<NodeIndex> {
        let living = self.entries.iter().filter(|(_, node)| !out.contains(*node));
        winner(xxh3_64(key) >> self.shift, living.copied())
    }
}

/// Every node as often as it weighs, each time with another seed, in the order of the names.
fn entries(nodes: &[NodeSpec]) -> Vec<(u64, NodeIndex)> {
    let mut entries = Vec::new();
    for (index, node) in sorted_by_name(nodes) {
        let seeds = 0..u64::from(node.weight().get());
        entries.extend(seeds.map(|seed| (xxh3_64_with_seed(node.name().as_bytes(), seed), index)));
    }
    entries
}

#[inline]
fn winner(slot: u64, mut entries: impl Iterator<Item = (u64, NodeIndex)>) -> Option<NodeIndex> {
    let slot_seed = mix((slot + 1).wrapping_mul(GOLDEN));
    let (seed, first) = entries.next()?;
    let mut best = (mix(slot_seed ^ seed), first);
    for (seed, index) in entries {
        let score = mix(slot_seed ^ seed);
        // Strictly greater: of equal scores the first name keeps the slot.
        if score > best.0 {
            best = (score, index);
        }
    }
    Some(best.1)
}

const SLOT_BITS_MIN: u32 = 4;
const SLOT_BITS_MAX: u32 = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{living, nodes, out, owners, weighted};
    use super::*;

    /// Fewer slots, so that placements are quick to build.
    const SMALL: Rendezvous = Rendezvous::new().with_slot_bits(10);

    #[test]
    fn rendezvous_shares_follow_the_weights() {
        let nodes = weighted(&[1, 2, 4, 1]);
        let placement = Rendezvous::new().place(&nodes).unwrap();
        let mut shares = [0_u32; 4];
        for key in 0..80_000_u32 {
            shares[placement.locate(&key.to_le_bytes()).unwrap().get()] += 1;
        }
        for (share, expected) in shares.into_iter().zip([10_000_u32, 20_000, 40_000, 10_000]) {
            assert!(share.abs_diff(expected) < expected / 20, "{shares:?}");
        }
    }

    #[test]
    fn rendezvous_slot_bits_out_of_bounds_are_refused() {
        for bits in [0, 3, 21, 64, u32::MAX] {
            let refusal = Rendezvous::new()
                .with_slot_bits(bits)
                .place(&nodes(2))
                .unwrap_err();
            assert_eq!(
                refusal.to_string(),
                format!("slot-bits is {bits}, but must be in 4..=20")
            );
        }
    }

    proptest! {
        #[test]
        fn rendezvous_owner_matches_a_naive_search(
            weights in prop::collection::vec(1..4_u32, 1..12),
            key in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let nodes = weighted(&weights);
            let placement = SMALL.place(&nodes).unwrap();
            prop_assert_eq!(placement.locate(&key).unwrap().get(), naive(10, &nodes, &key));
        }

        #[test]
        fn rendezvous_owner_with_nodes_out_is_that_of_a_naive_search_among_the_living(
            weights in prop::collection::vec(1..4_u32, 1..12),
            bits in any::<u32>(),
            keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 20),
        ) {
            let nodes = weighted(&weights);
            let out = out(&nodes, bits);
            let (indices, living) = living(&nodes, &out);
            let (placement, without) = (SMALL.place(&nodes).unwrap(), SMALL.place(&living).unwrap());
            for key in keys {
                let owner = placement.locate_without(&key, &out).unwrap().get();
                prop_assert_eq!(owner, indices[naive(10, &living, &key)]);
                prop_assert_eq!(owner, indices[without.locate(&key).unwrap().get()]);
            }
        }

        #[test]
        fn rendezvous_moves_keys_only_to_an_added_node(weights in prop::collection::vec(1..4_u32, 2..12), added in 0..12_usize) {
            let after = weighted(&weights);
            let mut before = after.clone();
            let added = before.remove(added % before.len());
            for (old, new) in owners(&SMALL, &before, 500).into_iter().zip(owners(&SMALL, &after, 500)) {
                prop_assert!(old == new || new == added.name(), "{} to {}", old, new);
            }
        }

        #[test]
        fn rendezvous_moves_keys_only_to_a_node_whose_weight_grows(weights in prop::collection::vec(1..4_u32, 2..12), grown in 0..12_usize) {
            let grown = grown % weights.len();
            let mut heavier = weights.clone();
            heavier[grown] += 2;
            let (before, after) = (owners(&SMALL, &weighted(&weights), 500), owners(&SMALL, &weighted(&heavier), 500));
            for (old, new) in before.into_iter().zip(after) {
                prop_assert!(old == new || new == format!("node-{grown}"), "{} to {}", old, new);
            }
        }

        #[test]
        fn rendezvous_does_not_depend_on_the_order_of_nodes(
            (nodes, shuffled) in prop::collection::vec(1..4_u32, 1..12)
                .prop_map(|weights| weighted(&weights))
                .prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle())),
        ) {
            prop_assert_eq!(owners(&SMALL, &nodes, 200), owners(&SMALL, &shuffled, 200));
        }
    }

    /// The definition, word for word.
    fn naive(slot_bits: u32, nodes: &[NodeSpec], key: &[u8]) -> usize {
        let slot = xxh3_64(key) >> (64 - slot_bits);
        let slot_seed = mix((slot + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let score = |node: &NodeSpec| {
            let scores = (0..u64::from(node.weight().get()))
                .map(|seed| mix(slot_seed ^ xxh3_64_with_seed(node.name().as_bytes(), seed)));
            scores.max().unwrap()
        };
        let best = nodes.iter().map(score).max().unwrap();
        let winners = (0..nodes.len()).filter(|&i| score(&nodes[i]) == best);
        winners.min_by_key(|&i| nodes[i].name()).unwrap()
    }
}
