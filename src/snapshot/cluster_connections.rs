//! [`ClusterConnections`]: the connections to the servers of a Redis Cluster, whether they are nodes of the current
//! topology or were named by a redirect.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::endpoint::{ClusterServers, Endpoint};
use crate::plan::ClusterReport;
use crate::snapshot::OfEndpoint;
use crate::topology::HostPort;

/// The connections to the servers of a cluster, for one set of connections of a client.
pub(crate) struct ClusterConnections<C> {
    servers: Arc<ClusterServers>,
    /// By endpoint, which is one for each address.
    opened: Mutex<Vec<(Arc<Endpoint>, Arc<C>)>>,
    /// Prepares the connections to one server; nothing is contacted.
    make: Box<MakeConnections<C>>,
}

type MakeConnections<C> = dyn Fn(&Arc<Endpoint>) -> C + Send + Sync;

impl<C: OfEndpoint> ClusterConnections<C> {
    /// No connections yet; those to a server are prepared by `make`.
    pub(crate) fn new(
        servers: &Arc<ClusterServers>,
        make: impl Fn(&Arc<Endpoint>) -> C + Send + Sync + 'static,
    ) -> Self {
        Self {
            servers: Arc::clone(servers),
            opened: Mutex::default(),
            make: Box::new(make),
        }
    }

    /// Tells the source of the map what replies have shown.
    pub(crate) fn report(&self, reports: Vec<ClusterReport>) {
        let source = self.servers.source();
        for report in reports {
            match report {
                ClusterReport::Moved(slot, to) => source.moved(slot, &to),
                ClusterReport::Suspect => source.suspect(),
            }
        }
    }

    /// The connections to the server that a redirect names so.
    /// `None` if no connection can be described for it.
    pub(crate) fn redirected(&self, named: &HostPort) -> Option<Arc<C>> {
        let endpoint = self.servers.redirected(named).ok()?;
        Some(self.of(&endpoint))
    }

    /// The connections to the nodes of a topology with these endpoints, in their order. Those to servers that are no
    /// nodes are retired.
    pub(crate) fn nodes(&self, endpoints: &[Arc<Endpoint>]) -> Arc<[Arc<C>]> {
        let nodes: Arc<[Arc<C>]> = endpoints.iter().map(|node| self.of(node)).collect();
        self.opened.lock().retain(|(endpoint, connections)| {
            let is_node = endpoints.iter().any(|node| Arc::ptr_eq(node, endpoint));
            if !is_node {
                connections.retire();
            }
            is_node
        });
        nodes
    }

    /// The connections by this endpoint.
    fn of(&self, endpoint: &Arc<Endpoint>) -> Arc<C> {
        let mut opened = self.opened.lock();
        let found = opened
            .iter()
            .find(|(other, _)| Arc::ptr_eq(other, endpoint));
        if let Some((_, connections)) = found {
            return Arc::clone(connections);
        }
        let connections = Arc::new((self.make)(endpoint));
        opened.push((Arc::clone(endpoint), Arc::clone(&connections)));
        connections
    }
}

impl<C> fmt::Debug for ClusterConnections<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterConnections").finish_non_exhaustive()
    }
}
