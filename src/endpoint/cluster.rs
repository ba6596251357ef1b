//! The servers of a Redis Cluster by their addresses: [`ClusterServers`], how each is reached.
//!
//! A redirect names a server that the map may not contain yet, such as a replica that has just become a primary. It is
//! connected to all the same, and keeps its connections when it becomes a node of the topology.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::topology::HostPort;

/// Maximum number of servers of one cluster that are known by redirects or as nodes. A cluster has at most 1000
/// primaries by the advice of its authors; addresses beyond this limit are those of servers that make them up.
const SERVERS_MAX: usize = 4096;

/// Who knows the map of a cluster.
pub(crate) trait ClusterSource: Send + Sync {
    /// A server has replied MOVED: this slot belongs to the server at `to`, as the reply names it. Returns at once.
    fn moved(&self, slot: u16, to: &HostPort);

    /// The map may be out of date: a node was lost, or does not serve its slots. Returns at once.
    fn suspect(&self);
}

/// How the servers of one cluster are reached. Shared by all connections of a client.
pub(crate) struct ClusterServers {
    source: Arc<dyn ClusterSource>,
    endpoints: Mutex<HashMap<HostPort, Arc<Endpoint>>>,
    /// Turns an address as the servers name it into one that leads to the server from here.
    map_address: Box<MapAddress>,
    /// Prepares the endpoint of a server; nothing is contacted.
    make: Box<MakeEndpoint>,
}

type MapAddress = dyn Fn(&HostPort) -> HostPort + Send + Sync;
type MakeEndpoint = dyn Fn(&HostPort) -> Result<Endpoint, Error> + Send + Sync;

impl ClusterServers {
    /// The servers of a cluster, of which none is known yet. `map_address` turns an address as the servers name it into
    /// one that leads to the server from here, `make` prepares the endpoint of a server.
    pub(crate) fn new(
        source: Arc<dyn ClusterSource>,
        map_address: impl Fn(&HostPort) -> HostPort + Send + Sync + 'static,
        make: impl Fn(&HostPort) -> Result<Endpoint, Error> + Send + Sync + 'static,
    ) -> Self {
        Self {
            source,
            endpoints: Mutex::default(),
            map_address: Box::new(map_address),
            make: Box::new(make),
        }
    }

    /// Who knows the map.
    pub(crate) fn source(&self) -> &dyn ClusterSource {
        &*self.source
    }

    /// How the server is reached that a redirect names so.
    ///
    /// # Errors
    ///
    /// If no connection can be described for it.
    pub(crate) fn redirected(&self, named: &HostPort) -> Result<Arc<Endpoint>, Error> {
        self.endpoint(&(self.map_address)(named))
    }

    /// How the server with this address is reached.
    ///
    /// # Errors
    ///
    /// If no connection can be described for it.
    pub(crate) fn endpoint(&self, address: &HostPort) -> Result<Arc<Endpoint>, Error> {
        let mut endpoints = self.endpoints.lock();
        if let Some(endpoint) = endpoints.get(address) {
            return Ok(Arc::clone(endpoint));
        }
        let endpoint = Arc::new((self.make)(address)?);
        if endpoints.len() >= SERVERS_MAX {
            endpoints.retain(|_, endpoint| Arc::strong_count(endpoint) > 1);
        }
        if endpoints.len() < SERVERS_MAX {
            endpoints.insert(address.clone(), Arc::clone(&endpoint));
        }
        Ok(endpoint)
    }

    /// Forgets the servers that nobody uses any more: they have left the cluster, or were named by mistake.
    pub(crate) fn forget_unused(&self) {
        let mut endpoints = self.endpoints.lock();
        endpoints.retain(|_, endpoint| Arc::strong_count(endpoint) > 1);
    }
}

impl fmt::Debug for ClusterServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterServers").finish_non_exhaustive()
    }
}
