//! [`Connection`]: redis-rs' blocking connection, which is a [`ShardedClient`].

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::time::Duration;

use redis_rs::{
    Cmd, ConnectionLike, ControlFlow, FromRedisValue, Msg, PubSubCommands, PushInfo, RedisResult,
    ToRedisArgs, Value, cmd,
};
use redis_sharding::{Dedicated, NodeHealth, NodeState, ShardedClient};

use crate::nodes::{FIRST, Nodes};
use crate::recipient::{self, Recipient};

pub struct Connection {
    nodes: Nodes,
    client: ShardedClient,
    /// After CLIENT TRACKING: a dedicated connection per node, by the node's name.
    tracked: BTreeMap<String, Dedicated>,
}

impl Connection {
    pub(crate) fn open(nodes: Nodes) -> RedisResult<Self> {
        nodes.reach()?;
        let client = nodes.builder().build()?.get_connection()?;
        Ok(Self {
            nodes,
            client,
            tracked: BTreeMap::new(),
        })
    }

    pub(crate) fn client(&mut self) -> &mut ShardedClient {
        &mut self.client
    }

    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> RedisResult<()> {
        self.nodes.response_timeout = Some(timeout);
        self.client = self.client.with_timeout(timeout);
        self.client = self.client.with_blocking_timeout(timeout);
        for connection in self.tracked.values_mut() {
            connection.set_timeout(timeout);
        }
        Ok(())
    }

    pub fn set_push_sender(&mut self, sender: Sender<PushInfo>) {
        self.nodes
            .pushes
            .set(move |_, push| drop(sender.send(push)));
    }

    /// The dedicated connection for a command after CLIENT TRACKING.
    fn tracked(&mut self, command: &Cmd) -> RedisResult<Option<&mut Dedicated>> {
        self.tracked.retain(|_, connection| connection.is_open());
        if self.tracked.is_empty() {
            return Ok(None);
        }
        let explanation = self.client.explain(command)?;
        let [(node, _)] = explanation.parts()[..] else {
            return Ok(None);
        };
        Ok(self.tracked.get_mut(node))
    }

    fn first(&self) -> redis_sharding::Node {
        self.client.node(FIRST).expect("there is a first node")
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
        let mut reply = Value::Nil;
        match recipient::of(command) {
            Recipient::Client => {
                return match self.tracked(command)? {
                    Some(connection) => connection.req_command(command),
                    None => self.client.req_command(command),
                };
            }
            Recipient::First => reply = self.first().req_command(command)?,
            Recipient::FirstConnection => reply = self.first().dedicated()?.req_command(command)?,
            Recipient::Every => {
                for mut node in self.client.nodes() {
                    reply = node.req_command(command)?;
                }
            }
            Recipient::Tracking => {
                for node in self.client.nodes() {
                    let mut connection = node.dedicated()?;
                    reply = connection.req_command(command)?;
                    self.tracked.insert(node.name().to_owned(), connection);
                }
            }
        }
        Ok(reply)
    }

    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        self.client.req_packed_command(command)
    }

    fn req_packed_commands(
        &mut self,
        packed: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let commands = recipient::split(packed);
        let is_tracked = !self.tracked.is_empty();
        let mut own = commands.iter().map(recipient::of);
        // An atomic pipeline has a reply to MULTI in front.
        if offset == 0 && (is_tracked || own.any(|recipient| recipient != Recipient::Client)) {
            return commands
                .iter()
                .map(|command| self.req_command(command))
                .collect();
        }
        self.client.req_packed_commands(packed, offset, count)
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
        let nodes = self.client.health().nodes;
        let is_down = |node: &NodeHealth| matches!(node.state, NodeState::Down { .. });
        !nodes.iter().all(is_down)
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
