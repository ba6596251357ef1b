//! [`Subscriber`]: subscriptions to channels of many nodes, as one stream of events.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use redis::ToRedisArgs;
use tokio::runtime::{Handle, Id};
use tokio::time::Sleep;

use crate::aio::Shared;
use crate::aio::event_channel::EventChannel;
use crate::aio::executor::NodeConnections;
use crate::aio::multiplexed::DRIVER_PROBE_TIMEOUT;
use crate::aio::pub_sub_connection::PubSubConnection;
use crate::command::BlockingTime;
use crate::error::Error;
use crate::partition::{NodeId, NodeIndex};
use crate::plan::pubsub::{
    Event, NAMES_AT_ONCE, NamesByNode, SubscriptionChange, SubscriptionKind, SubscriptionMoves,
    not_confirmed, nothing_to_do,
};
use crate::snapshot::{SnapshotHandle, SnapshotListener};
use crate::topology::Topology;

/// Subscribes to channels and patterns of all nodes, and returns what they publish as one stream of events.
/// Made by [`ShardedClient::subscriber`](crate::aio::ShardedClient::subscriber).
///
/// A channel is subscribed to at the node that owns its name, which is where the client's PUBLISH goes.
/// Patterns are subscribed to on all nodes, and so are channels of keyspace notifications (`__keyspace@..`,
/// `__keyevent@..`), as every server publishes those for its own keys. A script publishes at the node it runs
/// on: give the channel the hash tag of the script's keys, or subscribe to a pattern.
///
/// When a connection breaks, an [`Event::Disconnected`] is returned at once. The connection and its
/// subscriptions are then restored in the background, followed by an [`Event::Missed`].
///
/// Events that have not been read are queued, up to [`EVENTS_MAX`](crate::EVENTS_MAX) of them and up to
/// [`EVENT_BYTES_MAX`](crate::EVENT_BYTES_MAX) bytes.
///
/// Dropping the future of `subscribe` or its relatives does not cancel the subscription; it is only not
/// waited for. With very many names, a part of them may have been subscribed to.
///
/// Connections live on the runtime on which `subscribe` and its relatives were called. When that runtime has
/// ended, or is no longer run, the one on which events are awaited makes new connections.
///
/// ```no_run
/// # use redis_sharding::{Event, aio::ShardedClient};
/// # async fn f(client: &ShardedClient) -> Result<(), redis_sharding::Error> {
/// let mut subscriber = client.subscriber();
/// subscriber.subscribe("news").await?;
/// subscriber.psubscribe("weather:*").await?;
/// while let Some(event) = subscriber.next_event(None).await {
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
    connections: BTreeMap<NodeId, NodeSubscriptions>,
    /// The topology by which they were made.
    placed_by: Arc<Topology>,
    /// Where all connections put their events.
    events: Arc<EventChannel>,
    /// Timer for connections on other runtimes; see [`poll_connections`].
    watch: Option<Watch>,
}

/// The subscriptions on one node.
struct NodeSubscriptions {
    connection: PubSubConnection,
    /// The node's connections for commands, which are others once it is reached otherwise. Not kept alive.
    node: Weak<NodeConnections>,
}

impl Subscriber {
    /// A subscriber without subscriptions or connections.
    pub(crate) fn new(shared: SnapshotHandle<Shared>) -> Self {
        let events: Arc<EventChannel> = Arc::default();
        let listener: Arc<dyn SnapshotListener> = Arc::clone(&events) as _;
        shared.listen(Arc::downgrade(&listener));
        Self {
            placed_by: Arc::clone(shared.load().router.topology()),
            shared,
            connections: BTreeMap::new(),
            events,
            watch: None,
        }
    }

    /// Moves the subscriptions to where the current topology wants them, if it has changed. Must be called on a
    /// runtime.
    fn follow(&mut self) {
        let shared = self.shared.load_full();
        let topology = shared.router.topology();
        if Arc::ptr_eq(topology, &self.placed_by) {
            return;
        }
        let is_current = |id: NodeId, subscriptions: &NodeSubscriptions| {
            // A node that is out has no subscriptions until it is back.
            let index = topology.index_of_id(id);
            let index = index.filter(|index| !topology.out().contains(*index));
            let node = index.map(|index| Arc::downgrade(shared.executor.connections(index)));
            node.is_some_and(|node| node.ptr_eq(&subscriptions.node))
        };
        let connections = self.connections.iter().map(|(id, node)| {
            let desired = node.connection.desired();
            (*id, is_current(*id, node), desired)
        });
        let (moves, kept) = SubscriptionMoves::of_connections(&shared.router, connections);
        self.connections.retain(|id, _| kept.contains(id));
        for (node, kind, names) in &moves.begin {
            let connection = self.connection(&shared, *node);
            connection.ensure_running();
            connection.change_owner(SubscriptionChange::Subscribe, *kind, names);
        }
        for (id, kind, names) in &moves.end {
            if let Some(node) = self.connections.get(id) {
                let connection = &node.connection;
                connection.change_owner(SubscriptionChange::Unsubscribe, *kind, names);
            }
        }
        self.placed_by = Arc::clone(topology);
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

    /// Subscribes to channels (SUBSCRIBE). Completes when the nodes have confirmed: whatever is published
    /// from then on is received.
    ///
    /// # Errors
    ///
    /// [`Redis`](crate::ErrorKind::Redis) without a channel, as a server replies, and when a node refuses;
    /// [`Unroutable`](crate::ErrorKind::Unroutable) for a channel without an owner; [`Auth`](crate::ErrorKind::Auth),
    /// [`NodeDown`](crate::ErrorKind::NodeDown) or [`Timeout`](crate::ErrorKind::Timeout) when a node does
    /// not confirm in time: the subscription is then made as soon as the node can be reached, unless it is
    /// ended before.
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            channels.to_redis_args(),
        )
        .await
    }

    /// Subscribes to all channels that match patterns (PSUBSCRIBE), on every node.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Pattern,
            patterns.to_redis_args(),
        )
        .await
    }

    /// Subscribes to shard channels (SSUBSCRIBE), to which SPUBLISH publishes.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn ssubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Shard,
            channels.to_redis_args(),
        )
        .await
    }

    /// Ends subscriptions to channels (UNSUBSCRIBE). Messages that have arrived are still returned.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Channel,
            channels.to_redis_args(),
        )
        .await
    }

    /// Ends subscriptions to patterns (PUNSUBSCRIBE). Messages that have arrived are still returned.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Pattern,
            patterns.to_redis_args(),
        )
        .await
    }

    /// Ends subscriptions to shard channels (SUNSUBSCRIBE). Messages that have arrived are still returned.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn sunsubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Shard,
            channels.to_redis_args(),
        )
        .await
    }

    /// Returns the next event, or `None` if none arrives within `timeout`. Without a timeout it waits until
    /// there is one: a subscriber never ends by itself, as it reconnects for as long as it lives. Dropping
    /// the future loses no event.
    ///
    /// The blocking client's method has the same signature. `next` of `futures_util::StreamExt` is equivalent
    /// to no timeout.
    pub async fn next_event(&mut self, timeout: impl Into<Option<Duration>>) -> Option<Event> {
        let timeout = timeout.into();
        let next = std::future::poll_fn(|cx| self.poll_event(cx));
        match timeout {
            None => Some(next.await),
            Some(timeout) => tokio::time::timeout(timeout, next).await.ok(),
        }
    }

    /// Returns an event that has already arrived.
    #[cfg(feature = "proxy")]
    pub(crate) fn try_next_event(&mut self) -> Option<Event> {
        self.events.try_receive()
    }

    /// Where the connections put their events.
    pub(super) fn events(&self) -> &Arc<EventChannel> {
        &self.events
    }

    /// Polls for an event, after making sure that the connections' tasks are polled.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.follow();
        poll_connections(&self.connections, &self.events, &mut self.watch, cx);
        self.events.poll_receive(cx)
    }

    /// Changes subscriptions on all nodes concerned, and waits for their confirmations.
    ///
    /// All nodes are sent their commands before the first confirmation is awaited, so the change takes as
    /// long as the slowest node.
    pub(crate) async fn change(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        if names.is_empty() {
            return Err(nothing_to_do(change, kind));
        }
        drop(self.shared.ready_async().await?);
        self.follow();
        let shared = self.shared.load_full();
        let router = &shared.router;
        // All names are routed before anything is changed: a name without an owner refuses the whole call.
        let mut spread = NamesByNode::new(router, kind);
        for names in names.chunks(NAMES_AT_ONCE) {
            spread.add(router, names)?;
            if names.len() == NAMES_AT_ONCE {
                tokio::task::yield_now().await;
            }
        }
        let spread = spread.finish(router);
        // The caller does not read events while it waits here, and a confirmation is behind the messages that
        // arrived before it: with a full queue it would never be read.
        let events = Arc::clone(&self.events);
        let _more = events.take_more();
        for (node, names) in &spread {
            let connection = self.connection(&shared, *node);
            connection.ensure_running();
            connection.change(change, kind, names).await;
        }
        let deadline = shared.executor.deadline(BlockingTime::None);
        for (node, _) in &spread {
            let spec = router.topology().node(*node);
            let name = spec.name();
            if let Some(node) = self.connections.get(&spec.id()) {
                let connection = &node.connection;
                let mut settled =
                    pin!(connection.wait_confirmed(deadline, |why| not_confirmed(name, why)));
                // The confirmations come through tasks that may live on a runtime that is no longer run.
                std::future::poll_fn(|cx| {
                    poll_connections(&self.connections, &self.events, &mut self.watch, cx);
                    settled.as_mut().poll(cx)
                })
                .await?;
            }
        }
        Ok(())
    }

    /// The connection to `node`, made if there is none yet.
    fn connection(&mut self, shared: &Shared, node: NodeIndex) -> &PubSubConnection {
        let spec = shared.router.topology().node(node);
        let subscriptions = self.connections.entry(spec.id()).or_insert_with(|| {
            let connector = shared.executor.connector(node);
            let (name, events) = (spec.name().to_owned(), Arc::clone(&self.events));
            NodeSubscriptions {
                connection: PubSubConnection::start(connector, name, events),
                node: Arc::downgrade(shared.executor.connections(node)),
            }
        });
        &subscriptions.connection
    }
}

/// When connections on other runtimes are checked next, and the runtime that the timer belongs to: polled on
/// another one, the timer would not fire.
type Watch = (Id, Pin<Box<Sleep>>);

/// Makes sure that the tasks of the connections are polled by some runtime.
///
/// Tasks that ended with their runtime are started on this one. Tasks on a current-thread runtime other than
/// this one are probed, and started on this one if they have not run [`DRIVER_PROBE_TIMEOUT`] later.
fn poll_connections(
    connections: &BTreeMap<NodeId, NodeSubscriptions>,
    events: &EventChannel,
    watch: &mut Option<Watch>,
    cx: &mut Context<'_>,
) {
    if events.take_stopped() {
        connections
            .values()
            .for_each(|node| node.connection.ensure_running());
    }
    let away = || {
        connections
            .values()
            .map(|node| &node.connection)
            .filter(|connection| connection.is_on_foreign_runtime())
    };
    // The common case: no timer at all.
    if away().next().is_none() {
        *watch = None;
        return;
    }
    let here = Handle::current().id();
    // Sets the timer and polls it at once, so that this task is registered for the wake-up.
    loop {
        match watch {
            Some((home, clock)) if *home == here => {
                if clock.as_mut().poll(cx).is_pending() {
                    return;
                }
                away().for_each(PubSubConnection::move_to_this_runtime);
                *watch = None;
                if away().next().is_none() {
                    return;
                }
            }
            _ => {
                away().for_each(PubSubConnection::probe);
                *watch = Some((here, Box::pin(tokio::time::sleep(DRIVER_PROBE_TIMEOUT))));
            }
        }
    }
}

impl Drop for Subscriber {
    /// Ends the tasks: their next event finds the channel closed. The connections end them as well when they
    /// are dropped.
    fn drop(&mut self) {
        self.events.close();
    }
}

impl Stream for Subscriber {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.poll_event(cx).map(Some)
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("nodes", &self.connections.len())
            .finish_non_exhaustive()
    }
}
