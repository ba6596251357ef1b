//! What can go wrong, said so that one can act on it.

use std::fmt;
use std::sync::Arc;

use redis::{RedisError, ServerError};

/// Keys are cut to this many bytes in messages.
pub const KEY_TEXT_MAX: usize = 64;

/// An error of this crate.
///
/// Opaque: ask [`kind`](Self::kind) what it means, [`parts`](Self::parts) what each node of a cut command did. The
/// message names the node, the key and the remedy, and never holds a value or a password.
///
/// Through redis-rs' traits the same error arrives as a [`RedisError`] whose [`code`](RedisError::code) is the word in
/// the table of [`ErrorKind`]; [`ErrorKind::of`] turns it back into a kind.
#[derive(Clone)]
pub struct Error(Box<Repr>);

#[derive(Clone, Debug)]
struct Repr {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<RedisError>>,
    parts: Vec<PartOutcome>,
}

/// What an [`Error`] means.
///
/// | kind | code word | meaning |
/// |---|---|---|
/// | `Config` | `CONFIG` | the nodes, the placement or the settings do not fit together |
/// | `CrossNode` | `CROSSNODE` | one indivisible command, keys on several nodes: refused before sending |
/// | `NodeDown` | `NODEDOWN` | the owner cannot be reached or does not answer; nothing was changed |
/// | `Partial` | `PARTIAL` | some nodes did their part of a cut command, others did not |
/// | `PoolTimeout` | `POOLTIMEOUT` | every connection of the node's pool stayed in use until the deadline; nothing was sent |
/// | `Redis` | the server's own | the server answered with an error |
/// | `Stateful` | `STATEFUL` | the command changes a connection, and this one is shared: refused before sending |
/// | `Unknown` | `UNKNOWN` | a write was sent and no answer came: it may or may not have been applied |
/// | `Unroutable` | `UNROUTABLE` | nothing says which node the command belongs to: refused before sending |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The nodes, the placement or the settings do not fit together.
    Config,
    /// One indivisible command whose keys live on several nodes. Nothing was sent.
    CrossNode,
    /// The owner cannot be reached or does not answer. Nothing was changed.
    NodeDown,
    /// Some nodes did their part of a cut command, others did not: see [`Error::parts`].
    Partial,
    /// Every connection of the node's pool stayed in use until the deadline. Nothing was sent.
    PoolTimeout,
    /// The server, or redis-rs, answered with an error of its own.
    Redis,
    /// The command changes the state of a connection, and this one is shared. Nothing was sent.
    Stateful,
    /// A write was sent and no answer came: it may or may not have been applied.
    Unknown,
    /// Nothing says which node the command belongs to. Nothing was sent.
    Unroutable,
}

impl ErrorKind {
    /// The code word that the error carries through redis-rs' traits; empty for [`ErrorKind::Redis`], whose word is the
    /// server's own.
    pub fn code(self) -> &'static str {
        match self {
            Self::Config => "CONFIG",
            Self::CrossNode => "CROSSNODE",
            Self::NodeDown => "NODEDOWN",
            Self::Partial => "PARTIAL",
            Self::PoolTimeout => "POOLTIMEOUT",
            Self::Redis => "",
            Self::Stateful => "STATEFUL",
            Self::Unknown => "UNKNOWN",
            Self::Unroutable => "UNROUTABLE",
        }
    }

    /// The kind of an error that came through redis-rs' traits. For a pipeline it is that of the first command that failed;
    /// `into_server_errors` has them all.
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
        const OURS: [ErrorKind; 8] = [
            ErrorKind::Config,
            ErrorKind::CrossNode,
            ErrorKind::NodeDown,
            ErrorKind::Partial,
            ErrorKind::PoolTimeout,
            ErrorKind::Stateful,
            ErrorKind::Unknown,
            ErrorKind::Unroutable,
        ];
        // A pipeline's error is a list of the errors of its commands; the first one tells.
        let list = match error.code() {
            Some(_) => None,
            None => error.clone().into_server_errors(),
        };
        let first = list.as_deref().and_then(<[_]>::first);
        let code = first.map_or(error.code().unwrap_or_default(), |(_, error)| error.code());
        OURS.into_iter()
            .find(|kind| kind.code() == code)
            .unwrap_or(Self::Redis)
    }
}

/// What one node did with its part of a command that was cut by node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartOutcome {
    /// The node's name.
    pub node: String,
    /// The keys of the part, in the order of the request. Empty for a command without keys.
    pub keys: Vec<Vec<u8>>,
    /// What became of it.
    pub status: PartStatus,
    /// Why, when it was not done.
    pub reason: Option<String>,
}

/// What became of one node's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PartStatus {
    /// The node did it and said so.
    Done,
    /// The node did not do it.
    Failed,
    /// It was sent and no answer came: it may or may not have been done.
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
        }
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
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Repr {
            kind,
            message: message.into(),
            source: None,
            parts: Vec::new(),
        }))
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// A server's error that names its node already.
    pub(crate) fn from_server(error: &ServerError) -> Self {
        let message = match error.details() {
            Some(details) => format!("{}: {details}", error.code()),
            None => error.code().to_owned(),
        };
        Self::new(ErrorKind::Redis, message).caused_by(Arc::new(error.clone().into()))
    }

    /// Whether a server said it, with this code word.
    pub(crate) fn has_server_code(&self, code: &str) -> bool {
        self.0.kind == ErrorKind::Redis
            && self.0.source.as_ref().and_then(|source| source.code()) == Some(code)
    }

    /// Some parts of a command were done, others were not.
    pub(crate) fn partial(command: &str, parts: Vec<PartOutcome>) -> Self {
        let mut message = format!("{command} was not done everywhere: ");
        for (number, part) in parts.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            message.push_str(&format!("{separator}{} {}", part.node, part.status));
            if let Some(reason) = &part.reason {
                message.push_str(&format!(" ({reason})"));
            }
        }
        Self::new(ErrorKind::Partial, message).with_parts(parts)
    }

    pub(crate) fn caused_by(mut self, source: Arc<RedisError>) -> Self {
        self.0.source = Some(source);
        self
    }

    /// The same error, with the number of the command in its pipeline.
    pub(crate) fn at_command(mut self, number: usize) -> Self {
        self.0.message = format!("command {} of the pipeline: {}", number + 1, self.0.message);
        self
    }

    pub(crate) fn with_parts(mut self, parts: Vec<PartOutcome>) -> Self {
        self.0.parts = parts;
        self
    }

    /// What the error means.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What each node did, in node order, when the command was cut by node and at least one part failed. Empty
    /// otherwise.
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

    /// The error as redis-rs' error, with the kind's word as its code.
    fn to_redis_error(&self) -> RedisError {
        match (self.0.kind, &self.0.source) {
            (ErrorKind::Redis, Some(source)) => source.as_ref().clone(),
            // Without a word of a server's own it has the one that servers use for everything else.
            (ErrorKind::Redis, None) => server_error("ERR", &self.0.message).into(),
            (kind, _) => {
                redis::make_extension_error(kind.code().to_owned(), Some(self.0.message.clone()))
            }
        }
    }

    /// The error as one reply among others in a pipeline.
    pub(crate) fn to_reply(&self) -> redis::Value {
        match self.to_redis_error().into_server_errors() {
            Some(errors) if errors.len() == 1 => redis::Value::ServerError(errors[0].1.clone()),
            _ => redis::Value::ServerError(server_error("ERR", &self.0.message)),
        }
    }
}

/// What `fn main() -> Result<(), Error>` prints: the kind and the message.
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

impl From<Error> for RedisError {
    fn from(error: Error) -> Self {
        error.to_redis_error()
    }
}

impl From<crate::partition::PlacementError> for Error {
    fn from(error: crate::partition::PlacementError) -> Self {
        Self::config(error.to_string())
    }
}

/// The same server error with the node's name behind its text.
pub(crate) fn named_server_error(error: &ServerError, node: &str) -> ServerError {
    let text = match error.details() {
        Some(details) => format!("{details} (node {node})"),
        None => format!("(node {node})"),
    };
    server_error(error.code(), &text)
}

/// A server error with these words. redis-rs builds one only from the wire.
pub(crate) fn server_error(code: &str, text: &str) -> ServerError {
    let line: String = format!("-{code} {text}")
        .chars()
        .map(|c| if c == '\r' || c == '\n' { ' ' } else { c })
        .collect();
    match redis::parse_redis_value(format!("{line}\r\n").as_bytes()) {
        Ok(redis::Value::ServerError(error)) => error,
        _ => unreachable_server_error(),
    }
}

/// An error line without line breaks always parses; were it not so, the answer is still an error.
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
    use super::*;

    #[test]
    fn keys_are_escaped_and_cut() {
        assert_eq!(KeyText(b"a\x00\"\n").to_string(), r#""a\x00\"\n""#);
        let long = KeyText(&[b'k'; 100]).to_string();
        assert!(
            long.starts_with("\"kkk") && long.ends_with("\"... (100 bytes)"),
            "{long}"
        );
    }

    #[test]
    fn the_kind_survives_the_way_through_redis_rs() {
        let error: RedisError = Error::new(ErrorKind::CrossNode, "keys live apart").into();
        assert_eq!(error.code(), Some("CROSSNODE"));
        assert_eq!(ErrorKind::of(&error), ErrorKind::CrossNode);
    }

    #[test]
    fn a_server_error_keeps_its_kind_and_gains_the_node() {
        let said = server_error("NOSCRIPT", "No matching script.");
        let error: RedisError = Error::from_server(&named_server_error(&said, "cache-a")).into();
        assert_eq!(
            error.kind(),
            redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
        );
        assert_eq!(error.detail(), Some("No matching script. (node cache-a)"));
    }

    #[test]
    fn line_breaks_in_a_message_cannot_break_the_reply() {
        let error = server_error("ERR", "a\r\nb");
        assert_eq!(error.details(), Some("a  b"));
    }
}
