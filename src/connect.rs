//! The methods of `redis::Client` on both clients: a program that was written for redis-rs changes
//! `redis::Client::open(url)` to `ShardedClient::open([url, ...])`, and keeps its calls to `get_connection` and
//! `get_multiplexed_async_connection`.
//!
//! A client is its own connection, so these methods return clones, once a node has replied to an ECHO. The
//! blocking client also returns the client on tokio of the same description, which `sync` and `aio` cannot do, as
//! neither knows the other.
//!
//! Nothing here decides where the ECHO goes or whether it is sent again: it is a request like any other.

use std::time::Duration;

use redis::{RedisResult, Value};

use crate::error::{Error, ErrorKind};
use crate::sync::ShardedClient;

#[cfg(feature = "tokio-comp")]
use crate::{aio, endpoint::tls::Runtime};

impl ShardedClient {
    /// Returns a clone of this client, once a node has replied. The client is the connection, and shares its pools
    /// with all clones.
    ///
    /// One ECHO is sent to a node chosen at random, and to the next node if that one cannot be reached. It fails if
    /// there is nothing to connect to, as in redis-rs, and does not fail because one of several nodes is down.
    /// Each call costs one round trip; cloning the client costs nothing.
    ///
    /// ```
    /// use redis_sharding::ShardedClient; // instead of redis::Client
    /// use redis_sharding::redis::{Commands, RedisResult};
    /// # use redis_sharding::testing::TestNode;
    ///
    /// # fn main() -> RedisResult<()> {
    /// # let servers = TestNode::start_many(2)?;
    /// # let (url, other_url) = (servers[0].url(), servers[1].url());
    /// let client = ShardedClient::open([url, other_url])?; // instead of redis::Client::open(url)
    /// let mut connection = client.get_connection()?;
    /// let () = connection.set("user:1", "Ada")?;
    /// # servers[0].stop();
    /// # client.get_connection()?;
    /// # servers[1].stop();
    /// # client.get_connection().unwrap_err();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If no node can be reached within the response timeout, or none accepts the username and password.
    pub fn get_connection(&self) -> RedisResult<Self> {
        answered(self.shared().ready()?.request(&echo().get_packed_command()))?;
        Ok(self.clone())
    }

    /// Returns a clone of this client, as [`get_connection`](Self::get_connection) does, once a node has replied
    /// within `timeout`. Later requests have the timeouts of this handle.
    ///
    /// # Errors
    ///
    /// If no node can be reached within `timeout`, or none accepts the username and password.
    pub fn get_connection_with_timeout(&self, timeout: Duration) -> RedisResult<Self> {
        self.with_timeout(timeout).get_connection()?;
        Ok(self.clone())
    }
}

/// The client on tokio of the same description.
#[cfg(feature = "tokio-comp")]
impl ShardedClient {
    /// Returns the client on tokio of the same description, once a node has replied. The first call makes it;
    /// further calls return clones, which share its connections. It shares none with the blocking client.
    ///
    /// `redis::AsyncConnectionConfig` cannot be read by other crates, so the method `.._with_config` is missing:
    /// timeouts and the like are set on the [`Builder`](crate::Builder).
    ///
    /// # Errors
    ///
    /// If no node can be reached within the response timeout, or none accepts the username and password; and if the
    /// nodes need TLS, and its feature for tokio is not enabled.
    pub async fn get_multiplexed_async_connection(&self) -> RedisResult<aio::ShardedClient> {
        self.async_client()?
            .get_multiplexed_async_connection()
            .await
    }

    /// Returns the client on tokio, as
    /// [`get_multiplexed_async_connection`](Self::get_multiplexed_async_connection) does: it reconnects by itself,
    /// like redis-rs' connection manager.
    ///
    /// # Errors
    ///
    /// As for [`get_multiplexed_async_connection`](Self::get_multiplexed_async_connection).
    pub async fn get_connection_manager(&self) -> RedisResult<aio::ShardedClient> {
        self.get_multiplexed_async_connection().await
    }

    /// Returns subscriptions on all nodes, for tokio, once a node has replied.
    ///
    /// # Errors
    ///
    /// As for [`get_multiplexed_async_connection`](Self::get_multiplexed_async_connection).
    pub async fn get_async_pubsub(&self) -> RedisResult<aio::PubSub> {
        self.async_client()?.get_async_pubsub().await
    }

    /// The client on tokio of this client, made by the first call.
    fn async_client(&self) -> Result<aio::ShardedClient, Error> {
        let shared = self.shared().load();
        let client = &shared.async_client;
        let config = client.publisher().config();
        let nodes = config.router.topology().nodes();
        for (node, endpoint) in nodes.iter().zip(&config.endpoints) {
            if let Some(tls) = &endpoint.tls {
                let name = node.name();
                let refused = |why| Error::config(format!("node {name:?}: {why}")).at_node(name);
                tls.backend().check(Runtime::Tokio).map_err(refused)?;
            }
        }
        Ok(client.made_by(aio::ShardedClient::from_publisher))
    }
}

#[cfg(feature = "tokio-comp")]
impl aio::ShardedClient {
    /// Returns a clone of this client, once a node has replied. The client is the connection, and shares its
    /// connections to the nodes with all clones.
    ///
    /// One ECHO is sent to a node chosen at random, and to the next node if that one cannot be reached. It fails if
    /// there is nothing to connect to, as in redis-rs, and does not fail because one of several nodes is down.
    /// Each call costs one round trip; cloning the client costs nothing.
    ///
    /// # Errors
    ///
    /// If no node can be reached within the response timeout, or none accepts the username and password.
    pub async fn get_multiplexed_async_connection(&self) -> RedisResult<Self> {
        answered(self.shared().ready_async().await?.request(&echo()).await)?;
        Ok(self.clone())
    }

    /// Returns a clone of this client, as
    /// [`get_multiplexed_async_connection`](Self::get_multiplexed_async_connection) does: it reconnects by itself,
    /// like redis-rs' connection manager.
    ///
    /// # Errors
    ///
    /// As for [`get_multiplexed_async_connection`](Self::get_multiplexed_async_connection).
    pub async fn get_connection_manager(&self) -> RedisResult<Self> {
        self.get_multiplexed_async_connection().await
    }

    /// Returns subscriptions on all nodes, once a node has replied.
    ///
    /// [`subscriber`](Self::subscriber) contacts nothing, reports lost connections as events, and has shard
    /// channels as well.
    ///
    /// # Errors
    ///
    /// As for [`get_multiplexed_async_connection`](Self::get_multiplexed_async_connection).
    pub async fn get_async_pubsub(&self) -> RedisResult<aio::PubSub> {
        let client = self.get_multiplexed_async_connection().await?;
        Ok(aio::PubSub::new(&client))
    }
}

/// A command that any node answers.
fn echo() -> redis::Cmd {
    redis::cmd("ECHO").arg("redis-sharding").take()
}

/// Succeeds if a node has replied, even with an error. A refused password fails: then there is no connection.
fn answered(reply: Result<Value, Error>) -> Result<(), Error> {
    match reply {
        Err(error) if error.kind() != ErrorKind::Redis => Err(error),
        _ => Ok(()),
    }
}
