//! `ShardedClient` as an `r2d2` connection manager, for crates that require a pool.
//!
//! No pool is needed: a client has a pool of its own for each node. An `r2d2` pool lends clones of one client, which
//! share everything.

use redis::RedisError;

use crate::sync::ShardedClient;

/// The connections of the pool are clones of this client. Making and checking one sends nothing, and a clone counts
/// as broken only while it watches keys: a client replaces its own connections, and while a node is down, the others
/// can be used.
impl r2d2::ManageConnection for ShardedClient {
    type Connection = Self;
    type Error = RedisError;

    fn connect(&self) -> Result<Self, RedisError> {
        Ok(self.clone())
    }

    /// Always `Ok`. A request to the nodes would make every checkout wait for the slowest of them, and refuse
    /// all keys for the sake of those of one node: pools call this before each checkout
    /// (`test_on_check_out`). [`check_connection`](redis::ConnectionLike::check_connection) asks the nodes.
    fn is_valid(&self, _: &mut Self) -> Result<(), RedisError> {
        Ok(())
    }

    /// True for a clone that still watches keys. Otherwise a clone has no connection of its own that could
    /// break.
    fn has_broken(&self, connection: &mut Self) -> bool {
        connection.is_watching()
    }
}
