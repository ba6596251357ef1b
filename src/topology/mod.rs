//! The nodes, and which of them owns a key: one immutable snapshot.
//!
//! [`Topology`] is here, its text in `text`, which `statements` reads, and in `url` how a node is reached. `node_ref` is what
//! a handle keeps of its node. Nothing here connects to a node.

mod node_ref;
mod statements;
mod text;
mod url;

use std::fmt;
use std::sync::Arc;

use redis::{ConnectionInfo, RedisError};
use xxhash_rust::xxh3::xxh3_64;

use self::url::NodeUrl;
use crate::error::Error;
use crate::hash::HashTag;
use crate::partition::{NODES_MAX, NodeId, NodeIndex, NodeSpec};
use crate::partition::{Partitioner, Placement, PlacementError, check_passwords, check_words};

pub(crate) use self::node_ref::NodeRef;
pub(crate) use self::url::{address, error_text};

/// Nodes and their placement. A topology that exists is valid, and never changes.
///
/// As text it is a small file that is written with [`Display`](fmt::Display), read with [`parse`](Self::parse), and opened
/// with [`Builder::topology`](crate::Builder::topology).
pub struct Topology {
    nodes: Vec<NodeSpec>,
    /// How to reach the nodes where their addresses do not say all.
    urls: Vec<Option<NodeUrl>>,
    partitioner: Arc<dyn Partitioner>,
    placement: Box<dyn Placement>,
    tag: HashTag,
    fingerprint: u64,
    epoch: u64,
    /// Every node's identity and position, in the order of the identities.
    ids: Box<[(NodeId, NodeIndex)]>,
}

impl Topology {
    /// Places keys over `nodes` by the rule of `partitioner`.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) when there is no node, more than [`NODES_MAX`] nodes, an empty name, two
    /// nodes of one name or of one [`NodeId`], a URL instead of an address, a password in a name, an address or an option of the partitioner,
    /// or when the partitioner refuses the nodes.
    pub fn new(nodes: Vec<NodeSpec>, partitioner: Arc<dyn Partitioner>) -> Result<Self, Error> {
        if nodes.is_empty() {
            return Err(PlacementError::NoNodes.into());
        }
        if nodes.len() > NODES_MAX {
            return Err(Error::config(format!(
                "{} nodes were given, but a topology may have at most {NODES_MAX}",
                nodes.len()
            )));
        }
        // Before anything else: what is refused is shown.
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
            nodes,
            partitioner,
            placement,
            tag,
            fingerprint,
            epoch: 0,
            ids,
        })
    }

    /// Orders the topologies of one client: of two, the one with the larger epoch is newer. A topology that was given to a
    /// client has epoch 0. It is neither written into the text nor part of the [`fingerprint`](Self::fingerprint).
    ///
    /// A [`NodeIndex`] means something only in the epoch it was made in; a [`NodeId`] means the same node in all.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The nodes, in the order in which they were given.
    pub fn nodes(&self) -> &[NodeSpec] {
        &self.nodes
    }

    /// The node at `index`.
    ///
    /// # Panics
    ///
    /// When `index` comes from another, larger topology.
    pub fn node(&self, index: NodeIndex) -> &NodeSpec {
        &self.nodes[index.get()]
    }

    /// The position of the node called `name`.
    pub fn index_of(&self, name: &str) -> Option<NodeIndex> {
        let position = self.nodes.iter().position(|node| node.name() == name)?;
        Some(NodeIndex::new(position as u16))
    }

    /// The position of the node with this identity.
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

    /// Every node's position, in order.
    pub fn indices(&self) -> impl ExactSizeIterator<Item = NodeIndex> + use<> {
        (0..self.nodes.len() as u16).map(NodeIndex::new)
    }

    /// The rule that places the keys.
    pub fn partitioner(&self) -> &dyn Partitioner {
        self.partitioner.as_ref()
    }

    pub(crate) fn shared_partitioner(&self) -> Arc<dyn Partitioner> {
        Arc::clone(&self.partitioner)
    }

    /// Which bytes of a key decide where it lives.
    pub fn hash_tag(&self) -> &HashTag {
        &self.tag
    }

    /// The owner of `key`, or `None` when the rule leaves it without one.
    #[inline]
    pub fn locate(&self, key: &[u8]) -> Option<NodeIndex> {
        self.placement
            .locate(self.tag.of(key))
            .filter(|index| index.get() < self.nodes.len())
    }

    /// A number that is alike on two clients that place alike: it covers the names, weights and order of the nodes, the
    /// partitioner's name and options, and the tag rule. It does not cover addresses.
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

    fn with_urls(mut self, urls: Vec<Option<NodeUrl>>) -> Self {
        debug_assert_eq!(urls.len(), self.nodes.len());
        self.urls = urls;
        self
    }

    /// The same topology, which knows how its nodes are reached.
    pub(crate) fn with_endpoints(self, infos: &[ConnectionInfo]) -> Result<Self, Error> {
        let url = |(node, info): (&NodeSpec, &ConnectionInfo)| {
            let name = node.name();
            NodeUrl::of(info)
                .map_err(|cause| Error::config(format!("node {name:?}: {cause}")).at_node(name))
        };
        let urls = self.nodes.iter().zip(infos).map(url);
        let urls = urls.collect::<Result<_, _>>()?;
        Ok(self.with_urls(urls))
    }

    /// How to reach every node. `refused_url` says why redis-rs did not take a URL.
    pub(crate) fn connection_infos(
        &self,
        refused_url: impl Fn(&RedisError) -> String,
    ) -> Vec<Result<ConnectionInfo, Error>> {
        let info = |(node, url): (&NodeSpec, &Option<NodeUrl>)| {
            let info = match url {
                Some(url) => url.info().map_err(|error| refused_url(&error)),
                None => url::info_at(node.address()),
            };
            let name = node.name();
            info.map_err(|cause| Error::config(format!("node {name:?}: {cause}")).at_node(name))
        };
        self.nodes.iter().zip(&self.urls).map(info).collect()
    }
}

/// Whether passwords are written.
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
            .finish_non_exhaustive()
    }
}

fn check_names(nodes: &[NodeSpec]) -> Result<(), Error> {
    let mut names: Vec<&str> = nodes.iter().map(NodeSpec::name).collect();
    names.sort_unstable();
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

/// The nodes by identity. Names are checked before: here two nodes with one id have different names.
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

/// An address is written and read as it is; a URL would be read as another address.
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

/// XXH3-64 of a text in which every part is preceded by its length, so that no two topologies give one text.
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
        add(if node.is_named() { "named" } else { "address" });
    }
    xxh3_64(text.as_bytes())
}

#[cfg(test)]
impl Topology {
    /// The same topology in another epoch.
    pub(crate) fn with_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }
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
