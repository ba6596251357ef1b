//! The setters of [`Builder`] for nodes with replicas, and [`ReplicaOptions`], what they collect.

use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::config::Builder;
use crate::config::client_config::ClientOptions;
use crate::endpoint::tls::refused_url;
use crate::endpoint::{Endpoint, ReplicaServer};
use crate::error::Error;
use crate::partition::NodeSpec;
use crate::policy::{LagLimits, ReadFrom, ReplicaId};
use crate::replication::{MonitorSettings, ReplicationMonitor};
use crate::sentinel::AddressMap;
use crate::topology::address;
use crate::topology::replication::REPLICAS_MAX;

/// The default of [`Builder::max_replica_lag`] in bytes: ten times the replication backlog that Redis keeps by default.
pub const DEFAULT_REPLICA_LAG_BYTES: u64 = 10 << 20;
/// The default of [`Builder::max_replica_lag`] in time: that of Redis' own `min-replicas-max-lag`.
pub const DEFAULT_REPLICA_LAG_TIME: Duration = Duration::from_secs(10);

/// The replicas of all nodes.
pub(super) struct ReplicaOptions {
    /// Node and replica, in the order in which they were given. One whose URL was refused keeps its error until the
    /// client is built.
    given: Vec<(String, Result<ConnectionInfo, Error>)>,
    discovers: bool,
    limits: LagLimits,
    /// Asks the servers about their replication. `None` before the client is built, and if no node can have replicas.
    monitor: Option<Arc<ReplicationMonitor>>,
}

impl Builder {
    /// Adds a replica to the node called `node`, which may be added before or afterwards. Its URL needs no more than an
    /// address: username and password are those of the client unless it has its own, and the database is that of the
    /// node. At most 64 for each node.
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
    /// Time does not pass while the primary is down: the replicas then miss nothing new. Defaults to
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

impl Default for ReplicaOptions {
    fn default() -> Self {
        Self {
            given: Vec::new(),
            discovers: false,
            limits: LagLimits {
                bytes: Some(DEFAULT_REPLICA_LAG_BYTES),
                time: Some(DEFAULT_REPLICA_LAG_TIME),
            },
            monitor: None,
        }
    }
}

impl ReplicaOptions {
    /// Checks the replicas that were given for these nodes, and prepares to watch them.
    pub(super) fn check(
        mut self,
        nodes: &[NodeSpec],
        connect_timeout: Duration,
        address_map: Option<&AddressMap>,
    ) -> Result<Self, Error> {
        for (node, info) in &self.given {
            let info = info.as_ref().map_err(Clone::clone)?;
            if !nodes.iter().any(|spec| spec.name() == node) {
                return Err(Error::config(format!(
                    "a replica was given for node {node:?}, but there is no node of that name"
                )));
            }
            let address = address(info.addr());
            if let Some(spec) = nodes.iter().find(|spec| spec.address() == address) {
                return Err(Error::config(format!(
                    "a replica of node {node:?} has the address {address}, which is that of node {:?}",
                    spec.name()
                )));
            }
            let same = |(_, other): &&(String, Result<ConnectionInfo, Error>)| {
                other
                    .as_ref()
                    .is_ok_and(|other| other.addr() == info.addr())
            };
            if self.given.iter().filter(same).count() > 1 {
                return Err(Error::config(format!(
                    "a replica with the address {address} was given twice"
                )));
            }
            if self.given.iter().filter(|(other, _)| other == node).count() > REPLICAS_MAX {
                return Err(Error::config(format!(
                    "node {node:?} has more than {REPLICAS_MAX} replicas"
                )));
            }
        }
        if self.discovers || !self.given.is_empty() {
            self.monitor = Some(ReplicationMonitor::new(MonitorSettings {
                limits: self.limits,
                discovers: self.discovers,
                connect_timeout,
                address_map: address_map.cloned(),
            }));
        }
        Ok(self)
    }

    /// True if a node may have replicas.
    pub(super) fn exist(&self) -> bool {
        self.monitor.is_some()
    }

    /// Adds to the endpoint of a node what it needs to have replicas, if it can have any.
    pub(super) fn attach(
        &self,
        endpoint: &mut Endpoint,
        options: &ClientOptions,
    ) -> Result<(), Error> {
        let Some(monitor) = &self.monitor else {
            return Ok(());
        };
        let node = endpoint.observer.node().name();
        let given = self.given.iter().filter(|(name, _)| name == node);
        let infos: Vec<&ConnectionInfo> =
            given.filter_map(|(_, info)| info.as_ref().ok()).collect();
        if infos.is_empty() && !self.discovers {
            return Ok(());
        }
        let replica = |(id, info): (u32, &ConnectionInfo)| {
            let info = complete(node, info, endpoint, options)?;
            let observer = endpoint.observer.of_replica(&address(info.addr()));
            let server = options.server(info, observer)?;
            Ok(ReplicaServer::new(ReplicaId(id), Arc::new(server)))
        };
        let servers = (1..).zip(infos).map(replica);
        let servers = servers.collect::<Result<Vec<_>, Error>>()?;
        monitor.add_node(endpoint, servers);
        Ok(())
    }
}

/// The connection settings of a replica, with what its URL leaves out.
fn complete(
    node: &str,
    info: &ConnectionInfo,
    primary: &Endpoint,
    options: &ClientOptions,
) -> Result<ConnectionInfo, Error> {
    let own = primary.info.redis_settings();
    let info = options
        .login
        .complete(node, info, options.password.as_deref())?;
    let mut settings = info.redis_settings().clone();
    if settings.db() != 0 && settings.db() != own.db() {
        return Err(Error::config(format!(
            "a replica of node {:?} uses database {}, but the node uses database {}",
            node,
            settings.db(),
            own.db()
        ))
        .at_node(node));
    }
    if settings.password().is_none()
        && let Some(password) = own.password()
    {
        settings = settings.set_password(password);
        if let Some(username) = own.username() {
            settings = settings.set_username(username);
        }
    }
    let settings = settings.set_db(own.db()).set_protocol(own.protocol());
    Ok(info.set_redis_settings(settings))
}
