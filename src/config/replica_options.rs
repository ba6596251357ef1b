//! [`ReplicaOptions`]: the replicas of all nodes, as they were given to the builder.

use std::sync::Arc;
use std::time::Duration;

use redis::ConnectionInfo;

use crate::endpoint::{Endpoint, ReplicaServer};
use crate::error::Error;
use crate::observe::NodeObserver;
use crate::partition::NodeSpec;
use crate::policy::ReplicaId;
use crate::replication::{ListedReplicas, MonitorSettings, ReplicationMonitor};
use crate::sentinel::AddressMap;
use crate::topology::address;
use crate::topology::replication::{LagLimits, REPLICAS_MAX};

/// The default of [`Builder::max_replica_lag`](crate::Builder::max_replica_lag) in bytes: ten times the replication backlog that Redis keeps by default.
pub const DEFAULT_REPLICA_LAG_BYTES: u64 = 10 << 20;
/// The default of [`Builder::max_replica_lag`](crate::Builder::max_replica_lag) in time: that of Redis' own `min-replicas-max-lag`.
pub const DEFAULT_REPLICA_LAG_TIME: Duration = Duration::from_secs(10);

/// The replicas of all nodes.
#[derive(Clone)]
pub(super) struct ReplicaOptions {
    /// Node and replica, in the order in which they were given. One whose URL was refused keeps its error until the
    /// client is built.
    pub(super) given: Vec<(String, Result<ConnectionInfo, Error>)>,
    pub(super) discovers: bool,
    pub(super) limits: LagLimits,
    /// True for the replicas of a cluster.
    is_cluster: bool,
    /// Asks the servers about their replication. `None` before the client is built, and if no node can have replicas.
    monitor: Option<Arc<ReplicationMonitor>>,
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
            is_cluster: false,
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
                elects: true,
                connect_timeout,
                address_map: address_map.cloned(),
                listed: None,
            }));
        }
        Ok(self)
    }

    /// Prepares to watch the nodes of a cluster, whose replicas are found.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if replicas were given.
    pub(super) fn of_cluster(
        mut self,
        connect_timeout: Duration,
        address_map: Option<&AddressMap>,
        listed: ListedReplicas,
    ) -> Result<Self, Error> {
        if !self.given.is_empty() {
            return Err(Error::config(
                "replicas were given for a cluster, whose servers name their replicas; leave out `Builder::replica`",
            ));
        }
        self.discovers = true;
        self.is_cluster = true;
        self.monitor = Some(ReplicationMonitor::new(MonitorSettings {
            limits: self.limits,
            discovers: true,
            elects: false,
            connect_timeout,
            address_map: address_map.cloned(),
            listed: Some(listed),
        }));
        Ok(self)
    }

    /// True if a node may have replicas.
    pub(super) fn exist(&self) -> bool {
        self.monitor.is_some()
    }

    /// Adds to the endpoint of a node what it needs to have replicas, if it can have any. `complete` gives a server what
    /// its URL leaves out, `server` makes its endpoint.
    pub(super) fn attach(
        &self,
        endpoint: &mut Endpoint,
        complete: impl Fn(&ConnectionInfo) -> Result<ConnectionInfo, Error>,
        server: impl Fn(ConnectionInfo, Arc<NodeObserver>) -> Result<Endpoint, Error>,
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
            let info = like_primary(complete(info)?, endpoint)?;
            let observer = endpoint.observer.of_replica(&address(info.addr()));
            let replica = server(info, observer)?;
            Ok(ReplicaServer::new(ReplicaId(id), Arc::new(replica)))
        };
        let servers = (1..).zip(infos).map(replica);
        let servers = servers.collect::<Result<Vec<_>, Error>>()?;
        monitor.add_node(endpoint, servers);
        Ok(())
    }
}

/// The connection settings of a replica, with what its URL and those of the client leave out.
fn like_primary(info: ConnectionInfo, primary: &Endpoint) -> Result<ConnectionInfo, Error> {
    let own = primary.info.redis_settings();
    let mut settings = info.redis_settings().clone();
    if settings.db() != 0 && settings.db() != own.db() {
        let node = primary.observer.node().name();
        return Err(Error::config(format!(
            "a replica of node {node:?} uses database {}, but the node uses database {}",
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
