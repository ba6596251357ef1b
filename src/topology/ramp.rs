//! Nodes that have come back get their keys share by share.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::partition::{NodeId, NodeIndex, OutNodes, Placement, highest_random_weight};
use crate::policy::RAMP_STEPS;

/// The nodes that have come back and do not own all of their keys yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RampingNodes {
    /// In node order, with the share of its keys that each owns, in parts of [`RAMP_STEPS`].
    shares: Vec<(NodeIndex, u8)>,
}

impl RampingNodes {
    /// Nodes with their shares.
    pub(crate) fn new(shares: impl IntoIterator<Item = (NodeIndex, u8)>) -> Self {
        let mut shares: Vec<_> = shares.into_iter().collect();
        shares.sort_unstable();
        Self { shares }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// True if this node owns all of its keys but this one and others. The same for every client, and a key that the
    /// node owns with one share it owns with all larger ones.
    fn holds_back(&self, node: NodeIndex, id: impl FnOnce() -> Option<NodeId>, key: &[u8]) -> bool {
        let Some(&(_, share)) = self.shares.iter().find(|(ramping, _)| *ramping == node) else {
            return false;
        };
        let seed = id().map_or(0, NodeId::as_u64);
        xxh3_64_with_seed(key, seed) % u64::from(RAMP_STEPS) >= u64::from(share)
    }
}

/// Where the keys stay that ramping nodes do not own yet: where they were while these nodes were out.
#[derive(Debug)]
pub(super) struct Ramp {
    nodes: RampingNodes,
    /// The nodes that are out, and those that are ramping.
    out: OutNodes,
    /// All others. At least one.
    others: Box<[(NodeId, NodeIndex)]>,
}

impl Ramp {
    pub(super) fn new(
        nodes: RampingNodes,
        out: &OutNodes,
        living: &[(NodeId, NodeIndex)],
    ) -> Option<Self> {
        let ramping = nodes.shares.iter().map(|(node, _)| *node);
        let out: OutNodes = out.iter().chain(ramping).collect();
        let others = living.iter().filter(|(_, node)| !out.contains(*node));
        let others: Box<_> = others.copied().collect();
        (!nodes.is_empty() && !others.is_empty()).then_some(Self { nodes, out, others })
    }

    /// The ramping nodes.
    pub(super) fn nodes(&self) -> &RampingNodes {
        &self.nodes
    }

    /// The owner of a key that belongs to `owner` once that has all of its keys.
    pub(super) fn owner(
        &self,
        placement: &dyn Placement,
        key: &[u8],
        owner: NodeIndex,
        id: impl FnOnce() -> Option<NodeId>,
    ) -> NodeIndex {
        if !self.nodes.holds_back(owner, id, key) {
            return owner;
        }
        let other = placement.locate_without(key, &self.out);
        let is_other = |other: &NodeIndex| self.others.iter().any(|(_, node)| node == other);
        other
            .filter(is_other)
            .or_else(|| highest_random_weight(key, &self.others))
            .unwrap_or(owner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::partition::{HashMod, NodeSpec, Partitioner, Rendezvous, Ring, peers};
    use crate::topology::Topology;

    const NODES: u16 = 5;
    const RETURNED: NodeIndex = NodeIndex::new(2);

    fn topology(partitioner: impl Partitioner + 'static) -> Topology {
        let names = (0..NODES).map(|number| format!("10.0.0.{number}:6379"));
        let nodes = names.map(NodeSpec::unnamed).collect();
        Topology::new(nodes, Arc::new(partitioner)).unwrap()
    }

    fn owners(topology: &Topology) -> Vec<NodeIndex> {
        let keys = (0..4000).map(|number| format!("key:{number}"));
        keys.map(|key| topology.locate(key.as_bytes()).unwrap())
            .collect()
    }

    #[test]
    fn ramping_node_gets_its_keys_back_share_by_share_from_where_they_were() {
        let topologies = [
            topology(Rendezvous::new()),
            topology(Ring::new()),
            topology(HashMod::new(crate::hash::KeyHash::Xxh3)),
        ];
        for all in topologies {
            for still_out in [None, Some(NodeIndex::new(4))] {
                let both: OutNodes = still_out.into_iter().chain([RETURNED]).collect();
                let rest: OutNodes = still_out.into_iter().collect();
                let before = owners(&all.without(&both).unwrap());
                let after = owners(&all.without(&rest).unwrap());
                let moving = before.iter().zip(&after).filter(|(a, b)| a != b).count();
                assert!(moving > 200, "{moving}");
                let mut last = before.clone();
                for share in 1..RAMP_STEPS {
                    let ramping = RampingNodes::new([(RETURNED, share)]);
                    let now = owners(&all.without_ramping(&rest, ramping).unwrap());
                    for key in 0..now.len() {
                        // Each key moves once.
                        assert!(now[key] == before[key] || now[key] == after[key]);
                        assert!(last[key] == before[key] || now[key] == after[key]);
                    }
                    let moved = now.iter().zip(&before).filter(|(a, b)| a != b).count();
                    let expected = moving * usize::from(share) / usize::from(RAMP_STEPS);
                    assert!(moved.abs_diff(expected) < moving / 5, "{moved} {expected}");
                    last = now;
                }
            }
        }
    }

    #[test]
    fn ramping_node_has_all_of_its_keys_where_the_continuum_is_rebuilt_or_no_other_node_is_in() {
        let ramping = || RampingNodes::new([(RETURNED, 1)]);
        let rebuilt = topology(peers::Twemproxy::ketama());
        let ramp = rebuilt
            .without_ramping(&OutNodes::none(), ramping())
            .unwrap();
        assert_eq!(owners(&ramp), owners(&rebuilt));
        let all = topology(Ring::new());
        let rest = all.indices().filter(|node| *node != RETURNED).collect();
        let alone = all.without_ramping(&rest, ramping()).unwrap();
        assert!(owners(&alone).iter().all(|owner| *owner == RETURNED));
    }
}
