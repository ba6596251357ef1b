//! [`Connection`]: redis-rs' blocking connection, which is a [`ShardedClient`].

use std::sync::mpsc::Sender;
use std::time::Duration;

use redis_rs::{
    Cmd, ConnectionLike, ControlFlow, FromRedisValue, Msg, PubSubCommands, PushInfo, PushKind,
    RedisError, RedisResult, ToRedisArgs, Value, cmd,
};
use redis_sharding::{Event, ShardedClient, Subscriber};

use crate::nodes::Nodes;

pub struct Connection {
    nodes: Nodes,
    client: ShardedClient,
    push_sender: Option<Sender<PushInfo>>,
}

impl Connection {
    pub(crate) fn open(nodes: Nodes) -> RedisResult<Self> {
        nodes.reach()?;
        let mut client = nodes.builder().build()?;
        cmd("PING").exec(&mut client)?;
        Ok(Self {
            nodes,
            client,
            push_sender: None,
        })
    }

    pub(crate) fn client(&mut self) -> &mut ShardedClient {
        &mut self.client
    }

    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> RedisResult<()> {
        self.nodes.response_timeout = Some(timeout);
        self.client = self.nodes.builder().build()?;
        Ok(())
    }

    pub fn set_push_sender(&mut self, sender: Sender<PushInfo>) {
        self.push_sender = Some(sender);
    }

    pub fn as_pubsub(&mut self) -> PubSub<'_> {
        PubSub {
            subscriber: self.client.subscriber(),
            connection: self,
        }
    }

    pub fn subscribe_resp3(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        cmd("SUBSCRIBE").arg(channels).exec(&mut self.client)
    }

    pub fn psubscribe_resp3(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        cmd("PSUBSCRIBE").arg(patterns).exec(&mut self.client)
    }

    pub fn unsubscribe_resp3(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        cmd("UNSUBSCRIBE").arg(channels).exec(&mut self.client)
    }

    pub fn punsubscribe_resp3(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        cmd("PUNSUBSCRIBE").arg(patterns).exec(&mut self.client)
    }
}

impl ConnectionLike for Connection {
    fn req_command(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.client.req_command(command)
    }

    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        self.client.req_packed_command(command)
    }

    fn req_packed_commands(
        &mut self,
        commands: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        self.client.req_packed_commands(commands, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.client.get_db()
    }

    fn supports_pipelining(&self) -> bool {
        self.client.supports_pipelining()
    }

    fn check_connection(&mut self) -> bool {
        self.client.check_connection()
    }

    fn is_open(&self) -> bool {
        self.client.is_open()
    }
}

impl PubSubCommands for Connection {
    fn subscribe<C, F, U>(&mut self, channels: C, handle: F) -> RedisResult<U>
    where
        F: FnMut(Msg) -> ControlFlow<U>,
        C: ToRedisArgs,
    {
        let mut pubsub = self.as_pubsub();
        pubsub.subscribe(channels)?;
        pubsub.run(handle)
    }

    fn psubscribe<P, F, U>(&mut self, patterns: P, handle: F) -> RedisResult<U>
    where
        F: FnMut(Msg) -> ControlFlow<U>,
        P: ToRedisArgs,
    {
        let mut pubsub = self.as_pubsub();
        pubsub.psubscribe(patterns)?;
        pubsub.run(handle)
    }
}

/// redis-rs' `PubSub`, which is a [`Subscriber`].
pub struct PubSub<'a> {
    subscriber: Subscriber,
    connection: &'a mut Connection,
}

impl PubSub<'_> {
    pub fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        Ok(self.subscriber.subscribe(channels)?)
    }

    pub fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        Ok(self.subscriber.psubscribe(patterns)?)
    }

    pub fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        Ok(self.subscriber.unsubscribe(channels)?)
    }

    pub fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        Ok(self.subscriber.punsubscribe(patterns)?)
    }

    pub fn ping<T: FromRedisValue>(&mut self) -> RedisResult<T> {
        self.ping_message("")
    }

    pub fn ping_message<T: FromRedisValue>(&mut self, text: &str) -> RedisResult<T> {
        cmd("PING").exec(&mut self.connection.client)?;
        Ok(T::from_redis_value(pong(&self.connection.nodes, text))?)
    }

    pub fn get_message(&mut self) -> RedisResult<Msg> {
        let timeout = self.connection.nodes.response_timeout.flatten();
        loop {
            match self.subscriber.next_event(timeout) {
                Some(Event::Message(message)) => return Ok(msg(message)),
                Some(_) => {}
                None => {
                    return Err(RedisError::from(std::io::Error::from(
                        std::io::ErrorKind::WouldBlock,
                    )));
                }
            }
        }
    }

    fn run<U>(&mut self, mut handle: impl FnMut(Msg) -> ControlFlow<U>) -> RedisResult<U> {
        loop {
            if let ControlFlow::Break(value) = handle(self.get_message()?) {
                return Ok(value);
            }
        }
    }
}

/// A message as redis-rs has it.
pub(crate) fn msg(message: redis_sharding::Message) -> Msg {
    let (kind, pattern) = match message.pattern {
        Some(pattern) => (PushKind::PMessage, Some(pattern)),
        None => (PushKind::Message, None),
    };
    let words = pattern
        .into_iter()
        .chain([message.channel, message.payload]);
    let data = words.map(Value::BulkString).collect();
    Msg::from_push_info(PushInfo { kind, data }).expect("it is a message")
}

/// What a server answers to PING on a connection with subscriptions.
pub(crate) fn pong(nodes: &Nodes, text: &str) -> Value {
    if nodes.first().redis_settings().protocol().supports_resp3() {
        let text = if text.is_empty() { "PONG" } else { text };
        Value::SimpleString(text.to_owned())
    } else {
        Value::Array(vec![
            Value::BulkString(b"pong".to_vec()),
            Value::BulkString(text.into()),
        ])
    }
}
