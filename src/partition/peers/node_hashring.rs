//! npm's `hashring`.

use std::borrow::Cow;
use std::sync::Arc;

use super::super::catalogue::{GivenOptions, OptionInfo, OptionValues, PartitionerInfo};
use super::super::living::place_over_living;
use super::super::ring::POINTS_PER_WEIGHT_MAX;
use super::super::{
    OutNodes, Partitioner, Placement, PlacementError, RingSpec, WEIGHTS_MAX, check_names,
    check_total, indexed,
};
use super::{in_bounds, place_words, words};
use crate::hash::{HashTag, KeyHash, md5_words, named, sha1_words, sha256_words};
use crate::partition::NodeSpec;

/// The placement of npm's `hashring`, the ketama ring of Node.js.
///
/// - **Equals**: hashring 3.2.0. Not recorded: other digests than MD5, SHA-1 and SHA-256, which are left out, and
///   functions in place of a digest.
/// - **Nodes**: the string as it was given, usually `host:port`.
/// - **Weights**: relative, in 64-bit floating point, rounded down; a node can end up without a point. Where the servers
///   were given with `vnodes` of their own: [`NodeHashringWeights::Labels`].
/// - **Tag**: none.
/// - **Skew**: for eight nodes the largest has on average 1.11 times its share, at worst 1.21.
/// - **While nodes are out**: as after `remove` of these servers: the ring is that of the others. hashring itself takes none
///   out.
/// - **Undefined in the original**: nothing. Of equal points the first server has it.
/// - **Source**: `index.js` (3.2.0).
///
/// ```
/// use redis_sharding::partition::peers::NodeHashring;
/// use redis_sharding::partition::Partitioner;
/// use redis_sharding::NodeSpec;
///
/// // new HashRing(["10.0.0.1:6379", ...], "md5", { compatibility: "hash_ring" })
/// let ring = NodeHashring::new().with_replicas(3);
/// let placement = ring.place(&[1, 2, 3].map(|i| NodeSpec::unnamed(format!("10.0.0.{i}:6379"))))?;
/// assert!(placement.locate(b"foo").is_some());
/// # Ok::<(), redis_sharding::partition::PlacementError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHashring {
    algorithm: NodeHashringAlgorithm,
    labels: u32,
    replicas: u32,
    weights: NodeHashringWeights,
    default_port: Option<u16>,
}

named! {
    /// The `algorithm` of npm's `hashring`, by the names of Node.js.
    pub enum NodeHashringAlgorithm {
        /// MD5, the default: up to four points for each label.
        Md5 = "md5",
        /// SHA-1: up to five.
        Sha1 = "sha1",
        /// SHA-256: up to eight.
        Sha256 = "sha256",
    }
}

named! {
    /// What the weights of nodes are on the ring of npm's `hashring`.
    pub enum NodeHashringWeights {
        /// Parts of the whole, for servers that were given as `NAME: WEIGHT`, or as `NAME: { weight: WEIGHT }`.
        Relative = "relative",
        /// Numbers of labels, for servers that were given as `NAME: { vnodes: NUMBER }`.
        Labels = "labels",
    }
}

impl NodeHashringAlgorithm {
    const fn key_hash(self) -> KeyHash {
        match self {
            Self::Md5 => KeyHash::Md5,
            Self::Sha1 => KeyHash::Sha1,
            Self::Sha256 => KeyHash::Sha256,
        }
    }

    /// Number of words of a digest.
    const fn words(self) -> u32 {
        match self {
            Self::Md5 => 4,
            Self::Sha1 => 5,
            Self::Sha256 => 8,
        }
    }
}

impl NodeHashring {
    /// The ring without options: MD5, 40 labels of four points for a server of average weight.
    pub const fn new() -> Self {
        Self {
            algorithm: NodeHashringAlgorithm::Md5,
            labels: 40,
            replicas: 4,
            weights: NodeHashringWeights::Relative,
            default_port: None,
        }
    }

    /// The `algorithm`. Defaults to [`NodeHashringAlgorithm::Md5`].
    #[must_use]
    pub const fn with_algorithm(mut self, algorithm: NodeHashringAlgorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// The option `vnode count`, from 1 to 1024. Defaults to 40.
    #[must_use]
    pub const fn with_labels(mut self, labels: u32) -> Self {
        self.labels = labels;
        self
    }

    /// The option `replicas`, how many points a label has: from 1 to the four-byte words of a digest. Defaults to 4; with
    /// `compatibility: 'hash_ring'` it is 3.
    #[must_use]
    pub const fn with_replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// What the weights of the nodes are. Defaults to [`NodeHashringWeights::Relative`].
    #[must_use]
    pub const fn with_weights(mut self, weights: NodeHashringWeights) -> Self {
        self.weights = weights;
        self
    }

    /// The option `default port`: a server on this port is hashed without its port.
    #[must_use]
    pub const fn with_default_port(mut self, port: u16) -> Self {
        self.default_port = Some(port);
        self
    }

    pub(in super::super) const ENTRY: PartitionerInfo = PartitionerInfo {
        name: "node-hashring/1",
        summary: "npm hashring: ketama ring over servers",
        options: &[
            OptionInfo {
                name: "algorithm",
                meaning: "the digest of keys and labels",
                default: Some("md5"),
                values: OptionValues::OneOf(NodeHashringAlgorithm::NAMES),
            },
            OptionInfo {
                name: "labels",
                meaning: "vnode count, how many labels a node of average weight has",
                default: Some("40"),
                values: OptionValues::Number {
                    min: 1,
                    max: POINTS_PER_WEIGHT_MAX as u64,
                },
            },
            OptionInfo {
                name: "replicas",
                meaning: "how many points a label has; 3 with compatibility: 'hash_ring'",
                default: Some("4"),
                values: OptionValues::Number { min: 1, max: 8 },
            },
            OptionInfo {
                name: "weights",
                meaning: "whether weights are parts of the whole or numbers of labels",
                default: Some("relative"),
                values: OptionValues::OneOf(NodeHashringWeights::NAMES),
            },
            OptionInfo {
                name: "default-port",
                meaning: "a node on this port is hashed without its port",
                default: Some(NO_PORT),
                values: OptionValues::Text("none, or a port"),
            },
        ],
        make: |given| Ok(Arc::new(Self::from_given(given)?)),
    };

    fn from_given(given: &GivenOptions<'_>) -> Result<Self, PlacementError> {
        let port = |word: &str| match word {
            NO_PORT => Some(None),
            _ if !word.bytes().all(|byte| byte.is_ascii_digit()) => None,
            _ => word.parse().ok().map(Some),
        };
        Ok(Self {
            algorithm: given.read("algorithm", NodeHashringAlgorithm::from_name)?,
            labels: given.number("labels")?,
            replicas: given.number("replicas")?,
            weights: given.read("weights", NodeHashringWeights::from_name)?,
            default_port: given.read("default-port", port)?,
        })
    }

    fn check(&self, nodes: &[NodeSpec]) -> Result<(), PlacementError> {
        check_names(nodes)?;
        in_bounds("labels", self.labels, 1, POINTS_PER_WEIGHT_MAX)?;
        in_bounds("replicas", self.replicas, 1, self.algorithm.words())?;
        let heaviest = match self.weights {
            NodeHashringWeights::Relative => u32::MAX,
            NodeHashringWeights::Labels => WEIGHTS_MAX,
        };
        check_total(nodes, heaviest)
    }

    /// Number of labels of a node, in the order of JavaScript's operations.
    fn labels_of(&self, node: &NodeSpec, nodes: &[NodeSpec]) -> u32 {
        let own = node.weight().get();
        let (weight, total) = match self.weights {
            // All servers weigh one. A number that is that of all others does not count as the server's own.
            NodeHashringWeights::Labels if own == self.labels => (1, nodes.len() as u64),
            NodeHashringWeights::Labels => return own,
            NodeHashringWeights::Relative => {
                let weights = nodes.iter().map(|node| u64::from(node.weight().get()));
                (own, weights.sum())
            }
        };
        let part = f64::from(weight) / total as f64;
        (part * f64::from(self.labels) * nodes.len() as f64) as u32
    }

    fn text<'n>(&self, node: &'n NodeSpec) -> Cow<'n, str> {
        let name = node.name();
        let port = |port| name.strip_suffix(&format!(":{port}"));
        self.default_port.and_then(port).unwrap_or(name).into()
    }
}

impl Default for NodeHashring {
    /// [`NodeHashring::new`]: the ring without options.
    fn default() -> Self {
        Self::new()
    }
}

impl Partitioner for NodeHashring {
    fn name(&self) -> &str {
        Self::ENTRY.name
    }

    fn options(&self) -> Vec<(String, String)> {
        let port = self.default_port.map(|port| port.to_string());
        words([
            ("algorithm", self.algorithm.name()),
            ("labels", &self.labels.to_string()),
            ("replicas", &self.replicas.to_string()),
            ("weights", self.weights.name()),
            ("default-port", port.as_deref().unwrap_or(NO_PORT)),
        ])
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        self.check(nodes)?;
        let labelled = indexed(nodes)
            .map(|(index, node)| (index, self.text(node), self.labels_of(node, nodes)));
        let replicas = self.replicas as usize;
        let spec = RingSpec::new().with_key_hash(self.algorithm.key_hash());
        match self.algorithm {
            NodeHashringAlgorithm::Md5 => place_words(&spec, labelled, md5_words, replicas),
            NodeHashringAlgorithm::Sha1 => place_words(&spec, labelled, sha1_words, replicas),
            NodeHashringAlgorithm::Sha256 => place_words(&spec, labelled, sha256_words, replicas),
        }
    }

    fn place_without(
        &self,
        nodes: &[NodeSpec],
        out: &OutNodes,
    ) -> Result<Option<Box<dyn Placement>>, PlacementError> {
        place_over_living(self, nodes, out)
    }

    fn hash_tag(&self) -> HashTag {
        HashTag::None
    }
}

/// The value of the option while there is no default port.
const NO_PORT: &str = "none";

#[cfg(test)]
mod tests {
    use super::super::super::testing::weighted;
    use super::*;

    #[test]
    fn node_hashring_labels_are_rounded_down() {
        let labels = |ring: &NodeHashring, weights: &[u32]| {
            let nodes = weighted(weights);
            let labels = nodes.iter().map(|node| ring.labels_of(node, &nodes));
            labels.collect::<Vec<_>>()
        };
        let ring = NodeHashring::new();
        assert_eq!(labels(&ring, &[100, 50, 1]), [79, 39, 0]);
        assert_eq!(labels(&ring, &[1; 5]), [40; 5]);
        let own = ring.with_weights(NodeHashringWeights::Labels);
        assert_eq!(labels(&own, &[50, 100, 40, 150]), [50, 100, 40, 150]);
    }

    #[test]
    fn node_hashring_refuses_more_replicas_than_a_digest_has_words() {
        let nodes = weighted(&[1, 1]);
        let refusal = NodeHashring::new()
            .with_replicas(5)
            .place(&nodes)
            .unwrap_err();
        assert_eq!(refusal.to_string(), "replicas is 5, but must be in 1..=4");
        let sha1 = NodeHashring::new().with_algorithm(NodeHashringAlgorithm::Sha1);
        assert!(sha1.with_replicas(5).place(&nodes).is_ok());
    }
}
