//! The setter of [`Builder`] for reads whose node cannot be reached.

use crate::config::Builder;
use crate::plan::ReadsAs;

impl Builder {
    /// Sets the result of GET, MGET, EXISTS and other reads by key when the node of the keys cannot be reached: an
    /// error, or, for caches, the reply of a server that does not have these keys. See [`ReadsAs`] for what
    /// counts as unreachable, and the column *missing keys* of `docs/commands.md` for the commands and their
    /// replies. Reads over all nodes (KEYS, SCAN, DBSIZE) have [`partial_reads`](Self::partial_reads).
    ///
    /// Has no effect on writes, nor on reads in a transaction, under WATCH, over a dedicated connection or on
    /// `client.node(name)`: they fail. In a pipeline it applies to each read by itself.
    ///
    /// While a node is known to be down, the reply comes at once. A node that accepts connections and does not
    /// reply costs its requests the [`response_timeout`](Self::response_timeout), or, where a new connection is
    /// needed, the [`connect_timeout`](Self::connect_timeout): choose short ones for a cache.
    ///
    /// ```
    /// use redis_sharding::redis::Commands;
    /// use redis_sharding::{PartialReads, ReadsAs, ShardedClient};
    /// # use redis_sharding::testing::TestNode;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let servers = TestNode::start_many(2)?;
    /// let mut client = ShardedClient::builder()
    ///     .node("a", servers[0].url())
    ///     .node("b", servers[1].url())
    ///     .missing_nodes(ReadsAs::Miss)
    ///     .partial_reads(PartialReads::Allowed)
    ///     .build()?;
    /// let () = client.mset(&[("user:1", "Ada"), ("user:2", "Grace"), ("user:3", "Ken")])?;
    /// servers[0].stop();
    /// let found: Vec<Option<String>> = client.mget(&["user:1", "user:2", "user:3"])?;
    /// assert!(found.contains(&None), "a key of node a");
    /// assert!(found.iter().any(Option::is_some), "the keys of node b");
    /// # Ok(()) }
    /// ```
    ///
    /// Defaults to [`ReadsAs::Error`].
    pub fn missing_nodes(mut self, reads_as: ReadsAs) -> Self {
        self.missing_nodes = reads_as;
        self
    }
}
