//! Optimistic transactions.

use redis::{Pipeline, RedisResult, ToRedisArgs, Value};

use crate::aio::Dedicated;
use crate::plan::{TRANSACTION_ATTEMPTS_MAX, attempts_exhausted};

/// Watches `keys`, calls `attempt`, and again as long as it returns `None`.
pub(super) async fn run<T>(
    mut connection: Dedicated,
    keys: &impl ToRedisArgs,
    mut attempt: impl AsyncFnMut(&mut Dedicated, &mut Pipeline) -> RedisResult<Option<T>>,
) -> RedisResult<T> {
    let mut watch = redis::cmd("WATCH");
    watch.arg(keys);
    for _ in 0..TRANSACTION_ATTEMPTS_MAX {
        watch.exec_async(&mut connection).await?;
        let mut pipeline = redis::pipe();
        if let Some(done) = attempt(&mut connection, pipeline.atomic()).await? {
            // No watch is left on the connection, even if the pipeline was not used. What was done stays done, so anything
            // but OK (QUEUED, when a MULTI was left open) is not the caller's concern: the connection is closed instead
            // of being used again.
            if redis::cmd("UNWATCH").query_async(&mut connection).await == Ok(Value::Okay) {
                connection.finish();
            }
            return Ok(done);
        }
    }
    let keys = keys.to_redis_args();
    let keys = keys.iter().map(Vec::as_slice);
    Err(attempts_exhausted(connection.node_name(), keys).into())
}
