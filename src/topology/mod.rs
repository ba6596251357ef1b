//! The nodes, and which of them owns a key: one immutable snapshot.
//!
//! [`Topology`] is here, its text in `text`, which `statements` reads, and in `url` how a node is reached. Nothing here connects to a node.

mod statements;
mod text;
mod url;

use std::fmt;
use std::sync::Arc;

use redis::ConnectionInfo;
use xxhash_rust::xxh3::xxh3_64;

use self::url::NodeUrl;
use crate::endpoint::tls::refused_url;
use crate::error::Error;
use crate::hash::HashTag;
use crate::partition::{NODES_MAX, NodeIndex, NodeSpec};
use crate::partition::{Partitioner, Placement, PlacementError, check_passwords, check_words};

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
}

impl Topology {
    /// Places keys over `nodes` by the rule of `partitioner`.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) when there is no node, more than [`NODES_MAX`] nodes, an empty name, two
    /// nodes of one name, a URL instead of an address, a password in a name, an address or an option of the partitioner,
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
        })
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

    /// How to reach every node.
    pub(crate) fn connection_infos(&self) -> Vec<Result<ConnectionInfo, Error>> {
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
