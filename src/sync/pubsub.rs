//! [`DedicatedPubSub`]: subscriptions on a dedicated connection.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use redis::{Msg, RedisResult, ToRedisArgs, Value};

use crate::sync::Dedicated;

/// Subscribes to channels of one node on a connection of its own, as `redis::PubSub` does. Made by
/// [`Dedicated::as_pubsub`].
///
/// Dropping it ends the subscriptions, and the connection takes commands again. A
/// [`Subscriber`](crate::Subscriber) covers all nodes and reconnects.
pub struct DedicatedPubSub<'d> {
    /// Borrowed, so that no command can be sent while messages may arrive.
    connection: &'d mut Dedicated,
    /// Messages that arrived before a confirmation, the oldest first.
    waiting: VecDeque<Msg>,
    /// Maximum time that [`get_message`](Self::get_message) waits.
    timeout: Option<Duration>,
    /// True once a command was sent, and subscriptions may have to be ended.
    used: bool,
    /// Channels subscribed to, and patterns: UNSUBSCRIBE without names is confirmed once for each.
    subscribed: [BTreeSet<Vec<u8>>; 2],
}

impl Dedicated {
    /// Listens to channels, as `redis::Connection::as_pubsub`. Messages are waited for without limit, unless
    /// [`DedicatedPubSub::set_read_timeout`] sets one.
    ///
    /// # Errors
    ///
    /// If the connection has failed before, and between MULTI and EXEC or DISCARD, where a server would only queue the
    /// subscription.
    pub fn as_pubsub(&mut self) -> RedisResult<DedicatedPubSub<'_>> {
        self.begin_pub_sub()?;
        Ok(DedicatedPubSub::new(self))
    }
}

impl<'d> DedicatedPubSub<'d> {
    fn new(connection: &'d mut Dedicated) -> Self {
        Self {
            connection,
            waiting: VecDeque::new(),
            timeout: None,
            used: false,
            subscribed: Default::default(),
        }
    }

    /// Subscribes to channels (SUBSCRIBE). Returns when the node has confirmed.
    ///
    /// # Errors
    ///
    /// If the node refuses, or the connection fails.
    pub fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.change("SUBSCRIBE", &channels.to_redis_args())
    }

    /// Subscribes to all channels of the node that match patterns (PSUBSCRIBE).
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.change("PSUBSCRIBE", &patterns.to_redis_args())
    }

    /// Ends subscriptions to channels (UNSUBSCRIBE). Messages that have arrived are still returned.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.change("UNSUBSCRIBE", &channels.to_redis_args())
    }

    /// Ends subscriptions to patterns (PUNSUBSCRIBE). Messages that have arrived are still returned.
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
    /// If none arrives within the timeout of [`set_read_timeout`](Self::set_read_timeout), or the connection
    /// fails.
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

    /// Sets the maximum time that [`get_message`](Self::get_message) waits; `None` waits for ever. Defaults
    /// to `None`.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> RedisResult<()> {
        if timeout == Some(Duration::ZERO) {
            let error = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(error.into());
        }
        self.timeout = timeout;
        Ok(())
    }

    /// Sends one command and reads its confirmations, keeping the messages between them.
    fn change(&mut self, command: &str, names: &[Vec<u8>]) -> RedisResult<()> {
        self.used = true;
        let mut request = redis::cmd(command);
        request.arg(names);
        self.connection.send_only(&request.get_packed_command())?;
        let subscribed = &mut self.subscribed[usize::from(command.starts_with('P'))];
        // One confirmation per name. Without names, one per subscription, or one if there is none.
        let mut missing = match names {
            [] => subscribed.len().max(1),
            names => names.len(),
        };
        match (command.ends_with("UNSUBSCRIBE"), names) {
            (false, names) => subscribed.extend(names.iter().cloned()),
            (true, []) => subscribed.clear(),
            (true, names) => names.iter().for_each(|name| {
                subscribed.remove(name);
            }),
        }
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

    /// Ends all subscriptions, and reads until the last confirmation, so that no message is left for the next
    /// command to find.
    fn end(&mut self) -> RedisResult<()> {
        let mut requests = redis::cmd("UNSUBSCRIBE").get_packed_command();
        requests.extend(redis::cmd("PUNSUBSCRIBE").get_packed_command());
        self.connection.send_only(&requests)?;
        // Messages and confirmations of channels come before it and are dropped.
        while !is_last(&self.connection.confirmation()?) {}
        Ok(())
    }
}

/// True for the confirmation that no subscription is left: of PUNSUBSCRIBE, the last command, with a count of
/// zero.
fn is_last(value: &Value) -> bool {
    match value {
        Value::Array(items) => {
            matches!(&items[..], [Value::BulkString(word), .., Value::Int(0)] if word == b"punsubscribe")
        }
        _ => false,
    }
}

impl Drop for DedicatedPubSub<'_> {
    /// Leaves a connection on which nothing is due, or none.
    fn drop(&mut self) {
        if self.used && self.end().is_err() {
            self.connection.abandon();
        }
    }
}

impl fmt::Debug for DedicatedPubSub<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedicatedPubSub")
            .field("connection", &self.connection)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use redis::{ConnectionLike, ErrorKind};

    use crate::ShardedClient;
    use crate::testing::TestNode;

    fn client(node: &TestNode) -> ShardedClient {
        let builder = ShardedClient::builder().node("a", node.url());
        builder.build().unwrap()
    }

    #[test]
    fn unsubscribe_without_names_waits_for_the_confirmation_of_every_channel() {
        let node = TestNode::start().unwrap();
        let mut connection = client(&node).node("a").unwrap().dedicated().unwrap();
        let mut pubsub = connection.as_pubsub().unwrap();
        pubsub.subscribe(&["a", "b", "c"]).unwrap();
        pubsub.psubscribe("p*").unwrap();
        pubsub.unsubscribe(Vec::<String>::new()).unwrap();
        // Each confirmation left behind would be taken for that of the next change.
        pubsub.subscribe("d").unwrap();
        let publisher = client(&node);
        let receivers = |channel: &str| {
            let published = publisher
                .node("a")
                .unwrap()
                .req_command(redis::cmd("PUBLISH").arg(channel).arg("x"));
            redis::from_redis_value::<u64>(published.unwrap()).unwrap()
        };
        assert_eq!((receivers("a"), receivers("d"), receivers("p1")), (0, 1, 1));
    }

    #[test]
    fn as_pubsub_is_refused_between_multi_and_exec() {
        let node = TestNode::start().unwrap();
        let mut connection = client(&node).node("a").unwrap().dedicated().unwrap();
        redis::cmd("MULTI").exec(&mut connection).unwrap();
        let refusal = connection.as_pubsub().unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::Extension);
        redis::cmd("DISCARD").exec(&mut connection).unwrap();
        connection.as_pubsub().unwrap().subscribe("a").unwrap();
    }
}
