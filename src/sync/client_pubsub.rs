//! [`PubSub`]: subscriptions on all nodes, with the methods of `redis::PubSub`.

use std::io;
use std::time::Duration;

use redis::{ControlFlow, Msg, PubSubCommands, RedisError, RedisResult, ToRedisArgs};

use crate::plan::pubsub::{SubscribedNames, SubscriptionChange, SubscriptionKind, into_msg};
use crate::sync::{Dedicated, DedicatedPubSub, ShardedClient, Subscriber};

/// Subscribes to channels and patterns of all nodes, with the methods of `redis::PubSub`. Made by
/// [`ShardedClient::as_pubsub`].
///
/// It is a [`Subscriber`] whose messages are redis-rs' own [`Msg`]: channels are subscribed to on the node that
/// owns their name, patterns on every node, and lost connections are restored in the background.
/// **A lost connection is an error of [`get_message`](Self::get_message)**, as it is in redis-rs, so that a
/// program notices that it may have missed messages.
///
/// ```
/// use redis_sharding::redis::Commands;
/// use redis_sharding::testing::TestNode; // stand-ins for servers, in this process; feature `testing`
/// use redis_sharding::ShardedClient;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let servers = TestNode::start_many(2)?;
/// let client = ShardedClient::open(servers.iter().map(TestNode::url))?;
/// let mut connection = client.get_connection()?;
///
/// let mut pubsub = connection.as_pubsub();
/// pubsub.subscribe(&["news", "weather"])?;
/// let receivers: u32 = connection.publish("weather", "rain")?;
/// assert_eq!(receivers, 1);
/// let message = pubsub.get_message()?;
/// assert_eq!(message.get_channel_name(), "weather");
/// assert_eq!(message.get_payload::<String>()?, "rain");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct PubSub {
    subscriber: Subscriber,
    /// The names that UNSUBSCRIBE without names ends.
    names: SubscribedNames,
    /// Maximum time that [`get_message`](Self::get_message) waits.
    timeout: Option<Duration>,
}

impl ShardedClient {
    /// Returns subscriptions to channels and patterns of all nodes, none yet, with the methods of redis-rs'
    /// `Connection::as_pubsub`. Nothing is contacted before the first subscription. Messages are waited for without
    /// a limit, unless [`PubSub::set_read_timeout`] sets one.
    ///
    /// [`subscriber`](Self::subscriber) reports lost connections as events and has shard channels as well.
    pub fn as_pubsub(&self) -> PubSub {
        PubSub {
            subscriber: self.subscriber(),
            names: SubscribedNames::default(),
            timeout: None,
        }
    }
}

impl PubSub {
    /// Subscribes to channels (SUBSCRIBE). Returns when the nodes have confirmed.
    ///
    /// # Errors
    ///
    /// As for [`Subscriber::subscribe`].
    pub fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            channels,
        )
    }

    /// Subscribes to all channels that match patterns (PSUBSCRIBE), on every node.
    ///
    /// # Errors
    ///
    /// As for [`Subscriber::subscribe`].
    pub fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Pattern,
            patterns,
        )
    }

    /// Ends subscriptions to channels (UNSUBSCRIBE); without names, all of them. Messages that have arrived are
    /// still returned.
    ///
    /// # Errors
    ///
    /// As for [`Subscriber::subscribe`].
    pub fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Channel,
            channels,
        )
    }

    /// Ends subscriptions to patterns (PUNSUBSCRIBE); without names, all of them. Messages that have arrived are
    /// still returned.
    ///
    /// # Errors
    ///
    /// As for [`Subscriber::subscribe`].
    pub fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Pattern,
            patterns,
        )
    }

    /// Waits for the next message.
    ///
    /// # Errors
    ///
    /// * A timeout (`is_timeout`) if no message arrives within the limit of
    ///   [`set_read_timeout`](Self::set_read_timeout).
    /// * A lost connection (`is_connection_dropped`) when the connection to a node breaks, and once more when its
    ///   subscriptions are restored. Messages published on this node between the two errors were missed; those of
    ///   the other nodes are returned in between. A program may call again, and read the current data after each
    ///   of the errors, or make another `PubSub`, as it has to with redis-rs.
    pub fn get_message(&mut self) -> RedisResult<Msg> {
        match self.subscriber.next_event(self.timeout) {
            Some(event) => into_msg(event).map_err(|gap| {
                // The kind with which redis-rs reports that a server has closed the connection.
                RedisError::from(io::Error::new(io::ErrorKind::UnexpectedEof, gap))
            }),
            None => Err(io::Error::new(io::ErrorKind::TimedOut, "no message in time").into()),
        }
    }

    /// Sets the maximum time that [`get_message`](Self::get_message) waits; `None` waits for ever. Defaults to
    /// `None`.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> RedisResult<()> {
        if timeout == Some(Duration::ZERO) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        }
        self.timeout = timeout;
        Ok(())
    }

    fn change(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: impl ToRedisArgs,
    ) -> RedisResult<()> {
        match self.names.change(change, kind, names.to_redis_args()) {
            Some(names) => Ok(self.subscriber.change(change, kind, names)?),
            None => Ok(()),
        }
    }
}

/// Calls back for each message of all nodes, until the closure breaks.
///
/// ```no_run
/// use redis_sharding::ShardedClient;
/// use redis_sharding::redis::{ControlFlow, PubSubCommands, RedisResult};
///
/// # fn f(client: &ShardedClient) -> RedisResult<()> {
/// let mut connection = client.get_connection()?;
/// let news: String = connection.subscribe(&["news"], |message| match message.get_payload() {
///     Ok(text) => ControlFlow::Break(text),
///     Err(_) => ControlFlow::Continue,
/// })?;
/// # Ok(()) }
/// ```
impl PubSubCommands for ShardedClient {
    /// Ends with an error when a connection is lost: see [`PubSub::get_message`].
    fn subscribe<C, F, U>(&mut self, channels: C, each: F) -> RedisResult<U>
    where
        F: FnMut(Msg) -> ControlFlow<U>,
        C: ToRedisArgs,
    {
        let mut pubsub = self.as_pubsub();
        pubsub.subscribe(channels)?;
        until_break(|| pubsub.get_message(), each)
    }

    /// Ends with an error when a connection is lost: see [`PubSub::get_message`].
    fn psubscribe<P, F, U>(&mut self, patterns: P, each: F) -> RedisResult<U>
    where
        F: FnMut(Msg) -> ControlFlow<U>,
        P: ToRedisArgs,
    {
        let mut pubsub = self.as_pubsub();
        pubsub.psubscribe(patterns)?;
        until_break(|| pubsub.get_message(), each)
    }
}

/// Calls back for each message of one node; the connection takes commands again afterwards.
impl PubSubCommands for Dedicated {
    fn subscribe<C, F, U>(&mut self, channels: C, each: F) -> RedisResult<U>
    where
        F: FnMut(Msg) -> ControlFlow<U>,
        C: ToRedisArgs,
    {
        let mut pubsub: DedicatedPubSub<'_> = self.as_pubsub()?;
        pubsub.subscribe(channels)?;
        until_break(|| pubsub.get_message(), each)
    }

    fn psubscribe<P, F, U>(&mut self, patterns: P, each: F) -> RedisResult<U>
    where
        F: FnMut(Msg) -> ControlFlow<U>,
        P: ToRedisArgs,
    {
        let mut pubsub: DedicatedPubSub<'_> = self.as_pubsub()?;
        pubsub.psubscribe(patterns)?;
        until_break(|| pubsub.get_message(), each)
    }
}

/// Calls `each` with the messages of `next`, until it breaks.
fn until_break<U>(
    mut next: impl FnMut() -> RedisResult<Msg>,
    mut each: impl FnMut(Msg) -> ControlFlow<U>,
) -> RedisResult<U> {
    loop {
        if let ControlFlow::Break(value) = each(next()?) {
            return Ok(value);
        }
    }
}
