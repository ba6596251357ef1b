//! Which node of a Redis Cluster owns which slot?
//!
//! * [`ClusterMap`]: the primaries and their slots, as far as they are known.
//! * `view`: [`ClusterView`], what one server says; `replies`: how it says it.
//! * `merge`: what a view changes in a map, and what it must not change.
//! * `round`: whom to ask for a view, and whom next.
//! * `seeds`: [`ClusterSeeds`], the servers that were given.
//! * `placement`: a map as the placement of a topology.
//!
//! The servers of a cluster decide who owns a slot, and tell a client that is wrong (MOVED, ASK). A map is what the
//! client believes meanwhile: it costs a round trip if it is wrong, and never a key.

mod merge;
mod placement;
mod replies;
mod round;
mod seeds;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::hash::{HashTag, SLOTS};
use crate::partition::{NodeIndex, NodeSpec};
use crate::topology::{HostPort, Topology};

pub(crate) use merge::Merged;
pub(in crate::topology) use placement::ClusterPlacement;
pub(crate) use round::{AskingRound, RoundStep};
pub(crate) use seeds::ClusterSeeds;
pub(crate) use view::{ClusterQuestions, ClusterView, NoAnswer, Questioned};

/// The primaries of a cluster and the slots that they own, as far as they are known.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ClusterMap {
    servers: Arc<Servers>,
    /// The index of each slot's owner, or [`NOBODY`].
    owners: Box<[u16]>,
    /// The node that requests for each slot are sent to.
    targets: Box<[NodeIndex]>,
    /// True before any server was asked: the nodes are the seeds.
    is_provisional: bool,
}

/// The servers of a map, which most changes of a map do not concern.
#[derive(PartialEq, Eq)]
struct Servers {
    /// In node order: by address.
    primaries: Box<[ClusterNode]>,
    /// The node of each address under which a primary is known.
    by_address: HashMap<HostPort, NodeIndex>,
    /// Primaries without slots. They have no keys, so they are no nodes until they are given a slot.
    spare: Box<[ClusterNode]>,
    /// Those that are not failing.
    replicas: Box<[ClusterReplica]>,
}

/// A replica of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClusterReplica {
    /// The address to connect to.
    address: HostPort,
    /// The id of its primary.
    primary: String,
}

/// A primary of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterNode {
    /// The address to connect to.
    pub(crate) address: HostPort,
    /// The id by which the servers know it. Empty if it is not known.
    id: String,
    /// All addresses under which the servers may name it.
    aliases: Vec<HostPort>,
    /// Its configuration epoch, which is that of its slots.
    epoch: u64,
    /// True if the primaries agree that it cannot be reached.
    is_failing: bool,
}

/// In place of the index of an owner.
const NOBODY: u16 = u16::MAX;

impl ClusterNode {
    /// A primary of which nothing but the address is known.
    fn at(address: HostPort) -> Self {
        Self {
            aliases: vec![address.clone()],
            address,
            id: String::new(),
            epoch: 0,
            is_failing: false,
        }
    }
}

impl ClusterMap {
    /// The map before any server was asked. `seeds` are the servers to ask first; there is at least one.
    pub(crate) fn provisional(seeds: &[HostPort]) -> Self {
        let seeds = seeds.iter().cloned().map(ClusterNode::at);
        let servers = Servers::new(seeds.collect(), Vec::new(), Vec::new());
        Self {
            is_provisional: true,
            ..Self::of(Arc::new(servers), vec![NOBODY; usize::from(SLOTS)].into())
        }
    }

    /// The map of the primaries at these addresses, where `owner` gives the owner of each slot.
    #[cfg(test)]
    pub(crate) fn new(primaries: Vec<HostPort>, owner: impl Fn(u16) -> Option<NodeIndex>) -> Self {
        let primaries = primaries.into_iter().map(ClusterNode::at).collect();
        let owner = |slot| owner(slot).map_or(NOBODY, |owner| owner.get() as u16);
        let servers = Servers::new(primaries, Vec::new(), Vec::new());
        Self::of(Arc::new(servers), (0..SLOTS).map(owner).collect())
    }

    /// The map of these servers and owners.
    fn of(servers: Arc<Servers>, owners: Box<[u16]>) -> Self {
        let targets = servers.targets(&owners);
        Self {
            servers,
            owners,
            targets,
            is_provisional: false,
        }
    }

    /// True before any server was asked.
    pub(crate) fn is_provisional(&self) -> bool {
        self.is_provisional
    }

    /// The primary with this address, if it is one of this map.
    pub(crate) fn node_at(&self, address: &HostPort) -> Option<NodeIndex> {
        self.servers.by_address.get(address).copied()
    }

    /// Number of primaries.
    pub(crate) fn len(&self) -> usize {
        self.servers.primaries.len()
    }

    /// The address of a primary.
    pub(crate) fn address(&self, node: NodeIndex) -> Option<&HostPort> {
        Some(&self.servers.primaries.get(node.get())?.address)
    }

    /// The addresses of the primaries, in node order.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &HostPort> {
        self.servers.primaries.iter().map(|node| &node.address)
    }

    /// The owner of a slot, if it is known and serves requests.
    #[cfg(test)]
    #[cfg(test)]
    pub(crate) fn owner(&self, slot: u16) -> Option<NodeIndex> {
        let owner = *self.owners.get(usize::from(slot))?;
        let is_failing = self.servers.primaries.get(usize::from(owner))?.is_failing;
        (!is_failing).then(|| NodeIndex::new(owner))
    }

    /// True if the primaries agree that this one cannot be reached.
    pub(crate) fn is_failing(&self, node: NodeIndex) -> bool {
        let primary = self.servers.primaries.get(node.get());
        primary.is_some_and(|primary| primary.is_failing)
    }

    /// The slot of a key.
    #[inline]
    pub(crate) fn slot(&self, key: &[u8]) -> u16 {
        crate::hash::slot(HashTag::Braces.of(key))
    }

    /// The node that requests for a slot are sent to: its owner, or any node if there is none, which redirects them or
    /// refuses them.
    #[inline]
    pub(crate) fn target(&self, slot: u16) -> Option<NodeIndex> {
        self.targets.get(usize::from(slot)).copied()
    }

    /// True if both maps have the same nodes, which are reached alike, at the same indices.
    pub(crate) fn has_nodes_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.servers, &other.servers) || self.addresses().eq(other.addresses())
    }

    /// True if both maps give each slot to the same node.
    pub(crate) fn places_like(&self, other: &Self) -> bool {
        self.has_nodes_of(other) && self.targets == other.targets
    }

    /// The addresses of all servers that may be asked for the map: those that are likely to reply first, from one on
    /// that `entropy` chooses.
    pub(crate) fn sources(&self, entropy: u64) -> Vec<HostPort> {
        let Servers {
            primaries,
            spare,
            replicas,
            ..
        } = &*self.servers;
        let (well, failing): (Vec<_>, Vec<_>) = primaries.iter().partition(|node| !node.is_failing);
        let of_nodes = |nodes: Vec<&ClusterNode>| -> Vec<HostPort> {
            nodes.iter().map(|node| node.address.clone()).collect()
        };
        let mut sources = of_nodes(well);
        let first = entropy % (sources.len() as u64).max(1);
        sources.rotate_left(first as usize);
        sources.extend(of_nodes(spare.iter().collect()));
        sources.extend(replicas.iter().map(|replica| replica.address.clone()));
        sources.extend(of_nodes(failing));
        sources
    }

    /// The addresses of the replicas of the primary at this address. `None` if it is not one of this map.
    pub(crate) fn replicas_of(&self, primary: &HostPort) -> Option<Vec<HostPort>> {
        let node = self.servers.primaries.get(self.node_at(primary)?.get())?;
        let replicas = self.servers.replicas.iter();
        let own = replicas.filter(|replica| replica.primary == node.id);
        Some(own.map(|replica| replica.address.clone()).collect())
    }

    /// The map after a server has said that this slot belongs to the server at `to`. `None` if nothing changes, or if
    /// there is no such primary: then all is to be asked for.
    pub(crate) fn moved(&self, slot: u16, to: &HostPort) -> Option<Self> {
        if self.is_provisional || slot >= SLOTS {
            return None;
        }
        match self.node_at(to) {
            Some(node) => self.with_owner(slot, node),
            None => {
                let spare = &self.servers.spare;
                let known = spare.iter().find(|node| node.aliases.contains(to))?;
                let grown = self.with_node(known);
                let node = grown.node_at(&known.address)?;
                grown.with_owner(slot, node)
            }
        }
    }

    /// The map after all these redirects. `None` if nothing changes.
    pub(crate) fn moved_all(&self, moved: &[(u16, HostPort)]) -> Option<Self> {
        let mut next: Option<Self> = None;
        for (slot, to) in moved {
            let map = next.as_ref().unwrap_or(self);
            next = map.moved(*slot, to).or(next);
        }
        next
    }

    fn with_owner(&self, slot: u16, node: NodeIndex) -> Option<Self> {
        let slot = usize::from(slot);
        let owner = node.get() as u16;
        if self.owners[slot] == owner && self.targets[slot] == node {
            return None;
        }
        let mut next = self.clone();
        next.owners[slot] = owner;
        // Also if it is said to be failing: the server that has sent the redirect may know more.
        next.targets[slot] = node;
        Some(next)
    }

    /// The map with a primary that had no slots as a node.
    fn with_node(&self, node: &ClusterNode) -> Self {
        let mut primaries = self.servers.primaries.to_vec();
        primaries.push(node.clone());
        let spare = self.servers.spare.iter();
        let spare = spare.filter(|other| other.id != node.id).cloned();
        let servers = Servers::new(primaries, spare.collect(), self.servers.replicas.to_vec());
        let index = |owner: &u16| {
            let known = self.servers.primaries.get(usize::from(*owner));
            let index = known.and_then(|known| servers.by_address.get(&known.address));
            index.map_or(NOBODY, |index| index.get() as u16)
        };
        let owners = self.owners.iter().map(index).collect();
        Self::of(Arc::new(servers), owners)
    }

    /// The topology of this map.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if there is no primary, or more than a topology may have.
    pub(crate) fn topology(self: &Arc<Self>) -> Result<Topology, Error> {
        let spec = |address: &HostPort| {
            let address = address.to_string();
            NodeSpec::new(address.clone(), address)
        };
        let nodes = self.addresses().map(spec).collect();
        Topology::new(nodes, Arc::new(ClusterPlacement::new(self)))
            .map(|topology| topology.with_cluster(Arc::clone(self)))
    }
}

impl Servers {
    fn new(
        mut primaries: Vec<ClusterNode>,
        spare: Vec<ClusterNode>,
        replicas: Vec<ClusterReplica>,
    ) -> Self {
        primaries.sort_by(|one, other| one.address.cmp(&other.address));
        primaries.dedup_by(|one, other| one.address == other.address);
        let mut by_address = HashMap::new();
        for (index, node) in (0..).map(NodeIndex::new).zip(&primaries) {
            for alias in &node.aliases {
                by_address.entry(alias.clone()).or_insert(index);
            }
        }
        // Whatever others call themselves: this is where requests for the node go.
        for (index, node) in (0..).map(NodeIndex::new).zip(&primaries) {
            by_address.insert(node.address.clone(), index);
        }
        Self {
            primaries: primaries.into(),
            by_address,
            spare: spare.into(),
            replicas: replicas.into(),
        }
    }

    /// The nodes that requests for each slot are sent to.
    fn targets(&self, owners: &[u16]) -> Box<[NodeIndex]> {
        let all = (0..self.primaries.len() as u16).map(NodeIndex::new);
        let is_well = |node: &NodeIndex| !self.primaries[node.get()].is_failing;
        let mut well: Vec<NodeIndex> = all.clone().filter(is_well).collect();
        if well.is_empty() {
            well.extend(all);
        }
        let target = |(slot, owner): (usize, &u16)| {
            let node = self.primaries.get(usize::from(*owner));
            match node.is_some_and(|node| !node.is_failing) {
                true => NodeIndex::new(*owner),
                // A map has at least one node.
                false => well
                    .get(slot % well.len().max(1))
                    .copied()
                    .unwrap_or(NodeIndex::new(0)),
            }
        };
        owners.iter().enumerate().map(target).collect()
    }
}

impl fmt::Debug for ClusterMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterMap")
            .field("primaries", &self.servers.primaries)
            .field("is_provisional", &self.is_provisional)
            .finish_non_exhaustive()
    }
}
