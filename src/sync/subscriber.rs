//! [`Subscriber`]: subscriptions to channels of many nodes, as one sequence of events.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use redis::ToRedisArgs;

use crate::command::BlockingTime;
use crate::error::Error;
use crate::partition::{NodeId, NodeIndex};
use crate::plan::pubsub::{
    Event, NamesByNode, SubscriptionChange, SubscriptionKind, SubscriptionMoves, not_confirmed,
    nothing_to_do,
};
use crate::snapshot::{SnapshotHandle, SnapshotListener};
use crate::sync::Shared;
use crate::sync::event_channel::{EventChannel, Received};
use crate::sync::executor::NodePools;
use crate::sync::pub_sub_connection::PubSubConnection;
use crate::topology::Topology;

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
    connections: BTreeMap<NodeId, NodeSubscriptions>,
    /// The topology by which they were made.
    placed_by: Arc<Topology>,
    /// Where all connections put their events.
    events: Arc<EventChannel>,
}

/// The subscriptions on one node.
struct NodeSubscriptions {
    connection: PubSubConnection,
    /// The node's pools, which are others once it is reached otherwise. Not kept alive.
    pools: Weak<NodePools>,
}

impl Subscriber {
    /// A subscriber without subscriptions or connections.
    pub(super) fn new(shared: SnapshotHandle<Shared>) -> Self {
        let events: Arc<EventChannel> = Arc::default();
        let listener: Arc<dyn SnapshotListener> = Arc::clone(&events) as _;
        shared.listen(Arc::downgrade(&listener));
        Self {
            placed_by: Arc::clone(shared.load().router.topology()),
            shared,
            connections: BTreeMap::new(),
            events,
        }
    }

    /// Moves the subscriptions to where the current topology wants them, if it has changed.
    fn follow(&mut self) {
        let shared = self.shared.load_full();
        let topology = shared.router.topology();
        if Arc::ptr_eq(topology, &self.placed_by) {
            return;
        }
        let is_current = |id: NodeId, node: &NodeSubscriptions| {
            // A node that is out has no subscriptions until it is back.
            let index = topology.index_of_id(id);
            let index = index.filter(|index| !topology.out().contains(*index));
            let pools = index.map(|index| &shared.executor.nodes[index.get()]);
            pools.is_some_and(|pools| node.pools.ptr_eq(&Arc::downgrade(pools)))
        };
        let deadline = shared.executor.deadline(BlockingTime::None);
        let connections = self.connections.iter().map(|(id, node)| {
            let desired = node.connection.desired();
            (*id, is_current(*id, node), desired)
        });
        let (moves, kept) = SubscriptionMoves::of_connections(&shared.router, connections);
        // Closed last: until the new ones exist, the former connections know what is wanted.
        let (current, former) = std::mem::take(&mut self.connections)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(id, _)| kept.contains(id));
        self.connections = current;
        for (node, kind, names) in &moves.begin {
            let Ok(connection) = self.connection(&shared, *node) else {
                // No thread could be started. The names are found again when this is tried again.
                self.connections.extend(former);
                return;
            };
            connection.change_owner(SubscriptionChange::Subscribe, *kind, names, &deadline);
        }
        for (id, kind, names) in &moves.end {
            if let Some(node) = self.connections.get(id) {
                let connection = &node.connection;
                connection.change_owner(SubscriptionChange::Unsubscribe, *kind, names, &deadline);
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
        // A timeout beyond the range of the clock waits for ever.
        let end = timeout
            .into()
            .and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            self.follow();
            match self.events.receive(end) {
                Received::Event(event) => return Some(event),
                Received::Nothing => return None,
                Received::Interrupted => {}
            }
        }
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
        drop(self.shared.ready()?);
        self.follow();
        let shared = self.shared.load_full();
        let router = &shared.router;
        // All names are routed before anything is changed: a name without an owner refuses the whole call.
        let mut spread = NamesByNode::new(router, kind);
        spread.add(router, &names)?;
        let spread = spread.finish(router);
        let deadline = shared.executor.deadline(BlockingTime::None);
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
            if let Some(node) = self.connections.get(&spec.id()) {
                node.connection
                    .wait_confirmed(&deadline, |why| not_confirmed(name, why))?;
            }
        }
        Ok(())
    }

    /// The connection to `node`, made if there is none yet.
    fn connection(&mut self, shared: &Shared, node: NodeIndex) -> Result<&PubSubConnection, Error> {
        let spec = shared.router.topology().node(node);
        match self.connections.entry(spec.id()) {
            Entry::Occupied(place) => Ok(&place.into_mut().connection),
            Entry::Vacant(place) => {
                let connector = shared.executor.pub_sub_connector(node);
                let (name, events) = (spec.name().to_owned(), Arc::clone(&self.events));
                let pools = Arc::downgrade(&shared.executor.nodes[node.get()]);
                let connection = PubSubConnection::start(connector, name, events)?;
                Ok(&place
                    .insert(NodeSubscriptions { connection, pools })
                    .connection)
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
        self.next_event(None)
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("nodes", &self.connections.len())
            .finish_non_exhaustive()
    }
}
