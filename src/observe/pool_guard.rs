//! Guards that report the beginning and the end of something to the observer, also when a future is dropped
//! or a thread panics.

use std::sync::Arc;

use crate::observe::{NodeObserver, PoolKind};

/// An open connection for commands. Kept by whatever owns the socket, and dropped with it, outside of every
/// lock.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    observer: Arc<NodeObserver>,
    pool: PoolKind,
}

impl OpenConnection {
    /// Reports that a connection of `pool` was made, and when dropped, that it has ended.
    pub(crate) fn new(observer: &Arc<NodeObserver>, pool: PoolKind) -> Self {
        observer.opened(pool);
        Self {
            observer: Arc::clone(observer),
            pool,
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.observer.closed(self.pool);
    }
}
