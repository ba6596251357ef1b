//! From one slot map to the next with the fewest moves.

use std::cmp::Reverse;
use std::fmt;
use std::ops::RangeInclusive;

use super::super::line::Name;
use super::super::{PlacementError, check_nodes, positions};
use super::{SlotMap, Slots};
use crate::partition::{NodeIndex, NodeSpec};

/// A slot map for other nodes, and what has to move to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebalance {
    /// The explicit map once everything has moved.
    pub map: SlotMap,
    /// The slots that have to move, in slot order.
    pub moves: Vec<SlotMove>,
}

/// Neighbouring slots that go from one node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotMove {
    /// The first and the last slot.
    pub slots: RangeInclusive<u16>,
    /// The name of the node that owned them.
    pub from: String,
    /// The name of the node that will own them.
    pub to: String,
}

impl fmt::Display for SlotMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} -> {}",
            Slots(&self.slots),
            Name(&self.from),
            Name(&self.to)
        )
    }
}

impl SlotMap {
    /// Makes the map even over the nodes of `after`, by their weights, with as few slots as possible on the
    /// move.
    ///
    /// Nodes come, go and change their weight; they are told apart by name. A node that has too many slots
    /// gives up its last ones. The map itself does not change, nor does any key.
    ///
    /// # Errors
    ///
    /// When the map cannot be placed over `before`, or no map over `after`.
    pub fn rebalance(
        &self,
        before: &[NodeSpec],
        after: &[NodeSpec],
    ) -> Result<Rebalance, PlacementError> {
        let sources = self.owners(before)?;
        check_nodes(after)?;
        let positions = positions(after);
        let staying: Vec<Option<NodeIndex>> = before
            .iter()
            .map(|node| positions.get(node.name()).copied())
            .collect();

        let mut owned = vec![0; after.len()];
        for owner in sources.iter().filter_map(|source| staying[source.get()]) {
            owned[owner.get()] += 1;
        }
        let targets = assign(
            &sources,
            &staying,
            shares(self.numbering.slots(), after, &owned),
        );

        let name = |nodes: &[NodeSpec], index: NodeIndex| nodes[index.get()].name().to_owned();
        let mut moves: Vec<SlotMove> = Vec::new();
        for (slot, (&source, &target)) in (0..).zip(sources.iter().zip(&targets)) {
            let (from, to) = (name(before, source), name(after, target));
            match moves.last_mut() {
                _ if from == to => {}
                Some(last)
                    if last.slots.end() + 1 == slot && last.from == from && last.to == to =>
                {
                    last.slots = *last.slots.start()..=slot;
                }
                _ => moves.push(SlotMove {
                    slots: slot..=slot,
                    from,
                    to,
                }),
            }
        }
        Ok(Rebalance {
            map: self.with_owners(&targets, after),
            moves,
        })
    }
}

/// Number of slots that each node should own: by weight and largest remainder.
///
/// Of equal remainders, a node that `owned` the slot already gets the slot more, then the earlier one.
pub(super) fn shares(slots: u16, nodes: &[NodeSpec], owned: &[usize]) -> Vec<usize> {
    let total: u64 = nodes
        .iter()
        .map(|node| u64::from(node.weight().get()))
        .sum();
    let exact = |node: &NodeSpec| u64::from(slots) * u64::from(node.weight().get());
    let mut shares: Vec<usize> = nodes
        .iter()
        .map(|node| (exact(node) / total) as usize)
        .collect();

    let left = usize::from(slots) - shares.iter().sum::<usize>();
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|&i| Reverse((exact(&nodes[i]) % total, owned[i] > shares[i])));
    for &i in &order[..left] {
        shares[i] += 1;
    }
    shares
}

/// Every slot stays while its owner has a share left; the others go to whoever has, in node order.
fn assign(
    sources: &[NodeIndex],
    staying: &[Option<NodeIndex>],
    mut shares: Vec<usize>,
) -> Vec<NodeIndex> {
    let mut stay = |source: &NodeIndex| {
        let owner = staying[source.get()]?;
        let share = &mut shares[owner.get()];
        *share = share.checked_sub(1)?;
        Some(owner)
    };
    let kept: Vec<Option<NodeIndex>> = sources.iter().map(&mut stay).collect();
    let mut takers = (0..)
        .map(NodeIndex::new)
        .zip(shares)
        .flat_map(|(index, share)| std::iter::repeat_n(index, share));
    // The shares add up to the slots, so there is a taker for every slot that is free.
    kept.into_iter()
        .filter_map(|kept| kept.or_else(|| takers.next()))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::weighted;
    use super::*;
    use crate::hash::SLOTS;

    /// Number of slots that each node owns.
    fn counts(map: &SlotMap, nodes: &[NodeSpec]) -> Vec<usize> {
        let mut counts = vec![0; nodes.len()];
        for owner in map.owners(nodes).unwrap() {
            counts[owner.get()] += 1;
        }
        counts
    }

    #[test]
    fn slot_map_rebalance_spreads_the_slots_of_a_removed_node() {
        let before = weighted(&[1, 1, 1]);
        let away = SlotMap::even().rebalance(&before, &before[..2]).unwrap();
        assert_eq!(
            away.map.to_string(),
            "0-5461 node-0\n5462-10922 node-1\n10923-13652 node-0\n13653-16383 node-1\n"
        );
        let moves: Vec<_> = away.moves.iter().map(SlotMove::to_string).collect();
        assert_eq!(
            moves,
            [
                "10923-13652 node-2 -> node-0",
                "13653-16383 node-2 -> node-1"
            ]
        );
    }

    #[test]
    fn slot_map_rebalance_leaves_a_balanced_map_unchanged() {
        let nodes = weighted(&[1, 1, 1]);
        // The odd slot is not with the first node, and stays where it is.
        let map = SlotMap::from_ranges([
            (0..=5460, "node-0"),
            (5461..=10922, "node-1"),
            (10923..=16383, "node-2"),
        ]);
        let same = map.clone().unwrap().rebalance(&nodes, &nodes).unwrap();
        assert_eq!((same.map, same.moves), (map.unwrap(), vec![]));
    }

    proptest! {
        #[test]
        fn slot_map_rebalance_moves_only_the_surplus(
            weights in prop::collection::vec((0..4_u32, 0..4_u32), 1..12),
            wanted in prop::collection::vec((0..4_u32, 0..4_u32), 1..12),
        ) {
            // Weight zero: not there. Node 0 always is.
            let pick = |weights: &[u32]| {
                let all = weighted(&weights.iter().map(|&w| w.max(1)).collect::<Vec<_>>());
                let there = |(i, _): &(usize, NodeSpec)| *i == 0 || weights[*i] > 0;
                all.into_iter().enumerate().filter(there).map(|(_, node)| node).collect::<Vec<_>>()
            };
            let [first, second] = [pick(&weights.iter().map(|w| w.0).collect::<Vec<_>>()),
                pick(&weights.iter().map(|w| w.1).collect::<Vec<_>>())];
            let third = pick(&wanted.iter().map(|w| w.0).collect::<Vec<_>>());

            // A map that is not even any more, then once again.
            let start = SlotMap::even().rebalance(&first, &second).unwrap().map;
            let next = start.rebalance(&second, &third).unwrap();

            // It is balanced: no share is a whole slot away from the exact one.
            let total: u32 = third.iter().map(|node| node.weight().get()).sum();
            let after = counts(&next.map, &third);
            for (node, &count) in third.iter().zip(&after) {
                let exact = f64::from(SLOTS) * f64::from(node.weight().get()) / f64::from(total);
                prop_assert!((count as f64 - exact).abs() < 1.0, "{} owns {}", node.name(), count);
            }

            // The moves lead from the one map to the other, and every slot moves at most once.
            let mut names: Vec<String> =
                start.owners(&second).unwrap().iter().map(|i| second[i.get()].name().to_owned()).collect();
            let mut moved = 0;
            for step in &next.moves {
                for slot in step.slots.clone() {
                    prop_assert_eq!(&names[usize::from(slot)], &step.from);
                    names[usize::from(slot)].clone_from(&step.to);
                    moved += 1;
                }
            }
            let owners = next.map.owners(&third).unwrap();
            let expected: Vec<_> = owners.iter().map(|i| third[i.get()].name().to_owned()).collect();
            prop_assert_eq!(names, expected);

            // No fewer could do: nodes only lose what they have too much of.
            let before = counts(&start, &second);
            let surplus = second.iter().zip(before).map(|(node, count)| {
                let target = third.iter().position(|other| other.name() == node.name()).map_or(0, |i| after[i]);
                count.saturating_sub(target)
            });
            prop_assert_eq!(moved, surplus.sum::<usize>());
        }
    }
}
