//! Where keys go whose owner is out: what the rules have in common.

use xxhash_rust::xxh3::xxh3_64;

use super::mix::{GOLDEN, mix};
use super::{
    NodeId, NodeIndex, NodeSpec, OutNodes, Partitioner, Placement, PlacementError, indexed,
};

/// How often a number is hashed again before a rule gives up.
///
/// When half of the shares are out, one key in 2^64 gets that far; when 99 of 100 are, every second key does.
pub(super) const ROUNDS: u64 = 64;

/// The numbers that stand for `number`, one after the other, until one of them belongs to a living node: the
/// outputs of SplitMix64 with this seed.
pub(super) fn rehashed(number: u64) -> impl Iterator<Item = u64> {
    (1..=ROUNDS).map(move |round| mix(number.wrapping_add(round.wrapping_mul(GOLDEN))))
}

/// The living node with the highest random weight for a key: the largest `mix(XXH3(key) xor id)`. No two
/// weights are equal, because `mix` is a bijection and no two nodes of a topology have one id.
pub(crate) fn highest_random_weight(
    key: &[u8],
    living: &[(NodeId, NodeIndex)],
) -> Option<NodeIndex> {
    let hash = xxh3_64(key);
    let highest = living.iter().max_by_key(|(id, _)| mix(hash ^ id.as_u64()));
    highest.map(|&(_, index)| index)
}

/// Places keys by `rule` over the nodes that are not out, as if there were no others. `None` if all are out.
pub(super) fn place_over_living(
    rule: &dyn Partitioner,
    nodes: &[NodeSpec],
    out: &OutNodes,
) -> Result<Option<Box<dyn Placement>>, PlacementError> {
    let living = indexed(nodes).filter(|(index, _)| !out.contains(*index));
    let (indices, living): (Vec<_>, Vec<_>) =
        living.map(|(index, node)| (index, node.clone())).unzip();
    if living.is_empty() {
        return Ok(None);
    }
    Ok(Some(Box::new(OverLiving {
        placement: rule.place(&living)?,
        indices: indices.into(),
    })))
}

/// A placement over some of the nodes.
#[derive(Debug)]
struct OverLiving {
    placement: Box<dyn Placement>,
    /// The index among all nodes, for each index of the placement.
    indices: Box<[NodeIndex]>,
}

impl Placement for OverLiving {
    fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        let living = self.placement.locate(key)?;
        self.indices.get(living.get()).copied()
    }
}
