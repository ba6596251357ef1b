//! What the view of one server changes in a map.
//!
//! Of two primaries that claim a slot, the servers themselves believe the one with the larger configuration epoch. So
//! does this: slot by slot, a view counts if the owner that it names has an epoch that is not smaller than that of the
//! owner known so far. A server that lags behind thus changes nothing that is known better, and what it knows better
//! still counts.

use std::collections::HashMap;
use std::sync::Arc;

use super::view::ViewServer;
use super::{ClusterMap, ClusterNode, ClusterView, NOBODY, Servers};
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
        let mut is_node = vec![false; view.servers.len()];
        let mut is_kept = vec![false; self.servers.primaries.len()];
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
        let (mut nodes, mut spare, mut replicas) = (Vec::new(), Vec::new(), Vec::new());
        let former = self.by_id();
        for (server, is_node) in view.servers.iter().zip(&is_node) {
            let node = node(server, former.get(server.id.as_str()).copied());
            match (is_node, server.is_primary) {
                (true, _) => nodes.push(node),
                (false, true) if !server.is_failing => spare.push(node),
                (false, false) if !server.is_failing => replicas.push(node.address),
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
