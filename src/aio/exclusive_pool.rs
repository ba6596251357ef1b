//! Connections for one user at a time: blocking commands, transactions, dedicated connections.
//!
//! A blocking command would hold up every request behind it on a shared connection, and WATCH and MULTI are
//! state that belongs to one user. A [`Lease`] therefore has a connection to itself. A semaphore bounds the
//! number of leases, not of connections: an idle connection has no permit, and there are never more idle ones
//! than `size`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::aio::connector::Connector;
use crate::aio::multiplexed::MultiplexedConnection;
use crate::config::PROBE_AFTER;
use crate::endpoint::Deadline;
#[cfg(feature = "proxy")]
use crate::observe::NodeObserver;
use crate::observe::{ConnectionInUse, PoolHealth, PoolKind, PoolWait};
use crate::plan::{Cause, PoolUse};
use crate::policy::{ConnectError, HandshakeScope};

/// A bounded number of connections to one node, each lent to one user at a time.
pub(crate) struct ExclusivePool {
    /// How connections are made; also holds the node's backoff.
    pub(crate) connector: Connector,
    /// Maximum number of idle connections that are kept.
    size: usize,
    /// Maximum number of leases at a time.
    users: usize,
    /// One permit per lease. Fair: waiting users are served in their order.
    permits: Arc<Semaphore>,
    /// Number of users that wait for a permit.
    waiting: AtomicUsize,
    /// Idle connections, and since when; the most recently used is the last.
    idle: Mutex<Vec<(MultiplexedConnection, Instant)>>,
    /// True once no idle connections are kept any more. Written under the lock of `idle`.
    is_retired: AtomicBool,
}

/// A connection on loan. Closed when dropped, unless it is [released](Self::release).
pub(crate) struct Lease {
    pool: Arc<ExclusivePool>,
    /// The connection. Its driver closes it as soon as this handle is dropped, so an abandoned BLPOP is
    /// cancelled on the server.
    pub(crate) connection: MultiplexedConnection,
    /// False if its handshake was made for one request only.
    is_reusable: bool,
    /// Counts the lease.
    _in_use: ConnectionInUse,
    /// Declared last, so that the connection is closed before the next user is admitted.
    _permit: OwnedSemaphorePermit,
}

impl ExclusivePool {
    /// A pool for at most `users` leases at a time.
    pub(crate) fn new(connector: Connector, size: usize, users: usize) -> Self {
        let users = users.min(Semaphore::MAX_PERMITS);
        Self {
            connector,
            size,
            users,
            permits: Arc::new(Semaphore::new(users)),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
            is_retired: AtomicBool::new(false),
        }
    }

    /// Waits for a permit, then returns an idle connection or makes one. Dropping the future gives up its
    /// place in the queue.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        scope: HandshakeScope,
        deadline: Deadline,
    ) -> Result<Lease, Cause> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.wait_for_permit(deadline).await?,
        };
        let (connection, is_reusable) = match self.reusable(deadline).await {
            Some(connection) => (connection, true),
            None => {
                let connection = self.connect(scope, deadline).await?;
                (connection, scope == HandshakeScope::Full)
            }
        };
        Ok(Lease {
            is_reusable,
            pool: Arc::clone(self),
            connection,
            _in_use: ConnectionInUse::new(self.connector.observer(), PoolKind::Exclusive),
            _permit: permit,
        })
    }

    /// Waits for a permit in the order of the users.
    async fn wait_for_permit(&self, deadline: Deadline) -> Result<OwnedSemaphorePermit, Cause> {
        let _waiting = Waiting::new(self);
        let _reported = PoolWait::new(self.connector.observer(), PoolKind::Exclusive);
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = match deadline.end() {
            None => permit.await,
            Some(end) => match tokio::time::timeout_at(end.into(), permit).await {
                Ok(permit) => permit,
                Err(_) => {
                    let address = &self.connector.address;
                    return Err(Cause::pool_exhausted(address, PoolUse::Exclusive));
                }
            },
        };
        // The semaphore is never closed; this only satisfies its type.
        permit.map_err(|_| Cause::Connect("the client was closed".into()))
    }

    /// The number of connections, and of users that wait for one.
    pub(crate) fn health(&self) -> PoolHealth {
        let in_use = self.users - self.permits.available_permits().min(self.users);
        let idle = self.idle.lock();
        let open = idle.iter().filter(|(idle, _)| !idle.is_closed()).count();
        drop(idle);
        PoolHealth {
            open: in_use + open,
            in_use,
            idle: open,
            waiting: self.waiting.load(Ordering::Relaxed),
            max: self.users,
        }
    }

    /// Returns an idle connection that still works. One that has been idle for a while is checked first: if
    /// the runtime has not been polled since, the driver has not noticed that the server closed it.
    async fn reusable(&self, deadline: Deadline) -> Option<MultiplexedConnection> {
        while let Some((connection, since)) = self.take_idle() {
            if since.elapsed() < PROBE_AFTER || !connection.is_stale().await {
                // One that cannot be renewed is closed; a new one shows why.
                match self.renew(&connection, deadline).await {
                    Ok(()) => {
                        self.connector.acknowledge(&connection);
                        return Some(connection);
                    }
                    Err(_) => continue,
                }
            }
            // A server that closed this one has probably closed the others, but each is checked for itself.
        }
        None
    }

    /// Presents the current credentials and the name of the client on a connection, if they have changed.
    /// After an error the connection must not be used.
    async fn renew(
        &self,
        connection: &MultiplexedConnection,
        deadline: Deadline,
    ) -> Result<(), ConnectError> {
        if !self.connector.is_renewal_due(connection) {
            return Ok(());
        }
        let limit = deadline.within(self.connector.timeout);
        // Boxed, as it is rare and would be part of the future of every lease.
        Box::pin(self.connector.renew(connection, limit)).await
    }

    /// Takes the most recently used connection that this runtime can rely on.
    fn take_idle(&self) -> Option<(MultiplexedConnection, Instant)> {
        let mut idle = self.idle.lock();
        // Closed connections go, whichever runtime they live on, and those that lead to a former primary.
        idle.retain(|(connection, _)| !connection.is_closed() && !connection.is_outdated());
        // A connection of a current-thread runtime other than this one may never be driven again: it is left
        // for its own runtime.
        let at = idle
            .iter()
            .rposition(|(connection, _)| !connection.is_on_foreign_runtime())?;
        Some(idle.remove(at))
    }

    /// Has the idle connections present the record that the client goes by now.
    pub(super) fn acknowledge_idle(&self) {
        for (connection, _) in &*self.idle.lock() {
            self.connector.acknowledge(connection);
        }
    }

    /// Closes the idle connections, and each other one when it comes back: the node has left the topology, or is
    /// reached otherwise. Leases are not disturbed.
    pub(super) fn retire(&self) {
        let mut idle = self.idle.lock();
        self.is_retired.store(true, Ordering::Relaxed);
        let closed = std::mem::take(&mut *idle);
        // Dropped outside of the lock: closing a connection wakes its driver.
        drop(idle);
        drop(closed);
    }

    /// Closes all idle connections. Called when a connection broke: the others go to the same server, which
    /// has probably restarted, and a write sent on one of them would have an unknown outcome.
    fn discard_all_idle(&self) {
        // Dropped outside of the lock: closing a connection wakes its driver.
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
    }

    /// Makes a connection. While the node is known to be down, one request at a time tries, and all others
    /// fail at once.
    async fn connect(
        &self,
        scope: HandshakeScope,
        deadline: Deadline,
    ) -> Result<MultiplexedConnection, Cause> {
        let connector = &self.connector;
        let attempt = connector.backoff.try_begin(connector.timeout, scope)?;
        let connect = connector.connect(PoolKind::Exclusive, scope, || ());
        let allotted = deadline.within(connector.timeout);
        let made = match deadline.end() {
            None => connect.await,
            Some(end) => match tokio::time::timeout_at(end.into(), connect).await {
                Ok(made) => made,
                // The attempt is dropped without an outcome.
                Err(_) if allotted.is_short(&deadline, connector.timeout) => {
                    return Err(Cause::no_connection_in_time(&connector.address));
                }
                Err(_) => Err(connector.timed_out()),
            },
        };
        attempt
            .end(made)
            .map_err(|reason| match deadline.is_over() {
                true => Cause::no_connection_in_time(&connector.address),
                false => reason.into(),
            })
    }
}

/// A user that waits for a permit. Counted until it is dropped, also with its future.
struct Waiting<'p>(&'p ExclusivePool);

impl<'p> Waiting<'p> {
    fn new(pool: &'p ExclusivePool) -> Self {
        pool.waiting.fetch_add(1, Ordering::Relaxed);
        Self(pool)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// The observer of the node.
    #[cfg(feature = "proxy")]
    pub(crate) fn observer(&self) -> &Arc<NodeObserver> {
        self.pool.connector.observer()
    }

    /// Returns a connection on which no reply is owed.
    pub(crate) fn release(self) {
        if !self.is_reusable || self.connection.is_closed() || self.connection.is_outdated() {
            return;
        }
        let mut idle = self.pool.idle.lock();
        // Before it is idle: the record may have changed during the lease, and whoever has changed it waits. Under the
        // lock, as `acknowledge_idle` would miss a connection that becomes idle behind it.
        self.pool.connector.acknowledge(&self.connection);
        // Nobody will need it again.
        if self.pool.is_retired.load(Ordering::Relaxed) {
            return;
        }
        // Drops the least recently used one, which may live on a runtime that is no longer run and then be of
        // no use.
        let oldest = match idle.len() >= self.pool.size {
            true => Some(idle.remove(0)),
            false => None,
        };
        idle.push((self.connection, Instant::now()));
        drop(idle);
        // After the lock, as above.
        drop(oldest);
    }

    /// Presents the current credentials, the name of the client and the record, if they have changed. After an error the
    /// connection must not be used.
    pub(crate) async fn renew(&self, deadline: Deadline) -> Result<(), Cause> {
        let renewed = self.pool.renew(&self.connection, deadline).await;
        self.pool.connector.acknowledge(&self.connection);
        renewed.map_err(Cause::from)
    }

    /// Closes a connection that failed, unless it has refused a request. If it broke, the idle ones are closed as well; after a mere timeout
    /// the others are fine.
    pub(crate) fn discard(self, cause: &Cause) {
        if cause.keeps_connection() {
            return self.release();
        }
        if let Cause::Dropped(_) = cause {
            self.pool.discard_all_idle();
        }
    }
}

impl fmt::Debug for ExclusivePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExclusivePool")
            .field("size", &self.size)
            .field("idle", &self.idle.lock().len())
            .finish_non_exhaustive()
    }
}
