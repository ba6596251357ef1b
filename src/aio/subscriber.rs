//! [`Subscriber`]: subscriptions to channels of many nodes, as one stream of events.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use redis::ToRedisArgs;
use tokio::runtime::{Handle, Id};
use tokio::time::Sleep;

use crate::aio::Shared;
use crate::aio::event_channel::EventChannel;
use crate::aio::multiplexed::DRIVER_PROBE_TIMEOUT;
use crate::aio::node_connections::NodeConnections;
use crate::aio::pub_sub_connection::PubSubConnection;
use crate::command::BlockingTime;
use crate::endpoint::Deadline;
use crate::error::Error;
use crate::partition::NodeId;
use crate::plan::pubsub::{
    ChangeProgress, Event, FOLLOW_INTERVAL, NAMES_AT_ONCE, NamesByNode, RedirectedNames,
    SubscriptionChange, SubscriptionKind, SubscriptionMoves, SubscriptionPlaces, not_confirmed,
    nothing_to_do,
};
use crate::snapshot::{SnapshotHandle, SnapshotListener};
use crate::topology::Topology;

/// Subscribes to channels and patterns of all nodes, and returns what they publish as one stream of events.
/// Made by [`ShardedClient::subscriber`](crate::aio::ShardedClient::subscriber).
///
/// A channel is subscribed to at the node that owns its name, which is where the client's PUBLISH goes.
/// Patterns are subscribed to on all nodes, and so are channels of keyspace notifications (`__keyspace@..`,
/// `__keyevent@..`), as every server publishes those for its own keys. A script publishes at the node it runs
/// on: give the channel the hash tag of the script's keys, or subscribe to a pattern. In a Redis Cluster channels and
/// patterns are subscribed to at one node, as its servers pass messages on to each other; shard channels go where their
/// slots go.
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
    /// What is known of their places besides.
    places: SubscriptionPlaces,
    /// Where all connections put their events.
    events: Arc<EventChannel>,
    /// Timer for connections on other runtimes; see [`poll_connections`].
    watch: Option<Watch>,
}

/// The subscriptions on one node.
struct NodeSubscriptions {
    connection: PubSubConnection,
    /// The node's name.
    name: String,
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
            places: SubscriptionPlaces::default(),
            events,
            watch: None,
        }
    }

    /// Moves the subscriptions to where the current topology wants them, if it has changed, and to where the servers of
    /// a cluster have said. Returns the nodes that were given names. Must be called on a runtime.
    fn follow(&mut self) -> BTreeSet<NodeId> {
        let shared = self.shared.load_full();
        let mut given = BTreeSet::new();
        let is_signalled = self.events.take_signals();
        let is_changed = is_signalled && self.take_signals(&shared, &mut given);
        if is_changed || !Arc::ptr_eq(shared.router.topology(), &self.placed_by) {
            self.place(&shared, &mut given);
        }
        given
    }

    /// Moves the subscriptions to where they belong.
    fn place(&mut self, shared: &Shared, given: &mut BTreeSet<NodeId>) {
        let topology = shared.router.topology();
        self.places.topology_changed(topology);
        let is_current = |id: NodeId, subscriptions: &NodeSubscriptions| {
            // A node that is out has no subscriptions until it is back.
            let index = topology.index_of_id(id);
            let index = index.filter(|index| !topology.out().contains(*index));
            if topology.cluster().is_some() {
                // Its name is its address.
                return index.is_some() || self.places.is_redirected_to(id);
            }
            let node = index.map(|index| Arc::downgrade(shared.executor.connections(index)));
            node.is_some_and(|node| node.ptr_eq(&subscriptions.node))
        };
        let connections = self.connections.iter().map(|(id, node)| {
            let desired = node.connection.desired();
            (*id, is_current(*id, node), desired)
        });
        let (moves, kept) =
            SubscriptionMoves::of_connections(&shared.router, &self.places, connections);
        self.connections.retain(|id, _| kept.contains(id));
        for (id, kind, names) in &moves.begin {
            // Moves begin at nodes of the topology, or where there is a connection.
            if let Some(connection) = self.connection(shared, *id) {
                connection.ensure_running();
                connection.change_owner(SubscriptionChange::Subscribe, *kind, names);
                given.insert(*id);
            }
        }
        for (id, kind, names) in &moves.end {
            if let Some(node) = self.connections.get(id) {
                let connection = &node.connection;
                connection.change_owner(SubscriptionChange::Unsubscribe, *kind, names);
            }
        }
        self.placed_by = Arc::clone(topology);
    }

    /// Does what the connections to the nodes of a cluster have learned. Returns true if names must be placed anew.
    fn take_signals(&mut self, shared: &Shared, given: &mut BTreeSet<NodeId>) -> bool {
        let signals = self.connections.iter();
        let signals = signals.map(|(id, node)| (*id, node.connection.take_signals()));
        let learned = self.places.learn(shared.router.topology(), signals);
        shared.executor.report(learned.reports);
        for redirected in learned.redirected {
            match self.redirect(shared, &redirected) {
                Some(node) => drop(given.insert(node)),
                None => self.places.keep(redirected),
            }
        }
        learned.is_changed
    }

    /// Subscribes at the server that MOVED has named. `None` if there can be no connection to it.
    fn redirect(&mut self, shared: &Shared, redirected: &RedirectedNames) -> Option<NodeId> {
        let topology = shared.router.topology();
        let map = topology.cluster()?;
        let id = match map.node_at(&redirected.to) {
            Some(node) => topology.node(node).id(),
            // The map does not know it yet.
            None => {
                let (node, name) = shared.executor.redirected(&redirected.to)?;
                let id = NodeId::of_name(&name);
                self.open(id, name, &node, true);
                id
            }
        };
        let now = Instant::now();
        let is_delayed = self.places.moved(topology, redirected.slot, id, now);
        let connection = self.connection(shared, id)?;
        connection.ensure_running();
        connection.take_over(redirected, is_delayed);
        Some(id)
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
        let mut spread = NamesByNode::new(kind);
        for names in names.chunks(NAMES_AT_ONCE) {
            let all = names.iter().map(Vec::as_slice);
            let held = |name: &[u8]| self.holder(kind, name);
            spread.add(router, &self.places, all, held)?;
            if names.len() == NAMES_AT_ONCE {
                tokio::task::yield_now().await;
            }
        }
        let spread = spread.finish();
        // The caller does not read events while it waits here, and a confirmation is behind the messages that
        // arrived before it: with a full queue it would never be read.
        let events = Arc::clone(&self.events);
        let _more = events.take_more();
        for (id, names) in &spread {
            if let Some(connection) = self.connection(&shared, *id) {
                connection.ensure_running();
                connection.change(change, kind, names).await;
            }
        }
        let is_cluster = router.topology().cluster().is_some();
        let deadline = shared.executor.deadline(BlockingTime::None);
        self.wait_confirmed(spread.into_keys().collect(), is_cluster, deadline)
            .await
    }

    /// Waits for the confirmations of these nodes, and of those to which their names go in the meantime.
    async fn wait_confirmed(
        &mut self,
        mut nodes: BTreeSet<NodeId>,
        is_cluster: bool,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let mut failed: BTreeMap<NodeId, u64> = BTreeMap::new();
        while let Some(&id) = nodes.first() {
            let Some(node) = self.connections.get(&id) else {
                nodes.remove(&id);
                continue;
            };
            let failed_before = *failed
                .entry(id)
                .or_insert_with(|| node.connection.failed_count());
            let soon = is_cluster.then(|| Instant::now() + FOLLOW_INTERVAL);
            let end = soon.into_iter().chain(deadline.end()).min();
            let progress = {
                let mut settled = pin!(node.connection.wait_confirmed(failed_before, end));
                // The confirmations come through tasks that may live on a runtime that is no longer run.
                std::future::poll_fn(|cx| {
                    poll_connections(&self.connections, &self.events, &mut self.watch, cx);
                    settled.as_mut().poll(cx)
                })
                .await
            };
            match progress {
                ChangeProgress::Confirmed => drop(nodes.remove(&id)),
                ChangeProgress::Refused(refusal) => return Err(refusal),
                // In a cluster another node takes over.
                ChangeProgress::Unreachable(_) if is_cluster && !deadline.is_over() => {
                    tokio::time::sleep(FOLLOW_INTERVAL).await;
                }
                ChangeProgress::Unreachable(why) => {
                    return Err(not_confirmed(&node.name, Some(&why)));
                }
                ChangeProgress::Pending if deadline.is_over() => {
                    return Err(not_confirmed(&node.name, None));
                }
                ChangeProgress::Pending => {}
            }
            if is_cluster {
                // Those that were confirmed because their names have left count again elsewhere.
                self.events.signal();
                nodes.extend(self.follow());
            }
        }
        Ok(())
    }

    /// The node on which a name is subscribed.
    fn holder(&self, kind: SubscriptionKind, name: &[u8]) -> Option<NodeId> {
        let mut nodes = self.connections.iter();
        let node = nodes.find(|(_, node)| node.connection.wants(kind, name));
        node.map(|(id, _)| *id)
    }

    /// The connection to a node, made if there is none yet. `None` if it is no node of the topology.
    fn connection(&mut self, shared: &Shared, id: NodeId) -> Option<&PubSubConnection> {
        let topology = shared.router.topology();
        if !self.connections.contains_key(&id) {
            let index = topology.index_of_id(id)?;
            let name = topology.node(index).name().to_owned();
            let node = shared.executor.connections(index);
            self.open(id, name, node, topology.cluster().is_some());
        }
        self.connections.get(&id).map(|node| &node.connection)
    }

    /// Makes the connection to a server, unless there is one.
    fn open(&mut self, id: NodeId, name: String, node: &Arc<NodeConnections>, is_cluster: bool) {
        self.connections.entry(id).or_insert_with(|| {
            let events = Arc::clone(&self.events);
            NodeSubscriptions {
                connection: PubSubConnection::start(
                    node.connector(),
                    name.clone(),
                    is_cluster,
                    events,
                ),
                name,
                node: Arc::downgrade(node),
            }
        });
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
