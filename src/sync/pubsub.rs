//! Listening to channels over a dedicated connection.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use redis::{Msg, RedisResult, ToRedisArgs, Value};

use crate::sync::Dedicated;

/// Listens to channels of one node over a connection of one's own, as `redis::PubSub` does. Made by
/// [`Dedicated::as_pubsub`].
///
/// What is listened to ends with it, and the connection takes commands again. [`Subscriber`](crate::Subscriber) listens
/// to all nodes, and makes broken connections again.
pub struct PubSub<'d> {
    connection: &'d mut Dedicated,
    /// Messages that came before a confirmation, the oldest first.
    waiting: VecDeque<Msg>,
    timeout: Option<Duration>,
    /// Something was subscribed to.
    used: bool,
}

impl Dedicated {
    /// Listens to channels, as `redis::Connection::as_pubsub`. Messages are waited for without limit, unless
    /// [`PubSub::set_read_timeout`] sets one.
    ///
    /// # Errors
    ///
    /// When the connection has failed before, when its state was changed before, and when no connection can be made.
    pub fn as_pubsub(&mut self) -> RedisResult<PubSub<'_>> {
        self.begin_pub_sub()?;
        Ok(PubSub::new(self))
    }
}

impl<'d> PubSub<'d> {
    fn new(connection: &'d mut Dedicated) -> Self {
        Self {
            connection,
            waiting: VecDeque::new(),
            timeout: None,
            used: false,
        }
    }

    /// Listens to channels. Returns when the node has confirmed it.
    ///
    /// # Errors
    ///
    /// When the node refuses, or the connection fails.
    pub fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.change("SUBSCRIBE", &channels.to_redis_args())
    }

    /// Listens to all channels of the node that match patterns.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.change("PSUBSCRIBE", &patterns.to_redis_args())
    }

    /// Ends listening to channels. Messages that have arrived are still given.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.change("UNSUBSCRIBE", &channels.to_redis_args())
    }

    /// Ends listening to patterns.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.change("PUNSUBSCRIBE", &patterns.to_redis_args())
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// When none comes within the time of [`set_read_timeout`](Self::set_read_timeout), or the connection fails.
    pub fn get_message(&mut self) -> RedisResult<Msg> {
        if let Some(message) = self.waiting.pop_front() {
            return Ok(message);
        }
        loop {
            let value = self.connection.next_message(self.timeout)?;
            if let Some(message) = Msg::from_owned_value(value) {
                return Ok(message);
            }
        }
    }

    /// How long [`get_message`](Self::get_message) waits; `None` waits for ever. Defaults to `None`.
    ///
    /// # Errors
    ///
    /// When it is zero.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> RedisResult<()> {
        if timeout == Some(Duration::ZERO) {
            let error = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(error.into());
        }
        self.timeout = timeout;
        Ok(())
    }

    fn change(&mut self, command: &str, names: &[Vec<u8>]) -> RedisResult<()> {
        self.used = true;
        let mut request = redis::cmd(command);
        request.arg(names);
        self.connection.send_only(&request.get_packed_command())?;
        // One for every name, and one for all of them where none is given.
        let mut missing = names.len().max(1);
        while missing > 0 {
            match self.connection.confirmation()? {
                Value::ServerError(error) => return Err(error.into()),
                value => match Msg::from_value(&value) {
                    Some(message) => self.waiting.push_back(message),
                    None => missing -= 1,
                },
            }
        }
        Ok(())
    }

    /// Ends all that is listened to; whether the connection owes nothing then.
    fn end(&mut self) -> RedisResult<()> {
        let mut requests = redis::cmd("UNSUBSCRIBE").get_packed_command();
        requests.extend(redis::cmd("PUNSUBSCRIBE").get_packed_command());
        self.connection.send_only(&requests)?;
        while !is_last(&self.connection.confirmation()?) {}
        Ok(())
    }
}

/// Whether this confirms that nothing is listened to any more, neither channel nor pattern.
fn is_last(value: &Value) -> bool {
    match value {
        Value::Array(items) => {
            matches!(&items[..], [Value::BulkString(word), .., Value::Int(0)] if word == b"punsubscribe")
        }
        _ => false,
    }
}

impl Drop for PubSub<'_> {
    fn drop(&mut self) {
        if self.used && self.end().is_err() {
            self.connection.abandon();
        }
    }
}

impl fmt::Debug for PubSub<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSub")
            .field("connection", &self.connection)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}
