//! [`Client`]: redis-rs' client, whose connections are clients of redis-sharding.

use std::time::Duration;

use redis_rs::{ConnectionInfo, IntoConnectionInfo, RedisError, RedisResult};

use crate::aio::{
    AsyncConnectionConfig, ConnectionManager, ConnectionManagerConfig, Monitor,
    MultiplexedConnection, PubSub,
};
use crate::nodes::Nodes;
use crate::sync::Connection;

#[derive(Clone)]
pub struct Client {
    nodes: Nodes,
}

impl Client {
    pub fn open(info: impl IntoConnectionInfo) -> RedisResult<Self> {
        // The runner tells cases that need no server from those that do.
        eprintln!("redis-rs-suite: a client is opened");
        Ok(Self {
            nodes: Nodes::new(info.into_connection_info()?),
        })
    }

    pub fn get_connection_info(&self) -> &ConnectionInfo {
        self.nodes.first()
    }

    pub fn get_connection(&self) -> RedisResult<Connection> {
        Connection::open(self.nodes.for_connection())
    }

    pub fn get_connection_with_timeout(&self, timeout: Duration) -> RedisResult<Connection> {
        let mut nodes = self.nodes.for_connection();
        nodes.connect_timeout = Some(timeout);
        nodes.response_timeout = Some(Some(timeout));
        Connection::open(nodes)
    }

    pub async fn get_multiplexed_async_connection(&self) -> RedisResult<MultiplexedConnection> {
        self.get_multiplexed_async_connection_with_config(&AsyncConnectionConfig::new())
            .await
    }

    pub async fn get_multiplexed_async_connection_with_config(
        &self,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        MultiplexedConnection::open(self.nodes.for_connection(), config).await
    }

    pub async fn get_connection_manager(&self) -> RedisResult<ConnectionManager> {
        self.get_connection_manager_with_config(ConnectionManagerConfig::new())
            .await
    }

    pub async fn get_connection_manager_with_config(
        &self,
        config: ConnectionManagerConfig,
    ) -> RedisResult<ConnectionManager> {
        ConnectionManager::new_with_config(self.clone(), config).await
    }

    pub fn get_connection_manager_lazy(
        &self,
        config: ConnectionManagerConfig,
    ) -> RedisResult<ConnectionManager> {
        ConnectionManager::lazy(self.nodes.for_connection(), &config)
    }

    pub async fn get_async_pubsub(&self) -> RedisResult<PubSub> {
        PubSub::open(&self.nodes).await
    }

    pub async fn get_async_monitor(&self) -> RedisResult<Monitor> {
        Monitor::open(&self.nodes).await
    }

    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }
}

impl r2d2::ManageConnection for Client {
    type Connection = Connection;
    type Error = RedisError;

    fn connect(&self) -> RedisResult<Connection> {
        self.get_connection()
    }

    fn is_valid(&self, connection: &mut Connection) -> RedisResult<()> {
        let client = connection.client();
        r2d2::ManageConnection::is_valid(&client.clone(), client)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        let client = connection.client();
        r2d2::ManageConnection::has_broken(&client.clone(), client)
    }
}
