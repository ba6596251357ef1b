//! Which nodes are there, and which of them owns a key? One immutable snapshot.
//!
//! * [`Topology`]: nodes, the placement over them, and a fingerprint.
//! * `text`: a topology as text, written and parsed; `statements`: the lines of that text.
//! * `url`: how a node is reached, as an address or a URL.
//! * `replication`: the servers of a node with replicas, and what they say in reply to ROLE and INFO.
//! * `cluster`: the map of a Redis Cluster, whose servers decide who owns a slot.
//! * `sentinel`: a node whose address Sentinel knows, and which of its answers count.
//! * `living`: which nodes live while others are out, and where the keys go then.
//! * `ramp`: nodes that have come back and own only a share of their keys.
//! * `record`: what a node says of the fleet that it belongs to; `moving`: a topology while a reshard moves keys.
//! * `node_ref`: a node as a handle keeps it, found again in a newer topology by its identity.
//!
//! A snapshot is never changed: a client that gets other nodes replaces the whole, so that no request sees
//! nodes of one and a placement of the other. Nothing here connects to a node.

pub(crate) mod cluster;
mod living;
mod moving;
mod node_ref;
#[cfg(test)]
mod outlier_simulation;
mod ramp;
pub(crate) mod record;
pub(crate) mod replication;
pub(crate) mod sentinel;
mod statements;
mod text;
mod url;

use std::fmt;
use std::sync::Arc;

use redis::RedisError;
use xxhash_rust::xxh3::xxh3_64;

use self::cluster::{ClusterMap, ClusterPlacement, ClusterSeeds};
use self::living::Living;
use self::moving::Moving;
use self::url::NodeUrl;
use crate::error::Error;
use crate::hash::HashTag;
use crate::partition::{NODES_MAX, NodeId, NodeIndex, NodeSpec, OutNodes};
use crate::partition::{Partitioner, Placement, PlacementError, check_passwords, check_words};

pub(crate) use self::living::LivingNodes;
pub(crate) use self::moving::ReshardView;
pub(crate) use self::node_ref::NodeRef;
pub(crate) use self::ramp::RampingNodes;
pub(crate) use self::sentinel::{HostPort, NodeAccess, SentinelSource, at_host};
pub(crate) use self::url::{address, error_text, is_same_connection};

/// Nodes and their placement. A topology that exists is valid, and never changes.
///
/// As text it is a small file that [`Display`](fmt::Display) writes and [`parse`](Self::parse) reads;
/// [`Builder::topology`](crate::Builder::topology) opens a client with it. A copy shares the nodes and the
/// placement with the original.
#[derive(Clone)]
pub struct Topology {
    /// In the order given, which some placements depend on. [`NodeIndex`] is an index into it.
    nodes: Arc<[NodeSpec]>,
    /// For each node, how it is reached; `None` if its address says all.
    urls: Arc<[Option<NodeUrl>]>,
    /// The rule, from which the text and the fingerprint are made.
    partitioner: Arc<dyn Partitioner>,
    /// The rule applied to `nodes`.
    placement: Arc<dyn Placement>,
    /// Where the keys go while nodes are out; `None` if all live.
    living: Option<Arc<Living>>,
    /// The rule's hash tag, kept here for `locate`.
    tag: HashTag,
    /// Computed once, since it is compared often.
    fingerprint: u64,
    /// Counts the topologies of one client.
    epoch: u64,
    /// Identity and index of each node, sorted by identity for a binary search.
    ids: Arc<[(NodeId, NodeIndex)]>,
    /// The map of the cluster, if the nodes are those of one.
    cluster: Option<Arc<ClusterMap>>,
    /// The servers of that cluster that were given.
    seeds: Option<ClusterSeeds>,
    /// The reshard that is under way.
    moving: Option<Arc<Moving>>,
    /// The topology while keys moved to this one.
    former: Option<Arc<Self>>,
}

impl Topology {
    /// Places keys over `nodes` by the rule of `partitioner`.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if there is no node or more than [`NODES_MAX`]; for an empty
    /// name, two nodes of one name or of one [`NodeId`], a URL instead of an address, a password in a name,
    /// an address or an option of the partitioner; and if the partitioner refuses the nodes.
    pub fn new(nodes: Vec<NodeSpec>, partitioner: Arc<dyn Partitioner>) -> Result<Self, Error> {
        if nodes.is_empty() {
            return Err(PlacementError::NoNodes.into());
        }
        check_count(nodes.len())?;
        // Before the other checks, whose errors quote names, addresses and options: a password must not reach
        // a log.
        check_passwords(&nodes)?;
        check_words(partitioner.name(), &partitioner.options())?;
        check_names(&nodes)?;
        check_no_urls(&nodes)?;
        let ids = ids(&nodes)?;
        let placement = partitioner.place(&nodes)?;
        let tag = partitioner.hash_tag();
        let fingerprint = fingerprint(&nodes, partitioner.as_ref(), &tag);
        Ok(Self {
            urls: nodes.iter().map(|_| None).collect(),
            nodes: nodes.into(),
            partitioner,
            placement: placement.into(),
            living: None,
            tag,
            fingerprint,
            epoch: 0,
            ids: ids.into(),
            cluster: None,
            seeds: None,
            moving: None,
            former: None,
        })
    }

    /// Returns the epoch, which orders the topologies of one client: of two, the one with the larger epoch is
    /// newer. It is 0 for a topology that a program has made and for the first one of a client, and grows by one
    /// whenever the client's topology is [replaced](crate::ShardedClient::set_topology) or other nodes are
    /// [out](Self::out). The epoch is neither written into the text nor part of the
    /// [`fingerprint`](Self::fingerprint).
    ///
    /// A [`NodeIndex`] is valid only in the epoch in which it was made; a [`NodeId`] means the same node in
    /// all.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the nodes, in the order in which they were given.
    pub fn nodes(&self) -> &[NodeSpec] {
        &self.nodes
    }

    /// Returns the node at `index`.
    ///
    /// # Panics
    ///
    /// If `index` comes from another, larger topology.
    pub fn node(&self, index: NodeIndex) -> &NodeSpec {
        &self.nodes[index.get()]
    }

    /// Returns the index of the node called `name`.
    pub fn index_of(&self, name: &str) -> Option<NodeIndex> {
        let position = self.nodes.iter().position(|node| node.name() == name)?;
        Some(NodeIndex::new(position as u16))
    }

    /// Returns the index of the node with this identity.
    ///
    /// ```
    /// use redis_sharding::ShardedClient;
    ///
    /// let builder = || ShardedClient::builder().node("b", "redis://10.0.0.2/");
    /// let before = builder().build()?.topology();
    /// let after = builder().node("a", "redis://10.0.0.1/").build()?.topology();
    /// let id = before.nodes()[0].id();
    /// assert_eq!(after.index_of_id(id), after.index_of("b"));
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    pub fn index_of_id(&self, id: NodeId) -> Option<NodeIndex> {
        let at = self.ids.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.ids[at].1)
    }

    /// Iterates over the indices of all nodes, in node order.
    pub fn indices(&self) -> impl ExactSizeIterator<Item = NodeIndex> + use<> {
        (0..self.nodes.len() as u16).map(NodeIndex::new)
    }

    /// Returns the rule that places the keys.
    pub fn partitioner(&self) -> &dyn Partitioner {
        self.partitioner.as_ref()
    }

    /// Returns the rule, to be applied to other nodes.
    pub(crate) fn shared_partitioner(&self) -> Arc<dyn Partitioner> {
        Arc::clone(&self.partitioner)
    }

    /// Returns the rule for the bytes of a key that decide where it lives.
    pub fn hash_tag(&self) -> &HashTag {
        &self.tag
    }

    /// Returns the owner of `key`, or `None` if the rule leaves it without one. It is never a node that is
    /// [out](Self::without).
    #[inline]
    pub fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        let (key, nodes) = (self.tag.of(key), self.nodes.len());
        match &self.living {
            None => self
                .placement
                .locate(key)
                // A rule of the application may return any index.
                .filter(|index| index.get() < nodes),
            Some(living) => living.locate(self.placement.as_ref(), nodes, key),
        }
    }

    /// Returns the topology while these nodes are out, as in a cache that goes on without them: the same nodes
    /// at the same indices, the same [`epoch`](Self::epoch), [`fingerprint`](Self::fingerprint) and text, but
    /// [`locate`](Self::locate) gives keys whose owner is out to other nodes, by a
    /// [rule](crate::partition#while-nodes-are-out) that depends on nothing but the key and the set of nodes that
    /// are out.
    ///
    /// What concerns all nodes concerns the living ones: `DBSIZE`, `KEYS`, `SCAN`, subscriptions to patterns, and
    /// also `FLUSHALL` and `FLUSHDB`. A node that comes back still has what it had when it went out.
    ///
    /// The set is replaced, not added to: an empty one brings all nodes back. If *all* nodes are in `out`, none
    /// is out, since asking a node that may be dead is better than asking none.
    ///
    /// Building it takes microseconds; for peers that rebuild their continuum, as long as a new topology takes.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use redis_sharding::partition::{OutNodes, Rendezvous};
    /// use redis_sharding::{NodeSpec, Topology};
    ///
    /// let nodes = ["a", "b", "c"].map(|name| NodeSpec::new(name, format!("{name}.example:6379")));
    /// let all = Topology::new(nodes.into(), Arc::new(Rendezvous::new()))?;
    /// let dead = all.locate(b"user:1").expect("rendezvous owns every key");
    ///
    /// let two = all.without(&OutNodes::from_iter([dead]))?;
    /// assert_eq!(two.living().len(), 2);
    /// // The keys of the node that is out go to the others, and no other key moves.
    /// assert_ne!(two.locate(b"user:1"), Some(dead));
    /// for key in (0..100).map(|i| format!("user:{i}")) {
    ///     let (before, after) = (all.locate(key.as_bytes()), two.locate(key.as_bytes()));
    ///     assert!(before == after || before == Some(dead));
    /// }
    ///
    /// let all = two.without(&OutNodes::none())?;
    /// assert_eq!(all.locate(b"user:1"), Some(dead));
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if a node in `out` is not in this topology, and if the partitioner
    /// cannot place keys over the living nodes.
    pub fn without(&self, out: &OutNodes) -> Result<Self, Error> {
        self.without_ramping(out, RampingNodes::default())
    }

    /// Returns the topology while the nodes in `out` are out, and those in `ramping` own only a share of their keys.
    pub(crate) fn without_ramping(
        &self,
        out: &OutNodes,
        ramping: RampingNodes,
    ) -> Result<Self, Error> {
        if let Some(unknown) = out.iter().find(|node| node.get() >= self.nodes.len()) {
            return Err(Error::config(format!(
                "node {unknown:?} cannot be out: it is not one of the {} nodes of the topology",
                self.nodes.len()
            )));
        }
        let living = match out.is_empty() && ramping.is_empty() {
            true => None,
            false => Living::new(&self.nodes, self.partitioner.as_ref(), out.clone(), ramping)?,
        };
        Ok(Self {
            living: living.map(Arc::new),
            ..self.clone()
        })
    }

    /// Returns the nodes that are [out](Self::without).
    pub fn out(&self) -> &OutNodes {
        static NONE: OutNodes = OutNodes::none();
        self.living.as_ref().map_or(&NONE, |living| living.out())
    }

    /// Returns the nodes that own only a share of their keys.
    pub(crate) fn ramping(&self) -> RampingNodes {
        let living = self.living.as_ref();
        living.map_or_else(RampingNodes::default, |living| living.ramping())
    }

    /// Iterates over the indices of the nodes that are not [out](Self::without), in node order. There is at least
    /// one.
    pub fn living(&self) -> impl DoubleEndedIterator<Item = NodeIndex> + ExactSizeIterator + Clone {
        let living = self.living.as_ref().map(|living| living.nodes());
        let count = living.map_or(self.nodes.len(), <[_]>::len);
        (0..count).map(move |number| match living {
            None => NodeIndex::new(number as u16),
            Some(living) => living[number].1,
        })
    }

    /// Returns a number that is equal for two clients that place keys alike: it covers the names, weights and
    /// order of the nodes, the partitioner's name and options, and the hash tag rule. It does not cover
    /// addresses.
    ///
    /// ```
    /// use redis_sharding::ShardedClient;
    ///
    /// let at = |url: &str| ShardedClient::builder().node("a", "redis://10.0.0.1/").node("b", url).build();
    /// // The server called b moves to another address; no key does.
    /// let (before, after) = (at("redis://10.0.0.2/")?, at("redis://10.0.7.9/")?);
    /// assert_eq!(before.topology().fingerprint(), after.topology().fingerprint());
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// True if every key has the same owner in both.
    pub(crate) fn places_like(&self, other: &Self) -> bool {
        let (own, others) = (self.cluster.as_deref(), other.cluster.as_deref());
        let is_same_map = match own.zip(others) {
            Some((own, others)) => own.places_like(others),
            None => own.is_none() && others.is_none(),
        };
        is_same_map
            && self.fingerprint == other.fingerprint
            && self.out() == other.out()
            && self.ramping() == other.ramping()
    }

    /// Returns the nodes that are not out, to choose one or go from one to the next.
    pub(crate) fn living_nodes(&self) -> LivingNodes {
        LivingNodes::new(self.nodes.len(), self.living.clone())
    }

    /// Returns the first living node after `node`, or the first of all for `None`.
    pub(crate) fn next_living(&self, node: Option<NodeIndex>) -> Option<NodeIndex> {
        self.living()
            .find(|living| node.is_none_or(|node| *living > node))
    }

    /// Returns the map of the cluster, if the nodes are those of a Redis Cluster: its servers decide who owns a slot.
    #[inline]
    pub(crate) fn cluster(&self) -> Option<&Arc<ClusterMap>> {
        self.cluster.as_ref()
    }

    /// True if the nodes are the seeds of a cluster whose map is not known yet.
    #[inline]
    pub(crate) fn is_provisional(&self) -> bool {
        self.cluster
            .as_ref()
            .is_some_and(|map| map.is_provisional())
    }

    /// Returns the topology by another map of the same nodes. `None` if the nodes are not the same.
    pub(crate) fn with_map(&self, map: &Arc<ClusterMap>) -> Option<Self> {
        let current = self.cluster.as_ref()?;
        if current.is_provisional() != map.is_provisional() || !current.has_nodes_of(map) {
            return None;
        }
        let partitioner = ClusterPlacement::new(map);
        Some(Self {
            placement: partitioner.place(&self.nodes).ok()?.into(),
            partitioner: Arc::new(partitioner),
            cluster: Some(Arc::clone(map)),
            ..self.clone()
        })
    }

    /// Returns the servers of the cluster that were given, if the nodes are those of one.
    pub(crate) fn seeds(&self) -> Option<&ClusterSeeds> {
        self.seeds.as_ref()
    }

    /// Returns the topology as that of the cluster with these seeds.
    pub(crate) fn with_seeds(mut self, seeds: ClusterSeeds) -> Self {
        self.seeds = Some(seeds);
        self
    }

    /// Returns the topology with the seeds of another.
    pub(crate) fn with_seeds_of(mut self, other: &Self) -> Self {
        self.seeds = other.seeds.clone();
        self
    }

    /// Returns the topology as that of a cluster.
    fn with_cluster(mut self, map: Arc<ClusterMap>) -> Self {
        self.cluster = Some(map);
        self
    }

    /// Returns the same topology in another epoch.
    pub(crate) fn with_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// Returns the topology with these URLs, one for each node.
    fn with_urls(mut self, urls: Vec<Option<NodeUrl>>) -> Self {
        debug_assert_eq!(urls.len(), self.nodes.len());
        self.urls = urls.into();
        self
    }

    /// Returns the topology with the URLs of these connections, one for each node, so that its text says how
    /// the nodes are reached.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if a connection cannot be written as a URL.
    pub(crate) fn with_endpoints(self, nodes: &[NodeAccess]) -> Result<Self, Error> {
        let url = |(node, access): (&NodeSpec, &NodeAccess)| {
            let name = node.name();
            NodeUrl::of(access)
                .map_err(|cause| Error::config(format!("node {name:?}: {cause}")).at_node(name))
        };
        let urls = self.nodes.iter().zip(nodes).map(url);
        let urls = urls.collect::<Result<_, _>>()?;
        Ok(self.with_urls(urls))
    }

    /// Returns the topology with the URLs of another one that has the same nodes.
    pub(crate) fn with_endpoints_of(mut self, other: &Self) -> Self {
        debug_assert_eq!(self.nodes.len(), other.nodes.len());
        self.urls = Arc::clone(&other.urls);
        self
    }

    /// Returns how each node is reached. `refused_url` explains why redis-rs did not take a URL.
    pub(crate) fn connection_infos(
        &self,
        refused_url: impl Fn(&RedisError) -> String,
    ) -> Vec<Result<NodeAccess, Error>> {
        let info = |(node, url): (&NodeSpec, &Option<NodeUrl>)| {
            let access = match url {
                Some(url) => url.access().map_err(|error| refused_url(&error)),
                None => url::info_at(node.address()).map(NodeAccess::fixed),
            };
            let name = node.name();
            access.map_err(|cause| Error::config(format!("node {name:?}: {cause}")).at_node(name))
        };
        self.nodes.iter().zip(&*self.urls).map(info).collect()
    }
}

/// Controls whether the text of a topology contains passwords.
#[derive(Clone, Copy, Debug)]
enum Passwords {
    Hidden,
    Shown,
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topology")
            .field("nodes", &self.nodes)
            .field("partitioner", &self.partitioner)
            .field("fingerprint", &format_args!("{:016x}", self.fingerprint))
            .field("epoch", &self.epoch)
            .field("out", self.out())
            .finish_non_exhaustive()
    }
}

/// Refuses more nodes than there are indices for.
fn check_count(nodes: usize) -> Result<(), Error> {
    match nodes > NODES_MAX {
        false => Ok(()),
        true => Err(Error::config(format!(
            "{nodes} nodes were given, but a topology may have at most {NODES_MAX}"
        ))),
    }
}

/// Refuses empty and repeated names, by which keys are placed.
fn check_names(nodes: &[NodeSpec]) -> Result<(), Error> {
    let mut names: Vec<&str> = nodes.iter().map(NodeSpec::name).collect();
    names.sort_unstable();
    // Sorted, the empty name comes first. There is a first one: `new` has refused an empty list.
    if names[0].is_empty() {
        return Err(Error::config(
            "a node has an empty name; give it one, as its keys are placed by it",
        ));
    }
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(Error::config(format!(
            "two nodes are called {:?}; give each a name of its own",
            pair[0]
        ))
        .at_node(pair[0])),
    }
}

/// Returns the nodes by identity. Names have been checked before, so two nodes of one identity here have
/// different names.
fn ids(nodes: &[NodeSpec]) -> Result<Box<[(NodeId, NodeIndex)]>, Error> {
    let mut ids: Box<[(NodeId, NodeIndex)]> = (0..)
        .map(NodeIndex::new)
        .zip(nodes)
        .map(|(index, node)| (node.id(), index))
        .collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(ids),
        Some(pair) => {
            let name = |at: usize| nodes[pair[at].1.get()].name();
            Err(Error::config(format!(
                "the names {:?} and {:?} have one id, {}; give one of these nodes another name",
                name(0),
                name(1),
                pair[0].0
            )))
        }
    }
}

/// Refuses URLs as addresses: an address is written as it is, and as a URL it would be read back as another
/// one.
fn check_no_urls(nodes: &[NodeSpec]) -> Result<(), Error> {
    match nodes.iter().find(|node| node.address().contains("://")) {
        None => Ok(()),
        Some(node) => Err(Error::config(format!(
            "the address of node {:?} is a URL; give host:port or the path of a socket here, and the URL to a Builder",
            node.name()
        ))
        .at_node(node.name())),
    }
}

/// Returns the XXH3-64 of a text in which each part is preceded by its length, so that no two topologies have
/// the same text.
fn fingerprint(nodes: &[NodeSpec], partitioner: &dyn Partitioner, tag: &HashTag) -> u64 {
    let mut text = String::from("redis-sharding topology/1");
    let mut add = |part: &str| {
        text.push_str(&format!("\n{} ", part.len()));
        text.push_str(part);
    };
    add(partitioner.name());
    for (option, value) in partitioner.options() {
        add(&option);
        add(&value);
    }
    add(&tag.name());
    for node in nodes {
        add(node.name());
        add(&node.weight().to_string());
        // A node without a name is placed by its address, which is its name then; given as a name, the same
        // text may be placed otherwise.
        add(if node.is_named() { "named" } else { "address" });
    }
    xxh3_64(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::partition::Rendezvous;

    fn topology(names: &[&str]) -> Result<Topology, Error> {
        let node = |name: &&str| NodeSpec::new(*name, format!("{name}:6379"));
        let nodes = names.iter().map(node).collect();
        Topology::new(nodes, Arc::new(Rendezvous::default()))
    }

    #[test]
    fn two_node_names_with_one_node_id_are_a_config_error_that_names_both() {
        // Searched for: XXH3-64 of both is bbf3d0c5ae63a581.
        let names = ["l3sriuy", "a", "y-9ZgvGM"];
        assert_eq!(NodeId::of_name(names[0]), NodeId::of_name(names[2]));
        let error = topology(&names).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(
            error.to_string(),
            "the names \"l3sriuy\" and \"y-9ZgvGM\" have one id, bbf3d0c5ae63a581; give one of these nodes another name"
        );
        assert!(topology(&names[..2]).is_ok());
    }

    #[test]
    fn index_of_id_finds_every_node_of_a_topology() {
        let names: Vec<String> = (0..500).map(|number| format!("node-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let topology = topology(&names).unwrap();
        for index in topology.indices() {
            assert_eq!(topology.index_of_id(topology.node(index).id()), Some(index));
        }
        assert_eq!(topology.index_of_id(NodeId::of_name("node-500")), None);
    }

    #[test]
    fn topology_epoch_is_neither_in_the_fingerprint_nor_in_the_text() {
        let fixed = topology(&["a", "b"]).unwrap();
        assert_eq!(fixed.epoch(), 0);
        let later = topology(&["a", "b"]).unwrap().with_epoch(7);
        assert_eq!(later.epoch(), 7);
        assert_eq!(later.fingerprint(), fixed.fingerprint());
        assert_eq!(later.to_string(), fixed.to_string());
        assert_eq!(Topology::parse(&later.to_string()).unwrap().epoch(), 0);
    }
}
