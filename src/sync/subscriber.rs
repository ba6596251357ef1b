//! Listening to channels of many nodes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::ToRedisArgs;

use crate::error::Error;
use crate::partition::{NodeId, NodeIndex};
use crate::plan::pubsub::{
    Event, NamesByNode, SubscriptionChange, SubscriptionKind, not_confirmed, nothing_to_do,
};
use crate::sync::Shared;
use crate::sync::event_channel::EventChannel;
use crate::sync::pub_sub_connection::PubSubConnection;

/// Listens to channels and patterns of all nodes, in one stream of events. Made by
/// [`ShardedClient::subscriber`](crate::ShardedClient::subscriber).
///
/// A channel is listened to at the node that owns its name, which is where the client's PUBLISH goes; patterns are
/// listened to on all nodes, and so are channels of keyspace notifications (`__keyspace@..`, `__keyevent@..`), which every
/// server publishes for its own keys. What a script publishes goes out at the node it runs on: give the channel the hash tag of
/// the script's keys, or subscribe by a pattern. One thread per node that is listened to waits for messages; it ends with the
/// subscriber. When a connection breaks, an [`Event::Disconnected`] tells so at once; it is made again, and so are its
/// subscriptions, and an [`Event::Missed`] tells that.
///
/// Events that are not taken wait, up to [`EVENTS_MAX`](crate::EVENTS_MAX) of them and up to
/// [`EVENT_BYTES_MAX`](crate::EVENT_BYTES_MAX) bytes.
///
/// ```no_run
/// # use redis_sharding::{Event, ShardedClient};
/// # fn f(client: &ShardedClient) -> Result<(), redis_sharding::Error> {
/// let mut subscriber = client.subscriber();
/// subscriber.subscribe("news")?;
/// subscriber.psubscribe("weather:*")?;
/// for event in &mut subscriber {
///     match event {
///         Event::Message(message) => println!("{}", String::from_utf8_lossy(&message.payload)),
///         Event::Missed { node } => eprintln!("messages at {node} may have been missed"),
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
pub struct Subscriber {
    shared: Arc<Shared>,
    /// One per node that is listened to. By identity: they outlive a topology whose other nodes change.
    connections: BTreeMap<NodeId, PubSubConnection>,
    events: Arc<EventChannel>,
}

impl Subscriber {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            connections: BTreeMap::new(),
            events: Arc::default(),
        }
    }

    /// How many bytes of events wait to be taken at most, twice as many while a change is waited for; a single event may be
    /// larger. Nothing is read from the servers meanwhile, and one that has to keep too much closes the connection, of which
    /// an [`Event::Disconnected`] tells. Defaults to [`EVENT_BYTES_MAX`](crate::EVENT_BYTES_MAX).
    #[must_use]
    pub fn with_event_bytes_max(self, bytes: usize) -> Self {
        self.events.set_bytes_max(bytes.max(1));
        self
    }

    /// Listens to channels. Returns when the nodes have confirmed it: what is published from then on is heard.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](crate::ErrorKind::Unroutable) without a channel, or for one without an owner;
    /// [`Redis`](crate::ErrorKind::Redis) when a node refuses; [`Auth`](crate::ErrorKind::Auth),
    /// [`NodeDown`](crate::ErrorKind::NodeDown) or [`Timeout`](crate::ErrorKind::Timeout) when it does not confirm in time:
    /// the subscription is then made as soon as it can be reached, unless it is ended.
    pub fn subscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            channels,
        )
    }

    /// Listens to all channels that match patterns, on every node.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Pattern,
            patterns,
        )
    }

    /// Listens to shard channels, to which SPUBLISH publishes.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub fn ssubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Shard,
            channels,
        )
    }

    /// Ends listening to channels. Messages that have arrived are still given.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Channel,
            channels,
        )
    }

    /// Ends listening to patterns.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Pattern,
            patterns,
        )
    }

    /// Ends listening to shard channels.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub fn sunsubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Shard,
            channels,
        )
    }

    /// The next event; `None` when none comes within `timeout`. Without a timeout it waits until there is one: a subscriber
    /// never ends by itself, as it makes its connections again for as long as it lives.
    ///
    /// The async client's has the same signature.
    pub fn next_event(&mut self, timeout: impl Into<Option<Duration>>) -> Option<Event> {
        self.events.receive(timeout.into())
    }

    fn change(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: impl ToRedisArgs,
    ) -> Result<(), Error> {
        let names = names.to_redis_args();
        if names.is_empty() {
            return Err(nothing_to_do());
        }
        let router = &self.shared.router;
        let mut spread = NamesByNode::new(router, kind);
        spread.add(router, &names)?;
        let spread = spread.finish(router);
        let deadline = self
            .shared
            .executor
            .deadline(crate::command::BlockingTime::None);
        // While an event cannot be told, what comes behind it is not heard, and it may be the confirmation.
        let events = Arc::clone(&self.events);
        let _more = events.take_more();
        for (node, names) in &spread {
            self.connection(*node)?
                .change(change, kind, names, &deadline);
        }
        for (node, _) in &spread {
            let spec = self.shared.router.topology().node(*node);
            let name = spec.name();
            if let Some(connection) = self.connections.get(&spec.id()) {
                connection.wait_confirmed(&deadline, |why| not_confirmed(name, why))?;
            }
        }
        Ok(())
    }

    fn connection(&mut self, node: NodeIndex) -> Result<&PubSubConnection, Error> {
        let spec = self.shared.router.topology().node(node);
        match self.connections.entry(spec.id()) {
            Entry::Occupied(place) => Ok(place.into_mut()),
            Entry::Vacant(place) => {
                let connector = self.shared.executor.pub_sub_connector(node);
                let (name, events) = (spec.name().to_owned(), Arc::clone(&self.events));
                Ok(place.insert(PubSubConnection::start(connector, name, events)?))
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.events.close();
    }
}

impl Iterator for Subscriber {
    type Item = Event;

    /// Waits for the next event, without limit.
    fn next(&mut self) -> Option<Event> {
        self.events.receive(None)
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("nodes", &self.connections.len())
            .finish_non_exhaustive()
    }
}
