//! How often an optimistic transaction is tried.

use redis::RedisError;

/// So often a transaction is tried before it gives up.
pub const TRANSACTION_ATTEMPTS_MAX: u32 = 10_000;

/// The error of one that gave up.
pub(crate) fn attempts_exhausted() -> RedisError {
    redis::make_extension_error(
        "ATTEMPTS".into(),
        Some(format!(
            "the watched keys changed during each of {TRANSACTION_ATTEMPTS_MAX} attempts; give the transaction fewer \
             keys or fewer competitors"
        )),
    )
}
