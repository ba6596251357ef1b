//! Which node of a Redis Cluster owns which slot?
//!
//! * [`ClusterMap`]: the primaries and their slots, as far as they are known.
//! * `placement`: a map as the placement of a topology.
//!
//! The servers of a cluster decide who owns a slot, and tell a client that is wrong (MOVED, ASK). A map is what the
//! client believes meanwhile: it costs a round trip if it is wrong, and never a key.

mod placement;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::hash::{HashTag, SLOTS};
use crate::partition::{NodeIndex, NodeSpec};
use crate::topology::{HostPort, Topology};

pub(in crate::topology) use placement::ClusterPlacement;

/// The primaries of a cluster and the slots that they own, as far as they are known.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ClusterMap {
    /// In node order.
    primaries: Vec<ClusterNode>,
    /// The index of each slot's owner. `None` if none is known.
    owners: Box<[Option<NodeIndex>]>,
    /// The node of each address under which a primary is known.
    by_address: HashMap<HostPort, NodeIndex>,
    /// True before any server was asked: the nodes are the seeds.
    is_provisional: bool,
}

/// A primary of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterNode {
    /// The address to connect to.
    pub(crate) address: HostPort,
}

impl ClusterMap {
    /// The map before any server was asked. `seeds` are the servers to ask first; there is at least one.
    pub(crate) fn provisional(seeds: &[HostPort]) -> Self {
        Self {
            is_provisional: true,
            ..Self::new(seeds.to_vec(), |_| None)
        }
    }

    /// The map of the primaries at these addresses, where `owner` gives the owner of each slot.
    pub(crate) fn new(primaries: Vec<HostPort>, owner: impl Fn(u16) -> Option<NodeIndex>) -> Self {
        let primaries = primaries.into_iter().map(|address| ClusterNode { address });
        let primaries: Vec<_> = primaries.collect();
        let addresses = primaries.iter().map(|node| node.address.clone());
        Self {
            by_address: addresses.zip((0..).map(NodeIndex::new)).collect(),
            owners: (0..SLOTS).map(owner).collect(),
            primaries,
            is_provisional: false,
        }
    }

    /// True before any server was asked.
    pub(crate) fn is_provisional(&self) -> bool {
        self.is_provisional
    }

    /// The primary with this address, if it is one of this map.
    pub(crate) fn node_at(&self, address: &HostPort) -> Option<NodeIndex> {
        self.by_address.get(address).copied()
    }

    /// Number of primaries.
    pub(crate) fn len(&self) -> usize {
        self.primaries.len()
    }

    /// The address of a primary.
    pub(crate) fn address(&self, node: NodeIndex) -> Option<&HostPort> {
        Some(&self.primaries.get(node.get())?.address)
    }

    /// The owner of a slot, if it is known.
    pub(crate) fn owner(&self, slot: u16) -> Option<NodeIndex> {
        *self.owners.get(usize::from(slot))?
    }

    /// The slot of a key.
    #[inline]
    pub(crate) fn slot(&self, key: &[u8]) -> u16 {
        crate::hash::slot(HashTag::Braces.of(key))
    }

    /// The node that requests for a slot are sent to: its owner, or any node if none is known, which redirects them or
    /// refuses them.
    #[inline]
    pub(crate) fn target(&self, slot: u16) -> Option<NodeIndex> {
        let count = self.primaries.len() as u16;
        self.owner(slot)
            .or_else(|| Some(NodeIndex::new(slot.checked_rem(count)?)))
    }

    /// The topology of this map.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if there is no primary, or more than a topology may have.
    pub(crate) fn topology(self: &Arc<Self>) -> Result<Topology, Error> {
        let spec = |node: &ClusterNode| {
            let address = node.address.to_string();
            NodeSpec::new(address.clone(), address)
        };
        let nodes = self.primaries.iter().map(spec).collect();
        Topology::new(nodes, Arc::new(ClusterPlacement::new(self)))
            .map(|topology| topology.with_cluster(Arc::clone(self)))
    }
}

impl fmt::Debug for ClusterMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterMap")
            .field("primaries", &self.primaries)
            .field("is_provisional", &self.is_provisional)
            .finish_non_exhaustive()
    }
}
