//! Errors of requests that are refused before anything is sent.
//!
//! Two families: mistakes that a server would reply to with an error, worded as the server words them because
//! programs match on those texts; and requests that a single server would accept but that cannot be routed,
//! worded with what to do instead. Every text of the second family names the command and a way out.

use std::sync::Arc;

use crate::command::{Args, CommandSpec, KeyError, KeySpec, PackedCommands};
use crate::error::{Error, ErrorKind, KeyText, Retry};
use crate::partition::NodeIndex;
use crate::plan::Router;
use crate::plan::slot_guard::WATCHED_BYTES_MAX;

/// Error for a handle whose node is no longer part of the topology.
pub(super) fn node_left(name: &str) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "node {name:?} is no longer in the topology; get a node that is with `client.nodes()`"
        ),
    )
}

/// Error for a dedicated connection that leads to a former server of its node.
pub(super) fn node_moved(name: &str) -> Error {
    Error::new(
        ErrorKind::NodeDown,
        format!(
            "node {name}: the topology has changed, and this connection leads to a server that does not serve the \
             node any more; open a new one"
        ),
    )
    .at_node(name)
    .with_retry(Retry::Unsafe)
}

/// Error for a dedicated connection whose keys may live elsewhere now.
pub(super) fn keys_moved(name: &str) -> Error {
    Error::new(
        ErrorKind::NodeDown,
        format!(
            "node {name}: the topology has changed, and the keys of this connection may live on another node now; \
             open a new one"
        ),
    )
    .at_node(name)
    .with_retry(Retry::Unsafe)
}

/// Error for a key that has moved from the node of a dedicated connection to the node `owner`.
pub(super) fn key_moved(name: &str, key: &[u8], owner: &str) -> Error {
    Error::new(
        ErrorKind::Moving,
        format!(
            "node {name}: key {} is on node {owner}, as keys are being moved; nothing was sent, so begin again with a new \
             connection for it",
            KeyText(key)
        ),
    )
    .at_node(name)
    .with_retry(Retry::Unsafe)
}

/// Error for a dedicated connection to a server of a cluster that gives the keys of the connection away.
pub(super) fn keys_moving(name: &str) -> Error {
    Error::new(
        ErrorKind::NodeDown,
        format!(
            "node {name}: the keys of this connection are moving to another node, and nothing was done; open a new one \
             in a moment"
        ),
    )
    .at_node(name)
    .with_retry(Retry::Unsafe)
}

/// Error for a WATCH of too many keys on one connection in a cluster.
pub(super) fn too_many_watched() -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "WATCH: the watched keys are longer than {WATCHED_BYTES_MAX} bytes; in a cluster they are sent again with \
             each transaction, so watch fewer"
        ),
    )
}

/// Error for a wrong number of arguments, in the words of the server.
pub(super) fn wrong_arity(command: &CommandSpec) -> Error {
    server_style(
        command,
        &format!(
            "wrong number of arguments for '{}' command",
            command.name().to_ascii_lowercase()
        ),
    )
}

/// An error found before sending that looks like the server's own: code `ERR` and this text.
///
/// The name of the command is added to the message only. The cause keeps the exact text: `redis::RedisError`
/// and the proxy's reply are made of it, and programs match on it.
pub(super) fn server_style(command: &CommandSpec, text: &str) -> Error {
    let error = crate::error::server_error("ERR", text);
    Error::new(
        ErrorKind::Redis,
        format!("ERR: {text} ({})", command.name()),
    )
    .caused_by(Arc::new(error.into()))
}

/// Error for a request whose keys cannot be found, in the words of the server.
pub(super) fn malformed(command: &CommandSpec, error: KeyError, args: &[&[u8]]) -> Error {
    match error {
        KeyError::Arity => wrong_arity(command),
        KeyError::Count => server_style(command, &wrong_count(command, args)),
        // Only XREAD and XREADGROUP have a text of their own for a syntax error.
        KeyError::Syntax if command.key_specs().contains(&KeySpec::Streams) => {
            server_style(command, unbalanced(args))
        }
        other => server_style(command, &other.to_string()),
    }
}

/// The text of a server for a `numkeys` argument that is not a number, below 1, or larger than the number of
/// arguments left.
///
/// Servers are not consistent here: the text depends on the command.
fn wrong_count(command: &CommandSpec, args: &[&[u8]]) -> String {
    // The position of `numkeys`; its value decides between the texts.
    let at = command.key_specs().iter().find_map(|keys| match keys {
        KeySpec::Counted { count, .. } => Some(usize::from(*count)),
        _ => None,
    });
    let number = at
        .and_then(|at| std::str::from_utf8(args.get(at)?).ok())
        .and_then(|text| text.parse::<i64>().ok());
    let name = command.name();
    match (name, number) {
        ("SINTERCARD", Some(1..)) => "Number of keys can't be greater than number of args".into(),
        ("SINTERCARD", _) => "numkeys should be greater than 0".into(),
        (_, Some(1..)) => "syntax error".into(),
        _ if name.ends_with("MPOP") => "numkeys should be greater than 0".into(),
        (_, Some(_)) => format!(
            "at least 1 input key is needed for '{}' command",
            name.to_ascii_lowercase()
        ),
        (_, None) => "value is not an integer or out of range".into(),
    }
}

/// The text of a server for XREAD and XREADGROUP without an ID for each key after STREAMS.
fn unbalanced(args: &[&[u8]]) -> &'static str {
    let streams = |arg: &&[u8]| arg.eq_ignore_ascii_case(b"STREAMS");
    match args.iter().position(streams) {
        // An odd number of arguments after STREAMS cannot be keys and as many IDs.
        Some(at) if (args.len() - at - 1) % 2 == 1 => {
            "Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified."
        }
        _ => "syntax error",
    }
}

/// The name of a command as users type it: `CONFIG GET`, not `CONFIG|GET`.
pub(super) fn typed_name(command: &CommandSpec) -> String {
    command.name().replace('|', " ")
}

/// Error for a request without arguments.
///
/// In redis-rs' traits it is the error of redis-rs' own connections: see [`redis_empty_command`].
pub(super) fn empty_command() -> Error {
    Error::new(ErrorKind::Redis, "the command is empty").caused_by(Arc::new(redis_empty_command()))
}

/// The error of redis-rs' own connections for a command without arguments and for a pipeline without commands.
pub(super) fn redis_empty_command() -> redis::RedisError {
    (redis::ErrorKind::Client, "empty command").into()
}

/// Error for a command that is not in the table. Its name is the first `words` arguments: 2 for an unknown
/// subcommand.
///
/// An unknown command is not sent to some node in the hope that it has no keys: a server never replies that a
/// key belongs to another node, so a wrong guess would read or write the key in the wrong place without any
/// error.
pub(super) fn unknown(args: &[&[u8]], words: usize) -> Error {
    // Escaped and cut by `KeyText`: these words come from the user and may be long or binary.
    let name: Vec<String> = args
        .iter()
        .take(words)
        .map(|word| KeyText(word).to_string())
        .collect();
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "unknown command {}: its key positions are not known, so it was not sent; name a node with \
             `client.node(name)`, or declare it to the builder with `CommandSpec::declare`",
            name.join(" ")
        ),
    )
}

/// Error for a command that is routed by its keys and was given none.
pub(super) fn no_keys(command: &CommandSpec) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "{} was given no key, so no node can be chosen; give it a key, or name a node with `client.node(name)`",
            typed_name(command)
        ),
    )
}

/// Error for a command that concerns a single server, such as SHUTDOWN or DEBUG, sent through a handle for
/// all nodes.
pub(super) fn needs_a_node(command: &CommandSpec) -> Error {
    // The note of the table says why the command cannot go to all nodes, where that is not obvious.
    let why = match command.note() {
        "" => String::new(),
        note => format!(" ({note})"),
    };
    Error::new(
        ErrorKind::Unroutable,
        format!(
            "{} concerns a single server; name it with `client.node(name)`{why}",
            typed_name(command)
        ),
    )
}

/// Error for a command that takes over the connection, such as MONITOR or SYNC.
pub(super) fn refused(command: &CommandSpec) -> Error {
    Error::new(
        ErrorKind::Stateful,
        format!(
            "{} takes over the connection; open a dedicated one with redis-rs",
            typed_name(command)
        ),
    )
}

/// Error for a command that changes the state of its connection, such as MULTI or SELECT, on a shared
/// connection. The text ends with what to do instead.
///
/// Other users of that connection would find themselves inside a transaction or in another database.
pub(super) fn stateful(command: &CommandSpec) -> Error {
    Error::new(
        ErrorKind::Stateful,
        format!(
            "{} changes the state of a connection, or concerns only one, and this one is shared; {}",
            typed_name(command),
            instead_of_stateful(command.name()),
        ),
    )
}

/// What to do instead of a command that changes the state of a connection.
fn instead_of_stateful(name: &str) -> &'static str {
    match name {
        "WATCH" | "UNWATCH" => {
            "send it with `exec(&mut client)`, as a command of its own, or use `client.transaction(keys, ..)` or \
             `client.dedicated(keys)`"
        }
        "DISCARD" | "EXEC" | "MULTI" => {
            "use `redis::pipe().atomic()`, which sends MULTI and EXEC with its commands, \
             `client.transaction(keys, ..)`, or `client.dedicated(keys)` for a connection of your own"
        }
        "AUTH" => {
            "give the client its credentials with `Builder::username` and `Builder::password`, or with \
             `Builder::credentials` if they change"
        }
        "HELLO" => {
            "choose the protocol in the URLs of the nodes, such as `redis://host/?protocol=resp3`"
        }
        "SELECT" => {
            "choose the database in the URLs of the nodes, such as `redis://host/1`, or use `client.dedicated(keys)`"
        }
        "ASKING" | "READONLY" | "READWRITE" => {
            "the client follows the nodes of a cluster by itself, and reads from replicas by `Builder::read_from`"
        }
        "CLIENT|GETNAME" | "CLIENT|SETNAME" => {
            "send it through the client, as a command of its own: a client has one name for all its connections"
        }
        "CLIENT|SETINFO" => {
            "give the name of the library with `RedisConnectionInfo::set_lib_name` of the node"
        }
        _ if name.ends_with("SUBSCRIBE") => {
            "use `client.subscriber()` for all nodes, or `client.dedicated(keys)` for a connection of your own"
        }
        _ => {
            "use `client.dedicated(key)?`, or `node.dedicated()?` of a node from `client.node(name)`, for a connection \
             of your own"
        }
    }
}

impl Router {
    /// Error for a key whose owner is not the node of the connection.
    pub(super) fn wrong_node(
        &self,
        command: &CommandSpec,
        key: &[u8],
        owner: NodeIndex,
        node: NodeIndex,
    ) -> Error {
        Error::new(
            ErrorKind::CrossNode,
            format!(
                "{}: the key {} lives on node {}, but this connection goes to node {}; use a connection to the key's own \
                 node, such as `client.dedicated(key)`",
                typed_name(command),
                KeyText(key),
                self.name(owner),
                self.name(node),
            ),
        )
        .at_node(self.name(node))
        .about_keys([key])
    }

    /// Error for a key that the placement does not cover.
    pub(super) fn no_owner(&self, key: &[u8]) -> Error {
        Error::new(
            ErrorKind::Unroutable,
            format!(
                "the key {} has no owner: the placement {} does not cover it; extend the placement, or give it a default \
                 node",
                KeyText(key),
                self.topology().partitioner().name(),
            ),
        )
        .about_keys([key])
    }

    /// Adds the keys of a packed request to its error, unless the error names keys already.
    ///
    /// Only called on the way of an error, since the request is parsed and looked up again. A request that
    /// cannot be parsed leaves the error unchanged.
    pub(crate) fn with_keys(&self, error: Error, packed: &[u8]) -> Error {
        let mut args = Args::new();
        if !error.keys().is_empty()
            || !matches!(PackedCommands::new(packed).next(&mut args), Ok(Some(_)))
        {
            return error;
        }
        let Ok(at) = self
            .lookup(&args)
            .and_then(|command| self.keys(command, &args))
        else {
            return error;
        };
        error.about_keys(at.keys.iter().map(|&at| args[at as usize]))
    }
}
