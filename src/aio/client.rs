//! [`ShardedClient`]: the handle over all nodes.

use std::fmt;
use std::sync::Arc;

use redis::aio::ConnectionLike;
use redis::{Cmd, IntoConnectionInfo, Pipeline, RedisFuture, RedisResult, ToRedisArgs, Value};

use crate::aio::watch::Watch;
use crate::aio::{Dedicated, Node, Scan, Shared, Subscriber};
use crate::config::Builder;
use crate::error::{Error, ErrorKind};
use crate::observe::ClientHealth;
use crate::partition::NodeIndex;
use crate::plan::ScanPosition;
use crate::plan::{Explanation, NodePing, ScriptStore, parse_one};
use crate::snapshot::SnapshotHandle;
use crate::topology::Topology;

/// A client that spreads data over many Redis or Valkey servers, on tokio.
///
/// It is the connection: it implements [`redis::aio::ConnectionLike`], so `redis::AsyncCommands`,
/// `redis::cmd(..).query_async(..)`, `redis::pipe()` and `redis::Script` work as they do over one server. It
/// is cheap to clone and may be shared by tasks: all of them send over one connection per node, which writes
/// the requests of many tasks in one go. It connects when a node is first needed, and reconnects in the
/// background when a connection breaks.
///
/// `redis::aio::transaction_async`, WATCH followed by `pipe().atomic()`, and CLIENT SETNAME work as through the
/// [blocking client](crate::ShardedClient).
///
/// The [module's documentation](crate::aio#dropped-futures) describes the effect of dropping a future.
///
/// # Health
///
/// | question | call |
/// |---|---|
/// | which nodes reply? | [`ping_nodes`](Self::ping_nodes) |
/// | does any node reply, so that the client is usable? | PING |
/// | what does the client remember of its nodes, without I/O? | [`health`](Self::health) |
///
/// # Example
///
/// ```no_run
/// use redis_sharding::{ShardedClient, redis::AsyncCommands};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let mut client = ShardedClient::builder()
///     .node("cache-a", "redis://10.0.0.1/")
///     .node("cache-b", "redis://10.0.0.2/")
///     .build_async()?;
/// let _: () = client.set("user:{42}:name", "Ada").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ShardedClient {
    pub(super) shared: SnapshotHandle<Shared>,
    /// The keys that this handle watches.
    watch: Watch,
}

impl ShardedClient {
    /// Returns a builder, to be finished with [`Builder::build_async`]. Nothing is contacted before the first
    /// command.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Builds a client over the fleet that a node at one of these URLs belongs to, and follows its record: see
    /// [`Builder::discover`]. The nodes are asked by a thread of the runtime that may block.
    ///
    /// # Errors
    ///
    /// If no node names the topology of its fleet: each with its reason.
    pub async fn discover<U: IntoConnectionInfo>(
        seeds: impl IntoIterator<Item = U>,
    ) -> Result<Self, Error> {
        let seeds = Builder::seeds_of(seeds)?;
        let ask = move || Self::builder().discover(seeds)?.build_async();
        match tokio::task::spawn_blocking(ask).await {
            Ok(client) => client,
            Err(error) => Err(Error::config(format!(
                "the fleet was not asked for: {error}"
            ))),
        }
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
            .build_async()
    }

    /// Builds a client over the Redis Cluster of these servers, which need not be all of them: see
    /// [`Builder::cluster`].
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) as for [`Builder::build`].
    pub fn cluster<U: IntoConnectionInfo>(
        seeds: impl IntoIterator<Item = U>,
    ) -> Result<Self, Error> {
        Self::builder().cluster(seeds).build_async()
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
    /// scans and subscribers.
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
    /// use redis_sharding::{Topology, aio::ShardedClient};
    ///
    /// let client = ShardedClient::builder()
    ///     .node("a", "redis://10.0.0.1/")
    ///     .node("b", "redis://10.0.0.2/")
    ///     .build_async()?;
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
    /// let client = ShardedClient::builder().node("a", "redis://10.0.0.1/").build_async()?;
    /// let health = client.health();
    /// assert!(health.is_up() && health.nodes[0].state == NodeState::Unknown, "{health}");
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    pub fn health(&self) -> ClientHealth {
        self.shared.load().health()
    }

    /// Sends PING to all nodes that are not ejected at once, and returns each node's outcome in the order of the topology. Takes at
    /// most the response timeout; a node that is known to be down fails at once.
    pub async fn ping_nodes(&self) -> Vec<NodePing> {
        let shared = self.shared.ready_async().await;
        let shared = shared.unwrap_or_else(|_| self.shared.load_full());
        shared.ping_nodes().await
    }

    /// Returns what would become of `cmd`, without sending it. `Display` prints a small table.
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
    /// [`Error`] describes what redis-rs' traits make of it. Once polled, the command is executed even if the future
    /// is dropped.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](crate::ErrorKind) but `Config`.
    pub async fn execute(&self, cmd: &Cmd) -> Result<Value, Error> {
        let shared = self.shared.ready_async().await?;
        let result = shared.request(cmd).await;
        let router = &shared.router;
        result.map_err(|error| router.with_keys(error, &cmd.get_packed_command()))
    }

    /// Runs a pipeline and returns one result for each command. While one node is down, the replies of the other
    /// nodes are not lost; the errors of the commands that failed name their node and their keys. In redis-rs'
    /// traits such a pipeline fails as a whole, as it does when the connection to one server breaks.
    ///
    /// `ignore` and `ignore_errors` of the pipeline have no effect here. Once polled, the pipeline is executed
    /// even if the future is dropped.
    ///
    /// # Errors
    ///
    /// If a command is refused, for example because its keys live on several nodes: nothing is sent then. An
    /// [atomic](redis::Pipeline::atomic) pipeline fails as a whole; with [`Unknown`](crate::ErrorKind::Unknown)
    /// if it may have been executed. [`Stateful`](crate::ErrorKind::Stateful) for an atomic pipeline while this
    /// handle watches keys: it would run unwatched, and `query` of the pipeline runs it watched.
    pub async fn execute_pipeline(
        &self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, Error>>, Error> {
        self.watch.check_beside(pipeline)?;
        let shared = self.shared.ready_async().await?;
        shared.pipeline_results(pipeline).await
    }

    /// Opens a private connection to the node that owns all of `keys`, for WATCH, CLIENT and everything else
    /// that changes the state of a connection. It is closed when dropped.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](crate::ErrorKind::CrossNode) when the keys live on several nodes,
    /// [`Unroutable`](crate::ErrorKind::Unroutable) when there is none; [`Auth`](crate::ErrorKind::Auth),
    /// [`NodeDown`](crate::ErrorKind::NodeDown), [`PoolTimeout`](crate::ErrorKind::PoolTimeout) or
    /// [`Timeout`](crate::ErrorKind::Timeout) when no connection can be had.
    pub async fn dedicated(&self, keys: impl ToRedisArgs) -> Result<Dedicated, Error> {
        let keys = keys.to_redis_args();
        let keys = || keys.iter().map(Vec::as_slice);
        Dedicated::open(self.shared.clone(), |shared| {
            shared.router.dedicated_owner(keys())
        })
        .await
    }

    /// Runs an optimistic transaction over `keys`, which must live on one node: watches them and calls
    /// `attempt` with a connection to read from and an atomic pipeline to fill, again as long as it returns
    /// `None`. `None` is what the pipeline's `query_async` returns when a watched key has changed.
    ///
    /// Inside a spawned task, the closure must own what it uses (`async move`, clones): the compiler cannot
    /// yet prove that a future which contains a borrowing async closure is `Send`.
    ///
    /// Dropping the future closes the connection: either EXEC had been sent, and all of the pipeline was
    /// applied, or none of it.
    ///
    /// ```no_run
    /// # use redis_sharding::{aio::ShardedClient, redis::{AsyncCommands, RedisResult}};
    /// # async fn f(client: &ShardedClient) -> RedisResult<()> {
    /// let key = "account:{7}";
    /// let (balance,): (i64,) = client
    ///     .transaction(&[key], async |connection, pipe| {
    ///         let old: i64 = connection.get(key).await?;
    ///         pipe.set(key, old - 10).ignore().get(key).query_async(connection).await
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`dedicated`](Self::dedicated), any error of `attempt`, and
    /// [`Attempts`](crate::ErrorKind::Attempts) after
    /// [`TRANSACTION_ATTEMPTS_MAX`](crate::TRANSACTION_ATTEMPTS_MAX) calls without success.
    pub async fn transaction<T>(
        &self,
        keys: impl ToRedisArgs,
        attempt: impl AsyncFnMut(&mut Dedicated, &mut Pipeline) -> RedisResult<Option<T>>,
    ) -> RedisResult<T> {
        let connection = self.dedicated(&keys).await?;
        crate::aio::transaction::run(&self.shared, connection, &keys, attempt).await
    }

    /// Returns a subscriber to channels and patterns of all nodes. It connects with its first subscription.
    pub fn subscriber(&self) -> Subscriber {
        Subscriber::new(self.shared.clone())
    }

    /// Returns a stream of every key of every node, one node after another; see [`Scan`] for patterns, types
    /// and resuming.
    ///
    /// `redis::AsyncCommands::scan` and its relatives work over all nodes as well; this one can be
    /// interrupted and resumed.
    pub fn scan_all(&self) -> Scan {
        let position = ScanPosition::start(self.shared.load().router.topology());
        Scan::new(self.shared.clone(), position)
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
    #[cfg(any(feature = "bb8", feature = "deadpool"))]
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
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let shared = self.shared.ready_async().await?;
            let reply = match shared.request(cmd).await {
                // WATCH is refused on shared connections, but this handle can have one of its own. Boxed, as
                // it is rare and would be part of the future of every request.
                Err(refusal) if refusal.kind() == ErrorKind::Stateful => {
                    Box::pin(self.watch.handle(&mut self.shared, cmd, refusal)).await?
                }
                result => {
                    let router = &shared.router;
                    let complete = |error| router.with_keys(error, &cmd.get_packed_command());
                    Error::redis_result(result, complete)?
                }
            };
            Ok(if cmd.is_no_response() {
                Value::Nil
            } else {
                reply
            })
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self.watch.is_active() && pipeline.is_transaction() {
            true => Box::pin(self.watch.exec(&mut self.shared, pipeline, offset, count)),
            false => Box::pin(async move {
                let shared = self.shared.ready_async().await?;
                let replies = shared.pipeline(pipeline, offset, count).await;
                if replies.is_err() && !pipeline.is_transaction() {
                    let packed = pipeline.get_packed_pipeline();
                    Box::pin(self.watch.pipeline_failed(&packed)).await;
                }
                replies
            }),
        }
    }

    fn get_db(&self) -> i64 {
        self.shared.load().db
    }
}
