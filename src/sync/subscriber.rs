//! [`Subscriber`]: subscriptions to channels of many nodes, as one sequence of events.

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
use crate::snapshot::SnapshotHandle;
use crate::sync::Shared;
use crate::sync::event_channel::EventChannel;
use crate::sync::pub_sub_connection::PubSubConnection;

/// Subscribes to channels and patterns of all nodes, and returns what they publish as one sequence of events.
/// Made by [`ShardedClient::subscriber`](crate::ShardedClient::subscriber).
///
/// A channel is subscribed to at the node that owns its name, which is where the client's PUBLISH goes.
/// Patterns are subscribed to on all nodes, and so are channels of keyspace notifications (`__keyspace@..`,
/// `__keyevent@..`), as every server publishes those for its own keys. A script publishes at the node it runs
/// on: give the channel the hash tag of the script's keys, or subscribe to a pattern.
///
/// One thread per node with a subscription receives messages; it ends with the subscriber. When a connection
/// breaks, an [`Event::Disconnected`] is returned at once. The connection and its subscriptions are then
/// restored in the background, followed by an [`Event::Missed`].
///
/// Events that have not been read are queued, up to [`EVENTS_MAX`](crate::EVENTS_MAX) of them and up to
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
    shared: SnapshotHandle<Shared>,
    /// One per node with a subscription, by the node's identity: they outlive a topology whose other nodes
    /// change.
    connections: BTreeMap<NodeId, PubSubConnection>,
    /// Where all connections put their events.
    events: Arc<EventChannel>,
}

impl Subscriber {
    /// A subscriber without subscriptions or connections.
    pub(super) fn new(shared: SnapshotHandle<Shared>) -> Self {
        Self {
            shared,
            connections: BTreeMap::new(),
            events: Arc::default(),
        }
    }

    /// Maximum number of bytes of queued events, doubled while a change awaits its confirmation; a single
    /// event may be larger. While the queue is full nothing is read from the servers, and a server that has
    /// to buffer too much closes the connection, which shows as an [`Event::Disconnected`]. Defaults to
    /// [`EVENT_BYTES_MAX`](crate::EVENT_BYTES_MAX).
    #[must_use]
    pub fn with_event_bytes_max(self, bytes: usize) -> Self {
        self.events.set_bytes_max(bytes.max(1));
        self
    }

    /// Subscribes to channels (SUBSCRIBE). Returns when the nodes have confirmed: whatever is published from
    /// then on is received.
    ///
    /// # Errors
    ///
    /// [`Redis`](crate::ErrorKind::Redis) without a channel, as a server replies, and when a node refuses;
    /// [`Unroutable`](crate::ErrorKind::Unroutable) for a channel without an owner; [`Auth`](crate::ErrorKind::Auth),
    /// [`NodeDown`](crate::ErrorKind::NodeDown) or [`Timeout`](crate::ErrorKind::Timeout) when a node does
    /// not confirm in time: the subscription is then made as soon as the node can be reached, unless it is
    /// ended before.
    pub fn subscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
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
    /// As for [`subscribe`](Self::subscribe).
    pub fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Pattern,
            patterns,
        )
    }

    /// Subscribes to shard channels (SSUBSCRIBE), to which SPUBLISH publishes.
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

    /// Ends subscriptions to channels (UNSUBSCRIBE). Messages that have arrived are still returned.
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

    /// Ends subscriptions to patterns (PUNSUBSCRIBE). Messages that have arrived are still returned.
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

    /// Ends subscriptions to shard channels (SUNSUBSCRIBE). Messages that have arrived are still returned.
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

    /// Returns the next event, or `None` if none arrives within `timeout`. Without a timeout it waits until
    /// there is one: a subscriber never ends by itself, as it reconnects for as long as it lives.
    ///
    /// The async client's method has the same signature.
    pub fn next_event(&mut self, timeout: impl Into<Option<Duration>>) -> Option<Event> {
        self.events.receive(timeout.into())
    }

    /// Changes subscriptions on all nodes concerned, and waits for their confirmations.
    ///
    /// All nodes are sent their commands before the first confirmation is awaited, so the change takes as
    /// long as the slowest node.
    pub(super) fn change(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: impl ToRedisArgs,
    ) -> Result<(), Error> {
        let names = names.to_redis_args();
        if names.is_empty() {
            return Err(nothing_to_do(change, kind));
        }
        let shared = self.shared.load_full();
        let router = &shared.router;
        // All names are routed before anything is changed: a name without an owner refuses the whole call.
        let mut spread = NamesByNode::new(router, kind);
        spread.add(router, &names)?;
        let spread = spread.finish(router);
        let deadline = shared.executor.deadline(crate::command::BlockingTime::None);
        // The caller does not read events while it waits here, and a confirmation is behind the messages that
        // arrived before it: with a full queue it would never be read.
        let events = Arc::clone(&self.events);
        let _more = events.take_more();
        for (node, names) in &spread {
            self.connection(&shared, *node)?
                .change(change, kind, names, &deadline);
        }
        // A second loop, so that the nodes work at the same time.
        for (node, _) in &spread {
            let spec = router.topology().node(*node);
            let name = spec.name();
            if let Some(connection) = self.connections.get(&spec.id()) {
                connection.wait_confirmed(&deadline, |why| not_confirmed(name, why))?;
            }
        }
        Ok(())
    }

    /// The connection to `node`, made if there is none yet.
    fn connection(&mut self, shared: &Shared, node: NodeIndex) -> Result<&PubSubConnection, Error> {
        let spec = shared.router.topology().node(node);
        match self.connections.entry(spec.id()) {
            Entry::Occupied(place) => Ok(place.into_mut()),
            Entry::Vacant(place) => {
                let connector = shared.executor.pub_sub_connector(node);
                let (name, events) = (spec.name().to_owned(), Arc::clone(&self.events));
                Ok(place.insert(PubSubConnection::start(connector, name, events)?))
            }
        }
    }
}

impl Drop for Subscriber {
    /// Wakes the threads that wait for room in the queue; each ends when its connection is dropped.
    fn drop(&mut self) {
        self.events.close();
    }
}

impl Iterator for Subscriber {
    type Item = Event;

    /// Waits for the next event, without limit. Never `None`.
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
