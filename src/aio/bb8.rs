//! `ShardedClient` as a `bb8` connection manager, for crates that require a pool.
//!
//! No pool is needed: the tasks that use a client share one connection to each node. A `bb8` pool lends clones of one
//! client, which share everything.

use redis::RedisError;

use crate::aio::ShardedClient;

/// The connections of the pool are clones of this client. Making and checking one sends nothing, and a clone counts
/// as broken only while it watches keys: a client replaces its own connections, and while a node is down, the others
/// can be used.
///
/// ```
/// # use redis_sharding::{ShardedClient, redis::AsyncCommands, testing::TestNode};
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let servers = TestNode::start_many(2)?;
/// # let builder = ShardedClient::builder().node("a", servers[0].url()).node("b", servers[1].url());
/// let pool = bb8::Pool::builder().build(builder.build_async()?).await?;
/// let mut client = pool.get().await?;
/// let () = client.set("user:1", "Ada").await?;
/// # Ok(()) }
/// ```
impl bb8::ManageConnection for ShardedClient {
    type Connection = Self;
    type Error = RedisError;

    async fn connect(&self) -> Result<Self, RedisError> {
        Ok(self.clone())
    }

    /// Always `Ok`: a request to the nodes would make every checkout wait for the slowest of them, and refuse
    /// all keys for the sake of those of one node.
    async fn is_valid(&self, _: &mut Self) -> Result<(), RedisError> {
        Ok(())
    }

    /// True for a clone that still watches keys. Otherwise a clone has no connection of its own that could
    /// break.
    fn has_broken(&self, connection: &mut Self) -> bool {
        connection.is_watching()
    }
}
