//! [`PubSub`]: the client's, with a PING.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use redis_rs::{FromRedisValue, Msg, RedisResult, ToRedisArgs};
use redis_sharding::aio;

use crate::nodes::Nodes;
use crate::sync::{NO_CHANNEL, pong};

pub struct PubSub {
    sink: PubSubSink,
    stream: PubSubStream,
}

#[derive(Clone)]
pub struct PubSubSink {
    nodes: Nodes,
    sink: aio::PubSubSink,
}

pub struct PubSubStream(aio::PubSubStream);

impl PubSub {
    pub(crate) async fn open(nodes: &Nodes) -> RedisResult<Self> {
        let client = nodes.builder().build_async()?;
        let (sink, stream) = client.get_async_pubsub().await?.split();
        let nodes = nodes.clone();
        Ok(Self {
            sink: PubSubSink { nodes, sink },
            stream: PubSubStream(stream),
        })
    }

    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.subscribe(channels).await
    }

    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.unsubscribe(channels).await
    }

    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.psubscribe(patterns).await
    }

    pub async fn ping<T: FromRedisValue>(&mut self) -> RedisResult<T> {
        self.sink.ping().await
    }

    pub fn on_message(&mut self) -> impl Stream<Item = Msg> + '_ {
        &mut self.stream
    }

    pub fn into_on_message(self) -> PubSubStream {
        self.stream
    }

    pub fn split(self) -> (PubSubSink, PubSubStream) {
        (self.sink, self.stream)
    }
}

impl PubSubSink {
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.subscribe(channels).await
    }

    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.unsubscribe(channels).await
    }

    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.psubscribe(patterns).await
    }

    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.sink.punsubscribe(patterns).await
    }

    pub async fn ping<T: FromRedisValue>(&mut self) -> RedisResult<T> {
        self.ping_message("").await
    }

    pub async fn ping_message<T: FromRedisValue>(&mut self, text: &str) -> RedisResult<T> {
        self.sink.unsubscribe(NO_CHANNEL).await?;
        Ok(T::from_redis_value(pong(&self.nodes, text))?)
    }
}

impl Stream for PubSubStream {
    type Item = Msg;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Msg>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}
