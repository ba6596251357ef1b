//! Optimistic transactions.

use redis::{Pipeline, RedisResult, ToRedisArgs, Value};

use crate::plan::{TRANSACTION_ATTEMPTS_MAX, attempts_exhausted};
use crate::sync::Dedicated;

/// Watches `keys`, calls `attempt`, and again as long as it returns `None`.
pub(super) fn run<T>(
    mut connection: Dedicated,
    keys: &impl ToRedisArgs,
    mut attempt: impl FnMut(&mut Dedicated, &mut Pipeline) -> RedisResult<Option<T>>,
) -> RedisResult<T> {
    for _ in 0..TRANSACTION_ATTEMPTS_MAX {
        redis::cmd("WATCH").arg(keys).exec(&mut connection)?;
        let mut pipeline = redis::pipe();
        if let Some(done) = attempt(&mut connection, pipeline.atomic())? {
            // No watch is left on the connection, even if the pipeline was not used. What was done stays done, so anything
            // but OK (QUEUED, when a MULTI was left open) is not the caller's concern: the connection is closed instead
            // of being used again.
            if redis::cmd("UNWATCH").query(&mut connection) == Ok(Value::Okay) {
                connection.finish();
            }
            return Ok(done);
        }
    }
    let keys = keys.to_redis_args();
    let keys = keys.iter().map(Vec::as_slice);
    Err(attempts_exhausted(connection.node_name(), keys).into())
}
