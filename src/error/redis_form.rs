//! An [`Error`] as the [`RedisError`] of redis-rs' traits, and the way back.

use std::io;
use std::sync::Arc;

use redis::{RedisError, RedisResult, Value};

use super::{Error, ErrorKind, server_error};

/// An error behind a reference count, as redis-rs keeps those that are not its own.
type SharedError = Arc<dyn std::error::Error + Send + Sync>;

/// The form of an [`Error`] in redis-rs' traits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RedisForm {
    /// The server's own error, or redis-rs'.
    Source,
    /// `redis::ErrorKind::AuthenticationFailed`.
    AuthenticationFailed,
    /// An [`io::Error`] of this kind, with the [`Error`] inside.
    Io(io::ErrorKind),
    /// An extension error with the kind's code word.
    Extension,
}

impl Error {
    /// Returns the error of this crate inside another error: a [`RedisError`] from redis-rs' traits, an
    /// [`io::Error`], or an error of another library that has one of them as its source.
    ///
    /// `None` for the forms of [`RedisError`] that have no room for it: a server's own error, a pipeline's
    /// list of them, a refused password, and errors with a code word, such as `CROSSNODE`.
    /// [`ErrorKind::of`] returns the kind of every form.
    ///
    /// ```
    /// use redis_sharding::redis::{Commands, RedisError};
    /// use redis_sharding::{Error, ShardedClient, testing::TestNode};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let node = TestNode::start()?;
    /// let mut client = ShardedClient::builder().node("cache-a", node.url()).build()?;
    /// node.stop();
    /// let error: RedisError = client.get::<_, String>("user:1").unwrap_err();
    /// assert!(error.is_connection_refusal());
    /// assert_eq!(Error::of(&error).and_then(Error::node), Some("cache-a"));
    /// # Ok(()) }
    /// ```
    pub fn of<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            // Their `source` skips the error inside and returns the source of that.
            let held: Option<&'e (dyn std::error::Error + 'static)> =
                match (error.downcast_ref(), error.downcast_ref::<SharedError>()) {
                    (Some(io), _) => io::Error::get_ref(io).map(|held| held as _),
                    (None, Some(shared)) => Some(&**shared),
                    (None, None) => None,
                };
            next = held.or_else(|| error.source());
        }
        None
    }

    /// The form of the error in redis-rs' traits.
    fn redis_form(&self) -> RedisForm {
        match (self.0.kind, &self.0.source, self.0.io) {
            (ErrorKind::Redis | ErrorKind::Auth, Some(_), _) => RedisForm::Source,
            (ErrorKind::Auth, None, None) => RedisForm::AuthenticationFailed,
            (ErrorKind::PoolTimeout | ErrorKind::Timeout, _, _) => {
                RedisForm::Io(io::ErrorKind::TimedOut)
            }
            (ErrorKind::NodeDown, _, None) => RedisForm::Io(io::ErrorKind::NotConnected),
            (ErrorKind::Unknown, _, None) => RedisForm::Io(io::ErrorKind::ConnectionAborted),
            (
                ErrorKind::Auth | ErrorKind::NodeDown | ErrorKind::Partial | ErrorKind::Unknown,
                _,
                Some(kind),
            ) => RedisForm::Io(kind),
            (
                ErrorKind::Archive
                | ErrorKind::Attempts
                | ErrorKind::Config
                | ErrorKind::CrossNode
                | ErrorKind::Moving
                | ErrorKind::Partial
                | ErrorKind::Redis
                | ErrorKind::Stale
                | ErrorKind::Stateful
                | ErrorKind::Unroutable,
                _,
                _,
            ) => RedisForm::Extension,
        }
    }

    /// The error as one error reply: the server's own, or one with the kind's code word.
    pub(crate) fn to_reply(&self) -> Value {
        let own = || {
            let code = match self.0.kind.code() {
                // Without a server's own code, the generic one.
                "" => "ERR",
                code => code,
            };
            server_error(code, &self.0.message)
        };
        Value::ServerError(self.server_reply().unwrap_or_else(own))
    }

    /// The result of a command as redis-rs' traits return it, where an error reply is a reply. `complete` adds to
    /// any other error what is known about it.
    pub(crate) fn redis_result(
        result: Result<Value, Self>,
        complete: impl FnOnce(Self) -> Self,
    ) -> RedisResult<Value> {
        result.or_else(|error| match error.server_reply() {
            Some(reply) => Ok(Value::ServerError(reply)),
            None => Err(complete(error).into()),
        })
    }

    /// The kind of the I/O error because of which there is no reply. `None` if there is one, or if the command was
    /// refused before it was sent.
    pub(crate) fn missing_reply(&self) -> Option<io::ErrorKind> {
        match self.redis_form() {
            RedisForm::Io(kind) => Some(kind),
            // For an error with several parts, which has room for one I/O kind only.
            RedisForm::AuthenticationFailed => Some(io::ErrorKind::PermissionDenied),
            RedisForm::Source | RedisForm::Extension => None,
        }
    }
}

/// As redis-rs reports the same event at one server: see the table of [`Error`].
impl From<Error> for RedisError {
    fn from(error: Error) -> Self {
        match (error.redis_form(), &error.0.source) {
            (RedisForm::Source, Some(source)) => source.as_ref().clone(),
            (RedisForm::AuthenticationFailed, _) => {
                let kind = redis::ErrorKind::AuthenticationFailed;
                (kind, "authentication failed", error.0.message).into()
            }
            (RedisForm::Io(kind), _) => io::Error::new(kind, error).into(),
            (RedisForm::Source | RedisForm::Extension, _) => match error.to_reply() {
                Value::ServerError(reply) => reply.into(),
                _ => redis::make_extension_error("ERR".to_owned(), Some(error.0.message)),
            },
        }
    }
}

/// The [`io::Error`] of a [`RedisError`], if that is what it is.
pub(crate) fn io_error_in(error: &RedisError) -> Option<&io::Error> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<SharedError>()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_found_behind_io_errors_reference_counts_and_redis_errors() {
        let new = || Error::new(ErrorKind::NodeDown, "text").at_node("a");
        let redis: RedisError = new().into();
        let nested = io::Error::other(io::Error::other(redis.clone()));
        let shared: SharedError = Arc::new(io::Error::other(new()));
        let all: [&(dyn std::error::Error + 'static); 6] = [
            &new(),
            &redis,
            &redis.clone(),
            &io::Error::other(new()),
            &nested,
            &shared,
        ];
        for error in all {
            assert_eq!(
                Error::of(error).and_then(Error::node),
                Some("a"),
                "{error:?}"
            );
        }
        assert!(Error::of(&io::Error::from(io::ErrorKind::NotFound)).is_none());
        let foreign: RedisError = io::Error::other("text").into();
        assert!(Error::of(&foreign).is_none());
        assert_eq!(ErrorKind::of(&foreign), ErrorKind::Redis);
    }
}
