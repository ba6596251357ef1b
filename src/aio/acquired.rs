//! The connection of one request.

use std::sync::Arc;

use crate::aio::exclusive_pool::Lease;
use crate::aio::multiplexed::MultiplexedConnection;
use crate::plan::Cause;

/// A connection to send one request on.
pub(super) enum Acquired {
    /// Used by many tasks at once; never closed by one of them.
    Shared(Arc<MultiplexedConnection>),
    /// Used by this request only.
    Exclusive(Lease),
}

impl Acquired {
    /// The connection.
    pub(super) fn connection(&self) -> &MultiplexedConnection {
        match self {
            Self::Shared(connection) => connection,
            Self::Exclusive(lease) => &lease.connection,
        }
    }

    /// Gives it back: all replies have come.
    pub(super) fn release(self) {
        if let Self::Exclusive(lease) = self {
            lease.release();
        }
    }

    /// Gives it up: not all replies have come. A shared connection discards late replies by itself.
    pub(super) fn discard(self, cause: &Cause) {
        if let Self::Exclusive(lease) = self {
            lease.discard(cause);
        }
    }
}
