//! Listening to channels of many nodes.

use std::collections::VecDeque;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::future::{Either, select};
use redis::ToRedisArgs;
use tokio::sync::mpsc;

use crate::aio::Shared;
use crate::aio::ear::Ear;
use crate::error::Error;
use crate::node::NodeIndex;
use crate::plan::Hold;
use crate::subscribe::{
    Change, EVENTS_MAX, Event, Subscription, not_confirmed, not_plain, nothing_to_do, spread,
};

/// Listens to channels and patterns of all nodes, in one stream of events. Made by
/// [`ShardedClient::subscriber`](crate::aio::ShardedClient::subscriber).
///
/// A channel is listened to at the node that owns its name, which is where the client's PUBLISH goes; patterns are
/// listened to on all nodes, and so are channels of keyspace notifications (`__keyspace@..`, `__keyevent@..`), which every
/// server publishes for its own keys. What a script publishes goes out at the node it runs on:
/// give the channel the hash tag of the script's keys, or subscribe by a pattern. When a connection breaks, it is made again, and so are its subscriptions, and an
/// [`Event::Missed`] tells so.
///
/// A future of `subscribe` and its relatives that is dropped leaves the wish in force, only unconfirmed.
///
/// ```no_run
/// # use redis_sharding::{Event, aio::ShardedClient};
/// # async fn f(client: &ShardedClient) -> Result<(), redis_sharding::Error> {
/// let mut subscriber = client.subscriber();
/// subscriber.subscribe("news").await?;
/// subscriber.psubscribe("weather:*").await?;
/// while let Some(event) = subscriber.next_event().await {
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
    /// One per node that is listened to.
    ears: Vec<Option<Ear>>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    /// Events that came while a change was waited for, the oldest first: as many as may wait in `events`.
    early: VecDeque<Event>,
}

impl Subscriber {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let ears = shared.router.topology().indices().map(|_| None).collect();
        Self {
            shared,
            ears,
            events,
            sender,
            early: VecDeque::new(),
        }
    }

    /// Listens to channels. Done when the nodes have confirmed it: what is published from then on is heard.
    ///
    /// # Errors
    ///
    /// [`Unroutable`](crate::ErrorKind::Unroutable) without a channel, or for one without an owner;
    /// [`Redis`](crate::ErrorKind::Redis) when a node refuses; [`NodeDown`](crate::ErrorKind::NodeDown) when it does not
    /// confirm in time: the subscription is then made as soon as it can be reached, unless it is ended.
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(
            Change::Begin,
            Subscription::Channel,
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
            Change::Begin,
            Subscription::Pattern,
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
        self.change(Change::Begin, Subscription::Shard, channels.to_redis_args())
            .await
    }

    /// Ends listening to channels. Messages that have arrived are still given.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(Change::End, Subscription::Channel, channels.to_redis_args())
            .await
    }

    /// Ends listening to patterns.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> Result<(), Error> {
        self.change(Change::End, Subscription::Pattern, patterns.to_redis_args())
            .await
    }

    /// Ends listening to shard channels.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn sunsubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.change(Change::End, Subscription::Shard, channels.to_redis_args())
            .await
    }

    /// The next event. Dropping the future loses nothing.
    pub async fn next_event(&mut self) -> Option<Event> {
        match self.early.pop_front() {
            Some(event) => Some(event),
            None => self.events.recv().await,
        }
    }

    /// An event that has come already.
    pub(super) fn try_next_event(&mut self) -> Option<Event> {
        let early = self.early.pop_front();
        early.or_else(|| self.events.try_recv().ok())
    }

    pub(super) async fn change(
        &mut self,
        change: Change,
        kind: Subscription,
        names: Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        if names.is_empty() {
            return Err(nothing_to_do());
        }
        let spread = spread(&self.shared.router, kind, &names)?;
        for (node, names) in &spread {
            self.ear(*node)?.change(change, kind, names);
        }
        let limit = self.shared.executor.limit(Hold::No);
        for (node, _) in &spread {
            let name = self.shared.router.name(*node);
            if let Some(ear) = &self.ears[node.get()] {
                let settled = ear.settle(limit, |why| not_confirmed(name, why));
                meanwhile(settled, &mut self.events, &mut self.early).await?;
            }
        }
        Ok(())
    }

    fn ear(&mut self, node: NodeIndex) -> Result<&Ear, Error> {
        let place = &mut self.ears[node.get()];
        match place {
            Some(ear) => Ok(ear),
            None => {
                let name = self.shared.router.name(node).to_owned();
                let connector = self.shared.executor.connector(node);
                if !connector.is_plain() {
                    return Err(not_plain(&name));
                }
                Ok(place.insert(Ear::start(connector, name, self.sender.clone())))
            }
        }
    }
}

/// Waits for a change, and takes events meanwhile: while one cannot be told, what comes behind it is not heard, and it may
/// be the confirmation.
async fn meanwhile<T>(
    settled: impl Future<Output = T>,
    events: &mut mpsc::Receiver<Event>,
    early: &mut VecDeque<Event>,
) -> T {
    let mut settled = pin!(settled);
    while early.len() < EVENTS_MAX {
        match select(settled.as_mut(), pin!(events.recv())).await {
            Either::Left((settled, _)) => return settled,
            Either::Right((Some(event), _)) => early.push_back(event),
            Either::Right((None, _)) => break,
        }
    }
    settled.await
}

impl Stream for Subscriber {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        match self.early.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None => self.events.poll_recv(cx),
        }
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("nodes", &self.ears.iter().flatten().count())
            .finish_non_exhaustive()
    }
}
