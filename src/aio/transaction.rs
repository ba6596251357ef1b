//! Optimistic transactions: the loop of WATCH, the caller's MULTI ... EXEC, and UNWATCH.

use redis::{Pipeline, RedisResult, ToRedisArgs, Value};

use crate::aio::Dedicated;
use crate::plan::{TRANSACTION_ATTEMPTS_MAX, attempts_exhausted};

/// Watches `keys` and runs `attempt`, again as long as it returns `None`, at most
/// [`TRANSACTION_ATTEMPTS_MAX`] times.
///
/// Dropping the future drops the connection, which makes the server discard the watches and an open MULTI.
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
            // Clears the watches even if `attempt` did not run the pipeline. The caller's result stands
            // either way: on any reply but OK (QUEUED, when `attempt` left a MULTI open) the connection is
            // closed instead of being reused.
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
