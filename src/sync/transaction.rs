//! Optimistic transactions: the loop of WATCH, the caller's MULTI ... EXEC, and UNWATCH.

use redis::{Pipeline, RedisResult, ToRedisArgs, Value};

use crate::plan::{TRANSACTION_ATTEMPTS_MAX, attempts_exhausted, parse_one};
use crate::snapshot::SnapshotHandle;
use crate::sync::{Dedicated, Shared, watch};

/// Watches `keys` and runs `attempt`, again as long as it returns `None`, at most
/// [`TRANSACTION_ATTEMPTS_MAX`] times. In a cluster, `connection` is replaced by another one when its keys have moved.
///
/// Any error drops the connection, which makes the server discard the watches and an open MULTI.
pub(super) fn run<T>(
    handle: &SnapshotHandle<Shared>,
    mut connection: Dedicated,
    keys: &impl ToRedisArgs,
    mut attempt: impl FnMut(&mut Dedicated, &mut Pipeline) -> RedisResult<Option<T>>,
) -> RedisResult<T> {
    let mut watch = redis::cmd("WATCH");
    watch.arg(keys);
    let packed = watch.get_packed_command();
    let args = &parse_one(&packed)?;
    for _ in 0..TRANSACTION_ATTEMPTS_MAX {
        if !connection.state().has_moved() {
            match watch.exec(&mut connection) {
                Err(_) if connection.state().has_moved() => {}
                watched => watched?,
            }
        }
        if connection.state().has_moved() {
            let (next, reply) = watch::begin(handle, args, &packed)?;
            connection = next;
            reply.extract_error()?;
        }
        let mut pipeline = redis::pipe();
        let outcome = match attempt(&mut connection, pipeline.atomic()) {
            // The error of a read whose slot has moved.
            Err(_) if connection.state().may_try_again() => None,
            outcome => outcome?,
        };
        if let Some(done) = outcome {
            // Clears the watches even if `attempt` did not run the pipeline. The caller's result stands
            // either way: on any reply but OK (QUEUED, when `attempt` left a MULTI open) the connection is
            // closed instead of being reused.
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
