//! [`ShardedClient`]: the handle over all nodes.

use std::fmt;
use std::sync::Arc;

use redis::{Cmd, ConnectionLike, IntoConnectionInfo, Pipeline, RedisResult, ToRedisArgs, Value};

use crate::config::Builder;
use crate::error::{Error, ErrorKind};
use crate::observe::ClientHealth;
use crate::partition::NodeIndex;
use crate::plan::ScanPosition;
#[cfg(feature = "backup")]
use crate::plan::Selection;
use crate::plan::{Explanation, NodePing, PipelineKind, ScriptStore, parse_one};
use crate::snapshot::SnapshotHandle;
use crate::sync::watch::Watch;
use crate::sync::{Dedicated, Node, Scan, Shared, Subscriber};
use crate::topology::Topology;

/// A client that spreads data over many Redis or Valkey servers.
///
/// It is the connection: it implements [`redis::ConnectionLike`], so `redis::Commands`,
/// `redis::TypedCommands`, `redis::cmd(..).query(..)`, `redis::pipe()` and `redis::Script` work as they do
/// over one server. It is cheap to clone, may be shared by threads, and connects when a node is first needed;
/// redis-rs' traits take `&mut self`, for which each thread has its own clone.
///
/// `redis::transaction`, and WATCH followed by `pipe().atomic()`, work for keys of one node. From WATCH to the
/// next atomic pipeline or UNWATCH, whatever their outcome, the handle has an exclusive connection to that node
/// ([`Builder::blocking_pool_size`] limits the number of these connections). Clones made before the WATCH are not
/// affected. A clone made in between shares the watch, and only the first atomic pipeline of the handles that
/// share one runs: the others fail with EXECABORT, as does the pipeline of a handle whose WATCH failed or whose
/// watching connection was lost. If the closure of `redis::transaction` fails, its keys stay watched, as over
/// one server: give each transaction a clone, `redis::transaction(&mut client.clone(), ..)`.
///
/// CLIENT SETNAME sets the name of all connections of the client and of its clones: new ones have it from the
/// start, existing ones from their next request on, and those of subscribers when they reconnect. CLIENT
/// GETNAME returns it. CLIENT INFO describes one of the connections, to any node.
///
/// # Health
///
/// | question | call |
/// |---|---|
/// | which nodes reply? | [`ping_nodes`](Self::ping_nodes) |
/// | does any node reply, so that the client is usable? | `check_connection()`, or PING |
/// | what does the client remember of its nodes, without I/O? | [`health`](Self::health) |
///
/// # Example
///
/// ```no_run
/// use redis_sharding::{ShardedClient, redis::Commands};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut client = ShardedClient::builder()
///     .node("cache-a", "redis://10.0.0.1/")
///     .node("cache-b", "redis://10.0.0.2/")
///     .build()?;
/// let _: () = client.set("user:{42}:name", "Ada")?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ShardedClient {
    pub(super) shared: SnapshotHandle<Shared>,
    /// The keys that this handle watches.
    watch: Watch,
}

impl ShardedClient {
    /// Returns a builder, to be finished with [`Builder::build`]. Nothing is contacted before the first
    /// command.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Builds a client over the fleet that a node at one of these URLs belongs to, and follows its record: see
    /// [`Builder::discover`].
    ///
    /// ```no_run
    /// use redis_sharding::ShardedClient;
    ///
    /// let client = ShardedClient::discover(["redis://:password@10.0.0.1/", "redis://10.0.0.2/"])?;
    /// println!("{}", client.topology());
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If no node names the topology of its fleet: each with its reason.
    pub fn discover<U: IntoConnectionInfo>(
        seeds: impl IntoIterator<Item = U>,
    ) -> Result<Self, Error> {
        Self::builder().discover(seeds)?.build()
    }

    /// Builds a client over these servers with the default partitioner, each node named after its host and
    /// port.
    ///
    /// The names place the keys. If a server may ever move to another address, give it a name of its own with
    /// [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) as for [`Builder::build`].
    pub fn open<U: IntoConnectionInfo>(urls: impl IntoIterator<Item = U>) -> Result<Self, Error> {
        urls.into_iter()
            .fold(Self::builder(), Builder::unnamed_node)
            .build()
    }

    /// Builds a client over the Redis Cluster of these servers, which need not be all of them: see
    /// [`Builder::cluster`].
    ///
    /// ```no_run
    /// use redis_sharding::ShardedClient;
    /// use redis_sharding::redis::Commands;
    ///
    /// let mut client = ShardedClient::cluster(["redis://10.0.0.1:7000", "redis://10.0.0.2:7000"])?;
    /// let () = client.set("user:1", "Ada")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) as for [`Builder::build`].
    pub fn cluster<U: IntoConnectionInfo>(
        seeds: impl IntoIterator<Item = U>,
    ) -> Result<Self, Error> {
        Self::builder().cluster(seeds).build()
    }

    /// Wraps the shared state in a handle.
    pub(crate) fn from_shared(shared: SnapshotHandle<Shared>) -> Self {
        Self {
            shared,
            watch: Watch::default(),
        }
    }

    /// The shared state.
    pub(crate) fn shared(&self) -> &SnapshotHandle<Shared> {
        &self.shared
    }

    /// The nodes and their placement: an immutable snapshot.
    ///
    /// Those of a [cluster](Builder::cluster) are its primaries, as the client knows them; before the first request, the
    /// servers that were given. Each slot that moves to another primary makes another snapshot.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(self.shared.load().router.topology())
    }

    /// Replaces the nodes and their placement, for this handle, all clones and everything made from them: nodes,
    /// scans, subscribers, and the client on tokio of the same description.
    ///
    /// Requests on their way end by the former topology. Connections to nodes that are reached as before are
    /// kept, also if a node has another position or weight; those to nodes that have left are closed when their
    /// requests have ended. Nothing is contacted.
    ///
    /// A client is a store unless it was built with [`Builder::cache`]: a topology with another
    /// [`fingerprint`](Topology::fingerprint) is refused, since it would move keys away from their data. Addresses,
    /// users, passwords, TLS and the protocol of nodes may change. As a cache, any topology is taken.
    ///
    /// The nodes of a [cluster](Builder::cluster) come from its servers, and are not replaced by this.
    ///
    /// ```
    /// use redis_sharding::{ShardedClient, Topology};
    ///
    /// let client = ShardedClient::builder()
    ///     .node("a", "redis://10.0.0.1/")
    ///     .node("b", "redis://10.0.0.2/")
    ///     .build()?;
    /// let clone = client.clone();
    /// // The server called b has moved.
    /// let text = client.topology().to_string().replace("10.0.0.2", "10.0.7.9");
    /// client.set_topology(&text.parse::<Topology>()?)?;
    /// assert_eq!(clone.topology().nodes()[1].address(), "10.0.7.9:6379");
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the topology does not fit this client, such as with another
    /// database, or would move keys of a store; nothing has changed then.
    pub fn set_topology(&self, topology: &Topology) -> Result<(), Error> {
        self.shared.publisher().set_topology(topology)
    }

    /// The node called `name`, for commands that are about one server: INFO, CONFIG, SLOWLOG, ...
    pub fn node(&self, name: &str) -> Option<Node> {
        let shared = self.shared.load();
        let index = shared.router.topology().index_of(name)?;
        Some(self.node_at(&shared, index))
    }

    /// The node that owns `key`.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](crate::ErrorKind::Unroutable) when the placement leaves the key without an owner.
    pub fn node_for(&self, key: impl AsRef<[u8]>) -> Result<Node, Error> {
        let shared = self.shared.load();
        Ok(self.node_at(&shared, shared.router.owner(key.as_ref())?))
    }

    /// All nodes, in the order of the topology.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = Node> + use<> {
        let (handle, shared) = (self.shared.clone(), self.shared.load_full());
        let indices = shared.router.topology().indices();
        indices.map(move |index| Node::new(handle.clone(), shared.router.node_ref(index)))
    }

    /// Returns what the client knows about each node: whether it could be reached when it was last tried, since
    /// when, the last error, and its connections. `Display` prints one line per node.
    ///
    /// Sends nothing, so it is cheap, and a node that has died since it was last used still counts as up.
    /// [`ping_nodes`](Self::ping_nodes) sends a PING to every node.
    ///
    /// ```
    /// use redis_sharding::{NodeState, ShardedClient};
    ///
    /// let client = ShardedClient::builder().node("a", "redis://10.0.0.1/").build()?;
    /// let health = client.health();
    /// assert!(health.is_up() && health.nodes[0].state == NodeState::Unknown, "{health}");
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    pub fn health(&self) -> ClientHealth {
        self.shared.load().health()
    }

    /// Sends PING to all nodes that are not ejected at once, and returns each node's outcome in the order of the topology. Takes at
    /// most the response timeout; a node that is known to be down fails at once.
    pub fn ping_nodes(&self) -> Vec<NodePing> {
        let shared = self.shared.ready();
        shared.unwrap_or_else(|_| self.shared.load()).ping_nodes()
    }

    /// Returns what would become of `cmd`, without sending it. `Display` prints a small table.
    ///
    /// ```
    /// use redis_sharding::{ShardedClient, redis::cmd};
    ///
    /// # fn main() -> Result<(), redis_sharding::Error> {
    /// let client = ShardedClient::builder()
    ///     .node("a", "redis://10.0.0.1/")
    ///     .node("b", "redis://10.0.0.2/")
    ///     .build()?;
    /// let table = client.explain(cmd("MGET").arg(&["user:1", "user:2", "user:3"]))?.to_string();
    /// assert_eq!(table, "\
    /// MGET: split over 2 nodes, answers in the order of the keys
    ///   a  2 keys  \"user:2\", \"user:3\"
    ///   b  1 key   \"user:1\"");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The error with which the command would be refused.
    pub fn explain(&self, cmd: &Cmd) -> Result<Explanation, Error> {
        let packed = cmd.get_packed_command();
        let shared = self.shared.load();
        shared
            .router
            .explain(&parse_one(&packed)?, &|| shared.snapshot())
    }

    /// Runs `cmd` and returns this crate's own error, with the outcome of each node: see [`Error::parts`].
    /// [`Error`] describes what redis-rs' traits make of it.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](crate::ErrorKind) but `Config`.
    pub fn execute(&self, cmd: &Cmd) -> Result<Value, Error> {
        let packed = cmd.get_packed_command();
        let shared = self.shared.ready()?;
        let result = shared.request(&packed);
        result.map_err(|error| shared.router.with_keys(error, &packed))
    }

    /// Runs a pipeline and returns one result for each command. While one node is down, the replies of the other
    /// nodes are not lost; the errors of the commands that failed name their node and their keys. In redis-rs'
    /// traits such a pipeline fails as a whole, as it does when the connection to one server breaks.
    ///
    /// `ignore` and `ignore_errors` of the pipeline have no effect here.
    ///
    /// ```
    /// use redis_sharding::{ErrorKind, ShardedClient, redis::pipe, testing::TestNode};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let nodes = TestNode::start_many(2)?;
    /// let client = ShardedClient::builder()
    ///     .node("a", nodes[0].url())
    ///     .node("b", nodes[1].url())
    ///     .build()?;
    /// nodes[0].stop();
    /// let results = client.execute_pipeline(pipe().incr("user:1", 1).incr("user:2", 1))?;
    /// for error in results.iter().filter_map(|result| result.as_ref().err()) {
    ///     assert_eq!((error.kind(), error.node()), (ErrorKind::NodeDown, Some("a")));
    /// }
    /// assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If a command is refused, for example because its keys live on several nodes: nothing is sent then. An
    /// [atomic](redis::Pipeline::atomic) pipeline fails as a whole; with [`Unknown`](crate::ErrorKind::Unknown)
    /// if it may have been executed. [`Stateful`](crate::ErrorKind::Stateful) for an atomic pipeline while this
    /// handle watches keys: it would run unwatched, and `query` of the pipeline runs it watched.
    pub fn execute_pipeline(
        &self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        self.watch.check_beside(pipeline)?;
        self.shared.ready()?.pipeline_results(pipeline)
    }

    /// Runs `count` commands in the wire format, none of which opens a transaction, and returns the result of each.
    ///
    /// # Errors
    ///
    /// As for [`execute_pipeline`](Self::execute_pipeline).
    #[cfg(feature = "backup")]
    pub(crate) fn execute_packed(
        &self,
        packed: &[u8],
        count: usize,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        let selection = Selection::plain(count);
        self.shared.ready()?.packed_results(packed, selection)
    }

    /// Opens a private connection to the node that owns all of `keys`, for WATCH, SUBSCRIBE, CLIENT and
    /// everything else that changes the state of a connection. It is closed when dropped.
    ///
    /// ```no_run
    /// # use redis_sharding::{ShardedClient, redis::RedisResult};
    /// # fn f(client: &ShardedClient) -> RedisResult<()> {
    /// let mut connection = client.dedicated("news")?;
    /// let mut listener = connection.as_pubsub()?;
    /// listener.subscribe("news")?;
    /// let text: String = listener.get_message()?.get_payload()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`CrossNode`](crate::ErrorKind::CrossNode) when the keys live on several nodes,
    /// [`Unroutable`](crate::ErrorKind::Unroutable) when there is none; [`Auth`](crate::ErrorKind::Auth),
    /// [`NodeDown`](crate::ErrorKind::NodeDown), [`PoolTimeout`](crate::ErrorKind::PoolTimeout) or
    /// [`Timeout`](crate::ErrorKind::Timeout) when no connection can be made in time.
    pub fn dedicated(&self, keys: impl ToRedisArgs) -> Result<Dedicated, Error> {
        let keys = keys.to_redis_args();
        let keys = || keys.iter().map(Vec::as_slice);
        Dedicated::open(self.shared.clone(), |shared| {
            shared.router.dedicated_owner(keys())
        })
    }

    /// Runs an optimistic transaction over `keys`, which must live on one node: watches them and calls
    /// `attempt` with a connection to read from and an atomic pipeline to fill, again as long as it returns
    /// `None`. `None` is what the pipeline's `query` returns when a watched key has changed.
    ///
    /// ```no_run
    /// # use redis_sharding::{ShardedClient, redis::{Commands, RedisResult}};
    /// # fn f(client: &ShardedClient) -> RedisResult<()> {
    /// let key = "account:{7}";
    /// let (balance,): (i64,) = client.transaction(&[key], |connection, pipe| {
    ///     let old: i64 = connection.get(key)?;
    ///     pipe.set(key, old - 10).ignore().get(key).query(connection)
    /// })?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`dedicated`](Self::dedicated), any error of `attempt`, and
    /// [`Attempts`](crate::ErrorKind::Attempts) after
    /// [`TRANSACTION_ATTEMPTS_MAX`](crate::TRANSACTION_ATTEMPTS_MAX) calls without success.
    pub fn transaction<T>(
        &self,
        keys: impl ToRedisArgs,
        attempt: impl FnMut(&mut Dedicated, &mut redis::Pipeline) -> RedisResult<Option<T>>,
    ) -> RedisResult<T> {
        let connection = self.dedicated(&keys)?;
        crate::sync::transaction::run(&self.shared, connection, &keys, attempt)
    }

    /// Returns a subscriber to channels and patterns of all nodes. It connects with its first subscription.
    pub fn subscriber(&self) -> Subscriber {
        Subscriber::new(self.shared.clone())
    }

    /// Returns an iterator over every key of every node, one node after another; see [`Scan`] for patterns,
    /// types and resuming.
    ///
    /// `redis::Commands::scan` and its relatives work over all nodes as well; this one can be interrupted and
    /// resumed.
    pub fn scan_all(&self) -> Scan {
        Scan::new(
            self.shared.clone(),
            ScanPosition::start(self.shared.load().router.topology()),
        )
    }

    /// Returns a scan that continues where an earlier one, of either client, stopped.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) when the position comes from another topology.
    pub fn resume_scan(&self, position: ScanPosition) -> Result<Scan, Error> {
        position.locate(self.shared.load().router.topology())?;
        Ok(Scan::new(self.shared.clone(), position))
    }

    /// True if this handle watches keys, or its WATCH has failed: it must not be given to another user.
    #[cfg(feature = "r2d2")]
    pub(super) fn is_watching(&self) -> bool {
        self.watch.is_active()
    }

    /// The handle of the node at `index` of the topology.
    fn node_at(&self, shared: &Shared, index: NodeIndex) -> Node {
        Node::new(self.shared.clone(), shared.router.node_ref(index))
    }
}

impl fmt::Debug for ShardedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardedClient")
            .field("topology", self.shared.load().router.topology())
            .finish_non_exhaustive()
    }
}

impl ConnectionLike for ShardedClient {
    fn req_command(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let reply = self.req_packed_command(&cmd.get_packed_command())?;
        Ok(if cmd.is_no_response() {
            Value::Nil
        } else {
            reply
        })
    }

    fn req_packed_command(&mut self, cmd: &[u8]) -> RedisResult<Value> {
        let shared = self.shared.ready()?;
        let complete = |error| shared.router.with_keys(error, cmd);
        match shared.request(cmd) {
            // WATCH is refused on shared connections, but this handle can have one of its own.
            Err(refusal) if refusal.kind() == ErrorKind::Stateful => {
                drop(shared);
                self.watch.handle(&mut self.shared, cmd, refusal)
            }
            result => Error::redis_result(result, complete),
        }
    }

    fn req_packed_commands(
        &mut self,
        cmd: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let is_atomic = || PipelineKind::of(cmd, offset, count) != PipelineKind::Plain;
        if self.watch.is_active() && is_atomic() {
            return self.watch.exec(&mut self.shared, cmd, offset, count);
        }
        let replies = self.shared.ready()?.pipeline(cmd, offset, count);
        if replies.is_err() && !is_atomic() {
            self.watch.pipeline_failed(cmd);
        }
        replies
    }

    fn get_db(&self) -> i64 {
        self.shared.load().db
    }

    /// True if the client is usable: at least one node replies to PING, which is sent to all nodes at once. A
    /// node that does not reply makes this take as long as the response timeout, unless it is known to be down.
    ///
    /// It does not mean that all nodes are up, since the keys of those that are can be used in the meantime:
    /// [`ping_nodes`](Self::ping_nodes) returns the outcome of each node.
    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    /// Always true: connections are made when they are needed, and remade when they break.
    fn is_open(&self) -> bool {
        true
    }
}
