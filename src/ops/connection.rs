//! [`Fleet`]: the nodes of an operation, and connections to them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{IntoConnectionInfo, ProtocolVersion};

use crate::config::{Builder, ClientConfig};
use crate::endpoint::Endpoint;
use crate::endpoint::tls::{Runtime, refused_url};
use crate::error::Error;
use crate::topology::Topology;
use crate::topology::record::{ConnectionRole, NameSuffix, RecordEpoch};

pub(crate) use crate::record::NodeConnection;

/// How the nodes of any topology are reached: with the users, passwords, certificates and timeouts of one description of
/// a client.
#[derive(Clone)]
pub(crate) struct Fleet {
    config: Arc<ClientConfig>,
}

/// A node of a topology, and how it is reached.
#[derive(Clone, Debug)]
pub(crate) struct FleetNode {
    pub(crate) name: String,
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Fleet {
    /// Takes the nodes, users, passwords, certificates and timeouts of a client that is described so.
    ///
    /// # Errors
    ///
    /// As for [`Builder::build`].
    pub(crate) fn new(builder: Builder) -> Result<Self, Error> {
        let config = Arc::new(builder.config(Runtime::Blocking)?);
        if config.router.topology().cluster().is_some() {
            return Err(Error::config(
                "the servers of a Redis Cluster decide by themselves where keys live, and have no record; use \
                 `redis-cli --cluster`",
            ));
        }
        Ok(Self { config })
    }

    /// The topology of the description.
    pub(crate) fn topology(&self) -> &Arc<Topology> {
        self.config.router.topology()
    }

    /// The nodes of the description, in their order.
    pub(crate) fn nodes(&self) -> Vec<FleetNode> {
        nodes(&self.config)
    }

    /// The nodes of another topology, in their order. Those that the description has as well are reached as it says.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if a node cannot be reached as the topology says.
    pub(crate) fn nodes_of(&self, topology: &Topology) -> Result<Vec<FleetNode>, Error> {
        Ok(nodes(&self.config.for_record(topology)?))
    }

    /// The nodes of another topology at the addresses that it says, with the users and passwords for all nodes.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if a node cannot be reached as the topology says.
    pub(crate) fn nodes_at(&self, topology: &Topology) -> Result<Vec<FleetNode>, Error> {
        let infos = topology.connection_infos(refused_url);
        let nodes = topology.nodes().iter().zip(infos).map(|(node, access)| {
            let endpoint = Arc::new(self.config.server_at(access?.info)?);
            let name = node.name().to_owned();
            Ok(FleetNode { name, endpoint })
        });
        nodes.collect()
    }

    /// The node at this URL, which need not be one of a topology.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the URL cannot be parsed.
    pub(crate) fn node_at(&self, url: impl IntoConnectionInfo) -> Result<FleetNode, Error> {
        let info = url
            .into_connection_info()
            .map_err(|error| Error::config(refused_url(&error)))?;
        let endpoint = Arc::new(self.config.server_at(info)?);
        let name = endpoint.address.clone();
        Ok(FleetNode { name, endpoint })
    }

    /// The database of the data.
    pub(crate) fn db(&self) -> i64 {
        self.config.db
    }

    /// Maximum duration of connecting to a node, and of a reply.
    pub(crate) fn limit(&self) -> Duration {
        self.config.settings.connect_timeout
    }

    /// Connects to a node.
    ///
    /// # Errors
    ///
    /// As for [`NodeConnection::open`].
    pub(crate) fn connect(
        &self,
        node: &FleetNode,
        role: ConnectionRole,
        epoch: RecordEpoch,
    ) -> Result<NodeConnection, Error> {
        let suffix = NameSuffix { role, epoch };
        NodeConnection::open(&node.endpoint, ProtocolVersion::RESP2, suffix, self.limit())
    }
}

fn nodes(config: &ClientConfig) -> Vec<FleetNode> {
    let nodes = config.router.topology().nodes().iter();
    let nodes = nodes
        .zip(&config.endpoints)
        .map(|(node, endpoint)| FleetNode {
            name: node.name().to_owned(),
            endpoint: Arc::clone(endpoint),
        });
    nodes.collect()
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("topology", self.topology())
            .finish_non_exhaustive()
    }
}
