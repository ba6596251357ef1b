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
    /// Reports that a connection of `pool` was made and, when dropped, that it has ended.
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

/// A connection that is lent to a user. Dropped when it is given back or closed.
#[cfg(feature = "tokio-comp")]
#[derive(Debug)]
pub(crate) struct ConnectionInUse {
    observer: Arc<NodeObserver>,
    pool: PoolKind,
}

#[cfg(feature = "tokio-comp")]
impl ConnectionInUse {
    /// Reports that a connection of `pool` is lent and, when dropped, that it was given back.
    pub(crate) fn new(observer: &Arc<NodeObserver>, pool: PoolKind) -> Self {
        observer.lent(pool);
        Self {
            observer: Arc::clone(observer),
            pool,
        }
    }
}

#[cfg(feature = "tokio-comp")]
impl Drop for ConnectionInUse {
    fn drop(&mut self) {
        self.observer.given_back(self.pool);
    }
}

/// A request that waits for a connection of a pool.
#[derive(Debug)]
pub(crate) struct PoolWait<'o> {
    observer: &'o NodeObserver,
    pool: PoolKind,
}

impl<'o> PoolWait<'o> {
    /// Reports that a request waits and, when dropped, that it no longer does.
    pub(crate) fn new(observer: &'o NodeObserver, pool: PoolKind) -> Self {
        observer.waits(pool);
        Self { observer, pool }
    }
}

impl Drop for PoolWait<'_> {
    fn drop(&mut self) {
        self.observer.waited(self.pool);
    }
}
