//! [`Subscriber`]: subscriptions to channels of many nodes, as one sequence of events.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use redis::ToRedisArgs;

use crate::command::BlockingTime;
use crate::endpoint::Deadline;
use crate::error::Error;
use crate::partition::NodeId;
use crate::plan::pubsub::{
    ChangeProgress, Event, FOLLOW_INTERVAL, NamesByNode, RedirectedNames, SubscriptionChange,
    SubscriptionKind, SubscriptionMoves, SubscriptionPlaces, not_confirmed, nothing_to_do,
};
use crate::snapshot::{SnapshotHandle, SnapshotListener};
use crate::sync::Shared;
use crate::sync::event_channel::{EventChannel, Received};
use crate::sync::node_pools::NodePools;
use crate::sync::pub_sub_connection::PubSubConnection;
use crate::topology::Topology;

/// Subscribes to channels and patterns of all nodes, and returns what they publish as one sequence of events.
/// Made by [`ShardedClient::subscriber`](crate::ShardedClient::subscriber).
///
/// A channel is subscribed to at the node that owns its name, which is where the client's PUBLISH goes.
/// Patterns are subscribed to on all nodes, and so are channels of keyspace notifications (`__keyspace@..`,
/// `__keyevent@..`), as every server publishes those for its own keys. A script publishes at the node it runs
/// on: give the channel the hash tag of the script's keys, or subscribe to a pattern. In a Redis Cluster channels and
/// patterns are subscribed to at one node, as its servers pass messages on to each other; shard channels go where their
/// slots go.
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
    /// What is known of their places besides.
    places: SubscriptionPlaces,
    /// Where all connections put their events.
    events: Arc<EventChannel>,
}

/// The subscriptions on one node.
struct NodeSubscriptions {
    connection: PubSubConnection,
    /// The node's name.
    name: String,
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
            places: SubscriptionPlaces::default(),
            events,
        }
    }

    /// Moves the subscriptions to where the current topology wants them, if it has changed, and to where the servers of
    /// a cluster have said. Returns the nodes that were given names.
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
        let is_current = |id: NodeId, node: &NodeSubscriptions| {
            // A node that is out has no subscriptions until it is back.
            let index = topology.index_of_id(id);
            let index = index.filter(|index| !topology.out().contains(*index));
            if topology.cluster().is_some() {
                // Its name is its address.
                return index.is_some() || self.places.is_redirected_to(id);
            }
            let pools = index.map(|index| &shared.executor.nodes[index.get()]);
            pools.is_some_and(|pools| node.pools.ptr_eq(&Arc::downgrade(pools)))
        };
        let deadline = shared.executor.deadline(BlockingTime::None);
        let connections = self.connections.iter().map(|(id, node)| {
            let desired = node.connection.desired();
            (*id, is_current(*id, node), desired)
        });
        let (moves, kept) =
            SubscriptionMoves::of_connections(&shared.router, &self.places, connections);
        // Closed last: until the new ones exist, the former connections know what is wanted.
        let (current, mut former) = std::mem::take(&mut self.connections)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(id, _)| kept.contains(id));
        self.connections = current;
        for (id, ..) in &moves.begin {
            let Ok(Some(_)) = self.connection(shared, *id) else {
                // No thread could be started. The names are found again when this is tried again.
                self.connections.extend(former);
                return;
            };
        }
        if topology.cluster().is_some() {
            // A demoted node goes on sending what is published at others: it would arrive twice.
            former.clear();
        }
        for (id, kind, names) in &moves.begin {
            let Ok(Some(connection)) = self.connection(shared, *id) else {
                continue;
            };
            connection.change_owner(SubscriptionChange::Subscribe, *kind, names, &deadline);
            given.insert(*id);
        }
        for (id, kind, names) in &moves.end {
            if let Some(node) = self.connections.get(id) {
                let connection = &node.connection;
                connection.change_owner(SubscriptionChange::Unsubscribe, *kind, names, &deadline);
            }
        }
        self.placed_by = Arc::clone(topology);
    }

    /// Does what the connections to the nodes of a cluster have learned. Returns true if names must be placed anew.
    fn take_signals(&mut self, shared: &Shared, given: &mut BTreeSet<NodeId>) -> bool {
        let signals = self.connections.iter();
        let signals = signals.map(|(id, node)| (*id, node.connection.take_signals()));
        let learned = self.places.learn(shared.router.topology(), signals);
        shared.executor.report_to_cluster(learned.reports);
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
                let (pools, name) = shared.executor.redirected(&redirected.to)?;
                let id = NodeId::of_name(&name);
                self.open(id, name, &pools, true).ok()?;
                id
            }
        };
        let now = Instant::now();
        let is_delayed = self.places.moved(topology, redirected.slot, id, now);
        let deadline = shared.executor.deadline(BlockingTime::None);
        let connection = self.connection(shared, id).ok()??;
        connection.take_over(redirected, is_delayed, &deadline);
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
        let mut spread = NamesByNode::new(kind);
        let all = names.iter().map(Vec::as_slice);
        let held = |name: &[u8]| self.holder(kind, name);
        spread.add(router, &self.places, all, held)?;
        let spread = spread.finish();
        let deadline = shared.executor.deadline(BlockingTime::None);
        // The caller does not read events while it waits here, and a confirmation is behind the messages that
        // arrived before it: with a full queue it would never be read.
        let events = Arc::clone(&self.events);
        let _more = events.take_more();
        for (id, names) in &spread {
            if let Some(connection) = self.connection(&shared, *id)? {
                connection.change(change, kind, names, &deadline);
            }
        }
        let is_cluster = router.topology().cluster().is_some();
        self.wait_confirmed(spread.into_keys().collect(), is_cluster, &deadline)
    }

    /// Waits for the confirmations of these nodes, and of those to which their names go in the meantime.
    fn wait_confirmed(
        &mut self,
        mut nodes: BTreeSet<NodeId>,
        is_cluster: bool,
        deadline: &Deadline,
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
            let progress = node.connection.wait_confirmed(failed_before, end, deadline);
            match progress {
                ChangeProgress::Confirmed => drop(nodes.remove(&id)),
                ChangeProgress::Refused(refusal) => return Err(refusal),
                // In a cluster another node takes over.
                ChangeProgress::Unreachable(_) if is_cluster && !deadline.is_over() => {
                    std::thread::sleep(FOLLOW_INTERVAL);
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
    fn connection(
        &mut self,
        shared: &Shared,
        id: NodeId,
    ) -> Result<Option<&PubSubConnection>, Error> {
        let topology = shared.router.topology();
        if !self.connections.contains_key(&id) {
            let Some(index) = topology.index_of_id(id) else {
                return Ok(None);
            };
            let name = topology.node(index).name().to_owned();
            let pools = &shared.executor.nodes[index.get()];
            self.open(id, name, pools, topology.cluster().is_some())?;
        }
        Ok(self.connections.get(&id).map(|node| &node.connection))
    }

    /// Makes the connection to a server, unless there is one.
    fn open(
        &mut self,
        id: NodeId,
        name: String,
        pools: &Arc<NodePools>,
        is_cluster: bool,
    ) -> Result<(), Error> {
        if let Entry::Vacant(place) = self.connections.entry(id) {
            let events = Arc::clone(&self.events);
            let connector = pools.pub_sub_connector();
            let connection = PubSubConnection::start(connector, name.clone(), is_cluster, events)?;
            let pools = Arc::downgrade(pools);
            place.insert(NodeSubscriptions {
                connection,
                name,
                pools,
            });
        }
        Ok(())
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
