//! The client as an `r2d2` manager, for frameworks that want a pool in their hands. The client needs none: it has its own.

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

    /// Never: a clone has no connection of its own that could break.
    fn has_broken(&self, connection: &mut Self) -> bool {
        !connection.is_open()
    }
}
