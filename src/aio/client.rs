//! The handle over all nodes.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use redis::aio::ConnectionLike;
use redis::{Arg, Cmd, IntoConnectionInfo, Pipeline, RedisFuture, RedisResult, ToRedisArgs, Value};

use crate::aio::{Dedicated, Executor, Node, Scan, Subscriber};
use crate::command::BlockingTime;
use crate::command::{Args, Scripting};
use crate::config::Builder;
use crate::error::Error;
use crate::partition::NodeIndex;
use crate::plan::ScanPosition;
use crate::plan::{
    Batch, Explanation, PipelineKind, Plan, PlannedPipeline, PlannedTransaction, RoutedCommand,
    Router, Scope, ScriptCache, empty_pipeline, parse_one, select_replies, with_node_name,
};
use crate::topology::Topology;

/// A client that spreads data over many Redis or Valkey servers, on tokio.
///
/// It is the connection: it implements [`redis::aio::ConnectionLike`], so `redis::AsyncCommands`,
/// `redis::cmd(..).query_async(..)`, `redis::pipe()` and `redis::Script` work as they do over one server. It is cheap to
/// clone and may be shared by tasks: all of them send over one connection per node, which writes what many tasks have
/// handed over in one go. It connects when a node is first needed, and again in the background when a connection breaks.
///
/// What a dropped future may have done is said in the [module's documentation](crate::aio#dropped-futures).
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
    shared: Arc<Shared>,
}

/// What all clones of a handle share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) router: Router,
    pub(crate) executor: Executor,
    pub(crate) scripts: Arc<RwLock<Arc<ScriptCache>>>,
    pub(crate) db: i64,
}

impl ShardedClient {
    /// Starts describing a client; ends with [`Builder::build_async`]. Nothing is contacted before the first command.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A client over these servers with the default partitioner, each node named after its host and port.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) as for [`Builder::build`].
    pub fn open<U: IntoConnectionInfo>(urls: impl IntoIterator<Item = U>) -> Result<Self, Error> {
        urls.into_iter()
            .fold(Self::builder(), Builder::unnamed_node)
            .build_async()
    }

    pub(crate) fn from_shared(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The nodes and their placement.
    pub fn topology(&self) -> &Topology {
        self.shared.router.topology()
    }

    /// The node called `name`, for commands that are about one server: INFO, CONFIG, SLOWLOG, ...
    pub fn node(&self, name: &str) -> Option<Node> {
        let index = self.topology().index_of(name)?;
        Some(self.node_at(index))
    }

    /// The node that owns `key`.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](crate::ErrorKind::Unroutable) when the placement leaves the key without an owner.
    pub fn node_for(&self, key: impl AsRef<[u8]>) -> Result<Node, Error> {
        Ok(self.node_at(self.shared.router.owner(key.as_ref())?))
    }

    /// All nodes, in the order of the topology.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = Node> + '_ {
        self.topology().indices().map(|index| self.node_at(index))
    }

    /// What would be done with `cmd`, without doing it. `Display` prints a small table.
    ///
    /// # Errors
    ///
    /// The error with which the command would be refused.
    pub fn explain(&self, cmd: &Cmd) -> Result<Explanation, Error> {
        let packed = cmd.get_packed_command();
        let shared = &self.shared;
        shared
            .router
            .explain(&parse_one(&packed)?, &|| shared.snapshot())
    }

    /// Runs `cmd` and keeps this crate's own error, with what each node did: see [`Error::parts`]. redis-rs' traits
    /// flatten it to a `RedisError`. Once polled, the command is carried out even if the future is dropped.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`](crate::ErrorKind) but `Config`.
    pub async fn execute(&self, cmd: &Cmd) -> Result<Value, Error> {
        let error = match self.shared.request(cmd).await {
            Ok(Value::ServerError(error)) => Error::from_server(&error),
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let router = &self.shared.router;
        Err(router.with_keys(error, &cmd.get_packed_command()))
    }

    /// A private connection to the node that owns all of `keys`, for WATCH, CLIENT and everything else that changes a
    /// connection. It is closed when dropped.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](crate::ErrorKind::CrossNode) when the keys live on several nodes,
    /// [`Unroutable`](crate::ErrorKind::Unroutable) when there is none; [`Auth`](crate::ErrorKind::Auth),
    /// [`NodeDown`](crate::ErrorKind::NodeDown), [`PoolTimeout`](crate::ErrorKind::PoolTimeout) or
    /// [`Timeout`](crate::ErrorKind::Timeout) when no connection can be had.
    pub async fn dedicated(&self, keys: impl ToRedisArgs) -> Result<Dedicated, Error> {
        let keys = keys.to_redis_args();
        let node = self
            .shared
            .router
            .common_owner(keys.iter().map(Vec::as_slice))?;
        Dedicated::open(Arc::clone(&self.shared), node, true).await
    }

    /// An optimistic transaction over `keys`, which live on one node: watches them, calls `attempt` with a connection to
    /// read from and an atomic pipeline to fill, and calls it again as long as it returns `None`, which is what the
    /// pipeline's `query_async` gives when a watched key has changed.
    ///
    /// Inside a spawned task, the closure must own what it uses (`async move`, clones): the compiler does not yet see that
    /// a future with a borrowing one may be sent to another thread.
    ///
    /// When the future is dropped, the connection is closed: either EXEC was sent before, and all of the pipeline was
    /// done, or nothing of it.
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
    /// As for [`dedicated`](Self::dedicated), what `attempt` returns, and [`Attempts`](crate::ErrorKind::Attempts) when it has been called
    /// [`TRANSACTION_ATTEMPTS_MAX`](crate::TRANSACTION_ATTEMPTS_MAX) times in vain.
    pub async fn transaction<T>(
        &self,
        keys: impl ToRedisArgs,
        attempt: impl AsyncFnMut(&mut Dedicated, &mut Pipeline) -> RedisResult<Option<T>>,
    ) -> RedisResult<T> {
        let connection = self.dedicated(&keys).await?;
        crate::aio::transaction::run(connection, &keys, attempt).await
    }

    /// Listens to channels and patterns of all nodes.
    pub fn subscriber(&self) -> Subscriber {
        Subscriber::new(Arc::clone(&self.shared))
    }

    /// Every key of every node, one node after another; see [`Scan`] for patterns, types and resuming.
    ///
    /// `redis::AsyncCommands::scan` and its relatives work over all nodes as well; this one can be interrupted and
    /// resumed.
    pub fn scan_all(&self) -> Scan {
        let position = ScanPosition::start(self.topology().fingerprint());
        Scan::new(Arc::clone(&self.shared), position)
    }

    /// A scan that goes on where an earlier one, of either client, stopped.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) when the position comes from another topology.
    pub fn resume_scan(&self, position: ScanPosition) -> Result<Scan, Error> {
        position.check(self.topology().fingerprint())?;
        Ok(Scan::new(Arc::clone(&self.shared), position))
    }

    fn node_at(&self, index: NodeIndex) -> Node {
        Node::new(Arc::clone(&self.shared), index)
    }
}

impl fmt::Debug for ShardedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardedClient")
            .field("topology", self.topology())
            .finish_non_exhaustive()
    }
}

impl ConnectionLike for ShardedClient {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let reply = self.shared.request(cmd).await?;
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
        Box::pin(async move {
            let packed = pipeline.get_packed_pipeline();
            if packed.is_empty() {
                return Err(empty_pipeline());
            }
            let shape = PipelineKind::of(&packed, offset, count);
            let shared = &self.shared;
            let bundle = shared.router.route_pipeline(
                &packed,
                shape,
                &|| shared.snapshot(),
                rand::random(),
            )?;
            let values = shared.run(bundle).await?;
            Ok(select_replies(values, shape, offset, count))
        })
    }

    fn get_db(&self) -> i64 {
        self.shared.db
    }
}

impl Shared {
    /// One command, routed by its keys.
    pub(crate) async fn request(&self, cmd: &Cmd) -> Result<Value, Error> {
        let packed;
        let args = match simple_args(cmd) {
            Some(args) => args,
            None => {
                packed = cmd.get_packed_command();
                parse_one(&packed)?
            }
        };
        let routed = match self.router.route(&args, &|| self.snapshot()) {
            Err(error) => Box::pin(self.planned_again(&args, error)).await?,
            Ok(routed) => routed,
        };
        match routed.plan {
            Plan::One(node) if routed.scripting == Scripting::No => {
                self.call(node, cmd, &routed).await
            }
            // In a box, lest the future of every GET has room for it.
            Plan::One(node) => {
                let packed = cmd.get_packed_command();
                Box::pin(self.call_script(node, &packed, &args, &routed, Scope::AllNodes)).await
            }
            Plan::Any => Box::pin(self.call_any(cmd, &args, &routed)).await,
            _ => Box::pin(self.spread(cmd, &args, routed)).await,
        }
    }

    /// The plan for a command that was refused, if the nodes know what was not known about it.
    pub(crate) async fn planned_again(
        &self,
        args: &[&[u8]],
        refusal: Error,
    ) -> Result<RoutedCommand, Error> {
        match self.fetch_libraries(args).await {
            true => self.router.route(args, &|| self.snapshot()),
            false => Err(refusal),
        }
    }

    /// One command of which several nodes have a part.
    async fn spread(
        &self,
        cmd: &Cmd,
        args: &[&[u8]],
        routed: RoutedCommand,
    ) -> Result<Value, Error> {
        let scripting = routed.scripting;
        let packed = cmd.get_packed_command();
        let mut batch = Batch::new(&self.router, packed.len(), rand::random());
        batch.add(&packed, args, routed);
        let mut exchanges = batch.take_exchanges();
        let answers = self
            .executor
            .exchange(&mut exchanges, batch.blocking_time())
            .await;
        let answer = batch.finish_one(&exchanges, answers, rand::random())?;
        Ok(match scripting {
            Scripting::No => answer,
            Scripting::Yes => self.record_script_reply(args, Scope::AllNodes, answer),
        })
    }

    /// One command to any node.
    async fn call_any(
        &self,
        cmd: &Cmd,
        args: &[&[u8]],
        routed: &RoutedCommand,
    ) -> Result<Value, Error> {
        let packed = cmd.get_packed_command();
        let mut batch = Batch::new(&self.router, packed.len(), rand::random());
        batch.add_any(&packed, routed.clone());
        let mut exchanges = batch.take_exchanges();
        let answers = self
            .executor
            .exchange(&mut exchanges, batch.blocking_time())
            .await;
        let (node, answer) = batch.finish_any(&exchanges, answers)?;
        match routed.scripting {
            Scripting::No => Ok(answer),
            Scripting::Yes => {
                self.recover_script(node, &packed, args, routed, Scope::AllNodes, answer)
                    .await
            }
        }
    }

    /// One command to the node of its plan.
    pub(crate) async fn call(
        &self,
        node: NodeIndex,
        cmd: &Cmd,
        routed: &RoutedCommand,
    ) -> Result<Value, Error> {
        let write = |out: &mut Vec<u8>| cmd.write_packed_command(out);
        self.send(node, write, routed).await
    }

    /// One packed request to the node of its plan.
    pub(crate) async fn call_packed(
        &self,
        node: NodeIndex,
        packed: &[u8],
        routed: &RoutedCommand,
    ) -> Result<Value, Error> {
        let write = |out: &mut Vec<u8>| out.extend_from_slice(packed);
        self.send(node, write, routed).await
    }

    async fn send(
        &self,
        node: NodeIndex,
        write: impl Fn(&mut Vec<u8>),
        routed: &RoutedCommand,
    ) -> Result<Value, Error> {
        match self
            .executor
            .call(node, write, routed.access, routed.blocking)
            .await
        {
            Ok(value @ Value::ServerError(_)) => Ok(with_node_name(value, self.router.name(node))),
            Ok(value) => Ok(value),
            Err(failure) => Err(failure.error(self.router.name(node), 0, routed.access)),
        }
    }

    /// What a pipeline became.
    pub(crate) async fn run(&self, bundle: PlannedPipeline<'_, '_>) -> RedisResult<Vec<Value>> {
        match bundle {
            PlannedPipeline::Empty => Ok(vec![Value::Array(Vec::new())]),
            PlannedPipeline::Atomic(node, exchange) => {
                let answers = self
                    .executor
                    .exchange(&mut vec![exchange], BlockingTime::None)
                    .await;
                let answers = answers.into_iter().next().unwrap_or_default();
                Ok(vec![PlannedTransaction::finish(
                    self.router.name(node),
                    answers,
                )?])
            }
            PlannedPipeline::Batch(mut batch) => {
                let mut exchanges = batch.take_exchanges();
                let answers = self
                    .executor
                    .exchange(&mut exchanges, batch.blocking_time())
                    .await;
                Ok(batch.finish(&exchanges, answers, rand::random()))
            }
            PlannedPipeline::ScriptedAtomic(node, exchange, journal) => {
                Box::pin(self.run_scripted_atomic(node, exchange, &journal)).await
            }
            PlannedPipeline::ScriptedBatch(batch, journal) => {
                Box::pin(self.run_scripted(batch, &journal)).await
            }
        }
    }
}

/// The arguments of a command; `None` when one of them is a cursor, whose value only the packed command has.
pub(crate) fn simple_args(cmd: &Cmd) -> Option<Args<'_>> {
    cmd.args_iter()
        .map(|arg| match arg {
            Arg::Simple(arg) => Some(arg),
            _ => None,
        })
        .collect()
}
