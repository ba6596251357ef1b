//! How often an optimistic transaction is tried.

use crate::error::{Error, ErrorKind};

/// Maximum number of attempts of a transaction.
pub const TRANSACTION_ATTEMPTS_MAX: u32 = 10_000;

/// The error of a transaction over `keys` at `node` that was tried in vain that often.
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
