//! [`Connection`]: redis-rs' blocking connection, which is a [`ShardedClient`].

use std::sync::mpsc::Sender;
use std::time::Duration;

use redis_rs::{
    Cmd, ConnectionLike, ControlFlow, FromRedisValue, Msg, PubSubCommands, PushInfo, RedisResult,
    ToRedisArgs, Value, cmd,
};
use redis_sharding::ShardedClient;

use crate::nodes::Nodes;

pub struct Connection {
    nodes: Nodes,
    client: ShardedClient,
}

impl Connection {
    pub(crate) fn open(nodes: Nodes) -> RedisResult<Self> {
        nodes.reach()?;
        let client = nodes.builder().build()?.get_connection()?;
        Ok(Self { nodes, client })
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
        self.nodes
            .set_push_sender(move |push| drop(sender.send(push)));
        self.client = self.nodes.builder().build().expect("it was built before");
    }

    pub fn as_pubsub(&mut self) -> PubSub<'_> {
        let mut pubsub = self.client.as_pubsub();
        let timeout = self.nodes.response_timeout.flatten();
        pubsub
            .set_read_timeout(timeout)
            .expect("a timeout is not zero");
        PubSub {
            pubsub,
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
        self.client.subscribe(channels, handle)
    }

    fn psubscribe<P, F, U>(&mut self, patterns: P, handle: F) -> RedisResult<U>
    where
        F: FnMut(Msg) -> ControlFlow<U>,
        P: ToRedisArgs,
    {
        self.client.psubscribe(patterns, handle)
    }
}

/// redis-rs' `PubSub`, which is the client's, with a PING.
pub struct PubSub<'a> {
    pubsub: redis_sharding::PubSub,
    connection: &'a mut Connection,
}

impl PubSub<'_> {
    pub fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.pubsub.subscribe(channels)
    }

    pub fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.pubsub.psubscribe(patterns)
    }

    pub fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        self.pubsub.unsubscribe(channels)
    }

    pub fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
        self.pubsub.punsubscribe(patterns)
    }

    pub fn ping<T: FromRedisValue>(&mut self) -> RedisResult<T> {
        self.ping_message("")
    }

    pub fn ping_message<T: FromRedisValue>(&mut self, text: &str) -> RedisResult<T> {
        self.pubsub.unsubscribe(NO_CHANNEL)?;
        Ok(T::from_redis_value(pong(&self.connection.nodes, text))?)
    }

    pub fn get_message(&mut self) -> RedisResult<Msg> {
        self.pubsub.get_message()
    }
}

/// A channel that nothing subscribes to. The end of its subscription is a round trip, as PING.
pub(crate) const NO_CHANNEL: &str = "redis-rs-suite: no channel";

/// What a server answers to PING on a connection with subscriptions.
pub(crate) fn pong(nodes: &Nodes, text: &str) -> Value {
    if nodes.is_resp3() {
        let text = if text.is_empty() { "PONG" } else { text };
        Value::SimpleString(text.to_owned())
    } else {
        Value::Array(vec![
            Value::BulkString(b"pong".to_vec()),
            Value::BulkString(text.into()),
        ])
    }
}
