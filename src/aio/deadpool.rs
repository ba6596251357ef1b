//! `ShardedClient` as the manager of a `deadpool` pool, for crates that require a pool.
//!
//! No pool is needed: the tasks that use a client share one connection to each node. A `deadpool` pool lends clones of
//! one client, which share everything.

use deadpool::managed::{Metrics, RecycleError, RecycleResult};
use redis::RedisError;

use crate::aio::ShardedClient;

/// The objects of the pool are clones of this client. Making and recycling one sends nothing, and recycling fails
/// only for a clone that still watches keys: a client replaces its own connections, and while a node is down, the
/// others can be used.
///
/// ```
/// # use redis_sharding::{ShardedClient, redis::AsyncCommands, testing::TestNode};
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let servers = TestNode::start_many(2)?;
/// # let builder = ShardedClient::builder().node("a", servers[0].url()).node("b", servers[1].url());
/// let manager = builder.build_async()?;
/// let pool: deadpool::managed::Pool<_> = deadpool::managed::Pool::builder(manager).build()?;
/// let mut client = pool.get().await?;
/// let () = client.set("user:1", "Ada").await?;
/// # Ok(()) }
/// ```
impl deadpool::managed::Manager for ShardedClient {
    type Type = Self;
    type Error = RedisError;

    async fn create(&self) -> Result<Self, RedisError> {
        Ok(self.clone())
    }

    /// `Ok` unless the clone still watches keys. No node is asked: that would make every checkout wait for the
    /// slowest of them, and refuse all keys for the sake of those of one node.
    async fn recycle(&self, client: &mut Self, _: &Metrics) -> RecycleResult<RedisError> {
        match client.is_watching() {
            true => Err(RecycleError::message("it still watches keys")),
            false => Ok(()),
        }
    }
}
