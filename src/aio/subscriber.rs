//! Listening to channels of many nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use redis::ToRedisArgs;
use tokio::runtime::{Handle, Id};
use tokio::time::Sleep;

use crate::aio::Shared;
use crate::aio::event_channel::EventChannel;
use crate::aio::multiplexed::DRIVER_PROBE_TIMEOUT;
use crate::aio::pub_sub_connection::PubSubConnection;
use crate::command::BlockingTime;
use crate::error::Error;
use crate::partition::{NodeId, NodeIndex};
use crate::plan::pubsub::{
    Event, NAMES_AT_ONCE, NamesByNode, SubscriptionChange, SubscriptionKind, not_confirmed,
    nothing_to_do,
};

/// Listens to channels and patterns of all nodes, in one stream of events. Made by
/// [`ShardedClient::subscriber`](crate::aio::ShardedClient::subscriber).
///
/// A channel is listened to at the node that owns its name, which is where the client's PUBLISH goes; patterns are
/// listened to on all nodes, and so are channels of keyspace notifications (`__keyspace@..`, `__keyevent@..`), which every
/// server publishes for its own keys. What a script publishes goes out at the node it runs on: give the channel the hash tag of
/// the script's keys, or subscribe by a pattern. When a connection breaks, an [`Event::Disconnected`] tells so at once; it is
/// made again, and so are its subscriptions, and an [`Event::Missed`] tells that.
///
/// Events that are not taken wait, up to [`EVENTS_MAX`](crate::EVENTS_MAX) of them and up to
/// [`EVENT_BYTES_MAX`](crate::EVENT_BYTES_MAX) bytes.
///
/// A future of `subscribe` and its relatives that is dropped leaves the wish in force, only unconfirmed, or a part of it when
/// it is about very many names.
///
/// Connections live on the runtime on which `subscribe` and its relatives were called. When that has ended, or is not run
/// any more, the runtime on which events are waited for makes new ones.
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
    shared: Arc<Shared>,
    /// One per node that is listened to. By identity: they outlive a topology whose other nodes change.
    connections: BTreeMap<NodeId, PubSubConnection>,
    events: Arc<EventChannel>,
    /// For the tasks of the connections, see [`poll_connections`].
    watch: Option<Watch>,
}

impl Subscriber {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            connections: BTreeMap::new(),
            events: Arc::default(),
            watch: None,
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

    /// Listens to channels. Done when the nodes have confirmed it: what is published from then on is heard.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](crate::ErrorKind::Unroutable) without a channel, or for one without an owner;
    /// [`Redis`](crate::ErrorKind::Redis) when a node refuses; [`Auth`](crate::ErrorKind::Auth),
    /// [`NodeDown`](crate::ErrorKind::NodeDown) or [`Timeout`](crate::ErrorKind::Timeout) when it does not confirm in time:
    /// the subscription is then made as soon as it can be reached, unless it is ended.
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Channel,
            channels.to_redis_args(),
        )
        .await
    }

    /// Listens to all channels that match patterns, on every node.
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

    /// Listens to shard channels, to which SPUBLISH publishes.
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

    /// Ends listening to channels. Messages that have arrived are still given.
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

    /// Ends listening to patterns.
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

    /// Ends listening to shard channels.
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

    /// The next event; `None` when none comes within `timeout`. Without a timeout it waits until there is one: a subscriber
    /// never ends by itself, as it makes its connections again for as long as it lives. Dropping the future loses nothing.
    ///
    /// The blocking client's has the same signature. With `futures_util::StreamExt`, `next` is the same without a timeout.
    pub async fn next_event(&mut self, timeout: impl Into<Option<Duration>>) -> Option<Event> {
        let timeout = timeout.into();
        let next = std::future::poll_fn(|cx| self.poll_event(cx));
        match timeout {
            None => Some(next.await),
            Some(timeout) => tokio::time::timeout(timeout, next).await.ok(),
        }
    }

    /// An event that has come already.
    #[cfg(feature = "proxy")]
    pub(crate) fn try_next_event(&mut self) -> Option<Event> {
        self.events.try_receive()
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        poll_connections(&self.connections, &self.events, &mut self.watch, cx);
        self.events.poll_receive(cx)
    }

    pub(crate) async fn change(
        &mut self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        if names.is_empty() {
            return Err(nothing_to_do());
        }
        let router = &self.shared.router;
        let mut spread = NamesByNode::new(router, kind);
        for names in names.chunks(NAMES_AT_ONCE) {
            spread.add(router, names)?;
            if names.len() == NAMES_AT_ONCE {
                tokio::task::yield_now().await;
            }
        }
        let spread = spread.finish(router);
        // While an event cannot be told, what comes behind it is not heard, and it may be the confirmation.
        let events = Arc::clone(&self.events);
        let _more = events.take_more();
        for (node, names) in &spread {
            let connection = self.connection(*node);
            connection.ensure_running();
            connection.change(change, kind, names).await;
        }
        let deadline = self.shared.executor.deadline(BlockingTime::None);
        for (node, _) in &spread {
            let spec = self.shared.router.topology().node(*node);
            let name = spec.name();
            if let Some(connection) = self.connections.get(&spec.id()) {
                let mut settled =
                    pin!(connection.wait_confirmed(deadline, |why| not_confirmed(name, why)));
                std::future::poll_fn(|cx| {
                    poll_connections(&self.connections, &self.events, &mut self.watch, cx);
                    settled.as_mut().poll(cx)
                })
                .await?;
            }
        }
        Ok(())
    }

    fn connection(&mut self, node: NodeIndex) -> &PubSubConnection {
        let shared = &self.shared;
        let spec = shared.router.topology().node(node);
        self.connections.entry(spec.id()).or_insert_with(|| {
            let connector = shared.executor.connector(node);
            let (name, events) = (spec.name().to_owned(), Arc::clone(&self.events));
            PubSubConnection::start(connector, name, events)
        })
    }
}

/// When those connections are looked at again whose tasks live on other runtimes, and the runtime of the clock.
type Watch = (Id, Pin<Box<Sleep>>);

/// Sees to it that the tasks of the connections are run. Those that ended with their runtime are started on this one. Those on a
/// runtime that runs only while somebody blocks on it are asked for a sign of life, and started on this one without it.
fn poll_connections(
    connections: &BTreeMap<NodeId, PubSubConnection>,
    events: &EventChannel,
    watch: &mut Option<Watch>,
    cx: &mut Context<'_>,
) {
    if events.take_stopped() {
        connections
            .values()
            .for_each(PubSubConnection::ensure_running);
    }
    let away = || {
        connections
            .values()
            .filter(|connection| connection.is_on_foreign_runtime())
    };
    if away().next().is_none() {
        *watch = None;
        return;
    }
    let here = Handle::current().id();
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
