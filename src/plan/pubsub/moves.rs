//! Where the subscriptions of a subscriber belong after the topology has changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::partition::NodeId;
use crate::plan::Router;
use crate::plan::pubsub::{ChannelName, NamesByNode, SubscriptionKind, SubscriptionPlaces};

/// Names of each kind, in the order of [`SubscriptionKind::ALL`].
pub(crate) type DesiredNames = [BTreeSet<ChannelName>; 3];

/// What must be changed so that each name is subscribed where the topology wants it.
///
/// Subscriptions are made before others are ended: a name is on both nodes for a moment, which delivers nothing
/// twice, as a message is published on one of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SubscriptionMoves {
    /// Names to subscribe, on nodes of the new topology.
    pub(crate) begin: Vec<(NodeId, SubscriptionKind, Vec<ChannelName>)>,
    /// Names to unsubscribe, on nodes that stay.
    pub(crate) end: Vec<(NodeId, SubscriptionKind, Vec<ChannelName>)>,
}

impl SubscriptionMoves {
    /// What must be changed at these connections, each with the identity of its node, true if it still leads there, and
    /// the names that the user wants at it. Also returns the nodes of the connections that are kept.
    pub(crate) fn of_connections(
        router: &Router,
        places: &SubscriptionPlaces,
        connections: impl Iterator<Item = (NodeId, bool, DesiredNames)>,
    ) -> (Self, BTreeSet<NodeId>) {
        let (mut at, mut lost) = (BTreeMap::new(), DesiredNames::default());
        for (node, is_current, desired) in connections {
            match is_current {
                true => drop(at.insert(node, desired)),
                false => lost
                    .iter_mut()
                    .zip(desired)
                    .for_each(|(all, names)| all.extend(names)),
            }
        }
        let moves = Self::new(router, places, &at, &lost);
        (moves, at.into_keys().collect())
    }

    /// Compares what is subscribed at each node, which may have left, with what `router` wants there. A node that
    /// must be connected to anew, or is out, has no names in `at`; its former ones are in `lost`. A name without an owner stays
    /// where it is.
    pub(crate) fn new(
        router: &Router,
        places: &SubscriptionPlaces,
        at: &BTreeMap<NodeId, DesiredNames>,
        lost: &DesiredNames,
    ) -> Self {
        let mut moves = Self::default();
        for (place, kind) in SubscriptionKind::ALL.into_iter().enumerate() {
            let all: BTreeSet<&ChannelName> = at
                .values()
                .map(|names| &names[place])
                .chain([&lost[place]])
                .flatten()
                .collect();
            let mut wanted = NamesByNode::new(kind);
            let mut unowned = BTreeSet::new();
            for name in all {
                let held = |name: &[u8]| {
                    let mut holders = at.iter();
                    let holder = holders.find(|(_, names)| names[place].contains(name));
                    holder.map(|(node, _)| *node)
                };
                if wanted.add(router, places, [&**name], held).is_err() {
                    unowned.insert(name);
                }
            }
            let wanted: BTreeMap<NodeId, BTreeSet<ChannelName>> = wanted
                .finish()
                .into_iter()
                .map(|(node, names)| (node, names.into_iter().collect()))
                .collect();
            let nodes: BTreeSet<NodeId> = wanted.keys().chain(at.keys()).copied().collect();
            for id in nodes {
                let has = at.get(&id).map(|names| &names[place]);
                let wants = wanted.get(&id);
                let is_new = |name: &&ChannelName| !has.is_some_and(|has| has.contains(*name));
                let is_over = |name: &&ChannelName| {
                    !wants.is_some_and(|wants| wants.contains(*name)) && !unowned.contains(*name)
                };
                let begin: Vec<_> = wants
                    .into_iter()
                    .flatten()
                    .filter(is_new)
                    .cloned()
                    .collect();
                let end: Vec<_> = has.into_iter().flatten().filter(is_over).cloned().collect();
                if !begin.is_empty() {
                    moves.begin.push((id, kind, begin));
                }
                let topology = router.topology();
                let is_kept = topology.index_of_id(id).is_some() || topology.cluster().is_some();
                if is_kept && !end.is_empty() {
                    moves.end.push((id, kind, end));
                }
            }
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::command::CommandTable;
    use crate::partition::{NodeSpec, Rendezvous};
    use crate::plan::SplitWrites;
    use crate::topology::Topology;

    fn router(nodes: &[&str]) -> Router {
        let node = |name: &&str| NodeSpec::new(*name, format!("{name}:6379"));
        let nodes = nodes.iter().map(node).collect();
        let topology = Topology::new(nodes, Arc::new(Rendezvous::default())).unwrap();
        let table = std::borrow::Cow::Borrowed(CommandTable::built_in());
        Router::new(Arc::new(topology), table, SplitWrites::Allowed)
    }

    fn places() -> SubscriptionPlaces {
        SubscriptionPlaces::default()
    }

    /// The channels `news:0`, `news:1`, ... and one pattern, where `router` wants them.
    fn placed(router: &Router) -> BTreeMap<NodeId, DesiredNames> {
        let topology = router.topology();
        let mut at = BTreeMap::new();
        for node in topology.indices() {
            let mut names = DesiredNames::default();
            names[1].insert(ChannelName::from(&b"news:*"[..]));
            at.insert(topology.node(node).id(), names);
        }
        for number in 0..100 {
            let name = format!("news:{number}");
            let owner = router.owner(name.as_bytes()).unwrap();
            let names = at.get_mut(&topology.node(owner).id()).unwrap();
            names[0].insert(ChannelName::from(name.as_bytes()));
        }
        at
    }

    /// Carries out the moves.
    fn moved(
        router: &Router,
        mut at: BTreeMap<NodeId, DesiredNames>,
        moves: SubscriptionMoves,
    ) -> BTreeMap<NodeId, DesiredNames> {
        let place = |kind| {
            SubscriptionKind::ALL
                .iter()
                .position(|k| *k == kind)
                .unwrap()
        };
        let topology = router.topology();
        at.retain(|id, _| topology.index_of_id(*id).is_some());
        for (id, kind, names) in moves.begin {
            let has = at.entry(id).or_default();
            for name in names {
                assert!(has[place(kind)].insert(name));
            }
        }
        for (id, kind, names) in moves.end {
            for name in names {
                assert!(at.get_mut(&id).unwrap()[place(kind)].remove(&name));
            }
        }
        at
    }

    #[test]
    fn subscriptions_follow_their_names_when_nodes_come_and_go() {
        let lists: [&[&str]; 5] = [
            &["a", "b", "c"],
            &["a", "b", "c", "d"],
            &["b", "d"],
            &["d", "b"],
            &["x"],
        ];
        for before in lists {
            for after in lists {
                let (before, after) = (router(before), router(after));
                let at = placed(&before);
                let moves =
                    SubscriptionMoves::new(&after, &places(), &at, &DesiredNames::default());
                assert_eq!(moved(&after, at, moves), placed(&after));
            }
        }
    }

    #[test]
    fn subscriptions_of_a_node_with_another_address_are_made_again() {
        let router = router(&["a", "b"]);
        let mut at = placed(&router);
        let id = router.topology().nodes()[0].id();
        let lost = at.remove(&id).unwrap();
        let moves = SubscriptionMoves::new(&router, &places(), &at, &lost);
        assert!(moves.end.is_empty());
        assert_eq!(moved(&router, at, moves), placed(&router));
    }
}
