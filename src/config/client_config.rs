//! [`ClientConfig`]: a checked description of a client, for one topology.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use redis::ConnectionInfo;

use crate::cluster::ClusterMonitor;
use crate::command::CommandTable;
use crate::config::cluster_handle::ClusterHandle;
use crate::config::replica_options::ReplicaOptions;
use crate::config::sentinel_groups::{SentinelGroups, SentinelOptions};
use crate::config::{Settings, TopologyFile, limits};
use crate::endpoint::push::{PushSender, PushTarget};
use crate::endpoint::tls::{Runtime, TlsOptions, refused_url};
use crate::endpoint::{
    ClusterServers, Endpoint, Identity, LoginOptions, RecordCell, RecordSource, SocketOptions,
};
use crate::error::Error;
use crate::observe::{ClientEvent, Listeners, NodeObserver, Votes};
use crate::partition::{NodeSpec, OutNodes, Partitioner, check_passwords};
use crate::plan::{HashTags, PartialReads, ReadsAs, Router, SplitWrites};
use crate::policy::Ejection;
use crate::record::RecordMonitor;
use crate::resp::Protocol;
use crate::sentinel::AddressMap;
use crate::topology::cluster::ClusterMap;
use crate::topology::{HostPort, NodeAccess, RampingNodes, Topology, address};

/// A checked description of a client, from which `sync`, `aio` and `proxy` build their handles. It belongs to one
/// topology; [`for_topology`](Self::for_topology) makes that of another.
#[derive(Clone, Debug)]
pub(crate) struct ClientConfig {
    /// Where each command goes.
    pub(crate) router: Router,
    /// How to reach each node, in node order. A node that is reached as before keeps its endpoint from one
    /// topology to the next, and with it the connections that were made to it.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) settings: Settings,
    /// The database that all nodes use.
    pub(crate) db: i64,
    /// The credentials and the name of the connections, which may change.
    pub(crate) identity: Arc<Identity>,
    /// The epochs of the records that the placement follows, in node order; see
    /// [`with_records`](Self::with_records). `None` unless the client follows records.
    pub(crate) records: Option<Arc<[u64]>>,
    /// The servers of the cluster, if the nodes are those of one.
    pub(crate) cluster: Option<Arc<ClusterServers>>,
    /// Who knows the map of that cluster.
    cluster_monitor: Option<Arc<ClusterMonitor>>,
    /// The Sentinels that know the addresses of nodes.
    groups: SentinelGroups,
    options: Arc<ClientOptions>,
}

/// All choices of a [`Builder`](crate::Builder) but the nodes and their placement.
pub(super) struct ClientOptions {
    /// For nodes without a password of their own.
    pub(super) password: Option<String>,
    pub(super) login: LoginOptions,
    pub(super) identity: Arc<Identity>,
    pub(super) commands: Cow<'static, CommandTable>,
    pub(super) split_writes: SplitWrites,
    pub(super) partial_reads: PartialReads,
    pub(super) missing_nodes: ReadsAs,
    pub(super) hash_tags: HashTags,
    pub(super) settings: Settings,
    pub(super) replicas: ReplicaOptions,
    pub(super) tls: TlsOptions,
    /// Called with each event.
    pub(super) listeners: Listeners,
    /// Where the topology comes from, if it is a file that may change.
    pub(super) topology_file: Option<TopologyFile>,
    /// Where the push messages of all nodes go.
    pub(super) push_sender: Option<Arc<dyn PushSender>>,
    /// Who knows the records of the nodes, if the client follows them.
    pub(super) record_source: Option<Arc<dyn RecordSource>>,
    /// The monitor of the records, if the source is one: it has to be told where topologies go.
    pub(super) record_monitor: Option<Arc<RecordMonitor>>,
    /// Maps the addresses that Sentinels name.
    pub(super) address_map: Option<AddressMap>,
    pub(super) purpose: Purpose,
    /// True if the nodes are those of a cluster.
    pub(super) in_cluster: bool,
    /// Who knows the map of the cluster, once it is there.
    pub(super) cluster: ClusterHandle,
    /// What the connections know of the nodes, for their ejection.
    pub(super) votes: Option<Arc<Votes>>,
    /// The kind of connections.
    pub(super) runtime: Runtime,
}

/// What the data is to its users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Keys never move but by a reshard.
    #[default]
    Store,
    /// A key that moves is a miss.
    Cache(Ejection),
}

/// A node and how to reach it.
#[derive(Clone)]
pub(super) struct NodeConfig {
    pub(super) spec: NodeSpec,
    pub(super) access: NodeAccess,
}

impl NodeConfig {
    /// The nodes of a topology, in node order.
    pub(super) fn of(topology: &Topology) -> impl Iterator<Item = Result<Self, Error>> {
        let specs = topology.nodes().iter().cloned();
        let infos = topology.connection_infos(refused_url).into_iter();
        specs
            .zip(infos)
            .map(|(spec, access)| access.map(|access| Self { spec, access }))
    }
}

impl ClientConfig {
    /// Checks these nodes and describes a client over them, after `previous` if there was one.
    pub(super) fn new(
        options: Arc<ClientOptions>,
        nodes: Vec<NodeConfig>,
        partitioner: Arc<dyn Partitioner>,
        previous: Option<&Self>,
    ) -> Result<Self, Error> {
        Self::placed(options, nodes, previous, |specs| {
            Topology::new(specs, partitioner)
        })
    }

    /// Checks these nodes and describes a client over them, whose topology `place` makes.
    fn placed(
        options: Arc<ClientOptions>,
        mut nodes: Vec<NodeConfig>,
        previous: Option<&Self>,
        place: impl FnOnce(Vec<NodeSpec>) -> Result<Topology, Error>,
    ) -> Result<Self, Error> {
        // First: the errors that follow show names and addresses, which must not contain a password.
        check_specs(&nodes)?;
        check_addresses(&nodes)?;
        for node in &mut nodes {
            let (name, password) = (node.spec.name(), options.password.as_deref());
            node.access.info = options.login.complete(name, &node.access.info, password)?;
        }
        let db = common_db(&nodes)?;
        if let Some(previous) = previous.filter(|previous| previous.db != db) {
            return Err(Error::config(format!(
                "the nodes use database {db}, but the client uses database {}, which it cannot change; write `/{}` \
                 behind the address of each node",
                previous.db, previous.db
            )));
        }
        let user = |node: &NodeConfig| {
            let settings = node.access.info.redis_settings();
            let login = options.identity.login(node.spec.name(), settings);
            login.username(settings)
        };
        let users: BTreeSet<String> = nodes.iter().map(user).collect();
        let nodes = nodes.into_iter().map(|node| (node.spec, node.access));
        let (specs, accesses): (Vec<_>, Vec<_>) = nodes.unzip();
        let protocols: Vec<Protocol> = accesses
            .iter()
            .map(|access| access.info.redis_settings().into())
            .collect();
        let sources = accesses
            .iter()
            .filter_map(|access| access.sentinel.as_ref());
        let groups = previous.map(|previous| &previous.groups);
        let groups = SentinelGroups::new(sources, groups, &options.of_sentinels())?;
        let epoch = previous.map_or(0, |previous| previous.router.topology().epoch() + 1);
        let topology = place(specs)?.with_endpoints(&accesses)?.with_epoch(epoch);
        let endpoint = |(node, access)| match previous.and_then(|old| old.endpoint(node, &access)) {
            Some(endpoint) => Ok(endpoint),
            None => options.endpoint(node, access, &groups).map(Arc::new),
        };
        let endpoints = topology.nodes().iter().zip(accesses).map(endpoint);
        let endpoints = endpoints.collect::<Result<Vec<_>, Error>>()?;
        Ok(Self {
            router: options.router(topology, protocols, users),
            records: options.records(&endpoints),
            endpoints,
            cluster: None,
            cluster_monitor: None,
            settings: options.settings,
            db,
            identity: Arc::clone(&options.identity),
            groups,
            options,
        })
    }

    /// The description of this client over the nodes of another topology.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the topology does not fit the client.
    pub(crate) fn for_topology(&self, topology: &Topology) -> Result<Self, Error> {
        let nodes = NodeConfig::of(topology).collect::<Result<Vec<_>, _>>()?;
        let options = Arc::clone(&self.options);
        Self::new(options, nodes, topology.shared_partitioner(), Some(self))
    }

    /// The description of this client over the nodes of a topology that records name, which may be one of a reshard. Nodes
    /// of the same name are reached as before, with their own passwords, but at the address that the topology says; all use
    /// the database of the client. If the nodes are the same, it costs little.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the topology does not fit the client.
    pub(crate) fn for_record(&self, topology: &Topology) -> Result<Self, Error> {
        let current = self.router.topology();
        if current.nodes() == topology.nodes() {
            let next = topology.clone().with_endpoints_of(current);
            let next = Arc::new(next.with_epoch(current.epoch() + 1));
            return Ok(Self {
                router: self.router.clone().with_topology(next),
                ..self.clone()
            });
        }
        let nodes = NodeConfig::of(topology).map(|node| node.map(|node| self.known_access(node)));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let options = Arc::clone(&self.options);
        Self::placed(options, nodes, Some(self), |_| Ok(topology.clone()))
    }

    /// A node that a record names, with what this client knows of it.
    fn known_access(&self, node: NodeConfig) -> NodeConfig {
        let NodeConfig { spec, access } = node;
        let index = self.router.topology().index_of(spec.name());
        let known = index.and_then(|index| self.endpoints.get(index.get()));
        let settings = access.info.redis_settings().clone();
        let Some(known) = known.filter(|_| access.sentinel.is_none()) else {
            let info = access.info.set_redis_settings(settings.set_db(self.db));
            return NodeConfig {
                spec,
                access: NodeAccess { info, ..access },
            };
        };
        let info = match HostPort::of(&access.info) {
            // Also the name that its certificate must have.
            Some(now) if known.host_and_port().as_ref() != Some(&now) => {
                let settings = known.info.redis_settings().clone();
                access.info.set_redis_settings(settings)
            }
            _ => known.info.clone(),
        };
        NodeConfig {
            spec,
            access: NodeAccess::fixed(info),
        }
    }

    /// The description of this client while these nodes are out, and those in `ramping` own only a share of their
    /// keys.
    ///
    /// # Errors
    ///
    /// If the partitioner cannot place keys over the others.
    pub(crate) fn without(&self, out: &OutNodes, ramping: RampingNodes) -> Result<Self, Error> {
        let topology = self.router.topology();
        let next = topology.without_ramping(out, ramping)?;
        let next = next.with_epoch(topology.epoch() + 1);
        Ok(Self {
            router: self.router.clone().with_topology(Arc::new(next)),
            ..self.clone()
        })
    }

    /// The description of this client over the nodes of another map of its cluster. If these are the same, it costs
    /// little more than the slots of the map.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if no connection can be described for a node.
    pub(crate) fn for_map(&self, map: ClusterMap) -> Result<Self, Error> {
        let (current, map) = (self.router.topology(), Arc::new(map));
        let epoch = current.epoch() + 1;
        if let Some(next) = current.with_map(&map) {
            let next = Arc::new(next.with_epoch(epoch));
            return Ok(Self {
                router: self.router.clone().with_topology(next),
                ..self.clone()
            });
        }
        let Some(servers) = &self.cluster else {
            return Err(Error::config("the client is not one of a cluster"));
        };
        let topology = map.topology()?.with_seeds_of(current).with_epoch(epoch);
        let endpoints = map.addresses().map(|address| servers.endpoint(address));
        let endpoints = endpoints.collect::<Result<Vec<_>, Error>>()?;
        servers.forget_unused();
        Ok(Self {
            router: self.options.router_of(topology, &endpoints),
            endpoints,
            ..self.clone()
        })
    }

    /// The description of a client over the servers of a cluster.
    pub(super) fn over_servers(
        options: Arc<ClientOptions>,
        topology: Topology,
        servers: ClusterServers,
        monitor: Arc<ClusterMonitor>,
    ) -> Result<Self, Error> {
        let map = topology.cluster().map(Arc::clone);
        let addresses = map.iter().flat_map(|map| map.addresses());
        let endpoints = addresses.map(|address| servers.endpoint(address));
        let endpoints = endpoints.collect::<Result<Vec<_>, Error>>()?;
        let db = |endpoint: &Arc<Endpoint>| endpoint.info.redis_settings().db();
        Ok(Self {
            router: options.router_of(topology, &endpoints),
            settings: options.settings,
            db: endpoints.first().map_or(0, db),
            endpoints,
            identity: Arc::clone(&options.identity),
            records: None,
            cluster: Some(Arc::new(servers)),
            cluster_monitor: Some(monitor),
            groups: SentinelGroups::default(),
            options,
        })
    }

    /// How a server is reached by a thread, with the user and the password of nodes that have none of their own.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if it cannot be connected to as the URL says.
    pub(crate) fn server_at(&self, info: ConnectionInfo) -> Result<Endpoint, Error> {
        let node = NodeSpec::unnamed(address(info.addr()));
        let password = self.options.password.as_deref();
        let info = self.options.login.complete(node.name(), &info, password)?;
        let observer = NodeObserver::of_no_node(node);
        self.options.server_for(info, observer, Runtime::Blocking)
    }

    /// The description with a placement that follows the records of these epochs, in node order.
    ///
    /// Requests carry the epoch of the placement by which they were placed, and a connection that has presented a newer
    /// one refuses them. So the epochs are those that the placement was made from, not those of the cells, which are set
    /// after it is published.
    pub(crate) fn with_records(self, records: Arc<[u64]>) -> Self {
        Self {
            records: Some(records),
            ..self
        }
    }

    /// Who knows the map of the cluster, if the nodes are those of one.
    pub(crate) fn cluster_monitor(&self) -> Option<&Arc<ClusterMonitor>> {
        self.cluster_monitor.as_ref()
    }

    /// Who follows the records of the nodes, if the client goes by them.
    pub(crate) fn record_monitor(&self) -> Option<&Arc<RecordMonitor>> {
        self.options.record_monitor.as_ref()
    }

    /// What the connections know of the nodes, for their ejection. `None` if no node is ever ejected.
    pub(crate) fn votes(&self) -> Option<&Arc<Votes>> {
        self.options.votes.as_ref()
    }

    /// The file with the topology, if it is to be read again.
    pub(crate) fn topology_file(&self) -> Option<&TopologyFile> {
        self.options.topology_file.as_ref()
    }

    /// Reports an event that concerns no single node. No lock of the client may be held.
    pub(crate) fn deliver(&self, event: impl FnOnce() -> ClientEvent) {
        self.options.listeners.deliver(event);
    }

    /// What the data is to its users.
    pub(crate) fn purpose(&self) -> Purpose {
        self.options.purpose
    }

    /// The endpoint of this node, if it is reached as before.
    fn endpoint(&self, node: &NodeSpec, access: &NodeAccess) -> Option<Arc<Endpoint>> {
        let index = self.router.topology().index_of_id(node.id())?;
        let endpoint = self.endpoints.get(index.get())?;
        endpoint.leads_to(access).then(|| Arc::clone(endpoint))
    }
}

impl ClientOptions {
    /// What the connections to Sentinels have in common with those to nodes.
    fn of_sentinels(&self) -> SentinelOptions<'_> {
        SentinelOptions {
            tls: &self.tls,
            client_name: self.login.client_name.as_deref(),
            settings: &self.settings,
            address_map: self.address_map.as_ref(),
        }
    }

    /// The router over a topology whose nodes have these protocols and users.
    fn router(
        &self,
        topology: Topology,
        protocols: Vec<Protocol>,
        users: BTreeSet<String>,
    ) -> Router {
        Router::new(Arc::new(topology), self.commands.clone(), self.split_writes)
            .with_partial_reads(self.partial_reads)
            .with_missing_nodes(self.missing_nodes)
            .with_protocols(protocols)
            .with_hash_tags(self.hash_tags)
            .with_replica_reads(self.replicas.exist())
            .with_flush_log(self.votes.as_ref().map(|votes| votes.flush_log()))
            .with_records(self.record_source.is_some())
            .with_users(users)
    }

    /// The router over a topology whose nodes have these endpoints.
    fn router_of(&self, topology: Topology, endpoints: &[Arc<Endpoint>]) -> Router {
        let infos = endpoints.iter().map(|endpoint| &endpoint.info);
        let protocols = infos.map(|info| info.redis_settings().into()).collect();
        let user = |endpoint: &Arc<Endpoint>| {
            let settings = endpoint.info.redis_settings();
            endpoint.login.username(settings)
        };
        self.router(topology, protocols, endpoints.iter().map(user).collect())
    }

    /// The epochs of the records that the client goes by at these nodes.
    fn records(&self, endpoints: &[Arc<Endpoint>]) -> Option<Arc<[u64]>> {
        self.record_source.as_ref()?;
        let epochs = endpoints.iter().map(|endpoint| endpoint.record_epoch());
        Some(epochs.collect())
    }

    /// How a node is reached.
    pub(super) fn endpoint(
        &self,
        node: &NodeSpec,
        access: NodeAccess,
        groups: &SentinelGroups,
    ) -> Result<Endpoint, Error> {
        let NodeAccess { info, sentinel } = access;
        let observer = NodeObserver::new(node.clone(), self.listeners.clone(), self.votes.as_ref());
        let pushes = self.push_sender.as_ref();
        let pushes = pushes.map(|sender| PushTarget::new(sender, node.name(), &info));
        let mut endpoint = Endpoint {
            primary: sentinel
                .as_ref()
                .and_then(|source| groups.cell(source, &observer)),
            sentinel,
            pushes: pushes.transpose()?,
            record: self
                .record_source
                .as_ref()
                .map(|source| RecordCell::new(node.name(), source)),
            ..self.server(info, observer)?
        };
        let complete = |info: &ConnectionInfo| {
            let password = self.password.as_deref();
            self.login.complete(node.name(), info, password)
        };
        let server = |info, observer| self.server(info, observer);
        self.replicas.attach(&mut endpoint, complete, server)?;
        Ok(endpoint)
    }

    /// How one server of a node is reached.
    pub(super) fn server(
        &self,
        info: ConnectionInfo,
        observer: Arc<NodeObserver>,
    ) -> Result<Endpoint, Error> {
        self.server_for(info, observer, self.runtime)
    }

    /// How one server of a node is reached by connections of this kind.
    pub(super) fn server_for(
        &self,
        info: ConnectionInfo,
        observer: Arc<NodeObserver>,
        runtime: Runtime,
    ) -> Result<Endpoint, Error> {
        let node = observer.node();
        Ok(Endpoint {
            address: node.address().to_owned(),
            tls: self.tls.for_node(node.name(), &info, runtime)?,
            login: self.identity.login(node.name(), info.redis_settings()),
            options: SocketOptions::new(self.settings.tcp_keepalive, info.tcp_settings()),
            observer,
            pushes: None,
            in_cluster: self.in_cluster,
            primary: None,
            sentinel: None,
            replicas: None,
            record: None,
            info,
        })
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// Checks that no name and no address contains a password.
pub(super) fn check_specs(nodes: &[NodeConfig]) -> Result<(), Error> {
    let specs: Vec<NodeSpec> = nodes.iter().map(|node| node.spec.clone()).collect();
    Ok(check_passwords(&specs)?)
}

/// Checks that no two nodes have one address: they would count, scan and flush the same data twice.
fn check_addresses(nodes: &[NodeConfig]) -> Result<(), Error> {
    let mut addresses: Vec<(&str, &str)> = nodes
        .iter()
        .map(|node| (node.spec.address(), node.spec.name()))
        .collect();
    addresses.sort_unstable();
    match addresses.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(()),
        Some(pair) => Err(Error::config(format!(
            "the nodes {:?} and {:?} have the same address, {}",
            pair[0].1, pair[1].1, pair[0].0
        ))),
    }
}

/// The database that all nodes use. It must be one, as redis-rs asks a connection for its database.
fn common_db(nodes: &[NodeConfig]) -> Result<i64, Error> {
    let db = |node: &NodeConfig| node.access.info.redis_settings().db();
    let first = nodes.first().map_or(0, db);
    limits::DATABASE.check(first)?;
    match nodes.iter().find(|node| db(node) != first) {
        None => Ok(first),
        Some(other) => Err(Error::config(format!(
            "node {:?} uses database {first} and node {:?} database {}; all nodes must use the same",
            nodes[0].spec.name(),
            other.spec.name(),
            db(other),
        ))),
    }
}
