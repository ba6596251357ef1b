//! [`MultiplexedConnection`] and [`ConnectionManager`]: both are the same client.

use std::time::Duration;

use redis_rs::aio::ConnectionLike;
use redis_rs::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ToRedisArgs, Value, cmd,
};
use redis_sharding::aio::ShardedClient;

use crate::aio::{AsyncConnectionConfig, ConnectionManagerConfig};
use crate::client::Client;
use crate::nodes::Nodes;

/// Declares a connection that is a client.
macro_rules! connection {
    ($name:ident, $config:ident) => {
        #[derive(Clone)]
        pub struct $name {
            nodes: Nodes,
            client: ShardedClient,
        }

        impl $name {
            pub(crate) fn lazy(mut nodes: Nodes, config: &$config) -> RedisResult<Self> {
                config.apply(&mut nodes);
                let client = nodes.builder().build_async()?;
                Ok(Self { nodes, client })
            }

            pub(crate) async fn open(nodes: Nodes, config: &$config) -> RedisResult<Self> {
                let connection = Self::lazy(nodes, config)?;
                connection.client.get_multiplexed_async_connection().await?;
                Ok(connection)
            }

            pub fn set_response_timeout(&mut self, timeout: Duration) {
                self.nodes.response_timeout = Some(Some(timeout));
                self.client = self
                    .nodes
                    .builder()
                    .build_async()
                    .expect("it was built before");
            }

            pub async fn send_packed_command(&mut self, command: &Cmd) -> RedisResult<Value> {
                self.client.req_packed_command(command).await
            }

            pub async fn send_packed_commands(
                &mut self,
                pipeline: &Pipeline,
                offset: usize,
                count: usize,
            ) -> RedisResult<Vec<Value>> {
                self.client
                    .req_packed_commands(pipeline, offset, count)
                    .await
            }

            pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
                self.change("SUBSCRIBE", channels).await
            }

            pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
                self.change("UNSUBSCRIBE", channels).await
            }

            pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
                self.change("PSUBSCRIBE", patterns).await
            }

            pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> RedisResult<()> {
                self.change("PUNSUBSCRIBE", patterns).await
            }

            async fn change(&mut self, command: &str, names: impl ToRedisArgs) -> RedisResult<()> {
                if !self.nodes.is_resp3() {
                    return Err(RedisError::from((
                        ErrorKind::InvalidClientConfig,
                        "RESP3 is required",
                    )));
                }
                cmd(command).arg(names).exec_async(&mut self.client).await
            }
        }

        impl ConnectionLike for $name {
            fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
                self.client.req_packed_command(command)
            }

            fn req_packed_commands<'a>(
                &'a mut self,
                pipeline: &'a Pipeline,
                offset: usize,
                count: usize,
            ) -> RedisFuture<'a, Vec<Value>> {
                self.client.req_packed_commands(pipeline, offset, count)
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
        Self::open(client.nodes().clone(), &config).await
    }
}
