//! The connections to one node: two pools, and those of its replicas.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::command::BlockingTime;
use crate::config::Settings;
use crate::endpoint::{Endpoint, ReplicaConnections, ServerConnections};
use crate::observe::{NodeHealth, NodeObserver};
use crate::plan::PoolUse;
use crate::policy::Target;
use crate::snapshot::OfEndpoint;
use crate::sync::connection::Connector;
use crate::sync::pool::{Pool, PoolSettings};

/// The connections to one node. Two pools, so that clients that wait in BLPOP cannot use up the connections
/// of everyone else.
#[derive(Debug)]
pub(super) struct NodePools {
    /// How the node is reached.
    pub(super) endpoint: Arc<Endpoint>,
    /// For requests that are served at once.
    pub(super) shared: Pool,
    /// For blocking commands, transactions and dedicated connections.
    pub(super) exclusive: Pool,
    /// Counts and times the requests.
    pub(super) observer: Arc<NodeObserver>,
    /// The connections to the replicas of the node, if it may have any.
    pub(super) replicas: Option<ReplicaConnections<NodePools>>,
}

impl NodePools {
    /// Prepares the connections to one node; nothing is contacted.
    pub(super) fn new(endpoint: &Arc<Endpoint>, settings: &Settings) -> Self {
        // One connector for both pools, so that they share the node's backoff.
        let connector = Connector::new(Endpoint::clone(endpoint));
        let pool = |size, pool_use| {
            let settings = PoolSettings {
                size,
                connect_timeout: settings.connect_timeout,
                idle_check: settings.idle_check,
                pool_use,
            };
            Pool::new(connector.clone(), endpoint.address.clone(), settings)
        };
        let replicas = endpoint.replicas.as_ref().map(|replicas| {
            let settings = *settings;
            ReplicaConnections::new(replicas, move |replica| Self::new(replica, &settings))
        });
        Self {
            replicas,
            endpoint: Arc::clone(endpoint),
            observer: Arc::clone(&endpoint.observer),
            shared: pool(settings.pool_size, PoolUse::Shared),
            exclusive: pool(settings.blocking_pool_size, PoolUse::Exclusive),
        }
    }

    /// The pool for a request that the server may hold back for `blocking`.
    pub(super) fn pool(&self, blocking: BlockingTime) -> &Pool {
        match blocking {
            BlockingTime::None => &self.shared,
            BlockingTime::AtMost(_) | BlockingTime::Forever => &self.exclusive,
        }
    }

    /// The known state of the node.
    pub(super) fn health(&self) -> NodeHealth {
        NodeHealth {
            replicas: self
                .replicas
                .as_ref()
                .map(|replicas| replicas.replicas().health())
                .unwrap_or_default(),
            ..self.shared.node_health(&self.exclusive)
        }
    }

    /// The connections to one server of the node. `None` if it is no longer one of them.
    pub(super) fn server(&self, target: Target) -> Option<ServerPools<'_>> {
        match target {
            Target::Primary => Some(ServerPools::Primary(self)),
            Target::Replica(id) => {
                let replica = self.replicas.as_ref()?.get(id)?;
                Some(ServerPools::Other(replica))
            }
        }
    }
}

impl OfEndpoint for NodePools {
    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    fn retire(&self) {
        self.shared.retire();
        self.exclusive.retire();
    }
}

impl ServerConnections for NodePools {
    fn is_down(&self) -> bool {
        self.shared.is_down()
    }
}

/// The connections to one server of a node, for one request.
pub(super) enum ServerPools<'n> {
    Primary(&'n NodePools),
    Other(Arc<NodePools>),
}

impl Deref for ServerPools<'_> {
    type Target = NodePools;

    fn deref(&self) -> &NodePools {
        match self {
            Self::Primary(pools) => pools,
            Self::Other(pools) => pools,
        }
    }
}

impl NodePools {
    /// How to make a connection outside of the pools, and how long that may take.
    pub(super) fn pub_sub_connector(&self) -> (Connector, Duration) {
        self.shared.connector()
    }
}
