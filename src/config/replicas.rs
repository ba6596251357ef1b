//! The setters of [`Builder`] for nodes with replicas.

use std::time::Duration;

use redis::IntoConnectionInfo;

use crate::config::Builder;
use crate::endpoint::tls::refused_url;
use crate::error::Error;
use crate::policy::ReadFrom;
use crate::topology::replication::LagLimits;

impl Builder {
    /// Adds a replica to the node called `node`, which may be added before or afterwards. Its URL needs no more than an
    /// address: username and password are those of the client unless it has its own, and the database is that of the
    /// node. At most
    /// [`REPLICAS_MAX`](crate::builder::REPLICAS_MAX) for each node.
    ///
    /// Replicas are read from as [`read_from`](Self::read_from) says. A client that knows the replicas of a node also
    /// finds the one that is promoted when the primary is lost.
    ///
    /// ```
    /// use redis_sharding::{ReadFrom, ShardedClient};
    ///
    /// let client = ShardedClient::builder()
    ///     .node("users-a", "redis://10.0.0.1/")
    ///     .replica("users-a", "redis://10.0.0.2/")
    ///     .replica("users-a", "redis://10.0.0.3/")
    ///     .read_from(ReadFrom::PreferReplica)
    ///     .build()?;
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    ///
    /// Defaults to no replicas.
    pub fn replica(mut self, node: impl Into<String>, url: impl IntoConnectionInfo) -> Self {
        let node = node.into();
        let info = url.into_connection_info().map_err(|error| {
            let why = refused_url(&error);
            Error::config(format!("a replica of node {node:?}: {why}")).at_node(&node)
        });
        self.replicas.given.push((node, info));
        self
    }

    /// Finds the replicas of each node: those that its primary lists in reply to INFO, at the addresses that they
    /// announce (`replica-announce-ip`). Asked about once a second; a replica that the primary has not listed for 30 s
    /// is forgotten. Defaults to the replicas that were [given](Self::replica).
    pub fn discover_replicas(mut self) -> Self {
        self.replicas.discovers = true;
        self
    }

    /// Sets the servers to which reads by key are sent, if a node has replicas: see [`ReadFrom`]. A handle can have
    /// another one: [`ShardedClient::with_read_from`](crate::ShardedClient::with_read_from). Applies to the clients of a
    /// proxy as well. Defaults to [`ReadFrom::Primary`].
    pub fn read_from(mut self, read_from: ReadFrom) -> Self {
        self.settings.read_from = read_from;
        self
    }

    /// Sets how far a replica may be behind its primary to be read from: in bytes of the replication stream, and in
    /// time since the primary had data that the replica lacks. Both are known to about a second, as the servers are
    /// asked that often. `None` is no limit: such a replica is read from while its link to the primary is up.
    ///
    /// Time does not pass while the primary cannot be reached: if it is down, the replicas miss nothing new. A client and
    /// a replica that are cut off together from a living primary cannot tell the difference, and such reads may be as old
    /// as the cut. Defaults to
    /// [`DEFAULT_REPLICA_LAG_BYTES`](crate::builder::DEFAULT_REPLICA_LAG_BYTES) and
    /// [`DEFAULT_REPLICA_LAG_TIME`](crate::builder::DEFAULT_REPLICA_LAG_TIME).
    pub fn max_replica_lag(
        mut self,
        bytes: impl Into<Option<u64>>,
        time: impl Into<Option<Duration>>,
    ) -> Self {
        self.replicas.limits = LagLimits {
            bytes: bytes.into(),
            time: time.into(),
        };
        self
    }

    /// Sets the time after which a read that has no reply yet is also sent to the next server of its node, in the order
    /// of [`read_from`](Self::read_from); the first reply is returned. Only for a single read, and only where
    /// `read_from` names a second server. At most one read in ten is sent twice, so that servers which are late because
    /// of their load do not get twice as much of it. From 1 ns to [`TIMEOUT_MAX`](crate::builder::TIMEOUT_MAX); the
    /// 95th or 99th percentile of the usual latency is a good choice. Defaults to `None`: nothing is sent twice.
    pub fn hedged_reads(mut self, after: impl Into<Option<Duration>>) -> Self {
        self.settings.hedge_after = after.into();
        self
    }
}
