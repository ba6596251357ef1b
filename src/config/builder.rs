//! [`Builder`], with the defaults and limits of everything that it sets.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

use crate::command::{CommandTable, Declaration};
use crate::config::client_config::{ClientConfig, ClientOptions, NodeConfig, Purpose, check_specs};
use crate::config::cluster_handle::ClusterHandle;
use crate::config::replica_options::ReplicaOptions;
use crate::config::{Settings, TopologyFile, ejection};
use crate::endpoint::push::PushSender;
use crate::endpoint::tls::{Runtime, TlsBackend, TlsOptions, refused_url};
use crate::endpoint::{Endpoint, LoginOptions, RecordSource, SocketOptions};
use crate::error::Error;
use crate::observe::{Listeners, NodeObserver};
use crate::partition::NodeSpec;
use crate::partition::password::{ADVICE, holds_password};
use crate::partition::{Partitioner, Rendezvous};
use crate::plan::{HashTags, PartialReads, ReadsAs, SplitWrites};
use crate::policy::{ReadFrom, RetryPolicy};
use crate::sentinel::AddressMap;
use crate::topology::{NodeAccess, Topology, address};

pub use crate::config::replica_options::{DEFAULT_REPLICA_LAG_BYTES, DEFAULT_REPLICA_LAG_TIME};
pub use crate::config::settings::{
    CLIENTS_LIMIT_MAX, CONNECTIONS_PER_NODE_MAX, POOL_SIZE_MAX, TCP_KEEPALIVE_MAX, TIMEOUT_MAX,
};
pub use crate::config::topology_file::TOPOLOGY_FILE_BYTES_MAX;
pub use crate::plan::SCAN_COUNT_MAX;
pub use crate::policy::{EJECTION_COUNT_MAX, EJECTION_TIME_MAX, EJECTION_TIME_MIN};
pub use crate::policy::{RETRY_ATTEMPTS_MAX, RETRY_BACKOFF_MAX, TEMPORARY_ERRORS_WAIT_MAX};
pub use crate::resp::CLIENT_NAME_BYTES_MAX;
pub use crate::topology::replication::REPLICAS_MAX;
pub use crate::topology::sentinel::SENTINELS_MAX;

/// Describes a client. Nothing is contacted before the client's first command.
///
/// Errors in the description are reported by `build` and its relatives, not by the setters.
///
/// ```
/// use std::time::Duration;
///
/// use redis_sharding::partition::Ring;
/// use redis_sharding::{ShardedClient, SplitWrites};
///
/// let client = ShardedClient::builder()
///     .node("users-a", "redis://10.0.0.1/")
///     .node("users-b", "redis://10.0.0.2/")
///     .partitioner(Ring::new())
///     .split_writes(SplitWrites::Refused)
///     .response_timeout(Duration::from_secs(2))
///     .build()?;
/// assert_eq!(client.nodes().len(), 2);
/// # Ok::<(), redis_sharding::Error>(())
/// ```
#[must_use]
#[derive(Clone)]
pub struct Builder {
    /// In node order. A node whose URL was refused keeps its error until the client is built.
    pub(in crate::config) nodes: Vec<Result<NodeConfig, Error>>,
    /// For nodes without a password of their own.
    password: Option<String>,
    /// Username, credentials that change, and the name of the client.
    pub(super) login: LoginOptions,
    partitioner: Option<Arc<dyn Partitioner>>,
    /// The seeds of the cluster whose nodes are used. One whose URL was refused keeps its error until the client is
    /// built.
    pub(super) cluster: Option<Vec<Result<ConnectionInfo, Error>>>,
    /// Commands to be added to the table.
    commands: Vec<Declaration>,
    split_writes: SplitWrites,
    partial_reads: PartialReads,
    pub(super) missing_nodes: ReadsAs,
    pub(super) hash_tags: HashTags,
    pub(super) settings: Settings,
    /// The replicas of all nodes.
    pub(super) replicas: ReplicaOptions,
    tls: TlsOptions,
    /// Called with each event.
    pub(in crate::config) listeners: Listeners,
    pub(in crate::config) topology_file: Option<PathBuf>,
    /// Where the push messages of all nodes go.
    pub(super) push_sender: Option<Arc<dyn PushSender>>,
    /// Who knows the records of the nodes, if the client follows them.
    pub(super) record_source: Option<Arc<dyn RecordSource>>,
    /// True if the client follows the records of its nodes.
    pub(super) is_agreed: bool,
    /// Whether keys may move.
    pub(super) purpose: Purpose,
    /// Maps the addresses that Sentinels name.
    pub(super) address_map: Option<AddressMap>,
}

/// The default of [`Builder::connect_timeout`].
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The default of [`Builder::response_timeout`].
pub const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The default of [`Builder::pool_size`].
pub const DEFAULT_POOL_SIZE: usize = 64;
/// The default of [`Builder::blocking_pool_size`].
pub const DEFAULT_BLOCKING_POOL_SIZE: usize = 64;
/// The default of [`Builder::connections_per_node`].
pub const DEFAULT_CONNECTIONS_PER_NODE: usize = 1;
/// The default of [`Builder::idle_check`].
pub const DEFAULT_IDLE_CHECK: Duration = Duration::from_secs(10);
/// The default of [`Builder::tcp_keepalive`].
pub const DEFAULT_TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// The default of [`Builder::max_clients`].
pub const DEFAULT_MAX_CLIENTS: usize = 10_000;

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            password: None,
            login: LoginOptions::default(),
            partitioner: None,
            cluster: None,
            commands: Vec::new(),
            split_writes: SplitWrites::default(),
            partial_reads: PartialReads::default(),
            missing_nodes: ReadsAs::default(),
            hash_tags: HashTags::default(),
            settings: Settings {
                connect_timeout: DEFAULT_CONNECT_TIMEOUT,
                response_timeout: Some(DEFAULT_RESPONSE_TIMEOUT),
                blocking_timeout: None,
                retry: RetryPolicy::default(),
                pool_size: DEFAULT_POOL_SIZE,
                blocking_pool_size: DEFAULT_BLOCKING_POOL_SIZE,
                connections_per_node: DEFAULT_CONNECTIONS_PER_NODE,
                idle_check: DEFAULT_IDLE_CHECK,
                tcp_keepalive: Some(DEFAULT_TCP_KEEPALIVE),
                max_clients: DEFAULT_MAX_CLIENTS,
                read_from: ReadFrom::default(),
                hedge_after: None,
            },
            replicas: ReplicaOptions::default(),
            tls: TlsOptions::default(),
            listeners: Listeners::default(),
            topology_file: None,
            push_sender: None,
            record_source: None,
            is_agreed: false,
            purpose: Purpose::default(),
            address_map: None,
        }
    }

    /// Adds a node of weight one. The name places its keys and must stay the same; the URL, in any form that
    /// redis-rs accepts, may change. A host name is resolved again for each new connection, and all of its addresses
    /// are tried, so a failover by DNS needs no new client.
    ///
    /// A password belongs in the URL or in [`password`](Self::password), and nowhere else: names and
    /// addresses are displayed.
    pub fn node(self, name: impl Into<String>, url: impl IntoConnectionInfo) -> Self {
        self.weighted_node(name, url, NonZeroU32::MIN)
    }

    /// Adds a node that owns `weight` shares of the keys.
    pub fn weighted_node(
        mut self,
        name: impl Into<String>,
        url: impl IntoConnectionInfo,
        weight: NonZeroU32,
    ) -> Self {
        let (name, number) = (name.into(), self.nodes.len() + 1);
        // A name that contains a password must not be quoted; `refused_url` leaves out the URL for the same
        // reason.
        let node = match url.into_connection_info() {
            _ if holds_password(&name) => Err(Error::config(format!(
                "the name of node number {number} {ADVICE}"
            ))),
            Ok(info) => Ok(NodeConfig {
                spec: NodeSpec::new(name, address(info.addr())).with_weight(weight),
                access: NodeAccess::fixed(info),
            }),
            Err(error) => {
                let why = refused_url(&error);
                Err(Error::config(format!("node {name:?}: {why}")).at_node(&name))
            }
        };
        // Each node keeps its own error, so that the first bad one is reported in node order.
        self.nodes.push(node);
        self
    }

    /// Adds a node of weight one, named after its host and port or the path of its socket.
    pub fn unnamed_node(self, url: impl IntoConnectionInfo) -> Self {
        self.weighted_unnamed_node(url, NonZeroU32::MIN)
    }

    /// Adds a node that is named after its host and port or the path of its socket, and owns `weight` shares
    /// of the keys.
    pub fn weighted_unnamed_node(
        mut self,
        url: impl IntoConnectionInfo,
        weight: NonZeroU32,
    ) -> Self {
        let number = self.nodes.len() + 1;
        let node = match url.into_connection_info() {
            Ok(info) => Ok(NodeConfig {
                spec: NodeSpec::unnamed(address(info.addr())).with_weight(weight),
                access: NodeAccess::fixed(info),
            }),
            Err(error) => Err(Error::config(format!(
                "node number {number}: {}",
                refused_url(&error)
            ))),
        };
        self.nodes.push(node);
        self
    }

    /// Adds the nodes of a topology and takes its partitioner, so that keys live where the topology says.
    ///
    /// ```
    /// use redis_sharding::{ShardedClient, Topology};
    ///
    /// let topology: Topology = "redis-sharding topology 1
    /// placement twemproxy-ketama/1
    /// option hash = md5
    /// node 10.0.0.1:6379
    /// node 10.0.0.2:6379 weight=2
    /// ".parse()?;
    /// let client = ShardedClient::builder().topology(&topology).build()?;
    /// assert_eq!(client.node_for("user:2")?.name(), "10.0.0.2:6379");
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    pub fn topology(mut self, topology: &Topology) -> Self {
        if let Some(seeds) = topology.seeds() {
            return self.cluster_of(seeds);
        }
        self.nodes.extend(NodeConfig::of(topology));
        self.shared_partitioner(topology.shared_partitioner())
    }

    /// Sets the password of every node that has none of its own, so that a topology in text form need not
    /// contain it. Defaults to none.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Sets the partitioner, which decides where keys live. Defaults to [`Rendezvous`].
    pub fn partitioner(self, partitioner: impl Partitioner + 'static) -> Self {
        self.shared_partitioner(Arc::new(partitioner))
    }

    /// Sets a partitioner that is chosen at run time. Defaults to [`Rendezvous`].
    pub fn shared_partitioner(mut self, partitioner: Arc<dyn Partitioner>) -> Self {
        self.partitioner = Some(partitioner);
        self
    }

    /// How a node is reached whose topology is to be asked for.
    pub(super) fn seed(&self, info: ConnectionInfo) -> Result<Endpoint, Error> {
        let node = NodeSpec::unnamed(address(info.addr()));
        let info = self
            .login
            .complete(node.name(), &info, self.password.as_deref())?;
        let identity = self.login.identity(self.password.as_deref())?;
        Ok(Endpoint {
            address: node.address().to_owned(),
            tls: self.tls.for_node(node.name(), &info, Runtime::Blocking)?,
            login: identity.login(node.name(), info.redis_settings()),
            options: SocketOptions::new(self.settings.tcp_keepalive, info.tcp_settings()),
            observer: NodeObserver::of_no_node(node),
            pushes: None,
            record: None,
            in_cluster: false,
            primary: None,
            sentinel: None,
            replicas: None,
            info,
        })
    }

    /// True if usernames or passwords for all nodes were set.
    pub(super) fn has_login(&self) -> bool {
        self.password.is_some() || self.login.username.is_some() || self.login.provider.is_some()
    }

    /// True if a partitioner was set.
    pub(super) fn has_partitioner(&self) -> bool {
        self.partitioner.is_some()
    }

    /// Declares a command that is not in the table, such as one of a module. Commands that are neither in the
    /// table nor declared are refused. Defaults to none.
    pub fn command(mut self, command: Declaration) -> Self {
        self.commands.push(command);
        self
    }

    /// Sets whether MSET, DEL, UNLINK, TOUCH and JSON.MSET may be split by node. Defaults to
    /// [`SplitWrites::Allowed`].
    pub fn split_writes(mut self, split_writes: SplitWrites) -> Self {
        self.split_writes = split_writes;
        self
    }

    /// Sets whether KEYS, SCAN, DBSIZE, RANDOMKEY and `scan_all` leave out the keys of nodes that cannot be
    /// reached, instead of failing. The column *partial* of `docs/commands.md` lists the commands that do not
    /// depend on it, such as INFO and PING. Reads by key have [`missing_nodes`](Self::missing_nodes). Defaults
    /// to [`PartialReads::Refused`].
    pub fn partial_reads(mut self, partial_reads: PartialReads) -> Self {
        self.partial_reads = partial_reads;
        self
    }

    /// Maximum duration of connecting, handshake included. At most [`TIMEOUT_MAX`]. Defaults to
    /// [`DEFAULT_CONNECT_TIMEOUT`].
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// Maximum duration of a request, from waiting for a connection to its last reply, however many nodes it
    /// goes to; the timeout of a blocking command is added to it. A command that may block for ever, such as
    /// BLPOP with timeout 0, has [`blocking_timeout`](Self::blocking_timeout) instead. At most [`TIMEOUT_MAX`]; `None`
    /// waits for ever. Defaults to [`DEFAULT_RESPONSE_TIMEOUT`].
    pub fn response_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.response_timeout = timeout.into();
        self
    }

    /// Maximum number of the blocking client's connections to one node for commands that are served at once,
    /// and so the maximum number of such requests under way to it. From 1 to [`POOL_SIZE_MAX`]. Defaults to
    /// [`DEFAULT_POOL_SIZE`].
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.settings.pool_size = connections;
        self
    }

    /// Maximum number of exclusive connections to one node: for commands that may block (BLPOP, XREAD BLOCK,
    /// WAIT, ...), for transactions and for dedicated connections. A proxy keeps this many idle ones, and
    /// opens more while more of its clients wait. From 1 to [`POOL_SIZE_MAX`]. Defaults to
    /// [`DEFAULT_BLOCKING_POOL_SIZE`].
    pub fn blocking_pool_size(mut self, connections: usize) -> Self {
        self.settings.blocking_pool_size = connections;
        self
    }

    /// Number of connections to one node that the async client's tasks share; requests use them in turn. One
    /// is best for most programs, as it writes the requests of many tasks in one go. More help when replies
    /// are so large that reading them keeps a core busy; requests of one task that are not awaited one after
    /// another may then overtake each other. The blocking client has [`pool_size`](Self::pool_size) instead.
    /// From 1 to [`CONNECTIONS_PER_NODE_MAX`]. Defaults to [`DEFAULT_CONNECTIONS_PER_NODE`].
    pub fn connections_per_node(mut self, connections: usize) -> Self {
        self.settings.connections_per_node = connections;
        self
    }

    /// Pings a connection that has been idle this long before reusing it, so that a write is not lost on a
    /// dead one. Blocking client only: the async client notices at once when a connection is closed, but one
    /// that falls silent only when a request gets no reply. At most [`TIMEOUT_MAX`]; zero pings every time.
    /// Defaults to [`DEFAULT_IDLE_CHECK`].
    pub fn idle_check(mut self, after: Duration) -> Self {
        self.settings.idle_check = after;
        self
    }

    /// Idle time after which the kernel probes whether the node is still there; a connection without a reply
    /// for the same time again is given up. A node whose machine has vanished is thus detected while nothing
    /// is sent, as under BLPOP. From 1 s to [`TCP_KEEPALIVE_MAX`]. Applies to nodes whose `ConnectionInfo`
    /// has no keepalive of its own; `None` leaves the system's default, which is off. Defaults to
    /// [`DEFAULT_TCP_KEEPALIVE`].
    pub fn tcp_keepalive(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.settings.tcp_keepalive = idle.into();
        self
    }

    /// Sets the certificates for `rediss://` nodes, in PEM: the issuers to trust, in place of the machine's,
    /// and the client's own certificate. Defaults to the issuers that the machine trusts (with rustls and the
    /// feature `tls-rustls-webpki-roots`: those that Mozilla trusts), and to no certificate of the client.
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    pub fn tls_certificates(mut self, certificates: redis::TlsCertificates) -> Self {
        self.tls.certificates = Some(certificates);
        self
    }

    /// Sets the certificates for the node called `name`, in place of those for all nodes. Defaults to those
    /// of [`tls_certificates`](Self::tls_certificates).
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    pub fn node_tls_certificates(
        mut self,
        name: impl Into<String>,
        certificates: redis::TlsCertificates,
    ) -> Self {
        self.tls.of_node.push((name.into(), certificates));
        self
    }

    /// Sets the name that the certificates of all `rediss://` nodes must have. Defaults to the host of each
    /// node's URL.
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// Sets the library that encrypts connections to `rediss://` nodes. Defaults to [`TlsBackend::Rustls`] if
    /// its feature is enabled, as in redis-rs, and to [`TlsBackend::NativeTls`] otherwise.
    pub fn tls_backend(mut self, backend: TlsBackend) -> Self {
        self.tls.backend = Some(backend);
        self
    }

    /// Maximum number of clients that a proxy serves at a time; further ones get an error and are closed.
    /// From 1 to [`CLIENTS_LIMIT_MAX`]. Defaults to [`DEFAULT_MAX_CLIENTS`].
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.settings.max_clients = clients;
        self
    }

    /// Checks the description for connections of this kind.
    pub(crate) fn config(self, runtime: Runtime) -> Result<ClientConfig, Error> {
        self.settings.check()?;
        let (builder, topology_file) = self.with_nodes_of_file()?;
        builder.checked(topology_file, runtime)
    }

    fn checked(
        self,
        topology_file: Option<TopologyFile>,
        runtime: Runtime,
    ) -> Result<ClientConfig, Error> {
        let seeds = self.seeds(topology_file.is_some())?;
        let record_monitor = self.record_monitor(topology_file.is_some())?;
        let votes = match &self.purpose {
            Purpose::Cache(ejection) => ejection::votes(ejection)?,
            Purpose::Store => None,
        };
        let nodes = self.nodes.into_iter().collect::<Result<Vec<_>, _>>()?;
        // First: the errors that follow show names and addresses, which must not contain a password.
        check_specs(&nodes)?;
        let identity = self.login.identity(self.password.as_deref())?;
        let mut commands = Cow::Borrowed(CommandTable::built_in());
        // The table is only copied if a command is declared.
        for command in self.commands {
            let table = commands.into_owned().with(command);
            commands = Cow::Owned(table.map_err(|error| Error::config(error.to_string()))?);
        }
        let specs: Vec<NodeSpec> = nodes.iter().map(|node| node.spec.clone()).collect();
        self.tls.check(&specs)?;
        let connect_timeout = self.settings.connect_timeout;
        let cluster = ClusterHandle::default();
        let options = ClientOptions {
            replicas: match &seeds {
                None => self
                    .replicas
                    .check(&specs, connect_timeout, self.address_map.as_ref())?,
                Some(_) => self.replicas.of_cluster(
                    connect_timeout,
                    self.address_map.as_ref(),
                    cluster.listed_replicas(),
                )?,
            },
            password: self.password,
            login: self.login,
            identity,
            commands,
            split_writes: self.split_writes,
            partial_reads: self.partial_reads,
            missing_nodes: self.missing_nodes,
            hash_tags: self.hash_tags,
            settings: self.settings,
            tls: self.tls,
            listeners: self.listeners,
            topology_file,
            push_sender: self.push_sender,
            record_source: record_monitor
                .clone()
                .map(|monitor| monitor as Arc<dyn RecordSource>)
                .or(self.record_source),
            record_monitor,
            purpose: self.purpose,
            in_cluster: seeds.is_some(),
            cluster,
            address_map: self.address_map,
            votes,
            runtime,
        };
        let partitioner = self.partitioner.unwrap_or_else(default_partitioner);
        match seeds {
            None => ClientConfig::new(Arc::new(options), nodes, partitioner, None),
            Some(seeds) => ClientConfig::of_cluster(Arc::new(options), &seeds),
        }
    }
}

/// The partitioner of a builder that was given none.
fn default_partitioner() -> Arc<dyn Partitioner> {
    Arc::new(Rendezvous::new())
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self
            .nodes
            .iter()
            .flatten()
            .map(|node| node.spec.name())
            .collect();
        f.debug_struct("Builder")
            .field("nodes", &names)
            .field("partitioner", &self.partitioner)
            .field("split_writes", &self.split_writes)
            .field("partial_reads", &self.partial_reads)
            .field("missing_nodes", &self.missing_nodes)
            .field("hash_tags", &self.hash_tags)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
