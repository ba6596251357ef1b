//! What the view of one server changes in a map.
//!
//! Of two primaries that claim a slot, the servers themselves believe the one with the larger configuration epoch. So
//! does this: slot by slot, a view counts if the owner that it names has an epoch that is not smaller than that of the
//! owner known so far. A server that lags behind thus changes nothing that is known better, and what it knows better
//! still counts.

use std::collections::HashMap;
use std::sync::Arc;

use super::view::ViewServer;
use super::{ClusterMap, ClusterNode, ClusterReplica, ClusterView, NOBODY, Servers};
use crate::partition::NODES_MAX;
use crate::topology::HostPort;

/// What became of a map by a view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    /// The next map. `None` if it is the same.
    pub(crate) map: Option<ClusterMap>,
    /// True if the view knows less than the map about some slot: another server may know more.
    pub(crate) is_behind: bool,
}

impl Merged {
    /// A view of which nothing was taken.
    const REFUSED: Self = Self {
        map: None,
        is_behind: true,
    };
}

impl ClusterMap {
    /// Takes what a view knows better. Before any server was asked that is all, and later nothing of a server that says
    /// that the cluster is down: it may be cut off from the others.
    pub(crate) fn merge(&self, view: &ClusterView) -> Merged {
        if self.is_provisional {
            return self.replaced_by(view);
        }
        if !view.is_ok {
            return Merged::REFUSED;
        }
        let mut is_behind = false;
        let known = self.positions_in(view);
        let mut choices = Vec::with_capacity(self.owners.len());
        for (owner, seen) in self.owners.iter().zip(view.owners()) {
            let node = self.servers.primaries.get(usize::from(*owner));
            let choice = match (node, seen) {
                (None, None) => Choice::Nobody,
                (None, Some(seen)) => Choice::Seen(seen),
                (Some(_), Some(seen)) if known[usize::from(*owner)] == Some(seen) => {
                    Choice::Seen(seen)
                }
                (Some(node), Some(seen)) if view.servers[seen].epoch >= node.epoch => {
                    Choice::Seen(seen)
                }
                (Some(_), _) => {
                    is_behind = true;
                    Choice::Known(*owner)
                }
            };
            choices.push(choice);
        }
        let next = self.chosen(view, &choices, &known);
        Merged {
            map: next.filter(|next| next != self),
            is_behind,
        }
    }

    /// Takes all that a view says, even if it is older than what is known.
    pub(crate) fn replaced_by(&self, view: &ClusterView) -> Merged {
        let choice = |seen: Option<usize>| seen.map_or(Choice::Nobody, Choice::Seen);
        let choices: Vec<Choice> = view.owners().into_iter().map(choice).collect();
        let known = self.positions_in(view);
        match self.chosen(view, &choices, &known) {
            Some(next) => Merged {
                map: (next != *self).then_some(next),
                is_behind: false,
            },
            None => Merged::REFUSED,
        }
    }

    /// For each node, its position among the servers of a view.
    fn positions_in(&self, view: &ClusterView) -> Vec<Option<usize>> {
        let servers = view.servers.iter().enumerate();
        let by_id: HashMap<&str, usize> = servers
            .map(|(position, server)| (server.id.as_str(), position))
            .collect();
        let nodes = self.servers.primaries.iter();
        nodes
            .map(|node| by_id.get(node.id.as_str()).copied())
            .collect()
    }

    /// The map with these owners. `None` if no slot has one, or if there are more nodes than a topology may have.
    fn chosen(
        &self,
        view: &ClusterView,
        choices: &[Choice],
        known: &[Option<usize>],
    ) -> Option<Self> {
        let (is_node, is_kept) = owners_among(view.servers.len(), choices, known);
        let (mut nodes, mut spare, mut replicas) = (Vec::new(), Vec::new(), Vec::new());
        let former = self.by_id();
        for (server, is_node) in view.servers.iter().zip(&is_node) {
            let node = node(server, former.get(server.id.as_str()).copied());
            match (is_node, server.is_primary) {
                (true, _) => nodes.push(node),
                (false, true) if !server.is_failing => spare.push(node),
                (false, false) if !server.is_failing => replicas.push(ClusterReplica {
                    address: node.address,
                    primary: server.primary.clone().unwrap_or_default(),
                }),
                (false, _) => {}
            }
        }
        let kept = self.servers.primaries.iter().zip(&is_kept);
        nodes.extend(
            kept.filter(|(_, kept)| **kept)
                .map(|(node, _)| node.clone()),
        );
        // A server that was reset and joined again is listed twice, with one address.
        nodes.sort_by_key(|node| (node.is_failing, std::cmp::Reverse(node.epoch)));
        if nodes.is_empty() || nodes.len() > NODES_MAX {
            return None;
        }
        let servers = Arc::new(Servers::new(nodes, spare, replicas));
        let index = |address: &HostPort| {
            let index = servers.by_address.get(address);
            index.map_or(NOBODY, |index| index.get() as u16)
        };
        let address = |server: &ViewServer| {
            let former = former.get(server.id.as_str()).copied();
            node(server, former).address
        };
        let seen: Vec<u16> = view
            .servers
            .iter()
            .map(|server| index(&address(server)))
            .collect();
        let kept = self.servers.primaries.iter().zip(known);
        let kept: Vec<u16> = kept
            .map(|(node, known)| match known {
                Some(position) => seen[*position],
                None => index(&node.address),
            })
            .collect();
        let owner = |choice: &Choice| match *choice {
            Choice::Seen(position) => seen[position],
            Choice::Known(owner) => kept[usize::from(owner)],
            Choice::Nobody => NOBODY,
        };
        let owners = choices.iter().map(owner).collect();
        // The same servers are not given out anew, so that what is made from them is not either.
        let servers = match *servers == *self.servers {
            true => Arc::clone(&self.servers),
            false => servers,
        };
        Some(Self::of(servers, owners))
    }

    /// The primaries by their ids, those without slots as well.
    fn by_id(&self) -> HashMap<&str, &ClusterNode> {
        let Servers {
            primaries, spare, ..
        } = &*self.servers;
        let known = primaries
            .iter()
            .chain(spare)
            .filter(|node| !node.id.is_empty());
        known.map(|node| (node.id.as_str(), node)).collect()
    }
}

/// Where the owner of a slot is known from.
#[derive(Clone, Copy)]
enum Choice {
    /// The position of a server in the view.
    Seen(usize),
    /// The index of a node of the map.
    Known(u16),
    Nobody,
}

/// A server of a view as a node, which may be known.
fn node(server: &ViewServer, former: Option<&ClusterNode>) -> ClusterNode {
    let node = ClusterNode {
        address: server.address.clone(),
        id: server.id.clone(),
        aliases: server.aliases.clone(),
        epoch: server.epoch,
        is_failing: server.is_failing,
    };
    match former {
        None => node,
        // What is known is newer.
        Some(former) if former.epoch > server.epoch => former.clone(),
        // Each server may name it otherwise, and a name of its own for each would be as many nodes.
        Some(former) if node.aliases.contains(&former.address) => ClusterNode {
            address: former.address.clone(),
            ..node
        },
        Some(_) => node,
    }
}

/// Which servers of a view of `servers` servers own slots, and which primaries that are known alone.
fn owners_among(
    servers: usize,
    choices: &[Choice],
    known: &[Option<usize>],
) -> (Vec<bool>, Vec<bool>) {
    let mut is_node = vec![false; servers];
    let mut is_kept = vec![false; known.len()];
    for choice in choices {
        match *choice {
            Choice::Seen(seen) => is_node[seen] = true,
            Choice::Known(owner) => match known[usize::from(owner)] {
                Some(seen) => is_node[seen] = true,
                None => is_kept[usize::from(owner)] = true,
            },
            Choice::Nobody => {}
        }
    }
    (is_node, is_kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::view::tests::at;
    use super::*;
    use crate::hash::SLOTS;
    use crate::partition::NodeIndex;

    /// A server of a view: its id is a letter, its port follows from it.
    fn server(id: char, epoch: u64, slots: &[(u16, u16)]) -> ViewServer {
        let address = at("10.0.0.1", 7000 + id as u16 - 'a' as u16);
        ViewServer {
            id: id.into(),
            is_primary: true,
            primary: None,
            is_failing: false,
            epoch,
            slots: slots.to_vec(),
            aliases: vec![address.clone()],
            address,
        }
    }

    /// A replica of `a`.
    fn replica(id: char, epoch: u64) -> ViewServer {
        ViewServer {
            is_primary: false,
            primary: Some("a".into()),
            ..server(id, epoch, &[])
        }
    }

    fn failing(server: ViewServer) -> ViewServer {
        ViewServer {
            is_failing: true,
            ..server
        }
    }

    fn view(servers: Vec<ViewServer>) -> ClusterView {
        ClusterView {
            is_ok: true,
            servers,
        }
    }

    fn provisional() -> ClusterMap {
        ClusterMap::provisional(&[at("seed", 7000)])
    }

    const LOW: (u16, u16) = (0, 8191);
    const HIGH: (u16, u16) = (8192, 16383);

    /// `a` with the low half of the slots in epoch 3, and `b` with the high half in epoch 5.
    fn known() -> ClusterMap {
        let servers = vec![server('a', 3, &[LOW]), server('b', 5, &[HIGH])];
        provisional().merge(&view(servers)).map.unwrap()
    }

    /// The letter of the owner of a slot.
    fn owner(map: &ClusterMap, slot: u16) -> Option<char> {
        let address = map.address(map.owner(slot)?)?;
        char::from_u32(u32::from(address.port - 7000) + 'a' as u32)
    }

    fn owners(map: &ClusterMap) -> (Option<char>, Option<char>) {
        (owner(map, 0), owner(map, 9000))
    }

    #[test]
    fn first_view_of_a_cluster_is_its_map() {
        let map = known();
        assert!(!map.is_provisional());
        assert_eq!(owners(&map), (Some('a'), Some('b')));
        assert_eq!(map.addresses().count(), 2);
        let again = map.merge(&view(vec![server('a', 3, &[LOW]), server('b', 5, &[HIGH])]));
        assert_eq!(again, Merged::default());
    }

    #[test]
    fn cluster_slot_goes_to_an_owner_whose_epoch_is_not_smaller_and_stays_otherwise() {
        // `b` takes slot 7 from `a`, and a view that is older than that gives it back.
        for (epoch, is_taken) in [(2, false), (3, true), (6, true)] {
            let slots = [(7, 7), HIGH];
            let other = server('c', epoch, &[(7, 7)]);
            let servers = vec![
                server('a', 3, &[(0, 6), (8, 8191)]),
                server('b', 5, &slots[1..]),
                other,
            ];
            let merged = known().merge(&view(servers));
            let map = merged.map.unwrap_or_else(known);
            assert_eq!(
                owner(&map, 7),
                Some(if is_taken { 'c' } else { 'a' }),
                "epoch {epoch}"
            );
            assert_eq!(merged.is_behind, !is_taken);
            assert_eq!(owners(&map), (Some('a'), Some('b')));
        }
    }

    #[test]
    fn cluster_view_that_is_older_for_one_slot_counts_for_the_others() {
        // Slot 7 has moved to `b`, and slot 9000 to `a`; the view knows the latter only.
        let map = known().moved(7, &at("10.0.0.1", 7001)).unwrap();
        let servers = vec![
            server('a', 6, &[(0, 6), (8, 8191), (9000, 9000)]),
            server('b', 5, &[HIGH]),
        ];
        let merged = map.merge(&view(servers));
        let next = merged.map.unwrap();
        assert!(merged.is_behind);
        assert_eq!(
            (owner(&next, 7), owner(&next, 9000)),
            (Some('b'), Some('a'))
        );
    }

    #[test]
    fn empty_partial_and_failed_cluster_views_replace_nothing() {
        let map = known();
        let partial = view(vec![server('a', 3, &[LOW])]);
        let alone = view(vec![server('b', 5, &[HIGH]), server('a', 3, &[])]);
        let failed = ClusterView {
            is_ok: false,
            ..view(vec![server('c', 9, &[(0, 16383)])])
        };
        for poor in [&view(Vec::new()), &partial, &alone, &failed] {
            let merged = map.merge(poor);
            assert!(merged.is_behind, "{poor:?}");
            let next = merged.map.unwrap_or_else(|| map.clone());
            assert_eq!(owners(&next), (Some('a'), Some('b')), "{poor:?}");
        }
        // Before there is anything better, a cluster that is down is what is known; without slots there is no map.
        assert_eq!(
            owners(&provisional().merge(&failed).map.unwrap()),
            (Some('c'), Some('c'))
        );
        assert_eq!(
            provisional().merge(&view(vec![server('a', 0, &[])])),
            Merged::REFUSED
        );
        // And what goes on to be said is believed at last.
        let replaced = map.replaced_by(&partial).map.unwrap();
        assert_eq!(owners(&replaced), (Some('a'), None));
    }

    #[test]
    fn replica_that_is_promoted_owns_the_slots_of_its_primary() {
        let down = view(vec![
            failing(server('a', 3, &[LOW])),
            server('b', 5, &[HIGH]),
            replica('c', 3),
        ]);
        let map = known().merge(&down).map.unwrap();
        // Its keys are still its own: commands to all nodes must not leave them out.
        assert_eq!(
            (owners(&map), map.addresses().count()),
            ((None, Some('b')), 2)
        );
        assert_eq!(map.target(0), map.target(9000));
        let promoted = view(vec![
            failing(server('a', 3, &[])),
            server('b', 5, &[HIGH]),
            server('c', 6, &[LOW]),
        ]);
        let map = map.merge(&promoted).map.unwrap();
        assert_eq!(
            (owners(&map), map.addresses().count()),
            ((Some('c'), Some('b')), 2)
        );
        assert_eq!(map.node_at(&at("10.0.0.1", 7000)), None);
        // The former primary is back, and a server that has not heard of anything lags behind.
        let back = view(vec![
            replica('a', 6),
            server('b', 5, &[HIGH]),
            server('c', 6, &[LOW]),
        ]);
        assert!(!map.merge(&back).is_behind);
        let old = view(vec![
            server('a', 3, &[LOW]),
            server('b', 5, &[HIGH]),
            replica('c', 3),
        ]);
        let merged = map.merge(&old);
        assert!(merged.is_behind && owners(&merged.map.unwrap_or(map)) == (Some('c'), Some('b')));
    }

    #[test]
    fn cluster_node_keeps_its_address_as_long_as_the_server_may_be_named_so() {
        let map = known();
        let mut named = server('a', 3, &[LOW]);
        named.address = at("a.example", 7000);
        named.aliases.insert(0, named.address.clone());
        let merged = map.merge(&view(vec![named.clone(), server('b', 5, &[HIGH])]));
        let next = merged.map.unwrap();
        let node = next.node_at(&at("a.example", 7000)).unwrap();
        assert_eq!(next.address(node), Some(&at("10.0.0.1", 7000)));
        assert!(next.has_nodes_of(&map));
        // It has moved to another address.
        named.aliases.retain(|alias| alias.host == "a.example");
        let moved = next
            .merge(&view(vec![named, server('b', 5, &[HIGH])]))
            .map
            .unwrap();
        let node = moved.owner(0).unwrap();
        assert_eq!(moved.address(node), Some(&at("a.example", 7000)));
        assert_eq!(moved.node_at(&at("10.0.0.1", 7000)), None);
    }

    #[test]
    fn server_that_was_reset_and_is_listed_twice_is_one_cluster_node() {
        let mut again = server('z', 9, &[LOW]);
        again.address = at("10.0.0.1", 7000);
        again.aliases = vec![again.address.clone()];
        let servers = vec![
            failing(server('a', 3, &[(5, 5)])),
            again,
            server('b', 5, &[HIGH]),
        ];
        let map = provisional().merge(&view(servers)).map.unwrap();
        assert_eq!(
            (owners(&map), map.addresses().count()),
            ((Some('a'), Some('b')), 2)
        );
        assert!(Arc::new(map).topology().is_ok());
    }

    #[test]
    fn cluster_primaries_without_slots_are_no_nodes_until_they_get_one() {
        let servers = vec![
            server('a', 3, &[LOW]),
            server('b', 5, &[HIGH]),
            server('c', 0, &[]),
        ];
        let map = known().merge(&view(servers)).map.unwrap();
        assert_eq!(
            (map.addresses().count(), map.node_at(&at("10.0.0.1", 7002))),
            (2, None)
        );
        assert!(map.sources(0).contains(&at("10.0.0.1", 7002)));
        let next = map.moved(7, &at("10.0.0.1", 7002)).unwrap();
        assert_eq!((owner(&next, 7), next.addresses().count()), (Some('c'), 3));
        assert_eq!(owners(&next), (Some('a'), Some('b')));
        assert!(!next.has_nodes_of(&map));
    }

    #[test]
    fn cluster_map_knows_the_replicas_of_each_primary_as_the_servers_name_them() {
        let servers = vec![
            server('a', 3, &[LOW]),
            server('b', 5, &[HIGH]),
            replica('c', 3),
            failing(replica('d', 3)),
        ];
        let map = known().merge(&view(servers)).map.unwrap();
        let replicas = |port| map.replicas_of(&at("10.0.0.1", port));
        assert_eq!(replicas(7000), Some(vec![at("10.0.0.1", 7002)]));
        assert_eq!(replicas(7001), Some(Vec::new()));
        assert_eq!(replicas(7002), None);
    }

    #[test]
    fn moved_mends_one_slot_of_a_cluster_map_if_the_primary_is_known() {
        let map = known();
        let next = map.moved(7, &at("10.0.0.1", 7001)).unwrap();
        assert_eq!((owner(&next, 7), owner(&next, 8)), (Some('b'), Some('a')));
        assert!(next.has_nodes_of(&map) && !next.places_like(&map));
        assert_eq!(next.moved(7, &at("10.0.0.1", 7001)), None, "as before");
        assert_eq!(
            map.moved(7, &at("10.0.0.1", 7009)),
            None,
            "an unknown server"
        );
        assert_eq!(map.moved(SLOTS, &at("10.0.0.1", 7001)), None);
        assert_eq!(provisional().moved(7, &at("seed", 7000)), None);
        let moved = [
            (7, at("10.0.0.1", 7001)),
            (8, at("x", 1)),
            (9000, at("10.0.0.1", 7000)),
        ];
        let next = map.moved_all(&moved).unwrap();
        assert_eq!(
            (owner(&next, 7), owner(&next, 8), owner(&next, 9000)),
            (Some('b'), Some('a'), Some('a'))
        );
        assert_eq!(map.moved_all(&moved[1..2]), None);
    }

    fn any_servers() -> impl Strategy<Value = Vec<ViewServer>> {
        let range = (0..16_384_u16, 0..4000_u16)
            .prop_map(|(first, more)| (first, first.saturating_add(more).min(16_383)));
        let one = (
            prop::char::range('a', 'f'),
            0..5_u64,
            prop::collection::vec(range, 0..3),
            any::<bool>(),
            0..4_u8,
        );
        let one = one.prop_map(|(id, epoch, slots, is_failing, role)| ViewServer {
            is_primary: role > 0,
            is_failing,
            ..server(id, epoch, &slots)
        });
        // Each id once, as the reader of the replies has it.
        prop::collection::vec(one, 0..6).prop_map(|mut servers: Vec<ViewServer>| {
            servers.sort_by(|one, other| one.id.cmp(&other.id));
            servers.dedup_by(|one, other| one.id == other.id);
            servers
        })
    }

    fn epoch(map: &ClusterMap, slot: u16) -> Option<u64> {
        let owner = map.owners[usize::from(slot)];
        Some(map.servers.primaries.get(usize::from(owner))?.epoch)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever servers say, in whatever order: no slot loses its owner or goes to one of a smaller epoch, every node
        /// can be reached, and every slot leads to a node.
        #[test]
        fn cluster_map_never_goes_back_and_is_always_whole(
            views in prop::collection::vec((any_servers(), any::<bool>()), 1..6),
            redirect in (0..16_384_u16, 7000..7008_u16),
        ) {
            let mut map = provisional();
            for (servers, is_ok) in views {
                let merged = map.merge(&ClusterView { is_ok, servers });
                let next = merged.map.unwrap_or_else(|| map.clone());
                let nodes = next.addresses().count();
                prop_assert!(nodes > 0);
                for (index, address) in next.addresses().enumerate() {
                    prop_assert_eq!(next.node_at(address), Some(NodeIndex::new(index as u16)));
                }
                for slot in 0..SLOTS {
                    prop_assert!(next.target(slot).is_some_and(|node| node.get() < nodes));
                    let (before, after) = (epoch(&map, slot), epoch(&next, slot));
                    prop_assert!(map.is_provisional() || before <= after, "slot {}", slot);
                }
                map = next;
                if let Some(mended) = map.moved(redirect.0, &at("10.0.0.1", redirect.1)) {
                    for slot in (0..SLOTS).filter(|slot| *slot != redirect.0) {
                        prop_assert_eq!(owner(&mended, slot), owner(&map, slot));
                    }
                    prop_assert_eq!(mended.target(redirect.0).and_then(|node| mended.address(node)).unwrap().port, redirect.1);
                    map = mended;
                }
            }
        }
    }
}
