//! `ShardedClient` as an `r2d2` connection manager, for frameworks that insist on a pool. The client has
//! pools of its own, one per node, so a small `r2d2` pool is enough.

use redis::{ConnectionLike, RedisError};

use crate::sync::ShardedClient;

impl r2d2::ManageConnection for ShardedClient {
    type Connection = Self;
    type Error = RedisError;

    fn connect(&self) -> Result<Self, RedisError> {
        Ok(self.clone())
    }

    fn is_valid(&self, connection: &mut Self) -> Result<(), RedisError> {
        redis::cmd("PING").exec(connection)
    }

    /// True for a clone that still watches keys. Otherwise a clone has no connection of its own that could
    /// break.
    fn has_broken(&self, connection: &mut Self) -> bool {
        !connection.is_open() || connection.is_watching()
    }
}
