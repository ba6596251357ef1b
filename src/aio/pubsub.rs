//! [`PubSub`]: subscriptions on all nodes, with the methods of `redis::aio::PubSub`.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures_util::Stream;
use redis::{Msg, RedisError, RedisResult, ToRedisArgs};
use tokio::sync::{Mutex, MutexGuard};

use crate::aio::event_channel::EventChannel;
use crate::aio::{ShardedClient, Subscriber};
use crate::plan::pubsub::{SubscribedNames, SubscriptionChange, SubscriptionKind, into_msg};

/// Subscribes to channels and patterns of all nodes, with the methods of `redis::aio::PubSub`. Made by
/// [`ShardedClient::get_async_pubsub`](crate::aio::ShardedClient::get_async_pubsub).
///
/// It is a [`Subscriber`] whose messages are redis-rs' own [`Msg`]: channels are subscribed to on the node that
/// owns their name, patterns on every node, and lost connections are restored in the background.
/// **A lost connection ends the stream of messages**, as it does in redis-rs, so that a program notices that it
/// may have missed messages: see [`PubSubStream`].
///
/// ```
/// use futures_util::StreamExt;
/// use redis_sharding::redis::AsyncCommands;
/// use redis_sharding::testing::TestNode; // stand-ins for servers, in this process; feature `testing`
/// use redis_sharding::ShardedClient;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let servers = TestNode::start_many(2)?;
/// let client = ShardedClient::open(servers.iter().map(TestNode::url))?;
/// let mut connection = client.get_multiplexed_async_connection().await?;
///
/// let (mut sink, mut stream) = client.get_async_pubsub().await?.split();
/// sink.subscribe(&["news", "weather"]).await?;
/// let receivers: u32 = connection.publish("weather", "rain").await?;
/// assert_eq!(receivers, 1);
/// let message = stream.next().await.expect("no connection was lost");
/// assert_eq!(message.get_channel_name(), "weather");
/// assert_eq!(message.get_payload::<String>()?, "rain");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct PubSub {
    sink: PubSubSink,
    stream: PubSubStream,
}

/// The half of a split [`PubSub`] that changes the subscriptions.
///
/// Clones may be used by several tasks; their changes are made one after another. Dropping it does not end the
/// stream. Once the stream is dropped, every call is an error.
#[derive(Clone)]
pub struct PubSubSink {
    shared: Weak<Shared>,
}

/// The half of a split [`PubSub`] that receives the messages.
///
/// It returns `None` when the connection to a node is lost, where a stream of redis-rs ends, and once more when
/// the subscriptions of this node are restored. Messages published on this node between the two were missed; those
/// of the other nodes are returned in between. A program may poll again after a `None`, and read the current data
/// after each of them, or make another [`PubSub`], as it has to with redis-rs. [`Subscriber`] names the node
/// instead.
///
/// Dropping it ends all subscriptions.
pub struct PubSubStream {
    shared: Arc<Shared>,
}

/// The state that both halves share. The stream owns it.
struct Shared {
    /// Locked during a change, so that the changes of several sinks follow each other, and while the stream is
    /// polled.
    state: Mutex<State>,
    /// The queue of the subscriber, which the stream reads while `state` is locked by a change.
    events: Arc<EventChannel>,
}

struct State {
    subscriber: Subscriber,
    /// The names that UNSUBSCRIBE without names ends.
    names: SubscribedNames,
}

impl PubSub {
    /// Subscriptions of this client; none yet.
    pub(crate) fn new(client: &ShardedClient) -> Self {
        let subscriber = client.subscriber();
        let shared = Arc::new(Shared {
            events: Arc::clone(subscriber.events()),
            state: Mutex::new(State {
                subscriber,
                names: SubscribedNames::default(),
            }),
        });
        Self {
            sink: PubSubSink {
                shared: Arc::downgrade(&shared),
            },
            stream: PubSubStream { shared },
        }
    }

    /// Subscribes to channels (SUBSCRIBE). Completes when the nodes have confirmed.
    ///
    /// # Errors
    ///
    /// As for [`Subscriber::subscribe`].
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.subscribe(channels).await
    }

    /// Subscribes to all channels that match patterns (PSUBSCRIBE), on every node.
    ///
    /// # Errors
    ///
    /// As for [`Subscriber::subscribe`].
    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.psubscribe(patterns).await
    }

    /// Ends subscriptions to channels (UNSUBSCRIBE); without names, all of them. Messages that have arrived are
    /// still returned.
    ///
    /// # Errors
    ///
    /// As for [`Subscriber::subscribe`].
    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.unsubscribe(channels).await
    }

    /// Ends subscriptions to patterns (PUNSUBSCRIBE); without names, all of them. Messages that have arrived are
    /// still returned.
    ///
    /// # Errors
    ///
    /// As for [`Subscriber::subscribe`].
    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.punsubscribe(patterns).await
    }

    /// Returns the messages as a stream that borrows this handle. It ends where [`PubSubStream`] returns `None`;
    /// another call continues it.
    pub fn on_message(&mut self) -> impl Stream<Item = Msg> + '_ {
        &mut self.stream
    }

    /// Turns this handle into the stream of its messages.
    pub fn into_on_message(self) -> PubSubStream {
        self.stream
    }

    /// Splits this handle, so that subscriptions can be changed while messages are awaited.
    pub fn split(self) -> (PubSubSink, PubSubStream) {
        (self.sink, self.stream)
    }
}

impl PubSubSink {
    /// Subscribes to channels (SUBSCRIBE). Completes when the nodes have confirmed.
    ///
    /// # Errors
    ///
    /// As for [`Subscriber::subscribe`]; and a broken pipe if the stream was dropped.
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
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
    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.change(
            SubscriptionChange::Subscribe,
            SubscriptionKind::Pattern,
            patterns.to_redis_args(),
        )
        .await
    }

    /// Ends subscriptions to channels (UNSUBSCRIBE); without names, all of them. Messages that have arrived are
    /// still returned.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Channel,
            channels.to_redis_args(),
        )
        .await
    }

    /// Ends subscriptions to patterns (PUNSUBSCRIBE); without names, all of them. Messages that have arrived are
    /// still returned.
    ///
    /// # Errors
    ///
    /// As for [`subscribe`](Self::subscribe).
    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.change(
            SubscriptionChange::Unsubscribe,
            SubscriptionKind::Pattern,
            patterns.to_redis_args(),
        )
        .await
    }

    async fn change(
        &self,
        change: SubscriptionChange,
        kind: SubscriptionKind,
        names: Vec<Vec<u8>>,
    ) -> RedisResult<()> {
        let shared = self.shared.upgrade().ok_or_else(stream_dropped)?;
        let mut locked = LockedState {
            state: Some(shared.state.lock().await),
            events: &shared.events,
        };
        let Some(state) = &mut locked.state else {
            return Ok(());
        };
        match state.names.change(change, kind, names) {
            Some(names) => Ok(state.subscriber.change(change, kind, names).await?),
            None => Ok(()),
        }
    }
}

/// The lock of a change. Wakes the stream when it is released, even if the future of the change is dropped: while
/// the lock was held, the stream did not poll the tasks of the connections.
struct LockedState<'s> {
    state: Option<MutexGuard<'s, State>>,
    events: &'s EventChannel,
}

impl Drop for LockedState<'_> {
    fn drop(&mut self) {
        self.state = None;
        self.events.wake();
    }
}

impl Stream for PubSubStream {
    type Item = Msg;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Msg>> {
        let event = match self.shared.state.try_lock() {
            Ok(mut state) => state.subscriber.poll_event(cx),
            // A change is under way, and polls the tasks of the connections.
            Err(_) => self.shared.events.poll_receive(cx),
        };
        event.map(|event| into_msg(event).ok())
    }
}

/// The error of a sink without its stream, of the kind that redis-rs returns.
fn stream_dropped() -> RedisError {
    let text = "the stream of this pub/sub sink was dropped, which ended its subscriptions";
    io::Error::new(io::ErrorKind::BrokenPipe, text).into()
}

impl fmt::Debug for PubSubSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSubSink")
            .field("has_stream", &(self.shared.strong_count() > 0))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PubSubStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSubStream").finish_non_exhaustive()
    }
}
