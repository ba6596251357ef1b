//! The setter of [`Builder`] for caches.

use crate::config::Builder;
use crate::config::client_config::Purpose;
use crate::policy::Ejection;

impl Builder {
    /// Makes the client a cache: a node that fails is ejected, so that its keys go to other nodes until it is back,
    /// and the topology may be [replaced](crate::ShardedClient::set_topology) by one that places keys otherwise. A key
    /// that has moved is a miss.
    ///
    /// Reads and writes of a key go to its owner by the nodes that are in, also those of a pipeline, a split command
    /// or a transaction. Commands to all nodes, scans, pattern subscriptions and so on go to the nodes that are in.
    /// Handles to one node ([`node`](crate::ShardedClient::node),
    /// [`dedicated`](crate::ShardedClient::dedicated)) stay at their node. Until a node is ejected, its requests fail as
    /// they do in a store: see [`missing_nodes`](Self::missing_nodes) and [`retry`](Self::retry).
    ///
    /// A thread probes the nodes that have failed. It is started by the first failure, and ends after the last handle
    /// is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use redis_sharding::redis::Commands;
    /// use redis_sharding::{Ejection, ShardedClient};
    /// # use redis_sharding::testing::TestNode;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let servers = TestNode::start_many(3)?;
    /// let mut client = ShardedClient::builder()
    ///     .node("a", servers[0].url())
    ///     .node("b", servers[1].url())
    ///     .node("c", servers[2].url())
    ///     .cache(Ejection::new().with_window(Duration::from_millis(500)))
    ///     .build()?;
    /// let owner = client.node_for("user:1")?.name().to_owned();
    /// servers[["a", "b", "c"].iter().position(|name| *name == owner).unwrap()].stop();
    /// while client.set::<_, _, ()>("user:1", "Ada").is_err() {}
    /// assert_ne!(client.node_for("user:1")?.name(), owner);
    /// # Ok(()) }
    /// ```
    ///
    /// Defaults to none: the client is a data store, and keys never move.
    pub fn cache(mut self, ejection: Ejection) -> Self {
        self.purpose = Purpose::Cache(ejection);
        self
    }
}
