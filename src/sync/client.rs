//! The handle over all nodes.

use std::fmt;
use std::sync::Arc;

use redis::{Cmd, ConnectionLike, IntoConnectionInfo, RedisResult, ToRedisArgs, Value};

use crate::builder::Builder;
use crate::command::{Args, PackedCommands};
use crate::error::{Error, ErrorKind};
use crate::node::NodeIndex;
use crate::plan::{Atomic, Batch, Exchange, Explanation, Hold, Plan, Planned, Router, named};
use crate::sync::executor::Executor;
use crate::sync::{Dedicated, Node, Scan, ScanPosition};
use crate::topology::Topology;

/// A client that spreads data over many Redis or Valkey servers.
///
/// It is the connection: it implements [`redis::ConnectionLike`], so `redis::Commands`, `redis::TypedCommands`,
/// `redis::cmd(..).query(..)`, `redis::pipe()` and `redis::Script` work as they do over one server. It is cheap to clone,
/// may be shared by threads, and connects when a node is first needed; `&mut` is only what redis-rs' traits ask for.
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
    shared: Arc<Shared>,
}

/// What all clones of a handle share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) router: Router,
    pub(crate) executor: Executor,
    pub(crate) db: i64,
}

impl ShardedClient {
    /// Starts describing a client. Nothing is contacted before the first command.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A client over these servers with the default partitioner, each node named after its host and port.
    ///
    /// The names place the keys. If a server may ever move to another address, give it a name of its own with
    /// [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) as for [`Builder::build`].
    pub fn open<U: IntoConnectionInfo>(urls: impl IntoIterator<Item = U>) -> Result<Self, Error> {
        urls.into_iter()
            .fold(Self::builder(), Builder::unnamed_node)
            .build()
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
    /// [`Unroutable`](ErrorKind::Unroutable) when the placement leaves the key without an owner.
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
        self.shared.router.explain(&parse_one(&packed)?)
    }

    /// Runs `cmd` and keeps this crate's own error, with what each node did: see [`Error::parts`]. redis-rs' traits
    /// flatten it to a `RedisError`.
    ///
    /// # Errors
    ///
    /// Any [`ErrorKind`] but `Config`.
    pub fn execute(&self, cmd: &Cmd) -> Result<Value, Error> {
        match self.shared.request(&cmd.get_packed_command())? {
            Value::ServerError(error) => Err(Error::said(&error)),
            value => Ok(value),
        }
    }

    /// A private connection to the node that owns all of `keys`, for WATCH, SUBSCRIBE, CLIENT and everything else that
    /// changes a connection. It is closed when dropped.
    ///
    /// # Errors
    ///
    /// [`CrossNode`](ErrorKind::CrossNode) when the keys live on several nodes, [`Unroutable`](ErrorKind::Unroutable)
    /// when there is none, [`NodeDown`](ErrorKind::NodeDown) or [`PoolTimeout`](ErrorKind::PoolTimeout) when there is no
    /// connection.
    pub fn dedicated(&self, keys: impl ToRedisArgs) -> Result<Dedicated, Error> {
        let keys = keys.to_redis_args();
        let node = self.shared.router.common_owner(keys.iter().map(Vec::as_slice))?;
        Dedicated::open(Arc::clone(&self.shared), node, true)
    }

    /// An optimistic transaction over `keys`, which live on one node: watches them, calls `attempt` with a connection to
    /// read from and an atomic pipeline to fill, and calls it again as long as it returns `None`, which is what the
    /// pipeline's `query` gives when a watched key has changed.
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
    /// As for [`dedicated`](Self::dedicated), what `attempt` returns, and `ATTEMPTS` when it has been called
    /// [`TRANSACTION_ATTEMPTS_MAX`](crate::TRANSACTION_ATTEMPTS_MAX) times in vain.
    pub fn transaction<T>(
        &self,
        keys: impl ToRedisArgs,
        attempt: impl FnMut(&mut Dedicated, &mut redis::Pipeline) -> RedisResult<Option<T>>,
    ) -> RedisResult<T> {
        let connection = self.dedicated(&keys)?;
        crate::sync::transaction::run(connection, &keys, attempt)
    }

    /// Every key of every node, one node after another; see [`Scan`] for patterns, types and resuming.
    ///
    /// `redis::Commands::scan` and its relatives work over all nodes as well; this one can be interrupted and resumed.
    pub fn scan_all(&self) -> Scan {
        Scan::new(Arc::clone(&self.shared), ScanPosition::start(self.topology().fingerprint()))
    }

    /// A scan that goes on where an earlier one stopped.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) when the position comes from another topology.
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
    fn req_command(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let reply = self.shared.request(&cmd.get_packed_command())?;
        Ok(if cmd.is_no_response() { Value::Nil } else { reply })
    }

    fn req_packed_command(&mut self, cmd: &[u8]) -> RedisResult<Value> {
        Ok(self.shared.request(cmd)?)
    }

    fn req_packed_commands(&mut self, cmd: &[u8], offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        self.shared.pipeline(cmd, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.shared.db
    }

    fn check_connection(&mut self) -> bool {
        redis::cmd("PING").exec(self).is_ok()
    }

    /// Always true: connections are made when they are needed, and made again when they break.
    fn is_open(&self) -> bool {
        true
    }
}

impl Shared {
    /// One request in the wire format, routed by its keys.
    pub(crate) fn request(&self, packed: &[u8]) -> Result<Value, Error> {
        let args = parse_one(packed)?;
        let planned = self.router.planned(&args)?;
        match planned.plan {
            Plan::One(node) => self.call(node, packed, &planned),
            _ => {
                let mut batch = Batch::new(&self.router, packed.len());
                batch.add(packed, &args, planned);
                let exchanges = batch.take_exchanges();
                let answers = self.executor.exchange(&exchanges, batch.hold());
                batch.finish_one(&exchanges, answers)
            }
        }
    }

    /// One request to the node of its plan.
    pub(crate) fn call(&self, node: NodeIndex, packed: &[u8], planned: &Planned) -> Result<Value, Error> {
        match self.executor.call(node, packed, planned.access, planned.hold) {
            Ok(value @ Value::ServerError(_)) => Ok(named(value, self.router.name(node))),
            Ok(value) => Ok(value),
            Err(failure) => Err(failure.error(self.router.name(node), 0, planned.access)),
        }
    }

    /// Many requests in the wire format. `offset` replies are left out, `count` are returned, as
    /// `redis::Pipeline` wants it.
    fn pipeline(&self, packed: &[u8], offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        if is_atomic(packed, offset, count) {
            return self.atomic(packed, offset - 1);
        }
        let mut batch = Batch::new(&self.router, packed.len());
        for_each_command(packed, |frame, args| {
            let planned = self.router.planned(args)?;
            batch.add(frame, args, planned);
            Ok(())
        })?;
        let exchanges = batch.take_exchanges();
        let answers = self.executor.exchange(&exchanges, batch.hold());
        let mut values = batch.finish(&exchanges, answers);
        values.truncate(offset + count);
        values.drain(..offset.min(values.len()));
        Ok(values)
    }

    /// MULTI, `commands` commands, EXEC.
    fn atomic(&self, packed: &[u8], commands: usize) -> RedisResult<Vec<Value>> {
        let mut atomic = Atomic::new(&self.router);
        let mut number = 0;
        for_each_command(packed, |_, args| {
            number += 1;
            match number {
                1 => Ok(()),
                last if last == commands + 2 => Ok(()),
                _ => atomic.add(args),
            }
        })?;
        let node = atomic.owner()?;
        self.send_atomic(node, packed, commands)
    }

    pub(crate) fn send_atomic(&self, node: NodeIndex, packed: &[u8], commands: usize) -> RedisResult<Vec<Value>> {
        let exchange = Atomic::exchange(node, packed, commands);
        let answers = self.executor.exchange(&[exchange], Hold::No);
        let name = self.router.name(node);
        let answers = answers.into_iter().next().unwrap_or_default();
        Ok(vec![Atomic::finish(name, answers)?])
    }

    /// Many requests in the wire format to one node.
    pub(crate) fn pipeline_at(
        &self,
        node: NodeIndex,
        packed: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let atomic = is_atomic(packed, offset, count);
        let mut batch = Batch::new(&self.router, packed.len());
        let mut number = 0;
        for_each_command(packed, |frame, args| {
            number += 1;
            if atomic && (number == 1 || number == offset + count) {
                return Ok(());
            }
            batch.add_at(node, frame, self.router.planned_at(node, args)?);
            Ok(())
        })?;
        if atomic {
            return self.send_atomic(node, packed, offset - 1);
        }
        let exchanges: Vec<Exchange> = batch.take_exchanges();
        let answers = self.executor.exchange(&exchanges, batch.hold());
        let mut values = batch.finish(&exchanges, answers);
        values.truncate(offset + count);
        values.drain(..offset.min(values.len()));
        Ok(values)
    }
}

/// Whether this is what `redis::Pipeline` sends when it is atomic.
pub(super) fn is_atomic(packed: &[u8], offset: usize, count: usize) -> bool {
    const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
    const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";
    offset > 0 && count == 1 && packed.starts_with(MULTI) && packed.ends_with(EXEC)
}

/// The arguments of one packed request.
pub(super) fn parse_one(packed: &[u8]) -> Result<Args<'_>, Error> {
    let mut args = Args::new();
    let mut commands = PackedCommands::new(packed);
    match commands.next(&mut args) {
        Ok(Some(frame)) if frame.len() == packed.len() => Ok(args),
        Ok(Some(_)) => Err(unreadable("there is more than one command in it")),
        Ok(None) => Err(unreadable("it is empty")),
        Err(error) => Err(unreadable(&error.to_string())),
    }
}

/// Calls `visit` with the bytes and the arguments of every command.
pub(super) fn for_each_command<'p>(
    packed: &'p [u8],
    mut visit: impl FnMut(&'p [u8], &[&'p [u8]]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut args = Args::new();
    let mut commands = PackedCommands::new(packed);
    let mut number = 0;
    while let Some(frame) = commands.next(&mut args).map_err(|error| unreadable(&error.to_string()))? {
        visit(frame, &args).map_err(|error| error.at_command(number))?;
        number += 1;
    }
    Ok(())
}

fn unreadable(why: &str) -> Error {
    Error::new(ErrorKind::Unroutable, format!("the packed request cannot be read: {why}"))
}
