//! [`PubSub`], which is a [`Subscriber`] with a task of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use redis_rs::{FromRedisValue, Msg, RedisError, RedisResult, ToRedisArgs, cmd};
use redis_sharding::Event;
use redis_sharding::aio::Subscriber;
use tokio::sync::{mpsc, oneshot};

use crate::nodes::Nodes;
use crate::sync::{msg, pong};

pub struct PubSub {
    sink: PubSubSink,
    stream: PubSubStream,
}

#[derive(Clone)]
pub struct PubSubSink {
    nodes: Nodes,
    requests: mpsc::UnboundedSender<Request>,
}

pub struct PubSubStream {
    messages: mpsc::UnboundedReceiver<Msg>,
}

/// A change of subscriptions, or nothing at all.
struct Request {
    change: &'static str,
    names: Vec<Vec<u8>>,
    reply: oneshot::Sender<RedisResult<()>>,
}

impl PubSub {
    pub(crate) async fn open(nodes: &Nodes) -> RedisResult<Self> {
        let mut client = nodes.builder().build_async()?;
        cmd("PING").exec_async(&mut client).await?;
        let (requests, received) = mpsc::unbounded_channel();
        let (sender, messages) = mpsc::unbounded_channel();
        tokio::spawn(run(client.subscriber(), received, sender));
        let nodes = nodes.clone();
        Ok(Self {
            sink: PubSubSink { nodes, requests },
            stream: PubSubStream { messages },
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
        self.request("SUBSCRIBE", channels.to_redis_args()).await
    }

    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.request("UNSUBSCRIBE", channels.to_redis_args()).await
    }

    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.request("PSUBSCRIBE", patterns.to_redis_args()).await
    }

    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.request("PUNSUBSCRIBE", patterns.to_redis_args()).await
    }

    pub async fn ping<T: FromRedisValue>(&mut self) -> RedisResult<T> {
        self.ping_message("").await
    }

    pub async fn ping_message<T: FromRedisValue>(&mut self, text: &str) -> RedisResult<T> {
        self.request("PING", Vec::new()).await?;
        Ok(T::from_redis_value(pong(&self.nodes, text))?)
    }

    async fn request(&mut self, change: &'static str, names: Vec<Vec<u8>>) -> RedisResult<()> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            change,
            names,
            reply,
        };
        self.requests.send(request).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl Stream for PubSubStream {
    type Item = Msg;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Msg>> {
        self.messages.poll_recv(context)
    }
}

/// Ends with the stream: without a reader there is nothing to subscribe for.
async fn run(
    mut subscriber: Subscriber,
    mut requests: mpsc::UnboundedReceiver<Request>,
    messages: mpsc::UnboundedSender<Msg>,
) {
    loop {
        tokio::select! {
            () = messages.closed() => return,
            Some(request) = requests.recv() => {
                let names = request.names;
                let result = match request.change {
                    "SUBSCRIBE" => subscriber.subscribe(names).await,
                    "UNSUBSCRIBE" => subscriber.unsubscribe(names).await,
                    "PSUBSCRIBE" => subscriber.psubscribe(names).await,
                    "PUNSUBSCRIBE" => subscriber.punsubscribe(names).await,
                    _ => Ok(()),
                };
                let _ = request.reply.send(result.map_err(RedisError::from));
            }
            event = subscriber.next_event(None) => match event {
                Some(Event::Message(message)) => {
                    let _ = messages.send(msg(message));
                }
                Some(_) => {}
                None => return,
            }
        }
    }
}

fn ended() -> RedisError {
    RedisError::from(io::Error::from(io::ErrorKind::BrokenPipe))
}
