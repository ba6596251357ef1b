//! The number of attempts of an optimistic transaction (WATCH, reads, MULTI ... EXEC).

use crate::error::{Error, ErrorKind};

/// Maximum number of attempts of a transaction.
///
/// EXEC that returns nil, because a watched key changed, is followed by another attempt. Without a limit,
/// keys that other clients write to all the time would keep a transaction running forever.
pub const TRANSACTION_ATTEMPTS_MAX: u32 = 10_000;

/// Error for a transaction over `keys` on `node` after [`TRANSACTION_ATTEMPTS_MAX`] failed attempts.
pub(crate) fn attempts_exhausted<'k>(
    node: &str,
    keys: impl IntoIterator<Item = &'k [u8]>,
) -> Error {
    let text = format!(
        "node {node}: the watched keys changed during each of {TRANSACTION_ATTEMPTS_MAX} attempts, so nothing was \
         changed; watch fewer keys, or let fewer clients write to them"
    );
    Error::new(ErrorKind::Attempts, text)
        .at_node(node)
        .about_keys(keys)
}
