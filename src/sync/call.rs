//! One request over a connection of a pool.

use redis::Value;

use crate::endpoint::Deadline;
use crate::plan::{Cause, ExpectedEnd, Failure};
use crate::policy::HandshakeScope;
use crate::sync::connection::Delivery;
use crate::sync::pool::{Checkout, Pool};

/// Sends one request, placed by the record of this epoch, over a connection of the pool and returns its reply.
pub(super) fn call(
    pool: &Pool,
    checkout: Checkout,
    scope: HandshakeScope,
    (request, epoch): (&[u8], u64),
    deadline: &Deadline,
) -> Result<Value, Failure> {
    if deadline.is_zero() {
        return Err(Failure::not_sent(Cause::no_time_left()));
    }
    let mut lease = pool
        .lease(checkout, scope, deadline)
        .map_err(Failure::not_sent)?;
    match lease.connection().call(request, epoch, deadline) {
        Ok(value) => {
            if ExpectedEnd::Any.is_met_by(&value) {
                lease.release(deadline.start);
            }
            Ok(value)
        }
        Err(error) => {
            lease.discard(&error.cause);
            Err(Failure {
                cause: error.cause,
                // One request: either it may have been sent or not.
                sent: usize::from(error.sent == Delivery::MaybeSent),
            })
        }
    }
}
