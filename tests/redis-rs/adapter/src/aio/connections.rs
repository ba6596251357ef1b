//! [`MultiplexedConnection`] and [`ConnectionManager`]: both are the same client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis_rs::aio::ConnectionLike;
use redis_rs::{
    Cmd, ErrorKind, Pipeline, PushKind, RedisError, RedisFuture, RedisResult, ToRedisArgs, Value,
    cmd,
};
use redis_sharding::aio::{Dedicated, Node, ShardedClient};
use tokio::sync::Mutex;

use crate::aio::subscriptions::Subscriptions;
use crate::aio::{AsyncConnectionConfig, ConnectionManagerConfig};
use crate::client::Client;
use crate::nodes::{FIRST, Nodes};
use crate::recipient::{self, Recipient};

/// Declares a connection that is a client.
macro_rules! connection {
    ($name:ident, $config:ident) => {
        #[derive(Clone)]
        pub struct $name {
            nodes: Nodes,
            client: ShardedClient,
            /// After CLIENT TRACKING: a dedicated connection per node, by the node's name.
            tracked: Arc<Mutex<BTreeMap<String, Dedicated>>>,
            subscriptions: Arc<Mutex<Option<Subscriptions>>>,
        }

        impl $name {
            pub(crate) fn lazy(mut nodes: Nodes, config: &$config) -> RedisResult<Self> {
                config.apply(&mut nodes);
                let client = nodes.builder().build_async()?;
                Ok(Self {
                    nodes,
                    client,
                    tracked: Arc::default(),
                    subscriptions: Arc::default(),
                })
            }

            pub(crate) async fn open(nodes: Nodes, config: &$config) -> RedisResult<Self> {
                let connection = Self::lazy(nodes, config)?;
                connection.client.get_multiplexed_async_connection().await?;
                match cmd("PING").exec_async(&mut connection.client.clone()).await {
                    Err(error) if error.is_io_error() => Err(error),
                    // The user may not be allowed to: that is an answer.
                    _ => Ok(connection),
                }
            }

            pub fn set_response_timeout(&mut self, timeout: Duration) {
                self.nodes.response_timeout = Some(Some(timeout));
                self.client = self.client.with_timeout(timeout);
                self.client = self.client.with_blocking_timeout(timeout);
            }

            pub async fn send_packed_command(&mut self, command: &Cmd) -> RedisResult<Value> {
                self.req_packed_command(command).await
            }

            pub async fn send_packed_commands(
                &mut self,
                pipeline: &Pipeline,
                offset: usize,
                count: usize,
            ) -> RedisResult<Vec<Value>> {
                self.req_packed_commands(pipeline, offset, count).await
            }

            pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
                self.change(PushKind::Subscribe, channels).await
            }

            pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
                self.change(PushKind::Unsubscribe, channels).await
            }

            pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
                self.change(PushKind::PSubscribe, patterns).await
            }

            pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
                self.change(PushKind::PUnsubscribe, patterns).await
            }

            async fn change(&mut self, kind: PushKind, names: impl ToRedisArgs) -> RedisResult<()> {
                if !self.nodes.is_resp3() {
                    return Err(RedisError::from((
                        ErrorKind::InvalidClientConfig,
                        "RESP3 is required",
                    )));
                }
                let mut subscriptions = self.subscriptions.lock().await;
                if subscriptions.is_none() {
                    let pushes = self.nodes.pushes.clone();
                    *subscriptions = Some(Subscriptions::open(&self.client, pushes).await?);
                }
                let subscriptions = subscriptions.as_mut().expect("they are open");
                subscriptions.change(kind, names.to_redis_args()).await
            }

            fn first(&self) -> Node {
                self.client.node(FIRST).expect("there is a first node")
            }

            async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
                let mut reply = Value::Nil;
                match recipient::of(command) {
                    Recipient::Client => return self.send_tracked(command).await,
                    Recipient::First => reply = self.first().req_packed_command(command).await?,
                    Recipient::FirstConnection => {
                        let mut connection = self.first().dedicated().await?;
                        reply = connection.req_packed_command(command).await?;
                    }
                    Recipient::Every => {
                        for mut node in self.client.nodes() {
                            reply = node.req_packed_command(command).await?;
                        }
                    }
                    Recipient::Tracking => {
                        let mut tracked = self.tracked.lock().await;
                        for node in self.client.nodes() {
                            let mut connection = node.dedicated().await?;
                            reply = connection.req_packed_command(command).await?;
                            tracked.insert(node.name().to_owned(), connection);
                        }
                    }
                }
                Ok(reply)
            }

            /// Sends a command over the client or, after CLIENT TRACKING, over the dedicated connection.
            async fn send_tracked(&mut self, command: &Cmd) -> RedisResult<Value> {
                let mut tracked = self.tracked.lock().await;
                if !tracked.is_empty()
                    && let [(node, _)] = self.client.explain(command)?.parts()[..]
                    && let Some(connection) = tracked.get_mut(node)
                {
                    return connection.req_packed_command(command).await;
                }
                drop(tracked);
                self.client.req_packed_command(command).await
            }
        }

        impl ConnectionLike for $name {
            fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
                Box::pin(self.send(command))
            }

            fn req_packed_commands<'a>(
                &'a mut self,
                pipeline: &'a Pipeline,
                offset: usize,
                count: usize,
            ) -> RedisFuture<'a, Vec<Value>> {
                Box::pin(async move {
                    let is_tracked = !self.tracked.lock().await.is_empty();
                    let mut own = pipeline.cmd_iter().map(recipient::of);
                    let is_own = is_tracked || own.any(|to| to != Recipient::Client);
                    if pipeline.is_transaction() || !is_own {
                        let client = &mut self.client;
                        return client.req_packed_commands(pipeline, offset, count).await;
                    }
                    let mut replies = Vec::new();
                    for command in pipeline.cmd_iter() {
                        replies.push(self.send(command).await?);
                    }
                    Ok(replies)
                })
            }

            fn get_db(&self) -> i64 {
                self.client.get_db()
            }
        }
    };
}

connection!(MultiplexedConnection, AsyncConnectionConfig);
connection!(ConnectionManager, ConnectionManagerConfig);

impl ConnectionManager {
    pub async fn new(client: Client) -> RedisResult<Self> {
        Self::new_with_config(client, ConnectionManagerConfig::new()).await
    }

    pub async fn new_with_config(
        client: Client,
        config: ConnectionManagerConfig,
    ) -> RedisResult<Self> {
        Self::open(client.nodes().for_connection(), &config).await
    }
}
