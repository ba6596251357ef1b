//! Errors: what each one means, which node and keys it concerns, and whether to retry.

mod redis_form;

use std::fmt;
use std::io;
use std::sync::Arc;

use redis::{RedisError, ServerError};

pub(crate) use self::redis_form::io_error_in;

/// Maximum length in bytes of a key in messages and in [`Error::keys`]; longer keys are cut.
pub const KEY_TEXT_MAX: usize = 64;

/// Maximum number of keys in [`Error::keys`].
pub const ERROR_KEYS_MAX: usize = 8;

/// The most parts of a split command that the message of an error describes. [`Error::parts`] has all.
const PARTS_SHOWN_MAX: usize = 32;

/// An error of this crate.
///
/// Opaque: [`kind`](Self::kind) is its meaning, [`node`](Self::node) and [`keys`](Self::keys) are what it
/// concerns, [`is_retryable`](Self::is_retryable) tells whether the same call may be made again, and
/// [`parts`](Self::parts) lists the outcome of each part of a split command. The message names the node, the
/// key and the remedy, and never contains a value or a password. The same failure at the same node always has
/// the same message, without durations or counters, so that log lines group.
///
/// # In redis-rs' traits
///
/// `redis::Commands` and redis-rs' other traits return a [`RedisError`], whose predicates answer as they do when
/// the same happens to one server, so that a program's retry loop works unchanged. [`ErrorKind::of`] is its kind,
/// and [`Error::of`] the error of this crate inside it, where there is room for one.
///
/// | kind | `kind()` in redis-rs | predicates that are true |
/// |---|---|---|
/// | `NodeDown` | `Io` | refused, or no unix socket: `is_connection_refusal`, `is_connection_dropped`; broken: `is_connection_dropped`; late connection: `is_timeout` |
/// | `Timeout`, `PoolTimeout` | `Io` | `is_timeout` |
/// | `Unknown` | `Io` | as for the failure that took the reply: `is_timeout` or `is_connection_dropped` |
/// | `Partial`, if a reply is missing | `Io` | as for the first part without a reply |
/// | `Partial`, if all have replied | `Extension`, code `PARTIAL` | none |
/// | `Auth`, username or password | `AuthenticationFailed` | `is_unrecoverable_error` |
/// | `Auth`, certificate | `Io` | none; `retry_method` is `NoRetry`, whereas redis-rs itself advises a retry |
/// | `Redis` | the server's own, with its `code` and `detail` | the server's own |
/// | all others: nothing was sent | `Extension`, with the code word of [`ErrorKind`] | none |
///
/// `Io` is also `is_io_error`; a dropped connection is also `is_unrecoverable_error` (`retry_method` is
/// `Reconnect`, which this client does by itself). redis-rs does not distinguish a read that got no reply from a
/// write: a loop that repeats writes should check [`is_retryable`](Self::is_retryable), which is false for
/// `Unknown`.
///
/// ```
/// use std::time::Duration;
///
/// use redis_sharding::redis::{Cmd, FromRedisValue, RedisResult, RetryMethod};
/// use redis_sharding::{Error, ShardedClient};
///
/// /// Repeats what may be repeated, up to five times.
/// fn query<T: FromRedisValue>(client: &mut ShardedClient, cmd: &Cmd) -> RedisResult<T> {
///     for attempt in 1.. {
///         let error = match cmd.query(client) {
///             Ok(value) => return Ok(value),
///             Err(error) => error,
///         };
///         // Without this line a write that may have been applied is repeated, as with one server.
///         let is_safe = Error::of(&error).is_none_or(Error::is_retryable);
///         match error.retry_method() {
///             _ if attempt == 5 || !is_safe => return Err(error),
///             RetryMethod::RetryImmediately => {}
///             RetryMethod::Reconnect | RetryMethod::WaitAndRetry => {
///                 std::thread::sleep(Duration::from_millis(50 << attempt));
///             }
///             _ => return Err(error),
///         }
///     }
///     unreachable!("the loop has no other end")
/// }
/// # use redis_sharding::{redis::cmd, testing::TestNode};
/// # let node = TestNode::start().unwrap();
/// # let mut client = ShardedClient::open([node.url()]).unwrap();
/// # node.fail("GET", redis_sharding::testing::Fault::CloseBefore, 3);
/// # assert_eq!(query::<Option<i64>>(&mut client, cmd("GET").arg("k")).unwrap(), None);
/// # assert_eq!(node.faults_left(), 0);
/// ```
#[derive(Clone)]
pub struct Error(Box<Repr>);

/// Boxed in [`Error`], so that a `Result` is small.
#[derive(Clone, Debug)]
struct Repr {
    kind: ErrorKind,
    message: String,
    /// The server's own error, or redis-rs'.
    source: Option<Arc<RedisError>>,
    node: Option<String>,
    /// Bounded in number and length.
    keys: Vec<Vec<u8>>,
    /// Shared by the clones of an error, because the parts hold the replies that came.
    parts: Arc<[PartOutcome]>,
    /// Set if the kind alone does not decide it.
    retry: Option<Retry>,
    /// The kind of the I/O error that broke the connection; redis-rs' predicates are based on it.
    io: Option<io::ErrorKind>,
    /// True if the node was not asked for want of time, so that the error says nothing about it.
    is_untried: bool,
}

/// The decision whether a call may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It may: nothing was changed, or repeating it does no harm.
    Safe,
    /// It may not: something may have been changed.
    Unsafe,
}

/// Error codes with which a server refuses a command for the time being, before any of it has run.
///
/// READONLY is one because of failovers: the node is a replica until it is promoted, or until its address
/// leads to the new primary. MISCONF and OOM are not: they last until disk or memory is freed, and a script
/// may meet OOM after its first write.
const TEMPORARY_CODES: [&str; 7] = [
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "NOREPLICAS",
    "READONLY",
    "TRYAGAIN",
];

/// True if `code` is one with which a server refuses a command for the time being, before any of it has run.
pub(crate) fn is_temporary_code(code: &[u8]) -> bool {
    TEMPORARY_CODES.iter().any(|word| word.as_bytes() == code)
}

/// Those of [`TEMPORARY_CODES`] that pass on the same server without anybody's doing. The others need a failover, or
/// replicas.
const WAITED_CODES: [&str; 5] = ["BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "TRYAGAIN"];

/// True if `code` is a temporary one that is waited for: see [`TemporaryErrors`](crate::TemporaryErrors).
pub(crate) fn is_waited_code(code: &[u8]) -> bool {
    WAITED_CODES.iter().any(|word| word.as_bytes() == code)
}

/// Error codes of servers that mean [`ErrorKind::Auth`].
const AUTH_CODES: [&str; 2] = ["NOAUTH", "WRONGPASS"];

/// The meaning of an [`Error`].
///
/// | kind | code word | meaning | retryable |
/// |---|---|---|---|
/// | `Attempts` | `ATTEMPTS` | the watched keys changed during every attempt of a transaction; none was applied | yes |
/// | `Auth` | `AUTH` | the node refused the username or the password, or one side the other's certificate; nothing was sent | no |
/// | `Config` | `CONFIG` | the nodes, the placement or the settings do not fit together | no |
/// | `CrossNode` | `CROSSNODE` | one indivisible command, keys on several nodes: refused before sending | no |
/// | `Moving` | `MOVING` | the keys are being moved to other nodes; nothing was sent | yes |
/// | `NodeDown` | `NODEDOWN` | the node cannot be reached, or its connection broke; nothing was changed | yes |
/// | `Partial` | `PARTIAL` | some nodes did their part of a split command, others did not | reads, if each part that failed is |
/// | `PoolTimeout` | `POOLTIMEOUT` | every connection of the node's pool stayed in use until the deadline; nothing was sent | yes |
/// | `Redis` | the server's own | the server replied with an error | by its code: see [`Error::is_retryable`] |
/// | `Stale` | `STALE` | the node's record is missing, or is that of another fleet or server: refused before sending | no |
/// | `Stateful` | `STATEFUL` | the command changes a connection, and this one is shared: refused before sending | no |
/// | `Timeout` | `TIMEOUT` | no reply in time to a read, or no time left to send a command; nothing was changed | yes |
/// | `Unknown` | `UNKNOWN` | a write was sent and got no reply: it may or may not have been applied | no |
/// | `Unroutable` | `UNROUTABLE` | the node of the command cannot be determined: refused before sending | no |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An archive or a stream of a server's data is damaged, ends early or has a form that is not known; or it cannot be
    /// read or written.
    Archive,
    /// The watched keys changed during each of the
    /// [`TRANSACTION_ATTEMPTS_MAX`](crate::TRANSACTION_ATTEMPTS_MAX) attempts of a transaction. None was
    /// applied.
    Attempts,
    /// The node refused the username or the password, or requires them and was given none; or the client
    /// refused the certificate of the node, or the node that of the client. Nothing was changed. A server's own
    /// `NOAUTH` or `WRONGPASS` is of this kind too, and keeps its code.
    Auth,
    /// The nodes, the placement or the settings do not fit together.
    Config,
    /// One indivisible command whose keys live on several nodes. Nothing was sent.
    CrossNode,
    /// The keys are being moved to other nodes, and were not to be used before the time was up, or are no longer on one
    /// node. Nothing was sent.
    Moving,
    /// The node cannot be reached, or the connection broke during a read. Nothing was changed.
    NodeDown,
    /// Some nodes did their part of a split command, others did not: see [`Error::parts`].
    Partial,
    /// Every connection of the node's pool stayed in use until the deadline. Nothing was sent.
    PoolTimeout,
    /// The server, or redis-rs, returned an error of its own.
    Redis,
    /// The record that the node keeps of its fleet is missing or out of date, or differs from what the client goes by.
    /// Nothing was sent.
    Stale,
    /// The command changes the state of a connection, and this one is shared. Nothing was sent.
    Stateful,
    /// A read got no reply in time, or the time was up before the command could be sent. Nothing was changed.
    Timeout,
    /// A write was sent and got no reply: it may or may not have been applied.
    Unknown,
    /// The node of the command cannot be determined. Nothing was sent.
    Unroutable,
}

impl ErrorKind {
    /// Every kind but [`Redis`](Self::Redis), which has no code word of its own.
    const WITH_CODE: [Self; 14] = [
        Self::Archive,
        Self::Attempts,
        Self::Auth,
        Self::Config,
        Self::CrossNode,
        Self::Moving,
        Self::NodeDown,
        Self::Partial,
        Self::PoolTimeout,
        Self::Stale,
        Self::Stateful,
        Self::Timeout,
        Self::Unknown,
        Self::Unroutable,
    ];

    /// The code word of the error in the replies of the proxy and, if nothing was sent, in redis-rs' traits;
    /// empty for [`ErrorKind::Redis`], whose word is the server's own.
    pub fn code(self) -> &'static str {
        match self {
            Self::Archive => "ARCHIVE",
            Self::Attempts => "ATTEMPTS",
            Self::Auth => "AUTH",
            Self::Config => "CONFIG",
            Self::CrossNode => "CROSSNODE",
            Self::Moving => "MOVING",
            Self::NodeDown => "NODEDOWN",
            Self::Partial => "PARTIAL",
            Self::PoolTimeout => "POOLTIMEOUT",
            Self::Redis => "",
            Self::Stale => "STALE",
            Self::Stateful => "STATEFUL",
            Self::Timeout => "TIMEOUT",
            Self::Unknown => "UNKNOWN",
            Self::Unroutable => "UNROUTABLE",
        }
    }

    /// The name of the kind in metrics and traces: its code word, or REDIS for a server's own error.
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Redis => "REDIS",
            kind => kind.code(),
        }
    }

    /// True if a call that fails this way may succeed later, and repeating it can do no harm, whatever the
    /// call is.
    ///
    /// False for [`Partial`](Self::Partial) and [`Redis`](Self::Redis), for which the kind is not enough:
    /// [`Error::is_retryable`] decides.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Attempts | Self::Moving | Self::NodeDown | Self::PoolTimeout | Self::Timeout => {
                true
            }
            Self::Archive
            | Self::Auth
            | Self::Config
            | Self::CrossNode
            | Self::Partial
            | Self::Redis
            | Self::Stale
            | Self::Stateful
            | Self::Unknown
            | Self::Unroutable => false,
        }
    }

    /// The kind of any error from redis-rs' traits. For a pipeline whose commands all got their replies it is the
    /// kind of the first error reply; `into_server_errors` lists all of them.
    ///
    /// ```
    /// use redis_sharding::redis::Commands;
    /// use redis_sharding::{ErrorKind, ShardedClient};
    ///
    /// # fn main() -> Result<(), redis_sharding::Error> {
    /// let mut client = ShardedClient::builder()
    ///     .node("a", "redis://10.0.0.1/")
    ///     .node("b", "redis://10.0.0.2/")
    ///     .build()?;
    /// let error = client.rename::<_, _, ()>("user:1", "user:2").unwrap_err();
    /// assert_eq!(ErrorKind::of(&error), ErrorKind::CrossNode);
    /// # Ok(()) }
    /// ```
    pub fn of(error: &RedisError) -> Self {
        if let Some(error) = Error::of(error) {
            return error.kind();
        }
        if error.kind() == redis::ErrorKind::AuthenticationFailed {
            return Self::Auth;
        }
        // A pipeline's error is a list of the errors of its commands, and has no code of its own.
        let list = match error.code() {
            Some(_) => None,
            None => error.clone().into_server_errors(),
        };
        let first = list.as_deref().and_then(<[_]>::first);
        let code = first.map_or(error.code().unwrap_or_default(), |(_, error)| error.code());
        Self::WITH_CODE
            .into_iter()
            .find(|kind| kind.code() == code)
            .unwrap_or_else(|| Self::of_server_code(code))
    }

    /// The kind of a server's own error, by its code.
    fn of_server_code(code: &str) -> Self {
        match AUTH_CODES.contains(&code) {
            true => Self::Auth,
            false => Self::Redis,
        }
    }
}

/// The outcome of one node's part of a command that was split by node or sent to all nodes, or of a pipeline.
///
/// `Debug` leaves out the content of the reply, which may be confidential and of any size.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct PartOutcome {
    /// The node's name.
    pub node: String,
    /// The keys of the part, in the order of the request. Empty for commands without keys.
    pub keys: Vec<Vec<u8>>,
    /// The outcome.
    pub status: PartStatus,
    /// The reason if it was not done.
    pub reason: Option<String>,
    /// The node's reply if it was done, as the node sent it: for MGET an array with one element for each of the
    /// [`keys`](Self::keys), in their order; for DEL or EXISTS a number for this node alone.
    pub value: Option<redis::Value>,
}

/// The outcome of one node's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PartStatus {
    /// The node did it and replied.
    Done,
    /// The node did not do it.
    Failed,
    /// It was sent and got no reply: it may or may not have been done.
    Unknown,
}

impl PartOutcome {
    pub(crate) fn new(
        node: &str,
        keys: Vec<Vec<u8>>,
        status: PartStatus,
        reason: Option<String>,
    ) -> Self {
        Self {
            node: node.to_owned(),
            keys,
            status,
            reason,
            value: None,
        }
    }

    /// Sets the reply of the node.
    pub(crate) fn with_value(self, value: Option<redis::Value>) -> Self {
        Self { value, ..self }
    }
}

impl fmt::Debug for PartOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartOutcome")
            .field("node", &self.node)
            .field("keys", &self.keys)
            .field("status", &self.status)
            .field("reason", &self.reason)
            .field("value", &self.value.as_ref().map(|_| format_args!("..")))
            .finish()
    }
}

impl fmt::Display for PartStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        })
    }
}

impl Error {
    /// An error that concerns no node and no keys yet.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Repr {
            kind,
            message: message.into(),
            source: None,
            node: None,
            keys: Vec::new(),
            parts: Arc::default(),
            retry: None,
            io: None,
            is_untried: false,
        }))
    }

    /// An error of the kind [`Config`](ErrorKind::Config).
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// An error reply, of `node` if that is known. The message names the node; the reply itself stays as the
    /// server wrote it.
    pub(crate) fn from_server(error: &ServerError, node: Option<&str>) -> Self {
        let before = node
            .map(|node| format!("node {node}: "))
            .unwrap_or_default();
        let message = match error.details() {
            Some(details) => format!("{before}{}: {details}", error.code()),
            None => format!("{before}{}", error.code()),
        };
        let mut made = Self::new(ErrorKind::of_server_code(error.code()), message)
            .caused_by(Arc::new(error.clone().into()));
        made.0.node = node.map(str::to_owned);
        made
    }

    /// The server's own error, if that is what this is.
    pub(crate) fn server_reply(&self) -> Option<ServerError> {
        match (self.0.kind, &self.0.source) {
            (ErrorKind::Redis | ErrorKind::Auth, Some(source)) => {
                ServerError::try_from(source.as_ref().clone()).ok()
            }
            _ => None,
        }
    }

    /// True if it is an error reply with this code.
    pub(crate) fn has_server_code(&self, code: &str) -> bool {
        self.0.kind == ErrorKind::Redis
            && self.0.source.as_ref().and_then(|source| source.code()) == Some(code)
    }

    /// The error for a command of which some parts were done and others were not.
    pub(crate) fn partial(command: &str, parts: Vec<PartOutcome>, retry: Retry) -> Self {
        let mut message = format!("{command} was not done on every node: ");
        for (number, part) in parts.iter().take(PARTS_SHOWN_MAX).enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            message.push_str(&format!("{separator}{} {}", part.node, part.status));
            if let Some(reason) = &part.reason {
                message.push_str(&format!(" ({reason})"));
            }
        }
        if let more @ 1.. = parts.len().saturating_sub(PARTS_SHOWN_MAX) {
            message.push_str(&format!("; and {more} more"));
        }
        Self::new(ErrorKind::Partial, message).with_parts(parts, retry)
    }

    /// Sets the source.
    pub(crate) fn caused_by(mut self, source: Arc<RedisError>) -> Self {
        self.0.source = Some(source);
        self
    }

    /// Adds the number of the command in its pipeline to the message, counted from one.
    pub(crate) fn at_command(mut self, number: usize) -> Self {
        self.0.message = format!("command {} of the pipeline: {}", number + 1, self.0.message);
        self
    }

    /// Adds the outcome of each part of a fan-out, and whether the whole may be repeated. The error then
    /// concerns the node of its parts, or no single one, and the keys of the parts that were not done.
    pub(crate) fn with_parts(mut self, parts: Vec<PartOutcome>, retry: Retry) -> Self {
        self.0.node = match parts.split_first() {
            Some((first, rest)) if rest.iter().all(|part| part.node == first.node) => {
                Some(first.node.clone())
            }
            _ => None,
        };
        let undone = parts.iter().filter(|part| part.status != PartStatus::Done);
        let keys = undone.flat_map(|part| &part.keys).map(Vec::as_slice);
        self.0.keys = bounded_keys(keys);
        self.0.parts = parts.into();
        self.0.retry = Some(retry);
        self
    }

    /// Sets the failure of the connection that is the reason. `None` leaves it to the kind of the error.
    pub(crate) fn with_io(mut self, kind: Option<io::ErrorKind>) -> Self {
        self.0.io = kind.or(self.0.io);
        self
    }

    /// Records that the node was not asked, as no time was left.
    pub(crate) fn untried(mut self) -> Self {
        self.0.is_untried = true;
        self
    }

    /// True if the node was not asked, as no time was left.
    pub(crate) fn is_untried(&self) -> bool {
        self.0.is_untried
    }

    /// Sets whether the call may be repeated, if the kind does not tell.
    pub(crate) fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = Some(retry);
        self
    }

    /// Replaces the message.
    pub(crate) fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0.message = message.into();
        self
    }

    /// Sets the node that the error concerns.
    pub(crate) fn at_node(mut self, name: &str) -> Self {
        self.0.node = Some(name.to_owned());
        self
    }

    /// Sets the keys that the error concerns.
    pub(crate) fn about_keys<'k>(mut self, keys: impl IntoIterator<Item = &'k [u8]>) -> Self {
        self.0.keys = bounded_keys(keys);
        self
    }

    /// The meaning of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The name of the node that the error concerns: the node that is down, too slow or too busy, that
    /// refused the password, or that replied with an error; if a handle of one node refuses a command, that
    /// node. `None` if it concerns no single node.
    ///
    /// ```
    /// use redis_sharding::{ErrorKind, ShardedClient, redis::cmd, testing::TestNode};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let node = TestNode::start()?;
    /// let client = ShardedClient::builder().node("cache-a", node.url()).build()?;
    /// node.stop();
    /// let error = client.execute(cmd("GET").arg("user:1")).unwrap_err();
    /// assert_eq!((error.kind(), error.node()), (ErrorKind::NodeDown, Some("cache-a")));
    /// assert_eq!(error.keys(), [b"user:1"]);
    /// assert!(error.is_retryable());
    /// # Ok(()) }
    /// ```
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// The keys that the error concerns, as far as they are known: both keys of a
    /// [`CrossNode`](ErrorKind::CrossNode) refusal, the key without an owner, the keys of the command that
    /// failed, or those of the parts that were not done.
    ///
    /// Meant for log lines: at most [`ERROR_KEYS_MAX`] keys, each cut to [`KEY_TEXT_MAX`] bytes.
    /// [`parts`](Self::parts) has all keys in full.
    pub fn keys(&self) -> &[Vec<u8>] {
        &self.0.keys
    }

    /// True if the same call may succeed later, and repeating it can do no harm: nothing was changed, and the
    /// cause may pass. This is the case for requests that were never sent ([`NodeDown`](ErrorKind::NodeDown),
    /// [`PoolTimeout`](ErrorKind::PoolTimeout)), for reads without a reply ([`Timeout`](ErrorKind::Timeout),
    /// [`NodeDown`](ErrorKind::NodeDown)), and for a transaction of which no attempt was applied
    /// ([`Attempts`](ErrorKind::Attempts)).
    ///
    /// An error reply is retryable if the server refuses the command for the time being, before any of it has
    /// run: `BUSY` (a script is running), `CLUSTERDOWN`, `LOADING`, `MASTERDOWN`, `NOREPLICAS`, `READONLY`
    /// (until a failover is over) and `TRYAGAIN`. All others are not, among them `MOVED` and `ASK`, which
    /// this client does not follow, `OOM`, `MISCONF` and `EXECABORT`. An error that a script returns under
    /// one of these codes cannot be told apart.
    ///
    /// The error of a fan-out, [`Partial`](ErrorKind::Partial) or not, is retryable if each part that failed
    /// is, and the parts that were done are reads.
    pub fn is_retryable(&self) -> bool {
        if let Some(retry) = self.0.retry {
            return retry == Retry::Safe;
        }
        let code = self.0.source.as_ref().and_then(|source| source.code());
        match self.0.kind {
            ErrorKind::Redis => code.is_some_and(|code| TEMPORARY_CODES.contains(&code)),
            kind => kind.is_retryable(),
        }
    }

    /// The outcome of each node's part, in node order, if the command was split by node and at least one part
    /// failed; or of a pipeline in which a command got no reply, with at most one part per node and
    /// [status](PartStatus). Empty otherwise.
    ///
    /// In errors that [`execute`](crate::ShardedClient::execute) returns, the parts that were done have their
    /// replies, so a read over several nodes need not be repeated as a whole. redis-rs' traits and pipelines have
    /// no room for replies. Clones of an error share them.
    ///
    /// ```
    /// use std::collections::HashMap;
    ///
    /// use redis_sharding::redis::{Commands, Value, cmd};
    /// # use redis_sharding::{ShardedClient, testing::TestNode};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let servers = TestNode::start_many(2)?;
    /// # let mut client = ShardedClient::builder().node("a", servers[0].url()).node("b", servers[1].url()).build()?;
    /// let keys = ["user:1", "user:2", "user:3"];
    /// # let () = client.mset(&keys.map(|key| (key, "Ada")))?;
    /// # servers[0].stop();
    ///
    /// let mut found: HashMap<Vec<u8>, Value> = HashMap::new();
    /// if let Err(error) = client.execute(cmd("MGET").arg(&keys)) {
    ///     for part in error.parts() {
    ///         if let Some(Value::Array(values)) = &part.value {
    ///             found.extend(part.keys.iter().cloned().zip(values.iter().cloned()));
    ///         }
    ///     }
    /// }
    /// assert!(!found.is_empty() && found.len() < keys.len(), "the keys of node b");
    /// # Ok(()) }
    /// ```
    ///
    /// After a write, the parts that failed remain to be done:
    ///
    /// ```no_run
    /// # fn f(client: &redis_sharding::ShardedClient) {
    /// use redis_sharding::{PartStatus, redis::cmd};
    ///
    /// if let Err(error) = client.execute(cmd("DEL").arg(&["user:1", "user:2", "user:3"])) {
    ///     let undone = error.parts().iter().filter(|part| part.status == PartStatus::Failed);
    ///     let again: Vec<&Vec<u8>> = undone.flat_map(|part| &part.keys).collect();
    ///     println!("{} keys are still there", again.len());
    /// }
    /// # }
    /// ```
    pub fn parts(&self) -> &[PartOutcome] {
        &self.0.parts
    }
}

/// Prints what `fn main() -> Result<(), Error>` should show: the kind and the message.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<crate::partition::PlacementError> for Error {
    fn from(error: crate::partition::PlacementError) -> Self {
        Self::config(error.to_string())
    }
}

/// Cuts keys in number and length, so that one error cannot fill a log.
fn bounded_keys<'k>(keys: impl IntoIterator<Item = &'k [u8]>) -> Vec<Vec<u8>> {
    keys.into_iter()
        .take(ERROR_KEYS_MAX)
        .map(|key| key[..key.len().min(KEY_TEXT_MAX)].to_vec())
        .collect()
}

/// A server error with this code and text. redis-rs has no constructor, so it is parsed from RESP.
pub(crate) fn server_error(code: &str, text: &str) -> ServerError {
    let line: String = format!("-{code} {text}")
        .chars()
        // A line break would end the error and start another reply.
        .map(|c| if c == '\r' || c == '\n' { ' ' } else { c })
        .collect();
    match redis::parse_redis_value(format!("{line}\r\n").as_bytes()) {
        Ok(redis::Value::ServerError(error)) => error,
        _ => unreachable_server_error(),
    }
}

/// A constant error. An error line without line breaks always parses, so this is never needed.
fn unreachable_server_error() -> ServerError {
    match redis::parse_redis_value(b"-ERR unreadable error\r\n") {
        Ok(redis::Value::ServerError(error)) => error,
        other => unreachable!("redis-rs reads a constant error line as {other:?}"),
    }
}

/// A key as text: escaped, and cut to [`KEY_TEXT_MAX`] bytes.
#[derive(Clone, Copy)]
pub(crate) struct KeyText<'k>(pub(crate) &'k [u8]);

impl fmt::Display for KeyText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(KEY_TEXT_MAX)];
        write!(f, "\"{}\"", shown.escape_ascii())?;
        if self.0.len() > KEY_TEXT_MAX {
            write!(f, "... ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn key_text_escapes_and_shortens_keys() {
        assert_eq!(KeyText(b"a\x00\"\n").to_string(), r#""a\x00\"\n""#);
        let long = KeyText(&[b'k'; 100]).to_string();
        assert!(
            long.starts_with("\"kkk") && long.ends_with("\"... (100 bytes)"),
            "{long}"
        );
    }

    #[test]
    fn error_kind_survives_conversion_to_redis_error() {
        let error: RedisError = Error::new(ErrorKind::CrossNode, "keys live apart").into();
        assert_eq!(error.code(), Some("CROSSNODE"));
        assert_eq!(ErrorKind::of(&error), ErrorKind::CrossNode);
    }

    #[test]
    fn server_error_keeps_its_code_and_detail_and_names_its_node_beside_them() {
        for text in ["No matching script.", "of a script (node other)", "a) (b"] {
            for node in ["cache-a", "a b", "10.0.0.1:6379", "x (y)"] {
                let error = Error::from_server(&server_error("NOSCRIPT", text), Some(node));
                assert_eq!(error.node(), Some(node));
                assert_eq!(error.to_string(), format!("node {node}: NOSCRIPT: {text}"));
                let reply = Error::redis_result(Err(error.clone()), |error| error).unwrap();
                assert_eq!(reply, Value::ServerError(server_error("NOSCRIPT", text)));
                let error: RedisError = error.into();
                assert_eq!(
                    error.kind(),
                    redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
                );
                assert_eq!(error.detail(), Some(text));
            }
        }
        let error = Error::from_server(&server_error("ERR", "x"), None);
        assert_eq!((error.node(), &error.to_string()[..]), (None, "ERR: x"));
    }

    #[test]
    fn line_breaks_in_a_server_error_become_spaces() {
        let error = server_error("ERR", "a\r\nb");
        assert_eq!(error.details(), Some("a  b"));
    }

    fn every_kind() -> impl Iterator<Item = ErrorKind> {
        ErrorKind::WITH_CODE.into_iter().chain([ErrorKind::Redis])
    }

    #[test]
    fn every_error_kind_has_a_code_and_is_found_by_it() {
        let mut codes: Vec<&str> = every_kind().map(ErrorKind::code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), 15);
        for kind in ErrorKind::WITH_CODE {
            assert_eq!(kind.code(), format!("{kind:?}").to_ascii_uppercase());
            let error = Error::new(kind, "text");
            let reply = error.to_reply();
            let error: RedisError = error.into();
            assert_eq!(ErrorKind::of(&error), kind);
            assert_eq!(ErrorKind::of(&error.clone()), kind);
            let reply = reply.extract_error().unwrap_err();
            assert_eq!(reply.code(), Some(kind.code()));
            assert_eq!(ErrorKind::of(&reply), kind);
        }
    }

    #[test]
    fn retryable_error_kinds_are_transient_and_changed_nothing() {
        for kind in every_kind() {
            let expected = match kind {
                ErrorKind::Attempts
                | ErrorKind::Moving
                | ErrorKind::NodeDown
                | ErrorKind::PoolTimeout
                | ErrorKind::Timeout => true,
                ErrorKind::Archive
                | ErrorKind::Auth
                | ErrorKind::Config
                | ErrorKind::CrossNode
                | ErrorKind::Partial
                | ErrorKind::Redis
                | ErrorKind::Stale
                | ErrorKind::Stateful
                | ErrorKind::Unknown
                | ErrorKind::Unroutable => false,
            };
            assert_eq!(kind.is_retryable(), expected, "{kind:?}");
            assert_eq!(Error::new(kind, "").is_retryable(), expected, "{kind:?}");
        }
    }

    #[test]
    fn server_error_is_retryable_by_its_code() {
        let retryable = |code| Error::from_server(&server_error(code, "text"), None).is_retryable();
        for code in [
            "BUSY",
            "CLUSTERDOWN",
            "LOADING",
            "MASTERDOWN",
            "NOREPLICAS",
            "READONLY",
            "TRYAGAIN",
        ] {
            assert!(retryable(code), "{code}");
        }
        for code in [
            "ASK",
            "BUSYGROUP",
            "BUSYKEY",
            "CROSSSLOT",
            "ERR",
            "EXECABORT",
            "MISCONF",
            "MOVED",
            "NOAUTH",
            "NOPERM",
            "NOSCRIPT",
            "OOM",
            "UNKILLABLE",
            "WRONGPASS",
            "WRONGTYPE",
        ] {
            assert!(!retryable(code), "{code}");
        }
    }

    #[test]
    fn noauth_and_wrongpass_are_auth_errors_and_keep_their_code() {
        for code in ["NOAUTH", "WRONGPASS"] {
            let error = Error::from_server(&server_error(code, "text"), None);
            assert_eq!(error.kind(), ErrorKind::Auth);
            let error: RedisError = error.into();
            assert_eq!(error.code(), Some(code));
            assert_eq!(ErrorKind::of(&error), ErrorKind::Auth);
        }
        let denied = Error::from_server(&server_error("NOPERM", "text"), None);
        assert_eq!(denied.kind(), ErrorKind::Redis, "about one command");
    }

    #[test]
    fn error_keys_are_limited_in_number_and_length() {
        let long = [b'k'; 2 * KEY_TEXT_MAX];
        let many = std::iter::repeat_n(&long[..], 2 * ERROR_KEYS_MAX);
        let error = Error::new(ErrorKind::CrossNode, "").about_keys(many);
        assert_eq!(error.keys().len(), ERROR_KEYS_MAX);
        assert_eq!(error.keys()[0], &long[..KEY_TEXT_MAX]);
    }

    #[test]
    fn partial_error_describes_a_limited_number_of_parts() {
        let part = |number| {
            let reason = Some(format!("reason {number}"));
            PartOutcome::new("a", Vec::new(), PartStatus::Failed, reason)
        };
        let message = |count| {
            let parts = (0..count).map(part).collect();
            Error::partial("DEL", parts, Retry::Safe).to_string()
        };
        assert!(message(PARTS_SHOWN_MAX).ends_with("; a failed (reason 31)"));
        assert!(message(16384).ends_with("; a failed (reason 31); and 16352 more"));
    }

    #[test]
    fn partial_error_names_its_only_node_and_the_keys_not_done() {
        let part =
            |node: &str, key: &str, status| PartOutcome::new(node, vec![key.into()], status, None);
        let one = vec![part("a", "x", PartStatus::Failed)];
        let error = Error::partial("DEL", one, Retry::Safe);
        assert_eq!(
            (error.node(), error.keys()),
            (Some("a"), &[b"x".to_vec()][..])
        );
        assert!(error.is_retryable());
        let two = vec![
            part("a", "x", PartStatus::Done),
            part("b", "y", PartStatus::Unknown),
        ];
        let error = Error::partial("DEL", two, Retry::Unsafe);
        assert_eq!((error.node(), error.keys()), (None, &[b"y".to_vec()][..]));
        assert!(!error.is_retryable());
    }
}
